//! One reconfiguration of one chunk: protocol R2 to R5, as a state machine without I/O.
//!
//! The master makes a [`Plan`] (a version drawn for it, the logged members, who shall join and leave), starts a
//! [`Reconfiguration`], carries out its [`Order`]s and feeds it what comes back as [`Event`]s. The phases:
//!
//! 1. **Fence** (R2). The doubtful and the joining first; the healthy when each doubtful one has answered or cannot be
//!    serving any more, so that reads go on meanwhile; and not at all when too few could agree in the end.
//! 2. **Choose the source** (R3), when every old member is fenced, or its lease is over, or it is out of service.
//!    Cut it, if that is what this is for (R13).
//! 3. **Synchronize** (R4) every other replica with it.
//! 4. **Log** (R5), when enough agree. Nobody is told before.
//! 5. **Install**, the head last.
//!
//! A change of mind (another source, a server that registered anew and fell out) is a new reconfiguration with a higher
//! version: within one version every replica is filled from one source only, so that no late message can mix two.
//! Orders are not repeated, since a stream delivers them or breaks; a stream that breaks is [`Event::Disconnected`].
mod engine;
#[cfg(test)]
mod explorer;
#[cfg(test)]
mod tests;

pub use engine::Reconfiguration;

use cairn_types::{ChunkHandle, DiskId, Registration, Serial, ServerId, Version};
use std::time::Duration;

/// A replica's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    pub server: ServerId,
    pub disk: DiskId,
}

/// What a reconfiguration is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub handle: ChunkHandle,
    /// Drawn for this reconfiguration: above everything drawn before.
    pub version: Version,
    /// What the log has of the chunk.
    pub logged: Version,
    /// The logged version is the one that the chunk was created with ([`crate::ChunkInfo::granted`]): a member that
    /// has no replica may be one that its grant never reached (R10).
    pub granted: bool,
    /// A commit has named the chunk ([`crate::ChunkInfo::committed`]): every member has had a replica.
    pub committed: bool,
    /// In the log's order.
    pub members: Vec<Member>,
    /// Disks that are no members and shall become members; best when they have been filled beforehand (R4).
    pub joining: Vec<Member>,
    /// Members that shall be none afterwards (drain, trim, a damaged copy). They may still be the source.
    pub leaving: Vec<DiskId>,
    /// Members that are not known to be well: fenced first. Those whose server is not connected count as doubtful
    /// anyway.
    pub doubtful: Vec<DiskId>,
    /// Members whose contents an operator gave up: a suspect may be the source without their answer (R3).
    pub given_up: Vec<DiskId>,
    /// Sources that failed in an earlier attempt ([`Failure::SourceFailed`] with `unreadable`).
    pub not_source: Vec<DiskId>,
    /// Preferred as primary: the member nearest the writer.
    pub head: Option<DiskId>,
    /// Cut the chunk to so many bytes (R13).
    pub cut: Option<u64>,
    /// Members to install at least: the configured minimum, but no more than the goal. At least 1.
    pub minimum: usize,
    pub patience: Patience,
}

/// How long to wait for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For a joining replica to be fenced, and to be synchronized, when there are enough without it.
    pub join: Duration,
    /// For a member to be synchronized, when there are enough without it.
    pub sync: Duration,
    /// For the members to confirm the installation.
    pub install: Duration,
    /// For everything up to the log: then [`Failure::TimedOut`]. More than a lease by the master's count.
    pub whole: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let s = Duration::from_secs;
        Self {
            join: s(5),
            sync: s(20),
            install: s(5),
            whole: s(60),
        }
    }
}

/// What the master knows of a server when a reconfiguration starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerState {
    pub server: ServerId,
    /// Of the stream that is open; `None`: none is.
    pub registration: Option<Registration>,
    /// By [`crate::lease::LeaseTable::is_over`].
    pub lease_over: bool,
}

/// What a replica answered to Fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    Present {
        /// Its version before the fence.
        previous: Version,
        /// The last mutation applied; 0 when the process has restarted since (R8).
        serial: Serial,
        /// Bytes.
        length: u64,
        suspect: bool,
        /// Some blocks are known to be bad. (A replica whose header cannot be read is out of service.)
        damaged: bool,
        /// It was being filled: untrusted, whoever it is.
        joining: bool,
        /// An earlier reconfiguration made it, to be filled, where there was no replica and the disk's floor was this;
        /// none has installed it.
        made_at: Option<Version>,
    },
    /// There is no replica, and the disk's floor was this before it was first fenced (R10).
    Absent { floor: Version },
}

impl Content {
    fn is_absent(&self) -> bool {
        matches!(self, Self::Absent { .. })
    }
}

/// What happened. Those with a registration are ignored when it is not the server's latest, those of another version
/// always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Fenced {
        disk: DiskId,
        registration: Registration,
        version: Version,
        content: Content,
    },
    /// Refused: the replica has a version that is higher.
    FenceOvertaken {
        disk: DiskId,
        registration: Registration,
        have: Version,
    },
    /// Could not be done, for a reason that may pass: ordered again a second later. (For one that does not pass, see
    /// [`Event::OutOfService`].)
    FenceFailed {
        disk: DiskId,
        registration: Registration,
    },
    Cut {
        disk: DiskId,
        registration: Registration,
        version: Version,
    },
    CutFailed {
        disk: DiskId,
        registration: Registration,
    },
    /// Identical with the source, after fdatasync.
    Synced {
        disk: DiskId,
        registration: Registration,
        version: Version,
        length: u64,
    },
    /// `unreadable`: blocks are bad at the source, and no alternate had them. Else the fault was the receiver's.
    SyncFailed {
        disk: DiskId,
        registration: Registration,
        version: Version,
        unreadable: bool,
    },
    /// [`Order::Log`] is in the operation log and applied.
    Logged,
    /// It was refused: the chunk is gone, or has a higher version.
    LogRefused,
    Installed {
        disk: DiskId,
        registration: Registration,
        version: Version,
    },
    InstallFailed {
        disk: DiskId,
        registration: Registration,
    },
    /// By the master's count.
    LeaseOver {
        server: ServerId,
    },
    /// The server has registered (anew).
    Registered {
        server: ServerId,
        registration: Registration,
    },
    /// The registration's stream is gone.
    Disconnected {
        server: ServerId,
        registration: Registration,
    },
    /// The server reported the disk, or this chunk's replica on it, out of service for its present registration: it
    /// answers nothing from it (R5).
    OutOfService {
        disk: DiskId,
    },
    /// Time has passed: see [`Reconfiguration::deadline`].
    Tick,
}

/// What the master is to do. To a server that is not connected any more, nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    Fence {
        to: Member,
        registration: Registration,
        version: Version,
    },
    /// Cut the fenced replica to `length`. Where there is none (an empty chunk that no grant reached) this makes an
    /// empty one, fenced at `version`, and suspect until it is installed: nobody may rely on what was made to be filled.
    /// With `anew`, what is there counts for nothing: neither its bytes nor its remembered sequences.
    Cut {
        to: Member,
        registration: Registration,
        version: Version,
        length: u64,
        anew: bool,
    },
    Synchronize {
        to: Member,
        registration: Registration,
        version: Version,
        source: Member,
        source_registration: Registration,
        source_suspect: bool,
        /// Fenced, unsuspected members, for blocks that are bad at the source.
        alternates: Vec<(Member, Registration)>,
        /// The receiver's own checksums can't be believed.
        recompute: bool,
        /// Every member takes part: a block that is bad in all of them is lost, and stays bad.
        last_resort: bool,
    },
    /// Log [`crate::Op::Install`], then say [`Event::Logged`] or [`Event::LogRefused`].
    Log {
        version: Version,
        /// In the order of the chain.
        members: Vec<Member>,
        from_suspect: bool,
        /// Bytes that the chunk has now: what a writer that is gone leaves (R12).
        length: u64,
    },
    Install {
        to: Member,
        registration: Registration,
        version: Version,
        members: Vec<Member>,
    },
    /// It is over; the reconfiguration can be dropped.
    Done(Done),
    /// It is over, without effect but fences: replicas that were fenced serve nothing until a later reconfiguration.
    Failed(Failure),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    pub version: Version,
    pub members: Vec<Member>,
    /// Logged members that did not confirm the installation. The chunk is perhaps not writable (a complaint mends
    /// that). One whose server registered meanwhile was told to wait: give it a verdict now.
    pub unconfirmed: Vec<Member>,
    /// Old members and joining replicas that were left out, and are stale now.
    pub left_out: Vec<Member>,
}

/// Why a reconfiguration failed. All but [`Failure::Overtaken`] are worth another attempt, under a new version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// `fenced` tells whether healthy members were fenced: before that, they go on to serve reads.
    #[error("{have} replicas can be made identical, {minimum} are needed")]
    TooFew { have: usize, minimum: usize, fenced: bool },
    /// Every replica that answered is suspect, and these members have not: they may have what those lost (R3).
    #[error("only replicas that may have lost writes in a power loss are there, {} members are missing", missing.len())]
    OnlySuspects { missing: Vec<Member> },
    /// No member has contents that can be relied on.
    #[error("no replica is left that can be relied on")]
    NoSource,
    /// `unreadable`: by those who were to copy from it; put it into [`Plan::not_source`] of the next attempt. Whoever is
    /// the source then has all that was acknowledged, too.
    #[error("the source {} failed", disk)]
    SourceFailed { disk: DiskId, unreadable: bool },
    /// A replica or the log is ahead, or the chunk is gone: look again.
    #[error("the chunk has moved on")]
    Overtaken,
    #[error("{} members have not answered in time", missing.len())]
    TimedOut { missing: Vec<Member> },
}
