//! The chunk map's records.
use cairn_types::{ChunkHandle, DiskId, Inode, Version};
use serde::{Deserialize, Serialize};

/// The most members that a chunk may have: its goal, and those that it moves to.
pub const MEMBERS_MAX: usize = 10;
const _: () = assert!(MEMBERS_MAX >= cairn_types::limits::GOAL_MAX as usize);

/// A chunk, as the log has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkInfo {
    pub handle: ChunkHandle,
    pub version: Version,
    /// The members in the order of the chain; the first is the primary.
    pub members: Vec<DiskId>,
    /// The file that it belongs to, and its place there.
    pub inode: Inode,
    pub index: u32,
    /// Replicas wanted: the file's.
    pub goal: u8,
    /// Files that refer to it (1 until there are snapshots).
    pub references: u32,
    /// The version is the one of the record that created the chunk: its replicas may not exist yet (protocol R10).
    pub granted: bool,
    /// A commit has named it: every member has had a replica.
    pub committed: bool,
    /// The last version that was installed from a suspect source, if one was (protocol R3, R12).
    pub from_suspect: Option<Version>,
}

/// A chunk in memory. Disks are numbered by the state: a disk id has 16 bytes, and three of them would make most of
/// the record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Chunk {
    pub inode: Inode,
    pub version: Version,
    pub index: u32,
    pub references: u32,
    pub members: Members,
    pub granted: bool,
    pub committed: bool,
    /// The state's side table has the version.
    pub from_suspect: bool,
}

/// No disk has this number.
pub(crate) const NO_DISK: u16 = u16::MAX;

/// The numbers of disks, and [`NO_DISK`] behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<u16>", into = "Vec<u16>")]
pub(crate) struct Members([u16; MEMBERS_MAX]);

impl Members {
    /// `None`: too many.
    pub fn new(numbers: &[u16]) -> Option<Self> {
        let mut disks = [NO_DISK; MEMBERS_MAX];
        disks.get_mut(..numbers.len())?.copy_from_slice(numbers);
        Some(Self(disks))
    }

    pub fn as_slice(&self) -> &[u16] {
        let len = self.0.iter().position(|n| *n == NO_DISK).unwrap_or(MEMBERS_MAX);
        &self.0[..len]
    }
}

impl TryFrom<Vec<u16>> for Members {
    type Error = &'static str;
    fn try_from(numbers: Vec<u16>) -> Result<Self, Self::Error> {
        Self::new(&numbers).ok_or("too many members")
    }
}

impl From<Members> for Vec<u16> {
    fn from(members: Members) -> Self {
        members.as_slice().to_vec()
    }
}

// memory is counted (design: at most 64 bytes a chunk)
const _: () = assert!(size_of::<Option<Chunk>>() <= 56);
