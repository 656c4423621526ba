//! The outside world behind traits: time, the network, chance and disks.
//!
//! Protocol code takes an [`Env`] and [`Disk`]s and touches nothing else, so that the very code that serves users
//! runs in a deterministic simulation. Only the adapters here may call `Instant::now`, `std::fs`, `tokio::net` or a
//! system source of randomness; clippy's `disallowed-methods` holds every other crate to that.
mod clock;
mod disk;
pub mod grpc;
mod net;
mod real;
mod rng;
pub mod sim;

pub use clock::{Boot, Clock, Nanos};
pub use disk::{Disk, DiskFile, Space};
pub use net::{BoxStream, Listener, Net, Stream};
pub use real::{RealClock, RealDisk, RealNet};
pub use rng::Rng;

use std::sync::Arc;

/// Everything of the outside world but disks. Cheap to clone.
#[derive(Clone)]
pub struct Env {
    pub clock: Arc<dyn Clock>,
    pub net: Arc<dyn Net>,
    pub rng: Rng,
    pub blocking: Blocking,
}

impl Env {
    /// The real world.
    pub fn real() -> Self {
        Self {
            clock: Arc::new(RealClock::new()),
            net: Arc::new(RealNet),
            rng: Rng::from_system(),
            blocking: Blocking::Threads,
        }
    }
}

/// Where calls that may block (disk I/O, long computation) run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocking {
    /// On tokio's pool of blocking threads.
    Threads,
    /// In the calling task: in simulation a thread would break determinism, and nothing really blocks.
    Inline,
}

impl Blocking {
    #[allow(clippy::disallowed_methods)] // the one place that may
    /// Runs `f` where it may block, and gives what it returned; a panic of `f` goes on in the caller.
    pub async fn run<T: Send + 'static>(self, f: impl FnOnce() -> T + Send + 'static) -> T {
        match self {
            Blocking::Inline => f(),
            Blocking::Threads => match tokio::task::spawn_blocking(f).await {
                Ok(value) => value,
                Err(e) => match e.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // the runtime is shutting down: never resume, the task is dropped with it
                    Err(_) => std::future::pending().await,
                },
            },
        }
    }
}
