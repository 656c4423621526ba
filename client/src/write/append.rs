//! Record append (promise 5, protocol R9): the records of a file in the order of the calls, a window of them on its way
//! to the head of the chunk that they go to. A record keeps its number for ever: after a failure those without an answer
//! are sent again, in order, to the chunk that they were sent to, and to the next one only when that chunk is full
//! without them.
use super::recover::{Setback, Stall};
use crate::core::Core;
use crate::data::{Answer, Trouble};
use crate::node::{Node, State};
use crate::{Error, Location, Result};
use bytes::Bytes;
use cairn_proto::common::ErrorCode;
use cairn_proto::data::{self, frame_header::Body};
use cairn_proto::record::{checksum, stored_bytes};
use cairn_types::layout::{CHUNK_SIZE_BYTES, chunk_index};
use cairn_types::limits::{FRAME_PAYLOAD_BYTES_MAX, RECORD_BYTES_MAX, RECORDS_IN_FLIGHT_MAX};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

/// A head that gets a record from many clients at a time may be so slow with it.
const SECONDS_A_MIB: u64 = 1;

/// The records of one file that are not acknowledged.
#[derive(Default)]
pub(crate) struct Appends {
    queue: VecDeque<Record>,
    /// The chunk that those in the queue are sent to; none: wherever the file ends.
    index: Option<u32>,
    /// A driver is at work, or about to be.
    driving: bool,
    work: Arc<Notify>,
}

struct Record {
    number: u64,
    data: Bytes,
    checksum: u32,
    /// It may have its place already.
    sent: bool,
    done: oneshot::Sender<Result<u64>>,
    _budget: OwnedSemaphorePermit,
}

/// A record on its way.
struct Flight {
    number: u64,
    len: usize,
    answer: Answer,
}

/// Of one record, in order.
type Frames = Vec<(Body, Bytes)>;

impl Core {
    /// Where the record is in the file, once every replica has it.
    pub async fn append_record(self: &Arc<Self>, node: &Arc<Node>, data: Bytes) -> Result<u64> {
        if data.len() > RECORD_BYTES_MAX {
            return Err(Error::RecordTooLong(data.len()));
        }
        node.state().check()?;
        let checksum = checksum(&data);
        let budget = data.len().min(self.config.write_buffer_bytes.max(4 << 20));
        let _budget = self.write_budget(node, budget as u32).await?;
        // a truncation waits for it
        let _shape = node.shape.read().await;
        let (done, answer) = oneshot::channel();
        {
            let mut state = node.state();
            state.check()?;
            let appends = &mut state.appends;
            appends.queue.push_back(Record {
                number: self.next_record(),
                data,
                checksum,
                sent: false,
                done,
                _budget,
            });
            appends.work.notify_one();
            if !std::mem::replace(&mut appends.driving, true) {
                let node = node.clone();
                self.detach(|core| async move { core.drive_appends(&node).await });
            }
        }
        // the driver ends without an answer when the client is shut down
        answer.await.unwrap_or(Err(Error::ShutDown))
    }

    async fn drive_appends(self: Arc<Self>, node: &Arc<Node>) {
        let mut stall = Stall::new(self.config.timeout);
        loop {
            let mut index = 0;
            let pumped = Box::pin(self.pump_appends(node, &mut index, &mut stall)).await;
            if let Err(setback) = pumped
                && let Err(error) = Box::pin(self.recover(node, index, setback, &mut stall)).await
            {
                node.state().appends.fail(&node.label(), &error);
            }
            let mut state = node.state();
            if state.appends.queue.is_empty() {
                // nothing is in doubt: the next record goes wherever the file ends by then
                state.appends.index = None;
                state.appends.driving = false;
                return;
            }
        }
    }

    /// Sends and takes answers until no record is left, or they have to go to another chunk.
    async fn pump_appends(
        self: &Arc<Self>,
        node: &Arc<Node>,
        index: &mut u32,
        stall: &mut Stall,
    ) -> std::result::Result<(), Setback> {
        let known = node.state().appends.index;
        *index = match known {
            Some(index) => index,
            None => chunk_index(self.end_of_file(node).await.map_err(Setback::Master)?),
        };
        let index = *index;
        node.state().appends.index = Some(index);
        let located = self.locate_for_write(node, index, stall.left()).await;
        let location = located.map_err(Setback::Master)?;
        let Some(head) = location.members.first() else {
            let trouble = Trouble::Garbled("the chunk has no members".into());
            return Err(Setback::at(&location, trouble, true));
        };
        self.bind(node, &location, false);
        let work = node.state().appends.work.clone();
        let connection = self.pool.get(&head.address).await;
        let connection = connection.map_err(|e| Setback::at(&location, e, true))?;
        let fresh = connection.fresh;
        let setback = |trouble| Setback::at(&location, trouble, fresh);
        let mut flights: VecDeque<Flight> = VecDeque::new();
        let mut in_flight = 0;
        let mut heard = Instant::now();
        loop {
            while let Some((number, len, frames)) = self.next_record_frames(node, &location, &flights, in_flight) {
                if flights.is_empty() {
                    heard = Instant::now();
                }
                let answer = connection.start_all(frames).await.map_err(setback)?;
                flights.push_back(Flight { number, len, answer });
                in_flight += len;
            }
            let Some(Flight { number, len, answer }) = flights.front_mut() else {
                return Ok(());
            };
            let patience = Duration::from_secs((*len as u64 >> 20) * SECONDS_A_MIB) + self.config.server_timeout;
            tokio::select! {
                biased;
                frame = answer.until(heard + patience) => {
                    let offset = match frame {
                        Ok(frame) => match frame.body {
                            Body::Appended(appended) => appended.offset,
                            _ => return Err(setback(Trouble::Garbled("not an acknowledgement".into()))),
                        },
                        Err(trouble) if trouble.code() == ErrorCode::ErrorChunkFull => {
                            stall.progress();
                            let end = self.end_of_file(node).await.map_err(Setback::Master)?;
                            node.state().appends.index = Some(chunk_index(end).max(index + 1));
                            return Ok(());
                        }
                        Err(trouble) => return Err(setback(trouble)),
                    };
                    heard = Instant::now();
                    stall.progress();
                    self.pool.answered(&head.address);
                    in_flight -= *len;
                    let number = *number;
                    flights.pop_front();
                    if !node.state().appended(&location, number, offset) {
                        // given up meanwhile
                        return Ok(());
                    }
                    self.mark_dirty(node.ino);
                }
                () = work.notified() => {}
            }
        }
    }

    /// The record behind those on their way, if there is one and room for it.
    fn next_record_frames(
        &self,
        node: &Node,
        location: &Location,
        flights: &VecDeque<Flight>,
        in_flight: usize,
    ) -> Option<(u64, usize, Frames)> {
        let mut state = node.state();
        let size = state.size();
        let name = state.name.clone();
        let granted = state.chunks.get(&location.index).is_some_and(|chunk| chunk.granted);
        let record = state.appends.queue.get_mut(flights.len())?;
        let len = record.data.len();
        let room = flights.len() < RECORDS_IN_FLIGHT_MAX && in_flight + len <= self.config.write_window_bytes;
        if !room && !flights.is_empty() {
            return None;
        }
        record.sent = true;
        let append = data::Append {
            handle: location.handle.0,
            version: Some(location.version.into()),
            session: Bytes::copy_from_slice(self.session.id().as_bytes()),
            number: record.number,
            previous: flights.back().map_or(0, |flight| flight.number),
            length: len as u32,
            checksum: record.checksum,
            from: size
                .saturating_sub(u64::from(location.index) * CHUNK_SIZE_BYTES)
                .min(CHUNK_SIZE_BYTES),
            grant: granted.then(|| super::grant_of(location, &name)),
            disk: location
                .members
                .first()
                .map(|m| Bytes::copy_from_slice(m.disk.as_bytes()))
                .unwrap_or_default(),
            epoch: location.epoch,
        };
        let first = record.data.slice(..len.min(FRAME_PAYLOAD_BYTES_MAX));
        let mut frames = vec![(Body::Append(append), first)];
        for start in (FRAME_PAYLOAD_BYTES_MAX..len).step_by(FRAME_PAYLOAD_BYTES_MAX) {
            let more = record.data.slice(start..len.min(start + FRAME_PAYLOAD_BYTES_MAX));
            frames.push((Body::AppendMore(data::AppendMore {}), more));
        }
        Some((record.number, len, frames))
    }
}

impl Appends {
    /// All records that are not acknowledged are given up.
    fn fail(&mut self, path: &str, error: &Error) {
        for record in self.queue.drain(..) {
            let error = match record.sent {
                true => Error::MaybeAppended {
                    path: path.to_owned(),
                    cause: error.to_string(),
                },
                false => error.clone(),
            };
            // whoever appended it may have gone
            let _ = record.done.send(Err(error));
        }
    }
}

impl State {
    /// Every member has record `number`, at `offset` of the chunk. False: it was given up before.
    fn appended(&mut self, location: &Location, number: u64, offset: u64) -> bool {
        let queue = &mut self.appends.queue;
        let Some(record) = queue.pop_front_if(|record| record.number == number) else {
            return false;
        };
        let start = u64::from(location.index) * CHUNK_SIZE_BYTES;
        let end = start + offset + stored_bytes(record.data.len());
        self.dirty_end = self.dirty_end.max(end);
        self.acked_end = self.acked_end.max(end);
        self.epoch += 1;
        if let Some(chunk) = self.chunks.get_mut(&location.index)
            && chunk.handle == Some(location.handle)
        {
            chunk.appended += 1;
            chunk.granted = false;
            chunk.trouble = None;
            chunk.unsynced_since.get_or_insert(location.version);
        }
        // whoever appended it may have gone
        let _ = record.done.send(Ok(start + offset));
        true
    }
}
