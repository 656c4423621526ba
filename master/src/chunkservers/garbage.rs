//! Replicas that nothing needs: found by going through what servers reported, deleted after a grace, by orders that
//! name a version and are confirmed once more by the server before the deed (promise 7).
//!
//! Garbage is what no chunk of the log is, and what is no member or of a version that the log has moved past. The
//! latter is kept until its chunk is at its goal: it is the last resort of an operator. A replica whose header is
//! damaged is garbage too, also a member's, once another is good; repair then makes it anew in its place. Nothing is looked at before
//! safe mode is over, and of a server only what its present registration reported.
use super::table::{Purpose, Replica};
use crate::core::{Core, World};
use crate::limits::{DELETES_MAX, SCAN_STEP};
use cairn_metadata::{repair, verdict};
use cairn_proto::chunkserver::{self as wire, ReplicaState, order};
use cairn_types::{ChunkHandle, DiskId, ServerId, Version};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

/// Between sweeps while more is due than servers are ordered at a time.
const BACKLOG_PAUSE: Duration = Duration::from_millis(500);
/// A deletion may take so many times what another order may.
const ORDER_PATIENCE: u32 = 10;

#[derive(Default)]
pub struct Garbage {
    /// Since when.
    known: BTreeMap<(DiskId, ChunkHandle), Duration>,
    /// Ordered, not answered; and when.
    ordered: BTreeMap<(DiskId, ChunkHandle), Duration>,
    /// Where the sweep is.
    at: Option<(DiskId, ChunkHandle)>,
    next_sweep: Duration,
    /// This sweep has found more that is due than a server is ordered at a time.
    backlog: bool,
}

impl Garbage {
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// There is something that need not wait for the next sweep.
    pub fn sweep_soon(&mut self) {
        self.next_sweep = Duration::ZERO;
    }

    pub fn answered(&mut self, handle: ChunkHandle, disk: DiskId) {
        self.ordered.remove(&(disk, handle));
        self.known.remove(&(disk, handle));
    }

    /// What a server was ordered before it registered anew, it does not do.
    pub fn disconnected(&mut self, disks: &[DiskId]) {
        self.ordered.retain(|(disk, _), _| !disks.contains(disk));
        self.known.retain(|(disk, _), _| !disks.contains(disk));
    }
}

impl Core {
    /// Whether the replica is garbage that may be deleted.
    pub fn may_delete(&self, world: &World, handle: ChunkHandle, disk: DiskId, version: Version) -> bool {
        if world.safe_mode {
            return false;
        }
        let chunk = world.state.chunk(handle);
        let wanted = world.reconfigurations.uses(handle, disk) || world.repair.fills(handle, disk);
        let unreadable = world.servers.replica(disk, handle).is_some_and(is_unreadable);
        let drawn = world.state.was_drawn(handle);
        if !verdict::may_delete(chunk.as_ref(), drawn, disk, version, unreadable, wanted) {
            return false;
        }
        let Some(chunk) = chunk else { return true };
        // a replica without a readable header is good for nothing; else only when the others are enough
        let others = self
            .good_members(world, &chunk)
            .into_iter()
            .filter(|d| *d != disk)
            .count();
        if unreadable {
            others > 0
        } else {
            others >= usize::from(chunk.goal)
        }
    }

    /// A step of the sweep. True: there is more to look at now.
    pub fn sweep_garbage(&self, world: &mut World) -> bool {
        let now = self.now();
        if world.safe_mode || now < world.garbage.next_sweep {
            return false;
        }
        let (found, at) = page(world);
        world.garbage.at = at;
        // not confirmed, and so not done: ordered again if it is still garbage
        let patience = ORDER_PATIENCE * self.config.order_timeout();
        world.garbage.ordered.retain(|_, since| now < *since + patience);
        let mut busy: BTreeMap<ServerId, usize> = BTreeMap::new();
        for (disk, _) in world.garbage.ordered.keys() {
            if let Some(server) = world.servers.server_of(*disk) {
                *busy.entry(server).or_default() += 1;
            }
        }
        for (server, disk, handle, version) in found {
            let key = (disk, handle);
            if !self.may_delete(world, handle, disk, version) {
                world.garbage.known.remove(&key);
                continue;
            }
            let since = *world.garbage.known.entry(key).or_insert(now);
            let unreadable = world.servers.replica(disk, handle).is_some_and(is_unreadable);
            let due = now >= since + self.config.gc_grace() || (unreadable && world.state.chunk(handle).is_some());
            if !due || world.garbage.ordered.contains_key(&key) {
                continue;
            }
            let orders = busy.entry(server).or_default();
            if *orders >= DELETES_MAX {
                world.garbage.backlog = true;
                continue;
            }
            let Some(registration) = world.servers.registration(server) else {
                continue;
            };
            let what = order::What::Delete(wire::Delete {
                version: Some(version.into()),
            });
            if world
                .servers
                .order(server, registration, handle, Some(disk), Purpose::Delete, what)
            {
                tracing::debug!(chunk = %handle, %disk, %version, "deleting garbage");
                *orders += 1;
                world.garbage.ordered.insert(key, now);
            }
        }
        if world.garbage.at.is_none() {
            let pause = match std::mem::take(&mut world.garbage.backlog) {
                true => BACKLOG_PAUSE,
                false => (self.config.gc_grace() / 4).clamp(BACKLOG_PAUSE, Duration::from_secs(15)),
            };
            world.garbage.next_sweep = now + pause;
        }
        world.garbage.at.is_some()
    }

    /// Members with a replica that can be relied on, on servers that are up.
    pub fn good_members(&self, world: &World, chunk: &cairn_metadata::ChunkInfo) -> Vec<DiskId> {
        let view = self.view(world, chunk);
        let good = view.members.iter().filter(|m| m.standing == repair::Standing::Good);
        good.map(|m| m.disk).collect()
    }
}

/// Its header is damaged: it serves nothing, is deleted and made anew.
fn is_unreadable(replica: &Replica) -> bool {
    replica.state == ReplicaState::ReplicaDamaged
}

type Found = Vec<(ServerId, DiskId, ChunkHandle, Version)>;

/// The next replicas in the order of (disk, chunk) that might be garbage; and where to go on.
fn page(world: &World) -> (Found, Option<(DiskId, ChunkHandle)>) {
    let mut found = Vec::new();
    let mut looked_at = 0;
    let (from_disk, from_chunk) = world.garbage.at.unwrap_or((DiskId(uuid::Uuid::nil()), ChunkHandle(0)));
    let mut disks: Vec<_> = (world.servers.iter())
        .filter(|(_, s)| s.reported && s.connection.is_some())
        .flat_map(|(id, s)| s.disks.iter().map(move |(disk, d)| (*disk, id, d)))
        .filter(|(disk, _, _)| *disk >= from_disk)
        .collect();
    disks.sort_by_key(|(disk, _, _)| *disk);
    for (disk, server, known) in disks {
        let after = if disk == from_disk { from_chunk } else { ChunkHandle(0) };
        for (handle, replica) in known.replicas.range((Bound::Excluded(after), Bound::Unbounded)) {
            if looked_at == SCAN_STEP {
                return (found, Some((disk, ChunkHandle(handle.0 - 1))));
            }
            looked_at += 1;
            let chunk = world.state.chunk(*handle);
            let unreadable = is_unreadable(replica);
            let member = chunk
                .as_ref()
                .is_some_and(|c| c.members.contains(&disk) && replica.version >= c.version);
            if !member || unreadable {
                // the floor that the deletion leaves is the order's version where the header's is not known
                let least = chunk.filter(|_| unreadable).map_or(Version::ZERO, |c| c.version);
                found.push((server, disk, *handle, replica.version.max(least)));
            }
        }
    }
    (found, None)
}
