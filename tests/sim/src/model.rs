//! What a file may hold, given what was written to it and what fsync said.
use anyhow::{Result, bail, ensure};
use bytes::Bytes;

/// One file's history of writes, in order. Each may be there or not, byte by byte, until an fsync promises it. The
/// oracle of promises 2 and 3, in a page of code that cannot be wrong the same way as the file system.
#[derive(Clone, Debug, Default)]
pub struct FileModel {
    writes: Vec<Write>,
    /// What the promised writes alone make.
    promised: Vec<u8>,
    /// An fsync has returned: the file must be there.
    pub must_exist: bool,
}

#[derive(Clone, Debug)]
struct Write {
    offset: usize,
    bytes: Bytes,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Pending,
    Promised,
    /// It or its fsync failed: it may be there, before all later ones, and no fsync will say.
    Failed,
}

impl Write {
    fn end(&self) -> usize {
        self.offset + self.bytes.len()
    }

    fn at(&self, at: usize) -> Option<u8> {
        self.bytes.get(at.checked_sub(self.offset)?).copied()
    }
}

impl FileModel {
    /// A write is about to be issued.
    pub fn write(&mut self, offset: usize, bytes: Bytes) {
        let fate = Fate::Pending;
        self.writes.push(Write { offset, bytes, fate });
    }

    /// Writes issued so far: what an fsync that begins now covers.
    pub fn written(&self) -> usize {
        self.writes.len()
    }

    /// An fsync has returned that covers the first `writes`.
    pub fn promise(&mut self, writes: usize) {
        for write in self.writes[..writes].iter_mut().filter(|w| w.fate == Fate::Pending) {
            write.fate = Fate::Promised;
            if self.promised.len() < write.end() {
                self.promised.resize(write.end(), 0);
            }
            self.promised[write.offset..write.end()].copy_from_slice(&write.bytes);
        }
        self.must_exist = true;
    }

    /// A write or an fsync has failed: what no fsync has promised is in doubt for good.
    pub fn fail(&mut self) {
        for write in self.writes.iter_mut().filter(|w| w.fate == Fate::Pending) {
            write.fate = Fate::Failed;
        }
    }

    /// This history with the writes that were issued later, of which nothing is promised: what a read may see that
    /// began at this one and ended at `later`.
    #[must_use]
    pub fn until(mut self, later: &Self) -> Self {
        let new = later.writes[self.writes.len()..].iter().cloned();
        let fate = Fate::Pending;
        self.writes.extend(new.map(|write| Write { fate, ..write }));
        self
    }

    /// Whether the whole file may hold `found`.
    pub fn check(&self, found: &[u8]) -> Result<()> {
        let promised = self.promised.len();
        let longest = self.writes.iter().map(Write::end).max().unwrap_or(0);
        ensure!(
            found.len() >= promised,
            "{} bytes, of {promised} that fsync promised",
            found.len()
        );
        ensure!(
            found.len() <= longest,
            "{} bytes, of {longest} ever written",
            found.len()
        );
        found
            .iter()
            .enumerate()
            .try_for_each(|(at, byte)| self.check_byte(at, *byte))
    }

    fn check_byte(&self, at: usize, byte: u8) -> Result<()> {
        let promised = self.promised.get(at).copied().unwrap_or(0);
        if byte == promised {
            return Ok(());
        }
        let mut old = false;
        for write in self.writes.iter().rev() {
            if write.at(at) == Some(byte) {
                ensure!(
                    !old,
                    "byte {at} is {byte}, as an earlier write left it; fsync promised {promised}"
                );
                return Ok(());
            }
            old |= write.fate == Fate::Promised && write.at(at).is_some();
        }
        bail!("byte {at} is {byte}, which nobody ever wrote there; fsync promised {promised}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(file: &mut FileModel, offset: usize, bytes: &'static [u8]) {
        file.write(offset, Bytes::from_static(bytes));
    }

    #[test]
    fn the_oracle_knows_right_from_wrong() {
        let mut file = FileModel::default();
        assert!(file.check(b"").is_ok() && file.check(b"x").is_err());
        write(&mut file, 0, b"aaaa");
        assert!(file.check(b"").is_ok() && file.check(b"aa").is_ok() && file.check(b"ab").is_err());
        file.promise(1);
        assert!(file.check(b"aaaa").is_ok() && file.check(b"aaa").is_err() && file.check(b"aaa\0").is_err());
        let before = file.clone();
        write(&mut file, 2, b"bb");
        write(&mut file, 6, b"c");
        assert!(file.check(b"aaaa").is_ok() && file.check(b"aaab").is_ok() && file.check(b"abab").is_err());
        assert!(file.check(b"aabb\0\0c").is_ok() && file.check(b"aabb\0\0c\0").is_err());
        file.promise(3);
        assert!(file.check(b"aabb\0\0c").is_ok() && file.check(b"aaab\0\0c").is_err());
        assert!(before.check(b"aabb").is_err() && before.until(&file).check(b"aaba").is_ok());
    }

    #[test]
    fn a_failed_write_may_be_there_below_all_later_ones() {
        let mut file = FileModel::default();
        write(&mut file, 0, b"aaaa");
        file.promise(1);
        write(&mut file, 0, b"ff");
        file.fail();
        write(&mut file, 1, b"c");
        file.promise(3);
        assert!(file.check(b"acaa").is_ok() && file.check(b"fcaa").is_ok());
        assert!(file.check(b"ffaa").is_err() && file.check(b"aaaa").is_err());
    }
}
