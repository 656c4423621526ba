//! What happened lately, for people: in the status, newest last.
use crate::limits::{EVENTS_MAX, REPAIR_QUEUE_MAX};
use cairn_proto::admin::Event;
use cairn_types::{ChunkHandle, DiskId};
use std::collections::{BTreeSet, VecDeque};

#[derive(Default)]
pub struct Events {
    ring: VecDeque<Event>,
    /// Replicas found corrupt, and mended or replaced, since this master started.
    pub corrupt_found: u64,
    pub corrupt_repaired: u64,
    /// Found, and neither mended nor replaced yet.
    corrupt: BTreeSet<(ChunkHandle, DiskId)>,
}

impl Events {
    pub fn add(&mut self, at_ns: i64, text: String) {
        if self.ring.len() == EVENTS_MAX {
            self.ring.pop_front();
        }
        self.ring.push_back(Event { at_ns, text });
    }

    /// False: it is known already; a scrub, readers and heartbeats tell of the same replica.
    pub fn corrupt(&mut self, handle: ChunkHandle, disk: DiskId) -> bool {
        let key = (handle, disk);
        if self.corrupt.contains(&key) {
            return false;
        }
        if self.corrupt.len() < REPAIR_QUEUE_MAX {
            self.corrupt.insert(key);
        }
        self.corrupt_found += 1;
        true
    }

    /// Of the chunk's corrupt replicas, those for which `is_over` holds count as repaired. Gives how many.
    pub fn repaired(&mut self, handle: ChunkHandle, is_over: impl Fn(DiskId) -> bool) -> usize {
        let before = self.corrupt.len();
        self.corrupt.retain(|(h, disk)| *h != handle || !is_over(*disk));
        let repaired = before - self.corrupt.len();
        self.corrupt_repaired += repaired as u64;
        repaired
    }

    pub fn all(&self) -> Vec<Event> {
        self.ring.iter().cloned().collect()
    }
}
