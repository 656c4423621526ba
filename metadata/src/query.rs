//! Questions to the state: nothing here is logged, nothing changes.
use crate::chunk::ChunkInfo;
use crate::inode::{Attr, Body, Kind, Node};
use crate::{FsError, Reply, State};
use cairn_types::layout::{CHUNK_SIZE_BYTES, chunk_index};
use cairn_types::limits::{LOCATE_CHUNKS_MAX, READDIR_ENTRIES_MAX};
use cairn_types::{ChunkHandle, ClusterId, DiskId, Inode, Sequence, ServerId, SessionId};

/// Symbolic links followed in one walk, as Linux has it.
const SYMLINKS_MAX: u32 = 40;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    pub name: Vec<u8>,
    /// A listing goes on after it; stable for ever, above 2, below 2^63.
    pub cookie: u64,
    pub attr: Attr,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryPage {
    /// In the order of cookies, without `.` and `..`. Names of one cookie are never divided between pages.
    pub entries: Vec<DirectoryEntry>,
    /// Nothing follows.
    pub end: bool,
    pub directory: Attr,
    /// For `..`; the root's is the root.
    pub parent: Inode,
}

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    pub parent: Inode,
    /// The last name; empty for the root and for paths that end in `.` or `..`.
    pub name: Vec<u8>,
    /// `None`: the name does not exist in `parent`, which does.
    pub attr: Option<Attr>,
}

/// Sizes of the state, kept up to date as it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub directories: u64,
    pub regular_files: u64,
    /// Links, pipes, sockets, devices.
    pub other_files: u64,
    /// All chunks, those of trash and orphans included.
    pub chunks: u64,
    /// Sum of the lengths of live regular files.
    pub bytes: u64,
    pub trash_files: u64,
    pub trash_bytes: u64,
    pub orphans: u64,
    pub sessions: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trashed {
    pub inode: Inode,
    /// Where it was.
    pub path: Vec<u8>,
    pub parent: Inode,
    pub name: Vec<u8>,
    pub deleted_ns: i64,
    pub expires_ns: i64,
    pub attr: Attr,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrashPage {
    /// By ascending inode.
    pub entries: Vec<Trashed>,
    pub end: bool,
    /// Of all the trash.
    pub total_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerInfo {
    pub server: ServerId,
    pub label: String,
    /// Where it was last reached.
    pub address: String,
    pub disks: Vec<DiskInfo>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskInfo {
    pub disk: DiskId,
    pub server: ServerId,
    pub in_service: bool,
}

/// The namespace.
impl State {
    pub fn getattr(&self, inode: Inode) -> Result<Attr, FsError> {
        Ok(self.attr_of(inode, self.node(inode)?))
    }

    /// What `name` in `parent` leads to; `.` and `..` are names here.
    pub fn lookup(&self, parent: Inode, name: &[u8]) -> Result<Attr, FsError> {
        let node = self.node(parent)?;
        let directory = node.directory().ok_or(FsError::NotDirectory)?;
        let inode = match name {
            b"." => parent,
            b".." => node.parent,
            _ => directory.get(name).ok_or(FsError::NotFound)?,
        };
        self.getattr(inode)
    }

    /// Up to `limit` entries (at most READDIR_ENTRIES_MAX) after `cookie`; 0 begins.
    pub fn readdir(&self, inode: Inode, cookie: u64, limit: usize) -> Result<DirectoryPage, FsError> {
        let node = self.node(inode)?;
        let directory = node.directory().ok_or(FsError::NotDirectory)?;
        let limit = limit.clamp(1, READDIR_ENTRIES_MAX);
        let mut page = DirectoryPage {
            entries: Vec::new(),
            end: true,
            directory: self.attr_of(inode, node),
            parent: node.parent,
        };
        for (cookie, name, inode) in directory.after(cookie) {
            if page.entries.len() >= limit && page.entries.last().is_some_and(|last| last.cookie != cookie) {
                page.end = false;
                break;
            }
            let attr = self.getattr(inode)?;
            page.entries.push(DirectoryEntry {
                name: name.to_vec(),
                cookie,
                attr,
            });
        }
        Ok(page)
    }

    /// A symbolic link's target.
    pub fn readlink(&self, inode: Inode) -> Result<Vec<u8>, FsError> {
        match &self.node(inode)?.body {
            Body::Symlink(target) => Ok(target.to_vec()),
            _ => Err(FsError::InvalidArgument),
        }
    }

    pub fn has_xattrs(&self, inode: Inode) -> bool {
        self.node(inode).is_ok_and(|node| node.xattrs.is_some())
    }

    pub fn getxattr(&self, inode: Inode, name: &[u8]) -> Result<Vec<u8>, FsError> {
        let all = self.node(inode)?.xattrs.as_ref().ok_or(FsError::NoXattr)?;
        Ok(all.get(name).ok_or(FsError::NoXattr)?.to_vec())
    }

    /// Names, in order.
    pub fn listxattr(&self, inode: Inode) -> Result<Vec<Vec<u8>>, FsError> {
        let all = self.node(inode)?.xattrs.as_ref();
        Ok(all
            .into_iter()
            .flat_map(|all| all.keys())
            .map(|name| name.to_vec())
            .collect())
    }

    /// One path from the root to `inode`, beginning with `/`. [`FsError::NotFound`] for what has no name; of a file in
    /// the trash, where it was.
    pub fn path_of(&self, inode: Inode) -> Result<Vec<u8>, FsError> {
        if let Some(entry) = self.trash.get(&inode) {
            return Ok(entry.path.to_vec());
        }
        let mut names = Vec::new();
        let (mut at, mut node) = (inode, self.node(inode)?);
        while at != Inode::ROOT {
            let parent = self.node(node.parent).map_err(|_| FsError::NotFound)?;
            let directory = parent.directory().ok_or(FsError::NotFound)?;
            let mut here = directory.at(node.name_hash);
            names.push(
                here.find(|(_, inode)| *inode == at)
                    .map(|(name, _)| name)
                    .ok_or(FsError::NotFound)?,
            );
            (at, node) = (node.parent, parent);
        }
        if names.is_empty() {
            return Ok(b"/".to_vec());
        }
        Ok(names.iter().rev().flat_map(|name| [b"/", *name].concat()).collect())
    }

    /// A name of `inode`, the last of [`State::path_of`]; `None` for the root and for what has no name.
    pub fn name_of(&self, inode: Inode) -> Option<Vec<u8>> {
        if let Some(entry) = self.trash.get(&inode) {
            return Some(entry.path.rsplit(|b| *b == b'/').next()?.to_vec());
        }
        let node = self.node(inode).ok()?;
        let directory = self.node(node.parent).ok()?.directory()?;
        let mut here = directory.at(node.name_hash);
        here.find(|(_, at)| *at == inode).map(|(name, _)| name.to_vec())
    }

    /// Walks `path`, names separated by `/`, from `from`, or from the root when it begins with `/`. Symbolic links on
    /// the way are followed, one at the end with `follow`.
    pub fn resolve(&self, from: Inode, path: &[u8], follow: bool) -> Result<Resolved, FsError> {
        let mut links = 0;
        let mut at = if path.starts_with(b"/") { Inode::ROOT } else { from };
        // names yet to walk, the next one last
        let mut rest: Vec<Vec<u8>> = names(path).rev().map(<[u8]>::to_vec).collect();
        let mut must_be_directory = path.ends_with(b"/");
        let mut last = (self.node(at)?.parent, Vec::new());
        while let Some(name) = rest.pop() {
            let node = self.node(at)?;
            let directory = node.directory().ok_or(FsError::NotDirectory)?;
            if name == b"." || name == b".." {
                at = if name == b"." { at } else { node.parent };
                last = (self.node(at)?.parent, Vec::new());
                continue;
            }
            let Some(next) = directory.get(&name) else {
                if !rest.is_empty() {
                    return Err(FsError::NotFound);
                }
                return Ok(Resolved {
                    parent: at,
                    name,
                    attr: None,
                });
            };
            match &self.node(next)?.body {
                Body::Symlink(target) if follow || must_be_directory || !rest.is_empty() => {
                    links += 1;
                    if links > SYMLINKS_MAX {
                        return Err(FsError::SymlinkLoop);
                    }
                    if target.starts_with(b"/") {
                        at = Inode::ROOT;
                        last = (Inode::ROOT, Vec::new());
                    }
                    must_be_directory |= rest.is_empty() && target.ends_with(b"/");
                    rest.extend(names(target).rev().map(<[u8]>::to_vec));
                }
                _ => {
                    last = (at, name);
                    at = next;
                }
            }
        }
        let attr = self.getattr(at)?;
        if must_be_directory && attr.kind != Kind::Directory {
            return Err(FsError::NotDirectory);
        }
        Ok(Resolved {
            parent: last.0,
            name: last.1,
            attr: Some(attr),
        })
    }

    pub(crate) fn attr_of(&self, inode: Inode, node: &Node) -> Attr {
        node.attr(inode, self.header.default_goal)
    }
}

fn names(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|name| !name.is_empty())
}

/// Chunks.
impl State {
    /// The chunks of a file that exist from index `first` on, below `first + count` (at most LOCATE_CHUNKS_MAX), and
    /// the file's attributes.
    pub fn locate(&self, inode: Inode, first: u32, count: u32) -> Result<(Attr, Vec<ChunkInfo>), FsError> {
        let node = self.node(inode)?;
        let end = u64::from(first) + u64::from(count).min(LOCATE_CHUNKS_MAX as u64);
        let chunks = match node.chunks() {
            Some(chunks) => chunks.from(first).take_while(|(index, _)| u64::from(*index) < end),
            None if node.is_directory() => return Err(FsError::IsDirectory),
            None => return Err(FsError::InvalidArgument),
        };
        let infos = chunks.filter_map(|(_, handle)| self.chunk(handle)).collect();
        Ok((self.attr_of(inode, node), infos))
    }

    /// `None`: never created, or dropped.
    pub fn chunk(&self, handle: ChunkHandle) -> Option<ChunkInfo> {
        Some(self.chunk_info(handle, self.chunks.get(handle.0)?))
    }

    /// The handle was drawn by this log: a replica of it that has no chunk is garbage. One that was never drawn is
    /// another log's, and no reason to delete anything (promise 7).
    pub fn was_drawn(&self, handle: ChunkHandle) -> bool {
        (1..=self.header.last_handle).contains(&handle.0)
    }

    /// Up to `limit` chunks with handles above `after`, ascending: for scans in the background. The first page begins
    /// after `ChunkHandle(0)`.
    pub fn chunks_after(&self, after: ChunkHandle, limit: usize) -> Vec<ChunkInfo> {
        let page = self.chunks.after(after.0).take(limit);
        page.map(|(handle, chunk)| self.chunk_info(ChunkHandle(handle), chunk))
            .collect()
    }

    /// A change of `inode`'s size to `size` must cut this chunk to so many bytes first (protocol R13): the chunk that
    /// a shorter end lies within.
    pub fn cut_needed(&self, inode: Inode, size: u64) -> Option<(ChunkHandle, u64)> {
        let node = self.nodes.get(inode.0)?;
        let length = size % CHUNK_SIZE_BYTES;
        if size >= node.size || length == 0 {
            return None;
        }
        Some((node.chunks()?.get(chunk_index(size))?, length))
    }

    /// The chunk's file is not in the live tree: repaired last.
    pub fn is_trashed(&self, inode: Inode) -> bool {
        self.trash.contains_key(&inode)
    }
}

/// The cluster, sessions, garbage.
impl State {
    /// `None` before the first command.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.header.cluster
    }

    /// Log index of the last command applied.
    pub fn applied(&self) -> u64 {
        self.header.applied
    }

    /// Log index of the epoch record at hand: with a counter from 1, what versions and registrations are drawn from.
    pub fn epoch(&self) -> u64 {
        self.header.epoch
    }

    pub fn default_goal(&self) -> u8 {
        self.header.default_goal
    }

    /// The longest lease that any master of this log gave: how long a starting one takes leases to be (R11).
    pub fn lease_ms_longest(&self) -> u64 {
        self.header.lease_ms_longest
    }

    pub fn counts(&self) -> Counts {
        let h = &self.header;
        Counts {
            directories: h.directories,
            regular_files: h.regular_files,
            other_files: h.other_files,
            chunks: self.chunks.len(),
            bytes: h.bytes,
            trash_files: self.trash.len() as u64,
            trash_bytes: h.trash_bytes,
            orphans: self.orphans.len() as u64,
            sessions: self.sessions.len() as u64,
        }
    }

    pub fn has_session(&self, session: SessionId) -> bool {
        self.sessions.contains_key(&session)
    }

    pub fn sessions(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.sessions.keys().copied()
    }

    /// The result of a call that was applied before and is not forgotten: a repeated call is answered with it and not
    /// logged. (Logged all the same, it would change nothing.)
    pub fn remembered(&self, session: SessionId, sequence: Sequence) -> Option<Result<Reply, FsError>> {
        let result = self.sessions.get(&session)?.results.get(&sequence)?;
        Some((**result).clone())
    }

    /// Up to `limit` inodes above `after` that have no name and are kept for those who have them open.
    pub fn orphans_after(&self, after: Inode, limit: usize) -> Vec<Inode> {
        self.orphans
            .range(Inode(after.0.saturating_add(1))..)
            .take(limit)
            .copied()
            .collect()
    }

    /// Up to `limit` entries with inodes above `after`.
    pub fn trash_list(&self, after: Inode, limit: usize) -> TrashPage {
        let mut rest = self.trash.range(Inode(after.0.saturating_add(1))..);
        let entries = rest.by_ref().take(limit).filter_map(|(inode, entry)| {
            Some(Trashed {
                inode: *inode,
                path: entry.path.to_vec(),
                parent: entry.parent,
                name: entry.name.to_vec(),
                deleted_ns: entry.deleted_ns,
                expires_ns: entry.expires_ns,
                attr: self.getattr(*inode).ok()?,
            })
        });
        let entries = entries.collect();
        TrashPage {
            entries,
            end: rest.next().is_none(),
            total_bytes: self.header.trash_bytes,
        }
    }

    /// Up to `limit` files whose time in the trash is over at `now_ns`, the longest first: for [`crate::Op::TrashPurge`].
    pub fn trash_expired(&self, now_ns: i64, limit: usize) -> Vec<Inode> {
        let due = self
            .trash_by_expiry
            .iter()
            .take_while(|(expires_ns, _)| *expires_ns <= now_ns);
        due.take(limit).map(|(_, inode)| *inode).collect()
    }

    /// All servers that ever registered, with their disks.
    pub fn servers(&self) -> Vec<ServerInfo> {
        let infos = self.servers.iter().map(|(id, server)| ServerInfo {
            server: *id,
            label: server.label.clone(),
            address: server.address.clone(),
            disks: self.disks.iter().filter(|d| d.server == *id).map(info).collect(),
        });
        infos.collect()
    }

    pub fn disk(&self, disk: DiskId) -> Option<DiskInfo> {
        let number = self.disk_numbers.get(&disk)?;
        self.disks.get(usize::from(*number)).map(info)
    }
}

fn info(disk: &crate::state::Disk) -> DiskInfo {
    DiskInfo {
        disk: disk.id,
        server: disk.server,
        in_service: disk.in_service,
    }
}
