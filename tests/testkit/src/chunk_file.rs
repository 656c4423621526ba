//! A reader of chunk files written from docs/chunk-format.md, that shares no code with the chunkserver: what they
//! agree on is the format.
use anyhow::{Context, Result, bail, ensure};
use cairn_types::layout::{BLOCK_SIZE_BYTES, CHUNK_SIZE_BYTES};
use cairn_types::{ChunkHandle, ClusterId, DiskId, Inode, Version};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const SECTOR_BYTES: usize = 512;
const TABLE_AT: usize = 4096;
const DATA_AT: usize = 8192;
const SUPPORTED_FORMAT: u16 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    Joining,
    Fenced,
    Installed,
}

/// A chunk file whose header is right; whether its data is, [`ChunkFile::check`] says.
#[derive(Debug, Clone)]
pub struct ChunkFile {
    pub path: PathBuf,
    pub cluster: ClusterId,
    pub disk: DiskId,
    pub handle: ChunkHandle,
    pub version: Version,
    pub state: State,
    pub length: u64,
    pub inode: Inode,
    pub index: u32,
    pub clean: bool,
    pub suspect: bool,
    pub name: Vec<u8>,
    /// The chunk's bytes, those never written as zeros.
    pub data: Vec<u8>,
    table: Vec<u32>,
}

/// What is wrong with a chunk file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The block's checksum is not what its bytes give.
    Block(u32),
    /// An entry of the table beyond the length is not 0.
    Entry(u32),
}

impl ChunkFile {
    /// Reads a chunk file.
    ///
    /// # Errors
    /// It is no chunk file of a known format, its header's checksum is wrong, or it is another chunk's than its name
    /// says.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        Self::parse(path, bytes)
    }

    /// The same from the file's bytes.
    pub fn parse(path: &Path, bytes: Vec<u8>) -> Result<Self> {
        Self::read(path, bytes).with_context(|| path.display().to_string())
    }

    fn read(path: &Path, mut bytes: Vec<u8>) -> Result<Self> {
        ensure!(bytes.len() >= DATA_AT, "cut off at {} bytes", bytes.len());
        let mut data = bytes.split_off(DATA_AT);
        let (table, _) = bytes[TABLE_AT..].as_chunks::<4>();
        let header = &bytes[..SECTOR_BYTES];
        ensure!(&header[..8] == b"CairnChk", "no magic");
        ensure!(
            crc32fast::hash(&header[..508]) == u32_at(header, 508)?,
            "header checksum"
        );
        let format = u16::from_le_bytes([header[8], header[9]]);
        ensure!(format == SUPPORTED_FORMAT, "format {format}");
        let state = match header[10] {
            1 => State::Joining,
            2 => State::Fenced,
            3 => State::Installed,
            other => bail!("state {other}"),
        };
        let length = u64_at(header, 72)?;
        ensure!(length <= CHUNK_SIZE_BYTES, "length {length}");
        // bytes never written are zeros, and so are those cut away behind the file's end
        data.resize(length as usize, 0);
        let name_len = usize::from(u16::from_le_bytes([header[120], header[121]]));
        let read = Self {
            path: path.to_owned(),
            cluster: ClusterId::try_from(&header[16..32])?,
            disk: DiskId::try_from(&header[32..48])?,
            handle: ChunkHandle(u64_at(header, 48)?),
            version: Version::new(u64_at(header, 56)?, u64_at(header, 64)?),
            state,
            length,
            inode: Inode(u64_at(header, 80)?),
            index: u32_at(header, 12)?,
            clean: header[11] & 1 != 0,
            suspect: header[11] & 2 != 0,
            name: header.get(128..128 + name_len).context("name length")?.to_vec(),
            table: table.iter().map(|entry| u32::from_le_bytes(*entry)).collect(),
            data,
        };
        let named = format!("{}.chunk", read.handle);
        ensure!(
            path.file_name().is_some_and(|name| name == &*named),
            "the header says it is {named}"
        );
        Ok(read)
    }

    /// Everything that is wrong with data and table.
    pub fn check(&self) -> Vec<Fault> {
        let blocks = self.data.chunks(BLOCK_SIZE_BYTES as usize);
        let used = blocks.len();
        let bad = blocks.zip(&self.table).enumerate();
        let bad = bad.filter(|(_, (block, crc))| crc32fast::hash(block) != **crc);
        let mut faults: Vec<Fault> = bad.map(|(i, _)| Fault::Block(i as u32)).collect();
        let beyond = self.table.iter().enumerate().skip(used).filter(|(_, crc)| **crc != 0);
        faults.extend(beyond.map(|(i, _)| Fault::Entry(i as u32)));
        faults
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    Ok(u32::from_le_bytes(bytes[at..at + 4].try_into()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64> {
    Ok(u64::from_le_bytes(bytes[at..at + 8].try_into()?))
}

/// All chunk files below a disk's directory, sorted.
pub fn chunk_files(disk: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![];
    let mut directories = vec![disk.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                directories.push(entry.path());
            } else if entry.path().extension().is_some_and(|e| e == "chunk") {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Reads every chunk file of these disks, and [compares](compare) them.
pub fn check_chunks<P: AsRef<Path>>(
    disks: impl IntoIterator<Item = P>,
) -> Result<BTreeMap<ChunkHandle, Vec<ChunkFile>>> {
    let mut files = vec![];
    for disk in disks {
        for path in chunk_files(disk.as_ref())? {
            files.push(ChunkFile::open(&path)?);
        }
    }
    compare(files)
}

/// Each file must be right in itself, and all installed replicas of the newest installed version of a chunk the same.
/// The replicas of that version, by handle.
pub fn compare(files: Vec<ChunkFile>) -> Result<BTreeMap<ChunkHandle, Vec<ChunkFile>>> {
    let mut chunks: BTreeMap<ChunkHandle, Vec<ChunkFile>> = BTreeMap::new();
    for file in files {
        let faults = file.check();
        ensure!(faults.is_empty(), "{}: {faults:?}", file.path.display());
        chunks.entry(file.handle).or_default().push(file);
    }
    for (handle, replicas) in &mut chunks {
        let newest = replicas
            .iter()
            .filter(|r| r.state == State::Installed)
            .map(|r| r.version)
            .max();
        replicas.retain(|r| r.state == State::Installed && Some(r.version) == newest);
        if let Some([a, b]) = replicas.windows(2).find(|pair| pair[0].data != pair[1].data) {
            bail!(
                "{handle} at {newest:?}: {} and {} differ",
                a.path.display(),
                b.path.display()
            );
        }
    }
    Ok(chunks)
}

/// Inverts one bit of a file on disk, by its offset in bits.
pub fn flip_bit(path: &Path, bit: u64) -> Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, bit / 8)?;
    byte[0] ^= 1 << (bit % 8);
    file.write_all_at(&byte, bit / 8)?;
    Ok(file.sync_all()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_chunk(path: &Path, length: usize) {
        let data: Vec<u8> = (0..length).map(|i| (i % 253) as u8).collect();
        let mut file = vec![0; DATA_AT];
        file[..8].copy_from_slice(b"CairnChk");
        file[8] = 1;
        file[10] = 3;
        file[48..56].copy_from_slice(&0xabcu64.to_le_bytes());
        file[72..80].copy_from_slice(&(length as u64).to_le_bytes());
        let crc = crc32fast::hash(&file[..508]);
        file[508..512].copy_from_slice(&crc.to_le_bytes());
        for (i, block) in data.chunks(BLOCK_SIZE_BYTES as usize).enumerate() {
            file[4096 + 4 * i..][..4].copy_from_slice(&crc32fast::hash(block).to_le_bytes());
        }
        file.extend(data);
        std::fs::write(path, file).unwrap();
    }

    #[test]
    fn any_flipped_bit_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0000000000000abc.chunk");
        write_chunk(&path, 100_000);
        let whole = ChunkFile::open(&path).unwrap();
        assert_eq!(
            (whole.state, whole.length, whole.check()),
            (State::Installed, 100_000, vec![])
        );
        assert_eq!(check_chunks([directory.path()]).unwrap().len(), 1);
        let found = |at: u64| {
            flip_bit(&path, at * 8 + 5).unwrap();
            let found = ChunkFile::open(&path).ok().map(|c| c.check());
            flip_bit(&path, at * 8 + 5).unwrap();
            found
        };
        assert_eq!(found(100), None);
        assert_eq!(found(509), None);
        assert_eq!(found(DATA_AT as u64 + 70_000), Some(vec![Fault::Block(1)]));
        assert_eq!(found(4096), Some(vec![Fault::Block(0)]));
        assert_eq!(found(4096 + 4 * 1000), Some(vec![Fault::Entry(1000)]));
        assert_eq!(found(DATA_AT as u64), Some(vec![Fault::Block(0)]));
        std::fs::rename(&path, directory.path().join("0000000000000abd.chunk")).unwrap();
        assert!(check_chunks([directory.path()]).is_err());
    }
}
