//! Why a request or an order was not done, and what that is called on the wire.
use crate::store::{Damage, State, StoreError};
use cairn_proto::common::{self, ErrorCode, Member};
use cairn_proto::{Malformed, data};
use cairn_types::{ClusterId, Version};

#[derive(Debug, Clone, thiserror::Error)]
pub enum Refusal {
    #[error("this replica is at version {have}")]
    StaleVersion { have: Version },
    #[error("there is no such replica here")]
    NoReplica,
    #[error("this server's lease is over: it answers no reads until it has registered anew")]
    NoLease,
    #[error("the master has not said yet whether this replica is current")]
    NotJudged,
    #[error("this replica is fenced: a reconfiguration is under way")]
    Fenced,
    #[error("this replica is not writable: {0}")]
    NotWritable(&'static str),
    /// The last sequence (at the head) or serial (below it) that was taken.
    #[error("out of order: the last one taken is {last}")]
    OutOfOrder { last: u64 },
    #[error("payload and checksum disagree on arrival")]
    BadChecksum,
    #[error("the stored bytes are corrupt: {0}")]
    Corrupt(Damage),
    #[error("the disk is full")]
    NoSpace,
    #[error("the disk failed or is read-only: {0}")]
    DiskFailed(String),
    #[error("{} did not answer as a member of the chain: {cause}", culprit.address)]
    ChainBroken { culprit: Member, cause: String },
    #[error("the request makes no sense: {0}")]
    Invalid(String),
    #[error("not now: {0}")]
    Unavailable(&'static str),
    #[error("the grant cannot create a replica here: {0}")]
    GrantRefused(String),
    #[error("this server is of cluster {ours}, the caller speaks of {theirs}")]
    WrongCluster { ours: ClusterId, theirs: String },
    /// Its session must ask the present master (protocol R12).
    #[error("leave to write was given by the master of epoch {epoch}, this one is of epoch {ours}: ask it again")]
    OldLeave { epoch: u64, ours: u64 },
    /// A registration that is not the one in force (protocol R7).
    #[error("the order is of an earlier registration")]
    OldRegistration,
    /// To its last byte, without the record that was to be appended.
    #[error("the chunk is full: the record goes to the next one")]
    ChunkFull,
    /// What downstream said, as it said it.
    #[error("{}", .0.error.as_ref().map_or("downstream gave no reason", |e| &e.message))]
    Passed(Box<data::Failed>),
}

impl Refusal {
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::StaleVersion { .. } | Self::OldRegistration | Self::OldLeave { .. } => ErrorCode::ErrorStaleVersion,
            Self::NoReplica => ErrorCode::ErrorNoReplica,
            Self::NoLease | Self::NotJudged => ErrorCode::ErrorNoLease,
            Self::Fenced => ErrorCode::ErrorFenced,
            Self::NotWritable(_) => ErrorCode::ErrorNotWritable,
            Self::OutOfOrder { .. } => ErrorCode::ErrorOutOfOrder,
            Self::BadChecksum => ErrorCode::ErrorBadChecksum,
            Self::Corrupt(_) => ErrorCode::ErrorCorrupt,
            Self::NoSpace => ErrorCode::ErrorNoSpace,
            Self::DiskFailed(_) => ErrorCode::ErrorDiskFailed,
            Self::ChainBroken { .. } => ErrorCode::ErrorChainBroken,
            Self::Invalid(_) => ErrorCode::ErrorInvalid,
            Self::Unavailable(_) => ErrorCode::ErrorUnavailable,
            Self::GrantRefused(_) => ErrorCode::ErrorGrantRefused,
            Self::WrongCluster { .. } => ErrorCode::ErrorWrongCluster,
            Self::ChunkFull => ErrorCode::ErrorChunkFull,
            Self::Passed(failed) => failed.error.as_ref().map_or(ErrorCode::ErrorUnspecified, |e| e.code()),
        }
    }

    pub fn to_error(&self) -> common::Error {
        common::Error::new(self.code(), self.to_string())
    }

    pub fn to_failed(&self) -> data::Failed {
        let mut failed = data::Failed {
            error: Some(self.to_error()),
            ..Default::default()
        };
        match self {
            Self::StaleVersion { have } => failed.have = Some((*have).into()),
            Self::OutOfOrder { last } => failed.last_sequence = *last,
            Self::Corrupt(damage) => failed.bad_blocks = damage.blocks.iter().copied().collect(),
            Self::ChainBroken { culprit, .. } => failed.culprit = Some(culprit.clone()),
            Self::Passed(passed) => return (**passed).clone(),
            _ => {}
        }
        failed
    }
}

impl From<Malformed> for Refusal {
    fn from(e: Malformed) -> Self {
        Self::Invalid(e.to_string())
    }
}

impl From<StoreError> for Refusal {
    fn from(e: StoreError) -> Self {
        match e {
            StoreError::NotFound { .. } => Self::NoReplica,
            StoreError::Exists { .. } | StoreError::BelowFloor { .. } | StoreError::FloorUnsettled { .. } => {
                Self::GrantRefused(e.to_string())
            }
            StoreError::WrongVersion {
                state, version, wanted, ..
            } => match state {
                State::Fenced if version >= wanted.version() => Self::Fenced,
                State::Joining => Self::NoReplica,
                _ => Self::StaleVersion { have: version },
            },
            StoreError::Superseded { version, .. } => Self::StaleVersion { have: version },
            StoreError::StillSuspect { .. } => Self::Fenced,
            StoreError::BadPiece { .. } => Self::BadChecksum,
            StoreError::BadRange { .. } => Self::Invalid(e.to_string()),
            StoreError::Corrupt { damage, .. } => Self::Corrupt(damage),
            StoreError::NoSpace { .. } => Self::NoSpace,
            StoreError::TooManyFiles => Self::Unavailable("too many files are open"),
            StoreError::ReadOnly { .. } | StoreError::DiskFailed { .. } => Self::DiskFailed(e.to_string()),
        }
    }
}
