//! The dirty log: which chunks with a durable clean mark were written again.
//!
//! A chunk becomes clean by a mark in its own header, and dirty by a record here that is durable before the first byte
//! of it changes. One log for the disk lets many chunks share one fdatasync (group commit); a chunk that is new or
//! dirty already needs no record at all. A record (chunk, mark) overrules the clean marks of that chunk up to `mark`,
//! and is needed until a header without that mark is durable, which the chunk's next sync sees to.
//!
//! The file has two areas of fixed size that are written in turn, so that nothing here needs space on a full disk. When
//! one is full, what is still needed goes to the other under the next generation. A record says how many records were
//! durable before it: a gap among those is damage, one after them is what a power loss may do.
use super::crc::crc;
use super::error::OpenError;
use super::format::{get_u32, get_u64, get_uuid, put};
use super::recover::io_error;
use cairn_io::{Disk, DiskFile};
use cairn_types::ChunkHandle;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use uuid::Uuid;

pub const DIRTY_FILE: &str = "dirty-log";
const RECORD_BYTES: usize = 64;
const AREA_BYTES: usize = 256 << 10;
/// Slot 0 of an area is its own record.
const RECORDS_PER_AREA: u32 = (AREA_BYTES / RECORD_BYTES) as u32 - 1;
const AREA_MAGIC: [u8; 4] = *b"CDLa";
const RECORD_MAGIC: [u8; 4] = *b"CDLr";
/// Stands for every chunk of the disk.
const EVERY_CHUNK: ChunkHandle = ChunkHandle(u64::MAX);

const _: () = assert!(512 % RECORD_BYTES == 0);

/// A clean mark that no longer counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dirty {
    pub mark: u64,
    /// The machine's boot in which the chunk was written again.
    pub boot: Uuid,
}

#[derive(Debug, Clone, Copy)]
struct Record {
    magic: [u8; 4],
    slot: u32,
    /// Slots below this one were durable when the record was written.
    durable_below: u32,
    generation: u64,
    handle: ChunkHandle,
    dirty: Dirty,
}

impl Record {
    fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        put(&mut bytes, 0, &self.magic);
        put(&mut bytes, 4, &self.slot.to_le_bytes());
        put(&mut bytes, 8, &self.durable_below.to_le_bytes());
        put(&mut bytes, 16, &self.generation.to_le_bytes());
        put(&mut bytes, 24, &self.handle.0.to_le_bytes());
        put(&mut bytes, 32, &self.dirty.mark.to_le_bytes());
        put(&mut bytes, 40, self.dirty.boot.as_bytes());
        let sum = crc(&bytes[..60]);
        put(&mut bytes, 60, &sum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8], magic: [u8; 4], slot: u32) -> Option<Self> {
        let sound = bytes[..4] == magic && get_u32(bytes, 4) == slot && get_u32(bytes, 60) == crc(&bytes[..60]);
        sound.then(|| Record {
            magic,
            slot,
            durable_below: get_u32(bytes, 8),
            generation: get_u64(bytes, 16),
            handle: ChunkHandle(get_u64(bytes, 24)),
            dirty: Dirty {
                mark: get_u64(bytes, 32),
                boot: get_uuid(bytes, 40),
            },
        })
    }
}

/// Writes the log of a disk that is being formatted.
pub(super) fn create(disk: &dyn Disk) -> Result<(), OpenError> {
    let path = Path::new(DIRTY_FILE);
    let write = || {
        let file = disk.create(path)?;
        // written, not only extended: a record must never need space
        file.write_at(&vec![0; 2 * AREA_BYTES], 0)?;
        file.sync_data()?;
        switch(&*file, 1, &BTreeMap::new())
    };
    write().map_err(|e| io_error(disk, "write", path, e))
}

/// What a log says when it is opened.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub dirty: BTreeMap<ChunkHandle, Dirty>,
    /// It cannot be trusted to be whole, or says itself that it could not hold everything: no clean mark of another
    /// boot counts.
    pub lost: bool,
    generation: u64,
    mark_max: u64,
}

impl Contents {
    /// After an orderly stop every mark counts.
    pub fn forget_all(&mut self) {
        self.dirty.clear();
        self.lost = false;
    }
}

/// Reads a log as some earlier process left it.
pub(super) fn read(file: &dyn DiskFile, boot: Uuid) -> io::Result<Contents> {
    let mut bytes = vec![0; 2 * AREA_BYTES];
    let len = file.read_at(&mut bytes, 0)?;
    let mut contents = Contents {
        lost: len < bytes.len(),
        ..Contents::default()
    };
    let mut newest: Option<(Record, &[u8])> = None;
    for area in bytes.chunks_exact(AREA_BYTES) {
        match Record::decode(&area[..RECORD_BYTES], AREA_MAGIC, 0) {
            Some(head) if newest.is_none_or(|(n, _)| n.generation < head.generation) => newest = Some((head, area)),
            Some(_) => {}
            None => contents.lost |= area[..RECORD_BYTES].iter().any(|&b| b != 0),
        }
    }
    let Some((head, area)) = newest else {
        contents.lost = true;
        return Ok(contents);
    };
    contents.generation = head.generation;
    let mut present = vec![true];
    let mut durable_below = head.durable_below;
    for (slot, bytes) in area.chunks_exact(RECORD_BYTES).enumerate().skip(1) {
        let record = Record::decode(bytes, RECORD_MAGIC, slot as u32).filter(|r| r.generation == head.generation);
        present.push(record.is_some());
        let Some(record) = record else { continue };
        durable_below = durable_below.max(record.durable_below);
        if record.handle == EVERY_CHUNK {
            // in the same boot every write is still there, and the headers say so themselves
            contents.lost |= record.dirty.boot != boot;
        } else {
            contents.mark_max = contents.mark_max.max(record.dirty.mark);
            contents.dirty.insert(record.handle, record.dirty);
        }
    }
    let durable = present.iter().take(durable_below as usize);
    contents.lost |= durable.clone().count() < durable_below as usize || !durable.fold(true, |all, p| all & p);
    Ok(contents)
}

/// Begins a generation that holds `needed` alone. Durable when it returns.
fn switch(file: &dyn DiskFile, generation: u64, needed: &BTreeMap<ChunkHandle, Dirty>) -> io::Result<()> {
    let start = generation % 2 * AREA_BYTES as u64;
    let records: Vec<u8> = (1..)
        .zip(needed)
        .flat_map(|(slot, (&handle, &dirty))| {
            let record = Record {
                magic: RECORD_MAGIC,
                slot,
                durable_below: slot,
                generation,
                handle,
                dirty,
            };
            record.encode()
        })
        .collect();
    if !records.is_empty() {
        file.write_at(&records, start + RECORD_BYTES as u64)?;
        // the area counts from the moment that its head is there, so that comes after all else
        file.sync_data()?;
    }
    let head = Record {
        magic: AREA_MAGIC,
        slot: 0,
        durable_below: needed.len() as u32 + 1,
        generation,
        handle: ChunkHandle(0),
        dirty: Dirty {
            mark: 0,
            boot: Uuid::nil(),
        },
    };
    file.write_at(&head.encode(), start)?;
    file.sync_data()
}

pub(super) struct DirtyLog {
    file: Arc<dyn DiskFile>,
    boot: Uuid,
    /// Records that an area may hold; less than it could in tests.
    capacity: u32,
    state: Mutex<State>,
    synced: Condvar,
}

struct State {
    generation: u64,
    next_slot: u32,
    /// Slots below this one are durable.
    durable_below: u32,
    /// Somebody is in fdatasync, without the lock.
    syncing: bool,
    /// A write or sync failed: nothing can be said any more.
    failed: bool,
    /// The log says EVERY_CHUNK, because `needed` does not fit.
    every_chunk: bool,
    needed: BTreeMap<ChunkHandle, Dirty>,
    mark_max: u64,
}

impl DirtyLog {
    /// Goes on from what `read` found; of that, only `needed` still counts. Writes nothing until `begin`.
    pub fn new(file: Arc<dyn DiskFile>, boot: Uuid, contents: &Contents, needed: BTreeMap<ChunkHandle, Dirty>) -> Self {
        Self {
            file,
            boot,
            capacity: RECORDS_PER_AREA,
            state: Mutex::new(State {
                generation: contents.generation,
                next_slot: 1,
                durable_below: 1,
                syncing: false,
                failed: false,
                every_chunk: false,
                needed,
                mark_max: contents.mark_max,
            }),
            synced: Condvar::new(),
        }
    }

    /// Begins a generation of this process's own.
    pub fn begin(&self) -> io::Result<()> {
        let mut state = self.lock();
        self.compact(&mut state)
    }

    /// Returns when the record is durable: from then on the chunk may be changed.
    pub fn record(&self, handle: ChunkHandle, mark: u64) -> io::Result<()> {
        let mut state = self.lock();
        let dirty = Dirty { mark, boot: self.boot };
        state.needed.insert(handle, dirty);
        state.mark_max = state.mark_max.max(mark);
        if state.every_chunk {
            if state.needed.len() as u32 > self.capacity / 4 {
                return Ok(());
            }
            return self.compact(&mut state);
        }
        if state.next_slot > self.capacity {
            while state.syncing {
                state = self.wait(state);
            }
            if state.next_slot > self.capacity {
                // holds this record too
                return self.compact(&mut state);
            }
        }
        let slot = state.next_slot;
        let generation = state.generation;
        let record = Record {
            magic: RECORD_MAGIC,
            slot,
            durable_below: state.durable_below,
            generation,
            handle,
            dirty,
        };
        self.check(&state)?;
        let at = generation % 2 * AREA_BYTES as u64 + u64::from(slot) * RECORD_BYTES as u64;
        let written = self.file.write_at(&record.encode(), at);
        self.note(&mut state, written)?;
        state.next_slot += 1;
        // group commit: one of those who wait syncs for all who have written
        loop {
            self.check(&state)?;
            if state.generation != generation || state.durable_below > slot {
                return Ok(());
            }
            if state.syncing {
                state = self.wait(state);
                continue;
            }
            state.syncing = true;
            let covered = state.next_slot;
            drop(state);
            let result = self.file.sync_data();
            state = self.lock();
            state.syncing = false;
            self.synced.notify_all();
            self.note(&mut state, result)?;
            if state.generation == generation {
                state.durable_below = state.durable_below.max(covered);
            }
        }
    }

    /// A header without the clean mark `mark` is durable, or the chunk is gone: its record is no longer needed.
    pub fn forget(&self, handle: ChunkHandle, mark: u64) {
        let mut state = self.lock();
        if state.needed.get(&handle).is_some_and(|d| d.mark <= mark) {
            state.needed.remove(&handle);
        }
    }

    /// Marks above this one are overruled by no record of the log: what a new chunk counts from, since its handle may
    /// have been on this disk before.
    pub fn mark_base(&self) -> u64 {
        self.lock().mark_max
    }

    fn compact(&self, state: &mut MutexGuard<'_, State>) -> io::Result<()> {
        self.check(state)?;
        let generation = state.generation + 1;
        let every_chunk = state.needed.len() as u32 > self.capacity / 4 * 3;
        let result = if every_chunk {
            let dirty = Dirty {
                mark: u64::MAX,
                boot: self.boot,
            };
            switch(&*self.file, generation, &BTreeMap::from([(EVERY_CHUNK, dirty)]))
        } else {
            switch(&*self.file, generation, &state.needed)
        };
        self.note(state, result)?;
        state.every_chunk = every_chunk;
        state.generation = generation;
        state.next_slot = if every_chunk { 2 } else { state.needed.len() as u32 + 1 };
        state.durable_below = state.next_slot;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, guard: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.synced.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    /// After one failure every call fails: the kernel may have dropped what it could not write.
    fn check(&self, state: &State) -> io::Result<()> {
        if state.failed {
            return Err(io::Error::other("the dirty log failed before"));
        }
        Ok(())
    }

    fn note(&self, state: &mut State, result: io::Result<()>) -> io::Result<()> {
        state.failed |= result.is_err();
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_io::sim::{SimDisk, Trace};

    /// A record that was durable and is gone means damage; one that was the last to be written may never have been.
    #[test]
    fn a_gap_is_damage_and_a_torn_end_is_not() {
        let boot = Uuid::from_u128(1);
        for (broken, lost) in [
            (None, false),
            (Some(1), true),
            (Some(2), true),
            (Some(3), false),
            (Some(0), true),
        ] {
            let disk = SimDisk::new("disk", Trace::default());
            create(&disk).unwrap();
            let file = disk.open(Path::new(DIRTY_FILE)).unwrap();
            let contents = read(&*file, boot).unwrap();
            assert!(contents.dirty.is_empty() && !contents.lost);
            let log = DirtyLog::new(file.clone(), boot, &contents, BTreeMap::new());
            log.begin().unwrap();
            for n in 1..=3 {
                log.record(ChunkHandle(n), 10 * n).unwrap();
            }
            assert_eq!(log.mark_base(), 30);
            let area = contents.generation.wrapping_add(1) % 2 * AREA_BYTES as u64;
            if let Some(slot) = broken {
                assert!(disk.flip(DIRTY_FILE, (area + slot * RECORD_BYTES as u64 + 33) * 8));
            }
            let found = read(&*file, boot).unwrap();
            assert_eq!(found.lost, lost, "{broken:?}");
            if let Some(slot @ 1..) = broken {
                assert!(!found.dirty.contains_key(&ChunkHandle(slot)));
            } else if broken.is_none() {
                assert_eq!(found.dirty.get(&ChunkHandle(2)), Some(&Dirty { mark: 20, boot }));
            }
        }
    }
}
