//! Inodes: what a file, directory or link is, without its name.
use crate::directory::Directory;
use cairn_types::layout::CHUNK_SIZE_BYTES;
use cairn_types::{ChunkHandle, Inode};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) const SET_UID: u16 = 0o4000;
pub(crate) const SET_GID: u16 = 0o2000;
pub(crate) const GROUP_EXECUTE: u16 = 0o010;
pub(crate) const ANY_EXECUTE: u16 = 0o111;

/// What kind of file an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    Regular,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharacterDevice,
    BlockDevice,
}

/// An inode's attributes, as stat(2) has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attr {
    pub inode: Inode,
    pub kind: Kind,
    /// Permission bits, 07777.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// 0: unlinked, kept in the trash or for those who have it open.
    pub nlink: u32,
    /// Bytes; of a symbolic link its target's length, of a directory its entries' count.
    pub size: u64,
    pub rdev: u32,
    pub atime_ns: i64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    pub btime_ns: i64,
    /// Raised by every change of length or mtime: pages cached under another generation are stale.
    pub generation: u64,
    /// Replicas wanted of each chunk; of a directory, what it gives to what is created in it. The default filled in.
    pub goal: u8,
    /// Bytes below `size` that lie in chunks that exist.
    pub allocated_bytes: u64,
}

/// Values by name.
pub(crate) type Xattrs = BTreeMap<Box<[u8]>, Box<[u8]>>;

/// One inode in memory. Its number is the key in the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Node {
    pub size: u64,
    pub generation: u64,
    /// The generation at which mtime was last set explicitly; commits by clients that had not seen it leave mtime.
    pub mtime_set_at: u64,
    pub atime_ns: i64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    pub btime_ns: i64,
    /// Of a directory: the parent. Of anything else: where one of its names is; [`crate::State`] has the others.
    pub parent: Inode,
    /// With `parent`: the hash of the name there.
    pub name_hash: u64,
    pub body: Body,
    pub xattrs: Option<Arc<Xattrs>>,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub mode: u16,
    /// 0: the default.
    pub goal: u8,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Body {
    Regular(Chunks),
    /// Its entries are no part of its record in a checkpoint: they follow.
    Directory(#[serde(skip)] Arc<Directory>),
    Symlink(Arc<Box<[u8]>>),
    Fifo,
    Socket,
    CharacterDevice(u32),
    BlockDevice(u32),
}

// memory is counted (design: at most 150 bytes a file, its name counted)
const _: () = assert!(size_of::<Option<Node>>() <= 112);

impl Node {
    pub fn kind(&self) -> Kind {
        match self.body {
            Body::Regular(_) => Kind::Regular,
            Body::Directory(_) => Kind::Directory,
            Body::Symlink(_) => Kind::Symlink,
            Body::Fifo => Kind::Fifo,
            Body::Socket => Kind::Socket,
            Body::CharacterDevice(_) => Kind::CharacterDevice,
            Body::BlockDevice(_) => Kind::BlockDevice,
        }
    }

    pub fn is_directory(&self) -> bool {
        matches!(self.body, Body::Directory(_))
    }

    pub fn directory(&self) -> Option<&Directory> {
        match &self.body {
            Body::Directory(d) => Some(d),
            _ => None,
        }
    }

    pub fn chunks(&self) -> Option<&Chunks> {
        match &self.body {
            Body::Regular(chunks) => Some(chunks),
            _ => None,
        }
    }

    pub fn attr(&self, inode: Inode, default_goal: u8) -> Attr {
        let (rdev, allocated_bytes) = match &self.body {
            Body::CharacterDevice(rdev) | Body::BlockDevice(rdev) => (*rdev, 0),
            Body::Regular(chunks) => (0, chunks.allocated_bytes(self.size)),
            _ => (0, 0),
        };
        let size = match &self.body {
            Body::Directory(d) => d.len(),
            _ => self.size,
        };
        Attr {
            inode,
            kind: self.kind(),
            mode: self.mode.into(),
            uid: self.uid,
            gid: self.gid,
            nlink: self.nlink,
            size,
            rdev,
            atime_ns: self.atime_ns,
            mtime_ns: self.mtime_ns,
            ctime_ns: self.ctime_ns,
            btime_ns: self.btime_ns,
            generation: self.generation,
            goal: if self.goal == 0 { default_goal } else { self.goal },
            allocated_bytes,
        }
    }

    /// The contents changed at `at_ns`.
    pub fn modified(&mut self, at_ns: i64) {
        (self.mtime_ns, self.ctime_ns) = (at_ns, at_ns);
        self.generation += 1;
    }

    /// As POSIX has it for writes and changes of owner by those without privilege: set-uid goes, and set-gid where
    /// the group may execute (without that it is a mark for locks).
    pub fn clear_set_ids(&mut self) {
        self.mode &= !SET_UID;
        if self.mode & GROUP_EXECUTE != 0 {
            self.mode &= !SET_GID;
        }
    }
}

/// A file's chunks by index; most files have one, at 0.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) enum Chunks {
    #[default]
    None,
    /// At index 0.
    One(ChunkHandle),
    /// In ascending order of the index.
    Many(Arc<Vec<(u32, ChunkHandle)>>),
}

impl Chunks {
    pub fn get(&self, index: u32) -> Option<ChunkHandle> {
        match self {
            Chunks::None => None,
            Chunks::One(handle) => (index == 0).then_some(*handle),
            Chunks::Many(all) => all.binary_search_by_key(&index, |(i, _)| *i).ok().map(|at| all[at].1),
        }
    }

    /// Those at `first` and above, in order.
    pub fn from(&self, first: u32) -> impl Iterator<Item = (u32, ChunkHandle)> + '_ {
        let one = match self {
            Chunks::One(handle) if first == 0 => Some((0, *handle)),
            _ => None,
        };
        let many = match self {
            Chunks::Many(all) => &all[all.partition_point(|(i, _)| *i < first)..],
            _ => &[],
        };
        one.into_iter().chain(many.iter().copied())
    }

    /// `index` must be free.
    pub fn insert(&mut self, index: u32, handle: ChunkHandle) {
        match self {
            Chunks::None if index == 0 => *self = Chunks::One(handle),
            Chunks::None => *self = Chunks::Many(Arc::new(vec![(index, handle)])),
            Chunks::One(first) => *self = Chunks::Many(Arc::new(vec![(0, *first), (index, handle)])),
            Chunks::Many(all) => {
                let at = all.partition_point(|(i, _)| *i < index);
                Arc::make_mut(all).insert(at, (index, handle));
            }
        }
    }

    /// Removes those at `first` and above, and gives them.
    pub fn split_off(&mut self, first: u32) -> Vec<ChunkHandle> {
        let dropped: Vec<_> = self.from(first).map(|(_, handle)| handle).collect();
        if !dropped.is_empty() {
            let kept = match self {
                Chunks::Many(all) => &all[..all.len() - dropped.len()],
                _ => &[],
            };
            *self = match kept {
                [] => Chunks::None,
                [(0, handle)] => Chunks::One(*handle),
                _ => Chunks::Many(Arc::new(kept.to_vec())),
            };
        }
        dropped
    }

    pub fn allocated_bytes(&self, size: u64) -> u64 {
        let whole = (size / CHUNK_SIZE_BYTES) as u32;
        let full = match self {
            Chunks::None => 0,
            Chunks::One(_) => usize::from(whole > 0),
            Chunks::Many(all) => all.partition_point(|(i, _)| *i < whole),
        };
        let part = if self.get(whole).is_some() {
            size % CHUNK_SIZE_BYTES
        } else {
            0
        };
        full as u64 * CHUNK_SIZE_BYTES + part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_keep_their_shape() {
        let mut chunks = Chunks::default();
        chunks.insert(0, ChunkHandle(7));
        assert_eq!(chunks, Chunks::One(ChunkHandle(7)));
        chunks.insert(5, ChunkHandle(9));
        chunks.insert(2, ChunkHandle(8));
        let all: Vec<_> = chunks.from(1).map(|(i, h)| (i, h.0)).collect();
        assert_eq!(all, [(2, 8), (5, 9)]);
        assert_eq!(chunks.get(5), Some(ChunkHandle(9)));
        assert_eq!(chunks.allocated_bytes(CHUNK_SIZE_BYTES + 3), CHUNK_SIZE_BYTES);
        assert_eq!(chunks.allocated_bytes(2 * CHUNK_SIZE_BYTES + 3), CHUNK_SIZE_BYTES + 3);
        assert_eq!(chunks.split_off(1), [ChunkHandle(8), ChunkHandle(9)]);
        assert_eq!(chunks, Chunks::One(ChunkHandle(7)));
        assert_eq!(chunks.split_off(1), []);
        assert_eq!(chunks.split_off(0), [ChunkHandle(7)]);
        assert_eq!(chunks, Chunks::None);
    }
}
