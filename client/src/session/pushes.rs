//! The master's pushes: they take effect in this client first, then go to whoever took the receiver (the mount), and
//! are acknowledged to the master when every part of them has been done there too.
use crate::Invalidated;
use crate::limits::INVALIDATIONS_MAX;
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, mpsc};

/// What the master pushed; dropping it (or `done`) tells the master that it took effect here.
#[derive(Debug)]
pub struct Invalidation {
    what: Invalidated,
    _debts: Vec<Arc<Debt>>,
}

impl Invalidation {
    pub fn what(&self) -> &Invalidated {
        &self.what
    }
    /// It has taken effect.
    pub fn done(self) {}
}

/// The pushes of one connection that have not taken effect yet. Numbers are the connection's own.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    state: Mutex<LedgerState>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct LedgerState {
    received: u64,
    open: BTreeSet<u64>,
}

impl Ledger {
    fn state(&self) -> MutexGuard<'_, LedgerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn receive(self: &Arc<Self>, number: u64) -> Arc<Debt> {
        let mut state = self.state();
        state.received = state.received.max(number);
        state.open.insert(number);
        Arc::new(Debt {
            ledger: self.clone(),
            number,
        })
    }

    /// Pushes up to this number have taken effect.
    pub fn done(&self) -> u64 {
        let state = self.state();
        state.open.first().map_or(state.received, |first| first - 1)
    }

    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// One push; paid when dropped.
#[derive(Debug)]
pub(super) struct Debt {
    ledger: Arc<Ledger>,
    number: u64,
}

impl Drop for Debt {
    fn drop(&mut self) {
        self.ledger.state().open.remove(&self.number);
        self.ledger.changed.notify_one();
    }
}

/// The queue to the receiver. Bounded: when the receiver is too slow all that waits becomes one "everything".
pub(super) struct Pushes {
    queue: Mutex<Queue>,
    arrived: Notify,
}

struct Queue {
    waiting: VecDeque<Invalidation>,
    taken: bool,
    /// Given to the task that fills the receiver.
    sender: Option<mpsc::Sender<Invalidation>>,
}

impl Pushes {
    pub fn new() -> Self {
        let queue = Queue {
            waiting: VecDeque::new(),
            taken: false,
            sender: None,
        };
        Self {
            queue: Mutex::new(queue),
            arrived: Notify::new(),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn take_receiver(&self) -> mpsc::Receiver<Invalidation> {
        let (sender, receiver) = mpsc::channel(1);
        let mut queue = self.queue();
        if !queue.taken {
            queue.taken = true;
            queue.sender = Some(sender);
            self.arrived.notify_one();
        }
        receiver
    }

    /// Nobody has taken the receiver: done at once.
    pub fn add(&self, what: Invalidated, debts: Vec<Arc<Debt>>) {
        let mut queue = self.queue();
        if !queue.taken {
            return;
        }
        queue.waiting.push_back(Invalidation { what, _debts: debts });
        if queue.waiting.len() > INVALIDATIONS_MAX {
            let mut debts: Vec<Arc<Debt>> = queue.waiting.drain(..).flat_map(|i| i._debts).collect();
            debts.dedup_by(|a, b| Arc::ptr_eq(a, b));
            queue.waiting.push_back(Invalidation {
                what: Invalidated::Everything,
                _debts: debts,
            });
        }
        drop(queue);
        self.arrived.notify_one();
    }

    /// Hands on what arrives, for ever.
    pub async fn forward(&self) {
        let mut sender = None;
        loop {
            let next = {
                let mut queue = self.queue();
                if let Some(taken) = queue.sender.take() {
                    sender = Some(taken);
                }
                if sender.is_some() {
                    queue.waiting.pop_front()
                } else {
                    None
                }
            };
            match (next, &sender) {
                (Some(invalidation), Some(to)) => {
                    if to.send(invalidation).await.is_err() {
                        // the mount is gone: there is nothing left to invalidate
                        sender = None;
                        let mut queue = self.queue();
                        queue.taken = false;
                        queue.waiting.clear();
                    }
                }
                _ => self.arrived.notified().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pushes_are_acknowledged_up_to_the_first_that_is_not_done() {
        let ledger = Arc::new(Ledger::default());
        let (one, two, three) = (ledger.receive(1), ledger.receive(2), ledger.receive(3));
        assert_eq!(ledger.done(), 0);
        drop(two);
        assert_eq!(ledger.done(), 0);
        drop(one);
        assert_eq!(ledger.done(), 2);
        drop(three);
        assert_eq!(ledger.done(), 3);
    }

    #[tokio::test]
    async fn a_slow_receiver_gets_one_everything_and_no_debt_is_forgotten() {
        let (ledger, pushes) = (Arc::new(Ledger::default()), Pushes::new());
        let mut receiver = pushes.take_receiver();
        let count = INVALIDATIONS_MAX as u64 + 1;
        for n in 1..=count {
            let what = Invalidated::Inode {
                ino: cairn_types::Inode(n),
                data: true,
            };
            pushes.add(what, vec![ledger.receive(n)]);
        }
        assert_eq!(ledger.done(), 0);
        let got = tokio::select! {
            got = receiver.recv() => got.unwrap(),
            () = pushes.forward() => unreachable!(),
        };
        assert_eq!(got.what(), &Invalidated::Everything);
        got.done();
        assert_eq!(ledger.done(), count);
    }
}
