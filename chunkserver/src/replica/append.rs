//! Where records go (protocol R9): the head of a chain gives each the place behind all that it has accepted, and knows
//! of those that are there already.
//!
//! What it knows is a cache: a record's own header says whose it is, and goes wherever the bytes go. For a session that
//! the cache cannot answer for, the chunk is read (`append::Core::scan`) before one of its records is given a place.
use super::{Accepted, Bytes, Chain, Outcome, OwnedSemaphorePermit, Pending, Replica, Write, open_at};
use crate::limits::REMEMBERED_SESSIONS_MAX;
use crate::refusal::Refusal;
use cairn_io::Boot;
use cairn_proto::record;
use cairn_types::layout::CHUNK_SIZE_BYTES;
use cairn_types::limits::RECORDS_IN_FLIGHT_MAX;
use cairn_types::{Serial, SessionId, Version};
use std::collections::{BTreeMap, VecDeque};
use tokio::sync::oneshot;

/// The last records of the sessions that appended to a chunk.
#[derive(Debug, Default)]
pub struct Records {
    /// A session that is not here has no record in the chunk.
    complete: bool,
    sessions: BTreeMap<SessionId, Recent>,
    uses: u64,
}

#[derive(Debug, Default)]
struct Recent {
    /// (number, offset), oldest first: as many as may be on their way. Never empty.
    records: VecDeque<(u64, u64)>,
    used: u64,
}

impl Records {
    /// What is known of a chunk of `length` bytes before any of them was looked at.
    pub fn of_chunk(length: u64) -> Self {
        Self {
            complete: length == 0,
            ..Self::default()
        }
    }

    /// All records of a chunk, in its order; `session` is known in any case.
    pub fn of(records: impl IntoIterator<Item = (SessionId, u64, u64)>, session: SessionId) -> Self {
        let mut table = Self {
            complete: true,
            ..Self::default()
        };
        let mut own = Recent::default();
        for (of, number, offset) in records {
            if of == session {
                own.note(number, offset);
            } else {
                table.note(of, number, offset);
            }
        }
        if !own.records.is_empty() {
            table.put(session, own);
        }
        table
    }

    fn knows(&self, session: SessionId) -> bool {
        self.complete || self.sessions.contains_key(&session)
    }

    /// The highest number of the session that has a place; 0: none has.
    fn last(&self, session: SessionId) -> u64 {
        let of = self.sessions.get(&session).and_then(|s| s.records.back());
        of.map_or(0, |(number, _)| *number)
    }

    fn offset(&self, session: SessionId, number: u64) -> Option<u64> {
        let of = self.sessions.get(&session)?;
        let found = of.records.iter().find(|(n, _)| *n == number);
        found.map(|(_, offset)| *offset)
    }

    fn note(&mut self, session: SessionId, number: u64, offset: u64) {
        let mut recent = self.sessions.remove(&session).unwrap_or_default();
        recent.note(number, offset);
        self.put(session, recent);
    }

    fn put(&mut self, session: SessionId, mut recent: Recent) {
        self.uses += 1;
        recent.used = self.uses;
        self.sessions.insert(session, recent);
        if self.sessions.len() > REMEMBERED_SESSIONS_MAX {
            let oldest = self.sessions.iter().min_by_key(|(_, of)| of.used).map(|(s, _)| *s);
            if let Some(oldest) = oldest {
                self.sessions.remove(&oldest);
                self.complete = false;
            }
        }
    }
}

impl Recent {
    fn note(&mut self, number: u64, offset: u64) {
        self.records.push_back((number, offset));
        if self.records.len() > RECORDS_IN_FLIGHT_MAX {
            self.records.pop_front();
        }
    }
}

/// A record that wants a place.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    pub session: SessionId,
    pub number: u64,
    /// Of the session's record before it, as long as that is not answered; 0: there is none.
    pub previous: u64,
    /// It goes behind this offset.
    pub from: u64,
    /// With its header.
    pub bytes: u64,
}

/// The place that a record has.
pub enum Claim {
    /// From before; it is told once downstream has acknowledged it.
    Had {
        answer: oneshot::Receiver<Outcome>,
        offset: u64,
    },
    /// Just given, and nobody else's.
    At(u64),
    /// None: the chunk has too little room behind this offset, none if that is its end.
    Full(u64),
}

impl<P: Clone> Replica<P> {
    /// Bytes of the chunk once all that is accepted is applied.
    ///
    /// # Errors
    /// As [`Replica::accept`].
    pub fn length(&self, version: Version) -> Result<u64, Refusal> {
        let mut state = self.lock();
        Ok(head_at(&mut state.chain, version)?.end)
    }

    /// Whether the chunk has to be read before a record of `session` may have a place.
    ///
    /// # Errors
    /// As [`Replica::accept`].
    pub fn must_scan(&self, version: Version, session: SessionId) -> Result<bool, Refusal> {
        let mut state = self.lock();
        let chain = head_at(&mut state.chain, version)?;
        Ok(!chain.records.knows(session))
    }

    /// What was found in the chunk after all was applied that the chain of `term` had accepted. By who holds `appending`.
    pub fn found(&self, term: u64, records: Records) {
        let mut state = self.lock();
        let current = state.term == term;
        if let Some(chain) = state.chain.as_mut().filter(|_| current) {
            chain.records = records;
        }
    }

    /// The place of a record of a session that is known. By who holds `appending`, until the record is accepted.
    ///
    /// # Errors
    /// As [`Replica::accept`].
    pub fn claim(&self, version: Version, wanted: Wanted) -> Result<Claim, Refusal> {
        let mut state = self.lock();
        let chain = head_at(&mut state.chain, version)?;
        if let Some(offset) = chain.records.offset(wanted.session, wanted.number) {
            let (sender, answer) = oneshot::channel();
            let serial = Serial(chain.accepted);
            chain.wait(serial, sender);
            return Ok(Claim::Had { answer, offset });
        }
        let last = chain.records.last(wanted.session);
        if wanted.number <= last || wanted.previous > last {
            return Err(Refusal::OutOfOrder { last });
        }
        let offset = record::align(chain.end.max(wanted.from));
        if offset + wanted.bytes > CHUNK_SIZE_BYTES {
            return Ok(Claim::Full(chain.end));
        }
        chain.end = offset + wanted.bytes;
        Ok(Claim::At(offset))
    }

    /// Takes the mutations that a record consists of, or with no record those that fill the chunk: all of them one after
    /// the other, so that nothing comes between, and acknowledged with the last. By who holds `appending`.
    ///
    /// # Errors
    /// As [`Replica::accept`].
    pub fn accept_all(
        &self,
        version: Version,
        record: Option<(Wanted, u64)>,
        mutations: Vec<(Write, Bytes)>,
        mut room: Option<OwnedSemaphorePermit>,
        now: Boot,
    ) -> Result<Accepted, Refusal> {
        let mut state = self.lock();
        let term = state.term;
        let chain = head_at(&mut state.chain, version)?;
        let session = record.map_or_else(|| SessionId::from_bits(0), |(wanted, _)| wanted.session);
        if let Some((wanted, offset)) = record {
            chain.records.note(wanted.session, wanted.number, offset);
        }
        let (sender, answer) = oneshot::channel();
        let mut waiter = Some(sender);
        let last = mutations.len().saturating_sub(1);
        for (n, (mut header, payload)) in mutations.into_iter().enumerate() {
            header.serial = chain.accepted + 1;
            let (waiters, room) = match n == last {
                true => (waiter.take().into_iter().collect(), room.take()),
                false => (vec![], None),
            };
            let pending = Pending {
                session,
                header,
                payload,
                _room: room,
                waiters,
            };
            chain.push(pending, now);
        }
        let (start_apply, start_link) = self.set_going(chain);
        Ok(Accepted {
            answer,
            term,
            start_apply,
            start_link,
        })
    }
}

fn head_at<P>(chain: &mut Option<Chain<P>>, version: Version) -> Result<&mut Chain<P>, Refusal> {
    let chain = open_at(chain, version)?;
    match chain.head {
        true => Ok(chain),
        false => Err(Refusal::NotWritable("it is not the head of its chain")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(n: u128) -> SessionId {
        SessionId::from_bits(n)
    }

    #[test]
    fn r9_as_many_records_are_remembered_as_may_be_on_their_way() {
        let mut table = Records::of_chunk(0);
        for number in 1..=RECORDS_IN_FLIGHT_MAX as u64 + 1 {
            table.note(session(1), number, number * 100);
        }
        assert_eq!(table.last(session(1)), RECORDS_IN_FLIGHT_MAX as u64 + 1);
        assert_eq!(table.offset(session(1), 2), Some(200));
        assert_eq!(table.offset(session(1), 1), None);
    }

    #[test]
    fn r9_a_session_that_was_forgotten_is_looked_for_in_the_chunk() {
        let mut table = Records::of_chunk(0);
        assert!(table.knows(session(0)));
        for n in 0..=REMEMBERED_SESSIONS_MAX as u128 {
            table.note(session(n), 1, 0);
        }
        assert!(!table.knows(session(0)) && table.knows(session(1)));
        // found again, whatever else the chunk holds
        let sessions = 0..REMEMBERED_SESSIONS_MAX as u128 + 5;
        let table = Records::of(sessions.map(|n| (session(n), 7, 800)), session(0));
        assert_eq!(table.offset(session(0), 7), Some(800));
        assert!(!table.complete);
        assert!(Records::of([], session(3)).knows(session(3)));
        assert!(!Records::of_chunk(1).knows(session(3)));
    }
}
