//! The real master, chunkservers and clients in one deterministic simulation: network, disks and clocks are simulated
//! (`cairn_io::sim`), everything else is the code that serves users.
//!
//! A scenario is a function of its seed. Faults first, with safety checked all the time; then they stop, and the
//! cluster must heal; then everything is read back and compared with a [model](FileModel), and the chunk files on the
//! disks with each other, by a reader that shares no code with the chunkserver.
mod cluster;
mod model;
mod report;
pub mod single;
mod workload;
mod world;

pub use cluster::{Cluster, ServerDisk};
pub use model::FileModel;
pub use report::{run, seeds, with_seed};
pub use workload::Files;
pub use world::{Running, World};
