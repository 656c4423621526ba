//! What POSIX, and Cairn's own promises, ask of single operations.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test: what does not hold must stop it
use cairn_metadata::{
    Attr, CannotApply, Command, Create, Effect, Existing, FsError, Grant, IndexedGrant, Install, Kind, Op, Outcome,
    RemovedAs, Rename, RenameMode, Reply, SetAttr, SetTime, State, Written, XattrMode, apply,
};
use cairn_types::layout::CHUNK_SIZE_BYTES;
use cairn_types::limits::{SESSION_CALLS_MAX, XATTR_VALUE_BYTES_MAX};
use cairn_types::{ChunkHandle, ClusterId, DiskId, Inode, Sequence, ServerId, SessionId, Version};

struct Cluster {
    state: State,
    index: u64,
    at_ns: i64,
}

fn epoch(cluster: u128) -> Command {
    Command::Epoch {
        cluster: ClusterId::from_bits(cluster),
        at_ns: 1,
        default_goal: 3,
        lease_ms: 5000,
        root_mode: 0o755,
        root_uid: 0,
        root_gid: 0,
    }
}

fn session() -> SessionId {
    SessionId::from_bits(5)
}

fn create(parent: Inode, name: &str, kind: Kind) -> Create {
    Create {
        parent,
        name: name.into(),
        kind,
        mode: 0o755,
        uid: 10,
        gid: 20,
        rdev: 0,
        target: if kind == Kind::Symlink {
            b"somewhere".to_vec()
        } else {
            vec![]
        },
        goal: 0,
        existing: Existing::Refuse,
        chunk: None,
    }
}

impl Cluster {
    fn new() -> Self {
        let mut c = Self {
            state: State::new(),
            index: 0,
            at_ns: 100,
        };
        c.log(epoch(1)).unwrap();
        let disks = (0..4).map(DiskId::from_bits).collect();
        let server = ServerId::from_bits(1);
        c.log(Command::RegisterServer {
            server,
            label: "r/h".into(),
            address: "h:1".into(),
            disks,
        })
        .unwrap();
        c.log(Command::OpenSession {
            session: session(),
            at_ns: 1,
            description: String::new(),
        })
        .unwrap();
        c
    }

    fn log(&mut self, command: Command) -> Result<Outcome, CannotApply> {
        self.index += 1;
        apply(&mut self.state, self.index, &command)
    }

    fn outcome(&mut self, op: Op) -> Outcome {
        self.at_ns += 1;
        let at_ns = self.at_ns;
        self.log(Command::Internal { at_ns, op }).unwrap()
    }

    fn op(&mut self, op: Op) -> Result<Reply, FsError> {
        self.outcome(op).result
    }

    fn make(&mut self, create: Create) -> Attr {
        match self.op(Op::Create(create)) {
            Ok(Reply::Created { attr, .. }) => attr,
            other => panic!("{other:?}"),
        }
    }

    fn file(&mut self, name: &str) -> Inode {
        self.make(create(Inode::ROOT, name, Kind::Regular)).inode
    }

    fn directory(&mut self, parent: Inode, name: &str) -> Inode {
        self.make(create(parent, name, Kind::Directory)).inode
    }

    fn set(&mut self, inode: Inode, set: SetAttr) -> Attr {
        match self.op(Op::SetAttr { inode, set }) {
            Ok(Reply::Attr(attr)) => attr,
            other => panic!("{other:?}"),
        }
    }

    fn rename(&mut self, from: (Inode, &str), to: (Inode, &str), mode: RenameMode) -> Result<Reply, FsError> {
        self.op(Op::Rename(Rename {
            parent: from.0,
            name: from.1.into(),
            new_parent: to.0,
            new_name: to.1.into(),
            mode,
            removed: RemovedAs::default(),
        }))
    }

    fn grant(&self, counter: u64) -> Grant {
        let members = (0..3).map(DiskId::from_bits).collect();
        Grant {
            version: Version::new(self.state.epoch(), counter),
            members,
        }
    }

    fn allocate(&mut self, inode: Inode, index: u32, counter: u64) -> (ChunkHandle, Version) {
        let grants = vec![IndexedGrant {
            index,
            grant: self.grant(counter),
        }];
        match self.op(Op::Allocate { inode, grants }) {
            Ok(Reply::Chunks { chunks, .. }) => (chunks[0].handle, chunks[0].version),
            other => panic!("{other:?}"),
        }
    }

    fn commit(&mut self, inode: Inode, size: u64, chunks: Vec<Written>, seen: u64) -> Result<Attr, FsError> {
        let op = Op::Commit {
            inode,
            size,
            chunks,
            written: true,
            generation_seen: seen,
            kill_suid: false,
        };
        match self.op(op)? {
            Reply::Attr(attr) => Ok(attr),
            other => panic!("{other:?}"),
        }
    }

    fn install(&mut self, handle: ChunkHandle, counter: u64) -> Install {
        let Grant { version, members } = self.grant(counter);
        Install {
            handle,
            version,
            members,
            from_suspect: false,
            length: None,
            cut: None,
        }
    }
}

const NOT_TRASHED: RemovedAs = RemovedAs {
    trash_keep_ns: 0,
    closed: None,
};
const TRASHED: RemovedAs = RemovedAs {
    trash_keep_ns: 1000,
    closed: None,
};

#[test]
fn errors_are_the_ones_that_posix_names() {
    let mut c = Cluster::new();
    let file = c.file("f");
    let d = c.directory(Inode::ROOT, "d");
    let below = c.directory(d, "below");
    let unlink = |name: &str| Op::Unlink {
        parent: Inode::ROOT,
        name: name.into(),
        removed: NOT_TRASHED,
    };
    let rmdir = |name: &str| Op::Rmdir {
        parent: Inode::ROOT,
        name: name.into(),
        removed: NOT_TRASHED,
    };
    let (root, replace) = (Inode::ROOT, RenameMode::Replace);
    let long = "x".repeat(256);
    let refused = [
        (c.op(Op::Create(create(root, "f", Kind::Regular))), FsError::Exists),
        (
            c.op(Op::Create(create(file, "x", Kind::Regular))),
            FsError::NotDirectory,
        ),
        (
            c.op(Op::Create(create(Inode(99), "x", Kind::Regular))),
            FsError::NoSuchInode,
        ),
        (
            c.op(Op::Create(create(root, &long, Kind::Regular))),
            FsError::NameTooLong,
        ),
        (
            c.op(Op::Create(create(root, "a/b", Kind::Regular))),
            FsError::InvalidName,
        ),
        (c.op(unlink("d")), FsError::IsDirectory),
        (c.op(unlink("none")), FsError::NotFound),
        (c.op(rmdir("f")), FsError::NotDirectory),
        (c.op(rmdir("d")), FsError::NotEmpty),
        (
            c.op(Op::Link {
                inode: d,
                parent: root,
                name: b"l".to_vec(),
            }),
            FsError::LinkOfDirectory,
        ),
        (
            c.op(Op::Link {
                inode: file,
                parent: root,
                name: b"d".to_vec(),
            }),
            FsError::Exists,
        ),
        (c.rename((root, "d"), (below, "x"), replace), FsError::IntoItself),
        (c.rename((root, "d"), (root, "f"), replace), FsError::NotDirectory),
        (c.rename((root, "f"), (root, "d"), replace), FsError::IsDirectory),
        (c.rename((d, "below"), (root, "d"), replace), FsError::NotEmpty),
        (
            c.rename((root, "f"), (root, "d"), RenameMode::NoReplace),
            FsError::Exists,
        ),
        (
            c.rename((root, "f"), (root, "none"), RenameMode::Exchange),
            FsError::NotFound,
        ),
        (
            c.rename((root, "d"), (d, "below"), RenameMode::Exchange),
            FsError::IntoItself,
        ),
        (
            c.rename((d, "below"), (root, "d"), RenameMode::Exchange),
            FsError::IntoItself,
        ),
        (
            c.op(Op::SetAttr {
                inode: d,
                set: SetAttr {
                    size: Some(0),
                    ..SetAttr::default()
                },
            }),
            FsError::IsDirectory,
        ),
        (
            c.op(Op::SetAttr {
                inode: file,
                set: SetAttr {
                    size: Some(u64::MAX),
                    ..SetAttr::default()
                },
            }),
            FsError::TooLarge,
        ),
    ];
    for (i, (result, error)) in refused.iter().enumerate() {
        assert_eq!(*result, Err(*error), "case {i}");
    }
    assert_eq!(c.state.readlink(file), Err(FsError::InvalidArgument));
    assert_eq!(
        (
            FsError::NotEmpty.errno(),
            FsError::NoSuchInode.errno(),
            FsError::NoXattr.errno()
        ),
        (39, 116, 61)
    );
}

#[test]
fn a_set_gid_directory_gives_its_group_and_to_directories_its_bit() {
    let mut c = Cluster::new();
    let d = c.directory(Inode::ROOT, "d");
    c.set(
        d,
        SetAttr {
            mode: Some(0o2775),
            gid: Some(77),
            ..SetAttr::default()
        },
    );
    let file = c.make(create(d, "f", Kind::Regular));
    let below = c.make(create(d, "b", Kind::Directory));
    assert_eq!((file.gid, file.mode), (77, 0o755));
    assert_eq!((below.gid, below.mode), (77, 0o2755));
}

#[test]
fn a_change_of_owner_takes_set_uid_from_executables() {
    let mut c = Cluster::new();
    let file = c.file("f");
    let mode = |mode| SetAttr {
        mode: Some(mode),
        ..SetAttr::default()
    };
    let owner = SetAttr {
        uid: Some(5),
        ..SetAttr::default()
    };
    c.set(file, mode(0o6755));
    assert_eq!(c.set(file, owner.clone()).mode, 0o755);
    c.set(file, mode(0o6745));
    assert_eq!(
        c.set(file, owner.clone()).mode,
        0o2745,
        "set-gid without group execute is a mark for locks"
    );
    c.set(file, mode(0o4644));
    assert_eq!(c.set(file, owner.clone()).mode, 0o4644, "not executable");
    assert_eq!(
        c.set(
            file,
            SetAttr {
                mode: Some(0o4755),
                ..owner
            }
        )
        .mode,
        0o4755,
        "the mode was asked for"
    );
}

#[test]
fn an_explicit_mtime_outlives_writes_that_were_queued_before_it() {
    let mut c = Cluster::new();
    let file = c.file("f");
    let seen = c.state.getattr(file).unwrap().generation;
    let old = 1_000_000;
    let explicit = SetAttr {
        mtime: Some(SetTime::At(old)),
        ..SetAttr::default()
    };
    let after = c.set(file, explicit);
    assert_eq!(after.mtime_ns, old);
    let late = c.commit(file, 10, vec![], seen).unwrap();
    assert_eq!((late.mtime_ns, late.size), (old, 10), "a late flush");
    assert!(late.generation > after.generation && late.ctime_ns > after.ctime_ns);
    let new = c.commit(file, 20, vec![], after.generation).unwrap();
    assert_eq!(new.mtime_ns, c.at_ns, "a write after the touch");
    // and a write by one that saw neither, later, does not bring the old time back
    assert_eq!(c.commit(file, 30, vec![], seen).unwrap().mtime_ns, new.mtime_ns);
}

#[test]
fn r12_a_commit_under_an_older_version_or_of_a_dropped_chunk_is_refused() {
    let mut c = Cluster::new();
    let file = c.file("f");
    let (handle, version) = c.allocate(file, 0, 1);
    let written = Written {
        index: 0,
        handle,
        version,
    };
    assert!(!c.state.chunk(handle).unwrap().committed);
    assert_eq!(c.commit(file, 10, vec![written], 9).unwrap().size, 10);
    assert!(
        c.state.chunk(handle).unwrap().committed,
        "every member has a replica (R10)"
    );
    let install = c.install(handle, 2);
    let new = install.version;
    c.op(Op::Install(install)).unwrap();
    assert_eq!(c.commit(file, 20, vec![written], 9), Err(FsError::StaleVersion));
    let under = |version| Written { version, ..written };
    assert_eq!(c.commit(file, 20, vec![under(new)], 9).unwrap().size, 20);
    c.set(
        file,
        SetAttr {
            size: Some(0),
            ..SetAttr::default()
        },
    );
    assert_eq!(c.commit(file, 20, vec![under(new)], 9), Err(FsError::StaleVersion));
    let (other, version) = c.allocate(file, 0, 3);
    assert_ne!(other, handle, "handles are never used again");
    assert_eq!(
        c.commit(file, 20, vec![Written { version, ..written }], 9),
        Err(FsError::StaleVersion)
    );
}

#[test]
fn r5_an_install_acts_only_above_the_logged_version() {
    let mut c = Cluster::new();
    let file = c.file("f");
    let (handle, _) = c.allocate(file, 0, 5);
    for counter in [4, 5] {
        let install = c.install(handle, counter);
        assert_eq!(c.op(Op::Install(install)), Err(FsError::StaleVersion));
    }
    assert!(c.state.chunk(handle).unwrap().granted);
    let install = Install {
        from_suspect: true,
        ..c.install(handle, 6)
    };
    let version = install.version;
    let outcome = c.outcome(Op::Install(install));
    assert!(matches!(&outcome.effects[..], [Effect::ChunkInstalled { before, .. }] if before.granted));
    let install = c.install(handle, 7);
    c.op(Op::Install(install)).unwrap();
    let chunk = c.state.chunk(handle).unwrap();
    assert_eq!(
        (chunk.granted, chunk.from_suspect),
        (false, Some(version)),
        "the last such version stays"
    );
}

#[test]
fn r12_an_install_takes_the_length_of_a_writer_that_is_gone() {
    let mut c = Cluster::new();
    let file = c.file("f");
    let (handle, _) = c.allocate(file, 1, 1);
    let install = Install {
        length: Some(7),
        ..c.install(handle, 2)
    };
    c.op(Op::Install(install)).unwrap();
    assert_eq!(c.state.getattr(file).unwrap().size, CHUNK_SIZE_BYTES + 7);
    let install = Install {
        length: Some(3),
        ..c.install(handle, 3)
    };
    c.op(Op::Install(install)).unwrap();
    assert_eq!(
        c.state.getattr(file).unwrap().size,
        CHUNK_SIZE_BYTES + 7,
        "never shorter"
    );
}

#[test]
fn r13_a_cut_within_a_chunk_needs_its_install() {
    let mut c = Cluster::new();
    let file = c.file("f");
    let (first, _) = c.allocate(file, 0, 1);
    let (second, _) = c.allocate(file, 1, 2);
    c.commit(file, 2 * CHUNK_SIZE_BYTES, vec![], 9).unwrap();
    let set = SetAttr {
        size: Some(100),
        ..SetAttr::default()
    };
    assert_eq!(c.state.cut_needed(file, 100), Some((first, 100)));
    assert_eq!(
        c.state.cut_needed(file, CHUNK_SIZE_BYTES),
        None,
        "whole chunks are dropped"
    );
    assert_eq!(
        c.op(Op::SetAttr {
            inode: file,
            set: set.clone()
        }),
        Err(FsError::CutNeeded)
    );
    let wrong = Install {
        cut: Some(set.clone()),
        ..c.install(second, 3)
    };
    assert_eq!(c.op(Op::Install(wrong)), Err(FsError::InvalidArgument));
    let install = Install {
        cut: Some(set),
        ..c.install(first, 4)
    };
    let outcome = c.outcome(Op::Install(install));
    assert!(matches!(outcome.result, Ok(Reply::Attr(Attr { size: 100, .. }))));
    let dropped = outcome.effects.iter().find_map(|e| match e {
        Effect::ChunkDropped { chunk } => Some(chunk.handle),
        _ => None,
    });
    assert_eq!(dropped, Some(second));
    let install = c.install(second, 5);
    assert_eq!(c.op(Op::Install(install)), Err(FsError::NoSuchChunk));
}

#[test]
fn r10_one_record_creates_the_file_and_its_chunk_and_goals_are_inherited() {
    let mut c = Cluster::new();
    let d = c.directory(Inode::ROOT, "d");
    c.op(Op::SetGoal { inode: d, goal: 2 }).unwrap();
    let grant = c.grant(1);
    let make = Create {
        chunk: Some(grant.clone()),
        ..create(d, "f", Kind::Regular)
    };
    let Ok(Reply::Created {
        attr,
        existed: false,
        chunk: Some(chunk),
    }) = c.op(Op::Create(make.clone()))
    else {
        panic!()
    };
    assert_eq!(
        (chunk.inode, chunk.index, chunk.version, &chunk.members),
        (attr.inode, 0, grant.version, &grant.members)
    );
    assert_eq!((attr.goal, chunk.goal, chunk.granted), (2, 2, true));
    let again = Create {
        existing: Existing::OpenTruncated,
        ..make
    };
    let outcome = c.outcome(Op::Create(again));
    assert!(matches!(
        outcome.result,
        Ok(Reply::Created {
            existed: true,
            chunk: None,
            ..
        })
    ));
    assert!(outcome.effects.iter().any(|e| matches!(e, Effect::ChunkDropped { .. })));
    assert_eq!(c.make(create(Inode::ROOT, "g", Kind::Regular)).goal, 3);
    assert_eq!(c.op(Op::SetGoal { inode: d, goal: 9 }), Err(FsError::InvalidGoal));
}

#[test]
fn r10_one_record_cuts_a_file_to_nothing_and_grants_its_first_chunk_anew() {
    let mut c = Cluster::new();
    let file = c.make(create(Inode::ROOT, "f", Kind::Regular)).inode;
    let (old, version) = c.allocate(file, 0, 1);
    let written = Written {
        index: 0,
        handle: old,
        version,
    };
    c.commit(file, 100, vec![written], 1).unwrap();
    let chunk = Some(c.grant(2));
    let outcome = c.outcome(Op::Truncate { inode: file, chunk });
    let Ok(Reply::Chunks { attr, chunks }) = outcome.result else {
        panic!("{:?}", outcome.result)
    };
    assert_eq!((attr.size, chunks.len()), (0, 1));
    assert!(chunks[0].handle != old && chunks[0].granted && chunks[0].version > version);
    let dropped = |e: &Effect| matches!(e, Effect::ChunkDropped { .. });
    assert!(outcome.effects.iter().any(dropped));
    assert_eq!(c.state.name_of(file), Some(b"f".to_vec()));

    // one that can't be applied whole is not applied at all
    let stale = Some(c.grant(2));
    let gone = Op::Truncate {
        inode: Inode(999),
        chunk: stale,
    };
    assert_eq!(c.op(gone), Err(FsError::NoSuchInode));
    let directory = c.directory(Inode::ROOT, "d");
    let of_directory = Op::Truncate {
        inode: directory,
        chunk: None,
    };
    assert_eq!(c.op(of_directory), Err(FsError::IsDirectory));
    assert_eq!(c.state.name_of(Inode::ROOT), None);
}

#[test]
fn p1_a_repeated_call_is_answered_and_not_applied() {
    let mut c = Cluster::new();
    let call = |sequence, acknowledged, name: &str| Command::Call {
        session: session(),
        sequence: Sequence(sequence),
        acknowledged: Sequence(acknowledged),
        at_ns: 1,
        op: Op::Create(create(Inode::ROOT, name, Kind::Regular)),
    };
    let first = c.log(call(1, 0, "a")).unwrap();
    let again = c.log(call(1, 0, "a")).unwrap();
    assert_eq!(
        (again.result, again.repeated, again.effects),
        (first.result.clone(), true, vec![])
    );
    assert_eq!(c.state.remembered(session(), Sequence(1)), Some(first.result));
    c.log(call(3, 1, "b")).unwrap().result.unwrap();
    assert_eq!(c.state.remembered(session(), Sequence(1)), None);
    assert_eq!(c.log(call(1, 0, "a")).unwrap().result, Err(FsError::Forgotten));
    assert!(
        c.log(call(2, 1, "c")).unwrap().result.is_ok(),
        "calls may arrive in another order"
    );
    for i in 0..SESSION_CALLS_MAX as u64 - 2 {
        c.log(call(10 + i, 1, "a")).unwrap();
    }
    assert_eq!(c.log(call(5000, 1, "d")).unwrap().result, Err(FsError::TooManyCalls));
    c.log(Command::EndSession { session: session() }).unwrap();
    assert_eq!(c.log(call(5001, 1, "d")).unwrap().result, Err(FsError::SessionEnded));
}

#[test]
fn an_unlinked_file_that_is_open_stays_until_it_is_released() {
    let mut c = Cluster::new();
    let file = c.file("f");
    let (handle, _) = c.allocate(file, 0, 1);
    let unlink = Op::Unlink {
        parent: Inode::ROOT,
        name: b"f".to_vec(),
        removed: NOT_TRASHED,
    };
    let outcome = c.outcome(unlink);
    assert!(outcome.effects.contains(&Effect::Orphaned { inode: file }));
    assert_eq!(c.state.getattr(file).unwrap().nlink, 0);
    assert!(c.state.chunk(handle).is_some());
    assert_eq!(
        c.op(Op::Link {
            inode: file,
            parent: Inode::ROOT,
            name: b"g".to_vec()
        }),
        Err(FsError::NotFound)
    );
    let outcome = c.outcome(Op::ReleaseOrphans {
        inodes: vec![file, Inode(77)],
    });
    assert_eq!(outcome.result, Ok(Reply::Purged { count: 1, bytes: 0 }));
    assert!(outcome.effects.contains(&Effect::InodeFreed { inode: file }));
    assert!(c.state.chunk(handle).is_none());
    // known to be closed: at once; but only the inode that the master saw
    let (a, b) = (c.file("a"), c.file("b"));
    let removed = RemovedAs {
        trash_keep_ns: 0,
        closed: Some(a),
    };
    for (name, inode, freed) in [("a", a, true), ("b", b, false)] {
        c.op(Op::Unlink {
            parent: Inode::ROOT,
            name: name.into(),
            removed,
        })
        .unwrap();
        assert_eq!(c.state.getattr(inode).is_err(), freed);
    }
}

#[test]
fn the_trash_keeps_what_lost_its_last_name_and_gives_it_back() {
    let mut c = Cluster::new();
    let d = c.directory(Inode::ROOT, "d");
    let file = c.make(create(d, "f", Kind::Regular)).inode;
    c.commit(file, 100, vec![], 9).unwrap();
    let unlink = |name: &str| Op::Unlink {
        parent: d,
        name: name.into(),
        removed: TRASHED,
    };
    let deleted_ns = c.at_ns + 1;
    c.op(unlink("f")).unwrap();
    let page = c.state.trash_list(Inode(0), 10);
    assert_eq!(
        (page.total_bytes, page.end, &page.entries[0].path[..]),
        (100, true, &b"/d/f"[..])
    );
    assert_eq!(c.state.trash_expired(deleted_ns + 999, 10), []);
    assert_eq!(c.state.trash_expired(deleted_ns + 1000, 10), [file]);
    assert_eq!(c.state.counts().bytes, 0);
    c.op(Op::TrashRestore { inode: file, to: None }).unwrap();
    assert_eq!(c.state.lookup(d, b"f").unwrap().inode, file);
    assert_eq!((c.state.counts().bytes, c.state.counts().trash_bytes), (100, 0));

    c.make(create(d, "g", Kind::Regular));
    let over = Rename {
        parent: d,
        name: b"g".to_vec(),
        new_parent: d,
        new_name: b"f".to_vec(),
        mode: RenameMode::Replace,
        removed: TRASHED,
    };
    c.op(Op::Rename(over)).unwrap();
    assert_eq!(
        c.op(Op::TrashRestore { inode: file, to: None }),
        Err(FsError::Exists),
        "renamed over"
    );
    c.op(unlink("f")).unwrap();
    let removed = RemovedAs {
        closed: Some(d),
        ..TRASHED
    };
    c.op(Op::Rmdir {
        parent: Inode::ROOT,
        name: b"d".to_vec(),
        removed,
    })
    .unwrap();
    assert_eq!(
        c.op(Op::TrashRestore { inode: file, to: None }),
        Err(FsError::NotFound),
        "its directory is gone"
    );
    c.op(Op::TrashRestore {
        inode: file,
        to: Some((Inode::ROOT, b"back".to_vec())),
    })
    .unwrap();
    let rest = c.state.trash_list(Inode(0), 10).entries[0].inode;
    let purged = c.op(Op::TrashPurge {
        inodes: vec![rest, file],
        keep_open: vec![],
    });
    assert_eq!(
        purged,
        Ok(Reply::Purged { count: 1, bytes: 0 }),
        "what is not in the trash is passed over"
    );
    assert_eq!(c.state.counts().trash_files, 0);
}

#[test]
fn xattrs_have_the_limits_and_flags_of_linux() {
    let mut c = Cluster::new();
    let file = c.file("f");
    let set = |name: &str, len: usize, mode| Op::SetXattr {
        inode: file,
        name: name.into(),
        value: vec![1; len],
        mode,
    };
    c.op(set("user.a", XATTR_VALUE_BYTES_MAX, XattrMode::Create)).unwrap();
    assert_eq!(c.op(set("user.a", 1, XattrMode::Create)), Err(FsError::Exists));
    assert_eq!(c.op(set("user.b", 1, XattrMode::Replace)), Err(FsError::NoXattr));
    assert_eq!(
        c.op(set("user.b", XATTR_VALUE_BYTES_MAX + 1, XattrMode::Set)),
        Err(FsError::XattrTooLarge)
    );
    assert_eq!(
        c.op(set(&"n".repeat(256), 1, XattrMode::Set)),
        Err(FsError::XattrNameTooLong)
    );
    for name in ["user.c", "user.d"] {
        c.op(set(name, XATTR_VALUE_BYTES_MAX, XattrMode::Set)).unwrap();
    }
    assert_eq!(
        c.op(set("user.e", XATTR_VALUE_BYTES_MAX, XattrMode::Set)),
        Err(FsError::XattrsFull)
    );
    c.op(set("user.a", 3, XattrMode::Replace)).unwrap();
    assert_eq!(c.state.getxattr(file, b"user.a"), Ok(vec![1; 3]));
    assert_eq!(c.state.listxattr(file).unwrap(), [b"user.a", b"user.c", b"user.d"]);
    c.op(Op::RemoveXattr {
        inode: file,
        name: b"user.a".to_vec(),
    })
    .unwrap();
    assert_eq!(c.state.getxattr(file, b"user.a"), Err(FsError::NoXattr));
}

#[test]
fn paths_are_walked_through_links_and_not_for_ever() {
    let mut c = Cluster::new();
    let d = c.directory(Inode::ROOT, "d");
    let file = c.make(create(d, "f", Kind::Regular)).inode;
    let mut link = |name: &str, target: &str| {
        c.make(Create {
            target: target.into(),
            ..create(Inode::ROOT, name, Kind::Symlink)
        })
        .inode
    };
    let to_d = link("to_d", "/d");
    link("to_f", "to_d/f");
    link("loop", "loop");
    let walk = |path: &str, follow| c.state.resolve(Inode::ROOT, path.as_bytes(), follow);
    let inode = |path: &str, follow| walk(path, follow).map(|r| r.attr.map(|a| a.inode));
    assert_eq!(inode("/", true), Ok(Some(Inode::ROOT)));
    assert_eq!(inode("/d//./f", true), Ok(Some(file)));
    assert_eq!(inode("/d/../to_d/f", false), Ok(Some(file)));
    assert_eq!(inode("/to_f", true), Ok(Some(file)));
    assert_eq!(inode("/to_d", false), Ok(Some(to_d)));
    assert_eq!(inode("/to_d/", false), Ok(Some(d)));
    assert_eq!(inode("/d/new", true), Ok(None));
    let new = walk("/to_d/new", true).unwrap();
    assert_eq!((new.parent, &new.name[..]), (d, &b"new"[..]));
    assert_eq!(inode("/d/f/", true), Err(FsError::NotDirectory));
    assert_eq!(inode("/none/f", true), Err(FsError::NotFound));
    assert_eq!(inode("/loop", true), Err(FsError::SymlinkLoop));
    assert_eq!(c.state.path_of(file), Ok(b"/d/f".to_vec()));
    assert_eq!(c.state.path_of(Inode::ROOT), Ok(b"/".to_vec()));
}

#[test]
fn what_no_sound_master_logs_halts_the_node() {
    let mut c = Cluster::new();
    let file = c.file("f");
    let grant = |version, disk| {
        let grant = Grant {
            version,
            members: vec![DiskId::from_bits(disk)],
        };
        Command::Internal {
            at_ns: 1,
            op: Op::Allocate {
                inode: file,
                grants: vec![IndexedGrant { index: 0, grant }],
            },
        }
    };
    let here = Version::new(c.state.epoch(), 1);
    assert_eq!(
        c.log(grant(here, 99)),
        Err(CannotApply::UnknownDisk(DiskId::from_bits(99)))
    );
    let later = Version::new(1000, 1);
    assert_eq!(c.log(grant(later, 1)), Err(CannotApply::ForeignVersion(later)));
    assert!(matches!(c.log(epoch(2)), Err(CannotApply::OtherCluster { .. })));
    let install = c.install(ChunkHandle(50), 1);
    let unknown = Command::Internal {
        at_ns: 1,
        op: Op::Install(install),
    };
    assert_eq!(c.log(unknown.clone()), Err(CannotApply::UnknownChunk(ChunkHandle(50))));
    let index = c.index;
    assert_eq!(
        apply(&mut c.state, index, &epoch(1)),
        Err(CannotApply::OutOfOrder { index, applied: index })
    );
    assert_eq!(apply(&mut State::new(), 1, &unknown), Err(CannotApply::NoEpoch));
}

#[test]
fn r2_versions_of_an_earlier_epoch_are_refused() {
    let mut c = Cluster::new();
    let file = c.file("f");
    let (handle, _) = c.allocate(file, 0, 1);
    let late = c.install(handle, 2);
    c.log(epoch(1)).unwrap();
    assert_eq!(c.op(Op::Install(late)), Err(FsError::StaleVersion));
}
