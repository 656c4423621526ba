//! Reading ahead of one open file. After two reads in sequence, pieces of a frame are fetched before they are asked
//! for, each time more of them up to the configured bound and across chunks; a read elsewhere forgets them. What was
//! fetched is believed only while the file has not been written here nor been invalidated by the master's push, and not
//! for long.
use crate::core::Core;
use crate::limits::READ_AHEAD_AGE_MAX;
use crate::node::Node;
use crate::{Error, Result};
use bytes::{Bytes, BytesMut};
use cairn_types::limits::FRAME_PAYLOAD_BYTES_MAX;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

const PIECE: u64 = FRAME_PAYLOAD_BYTES_MAX as u64;
/// Reads in sequence before anything is fetched ahead.
const SEQUENCE_MIN: u32 = 2;
/// The kernel sends the reads of one window in any order: so far from the expected place still counts as sequential.
const SLACK: u64 = 2 * PIECE;

#[derive(Default)]
pub(crate) struct ReadAhead(Mutex<State>);

#[derive(Default)]
struct State {
    /// Where a sequential reader goes on.
    next: u64,
    sequence: u32,
    /// Pieces to be fetched ahead.
    window: u64,
    pieces: BTreeMap<u64, Piece>,
}

#[derive(Clone)]
struct Piece {
    data: Shared<BoxFuture<'static, Result<Bytes>>>,
    len: u64,
    epoch: u64,
    since: Instant,
    _budget: Arc<OwnedSemaphorePermit>,
}

impl ReadAhead {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A read of `[offset, offset + len)` is about to happen: fetches what it and those after it will want.
    pub fn advance(&self, core: &Arc<Core>, node: &Arc<Node>, offset: u64, len: u64, size: u64) {
        let epoch = quiet_epoch(node);
        let mut state = self.state();
        let sequential = offset <= state.next + SLACK && state.next <= offset + SLACK;
        if !sequential {
            *state = State {
                next: offset + len,
                ..State::default()
            };
            return;
        }
        state.next = state.next.max(offset + len);
        state.sequence += 1;
        // a file that is being written here would have to be flushed again and again
        let Some(epoch) = epoch.filter(|_| state.sequence > SEQUENCE_MIN && len > 0) else {
            return;
        };
        let most = (core.config.read_ahead_bytes as u64 / PIECE).max(1);
        state.window = (state.window * 2).max(1).max(2 * len / PIECE).min(most);
        let first = offset / PIECE;
        let behind = first.saturating_sub(SLACK / PIECE);
        state.pieces = state.pieces.split_off(&behind);
        state.pieces.retain(|_, piece| piece.is_good(epoch));
        let last = state.next / PIECE + state.window;
        for number in first..last {
            let start = number * PIECE;
            if start >= size {
                break;
            }
            if state.pieces.contains_key(&number) {
                continue;
            }
            let len = PIECE.min(size - start);
            let Ok(budget) = core.read_buffer.clone().try_acquire_many_owned(len as u32) else {
                break;
            };
            state
                .pieces
                .insert(number, fetch(core, node, start, len, epoch, budget));
        }
    }

    /// Fetches a file of `size` bytes, or its beginning, before anything is asked for.
    pub fn begin(&self, core: &Arc<Core>, node: &Arc<Node>, size: u64) {
        let len = size.min(PIECE);
        let Some(epoch) = quiet_epoch(node).filter(|_| len > 0) else {
            return;
        };
        let Ok(budget) = core.read_buffer.clone().try_acquire_many_owned(len as u32) else {
            return;
        };
        let (node, deadline) = (node.clone(), Instant::now() + core.config.timeout);
        let (mut done, data) = oneshot::channel();
        core.detach(move |core| async move {
            let read = tokio::select! {
                biased;
                () = done.closed() => return,
                read = core.read_within(&node, 0, len, deadline) => read,
            };
            // whoever wanted it may have gone meanwhile
            let _ = done.send(read);
        });
        let data = async move { data.await.unwrap_or(Err(Error::ShutDown)) };
        let piece = Piece::new(data, len, epoch, budget);
        self.state().pieces.insert(0, piece);
    }

    /// Something was asked for.
    pub fn was_read(&self) -> bool {
        self.state().next > 0
    }

    /// The bytes, when all of them were fetched ahead.
    pub async fn take(&self, node: &Node, offset: u64, len: u64) -> Option<Bytes> {
        if len == 0 {
            return None;
        }
        let (first, last) = (offset / PIECE, (offset + len - 1) / PIECE);
        let epoch = node.state().epoch;
        let pieces: Vec<(u64, Piece)> = {
            let state = self.state();
            state
                .pieces
                .range(first..=last)
                .map(|(number, piece)| (*number, piece.clone()))
                .collect()
        };
        if pieces.len() as u64 != last - first + 1 {
            return None;
        }
        let mut whole = BytesMut::new();
        for (number, piece) in pieces {
            let start = number * PIECE;
            let from = offset.max(start) - start;
            let to = (offset + len).min(start + PIECE) - start;
            if !piece.is_good(epoch) || piece.len < to {
                return None;
            }
            // an error is the direct read's to find and tell
            let data = piece.data.await.ok()?;
            let part = data.get(from as usize..to as usize)?;
            if first == last {
                let part = data.slice_ref(part);
                return (node.state().epoch == epoch).then_some(part);
            }
            whole.extend_from_slice(part);
        }
        (node.state().epoch == epoch).then(|| whole.freeze())
    }
}

impl Piece {
    fn new(
        data: impl Future<Output = Result<Bytes>> + Send + 'static,
        len: u64,
        epoch: u64,
        budget: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            data: data.boxed().shared(),
            len,
            epoch,
            since: Instant::now(),
            _budget: Arc::new(budget),
        }
    }

    fn is_good(&self, epoch: u64) -> bool {
        self.epoch == epoch && self.since.elapsed() < READ_AHEAD_AGE_MAX
    }
}

/// None: something was written here that a read would have to wait for.
fn quiet_epoch(node: &Node) -> Option<u64> {
    let state = node.state();
    state.is_clean().then_some(state.epoch)
}

fn fetch(core: &Arc<Core>, node: &Arc<Node>, start: u64, len: u64, epoch: u64, budget: OwnedSemaphorePermit) -> Piece {
    let (reader, node) = (core.clone(), node.clone());
    let deadline = Instant::now() + core.config.timeout;
    let task = core
        .tasks
        .spawn(async move { reader.read_within(&node, start, len, deadline).await });
    let task = AbortOnDropHandle::new(task);
    let data = async move { task.await.unwrap_or(Err(Error::ShutDown)) };
    Piece::new(data, len, epoch, budget)
}
