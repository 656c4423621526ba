//! The replicated state: what the log, applied from its beginning, amounts to.
use crate::chunk::{Chunk, ChunkInfo, Members};
use crate::inode::Node;
use crate::table::Table;
use crate::{FsError, Reply};
use cairn_types::{ChunkHandle, ClusterId, DiskId, Inode, Sequence, ServerId, SessionId, Version};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Everything that is replicated and survives a restart of the master.
///
/// A clone shares its pages with the original and costs little: a checkpoint is [`State::encode`] of a clone, while
/// operations go on. Equal logs give equal states (`==`).
#[derive(Clone, PartialEq, Debug, Default)]
pub struct State {
    pub(crate) header: Header,
    pub(crate) nodes: Table<Node>,
    pub(crate) chunks: Table<Chunk>,
    /// Of the few chunks that were ever installed from a suspect source: the last such version.
    pub(crate) from_suspect: BTreeMap<ChunkHandle, Version>,
    pub(crate) sessions: BTreeMap<SessionId, Session>,
    pub(crate) trash: BTreeMap<Inode, Arc<TrashEntry>>,
    /// (when it expires, inode), of all in `trash`.
    pub(crate) trash_by_expiry: BTreeSet<(i64, Inode)>,
    pub(crate) orphans: BTreeSet<Inode>,
    /// Of the few inodes with several names: where the others are (directory, hash of the name), for `path_of`.
    pub(crate) other_links: BTreeMap<Inode, Vec<(Inode, u64)>>,
    pub(crate) servers: BTreeMap<ServerId, Server>,
    /// By number, in the order of registration: never removed.
    pub(crate) disks: Vec<Disk>,
    pub(crate) disk_numbers: BTreeMap<DiskId, u16>,
}

/// The counters and settings, in one record.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Header {
    /// Index of the last command applied.
    pub applied: u64,
    /// Index of the last epoch record; 0 before the first.
    pub epoch: u64,
    pub cluster: Option<ClusterId>,
    pub default_goal: u8,
    pub lease_ms_longest: u64,
    pub last_inode: u64,
    pub last_handle: u64,
    /// Of the live tree: neither trash nor orphans.
    pub directories: u64,
    pub regular_files: u64,
    pub other_files: u64,
    pub bytes: u64,
    pub trash_bytes: u64,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Session {
    pub opened_ns: i64,
    pub description: String,
    pub acknowledged: Sequence,
    /// Of calls above `acknowledged`.
    pub results: BTreeMap<Sequence, Arc<Result<Reply, FsError>>>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct TrashEntry {
    pub deleted_ns: i64,
    pub expires_ns: i64,
    pub parent: Inode,
    pub name: Box<[u8]>,
    /// The whole path when it was deleted, for people.
    pub path: Box<[u8]>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Server {
    pub label: String,
    pub address: String,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Disk {
    pub id: DiskId,
    pub server: ServerId,
    pub in_service: bool,
}

impl State {
    /// Before the first command.
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn node(&self, inode: Inode) -> Result<&Node, FsError> {
        self.nodes.get(inode.0).ok_or(FsError::NoSuchInode)
    }

    pub(crate) fn disk_ids(&self, members: &Members) -> Vec<DiskId> {
        members
            .as_slice()
            .iter()
            .filter_map(|n| Some(self.disks.get(usize::from(*n))?.id))
            .collect()
    }

    pub(crate) fn chunk_info(&self, handle: ChunkHandle, chunk: &Chunk) -> ChunkInfo {
        let goal = self.nodes.get(chunk.inode.0).map_or(0, |node| node.goal);
        ChunkInfo {
            handle,
            version: chunk.version,
            members: self.disk_ids(&chunk.members),
            inode: chunk.inode,
            index: chunk.index,
            goal: if goal == 0 { self.header.default_goal } else { goal },
            references: chunk.references,
            granted: chunk.granted,
            committed: chunk.committed,
            from_suspect: chunk
                .from_suspect
                .then(|| self.from_suspect.get(&handle).copied())
                .flatten(),
        }
    }
}
