//! Settings of a chunkserver. Files, environment and flags are the command's affair; here they are typed already.
use crate::limits::CHAIN_PLACES;
use cairn_types::limits::FRAME_PAYLOAD_BYTES_MAX;
use std::net::SocketAddr;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq)]
pub struct ChunkserverConfig {
    /// Where the data plane listens. Port 0: any free one.
    pub listen: SocketAddr,
    /// Where clients and other servers reach the data plane, `host:port`. None: where it listens, which then must be
    /// an address that means the same to others (not 0.0.0.0).
    pub advertise: Option<String>,
    /// Where the gRPC health service listens; none: nowhere. It says SERVING while registered.
    pub health_listen: Option<SocketAddr>,
    /// The master's `host:port`.
    pub master: String,
    /// zone/rack/host, or less; for placement.
    pub label: String,
    /// Share of each disk that new chunks leave free, in thousandths.
    pub reserve_permille: u32,
    /// File descriptors kept open for chunks, a disk: most of them for what is not synced yet.
    pub open_files_max: usize,
    /// The head of a chain waits this long for an acknowledgement before it calls the chain broken; members further
    /// down proportionally less, so that the one next to the silent member tells.
    pub chain_deadline: Duration,
    /// The same for a sync, which waits for disks.
    pub sync_deadline: Duration,
    /// Bytes of all frames in flight, in five equal parts: answers to reads; writes for which this server is the head, the
    /// second, the third of the chain; and all that are further down. A place never waits for one above it.
    pub frame_memory_bytes: usize,
    /// The idle scrub reads at most this many bytes a second; 0: no idle scrub. A scrub that was asked for knows no
    /// limit.
    pub scrub_bytes_per_second: u64,
    /// Shutdown waits this long for what is in flight.
    pub shutdown_deadline: Duration,
}

impl Default for ChunkserverConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7610)),
            advertise: None,
            health_listen: Some(SocketAddr::from(([127, 0, 0, 1], 7620))),
            master: "127.0.0.1:7600".into(),
            label: String::new(),
            reserve_permille: 10,
            open_files_max: 32_768,
            chain_deadline: Duration::from_secs(5),
            sync_deadline: Duration::from_secs(30),
            frame_memory_bytes: 160 << 20,
            scrub_bytes_per_second: 8 << 20,
            shutdown_deadline: Duration::from_secs(10),
        }
    }
}

/// Places of a chain that have a part of the memory for frames to themselves.
const PLACES_APART: usize = 3;
/// With the answers to reads, and the places further down.
const FRAME_MEMORY_PARTS: usize = PLACES_APART + 2;
/// Smallest `frame_memory_bytes`: two of the largest frames for each place.
pub(crate) const FRAME_MEMORY_BYTES_MIN: usize =
    2 * FRAME_PAYLOAD_BYTES_MAX * (CHAIN_PLACES - PLACES_APART) * FRAME_MEMORY_PARTS;

impl ChunkserverConfig {
    /// Of the memory for frames, what answers to reads may take.
    pub(crate) fn read_room_bytes(&self) -> usize {
        self.frame_memory_bytes / FRAME_MEMORY_PARTS
    }

    /// Of the memory for frames, what writes may take for which this server is at `place` of the chain, from 0.
    pub(crate) fn write_room_bytes(&self, place: usize) -> usize {
        let part = self.frame_memory_bytes / FRAME_MEMORY_PARTS;
        match place < PLACES_APART {
            true => part,
            false => part / (CHAIN_PLACES - PLACES_APART),
        }
    }

    /// # Errors
    /// Which setting is wrong, and why.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.frame_memory_bytes < FRAME_MEMORY_BYTES_MIN {
            return Err(format!("frame-memory is less than {FRAME_MEMORY_BYTES_MIN} bytes"));
        }
        if self.reserve_permille >= 1000 {
            return Err("reserve leaves nothing of the disk".into());
        }
        if self.advertise.is_none() && self.listen.ip().is_unspecified() {
            return Err(format!(
                "listen is {}, which means nothing to others: set advertise to the host:port where clients reach this \
                 server",
                self.listen
            ));
        }
        for (name, wait) in [
            ("chain-deadline", self.chain_deadline),
            ("sync-deadline", self.sync_deadline),
        ] {
            if wait.is_zero() {
                return Err(format!("{name} is zero"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unspecified_address_needs_an_advertised_one() {
        let mut config = ChunkserverConfig {
            listen: SocketAddr::from(([0, 0, 0, 0], 7610)),
            ..Default::default()
        };
        assert!(config.check().unwrap_err().contains("set advertise"));
        config.advertise = Some("server-1:7610".into());
        assert_eq!(config.check(), Ok(()));
        assert_eq!(ChunkserverConfig::default().check(), Ok(()));
    }

    #[test]
    fn settings_that_cannot_work_are_named() {
        let little = ChunkserverConfig {
            frame_memory_bytes: 1,
            ..Default::default()
        };
        assert!(little.check().unwrap_err().contains("frame-memory"));
        let full = ChunkserverConfig {
            reserve_permille: 1000,
            ..Default::default()
        };
        assert!(full.check().unwrap_err().contains("reserve"));
        let never = ChunkserverConfig {
            chain_deadline: Duration::ZERO,
            ..Default::default()
        };
        assert!(never.check().unwrap_err().contains("chain-deadline"));
    }
}
