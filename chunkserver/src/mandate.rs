//! What the master has allowed this server: its registration, the lease of all its reads, and which replicas are
//! current (protocol R6, R7).
use crate::refusal::Refusal;
use crate::replica::Key;
use cairn_io::Boot;
use cairn_types::{Registration, Version};
use rustc_hash::FxHashMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

/// Counted from when the heartbeat was sent, L(1 - d) with d = 10 %: shorter than what the master counts, by any two
/// clocks whose rates differ less than that.
pub fn own_lease(lease: Duration) -> Duration {
    lease * 9 / 10
}

#[derive(Default)]
pub struct Mandate(RwLock<State>);

#[derive(Default)]
struct State {
    registration: Option<Registration>,
    /// Of the last registration, whether or not it is still in force.
    epoch: u64,
    lease: Duration,
    lease_until: Boot,
    /// Highest version drawn when the registration was. A grant drawn before may be of a chunk that was reconfigured
    /// without this server meanwhile: what it created would pass for current.
    grant_floor: Version,
    /// Replicas judged current since the registration, by the version they were judged at; in no order.
    current: FxHashMap<Key, Version>,
}

impl Mandate {
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A registration has been given, asked for at `sent`: nothing is current before its verdict.
    pub fn begin(&self, registration: Registration, lease: Duration, sent: Boot, drawn: Version) {
        *self.write() = State {
            registration: Some(registration),
            epoch: registration.epoch,
            lease,
            lease_until: sent + own_lease(lease),
            grant_floor: drawn,
            current: FxHashMap::default(),
        };
    }

    /// The heartbeat sent at `sent` was answered.
    pub fn renew(&self, registration: Registration, sent: Boot) {
        let mut state = self.write();
        if state.registration == Some(registration) {
            state.lease_until = state.lease_until.max(sent + own_lease(state.lease));
        }
    }

    /// The conversation has ended: orders of its registration are ignored from now on, reads go on within the lease.
    pub fn end(&self) {
        self.write().registration = None;
    }

    pub fn registration(&self) -> Option<Registration> {
        self.read().registration
    }

    pub fn lease_until(&self) -> Boot {
        self.read().lease_until
    }

    /// # Errors
    /// `OldRegistration` unless `registration` is the one in force (R7 †).
    pub fn check(&self, registration: Registration) -> Result<(), Refusal> {
        match self.registration() {
            Some(r) if r == registration => Ok(()),
            _ => Err(Refusal::OldRegistration),
        }
    }

    /// Whether leave to write that the master of `epoch` gave still counts: not once this server has registered with a
    /// later one, which does not know to whom an earlier one gave leave, and fences only what it gave itself (R12).
    ///
    /// # Errors
    /// `OldLeave`.
    pub fn may_write(&self, epoch: u64) -> Result<(), Refusal> {
        match self.read().epoch {
            ours if epoch < ours => Err(Refusal::OldLeave { epoch, ours }),
            _ => Ok(()),
        }
    }

    /// The replica is current at `version`, said or done under `registration`; of an earlier one it means nothing.
    pub fn trust(&self, key: Key, version: Version, registration: Registration) {
        let mut state = self.write();
        if state.registration == Some(registration) {
            state.current.insert(key, version);
        }
    }

    /// The registration under which a grant of `version` may create a replica: only while there is one, and only what
    /// was drawn since (R10).
    ///
    /// # Errors
    /// `GrantRefused`.
    pub fn may_create(&self, version: Version) -> Result<Registration, Refusal> {
        let state = self.read();
        match state.registration {
            None => Err(Refusal::GrantRefused("this server is not registered".into())),
            Some(_) if version <= state.grant_floor => Err(Refusal::GrantRefused(format!(
                "it was drawn before this server registered: {version}, not above {}",
                state.grant_floor
            ))),
            Some(registration) => Ok(registration),
        }
    }

    /// Whether it was said or done under the present registration that the replica is current.
    pub fn trusts(&self, key: Key) -> bool {
        self.read().current.contains_key(&key)
    }

    pub fn distrust(&self, key: Key) {
        self.write().current.remove(&key);
    }

    /// # Errors
    /// `NoLease` when it is over at `now`.
    pub fn leased(&self, now: Boot) -> Result<(), Refusal> {
        if now < self.lease_until() {
            Ok(())
        } else {
            Err(Refusal::NoLease)
        }
    }

    /// Whether a read of the replica at `version` may be answered at `now` (R6).
    ///
    /// # Errors
    /// `NoLease`, `NotJudged`, `StaleVersion`.
    pub fn may_read(&self, key: Key, version: Version, now: Boot) -> Result<(), Refusal> {
        self.leased(now)?;
        match self.read().current.get(&key) {
            Some(v) if *v == version => Ok(()),
            Some(v) => Err(Refusal::StaleVersion { have: *v }),
            None => Err(Refusal::NotJudged),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_types::{ChunkHandle, DiskId};

    const R: Registration = Registration::new(1, 1);
    const V: Version = Version::new(1, 2);
    fn key() -> Key {
        Key {
            disk: DiskId::from_bits(1),
            handle: ChunkHandle(7),
        }
    }
    fn at(ms: u64) -> Boot {
        Boot(Duration::from_millis(ms))
    }

    #[test]
    fn r6_the_lease_is_counted_from_when_the_heartbeat_was_sent() {
        let m = Mandate::default();
        m.begin(R, Duration::from_secs(5), at(1000), Version::ZERO);
        m.trust(key(), V, R);
        assert!(m.may_read(key(), V, at(5499)).is_ok());
        assert!(matches!(m.may_read(key(), V, at(5500)), Err(Refusal::NoLease)));
        m.renew(R, at(3000));
        assert!(m.may_read(key(), V, at(7499)).is_ok());
        // an answer that comes late or twice takes nothing back
        m.renew(R, at(2000));
        assert!(m.may_read(key(), V, at(7499)).is_ok());
        m.renew(Registration::new(0, 1), at(9000));
        assert!(m.may_read(key(), V, at(7500)).is_err());
    }

    #[test]
    fn r7_nothing_is_read_before_its_verdict() {
        let m = Mandate::default();
        assert!(matches!(m.may_read(key(), V, at(0)), Err(Refusal::NoLease)));
        m.begin(R, Duration::from_secs(5), at(0), Version::ZERO);
        assert!(matches!(m.may_read(key(), V, at(1)), Err(Refusal::NotJudged)));
        m.trust(key(), V, Registration::new(0, 9));
        assert!(m.may_read(key(), V, at(1)).is_err());
        m.trust(key(), V, R);
        assert!(m.may_read(key(), V, at(1)).is_ok());
        assert!(m.may_read(key(), Version::new(1, 1), at(1)).is_err());
        m.begin(Registration::new(1, 2), Duration::from_secs(5), at(1), V);
        assert!(matches!(m.may_read(key(), V, at(2)), Err(Refusal::NotJudged)));
    }

    #[test]
    fn r10_a_grant_drawn_before_the_registration_creates_nothing() {
        let m = Mandate::default();
        assert!(m.may_create(V).is_err());
        m.begin(R, Duration::from_secs(5), at(0), V);
        assert!(m.may_create(V).is_err());
        assert_eq!(m.may_create(Version::new(1, 3)).ok(), Some(R));
        m.end();
        assert!(m.may_create(Version::new(1, 3)).is_err());
    }

    #[test]
    fn r7_orders_of_an_earlier_registration_are_refused() {
        let m = Mandate::default();
        m.begin(R, Duration::from_secs(5), at(0), Version::ZERO);
        assert!(m.check(R).is_ok());
        assert!(m.check(Registration::new(1, 0)).is_err());
        m.end();
        assert!(m.check(R).is_err());
    }
}
