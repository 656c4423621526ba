//! Settings of a master. Every one has a default; unknown keys are errors.
use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// A setting that makes no sense, with what would.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value}: {why}")]
pub struct InvalidConfig {
    pub key: &'static str,
    pub value: String,
    pub why: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MasterConfig {
    /// Where gRPC is served: sessions, chunkservers, administration, health. Loopback unless told otherwise.
    pub listen: SocketAddr,
    /// Replicas wanted of each chunk where neither the file nor its directory says: 1 to 8. Counts when the cluster is
    /// founded and, for files without a goal of their own, whenever a master starts with another value.
    pub default_goal: u8,
    /// Current replicas without which a chunk is not written: at most this many are asked of a chunk whose goal is
    /// lower (min(min_replicas, goal)).
    pub min_replicas: u8,
    /// L of protocol R6, in milliseconds: how long a chunkserver answers reads after its last heartbeat.
    pub lease_ms: u32,
    /// How often a chunkserver sends a heartbeat, in milliseconds; at most a third of the lease.
    pub heartbeat_ms: u32,
    /// After a chunkserver is detected as lost, how long repair waits before it copies its chunks elsewhere, in
    /// milliseconds. A chunk with one replica left does not wait.
    pub repair_delay_ms: u64,
    /// Reconfigurations and copies that run at once, over the cluster.
    pub repairs_max: u32,
    /// Of these, how many one chunkserver takes part in as the target of a copy.
    pub repairs_per_server_max: u32,
    /// Bytes a second that one copy for repair may take; 0: no limit.
    pub repair_bytes_per_second: u64,
    /// How long a replica must have been garbage before its deletion is ordered, in milliseconds.
    pub gc_grace_ms: u64,
    /// How long deleted files are kept in the trash, in milliseconds; 0: there is no trash.
    pub trash_keep_ms: u64,
    /// A session that is silent for so long ends, in milliseconds: what it had open and unlinked is freed, the chunks
    /// that it could write are fenced.
    pub session_timeout_ms: u32,
    /// How long a call of a client may wait inside the master (for a writable chunk, say), in milliseconds.
    pub call_timeout_ms: u32,
    /// How long an order to a chunkserver may take before it counts as failed, in milliseconds; copies of whole chunks
    /// have ten times that.
    pub order_timeout_ms: u32,
    /// A starting master deletes and clones nothing before all chunkservers that the log knows have reported, or so
    /// many milliseconds have passed (safe mode, protocol R11).
    pub safe_mode_ms: u64,
    /// A checkpoint is taken after so many bytes of operation log.
    pub checkpoint_log_bytes: u64,
    /// Size at which a new segment of the operation log is begun, in bytes.
    pub log_segment_bytes: u64,
}

impl Default for MasterConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7600),
            default_goal: 3,
            min_replicas: 2,
            lease_ms: 5_000,
            heartbeat_ms: 1_000,
            repair_delay_ms: 30_000,
            repairs_max: 16,
            repairs_per_server_max: 4,
            repair_bytes_per_second: 0,
            gc_grace_ms: 15_000,
            trash_keep_ms: 24 * 3600 * 1000,
            session_timeout_ms: 60_000,
            call_timeout_ms: 50_000,
            order_timeout_ms: 10_000,
            safe_mode_ms: 30_000,
            checkpoint_log_bytes: 64 << 20,
            log_segment_bytes: 32 << 20,
        }
    }
}

impl MasterConfig {
    /// What is wrong with the settings, if anything.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        let bad = |key, value: String, why| Err(InvalidConfig { key, value, why });
        if !(1..=cairn_types::limits::GOAL_MAX).contains(&self.default_goal) {
            return bad("default_goal", self.default_goal.to_string(), "goals are from 1 to 8");
        }
        if self.min_replicas == 0 {
            return bad("min_replicas", "0".into(), "a chunk needs at least one replica");
        }
        if self.lease_ms < 100 {
            return bad("lease_ms", self.lease_ms.to_string(), "leases are at least 100 ms");
        }
        if self.heartbeat_ms == 0 || self.heartbeat_ms > self.lease_ms / 3 {
            let why = "must be above 0 and at most a third of lease_ms";
            return bad("heartbeat_ms", self.heartbeat_ms.to_string(), why);
        }
        for (key, value) in [
            ("repairs_max", u64::from(self.repairs_max)),
            ("repairs_per_server_max", self.repairs_per_server_max.into()),
            ("order_timeout_ms", self.order_timeout_ms.into()),
            ("call_timeout_ms", self.call_timeout_ms.into()),
        ] {
            if value == 0 {
                return bad(key, "0".into(), "must be above 0");
            }
        }
        if self.session_timeout_ms < 1_000 {
            return bad(
                "session_timeout_ms",
                self.session_timeout_ms.to_string(),
                "at least 1000",
            );
        }
        for (key, value) in [
            ("checkpoint_log_bytes", self.checkpoint_log_bytes),
            ("log_segment_bytes", self.log_segment_bytes),
        ] {
            if value < 4096 {
                return bad(key, value.to_string(), "at least 4096");
            }
        }
        Ok(())
    }

    pub(crate) fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms.into())
    }
    pub(crate) fn session_timeout(&self) -> Duration {
        Duration::from_millis(self.session_timeout_ms.into())
    }
    pub(crate) fn call_timeout(&self) -> Duration {
        Duration::from_millis(self.call_timeout_ms.into())
    }

    /// After that long a call is given up that may have been done.
    pub(crate) fn call_patience(&self) -> Duration {
        self.call_timeout() * 9 / 8
    }
    pub(crate) fn order_timeout(&self) -> Duration {
        Duration::from_millis(self.order_timeout_ms.into())
    }
    pub(crate) fn repair_delay(&self) -> Duration {
        Duration::from_millis(self.repair_delay_ms)
    }
    pub(crate) fn gc_grace(&self) -> Duration {
        Duration::from_millis(self.gc_grace_ms)
    }
    pub(crate) fn safe_mode(&self) -> Duration {
        Duration::from_millis(self.safe_mode_ms)
    }
    pub(crate) fn trash_keep_ns(&self) -> i64 {
        i64::try_from(u128::from(self.trash_keep_ms) * 1_000_000).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sound_and_unknown_keys_are_errors() {
        assert_eq!(MasterConfig::default().check(), Ok(()));
        let config: MasterConfig = serde_json::from_str(r#"{"default_goal": 2}"#).unwrap();
        assert_eq!(
            config,
            MasterConfig {
                default_goal: 2,
                ..MasterConfig::default()
            }
        );
        assert!(serde_json::from_str::<MasterConfig>(r#"{"default_gaol": 2}"#).is_err());
        for bad in [
            MasterConfig {
                default_goal: 9,
                ..MasterConfig::default()
            },
            MasterConfig {
                heartbeat_ms: 2_000,
                ..MasterConfig::default()
            },
            MasterConfig {
                min_replicas: 0,
                ..MasterConfig::default()
            },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
