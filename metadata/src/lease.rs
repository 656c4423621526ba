//! Leases of servers (protocol R6, R7, R11): one heartbeat renews everything that a server has.
//!
//! The server counts L(1 - d) from when it *sent* a heartbeat, the master L(1 + d) from when it *answered*, so the
//! master's count ends later as long as neither clock is off by more than d. Nothing but reads rests on this.
//!
//! Times are since the machine started (CLOCK_BOOTTIME), as `Duration`.
use cairn_types::{Registration, ServerId};
use std::collections::BTreeMap;
use std::time::Duration;

/// How far a clock may run fast or slow: d, in percent.
pub const DRIFT_PERCENT: u32 = 10;

/// What the master counts for a lease of `lease`.
pub fn masters_count(lease: Duration) -> Duration {
    lease * (100 + DRIFT_PERCENT) / 100
}

/// What the server counts for a lease of `lease`.
pub fn servers_count(lease: Duration) -> Duration {
    lease * (100 - DRIFT_PERCENT) / 100
}

/// One server, as the master knows it. Invariant: `heard <= ends` of the same registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLease {
    pub registration: Registration,
    /// The registration's stream is open.
    pub connected: bool,
    /// When a message of this registration last came.
    pub heard: Duration,
    /// By the master's count.
    pub ends: Duration,
}

/// The leases of all servers. Soft state of one master, rebuilt from registrations.
#[derive(Debug, Clone)]
pub struct LeaseTable {
    lease: Duration,
    /// Until then a server that is not in the table may hold a lease of an earlier master (R11).
    earlier_masters: Duration,
    servers: BTreeMap<ServerId, ServerLease>,
}

impl LeaseTable {
    /// A master starts at `now`. `lease` is the L that it gives, `longest` the longest that any master of this log gave
    /// ([`crate::State::lease_ms_longest`]): every lease is taken to be as long as it can be, from now (R11).
    pub fn new(lease: Duration, longest: Duration, now: Duration) -> Self {
        Self {
            lease,
            earlier_masters: now + masters_count(lease.max(longest)),
            servers: BTreeMap::new(),
        }
    }

    /// L, to tell the servers.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// A server registers: counted as leased from now on, before it is given any verdict (R7). Call it before the
    /// answer is sent.
    pub fn register(&mut self, server: ServerId, registration: Registration, now: Duration) {
        let ends = now + masters_count(self.lease);
        // an earlier registration's lease may end later: it is the same server, so the later end holds
        let ends = self.servers.get(&server).map_or(ends, |old| old.ends.max(ends));
        self.servers.insert(
            server,
            ServerLease {
                registration,
                connected: true,
                heard: now,
                ends,
            },
        );
    }

    /// Its heartbeat came at `now` and is about to be answered: the lease is renewed. False: it is of an earlier
    /// registration, and must not be answered.
    pub fn heartbeat(&mut self, server: ServerId, registration: Registration, now: Duration) -> bool {
        let lease = self.lease;
        let Some(entry) = self
            .servers
            .get_mut(&server)
            .filter(|entry| entry.registration == registration)
        else {
            return false;
        };
        entry.connected = true;
        entry.heard = now;
        entry.ends = entry.ends.max(now + masters_count(lease));
        true
    }

    /// Its stream is gone. The lease runs on.
    pub fn disconnected(&mut self, server: ServerId, registration: Registration) {
        if let Some(entry) = self
            .servers
            .get_mut(&server)
            .filter(|entry| entry.registration == registration)
        {
            entry.connected = false;
        }
    }

    /// The server cannot be answering reads by a lease any more (R5).
    pub fn is_over(&self, server: ServerId, now: Duration) -> bool {
        match self.servers.get(&server) {
            Some(entry) => now >= entry.ends,
            None => now >= self.earlier_masters,
        }
    }

    /// When [`LeaseTable::is_over`] becomes true, if nothing renews it.
    pub fn ends(&self, server: ServerId) -> Duration {
        self.servers
            .get(&server)
            .map_or(self.earlier_masters, |entry| entry.ends)
    }

    /// Connected, and within its lease: orders reach it.
    pub fn is_up(&self, server: ServerId, now: Duration) -> bool {
        self.servers
            .get(&server)
            .is_some_and(|entry| entry.connected && now < entry.ends)
    }

    /// What orders to it carry; `None`: it has not registered since this master started.
    pub fn registration(&self, server: ServerId) -> Option<Registration> {
        self.servers.get(&server).map(|entry| entry.registration)
    }

    pub fn get(&self, server: ServerId) -> Option<ServerLease> {
        self.servers.get(&server).copied()
    }

    /// How long nothing has come from it; `None`: not since this master started.
    pub fn silent_for(&self, server: ServerId, now: Duration) -> Option<Duration> {
        self.servers.get(&server).map(|entry| now.saturating_sub(entry.heard))
    }

    /// In the order of ids.
    pub fn servers(&self) -> impl Iterator<Item = (ServerId, ServerLease)> + '_ {
        self.servers.iter().map(|(server, entry)| (*server, *entry))
    }

    /// The servers whose leases ended after `before` and not after `now`: once for each pass of a clock.
    pub fn ended_between(&self, before: Duration, now: Duration) -> Vec<ServerId> {
        let ended = self
            .servers
            .iter()
            .filter(|(_, entry)| before < entry.ends && entry.ends <= now);
        ended.map(|(server, _)| *server).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const L: Duration = Duration::from_secs(5);
    const fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn r6_the_master_counts_longer_than_the_server() {
        // the slowest master's clock against the fastest server's, each within the bound
        assert!(masters_count(L) * 100 / (100 + DRIFT_PERCENT) >= servers_count(L));
        assert_eq!((masters_count(L), servers_count(L)), (at(5500), at(4500)));
    }

    #[test]
    fn r6_a_heartbeat_renews_from_when_it_is_answered() {
        let server = ServerId::from_bits(1);
        let (old, new) = (Registration::new(1, 1), Registration::new(1, 2));
        let mut table = LeaseTable::new(L, L, at(0));
        table.register(server, old, at(1000));
        assert!(table.heartbeat(server, old, at(2000)));
        assert!(!table.is_over(server, at(7499)));
        assert!(table.is_over(server, at(7500)));
        assert_eq!(table.ended_between(at(7000), at(7500)), [server]);
        assert_eq!(table.ended_between(at(7500), at(8000)), []);
        table.register(server, new, at(8000));
        assert!(
            !table.heartbeat(server, old, at(9000)),
            "an earlier registration's heartbeat renews nothing"
        );
        assert_eq!(table.ends(server), at(13_500));
        assert!(table.is_up(server, at(9000)));
        table.disconnected(server, old);
        assert!(
            table.is_up(server, at(9000)),
            "an earlier registration's stream ends without effect"
        );
        table.disconnected(server, new);
        assert!(!table.is_up(server, at(9000)));
        assert!(!table.is_over(server, at(9000)), "the lease outlives the stream");
    }

    #[test]
    fn r7_a_server_counts_as_leased_from_before_its_first_verdict() {
        let server = ServerId::from_bits(1);
        let mut table = LeaseTable::new(L, L, at(0));
        assert!(table.is_over(server, at(100_000)));
        table.register(server, Registration::new(1, 1), at(100_000));
        assert!(!table.is_over(server, at(100_000)));
    }

    #[test]
    fn r11_a_master_that_starts_takes_every_lease_to_be_as_long_as_it_can_be() {
        let server = ServerId::from_bits(1);
        let table = LeaseTable::new(at(1000), L, at(50));
        assert!(!table.is_over(server, at(5549)));
        assert!(
            table.is_over(server, at(5550)),
            "the longest lease ever given, not this master's"
        );
        assert!(!table.is_up(server, at(60)));
    }
}
