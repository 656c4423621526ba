//! Calls that change something: what each becomes in the log, and what its outcome is to the client.
//!
//! A call is put into the writer's queue by the task that reads the session's stream, so that calls take effect in the
//! order in which they came, and the writer answers them as it applies them. Those that have to wait, for chunkservers
//! (see `cut.rs`) or for other clients, leave that order, each a task of its own.
use super::cut::{self, Step};
use super::queries;
use super::table::{Barrier, Connection, Session};
use super::wire::{self as convert, Refusal, shown, shown_inode};
use crate::core::{Applied, Core, Then, Unanswered, World};
use crate::limits::PURGE_BATCH;
use bytes::Bytes;
use cairn_metadata as meta;
use cairn_metadata::{Command, Existing, FsError, IndexedGrant, Op, Outcome, RemovedAs, RenameMode, Reply, XattrMode};
use cairn_proto::session::answer::Result as Answer;
use cairn_proto::session::call::Request;
use cairn_proto::session::{
    self as wire, Answer as AnswerMessage, Call, Created, Done, FromMaster, Locations, from_master,
};
use cairn_types::limits::{LOCATE_CHUNKS_MAX, PUSH_PATIENCE, SESSION_CALLS_MAX};
use cairn_types::{ChunkHandle, Inode, Sequence, SessionId};
use std::sync::Arc;

/// An open tells where so many of the file's first chunks are.
const OPEN_CHUNKS: u32 = 2;

/// Whose call, and which.
#[derive(Clone, Copy)]
pub struct CallId {
    pub session: SessionId,
    pub sequence: Sequence,
    pub acknowledged: Sequence,
}

impl CallId {
    pub fn command(self, core: &Core, op: Op) -> Command {
        let Self {
            session,
            sequence,
            acknowledged,
        } = self;
        Command::Call {
            session,
            sequence,
            acknowledged,
            at_ns: core.env.clock.wall(),
            op,
        }
    }
}

/// `changed`: by the call; what there is to say of it comes with the answer.
fn answer(world: &World, id: CallId, result: Result<Answer, Refusal>, changed: &[Inode]) -> FromMaster {
    let result = result.unwrap_or_else(|refusal| Answer::Error(refusal.to_wire()));
    let said = match &result {
        Answer::Attr(attr) => attr.inode,
        _ => 0,
    };
    let changed = changed.iter().filter(|inode| inode.0 != said);
    let changed = changed.filter_map(|inode| world.state.getattr(*inode).ok());
    let answer = AnswerMessage {
        sequence: id.sequence.0,
        behind: world.sessions.get(id.session).is_none_or(Session::is_behind),
        changed: changed.map(|attr| convert::attr(&world.state, attr)).collect(),
        result: Some(result),
    };
    FromMaster {
        body: Some(from_master::Body::Answer(answer)),
    }
}

/// What becomes of a call at once.
enum Next {
    Answered(Box<Result<Answer, Refusal>>),
    /// As this command, by the writer.
    Logged(Command),
    /// It has to wait for others before it can be logged.
    Waits,
}

impl Next {
    fn answered(result: Result<Answer, Refusal>) -> Self {
        Next::Answered(Box::new(result))
    }
}

/// Does a call. The answer goes to `connection`: now, or when it is there.
pub fn call(core: &Arc<Core>, session: SessionId, connection: &Connection, call: Call) -> Option<FromMaster> {
    let id = CallId {
        session,
        sequence: Sequence(call.sequence),
        acknowledged: Sequence(call.acknowledged),
    };
    let Some(request) = call.request else {
        let refusal = Refusal::Invalid("a call without a request, or of a newer version".into());
        return Some(answer(&core.world(), id, Err(refusal), &[]));
    };
    let mut world = core.world();
    let world = &mut *world;
    world.sessions.acknowledged(session, id.acknowledged);
    let next = match world.sessions.get_mut(session) {
        Some(known) if known.ending => Next::answered(Err(Refusal::SessionEnded)),
        None => Next::answered(Err(Refusal::SessionEnded)),
        Some(known) if known.calls >= SESSION_CALLS_MAX => Next::answered(Err(Refusal::Unavailable(
            "too many calls of this session are under way".into(),
        ))),
        Some(_) => match queries::answer(world, session, &request) {
            Some(result) => Next::answered(result),
            None => begin(core, world, id, &request),
        },
    };
    let pending = || PendingCall {
        id,
        request,
        connection: connection.clone(),
    };
    match next {
        Next::Answered(result) => return Some(answer(world, id, *result, &[])),
        Next::Logged(command) => {
            if let Err(e) = core.take_then(command, Then::Call(pending())) {
                return Some(answer(world, id, Err(e.into()), &[]));
            }
        }
        Next::Waits => pending().wait(core, None),
    }
    world.sessions.call_begins(session);
    None
}

/// A call that is not answered at once.
pub struct PendingCall {
    id: CallId,
    request: Request,
    connection: Connection,
}

impl PendingCall {
    /// Counts what it has opened, as it is applied: what follows in the log finds that open.
    pub fn opened(&self, world: &mut World, outcome: &Outcome) {
        if opens(&self.request)
            && let Ok(Reply::Created { attr, .. } | Reply::Chunks { attr, .. }) = &outcome.result
        {
            world.sessions.opened(self.id.session, self.id.sequence, attr.inode);
        }
    }

    /// With what it came to in the log; when others have taken that in, if they have to.
    pub fn answer(self, core: &Arc<Core>, world: &mut World, applied: Applied) {
        let Applied { outcome, others } = applied;
        let again = matches!(outcome.result, Err(FsError::CutNeeded | FsError::Retry));
        if again || !others.is_empty() {
            return self.wait(core, Some(Applied { outcome, others }));
        }
        let changed = outcome.changed_inodes();
        let result = completed(core, world, self.id, &self.request, outcome.result);
        let answer = answer(world, self.id, result, &changed);
        world.sessions.call_ends(self.id.session);
        if self.connection.out.try_send(Ok(answer)).is_err() {
            // it has gone, or has not read what all the calls that it may have under way came to
            self.connection.give_up("answers are not read");
        }
    }

    /// A task of its own for what has to wait.
    fn wait(self, core: &Arc<Core>, applied: Option<Applied>) {
        let (core, tasks) = (core.clone(), core.tasks.clone());
        tasks.spawn(async move {
            let Self {
                id,
                request,
                connection,
            } = self;
            let mut changed = Vec::new();
            let finish = async {
                match applied {
                    Some(applied) => Box::pin(finish(&core, id, &request, applied, &mut changed)).await,
                    None => Box::pin(wait(&core, id, &request)).await,
                }
            };
            let result = tokio::time::timeout(core.config.call_patience(), finish).await;
            let result = result.unwrap_or_else(|_| Err(crate::core::MaybeApplied.into()));
            let answer = {
                let mut world = core.world();
                world.sessions.call_ends(id.session);
                if let Err(Refusal::Unanswered(Unanswered::MaybeApplied(why))) = result {
                    // an answer would be a lie either way
                    connection.give_up(&why.to_string());
                    return;
                }
                answer(&world, id, result, &changed)
            };
            // a client that has gone asks again on its next stream
            let _ = connection.out.send(Ok(answer)).await;
        });
    }
}

/// What a client says that it has closed.
pub fn closed(core: &Core, id: SessionId, closed: &wire::Closed) {
    let mut world = core.world();
    for inode in closed.inodes.iter().copied().map(Inode) {
        if world.sessions.closed(id, inode)
            && world.state.getattr(inode).is_ok_and(|attr| attr.nlink == 0)
            && !world.state.is_trashed(inode)
        {
            world.closed_orphans.insert(inode);
        }
    }
    for inode in closed.kept.iter().copied().map(Inode) {
        world.sessions.wrote(id, inode);
    }
    world.written(core.now());
}

fn begin(core: &Arc<Core>, world: &mut World, id: CallId, request: &Request) -> Next {
    match request {
        Request::Open(open) if !open.truncate => {
            if world.sessions.get(id.session).is_some_and(Session::is_full) {
                return Next::answered(Err(Refusal::TooManyOpen));
            }
            return Next::answered(opened(world, id, Inode(open.inode)));
        }
        Request::Complain(_) | Request::TrashEmpty(_) => return Next::Waits,
        Request::Goodbye(_) => {
            if let Some(session) = world.sessions.get_mut(id.session) {
                session.ending = true;
            }
            world.sessions.wrote_all(id.session);
            let command = Command::EndSession { session: id.session };
            return Next::Logged(command);
        }
        _ => {}
    }
    if let Some(result) = world.state.remembered(id.session, id.sequence) {
        return Next::answered(completed(core, world, id, request, result));
    }
    if opens(request) && world.sessions.get(id.session).is_some_and(Session::is_full) {
        return Next::answered(Err(Refusal::TooManyOpen));
    }
    match operation(core, world, id, request) {
        Ok(Step::Log(op)) => Next::Logged(id.command(core, op)),
        Ok(Step::Cut { .. }) => Next::Waits,
        Err(Early::Refused(refusal)) => Next::answered(Err(refusal)),
        Err(Early::Answer(answer)) => Next::answered(Ok(*answer)),
    }
}

fn opens(request: &Request) -> bool {
    matches!(request, Request::Create(c) if c.open) || matches!(request, Request::Open(_))
}

async fn finish(
    core: &Arc<Core>,
    id: CallId,
    request: &Request,
    applied: Applied,
    changed: &mut Vec<Inode>,
) -> Result<Answer, Refusal> {
    let Applied { outcome, others } = applied;
    others_take_in(core, others).await;
    changed.extend(outcome.changed_inodes());
    match outcome.result {
        Err(FsError::CutNeeded | FsError::Retry) => wait(core, id, request).await,
        result => completed(core, &mut core.world(), id, request, result),
    }
}

async fn wait(core: &Arc<Core>, id: CallId, request: &Request) -> Result<Answer, Refusal> {
    match request {
        Request::Complain(complaint) => cut::complain(core, id, complaint).await,
        Request::TrashEmpty(empty) => empty_trash(core, id, empty).await,
        _ => {
            let result = cut::cut_and_log(core, id, |world| match operation(core, world, id, request) {
                Ok(step) => Ok(step),
                Err(Early::Refused(refusal)) => Err(refusal),
                // only an allocation is answered early, and it never waits
                Err(Early::Answer(_)) => Err(Refusal::Unavailable("the file is changing".into())),
            });
            let result = result.await?;
            completed(core, &mut core.world(), id, request, result)
        }
    }
}

/// Until the other clients that had seen what changed have forgotten it.
pub async fn others_take_in(core: &Core, others: Barrier) {
    if !others.is_empty() {
        for laggard in others.pass(PUSH_PATIENCE).await {
            tracing::debug!(session = %laggard, "a client does not confirm what it is told; it is not waited for");
            core.world().sessions.lags(laggard);
        }
    }
}

fn opened(world: &mut World, id: CallId, inode: Inode) -> Result<Answer, Refusal> {
    let attr = world
        .state
        .getattr(inode)
        .map_err(Refusal::fs(format!("inode {inode}")))?;
    if world.releasing.contains(&inode) {
        return Err(Refusal::fs(format!("inode {inode}"))(FsError::NoSuchInode));
    }
    world.sessions.opened(id.session, id.sequence, inode);
    world.sessions.seen(id.session, [inode]);
    world.closed_orphans.remove(&inode);
    let chunks = match attr.kind {
        meta::Kind::Regular => world
            .state
            .locate(inode, 0, OPEN_CHUNKS)
            .map_or(Vec::new(), |(_, chunks)| chunks),
        _ => Vec::new(),
    };
    Ok(opened_answer(world, attr, &chunks))
}

fn opened_answer(world: &World, attr: meta::Attr, chunks: &[meta::ChunkInfo]) -> Answer {
    Answer::Opened(wire::Opened {
        chunks: chunks.iter().map(|c| world.location(c)).collect(),
        name: world.state.name_of(attr.inode).unwrap_or_default().into(),
        attr: Some(convert::attr(&world.state, attr)),
    })
}

/// A call that is not logged after all.
enum Early {
    Refused(Refusal),
    Answer(Box<Answer>),
}

impl<T: Into<Refusal>> From<T> for Early {
    fn from(refusal: T) -> Self {
        Early::Refused(refusal.into())
    }
}

/// The call as an operation for the log.
fn operation(core: &Core, world: &mut World, id: CallId, request: &Request) -> Result<Step, Early> {
    Ok(Step::Log(match request {
        Request::Create(create) => create_op(core, world, id, create)?,
        Request::Link(l) => Op::Link {
            inode: Inode(l.inode),
            parent: Inode(l.parent),
            name: l.name.to_vec(),
        },
        Request::Unlink(u) => {
            let (parent, name) = (Inode(u.parent), u.name.to_vec());
            let removed = removed_as(core, world, parent, &name);
            Op::Unlink { parent, name, removed }
        }
        Request::Rmdir(r) => {
            let (parent, name) = (Inode(r.parent), r.name.to_vec());
            let removed = removed_as(core, world, parent, &name);
            Op::Rmdir { parent, name, removed }
        }
        Request::Rename(r) => {
            let mode = match (r.exchange, r.no_replace) {
                (true, true) => {
                    return Err(Refusal::Invalid("exchange and no_replace exclude each other".into()).into());
                }
                (true, false) => RenameMode::Exchange,
                (false, true) => RenameMode::NoReplace,
                (false, false) => RenameMode::Replace,
            };
            let (new_parent, new_name) = (Inode(r.new_parent), r.new_name.to_vec());
            let removed = removed_as(core, world, new_parent, &new_name);
            let (parent, name) = (Inode(r.parent), r.name.to_vec());
            Op::Rename(meta::Rename {
                parent,
                name,
                new_parent,
                new_name,
                mode,
                removed,
            })
        }
        Request::Open(open) => {
            let inode = Inode(open.inode);
            let goal = world.state.getattr(inode).map(|attr| attr.goal);
            let near = near(world, id.session);
            // without servers the file is cut all the same: its first write will tell
            let chunk = goal.ok().and_then(|goal| core.grant(world, goal, &near).ok());
            Op::Truncate { inode, chunk }
        }
        Request::SetAttr(s) => {
            let inode = Inode(s.inode);
            let set = convert::set_attr(s);
            if let Some((handle, length)) = s.size.and_then(|size| world.state.cut_needed(inode, size)) {
                return Ok(Step::Cut { handle, length, set });
            }
            Op::SetAttr { inode, set }
        }
        Request::SetXattr(s) => {
            let mode = match (s.create, s.replace) {
                (true, true) => return Err(Refusal::Invalid("create and replace exclude each other".into()).into()),
                (true, false) => XattrMode::Create,
                (false, true) => XattrMode::Replace,
                (false, false) => XattrMode::Set,
            };
            Op::SetXattr {
                inode: Inode(s.inode),
                name: s.name.to_vec(),
                value: s.value.to_vec(),
                mode,
            }
        }
        Request::RemoveXattr(r) => Op::RemoveXattr {
            inode: Inode(r.inode),
            name: r.name.to_vec(),
        },
        Request::Allocate(a) => allocate_op(core, world, id, a)?,
        Request::Commit(c) => {
            let chunks = c.chunks.iter().map(|w| {
                let version = cairn_proto::required(w.version, "version")?.into();
                Ok(meta::Written {
                    index: w.index,
                    handle: ChunkHandle(w.handle),
                    version,
                })
            });
            let chunks = chunks.collect::<Result<_, Refusal>>()?;
            let (inode, size, written) = (Inode(c.inode), c.size, c.written);
            Op::Commit {
                inode,
                size,
                chunks,
                written,
                generation_seen: c.generation_seen,
                kill_suid: c.kill_suid,
            }
        }
        Request::SetGoal(g) => Op::SetGoal {
            inode: Inode(g.inode),
            goal: convert::goal_of(g.goal)?,
        },
        Request::TrashRestore(t) => {
            let inode = Inode(t.inode);
            let to = match (t.parent, &t.name) {
                (Some(parent), Some(name)) => Some((Inode(parent), name.to_vec())),
                (None, None) => None,
                _ => return Err(Refusal::Invalid("a place to restore to needs a directory and a name".into()).into()),
            };
            Op::TrashRestore { inode, to }
        }
        _ => return Err(Refusal::Invalid("not a call that is logged".into()).into()),
    }))
}

/// What a file becomes whose last name goes. Regular files without a trash become orphans even if nobody has them
/// open: an open may be on its way.
fn removed_as(core: &Core, world: &World, parent: Inode, name: &[u8]) -> RemovedAs {
    let settled = world.orphans_settled(&core.config, core.now());
    let closed = world.state.lookup(parent, name).ok();
    let closed = closed.filter(|a| settled && a.kind != meta::Kind::Regular && !world.sessions.is_open(a.inode));
    RemovedAs {
        trash_keep_ns: core.config.trash_keep_ns(),
        closed: closed.map(|a| a.inode),
    }
}

fn create_op(core: &Core, world: &mut World, id: CallId, create: &wire::Create) -> Result<Op, Early> {
    let kind = convert::kind_of(create.kind())?;
    let parent = Inode(create.parent);
    let goal = convert::goal_of(create.goal)?;
    let existing = match (create.open_existing, create.truncate) {
        (false, _) => Existing::Refuse,
        (true, false) => Existing::Open,
        (true, true) => Existing::OpenTruncated,
    };
    let wants_chunk = create.allocate && kind == meta::Kind::Regular;
    let chunk = if wants_chunk && matches!(world.state.lookup(parent, &create.name), Err(FsError::NotFound)) {
        let goal = match goal {
            0 => world.state.getattr(parent).map_or(1, |attr| attr.goal),
            goal => goal,
        };
        let near = near(world, id.session);
        // without servers the file is created all the same: its first write will tell
        core.grant(world, goal, &near).ok()
    } else {
        None
    };
    Ok(Op::Create(meta::Create {
        parent,
        name: create.name.to_vec(),
        kind,
        mode: create.mode,
        uid: create.uid,
        gid: create.gid,
        rdev: create.rdev,
        target: create.target.to_vec(),
        goal,
        existing,
        chunk,
    }))
}

fn near(world: &World, session: SessionId) -> String {
    world.sessions.get(session).map_or_else(String::new, |s| s.host.clone())
}

fn allocate_op(core: &Core, world: &mut World, id: CallId, allocate: &wire::Allocate) -> Result<Op, Early> {
    let inode = Inode(allocate.inode);
    let count = allocate.count;
    if count == 0 || count > LOCATE_CHUNKS_MAX as u32 || allocate.first.checked_add(count).is_none() {
        return Err(Refusal::Invalid(format!("{count} chunks from {} cannot be allocated", allocate.first)).into());
    }
    let located = world.state.locate(inode, allocate.first, count);
    let (attr, chunks) = located.map_err(|e| Refusal::fs(shown_inode(&world.state, inode))(e))?;
    if chunks.len() == count as usize {
        world
            .sessions
            .writes(id.session, inode, chunks.iter().map(|c| c.handle));
        let chunks = chunks.iter().map(|c| world.location(c)).collect();
        let locations = Locations {
            chunks,
            attr: Some(convert::attr(&world.state, attr)),
        };
        return Err(Early::Answer(Box::new(Answer::Locations(locations))));
    }
    let near = near(world, id.session);
    let mut grants = Vec::with_capacity(count as usize);
    for index in allocate.first..allocate.first + count {
        // also for those that exist: they may be gone when this is applied
        grants.push(IndexedGrant {
            index,
            grant: core.grant(world, attr.goal, &near)?,
        });
    }
    Ok(Op::Allocate { inode, grants })
}

/// The session is about to write these chunks; those that no commit has named yet are new.
fn writes<'a>(core: &Core, world: &mut World, id: CallId, chunks: impl Iterator<Item = &'a meta::ChunkInfo>) {
    for chunk in chunks {
        match chunk.granted && !chunk.committed {
            true => world
                .sessions
                .creates(id.session, chunk.inode, chunk.handle, core.now()),
            false => world.sessions.writes(id.session, chunk.inode, [chunk.handle]),
        }
    }
}

/// What the outcome is to the client, and what it means for the session.
fn completed(
    core: &Core,
    world: &mut World,
    id: CallId,
    request: &Request,
    result: Result<Reply, FsError>,
) -> Result<Answer, Refusal> {
    let reply = result.map_err(|e| Refusal::fs(describe(world, request))(e))?;
    Ok(match reply {
        Reply::Done => Answer::Done(Done {}),
        Reply::Attr(attr) => {
            world.sessions.seen(id.session, [attr.inode]);
            Answer::Attr(convert::attr(&world.state, attr))
        }
        Reply::Created { attr, existed, chunk } => {
            world.sessions.seen(id.session, [attr.inode]);
            if let Request::Create(create) = request {
                world.sessions.seen(id.session, [Inode(create.parent)]);
                if create.open {
                    world.sessions.opened(id.session, id.sequence, attr.inode);
                }
            }
            writes(core, world, id, chunk.iter());
            // a call that is repeated gets the chunk as it is now
            let chunk = chunk.map(|c| world.state.chunk(c.handle).unwrap_or(c));
            let chunk = chunk.map(|c| world.location(&c));
            Answer::Created(Created {
                attr: Some(convert::attr(&world.state, attr)),
                existed,
                chunk,
            })
        }
        Reply::Chunks { attr, chunks } => {
            writes(core, world, id, chunks.iter());
            let chunks = chunks.into_iter().map(|c| world.state.chunk(c.handle).unwrap_or(c));
            if matches!(request, Request::Open(_)) {
                world.sessions.seen(id.session, [attr.inode]);
                world.sessions.opened(id.session, id.sequence, attr.inode);
                return Ok(opened_answer(world, attr, &chunks.collect::<Vec<_>>()));
            }
            let chunks = chunks.map(|c| world.location(&c)).collect();
            Answer::Locations(Locations {
                chunks,
                attr: Some(convert::attr(&world.state, attr)),
            })
        }
        Reply::Chunk(chunk) => {
            let chunks = vec![world.location(&chunk)];
            Answer::Locations(Locations { chunks, attr: None })
        }
        Reply::Purged { count, bytes } => Answer::TrashEmptied(wire::TrashEmptied { count, bytes }),
    })
}

/// What was asked for, with names, for the sentence of an error.
fn describe(world: &World, request: &Request) -> String {
    let state = &world.state;
    let entry = |parent: u64, name: &Bytes| shown(state, Inode(parent), name);
    let inode = |inode: u64| shown_inode(state, Inode(inode));
    match request {
        Request::Create(c) => format!("create {}", entry(c.parent, &c.name)),
        Request::Link(l) => format!("link {} to {}", entry(l.parent, &l.name), inode(l.inode)),
        Request::Unlink(u) => format!("remove {}", entry(u.parent, &u.name)),
        Request::Rmdir(r) => format!("remove directory {}", entry(r.parent, &r.name)),
        Request::Rename(r) => format!(
            "rename {} to {}",
            entry(r.parent, &r.name),
            entry(r.new_parent, &r.new_name)
        ),
        Request::Open(o) => format!("open {}", inode(o.inode)),
        Request::SetAttr(s) => format!("set attributes of {}", inode(s.inode)),
        Request::SetXattr(s) => format!("set {} of {}", String::from_utf8_lossy(&s.name), inode(s.inode)),
        Request::RemoveXattr(r) => format!("remove {} of {}", String::from_utf8_lossy(&r.name), inode(r.inode)),
        Request::Allocate(a) => format!("allocate chunk {} of {}", a.first, inode(a.inode)),
        Request::Commit(c) => format!("commit {}", inode(c.inode)),
        Request::SetGoal(g) => format!("set goal {} of {}", g.goal, inode(g.inode)),
        Request::TrashRestore(t) => format!("restore {}", inode(t.inode)),
        _ => "call".into(),
    }
}

/// In batches: a large trash does not stop everybody else.
async fn empty_trash(core: &Arc<Core>, id: CallId, empty: &wire::TrashEmpty) -> Result<Answer, Refusal> {
    let (mut count, mut bytes) = (0, 0);
    let mut named = empty.inodes.iter().map(|i| Inode(*i)).collect::<Vec<_>>().into_iter();
    let mut after = Inode(0);
    loop {
        let (op, last) = {
            let world = core.world();
            let inodes: Vec<Inode> = if empty.inodes.is_empty() {
                world
                    .state
                    .trash_list(after, PURGE_BATCH)
                    .entries
                    .iter()
                    .map(|t| t.inode)
                    .collect()
            } else {
                named.by_ref().take(PURGE_BATCH).collect()
            };
            let last = inodes.len() < PURGE_BATCH;
            after = inodes.last().copied().unwrap_or(after);
            (core.purge(&world, inodes), last)
        };
        let outcome = core
            .take(id_less_last(core, id, op, last))?
            .await
            .map_err(|_| crate::core::MaybeApplied)?;
        match outcome.outcome.result {
            Ok(Reply::Purged { count: c, bytes: b }) => (count, bytes) = (count + c, bytes + b),
            Ok(_) => {}
            Err(e) => return Err(Refusal::fs("empty the trash")(e)),
        }
        if last {
            return Ok(Answer::TrashEmptied(wire::TrashEmptied { count, bytes }));
        }
    }
}

/// Only the last batch is remembered as the call's: sent again, the call begins with what is left.
fn id_less_last(core: &Core, id: CallId, op: Op, last: bool) -> Command {
    if last {
        id.command(core, op)
    } else {
        Command::Internal {
            at_ns: core.env.clock.wall(),
            op,
        }
    }
}
