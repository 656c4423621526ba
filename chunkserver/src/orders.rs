//! The master's orders of one registration, carried out: those on one replica in the order in which they came, those
//! on different ones at once. Each is checked against the registration under the replica's turn (protocol R7), and
//! each is answered by one OrderDone.
use crate::copy;
use crate::limits::{
    BULK_ORDERS_AT_A_TIME, DELETE_BATCH, DELETE_CONFIRM_WAIT_MAX, FENCE_DRAIN_WAIT_MAX, ORDERS_AT_A_TIME, ORDERS_MAX,
};
use crate::refusal::Refusal;
use crate::replica::{Key, Place, Remembered};
use crate::shared::{Core, key_of, open, position};
use crate::store::{At, Chunk, ChunkMeta, State, StoreError};
use bytes::Bytes;
use cairn_proto::chunkserver::from_chunkserver::Body;
use cairn_proto::chunkserver::order::What;
use cairn_proto::chunkserver::order_done::Result as Done;
use cairn_proto::chunkserver::{
    ConfirmDelete, Cut, CutDone, Delete, DeleteDone, DeleteQuery, Fence, Fenced, FromChunkserver, Install, Installed,
    Joined, Order, OrderDone, Synced, Verified,
};
use cairn_proto::required;
use cairn_types::{Inode, Registration, Version};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub struct Orders {
    core: Arc<Core>,
    registration: Registration,
    out: mpsc::Sender<FromChunkserver>,
    queues: Mutex<Queues>,
    bulk: Semaphore,
    short: Semaphore,
    tasks: TaskTracker,
    /// The registration has ended: what is not done is not done any more.
    ended: CancellationToken,
    deletions: mpsc::Sender<Deletion>,
    /// The one ConfirmDelete that waits for its answer.
    confirmation: Mutex<Option<oneshot::Sender<Vec<DeleteQuery>>>>,
}

#[derive(Default)]
struct Queues {
    by_key: BTreeMap<Key, Queue>,
    count: usize,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Order>,
    /// Ends the copy that runs now, if one does.
    copying: Option<CancellationToken>,
}

struct Deletion {
    key: Key,
    version: Version,
    done: oneshot::Sender<Result<(), Refusal>>,
}

impl Orders {
    pub fn start(core: Arc<Core>, registration: Registration, out: mpsc::Sender<FromChunkserver>) -> Arc<Self> {
        let (deletions, queue) = mpsc::channel(DELETE_BATCH);
        let orders = Arc::new(Self {
            core,
            registration,
            out,
            queues: Mutex::default(),
            bulk: Semaphore::new(BULK_ORDERS_AT_A_TIME),
            short: Semaphore::new(ORDERS_AT_A_TIME),
            tasks: TaskTracker::new(),
            ended: CancellationToken::new(),
            deletions,
            confirmation: Mutex::default(),
        });
        let sweeper = orders.clone();
        orders.tasks.spawn(async move { sweeper.sweep(queue).await });
        orders
    }

    fn queues(&self) -> std::sync::MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an order; one of another registration is ignored (R7 †).
    pub fn submit(self: &Arc<Self>, order: Order) {
        let of = order.registration.map(Registration::from);
        if of != Some(self.registration) {
            tracing::warn!(?of, now = %self.registration, "order of another registration ignored");
            return;
        }
        if let Some(What::ScrubAll(_)) = order.what {
            self.core.scrub.ask();
            return self.answer(order.id, None, Ok(Done::Verified(Verified::default())));
        }
        let key = match key_of(order.handle, &order.disk) {
            Ok(key) => key,
            Err(e) => return self.answer(order.id, None, Err(e)),
        };
        let mut queues = self.queues();
        if queues.count >= ORDERS_MAX {
            drop(queues);
            return self.answer(
                order.id,
                Some(key),
                Err(Refusal::Unavailable("too many orders at a time")),
            );
        }
        queues.count += 1;
        let interrupts = matches!(order.what, Some(What::Fence(_) | What::Delete(_)));
        if let Some(queue) = queues.by_key.get_mut(&key) {
            queue.waiting.push_back(order);
            if let Some(copying) = queue.copying.as_ref().filter(|_| interrupts) {
                copying.cancel();
            }
            return;
        }
        let queue = Queue {
            waiting: VecDeque::from([order]),
            copying: None,
        };
        queues.by_key.insert(key, queue);
        drop(queues);
        let this = self.clone();
        self.tasks.spawn(async move { this.run_queue(key).await });
    }

    /// The answer to the ConfirmDelete under way.
    pub fn confirmed(&self, queries: Vec<DeleteQuery>) {
        let waiting = self.confirmation.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waiting) = waiting {
            // whoever asked may have given up
            let _ = waiting.send(queries);
        }
    }

    /// The registration has ended. Returns when nothing of it runs any more.
    pub async fn end(&self) {
        self.ended.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn answer(self: &Arc<Self>, id: u64, key: Option<Key>, result: Result<Done, Refusal>) {
        let done = self.done(id, key, result);
        let this = self.clone();
        self.tasks.spawn(async move { this.send(done).await });
    }

    fn done(&self, id: u64, key: Option<Key>, result: Result<Done, Refusal>) -> Body {
        Body::OrderDone(OrderDone {
            id,
            registration: Some(self.registration.into()),
            handle: key.map_or(0, |k| k.handle.0),
            disk: key.map_or_else(Bytes::new, |k| Bytes::copy_from_slice(k.disk.as_bytes())),
            result: Some(result.unwrap_or_else(|e| Done::Error(e.to_error()))),
        })
    }

    async fn send(&self, body: Body) {
        tokio::select! {
            biased;
            () = self.ended.cancelled() => {}
            // if the stream has ended, so has the registration
            _ = self.out.send(FromChunkserver { body: Some(body) }) => {}
        }
    }

    async fn run_queue(self: Arc<Self>, key: Key) {
        loop {
            let (order, copying) = {
                let mut queues = self.queues();
                let Some(queue) = queues.by_key.get_mut(&key) else {
                    return;
                };
                let Some(order) = queue.waiting.pop_front() else {
                    queues.by_key.remove(&key);
                    return;
                };
                let copies = matches!(order.what, Some(What::Synchronize(_) | What::Join(_) | What::Verify(_)));
                let superseded = queue
                    .waiting
                    .iter()
                    .any(|o| matches!(o.what, Some(What::Fence(_) | What::Delete(_))));
                let copying = copies.then(|| self.ended.child_token());
                if let Some(token) = copying.as_ref().filter(|_| superseded) {
                    token.cancel();
                }
                queue.copying.clone_from(&copying);
                queues.count -= 1;
                (order, copying)
            };
            let id = order.id;
            let result = match copying {
                Some(stop) => tokio::select! {
                    biased;
                    () = stop.cancelled() => Err(Refusal::Unavailable("a later order on this replica ended it")),
                    result = Box::pin(self.execute(key, order, &self.bulk)) => result,
                },
                // not dropped halfway: a fence that has begun is finished
                None => Box::pin(self.execute(key, order, &self.short)).await,
            };
            if let Err(e) = &result {
                tracing::debug!(chunk = %key.handle, disk = %key.disk, order = id, "order not done: {e}");
            }
            self.send(self.done(id, Some(key), result)).await;
            if self.ended.is_cancelled() {
                return;
            }
        }
    }

    async fn execute(&self, key: Key, order: Order, room: &Semaphore) -> Result<Done, Refusal> {
        // never closed
        let _room = room.acquire().await;
        let what = order.what.ok_or(Refusal::Invalid("an order for nothing".into()))?;
        if let What::Delete(delete) = what {
            return self.delete(key, delete).await;
        }
        let replica = self.core.replica(key);
        let turn = replica.turn.lock().await;
        let checked = self.core.mandate.check(self.registration);
        let result = match (checked, what) {
            (Err(e), _) => Err(e),
            (Ok(()), What::Fence(order)) => self.fence(key, &replica, order).await.map(Done::Fenced),
            (Ok(()), What::Synchronize(order)) => {
                let version = order.version;
                let done = copy::synchronize(&self.core, &replica, order).await;
                done.map(|(length, bytes_copied)| {
                    Done::Synced(Synced {
                        version,
                        length,
                        bytes_copied,
                    })
                })
            }
            (Ok(()), What::Cut(order)) => {
                let version = order.version;
                self.cut(key, &replica, order)
                    .await
                    .map(|()| Done::Cut(CutDone { version }))
            }
            (Ok(()), What::Install(order)) => self.install(key, &replica, order).await.map(Done::Installed),
            (Ok(()), What::Join(order)) => copy::join(&self.core, &replica, order)
                .await
                .map(|length| Done::Joined(Joined { length })),
            (Ok(()), What::Verify(_)) => self.on_chunk(key, |chunk| chunk.verify()).await.map(|damage| {
                Done::Verified(Verified {
                    bad_blocks: damage.blocks.into_iter().collect(),
                    bad_header: damage.header.is_some(),
                    bad_table: damage.table,
                })
            }),
            (Ok(()), What::Delete(_) | What::ScrubAll(_)) => Err(Refusal::Invalid("not an order on a replica".into())),
        };
        drop(turn);
        if self.core.chunk(key).is_err() {
            self.core.release(replica);
        }
        result
    }

    async fn on_chunk<T: Send + 'static>(
        &self,
        key: Key,
        work: impl FnOnce(&Chunk) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let chunk = self.core.chunk(key)?;
        let done = self.core.env.blocking.run(move || work(&chunk)).await;
        done.map_err(|e| self.core.refused(key, e))
    }

    /// R2. Under the replica's turn.
    async fn fence(&self, key: Key, replica: &crate::replica::Replica, order: Fence) -> Result<Fenced, Refusal> {
        let version: Version = required(order.version, "version")?.into();
        let core = &self.core;
        let disk = core.store.disk(key.disk).ok_or(Refusal::NoReplica)?;
        let before = match disk.chunk(key.handle) {
            Ok(chunk) => Some(chunk.info()),
            Err(StoreError::NotFound { .. }) => None,
            Err(e) => return Err(core.refused(key, e)),
        };
        if let Some(info) = &before {
            if info.version > version || (info.version == version && info.state == State::Installed) {
                return Err(Refusal::StaleVersion { have: info.version });
            }
            // nothing more is accepted, nobody is told yes any more, and what was accepted is finished (†)
            replica.close(None, Refusal::Fenced);
            if timeout(FENCE_DRAIN_WAIT_MAX, replica.drained()).await.is_err() {
                return Err(Refusal::Unavailable("the disk has not finished what was accepted"));
            }
        }
        let here = disk.clone();
        let fenced = core.env.blocking.run(move || here.fence(key.handle, version)).await;
        let absent_at = disk.absent_at(key.handle);
        match (fenced, before) {
            (Ok(info), before) => {
                core.mandate.distrust(key);
                core.reports.changed(key);
                Ok(Fenced {
                    version: Some(version.into()),
                    previous: before.as_ref().map(|i| i.version.into()),
                    serial: replica.serial().0,
                    length: info.length,
                    suspect: info.suspect,
                    damaged: !info.damage.is_none(),
                    absent: false,
                    floor: absent_at.map(Into::into),
                    made: absent_at.is_some(),
                    joining: before.is_some_and(|i| i.state == State::Joining),
                })
            }
            // the floor is raised by now: no grant of an earlier version creates here
            (Err(StoreError::NotFound { .. }), None) => Ok(Fenced {
                version: Some(version.into()),
                absent: true,
                floor: absent_at.map(Into::into),
                ..Fenced::default()
            }),
            (Err(e), _) => Err(core.refused(key, e)),
        }
    }

    /// R13. Where there is no replica, and the fence has found that out, an empty one is made.
    async fn cut(&self, key: Key, replica: &crate::replica::Replica, order: Cut) -> Result<(), Refusal> {
        let version: Version = required(order.version, "version")?.into();
        let unwritten = ChunkMeta {
            inode: Inode(0),
            index: 0,
            name: vec![],
            created: self.core.env.clock.wall(),
        };
        self.core.fenced_chunk(key, version, move || unwritten).await?;
        if order.anew {
            replica.remember(Remembered::default());
        }
        // of nothing, nothing is left
        let length = if order.anew { 0 } else { order.length };
        let cut = move |chunk: &Chunk| {
            chunk.truncate(At::Fenced(version), length)?;
            chunk.sync()
        };
        self.on_chunk(key, cut).await
    }

    /// R5. Acts once; under the replica's turn.
    async fn install(&self, key: Key, replica: &crate::replica::Replica, order: Install) -> Result<Installed, Refusal> {
        let version: Version = required(order.version, "version")?.into();
        let position = position(&order.members, &key.disk.as_bytes()[..])
            .ok_or(Refusal::Invalid("installed without it".into()))?;
        let chunk = self.core.chunk(key)?;
        let here = chunk.clone();
        let install = move || match here.install(version) {
            Err(StoreError::StillSuspect { .. }) => {
                here.table(At::Fenced(version))?;
                here.install(version)
            }
            other => other,
        };
        let first = self
            .core
            .env
            .blocking
            .run(install)
            .await
            .map_err(|e| self.core.refused(key, e))?;
        if first {
            let members = self.core.chains.members(&order.members);
            let place = Place {
                version,
                members,
                position,
                chunk,
            };
            open(replica, place);
            self.core.reports.changed(key);
        }
        self.core.mandate.trust(key, version, self.registration);
        Ok(Installed {
            version: Some(version.into()),
        })
    }

    async fn delete(&self, key: Key, order: Delete) -> Result<Done, Refusal> {
        let version: Version = required(order.version, "version")?.into();
        let (done, deleted) = oneshot::channel();
        let asked = self.deletions.send(Deletion { key, version, done }).await;
        asked.map_err(|_| Refusal::OldRegistration)?;
        let ended = async {
            self.ended.cancelled().await;
            Err(Refusal::OldRegistration)
        };
        let deleted = async {
            deleted
                .await
                .unwrap_or(Err(Refusal::Unavailable("the master did not confirm the deletion")))
        };
        futures::future::select(std::pin::pin!(deleted), std::pin::pin!(ended))
            .await
            .factor_first()
            .0
            .map(|()| Done::Deleted(DeleteDone {}))
    }

    /// Deletions, gathered: the master is asked again before anything is unlinked, and any error ends the round
    /// (promise 7).
    async fn sweep(&self, mut queue: mpsc::Receiver<Deletion>) {
        loop {
            let first = tokio::select! {
                biased;
                () = self.ended.cancelled() => return,
                first = queue.recv() => first,
            };
            let Some(first) = first else { return };
            let mut batch = vec![first];
            while batch.len() < DELETE_BATCH
                && let Ok(next) = queue.try_recv()
            {
                batch.push(next);
            }
            self.sweep_batch(batch).await;
        }
    }

    async fn sweep_batch(&self, batch: Vec<Deletion>) {
        let queries = batch.iter().map(|d| query(d.key, d.version)).collect();
        let (sender, confirmed) = oneshot::channel();
        *self.confirmation.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        self.send(Body::ConfirmDelete(ConfirmDelete { queries })).await;
        let confirmed = tokio::select! {
            biased;
            () = self.ended.cancelled() => return,
            confirmed = timeout(DELETE_CONFIRM_WAIT_MAX, confirmed) => confirmed,
        };
        let confirmed = match confirmed {
            Ok(Ok(confirmed)) => confirmed,
            _ => {
                tracing::warn!("{} deletions not confirmed by the master: none is done", batch.len());
                return;
            }
        };
        let mut batch = batch.into_iter();
        for Deletion { key, version, done } in batch.by_ref() {
            let result = if confirmed.contains(&query(key, version)) {
                self.unlink(key, version).await
            } else {
                Err(Refusal::Unavailable("the master did not confirm the deletion"))
            };
            // a replica that is at a higher version, or gone, says nothing of the others
            let abort = match &result {
                Err(Refusal::StaleVersion { .. } | Refusal::NoReplica | Refusal::Unavailable(_)) | Ok(()) => false,
                Err(e) => {
                    tracing::warn!(chunk = %key.handle, "sweep ended by an error: {e}");
                    true
                }
            };
            let _ = done.send(result);
            if abort {
                break;
            }
        }
        for rest in batch {
            let _ = rest
                .done
                .send(Err(Refusal::Unavailable("the sweep was ended by an error")));
        }
    }

    /// R7 †: void for a higher version, checked under the replica's turn.
    async fn unlink(&self, key: Key, version: Version) -> Result<(), Refusal> {
        let core = &self.core;
        let replica = core.replica(key);
        let result = {
            let _turn = replica.turn.lock().await;
            self.unlink_in_turn(key, version, &replica).await
        };
        if core.chunk(key).is_err() {
            core.forget(replica);
        }
        result
    }

    async fn unlink_in_turn(
        &self,
        key: Key,
        version: Version,
        replica: &crate::replica::Replica,
    ) -> Result<(), Refusal> {
        let core = &self.core;
        core.mandate.check(self.registration)?;
        let have = core.chunk(key)?.info().version;
        if have > version {
            return Err(Refusal::StaleVersion { have });
        }
        replica.close(None, Refusal::NoReplica);
        if timeout(FENCE_DRAIN_WAIT_MAX, replica.drained()).await.is_err() {
            return Err(Refusal::Unavailable("the disk has not finished what was accepted"));
        }
        let disk = core.store.disk(key.disk).ok_or(Refusal::NoReplica)?;
        let unlinked = core.env.blocking.run(move || disk.unlink(key.handle, version)).await;
        core.mandate.distrust(key);
        core.reports.changed(key);
        unlinked.map_err(|e| core.refused(key, e))
    }
}

fn query(key: Key, version: Version) -> DeleteQuery {
    DeleteQuery {
        handle: key.handle.0,
        disk: Bytes::copy_from_slice(key.disk.as_bytes()),
        version: Some(version.into()),
    }
}
