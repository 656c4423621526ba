//! Errors: what a user's operation may meet, and what halts a node.
use cairn_types::{ChunkHandle, ClusterId, DiskId, Version};
use serde::{Deserialize, Serialize};

/// Why an operation was refused. The state is as it was before. Remembered with the call (promise 1), so the
/// encoding is append-only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum FsError {
    #[error("no such file or directory")]
    NotFound,
    /// The inode is gone, or never was.
    #[error("the file is gone")]
    NoSuchInode,
    #[error("it exists already")]
    Exists,
    #[error("not a directory")]
    NotDirectory,
    #[error("is a directory")]
    IsDirectory,
    #[error("the directory is not empty")]
    NotEmpty,
    #[error("a name is longer than 255 bytes, or a link's target longer than 4096")]
    NameTooLong,
    /// Empty, `.`, `..`, or with a slash or a zero byte.
    #[error("not a valid name")]
    InvalidName,
    #[error("not possible for this kind of file, or with these arguments")]
    InvalidArgument,
    #[error("a directory cannot move into itself")]
    IntoItself,
    #[error("too many hard links")]
    TooManyLinks,
    #[error("a directory cannot have hard links")]
    LinkOfDirectory,
    #[error("larger than the largest file")]
    TooLarge,
    #[error("too many levels of symbolic links")]
    SymlinkLoop,
    #[error("no such extended attribute")]
    NoXattr,
    #[error("an extended attribute's name is too long")]
    XattrNameTooLong,
    #[error("an extended attribute's value is too large")]
    XattrTooLarge,
    #[error("no room for more extended attributes on this file")]
    XattrsFull,
    /// A version older than the logged one, or a chunk that is no longer the file's (protocol R12): ask for the
    /// location again.
    #[error("not the chunk's version any more")]
    StaleVersion,
    /// The chunk has been dropped since.
    #[error("the chunk is gone")]
    NoSuchChunk,
    /// The size lies within a chunk, which must be cut by a reconfiguration (protocol R13) whose [`crate::Install`]
    /// carries the change.
    #[error("the chunk at the new end must be cut first")]
    CutNeeded,
    /// The goal is not in 1..=GOAL_MAX (for a directory also 0: the default).
    #[error("goals are from 1 to 8")]
    InvalidGoal,
    /// The session is not known: it ended, or never began.
    #[error("the session has ended")]
    SessionEnded,
    /// The client had said that it had seen this call's answer.
    #[error("the call's result was acknowledged and is forgotten")]
    Forgotten,
    /// More results are remembered for this session than it may have calls under way.
    #[error("too many calls whose results were not acknowledged")]
    TooManyCalls,
    #[error("not in the trash")]
    NotInTrash,
    /// The master needs an answer to what it knew no more when the command was applied: it looks and logs again.
    #[error("the state changed while the command was under way")]
    Retry,
}

impl FsError {
    /// The Linux errno that a user of the file system sees.
    pub fn errno(self) -> i32 {
        match self {
            FsError::NotFound | FsError::NotInTrash => 2,                      // ENOENT
            FsError::NoSuchInode => 116,                                       // ESTALE
            FsError::Exists => 17,                                             // EEXIST
            FsError::NotDirectory => 20,                                       // ENOTDIR
            FsError::IsDirectory => 21,                                        // EISDIR
            FsError::NotEmpty => 39,                                           // ENOTEMPTY
            FsError::NameTooLong => 36,                                        // ENAMETOOLONG
            FsError::InvalidName | FsError::InvalidArgument => 22,             // EINVAL
            FsError::IntoItself | FsError::InvalidGoal => 22,                  // EINVAL
            FsError::TooManyLinks => 31,                                       // EMLINK
            FsError::LinkOfDirectory => 1,                                     // EPERM
            FsError::TooLarge => 27,                                           // EFBIG
            FsError::SymlinkLoop => 40,                                        // ELOOP
            FsError::NoXattr => 61,                                            // ENODATA
            FsError::XattrNameTooLong => 34,                                   // ERANGE
            FsError::XattrTooLarge => 7,                                       // E2BIG
            FsError::XattrsFull => 28,                                         // ENOSPC
            FsError::StaleVersion | FsError::NoSuchChunk => 116,               // ESTALE
            FsError::CutNeeded | FsError::Retry | FsError::TooManyCalls => 11, // EAGAIN
            FsError::SessionEnded | FsError::Forgotten => 5,                   // EIO
        }
    }
}

/// A command that no sound master can have logged: the log, or this program, is not what it must be. The node stops
/// rather than go on with a state that others do not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CannotApply {
    #[error("log index {index} does not follow {applied}")]
    OutOfOrder { index: u64, applied: u64 },
    #[error("the log does not begin with an epoch record")]
    NoEpoch,
    #[error("the log is of cluster {logged}, this state of {here}")]
    OtherCluster { logged: ClusterId, here: ClusterId },
    #[error("disk {0} was never registered")]
    UnknownDisk(DiskId),
    #[error("chunk {0} was never created")]
    UnknownChunk(ChunkHandle),
    #[error("version {0} was not drawn in the epoch at hand")]
    ForeignVersion(Version),
    #[error("a chunk's members are none, too many, or named twice")]
    BadMembers,
    #[error("the state contradicts itself: {0}")]
    Inconsistent(&'static str),
}
