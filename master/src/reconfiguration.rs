//! Carries out reconfigurations (protocol R2 to R5): the pure engine of `cairn_metadata::reconfigure` decides, this
//! sends its orders, feeds it what comes back, and logs what it concludes.
//!
//! At most one per chunk. Everything happens under the world's lock, in the task in which the event arrived; there is
//! no task per reconfiguration.
use crate::chunkservers::{Purpose, Replica};
use crate::core::{Applied, Core, Then, World};
use crate::limits::RECONFIGURATIONS_MAX;
use crate::session::{Barrier, CallId};
use cairn_metadata::reconfigure::{Done, Event, Failure, Member, Order, Patience, Plan, Reconfiguration, ServerState};
use cairn_metadata::{ChunkInfo, Command, FsError, Install, Op, Reply, SetAttr};
use cairn_proto::chunkserver::{self as wire, ReplicaState, order};
use cairn_proto::common;
use cairn_types::{ChunkHandle, DiskId, ServerId, SessionId, Version};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use tokio::sync::oneshot;

/// Between attempts to fence what a session that ended could write.
const ABANDONED_RETRY: Duration = Duration::from_secs(10);
/// A chain that breaks where it broke so long ago broke for another reason.
const BROKEN_LINK_REMEMBERED: Duration = Duration::from_secs(60);

/// What a reconfiguration is for, beyond making the members that are there identical.
#[derive(Default)]
pub struct Wish {
    /// For the status and the log.
    pub why: &'static str,
    pub joining: Vec<DiskId>,
    pub leaving: Vec<DiskId>,
    pub doubtful: Vec<DiskId>,
    /// A truncation inside the chunk (R13), and whose call it is.
    pub cut: Option<Cut>,
    /// The writer is gone: the file is as long as what it wrote (R12).
    pub adopt_length: bool,
    /// Repair is to be told when it is over.
    pub repair: bool,
}

pub struct Cut {
    pub call: CallId,
    pub length: u64,
    pub set: SetAttr,
}

/// How a reconfiguration ended, for those who wait.
#[derive(Debug, Clone)]
pub enum Ended {
    Installed,
    /// With a cut: what the call gave, and who is to take it in before the client hears of it.
    Cut {
        result: Result<Reply, FsError>,
        others: Barrier,
    },
    Failed(String),
}

/// Why none was begun.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotBegun {
    #[error("the chunk is gone")]
    NoChunk,
    #[error("another reconfiguration of it is under way")]
    UnderWay,
    #[error("too many reconfigurations are under way")]
    TooMany,
    #[error("a member's server is not known")]
    UnknownServer,
}

struct Active {
    engine: Reconfiguration,
    wish: Wish,
    waiters: Vec<Waiter>,
    started: Duration,
    /// What the log said to a cut.
    cut: Option<(Result<Reply, FsError>, Barrier)>,
}

/// `upper` could not pass a mutation on to `lower` at `version`, and who was to leave for it.
struct BrokenLink {
    version: Version,
    upper: DiskId,
    lower: DiskId,
    leaves: Option<DiskId>,
    at: Duration,
}

struct Waiter {
    /// The cut's own call: it takes the cut's result.
    own: bool,
    tell: oneshot::Sender<Ended>,
}

#[derive(Default)]
pub struct Reconfigurations {
    active: BTreeMap<ChunkHandle, Active>,
    /// Sources that were unreadable in the last attempt for this chunk.
    not_source: BTreeMap<ChunkHandle, Vec<DiskId>>,
    /// Where a chunk's chain broke last.
    broken: BTreeMap<ChunkHandle, BrokenLink>,
    /// Chunks of sessions that ended, to be fenced.
    abandoned: VecDeque<(ChunkHandle, Duration)>,
    /// Why the last attempt for this chunk failed; for the status.
    pub failures: BTreeMap<ChunkHandle, String>,
}

impl Reconfigurations {
    /// One is under way that the log does not have yet: no verdict before it has (R7).
    pub fn is_under_way(&self, handle: ChunkHandle) -> bool {
        self.active.get(&handle).is_some_and(|a| !a.engine.is_logged())
    }

    /// To be fenced, as by a session that ended.
    pub fn abandon(&mut self, handle: ChunkHandle, now: Duration) {
        if !self.is_active(handle) && !self.abandoned.iter().any(|(known, _)| *known == handle) {
            self.abandoned.push_back((handle, now));
        }
    }

    pub fn is_active(&self, handle: ChunkHandle) -> bool {
        self.active.contains_key(&handle)
    }

    pub fn uses(&self, handle: ChunkHandle, disk: DiskId) -> bool {
        self.active.get(&handle).is_some_and(|a| a.engine.uses(disk))
    }

    pub fn len(&self) -> usize {
        self.active.len()
    }

    pub fn active(&self) -> impl Iterator<Item = (ChunkHandle, &'static str, Duration)> + '_ {
        self.active.iter().map(|(handle, a)| (*handle, a.wish.why, a.started))
    }

    /// The chunk's chain broke between two members. Gives who is to leave: nobody the first time, since a member that
    /// was away is back after the reconfiguration. If the same link breaks again, the two cannot reach each other, though
    /// the master reaches both: the lower one leaves. If another link of the same upper one breaks, it is that one which
    /// is cut off, and its healthy peers stay. A version breaks once, however often it is told.
    pub fn link_broke(&mut self, chunk: &ChunkInfo, upper: DiskId, lower: DiskId, at: Duration) -> Option<DiskId> {
        self.broken
            .retain(|_, link| at.saturating_sub(link.at) < BROKEN_LINK_REMEMBERED);
        let before = self.broken.get(&chunk.handle);
        let leaves = match before {
            Some(link) if link.version == chunk.version => return link.leaves,
            Some(link) if link.upper == upper && link.lower == lower => Some(lower),
            Some(link) if link.upper == upper => Some(upper),
            _ => None,
        };
        let link = BrokenLink {
            version: chunk.version,
            upper,
            lower,
            leaves,
            at,
        };
        self.broken.insert(chunk.handle, link);
        leaves
    }

    /// Tells when the one that is under way is over. With `own`, a cut's result is told, to the call that it is of.
    pub fn wait(&mut self, handle: ChunkHandle, own: bool) -> Option<oneshot::Receiver<Ended>> {
        let active = self.active.get_mut(&handle)?;
        active.waiters.retain(|w| !w.tell.is_closed());
        let (tell, told) = oneshot::channel();
        active.waiters.push(Waiter { own, tell });
        Some(told)
    }

    pub fn waiting_for(&self, handle: ChunkHandle) -> Vec<Member> {
        self.active
            .get(&handle)
            .map_or_else(Vec::new, |a| a.engine.waiting_for())
    }
}

impl Core {
    /// Begins a reconfiguration of the chunk.
    pub fn reconfigure(&self, world: &mut World, handle: ChunkHandle, wish: Wish) -> Result<(), NotBegun> {
        let chunk = world.state.chunk(handle).ok_or(NotBegun::NoChunk)?;
        if world.reconfigurations.is_active(handle) {
            return Err(NotBegun::UnderWay);
        }
        if world.reconfigurations.len() >= RECONFIGURATIONS_MAX {
            return Err(NotBegun::TooMany);
        }
        let now = self.now();
        let members = places(world, &chunk.members)?;
        let joining = places(world, &wish.joining)?;
        let disks: BTreeSet<DiskId> = members.iter().chain(&joining).map(|m| m.disk).collect();
        let out_of_service: Vec<DiskId> = disks
            .iter()
            .copied()
            .filter(|d| world.is_out_of_service(handle, *d))
            .collect();
        let ids: BTreeSet<ServerId> = members.iter().chain(&joining).map(|m| m.server).collect();
        let servers: Vec<ServerState> = ids
            .into_iter()
            .map(|server| ServerState {
                server,
                registration: world.servers.registration(server),
                lease_over: world.leases.is_over(server, now) && !world.leases.is_up(server, now),
            })
            .collect();
        let plan = Plan {
            handle,
            version: world.draw_version(),
            logged: chunk.version,
            granted: chunk.granted,
            committed: chunk.committed,
            members,
            joining,
            leaving: wish.leaving.clone(),
            doubtful: wish.doubtful.clone(),
            given_up: Vec::new(),
            not_source: world.reconfigurations.not_source.remove(&handle).unwrap_or_default(),
            head: None,
            cut: wish.cut.as_ref().map(|c| c.length),
            minimum: self.minimum(chunk.goal),
            patience: self.patience(),
        };
        tracing::debug!(chunk = %handle, version = %plan.version, why = wish.why, "reconfiguring");
        let (engine, orders) = Reconfiguration::start(plan, &servers, &out_of_service, now);
        let active = Active {
            engine,
            wish,
            waiters: Vec::new(),
            started: now,
            cut: None,
        };
        world.reconfigurations.active.insert(handle, active);
        self.carry_out(world, handle, orders);
        Ok(())
    }

    fn patience(&self) -> Patience {
        let order = self.config.order_timeout();
        let lease = cairn_metadata::lease::masters_count(self.config.lease());
        Patience {
            join: order,
            sync: 6 * order,
            install: order,
            whole: (12 * order).max(2 * lease),
        }
    }

    /// Something happened to the chunk's reconfiguration, if there is one.
    pub fn reconfiguration_event(&self, world: &mut World, handle: ChunkHandle, event: Event) {
        let now = self.now();
        if let Some(active) = world.reconfigurations.active.get_mut(&handle) {
            let orders = active.engine.handle(event, now);
            self.carry_out(world, handle, orders);
        }
    }

    /// Something happened to a server or disk: every reconfiguration is told.
    pub fn event_for_all(&self, world: &mut World, event: Event) {
        let handles: Vec<_> = world.reconfigurations.active.keys().copied().collect();
        for handle in handles {
            self.reconfiguration_event(world, handle, event);
        }
    }

    /// Time passed.
    pub fn tick_reconfigurations(&self, world: &mut World) {
        let now = self.now();
        let due: Vec<_> = (world.reconfigurations.active.iter())
            .filter(|(_, a)| a.engine.deadline().is_some_and(|at| at <= now))
            .map(|(handle, _)| *handle)
            .collect();
        for handle in due {
            self.reconfiguration_event(world, handle, Event::Tick);
        }
        while world.reconfigurations.len() < RECONFIGURATIONS_MAX / 2 {
            let due = world.reconfigurations.abandoned.front().filter(|(_, due)| *due <= now);
            let Some((handle, _)) = due.copied() else { break };
            world.reconfigurations.abandoned.pop_front();
            let wish = Wish {
                why: "its writer's session ended",
                adopt_length: true,
                ..Wish::default()
            };
            match self.reconfigure(world, handle, wish) {
                Ok(()) | Err(NotBegun::NoChunk) => {}
                // fenced by the one that is under way; its length is in no danger
                Err(NotBegun::UnderWay) => {}
                Err(e) => {
                    tracing::debug!(chunk = %handle, error = %e, "a chunk cannot be fenced yet");
                    world
                        .reconfigurations
                        .abandoned
                        .push_back((handle, now + ABANDONED_RETRY));
                    break;
                }
            }
        }
    }

    /// The session's opens and writes end with it (R12).
    pub fn session_ended(&self, world: &mut World, session: SessionId) {
        let (closed, writable) = world.sessions.end(session);
        for inode in closed {
            if world.state.getattr(inode).is_ok_and(|attr| attr.nlink == 0) && !world.state.is_trashed(inode) {
                world.closed_orphans.insert(inode);
            }
        }
        let now = self.now();
        world.written(now);
        world
            .reconfigurations
            .abandoned
            .extend(writable.into_iter().map(|handle| (handle, now)));
        self.nudge.notify_one();
    }

    /// The chunk is no more.
    pub fn chunk_dropped(&self, world: &mut World, chunk: &ChunkInfo) {
        world.repair.forget(chunk.handle);
        world.rot.over(chunk.handle);
        world.reconfigurations.failures.remove(&chunk.handle);
        world.reconfigurations.not_source.remove(&chunk.handle);
        world.reconfigurations.broken.remove(&chunk.handle);
        if let Some(active) = world.reconfigurations.active.remove(&chunk.handle) {
            end(active, Ended::Failed("the chunk is gone".into()));
        }
    }

    /// The record of a reconfiguration's install is applied, or was refused.
    pub fn install_logged(&self, world: &mut World, handle: ChunkHandle, version: Version, applied: Applied) {
        let Some(active) = world
            .reconfigurations
            .active
            .get_mut(&handle)
            .filter(|a| a.engine.version() == version)
        else {
            return;
        };
        let Applied { outcome, others } = applied;
        let ok = outcome.result.is_ok();
        if active.wish.cut.is_some() {
            active.cut = Some((outcome.result, others));
        }
        self.reconfiguration_event(world, handle, if ok { Event::Logged } else { Event::LogRefused });
    }

    fn carry_out(&self, world: &mut World, handle: ChunkHandle, orders: Vec<Order>) {
        for order in orders {
            match order {
                Order::Fence {
                    to,
                    registration,
                    version,
                } => {
                    let what = order::What::Fence(wire::Fence {
                        version: Some(version.into()),
                    });
                    let purpose = Purpose::Fence(version);
                    world
                        .servers
                        .order(to.server, registration, handle, Some(to.disk), purpose, what);
                }
                Order::Cut {
                    to,
                    registration,
                    version,
                    length,
                    anew,
                } => {
                    let what = order::What::Cut(wire::Cut {
                        version: Some(version.into()),
                        length,
                        anew,
                    });
                    let purpose = Purpose::Cut(version);
                    world
                        .servers
                        .order(to.server, registration, handle, Some(to.disk), purpose, what);
                }
                Order::Synchronize {
                    to,
                    registration,
                    version,
                    source,
                    source_registration,
                    source_suspect,
                    alternates,
                    recompute,
                    last_resort,
                } => {
                    let alternates = alternates.into_iter().map(|(m, registration)| wire::Alternate {
                        member: Some(world.member(m.disk)),
                        registration: Some(registration.into()),
                    });
                    let what = order::What::Synchronize(wire::Synchronize {
                        version: Some(version.into()),
                        source: Some(world.member(source.disk)),
                        source_registration: Some(source_registration.into()),
                        source_suspect,
                        alternates: alternates.collect(),
                        recompute,
                        last_resort,
                    });
                    let purpose = Purpose::Synchronize(version);
                    world
                        .servers
                        .order(to.server, registration, handle, Some(to.disk), purpose, what);
                }
                Order::Log {
                    version,
                    members,
                    from_suspect,
                    length,
                } => {
                    self.log_install(world, handle, version, &members, from_suspect, length);
                }
                Order::Install {
                    to,
                    registration,
                    version,
                    members,
                } => {
                    let members: Vec<common::Member> = members.iter().map(|m| world.member(m.disk)).collect();
                    let what = order::What::Install(wire::Install {
                        version: Some(version.into()),
                        members,
                    });
                    let purpose = Purpose::Install(version);
                    world
                        .servers
                        .order(to.server, registration, handle, Some(to.disk), purpose, what);
                }
                Order::Done(done) => self.done(world, handle, done),
                Order::Failed(failure) => self.failed(world, handle, failure),
            }
        }
    }

    fn log_install(
        &self,
        world: &mut World,
        handle: ChunkHandle,
        version: Version,
        members: &[Member],
        from_suspect: bool,
        length: u64,
    ) {
        let Some(active) = world.reconfigurations.active.get(&handle) else {
            return;
        };
        let cut = active.wish.cut.as_ref();
        let op = Op::Install(Install {
            handle,
            version,
            members: members.iter().map(|m| m.disk).collect(),
            from_suspect,
            length: active.wish.adopt_length.then_some(length),
            cut: cut.map(|c| c.set.clone()),
        });
        let command = match cut {
            Some(cut) => cut.call.command(self, op),
            None => Command::Internal {
                at_ns: self.env.clock.wall(),
                op,
            },
        };
        if let Err(e) = self.push(command, Then::Install { handle, version }) {
            tracing::warn!(chunk = %handle, error = %e, "an install cannot be logged");
            self.reconfiguration_event(world, handle, Event::LogRefused);
        }
    }

    fn done(&self, world: &mut World, handle: ChunkHandle, done: Done) {
        let Some(active) = world.reconfigurations.active.remove(&handle) else {
            return;
        };
        world.reconfigurations.failures.remove(&handle);
        let members: Vec<DiskId> = done.members.iter().map(|m| m.disk).collect();
        let good = |disk| world.servers.replica(disk, handle).is_some_and(|r| !r.damaged);
        let repaired = world
            .events
            .repaired(handle, |disk| !members.contains(&disk) || good(disk));
        if repaired > 0 {
            let text = format!("chunk {handle}: {repaired} corrupt replicas mended or replaced");
            world.events.add(self.env.clock.wall(), text);
        }
        if !done.unconfirmed.is_empty() {
            tracing::debug!(chunk = %handle, version = %done.version, "installed, but not confirmed by all");
        }
        if active.wish.repair {
            world.repair.finished(handle);
        }
        world.rot.over(handle);
        world.repair.look_at(handle);
        let cut = active.cut.clone();
        let cut = cut.map(|(result, others)| Ended::Cut { result, others });
        end(active, cut.unwrap_or(Ended::Installed));
        self.nudge.notify_one();
    }

    fn failed(&self, world: &mut World, handle: ChunkHandle, failure: Failure) {
        let Some(active) = world.reconfigurations.active.remove(&handle) else {
            return;
        };
        tracing::debug!(chunk = %handle, why = active.wish.why, error = %failure, "a reconfiguration failed");
        if let Failure::SourceFailed { disk, unreadable: true } = failure {
            world.reconfigurations.not_source.entry(handle).or_default().push(disk);
        }
        if !matches!(failure, Failure::Overtaken) {
            world.reconfigurations.failures.insert(handle, failure.to_string());
        }
        if active.wish.adopt_length {
            // the length is still to be taken from what the writer left
            world
                .reconfigurations
                .abandoned
                .push_back((handle, self.now() + ABANDONED_RETRY));
        }
        if active.wish.repair {
            world.repair.finished(handle);
        }
        world.repair.failed(handle, self.now());
        match active.cut.clone() {
            Some((result @ Err(_), others)) => end(active, Ended::Cut { result, others }),
            _ => end(active, Ended::Failed(failure.to_string())),
        }
    }
}

fn end(active: Active, ended: Ended) {
    for waiter in active.waiters {
        let ended = match &ended {
            Ended::Cut { .. } if !waiter.own => Ended::Installed,
            ended => ended.clone(),
        };
        // whoever has stopped waiting does not want to know
        let _ = waiter.tell.send(ended);
    }
}

fn places(world: &World, disks: &[DiskId]) -> Result<Vec<Member>, NotBegun> {
    let place = |disk: &DiskId| {
        Some(Member {
            disk: *disk,
            server: world.servers.server_of(*disk)?,
        })
    };
    disks
        .iter()
        .map(|disk| place(disk).ok_or(NotBegun::UnknownServer))
        .collect()
}

impl World {
    /// The chunk's members that answer, and from whose disk it is served.
    pub fn within_reach(&self, chunk: &ChunkInfo, now: Duration) -> Vec<DiskId> {
        let mut members = chunk.members.clone();
        members.retain(|disk| {
            let server = self.servers.server_of(*disk);
            server.is_some_and(|s| self.leases.is_up(s, now)) && !self.is_out_of_service(chunk.handle, *disk)
        });
        members
    }

    /// The server says, under its present registration, that it serves nothing of this chunk from this disk (R5).
    pub fn is_out_of_service(&self, handle: ChunkHandle, disk: DiskId) -> bool {
        let unreadable = |r: &Replica| r.state == ReplicaState::ReplicaDamaged;
        self.servers.is_out_of_service(disk) || self.servers.replica(disk, handle).is_some_and(unreadable)
    }
}
