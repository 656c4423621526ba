//! CRC32 arithmetic: the checksum of a block after a change follows from the bytes changed, not from the block.
//!
//! CRC32 is affine over GF(2): for two strings of one length, crc(P X Q) ^ crc(P Y Q) depends on X ^ Y and on the
//! length of Q alone. So a partial overwrite reads the bytes that it replaces and nothing else, and because the old
//! checksum is carried along and not computed, a rest of the block that had rotted still does not match.
use cairn_types::layout::BLOCK_SIZE_BYTES;
use crc32fast::Hasher;

/// CRC32 (IEEE) of some bytes.
pub fn crc(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// crc(A B) from crc(A), crc(B) and the length of B.
pub fn combine(a: u32, b: u32, b_len: u64) -> u32 {
    let mut hasher = Hasher::new_with_initial_len(a, 0);
    hasher.combine(&Hasher::new_with_initial_len(b, b_len));
    hasher.finalize()
}

/// crc of `len` zero bytes, at most a block: by squaring, nothing is hashed.
pub fn zeros(len: u64) -> u32 {
    debug_assert!(len <= BLOCK_SIZE_BYTES);
    if len == BLOCK_SIZE_BYTES {
        return ZERO_BLOCK;
    }
    // crc of 2^k zeros, doubled as k goes up
    let (mut sum, mut power) = (0, ZERO_BYTE);
    for k in 0..BLOCK_SIZE_BYTES.ilog2() {
        if len >> k & 1 == 1 {
            sum = combine(sum, power, 1 << k);
        }
        power = combine(power, power, 1 << k);
    }
    sum
}

const ZERO_BYTE: u32 = 0xd202_ef8d;
const ZERO_BLOCK: u32 = 0xd797_8eeb;

/// crc(A 0...) from crc(A): `len` zeros appended.
pub fn extend_with_zeros(a: u32, len: u64) -> u32 {
    if len == 0 { a } else { combine(a, zeros(len), len) }
}

/// A part of a block to be overwritten, possibly past what the block holds so far.
#[derive(Debug, Clone, Copy)]
pub struct Overwrite {
    /// Bytes that the block holds before, and their checksum.
    pub block_len: u64,
    pub block_crc: u32,
    /// The new bytes: where in the block, how many, their checksum.
    pub at: u64,
    pub len: u64,
    pub new_crc: u32,
    /// The bytes that they replace: `replaced_len()` of them, from `at`.
    pub replaced_crc: u32,
}

impl Overwrite {
    /// How many bytes of the block as it was the new ones replace: the caller reads these, from `at`, and no others.
    pub fn replaced_len(&self) -> u64 {
        self.block_len.saturating_sub(self.at).min(self.len)
    }

    /// The old bytes do not count at all: the new ones cover the block from its start to its end, old and new.
    pub fn covers(&self) -> bool {
        self.at == 0 && self.len >= self.block_len
    }

    /// The block's checksum afterwards, over max(block_len, at + len) bytes; a gap between counts as zeros.
    pub fn result(&self) -> u32 {
        if self.covers() {
            return self.new_crc;
        }
        let end = self.at + self.len;
        let result_len = end.max(self.block_len);
        let before = extend_with_zeros(self.block_crc, result_len - self.block_len);
        let replaced = extend_with_zeros(self.replaced_crc, self.len - self.replaced_len());
        before ^ shift(replaced ^ self.new_crc, result_len - end)
    }
}

/// What a difference of checksums becomes once `len` bytes follow, the same in both.
fn shift(difference: u32, len: u64) -> u32 {
    // combine is shift(a) ^ b, and 0 is the checksum of nothing
    if len == 0 {
        difference
    } else {
        combine(difference, 0, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn zeros_need_no_hashing() {
        let block = vec![0u8; BLOCK_SIZE_BYTES as usize];
        for len in [0, 1, 2, 3, 4095, 4096, 65535, 65536] {
            assert_eq!(zeros(len), crc(&block[..len as usize]), "{len}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn overwrite_equals_recomputation(
            old in prop::collection::vec(any::<u8>(), 0..300),
            new in prop::collection::vec(any::<u8>(), 1..300),
            at in 0usize..600,
        ) {
            let mut after = old.clone();
            after.resize(old.len().max(at + new.len()), 0);
            after[at..at + new.len()].copy_from_slice(&new);
            let mut o = Overwrite {
                block_len: old.len() as u64, block_crc: crc(&old),
                at: at as u64, len: new.len() as u64, new_crc: crc(&new), replaced_crc: 0,
            };
            let replaced = o.replaced_len() as usize;
            o.replaced_crc = if replaced == 0 { 0 } else { crc(&old[at..at + replaced]) };
            prop_assert_eq!(o.result(), crc(&after));
        }

        /// The checksum kept is of what the block should hold, so that rot elsewhere in it is still noticed.
        #[test]
        fn rot_outside_of_the_overwrite_stays_detectable(
            old in prop::collection::vec(any::<u8>(), 10..300),
            new in prop::collection::vec(any::<u8>(), 1..5),
            rot in 0usize..300, bit in 0u8..8,
        ) {
            let (at, rot) = (2, rot % old.len());
            prop_assume!(rot < at || rot >= at + new.len());
            let mut rotten = old.clone();
            rotten[rot] ^= 1 << bit;
            let o = Overwrite {
                block_len: old.len() as u64, block_crc: crc(&old),
                at: at as u64, len: new.len() as u64, new_crc: crc(&new),
                replaced_crc: crc(&rotten[at..at + new.len()]),
            };
            rotten[at..at + new.len()].copy_from_slice(&new);
            prop_assert_ne!(o.result(), crc(&rotten));
        }
    }
}
