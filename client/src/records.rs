//! Reading a file of records (docs/record-format.md).
use crate::{File, Result};
use bytes::Bytes;
use cairn_proto::record::Scanner;
use cairn_types::SessionId;
use cairn_types::layout::{CHUNK_SIZE_BYTES, chunk_index};
use cairn_types::limits::FRAME_PAYLOAD_BYTES_MAX;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Of its header in the file: what [`File::append_record`] gave.
    pub offset: u64,
    pub data: Bytes,
    /// Who appended it, and its number there: no two records have the same.
    pub session: SessionId,
    pub number: u64,
}

/// The records of a file, in their order. What else is in the file, padding above all, is passed over.
pub struct RecordReader {
    file: File,
    /// The chunk that is read, and its records.
    index: u32,
    scanner: Scanner,
    position: u64,
}

impl RecordReader {
    pub(crate) fn new(file: File, offset: u64) -> Self {
        Self {
            file,
            index: chunk_index(offset),
            scanner: Scanner::new(offset % CHUNK_SIZE_BYTES),
            position: offset,
        }
    }

    /// Behind the last record that was given: a reader that is made there goes on, also when the file has grown.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next record; `None` where the file ends.
    ///
    /// # Errors
    /// As [`File::read_at`].
    pub async fn next(&mut self) -> Result<Option<Record>> {
        loop {
            if let Some(record) = self.take(false) {
                return Ok(Some(record));
            }
            let wanted = self.scanner.wanted();
            let left = CHUNK_SIZE_BYTES.saturating_sub(wanted);
            let from = u64::from(self.index) * CHUNK_SIZE_BYTES + wanted;
            let len = left.min(FRAME_PAYLOAD_BYTES_MAX as u64 - wanted % FRAME_PAYLOAD_BYTES_MAX as u64);
            let piece = self.file.read_at(from, len as usize).await?;
            if !piece.is_empty() {
                self.scanner.push(&piece);
                continue;
            }
            // of the chunk, or of the file
            if let Some(record) = self.take(true) {
                return Ok(Some(record));
            }
            if left > 0 {
                return Ok(None);
            }
            self.index += 1;
            self.scanner = Scanner::new(0);
        }
    }

    fn take(&mut self, last: bool) -> Option<Record> {
        let (header, data) = self.scanner.next(last)?;
        let offset = u64::from(self.index) * CHUNK_SIZE_BYTES + u64::from(header.offset);
        self.position = offset + cairn_proto::record::stored_bytes(data.len());
        Some(Record {
            offset,
            data,
            session: header.session,
            number: header.number,
        })
    }
}
