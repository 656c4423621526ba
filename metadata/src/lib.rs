//! What the master knows, as a pure and deterministic state machine, and what it decides, as pure functions.
//!
//! Nothing here knows of time, disks, sockets or tasks; a caller gives `now` and a random generator where they are
//! needed. Two halves:
//!
//! * **The replicated state**: [`State`], changed only by [`apply`] of a [`Command`] at its index in the operation
//!   log. Every choice (times, versions, placement) is made before the command is logged and is carried in it; what is
//!   counted (inode numbers, chunk handles) is counted here, from the log's order. The same `apply` serves live
//!   traffic, replay and followers. An [`Outcome`] has the answer for the client, and [`Effect`]s for the process
//!   around: whom to send invalidations, what has become garbage. Queries are methods of `State` (see `query.rs`).
//! * **Decisions over soft state**: [`placement`], [`lease`], [`verdict`], [`reconfigure`] (one reconfiguration of one
//!   chunk, protocol R2 to R5), [`repair`].
//!
//! Time is a `Duration` since the machine started where something is counted (CLOCK_BOOTTIME), and `i64` nanoseconds
//! since 1970 where a file shows it.
mod apply;
mod checkpoint;
mod chunk;
mod command;
mod directory;
mod error;
mod inode;
pub mod lease;
pub mod placement;
mod query;
pub mod reconfigure;
pub mod repair;
mod state;
mod table;
pub mod verdict;

pub use apply::apply;
pub use checkpoint::DecodeError;
pub use chunk::{ChunkInfo, MEMBERS_MAX};
pub use command::{
    Command, Create, Effect, Existing, Grant, IndexedGrant, Install, Op, Outcome, RemovedAs, Rename, RenameMode, Reply,
    SetAttr, SetTime, Written, XattrMode,
};
pub use error::{CannotApply, FsError};
pub use inode::{Attr, Kind};
pub use query::{Counts, DirectoryEntry, DirectoryPage, DiskInfo, Resolved, ServerInfo, TrashPage, Trashed};
pub use state::State;
