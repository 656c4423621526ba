//! The disk's floor (protocol R10): the version at or below which an absent chunk is unknown and none is created.
//!
//! Two sectors that are written in turn, in place, so that raising it needs no space: deleting works on a full disk.
//! Both always hold a sound slot; the one with the higher sequence counts. A slot that is not sound may have been the
//! higher one, so the floor is then as after an unclean start: it must be raised to the master's current version.
use super::crc::crc;
use super::error::OpenError;
use super::format::{SECTOR_BYTES, get_u32, get_u64, get_uuid, put};
use super::recover::io_error;
use cairn_io::{Disk, DiskFile};
use cairn_types::Version;
use std::io;
use std::path::Path;
use std::sync::Arc;
use uuid::Uuid;

pub const FLOOR_FILE: &str = "floor";
const MAGIC: [u8; 8] = *b"CairnFlr";
const SLOT_DISTANCE: u64 = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    sequence: u64,
    version: Version,
    /// The boot for which the floor is known to be high enough.
    boot: Uuid,
}

impl Slot {
    fn encode(&self) -> [u8; SECTOR_BYTES] {
        let mut bytes = [0; SECTOR_BYTES];
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, 8, &self.sequence.to_le_bytes());
        put(&mut bytes, 16, &self.version.epoch.to_le_bytes());
        put(&mut bytes, 24, &self.version.counter.to_le_bytes());
        put(&mut bytes, 32, self.boot.as_bytes());
        let sum = crc(&bytes[..508]);
        put(&mut bytes, 508, &sum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; SECTOR_BYTES]) -> Option<Self> {
        (bytes[..8] == MAGIC && get_u32(bytes, 508) == crc(&bytes[..508])).then(|| Slot {
            sequence: get_u64(bytes, 8),
            version: Version::new(get_u64(bytes, 16), get_u64(bytes, 24)),
            boot: get_uuid(bytes, 32),
        })
    }
}

pub(super) struct Floor {
    file: Arc<dyn DiskFile>,
    slot: Slot,
    settled: bool,
}

impl Floor {
    /// Writes the file of a disk that is being formatted. It was settled under no boot: the first open settles it,
    /// since a disk without chunks has none to have lost.
    pub fn create(disk: &dyn Disk) -> Result<(), OpenError> {
        let path = Path::new(FLOOR_FILE);
        let write = || {
            let file = disk.create(path)?;
            let slot = |sequence| Slot {
                sequence,
                version: Version::ZERO,
                boot: Uuid::nil(),
            };
            file.write_at(&slot(1).encode(), SLOT_DISTANCE)?;
            file.write_at(&slot(2).encode(), 0)?;
            file.sync_data()
        };
        write().map_err(|e| io_error(disk, "write", path, e))
    }

    /// `stopped_cleanly`: the disk was closed in order, so whatever the boot is nothing is missing.
    pub fn open(disk: &dyn Disk, boot: Uuid, stopped_cleanly: bool) -> Result<Self, OpenError> {
        let path = Path::new(FLOOR_FILE);
        let file = disk.open(path).map_err(|e| io_error(disk, "open", path, e))?;
        let mut slots = [None; 2];
        for (i, slot) in slots.iter_mut().enumerate() {
            let mut bytes = [0; SECTOR_BYTES];
            // what cannot be read is no sound slot
            let read = file.read_at(&mut bytes, i as u64 * SLOT_DISTANCE);
            *slot = read.ok().and_then(|_| Slot::decode(&bytes));
        }
        let sound = slots.iter().all(Option::is_some);
        let newest = slots.into_iter().flatten().max_by_key(|s| s.sequence);
        let slot = newest.unwrap_or(Slot {
            sequence: 0,
            version: Version::ZERO,
            boot: Uuid::nil(),
        });
        if !sound {
            tracing::error!(
                disk = disk.display(),
                "the floor file is damaged; the master will be asked for a new floor"
            );
        }
        let fresh = slot.boot.is_nil() && slot.version == Version::ZERO;
        let settled = sound && (slot.boot == boot || stopped_cleanly || fresh);
        Ok(Self { file, slot, settled })
    }

    pub fn version(&self) -> Version {
        self.slot.version
    }

    pub fn settled(&self) -> bool {
        self.settled
    }

    /// Durable when it returns. A lower version changes nothing.
    pub fn raise(&mut self, version: Version) -> io::Result<()> {
        if version <= self.slot.version {
            return Ok(());
        }
        self.write(version, self.slot.boot)
    }

    /// Records that the floor is high enough for this boot, and at least `version`.
    pub fn settle(&mut self, version: Version, boot: Uuid) -> io::Result<()> {
        self.write(version.max(self.slot.version), boot)?;
        if !self.settled {
            // the slot that was not sound, or is older, must not outlive its meaning
            self.write(self.slot.version, boot)?;
        }
        self.settled = true;
        Ok(())
    }

    /// At an open that found everything in order.
    pub fn settle_at_open(&mut self, boot: Uuid) -> io::Result<()> {
        if self.settled && self.slot.boot != boot {
            self.settle(self.slot.version, boot)?;
        }
        Ok(())
    }

    fn write(&mut self, version: Version, boot: Uuid) -> io::Result<()> {
        let slot = Slot {
            sequence: self.slot.sequence + 1,
            version,
            boot,
        };
        self.file.write_at(&slot.encode(), slot.sequence % 2 * SLOT_DISTANCE)?;
        self.file.sync_data()?;
        self.slot = slot;
        Ok(())
    }
}
