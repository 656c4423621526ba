//! The calls that FUSE and the `cairn` command make, by inode and by path.
use crate::core::{Core, mismatch};
use crate::node::Node;
use crate::session::{Session, SessionConfig};
use crate::{
    Attr, ClientConfig, Create, DirectoryPage, Error, File, FileKind, Invalidation, Location, Make, Member, OpenMode,
    RenameFlags, ReplicaRead, Resolved, Result, SetAttr, SetTime, StatFs, TrashEmptied, TrashPage, XattrFlags,
};
use bytes::Bytes;
use cairn_io::Env;
use cairn_proto::session::{self as wire, answer, call::Request};
use cairn_types::limits::{LOCATE_CHUNKS_MAX, NAME_BYTES_MAX, READDIR_ENTRIES_MAX};
use cairn_types::{ClusterId, Inode, SessionId};
use futures::{FutureExt, TryFutureExt};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::DropGuard;

/// One session with the master. Cheap to clone; clones share everything. Shut it down when done: what was written and
/// not flushed or closed is lost with the last clone.
#[derive(Clone)]
pub struct Client(Arc<Handle>);

/// Held by clients and open files; the background work ends with the last.
pub(crate) struct Handle {
    pub core: Arc<Core>,
    _stop: DropGuard,
}

fn name_of(name: &[u8]) -> Result<Bytes> {
    match name.len() {
        0 => Err(Error::Invalid("an empty name")),
        1..=NAME_BYTES_MAX => Ok(Bytes::copy_from_slice(name)),
        _ => Err(Error::Posix {
            errno: crate::errno::ENAMETOOLONG,
            message: "name too long".into(),
        }),
    }
}

impl Client {
    /// # Errors
    /// `NoAnswer`, naming the address; `Refused`.
    pub async fn connect(config: ClientConfig, env: Env) -> Result<Client> {
        let session = SessionConfig {
            master: config.master.clone(),
            description: config.description.clone(),
            host_label: config.host_label.clone(),
            connect_timeout: config.connect_timeout,
            silence: config.server_timeout,
        };
        let session = Session::connect(session, env.clone(), config.connect_within.min(config.timeout)).await?;
        let core = Core::new(config, env, session);
        let weak: Weak<Core> = Arc::downgrade(&core);
        core.session.set_host(weak);
        core.tasks.spawn(core.clone().background());
        let stop = core.stop.clone().drop_guard();
        Ok(Client(Arc::new(Handle { core, _stop: stop })))
    }

    pub fn cluster(&self) -> ClusterId {
        self.core().session.cluster()
    }
    pub fn session(&self) -> SessionId {
        self.core().session.id()
    }
    /// The master's pushes. Taken once: a second receiver is closed from the start.
    pub fn invalidations(&self) -> mpsc::Receiver<Invalidation> {
        self.core().session.invalidations()
    }

    /// Flushes all files, and says goodbye. Every call after this fails.
    pub async fn shutdown(self) -> Result<()> {
        let core = self.core();
        let flushed = Box::pin(core.flush_all()).await;
        let goodbye = Request::Goodbye(wire::Goodbye {});
        // a master that is gone will end the session by itself
        const GOODBYE_WITHIN: Duration = Duration::from_secs(2);
        if let Err(error) = core.session.call(goodbye, GOODBYE_WITHIN).await {
            tracing::debug!("goodbye was not heard: {error}");
        }
        core.session.stop();
        core.stop.cancel();
        core.tasks.close();
        core.tasks.wait().await;
        flushed
    }

    fn core(&self) -> &Arc<Core> {
        &self.0.core
    }

    // none of these is an async fn: each would hold the request once more
    fn call(&self, request: Request) -> impl Future<Output = Result<answer::Result>> + Send {
        self.core().session.call(request, self.core().config.timeout)
    }

    fn call_attr(&self, request: Request) -> impl Future<Output = Result<Attr>> + Send {
        self.call(request)
            .map(|answer| Ok(self.with_local_size(self.core().attr_of(answer?)?)))
    }

    fn call_done(&self, request: Request) -> impl Future<Output = Result<()>> + Send {
        self.call(request).map_ok(|_| ())
    }

    fn call_bytes(&self, request: Request) -> impl Future<Output = Result<Bytes>> + Send {
        self.call(request).map(|answer| match answer? {
            answer::Result::Bytes(bytes) => Ok(bytes),
            _ => Err(mismatch(self.core(), "bytes")),
        })
    }

    /// The master does not know yet what was written here and not committed.
    fn with_local_size(&self, attr: Attr) -> Attr {
        if let Some(node) = self.core().node(attr.ino) {
            return node.state().learned(attr, false);
        }
        attr
    }

    pub async fn lookup(&self, parent: Inode, name: &[u8]) -> Result<Attr> {
        self.call_attr(Request::Lookup(wire::Lookup {
            parent: parent.0,
            name: name_of(name)?,
        }))
        .await
    }

    /// From now on what the master says of names and attributes is remembered, for the next two.
    pub fn remember_names(&self) {
        self.core().session.names().want();
    }

    /// What `name` leads to (`None`: nothing) without asking the master, if it is known, and how long ago the master
    /// would have told of a change: not longer than `within`, which is to stay below the time that the master waits for
    /// a client that it cannot reach ([`cairn_types::limits::BELIEVED_FOR`] does).
    pub fn known_name(&self, parent: Inode, name: &[u8], within: Duration) -> Option<(Option<Attr>, Duration)> {
        let (attr, age) = self.core().session.names().name(parent, name, within)?;
        match attr {
            Some(attr) => Some((Some(self.known(attr)?), age)),
            None => Some((None, age)),
        }
    }

    /// As `known_name`.
    pub fn known_attr(&self, ino: Inode, within: Duration) -> Option<(Attr, Duration)> {
        let (attr, age) = self.core().session.names().attr(ino, within)?;
        Some((self.known(attr)?, age))
    }

    /// All of a directory that fits a page, as `known_name`.
    pub fn known_listing(&self, ino: Inode, within: Duration) -> Option<(DirectoryPage, Duration)> {
        let (page, age) = self.core().session.names().listing(ino, READDIR_ENTRIES_MAX, within)?;
        Some((self.with_local_sizes(DirectoryPage::try_from(page).ok()?), age))
    }

    fn known(&self, attr: wire::Attr) -> Option<Attr> {
        Some(self.with_local_size(Attr::try_from(attr).ok()?))
    }

    /// The size includes this client's own unflushed writes.
    pub async fn getattr(&self, ino: Inode) -> Result<Attr> {
        self.call_attr(Request::GetAttr(wire::GetAttr { inode: ino.0 })).await
    }

    pub async fn setattr(&self, ino: Inode, change: SetAttr) -> Result<Attr> {
        self.core().set_attr(ino, change).await
    }

    /// The entries after `after` (a cookie; 0 from the start).
    pub async fn readdir(&self, ino: Inode, after: u64, limit: u32) -> Result<DirectoryPage> {
        Ok(self.with_local_sizes(self.directory_page(ino, after, limit, false).await?))
    }

    fn with_local_sizes(&self, mut page: DirectoryPage) -> DirectoryPage {
        for entry in &mut page.entries {
            if entry.attr.kind == FileKind::Regular {
                entry.attr = self.with_local_size(entry.attr.clone());
            }
        }
        page
    }

    /// As `readdir`, but of the entries' attributes only `ino` and `kind` mean anything.
    pub async fn readdir_plain(&self, ino: Inode, after: u64, limit: u32) -> Result<DirectoryPage> {
        self.directory_page(ino, after, limit, true).await
    }

    async fn directory_page(&self, ino: Inode, after: u64, limit: u32, plain: bool) -> Result<DirectoryPage> {
        let read = wire::ReadDir {
            inode: ino.0,
            after,
            limit: limit.clamp(1, READDIR_ENTRIES_MAX as u32),
            plain,
        };
        match self.call(Request::ReadDir(read)).await? {
            answer::Result::Directory(page) => DirectoryPage::try_from(page).map_err(|e| self.core().malformed(e)),
            _ => Err(mismatch(self.core(), "a directory")),
        }
    }

    pub async fn make(&self, parent: Inode, name: &[u8], make: Make) -> Result<Attr> {
        let create = wire::Create {
            parent: parent.0,
            name: name_of(name)?,
            kind: wire::FileKind::from(make.kind).into(),
            mode: make.mode,
            uid: make.uid,
            gid: make.gid,
            rdev: make.rdev,
            target: make.target,
            ..Default::default()
        };
        self.call_created(create).await.map(|(attr, _, _)| attr)
    }

    async fn call_created(&self, create: wire::Create) -> Result<(Attr, bool, Option<Arc<Location>>)> {
        let malformed = |e| self.core().malformed(e);
        let answer::Result::Created(created) = self.call(Request::Create(create)).await? else {
            return Err(mismatch(self.core(), "what was created"));
        };
        let attr = cairn_proto::required(created.attr, "created.attr")
            .and_then(Attr::try_from)
            .map_err(malformed)?;
        let chunk = created
            .chunk
            .map(Location::try_from)
            .transpose()
            .map_err(malformed)?
            .map(Arc::new);
        Ok((attr, created.existed, chunk))
    }

    pub async fn readlink(&self, ino: Inode) -> Result<Bytes> {
        self.call_bytes(Request::ReadLink(wire::ReadLink { inode: ino.0 }))
            .await
    }

    pub async fn link(&self, ino: Inode, new_parent: Inode, new_name: &[u8]) -> Result<Attr> {
        let link = wire::Link {
            inode: ino.0,
            parent: new_parent.0,
            name: name_of(new_name)?,
        };
        self.call_attr(Request::Link(link)).await
    }

    pub async fn unlink(&self, parent: Inode, name: &[u8]) -> Result<()> {
        let unlink = wire::Unlink {
            parent: parent.0,
            name: name_of(name)?,
        };
        self.call_done(Request::Unlink(unlink)).await?;
        self.core().close_given_up().await;
        Ok(())
    }

    pub async fn rmdir(&self, parent: Inode, name: &[u8]) -> Result<()> {
        self.call_done(Request::Rmdir(wire::Rmdir {
            parent: parent.0,
            name: name_of(name)?,
        }))
        .await
    }

    pub async fn rename(
        &self,
        parent: Inode,
        name: &[u8],
        new_parent: Inode,
        new_name: &[u8],
        flags: RenameFlags,
    ) -> Result<()> {
        let rename = wire::Rename {
            parent: parent.0,
            name: name_of(name)?,
            new_parent: new_parent.0,
            new_name: name_of(new_name)?,
            no_replace: flags.no_replace,
            exchange: flags.exchange,
        };
        self.call_done(Request::Rename(rename)).await?;
        self.core().close_given_up().await;
        Ok(())
    }

    pub async fn getxattr(&self, ino: Inode, name: &[u8]) -> Result<Bytes> {
        let name = Bytes::copy_from_slice(name);
        self.call_bytes(Request::GetXattr(wire::GetXattr { inode: ino.0, name }))
            .await
    }

    pub async fn setxattr(&self, ino: Inode, name: &[u8], value: Bytes, flags: XattrFlags) -> Result<()> {
        let XattrFlags { create, replace } = flags;
        let name = Bytes::copy_from_slice(name);
        self.call_done(Request::SetXattr(wire::SetXattr {
            inode: ino.0,
            name,
            value,
            create,
            replace,
        }))
        .await
    }

    pub async fn listxattr(&self, ino: Inode) -> Result<Vec<Bytes>> {
        match self.call(Request::ListXattr(wire::ListXattr { inode: ino.0 })).await? {
            answer::Result::Names(names) => Ok(names.names),
            _ => Err(mismatch(self.core(), "names")),
        }
    }

    pub async fn removexattr(&self, ino: Inode, name: &[u8]) -> Result<()> {
        let name = Bytes::copy_from_slice(name);
        self.call_done(Request::RemoveXattr(wire::RemoveXattr { inode: ino.0, name }))
            .await
    }

    pub async fn statfs(&self) -> Result<StatFs> {
        match self.call(Request::StatFs(wire::StatFs {})).await? {
            answer::Result::FileSystem(fs) => Ok(StatFs {
                total_bytes: fs.total_bytes,
                available_bytes: fs.available_bytes,
                goal: fs.goal,
                files: fs.files,
                trash_bytes: fs.trash_bytes,
            }),
            _ => Err(mismatch(self.core(), "the file system")),
        }
    }

    /// Creates and opens a regular file for reading and writing; with `true` it existed already.
    pub async fn create(&self, parent: Inode, name: &[u8], create: Create) -> Result<(Attr, bool, File)> {
        let name = name_of(name)?;
        let request = wire::Create {
            parent: parent.0,
            name: name.clone(),
            kind: wire::FileKind::KindRegular.into(),
            mode: create.mode,
            uid: create.uid,
            gid: create.gid,
            open_existing: !create.exclusive,
            truncate: create.truncate,
            open: true,
            allocate: true,
            goal: create.goal.into(),
            ..Default::default()
        };
        let core = self.core();
        let (attr, existed, chunk) = self.call_created(request).await?;
        let node = core.use_node(attr.ino);
        let mut opens = node.gate.lock().await;
        if existed && *opens == 0 {
            // a close of ours may have come behind the create: now none can
            if let Err(error) = self.call_open(attr.ino, false).await {
                drop(opens);
                core.release(&node);
                return Err(error);
            }
            core.take_kept(&node);
        }
        *opens += 1;
        drop(opens);
        core.opened(&node, attr, name, existed && create.truncate);
        node.state().owes_all &= existed;
        if let Some(chunk) = chunk.filter(|chunk| !existed && chunk.index == 0 && chunk.inode == node.ino) {
            core.granted(&node, &chunk);
        }
        let file = File::new(self.0.clone(), node, OpenMode::READ_WRITE);
        Ok((file.attr(), existed, file))
    }

    pub async fn open(&self, ino: Inode, mode: OpenMode) -> Result<File> {
        let core = self.core();
        let node = core.use_node(ino);
        match self.open_node(&node, mode).await {
            Ok(()) => Ok(File::new(self.0.clone(), node, mode)),
            Err(error) => {
                core.release(&node);
                Err(error)
            }
        }
    }

    /// Opens it without asking the master, if that takes it for open in this client's hands anyway and its attributes are
    /// known, as for [`Client::known_name`]. To cut it, it has to be empty: its times are moved by the next commit.
    pub fn open_known(&self, ino: Inode, mode: OpenMode, within: Duration) -> Option<File> {
        let core = self.core();
        if !core.may_open_unasked(ino) {
            return None;
        }
        let (attr, _) = core.session.names().attr(ino, within)?;
        let attr = Attr::try_from(attr).ok()?;
        let node = core.use_node(ino);
        match self.open_node_known(&node, attr, mode) {
            Some(()) => Some(File::new(self.0.clone(), node, mode)),
            None => {
                core.release(&node);
                None
            }
        }
    }

    fn open_node_known(&self, node: &Arc<Node>, attr: Attr, mode: OpenMode) -> Option<()> {
        let core = self.core();
        let mut opens = node.gate.try_lock().ok()?;
        let (epoch, generation) = (node.state().epoch, attr.generation);
        if *opens == 0 {
            // a push since the attributes were looked up has taken it
            let closed = match mode.truncate {
                true => core.take_unwritten(node, generation)?,
                false => core.take_kept(node)?,
            };
            let unwritten = mode.write && closed.unwritten == Some(generation);
            let first = closed.chunks.first().filter(|_| unwritten).cloned();
            let placed = core.opened_as_of(node, attr, closed.name, closed.chunks, epoch);
            if let Some(first) = first.filter(|_| placed) {
                core.granted(node, &first);
                node.state().granted_before = true;
            }
        } else if mode.truncate {
            return None;
        } else {
            core.opened(node, attr, Bytes::new(), false);
        }
        if mode.truncate {
            node.state().touched = true;
            core.mark_dirty(node.ino);
        }
        *opens += 1;
        Some(())
    }

    async fn open_node(&self, node: &Arc<Node>, mode: OpenMode) -> Result<()> {
        let core = self.core();
        let mut opens = node.gate.lock().await;
        if *opens > 0 {
            // close-to-open: what another client has closed is seen from here on
            let attr = Box::pin(core.ask_attr(node.ino, core.config.timeout)).await?;
            core.opened(node, attr, Bytes::new(), false);
            *opens += 1;
            drop(opens);
            if mode.truncate {
                let cut = SetAttr {
                    size: Some(0),
                    ..Default::default()
                };
                if let Err(error) = Box::pin(core.set_attr(node.ino, cut)).await {
                    core.leave(node).await;
                    return Err(error);
                }
            }
            return Ok(());
        }
        let epoch = node.state().epoch;
        let (attr, mut chunks, name) = self.call_open(node.ino, mode.truncate).await?;
        core.take_kept(node);
        chunks.retain(|chunk| chunk.inode == node.ino);
        if mode.truncate {
            core.opened(node, attr, name, true);
            for chunk in &chunks {
                core.granted(node, chunk);
            }
        } else {
            core.opened_as_of(node, attr, name, chunks, epoch);
        }
        *opens += 1;
        Ok(())
    }

    async fn call_open(&self, inode: Inode, truncate: bool) -> Result<(Attr, Vec<Arc<Location>>, Bytes)> {
        let malformed = |e| self.core().malformed(e);
        let open = wire::Open {
            inode: inode.0,
            truncate,
        };
        let answer::Result::Opened(opened) = self.call(Request::Open(open)).await? else {
            return Err(mismatch(self.core(), "what was opened"));
        };
        let attr = cairn_proto::required(opened.attr, "opened.attr")
            .and_then(Attr::try_from)
            .map_err(malformed)?;
        let chunks = opened
            .chunks
            .into_iter()
            .map(|chunk| Location::try_from(chunk).map(Arc::new));
        let chunks = chunks.collect::<std::result::Result<_, _>>().map_err(malformed)?;
        Ok((attr, chunks, opened.name))
    }

    /// Walks `path` from the root; symbolic links on the way are followed, one at the end with `follow`.
    pub async fn resolve(&self, path: &[u8], follow: bool) -> Result<Resolved> {
        let path = Bytes::copy_from_slice(path);
        match self.call(Request::Resolve(wire::Resolve { path, follow })).await? {
            answer::Result::Resolved(resolved) => {
                let attr = resolved
                    .attr
                    .map(Attr::try_from)
                    .transpose()
                    .map_err(|e| self.core().malformed(e))?;
                Ok(Resolved {
                    parent: Inode(resolved.parent),
                    name: resolved.name,
                    attr: attr.map(|attr| self.with_local_size(attr)),
                })
            }
            _ => Err(mismatch(self.core(), "a resolved path")),
        }
    }

    /// One path that leads there.
    pub async fn path_of(&self, ino: Inode) -> Result<Bytes> {
        self.core().path_of(ino, self.core().config.timeout).await
    }

    /// 0: as the parent says.
    pub async fn set_goal(&self, ino: Inode, goal: u8) -> Result<Attr> {
        self.call_attr(Request::SetGoal(wire::SetGoal {
            inode: ino.0,
            goal: goal.into(),
        }))
        .await
    }

    /// The chunks of [first, first + count) that exist.
    pub async fn locations(&self, ino: Inode, first: u32, count: u32) -> Result<Vec<Location>> {
        let mut all = Vec::new();
        let (mut at, end) = (first, first.saturating_add(count));
        while at < end {
            let page = (end - at).min(LOCATE_CHUNKS_MAX as u32);
            let (found, _) = self
                .core()
                .ask_locations(ino, at, page, false, self.core().config.timeout)
                .await?;
            all.extend(found.into_iter().map(Arc::unwrap_or_clone));
            at += page;
        }
        Ok(all)
    }

    pub async fn trash_list(&self, after: Inode, limit: u32) -> Result<TrashPage> {
        match self
            .call(Request::TrashList(wire::TrashList { after: after.0, limit }))
            .await?
        {
            answer::Result::Trash(page) => TrashPage::try_from(page).map_err(|e| self.core().malformed(e)),
            _ => Err(mismatch(self.core(), "the trash")),
        }
    }

    /// Back to where it was, or to a directory and name.
    pub async fn trash_restore(&self, ino: Inode, to: Option<(Inode, Bytes)>) -> Result<Attr> {
        let (parent, name) = to.map(|(parent, name)| (parent.0, name)).unzip();
        self.call_attr(Request::TrashRestore(wire::TrashRestore {
            inode: ino.0,
            parent,
            name,
        }))
        .await
    }

    /// None given: all.
    pub async fn trash_empty(&self, inodes: &[Inode]) -> Result<TrashEmptied> {
        let inodes = inodes.iter().map(|ino| ino.0).collect();
        match self.call(Request::TrashEmpty(wire::TrashEmpty { inodes })).await? {
            answer::Result::TrashEmptied(emptied) => Ok(TrashEmptied {
                count: emptied.count,
                bytes: emptied.bytes,
            }),
            _ => Err(mismatch(self.core(), "what was emptied")),
        }
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
        self.core().read_replica(location, member, offset, len, verify).await
    }
}

impl Core {
    /// The master's answer to an open. `cut`: it was cut to nothing by it.
    pub(crate) fn opened(&self, node: &Node, attr: Attr, name: Bytes, cut: bool) {
        let mut state = node.state();
        let gone = match cut {
            true => state.resized(attr.size, attr),
            false => {
                state.learn(attr, false);
                state.forget_cut()
            }
        };
        if !name.is_empty() {
            state.name = name;
        }
        drop(state);
        self.forget_chunks(gone);
        node.progress.notify_waiters();
    }

    /// As `opened`, and where its chunks are; unless a push has come since `epoch`, which may speak of what the answer
    /// did not know yet: false.
    fn opened_as_of(&self, node: &Node, attr: Attr, name: Bytes, chunks: Vec<Arc<Location>>, epoch: u64) -> bool {
        let mut state = node.state();
        let current = state.epoch == epoch;
        state.learn(attr, false);
        let gone = state.forget_cut();
        if !name.is_empty() {
            state.name = name;
        }
        if current {
            for chunk in chunks {
                state.place(chunk, false);
            }
        }
        drop(state);
        self.forget_chunks(gone);
        node.progress.notify_waiters();
        current
    }

    fn forget_chunks(&self, gone: Vec<crate::write::Chunk>) {
        for (handle, last) in gone.iter().filter_map(|chunk| chunk.last_sequence()) {
            self.remember_sequence(handle, last);
        }
    }

    /// Changes attributes. What was written here is acknowledged before size or times change, and committed before the
    /// size does, so that neither comes later and undoes them. A commit and a time go to the master together: the commit
    /// says that it had not seen the time, and leaves it.
    pub async fn set_attr(self: &Arc<Self>, ino: Inode, change: SetAttr) -> Result<Attr> {
        let (atime_ns, atime_now) = wire_time(change.atime);
        let (mtime_ns, mtime_now) = wire_time(change.mtime);
        let (ctime_ns, _) = wire_time(change.ctime);
        let request = Request::SetAttr(wire::SetAttr {
            inode: ino.0,
            mode: change.mode,
            uid: change.uid,
            gid: change.gid,
            size: change.size,
            atime_ns,
            mtime_ns,
            atime_now,
            mtime_now,
            ctime_ns,
            kill_suid: change.kill_suid,
        });
        let (size, ordered) = (change.size, change.size.is_some() || change.mtime.is_some());
        if let Some(node) = self.node(ino).filter(|_| ordered) {
            return Box::pin(self.set_behind_writes(&node, request, size)).await;
        }
        let attr = self.attr_of(self.session.call(request, self.config.timeout).await?)?;
        Ok(match self.node(ino) {
            Some(node) => node.state().learned(attr, true),
            None => attr,
        })
    }

    async fn set_behind_writes(
        self: &Arc<Self>,
        node: &Arc<Node>,
        request: Request,
        size: Option<u64>,
    ) -> Result<Attr> {
        let within = self.config.timeout;
        let _alone = node.shape.write().await;
        Box::pin(self.flush(node)).await?;
        let _one = node.committing.lock().await;
        let Some(size) = size else {
            let commit = Box::pin(self.commit_locked(node));
            let (commits, set) = tokio::join!(commit, self.session.call(request.clone(), within));
            let mut attr = self.attr_of(set?)?;
            if commits? > 1 {
                // the later ones may have seen the time
                attr = self.attr_of(self.session.call(request, within).await?)?;
            }
            return Ok(node.state().learned(attr, true));
        };
        Box::pin(self.commit_locked(node)).await?;
        let attr = self.attr_of(self.session.call(request, within).await?)?;
        let gone = node.state().resized(size, attr.clone());
        self.forget_chunks(gone);
        Ok(attr)
    }
}

fn wire_time(time: Option<SetTime>) -> (Option<i64>, bool) {
    match time {
        None => (None, false),
        Some(SetTime::Now) => (None, true),
        Some(SetTime::At(ns)) => (Some(ns), false),
    }
}
