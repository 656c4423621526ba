//! Everything that can go wrong, by cause. A sentence for people names the server or file, the cause and the next
//! step; a program decides on the case or on [`Error::errno`].
use cairn_proto::common::ErrorCode;
use cairn_types::limits::RECORD_BYTES_MAX;
use cairn_types::{ChunkHandle, ClusterId, Version};
use std::fmt;
use std::time::Duration;

pub type Result<T> = std::result::Result<T, Error>;

/// Linux's numbers.
pub mod errno {
    pub const ENOENT: i32 = 2;
    pub const EIO: i32 = 5;
    pub const ENXIO: i32 = 6;
    pub const EBADF: i32 = 9;
    pub const EAGAIN: i32 = 11;
    pub const EINVAL: i32 = 22;
    pub const EFBIG: i32 = 27;
    pub const ENOSPC: i32 = 28;
    pub const ENAMETOOLONG: i32 = 36;
    pub const EMSGSIZE: i32 = 90;
    pub const ECANCELED: i32 = 125;
}

/// Who was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    Master(String),
    Chunkserver(String),
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Server::Master(address) => write!(f, "master {address}"),
            Server::Chunkserver(address) => write!(f, "chunkserver {address}"),
        }
    }
}

impl Server {
    fn advice(&self) -> String {
        match self {
            Server::Master(address) => {
                format!("check `cairn health {address}` and the setting client.master (--master, CAIRN_MASTER)")
            }
            Server::Chunkserver(_) => "check `cairn admin status` and the setting chunkserver.advertise".into(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The namespace's own answer; final.
    #[error("{message}")]
    Posix { errno: i32, message: String },
    /// Nobody answered, and nothing was changed by asking.
    #[error("{server} did not answer within {} s: {cause}; {}", secs(.within), .server.advice())]
    NoAnswer {
        server: Server,
        within: Duration,
        cause: String,
    },
    /// Nobody answered a call that changes something: it may have been applied, or be applied yet.
    #[error("{server} did not answer within {} s: {cause}; whether the change was made is not known; {}", secs(.within), .server.advice())]
    MaybeCommitted {
        server: Server,
        within: Duration,
        cause: String,
    },
    /// A server said no for a reason that is not POSIX's.
    #[error("{server} refused: {message}")]
    Refused {
        server: Server,
        code: ErrorCode,
        message: String,
    },
    /// The answer made no sense: a defect, or another program listens there.
    #[error("{server} gave an answer that makes no sense: {what}")]
    Malformed { server: Server, what: String },
    #[error("{server} is of cluster {theirs}, this client is of cluster {ours}; check the address")]
    WrongCluster {
        server: Server,
        ours: ClusterId,
        theirs: String,
    },
    /// The master ended this session while it held writes that were not synced: they may be gone (promise 6).
    #[error(
        "the master ended this client's session (it was silent for too long); writes to {path} that were not synced may be lost"
    )]
    SessionEnded { path: String },
    /// Disks are full, or there are too few of them.
    #[error("no space for {path}: {message}")]
    NoSpace { path: String, message: String },
    /// The bytes could not be brought to every replica within the timeout.
    #[error("writing {path} (chunk {handle}, offset {offset}) failed within {} s: {cause}; check `cairn admin status`", secs(.within))]
    WriteFailed {
        path: String,
        handle: ChunkHandle,
        offset: u64,
        within: Duration,
        cause: String,
    },
    /// A record was sent and not acknowledged within the timeout: it may be in the file, or come there yet, once.
    #[error("appending a record to {path} failed: {cause}; whether the file has it is not known")]
    MaybeAppended { path: String, cause: String },
    #[error("a record of {0} bytes: at most {RECORD_BYTES_MAX} fit")]
    RecordTooLong(usize),
    /// No replica could give the bytes.
    #[error(
        "no replica of chunk {handle} of {path} could be read at offset {offset} of the file: {causes}; see `cairn fsck`"
    )]
    Unreadable {
        path: String,
        handle: ChunkHandle,
        offset: u64,
        causes: String,
    },
    /// A machine lost power and took unsynced bytes along (protocol R12).
    #[error("writes to {path} since version {since} of chunk {handle} were lost when its servers lost power")]
    LostUnsynced {
        path: String,
        handle: ChunkHandle,
        since: Version,
    },
    #[error("{0} is beyond the largest file")]
    TooBig(u64),
    #[error("the file was not opened for {0}")]
    BadMode(&'static str),
    #[error("{0}")]
    Invalid(&'static str),
    /// This client was shut down.
    #[error("this client has been shut down")]
    ShutDown,
}

fn secs(d: &Duration) -> String {
    let s = d.as_secs_f64();
    if s.fract() == 0.0 {
        format!("{s:.0}")
    } else {
        format!("{s:.1}")
    }
}

impl Error {
    /// What a program that uses the file system sees.
    pub fn errno(&self) -> i32 {
        match self {
            Error::Posix { errno, .. } => *errno,
            Error::NoAnswer { .. }
            | Error::MaybeCommitted { .. }
            | Error::Malformed { .. }
            | Error::WrongCluster { .. }
            | Error::SessionEnded { .. }
            | Error::WriteFailed { .. }
            | Error::MaybeAppended { .. }
            | Error::Unreadable { .. }
            | Error::LostUnsynced { .. }
            | Error::ShutDown => errno::EIO,
            Error::Refused { code, .. } => match code {
                ErrorCode::ErrorNoSpace | ErrorCode::ErrorNoServers => errno::ENOSPC,
                ErrorCode::ErrorInvalid => errno::EINVAL,
                ErrorCode::ErrorUnspecified
                | ErrorCode::ErrorPosix
                | ErrorCode::ErrorStaleVersion
                | ErrorCode::ErrorNoReplica
                | ErrorCode::ErrorNoLease
                | ErrorCode::ErrorFenced
                | ErrorCode::ErrorNotWritable
                | ErrorCode::ErrorOutOfOrder
                | ErrorCode::ErrorBadChecksum
                | ErrorCode::ErrorCorrupt
                | ErrorCode::ErrorDiskFailed
                | ErrorCode::ErrorChainBroken
                | ErrorCode::ErrorUnavailable
                | ErrorCode::ErrorGrantRefused
                | ErrorCode::ErrorSessionEnded
                | ErrorCode::ErrorWrongCluster
                | ErrorCode::ErrorChunkFull => errno::EIO,
            },
            Error::NoSpace { .. } => errno::ENOSPC,
            Error::TooBig(_) => errno::EFBIG,
            Error::RecordTooLong(_) => errno::EMSGSIZE,
            Error::BadMode(_) => errno::EBADF,
            Error::Invalid(_) => errno::EINVAL,
        }
    }
}
