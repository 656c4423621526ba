//! The client library of Cairn: everything that reads or writes files goes through it, the FUSE mount and the
//! `cairn` command alike.
//!
//! One [`Client`] is one session with the master (`session`). It knows where chunks are (`location`), holds bounded
//! amounts of bytes written and not acknowledged (`write`) and read ahead (`read`), and hides the death of servers for
//! as long as its configured timeout. All opens of one inode share one state, so that every read sees every write.
mod admin;
mod ahead;
mod backoff;
mod client;
mod config;
mod core;
mod data;
mod error;
mod file;
mod kept;
mod limits;
mod node;
mod read;
mod records;
mod session;
mod types;
mod write;

pub use admin::Admin;
pub use client::Client;
pub use config::ClientConfig;
pub use error::{Error, Result, Server, errno};
pub use file::File;
pub use records::{Record, RecordReader};
pub use session::Invalidation;
pub use types::{
    Attr, Create, DirectoryEntry, DirectoryPage, FileKind, Invalidated, Location, Make, Member, OpenMode, RenameFlags,
    ReplicaRead, Resolved, SetAttr, SetTime, StatFs, TrashEmptied, TrashPage, Trashed, XattrFlags,
};
