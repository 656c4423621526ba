//! A session client and a chunkserver made by hand, over loopback, for tests of the master alone.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)] // each test file uses its part
use cairn_io::sim::{SimDisk, Trace};
use cairn_io::{Blocking, Env};
use cairn_master::{Master, MasterConfig};
use cairn_proto::chunkserver::chunkservers_client::ChunkserversClient;
use cairn_proto::chunkserver::{self as cs, from_chunkserver, from_master as cs_from_master, order, order_done};
use cairn_proto::common::{Error, ErrorCode, Location};
use cairn_proto::session::answer::Result as Answer;
use cairn_proto::session::call::Request;
use cairn_proto::session::sessions_client::SessionsClient;
use cairn_proto::session::{self as ss, FromClient, Push, from_client, from_master};
use cairn_types::{ChunkHandle, Registration, ServerId, SessionId, Version};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

pub const WAIT: Duration = Duration::from_secs(10);

pub fn config() -> MasterConfig {
    MasterConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        lease_ms: 600,
        heartbeat_ms: 100,
        repair_delay_ms: 300,
        gc_grace_ms: 200,
        trash_keep_ms: 0,
        session_timeout_ms: 1_000,
        call_timeout_ms: 8_000,
        order_timeout_ms: 500,
        safe_mode_ms: 400,
        ..MasterConfig::default()
    }
}

pub fn disk() -> SimDisk {
    SimDisk::new("master", Trace::default())
}

pub async fn start(config: MasterConfig, disk: &SimDisk) -> Master {
    try_start(config, disk).await.unwrap()
}

pub async fn try_start(config: MasterConfig, disk: &SimDisk) -> Result<Master, cairn_master::StartError> {
    let env = Env {
        blocking: Blocking::Inline,
        ..Env::real()
    };
    Master::start(config, Arc::new(disk.mount()), env).await
}

pub async fn channel(master: &Master) -> Channel {
    let env = Env::real();
    cairn_io::grpc::connect(env.net, &master.address().to_string(), WAIT)
        .await
        .unwrap()
}

/// Until `f` gives something.
pub async fn until<T>(what: &str, mut f: impl AsyncFnMut() -> Option<T>) -> T {
    let end = tokio::time::Instant::now() + WAIT;
    loop {
        if let Some(value) = f().await {
            return value;
        }
        assert!(tokio::time::Instant::now() < end, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A client's session on one stream.
pub struct Client {
    pub id: SessionId,
    pub resumed: bool,
    out: mpsc::Sender<FromClient>,
    stream: Streaming<ss::FromMaster>,
    pub sequence: u64,
    pub answers: BTreeMap<u64, Answer>,
    pub pushes: Vec<Push>,
    /// Confirms pushes by itself.
    pub confirms: bool,
    /// The last answer, as it came.
    pub last: ss::Answer,
}

impl Client {
    pub async fn connect(master: &Master, id: u128) -> Client {
        Self::hello(
            master,
            ss::Hello {
                session: SessionId::from_bits(id).to_vec().into(),
                ..Self::plain()
            },
        )
        .await
        .unwrap()
    }

    pub fn plain() -> ss::Hello {
        ss::Hello {
            description: "test".into(),
            protocol: 1,
            ..Default::default()
        }
    }

    pub async fn hello(master: &Master, hello: ss::Hello) -> Result<Client, tonic::Status> {
        Self::hello_with(master, hello, Vec::new()).await
    }

    pub async fn hello_with(
        master: &Master,
        hello: ss::Hello,
        more: Vec<from_client::Body>,
    ) -> Result<Client, tonic::Status> {
        let id = SessionId::try_from(&hello.session[..]).unwrap();
        let (out, messages) = mpsc::channel(1000);
        for body in std::iter::once(from_client::Body::Hello(hello)).chain(more) {
            out.send(FromClient { body: Some(body) }).await.unwrap();
        }
        let mut client = SessionsClient::new(channel(master).await);
        let mut stream = client.session(ReceiverStream::new(messages)).await?.into_inner();
        let welcome = match stream.message().await?.and_then(|m| m.body) {
            Some(from_master::Body::Welcome(welcome)) => welcome,
            other => panic!("{other:?}"),
        };
        let resumed = welcome.resumed;
        let (answers, pushes) = (BTreeMap::new(), Vec::new());
        Ok(Client {
            id,
            resumed,
            out,
            stream,
            sequence: 0,
            answers,
            pushes,
            confirms: true,
            last: ss::Answer::default(),
        })
    }

    pub async fn send(&mut self, sequence: u64, request: Request) {
        let call = ss::Call {
            closed: None,
            sequence,
            acknowledged: 0,
            request: Some(request),
        };
        self.sequence = self.sequence.max(sequence);
        self.out
            .send(FromClient {
                body: Some(from_client::Body::Call(call)),
            })
            .await
            .unwrap();
    }

    pub async fn closed(&mut self, inodes: Vec<u64>, kept: Vec<u64>) {
        let closed = from_client::Body::Closed(ss::Closed { inodes, kept });
        self.out.send(FromClient { body: Some(closed) }).await.unwrap();
    }

    /// All pushes that have come.
    pub async fn confirm(&mut self) {
        let done = from_client::Body::PushesDone(self.pushes.last().map_or(0, |push| push.number));
        self.out.send(FromClient { body: Some(done) }).await.unwrap();
    }

    pub async fn answer(&mut self, sequence: u64) -> Option<Answer> {
        loop {
            if let Some(answer) = self.answers.remove(&sequence) {
                return Some(answer);
            }
            self.receive().await?;
        }
    }

    /// Takes one message in; `None` when the stream is over.
    pub async fn receive(&mut self) -> Option<()> {
        let message = tokio::time::timeout(2 * WAIT, self.stream.message())
            .await
            .expect("no message in time");
        match message.ok()??.body? {
            from_master::Body::Answer(answer) => {
                self.last = answer.clone();
                self.answers.insert(answer.sequence, answer.result?);
            }
            from_master::Body::Push(push) => {
                if self.confirms {
                    let done = from_client::Body::PushesDone(push.number);
                    self.out.send(FromClient { body: Some(done) }).await.ok()?;
                }
                self.pushes.push(push);
            }
            _ => {}
        }
        Some(())
    }

    pub async fn try_call(&mut self, request: Request) -> Option<Answer> {
        let sequence = self.sequence + 1;
        self.send(sequence, request).await;
        self.answer(sequence).await
    }

    pub async fn call(&mut self, request: Request) -> Answer {
        self.try_call(request).await.expect("the stream is over")
    }

    pub async fn create(&mut self, name: &str) -> ss::Created {
        match self.call(create(name)).await {
            Answer::Created(created) => created,
            other => panic!("{other:?}"),
        }
    }

    pub async fn lookup(&mut self, name: &str) -> Option<ss::Attr> {
        let name = bytes::Bytes::copy_from_slice(name.as_bytes());
        match self.call(Request::Lookup(ss::Lookup { parent: 1, name })).await {
            Answer::Attr(attr) => Some(attr),
            Answer::Error(e) if e.errno == 2 => None,
            other => panic!("{other:?}"),
        }
    }

    pub async fn locate(&mut self, inode: u64, for_write: bool) -> Vec<Location> {
        match self
            .call(Request::Locate(ss::Locate {
                inode,
                first: 0,
                count: 10,
                for_write,
            }))
            .await
        {
            Answer::Locations(l) => l.chunks,
            other => panic!("{other:?}"),
        }
    }

    pub async fn complain(&mut self, chunk: &Location) -> Answer {
        self.call(complaint(chunk)).await
    }
}

pub fn complaint(chunk: &Location) -> Request {
    Request::Complain(ss::Complain {
        handle: chunk.handle,
        version: chunk.version,
        reason: ErrorCode::ErrorNotWritable.into(),
        for_write: true,
        ..Default::default()
    })
}

pub fn create(name: &str) -> Request {
    Request::Create(ss::Create {
        parent: 1,
        name: bytes::Bytes::copy_from_slice(name.as_bytes()),
        kind: ss::FileKind::KindRegular.into(),
        mode: 0o644,
        open: true,
        allocate: true,
        ..Default::default()
    })
}

#[derive(Clone, Debug, PartialEq)]
pub struct Replica {
    pub version: Version,
    pub installed: bool,
    pub length: u64,
    pub suspect: bool,
}

/// A chunkserver without data: it says what a real one would.
pub struct Server {
    pub id: ServerId,
    pub disk: Vec<u8>,
    pub replicas: BTreeMap<u64, Replica>,
    pub registration: Registration,
    pub lease: Duration,
    pub floor: Version,
    pub verdicts: Vec<cs::ChunkVerdict>,
    /// All orders received, in order.
    pub orders: Vec<cs::Order>,
    /// Orders of these kinds are not carried out.
    pub deaf_to: fn(&order::What) -> bool,
    /// Asks before it deletes; the answers.
    pub confirmed: Vec<cs::DeleteQuery>,
    out: mpsc::Sender<cs::FromChunkserver>,
    stream: Streaming<cs::FromMaster>,
    heartbeats: u64,
}

impl Server {
    pub async fn register(master: &Master, id: u128, replicas: BTreeMap<u64, Replica>) -> Server {
        Self::try_register(master, id, replicas, bytes::Bytes::new(), Vec::new())
            .await
            .unwrap()
    }

    /// With its `disk`'s id, or an unformatted one.
    pub async fn try_register(
        master: &Master,
        id: u128,
        replicas: BTreeMap<u64, Replica>,
        cluster: bytes::Bytes,
        disk: Vec<u8>,
    ) -> Result<Server, tonic::Status> {
        Self::register_deaf(master, id, replicas, cluster, disk, |_| false).await
    }

    /// Orders come as soon as it has registered.
    pub async fn register_deaf(
        master: &Master,
        id: u128,
        replicas: BTreeMap<u64, Replica>,
        cluster: bytes::Bytes,
        disk: Vec<u8>,
        deaf_to: fn(&order::What) -> bool,
    ) -> Result<Server, tonic::Status> {
        let server = ServerId::from_bits(id);
        let (out, messages) = mpsc::channel(1000);
        let reported = cs::Disk {
            disk: disk.clone().into(),
            state: cs::DiskState::DiskOk.into(),
            total_bytes: 1 << 40,
            available_bytes: 1 << 39,
            path: format!("/disk{id}"),
            ..Default::default()
        };
        let register = cs::Register {
            server: server.to_vec().into(),
            cluster,
            address: format!("cs{id}:7610"),
            new_process: true,
            version: "test".into(),
            disks: vec![reported],
            protocol: 1,
            ..Default::default()
        };
        let message = |body| cs::FromChunkserver { body: Some(body) };
        out.send(message(from_chunkserver::Body::Register(register)))
            .await
            .unwrap();
        let mut client = ChunkserversClient::new(channel(master).await);
        let mut stream = client.register(ReceiverStream::new(messages)).await?.into_inner();
        let registered = match stream.message().await?.and_then(|m| m.body) {
            Some(cs_from_master::Body::Registered(registered)) => registered,
            other => panic!("{other:?}"),
        };
        let disk = registered.new_disks.first().map_or(disk, |d| d.to_vec());
        let inventory = replicas.iter().map(|(handle, r)| replica(*handle, &disk, r)).collect();
        let inventory = cs::Inventory {
            replicas: inventory,
            last: true,
        };
        out.send(message(from_chunkserver::Body::Inventory(inventory)))
            .await
            .unwrap();
        let mut server = Server {
            id: server,
            disk,
            replicas,
            registration: registered.registration.unwrap().into(),
            lease: Duration::from_millis(registered.lease_ms.into()),
            floor: registered.floor.unwrap().into(),
            verdicts: Vec::new(),
            orders: Vec::new(),
            deaf_to,
            confirmed: Vec::new(),
            out,
            stream,
            heartbeats: 0,
        };
        while server.receive().await.is_some_and(|what| what != "verdicts") {}
        Ok(server)
    }

    pub fn verdict(&self, handle: u64) -> Option<cs::Verdict> {
        self.verdicts
            .iter()
            .rev()
            .find(|v| v.handle == handle)
            .map(|v| v.verdict())
    }

    pub async fn say(&mut self, body: from_chunkserver::Body) {
        // a stream that is over is noticed when reading
        let _ = self.out.send(cs::FromChunkserver { body: Some(body) }).await;
    }

    pub async fn heartbeat(&mut self) {
        self.heartbeats += 1;
        let number = self.heartbeats;
        let changed = self
            .replicas
            .iter()
            .map(|(handle, r)| replica(*handle, &self.disk, r))
            .collect();
        self.say(from_chunkserver::Body::Heartbeat(cs::Heartbeat {
            number,
            changed,
            ..Default::default()
        }))
        .await;
    }

    /// Takes in one message; `None`: the stream is over.
    pub async fn receive(&mut self) -> Option<&'static str> {
        let message = self.stream.message().await.ok()??;
        Some(match message.body? {
            cs_from_master::Body::Verdicts(v) => {
                self.verdicts.extend(v.verdicts);
                "verdicts"
            }
            cs_from_master::Body::Heartbeat(_) => "heartbeat",
            cs_from_master::Body::Order(order) => {
                self.order(order).await;
                "order"
            }
            cs_from_master::Body::DeleteConfirmed(c) => {
                for query in &c.confirmed {
                    self.replicas.remove(&query.handle);
                }
                self.confirmed.extend(c.confirmed);
                "confirmed"
            }
            cs_from_master::Body::Registered(_) => panic!("registered twice"),
        })
    }

    async fn order(&mut self, order: cs::Order) {
        self.orders.push(order.clone());
        let what = order.what.clone().unwrap();
        if (self.deaf_to)(&what) {
            return;
        }
        assert_eq!(order.registration.map(Registration::from), Some(self.registration));
        let known = self.replicas.get(&order.handle).cloned();
        let result = match what {
            order::What::Fence(f) => {
                let version: Version = f.version.unwrap().into();
                match known {
                    Some(r) if r.version >= version => {
                        order_done::Result::Error(Error::new(ErrorCode::ErrorStaleVersion, "higher"))
                    }
                    Some(r) => {
                        let fenced = Replica {
                            version,
                            installed: false,
                            ..r.clone()
                        };
                        self.replicas.insert(order.handle, fenced);
                        order_done::Result::Fenced(cs::Fenced {
                            version: Some(version.into()),
                            previous: Some(r.version.into()),
                            length: r.length,
                            suspect: r.suspect,
                            ..Default::default()
                        })
                    }
                    None => order_done::Result::Fenced(cs::Fenced {
                        version: Some(version.into()),
                        absent: true,
                        floor: Some(Version::ZERO.into()),
                        ..Default::default()
                    }),
                }
            }
            order::What::Synchronize(s) => {
                let version: Version = s.version.unwrap().into();
                let fenced = Replica {
                    version,
                    installed: false,
                    length: 77,
                    suspect: false,
                };
                self.replicas.insert(order.handle, fenced);
                order_done::Result::Synced(cs::Synced {
                    version: s.version,
                    ..Default::default()
                })
            }
            order::What::Cut(c) => {
                let version: Version = c.version.unwrap().into();
                let cut = Replica {
                    version,
                    installed: false,
                    length: c.length,
                    suspect: false,
                };
                self.replicas.insert(order.handle, cut);
                order_done::Result::Cut(cs::CutDone { version: c.version })
            }
            order::What::Install(i) => {
                let replica = self
                    .replicas
                    .get_mut(&order.handle)
                    .expect("an install without a fence");
                assert_eq!(Some(replica.version), i.version.map(Into::into));
                (replica.installed, replica.suspect) = (true, false);
                order_done::Result::Installed(cs::Installed { version: i.version })
            }
            order::What::Join(_) => order_done::Result::Joined(cs::Joined { length: 0 }),
            order::What::Verify(_) => order_done::Result::Verified(cs::Verified::default()),
            order::What::ScrubAll(_) => return,
            order::What::Delete(d) => {
                let query = cs::DeleteQuery {
                    handle: order.handle,
                    disk: order.disk.clone(),
                    version: d.version,
                };
                let queries = vec![query];
                self.say(from_chunkserver::Body::ConfirmDelete(cs::ConfirmDelete { queries }))
                    .await;
                return;
            }
        };
        let done = cs::OrderDone {
            id: order.id,
            registration: order.registration,
            handle: order.handle,
            disk: order.disk,
            result: Some(result),
        };
        self.say(from_chunkserver::Body::OrderDone(done)).await;
    }

    /// Lives for `time`: heartbeats, and does what it is told. False: the master has ended the registration.
    pub async fn live(&mut self, time: Duration) -> bool {
        let end = tokio::time::Instant::now() + time;
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        loop {
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(end) => return true,
                _ = tick.tick() => self.heartbeat().await,
                received = self.receive() => if received.is_none() { return false },
            }
        }
    }

    /// Lives in a task of its own until told to stop, and is given back.
    pub fn run(mut self) -> Running {
        let (stop, mut stopped) = mpsc::channel::<()>(1);
        let task = tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_millis(100));
            loop {
                tokio::select! {
                    biased;
                    _ = stopped.recv() => return self,
                    _ = tick.tick() => self.heartbeat().await,
                    received = self.receive() => if received.is_none() { return self },
                }
            }
        });
        Running { stop, task }
    }
}

pub struct Running {
    stop: mpsc::Sender<()>,
    task: tokio::task::JoinHandle<Server>,
}

impl Running {
    pub async fn stop(self) -> Server {
        drop(self.stop);
        self.task.await.unwrap()
    }
}

fn replica(handle: u64, disk: &[u8], r: &Replica) -> cs::Replica {
    let state = if r.installed {
        cs::ReplicaState::ReplicaInstalled
    } else {
        cs::ReplicaState::ReplicaFenced
    };
    cs::Replica {
        handle,
        disk: disk.to_vec().into(),
        version: Some(r.version.into()),
        state: state.into(),
        length: r.length,
        suspect: r.suspect,
        damaged: false,
    }
}

pub fn installed(chunk: &Location, length: u64) -> (u64, Replica) {
    let version = chunk.version.unwrap().into();
    (
        chunk.handle,
        Replica {
            version,
            installed: true,
            length,
            suspect: false,
        },
    )
}

pub fn handle(chunk: &Location) -> ChunkHandle {
    ChunkHandle(chunk.handle)
}
