//! The stamp file: whose disk this is. Written once, last thing of formatting, so that a stamp means a whole format.
//!
//! It is text, for the person who holds a disk and wonders: the first line says `cairn-disk` and the format, the last
//! one is a CRC32 of all before it.
use super::crc::crc;
use super::error::OpenError;
use super::recover::{CHUNKS_DIR, io_error, read_whole, replace_file};
use super::{floor, journal};
use cairn_io::Disk;
use cairn_types::{ClusterId, DiskId, ServerId};
use std::path::Path;
use std::str::FromStr;

pub const STAMP_FILE: &str = "cairn-disk";
pub const DISK_FORMAT: u16 = 1;
const STAMP_BYTES_MAX: u64 = 4096;

/// Who a disk belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub cluster: ClusterId,
    pub server: ServerId,
    pub disk: DiskId,
    /// Nanoseconds since 1970, for people.
    pub created: i64,
}

/// Whose disk is expected, and who says so (the path of another disk, the configuration, the master's address): a
/// mismatch names both. What is not known yet is not checked.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    pub cluster: Option<ClusterId>,
    pub server: Option<ServerId>,
    pub told_by: String,
}

impl Stamp {
    /// The stamp of a formatted disk; none where there is no stamp file.
    ///
    /// # Errors
    /// `StampDamaged`, `NewerFormat`, `Io`.
    pub fn read(disk: &dyn Disk) -> Result<Option<Stamp>, OpenError> {
        let path = Path::new(STAMP_FILE);
        if !disk.exists(path).map_err(|e| io_error(disk, "look for", path, e))? {
            return Ok(None);
        }
        let bytes = read_whole(disk, path, STAMP_BYTES_MAX)?;
        let damaged = || OpenError::StampDamaged { path: disk.display() };
        let text = std::str::from_utf8(&bytes).map_err(|_| damaged())?;
        Self::parse(disk, text)?.map(Some).ok_or_else(damaged)
    }

    fn parse(disk: &dyn Disk, text: &str) -> Result<Option<Stamp>, OpenError> {
        let sum_at = text.len().saturating_sub("crc32 00000000\n".len());
        let Some((body, last)) = text.split_at_checked(sum_at) else {
            return Ok(None);
        };
        if last != checksum_line(body) {
            return Ok(None);
        }
        let mut lines = body.lines();
        let Some(format) = lines
            .next()
            .and_then(|l| l.strip_prefix("cairn-disk "))
            .and_then(|f| u16::from_str(f).ok())
        else {
            return Ok(None);
        };
        if format > DISK_FORMAT {
            return Err(OpenError::NewerFormat {
                path: disk.display(),
                found: format,
                known: DISK_FORMAT,
            });
        }
        let field = |key: &str| {
            body.lines()
                .find_map(|l| l.strip_prefix(key)?.strip_prefix(' '))
                .unwrap_or_default()
        };
        let ids = (
            field("cluster").parse(),
            field("server").parse(),
            field("disk").parse(),
            field("created").parse(),
        );
        let (Ok(cluster), Ok(server), Ok(disk), Ok(created)) = ids else {
            return Ok(None);
        };
        Ok(Some(Stamp {
            cluster,
            server,
            disk,
            created,
        }))
    }

    fn encode(&self) -> String {
        let Stamp {
            cluster,
            server,
            disk,
            created,
        } = self;
        let body =
            format!("cairn-disk {DISK_FORMAT}\ncluster {cluster}\nserver {server}\ndisk {disk}\ncreated {created}\n");
        let sum = checksum_line(&body);
        body + &sum
    }

    /// Refuses the disk of another cluster or server.
    ///
    /// # Errors
    /// `OtherCluster`, `OtherServer`, naming `path` and who said otherwise.
    pub fn check(&self, path: &str, expected: &Identity) -> Result<(), OpenError> {
        if let Some(cluster) = expected.cluster.filter(|c| *c != self.cluster) {
            return Err(OpenError::OtherCluster {
                path: path.to_owned(),
                found: self.cluster,
                other_path: expected.told_by.clone(),
                expected: cluster,
            });
        }
        if let Some(server) = expected.server.filter(|s| *s != self.server) {
            return Err(OpenError::OtherServer {
                path: path.to_owned(),
                found: self.server,
                other_path: expected.told_by.clone(),
                expected: server,
            });
        }
        Ok(())
    }

    /// Formats an empty directory: see [`super::DiskStore::format`].
    pub(super) fn format(&self, disk: &dyn Disk) -> Result<(), OpenError> {
        let path = disk.display();
        let root = Path::new("");
        let _lock = lock(disk)?;
        if let Some(stamp) = Self::read(disk)? {
            let cluster = stamp.cluster;
            return Err(OpenError::AlreadyFormatted { path, cluster });
        }
        let names = disk.list(root).map_err(|e| io_error(disk, "list", root, e))?;
        for name in names {
            // our own files without a stamp are those of a format that did not finish
            match name.as_str() {
                "lost+found" => {}
                floor::FLOOR_FILE | journal::DIRTY_FILE => remove(disk, &name)?,
                CHUNKS_DIR => Self::require_no_chunks(disk)?,
                _ if name.strip_suffix(".new") == Some(STAMP_FILE) => remove(disk, &name)?,
                _ => return Err(OpenError::NotEmpty { path, found: name }),
            }
        }
        for low_byte in 0..=255u8 {
            let dir = format!("{CHUNKS_DIR}/{low_byte:02x}");
            disk.create_dir_all(Path::new(&dir))
                .map_err(|e| io_error(disk, "create", Path::new(&dir), e))?;
        }
        for dir in [CHUNKS_DIR, ""] {
            disk.sync_dir(Path::new(dir))
                .map_err(|e| io_error(disk, "sync", Path::new(dir), e))?;
        }
        floor::Floor::create(disk)?;
        journal::create(disk)?;
        replace_file(disk, STAMP_FILE, self.encode().as_bytes())
    }

    fn require_no_chunks(disk: &dyn Disk) -> Result<(), OpenError> {
        let list = |dir: &str| {
            disk.list(Path::new(dir))
                .map_err(|e| io_error(disk, "list", Path::new(dir), e))
        };
        for dir in list(CHUNKS_DIR)? {
            let dir = format!("{CHUNKS_DIR}/{dir}");
            if let Some(name) = list(&dir)?.into_iter().next() {
                return Err(OpenError::NotEmpty {
                    path: disk.display(),
                    found: format!("{dir}/{name}"),
                });
            }
        }
        Ok(())
    }
}

fn checksum_line(body: &str) -> String {
    format!("crc32 {:08x}\n", crc(body.as_bytes()))
}

/// Takes the disk for this process.
pub(super) fn lock(disk: &dyn Disk) -> Result<Box<dyn Send + Sync>, OpenError> {
    disk.lock().map_err(|e| match e.kind() {
        std::io::ErrorKind::WouldBlock => OpenError::InUse { path: disk.display() },
        _ => io_error(disk, "lock", Path::new(""), e),
    })
}

fn remove(disk: &dyn Disk, name: &str) -> Result<(), OpenError> {
    disk.remove(Path::new(name))
        .map_err(|e| io_error(disk, "remove", Path::new(name), e))
}
