//! The master as a whole: how it starts and how it stops, top to bottom.
use crate::admin::AdminService;
use crate::chunkservers::ChunkserverService;
use crate::config::MasterConfig;
use crate::core::writer::Writer;
use crate::core::{Core, World};
use crate::data_dir::Loaded;
use crate::error::{Halt, StartError};
use crate::limits::COMMANDS_MAX;
use crate::log::Log;
use crate::session::SessionService;
use crate::{data_dir, housekeeping};
use bytes::Bytes;
use cairn_io::{Disk, Env};
use cairn_metadata::Command;
use cairn_proto::admin::admin_server::AdminServer;
use cairn_proto::chunkserver::chunkservers_server::ChunkserversServer;
use cairn_proto::session::sessions_server::SessionsServer;
use cairn_types::ClusterId;
use cairn_types::limits::CONTROL_MESSAGE_BYTES_MAX;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::transport::Server;

/// What streams and answers under way are given to end at shutdown.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
/// Idle connections are asked for a sign of life, so that one whose peer has gone is noticed.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// A running master. Dropped without [`Master::shutdown`] its tasks end where they are, without a checkpoint.
pub struct Master {
    core: Arc<Core>,
    address: SocketAddr,
    writer: Option<JoinHandle<()>>,
    server: Option<JoinHandle<()>>,
    /// The directory is this process's.
    _lock: Box<dyn Send + Sync>,
}

impl Master {
    /// Loads what `disk` holds (or founds a cluster in an empty directory), and serves.
    pub async fn start(config: MasterConfig, disk: Arc<dyn Disk>, env: Env) -> Result<Master, StartError> {
        config.check()?;
        let lock = disk.lock().map_err(|source| match source.kind() {
            std::io::ErrorKind::WouldBlock => StartError::InUse {
                directory: disk.display(),
            },
            _ => StartError::Io {
                path: disk.display(),
                source,
            },
        })?;
        let fresh = ClusterId::from_bits(env.rng.bits128());
        let mut loaded = data_dir::load(&disk, fresh, env.blocking, config.log_segment_bytes).await?;
        let index = begin_epoch(&config, &env, &mut loaded).await?;
        if loaded.fresh {
            let (disk, cluster) = (disk.clone(), loaded.cluster);
            env.blocking.run(move || data_dir::stamp(&*disk, cluster)).await?;
        }
        let cluster = loaded.cluster;
        let listener = env.net.bind(config.listen).await;
        let listener = listener.map_err(|source| StartError::Listen {
            address: config.listen,
            source,
        })?;
        let address = listener.local_addr();
        let address = address.map_err(|source| StartError::Listen {
            address: config.listen,
            source,
        })?;

        let (queue, jobs) = mpsc::channel(COMMANDS_MAX);
        let world = World::new(loaded.state, cluster, &config, loaded.checkpoint, env.clock.now().0);
        let core = Core::new(env, config, world, queue);
        let writer = Writer {
            core: core.clone(),
            log: Box::new(loaded.log),
            disk,
            queue: jobs,
            log_bytes: loaded.log_bytes,
            checkpoint: loaded.checkpoint,
        };
        let writer = tokio::spawn(writer.run());
        core.tasks.spawn(housekeeping::run(core.clone()));

        let (health_reporter, health) = tonic_health::server::health_reporter();
        health_reporter.set_serving::<SessionsServer<SessionService>>().await;
        health_reporter
            .set_service_status("", tonic_health::ServingStatus::Serving)
            .await;
        let limit = CONTROL_MESSAGE_BYTES_MAX;
        let router = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .tcp_nodelay(true)
            .layer(cairn_io::grpc::dated(core.env.clock.clone()))
            .add_service(health)
            .add_service(
                SessionsServer::new(SessionService { core: core.clone() })
                    .max_decoding_message_size(limit)
                    .max_encoding_message_size(2 * limit),
            )
            .add_service(
                ChunkserversServer::new(ChunkserverService { core: core.clone() })
                    .max_decoding_message_size(limit)
                    .max_encoding_message_size(2 * limit),
            )
            .add_service(
                AdminServer::new(AdminService { core: core.clone() })
                    .max_decoding_message_size(limit)
                    .max_encoding_message_size(4 * limit),
            );
        let serving = core.clone();
        let server = tokio::spawn(async move {
            let stop = serving.stop.clone();
            let incoming = cairn_io::grpc::incoming(listener);
            let serve = router.serve_with_incoming_shutdown(incoming, stop.cancelled_owned());
            if let Err(e) = serve.await {
                serving.halt(Halt::Serve(e.to_string()));
            }
            health_reporter
                .set_service_status("", tonic_health::ServingStatus::NotServing)
                .await;
        });
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "listening beyond this machine, and there is no authentication yet");
        }
        tracing::info!(%address, %cluster, "master serving; log index {index}");
        Ok(Master {
            core,
            address,
            writer: Some(writer),
            server: Some(server),
            _lock: lock,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn cluster(&self) -> ClusterId {
        self.core.cluster()
    }

    /// Resolves when the master cannot go on (its log failed, say): nothing is acknowledged any more, and the process
    /// should end with an error.
    pub async fn halted(&self) -> Halt {
        let mut halt = self.core.halted();
        match halt.wait_for(Option::is_some).await {
            Ok(halt) => halt.clone().unwrap_or_else(|| Halt::Serve("unknown".into())),
            Err(_) => Halt::Serve("the master has been dropped".into()),
        }
    }

    /// Stops serving, lets what is under way end, takes a checkpoint, and gives the directory back.
    pub async fn shutdown(mut self) -> Result<(), Halt> {
        self.core.stop.cancel();
        self.core.tasks.close();
        if tokio::time::timeout(SHUTDOWN_GRACE, self.core.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("some calls did not end in time and are cut off");
        }
        let joined = match self.writer.take() {
            Some(writer) => writer.await,
            None => Ok(()),
        };
        if let Some(mut server) = self.server.take()
            && tokio::time::timeout(SHUTDOWN_GRACE, &mut server).await.is_err()
        {
            server.abort();
        }
        if let Err(e) = joined {
            return Err(Halt::Log(format!("the writer ended early: {e}")));
        }
        let halt = self.core.halted().borrow().clone();
        match halt {
            Some(halt) => Err(halt),
            None => Ok(()),
        }
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        // first the writer, which would take a checkpoint if it were told to stop
        for task in [self.writer.take(), self.server.take()].into_iter().flatten() {
            task.abort();
        }
        self.core.stop.cancel();
    }
}

/// Logs and applies the epoch record that versions and registrations are drawn from (protocol R2). Gives its index.
pub(crate) async fn begin_epoch(config: &MasterConfig, env: &Env, loaded: &mut Loaded) -> Result<u64, StartError> {
    let epoch = Command::Epoch {
        cluster: loaded.cluster,
        at_ns: env.clock.wall(),
        default_goal: config.default_goal,
        lease_ms: config.lease_ms.into(),
        root_mode: 0o755,
        root_uid: 0,
        root_gid: 0,
    };
    let record = postcard::to_allocvec(&epoch).map_err(|e| StartError::Halted(e.to_string()))?;
    loaded.log_bytes += record.len() as u64;
    let index = loaded.log.append(vec![Bytes::from(record)]).await?;
    cairn_metadata::apply(&mut loaded.state, index, &epoch)
        .map_err(|source| StartError::CannotApply { index, source })?;
    Ok(index)
}
