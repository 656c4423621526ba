//! What the master has yet to be told: replicas that changed, and troubles.
use crate::limits::TROUBLES_MAX;
use crate::refusal::Refusal;
use crate::replica::Key;
use crate::store::Damage;
use bytes::Bytes;
use cairn_proto::chunkserver::Trouble;
use cairn_proto::common::ErrorCode;
use cairn_types::{DiskId, Version};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

#[derive(Default)]
pub struct Reports {
    state: Mutex<State>,
    /// There is something that should not wait for the next heartbeat.
    pub urgent: Notify,
}

#[derive(Default)]
struct State {
    changed: BTreeSet<Key>,
    troubles: VecDeque<Trouble>,
    /// Disks known to have failed, and whether the heartbeat that says so has yet to go out.
    failed: BTreeSet<DiskId>,
    disks: bool,
    errors: BTreeMap<DiskId, u64>,
}

impl Reports {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The replica appeared, changed its state or version, was found damaged, or is gone.
    pub fn changed(&self, key: Key) {
        self.lock().changed.insert(key);
    }

    /// Something on the disk was not what it should be.
    pub fn count_error(&self, disk: DiskId) {
        *self.lock().errors.entry(disk).or_default() += 1;
    }

    /// Errors of the disk since the process started.
    pub fn errors(&self, disk: DiskId) -> u64 {
        self.lock().errors.get(&disk).copied().unwrap_or_default()
    }

    /// True if that is news: then the next heartbeat goes out at once.
    pub fn disk_failed(&self, disk: DiskId) -> bool {
        let mut state = self.lock();
        let news = state.failed.insert(disk);
        *state.errors.entry(disk).or_default() += 1;
        state.disks |= news;
        drop(state);
        if news {
            self.urgent.notify_one();
        }
        news
    }

    pub fn take_disk_failed(&self) -> bool {
        std::mem::take(&mut self.lock().disks)
    }

    fn trouble(&self, trouble: Trouble) {
        let mut state = self.lock();
        if state.troubles.contains(&trouble) {
            return;
        }
        if state.troubles.len() == TROUBLES_MAX {
            state.troubles.pop_front();
        }
        state.troubles.push_back(trouble);
        drop(state);
        self.urgent.notify_one();
    }

    /// The replica is damaged.
    pub fn corrupt(&self, key: Key, version: Version, damage: &Damage) {
        tracing::warn!(chunk = %key.handle, disk = %key.disk, %version, "replica damaged: {damage}");
        self.changed(key);
        self.trouble(Trouble {
            bad_blocks: damage.blocks.iter().copied().collect(),
            bad_header: damage.header.is_some(),
            bad_table: damage.table,
            ..trouble(key, version, ErrorCode::ErrorCorrupt)
        });
    }

    /// The chain cannot go on because of this replica's store, or of the member below.
    pub fn broken(&self, key: Key, version: Version, why: &Refusal) {
        let culprit = match why {
            Refusal::ChainBroken { culprit, .. } => Some(culprit.clone()),
            Refusal::Corrupt(damage) => return self.corrupt(key, version, damage),
            Refusal::NoSpace => None,
            Refusal::DiskFailed(_) => {
                self.disk_failed(key.disk);
                None
            }
            // the member that refused tells what it knows
            _ => return,
        };
        self.trouble(Trouble {
            culprit,
            ..trouble(key, version, why.code())
        });
    }

    pub fn take_troubles(&self) -> VecDeque<Trouble> {
        std::mem::take(&mut self.lock().troubles)
    }

    /// Up to `limit` changed replicas; they are not reported again unless they change again.
    pub fn take_changed(&self, limit: usize) -> Vec<Key> {
        let mut state = self.lock();
        let keys: Vec<Key> = state.changed.iter().take(limit).copied().collect();
        for key in &keys {
            state.changed.remove(key);
        }
        keys
    }

    /// A whole inventory follows.
    pub fn forget_changed(&self) {
        self.lock().changed.clear();
    }
}

fn trouble(key: Key, version: Version, code: ErrorCode) -> Trouble {
    Trouble {
        handle: key.handle.0,
        disk: Bytes::copy_from_slice(key.disk.as_bytes()),
        version: Some(version.into()),
        code: code.into(),
        ..Trouble::default()
    }
}
