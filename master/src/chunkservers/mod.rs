//! Chunkservers: registrations, what they have, and orders to them.
mod garbage;
mod service;
mod table;
mod verdicts;

pub use garbage::Garbage;
pub use service::ChunkserverService;
pub use table::{Purpose, Replica, Server, Servers};
