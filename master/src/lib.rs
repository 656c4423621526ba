//! The master: the process around `cairn_metadata`.
//!
//! * [`log`], [`checkpoint`], `data_dir`: what is on disk. Every change is a command in the operation log, durable
//!   before it is applied and answered; checkpoints bound the replay.
//! * `core`: the one owner of all that the master knows ([`core::World`]), and the writer, the one task that changes
//!   the replicated state.
//! * `session`: clients, their calls and pushes. `chunkservers`: registrations, leases, reports, orders, garbage.
//! * `reconfiguration`, `repair`: carry out what the pure engine and the pure planner of `cairn_metadata` decide.
//! * `housekeeping`: the one background task. `admin`: status and tools.
//!
//! Invariants: the state holds nothing that is not durable in the log; no lock is held across an await; soft state can
//! be lost at any time and is rebuilt from what clients and chunkservers say.
mod admin;
mod checkpoint;
mod chunkservers;
mod config;
mod core;
mod data_dir;
mod error;
mod events;
mod housekeeping;
pub mod limits;
mod log;
mod master;
mod reconfiguration;
mod repair;
mod rot;
mod session;

pub use config::{InvalidConfig, MasterConfig};
pub use error::{Halt, StartError};
pub use log::{FileLog, Log, LogError, Record};
pub use master::Master;

/// The 16 bytes of an id, for a message's field.
pub(crate) fn wire_id(id: &[u8; 16]) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(id)
}
