//! What happened lately, for people: in the status, newest last.
use crate::limits::EVENTS_MAX;
use cairn_proto::admin::Event;
use std::collections::VecDeque;

#[derive(Default)]
pub struct Events {
    ring: VecDeque<Event>,
    /// Replicas found corrupt, and mended or replaced, since this master started.
    pub corrupt_found: u64,
    pub corrupt_repaired: u64,
}

impl Events {
    pub fn add(&mut self, at_ns: i64, text: String) {
        if self.ring.len() == EVENTS_MAX {
            self.ring.pop_front();
        }
        self.ring.push_back(Event { at_ns, text });
    }

    pub fn all(&self) -> Vec<Event> {
        self.ring.iter().cloned().collect()
    }
}
