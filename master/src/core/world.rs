//! Everything that the master knows, in one place.
use crate::chunkservers::{Garbage, Servers};
use crate::config::MasterConfig;
use crate::events::Events;
use crate::reconfiguration::Reconfigurations;
use crate::repair::Repair;
use crate::rot::Rot;
use crate::session::Sessions;
use cairn_metadata::State;
use cairn_metadata::lease::LeaseTable;
use cairn_proto::common;
use cairn_types::{ClusterId, DiskId, Inode, Registration, Version};
use std::collections::BTreeSet;
use std::time::Duration;

pub struct World {
    pub cluster: ClusterId,
    /// What the log amounts to. Only the writer changes it.
    pub state: State,
    /// Since the machine started, when this master did.
    pub started: Duration,
    /// Versions and registrations drawn since the epoch record.
    counter: u64,
    pub leases: LeaseTable,
    pub servers: Servers,
    pub sessions: Sessions,
    pub reconfigurations: Reconfigurations,
    pub repair: Repair,
    pub rot: Rot,
    pub garbage: Garbage,
    pub events: Events,
    /// Inodes without a name that nobody has open: to be released.
    pub closed_orphans: BTreeSet<Inode>,
    /// Of these, the release is on its way into the log: nobody opens them any more.
    pub releasing: BTreeSet<Inode>,
    /// Those of the time before this start have been gone through.
    pub orphans_found: bool,
    /// Index of the last checkpoint.
    pub checkpoint: u64,
    /// When the records began to be appended that the operation log has not taken yet.
    pub appending: Option<Duration>,
    /// Reports are not all in (protocol R11): nothing is deleted or cloned.
    pub safe_mode: bool,
}

impl World {
    /// `state` has had this start's epoch record applied.
    pub fn new(state: State, cluster: ClusterId, config: &MasterConfig, checkpoint: u64, now: Duration) -> Self {
        let longest = Duration::from_millis(state.lease_ms_longest());
        let mut sessions = Sessions::default();
        for id in state.sessions() {
            sessions.ensure(id, "", "", now);
        }
        Self {
            cluster,
            started: now,
            counter: 0,
            leases: LeaseTable::new(config.lease(), longest, now),
            servers: Servers::new(&state),
            sessions,
            reconfigurations: Reconfigurations::default(),
            repair: Repair::default(),
            rot: Rot::default(),
            garbage: Garbage::default(),
            events: Events::default(),
            closed_orphans: BTreeSet::new(),
            releasing: BTreeSet::new(),
            orphans_found: false,
            checkpoint,
            appending: None,
            safe_mode: true,
            state,
        }
    }

    /// A version that has never been drawn and never will be again, above all that were (protocol R2).
    pub fn draw_version(&mut self) -> Version {
        self.counter += 1;
        Version::new(self.state.epoch(), self.counter)
    }

    pub fn draw_registration(&mut self) -> Registration {
        self.counter += 1;
        Registration::new(self.state.epoch(), self.counter)
    }

    /// The highest version drawn so far.
    pub fn highest_version(&self) -> Version {
        Version::new(self.state.epoch(), self.counter)
    }

    pub fn member(&self, disk: DiskId) -> common::Member {
        self.servers.member(disk)
    }

    pub fn location(&self, chunk: &cairn_metadata::ChunkInfo) -> common::Location {
        common::Location {
            handle: chunk.handle.0,
            version: Some(chunk.version.into()),
            members: chunk.members.iter().map(|disk| self.member(*disk)).collect(),
            inode: chunk.inode.0,
            index: chunk.index,
            from_suspect: chunk.from_suspect.map(Into::into),
            granted: chunk.granted && !chunk.committed,
            epoch: self.state.epoch(),
        }
    }

    /// Chunks that are written no more do not weigh on where the next ones go.
    pub fn written(&mut self, now: Duration) {
        for (handle, created) in self.sessions.take_written() {
            if let Some(chunk) = self.state.chunk(handle) {
                self.servers.written(&chunk.members, now.saturating_sub(created));
            }
        }
    }

    /// Clients have had the time to declare what they have open since this master started.
    pub fn orphans_settled(&self, config: &MasterConfig, now: Duration) -> bool {
        now.saturating_sub(self.started) >= config.session_timeout()
    }
}
