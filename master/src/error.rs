//! Why a master does not start, and why it stops.
use crate::checkpoint::CheckpointError;
use crate::config::InvalidConfig;
use crate::log::LogError;
use cairn_metadata::CannotApply;
use cairn_types::ClusterId;
use std::io;
use std::net::SocketAddr;

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    #[error("another process uses {directory}: stop it first, or give this one a directory of its own")]
    InUse { directory: String },
    #[error("{path}: {source}")]
    Io { path: String, source: io::Error },
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("{path} is not the stamp of a master's directory: it is damaged, or the directory is something else's")]
    BadStamp { path: String },
    #[error(
        "{directory} has an operation log or checkpoints but no stamp (`cluster`): it is a part of another directory. \
         Restore it whole, or give the master an empty one"
    )]
    Unstamped { directory: String },
    #[error(
        "{directory} is stamped for cluster {cluster} but has no operation log: a disk may not be mounted. The master \
         never starts empty over a cluster that exists"
    )]
    NoLog { directory: String, cluster: ClusterId },
    #[error(
        "{directory}: the newest whole checkpoint is of index {checkpoint}, the log has indices {first} to {last}: what \
         is between is lost. Restore the directory from a copy"
    )]
    Gap {
        directory: String,
        checkpoint: u64,
        first: u64,
        last: u64,
    },
    #[error(
        "the operation log's record {index} is no command that this program knows: use the version that wrote it, or newer"
    )]
    NotACommand { index: u64 },
    #[error("the operation log's record {index} cannot be applied: {source}. This is a defect; nothing was changed")]
    CannotApply { index: u64, source: CannotApply },
    #[error("the master stopped while starting: {0}")]
    Halted(String),
}

/// Why a running master has stopped acknowledging. It cannot go on: end the process and start it again once the cause
/// is mended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Halt {
    #[error("the operation log failed: {0}")]
    Log(String),
    #[error("a command could not be applied: {0}")]
    Apply(String),
    #[error("serving stopped: {0}")]
    Serve(String),
}
