//! What to repair, and in which order: pure functions over a view of chunks.
//!
//! The master scans its chunks in the background ([`crate::State::chunks_after`]), [`assess`]es each, and offers the
//! [`Task`]s to a [`Queue`], which gives them out by urgency within limits. A task is a reconfiguration
//! ([`crate::reconfigure`]): replicas that have nothing are filled beforehand, those that are only damaged are mended
//! where they are.
//!
//! After GFS 4.3: by how far below the goal, live files before deleted ones, boosted when a client waits. Repair waits
//! for a while after a server fell silent, so that a restart costs nothing; not when one copy is left.
use cairn_types::{ChunkHandle, DiskId, ServerId};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

/// How a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Good,
    /// Good, on a server or disk that is to be emptied.
    Draining,
    /// Its disk works, but blocks are bad, it is suspect, stale, or missing there: mended in place.
    Damaged,
    /// Its server has been silent since.
    Silent {
        since: Duration,
    },
    /// Its disk failed or is out of service.
    Gone,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberView {
    pub disk: DiskId,
    pub server: ServerId,
    pub standing: Standing,
    /// Of the server; for trimming.
    pub label: String,
    /// Of the disk, in thousandths; for trimming.
    pub used_permille: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkView {
    pub handle: ChunkHandle,
    pub goal: u8,
    /// In the order of the chain.
    pub members: Vec<MemberView>,
    /// Its file is in the trash.
    pub trashed: bool,
    /// A client waits for it.
    pub wanted: bool,
}

/// For the status, from worst to best. One chunk has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// No good replica.
    Lost,
    /// One, of a goal of more.
    Endangered,
    UnderGoal,
    OverGoal,
    Healthy,
}

/// Larger is sooner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Urgency {
    pub wanted: bool,
    pub live: bool,
    /// One good replica is left, of a goal of more.
    pub endangered: bool,
    /// Replicas missing to the goal; 0 for drains and trims.
    pub missing: u8,
}

/// One chunk's repair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    pub handle: ChunkHandle,
    pub urgency: Urgency,
    /// New replicas to place, fill and join.
    pub add: usize,
    /// Members to leave, once so many have been added (all of them at once for a trim).
    pub leave: Vec<DiskId>,
    /// Members to mend in place: the doubtful ones of the reconfiguration.
    pub mend: Vec<DiskId>,
    /// Good members that a new replica can be filled from.
    pub sources: Vec<(ServerId, DiskId)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assessment {
    pub health: Health,
    /// What to do now.
    pub task: Option<Task>,
    /// When to look again, though nothing happens: a silent member's patience ends.
    pub due: Option<Duration>,
}

/// What `chunk` needs at `now`, where repair waits `delay` after a member fell silent.
pub fn assess(chunk: &ChunkView, delay: Duration, now: Duration) -> Assessment {
    let of = |wanted: fn(Standing) -> bool| chunk.members.iter().filter(move |m| wanted(m.standing));
    let good = of(|s| s == Standing::Good).count();
    let serving = of(|s| matches!(s, Standing::Good | Standing::Draining)).count();
    let goal = usize::from(chunk.goal.max(1));
    let health = match serving {
        0 => Health::Lost,
        1 if goal > 1 => Health::Endangered,
        n if n < goal => Health::UnderGoal,
        _ if good > goal => Health::OverGoal,
        _ => Health::Healthy,
    };
    let nothing = |due| Assessment {
        health,
        task: None,
        due,
    };
    if serving == 0 {
        // nothing to copy from: a server that comes back is what helps (or a suspect, by a reconfiguration)
        return nothing(None);
    }
    let at_once = serving == 1 && goal > 1;
    let patient = |m: &&MemberView| matches!(m.standing, Standing::Silent { since } if now < since + delay && !at_once);
    let waiting = chunk.members.iter().filter(patient).count();
    let due = chunk.members.iter().filter(patient).filter_map(|m| match m.standing {
        Standing::Silent { since } => Some(since + delay),
        _ => None,
    });
    let due = due.min();
    let mend: Vec<_> = of(|s| s == Standing::Damaged).map(|m| m.disk).collect();
    let counted = good + mend.len() + waiting;
    let urgency = Urgency {
        wanted: chunk.wanted,
        live: !chunk.trashed,
        endangered: at_once,
        missing: goal.saturating_sub(serving) as u8,
    };
    let sources = of(|s| matches!(s, Standing::Good | Standing::Draining))
        .map(|m| (m.server, m.disk))
        .collect();
    let add = goal.saturating_sub(counted);
    if add > 0 || !mend.is_empty() {
        let leaves = |m: &&MemberView| match m.standing {
            Standing::Good | Standing::Damaged => false,
            Standing::Draining | Standing::Gone => true,
            Standing::Silent { .. } => !patient(m),
        };
        let leave = chunk.members.iter().filter(leaves).map(|m| m.disk).collect();
        return Assessment {
            health,
            task: Some(Task {
                handle: chunk.handle,
                urgency,
                add,
                leave,
                mend,
                sources,
            }),
            due,
        };
    }
    // enough without those that are being drained, are gone, or are too many
    let beyond: Vec<_> = of(|s| matches!(s, Standing::Draining | Standing::Gone))
        .map(|m| m.disk)
        .collect();
    let excess = good.saturating_sub(goal);
    if good >= goal && (excess > 0 || !beyond.is_empty()) {
        let mut leave = beyond;
        leave.extend(trim(chunk, excess));
        return Assessment {
            health,
            task: Some(Task {
                handle: chunk.handle,
                urgency,
                add: 0,
                leave,
                mend,
                sources,
            }),
            due,
        };
    }
    nothing(due)
}

/// The good members to do without: those that share a host or a rack with another, then those on the fullest disks,
/// and of equals the last in the chain.
fn trim(chunk: &ChunkView, excess: usize) -> Vec<DiskId> {
    let mut good: Vec<_> = chunk.members.iter().filter(|m| m.standing == Standing::Good).collect();
    let mut leave = Vec::new();
    for _ in 0..excess {
        let worst = good.iter().enumerate().max_by_key(|(at, m)| {
            let others = || good.iter().filter(|o| o.disk != m.disk);
            let host = !m.label.is_empty() && others().any(|o| o.label == m.label);
            let rack = rack(&m.label).is_some_and(|own| others().any(|o| rack(&o.label) == Some(own)));
            (host, rack, m.used_permille, *at)
        });
        let Some(at) = worst.map(|(at, _)| at) else { break };
        leave.push(good.remove(at).disk);
    }
    leave
}

/// All of a label but the host.
fn rack(label: &str) -> Option<&str> {
    label.rsplit_once('/').map(|(rack, _)| rack)
}

/// Bounds of repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Tasks under way in the cluster.
    pub cluster: usize,
    /// Tasks under way that read from one server.
    pub per_server: usize,
    /// Tasks that wait; beyond, the least urgent are forgotten (the next scan finds them again).
    pub queue: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cluster: 64,
            per_server: 4,
            queue: 100_000,
        }
    }
}

/// Tasks that wait, and what is under way. One task a chunk.
#[derive(Debug, Default, Clone)]
pub struct Queue {
    waiting: BTreeMap<(Reverse<Urgency>, ChunkHandle), Task>,
    urgencies: BTreeMap<ChunkHandle, Urgency>,
    /// With the server that it reads from.
    running: BTreeMap<ChunkHandle, Option<ServerId>>,
}

impl Queue {
    /// A chunk was assessed: `task` replaces what was known of it. Ignored while its repair is under way.
    pub fn offer(&mut self, handle: ChunkHandle, task: Option<Task>, limits: &Limits) {
        self.forget(handle);
        let Some(task) = task.filter(|_| !self.running.contains_key(&handle)) else {
            return;
        };
        self.urgencies.insert(handle, task.urgency);
        self.waiting.insert((Reverse(task.urgency), handle), task);
        while self.waiting.len() > limits.queue {
            if let Some(((_, handle), _)) = self.waiting.pop_last() {
                self.urgencies.remove(&handle);
            }
        }
    }

    /// The most urgent task that the limits allow, and the member to fill new replicas from: on the server that
    /// repairs read from least. It counts as under way until [`Queue::finished`].
    pub fn next(&mut self, limits: &Limits) -> Option<(Task, Option<(ServerId, DiskId)>)> {
        if self.running.len() >= limits.cluster {
            return None;
        }
        let (key, source) = self.waiting.iter().find_map(|(key, task)| {
            if task.add == 0 {
                return Some((*key, None));
            }
            let source = task.sources.iter().min_by_key(|(server, _)| self.load(*server))?;
            (self.load(source.0) < limits.per_server).then_some((*key, Some(*source)))
        })?;
        let task = self.waiting.remove(&key)?;
        self.urgencies.remove(&task.handle);
        self.running.insert(task.handle, source.map(|(server, _)| server));
        Some((task, source))
    }

    pub fn finished(&mut self, handle: ChunkHandle) {
        self.running.remove(&handle);
    }

    /// The chunk was dropped, or needs nothing any more.
    pub fn forget(&mut self, handle: ChunkHandle) {
        if let Some(urgency) = self.urgencies.remove(&handle) {
            self.waiting.remove(&(Reverse(urgency), handle));
        }
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub fn running(&self) -> impl Iterator<Item = ChunkHandle> + '_ {
        self.running.keys().copied()
    }

    fn load(&self, server: ServerId) -> usize {
        self.running.values().filter(|s| **s == Some(server)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Standing::{Damaged, Draining, Gone, Good};

    const DELAY: Duration = Duration::from_secs(30);
    const NOW: Duration = Duration::from_secs(100);

    fn silent(since: u64) -> Standing {
        Standing::Silent {
            since: Duration::from_secs(since),
        }
    }

    fn disk(n: u128) -> DiskId {
        DiskId::from_bits(n)
    }

    fn chunk(handle: u64, goal: u8, standings: &[Standing]) -> ChunkView {
        let member = |(standing, n): (&Standing, u128)| MemberView {
            disk: disk(n),
            server: ServerId::from_bits(n),
            standing: *standing,
            label: String::new(),
            used_permille: 0,
        };
        ChunkView {
            handle: ChunkHandle(handle),
            goal,
            members: standings.iter().zip(1..).map(member).collect(),
            trashed: false,
            wanted: false,
        }
    }

    type Needs = (usize, Vec<u128>, Vec<u128>);

    /// Health, and of the task how many to add, whom to leave, whom to mend.
    fn table(goal: u8, standings: &[Standing]) -> (Health, Option<Needs>) {
        let a = assess(&chunk(1, goal, standings), DELAY, NOW);
        let numbers = |disks: &[DiskId]| (1..=9).filter(|n| disks.contains(&disk(*n))).collect();
        (a.health, a.task.map(|t| (t.add, numbers(&t.leave), numbers(&t.mend))))
    }

    #[test]
    fn what_a_chunk_needs() {
        let (none, add) = (None, |n, leave: &[u128]| Some((n, leave.to_vec(), vec![])));
        assert_eq!(table(3, &[Good, Good, Good]), (Health::Healthy, none.clone()));
        assert_eq!(table(3, &[Good, Good]), (Health::UnderGoal, add(1, &[])));
        assert_eq!(table(3, &[Good, Good, Gone]), (Health::UnderGoal, add(1, &[3])));
        assert_eq!(
            table(3, &[Good, Good, silent(80)]),
            (Health::UnderGoal, none.clone()),
            "a restart costs nothing"
        );
        assert_eq!(table(3, &[Good, Good, silent(70)]), (Health::UnderGoal, add(1, &[3])));
        assert_eq!(
            table(3, &[Good, silent(99), silent(99)]),
            (Health::Endangered, add(2, &[2, 3])),
            "at once"
        );
        assert_eq!(table(3, &[silent(99), silent(99), Gone]), (Health::Lost, none.clone()));
        assert_eq!(
            table(3, &[Good, Good, Damaged]),
            (Health::UnderGoal, Some((0, vec![], vec![3])))
        );
        assert_eq!(table(3, &[Good, Good, Draining]), (Health::Healthy, add(1, &[3])));
        assert_eq!(table(3, &[Good, Good, Draining, Good]), (Health::Healthy, add(0, &[3])));
        assert_eq!(
            table(1, &[Good]),
            (Health::Healthy, none.clone()),
            "a goal of one is no danger"
        );
        assert_eq!(table(2, &[Good, Good, Good]), (Health::OverGoal, add(0, &[3])));
        let waiting = assess(&chunk(1, 3, &[Good, Good, silent(80)]), DELAY, NOW);
        assert_eq!(waiting.due, Some(Duration::from_secs(110)));
    }

    #[test]
    fn the_surplus_goes_where_domains_are_shared_and_disks_full() {
        let mut view = chunk(1, 2, &[Good, Good, Good, Good]);
        for (m, (label, used)) in view
            .members
            .iter_mut()
            .zip([("r1/a", 1), ("r1/b", 2), ("r2/c", 900), ("r3/d", 3)])
        {
            (m.label, m.used_permille) = (label.into(), used);
        }
        assert_eq!(assess(&view, DELAY, NOW).task.unwrap().leave, [disk(2), disk(3)]);
    }

    #[test]
    fn clients_first_then_live_files_then_the_endangered_then_by_what_is_missing() {
        let mut queue = Queue::default();
        let limits = Limits::default();
        let mut offer = |handle, standings: &[Standing], trashed, wanted| {
            let view = ChunkView {
                trashed,
                wanted,
                ..chunk(handle, 4, standings)
            };
            queue.offer(view.handle, assess(&view, DELAY, NOW).task, &limits);
        };
        offer(1, &[Good, Good, Good], false, false);
        offer(2, &[Good, Good], false, false);
        offer(3, &[Good], true, false);
        offer(4, &[Good], false, false);
        offer(5, &[Good, Good, Good], false, true);
        let order: Vec<_> = std::iter::from_fn(|| queue.next(&limits))
            .map(|(t, _)| t.handle.0)
            .collect();
        assert_eq!(order, [5, 4, 2, 1, 3]);
    }

    #[test]
    fn the_queue_has_bounds_and_one_task_a_chunk() {
        let limits = Limits {
            cluster: 2,
            per_server: 1,
            queue: 3,
        };
        let mut queue = Queue::default();
        let task = |handle, standings: &[Standing]| assess(&chunk(handle, 3, standings), DELAY, NOW).task;
        for handle in 1..=5 {
            queue.offer(ChunkHandle(handle), task(handle, &[Good, Good]), &limits);
        }
        assert_eq!(queue.waiting(), 3);
        queue.offer(ChunkHandle(1), task(1, &[Good]), &limits);
        assert_eq!(queue.waiting(), 3, "a new assessment replaces the one before");
        let (first, source) = queue.next(&limits).unwrap();
        assert_eq!(
            (first.handle, source),
            (ChunkHandle(1), Some((ServerId::from_bits(1), disk(1))))
        );
        queue.offer(ChunkHandle(1), task(1, &[Good]), &limits);
        let (_, source) = queue.next(&limits).unwrap();
        assert_eq!(
            source.unwrap().0,
            ServerId::from_bits(2),
            "not from the server that is busy"
        );
        assert_eq!(queue.next(&limits), None, "the cluster's limit");
        queue.offer(ChunkHandle(3), None, &limits);
        assert_eq!(
            queue.waiting(),
            0,
            "the one under way was not taken again, the other needs nothing any more"
        );
    }
}
