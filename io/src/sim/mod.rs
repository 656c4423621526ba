//! The simulated world: disks that lose power, clocks that drift, a network inside turmoil. One thread, one seed, and
//! so one [`Trace`]: the same seed gives the same events in the same order, in any process.
//!
//! A *machine* in a simulation is a [`SimClock`], one or more [`SimDisk`]s and a [`SimNet`] under a name in turmoil's
//! network. Killing its process keeps every byte written ([`SimDisk::kill`]) and closes its connections
//! ([`SimNet::kill`]); power loss drops what was not synced ([`SimDisk::power_loss`]), tells nobody
//! ([`SimNet::power_loss`]) and gives the clock another boot id ([`SimClock::reboot`]).
mod clock;
mod disk;
mod fault;
mod hold;
mod net;
mod pages;
mod trace;

pub use clock::SimClock;
pub use disk::SimDisk;
pub use fault::{Effect, Fault, Op};
pub use hold::Hold;
pub use net::SimNet;
pub use trace::{Event, Trace};

use crate::{Blocking, Env, Rng};
use std::sync::Arc;

/// What a simulated process gets: its machine's clock and network, chance from `seed`, no threads.
pub fn env(clock: &SimClock, net: &SimNet, seed: u64) -> Env {
    Env {
        clock: Arc::new(clock.clone()),
        net: Arc::new(net.mount()),
        rng: Rng::from_seed(seed),
        blocking: Blocking::Inline,
    }
}
