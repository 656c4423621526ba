//! What every part of the service shares, and the data plane's operations on it: a mutation taken, a sync, a read, and
//! what other replicas fetch (protocol R1, R4, R6, R9, R10).
use crate::config::ChunkserverConfig;
use crate::dataplane::within;
use crate::limits::{BRIEF_BYTES_MAX, CHAIN_PLACES, STORE_RETRY_PAUSE};
use crate::link;
use crate::mandate::Mandate;
use crate::peers::{PeerError, Peers};
use crate::refusal::Refusal;
use crate::replica::{Accepted, Chains, Key, Mutation, Outcome, Place, Remembered, Replica, ToApply};
use crate::reports::Reports;
use crate::scrub::Scrub;
use crate::store::{At, Chunk, ChunkMeta, State, Store, StoreError};
use bytes::{BufMut, Bytes, BytesMut};
use cairn_io::{Env, FileRange, Habit};
use cairn_proto::common::{ErrorCode, Member};
use cairn_proto::data::frame_header::Body;
use cairn_proto::data::{self, Acknowledged, FetchBlocks, FetchTable, Grant, Read, ReadDone, Sync, Table, Write};
use cairn_proto::{common, required};
use cairn_types::layout::{BLOCK_SIZE_BYTES, CHUNK_SIZE_BYTES, block_pieces};
use cairn_types::limits::FRAME_PAYLOAD_BYTES_MAX;
use cairn_types::{
    ChunkHandle, ClusterId, DiskId, Inode, Registration, Sequence, Serial, ServerId, SessionId, Version,
};
use rustc_hash::FxHashMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::Poll;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub struct Core {
    pub config: ChunkserverConfig,
    pub env: Env,
    pub server: ServerId,
    pub store: Store,
    cluster: OnceLock<ClusterId>,
    pub mandate: Mandate,
    replicas: Mutex<FxHashMap<Key, Arc<Replica>>>,
    pub chains: Chains,
    pub peers: Peers,
    pub reports: Reports,
    /// Owns every task of the data plane.
    pub tasks: TaskTracker,
    /// No new request is taken.
    pub stopping: CancellationToken,
    /// Nothing goes on.
    pub killed: CancellationToken,
    /// Memory for frames by the place in the chain that they came to.
    pub write_room: [Arc<Semaphore>; CHAIN_PLACES],
    pub read_room: Arc<Semaphore>,
    pub habits: Habits,
    pub scrub: Scrub,
    /// Requests so far, so that background work sees whether anybody asks.
    pub requests: AtomicU64,
}

/// Whether the store's operations wait for the disks.
#[derive(Default)]
pub struct Habits {
    create: Habit,
    apply: Habit,
    sync: Habit,
    read: Habit,
    pub send: Habit,
}

/// An answer that is ready: the header and its payload.
pub type Answer = (Body, Payload);

pub enum Payload {
    Bytes(Bytes),
    /// Of a chunk's file, read as it is sent.
    Stored(FileRange, Doubt),
}

impl Payload {
    pub const NONE: Payload = Payload::Bytes(Bytes::new());
}

/// Work that was begun: at its end already, or a task of the data plane.
pub enum Started<T> {
    Done(T),
    Task(JoinHandle<Option<T>>),
}

/// What was to be read from a chunk's file.
pub struct Doubt {
    key: Key,
    chunk: Chunk,
    at: At,
    offset: u64,
    len: u64,
}

impl Core {
    pub fn new(
        config: ChunkserverConfig,
        env: Env,
        server: ServerId,
        store: Store,
        cluster: Option<ClusterId>,
    ) -> Self {
        let room = |bytes| Arc::new(Semaphore::new(bytes));
        Self {
            write_room: std::array::from_fn(|place| room(config.write_room_bytes(place))),
            read_room: room(config.read_room_bytes()),
            habits: Habits::default(),
            peers: Peers::new(env.clone(), server),
            cluster: cluster.map_or_else(OnceLock::new, OnceLock::from),
            config,
            env,
            server,
            store,
            mandate: Mandate::default(),
            replicas: Mutex::default(),
            chains: Chains::default(),
            reports: Reports::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            killed: CancellationToken::new(),
            scrub: Scrub::default(),
            requests: AtomicU64::new(0),
        }
    }

    /// The cluster, once a disk or the master has told it.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster.get().copied()
    }

    /// Joins `cluster`, for ever.
    ///
    /// # Errors
    /// The one that it is of already, if that is another.
    pub fn join_cluster(&self, cluster: ClusterId) -> Result<(), ClusterId> {
        match *self.cluster.get_or_init(|| cluster) {
            ours if ours == cluster => Ok(()),
            ours => Err(ours),
        }
    }

    fn map(&self) -> std::sync::MutexGuard<'_, FxHashMap<Key, Arc<Replica>>> {
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The replica's volatile state; made if there is none. Give it back with [`Core::release`].
    pub fn replica(&self, key: Key) -> Arc<Replica> {
        let mut map = self.map();
        map.entry(key).or_insert_with(|| Arc::new(Replica::new(key))).clone()
    }

    pub fn known_replica(&self, key: Key) -> Option<Arc<Replica>> {
        self.map().get(&key).cloned()
    }

    /// Forgets the state of a replica that is not in the store, once nobody else has it in hand.
    pub fn release(&self, replica: Arc<Replica>) {
        let mut map = self.map();
        // the map's and this one
        if Arc::strong_count(&replica) == 2 {
            map.remove(&replica.key);
        }
    }

    /// Forgets the state of a replica that was deleted: whoever still has it in hand finds its chain closed.
    pub fn forget(&self, replica: Arc<Replica>) {
        let mut map = self.map();
        if map.get(&replica.key).is_some_and(|r| Arc::ptr_eq(r, &replica)) {
            map.remove(&replica.key);
        }
    }

    pub fn chunk(&self, key: Key) -> Result<Chunk, Refusal> {
        let disk = self.store.disk(key.disk).ok_or(Refusal::NoReplica)?;
        Ok(disk.chunk(key.handle)?)
    }

    /// The replica that is fenced at `version`; one that the fence found absent is made, empty. For orders, in turn.
    pub async fn fenced_chunk(
        &self,
        key: Key,
        version: Version,
        meta: impl FnOnce() -> ChunkMeta + Send + 'static,
    ) -> Result<Chunk, Refusal> {
        let disk = self.store.disk(key.disk).ok_or(Refusal::NoReplica)?;
        let find = move || match disk.chunk(key.handle) {
            // the fence has raised the floor; without it the order is of a version that was never fenced here
            Err(StoreError::NotFound { .. }) if disk.floor() >= version => {
                let chunk = disk.create(key.handle, version, State::Fenced, &meta())?;
                chunk.fence(version)?;
                Ok(chunk)
            }
            found => found,
        };
        let found = self.env.blocking.run(find).await.map_err(|e| self.refused(key, e))?;
        self.reports.changed(key);
        Ok(found)
    }

    /// A refusal of the store: what it says of the disk or the replica is passed on to the master.
    pub fn refused(&self, key: Key, e: StoreError) -> Refusal {
        let refusal = Refusal::from(e);
        match &refusal {
            Refusal::Corrupt(damage) => {
                self.reports.count_error(key.disk);
                let version = self.chunk(key).map_or(Version::ZERO, |c| c.info().version);
                self.reports.corrupt(key, version, damage);
            }
            Refusal::DiskFailed(why) if self.reports.disk_failed(key.disk) => {
                tracing::error!(disk = %key.disk, "disk out of service: {why}");
            }
            _ => {}
        }
        refusal
    }

    /// The place in the chain whose memory a frame takes: the replica's, or what the frame's grant says it will be.
    pub fn place_of(&self, write: &Write) -> usize {
        if write.serial == 0 {
            return 0;
        }
        let place = write.grant.as_ref().and_then(|g| position(&g.members, &write.disk));
        let place = place.or_else(|| {
            let place = self.known_replica(key_of(write.handle, &write.disk).ok()?)?.place()?;
            Some(place.position)
        });
        // who is not known here is refused without waiting for anybody
        place.unwrap_or(CHAIN_PLACES - 1).min(CHAIN_PLACES - 1)
    }

    /// Takes a mutation: checked, in order, on its way down and to the disk. The answer comes when it is done here and
    /// below.
    ///
    /// # Errors
    /// Why it was not taken.
    pub async fn write(
        self: &Arc<Self>,
        header: Write,
        payload: Bytes,
        room: Option<tokio::sync::OwnedSemaphorePermit>,
    ) -> Result<oneshot::Receiver<Outcome>, Refusal> {
        let key = key_of(header.handle, &header.disk)?;
        let version: Version = required(header.version, "version")?.into();
        let session = SessionId::try_from(&header.session[..]).map_err(|e| Refusal::Invalid(e.to_string()))?;
        check_pieces(&header, &payload)?;
        if header.serial == 0 {
            self.mandate.may_write(header.epoch)?;
        }
        let replica = self.writable(key, version, header.grant.as_ref()).await?;
        let mutation = Mutation {
            session,
            version,
            header,
            payload,
            room,
        };
        let accepted = replica.accept(mutation, self.env.clock.now())?;
        Ok(self.set_going(replica, accepted).await)
    }

    /// The replica that is or was writable in this process; a grant creates it.
    pub async fn writable(
        self: &Arc<Self>,
        key: Key,
        version: Version,
        grant: Option<&Grant>,
    ) -> Result<Arc<Replica>, Refusal> {
        match (self.known_replica(key).filter(|r| r.place().is_some()), grant) {
            (Some(replica), _) => Ok(replica),
            (None, Some(grant)) => self.create(key, version, grant).await,
            (None, None) => Err(self.why_not_writable(key, version)),
        }
    }

    /// Sees to what was accepted: first the way down, so that the members below write at the same time as this one.
    pub async fn set_going(self: &Arc<Self>, replica: Arc<Replica>, accepted: Accepted) -> oneshot::Receiver<Outcome> {
        if accepted.start_link {
            self.start(link::run(self.clone(), replica.clone(), accepted.term))
                .await;
        }
        if accepted.start_apply {
            self.start(apply(self.clone(), replica)).await;
        }
        accepted.answer
    }

    /// Does what of `work` need not wait, such as I/O that the page cache takes; the rest is a task.
    pub async fn start<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Started<T> {
        let mut work = Box::pin(work);
        match futures::poll!(&mut work) {
            Poll::Ready(done) => Started::Done(done),
            Poll::Pending => Started::Task(self.spawn_boxed(work)),
        }
    }

    /// Creates a replica on a grant (R10), or finds the one that this grant has created.
    async fn create(self: &Arc<Self>, key: Key, version: Version, grant: &Grant) -> Result<Arc<Replica>, Refusal> {
        let position =
            position(&grant.members, &key.disk.as_bytes()[..]).ok_or(Refusal::Invalid("a grant for others".into()))?;
        if grant.members.len() > CHAIN_PLACES {
            return Err(Refusal::Invalid(format!("a chain of {} members", grant.members.len())));
        }
        let disk = self.store.disk(key.disk).ok_or(Refusal::NoReplica)?;
        let replica = self.replica(key);
        let turn = within(self.config.chain_deadline, replica.turn.lock()).await;
        let turn = turn.map_err(|_| Refusal::Unavailable("an order on this replica is under way"))?;
        if replica.place().is_some() {
            drop(turn);
            return Ok(replica);
        }
        let meta = ChunkMeta {
            inode: Inode(grant.inode),
            index: grant.index,
            name: grant.name.to_vec(),
            created: self.env.clock.wall(),
        };
        let created = match self.mandate.may_create(version) {
            Err(e) => Err(e),
            Ok(registration) => {
                let create = move || disk.create(key.handle, version, State::Installed, &meta);
                match self.env.blocking.run_brief(&self.habits.create, create).await {
                    Ok(chunk) => Ok((chunk, registration)),
                    Err(StoreError::Exists { .. }) => Err(self.why_not_writable(key, version)),
                    Err(e) => Err(self.refused(key, e)),
                }
            }
        };
        match created {
            Ok((chunk, registration)) => {
                replica.remember(Remembered::default());
                let place = Place {
                    version,
                    members: self.chains.members(&grant.members),
                    position,
                    chunk,
                };
                open(&replica, place);
                self.mandate.trust(key, version, registration);
                self.reports.changed(key);
                drop(turn);
                Ok(replica)
            }
            Err(e) => {
                drop(turn);
                self.release(replica);
                Err(e)
            }
        }
    }

    /// Why a replica that has no chain in this process takes no mutation at `version`.
    fn why_not_writable(&self, key: Key, version: Version) -> Refusal {
        match self.chunk(key) {
            Err(e) => e,
            Ok(chunk) => {
                let info = chunk.info();
                match info.state {
                    _ if info.damage.header.is_some() => Refusal::Corrupt(info.damage),
                    State::Joining => Refusal::NoReplica,
                    State::Fenced if info.version >= version => Refusal::Fenced,
                    _ if info.version != version => Refusal::StaleVersion { have: info.version },
                    _ => Refusal::NotWritable("its process started after it was installed"),
                }
            }
        }
    }

    /// Everything applied before at this version is on stable storage, here and below, when this returns.
    ///
    /// # Errors
    /// Why it can't be said.
    pub async fn sync(self: &Arc<Self>, request: Sync) -> Result<Serial, Refusal> {
        let key = key_of(request.handle, &request.disk)?;
        let version: Version = required(request.version, "version")?.into();
        let replica = self
            .known_replica(key)
            .filter(|r| r.place().is_some())
            .ok_or_else(|| self.why_not_writable(key, version))?;
        let term = replica.term();
        let place = replica.place().ok_or(Refusal::NoReplica)?;
        let serial = replica.settled(version)?.await.map_err(|_| Refusal::Fenced)??;
        let chunk = place.chunk.clone();
        let here = async {
            let synced = self
                .env
                .blocking
                .run_brief(&self.habits.sync, move || chunk.sync())
                .await;
            synced.map_err(|e| self.refused(key, e))
        };
        let below = async {
            match place.next() {
                Some(next) => self.sync_below(&place, next, request).await,
                None => Ok(()),
            }
        };
        let (here, below) = futures::join!(here, below);
        for done in [here, below] {
            if let Err(why) = done {
                if replica.close(Some(term), why.clone()) {
                    tracing::warn!(chunk = %key.handle, %version, "sync failed: {why}");
                    self.reports.broken(key, version, &why);
                }
                return Err(why);
            }
        }
        Ok(serial)
    }

    async fn sync_below(&self, place: &Place, next: &Member, mut request: Sync) -> Result<(), Refusal> {
        let cluster = self.cluster().ok_or(Refusal::Unavailable("of no cluster yet"))?;
        let patience = link::patience(self.config.sync_deadline, place.position, place.members.len());
        request.disk = next.disk.clone();
        let answer = self.peers.request(cluster, next, Body::Sync(request), patience).await;
        match answer.map(|frame| frame.body) {
            Ok(Body::Acknowledged(_)) => Ok(()),
            Err(PeerError::Refused(mut failed)) => {
                failed.culprit.get_or_insert_with(|| next.clone());
                Err(Refusal::Passed(failed))
            }
            other => Err(Refusal::ChainBroken {
                culprit: next.clone(),
                cause: other.err().unwrap_or(PeerError::WrongAnswer).to_string(),
            }),
        }
    }

    /// # Errors
    /// Why this replica may not or cannot answer (R6).
    pub async fn read(&self, request: Read) -> Result<Answer, Refusal> {
        let key = key_of(request.handle, &request.disk)?;
        let version: Version = required(request.version, "version")?.into();
        if request.length as usize > FRAME_PAYLOAD_BYTES_MAX {
            return Err(Refusal::Invalid(format!("a read of {} bytes", request.length)));
        }
        let chunk = match self.chunk(key) {
            Err(Refusal::NoReplica) => return self.read_unwritten(key, version),
            found => found?,
        };
        self.mandate.may_read(key, version, self.env.clock.now())?;
        let at = At::Installed(version);
        let Read {
            offset, length, verify, ..
        } = request;
        if length > BRIEF_BYTES_MAX && !verify {
            let (stored, len) = (chunk.clone(), u64::from(length));
            let locate = move || stored.locate(at, offset, len);
            let located = self.env.blocking.run_brief(&self.habits.read, locate).await;
            if let Some(stored) = located.map_err(|e| self.refused(key, e))? {
                let doubt = Doubt {
                    key,
                    chunk,
                    at,
                    offset,
                    len,
                };
                return Ok((
                    read_done(stored.crcs, stored.length),
                    Payload::Stored(stored.range, doubt),
                ));
            }
        }
        self.read_blocks(key, chunk, at, offset, length, verify).await
    }

    /// A file could not be sent: was it the file? Then what is wrong with it is remembered, and told, as after any read.
    pub async fn look_into(&self, doubt: Doubt, cause: &io::Error) {
        let Doubt {
            key,
            chunk,
            at,
            offset,
            len,
        } = doubt;
        tracing::warn!(chunk = %key.handle, disk = %key.disk, offset, len, "could not be sent: {cause}");
        let read = move || chunk.read(at, offset, len, true);
        if let Err(e) = self.env.blocking.run(read).await {
            let refusal = self.refused(key, e);
            tracing::warn!(chunk = %key.handle, disk = %key.disk, "could not be sent, and is found to be bad: {refusal}");
        }
    }

    /// Of a chunk that is not here, found so a moment ago: nothing, if a grant of `version` could still create it. Then
    /// none has, so that no write was acknowledged (R1), and the chunk was not reconfigured either: that would have
    /// raised the floor, or had to wait for the end of the lease.
    fn read_unwritten(&self, key: Key, version: Version) -> Result<Answer, Refusal> {
        self.mandate.leased(self.env.clock.now())?;
        let could_create = self.mandate.may_create(version).is_ok();
        let disk = self.store.disk(key.disk).ok_or(Refusal::NoReplica)?;
        if !could_create || disk.unclean_start() || version <= disk.floor() {
            return Err(Refusal::NoReplica);
        }
        Ok((Body::ReadDone(ReadDone::default()), Payload::NONE))
    }

    async fn read_blocks(
        &self,
        key: Key,
        chunk: Chunk,
        at: At,
        offset: u64,
        length: u32,
        verify: bool,
    ) -> Result<Answer, Refusal> {
        let read = move || chunk.read(at, offset, u64::from(length), verify);
        let pieces = match length <= BRIEF_BYTES_MAX {
            true => self.env.blocking.run_brief(&self.habits.read, read).await,
            false => self.env.blocking.run(read).await,
        };
        let pieces = pieces.map_err(|e| self.refused(key, e))?;
        Ok((read_done(pieces.crcs, pieces.length), Payload::Bytes(pieces.data)))
    }

    /// What another replica compares itself with (R4).
    ///
    /// # Errors
    /// `OldRegistration` for an order from before this server registered; what the store says.
    pub async fn fetch_table(&self, request: FetchTable) -> Result<Answer, Refusal> {
        let key = key_of(request.handle, &request.disk)?;
        let at = source_state(request.version, request.joining)?;
        self.mandate.check(registration(request.registration)?)?;
        let chunk = self.chunk(key)?;
        let read = move || {
            // a suspect computes its checksums anew by itself, once
            let table = chunk.table(at)?;
            Ok::<_, StoreError>((table, chunk.meta()?, chunk.info().damage))
        };
        let (table, meta, damage) = self.env.blocking.run(read).await.map_err(|e| self.refused(key, e))?;
        let remembered = self.known_replica(key).map(|r| r.remembered()).unwrap_or_default();
        let mut payload = BytesMut::with_capacity(table.crcs.len() * 4);
        table.crcs.iter().for_each(|crc| payload.put_u32_le(*crc));
        let answer = Table {
            chunk_length: table.length,
            remembered: to_wire(&remembered),
            bad_blocks: damage.blocks.into_iter().collect(),
            inode: meta.inode.0,
            index: meta.index,
            name: meta.name.into(),
        };
        Ok((Body::Table(answer), Payload::Bytes(payload.freeze())))
    }

    /// # Errors
    /// As [`Core::fetch_table`]; `Corrupt` with the blocks that another member has to give.
    pub async fn fetch_blocks(&self, request: FetchBlocks) -> Result<Answer, Refusal> {
        let key = key_of(request.handle, &request.disk)?;
        let at = source_state(request.version, request.joining)?;
        self.mandate.check(registration(request.registration)?)?;
        let FetchBlocks { offset, length, .. } = request;
        if !offset.is_multiple_of(BLOCK_SIZE_BYTES) || length as usize > FRAME_PAYLOAD_BYTES_MAX {
            return Err(Refusal::Invalid(format!("blocks of {length} bytes at {offset}")));
        }
        let chunk = self.chunk(key)?;
        self.read_blocks(key, chunk, at, offset, length, true).await
    }

    /// Starts a task of the data plane, which ends with the server.
    pub fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> JoinHandle<Option<T>> {
        // each of the futures around it would have room for it twice, and be moved
        self.spawn_boxed(Box::pin(work))
    }

    /// [`Core::spawn`] of work that is in a box already.
    fn spawn_boxed<T: Send + 'static>(
        &self,
        work: Pin<Box<impl Future<Output = T> + Send + 'static>>,
    ) -> JoinHandle<Option<T>> {
        self.tasks.spawn(self.killed.clone().run_until_cancelled_owned(work))
    }

    /// Counts a request.
    pub fn asked(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }
}

/// Writes what was accepted to the store, in order, until nothing is left.
async fn apply(core: Arc<Core>, replica: Arc<Replica>) {
    loop {
        let (blocking, work) = (core.env.blocking, (core.clone(), replica.clone()));
        let left = match replica.next_len().is_none_or(|len| len <= BRIEF_BYTES_MAX as usize) {
            true => {
                let some = move || apply_some(&work.0, &work.1, BRIEF_BYTES_MAX as usize);
                blocking.run_brief(&core.habits.apply, some).await
            }
            false => blocking.run(move || apply_some(&work.0, &work.1, usize::MAX)).await,
        };
        match left {
            Left::Nothing => return,
            Left::More => {}
            // of file descriptors, of which nobody says that some are free again: any process may close one
            Left::Short => sleep(STORE_RETRY_PAUSE).await,
        }
    }
}

enum Left {
    Nothing,
    More,
    /// The store is short of something that passes, and what is left has to be tried again.
    Short,
}

fn apply_some(core: &Core, replica: &Replica, mut budget_bytes: usize) -> Left {
    loop {
        match replica.next_len().map(|len| budget_bytes.checked_sub(len)) {
            Some(None) => return Left::More,
            Some(Some(rest)) => budget_bytes = rest,
            None => {}
        }
        let Some(next) = replica.next_to_apply() else {
            return Left::Nothing;
        };
        let ToApply {
            place,
            offset,
            checksums,
            payload,
        } = next;
        let at = At::Installed(place.version);
        // its pieces were checked when it was taken
        match place.chunk.write_checked(at, offset, &payload, &checksums) {
            Ok(_) => replica.applied(),
            Err(StoreError::TooManyFiles) => return Left::Short,
            Err(e) => {
                let why = core.refused(replica.key, e);
                if replica.apply_failed(why.clone()) {
                    tracing::warn!(chunk = %replica.key.handle, version = %place.version, "write failed: {why}");
                    core.reports.broken(replica.key, place.version, &why);
                }
                return Left::Nothing;
            }
        }
    }
}

/// Starts a replica's serials in its place of the chain.
pub fn open(replica: &Replica, place: Place) {
    let (version, head) = (place.version, place.position == 0);
    let (tail, length) = (place.next().is_none(), place.chunk.info().length);
    replica.open(place, version, head, tail, length);
}

pub fn position(members: &[Member], disk: &[u8]) -> Option<usize> {
    members.iter().position(|m| m.disk[..] == *disk)
}

pub fn key_of(handle: u64, disk: &[u8]) -> Result<Key, Refusal> {
    let disk = DiskId::try_from(disk).map_err(|e| Refusal::Invalid(e.to_string()))?;
    Ok(Key {
        disk,
        handle: ChunkHandle(handle),
    })
}

fn registration(wire: Option<common::Registration>) -> Result<Registration, Refusal> {
    Ok(required(wire, "registration")?.into())
}

/// What a source must be for the copy that is asked of it.
fn source_state(version: Option<common::Version>, joining: bool) -> Result<At, Refusal> {
    let version = required(version, "version")?.into();
    Ok(if joining {
        At::Installed(version)
    } else {
        At::Fenced(version)
    })
}

/// The payload lies in a chunk and is what its checksums say: checked before it is given a place in the order or
/// forwarded, so that a bad network card costs a frame and not a chain.
fn check_pieces(header: &Write, payload: &Bytes) -> Result<(), Refusal> {
    let (offset, len) = (header.offset, payload.len() as u64);
    if len == 0 || offset.checked_add(len).is_none_or(|end| end > CHUNK_SIZE_BYTES) {
        return Err(Refusal::Invalid(format!("{len} bytes at {offset} of a chunk")));
    }
    let mut sums = header.checksums.iter();
    for (at, len) in block_pieces(offset, len) {
        let piece = &payload[(at - offset) as usize..][..len as usize];
        if sums.next() != Some(&crc32fast::hash(piece)) {
            return Err(Refusal::BadChecksum);
        }
    }
    match sums.next() {
        Some(_) => Err(Refusal::Invalid("more checksums than pieces".into())),
        None => Ok(()),
    }
}

fn to_wire(remembered: &Remembered) -> Vec<data::Remembered> {
    let entry = |(session, sequence): (SessionId, Sequence)| data::Remembered {
        session: Bytes::copy_from_slice(session.as_bytes()),
        sequence: sequence.0,
    };
    remembered.entries().map(entry).collect()
}

pub fn from_wire(table: &Table) -> Result<Remembered, Refusal> {
    let entries = table.remembered.iter().map(|r| {
        let session = SessionId::try_from(&r.session[..]).map_err(|e| Refusal::Invalid(e.to_string()))?;
        Ok((session, Sequence(r.sequence)))
    });
    let entries: Vec<_> = entries.collect::<Result<_, Refusal>>()?;
    Ok(Remembered::of(entries))
}

fn read_done(checksums: Vec<u32>, chunk_length: u64) -> Body {
    Body::ReadDone(ReadDone {
        checksums,
        chunk_length,
    })
}

pub fn acknowledged(serial: Serial) -> Body {
    Body::Acknowledged(Acknowledged { serial: serial.0 })
}

/// Only the code of a failure decides; named here for those who look at what a peer said.
pub fn code_of(failed: &data::Failed) -> ErrorCode {
    failed.error.as_ref().map_or(ErrorCode::ErrorUnspecified, |e| e.code())
}
