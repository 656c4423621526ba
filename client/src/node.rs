//! What a client knows of one inode that it has open, shared by all its opens.
//!
//! One mutex holds it all, taken for moments and never across an await: attributes as the master last gave them, where
//! the chunks are, what was written here and is not yet acknowledged, synced or committed (`write`), and the error that
//! a lost write left behind.
use crate::write::{Appends, Chunk};
use crate::{Attr, Error, Invalidated, Location, Result};
use bytes::Bytes;
use cairn_types::Inode;
use cairn_types::layout::{chunk_count, chunk_index};
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

pub(crate) struct Node {
    pub ino: Inode,
    /// Local opens, of which the master knows one; held while it is told of the first or the last.
    pub gate: tokio::sync::Mutex<usize>,
    /// Writes share it, a truncation has it alone.
    pub shape: tokio::sync::RwLock<()>,
    /// One commit at a time, and none while the file is cut: it would make it longer again.
    pub committing: tokio::sync::Mutex<()>,
    pub appending: tokio::sync::Mutex<()>,
    /// One caller at a time asks for new chunks.
    pub allocating: tokio::sync::Mutex<()>,
    /// Something was acknowledged, or failed.
    pub progress: Notify,
    state: Mutex<State>,
}

pub(crate) struct State {
    /// As the master last gave them; sizes of local writes are not in them.
    pub attr: Attr,
    /// End of what was written here and not committed; 0: all is committed.
    pub dirty_end: u64,
    /// End of what of it every replica has.
    pub acked_end: u64,
    pub slots: BTreeMap<u32, Slot>,
    pub chunks: BTreeMap<u32, Chunk>,
    /// Records on their way.
    pub appends: Appends,
    /// The master may take the file for being written by this client.
    pub writing: bool,
    /// It was cut without asking, being empty: its times are the next commit's to move.
    pub touched: bool,
    /// It was opened with a chunk that an earlier open was granted and did not write: not kept for a third.
    pub granted_before: bool,
    /// Opens that have ended may have written any chunk without syncing it.
    pub owes_all: bool,
    /// A write was lost: every following write, fsync and close gets this (promise 6).
    pub error: Option<Error>,
    /// Raised when the contents change, by a write here or a push: bytes read before may be stale.
    pub epoch: u64,
    /// Pushes that said that something changed, and how many of them `attr` is younger than.
    pub pushed: u64,
    pub fresh_as_of: u64,
    /// A name of the file, for chunk headers (rescue) and messages; empty: not known.
    pub name: Bytes,
}

/// Where a chunk is.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    pub location: Arc<Location>,
    /// The master knows that this session writes it.
    pub writable: bool,
}

impl Node {
    /// Nothing is known yet: the open that makes it brings the attributes.
    pub fn new(ino: Inode) -> Self {
        let state = State {
            attr: Attr::unknown(ino),
            dirty_end: 0,
            acked_end: 0,
            slots: BTreeMap::new(),
            chunks: BTreeMap::new(),
            appends: Appends::default(),
            writing: false,
            touched: false,
            granted_before: false,
            owes_all: false,
            error: None,
            epoch: 0,
            pushed: 0,
            fresh_as_of: 0,
            name: Bytes::new(),
        };
        Self {
            ino,
            gate: tokio::sync::Mutex::new(0),
            shape: tokio::sync::RwLock::new(()),
            committing: tokio::sync::Mutex::new(()),
            appending: tokio::sync::Mutex::new(()),
            allocating: tokio::sync::Mutex::new(()),
            progress: Notify::new(),
            state: Mutex::new(state),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `ready` gives something, asked again after every progress.
    pub async fn wait_for<T>(&self, mut ready: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            let mut progress = pin!(self.progress.notified());
            // before looking, so that what happens in between is not missed
            progress.as_mut().enable();
            if let Some(value) = ready(&mut self.state()) {
                return value;
            }
            progress.await;
        }
    }

    /// Takes the file for failed: what is buffered is given up.
    pub fn fail(&self, error: Error) {
        let mut state = self.state();
        state.fail(error);
        drop(state);
        self.progress.notify_waiters();
    }

    pub fn invalidate(&self, what: &Invalidated) {
        let mut state = self.state();
        let (mine, data) = match what {
            Invalidated::Inode { ino, data } => (*ino == self.ino, *data),
            Invalidated::Entry { .. } => (false, false),
            Invalidated::Everything => (true, true),
        };
        if mine {
            state.pushed += 1;
        }
        if mine && data {
            state.forget_contents();
        }
    }

    /// For messages.
    pub fn label(&self) -> String {
        match self.state().name.as_ref() {
            b"" => format!("inode {}", self.ino),
            name => format!("{:?} (inode {})", String::from_utf8_lossy(name), self.ino),
        }
    }
}

impl State {
    /// With what was written here.
    pub fn size(&self) -> u64 {
        self.attr.size.max(self.dirty_end)
    }

    /// No push has said that `attr` is old.
    pub fn attr_is_fresh(&self) -> bool {
        self.pushed == self.fresh_as_of
    }

    /// As a caller sees it.
    pub fn local_attr(&self) -> Attr {
        Attr {
            size: self.size(),
            being_written: !self.is_settled(),
            ..self.attr.clone()
        }
    }

    /// The master's word; an older one than is known is passed over. Another client's change makes what was known of
    /// the contents stale.
    pub fn learn(&mut self, attr: Attr, own_change: bool) {
        if attr.generation < self.attr.generation {
            return;
        }
        if attr.generation > self.attr.generation && !own_change {
            self.forget_contents();
        }
        self.attr = attr;
    }

    /// The newer of `attr` and what is known, with the size of local writes: an answer from before our own commit may
    /// be handled after it, and must not make the file shorter again.
    pub fn learned(&mut self, attr: Attr, own_change: bool) -> Attr {
        self.learn(attr, own_change);
        self.local_attr()
    }

    pub fn forget_contents(&mut self) {
        self.slots.clear();
        self.epoch += 1;
    }

    pub fn check(&self) -> Result<()> {
        self.error.clone().map_or(Ok(()), Err)
    }

    pub fn fail(&mut self, error: Error) {
        for chunk in self.chunks.values_mut() {
            chunk.abandon();
        }
        self.dirty_end = 0;
        self.error.get_or_insert(error);
    }

    /// Where a chunk is now. An answer that another one has overtaken is passed over.
    ///
    /// # Errors
    /// `LostUnsynced` when the chunk was installed from a suspect since it was written here (protocol R12).
    pub fn place(&mut self, mut location: Arc<Location>, writable: bool) {
        let index = location.index;
        let mut writable = writable;
        if let Some(known) = self.slots.get(&index)
            && known.location.handle == location.handle
        {
            if known.location.version > location.version {
                return;
            }
            if known.writable && !writable {
                // the leave to write is still the earlier one
                writable = true;
                Arc::make_mut(&mut location).epoch = known.location.epoch;
            }
        }
        if let Some(chunk) = self.chunks.get(&index)
            && chunk.handle() == Some(location.handle)
            && let Some(since) = chunk.unsynced_since()
            && location.from_suspect.is_some_and(|suspect| suspect > since)
        {
            let path = String::from_utf8_lossy(&self.name).into_owned();
            tracing::error!(
                inode = self.attr.ino.0, %path, chunk = %location.handle, %since,
                "bytes that were written and not synced were lost when chunkservers lost power"
            );
            self.fail(Error::LostUnsynced {
                path,
                handle: location.handle,
                since,
            });
        }
        self.slots.insert(index, Slot { location, writable });
    }

    pub fn location(&self, index: u32) -> Option<Arc<Location>> {
        self.slots.get(&index).map(|slot| slot.location.clone())
    }

    /// Whether chunk `index` lies within what the master knows as the file.
    pub fn within_size(&self, index: u32) -> bool {
        index < chunk_count(self.attr.size)
    }

    /// The file was cut or made longer to `size` by this client, and all was committed before.
    pub fn resized(&mut self, size: u64, attr: Attr) -> Vec<Chunk> {
        let first_gone = chunk_count(size);
        let gone = self.chunks.split_off(&first_gone);
        self.slots.split_off(&first_gone);
        if !size.is_multiple_of(cairn_types::layout::CHUNK_SIZE_BYTES) {
            // the last one was cut, or may have been: its version is another
            self.slots.remove(&chunk_index(size));
        }
        self.owes_all &= size > 0;
        self.dirty_end = 0;
        self.acked_end = 0;
        self.epoch += 1;
        self.attr = attr;
        gone.into_values().collect()
    }

    /// What another client cut off need not be synced any more.
    pub fn forget_cut(&mut self) -> Vec<Chunk> {
        let end = chunk_count(self.attr.size);
        let cut =
            |index: &u32, chunk: &mut Chunk| *index >= end && chunk.is_clean() && chunk.unsynced_since().is_some();
        self.chunks.extract_if(.., cut).map(|(_, chunk)| chunk).collect()
    }

    /// Something was written here that a power loss could still take.
    pub fn holds_unsynced(&self) -> bool {
        !self.is_clean() || self.chunks.values().any(|chunk| chunk.unsynced_since().is_some())
    }

    /// The master is about to be told that no write is under way: it has to be asked again before the next. False: it
    /// knows.
    pub fn end_writing(&mut self) -> bool {
        for slot in self.slots.values_mut() {
            slot.writable = false;
        }
        std::mem::take(&mut self.writing)
    }

    /// Nothing is buffered, unacknowledged or uncommitted.
    pub fn is_clean(&self) -> bool {
        self.chunks.values().all(|chunk| chunk.is_clean())
    }

    /// There is nothing to commit.
    pub fn is_settled(&self) -> bool {
        self.is_clean() && !self.touched
    }

    /// The generation of a file that is empty and whose first chunk, the only one, is this client's to write, which has
    /// sent nothing to it.
    pub fn unwritten(&self) -> Option<u64> {
        let (slot, chunk) = (self.slots.get(&0)?, self.chunks.get(&0)?);
        let only = self.size() == 0 && self.slots.len() == 1 && self.chunks.len() == 1 && !self.granted_before;
        let granted = slot.writable && slot.location.granted && chunk.is_untouched(slot.location.handle);
        (only && granted).then_some(self.attr.generation)
    }
}
