//! Calls that wait for chunkservers: complaints (protocol R8, R12) and truncation inside a chunk (R13).
use super::calls::CallId;
use super::wire::Refusal;
use crate::core::{Applied, Core, World};
use crate::reconfiguration::{Cut, Ended, NotBegun, Wish};
use cairn_metadata::{ChunkInfo, FsError, Op, Reply, SetAttr, verdict};
use cairn_proto::chunkserver::{self as wire_server, order};
use cairn_proto::common::ErrorCode;
use cairn_proto::session::answer::Result as Answer;
use cairn_proto::session::{Complain, Locations};
use cairn_types::{ChunkHandle, DiskId, ServerId, Version};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Between attempts at what could not be begun or failed.
const RETRY: Duration = Duration::from_millis(300);

/// How a call goes into the log.
pub enum Step {
    Log(Op),
    /// First this chunk must have that length; the install carries the change.
    Cut {
        handle: ChunkHandle,
        length: u64,
        set: SetAttr,
    },
}

fn location(world: &World, chunk: &ChunkInfo) -> Answer {
    let attr = world
        .state
        .getattr(chunk.inode)
        .ok()
        .map(|attr| super::wire::attr(&world.state, attr));
    Answer::Locations(Locations {
        chunks: vec![world.location(chunk)],
        attr,
    })
}

/// The file has the chunk no more.
fn no_location() -> Answer {
    Answer::Locations(Locations {
        chunks: Vec::new(),
        attr: None,
    })
}

pub async fn complain(core: &Arc<Core>, id: CallId, complaint: &Complain) -> Result<Answer, Refusal> {
    let handle = ChunkHandle(complaint.handle);
    let named: Version = cairn_proto::required(complaint.version, "version")?.into();
    let server = match complaint.server.is_empty() {
        true => None,
        false => Some(ServerId::try_from(&complaint.server[..]).map_err(cairn_proto::Malformed::from)?),
    };
    if !complaint.for_write {
        return observe(core, handle, server, complaint);
    }
    let gone = matches!(complaint.reason(), ErrorCode::ErrorNoSpace | ErrorCode::ErrorDiskFailed);
    let deadline = core.now() + core.config.call_timeout();
    let mut failure = String::from("nothing was tried");
    loop {
        let waiter = {
            let mut world = core.world();
            let world = &mut *world;
            let Some(chunk) = world.state.chunk(handle) else {
                return Ok(no_location());
            };
            world.sessions.writes(id.session, chunk.inode, [handle]);
            let active = world.reconfigurations.is_active(handle);
            match verdict::complaint(chunk.version, named, active) {
                verdict::Complaint::AnswerCurrent => return Ok(location(world, &chunk)),
                verdict::Complaint::Wait => {}
                verdict::Complaint::Reconfigure => {
                    let of_server = |d: &&DiskId| world.servers.server_of(**d) == server;
                    let doubtful = if server.is_some() {
                        chunk.members.iter().filter(of_server).copied().collect()
                    } else {
                        Vec::new()
                    };
                    if complaint.reason() == ErrorCode::ErrorNoSpace
                        && let Some(why) = core.no_room(world, &chunk, &doubtful)
                    {
                        return Err(Refusal::NoSpace(why));
                    }
                    world.repair.wanted(handle);
                    core.mend_for_writing(world, &chunk, doubtful, gone, "a client wants to write");
                }
            }
            world.reconfigurations.wait(handle, false)
        };
        if let Some(why) = ended(core, waiter, deadline).await {
            failure = why;
        }
        if core.now() >= deadline {
            let world = core.world();
            let named = world
                .state
                .chunk(handle)
                .map_or_else(String::new, |c| core.shortage(&world, &c));
            let text = format!("chunk {handle} cannot be written: {failure}{named}");
            return Err(Refusal::Unavailable(text));
        }
    }
}

/// Waits for the end of what is under way, or a moment. Gives what failed.
async fn ended(core: &Core, waiter: Option<oneshot::Receiver<Ended>>, deadline: Duration) -> Option<String> {
    let left = deadline.saturating_sub(core.now());
    let Some(waiter) = waiter else {
        tokio::time::sleep(RETRY.min(left)).await;
        return None;
    };
    match tokio::time::timeout(left, waiter).await {
        Ok(Ok(Ended::Failed(why))) => {
            tokio::time::sleep(RETRY.min(left)).await;
            Some(why)
        }
        _ => None,
    }
}

/// Nothing waits for it: what a client saw of one server.
fn observe(
    core: &Core,
    handle: ChunkHandle,
    server: Option<ServerId>,
    complaint: &Complain,
) -> Result<Answer, Refusal> {
    let mut world = core.world();
    let world = &mut *world;
    let Some(chunk) = world.state.chunk(handle) else {
        return Ok(no_location());
    };
    if let Some(server) = server
        && matches!(
            complaint.reason(),
            ErrorCode::ErrorCorrupt | ErrorCode::ErrorBadChecksum
        )
    {
        let disk = chunk
            .members
            .iter()
            .copied()
            .find(|d| world.servers.server_of(*d) == Some(server));
        if let (Some(disk), Some(registration)) = (disk, world.servers.registration(server)) {
            let what = order::What::Verify(wire_server::Verify {});
            let purpose = crate::chunkservers::Purpose::Verify;
            world
                .servers
                .order(server, registration, handle, Some(disk), purpose, what);
        }
    } else {
        world.repair.look_at(handle);
    }
    Ok(location(world, &chunk))
}

/// Logs the call's operation; where it needs a chunk cut first, the reconfiguration's install carries the change.
pub async fn cut_and_log(
    core: &Arc<Core>,
    id: CallId,
    mut operation: impl FnMut(&mut World) -> Result<Step, Refusal>,
) -> Result<Result<Reply, FsError>, Refusal> {
    let deadline = core.now() + core.config.call_timeout();
    let mut failure = String::from("another change of it is under way");
    loop {
        enum Waits {
            Logged(oneshot::Receiver<Applied>),
            Cut(Option<oneshot::Receiver<Ended>>),
        }
        let waits = {
            let mut world = core.world();
            let world = &mut *world;
            if let Some(result) = world.state.remembered(id.session, id.sequence) {
                return Ok(result);
            }
            match operation(world)? {
                Step::Log(op) => Waits::Logged(core.take(id.command(core, op))?),
                Step::Cut { handle, length, set } => {
                    let cut = Cut { call: id, length, set };
                    Waits::Cut(begin_cut(core, world, handle, cut))
                }
            }
        };
        match waits {
            Waits::Logged(outcome) => {
                let Applied { outcome, others } = outcome.await.map_err(|_| crate::core::MaybeApplied)?;
                super::calls::others_take_in(core, others).await;
                match outcome.result {
                    Err(FsError::CutNeeded | FsError::Retry) => {}
                    result => return Ok(result),
                }
            }
            Waits::Cut(Some(waiter)) => match tokio::time::timeout(deadline.saturating_sub(core.now()), waiter).await {
                Ok(Ok(Ended::Cut {
                    result: Err(FsError::StaleVersion | FsError::NoSuchChunk),
                    ..
                })) => {}
                Ok(Ok(Ended::Cut { result, others })) => {
                    super::calls::others_take_in(core, others).await;
                    return Ok(result);
                }
                Ok(Ok(Ended::Failed(why))) => {
                    failure = why;
                    tokio::time::sleep(RETRY).await;
                }
                _ => {}
            },
            Waits::Cut(None) => tokio::time::sleep(RETRY).await,
        }
        if core.now() >= deadline {
            return Err(Refusal::Unavailable(format!("the file cannot be cut: {failure}")));
        }
    }
}

impl Core {
    /// Why the chunk cannot be written without its members on full disks: the others are too few, and no disk with room
    /// can take their place. `None`: it can.
    fn no_room(&self, world: &mut World, chunk: &ChunkInfo, full: &[DiskId]) -> Option<String> {
        let now = self.now();
        let servers = |disks: &[DiskId]| {
            disks
                .iter()
                .filter_map(|d| world.servers.server_of(*d))
                .collect::<Vec<_>>()
        };
        let existing = servers(&chunk.members);
        let fit = chunk
            .members
            .iter()
            .filter(|disk| !full.contains(disk) && !world.is_out_of_service(chunk.handle, **disk))
            .filter(|disk| {
                world
                    .servers
                    .server_of(**disk)
                    .is_some_and(|s| world.leases.is_up(s, now))
            })
            .count();
        let minimum = self.minimum(chunk.goal);
        let missing = minimum.checked_sub(fit).filter(|missing| *missing > 0)?;
        let placement = self.place(world, missing, "", &existing, &[]);
        let found = placement.places.len();
        (found < missing).then(|| {
            let have = fit + found;
            format!(
                "the disks of chunk {} are full, and of {minimum} needed replicas {have} have room",
                chunk.handle
            )
        })
    }

    /// For a sentence: which members cannot be reached.
    pub fn shortage(&self, world: &World, chunk: &ChunkInfo) -> String {
        let now = self.now();
        let down = chunk.members.iter().filter_map(|disk| {
            let server = world.servers.server_of(*disk)?;
            let silent = world.leases.silent_for(server, now);
            (!world.leases.is_up(server, now)).then(|| {
                let address = world.servers.address(server);
                match silent {
                    Some(silent) => format!("{address} has been silent for {} s", silent.as_secs()),
                    None => format!("{address} has not registered"),
                }
            })
        });
        let down: Vec<_> = down.collect();
        if down.is_empty() {
            String::new()
        } else {
            format!(" ({})", down.join(", "))
        }
    }
}

/// What is waited for: the cut's own reconfiguration, or the one that is in its way.
fn begin_cut(core: &Core, world: &mut World, handle: ChunkHandle, cut: Cut) -> Option<oneshot::Receiver<Ended>> {
    let wish = Wish {
        why: "a truncation",
        cut: Some(cut),
        ..Wish::default()
    };
    match core.reconfigure(world, handle, wish) {
        Ok(()) => world.reconfigurations.wait(handle, true),
        Err(NotBegun::UnderWay) => world.reconfigurations.wait(handle, false),
        Err(NotBegun::NoChunk | NotBegun::TooMany | NotBegun::UnknownServer) => None,
    }
}
