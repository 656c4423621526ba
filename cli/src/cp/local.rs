//! This machine's files.
use super::tree::{Change, Meta, Sink, Source, Tree};
use crate::failure::{Failure, Result};
use crate::output;
use async_trait::async_trait;
use bytes::Bytes;
use cairn_client::FileKind;
use rustix::buffer::spare_capacity;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, RenameFlags, SeekFrom, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub struct Local;

fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

/// Runs `f`, which blocks, where that is allowed; its errors name the path.
async fn blocking<T: Send + 'static>(
    path: &[u8],
    f: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let path = path_of(path);
    let done = tokio::task::spawn_blocking(move || f(&path).map_err(|e| Failure::local(&path, &e))).await;
    done.map_err(|e| Failure::new("a thread for file input and output", e))?
}

fn kind_of(kind: std::fs::FileType) -> FileKind {
    use std::os::unix::fs::FileTypeExt;
    match kind {
        k if k.is_dir() => FileKind::Directory,
        k if k.is_symlink() => FileKind::Symlink,
        k if k.is_fifo() => FileKind::Fifo,
        k if k.is_socket() => FileKind::Socket,
        k if k.is_char_device() => FileKind::CharacterDevice,
        k if k.is_block_device() => FileKind::BlockDevice,
        _ => FileKind::Regular,
    }
}

fn meta_of(m: &std::fs::Metadata) -> Meta {
    let ns = |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
    Meta {
        kind: kind_of(m.file_type()),
        mode: m.permissions().mode() & 0o7777,
        uid: m.uid(),
        gid: m.gid(),
        nlink: m.nlink(),
        size: m.len(),
        rdev: m.rdev() as u32,
        atime_ns: ns(m.atime(), m.atime_nsec()),
        mtime_ns: ns(m.mtime(), m.mtime_nsec()),
        id: (m.dev(), m.ino()),
    }
}

fn optional<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn timespec(ns: i64) -> Timespec {
    Timespec {
        tv_sec: ns.div_euclid(1_000_000_000),
        tv_nsec: ns.rem_euclid(1_000_000_000),
    }
}

#[async_trait]
impl Tree for Local {
    fn show(&self, path: &[u8]) -> String {
        output::name(path)
    }

    async fn stat(&self, path: &[u8], follow: bool) -> Result<Option<Meta>> {
        blocking(path, move |path| {
            let found = if follow {
                std::fs::metadata(path)
            } else {
                std::fs::symlink_metadata(path)
            };
            Ok(optional(found)?.as_ref().map(meta_of))
        })
        .await
    }

    async fn list(&self, path: &[u8]) -> Result<Vec<(Bytes, Meta)>> {
        blocking(path, |path| {
            let mut entries = vec![];
            for entry in std::fs::read_dir(path)? {
                let entry = entry?;
                // one that was removed meanwhile is not there
                if let Some(meta) = optional(entry.metadata())? {
                    entries.push((Bytes::copy_from_slice(entry.file_name().as_bytes()), meta_of(&meta)));
                }
            }
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Ok(entries)
        })
        .await
    }

    async fn read_link(&self, path: &[u8]) -> Result<Bytes> {
        blocking(path, |path| {
            Ok(Bytes::copy_from_slice(std::fs::read_link(path)?.as_os_str().as_bytes()))
        })
        .await
    }

    async fn open(&self, path: &[u8]) -> Result<Box<dyn Source>> {
        let file = blocking(path, |path| {
            let file = File::open(path)?;
            let size = file.metadata()?.len();
            // a hint only
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
            Ok((file, size))
        })
        .await?;
        Ok(Box::new(LocalFile::new(path, file)))
    }

    async fn create(&self, path: &[u8], mode: u32, reopen: bool) -> Result<Option<Box<dyn Sink>>> {
        let file = blocking(path, move |path| {
            let mut options = File::options();
            // its owner must be able to open it again, should this copy be resumed
            options.read(true).write(true).mode(mode & 0o777 | 0o600);
            let opened = if reopen {
                options.create(true).truncate(false)
            } else {
                options.create_new(true)
            }
            .open(path);
            match opened {
                Ok(file) => {
                    let size = file.metadata()?.len();
                    Ok(Some((file, size)))
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(None),
                Err(e) => Err(e),
            }
        })
        .await?;
        Ok(file.map(|file| Box::new(LocalFile::new(path, file)) as Box<dyn Sink>))
    }

    async fn mkdir(&self, path: &[u8], mode: u32) -> Result<()> {
        blocking(path, move |path| {
            use std::os::unix::fs::DirBuilderExt;
            std::fs::DirBuilder::new().mode(mode).create(path)
        })
        .await
    }

    async fn symlink(&self, target: &[u8], path: &[u8]) -> Result<()> {
        let target = path_of(target);
        blocking(path, move |path| std::os::unix::fs::symlink(target, path)).await
    }

    async fn make_special(&self, path: &[u8], like: &Meta) -> Result<()> {
        let kind = match like.kind {
            FileKind::Fifo => FileType::Fifo,
            FileKind::Socket => FileType::Socket,
            FileKind::CharacterDevice => FileType::CharacterDevice,
            _ => FileType::BlockDevice,
        };
        let (mode, rdev) = (like.mode, u64::from(like.rdev));
        blocking(path, move |path| {
            Ok(rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(mode), rdev)?)
        })
        .await
    }

    async fn link(&self, existing: &[u8], path: &[u8]) -> Result<()> {
        let existing = path_of(existing);
        blocking(path, move |path| std::fs::hard_link(existing, path)).await
    }

    async fn change(&self, path: &[u8], kind: FileKind, change: &Change) -> Result<()> {
        let change = change.clone();
        blocking(path, move |path| {
            // the owner first: changing it takes set-id bits away
            if let Some((uid, gid)) = change.owner {
                let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
                rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            if let Some(mode) = change.mode
                && kind != FileKind::Symlink
            {
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
            }
            if let Some((access, modification)) = change.times_ns {
                let times = Timestamps {
                    last_access: timespec(access),
                    last_modification: timespec(modification),
                };
                rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Ok(())
        })
        .await
    }

    async fn rename(&self, from: &[u8], to: &[u8], no_replace: bool) -> Result<bool> {
        let from = path_of(from);
        blocking(to, move |to| {
            let flags = if no_replace {
                RenameFlags::NOREPLACE
            } else {
                RenameFlags::empty()
            };
            match rustix::fs::renameat_with(CWD, &from, CWD, to, flags) {
                Ok(()) => Ok(true),
                Err(Errno::EXIST) if no_replace => Ok(false),
                // a file system without RENAME_NOREPLACE: what was seen when the copy began must do
                Err(Errno::INVAL) if no_replace && !to.try_exists()? => {
                    std::fs::rename(&from, to)?;
                    Ok(true)
                }
                Err(e) => Err(e.into()),
            }
        })
        .await
    }

    async fn remove_file(&self, path: &[u8]) -> Result<()> {
        blocking(path, |path| optional(std::fs::remove_file(path)).map(drop)).await
    }

    async fn remove_directory(&self, path: &[u8]) -> Result<()> {
        blocking(path, |path| std::fs::remove_dir(path)).await
    }

    async fn sync_directory(&self, path: &[u8]) -> Result<()> {
        blocking(path, |path| File::open(path)?.sync_all()).await
    }
}

struct LocalFile {
    path: Vec<u8>,
    file: Arc<File>,
    size: u64,
}

impl LocalFile {
    fn new(path: &[u8], (file, size): (File, u64)) -> Self {
        Self {
            path: path.to_vec(),
            file: Arc::new(file),
            size,
        }
    }

    async fn with<T: Send + 'static>(&self, f: impl FnOnce(&File) -> io::Result<T> + Send + 'static) -> Result<T> {
        let file = self.file.clone();
        blocking(&self.path, move |_| f(&file)).await
    }
}

#[async_trait]
impl Source for LocalFile {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        self.with(move |file| {
            let mut buf = Vec::with_capacity(len);
            while buf.len() < len {
                let at = offset + buf.len() as u64;
                match rustix::io::pread(file, spare_capacity(&mut buf), at) {
                    Ok(0) => break,
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            // there may have been room for more
            buf.truncate(len);
            Ok(buf.into())
        })
        .await
    }

    async fn next_data(&self, offset: u64) -> Result<Option<(u64, u64)>> {
        let size = self.size;
        self.with(move |file| {
            let start = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
                Ok(start) => start,
                Err(Errno::NXIO) => return Ok(None),
                // a file system that knows no holes
                Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                    return Ok((offset < size).then_some((offset, size)));
                }
                Err(e) => return Err(e.into()),
            };
            let end = rustix::fs::seek(file, SeekFrom::Hole(start))?;
            Ok(Some((start, end)))
        })
        .await
    }

    async fn now(&self) -> Result<(u64, i64)> {
        self.with(|file| {
            let meta = meta_of(&file.metadata()?);
            Ok((meta.size, meta.mtime_ns))
        })
        .await
    }
}

#[async_trait]
impl Sink for LocalFile {
    async fn write_at(&self, offset: u64, data: Bytes) -> Result<()> {
        self.with(move |file| file.write_all_at(&data, offset)).await
    }

    async fn set_len(&self, len: u64) -> Result<()> {
        self.with(move |file| file.set_len(len)).await
    }

    async fn sync(&self) -> Result<()> {
        self.with(File::sync_all).await
    }

    async fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
