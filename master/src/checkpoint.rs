//! Checkpoints: the state as of one index, in `checkpoints/<index, 20 digits>.ckpt`.
//!
//! ```text
//! magic 8 | format 4 | CRC 4 (of the 36 bytes that follow) | cluster 16 | index 8 | length 8 | CRC of the payload 4
//! payload: cairn_metadata::State, encoded
//! ```
//!
//! Written under a temporary name, synced, read back and decoded, renamed, and only then believed: the log before the
//! checkpoint *before* it is dropped after that, so that one checkpoint that rots costs nothing.
use cairn_io::{Disk, DiskFile};
use cairn_metadata::{DecodeError, State};
use cairn_types::ClusterId;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const DIRECTORY: &str = "checkpoints";
const TEMPORARY: &str = "checkpoints/new.tmp";
const MAGIC: &[u8; 8] = b"CAIRNCKP";
const FORMAT: u32 = 2;
const HEADER_BYTES: usize = 52;
const KEPT: usize = 2;
const BUFFER_BYTES: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("{path}: {source}")]
    Io { path: String, source: io::Error },
    #[error("{path} is damaged: {what}")]
    Damaged { path: String, what: String },
    #[error("{path} belongs to cluster {found}, this directory to cluster {expected}")]
    OtherCluster {
        path: String,
        found: ClusterId,
        expected: ClusterId,
    },
    #[error("{path} has format {found}; this program reads format {FORMAT}: use the version of cairn that wrote it")]
    Format { path: String, found: u32 },
}

struct Header {
    cluster: ClusterId,
    index: u64,
    len: u64,
    crc: u32,
}

impl Header {
    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[16..32].copy_from_slice(self.cluster.as_bytes());
        bytes[32..40].copy_from_slice(&self.index.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.len.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.crc.to_le_bytes());
        let crc = crc32fast::hash(&bytes[16..]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HEADER_BYTES], path: &str) -> Result<Self, CheckpointError> {
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if &bytes[..8] != MAGIC {
            return Err(damaged(path, "it is not a checkpoint of Cairn"));
        }
        if u32_at(8) != FORMAT {
            return Err(CheckpointError::Format {
                path: path.into(),
                found: u32_at(8),
            });
        }
        if u32_at(12) != crc32fast::hash(&bytes[16..]) {
            return Err(damaged(path, "its header's checksum is wrong"));
        }
        let cluster = ClusterId::try_from(&bytes[16..32]).map_err(|e| damaged(path, e))?;
        Ok(Self {
            cluster,
            index: u64_at(32),
            len: u64_at(40),
            crc: u32_at(48),
        })
    }
}

fn damaged(path: &str, what: impl ToString) -> CheckpointError {
    CheckpointError::Damaged {
        path: path.into(),
        what: what.to_string(),
    }
}

/// Writes `state` as of `index`, reads it back, and gives it its name; then removes all but the newest two. Blocks.
/// Gives the index up to which the log is not needed any more: that of the checkpoint before.
pub fn save(disk: &dyn Disk, cluster: ClusterId, index: u64, state: &State) -> Result<u64, CheckpointError> {
    let at = |path: &Path| {
        let path = shown(disk, path);
        move |source| CheckpointError::Io { path, source }
    };
    let directory = Path::new(DIRECTORY);
    if !disk.exists(directory).map_err(at(directory))? {
        disk.create_dir_all(directory).map_err(at(directory))?;
        disk.sync_dir(Path::new("")).map_err(at(directory))?;
    }
    let temporary = Path::new(TEMPORARY);
    if disk.exists(temporary).map_err(at(temporary))? {
        disk.remove(temporary).map_err(at(temporary))?;
    }
    let file = disk.create(temporary).map_err(at(temporary))?;
    write(&file, cluster, index, state).map_err(at(temporary))?;
    let read = read(file, &shown(disk, temporary), cluster)?;
    if read.applied() != state.applied() {
        return Err(damaged(
            &shown(disk, temporary),
            "it reads back as another state than was written",
        ));
    }
    drop(read);
    let path = name(index);
    disk.rename(temporary, &path).map_err(at(&path))?;
    disk.sync_dir(directory).map_err(at(directory))?;
    let all = list(disk)?;
    let kept = &all[all.len().saturating_sub(KEPT)..];
    for old in &all[..all.len() - kept.len()] {
        let path = name(*old);
        disk.remove(&path).map_err(at(&path))?;
    }
    Ok(if kept.len() < KEPT { 0 } else { kept[0] })
}

/// The newest checkpoint that is whole, with its index; `None` when there is none at all. Blocks.
///
/// # Errors
/// There are some and none is whole; another cluster's, or another format's.
pub fn load(disk: &dyn Disk, cluster: ClusterId) -> Result<Option<(u64, State)>, CheckpointError> {
    let mut first_error = None;
    for index in list(disk)?.into_iter().rev() {
        let path = name(index);
        let shown = shown(disk, &path);
        let loaded = disk
            .open(&path)
            .map_err(|source| CheckpointError::Io {
                path: shown.clone(),
                source,
            })
            .and_then(|file| read(file, &shown, cluster));
        match loaded {
            Ok(state) => return Ok(Some((index, state))),
            Err(e @ (CheckpointError::OtherCluster { .. } | CheckpointError::Format { .. })) => return Err(e),
            Err(e) => {
                tracing::error!(error = %e, "a checkpoint cannot be used; trying the one before");
                first_error.get_or_insert(e);
            }
        }
    }
    first_error.map_or(Ok(None), Err)
}

/// Indices of the checkpoints, ascending.
pub fn list(disk: &dyn Disk) -> Result<Vec<u64>, CheckpointError> {
    match disk.list(Path::new(DIRECTORY)) {
        Ok(names) => Ok(names
            .iter()
            .filter_map(|n| n.strip_suffix(".ckpt")?.parse().ok())
            .collect()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(CheckpointError::Io {
            path: shown(disk, Path::new(DIRECTORY)),
            source,
        }),
    }
}

/// A checkpoint as one run of bytes, for `cairn admin checkpoint save`. Blocks.
pub fn to_bytes(cluster: ClusterId, state: &State) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; HEADER_BYTES];
    state.encode(&mut bytes)?;
    let payload = &bytes[HEADER_BYTES..];
    let header = Header {
        cluster,
        index: state.applied(),
        len: payload.len() as u64,
        crc: crc32fast::hash(payload),
    };
    bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
    Ok(bytes)
}

/// What [`to_bytes`] gave, with the cluster it is of. Blocks.
pub fn from_bytes(bytes: &[u8]) -> Result<(ClusterId, State), CheckpointError> {
    let path = "the given checkpoint";
    let header: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or_else(|| damaged(path, "it is too short"))?;
    let header = Header::decode(header, path)?;
    let payload = &bytes[HEADER_BYTES..];
    if header.len != payload.len() as u64 || header.crc != crc32fast::hash(payload) {
        return Err(damaged(path, "its checksum or length is wrong"));
    }
    let state = State::decode(&mut &payload[..]).map_err(|e| damaged(path, e))?;
    Ok((header.cluster, state))
}

fn name(index: u64) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{index:020}.ckpt"))
}

fn shown(disk: &dyn Disk, path: &Path) -> String {
    Path::new(&disk.display()).join(path).display().to_string()
}

fn write(file: &Arc<dyn DiskFile>, cluster: ClusterId, index: u64, state: &State) -> io::Result<()> {
    let mut to = BufWriter::with_capacity(
        BUFFER_BYTES,
        Writer {
            file,
            at: HEADER_BYTES as u64,
            crc: Default::default(),
        },
    );
    state.encode(&mut to)?;
    let to = to.into_inner().map_err(io::IntoInnerError::into_error)?;
    let header = Header {
        cluster,
        index,
        len: to.at - HEADER_BYTES as u64,
        crc: to.crc.finalize(),
    };
    file.write_at(&header.encode(), 0)?;
    file.sync_data()
}

fn read(file: Arc<dyn DiskFile>, path: &str, cluster: ClusterId) -> Result<State, CheckpointError> {
    let io = |source| CheckpointError::Io {
        path: path.into(),
        source,
    };
    let mut bytes = [0; HEADER_BYTES];
    if file.read_at(&mut bytes, 0).map_err(io)? < HEADER_BYTES {
        return Err(damaged(path, "it is too short"));
    }
    let header = Header::decode(&bytes, path)?;
    if header.cluster != cluster {
        return Err(CheckpointError::OtherCluster {
            path: path.into(),
            found: header.cluster,
            expected: cluster,
        });
    }
    if file.len().map_err(io)? != HEADER_BYTES as u64 + header.len {
        return Err(damaged(path, "it is not as long as its header says"));
    }
    let reader = Reader {
        file: &file,
        at: HEADER_BYTES as u64,
        crc: Default::default(),
    };
    let mut from = BufReader::with_capacity(BUFFER_BYTES, reader);
    let state = State::decode(&mut from).map_err(|e| match e {
        DecodeError::Io(source) => CheckpointError::Io {
            path: path.into(),
            source,
        },
        e => damaged(path, e),
    })?;
    io::copy(&mut from, &mut io::sink()).map_err(io)?;
    if from.into_inner().crc.finalize() != header.crc {
        return Err(damaged(path, "its checksum is wrong"));
    }
    if state.applied() != header.index || state.cluster() != Some(cluster) {
        return Err(damaged(path, "its contents are not what its header says"));
    }
    Ok(state)
}

struct Writer<'a> {
    file: &'a Arc<dyn DiskFile>,
    at: u64,
    crc: crc32fast::Hasher,
}

impl Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_at(bytes, self.at)?;
        self.crc.update(bytes);
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Reader<'a> {
    file: &'a Arc<dyn DiskFile>,
    at: u64,
    crc: crc32fast::Hasher,
}

impl Read for Reader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buf, self.at)?;
        self.crc.update(&buf[..read]);
        self.at += read as u64;
        Ok(read)
    }
}
