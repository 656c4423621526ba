//! What callers say and hear: attributes, changes of them, directory pages, locations. Names are bytes, as POSIX has
//! them; times are nanoseconds since 1970, taken at the master.
use bytes::Bytes;
use cairn_proto::session as wire;
use cairn_proto::{Malformed, common, required};
use cairn_types::{ChunkHandle, DiskId, Inode, ServerId, Version};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    Regular,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharacterDevice,
    BlockDevice,
}

impl From<FileKind> for wire::FileKind {
    fn from(kind: FileKind) -> Self {
        match kind {
            FileKind::Regular => wire::FileKind::KindRegular,
            FileKind::Directory => wire::FileKind::KindDirectory,
            FileKind::Symlink => wire::FileKind::KindSymlink,
            FileKind::Fifo => wire::FileKind::KindFifo,
            FileKind::Socket => wire::FileKind::KindSocket,
            FileKind::CharacterDevice => wire::FileKind::KindCharacterDevice,
            FileKind::BlockDevice => wire::FileKind::KindBlockDevice,
        }
    }
}

impl TryFrom<wire::FileKind> for FileKind {
    type Error = Malformed;
    fn try_from(kind: wire::FileKind) -> Result<Self, Malformed> {
        Ok(match kind {
            wire::FileKind::KindUnspecified => return Err(Malformed::Range("kind")),
            wire::FileKind::KindRegular => FileKind::Regular,
            wire::FileKind::KindDirectory => FileKind::Directory,
            wire::FileKind::KindSymlink => FileKind::Symlink,
            wire::FileKind::KindFifo => FileKind::Fifo,
            wire::FileKind::KindSocket => FileKind::Socket,
            wire::FileKind::KindCharacterDevice => FileKind::CharacterDevice,
            wire::FileKind::KindBlockDevice => FileKind::BlockDevice,
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attr {
    pub ino: Inode,
    pub kind: FileKind,
    /// Permission bits, 07777.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    /// Bytes; with what this client has written and not committed yet.
    pub size: u64,
    pub rdev: u32,
    pub atime_ns: i64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    pub btime_ns: i64,
    /// Raised by every commit of length or mtime: pages cached under another generation are stale.
    pub generation: u64,
    pub goal: u8,
    /// In chunks that exist, holes not counted.
    pub allocated_bytes: u64,
    /// Certainly no extended attributes.
    pub no_xattrs: bool,
    /// This client has written what is not committed yet: size and times will be others without anybody's push.
    pub being_written: bool,
}

impl Attr {
    /// Before the master has said anything.
    pub(crate) fn unknown(ino: Inode) -> Self {
        Self {
            ino,
            kind: FileKind::Regular,
            mode: 0,
            uid: 0,
            gid: 0,
            nlink: 0,
            size: 0,
            rdev: 0,
            atime_ns: 0,
            mtime_ns: 0,
            ctime_ns: 0,
            btime_ns: 0,
            generation: 0,
            goal: 0,
            allocated_bytes: 0,
            no_xattrs: false,
            being_written: false,
        }
    }
}

impl TryFrom<wire::Attr> for Attr {
    type Error = Malformed;
    fn try_from(a: wire::Attr) -> Result<Self, Malformed> {
        Ok(Self {
            ino: Inode(a.inode),
            kind: a.kind().try_into()?,
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
            goal: u8::try_from(a.goal).map_err(|_| Malformed::Range("goal"))?,
            allocated_bytes: a.allocated_bytes,
            no_xattrs: a.no_xattrs,
            being_written: false,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// By the master's clock.
    Now,
    /// Nanoseconds since 1970.
    At(i64),
}

/// Changes of attributes; what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetAttr {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Cuts or extends; this client's own writes are flushed first.
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
    /// `Now` is what every change does anyway.
    pub ctime: Option<SetTime>,
    /// The caller has no privilege: suid and sgid go when the size changes.
    pub kill_suid: bool,
}

/// A directory, symbolic link or special file to be made.
#[derive(Debug, Clone)]
pub struct Make {
    pub kind: FileKind,
    /// After the umask.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    /// Of a symbolic link.
    pub target: Bytes,
}

/// A regular file to be created and opened.
#[derive(Debug, Clone, Default)]
pub struct Create {
    /// After the umask.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// O_EXCL: EEXIST when the name is there.
    pub exclusive: bool,
    /// O_TRUNC, for a file that exists.
    pub truncate: bool,
    /// Wanted replicas; 0: as the directory says.
    pub goal: u8,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenMode {
    pub read: bool,
    pub write: bool,
    pub append: bool,
    pub truncate: bool,
}

impl OpenMode {
    pub const READ: Self = Self {
        read: true,
        write: false,
        append: false,
        truncate: false,
    };
    pub const WRITE: Self = Self {
        read: false,
        write: true,
        append: false,
        truncate: false,
    };
    pub const READ_WRITE: Self = Self {
        read: true,
        write: true,
        append: false,
        truncate: false,
    };
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RenameFlags {
    pub no_replace: bool,
    pub exchange: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct XattrFlags {
    pub create: bool,
    pub replace: bool,
}

#[derive(Debug, Clone)]
pub struct DirectoryEntry {
    pub name: Bytes,
    /// Pass it as `after` to go on behind this entry.
    pub cookie: u64,
    pub attr: Attr,
}

#[derive(Debug, Clone)]
pub struct DirectoryPage {
    pub entries: Vec<DirectoryEntry>,
    pub end: bool,
    pub directory: Attr,
    pub parent: Inode,
}

impl TryFrom<wire::DirectoryPage> for DirectoryPage {
    type Error = Malformed;
    fn try_from(page: wire::DirectoryPage) -> Result<Self, Malformed> {
        let entry = |e: wire::Entry| {
            let attr = required(e.attr, "entry.attr")?.try_into()?;
            Ok(DirectoryEntry {
                name: e.name,
                cookie: e.cookie,
                attr,
            })
        };
        Ok(Self {
            entries: page.entries.into_iter().map(entry).collect::<Result<_, Malformed>>()?,
            end: page.end,
            directory: required(page.directory, "directory")?.try_into()?,
            parent: Inode(page.parent),
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatFs {
    /// Raw, over all writable disks, less the reserve; divided by `goal` it is what users see.
    pub total_bytes: u64,
    pub available_bytes: u64,
    pub goal: u32,
    pub files: u64,
    pub trash_bytes: u64,
}

#[derive(Debug, Clone)]
pub struct Resolved {
    /// The deepest directory reached.
    pub parent: Inode,
    /// The last name; empty for the root.
    pub name: Bytes,
    /// `None`: the name does not exist in `parent`, which does.
    pub attr: Option<Attr>,
}

/// A member of a chunk's chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub server: ServerId,
    pub disk: DiskId,
    /// host:port of its data plane.
    pub address: String,
}

impl TryFrom<common::Member> for Member {
    type Error = Malformed;
    fn try_from(m: common::Member) -> Result<Self, Malformed> {
        Ok(Self {
            server: m.server_id()?,
            disk: m.disk_id()?,
            address: m.address,
        })
    }
}

impl From<&Member> for common::Member {
    fn from(m: &Member) -> Self {
        common::Member::new(m.server, m.disk, m.address.clone())
    }
}

/// A chunk and who holds it, as the master's log has it; the first member is the primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    pub handle: ChunkHandle,
    pub version: Version,
    pub members: Vec<Member>,
    pub inode: Inode,
    /// The chunk's place in its file.
    pub index: u32,
    /// The last version that was installed from a suspect source (protocol R3, R12).
    pub from_suspect: Option<Version>,
    /// No commit has named it since it was created: a member may have no replica yet (protocol R10).
    pub granted: bool,
    /// Of the master that gave leave to write it, where that was asked for (protocol R12).
    pub epoch: u64,
}

impl TryFrom<common::Location> for Location {
    type Error = Malformed;
    fn try_from(l: common::Location) -> Result<Self, Malformed> {
        Ok(Self {
            handle: ChunkHandle(l.handle),
            version: required(l.version, "location.version")?.into(),
            members: l.members.into_iter().map(Member::try_from).collect::<Result<_, _>>()?,
            inode: Inode(l.inode),
            index: l.index,
            from_suspect: l.from_suspect.map(Version::from),
            granted: l.granted,
            epoch: l.epoch,
        })
    }
}

#[derive(Debug, Clone)]
pub struct Trashed {
    pub ino: Inode,
    /// Where it was.
    pub path: Bytes,
    pub deleted_ns: i64,
    pub expires_ns: i64,
    pub attr: Attr,
}

#[derive(Debug, Clone)]
pub struct TrashPage {
    pub entries: Vec<Trashed>,
    pub end: bool,
    pub total_bytes: u64,
}

impl TryFrom<wire::TrashPage> for TrashPage {
    type Error = Malformed;
    fn try_from(page: wire::TrashPage) -> Result<Self, Malformed> {
        let entry = |t: wire::Trashed| {
            Ok(Trashed {
                ino: Inode(t.inode),
                path: t.path,
                deleted_ns: t.deleted_ns,
                expires_ns: t.expires_ns,
                attr: required(t.attr, "trashed.attr")?.try_into()?,
            })
        };
        Ok(Self {
            entries: page.entries.into_iter().map(entry).collect::<Result<_, Malformed>>()?,
            end: page.end,
            total_bytes: page.total_bytes,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrashEmptied {
    pub count: u64,
    pub bytes: u64,
}

/// What one replica answered, for fsck and scrub tools.
#[derive(Debug, Clone)]
pub struct ReplicaRead {
    /// Fewer than asked for only where the replica ends.
    pub data: Bytes,
    /// The replica's own length.
    pub chunk_length: u64,
}

/// Something that this client may have cached has changed by another's doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invalidated {
    /// Attributes, with `data` the contents too.
    Inode { ino: Inode, data: bool },
    /// An entry of a directory.
    Entry { parent: Inode, name: Bytes },
    /// More than fits: forget all.
    Everything,
}
