//! One disk of the store.
use super::Result;
use super::chunk::{Chunk, ChunkInfo};
use super::error::OpenError;
use super::format::{ChunkMeta, State};
use cairn_io::{Clock, Disk, Space};
use cairn_types::{ChunkHandle, ClusterId, DiskId, ServerId, Version};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Who a disk belongs to, written once when it is formatted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub cluster: ClusterId,
    pub server: ServerId,
    pub disk: DiskId,
    /// Nanoseconds since 1970, for people.
    pub created: i64,
}

impl Stamp {
    /// The stamp of a formatted disk; none where there is no stamp file.
    ///
    /// # Errors
    /// `StampDamaged`, `NewerFormat`, `Io`.
    pub fn read(disk: &dyn Disk) -> std::result::Result<Option<Stamp>, OpenError> {
        let _ = disk;
        todo!()
    }
}

/// Whose disk is expected, and who says so (the path of another disk, the configuration, the master's address): a
/// mismatch names both. What is not known yet is not checked.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    pub cluster: Option<ClusterId>,
    pub server: Option<ServerId>,
    pub told_by: String,
}

#[derive(Debug, Clone)]
pub struct DiskOptions {
    /// Share of the disk that new chunks leave free, in thousandths; 10 is 1 %.
    pub reserve_permille: u32,
    /// File descriptors kept open; as many again may be open for chunks with unsynced writes.
    pub open_files_max: usize,
    /// Directory of the sled index; none keeps the index in memory, and every start scans the headers.
    pub index_path: Option<PathBuf>,
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self {
            reserve_permille: 10,
            open_files_max: 256,
            index_path: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskState {
    Healthy,
    /// Reads go on.
    ReadOnly,
    /// Nothing goes on until it is opened anew.
    Failed,
}

/// One disk. Cheap to clone. The directory is locked until the last clone and the last [`Chunk`] of it are dropped;
/// dropped without [`DiskStore::close`] it is as if the process had been killed.
#[derive(Clone)]
pub struct DiskStore(pub(super) Arc<Inner>);

pub(super) struct Inner {}

impl DiskStore {
    /// Stamps an empty directory (`lost+found` is allowed, and what an earlier format left that did not finish).
    ///
    /// # Errors
    /// `NotEmpty`, `AlreadyFormatted`, `InUse`, `Io`.
    pub fn format(disk: &dyn Disk, stamp: &Stamp) -> std::result::Result<(), OpenError> {
        let _ = (disk, stamp);
        todo!()
    }

    /// Opens a formatted disk: repairs what a killed process left half done, and finds out which chunks are suspect.
    ///
    /// # Errors
    /// See [`OpenError`]. A bad chunk is no error: it is there as damaged.
    pub fn open(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        expected: &Identity,
        options: DiskOptions,
    ) -> std::result::Result<Self, OpenError> {
        let _ = (disk, clock, expected, options);
        todo!()
    }

    pub fn id(&self) -> DiskId {
        todo!()
    }
    pub fn stamp(&self) -> Stamp {
        todo!()
    }
    /// The directory, for people.
    pub fn path(&self) -> String {
        todo!()
    }
    pub fn state(&self) -> DiskState {
        todo!()
    }
    /// What the disk has in all and what new chunks may still take: the reserve is taken off.
    ///
    /// # Errors
    /// `DiskFailed`.
    pub fn space(&self) -> Result<Space> {
        todo!()
    }
    pub fn chunk_count(&self) -> usize {
        todo!()
    }

    /// Nothing at or below this version is created here.
    pub fn floor(&self) -> Version {
        todo!()
    }
    /// Raises the floor, durably; a lower version is no error and changes nothing.
    ///
    /// # Errors
    /// `ReadOnly`, `DiskFailed`.
    pub fn raise_floor(&self, version: Version) -> Result<()> {
        let _ = version;
        todo!()
    }
    /// The machine lost power, or the floor was lost, and the floor has not been raised to the master's current version
    /// since: until [`DiskStore::settle_unclean_start`] nothing is created here. Survives restarts.
    pub fn unclean_start(&self) -> bool {
        todo!()
    }
    /// Raises the floor to the master's current version after an unclean start (protocol R10), durably.
    ///
    /// # Errors
    /// `ReadOnly`, `DiskFailed`.
    pub fn settle_unclean_start(&self, current: Version) -> Result<()> {
        let _ = current;
        todo!()
    }

    /// Creates an empty chunk: `Installed` by a grant, only above the floor; `Joining` to be filled for a reconfiguration,
    /// at any version. It is durable after its first sync (or fence).
    ///
    /// # Errors
    /// `Exists`, `BelowFloor`, `FloorUnsettled`, `NoSpace` (also when only the reserve is left), `ReadOnly`,
    /// `DiskFailed`.
    pub fn create(&self, handle: ChunkHandle, version: Version, state: State, meta: &ChunkMeta) -> Result<Chunk> {
        let _ = (handle, version, state, meta);
        todo!()
    }

    /// # Errors
    /// `NotFound`, `DiskFailed`. A damaged chunk is found.
    pub fn chunk(&self, handle: ChunkHandle) -> Result<Chunk> {
        let _ = handle;
        todo!()
    }

    /// [`Chunk::fence`]; of a chunk that is not here it raises the floor to `version`, durably, before it says `NotFound`.
    ///
    /// # Errors
    /// As [`Chunk::fence`], and `NotFound`.
    pub fn fence(&self, handle: ChunkHandle, version: Version) -> Result<ChunkInfo> {
        let _ = (handle, version);
        todo!()
    }

    /// Deletes the replica if its version is not above `version`. The floor is raised durably first.
    ///
    /// # Errors
    /// `Superseded`, `NotFound`, `ReadOnly`, `DiskFailed`.
    pub fn unlink(&self, handle: ChunkHandle, version: Version) -> Result<()> {
        let _ = (handle, version);
        todo!()
    }

    /// Up to `limit` chunks in the order of their handles, those after `after` if given.
    pub fn inventory(&self, after: Option<ChunkHandle>, limit: usize) -> Vec<ChunkInfo> {
        let _ = (after, limit);
        todo!()
    }

    /// The chunk to scrub after this one, in the order of the handles; none at the end.
    pub fn scrub_next(&self, after: Option<ChunkHandle>) -> Option<ChunkHandle> {
        let _ = after;
        todo!()
    }

    /// Background work, every second or so: syncs chunks not written for `idle`, marks them clean, syncs the marks,
    /// and brings the index up to date. How many chunks were marked.
    ///
    /// # Errors
    /// `ReadOnly`, `DiskFailed`.
    pub fn write_clean_marks(&self, idle: Duration) -> Result<usize> {
        let _ = idle;
        todo!()
    }

    /// Orderly end: syncs and marks every chunk, flushes the index and leaves the marker that makes the next start fast.
    /// All later calls on it fail with `DiskFailed`.
    pub fn close(&self) {
        todo!()
    }
}
