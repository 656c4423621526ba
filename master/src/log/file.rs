//! The operation log in segment files `log/<index of the first record, 20 digits>.log`.
//!
//! A batch is one write and one fdatasync. At start, everything is read and checked: an incomplete last batch (which
//! was never acknowledged) is cut with a warning; any other damage stops the master.
use super::format::{
    self, BadHeader, HEADER_BYTES, RECORD_HEADER_BYTES, SegmentHeader, decode_record, encode_record, has_later_batch,
    lacks_a_sector,
};
use super::{Log, LogError, Record};
use crate::limits::RECORD_BYTES_MAX;
use async_trait::async_trait;
use bytes::Bytes;
use cairn_io::{Blocking, Disk, DiskFile, Habit};
use cairn_types::ClusterId;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const DIRECTORY: &str = "log";

/// See the module.
pub struct FileLog {
    place: Place,
    blocking: Blocking,
    /// Whether an append waits for the disk.
    habit: Habit,
    segment_bytes: u64,
    /// By first index, ascending; the last one is written to.
    segments: Vec<Segment>,
    tail: Tail,
    failed: bool,
}

#[derive(Clone)]
struct Place {
    disk: Arc<dyn Disk>,
    cluster: ClusterId,
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    first: u64,
}

/// Where the next record goes.
#[derive(Clone)]
struct Tail {
    file: Arc<dyn DiskFile>,
    offset: u64,
    /// Of the last record.
    crc: u32,
    durable: u64,
}

impl FileLog {
    /// Whether `disk` holds segment files.
    pub fn exists(disk: &dyn Disk) -> Result<bool, LogError> {
        Ok(!list(disk)?.is_empty())
    }

    /// A log without records, in a directory that has none.
    pub async fn create(
        disk: Arc<dyn Disk>,
        cluster: ClusterId,
        blocking: Blocking,
        segment_bytes: u64,
    ) -> Result<Self, LogError> {
        Self::create_after(disk, cluster, blocking, segment_bytes, 0).await
    }

    /// A log whose first record will be at `index + 1`: a checkpoint has what was before.
    pub async fn create_after(
        disk: Arc<dyn Disk>,
        cluster: ClusterId,
        blocking: Blocking,
        segment_bytes: u64,
        index: u64,
    ) -> Result<Self, LogError> {
        let place = Place { disk, cluster };
        let (segment, tail) = blocking
            .run({
                let place = place.clone();
                move || {
                    place
                        .disk
                        .create_dir_all(Path::new(DIRECTORY))
                        .map_err(|e| place.io("create", DIRECTORY, e))?;
                    place
                        .disk
                        .sync_dir(Path::new(""))
                        .map_err(|e| place.io("sync", ".", e))?;
                    place.begin(index + 1, 0)
                }
            })
            .await?;
        Ok(Self {
            place,
            blocking,
            habit: Habit::default(),
            segment_bytes,
            segments: vec![segment],
            tail,
            failed: false,
        })
    }

    /// Opens the log, checks all of it, and cuts an incomplete last batch.
    pub async fn open(
        disk: Arc<dyn Disk>,
        cluster: ClusterId,
        blocking: Blocking,
        segment_bytes: u64,
    ) -> Result<Self, LogError> {
        let place = Place { disk, cluster };
        let opener = place.clone();
        let (segments, tail) = blocking.run(move || opener.open()).await?;
        Ok(Self {
            place,
            blocking,
            habit: Habit::default(),
            segment_bytes,
            segments,
            tail,
            failed: false,
        })
    }

    /// Index of the first record that is still there, or would be the first.
    pub fn first(&self) -> u64 {
        self.segments.first().map_or(1, |s| s.first)
    }
}

#[async_trait]
impl Log for FileLog {
    fn durable(&self) -> u64 {
        self.tail.durable
    }

    async fn append(&mut self, records: Vec<Bytes>) -> Result<u64, LogError> {
        if self.failed {
            return Err(LogError::Failed);
        }
        if let Some(large) = records.iter().find(|r| r.len() > RECORD_BYTES_MAX) {
            return Err(LogError::TooLarge(large.len()));
        }
        if records.is_empty() {
            return Ok(self.tail.durable);
        }
        // set while the outcome is open: a caller that goes away in between finds a log that takes no more
        self.failed = true;
        let (place, tail, limit) = (self.place.clone(), self.tail.clone(), self.segment_bytes);
        let appended = self
            .blocking
            .run_brief(&self.habit, move || place.append(tail, &records, limit))
            .await;
        let (tail, begun) = appended?;
        self.segments.extend(begun);
        self.tail = tail;
        self.failed = false;
        Ok(self.tail.durable)
    }

    async fn read(&self, from: u64, bytes: usize) -> Result<Vec<Record>, LogError> {
        if from > self.tail.durable {
            return Ok(Vec::new());
        }
        if from < self.first() {
            return Err(LogError::Missing {
                path: self.place.path(DIRECTORY),
                first: from,
                last: self.first() - 1,
            });
        }
        let at = self.segments.partition_point(|s| s.first <= from).saturating_sub(1);
        let first = self.segments[at].first;
        let place = self.place.clone();
        self.blocking.run(move || place.read(first, from, bytes)).await
    }

    async fn drop_prefix(&mut self, index: u64) -> Result<(), LogError> {
        let kept = self
            .segments
            .partition_point(|s| s.first <= index + 1)
            .saturating_sub(1);
        let dropped: Vec<_> = self.segments.drain(..kept).collect();
        let place = self.place.clone();
        self.blocking.run(move || place.remove(&dropped)).await
    }
}

fn name(first: u64) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{first:020}.log"))
}

/// First indices of the segments, ascending.
fn list(disk: &dyn Disk) -> Result<Vec<u64>, LogError> {
    let names = match disk.list(Path::new(DIRECTORY)) {
        Ok(names) => names,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => {
            return Err(LogError::Io {
                path: format!("{}/{DIRECTORY}", disk.display()),
                what: "list",
                source,
            });
        }
    };
    let firsts = names.iter().filter_map(|name| name.strip_suffix(".log")?.parse().ok());
    Ok(firsts.collect())
}

impl Place {
    fn path(&self, file: impl AsRef<Path>) -> String {
        Path::new(&self.disk.display()).join(file).display().to_string()
    }

    fn io(&self, what: &'static str, file: impl AsRef<Path>, source: io::Error) -> LogError {
        LogError::Io {
            path: self.path(file),
            what,
            source,
        }
    }

    /// A new segment, durable with its name.
    fn begin(&self, first: u64, previous: u32) -> Result<(Segment, Tail), LogError> {
        let path = name(first);
        let file = self.disk.create(&path).map_err(|e| self.io("create", &path, e))?;
        let header = SegmentHeader {
            cluster: self.cluster,
            first,
            previous,
        };
        file.write_at(&header.encode(), 0)
            .map_err(|e| self.io("write", &path, e))?;
        file.sync_data().map_err(|e| self.io("sync", &path, e))?;
        self.disk
            .sync_dir(Path::new(DIRECTORY))
            .map_err(|e| self.io("sync", DIRECTORY, e))?;
        let tail = Tail {
            file,
            offset: HEADER_BYTES as u64,
            crc: previous,
            durable: first - 1,
        };
        Ok((Segment { first }, tail))
    }

    fn append(
        &self,
        mut tail: Tail,
        records: &[Bytes],
        segment_bytes: u64,
    ) -> Result<(Tail, Option<Segment>), LogError> {
        let begun = if tail.offset >= segment_bytes {
            let (segment, next) = self.begin(tail.durable + 1, tail.crc)?;
            tail = next;
            Some(segment)
        } else {
            None
        };
        let batch = tail.durable + 1;
        let mut bytes = Vec::with_capacity(records.iter().map(|r| RECORD_HEADER_BYTES + r.len()).sum());
        for (index, payload) in (batch..).zip(records) {
            tail.crc = encode_record(&mut bytes, tail.crc, batch, index, payload);
        }
        let path = || self.path(DIRECTORY);
        let failed = |what| {
            move |source| LogError::Io {
                path: path(),
                what,
                source,
            }
        };
        tail.file.write_at(&bytes, tail.offset).map_err(failed("append"))?;
        tail.file.sync_data().map_err(failed("sync"))?;
        tail.offset += bytes.len() as u64;
        tail.durable += records.len() as u64;
        Ok((tail, begun))
    }

    fn load(&self, first: u64) -> Result<(Arc<dyn DiskFile>, Vec<u8>), LogError> {
        let path = name(first);
        let file = self.disk.open(&path).map_err(|e| self.io("open", &path, e))?;
        let len = file.len().map_err(|e| self.io("read", &path, e))?;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        let read = file.read_at(&mut bytes, 0).map_err(|e| self.io("read", &path, e))?;
        bytes.truncate(read);
        Ok((file, bytes))
    }

    fn damaged(&self, segment: u64, offset: usize, index: u64, what: &'static str) -> LogError {
        LogError::Damaged {
            path: self.path(name(segment)),
            offset: offset as u64,
            index,
            what,
        }
    }

    fn open(&self) -> Result<(Vec<Segment>, Tail), LogError> {
        let firsts = list(&*self.disk)?;
        let mut segments = Vec::new();
        let mut tail: Option<Tail> = None;
        for (i, first) in firsts.iter().copied().enumerate() {
            let last = i + 1 == firsts.len();
            let (file, bytes) = self.load(first)?;
            let header = match SegmentHeader::decode(&bytes) {
                Ok(header) => header,
                Err(BadHeader::Format(found)) => {
                    return Err(LogError::Format {
                        path: self.path(name(first)),
                        found,
                        known: format::FORMAT,
                    });
                }
                // begun, and the machine stopped before its header was durable: no record was ever written to it
                Err(BadHeader::Damaged)
                    if last && i > 0 && bytes.len() <= HEADER_BYTES && never_written(&bytes, HEADER_BYTES) =>
                {
                    tracing::warn!(segment = %self.path(name(first)), "removing a log segment that was never begun");
                    self.remove(&[Segment { first }])?;
                    break;
                }
                Err(BadHeader::Damaged) => return Err(self.damaged(first, 0, first, "its header is not a log's")),
            };
            if header.cluster != self.cluster {
                return Err(LogError::OtherCluster {
                    path: self.path(name(first)),
                    found: header.cluster.to_string(),
                    expected: self.cluster.to_string(),
                });
            }
            if header.first != first {
                return Err(self.damaged(first, 0, first, "its header has another first index than its name"));
            }
            if let Some(before) = &tail {
                if before.durable + 1 != first {
                    let (first, last) = (before.durable + 1, first.saturating_sub(1));
                    return Err(LogError::Missing {
                        path: self.path(DIRECTORY),
                        first,
                        last,
                    });
                }
                if before.crc != header.previous {
                    return Err(self.damaged(first, 0, first, "it does not follow the segment before"));
                }
            }
            let end = self.check(&header, &bytes, last)?;
            if end.offset < bytes.len() {
                tracing::warn!(
                    segment = %self.path(name(first)), offset = end.offset, bytes = bytes.len() - end.offset,
                    "cutting an incomplete last write off the operation log; it was never acknowledged"
                );
                let path = name(first);
                file.set_len(end.offset as u64).map_err(|e| self.io("cut", &path, e))?;
            }
            if last {
                // a process that was killed may have written records that it had not synced: they count from now on
                let path = name(first);
                file.sync_data().map_err(|e| self.io("sync", &path, e))?;
                self.disk
                    .sync_dir(Path::new(DIRECTORY))
                    .map_err(|e| self.io("sync", DIRECTORY, e))?;
            }
            tail = Some(Tail {
                file,
                offset: end.offset as u64,
                crc: end.crc,
                durable: end.last,
            });
            segments.push(Segment { first });
        }
        match tail {
            Some(tail) => Ok((segments, tail)),
            None => Err(self.io("open", DIRECTORY, io::ErrorKind::NotFound.into())),
        }
    }

    /// Where the good records end.
    fn check(&self, header: &SegmentHeader, bytes: &[u8], last: bool) -> Result<End, LogError> {
        let mut end = End {
            offset: HEADER_BYTES,
            crc: header.previous,
            last: header.first - 1,
        };
        while end.offset < bytes.len() {
            let rest = &bytes[end.offset..];
            let index = end.last + 1;
            match decode_record(rest) {
                Some(record) if record.index == index && record.previous == end.crc => {
                    end.offset += RECORD_HEADER_BYTES + record.payload.len();
                    end.crc = record.crc;
                    end.last = index;
                }
                Some(_) => {
                    return Err(self.damaged(
                        header.first,
                        end.offset,
                        index,
                        "a record does not follow the one before",
                    ));
                }
                None if !last || has_later_batch(rest, index) => {
                    let what = "a record's checksum is wrong, and later records follow it";
                    return Err(self.damaged(header.first, end.offset, index, what));
                }
                None if torn(rest, end.offset as u64) => break,
                None => {
                    let what = "the last record's checksum is wrong, and it was not torn by a crash";
                    return Err(self.damaged(header.first, end.offset, index, what));
                }
            }
        }
        Ok(end)
    }

    fn read(&self, segment: u64, from: u64, limit: usize) -> Result<Vec<Record>, LogError> {
        let (_, bytes) = self.load(segment)?;
        let bytes = Bytes::from(bytes);
        let mut offset = HEADER_BYTES;
        let mut taken = 0;
        let mut records = Vec::new();
        while offset < bytes.len() {
            let Some(record) = decode_record(&bytes[offset..]) else {
                return Err(self.damaged(segment, offset, from, "a record's checksum is wrong"));
            };
            let start = offset + RECORD_HEADER_BYTES;
            offset = start + record.payload.len();
            if record.index < from {
                continue;
            }
            taken += record.payload.len();
            if taken > limit && !records.is_empty() {
                break;
            }
            records.push(Record {
                index: record.index,
                payload: bytes.slice(start..offset),
            });
        }
        Ok(records)
    }

    fn remove(&self, segments: &[Segment]) -> Result<(), LogError> {
        for segment in segments {
            let path = name(segment.first);
            self.disk.remove(&path).map_err(|e| self.io("remove", &path, e))?;
        }
        if !segments.is_empty() {
            self.disk
                .sync_dir(Path::new(DIRECTORY))
                .map_err(|e| self.io("sync", DIRECTORY, e))?;
        }
        Ok(())
    }
}

struct End {
    offset: usize,
    crc: u32,
    last: u64,
}

fn never_written(bytes: &[u8], whole: usize) -> bool {
    bytes.len() < whole || bytes.iter().all(|b| *b == 0)
}

/// The bytes from a bad record to the end of the log, at `offset`, are a write that did not reach the disk whole: the
/// file ends too early, or a sector is missing.
fn torn(rest: &[u8], offset: u64) -> bool {
    if lacks_a_sector(rest, offset) {
        return true;
    }
    let Some(header) = rest.get(..RECORD_HEADER_BYTES) else {
        return true;
    };
    let claimed = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
    if claimed > RECORD_BYTES_MAX || RECORD_HEADER_BYTES + claimed <= rest.len() {
        return false;
    }
    // cut short, unless only the length is wrong and the record ends where the file does
    let mut mended = rest.to_vec();
    mended[..4].copy_from_slice(&((rest.len() - RECORD_HEADER_BYTES) as u32).to_le_bytes());
    decode_record(&mended).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_io::sim::{SimDisk, Trace};

    const SEGMENT: u64 = 4096;

    fn cluster() -> ClusterId {
        ClusterId::from_bits(1)
    }

    async fn open(disk: &SimDisk) -> Result<FileLog, LogError> {
        FileLog::open(Arc::new(disk.mount()), cluster(), Blocking::Inline, SEGMENT).await
    }

    async fn create(disk: &SimDisk) -> FileLog {
        FileLog::create(Arc::new(disk.mount()), cluster(), Blocking::Inline, SEGMENT)
            .await
            .unwrap()
    }

    fn payload(i: u64) -> Bytes {
        Bytes::from(vec![i as u8 | 1; 40 + (i * 37 % 300) as usize])
    }

    async fn everything(log: &FileLog) -> Vec<Record> {
        let mut all = Vec::new();
        let mut from = log.first();
        loop {
            let page = log.read(from, 1000).await.unwrap();
            let Some(last) = page.last() else { return all };
            from = last.index + 1;
            all.extend(page);
        }
    }

    fn last_segment(disk: &SimDisk) -> PathBuf {
        name(*list(&disk.mount()).unwrap().last().unwrap())
    }

    #[tokio::test]
    async fn what_was_appended_is_there_again_over_many_segments() {
        let disk = SimDisk::new("master", Trace::default());
        let mut log = create(&disk).await;
        let mut next = 1;
        for batch in 1..40 {
            let records: Vec<_> = (next..next + batch % 5 + 1).map(payload).collect();
            next += records.len() as u64;
            assert_eq!(log.append(records).await.unwrap(), next - 1);
        }
        assert!(log.segments.len() > 3);
        drop(log);
        let mut log = open(&disk).await.unwrap();
        let all = everything(&log).await;
        assert_eq!(all.len() as u64, next - 1);
        assert!(
            (1..next)
                .zip(&all)
                .all(|(i, r)| r.index == i && r.payload == payload(i))
        );
        log.drop_prefix(60).await.unwrap();
        assert!(log.first() > 1 && log.first() <= 61);
        assert!(matches!(log.read(1, 10).await, Err(LogError::Missing { .. })));
        log.append(vec![payload(next)]).await.unwrap();
        drop(log);
        assert_eq!(
            everything(&open(&disk).await.unwrap()).await.last().unwrap().index,
            next
        );
    }

    /// The machine loses power at every change of the disk in turn: what was acknowledged is there, in order, and
    /// nothing is there that was not appended.
    #[tokio::test]
    async fn acknowledged_records_survive_power_loss_at_any_write() {
        for stop in 0..60 {
            let disk = SimDisk::new("master", Trace::default());
            let mut log = create(&disk).await;
            disk.stop_after(stop);
            let mut acknowledged = 0;
            let mut tried = 0;
            for batch in 1..40u64 {
                let records: Vec<_> = (tried + 1..=tried + batch % 7 + 1).map(payload).collect();
                tried += records.len() as u64;
                match log.append(records).await {
                    Ok(durable) => acknowledged = durable,
                    Err(_) => break,
                }
            }
            assert!(matches!(log.append(vec![payload(1)]).await, Err(LogError::Failed)));
            drop(log);
            for power in [false, true] {
                if power {
                    disk.power_loss(&mut cairn_io::Rng::from_seed(stop).fork());
                } else {
                    disk.kill();
                }
                let mut log = open(&disk).await.unwrap();
                assert!(log.durable() >= acknowledged && log.durable() <= tried, "stop {stop}");
                let all = everything(&log).await;
                assert!((1..).zip(&all).all(|(i, r)| r.index == i && r.payload == payload(i)));
                // what is appended now follows what was found
                acknowledged = log.append(vec![payload(log.durable() + 1)]).await.unwrap();
                tried = tried.max(acknowledged);
            }
        }
    }

    #[tokio::test]
    async fn a_torn_tail_is_cut_and_a_damaged_record_refused() {
        let disk = SimDisk::new("master", Trace::default());
        let mut log = create(&disk).await;
        for i in 1..=3 {
            log.append(vec![payload(i)]).await.unwrap();
        }
        let end = log.tail.offset;
        drop(log);
        let file = disk.mount().open(&last_segment(&disk)).unwrap();
        let mut bytes = vec![0; end as usize];
        file.read_at(&mut bytes, 0).unwrap();
        let third = end as usize - RECORD_HEADER_BYTES - payload(3).len();
        // every shorter end within the last record is a torn write
        for len in third + 1..end as usize {
            file.set_len(len as u64).unwrap();
            assert_eq!(open(&disk).await.unwrap().durable(), 2, "cut at {len}");
            file.write_at(&bytes, 0).unwrap();
        }
        // a flipped bit is none, in the middle or at the end
        for at in HEADER_BYTES..end as usize {
            file.write_at(&[bytes[at] ^ 4], at as u64).unwrap();
            match open(&disk).await {
                Err(LogError::Damaged { path, .. }) => assert!(path.contains("log/")),
                other => panic!("byte {at}: {:?}", other.map(|l| l.durable())),
            }
            file.write_at(&bytes[at..=at], at as u64).unwrap();
        }
        assert_eq!(open(&disk).await.unwrap().durable(), 3);
    }

    #[tokio::test]
    async fn a_missing_segment_and_another_cluster_are_refused() {
        let disk = SimDisk::new("master", Trace::default());
        let mut log = create(&disk).await;
        for i in 1..60 {
            log.append(vec![payload(i)]).await.unwrap();
        }
        drop(log);
        let other = FileLog::open(
            Arc::new(disk.mount()),
            ClusterId::from_bits(2),
            Blocking::Inline,
            SEGMENT,
        )
        .await;
        assert!(matches!(other.err(), Some(LogError::OtherCluster { .. })));
        let second = list(&disk.mount()).unwrap()[1];
        disk.mount().remove(&name(second)).unwrap();
        assert!(matches!(open(&disk).await.err(), Some(LogError::Missing { .. })));
    }
}
