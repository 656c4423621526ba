use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

/// Bytes of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    pub total_bytes: u64,
    /// What an unprivileged writer may still take.
    pub available_bytes: u64,
}

/// One directory on one disk, and everything below it. Paths are relative to it.
///
/// Calls block: from async code go through [`crate::Blocking::run`]. A name (create, rename, remove) is on stable
/// storage after [`Disk::sync_dir`] of its directory, bytes after [`DiskFile::sync_data`], both after [`Disk::sync_all`];
/// until then a power loss may take any part of them. After a failed sync nothing can be said of the bytes: never retry
/// it.
pub trait Disk: Send + Sync + 'static {
    /// Creates `path` for reading and writing. `AlreadyExists` if there is one.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens `path` for reading and writing; for reading only where the disk is read-only. `NotFound` if there is none.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Renames a file, over `to` if there is one, atomically. The same directory or another.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Creates the directory and its parents; one that exists is no error.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Names in the directory (files and directories), sorted. `NotFound` if it does not exist.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;

    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Puts the directory's names on stable storage.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Puts on stable storage all bytes and names that were written on this disk before, in one go. False: nothing was
    /// done, since the system would not say if it failed.
    fn sync_all(&self) -> io::Result<bool>;

    fn space(&self) -> io::Result<Space>;

    /// Takes the directory for this process until the value is dropped or the process dies; `WouldBlock` when
    /// another has it.
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>>;

    /// Where it is, for people: the directory's path.
    fn display(&self) -> String;
}

/// An open file. Reads and writes give their own offset and may run at once.
pub trait DiskFile: Send + Sync + 'static {
    /// Reads into `buf` from `offset`; short only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `buf`; on an error any part of it may be written.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Writes all of `first` and, behind it, all of `second`, in one call where the system has one; an error is as of
    /// [`DiskFile::write_at`].
    fn write_both_at(&self, first: &[u8], second: &[u8], offset: u64) -> io::Result<()> {
        self.write_at(first, offset)?;
        self.write_at(second, offset + first.len() as u64)
    }

    /// Bytes in the file, holes counted.
    fn len(&self) -> io::Result<u64>;

    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts or extends; new bytes read as zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// For the system to read from; none where it is not one of the system's files.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// fdatasync: all bytes written and the length are on stable storage when it returns.
    fn sync_data(&self) -> io::Result<()>;
}
