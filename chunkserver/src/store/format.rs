//! The bytes of a chunk file (docs/chunk-format.md gives every offset): sector 0 is the header, sector 1 the intent,
//! page 1 the checksum table, and the chunk's own bytes begin at page 2.
//!
//! A sector of 512 bytes reaches the disk whole or not at all; nothing larger is trusted to. Header and intent each
//! carry their own checksum, the table is vouched for by the data that it covers.
use super::crc::crc;
use super::error::HeaderFault;
use cairn_types::layout::{BLOCK_SIZE_BYTES, BLOCKS_PER_CHUNK, CHUNK_SIZE_BYTES};
use cairn_types::{ChunkHandle, ClusterId, DiskId, Inode, Version};
use std::fmt;
use std::path::PathBuf;
use uuid::Uuid;

pub const CHUNK_FORMAT: u16 = 1;
pub const CHUNK_MAGIC: [u8; 8] = *b"CairnChk";
pub const INTENT_MAGIC: [u8; 8] = *b"CairnInt";

pub const SECTOR_BYTES: usize = 512;
pub const TABLE_OFFSET: u64 = 4096;
pub const TABLE_BYTES: usize = 4 * BLOCKS_PER_CHUNK as usize;
pub const DATA_OFFSET: u64 = 8192;
/// A longer name is cut: it is there for people and for a rescue, the namespace holds the whole.
pub const NAME_BYTES_MAX: usize = 255;

const _: () = assert!(TABLE_OFFSET + TABLE_BYTES as u64 == DATA_OFFSET);
const _: () = assert!(at::NAME + NAME_BYTES_MAX <= at::CRC);

/// Byte offsets within the header sector.
mod at {
    pub const MAGIC: usize = 0;
    pub const FORMAT: usize = 8;
    pub const STATE: usize = 10;
    pub const FLAGS: usize = 11;
    pub const INDEX: usize = 12;
    pub const CLUSTER: usize = 16;
    pub const DISK: usize = 32;
    pub const HANDLE: usize = 48;
    pub const VERSION_EPOCH: usize = 56;
    pub const VERSION_COUNTER: usize = 64;
    pub const LENGTH: usize = 72;
    pub const INODE: usize = 80;
    pub const CREATED: usize = 88;
    pub const MARK: usize = 96;
    pub const BOOT: usize = 104;
    pub const NAME_LEN: usize = 120;
    pub const NAME: usize = 128;
    pub const CRC: usize = 508;
}

const FLAG_CLEAN: u8 = 1;
const FLAG_SUSPECT: u8 = 2;

/// What a replica may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Being filled beforehand; untrusted until it is fenced, compared and installed (protocol R4).
    Joining,
    /// Refuses reads and writes at the versions before; takes copies until it is installed (R2, R4).
    Fenced,
    /// Serves at its version (R1, R5).
    Installed,
}

impl State {
    pub(super) fn code(self) -> u8 {
        match self {
            State::Joining => 1,
            State::Fenced => 2,
            State::Installed => 3,
        }
    }
    pub(super) fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => State::Joining,
            2 => State::Fenced,
            3 => State::Installed,
            _ => return None,
        })
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Joining => "joining",
            State::Fenced => "fenced",
            State::Installed => "installed",
        })
    }
}

/// What a chunk file says of the file that it is a part of, as things stood when it was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkMeta {
    pub inode: Inode,
    /// Which chunk of the file, from 0.
    pub index: u32,
    /// The file's name, without its directory; cut at 255 bytes.
    pub name: Vec<u8>,
    /// Nanoseconds since 1970, for people.
    pub created: i64,
}

/// The part of a header that changes in a chunk's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    pub version: Version,
    pub state: State,
    /// Bytes of the chunk; those never written below it are zeros.
    pub length: u64,
    /// All below was on stable storage when this was written, and only a change that first puts a Dirty record of
    /// this `mark` into the disk's dirty log may follow.
    pub clean: bool,
    /// Counts the clean marks of this chunk.
    pub mark: u64,
    /// Power was lost while it had unsynced writes; cleared by an install.
    pub suspect: bool,
    /// The machine's boot under which this was written.
    pub boot: Uuid,
}

/// Sector 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub cluster: ClusterId,
    pub disk: DiskId,
    pub handle: ChunkHandle,
    pub status: Status,
    pub meta: ChunkMeta,
}

impl Header {
    #[cfg(test)]
    pub fn encode(&self) -> [u8; SECTOR_BYTES] {
        encode_header(self.cluster, self.disk, self.handle, &self.status, &self.meta)
    }

    /// Reads a header and checks that it is what it claims; whose it is, is the caller's to compare.
    pub fn decode(bytes: &[u8; SECTOR_BYTES]) -> Result<Self, HeaderFault> {
        if bytes.iter().all(|&b| b == 0) {
            return Err(HeaderFault::NeverWritten);
        }
        if bytes[at::MAGIC..at::MAGIC + 8] != CHUNK_MAGIC {
            return Err(HeaderFault::Magic);
        }
        if get_u32(bytes, at::CRC) != crc(&bytes[..at::CRC]) {
            return Err(HeaderFault::Checksum);
        }
        // only below a right checksum does a format number mean anything
        let format = get_u16(bytes, at::FORMAT);
        if format > CHUNK_FORMAT {
            return Err(HeaderFault::Newer(format));
        }
        let name_len = usize::from(get_u16(bytes, at::NAME_LEN));
        let length = get_u64(bytes, at::LENGTH);
        let state = State::from_code(bytes[at::STATE]).ok_or(HeaderFault::Checksum)?;
        if name_len > NAME_BYTES_MAX || length > CHUNK_SIZE_BYTES {
            return Err(HeaderFault::Checksum);
        }
        Ok(Self {
            cluster: ClusterId(get_uuid(bytes, at::CLUSTER)),
            disk: DiskId(get_uuid(bytes, at::DISK)),
            handle: ChunkHandle(get_u64(bytes, at::HANDLE)),
            status: Status {
                version: Version::new(get_u64(bytes, at::VERSION_EPOCH), get_u64(bytes, at::VERSION_COUNTER)),
                state,
                length,
                clean: bytes[at::FLAGS] & FLAG_CLEAN != 0,
                mark: get_u64(bytes, at::MARK),
                suspect: bytes[at::FLAGS] & FLAG_SUSPECT != 0,
                boot: get_uuid(bytes, at::BOOT),
            },
            meta: ChunkMeta {
                inode: Inode(get_u64(bytes, at::INODE)),
                index: get_u32(bytes, at::INDEX),
                name: bytes[at::NAME..at::NAME + name_len].to_vec(),
                created: get_u64(bytes, at::CREATED) as i64,
            },
        })
    }
}

/// Sector 0 of a chunk from its parts.
pub fn encode_header(
    cluster: ClusterId,
    disk: DiskId,
    handle: ChunkHandle,
    status: &Status,
    meta: &ChunkMeta,
) -> [u8; SECTOR_BYTES] {
    let mut bytes = [0; SECTOR_BYTES];
    put(&mut bytes, at::MAGIC, &CHUNK_MAGIC);
    put(&mut bytes, at::FORMAT, &CHUNK_FORMAT.to_le_bytes());
    bytes[at::STATE] = status.state.code();
    bytes[at::FLAGS] = if status.clean { FLAG_CLEAN } else { 0 } | if status.suspect { FLAG_SUSPECT } else { 0 };
    put(&mut bytes, at::INDEX, &meta.index.to_le_bytes());
    put(&mut bytes, at::CLUSTER, cluster.as_bytes());
    put(&mut bytes, at::DISK, disk.as_bytes());
    put(&mut bytes, at::HANDLE, &handle.0.to_le_bytes());
    put(&mut bytes, at::VERSION_EPOCH, &status.version.epoch.to_le_bytes());
    put(&mut bytes, at::VERSION_COUNTER, &status.version.counter.to_le_bytes());
    put(&mut bytes, at::LENGTH, &status.length.to_le_bytes());
    put(&mut bytes, at::INODE, &meta.inode.0.to_le_bytes());
    put(&mut bytes, at::CREATED, &meta.created.to_le_bytes());
    put(&mut bytes, at::MARK, &status.mark.to_le_bytes());
    put(&mut bytes, at::BOOT, status.boot.as_bytes());
    let name = &meta.name[..meta.name.len().min(NAME_BYTES_MAX)];
    put(&mut bytes, at::NAME_LEN, &(name.len() as u16).to_le_bytes());
    put(&mut bytes, at::NAME, name);
    let sum = crc(&bytes[..at::CRC]);
    put(&mut bytes, at::CRC, &sum.to_le_bytes());
    bytes
}

/// Blocks whose bytes and checksums are being changed, from before the change until after it.
///
/// One that is found when a disk is opened is of a process that was killed in between: every block that it names may
/// hold new bytes under an old checksum, or the reverse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intent {
    pub first_block: u32,
    pub blocks: u32,
}

impl Intent {
    /// All that could be under way in a chunk.
    pub const WHOLE: Intent = Intent {
        first_block: 0,
        blocks: BLOCKS_PER_CHUNK as u32,
    };
}

/// Sector 1: none is all zeros.
pub fn encode_intent(intent: Option<Intent>) -> [u8; SECTOR_BYTES] {
    let mut bytes = [0; SECTOR_BYTES];
    if let Some(intent) = intent {
        put(&mut bytes, 0, &INTENT_MAGIC);
        put(&mut bytes, 8, &intent.first_block.to_le_bytes());
        put(&mut bytes, 12, &intent.blocks.to_le_bytes());
        let sum = crc(&bytes[..at::CRC]);
        put(&mut bytes, at::CRC, &sum.to_le_bytes());
    }
    bytes
}

/// An intent that does not match its own checksum may have named any block, so it counts as all of them.
pub fn decode_intent(bytes: &[u8; SECTOR_BYTES]) -> Option<Intent> {
    if bytes.iter().all(|&b| b == 0) {
        return None;
    }
    let intent = Intent {
        first_block: get_u32(bytes, 8),
        blocks: get_u32(bytes, 12),
    };
    let sound = bytes[..8] == INTENT_MAGIC
        && get_u32(bytes, at::CRC) == crc(&bytes[..at::CRC])
        && intent
            .first_block
            .checked_add(intent.blocks)
            .is_some_and(|end| u64::from(end) <= BLOCKS_PER_CHUNK);
    Some(if sound { intent } else { Intent::WHOLE })
}

/// Blocks of a chunk of `length` bytes.
pub fn block_count(length: u64) -> u32 {
    length.div_ceil(BLOCK_SIZE_BYTES) as u32
}

/// Bytes that block `block` holds in a chunk of `length` bytes.
pub fn block_len(block: u32, length: u64) -> u64 {
    length
        .saturating_sub(u64::from(block) * BLOCK_SIZE_BYTES)
        .min(BLOCK_SIZE_BYTES)
}

/// Table bytes of the given checksums.
pub fn encode_table(crcs: &[u32]) -> Vec<u8> {
    crcs.iter().flat_map(|crc| crc.to_le_bytes()).collect()
}

pub fn decode_table(bytes: &[u8]) -> Vec<u32> {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| u32::from_le_bytes(*b))
        .collect()
}

/// Where a chunk's file is: chunks/<low byte>/<handle>.chunk, all in lower-case hex.
pub fn chunk_path(handle: ChunkHandle) -> PathBuf {
    PathBuf::from(format!("chunks/{:02x}/{handle}.chunk", handle.0 & 0xff))
}

/// The directory of `chunk_path`.
pub fn chunk_dir(handle: ChunkHandle) -> PathBuf {
    PathBuf::from(format!("chunks/{:02x}", handle.0 & 0xff))
}

/// The chunk whose file has this name in the directory of this low byte.
pub fn parse_chunk_name(low_byte: u8, name: &str) -> Option<ChunkHandle> {
    let hex = name.strip_suffix(".chunk")?;
    let handle: ChunkHandle = hex.parse().ok()?;
    // one chunk has one name
    (handle.to_string() == hex && handle.0 & 0xff == u64::from(low_byte)).then_some(handle)
}

pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn get<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut value = [0; N];
    value.copy_from_slice(&bytes[at..at + N]);
    value
}
pub(super) fn get_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(get(bytes, at))
}
pub(super) fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(get(bytes, at))
}
pub(super) fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(get(bytes, at))
}
pub(super) fn get_uuid(bytes: &[u8], at: usize) -> Uuid {
    Uuid::from_bytes(get(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(name: Vec<u8>, clean: bool, suspect: bool, length: u64) -> Header {
        Header {
            cluster: ClusterId::from_bits(1),
            disk: DiskId::from_bits(2),
            handle: ChunkHandle(0xabcd),
            status: Status {
                version: Version::new(7, 9),
                state: State::Fenced,
                length,
                clean,
                mark: 3,
                suspect,
                boot: Uuid::from_u128(5),
            },
            meta: ChunkMeta {
                inode: Inode(11),
                index: 12,
                name,
                created: -13,
            },
        }
    }

    proptest! {
        #[test]
        fn a_header_survives_its_bytes(
            name in prop::collection::vec(any::<u8>(), 0..=255), clean: bool, suspect: bool, length in 0..=CHUNK_SIZE_BYTES
        ) {
            let header = header(name, clean, suspect, length);
            prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
        }

        #[test]
        fn every_flipped_bit_of_a_header_is_noticed(bit in 0usize..SECTOR_BYTES * 8) {
            let mut bytes = header(b"name".to_vec(), true, false, 1).encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Header::decode(&bytes).is_err());
        }

        #[test]
        fn garbage_is_no_header(bytes in prop::collection::vec(any::<u8>(), SECTOR_BYTES)) {
            let bytes: [u8; SECTOR_BYTES] = bytes.try_into().unwrap();
            prop_assert!(Header::decode(&bytes).is_err());
            prop_assert_eq!(decode_intent(&bytes), Some(Intent::WHOLE));
        }
    }

    #[test]
    fn long_names_are_cut() {
        let decoded = Header::decode(&header(vec![b'x'; 300], false, false, 0).encode()).unwrap();
        assert_eq!(decoded.meta.name.len(), NAME_BYTES_MAX);
    }

    #[test]
    fn intents_survive_their_bytes() {
        let intent = Intent {
            first_block: 3,
            blocks: 2,
        };
        assert_eq!(decode_intent(&encode_intent(Some(intent))), Some(intent));
        assert_eq!(decode_intent(&encode_intent(None)), None);
    }

    #[test]
    fn names_are_canonical() {
        let handle = ChunkHandle(0x1_02ab);
        assert_eq!(chunk_path(handle).to_str(), Some("chunks/ab/00000000000102ab.chunk"));
        assert_eq!(parse_chunk_name(0xab, "00000000000102ab.chunk"), Some(handle));
        for (dir, name) in [
            (0xaa, "00000000000102ab.chunk"),
            (0xab, "102ab.chunk"),
            (0xab, "00000000000102AB.chunk"),
        ] {
            assert_eq!(parse_chunk_name(dir, name), None);
        }
    }
}
