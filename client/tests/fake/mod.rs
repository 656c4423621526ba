//! The least of a cluster that the client's contract needs, with its faults at hand: one master in memory with files in
//! one directory, and chunkservers whose chains are function calls. Real sockets, so that the client is all real.
#![allow(dead_code)] // each test file uses its part
pub mod master;
pub mod server;

pub use master::Master;
pub use server::Server;

use bytes::Bytes;
use cairn_client::{Client, ClientConfig, Create, File};
use cairn_io::Env;
use cairn_proto::common::{self, ErrorCode};
use cairn_types::Inode;
use std::sync::Arc;
use std::time::Duration;

pub struct Cluster {
    pub master: Arc<Master>,
    pub servers: Vec<Arc<Server>>,
}

pub const CLUSTER: [u8; 16] = [7; 16];

pub fn config(master: &str) -> ClientConfig {
    ClientConfig {
        master: master.to_owned(),
        timeout: Duration::from_secs(10),
        connect_within: Duration::from_secs(2),
        connect_timeout: Duration::from_millis(500),
        server_timeout: Duration::from_secs(1),
        hedge_after: Duration::from_millis(100),
        ..ClientConfig::default()
    }
}

impl Cluster {
    pub async fn start(servers: usize) -> Self {
        let servers = futures::future::join_all((0..servers).map(|n| Server::start(n as u8 + 1))).await;
        for server in &servers {
            server.know(&servers);
        }
        let master = Master::start(servers.clone()).await;
        Self { master, servers }
    }

    pub async fn client(&self) -> Client {
        self.client_with(|_| {}).await
    }

    pub async fn client_with(&self, change: impl FnOnce(&mut ClientConfig)) -> Client {
        let mut config = config(&self.master.address);
        change(&mut config);
        Client::connect(config, Env::real()).await.unwrap()
    }

    /// The head of the chunk at `index`, and all that hold it.
    pub fn members(&self, ino: Inode, index: u32) -> Vec<Arc<Server>> {
        let location = self.master.state().files[&ino.0].chunks[&index].clone();
        location
            .members
            .iter()
            .map(|m| self.servers[m.server[0] as usize - 1].clone())
            .collect()
    }

    /// What each member holds of a chunk.
    pub fn contents(&self, ino: Inode, index: u32) -> Vec<Vec<u8>> {
        let handle = self.master.state().files[&ino.0].chunks[&index].handle;
        let members = self.members(ino, index);
        members
            .iter()
            .map(|s| {
                s.state()
                    .replicas
                    .get(&handle)
                    .map(|r| r.data.clone())
                    .unwrap_or_default()
            })
            .collect()
    }

    pub fn size(&self, ino: Inode) -> u64 {
        self.master.state().files[&ino.0].attr.size
    }
}

pub async fn create(client: &Client, name: &str) -> File {
    let create = Create {
        mode: 0o644,
        ..Create::default()
    };
    client.create(Inode::ROOT, name.as_bytes(), create).await.unwrap().2
}

pub fn pattern(seed: u64, len: usize) -> Bytes {
    let mut x = seed.wrapping_mul(0x9e3779b97f4a7c15) | 1;
    let byte = |_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    };
    (0..len).map(byte).collect::<Vec<u8>>().into()
}

pub fn error(code: ErrorCode) -> common::Error {
    common::Error::new(code, format!("{code:?}"))
}

/// Waits until it holds; a test's own deadline.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}
