//! One disk of the store: which chunks it has, and what they share (floor, dirty log, index, open files, health).
use super::chunk::{Chunk, ChunkInfo, Core, Slot};
use super::error::{Damage, OpenError, StoreError};
use super::file::{ChunkFile, Owner};
use super::floor::Floor;
use super::format::{ChunkMeta, NAME_BYTES_MAX, State, Status, chunk_dir, chunk_path};
use super::index::{Digest, Index, MemoryIndex, SledIndex};
use super::journal::{self, DIRTY_FILE, DirtyLog};
use super::marks::{Unmarked, Unsynced};
use super::names::{Name, Names};
use super::recover::{self, io_error, is_read_only};
use super::stamp::{self, Identity, Stamp};
use super::verified::Verified;
use super::{Result, locked};
use cairn_io::{Boot, Clock, Disk, DiskFile, Space};
use cairn_types::{ChunkHandle, DiskId, Version};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use uuid::Uuid;

/// Chunks of which it is remembered that a fence found no replica; see [`DiskStore::absent_at`].
const ABSENT_REMEMBERED_MAX: usize = 65_536;
/// With so much left a disk does not fill up within [`SPACE_AGE_MAX`].
const MUCH_ROOM_BYTES: u64 = 8 << 30;
const SPACE_AGE_MAX: Duration = Duration::from_millis(200);

#[derive(Debug, Clone)]
pub struct DiskOptions {
    /// Share of the disk that new chunks leave free, in thousandths; 10 is 1 %.
    pub reserve_permille: u32,
    /// File descriptors kept open: a quarter for the chunks used last, the others for those with unsynced writes.
    pub open_files_max: usize,
    /// Directory of the sled index; none keeps the index in memory, and every start reads all headers.
    pub index_path: Option<PathBuf>,
    /// So many files at most are synced one by one; more by one sync of the whole disk.
    pub sync_each_max: usize,
}

impl DiskOptions {
    pub(super) fn cached_files_max(&self) -> usize {
        self.open_files_max / 4
    }

    pub(super) fn unsynced_max(&self) -> usize {
        self.open_files_max - self.cached_files_max()
    }
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self {
            reserve_permille: 10,
            open_files_max: 256,
            index_path: None,
            sync_each_max: 16,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskState {
    Healthy,
    /// Reads go on.
    ReadOnly,
    /// Nothing goes on until it is opened anew.
    Failed,
    /// Closed in order.
    Closed,
}

impl DiskState {
    const ALL: [DiskState; 4] = [
        DiskState::Healthy,
        DiskState::ReadOnly,
        DiskState::Failed,
        DiskState::Closed,
    ];
}

/// One disk. Cheap to clone. The directory is locked until the last clone and the last [`Chunk`] of it are dropped;
/// dropped without [`DiskStore::close`] it is as if the process had been killed.
#[derive(Clone)]
pub struct DiskStore(pub(super) Arc<Inner>);

/// Locks are taken in this order: a chunk's core, `chunks`, `floor`, then any of the others, none of which is held
/// while another is taken.
pub(super) struct Inner {
    pub disk: Arc<dyn Disk>,
    pub clock: Arc<dyn Clock>,
    pub boot: Uuid,
    pub stamp: Stamp,
    pub log: DirtyLog,
    pub verified: Verified,
    pub options: DiskOptions,
    health: AtomicU8,
    _lock: Box<dyn Send + Sync>,
    chunks: RwLock<BTreeMap<ChunkHandle, Arc<Slot>>>,
    floor: Mutex<Floor>,
    /// Bytes that new chunks may take, and when that was so.
    room: Mutex<Option<(u64, Boot)>>,
    /// See [`DiskStore::absent_at`].
    absent: Mutex<BTreeMap<ChunkHandle, Version>>,
    index: Box<dyn Index>,
    files: Mutex<FileCache>,
    pub unsynced: Mutex<Unsynced>,
    pub unmarked: Mutex<Unmarked>,
    pub names: Names,
    /// Chunks whose files are gone, which a power loss may bring back; and the highest mark then.
    pub unlinked: Mutex<BTreeMap<ChunkHandle, u64>>,
}

impl DiskStore {
    /// Stamps an empty directory (`lost+found` is allowed, and what an earlier format left that did not finish).
    ///
    /// # Errors
    /// `NotEmpty`, `AlreadyFormatted`, `InUse`, `StampDamaged`, `NewerFormat`, `Io`.
    pub fn format(disk: &dyn Disk, stamp: &Stamp) -> std::result::Result<(), OpenError> {
        stamp.format(disk)
    }

    /// Opens a formatted disk: repairs what a killed process left half done, and finds out which chunks are suspect.
    ///
    /// # Errors
    /// See [`OpenError`]. A bad chunk is no error: it is there as damaged.
    pub fn open(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        expected: &Identity,
        options: DiskOptions,
    ) -> std::result::Result<Self, OpenError> {
        // nothing of a disk that is not ours is touched, its index neither
        let (stamp, lock) = Self::take(&*disk, expected)?;
        let index: Box<dyn Index> = match options.index_path.as_deref().map(SledIndex::open_or_wipe) {
            None => Box::new(MemoryIndex::default()),
            Some(Ok(index)) => Box::new(index),
            Some(Err(e)) => {
                tracing::warn!(disk = disk.display(), error = %e, "no chunk index on this disk; starts will be slow");
                Box::new(MemoryIndex::default())
            }
        };
        Self::open_taken(disk, clock, stamp, lock, options, index)
    }

    /// [`DiskStore::open`] with an index of the caller's, in place of that of the options.
    ///
    /// # Errors
    /// As [`DiskStore::open`].
    pub fn open_with_index(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        expected: &Identity,
        options: DiskOptions,
        index: Box<dyn Index>,
    ) -> std::result::Result<Self, OpenError> {
        let (stamp, lock) = Self::take(&*disk, expected)?;
        Self::open_taken(disk, clock, stamp, lock, options, index)
    }

    fn take(disk: &dyn Disk, expected: &Identity) -> std::result::Result<(Stamp, Box<dyn Send + Sync>), OpenError> {
        let path = disk.display();
        let stamp = Stamp::read(disk)?.ok_or(OpenError::NotFormatted { path: path.clone() })?;
        stamp.check(&path, expected)?;
        Ok((stamp, stamp::lock(disk)?))
    }

    fn open_taken(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        stamp: Stamp,
        lock: Box<dyn Send + Sync>,
        options: DiskOptions,
        index: Box<dyn Index>,
    ) -> std::result::Result<Self, OpenError> {
        let boot = clock.boot_id();
        let at = |action, file| move |disk: &dyn Disk, e| io_error(disk, action, Path::new(file), e);
        let marker = recover::read_marker(&*disk)?;
        let log_file = disk
            .open(Path::new(DIRTY_FILE))
            .map_err(|e| at("open", DIRTY_FILE)(&*disk, e))?;
        let mut contents = journal::read(&*log_file, boot).map_err(|e| at("read", DIRTY_FILE)(&*disk, e))?;
        if marker.is_some() {
            // an orderly stop leaves nothing for it to say
            contents.forget_all();
        } else if contents.lost {
            tracing::error!(
                disk = disk.display(),
                "the dirty log is damaged or overflowed; chunks not written since the machine started count as suspect"
            );
        }
        let mut floor = Floor::open(&*disk, boot, marker.is_some())?;
        let loaded = recover::load(&*disk, &stamp, boot, &contents, marker, &*index)?;
        let log = DirtyLog::new(log_file, boot, &contents, loaded.needed);
        let mut read_only = loaded.read_only;
        if !read_only {
            let begun = log
                .begin()
                .and_then(|()| floor.settle_at_open(boot))
                // last: without it the next start would not trust what it finds
                .and_then(|()| recover::remove_marker(&*disk));
            match begun {
                Err(e) if is_read_only(&e) => read_only = true,
                other => other.map_err(|e| at("write", "")(&*disk, e))?,
            }
        }
        let now = clock.now();
        let mut unsynced = vec![];
        let mut chunks = BTreeMap::new();
        for (handle, found) in loaded.chunks {
            if found.unsynced {
                unsynced.push(handle);
            }
            let (core, damage) = Core::found(found, now);
            chunks.insert(handle, Slot::new(handle, core, damage));
        }
        let health = if read_only {
            DiskState::ReadOnly
        } else {
            DiskState::Healthy
        };
        if read_only {
            tracing::error!(
                disk = disk.display(),
                "the disk is read-only: its chunks are read and not written"
            );
        }
        let inner = Inner {
            clock,
            boot,
            stamp,
            log,
            verified: Verified::default(),
            health: AtomicU8::new(health as u8),
            _lock: lock,
            chunks: RwLock::new(chunks),
            floor: Mutex::new(floor),
            room: Mutex::default(),
            absent: Mutex::default(),
            index,
            files: Mutex::new(FileCache::new(options.cached_files_max())),
            unsynced: Mutex::default(),
            unmarked: Mutex::default(),
            names: Names::new(),
            unlinked: Mutex::default(),
            options,
            disk,
        };
        unsynced.into_iter().for_each(|handle| inner.note_write(handle, now));
        Ok(Self(Arc::new(inner)))
    }

    pub fn id(&self) -> DiskId {
        self.0.stamp.disk
    }
    pub fn stamp(&self) -> Stamp {
        self.0.stamp
    }
    /// The directory, for people.
    pub fn path(&self) -> String {
        self.0.disk.display()
    }
    pub fn state(&self) -> DiskState {
        self.0.state()
    }

    /// What the disk has in all and what new chunks may still take: the reserve is taken off.
    ///
    /// # Errors
    /// `DiskFailed`.
    pub fn space(&self) -> Result<Space> {
        self.0.readable()?;
        let space = self
            .0
            .disk
            .space()
            .map_err(|e| self.0.failed("ask for the space of", &e))?;
        let reserve = space.total_bytes / 1000 * u64::from(self.0.options.reserve_permille);
        Ok(Space {
            available_bytes: space.available_bytes.saturating_sub(reserve),
            ..space
        })
    }

    /// Nothing but the reserve is left. While there is much room the disk is asked a few times a second only.
    fn is_full(&self) -> Result<bool> {
        let now = self.0.clock.now();
        let known = *locked(&self.0.room);
        let available = match known {
            Some((bytes, at)) if bytes >= MUCH_ROOM_BYTES && now.since(at) < SPACE_AGE_MAX => bytes,
            _ => {
                let bytes = self.space()?.available_bytes;
                *locked(&self.0.room) = Some((bytes, now));
                bytes
            }
        };
        Ok(available == 0)
    }

    pub fn chunk_count(&self) -> usize {
        self.0.chunks.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Nothing at or below this version is created here.
    pub fn floor(&self) -> Version {
        locked(&self.0.floor).version()
    }

    /// Raises the floor, durably; a lower version is no error and changes nothing.
    ///
    /// # Errors
    /// `ReadOnly`, `DiskFailed`.
    pub fn raise_floor(&self, version: Version) -> Result<()> {
        self.0.writable()?;
        self.0.raise_floor(version)
    }

    /// The machine lost power, or the floor was lost, and the floor has not been raised to the master's current version
    /// since: until [`DiskStore::settle_unclean_start`] nothing is created here. Survives restarts.
    pub fn unclean_start(&self) -> bool {
        !locked(&self.0.floor).settled()
    }

    /// Raises the floor to the master's current version after an unclean start (protocol R10), durably.
    ///
    /// # Errors
    /// `ReadOnly`, `DiskFailed`.
    pub fn settle_unclean_start(&self, current: Version) -> Result<()> {
        self.0.writable()?;
        let settled = locked(&self.0.floor).settle(current, self.0.boot);
        settled.map_err(|e| self.0.failed("write the floor of", &e))
    }

    /// Creates an empty chunk: `Installed` by a grant, only above the floor (protocol R10); `Joining` to be filled for a
    /// copy, or `Fenced`, at any version; one that is made fenced is suspect until it is installed, since a member that
    /// is only half filled must not pass for a source later. It survives a kill from its first change on, and is durable
    /// after its first sync (or fence): its file is made with what comes first.
    ///
    /// # Errors
    /// `Exists`, `BelowFloor`, `FloorUnsettled`, `NoSpace` (nothing but the reserve is left), `ReadOnly`, `DiskFailed`.
    pub fn create(&self, handle: ChunkHandle, version: Version, state: State, meta: &ChunkMeta) -> Result<Chunk> {
        let inner = &self.0;
        inner.writable()?;
        if self.is_full()? {
            return Err(StoreError::NoSpace { disk: self.id() });
        }
        let status = Status {
            version,
            state,
            length: 0,
            clean: false,
            mark: inner.log.mark_base(),
            suspect: state == State::Fenced,
            boot: inner.boot,
        };
        let mut meta = meta.clone();
        meta.name.truncate(NAME_BYTES_MAX);
        let slot = Slot::new(handle, Core::new(status, meta, inner.clock.now()), Damage::default());
        let chunk = Chunk {
            disk: inner.clone(),
            slot: slot.clone(),
        };
        let mut core = inner.write_core(&slot)?;
        {
            let mut chunks = inner.chunks.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(there) = chunks.get(&handle).cloned() {
                drop(chunks);
                drop(core);
                let version = inner.read_core(&there)?.status.version;
                return Err(StoreError::Exists { handle, version });
            }
            chunks.insert(handle, slot.clone());
        }
        // The slot is in place before the floor is looked at: a fence that comes in between finds it, or has raised the
        // floor already.
        if let Err(e) = inner.allowed(handle, version, state) {
            core.remove();
            inner.forget(handle);
            return Err(e);
        }
        if state != State::Fenced {
            inner.not_absent(handle);
        }
        inner.note_write(handle, inner.clock.now());
        drop(core);
        Ok(chunk)
    }

    /// # Errors
    /// `NotFound`, `DiskFailed`. A damaged chunk is found.
    pub fn chunk(&self, handle: ChunkHandle) -> Result<Chunk> {
        self.0.readable()?;
        let slot = self.0.slot(handle).ok_or(StoreError::NotFound { handle })?;
        let disk = self.0.clone();
        Ok(Chunk { disk, slot })
    }

    /// [`Chunk::fence`]; of a chunk that is not here it raises the floor to `version`, durably, before it says `NotFound`
    /// (protocol R10).
    ///
    /// # Errors
    /// As [`Chunk::fence`], and `NotFound`.
    pub fn fence(&self, handle: ChunkHandle, version: Version) -> Result<ChunkInfo> {
        self.0.writable()?;
        let floor = self.floor();
        if self.0.slot(handle).is_none() {
            self.0.raise_floor(version)?;
        }
        // looked up again: a create that passed the floor before it was raised is in place by now
        let fenced = self.chunk(handle).and_then(|chunk| chunk.fence(version));
        if let Err(StoreError::NotFound { .. }) = &fenced {
            // after a create that failed, or an unlink, in between
            self.0.raise_floor(version)?;
            let mut absent = locked(&self.0.absent);
            if absent.len() >= ABSENT_REMEMBERED_MAX {
                // whoever asks for it is told that it is unknown
                absent.pop_first();
            }
            absent.entry(handle).or_insert(floor);
        }
        fenced
    }

    /// The disk's floor when a fence first found no replica of the chunk here, in this process, if nothing has been here
    /// since but what reconfigurations have made and not installed. Below the version that the chunk was created with, it
    /// proves that there was none at that version, however often the chunk is fenced (protocol R10).
    pub fn absent_at(&self, handle: ChunkHandle) -> Option<Version> {
        locked(&self.0.absent).get(&handle).copied()
    }

    /// Deletes the replica if its version is not above `version` (protocol R7). The floor is raised durably first. The
    /// file's absence is durable with the next round of [`DiskStore::write_clean_marks`]: after a power loss before that
    /// the chunk may be back, with everything that says whether it is suspect, to be deleted again.
    ///
    /// # Errors
    /// `Superseded`, `NotFound`, `ReadOnly`, `DiskFailed`.
    pub fn unlink(&self, handle: ChunkHandle, version: Version) -> Result<()> {
        let inner = &self.0;
        inner.writable()?;
        let slot = inner.slot(handle).ok_or(StoreError::NotFound { handle })?;
        let mut core = inner.write_core(&slot)?;
        if core.removed {
            return Err(StoreError::NotFound { handle });
        }
        let Status {
            version: has, state, ..
        } = core.status;
        if has > version {
            return Err(StoreError::Superseded {
                handle,
                state,
                version: has,
                ordered: version,
            });
        }
        // of a damaged header the version is not known, but the order's is not below it
        inner.raise_floor(if core.status_known() { has } else { version })?;
        match inner.disk.remove(&chunk_path(handle)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(inner.failed("remove a chunk of", &e)),
            _ => {}
        }
        core.remove();
        inner.not_absent(handle);
        locked(&inner.unlinked).insert(handle, inner.log.mark_base());
        inner.forget(handle);
        Ok(())
    }

    /// Up to `limit` chunks in the order of their handles, those after `after` if given. It waits for writes under way.
    pub fn inventory(&self, after: Option<ChunkHandle>, limit: usize) -> Vec<ChunkInfo> {
        let slots: Vec<_> = {
            let chunks = self.0.chunks.read().unwrap_or_else(PoisonError::into_inner);
            let range = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
            chunks.range(range).take(limit).map(|(_, slot)| slot.clone()).collect()
        };
        slots.iter().map(|slot| slot.info()).collect()
    }

    /// The chunk to scrub after this one, in the order of the handles; none at the end.
    pub fn scrub_next(&self, after: Option<ChunkHandle>) -> Option<ChunkHandle> {
        let chunks = self.0.chunks.read().unwrap_or_else(PoisonError::into_inner);
        let range = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        chunks.range(range).next().map(|(&handle, _)| handle)
    }

    /// Background work, every second or so: syncs chunks not written for `idle`, marks them clean and syncs the marks. How
    /// many chunks were marked.
    ///
    /// # Errors
    /// `ReadOnly`, `DiskFailed`.
    pub fn write_clean_marks(&self, idle: Duration) -> Result<usize> {
        self.0.writable()?;
        self.0.mark_round(idle)
    }

    /// Orderly end: syncs and marks every chunk, writes the index and leaves the marker that makes the next start fast.
    /// All later calls on it fail with `DiskFailed`. Logs what goes wrong; the next start then reads all headers.
    pub fn close(&self) {
        let closed = self.0.health.compare_exchange(
            DiskState::Healthy as u8,
            DiskState::Closed as u8,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        if closed.is_err() {
            return;
        }
        if let Err(e) = self.0.settle_all() {
            tracing::error!(disk = self.path(), error = %e, "the disk was not closed in order");
        }
    }
}

impl Inner {
    pub fn state(&self) -> DiskState {
        DiskState::ALL[usize::from(self.health.load(Ordering::Acquire)) % DiskState::ALL.len()]
    }

    pub fn readable(&self) -> Result<()> {
        match self.state() {
            DiskState::Healthy | DiskState::ReadOnly => Ok(()),
            DiskState::Failed | DiskState::Closed => Err(StoreError::DiskFailed { disk: self.stamp.disk }),
        }
    }

    pub fn writable(&self) -> Result<()> {
        match self.state() {
            DiskState::Healthy => Ok(()),
            DiskState::ReadOnly => Err(StoreError::ReadOnly { disk: self.stamp.disk }),
            DiskState::Failed | DiskState::Closed => Err(StoreError::DiskFailed { disk: self.stamp.disk }),
        }
    }

    /// What becomes of the disk after a write that failed: one error of the device, and nothing on it is believed.
    pub fn failed(&self, action: &'static str, e: &io::Error) -> StoreError {
        let disk = self.stamp.disk;
        if is_full(e) {
            return StoreError::NoSpace { disk };
        }
        // EMFILE, ENFILE: this process has too many files open, which says nothing of the disk
        if matches!(e.raw_os_error(), Some(23 | 24)) {
            return StoreError::TooManyFiles;
        }
        let (state, error) = if is_read_only(e) {
            (DiskState::ReadOnly, StoreError::ReadOnly { disk })
        } else {
            (DiskState::Failed, StoreError::DiskFailed { disk })
        };
        self.worsen(state, action, e);
        error
    }

    /// After a sync that failed nothing can be said of the bytes, whatever the error: never retried.
    pub fn sync_failed(&self, e: &io::Error) -> StoreError {
        self.worsen(DiskState::Failed, "sync", e);
        StoreError::DiskFailed { disk: self.stamp.disk }
    }

    fn worsen(&self, state: DiskState, action: &'static str, e: &io::Error) {
        let before = self.health.fetch_max(state as u8, Ordering::AcqRel);
        if before < state as u8 {
            let path = self.disk.display();
            tracing::error!(disk = path, id = %self.stamp.disk, error = %e, "cannot {action} the disk: it is now {state:?}");
        }
    }

    pub fn slot(&self, handle: ChunkHandle) -> Option<Arc<Slot>> {
        self.chunks
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&handle)
            .cloned()
    }

    pub fn owner(&self, handle: ChunkHandle) -> Owner {
        Owner {
            cluster: self.stamp.cluster,
            disk: self.stamp.disk,
            handle,
        }
    }

    pub fn not_absent(&self, handle: ChunkHandle) {
        locked(&self.absent).remove(&handle);
    }

    pub fn raise_floor(&self, version: Version) -> Result<()> {
        let raised = locked(&self.floor).raise(version);
        raised.map_err(|e| self.failed("write the floor of", &e))
    }

    /// May a chunk be created at this version (protocol R10)?
    fn allowed(&self, handle: ChunkHandle, version: Version, state: State) -> Result<()> {
        if state != State::Installed {
            // it will be compared with the source before anybody trusts it
            return Ok(());
        }
        let floor = locked(&self.floor);
        if !floor.settled() {
            return Err(StoreError::FloorUnsettled { disk: self.stamp.disk });
        }
        if version <= floor.version() {
            return Err(StoreError::BelowFloor {
                handle,
                version,
                floor: floor.version(),
            });
        }
        Ok(())
    }

    /// The chunk is no longer here.
    pub fn forget(&self, handle: ChunkHandle) {
        let mut chunks = self.chunks.write().unwrap_or_else(PoisonError::into_inner);
        chunks.remove(&handle);
        drop(chunks);
        locked(&self.files).remove(handle);
        self.note_synced(handle);
        self.note_marked(handle);
    }

    /// A new file with what `write` writes, or none.
    pub fn make_file(
        &self,
        handle: ChunkHandle,
        meta: &ChunkMeta,
        write: impl FnOnce(&ChunkFile) -> io::Result<()>,
    ) -> Result<Arc<ChunkFile>> {
        let path = chunk_path(handle);
        let create = || self.with_room_for_files(|| self.disk.create(&path));
        let file = create().map_err(|e| match e.kind() {
            // a file that was not there when the disk was opened: not ours to overwrite
            io::ErrorKind::AlreadyExists => StoreError::Exists {
                handle,
                version: Version::ZERO,
            },
            _ => self.failed("create a chunk on", &e),
        })?;
        let (owner, meta) = (self.owner(handle), meta.clone());
        let file = Arc::new(ChunkFile { file, owner, meta });
        if let Err(e) = write(&file) {
            let error = self.failed("write a chunk on", &e);
            if let Err(e) = self.disk.remove(&path) {
                return Err(self.failed("remove a chunk of", &e));
            }
            return Err(error);
        }
        locked(&self.files).insert(handle, file.clone());
        Ok(file)
    }

    /// Tries again without the cache's files when there are too many open.
    fn with_room_for_files(&self, open: impl Fn() -> io::Result<Arc<dyn DiskFile>>) -> io::Result<Arc<dyn DiskFile>> {
        match open() {
            Err(e) if matches!(e.raw_os_error(), Some(23 | 24)) => {
                locked(&self.files).clear();
                open()
            }
            other => other,
        }
    }

    pub fn open_path(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.with_room_for_files(|| self.disk.open(path))
    }

    pub fn cached_file(&self, handle: ChunkHandle) -> Option<Arc<ChunkFile>> {
        locked(&self.files).get(handle)
    }
    pub fn cache_file(&self, handle: ChunkHandle, file: &Arc<ChunkFile>) {
        locked(&self.files).insert(handle, file.clone());
    }

    pub fn name_made(&self, handle: ChunkHandle) -> Name {
        self.names.made(handle)
    }

    /// Syncs the directory that names the chunk, unless that was done for another since it has got its name.
    pub fn sync_name(&self, handle: ChunkHandle, name: Name) -> Result<()> {
        match self.names.is_synced(handle, name) {
            true => Ok(()),
            false => self.sync_dir_of(handle),
        }
    }

    pub fn sync_dir_of(&self, handle: ChunkHandle) -> Result<()> {
        let sync = || self.disk.sync_dir(&chunk_dir(handle));
        self.names.sync(handle, sync).map_err(|e| self.sync_failed(&e))
    }

    /// All of `close` after new operations are refused.
    fn settle_all(self: &Arc<Self>) -> std::result::Result<(), CloseError> {
        self.settle_unlinks()?;
        let handles: Vec<ChunkHandle> = self
            .chunks
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .keys()
            .copied()
            .collect();
        let clean = |handle: &ChunkHandle| self.slot(*handle)?.status().filter(|status| status.clean);
        let others: Vec<_> = handles
            .iter()
            .copied()
            .filter(|handle| clean(handle).is_none())
            .collect();
        self.mark_all(&others, Duration::ZERO)?;
        let mut digest = Digest::default();
        let mut whole = true;
        for handle in &handles {
            match clean(handle) {
                Some(status) => digest.add(*handle, &status),
                // the next start looks at its header again
                None => whole = false,
            }
        }
        let statuses = handles
            .iter()
            .filter_map(|&handle| Some((handle, self.slot(handle)?.status()?)));
        if let Err(e) = self.index.replace(&mut { statuses }) {
            tracing::warn!(disk = self.disk.display(), error = %e, "the chunk index cannot be written");
        }
        if !whole {
            // matches no index, so that every header is read
            digest = Digest {
                count: u64::MAX,
                sum: 0,
            };
        }
        recover::write_marker(&*self.disk, digest)?;
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
enum CloseError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Marker(#[from] OpenError),
}

fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Open files of chunks, those used last.
struct FileCache {
    max: usize,
    clock: u64,
    files: FxHashMap<ChunkHandle, (Arc<ChunkFile>, u64)>,
    by_use: BTreeMap<u64, ChunkHandle>,
}

impl FileCache {
    fn new(max: usize) -> Self {
        Self {
            max: max.max(1),
            clock: 0,
            files: FxHashMap::default(),
            by_use: BTreeMap::new(),
        }
    }

    fn get(&mut self, handle: ChunkHandle) -> Option<Arc<ChunkFile>> {
        let (file, used) = self.files.get_mut(&handle)?;
        self.clock += 1;
        self.by_use.remove(used);
        self.by_use.insert(self.clock, handle);
        *used = self.clock;
        Some(file.clone())
    }

    fn insert(&mut self, handle: ChunkHandle, file: Arc<ChunkFile>) {
        self.remove(handle);
        while self.files.len() >= self.max
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.files.remove(&oldest);
        }
        self.clock += 1;
        self.by_use.insert(self.clock, handle);
        self.files.insert(handle, (file, self.clock));
    }

    fn remove(&mut self, handle: ChunkHandle) {
        if let Some((_, used)) = self.files.remove(&handle) {
            self.by_use.remove(&used);
        }
    }

    fn clear(&mut self) {
        self.files.clear();
        self.by_use.clear();
    }
}
