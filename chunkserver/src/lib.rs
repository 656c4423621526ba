//! The chunkserver: chunks on local disks, the data plane that writes, reads and replicates them, and the conversation
//! with the master (docs/protocol.md).
mod append;
mod config;
mod control;
mod copy;
mod dataplane;
mod disks;
mod limits;
mod link;
mod mandate;
mod orders;
mod peers;
mod refusal;
mod replica;
mod reports;
mod scrub;
mod server;
mod shared;
pub mod store;
#[cfg(test)]
mod tests;

pub use config::ChunkserverConfig;
pub use server::{Chunkserver, StartError};
