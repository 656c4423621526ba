//! The one background task: leases, silent sessions, orphans, trash, repair, garbage, each in bounded steps.
use crate::core::{Core, Then};
use crate::limits::PURGE_BATCH;
use cairn_metadata::reconfigure::Event;
use cairn_metadata::{Command, Op};
use cairn_types::Inode;
use std::sync::Arc;
use std::time::Duration;

const ROUND: Duration = Duration::from_millis(100);
/// Between rounds while a scan is going on.
const BUSY_ROUND: Duration = Duration::from_millis(2);
const SECOND: Duration = Duration::from_secs(1);

pub async fn run(core: Arc<Core>) {
    let mut before = core.now();
    let mut next_second = before;
    loop {
        let now = core.now();
        let each_second = now >= next_second;
        if each_second {
            next_second = now + SECOND;
        }
        let busy = round(&core, before, now, each_second);
        before = now;
        let pause = if busy { BUSY_ROUND } else { ROUND };
        tokio::select! {
            biased;
            () = core.stop.cancelled() => return,
            () = core.nudge.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// True: there is more to do at once.
fn round(core: &Core, before: Duration, now: Duration, each_second: bool) -> bool {
    let mut world = core.world();
    let world = &mut *world;
    for server in world.leases.ended_between(before, now) {
        if let Some(registration) = world.servers.registration(server) {
            tracing::warn!(%server, address = world.servers.address(server), "a chunkserver's lease is over; it must register anew");
            core.server_gone(world, server, registration);
        }
        core.event_for_all(world, Event::LeaseOver { server });
    }
    // of servers that have not registered with this master, by what an earlier one may have given (R11)
    let earlier = world.started
        + cairn_metadata::lease::masters_count(Duration::from_millis(
            world.state.lease_ms_longest().max(core.config.lease_ms.into()),
        ));
    if before < earlier && earlier <= now {
        let silent: Vec<_> = world
            .servers
            .iter()
            .map(|(id, _)| id)
            .filter(|id| world.leases.get(*id).is_none())
            .collect();
        for server in silent {
            core.event_for_all(world, Event::LeaseOver { server });
        }
    }
    leave_safe_mode(core, world, now);
    core.tick_reconfigurations(world);
    end_silent_sessions(core, world, now);
    release_orphans(core, world, now);
    if each_second {
        world.servers.fade();
        expire_trash(core, world);
        give_up_calls(core, world, now);
    }
    let scanning = core.scan_for_repair(world);
    core.begin_repairs(world);
    let sweeping = core.sweep_garbage(world);
    world.sessions.flush();
    scanning || sweeping
}

fn leave_safe_mode(core: &Core, world: &mut crate::core::World, now: Duration) {
    if !world.safe_mode {
        return;
    }
    let reported = world.servers.iter().all(|(_, s)| s.connection.is_some() && s.reported);
    let patience_over = now >= world.started + core.config.safe_mode();
    if patience_over || (reported && world.servers.len() > 0) {
        world.safe_mode = false;
        let silent = world.servers.iter().filter(|(_, s)| !s.reported).count();
        tracing::info!(
            servers = world.servers.len(),
            silent,
            "safe mode is over: repair and collection of garbage may begin"
        );
    }
}

fn end_silent_sessions(core: &Core, world: &mut crate::core::World, now: Duration) {
    let Some(deadline) = now.checked_sub(core.config.session_timeout()) else {
        return;
    };
    for id in world.sessions.silent_since(deadline) {
        let Some(session) = world.sessions.get_mut(id) else {
            continue;
        };
        session.ending = true;
        tracing::warn!(session = %id, description = session.description, "a session was silent for too long and ends");
        if core.end_session(id).is_err() {
            session.ending = false;
            return;
        }
    }
}

fn release_orphans(core: &Core, world: &mut crate::core::World, now: Duration) {
    if !world.orphans_settled(&core.config, now) {
        return;
    }
    if !world.orphans_found {
        // those of the time before this start, that nobody has declared to have open
        world.orphans_found = true;
        let mut after = Inode(0);
        loop {
            let page = world.state.orphans_after(after, PURGE_BATCH);
            let Some(last) = page.last() else { break };
            after = *last;
            let closed = page.into_iter().filter(|inode| !world.sessions.is_open(*inode));
            world.closed_orphans.extend(closed);
        }
    }
    while !world.closed_orphans.is_empty() {
        let batch = std::iter::from_fn(|| world.closed_orphans.pop_first()).take(PURGE_BATCH);
        let closed: Vec<_> = batch.filter(|inode| !world.sessions.is_open(*inode)).collect();
        if closed.is_empty() {
            continue;
        }
        world.releasing.extend(&closed);
        let op = Op::ReleaseOrphans { inodes: closed.clone() };
        let command = Command::Internal {
            at_ns: core.env.clock.wall(),
            op,
        };
        if core.push(command, Then::Nobody).is_err() {
            for inode in closed {
                world.releasing.remove(&inode);
                world.closed_orphans.insert(inode);
            }
            return;
        }
    }
}

/// While the operation log takes nothing any answer to a call would be a lie: the clients ask again on their next streams.
fn give_up_calls(core: &Core, world: &mut crate::core::World, now: Duration) {
    let patience = core.config.call_patience();
    if world.appending.is_some_and(|since| now >= since + patience) {
        let why = format!("the operation log has taken nothing for {} s", patience.as_secs());
        tracing::error!("{why}: clients with calls under way are to ask again");
        world.appending = Some(now);
        world.sessions.end_waiting(&why);
    }
}

fn expire_trash(core: &Core, world: &mut crate::core::World) {
    let inodes = world.state.trash_expired(core.env.clock.wall(), PURGE_BATCH);
    if inodes.is_empty() {
        return;
    }
    let op = core.purge(world, inodes);
    let command = Command::Internal {
        at_ns: core.env.clock.wall(),
        op,
    };
    if let Err(e) = core.push(command, Then::Nobody) {
        tracing::debug!(error = %e, "expired trash stays a little longer");
    }
}
