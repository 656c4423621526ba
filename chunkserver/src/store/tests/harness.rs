//! A machine with one simulated disk, a clock that is set by hand, and helpers.
use super::super::*;
use async_trait::async_trait;
use cairn_io::sim::{SimDisk, Trace};
use cairn_io::{Boot, Clock, Nanos};
use cairn_types::layout::{BLOCK_SIZE_BYTES, block_pieces};
use cairn_types::{ClusterId, Inode, ServerId, Version};
use std::path::PathBuf;
use std::sync::Arc;
use uuid::Uuid;

pub const HANDLE: ChunkHandle = ChunkHandle(0x1_02ab);
pub const V1: Version = Version::new(1, 1);
pub const V2: Version = Version::new(1, 2);
pub const V3: Version = Version::new(2, 1);
pub const IDLE: Duration = Duration::from_secs(5);

/// The time and the boot of one machine, both set by the test.
pub struct TestClock(Mutex<(Duration, u128)>);

impl TestClock {
    pub fn pass(&self, time: Duration) {
        locked(&self.0).0 += time;
    }
    pub fn reboot(&self) {
        locked(&self.0).1 += 1;
    }
}

#[async_trait]
impl Clock for TestClock {
    fn now(&self) -> Boot {
        Boot(locked(&self.0).0)
    }
    fn wall(&self) -> Nanos {
        0
    }
    fn boot_id(&self) -> Uuid {
        Uuid::from_u128(locked(&self.0).1)
    }
    async fn sleep(&self, _: Duration) {}
}

pub struct Machine {
    pub disk: SimDisk,
    pub clock: Arc<TestClock>,
    pub index: Arc<MemoryIndex>,
    pub options: DiskOptions,
}

pub fn stamp() -> Stamp {
    Stamp {
        cluster: ClusterId::from_bits(1),
        server: ServerId::from_bits(2),
        disk: DiskId::from_bits(3),
        created: 4,
    }
}

pub fn meta() -> ChunkMeta {
    ChunkMeta {
        inode: Inode(7),
        index: 2,
        name: b"big.iso".to_vec(),
        created: 5,
    }
}

impl Machine {
    /// With a formatted disk.
    pub fn new() -> Self {
        let disk = SimDisk::new("disk", Trace::default());
        DiskStore::format(&disk, &stamp()).unwrap();
        Self {
            disk,
            clock: Arc::new(TestClock(Mutex::new((Duration::ZERO, 1)))),
            index: Arc::default(),
            options: DiskOptions::default(),
        }
    }

    pub fn try_open(&self) -> std::result::Result<DiskStore, OpenError> {
        DiskStore::open_with_index(
            Arc::new(self.disk.mount()),
            self.clock.clone(),
            &Identity::default(),
            self.options.clone(),
            Box::new(self.index.clone()),
        )
    }

    pub fn open(&self) -> DiskStore {
        self.try_open().unwrap()
    }

    /// The process dies and starts again.
    pub fn kill(&self) -> DiskStore {
        self.disk.kill();
        self.open()
    }

    pub fn path(handle: ChunkHandle) -> PathBuf {
        super::super::format::chunk_path(handle)
    }
}

impl Index for Arc<MemoryIndex> {
    fn replace(&self, entries: &mut dyn Iterator<Item = (ChunkHandle, Status)>) -> std::result::Result<(), IndexError> {
        (**self).replace(entries)
    }
    fn iterate(&self, each: &mut dyn FnMut(ChunkHandle, Status)) -> std::result::Result<(), IndexError> {
        (**self).iterate(each)
    }
}

/// Bytes that no shift or seed repeats.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes: Vec<u8> = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A checksum for each piece of `data` at `offset`.
pub fn piece_crcs(offset: u64, data: &[u8]) -> Vec<u32> {
    block_pieces(offset, data.len() as u64)
        .map(|(at, len)| crc32fast::hash(&data[(at - offset) as usize..][..len as usize]))
        .collect()
}

pub fn block_crcs(data: &[u8]) -> Vec<u32> {
    data.chunks(BLOCK_SIZE_BYTES as usize).map(crc32fast::hash).collect()
}

/// A new chunk that has its file already.
pub fn create_made(store: &DiskStore, handle: ChunkHandle) -> Chunk {
    let chunk = store.create(handle, V1, State::Installed, &meta()).unwrap();
    chunk.meta().unwrap();
    chunk
}

pub fn write(chunk: &Chunk, at: At, offset: u64, data: &[u8]) -> Result<u64> {
    chunk.write(at, offset, data, &piece_crcs(offset, data))
}

/// All of a chunk, each piece's checksum compared with its bytes.
pub fn read_all(chunk: &Chunk, at: At) -> Result<Vec<u8>> {
    let length = chunk.info().length;
    let pieces = chunk.read(at, 0, length, true)?;
    assert_eq!(pieces.length, length);
    assert_eq!(pieces.crcs, piece_crcs(0, &pieces.data));
    Ok(pieces.data.to_vec())
}
