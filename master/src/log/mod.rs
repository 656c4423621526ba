//! The operation log: what the master answers is in it, durably, before it is answered.
//!
//! [`Log`] is the seam that consensus takes later: a replicated log's `append` returns when a quorum has the records.
//! [`FileLog`] keeps it in files of one directory.
mod file;
mod format;

pub use file::FileLog;

use async_trait::async_trait;
use bytes::Bytes;
use std::io;

/// One command at its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub index: u64,
    pub payload: Bytes,
}

/// Why the log cannot go on. None of these is tried again: after a failed write or sync nothing can be said of what
/// is stored.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("{path}: {what}: {source}")]
    Io {
        path: String,
        what: &'static str,
        source: io::Error,
    },
    /// A record that was acknowledged cannot be read. Going on would forget acknowledged operations.
    #[error(
        "{path} is damaged at byte {offset}: {what}. Records before index {index} are intact. The master does not start \
         over damage, since it would forget operations that it has acknowledged: restore this file from a copy, or \
         start from a saved checkpoint (`cairn admin checkpoint load`)"
    )]
    Damaged {
        path: String,
        offset: u64,
        index: u64,
        what: &'static str,
    },
    #[error("{path} belongs to cluster {found}, this directory to cluster {expected}")]
    OtherCluster {
        path: String,
        found: String,
        expected: String,
    },
    #[error(
        "{path} has format {found}; this program reads format {known}: use the version of cairn that wrote it, or newer"
    )]
    Format { path: String, found: u32, known: u32 },
    #[error("{path}: records {first} to {last} are missing")]
    Missing { path: String, first: u64, last: u64 },
    #[error("a command of {0} bytes is larger than a record may be")]
    TooLarge(usize),
    /// An earlier append failed.
    #[error("the operation log has failed before")]
    Failed,
}

/// An append-only sequence of records, by ascending index without gaps.
#[async_trait]
pub trait Log: Send + 'static {
    /// Index of the last record that is durable; 0 when there is none.
    fn durable(&self) -> u64;

    /// Appends the records at the indices after [`Log::durable`], in order, and returns the index of the last one when
    /// all are durable. After an error the log takes no more.
    async fn append(&mut self, records: Vec<Bytes>) -> Result<u64, LogError>;

    /// Records from index `from` on, as many as fit `bytes` and at least one; empty after the last.
    async fn read(&self, from: u64, bytes: usize) -> Result<Vec<Record>, LogError>;

    /// Records up to `index` are not needed any more: a verified checkpoint has them. Some may stay.
    async fn drop_prefix(&mut self, index: u64) -> Result<(), LogError>;
}
