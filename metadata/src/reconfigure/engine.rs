use super::{Content, Done, Event, Failure, Member, Order, Plan, ServerState};
use cairn_types::{DiskId, Registration, Serial, ServerId, Version};
use std::time::Duration;

/// Between attempts to fence a replica that could not be.
const FENCE_RETRY: Duration = Duration::from_secs(1);

/// A rule to leave out, to see that the explorer notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[cfg_attr(not(test), allow(dead_code))]
pub(super) enum Break {
    #[default]
    Nothing,
    /// Any fenced replica is the source, also one that is no member.
    R3Source,
    /// A suspect is the source while members have not answered.
    R3Suspect,
    /// An absent replica is an empty one, whatever the floor.
    R3Absent,
    /// Replicas count as identical unasked.
    R4Sync,
    /// A server that registers anew stays in.
    R4Registration,
    /// Old members may go on to serve reads.
    R5Lease,
    /// Members are told before the log has it.
    R5Log,
    /// What a grant may have brought to members that have lost it is not said to be lost.
    R10Unmarked,
    /// A chunkserver's: a replica that was made for a reconfiguration is as good as one that was there.
    R4Made,
    /// A chunkserver's: a grant creates though it was drawn before the server registered.
    R10Late,
}

/// One reconfiguration under way.
#[derive(Debug, Clone)]
pub struct Reconfiguration {
    plan: Plan,
    started: Duration,
    replicas: Vec<Replica>,
    phase: Phase,
    #[cfg_attr(not(test), allow(dead_code))]
    pub(super) broken: Break,
}

#[derive(Debug, Clone)]
enum Phase {
    Fencing {
        healthy_too: bool,
    },
    Cutting {
        source: Source,
    },
    Synchronizing {
        source: Source,
        since: Duration,
    },
    Logging {
        members: Vec<Member>,
    },
    Installing {
        members: Vec<Member>,
        head_told: bool,
        since: Duration,
    },
    Over,
}

#[derive(Debug, Clone, Copy)]
struct Source {
    at: usize,
    suspect: bool,
    length: u64,
}

#[derive(Debug, Clone)]
struct Replica {
    place: Member,
    /// Named by the log at the logged version.
    member: bool,
    leaving: bool,
    doubtful: bool,
    registration: Option<Registration>,
    /// Its server has registered anew: it takes no part any more, but as an old member that has to be fenced (R4).
    fallen_out: bool,
    lease_over: bool,
    out_of_service: bool,
    fence: Fence,
    sync: Sync,
    confirmed: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fence {
    NotYet,
    Ordered,
    FailedAt(Duration),
    /// Recorded durably: never undone by a restart.
    Done(Content),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Sync {
    None,
    Ordered,
    Done,
    Failed,
}

impl Replica {
    fn content(&self) -> Option<Content> {
        match self.fence {
            Fence::Done(content) => Some(content),
            _ => None,
        }
    }

    /// R5: it cannot be answering at an older version any more.
    fn is_settled(&self) -> bool {
        self.content().is_some() || self.lease_over || self.out_of_service
    }

    /// Fenced under its server's present registration, and able to go on.
    fn takes_part(&self) -> bool {
        self.content().is_some() && !self.fallen_out && !self.lease_over && !self.out_of_service
    }
}

impl Reconfiguration {
    /// Begins at `now`. `servers` has every server of `plan.members` and `plan.joining` that has registered since this
    /// master started; `out_of_service` the disks whose servers have reported so. One reconfiguration of a chunk at a
    /// time.
    pub fn start(plan: Plan, servers: &[ServerState], out_of_service: &[DiskId], now: Duration) -> (Self, Vec<Order>) {
        let replica = |place: &Member, member: bool| {
            let server = servers.iter().find(|s| s.server == place.server);
            let registration = server.and_then(|s| s.registration);
            let lease_over = server.is_some_and(|s| s.lease_over);
            let out_of_service = out_of_service.contains(&place.disk);
            let unwell = registration.is_none() || lease_over || out_of_service;
            Replica {
                place: *place,
                member,
                leaving: plan.leaving.contains(&place.disk),
                doubtful: !member || unwell || plan.doubtful.contains(&place.disk),
                registration,
                fallen_out: false,
                lease_over,
                out_of_service,
                fence: Fence::NotYet,
                sync: Sync::None,
                confirmed: None,
            }
        };
        let joining = plan
            .joining
            .iter()
            .filter(|j| !plan.members.iter().any(|m| m.disk == j.disk));
        let replicas = plan
            .members
            .iter()
            .map(|m| replica(m, true))
            .chain(joining.map(|j| replica(j, false)))
            .collect();
        let mut this = Self {
            plan,
            started: now,
            replicas,
            phase: Phase::Fencing { healthy_too: false },
            broken: Break::Nothing,
        };
        let mut orders = Vec::new();
        this.order_fences(&mut orders);
        this.advance(now, &mut orders);
        (this, orders)
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    pub fn version(&self) -> Version {
        self.plan.version
    }

    /// Done or failed: nothing more comes of it.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    /// The log has it (or it is over): from now on it is no reason to withhold a verdict (R7).
    pub fn is_logged(&self) -> bool {
        matches!(self.phase, Phase::Installing { .. } | Phase::Over)
    }

    /// The disk is used by it: nothing of this chunk is deleted there.
    pub fn uses(&self, disk: DiskId) -> bool {
        !self.is_over() && self.replicas.iter().any(|r| r.place.disk == disk)
    }

    /// What it waits for, for people: members that have not answered the present step.
    pub fn waiting_for(&self) -> Vec<Member> {
        let waits = |r: &&Replica| match self.phase {
            Phase::Fencing { .. } => r.member && !r.is_settled(),
            Phase::Cutting { source } => self.replicas[source.at].place == r.place,
            Phase::Synchronizing { .. } => r.sync == Sync::Ordered,
            Phase::Installing { .. } => r.confirmed == Some(false),
            Phase::Logging { .. } | Phase::Over => false,
        };
        self.replicas.iter().filter(waits).map(|r| r.place).collect()
    }

    /// When [`Event::Tick`] is due next, if nothing else happens.
    pub fn deadline(&self) -> Option<Duration> {
        let patience = &self.plan.patience;
        let whole = self.started + patience.whole;
        let retries = self.replicas.iter().filter_map(|r| match r.fence {
            Fence::FailedAt(at) => Some(at + FENCE_RETRY),
            _ => None,
        });
        match &self.phase {
            Phase::Fencing { healthy_too } => {
                // passed, it is no reason to wake any more
                let join = (!healthy_too && self.waits_for_joining()).then_some(self.started + patience.join);
                retries.chain(join).chain([whole]).min()
            }
            Phase::Cutting { .. } => Some(whole),
            Phase::Synchronizing { since, .. } => {
                let joining = self.replicas.iter().any(|r| r.sync == Sync::Ordered && !r.member);
                let first = if joining {
                    patience.join.min(patience.sync)
                } else {
                    patience.sync
                };
                Some((*since + first).min(whole))
            }
            Phase::Installing { since, .. } => Some(*since + patience.install),
            Phase::Logging { .. } | Phase::Over => None,
        }
    }

    fn waits_for_joining(&self) -> bool {
        self.replicas
            .iter()
            .any(|r| !r.member && !r.fallen_out && !r.is_settled() && r.registration.is_some())
    }

    /// Takes in what happened at `now`, and says what to do.
    pub fn handle(&mut self, event: Event, now: Duration) -> Vec<Order> {
        let mut orders = Vec::new();
        if !self.is_over() {
            self.take_in(event, now, &mut orders);
        }
        if !self.is_over() {
            self.advance(now, &mut orders);
        }
        orders
    }

    fn take_in(&mut self, event: Event, now: Duration, orders: &mut Vec<Order>) {
        match event {
            Event::Fenced {
                disk,
                registration,
                version,
                content,
            } if version == self.plan.version => {
                // after the source has been chosen it is too late to take part, but it counts as fenced
                let late = !matches!(self.phase, Phase::Fencing { .. });
                if let Some(r) = self.replica(disk, registration)
                    && r.content().is_none()
                {
                    r.fence = Fence::Done(content);
                    r.fallen_out |= late;
                }
            }
            Event::FenceOvertaken {
                disk,
                registration,
                have,
            } => {
                let above = have > self.plan.version;
                if self.replica(disk, registration).is_some() && above && !self.is_logged() {
                    self.fail(Failure::Overtaken, orders);
                }
            }
            Event::FenceFailed { disk, registration } => {
                if let Some(r) = self.replica(disk, registration).filter(|r| r.fence == Fence::Ordered) {
                    r.fence = Fence::FailedAt(now);
                }
            }
            Event::Cut {
                disk,
                registration,
                version,
            } if version == self.plan.version => {
                self.cut_done(disk, registration, now, orders);
            }
            Event::CutFailed { disk, registration } => {
                if self.is_source(disk) && self.replica(disk, registration).is_some() {
                    self.fail(Failure::SourceFailed { disk, unreadable: true }, orders);
                }
            }
            Event::Synced {
                disk,
                registration,
                version,
                ..
            } if version == self.plan.version => {
                if let Some(r) = self.replica(disk, registration).filter(|r| r.sync == Sync::Ordered) {
                    r.sync = Sync::Done;
                }
            }
            Event::SyncFailed {
                disk,
                registration,
                version,
                unreadable,
            } if version == self.plan.version => {
                let Phase::Synchronizing { source, .. } = self.phase else {
                    return;
                };
                let source = self.replicas[source.at].place.disk;
                let Some(r) = self.replica(disk, registration).filter(|r| r.sync == Sync::Ordered) else {
                    return;
                };
                r.sync = Sync::Failed;
                // what is lost cannot be given to one that joins; the members go on without it
                if unreadable && (r.member || !self.every_member_takes_part()) {
                    self.fail(
                        Failure::SourceFailed {
                            disk: source,
                            unreadable,
                        },
                        orders,
                    );
                }
            }
            Event::Logged => self.logged(now, orders),
            Event::LogRefused => {
                if matches!(self.phase, Phase::Logging { .. }) {
                    self.fail(Failure::Overtaken, orders);
                }
            }
            Event::Installed {
                disk,
                registration,
                version,
            } if version == self.plan.version => {
                self.confirm(disk, registration);
            }
            Event::InstallFailed { disk, registration } => self.confirm_failed(disk, registration),
            Event::LeaseOver { server } => self.each_of(server, |r| r.lease_over = true),
            Event::Registered { server, registration } => self.registered(server, registration, orders),
            Event::Disconnected { server, registration } => self.disconnected(server, registration),
            Event::OutOfService { disk } => {
                self.replicas
                    .iter_mut()
                    .filter(|r| r.place.disk == disk)
                    .for_each(|r| r.out_of_service = true);
            }
            Event::Tick => {
                for r in &mut self.replicas {
                    if matches!(r.fence, Fence::FailedAt(at) if now >= at + FENCE_RETRY) {
                        r.fence = Fence::NotYet;
                    }
                }
                if matches!(self.phase, Phase::Fencing { .. }) {
                    self.order_fences(orders);
                }
            }
            // answers to an earlier reconfiguration
            Event::Fenced { .. }
            | Event::Cut { .. }
            | Event::Synced { .. }
            | Event::SyncFailed { .. }
            | Event::Installed { .. } => {}
        }
    }

    /// R4: what was said under another registration is void.
    fn replica(&mut self, disk: DiskId, registration: Registration) -> Option<&mut Replica> {
        let lax = self.breaks(Break::R4Registration);
        self.replicas
            .iter_mut()
            .find(|r| r.place.disk == disk && (r.registration == Some(registration) || lax))
    }

    fn each_of(&mut self, server: ServerId, change: impl FnMut(&mut Replica)) {
        self.replicas
            .iter_mut()
            .filter(|r| r.place.server == server)
            .for_each(change);
    }

    fn registered(&mut self, server: ServerId, registration: Registration, orders: &mut Vec<Order>) {
        let lax = self.breaks(Break::R4Registration);
        self.each_of(server, |r| {
            if r.registration.is_some_and(|known| known >= registration) {
                return;
            }
            // what the old process was ordered, it will not do; what it recorded as fenced, stays so. A server that
            // registers for the first time since the start has been told nothing yet, and takes part.
            r.fallen_out |= !lax && r.fence != Fence::NotYet;
            if r.content().is_none() {
                r.fence = Fence::NotYet;
            }
            r.registration = Some(registration);
            // leased again, in service again: only a fence can settle it now
            (r.lease_over, r.out_of_service) = (false, false);
        });
        match &self.phase {
            Phase::Fencing { .. } => self.order_fences(orders),
            // a logged member is not told to install under its new registration: if its server lost power, that would
            // clear a suspicion that is right (the source has not been synced). It gets a verdict instead.
            Phase::Logging { .. } | Phase::Installing { .. } | Phase::Over => {}
            Phase::Cutting { .. } | Phase::Synchronizing { .. } => self.order_settling_fences(orders),
        }
    }

    fn disconnected(&mut self, server: ServerId, registration: Registration) {
        self.each_of(server, |r| {
            if r.registration != Some(registration) {
                return;
            }
            if r.fence == Fence::NotYet {
                // it has been told nothing yet: it takes part when it is back, or is waited for
                (r.registration, r.doubtful) = (None, true);
                return;
            }
            // whatever comes next comes under a new registration
            if r.fence == Fence::Ordered || matches!(r.fence, Fence::FailedAt(_)) {
                r.fallen_out = true;
                r.fence = Fence::Ordered;
            }
            if r.content().is_some() {
                r.fallen_out = true;
            }
            if r.sync == Sync::Ordered {
                r.sync = Sync::Failed;
            }
        });
    }

    // ---- fencing

    /// Orders the fences that are due: the doubtful at once, the healthy in their turn.
    fn order_fences(&mut self, orders: &mut Vec<Order>) {
        let all = matches!(self.phase, Phase::Fencing { healthy_too: true });
        let version = self.plan.version;
        for r in &mut self.replicas {
            // one that fell out is fenced whatever its turn: as an old member only
            let due = all || r.doubtful || r.fallen_out;
            let useful = r.member || !r.fallen_out;
            if let Some(registration) = r.registration
                && due
                && useful
                && r.fence == Fence::NotYet
            {
                r.fence = Fence::Ordered;
                orders.push(Order::Fence {
                    to: r.place,
                    registration,
                    version,
                });
            }
        }
    }

    /// After the source has been chosen: only old members that are leased again without having been fenced.
    fn order_settling_fences(&mut self, orders: &mut Vec<Order>) {
        let version = self.plan.version;
        for r in self
            .replicas
            .iter_mut()
            .filter(|r| r.member && !r.is_settled() && r.fence == Fence::NotYet)
        {
            if let Some(registration) = r.registration {
                r.fence = Fence::Ordered;
                r.fallen_out = true;
                orders.push(Order::Fence {
                    to: r.place,
                    registration,
                    version,
                });
            }
        }
    }

    fn advance(&mut self, now: Duration, orders: &mut Vec<Order>) {
        if let Phase::Fencing { healthy_too: false } = self.phase {
            self.fence_the_healthy(now, orders);
        }
        if let Phase::Fencing { healthy_too: true } = self.phase {
            self.choose(now, orders);
        }
        if let Phase::Cutting { source } = self.phase
            && !self.replicas[source.at].takes_part()
        {
            let disk = self.replicas[source.at].place.disk;
            self.fail(
                Failure::SourceFailed {
                    disk,
                    unreadable: false,
                },
                orders,
            );
        }
        if let Phase::Synchronizing { source, since } = self.phase {
            self.finish_sync(source, since, now, orders);
        }
        if matches!(self.phase, Phase::Installing { .. }) {
            self.finish_install(now, orders);
        }
        if now >= self.started + self.plan.patience.whole
            && matches!(
                self.phase,
                Phase::Fencing { .. } | Phase::Cutting { .. } | Phase::Synchronizing { .. }
            )
        {
            self.fail(
                Failure::TimedOut {
                    missing: self.waiting_for(),
                },
                orders,
            );
        }
    }

    /// R2: the healthy last, when each other has answered or cannot be serving; and only when it can succeed.
    fn fence_the_healthy(&mut self, now: Duration, orders: &mut Vec<Order>) {
        let members_settled = self
            .replicas
            .iter()
            .filter(|r| r.member && r.doubtful)
            .all(Replica::is_settled);
        let joined = now >= self.started + self.plan.patience.join || !self.waits_for_joining();
        if !members_settled || !joined {
            return;
        }
        let hopeful = |r: &&Replica| !r.leaving && (r.takes_part() || (r.member && !r.doubtful && !r.fallen_out));
        let have = self.replicas.iter().filter(hopeful).count();
        let minimum = self.plan.minimum;
        if have < minimum {
            let fenced = !self.replicas.iter().any(|r| r.member && !r.doubtful);
            return self.fail(Failure::TooFew { have, minimum, fenced }, orders);
        }
        self.phase = Phase::Fencing { healthy_too: true };
        self.order_fences(orders);
    }

    // ---- the source

    fn choose(&mut self, now: Duration, orders: &mut Vec<Order>) {
        let settled = |r: &Replica| !r.member || r.is_settled() || self.breaks(Break::R5Lease);
        if !self.replicas.iter().all(settled) || !self.replicas.iter().any(|r| r.content().is_some()) {
            // with every old member out of reach nobody can be the source
            if self.replicas.iter().all(|r| r.is_settled() && !r.takes_part()) {
                self.fail(Failure::NoSource, orders);
            }
            return;
        }
        let source = match self.source() {
            Ok(source) => source,
            Err(failure) => return self.fail(failure, orders),
        };
        let have = self.replicas.iter().filter(|r| r.takes_part() && !r.leaving).count();
        let minimum = self.plan.minimum;
        if have < minimum {
            return self.fail(
                Failure::TooFew {
                    have,
                    minimum,
                    fenced: true,
                },
                orders,
            );
        }
        let r = &self.replicas[source.at];
        let anew = r.content().is_some_and(|c| c.is_absent() || self.is_empty(&c));
        let (to, version) = (r.place, self.plan.version);
        match (self.plan.cut, r.registration) {
            (cut, Some(registration)) if cut.is_some() || anew => {
                let length = cut.unwrap_or(0);
                self.phase = Phase::Cutting {
                    source: Source { length, ..source },
                };
                orders.push(Order::Cut {
                    to,
                    registration,
                    version,
                    length,
                    anew,
                });
            }
            _ => self.synchronize(source, now, orders),
        }
    }

    /// R3.
    fn source(&self) -> Result<Source, Failure> {
        let candidates = || {
            let all = self.replicas.iter().enumerate();
            all.filter(|(_, r)| r.takes_part() && !self.plan.not_source.contains(&r.place.disk))
                .filter_map(|(at, r)| Some((at, self.standing(r)?, self.is_suspect(r))))
        };
        let best = |suspect: bool| {
            let fit = candidates().filter(|(_, _, s)| *s == suspect);
            // of equals, the first in the chain
            let best = fit.reduce(|best, next| if next.1 > best.1 { next } else { best });
            best.map(|(at, standing, _)| Source {
                at,
                suspect,
                length: standing.length,
            })
        };
        if let Some(source) = best(false) {
            return Ok(source);
        }
        let Some(source) = best(true).or_else(|| self.never_committed()) else {
            return Err(Failure::NoSource);
        };
        let answered = |r: &Replica| self.answered_without_hope(r) || self.plan.given_up.contains(&r.place.disk);
        let missing: Vec<_> = self
            .replicas
            .iter()
            .filter(|r| r.member && !answered(r))
            .map(|r| r.place)
            .collect();
        if missing.is_empty() || self.breaks(Break::R3Suspect) {
            Ok(source)
        } else {
            Err(Failure::OnlySuspects { missing })
        }
    }

    /// Of a chunk that no commit has named, nothing was on stable storage at every member: what its grant brought to a
    /// member that now has no replica was lost with its power. Such a member is as good as a suspect, with nothing in it.
    fn never_committed(&self) -> Option<Source> {
        let absent = |r: &Replica| r.member && r.content().is_some_and(|c| c.is_absent());
        let can_be = |r: &Replica| r.takes_part() && absent(r) && !self.plan.not_source.contains(&r.place.disk);
        let at = self.replicas.iter().position(can_be)?;
        (self.plan.granted && !self.plan.committed).then_some(Source {
            at,
            suspect: !self.breaks(Break::R10Unmarked),
            length: 0,
        })
    }

    /// The member has answered that it is suspect too, or that it has nothing that it could have kept.
    fn answered_without_hope(&self, r: &Replica) -> bool {
        r.takes_part() && (self.is_suspect(r) || self.standing(r).is_none())
    }

    /// How good a source the replica would be; `None`: none.
    fn standing(&self, r: &Replica) -> Option<Standing> {
        if !r.member && !self.breaks(Break::R3Source) {
            return None;
        }
        match r.content()? {
            empty if self.is_empty(&empty) => Some(Standing {
                sound: true,
                ..Standing::default()
            }),
            Content::Present { joining: true, .. } if !self.breaks(Break::R3Source) => None,
            // it missed an installation: not what the log takes it for
            Content::Present { previous, .. } if previous < self.plan.logged => {
                self.breaks(Break::R3Source).then(Standing::default)
            }
            Content::Present {
                serial,
                length,
                damaged,
                ..
            } => Some(Standing {
                sound: !damaged,
                serial,
                length,
                present: true,
            }),
            Content::Absent { .. } => None,
        }
    }

    /// Provably empty at the logged version: a grant creates only above the floor, and whatever was deleted has raised it
    /// (R10). What an attempt that failed has made there since is of no account.
    fn is_empty(&self, content: &Content) -> bool {
        let floor = match content {
            Content::Absent { floor } => Some(*floor),
            Content::Present { made_at, .. } => *made_at,
        };
        floor.is_some_and(|floor| self.breaks(Break::R3Absent) || self.plan.granted && floor < self.plan.logged)
    }

    fn is_suspect(&self, r: &Replica) -> bool {
        let suspect = |c: Content| matches!(c, Content::Present { suspect: true, .. }) && !self.is_empty(&c);
        r.content().is_some_and(suspect)
    }

    fn is_source(&self, disk: DiskId) -> bool {
        let source = match &self.phase {
            Phase::Cutting { source } | Phase::Synchronizing { source, .. } => source,
            _ => return false,
        };
        self.replicas[source.at].place.disk == disk
    }

    fn cut_done(&mut self, disk: DiskId, registration: Registration, now: Duration, orders: &mut Vec<Order>) {
        let Phase::Cutting { source } = self.phase else { return };
        if self.is_source(disk) && self.replica(disk, registration).is_some() {
            self.synchronize(source, now, orders);
        }
    }

    // ---- making them identical

    /// What none of them has, nobody has.
    fn every_member_takes_part(&self) -> bool {
        self.replicas.iter().all(|r| !r.member || r.takes_part())
    }

    fn synchronize(&mut self, source: Source, now: Duration, orders: &mut Vec<Order>) {
        self.phase = Phase::Synchronizing { source, since: now };
        let from = &self.replicas[source.at];
        let Some(source_registration) = from.registration else {
            return;
        };
        let from = from.place;
        let is_alternate =
            |r: &&Replica| r.takes_part() && !self.is_suspect(r) && self.standing(r).is_some_and(|s| s.present);
        let alternates: Vec<_> = self
            .replicas
            .iter()
            .filter(is_alternate)
            .map(|r| (r.place, r.registration))
            .collect();
        let version = self.plan.version;
        let last_resort = self.every_member_takes_part();
        for (at, r) in self.replicas.iter_mut().enumerate() {
            let Some(registration) = r.registration else { continue };
            if at == source.at || !r.takes_part() || r.leaving {
                continue;
            }
            r.sync = Sync::Ordered;
            let others = alternates.iter().filter(|(m, _)| *m != r.place && *m != from);
            orders.push(Order::Synchronize {
                to: r.place,
                registration,
                version,
                source: from,
                source_registration,
                source_suspect: source.suspect,
                alternates: others
                    .filter_map(|(m, registration)| Some((*m, (*registration)?)))
                    .collect(),
                recompute: matches!(
                    r.content(),
                    Some(Content::Present { suspect, damaged, .. }) if suspect || damaged
                ),
                last_resort,
            });
        }
    }

    /// R5: logs when enough agree and nobody is worth waiting for.
    fn finish_sync(&mut self, source: Source, since: Duration, now: Duration, orders: &mut Vec<Order>) {
        let lax = self.breaks(Break::R4Sync);
        let patience = self.plan.patience;
        let agrees = |(at, r): &(usize, &Replica)| {
            r.takes_part() && !r.leaving && (*at == source.at || r.sync == Sync::Done || lax)
        };
        let waiting = |r: &Replica| {
            let until = since + if r.member { patience.sync } else { patience.join };
            r.sync == Sync::Ordered && r.takes_part() && now < until
        };
        let have = self.replicas.iter().enumerate().filter(agrees).count();
        let minimum = self.plan.minimum;
        let hope = self
            .replicas
            .iter()
            .filter(|r| r.sync == Sync::Ordered && r.takes_part())
            .count();
        let from = &self.replicas[source.at];
        if !from.takes_part() && hope > 0 {
            // a server that registers anew, or is silent, falls out: what it gave after is not to be relied on
            let disk = from.place.disk;
            return self.fail(
                Failure::SourceFailed {
                    disk,
                    unreadable: false,
                },
                orders,
            );
        }
        if have + hope < minimum {
            let tried = self.replicas.iter().any(|r| r.sync == Sync::Failed && r.takes_part());
            let failure = match tried {
                // they may reach each other where they cannot reach it
                true => Failure::SourceFailed {
                    disk: from.place.disk,
                    unreadable: true,
                },
                false => Failure::TooFew {
                    have: have + hope,
                    minimum,
                    fenced: true,
                },
            };
            return self.fail(failure, orders);
        }
        // an old member that registered anew meanwhile is leased again: only a fence settles it (R5)
        let settled = self
            .replicas
            .iter()
            .all(|r| !r.member || r.is_settled() || self.breaks(Break::R5Lease));
        if have < minimum || !settled || (!lax && self.replicas.iter().any(waiting)) {
            return;
        }
        let members: Vec<_> = self
            .replicas
            .iter()
            .enumerate()
            .filter(agrees)
            .map(|(_, r)| r.place)
            .collect();
        let members = self.chain(members);
        let from_suspect = source.suspect;
        let length = source.length;
        let version = self.plan.version;
        orders.push(Order::Log {
            version,
            members: members.clone(),
            from_suspect,
            length,
        });
        self.phase = Phase::Logging { members };
        if self.breaks(Break::R5Log) {
            self.logged(now, orders);
        }
    }

    /// The order of the chain: the preferred head, then as before, then those that joined.
    fn chain(&self, mut members: Vec<Member>) -> Vec<Member> {
        members.truncate(crate::MEMBERS_MAX);
        if let Some(at) = members.iter().position(|m| Some(m.disk) == self.plan.head) {
            members[..=at].rotate_right(1);
        }
        members
    }

    // ---- installing

    fn logged(&mut self, now: Duration, orders: &mut Vec<Order>) {
        let Phase::Logging { members } = &self.phase else {
            return;
        };
        let members = members.clone();
        for r in self.replicas.iter_mut().filter(|r| members.contains(&r.place)) {
            r.confirmed = Some(false);
        }
        // tail first: a member forwards only to those that are installed
        for member in members.iter().skip(1).rev() {
            self.order_install(member.disk, &members, orders);
        }
        self.phase = Phase::Installing {
            members,
            head_told: false,
            since: now,
        };
    }

    fn order_install(&self, disk: DiskId, members: &[Member], orders: &mut Vec<Order>) {
        let version = self.plan.version;
        if let Some(r) = self.replicas.iter().find(|r| r.place.disk == disk)
            && let Some(registration) = r.registration
            && !r.fallen_out
        {
            orders.push(Order::Install {
                to: r.place,
                registration,
                version,
                members: members.to_vec(),
            });
        }
    }

    fn confirm(&mut self, disk: DiskId, registration: Registration) {
        if let Some(r) = self.replica(disk, registration).filter(|r| r.confirmed.is_some()) {
            r.confirmed = Some(true);
        }
    }

    fn confirm_failed(&mut self, disk: DiskId, registration: Registration) {
        if let Some(r) = self.replica(disk, registration).filter(|r| r.confirmed == Some(false)) {
            r.out_of_service = true;
        }
    }

    fn finish_install(&mut self, now: Duration, orders: &mut Vec<Order>) {
        let Phase::Installing {
            members,
            head_told,
            since,
        } = self.phase.clone()
        else {
            return;
        };
        let late = now >= since + self.plan.patience.install;
        let pending = |r: &&Replica| r.confirmed == Some(false) && r.takes_part();
        let head = members.first().copied();
        let tail_pending = self.replicas.iter().filter(pending).any(|r| Some(r.place) != head);
        if !head_told && (late || !tail_pending) {
            if let Some(head) = head {
                self.order_install(head.disk, &members, orders);
            }
            let since = if late { now } else { since };
            self.phase = Phase::Installing {
                members,
                head_told: true,
                since,
            };
            // the head may have fallen out: then that was all
            return self.finish_install(now, orders);
        }
        if head_told && (late || !self.replicas.iter().any(|r| pending(&r))) {
            let unconfirmed = self
                .replicas
                .iter()
                .filter(|r| r.confirmed == Some(false))
                .map(|r| r.place)
                .collect();
            let left_out = self
                .replicas
                .iter()
                .filter(|r| !members.contains(&r.place))
                .map(|r| r.place)
                .collect();
            let version = self.plan.version;
            self.phase = Phase::Over;
            orders.push(Order::Done(Done {
                version,
                members,
                unconfirmed,
                left_out,
            }));
        }
    }

    fn fail(&mut self, failure: Failure, orders: &mut Vec<Order>) {
        self.phase = Phase::Over;
        orders.push(Order::Failed(failure));
    }

    #[cfg(test)]
    fn breaks(&self, rule: Break) -> bool {
        self.broken == rule
    }
    #[cfg(not(test))]
    fn breaks(&self, _: Break) -> bool {
        false
    }
}

/// Compared field by field, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Standing {
    /// Without blocks that are known to be bad.
    sound: bool,
    /// R3: so that nothing is thrown away needlessly.
    serial: Serial,
    length: u64,
    present: bool,
}
