//! A whole cluster in this process, mounted twice: what happens on one mount is another client's doing on the other.
//!
//! The tests of a file share it while any of them runs; the last one takes it away.
use cairn_chunkserver::{Chunkserver, ChunkserverConfig};
use cairn_client::{Client, ClientConfig};
use cairn_fuse::{Mount, MountConfig, MountOptions, Unmounted};
use cairn_io::{Disk, Env, RealDisk};
use cairn_master::{Master, MasterConfig};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::runtime::Runtime;

const CHUNKSERVERS: usize = 3;

/// How the two mounts of a cluster are to be.
#[derive(Clone, Copy)]
pub struct Terms {
    /// How long an operation of the client may take; the mount waits a little longer.
    pub timeout: Duration,
    /// How long the kernel may answer by itself, if it is not told of a change. None: the default.
    pub cached_for: Option<Duration>,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(18),
            cached_for: None,
        }
    }
}

pub struct Cluster {
    /// Fields go in this order: mounts first.
    clients: Vec<(Mount, Client)>,
    servers: Vec<Chunkserver>,
    master: Option<Master>,
    pub runtime: Runtime,
    directory: tempfile::TempDir,
}

static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());

/// A directory on the mount for one test, and the cluster below it. None: there is no FUSE here.
pub struct Place {
    pub cluster: Arc<Cluster>,
    name: String,
    local: tempfile::TempDir,
}

impl Place {
    pub fn new(name: &str) -> Option<Self> {
        if super::fuse_is_missing() {
            return None;
        }
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let cluster = shared.upgrade().unwrap_or_else(|| {
            let cluster = Arc::new(Cluster::start(Terms::default()));
            *shared = Arc::downgrade(&cluster);
            cluster
        });
        drop(shared);
        let name = name.to_owned();
        let local = tempfile::tempdir().unwrap();
        let place = Self { cluster, name, local };
        std::fs::create_dir(place.path()).unwrap();
        open_to_all(&place.path());
        open_to_all(place.local.path());
        Some(place)
    }

    pub fn path(&self) -> PathBuf {
        self.cluster.mountpoint(0).join(&self.name)
    }

    /// The same directory by the other mount.
    pub fn other(&self) -> PathBuf {
        self.cluster.mountpoint(1).join(&self.name)
    }

    /// A directory of a local file system.
    pub fn local(&self) -> &Path {
        self.local.path()
    }

    /// Does the same on the mount and in a local directory: both must come to the same.
    pub fn same<T: PartialEq + std::fmt::Debug>(&self, what: impl Fn(&Path) -> T) {
        let expected = what(self.local());
        let found = what(&self.path());
        assert_eq!(found, expected, "on the mount, and on a local file system");
    }
}

fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

impl Cluster {
    /// None: there is no FUSE here.
    pub fn alone(terms: Terms) -> Option<Self> {
        (!super::fuse_is_missing()).then(|| Self::start(terms))
    }

    fn start(terms: Terms) -> Self {
        if std::env::var_os("RUST_LOG").is_some() {
            // a second cluster of the same process finds it set
            let _ = tracing_subscriber::fmt()
                .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
                .with_writer(std::io::stderr)
                .try_init();
        }
        let directory = tempfile::tempdir().unwrap();
        let make = |name: String| {
            let path = directory.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        open_to_all(directory.path());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        let disk = |path: PathBuf| Arc::new(RealDisk::open(path).unwrap()) as Arc<dyn Disk>;
        let (master, servers, address) = runtime.block_on(async {
            let config = MasterConfig {
                listen: any_port(),
                ..MasterConfig::default()
            };
            let master = Master::start(config, disk(make("master".into())), Env::real())
                .await
                .unwrap();
            let address = master.address().to_string();
            let mut servers = Vec::new();
            for n in 0..CHUNKSERVERS {
                let config = ChunkserverConfig {
                    listen: any_port(),
                    health_listen: None,
                    master: address.clone(),
                    label: format!("zone/rack{n}/host{n}"),
                    ..ChunkserverConfig::default()
                };
                let disks = vec![(disk(make(format!("disk{n}"))), None)];
                servers.push(Chunkserver::start(config, disks, Env::real()).await.unwrap());
            }
            for server in &servers {
                tokio::time::timeout(Duration::from_secs(20), server.registered())
                    .await
                    .unwrap();
            }
            (master, servers, address)
        });
        let clients = (0..2)
            .map(|n| client(&runtime, &address, make(format!("mount{n}")), terms))
            .collect();
        Self {
            clients,
            servers,
            master: Some(master),
            runtime,
            directory,
        }
    }

    pub fn mountpoint(&self, n: usize) -> PathBuf {
        self.directory.path().join(format!("mount{n}"))
    }

    pub fn client(&self, n: usize) -> &Client {
        &self.clients[n].1
    }

    /// From here on no chunk can be read or written.
    pub fn stop_chunkservers(&mut self) {
        for server in std::mem::take(&mut self.servers) {
            self.runtime.block_on(server.shutdown());
        }
    }
}

fn client(runtime: &Runtime, master: &str, mountpoint: PathBuf, terms: Terms) -> (Mount, Client) {
    let config = ClientConfig {
        master: master.to_owned(),
        description: "a test's mount".into(),
        timeout: terms.timeout,
        ..ClientConfig::default()
    };
    let client = runtime.block_on(Client::connect(config, Env::real())).unwrap();
    let config = MountConfig {
        source: master.to_owned(),
        options: MountOptions {
            timeout: Some(terms.timeout + Duration::from_secs(2)),
            attr_timeout: terms.cached_for,
            entry_timeout: terms.cached_for,
            suid: true,
            ..MountOptions::default()
        },
        ..MountConfig::new(mountpoint)
    };
    let mount = Mount::start(client.clone(), &config, runtime.handle()).unwrap();
    (mount, client)
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        let (clients, servers, master) = (
            std::mem::take(&mut self.clients),
            std::mem::take(&mut self.servers),
            self.master.take(),
        );
        self.runtime.block_on(async {
            for (mount, client) in clients {
                let unmounted = mount.unmount().await;
                drop(mount);
                let shut = client.shutdown().await;
                if !failed {
                    assert_eq!(unmounted.unwrap(), Unmounted::Clean);
                    shut.unwrap();
                }
            }
            for server in servers {
                server.shutdown().await;
            }
            if let Some(master) = master {
                let stopped = master.shutdown().await;
                assert!(failed || stopped.is_ok(), "the master stopped by itself");
            }
        });
    }
}
