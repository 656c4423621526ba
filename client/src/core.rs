//! What all parts of one client share, and its background work: open frames are sent and lengths committed within the
//! commit interval, and files that were dropped without a close are closed.
use crate::data::Pool;
use crate::kept::{Closed, Kept};
use crate::limits::{KEPT_CHUNKS, KEPT_FOR, PARALLEL_MAX, SEQUENCES_MAX, UNWRITTEN_FOR};
use crate::node::Node;
use crate::read::Pace;
use crate::session::{Host, Session};
use crate::{Attr, ClientConfig, Error, Invalidated, Result, Server};
use bytes::Bytes;
use cairn_io::{Env, inline};
use cairn_proto::session::{GetAttr, PathOf, answer, call::Request};
use cairn_types::{ChunkHandle, Inode, Version};
use futures::StreamExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) struct Core {
    pub config: ClientConfig,
    pub env: Env,
    pub session: Session,
    pub pool: Pool,
    pub pace: Pace,
    /// Bytes that may be written and not acknowledged, and read ahead and not asked for.
    pub write_buffer: Arc<Semaphore>,
    pub read_buffer: Arc<Semaphore>,
    /// Of the last record that was appended: no two of this session have the same.
    records: AtomicU64,
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
    /// A node's own lock is taken before this one, never behind it.
    state: Mutex<State>,
    /// A file was dropped without a close, or given up.
    dropped: Notify,
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<Inode, Used>,
    /// Written and perhaps not committed.
    dirty: BTreeSet<Inode>,
    dropped: Vec<Arc<Node>>,
    kept: Kept,
    /// The last sequence used for a chunk by this session, for files that are not open (protocol R9).
    sequences: BTreeMap<ChunkHandle, u64>,
    /// Some were forgotten: a chunk that is not listed may have been written.
    sequences_forgotten: bool,
    /// What opens that have ended wrote and did not sync, by inode and index: a later fsync of the file owes it too
    /// (promise 2). The version is the oldest under which there are such bytes.
    unsynced: BTreeMap<(Inode, u32), (ChunkHandle, Version)>,
    /// Some were forgotten: any chunk of a file that is not listed may be owed.
    unsynced_forgotten: bool,
}

struct Used {
    node: Arc<Node>,
    users: usize,
}

/// An answer of another kind than the question's.
pub(crate) fn mismatch(core: &Core, wanted: &'static str) -> Error {
    Error::Malformed {
        server: core.master(),
        what: format!("another answer than {wanted}"),
    }
}

impl Core {
    pub fn new(config: ClientConfig, env: Env, session: Session) -> Arc<Self> {
        let bounded = |bytes: usize| Arc::new(Semaphore::new(bytes.clamp(4 << 20, u32::MAX as usize / 2)));
        Arc::new(Self {
            pace: Pace::default(),
            pool: Pool::new(env.clone(), session.cluster(), session.id(), config.connect_timeout),
            write_buffer: bounded(config.write_buffer_bytes),
            read_buffer: bounded(config.read_buffer_bytes),
            config,
            env,
            session,
            records: AtomicU64::new(0),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            state: Mutex::default(),
            dropped: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn master(&self) -> Server {
        Server::Master(self.config.master.clone())
    }

    pub fn malformed(&self, what: impl std::fmt::Display) -> Error {
        Error::Malformed {
            server: self.master(),
            what: what.to_string(),
        }
    }

    pub async fn path_of(&self, ino: Inode, within: Duration) -> Result<Bytes> {
        match self
            .session
            .call(Request::PathOf(PathOf { inode: ino.0 }), within)
            .await?
        {
            answer::Result::Bytes(path) => Ok(path),
            _ => Err(mismatch(self, "a path")),
        }
    }

    pub async fn ask_attr(&self, ino: Inode, within: Duration) -> Result<Attr> {
        self.attr_of(
            self.session
                .call(Request::GetAttr(GetAttr { inode: ino.0 }), within)
                .await?,
        )
    }

    pub fn attr_of(&self, answer: answer::Result) -> Result<Attr> {
        match answer {
            answer::Result::Attr(attr) => Attr::try_from(attr).map_err(|e| self.malformed(e)),
            _ => Err(mismatch(self, "attributes")),
        }
    }

    /// Runs by itself until it ends or the client stops.
    pub fn detach<F: Future<Output = ()> + Send + 'static>(self: &Arc<Self>, job: impl FnOnce(Arc<Core>) -> F) {
        // each of the futures around it would have room for it twice, and be moved
        let (stop, job) = (self.stop.clone(), Box::pin(job(self.clone())));
        let job = self.tasks.track_future(async move {
            stop.run_until_cancelled(job).await;
        });
        inline::begin(job);
    }

    /// As good a name as can be had quickly.
    pub async fn path_for_people(&self, node: &Node) -> String {
        match self.path_of(node.ino, Duration::from_secs(1)).await {
            Ok(path) => String::from_utf8_lossy(&path).into_owned(),
            Err(_) => node.label(),
        }
    }

    /// The inode's shared state, made when it is not in use; pair it with `release`.
    pub fn use_node(&self, ino: Inode) -> Arc<Node> {
        let mut state = self.state();
        if let Some(used) = state.nodes.get_mut(&ino) {
            used.users += 1;
            return used.node.clone();
        }
        let node = Arc::new(Node::new(ino)); // nobody else has its lock yet
        state.hand_over_unsynced(&node);
        let users = 1;
        state.nodes.insert(
            ino,
            Used {
                node: node.clone(),
                users,
            },
        );
        node
    }

    /// The inode's shared state if it is open.
    pub fn node(&self, ino: Inode) -> Option<Arc<Node>> {
        self.state().nodes.get(&ino).map(|used| used.node.clone())
    }

    pub fn release(&self, node: &Arc<Node>) {
        let of_node = node.state();
        let mut state = self.state();
        let Some(used) = state.nodes.get_mut(&node.ino) else {
            return;
        };
        used.users -= 1;
        if used.users > 0 {
            return;
        }
        state.nodes.remove(&node.ino);
        state.dirty.remove(&node.ino);
        for (index, chunk) in &of_node.chunks {
            if let Some((handle, sequence)) = chunk.last_sequence() {
                state.remember(handle, sequence);
                if let Some(since) = chunk.unsynced_since() {
                    state.unsynced.insert((node.ino, *index), (handle, since));
                }
            }
        }
        while state.unsynced.len() > self.config.unsynced_chunks_max {
            state.unsynced.pop_first();
            state.unsynced_forgotten = true;
        }
    }

    /// One open of `node` ends, and so does its use.
    pub async fn close(&self, node: &Arc<Node>) {
        self.leave(node).await;
        self.release(node);
    }

    /// One open of `node` ends. The master is told of the last, unless the file is kept (`kept`): then only that nothing
    /// is being written any more, and not even that of one that was not written at all.
    pub async fn leave(&self, node: &Node) {
        let mut opens = node.gate.lock().await;
        *opens = opens.saturating_sub(1);
        if *opens > 0 {
            return;
        }
        let unwritten = node.state().unwritten();
        let keep = self.keep(node, unwritten);
        let wrote = (!keep || unwritten.is_none()) && node.state().end_writing();
        if wrote || !keep {
            self.session.closed(node.ino, keep);
        }
        drop(opens);
        self.close_given_up().await;
    }

    /// Its next open need not ask the master, unless something happens to it. By who holds its gate.
    fn keep(&self, node: &Node, unwritten: Option<u64>) -> bool {
        let names = self.session.names();
        let (chunks, name) = {
            let mut state = node.state();
            if state.error.is_some() || !state.is_settled() || !names.has_file(node.ino) {
                return false;
            }
            let slots = std::mem::take(&mut state.slots).into_values();
            let locations = slots.map(|slot| slot.location).take(KEPT_CHUNKS);
            (locations.collect(), state.name.clone())
        };
        self.state().kept.put(node.ino, chunks, name, unwritten);
        // what happened to it a moment ago did not find it there
        names.has_file(node.ino) || self.state().kept.take(node.ino).is_none()
    }

    /// What `leave` has kept of it, if that may still be believed; the file is open from then on. By who holds its gate.
    pub fn take_kept(&self, node: &Node) -> Option<Closed> {
        let closed = self.state().kept.take(node.ino)?;
        node.state().writing |= closed.unwritten.is_some();
        Some(closed)
    }

    /// As `take_kept`, if there is nothing in it to be cut.
    pub fn take_unwritten(&self, node: &Node, generation: u64) -> Option<Closed> {
        let mut state = self.state();
        let closed = match state.kept.is_unwritten(node.ino, generation) {
            true => state.kept.take(node.ino),
            false => None,
        };
        drop(state);
        node.state().writing |= closed.is_some();
        closed
    }

    /// It is open here, or kept.
    pub fn may_open_unasked(&self, ino: Inode) -> bool {
        let state = self.state();
        state.nodes.contains_key(&ino) || state.kept.has(ino)
    }

    /// The master is told of the files that are no longer kept.
    pub async fn close_given_up(&self) {
        loop {
            let ino = {
                let mut state = self.state();
                let Some(ino) = state.kept.next_given_up() else {
                    return;
                };
                // whoever opens it from here on asks behind this
                let alone = !state.nodes.contains_key(&ino) && !state.kept.has(ino);
                if alone {
                    self.session.closed(ino, false);
                    continue;
                }
                ino
            };
            let node = self.use_node(ino);
            let opens = node.gate.lock().await;
            // it may have been opened since, and closed again
            if *opens == 0 && !self.state().kept.has(ino) {
                self.session.closed(ino, false);
            }
            drop(opens);
            self.release(&node);
        }
    }

    /// The master is told that those closed before will not be written.
    fn give_back_unwritten(&self, before: Instant) {
        let mut state = self.state();
        // whoever opens it from here on, and writes, asks behind this
        while let Some(ino) = state.kept.next_to_give_back(before) {
            self.session.closed(ino, true);
        }
    }

    /// A file went away without a close: the background task sees to it.
    pub fn dropped(&self, node: Arc<Node>) {
        self.state().dropped.push(node);
        self.dropped.notify_one();
    }

    pub fn mark_dirty(&self, ino: Inode) {
        self.state().dirty.insert(ino);
    }

    /// A number for a record, higher than any before.
    pub fn next_record(&self) -> u64 {
        self.records.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub fn remember_sequence(&self, handle: ChunkHandle, last: u64) {
        self.state().remember(handle, last);
    }

    /// The last sequence that this session used for a chunk it finds; a number beyond all when that was forgotten, so
    /// that the server says where it stands (OUT_OF_ORDER).
    pub fn last_sequence(&self, handle: ChunkHandle) -> u64 {
        self.state().last_sequence(handle)
    }

    fn dirty_nodes(&self) -> Vec<Arc<Node>> {
        let state = self.state();
        state
            .dirty
            .iter()
            .filter_map(|ino| state.nodes.get(ino))
            .map(|used| used.node.clone())
            .collect()
    }

    fn all_nodes(&self) -> Vec<Arc<Node>> {
        self.state().nodes.values().map(|used| used.node.clone()).collect()
    }

    /// Open frames of all files go on their way.
    pub fn seal_all(self: &Arc<Self>) {
        for node in self.dirty_nodes() {
            self.seal(&node);
        }
    }

    /// Runs until the client stops.
    pub async fn background(self: Arc<Self>) {
        let stop = self.stop.clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.seal_in_time() => {}
            () = self.commit_in_time() => {}
            () = self.close_dropped() => {}
        }
    }

    /// A third for the frame to be sealed, a third for the commit to see it acknowledged, a third for both to happen.
    fn interval(&self) -> tokio::time::Interval {
        let period = (self.config.commit_interval / 3).max(Duration::from_millis(10));
        let mut interval = tokio::time::interval_at(Instant::now() + period, period);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        interval
    }

    async fn seal_in_time(self: &Arc<Self>) {
        let mut ticks = self.interval();
        loop {
            ticks.tick().await;
            self.seal_all();
            self.session.hurry();
        }
    }

    async fn commit_in_time(self: &Arc<Self>) {
        let mut ticks = self.interval();
        loop {
            ticks.tick().await;
            if let Some(before) = Instant::now().checked_sub(UNWRITTEN_FOR) {
                self.give_back_unwritten(before);
            }
            if let Some(before) = Instant::now().checked_sub(KEPT_FOR) {
                self.state().kept.give_up_old(before);
                self.close_given_up().await;
            }
            let commits = futures::stream::iter(self.dirty_nodes());
            commits
                .for_each_concurrent(PARALLEL_MAX, |node| async move {
                    if let Err(error) = Box::pin(self.commit(&node)).await {
                        // said again, and to the writer, by the commit of the next fsync or close
                        tracing::debug!(inode = node.ino.0, "not committed yet: {error}");
                    }
                    let state = node.state();
                    if state.is_settled() {
                        self.state().dirty.remove(&node.ino);
                    }
                })
                .await;
        }
    }

    async fn close_dropped(self: &Arc<Self>) {
        loop {
            let dropped = std::mem::take(&mut self.state().dropped);
            self.close_given_up().await;
            if dropped.is_empty() {
                self.dropped.notified().await;
                continue;
            }
            for node in dropped {
                self.detach(|core| async move {
                    if let Err(error) = Box::pin(core.flush_and_commit(&node)).await {
                        tracing::warn!(inode = node.ino.0, "a file that was dropped without a close: {error}");
                    }
                    core.close(&node).await;
                });
            }
        }
    }

    /// All is acknowledged, and the file's.
    pub async fn flush_and_commit(self: &Arc<Self>, node: &Arc<Node>) -> Result<()> {
        self.flush(node).await?;
        self.commit(node).await?;
        node.state().check()
    }

    pub async fn flush_all(self: &Arc<Self>) -> Result<()> {
        let flushes = futures::stream::iter(self.dirty_nodes());
        let results = flushes.map(|node| async move { Box::pin(self.flush_and_commit(&node)).await });
        let results: Vec<Result<()>> = results.buffer_unordered(PARALLEL_MAX).collect().await;
        results.into_iter().collect()
    }
}

impl State {
    fn remember(&mut self, handle: ChunkHandle, last: u64) {
        if last == 0 {
            return;
        }
        self.sequences.insert(handle, last);
        if self.sequences.len() > SEQUENCES_MAX {
            self.sequences.pop_first();
            self.sequences_forgotten = true;
        }
    }

    fn last_sequence(&mut self, handle: ChunkHandle) -> u64 {
        const BEYOND_ALL: u64 = 1 << 62;
        let forgotten = if self.sequences_forgotten { BEYOND_ALL } else { 0 };
        self.sequences.remove(&handle).unwrap_or(forgotten)
    }

    fn hand_over_unsynced(&mut self, node: &Node) {
        let of_file = (node.ino, 0)..=(node.ino, u32::MAX);
        let owed: Vec<u32> = self.unsynced.range(of_file).map(|((_, index), _)| *index).collect();
        let mut state = node.state();
        state.owes_all = self.unsynced_forgotten;
        for index in owed {
            if let Some((handle, since)) = self.unsynced.remove(&(node.ino, index)) {
                let last = self.last_sequence(handle);
                state.chunks.entry(index).or_default().owe(handle, last, since);
            }
        }
    }
}

impl Host for Core {
    fn declare(&self) -> Vec<Inode> {
        let mut state = self.state();
        // none of them may be opened unasked any more: the master would not know
        state.kept.forget();
        state.nodes.keys().copied().collect()
    }

    fn nameless(&self, ino: Inode) {
        self.state().kept.give_up(ino);
    }

    fn invalidate(&self, what: &Invalidated) {
        let nodes = match what {
            Invalidated::Inode { ino, .. } => self.node(*ino).into_iter().collect(),
            Invalidated::Entry { .. } => Vec::new(),
            Invalidated::Everything => self.all_nodes(),
        };
        for node in nodes {
            node.invalidate(what);
        }
        let given_up = match what {
            Invalidated::Inode { ino, .. } => self.state().kept.give_up(*ino),
            Invalidated::Entry { .. } => false,
            Invalidated::Everything => {
                self.state().kept.give_up_all();
                true
            }
        };
        if given_up {
            self.dropped.notify_one();
        }
    }

    fn session_ended(&self) {
        for node in self.all_nodes() {
            if node.state().holds_unsynced() {
                let error = Error::SessionEnded { path: node.label() };
                tracing::error!(inode = node.ino.0, "{error}");
                node.fail(error);
            }
        }
    }
}
