//! The one owner of what the master knows.
//!
//! Everything, the replicated [`State`] and all soft state, is one [`World`] behind one mutex that is held for moments
//! and never across an await. The state changes in one place only: the writer task ([`writer`]) appends commands to
//! the operation log, waits until they are durable, and applies them. So whoever looks at the state sees nothing that
//! a crash could take back, and a query is linearizable by reading what is there.
mod effects;
mod world;
pub mod writer;

pub use world::World;

use crate::config::MasterConfig;
use crate::error::Halt;
use crate::limits::COMMANDS_RESERVED;
use crate::session::{Barrier, PendingCall};
use cairn_io::Env;
use cairn_metadata::{Command, Counts, Op, Outcome, State};
use cairn_types::{ChunkHandle, ClusterId, Inode, SessionId, Version};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A command on its way into the log.
pub struct Submission {
    pub command: Command,
    pub then: Then,
}

/// Who waits for the outcome.
pub enum Then {
    Nobody,
    Answer(oneshot::Sender<Applied>),
    /// A client, on its stream.
    Call(PendingCall),
    /// The reconfiguration of this chunk, whose install this is.
    Install {
        handle: ChunkHandle,
        version: Version,
    },
}

/// A command's outcome, and who is to take it in before the client hears of it.
pub struct Applied {
    pub outcome: Outcome,
    pub others: Barrier,
}

pub enum Job {
    Command(Box<Submission>),
    /// Take a checkpoint now; answered with its index.
    Checkpoint(oneshot::Sender<Result<u64, String>>),
    /// Become the cluster of a saved checkpoint, if this one is empty.
    Replace {
        cluster: ClusterId,
        state: Box<State>,
        answer: oneshot::Sender<Result<Counts, String>>,
    },
}

/// The command was not taken: too many wait, or the master has halted or is shutting down. It was not applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    #[error("too many operations wait for the operation log")]
    Busy,
    #[error("the master is stopping")]
    Stopping,
}

/// The master stopped before the command's outcome was known: it may be applied or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the master stopped before the outcome was known")]
pub struct MaybeApplied;

pub struct Core {
    pub env: Env,
    pub config: MasterConfig,
    world: Mutex<World>,
    queue: mpsc::Sender<Job>,
    halt: watch::Sender<Option<Halt>>,
    /// Serving ends.
    pub stop: CancellationToken,
    /// Every task of the master but the writer.
    pub tasks: TaskTracker,
    /// Something for the housekeeper to look at before its next round.
    pub nudge: Notify,
}

impl Core {
    pub fn new(env: Env, config: MasterConfig, world: World, queue: mpsc::Sender<Job>) -> Arc<Self> {
        Arc::new(Self {
            env,
            config,
            world: Mutex::new(world),
            queue,
            halt: watch::Sender::new(None),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            nudge: Notify::new(),
        })
    }

    /// Never held across an await.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn cluster(&self) -> ClusterId {
        self.world().cluster
    }

    /// Since the machine started.
    pub fn now(&self) -> Duration {
        self.env.clock.now().0
    }

    /// As [`Core::take_then`], for who waits for the outcome.
    pub fn take(&self, command: Command) -> Result<oneshot::Receiver<Applied>, NotTaken> {
        let (answer, outcome) = oneshot::channel();
        self.take_then(command, Then::Answer(answer))?;
        Ok(outcome)
    }

    /// Takes a client's command, in the order of calls, or refuses it when too many wait.
    pub fn take_then(&self, command: Command, then: Then) -> Result<(), NotTaken> {
        if self.queue.capacity() < COMMANDS_RESERVED {
            return Err(NotTaken::Busy);
        }
        self.push(command, then)
    }

    /// Takes a command of the master's own.
    pub fn push(&self, command: Command, then: Then) -> Result<(), NotTaken> {
        self.queue
            .try_send(Job::Command(Box::new(Submission { command, then })))
            .map_err(|e| match e {
                mpsc::error::TrySendError::Full(_) => NotTaken::Busy,
                mpsc::error::TrySendError::Closed(_) => NotTaken::Stopping,
            })
    }

    pub async fn submit(&self, command: Command) -> Result<Outcome, Unanswered> {
        Ok(self.take(command)?.await.map_err(|_| MaybeApplied)?.outcome)
    }

    pub async fn checkpoint(&self) -> Result<u64, String> {
        let (answer, done) = oneshot::channel();
        self.queue
            .send(Job::Checkpoint(answer))
            .await
            .map_err(|_| NotTaken::Stopping.to_string())?;
        done.await.map_err(|_| MaybeApplied.to_string())?
    }

    /// Becomes the cluster that `state` is of. Only an empty master that no chunkserver has registered at does.
    pub async fn replace(&self, cluster: ClusterId, state: State) -> Result<Counts, String> {
        let (answer, done) = oneshot::channel();
        let job = Job::Replace {
            cluster,
            state: Box::new(state),
            answer,
        };
        self.queue.send(job).await.map_err(|_| NotTaken::Stopping.to_string())?;
        done.await.map_err(|_| MaybeApplied.to_string())?
    }

    /// The master can't go on: nothing is acknowledged from here.
    pub fn halt(&self, why: Halt) {
        tracing::error!(error = %why, "the master has stopped; it must be started again once the cause is mended");
        self.halt.send_if_modified(|halt| {
            let first = halt.is_none();
            halt.get_or_insert(why);
            first
        });
        self.stop.cancel();
    }

    pub fn halted(&self) -> watch::Receiver<Option<Halt>> {
        self.halt.subscribe()
    }

    /// The operation that removes these from the trash.
    pub fn purge(&self, world: &World, inodes: Vec<Inode>) -> Op {
        let settled = world.orphans_settled(&self.config, self.now());
        let keep_open = inodes
            .iter()
            .copied()
            .filter(|i| !settled || world.sessions.is_open(*i))
            .collect();
        Op::TrashPurge { inodes, keep_open }
    }

    pub fn end_session(&self, session: SessionId) -> Result<(), NotTaken> {
        self.push(Command::EndSession { session }, Then::Nobody)
    }
}

/// Why a submitted command has no outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    #[error(transparent)]
    NotTaken(#[from] NotTaken),
    #[error(transparent)]
    MaybeApplied(#[from] MaybeApplied),
}
