use super::{CLUSTER, Server, error};
use cairn_proto::common::{self, ErrorCode, Location, Member, Version};
use cairn_proto::session::sessions_server::{Sessions, SessionsServer};
use cairn_proto::session::{
    Answer, Attr, Call, Created, Done, FileKind, FromClient, FromMaster, Hello, Invalidation, Locations, Pong, Push,
    Welcome, answer, call::Request, from_client, from_master,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Response, Status, Streaming};

pub struct Master {
    pub address: String,
    servers: Vec<Arc<Server>>,
    state: Mutex<MasterState>,
    /// Streams end when told.
    pub kicked: Notify,
}

#[derive(Default)]
pub struct MasterState {
    pub files: BTreeMap<u64, FileState>,
    pub names: BTreeMap<Vec<u8>, u64>,
    pub next: u64,
    pub counter: u64,
    pub sessions: BTreeMap<Vec<u8>, SessionState>,
    /// Every call as it came: (sequence, name).
    pub calls: Vec<(u64, &'static str)>,
    pub applied: Vec<&'static str>,
    pub hellos: Vec<Hello>,
    /// What the closes said: the inode, and whether it is kept.
    pub closes: Vec<(u64, bool)>,
    /// The stream ends instead of the next answers to logged calls.
    pub swallow: usize,
    /// Takes calls and answers none.
    pub mute: bool,
    /// Refuses every stream.
    pub down: bool,
    /// The next calls of that name are refused so.
    pub refuse: Vec<(&'static str, ErrorCode)>,
    pub complaints: Vec<cairn_proto::session::Complain>,
    pub pushes_done: u64,
    pub to_client: Option<mpsc::Sender<Result<FromMaster, Status>>>,
    /// The next reconfiguration is from a suspect source.
    pub suspect: bool,
    pub session_timeout_ms: u32,
}

#[derive(Default)]
pub struct SessionState {
    /// Of logged calls, by sequence.
    pub results: BTreeMap<u64, answer::Result>,
    pub acknowledged: u64,
}

#[derive(Clone)]
pub struct FileState {
    pub attr: Attr,
    pub chunks: BTreeMap<u32, Location>,
}

impl Master {
    pub async fn start(servers: Vec<Arc<Server>>) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = MasterState {
            next: 2,
            session_timeout_ms: 30_000,
            ..MasterState::default()
        };
        let master = Arc::new(Self {
            address,
            servers,
            state: Mutex::new(state),
            kicked: Notify::new(),
        });
        let service = SessionsServer::new(Service(master.clone()));
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        master
    }

    pub fn state(&self) -> MutexGuard<'_, MasterState> {
        self.state.lock().unwrap()
    }

    /// Ends all streams, as a restart does.
    pub fn kick(&self) {
        self.kicked.notify_waiters();
    }

    pub fn count(&self, name: &str) -> usize {
        self.state().applied.iter().filter(|n| **n == name).count()
    }

    pub async fn push(&self, number: u64, invalidations: Vec<Invalidation>) {
        let sender = self.state().to_client.clone().unwrap();
        let push = Push {
            number,
            invalidations,
            everything: false,
        };
        sender.send(Ok(message(from_master::Body::Push(push)))).await.unwrap();
    }

    fn draw(state: &mut MasterState) -> Version {
        state.counter += 1;
        Version {
            epoch: 1,
            counter: state.counter,
        }
    }

    fn allocate(&self, state: &mut MasterState, ino: u64, index: u32) {
        if state.files[&ino].chunks.contains_key(&index) {
            return;
        }
        let version = Self::draw(state);
        let handle = 1000 + state.next;
        state.next += 1;
        let up = self.servers.iter().filter(|s| !s.state().dead);
        let members = up.take(3).map(|s| member(s)).collect();
        let location = Location {
            handle,
            version: Some(version),
            members,
            inode: ino,
            index,
            from_suspect: None,
            granted: true,
            epoch: 1,
        };
        state.files.get_mut(&ino).unwrap().chunks.insert(index, location);
    }

    /// All live members get what the longest of them has, at a new version; the dead are replaced.
    pub fn reconfigure(&self, state: &mut MasterState, handle: u64) {
        let version = Self::draw(state);
        let suspect = std::mem::take(&mut state.suspect);
        let location = state
            .files
            .values_mut()
            .flat_map(|f| f.chunks.values_mut())
            .find(|l| l.handle == handle);
        let Some(location) = location else { return };
        let live = |s: &Arc<Server>| !s.state().dead && !s.state().stopped;
        let held = |m: &Member| self.servers[m.server[0] as usize - 1].clone();
        let mut sources: Vec<Arc<Server>> = location.members.iter().map(held).filter(live).collect();
        let best = sources
            .iter()
            .filter_map(|s| s.state().replicas.get(&handle).cloned())
            .max_by_key(|r| (r.remembered.values().copied().max(), r.data.len()));
        let mut replica = best.unwrap_or_default();
        replica.version = version;
        replica.not_writable = false;
        for server in &self.servers {
            if sources.len() < 3 && live(server) && !sources.iter().any(|s| s.id == server.id) {
                sources.push(server.clone());
            }
        }
        for server in &self.servers {
            server.state().replicas.remove(&handle);
        }
        for server in &sources {
            server.state().replicas.insert(handle, replica.clone());
        }
        location.version = Some(version);
        location.granted = false;
        location.members = sources.iter().map(|s| member(s)).collect();
        if suspect {
            location.from_suspect = Some(version);
        }
    }

    fn locations(state: &MasterState, ino: u64, first: u32, count: u32) -> answer::Result {
        let Some(file) = state.files.get(&ino) else {
            return posix(2);
        };
        let chunks = file
            .chunks
            .range(first..first.saturating_add(count))
            .map(|(_, l)| l.clone())
            .collect();
        answer::Result::Locations(Locations {
            chunks,
            attr: Some(file.attr),
        })
    }

    fn apply(&self, state: &mut MasterState, request: Request) -> answer::Result {
        match request {
            Request::Create(create) => {
                let known = state.names.get(&create.name[..]).copied();
                let ino = known.unwrap_or(state.next);
                if known.is_none() {
                    state.next += 1;
                    state.names.insert(create.name.to_vec(), ino);
                    let attr = Attr {
                        inode: ino,
                        kind: FileKind::KindRegular.into(),
                        nlink: 1,
                        generation: 1,
                        ..Attr::default()
                    };
                    state.files.insert(
                        ino,
                        FileState {
                            attr,
                            chunks: BTreeMap::new(),
                        },
                    );
                    self.allocate(state, ino, 0);
                }
                let file = &state.files[&ino];
                let chunk = file.chunks.get(&0).filter(|_| known.is_none()).cloned();
                answer::Result::Created(Created {
                    attr: Some(file.attr),
                    existed: known.is_some(),
                    chunk,
                })
            }
            Request::Lookup(lookup) => match state.names.get(&lookup.name[..]) {
                Some(ino) => answer::Result::Attr(state.files[ino].attr),
                None => posix(2),
            },
            Request::GetAttr(g) => answer::Result::Attr(state.files[&g.inode].attr),
            Request::Open(open) => answer::Result::Opened(cairn_proto::session::Opened {
                attr: Some(state.files[&open.inode].attr),
                ..Default::default()
            }),
            Request::PathOf(p) => match state.names.iter().find(|(_, ino)| **ino == p.inode) {
                Some((name, _)) => answer::Result::Bytes([b"/".as_slice(), name].concat().into()),
                None => posix(2),
            },
            Request::Locate(l) => Self::locations(state, l.inode, l.first, l.count),
            Request::Allocate(a) => {
                for index in a.first..a.first + a.count {
                    self.allocate(state, a.inode, index);
                }
                Self::locations(state, a.inode, a.first, a.count)
            }
            Request::Commit(commit) => {
                let file = state.files.get_mut(&commit.inode).unwrap();
                for chunk in &commit.chunks {
                    let known = file.chunks.get(&chunk.index).filter(|l| l.handle == chunk.handle);
                    if known.is_none_or(|l| l.version != chunk.version) {
                        return answer::Result::Error(error(ErrorCode::ErrorStaleVersion));
                    }
                }
                for chunk in &commit.chunks {
                    file.chunks.entry(chunk.index).and_modify(|known| known.granted = false);
                }
                file.attr.size = file.attr.size.max(commit.size);
                file.attr.generation += 1;
                answer::Result::Attr(file.attr)
            }
            Request::SetAttr(set) => {
                let file = state.files.get_mut(&set.inode).unwrap();
                if let Some(size) = set.size {
                    let keep = cairn_types::layout::chunk_count(size);
                    let gone = file.chunks.split_off(&keep);
                    for server in &self.servers {
                        for location in gone.values() {
                            server.state().replicas.remove(&location.handle);
                        }
                        if let Some(last) = file.chunks.get(&(keep.saturating_sub(1)))
                            && size < file.attr.size
                            && let Some(replica) = server.state().replicas.get_mut(&last.handle)
                        {
                            let within = size - u64::from(keep - 1) * cairn_types::layout::CHUNK_SIZE_BYTES;
                            replica.data.truncate(within as usize);
                        }
                    }
                    file.attr.size = size;
                }
                if let Some(mtime) = set.mtime_ns {
                    file.attr.mtime_ns = mtime;
                }
                file.attr.generation += 1;
                answer::Result::Attr(file.attr)
            }
            Request::Complain(complaint) => {
                state.complaints.push(complaint.clone());
                let handle = complaint.handle;
                let found = state
                    .files
                    .values()
                    .flat_map(|f| f.chunks.values())
                    .find(|l| l.handle == handle)
                    .cloned();
                let Some(found) = found else {
                    return answer::Result::Locations(Locations::default());
                };
                if complaint.for_write && found.version == complaint.version {
                    self.reconfigure(state, handle);
                }
                Self::locations(state, found.inode, found.index, 1)
            }
            Request::Unlink(unlink) => {
                let ino = state.names.remove(&unlink.name[..]).unwrap();
                state.files.get_mut(&ino).unwrap().attr.nlink = 0;
                answer::Result::Done(Done {})
            }
            Request::Goodbye(_) => answer::Result::Done(Done {}),
            other => panic!("the fake master does not know {other:?}"),
        }
    }
}

fn member(server: &Server) -> Member {
    let id = vec![server.id; 16];
    Member {
        server: id.clone().into(),
        disk: id.into(),
        address: server.address.clone(),
    }
}

fn posix(errno: i32) -> answer::Result {
    answer::Result::Error(common::Error::posix(errno, "no such file"))
}

fn message(body: from_master::Body) -> FromMaster {
    FromMaster { body: Some(body) }
}

fn name(request: &Request) -> (&'static str, bool) {
    match request {
        Request::Create(_) => ("create", true),
        Request::Commit(_) => ("commit", true),
        Request::Allocate(_) => ("allocate", true),
        Request::SetAttr(_) => ("setattr", true),
        Request::Unlink(_) => ("unlink", true),
        Request::Goodbye(_) => ("goodbye", true),
        Request::Lookup(_) => ("lookup", false),
        Request::GetAttr(_) => ("getattr", false),
        Request::Open(_) => ("open", false),
        Request::Locate(_) => ("locate", false),
        Request::Complain(_) => ("complain", false),
        Request::PathOf(_) => ("path_of", false),
        _ => ("other", false),
    }
}

struct Service(Arc<Master>);

#[tonic::async_trait]
impl Sessions for Service {
    type SessionStream = ReceiverStream<Result<FromMaster, Status>>;

    async fn session(
        &self,
        request: tonic::Request<Streaming<FromClient>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let master = self.0.clone();
        if master.state().down {
            return Err(Status::unavailable("down"));
        }
        let (sender, receiver) = mpsc::channel(64);
        tokio::spawn(async move {
            tokio::select! {
                () = converse(&master, request.into_inner(), sender) => {}
                () = master.kicked.notified() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

async fn converse(
    master: &Master,
    mut incoming: Streaming<FromClient>,
    sender: mpsc::Sender<Result<FromMaster, Status>>,
) {
    let mut session = Vec::new();
    while let Some(Ok(FromClient { body: Some(body) })) = incoming.next().await {
        let answer = match body {
            from_client::Body::Hello(hello) => {
                session = hello.session.to_vec();
                let mut hello = hello;
                while hello.more {
                    match incoming.next().await {
                        Some(Ok(FromClient {
                            body: Some(from_client::Body::Declare(declare)),
                        })) => {
                            hello.open_inodes.extend(declare.open_inodes);
                            hello.more = declare.more;
                        }
                        other => panic!("not the rest of a Hello: {other:?}"),
                    }
                }
                let mut state = master.state();
                state.to_client = Some(sender.clone());
                state.hellos.push(hello);
                let resumed = state.sessions.insert(session.clone(), SessionState::default());
                let (resumed, before) = (resumed.is_some(), resumed.unwrap_or_default());
                state.sessions.insert(session.clone(), before);
                from_master::Body::Welcome(Welcome {
                    cluster: CLUSTER.to_vec().into(),
                    resumed,
                    session_timeout_ms: state.session_timeout_ms,
                    chunk_size_bytes: cairn_types::layout::CHUNK_SIZE_BYTES,
                    read_min_replicas: 1,
                })
            }
            from_client::Body::Closed(closed) => {
                master.closed(closed);
                continue;
            }
            from_client::Body::Declare(_) => panic!("a Declare without a Hello that has more"),
            from_client::Body::Ping(_) => from_master::Body::Pong(Pong {}),
            from_client::Body::PushesDone(done) => {
                master.state().pushes_done = done;
                continue;
            }
            from_client::Body::Call(call) => match master.call(&session, call) {
                Some(Ok(answer)) => from_master::Body::Answer(answer),
                Some(Err(())) => return,
                None => continue,
            },
        };
        if sender.send(Ok(message(answer))).await.is_err() {
            return;
        }
    }
}

impl Master {
    fn closed(&self, closed: cairn_proto::session::Closed) {
        let closes = closed.inodes.into_iter().map(|ino| (ino, false));
        let kept = closed.kept.into_iter().map(|ino| (ino, true));
        self.state().closes.extend(closes.chain(kept));
    }

    /// `None`: no answer; an error: the stream ends instead of it.
    fn call(&self, session: &[u8], call: Call) -> Option<Result<Answer, ()>> {
        if let Some(closed) = call.closed {
            self.closed(closed);
        }
        let request = call.request.unwrap();
        let (name, logged) = name(&request);
        let mut state = self.state();
        state.calls.push((call.sequence, name));
        let known = state.sessions.get_mut(session).unwrap();
        assert!(call.acknowledged >= known.acknowledged, "acknowledgements go back");
        assert!(call.sequence > call.acknowledged, "a call that is acknowledged");
        known.acknowledged = call.acknowledged;
        known.results = known.results.split_off(&(call.acknowledged + 1));
        let repeated = known.results.get(&call.sequence).cloned();
        if state.mute {
            return None;
        }
        let sequence = call.sequence;
        let answer = |result| {
            Some(Ok(Answer {
                sequence,
                result: Some(result),
                ..Default::default()
            }))
        };
        if let Some(at) = state.refuse.iter().position(|(n, _)| *n == name) {
            let (_, code) = state.refuse.remove(at);
            return answer(answer::Result::Error(error(code)));
        }
        if let Some(result) = repeated {
            return answer(result);
        }
        state.applied.push(name);
        let unlinked = match &request {
            Request::Unlink(unlink) => state.names.get(&unlink.name[..]).copied(),
            _ => None,
        };
        let result = self.apply(&mut state, request);
        if logged {
            state
                .sessions
                .get_mut(session)
                .unwrap()
                .results
                .insert(sequence, result.clone());
            if state.swallow > 0 {
                state.swallow -= 1;
                return Some(Err(()));
            }
        }
        let changed = unlinked.map(|ino| state.files[&ino].attr).into_iter().collect();
        Some(Ok(Answer {
            sequence,
            result: Some(result),
            changed,
            ..Default::default()
        }))
    }
}

/// Each number is used for one call only.
pub fn numbers_are_unique(calls: &[(u64, &'static str)]) -> bool {
    let mut names: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
    for (number, name) in calls {
        names.entry(*number).or_default().insert(name);
    }
    names.values().all(|names| names.len() == 1)
}
