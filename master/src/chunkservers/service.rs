//! The gRPC side of chunkservers: one stream is one registration.
use super::table::Connection;
use crate::core::{Core, World};
use crate::limits::SERVER_OUT_MAX;
use bytes::Bytes;
use cairn_metadata::Command;
use cairn_metadata::reconfigure::Event;
use cairn_proto::chunkserver::chunkservers_server::Chunkservers as Service;
use cairn_proto::chunkserver::{
    FromChunkserver, FromMaster, HeartbeatAnswer, Register, Registered, from_chunkserver, from_master,
};
use cairn_proto::{Malformed, PROTOCOL};
use cairn_types::{DiskId, Registration, ServerId};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

const REGISTER_TIMEOUT: Duration = Duration::from_secs(10);
/// Disks of one server.
const DISKS_MAX: usize = 256;

pub struct ChunkserverService {
    pub core: Arc<Core>,
}

#[tonic::async_trait]
impl Service for ChunkserverService {
    type RegisterStream = ReceiverStream<Result<FromMaster, Status>>;

    async fn register(
        &self,
        request: Request<Streaming<FromChunkserver>>,
    ) -> Result<Response<Self::RegisterStream>, Status> {
        let (out, outbound) = mpsc::channel(SERVER_OUT_MAX);
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

fn message(body: from_master::Body) -> Result<FromMaster, Status> {
    Ok(FromMaster { body: Some(body) })
}

fn malformed(e: Malformed) -> Status {
    Status::invalid_argument(e.to_string())
}

async fn run(core: Arc<Core>, mut stream: Streaming<FromChunkserver>, out: Out) -> Result<(), Status> {
    let first = tokio::time::timeout(REGISTER_TIMEOUT, stream.message()).await;
    let register = match first.map_err(|_| Status::deadline_exceeded("no Register"))?? {
        Some(FromChunkserver {
            body: Some(from_chunkserver::Body::Register(register)),
        }) => register,
        _ => return Err(Status::invalid_argument("a chunkserver's stream begins with Register")),
    };
    let server = ServerId::try_from(&register.server[..]).map_err(|e| Status::invalid_argument(e.to_string()))?;
    let connection = begin(&core, server, register, out).await?;
    let result = read(&core, server, &connection, &mut stream).await;
    let mut world = core.world();
    core.server_gone(&mut world, server, connection.registration);
    result
}

/// Registers the server and says so. Its disks and where it is are logged when they are new.
async fn begin(core: &Arc<Core>, server: ServerId, register: Register, out: Out) -> Result<Connection, Status> {
    if register.protocol != PROTOCOL {
        let text = format!(
            "this master speaks protocol {PROTOCOL}, the chunkserver {}",
            register.protocol
        );
        return Err(Status::failed_precondition(text));
    }
    if !register.cluster.is_empty() && register.cluster[..] != core.cluster().as_bytes()[..] {
        let theirs = cairn_types::ClusterId::try_from(&register.cluster[..]);
        let theirs = theirs.map_err(|e| Status::invalid_argument(e.to_string()))?;
        let text = format!(
            "this master is of cluster {}, server {server} has disks of cluster {theirs}: give it the address of its own \
             cluster's master, or empty disks",
            core.cluster()
        );
        return Err(Status::failed_precondition(text));
    }
    if register.disks.len() > DISKS_MAX {
        return Err(Status::invalid_argument(format!("at most {DISKS_MAX} disks")));
    }
    if register.address.is_empty() {
        return Err(Status::invalid_argument(
            "a chunkserver must say where clients reach it (advertise)",
        ));
    }
    let mut disks = Vec::new();
    let mut new_disks = Vec::new();
    for disk in &register.disks {
        if disk.disk.is_empty() {
            let id = DiskId::from_bits(core.env.rng.bits128());
            new_disks.push(crate::wire_id(id.as_bytes()));
            disks.push(id);
        } else {
            disks.push(DiskId::try_from(&disk.disk[..]).map_err(|e| Status::invalid_argument(e.to_string()))?);
        }
    }
    if !is_logged(&core.world(), server, &register, &disks) {
        let command = Command::RegisterServer {
            server,
            label: register.label.clone(),
            address: register.address.clone(),
            disks: disks.clone(),
        };
        core.submit(command)
            .await
            .map_err(|e| Status::unavailable(e.to_string()))?;
    }
    let mut world = core.world();
    let world = &mut *world;
    let now = core.now();
    let registration = world.draw_registration();
    let connection = Connection {
        registration,
        out,
        over: CancellationToken::new(),
    };
    core.registered(world, server, &register, &disks, connection.clone());
    let answer = Registered {
        registration: Some(registration.into()),
        cluster: crate::wire_id(world.cluster.as_bytes()),
        lease_ms: core.config.lease_ms,
        heartbeat_ms: core.config.heartbeat_ms,
        floor: Some(world.highest_version().into()),
        new_disks,
    };
    // counted as leased before it hears anything (R7)
    world.leases.register(server, registration, now);
    let sent = connection.out.try_send(message(from_master::Body::Registered(answer)));
    sent.map_err(|_| Status::cancelled("the chunkserver has gone"))?;
    core.event_for_all(world, Event::Registered { server, registration });
    tracing::info!(%server, address = register.address, disks = disks.len(), %registration, "chunkserver registered");
    Ok(connection)
}

fn is_logged(world: &World, server: ServerId, register: &Register, disks: &[DiskId]) -> bool {
    world
        .servers
        .get(server)
        .is_some_and(|s| s.address == register.address && s.label == register.label)
        && disks
            .iter()
            .all(|d| world.state.disk(*d).is_some_and(|d| d.server == server))
}

async fn read(
    core: &Arc<Core>,
    server: ServerId,
    connection: &Connection,
    stream: &mut Streaming<FromChunkserver>,
) -> Result<(), Status> {
    loop {
        // room for the answer first: a server that does not take its answers is not read from
        let room = tokio::select! {
            biased;
            () = connection.over.cancelled() => return Err(gap()),
            () = core.stop.cancelled() => return Err(Status::unavailable("the master is stopping")),
            room = connection.out.reserve() => room.map_err(|_| Status::cancelled("the chunkserver has gone"))?,
        };
        let message_in = tokio::select! {
            biased;
            () = connection.over.cancelled() => return Err(gap()),
            () = core.stop.cancelled() => return Err(Status::unavailable("the master is stopping")),
            message = stream.message() => message,
        };
        let Some(received) = message_in? else { return Ok(()) };
        let mut world = core.world();
        if world.servers.registration(server) != Some(connection.registration) {
            return Err(gap());
        }
        if let Some(answer) = handle(core, &mut world, server, connection.registration, received).map_err(malformed)? {
            // under the lock, so that no order overtakes a verdict that was given before it
            room.send(message(answer));
        }
    }
}

fn gap() -> Status {
    Status::aborted("this registration is over: register anew")
}

fn handle(
    core: &Core,
    world: &mut World,
    server: ServerId,
    registration: Registration,
    received: FromChunkserver,
) -> Result<Option<from_master::Body>, Malformed> {
    use from_chunkserver::Body;
    Ok(match received.body {
        Some(Body::Heartbeat(heartbeat)) => {
            let now = core.now();
            if world.leases.is_over(server, now) || !world.leases.heartbeat(server, registration, now) {
                // a lapse: whatever was concluded from its silence holds (R7)
                if let Some(c) = world.servers.get(server).and_then(|s| s.connection.as_ref()) {
                    c.over.cancel();
                }
                return Ok(None);
            }
            core.disks(world, server, &heartbeat.disks)?;
            core.deltas(world, server, &heartbeat)?;
            Some(from_master::Body::Heartbeat(HeartbeatAnswer {
                number: heartbeat.number,
            }))
        }
        Some(Body::Inventory(page)) => Some(from_master::Body::Verdicts(core.inventory(world, server, &page)?)),
        Some(Body::OrderDone(done)) => {
            core.order_done(world, server, registration, done)?;
            None
        }
        Some(Body::ConfirmDelete(ask)) => Some(from_master::Body::DeleteConfirmed(
            core.confirm_deletes(world, ask.queries),
        )),
        Some(Body::Trouble(trouble)) => {
            core.trouble(world, server, &trouble)?;
            None
        }
        // a second one is a defect; a body that is not known, of a newer protocol
        Some(Body::Register(_)) => return Err(Malformed::Range("a second register")),
        None => None,
    })
}

impl Core {
    /// The server's new registration takes the place of what was known of it.
    fn registered(
        &self,
        world: &mut World,
        server: ServerId,
        register: &Register,
        disks: &[DiskId],
        connection: Connection,
    ) {
        if let Some(old) = world.servers.registration(server) {
            self.server_gone(world, server, old);
        }
        for disk in disks {
            world.servers.own(server, *disk);
        }
        let known = world.servers.entry(server);
        known.address.clone_from(&register.address);
        known.label.clone_from(&register.label);
        known.version.clone_from(&register.version);
        known.connection = Some(connection);
        known.reported = false;
        known.lost_since = None;
        for disk in known.disks.values_mut() {
            disk.state = Default::default();
            disk.replicas.clear();
        }
        let listed = register.disks.iter().zip(disks).map(|(reported, id)| {
            let mut reported = reported.clone();
            reported.disk = Bytes::copy_from_slice(id.as_bytes());
            reported
        });
        let listed: Vec<_> = listed.collect();
        if self.disks(world, server, &listed).is_err() {
            tracing::warn!(%server, "a chunkserver's disks could not be read");
        }
    }

    /// The registration's stream is over.
    pub fn server_gone(&self, world: &mut World, server: ServerId, registration: Registration) {
        world.leases.disconnected(server, registration);
        if !world.servers.disconnected(server, registration, self.now()) {
            return;
        }
        let disks: Vec<_> = world
            .servers
            .get(server)
            .map_or_else(Vec::new, |s| s.disks.keys().copied().collect());
        world.garbage.disconnected(&disks);
        self.fills_failed(world, server);
        self.event_for_all(world, Event::Disconnected { server, registration });
        if !self.stop.is_cancelled() {
            tracing::warn!(%server, address = world.servers.address(server), "chunkserver disconnected");
            let text = format!("server {server} ({}) disconnected", world.servers.address(server));
            world.events.add(self.env.clock.wall(), text);
        }
        world.repair.scan_soon();
    }
}
