//! Whose records may be sent to a chunk when many append to it: in the order in which they asked, as many bytes at a time
//! as keep the chain busy. Nothing else depends on it: a record that comes unasked is taken as any other.
use crate::limits::{APPEND_ROOM_AGE_MAX, APPEND_ROOM_BYTES, APPEND_ROOM_WAIT_MAX};
use cairn_io::{Boot, Env};
use cairn_types::SessionId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

pub struct Pace {
    room: Arc<Semaphore>,
    given: Mutex<BTreeMap<SessionId, Given>>,
}

struct Given {
    room: OwnedSemaphorePermit,
    since: Boot,
}

impl Pace {
    pub fn new() -> Self {
        Self {
            room: Arc::new(Semaphore::new(APPEND_ROOM_BYTES as usize)),
            given: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SessionId, Given>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room that was given and is not used yet, in bytes.
    pub fn given(&self) -> u64 {
        APPEND_ROOM_BYTES - self.room.available_permits() as u64
    }

    /// Whoever has room for long and sends nothing may have died.
    pub fn forget_unused(&self, now: Boot) {
        self.lock()
            .retain(|_, given| now.since(given.since) < APPEND_ROOM_AGE_MAX);
    }

    /// Waits for room for `bytes`, all of it if they are more; false: for too long.
    pub async fn give(&self, session: SessionId, bytes: u64, env: &Env) -> bool {
        let wanted = bytes.min(APPEND_ROOM_BYTES) as u32;
        let Ok(Ok(room)) = timeout(APPEND_ROOM_WAIT_MAX, self.room.clone().acquire_many_owned(wanted)).await else {
            return false;
        };
        let since = env.clock.now();
        let mut all = self.lock();
        match all.remove(&session) {
            Some(mut before) => {
                before.room.merge(room);
                all.insert(session, Given { since, ..before });
            }
            None => {
                all.insert(session, Given { room, since });
            }
        }
        true
    }

    /// A record of the session is here: its room is another's.
    pub fn used(&self, session: SessionId, bytes: u64) {
        let mut all = self.lock();
        let Some(given) = all.get_mut(&session) else { return };
        let used = (bytes as usize).min(given.room.num_permits());
        drop(given.room.split(used));
        if given.room.num_permits() == 0 {
            all.remove(&session);
        }
    }
}
