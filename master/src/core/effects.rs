//! What follows from an applied command for soft state and for others. In the order of the log.
use super::{Core, World};
use cairn_metadata::{Command, Effect, Outcome};

impl Core {
    pub(super) fn effects(&self, world: &mut World, command: &Command, outcome: &Outcome) {
        let by = match command {
            Command::Call { session, .. } => Some(*session),
            _ => None,
        };
        for effect in &outcome.effects {
            match effect {
                Effect::InodeChanged { inode, data } => world.sessions.inode_changed(*inode, *data, by),
                Effect::EntryChanged { parent, name } => world.sessions.entry_changed(*parent, name, by),
                Effect::InodeFreed { inode } => {
                    world.releasing.remove(inode);
                    world.closed_orphans.remove(inode);
                    world.sessions.freed(*inode);
                }
                Effect::Orphaned { inode } => {
                    world.releasing.remove(inode);
                    if !world.sessions.is_open(*inode) {
                        world.closed_orphans.insert(*inode);
                    }
                }
                Effect::Trashed { .. } => {}
                Effect::ChunkCreated { handle } => {
                    let short = |c: cairn_metadata::ChunkInfo| c.members.len() < usize::from(c.goal);
                    if world.state.chunk(*handle).is_some_and(short) {
                        world.repair.look_at(*handle);
                    }
                }
                Effect::ChunkInstalled { handle, .. } => world.repair.look_at(*handle),
                Effect::ChunkDropped { chunk } => {
                    self.chunk_dropped(world, chunk);
                }
                Effect::GoalChanged { inode } => world.repair.goal_changed(*inode),
                Effect::SessionEnded { session } => self.session_ended(world, *session),
            }
        }
    }

    pub(super) fn flush_pushes(&self, world: &mut World) {
        world.sessions.flush();
    }
}
