//! What can go wrong in the store. No variant is a catch-all: a caller decides from the variant alone whether to try
//! elsewhere, to report a bad replica, or to stop using the disk.
use super::format::State;
use cairn_types::{ChunkHandle, ClusterId, DiskId, ServerId, Version};
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// An operation on a chunk or on an open disk.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no replica of the chunk on this disk. At or below the disk's floor that means "unknown", never
    /// "empty" (protocol R10).
    #[error("chunk {handle} is not on this disk")]
    NotFound { handle: ChunkHandle },
    #[error("chunk {handle} is already here at version {version}")]
    Exists { handle: ChunkHandle, version: Version },
    /// A grant may create only above the floor (protocol R10).
    #[error("chunk {handle} cannot be created at version {version}: the disk's floor is {floor}")]
    BelowFloor {
        handle: ChunkHandle,
        version: Version,
        floor: Version,
    },
    /// After an unclean start nothing is created until the floor has been raised to the master's current version
    /// ([`super::DiskStore::settle_unclean_start`]).
    #[error("disk {disk} had an unclean start and its floor has not been raised yet")]
    FloorUnsettled { disk: DiskId },
    /// The replica is at another version, or fenced where installed was asked for, or the reverse.
    #[error("chunk {handle} is {state} at version {version}, not {wanted}")]
    WrongVersion {
        handle: ChunkHandle,
        state: State,
        version: Version,
        wanted: super::At,
    },
    /// A fence or an order to delete names a version below the replica's, or a fence names the very version that it
    /// is installed at: the order is void.
    #[error("chunk {handle} is {state} at version {version}: an order for version {ordered} is void")]
    Superseded {
        handle: ChunkHandle,
        state: State,
        version: Version,
        ordered: Version,
    },
    /// A suspect's checksums have to be computed anew before it can be installed (protocol R4).
    #[error("chunk {handle} is suspect and its checksums have not been computed anew")]
    StillSuspect { handle: ChunkHandle },
    /// The bytes that came in are not those that the sender checksummed. Nothing was written.
    #[error("piece {piece} of a write to chunk {handle} does not match its checksum")]
    BadPiece { handle: ChunkHandle, piece: usize },
    /// The range does not lie in a chunk, or the number of checksums does not fit it.
    #[error("a range of {len} bytes at {offset} with {checksums} checksums is no part of a chunk")]
    BadRange { offset: u64, len: u64, checksums: usize },
    /// The replica's bytes are not what was stored; it has to be replaced. Nothing of it was returned.
    #[error("chunk {handle} is damaged: {damage}")]
    Corrupt { handle: ChunkHandle, damage: Damage },
    /// The disk, or its share that is not in reserve, is full. Length and checksums are as before.
    #[error("disk {disk} is full")]
    NoSpace { disk: DiskId },
    #[error("disk {disk} is read-only")]
    ReadOnly { disk: DiskId },
    /// This process has too many files open; nothing was done, and it says nothing of the disk.
    #[error("too many files are open: raise the limit (ulimit -n)")]
    TooManyFiles,
    /// A write or a sync failed now or earlier: nothing on this disk is written or answered any more.
    #[error("disk {disk} has failed")]
    DiskFailed { disk: DiskId },
}

/// Everything that is known to be wrong with one replica.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Damage {
    pub header: Option<HeaderFault>,
    /// The table page is cut off, or holds checksums of blocks beyond the length.
    pub table: bool,
    /// Blocks that do not match their checksum or cannot be read.
    pub blocks: BTreeSet<u32>,
}

impl Damage {
    pub fn is_none(&self) -> bool {
        self.header.is_none() && !self.table && self.blocks.is_empty()
    }
    pub fn of_header(fault: HeaderFault) -> Self {
        Self {
            header: Some(fault),
            ..Self::default()
        }
    }
    pub fn of_blocks(blocks: impl IntoIterator<Item = u32>) -> Self {
        Self {
            blocks: blocks.into_iter().collect(),
            ..Self::default()
        }
    }
    pub fn merge(&mut self, other: &Damage) {
        self.header = other.header.or(self.header);
        self.table |= other.table;
        self.blocks.extend(&other.blocks);
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sep = "";
        if let Some(fault) = self.header {
            write!(f, "header: {fault}")?;
            sep = "; ";
        }
        if self.table {
            write!(f, "{sep}checksum table")?;
            sep = "; ";
        }
        if !self.blocks.is_empty() {
            write!(f, "{sep}blocks {:?}", self.blocks)?;
        }
        Ok(())
    }
}

/// Why a header cannot be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    /// Absent or all zeros: the chunk's creation never reached the disk before the machine stopped.
    #[error("it was never written")]
    NeverWritten,
    #[error("it cannot be read")]
    Unreadable,
    #[error("it is no chunk header")]
    Magic,
    #[error("its checksum does not match")]
    Checksum,
    #[error("its format {0} is newer than this program")]
    Newer(u16),
    /// A write that went astray, or a file renamed by hand.
    #[error("it is that of chunk {0}")]
    OtherChunk(ChunkHandle),
    #[error("it is of cluster {0}")]
    OtherCluster(ClusterId),
    #[error("it is of disk {0}")]
    OtherDisk(DiskId),
    /// Valid, but not what was last written: a lost write.
    #[error("it is older than the last one written")]
    Lost,
}

/// A disk that cannot be formatted or opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{path}: another process uses this disk")]
    InUse { path: String },
    #[error("{path} is not a Cairn disk: it has no stamp file. Format it first; is it mounted?")]
    NotFormatted { path: String },
    #[error("{path} is not empty, it has {found:?}: it will not be formatted")]
    NotEmpty { path: String, found: String },
    #[error("{path} is a Cairn disk already, of cluster {cluster}")]
    AlreadyFormatted { path: String, cluster: ClusterId },
    #[error("{path}: the stamp file is damaged")]
    StampDamaged { path: String },
    #[error("{path} has disk format {found}, this program knows formats up to {known}: use a newer one")]
    NewerFormat { path: String, found: u16, known: u16 },
    #[error("{path} belongs to cluster {found}, but {other_path} to cluster {expected}")]
    OtherCluster {
        path: String,
        found: ClusterId,
        other_path: String,
        expected: ClusterId,
    },
    #[error("{path} belongs to server {found}, but {other_path} to server {expected}")]
    OtherServer {
        path: String,
        found: ServerId,
        other_path: String,
        expected: ServerId,
    },
    #[error("{path}: cannot {action} {file}: {source}")]
    Io {
        path: String,
        action: &'static str,
        file: PathBuf,
        #[source]
        source: io::Error,
    },
}
