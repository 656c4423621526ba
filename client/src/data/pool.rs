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

pub(crate) struct Pool {
    setup: Arc<Setup>,
    peers: Mutex<FxHashMap<String, Arc<Peer>>>,
}

struct Setup {
    env: Env,
    hello: Hello,
    connect_timeout: Duration,
}

/// A chunkserver.
pub(crate) struct Peer {
    address: String,
    setup: Arc<Setup>,
    slots: Arc<Semaphore>,
    /// Bytes asked of it and not here yet.
    asked: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    idle: Vec<Arc<Connection>>,
    /// The one that short requests share, while any is under way.
    shared: Weak<Lease>,
    /// When it last did not answer.
    failed: Option<Boot>,
}

/// Bytes that are being asked of a server, while this lives.
pub(crate) struct Asking<'a> {
    peer: &'a Peer,
    bytes: u64,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.peer.asked.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A connection of one's own for a while; dropped, it goes back if it can be used again.
pub(crate) struct Lease {
    connection: Arc<Connection>,
    peer: Arc<Peer>,
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
        let setup = Setup {
            env,
            hello,
            connect_timeout,
        };
        Self {
            setup: Arc::new(setup),
            peers: Mutex::default(),
        }
    }

    pub fn peer(&self, address: &str) -> Arc<Peer> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = peers.get(address) {
            return peer.clone();
        }
        let peer = Arc::new(Peer {
            address: address.to_owned(),
            setup: self.setup.clone(),
            slots: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            asked: AtomicU64::new(0),
            state: Mutex::default(),
        });
        peers.insert(address.to_owned(), peer.clone());
        peer
    }
}

impl Peer {
    /// A connection to it, idle or new.
    ///
    /// # Errors
    /// `NoAnswer`, which is remembered; `Failed` when the server does not want this client.
    pub async fn get(self: &Arc<Self>) -> Result<Lease, Trouble> {
        self.lease(true).await
    }

    /// A connection for a short request, with others of them while none is slow.
    ///
    /// # Errors
    /// As [`Peer::get`].
    pub async fn share(self: &Arc<Self>) -> Result<Arc<Lease>, Trouble> {
        let shared = self.state().shared.upgrade();
        if let Some(shared) = shared.filter(|shared| shared.flows()) {
            return Ok(shared);
        }
        let lease = Arc::new(self.get().await?);
        self.state().shared = Arc::downgrade(&lease);
        Ok(lease)
    }

    /// A new connection: an idle one turned out to have been closed, and so may the others.
    pub async fn get_fresh(self: &Arc<Self>) -> Result<Lease, Trouble> {
        self.lease(false).await
    }

    async fn lease(self: &Arc<Self>, reuse: bool) -> Result<Lease, Trouble> {
        let within = self.setup.connect_timeout;
        let busy = || {
            let address = &self.address;
            Trouble::NoAnswer(format!(
                "all {CONNECTIONS_MAX} connections to chunkserver {address} are busy"
            ))
        };
        let slot = match self.slots.clone().try_acquire_owned() {
            Ok(slot) => slot,
            Err(_) => match timeout(within, self.slots.clone().acquire_owned()).await {
                Ok(Ok(slot)) => slot,
                _ => return Err(busy()),
            },
        };
        let idle = {
            let mut state = self.state();
            if !reuse {
                state.idle.clear();
            }
            loop {
                match state.idle.pop() {
                    Some(connection) if !connection.idle() => {}
                    other => break other,
                }
            }
        };
        let fresh = idle.is_none();
        let connection = match idle {
            Some(connection) => connection,
            None => {
                let opened = Connection::open(&*self.setup.env.net, &self.address, self.setup.hello.clone(), within);
                Arc::new(Box::pin(opened).await.inspect_err(|_| self.failed())?)
            }
        };
        Ok(Lease {
            connection,
            peer: self.clone(),
            _slot: slot,
            fresh,
        })
    }

    /// It did not answer.
    pub fn failed(&self) {
        let now = self.setup.env.clock.now();
        let mut state = self.state();
        state.failed = Some(now);
        state.idle.clear();
    }

    pub fn answered(&self) {
        self.state().failed = None;
    }

    /// So many bytes are about to be asked of it.
    pub fn ask(&self, bytes: u64) -> Asking<'_> {
        self.asked.fetch_add(bytes, Ordering::Relaxed);
        Asking { peer: self, bytes }
    }

    /// Whether it did not answer lately, and is to be asked last; and the bytes asked of it and not here yet.
    pub fn burden(&self) -> (bool, u64) {
        let failed = self.state().failed;
        let dead = failed.is_some_and(|at| self.setup.env.clock.now().since(at) < DEAD_FOR);
        (dead, self.asked.load(Ordering::Relaxed))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut state = self.peer.state();
        if state.idle.len() < CONNECTIONS_IDLE_MAX {
            state.idle.push(self.connection.clone());
        }
    }
}
