//! Connections to other chunkservers' data planes, kept for the next use. A connection is with one user at a time;
//! whoever leaves a request without its answer must drop it.
use crate::limits::{
    CONNECT_WAIT_MAX, KEPT_CONNECTION_WAIT_MAX, POOL_IDLE_MAX, POOL_IDLE_TIME_MAX, POOL_PEER_IDLE_MAX,
};
use bytes::Bytes;
use cairn_io::{Boot, BoxStream, Env};
use cairn_proto::common::Member;
use cairn_proto::data::{Failed, Hello, frame_header::Body};
use cairn_proto::frame::{Frame, FrameError, read_frame, write_frame};
use cairn_proto::{Malformed, PROTOCOL};
use cairn_types::{ClusterId, ServerId};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{BufReader, ReadHalf, WriteHalf};
use tokio::time::timeout;

#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    #[error("the connection failed: {0}")]
    Frame(#[from] FrameError),
    #[error("it closed the connection")]
    Closed,
    #[error("no answer within {0:?}")]
    Silent(Duration),
    #[error("it refused: {}", .0.error.as_ref().map_or("without a reason", |e| &e.message))]
    Refused(Box<Failed>),
    #[error("another server answers at that address")]
    OtherServer,
    #[error("it gave an answer of the wrong kind")]
    WrongAnswer,
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl PeerError {
    /// Nobody listens there.
    pub fn nobody(&self) -> bool {
        matches!(self, Self::Connect(e) if e.kind() == io::ErrorKind::ConnectionRefused)
    }
}

pub struct Connection {
    pub reader: BufReader<ReadHalf<BoxStream>>,
    pub writer: WriteHalf<BoxStream>,
    key: (ServerId, String),
    /// It was used before: that it fails at once says nothing of the peer.
    pub used: bool,
}

#[derive(Default)]
struct Idle {
    by_peer: BTreeMap<(ServerId, String), Vec<(Connection, Boot)>>,
    count: usize,
}

pub struct Peers {
    env: Env,
    server: ServerId,
    idle: Mutex<Idle>,
}

impl Peers {
    pub fn new(env: Env, server: ServerId) -> Self {
        Self {
            env,
            server,
            idle: Mutex::default(),
        }
    }

    /// A connection to `member`'s server: one from before unless `fresh`.
    ///
    /// # Errors
    /// What kept it from being made within [`CONNECT_WAIT_MAX`].
    pub async fn get(&self, cluster: ClusterId, member: &Member, fresh: bool) -> Result<Connection, PeerError> {
        let server = member.server_id()?;
        let key = (server, member.address.clone());
        if fresh {
            self.forget(&key);
        } else if let Some(connection) = self.take(&key) {
            return Ok(connection);
        }
        match timeout(CONNECT_WAIT_MAX, self.connect(cluster, key)).await {
            Ok(connection) => connection,
            Err(_) => Err(PeerError::Silent(CONNECT_WAIT_MAX)),
        }
    }

    async fn connect(&self, cluster: ClusterId, key: (ServerId, String)) -> Result<Connection, PeerError> {
        let stream = self.env.net.connect(&key.1).await.map_err(PeerError::Connect)?;
        let (reader, mut writer) = tokio::io::split(stream);
        let mut reader = BufReader::with_capacity(4096, reader);
        let hello = Hello {
            protocol: PROTOCOL,
            cluster: Bytes::copy_from_slice(cluster.as_bytes()),
            peer: Bytes::copy_from_slice(self.server.as_bytes()),
        };
        write_frame(&mut writer, Body::Hello(hello), &[])
            .await
            .map_err(FrameError::Io)?;
        match read_frame(&mut reader).await?.ok_or(PeerError::Closed)?.body {
            Body::Welcome(w) if w.server == key.0.as_bytes()[..] => Ok(Connection {
                reader,
                writer,
                key,
                used: false,
            }),
            Body::Welcome(_) => Err(PeerError::OtherServer),
            Body::Failed(failed) => Err(PeerError::Refused(Box::new(failed))),
            _ => Err(PeerError::WrongAnswer),
        }
    }

    /// One request and its answer within `deadline`. A kept connection that turns out dead, or is silent for
    /// [`KEPT_CONNECTION_WAIT_MAX`], is tried again afresh: the requests that come here may be done twice.
    ///
    /// # Errors
    /// `Failed` answers come as [`PeerError::Refused`].
    pub async fn request(
        &self,
        cluster: ClusterId,
        member: &Member,
        body: Body,
        deadline: Duration,
    ) -> Result<Frame, PeerError> {
        let tries = async {
            let mut fresh = false;
            loop {
                let mut connection = self.get(cluster, member, fresh).await?;
                let patience = if connection.used {
                    KEPT_CONNECTION_WAIT_MAX
                } else {
                    deadline
                };
                let answer = timeout(patience, exchange(&mut connection, body.clone())).await;
                match answer.unwrap_or(Err(PeerError::Silent(patience))) {
                    Ok(frame) => {
                        self.put(connection);
                        return match frame.body {
                            Body::Failed(failed) => Err(PeerError::Refused(Box::new(failed))),
                            _ => Ok(frame),
                        };
                    }
                    Err(_) if connection.used => fresh = true,
                    Err(e) => return Err(e),
                }
            }
        };
        match timeout(deadline, tries).await {
            Ok(answer) => answer,
            Err(_) => Err(PeerError::Silent(deadline)),
        }
    }

    /// Keeps a connection on which nothing is under way.
    pub fn put(&self, mut connection: Connection) {
        connection.used = true;
        let mut idle = self.lock();
        if idle.count >= POOL_IDLE_MAX {
            return;
        }
        let of_peer = idle.by_peer.entry(connection.key.clone()).or_default();
        if of_peer.len() < POOL_PEER_IDLE_MAX {
            of_peer.push((connection, self.env.clock.now()));
            idle.count += 1;
        }
    }

    /// Closes what nobody used for a while.
    pub fn sweep(&self) {
        let now = self.env.clock.now();
        let mut idle = self.lock();
        idle.by_peer.retain(|_, connections| {
            connections.retain(|(_, since)| now.since(*since) < POOL_IDLE_TIME_MAX);
            !connections.is_empty()
        });
        idle.count = idle.by_peer.values().map(Vec::len).sum();
    }

    pub fn close(&self) {
        *self.lock() = Idle::default();
    }

    fn take(&self, key: &(ServerId, String)) -> Option<Connection> {
        let mut idle = self.lock();
        let (connection, since) = idle.by_peer.get_mut(key)?.pop()?;
        idle.count -= 1;
        (self.env.clock.now().since(since) < POOL_IDLE_TIME_MAX).then_some(connection)
    }

    /// One dead connection to a peer: the others that were kept are most likely as dead.
    fn forget(&self, key: &(ServerId, String)) {
        let mut idle = self.lock();
        if let Some(connections) = idle.by_peer.remove(key) {
            idle.count -= connections.len();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn exchange(connection: &mut Connection, body: Body) -> Result<Frame, PeerError> {
    write_frame(&mut connection.writer, body, &[])
        .await
        .map_err(FrameError::Io)?;
    read_frame(&mut connection.reader).await?.ok_or(PeerError::Closed)
}
