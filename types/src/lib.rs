//! The words that every part of Cairn shares: ids, versions, the layout of files in chunks, and limits.
//!
//! Nothing here does I/O, knows of time or depends on a protocol; every other crate may depend on it.
mod ids;
pub mod layout;
pub mod limits;
pub mod names;

pub use ids::{
    ChunkHandle, ClusterId, DiskId, Inode, InvalidId, Registration, Sequence, Serial, ServerId, SessionId, Version,
};
