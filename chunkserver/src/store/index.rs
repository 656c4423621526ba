//! The inventory index: every chunk's status, so that a start after an orderly stop need not open every chunk file.
//!
//! It is written by an orderly stop alone, and believed only if the [`Digest`] that this left still matches; otherwise all
//! headers are read. sled's flush is not safe against power loss, and nothing here needs it to be.
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
    /// Holds these entries from now on, which come in the order of their handles, and no others; hands all of it to the
    /// operating system.
    fn replace(&self, entries: &mut dyn Iterator<Item = (ChunkHandle, Status)>) -> Result<()>;
    /// Every entry in the order of the handles.
    fn iterate(&self, each: &mut dyn FnMut(ChunkHandle, Status)) -> Result<()>;
}

const HANDLE_BYTES: usize = 8;
const ENTRY_BYTES: usize = 64;
const ENTRY_FORMAT: u8 = 1;
/// Entries under one key of sled's, the handle of the first: what an insert costs is mostly not its bytes.
const ENTRIES_A_KEY: usize = 64;

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
    fn replace(&self, entries: &mut dyn Iterator<Item = (ChunkHandle, Status)>) -> Result<()> {
        *self.map() = entries.collect();
        Ok(())
    }
    fn iterate(&self, each: &mut dyn FnMut(ChunkHandle, Status)) -> Result<()> {
        self.map().iter().for_each(|(handle, status)| each(*handle, *status));
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
    fn replace(&self, entries: &mut dyn Iterator<Item = (ChunkHandle, Status)>) -> Result<()> {
        self.db.clear()?;
        let mut entries = entries.peekable();
        while let Some((first, _)) = entries.peek().copied() {
            let mut value = vec![];
            for (handle, status) in entries.by_ref().take(ENTRIES_A_KEY) {
                value.extend(handle.0.to_be_bytes());
                value.extend(encode(&status));
            }
            self.db.insert(first.0.to_be_bytes(), value)?;
        }
        self.db.flush()?;
        Ok(())
    }
    fn iterate(&self, each: &mut dyn FnMut(ChunkHandle, Status)) -> Result<()> {
        for entry in self.db.iter() {
            let (_, value) = entry?;
            let (entries, rest) = value.as_chunks::<{ HANDLE_BYTES + ENTRY_BYTES }>();
            if !rest.is_empty() {
                return Err(IndexError::Entry);
            }
            for entry in entries {
                let (handle, status) = entry.split_at(HANDLE_BYTES);
                let handle = u64::from_be_bytes(handle.try_into().map_err(|_| IndexError::Entry)?);
                each(ChunkHandle(handle), decode(status)?);
            }
        }
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

    fn entries(handles: &[u64]) -> Vec<(ChunkHandle, Status)> {
        handles.iter().map(|&n| (ChunkHandle(n), status(n))).collect()
    }

    fn all(index: &dyn Index) -> Vec<(ChunkHandle, Status)> {
        let mut all = vec![];
        index.iterate(&mut |h, s| all.push((h, s))).unwrap();
        all
    }

    /// What every index must do.
    fn conforms(index: &dyn Index) {
        let many: Vec<u64> = (0..1000).map(|n| n * n).collect();
        for handles in [
            &[][..],
            &[1, 3, 256, u64::MAX / 200],
            &many,
            &many[..ENTRIES_A_KEY],
            &[2],
            &[],
        ] {
            index.replace(&mut entries(handles).into_iter()).unwrap();
            assert_eq!(all(index), entries(handles));
        }
    }

    #[test]
    fn memory_conforms() {
        conforms(&MemoryIndex::default());
    }

    #[test]
    fn sled_conforms_and_keeps_what_it_was_given() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let index = SledIndex::open(&path).unwrap();
        conforms(&index);
        index.replace(&mut entries(&[7, 9]).into_iter()).unwrap();
        drop(index);
        assert_eq!(all(&SledIndex::open(&path).unwrap()), entries(&[7, 9]));
    }

    /// As versions before wrote it: each chunk under its own key.
    #[test]
    fn entries_of_another_form_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let index = SledIndex::open(dir.path()).unwrap();
        index.db.insert(9u64.to_be_bytes(), &encode(&status(9))[..]).unwrap();
        assert!(matches!(index.iterate(&mut |_, _| ()), Err(IndexError::Entry)));
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
        let mut found = 0;
        let read = index.iterate(&mut |_, _| found += 1);
        assert!(read.is_err() || found == 0);
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
