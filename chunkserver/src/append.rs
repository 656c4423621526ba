//! Record append at the head of a chain (protocol R9): the record gets its place and its header, and goes down the chain
//! and to the disk as mutations like any other. A chunk that has no room for it is filled to its end.
use crate::limits::{APPEND_MUTATION_BYTES, APPEND_SCAN_BYTES};
use crate::refusal::Refusal;
use crate::replica::{Claim, Outcome, Place, Records, Wanted};
use crate::shared::{Core, key_of};
use crate::store::At;
use bytes::{Bytes, BytesMut};
use cairn_proto::data::{Append, Appended, AskRoom, Room, Write};
use cairn_proto::frame::checksums;
use cairn_proto::record::{self, HEADER_BYTES, Header, Scanner};
use cairn_proto::required;
use cairn_types::layout::{BLOCK_SIZE_BYTES, CHUNK_SIZE_BYTES};
use cairn_types::{SessionId, Version};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// Written at a full chunk's end, so that the store makes it as long as it can be; zeros, as all of the padding.
const LAST_BYTES: &[u8] = &[0; 8];

/// A record on its way down the chain.
pub struct Appending {
    done: oneshot::Receiver<Outcome>,
    /// Where it is; none: the chunk is being filled instead.
    offset: Option<u64>,
}

impl Appending {
    /// # Errors
    /// `ChunkFull` once every member has the chunk full; why the record is not known to be on every member.
    pub async fn outcome(self) -> Result<Appended, Refusal> {
        // a sender that is dropped belonged to a chain that is no more
        let serial = self.done.await.unwrap_or(Err(Refusal::Fenced))?;
        let offset = self.offset.ok_or(Refusal::ChunkFull)?;
        Ok(Appended {
            serial: serial.0,
            offset,
        })
    }
}

impl Core {
    /// Takes a record, which `record` holds behind [`HEADER_BYTES`] of room.
    ///
    /// # Errors
    /// Why it was not taken.
    pub async fn append(
        self: &Arc<Self>,
        append: Append,
        record: BytesMut,
        room: Option<OwnedSemaphorePermit>,
    ) -> Result<Appending, Refusal> {
        let key = key_of(append.handle, &append.disk)?;
        let version: Version = required(append.version, "version")?.into();
        let session = SessionId::try_from(&append.session[..]).map_err(|e| Refusal::Invalid(e.to_string()))?;
        if append.number == 0 || append.from > CHUNK_SIZE_BYTES {
            return Err(Refusal::Invalid("a record without a number or a place".into()));
        }
        // before it has a place: damaged on its way it must not leave a gap
        if record::checksum(&record[HEADER_BYTES..]) != append.checksum {
            return Err(Refusal::BadChecksum);
        }
        self.mandate.may_write(append.epoch)?;
        let replica = self.writable(key, version, append.grant.as_ref()).await?;
        let _one = replica.appending.lock().await;
        if replica.must_scan(version, session)? {
            let term = replica.term();
            // what was accepted before is in the chunk by then
            replica.settled(version)?.await.map_err(|_| Refusal::Fenced)??;
            let place = replica.place_at(term).ok_or(Refusal::Fenced)?;
            replica.found(term, self.scan(key, place, session).await?);
        }
        let wanted = Wanted {
            session,
            number: append.number,
            previous: append.previous,
            from: append.from,
            bytes: record.len() as u64,
        };
        let now = self.env.clock.now();
        replica.pace.used(session, wanted.bytes);
        let (offset, accepted) = match replica.claim(version, wanted)? {
            Claim::Had { answer, offset } => {
                return Ok(Appending {
                    done: answer,
                    offset: Some(offset),
                });
            }
            Claim::At(offset) => {
                let mutations = mutations(&append, offset, finished(&append, session, offset, record));
                let taken = replica.accept_all(version, Some((wanted, offset)), mutations, room, now)?;
                (Some(offset), taken)
            }
            Claim::Full(end) if end == CHUNK_SIZE_BYTES => {
                let done = replica.settled(version)?;
                return Ok(Appending { done, offset: None });
            }
            Claim::Full(end) => {
                let len = (CHUNK_SIZE_BYTES - end).min(LAST_BYTES.len() as u64) as usize;
                let padding = Bytes::from_static(&LAST_BYTES[..len]);
                let mutations = mutations(&append, CHUNK_SIZE_BYTES - len as u64, padding);
                (None, replica.accept_all(version, None, mutations, room, now)?)
            }
        };
        let done = self.set_going(replica.clone(), accepted).await;
        Ok(Appending { done, offset })
    }

    /// When a client's next records may be sent.
    ///
    /// # Errors
    /// `ChunkFull` when there will be no room for them; why the chunk takes no records at all.
    pub async fn ask_room(self: &Arc<Self>, ask: AskRoom) -> Result<Room, Refusal> {
        let key = key_of(ask.handle, &ask.disk)?;
        let version: Version = required(ask.version, "version")?.into();
        let session = SessionId::try_from(&ask.session[..]).map_err(|e| Refusal::Invalid(e.to_string()))?;
        self.mandate.may_write(ask.epoch)?;
        let replica = self.writable(key, version, ask.grant.as_ref()).await?;
        let pace = &replica.pace;
        pace.forget_unused(self.env.clock.now());
        let fits = |bytes| Ok::<_, Refusal>(replica.length(version)? + bytes <= CHUNK_SIZE_BYTES);
        if !fits(pace.given() + ask.bytes)? {
            return Err(Refusal::ChunkFull);
        }
        if !pace.give(session, ask.bytes, &self.env).await {
            return Ok(Room { bytes: 0 });
        }
        // those that were before it in the queue may have filled the chunk
        if !fits(pace.given())? {
            pace.used(session, ask.bytes);
            return Err(Refusal::ChunkFull);
        }
        Ok(Room { bytes: ask.bytes })
    }

    /// Every record that the chunk holds whole.
    async fn scan(&self, key: crate::replica::Key, place: Place, session: SessionId) -> Result<Records, Refusal> {
        let scan = move || {
            let mut found = vec![];
            let mut scanner = Scanner::new(0);
            loop {
                let at = scanner.wanted();
                let pieces = place
                    .chunk
                    .read(At::Installed(place.version), at, APPEND_SCAN_BYTES, true)?;
                let last = at + pieces.data.len() as u64 >= pieces.length;
                scanner.push(&pieces.data);
                while let Some((header, _)) = scanner.next(last) {
                    found.push((header.session, header.number, u64::from(header.offset)));
                }
                if last {
                    return Ok(found);
                }
            }
        };
        let found = self.env.blocking.run(scan).await.map_err(|e| self.refused(key, e))?;
        Ok(Records::of(found, session))
    }
}

/// The record as it will lie in the chunk.
fn finished(append: &Append, session: SessionId, offset: u64, mut record: BytesMut) -> Bytes {
    let header = Header {
        length: append.length,
        checksum: append.checksum,
        session,
        number: append.number,
        offset: offset as u32,
    };
    record[..HEADER_BYTES].copy_from_slice(&header.encode());
    record.freeze()
}

/// Bytes for the chunk, as mutations.
fn mutations(append: &Append, offset: u64, bytes: Bytes) -> Vec<(Write, Bytes)> {
    let mutation = |from: usize| {
        let payload = bytes.slice(from..bytes.len().min(from + APPEND_MUTATION_BYTES));
        let offset = offset + from as u64;
        let write = Write {
            handle: append.handle,
            version: append.version,
            session: append.session.clone(),
            sequence: 0,
            serial: 0,
            offset,
            checksums: checksums(offset, &payload).collect(),
            grant: append.grant.clone(),
            disk: append.disk.clone(),
            epoch: append.epoch,
        };
        (write, payload)
    };
    (0..bytes.len()).step_by(APPEND_MUTATION_BYTES).map(mutation).collect()
}

const _: () = assert!(APPEND_SCAN_BYTES.is_multiple_of(BLOCK_SIZE_BYTES));
const _: () = assert!(LAST_BYTES.len() as u64 == record::ALIGN);
