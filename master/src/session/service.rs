//! The gRPC side of sessions: one task a stream reads it in order.
use super::calls;
use super::table::Connection;
use crate::core::Core;
use crate::limits::{SESSION_OUT_MAX, SESSIONS_MAX};
use cairn_metadata::Command;
use cairn_proto::PROTOCOL;
use cairn_proto::session::sessions_server::Sessions as Service;
use cairn_proto::session::{FromClient, FromMaster, Hello, Pong, Welcome, from_client, from_master};
use cairn_types::layout::CHUNK_SIZE_BYTES;
use cairn_types::limits::SESSION_OPEN_MAX;
use cairn_types::{Inode, SessionId};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// How long a new stream may take to say Hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

pub struct SessionService {
    pub core: Arc<Core>,
}

#[tonic::async_trait]
impl Service for SessionService {
    type SessionStream = ReceiverStream<Result<FromMaster, Status>>;

    async fn session(&self, request: Request<Streaming<FromClient>>) -> Result<Response<Self::SessionStream>, Status> {
        let (out, outbound) = mpsc::channel(SESSION_OUT_MAX);
        let (core, stream) = (self.core.clone(), request.into_inner());
        self.core.tasks.spawn(async move {
            if let Err(status) = run(core, stream, out.clone()).await {
                // nobody listens any more, or is told why the stream ends
                let _ = out.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(outbound)))
    }
}

type Out = mpsc::Sender<Result<FromMaster, Status>>;

async fn run(core: Arc<Core>, mut stream: Streaming<FromClient>, out: Out) -> Result<(), Status> {
    let (hello, open) = tokio::time::timeout(HELLO_TIMEOUT, greeting(&mut stream))
        .await
        .map_err(|_| Status::deadline_exceeded("no Hello, or not all of it"))??;
    let (id, connection) = begin(&core, hello, &open, out).await?;
    let result = tokio::select! {
        biased;
        () = connection.over.cancelled() => Ok(()),
        () = core.stop.cancelled() => Err(Status::unavailable("the master is stopping")),
        result = read(&core, id, &connection, &mut stream) => result,
    };
    core.world().sessions.disconnect(id, connection.number);
    result
}

/// What every stream begins with, and the inodes that it declares to be open.
async fn greeting(stream: &mut Streaming<FromClient>) -> Result<(Hello, Vec<Inode>), Status> {
    let mut hello = match stream.message().await? {
        Some(FromClient {
            body: Some(from_client::Body::Hello(hello)),
        }) => hello,
        _ => return Err(Status::invalid_argument("a session's stream begins with Hello")),
    };
    let mut open: Vec<Inode> = std::mem::take(&mut hello.open_inodes).into_iter().map(Inode).collect();
    let mut more = hello.more;
    while more && open.len() <= SESSION_OPEN_MAX {
        let Some(FromClient {
            body: Some(from_client::Body::Declare(declare)),
        }) = stream.message().await?
        else {
            return Err(Status::invalid_argument("a Hello that has more is followed by Declare"));
        };
        open.extend(declare.open_inodes.into_iter().map(Inode));
        more = declare.more;
    }
    if open.len() > SESSION_OPEN_MAX {
        let text = format!("a session has at most {SESSION_OPEN_MAX} inodes open; this one declares more");
        return Err(Status::resource_exhausted(text));
    }
    Ok((hello, open))
}

/// Opens the session, or resumes it, and says Welcome.
async fn begin(core: &Arc<Core>, hello: Hello, open: &[Inode], out: Out) -> Result<(SessionId, Connection), Status> {
    if hello.protocol != PROTOCOL {
        let text = format!("this master speaks protocol {PROTOCOL}, the client {}", hello.protocol);
        return Err(Status::failed_precondition(text));
    }
    let id = SessionId::try_from(&hello.session[..]).map_err(|e| Status::invalid_argument(e.to_string()))?;
    if !hello.cluster.is_empty() && hello.cluster[..] != core.cluster().as_bytes()[..] {
        let theirs = cairn_types::ClusterId::try_from(&hello.cluster[..]);
        let theirs = theirs.map_err(|e| Status::invalid_argument(e.to_string()))?;
        let text = format!(
            "this master is of cluster {}, the client was in cluster {theirs}",
            core.cluster()
        );
        return Err(Status::failed_precondition(text));
    }
    let (resumed, full) = {
        let world = core.world();
        let ending = world.sessions.get(id).is_some_and(|s| s.ending);
        if ending {
            return Err(Status::unavailable("the session is ending"));
        }
        (world.state.has_session(id), world.sessions.len() >= SESSIONS_MAX)
    };
    if !resumed {
        if full {
            return Err(Status::resource_exhausted("too many sessions"));
        }
        let at_ns = core.env.clock.wall();
        let command = Command::OpenSession {
            session: id,
            at_ns,
            description: hello.description.clone(),
        };
        core.submit(command)
            .await
            .map_err(|e| Status::unavailable(e.to_string()))?;
    }
    let welcome = Welcome {
        cluster: crate::wire_id(core.cluster().as_bytes()),
        resumed,
        session_timeout_ms: core.config.session_timeout_ms,
        chunk_size_bytes: CHUNK_SIZE_BYTES,
        read_min_replicas: 1,
    };
    let welcome = FromMaster {
        body: Some(from_master::Body::Welcome(welcome)),
    };
    let connection = {
        let mut world = core.world();
        let now = core.now();
        if !world.state.has_session(id) {
            return Err(Status::unavailable("the session ended meanwhile"));
        }
        world.sessions.ensure(id, &hello.description, &hello.host, now);
        world.sessions.declare(id, open);
        world.written(now);
        for inode in open {
            world.closed_orphans.remove(inode);
        }
        // first of all on this stream: no push may come before it
        out.try_send(Ok(welcome))
            .map_err(|_| Status::cancelled("the client has gone"))?;
        let connection = world.sessions.connect(id, out, now);
        connection.ok_or_else(|| Status::unavailable("the session ended meanwhile"))?
    };
    tracing::debug!(session = %id, description = hello.description, resumed, "session connected");
    Ok((id, connection))
}

async fn read(
    core: &Arc<Core>,
    id: SessionId,
    connection: &Connection,
    stream: &mut Streaming<FromClient>,
) -> Result<(), Status> {
    loop {
        // room for the answer first: a client that does not read its answers is not read from
        let room = connection.out.reserve().await;
        let room = room.map_err(|_| Status::cancelled("the client has gone"))?;
        let Some(message) = stream.message().await? else {
            return Ok(());
        };
        if let Some(session) = core.world().sessions.get_mut(id) {
            session.heard = core.now();
        }
        match message.body {
            Some(from_client::Body::Call(call)) => {
                if let Some(closed) = &call.closed {
                    calls::closed(core, id, closed);
                }
                if let Some(answer) = calls::call(core, id, connection, call) {
                    room.send(Ok(answer));
                }
            }
            Some(from_client::Body::Closed(closed)) => calls::closed(core, id, &closed),
            Some(from_client::Body::PushesDone(number)) => {
                let mut world = core.world();
                world.sessions.pushes_done(id, number);
                world.sessions.flush();
            }
            Some(from_client::Body::Ping(_)) => {
                room.send(Ok(FromMaster {
                    body: Some(from_master::Body::Pong(Pong {})),
                }));
            }
            Some(from_client::Body::Hello(_) | from_client::Body::Declare(_)) => {
                return Err(Status::invalid_argument("a second Hello"));
            }
            // of a newer protocol: not for us
            None => {}
        }
    }
}
