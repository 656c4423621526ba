//! What becomes of an inode that loses its last name: trash, orphan, or freed.
use super::namespace::check_name;
use super::{Context, Stop};
use crate::command::{Effect, RemovedAs, Reply};
use crate::directory::hash_name;
use crate::inode::{Body, Node};
use crate::state::TrashEntry;
use crate::{CannotApply, FsError};
use cairn_types::Inode;
use std::sync::Arc;

impl Context<'_> {
    /// For the trash's listing; empty when there is no trash.
    pub(super) fn path_for_trash(&self, parent: Inode, name: &[u8], removed: RemovedAs) -> Vec<u8> {
        if removed.trash_keep_ns <= 0 {
            return Vec::new();
        }
        let mut path = self.state.path_of(parent).unwrap_or_default();
        if !path.ends_with(b"/") {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    /// The entry (`parent`, `name`) of a file that is no directory has been removed.
    pub(super) fn drop_link(
        &mut self,
        inode: Inode,
        parent: Inode,
        name: &[u8],
        path: Vec<u8>,
        removed: RemovedAs,
    ) -> Result<(), Stop> {
        let at_ns = self.at_ns;
        let node = self.node_mut(inode)?;
        node.nlink = node.nlink.saturating_sub(1);
        node.ctime_ns = at_ns;
        if node.nlink > 0 {
            self.forget_link(inode, parent, name)?;
            self.changed(inode, false);
            return Ok(());
        }
        let (regular, size) = (matches!(node.body, Body::Regular(_)), node.size);
        let node = node.clone();
        self.count(&node, -1);
        if regular && removed.trash_keep_ns > 0 {
            let expires_ns = at_ns.saturating_add(removed.trash_keep_ns);
            let entry = TrashEntry {
                deleted_ns: at_ns,
                expires_ns,
                parent,
                name: name.into(),
                path: path.into(),
            };
            self.state.trash.insert(inode, Arc::new(entry));
            self.state.trash_by_expiry.insert((expires_ns, inode));
            self.state.header.trash_bytes += size;
            self.changed(inode, false);
            self.effects.push(Effect::Trashed { inode });
            return Ok(());
        }
        self.orphan_or_free(inode, removed.closed == Some(inode))
    }

    /// The entry of an empty directory has been removed.
    pub(super) fn drop_directory(&mut self, inode: Inode, removed: RemovedAs) -> Result<(), Stop> {
        let at_ns = self.at_ns;
        let node = self.node_mut(inode)?;
        (node.nlink, node.ctime_ns) = (0, at_ns);
        let node = node.clone();
        self.count(&node, -1);
        self.orphan_or_free(inode, removed.closed == Some(inode))
    }

    fn orphan_or_free(&mut self, inode: Inode, closed: bool) -> Result<(), Stop> {
        if closed {
            self.free(inode)
        } else {
            self.state.orphans.insert(inode);
            self.changed(inode, false);
            self.effects.push(Effect::Orphaned { inode });
            Ok(())
        }
    }

    fn free(&mut self, inode: Inode) -> Result<(), Stop> {
        let node = self
            .state
            .nodes
            .remove(inode.0)
            .ok_or(CannotApply::Inconsistent("an inode freed twice"))?;
        if let Body::Regular(mut chunks) = node.body {
            self.drop_chunks(chunks.split_off(0))?;
        }
        self.effects.push(Effect::InodeFreed { inode });
        Ok(())
    }

    pub(super) fn release_orphans(&mut self, inodes: &[Inode]) -> Result<Reply, Stop> {
        let (mut count, mut bytes) = (0, 0);
        for inode in inodes {
            if self.state.orphans.remove(inode) {
                count += 1;
                bytes += self.state.node(*inode).map_or(0, |node| node.size);
                self.free(*inode)?;
            }
        }
        Ok(Reply::Purged { count, bytes })
    }

    pub(super) fn trash_purge(&mut self, inodes: &[Inode], keep_open: &[Inode]) -> Result<Reply, Stop> {
        let (mut count, mut bytes) = (0, 0);
        for inode in inodes {
            if let Some(size) = self.leave_trash(*inode) {
                count += 1;
                bytes += size;
                self.orphan_or_free(*inode, !keep_open.contains(inode))?;
            }
        }
        Ok(Reply::Purged { count, bytes })
    }

    /// Its size; `None` if it isn't there.
    fn leave_trash(&mut self, inode: Inode) -> Option<u64> {
        let entry = self.state.trash.remove(&inode)?;
        self.state.trash_by_expiry.remove(&(entry.expires_ns, inode));
        let size = self.state.nodes.get(inode.0).map_or(0, |node| node.size);
        self.state.header.trash_bytes = self.state.header.trash_bytes.saturating_sub(size);
        Some(size)
    }

    pub(super) fn trash_restore(&mut self, inode: Inode, to: Option<&(Inode, Vec<u8>)>) -> Result<Reply, Stop> {
        let entry = self.state.trash.get(&inode).ok_or(FsError::NotInTrash)?.clone();
        let (parent, name) = to.map_or((entry.parent, &*entry.name), |(parent, name)| (*parent, name));
        check_name(name)?;
        let directory = match self.state.live_directory(parent) {
            // it is gone since: not the file's fault
            Err(FsError::NoSuchInode) => return Err(FsError::NotFound.into()),
            directory => directory?,
        };
        if directory.get(name).is_some() {
            return Err(FsError::Exists.into());
        }
        self.leave_trash(inode);
        let at_ns = self.at_ns;
        let node = self.node_mut(inode)?;
        (node.nlink, node.ctime_ns) = (1, at_ns);
        (node.parent, node.name_hash) = (parent, hash_name(name));
        let node = node.clone();
        self.count(&node, 1);
        self.set_entry(parent, name, Some(inode), 0)?;
        self.changed(inode, false);
        self.attr_reply(inode)
    }

    /// The live tree gains or loses an inode.
    pub(super) fn count(&mut self, node: &Node, by: i64) {
        let header = &mut self.state.header;
        let counter = match node.body {
            Body::Directory(_) => &mut header.directories,
            Body::Regular(_) => &mut header.regular_files,
            _ => &mut header.other_files,
        };
        *counter = counter.saturating_add_signed(by);
        if matches!(node.body, Body::Regular(_)) {
            header.bytes = header.bytes.saturating_add_signed(by * node.size as i64);
        }
    }

    /// A regular file's length changes.
    pub(super) fn count_resize(&mut self, inode: Inode, old: u64, new: u64) {
        let header = &mut self.state.header;
        let counter = if self.state.trash.contains_key(&inode) {
            &mut header.trash_bytes
        } else if self.state.orphans.contains(&inode) {
            return;
        } else {
            &mut header.bytes
        };
        *counter = counter.saturating_sub(old).saturating_add(new);
    }
}
