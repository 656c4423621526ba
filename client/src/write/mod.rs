//! Writing: bytes are gathered into frames, a driver a chunk sends them to the head of the chain and keeps them until
//! every replica has acknowledged them.
//!
//! ```text
//! write_at -> open frame -> queue --driver--> head of the chain
//!             (grows to      (sealed; sent in order, a window of them in flight;
//!              1 MiB)         dropped when acknowledged)
//! ```
//!
//! Frames of a chunk are numbered here from 1 for as long as the chunk is known (`sealed`, `acked`, ...); on the wire
//! they carry the sequence of (session, chunk), which goes on from open to open (protocol R9). After a failure what is
//! unacknowledged is sent again in order, with the same sequences, before anything new (R12, `recover`).
mod append;
mod drive;
mod durable;
mod locate;
mod recover;

pub(crate) use append::Appends;

use crate::core::Core;
use crate::node::Node;
use crate::{Error, Location, Result};
use bytes::{Bytes, BytesMut};
use cairn_proto::data::Grant;
use cairn_types::layout::{CHUNK_SIZE_BYTES, FILE_SIZE_BYTES_MAX, chunk_ranges};
use cairn_types::limits::{FRAME_PAYLOAD_BYTES_MAX, NAME_BYTES_MAX};
use cairn_types::{ChunkHandle, Version};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::timeout;

const FRAME_BYTES: u64 = FRAME_PAYLOAD_BYTES_MAX as u64;

/// What was written to one chunk and is not yet out of our hands.
///
/// Invariant: committed <= acked + appended, acked <= sealed; the queue holds the frames (acked, sealed].
#[derive(Default)]
pub(crate) struct Chunk {
    /// Whose sequences `next_sequence` counts.
    handle: Option<ChunkHandle>,
    next_sequence: u64,
    /// No commit has named it, and nothing was acknowledged here: frames carry the grant (protocol R10).
    granted: bool,
    open: Option<OpenFrame>,
    queue: VecDeque<Frame>,
    sealed: u64,
    acked: u64,
    /// Records that every replica has.
    appended: u64,
    /// Of frames and records together.
    committed: u64,
    /// The oldest version under which there are acknowledged bytes that no sync has covered.
    unsynced_since: Option<Version>,
    /// What last kept a frame from being acknowledged, for people; none since the last acknowledgement.
    trouble: Option<String>,
    /// A driver is at work, or about to be.
    driving: bool,
    /// There is more to send.
    work: Arc<Notify>,
}

struct OpenFrame {
    offset: u64,
    bytes: BytesMut,
    budget: OwnedSemaphorePermit,
}

struct Frame {
    offset: u64,
    payload: Bytes,
    /// 0: not sent yet.
    sequence: u64,
    /// Given back to the client's write buffer with the frame.
    _budget: OwnedSemaphorePermit,
}

impl Frame {
    fn end(&self) -> u64 {
        self.offset + self.payload.len() as u64
    }
}

impl Chunk {
    pub fn handle(&self) -> Option<ChunkHandle> {
        self.handle
    }
    pub fn unsynced_since(&self) -> Option<Version> {
        self.unsynced_since
    }

    /// The last sequence that was used for its handle.
    pub fn last_sequence(&self) -> Option<(ChunkHandle, u64)> {
        self.handle.map(|handle| (handle, self.next_sequence.saturating_sub(1)))
    }

    /// It was granted as `handle`, and nothing was sent to it.
    pub fn is_untouched(&self, handle: ChunkHandle) -> bool {
        self.granted && self.handle == Some(handle) && self.next_sequence == 1 && self.is_clean() && self.sealed == 0
    }

    /// Nothing buffered, unacknowledged or uncommitted.
    pub fn is_clean(&self) -> bool {
        self.open.is_none() && self.acked == self.sealed && self.committed == self.done()
    }

    /// Frames and records that every replica has.
    fn done(&self) -> u64 {
        self.acked + self.appended
    }

    /// What is not acknowledged is given up.
    pub fn abandon(&mut self) {
        self.open = None;
        self.queue.clear();
        self.acked = self.sealed;
        self.committed = self.done();
        self.unsynced_since = None;
        self.work.notify_one();
    }

    /// Takes in bytes for `[offset, ...)` of the chunk, which do not cross a frame's boundary.
    fn push(&mut self, offset: u64, data: Bytes, budget: OwnedSemaphorePermit) {
        if let Some(open) = &mut self.open {
            if open.offset + open.bytes.len() as u64 == offset && !offset.is_multiple_of(FRAME_BYTES) {
                open.bytes.extend_from_slice(&data);
                open.budget.merge(budget);
                if (offset + data.len() as u64).is_multiple_of(FRAME_BYTES) {
                    self.seal();
                }
                return;
            }
            self.seal();
        }
        if (offset + data.len() as u64).is_multiple_of(FRAME_BYTES) {
            // it ends a frame: nothing can be added, so it need not be copied
            self.enqueue(Frame {
                offset,
                payload: data,
                sequence: 0,
                _budget: budget,
            });
            return;
        }
        self.open = Some(OpenFrame {
            offset,
            bytes: BytesMut::from(&data[..]),
            budget,
        });
    }

    /// Nothing more is added to the open frame.
    fn seal(&mut self) {
        if let Some(open) = self.open.take() {
            let OpenFrame { offset, bytes, budget } = open;
            self.enqueue(Frame {
                offset,
                payload: bytes.freeze(),
                sequence: 0,
                _budget: budget,
            });
        }
    }

    fn enqueue(&mut self, frame: Frame) {
        self.queue.push_back(frame);
        self.sealed += 1;
        self.work.notify_one();
    }

    /// The number of the last frame that touches `[from, to)`, counting the open one as sealed.
    fn last_touching(&self, from: u64, to: u64) -> Option<u64> {
        let touches = |offset: u64, end: u64| offset < to && from < end;
        if let Some(open) = &self.open
            && touches(open.offset, open.offset + open.bytes.len() as u64)
        {
            return Some(self.sealed + 1);
        }
        let back = self
            .queue
            .iter()
            .rev()
            .position(|frame| touches(frame.offset, frame.end()))?;
        Some(self.sealed - back as u64)
    }

    /// Lowest offset that is buffered or unacknowledged and ends beyond `beyond`; all within the chunk.
    fn lowest_pending(&self, beyond: u64) -> Option<u64> {
        let open = self
            .open
            .iter()
            .map(|open| (open.offset, open.offset + open.bytes.len() as u64));
        let queued = self.queue.iter().map(|frame| (frame.offset, frame.end()));
        open.chain(queued)
            .filter(|(_, end)| *end > beyond)
            .map(|(offset, _)| offset)
            .min()
    }

    /// The next write is to `handle`: sequences are its own.
    fn bind(&mut self, handle: ChunkHandle, last_sequence: impl FnOnce() -> u64, granted: bool) {
        if self.handle == Some(handle) {
            // what was acknowledged is in replicas that are there, whatever was known before of the chunk
            self.granted &= granted;
            return;
        }
        self.handle = Some(handle);
        self.next_sequence = last_sequence() + 1;
        self.granted = granted;
        // what the old chunk had was cut off with it
        self.unsynced_since = None;
        for frame in &mut self.queue {
            frame.sequence = 0;
        }
    }

    /// An open that has ended wrote to `handle`, up to sequence `last`, and did not sync it.
    pub fn owe(&mut self, handle: ChunkHandle, last: u64, since: Version) {
        self.bind(handle, || last, false);
        self.unsynced_since = Some(since);
    }

    /// Every member has lost its memory of this session (protocol R9 goes as far as memories do): what was sent is
    /// numbered anew behind `last`.
    fn renumber(&mut self, last: u64) {
        self.next_sequence = last + 1;
        for frame in &mut self.queue {
            if frame.sequence != 0 {
                frame.sequence = self.next_sequence;
                self.next_sequence += 1;
            }
        }
    }
}

/// What the first frames to a chunk bring to its servers (protocol R10).
fn grant_of(location: &Location, name: &Bytes) -> Grant {
    Grant {
        members: location.members.iter().map(Into::into).collect(),
        inode: location.inode.0,
        index: location.index,
        name: name.slice(..name.len().min(NAME_BYTES_MAX)),
    }
}

impl Core {
    /// Takes `data` into the buffers of `node`; waits while they are full.
    ///
    /// # Errors
    /// What an earlier write of the file met; `TooBig`; `WriteFailed` when there was no room for the timeout.
    pub async fn write(self: &Arc<Self>, node: &Arc<Node>, offset: u64, data: Bytes) -> Result<()> {
        let end = offset
            .checked_add(data.len() as u64)
            .filter(|end| *end <= FILE_SIZE_BYTES_MAX);
        let end = end.ok_or(Error::TooBig(offset.saturating_add(data.len() as u64)))?;
        node.state().check()?;
        let _shape = node.shape.read().await;
        let mut at = 0;
        for range in chunk_ranges(offset, end - offset) {
            let mut within = range.offset;
            while within < range.offset + range.len {
                let len = (range.offset + range.len - within).min(FRAME_BYTES - within % FRAME_BYTES);
                let piece = data.slice(at..at + len as usize);
                let budget = self.write_budget(node, len as u32).await?;
                self.push(node, range.index, within, piece, budget)?;
                within += len;
                at += len as usize;
            }
        }
        Ok(())
    }

    async fn write_budget(self: &Arc<Self>, node: &Arc<Node>, len: u32) -> Result<OwnedSemaphorePermit> {
        if let Ok(budget) = self.write_buffer.clone().try_acquire_many_owned(len) {
            return Ok(budget);
        }
        // open frames, of this file and others, hold what is wanted: on their way with them
        self.seal_all();
        match timeout(self.config.timeout, self.write_buffer.clone().acquire_many_owned(len)).await {
            Ok(Ok(budget)) => Ok(budget),
            Ok(Err(_)) => Err(Error::ShutDown),
            Err(_) => Err(Error::WriteFailed {
                path: node.label(),
                handle: ChunkHandle(0),
                offset: 0,
                within: self.config.timeout,
                cause: "the write buffer stayed full".into(),
            }),
        }
    }

    fn push(
        self: &Arc<Self>,
        node: &Arc<Node>,
        index: u32,
        offset: u64,
        data: Bytes,
        budget: OwnedSemaphorePermit,
    ) -> Result<()> {
        let end = u64::from(index) * CHUNK_SIZE_BYTES + offset + data.len() as u64;
        let mut state = node.state();
        state.check()?;
        state.dirty_end = state.dirty_end.max(end);
        state.epoch += 1;
        let chunk = state.chunks.entry(index).or_default();
        chunk.push(offset, data, budget);
        self.kick(node, index, chunk);
        drop(state);
        self.mark_dirty(node.ino);
        Ok(())
    }

    /// Sees to it that a driver sends what is sealed.
    fn kick(self: &Arc<Self>, node: &Arc<Node>, index: u32, chunk: &mut Chunk) {
        if chunk.driving || chunk.queue.is_empty() {
            return;
        }
        chunk.driving = true;
        let node = node.clone();
        self.detach(|core| async move { core.drive(&node, index).await });
    }

    /// Sends the open frames of `node` on their way.
    pub fn seal(self: &Arc<Self>, node: &Arc<Node>) {
        let mut state = node.state();
        for (index, chunk) in &mut state.chunks {
            chunk.seal();
            self.kick(node, *index, chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::sync::Semaphore;

    fn push(chunk: &mut Chunk, buffer: &Arc<Semaphore>, mut offset: u64, mut data: &[u8]) {
        while !data.is_empty() {
            let len = data.len().min((FRAME_BYTES - offset % FRAME_BYTES) as usize);
            let budget = buffer.clone().try_acquire_many_owned(len as u32).unwrap();
            chunk.push(offset, Bytes::copy_from_slice(&data[..len]), budget);
            offset += len as u64;
            data = &data[len..];
        }
    }

    #[test]
    fn small_contiguous_writes_become_frames_of_a_mebibyte() {
        let (mut chunk, buffer) = (Chunk::default(), Arc::new(Semaphore::new(64 << 20)));
        for n in 0..512 {
            push(&mut chunk, &buffer, n * 4096, &[n as u8; 4096]);
        }
        let lens: Vec<_> = chunk.queue.iter().map(|frame| frame.payload.len()).collect();
        assert_eq!(lens, [1 << 20, 1 << 20]);
        assert!(chunk.open.is_none());
    }

    #[test]
    fn sequences_follow_what_the_server_remembers() {
        let (mut chunk, buffer) = (Chunk::default(), Arc::new(Semaphore::new(1 << 20)));
        chunk.bind(ChunkHandle(1), || 7, false);
        for n in [0, 2, 4] {
            push(&mut chunk, &buffer, n * 4096, b"x");
        }
        chunk.seal();
        for frame in chunk.queue.iter_mut().take(2) {
            frame.sequence = chunk.next_sequence;
            chunk.next_sequence += 1;
        }
        assert_eq!(chunk.queue.iter().map(|f| f.sequence).collect::<Vec<_>>(), [8, 9, 0]);
        chunk.renumber(2);
        assert_eq!(chunk.queue.iter().map(|f| f.sequence).collect::<Vec<_>>(), [3, 4, 0]);
        assert_eq!(chunk.next_sequence, 5);
        chunk.bind(ChunkHandle(2), || 0, true);
        assert_eq!(chunk.queue.iter().map(|f| f.sequence).collect::<Vec<_>>(), [0, 0, 0]);
    }

    proptest! {
        /// Whatever is written in whatever pieces, the frames in their order give the same bytes, each within a
        /// frame's bounds, and no byte of the budget is lost.
        #[test]
        fn frames_in_order_are_the_writes_in_order(
            writes in prop::collection::vec((0u64..3 << 20, 1usize..300_000, any::<u8>()), 1..30),
            seals in prop::collection::vec(any::<bool>(), 30),
        ) {
            let total: usize = writes.iter().map(|w| w.1).sum();
            let (mut chunk, buffer) = (Chunk::default(), Arc::new(Semaphore::new(total)));
            let mut model = vec![0u8; 4 << 20];
            for ((offset, len, byte), seal) in writes.into_iter().zip(seals) {
                push(&mut chunk, &buffer, offset, &vec![byte; len]);
                model[offset as usize..][..len].fill(byte);
                let last = chunk.last_touching(offset, offset + len as u64);
                prop_assert_eq!(last, Some(chunk.sealed + u64::from(chunk.open.is_some())));
                if seal {
                    chunk.seal();
                }
            }
            chunk.seal();
            prop_assert_eq!(chunk.sealed, chunk.queue.len() as u64);
            prop_assert_eq!(buffer.available_permits(), 0);
            let mut got = vec![0u8; 4 << 20];
            for frame in &chunk.queue {
                prop_assert!(!frame.payload.is_empty());
                prop_assert_eq!(frame.offset / FRAME_BYTES, (frame.end() - 1) / FRAME_BYTES);
                got[frame.offset as usize..frame.end() as usize].copy_from_slice(&frame.payload);
            }
            prop_assert!(got == model);
            chunk.abandon();
            prop_assert_eq!(buffer.available_permits(), total);
        }
    }
}
