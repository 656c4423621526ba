//! The inventory index: every chunk's status, so that a start after an orderly stop need not open every chunk file.
//!
//! It holds nothing that cannot be rebuilt, and it is believed only when an orderly stop left a digest of it
//! ([`digest`]) that still matches; otherwise it is wiped and filled from the headers. sled's flush is not safe against
//! power loss, and nothing here needs it to be.
use super::format::{State, Status, get_u64, get_uuid, put};
use cairn_types::{ChunkHandle, Version};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The index cannot be used. There is one cure for every cause: wipe and rescan.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    #[error("the index cannot be opened, read or written: {0}")]
    Backend(#[from] sled::Error),
    #[error("the index cannot be wiped: {0}")]
    Wipe(#[from] std::io::Error),
    #[error("sled panicked when it opened the index")]
    Panicked,
    #[error("an entry of the index makes no sense")]
    Entry,
}

type Result<T> = std::result::Result<T, IndexError>;

pub trait Index: Send + Sync + 'static {
    fn get(&self, handle: ChunkHandle) -> Result<Option<Status>>;
    fn put(&self, handle: ChunkHandle, status: &Status) -> Result<()>;
    fn remove(&self, handle: ChunkHandle) -> Result<()>;
    /// Every entry in the order of the handles.
    fn iterate(&self, each: &mut dyn FnMut(ChunkHandle, Status)) -> Result<()>;
    /// Hands everything to the operating system.
    fn flush(&self) -> Result<()>;
    fn clear(&self) -> Result<()>;
}

const ENTRY_BYTES: usize = 64;
const ENTRY_FORMAT: u8 = 1;

fn encode(status: &Status) -> [u8; ENTRY_BYTES] {
    let mut bytes = [0; ENTRY_BYTES];
    bytes[0] = ENTRY_FORMAT;
    bytes[1] = status.state.code();
    bytes[2] = u8::from(status.clean);
    bytes[3] = u8::from(status.suspect);
    put(&mut bytes, 8, &status.version.epoch.to_le_bytes());
    put(&mut bytes, 16, &status.version.counter.to_le_bytes());
    put(&mut bytes, 24, &status.length.to_le_bytes());
    put(&mut bytes, 32, &status.mark.to_le_bytes());
    put(&mut bytes, 40, status.boot.as_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Result<Status> {
    if bytes.len() != ENTRY_BYTES || bytes[0] != ENTRY_FORMAT {
        return Err(IndexError::Entry);
    }
    Ok(Status {
        version: Version::new(get_u64(bytes, 8), get_u64(bytes, 16)),
        state: State::from_code(bytes[1]).ok_or(IndexError::Entry)?,
        length: get_u64(bytes, 24),
        clean: bytes[2] != 0,
        mark: get_u64(bytes, 32),
        suspect: bytes[3] != 0,
        boot: get_uuid(bytes, 40),
    })
}

/// A checksum over a set of entries that does not depend on their order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Digest {
    pub count: u64,
    pub sum: u64,
}

impl Digest {
    pub fn add(&mut self, handle: ChunkHandle, status: &Status) {
        // a hash of the entry's words (multiply and fold); sums of hashes need no order
        let mut hash = handle.0;
        for word in encode(status).as_chunks::<8>().0 {
            hash = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            hash ^= hash >> 32;
        }
        self.count += 1;
        self.sum = self.sum.wrapping_add(hash);
    }
}

/// In memory: for simulation, where sled's threads would break determinism, and for disks that are not directories.
#[derive(Default)]
pub struct MemoryIndex(Mutex<BTreeMap<ChunkHandle, Status>>);

impl MemoryIndex {
    fn map(&self) -> MutexGuard<'_, BTreeMap<ChunkHandle, Status>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index for MemoryIndex {
    fn get(&self, handle: ChunkHandle) -> Result<Option<Status>> {
        Ok(self.map().get(&handle).copied())
    }
    fn put(&self, handle: ChunkHandle, status: &Status) -> Result<()> {
        self.map().insert(handle, *status);
        Ok(())
    }
    fn remove(&self, handle: ChunkHandle) -> Result<()> {
        self.map().remove(&handle);
        Ok(())
    }
    fn iterate(&self, each: &mut dyn FnMut(ChunkHandle, Status)) -> Result<()> {
        self.map().iter().for_each(|(handle, status)| each(*handle, *status));
        Ok(())
    }
    fn flush(&self) -> Result<()> {
        Ok(())
    }
    fn clear(&self) -> Result<()> {
        self.map().clear();
        Ok(())
    }
}

/// On disk, in a directory of sled's own.
pub struct SledIndex {
    db: sled::Db,
}

impl SledIndex {
    /// Opens or creates it.
    ///
    /// # Errors
    /// Whatever keeps sled from opening, a panic of it too.
    pub fn open(path: &Path) -> Result<Self> {
        let path = path.to_owned();
        // sled 0.34 asserts its way through some damaged files
        let db = std::panic::catch_unwind(move || {
            sled::Config::new()
                .path(path)
                .cache_capacity(16 << 20)
                .mode(sled::Mode::LowSpace)
                .open()
        })
        .map_err(|_| IndexError::Panicked)??;
        Ok(Self { db })
    }

    /// Opens it; one that cannot be opened is wiped first.
    ///
    /// # Errors
    /// If even an empty one cannot be made.
    pub fn open_or_wipe(path: &Path) -> Result<Self> {
        match Self::open(path) {
            Ok(index) => Ok(index),
            Err(e) => {
                tracing::warn!(path = %path.display(), error = %e, "the chunk index is wiped and built anew");
                wipe(path)?;
                Self::open(path)
            }
        }
    }
}

/// sled needs a real directory, so this is the one place of the store that is not behind `Disk`.
fn wipe(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => {
            #[expect(clippy::disallowed_methods, reason = "a file where sled's directory should be")]
            std::fs::remove_file(path)?;
            Ok(())
        }
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
        _ => Ok(()),
    }
}

impl Index for SledIndex {
    fn get(&self, handle: ChunkHandle) -> Result<Option<Status>> {
        self.db.get(handle.0.to_be_bytes())?.map(|v| decode(&v)).transpose()
    }
    fn put(&self, handle: ChunkHandle, status: &Status) -> Result<()> {
        self.db.insert(handle.0.to_be_bytes(), &encode(status)[..])?;
        Ok(())
    }
    fn remove(&self, handle: ChunkHandle) -> Result<()> {
        self.db.remove(handle.0.to_be_bytes())?;
        Ok(())
    }
    fn iterate(&self, each: &mut dyn FnMut(ChunkHandle, Status)) -> Result<()> {
        for entry in self.db.iter() {
            let (key, value) = entry?;
            let key: [u8; 8] = key.as_ref().try_into().map_err(|_| IndexError::Entry)?;
            each(ChunkHandle(u64::from_be_bytes(key)), decode(&value)?);
        }
        Ok(())
    }
    fn flush(&self) -> Result<()> {
        self.db.flush()?;
        Ok(())
    }
    fn clear(&self) -> Result<()> {
        self.db.clear()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn status(n: u64) -> Status {
        Status {
            version: Version::new(n, n + 1),
            state: State::Installed,
            length: n * 100,
            clean: n.is_multiple_of(2),
            mark: n,
            suspect: n.is_multiple_of(3),
            boot: Uuid::from_u128(u128::from(n)),
        }
    }

    /// What every index must do.
    fn conforms(index: &dyn Index) {
        let all = || {
            let mut all = vec![];
            index.iterate(&mut |h, s| all.push((h.0, s))).unwrap();
            all
        };
        assert!(all().is_empty());
        assert_eq!(index.get(ChunkHandle(1)).unwrap(), None);
        for n in [3, 1, 256, u64::MAX / 200] {
            index.put(ChunkHandle(n), &status(n)).unwrap();
        }
        assert_eq!(index.get(ChunkHandle(256)).unwrap(), Some(status(256)));
        let expected: Vec<_> = [1, 3, 256, u64::MAX / 200].map(|n| (n, status(n))).into();
        assert_eq!(all(), expected);
        index.put(ChunkHandle(3), &status(4)).unwrap();
        assert_eq!(index.get(ChunkHandle(3)).unwrap(), Some(status(4)));
        index.remove(ChunkHandle(3)).unwrap();
        index.remove(ChunkHandle(77)).unwrap();
        assert_eq!(index.get(ChunkHandle(3)).unwrap(), None);
        index.flush().unwrap();
        index.clear().unwrap();
        assert!(all().is_empty());
    }

    #[test]
    fn memory_conforms() {
        conforms(&MemoryIndex::default());
    }

    #[test]
    fn sled_conforms_and_keeps_what_was_flushed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let index = SledIndex::open(&path).unwrap();
        conforms(&index);
        index.put(ChunkHandle(9), &status(9)).unwrap();
        index.flush().unwrap();
        drop(index);
        let index = SledIndex::open(&path).unwrap();
        assert_eq!(index.get(ChunkHandle(9)).unwrap(), Some(status(9)));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "breaks a real file")]
    fn a_broken_sled_is_wiped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        std::fs::write(&path, b"not a directory").unwrap();
        let index = SledIndex::open_or_wipe(&path).unwrap();
        conforms(&index);
        drop(index);
        for entry in std::fs::read_dir(&path).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                std::fs::write(path, vec![0xff; 4096]).unwrap();
            }
        }
        let index = SledIndex::open_or_wipe(&path).unwrap();
        let mut entries = 0;
        let read = index.iterate(&mut |_, _| entries += 1);
        assert!(read.is_err() || entries == 0);
    }

    #[test]
    fn the_digest_sees_every_change_and_no_order() {
        let digest = |entries: &[(u64, u64)]| {
            let mut d = Digest::default();
            entries.iter().for_each(|&(h, s)| d.add(ChunkHandle(h), &status(s)));
            d
        };
        assert_eq!(digest(&[(1, 1), (2, 2)]), digest(&[(2, 2), (1, 1)]));
        for other in [&[(1, 1)][..], &[(1, 2), (2, 1)], &[(1, 1), (3, 2)], &[]] {
            assert_ne!(digest(&[(1, 1), (2, 2)]), digest(other));
        }
    }
}
