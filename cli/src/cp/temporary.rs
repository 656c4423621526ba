//! Names of files that are not whole yet: `.cairn-cp.NAME.ID.partial`, beside the final one. The id says which file is
//! copied, so that `--resume` finds what an earlier copy of the same file left.
use super::tree::Meta;
use cairn_types::limits::NAME_BYTES_MAX;
use std::os::unix::ffi::OsStrExt;

const PREFIX: &[u8] = b".cairn-cp.";
const SUFFIX: &[u8] = b".partial";

/// The temporary name for `name`, which is cut where both do not fit.
pub fn name(name: &[u8], id: &str) -> Vec<u8> {
    let room = NAME_BYTES_MAX - PREFIX.len() - SUFFIX.len() - 1 - id.len();
    let mut temporary = PREFIX.to_vec();
    temporary.extend_from_slice(&name[..name.len().min(room)]);
    temporary.push(b'.');
    temporary.extend_from_slice(id.as_bytes());
    temporary.extend_from_slice(SUFFIX);
    temporary
}

/// Which state of which file: its full path, size and modification time.
pub fn id_of(source: &[u8], meta: &Meta) -> String {
    let path = std::path::Path::new(std::ffi::OsStr::from_bytes(source));
    // of a cluster's file the path is absolute already
    let full = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut hash = fnv(0xcbf2_9ce4_8422_2325, full.as_os_str().as_bytes());
    hash = fnv(hash, &meta.size.to_le_bytes());
    hash = fnv(hash, &meta.mtime_ns.to_le_bytes());
    format!("{hash:016x}")
}

/// Told apart from every other copy that runs.
pub fn random() -> u64 {
    cairn_io::Rng::from_system().bits64()
}

/// FNV-1a, 64 bits.
fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(hash, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_names_have_a_temporary_one() {
        let long = vec![b'x'; NAME_BYTES_MAX];
        let id = format!("{:016x}-{:x}", 1u64, u64::MAX);
        assert_eq!(name(&long, &id).len(), NAME_BYTES_MAX);
        assert_eq!(name(b"a.iso", "12"), b".cairn-cp.a.iso.12.partial");
    }
}
