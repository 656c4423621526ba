//! What the mount needs from a file system, in POSIX's words: nothing here knows of FUSE, so that an implementation is
//! tested by calling it.
use crate::error::{Error, Result};
use bytes::Bytes;
use cairn_client::{Attr, FileKind, Invalidation, OpenMode, RenameFlags, SetAttr, XattrFlags};
use cairn_types::Inode;
use std::future::Future;
use std::time::Duration;
use tokio::sync::mpsc;

/// Who asks. Supplementary groups are not known: permissions were judged by the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
}

/// An open file.
#[derive(Debug)]
pub struct Opened<H> {
    pub handle: H,
    /// The pages that the kernel has of this inode are those of the file as it is now.
    pub keep_cache: bool,
}

/// One name of a directory.
#[derive(Debug, Clone)]
pub struct DirectoryItem {
    pub name: Bytes,
    /// Where a listing goes on behind this name.
    pub offset: u64,
    pub attr: Attr,
}

/// Some names of a directory, in order.
#[derive(Debug, Clone)]
pub struct DirectoryListing {
    pub items: Vec<DirectoryItem>,
    /// There are no more behind them.
    pub end: bool,
}

/// What df shows. Bytes are of files, not of their copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statistics {
    pub total_bytes: u64,
    pub available_bytes: u64,
    pub files: u64,
    /// How many more there is room for.
    pub files_free: u64,
}

fn absent<T: Send>() -> impl Future<Output = Result<T>> + Send {
    std::future::ready(Err(Error::NotImplemented))
}

/// Every call may run beside every other. What is not implemented answers ENOSYS.
#[allow(unused_variables)] // the defaults' arguments keep their names for the reader
pub trait FileSystem: Send + Sync + 'static {
    /// Dropping the last clone closes the file.
    type Handle: Clone + Send + Sync + 'static;

    fn lookup(&self, parent: Inode, name: &[u8]) -> impl Future<Output = Result<Attr>> + Send {
        absent()
    }
    fn getattr(&self, ino: Inode) -> impl Future<Output = Result<Attr>> + Send {
        absent()
    }
    fn setattr(&self, caller: Caller, ino: Inode, change: SetAttr) -> impl Future<Output = Result<Attr>> + Send {
        absent()
    }
    /// What `name` leads to (`None`: nothing) without asking anybody, if that is known, and how long ago it was proved.
    fn known_name(&self, parent: Inode, name: &[u8]) -> Option<(Option<Attr>, Duration)> {
        None
    }
    fn known_attr(&self, ino: Inode) -> Option<(Attr, Duration)> {
        None
    }

    /// All of a directory, as `readdir` gives it from the start, and as `known_name`.
    fn known_listing(&self, ino: Inode) -> Option<(DirectoryListing, Duration)> {
        None
    }

    /// As `open`, if nobody has to be asked for it.
    fn open_known(&self, ino: Inode, mode: OpenMode) -> Option<Opened<Self::Handle>> {
        None
    }

    /// It was opened for reading: the files that are likely to be next, if it is worth while to `prepare` them.
    fn next_after(&self, ino: Inode) -> Vec<Inode> {
        Vec::new()
    }

    /// Makes ready what their opens and first reads will want.
    fn prepare(&self, files: Vec<Inode>) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// Lets go in time what was prepared in vain.
    fn let_go(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// The kernel has dropped the inode and its pages.
    fn forget(&self, ino: Inode) {}

    /// At least one item, if there is one after `offset` (0: from the start, `.` and `..` first). `plain`: of the
    /// attributes only inode and kind are wanted.
    fn readdir(&self, ino: Inode, offset: u64, plain: bool) -> impl Future<Output = Result<DirectoryListing>> + Send {
        absent()
    }
    /// A directory, regular file or special file; `mode` is what the umask has left.
    fn make(
        &self,
        caller: Caller,
        parent: Inode,
        name: &[u8],
        kind: FileKind,
        mode: u32,
        rdev: u32,
    ) -> impl Future<Output = Result<Attr>> + Send {
        absent()
    }
    fn symlink(
        &self,
        caller: Caller,
        parent: Inode,
        name: &[u8],
        target: Bytes,
    ) -> impl Future<Output = Result<Attr>> + Send {
        absent()
    }
    fn readlink(&self, ino: Inode) -> impl Future<Output = Result<Bytes>> + Send {
        absent()
    }
    fn link(&self, ino: Inode, parent: Inode, name: &[u8]) -> impl Future<Output = Result<Attr>> + Send {
        absent()
    }
    fn unlink(&self, parent: Inode, name: &[u8]) -> impl Future<Output = Result<()>> + Send {
        absent()
    }
    fn rmdir(&self, parent: Inode, name: &[u8]) -> impl Future<Output = Result<()>> + Send {
        absent()
    }
    fn rename(
        &self,
        parent: Inode,
        name: &[u8],
        new_parent: Inode,
        new_name: &[u8],
        flags: RenameFlags,
    ) -> impl Future<Output = Result<()>> + Send {
        absent()
    }

    /// `exclusive`: EEXIST when the name is there, else ESTALE.
    fn create(
        &self,
        caller: Caller,
        parent: Inode,
        name: &[u8],
        mode: u32,
        exclusive: bool,
    ) -> impl Future<Output = Result<(Attr, Opened<Self::Handle>)>> + Send {
        absent()
    }
    fn open(
        &self,
        caller: Caller,
        ino: Inode,
        mode: OpenMode,
    ) -> impl Future<Output = Result<Opened<Self::Handle>>> + Send {
        absent()
    }
    /// Short only at the file's end.
    fn read(&self, handle: &Self::Handle, offset: u64, len: usize) -> impl Future<Output = Result<Bytes>> + Send {
        absent()
    }
    /// All of `data`; `kill_suid`: the writer has no privilege.
    fn write(
        &self,
        handle: &Self::Handle,
        offset: u64,
        data: Bytes,
        kill_suid: bool,
    ) -> impl Future<Output = Result<()>> + Send {
        absent()
    }
    /// At each close(2).
    fn flush(&self, handle: &Self::Handle) -> impl Future<Output = Result<()>> + Send {
        absent()
    }
    fn fsync(&self, handle: &Self::Handle) -> impl Future<Output = Result<()>> + Send {
        absent()
    }
    /// After the last close(2) and munmap(2); nobody hears the answer.
    fn release(&self, handle: Self::Handle) -> impl Future<Output = Result<()>> + Send {
        drop(handle);
        std::future::ready(Ok(()))
    }
    /// fallocate(2) with `keep_size` or without.
    fn allocate(
        &self,
        handle: &Self::Handle,
        offset: u64,
        len: u64,
        keep_size: bool,
    ) -> impl Future<Output = Result<()>> + Send {
        absent()
    }
    /// Zeros: a punched hole (`keep_size`) or a zeroed range.
    fn zero(
        &self,
        handle: &Self::Handle,
        offset: u64,
        len: u64,
        keep_size: bool,
    ) -> impl Future<Output = Result<()>> + Send {
        absent()
    }
    /// SEEK_HOLE or SEEK_DATA.
    fn seek(&self, handle: &Self::Handle, offset: u64, hole: bool) -> impl Future<Output = Result<u64>> + Send {
        absent()
    }
    /// copy_file_range(2): how much was copied, perhaps less than `len`; 0 at the end of `from`.
    fn copy(
        &self,
        from: &Self::Handle,
        from_offset: u64,
        to: &Self::Handle,
        to_offset: u64,
        len: u64,
    ) -> impl Future<Output = Result<u64>> + Send {
        absent()
    }

    fn getxattr(&self, ino: Inode, name: &[u8]) -> impl Future<Output = Result<Bytes>> + Send {
        absent()
    }
    fn setxattr(
        &self,
        ino: Inode,
        name: &[u8],
        value: Bytes,
        flags: XattrFlags,
    ) -> impl Future<Output = Result<()>> + Send {
        absent()
    }
    /// Names, each with a zero byte behind it, as listxattr(2) has them.
    fn listxattr(&self, caller: Caller, ino: Inode) -> impl Future<Output = Result<Bytes>> + Send {
        absent()
    }
    fn removexattr(&self, ino: Inode, name: &[u8]) -> impl Future<Output = Result<()>> + Send {
        absent()
    }
    fn statfs(&self) -> impl Future<Output = Result<Statistics>> + Send {
        absent()
    }

    /// What others change, for the kernel's caches; taken once.
    fn invalidations(&self) -> Option<mpsc::Receiver<Invalidation>> {
        None
    }
    /// Another client changed the inode, with `data` its contents: the kernel's pages are about to go.
    fn changed(&self, ino: Inode, data: bool) {}
    /// Inodes of which the kernel may have pages, when all are to go.
    fn cached(&self) -> Vec<Inode> {
        Vec::new()
    }
}
