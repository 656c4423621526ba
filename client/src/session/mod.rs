//! The session with the master: numbered calls over one stream, each applied at most once (promise 1).
//!
//! [`Session::call`] puts a call into the table and waits; the connection task (`stream`) sends what is in the table in
//! the order of its numbers, takes answers out, and after a lost connection opens the stream again under the same
//! session id and sends what has no answer once more, under the same numbers. The client acknowledges the answers it has
//! seen by the number below its oldest call without one. A call whose caller gave up keeps its place until its answer
//! or the end of its connection; it is not sent again.
mod names;
mod pushes;
mod stream;

pub use pushes::Invalidation;

use crate::backoff::Backoff;
use crate::limits::{CALLS_MAX, CLOSED_MAX};
use crate::{Error, Invalidated, Result, Server};
use cairn_io::{Env, inline};
use cairn_proto::common::{self, ErrorCode};
use cairn_proto::session::{Attr, Closed, answer, call::Request};
use cairn_types::{ClusterId, Inode, SessionId};
use names::Names;
use pushes::Pushes;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// What the session asks of the client above it, and tells it.
pub(crate) trait Host: Send + Sync {
    /// Inodes held open, for Hello.
    fn declare(&self) -> Vec<Inode>;
    /// What is cached of it is stale. Takes effect before it returns.
    fn invalidate(&self, what: &Invalidated);
    /// A call of this client took its last name.
    fn nameless(&self, ino: Inode);
    /// The master ended the session: what was not synced may be gone (promise 6).
    fn session_ended(&self);
}

pub(crate) struct SessionConfig {
    pub master: String,
    pub description: String,
    pub host_label: String,
    pub connect_timeout: Duration,
    /// The master is taken for gone when nothing was heard from it for this long.
    pub silence: Duration,
}

/// The end of a session's table that callers hold.
pub(crate) struct Session {
    shared: Arc<Shared>,
    cluster: ClusterId,
    stop: CancellationToken,
    _task: AbortOnDropHandle<()>,
}

struct Shared {
    config: SessionConfig,
    env: Env,
    id: SessionId,
    table: Mutex<Table>,
    /// There is something to send.
    work: Notify,
    slots: Arc<Semaphore>,
    host: OnceLock<Weak<dyn Host>>,
    pushes: Pushes,
    names: Names,
}

/// Invariant: `calls` holds every number below `next` whose answer has not been seen and that may still get one.
struct Table {
    next: u64,
    /// To be said before the next call, or now if there is a `hurry`.
    closed: Closed,
    hurry: bool,
    calls: BTreeMap<u64, Waiting>,
    cluster: Option<ClusterId>,
    /// Why there is no answer at the moment, for the error of those who wait for one.
    cause: String,
    stopped: bool,
}

struct Waiting {
    /// Taken when the caller gave up.
    request: Option<Request>,
    reply: Option<oneshot::Sender<Reply>>,
    /// When it was last sent, on some connection: the master may have applied it.
    sent: Option<Instant>,
    _slot: OwnedSemaphorePermit,
}

struct Answered {
    result: answer::Result,
    /// Of what else the call changed.
    changed: Vec<Attr>,
}

enum Reply {
    Answer(Box<Answered>),
    /// The session ended before the answer came: nobody knows.
    Lost,
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn host(&self) -> Option<Arc<dyn Host>> {
        self.host.get()?.upgrade()
    }
    fn master(&self) -> Server {
        Server::Master(self.config.master.clone())
    }
}

impl Table {
    fn add(&mut self, request: Request, reply: oneshot::Sender<Reply>, slot: OwnedSemaphorePermit) -> u64 {
        let number = self.next;
        self.next += 1;
        let waiting = Waiting {
            request: Some(request),
            reply: Some(reply),
            sent: None,
            _slot: slot,
        };
        self.calls.insert(number, waiting);
        number
    }

    fn take_closed(&mut self) -> Closed {
        self.hurry = false;
        std::mem::take(&mut self.closed)
    }

    /// Every answer up to this number has been seen.
    fn acknowledged(&self) -> u64 {
        self.calls.keys().next().copied().unwrap_or(self.next) - 1
    }
}

impl Session {
    /// # Errors
    /// `NoAnswer` when no session could be opened `within`; `Refused` when the master does not want it.
    pub async fn connect(config: SessionConfig, env: Env, within: Duration) -> Result<Self> {
        let shared = Arc::new(Shared {
            id: SessionId::from_bits(env.rng.bits128()),
            table: Mutex::new(Table {
                next: 1,
                closed: Closed::default(),
                hurry: false,
                calls: BTreeMap::new(),
                cluster: None,
                cause: "no connection yet".into(),
                stopped: false,
            }),
            work: Notify::new(),
            slots: Arc::new(Semaphore::new(CALLS_MAX)),
            host: OnceLock::new(),
            pushes: Pushes::new(),
            names: Names::default(),
            config,
            env,
        });
        let stop = CancellationToken::new();
        let (opened, mut first) = oneshot::channel();
        let task = AbortOnDropHandle::new(inline::spawn(stream::run(shared.clone(), opened, stop.clone())));
        match tokio::time::timeout(within, &mut first).await {
            Ok(Ok(cluster)) => Ok(Self {
                shared,
                cluster: cluster?,
                stop,
                _task: task,
            }),
            Ok(Err(_)) => Err(Error::ShutDown),
            Err(_) => {
                let cause = shared.table().cause.clone();
                Err(Error::NoAnswer {
                    server: shared.master(),
                    within,
                    cause,
                })
            }
        }
    }

    pub fn id(&self) -> SessionId {
        self.shared.id
    }
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }
    /// Whom pushes and the session's end are told to. Once.
    pub fn set_host(&self, host: Weak<dyn Host>) {
        let _ = self.shared.host.set(host);
    }
    /// What is known without asking the master.
    pub fn names(&self) -> &Names {
        &self.shared.names
    }
    pub fn invalidations(&self) -> mpsc::Receiver<Invalidation> {
        self.shared.pushes.take_receiver()
    }

    /// Asks the master. The answer is of the call's own kind or [`Error`]; what is refused for now is asked again.
    ///
    /// # Errors
    /// `NoAnswer` or `MaybeCommitted` after `within`; `Posix`; `Refused`.
    #[allow(clippy::manual_async_fn)] // whose future would hold the request twice
    pub fn call(&self, request: Request, within: Duration) -> impl Future<Output = Result<answer::Result>> + Send {
        async move { self.ask(&request, within).await }
    }

    async fn ask(&self, request: &Request, within: Duration) -> Result<answer::Result> {
        let deadline = Instant::now() + within;
        let logged = is_logged(request);
        let asked = self.shared.names.ask(request);
        let mut backoff = Backoff::new();
        loop {
            let error = match self.attempt(request, deadline).await {
                Attempt::Answer(answer) => match answer.result {
                    answer::Result::Error(error) => error,
                    result => {
                        if let Some(asked) = asked {
                            asked.answered(Ok(&result), &answer.changed);
                            self.nameless(&answer.changed);
                        }
                        return Ok(result);
                    }
                },
                Attempt::Stopped => return Err(Error::ShutDown),
                Attempt::Lost { sent } => {
                    if !sent && let Some(asked) = asked {
                        asked.unsent();
                    }
                    let (server, cause) = (self.shared.master(), self.shared.table().cause.clone());
                    return Err(match logged && sent {
                        true => Error::MaybeCommitted { server, within, cause },
                        false => Error::NoAnswer { server, within, cause },
                    });
                }
            };
            let passing = matches!(error.code(), ErrorCode::ErrorUnavailable | ErrorCode::ErrorSessionEnded);
            let pause = backoff.step(&self.shared.env.rng);
            if !passing || Instant::now() + pause >= deadline {
                if let Some(asked) = asked {
                    asked.answered(Err(&error), &[]);
                }
                return Err(refusal(self.shared.master(), error));
            }
            tokio::time::sleep(pause).await;
        }
    }

    fn nameless(&self, changed: &[Attr]) {
        let mut nameless = changed.iter().filter(|attr| attr.nlink == 0).peekable();
        if nameless.peek().is_some()
            && let Some(host) = self.shared.host()
        {
            nameless.for_each(|attr| host.nameless(Inode(attr.inode)));
        }
    }

    async fn attempt(&self, request: &Request, deadline: Instant) -> Attempt {
        let slots = self.shared.slots.clone();
        let slot = match slots.clone().try_acquire_owned() {
            Ok(slot) => slot,
            Err(_) => match Box::pin(timeout_at(deadline, slots.acquire_owned())).await {
                Ok(Ok(slot)) => slot,
                Ok(Err(_)) => return Attempt::Stopped,
                Err(_) => return Attempt::Lost { sent: false },
            },
        };
        let (reply, answer) = oneshot::channel();
        let number = {
            let mut table = self.shared.table();
            if table.stopped {
                return Attempt::Stopped;
            }
            table.add(request.clone(), reply, slot)
        };
        let ticket = Ticket {
            shared: &self.shared,
            number,
        };
        self.shared.work.notify_one();
        match timeout_at(deadline, answer).await {
            Ok(Ok(Reply::Answer(answer))) => Attempt::Answer(answer),
            Ok(Ok(Reply::Lost)) => Attempt::Lost { sent: true },
            Ok(Err(_)) => Attempt::Stopped,
            Err(_) => Attempt::Lost { sent: ticket.sent() },
        }
    }

    /// The master is told with the next call, or with [`Session::hurry`]: a message of its own would cost more than it says.
    /// `keep`: only that its writes have ended. A call that is made after this comes behind it.
    pub fn closed(&self, ino: Inode, keep: bool) {
        let mut table = self.shared.table();
        let closed = &mut table.closed;
        let list = if keep { &mut closed.kept } else { &mut closed.inodes };
        list.push(ino.0);
        let many = list.len() >= CLOSED_MAX;
        drop(table);
        if many {
            self.hurry();
        }
    }

    /// What waits for the next call goes on its way.
    pub fn hurry(&self) {
        let mut table = self.shared.table();
        if table.closed != Closed::default() {
            table.hurry = true;
            self.shared.work.notify_one();
        }
    }

    /// Ends the stream; every call after this fails. Say goodbye first.
    pub fn stop(&self) {
        {
            let mut table = self.shared.table();
            table.stopped = true;
            table.calls.clear();
        }
        self.shared.slots.close();
        self.stop.cancel();
    }
}

enum Attempt {
    Answer(Box<Answered>),
    Lost { sent: bool },
    Stopped,
}

/// A caller's interest in an answer; it ends when the caller stops waiting, for whatever reason.
struct Ticket<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Ticket<'_> {
    fn sent(&self) -> bool {
        self.shared
            .table()
            .calls
            .get(&self.number)
            .is_some_and(|call| call.sent.is_some())
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut table = self.shared.table();
        if let Some(call) = table.calls.get_mut(&self.number) {
            // the master may be at work on it: its number is not acknowledged before its answer or the stream's end
            call.request = None;
            call.reply = None;
            if call.sent.is_none() {
                table.calls.remove(&self.number);
            }
        }
    }
}

/// Whether it changes the namespace, so that it must not be applied twice.
fn is_logged(request: &Request) -> bool {
    match request {
        Request::Lookup(_)
        | Request::GetAttr(_)
        | Request::ReadDir(_)
        | Request::ReadLink(_)
        | Request::GetXattr(_)
        | Request::ListXattr(_)
        | Request::StatFs(_)
        | Request::Resolve(_)
        | Request::Locate(_)
        | Request::PathOf(_)
        | Request::TrashList(_)
        | Request::Complain(_) => false,
        Request::Open(open) => open.truncate,
        Request::Create(_)
        | Request::Link(_)
        | Request::Unlink(_)
        | Request::Rmdir(_)
        | Request::Rename(_)
        | Request::SetAttr(_)
        | Request::SetXattr(_)
        | Request::RemoveXattr(_)
        | Request::Allocate(_)
        | Request::Commit(_)
        | Request::SetGoal(_)
        | Request::TrashRestore(_)
        | Request::TrashEmpty(_)
        | Request::Goodbye(_) => true,
    }
}

/// A server's typed refusal as the caller's error.
pub(crate) fn refusal(server: Server, error: common::Error) -> Error {
    match error.code() {
        ErrorCode::ErrorPosix => Error::Posix {
            errno: error.errno,
            message: error.message,
        },
        code => Error::Refused {
            server,
            code,
            message: error.message,
        },
    }
}
