use crate::{Chunkserver, ChunkserverConfig, StartError};
use bytes::Bytes;
use cairn_io::sim::{SimClock, SimDisk, Trace};
use cairn_io::{Blocking, BoxStream, Disk, Env, Net, RealNet, Rng};
use cairn_proto::PROTOCOL;
use cairn_proto::chunkserver::chunkservers_server::{Chunkservers, ChunkserversServer};
use cairn_proto::chunkserver::from_chunkserver::Body as From;
use cairn_proto::chunkserver::from_master::Body as To;
use cairn_proto::chunkserver::order::What;
use cairn_proto::chunkserver::order_done::Result as Done;
use cairn_proto::chunkserver::*;
use cairn_proto::common::{self, ErrorCode, Member};
use cairn_proto::data::{self, Append, AppendMore, AskRoom, Grant, Hello, Read, Sync, Write, frame_header::Body};
use cairn_proto::frame::{Frame, checksums, read_frame, write_frame};
use cairn_types::{ChunkHandle, ClusterId, DiskId, Registration, ServerId, SessionId, Version};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

pub const CLUSTER: u128 = 77;
pub const HANDLE: ChunkHandle = ChunkHandle(0x1001);
pub const WAIT: Duration = Duration::from_secs(20);

pub fn v(counter: u64) -> Version {
    Version::new(1, counter)
}
pub fn session(n: u128) -> SessionId {
    SessionId::from_bits(n)
}

/// Retries until `what` gives something; fails after [`WAIT`].
pub async fn eventually<T>(name: &str, mut what: impl AsyncFnMut() -> Option<T>) -> T {
    let tries = async {
        loop {
            if let Some(value) = what().await {
                return value;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(WAIT, tries)
        .await
        .unwrap_or_else(|_| panic!("never happened: {name}"))
}

/// A master that answers, registers and judges as it is told.
#[derive(Clone)]
pub struct FakeMaster(Arc<Mutex<State>>);

pub struct State {
    pub cluster: ClusterId,
    pub lease: Duration,
    pub floor: Version,
    pub answer_heartbeats: bool,
    pub confirm_deletes: bool,
    pub send_verdicts: bool,
    /// What is current; others are stale if known here with another version, else unknown.
    pub current: BTreeMap<u64, Version>,
    pub servers: BTreeMap<ServerId, Server>,
    pub troubles: Vec<(ServerId, Trouble)>,
    pub confirmations_asked: usize,
    /// Of the registrations that it gives from now on.
    pub epoch: u64,
    registrations: u64,
    orders: u64,
    waiting: BTreeMap<u64, oneshot::Sender<Done>>,
}

#[derive(Clone)]
pub struct Server {
    pub registration: Registration,
    pub register: Register,
    pub disks: Vec<DiskId>,
    pub inventory: Vec<Replica>,
    pub inventory_done: bool,
    pub heartbeat: Option<Heartbeat>,
    pub changed: Vec<Replica>,
    pub deleted: Vec<Deleted>,
    to: mpsc::Sender<Result<FromMaster, Status>>,
}

impl FakeMaster {
    pub async fn start() -> (Self, String) {
        let state = State {
            cluster: ClusterId::from_bits(CLUSTER),
            lease: Duration::from_secs(30),
            floor: v(1),
            answer_heartbeats: true,
            confirm_deletes: true,
            send_verdicts: true,
            current: BTreeMap::new(),
            servers: BTreeMap::new(),
            troubles: vec![],
            confirmations_asked: 0,
            epoch: 1,
            registrations: 0,
            orders: 0,
            waiting: BTreeMap::new(),
        };
        let this = Self(Arc::new(Mutex::new(state)));
        let listener = RealNet.bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let service = ChunkserversServer::new(this.clone());
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(cairn_io::grpc::incoming(listener)),
        );
        (this, address)
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn server(&self, id: ServerId) -> Server {
        self.lock().servers[&id].clone()
    }

    /// Says something that nobody asked for.
    pub async fn tell(&self, id: ServerId, body: To) {
        let to = self.server(id).to;
        to.send(Ok(FromMaster { body: Some(body) })).await.unwrap();
    }

    /// Ends the server's stream, as a lost connection does.
    pub fn hang_up(&self, id: ServerId) {
        let to = self.server(id).to;
        tokio::spawn(async move { to.send(Err(Status::unavailable("hung up by the test"))).await });
    }

    /// Gives an order under a registration and waits for its answer.
    pub async fn order_as(&self, member: &Member, handle: ChunkHandle, what: What, registration: Registration) -> Done {
        let (sender, done) = oneshot::channel();
        let (order, to) = {
            let mut state = self.lock();
            state.orders += 1;
            let id = state.orders;
            state.waiting.insert(id, sender);
            let order = Order {
                id,
                registration: Some(registration.into()),
                handle: handle.0,
                disk: member.disk.clone(),
                what: Some(what),
            };
            (order, state.servers[&member.server_id().unwrap()].to.clone())
        };
        to.send(Ok(FromMaster {
            body: Some(To::Order(order)),
        }))
        .await
        .unwrap();
        timeout(WAIT, done).await.expect("no answer to an order").unwrap()
    }

    pub async fn order(&self, member: &Member, handle: ChunkHandle, what: What) -> Done {
        let registration = self.registration(member);
        self.order_as(member, handle, what, registration).await
    }

    pub fn registration(&self, member: &Member) -> Registration {
        self.server(member.server_id().unwrap()).registration
    }

    pub async fn fence(&self, member: &Member, version: Version) -> Fenced {
        match self.order(member, HANDLE, fence(version)).await {
            Done::Fenced(fenced) => fenced,
            other => panic!("not fenced: {other:?}"),
        }
    }

    pub async fn synchronize(&self, member: &Member, version: Version, source: &Member, others: &[Member]) -> Done {
        let order = self.synchronization(version, source, others);
        self.order(member, HANDLE, What::Synchronize(order)).await
    }

    pub fn synchronization(&self, version: Version, source: &Member, others: &[Member]) -> Synchronize {
        let alternates = others.iter().map(|m| Alternate {
            member: Some(m.clone()),
            registration: Some(self.registration(m).into()),
        });
        Synchronize {
            version: Some(version.into()),
            source: Some(source.clone()),
            source_registration: Some(self.registration(source).into()),
            source_suspect: false,
            alternates: alternates.collect(),
            recompute: false,
            last_resort: false,
        }
    }

    pub async fn install(&self, member: &Member, version: Version, members: &[Member]) -> Done {
        let what = What::Install(Install {
            version: Some(version.into()),
            members: members.to_vec(),
        });
        self.order(member, HANDLE, what).await
    }

    /// The whole path: fence all, take `members[source]` as the source, make the others identical, install tail first.
    pub async fn reconfigure(&self, members: &[Member], version: Version, source: usize) {
        for member in members {
            self.fence(member, version).await;
        }
        for (i, member) in members.iter().enumerate() {
            if i != source {
                let others: Vec<_> = members.iter().filter(|m| **m != *member).cloned().collect();
                let done = self.synchronize(member, version, &members[source], &others).await;
                assert!(matches!(done, Done::Synced(_)), "{done:?}");
            }
        }
        self.lock().current.insert(HANDLE.0, version);
        for member in members.iter().rev() {
            let done = self.install(member, version, members).await;
            assert!(matches!(done, Done::Installed(_)), "{done:?}");
        }
    }

    async fn converse(
        self,
        mut from: Streaming<FromChunkserver>,
        to: mpsc::Sender<Result<FromMaster, Status>>,
    ) -> Result<(), Status> {
        let Some(From::Register(register)) = from.message().await?.and_then(|m| m.body) else {
            return Err(Status::invalid_argument("no Register"));
        };
        let id = ServerId::try_from(&register.server[..]).unwrap();
        let registered = {
            let mut state = self.lock();
            state.registrations += 1;
            let registration = Registration::new(state.epoch, state.registrations);
            let blank = register.disks.iter().filter(|d| d.disk.is_empty()).count();
            // disks are numbered after their paths, so that a test knows them
            let new_disks: Vec<DiskId> = (0..blank).map(|i| new_disk_id(id, i)).collect();
            let formatted = register.disks.iter().filter_map(|d| DiskId::try_from(&d.disk[..]).ok());
            let server = Server {
                registration,
                disks: formatted.chain(new_disks.iter().copied()).collect(),
                register,
                inventory: vec![],
                inventory_done: false,
                heartbeat: None,
                changed: vec![],
                deleted: vec![],
                to: to.clone(),
            };
            state.servers.insert(id, server);
            Registered {
                registration: Some(registration.into()),
                cluster: Bytes::copy_from_slice(state.cluster.as_bytes()),
                lease_ms: state.lease.as_millis() as u32,
                heartbeat_ms: 100,
                floor: Some(state.floor.into()),
                new_disks: new_disks.iter().map(|d| Bytes::copy_from_slice(d.as_bytes())).collect(),
            }
        };
        let send = async |body: To| {
            to.send(Ok(FromMaster { body: Some(body) }))
                .await
                .map_err(|_| Status::cancelled(""))
        };
        send(To::Registered(registered)).await?;
        while let Some(message) = from.message().await? {
            let answer = self.take(id, message.body.unwrap());
            if let Some(body) = answer {
                send(body).await?;
            }
        }
        Ok(())
    }

    fn take(&self, id: ServerId, message: From) -> Option<To> {
        let mut state = self.lock();
        let state = &mut *state;
        let server = state.servers.get_mut(&id).unwrap();
        match message {
            From::Register(_) => panic!("registered twice on one stream"),
            From::Inventory(page) => {
                server.inventory_done |= page.last;
                let verdict = |r: &Replica| {
                    let verdict = match state.current.get(&r.handle) {
                        Some(_) if r.suspect => Verdict::Wait,
                        Some(v) if r.version.map(Version::from) == Some(*v) => Verdict::Current,
                        Some(_) => Verdict::Stale,
                        None => Verdict::Unknown,
                    };
                    ChunkVerdict {
                        handle: r.handle,
                        disk: r.disk.clone(),
                        verdict: verdict.into(),
                        version: r.version,
                    }
                };
                let verdicts: Vec<_> = page.replicas.iter().map(verdict).collect();
                server.inventory.extend(page.replicas);
                let send = state.send_verdicts && !verdicts.is_empty();
                send.then_some(To::Verdicts(Verdicts { verdicts }))
            }
            From::Heartbeat(heartbeat) => {
                let number = heartbeat.number;
                server.changed.extend(heartbeat.changed.iter().cloned());
                server.deleted.extend(heartbeat.deleted.iter().cloned());
                server.heartbeat = Some(heartbeat);
                state
                    .answer_heartbeats
                    .then_some(To::Heartbeat(HeartbeatAnswer { number }))
            }
            From::OrderDone(done) => {
                if let Some(waiting) = state.waiting.remove(&done.id) {
                    let _ = waiting.send(done.result.unwrap());
                }
                None
            }
            From::ConfirmDelete(ask) => {
                state.confirmations_asked += ask.queries.len();
                let confirmed = if state.confirm_deletes { ask.queries } else { vec![] };
                Some(To::DeleteConfirmed(DeleteConfirmed { confirmed }))
            }
            From::Trouble(trouble) => {
                state.troubles.push((id, trouble));
                None
            }
        }
    }
}

fn new_disk_id(server: ServerId, i: usize) -> DiskId {
    DiskId::from_bits(server.0.as_u128() ^ (i as u128 + 1))
}

pub fn fence(version: Version) -> What {
    What::Fence(Fence {
        version: Some(version.into()),
    })
}

pub fn delete(version: Version) -> What {
    What::Delete(Delete {
        version: Some(version.into()),
    })
}

#[tonic::async_trait]
impl Chunkservers for FakeMaster {
    type RegisterStream = ReceiverStream<Result<FromMaster, Status>>;

    async fn register(
        &self,
        request: Request<Streaming<FromChunkserver>>,
    ) -> Result<Response<Self::RegisterStream>, Status> {
        let (to, queue) = mpsc::channel(100);
        let this = self.clone();
        tokio::spawn(async move {
            if let Err(e) = this.converse(request.into_inner(), to.clone()).await {
                let _ = to.send(Err(e)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(queue)))
    }
}

/// One machine with one disk and the chunkserver on it.
pub struct Node {
    pub server: Option<Chunkserver>,
    pub disk: SimDisk,
    pub clock: SimClock,
    pub config: ChunkserverConfig,
    seed: u64,
}

impl Node {
    pub fn new(seed: u64, master: &str) -> Self {
        let config = ChunkserverConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            health_listen: None,
            master: master.into(),
            chain_deadline: Duration::from_secs(2),
            scrub_bytes_per_second: 0,
            ..ChunkserverConfig::default()
        };
        Self {
            server: None,
            disk: SimDisk::new(&format!("disk{seed}"), Trace::new()),
            clock: SimClock::new(seed),
            config,
            seed,
        }
    }

    pub fn env(&self) -> Env {
        Env {
            clock: Arc::new(self.clock.clone()),
            net: Arc::new(RealNet),
            rng: Rng::from_seed(self.seed),
            blocking: Blocking::Threads,
        }
    }

    /// Starts, without waiting for the registration; a second start listens where the first did.
    pub async fn try_start(&mut self) -> Result<(), StartError> {
        let start = async || {
            let disk: Arc<dyn Disk> = Arc::new(self.disk.mount());
            Chunkserver::start(self.config.clone(), vec![(disk, None)], self.env()).await
        };
        let mut started = start().await;
        for _ in 0..100 {
            // the tasks of the one before are dropped a little later than it
            if !matches!(started, Err(StartError::Listen { .. })) {
                break;
            }
            sleep(Duration::from_millis(20)).await;
            started = start().await;
        }
        let server = started?;
        self.config.listen = server.bound();
        self.server = Some(server);
        Ok(())
    }

    pub async fn start(&mut self) {
        self.try_start().await.unwrap();
        timeout(WAIT, self.server().registered())
            .await
            .expect("never registered");
    }

    pub fn server(&self) -> &Chunkserver {
        self.server.as_ref().unwrap()
    }

    /// The process dies; what it wrote stays in the page cache.
    pub fn kill(&mut self) {
        self.disk.kill();
        self.server = None;
    }

    /// The machine loses power: nothing unsynced stays.
    pub fn lose_power(&mut self) {
        self.disk.drop_unsynced();
        self.clock.reboot(self.seed + 1000);
        self.server = None;
    }
}

pub struct Cluster {
    pub master: FakeMaster,
    pub address: String,
    pub nodes: Vec<Node>,
}

impl Cluster {
    pub async fn start(nodes: usize) -> Self {
        let (master, address) = FakeMaster::start().await;
        let mut cluster = Self {
            nodes: (0..nodes).map(|i| Node::new(i as u64 + 1, &address)).collect(),
            master,
            address,
        };
        for node in &mut cluster.nodes {
            node.start().await;
        }
        cluster
    }

    pub fn member(&self, i: usize) -> Member {
        let server = self.nodes[i].server();
        let disk = self.master.server(server.id()).disks[0];
        Member::new(server.id(), disk, server.address())
    }

    pub fn members(&self) -> Vec<Member> {
        (0..self.nodes.len()).map(|i| self.member(i)).collect()
    }

    pub async fn connect(&self, i: usize, s: SessionId) -> Wire {
        Wire::connect(self.nodes[i].server().address(), ClusterId::from_bits(CLUSTER), s).await
    }

    /// What the server has told of its replicas at its last registration.
    pub async fn inventory(&self, i: usize) -> Vec<Replica> {
        let id = self.nodes[i].server().id();
        eventually("the inventory", async || {
            let server = self.master.server(id);
            server.inventory_done.then_some(server.inventory)
        })
        .await
    }

    /// The bytes of a replica, by a read that verifies them; read while installed at `version`.
    pub async fn contents(&self, i: usize, version: Version) -> Result<Bytes, data::Failed> {
        let mut wire = self.connect(i, session(999)).await;
        let member = self.member(i);
        let mut all = vec![];
        // a verdict may still be under way
        for _ in 0..20 {
            match wire.read(&member, version, 0, 1, false).await {
                Err(failed) if code(&failed) == ErrorCode::ErrorNoLease => sleep(Duration::from_millis(50)).await,
                _ => break,
            }
        }
        loop {
            let (done, bytes) = wire.read(&member, version, all.len() as u64, 1 << 20, true).await?;
            all.extend_from_slice(&bytes);
            if all.len() as u64 >= done.chunk_length {
                return Ok(all.into());
            }
        }
    }

    /// Promise 4: all replicas have the same bytes.
    pub async fn assert_identical(&self, version: Version) -> Bytes {
        let first = self.contents(0, version).await.unwrap();
        for i in 1..self.nodes.len() {
            let other = self.contents(i, version).await.unwrap();
            assert!(
                first == other,
                "replica {i} differs ({} and {} bytes)",
                first.len(),
                other.len()
            );
        }
        first
    }
}

/// A client's connection to a data plane.
pub struct Wire {
    pub reader: ReadHalf<BoxStream>,
    pub writer: WriteHalf<BoxStream>,
    pub session: SessionId,
    pub sequence: u64,
    pub grant: Option<Grant>,
    /// Of the master that gave leave to write.
    pub epoch: u64,
}

impl Wire {
    pub async fn connect(address: &str, cluster: ClusterId, session: SessionId) -> Self {
        let stream = RealNet.connect(address).await.unwrap();
        let (reader, writer) = tokio::io::split(stream);
        let mut wire = Self {
            reader,
            writer,
            session,
            sequence: 0,
            grant: None,
            epoch: 1,
        };
        let hello = Hello {
            protocol: PROTOCOL,
            cluster: Bytes::copy_from_slice(cluster.as_bytes()),
            peer: Bytes::copy_from_slice(session.as_bytes()),
        };
        wire.send(Body::Hello(hello), &[]).await;
        match wire.receive().await.expect("no Welcome").body {
            Body::Welcome(_) => wire,
            other => panic!("no Welcome: {other:?}"),
        }
    }

    pub fn with_grant(mut self, members: &[Member]) -> Self {
        self.grant = Some(Grant {
            members: members.to_vec(),
            inode: 5,
            index: 0,
            name: Bytes::from_static(b"file"),
        });
        self
    }

    pub async fn send(&mut self, body: Body, payload: &[u8]) {
        write_frame(&mut self.writer, body, payload).await.unwrap();
    }

    pub async fn receive(&mut self) -> Option<Frame> {
        timeout(WAIT, read_frame(&mut self.reader))
            .await
            .expect("no answer")
            .unwrap()
    }

    pub fn write_body(&mut self, member: &Member, version: Version, offset: u64, data: &[u8]) -> Write {
        self.sequence += 1;
        Write {
            handle: HANDLE.0,
            version: Some(version.into()),
            session: Bytes::copy_from_slice(self.session.as_bytes()),
            sequence: self.sequence,
            serial: 0,
            offset,
            checksums: checksums(offset, data).collect(),
            grant: self.grant.clone(),
            disk: member.disk.clone(),
            epoch: self.epoch,
        }
    }

    /// Sends a write and does not wait.
    pub async fn start_write(&mut self, member: &Member, version: Version, offset: u64, data: &[u8]) {
        let write = self.write_body(member, version, offset, data);
        self.send(Body::Write(write), data).await;
    }

    pub async fn acknowledged(&mut self) -> Result<u64, data::Failed> {
        match self.receive().await.expect("closed").body {
            Body::Acknowledged(a) => Ok(a.serial),
            Body::Failed(f) => Err(f),
            other => panic!("{other:?}"),
        }
    }

    pub async fn write(
        &mut self,
        member: &Member,
        version: Version,
        offset: u64,
        data: &[u8],
    ) -> Result<u64, data::Failed> {
        self.start_write(member, version, offset, data).await;
        self.acknowledged().await
    }

    pub fn append_body(&self, member: &Member, version: Version, number: u64, data: &[u8]) -> Append {
        Append {
            handle: HANDLE.0,
            version: Some(version.into()),
            session: Bytes::copy_from_slice(self.session.as_bytes()),
            number,
            previous: 0,
            length: data.len() as u32,
            checksum: crc32fast::hash(data),
            from: 0,
            grant: self.grant.clone(),
            disk: member.disk.clone(),
            epoch: self.epoch,
        }
    }

    /// Sends a record in as many frames as it takes, and does not wait.
    pub async fn start_append(&mut self, append: Append, data: &[u8]) {
        let mut body = Body::Append(append);
        let mut frames = data.chunks(1 << 20);
        loop {
            let next = frames.next().unwrap_or_default();
            self.send(body, next).await;
            body = Body::AppendMore(AppendMore {});
            if frames.len() == 0 {
                return;
            }
        }
    }

    /// Asks for room for records; what was given.
    pub async fn ask_room(&mut self, member: &Member, version: Version, bytes: u64) -> Result<u64, data::Failed> {
        let ask = AskRoom {
            handle: HANDLE.0,
            version: Some(version.into()),
            disk: member.disk.clone(),
            session: Bytes::copy_from_slice(self.session.as_bytes()),
            bytes,
            grant: self.grant.clone(),
            epoch: self.epoch,
        };
        self.send(Body::AskRoom(ask), &[]).await;
        match self.receive().await.expect("closed").body {
            Body::Room(room) => Ok(room.bytes),
            Body::Failed(f) => Err(f),
            other => panic!("{other:?}"),
        }
    }

    /// Where the record is.
    pub async fn appended(&mut self) -> Result<u64, data::Failed> {
        match self.receive().await.expect("closed").body {
            Body::Appended(appended) => Ok(appended.offset),
            Body::Failed(f) => Err(f),
            other => panic!("{other:?}"),
        }
    }

    pub async fn append(
        &mut self,
        member: &Member,
        version: Version,
        number: u64,
        data: &[u8],
    ) -> Result<u64, data::Failed> {
        let append = self.append_body(member, version, number, data);
        self.start_append(append, data).await;
        self.appended().await
    }

    pub async fn sync(&mut self, member: &Member, version: Version) -> Result<u64, data::Failed> {
        let sync = Sync {
            handle: HANDLE.0,
            version: Some(version.into()),
            disk: member.disk.clone(),
        };
        self.send(Body::Sync(sync), &[]).await;
        self.acknowledged().await
    }

    pub async fn read(
        &mut self,
        member: &Member,
        version: Version,
        offset: u64,
        length: u32,
        verify: bool,
    ) -> Result<(data::ReadDone, Bytes), data::Failed> {
        self.start_read(member, version, offset, length, verify).await;
        let frame = self.receive().await.expect("closed");
        match frame.body {
            Body::ReadDone(done) => {
                assert_eq!(
                    checksums(offset, &frame.payload).collect::<Vec<_>>(),
                    done.checksums,
                    "the client verifies what it gets"
                );
                Ok((done, frame.payload))
            }
            Body::Failed(f) => Err(f),
            other => panic!("{other:?}"),
        }
    }

    /// Sends a read and does not wait.
    pub async fn start_read(&mut self, member: &Member, version: Version, offset: u64, length: u32, verify: bool) {
        let read = Read {
            handle: HANDLE.0,
            version: Some(version.into()),
            disk: member.disk.clone(),
            offset,
            length,
            verify,
        };
        self.send(Body::Read(read), &[]).await;
    }
}

pub fn code(failed: &data::Failed) -> ErrorCode {
    failed.error.as_ref().unwrap().code()
}

pub fn error_code(done: &Done) -> Option<ErrorCode> {
    match done {
        Done::Error(e) => Some(common::Error::code(e)),
        _ => None,
    }
}

/// Bytes that differ everywhere.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    };
    (0..len).map(|_| next()).collect()
}
