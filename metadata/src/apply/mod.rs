//! The one way in which the state changes.
//!
//! Each operation looks first and changes then: one that is refused has changed nothing.
mod chunks;
mod namespace;
mod sessions;
mod trash;

use crate::command::{Command, Effect, Op, Outcome, Reply};
use crate::inode::{Body, Node};
use crate::state::{Disk, Server, State};
use crate::{CannotApply, FsError};
use cairn_types::{DiskId, Inode, ServerId, Version};
use std::sync::Arc;

/// Applies the command at `index` of the operation log (indices rise, and may have gaps). Deterministic: equal states
/// and commands give equal states and outcomes.
///
/// # Errors
/// [`CannotApply`]: no sound master logged this. The node must stop; the state may have been changed in part.
pub fn apply(state: &mut State, index: u64, command: &Command) -> Result<Outcome, CannotApply> {
    if index <= state.header.applied {
        return Err(CannotApply::OutOfOrder {
            index,
            applied: state.header.applied,
        });
    }
    if state.header.epoch == 0 && !matches!(command, Command::Epoch { .. }) {
        return Err(CannotApply::NoEpoch);
    }
    state.header.applied = index;
    let mut effects = Vec::new();
    let outcome = |result, effects| {
        Ok(Outcome {
            result,
            effects,
            repeated: false,
        })
    };
    match command {
        Command::Epoch { .. } => {
            begin_epoch(state, index, command)?;
            outcome(Ok(Reply::Done), effects)
        }
        Command::OpenSession {
            session,
            at_ns,
            description,
        } => {
            sessions::open(state, *session, *at_ns, description);
            outcome(Ok(Reply::Done), effects)
        }
        Command::EndSession { session } => {
            if state.sessions.remove(session).is_some() {
                effects.push(Effect::SessionEnded { session: *session });
            }
            outcome(Ok(Reply::Done), effects)
        }
        Command::Call {
            session,
            sequence,
            acknowledged,
            at_ns,
            op,
        } => match sessions::admit(state, *session, *sequence, *acknowledged) {
            sessions::Admission::Refused(error) => outcome(Err(error), effects),
            sessions::Admission::Repeated(result) => Ok(Outcome {
                result,
                effects,
                repeated: true,
            }),
            sessions::Admission::New => {
                let result = apply_op(state, *at_ns, op, &mut effects)?;
                sessions::remember(state, *session, *sequence, &result);
                outcome(result, effects)
            }
        },
        Command::Internal { at_ns, op } => {
            let result = apply_op(state, *at_ns, op, &mut effects)?;
            outcome(result, effects)
        }
        Command::RegisterServer {
            server,
            label,
            address,
            disks,
        } => {
            register_server(state, *server, label, address, disks)?;
            outcome(Ok(Reply::Done), effects)
        }
        Command::SetDiskService { disk, in_service } => {
            let number = disk_number(state, *disk)?;
            let known = state
                .disks
                .get_mut(usize::from(number))
                .ok_or(CannotApply::UnknownDisk(*disk))?;
            known.in_service = *in_service;
            outcome(Ok(Reply::Done), effects)
        }
    }
}

/// Why an operation does not go on: the user's error, or the node's end.
enum Stop {
    Refused(FsError),
    Cannot(CannotApply),
}

impl From<FsError> for Stop {
    fn from(error: FsError) -> Self {
        Stop::Refused(error)
    }
}

impl From<CannotApply> for Stop {
    fn from(error: CannotApply) -> Self {
        Stop::Cannot(error)
    }
}

/// One operation under way.
struct Context<'a> {
    state: &'a mut State,
    at_ns: i64,
    effects: &'a mut Vec<Effect>,
}

fn apply_op(
    state: &mut State,
    at_ns: i64,
    op: &Op,
    effects: &mut Vec<Effect>,
) -> Result<Result<Reply, FsError>, CannotApply> {
    let mut cx = Context { state, at_ns, effects };
    let result = match op {
        Op::Create(create) => cx.create(create),
        Op::Link { inode, parent, name } => cx.link(*inode, *parent, name),
        Op::Unlink { parent, name, removed } => cx.unlink(*parent, name, *removed),
        Op::Rmdir { parent, name, removed } => cx.rmdir(*parent, name, *removed),
        Op::Rename(rename) => cx.rename(rename),
        Op::SetAttr { inode, set } => cx.set_attr(*inode, set, None),
        Op::SetXattr {
            inode,
            name,
            value,
            mode,
        } => cx.set_xattr(*inode, name, value, *mode),
        Op::RemoveXattr { inode, name } => cx.remove_xattr(*inode, name),
        Op::SetGoal { inode, goal } => cx.set_goal(*inode, *goal),
        Op::Allocate { inode, grants } => cx.allocate(*inode, grants),
        Op::Commit {
            inode,
            size,
            chunks,
            written,
            generation_seen,
            kill_suid,
        } => cx.commit(*inode, *size, chunks, written.then_some(*generation_seen), *kill_suid),
        Op::Install(install) => cx.install(install),
        Op::ReleaseOrphans { inodes } => cx.release_orphans(inodes),
        Op::TrashRestore { inode, to } => cx.trash_restore(*inode, to.as_ref()),
        Op::TrashPurge { inodes, keep_open } => cx.trash_purge(inodes, keep_open),
        Op::Truncate { inode, chunk } => cx.truncate(*inode, chunk.as_ref()),
    };
    match result {
        Ok(reply) => Ok(Ok(reply)),
        Err(Stop::Refused(error)) => Ok(Err(error)),
        Err(Stop::Cannot(error)) => Err(error),
    }
}

impl Context<'_> {
    /// For changes after the checks: the inode is there.
    fn node_mut(&mut self, inode: Inode) -> Result<&mut Node, CannotApply> {
        self.state
            .nodes
            .get_mut(inode.0)
            .ok_or(CannotApply::Inconsistent("an entry leads to no inode"))
    }

    fn attr_reply(&self, inode: Inode) -> Result<Reply, Stop> {
        Ok(Reply::Attr(self.state.getattr(inode)?))
    }

    fn changed(&mut self, inode: Inode, data: bool) {
        self.effects.push(Effect::InodeChanged { inode, data });
    }
}

fn begin_epoch(state: &mut State, index: u64, command: &Command) -> Result<(), CannotApply> {
    let Command::Epoch {
        cluster,
        at_ns,
        default_goal,
        lease_ms,
        root_mode,
        root_uid,
        root_gid,
    } = command
    else {
        return Err(CannotApply::NoEpoch);
    };
    match state.header.cluster {
        Some(here) if here != *cluster => return Err(CannotApply::OtherCluster { logged: *cluster, here }),
        Some(_) => {}
        None => {
            state.header.cluster = Some(*cluster);
            state.header.last_inode = Inode::ROOT.0;
            state.header.directories = 1;
            let root = Node {
                size: 0,
                generation: 1,
                mtime_set_at: 0,
                atime_ns: *at_ns,
                mtime_ns: *at_ns,
                ctime_ns: *at_ns,
                btime_ns: *at_ns,
                parent: Inode::ROOT,
                name_hash: 0,
                body: Body::Directory(Arc::default()),
                xattrs: None,
                uid: *root_uid,
                gid: *root_gid,
                nlink: 2,
                mode: (*root_mode & 0o7777) as u16,
                goal: 0,
            };
            state.nodes.insert(Inode::ROOT.0, root);
        }
    }
    let header = &mut state.header;
    header.epoch = index;
    header.default_goal = (*default_goal).clamp(1, cairn_types::limits::GOAL_MAX);
    header.lease_ms_longest = header.lease_ms_longest.max(*lease_ms);
    Ok(())
}

fn register_server(
    state: &mut State,
    server: ServerId,
    label: &str,
    address: &str,
    disks: &[DiskId],
) -> Result<(), CannotApply> {
    state.servers.insert(
        server,
        Server {
            label: label.to_owned(),
            address: address.to_owned(),
        },
    );
    for id in disks {
        match state.disk_numbers.get(id) {
            Some(number) => {
                if let Some(disk) = state.disks.get_mut(usize::from(*number)) {
                    disk.server = server;
                }
            }
            None => {
                let number = u16::try_from(state.disks.len())
                    .ok()
                    .filter(|number| *number != crate::chunk::NO_DISK)
                    .ok_or(CannotApply::Inconsistent("more disks than can be numbered"))?;
                state.disks.push(Disk {
                    id: *id,
                    server,
                    in_service: true,
                });
                state.disk_numbers.insert(*id, number);
            }
        }
    }
    Ok(())
}

fn disk_number(state: &State, disk: DiskId) -> Result<u16, CannotApply> {
    state
        .disk_numbers
        .get(&disk)
        .copied()
        .ok_or(CannotApply::UnknownDisk(disk))
}

/// A version is drawn by the master whose epoch record is the latest; one of an earlier epoch is a late order of an
/// earlier master, one of a later epoch can't be.
fn check_version(state: &State, version: Version) -> Result<(), Stop> {
    if version.epoch > state.header.epoch || version.epoch == 0 {
        return Err(CannotApply::ForeignVersion(version).into());
    }
    if version.epoch < state.header.epoch {
        return Err(FsError::StaleVersion.into());
    }
    Ok(())
}
