//! A disk in memory that knows what is on stable storage and what is not.
//!
//! Everything is there twice: as processes see it, and as it would be found after a power loss. What lies between is
//! kept as lists in order: writes of each file, and changes of names. A sync moves its part of the list over; a power
//! loss moves any part: each 512 B sector of each write may have reached the disk or not, each change of a name
//! likewise (a rename as one), but none without the earlier ones on the same name. Stricter than any one file system,
//! no stricter than what POSIX says: a new file's or directory's own name takes a sync of the directory above it.
use super::fault::{Effect, Fault, Op, eio, enospc};
use super::hold::{Gate, Hold};
use super::pages::{PAGE_BYTES, Pages};
use super::trace::{Trace, hash};
use crate::{Disk, DiskFile, Space};
use rand::{Rng, RngCore, SeedableRng};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const SECTOR_BYTES: usize = 512;
const CAPACITY_BYTES: u64 = 1 << 40;

/// A simulated disk, as one process has it. Clones are the same process's; [`SimDisk::mount`] gives it to the next
/// one, after [`SimDisk::kill`] or [`SimDisk::power_loss`] has ended every process before.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    name: Arc<str>,
    /// Which process: operations of one that is dead fail.
    life: u64,
    gate: Arc<Gate>,
}

struct State {
    life: u64,
    trace: Trace,
    files: BTreeMap<u64, Inode>,
    next_file: u64,
    names: BTreeMap<PathBuf, Entry>,
    durable_names: BTreeMap<PathBuf, Entry>,
    /// Changes of names not yet durable, in order; each happens as a whole.
    pending: Vec<Vec<(PathBuf, Option<Entry>)>>,
    locked_by: Option<u64>,
    locks: u64,
    faults: Vec<Fault>,
    capacity_pages: u64,
    /// Of files that have a name.
    used_pages: u64,
    read_only: bool,
    no_op_fsync: bool,
    /// Changes still let through before the machine stops dead.
    stop_after: Option<u64>,
    /// Changes made so far.
    changes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Entry {
    File(u64),
    Directory,
}

#[derive(Default)]
struct Inode {
    bytes: Pages,
    len: u64,
    durable: Pages,
    durable_len: u64,
    pending: Vec<Change>,
    /// Open handles, of any process: an inode without handles and names goes.
    handles: u64,
    unlinked: bool,
}

enum Change {
    Write { offset: u64, bytes: Box<[u8]> },
    SetLen(u64),
}

impl SimDisk {
    /// An empty disk of 1 TiB; `name` is what [`Disk::display`] says.
    pub fn new(name: &str, trace: Trace) -> Self {
        let state = State {
            life: 0,
            trace,
            files: BTreeMap::new(),
            next_file: 1,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending: vec![],
            locked_by: None,
            locks: 0,
            faults: vec![],
            capacity_pages: CAPACITY_BYTES / PAGE_BYTES as u64,
            used_pages: 0,
            read_only: false,
            no_op_fsync: false,
            stop_after: None,
            changes: 0,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            name: name.into(),
            life: 0,
            gate: Arc::default(),
        }
    }

    /// The disk as the process has it that starts now.
    #[must_use]
    pub fn mount(&self) -> SimDisk {
        let life = self.lock().life;
        SimDisk { life, ..self.clone() }
    }

    /// Every process that has this disk dies: its lock goes, its handles are dead, every byte written stays.
    pub fn kill(&self) {
        let mut state = self.lock();
        state.life += 1;
        state.locked_by = None;
        state.stop_after = None;
        for file in state.files.values_mut() {
            file.handles = 0;
        }
        state.collect();
    }

    /// Power is cut: all processes die, and of what was not synced any part is lost, by `rng`.
    pub fn power_loss(&self, rng: &mut dyn RngCore) {
        // all gone and all kept are likely enough to be met in few runs
        let keep = [0.0, 0.0, 0.1, 0.5, 0.9, 1.0][rng.random_range(0..6)];
        self.kill();
        self.lock().lose(keep, rng);
    }

    /// Power is cut, and everything that was not synced is lost.
    pub fn drop_unsynced(&self) {
        self.kill();
        self.lock().lose(0.0, &mut rand::rngs::StdRng::seed_from_u64(0));
    }

    pub fn inject(&self, fault: Fault) {
        self.lock().faults.push(fault);
    }

    pub fn clear_faults(&self) {
        self.lock().faults.clear();
    }

    /// Inverts one bit of a file, for every reader and for good, as rot does. False where the file has no such bit.
    pub fn flip(&self, path: impl AsRef<Path>, bit: u64) -> bool {
        let mut state = self.lock();
        let Ok(id) = state.file_at(&normal(path.as_ref())) else {
            return false;
        };
        match state.files.get_mut(&id) {
            Some(file) if bit / 8 < file.len => {
                file.bytes.flip(bit);
                file.durable.flip(bit);
                true
            }
            _ => false,
        }
    }

    /// Writes that need a new page beyond this fail with ENOSPC, and so does creation once it is full.
    pub fn set_capacity(&self, bytes: u64) {
        self.lock().capacity_pages = bytes / PAGE_BYTES as u64;
    }

    pub fn set_read_only(&self, read_only: bool) {
        self.lock().read_only = read_only;
    }

    /// Syncs say yes and do nothing: what proves that a checker notices lost bytes.
    pub fn set_no_op_fsync(&self, on: bool) {
        self.lock().no_op_fsync = on;
    }

    /// Files' syncs wait until what this returns is dropped. Only for callers with threads to wait in
    /// ([`crate::Blocking::Threads`]).
    pub fn hold(&self) -> Hold {
        Hold::new(self.gate.clone())
    }

    /// After `changes` more changes (writes, syncs, names) every operation fails until [`SimDisk::kill`] or
    /// [`SimDisk::power_loss`]: a crash at a chosen point.
    pub fn stop_after(&self, changes: u64) {
        self.lock().stop_after = Some(changes);
    }

    /// Whether [`SimDisk::stop_after`] is why operations fail now.
    pub fn stopped(&self) -> bool {
        self.lock().stop_after == Some(0)
    }

    /// Changes made so far: the points to stop at.
    pub fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// All files' paths, as processes see them.
    pub fn files(&self) -> Vec<PathBuf> {
        let state = self.lock();
        let files = state.names.iter().filter(|(_, e)| matches!(e, Entry::File(_)));
        files.map(|(path, _)| path.clone()).collect()
    }

    /// A file's bytes, as processes see them.
    pub fn contents(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let state = self.lock();
        let file = state.files.get(&state.file_at(&normal(path.as_ref())).ok()?)?;
        let mut bytes = vec![0; file.len as usize];
        file.bytes.read(&mut bytes, 0);
        Some(bytes)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What every operation begins with: is the process alive, is a fault due? Traced with `offset` and `bytes`.
    fn begin(
        &self,
        op: Op,
        path: &Path,
        offset: u64,
        bytes: &[u8],
    ) -> io::Result<(MutexGuard<'_, State>, Option<Effect>)> {
        let mut state = self.lock();
        if state.life != self.life {
            return Err(io::Error::other("this process of the simulation is dead"));
        }
        let changes = !matches!(op, Op::Open | Op::List | Op::Read);
        if state.stop_after == Some(0) {
            return Err(eio());
        }
        if changes {
            if let Some(left) = &mut state.stop_after {
                *left -= 1;
            }
            state.changes += 1;
            let place = hash(self.name.as_bytes()) ^ hash(path.as_os_str().as_encoded_bytes());
            state.trace.record(op.word(), place, offset, bytes);
            if state.read_only && !matches!(op, Op::Sync | Op::SyncDir | Op::SyncAll) {
                return Err(Errno::ROFS.into());
            }
        }
        let effect = state
            .faults
            .iter_mut()
            .find_map(|f| f.hits(op, path).then_some(f.effect));
        match effect {
            Some(Effect::Eio) if !matches!(op, Op::Sync | Op::SyncAll) => Err(eio()),
            Some(Effect::Enospc) => Err(enospc()),
            effect => Ok((state, effect)),
        }
    }
}

impl Op {
    fn word(self) -> &'static str {
        match self {
            Op::Create => "create",
            Op::Open => "open",
            Op::Rename => "rename",
            Op::Remove => "remove",
            Op::MakeDir => "mkdir",
            Op::List => "list",
            Op::Read => "read",
            Op::Write => "write",
            Op::SetLen => "set_len",
            Op::Sync => "sync",
            Op::SyncDir => "sync_dir",
            Op::SyncAll => "sync_all",
        }
    }
}

impl State {
    fn file_at(&self, path: &Path) -> io::Result<u64> {
        match self.entry(path)? {
            Entry::File(id) => Ok(id),
            Entry::Directory => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    fn entry(&self, path: &Path) -> io::Result<Entry> {
        if path.as_os_str().is_empty() {
            return Ok(Entry::Directory);
        }
        match self.names.get(path) {
            Some(entry) => Ok(*entry),
            None => {
                self.directory(parent(path))?;
                Err(io::ErrorKind::NotFound.into())
            }
        }
    }

    /// That `path` is a directory.
    fn directory(&self, path: &Path) -> io::Result<()> {
        match self.entry(path)? {
            Entry::Directory => Ok(()),
            Entry::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn change(&mut self, changes: Vec<(PathBuf, Option<Entry>)>) {
        for (path, entry) in &changes {
            apply(&mut self.names, path, *entry);
        }
        self.pending.push(changes);
    }

    fn open(&mut self, id: u64) {
        if let Some(file) = self.files.get_mut(&id) {
            file.handles += 1;
        }
    }

    fn unlinked(&mut self, id: u64) {
        if let Some(file) = self.files.get_mut(&id) {
            file.unlinked = true;
            self.used_pages -= file.bytes.count();
        }
    }

    /// Room for this many more pages?
    fn has_room(&self, pages: u64) -> bool {
        pages == 0 || self.used_pages + pages <= self.capacity_pages
    }

    /// Moves what belongs to `directory`, and what that rests on, to stable storage.
    fn sync_names(&mut self, directory: &Path) {
        let mut wanted = BTreeSet::new();
        let mut chosen = vec![false; self.pending.len()];
        for (i, changes) in self.pending.iter().enumerate().rev() {
            if changes
                .iter()
                .any(|(path, _)| parent(path) == directory || wanted.contains(path))
            {
                chosen[i] = true;
                wanted.extend(changes.iter().map(|(path, _)| path.clone()));
            }
        }
        let mut rest = vec![];
        for (changes, chosen) in std::mem::take(&mut self.pending).into_iter().zip(chosen) {
            if chosen {
                for (path, entry) in &changes {
                    apply(&mut self.durable_names, path, *entry);
                }
            } else {
                rest.push(changes);
            }
        }
        self.pending = rest;
        self.collect();
    }

    fn sync_all_names(&mut self) {
        for (path, entry) in std::mem::take(&mut self.pending).into_iter().flatten() {
            apply(&mut self.durable_names, &path, entry);
        }
        self.collect();
    }

    /// Drops files that nobody can reach any more, neither now nor after a power loss.
    fn collect(&mut self) {
        if self.pending.is_empty() && self.files.values().any(|f| f.unlinked && f.handles == 0) {
            let named: BTreeSet<u64> = self.durable_names.values().filter_map(Entry::file).collect();
            self.files
                .retain(|id, f| !f.unlinked || f.handles > 0 || named.contains(id));
        }
    }

    /// What a power loss leaves: each unsynced piece stays with probability `keep`.
    fn lose(&mut self, keep: f64, rng: &mut dyn RngCore) {
        let mut lost = BTreeSet::new();
        for changes in std::mem::take(&mut self.pending) {
            if changes.iter().any(|(path, _)| lost.contains(path)) || !rng.random_bool(keep) {
                lost.extend(changes.into_iter().map(|(path, _)| path));
            } else {
                for (path, entry) in &changes {
                    apply(&mut self.durable_names, path, *entry);
                }
            }
        }
        // what lies below a directory that is gone is gone: parents come before their children in order
        let mut found: BTreeMap<PathBuf, Entry> = BTreeMap::new();
        for (path, entry) in std::mem::take(&mut self.durable_names) {
            let above = parent(&path);
            if above.as_os_str().is_empty() || found.get(above) == Some(&Entry::Directory) {
                found.insert(path, entry);
            }
        }
        let named: BTreeSet<u64> = found.values().filter_map(Entry::file).collect();
        self.files.retain(|id, _| named.contains(id));
        for file in self.files.values_mut() {
            file.lose(keep, rng);
        }
        self.used_pages = self.files.values().map(|f| f.bytes.count()).sum();
        self.names = found.clone();
        self.durable_names = found;
    }
}

impl Entry {
    fn file(&self) -> Option<u64> {
        match self {
            Entry::File(id) => Some(*id),
            Entry::Directory => None,
        }
    }
}

impl Inode {
    fn sync(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            match change {
                Change::Write { offset, bytes } => {
                    self.durable.write(&bytes, offset);
                    self.durable_len = self.durable_len.max(offset + bytes.len() as u64);
                }
                Change::SetLen(len) => {
                    self.durable.cut(len);
                    self.durable_len = len;
                }
            }
        }
    }

    fn lose(&mut self, keep: f64, rng: &mut dyn RngCore) {
        for change in std::mem::take(&mut self.pending) {
            match change {
                Change::Write { offset, bytes } => {
                    let end = offset + bytes.len() as u64;
                    let mut at = 0;
                    while at < bytes.len() {
                        let sector = SECTOR_BYTES - ((offset + at as u64) % SECTOR_BYTES as u64) as usize;
                        let next = bytes.len().min(at + sector);
                        if rng.random_bool(keep) {
                            self.durable.write(&bytes[at..next], offset + at as u64);
                            self.durable_len = self.durable_len.max(offset + next as u64);
                        }
                        at = next;
                    }
                    // the new length may be there without the bytes: they read as zeros then
                    if rng.random_bool(keep) {
                        self.durable_len = self.durable_len.max(end);
                    }
                }
                Change::SetLen(len) => {
                    if rng.random_bool(keep) {
                        self.durable.cut(len);
                        self.durable_len = len;
                    }
                }
            }
        }
        self.bytes = self.durable.clone();
        self.len = self.durable_len;
        self.unlinked = false;
    }
}

fn apply(names: &mut BTreeMap<PathBuf, Entry>, path: &Path, entry: Option<Entry>) {
    match entry {
        Some(entry) => names.insert(path.to_path_buf(), entry),
        None => names.remove(path),
    };
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

fn normal(path: &Path) -> PathBuf {
    path.components().filter(|c| !matches!(c, Component::CurDir)).collect()
}

impl Disk for SimDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let path = normal(path);
        let (mut state, _) = self.begin(Op::Create, &path, 0, &[])?;
        match state.entry(&path) {
            Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => state.directory(parent(&path))?,
            Err(e) => return Err(e),
        }
        if !state.has_room(1) {
            return Err(enospc());
        }
        let id = state.next_file;
        state.next_file += 1;
        state.files.insert(id, Inode::default());
        state.change(vec![(path.clone(), Some(Entry::File(id)))]);
        state.open(id);
        Ok(Arc::new(SimFile::new(self, id, path)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let path = normal(path);
        let (mut state, _) = self.begin(Op::Open, &path, 0, &[])?;
        let id = state.file_at(&path)?;
        state.open(id);
        Ok(Arc::new(SimFile::new(self, id, path)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (normal(from), normal(to));
        let (mut state, _) = self.begin(Op::Rename, &from, hash(to.as_os_str().as_encoded_bytes()), &[])?;
        state.directory(parent(&from))?;
        state.directory(parent(&to))?;
        let id = state.file_at(&from)?;
        match state.file_at(&to) {
            Ok(same) if same == id => return Ok(()),
            Ok(old) => state.unlinked(old),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        state.change(vec![(from, None), (to, Some(Entry::File(id)))]);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let path = normal(path);
        let (mut state, _) = self.begin(Op::Remove, &path, 0, &[])?;
        let id = state.file_at(&path)?;
        state.unlinked(id);
        state.change(vec![(path, None)]);
        Ok(())
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let path = normal(path);
        let (mut state, _) = self.begin(Op::MakeDir, &path, 0, &[])?;
        let mut above = PathBuf::new();
        for part in path.components() {
            above.push(part);
            match state.entry(&above) {
                Ok(Entry::Directory) => {}
                Ok(Entry::File(_)) if above == path => return Err(io::ErrorKind::AlreadyExists.into()),
                Ok(Entry::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                Err(_) => state.change(vec![(above.clone(), Some(Entry::Directory))]),
            }
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let path = normal(path);
        let (state, _) = self.begin(Op::List, &path, 0, &[])?;
        state.directory(&path)?;
        let below = state
            .names
            .range(path.clone()..)
            .take_while(|(p, _)| p.starts_with(&path));
        let names = below.filter(|(p, _)| **p != path && parent(p) == path);
        let mut names: Vec<String> = names
            .filter_map(|(p, _)| p.file_name().and_then(|n| n.to_str()).map(str::to_owned))
            .collect();
        names.sort();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let path = normal(path);
        let (state, _) = self.begin(Op::List, &path, 0, &[])?;
        match state.entry(&path) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let path = normal(path);
        let (mut state, _) = self.begin(Op::SyncDir, &path, 0, &[])?;
        state.directory(&path)?;
        if !state.no_op_fsync {
            state.sync_names(&path);
        }
        Ok(())
    }

    fn sync_all(&self) -> io::Result<bool> {
        let (mut state, effect) = self.begin(Op::SyncAll, Path::new(""), 0, &[])?;
        if effect == Some(Effect::Eio) {
            state.files.values_mut().for_each(|file| file.pending.clear());
            return Err(eio());
        }
        if !state.no_op_fsync {
            state.files.values_mut().for_each(Inode::sync);
            state.sync_all_names();
        }
        Ok(true)
    }

    fn space(&self) -> io::Result<Space> {
        let (state, _) = self.begin(Op::List, Path::new(""), 0, &[])?;
        let page = PAGE_BYTES as u64;
        Ok(Space {
            total_bytes: state.capacity_pages * page,
            available_bytes: state.capacity_pages.saturating_sub(state.used_pages) * page,
        })
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        let (mut state, _) = self.begin(Op::Open, Path::new(""), 0, &[])?;
        if state.locked_by.is_some() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.locks += 1;
        state.locked_by = Some(state.locks);
        Ok(Box::new(Lock {
            disk: self.clone(),
            number: state.locks,
        }))
    }

    fn display(&self) -> String {
        self.name.to_string()
    }
}

struct Lock {
    disk: SimDisk,
    number: u64,
}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut state = self.disk.lock();
        if state.locked_by == Some(self.number) {
            state.locked_by = None;
        }
    }
}

struct SimFile {
    disk: SimDisk,
    id: u64,
    /// What it was opened as.
    path: PathBuf,
}

impl SimFile {
    fn new(disk: &SimDisk, id: u64, path: PathBuf) -> Self {
        let disk = disk.clone();
        Self { disk, id, path }
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = self.disk.lock();
        if state.life == self.disk.life
            && let Some(file) = state.files.get_mut(&self.id)
        {
            file.handles -= 1;
        }
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let (state, effect) = self.disk.begin(Op::Read, &self.path, offset, &[])?;
        let file = state.files.get(&self.id).ok_or_else(eio)?;
        let n = buf.len().min(file.len.saturating_sub(offset) as usize);
        file.bytes.read(&mut buf[..n], offset);
        if let Some(Effect::Garbled { bit }) = effect
            && let Some(byte) = buf[..n].get_mut((bit / 8) as usize)
        {
            *byte ^= 1 << (bit % 8);
        }
        Ok(n)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let (mut state, effect) = self.disk.begin(Op::Write, &self.path, offset, buf)?;
        let (offset, bytes) = match effect {
            Some(Effect::Lost) => return Ok(()),
            Some(Effect::Misdirected { by_bytes }) => (offset + by_bytes, buf),
            Some(Effect::Torn { bytes }) => (offset, &buf[..bytes.min(buf.len())]),
            _ => (offset, buf),
        };
        let state = &mut *state;
        let file = state.files.get(&self.id).ok_or_else(eio)?;
        let new = file.bytes.missing(offset, bytes.len());
        if !file.unlinked {
            if !state.has_room(new) {
                return Err(enospc());
            }
            state.used_pages += new;
        }
        let file = state.files.get_mut(&self.id).ok_or_else(eio)?;
        if !bytes.is_empty() {
            file.bytes.write(bytes, offset);
            file.len = file.len.max(offset + bytes.len() as u64);
            let bytes = bytes.into();
            file.pending.push(Change::Write { offset, bytes });
        }
        match effect {
            Some(Effect::Torn { .. }) => Err(eio()),
            _ => Ok(()),
        }
    }

    fn len(&self) -> io::Result<u64> {
        let (state, _) = self.disk.begin(Op::Read, &self.path, 0, &[])?;
        Ok(state.files.get(&self.id).ok_or_else(eio)?.len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (mut state, _) = self.disk.begin(Op::SetLen, &self.path, len, &[])?;
        let file = state.files.get_mut(&self.id).ok_or_else(eio)?;
        let before = file.bytes.count();
        file.bytes.cut(len);
        file.len = len;
        file.pending.push(Change::SetLen(len));
        let freed = before - file.bytes.count();
        if !file.unlinked {
            state.used_pages -= freed;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.gate.pass();
        let (mut state, effect) = self.disk.begin(Op::Sync, &self.path, 0, &[])?;
        let no_op = state.no_op_fsync;
        let file = state.files.get_mut(&self.id).ok_or_else(eio)?;
        match effect {
            Some(Effect::Eio) => {
                file.pending.clear();
                Err(eio())
            }
            _ if no_op => Ok(()),
            _ => {
                file.sync();
                Ok(())
            }
        }
    }
}
