//! Formatting, opening, the floor, versions and states, the index, and many threads.
use super::super::*;
use super::harness::*;
use cairn_io::sim::{Effect, Fault, Op, SimDisk, Trace};
use cairn_io::{Disk, RealClock, RealDisk};
use cairn_types::{ClusterId, ServerId, Version};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::path::Path;

const AT: At = At::Installed(V1);

fn file(disk: &dyn Disk, path: &str, bytes: &[u8]) {
    let file = disk.create(Path::new(path)).unwrap();
    file.write_at(bytes, 0).unwrap();
}

#[test]
fn only_an_empty_directory_is_formatted() {
    let disk = SimDisk::new("/mnt/a", Trace::default());
    file(&disk, "photo.jpg", b"");
    let refused = DiskStore::format(&disk, &stamp()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "/mnt/a is not empty, it has \"photo.jpg\": it will not be formatted"
    );
    disk.remove(Path::new("photo.jpg")).unwrap();
    disk.create_dir_all(Path::new("lost+found")).unwrap();
    DiskStore::format(&disk, &stamp()).unwrap();
    assert_eq!(Stamp::read(&disk).unwrap(), Some(stamp()));
    assert!(matches!(
        DiskStore::format(&disk, &stamp()),
        Err(OpenError::AlreadyFormatted { .. })
    ));
}

#[test]
fn a_format_cut_short_anywhere_is_done_again() {
    for n in 0.. {
        let disk = SimDisk::new("a", Trace::default());
        disk.stop_after(n);
        let done = DiskStore::format(&disk, &stamp()).is_ok();
        assert!(done || disk.stopped(), "{n}");
        disk.power_loss(&mut StdRng::seed_from_u64(n));
        let disk = disk.mount();
        match Stamp::read(&disk).unwrap() {
            Some(found) => assert_eq!(found, stamp()),
            None => {
                assert!(!done);
                DiskStore::format(&disk, &stamp()).unwrap();
            }
        }
        if done {
            break;
        }
    }
}

#[test]
fn chunks_without_a_stamp_are_never_formatted_over() {
    let machine = Machine::new();
    create_made(&machine.open(), HANDLE);
    machine.disk.kill();
    let disk = machine.disk.mount();
    disk.remove(Path::new("cairn-disk")).unwrap();
    assert!(matches!(
        DiskStore::format(&disk, &stamp()),
        Err(OpenError::NotEmpty { .. })
    ));
    assert!(matches!(machine.try_open(), Err(OpenError::NotFormatted { .. })));
}

#[test]
fn a_disk_of_another_cluster_or_server_is_refused_by_name() {
    let disk = SimDisk::new("/mnt/b", Trace::default());
    DiskStore::format(&disk, &stamp()).unwrap();
    let open = |expected: &Identity| {
        let clock = Machine::new().clock;
        DiskStore::open(
            std::sync::Arc::new(disk.mount()),
            clock,
            expected,
            DiskOptions::default(),
        )
        .map(drop)
    };
    let mut expected = Identity {
        cluster: Some(ClusterId::from_bits(99)),
        server: Some(stamp().server),
        told_by: "/mnt/a".to_owned(),
    };
    let message = open(&expected).unwrap_err().to_string();
    for part in [
        "/mnt/a",
        "/mnt/b",
        &ClusterId::from_bits(99).to_string(),
        &stamp().cluster.to_string(),
    ] {
        assert!(message.contains(part), "{message}");
    }
    expected.cluster = Some(stamp().cluster);
    open(&expected).unwrap();
    expected.server = Some(ServerId::from_bits(98));
    assert!(matches!(open(&expected), Err(OpenError::OtherServer { .. })));
}

#[test]
fn a_stamp_that_is_damaged_or_newer_is_refused_and_two_processes_too() {
    let machine = Machine::new();
    let store = machine.open();
    assert!(matches!(machine.try_open(), Err(OpenError::InUse { .. })));
    drop(store);
    let good = machine.disk.contents("cairn-disk").unwrap();
    for bit in 0..good.len() as u64 * 8 {
        machine.disk.flip("cairn-disk", bit);
        let result = machine.try_open();
        assert!(
            matches!(result, Err(OpenError::StampDamaged { .. })),
            "{bit}: {:?}",
            result.err()
        );
        machine.disk.flip("cairn-disk", bit);
    }
    let body = "cairn-disk 7\nwhatever comes\n";
    let text = format!("{body}crc32 {:08x}\n", crc32fast::hash(body.as_bytes()));
    let disk = machine.disk.mount();
    disk.remove(Path::new("cairn-disk")).unwrap();
    file(&disk, "cairn-disk", text.as_bytes());
    assert!(matches!(
        machine.try_open(),
        Err(OpenError::NewerFormat { found: 7, known: 1, .. })
    ));
}

#[test]
fn a_chunk_goes_from_fenced_to_installed_once_and_never_back() {
    let machine = Machine::new();
    let store = machine.open();
    let chunk = store.create(HANDLE, V1, State::Installed, &meta()).unwrap();
    assert_eq!(chunk.meta().unwrap(), meta());
    write(&chunk, AT, 0, b"one").unwrap();
    assert!(matches!(store.fence(HANDLE, V1), Err(StoreError::Superseded { .. })));
    let info = store.fence(HANDLE, V2).unwrap();
    assert_eq!(
        (info.version, info.state, info.length, info.synced),
        (V2, State::Fenced, 3, true)
    );
    store.fence(HANDLE, V2).unwrap();
    assert!(matches!(store.fence(HANDLE, V1), Err(StoreError::Superseded { .. })));
    // at the old version nothing is read or written any more, nor before it is installed
    for at in [AT, At::Installed(V2), At::Joining(V2), At::Fenced(V1)] {
        assert!(matches!(
            write(&chunk, at, 0, b"x"),
            Err(StoreError::WrongVersion { .. })
        ));
        assert!(matches!(
            chunk.read(at, 0, 1, false),
            Err(StoreError::WrongVersion { .. })
        ));
        assert!(matches!(chunk.table(at), Err(StoreError::WrongVersion { .. })));
    }
    write(&chunk, At::Fenced(V2), 0, b"two").unwrap();
    assert!(matches!(chunk.install(V3), Err(StoreError::WrongVersion { .. })));
    assert!(chunk.install(V2).unwrap());
    assert!(!chunk.install(V2).unwrap());
    // a copy that comes late, and a fence at the version that it was installed at
    assert!(matches!(
        write(&chunk, At::Fenced(V2), 0, b"x"),
        Err(StoreError::WrongVersion { .. })
    ));
    assert!(matches!(
        chunk.truncate(At::Installed(V2), 0),
        Err(StoreError::WrongVersion { .. })
    ));
    assert!(matches!(store.fence(HANDLE, V2), Err(StoreError::Superseded { .. })));
    drop((store, chunk));
    let chunk = machine.kill().chunk(HANDLE).unwrap();
    assert_eq!(read_all(&chunk, At::Installed(V2)).unwrap(), b"two");
    assert_eq!(chunk.meta().unwrap(), meta());
}

#[test]
fn a_joining_replica_is_filled_fenced_and_installed() {
    let machine = Machine::new();
    let store = machine.open();
    store.raise_floor(V3).unwrap();
    let chunk = store.create(HANDLE, V1, State::Joining, &meta()).unwrap();
    write(&chunk, At::Joining(V1), 0, b"copy").unwrap();
    chunk.sync().unwrap();
    let next = Version::new(3, 1);
    store.fence(HANDLE, next).unwrap();
    assert_eq!(chunk.table(At::Fenced(next)).unwrap().crcs, block_crcs(b"copy"));
    assert!(chunk.install(next).unwrap());
}

#[test]
fn nothing_is_created_at_or_below_the_floor() {
    let machine = Machine::new();
    let store = machine.open();
    let create = |store: &DiskStore, handle, version| {
        store
            .create(ChunkHandle(handle), version, State::Installed, &meta())
            .map(drop)
    };
    create(&store, 1, V2).unwrap();
    assert!(matches!(
        create(&store, 1, V3),
        Err(StoreError::Exists { version: V2, .. })
    ));
    // an order to delete is void for a higher version
    assert!(matches!(
        store.unlink(ChunkHandle(1), V1),
        Err(StoreError::Superseded { .. })
    ));
    store.unlink(ChunkHandle(1), V3).unwrap();
    assert!(matches!(
        store.unlink(ChunkHandle(1), V3),
        Err(StoreError::NotFound { .. })
    ));
    assert_eq!(store.floor(), V2);
    assert!(matches!(
        create(&store, 1, V2),
        Err(StoreError::BelowFloor { floor: V2, .. })
    ));
    // a fence of a chunk that is not here
    assert!(matches!(
        store.fence(ChunkHandle(2), V3),
        Err(StoreError::NotFound { .. })
    ));
    assert!(matches!(
        create(&store, 2, V3),
        Err(StoreError::BelowFloor { floor: V3, .. })
    ));
    drop(store);
    assert_eq!(machine.kill().floor(), V3);
}

#[test]
fn the_floor_is_durable_before_the_chunk_is_gone() {
    for n in 0.. {
        let machine = Machine::new();
        let store = machine.open();
        store
            .create(HANDLE, V2, State::Installed, &meta())
            .unwrap()
            .sync()
            .unwrap();
        machine.disk.stop_after(n);
        let done = store.unlink(HANDLE, V2).is_ok();
        assert!(done || machine.disk.stopped(), "{n}");
        drop(store);
        machine.disk.power_loss(&mut StdRng::seed_from_u64(n));
        let store = machine.open();
        assert!(store.chunk(HANDLE).is_ok() || store.floor() == V2, "{n}");
        if done {
            break;
        }
    }
}

/// Its last write was never synced, its clean mark is from before: it must not come back to pass for sound.
#[test]
fn what_is_deleted_does_not_come_back_behind_a_round_or_an_orderly_stop() {
    for (seed, orderly) in (0..40).flat_map(|seed| [(seed, false), (seed, true)]) {
        let machine = Machine::new();
        let store = machine.open();
        let chunk = store.create(HANDLE, V2, State::Installed, &meta()).unwrap();
        write(&chunk, At::Installed(V2), 0, b"marked").unwrap();
        chunk.sync().unwrap();
        machine.clock.pass(IDLE);
        assert_eq!(store.write_clean_marks(IDLE).unwrap(), 1);
        write(&chunk, At::Installed(V2), 0, b"unsynced").unwrap();
        drop(chunk);
        store.unlink(HANDLE, V2).unwrap();
        if orderly {
            store.close();
        } else {
            store.write_clean_marks(IDLE).unwrap();
        }
        drop(store);
        machine.disk.power_loss(&mut StdRng::seed_from_u64(seed));
        machine.clock.reboot();
        let back = machine.open().chunk(HANDLE).map(|chunk| chunk.info());
        assert!(
            matches!(back, Err(StoreError::NotFound { .. })),
            "seed {seed}: {back:?}"
        );
    }
}

#[test]
fn a_damaged_floor_asks_for_a_new_one() {
    let machine = Machine::new();
    let store = machine.open();
    store.raise_floor(V2).unwrap();
    drop(store);
    machine.disk.flip("floor", 100);
    let store = machine.kill();
    assert!(store.unclean_start());
    store.settle_unclean_start(V3).unwrap();
    drop(store);
    let store = machine.kill();
    assert!(!store.unclean_start());
    assert_eq!(store.floor(), V3);
}

#[test]
fn unclean_means_power_lost_and_is_remembered_until_settled() {
    let machine = Machine::new();
    assert!(!machine.open().unclean_start());
    assert!(!machine.kill().unclean_start());
    let store = machine.kill();
    store.close();
    drop(store);
    machine.clock.reboot();
    assert!(!machine.open().unclean_start());
    machine.clock.reboot();
    assert!(machine.kill().unclean_start());
    let store = machine.kill();
    assert!(store.unclean_start());
    store.settle_unclean_start(V1).unwrap();
    assert!(!store.unclean_start());
    drop(store);
    assert!(!machine.kill().unclean_start());
}

#[test]
fn an_orderly_stop_makes_the_next_start_read_no_header() {
    let machine = Machine::new();
    let store = machine.open();
    for n in 1..=20 {
        let chunk = store.create(ChunkHandle(n), V1, State::Installed, &meta()).unwrap();
        write(&chunk, AT, 0, &bytes(n, 100 * n as usize)).unwrap();
    }
    store.unlink(ChunkHandle(7), V1).unwrap();
    store.fence(ChunkHandle(8), V2).unwrap();
    let before = store.inventory(None, 99);
    store.close();
    assert!(matches!(
        store.chunk(ChunkHandle(1)),
        Err(StoreError::DiskFailed { .. })
    ));
    drop(store);
    machine.clock.reboot();
    machine
        .disk
        .inject(Fault::new(Op::Open, Effect::Eio).on(".chunk").always());
    let store = machine.open();
    let same = |a: &[ChunkInfo], b: &[ChunkInfo]| {
        let key = |c: &ChunkInfo| (c.handle, c.version, c.state, c.length, c.suspect);
        a.iter().map(key).eq(b.iter().map(key))
    };
    assert!(same(&store.inventory(None, 99), &before));
    assert_eq!(store.inventory(Some(ChunkHandle(18)), 1)[0].handle, ChunkHandle(19));
    assert_eq!(store.scrub_next(Some(ChunkHandle(6))), Some(ChunkHandle(8)));
    machine.disk.clear_faults();
    write(&store.chunk(ChunkHandle(3)).unwrap(), AT, 0, b"again").unwrap();
    drop(store);
    // killed: the index is not believed, the headers are
    machine.disk.kill();
    machine.disk.inject(Fault::new(Op::Open, Effect::Eio).on(".chunk"));
    assert!(matches!(machine.try_open(), Err(OpenError::Io { .. })));
    let store = machine.open();
    assert_eq!(
        read_all(&store.chunk(ChunkHandle(3)).unwrap(), AT).unwrap()[..5],
        *b"again"
    );
    // an index that does not match what the orderly stop left is not believed either
    store.close();
    drop(store);
    let mut entries = vec![];
    machine.index.iterate(&mut |h, s| entries.push((h, s))).unwrap();
    assert_eq!((entries[2].0, entries[3].0), (ChunkHandle(3), ChunkHandle(4)));
    entries[2].1 = entries[3].1;
    machine.index.replace(&mut entries.into_iter()).unwrap();
    let store = machine.open();
    assert_eq!(store.chunk(ChunkHandle(3)).unwrap().info().length, 300);
}

/// A chunk that is created has no file until something needs one, and then all of it.
#[test]
fn a_file_is_made_by_whatever_needs_it_first() {
    type Need = fn(&DiskStore, &Chunk);
    let needs: [(&str, State, Need); 13] = [
        ("write", State::Installed, |_, c| _ = write(c, AT, 0, b"x").unwrap()),
        ("write further on", State::Joining, |_, c| {
            _ = write(c, At::Joining(V1), 70_000, b"x").unwrap();
        }),
        ("grow", State::Installed, |_, c| _ = c.grow(AT, 70_000).unwrap()),
        ("read", State::Installed, |_, c| {
            assert!(c.read(AT, 0, 10, true).unwrap().data.is_empty());
        }),
        ("meta", State::Installed, |_, c| assert_eq!(c.meta().unwrap(), meta())),
        ("table", State::Installed, |_, c| {
            assert_eq!(c.table(AT).unwrap().crcs, []);
        }),
        ("table of a suspect", State::Fenced, |_, c| {
            assert_eq!(c.table(At::Fenced(V1)).unwrap().crcs, []);
        }),
        ("sync", State::Installed, |_, c| c.sync().unwrap()),
        ("fence", State::Installed, |s, _| _ = s.fence(HANDLE, V2).unwrap()),
        ("scrub", State::Installed, |_, c| {
            assert_eq!(c.verify().unwrap(), Damage::default());
        }),
        ("scrub of a joining one", State::Joining, |_, c| {
            assert_eq!(c.verify().unwrap(), Damage::default());
        }),
        ("mark", State::Installed, |s, _| {
            assert_eq!(s.write_clean_marks(Duration::ZERO).unwrap(), 1);
        }),
        ("close", State::Installed, |s, _| s.close()),
    ];
    for (name, state, need) in needs {
        let machine = Machine::new();
        let store = machine.open();
        let chunk = store.create(HANDLE, V1, state, &meta()).unwrap();
        assert!(machine.disk.contents(Machine::path(HANDLE)).is_none(), "{name}");
        assert!(!chunk.info().synced, "{name}");
        need(&store, &chunk);
        let before = chunk.info();
        drop((store, chunk));
        let store = machine.kill();
        let chunk = store.chunk(HANDLE).unwrap();
        let after = chunk.info();
        assert_eq!(
            (after.version, after.state, after.length),
            (before.version, before.state, before.length)
        );
        assert_eq!(
            (chunk.verify().unwrap(), chunk.meta().unwrap()),
            (Damage::default(), meta()),
            "{name}"
        );
    }
    let machine = Machine::new();
    let store = machine.open();
    store.create(HANDLE, V1, State::Installed, &meta()).unwrap();
    store.unlink(HANDLE, V1).unwrap();
    store.create(HANDLE, V2, State::Installed, &meta()).unwrap();
    drop(store);
    assert_eq!(machine.kill().chunk_count(), 0);
}

/// [`CHUNKS_AT_ONCE`] chunks that were written and not synced, at a store that syncs more than a few at once.
fn written(machine: &Machine) -> DiskStore {
    let store = machine.open();
    for n in 0..CHUNKS_AT_ONCE {
        let chunk = store.create(ChunkHandle(n), V1, State::Installed, &meta()).unwrap();
        write(&chunk, AT, 0, &n.to_le_bytes()).unwrap();
    }
    store
}

const CHUNKS_AT_ONCE: u64 = 500;

/// Nothing is lost with the power, and so many are suspect.
fn check_written(machine: &Machine, suspects: u64) {
    machine.disk.drop_unsynced();
    machine.clock.reboot();
    let store = machine.open();
    let all = store.inventory(None, usize::MAX);
    assert_eq!(all.iter().filter(|c| c.suspect).count() as u64, suspects);
    for n in 0..CHUNKS_AT_ONCE {
        let chunk = store.chunk(ChunkHandle(n)).unwrap();
        assert_eq!(read_all(&chunk, AT).unwrap(), n.to_le_bytes());
        assert_eq!(chunk.verify().unwrap(), Damage::default());
    }
}

/// Two syncs of the disk for each batch, whatever the number of chunks, and one write for each mark; by an orderly stop, too.
#[test]
fn many_chunks_are_synced_and_marked_by_few_syncs() {
    for orderly in [false, true] {
        let machine = Machine::new();
        let store = written(&machine);
        let before = machine.disk.changes();
        if orderly {
            store.close();
        } else {
            assert_eq!(store.write_clean_marks(IDLE).unwrap(), 0, "they were written just now");
            machine.clock.pass(IDLE);
            assert_eq!(store.write_clean_marks(IDLE).unwrap(), CHUNKS_AT_ONCE as usize);
        }
        let changes = machine.disk.changes() - before;
        // (a batch is a quarter of 256 files)
        assert!(
            (CHUNKS_AT_ONCE..CHUNKS_AT_ONCE + 30).contains(&changes),
            "{changes} changes"
        );
        assert_eq!(
            store.inventory(None, usize::MAX).iter().filter(|c| !c.synced).count(),
            0
        );
        drop(store);
        check_written(&machine, 0);
    }
}

/// A disk that is written faster than chunks become idle syncs none of them in the way of a write, but all at once before.
#[test]
fn chunks_are_synced_before_so_many_are_open_that_writes_have_to_wait() {
    let mut machine = Machine::new();
    machine.options.open_files_max = 1024;
    let store = written(&machine);
    let before = machine.disk.changes();
    assert_eq!(store.write_clean_marks(IDLE).unwrap(), 0);
    assert_eq!(machine.disk.changes() - before, 1);
    drop(store);
    check_written(&machine, CHUNKS_AT_ONCE);
}

/// The dirty log, past its capacity and back: no chunk written again is taken for clean.
#[test]
fn many_chunks_can_be_dirty_at_once() {
    const CHUNKS: u64 = 5000;
    let mut machine = Machine::new();
    machine.options.open_files_max = 2 * CHUNKS as usize;
    let store = machine.open();
    for n in 1..=CHUNKS {
        store.create(ChunkHandle(n), V1, State::Installed, &meta()).unwrap();
    }
    machine.clock.pass(IDLE);
    while store.write_clean_marks(IDLE).unwrap() > 0 {}
    let changed = |n: u64| !n.is_multiple_of(10);
    for n in (1..=CHUNKS).filter(|&n| changed(n)) {
        write(&store.chunk(ChunkHandle(n)).unwrap(), AT, 0, b"x").unwrap();
    }
    drop(store);
    machine.disk.drop_unsynced();
    machine.clock.reboot();
    let store = machine.open();
    let suspects = |store: &DiskStore| {
        let all = store.inventory(None, usize::MAX);
        all.iter().filter(|c| c.suspect).map(|c| c.handle.0).collect::<Vec<_>>()
    };
    // more than fit: every chunk counts as dirty
    let all: Vec<u64> = (1..=CHUNKS).collect();
    assert!(suspects(&store) == all);
    drop(store);
    assert!(suspects(&machine.kill()) == all);
}

#[test]
fn the_dirty_log_wraps_without_forgetting() {
    let machine = Machine::new();
    let store = machine.open();
    let (held, other) = (ChunkHandle(1), ChunkHandle(2));
    for handle in [held, other] {
        store.create(handle, V1, State::Installed, &meta()).unwrap();
    }
    machine.clock.pass(IDLE);
    store.write_clean_marks(IDLE).unwrap();
    write(&store.chunk(held).unwrap(), AT, 0, b"unsynced").unwrap();
    for _ in 0..5000 {
        let chunk = store.chunk(other).unwrap();
        write(&chunk, AT, 0, b"x").unwrap();
        chunk.sync().unwrap();
        machine.clock.pass(Duration::from_secs(1));
        store.write_clean_marks(Duration::from_secs(1)).unwrap();
        if store.chunk(held).unwrap().info().synced {
            write(&store.chunk(held).unwrap(), AT, 0, b"unsynced").unwrap();
        }
    }
    drop(store);
    machine.disk.drop_unsynced();
    machine.clock.reboot();
    let store = machine.open();
    assert!(store.chunk(held).unwrap().info().suspect);
    assert!(!store.chunk(other).unwrap().info().suspect);
}

#[test]
fn a_damaged_dirty_log_makes_clean_marks_of_before_count_for_nothing() {
    let machine = Machine::new();
    let store = machine.open();
    store.create(HANDLE, V1, State::Installed, &meta()).unwrap();
    machine.clock.pass(IDLE);
    store.write_clean_marks(IDLE).unwrap();
    drop(store);
    for area in [0, 256 << 10] {
        machine.disk.flip("dirty-log", (area + 5) * 8);
    }
    // in the same boot nothing is lost
    assert!(!machine.kill().chunk(HANDLE).unwrap().info().suspect);
    for area in [0, 256 << 10] {
        machine.disk.flip("dirty-log", (area + 5) * 8);
    }
    machine.clock.reboot();
    assert!(machine.kill().chunk(HANDLE).unwrap().info().suspect);
    assert!(machine.kill().chunk(HANDLE).unwrap().info().suspect);
}

#[test]
fn what_is_unsynced_is_bounded_by_the_files_that_may_be_open() {
    let mut machine = Machine::new();
    machine.options.open_files_max = 8;
    let store = machine.open();
    for n in 1..=30 {
        let chunk = store.create(ChunkHandle(n), V1, State::Installed, &meta()).unwrap();
        write(&chunk, AT, 0, b"x").unwrap();
        let unsynced = store.inventory(None, 99).iter().filter(|c| !c.synced).count();
        assert_eq!(unsynced, usize::min(n as usize, 6), "{n}");
    }
}

/// Real files, real threads: writers of different chunks and of one, syncs and marks beside them.
#[test]
fn threads_share_a_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    let disk = std::sync::Arc::new(RealDisk::open(dir.path()).unwrap());
    DiskStore::format(&*disk, &stamp()).unwrap();
    let options = || DiskOptions {
        open_files_max: 3,
        index_path: Some(dir.path().join("index")),
        ..DiskOptions::default()
    };
    let open = || {
        let clock = std::sync::Arc::new(RealClock::new());
        DiskStore::open(disk.clone(), clock, &Identity::default(), options()).unwrap()
    };
    let store = open();
    let threads = 8u64;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let store = &store;
            scope.spawn(move || {
                let own = store
                    .create(ChunkHandle(thread + 1), V1, State::Installed, &meta())
                    .unwrap();
                let shared = store
                    .create(ChunkHandle(100), V1, State::Installed, &meta())
                    .or_else(|_| store.chunk(ChunkHandle(100)))
                    .unwrap();
                for round in 0..30 {
                    let data = bytes(thread * 100 + round, 100_000);
                    write(&own, AT, round * 50_000, &data).unwrap();
                    assert_eq!(own.read(AT, round * 50_000, 100_000, true).unwrap().data[..], data);
                    write(&shared, AT, thread * 10_000, &bytes(thread, 10_000)).unwrap();
                    if round % 5 == 0 {
                        own.sync().unwrap();
                        store.write_clean_marks(Duration::ZERO).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(store.state(), DiskState::Healthy);
    let expected: Vec<u8> = (0..threads).flat_map(|t| bytes(t, 10_000)).collect();
    for end in ["kill", "close"] {
        let store = if end == "kill" { store.clone() } else { open() };
        for info in store.inventory(None, 99) {
            let chunk = store.chunk(info.handle).unwrap();
            assert_eq!(chunk.verify().unwrap(), Damage::default());
            assert!(!info.suspect);
        }
        assert_eq!(read_all(&store.chunk(ChunkHandle(100)).unwrap(), AT).unwrap(), expected);
        store.close();
        if end == "kill" {
            break;
        }
    }
    drop(store);
    let store = open();
    assert_eq!(store.chunk_count(), threads as usize + 1);
    assert_eq!(read_all(&store.chunk(ChunkHandle(100)).unwrap(), AT).unwrap(), expected);
}
