//! Administration: unary calls.
use crate::chunkservers::{Purpose, Server};
use crate::core::{Core, World};
use crate::limits::CHECKPOINT_PIECE_BYTES;
use crate::{checkpoint, wire_id};
use cairn_metadata::ChunkInfo;
use cairn_metadata::repair::{Health, assess};
use cairn_proto::admin::admin_server::Admin;
use cairn_proto::admin::{
    CheckpointPiece, ChunkState, InspectChunksAnswer, InspectChunksRequest, LoadCheckpointAnswer, ReplicaState,
    SaveCheckpointRequest, ScrubNowAnswer, ScrubNowRequest, ScrubProgress, ServerDisk, StatusAnswer, StatusRequest,
    Task,
};
use cairn_proto::{admin as wire, chunkserver};
use cairn_types::{ChunkHandle, DiskId};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Chunks in one question, and repairs in the status.
const INSPECT_MAX: usize = 4_096;
const TASKS_MAX: usize = 256;
const WARNINGS_MAX: usize = 64;

pub struct AdminService {
    pub core: Arc<Core>,
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusAnswer>, Status> {
        Ok(Response::new(self.core.status(&self.core.world())))
    }

    async fn scrub_now(&self, _: Request<ScrubNowRequest>) -> Result<Response<ScrubNowAnswer>, Status> {
        let mut world = self.core.world();
        let up: Vec<_> = world
            .servers
            .iter()
            .filter_map(|(id, s)| Some((id, s.connection.as_ref()?.registration)))
            .collect();
        let mut servers = 0;
        for (server, registration) in up {
            let what = chunkserver::order::What::ScrubAll(chunkserver::ScrubAll {});
            if world
                .servers
                .order(server, registration, ChunkHandle(0), None, Purpose::Scrub, what)
            {
                servers += 1;
                // until its own report says otherwise, so that whoever asks next does not take it for done
                if let Some(known) = world.servers.get_mut(server) {
                    known.scrub.running = true;
                }
            }
        }
        Ok(Response::new(ScrubNowAnswer { servers }))
    }

    type SaveCheckpointStream = ReceiverStream<Result<CheckpointPiece, Status>>;

    async fn save_checkpoint(
        &self,
        _: Request<SaveCheckpointRequest>,
    ) -> Result<Response<Self::SaveCheckpointStream>, Status> {
        let core = self.core.clone();
        let state = core.world().state.clone();
        // the master's own as well: what an operator saves by hand is worth a short log
        core.checkpoint().await.map_err(Status::internal)?;
        let cluster = core.cluster();
        let bytes = core
            .env
            .blocking
            .run(move || checkpoint::to_bytes(cluster, &state))
            .await;
        let bytes = bytes::Bytes::from(bytes.map_err(|e| Status::internal(e.to_string()))?);
        let (out, pieces) = mpsc::channel(4);
        self.core.tasks.spawn(async move {
            for start in (0..bytes.len()).step_by(CHECKPOINT_PIECE_BYTES) {
                let data = bytes.slice(start..bytes.len().min(start + CHECKPOINT_PIECE_BYTES));
                if out.send(Ok(CheckpointPiece { data })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(pieces)))
    }

    async fn load_checkpoint(
        &self,
        request: Request<Streaming<CheckpointPiece>>,
    ) -> Result<Response<LoadCheckpointAnswer>, Status> {
        let mut stream = request.into_inner();
        let mut bytes = Vec::new();
        while let Some(piece) = stream.message().await? {
            bytes.extend_from_slice(&piece.data);
        }
        let loaded = self.core.env.blocking.run(move || checkpoint::from_bytes(&bytes)).await;
        let (cluster, state) = loaded.map_err(|e| Status::invalid_argument(e.to_string()))?;
        let counts = self
            .core
            .replace(cluster, state)
            .await
            .map_err(Status::failed_precondition)?;
        let files = counts.regular_files + counts.directories + counts.other_files;
        Ok(Response::new(LoadCheckpointAnswer {
            files,
            chunks: counts.chunks,
        }))
    }

    async fn inspect_chunks(
        &self,
        request: Request<InspectChunksRequest>,
    ) -> Result<Response<InspectChunksAnswer>, Status> {
        let handles = request.into_inner().handles;
        if handles.len() > INSPECT_MAX {
            return Err(Status::invalid_argument(format!(
                "at most {INSPECT_MAX} chunks in one question"
            )));
        }
        let world = self.core.world();
        let known = handles
            .iter()
            .filter_map(|handle| world.state.chunk(ChunkHandle(*handle)));
        let chunks = known.map(|chunk| self.core.inspect(&world, &chunk)).collect();
        Ok(Response::new(InspectChunksAnswer { chunks }))
    }
}

impl Core {
    fn status(&self, world: &World) -> StatusAnswer {
        let now = self.now();
        let counts = world.state.counts();
        let counted = world.repair.counted;
        let health = wire::Health {
            healthy: counted.healthy,
            under_goal: counted.under_goal,
            endangered: counted.endangered,
            lost: counted.lost,
            over_goal: counted.over_goal,
            reconfiguring: world.reconfigurations.len() as u64,
            corrupt_found: world.events.corrupt_found,
            corrupt_repaired: world.events.corrupt_repaired,
            garbage: world.garbage.len() as u64,
        };
        StatusAnswer {
            cluster: wire_id(world.cluster.as_bytes()),
            version: env!("CARGO_PKG_VERSION").into(),
            safe_mode: world.safe_mode,
            servers: world
                .servers
                .iter()
                .map(|(id, server)| self.server(world, id, server, now))
                .collect(),
            files: counts.regular_files + counts.other_files,
            directories: counts.directories,
            chunks: counts.chunks,
            health: Some(health),
            sessions: world.sessions.iter().filter(|(_, s)| s.connection.is_some()).count() as u64,
            trash_bytes: counts.trash_bytes,
            trash_files: counts.trash_files,
            log_index: world.state.applied(),
            checkpoint_index: world.checkpoint,
            default_goal: world.state.default_goal().into(),
            warnings: self.warnings(world, now),
            events: world.events.all(),
            repairs: self.tasks(world, now),
            uptime_ms: millis(now.saturating_sub(world.started)),
        }
    }

    fn server(&self, world: &World, id: cairn_types::ServerId, server: &Server, now: Duration) -> wire::Server {
        let disks = server.disks.iter().map(|(disk, d)| ServerDisk {
            disk: wire_id(disk.as_bytes()),
            path: d.path.clone(),
            state: disk_state(d.state).into(),
            total_bytes: d.total_bytes,
            available_bytes: d.available_bytes,
            chunks: d.replicas.len() as u64,
            errors: d.errors,
        });
        let scrub = ScrubProgress {
            verified_chunks: server.scrub.verified_chunks,
            bad_chunks: server.scrub.bad_chunks,
            verified_bytes: server.scrub.verified_bytes,
            running: server.scrub.running,
        };
        wire::Server {
            server: wire_id(id.as_bytes()),
            address: server.address.clone(),
            label: server.label.clone(),
            up: world.leases.is_up(id, now) && server.connection.is_some(),
            silent_ms: millis(
                world
                    .leases
                    .silent_for(id, now)
                    .unwrap_or(now.saturating_sub(world.started)),
            ),
            disks: disks.collect(),
            version: server.version.clone(),
            scrub: Some(scrub),
        }
    }

    fn warnings(&self, world: &World, now: Duration) -> Vec<String> {
        let mut warnings = Vec::new();
        if world.safe_mode {
            warnings.push("starting: not all chunkservers have reported; nothing is deleted or cloned yet".into());
        }
        for (id, server) in world.servers.iter() {
            if !world.leases.is_up(id, now) {
                let silent = world
                    .leases
                    .silent_for(id, now)
                    .unwrap_or(now.saturating_sub(world.started));
                warnings.push(format!(
                    "server {id} ({}) has been silent for {} s",
                    server.address,
                    silent.as_secs()
                ));
            }
            for (disk, d) in &server.disks {
                let state = disk_state(d.state);
                if server.reported && state != "ok" {
                    warnings.push(format!(
                        "disk {disk} ({}) of server {}: {state}",
                        d.path, server.address
                    ));
                }
            }
        }
        let up = world
            .servers
            .iter()
            .filter(|(id, _)| world.leases.is_up(*id, now))
            .count();
        if usize::from(world.state.default_goal()) > up {
            warnings.push(format!(
                "the default goal is {}, but only {up} servers are up",
                world.state.default_goal()
            ));
        }
        let mut by_cause = std::collections::BTreeMap::<&str, u64>::new();
        for cause in world.repair.shortages.values() {
            *by_cause.entry(cause).or_insert(0) += 1;
        }
        warnings.extend(by_cause.into_iter().map(|(cause, n)| format!("{n} chunks: {cause}")));
        let counted = world.repair.counted;
        if counted.lost > 0 {
            warnings.push(format!("{} chunks have no replica that can be read", counted.lost));
        }
        if counted.endangered > 0 {
            warnings.push(format!("{} chunks have one replica left", counted.endangered));
        }
        let failures = world.reconfigurations.failures.iter().take(WARNINGS_MAX);
        warnings.extend(failures.map(|(handle, why)| format!("chunk {handle}: {why}")));
        warnings.truncate(WARNINGS_MAX);
        warnings
    }

    fn tasks(&self, world: &World, now: Duration) -> Vec<Task> {
        let path = |handle: ChunkHandle| {
            let chunk = world.state.chunk(handle);
            let path = chunk
                .and_then(|c| world.state.path_of(c.inode).ok())
                .unwrap_or_default();
            String::from_utf8_lossy(&path).into_owned()
        };
        let task = |handle: ChunkHandle, what: String, since: Duration| Task {
            handle: handle.0,
            path: path(handle),
            what,
            running_ms: millis(now.saturating_sub(since)),
        };
        let fills = world
            .repair
            .filling()
            .map(|(handle, n, since)| task(handle, format!("copying to {n} servers"), since));
        let active = world.reconfigurations.active().map(|(handle, why, since)| {
            let waits: Vec<_> = world.reconfigurations.waiting_for(handle);
            let waits: Vec<_> = waits.iter().map(|m| world.servers.address(m.server)).collect();
            let waits = if waits.is_empty() {
                String::new()
            } else {
                format!(", waiting for {}", waits.join(", "))
            };
            task(handle, format!("reconfiguring: {why}{waits}"), since)
        });
        fills.chain(active).take(TASKS_MAX).collect()
    }

    fn inspect(&self, world: &World, chunk: &ChunkInfo) -> ChunkState {
        let view = self.view(world, chunk);
        let health = assess(&view, self.config.repair_delay(), self.now()).health;
        let replicas: Vec<_> = chunk
            .members
            .iter()
            .map(|disk| self.replica(world, chunk, *disk))
            .collect();
        let state = if world.reconfigurations.is_active(chunk.handle) {
            "reconfiguring"
        } else {
            match health {
                Health::Healthy | Health::OverGoal => "healthy",
                Health::UnderGoal => "under-goal",
                Health::Endangered => "endangered",
                Health::Lost => "lost",
            }
        };
        let unwell: Vec<_> = (replicas
            .iter()
            .filter(|r| !matches!(r.state.as_str(), "ok" | "unwritten")))
        .map(|r| format!("{} is {}", r.member.as_ref().map_or("", |m| &m.address), r.state))
        .collect();
        let mut causes = unwell;
        if replicas.len() < usize::from(chunk.goal) {
            causes.push(format!("wants {} replicas, has {}", chunk.goal, replicas.len()));
        }
        causes.extend(world.repair.shortages.get(&chunk.handle).cloned());
        causes.extend(world.reconfigurations.failures.get(&chunk.handle).cloned());
        let cause = if state == "healthy" {
            String::new()
        } else {
            causes.join("; ")
        };
        ChunkState {
            location: Some(world.location(chunk)),
            goal: chunk.goal.into(),
            replicas,
            state: state.into(),
            cause,
        }
    }

    fn replica(&self, world: &World, chunk: &ChunkInfo, disk: DiskId) -> ReplicaState {
        let server = world.servers.server_of(disk);
        let up = server.is_some_and(|s| world.leases.is_up(s, self.now()));
        let known = world.servers.replica(disk, chunk.handle);
        let state = match known {
            _ if !up => "down",
            None if chunk.granted && !chunk.committed => "unwritten",
            None => "missing",
            Some(r) if r.damaged => "damaged",
            Some(r) if r.version < chunk.version => "stale",
            Some(r) if r.suspect => "suspect",
            Some(_) => "ok",
        };
        ReplicaState {
            member: Some(world.member(disk)),
            up,
            state: state.into(),
            version: known.map(|r| r.version.into()),
            length: known.map_or(0, |r| r.length),
        }
    }
}

fn disk_state(state: chunkserver::DiskState) -> &'static str {
    match state {
        chunkserver::DiskState::DiskUnspecified => "absent",
        chunkserver::DiskState::DiskOk => "ok",
        chunkserver::DiskState::DiskReadOnly => "read-only",
        chunkserver::DiskState::DiskFailed => "failed",
        chunkserver::DiskState::DiskFull => "full",
    }
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}
