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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Members {
    disks: [u16; MEMBERS_MAX],
    len: u8,
}

impl Members {
    /// `None`: too many.
    pub fn new(numbers: &[u16]) -> Option<Self> {
        let mut disks = [0; MEMBERS_MAX];
        disks.get_mut(..numbers.len())?.copy_from_slice(numbers);
        Some(Self {
            disks,
            len: numbers.len() as u8,
        })
    }

    pub fn as_slice(&self) -> &[u16] {
        self.disks.get(..usize::from(self.len)).unwrap_or_default()
    }
}

const _: () = assert!(std::mem::size_of::<Chunk>() <= 64);
