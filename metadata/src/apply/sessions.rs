//! At most once: a call that is sent again is answered with the result that it had (promise 1).
use crate::state::Session;
use crate::{FsError, Reply, State};
use cairn_types::limits::SESSION_CALLS_MAX;
use cairn_types::{Sequence, SessionId};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) enum Admission {
    New,
    Repeated(Result<Reply, FsError>),
    Refused(FsError),
}

pub(super) fn open(state: &mut State, session: SessionId, at_ns: i64, description: &str) {
    state.sessions.entry(session).or_insert_with(|| Session {
        opened_ns: at_ns,
        description: description.to_owned(),
        acknowledged: Sequence(0),
        results: BTreeMap::new(),
    });
}

pub(super) fn admit(state: &mut State, session: SessionId, sequence: Sequence, acknowledged: Sequence) -> Admission {
    let Some(session) = state.sessions.get_mut(&session) else {
        return Admission::Refused(FsError::SessionEnded);
    };
    // acknowledgements may arrive out of order: only the highest counts, and it never reaches the call that carries it
    let acknowledged = acknowledged.min(Sequence(sequence.0.saturating_sub(1)));
    if acknowledged > session.acknowledged {
        session.acknowledged = acknowledged;
        session.results = session.results.split_off(&Sequence(acknowledged.0 + 1));
    }
    if sequence <= session.acknowledged {
        return Admission::Refused(FsError::Forgotten);
    }
    if let Some(result) = session.results.get(&sequence) {
        return Admission::Repeated((**result).clone());
    }
    if session.results.len() >= SESSION_CALLS_MAX {
        return Admission::Refused(FsError::TooManyCalls);
    }
    Admission::New
}

pub(super) fn remember(state: &mut State, session: SessionId, sequence: Sequence, result: &Result<Reply, FsError>) {
    // refused because the master looked at an older state: it looks and logs again, under the same number
    if matches!(result, Err(FsError::CutNeeded | FsError::Retry)) {
        return;
    }
    if let Some(session) = state.sessions.get_mut(&session) {
        session.results.insert(sequence, Arc::new(result.clone()));
    }
}
