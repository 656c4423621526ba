//! An open file.
use crate::{Attr, Error, FileKind, Result};
use bytes::Bytes;
use cairn_types::Inode;

/// One open of a file. Cheap to clone; clones are the same open. All opens of an inode in one [`crate::Client`] share its
/// write state, so that every read sees every write.
#[derive(Clone)]
pub struct File {}

#[allow(unused_variables)]
impl File {
    pub fn inode(&self) -> Inode {
        Inode(0)
    }
    /// As of the open; the size with local writes since.
    pub fn attr(&self) -> Attr {
        Attr {
            ino: Inode(0),
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
        }
    }
    /// Short only at the file's end; holes are zeros.
    pub async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        Err(Error::ShutDown)
    }
    /// Returns when the bytes are in the bounded buffer; a later failure reaches every following write, fsync and close
    /// of this file.
    pub async fn write_at(&self, offset: u64, data: Bytes) -> Result<()> {
        Err(Error::ShutDown)
    }
    /// Writes at the end as this client and the master know it (O_APPEND, not record append); gives the offset.
    pub async fn append(&self, data: Bytes) -> Result<u64> {
        Err(Error::ShutDown)
    }
    /// All writes are acknowledged by every replica and the length is committed: what close(2) promises.
    pub async fn flush(&self) -> Result<()> {
        Err(Error::ShutDown)
    }
    /// `flush`, and durable on every replica.
    pub async fn fsync(&self) -> Result<()> {
        Err(Error::ShutDown)
    }
    pub async fn truncate(&self, len: u64) -> Result<()> {
        Err(Error::ShutDown)
    }
    /// fallocate(2): extends the file to `offset + len`, unless `keep_size`.
    pub async fn allocate(&self, offset: u64, len: u64, keep_size: bool) -> Result<()> {
        Err(Error::ShutDown)
    }
    /// FALLOC_FL_PUNCH_HOLE (`keep_size`) or FALLOC_FL_ZERO_RANGE.
    pub async fn zero(&self, offset: u64, len: u64, keep_size: bool) -> Result<()> {
        Err(Error::ShutDown)
    }
    /// SEEK_DATA by whole chunks; `None`: no data from there on (ENXIO).
    pub async fn seek_data(&self, offset: u64) -> Result<Option<u64>> {
        Err(Error::ShutDown)
    }
    /// SEEK_HOLE by whole chunks; the file's end is a hole.
    pub async fn seek_hole(&self, offset: u64) -> Result<u64> {
        Err(Error::ShutDown)
    }
    /// Flushes; after the last close of an inode the master is told. Dropping a file without it closes it too, but its
    /// errors are only logged.
    pub async fn close(self) -> Result<()> {
        Err(Error::ShutDown)
    }
}
