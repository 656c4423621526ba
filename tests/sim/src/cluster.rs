//! A master and chunkservers on simulated machines.
use crate::World;
use anyhow::{Context, Result, anyhow, bail};
use cairn_chunkserver::{Chunkserver, ChunkserverConfig};
use cairn_client::{Admin, Client, ClientConfig};
use cairn_io::sim::{SimDisk, Trace};
use cairn_io::{Disk, Env};
use cairn_master::{Master, MasterConfig};
use cairn_proto::admin::{Health, StatusAnswer};
use cairn_testkit::ChunkFile;
use cairn_types::ChunkHandle;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const MASTER_PORT: u16 = 7600;
const DATA_PORT: u16 = 7610;
const MASTER: &str = "master:7600";
const POLL: Duration = Duration::from_millis(100);

/// What [`Chunkserver::start`] takes.
pub type ServerDisk = (Arc<dyn Disk>, Option<PathBuf>);

/// The real servers with short times, on machines `master`, `cs0`, `cs1`, ...
pub struct Cluster {
    pub world: World,
    pub servers: Vec<String>,
}

impl Cluster {
    /// Starts a master and `chunkservers` chunkservers with a disk each, and waits until all are registered.
    pub fn start(seed: u64, chunkservers: usize) -> Result<Self> {
        Self::start_traced(seed, chunkservers, Trace::new())
    }

    pub fn start_traced(seed: u64, chunkservers: usize, trace: Trace) -> Result<Self> {
        Self::start_with(seed, chunkservers, trace, |config, disks, env| async {
            let _server = Chunkserver::start(config, disks, env).await?;
            std::future::pending().await
        })
    }

    /// With other software than just a chunkserver on the servers: it is given the configuration and the disks.
    pub fn start_with<F, Fut>(seed: u64, chunkservers: usize, trace: Trace, software: F) -> Result<Self>
    where
        F: Fn(ChunkserverConfig, Vec<ServerDisk>, Env) -> Fut + Clone + 'static,
        Fut: Future<Output = Result<()>> + 'static,
    {
        let mut world = World::with_trace(seed, trace);
        world.machine("master", 1, master);
        let servers: Vec<String> = (0..chunkservers).map(|n| format!("cs{n}")).collect();
        for name in &servers {
            let (config, software) = (chunkserver(name), software.clone());
            world.machine(name, 1, move |env, disks| {
                let disks = disks.into_iter().map(|disk| (Arc::new(disk) as Arc<dyn Disk>, None));
                software(config.clone(), disks.collect(), env)
            });
        }
        let mut cluster = Self { world, servers };
        cluster.wait_servers(chunkservers, Duration::from_secs(60))?;
        Ok(cluster)
    }

    /// The names of the servers' machines.
    pub fn machines(&self) -> Vec<String> {
        self.servers.iter().cloned().chain(["master".to_owned()]).collect()
    }

    /// Every server's disks.
    pub fn disks(&self) -> Vec<SimDisk> {
        self.machines()
            .iter()
            .flat_map(|name| self.world.disks(name).to_vec())
            .collect()
    }

    pub fn wait_servers(&mut self, n: usize, deadline: Duration) -> Result<StatusAnswer> {
        self.wait(&format!("{n} chunkservers up"), deadline, move |status| {
            status.servers.iter().filter(|s| s.up).count() == n && !status.safe_mode
        })
    }

    /// Waits until every chunk has its goal of replicas, and nothing is under way.
    pub fn wait_healthy(&mut self, deadline: Duration) -> Result<StatusAnswer> {
        self.wait("every chunk at its goal", deadline, |status| {
            let health = status.health.unwrap_or_default();
            let Health {
                under_goal,
                endangered,
                lost,
                reconfiguring,
                ..
            } = health;
            under_goal + endangered + lost + reconfiguring == 0
        })
    }

    pub fn wait(
        &mut self,
        what: &str,
        deadline: Duration,
        good: impl Fn(&StatusAnswer) -> bool + 'static,
    ) -> Result<StatusAnswer> {
        let seen = std::rc::Rc::new(std::cell::RefCell::new(None));
        let last = seen.clone();
        let status = self.world.run(what, deadline, |env| async move {
            loop {
                let status = status(&env).await;
                match status {
                    Ok(status) if good(&status) => return Ok(status),
                    other => *seen.borrow_mut() = Some(other),
                }
                tokio::time::sleep(POLL).await;
            }
        });
        status.with_context(|| format!("the last status: {:?}", last.borrow()))
    }

    /// What all chunkservers' disks hold, read without the chunkserver's code: each file right in itself, all installed
    /// replicas of the newest version of a chunk the same.
    pub fn check_disks(&self) -> Result<BTreeMap<ChunkHandle, Vec<ChunkFile>>> {
        let mut files = vec![];
        for (name, path) in self.chunk_files() {
            let bytes = self.world.disks(&name).iter().find_map(|disk| disk.contents(&path));
            files.push(ChunkFile::parse(
                &Path::new(&name).join(path),
                bytes.context("a file that was listed")?,
            )?);
        }
        cairn_testkit::compare(files)
    }

    /// Waits until the disks hold nothing but `goal` replicas of each chunk, [all right](Cluster::check_disks). Before
    /// that a file may be wrong that power loss has made suspect, or that is no member's: nobody may read it, nor copy
    /// from it (protocol R3, R6, R7), until it is made the same as the others or collected. One that somebody might read
    /// is reported as damaged by its server, which [`with_seed`](crate::with_seed) takes for a failure.
    pub fn wait_disks(&mut self, goal: usize, deadline: Duration) -> Result<BTreeMap<ChunkHandle, Vec<ChunkFile>>> {
        let end = self.world.elapsed() + deadline;
        loop {
            let files = self.chunk_files().len();
            let wrong = match self.check_disks() {
                Ok(chunks) if chunks.values().all(|r| r.len() == goal) && files == goal * chunks.len() => {
                    return Ok(chunks);
                }
                Ok(chunks) => anyhow!("{files} files of {} chunks", chunks.len()),
                Err(e) => e,
            };
            if self.world.elapsed() > end {
                return Err(wrong.context(format!("not every file on the disks is right within {deadline:?}")));
            }
            self.world.run_for(POLL)?;
        }
    }

    /// Every chunk file, with its server's name.
    pub fn chunk_files(&self) -> Vec<(String, PathBuf)> {
        let on = |name: &String| {
            let files = self.world.disks(name).iter().flat_map(|disk| disk.files());
            let chunks = files.filter(|path| path.extension().is_some_and(|e| e == "chunk"));
            chunks.map(|path| (name.clone(), path)).collect::<Vec<_>>()
        };
        self.servers.iter().flat_map(on).collect()
    }

    /// A session for a program of [`World::run`].
    pub async fn client(env: &Env) -> Result<Client> {
        let config = ClientConfig {
            master: MASTER.into(),
            description: "simulated client".into(),
            timeout: Duration::from_secs(30),
            server_timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(1),
            ..ClientConfig::default()
        };
        Ok(Client::connect(config, env.clone()).await?)
    }
}

async fn status(env: &Env) -> Result<StatusAnswer> {
    Ok(Admin::connect(MASTER, env.clone()).await?.status().await?)
}

fn any(port: u16) -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, port).into()
}

async fn master(env: Env, disks: Vec<SimDisk>) -> Result<()> {
    let config = MasterConfig {
        listen: any(MASTER_PORT),
        lease_ms: 1_000,
        heartbeat_ms: 250,
        repair_delay_ms: 1_000,
        gc_grace_ms: 2_000,
        session_timeout_ms: 5_000,
        call_timeout_ms: 10_000,
        order_timeout_ms: 3_000,
        safe_mode_ms: 5_000,
        ..MasterConfig::default()
    };
    let disk: Arc<dyn Disk> = Arc::new(disks.into_iter().next().context("a disk")?);
    let master = Master::start(config, disk, env).await?;
    let halt = master.halted().await;
    bail!("the master halted: {halt}")
}

fn chunkserver(name: &str) -> ChunkserverConfig {
    ChunkserverConfig {
        listen: any(DATA_PORT),
        advertise: Some(format!("{name}:{DATA_PORT}")),
        health_listen: None,
        master: MASTER.into(),
        label: format!("zone/{name}/{name}"),
        chain_deadline: Duration::from_secs(1),
        sync_deadline: Duration::from_secs(3),
        ..ChunkserverConfig::default()
    }
}
