//! The data plane as a client uses it: framed connections to chunkservers, pipelined, each request with one answer in
//! order; and the pool that keeps them.
mod connection;
mod pool;

pub(crate) use connection::{Answer, Connection, Progress};
pub(crate) use pool::{Lease, Peer, Pool};

use cairn_proto::common::ErrorCode;
use cairn_proto::data::Failed;

/// Why a chunkserver did not do what it was asked.
#[derive(Debug, Clone)]
pub(crate) enum Trouble {
    /// Could not be reached, or went away, or said nothing in time. It may have done it all the same.
    NoAnswer(String),
    /// It said no.
    Failed(Box<Failed>),
    /// Its answer made no sense, or its bytes did not agree with their checksums.
    Garbled(String),
}

impl Trouble {
    /// As the master is told it.
    pub fn code(&self) -> ErrorCode {
        match self {
            Trouble::NoAnswer(_) => ErrorCode::ErrorUnavailable,
            Trouble::Garbled(_) => ErrorCode::ErrorBadChecksum,
            Trouble::Failed(failed) => failed.error.as_ref().map_or(ErrorCode::ErrorUnspecified, |e| e.code()),
        }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trouble::NoAnswer(cause) => f.write_str(cause),
            Trouble::Garbled(cause) => f.write_str(cause),
            Trouble::Failed(failed) => match &failed.error {
                Some(error) if !error.message.is_empty() => f.write_str(&error.message),
                Some(error) => f.write_str(error.code().as_str_name()),
                None => f.write_str("failed without a reason"),
            },
        }
    }
}
