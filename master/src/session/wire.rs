//! Between the contract's messages and the state's types.
use crate::core::{MaybeApplied, NotTaken, Unanswered};
use bytes::Bytes;
use cairn_metadata as meta;
use cairn_metadata::FsError;
use cairn_proto::Malformed;
use cairn_proto::common::{self, ErrorCode};
use cairn_proto::session as wire;
use cairn_types::Inode;
use cairn_types::limits::SESSION_OPEN_MAX;

const ENFILE: i32 = 23;
const ENOSPC: i32 = 28;

/// Why a call was not done. Each case has its code on the wire.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refusal {
    /// `what` was asked for, with names.
    #[error("{what}: {error}")]
    Fs { what: String, error: FsError },
    #[error("{0}")]
    NoServers(String),
    #[error("no space: {0}")]
    NoSpace(String),
    #[error("{0}")]
    Unavailable(String),
    #[error("the request is malformed: {0}")]
    Invalid(String),
    #[error("this client has {SESSION_OPEN_MAX} files open already")]
    TooManyOpen,
    /// The outcome is not known here; the client asks again under the same number.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
    #[error("this session has ended; what it had not synced may be gone")]
    SessionEnded,
}

impl Refusal {
    pub fn fs(what: impl Into<String>) -> impl FnOnce(FsError) -> Self {
        let what = what.into();
        move |error| Refusal::Fs { what, error }
    }

    pub fn to_wire(&self) -> common::Error {
        let code = match self {
            Refusal::Fs { error, .. } => match error {
                FsError::StaleVersion | FsError::NoSuchChunk => ErrorCode::ErrorStaleVersion,
                FsError::SessionEnded => ErrorCode::ErrorSessionEnded,
                FsError::CutNeeded | FsError::Retry | FsError::TooManyCalls => ErrorCode::ErrorUnavailable,
                FsError::Forgotten => ErrorCode::ErrorInvalid,
                error => return common::Error::posix(error.errno(), self.to_string()),
            },
            Refusal::NoServers(_) => ErrorCode::ErrorNoServers,
            Refusal::NoSpace(_) => {
                let error = common::Error::new(ErrorCode::ErrorNoSpace, self.to_string());
                return common::Error { errno: ENOSPC, ..error };
            }
            Refusal::TooManyOpen => return common::Error::posix(ENFILE, self.to_string()),
            Refusal::Unavailable(_) | Refusal::Unanswered(_) => ErrorCode::ErrorUnavailable,
            Refusal::Invalid(_) => ErrorCode::ErrorInvalid,
            Refusal::SessionEnded => ErrorCode::ErrorSessionEnded,
        };
        common::Error::new(code, self.to_string())
    }
}

impl From<NotTaken> for Refusal {
    fn from(e: NotTaken) -> Self {
        Refusal::Unanswered(e.into())
    }
}

impl From<MaybeApplied> for Refusal {
    fn from(e: MaybeApplied) -> Self {
        Refusal::Unanswered(e.into())
    }
}

impl From<Malformed> for Refusal {
    fn from(e: Malformed) -> Self {
        Refusal::Invalid(e.to_string())
    }
}

/// With what `state` knows of it beyond.
pub fn attr(state: &meta::State, a: meta::Attr) -> wire::Attr {
    wire::Attr {
        inode: a.inode.0,
        kind: kind(a.kind).into(),
        mode: a.mode,
        uid: a.uid,
        gid: a.gid,
        nlink: a.nlink,
        size: a.size,
        rdev: a.rdev,
        atime_ns: a.atime_ns,
        mtime_ns: a.mtime_ns,
        ctime_ns: a.ctime_ns,
        btime_ns: a.btime_ns,
        generation: a.generation,
        goal: a.goal.into(),
        allocated_bytes: a.allocated_bytes,
        no_xattrs: !state.has_xattrs(a.inode),
    }
}

fn kind(kind: meta::Kind) -> wire::FileKind {
    match kind {
        meta::Kind::Regular => wire::FileKind::KindRegular,
        meta::Kind::Directory => wire::FileKind::KindDirectory,
        meta::Kind::Symlink => wire::FileKind::KindSymlink,
        meta::Kind::Fifo => wire::FileKind::KindFifo,
        meta::Kind::Socket => wire::FileKind::KindSocket,
        meta::Kind::CharacterDevice => wire::FileKind::KindCharacterDevice,
        meta::Kind::BlockDevice => wire::FileKind::KindBlockDevice,
    }
}

pub fn kind_of(kind: wire::FileKind) -> Result<meta::Kind, Refusal> {
    Ok(match kind {
        wire::FileKind::KindRegular => meta::Kind::Regular,
        wire::FileKind::KindDirectory => meta::Kind::Directory,
        wire::FileKind::KindSymlink => meta::Kind::Symlink,
        wire::FileKind::KindFifo => meta::Kind::Fifo,
        wire::FileKind::KindSocket => meta::Kind::Socket,
        wire::FileKind::KindCharacterDevice => meta::Kind::CharacterDevice,
        wire::FileKind::KindBlockDevice => meta::Kind::BlockDevice,
        wire::FileKind::KindUnspecified => return Err(Refusal::Invalid("no kind of file".into())),
    })
}

pub fn goal_of(goal: u32) -> Result<u8, Refusal> {
    u8::try_from(goal).map_err(|_| Refusal::Fs {
        what: format!("goal {goal}"),
        error: FsError::InvalidGoal,
    })
}

pub fn set_attr(s: &wire::SetAttr) -> meta::SetAttr {
    let time = |now: bool, at: Option<i64>| {
        if now {
            Some(meta::SetTime::Now)
        } else {
            at.map(meta::SetTime::At)
        }
    };
    meta::SetAttr {
        mode: s.mode,
        uid: s.uid,
        gid: s.gid,
        size: s.size,
        atime: time(s.atime_now, s.atime_ns),
        mtime: time(s.mtime_now, s.mtime_ns),
        ctime_ns: s.ctime_ns,
        kill_suid: s.kill_suid,
    }
}

/// `plain`: with nothing but inodes and kinds.
pub fn directory_page(state: &meta::State, page: meta::DirectoryPage, plain: bool) -> wire::DirectoryPage {
    let attr_of = |a: meta::Attr| match plain {
        true => wire::Attr {
            inode: a.inode.0,
            kind: kind(a.kind).into(),
            ..Default::default()
        },
        false => attr(state, a),
    };
    let entries = page.entries.into_iter().map(|entry| wire::Entry {
        name: Bytes::from(entry.name),
        cookie: entry.cookie,
        attr: Some(attr_of(entry.attr)),
    });
    wire::DirectoryPage {
        entries: entries.collect(),
        end: page.end,
        directory: Some(attr(state, page.directory)),
        parent: page.parent.0,
    }
}

pub fn trash_page(state: &meta::State, page: meta::TrashPage) -> wire::TrashPage {
    let entries = page.entries.into_iter().map(|t| wire::Trashed {
        inode: t.inode.0,
        path: Bytes::from(t.path),
        deleted_ns: t.deleted_ns,
        expires_ns: t.expires_ns,
        attr: Some(attr(state, t.attr)),
    });
    wire::TrashPage {
        entries: entries.collect(),
        end: page.end,
        total_bytes: page.total_bytes,
    }
}

/// For messages: `/dir/name`, or the inode where no path is known.
pub fn shown(state: &meta::State, parent: Inode, name: &[u8]) -> String {
    let path = state
        .path_of(parent)
        .unwrap_or_else(|_| format!("inode {parent}").into_bytes());
    let separator = if path.ends_with(b"/") { "" } else { "/" };
    format!(
        "{}{separator}{}",
        String::from_utf8_lossy(&path),
        String::from_utf8_lossy(name)
    )
}

pub fn shown_inode(state: &meta::State, inode: Inode) -> String {
    match state.path_of(inode) {
        Ok(path) => String::from_utf8_lossy(&path).into_owned(),
        Err(_) => format!("inode {inode}"),
    }
}
