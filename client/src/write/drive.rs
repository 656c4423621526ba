//! The driver of one chunk: sends what is sealed, a window at a time, until there is nothing left.
use super::Chunk;
use super::recover::{Setback, Stall};
use crate::core::Core;
use crate::data::{Answer, Trouble};
use crate::limits::PIPELINE_MAX;
use crate::node::Node;
use crate::{Error, Location};
use bytes::Bytes;
use cairn_proto::data::{self, frame_header::Body};
use cairn_proto::frame::checksums;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::time::Instant;

/// A frame on its way.
struct Flight {
    number: u64,
    len: usize,
    answer: Answer,
}

impl Core {
    pub(super) async fn drive(self: &Arc<Self>, node: &Arc<Node>, index: u32) {
        let mut stall = Stall::new(self.config.timeout);
        loop {
            match Box::pin(self.pump(node, index, &mut stall)).await {
                Ok(()) => {
                    let mut state = node.state();
                    let Some(chunk) = state.chunks.get_mut(&index) else {
                        return;
                    };
                    if chunk.queue.is_empty() {
                        chunk.driving = false;
                        return;
                    }
                }
                Err(setback) => {
                    if let Err(error) = Box::pin(self.recover(node, index, setback, &mut stall)).await {
                        self.lost_write(node, index, error).await;
                    }
                }
            }
        }
    }

    /// The bytes can't be brought to the replicas.
    async fn lost_write(&self, node: &Node, index: u32, error: Error) {
        if node.state().error.is_none() && !matches!(error, Error::ShutDown) {
            tracing::error!(inode = node.ino.0, index, "a write was lost: {error}");
        }
        node.fail(error);
    }

    /// Sends and takes acknowledgements until everything sealed is acknowledged.
    async fn pump(&self, node: &Node, index: u32, stall: &mut Stall) -> Result<(), Setback> {
        if node
            .state()
            .chunks
            .get(&index)
            .is_none_or(|chunk| chunk.queue.is_empty())
        {
            return Ok(());
        }
        let location = self
            .locate_for_write(node, index, stall.left())
            .await
            .map_err(Setback::Master)?;
        let version = location.version;
        let Some(head) = location.members.first() else {
            return Err(Setback::at(
                &location,
                Trouble::Garbled("the chunk has no members".into()),
                true,
            ));
        };
        self.bind(node, &location, false);
        let work = match node.state().chunks.get(&index) {
            Some(chunk) => chunk.work.clone(),
            None => return Ok(()),
        };
        let peer = self.pool.peer(&head.address);
        let connection = peer.get().await.map_err(|e| Setback::at(&location, e, true))?;
        let fresh = connection.fresh;
        let setback = |trouble| Setback::at(&location, trouble, fresh);
        let mut flights: VecDeque<Flight> = VecDeque::new();
        let mut in_flight = 0;
        let mut heard = Instant::now();
        loop {
            loop {
                let room = self.config.write_window_bytes.saturating_sub(in_flight);
                let next = match flights.len() < PIPELINE_MAX {
                    true => self.next_frame(
                        node,
                        &location,
                        flights.back().map(|f| f.number),
                        room,
                        flights.is_empty(),
                    ),
                    false => None,
                };
                let Some((number, write, payload)) = next else { break };
                let len = payload.len();
                if flights.is_empty() {
                    heard = Instant::now();
                }
                let answer = connection
                    .place()
                    .await
                    .map_err(setback)?
                    .start(Body::Write(write), payload);
                flights.push_back(Flight { number, len, answer });
                in_flight += len;
            }
            let Some(Flight { number, len, answer }) = flights.front_mut() else {
                return Ok(());
            };
            tokio::select! {
                biased;
                frame = answer.until(heard + self.config.server_timeout) => {
                    match frame.map_err(setback)?.body {
                        Body::Acknowledged(_) => {}
                        _ => return Err(setback(Trouble::Garbled("not an acknowledgement".into()))),
                    }
                    heard = Instant::now();
                    stall.progress();
                    peer.answered();
                    in_flight -= *len;
                    let known = node.state().acknowledged(index, *number, version);
                    node.progress.notify_waiters();
                    if !known {
                        // given up or cut off meanwhile
                        return Ok(());
                    }
                    flights.pop_front();
                }
                () = work.notified() => {}
            }
        }
    }

    /// The frame behind `sent` (none: the first that is not acknowledged), if there is one and room for it.
    fn next_frame(
        &self,
        node: &Node,
        location: &Location,
        sent: Option<u64>,
        room: usize,
        alone: bool,
    ) -> Option<(u64, data::Write, Bytes)> {
        let mut state = node.state();
        let name = state.name.clone();
        let chunk = state.chunks.get_mut(&location.index)?;
        if chunk.handle != Some(location.handle) {
            return None;
        }
        let at = sent.map_or(0, |sent| (sent + 1).saturating_sub(chunk.acked + 1)) as usize;
        let number = chunk.acked + 1 + at as u64;
        let Chunk {
            queue,
            next_sequence,
            granted,
            ..
        } = chunk;
        let frame = queue.get_mut(at)?;
        if frame.payload.len() > room && !alone {
            return None;
        }
        if frame.sequence == 0 {
            frame.sequence = *next_sequence;
            *next_sequence += 1;
        }
        let (sequence, offset, payload, granted) = (frame.sequence, frame.offset, frame.payload.clone(), *granted);
        // checksums take their time
        drop(state);
        let grant = granted.then(|| super::grant_of(location, &name));
        let write = data::Write {
            handle: location.handle.0,
            version: Some(location.version.into()),
            session: Bytes::copy_from_slice(self.session.id().as_bytes()),
            sequence,
            serial: 0,
            offset,
            checksums: checksums(offset, &payload).collect(),
            grant,
            epoch: location.epoch,
            disk: location
                .members
                .first()
                .map(|m| Bytes::copy_from_slice(m.disk.as_bytes()))
                .unwrap_or_default(),
        };
        Some((number, write, payload))
    }
}

impl crate::node::State {
    /// Every member has applied frame `number` of chunk `index` at `version`. False: it was given up before.
    fn acknowledged(&mut self, index: u32, number: u64, version: cairn_types::Version) -> bool {
        let Some(chunk) = self.chunks.get_mut(&index) else {
            return false;
        };
        if chunk.acked + 1 != number {
            return false;
        }
        let Some(frame) = chunk.queue.pop_front() else {
            return false;
        };
        chunk.acked = number;
        chunk.granted = false;
        chunk.trouble = None;
        chunk.unsynced_since.get_or_insert(version);
        let end = u64::from(index) * cairn_types::layout::CHUNK_SIZE_BYTES + frame.end();
        self.acked_end = self.acked_end.max(end);
        true
    }
}
