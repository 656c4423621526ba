//! One open chunk file: the reads and writes that everything else is made of.
use super::crc::crc;
use super::error::HeaderFault;
use super::format::{
    ChunkMeta, DATA_OFFSET, Header, Intent, SECTOR_BYTES, Status, TABLE_OFFSET, block_count, block_len, decode_intent,
    decode_table, encode_header, encode_intent, encode_table,
};
use cairn_io::DiskFile;
use cairn_types::layout::BLOCK_SIZE_BYTES;
use cairn_types::{ChunkHandle, ClusterId, DiskId};
use std::io;
use std::sync::Arc;

/// Bytes that are read at a time when a whole chunk is gone through.
pub(super) const STEP_BYTES: u64 = 1 << 20;
pub(super) const STEP_BLOCKS: u32 = (STEP_BYTES / BLOCK_SIZE_BYTES) as u32;

/// Whose header is expected in a chunk file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    pub cluster: ClusterId,
    pub disk: DiskId,
    pub handle: ChunkHandle,
}

pub(super) struct ChunkFile {
    pub file: Arc<dyn DiskFile>,
    pub owner: Owner,
    pub meta: ChunkMeta,
}

/// Reads both sectors of the head, and judges the header; the inner error is of the header, the outer one of the disk.
pub(super) fn read_head(
    file: &dyn DiskFile,
    owner: Owner,
) -> io::Result<Result<(Header, Option<Intent>), HeaderFault>> {
    let mut bytes = [0; 2 * SECTOR_BYTES];
    file.read_at(&mut bytes, 0)?;
    let (sectors, _) = bytes.as_chunks::<SECTOR_BYTES>();
    Ok(judge(&sectors[0], owner).map(|header| (header, decode_intent(&sectors[1]))))
}

/// A header that is sound, and this chunk's.
pub(super) fn judge(sector: &[u8; SECTOR_BYTES], owner: Owner) -> Result<Header, HeaderFault> {
    let header = Header::decode(sector)?;
    if header.cluster != owner.cluster {
        return Err(HeaderFault::OtherCluster(header.cluster));
    }
    if header.disk != owner.disk {
        return Err(HeaderFault::OtherDisk(header.disk));
    }
    if header.handle != owner.handle {
        return Err(HeaderFault::OtherChunk(header.handle));
    }
    Ok(header)
}

impl ChunkFile {
    /// Header and intent in one write: together they say what is being changed, or that nothing is.
    pub fn write_head(&self, status: &Status, intent: Option<Intent>) -> io::Result<()> {
        self.file.write_at(&self.head(status, intent), 0)
    }

    /// All of a new file: the head, the whole table, the checksums of `data` first, and `data`.
    pub fn write_new(&self, status: &Status, intent: Option<Intent>, crcs: &[u32], data: &[u8]) -> io::Result<()> {
        let mut bytes = [0; DATA_OFFSET as usize];
        bytes[..2 * SECTOR_BYTES].copy_from_slice(&self.head(status, intent));
        bytes[TABLE_OFFSET as usize..][..4 * crcs.len()].copy_from_slice(&encode_table(crcs));
        self.file.write_both_at(&bytes, data, 0)
    }

    fn head(&self, status: &Status, intent: Option<Intent>) -> [u8; 2 * SECTOR_BYTES] {
        let Owner { cluster, disk, handle } = self.owner;
        let mut bytes = [0; 2 * SECTOR_BYTES];
        bytes[..SECTOR_BYTES].copy_from_slice(&encode_header(cluster, disk, handle, status, &self.meta));
        bytes[SECTOR_BYTES..].copy_from_slice(&encode_intent(intent));
        bytes
    }

    /// Checksums of `count` blocks from `first`; none if the table is cut off before their end.
    pub fn read_table(&self, first: u32, count: u32) -> io::Result<Option<Vec<u32>>> {
        let mut bytes = vec![0; 4 * count as usize];
        let read = self.file.read_at(&mut bytes, TABLE_OFFSET + 4 * u64::from(first))?;
        Ok((read == bytes.len()).then(|| decode_table(&bytes)))
    }

    pub fn write_table(&self, first: u32, crcs: &[u32]) -> io::Result<()> {
        self.file
            .write_at(&encode_table(crcs), TABLE_OFFSET + 4 * u64::from(first))
    }

    /// Data of the chunk; what the file does not hold reads as zeros.
    pub fn read_data(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let read = self.file.read_at(buf, DATA_OFFSET + offset)?;
        buf[read..].fill(0);
        Ok(())
    }

    pub fn write_data(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(data, DATA_OFFSET + offset)
    }

    /// Makes the file hold `length` bytes of data and none beyond, so that growing later uncovers nothing old.
    pub fn cut(&self, length: u64) -> io::Result<()> {
        if self.file.len()? > DATA_OFFSET + length {
            self.file.set_len(DATA_OFFSET + length)?;
        }
        Ok(())
    }

    /// Ends a change that did not come to its end: the blocks that it named get the checksums of what they hold, bytes
    /// beyond the length go, and the intent is taken back. `status` is what the header says from now on. Blocks that
    /// cannot be read get a checksum that they will not match, and are returned.
    pub fn repair(&self, status: &Status, intent: Intent) -> io::Result<Vec<u32>> {
        self.cut(status.length)?;
        let mut unreadable = vec![];
        let mut crcs = Vec::with_capacity(intent.blocks as usize);
        let end = intent.first_block + intent.blocks;
        let held = end.min(block_count(status.length));
        let mut buf = vec![0; STEP_BYTES.min(u64::from(intent.blocks) * BLOCK_SIZE_BYTES) as usize];
        let mut first = intent.first_block;
        while first < held {
            let blocks = STEP_BLOCKS.min(held - first);
            let (sums, bad) = self.hash_blocks(first, blocks, status.length, &mut buf);
            crcs.extend(sums);
            unreadable.extend(bad);
            first += blocks;
        }
        crcs.resize(intent.blocks as usize, 0);
        self.write_table(intent.first_block, &crcs)?;
        self.write_head(status, None)?;
        Ok(unreadable)
    }

    /// Checksums of blocks as they are on the disk, and which of them cannot be read (their checksum is `!0`). `buf`
    /// holds `blocks` blocks.
    pub fn hash_blocks(&self, first: u32, blocks: u32, length: u64, buf: &mut [u8]) -> (Vec<u32>, Vec<u32>) {
        let start = u64::from(first) * BLOCK_SIZE_BYTES;
        let len = length.min(start + u64::from(blocks) * BLOCK_SIZE_BYTES) - start;
        let whole = self.read_data(&mut buf[..len as usize], start);
        let mut unreadable = vec![];
        let crcs = (first..first + blocks)
            .map(|block| {
                let at = (u64::from(block - first) * BLOCK_SIZE_BYTES) as usize;
                let bytes = &mut buf[at..at + block_len(block, length) as usize];
                // one bad sector must not hide its neighbours
                if whole.is_err() && self.read_data(bytes, start + at as u64).is_err() {
                    unreadable.push(block);
                    return !0;
                }
                crc(bytes)
            })
            .collect();
        (crcs, unreadable)
    }
}
