//! The state as bytes: records of bounded size in the order of their keys, each postcard behind its length (u32,
//! little-endian), the last one saying how many there were.
//!
//! Nothing is ever gathered: a state of 10 million files is written and read in pieces. What follows from other records
//! (indices, counts of entries) is not written. Equal states give equal bytes. The file's magic, format version and
//! checksum are the writer's (the master's checkpoint file).
use crate::chunk::Chunk;
use crate::inode::{Body, Node};
use crate::state::{Disk, Header, Server, Session, TrashEntry};
use crate::{FsError, Reply, State};
use cairn_types::{ChunkHandle, Inode, Sequence, ServerId, SessionId, Version};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::sync::Arc;

/// Entries of a directory in one record: a record is below 300 KiB.
const ENTRIES_MAX: usize = 1000;
/// The largest record is a file's list of chunks: 12 bytes for each 64 MiB of it.
const RECORD_BYTES_MAX: u32 = 1 << 30;

/// Why bytes are not a state.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the checkpoint cannot be read, or is cut short")]
    Io(#[from] std::io::Error),
    #[error("the checkpoint's record {record} does not decode")]
    Record { record: u64 },
    #[error("the checkpoint's record {record} claims to be longer than any is")]
    TooLong { record: u64 },
    #[error("the checkpoint contradicts itself at record {record}: {what}")]
    Inconsistent { record: u64, what: &'static str },
}

/// Append-only, like the commands.
#[derive(Serialize, Deserialize)]
enum Record {
    Header(Header),
    Server(ServerId, Server),
    /// In the order of their numbers.
    Disk(Disk),
    /// A directory's without its entries: they follow.
    Node(Inode, Node),
    Entries(Inode, Vec<(Vec<u8>, Inode)>),
    Chunk(ChunkHandle, Chunk),
    FromSuspect(ChunkHandle, Version),
    /// Without its results: they follow.
    Session(SessionId, Session),
    Result(SessionId, Sequence, Result<Reply, FsError>),
    Trash(Inode, TrashEntry),
    Orphan(Inode),
    OtherLinks(Inode, Vec<(Inode, u64)>),
    End {
        records: u64,
    },
}

struct Encoder<'a, W> {
    to: &'a mut W,
    buffer: Vec<u8>,
    records: u64,
}

impl<W: Write> Encoder<'_, W> {
    fn record(&mut self, record: &Record) -> std::io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        buffer = postcard::to_extend(record, buffer).map_err(std::io::Error::other)?;
        let len = u32::try_from(buffer.len()).map_err(std::io::Error::other)?;
        self.to.write_all(&len.to_le_bytes())?;
        self.to.write_all(&buffer)?;
        self.buffer = buffer;
        self.records += 1;
        Ok(())
    }
}

impl State {
    /// Writes the state in many small pieces: give a buffered writer.
    pub fn encode(&self, to: &mut impl Write) -> std::io::Result<()> {
        let mut encoder = Encoder {
            to,
            buffer: Vec::new(),
            records: 0,
        };
        encoder.record(&Record::Header(self.header.clone()))?;
        for (id, server) in &self.servers {
            encoder.record(&Record::Server(*id, server.clone()))?;
        }
        for disk in &self.disks {
            encoder.record(&Record::Disk(disk.clone()))?;
        }
        for (inode, node) in self.nodes.after(0) {
            encode_node(&mut encoder, Inode(inode), node)?;
        }
        for (handle, chunk) in self.chunks.after(0) {
            encoder.record(&Record::Chunk(ChunkHandle(handle), chunk.clone()))?;
        }
        for (handle, version) in &self.from_suspect {
            encoder.record(&Record::FromSuspect(*handle, *version))?;
        }
        for (id, session) in &self.sessions {
            let bare = Session {
                results: Default::default(),
                ..session.clone()
            };
            encoder.record(&Record::Session(*id, bare))?;
            for (sequence, result) in &session.results {
                encoder.record(&Record::Result(*id, *sequence, (**result).clone()))?;
            }
        }
        for (inode, entry) in &self.trash {
            encoder.record(&Record::Trash(*inode, (**entry).clone()))?;
        }
        for inode in &self.orphans {
            encoder.record(&Record::Orphan(*inode))?;
        }
        for (inode, links) in &self.other_links {
            encoder.record(&Record::OtherLinks(*inode, links.clone()))?;
        }
        let records = encoder.records;
        encoder.record(&Record::End { records })
    }

    /// Reads what [`State::encode`] wrote, and nothing beyond it: give a buffered reader. Memory is bounded by the
    /// bytes that are really there.
    pub fn decode(from: &mut impl Read) -> Result<State, DecodeError> {
        let mut state = State::new();
        let mut buffer = Vec::new();
        for number in 0.. {
            let mut len = [0; 4];
            from.read_exact(&mut len)?;
            let len = u32::from_le_bytes(len);
            if len > RECORD_BYTES_MAX {
                return Err(DecodeError::TooLong { record: number });
            }
            buffer.clear();
            if from.take(len.into()).read_to_end(&mut buffer)? < len as usize {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
            let (record, rest) =
                postcard::take_from_bytes(&buffer).map_err(|_| DecodeError::Record { record: number })?;
            if !rest.is_empty() {
                return Err(DecodeError::Record { record: number });
            }
            if let Record::End { records } = record {
                let what = "records are missing";
                return if records == number {
                    Ok(state)
                } else {
                    Err(DecodeError::Inconsistent { record: number, what })
                };
            }
            state
                .take_record(record)
                .map_err(|what| DecodeError::Inconsistent { record: number, what })?;
        }
        Err(DecodeError::TooLong { record: u64::MAX })
    }

    fn take_record(&mut self, record: Record) -> Result<(), &'static str> {
        match record {
            Record::Header(header) => self.header = header,
            Record::Server(id, server) => {
                self.servers.insert(id, server);
            }
            Record::Disk(disk) => {
                let number = u16::try_from(self.disks.len()).map_err(|_| "too many disks")?;
                self.disk_numbers.insert(disk.id, number);
                self.disks.push(disk);
            }
            Record::Node(inode, node) => {
                self.nodes.insert(inode.0, node);
            }
            Record::Entries(inode, entries) => {
                let node = self.nodes.get_mut(inode.0).ok_or("entries of no directory")?;
                let Body::Directory(directory) = &mut node.body else {
                    return Err("entries of no directory");
                };
                let entries = entries.iter().map(|(name, inode)| (name.as_slice(), *inode));
                Arc::make_mut(directory).append(entries)?;
            }
            Record::Chunk(handle, chunk) => {
                if chunk
                    .members
                    .as_slice()
                    .iter()
                    .any(|n| usize::from(*n) >= self.disks.len())
                {
                    return Err("a chunk on no disk");
                }
                self.chunks.insert(handle.0, chunk);
            }
            Record::FromSuspect(handle, version) => {
                self.from_suspect.insert(handle, version);
            }
            Record::Session(id, session) => {
                self.sessions.insert(id, session);
            }
            Record::Result(id, sequence, result) => {
                let session = self.sessions.get_mut(&id).ok_or("a result of no session")?;
                session.results.insert(sequence, Arc::new(result));
            }
            Record::Trash(inode, entry) => {
                self.trash_by_expiry.insert((entry.expires_ns, inode));
                self.trash.insert(inode, Arc::new(entry));
            }
            Record::Orphan(inode) => {
                self.orphans.insert(inode);
            }
            Record::OtherLinks(inode, links) => {
                self.other_links.insert(inode, links);
            }
            Record::End { .. } => {}
        }
        Ok(())
    }
}

fn encode_node<W: Write>(encoder: &mut Encoder<'_, W>, inode: Inode, node: &Node) -> std::io::Result<()> {
    encoder.record(&Record::Node(inode, node.clone()))?;
    let Some(directory) = node.directory() else {
        return Ok(());
    };
    let mut entries = directory.after(0).map(|(_, name, inode)| (name.to_vec(), inode));
    loop {
        let piece: Vec<_> = entries.by_ref().take(ENTRIES_MAX).collect();
        if piece.is_empty() {
            return Ok(());
        }
        encoder.record(&Record::Entries(inode, piece))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Command, Create, Existing, Kind, Op, apply};
    use cairn_types::ClusterId;

    fn founded() -> State {
        let mut state = State::new();
        let epoch = Command::Epoch {
            cluster: ClusterId::from_bits(1),
            at_ns: 1,
            default_goal: 3,
            lease_ms: 5000,
            root_mode: 0o755,
            root_uid: 0,
            root_gid: 0,
        };
        apply(&mut state, 1, &epoch).unwrap();
        state
    }

    fn bytes(state: &State) -> Vec<u8> {
        let mut bytes = Vec::new();
        state.encode(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_large_directory_goes_in_pieces_and_comes_back() {
        let mut state = founded();
        for i in 0..3500u64 {
            let create = Create {
                parent: Inode::ROOT,
                name: format!("file {i}").into(),
                kind: Kind::Regular,
                mode: 0o644,
                uid: 1,
                gid: 1,
                rdev: 0,
                target: vec![],
                goal: 0,
                existing: Existing::Refuse,
                chunk: None,
            };
            apply(
                &mut state,
                i + 2,
                &Command::Internal {
                    at_ns: 5,
                    op: Op::Create(create),
                },
            )
            .unwrap()
            .result
            .unwrap();
        }
        let bytes = bytes(&state);
        assert_eq!(State::decode(&mut &bytes[..]).unwrap(), state);
    }

    #[test]
    fn a_checkpoint_cut_anywhere_is_an_error() {
        let bytes = bytes(&founded());
        for len in 0..bytes.len() {
            assert!(State::decode(&mut &bytes[..len]).is_err(), "cut at {len}");
        }
    }

    #[test]
    fn garbage_is_an_error_and_takes_no_memory() {
        assert!(matches!(
            State::decode(&mut &[0xff; 64][..]),
            Err(DecodeError::TooLong { .. })
        ));
        // a length that is allowed, without the bytes
        let claimed = [RECORD_BYTES_MAX.to_le_bytes().as_slice(), &[7; 10]].concat();
        assert!(matches!(State::decode(&mut &claimed[..]), Err(DecodeError::Io(_))));
        let mut bytes = bytes(&founded());
        bytes[4] = 0x7f;
        assert!(matches!(
            State::decode(&mut &bytes[..]),
            Err(DecodeError::Record { record: 0 })
        ));
    }
}
