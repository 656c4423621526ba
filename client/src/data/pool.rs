//! Connections by address: idle ones are used again, the number to one server is bounded, and a server that did not
//! answer is remembered for a while so that others are asked first.
use super::{Connection, Trouble};
use crate::limits::{CONNECTIONS_IDLE_MAX, CONNECTIONS_MAX, DEAD_FOR};
use bytes::Bytes;
use cairn_io::{Boot, Env};
use cairn_proto::PROTOCOL;
use cairn_proto::data::Hello;
use cairn_types::{ClusterId, SessionId};
use rustc_hash::FxHashMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

#[derive(Clone)]
pub(crate) struct Pool(Arc<Shared>);

struct Shared {
    env: Env,
    hello: Hello,
    connect_timeout: Duration,
    peers: Mutex<FxHashMap<String, Peer>>,
}

struct Peer {
    idle: Vec<Arc<Connection>>,
    /// The one that short requests share, while any is under way.
    shared: Weak<Lease>,
    slots: Arc<Semaphore>,
    /// When it last did not answer.
    failed: Option<Boot>,
    /// Bytes asked of it and not here yet.
    asked: Arc<AtomicU64>,
}

impl Peer {
    fn new() -> Self {
        Self {
            idle: Vec::new(),
            shared: Weak::new(),
            slots: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            failed: None,
            asked: Arc::default(),
        }
    }
}

/// Bytes that are being asked of a server, while this lives.
pub(crate) struct Asking {
    asked: Arc<AtomicU64>,
    bytes: u64,
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.asked.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A connection of one's own for a while; dropped, it goes back if it can be used again.
pub(crate) struct Lease {
    connection: Arc<Connection>,
    address: String,
    pool: Arc<Shared>,
    _slot: OwnedSemaphorePermit,
    /// Was not in the pool before: when it breaks at once the server is at fault, not the idle time.
    pub fresh: bool,
}

impl Pool {
    pub fn new(env: Env, cluster: ClusterId, session: SessionId, connect_timeout: Duration) -> Self {
        let hello = Hello {
            protocol: PROTOCOL,
            cluster: Bytes::copy_from_slice(cluster.as_bytes()),
            peer: Bytes::copy_from_slice(session.as_bytes()),
        };
        Self(Arc::new(Shared {
            env,
            hello,
            connect_timeout,
            peers: Mutex::default(),
        }))
    }

    /// A connection to `address`, idle or new.
    ///
    /// # Errors
    /// `NoAnswer`, which is remembered; `Failed` when the server does not want this client.
    pub async fn get(&self, address: &str) -> Result<Lease, Trouble> {
        self.lease(address, true).await
    }

    /// A connection to `address` for a short request, with others of them while none is slow.
    ///
    /// # Errors
    /// As [`Pool::get`].
    pub async fn share(&self, address: &str) -> Result<Arc<Lease>, Trouble> {
        let shared = self.0.peers().get(address).and_then(|peer| peer.shared.upgrade());
        if let Some(shared) = shared.filter(|shared| shared.flows()) {
            return Ok(shared);
        }
        let lease = Arc::new(self.get(address).await?);
        if let Some(peer) = self.0.peers().get_mut(address) {
            peer.shared = Arc::downgrade(&lease);
        }
        Ok(lease)
    }

    /// A new connection to `address`: an idle one turned out to have been closed, and so may the others.
    pub async fn get_fresh(&self, address: &str) -> Result<Lease, Trouble> {
        self.lease(address, false).await
    }

    async fn lease(&self, address: &str, reuse: bool) -> Result<Lease, Trouble> {
        let slots = self
            .0
            .peers()
            .entry(address.to_owned())
            .or_insert_with(Peer::new)
            .slots
            .clone();
        let within = self.0.connect_timeout;
        let busy = || {
            Trouble::NoAnswer(format!(
                "all {CONNECTIONS_MAX} connections to chunkserver {address} are busy"
            ))
        };
        let slot = match timeout(within, slots.acquire_owned()).await {
            Ok(Ok(slot)) => slot,
            _ => return Err(busy()),
        };
        let idle = {
            let mut peers = self.0.peers();
            let peer = peers.entry(address.to_owned()).or_insert_with(Peer::new);
            if !reuse {
                peer.idle.clear();
            }
            loop {
                match peer.idle.pop() {
                    Some(connection) if !connection.idle() => {}
                    other => break other,
                }
            }
        };
        let fresh = idle.is_none();
        let connection = match idle {
            Some(connection) => connection,
            None => {
                let opened = Connection::open(&*self.0.env.net, address, self.0.hello.clone(), within).await;
                Arc::new(opened.inspect_err(|_| self.failed(address))?)
            }
        };
        Ok(Lease {
            connection,
            address: address.to_owned(),
            pool: self.0.clone(),
            _slot: slot,
            fresh,
        })
    }

    /// The server did not answer.
    pub fn failed(&self, address: &str) {
        let now = self.0.env.clock.now();
        let mut peers = self.0.peers();
        let peer = peers.entry(address.to_owned()).or_insert_with(Peer::new);
        peer.failed = Some(now);
        peer.idle.clear();
    }

    pub fn answered(&self, address: &str) {
        if let Some(peer) = self.0.peers().get_mut(address) {
            peer.failed = None;
        }
    }

    /// So many bytes are about to be asked of the server.
    pub fn ask(&self, address: &str, bytes: u64) -> Asking {
        let mut peers = self.0.peers();
        let peer = peers.entry(address.to_owned()).or_insert_with(Peer::new);
        peer.asked.fetch_add(bytes, Ordering::Relaxed);
        Asking {
            asked: peer.asked.clone(),
            bytes,
        }
    }

    /// Whether the server did not answer lately, and is to be asked last; and the bytes asked of it and not here yet.
    pub fn burden(&self, address: &str) -> (bool, u64) {
        let now = self.0.env.clock.now();
        let peers = self.0.peers();
        let Some(peer) = peers.get(address) else {
            return (false, 0);
        };
        let dead = peer.failed.is_some_and(|at| now.since(at) < DEAD_FOR);
        (dead, peer.asked.load(Ordering::Relaxed))
    }
}

impl Shared {
    fn peers(&self) -> MutexGuard<'_, FxHashMap<String, Peer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for Lease {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.connection.idle() {
            return;
        }
        if let Some(peer) = self.pool.peers().get_mut(&self.address)
            && peer.idle.len() < CONNECTIONS_IDLE_MAX
        {
            peer.idle.push(self.connection.clone());
        }
    }
}
