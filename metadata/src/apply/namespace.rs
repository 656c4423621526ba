//! Names, inodes and their attributes.
use super::{Context, Stop, disk_number};
use crate::command::{Create, Effect, Existing, RemovedAs, Rename, RenameMode, Reply, SetAttr, SetTime, XattrMode};
use crate::directory::{Directory, hash_name};
use crate::inode::{ANY_EXECUTE, Body, Chunks, Kind, Node, SET_GID};
use crate::{CannotApply, FsError, State};
use cairn_types::layout::{CHUNK_SIZE_BYTES, FILE_SIZE_BYTES_MAX, chunk_index};
use cairn_types::limits::{
    GOAL_MAX, LINKS_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX, XATTR_NAME_BYTES_MAX, XATTR_TOTAL_BYTES_MAX,
    XATTR_VALUE_BYTES_MAX,
};
use cairn_types::{ChunkHandle, Inode};
use std::sync::Arc;

pub(super) fn check_name(name: &[u8]) -> Result<(), FsError> {
    match name {
        b"" | b"." | b".." => Err(FsError::InvalidName),
        _ if name.len() > NAME_BYTES_MAX => Err(FsError::NameTooLong),
        _ if name.iter().any(|b| *b == b'/' || *b == 0) => Err(FsError::InvalidName),
        _ => Ok(()),
    }
}

impl State {
    /// A directory that has a name: nothing is made in a removed one.
    pub(super) fn live_directory(&self, inode: Inode) -> Result<&Directory, FsError> {
        let node = self.node(inode)?;
        let directory = node.directory().ok_or(FsError::NotDirectory)?;
        if node.nlink == 0 {
            Err(FsError::NotFound)
        } else {
            Ok(directory)
        }
    }

    /// `inode` is `top` or lies below it.
    fn is_within(&self, mut inode: Inode, top: Inode) -> Result<bool, FsError> {
        loop {
            if inode == top {
                return Ok(true);
            }
            if inode == Inode::ROOT {
                return Ok(false);
            }
            inode = self.node(inode)?.parent;
        }
    }
}

impl Context<'_> {
    fn directory_mut(&mut self, inode: Inode) -> Result<(&mut Directory, &mut u32), CannotApply> {
        let at_ns = self.at_ns;
        let node = self.node_mut(inode)?;
        node.modified(at_ns);
        match &mut node.body {
            Body::Directory(directory) => Ok((Arc::make_mut(directory), &mut node.nlink)),
            _ => Err(CannotApply::Inconsistent("a parent is no directory")),
        }
    }

    /// Sets the entry, with the directory's times, its link count by `links` and the effects.
    pub(super) fn set_entry(&mut self, parent: Inode, name: &[u8], to: Option<Inode>, links: i32) -> Result<(), Stop> {
        let (directory, nlink) = self.directory_mut(parent)?;
        match to {
            Some(inode) => directory.insert(name, inode),
            None => directory.remove(name),
        };
        *nlink = nlink.saturating_add_signed(links);
        self.effects.push(Effect::EntryChanged {
            parent,
            name: name.to_vec(),
        });
        self.changed(parent, true);
        Ok(())
    }

    pub(super) fn create(&mut self, create: &Create) -> Result<Reply, Stop> {
        let Create { parent, name, kind, .. } = create;
        check_name(name)?;
        if let Some(inode) = self.state.live_directory(*parent)?.get(name) {
            return self.open_existing(inode, create.existing);
        }
        if create.goal > GOAL_MAX {
            return Err(FsError::InvalidGoal.into());
        }
        let target_expected = *kind == Kind::Symlink;
        if create.target.is_empty() == target_expected || (create.chunk.is_some() && *kind != Kind::Regular) {
            return Err(FsError::InvalidArgument.into());
        }
        if create.target.len() > PATH_BYTES_MAX {
            return Err(FsError::NameTooLong.into());
        }
        if let Some(grant) = &create.chunk {
            self.check_grant(grant)?;
        }
        let directory = self.state.node(*parent)?;
        let (mut gid, mut mode) = (create.gid, (create.mode & 0o7777) as u16);
        if directory.mode & SET_GID != 0 {
            gid = directory.gid;
            if *kind == Kind::Directory {
                mode |= SET_GID;
            }
        }
        let goal = if create.goal == 0 { directory.goal } else { create.goal };

        let inode = Inode(self.state.header.last_inode + 1);
        self.state.header.last_inode = inode.0;
        let node = Node {
            size: create.target.len() as u64,
            generation: 1,
            mtime_set_at: 0,
            atime_ns: self.at_ns,
            mtime_ns: self.at_ns,
            ctime_ns: self.at_ns,
            btime_ns: self.at_ns,
            parent: *parent,
            name_hash: hash_name(name),
            body: match kind {
                Kind::Regular => Body::Regular(Chunks::None),
                Kind::Directory => Body::Directory(Arc::default()),
                Kind::Symlink => Body::Symlink(Arc::new(create.target.as_slice().into())),
                Kind::Fifo => Body::Fifo,
                Kind::Socket => Body::Socket,
                Kind::CharacterDevice => Body::CharacterDevice(create.rdev),
                Kind::BlockDevice => Body::BlockDevice(create.rdev),
            },
            xattrs: None,
            uid: create.uid,
            gid,
            nlink: if *kind == Kind::Directory { 2 } else { 1 },
            mode: if *kind == Kind::Symlink { 0o777 } else { mode },
            goal,
        };
        self.count(&node, 1);
        self.state.nodes.insert(inode.0, node);
        self.set_entry(*parent, name, Some(inode), i32::from(*kind == Kind::Directory))?;
        let chunk = match &create.chunk {
            Some(grant) => Some(self.create_chunk(inode, 0, grant)?),
            None => None,
        };
        Ok(Reply::Created {
            attr: self.state.getattr(inode)?,
            existed: false,
            chunk,
        })
    }

    fn open_existing(&mut self, inode: Inode, existing: Existing) -> Result<Reply, Stop> {
        let kind = self.state.node(inode)?.kind();
        match (existing, kind) {
            (Existing::Refuse, _) | (_, Kind::Symlink) => return Err(FsError::Exists.into()),
            (_, Kind::Directory) => return Err(FsError::IsDirectory.into()),
            (Existing::OpenTruncated, Kind::Regular) => {
                let set = SetAttr {
                    size: Some(0),
                    ..SetAttr::default()
                };
                self.set_attr(inode, &set, None)?;
            }
            _ => {}
        }
        Ok(Reply::Created {
            attr: self.state.getattr(inode)?,
            existed: true,
            chunk: None,
        })
    }

    pub(super) fn link(&mut self, inode: Inode, parent: Inode, name: &[u8]) -> Result<Reply, Stop> {
        check_name(name)?;
        let node = self.state.node(inode)?;
        if node.is_directory() {
            return Err(FsError::LinkOfDirectory.into());
        }
        if node.nlink == 0 {
            return Err(FsError::NotFound.into());
        }
        if self.state.live_directory(parent)?.get(name).is_some() {
            return Err(FsError::Exists.into());
        }
        if node.nlink >= LINKS_MAX {
            return Err(FsError::TooManyLinks.into());
        }
        let at_ns = self.at_ns;
        let node = self.node_mut(inode)?;
        node.nlink += 1;
        node.ctime_ns = at_ns;
        let before = (node.parent, node.name_hash);
        (node.parent, node.name_hash) = (parent, hash_name(name));
        self.state.other_links.entry(inode).or_default().push(before);
        self.set_entry(parent, name, Some(inode), 0)?;
        self.changed(inode, false);
        self.attr_reply(inode)
    }

    pub(super) fn unlink(&mut self, parent: Inode, name: &[u8], removed: RemovedAs) -> Result<Reply, Stop> {
        check_name(name)?;
        let inode = self.entry(parent, name)?;
        if self.state.node(inode)?.is_directory() {
            return Err(FsError::IsDirectory.into());
        }
        // the path while the name is still there
        let path = self.path_for_trash(parent, name, removed);
        self.set_entry(parent, name, None, 0)?;
        self.drop_link(inode, parent, name, path, removed)?;
        Ok(Reply::Done)
    }

    pub(super) fn rmdir(&mut self, parent: Inode, name: &[u8], removed: RemovedAs) -> Result<Reply, Stop> {
        check_name(name)?;
        let inode = self.entry(parent, name)?;
        let directory = self.state.node(inode)?.directory().ok_or(FsError::NotDirectory)?;
        if !directory.is_empty() {
            return Err(FsError::NotEmpty.into());
        }
        self.set_entry(parent, name, None, -1)?;
        self.drop_directory(inode, removed)?;
        Ok(Reply::Done)
    }

    fn entry(&self, parent: Inode, name: &[u8]) -> Result<Inode, FsError> {
        let directory = self.state.node(parent)?.directory().ok_or(FsError::NotDirectory)?;
        directory.get(name).ok_or(FsError::NotFound)
    }

    pub(super) fn rename(&mut self, rename: &Rename) -> Result<Reply, Stop> {
        let Rename {
            parent,
            name,
            new_parent,
            new_name,
            mode,
            removed,
        } = rename;
        check_name(name)?;
        check_name(new_name)?;
        let inode = self.entry(*parent, name)?;
        let target = self.state.live_directory(*new_parent)?.get(new_name);
        let is_directory = self.state.node(inode)?.is_directory();
        if is_directory && self.state.is_within(*new_parent, inode)? {
            return Err(FsError::IntoItself.into());
        }
        let Some(target) = target else {
            if *mode == RenameMode::Exchange {
                return Err(FsError::NotFound.into());
            }
            self.move_entry(inode, rename, is_directory, None)?;
            return Ok(Reply::Done);
        };
        if *mode == RenameMode::NoReplace {
            return Err(FsError::Exists.into());
        }
        if target == inode {
            // two names of one file: POSIX has both stay
            return Ok(Reply::Done);
        }
        let target_is_directory = self.state.node(target)?.is_directory();
        if *mode == RenameMode::Exchange {
            if target_is_directory && self.state.is_within(*parent, target)? {
                return Err(FsError::IntoItself.into());
            }
            self.exchange(inode, target, rename, is_directory, target_is_directory)?;
            return Ok(Reply::Done);
        }
        match (is_directory, self.state.node(target)?.directory()) {
            (true, None) => return Err(FsError::NotDirectory.into()),
            (false, Some(_)) => return Err(FsError::IsDirectory.into()),
            (true, Some(directory)) if !directory.is_empty() => return Err(FsError::NotEmpty.into()),
            _ => {}
        }
        let path = self.path_for_trash(*new_parent, new_name, *removed);
        self.move_entry(inode, rename, is_directory, Some(target_is_directory))?;
        if target_is_directory {
            self.drop_directory(target, *removed)?;
        } else {
            self.drop_link(target, *new_parent, new_name, path, *removed)?;
        }
        Ok(Reply::Done)
    }

    /// `replaced`: there is an entry at the new name, and whether it is a directory.
    fn move_entry(
        &mut self,
        inode: Inode,
        rename: &Rename,
        is_directory: bool,
        replaced: Option<bool>,
    ) -> Result<(), Stop> {
        let came = i32::from(is_directory);
        let went = i32::from(replaced == Some(true));
        self.set_entry(rename.parent, &rename.name, None, -came)?;
        self.set_entry(rename.new_parent, &rename.new_name, Some(inode), came - went)?;
        self.moved(
            inode,
            (rename.parent, &rename.name),
            (rename.new_parent, &rename.new_name),
        )?;
        Ok(())
    }

    fn exchange(&mut self, a: Inode, b: Inode, rename: &Rename, a_dir: bool, b_dir: bool) -> Result<(), Stop> {
        let gain = i32::from(b_dir) - i32::from(a_dir);
        self.set_entry(rename.parent, &rename.name, Some(b), gain)?;
        self.set_entry(rename.new_parent, &rename.new_name, Some(a), -gain)?;
        let (one, other) = ((rename.parent, &*rename.name), (rename.new_parent, &*rename.new_name));
        self.moved(a, one, other)?;
        self.moved(b, other, one)?;
        Ok(())
    }

    /// The inode's name `from` is now `to`.
    fn moved(&mut self, inode: Inode, from: (Inode, &[u8]), to: (Inode, &[u8])) -> Result<(), CannotApply> {
        let at_ns = self.at_ns;
        let (from, to) = ((from.0, hash_name(from.1)), (to.0, hash_name(to.1)));
        let node = self.node_mut(inode)?;
        node.ctime_ns = at_ns;
        if (node.parent, node.name_hash) == from {
            (node.parent, node.name_hash) = to;
        } else {
            let mut others = self.state.other_links.get_mut(&inode).into_iter().flatten();
            let link = others
                .find(|link| **link == from)
                .ok_or(CannotApply::Inconsistent("a name nobody knows"))?;
            *link = to;
        }
        self.changed(inode, false);
        Ok(())
    }

    /// The name is gone, and others are left.
    pub(super) fn forget_link(&mut self, inode: Inode, parent: Inode, name: &[u8]) -> Result<(), CannotApply> {
        let lost = CannotApply::Inconsistent("a name nobody knows");
        let gone = (parent, hash_name(name));
        let Some(others) = self.state.other_links.get_mut(&inode) else {
            return Err(lost);
        };
        let node = self.state.nodes.get_mut(inode.0).ok_or(lost.clone())?;
        if (node.parent, node.name_hash) == gone {
            (node.parent, node.name_hash) = others.pop().ok_or(lost)?;
        } else {
            let at = others.iter().position(|link| *link == gone).ok_or(lost)?;
            others.swap_remove(at);
        }
        if others.is_empty() {
            self.state.other_links.remove(&inode);
        }
        Ok(())
    }

    /// `cut`: the chunk that a reconfiguration has just cut to the new size.
    pub(super) fn set_attr(&mut self, inode: Inode, set: &SetAttr, cut: Option<ChunkHandle>) -> Result<Reply, Stop> {
        let node = self.state.node(inode)?;
        if let Some(size) = set.size {
            match &node.body {
                Body::Regular(_) => {}
                Body::Directory(_) => return Err(FsError::IsDirectory.into()),
                _ => return Err(FsError::InvalidArgument.into()),
            }
            if size > FILE_SIZE_BYTES_MAX {
                return Err(FsError::TooLarge.into());
            }
            if self
                .state
                .cut_needed(inode, size)
                .is_some_and(|(handle, _)| Some(handle) != cut)
            {
                return Err(FsError::CutNeeded.into());
            }
            self.resize(inode, size)?;
        }
        let at_ns = self.at_ns;
        let time = |set: SetTime| match set {
            SetTime::Now => at_ns,
            SetTime::At(ns) => ns,
        };
        let node = self.node_mut(inode)?;
        if let Some(mode) = set.mode {
            node.mode = (mode & 0o7777) as u16;
        } else if (set.uid.is_some() || set.gid.is_some()) && is_executable_file(node) {
            node.clear_set_ids();
        }
        if set.kill_suid && matches!(node.body, Body::Regular(_)) {
            node.clear_set_ids();
        }
        node.uid = set.uid.unwrap_or(node.uid);
        node.gid = set.gid.unwrap_or(node.gid);
        node.atime_ns = set.atime.map_or(node.atime_ns, time);
        let data = set.size.is_some() || set.mtime.is_some();
        if data {
            node.modified(at_ns);
        }
        if let Some(mtime) = set.mtime {
            node.mtime_ns = time(mtime);
            node.mtime_set_at = node.generation;
        }
        if *set != SetAttr::default() {
            node.ctime_ns = set.ctime_ns.unwrap_or(at_ns);
            self.changed(inode, data);
        }
        self.attr_reply(inode)
    }

    /// Sets the length; chunks wholly beyond it go.
    fn resize(&mut self, inode: Inode, size: u64) -> Result<(), Stop> {
        let first_beyond = if size.is_multiple_of(CHUNK_SIZE_BYTES) {
            chunk_index(size)
        } else {
            chunk_index(size) + 1
        };
        let old = self.state.node(inode)?.size;
        self.count_resize(inode, old, size);
        let node = self.node_mut(inode)?;
        node.size = size;
        let dropped = match &mut node.body {
            Body::Regular(chunks) => chunks.split_off(first_beyond),
            _ => Vec::new(),
        };
        self.drop_chunks(dropped)
    }

    pub(super) fn set_xattr(
        &mut self,
        inode: Inode,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<Reply, Stop> {
        if name.is_empty() || name.contains(&0) {
            return Err(FsError::InvalidName.into());
        }
        if name.len() > XATTR_NAME_BYTES_MAX {
            return Err(FsError::XattrNameTooLong.into());
        }
        if value.len() > XATTR_VALUE_BYTES_MAX {
            return Err(FsError::XattrTooLarge.into());
        }
        let all = self.state.node(inode)?.xattrs.as_ref();
        let old = all.and_then(|all| all.get(name)).map(|value| value.len());
        match (mode, old) {
            (XattrMode::Create, Some(_)) => return Err(FsError::Exists.into()),
            (XattrMode::Replace, None) => return Err(FsError::NoXattr.into()),
            _ => {}
        }
        let total: usize = all
            .into_iter()
            .flat_map(|all| all.iter())
            .map(|(n, v)| n.len() + v.len())
            .sum();
        let total = total - old.map_or(0, |old| old + name.len()) + name.len() + value.len();
        if total > XATTR_TOTAL_BYTES_MAX {
            return Err(FsError::XattrsFull.into());
        }
        let at_ns = self.at_ns;
        let node = self.node_mut(inode)?;
        Arc::make_mut(node.xattrs.get_or_insert_default()).insert(name.into(), value.into());
        node.ctime_ns = at_ns;
        self.changed(inode, false);
        Ok(Reply::Done)
    }

    pub(super) fn remove_xattr(&mut self, inode: Inode, name: &[u8]) -> Result<Reply, Stop> {
        let all = self.state.node(inode)?.xattrs.as_ref();
        if !all.is_some_and(|all| all.contains_key(name)) {
            return Err(FsError::NoXattr.into());
        }
        let at_ns = self.at_ns;
        let node = self.node_mut(inode)?;
        if let Some(all) = &mut node.xattrs {
            Arc::make_mut(all).remove(name);
        }
        if node.xattrs.as_ref().is_some_and(|all| all.is_empty()) {
            node.xattrs = None;
        }
        node.ctime_ns = at_ns;
        self.changed(inode, false);
        Ok(Reply::Done)
    }

    pub(super) fn set_goal(&mut self, inode: Inode, goal: u8) -> Result<Reply, Stop> {
        let node = self.state.node(inode)?;
        if goal > GOAL_MAX || (goal == 0 && !node.is_directory()) {
            return Err(FsError::InvalidGoal.into());
        }
        let regular = matches!(node.body, Body::Regular(_));
        let at_ns = self.at_ns;
        let node = self.node_mut(inode)?;
        (node.goal, node.ctime_ns) = (goal, at_ns);
        self.changed(inode, false);
        if regular {
            self.effects.push(Effect::GoalChanged { inode });
        }
        self.attr_reply(inode)
    }

    /// Grants name disks that are registered, each once, and a version of this epoch.
    pub(super) fn check_members(&self, members: &[cairn_types::DiskId]) -> Result<crate::chunk::Members, CannotApply> {
        let numbers: Vec<u16> = members
            .iter()
            .map(|disk| disk_number(self.state, *disk))
            .collect::<Result<_, _>>()?;
        let twice = numbers.iter().enumerate().any(|(i, n)| numbers[..i].contains(n));
        if twice || numbers.is_empty() {
            return Err(CannotApply::BadMembers);
        }
        crate::chunk::Members::new(&numbers).ok_or(CannotApply::BadMembers)
    }
}

fn is_executable_file(node: &Node) -> bool {
    matches!(node.body, Body::Regular(_)) && node.mode & ANY_EXECUTE != 0
}
