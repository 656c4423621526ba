//! A chunkserver, from start to shutdown, in one place.
use crate::config::ChunkserverConfig;
use crate::control::Control;
use crate::dataplane;
use crate::disks::{Disks, Opened};
use crate::limits::{BACKGROUND_TICK, CLEAN_MARK_IDLE};
use crate::shared::Core;
use crate::store::OpenError;
use cairn_io::{Disk, Env};
use cairn_types::ServerId;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic_health::ServingStatus;

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("chunkserver configuration: {0}")]
    Config(String),
    #[error("a chunkserver needs at least one disk")]
    NoDisk,
    #[error(transparent)]
    Disk(#[from] OpenError),
    #[error("cannot listen on {address} ({setting}): {source}")]
    Listen {
        address: SocketAddr,
        setting: &'static str,
        #[source]
        source: io::Error,
    },
}

/// A running chunkserver. Dropped without [`Chunkserver::shutdown`] it is as if its process had been killed.
pub struct Chunkserver {
    core: Arc<Core>,
    address: String,
    bound: SocketAddr,
    health_address: Option<SocketAddr>,
    serving: watch::Receiver<bool>,
    /// Accepts connections.
    listener: Task,
    control: Task,
    background: Vec<Task>,
    /// Ends what has no end of its own.
    ended: CancellationToken,
    /// Ends everything when this is dropped.
    killed: DropGuard,
}

/// A task that does not outlive its owner.
struct Task(JoinHandle<()>);

impl Task {
    fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(work))
    }
    async fn end(mut self) {
        if let Err(e) = (&mut self.0).await
            && e.is_panic()
        {
            tracing::error!("a task of the chunkserver panicked: {e}");
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Chunkserver {
    /// Opens the disks (each with its real path, where its index may lie, if it has one), listens, and starts to
    /// register at the master; returns once it listens.
    ///
    /// # Errors
    /// What has to be put right before it can start.
    pub async fn start(
        config: ChunkserverConfig,
        disks: Vec<(Arc<dyn Disk>, Option<PathBuf>)>,
        env: Env,
    ) -> Result<Self, StartError> {
        config.check().map_err(StartError::Config)?;
        if disks.is_empty() {
            return Err(StartError::NoDisk);
        }
        let Opened {
            disks,
            store,
            server,
            cluster,
        } = Disks::open(disks, config.reserve_permille, config.open_files_max, &env).await?;

        let listen = |setting, address| {
            let net = env.net.clone();
            async move {
                let listener = net.bind(address).await;
                let bound = listener.and_then(|l| l.local_addr().map(|bound| (l, bound)));
                bound.map_err(|source| StartError::Listen {
                    address,
                    setting,
                    source,
                })
            }
        };
        let (listener, bound) = listen("listen", config.listen).await?;
        let health = match config.health_listen {
            Some(address) => Some(listen("health-listen", address).await?),
            None => None,
        };
        let address = config.advertise.clone().unwrap_or_else(|| bound.to_string());
        tracing::info!(%server, %address, "chunkserver listening on {bound}");
        if !bound.ip().is_loopback() {
            tracing::warn!("{bound} can be reached from other machines, and there is no authentication yet");
        }

        let core = Arc::new(Core::new(config, env, server, store, cluster));
        let ended = CancellationToken::new();
        let (serving_sender, serving) = watch::channel(false);
        let control = Control::new(core.clone(), disks, address.clone(), serving_sender);

        let mut background = vec![];
        let until_end = |work: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
            let ended = ended.clone();
            Task::spawn(async move {
                tokio::select! {
                    biased;
                    () = ended.cancelled() => {}
                    () = work => {}
                }
            })
        };
        let health_address = health.as_ref().map(|(_, bound)| *bound);
        if let Some((listener, _)) = health {
            background.push(until_end(Box::pin(serve_health(listener, serving.clone()))));
        }
        let scrubbed = core.clone();
        background.push(until_end(Box::pin(async move { scrubbed.scrub.run(&scrubbed).await })));
        background.push(until_end(Box::pin(housekeeping(core.clone()))));
        Ok(Self {
            listener: Task::spawn(dataplane::run(core.clone(), listener)),
            control: Task::spawn(control.run()),
            background,
            killed: core.killed.clone().drop_guard(),
            core,
            address,
            bound,
            health_address,
            serving,
            ended,
        })
    }

    /// Where clients and other servers reach its data plane.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where the data plane listens.
    pub fn bound(&self) -> SocketAddr {
        self.bound
    }

    /// Where the health service listens.
    pub fn health_address(&self) -> Option<SocketAddr> {
        self.health_address
    }

    pub fn id(&self) -> ServerId {
        self.core.server
    }

    pub fn is_registered(&self) -> bool {
        *self.serving.borrow()
    }

    /// Returns once it is registered at the master.
    pub async fn registered(&self) {
        // the sender lives as long as this
        let _ = self.serving.clone().wait_for(|serving| *serving).await;
    }

    /// The orderly end: no new requests, then what is in flight (within the deadline), then the disks are synced and
    /// marked so that the next start is a fast one.
    pub async fn shutdown(self) {
        let Self {
            core,
            listener,
            control,
            background,
            ended,
            killed,
            ..
        } = self;
        core.stopping.cancel();
        listener.end().await;
        core.tasks.close();
        if timeout(core.config.shutdown_deadline, core.tasks.wait()).await.is_err() {
            tracing::warn!("stopping with {} tasks unfinished", core.tasks.len());
        }
        control.end().await;
        ended.cancel();
        for task in background {
            task.end().await;
        }
        drop(killed);
        core.peers.close();
        let store = core.store.clone();
        core.env.blocking.run(move || store.close()).await;
        tracing::info!("chunkserver stopped");
    }
}

/// Clean marks, so that a power loss leaves few suspects, and pools without dead wood.
async fn housekeeping(core: Arc<Core>) {
    loop {
        sleep(BACKGROUND_TICK).await;
        let store = core.store.clone();
        core.env
            .blocking
            .run(move || store.write_clean_marks(CLEAN_MARK_IDLE))
            .await;
        core.peers.sweep();
    }
}

/// The standard gRPC health service: SERVING while registered.
async fn serve_health(listener: Box<dyn cairn_io::Listener>, mut serving: watch::Receiver<bool>) {
    let (reporter, service) = tonic_health::server::health_reporter();
    let report = async {
        loop {
            let status = if *serving.borrow_and_update() {
                ServingStatus::Serving
            } else {
                ServingStatus::NotServing
            };
            reporter.set_service_status("", status).await;
            if serving.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let server = tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming(cairn_io::grpc::incoming(listener));
    tokio::select! {
        biased;
        () = report => {}
        end = server => {
            if let Err(e) = end {
                tracing::error!("the health service ended: {e}");
            }
        }
    }
}
