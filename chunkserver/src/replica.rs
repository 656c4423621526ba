//! The volatile side of one replica: whether it is writable, the order of its mutations, and whom it has answered
//! (protocol R1, R8, R9). No I/O: the store's side of a mutation is done by `apply`, the network's by `link`, and both
//! say here how far they have come.
//!
//! A replica is writable from a grant or an install in this process until its chain is closed: by a fence, by a store
//! that failed, by a downstream that does not answer. Serials count from 1 in that time. Three marks go up:
//! `done <= applied <= accepted` and `done <= downstream <= accepted`, where `done = min(applied, downstream)` is what
//! upstream has been told. Everything above `done` is in `pending`, so that downstream can be told again.
mod append;
mod chains;
mod pace;

pub use append::{Claim, Records, Wanted};
pub use chains::Chains;
pub use pace::Pace;

use crate::limits::REMEMBERED_SESSIONS_MAX;
use crate::refusal::Refusal;
use crate::store::Chunk;
use bytes::Bytes;
use cairn_io::Boot;
use cairn_proto::common::Member;
use cairn_proto::data::Write;
use cairn_types::{ChunkHandle, DiskId, Sequence, Serial, SessionId, Version};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};

/// A replica, by where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub disk: DiskId,
    pub handle: ChunkHandle,
}

/// What the waiting side of a mutation is told: the serial it has, once it is done here and below.
pub type Outcome = Result<Serial, Refusal>;

/// A mutation as it came in.
pub struct Mutation {
    pub session: SessionId,
    pub version: Version,
    pub header: Write,
    pub payload: Bytes,
    /// Its share of the memory for frames.
    pub room: Option<OwnedSemaphorePermit>,
}

struct Pending {
    session: SessionId,
    header: Write,
    payload: Bytes,
    _room: Option<OwnedSemaphorePermit>,
    waiters: Vec<oneshot::Sender<Outcome>>,
}

/// What of a mutation the store needs.
pub struct ToApply<P> {
    pub place: P,
    pub offset: u64,
    pub checksums: Vec<u32>,
    pub payload: Bytes,
}

/// A mutation was taken, or had been taken before.
pub struct Accepted {
    pub answer: oneshot::Receiver<Outcome>,
    /// Of the chain that took it.
    pub term: u64,
    /// The caller has to start `apply` (or `link`) for this replica: none runs.
    pub start_apply: bool,
    pub start_link: bool,
}

/// The chain that a replica is writable in, as it was installed or granted.
#[derive(Clone)]
pub struct Place {
    pub version: Version,
    pub members: Arc<[Member]>,
    /// From 0, the head.
    pub position: usize,
    pub chunk: Chunk,
}

impl Place {
    pub fn next(&self) -> Option<&Member> {
        self.members.get(self.position + 1)
    }
}

struct Chain<P> {
    place: P,
    head: bool,
    tail: bool,
    version: Version,
    accepted: u64,
    applied: u64,
    downstream: u64,
    done: u64,
    /// Of serials `done + 1 ..= accepted`.
    /// Each in a box of its own: a chunk that has none keeps no room for them.
    pending: VecDeque<Box<Pending>>,
    /// The chunk's length once all that is accepted is applied.
    end: u64,
    /// Of the head alone.
    records: Records,
    closed: Option<Refusal>,
    applying: bool,
    linking: bool,
    /// Since when downstream owes an answer.
    owed_since: Boot,
}

/// The last sequence of each session that was applied (R9): it goes with the bytes when they are copied (R4 †). The session
/// that wrote last comes last: it is mostly the only one, or the one that asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remembered(Vec<(SessionId, Sequence)>);

impl Remembered {
    pub fn of(entries: impl IntoIterator<Item = (SessionId, Sequence)>) -> Self {
        let mut table = Self::default();
        for (session, sequence) in entries {
            table.note(session, sequence);
        }
        table
    }

    pub fn last(&self, session: SessionId) -> Option<Sequence> {
        self.place_of(session).map(|at| self.0[at].1)
    }

    /// By their last writes, oldest first.
    pub fn entries(&self) -> impl Iterator<Item = (SessionId, Sequence)> {
        self.0.iter().copied()
    }

    fn place_of(&self, session: SessionId) -> Option<usize> {
        self.0.iter().rposition(|(s, _)| *s == session)
    }

    fn note(&mut self, session: SessionId, sequence: Sequence) {
        if let Some(at) = self.place_of(session) {
            self.0.remove(at);
        } else if self.0.len() == REMEMBERED_SESSIONS_MAX {
            // if the oldest comes back it is told OUT_OF_ORDER, and counts from 1 again
            self.0.remove(0);
        }
        self.0.push((session, sequence));
    }
}

/// Shared by all that touch one replica.
pub struct Replica<P = Place> {
    pub key: Key,
    state: Mutex<State<P>>,
    /// Orders on this replica, creation and deletion take turns.
    pub turn: tokio::sync::Mutex<()>,
    /// Records are given their places one at a time.
    pub appending: tokio::sync::Mutex<()>,
    pub pace: Pace,
    /// New frames for downstream, or the chain was closed.
    link: Notify,
    /// The apply task has nothing more to do.
    idle: Notify,
}

struct State<P> {
    chain: Option<Chain<P>>,
    /// Counts chains, so that a task of an earlier one notices.
    term: u64,
    remembered: Remembered,
}

impl<P: Clone> Replica<P> {
    pub fn new(key: Key) -> Self {
        Self {
            key,
            state: Mutex::new(State {
                chain: None,
                term: 0,
                remembered: Remembered::default(),
            }),
            turn: tokio::sync::Mutex::new(()),
            appending: tokio::sync::Mutex::new(()),
            pace: Pace::new(),
            link: Notify::new(),
            idle: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<P>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Becomes writable (R5, R10) with a chunk of `length` bytes: serials start. The one before must have drained.
    pub fn open(&self, place: P, version: Version, head: bool, tail: bool, length: u64) {
        let mut state = self.lock();
        debug_assert!(state.chain.as_ref().is_none_or(|c| !c.applying));
        state.term += 1;
        state.chain = Some(Chain {
            place,
            head,
            tail,
            version,
            accepted: 0,
            applied: 0,
            downstream: 0,
            done: 0,
            pending: VecDeque::new(),
            end: length,
            records: Records::of_chunk(length),
            closed: None,
            applying: false,
            linking: false,
            owed_since: Boot::default(),
        });
        self.link.notify_waiters();
    }

    /// The place in the chain, if it is or was writable in this process.
    pub fn place(&self) -> Option<P> {
        self.lock().chain.as_ref().map(|c| c.place.clone())
    }

    /// The place in the open chain of `term`.
    pub fn place_at(&self, term: u64) -> Option<P> {
        let state = self.lock();
        let chain = state
            .chain
            .as_ref()
            .filter(|c| state.term == term && c.closed.is_none())?;
        Some(chain.place.clone())
    }

    pub fn term(&self) -> u64 {
        self.lock().term
    }

    /// Last serial applied at the version that it was last writable at in this process; 0 if none.
    pub fn serial(&self) -> Serial {
        Serial(self.lock().chain.as_ref().map_or(0, |c| c.applied))
    }

    pub fn remembered(&self) -> Remembered {
        self.lock().remembered.clone()
    }

    /// Takes over the table that came with the source's bytes (R4 †).
    pub fn remember(&self, table: Remembered) {
        self.lock().remembered = table;
    }

    /// Checks a mutation and gives it its place in the order (R1, R9). What is accepted will be applied here unless
    /// the store fails, and is told to downstream unless the chain is closed.
    ///
    /// # Errors
    /// `StaleVersion`, `NotWritable`, `OutOfOrder`, `Invalid`, and why the chain was closed.
    pub fn accept(&self, mutation: Mutation, now: Boot) -> Result<Accepted, Refusal> {
        let Mutation {
            session,
            version,
            mut header,
            payload,
            room,
        } = mutation;
        let mut guard = self.lock();
        let State {
            chain,
            remembered,
            term,
        } = &mut *guard;
        let (chain, term) = (open_at(chain, version)?, *term);
        let sequence = Sequence(header.sequence);
        // a record, or padding, has a serial alone
        if chain.head && sequence.0 == 0 {
            return Err(Refusal::Invalid("sequences count from 1".into()));
        }
        let (sender, answer) = oneshot::channel();
        let accepted = |start_apply, start_link| Accepted {
            answer,
            term,
            start_apply,
            start_link,
        };
        if chain.head {
            if header.serial != 0 {
                return Err(Refusal::Invalid("a serial for the head, which draws them".into()));
            }
            let unapplied = chain.pending.iter().skip((chain.applied - chain.done) as usize);
            let waiting = unapplied.rev().find(|p| p.session == session && p.header.sequence > 0);
            let last = match waiting {
                Some(p) => Some(Sequence(p.header.sequence)),
                None => remembered.last(session),
            };
            match last {
                Some(last) if sequence <= last => {
                    // answered when everything that is accepted is done below, and so is this one
                    let serial = Serial(chain.accepted);
                    chain.wait(serial, sender);
                    return Ok(accepted(false, false));
                }
                Some(last) if sequence.0 == last.0 + 1 => {}
                None if sequence.0 == 1 => {}
                last => {
                    return Err(Refusal::OutOfOrder {
                        last: last.unwrap_or_default().0,
                    });
                }
            }
            header.serial = chain.accepted + 1;
        } else {
            if header.serial == 0 {
                return Err(Refusal::NotWritable("it is not the head of its chain"));
            }
            if header.serial <= chain.accepted {
                chain.wait(Serial(header.serial), sender);
                return Ok(accepted(false, false));
            }
            if header.serial != chain.accepted + 1 {
                return Err(Refusal::OutOfOrder { last: chain.accepted });
            }
        }
        let pending = Pending {
            session,
            header,
            payload,
            _room: room,
            waiters: vec![sender],
        };
        chain.push(pending, now);
        let (start_apply, start_link) = self.set_going(chain);
        Ok(accepted(start_apply, start_link))
    }

    /// Which tasks the caller has to start after something was accepted.
    fn set_going(&self, chain: &mut Chain<P>) -> (bool, bool) {
        let start_apply = !std::mem::replace(&mut chain.applying, true);
        let start_link = !chain.tail && !std::mem::replace(&mut chain.linking, true);
        if !chain.tail {
            self.link.notify_waiters();
        }
        (start_apply, start_link)
    }

    /// Resolves when all that is accepted now is done here and below.
    ///
    /// # Errors
    /// As [`Replica::accept`].
    pub fn settled(&self, version: Version) -> Result<oneshot::Receiver<Outcome>, Refusal> {
        let mut state = self.lock();
        let chain = open_at(&mut state.chain, version)?;
        let (sender, answer) = oneshot::channel();
        let serial = Serial(chain.accepted);
        chain.wait(serial, sender);
        Ok(answer)
    }

    /// Bytes of the next mutation for the store.
    pub fn next_len(&self) -> Option<usize> {
        let state = self.lock();
        let chain = state.chain.as_ref()?;
        let next = chain.pending.get((chain.applied - chain.done) as usize);
        next.map(|p| p.payload.len())
    }

    /// The next mutation for the store, in order; none: the task ends, and another is started by the next mutation.
    pub fn next_to_apply(&self) -> Option<ToApply<P>> {
        let mut state = self.lock();
        let chain = state.chain.as_mut()?;
        let next = chain.pending.get((chain.applied - chain.done) as usize);
        match next {
            Some(p) => Some(ToApply {
                place: chain.place.clone(),
                offset: p.header.offset,
                checksums: p.header.checksums.clone(),
                payload: p.payload.clone(),
            }),
            None => {
                chain.applying = false;
                self.idle.notify_waiters();
                None
            }
        }
    }

    /// The mutation that `next_to_apply` gave is applied.
    pub fn applied(&self) {
        let mut guard = self.lock();
        let State { chain, remembered, .. } = &mut *guard;
        let Some(chain) = chain else { return };
        if let Some(p) = chain.pending.get((chain.applied - chain.done) as usize) {
            if p.header.sequence > 0 {
                remembered.note(p.session, Sequence(p.header.sequence));
            }
            chain.applied += 1;
            chain.settle();
        }
    }

    /// The store refused the mutation that `next_to_apply` gave: it and all behind it will never be applied at this
    /// version. True if the chain was open until now.
    pub fn apply_failed(&self, why: Refusal) -> bool {
        let mut state = self.lock();
        let Some(chain) = &mut state.chain else { return false };
        let open = chain.close(why);
        chain.pending.truncate((chain.applied - chain.done) as usize);
        chain.accepted = chain.applied;
        chain.applying = false;
        self.idle.notify_waiters();
        self.link.notify_waiters();
        open
    }

    /// The next frame for downstream after serial `sent`; waits for it. None: the chain of `term` is closed.
    pub async fn next_to_send(&self, term: u64, sent: u64) -> Option<(Write, Bytes)> {
        loop {
            let notified = self.link.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            {
                let state = self.lock();
                let chain = state
                    .chain
                    .as_ref()
                    .filter(|c| state.term == term && c.closed.is_none())?;
                let from = sent.max(chain.done);
                if let Some(p) = chain.pending.get((from - chain.done) as usize) {
                    return Some((p.header.clone(), p.payload.clone()));
                }
            }
            notified.await;
        }
    }

    /// Resolves when the chain of `term` is closed.
    pub async fn closed(&self, term: u64) {
        loop {
            let notified = self.link.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            {
                let state = self.lock();
                let open = state.term == term && state.chain.as_ref().is_some_and(|c| c.closed.is_none());
                if !open {
                    return;
                }
            }
            notified.await;
        }
    }

    /// Downstream has done everything up to `serial`.
    ///
    /// # Errors
    /// `Invalid` if it can't have: it was never sent that.
    pub fn acknowledged(&self, term: u64, serial: u64, now: Boot) -> Result<(), Refusal> {
        let mut state = self.lock();
        let current = state.term == term;
        let Some(chain) = state.chain.as_mut().filter(|_| current) else {
            return Ok(());
        };
        if serial > chain.accepted {
            return Err(Refusal::Invalid(format!(
                "acknowledged {serial}, sent {}",
                chain.accepted
            )));
        }
        if serial > chain.downstream {
            chain.downstream = serial;
            chain.owed_since = now;
            chain.settle();
        }
        Ok(())
    }

    /// What downstream has acknowledged, and since when it owes more.
    pub fn owed(&self, term: u64) -> Option<(u64, Boot)> {
        let state = self.lock();
        let chain = state
            .chain
            .as_ref()
            .filter(|c| state.term == term && c.closed.is_none())?;
        Some((chain.downstream, chain.owed_since))
    }

    /// True if downstream owes nothing (or the chain is closed): the link task ends, another is started by the next
    /// mutation.
    pub fn link_done(&self, term: u64) -> bool {
        let mut state = self.lock();
        let current = state.term == term;
        let Some(chain) = state.chain.as_mut().filter(|_| current) else {
            return true;
        };
        let done = chain.closed.is_some() || chain.downstream == chain.accepted;
        if done {
            chain.linking = false;
        }
        done
    }

    /// Ends the chain of `term` (of any, if none is given): what waits is answered with `why`, nothing more is
    /// accepted, and what was accepted is still applied (R2 †). True if it was open until now.
    pub fn close(&self, term: Option<u64>, why: Refusal) -> bool {
        let mut state = self.lock();
        if term.is_some_and(|t| t != state.term) {
            return false;
        }
        let Some(chain) = &mut state.chain else { return false };
        let open = chain.close(why);
        self.link.notify_waiters();
        open
    }

    /// Resolves when nothing accepted is left to apply. Only after `close` can that last.
    pub async fn drained(&self) {
        loop {
            let notified = self.idle.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.lock().chain.as_ref().is_none_or(|c| !c.applying) {
                return;
            }
            notified.await;
        }
    }
}

/// The chain, if it is open at `version`.
fn open_at<P>(chain: &mut Option<Chain<P>>, version: Version) -> Result<&mut Chain<P>, Refusal> {
    match chain {
        None => Err(Refusal::NotWritable("its process started after it was installed")),
        // the store has a higher version by now
        Some(Chain {
            closed: Some(Refusal::Fenced),
            ..
        }) => Err(Refusal::Fenced),
        Some(chain) if chain.version != version => Err(Refusal::StaleVersion { have: chain.version }),
        Some(Chain { closed: Some(why), .. }) => Err(why.clone()),
        Some(chain) => Ok(chain),
    }
}

impl<P> Chain<P> {
    /// The next serial is this mutation's.
    fn push(&mut self, pending: Pending, now: Boot) {
        if self.downstream == self.accepted {
            self.owed_since = now;
        }
        self.accepted += 1;
        if self.tail {
            self.downstream = self.accepted;
        }
        let end = pending.header.offset + pending.payload.len() as u64;
        self.end = self.end.max(end);
        self.pending.push_back(Box::new(pending));
    }

    /// Answers `waiter` once `serial` is done.
    fn wait(&mut self, serial: Serial, waiter: oneshot::Sender<Outcome>) {
        if serial.0 <= self.done {
            // whoever waited may have gone
            let _ = waiter.send(Ok(serial));
        } else {
            self.pending[(serial.0 - self.done - 1) as usize].waiters.push(waiter);
        }
    }

    fn settle(&mut self) {
        // a closed chain owes nobody anything: what is applied can go
        let to = match self.closed {
            Some(_) => self.applied,
            None => self.applied.min(self.downstream),
        };
        while self.done < to {
            self.done += 1;
            for waiter in self.pending.pop_front().into_iter().flat_map(|p| p.waiters) {
                let _ = waiter.send(Ok(Serial(self.done)));
            }
        }
    }

    fn close(&mut self, why: Refusal) -> bool {
        for pending in &mut self.pending {
            for waiter in pending.waiters.drain(..) {
                let _ = waiter.send(Err(why.clone()));
            }
        }
        if self.closed.is_some() {
            return false;
        }
        self.closed = Some(why);
        self.settle();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::sync::oneshot::error::TryRecvError;

    const V: Version = Version::new(1, 1);

    fn replica(head: bool, tail: bool) -> Replica<()> {
        let key = Key {
            disk: DiskId::from_bits(1),
            handle: ChunkHandle(1),
        };
        let replica = Replica::new(key);
        replica.open((), V, head, tail, 0);
        replica
    }

    fn mutation(session: u128, sequence: u64, serial: u64) -> Mutation {
        let header = Write {
            sequence,
            serial,
            ..Write::default()
        };
        Mutation {
            session: SessionId::from_bits(session),
            version: V,
            header,
            payload: Bytes::new(),
            room: None,
        }
    }

    fn accept(replica: &Replica<()>, session: u128, sequence: u64, serial: u64) -> Result<Accepted, Refusal> {
        replica.accept(mutation(session, sequence, serial), Boot::default())
    }

    fn apply(replica: &Replica<()>, count: usize) {
        for _ in 0..count {
            replica.next_to_apply().unwrap();
            replica.applied();
        }
    }

    fn answer(accepted: &mut Accepted) -> Option<u64> {
        match accepted.answer.try_recv() {
            Ok(outcome) => Some(outcome.unwrap().0),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Closed) => panic!("never answered"),
        }
    }

    #[test]
    fn r1_upstream_hears_yes_when_it_is_applied_here_and_acknowledged_below() {
        let head = replica(true, false);
        let mut first = accept(&head, 1, 1, 0).unwrap();
        assert!(first.start_apply && first.start_link);
        let mut second = accept(&head, 1, 2, 0).unwrap();
        assert!(!second.start_apply && !second.start_link);
        apply(&head, 1);
        assert_eq!(answer(&mut first), None);
        head.acknowledged(first.term, 2, Boot::default()).unwrap();
        assert_eq!((answer(&mut first), answer(&mut second)), (Some(1), None));
        apply(&head, 1);
        assert_eq!(answer(&mut second), Some(2));
        assert!(head.acknowledged(first.term, 3, Boot::default()).is_err());
    }

    #[test]
    fn r1_a_member_takes_exactly_the_next_serial_and_knows_the_ones_before() {
        let member = replica(false, true);
        assert!(matches!(accept(&member, 1, 1, 2), Err(Refusal::OutOfOrder { last: 0 })));
        let mut first = accept(&member, 1, 1, 1).unwrap();
        // sent again on a new connection
        let mut again = accept(&member, 1, 1, 1).unwrap();
        assert!(!again.start_apply);
        apply(&member, 1);
        assert_eq!((answer(&mut first), answer(&mut again)), (Some(1), Some(1)));
        assert_eq!(answer(&mut accept(&member, 1, 1, 1).unwrap()), Some(1));
        assert_eq!(member.serial(), Serial(1));
        assert!(matches!(accept(&member, 1, 2, 0), Err(Refusal::NotWritable(_))));
    }

    #[test]
    fn r9_a_repeated_sequence_is_answered_only_once_downstream_has_acknowledged() {
        let head = replica(true, false);
        let first = accept(&head, 1, 1, 0).unwrap();
        apply(&head, 1);
        let mut again = accept(&head, 1, 1, 0).unwrap();
        assert_eq!(answer(&mut again), None);
        head.acknowledged(first.term, 1, Boot::default()).unwrap();
        assert_eq!(answer(&mut again), Some(1));
        assert_eq!(head.serial(), Serial(1));
    }

    #[test]
    fn r9_what_was_accepted_and_not_applied_is_not_remembered() {
        let head = replica(true, true);
        accept(&head, 1, 1, 0).unwrap();
        accept(&head, 1, 2, 0).unwrap();
        assert!(matches!(accept(&head, 1, 4, 0), Err(Refusal::OutOfOrder { last: 2 })));
        apply(&head, 1);
        head.next_to_apply().unwrap();
        assert!(head.apply_failed(Refusal::NoSpace));
        assert_eq!(head.remembered().last(SessionId::from_bits(1)), Some(Sequence(1)));
        assert!(matches!(accept(&head, 1, 2, 0), Err(Refusal::NoSpace)));
    }

    #[test]
    fn r2_a_closed_chain_answers_all_who_wait_and_still_applies_what_it_took() {
        let head = replica(true, false);
        let waiting: Vec<_> = (1..=3).map(|n| accept(&head, 1, n, 0).unwrap()).collect();
        apply(&head, 1);
        assert!(head.close(None, Refusal::Fenced));
        for mut accepted in waiting {
            assert!(matches!(accepted.answer.try_recv(), Ok(Err(Refusal::Fenced))));
        }
        assert!(matches!(accept(&head, 1, 4, 0), Err(Refusal::Fenced)));
        apply(&head, 2);
        assert!(head.next_to_apply().is_none());
        assert_eq!(head.serial(), Serial(3));
        assert_eq!(head.remembered().last(SessionId::from_bits(1)), Some(Sequence(3)));
    }

    #[tokio::test]
    async fn r2_drained_waits_for_the_last_accepted_mutation() {
        let head = Arc::new(replica(true, true));
        accept(&head, 1, 1, 0).unwrap();
        head.close(None, Refusal::Fenced);
        let waiting = tokio::spawn({
            let head = head.clone();
            async move { head.drained().await }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!waiting.is_finished());
        apply(&head, 1);
        assert!(head.next_to_apply().is_none());
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn r1_a_new_connection_is_given_everything_that_is_not_acknowledged() {
        let head = replica(true, false);
        let term = accept(&head, 1, 1, 0).unwrap().term;
        accept(&head, 1, 2, 0).unwrap();
        accept(&head, 1, 3, 0).unwrap();
        apply(&head, 3);
        head.acknowledged(term, 1, Boot::default()).unwrap();
        let mut sent = vec![];
        let mut last = 0;
        for _ in 0..2 {
            let (header, _) = head.next_to_send(term, last).await.unwrap();
            last = header.serial;
            sent.push(last);
        }
        assert_eq!(sent, [2, 3]);
        assert!(!head.link_done(term));
        head.acknowledged(term, 3, Boot::default()).unwrap();
        assert!(head.link_done(term));
        head.close(None, Refusal::Fenced);
        assert!(head.next_to_send(term, 3).await.is_none());
    }

    #[test]
    fn r5_serials_start_anew_and_an_earlier_term_says_nothing() {
        let head = replica(true, false);
        let old = accept(&head, 1, 1, 0).unwrap().term;
        apply(&head, 1);
        assert!(head.next_to_apply().is_none());
        head.close(None, Refusal::Fenced);
        head.open((), V, true, false, 0);
        assert_eq!(head.serial(), Serial(0));
        let mut next = accept(&head, 1, 2, 0).unwrap();
        apply(&head, 1);
        head.acknowledged(old, 1, Boot::default()).unwrap();
        assert_eq!(answer(&mut next), None);
        head.acknowledged(next.term, 1, Boot::default()).unwrap();
        assert_eq!(answer(&mut next), Some(1));
    }

    #[test]
    fn r9_the_table_is_bounded_and_forgets_who_was_silent_longest() {
        let sessions = 0..REMEMBERED_SESSIONS_MAX as u128 + 1;
        let mut table = Remembered::of(sessions.map(|s| (SessionId::from_bits(s), Sequence(7))));
        assert_eq!(table.entries().count(), REMEMBERED_SESSIONS_MAX);
        assert_eq!(table.last(SessionId::from_bits(0)), None);
        assert_eq!(table.last(SessionId::from_bits(1)), Some(Sequence(7)));
        // who has written since is not forgotten for what came between
        table.note(SessionId::from_bits(1), Sequence(8));
        table.note(SessionId::from_bits(0), Sequence(1));
        assert_eq!(table.entries().count(), REMEMBERED_SESSIONS_MAX);
        assert_eq!(table.last(SessionId::from_bits(1)), Some(Sequence(8)));
        assert_eq!(table.last(SessionId::from_bits(2)), None);
    }
}
