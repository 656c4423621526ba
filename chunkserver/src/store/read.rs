//! Reading a chunk: whole blocks come from the disk, so that those of which only a part is wanted can be checked; small
//! parts of a block that has been checked before come alone.
use super::Result;
use super::chunk::{At, Chunk, Core, Pieces, bad_range};
use super::crc;
use super::error::Damage;
use super::file::ChunkFile;
use super::format::{DATA_OFFSET, block_len};
use super::scrub::mismatches;
use super::verified::PAGE_BYTES;
use bytes::Bytes;
use cairn_io::FileRange;
use cairn_types::layout::{BLOCK_SIZE_BYTES, CHUNK_SIZE_BYTES, block_pieces};
use std::cell::RefCell;
use std::ops::Range;

/// Up to here blocks are read into memory of the thread when only a part of them is wanted: fresh memory costs more than
/// the read.
const SCRATCH_BYTES: usize = 2 * BLOCK_SIZE_BYTES as usize;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Bytes of a chunk in its file; otherwise as [`Pieces`].
pub struct Stored {
    pub range: FileRange,
    pub crcs: Vec<u32>,
    pub length: u64,
}

/// Whole blocks `first..after` of a chunk of `length` bytes, and their stored checksums.
struct Blocks<'a> {
    first: u32,
    after: u32,
    length: u64,
    stored: &'a [u32],
}

impl Chunk {
    /// Reads up to `len` bytes at `offset`, fewer where the chunk ends. A piece that is all that its block holds
    /// comes with the stored checksum and is not checked here unless `verify`; any other piece is checked as part of its
    /// block, or of those pages of it that were found to be right before, and comes with its own. The header is looked at
    /// on the disk each time.
    ///
    /// # Errors
    /// `WrongVersion`, `Corrupt`, `BadRange`, `DiskFailed`, `NotFound`, `TooManyFiles`.
    pub fn read(&self, at: At, offset: u64, len: u64, verify: bool) -> Result<Pieces> {
        if offset > CHUNK_SIZE_BYTES || len > CHUNK_SIZE_BYTES {
            return Err(bad_range(offset, len, 0));
        }
        self.disk.readable()?;
        let core = self.read_made()?;
        self.expect(&core, at)?;
        let file = self.file(&core)?;
        let length = core.status.length;
        let end = (offset + len).min(length);
        let first = (offset / BLOCK_SIZE_BYTES) as u32;
        if offset >= end {
            self.check_head(&core, &file, 0)?;
            return Ok(Pieces {
                data: Bytes::new(),
                crcs: vec![],
                length,
            });
        }
        let after = end.div_ceil(BLOCK_SIZE_BYTES) as u32;
        let small = 2 * (end - offset) <= block_len(first, length) && after - first == 1;
        if small
            && !verify
            && let Some((data, sum)) = self.read_verified(&core, &file, offset..end)?
        {
            let crcs = vec![sum];
            return Ok(Pieces { data, crcs, length });
        }
        let table = self.check_head(&core, &file, after)?;
        let stored = &table[first as usize..];
        // whole blocks are read, so that those at the edges can be checked
        let start = u64::from(first) * BLOCK_SIZE_BYTES;
        let stop = length.min(u64::from(after) * BLOCK_SIZE_BYTES);
        let blocks = Blocks {
            first,
            after,
            length,
            stored,
        };
        let (len, wanted) = (
            (stop - start) as usize,
            (offset - start) as usize..(end - start) as usize,
        );
        if len > SCRATCH_BYTES || 2 * wanted.len() > len {
            let mut data = vec![0; len];
            let crcs = self.read_blocks(&file, &blocks, &mut data, offset..end, verify)?;
            let data = Bytes::from(data).slice(wanted);
            return Ok(Pieces { data, crcs, length });
        }
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize(SCRATCH_BYTES, 0);
            let data = &mut scratch[..len];
            let crcs = self.read_blocks(&file, &blocks, data, offset..end, verify)?;
            if small {
                self.disk.verified.note(self.handle(), first, data);
            }
            let data = Bytes::copy_from_slice(&data[wanted]);
            Ok(Pieces { data, crcs, length })
        })
    }

    /// Where such a read finds its bytes, if all that it wants of each block is all that the block holds: nothing has to be
    /// checked here then. What is read there later may have been changed since, as whoever compares it with the
    /// checksums will see. The header is looked at on the disk.
    ///
    /// # Errors
    /// As [`Chunk::read`].
    pub fn locate(&self, at: At, offset: u64, len: u64) -> Result<Option<Stored>> {
        self.disk.readable()?;
        let core = self.read_made()?;
        self.expect(&core, at)?;
        let length = core.status.length;
        let end = offset.saturating_add(len).min(length);
        let whole = |at: u64| at.is_multiple_of(BLOCK_SIZE_BYTES);
        if offset >= end || !whole(offset) || !(whole(end) || end == length) {
            return Ok(None);
        }
        let file = self.file(&core)?;
        let (first, after) = (offset / BLOCK_SIZE_BYTES, end.div_ceil(BLOCK_SIZE_BYTES));
        let mut crcs = self.check_head(&core, &file, after as u32)?;
        crcs.drain(..first as usize);
        let range = FileRange {
            file: file.file.clone(),
            offset: DATA_OFFSET + offset,
            len: (end - offset) as usize,
        };
        Ok(Some(Stored { range, crcs, length }))
    }

    /// A part of one block whose pages are known, and its checksum. None if they are not, or do not agree: then the whole
    /// block says what is wrong.
    fn read_verified(&self, core: &Core, file: &ChunkFile, wanted: Range<u64>) -> Result<Option<(Bytes, u32)>> {
        let block = (wanted.start / BLOCK_SIZE_BYTES) as u32;
        let Some(sums) = self.disk.verified.get(self.handle(), block) else {
            return Ok(None);
        };
        self.check_head(core, file, 0)?;
        let page = PAGE_BYTES as u64;
        let block_start = u64::from(block) * BLOCK_SIZE_BYTES;
        let block_end = block_start + block_len(block, core.status.length);
        // pages of the block are pages of the chunk
        let start = wanted.start / page * page;
        let stop = wanted.end.next_multiple_of(page).min(block_end);
        let mut bytes = vec![0; (stop - start) as usize];
        if file.read_data(&mut bytes, start).is_err() {
            return Ok(None);
        }
        let first = ((start - block_start) / page) as usize;
        let sound = bytes
            .chunks(PAGE_BYTES)
            .zip(&sums[first..])
            .all(|(page, sum)| crc::crc(page) == *sum);
        if !sound {
            return Ok(None);
        }
        let data = Bytes::from(bytes).slice((wanted.start - start) as usize..(wanted.end - start) as usize);
        let sum = match data.len() as u64 == stop - start && data.len() <= PAGE_BYTES {
            true => sums[first],
            false => crc::crc(&data),
        };
        Ok(Some((data, sum)))
    }

    /// Reads the whole blocks into `data`, checks those of which only a part is in `wanted` (all, with `verify`), and
    /// gives the checksums of the pieces of `wanted`.
    fn read_blocks(
        &self,
        file: &ChunkFile,
        blocks: &Blocks<'_>,
        data: &mut [u8],
        wanted: Range<u64>,
        verify: bool,
    ) -> Result<Vec<u32>> {
        let &Blocks {
            first,
            after,
            length,
            stored,
        } = blocks;
        let start = u64::from(first) * BLOCK_SIZE_BYTES;
        if let Err(e) = file.read_data(data, start) {
            let (_, unreadable) = file.hash_blocks(first, after - first, length, data);
            tracing::error!(chunk = %self.handle(), disk = %self.disk_id(), error = %e, blocks = ?unreadable, "cannot be read");
            return Err(self.corrupt(Damage::of_blocks(unreadable)));
        }
        let partial = |block: u32| {
            let from = u64::from(block) * BLOCK_SIZE_BYTES;
            from < wanted.start || from + block_len(block, length) > wanted.end
        };
        let bad: Vec<u32> = if verify {
            mismatches(data, first, length, stored)
        } else {
            let mut edges = vec![first];
            edges.extend((after - 1 > first).then_some(after - 1));
            let bad = edges.into_iter().filter(|&block| {
                let from = ((block - first) as usize) * BLOCK_SIZE_BYTES as usize;
                let bytes = &data[from..from + block_len(block, length) as usize];
                partial(block) && crc::crc(bytes) != stored[(block - first) as usize]
            });
            bad.collect()
        };
        if !bad.is_empty() {
            return Err(self.corrupt(Damage::of_blocks(bad)));
        }
        let pieces = block_pieces(wanted.start, wanted.end - wanted.start);
        let crcs = pieces.map(|(piece_at, piece_len)| {
            let block = (piece_at / BLOCK_SIZE_BYTES) as u32;
            if !partial(block) {
                return stored[(block - first) as usize];
            }
            let from = (piece_at - start) as usize;
            crc::crc(&data[from..from + piece_len as usize])
        });
        Ok(crcs.collect())
    }
}
