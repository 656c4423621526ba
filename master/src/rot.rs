//! Rot: which blocks of which replicas are bad. Before a chunk is fenced to be mended, each member that can be reached
//! says what is bad with it: a reconfiguration that finds a block good nowhere fails, and leaves fenced what could
//! still be read.
use crate::chunkservers::Purpose;
use crate::core::{Core, World};
use crate::limits::REPAIR_QUEUE_MAX;
use cairn_metadata::ChunkInfo;
use cairn_metadata::repair::{ChunkView, MemberView, Standing};
use cairn_proto::chunkserver::{self as wire, order};
use cairn_types::layout::{BLOCK_SIZE_BYTES, BLOCKS_PER_CHUNK, CHUNK_SIZE_BYTES};
use cairn_types::{ChunkHandle, DiskId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// To read a whole replica a server may take so many times what an order may.
const VERIFY_PATIENCE: u32 = 10;
/// Members of a chunk that cannot be mended are asked again so often: a disk may have been brought back.
const ASK_AGAIN: Duration = Duration::from_secs(600);

#[derive(Default)]
pub struct Rot {
    /// Blocks that are bad, as far as is known.
    blocks: BTreeMap<(ChunkHandle, DiskId), BTreeSet<u32>>,
    asked: BTreeMap<ChunkHandle, Asked>,
}

/// The members of one chunk are asked what is bad with them.
struct Asked {
    since: Duration,
    pending: BTreeSet<DiskId>,
    /// That it cannot be mended has been said.
    told: bool,
}

/// What is to be done about a chunk with bad blocks.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Members have been asked, and not all have answered.
    Wait,
    Mend,
    /// These blocks are bad in every replica that can be reached.
    Hopeless(BTreeSet<u32>),
}

impl Rot {
    /// These blocks of the replica are bad (none: which is not known). True: that is news.
    pub fn found(&mut self, handle: ChunkHandle, disk: DiskId, blocks: &[u32]) -> bool {
        if self.blocks.len() >= REPAIR_QUEUE_MAX {
            return true;
        }
        let mut news = !self.blocks.contains_key(&(handle, disk));
        let known = self.blocks.entry((handle, disk)).or_default();
        for block in blocks {
            news |= known.insert(*block);
        }
        news
    }

    /// Its members are identical now, or it is no more.
    pub fn over(&mut self, handle: ChunkHandle) {
        self.asked.remove(&handle);
        let all = (handle, DiskId(uuid::Uuid::nil()))..=(handle, DiskId(uuid::Uuid::max()));
        let known: Vec<_> = self.blocks.range(all).map(|(key, _)| *key).collect();
        for key in known {
            self.blocks.remove(&key);
        }
    }

    /// A member has said what is bad with it, or will not say.
    pub fn answered(&mut self, handle: ChunkHandle, disk: DiskId) {
        if let Some(asked) = self.asked.get_mut(&handle) {
            asked.pending.remove(&disk);
        }
    }

    /// Bad in each of these replicas. One that is damaged, where is not known, counts as bad all over.
    fn bad_in_all(&self, handle: ChunkHandle, replicas: impl Iterator<Item = (DiskId, bool)>) -> BTreeSet<u32> {
        let mut common: Option<BTreeSet<u32>> = None;
        for (disk, damaged) in replicas {
            let bad = match self.blocks.get(&(handle, disk)) {
                _ if !damaged => BTreeSet::new(),
                Some(blocks) if !blocks.is_empty() => blocks.clone(),
                _ => (0..BLOCKS_PER_CHUNK as u32).collect(),
            };
            common = Some(match common {
                Some(common) => common.intersection(&bad).copied().collect(),
                None => bad,
            });
        }
        common.unwrap_or_default()
    }
}

impl Core {
    /// What to do about the bad blocks of a chunk's replicas; members are asked where that is not known yet.
    pub fn judge_rot(&self, world: &mut World, chunk: &ChunkInfo, view: &ChunkView, now: Duration) -> Verdict {
        let handle = chunk.handle;
        let reachable = |m: &&MemberView| matches!(m.standing, Standing::Good | Standing::Damaged | Standing::Draining);
        let disks: Vec<DiskId> = view.members.iter().filter(reachable).map(|m| m.disk).collect();
        let damaged = |disk: &DiskId| world.servers.replica(*disk, handle).is_some_and(|r| r.damaged);
        let replicas: Vec<_> = disks.iter().map(|d| (*d, damaged(d))).collect();
        if !replicas.iter().any(|(_, damaged)| *damaged) {
            return Verdict::Mend;
        }
        let patience = VERIFY_PATIENCE * self.config.order_timeout();
        let stale = |a: &Asked| a.told && now >= a.since + ASK_AGAIN;
        if world.rot.asked.get(&handle).is_none_or(stale) {
            let pending = disks.iter().copied().filter(|d| self.ask(world, handle, *d)).collect();
            let asked = Asked {
                since: now,
                pending,
                told: false,
            };
            world.rot.asked.insert(handle, asked);
        }
        let waits = |a: &Asked| !a.pending.is_empty() && now < a.since + patience;
        if world.rot.asked.get(&handle).is_some_and(waits) {
            return Verdict::Wait;
        }
        let bad = world.rot.bad_in_all(handle, replicas.into_iter());
        if bad.is_empty() {
            return Verdict::Mend;
        }
        if let Some(asked) = world.rot.asked.get_mut(&handle)
            && !std::mem::replace(&mut asked.told, true)
        {
            let name = world.state.path_of(chunk.inode).unwrap_or_default();
            let name = String::from_utf8_lossy(&name);
            let first = bad.first().copied().unwrap_or_default();
            let offset = u64::from(chunk.index) * CHUNK_SIZE_BYTES + u64::from(first) * BLOCK_SIZE_BYTES;
            tracing::error!(
                chunk = %handle, file = %name, blocks = ?bad, offset,
                "blocks are corrupt in every replica that can be reached: reads of them fail"
            );
            let text =
                format!("chunk {handle} of {name}: blocks {bad:?} are corrupt in every replica that can be reached");
            world.events.add(self.env.clock.wall(), text);
        }
        Verdict::Hopeless(bad)
    }

    /// False: the disk cannot be asked now.
    fn ask(&self, world: &mut World, handle: ChunkHandle, disk: DiskId) -> bool {
        let Some(server) = world.servers.server_of(disk) else {
            return false;
        };
        let Some(registration) = world.servers.registration(server) else {
            return false;
        };
        let what = order::What::Verify(wire::Verify {});
        world
            .servers
            .order(server, registration, handle, Some(disk), Purpose::Verify, what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_lost_when_they_are_bad_in_every_replica() {
        let (chunk, disk) = (ChunkHandle(1), DiskId::from_bits);
        let mut rot = Rot::default();
        assert!(rot.found(chunk, disk(1), &[3, 4]));
        assert!(!rot.found(chunk, disk(1), &[4]));
        assert!(rot.found(chunk, disk(2), &[4, 5]));
        let bad = |rot: &Rot, replicas: &[(u128, bool)]| {
            let replicas = replicas.iter().map(|(d, damaged)| (disk(*d), *damaged));
            rot.bad_in_all(chunk, replicas).into_iter().collect::<Vec<_>>()
        };
        assert_eq!(bad(&rot, &[(1, true), (2, true)]), [4]);
        assert!(bad(&rot, &[(1, true), (2, true), (3, false)]).is_empty());
        // damaged, and nobody knows where
        assert_eq!(bad(&rot, &[(1, true), (2, true), (3, true)]), [4]);
        assert_eq!(bad(&rot, &[(3, true)]).len(), BLOCKS_PER_CHUNK as usize);
        rot.over(chunk);
        assert!(rot.blocks.is_empty());
    }
}
