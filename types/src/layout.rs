//! How a file lies in chunks, and a chunk in checksummed blocks.

/// Bytes of data in a full chunk.
pub const CHUNK_SIZE_BYTES: u64 = 64 << 20;
/// Bytes that one CRC32 covers.
pub const BLOCK_SIZE_BYTES: u64 = 64 << 10;
/// Blocks, and so checksums, in a full chunk.
pub const BLOCKS_PER_CHUNK: u64 = CHUNK_SIZE_BYTES / BLOCK_SIZE_BYTES;
/// The largest file: chunk indices fit in 32 bits.
pub const FILE_SIZE_BYTES_MAX: u64 = CHUNK_SIZE_BYTES * (u32::MAX as u64);

const _: () = assert!(CHUNK_SIZE_BYTES.is_multiple_of(BLOCK_SIZE_BYTES));
// One page of a chunk file holds the whole table.
const _: () = assert!(BLOCKS_PER_CHUNK * 4 == 4096);
const _: () = assert!(FILE_SIZE_BYTES_MAX < i64::MAX as u64);

/// A part of a file that lies within one chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRange {
    /// Which chunk of the file, from 0.
    pub index: u32,
    /// First byte, within the chunk.
    pub offset: u64,
    pub len: u64,
}

/// The chunk that holds byte `offset` of a file.
pub fn chunk_index(offset: u64) -> u32 {
    (offset / CHUNK_SIZE_BYTES) as u32
}

/// The chunks of a file of `size` bytes.
pub fn chunk_count(size: u64) -> u32 {
    size.div_ceil(CHUNK_SIZE_BYTES) as u32
}

/// Cuts `[offset, offset + len)` of a file at chunk boundaries, in order.
pub fn chunk_ranges(offset: u64, len: u64) -> impl Iterator<Item = ChunkRange> {
    cut(offset, len, CHUNK_SIZE_BYTES).map(|(offset, len)| ChunkRange {
        index: chunk_index(offset),
        offset: offset % CHUNK_SIZE_BYTES,
        len,
    })
}

/// Cuts `[offset, offset + len)` of a chunk at block boundaries, in order: (offset, len) of each piece.
pub fn block_pieces(offset: u64, len: u64) -> impl Iterator<Item = (u64, u64)> {
    cut(offset, len, BLOCK_SIZE_BYTES)
}

fn cut(offset: u64, len: u64, unit: u64) -> impl Iterator<Item = (u64, u64)> {
    let end = offset + len;
    let mut at = offset;
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let next = end.min((at / unit + 1) * unit);
            let piece = (at, next - at);
            at = next;
            piece
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_at_chunk_boundaries() {
        let ranges: Vec<_> = chunk_ranges(CHUNK_SIZE_BYTES - 1, CHUNK_SIZE_BYTES + 2).collect();
        let range = |index, offset, len| ChunkRange { index, offset, len };
        assert_eq!(
            ranges,
            [
                range(0, CHUNK_SIZE_BYTES - 1, 1),
                range(1, 0, CHUNK_SIZE_BYTES),
                range(2, 0, 1)
            ]
        );
        assert_eq!(chunk_ranges(5, 0).count(), 0);
        assert_eq!(
            (chunk_count(0), chunk_count(1), chunk_count(CHUNK_SIZE_BYTES)),
            (0, 1, 1)
        );
    }

    #[test]
    fn pieces_are_cut_at_block_boundaries() {
        let pieces: Vec<_> = block_pieces(10, BLOCK_SIZE_BYTES).collect();
        assert_eq!(pieces, [(10, BLOCK_SIZE_BYTES - 10), (BLOCK_SIZE_BYTES, 10)]);
    }
}
