//! Repair: every chunk back to its goal, the most urgent first (design section 3, protocol R4).
//!
//! A scan goes through all chunks in steps; what a report, an install or a complaint points at is looked at first.
//! `cairn_metadata::repair` assesses a chunk and orders the tasks. A task is one reconfiguration; new replicas are
//! filled beforehand, unfenced (Join), so that the fence costs only the difference.
use crate::chunkservers::Purpose;
use crate::core::{Core, World};
use crate::limits::{REPAIR_QUEUE_MAX, SCAN_STEP};
use crate::reconfiguration::Wish;
use crate::rot;
use cairn_metadata::ChunkInfo;
use cairn_metadata::repair::{self as plan, ChunkView, Health, Limits, MemberView, Standing, Task, Urgency};
use cairn_proto::chunkserver::{self as wire, DiskState, ReplicaState, order};
use cairn_types::layout::CHUNK_SIZE_BYTES;
use cairn_types::{ChunkHandle, DiskId, Inode, ServerId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Between full scans, when nothing calls for one.
const SCAN_PAUSE: Duration = Duration::from_secs(5);
/// After a repair of a chunk failed, doubled each time up to the longest.
const BACKOFF: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// How long some members may have a granted chunk and others not, with nobody writing it.
const PARTIAL_PATIENCE: Duration = Duration::from_secs(10);
/// A copy of a whole chunk may take so many times what an order may.
const FILL_PATIENCE: u32 = 10;

/// New replicas being filled for one chunk.
struct Fill {
    task: Task,
    pending: BTreeSet<DiskId>,
    filled: Vec<DiskId>,
    since: Duration,
    deadline: Duration,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Counted {
    pub healthy: u64,
    pub under_goal: u64,
    pub endangered: u64,
    pub lost: u64,
    pub over_goal: u64,
}

#[derive(Default)]
pub struct Repair {
    queue: plan::Queue,
    /// Looked at before the scan goes on.
    look: BTreeSet<ChunkHandle>,
    /// Clients wait for these.
    wanted: BTreeSet<ChunkHandle>,
    fills: BTreeMap<ChunkHandle, Fill>,
    /// Not before then, and how often it failed.
    backoff: BTreeMap<ChunkHandle, (Duration, u32)>,
    /// Why a chunk cannot be brought to its goal now.
    pub shortages: BTreeMap<ChunkHandle, String>,
    at: ChunkHandle,
    counting: Counted,
    /// As of the last full scan.
    pub counted: Counted,
    /// A full scan has been made.
    pub scanned: bool,
    next_scan: Duration,
    again: bool,
    /// Granted chunks that some members have a replica of and others do not, and since when: the others' may only not
    /// have been reported yet.
    partial: BTreeMap<ChunkHandle, Duration>,
}

impl Repair {
    /// Something about the chunk changed.
    pub fn look_at(&mut self, handle: ChunkHandle) {
        if self.look.len() < REPAIR_QUEUE_MAX {
            self.look.insert(handle);
        } else {
            // the scan finds it
            self.again = true;
        }
    }

    /// At once, whatever failed before.
    pub fn urgent(&mut self, handle: ChunkHandle) {
        self.backoff.remove(&handle);
        self.look_at(handle);
        self.again = true;
    }

    /// A client waits for the chunk.
    pub fn wanted(&mut self, handle: ChunkHandle) {
        if self.wanted.len() < REPAIR_QUEUE_MAX {
            self.wanted.insert(handle);
        }
        self.urgent(handle);
    }

    pub fn goal_changed(&mut self, _inode: Inode) {
        self.scan_soon();
    }

    /// Much may have changed: go through all chunks.
    pub fn scan_soon(&mut self) {
        self.again = true;
    }

    pub fn forget(&mut self, handle: ChunkHandle) {
        self.queue.forget(handle);
        self.queue.finished(handle);
        self.look.remove(&handle);
        self.wanted.remove(&handle);
        self.fills.remove(&handle);
        self.backoff.remove(&handle);
        self.shortages.remove(&handle);
        self.partial.remove(&handle);
    }

    pub fn finished(&mut self, handle: ChunkHandle) {
        self.queue.finished(handle);
        self.wanted.remove(&handle);
        self.backoff.remove(&handle);
        self.look_at(handle);
        self.again = true;
    }

    pub fn failed(&mut self, handle: ChunkHandle, now: Duration) {
        self.queue.finished(handle);
        let (until, times) = self.backoff.entry(handle).or_insert((now, 0));
        let pause = BACKOFF.saturating_mul(1 << (*times).min(5)).min(BACKOFF_MAX);
        (*until, *times) = (now + pause, *times + 1);
    }

    /// The disk is being filled with the chunk, or is about to join.
    pub fn fills(&self, handle: ChunkHandle, disk: DiskId) -> bool {
        self.fills
            .get(&handle)
            .is_some_and(|f| f.pending.contains(&disk) || f.filled.contains(&disk))
    }

    pub fn filling(&self) -> impl Iterator<Item = (ChunkHandle, usize, Duration)> + '_ {
        self.fills.iter().map(|(handle, f)| (*handle, f.task.add, f.since))
    }
}

impl Core {
    /// The chunk as repair sees it.
    pub fn view(&self, world: &World, chunk: &ChunkInfo) -> ChunkView {
        let now = self.now();
        let members = chunk.members.iter().map(|disk| {
            let server = world.servers.server_of(*disk);
            let known = world.servers.disk(*disk);
            MemberView {
                disk: *disk,
                server: server.unwrap_or(ServerId(uuid::Uuid::nil())),
                standing: standing(world, chunk, *disk, now),
                label: server
                    .and_then(|s| world.servers.get(s))
                    .map_or_else(String::new, |s| s.label.clone()),
                used_permille: known.map_or(1000, |d| {
                    let total = u128::from(d.total_bytes.max(1));
                    1000 - (u128::from(d.available_bytes.min(d.total_bytes)) * 1000 / total) as u32
                }),
            }
        });
        ChunkView {
            handle: chunk.handle,
            goal: chunk.goal,
            members: members.collect(),
            trashed: world.state.is_trashed(chunk.inode),
            wanted: world.repair.wanted.contains(&chunk.handle),
        }
    }

    fn repair_limits(&self) -> Limits {
        Limits {
            cluster: self.config.repairs_max as usize,
            per_server: self.config.repairs_per_server_max as usize,
            queue: REPAIR_QUEUE_MAX,
        }
    }

    /// A step of the scan. True: there is more to look at now.
    pub fn scan_for_repair(&self, world: &mut World) -> bool {
        let now = self.now();
        let mut looked_at = 0;
        while looked_at < SCAN_STEP
            && let Some(handle) = world.repair.look.pop_first()
        {
            looked_at += 1;
            if let Some(chunk) = world.state.chunk(handle) {
                self.assess(world, &chunk);
            }
        }
        let begins = world.repair.at == ChunkHandle(0);
        if begins && now < world.repair.next_scan && !world.repair.again {
            return !world.repair.look.is_empty();
        }
        if begins {
            world.repair.again = false;
            world.repair.counting = Counted::default();
        }
        let page = world.state.chunks_after(world.repair.at, SCAN_STEP);
        for chunk in &page {
            self.take_in_what_was_left(world, chunk);
            let health = self.assess(world, chunk);
            let counting = &mut world.repair.counting;
            let counter = match health {
                Health::Lost => &mut counting.lost,
                Health::Endangered => &mut counting.endangered,
                Health::UnderGoal => &mut counting.under_goal,
                Health::OverGoal => &mut counting.over_goal,
                Health::Healthy => &mut counting.healthy,
            };
            *counter += 1;
        }
        match page.last() {
            Some(last) if page.len() == SCAN_STEP => world.repair.at = last.handle,
            _ => {
                world.repair.at = ChunkHandle(0);
                world.repair.counted = world.repair.counting;
                world.repair.scanned = true;
                let unwell =
                    world.repair.queue.waiting() > 0 || world.repair.counting.healthy != world.state.counts().chunks;
                world.repair.next_scan = now + if unwell { BACKOFF } else { SCAN_PAUSE };
            }
        }
        // at full pace only when something calls for it
        world.repair.again || !world.repair.look.is_empty()
    }

    /// R12: of a session that ended with an earlier master nobody knows what it could write. Where it left a replica longer
    /// than its file, the file takes that length.
    fn take_in_what_was_left(&self, world: &mut World, chunk: &ChunkInfo) {
        let now = self.now();
        let (inode, handle) = (chunk.inode, chunk.handle);
        let maybe_written = world.sessions.is_open(inode) || world.sessions.is_written(inode, handle);
        if maybe_written || !world.orphans_settled(&self.config, now) {
            return;
        }
        let Ok(attr) = world.state.getattr(inode) else { return };
        let within = attr.size.saturating_sub(u64::from(chunk.index) * CHUNK_SIZE_BYTES);
        let replicas = chunk.members.iter().filter_map(|d| world.servers.replica(*d, handle));
        let left = replicas.filter(|r| r.version == chunk.version).map(|r| r.length).max();
        if left.is_some_and(|left| left > within) {
            world.reconfigurations.abandon(handle, now);
        }
    }

    /// Remembers since when a granted chunk has replicas on some of its members only, or on none though it was written.
    fn note_partial(&self, world: &mut World, chunk: &ChunkInfo, now: Duration) {
        let there = chunk
            .members
            .iter()
            .filter(|d| world.servers.replica(**d, chunk.handle).is_some())
            .count();
        if chunk.granted && (there > 0 || chunk.committed) && there < chunk.members.len() {
            world.repair.partial.entry(chunk.handle).or_insert(now);
        } else {
            world.repair.partial.remove(&chunk.handle);
        }
    }

    fn assess(&self, world: &mut World, chunk: &ChunkInfo) -> Health {
        let now = self.now();
        let handle = chunk.handle;
        self.note_partial(world, chunk, now);
        let view = self.view(world, chunk);
        let assessment = plan::assess(&view, self.config.repair_delay(), now);
        let mut task = assessment.task;
        let damaged = view.members.iter().filter(|m| m.standing == Standing::Damaged);
        let mend: Vec<_> = damaged.map(|m| m.disk).collect();
        let rot = match world.reconfigurations.is_active(handle) {
            true => rot::Verdict::Wait,
            false => self.judge_rot(world, chunk, &view, now),
        };
        if rot != rot::Verdict::Mend {
            task = None;
        } else if task.is_none() && assessment.health == Health::Lost && !mend.is_empty() {
            // none serves, but they may be made to: suspects after a power loss, replicas fenced and never installed
            let urgency = Urgency {
                wanted: view.wanted,
                live: !view.trashed,
                endangered: true,
                missing: chunk.goal,
            };
            task = Some(Task {
                handle,
                urgency,
                add: 0,
                leave: Vec::new(),
                mend,
                sources: Vec::new(),
            });
        }
        if task.is_none() {
            world.repair.shortages.remove(&handle);
            if assessment.health == Health::Healthy {
                world.repair.backoff.remove(&handle);
            }
        }
        let backing_off = world.repair.backoff.get(&handle).is_some_and(|(until, _)| now < *until);
        if backing_off {
            task = None;
        }
        let limits = self.repair_limits();
        world.repair.queue.offer(handle, task, &limits);
        assessment.health
    }

    /// Begins what the limits allow.
    pub fn begin_repairs(&self, world: &mut World) {
        self.expire_fills(world);
        if world.safe_mode {
            return;
        }
        let limits = self.repair_limits();
        while let Some((task, source)) = world.repair.queue.next(&limits) {
            let handle = task.handle;
            if !self.begin_repair(world, task, source) {
                world.repair.failed(handle, self.now());
            }
        }
    }

    fn begin_repair(&self, world: &mut World, task: Task, source: Option<(ServerId, DiskId)>) -> bool {
        let Some(chunk) = world.state.chunk(task.handle) else {
            return false;
        };
        let targets = if task.add > 0 {
            self.targets(world, &chunk, &task)
        } else {
            Vec::new()
        };
        if targets.is_empty() {
            let useful = !task.mend.is_empty() || (task.add == 0 && !task.leave.is_empty());
            if !useful {
                return false;
            }
            // those that stay may be too few to go on by themselves
            let mut fit = world.within_reach(&chunk, self.now());
            fit.retain(|disk| !task.leave.contains(disk));
            let missing = self.minimum(chunk.goal).saturating_sub(fit.len());
            let joining = self.further_members(world, &chunk, missing);
            return self.repair_by(world, &chunk, &task, joining);
        }
        let Some((server, disk)) = source else { return false };
        let filled = world.servers.replica(disk, task.handle).is_some();
        let Some(source_registration) = world.servers.registration(server).filter(|_| filled) else {
            // granted and never written: there is nothing to copy
            return self.repair_by(world, &chunk, &task, targets);
        };
        let now = self.now();
        let mut pending = BTreeSet::new();
        for target in targets {
            let Some(to) = world.servers.server_of(target) else {
                continue;
            };
            let Some(registration) = world.servers.registration(to) else {
                continue;
            };
            let what = order::What::Join(wire::Join {
                version: Some(chunk.version.into()),
                source: Some(world.member(disk)),
                source_registration: Some(source_registration.into()),
                bytes_per_second: self.config.repair_bytes_per_second,
            });
            if world
                .servers
                .order(to, registration, task.handle, Some(target), Purpose::Join, what)
            {
                pending.insert(target);
            }
        }
        if pending.is_empty() {
            return false;
        }
        tracing::debug!(chunk = %task.handle, targets = pending.len(), "copying a chunk");
        let deadline = now + FILL_PATIENCE * self.config.order_timeout();
        let handle = task.handle;
        world.repair.fills.insert(
            handle,
            Fill {
                task,
                pending,
                filled: Vec::new(),
                since: now,
                deadline,
            },
        );
        true
    }

    /// Places for so many members that are to be filled when the others are fenced.
    pub fn further_members(&self, world: &mut World, chunk: &ChunkInfo, missing: usize) -> Vec<DiskId> {
        if missing == 0 || world.safe_mode {
            return Vec::new();
        }
        let servers = chunk.members.iter().filter_map(|d| world.servers.server_of(*d));
        let existing: Vec<_> = servers.collect();
        let placement = self.place(world, missing, "", &existing, &[]);
        placement.places.iter().map(|p| p.disk).collect()
    }

    fn targets(&self, world: &mut World, chunk: &ChunkInfo, task: &Task) -> Vec<DiskId> {
        let stays = |d: &&DiskId| !task.leave.contains(d);
        let existing: Vec<_> = chunk
            .members
            .iter()
            .filter(stays)
            .filter_map(|d| world.servers.server_of(*d))
            .collect();
        let busy = |server: ServerId, world: &World| {
            let of_server = world.repair.fills.values().flat_map(|f| &f.pending);
            let load = of_server
                .filter(|d| world.servers.server_of(**d) == Some(server))
                .count();
            load >= self.config.repairs_per_server_max as usize
        };
        let all: Vec<_> = world.servers.iter().map(|(id, _)| id).collect();
        let avoid: Vec<_> = all.into_iter().filter(|s| busy(*s, world)).collect();
        let placement = self.place(world, task.add, "", &existing, &avoid);
        match placement.shortage {
            Some(shortage) => drop(world.repair.shortages.insert(task.handle, shortage.to_string())),
            None => drop(world.repair.shortages.remove(&task.handle)),
        }
        placement
            .places
            .iter()
            .map(|p| p.disk)
            .filter(|d| !chunk.members.contains(d))
            .collect()
    }

    fn repair_by(&self, world: &mut World, chunk: &ChunkInfo, task: &Task, joining: Vec<DiskId>) -> bool {
        let enough = joining.len() >= task.add;
        // a member leaves when another has taken its place; one whose server is gone, whenever it can
        let leaving = if enough { task.leave.clone() } else { Vec::new() };
        let doubtful = task.mend.clone();
        let wish = Wish {
            why: "repair",
            joining,
            leaving,
            doubtful,
            repair: true,
            ..Wish::default()
        };
        match self.reconfigure(world, chunk.handle, wish) {
            Ok(()) => true,
            Err(e) => {
                tracing::debug!(chunk = %chunk.handle, error = %e, "a repair was not begun");
                false
            }
        }
    }

    /// A Join is done, or failed.
    pub fn joined(&self, world: &mut World, handle: ChunkHandle, disk: DiskId, ok: bool) {
        let Some(fill) = world.repair.fills.get_mut(&handle) else {
            return;
        };
        if !fill.pending.remove(&disk) {
            return;
        }
        if ok {
            fill.filled.push(disk);
        }
        if fill.pending.is_empty() {
            self.filled(world, handle);
        }
    }

    fn filled(&self, world: &mut World, handle: ChunkHandle) {
        let Some(fill) = world.repair.fills.remove(&handle) else {
            return;
        };
        let begun = !fill.filled.is_empty()
            && world
                .state
                .chunk(handle)
                .is_some_and(|chunk| self.repair_by(world, &chunk, &fill.task, fill.filled));
        if !begun {
            world.repair.failed(handle, self.now());
        }
    }

    /// The server's copies will not be finished.
    pub fn fills_failed(&self, world: &mut World, server: ServerId) {
        let of_server = |disk: &DiskId| world.servers.server_of(*disk) == Some(server);
        let lost: Vec<_> = (world.repair.fills.iter())
            .flat_map(|(handle, f)| f.pending.iter().map(move |disk| (*handle, *disk)))
            .filter(|(_, disk)| of_server(disk))
            .collect();
        for (handle, disk) in lost {
            self.joined(world, handle, disk, false);
        }
    }

    fn expire_fills(&self, world: &mut World) {
        let now = self.now();
        let late: Vec<_> = world
            .repair
            .fills
            .iter()
            .filter(|(_, f)| f.deadline <= now)
            .map(|(h, _)| *h)
            .collect();
        for handle in late {
            if let Some(fill) = world.repair.fills.get_mut(&handle) {
                tracing::warn!(chunk = %handle, targets = ?fill.pending, "a copy was not finished in time");
                fill.pending.clear();
            }
            self.filled(world, handle);
        }
    }
}

fn standing(world: &World, chunk: &ChunkInfo, disk: DiskId, now: Duration) -> Standing {
    let Some(server) = world.servers.server_of(disk) else {
        return Standing::Gone;
    };
    let Some(known) = world.servers.get(server) else {
        return Standing::Gone;
    };
    if !world.leases.is_up(server, now) {
        let heard = world.leases.get(server).map_or(world.started, |l| l.heard);
        return Standing::Silent {
            since: known.lost_since.unwrap_or(heard),
        };
    }
    if !known.reported {
        return Standing::Silent { since: now };
    }
    let Some(on) = known.disks.get(&disk) else {
        return Standing::Gone;
    };
    if matches!(on.state, DiskState::DiskFailed | DiskState::DiskUnspecified) {
        return Standing::Gone;
    }
    let Some(replica) = on.replicas.get(&chunk.handle) else {
        // granted: its first write may be on its way, or reported with the next heartbeat, or never come
        let late = |since: &Duration| now >= *since + PARTIAL_PATIENCE;
        let late = world.repair.partial.get(&chunk.handle).is_some_and(late);
        let waits = chunk.granted && (!late || world.sessions.is_written(chunk.inode, chunk.handle));
        return if waits { Standing::Good } else { Standing::Damaged };
    };
    if replica.state == ReplicaState::ReplicaDamaged {
        // deleted first (see garbage.rs), and then mended as one that is missing
        return Standing::Silent { since: now };
    }
    // fenced at the logged version: its install was lost with its stream
    let installed = replica.version == chunk.version && replica.state == ReplicaState::ReplicaInstalled;
    if !installed || replica.suspect || replica.damaged || replica.waits {
        return Standing::Damaged;
    }
    match world.state.disk(disk) {
        Some(d) if !d.in_service => Standing::Draining,
        _ => Standing::Good,
    }
}
