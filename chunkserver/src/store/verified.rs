//! Checksums of the pages of blocks that have been compared with the table: a small read of such a block is checked by
//! its own pages, without the rest of the block.
use super::crc;
use super::locked;
use cairn_types::ChunkHandle;
use cairn_types::layout::BLOCK_SIZE_BYTES;
use rustc_hash::FxHashMap;
use std::ops::Range;
use std::sync::Mutex;

pub(super) const PAGE_BYTES: usize = 4096;
const PAGES: usize = BLOCK_SIZE_BYTES as usize / PAGE_BYTES;
/// Of each of the two generations: 1.75 GiB of data, by the 2.6 MiB of a hash table that would grow with one more.
const BLOCKS_MAX: usize = 32_768 / 8 * 7;

/// CRC32 of each page; the last one ends with the block.
pub(super) type PageSums = [u32; PAGES];

type Blocks = FxHashMap<(ChunkHandle, u32), PageSums>;

/// Of one disk. Who reads a block and notes it here holds its chunk's lock for reading, who changes it for writing.
#[derive(Default)]
pub(super) struct Verified(Mutex<Generations>);

/// What was used since the young were last empty, and what was used in the time before that.
#[derive(Default)]
struct Generations {
    young: Blocks,
    old: Blocks,
}

impl Verified {
    pub fn get(&self, handle: ChunkHandle, block: u32) -> Option<PageSums> {
        let key = (handle, block);
        let mut blocks = locked(&self.0);
        if let Some(sums) = blocks.young.get(&key) {
            return Some(*sums);
        }
        let sums = blocks.old.remove(&key)?;
        blocks.insert(key, sums);
        Some(sums)
    }

    /// `bytes` are all that the block holds, and agree with the table.
    pub fn note(&self, handle: ChunkHandle, block: u32, bytes: &[u8]) {
        let mut sums = [0; PAGES];
        for (sum, page) in sums.iter_mut().zip(bytes.chunks(PAGE_BYTES)) {
            *sum = crc::crc(page);
        }
        locked(&self.0).insert((handle, block), sums);
    }

    /// These blocks are about to be changed.
    pub fn forget(&self, handle: ChunkHandle, blocks: Range<u32>) {
        let mut known = locked(&self.0);
        let Generations { young, old } = &mut *known;
        for generation in [young, old] {
            if !generation.is_empty() {
                for block in blocks.clone() {
                    generation.remove(&(handle, block));
                }
            }
        }
    }
}

impl Generations {
    fn insert(&mut self, key: (ChunkHandle, u32), sums: PageSums) {
        if self.young.len() >= BLOCKS_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_memory_is_bounded() {
        let verified = Verified::default();
        let used = ChunkHandle(0);
        verified.note(used, 0, &[7; 5000]);
        for n in 1..=4 * BLOCKS_MAX as u64 {
            verified.note(ChunkHandle(n), 0, &[1]);
            assert!(verified.get(used, 0).is_some(), "{n}");
        }
        let sums = verified.get(used, 0).unwrap();
        assert_eq!(sums[..3], [crc::crc(&[7; 4096]), crc::crc(&[7; 904]), 0]);
        assert_eq!(verified.get(ChunkHandle(1), 0), None);
        let known = verified.0.lock().unwrap();
        assert!(known.young.len() + known.old.len() <= 2 * BLOCKS_MAX);
    }

    #[test]
    fn what_changes_is_forgotten_in_both_generations() {
        let verified = Verified::default();
        let chunk = ChunkHandle(9);
        (0..4).for_each(|block| verified.note(chunk, block, &[1]));
        (0..BLOCKS_MAX as u64).for_each(|n| verified.note(ChunkHandle(100 + n), 0, &[1]));
        verified.note(chunk, 4, &[1]);
        verified.forget(chunk, 1..3);
        verified.forget(chunk, 4..5);
        let known: Vec<u32> = (0..5).filter(|block| verified.get(chunk, *block).is_some()).collect();
        assert_eq!(known, [0, 3]);
    }
}
