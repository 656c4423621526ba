//! Bytes of a segment file: a header, then records. Numbers are little-endian.
//!
//! ```text
//! segment header, 64 bytes: magic 8 | format 4 | CRC 4 (of the rest) | cluster 16 | first index 8 | CRC of the record
//!                           before the first 4 | zeros
//! record: length 4 | CRC 4 (of the rest) | CRC of the record before 4 | batch 8 | index 8 | payload
//! ```
//!
//! `batch` is the index of the first record that was written and synced together with this one: a damaged record is a
//! torn write only if nothing of a later batch follows it.
use cairn_types::ClusterId;

pub const MAGIC: &[u8; 8] = b"CAIRNLOG";
pub const FORMAT: u32 = 1;
pub const HEADER_BYTES: usize = 64;
pub const RECORD_HEADER_BYTES: usize = 28;
/// What a disk writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    pub cluster: ClusterId,
    pub first: u64,
    /// CRC of the last record of the segment before.
    pub previous: u32,
}

#[derive(Debug, PartialEq, Eq)]
pub enum BadHeader {
    /// Too short, or not what a header is.
    Damaged,
    Format(u32),
}

impl SegmentHeader {
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[16..32].copy_from_slice(self.cluster.as_bytes());
        bytes[32..40].copy_from_slice(&self.first.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.previous.to_le_bytes());
        let crc = crc32fast::hash(&bytes[16..]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, BadHeader> {
        let bytes = bytes.get(..HEADER_BYTES).ok_or(BadHeader::Damaged)?;
        if &bytes[..8] != MAGIC {
            return Err(BadHeader::Damaged);
        }
        match u32_at(bytes, 8) {
            FORMAT => {}
            other => return Err(BadHeader::Format(other)),
        }
        let cluster = ClusterId::try_from(&bytes[16..32]);
        match cluster {
            Ok(cluster) if u32_at(bytes, 12) == crc32fast::hash(&bytes[16..]) => Ok(Self {
                cluster,
                first: u64_at(bytes, 32),
                previous: u32_at(bytes, 40),
            }),
            _ => Err(BadHeader::Damaged),
        }
    }
}

/// A record as it stands in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordView<'a> {
    pub crc: u32,
    pub previous: u32,
    pub batch: u64,
    pub index: u64,
    pub payload: &'a [u8],
}

/// Appends a record to `to`, and gives its CRC.
pub fn encode_record(to: &mut Vec<u8>, previous: u32, batch: u64, index: u64, payload: &[u8]) -> u32 {
    let start = to.len();
    to.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    to.extend_from_slice(&[0; 4]);
    to.extend_from_slice(&previous.to_le_bytes());
    to.extend_from_slice(&batch.to_le_bytes());
    to.extend_from_slice(&index.to_le_bytes());
    to.extend_from_slice(payload);
    let crc = record_crc(&to[start..]);
    to[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    crc
}

/// The record that begins at `bytes`, if it is whole and agrees with its own CRC.
pub fn decode_record(bytes: &[u8]) -> Option<RecordView<'_>> {
    let header = bytes.get(..RECORD_HEADER_BYTES)?;
    let len = u32_at(header, 0) as usize;
    if len > crate::limits::RECORD_BYTES_MAX {
        return None;
    }
    let whole = bytes.get(..RECORD_HEADER_BYTES + len)?;
    let crc = u32_at(header, 4);
    (crc == record_crc(whole)).then(|| RecordView {
        crc,
        previous: u32_at(header, 8),
        batch: u64_at(header, 12),
        index: u64_at(header, 20),
        payload: &whole[RECORD_HEADER_BYTES..],
    })
}

fn record_crc(record: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&record[..4]);
    hasher.update(&record[8..]);
    hasher.finalize()
}

/// A record of an index in `above..` and of a batch that began above `batch`, anywhere in `bytes`: proof that the batch
/// before was complete.
pub fn has_later_batch(bytes: &[u8], index: u64) -> bool {
    let candidates = 0..bytes.len().saturating_sub(RECORD_HEADER_BYTES - 1);
    candidates.into_iter().any(|at| {
        let rest = &bytes[at..];
        // cheap to rule out before a CRC is computed
        let (batch, found) = (u64_at(rest, 12), u64_at(rest, 20));
        batch > index && batch <= found && found - index < 1 << 32 && decode_record(rest).is_some()
    })
}

/// Whether `bytes`, which begin at `offset` of their file, look like a write that power loss tore: some sector of the
/// file that they reach into was never written.
pub fn lacks_a_sector(bytes: &[u8], offset: u64) -> bool {
    let first = SECTOR_BYTES - (offset % SECTOR_BYTES as u64) as usize;
    let (head, rest) = bytes.split_at(first.min(bytes.len()));
    std::iter::once(head)
        .chain(rest.chunks(SECTOR_BYTES))
        .any(|part| !part.is_empty() && part.iter().all(|b| *b == 0))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_and_a_record_survive_and_any_flipped_bit_is_noticed() {
        let header = SegmentHeader {
            cluster: ClusterId::from_bits(7),
            first: 42,
            previous: 9,
        };
        assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
        let mut bytes = Vec::new();
        let crc = encode_record(&mut bytes, 5, 40, 42, b"hello");
        let view = RecordView {
            crc,
            previous: 5,
            batch: 40,
            index: 42,
            payload: b"hello",
        };
        assert_eq!(decode_record(&bytes), Some(view));
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_record(&bytes), None, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        let mut encoded = header.encode();
        for bit in (0..12 * 8).chain(16 * 8..44 * 8) {
            encoded[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&encoded).is_err(), "bit {bit}");
            encoded[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
