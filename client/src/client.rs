//! The calls that FUSE and the `cairn` command make, by inode and by path.
use crate::{
    Attr, ClientConfig, Create, DirectoryPage, Error, File, Invalidation, Location, Make, Member, OpenMode,
    RenameFlags, ReplicaRead, Resolved, Result, SetAttr, StatFs, TrashEmptied, TrashPage, XattrFlags,
};
use bytes::Bytes;
use cairn_io::Env;
use cairn_types::{ClusterId, Inode, SessionId};
use tokio::sync::mpsc;

/// One session with the master. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Client {}

#[allow(unused_variables)]
impl Client {
    /// # Errors
    /// `NoAnswer`, naming the address; `WrongCluster`.
    pub async fn connect(config: ClientConfig, env: Env) -> Result<Client> {
        Err(Error::ShutDown)
    }
    pub fn cluster(&self) -> ClusterId {
        ClusterId::from_bits(0)
    }
    pub fn session(&self) -> SessionId {
        SessionId::from_bits(0)
    }
    /// The master's pushes. Taken once: a second receiver is closed from the start.
    pub fn invalidations(&self) -> mpsc::Receiver<Invalidation> {
        mpsc::channel(1).1
    }
    /// Flushes all files, and says goodbye.
    pub async fn shutdown(self) -> Result<()> {
        Err(Error::ShutDown)
    }

    pub async fn lookup(&self, parent: Inode, name: &[u8]) -> Result<Attr> {
        Err(Error::ShutDown)
    }
    /// The size includes this client's own unflushed writes.
    pub async fn getattr(&self, ino: Inode) -> Result<Attr> {
        Err(Error::ShutDown)
    }
    pub async fn setattr(&self, ino: Inode, change: SetAttr) -> Result<Attr> {
        Err(Error::ShutDown)
    }
    /// The entries after `after` (a cookie; 0 from the start).
    pub async fn readdir(&self, ino: Inode, after: u64, limit: u32) -> Result<DirectoryPage> {
        Err(Error::ShutDown)
    }
    pub async fn make(&self, parent: Inode, name: &[u8], make: Make) -> Result<Attr> {
        Err(Error::ShutDown)
    }
    pub async fn readlink(&self, ino: Inode) -> Result<Bytes> {
        Err(Error::ShutDown)
    }
    pub async fn link(&self, ino: Inode, new_parent: Inode, new_name: &[u8]) -> Result<Attr> {
        Err(Error::ShutDown)
    }
    pub async fn unlink(&self, parent: Inode, name: &[u8]) -> Result<()> {
        Err(Error::ShutDown)
    }
    pub async fn rmdir(&self, parent: Inode, name: &[u8]) -> Result<()> {
        Err(Error::ShutDown)
    }
    pub async fn rename(
        &self,
        parent: Inode,
        name: &[u8],
        new_parent: Inode,
        new_name: &[u8],
        flags: RenameFlags,
    ) -> Result<()> {
        Err(Error::ShutDown)
    }
    pub async fn getxattr(&self, ino: Inode, name: &[u8]) -> Result<Bytes> {
        Err(Error::ShutDown)
    }
    pub async fn setxattr(&self, ino: Inode, name: &[u8], value: Bytes, flags: XattrFlags) -> Result<()> {
        Err(Error::ShutDown)
    }
    pub async fn listxattr(&self, ino: Inode) -> Result<Vec<Bytes>> {
        Err(Error::ShutDown)
    }
    pub async fn removexattr(&self, ino: Inode, name: &[u8]) -> Result<()> {
        Err(Error::ShutDown)
    }
    pub async fn statfs(&self) -> Result<StatFs> {
        Err(Error::ShutDown)
    }
    /// Creates and opens a regular file for reading and writing; with `true` it existed already.
    pub async fn create(&self, parent: Inode, name: &[u8], create: Create) -> Result<(Attr, bool, File)> {
        Err(Error::ShutDown)
    }
    pub async fn open(&self, ino: Inode, mode: OpenMode) -> Result<File> {
        Err(Error::ShutDown)
    }

    /// Walks `path` from the root; symbolic links on the way are followed, one at the end with `follow`.
    pub async fn resolve(&self, path: &[u8], follow: bool) -> Result<Resolved> {
        Err(Error::ShutDown)
    }
    /// One path that leads there.
    pub async fn path_of(&self, ino: Inode) -> Result<Bytes> {
        Err(Error::ShutDown)
    }
    /// 0: as the parent says.
    pub async fn set_goal(&self, ino: Inode, goal: u8) -> Result<Attr> {
        Err(Error::ShutDown)
    }
    /// The chunks of [first, first + count) that exist.
    pub async fn locations(&self, ino: Inode, first: u32, count: u32) -> Result<Vec<Location>> {
        Err(Error::ShutDown)
    }
    pub async fn trash_list(&self, after: Inode, limit: u32) -> Result<TrashPage> {
        Err(Error::ShutDown)
    }
    pub async fn trash_restore(&self, ino: Inode, to: Option<(Inode, Bytes)>) -> Result<Attr> {
        Err(Error::ShutDown)
    }
    /// None given: all.
    pub async fn trash_empty(&self, inodes: &[Inode]) -> Result<TrashEmptied> {
        Err(Error::ShutDown)
    }
    /// Reads one chosen replica, at most 1 MiB, for fsck and scrub tools; the checksums are verified here, with
    /// `verify` by the server too.
    pub async fn read_replica(
        &self,
        location: &Location,
        member: &Member,
        offset: u64,
        len: u32,
        verify: bool,
    ) -> Result<ReplicaRead> {
        Err(Error::ShutDown)
    }
}
