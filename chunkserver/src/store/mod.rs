//! The chunk store: chunks as self-describing, checksummed files on the disks of one server.
//!
//! A [`Store`] is a set of disks that fail alone. A [`DiskStore`] is one directory with a stamp that names its cluster,
//! server and disk. A [`Chunk`] is one replica: a header (version, state, length), a table of CRC32 per 64 KiB block,
//! and the data (docs/chunk-format.md). Everything blocks: call it through `Env::blocking`.
//!
//! What may be relied on:
//! * After a killed process every completed write is there and no block is falsely corrupt (write intents, `recover`).
//! * After a power loss everything that a completed `sync` covered is there. A chunk that may have lost unsynced writes
//!   comes back *suspect*, and no other does silently: either its header carries a durable clean mark that no record of
//!   the dirty log (`journal`) overrules, or it is suspect.
//! * A version never goes back; a chunk is created only above the disk's floor (`floor`, protocol R10).
//! * Bytes are returned only with checksums that were stored when they were written, or after a check against those.
//! * The index can be deleted at any time: all that it holds is rebuilt from the chunk files.
mod chunk;
mod crc;
mod disk;
mod error;
mod file;
mod floor;
mod format;
mod index;
mod journal;
mod make;
mod marks;
mod names;
mod read;
mod recover;
mod scrub;
mod stamp;
mod verified;

pub use chunk::{At, Chunk, ChunkInfo, Pieces, Table};
pub use disk::{DiskOptions, DiskState, DiskStore};
pub use error::{Damage, HeaderFault, OpenError, StoreError};
pub use format::{ChunkMeta, State, Status};
pub use index::{Index, IndexError, MemoryIndex, SledIndex};
pub use read::Stored;
pub use scrub::Verified;
pub use stamp::{Identity, Stamp};

use cairn_types::{ChunkHandle, DiskId};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

pub type Result<T> = std::result::Result<T, StoreError>;

/// For what stays whole whoever panics beside it.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The disks of one server. Cheap to clone.
#[derive(Clone, Default)]
pub struct Store {
    disks: Arc<RwLock<Vec<DiskStore>>>,
}

impl Store {
    pub fn new(disks: Vec<DiskStore>) -> Self {
        Self {
            disks: Arc::new(RwLock::new(disks)),
        }
    }

    /// All disks, failed ones too, in the order that they were given in.
    pub fn disks(&self) -> Vec<DiskStore> {
        self.disks.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds a disk, in place of the one with the same id if there is one.
    pub fn add(&self, disk: DiskStore) {
        let mut disks = self.disks.write().unwrap_or_else(PoisonError::into_inner);
        disks.retain(|d| d.id() != disk.id());
        disks.push(disk);
    }

    /// Forgets a disk; chunks of it that are in use elsewhere stay usable.
    pub fn remove(&self, id: DiskId) -> Option<DiskStore> {
        let mut disks = self.disks.write().unwrap_or_else(PoisonError::into_inner);
        let at = disks.iter().position(|d| d.id() == id)?;
        Some(disks.remove(at))
    }

    pub fn disk(&self, id: DiskId) -> Option<DiskStore> {
        let disks = self.disks.read().unwrap_or_else(PoisonError::into_inner);
        disks.iter().find(|d| d.id() == id).cloned()
    }

    /// The replica of a chunk on whichever disk has one: the highest version should two have it.
    pub fn find(&self, handle: ChunkHandle) -> Option<Chunk> {
        let disks = self.disks.read().unwrap_or_else(PoisonError::into_inner);
        let found = disks.iter().filter_map(|d| d.chunk(handle).ok());
        found.max_by_key(|c| c.info().version)
    }

    /// [`DiskStore::write_clean_marks`] on every disk; a disk's failure shows in its state.
    pub fn write_clean_marks(&self, idle: Duration) {
        for disk in self.disks() {
            // the disk has logged why, and says so in its state
            let _ = disk.write_clean_marks(idle);
        }
    }

    /// [`DiskStore::close`] on every disk.
    pub fn close(&self) {
        for disk in self.disks() {
            disk.close();
        }
    }
}

#[cfg(test)]
mod tests;
