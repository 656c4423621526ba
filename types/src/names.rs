//! Names of entries of a directory.

/// Where a name stands in a listing of its directory, whatever else comes and goes there: a hash, stable for ever (it is on
/// disk and in clients' hands), above 2, below 2^63. Two names may share it.
pub fn cookie(name: &[u8]) -> u64 {
    // FNV-1a, then the finalizer of MurmurHash3, which spreads what FNV leaves in the low bits
    let mut h = name.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
        (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
    });
    h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^= h >> 33;
    // 1 and 2 are left for `.` and `..`; readdir offsets are signed
    (h >> 1).max(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_never_change() {
        let known = [cookie(b"a"), cookie(b"big.iso"), cookie(&[0xff; 255])];
        assert_eq!(known, KNOWN);
        assert!(known.iter().all(|h| (3..1 << 63).contains(h)));
    }
    const KNOWN: [u64; 3] = [4706636184713914157, 6032534467920670831, 1029007805597636916];
}
