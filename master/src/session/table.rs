//! What the master remembers of sessions in memory: who has what open, who has seen what, who may write where.
//!
//! Soft state: a client declares its part again whenever it connects ([`Sessions::declare`]); orphans are kept through
//! the first session timeout after a start, so that clients have the time to. A client forgets its caches whenever it
//! connects, so pushes belong to one stream and are numbered from 1 on each.
//!
//! An answer to a change is held back until the other clients that had seen what changed have confirmed the push
//! ([`Barrier`]), for a bounded time: so whoever hears of the change by another way finds it there (promise 6).
use crate::limits::{INTEREST_MAX, INVALIDATIONS_MAX, PUSH_INVALIDATIONS_MAX, PUSHES_MAX};
use cairn_proto::session::{FromMaster, Invalidation, Push, from_master};
use cairn_types::limits::SESSION_OPEN_MAX;
use cairn_types::{ChunkHandle, Inode, Sequence, SessionId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

pub type Outbound = mpsc::Sender<Result<FromMaster, tonic::Status>>;

/// A stream of a session. A newer one takes the place of an older.
#[derive(Clone)]
pub struct Connection {
    pub number: u64,
    pub out: Outbound,
    /// Cancelled when another stream takes over, or the session ends.
    pub over: CancellationToken,
}

impl Connection {
    /// Ends the stream though calls under way hold it: the client asks again, on its next one.
    pub fn give_up(&self, why: &str) {
        // a stream that is full is not read, and nobody waits at it
        let _ = self.out.try_send(Err(tonic::Status::unavailable(why)));
        self.over.cancel();
    }
}

pub struct Session {
    pub description: String,
    /// The client's host label; for placement.
    pub host: String,
    pub connection: Option<Connection>,
    /// When it last said anything.
    pub heard: Duration,
    /// Calls under way, for the bound.
    pub calls: usize,
    /// An end has been logged or is on its way there.
    pub ending: bool,
    open: BTreeSet<Inode>,
    /// Opens whose answers the client has not acknowledged: it may not know of them when it declares.
    unanswered: BTreeMap<Sequence, Inode>,
    /// Opens that were done, of calls not acknowledged: one that is sent again does nothing.
    done: BTreeSet<Sequence>,
    /// Chunks that it may be writing, by file: fenced when it ends (protocol R12). With when it created them, if it did.
    writable: BTreeMap<Inode, BTreeMap<ChunkHandle, Option<Duration>>>,
    interest: BTreeSet<Inode>,
    pending: VecDeque<Invalidation>,
    /// More has changed than `pending` holds.
    everything: bool,
    pushes: u64,
    pushes_done: u64,
    /// Invalidations queued in all, and how many of them the client has taken in.
    queued: u64,
    taken_in: TakenIn,
    /// Of pushes not confirmed: (number, `queued` when it was sent).
    sent: VecDeque<(u64, u64)>,
    /// It did not confirm in time: nobody waits for it until it has caught up.
    laggard: bool,
}

/// How many invalidations a client has taken in; all that there will ever be, when its session ends. Those who wait are
/// woken in the order in which they came (tokio's `watch` wakes in an order of chance, and no simulation would repeat).
struct TakenIn(Arc<Count>);

#[derive(Debug, Default)]
struct Count {
    now: AtomicU64,
    changed: Notify,
}

impl Count {
    fn get(&self) -> u64 {
        self.now.load(Ordering::Acquire)
    }

    fn set(&self, now: u64) {
        self.now.store(now, Ordering::Release);
        self.changed.notify_waiters();
    }

    async fn reaches(&self, mark: u64) {
        loop {
            let changed = self.changed.notified();
            if self.get() >= mark {
                return;
            }
            changed.await;
        }
    }
}

impl Drop for TakenIn {
    fn drop(&mut self) {
        self.0.set(u64::MAX);
    }
}

/// What others have yet to take in of a change.
#[derive(Debug, Clone, Default)]
pub struct Barrier(Vec<(SessionId, Arc<Count>, u64)>);

impl Barrier {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Until all have, or their sessions have ended. Gives those that have not within `patience`.
    pub async fn pass(self, patience: Duration) -> Vec<SessionId> {
        let all = async {
            for (_, taken_in, mark) in &self.0 {
                taken_in.reaches(*mark).await;
            }
        };
        match tokio::time::timeout(patience, all).await {
            Ok(()) => Vec::new(),
            Err(_) => self
                .0
                .iter()
                .filter(|(_, taken_in, mark)| taken_in.get() < *mark)
                .map(|(id, _, _)| *id)
                .collect(),
        }
    }
}

impl Session {
    fn new(description: String, host: String, now: Duration) -> Self {
        Self {
            description,
            host,
            connection: None,
            heard: now,
            calls: 0,
            ending: false,
            open: BTreeSet::new(),
            unanswered: BTreeMap::new(),
            done: BTreeSet::new(),
            writable: BTreeMap::new(),
            interest: BTreeSet::new(),
            pending: VecDeque::new(),
            everything: false,
            pushes: 0,
            pushes_done: 0,
            queued: 0,
            taken_in: TakenIn(Arc::default()),
            sent: VecDeque::new(),
            laggard: false,
        }
    }

    /// It has as many inodes open as it may.
    pub fn is_full(&self) -> bool {
        self.open.len() >= SESSION_OPEN_MAX
    }

    /// It has not been sent all that there is to tell it.
    pub fn is_behind(&self) -> bool {
        self.everything || !self.pending.is_empty()
    }

    pub fn may_write(&self, inode: Inode, handle: ChunkHandle) -> bool {
        self.writable
            .get(&inode)
            .is_some_and(|chunks| chunks.contains_key(&handle))
    }

    fn push_invalidation(&mut self, invalidation: Invalidation) {
        self.queued += 1;
        if self.everything || self.pending.back() == Some(&invalidation) {
            return;
        }
        if self.pending.len() >= INVALIDATIONS_MAX {
            self.pending.clear();
            self.everything = true;
        } else {
            self.pending.push_back(invalidation);
        }
    }

    /// Sends what is pending, as far as the client keeps up.
    fn flush(&mut self) {
        let Some(connection) = &self.connection else { return };
        while (self.everything || !self.pending.is_empty()) && self.pushes - self.pushes_done < PUSHES_MAX {
            let Ok(slot) = connection.out.try_reserve() else { return };
            self.pushes += 1;
            let few = self.pending.len().min(PUSH_INVALIDATIONS_MAX);
            let push = Push {
                number: self.pushes,
                invalidations: self.pending.drain(..few).collect(),
                everything: std::mem::take(&mut self.everything),
            };
            if self.pending.is_empty() {
                self.sent.push_back((self.pushes, self.queued));
            }
            slot.send(Ok(FromMaster {
                body: Some(from_master::Body::Push(push)),
            }));
        }
    }
}

#[derive(Default)]
pub struct Sessions {
    all: BTreeMap<SessionId, Session>,
    interest: BTreeSet<(Inode, SessionId)>,
    /// Opens of all sessions.
    open: BTreeMap<Inode, u64>,
    /// Sessions with something to push.
    unflushed: BTreeSet<SessionId>,
    connections: u64,
    /// See [`Sessions::take_written`].
    written: Vec<(ChunkHandle, Duration)>,
}

fn created(chunks: BTreeMap<ChunkHandle, Option<Duration>>) -> impl Iterator<Item = (ChunkHandle, Duration)> {
    chunks.into_iter().filter_map(|(handle, at)| Some((handle, at?)))
}

impl Sessions {
    pub fn get(&self, id: SessionId) -> Option<&Session> {
        self.all.get(&id)
    }

    pub fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.all.get_mut(&id)
    }

    pub fn iter(&self) -> impl Iterator<Item = (SessionId, &Session)> + '_ {
        self.all.iter().map(|(id, session)| (*id, session))
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// The state has the session, and so has this table from now on.
    pub fn ensure(&mut self, id: SessionId, description: &str, host: &str, now: Duration) -> &mut Session {
        let session = self
            .all
            .entry(id)
            .or_insert_with(|| Session::new(String::new(), String::new(), now));
        if !description.is_empty() {
            description.clone_into(&mut session.description);
        }
        if !host.is_empty() {
            host.clone_into(&mut session.host);
        }
        session
    }

    /// A stream of the session begins: the client knows nothing yet that could change.
    pub fn connect(&mut self, id: SessionId, out: Outbound, now: Duration) -> Option<Connection> {
        self.connections += 1;
        let connection = Connection {
            number: self.connections,
            out,
            over: CancellationToken::new(),
        };
        self.unseen(id);
        let session = self.all.get_mut(&id)?;
        if let Some(old) = session.connection.replace(connection.clone()) {
            old.over.cancel();
        }
        session.heard = now;
        Some(connection)
    }

    pub fn disconnect(&mut self, id: SessionId, number: u64) {
        if let Some(session) = self.all.get_mut(&id)
            && session.connection.as_ref().is_some_and(|c| c.number == number)
        {
            session.connection = None;
            self.unseen(id);
        }
    }

    /// The client forgets everything that it has seen, so it has nothing to be told.
    fn unseen(&mut self, id: SessionId) {
        let Some(session) = self.all.get_mut(&id) else { return };
        for inode in std::mem::take(&mut session.interest) {
            self.interest.remove(&(inode, id));
        }
        session.pending.clear();
        session.sent.clear();
        (session.everything, session.laggard) = (false, false);
        (session.pushes, session.pushes_done) = (0, 0);
        session.taken_in.0.set(session.queued);
        self.unflushed.remove(&id);
    }

    /// What the client says that it has open as it connects: that is what it has, but for what it cannot know yet
    /// since the answer to its open was lost.
    pub fn declare(&mut self, id: SessionId, open: &[Inode]) {
        let Some(session) = self.all.get_mut(&id) else { return };
        let unanswered = session.unanswered.values().filter(|inode| session.open.contains(inode));
        let now: BTreeSet<Inode> = open.iter().chain(unanswered).copied().collect();
        let before = std::mem::replace(&mut session.open, now.clone());
        // the word that its writes had ended may have been lost
        let ended = session.writable.extract_if(.., |inode, _| !now.contains(inode));
        self.written.extend(ended.flat_map(|(_, chunks)| created(chunks)));
        for inode in now.difference(&before) {
            *self.open.entry(*inode).or_insert(0) += 1;
        }
        for inode in before.difference(&now) {
            self.release(*inode);
        }
    }

    fn release(&mut self, inode: Inode) {
        if let Some(count) = self.open.get_mut(&inode) {
            *count -= 1;
            if *count == 0 {
                self.open.remove(&inode);
            }
        }
    }

    /// The session has the inode open, by this call.
    pub fn opened(&mut self, id: SessionId, sequence: Sequence, inode: Inode) {
        let Some(session) = self.all.get_mut(&id) else { return };
        if session.done.insert(sequence) {
            session.unanswered.insert(sequence, inode);
            if session.open.insert(inode) {
                *self.open.entry(inode).or_insert(0) += 1;
            }
        }
    }

    /// The session is about to write these chunks of the file.
    pub fn writes(&mut self, id: SessionId, inode: Inode, chunks: impl IntoIterator<Item = ChunkHandle>) {
        let mut chunks = chunks.into_iter().peekable();
        if chunks.peek().is_some()
            && let Some(session) = self.all.get_mut(&id)
        {
            let writable = session.writable.entry(inode).or_default();
            for handle in chunks {
                writable.entry(handle).or_default();
            }
        }
    }

    /// The session is about to write a chunk that it has created.
    pub fn creates(&mut self, id: SessionId, inode: Inode, handle: ChunkHandle, now: Duration) {
        if let Some(session) = self.all.get_mut(&id) {
            let writable = session.writable.entry(inode).or_default();
            writable.entry(handle).or_default().get_or_insert(now);
        }
    }

    /// The session keeps the file open, but has no write to it under way.
    pub fn wrote(&mut self, id: SessionId, inode: Inode) {
        if let Some(session) = self.all.get_mut(&id) {
            let ended = session.writable.remove(&inode).unwrap_or_default();
            self.written.extend(created(ended));
        }
    }

    /// It leaves in order: everything that it wrote is acknowledged.
    pub fn wrote_all(&mut self, id: SessionId) {
        if let Some(session) = self.all.get_mut(&id) {
            let ended = std::mem::take(&mut session.writable);
            self.written.extend(ended.into_values().flat_map(created));
        }
    }

    /// Chunks whose creators have written all that they will, since the last call, with when they were created.
    pub fn take_written(&mut self) -> Vec<(ChunkHandle, Duration)> {
        std::mem::take(&mut self.written)
    }

    /// Some session may be writing the chunk.
    pub fn is_written(&self, inode: Inode, handle: ChunkHandle) -> bool {
        self.all.values().any(|s| s.may_write(inode, handle))
    }

    /// The session has it open no more. True: nobody has.
    pub fn closed(&mut self, id: SessionId, inode: Inode) -> bool {
        self.wrote(id, inode);
        let Some(session) = self.all.get_mut(&id) else {
            return false;
        };
        if !session.open.remove(&inode) {
            return false;
        }
        session.unanswered.retain(|_, opened| *opened != inode);
        self.release(inode);
        !self.is_open(inode)
    }

    /// The client has seen all answers up to there.
    pub fn acknowledged(&mut self, id: SessionId, sequence: Sequence) {
        if let Some(session) = self.all.get_mut(&id)
            && session.done.first().is_some_and(|first| *first <= sequence)
        {
            let next = Sequence(sequence.0 + 1);
            session.done = session.done.split_off(&next);
            session.unanswered = session.unanswered.split_off(&next);
        }
    }

    pub fn is_open(&self, inode: Inode) -> bool {
        self.open.contains_key(&inode)
    }

    /// What it had open and nobody else has; and the chunks that it could write.
    pub fn end(&mut self, id: SessionId) -> (Vec<Inode>, Vec<ChunkHandle>) {
        let Some(session) = self.all.remove(&id) else {
            return Default::default();
        };
        if let Some(connection) = &session.connection {
            connection.over.cancel();
        }
        for inode in &session.interest {
            self.interest.remove(&(*inode, id));
        }
        self.unflushed.remove(&id);
        let mut closed = Vec::new();
        for inode in session.open {
            self.release(inode);
            if !self.is_open(inode) {
                closed.push(inode);
            }
        }
        let writable = session.writable.values().flat_map(BTreeMap::keys).copied().collect();
        self.written.extend(session.writable.into_values().flat_map(created));
        (closed, writable)
    }

    pub fn call_begins(&mut self, id: SessionId) {
        if let Some(session) = self.all.get_mut(&id) {
            session.calls += 1;
        }
    }

    pub fn call_ends(&mut self, id: SessionId) {
        if let Some(session) = self.all.get_mut(&id) {
            session.calls = session.calls.saturating_sub(1);
        }
    }

    /// The streams end of the sessions that have calls under way.
    pub fn end_waiting(&mut self, why: &str) {
        for session in self.all.values().filter(|session| session.calls > 0) {
            if let Some(connection) = &session.connection {
                connection.give_up(why);
            }
        }
    }

    /// Every stream ends.
    pub fn end_all(&mut self) {
        for connection in self.all.values().filter_map(|s| s.connection.as_ref()) {
            connection.over.cancel();
        }
    }

    /// The session has been told of these inodes, and is to be told when they change.
    pub fn seen(&mut self, id: SessionId, inodes: impl IntoIterator<Item = Inode>) {
        let Some(session) = self.all.get_mut(&id) else { return };
        for inode in inodes {
            if session.interest.len() >= INTEREST_MAX && !session.interest.contains(&inode) {
                for inode in std::mem::take(&mut session.interest) {
                    self.interest.remove(&(inode, id));
                }
                session.queued += 1;
                session.everything = true;
                session.pending.clear();
                self.unflushed.insert(id);
            }
            if session.interest.insert(inode) {
                self.interest.insert((inode, id));
            }
        }
    }

    fn interested(&self, inode: Inode, but: Option<SessionId>) -> Vec<SessionId> {
        let range = (inode, SessionId::from_bits_min())..=(inode, SessionId::from_bits_max());
        self.interest
            .range(range)
            .map(|(_, id)| *id)
            .filter(|id| Some(*id) != but)
            .collect()
    }

    /// The inode changed by the doing of `by`: whoever else has seen it is to forget it.
    pub fn inode_changed(&mut self, inode: Inode, data: bool, by: Option<SessionId>) {
        for id in self.interested(inode, by) {
            self.invalidate(
                id,
                Invalidation {
                    inode: inode.0,
                    data,
                    name: Default::default(),
                },
            );
        }
    }

    pub fn entry_changed(&mut self, parent: Inode, name: &[u8], by: Option<SessionId>) {
        for id in self.interested(parent, by) {
            let name = bytes::Bytes::copy_from_slice(name);
            self.invalidate(
                id,
                Invalidation {
                    inode: parent.0,
                    data: false,
                    name,
                },
            );
        }
    }

    pub fn freed(&mut self, inode: Inode) {
        for id in self.interested(inode, None) {
            self.interest.remove(&(inode, id));
            if let Some(session) = self.all.get_mut(&id) {
                session.interest.remove(&inode);
            }
        }
    }

    fn invalidate(&mut self, id: SessionId, invalidation: Invalidation) {
        if let Some(session) = self.all.get_mut(&id) {
            session.push_invalidation(invalidation);
            self.unflushed.insert(id);
        }
    }

    pub fn pushes_done(&mut self, id: SessionId, number: u64) {
        let Some(session) = self.all.get_mut(&id) else { return };
        session.pushes_done = session.pushes_done.max(number.min(session.pushes));
        while let Some((_, mark)) = session.sent.front().copied().filter(|(n, _)| *n <= session.pushes_done) {
            session.sent.pop_front();
            session.taken_in.0.set(mark);
        }
        session.laggard &= session.taken_in.0.get() < session.queued;
        self.unflushed.insert(id);
    }

    /// What has been queued up to now for all but `by`.
    pub fn barrier(&self, by: Option<SessionId>) -> Barrier {
        let behind = self.unflushed.iter().filter_map(|id| Some((*id, self.all.get(id)?)));
        let waits = behind.filter(|(id, s)| Some(*id) != by && !s.laggard && s.taken_in.0.get() < s.queued);
        Barrier(waits.map(|(id, s)| (id, s.taken_in.0.clone(), s.queued)).collect())
    }

    /// Nobody waits for it until it has caught up.
    pub fn lags(&mut self, id: SessionId) {
        if let Some(session) = self.all.get_mut(&id) {
            session.laggard = true;
        }
    }

    /// Sends pending pushes to whoever can take them.
    pub fn flush(&mut self) {
        for id in std::mem::take(&mut self.unflushed) {
            if let Some(session) = self.all.get_mut(&id) {
                session.flush();
                if session.connection.is_some() && (session.everything || !session.pending.is_empty()) {
                    self.unflushed.insert(id);
                }
            }
        }
    }

    /// Sessions that have said nothing since `before`.
    pub fn silent_since(&self, before: Duration) -> Vec<SessionId> {
        self.iter()
            .filter(|(_, s)| !s.ending && s.heard <= before)
            .map(|(id, _)| id)
            .collect()
    }
}

/// For ranges over pairs that end with a session's id.
trait Extremes {
    fn from_bits_min() -> Self;
    fn from_bits_max() -> Self;
}
impl Extremes for SessionId {
    fn from_bits_min() -> Self {
        SessionId(uuid::Uuid::nil())
    }
    fn from_bits_max() -> Self {
        SessionId(uuid::Uuid::max())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Inode = Inode(10);
    const B: Inode = Inode(11);

    fn id(n: u128) -> SessionId {
        SessionId::from_bits(n)
    }

    fn table(n: u128) -> Sessions {
        let mut sessions = Sessions::default();
        for n in 1..=n {
            sessions.ensure(id(n), "test", "", Duration::ZERO);
        }
        sessions
    }

    fn pushes(receiver: &mut mpsc::Receiver<Result<FromMaster, tonic::Status>>) -> Vec<Push> {
        std::iter::from_fn(|| match receiver.try_recv().ok()?.ok()?.body? {
            from_master::Body::Push(push) => Some(push),
            _ => None,
        })
        .collect()
    }

    #[test]
    fn an_open_counts_once_and_a_declaration_settles_what_was_lost() {
        let mut sessions = table(2);
        sessions.opened(id(1), Sequence(1), A);
        sessions.opened(id(1), Sequence(2), A);
        assert!(sessions.closed(id(1), A));
        assert!(!sessions.closed(id(1), A), "it is closed already");
        sessions.opened(id(1), Sequence(4), A);
        assert!(sessions.is_open(A));
        // opened, but the answer is lost: the client does not declare it, and asks again
        sessions.opened(id(1), Sequence(5), B);
        sessions.declare(id(1), &[A]);
        assert!(sessions.is_open(A) && sessions.is_open(B));
        sessions.opened(id(1), Sequence(5), B);
        assert!(sessions.closed(id(1), B));
        // acknowledged: from now on what it does not declare, it does not have
        sessions.opened(id(1), Sequence(7), B);
        sessions.acknowledged(id(1), Sequence(7));
        sessions.declare(id(1), &[A]);
        assert!(!sessions.is_open(B));
        sessions.opened(id(2), Sequence(1), A);
        assert!(sessions.end(id(1)).0.is_empty());
        assert_eq!(sessions.end(id(2)).0, [A]);
    }

    #[test]
    fn writes_end_with_the_word_that_says_so_or_with_the_next_declaration() {
        let (mut sessions, handle) = (table(1), ChunkHandle(7));
        let write = |sessions: &mut Sessions| {
            sessions.opened(id(1), Sequence(1), A);
            sessions.writes(id(1), A, [handle]);
            assert!(sessions.is_written(A, handle));
        };
        write(&mut sessions);
        sessions.wrote(id(1), A);
        assert!(sessions.is_open(A) && !sessions.is_written(A, handle));
        write(&mut sessions);
        assert!(sessions.closed(id(1), A));
        assert!(!sessions.is_open(A) && !sessions.is_written(A, handle));
        sessions.acknowledged(id(1), Sequence(1));
        write(&mut sessions);
        sessions.acknowledged(id(1), Sequence(1));
        sessions.declare(id(1), &[A]);
        assert!(sessions.is_written(A, handle));
        sessions.declare(id(1), &[]);
        assert!(!sessions.is_open(A) && !sessions.is_written(A, handle));
    }

    #[test]
    fn what_a_session_created_is_told_once_it_is_written() {
        let (mut sessions, at) = (table(1), Duration::from_secs);
        let create = |sessions: &mut Sessions, inode, handle| {
            sessions.creates(id(1), inode, ChunkHandle(handle), at(handle));
            // by a call that is repeated, or asks where it is
            sessions.creates(id(1), inode, ChunkHandle(handle), at(100));
            sessions.writes(id(1), inode, [ChunkHandle(handle)]);
            assert!(sessions.take_written().is_empty());
        };
        create(&mut sessions, A, 1);
        sessions.writes(id(1), A, [ChunkHandle(9)]);
        sessions.wrote(id(1), A);
        assert_eq!(sessions.take_written(), [(ChunkHandle(1), at(1))], "9 is another's");
        create(&mut sessions, A, 2);
        sessions.closed(id(1), A);
        assert_eq!(sessions.take_written(), [(ChunkHandle(2), at(2))]);
        create(&mut sessions, A, 3);
        create(&mut sessions, B, 4);
        sessions.declare(id(1), &[A]);
        assert_eq!(sessions.take_written(), [(ChunkHandle(4), at(4))]);
        create(&mut sessions, B, 5);
        sessions.wrote_all(id(1));
        assert_eq!(
            sessions.take_written(),
            [(ChunkHandle(3), at(3)), (ChunkHandle(5), at(5))]
        );
        create(&mut sessions, A, 6);
        sessions.end(id(1));
        assert_eq!(sessions.take_written(), [(ChunkHandle(6), at(6))]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_waits_for_those_who_have_seen_it_and_not_for_ever() {
        let mut sessions = table(2);
        let (out, _receiver) = mpsc::channel(10);
        sessions.connect(id(2), out, Duration::ZERO);
        sessions.seen(id(2), [A]);
        let second = Duration::from_secs(1);
        sessions.inode_changed(A, true, Some(id(1)));
        let barrier = sessions.barrier(Some(id(1)));
        sessions.flush();
        assert_eq!(barrier.pass(second).await, [id(2)]);
        sessions.lags(id(2));
        sessions.inode_changed(A, true, Some(id(1)));
        assert!(sessions.barrier(Some(id(1))).is_empty());
        sessions.flush();
        sessions.pushes_done(id(2), 2);
        sessions.inode_changed(A, true, Some(id(1)));
        let barrier = sessions.barrier(Some(id(1)));
        sessions.flush();
        sessions.pushes_done(id(2), 3);
        assert_eq!(barrier.pass(second).await, []);
        // a stream that is lost is waited for no longer
        sessions.inode_changed(A, true, Some(id(1)));
        let barrier = sessions.barrier(Some(id(1)));
        let number = sessions.get(id(2)).and_then(|s| s.connection.as_ref()).unwrap().number;
        sessions.disconnect(id(2), number);
        assert_eq!(barrier.pass(second).await, []);
    }

    #[test]
    fn changes_are_pushed_to_the_others_that_have_seen_it_and_overflow_means_everything() {
        let mut sessions = table(2);
        let (out, mut receiver) = mpsc::channel(1000);
        sessions.connect(id(2), out, Duration::ZERO);
        sessions.seen(id(1), [A]);
        sessions.seen(id(2), [A]);
        sessions.inode_changed(A, true, Some(id(1)));
        sessions.entry_changed(B, b"unseen", Some(id(1)));
        sessions.inode_changed(A, true, Some(id(2)));
        sessions.flush();
        let pushed = pushes(&mut receiver);
        assert_eq!(pushed.len(), 1);
        assert_eq!((pushed[0].number, pushed[0].invalidations.len()), (1, 1));
        for n in 0..INVALIDATIONS_MAX + 1 {
            sessions.entry_changed(A, n.to_string().as_bytes(), None);
        }
        sessions.flush();
        let pushed = pushes(&mut receiver);
        assert!(pushed.iter().any(|p| p.everything) && pushed.len() == 1, "{pushed:?}");
        // on a new stream it has seen nothing yet
        let (out, mut receiver) = mpsc::channel(1000);
        sessions.connect(id(2), out, Duration::ZERO);
        sessions.inode_changed(A, true, None);
        sessions.flush();
        assert!(pushes(&mut receiver).is_empty());
    }

    #[test]
    fn pushes_wait_for_confirmation_within_a_bound() {
        let mut sessions = table(1);
        let (out, mut receiver) = mpsc::channel(1000);
        sessions.connect(id(1), out, Duration::ZERO);
        sessions.seen(id(1), [A]);
        for n in 0..2 * PUSHES_MAX {
            sessions.entry_changed(A, n.to_string().as_bytes(), None);
            sessions.flush();
        }
        assert_eq!(pushes(&mut receiver).len() as u64, PUSHES_MAX);
        sessions.pushes_done(id(1), PUSHES_MAX);
        sessions.flush();
        let rest: usize = pushes(&mut receiver).iter().map(|p| p.invalidations.len()).sum();
        assert_eq!(rest as u64, PUSHES_MAX);
    }
}
