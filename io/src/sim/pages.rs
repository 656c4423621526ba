use std::collections::BTreeMap;

pub(super) const PAGE_BYTES: usize = 4096;

/// A file's bytes, with holes that read as zeros.
#[derive(Clone, Default)]
pub(super) struct Pages(BTreeMap<u64, Box<[u8; PAGE_BYTES]>>);

impl Pages {
    pub fn read(&self, buf: &mut [u8], offset: u64) {
        for (page, start, range) in cut(offset, buf.len()) {
            let len = range.len();
            match self.0.get(&page) {
                Some(bytes) => buf[range].copy_from_slice(&bytes[start..start + len]),
                None => buf[range].fill(0),
            }
        }
    }

    pub fn write(&mut self, buf: &[u8], offset: u64) {
        for (page, start, range) in cut(offset, buf.len()) {
            let bytes = self.0.entry(page).or_insert_with(|| Box::new([0; PAGE_BYTES]));
            bytes[start..start + range.len()].copy_from_slice(&buf[range]);
        }
    }

    /// Bytes from `len` on are zeros from now on.
    pub fn cut(&mut self, len: u64) {
        let page = len / PAGE_BYTES as u64;
        let start = (len % PAGE_BYTES as u64) as usize;
        self.0.split_off(&(page + u64::from(start > 0)));
        if start > 0
            && let Some(bytes) = self.0.get_mut(&page)
        {
            bytes[start..].fill(0);
        }
    }

    pub fn flip(&mut self, bit: u64) {
        let mut byte = [0];
        self.read(&mut byte, bit / 8);
        byte[0] ^= 1 << (bit % 8);
        self.write(&byte, bit / 8);
    }

    /// Pages that a write would add.
    pub fn missing(&self, offset: u64, len: usize) -> u64 {
        cut(offset, len).filter(|(page, ..)| !self.0.contains_key(page)).count() as u64
    }

    pub fn count(&self) -> u64 {
        self.0.len() as u64
    }
}

/// Cuts a range at page boundaries: (page, offset in it, range of the buffer).
fn cut(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        (done < len).then(|| {
            let at = offset + done as u64;
            let start = (at % PAGE_BYTES as u64) as usize;
            let n = (PAGE_BYTES - start).min(len - done);
            let piece = (at / PAGE_BYTES as u64, start, done..done + n);
            done += n;
            piece
        })
    })
}
