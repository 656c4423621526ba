//! The real master, chunkservers and clients in one deterministic simulation: network, disks and clocks are simulated
//! (`cairn_io::sim`), everything else is the code that serves users.
//!
//! A scenario is a function of its seed. Faults first, with safety checked all the time; then they stop, and the
//! cluster must heal; then everything is read back and compared with a [model](FileModel), and the chunk files on the
//! disks with each other, by a reader that shares no code with the chunkserver.

mod model;
mod report;
mod world;

pub use model::FileModel;
pub use report::{seeds, with_seed};
pub use world::{Running, World};
