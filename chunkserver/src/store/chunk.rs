//! One replica.
use super::Result;
use super::disk::Inner;
use super::error::Damage;
use super::format::{ChunkMeta, State};
use bytes::Bytes;
use cairn_types::{ChunkHandle, DiskId, Version};
use std::fmt;
use std::sync::Arc;

/// The state and version that an operation asks of a replica; it is compared under the chunk's lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    Installed(Version),
    Fenced(Version),
    Joining(Version),
}

impl At {
    pub fn version(self) -> Version {
        match self {
            At::Installed(v) | At::Fenced(v) | At::Joining(v) => v,
        }
    }
    pub fn state(self) -> State {
        match self {
            At::Installed(_) => State::Installed,
            At::Fenced(_) => State::Fenced,
            At::Joining(_) => State::Joining,
        }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.state(), self.version())
    }
}

/// What the store knows of a replica without touching the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkInfo {
    pub handle: ChunkHandle,
    /// `Version::ZERO` where the header is damaged: unknown.
    pub version: Version,
    pub state: State,
    pub length: u64,
    /// Power was lost while it had unsynced writes, until an install (protocol: suspect).
    pub suspect: bool,
    /// Every write is on stable storage, as far as is known.
    pub synced: bool,
    /// What reads and scrubs have found; none is `Damage::is_none`.
    pub damage: Damage,
}

/// Bytes of a chunk with a checksum for each piece of them that lies in one block (`layout::block_pieces`).
#[derive(Debug, Clone)]
pub struct Pieces {
    pub data: Bytes,
    pub crcs: Vec<u32>,
    /// The chunk's length: what lies beyond it reads as zeros, and `data` ends there.
    pub length: u64,
}

/// A chunk's length and the checksum of each of its blocks; the last one's covers it up to the length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub length: u64,
    pub crcs: Vec<u32>,
}

/// What a step of a scrub found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// None if all is well; of a suspect chunk, blocks may differ without anything having rotted.
    pub damage: Damage,
    /// Bytes read.
    pub bytes: u64,
    /// Where the next step goes on; none when the chunk has been seen to its end.
    pub next_block: Option<u32>,
}

/// A replica on a disk. Cheap to clone; operations of any clones take turns where they must.
#[derive(Clone)]
pub struct Chunk {
    pub(super) disk: Arc<Inner>,
}

impl Chunk {
    pub fn handle(&self) -> ChunkHandle {
        todo!()
    }
    pub fn disk_id(&self) -> DiskId {
        todo!()
    }
    pub fn info(&self) -> ChunkInfo {
        todo!()
    }
    /// What its header says of the file that it is a part of.
    ///
    /// # Errors
    /// `NotFound` (unlinked meanwhile), `Corrupt`, `DiskFailed`.
    pub fn meta(&self) -> Result<ChunkMeta> {
        todo!()
    }

    /// Writes `data` at `offset`, with one checksum for each piece of it that lies in one block. All pieces are checked
    /// before anything is written. Survives a kill of this process; durable after [`Chunk::sync`]. The new length.
    /// A gap between the old length and `offset` becomes zeros.
    ///
    /// # Errors
    /// `BadPiece`, `BadRange`, `WrongVersion`, `Corrupt` (header), `NoSpace`, `ReadOnly`, `DiskFailed`, `NotFound`. After
    /// `NoSpace` length and table are as before; bytes below the old length that were to be overwritten may be old or
    /// new.
    pub fn write(&self, at: At, offset: u64, data: &[u8], crcs: &[u32]) -> Result<u64> {
        let _ = (at, offset, data, crcs);
        todo!()
    }

    /// Grows the chunk to `length` with zeros, reading and writing no data; a smaller one changes nothing.
    ///
    /// # Errors
    /// As [`Chunk::write`].
    pub fn grow(&self, at: At, length: u64) -> Result<u64> {
        let _ = (at, length);
        todo!()
    }

    /// Cuts the chunk at `length` (protocol R13), while fenced at `version` or joining; a larger one changes nothing. If
    /// the block that is cut through was bad, it stays detectably bad.
    ///
    /// # Errors
    /// As [`Chunk::write`].
    pub fn truncate(&self, at: At, length: u64) -> Result<()> {
        let _ = (at, length);
        todo!()
    }

    /// Reads up to `len` bytes at `offset`, fewer where the chunk ends. A piece that is all that its block holds
    /// comes with the stored checksum and is not checked here unless `verify`; any other piece is checked as part of its
    /// block and comes with its own.
    ///
    /// # Errors
    /// `WrongVersion`, `Corrupt`, `BadRange`, `DiskFailed`, `NotFound`.
    pub fn read(&self, at: At, offset: u64, len: u64, verify: bool) -> Result<Pieces> {
        let _ = (at, offset, len, verify);
        todo!()
    }

    /// Returns when all that was written before the call is on stable storage.
    ///
    /// # Errors
    /// `DiskFailed`, `ReadOnly`, `NotFound`.
    pub fn sync(&self) -> Result<()> {
        todo!()
    }

    /// Raises the version and fences, durably (protocol R2); it waits for the write that is under way. Fencing again at
    /// the same version is no error while it has not been installed at it. Everything written before is durable, too.
    ///
    /// # Errors
    /// `Superseded`, `Corrupt` (header), `ReadOnly`, `DiskFailed`, `NotFound`.
    pub fn fence(&self, version: Version) -> Result<ChunkInfo> {
        let _ = version;
        todo!()
    }

    /// From fenced at `version` to installed, durably and once (protocol R5); clears suspect. False if it was installed
    /// at it already: nothing happened.
    ///
    /// # Errors
    /// `WrongVersion`, `StillSuspect`, `ReadOnly`, `DiskFailed`, `NotFound`, `Corrupt` (header).
    pub fn install(&self, version: Version) -> Result<bool> {
        let _ = version;
        todo!()
    }

    /// Length and stored checksums, for comparing (protocol R4). A suspect that is fenced computes them anew first, once.
    ///
    /// # Errors
    /// `WrongVersion`, `Corrupt` (header or table), `DiskFailed`, `NotFound`.
    pub fn table(&self, at: At) -> Result<Table> {
        let _ = at;
        todo!()
    }

    /// Computes all checksums anew from the data and stores them: for suspects, and for what an operator gives up. Only
    /// while fenced at `version`; it takes what is on the disk as right.
    ///
    /// # Errors
    /// As [`Chunk::table`], `NoSpace`, `ReadOnly`.
    pub fn recompute_table(&self, version: Version) -> Result<Table> {
        let _ = version;
        todo!()
    }

    /// A step of a scrub: with `first_block` 0 header and table, then up to 1 MiB of blocks from `first_block`.
    ///
    /// # Errors
    /// `DiskFailed`, `NotFound`.
    pub fn verify_step(&self, first_block: u32) -> Result<Verified> {
        let _ = first_block;
        todo!()
    }

    /// All steps at once.
    ///
    /// # Errors
    /// As [`Chunk::verify_step`].
    pub fn verify(&self) -> Result<Damage> {
        todo!()
    }
}
