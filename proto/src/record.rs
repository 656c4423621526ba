//! Records as they lie in a file (docs/record-format.md): each has a header before it and is whole in one chunk.
//!
//! ```text
//! 0  "CRec"
//! 4  length of the data in bytes, u32 little-endian
//! 8  CRC32 of the data, u32
//! 12 format: 1, u32
//! 16 session, 16 bytes
//! 32 number within the session, u64
//! 40 offset of this header in its chunk, u32
//! 44 CRC32 of bytes 0..44, u32
//! 48 the data
//! ```
//!
//! Headers begin at multiples of 8. Whatever is between records and is none, zeros of padding or what was left of a
//! record that never came to its end, is passed over: a record counts only when both checksums and the offset are right.
//! The offset keeps a record's data from being taken for records where a reader has to search.
use bytes::{Buf, Bytes, BytesMut};
use cairn_types::SessionId;
use cairn_types::layout::CHUNK_SIZE_BYTES;
use cairn_types::limits::RECORD_BYTES_MAX;

pub const MAGIC: [u8; 4] = *b"CRec";
pub const FORMAT: u32 = 1;
pub const HEADER_BYTES: usize = 48;
/// Headers begin at multiples of it.
pub const ALIGN: u64 = 8;

const _: () = assert!(CHUNK_SIZE_BYTES.is_multiple_of(ALIGN));
const _: () = assert!(((HEADER_BYTES + RECORD_BYTES_MAX) as u64) < CHUNK_SIZE_BYTES);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Of the data.
    pub length: u32,
    pub checksum: u32,
    /// Who appended it, and its number there: no two records have the same.
    pub session: SessionId,
    pub number: u64,
    /// Where the header is in its chunk.
    pub offset: u32,
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.checksum.to_le_bytes());
        bytes[12..16].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[16..32].copy_from_slice(self.session.as_bytes());
        bytes[32..40].copy_from_slice(&self.number.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.offset.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..44]);
        bytes[44..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// `None` if these bytes are no header of this format.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        if bytes.len() < HEADER_BYTES || bytes[..4] != MAGIC {
            return None;
        }
        let crc = crc32fast::hash(&bytes[..44]);
        bytes.advance(4);
        let (length, checksum, format) = (bytes.get_u32_le(), bytes.get_u32_le(), bytes.get_u32_le());
        let session = SessionId::try_from(&bytes[..16]).ok()?;
        bytes.advance(16);
        let (number, offset) = (bytes.get_u64_le(), bytes.get_u32_le());
        let sound = bytes.get_u32_le() == crc && format == FORMAT && length as usize <= RECORD_BYTES_MAX;
        sound.then_some(Self {
            length,
            checksum,
            session,
            number,
            offset,
        })
    }
}

/// What `Header::checksum` is.
pub fn checksum(data: &[u8]) -> u32 {
    crc32fast::hash(data)
}

/// Bytes that a record with `data` bytes takes in its chunk, without what lies before the next one.
pub fn stored_bytes(data: usize) -> u64 {
    (HEADER_BYTES + data) as u64
}

/// Where the next header may begin.
pub fn align(offset: u64) -> u64 {
    offset.next_multiple_of(ALIGN)
}

/// Finds the records of one chunk in bytes that are given to it in order.
pub struct Scanner {
    bytes: BytesMut,
    /// Where `bytes` begin in the chunk: a multiple of [`ALIGN`].
    at: u64,
    /// Bytes still to come that belong to nothing.
    skip: usize,
}

impl Scanner {
    /// For the records that begin at `offset` of the chunk or behind it.
    pub fn new(offset: u64) -> Self {
        Self {
            bytes: BytesMut::new(),
            at: align(offset),
            skip: 0,
        }
    }

    /// Where in the chunk the bytes must begin that are pushed next.
    pub fn wanted(&self) -> u64 {
        self.at + self.bytes.len() as u64 - if self.bytes.is_empty() { self.skip as u64 } else { 0 }
    }

    pub fn push(&mut self, mut data: &[u8]) {
        let skipped = self.skip.min(data.len());
        data = &data[skipped..];
        self.skip -= skipped;
        self.bytes.extend_from_slice(data);
    }

    /// The next record that is whole. `None`: more has to be pushed; with `last`, when there is no more of the chunk,
    /// that there is none.
    pub fn next(&mut self, last: bool) -> Option<(Header, Bytes)> {
        loop {
            let from = self.candidate();
            self.forward(from);
            let header = Header::decode(&self.bytes).filter(|h| u64::from(h.offset) == self.at);
            let Some(header) = header else {
                if self.bytes.len() < HEADER_BYTES {
                    return None;
                }
                self.forward(ALIGN as usize);
                continue;
            };
            let end = HEADER_BYTES + header.length as usize;
            let Some(data) = self.bytes.get(HEADER_BYTES..end) else {
                if !last && self.at + end as u64 <= CHUNK_SIZE_BYTES {
                    return None;
                }
                self.forward(ALIGN as usize);
                continue;
            };
            if checksum(data) != header.checksum {
                self.forward(ALIGN as usize);
                continue;
            }
            let mut record = self.bytes.split_to(end);
            self.at += end as u64;
            // to the next place for a header
            let gap = (align(self.at) - self.at) as usize;
            self.forward(gap);
            record.advance(HEADER_BYTES);
            return Some((header, record.freeze()));
        }
    }

    /// How far it is to the next place that may hold a header.
    fn candidate(&self) -> usize {
        let places = self.bytes.chunks_exact(ALIGN as usize);
        let none = places.len();
        places.into_iter().position(|place| place[..4] == MAGIC).unwrap_or(none) * ALIGN as usize
    }

    /// Gives up `count` bytes, also such as are still to come.
    fn forward(&mut self, count: usize) {
        let here = count.min(self.bytes.len());
        self.bytes.advance(here);
        self.skip += count - here;
        self.at += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(offset: u64, number: u64, data: &[u8]) -> Header {
        Header {
            length: data.len() as u32,
            checksum: checksum(data),
            session: SessionId::from_bits(7),
            number,
            offset: offset as u32,
        }
    }

    fn append(chunk: &mut Vec<u8>, number: u64, data: &[u8]) -> u64 {
        chunk.resize(align(chunk.len() as u64) as usize, 0);
        let offset = chunk.len() as u64;
        chunk.extend(header(offset, number, data).encode());
        chunk.extend(data);
        offset
    }

    fn scan(chunk: &[u8], piece: usize) -> Vec<(u64, Bytes)> {
        let mut scanner = Scanner::new(0);
        let mut found = vec![];
        for piece in chunk.chunks(piece) {
            scanner.push(piece);
            while let Some((header, data)) = scanner.next(false) {
                found.push((header.number, data));
            }
        }
        while let Some((header, data)) = scanner.next(true) {
            found.push((header.number, data));
        }
        found
    }

    /// The bytes in files are a promise: a change here is another format.
    #[test]
    fn golden_bytes_of_a_record() {
        let header = Header {
            session: SessionId::try_from(&[0xaa; 16][..]).unwrap(),
            ..header(8, 3, b"abc")
        };
        let mut want = b"CRec\x03\0\0\0".to_vec();
        // by Python's zlib
        want.extend(0x352441c2u32.to_le_bytes());
        want.extend([1, 0, 0, 0]);
        want.extend([0xaa; 16]);
        want.extend([3, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0]);
        assert_eq!(header.encode()[..44], want);
        want.extend(GOLDEN_CRC.to_le_bytes());
        assert_eq!(header.encode()[..], want);
        assert_eq!(Header::decode(&want), Some(header));
    }
    const GOLDEN_CRC: u32 = 0xb0c5d1e0;

    #[test]
    fn padding_and_halves_of_records_are_invisible() {
        let mut chunk = vec![];
        append(&mut chunk, 1, b"first");
        chunk.resize(chunk.len() + 1000, 0);
        let torn = append(&mut chunk, 2, &[5; 3000]);
        // its end never came: the next one begins within what its header claims
        chunk.truncate(torn as usize + 2000);
        append(&mut chunk, 3, b"");
        // data that looks like a record at another place
        let inner = header(0, 9, b"inner").encode();
        append(&mut chunk, 4, &[&inner[..], b"inner"].concat());
        let torn = append(&mut chunk, 5, &[6; 3000]);
        chunk.truncate(torn as usize + 100);
        for piece in [1, 7, 8, 100, 1 << 20] {
            let found: Vec<u64> = scan(&chunk, piece).into_iter().map(|(number, _)| number).collect();
            assert_eq!(found, [1, 3, 4], "in pieces of {piece}");
        }
    }

    proptest! {
        #[test]
        fn what_is_appended_is_found_in_order(
            records in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..300), 0usize..50), 0..30),
            piece in 1usize..2000,
        ) {
            let mut chunk = vec![];
            for (n, (data, padding)) in records.iter().enumerate() {
                append(&mut chunk, n as u64, data);
                chunk.resize(chunk.len() + padding, 0);
            }
            let found = scan(&chunk, piece);
            prop_assert_eq!(found.len(), records.len());
            for (n, (number, data)) in found.into_iter().enumerate() {
                prop_assert_eq!((number, &data[..]), (n as u64, &records[n].0[..]));
            }
        }

        #[test]
        fn a_flipped_bit_makes_a_record_invisible(bit in 0usize..(48 + 20) * 8) {
            let mut chunk = vec![];
            append(&mut chunk, 1, &[3; 20]);
            append(&mut chunk, 2, b"second");
            chunk[bit / 8] ^= 1 << (bit % 8);
            let found: Vec<u64> = scan(&chunk, 4096).into_iter().map(|(number, _)| number).collect();
            prop_assert_eq!(found, [2]);
        }
    }
}
