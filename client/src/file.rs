//! An open file.
use crate::ahead::ReadAhead;
use crate::client::Handle;
use crate::node::Node;
use crate::{Attr, Error, OpenMode, RecordReader, Result};
use bytes::Bytes;
use cairn_types::Inode;
use cairn_types::layout::{CHUNK_SIZE_BYTES, FILE_SIZE_BYTES_MAX, chunk_count, chunk_index, chunk_ranges};
use cairn_types::limits::{FRAME_PAYLOAD_BYTES_MAX, LOCATE_CHUNKS_MAX};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// One open of a file. Cheap to clone; clones are the same open, which the first `close` of them ends. All opens of an
/// inode in one [`crate::Client`] share its write state, so that every read sees every write.
#[derive(Clone)]
pub struct File(Arc<Opened>);

struct Opened {
    handle: Arc<Handle>,
    node: Arc<Node>,
    mode: OpenMode,
    ahead: ReadAhead,
    closed: AtomicBool,
}

impl Drop for Opened {
    fn drop(&mut self) {
        if !self.closed.load(Ordering::Acquire) {
            self.handle.core.dropped(self.node.clone());
        }
    }
}

impl File {
    pub(crate) fn new(handle: Arc<Handle>, node: Arc<Node>, mode: OpenMode) -> Self {
        Self(Arc::new(Opened {
            handle,
            node,
            mode,
            ahead: ReadAhead::default(),
            closed: AtomicBool::new(false),
        }))
    }

    pub fn inode(&self) -> Inode {
        self.0.node.ino
    }

    pub fn mode(&self) -> OpenMode {
        self.0.mode
    }

    /// As this client last heard; the size with local writes since.
    pub fn attr(&self) -> Attr {
        self.0.node.state().local_attr()
    }

    fn writable(&self) -> Result<()> {
        match self.0.mode.write || self.0.mode.append {
            true => Ok(()),
            false => Err(Error::BadMode("writing")),
        }
    }

    /// The file, or its first frame, is fetched before it is asked for. What comes is believed as long as what any reading
    /// ahead brings: until a push or a write here, and for two seconds.
    pub fn read_ahead(&self) {
        let Opened {
            handle, node, ahead, ..
        } = &*self.0;
        let size = node.state().size();
        ahead.begin(&handle.core, node, size);
    }

    /// Something was read from it.
    pub fn was_read(&self) -> bool {
        self.0.ahead.was_read()
    }

    /// Opened before, it is as good as opened now (close-to-open): the master's word on it is believed, as for
    /// [`crate::Client::known_name`].
    pub fn is_known(&self, within: Duration) -> bool {
        let (core, node) = (&self.0.handle.core, &self.0.node);
        let known = core.session.names().attr(node.ino, within);
        let attr = known.and_then(|(attr, _)| Attr::try_from(attr).ok());
        attr.map(|attr| core.opened(node, attr, Bytes::new(), false)).is_some()
    }

    /// Short only at the file's end; holes are zeros.
    ///
    /// # Errors
    /// `Unreadable` when no replica has the bytes; `NoAnswer`.
    pub async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        if !self.0.mode.read {
            return Err(Error::BadMode("reading"));
        }
        let Opened {
            handle, node, ahead, ..
        } = &*self.0;
        Box::pin(handle.core.read(node, ahead, offset, len)).await
    }

    /// Returns when the bytes are in the bounded buffer; a later failure reaches every following write, fsync and close
    /// of this file.
    pub async fn write_at(&self, offset: u64, data: Bytes) -> Result<()> {
        self.writable()?;
        self.0.handle.core.write(&self.0.node, offset, data).await
    }

    /// Writes at the end as this client and the master know it (O_APPEND, not record append); gives the offset.
    pub async fn append(&self, data: Bytes) -> Result<u64> {
        self.writable()?;
        // one at a time: the next one's offset is this one's end
        let _one = self.0.node.appending.lock().await;
        let offset = self.0.handle.core.end_of_file(&self.0.node).await?;
        self.0.handle.core.write(&self.0.node, offset, data).await?;
        Ok(offset)
    }

    /// Record append (promise 5): the record goes to the file's end exactly once, whole in one chunk, at an offset that
    /// the cluster chooses and that comes back when every replica has it. Records of one client lie in the order of these
    /// calls; many may be under way at a time, from this client and others. [`File::records`] reads them.
    ///
    /// # Errors
    /// `RecordTooLong`; `MaybeAppended` when it may be there although this failed; what kept it from being sent.
    pub async fn append_record(&self, data: Bytes) -> Result<u64> {
        self.writable()?;
        self.0.handle.core.append_record(&self.0.node, data).await
    }

    /// The records that begin at `offset` or behind it.
    pub fn records(&self, offset: u64) -> RecordReader {
        RecordReader::new(self.clone(), offset)
    }

    /// All writes are acknowledged by every replica and the length is committed: what close(2) promises.
    pub async fn flush(&self) -> Result<()> {
        Box::pin(self.0.handle.core.flush_and_commit(&self.0.node)).await
    }

    /// `flush`, and durable on every replica.
    pub async fn fsync(&self) -> Result<()> {
        let (core, node) = (&self.0.handle.core, &self.0.node);
        Box::pin(core.sync(node)).await?;
        Box::pin(core.commit(node)).await?;
        node.state().check()
    }

    pub async fn truncate(&self, len: u64) -> Result<()> {
        self.writable()?;
        let change = crate::SetAttr {
            size: Some(len),
            ..Default::default()
        };
        self.0.handle.core.set_attr(self.inode(), change).await.map(|_| ())
    }

    /// fallocate(2): extends the file to `offset + len`, unless `keep_size`. Space is not set aside.
    pub async fn allocate(&self, offset: u64, len: u64, keep_size: bool) -> Result<()> {
        self.writable()?;
        let end = end_of(offset, len)?;
        if keep_size || end <= self.0.node.state().size() {
            return self.0.node.state().check();
        }
        self.truncate(end).await
    }

    /// FALLOC_FL_PUNCH_HOLE (`keep_size`) or FALLOC_FL_ZERO_RANGE: what exists of the range is overwritten with zeros.
    pub async fn zero(&self, offset: u64, len: u64, keep_size: bool) -> Result<()> {
        self.writable()?;
        let end = end_of(offset, len)?;
        let size = self.0.node.state().size();
        if !keep_size && end > size {
            self.truncate(end).await?;
        }
        let end = end.min(size);
        if offset >= end {
            return Ok(());
        }
        let first = chunk_index(offset);
        let existing = self.existing(first, chunk_index(end - 1) - first + 1).await?;
        for range in chunk_ranges(offset, end - offset) {
            if !existing.contains(&range.index) {
                continue;
            }
            let start = u64::from(range.index) * CHUNK_SIZE_BYTES + range.offset;
            let mut done = 0;
            while done < range.len {
                let len = (range.len - done).min(FRAME_PAYLOAD_BYTES_MAX as u64);
                self.write_at(start + done, crate::read::zeros(len as usize)).await?;
                done += len;
            }
        }
        Ok(())
    }

    /// SEEK_DATA by whole chunks; `None`: no data from there on (ENXIO).
    pub async fn seek_data(&self, offset: u64) -> Result<Option<u64>> {
        let Some((first, count)) = self.chunks_from(offset) else {
            return Ok(None);
        };
        let existing = self.existing(first, count).await?;
        Ok(existing
            .first()
            .map(|index| offset.max(u64::from(*index) * CHUNK_SIZE_BYTES)))
    }

    /// SEEK_HOLE by whole chunks; the file's end is a hole.
    pub async fn seek_hole(&self, offset: u64) -> Result<u64> {
        let size = self.0.node.state().size();
        let Some((first, count)) = self.chunks_from(offset) else {
            return Ok(size);
        };
        let existing = self.existing(first, count).await?;
        let hole = (first..first + count).find(|index| !existing.contains(index));
        Ok(hole
            .map_or(size, |index| offset.max(u64::from(index) * CHUNK_SIZE_BYTES))
            .min(size))
    }

    fn chunks_from(&self, offset: u64) -> Option<(u32, u32)> {
        let size = self.0.node.state().size();
        (offset < size).then(|| (chunk_index(offset), chunk_count(size) - chunk_index(offset)))
    }

    /// Which of the chunks exist at the master or are being written here.
    async fn existing(&self, first: u32, count: u32) -> Result<BTreeSet<u32>> {
        let (core, node) = (&self.0.handle.core, &self.0.node);
        let end = first + count;
        let mut existing: BTreeSet<u32> = node.state().chunks.range(first..end).map(|(index, _)| *index).collect();
        let mut at = first;
        while at < end {
            let page = (end - at).min(LOCATE_CHUNKS_MAX as u32);
            let (found, _) = core
                .ask_locations(node.ino, at, page, false, core.config.timeout)
                .await?;
            existing.extend(
                found
                    .iter()
                    .map(|location| location.index)
                    .filter(|i| (at..at + page).contains(i)),
            );
            at += page;
        }
        Ok(existing)
    }

    /// Flushes; after the last close of an inode the master is told. Dropping a file without it closes it too, in the
    /// background, and its errors are only logged.
    pub async fn close(self) -> Result<()> {
        let (core, node) = (&self.0.handle.core, &self.0.node);
        let flushed = Box::pin(core.flush_and_commit(node)).await;
        if !self.0.closed.swap(true, Ordering::AcqRel) {
            core.close(node).await;
        }
        flushed
    }
}

fn end_of(offset: u64, len: u64) -> Result<u64> {
    let end = offset.saturating_add(len);
    if len == 0 {
        return Err(Error::Invalid("a range of no bytes"));
    }
    if end > FILE_SIZE_BYTES_MAX {
        Err(Error::TooBig(end))
    } else {
        Ok(end)
    }
}
