//! Random operations on the state, compared with a small model of a file system that knows nothing of it; and on the
//! way the state's own promises: a refused operation changes nothing, a repeated call changes nothing, the same
//! commands give an equal state, a checkpoint gives it back.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test: what does not hold must stop it
use cairn_metadata::{
    Command, Create, Existing, FsError, Grant, IndexedGrant, Install, Kind, Op, RemovedAs, Rename, RenameMode, Reply,
    SetAttr, State, Written, XattrMode, apply,
};
use cairn_types::layout::CHUNK_SIZE_BYTES;
use cairn_types::{ChunkHandle, ClusterId, DiskId, Inode, Sequence, ServerId, SessionId, Version};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// What is done, in small numbers: names, inodes and chunks come up again and again.
#[derive(Debug, Clone)]
enum Step {
    Create {
        parent: u64,
        name: u8,
        kind: u8,
        open: bool,
        chunk: bool,
    },
    Link {
        inode: u64,
        parent: u64,
        name: u8,
    },
    Unlink {
        parent: u64,
        name: u8,
        trash: bool,
        closed: bool,
    },
    Rmdir {
        parent: u64,
        name: u8,
        closed: bool,
    },
    Rename {
        parent: u64,
        name: u8,
        new_parent: u64,
        new_name: u8,
        mode: u8,
        trash: bool,
    },
    Truncate {
        inode: u64,
    },
    Resize {
        inode: u64,
        quarters: u64,
    },
    Xattr {
        inode: u64,
        name: u8,
        mode: u8,
    },
    RemoveXattr {
        inode: u64,
        name: u8,
    },
    Allocate {
        inode: u64,
        index: u32,
    },
    Commit {
        inode: u64,
        index: u32,
        quarters: u64,
        stale: bool,
    },
    Install {
        handle: u64,
        cut: Option<u64>,
    },
    Release,
    Restore {
        inode: u64,
        to: Option<(u64, u8)>,
    },
    Purge {
        inode: u64,
        open: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let (i, n) = (|| 1..14u64, || 0..4u8);
    // mostly what is a directory: collisions are what finds defects
    let d = || prop_oneof![4 => Just(1u64), 4 => 2..6u64, 1 => 1..14u64];
    let kind = || prop_oneof![0..4u8, Just(1u8)];
    prop_oneof![
        6 => (d(), n(), kind(), any::<bool>(), any::<bool>())
            .prop_map(|(parent, name, kind, open, chunk)| Step::Create { parent, name, kind, open, chunk }),
        2 => (i(), d(), n()).prop_map(|(inode, parent, name)| Step::Link { inode, parent, name }),
        3 => (d(), n(), any::<bool>(), any::<bool>())
            .prop_map(|(parent, name, trash, closed)| Step::Unlink { parent, name, trash, closed }),
        2 => (d(), n(), any::<bool>()).prop_map(|(parent, name, closed)| Step::Rmdir { parent, name, closed }),
        6 => (d(), n(), d(), n(), 0..3u8, any::<bool>()).prop_map(|(parent, name, new_parent, new_name, mode, trash)| {
            Step::Rename { parent, name, new_parent, new_name, mode, trash }
        }),
        1 => i().prop_map(|inode| Step::Truncate { inode }),
        2 => (i(), 0..14u64).prop_map(|(inode, quarters)| Step::Resize { inode, quarters }),
        1 => (i(), n(), 0..3u8).prop_map(|(inode, name, mode)| Step::Xattr { inode, name, mode }),
        1 => (i(), n()).prop_map(|(inode, name)| Step::RemoveXattr { inode, name }),
        2 => (i(), 0..3u32).prop_map(|(inode, index)| Step::Allocate { inode, index }),
        3 => (i(), 0..3u32, 0..14u64, any::<bool>())
            .prop_map(|(inode, index, quarters, stale)| Step::Commit { inode, index, quarters, stale }),
        2 => (1..8u64, proptest::option::of(0..4u64)).prop_map(|(handle, cut)| Step::Install { handle, cut }),
        1 => Just(Step::Release),
        1 => (i(), proptest::option::of((i(), n()))).prop_map(|(inode, to)| Step::Restore { inode, to }),
        1 => (i(), any::<bool>()).prop_map(|(inode, open)| Step::Purge { inode, open }),
    ]
}

const QUARTER: u64 = CHUNK_SIZE_BYTES / 4;

#[derive(Debug, Clone, PartialEq)]
struct File {
    kind: Kind,
    size: u64,
    xattrs: BTreeSet<u8>,
    chunks: BTreeMap<u32, (ChunkHandle, Version)>,
}

/// Entries and files, and nothing else: links are counted, paths are walked.
#[derive(Debug, Clone, Default)]
struct Model {
    entries: BTreeMap<(Inode, u8), Inode>,
    files: BTreeMap<Inode, File>,
    trash: BTreeMap<Inode, (Inode, u8)>,
    orphans: BTreeSet<Inode>,
}

impl Model {
    fn is_directory(&self, inode: Inode) -> bool {
        self.files.get(&inode).is_some_and(|f| f.kind == Kind::Directory)
    }
    fn is_live_directory(&self, inode: Inode) -> bool {
        self.is_directory(inode) && !self.orphans.contains(&inode)
    }
    fn links(&self, inode: Inode) -> usize {
        self.entries.values().filter(|i| **i == inode).count()
    }
    fn children(&self, inode: Inode) -> impl Iterator<Item = (&(Inode, u8), &Inode)> {
        self.entries.iter().filter(move |((parent, _), _)| *parent == inode)
    }
    fn is_within(&self, inode: Inode, top: Inode) -> bool {
        inode == top
            || self
                .entries
                .iter()
                .any(|((parent, _), i)| *i == inode && self.is_within(*parent, top))
    }
    fn nlink(&self, inode: Inode) -> usize {
        match self.is_directory(inode) {
            true if self.orphans.contains(&inode) => 0,
            true => 2 + self.children(inode).filter(|(_, i)| self.is_directory(**i)).count(),
            false => self.links(inode),
        }
    }
    fn removed(&mut self, inode: Inode, from: (Inode, u8), trash: bool, closed: bool) {
        let file = &self.files[&inode];
        if file.kind != Kind::Directory && self.links(inode) > 0 {
        } else if file.kind == Kind::Regular && trash {
            self.trash.insert(inode, from);
        } else if closed {
            self.files.remove(&inode);
        } else {
            self.orphans.insert(inode);
        }
    }
    fn cut(&mut self, inode: Inode, size: u64) {
        if let Some(file) = self.files.get_mut(&inode) {
            file.size = size;
            file.chunks
                .retain(|index, _| u64::from(*index) * CHUNK_SIZE_BYTES < size);
        }
    }
    fn needs_cut(&self, inode: Inode, size: u64) -> Option<u32> {
        let file = &self.files[&inode];
        let index = (size / CHUNK_SIZE_BYTES) as u32;
        (size < file.size && !size.is_multiple_of(CHUNK_SIZE_BYTES) && file.chunks.contains_key(&index))
            .then_some(index)
    }
}

struct Run {
    state: State,
    model: Model,
    log: Vec<(u64, Command)>,
    counter: u64,
}

const KINDS: [Kind; 4] = [Kind::Regular, Kind::Directory, Kind::Symlink, Kind::Fifo];

fn session() -> SessionId {
    SessionId::from_bits(7)
}

fn name(n: u8) -> Vec<u8> {
    vec![b'a' + n]
}

impl Run {
    fn new() -> Self {
        let mut run = Self {
            state: State::new(),
            model: Model::default(),
            log: Vec::new(),
            counter: 0,
        };
        let epoch = Command::Epoch {
            cluster: ClusterId::from_bits(1),
            at_ns: 1,
            default_goal: 3,
            lease_ms: 5000,
            root_mode: 0o755,
            root_uid: 0,
            root_gid: 0,
        };
        run.log(epoch).unwrap();
        let disks = (0..3).map(DiskId::from_bits).collect();
        run.log(Command::RegisterServer {
            server: ServerId::from_bits(1),
            label: "a".into(),
            address: "a:1".into(),
            disks,
        })
        .unwrap();
        run.log(Command::OpenSession {
            session: session(),
            at_ns: 2,
            description: "test".into(),
        })
        .unwrap();
        let root = File {
            kind: Kind::Directory,
            size: 0,
            xattrs: BTreeSet::new(),
            chunks: BTreeMap::new(),
        };
        run.model.files.insert(Inode::ROOT, root);
        run
    }

    fn log(&mut self, command: Command) -> Result<Reply, FsError> {
        let index = self.log.len() as u64 * 2 + 1;
        self.log.push((index, command.clone()));
        apply(&mut self.state, index, &command).expect("a sound log").result
    }

    /// As a client's call; a refusal changes nothing but the session's memory, a repetition nothing at all.
    fn call(&mut self, op: Op) -> Result<Reply, FsError> {
        let before = self.state.clone();
        let n = self.log.len() as u64;
        let command = Command::Call {
            session: session(),
            sequence: Sequence(n),
            acknowledged: Sequence(n.saturating_sub(3)),
            at_ns: n as i64 * 10,
            op,
        };
        let result = self.log(command.clone());
        if result.is_err() {
            assert!(same_tree(&before, &self.state), "a refused operation changed something");
        }
        if matches!(result, Err(FsError::CutNeeded)) {
            return result;
        }
        let before = self.state.clone();
        let index = self.log.len() as u64 * 2 + 1;
        let again = apply(&mut self.state, index, &command).expect("a sound log");
        assert!(again.repeated && again.effects.is_empty());
        assert_eq!(again.result, result);
        assert!(same_tree(&before, &self.state));
        self.log.push((index, command));
        result
    }

    fn version(&mut self) -> Version {
        self.counter += 1;
        Version::new(self.state.epoch(), self.counter)
    }

    fn grant(&mut self) -> Grant {
        Grant {
            version: self.version(),
            members: (0..3).map(DiskId::from_bits).collect(),
        }
    }

    /// Does the step on both, and compares whether it went.
    fn step(&mut self, step: &Step) {
        let m = self.model.clone();
        let expected: bool;
        let result = match *step {
            Step::Create {
                parent,
                name: n,
                kind,
                open,
                chunk,
            } => {
                let (parent, kind) = (Inode(parent), KINDS[usize::from(kind)]);
                let old = m.entries.get(&(parent, n)).copied();
                let opens = |i: Inode| open && !matches!(m.files[&i].kind, Kind::Directory | Kind::Symlink);
                expected = m.is_live_directory(parent) && old.is_none_or(opens);
                let chunk = (chunk && kind == Kind::Regular).then(|| self.grant());
                let result = self.call(Op::Create(Create {
                    parent,
                    name: name(n),
                    kind,
                    mode: 0o644,
                    uid: 1,
                    gid: 1,
                    rdev: 0,
                    target: if kind == Kind::Symlink { b"t".to_vec() } else { vec![] },
                    goal: 0,
                    existing: if open {
                        Existing::OpenTruncated
                    } else {
                        Existing::Refuse
                    },
                    chunk: chunk.clone(),
                }));
                if let Ok(Reply::Created { attr, existed, chunk }) = &result {
                    assert_eq!(*existed, old.is_some());
                    if *existed {
                        assert_eq!(Some(attr.inode), old);
                        if attr.kind == Kind::Regular {
                            self.model.cut(attr.inode, 0);
                        }
                    } else {
                        let chunks = chunk.iter().map(|c| (0, (c.handle, c.version))).collect();
                        let file = File {
                            kind,
                            size: u64::from(kind == Kind::Symlink),
                            xattrs: BTreeSet::new(),
                            chunks,
                        };
                        assert!(
                            self.model.files.insert(attr.inode, file).is_none(),
                            "an inode number used twice"
                        );
                        self.model.entries.insert((parent, n), attr.inode);
                    }
                }
                result
            }
            Step::Link { inode, parent, name: n } => {
                let (inode, parent) = (Inode(inode), Inode(parent));
                expected = m.links(inode) > 0
                    && !m.is_directory(inode)
                    && m.is_live_directory(parent)
                    && !m.entries.contains_key(&(parent, n));
                if expected {
                    self.model.entries.insert((parent, n), inode);
                }
                self.call(Op::Link {
                    inode,
                    parent,
                    name: name(n),
                })
            }
            Step::Unlink {
                parent,
                name: n,
                trash,
                closed,
            } => {
                let at = (Inode(parent), n);
                let old = m.entries.get(&at).copied();
                expected = old.is_some_and(|i| !m.is_directory(i));
                if let Some(inode) = old.filter(|_| expected) {
                    self.model.entries.remove(&at);
                    self.model.removed(inode, at, trash, closed);
                }
                let removed = RemovedAs {
                    trash_keep_ns: if trash { 1000 } else { 0 },
                    closed: old.filter(|_| closed),
                };
                self.call(Op::Unlink {
                    parent: at.0,
                    name: name(n),
                    removed,
                })
            }
            Step::Rmdir {
                parent,
                name: n,
                closed,
            } => {
                let at = (Inode(parent), n);
                let old = m.entries.get(&at).copied();
                expected = old.is_some_and(|i| m.is_directory(i) && m.children(i).count() == 0);
                if let Some(inode) = old.filter(|_| expected) {
                    self.model.entries.remove(&at);
                    self.model.removed(inode, at, false, closed);
                }
                let removed = RemovedAs {
                    trash_keep_ns: 1000,
                    closed: old.filter(|_| closed),
                };
                self.call(Op::Rmdir {
                    parent: at.0,
                    name: name(n),
                    removed,
                })
            }
            Step::Rename {
                parent,
                name: n,
                new_parent,
                new_name,
                mode,
                trash,
            } => {
                let mode = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange][usize::from(mode)];
                let (from, to) = ((Inode(parent), n), (Inode(new_parent), new_name));
                let (source, target) = (m.entries.get(&from).copied(), m.entries.get(&to).copied());
                expected = source.is_some_and(|s| {
                    m.is_live_directory(to.0)
                        && !(m.is_directory(s) && m.is_within(to.0, s))
                        && match (mode, target) {
                            (RenameMode::Exchange, None) | (RenameMode::NoReplace, Some(_)) => false,
                            (_, None) => true,
                            (_, Some(t)) if t == s => true,
                            (RenameMode::Exchange, Some(t)) => !(m.is_directory(t) && m.is_within(from.0, t)),
                            (_, Some(t)) => m.is_directory(s) == m.is_directory(t) && m.children(t).count() == 0,
                        }
                });
                if let Some(source) = source.filter(|s| expected && Some(*s) != target) {
                    self.model.entries.remove(&from);
                    self.model.entries.insert(to, source);
                    match target {
                        Some(target) if mode == RenameMode::Exchange => {
                            self.model.entries.insert(from, target);
                        }
                        Some(target) => self.model.removed(target, to, trash, false),
                        None => {}
                    }
                }
                self.call(Op::Rename(Rename {
                    parent: from.0,
                    name: name(n),
                    new_parent: to.0,
                    new_name: name(new_name),
                    mode,
                    removed: RemovedAs {
                        trash_keep_ns: if trash { 1000 } else { 0 },
                        closed: None,
                    },
                }))
            }
            Step::Resize { inode, quarters } => {
                let (inode, size) = (Inode(inode), quarters * QUARTER);
                let regular = m.files.get(&inode).is_some_and(|f| f.kind == Kind::Regular);
                expected = regular && m.needs_cut(inode, size).is_none();
                if expected {
                    self.model.cut(inode, size);
                }
                self.call(Op::SetAttr {
                    inode,
                    set: SetAttr {
                        size: Some(size),
                        ..SetAttr::default()
                    },
                })
            }
            Step::Truncate { inode } => {
                let inode = Inode(inode);
                let grant = self.grant();
                let version = grant.version;
                expected = m.files.get(&inode).is_some_and(|f| f.kind == Kind::Regular);
                if expected {
                    self.model.cut(inode, 0);
                }
                let chunk = Some(grant);
                let result = self.call(Op::Truncate { inode, chunk });
                if let Ok(Reply::Chunks { chunks, .. }) = &result {
                    let known = &mut self.model.files.get_mut(&inode).unwrap().chunks;
                    known.insert(0, (chunks[0].handle, version));
                }
                result
            }
            Step::Xattr { inode, name: n, mode } => {
                let mode = [XattrMode::Set, XattrMode::Create, XattrMode::Replace][usize::from(mode)];
                let inode = Inode(inode);
                expected = m.files.get(&inode).is_some_and(|f| match mode {
                    XattrMode::Set => true,
                    XattrMode::Create => !f.xattrs.contains(&n),
                    XattrMode::Replace => f.xattrs.contains(&n),
                });
                if expected {
                    self.model.files.get_mut(&inode).unwrap().xattrs.insert(n);
                }
                self.call(Op::SetXattr {
                    inode,
                    name: name(n),
                    value: vec![n],
                    mode,
                })
            }
            Step::RemoveXattr { inode, name: n } => {
                let inode = Inode(inode);
                expected = self.model.files.get_mut(&inode).is_some_and(|f| f.xattrs.remove(&n));
                self.call(Op::RemoveXattr { inode, name: name(n) })
            }
            Step::Allocate { inode, index } => {
                let inode = Inode(inode);
                let grant = self.grant();
                let version = grant.version;
                expected = m.files.get(&inode).is_some_and(|f| f.kind == Kind::Regular);
                let result = self.call(Op::Allocate {
                    inode,
                    grants: vec![IndexedGrant { index, grant }],
                });
                if let Ok(Reply::Chunks { chunks, .. }) = &result {
                    let known = &mut self.model.files.get_mut(&inode).unwrap().chunks;
                    let chunk = known.entry(index).or_insert((chunks[0].handle, version));
                    assert_eq!(*chunk, (chunks[0].handle, chunks[0].version));
                }
                result
            }
            Step::Commit {
                inode,
                index,
                quarters,
                stale,
            } => {
                let (inode, size) = (Inode(inode), quarters * QUARTER);
                let chunk = m.files.get(&inode).and_then(|f| f.chunks.get(&index)).copied();
                expected = chunk.is_some() && !stale;
                if expected {
                    let file = self.model.files.get_mut(&inode).unwrap();
                    file.size = file.size.max(size);
                }
                let (handle, mut version) = chunk.unwrap_or((ChunkHandle(1), Version::ZERO));
                version.counter -= u64::from(stale && version.counter > 0);
                self.call(Op::Commit {
                    inode,
                    size,
                    chunks: vec![Written { index, handle, version }],
                    written: true,
                    generation_seen: u64::MAX,
                    kill_suid: false,
                })
            }
            Step::Install { handle, cut } => {
                let handle = ChunkHandle(handle);
                if !self.state.was_drawn(handle) {
                    return;
                }
                let version = self.version();
                let owner = m.files.iter().find_map(|(inode, f)| {
                    let (index, _) = f.chunks.iter().find(|(_, (h, _))| *h == handle)?;
                    Some((*inode, *index))
                });
                expected = owner.is_some();
                let size = cut.map(|q| owner.map_or(0, |(_, index)| u64::from(index)) * CHUNK_SIZE_BYTES + q * QUARTER);
                if let Some((inode, index)) = owner {
                    if let Some(size) = size {
                        self.model.cut(inode, size);
                    }
                    let file = self.model.files.get_mut(&inode).unwrap();
                    if let Some(chunk) = file.chunks.get_mut(&index) {
                        chunk.1 = version;
                    }
                }
                let members = vec![DiskId::from_bits(2), DiskId::from_bits(0)];
                let cut = size.map(|size| SetAttr {
                    size: Some(size),
                    ..SetAttr::default()
                });
                self.call(Op::Install(Install {
                    handle,
                    version,
                    members,
                    from_suspect: false,
                    length: None,
                    cut,
                }))
            }
            Step::Release => {
                expected = true;
                let all = self.state.orphans_after(Inode(0), 100);
                assert_eq!(all, m.orphans.iter().copied().collect::<Vec<_>>());
                for inode in std::mem::take(&mut self.model.orphans) {
                    self.model.files.remove(&inode);
                }
                self.call(Op::ReleaseOrphans { inodes: all })
            }
            Step::Restore { inode, to } => {
                let inode = Inode(inode);
                let to = to.map(|(parent, n)| (Inode(parent), n));
                let place = m.trash.get(&inode).map(|old| to.unwrap_or(*old));
                expected = place.is_some_and(|at| m.is_live_directory(at.0) && !m.entries.contains_key(&at));
                if let Some(place) = place.filter(|_| expected) {
                    self.model.trash.remove(&inode);
                    self.model.entries.insert(place, inode);
                }
                self.call(Op::TrashRestore {
                    inode,
                    to: to.map(|(parent, n)| (parent, name(n))),
                })
            }
            Step::Purge { inode, open } => {
                let inode = Inode(inode);
                expected = true;
                if self.model.trash.remove(&inode).is_some() {
                    self.model.removed(inode, (Inode(0), 0), false, !open);
                }
                let keep_open = if open { vec![inode] } else { vec![] };
                self.call(Op::TrashPurge {
                    inodes: vec![inode],
                    keep_open,
                })
            }
        };
        assert_eq!(result.is_ok(), expected, "{step:?} gave {result:?}");
    }

    /// All that can be asked of the state, against the model.
    fn compare(&self) {
        let (s, m) = (&self.state, &self.model);
        let mut bytes = (0, 0);
        for (inode, file) in &m.files {
            let attr = s.getattr(*inode).expect("a file of the model");
            assert_eq!(
                (attr.kind, attr.nlink as usize),
                (file.kind, m.nlink(*inode)),
                "{inode:?}"
            );
            let xattrs: Vec<_> = file.xattrs.iter().map(|n| name(*n)).collect();
            assert_eq!(s.listxattr(*inode).unwrap(), xattrs);
            if file.kind == Kind::Regular {
                assert_eq!(attr.size, file.size);
                let (_, chunks) = s.locate(*inode, 0, 100).unwrap();
                let chunks: BTreeMap<_, _> = chunks.iter().map(|c| (c.index, (c.handle, c.version))).collect();
                assert_eq!(chunks, file.chunks);
                let allocated: u64 = (0..10)
                    .filter(|i| file.chunks.contains_key(i))
                    .map(|i| {
                        file.size
                            .saturating_sub(u64::from(i) * CHUNK_SIZE_BYTES)
                            .min(CHUNK_SIZE_BYTES)
                    })
                    .sum();
                assert_eq!(attr.allocated_bytes, allocated);
                match m.trash.contains_key(inode) {
                    true => bytes.1 += file.size,
                    false if m.orphans.contains(inode) => {}
                    false => bytes.0 += file.size,
                }
            }
            if file.kind == Kind::Directory {
                // page by page, two at a time
                let (mut cookie, mut listed) = (0, BTreeMap::new());
                loop {
                    let page = s.readdir(*inode, cookie, 2).unwrap();
                    for entry in &page.entries {
                        assert!(entry.cookie > cookie.max(2) || listed.is_empty());
                        listed.insert(entry.name.clone(), entry.attr.inode);
                        cookie = entry.cookie;
                    }
                    if page.end {
                        break;
                    }
                }
                let entries: BTreeMap<_, _> = m.children(*inode).map(|((_, n), i)| (name(*n), *i)).collect();
                assert_eq!(listed, entries);
            }
            if m.links(*inode) > 0 && m.is_within(*inode, Inode::ROOT) {
                let path = s.path_of(*inode).expect("a path");
                let found = s.resolve(Inode::ROOT, &path, false).expect("a path that leads there");
                assert_eq!(found.attr.map(|a| a.inode), Some(*inode), "{path:?}");
            }
        }
        let counts = s.counts();
        let live = |kind: fn(Kind) -> bool| {
            let gone = |i: &Inode| m.trash.contains_key(i) || m.orphans.contains(i);
            m.files.iter().filter(|(i, f)| kind(f.kind) && !gone(i)).count() as u64
        };
        assert_eq!(counts.directories, live(|k| k == Kind::Directory));
        assert_eq!(counts.regular_files, live(|k| k == Kind::Regular));
        assert_eq!(
            counts.other_files,
            live(|k| !matches!(k, Kind::Directory | Kind::Regular))
        );
        assert_eq!((counts.bytes, counts.trash_bytes), bytes);
        assert_eq!(
            counts.chunks as usize,
            m.files.values().map(|f| f.chunks.len()).sum::<usize>()
        );
        let trash: Vec<_> = s
            .trash_list(Inode(0), 100)
            .entries
            .iter()
            .map(|t| (t.inode, t.parent, t.name[0]))
            .collect();
        assert_eq!(
            trash,
            m.trash.iter().map(|(i, (p, n))| (*i, *p, b'a' + n)).collect::<Vec<_>>()
        );
        assert_eq!(s.trash_expired(i64::MAX, 100).len(), m.trash.len());
    }
}

/// Equal but for the log's index and what sessions remember.
fn same_tree(a: &State, b: &State) -> bool {
    let bare = |s: &State| {
        let mut s = s.clone();
        let index = a.applied().max(b.applied()) + 1;
        apply(&mut s, index, &Command::EndSession { session: session() }).unwrap();
        s
    };
    bare(a) == bare(b)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn random_operations_agree_with_the_model(steps in proptest::collection::vec(step(), 1..160)) {
        let mut run = Run::new();
        for (i, step) in steps.iter().enumerate() {
            run.step(step);
            if i % 16 == 0 {
                run.compare();
            }
        }
        run.compare();
        let mut replayed = State::new();
        for (index, command) in &run.log {
            let bytes = postcard::to_stdvec(command).unwrap();
            let command: Command = postcard::from_bytes(&bytes).unwrap();
            apply(&mut replayed, *index, &command).unwrap();
        }
        assert!(replayed == run.state, "a replay gave another state");
        let mut bytes = Vec::new();
        run.state.encode(&mut bytes).unwrap();
        let mut rest = &bytes[..];
        assert!(State::decode(&mut rest).unwrap() == run.state, "a checkpoint gave another state");
        assert!(rest.is_empty());
    }
}
