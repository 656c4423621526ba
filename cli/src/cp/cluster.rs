//! The cluster's files.
use super::tree::{Change, Meta, Sink, Source, Tree, split};
use crate::failure::{Failure, Result};
use crate::output;
use crate::path::{ClusterPath, SCHEME};
use crate::remote::{EEXIST, ENOENT, Remote, fail};
use crate::verbs::names;
use async_trait::async_trait;
use bytes::Bytes;
use cairn_client::{Attr, Create, Error, File, FileKind, Make, OpenMode, RenameFlags, SetAttr, SetTime};
use cairn_types::Inode;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Directories whose inodes are remembered, so that a file in a deep tree costs no walk.
const DIRECTORIES_MAX: usize = 4096;

pub struct Cluster {
    remote: Remote,
    /// Of new files; 0: the directory's.
    goal: u8,
    directories: Mutex<BTreeMap<Vec<u8>, Inode>>,
}

impl Cluster {
    pub fn new(remote: Remote, goal: u8) -> Self {
        Self {
            remote,
            goal,
            directories: Mutex::default(),
        }
    }

    fn known(&self, directory: &[u8]) -> Option<Inode> {
        self.directories
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(directory)
            .copied()
    }

    fn remember(&self, directory: &[u8], ino: Inode) {
        let mut known = self.directories.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= DIRECTORIES_MAX {
            known.clear();
        }
        known.insert(directory.to_vec(), ino);
    }

    async fn directory(&self, path: &[u8]) -> Result<Inode> {
        if let Some(ino) = self.known(path) {
            return Ok(ino);
        }
        let resolved = self
            .remote
            .client
            .resolve(path, true)
            .await
            .map_err(fail(self.show(path)))?;
        match resolved.attr {
            Some(attr) if attr.kind == FileKind::Directory => {
                self.remember(path, attr.ino);
                Ok(attr.ino)
            }
            Some(_) => Err(Failure::new(self.show(path), "is not a directory")),
            None => Err(Failure::new(self.show(path), "no such directory")
                .next(format_args!("make it with `cairn mkdir -p {}`", output::name(path)))),
        }
    }

    async fn place(&self, path: &[u8]) -> Result<(Inode, Bytes)> {
        let (directory, name) =
            split(path).ok_or_else(|| Failure::new(self.show(path), "the root directory stays where it is"))?;
        Ok((self.directory(&directory).await?, name))
    }

    /// By the directory's inode where it is known, which is one short call.
    async fn attr(&self, path: &[u8], follow: bool) -> Result<Option<Attr>> {
        let found = match split(path) {
            Some((directory, name)) if !follow && self.known(&directory).is_some() => {
                let parent = self.directory(&directory).await?;
                self.remote.client.lookup(parent, &name).await.map(Some)
            }
            _ => self.remote.client.resolve(path, follow).await.map(|r| r.attr),
        };
        match found {
            Ok(attr) => Ok(attr),
            Err(Error::Posix { errno: ENOENT, .. }) => Ok(None),
            Err(e) => Err(fail(self.show(path))(e)),
        }
    }

    async fn must(&self, path: &[u8]) -> Result<Attr> {
        let path_found = self.attr(path, false).await?;
        path_found.ok_or_else(|| Failure::new(self.show(path), "no such file or directory"))
    }
}

fn meta_of(a: &Attr) -> Meta {
    Meta {
        kind: a.kind,
        mode: a.mode,
        uid: a.uid,
        gid: a.gid,
        nlink: a.nlink.into(),
        size: a.size,
        rdev: a.rdev,
        atime_ns: a.atime_ns,
        mtime_ns: a.mtime_ns,
        id: (0, a.ino.0),
    }
}

#[async_trait]
impl Tree for Cluster {
    fn show(&self, path: &[u8]) -> String {
        format!("{SCHEME}{}", output::name(path))
    }

    async fn stat(&self, path: &[u8], follow: bool) -> Result<Option<Meta>> {
        Ok(self.attr(path, follow).await?.as_ref().map(meta_of))
    }

    async fn list(&self, path: &[u8]) -> Result<Vec<(Bytes, Meta)>> {
        let ino = self.directory(path).await?;
        let path = ClusterPath::parse(std::os::unix::ffi::OsStrExt::from_bytes(path))?;
        let entries = self.remote.list_sorted(&path, ino).await?;
        for entry in entries.iter().filter(|e| e.attr.kind == FileKind::Directory) {
            self.remember(path.join(&entry.name).as_bytes(), entry.attr.ino);
        }
        Ok(entries.into_iter().map(|e| (e.name, meta_of(&e.attr))).collect())
    }

    async fn read_link(&self, path: &[u8]) -> Result<Bytes> {
        let attr = self.must(path).await?;
        self.remote
            .client
            .readlink(attr.ino)
            .await
            .map_err(fail(self.show(path)))
    }

    async fn open(&self, path: &[u8]) -> Result<Box<dyn Source>> {
        let shown = self.show(path);
        let attr = self.attr(path, true).await?;
        let attr = attr.ok_or_else(|| Failure::new(&shown, "no such file or directory"))?;
        let file = self
            .remote
            .client
            .open(attr.ino, OpenMode::READ)
            .await
            .map_err(fail(&shown))?;
        Ok(Box::new(ClusterFile::new(shown, file, self.remote.clone())))
    }

    async fn create(&self, path: &[u8], mode: u32, reopen: bool) -> Result<Option<Box<dyn Sink>>> {
        let shown = self.show(path);
        let (parent, name) = self.place(path).await?;
        let create = Create {
            mode: mode & 0o7777,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            exclusive: !reopen,
            truncate: false,
            goal: self.goal,
        };
        match self.remote.client.create(parent, &name, create).await {
            Ok((_, _, file)) => Ok(Some(Box::new(ClusterFile::new(shown, file, self.remote.clone())))),
            Err(Error::Posix { errno: EEXIST, .. }) if !reopen => Ok(None),
            Err(e) => Err(fail(shown)(e)),
        }
    }

    async fn mkdir(&self, path: &[u8], mode: u32) -> Result<()> {
        let (parent, name) = self.place(path).await?;
        let make = names::make(FileKind::Directory, mode & !crate::mode::umask(), Bytes::new());
        let attr = self
            .remote
            .client
            .make(parent, &name, make)
            .await
            .map_err(fail(self.show(path)))?;
        self.remember(path, attr.ino);
        Ok(())
    }

    async fn symlink(&self, target: &[u8], path: &[u8]) -> Result<()> {
        let (parent, name) = self.place(path).await?;
        let make = names::make(FileKind::Symlink, 0o777, Bytes::copy_from_slice(target));
        let made = self.remote.client.make(parent, &name, make).await;
        made.map(drop).map_err(fail(self.show(path)))
    }

    async fn make_special(&self, path: &[u8], like: &Meta) -> Result<()> {
        let (parent, name) = self.place(path).await?;
        let make = Make {
            rdev: like.rdev,
            ..names::make(like.kind, like.mode, Bytes::new())
        };
        let made = self.remote.client.make(parent, &name, make).await;
        made.map(drop).map_err(fail(self.show(path)))
    }

    async fn link(&self, existing: &[u8], path: &[u8]) -> Result<()> {
        let ino = self.must(existing).await?.ino;
        let (parent, name) = self.place(path).await?;
        let linked = self.remote.client.link(ino, parent, &name).await;
        linked.map(drop).map_err(fail(self.show(path)))
    }

    async fn change(&self, path: &[u8], kind: FileKind, change: &Change) -> Result<()> {
        let ino = match self.known(path) {
            Some(ino) if kind == FileKind::Directory => ino,
            _ => self.must(path).await?.ino,
        };
        let change = SetAttr {
            mode: change.mode.filter(|_| kind != FileKind::Symlink),
            uid: change.owner.map(|o| o.0),
            gid: change.owner.map(|o| o.1),
            atime: change.times_ns.map(|t| SetTime::At(t.0)),
            mtime: change.times_ns.map(|t| SetTime::At(t.1)),
            ..SetAttr::default()
        };
        if change == SetAttr::default() {
            return Ok(());
        }
        let changed = self.remote.client.setattr(ino, change).await;
        changed.map(drop).map_err(fail(self.show(path)))
    }

    async fn rename(&self, from: &[u8], to: &[u8], no_replace: bool) -> Result<bool> {
        let (parent, name) = self.place(from).await?;
        let (new_parent, new_name) = self.place(to).await?;
        let flags = RenameFlags {
            no_replace,
            exchange: false,
        };
        match self
            .remote
            .client
            .rename(parent, &name, new_parent, &new_name, flags)
            .await
        {
            Ok(()) => Ok(true),
            Err(Error::Posix { errno: EEXIST, .. }) if no_replace => Ok(false),
            Err(e) => Err(fail(self.show(to))(e)),
        }
    }

    async fn remove_file(&self, path: &[u8]) -> Result<()> {
        let (parent, name) = self.place(path).await?;
        match self.remote.client.unlink(parent, &name).await {
            Ok(()) | Err(Error::Posix { errno: ENOENT, .. }) => Ok(()),
            Err(e) => Err(fail(self.show(path))(e)),
        }
    }

    async fn remove_directory(&self, path: &[u8]) -> Result<()> {
        let (parent, name) = self.place(path).await?;
        self.directories
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(path);
        self.remote
            .client
            .rmdir(parent, &name)
            .await
            .map_err(fail(self.show(path)))
    }

    /// The master acknowledges names when they are on stable storage.
    async fn sync_directory(&self, _path: &[u8]) -> Result<()> {
        Ok(())
    }
}

struct ClusterFile {
    shown: String,
    file: File,
    remote: Remote,
    size: u64,
}

impl ClusterFile {
    fn new(shown: String, file: File, remote: Remote) -> Self {
        let size = file.attr().size;
        Self {
            shown,
            file,
            remote,
            size,
        }
    }
}

#[async_trait]
impl Source for ClusterFile {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        self.file.read_at(offset, len).await.map_err(fail(&self.shown))
    }

    async fn next_data(&self, offset: u64) -> Result<Option<(u64, u64)>> {
        let Some(start) = self.file.seek_data(offset).await.map_err(fail(&self.shown))? else {
            return Ok(None);
        };
        let end = self.file.seek_hole(start).await.map_err(fail(&self.shown))?;
        Ok(Some((start, end)))
    }

    async fn now(&self) -> Result<(u64, i64)> {
        let attr = self
            .remote
            .client
            .getattr(self.file.inode())
            .await
            .map_err(fail(&self.shown))?;
        Ok((attr.size, attr.mtime_ns))
    }
}

#[async_trait]
impl Sink for ClusterFile {
    async fn write_at(&self, offset: u64, data: Bytes) -> Result<()> {
        self.file.write_at(offset, data).await.map_err(fail(&self.shown))
    }

    async fn set_len(&self, len: u64) -> Result<()> {
        self.file.truncate(len).await.map_err(fail(&self.shown))
    }

    async fn sync(&self) -> Result<()> {
        self.file.fsync().await.map_err(fail(&self.shown))
    }

    async fn close(self: Box<Self>) -> Result<()> {
        self.file.close().await.map_err(fail(&self.shown))
    }
}
