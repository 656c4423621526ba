//! fuser's words into ours, and back.
use crate::error::{Error, Result};
use crate::filesystem::{Caller, Opened};
use bytes::Bytes;
use cairn_client::{Attr, FileKind, SetTime};
use cairn_types::Inode;
use fuser::{FileAttr, FileType, FopenFlags, Generation, INodeNo, OpenAccMode, OpenFlags, Request, TimeOrNow};
use rustix::fs::OFlags;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What stat(2) advises for one read or write. A block with one checksum is read and written without its neighbours.
const ADVISED_BYTES: u32 = cairn_types::layout::BLOCK_SIZE_BYTES as u32;
/// Inode numbers are never used again, so that one generation is enough for all.
pub(super) const GENERATION: Generation = Generation(0);

/// With inode 0 the kernel remembers that there is no such name.
pub(super) const NO_SUCH_NAME: FileAttr = FileAttr {
    ino: INodeNo(0),
    size: 0,
    blocks: 0,
    atime: UNIX_EPOCH,
    mtime: UNIX_EPOCH,
    ctime: UNIX_EPOCH,
    crtime: UNIX_EPOCH,
    kind: FileType::RegularFile,
    perm: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: 0,
    flags: 0,
};

pub(super) fn inode(ino: INodeNo) -> Inode {
    Inode(ino.0)
}

pub(super) fn bytes(name: &OsStr) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

pub(super) fn caller(req: &Request) -> Caller {
    Caller {
        uid: req.uid(),
        gid: req.gid(),
    }
}

pub(super) fn has(flags: OpenFlags, wanted: OFlags) -> bool {
    OFlags::from_bits_retain(flags.0 as u32).contains(wanted)
}

/// `direct_io`: the kernel may be told of direct I/O.
pub(super) fn fopen_flags<H>(opened: &Opened<H>, flags: OpenFlags, direct_io: bool) -> FopenFlags {
    let mut fopen = FopenFlags::empty();
    if direct_io && has(flags, OFlags::DIRECT) {
        // several writes within the file's size at a time, as local file systems have it (else one after the other),
        // as long as nobody has it open for the page cache
        fopen |= FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
    }
    fopen.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_cache);
    // nothing to flush, and close(2) need not wait
    fopen.set(FopenFlags::FOPEN_NOFLUSH, flags.acc_mode() == OpenAccMode::O_RDONLY);
    fopen
}

pub(super) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Regular => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharacterDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

/// Of mknod(2)'s mode; no type means a regular file.
pub(super) fn kind_of(mode: u32) -> Result<FileKind> {
    use rustix::fs::FileType as Linux;
    Ok(match Linux::from_raw_mode(mode) {
        Linux::RegularFile => FileKind::Regular,
        Linux::Fifo => FileKind::Fifo,
        Linux::Socket => FileKind::Socket,
        Linux::CharacterDevice => FileKind::CharacterDevice,
        Linux::BlockDevice => FileKind::BlockDevice,
        Linux::Unknown if mode & 0o170_000 == 0 => FileKind::Regular,
        _ => return Err(Error::Invalid("the type of file")),
    })
}

pub(super) fn file_attr(a: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(a.ino.0),
        size: a.size,
        blocks: a.allocated_bytes.div_ceil(512),
        atime: system_time(a.atime_ns),
        mtime: system_time(a.mtime_ns),
        ctime: system_time(a.ctime_ns),
        crtime: system_time(a.btime_ns),
        kind: file_type(a.kind),
        perm: (a.mode & 0o7777) as u16,
        nlink: a.nlink,
        uid: a.uid,
        gid: a.gid,
        rdev: a.rdev,
        blksize: ADVISED_BYTES,
        flags: 0,
    }
}

fn system_time(ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    if ns < 0 {
        UNIX_EPOCH - distance
    } else {
        UNIX_EPOCH + distance
    }
}

pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(nanoseconds(time)),
    }
}

/// The time that the kernel sent. Before 1970 fuser subtracts the nanoseconds that belong on top of the seconds
/// (-2 s + 0.5 s becomes -2.5 s): taken back here.
fn nanoseconds(time: SystemTime) -> i64 {
    let ns = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => after.as_nanos() as i128,
        Err(before) => {
            let before = before.duration();
            -(i128::from(before.as_secs()) * 1_000_000_000) + i128::from(before.subsec_nanos())
        }
    };
    i64::try_from(ns).unwrap_or(if ns < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_survive_fusers_conversion() {
        // the kernel's {-2, 500_000_000} is 1.5 s before 1970; fuser makes 2.5 s before of it
        let from_fuser = UNIX_EPOCH - Duration::new(2, 500_000_000);
        assert_eq!(nanoseconds(from_fuser), -1_500_000_000);
        assert_eq!(nanoseconds(UNIX_EPOCH - Duration::from_secs(3)), -3_000_000_000);
        assert_eq!(nanoseconds(UNIX_EPOCH + Duration::new(1, 5)), 1_000_000_005);
        assert_eq!(system_time(-1_500_000_000), UNIX_EPOCH - Duration::from_millis(1500));
    }
}
