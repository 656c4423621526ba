//! The file system behind the mount: what POSIX wants, said in the client library's words.
//!
//! Two things are kept of each inode that matters (`known`):
//! * the generation of which the kernel has pages: an open finds them still right when the inode's generation is the
//!   same. This mount's own changes, which the kernel's pages have in them, carry it along; another client's, which the
//!   master pushes before it answers that client, end it. Not knowing is always safe;
//! * whether it may carry setuid or setgid bits: the kernel leaves it to us to take them from a file that somebody
//!   without privilege writes to, and says so with each write; only for these few does it cost a call.
use crate::error::{Error, Result};
use crate::filesystem::{Caller, DirectoryItem, DirectoryListing, FileSystem, Opened, Statistics};
use crate::following::Following;
use crate::known::{KNOWN_MAX, KnownInodes};
use bytes::{Bytes, BytesMut};
use cairn_client::{
    Attr, Client, Create, DirectoryPage, File, FileKind, Invalidation, Make, OpenMode, RenameFlags, SetAttr, XattrFlags,
};
use cairn_types::Inode;
use cairn_types::limits::{FRAME_PAYLOAD_BYTES_MAX, NAME_BYTES_MAX, READDIR_ENTRIES_MAX};
use rustix::io::Errno;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

const SET_ID_BITS: u32 = 0o6000;
/// Of a listing: before `.`, behind it, behind `..`. The library's cookies are larger.
const OFFSET_START: u64 = 0;
const OFFSET_DOT: u64 = 1;
const OFFSET_DOTDOT: u64 = 2;
/// One call of copy_file_range copies at most this much, so that it ends well within any timeout.
const COPY_BYTES_MAX: u64 = 16 * FRAME_PAYLOAD_BYTES_MAX as u64;
/// The largest file that is fetched before it is opened.
const PREPARED_BYTES_MAX: u64 = 128 << 10;
/// df -i: inodes are bounded by the master's memory alone.
const FILES_MAX: u64 = u32::MAX as u64;

pub struct CairnFs {
    client: Client,
    /// How old the master's word may be that lookups are answered from without asking; none are with zero.
    known_for: Duration,
    known: Mutex<KnownInodes>,
    following: Mutex<Following<File>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn checked(name: &[u8]) -> Result<&[u8]> {
    // the kernel lets longer names through
    if name.len() > NAME_BYTES_MAX {
        Err(Error::NameTooLong)
    } else {
        Ok(name)
    }
}

/// Namespaces that are stored; those of access control lists are not, and a program must hear so.
fn checked_xattr(name: &[u8]) -> Result<&[u8]> {
    let stored: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
    match stored.iter().any(|prefix| name.starts_with(prefix)) {
        true => Ok(name),
        false => Err(Error::NotSupported("this namespace of extended attributes")),
    }
}

impl CairnFs {
    /// `known_for`: as long as the kernel may keep what it is told, no longer than
    /// [`cairn_types::limits::BELIEVED_FOR`].
    pub fn new(client: Client, known_for: Duration) -> Self {
        if !known_for.is_zero() {
            client.remember_names();
        }
        Self {
            client,
            known_for,
            known: Mutex::new(KnownInodes::new(KNOWN_MAX)),
            following: Mutex::default(),
        }
    }

    /// What a directory gives the kernel after `offset`, from the page that follows it.
    fn items(&self, page: DirectoryPage, ino: Inode, offset: u64, plain: bool) -> DirectoryListing {
        let dot = |name: &'static [u8], offset, ino| DirectoryItem {
            name: Bytes::from_static(name),
            offset,
            attr: Attr {
                ino,
                ..page.directory.clone()
            },
        };
        let files = page.entries.iter().filter(|entry| entry.attr.kind == FileKind::Regular);
        lock(&self.following).listed(files.map(|entry| entry.attr.ino));
        let mut items = Vec::with_capacity(page.entries.len() + 2);
        if offset == OFFSET_START {
            items.push(dot(b".", OFFSET_DOT, ino));
        }
        if offset <= OFFSET_DOT {
            items.push(dot(b"..", OFFSET_DOTDOT, page.parent));
        }
        items.extend(page.entries.into_iter().map(|entry| DirectoryItem {
            name: entry.name,
            offset: entry.cookie,
            attr: if plain { entry.attr } else { self.seen(entry.attr) },
        }));
        DirectoryListing { items, end: page.end }
    }

    /// Every attribute that goes to the kernel passes here.
    fn seen(&self, attr: Attr) -> Attr {
        if attr.kind == FileKind::Regular {
            lock(&self.known).seen(attr.ino, attr.mode & SET_ID_BITS != 0);
        }
        attr
    }

    fn may_have_set_id(&self, ino: Inode) -> bool {
        lock(&self.known).may_have_set_id(ino)
    }

    /// Before a write or cut by somebody without privilege.
    async fn drop_set_id(&self, ino: Inode) -> Result<()> {
        if self.may_have_set_id(ino) {
            let change = SetAttr {
                kill_suid: true,
                ..SetAttr::default()
            };
            let attr = self.client.setattr(ino, change).await?;
            self.seen(attr);
        }
        Ok(())
    }

    /// The kernel's pages have this mount's own change in them.
    fn own_change(&self, attr: &Attr) {
        lock(&self.known).own_change(attr.ino, attr.generation);
    }

    fn opened(&self, file: File) -> Opened<File> {
        let attr = self.seen(file.attr());
        let keep_cache = lock(&self.known).opened(attr.ino, attr.generation);
        Opened {
            handle: file,
            keep_cache,
        }
    }
}

impl FileSystem for CairnFs {
    type Handle = File;

    async fn lookup(&self, parent: Inode, name: &[u8]) -> Result<Attr> {
        Ok(self.seen(self.client.lookup(parent, checked(name)?).await?))
    }

    async fn getattr(&self, ino: Inode) -> Result<Attr> {
        Ok(self.seen(self.client.getattr(ino).await?))
    }

    async fn setattr(&self, caller: Caller, ino: Inode, mut change: SetAttr) -> Result<Attr> {
        // chown(2) takes the bits from everybody's files, truncate(2) from those of a caller without privilege
        let chown = (change.uid.is_some() || change.gid.is_some()) && change.mode.is_none();
        let cut = change.size.is_some() && caller.uid != 0;
        if change.kill_suid || chown || cut {
            change.kill_suid = self.may_have_set_id(ino);
        }
        if change == SetAttr::default() {
            return self.getattr(ino).await;
        }
        let own_data = change.size.is_some() || change.mtime.is_some();
        let attr = self.seen(self.client.setattr(ino, change).await?);
        if own_data {
            self.own_change(&attr);
        }
        Ok(attr)
    }

    fn known_name(&self, parent: Inode, name: &[u8]) -> Option<(Option<Attr>, Duration)> {
        let (attr, age) = self.client.known_name(parent, checked(name).ok()?, self.known_for)?;
        Some((attr.map(|attr| self.seen(attr)), age))
    }

    fn known_attr(&self, ino: Inode) -> Option<(Attr, Duration)> {
        let (attr, age) = self.client.known_attr(ino, self.known_for)?;
        Some((self.seen(attr), age))
    }

    fn known_listing(&self, ino: Inode) -> Option<(DirectoryListing, Duration)> {
        let (page, age) = self.client.known_listing(ino, self.known_for)?;
        Some((self.items(page, ino, OFFSET_START, false), age))
    }

    fn open_known(&self, ino: Inode, mode: OpenMode) -> Option<Opened<File>> {
        if mode.truncate && self.may_have_set_id(ino) {
            return None;
        }
        if mode == OpenMode::READ {
            let ready = lock(&self.following).take(ino);
            if let Some(file) = ready.filter(|file| file.is_known(self.known_for)) {
                return Some(self.opened(file));
            }
        }
        Some(self.opened(self.client.open_known(ino, mode, self.known_for)?))
    }

    fn next_after(&self, ino: Inode) -> Vec<Inode> {
        let mut next = lock(&self.following).opened(ino);
        next.retain(|ino| {
            let known = self.client.known_attr(*ino, self.known_for);
            known.is_some_and(|(attr, _)| (1..=PREPARED_BYTES_MAX).contains(&attr.size))
        });
        next
    }

    async fn prepare(&self, files: Vec<Inode>) {
        for ino in files {
            let file = match self.client.open_known(ino, OpenMode::READ, self.known_for) {
                Some(file) => file,
                // whatever is wrong, the program's own open tells
                None => match self.client.open(ino, OpenMode::READ).await {
                    Ok(file) => file,
                    Err(_) => return,
                },
            };
            file.read_ahead();
            let unused = lock(&self.following).put(ino, file);
            // it closes itself
            drop(unused);
        }
    }

    async fn let_go(&self) {
        if !lock(&self.following).watch() {
            return;
        }
        loop {
            let due = lock(&self.following).due();
            let Some(due) = due else { return };
            tokio::time::sleep_until(due).await;
            let unused = lock(&self.following).let_go();
            // it closes itself
            drop(unused);
        }
    }

    fn forget(&self, ino: Inode) {
        lock(&self.known).forget(ino);
    }

    async fn readdir(&self, ino: Inode, offset: u64, plain: bool) -> Result<DirectoryListing> {
        let after = if offset <= OFFSET_DOTDOT { 0 } else { offset };
        let limit = READDIR_ENTRIES_MAX as u32;
        let page = match plain {
            true => self.client.readdir_plain(ino, after, limit).await?,
            false => self.client.readdir(ino, after, limit).await?,
        };
        Ok(self.items(page, ino, offset, plain))
    }

    async fn make(
        &self,
        caller: Caller,
        parent: Inode,
        name: &[u8],
        kind: FileKind,
        mode: u32,
        rdev: u32,
    ) -> Result<Attr> {
        let make = Make {
            kind,
            mode,
            uid: caller.uid,
            gid: caller.gid,
            rdev,
            target: Bytes::new(),
        };
        Ok(self.seen(self.client.make(parent, checked(name)?, make).await?))
    }

    async fn symlink(&self, caller: Caller, parent: Inode, name: &[u8], target: Bytes) -> Result<Attr> {
        let make = Make {
            kind: FileKind::Symlink,
            mode: 0o777,
            uid: caller.uid,
            gid: caller.gid,
            rdev: 0,
            target,
        };
        Ok(self.client.make(parent, checked(name)?, make).await?)
    }

    async fn readlink(&self, ino: Inode) -> Result<Bytes> {
        Ok(self.client.readlink(ino).await?)
    }

    async fn link(&self, ino: Inode, parent: Inode, name: &[u8]) -> Result<Attr> {
        Ok(self.seen(self.client.link(ino, parent, checked(name)?).await?))
    }

    async fn unlink(&self, parent: Inode, name: &[u8]) -> Result<()> {
        Ok(self.client.unlink(parent, checked(name)?).await?)
    }

    async fn rmdir(&self, parent: Inode, name: &[u8]) -> Result<()> {
        Ok(self.client.rmdir(parent, checked(name)?).await?)
    }

    async fn rename(
        &self,
        parent: Inode,
        name: &[u8],
        new_parent: Inode,
        new_name: &[u8],
        flags: RenameFlags,
    ) -> Result<()> {
        Ok(self
            .client
            .rename(parent, checked(name)?, new_parent, checked(new_name)?, flags)
            .await?)
    }

    /// Always exclusive: the kernel has just seen that the name is absent. If another client creates it meanwhile, the
    /// kernel has not judged whether this caller may open that file; ESTALE makes it look again and judge.
    async fn create(
        &self,
        caller: Caller,
        parent: Inode,
        name: &[u8],
        mode: u32,
        exclusive: bool,
    ) -> Result<(Attr, Opened<File>)> {
        let create = Create {
            mode,
            uid: caller.uid,
            gid: caller.gid,
            exclusive: true,
            truncate: false,
            goal: 0,
        };
        match self.client.create(parent, checked(name)?, create).await {
            Ok((attr, _, file)) => Ok((self.seen(attr), self.opened(file))),
            Err(e) if e.errno() == Errno::EXIST.raw_os_error() && !exclusive => Err(Error::Stale),
            Err(e) => Err(e.into()),
        }
    }

    async fn open(&self, caller: Caller, ino: Inode, mode: OpenMode) -> Result<Opened<File>> {
        if mode.truncate && caller.uid != 0 {
            Box::pin(self.drop_set_id(ino)).await?;
        }
        Ok(self.opened(self.client.open(ino, mode).await?))
    }

    async fn read(&self, file: &File, offset: u64, len: usize) -> Result<Bytes> {
        Ok(file.read_at(offset, len).await?)
    }

    async fn write(&self, file: &File, offset: u64, data: Bytes, kill_suid: bool) -> Result<()> {
        if kill_suid {
            Box::pin(self.drop_set_id(file.inode())).await?;
        }
        Ok(file.write_at(offset, data).await?)
    }

    async fn flush(&self, file: &File) -> Result<()> {
        file.flush().await?;
        self.own_change(&file.attr());
        Ok(())
    }

    async fn fsync(&self, file: &File) -> Result<()> {
        file.fsync().await?;
        self.own_change(&file.attr());
        Ok(())
    }

    async fn release(&self, file: File) -> Result<()> {
        lock(&self.known).released(file.inode());
        if file.mode() == OpenMode::READ && file.attr().size > 0 {
            lock(&self.following).closed(file.was_read());
        }
        Ok(file.close().await?)
    }

    async fn allocate(&self, file: &File, offset: u64, len: u64, keep_size: bool) -> Result<()> {
        Ok(file.allocate(offset, len, keep_size).await?)
    }

    async fn zero(&self, file: &File, offset: u64, len: u64, keep_size: bool) -> Result<()> {
        Ok(file.zero(offset, len, keep_size).await?)
    }

    async fn seek(&self, file: &File, offset: u64, hole: bool) -> Result<u64> {
        if offset >= self.client.getattr(file.inode()).await?.size {
            return Err(Error::NoSuchOffset);
        }
        match hole {
            true => Ok(file.seek_hole(offset).await?),
            false => file.seek_data(offset).await?.ok_or(Error::NoSuchOffset),
        }
    }

    async fn copy(&self, from: &File, from_offset: u64, to: &File, to_offset: u64, len: u64) -> Result<u64> {
        let len = len.min(COPY_BYTES_MAX);
        let mut copied = 0;
        while copied < len {
            let piece = (len - copied).min(FRAME_PAYLOAD_BYTES_MAX as u64) as usize;
            let step = async {
                let data = from.read_at(from_offset + copied, piece).await?;
                let got = data.len();
                if got > 0 {
                    to.write_at(to_offset + copied, data).await?;
                }
                Ok::<_, cairn_client::Error>(got)
            };
            match step.await {
                Ok(got) => copied += got as u64,
                // what was copied counts; the next call meets the error
                Err(e) if copied > 0 => {
                    tracing::debug!(error = %e, "copy_file_range stopped early");
                    break;
                }
                Err(e) => return Err(e.into()),
            }
            if copied < len && !copied.is_multiple_of(FRAME_PAYLOAD_BYTES_MAX as u64) {
                break; // the end of `from`
            }
        }
        Ok(copied)
    }

    async fn getxattr(&self, ino: Inode, name: &[u8]) -> Result<Bytes> {
        let name = checked_xattr(name)?;
        match self.known_attr(ino) {
            // the kernel asks for capabilities before each cut and first write of an open
            Some((attr, _)) if attr.no_xattrs => Err(Error::NoAttribute),
            _ => Ok(self.client.getxattr(ino, name).await?),
        }
    }

    async fn setxattr(&self, ino: Inode, name: &[u8], value: Bytes, flags: XattrFlags) -> Result<()> {
        Ok(self.client.setxattr(ino, checked_xattr(name)?, value, flags).await?)
    }

    async fn listxattr(&self, caller: Caller, ino: Inode) -> Result<Bytes> {
        let mut list = BytesMut::new();
        for name in self.client.listxattr(ino).await? {
            // only for those who may read them
            if caller.uid == 0 || !name.starts_with(b"trusted.") {
                list.extend_from_slice(&name);
                list.extend_from_slice(&[0]);
            }
        }
        Ok(list.freeze())
    }

    async fn removexattr(&self, ino: Inode, name: &[u8]) -> Result<()> {
        Ok(self.client.removexattr(ino, checked_xattr(name)?).await?)
    }

    async fn statfs(&self) -> Result<Statistics> {
        let s = self.client.statfs().await?;
        // copies accounted for: a byte of a file takes `goal` bytes of disks
        let goal = u64::from(s.goal.max(1));
        Ok(Statistics {
            total_bytes: s.total_bytes / goal,
            available_bytes: s.available_bytes.min(s.total_bytes) / goal,
            files: s.files,
            files_free: FILES_MAX.saturating_sub(s.files),
        })
    }

    fn invalidations(&self) -> Option<mpsc::Receiver<Invalidation>> {
        Some(self.client.invalidations())
    }

    fn changed(&self, ino: Inode, data: bool) {
        lock(&self.known).changed(ino, data);
    }

    fn cached(&self) -> Vec<Inode> {
        lock(&self.known).inodes()
    }
}
