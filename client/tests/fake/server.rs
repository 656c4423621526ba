use super::error;
use cairn_proto::common::{ErrorCode, Version};
use cairn_proto::data::{Acknowledged, Failed, Read, ReadDone, Sync, Welcome, Write, frame_header::Body};
use cairn_proto::frame::{checksums, read_frame, write_frame};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

pub struct Server {
    pub id: u8,
    pub address: String,
    state: Mutex<State>,
    peers: OnceLock<Vec<std::sync::Weak<Server>>>,
    /// Connections end when told.
    pub kicked: Notify,
}

#[derive(Default)]
pub struct State {
    pub replicas: BTreeMap<u64, Replica>,
    /// Ends connections at once, as a dead process does.
    pub dead: bool,
    /// Answers nothing, as a stopped process does.
    pub stopped: bool,
    /// Does what it is asked, and says nothing.
    pub silent: bool,
    pub read_delay: Duration,
    /// Reads that wait for it.
    pub delayed: usize,
    /// Connections that reads came on, by the order in which they were taken.
    pub read_on: BTreeSet<usize>,
    /// Answers to reads come in ten parts, so long after each other.
    pub trickle: Option<Duration>,
    /// The next requests fail so, unseen.
    pub refuse: VecDeque<ErrorCode>,
    /// The next writes are applied, and the connection ends instead of the answer.
    pub swallow: usize,
    /// Writes as they came: (handle, sequence, offset, length, with a grant).
    pub writes: Vec<(u64, u64, u64, usize, bool)>,
    pub reads: Vec<(u64, u64, u32, bool)>,
    pub syncs: usize,
    /// What it sends as data is damaged on its way, that many times.
    pub damage: usize,
    pub in_flight: usize,
    /// Taken since it started.
    pub connections: usize,
}

#[derive(Default, Clone)]
pub struct Replica {
    pub version: Version,
    pub data: Vec<u8>,
    /// Of the head: last sequence of each session.
    pub remembered: BTreeMap<Vec<u8>, u64>,
    pub not_writable: bool,
    /// Bytes on disk do not agree with their checksums.
    pub rotten: bool,
}

impl Server {
    pub async fn start(id: u8) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = Arc::new(Self {
            id,
            address,
            state: Mutex::default(),
            peers: OnceLock::new(),
            kicked: Notify::new(),
        });
        let accepting = server.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let server = accepting.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = server.serve(stream) => {}
                        () = server.kicked.notified() => {}
                    }
                });
            }
        });
        server
    }

    pub fn know(&self, servers: &[Arc<Server>]) {
        let _ = self.peers.set(servers.iter().map(Arc::downgrade).collect());
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn kill(&self) {
        self.state().dead = true;
        self.kicked.notify_waiters();
    }

    async fn serve(&self, mut stream: TcpStream) {
        if self.state().dead {
            return;
        }
        let connection = {
            let mut state = self.state();
            state.connections += 1;
            state.connections
        };
        let Ok(Some(hello)) = read_frame(&mut stream).await else {
            return;
        };
        assert!(matches!(hello.body, Body::Hello(_)));
        let welcome = Welcome {
            protocol: 1,
            server: vec![self.id; 16].into(),
        };
        let _ = write_frame(&mut stream, Body::Welcome(welcome), &[]).await;
        while let Ok(Some(frame)) = read_frame(&mut stream).await {
            if self.state().stopped {
                std::future::pending::<()>().await;
            }
            let refused = self.state().refuse.pop_front();
            let (answer, payload) = match (refused, frame.body) {
                (Some(code), _) => (failed(code), Vec::new()),
                (None, Body::Write(write)) => match self.write(write, &frame.payload) {
                    Some(answer) => (answer, Vec::new()),
                    None => return,
                },
                (None, Body::Sync(sync)) => (self.sync(&sync), Vec::new()),
                (None, Body::Read(read)) => {
                    let delay = self.state().read_delay;
                    let trickle = self.state().trickle;
                    self.state().delayed += 1;
                    self.state().read_on.insert(connection);
                    tokio::time::sleep(delay).await;
                    self.state().delayed -= 1;
                    let (answer, payload) = self.read(&read);
                    if let Some(pause) = trickle {
                        let mut frame = vec![];
                        write_frame(&mut frame, answer, &payload).await.unwrap();
                        for piece in frame.chunks(frame.len().div_ceil(10)) {
                            tokio::time::sleep(pause).await;
                            if stream.write_all(piece).await.is_err() {
                                return;
                            }
                        }
                        continue;
                    }
                    (answer, payload)
                }
                (None, other) => panic!("a client sent {other:?}"),
            };
            if self.state().silent {
                continue;
            }
            if write_frame(&mut stream, answer, &payload).await.is_err() || stream.flush().await.is_err() {
                return;
            }
        }
    }

    fn members(&self, write: &Write) -> Vec<Arc<Server>> {
        let peers: Vec<_> = self.peers.get().unwrap().iter().filter_map(|p| p.upgrade()).collect();
        let handle = write.handle;
        match &write.grant {
            Some(grant) => grant
                .members
                .iter()
                .map(|m| peers[m.server[0] as usize - 1].clone())
                .collect(),
            None => peers
                .into_iter()
                .filter(|p| p.id == self.id || p.state().replicas.contains_key(&handle))
                .collect(),
        }
    }

    /// The head's part and all others': `None` for a connection that ends.
    fn write(&self, write: Write, payload: &[u8]) -> Option<Body> {
        assert_eq!(write.disk[..], [self.id; 16], "a write for another disk");
        assert!(checksums(write.offset, payload).eq(write.checksums.iter().copied()));
        let members = self.members(&write);
        let version = write.version.unwrap();
        {
            let mut state = self.state();
            let granted = write.grant.is_some();
            state
                .writes
                .push((write.handle, write.sequence, write.offset, payload.len(), granted));
            if !state.replicas.contains_key(&write.handle) && !granted {
                return Some(failed(ErrorCode::ErrorNoReplica));
            }
            let replica = state.replicas.entry(write.handle).or_insert_with(|| Replica {
                version,
                ..Replica::default()
            });
            if replica.version != version {
                return Some(failed(ErrorCode::ErrorStaleVersion));
            }
            if replica.not_writable {
                return Some(failed(ErrorCode::ErrorNotWritable));
            }
            let last = replica.remembered.get(&write.session[..]).copied().unwrap_or_default();
            if write.sequence > last + 1 {
                let error = Some(error(ErrorCode::ErrorOutOfOrder));
                return Some(Body::Failed(Failed {
                    error,
                    last_sequence: last,
                    ..Failed::default()
                }));
            }
            if write.sequence <= last {
                return Some(Body::Acknowledged(Acknowledged { serial: 1 }));
            }
        }
        for member in &members {
            let mut state = member.state();
            let replica = state.replicas.entry(write.handle).or_insert_with(|| Replica {
                version,
                ..Replica::default()
            });
            let end = write.offset as usize + payload.len();
            if replica.data.len() < end {
                replica.data.resize(end, 0);
            }
            replica.data[write.offset as usize..end].copy_from_slice(payload);
            replica.remembered.insert(write.session.to_vec(), write.sequence);
            if state.dead || state.stopped {
                drop(state);
                let culprit = cairn_proto::common::Member {
                    server: vec![member.id; 16].into(),
                    disk: vec![member.id; 16].into(),
                    address: member.address.clone(),
                };
                let error = Some(error(ErrorCode::ErrorChainBroken));
                return Some(Body::Failed(Failed {
                    error,
                    culprit: Some(culprit),
                    ..Failed::default()
                }));
            }
        }
        let mut state = self.state();
        if state.swallow > 0 {
            state.swallow -= 1;
            return None;
        }
        Some(Body::Acknowledged(Acknowledged { serial: 1 }))
    }

    fn sync(&self, sync: &Sync) -> Body {
        let mut state = self.state();
        state.syncs += 1;
        match state.replicas.get(&sync.handle) {
            Some(replica) if Some(replica.version) == sync.version => Body::Acknowledged(Acknowledged { serial: 1 }),
            Some(_) => failed(ErrorCode::ErrorStaleVersion),
            None => failed(ErrorCode::ErrorNoReplica),
        }
    }

    fn read(&self, read: &Read) -> (Body, Vec<u8>) {
        let mut state = self.state();
        state.reads.push((read.handle, read.offset, read.length, read.verify));
        let Some(replica) = state.replicas.get(&read.handle) else {
            return (failed(ErrorCode::ErrorNoReplica), Vec::new());
        };
        if Some(replica.version) != read.version {
            return (failed(ErrorCode::ErrorStaleVersion), Vec::new());
        }
        if replica.rotten && read.verify {
            let error = Some(error(ErrorCode::ErrorCorrupt));
            return (
                Body::Failed(Failed {
                    error,
                    bad_blocks: vec![0],
                    ..Failed::default()
                }),
                Vec::new(),
            );
        }
        let len = replica.data.len();
        let from = (read.offset as usize).min(len);
        let mut data = replica.data[from..(from + read.length as usize).min(len)].to_vec();
        let done = ReadDone {
            checksums: checksums(read.offset, &data).collect(),
            chunk_length: len as u64,
        };
        let rotten = replica.rotten;
        if (rotten || state.damage > 0) && !data.is_empty() {
            state.damage = state.damage.saturating_sub(1);
            data[0] ^= 1;
        }
        (Body::ReadDone(done), data)
    }
}

fn failed(code: ErrorCode) -> Body {
    Body::Failed(Failed {
        error: Some(error(code)),
        ..Failed::default()
    })
}
