//! The outside world behind traits: time, the network, chance and disks.
//!
//! Protocol code takes an [`Env`] and [`Disk`]s and touches nothing else, so that the very code that serves users
//! runs in a deterministic simulation. Only the adapters here may call `Instant::now`, `std::fs`, `tokio::net` or a
//! system source of randomness; clippy's `disallowed-methods` holds every other crate to that.
mod blocking;
mod clock;
mod disk;
pub mod grpc;
pub mod inline;
mod net;
mod real;
mod rng;
pub mod sim;

pub use blocking::{Blocking, Habit};
pub use clock::{Boot, Clock, Nanos};
pub use disk::{Disk, DiskFile, Space};
pub use net::{BoxReader, BoxStream, BoxWriter, FileRange, Listener, Net, Stream, Writer};
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
