use super::clock::elapsed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// One thing that a simulated disk or connection did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Simulated time since the start.
    pub at: Duration,
    pub what: &'static str,
    /// Hash of where: a path, or a connection's two ends.
    pub place: u64,
    pub offset: u64,
    pub len: u64,
    /// Hash of the bytes.
    pub content: u64,
}

/// Everything that a simulation's disks and connections did, folded into one number: two runs are the same when it
/// is. Clones share it.
#[derive(Clone, Default)]
pub struct Trace(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    hash: u64,
    count: u64,
    kept: Option<Vec<Event>>,
}

impl Trace {
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps the events themselves too, to find where two runs part.
    pub fn keeping_events() -> Self {
        Self(Arc::new(Mutex::new(Inner {
            kept: Some(vec![]),
            ..Inner::default()
        })))
    }

    /// (hash of all events so far, their number)
    pub fn digest(&self) -> (u64, u64) {
        let inner = self.lock();
        (inner.hash, inner.count)
    }

    /// The events, when they are kept.
    pub fn events(&self) -> Vec<Event> {
        self.lock().kept.clone().unwrap_or_default()
    }

    /// A milestone of the scenario itself.
    pub fn mark(&self, what: &'static str, value: u64) {
        self.record(what, value, 0, &[]);
    }

    pub(super) fn record(&self, what: &'static str, place: u64, offset: u64, bytes: &[u8]) {
        let event = Event {
            at: elapsed().unwrap_or_default(),
            what,
            place,
            offset,
            len: bytes.len() as u64,
            content: hash(bytes),
        };
        let mut inner = self.lock();
        let at = event.at.as_nanos() as u64;
        let words = [
            at,
            hash(what.as_bytes()),
            event.place,
            event.offset,
            event.len,
            event.content,
        ];
        inner.hash = words.iter().fold(inner.hash, |h, word| fold(h, *word));
        inner.count += 1;
        if let Some(kept) = &mut inner.kept {
            kept.push(event);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fold(hash: u64, word: u64) -> u64 {
    (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95)
}

/// Not for keys of maps: only to tell two runs apart, the same in every process.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let h = words.iter().fold(0, |h, word| fold(h, u64::from_le_bytes(*word)));
    rest.iter().fold(h, |h, byte| fold(h, u64::from(*byte) | 0x100))
}
