//! What the operation log holds, and what applying it gives.
//!
//! Commands are encoded with postcard in the log: enums are append-only, structs do not change (a changed one is a
//! new variant). All choices are in the command: times, versions, placement. Inode numbers and chunk handles are
//! counted by `apply`, from the order of the log.
use crate::FsError;
use crate::chunk::ChunkInfo;
use crate::inode::{Attr, Kind};
use cairn_types::{ChunkHandle, ClusterId, DiskId, Inode, Sequence, ServerId, SessionId, Version};
use serde::{Deserialize, Serialize};

/// One record of the operation log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// The first record of each start of a master (each term of a leader). Versions and registrations drawn after it
    /// are (its log index, counter). The first one of all founds the cluster and makes the root directory.
    Epoch {
        /// The same in every epoch record of a log.
        cluster: ClusterId,
        at_ns: i64,
        /// Of files and directories that have none of their own: 1..=GOAL_MAX.
        default_goal: u8,
        /// L of protocol R6 that this master gives. A later master waits for the longest that was ever given
        /// ([`crate::State::lease_ms_longest`], protocol R11).
        lease_ms: u64,
        /// Mode and owner of the root directory, for the first record.
        root_mode: u32,
        root_uid: u32,
        root_gid: u32,
    },
    /// A client's session begins; known already: nothing happens.
    OpenSession {
        session: SessionId,
        at_ns: i64,
        description: String,
    },
    /// It ends: its remembered results go. Not known: nothing happens.
    EndSession { session: SessionId },
    /// A client's call: applied once per (session, sequence), whatever is sent again (promise 1).
    Call {
        session: SessionId,
        sequence: Sequence,
        /// The client has seen every answer up to this one: they are forgotten.
        acknowledged: Sequence,
        at_ns: i64,
        op: Op,
    },
    /// The master's own doing: reconfigurations, garbage, expired trash.
    Internal { at_ns: i64, op: Op },
    /// A chunkserver's identity and disks, when they are new or changed. Disks are added, never forgotten; one that is
    /// listed by another server has moved there.
    RegisterServer {
        server: ServerId,
        label: String,
        address: String,
        disks: Vec<DiskId>,
    },
    /// A disk is (or is no longer) out of service for good: nothing is placed there.
    SetDiskService { disk: DiskId, in_service: bool },
}

/// One change. The reply that each gives stands with it; any may be refused with an [`FsError`], and then nothing has
/// changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Op {
    /// Any kind of file, directory or link. [`Reply::Created`].
    Create(Create),
    /// One more name for a file. [`Reply::Attr`].
    Link { inode: Inode, parent: Inode, name: Vec<u8> },
    /// Removes a name of anything but a directory. [`Reply::Done`].
    Unlink {
        parent: Inode,
        name: Vec<u8>,
        removed: RemovedAs,
    },
    /// Removes an empty directory. [`Reply::Done`].
    Rmdir {
        parent: Inode,
        name: Vec<u8>,
        removed: RemovedAs,
    },
    /// [`Reply::Done`].
    Rename(Rename),
    /// [`Reply::Attr`]. A new size that lies within an existing chunk is refused with [`FsError::CutNeeded`]: it goes
    /// through a reconfiguration and [`Install::cut`].
    SetAttr { inode: Inode, set: SetAttr },
    /// [`Reply::Done`].
    SetXattr {
        inode: Inode,
        name: Vec<u8>,
        value: Vec<u8>,
        mode: XattrMode,
    },
    /// [`Reply::Done`].
    RemoveXattr { inode: Inode, name: Vec<u8> },
    /// Of a file: for all its chunks. Of a directory: for what is created in it from now on; 0 the default.
    /// [`Reply::Attr`].
    SetGoal { inode: Inode, goal: u8 },
    /// Chunks of a file, each created with its grant (protocol R10) unless it exists. [`Reply::Chunks`]: all of them,
    /// in the order of `grants`, as they are now.
    Allocate { inode: Inode, grants: Vec<IndexedGrant> },
    /// What a client has written becomes visible. [`Reply::Attr`]; [`FsError::StaleVersion`] when a chunk in `written`
    /// is no longer the file's, or has another version now (protocol R12).
    Commit {
        inode: Inode,
        /// The file is at least so long; 0 for no length.
        size: u64,
        chunks: Vec<Written>,
        /// Data were written: mtime becomes the command's time, unless it was set explicitly at a generation above
        /// `generation_seen` (an explicit time outlives writes that were queued before it).
        written: bool,
        /// The file's generation as the client knew it when it took the oldest of these writes from the user.
        generation_seen: u64,
        /// Set-uid and set-gid go: written by a caller without privilege.
        kill_suid: bool,
    },
    /// A reconfiguration's end (protocol R5). [`Reply::Chunk`], or [`Reply::Attr`] with `cut`.
    Install(Install),
    /// Orphans that nobody has open any more. Those that are none are passed over. [`Reply::Purged`].
    ReleaseOrphans { inodes: Vec<Inode> },
    /// From the trash, back to where it was, or to `to`. [`Reply::Attr`]; [`FsError::NotFound`] when the directory is
    /// gone, [`FsError::Exists`] when the name is taken.
    TrashRestore { inode: Inode, to: Option<(Inode, Vec<u8>)> },
    /// From the trash for good. Those that are not there are passed over; those in `keep_open` (open in some session)
    /// become orphans. [`Reply::Purged`].
    TrashPurge { inodes: Vec<Inode>, keep_open: Vec<Inode> },
    /// Opens a regular file with O_TRUNC: its length becomes 0, its mtime the command's time, and chunk 0 is created
    /// with the grant (protocol R10), so that a small file that is written anew costs one call. [`Reply::Chunks`].
    Truncate { inode: Inode, chunk: Option<Grant> },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Create {
    pub parent: Inode,
    pub name: Vec<u8>,
    pub kind: Kind,
    /// Permission bits after the umask. A set-gid directory gives its group, and to directories its bit.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Of devices.
    pub rdev: u32,
    /// Of a symbolic link: 1..=PATH_BYTES_MAX bytes. Else empty.
    pub target: Vec<u8>,
    /// 0: what the directory gives.
    pub goal: u8,
    pub existing: Existing,
    /// Creates chunk 0 of a new regular file in the same record (protocol R10).
    pub chunk: Option<Grant>,
}

/// What [`Create`] does when the name exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Existing {
    /// [`FsError::Exists`].
    Refuse,
    /// Gives it; [`FsError::IsDirectory`] for a directory, [`FsError::Exists`] for a symbolic link.
    Open,
    /// Gives it, and cuts a regular file to length 0.
    OpenTruncated,
}

/// What becomes of an inode whose last name goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RemovedAs {
    /// A regular file goes to the trash for so long; 0: there is no trash.
    pub trash_keep_ns: i64,
    /// The inode that the master saw under this name and knows that nobody has open: it is freed at once. Any other
    /// that loses its last name here becomes an orphan ([`Effect::Orphaned`]), to be released with
    /// [`Op::ReleaseOrphans`]: so a name that changed hands between the look and the log frees nothing that is open.
    pub closed: Option<Inode>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rename {
    pub parent: Inode,
    pub name: Vec<u8>,
    pub new_parent: Inode,
    pub new_name: Vec<u8>,
    pub mode: RenameMode,
    /// Of what was at the new name.
    pub removed: RemovedAs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RenameMode {
    Replace,
    /// RENAME_NOREPLACE.
    NoReplace,
    /// RENAME_EXCHANGE.
    Exchange,
}

/// Attributes to set; what is `None` stays.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SetAttr {
    pub mode: Option<u32>,
    /// A change of owner or group takes set-uid (and set-gid where the group may execute) from an executable regular
    /// file, unless `mode` is given as well.
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Bytes. Whole chunks beyond are dropped.
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    /// Outlives commits of data that were written before ([`Op::Commit`]).
    pub mtime: Option<SetTime>,
    pub ctime_ns: Option<i64>,
    /// With `size`, by a caller without privilege: set-uid and set-gid go.
    pub kill_suid: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetTime {
    /// The command's time.
    Now,
    At(i64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum XattrMode {
    Set,
    /// Must not exist: [`FsError::Exists`].
    Create,
    /// Must exist: [`FsError::NoXattr`].
    Replace,
}

/// Leave to create a chunk: its first version and its members, in order (protocol R10).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    pub version: Version,
    pub members: Vec<DiskId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexedGrant {
    pub index: u32,
    pub grant: Grant,
}

/// A chunk and the version under which a client wrote to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    pub index: u32,
    pub handle: ChunkHandle,
    pub version: Version,
}

/// A reconfiguration's result. Refused with [`FsError::StaleVersion`] when the version is not above the logged one,
/// with [`FsError::NoSuchChunk`] when the chunk was dropped meanwhile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Install {
    pub handle: ChunkHandle,
    pub version: Version,
    /// In the order of the chain.
    pub members: Vec<DiskId>,
    /// The source was suspect (protocol R3).
    pub from_suspect: bool,
    /// The writer is gone without a commit: the file is at least so long that the chunk has so many bytes (R12).
    pub length: Option<u64>,
    /// The change that needed the cut (protocol R13), its `size` within this chunk.
    pub cut: Option<SetAttr>,
}

/// What an operation gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    Done,
    Attr(Attr),
    Created {
        attr: Attr,
        existed: bool,
        /// Chunk 0, when one was granted and the file is new.
        chunk: Option<ChunkInfo>,
    },
    Chunks {
        attr: Attr,
        chunks: Vec<ChunkInfo>,
    },
    Chunk(ChunkInfo),
    Purged {
        count: u64,
        bytes: u64,
    },
}

impl Reply {
    /// Of the inode that it speaks of.
    pub fn attr(&self) -> Option<&Attr> {
        match self {
            Reply::Attr(attr) | Reply::Created { attr, .. } | Reply::Chunks { attr, .. } => Some(attr),
            Reply::Done | Reply::Chunk(_) | Reply::Purged { .. } => None,
        }
    }
}

/// The result of a command.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The answer; of commands without an operation, [`Reply::Done`].
    pub result: Result<Reply, FsError>,
    /// In the order in which things happened; none for a repeated call.
    pub effects: Vec<Effect>,
    /// The call had been applied before: this is its remembered result.
    pub repeated: bool,
}

impl Outcome {
    /// Inodes whose attributes changed, each once.
    pub fn changed_inodes(&self) -> Vec<Inode> {
        let mut changed = Vec::new();
        for effect in &self.effects {
            if let Effect::InodeChanged { inode, .. } = effect
                && !changed.contains(inode)
            {
                changed.push(*inode);
            }
        }
        changed
    }
}

/// What the process around the state has to do, or to tell others. Never an input to the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Attributes changed; with `data` also the contents or the length (the generation has been raised).
    InodeChanged {
        inode: Inode,
        data: bool,
    },
    /// What `name` leads to changed.
    EntryChanged {
        parent: Inode,
        name: Vec<u8>,
    },
    /// Freed, the number is never used again.
    InodeFreed {
        inode: Inode,
    },
    /// Has no name any more and is kept for those who have it open: release it when none has.
    Orphaned {
        inode: Inode,
    },
    Trashed {
        inode: Inode,
    },
    ChunkCreated {
        handle: ChunkHandle,
    },
    /// Has a new version, and perhaps other members.
    ChunkInstalled {
        handle: ChunkHandle,
        before: ChunkInfo,
    },
    /// Nothing refers to it: its replicas are garbage, of this version and below.
    ChunkDropped {
        chunk: ChunkInfo,
    },
    /// Its chunks have another goal now.
    GoalChanged {
        inode: Inode,
    },
    SessionEnded {
        session: SessionId,
    },
}
