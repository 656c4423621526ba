//! What a server reports, and what it is told: inventories and verdicts (protocol R7), deltas, order results, troubles.
use super::table::{Purpose, Replica};
use crate::core::{Core, World};
use crate::reconfiguration::Wish;
use cairn_metadata::reconfigure::{Content, Event};
use cairn_metadata::verdict::{self, Verdict};
use cairn_proto::chunkserver::{
    self as wire, ChunkVerdict, DeleteConfirmed, DeleteQuery, DiskState, OrderDone, ReplicaState, order_done,
};
use cairn_proto::common::ErrorCode;
use cairn_proto::{Malformed, required};
use cairn_types::{ChunkHandle, DiskId, Registration, Serial, ServerId, Version};

fn disk_id(bytes: &[u8]) -> Result<DiskId, Malformed> {
    Ok(DiskId::try_from(bytes)?)
}

impl Replica {
    fn from_wire(r: &wire::Replica) -> Self {
        Self {
            version: r.version.map_or(Version::ZERO, Into::into),
            state: r.state(),
            length: r.length,
            suspect: r.suspect,
            damaged: r.damaged || r.state() == ReplicaState::ReplicaDamaged,
            waits: false,
        }
    }

    fn judged(&self, disk: DiskId) -> verdict::Replica {
        let joining = self.state == ReplicaState::ReplicaJoining;
        verdict::Replica {
            disk,
            version: self.version,
            suspect: self.suspect,
            damaged: self.damaged,
            joining,
        }
    }
}

impl Core {
    /// The state of disks, at registration and with every heartbeat.
    pub(super) fn disks(&self, world: &mut World, server: ServerId, disks: &[wire::Disk]) -> Result<(), Malformed> {
        for reported in disks.iter().filter(|d| !d.disk.is_empty()) {
            let id = disk_id(&reported.disk)?;
            if world.servers.server_of(id) != Some(server) {
                continue;
            }
            let Some(disk) = world.servers.disk_mut(id) else {
                continue;
            };
            let before = std::mem::replace(&mut disk.state, reported.state());
            disk.total_bytes = reported.total_bytes;
            disk.available_bytes = reported.available_bytes;
            disk.chunks = reported.chunks;
            disk.errors = reported.errors;
            disk.path.clone_from(&reported.path);
            if reported.state() == DiskState::DiskFailed && before != DiskState::DiskFailed {
                tracing::error!(%server, disk = %id, path = reported.path, "a disk has failed; its chunks are copied elsewhere");
                let text = format!("disk {id} ({}) of server {server} failed", reported.path);
                world.events.add(self.env.clock.wall(), text);
                self.event_for_all(world, Event::OutOfService { disk: id });
                world.repair.scan_soon();
            }
        }
        Ok(())
    }

    /// A page of the inventory: remembered, and judged.
    pub(super) fn inventory(
        &self,
        world: &mut World,
        server: ServerId,
        page: &wire::Inventory,
    ) -> Result<wire::Verdicts, Malformed> {
        let mut verdicts = Vec::with_capacity(page.replicas.len());
        for reported in &page.replicas {
            let (handle, disk) = (ChunkHandle(reported.handle), disk_id(&reported.disk)?);
            if world.servers.server_of(disk) != Some(server) {
                continue;
            }
            let mut replica = Replica::from_wire(reported);
            let verdict = self.judge(world, handle, disk, &replica);
            replica.waits = verdict == wire::Verdict::Wait;
            if let Some(known) = world.servers.disk_mut(disk) {
                known.replicas.insert(handle, replica);
            }
            verdicts.push(ChunkVerdict {
                handle: handle.0,
                disk: reported.disk.clone(),
                verdict: verdict.into(),
                version: Some(replica.version.into()),
            });
        }
        if page.last {
            self.all_reported(world, server);
        }
        Ok(wire::Verdicts { verdicts })
    }

    fn judge(&self, world: &mut World, handle: ChunkHandle, disk: DiskId, replica: &Replica) -> wire::Verdict {
        let chunk = world.state.chunk(handle);
        let under_way = world.reconfigurations.is_under_way(handle);
        let judged = replica.judged(disk);
        if let Some(chunk) = &chunk
            && verdict::needs_reconfiguration(chunk, &judged, under_way)
        {
            world.repair.look_at(handle);
        }
        match verdict::verdict(chunk.as_ref(), &judged, under_way) {
            Verdict::Current => wire::Verdict::Current,
            Verdict::Stale => wire::Verdict::Stale,
            Verdict::Unknown => wire::Verdict::Unknown,
            Verdict::Wait => wire::Verdict::Wait,
        }
    }

    fn all_reported(&self, world: &mut World, server: ServerId) {
        let Some(known) = world.servers.get_mut(server) else {
            return;
        };
        known.reported = true;
        // disks that the log has on this server and that it did not bring: not in service under this registration (R5)
        let absent: Vec<_> = known
            .disks
            .iter()
            .filter(|(_, d)| d.state == DiskState::DiskUnspecified)
            .map(|(id, _)| *id)
            .collect();
        for disk in absent {
            self.event_for_all(world, Event::OutOfService { disk });
        }
        world.repair.scan_soon();
        self.nudge.notify_one();
    }

    /// What changed since the last heartbeat.
    pub(super) fn deltas(
        &self,
        world: &mut World,
        server: ServerId,
        heartbeat: &wire::Heartbeat,
    ) -> Result<(), Malformed> {
        for changed in &heartbeat.changed {
            let (handle, disk) = (ChunkHandle(changed.handle), disk_id(&changed.disk)?);
            if world.servers.server_of(disk) != Some(server) {
                continue;
            }
            let mut replica = Replica::from_wire(changed);
            let Some(known) = world.servers.disk_mut(disk) else {
                continue;
            };
            let before = known.replicas.get(&handle).copied();
            // an install acts once: what was looked at before it and says fenced comes late
            if before.is_some_and(|b| b.version == replica.version && b.state == ReplicaState::ReplicaInstalled)
                && replica.state == ReplicaState::ReplicaFenced
            {
                replica.state = ReplicaState::ReplicaInstalled;
            }
            replica.waits = before.is_some_and(|b| b.waits);
            known.replicas.insert(handle, replica);
            if replica.damaged && before.is_none_or(|b| !b.damaged) {
                self.corrupt(world, handle, disk, &[]);
            }
        }
        for deleted in &heartbeat.deleted {
            let (handle, disk) = (ChunkHandle(deleted.handle), disk_id(&deleted.disk)?);
            if let Some(known) = world.servers.disk_mut(disk)
                && known.replicas.remove(&handle).is_some()
            {
                world.repair.look_at(handle);
            }
        }
        if let (Some(scrub), Some(known)) = (heartbeat.scrub, world.servers.get_mut(server)) {
            known.scrub = scrub;
        }
        Ok(())
    }

    /// A replica is known to be damaged from now on.
    pub(super) fn corrupt(&self, world: &mut World, handle: ChunkHandle, disk: DiskId, bad_blocks: &[u32]) {
        let chunk = world.state.chunk(handle);
        if !chunk.as_ref().is_some_and(|c| c.members.contains(&disk)) {
            return;
        }
        let found = world.rot.found(handle, disk, bad_blocks);
        let news = world.events.corrupt(handle, disk);
        if found || news {
            world.repair.urgent(handle);
            self.nudge.notify_one();
        }
        if !news {
            return;
        }
        let name = chunk
            .and_then(|c| world.state.path_of(c.inode).ok())
            .unwrap_or_default();
        let name = String::from_utf8_lossy(&name).into_owned();
        tracing::warn!(chunk = %handle, %disk, file = name, blocks = ?bad_blocks, "a replica is corrupt; it is repaired from another");
        let text = format!("chunk {handle} of {name}: the replica on disk {disk} is corrupt");
        world.events.add(self.env.clock.wall(), text);
    }

    /// A server has found something wrong.
    pub(super) fn trouble(&self, world: &mut World, server: ServerId, t: &wire::Trouble) -> Result<(), Malformed> {
        let (handle, disk) = (ChunkHandle(t.handle), disk_id(&t.disk)?);
        if world.servers.server_of(disk) != Some(server) {
            return Ok(());
        }
        let named: Version = t.version.map_or(Version::ZERO, Into::into);
        match t.code() {
            ErrorCode::ErrorCorrupt => {
                if let Some(replica) = world.servers.replica_mut(disk, handle) {
                    replica.damaged = true;
                    if t.bad_header {
                        replica.state = ReplicaState::ReplicaDamaged;
                        world.garbage.sweep_soon();
                    }
                }
                self.corrupt(world, handle, disk, &t.bad_blocks);
                if t.bad_header {
                    self.reconfiguration_event(world, handle, Event::OutOfService { disk });
                }
            }
            code => {
                let Some(chunk) = world.state.chunk(handle) else {
                    return Ok(());
                };
                if chunk.version != named {
                    return Ok(());
                }
                let culprit = t.culprit.as_ref().and_then(|c| c.disk_id().ok()).unwrap_or(disk);
                let gone = matches!(code, ErrorCode::ErrorNoSpace | ErrorCode::ErrorDiskFailed);
                let why = "a member could not take a write";
                self.mend_for_writing(world, &chunk, vec![culprit], gone, why);
            }
        }
        Ok(())
    }

    /// An order is done, or was refused.
    pub(super) fn order_done(
        &self,
        world: &mut World,
        server: ServerId,
        registration: Registration,
        done: OrderDone,
    ) -> Result<(), Malformed> {
        let Some(purpose) = world.servers.answered(server, registration, done.id) else {
            return Ok(());
        };
        if matches!(purpose, Purpose::Scrub) {
            return Ok(());
        }
        let (handle, disk) = (ChunkHandle(done.handle), disk_id(&done.disk)?);
        let result = required(done.result, "result")?;
        if let order_done::Result::Error(error) = &result {
            tracing::debug!(chunk = %handle, %server, order = ?purpose, error = error.message, "an order was refused");
        }
        use order_done::Result as R;
        let event = match (purpose, result) {
            (Purpose::Fence(version), R::Fenced(f)) => {
                // without one, the highest: at or below the floor absence says nothing
                let floor = f.floor.map_or(version, Version::from);
                let content = if f.absent {
                    Content::Absent { floor }
                } else {
                    Content::Present {
                        previous: f.previous.map_or(Version::ZERO, Into::into),
                        serial: Serial(f.serial),
                        length: f.length,
                        suspect: f.suspect,
                        damaged: f.damaged,
                        joining: f.joining,
                        made_at: f.made.then_some(floor),
                    }
                };
                if !f.absent
                    && let Some(known) = world.servers.disk_mut(disk)
                {
                    let (suspect, damaged) = (f.suspect, f.damaged);
                    let replica = Replica {
                        version,
                        state: ReplicaState::ReplicaFenced,
                        length: f.length,
                        suspect,
                        damaged,
                        waits: false,
                    };
                    known.replicas.insert(handle, replica);
                }
                Event::Fenced {
                    disk,
                    registration,
                    version,
                    content,
                }
            }
            (Purpose::Fence(version), R::Error(e)) => match e.code() {
                ErrorCode::ErrorStaleVersion => {
                    // its own version is in its next report; that it is higher is all that matters
                    Event::FenceOvertaken {
                        disk,
                        registration,
                        have: Version::new(version.epoch, u64::MAX),
                    }
                }
                ErrorCode::ErrorCorrupt => {
                    let known = world.servers.disk_mut(disk);
                    let replica = known.map(|d| d.replicas.entry(handle).or_insert(UNREADABLE));
                    if let Some(replica) = replica {
                        let news = !replica.damaged;
                        *replica = UNREADABLE;
                        if news {
                            self.corrupt(world, handle, disk, &[]);
                        }
                    }
                    Event::OutOfService { disk }
                }
                ErrorCode::ErrorDiskFailed => Event::OutOfService { disk },
                _ => Event::FenceFailed { disk, registration },
            },
            (Purpose::Cut(version), R::Cut(_)) => Event::Cut {
                disk,
                registration,
                version,
            },
            (Purpose::Cut(_), _) => Event::CutFailed { disk, registration },
            (Purpose::Synchronize(version), R::Synced(s)) => Event::Synced {
                disk,
                registration,
                version,
                length: s.length,
            },
            (Purpose::Synchronize(version), result) => {
                let unreadable = matches!(&result, R::Error(e) if e.code() == ErrorCode::ErrorCorrupt);
                Event::SyncFailed {
                    disk,
                    registration,
                    version,
                    unreadable,
                }
            }
            (Purpose::Install(version), R::Installed(_)) => {
                let length = world.servers.replica(disk, handle).map_or(0, |r| r.length);
                if let Some(known) = world.servers.disk_mut(disk) {
                    let state = ReplicaState::ReplicaInstalled;
                    let replica = Replica {
                        version,
                        state,
                        length,
                        suspect: false,
                        damaged: false,
                        waits: false,
                    };
                    known.replicas.insert(handle, replica);
                }
                Event::Installed {
                    disk,
                    registration,
                    version,
                }
            }
            (Purpose::Install(_), _) => Event::InstallFailed { disk, registration },
            (Purpose::Join, result) => {
                if let (R::Joined(_), Some(known)) = (&result, world.servers.disk_mut(disk)) {
                    let joined = Replica {
                        version: Version::ZERO,
                        state: ReplicaState::ReplicaJoining,
                        ..UNREADABLE
                    };
                    known.replicas.entry(handle).or_insert(Replica {
                        damaged: false,
                        ..joined
                    });
                }
                self.joined(world, handle, disk, matches!(result, R::Joined(_)));
                return Ok(());
            }
            (Purpose::Delete, result) => {
                world.garbage.answered(handle, disk);
                if let (R::Deleted(_), Some(known)) = (result, world.servers.disk_mut(disk)) {
                    known.replicas.remove(&handle);
                    world.repair.look_at(handle);
                }
                return Ok(());
            }
            (Purpose::Verify, result) => {
                world.rot.answered(handle, disk);
                world.repair.look_at(handle);
                self.nudge.notify_one();
                let R::Verified(v) = result else { return Ok(()) };
                let bad = v.bad_header || v.bad_table || !v.bad_blocks.is_empty();
                if bad && let Some(replica) = world.servers.replica_mut(disk, handle) {
                    replica.damaged = true;
                    if v.bad_header {
                        replica.state = ReplicaState::ReplicaDamaged;
                        world.garbage.sweep_soon();
                    }
                    self.corrupt(world, handle, disk, &v.bad_blocks);
                }
                return Ok(());
            }
            _ => return Ok(()),
        };
        self.reconfiguration_event(world, handle, event);
        Ok(())
    }

    /// Which of these may be unlinked now (promise 7).
    pub(super) fn confirm_deletes(&self, world: &World, queries: Vec<DeleteQuery>) -> DeleteConfirmed {
        let may = |q: &DeleteQuery| {
            let Ok(disk) = disk_id(&q.disk) else { return false };
            let version = q.version.map_or(Version::ZERO, Into::into);
            self.may_delete(world, ChunkHandle(q.handle), disk, version)
        };
        DeleteConfirmed {
            confirmed: queries.into_iter().filter(may).collect(),
        }
    }

    /// A reconfiguration so that the chunk can be written again. Survivors go on as long as they are enough; else new
    /// members are added at once, without waiting for repair. Doubtful members stay if they answer, unless `leave_them`,
    /// or where the chain broke at the same place before.
    pub fn mend_for_writing(
        &self,
        world: &mut World,
        chunk: &cairn_metadata::ChunkInfo,
        doubtful: Vec<DiskId>,
        leave_them: bool,
        why: &'static str,
    ) -> bool {
        if world.reconfigurations.is_active(chunk.handle) {
            return false;
        }
        let now = self.now();
        let mut leaving = if leave_them { doubtful.clone() } else { Vec::new() };
        if let ([lower], false) = (&doubtful[..], leave_them)
            && let Some(upper) = above(&chunk.members, *lower)
        {
            let broken = world.reconfigurations.link_broke(chunk, upper, *lower, now);
            leaving.extend(broken);
        }
        let minimum = self.minimum(chunk.goal);
        let mut fit = world.within_reach(chunk, now);
        if !leave_them && fit.iter().filter(|disk| !leaving.contains(disk)).count() < minimum {
            // the others alone are too few: better a broken link than no chain
            leaving.clear();
        }
        fit.retain(|disk| !leaving.contains(disk));
        let joining = self.further_members(world, chunk, minimum.saturating_sub(fit.len()));
        let wish = Wish {
            why,
            joining,
            leaving,
            doubtful,
            ..Wish::default()
        };
        match self.reconfigure(world, chunk.handle, wish) {
            Ok(()) => true,
            Err(e) => {
                tracing::debug!(chunk = %chunk.handle, error = %e, "no reconfiguration was begun");
                false
            }
        }
    }
}

/// The member that sends to `lower`.
fn above(members: &[DiskId], lower: DiskId) -> Option<DiskId> {
    let at = members.iter().position(|disk| *disk == lower)?;
    members.get(at.checked_sub(1)?).copied()
}

const UNREADABLE: Replica = Replica {
    version: Version::ZERO,
    state: ReplicaState::ReplicaDamaged,
    length: 0,
    suspect: false,
    damaged: true,
    waits: false,
};
