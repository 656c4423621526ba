//! Which names of chunk files are on stable storage: one sync of a directory covers every name that was made in it before.
use cairn_types::ChunkHandle;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// Of one directory: names made so far, and how many of them a sync has covered.
struct Directory {
    made: AtomicU64,
    synced: AtomicU64,
}

pub(super) struct Names([Directory; 256]);

/// Which of its directory's names a chunk's is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name(u64);

impl Name {
    /// Of a file that was there when the disk was opened, and may not be named durably.
    pub const FOUND: Name = Name(0);
}

impl Names {
    pub fn new() -> Self {
        let found = || Directory {
            made: AtomicU64::new(Name::FOUND.0 + 1),
            synced: AtomicU64::new(0),
        };
        Self(std::array::from_fn(|_| found()))
    }

    fn of(&self, handle: ChunkHandle) -> &Directory {
        &self.0[usize::from(handle.0 as u8)]
    }

    /// The chunk's file has just got its name.
    pub fn made(&self, handle: ChunkHandle) -> Name {
        Name(self.of(handle).made.fetch_add(1, Ordering::AcqRel))
    }

    pub fn is_synced(&self, handle: ChunkHandle, name: Name) -> bool {
        name.0 < self.of(handle).synced.load(Ordering::Acquire)
    }

    /// Every directory's names so far, for a sync of the whole disk that begins now: see [`Names::all_synced`].
    pub fn all_made(&self) -> [u64; 256] {
        std::array::from_fn(|directory| self.0[directory].made.load(Ordering::Acquire))
    }

    /// The disk was synced since they were `made`.
    pub fn all_synced(&self, made: [u64; 256]) {
        for (directory, made) in self.0.iter().zip(made) {
            directory.synced.fetch_max(made, Ordering::AcqRel);
        }
    }

    /// Syncs the directory of the chunk by `sync`: covers what was made before.
    pub fn sync(&self, handle: ChunkHandle, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let directory = self.of(handle);
        let made = directory.made.load(Ordering::Acquire);
        sync()?;
        directory.synced.fetch_max(made, Ordering::AcqRel);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_covers_what_was_made_before_it_in_its_directory_alone() {
        let names = Names::new();
        let (here, there) = (ChunkHandle(0x107), ChunkHandle(0x108));
        let before = names.made(here);
        let other = names.made(there);
        let mut during = None;
        names
            .sync(here, || {
                during = Some(names.made(here));
                Ok(())
            })
            .unwrap();
        assert!(names.is_synced(here, Name::FOUND) && names.is_synced(here, before));
        assert!(!names.is_synced(there, Name::FOUND) && !names.is_synced(there, other));
        assert!(!names.is_synced(here, during.unwrap()) && !names.is_synced(here, names.made(here)));
        assert!(names.sync(there, || Err(io::ErrorKind::Other.into())).is_err());
        assert!(!names.is_synced(there, other));
    }
}
