//! The writer: the only task that appends to the operation log and applies commands.
//!
//! Group commit: whatever has queued up while the last batch was being made durable is the next batch, one write and
//! one fdatasync. Checkpoints are encoded from a clone of the state (which shares its pages: milliseconds at millions
//! of files) by another task, while operations go on.
use super::{Applied, Core, Job, Submission, Then, World};
use crate::checkpoint::{self, CheckpointError};
use crate::data_dir;
use crate::error::{Halt, StartError};
use crate::limits::{BATCH_BYTES_MAX, BATCH_COMMANDS_MAX};
use crate::log::Log;
use crate::master::begin_epoch;
use crate::session::Barrier;
use bytes::Bytes;
use cairn_io::Disk;
use cairn_metadata::{Command, Counts, State};
use cairn_types::ClusterId;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

pub struct Writer {
    pub core: Arc<Core>,
    pub log: Box<dyn Log>,
    pub disk: Arc<dyn Disk>,
    pub queue: mpsc::Receiver<Job>,
    /// Bytes logged since the last checkpoint.
    pub log_bytes: u64,
    /// Index of the last checkpoint.
    pub checkpoint: u64,
}

type Saved = (u64, Result<u64, CheckpointError>);
type Waiters = Vec<oneshot::Sender<Result<u64, String>>>;

impl Writer {
    /// Until [`Core::stop`] is cancelled; then takes what has queued, and a last checkpoint.
    pub async fn run(mut self) {
        let mut saving: JoinSet<Saved> = JoinSet::new();
        let mut waiters: Waiters = Vec::new();
        let mut jobs = Vec::with_capacity(BATCH_COMMANDS_MAX);
        let core = self.core.clone();
        let mut stop = std::pin::pin!(core.stop.cancelled());
        loop {
            let got = tokio::select! {
                biased;
                Some(saved) = saving.join_next(), if !saving.is_empty() => {
                    if !self.saved(saved, &mut waiters).await {
                        return;
                    }
                    continue;
                }
                got = self.queue.recv_many(&mut jobs, BATCH_COMMANDS_MAX) => got,
                () = &mut stop, if !self.queue.is_closed() => {
                    self.queue.close();
                    continue;
                }
            };
            if got == 0 {
                break;
            }
            let mut wanted = Vec::new();
            let mut replacement = None;
            let mut batch = Vec::with_capacity(jobs.len());
            for job in jobs.drain(..) {
                match job {
                    Job::Command(submission) => batch.push(*submission),
                    Job::Checkpoint(answer) => wanted.push(answer),
                    Job::Replace { cluster, state, answer } => replacement = Some((cluster, state, answer)),
                }
            }
            if let Err(halt) = self.batch(batch).await {
                self.core.halt(halt);
                return;
            }
            if let Some((cluster, state, answer)) = replacement {
                while saving.join_next().await.is_some() {}
                match self.replace(cluster, *state).await {
                    Ok(result) => drop(answer.send(result)),
                    Err(halt) => {
                        self.core.halt(halt);
                        return;
                    }
                }
            }
            let due = self.log_bytes >= self.core.config.checkpoint_log_bytes;
            if (due || !wanted.is_empty()) && saving.is_empty() {
                self.save(&mut saving);
                waiters.extend(wanted);
            } else if !wanted.is_empty() {
                // one is being taken: it is of an earlier index, but as good for whoever asks at the same time
                waiters.extend(wanted);
            }
        }
        while let Some(saved) = saving.join_next().await {
            if !self.saved(saved, &mut waiters).await {
                return;
            }
        }
        // a failed master has nothing to say of its state
        if self.core.halted().borrow().is_none() && self.log_bytes > 0 {
            self.save(&mut saving);
            while let Some(saved) = saving.join_next().await {
                self.saved(saved, &mut waiters).await;
            }
        }
    }

    /// Logs, applies, answers.
    async fn batch(&mut self, submissions: Vec<Submission>) -> Result<(), Halt> {
        let mut submissions = submissions.into_iter().peekable();
        while submissions.peek().is_some() {
            let (mut records, mut batch, mut bytes) = (Vec::new(), Vec::new(), 0);
            while bytes < BATCH_BYTES_MAX {
                let Some(submission) = submissions.next() else { break };
                let record = postcard::to_allocvec(&submission.command).map_err(|e| Halt::Log(e.to_string()))?;
                bytes += record.len();
                records.push(Bytes::from(record));
                batch.push(submission);
            }
            let first = self.log.durable() + 1;
            self.core.world().appending = Some(self.core.now());
            self.log.append(records).await.map_err(|e| Halt::Log(e.to_string()))?;
            self.log_bytes += bytes as u64;
            self.core.applied(first, batch)?;
        }
        Ok(())
    }

    /// `Err` inside: refused, and nothing has changed.
    async fn replace(&mut self, cluster: ClusterId, state: State) -> Result<Result<Counts, String>, Halt> {
        {
            let world = self.core.world();
            let counts = world.state.counts();
            let files = counts.regular_files + counts.other_files + counts.trash_files + counts.directories - 1;
            if files > 0 || counts.chunks > 0 {
                return Ok(Err(format!(
                    "this master is not empty: it has {files} files and directories"
                )));
            }
            if world.servers.len() > 0 {
                return Ok(Err("chunkservers have registered at this master already".into()));
            }
        }
        let failed = |e: StartError| Halt::Log(format!("a checkpoint could not be loaded: {e}"));
        let (config, env) = (&self.core.config, &self.core.env);
        let loaded = data_dir::found_from(&self.disk, cluster, state, env.blocking, config.log_segment_bytes).await;
        let mut loaded = loaded.map_err(failed)?;
        begin_epoch(config, env, &mut loaded).await.map_err(failed)?;
        let disk = self.disk.clone();
        env.blocking
            .run(move || data_dir::stamp(&*disk, cluster))
            .await
            .map_err(failed)?;
        self.log = Box::new(loaded.log);
        (self.log_bytes, self.checkpoint) = (loaded.log_bytes, loaded.checkpoint);
        let counts = loaded.state.counts();
        let mut world = self.core.world();
        world.sessions.end_all();
        *world = World::new(loaded.state, cluster, config, loaded.checkpoint, self.core.now());
        tracing::warn!(%cluster, "a saved checkpoint has been loaded: this master is of its cluster now");
        Ok(Ok(counts))
    }

    fn save(&mut self, saving: &mut JoinSet<Saved>) {
        let (state, cluster): (State, _) = {
            let world = self.core.world();
            (world.state.clone(), world.cluster)
        };
        self.log_bytes = 0;
        let (disk, blocking) = (self.disk.clone(), self.core.env.blocking);
        saving.spawn(async move {
            let index = state.applied();
            (
                index,
                blocking
                    .run(move || checkpoint::save(&*disk, cluster, index, &state))
                    .await,
            )
        });
    }

    /// False: the log failed, and the master is halted.
    async fn saved(&mut self, saved: Result<Saved, tokio::task::JoinError>, waiters: &mut Waiters) -> bool {
        let (result, dropped) = match saved {
            Ok((index, Ok(before))) => (Ok(index), before),
            Ok((_, Err(e))) => (Err(e.to_string()), 0),
            Err(e) => (Err(e.to_string()), 0),
        };
        match &result {
            Ok(index) => {
                tracing::info!(index, "checkpoint taken");
                self.checkpoint = *index;
                self.core.world().checkpoint = *index;
            }
            // the log has everything still: an operator must look, but nothing is lost
            Err(error) => tracing::error!(
                error,
                "no checkpoint could be taken; the operation log grows until one can"
            ),
        }
        for waiter in waiters.drain(..) {
            // whoever has gone does not want to know
            let _ = waiter.send(result.clone());
        }
        if dropped > 0
            && let Err(e) = self.log.drop_prefix(dropped).await
        {
            self.core.halt(Halt::Log(e.to_string()));
            return false;
        }
        true
    }
}

impl Core {
    /// Applies what is durable, in order, and answers.
    fn applied(self: &Arc<Self>, first: u64, batch: Vec<Submission>) -> Result<(), Halt> {
        let mut world = self.world();
        world.appending = None;
        let mut calls = Vec::with_capacity(batch.len());
        for (index, submission) in (first..).zip(batch) {
            let outcome = cairn_metadata::apply(&mut world.state, index, &submission.command)
                .map_err(|e| Halt::Apply(format!("record {index}: {e}")))?;
            self.effects(&mut world, &submission.command, &outcome);
            let by = match &submission.command {
                Command::Call { session, .. } => Some(*session),
                _ => None,
            };
            if let (Some(session), Ok(reply)) = (by, &outcome.result) {
                // told of changes from here on, also of those that come before its answer leaves
                let replied = reply.attr().map(|attr| attr.inode);
                let changed = outcome.changed_inodes();
                world.sessions.seen(session, changed.into_iter().chain(replied));
            }
            let others = if outcome.effects.is_empty() {
                Barrier::default()
            } else {
                world.sessions.barrier(by)
            };
            match submission.then {
                Then::Nobody => {}
                // a client that has gone asks again, and is answered from memory
                Then::Answer(answer) => drop(answer.send(Applied { outcome, others })),
                Then::Call(call) => {
                    call.opened(&mut world, &outcome);
                    calls.push((call, Applied { outcome, others }));
                }
                Then::Install { handle, version } => {
                    self.install_logged(&mut world, handle, version, Applied { outcome, others });
                }
            }
        }
        self.flush_pushes(&mut world);
        // behind what was pushed, and with the state that they find it in
        for (call, applied) in calls {
            call.answer(self, &mut world, applied);
        }
        Ok(())
    }
}
