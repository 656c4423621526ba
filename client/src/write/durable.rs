//! From buffers to promises: flush (every replica has it), commit (its length is the file's), sync (on stable storage).
use super::recover::{Setback, Stall};
use crate::core::{Core, mismatch};
use crate::data::Trouble;
use crate::limits::{COMMIT_CHUNKS_MAX, PARALLEL_MAX};
use crate::node::{Node, State};
use crate::{Attr, Error, Result};
use bytes::Bytes;
use cairn_proto::common::ErrorCode;
use cairn_proto::data::{self, frame_header::Body};
use cairn_proto::session::{Commit, WrittenChunk, answer, call::Request};
use cairn_types::layout::{CHUNK_SIZE_BYTES, chunk_count, chunk_ranges};
use cairn_types::limits::LOCATE_CHUNKS_MAX;
use futures::TryStreamExt;
use std::sync::Arc;
use tokio::time::{Instant, timeout};

impl Core {
    /// Everything written so far is acknowledged by every replica.
    pub async fn flush(self: &Arc<Self>, node: &Arc<Node>) -> Result<()> {
        self.seal(node);
        let targets: Vec<(u32, u64)> = node
            .state()
            .chunks
            .iter()
            .map(|(index, c)| (*index, c.sealed))
            .collect();
        self.acknowledged(node, &targets).await
    }

    /// What was written to `[offset, offset + len)` is acknowledged by every replica, so that any of them can be read.
    pub async fn flush_range(self: &Arc<Self>, node: &Arc<Node>, offset: u64, len: u64) -> Result<()> {
        let mut targets = Vec::new();
        {
            let mut state = node.state();
            for range in chunk_ranges(offset, len) {
                let Some(chunk) = state.chunks.get_mut(&range.index) else {
                    continue;
                };
                // before the first acknowledgement there may be no replica that could be read, whatever the range
                let touched = match chunk.granted || chunk.handle.is_none() {
                    true => Some(chunk.sealed + u64::from(chunk.open.is_some())),
                    false => chunk.last_touching(range.offset, range.offset + range.len),
                };
                if let Some(last) = touched {
                    if last > chunk.sealed {
                        chunk.seal();
                        self.kick(node, range.index, chunk);
                    }
                    targets.push((range.index, last));
                }
            }
        }
        if targets.is_empty() {
            return Ok(());
        }
        self.acknowledged(node, &targets).await
    }

    async fn acknowledged(&self, node: &Node, targets: &[(u32, u64)]) -> Result<()> {
        let done = |state: &mut State| {
            if let Err(error) = state.check() {
                return Some(Err(error));
            }
            let acked = |(index, target): &(u32, u64)| state.chunks.get(index).is_none_or(|c| c.acked >= *target);
            targets.iter().all(acked).then_some(Ok(()))
        };
        match timeout(self.config.timeout, node.wait_for(done)).await {
            Ok(result) => result,
            Err(_) => {
                let path = node.label();
                let error = {
                    let state = node.state();
                    let late =
                        |(index, target): &&(u32, u64)| state.chunks.get(index).is_some_and(|c| c.acked < *target);
                    let index = targets.iter().find(late).map_or(0, |(index, _)| *index);
                    self.write_failed(path, &state, index)
                };
                tracing::error!(inode = node.ino.0, "a write was lost: {error}");
                node.fail(error.clone());
                Err(error)
            }
        }
    }

    /// Everything written so far is on stable storage at every replica (protocol R12).
    pub async fn sync(self: &Arc<Self>, node: &Arc<Node>) -> Result<()> {
        self.flush(node).await?;
        self.find_owed(node).await?;
        let unsynced: Vec<u32> = {
            let state = node.state();
            state
                .chunks
                .iter()
                .filter(|(_, c)| c.unsynced_since.is_some())
                .map(|(index, _)| *index)
                .collect()
        };
        let syncs = unsynced.into_iter().map(|index| Ok(self.sync_chunk(node, index)));
        futures::stream::iter(syncs)
            .try_for_each_concurrent(PARALLEL_MAX, |sync| sync)
            .await
    }

    /// Where it was forgotten what opens that have ended wrote, every chunk is synced, once.
    async fn find_owed(&self, node: &Node) -> Result<()> {
        let chunks = {
            let state = node.state();
            if !state.owes_all {
                return Ok(());
            }
            chunk_count(state.attr.size)
        };
        let mut first = 0;
        while first < chunks {
            let count = (chunks - first).min(LOCATE_CHUNKS_MAX as u32);
            let (found, _) = self
                .ask_locations(node.ino, first, count, false, self.config.timeout)
                .await?;
            // what no commit has named holds nothing that a close has acknowledged
            for location in found.into_iter().filter(|location| !location.granted) {
                let mut state = node.state();
                let chunk = state.chunks.entry(location.index).or_default();
                if chunk.handle.is_none() {
                    chunk.owe(location.handle, self.last_sequence(location.handle), location.version);
                }
            }
            first += count;
        }
        node.state().owes_all = false;
        Ok(())
    }

    async fn sync_chunk(&self, node: &Node, index: u32) -> Result<()> {
        let mut stall = Stall::new(self.config.timeout);
        loop {
            match Box::pin(self.try_sync(node, index, &mut stall)).await {
                Ok(()) => return node.state().check(),
                Err(setback) => {
                    if let Err(error) = Box::pin(self.recover(node, index, setback, &mut stall)).await {
                        node.fail(error.clone());
                        return Err(error);
                    }
                    node.state().check()?;
                }
            }
        }
    }

    async fn try_sync(&self, node: &Node, index: u32, stall: &mut Stall) -> std::result::Result<(), Setback> {
        let wanted = |state: &State| {
            state
                .chunks
                .get(&index)
                .filter(|c| c.unsynced_since.is_some())
                .map(|c| c.handle)
        };
        let Some(handle) = wanted(&node.state()) else {
            return Ok(());
        };
        let location = self
            .locate_for_write(node, index, stall.left())
            .await
            .map_err(Setback::Master)?;
        if Some(location.handle) != handle {
            // cut off by another client: there is nothing left to sync
            return Ok(());
        }
        let head = location.members.first();
        let head =
            head.ok_or_else(|| Setback::at(&location, Trouble::Garbled("the chunk has no members".into()), true))?;
        let connection = self
            .pool
            .peer(&head.address)
            .get()
            .await
            .map_err(|e| Setback::at(&location, e, true))?;
        let covers = node.state().chunks.get(&index).map(|c| c.done());
        let sync = data::Sync {
            handle: location.handle.0,
            version: Some(location.version.into()),
            disk: Bytes::copy_from_slice(head.disk.as_bytes()),
        };
        // disks may have much to write: longer than a frame may take
        let within = self.config.server_timeout.max(self.config.timeout * 2 / 3);
        let answer = connection.ask(|| Body::Sync(sync), within).await;
        match answer.map_err(|e| Setback::at(&location, e, connection.fresh))?.body {
            Body::Acknowledged(_) => {}
            _ => {
                return Err(Setback::at(
                    &location,
                    Trouble::Garbled("not an acknowledgement".into()),
                    true,
                ));
            }
        }
        let mut state = node.state();
        if let Some(chunk) = state.chunks.get_mut(&index)
            && chunk.handle == handle
        {
            // what was acknowledged since was so at this version or a later one
            chunk.unsynced_since = (Some(chunk.done()) != covers).then_some(location.version);
        }
        Ok(())
    }

    /// What is acknowledged becomes the file's: its length, and that it was written. With nothing to say, says nothing.
    pub async fn commit(self: &Arc<Self>, node: &Arc<Node>) -> Result<()> {
        if !node.state().has_to_commit() {
            return Ok(());
        }
        let _one = node.committing.lock().await;
        Box::pin(self.commit_locked(node)).await?;
        Ok(())
    }

    /// As `commit`, by who holds `committing`. How many calls it took: with more than one, all but the first may have
    /// seen what the master told since.
    pub async fn commit_locked(self: &Arc<Self>, node: &Arc<Node>) -> Result<u32> {
        let mut calls = 0;
        let deadline = Instant::now() + self.config.timeout;
        // what is acknowledged from here on is another commit's
        let targets: Vec<(u32, u64)> = node
            .state()
            .chunks
            .iter()
            .map(|(index, c)| (*index, c.done()))
            .collect();
        loop {
            let Some(plan) = node.state().commit_plan(&targets) else {
                return Ok(calls);
            };
            let missing: Vec<u32> = plan
                .chunks
                .iter()
                .filter(|c| c.version.is_none())
                .map(|c| c.index)
                .collect();
            if !missing.is_empty() {
                self.refresh(node, &missing, deadline).await?;
                continue;
            }
            let within = deadline.saturating_duration_since(Instant::now());
            let indices: Vec<u32> = plan.chunks.iter().map(|c| c.index).collect();
            let request = Request::Commit(Commit {
                inode: node.ino.0,
                size: plan.size,
                chunks: plan.chunks,
                written: true,
                generation_seen: plan.generation,
                kill_suid: false,
            });
            calls += 1;
            let touched = std::mem::take(&mut node.state().touched);
            let answer = self.session.call(request, within).await;
            node.state().touched |= touched && answer.is_err();
            match answer {
                Ok(answer) => {
                    let attr = match answer {
                        answer::Result::Attr(attr) => Some(Attr::try_from(attr).map_err(|e| self.malformed(e))?),
                        answer::Result::Done(_) => None,
                        _ => return Err(mismatch(self, "attributes")),
                    };
                    node.state().committed(&plan.covers, plan.size, attr);
                    node.progress.notify_waiters();
                }
                // reconfigured since: the bytes are where the chunk is now, unless the file was cut (R12)
                Err(Error::Refused {
                    code: ErrorCode::ErrorStaleVersion,
                    ..
                }) if Instant::now() < deadline => {
                    self.refresh(node, &indices, deadline).await?;
                    tokio::time::sleep(crate::limits::BACKOFF_MIN).await;
                }
                Err(error) => {
                    if matches!(error, Error::MaybeCommitted { .. } | Error::NoAnswer { .. }) {
                        tracing::warn!(inode = node.ino.0, "a file's length could not be committed: {error}");
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Asks where the chunks are now; those that the file no longer has were cut off, and what was written with them.
    async fn refresh(&self, node: &Node, indices: &[u32], deadline: Instant) -> Result<()> {
        for index in indices {
            let within = deadline.saturating_duration_since(Instant::now());
            let (found, _) = self.ask_locations(node.ino, *index, 1, true, within).await?;
            let location = found.into_iter().find(|l| l.index == *index);
            let mut state = node.state();
            let written_to = state.chunks.get(index).and_then(|c| c.handle);
            if location.as_ref().map(|l| l.handle) != written_to {
                state.slots.remove(index);
                if let Some(chunk) = state.chunks.get_mut(index) {
                    chunk.committed = chunk.done();
                    chunk.unsynced_since = None;
                }
            }
            drop(state);
            if let Some(location) = location {
                self.bind(node, &location, false);
            }
            node.state().check()?;
        }
        Ok(())
    }
}

struct CommitPlan {
    /// 0: no length to commit.
    size: u64,
    chunks: Vec<WrittenChunk>,
    /// (chunk, how many of its frames and records this commit covers).
    covers: Vec<(u32, u64)>,
    generation: u64,
}

impl State {
    fn has_to_commit(&self) -> bool {
        self.touched || self.chunks.values().any(|c| c.done() > c.committed)
    }

    /// `None` when everything up to `targets` is committed.
    fn commit_plan(&self, targets: &[(u32, u64)]) -> Option<CommitPlan> {
        let open = |(index, target): &(u32, u64)| self.chunks.get(index).is_some_and(|c| c.committed < *target);
        if !self.touched && !targets.iter().any(open) {
            return None;
        }
        let dirty = self.chunks.iter().filter(|(_, c)| c.done() > c.committed);
        let dirty: Vec<_> = dirty.take(COMMIT_CHUNKS_MAX).collect();
        if !self.touched && dirty.is_empty() {
            return None;
        }
        let written = |(index, chunk): &(&u32, &super::Chunk)| WrittenChunk {
            index: **index,
            handle: chunk.handle.unwrap_or_default().0,
            version: self
                .slots
                .get(index)
                .filter(|slot| Some(slot.location.handle) == chunk.handle)
                .map(|slot| slot.location.version.into()),
        };
        // no further than the first byte beyond the known end that is still on its way
        let pending = self.chunks.iter().filter_map(|(index, chunk)| {
            let start = u64::from(*index) * CHUNK_SIZE_BYTES;
            let beyond = self.attr.size.saturating_sub(start);
            chunk
                .lowest_pending(beyond)
                .map(|offset| (start + offset).max(self.attr.size))
        });
        let size = pending.min().unwrap_or(u64::MAX).min(self.acked_end);
        Some(CommitPlan {
            size: if size > self.attr.size { size } else { 0 },
            chunks: dirty.iter().map(written).collect(),
            covers: dirty.iter().map(|(index, chunk)| (**index, chunk.done())).collect(),
            generation: self.attr.generation,
        })
    }

    fn committed(&mut self, covers: &[(u32, u64)], size: u64, attr: Option<Attr>) {
        for (index, done) in covers {
            if let Some(chunk) = self.chunks.get_mut(index) {
                chunk.committed = chunk.committed.max(*done);
            }
        }
        match attr {
            Some(attr) => self.learn(attr, true),
            None => self.attr.size = self.attr.size.max(size),
        }
        if self.is_clean() {
            self.dirty_end = 0;
            self.acked_end = 0;
        }
    }
}
