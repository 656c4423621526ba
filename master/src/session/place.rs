//! Where new chunks go.
use super::Refusal;
use crate::core::{Core, World};
use cairn_metadata::Grant;
use cairn_metadata::placement::{self, Cause, Placement, Request};
use cairn_types::layout::CHUNK_SIZE_BYTES;
use cairn_types::{DiskId, ServerId};

/// Room asked of a disk; the second only where the first is not to be had.
const ROOM_BYTES: [u64; 2] = [CHUNK_SIZE_BYTES, 1 << 20];

impl Core {
    /// Disks for `count` new replicas besides those on `existing`.
    pub fn place(
        &self,
        world: &mut World,
        count: usize,
        near: &str,
        existing: &[ServerId],
        avoid: &[ServerId],
    ) -> Placement {
        let now = self.now();
        let views = world
            .servers
            .views(&world.state, |server| world.leases.is_up(server, now));
        let mut rng = self.env.rng.fork();
        let near = (!near.is_empty()).then_some(near);
        let mut request = Request {
            count,
            near,
            existing,
            avoid,
            bytes: ROOM_BYTES[0],
        };
        let mut placement = placement::place(&views, &request, &mut rng);
        if placement
            .shortage
            .as_ref()
            .is_some_and(|s| s.causes.contains_key(&Cause::Full))
        {
            request.bytes = ROOM_BYTES[1];
            placement = placement::place(&views, &request, &mut rng);
        }
        for place in &placement.places {
            if let Some(disk) = world.servers.disk_mut(place.disk) {
                disk.creations = disk.creations.saturating_add(placement::ONE_CREATION);
            }
        }
        placement
    }

    /// A grant for a new chunk of a file with this goal. Fewer replicas than the goal will do, if they are as many as
    /// a write needs: repair adds the rest.
    pub fn grant(&self, world: &mut World, goal: u8, near: &str) -> Result<Grant, Refusal> {
        let placement = self.place(world, goal.into(), near, &[], &[]);
        let minimum = self.minimum(goal);
        if placement.places.len() < minimum {
            let shortage = placement.shortage.as_ref();
            let why = shortage.map_or_else(String::new, ToString::to_string);
            let why = format!("a new chunk {why} (at least {minimum} are needed)");
            let full = shortage.map_or(0, |s| {
                s.causes
                    .iter()
                    .filter(|(c, _)| matches!(c, Cause::Full | Cause::NotWritable))
                    .map(|(_, n)| n)
                    .sum()
            });
            // servers enough, but no room on them
            return Err(if placement.places.len() + full >= minimum && full > 0 {
                Refusal::NoSpace(why)
            } else {
                Refusal::NoServers(why)
            });
        }
        let members: Vec<DiskId> = placement.places.iter().map(|p| p.disk).collect();
        Ok(Grant {
            version: world.draw_version(),
            members,
        })
    }

    /// Replicas without which a chunk is not written.
    pub fn minimum(&self, goal: u8) -> usize {
        usize::from(self.config.min_replicas.min(goal).max(1))
    }
}
