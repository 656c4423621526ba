//! Where replicas go: a pure function of what servers last said, and chance.
//!
//! As GFS has it (section 4.2): below-average use of disks, few recent creations on one disk (creation predicts heavy
//! writes), and spread over failure domains. A disk's chance rises with its free space relative to the mean and falls
//! with its recent creations; the domain rules are applied before chance: never two replicas on one server; another
//! rack, and another host, while there are any.
use cairn_types::{DiskId, ServerId};
use rand::{Rng, RngCore};
use std::collections::BTreeMap;
use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskView {
    pub disk: DiskId,
    pub total_bytes: u64,
    /// Above the reserve.
    pub available_bytes: u64,
    /// Neither failed, read-only, full nor out of service.
    pub writable: bool,
    /// Chunks placed there lately, each [`ONE_CREATION`] and fading while it is probably being written, or until it is
    /// known to be written no more.
    pub recent_creations: u32,
}

/// One chunk in [`DiskView::recent_creations`].
pub const ONE_CREATION: u32 = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerView<'a> {
    pub server: ServerId,
    /// `zone/rack/host`, or less from the left (`rack/host`, `host`); empty: the server is a host of its own.
    pub label: &'a str,
    pub up: bool,
    pub draining: bool,
    pub disks: Vec<DiskView>,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<'a> {
    /// New replicas wanted.
    pub count: usize,
    /// The writer's own label or host name: one replica goes to its host if it can, and comes first.
    pub near: Option<&'a str>,
    /// Servers that hold the chunk already: the new ones keep away from them, their hosts and racks.
    pub existing: &'a [ServerId],
    /// Servers not to be used for another reason.
    pub avoid: &'a [ServerId],
    /// Room that each disk must have.
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub server: ServerId,
    pub disk: DiskId,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// At most as many as asked for, each on another server; the one near the writer first.
    pub places: Vec<Place>,
    /// Why there are fewer.
    pub shortage: Option<Shortage>,
    /// Two of the chunk's replicas share a host, for want of hosts: a warning in the status.
    pub shared_host: bool,
}

/// "wants 3, has 1, because ...".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    pub wanted: usize,
    pub found: usize,
    /// Servers that could not be used, by cause.
    pub causes: BTreeMap<Cause, usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    Down,
    Draining,
    /// No disk that takes chunks.
    NotWritable,
    /// A writable disk, but none with room.
    Full,
    /// The caller's `avoid`.
    Avoided,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wants {}, has {}, because ", self.wanted, self.found)?;
        if self.causes.is_empty() {
            return write!(f, "there are no more servers");
        }
        for (i, (cause, n)) in self.causes.iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            let servers = if *n == 1 { "server" } else { "servers" };
            let what = match cause {
                Cause::Down => "down",
                Cause::Draining => "being drained",
                Cause::NotWritable => "without a writable disk",
                Cause::Full => "without room",
                Cause::Avoided => "passed over after a failure",
            };
            write!(f, "{separator}{n} {servers} {what}")?;
        }
        write!(f, ", and there are no others")
    }
}

/// Chooses disks for new replicas of one chunk. Every create waits for it: time and memory grow with the disks, and
/// nothing is copied of a server.
pub fn place(servers: &[ServerView<'_>], request: &Request<'_>, rng: &mut impl RngCore) -> Placement {
    let mut causes = BTreeMap::new();
    let mut candidates: Vec<Candidate<'_>> = Vec::with_capacity(servers.len());
    let mut taken = Taken::default();
    for server in servers {
        if request.existing.contains(&server.server) {
            taken.add(server);
            continue;
        }
        match usable(server, request) {
            Ok(disks) => candidates.extend(disks.map(|disk| Candidate {
                server,
                disk,
                weight: 0,
            })),
            Err(cause) => *causes.entry(cause).or_insert(0) += 1,
        }
    }
    let overall = Overall::of(&candidates);
    for candidate in &mut candidates {
        candidate.weight = overall.weight(candidate.disk);
    }
    let mut places = Vec::with_capacity(request.count);
    let mut near = request.near.filter(|near| !near.is_empty());
    while places.len() < request.count {
        // not where the writer's host holds one already
        let writers_own = near.take().filter(|near| {
            let own = |c: &Candidate<'_>| is_near(c.server.label, near) && !taken.host(c.server);
            candidates.iter().any(own)
        });
        let least = candidates.iter().map(|c| taken.shared(c.server)).min();
        let chosen = draw(&candidates, rng, |c| match writers_own {
            Some(near) => is_near(c.server.label, near),
            None => Some(taken.shared(c.server)) == least,
        });
        let Some(Candidate { server, disk, .. }) = chosen else {
            break;
        };
        taken.add(server);
        places.push(Place {
            server: server.server,
            disk: disk.disk,
        });
        candidates.retain(|c| c.server.server != server.server);
    }
    let found = places.len();
    let shortage = (found < request.count).then(|| Shortage {
        wanted: request.existing.len() + request.count,
        found: request.existing.len() + found,
        causes,
    });
    Placement {
        places,
        shortage,
        shared_host: taken.shared_host,
    }
}

/// A disk that may be chosen.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    server: &'a ServerView<'a>,
    disk: &'a DiskView,
    weight: u64,
}

fn usable<'a>(
    server: &'a ServerView<'a>,
    request: &Request<'_>,
) -> Result<impl Iterator<Item = &'a DiskView> + use<'a>, Cause> {
    if !server.up {
        return Err(Cause::Down);
    }
    if server.draining {
        return Err(Cause::Draining);
    }
    if request.avoid.contains(&server.server) {
        return Err(Cause::Avoided);
    }
    let bytes = request.bytes;
    let roomy = move |d: &&DiskView| d.writable && d.available_bytes >= bytes;
    if server.disks.iter().any(|d| roomy(&d)) {
        Ok(server.disks.iter().filter(roomy))
    } else if server.disks.iter().any(|d| d.writable) {
        Err(Cause::Full)
    } else {
        Err(Cause::NotWritable)
    }
}

/// The whole label: hosts of one name in two racks are two hosts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Host<'a> {
    Labelled(&'a str),
    /// A host of its own.
    Server(ServerId),
}

fn host<'a>(server: &ServerView<'a>) -> Host<'a> {
    match server.label {
        "" => Host::Server(server.server),
        label => Host::Labelled(label),
    }
}

/// All of the label but the host; `None`: not labelled so far.
fn rack<'a>(server: &ServerView<'a>) -> Option<&'a str> {
    server.label.rsplit_once('/').map(|(rack, _)| rack)
}

/// What a replica would share with those that there are, from best to worst.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Shared {
    Nothing,
    Rack,
    Host,
}

/// Hosts and racks that hold a replica.
#[derive(Default)]
struct Taken<'a> {
    hosts: Vec<Host<'a>>,
    racks: Vec<&'a str>,
    shared_host: bool,
}

impl<'a> Taken<'a> {
    fn add(&mut self, server: &ServerView<'a>) {
        self.shared_host |= self.host(server);
        self.hosts.push(host(server));
        self.racks.extend(rack(server));
    }
    fn host(&self, server: &ServerView<'_>) -> bool {
        self.hosts.contains(&host(server))
    }
    fn shared(&self, server: &ServerView<'_>) -> Shared {
        if self.host(server) {
            Shared::Host
        } else if rack(server).is_some_and(|rack| self.racks.contains(&rack)) {
            Shared::Rack
        } else {
            Shared::Nothing
        }
    }
}

/// `near` is the server's label, or its last part.
fn is_near(label: &str, near: &str) -> bool {
    fn last(s: &str) -> Option<&str> {
        s.rsplit('/').next()
    }
    !label.is_empty() && (label == near || ((!near.contains('/') || !label.contains('/')) && last(label) == last(near)))
}

/// So that a chance which has fallen to a ten-thousandth is not nothing.
const FINE: u64 = 1 << 16;

/// Of the disks that could be chosen.
struct Overall {
    mean_free_permille: u64,
    creations: u64,
    available_bytes: u64,
}

impl Overall {
    fn of(candidates: &[Candidate<'_>]) -> Self {
        let disks = || candidates.iter().map(|c| c.disk);
        Self {
            mean_free_permille: disks().map(free_permille).sum::<u64>() / (disks().count().max(1) as u64),
            creations: disks().map(|d| u64::from(d.recent_creations)).sum(),
            available_bytes: disks().map(|d| d.available_bytes).sum(),
        }
    }

    /// Chances to be drawn. Below-average use counts fully, above-average use a quarter. The chance falls very steeply as
    /// recent creations come up to the disk's share of all, by its room, and exceed it: so writers share as few disks and
    /// links as they can, while disks fill equally.
    fn weight(&self, disk: &DiskView) -> u64 {
        let free = free_permille(disk).max(1);
        let by_use = if free >= self.mean_free_permille {
            4 * free
        } else {
            free
        };
        let share = u128::from(self.creations) * u128::from(disk.available_bytes);
        let share = (share / u128::from(self.available_bytes.max(1))) as u64;
        let one = u64::from(ONE_CREATION);
        let busy = u64::from(disk.recent_creations).saturating_sub(share.saturating_sub(one));
        let idle = one as f64 / (one + busy) as f64;
        ((by_use * FINE) as f64 * idle.powi(16)) as u64 + 1
    }
}

fn free_permille(disk: &DiskView) -> u64 {
    (u128::from(disk.available_bytes) * 1000 / u128::from(disk.total_bytes.max(1))) as u64
}

/// Draws one of the candidates in the pool, by weight.
fn draw<'a>(
    candidates: &[Candidate<'a>],
    rng: &mut impl RngCore,
    in_pool: impl Fn(&Candidate<'a>) -> bool,
) -> Option<Candidate<'a>> {
    let pool = || candidates.iter().filter(|c| in_pool(c));
    let total: u64 = pool().map(|c| c.weight).sum();
    if total == 0 {
        return None;
    }
    let mut ticket = rng.random_range(0..total);
    for candidate in pool() {
        if ticket < candidate.weight {
            return Some(*candidate);
        }
        ticket -= candidate.weight;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    const GIB: u64 = 1 << 30;

    fn server(n: u128, label: &str) -> ServerView<'_> {
        let disk = DiskView {
            disk: DiskId::from_bits(n),
            total_bytes: 100 * GIB,
            available_bytes: 50 * GIB,
            writable: true,
            recent_creations: 0,
        };
        ServerView {
            server: ServerId::from_bits(n),
            label,
            up: true,
            draining: false,
            disks: vec![disk],
        }
    }

    fn three<'a>() -> Request<'a> {
        Request {
            count: 3,
            near: None,
            existing: &[],
            avoid: &[],
            bytes: 64 << 20,
        }
    }

    fn each_seed(mut check: impl FnMut(&mut StdRng)) {
        (0..200).for_each(|seed| check(&mut StdRng::seed_from_u64(seed)));
    }

    /// Places so many chunks, and counts them as the master does.
    fn create(chunks: usize, servers: &mut [ServerView<'_>], rng: &mut StdRng) {
        for _ in 0..chunks {
            for chosen in place(servers, &three(), rng).places {
                let disks = servers.iter_mut().flat_map(|s| &mut s.disks);
                disks
                    .filter(|d| d.disk == chosen.disk)
                    .for_each(|d| d.recent_creations += ONE_CREATION);
            }
        }
    }

    /// Of each server's first disk.
    fn created(servers: &[ServerView<'_>]) -> Vec<u32> {
        let of = |s: &ServerView<'_>| s.disks[0].recent_creations / ONE_CREATION;
        servers.iter().map(of).collect()
    }

    #[test]
    fn racks_then_hosts_are_distinct_while_there_are_enough() {
        let servers: Vec<_> = ["z/r1/a", "z/r1/b", "z/r2/c", "z/r2/d", "z/r3/e"]
            .iter()
            .zip(1..)
            .map(|(l, n)| server(n, l))
            .collect();
        let rack_of = |p: &Place| {
            let s = servers.iter().find(|s| s.server == p.server).unwrap();
            rack(s).unwrap().to_owned()
        };
        each_seed(|rng| {
            let placement = place(&servers, &three(), rng);
            let mut racks: Vec<_> = placement.places.iter().map(rack_of).collect();
            racks.sort();
            racks.dedup();
            assert_eq!((placement.places.len(), racks.len()), (3, 3));
            assert!(placement.shortage.is_none() && !placement.shared_host);
            // four of three racks: still four hosts
            let placement = place(&servers, &Request { count: 4, ..three() }, rng);
            assert_eq!(placement.places.len(), 4);
            assert!(!placement.shared_host);
        });
    }

    #[test]
    fn never_two_on_one_server_and_a_shared_host_is_told() {
        let mut servers = vec![server(1, "h"), server(2, "h"), server(3, "h")];
        let more = servers[0].disks[0].clone();
        servers[0].disks.push(DiskView {
            disk: DiskId::from_bits(9),
            ..more
        });
        each_seed(|rng| {
            let placement = place(&servers, &three(), rng);
            let mut used: Vec<_> = placement.places.iter().map(|p| p.server).collect();
            used.sort();
            used.dedup();
            assert_eq!(used.len(), 3);
            assert!(placement.shared_host);
            let placement = place(&servers, &Request { count: 4, ..three() }, rng);
            assert_eq!(placement.places.len(), 3);
        });
    }

    #[test]
    fn a_shortage_says_why() {
        let mut servers = vec![server(1, "a"), server(2, "b"), server(3, "c"), server(4, "d")];
        servers[1].up = false;
        servers[2].up = false;
        servers[3].disks[0].available_bytes = 1;
        let placement = place(&servers, &three(), &mut StdRng::seed_from_u64(1));
        assert_eq!(placement.places.len(), 1);
        assert_eq!(
            placement.shortage.unwrap().to_string(),
            "wants 3, has 1, because 2 servers down, 1 server without room, and there are no others"
        );
        let placement = place(&[], &three(), &mut StdRng::seed_from_u64(1));
        assert_eq!(
            placement.shortage.unwrap().to_string(),
            "wants 3, has 0, because there are no more servers"
        );
    }

    #[test]
    fn one_is_on_the_writers_host_and_comes_first() {
        let servers: Vec<_> = ["r1/a", "r1/b", "r2/c", "r3/d"]
            .iter()
            .zip(1..)
            .map(|(l, n)| server(n, l))
            .collect();
        each_seed(|rng| {
            for near in ["r1/b", "b"] {
                let placement = place(
                    &servers,
                    &Request {
                        near: Some(near),
                        ..three()
                    },
                    rng,
                );
                assert_eq!(placement.places[0].server, servers[1].server);
                assert_eq!(placement.places.len(), 3);
                assert!(
                    placement.places.iter().all(|p| p.server != servers[0].server),
                    "another rack is to be had"
                );
            }
            let existing = [servers[1].server];
            let request = Request {
                near: Some("b"),
                existing: &existing,
                count: 1,
                ..three()
            };
            assert_ne!(place(&servers, &request, rng).places[0].server, servers[0].server);
        });
    }

    #[test]
    fn chunks_created_together_share_few_disks_while_others_have_none() {
        let mut used = 0;
        for seed in 0..50 {
            let mut servers: Vec<ServerView<'_>> = (0..16).map(|n| server(n, "")).collect();
            let mut rng = StdRng::seed_from_u64(seed);
            create(5, &mut servers, &mut rng);
            used += created(&servers).iter().filter(|n| **n > 0).count();
        }
        // of 15 replicas each time; by chance alone it would be 10
        assert!(used > 50 * 13, "{used}");
    }

    #[test]
    fn writers_who_begin_one_after_another_have_equal_shares_of_the_servers() {
        let mut most = 0;
        for seed in 0..50 {
            let mut servers: Vec<ServerView<'_>> = (0..16).map(|n| server(n, "")).collect();
            let mut rng = StdRng::seed_from_u64(seed);
            create(16, &mut servers, &mut rng);
            most += created(&servers).into_iter().max().unwrap();
        }
        // 3 replicas each would be even; by chance alone it would be 6
        assert!(most <= 50 * 3 + 2, "{most}");
    }

    #[test]
    fn disks_are_filled_by_their_room() {
        let mut servers: Vec<ServerView<'_>> = (0..16).map(|n| server(n, "")).collect();
        for server in &mut servers[8..] {
            (server.disks[0].total_bytes, server.disks[0].available_bytes) = (300 * GIB, 150 * GIB);
        }
        let mut rng = StdRng::seed_from_u64(1);
        create(800, &mut servers, &mut rng);
        let counts = created(&servers);
        // of 2400, a quarter to the small ones
        assert!(counts[..8].iter().all(|n| (70..80).contains(n)), "{counts:?}");
        assert!(counts[8..].iter().all(|n| (215..235).contains(n)), "{counts:?}");
    }

    #[test]
    fn emptier_disks_and_those_with_few_recent_creations_are_preferred() {
        let mut servers: Vec<_> = (1..=4).map(|n| server(n, "")).collect();
        servers[0].disks[0].available_bytes = 95 * GIB;
        servers[1].disks[0].available_bytes = 5 * GIB;
        servers[2].disks[0].recent_creations = 50 * ONE_CREATION;
        let mut counts = [0; 4];
        each_seed(|rng| {
            let placement = place(&servers, &Request { count: 1, ..three() }, rng);
            let at = servers
                .iter()
                .position(|s| s.server == placement.places[0].server)
                .unwrap();
            counts[at] += 1;
        });
        assert!(
            counts[0] > counts[3] && counts[3] > counts[1] && counts[3] > counts[2],
            "{counts:?}"
        );
    }

    #[test]
    fn draining_and_avoided_servers_are_not_used() {
        let mut servers: Vec<_> = (1..=3).map(|n| server(n, "")).collect();
        servers[0].draining = true;
        let avoid = [servers[1].server];
        each_seed(|rng| {
            let placement = place(
                &servers,
                &Request {
                    avoid: &avoid,
                    ..three()
                },
                rng,
            );
            assert_eq!(
                placement.places.iter().map(|p| p.server).collect::<Vec<_>>(),
                [servers[2].server]
            );
        });
    }
}
