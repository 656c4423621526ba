//! Record append (promise 5, protocol R9): the records of a file in the order of the calls, a window of them on its way
//! to the head of the chunk that they go to. A record keeps its number for ever: after a failure those without an answer
//! are sent again, in order, to the chunk that they were sent to, and to the next one only when that chunk is full
//! without them.
use super::recover::{Setback, Stall};
use crate::core::Core;
use crate::data::{Answer, Lease, Trouble};
use crate::limits::{ASK_BYTES_MAX, UNASKED_BYTES};
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

/// Room for records that take long on their way (`AskRoom`): asked for on a connection of its own, so that no answer to a
/// record waits for it.
struct Asking<'a> {
    core: &'a Core,
    location: &'a Location,
    connection: Option<Lease>,
    answer: Option<Answer>,
    /// Of a chunk that may not be there yet.
    grant: Option<data::Grant>,
    /// Bytes to be asked for; 0: none.
    wanted: usize,
    /// Bytes that may be sent.
    room: usize,
    /// There will be none.
    full: bool,
}

impl<'a> Asking<'a> {
    fn new(core: &'a Core, location: &'a Location) -> Self {
        Self {
            core,
            location,
            connection: None,
            answer: None,
            grant: None,
            wanted: 0,
            room: 0,
            full: false,
        }
    }

    /// Asks if that is wanted; returns when there is an answer. Cancel safe.
    async fn answered(&mut self) {
        if self.full || (self.wanted == 0 && self.answer.is_none()) {
            return std::future::pending().await;
        }
        match self.ask().await {
            Ok(Body::Room(room)) => self.room += room.bytes as usize,
            Err(trouble) if trouble.code() == ErrorCode::ErrorChunkFull => self.full = true,
            // whatever is wrong, a record's own answer tells
            _ => self.room = usize::MAX / 2,
        }
        self.answer = None;
    }

    async fn ask(&mut self) -> std::result::Result<Body, Trouble> {
        let head = self.location.members.first();
        let head = head.ok_or_else(|| Trouble::Garbled("the chunk has no members".into()))?;
        if self.connection.is_none() {
            self.connection = Some(self.core.pool.peer(&head.address).get().await?);
        }
        if self.answer.is_none()
            && let Some(connection) = &self.connection
        {
            let ask = data::AskRoom {
                handle: self.location.handle.0,
                version: Some(self.location.version.into()),
                disk: Bytes::copy_from_slice(head.disk.as_bytes()),
                session: Bytes::copy_from_slice(self.core.session.id().as_bytes()),
                bytes: self.wanted as u64,
                grant: self.grant.clone(),
                epoch: self.location.epoch,
            };
            self.answer = Some(connection.place().await?.start(Body::AskRoom(ask), Bytes::new()));
        }
        let Some(answer) = &mut self.answer else {
            return Err(Trouble::Garbled("nothing was asked".into()));
        };
        let deadline = Instant::now() + self.core.config.server_timeout;
        Ok(answer.until(deadline).await?.body)
    }
}

/// A record about to be sent.
struct Outgoing {
    number: u64,
    len: usize,
    first: (Body, Bytes),
    more: Vec<(Body, Bytes)>,
}

/// A record on its way.
struct Flight {
    number: u64,
    len: usize,
    answer: Answer,
}

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
                let path = node.label();
                node.state().appends.fail(&path, &error);
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
        let peer = self.pool.peer(&head.address);
        let connection = peer.get().await;
        let connection = connection.map_err(|e| Setback::at(&location, e, true))?;
        let fresh = connection.fresh;
        let setback = |trouble| Setback::at(&location, trouble, fresh);
        let mut flights: VecDeque<Flight> = VecDeque::new();
        let mut in_flight = 0;
        let mut heard = Instant::now();
        let mut asking = Asking::new(self, &location);
        loop {
            while let Some(Outgoing {
                number,
                len,
                first,
                more,
            }) = self.next_record_frames(node, &location, &flights, in_flight, &mut asking)
            {
                if flights.is_empty() {
                    heard = Instant::now();
                }
                let answer = connection.place().await.map_err(setback)?.start_all(first, more);
                flights.push_back(Flight { number, len, answer });
                in_flight += len;
            }
            if flights.is_empty() && asking.full {
                // none of those left was ever sent there
                return self.next_chunk(node, index, stall).await;
            }
            if flights.is_empty() && asking.wanted == 0 {
                return Ok(());
            }
            let patience = flights.front().map_or(0, |flight| flight.len as u64 >> 20) * SECONDS_A_MIB;
            let deadline = heard + self.config.server_timeout + Duration::from_secs(patience);
            let front = async {
                match flights.front_mut() {
                    Some(flight) => flight.answer.until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                frame = front => {
                    let offset = match frame {
                        Ok(frame) => match frame.body {
                            Body::Appended(appended) => appended.offset,
                            _ => return Err(setback(Trouble::Garbled("not an acknowledgement".into()))),
                        },
                        Err(trouble) if trouble.code() == ErrorCode::ErrorChunkFull => {
                            return self.next_chunk(node, index, stall).await;
                        }
                        Err(trouble) => return Err(setback(trouble)),
                    };
                    heard = Instant::now();
                    stall.progress();
                    peer.answered();
                    let Some(Flight { number, len, .. }) = flights.pop_front() else { continue };
                    in_flight -= len;
                    if !node.state().appended(&location, number, offset) {
                        // given up meanwhile
                        return Ok(());
                    }
                    self.mark_dirty(node.ino);
                }
                () = asking.answered() => {}
                () = work.notified() => {}
            }
        }
    }

    /// The chunk is full without the records that are left, or will be.
    async fn next_chunk(&self, node: &Node, index: u32, stall: &mut Stall) -> std::result::Result<(), Setback> {
        stall.progress();
        let end = self.end_of_file(node).await.map_err(Setback::Master)?;
        node.state().appends.index = Some(chunk_index(end).max(index + 1));
        Ok(())
    }

    /// The record behind those on their way, if there is one and room for it.
    fn next_record_frames(
        &self,
        node: &Node,
        location: &Location,
        flights: &VecDeque<Flight>,
        in_flight: usize,
        asking: &mut Asking,
    ) -> Option<Outgoing> {
        let mut state = node.state();
        let size = state.size();
        let name = state.name.clone();
        let granted = state.chunks.get(&location.index).is_some_and(|chunk| chunk.granted);
        let grant = granted.then(|| super::grant_of(location, &name));
        asking.wanted = 0;
        let waiting = state
            .appends
            .queue
            .range(flights.len().min(state.appends.queue.len())..);
        let bytes = waiting.map(|record| stored_bytes(record.data.len()) as usize);
        let together = bytes.scan(0, |sum, bytes| {
            *sum += bytes;
            Some(*sum)
        });
        let together = together.take_while(|sum| *sum <= ASK_BYTES_MAX).last();
        let record = state.appends.queue.get_mut(flights.len())?;
        let len = record.data.len();
        let room = flights.len() < RECORDS_IN_FLIGHT_MAX && in_flight + len <= self.config.write_window_bytes;
        if !room && !flights.is_empty() {
            return None;
        }
        let stored = stored_bytes(len) as usize;
        // one that may have its place already is asked about by sending it
        if len >= UNASKED_BYTES && !record.sent {
            if asking.room < stored {
                asking.wanted = together.unwrap_or(0).max(stored);
                asking.grant = grant;
                return None;
            }
            asking.room -= stored;
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
            grant,
            disk: location
                .members
                .first()
                .map(|m| Bytes::copy_from_slice(m.disk.as_bytes()))
                .unwrap_or_default(),
            epoch: location.epoch,
        };
        let first = record.data.slice(..len.min(FRAME_PAYLOAD_BYTES_MAX));
        let more = (FRAME_PAYLOAD_BYTES_MAX..len)
            .step_by(FRAME_PAYLOAD_BYTES_MAX)
            .map(|start| {
                let more = record.data.slice(start..len.min(start + FRAME_PAYLOAD_BYTES_MAX));
                (Body::AppendMore(data::AppendMore {}), more)
            });
        Some(Outgoing {
            number: record.number,
            len,
            first: (Body::Append(append), first),
            more: more.collect(),
        })
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
