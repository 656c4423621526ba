//! From written to clean: which chunks have changes that were not synced, and which carry no clean mark, and the work in
//! the background that syncs and marks them. Many are synced by one sync of the whole disk: where small files come by the
//! thousand a second, one for each would take all that a disk can do.
use super::chunk::{Begun, Chunk, Markable};
use super::disk::Inner;
use super::error::StoreError;
use super::{Result, locked};
use cairn_io::Boot;
use cairn_types::ChunkHandle;
use std::collections::{BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

/// Chunks that are synced and marked together.
const BATCH_MAX: usize = 1024;

/// Chunks with unsynced writes: their files stay open, so that no error of writing back is missed.
#[derive(Default)]
pub(super) struct Unsynced {
    chunks: BTreeSet<ChunkHandle>,
    /// Where the last one to be synced for want of room was.
    hand: ChunkHandle,
}

/// Chunks that carry no clean mark and can get one.
#[derive(Default)]
pub(super) struct Unmarked {
    all: BTreeSet<ChunkHandle>,
    /// All of them but those that a round has in hand, by when each is known to have changed; some that are no more.
    queue: VecDeque<(Boot, ChunkHandle)>,
}

impl Unmarked {
    fn insert(&mut self, handle: ChunkHandle, changed: Boot) {
        if self.all.insert(handle) {
            self.queue.push_back((changed, handle));
        }
    }

    fn put_back(&mut self, handle: ChunkHandle, changed: Boot) {
        if self.all.contains(&handle) {
            self.queue.push_back((changed, handle));
        }
    }

    /// Takes those that are not known to have changed for `idle` before `now`.
    fn take_due(&mut self, now: Boot, idle: Duration) -> Vec<ChunkHandle> {
        let mut due = vec![];
        while let Some((_, handle)) = self.queue.pop_front_if(|(changed, _)| now.since(*changed) >= idle) {
            if self.all.contains(&handle) {
                due.push(handle);
            }
        }
        due
    }
}

impl Inner {
    /// A chunk is written, or about to be: it is neither synced nor clean.
    pub fn note_write(&self, handle: ChunkHandle, now: Boot) {
        locked(&self.unsynced).chunks.insert(handle);
        locked(&self.unmarked).insert(handle, now);
    }

    pub fn note_synced(&self, handle: ChunkHandle) {
        locked(&self.unsynced).chunks.remove(&handle);
    }

    pub fn note_marked(&self, handle: ChunkHandle) {
        locked(&self.unmarked).all.remove(&handle);
    }

    fn chunk_here(self: &Arc<Self>, handle: ChunkHandle) -> Option<Chunk> {
        let (disk, slot) = (self.clone(), self.slot(handle)?);
        Some(Chunk { disk, slot })
    }

    /// Keeps the number of files that are open for their unsynced writes bounded: beyond it, another chunk is synced.
    pub fn bound_unsynced(self: &Arc<Self>, but: ChunkHandle) -> Result<()> {
        let victim = {
            let mut unsynced = locked(&self.unsynced);
            if unsynced.chunks.len() <= self.options.unsynced_max() {
                return Ok(());
            }
            let after = (Bound::Excluded(unsynced.hand), Bound::Unbounded);
            let next = unsynced.chunks.range(after).find(|h| **h != but).copied();
            let Some(victim) = next.or_else(|| unsynced.chunks.iter().find(|h| **h != but).copied()) else {
                return Ok(());
            };
            unsynced.hand = victim;
            victim
        };
        let Some(chunk) = self.chunk_here(victim) else {
            return Ok(());
        };
        match chunk.sync() {
            // its own trouble, found again by whoever uses it
            Err(StoreError::NotFound { .. } | StoreError::Corrupt { .. }) => {
                self.note_synced(victim);
                Ok(())
            }
            other => other,
        }
    }

    /// Syncs and marks all that were not changed for `idle`, and syncs the others once they come near to their bound. How
    /// many were marked.
    pub fn mark_round(self: &Arc<Self>, idle: Duration) -> Result<usize> {
        let now = self.clock.now();
        let due = locked(&self.unmarked).take_due(now, idle);
        let marked = self.mark_all(&due, idle);
        if marked.is_err() {
            let mut unmarked = locked(&self.unmarked);
            due.iter().for_each(|handle| unmarked.put_back(*handle, now));
        }
        self.settle_unlinks()?;
        if locked(&self.unsynced).chunks.len() > self.options.unsynced_max() / 2 {
            self.sync_unsynced()?;
        }
        marked
    }

    /// Those of `handles` that were not changed for `idle`, in batches.
    pub fn mark_all(self: &Arc<Self>, handles: &[ChunkHandle], idle: Duration) -> Result<usize> {
        // files that are opened only to be marked are in the cache
        let batch = BATCH_MAX.min(self.options.cached_files_max().max(1));
        handles.chunks(batch).map(|batch| self.mark_batch(batch, idle)).sum()
    }

    fn mark_batch(self: &Arc<Self>, handles: &[ChunkHandle], idle: Duration) -> Result<usize> {
        let mut work = Vec::with_capacity(handles.len());
        for chunk in handles.iter().filter_map(|handle| self.chunk_here(*handle)) {
            if let Some(Some(begun)) = self.unless_bad(&chunk, self.begin_mark(&chunk, idle))? {
                work.push((chunk, begun));
            }
        }
        self.sync_batch(&work)?;
        let mut marked = vec![];
        let all = work.into_iter().try_for_each(|(chunk, begun)| {
            match self.unless_bad(&chunk, chunk.mark(idle, begun.map(|begun| begun.file)))? {
                Some(Some(file)) => marked.push(file),
                Some(None) => locked(&self.unmarked).put_back(chunk.handle(), self.clock.now()),
                None => {}
            }
            Ok(())
        });
        // those before one that failed, too: an orderly stop counts on every mark that was written
        if !self.sync_at_once(marked.len())? {
            for file in &marked {
                file.file.sync_data().map_err(|e| self.sync_failed(&e))?;
            }
        }
        all.map(|()| marked.len())
    }

    /// A chunk that is gone or bad is none to be marked, and no reason to stop.
    fn unless_bad<T>(&self, chunk: &Chunk, result: Result<T>) -> Result<Option<T>> {
        match result {
            Err(StoreError::NotFound { .. } | StoreError::Corrupt { .. }) => {
                self.note_marked(chunk.handle());
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    /// None: it is not the time to mark it. Else what has to be synced first.
    fn begin_mark(&self, chunk: &Chunk, idle: Duration) -> Result<Option<Option<Begun>>> {
        match chunk.markable(idle)? {
            Markable::Now => return chunk.begin_sync().map(Some),
            Markable::Later(changed) => locked(&self.unmarked).put_back(chunk.handle(), changed),
            Markable::Marked => self.note_marked(chunk.handle()),
        }
        Ok(None)
    }

    fn sync_unsynced(self: &Arc<Self>) -> Result<()> {
        let all: Vec<_> = locked(&self.unsynced).chunks.iter().copied().collect();
        let mut work = Vec::with_capacity(all.len());
        for handle in all {
            let Some(chunk) = self.chunk_here(handle) else { continue };
            match chunk.begin_sync() {
                Err(StoreError::NotFound { .. } | StoreError::Corrupt { .. }) => self.note_synced(handle),
                begun => work.push((chunk, begun?)),
            }
        }
        self.sync_batch(&work)
    }

    fn sync_batch(&self, work: &[(Chunk, Option<Begun>)]) -> Result<()> {
        let begun = || work.iter().filter_map(|(chunk, begun)| Some((chunk, begun.as_ref()?)));
        match self.sync_at_once(begun().count())? {
            true => begun().try_for_each(|(chunk, begun)| chunk.end_sync(begun)),
            false => begun().try_for_each(|(chunk, begun)| chunk.sync_begun(begun)),
        }
    }

    /// Syncs the whole disk if so many files are worth it. False: they are to be synced one by one.
    fn sync_at_once(&self, files: usize) -> Result<bool> {
        if files <= self.options.sync_each_max {
            return Ok(false);
        }
        let names = self.names.all_made();
        let synced = self.disk.sync_all().map_err(|e| self.sync_failed(&e))?;
        if synced {
            self.names.all_synced(names);
        }
        Ok(synced)
    }

    /// A file that comes back after a power loss may carry a clean mark that only the log overrules: its record is
    /// forgotten when the file is gone for good, and not before.
    pub fn settle_unlinks(&self) -> Result<()> {
        let unlinked = std::mem::take(&mut *locked(&self.unlinked));
        let directories: BTreeSet<_> = unlinked.keys().map(|handle| handle.0 as u8).collect();
        if !self.sync_at_once(directories.len())? {
            for directory in directories {
                self.sync_dir_of(ChunkHandle(directory.into()))?;
            }
        }
        for (handle, mark) in unlinked {
            self.log.forget(handle, mark);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_that_is_not_marked_is_due_once_when_it_was_idle() {
        let (at, idle) = (|s| Boot(Duration::from_secs(s)), Duration::from_secs(5));
        let [a, b, c] = [1, 2, 3].map(ChunkHandle);
        let mut unmarked = Unmarked::default();
        unmarked.insert(a, at(0));
        unmarked.insert(b, at(1));
        unmarked.insert(a, at(2));
        unmarked.insert(c, at(2));
        assert_eq!(unmarked.take_due(at(4), idle), []);
        unmarked.all.remove(&b);
        assert_eq!(unmarked.take_due(at(6), idle), [a]);
        assert_eq!(unmarked.take_due(at(7), idle), [c]);
        // changed since, and marked by another
        unmarked.put_back(a, at(6));
        unmarked.all.remove(&c);
        unmarked.put_back(c, at(6));
        assert_eq!(unmarked.take_due(at(11), idle), [a]);
        unmarked.all.remove(&a);
        unmarked.insert(a, at(12));
        assert_eq!(unmarked.take_due(at(17), idle), [a]);
    }
}
