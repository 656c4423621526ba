//! The one module that names `fuser`: requests become calls of a [`FileSystem`], results become answers.
//!
//! fuser's threads read requests and poll each call once where it stands: what is buffered or cached is answered
//! without changing threads. What has to wait goes to the tokio runtime with the reply, which it owns, as soon as what
//! it waits for is there, so a thread is never held up ([`Bridge`]). Each request is answered within the timeout; work
//! that takes longer goes on to its own end (half a call to the master cannot be taken back), and what it then opened is
//! closed.
mod convert;
mod invalidate;
mod listing;

use crate::error::{Error, Result};
use crate::filesystem::{DirectoryItem, DirectoryListing, FileSystem, Opened};
use bytes::Bytes;
use cairn_client::{Attr, FileKind, OpenMode, SetAttr, XattrFlags};
use cairn_io::inline::Bridge;
use cairn_types::Inode;
use cairn_types::limits::FRAME_PAYLOAD_BYTES_MAX;
use convert::{
    GENERATION, NO_SUCH_NAME, bytes, caller, file_attr, file_type, fopen_flags, has, inode, kind_of, set_time,
};
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags,
    ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use futures::FutureExt;
pub(crate) use invalidate::invalidate;
use listing::{Listings, at_once};
use rustix::fs::OFlags;
use rustix::io::Errno as Linux;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::future::Future;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::runtime::Handle;
use tokio::time::Instant;

/// One request of the kernel carries at most this much: a frame of the data plane.
const REQUEST_BYTES_MAX: u32 = FRAME_PAYLOAD_BYTES_MAX as u32;
/// Requests that the kernel has under way by itself: read-ahead, and writes of mapped pages.
const BACKGROUND_MAX: u16 = 64;
/// df's unit.
const STATFS_UNIT_BYTES: u32 = 4096;

/// The kernel's caches and patience.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub timeout: Duration,
    pub attr_ttl: Duration,
    pub entry_ttl: Duration,
}

impl Limits {
    /// How long the kernel may keep a name that was asked for, or proved, so long ago.
    fn of_name(&self, age: Duration) -> Duration {
        self.entry_ttl.saturating_sub(age)
    }

    /// As `of_name`. What is being written gets other times when it is committed, of which nobody tells the kernel.
    fn of_attr(&self, attr: &Attr, age: Duration) -> Duration {
        match attr.being_written {
            true => Duration::ZERO,
            false => self.attr_ttl.saturating_sub(age),
        }
    }

    /// Where the kernel takes one figure for the name and the attributes.
    fn of_both(&self, attr: &Attr, age: Duration) -> Duration {
        self.of_attr(attr, age).min(self.of_name(age))
    }
}

/// What a FUSE connection and the mount share.
pub(crate) struct Shared<F: FileSystem> {
    fs: Arc<F>,
    bridge: Bridge,
    limits: Limits,
    open: Mutex<BTreeMap<u64, F::Handle>>,
    next_handle: AtomicU64,
    /// Directories that requests are changing, how many each: the kernel holds their locks meanwhile.
    changing: Mutex<BTreeMap<Inode, usize>>,
    listings: Listings,
    /// What is open for direct I/O can be mapped shared all the same: the kernel keeps that right.
    direct_io: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<F: FileSystem> Shared<F> {
    pub fn new(fs: Arc<F>, runtime: Handle, limits: Limits) -> Self {
        Self {
            fs,
            bridge: Bridge::new(runtime),
            limits,
            open: Mutex::default(),
            next_handle: AtomicU64::new(1),
            changing: Mutex::default(),
            listings: Listings::default(),
            direct_io: AtomicBool::new(false),
        }
    }

    /// Keeps what was opened with `flags`, and says how the kernel is to treat it.
    fn opened(&self, opened: Opened<F::Handle>, flags: OpenFlags) -> (FileHandle, FopenFlags) {
        let fopen = fopen_flags(&opened, flags, self.direct_io.load(Ordering::Relaxed));
        (self.keep(opened.handle), fopen)
    }

    fn keep(&self, handle: F::Handle) -> FileHandle {
        let number = self.next_handle.fetch_add(1, Ordering::Relaxed);
        lock(&self.open).insert(number, handle);
        FileHandle(number)
    }

    fn handle(&self, number: FileHandle) -> Result<F::Handle> {
        lock(&self.open).get(&number.0).cloned().ok_or(Error::BadHandle)
    }

    /// Flushes every open file; errors reach the programs that have them open, here they are only logged.
    pub async fn flush_all(&self) {
        let open: Vec<_> = lock(&self.open).values().cloned().collect();
        let flushes = open.iter().map(|handle| self.fs.flush(handle));
        for e in futures::future::join_all(flushes)
            .await
            .into_iter()
            .filter_map(Result::err)
        {
            tracing::warn!(error = %e, "a file could not be flushed before unmounting");
        }
    }
}

/// While it lives, a request changes the directory.
struct Changing<F: FileSystem>(Arc<Shared<F>>, Inode);

impl<F: FileSystem> Drop for Changing<F> {
    fn drop(&mut self) {
        let mut changing = lock(&self.0.changing);
        if let Some(count) = changing.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                changing.remove(&self.1);
            }
        }
    }
}

fn found_or_not(limits: &Limits, found: Option<Attr>, age: Duration, reply: ReplyEntry) {
    let attr_ttl = found.as_ref().map_or(Duration::ZERO, |attr| limits.of_attr(attr, age));
    let attr = found.map_or(NO_SUCH_NAME, |attr| file_attr(&attr));
    reply.entry_with_ttls(&attr_ttl, &limits.of_name(age), &attr, GENERATION);
}

/// A reply that can say no.
trait Fail: Send + 'static {
    fn fail(self, errno: Errno);
}
macro_rules! fail {
    ($($reply:ty),*) => {$(
        impl Fail for $reply {
            fn fail(self, errno: Errno) {
                self.error(errno);
            }
        }
    )*};
}
fail!(
    ReplyAttr,
    ReplyCreate,
    ReplyData,
    ReplyDirectory,
    ReplyDirectoryPlus,
    ReplyEmpty,
    ReplyEntry,
    ReplyLseek,
    ReplyOpen,
    ReplyStatfs,
    ReplyWrite,
    ReplyXattr
);

fn refuse(op: &'static str, ino: u64, reply: impl Fail, error: &Error) {
    if error.is_ordinary() {
        tracing::trace!(op, ino, error = %error, "refused");
    } else {
        tracing::warn!(op, ino, error = %error, "failed");
    }
    reply.fail(Errno::from_i32(error.errno()));
}

pub(crate) struct Adapter<F: FileSystem>(pub Arc<Shared<F>>);

impl<F: FileSystem> Adapter<F> {
    /// Does `work` and answers `reply` with it, in time.
    fn run<T: Send + 'static, R: Fail>(
        &self,
        op: &'static str,
        ino: INodeNo,
        reply: R,
        work: impl Future<Output = Result<T>> + Send + 'static,
        answer: impl FnOnce(R, T) + Send + 'static,
    ) {
        let (ino, timeout) = (ino.0, self.0.limits.timeout);
        // an async block has room for what it is given and for what it awaits: boxed, it is not moved from one to the next
        let mut work = Box::pin(work);
        self.0.bridge.run(|under_way| async move {
            let done = tokio::time::timeout(timeout, &mut work).await;
            drop(under_way);
            match done {
                Ok(Ok(done)) => answer(reply, done),
                Ok(Err(e)) => refuse(op, ino, reply, &e),
                Err(_) => {
                    tracing::warn!(
                        op,
                        ino,
                        ?timeout,
                        "a request had no result in time; it is answered with EIO"
                    );
                    reply.fail(Errno::EIO);
                    if let Err(e) = work.await {
                        tracing::warn!(op, ino, error = %e, "failed after its time");
                    }
                }
            }
        });
    }

    /// While the program is busy with the file before.
    fn prepare(&self, next: Vec<Inode>) {
        if next.is_empty() {
            return;
        }
        let fs = self.0.fs.clone();
        self.0.bridge.run(|under_way| async move {
            fs.prepare(next).await;
            drop(under_way);
            fs.let_go().await;
        });
    }

    /// Work that changes a directory.
    fn changing<T, W>(&self, directory: INodeNo, work: W) -> impl Future<Output = T> + use<T, W, F>
    where
        W: Future<Output = T>,
    {
        let directory = inode(directory);
        *lock(&self.0.changing).entry(directory).or_insert(0) += 1;
        let changing = Changing(self.0.clone(), directory);
        work.inspect(move |_| drop(changing))
    }

    /// Work on an open file.
    fn with_handle<T: Send + 'static, R: Fail, W: Future<Output = Result<T>> + Send + 'static>(
        &self,
        op: &'static str,
        ino: INodeNo,
        number: FileHandle,
        reply: R,
        work: impl FnOnce(Arc<F>, F::Handle) -> W,
        answer: impl FnOnce(R, T) + Send + 'static,
    ) {
        match self.0.handle(number) {
            Ok(handle) => self.run(op, ino, reply, work(self.0.fs.clone(), handle), answer),
            Err(e) => refuse(op, ino.0, reply, &e),
        }
    }

    /// Work that ends with a name and what it leads to.
    fn entry(
        &self,
        op: &'static str,
        parent: INodeNo,
        reply: ReplyEntry,
        work: impl Future<Output = Result<Attr>> + Send + 'static,
    ) {
        let (limits, asked) = (self.0.limits, Instant::now());
        self.run(op, parent, reply, work, move |reply, attr| {
            let age = asked.elapsed();
            let (attr_ttl, entry_ttl) = (limits.of_attr(&attr, age), limits.of_name(age));
            reply.entry_with_ttls(&attr_ttl, &entry_ttl, &file_attr(&attr), GENERATION);
        });
    }

    fn attr(
        &self,
        op: &'static str,
        ino: INodeNo,
        reply: ReplyAttr,
        work: impl Future<Output = Result<Attr>> + Send + 'static,
    ) {
        let (limits, asked) = (self.0.limits, Instant::now());
        self.run(op, ino, reply, work, move |reply, attr| {
            reply.attr(&limits.of_attr(&attr, asked.elapsed()), &file_attr(&attr))
        });
    }

    fn done(
        &self,
        op: &'static str,
        ino: INodeNo,
        reply: ReplyEmpty,
        work: impl Future<Output = Result<()>> + Send + 'static,
    ) {
        self.run(op, ino, reply, work, |reply, ()| reply.ok());
    }

    fn xattr(
        &self,
        op: &'static str,
        ino: INodeNo,
        size: u32,
        reply: ReplyXattr,
        work: impl Future<Output = Result<Bytes>> + Send + 'static,
    ) {
        let checked = work.map(move |value| {
            let value = value?;
            let len = u32::try_from(value.len()).map_err(|_| Error::ListTooLong)?;
            if size != 0 && len > size {
                Err(Error::Range)
            } else {
                Ok((value, len))
            }
        });
        self.run(op, ino, reply, checked, move |reply, (value, len)| match size {
            0 => reply.size(len),
            _ => reply.data(&value),
        });
    }
}

impl<F: FileSystem> Filesystem for Adapter<F> {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // more than the kernel offers is cut to what it offers; mount raises its read-ahead later
        if let Err(most) = config.set_max_readahead(REQUEST_BYTES_MAX) {
            let _ = config.set_max_readahead(most);
        }
        let _ = config.set_max_write(REQUEST_BYTES_MAX);
        let _ = config.set_max_background(BACKGROUND_MAX);
        // Not FUSE_AUTO_INVAL_DATA: it asks for attributes before each read, and drops the pages of each file that this
        // mount wrote, since its mtime has changed. Pages go by generation at open, and by the master's push.
        for wanted in [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_ASYNC_DIO,
            // targets never change
            InitFlags::FUSE_CACHE_SYMLINKS,
            // without it the kernel asks for security.capability before each write
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        ] {
            if config.add_capabilities(wanted).is_err() {
                tracing::debug!(?wanted, "the kernel does not have this capability");
            }
        }
        let mapped = config.add_capabilities(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP);
        self.0.direct_io.store(mapped.is_ok(), Ordering::Relaxed);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (limits, asked) = (self.0.limits, Instant::now());
        if let Some((found, age)) = self.0.fs.known_name(inode(parent), name.as_bytes()) {
            return found_or_not(&limits, found, age, reply);
        }
        let (fs, name) = (self.0.fs.clone(), bytes(name));
        let work = async move {
            match fs.lookup(inode(parent), &name).await {
                Ok(attr) => Ok(Some(attr)),
                Err(e) if e.errno() == Linux::NOENT.raw_os_error() && !limits.entry_ttl.is_zero() => Ok(None),
                Err(e) => Err(e),
            }
        };
        self.run("lookup", parent, reply, work, move |reply, found| {
            found_or_not(&limits, found, asked.elapsed(), reply);
        });
    }

    fn forget(&self, _req: &Request, ino: INodeNo, _nlookup: u64) {
        // the kernel gives all its lookups back at once, when it drops the inode
        self.0.fs.forget(inode(ino));
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        if let Some((attr, age)) = self.0.fs.known_attr(inode(ino)) {
            return reply.attr(&self.0.limits.of_attr(&attr, age), &file_attr(&attr));
        }
        let fs = self.0.fs.clone();
        self.attr("getattr", ino, reply, async move { fs.getattr(inode(ino)).await });
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (fs, caller) = (self.0.fs.clone(), caller(req));
        let change = SetAttr {
            mode: mode.map(|m| m & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
            ctime: None,
            kill_suid: false,
        };
        self.attr("setattr", ino, reply, async move {
            fs.setattr(caller, inode(ino), change).await
        });
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        let fs = self.0.fs.clone();
        let work = async move { fs.readlink(inode(ino)).await };
        self.run("readlink", ino, reply, work, |reply, target| reply.data(&target));
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (fs, caller, name) = (self.0.fs.clone(), caller(req), bytes(name));
        self.entry(
            "mknod",
            parent,
            reply,
            self.changing(parent, async move {
                let kind = kind_of(mode)?;
                fs.make(caller, inode(parent), &name, kind, mode & 0o7777, rdev).await
            }),
        );
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        let (fs, caller, name) = (self.0.fs.clone(), caller(req), bytes(name));
        self.entry(
            "mkdir",
            parent,
            reply,
            self.changing(parent, async move {
                fs.make(caller, inode(parent), &name, FileKind::Directory, mode & 0o7777, 0)
                    .await
            }),
        );
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, name) = (self.0.fs.clone(), bytes(name));
        self.done(
            "unlink",
            parent,
            reply,
            self.changing(parent, async move { fs.unlink(inode(parent), &name).await }),
        );
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, name) = (self.0.fs.clone(), bytes(name));
        self.done(
            "rmdir",
            parent,
            reply,
            self.changing(parent, async move { fs.rmdir(inode(parent), &name).await }),
        );
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (fs, caller, name, target) = (self.0.fs.clone(), caller(req), bytes(name), bytes(target.as_os_str()));
        self.entry(
            "symlink",
            parent,
            reply,
            self.changing(
                parent,
                async move { fs.symlink(caller, inode(parent), &name, target).await },
            ),
        );
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (fs, name, new_name) = (self.0.fs.clone(), bytes(name), bytes(new_name));
        self.done(
            "rename",
            parent,
            reply,
            self.changing(
                new_parent,
                self.changing(parent, async move {
                    let known = RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_EXCHANGE;
                    if !known.contains(flags) || flags == known {
                        return Err(Error::Invalid("flags of rename"));
                    }
                    let flags = cairn_client::RenameFlags {
                        no_replace: flags.contains(RenameFlags::RENAME_NOREPLACE),
                        exchange: flags.contains(RenameFlags::RENAME_EXCHANGE),
                    };
                    fs.rename(inode(parent), &name, inode(new_parent), &new_name, flags)
                        .await
                }),
            ),
        );
    }

    fn link(&self, _req: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (fs, name) = (self.0.fs.clone(), bytes(name));
        self.entry(
            "link",
            parent,
            reply,
            self.changing(parent, async move { fs.link(inode(ino), inode(parent), &name).await }),
        );
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (fs, caller, name) = (self.0.fs.clone(), caller(req), bytes(name));
        let exclusive = has(OpenFlags(flags), OFlags::EXCL);
        let work = self.changing(parent, async move {
            fs.create(caller, inode(parent), &name, mode & 0o7777, exclusive).await
        });
        let (shared, asked) = (self.0.clone(), Instant::now());
        self.run("create", parent, reply, work, move |reply, (attr, opened)| {
            let (handle, flags) = shared.opened(opened, OpenFlags(flags));
            let ttl = shared.limits.of_both(&attr, asked.elapsed());
            reply.created(&ttl, &file_attr(&attr), GENERATION, handle, flags);
        });
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (fs, caller) = (self.0.fs.clone(), caller(req));
        let access = flags.acc_mode();
        let mode = OpenMode {
            read: access != OpenAccMode::O_WRONLY,
            write: access != OpenAccMode::O_RDONLY,
            append: has(flags, OFlags::APPEND),
            truncate: has(flags, OFlags::TRUNC),
        };
        let next = match mode == OpenMode::READ {
            true => fs.next_after(inode(ino)),
            false => Vec::new(),
        };
        if let Some(opened) = fs.open_known(inode(ino), mode) {
            let (handle, flags) = self.0.opened(opened, flags);
            reply.opened(handle, flags);
            return self.prepare(next);
        }
        self.prepare(next);
        let work = async move { fs.open(caller, inode(ino), mode).await };
        let shared = self.0.clone();
        self.run("open", ino, reply, work, move |reply, opened| {
            let (handle, flags) = shared.opened(opened, flags);
            reply.opened(handle, flags);
        });
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let work = |fs: Arc<F>, handle| async move { fs.read(&handle, offset, size as usize).await };
        self.with_handle("read", ino, fh, reply, work, |reply, data: Bytes| reply.data(&data));
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let len = data.len() as u32; // at most REQUEST_BYTES_MAX
        // the one copy: fuser reads the next request into the same buffer
        let data = Bytes::copy_from_slice(data);
        let kill_suid = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let work = move |fs: Arc<F>, handle| async move { fs.write(&handle, offset, data, kill_suid).await };
        self.with_handle("write", ino, fh, reply, work, move |reply, ()| reply.written(len));
    }

    fn flush(&self, _req: &Request, ino: INodeNo, fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        let work = |fs: Arc<F>, handle| async move { fs.flush(&handle).await };
        self.with_handle("flush", ino, fh, reply, work, |reply, ()| reply.ok());
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        match lock(&self.0.open).remove(&fh.0) {
            Some(handle) => {
                let fs = self.0.fs.clone();
                self.done("release", ino, reply, async move { fs.release(handle).await });
            }
            None => refuse("release", ino.0, reply, &Error::BadHandle),
        }
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let work = |fs: Arc<F>, handle| async move { fs.fsync(&handle).await };
        self.with_handle("fsync", ino, fh, reply, work, |reply, ()| reply.ok());
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        // the namespace's operations are durable before they are answered (promise 1)
        reply.ok();
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let handle = self.0.next_handle.fetch_add(1, Ordering::Relaxed);
        self.0.listings.opened(handle);
        reply.opened(FileHandle(handle), FopenFlags::empty());
    }

    fn releasedir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.0.listings.released(fh.0);
        reply.ok();
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.list(ino, fh, offset, false, reply, |mut reply, items, _| {
            let full = |item: &DirectoryItem| {
                let (kind, name) = (file_type(item.attr.kind), OsStr::from_bytes(&item.name));
                reply.add(INodeNo(item.attr.ino.0), item.offset, kind, name)
            };
            let fitted = items.iter().position(full).unwrap_or(items.len());
            reply.ok();
            fitted
        });
    }

    fn readdirplus(&self, _req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        let limits = self.0.limits;
        self.list(ino, fh, offset, true, reply, move |mut reply, items, age| {
            let full = |item: &DirectoryItem| {
                let ttl = limits.of_both(&item.attr, age);
                let (attr, name) = (file_attr(&item.attr), OsStr::from_bytes(&item.name));
                reply.add(attr.ino, item.offset, name, &ttl, &attr, GENERATION)
            };
            let fitted = items.iter().position(full).unwrap_or(items.len());
            reply.ok();
            fitted
        });
    }

    fn statfs(&self, _req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let fs = self.0.fs.clone();
        self.run("statfs", ino, reply, async move { fs.statfs().await }, |reply, s| {
            let unit = u64::from(STATFS_UNIT_BYTES);
            let (total, free) = (s.total_bytes / unit, s.available_bytes.min(s.total_bytes) / unit);
            let files = s.files.saturating_add(s.files_free);
            reply.statfs(
                total,
                free,
                free,
                files,
                s.files_free,
                STATFS_UNIT_BYTES,
                255,
                STATFS_UNIT_BYTES,
            );
        });
    }

    fn setxattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (fs, name, value) = (self.0.fs.clone(), bytes(name), Bytes::copy_from_slice(value));
        self.done("setxattr", ino, reply, async move {
            use rustix::fs::XattrFlags as Flags;
            let flags = u32::try_from(flags)
                .ok()
                .and_then(Flags::from_bits)
                .ok_or(Error::Invalid("flags"))?;
            let flags = XattrFlags {
                create: flags.contains(Flags::CREATE),
                replace: flags.contains(Flags::REPLACE),
            };
            fs.setxattr(inode(ino), &name, value, flags).await
        });
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let (fs, name) = (self.0.fs.clone(), bytes(name));
        self.xattr("getxattr", ino, size, reply, async move {
            fs.getxattr(inode(ino), &name).await
        });
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let (fs, caller) = (self.0.fs.clone(), caller(req));
        self.xattr("listxattr", ino, size, reply, async move {
            fs.listxattr(caller, inode(ino)).await
        });
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, name) = (self.0.fs.clone(), bytes(name));
        self.done("removexattr", ino, reply, async move {
            fs.removexattr(inode(ino), &name).await
        });
    }

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        use rustix::fs::FallocateFlags as Mode;
        let work = move |fs: Arc<F>, handle| async move {
            let mode = u32::try_from(mode).ok().and_then(Mode::from_bits);
            let mode = mode.ok_or(Error::NotSupported("this mode of fallocate"))?;
            let keep_size = mode.contains(Mode::KEEP_SIZE);
            match mode - Mode::KEEP_SIZE {
                m if m.is_empty() => fs.allocate(&handle, offset, length, keep_size).await,
                Mode::PUNCH_HOLE if keep_size => fs.zero(&handle, offset, length, true).await,
                Mode::ZERO_RANGE => fs.zero(&handle, offset, length, keep_size).await,
                _ => Err(Error::NotSupported("this mode of fallocate")),
            }
        };
        self.with_handle("fallocate", ino, fh, reply, work, |reply, ()| reply.ok());
    }

    fn lseek(&self, _req: &Request, ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        const SEEK_DATA: i32 = 3;
        const SEEK_HOLE: i32 = 4;
        let work = move |fs: Arc<F>, handle| async move {
            let hole = match whence {
                SEEK_DATA => false,
                SEEK_HOLE => true,
                _ => return Err(Error::Invalid("whence")),
            };
            let offset = u64::try_from(offset).map_err(|_| Error::NoSuchOffset)?;
            fs.seek(&handle, offset, hole).await
        };
        self.with_handle("lseek", ino, fh, reply, work, |reply, at| reply.offset(at as i64));
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let to = match self.0.handle(fh_out) {
            Ok(to) => to,
            Err(e) => return refuse("copy_file_range", ino.0, reply, &e),
        };
        let work = move |fs: Arc<F>, from| async move { fs.copy(&from, offset, &to, offset_out, len).await };
        self.with_handle("copy_file_range", ino, fh, reply, work, |reply, copied| {
            reply.written(u32::try_from(copied).unwrap_or(u32::MAX));
        });
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    // Answered once with ENOSYS, and never asked again.
    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }
    fn bmap(&self, _req: &Request, _ino: INodeNo, _blocksize: u32, _idx: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOSYS);
    }
    fn poll(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _ph: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }
}

impl<F: FileSystem> Adapter<F> {
    /// READDIR and READDIRPLUS; `fill` is told how old the items may be, and says how many fitted.
    fn list<R: Fail>(
        &self,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        plus: bool,
        reply: R,
        fill: impl FnOnce(R, &[DirectoryItem], Duration) -> usize + Send + 'static,
    ) {
        let op = if plus { "readdirplus" } else { "readdir" };
        let Some(listing) = self.0.listings.get(fh.0) else {
            return refuse(op, ino.0, reply, &Error::BadHandle);
        };
        let known = listing.take(&*self.0.fs, inode(ino), offset, plus);
        let whole = || (offset == 0).then(|| self.0.fs.known_listing(inode(ino)))?;
        if let Some((page, age)) = known.or_else(whole) {
            let fitted = fill(reply, at_once(&page, plus), age);
            return listing.keep(offset, page, fitted);
        }
        let (fs, asked) = (self.0.fs.clone(), Instant::now());
        let work = async move { fs.readdir(inode(ino), offset, !plus).await };
        self.run(op, ino, reply, work, move |reply, page: DirectoryListing| {
            let fitted = fill(reply, at_once(&page, plus), asked.elapsed());
            listing.keep(offset, page, fitted);
        });
    }
}
