//! Going through a chunk to see whether it still is what was stored.
use super::Result;
use super::chunk::Chunk;
use super::crc::crc;
use super::error::Damage;
use super::file::{STEP_BLOCKS, STEP_BYTES};
use super::format::{block_count, block_len};
use cairn_types::layout::BLOCK_SIZE_BYTES;

/// What a step of a scrub found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// None if all is well; of a suspect chunk, blocks may differ without anything having rotted.
    pub damage: Damage,
    /// Bytes read.
    pub bytes: u64,
    /// Where the next step goes on; none when the chunk has been seen to its end.
    pub next_block: Option<u32>,
}

impl Chunk {
    /// A step of a scrub: the header and the whole table, then up to 1 MiB of blocks from `first_block`. Writes wait for
    /// one step, not for the chunk.
    ///
    /// # Errors
    /// `DiskFailed`, `NotFound`, `TooManyFiles`.
    pub fn verify_step(&self, first_block: u32) -> Result<Verified> {
        self.disk.readable()?;
        let core = self.read_made()?;
        core.present(self.handle())?;
        let stop = |damage: Damage| {
            self.slot.note(&damage);
            Ok(Verified {
                damage,
                bytes: 0,
                next_block: None,
            })
        };
        let file = match self.file_or_fault(&core)? {
            Ok(file) => file,
            Err(fault) => return stop(Damage::of_header(fault)),
        };
        let length = core.status.length;
        let held = block_count(length);
        let head = match self.read_and_judge(&core, &file, u32::MAX) {
            Ok(crcs) => crcs,
            Err(fault) => return stop(Damage::of_header(fault)),
        };
        let table = match head {
            Some(crcs) if crcs[held as usize..].iter().all(|&c| c == 0) => crcs,
            _ => {
                return stop(Damage {
                    table: true,
                    ..Damage::default()
                });
            }
        };
        let first = first_block.min(held);
        let blocks = STEP_BLOCKS.min(held - first);
        let mut buf = vec![0; (u64::from(blocks) * BLOCK_SIZE_BYTES) as usize];
        let (crcs, unreadable) = if blocks == 0 {
            (vec![], vec![])
        } else {
            file.hash_blocks(first, blocks, length, &mut buf)
        };
        let differ = (first..)
            .zip(&crcs)
            .filter(|(block, crc)| **crc != table[*block as usize])
            .map(|(block, _)| block);
        let damage = Damage::of_blocks(differ.chain(unreadable));
        self.slot.seen(first..first + blocks, &damage);
        let next = first + blocks;
        Ok(Verified {
            damage,
            bytes: length.min(u64::from(next) * BLOCK_SIZE_BYTES) - length.min(u64::from(first) * BLOCK_SIZE_BYTES),
            next_block: (next < held).then_some(next),
        })
    }

    /// All steps at once.
    ///
    /// # Errors
    /// As [`Chunk::verify_step`].
    pub fn verify(&self) -> Result<Damage> {
        let mut damage = Damage::default();
        let mut next = Some(0);
        while let Some(block) = next {
            let step = self.verify_step(block)?;
            damage.merge(&step.damage);
            next = step.next_block;
        }
        Ok(damage)
    }
}

/// Which of the blocks of `data`, that begin with block `first`, do not match their checksums.
pub(super) fn mismatches(data: &[u8], first: u32, length: u64, crcs: &[u32]) -> Vec<u32> {
    debug_assert!(data.len() as u64 <= STEP_BYTES.max(length));
    (first..)
        .zip(crcs)
        .scan(0usize, |at, (block, &expected)| {
            let bytes = &data[*at..*at + block_len(block, length) as usize];
            *at += bytes.len();
            Some((crc(bytes) != expected).then_some(block))
        })
        .flatten()
        .collect()
}
