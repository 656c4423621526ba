//! One replica, and every operation on it.
//!
//! A change goes to the file in this order: head with an intent that names the blocks, data and table, head with the new
//! length and without the intent. (A new chunk's first bytes come with its file, in one write with the intent: `make`.) A
//! process killed anywhere in it leaves either an intent, so that the next open gives those blocks the checksums of what
//! they hold and cuts the file at the length, or nothing to do. Nothing is acknowledged before the last of these writes.
//!
//! The lock of a chunk (`Slot::core`) is held for writing through a change, for reading through a read, and not at all
//! through a sync.
use super::Result;
use super::crc::{self, Overwrite};
use super::disk::Inner;
use super::error::{Damage, HeaderFault, StoreError};
use super::file::{ChunkFile, judge, read_head};
use super::format::{
    ChunkMeta, DATA_OFFSET, Intent, SECTOR_BYTES, State, Status, TABLE_OFFSET, block_count, block_len, chunk_path,
    decode_table,
};
use super::locked;
use super::names::Name;
use super::recover::Found;
use bytes::Bytes;
use cairn_io::Boot;
use cairn_types::layout::{BLOCK_SIZE_BYTES, BLOCKS_PER_CHUNK, CHUNK_SIZE_BYTES, block_pieces};
use cairn_types::{ChunkHandle, DiskId, Version};
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

/// The state and version that an operation asks of a replica; it is compared under the chunk's lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    Installed(Version),
    Fenced(Version),
    Joining(Version),
}

impl At {
    pub fn version(self) -> Version {
        match self {
            At::Installed(v) | At::Fenced(v) | At::Joining(v) => v,
        }
    }
    pub fn state(self) -> State {
        match self {
            At::Installed(_) => State::Installed,
            At::Fenced(_) => State::Fenced,
            At::Joining(_) => State::Joining,
        }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.state(), self.version())
    }
}

/// What the store knows of a replica without touching the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkInfo {
    pub handle: ChunkHandle,
    /// `Version::ZERO` where the header was damaged when the disk was opened: unknown.
    pub version: Version,
    pub state: State,
    pub length: u64,
    /// Power was lost while it had unsynced writes, until an install (protocol: suspect).
    pub suspect: bool,
    /// Every write is on stable storage, as far as is known.
    pub synced: bool,
    /// What reads and scrubs have found; nothing if `Damage::is_none`.
    pub damage: Damage,
}

/// Bytes of a chunk with a checksum for each piece of them that lies in one block (`layout::block_pieces`).
#[derive(Debug, Clone)]
pub struct Pieces {
    pub data: Bytes,
    pub crcs: Vec<u32>,
    /// The chunk's length: what lies beyond it reads as zeros, and `data` ends there.
    pub length: u64,
}

/// A chunk's length and the checksum of each of its blocks; the last one's covers it up to the length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub length: u64,
    pub crcs: Vec<u32>,
}

/// A replica on a disk. Cheap to clone; operations of any clones take turns where they must.
#[derive(Clone)]
pub struct Chunk {
    pub(super) disk: Arc<Inner>,
    pub(super) slot: Arc<Slot>,
}

pub(super) struct Slot {
    handle: ChunkHandle,
    core: RwLock<Core>,
    damage: Mutex<Option<Box<Damage>>>,
}

pub(super) struct Core {
    /// What the header says, or should say if `header_stale`.
    pub status: Status,
    pub removed: bool,
    /// False if the header could not be believed when the disk was opened: `status` is made up.
    known: bool,
    header_stale: bool,
    /// A suspect whose checksums have been computed anew.
    recomputed: bool,
    /// The file's name, while it may not be on stable storage.
    unsynced_name: Option<Name>,
    /// Changes begun, the creation among them, and how many of them the last sync covered.
    changes: u64,
    synced: u64,
    last_change: Boot,
    pub held: Held,
}

/// What is in hand of a chunk's file.
pub(super) enum Held {
    /// There is no file yet; what it will say of itself.
    Unmade(Box<ChunkMeta>),
    Nothing,
    /// Open for as long as there are unsynced changes.
    File(Arc<ChunkFile>),
}

/// A sync of a chunk that has begun.
pub(super) struct Begun {
    pub file: Arc<ChunkFile>,
    changes: u64,
    mark: u64,
    unsynced_name: Option<Name>,
    header_stale: bool,
}

/// Whether a chunk can be marked clean.
pub(super) enum Markable {
    Now,
    /// It was changed then.
    Later(Boot),
    Marked,
}

impl Core {
    /// Of a chunk that is created now.
    pub fn new(status: Status, meta: ChunkMeta, now: Boot) -> Self {
        Self {
            status,
            removed: false,
            known: true,
            header_stale: false,
            recomputed: false,
            unsynced_name: None,
            changes: 1,
            synced: 0,
            last_change: now,
            held: Held::Unmade(Box::new(meta)),
        }
    }

    pub fn found(found: Found, now: Boot) -> (Self, Damage) {
        let core = Self {
            status: found.status,
            removed: false,
            known: found.damage.header.is_none(),
            header_stale: found.header_stale,
            recomputed: false,
            unsynced_name: found.unsynced.then_some(Name::FOUND),
            changes: u64::from(found.unsynced),
            synced: 0,
            last_change: now,
            held: Held::Nothing,
        };
        (core, found.damage)
    }

    pub fn is_unmade(&self) -> bool {
        matches!(self.held, Held::Unmade(_))
    }

    pub fn made(&mut self, file: Arc<ChunkFile>, name: Name) {
        self.unsynced_name = Some(name);
        self.held = Held::File(file);
    }

    pub fn remove(&mut self) {
        self.removed = true;
        self.held = Held::Nothing;
    }

    pub fn status_known(&self) -> bool {
        self.known
    }

    pub fn present(&self, handle: ChunkHandle) -> Result<()> {
        if self.removed {
            return Err(StoreError::NotFound { handle });
        }
        Ok(())
    }

    fn all_synced(&self) -> bool {
        self.changes == self.synced && self.unsynced_name.is_none()
    }
}

impl Slot {
    pub fn new(handle: ChunkHandle, core: Core, damage: Damage) -> Arc<Self> {
        Arc::new(Self {
            handle,
            core: RwLock::new(core),
            damage: Mutex::new((!damage.is_none()).then(|| Box::new(damage))),
        })
    }

    pub fn info(&self) -> ChunkInfo {
        // a panic in the middle of a change has made the disk refuse everything; this still describes the chunk
        let core = self.core.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Status {
            version,
            state,
            length,
            suspect,
            ..
        } = core.status;
        ChunkInfo {
            handle: self.handle,
            version,
            state,
            length,
            suspect,
            synced: core.all_synced() || core.status.clean,
            damage: self.damage(),
        }
    }

    /// What the index may say of the chunk; nothing if the header is not to be relied on.
    pub fn status(&self) -> Option<Status> {
        let core = self.core.read().ok()?;
        (!core.removed && core.known && !core.header_stale && self.damage().header.is_none()).then_some(core.status)
    }

    fn damage(&self) -> Damage {
        locked(&self.damage).as_deref().cloned().unwrap_or_default()
    }

    pub fn note(&self, damage: &Damage) {
        if !damage.is_none() {
            locked(&self.damage).get_or_insert_default().merge(damage);
        }
    }

    /// These blocks have just been looked at, or written anew: what was known of them before no longer counts.
    pub fn seen(&self, blocks: Range<u32>, damage: &Damage) {
        if let Some(known) = locked(&self.damage).as_mut() {
            known.blocks.retain(|b| !blocks.contains(b));
        }
        self.note(damage);
    }

    fn set_damage(&self, damage: Damage) {
        *locked(&self.damage) = (!damage.is_none()).then(|| Box::new(damage));
    }
}

impl Inner {
    /// A panic while a chunk was being changed leaves it in a state that nobody knows: the disk is opened anew.
    pub fn write_core<'a>(&self, slot: &'a Slot) -> Result<RwLockWriteGuard<'a, Core>> {
        slot.core
            .write()
            .map_err(|_| self.sync_failed(&io::Error::other("a change to a chunk panicked")))
    }
    pub fn read_core<'a>(&self, slot: &'a Slot) -> Result<RwLockReadGuard<'a, Core>> {
        slot.core
            .read()
            .map_err(|_| self.sync_failed(&io::Error::other("a change to a chunk panicked")))
    }
}

impl Chunk {
    pub fn handle(&self) -> ChunkHandle {
        self.slot.handle
    }

    pub fn disk_id(&self) -> DiskId {
        self.disk.stamp.disk
    }

    pub fn info(&self) -> ChunkInfo {
        self.slot.info()
    }

    /// What its header says of the file that it is a part of.
    ///
    /// # Errors
    /// `NotFound` (unlinked meanwhile), `Corrupt`, `DiskFailed`, `TooManyFiles`.
    pub fn meta(&self) -> Result<ChunkMeta> {
        self.disk.readable()?;
        let core = self.read_made()?;
        core.present(self.handle())?;
        Ok(self.file(&core)?.meta.clone())
    }

    /// Writes `data` at `offset`, with one checksum for each piece of it that lies in one block. All pieces are checked
    /// before anything is written. Survives a kill of this process; durable after [`Chunk::sync`]. The new length.
    /// A gap between the old length and `offset` becomes zeros.
    ///
    /// # Errors
    /// `BadPiece`, `BadRange`, `WrongVersion`, `Corrupt`, `NoSpace`, `ReadOnly`, `DiskFailed`, `NotFound`,
    /// `TooManyFiles`. After `NoSpace` length and table are as before; bytes below the old length that were to be
    /// overwritten may be old or new.
    pub fn write(&self, at: At, offset: u64, data: &[u8], crcs: &[u32]) -> Result<u64> {
        check_range(offset, data, crcs)?;
        let wrong = block_pieces(offset, data.len() as u64)
            .zip(crcs)
            .position(|((piece_at, piece_len), expected)| {
                let from = (piece_at - offset) as usize;
                crc::crc(&data[from..from + piece_len as usize]) != *expected
            });
        if let Some(piece) = wrong {
            let handle = self.handle();
            return Err(StoreError::BadPiece { handle, piece });
        }
        self.write_checked(at, offset, data, crcs)
    }

    /// [`Chunk::write`] of bytes that the caller has just compared with these checksums: they are not hashed again. A
    /// checksum that is wrong after all makes the block corrupt from the start.
    ///
    /// # Errors
    /// As [`Chunk::write`], but `BadPiece`.
    pub fn write_checked(&self, at: At, offset: u64, data: &[u8], crcs: &[u32]) -> Result<u64> {
        check_range(offset, data, crcs)?;
        let handle = self.handle();
        let len = data.len() as u64;
        self.disk.writable()?;
        let mut core = self.disk.write_core(&self.slot)?;
        self.expect(&core, at)?;
        if data.is_empty() {
            return Ok(core.status.length);
        }
        let end = offset + len;
        let length = core.status.length.max(end);
        if offset == 0 && core.is_unmade() {
            let intent = Intent {
                first_block: 0,
                blocks: crcs.len() as u32,
            };
            core.last_change = self.disk.clock.now();
            let file = self.make(&mut core, Some(intent), crcs, data)?;
            self.end_change(&mut core, &file, intent, length, Ok(()))?;
        } else {
            let file = self.made(&mut core)?;
            let (first, entries) = self.entries_after(&core, &file, offset, len, crcs)?;
            let intent = Intent {
                first_block: first,
                blocks: entries.len() as u32,
            };
            self.change(&mut core, &file, intent, length, |file| {
                file.write_data(data, offset)?;
                file.write_table(first, &entries)
            })?;
        }
        drop(core);
        // what was whole overwritten is good again
        let whole = offset.div_ceil(BLOCK_SIZE_BYTES) as u32..block_index_down(end, length);
        self.slot.seen(whole, &Damage::default());
        self.disk.bound_unsynced(handle)?;
        Ok(length)
    }

    /// Grows the chunk to `length` with zeros, reading and writing no data; a smaller one changes nothing. The length.
    ///
    /// # Errors
    /// As [`Chunk::write`].
    pub fn grow(&self, at: At, length: u64) -> Result<u64> {
        if length > CHUNK_SIZE_BYTES {
            return Err(bad_range(length, 0, 0));
        }
        self.disk.writable()?;
        let mut core = self.disk.write_core(&self.slot)?;
        self.expect(&core, at)?;
        if length <= core.status.length {
            return Ok(core.status.length);
        }
        let file = self.made(&mut core)?;
        let (first, entries) = self.entries_after(&core, &file, length, 0, &[])?;
        let intent = Intent {
            first_block: first,
            blocks: entries.len() as u32,
        };
        self.change(&mut core, &file, intent, length, |file| {
            file.file.set_len(DATA_OFFSET + length)?;
            file.write_table(first, &entries)
        })?;
        drop(core);
        self.disk.bound_unsynced(self.handle())?;
        Ok(length)
    }

    /// Cuts the chunk at `length` (protocol R13) while it is fenced or joining; a larger one changes nothing. If the
    /// block that is cut through was bad, it stays detectably bad.
    ///
    /// # Errors
    /// As [`Chunk::write`]; `WrongVersion` for an installed one.
    pub fn truncate(&self, at: At, length: u64) -> Result<()> {
        self.disk.writable()?;
        let mut core = self.disk.write_core(&self.slot)?;
        self.expect(&core, at)?;
        if core.status.state == State::Installed {
            return Err(self.wrong_version(&core, At::Fenced(at.version())));
        }
        let old_length = core.status.length;
        if length >= old_length {
            return Ok(());
        }
        let file = self.file(&core)?;
        let first = (length / BLOCK_SIZE_BYTES) as u32;
        let blocks = block_count(old_length) - first;
        let mut entries = vec![0; blocks as usize];
        let mut damage = Damage::default();
        let kept = length % BLOCK_SIZE_BYTES;
        if kept > 0 {
            let before = self.table_entries(&file, first, 1)?[0];
            let mut block = vec![0; block_len(first, old_length) as usize];
            let sound =
                file.read_data(&mut block, u64::from(first) * BLOCK_SIZE_BYTES).is_ok() && crc::crc(&block) == before;
            let kept_crc = crc::crc(&block[..kept as usize]);
            // the part that goes may hold what was wrong, but nobody can tell
            entries[0] = if sound { kept_crc } else { !kept_crc };
            damage = Damage::of_blocks((!sound).then_some(first));
        }
        let intent = Intent {
            first_block: first,
            blocks,
        };
        // Here the head goes first with the new length: a kill after it must not leave a length beyond the file.
        core.status.length = length;
        self.change(&mut core, &file, intent, length, |file| {
            file.write_table(first, &entries)?;
            file.cut(length)
        })?;
        self.slot.seen(first..BLOCKS_PER_CHUNK as u32, &damage);
        Ok(())
    }

    /// Returns when all that was written before the call is on stable storage.
    ///
    /// # Errors
    /// `DiskFailed`, `ReadOnly`, `NotFound`, `Corrupt` (header), `TooManyFiles`.
    pub fn sync(&self) -> Result<()> {
        self.disk.writable()?;
        self.sync_changes()
    }

    fn sync_changes(&self) -> Result<()> {
        match self.begin_sync()? {
            Some(begun) => self.sync_begun(&begun),
            None => Ok(()),
        }
    }

    /// What a sync that is done from here on covers; none if everything is synced already.
    pub(super) fn begin_sync(&self) -> Result<Option<Begun>> {
        let core = self.read_made()?;
        core.present(self.handle())?;
        if core.all_synced() {
            return Ok(None);
        }
        Ok(Some(Begun {
            file: self.file(&core)?,
            changes: core.changes,
            mark: core.status.mark,
            unsynced_name: core.unsynced_name,
            header_stale: core.header_stale,
        }))
    }

    /// Syncs it by itself.
    pub(super) fn sync_begun(&self, begun: &Begun) -> Result<()> {
        begun.file.file.sync_data().map_err(|e| self.disk.sync_failed(&e))?;
        if let Some(name) = begun.unsynced_name {
            self.disk.sync_name(self.handle(), name)?;
        }
        self.end_sync(begun)
    }

    /// The file and its name were synced since.
    pub(super) fn end_sync(&self, begun: &Begun) -> Result<()> {
        let handle = self.handle();
        let mut core = self.disk.write_core(&self.slot)?;
        core.synced = core.synced.max(begun.changes);
        core.unsynced_name = None;
        if core.synced == core.changes {
            core.held = Held::Nothing;
            self.disk.note_synced(handle);
        }
        drop(core);
        if !begun.header_stale {
            // each change put a header without a mark into the file before its data
            self.disk.log.forget(handle, begun.mark);
        }
        Ok(())
    }

    /// Raises the version and fences, durably (protocol R2); it waits for the write that is under way. Fencing again at
    /// the same version is no error while it has not been installed at it. Everything written before is durable, too.
    ///
    /// # Errors
    /// `Superseded`, `Corrupt` (header), `ReadOnly`, `DiskFailed`, `NotFound`, `TooManyFiles`.
    pub fn fence(&self, version: Version) -> Result<ChunkInfo> {
        self.disk.writable()?;
        let handle = self.handle();
        let mut core = self.disk.write_core(&self.slot)?;
        core.present(handle)?;
        if !core.known {
            return Err(self.corrupt(Damage::default()));
        }
        let Status {
            version: has, state, ..
        } = core.status;
        if version < has || (version == has && state == State::Installed) {
            return Err(StoreError::Superseded {
                handle,
                state,
                version: has,
                ordered: version,
            });
        }
        let status = Status {
            version,
            state: State::Fenced,
            ..core.status
        };
        self.set_status(&mut core, status)?;
        drop(core);
        Ok(self.info())
    }

    /// From fenced at `version` to installed, durably and once (protocol R5); clears suspect. False if it was installed
    /// at it already: nothing happened.
    ///
    /// # Errors
    /// `WrongVersion`, `StillSuspect`, `ReadOnly`, `DiskFailed`, `NotFound`, `Corrupt` (header), `TooManyFiles`.
    pub fn install(&self, version: Version) -> Result<bool> {
        self.disk.writable()?;
        let mut core = self.disk.write_core(&self.slot)?;
        if self.expect(&core, At::Installed(version)).is_ok() {
            return Ok(false);
        }
        self.expect(&core, At::Fenced(version))?;
        if core.status.suspect && !core.recomputed {
            return Err(StoreError::StillSuspect { handle: self.handle() });
        }
        let status = Status {
            state: State::Installed,
            suspect: false,
            ..core.status
        };
        self.set_status(&mut core, status)?;
        core.recomputed = false;
        self.disk.not_absent(self.handle());
        Ok(true)
    }

    /// Length and stored checksums, for comparing (protocol R4). A suspect that is fenced computes them anew first, once.
    ///
    /// # Errors
    /// `WrongVersion`, `Corrupt` (header or table), `DiskFailed`, `NotFound`, `TooManyFiles`; of a suspect also
    /// `ReadOnly`, `NoSpace`.
    pub fn table(&self, at: At) -> Result<Table> {
        self.disk.readable()?;
        let core = self.read_made()?;
        self.expect(&core, at)?;
        if let At::Fenced(version) = at
            && core.status.suspect
            && !core.recomputed
        {
            drop(core);
            return self.recompute_table(version);
        }
        let file = self.file(&core)?;
        let length = core.status.length;
        let mut crcs = self.check_head(&core, &file, block_count(length))?;
        crcs.truncate(block_count(length) as usize);
        Ok(Table { length, crcs })
    }

    /// Computes all checksums anew from the data and stores them: for suspects, and for what an operator gives up. Only
    /// while fenced at `version`; it takes what is on the disk as right. Blocks that cannot be read get a checksum that
    /// they do not match.
    ///
    /// # Errors
    /// As [`Chunk::table`].
    pub fn recompute_table(&self, version: Version) -> Result<Table> {
        self.disk.writable()?;
        let mut core = self.disk.write_core(&self.slot)?;
        self.expect(&core, At::Fenced(version))?;
        let file = self.made(&mut core)?;
        self.begin(&mut core, &file, Intent::WHOLE)?;
        let status = core.status;
        match file.repair(&status, Intent::WHOLE) {
            Ok(unreadable) => self.slot.set_damage(Damage::of_blocks(unreadable)),
            Err(e) => {
                core.header_stale = true;
                return Err(self.disk.sync_failed(&e));
            }
        }
        core.recomputed = true;
        drop(core);
        self.table(At::Fenced(version))
    }

    /// Whether it can be marked clean, once it is synced.
    pub(super) fn markable(&self, idle: Duration) -> Result<Markable> {
        let core = self.disk.read_core(&self.slot)?;
        self.sound(&core)?;
        Ok(match () {
            () if core.status.clean => Markable::Marked,
            () if self.disk.clock.now().since(core.last_change) < idle => Markable::Later(core.last_change),
            () => Markable::Now,
        })
    }

    /// Marks the chunk clean if it is synced and was not changed for `idle`. The mark counts when the file that is returned
    /// was synced. `file`: the chunk's, from before it was synced.
    pub(super) fn mark(&self, idle: Duration, file: Option<Arc<ChunkFile>>) -> Result<Option<Arc<ChunkFile>>> {
        let mut core = self.disk.write_core(&self.slot)?;
        self.sound(&core)?;
        let busy = self.disk.clock.now().since(core.last_change) < idle;
        if core.status.clean || busy || !core.all_synced() {
            return Ok(None);
        }
        let file = match file {
            Some(file) => file,
            None => self.file(&core)?,
        };
        let status = Status {
            clean: true,
            mark: core.status.mark + 1,
            boot: self.disk.boot,
            ..core.status
        };
        // From here on the mark may become durable at any moment, so the next change must put it into the dirty log.
        core.status = status;
        core.header_stale = true;
        file.write_head(&status, None).map_err(|e| self.disk.sync_failed(&e))?;
        core.header_stale = false;
        self.disk.note_marked(self.handle());
        Ok(Some(file))
    }

    /// The table entries of every block that changes when `len` bytes with these checksums are written at `offset`; with
    /// none, when the chunk grows to `offset`. Reads the bytes that are replaced in part of a block, and nothing else.
    fn entries_after(
        &self,
        core: &Core,
        file: &ChunkFile,
        offset: u64,
        len: u64,
        crcs: &[u32],
    ) -> Result<(u32, Vec<u32>)> {
        let length = core.status.length;
        let end = offset + len;
        let new_length = length.max(end);
        let first_piece = (offset / BLOCK_SIZE_BYTES) as u32;
        let first = (offset.min(length) / BLOCK_SIZE_BYTES) as u32;
        let count = block_count(end) - first;
        let edit = |block: u32| {
            let at = (u64::from(block) * BLOCK_SIZE_BYTES).max(offset);
            let piece = block.checked_sub(first_piece).and_then(|i| crcs.get(i as usize));
            piece.map(|&new_crc| Overwrite {
                block_len: block_len(block, length),
                block_crc: 0,
                at: at % BLOCK_SIZE_BYTES,
                len: end.min(u64::from(block + 1) * BLOCK_SIZE_BYTES) - at,
                new_crc,
                replaced_crc: 0,
            })
        };
        // what a block held so far counts unless it is wholly replaced
        let old_counts = |block: u32| block_len(block, length) > 0 && edit(block).is_none_or(|o| !o.covers());
        let old = if old_counts(first) || old_counts(first + count - 1) {
            self.table_entries(file, first, count)?
        } else {
            vec![]
        };
        let mut entries = Vec::with_capacity(count as usize);
        for block in first..first + count {
            let held = block_len(block, length);
            let before = if held == 0 {
                0
            } else {
                old.get((block - first) as usize).copied().unwrap_or_default()
            };
            let Some(mut overwrite) = edit(block) else {
                entries.push(crc::extend_with_zeros(before, block_len(block, new_length) - held));
                continue;
            };
            overwrite.block_crc = before;
            if !overwrite.covers() && overwrite.replaced_len() > 0 {
                let mut replaced = vec![0; overwrite.replaced_len() as usize];
                let from = u64::from(block) * BLOCK_SIZE_BYTES + overwrite.at;
                file.read_data(&mut replaced, from)
                    .map_err(|_| self.corrupt(Damage::of_blocks([block])))?;
                overwrite.replaced_crc = crc::crc(&replaced);
            }
            entries.push(overwrite.result());
        }
        Ok((first, entries))
    }

    /// One change: intent, what `write` does, then the head with the new length. If the disk is full the chunk is as it
    /// was, with checksums of what it then holds.
    fn change(
        &self,
        core: &mut Core,
        file: &Arc<ChunkFile>,
        intent: Intent,
        length: u64,
        write: impl FnOnce(&ChunkFile) -> io::Result<()>,
    ) -> Result<()> {
        self.begin(core, file, intent)?;
        self.end_change(core, file, intent, length, write(file))
    }

    /// The end of a change of which everything is `written` but the head.
    fn end_change(
        &self,
        core: &mut Core,
        file: &Arc<ChunkFile>,
        intent: Intent,
        length: u64,
        written: io::Result<()>,
    ) -> Result<()> {
        let status = Status { length, ..core.status };
        match written.and_then(|()| file.write_head(&status, None)) {
            Ok(()) => {
                core.status = status;
                Ok(())
            }
            Err(e) => {
                let error = self.disk.failed("write", &e);
                if matches!(error, StoreError::NoSpace { .. }) {
                    match file.repair(&core.status, intent) {
                        Ok(unreadable) => self.slot.note(&Damage::of_blocks(unreadable)),
                        Err(e) => {
                            core.header_stale = true;
                            return Err(self.disk.sync_failed(&e));
                        }
                    }
                } else {
                    core.header_stale = true;
                }
                Err(error)
            }
        }
    }

    /// Makes the chunk dirty, durably where it was clean, and leaves the intent in the file.
    fn begin(&self, core: &mut Core, file: &Arc<ChunkFile>, intent: Intent) -> Result<()> {
        if core.status.clean {
            let recorded = self.disk.log.record(self.handle(), core.status.mark);
            recorded.map_err(|e| self.disk.sync_failed(&e))?;
        }
        core.status.clean = false;
        core.status.boot = self.disk.boot;
        core.last_change = self.disk.clock.now();
        if core.changes == core.synced {
            self.disk.note_write(self.handle(), core.last_change);
        }
        core.changes += 1;
        core.held = Held::File(file.clone());
        let after = intent.first_block + intent.blocks;
        self.disk.verified.forget(self.handle(), intent.first_block..after);
        match file.write_head(&core.status, Some(intent)) {
            Ok(()) => {
                core.header_stale = false;
                Ok(())
            }
            Err(e) => {
                // the page was written when the file was made: it needs no space, so no error of it is benign
                core.header_stale = true;
                Err(self.disk.sync_failed(&e))
            }
        }
    }

    /// Changes version or state alone, durably, and with it all that was written before.
    fn set_status(&self, core: &mut Core, status: Status) -> Result<()> {
        let handle = self.handle();
        let file = self.there(core)?;
        core.header_stale = true;
        let status = Status {
            boot: self.disk.boot,
            ..status
        };
        let synced = file.write_head(&status, None).and_then(|()| file.file.sync_data());
        synced.map_err(|e| self.disk.sync_failed(&e))?;
        if let Some(name) = core.unsynced_name {
            self.disk.sync_name(handle, name)?;
        }
        core.status = status;
        core.header_stale = false;
        core.unsynced_name = None;
        core.synced = core.changes;
        core.held = Held::Nothing;
        self.disk.note_synced(handle);
        if !status.clean {
            self.disk.log.forget(handle, status.mark);
        }
        Ok(())
    }

    /// Present, with a header that can be relied on.
    fn sound(&self, core: &Core) -> Result<()> {
        core.present(self.handle())?;
        let damaged = locked(&self.slot.damage).as_ref().is_some_and(|d| d.header.is_some());
        if damaged {
            return Err(self.corrupt(Damage::default()));
        }
        Ok(())
    }

    pub(super) fn expect(&self, core: &Core, at: At) -> Result<()> {
        self.sound(core)?;
        if core.status.version != at.version() || core.status.state != at.state() {
            return Err(self.wrong_version(core, at));
        }
        Ok(())
    }

    fn wrong_version(&self, core: &Core, wanted: At) -> StoreError {
        StoreError::WrongVersion {
            handle: self.handle(),
            state: core.status.state,
            version: core.status.version,
            wanted,
        }
    }

    /// Remembers the damage; the error says all that is known.
    pub(super) fn corrupt(&self, damage: Damage) -> StoreError {
        self.slot.note(&damage);
        StoreError::Corrupt {
            handle: self.handle(),
            damage: self.slot.damage(),
        }
    }

    pub(super) fn file(&self, core: &Core) -> Result<Arc<ChunkFile>> {
        self.file_or_fault(core)?
            .map_err(|fault| self.corrupt(Damage::of_header(fault)))
    }

    /// The open file of a chunk that has one (`make`). One that is opened now has its header judged.
    pub(super) fn file_or_fault(&self, core: &Core) -> Result<std::result::Result<Arc<ChunkFile>, HeaderFault>> {
        let handle = self.handle();
        if let Held::File(file) = &core.held {
            return Ok(Ok(file.clone()));
        }
        if let Some(file) = self.disk.cached_file(handle) {
            return Ok(Ok(file));
        }
        let owner = self.disk.owner(handle);
        let file = match self.disk.open_path(&chunk_path(handle)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Err(HeaderFault::NeverWritten)),
            Err(e) => return Err(self.disk.failed("open a chunk of", &e)),
        };
        let header = match read_head(&*file, owner) {
            Ok(Ok((header, _))) => header,
            Ok(Err(fault)) => return Ok(Err(fault)),
            Err(_) => return Ok(Err(HeaderFault::Unreadable)),
        };
        if core.known && !core.header_stale && header.status != core.status {
            return Ok(Err(HeaderFault::Lost));
        }
        let meta = header.meta;
        let file = Arc::new(ChunkFile { file, owner, meta });
        self.disk.cache_file(handle, &file);
        Ok(Ok(file))
    }

    pub(super) fn check_head(&self, core: &Core, file: &ChunkFile, blocks: u32) -> Result<Vec<u32>> {
        match self.read_and_judge(core, file, blocks) {
            Ok(Some(crcs)) => Ok(crcs),
            Ok(None) => Err(self.corrupt(Damage {
                table: true,
                ..Damage::default()
            })),
            Err(fault) => Err(self.corrupt(Damage::of_header(fault))),
        }
    }

    /// Reads the header as it is on the disk now and the checksums of blocks up to `blocks`, in one go. No checksums if
    /// the table is cut off.
    pub(super) fn read_and_judge(
        &self,
        core: &Core,
        file: &ChunkFile,
        blocks: u32,
    ) -> std::result::Result<Option<Vec<u32>>, HeaderFault> {
        let blocks = blocks.min(BLOCKS_PER_CHUNK as u32) as usize;
        let mut bytes = [0; DATA_OFFSET as usize];
        let want = match blocks {
            0 => SECTOR_BYTES,
            _ => TABLE_OFFSET as usize + 4 * blocks,
        };
        let read = file
            .file
            .read_at(&mut bytes[..want], 0)
            .map_err(|_| HeaderFault::Unreadable)?;
        let (sectors, _) = bytes.as_chunks::<SECTOR_BYTES>();
        let header = judge(&sectors[0], file.owner)?;
        if !core.header_stale && header.status != core.status {
            return Err(HeaderFault::Lost);
        }
        Ok((read == want).then(|| decode_table(&bytes[TABLE_OFFSET as usize..][..4 * blocks])))
    }

    fn table_entries(&self, file: &ChunkFile, first: u32, count: u32) -> Result<Vec<u32>> {
        let table = Damage {
            table: true,
            ..Damage::default()
        };
        match file.read_table(first, count) {
            Ok(Some(crcs)) => Ok(crcs),
            Ok(None) | Err(_) => Err(self.corrupt(table)),
        }
    }
}

/// The block that holds byte `end`, unless the chunk ends there: then the one after.
fn block_index_down(end: u64, length: u64) -> u32 {
    if end == length {
        block_count(end)
    } else {
        (end / BLOCK_SIZE_BYTES) as u32
    }
}

fn check_range(offset: u64, data: &[u8], crcs: &[u32]) -> Result<()> {
    let len = data.len() as u64;
    let fits = offset.checked_add(len).is_some_and(|end| end <= CHUNK_SIZE_BYTES);
    if !fits || block_pieces(offset, len).count() != crcs.len() {
        return Err(bad_range(offset, len, crcs.len()));
    }
    Ok(())
}

pub(super) fn bad_range(offset: u64, len: u64, checksums: usize) -> StoreError {
    StoreError::BadRange { offset, len, checksums }
}
