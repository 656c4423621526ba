//! What a file may hold, given what was written to it and what fsync said.
use anyhow::{Result, ensure};

/// One file's history: bytes that fsync has promised, and writes issued since, each of which may be there or not,
/// byte by byte. The oracle of promise 2, a page of code that cannot be wrong the same way as the file system.
#[derive(Clone, Debug, Default)]
pub struct FileModel {
    /// The contents when fsync last returned.
    synced: Vec<u8>,
    /// Writes since, in order: (offset, bytes).
    since: Vec<(usize, Vec<u8>)>,
    /// An fsync has returned: the file must be there.
    pub promised: bool,
}

impl FileModel {
    /// A write is about to be issued.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.since.push((offset, bytes.to_vec()));
    }

    /// An fsync has returned that began after the first `writes` of the writes since the last one.
    pub fn synced(&mut self, writes: usize) {
        for (offset, bytes) in self.since.drain(..writes) {
            let end = offset + bytes.len();
            if self.synced.len() < end {
                self.synced.resize(end, 0);
            }
            self.synced[offset..end].copy_from_slice(&bytes);
        }
        self.promised = true;
    }

    /// Writes that no fsync has covered.
    pub fn pending(&self) -> usize {
        self.since.len()
    }

    /// The contents when every write is there, as the writer itself sees them.
    pub fn latest(&self) -> Vec<u8> {
        let mut all = self.clone();
        all.synced(all.pending());
        all.synced
    }

    /// Whether a file may hold `found` after a crash.
    pub fn check(&self, found: &[u8]) -> Result<()> {
        let promised = self.synced.len();
        let longest = self
            .since
            .iter()
            .map(|(at, bytes)| at + bytes.len())
            .fold(promised, usize::max);
        ensure!(
            found.len() >= promised,
            "{} bytes of {promised} that fsync promised",
            found.len()
        );
        ensure!(
            found.len() <= longest,
            "{} bytes, of {longest} ever written",
            found.len()
        );
        for (at, byte) in found.iter().enumerate() {
            let promised = self.synced.get(at).copied().unwrap_or(0);
            let mut later = self
                .since
                .iter()
                .filter_map(|(start, bytes)| bytes.get(at.checked_sub(*start)?));
            ensure!(
                *byte == promised || later.any(|b| b == byte),
                "byte {at} of {} is {byte}, which is neither {promised}, as fsync promised, nor written since",
                found.len()
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oracle_knows_right_from_wrong() {
        let mut file = FileModel::default();
        assert!(file.check(b"").is_ok() && file.check(b"x").is_err());
        file.write(0, b"aaaa");
        assert!(file.check(b"").is_ok() && file.check(b"aa").is_ok() && file.check(b"ab").is_err());
        file.synced(1);
        assert!(file.check(b"aaaa").is_ok() && file.check(b"aaa").is_err() && file.check(b"aaa\0").is_err());
        file.write(2, b"bb");
        file.write(6, b"c");
        assert!(file.check(b"aaaa").is_ok() && file.check(b"aaab").is_ok() && file.check(b"abab").is_err());
        assert!(file.check(b"aabb\0\0c").is_ok() && file.check(b"aabb\0\0c\0").is_err());
        assert_eq!(file.latest(), b"aabb\0\0c");
    }
}
