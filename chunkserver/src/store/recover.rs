//! Opening a disk: what is there, what a killed process left half done, and what a power loss may have taken.
//!
//! After an orderly stop the marker file vouches for the index, and no chunk file is opened. Otherwise every header is
//! read. A chunk whose header was written in another boot of the machine without a clean mark that still counts is
//! suspect. A leftover intent of this boot is of a killed process, whose writes are all still there: the blocks that it
//! names get new checksums. Of another boot, the chunk is suspect and all its checksums are computed anew when it is
//! compared (protocol R4).
use super::error::{Damage, HeaderFault, OpenError};
use super::file::{ChunkFile, Owner, read_head};
use super::format::{SECTOR_BYTES, State, Status, chunk_path, get_u32, get_u64, parse_chunk_name, put};
use super::index::{Digest, Index};
use super::journal::{Contents, Dirty};
use super::stamp::Stamp;
use cairn_io::Disk;
use cairn_types::{ChunkHandle, Version};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use uuid::Uuid;

pub(super) const CHUNKS_DIR: &str = "chunks";
const MARKER_FILE: &str = "clean-stop";
const MARKER_MAGIC: [u8; 8] = *b"CairnCln";

/// One chunk as it was found.
pub(super) struct Found {
    pub status: Status,
    pub damage: Damage,
    /// The header on the disk does not say what `status` says.
    pub header_stale: bool,
    /// Written in this boot, and perhaps not synced since.
    pub unsynced: bool,
}

pub(super) struct Loaded {
    pub chunks: BTreeMap<ChunkHandle, Found>,
    /// Records of the dirty log that still count.
    pub needed: BTreeMap<ChunkHandle, Dirty>,
    /// The disk turned out to take no writes.
    pub read_only: bool,
}

/// The status of a chunk whose header cannot be believed.
pub(super) fn unknown(boot: Uuid) -> Status {
    Status {
        version: Version::ZERO,
        state: State::Joining,
        length: 0,
        clean: false,
        mark: 0,
        suspect: true,
        boot,
    }
}

pub(super) fn load(
    disk: &dyn Disk,
    stamp: &Stamp,
    boot: Uuid,
    log: &Contents,
    marker: Option<Digest>,
    index: &dyn Index,
) -> Result<Loaded, OpenError> {
    if let Some(chunks) = marker.and_then(|digest| from_index(disk, index, digest)) {
        return Ok(Loaded {
            chunks,
            needed: BTreeMap::new(),
            read_only: false,
        });
    }
    let mut scan = Scan {
        disk,
        stamp,
        boot,
        log,
        loaded: Loaded {
            chunks: BTreeMap::new(),
            needed: BTreeMap::new(),
            read_only: false,
        },
    };
    for low_byte in 0..=255u8 {
        scan.directory(low_byte)?;
    }
    Ok(scan.loaded)
}

fn from_index(disk: &dyn Disk, index: &dyn Index, expected: Digest) -> Option<BTreeMap<ChunkHandle, Found>> {
    let mut digest = Digest::default();
    let mut chunks = BTreeMap::new();
    let read = index.iterate(&mut |handle, status| {
        digest.add(handle, &status);
        let found = Found {
            status,
            damage: Damage::default(),
            header_stale: false,
            unsynced: false,
        };
        chunks.insert(handle, found);
    });
    match read {
        Ok(()) if digest == expected => Some(chunks),
        Ok(()) => {
            tracing::info!(
                disk = disk.display(),
                "the chunk index is not up to date, reading every header"
            );
            None
        }
        Err(e) => {
            tracing::warn!(disk = disk.display(), error = %e, "the chunk index is unreadable, reading every header");
            None
        }
    }
}

struct Scan<'a> {
    disk: &'a dyn Disk,
    stamp: &'a Stamp,
    boot: Uuid,
    log: &'a Contents,
    loaded: Loaded,
}

impl Scan<'_> {
    fn directory(&mut self, low_byte: u8) -> Result<(), OpenError> {
        let dir = format!("{CHUNKS_DIR}/{low_byte:02x}");
        let dir = Path::new(&dir);
        let names = self.disk.list(dir).map_err(|e| io_error(self.disk, "list", dir, e))?;
        for name in names {
            match parse_chunk_name(low_byte, &name) {
                Some(handle) => {
                    if let Some(found) = self.chunk(handle)? {
                        self.loaded.chunks.insert(handle, found);
                    }
                }
                None => tracing::warn!(
                    disk = self.disk.display(),
                    file = %dir.join(name).display(),
                    "not a chunk file; it is left alone"
                ),
            }
        }
        Ok(())
    }

    /// None for a file without a byte: its creation was cut short before anything of it was acknowledged, or it was
    /// never synced and the power is gone, which is as if its name had not been kept either (protocol R10). It goes, so
    /// that the grant can be used again.
    fn chunk(&mut self, handle: ChunkHandle) -> Result<Option<Found>, OpenError> {
        let path = chunk_path(handle);
        let owner = Owner {
            cluster: self.stamp.cluster,
            disk: self.stamp.disk,
            handle,
        };
        let file = self
            .disk
            .open(&path)
            .map_err(|e| io_error(self.disk, "open", &path, e))?;
        if file.is_empty().map_err(|e| io_error(self.disk, "read", &path, e))? {
            tracing::warn!(disk = self.disk.display(), chunk = %handle, "removing an empty file: the chunk was never created");
            let removed = self.disk.remove(&path);
            self.wrote(&path, removed)?;
            return Ok(None);
        }
        let head = match read_head(&*file, owner) {
            Ok(head) => head,
            // one bad sector is one bad chunk
            Err(e) => {
                tracing::error!(disk = self.disk.display(), chunk = %handle, error = %e, "the header cannot be read");
                Err(HeaderFault::Unreadable)
            }
        };
        let (header, intent) = match head {
            Ok(head) => head,
            Err(fault) => {
                tracing::error!(disk = self.disk.display(), chunk = %handle, %fault, "the header is damaged");
                return Ok(Some(Found {
                    status: unknown(self.boot),
                    damage: Damage::of_header(fault),
                    header_stale: true,
                    unsynced: false,
                }));
            }
        };
        let on_disk = header.status;
        let same_boot = on_disk.boot == self.boot;
        let mut status = on_disk;
        // A record at or above the mark overrules it. Of this boot, the header would say so itself if the chunk had
        // been changed after the record: the record is written first, and nothing that was written has been lost.
        let record = self.log.dirty.get(&handle).copied().filter(|r| r.mark >= on_disk.mark);
        let overruled = record.is_some_and(|r| r.boot != self.boot) || (self.log.lost && !same_boot);
        status.clean &= !overruled;
        // (a record that is no longer needed may still be there; a header without a mark says all by itself)
        status.suspect |= if on_disk.clean { overruled } else { !same_boot };
        if let Some(record) = record.filter(|_| !status.clean) {
            self.loaded.needed.insert(handle, record);
        }
        let mut found = Found {
            status,
            damage: Damage::default(),
            header_stale: status != on_disk,
            unsynced: !status.clean && same_boot,
        };
        let file = ChunkFile {
            file,
            owner,
            meta: header.meta,
        };
        if self.log.lost && found.header_stale {
            // the log that overruled the mark is about to be replaced, so the header has to say it
            let written = file.write_head(&status, intent).and_then(|()| file.file.sync_data());
            found.header_stale = !self.wrote(&path, written)?;
        }
        if let Some(intent) = intent.filter(|_| same_boot) {
            tracing::info!(disk = self.disk.display(), chunk = %handle, "ending a write that was cut short");
            match file.repair(&status, intent) {
                Ok(unreadable) => {
                    found.damage.blocks.extend(unreadable);
                    found.header_stale = false;
                }
                Err(e) => {
                    self.wrote(&path, Err(e))?;
                    // not repaired: as good as suspect
                    found.status.suspect = true;
                    found.header_stale = true;
                }
            }
        }
        Ok(Some(found))
    }

    /// False if the disk takes no writes at all.
    fn wrote(&mut self, path: &Path, result: io::Result<()>) -> Result<bool, OpenError> {
        match result {
            Ok(()) => Ok(true),
            Err(e) if is_read_only(&e) => {
                self.loaded.read_only = true;
                Ok(false)
            }
            Err(e) => Err(io_error(self.disk, "write", path, e)),
        }
    }
}

/// The disk, or this handle on it, takes no writes.
pub(super) fn is_read_only(e: &io::Error) -> bool {
    // EBADF: a file opened before the disk became read-only, or opened for reading alone
    e.kind() == io::ErrorKind::ReadOnlyFilesystem || e.raw_os_error() == Some(9)
}

/// What the marker of an orderly stop says of the index; none if the last stop was not orderly.
pub(super) fn read_marker(disk: &dyn Disk) -> Result<Option<Digest>, OpenError> {
    let path = Path::new(MARKER_FILE);
    if !disk.exists(path).map_err(|e| io_error(disk, "look for", path, e))? {
        return Ok(None);
    }
    let bytes = read_whole(disk, path, SECTOR_BYTES as u64)?;
    let sound = bytes.len() == 32 && bytes[..8] == MARKER_MAGIC && get_u32(&bytes, 24) == super::crc::crc(&bytes[..24]);
    Ok(sound.then(|| Digest {
        count: get_u64(&bytes, 8),
        sum: get_u64(&bytes, 16),
    }))
}

pub(super) fn write_marker(disk: &dyn Disk, digest: Digest) -> Result<(), OpenError> {
    let mut bytes = [0; 32];
    put(&mut bytes, 0, &MARKER_MAGIC);
    put(&mut bytes, 8, &digest.count.to_le_bytes());
    put(&mut bytes, 16, &digest.sum.to_le_bytes());
    let sum = super::crc::crc(&bytes[..24]);
    put(&mut bytes, 24, &sum.to_le_bytes());
    replace_file(disk, MARKER_FILE, &bytes)
}

/// Before anything is changed the marker must be gone for good.
pub(super) fn remove_marker(disk: &dyn Disk) -> io::Result<()> {
    match disk.remove(Path::new(MARKER_FILE)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
        Ok(()) => disk.sync_dir(Path::new("")),
    }
}

pub(super) fn io_error(disk: &dyn Disk, action: &'static str, file: &Path, source: io::Error) -> OpenError {
    OpenError::Io {
        path: disk.display(),
        action,
        file: file.to_owned(),
        source,
    }
}

/// A small file's bytes; of a larger one, `bytes_max` of them.
pub(super) fn read_whole(disk: &dyn Disk, path: &Path, bytes_max: u64) -> Result<Vec<u8>, OpenError> {
    let read = || {
        let file = disk.open(path)?;
        let mut bytes = vec![0; file.len()?.min(bytes_max) as usize];
        let read = file.read_at(&mut bytes, 0)?;
        bytes.truncate(read);
        Ok(bytes)
    };
    read().map_err(|e| io_error(disk, "read", path, e))
}

/// Puts a small file in the root in place of the one of that name, durably: after a power loss it is the old or the new.
pub(super) fn replace_file(disk: &dyn Disk, name: &str, bytes: &[u8]) -> Result<(), OpenError> {
    let path = Path::new(name);
    let new = format!("{name}.new");
    let new = Path::new(&new);
    let replace = || {
        match disk.remove(new) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let file = disk.create(new)?;
        file.write_at(bytes, 0)?;
        file.sync_data()?;
        drop(file);
        disk.rename(new, path)?;
        disk.sync_dir(Path::new(""))
    };
    replace().map_err(|e| io_error(disk, "write", path, e))
}
