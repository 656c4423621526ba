//! Errors of the disk and bytes that changed on it.
use super::super::*;
use super::harness::*;
use cairn_io::sim::{Effect, Fault, Op};
use cairn_types::Version;
use cairn_types::layout::BLOCK_SIZE_BYTES;
use std::collections::BTreeSet;

const B: u64 = BLOCK_SIZE_BYTES;
const AT: At = At::Installed(V1);

/// A chunk of 2.5 blocks, synced.
fn with_chunk(machine: &Machine) -> (DiskStore, Chunk, Vec<u8>) {
    let store = machine.open();
    let chunk = store.create(HANDLE, V1, State::Installed, &meta()).unwrap();
    let data = bytes(1, 5 * B as usize / 2);
    write(&chunk, AT, 0, &data).unwrap();
    chunk.sync().unwrap();
    (store, chunk, data)
}

fn flip(machine: &Machine, byte: u64) {
    assert!(machine.disk.flip(Machine::path(HANDLE), byte * 8 + 3));
}

fn damage_of<T: std::fmt::Debug>(result: Result<T>) -> Damage {
    match result {
        Err(StoreError::Corrupt { handle: HANDLE, damage }) => damage,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_flipped_bit_anywhere_is_found_by_a_read_and_by_a_scrub() {
    // header, its checksum, two table entries, data in whole and last block
    let places = [
        0,
        10,
        50,
        60,
        75,
        130,
        300,
        509,
        4096,
        4096 + 9,
        8192,
        8192 + B + 5,
        8192 + 2 * B + 9,
    ];
    for place in places {
        let machine = Machine::new();
        let (store, chunk, data) = with_chunk(&machine);
        assert_eq!(read_all(&chunk, AT).unwrap(), data);
        flip(&machine, place);
        let damage = damage_of(chunk.read(AT, 0, 3 * B, true));
        assert_eq!(damage.header.is_some(), place < 512, "{place}");
        let scrubbed = chunk.verify().unwrap();
        assert_eq!(scrubbed, damage, "{place}");
        assert_eq!(chunk.info().damage, damage);
        // also by a process that starts on it
        drop((store, chunk));
        let chunk = machine.kill().chunk(HANDLE).unwrap();
        assert_eq!(chunk.verify().unwrap().header.is_some(), place < 512, "{place}");
        damage_of(chunk.read(At::Installed(chunk.info().version), 0, 3 * B, true));
    }
}

#[test]
fn an_unverified_read_gives_stored_checksums_so_that_the_client_finds_rot() {
    let machine = Machine::new();
    let (_store, chunk, data) = with_chunk(&machine);
    flip(&machine, 8192 + B + 5);
    let pieces = chunk.read(AT, 0, 3 * B, false).unwrap();
    assert_eq!(pieces.crcs, block_crcs(&data));
    assert_ne!(block_crcs(&pieces.data)[1], pieces.crcs[1]);
    // a part of the block is checked here, since nobody else could
    assert_eq!(damage_of(chunk.read(AT, B + 10, 20, false)).blocks, BTreeSet::from([1]));
    assert_eq!(&chunk.read(AT, 10, 20, false).unwrap().data[..], &data[10..30]);
}

/// What may be sent from its file unseen: whole blocks, with the checksums that are stored.
#[test]
fn only_whole_blocks_are_located() {
    let machine = Machine::new();
    let (_store, chunk, data) = with_chunk(&machine);
    let end = data.len() as u64;
    let whole = [(0, end), (0, B), (B, B), (B, end), (2 * B, 1 << 26)];
    for (offset, len) in whole {
        let stored = chunk.locate(AT, offset, len).unwrap().unwrap();
        let pieces = chunk.read(AT, offset, len, false).unwrap();
        let mut bytes = vec![0; stored.range.len];
        let read = stored.range.file.read_at(&mut bytes, stored.range.offset).unwrap();
        assert!(read == bytes.len() && bytes == pieces.data, "{len} at {offset}");
        assert_eq!((stored.crcs, stored.length), (pieces.crcs, end), "{len} at {offset}");
    }
    for (offset, len) in [(1, end), (0, B + 1), (B, end - B - 1), (end, 1), (2 * end, 1), (0, 0)] {
        assert!(chunk.locate(AT, offset, len).unwrap().is_none(), "{len} at {offset}");
    }
    let newer = At::Installed(V2);
    assert!(matches!(
        chunk.locate(newer, 0, end),
        Err(StoreError::WrongVersion { .. })
    ));
    flip(&machine, 20);
    assert!(damage_of(chunk.locate(AT, 0, end).map(|_| ())).header.is_some());
}

#[test]
fn a_small_read_is_checked_by_its_own_pages_once_the_block_was() {
    let machine = Machine::new();
    let (_store, chunk, data) = with_chunk(&machine);
    let read = |offset: u64, len: u64| chunk.read(AT, B + offset, len, false);
    read(10, 20).unwrap();
    // rot in another page; before, the whole block would have been looked at
    flip(&machine, 8192 + B + 5 * 4096 + 7);
    for (offset, len) in [
        (0, 4096),
        (10, 20),
        (4090, 20),
        (4096, 8192),
        (6 * 4096, 32_000),
        (65_530, 6),
    ] {
        let pieces = read(offset, len).unwrap();
        let want = &data[(B + offset) as usize..][..len as usize];
        assert_eq!(pieces.data, want, "{len} at {offset}");
        assert_eq!(pieces.crcs, [crc32fast::hash(want)], "{len} at {offset}");
    }
    for (offset, len) in [(5 * 4096 + 4000, 1), (4 * 4096, 8192)] {
        assert_eq!(damage_of(read(offset, len)).blocks, BTreeSet::from([1]));
    }
    // the last block ends within a page
    for offset in [20, 2 * B - 10 - B - B / 2] {
        let pieces = read(B + offset, 10).unwrap();
        assert_eq!(pieces.data, data[(2 * B + offset) as usize..][..10]);
    }
}

/// The disk loses what is written over a block that was checked: its old bytes must not pass for the new ones.
#[test]
fn what_was_checked_before_a_change_says_nothing_after_it() {
    let machine = Machine::new();
    let (_store, chunk, data) = with_chunk(&machine);
    assert_eq!(chunk.read(AT, 90, 20, false).unwrap().data, data[90..110]);
    // the intent comes through, the data does not
    machine
        .disk
        .inject(Fault::new(Op::Write, Effect::Lost).on(".chunk").skip(1));
    write(&chunk, AT, 100, b"new").unwrap();
    assert_eq!(damage_of(chunk.read(AT, 90, 20, false)).blocks, BTreeSet::from([0]));
}

#[test]
fn a_bit_in_the_unused_table_is_found_by_the_scrub() {
    let machine = Machine::new();
    let (_store, chunk, _) = with_chunk(&machine);
    flip(&machine, 4096 + 4 * 100);
    assert!(chunk.verify().unwrap().table);
}

#[test]
fn a_table_cut_off_is_corrupt_and_not_absent() {
    let machine = Machine::new();
    let (_store, chunk, _) = with_chunk(&machine);
    let file = cairn_io::Disk::open(&machine.disk.mount(), &Machine::path(HANDLE)).unwrap();
    file.set_len(4096 + 8).unwrap();
    assert!(damage_of(chunk.read(AT, 0, 3 * B, false)).table);
    assert!(damage_of(chunk.table(AT)).table);
    assert!(chunk.verify().unwrap().table);
}

/// Writing over a part of a rotten block must not make it look good; over all of it, makes it good.
#[test]
fn rot_outlives_a_partial_overwrite_a_cut_and_an_append() {
    let machine = Machine::new();
    let (store, chunk, mut data) = with_chunk(&machine);
    flip(&machine, 8192 + 2 * B + 9);
    write(&chunk, AT, 2 * B + 100, b"new").unwrap();
    write(&chunk, AT, data.len() as u64, b"more").unwrap();
    assert_eq!(chunk.verify().unwrap().blocks, BTreeSet::from([2]));
    store.fence(HANDLE, V2).unwrap();
    chunk.truncate(At::Fenced(V2), 2 * B + 50).unwrap();
    assert_eq!(chunk.verify().unwrap().blocks, BTreeSet::from([2]));
    assert_eq!(chunk.info().damage.blocks, BTreeSet::from([2]));
    let block = bytes(9, 200);
    write(&chunk, At::Fenced(V2), 2 * B, &block).unwrap();
    assert!(chunk.info().damage.is_none());
    data.truncate(2 * B as usize);
    data.extend(&block);
    assert_eq!(read_all(&chunk, At::Fenced(V2)).unwrap(), data);
}

#[test]
fn a_lost_header_write_and_a_misdirected_one_are_found() {
    let machine = Machine::new();
    let (_store, chunk, _) = with_chunk(&machine);
    // intent and data come through, the head with the new length does not
    machine
        .disk
        .inject(Fault::new(Op::Write, Effect::Lost).on(".chunk").skip(3));
    write(&chunk, AT, 5 * B, b"x").unwrap();
    assert_eq!(damage_of(chunk.read(AT, 0, 10, false)).header, Some(HeaderFault::Lost));

    let machine = Machine::new();
    let (store, chunk, _) = with_chunk(&machine);
    machine.disk.inject(
        Fault::new(Op::Write, Effect::Misdirected { by_bytes: B })
            .on(".chunk")
            .skip(1),
    );
    write(&chunk, AT, 100, b"astray").unwrap();
    assert_eq!(chunk.verify().unwrap().blocks, BTreeSet::from([0, 1]));

    // another chunk's bytes under this chunk's name
    let other = ChunkHandle(HANDLE.0 + 0x100);
    create_made(&store, other);
    drop((store, chunk));
    machine.disk.kill();
    cairn_io::Disk::rename(&machine.disk.mount(), &Machine::path(other), &Machine::path(HANDLE)).unwrap();
    let store = machine.open();
    let info = store.chunk(HANDLE).unwrap().info();
    assert_eq!(info.damage.header, Some(HeaderFault::OtherChunk(other)));
    assert_eq!(info.version, Version::ZERO);
    assert_eq!(store.chunk_count(), 1);
    assert!(matches!(store.fence(HANDLE, V3), Err(StoreError::Corrupt { .. })));
    store.unlink(HANDLE, V2).unwrap();
    assert_eq!(store.floor(), V2);
}

/// One sync of a directory is for all names in it. The disk tells: it refuses each such sync, which fails it.
#[test]
fn a_directory_is_synced_for_a_new_name_and_not_for_one_that_is_synced() {
    let machine = Machine::new();
    let store = machine.open();
    let [first, second, third] = [0x107, 0x207, 0x307].map(ChunkHandle);
    let chunks = [create_made(&store, first), create_made(&store, second)];
    chunks[0].sync().unwrap();
    machine
        .disk
        .inject(Fault::new(Op::SyncDir, Effect::Eio).on("chunks").always());
    chunks[1].sync().unwrap();
    chunks[0].fence(V2).unwrap();
    assert!(chunks.iter().all(|c| c.info().synced));
    let made_since = create_made(&store, third);
    assert!(matches!(made_since.sync(), Err(StoreError::DiskFailed { .. })));
}

#[test]
fn a_failed_write_or_sync_fails_the_disk_for_good_and_no_other() {
    for (op, path) in [
        (Op::Write, ".chunk"),
        (Op::Sync, ".chunk"),
        (Op::SyncDir, "chunks"),
        (Op::Write, "floor"),
        (Op::SyncAll, ""),
    ] {
        let (mut machine, other) = (Machine::new(), Machine::new());
        machine.options.sync_each_max = 0;
        let store = machine.open();
        let second = other.open();
        let all = Store::new(vec![store.clone(), second.clone()]);
        let chunk = store.create(HANDLE, V1, State::Installed, &meta()).unwrap();
        let unharmed = second.create(HANDLE, V2, State::Installed, &meta()).unwrap();
        machine.disk.inject(Fault::new(op, Effect::Eio).on(path));
        let failed = match path {
            "floor" => store.raise_floor(V3),
            "" => write(&chunk, AT, 0, b"x").and_then(|_| {
                machine.clock.pass(IDLE);
                store.write_clean_marks(IDLE).map(drop)
            }),
            _ => write(&chunk, AT, 0, b"x").and_then(|_| chunk.sync()),
        };
        assert!(matches!(failed, Err(StoreError::DiskFailed { .. })), "{failed:?}");
        assert_eq!(store.state(), DiskState::Failed);
        let refused = [
            chunk.sync(),
            chunk.read(AT, 0, 1, false).map(drop),
            store.fence(HANDLE, V2).map(drop),
            store.unlink(HANDLE, V2),
            store.chunk(HANDLE).map(drop),
        ];
        assert!(
            refused.iter().all(|r| matches!(r, Err(StoreError::DiskFailed { .. }))),
            "{refused:?}"
        );
        all.write_clean_marks(IDLE);
        assert_eq!(all.find(HANDLE).unwrap().info().version, V2);
        write(&unharmed, At::Installed(V2), 0, b"y").unwrap();
        unharmed.sync().unwrap();
    }
}

#[test]
fn a_full_disk_refuses_cleanly_and_works_again_when_there_is_room() {
    let machine = Machine::new();
    let (store, chunk, data) = with_chunk(&machine);
    for skip in 0..4 {
        machine
            .disk
            .inject(Fault::new(Op::Write, Effect::Enospc).on(".chunk").skip(skip));
        let big = bytes(2, 2 * B as usize);
        match write(&chunk, AT, 2 * B, &big) {
            // the head's own page: no good reason for it to be refused, so no good state to go on from
            Err(StoreError::DiskFailed { .. }) => assert_eq!(skip, 0),
            Err(StoreError::NoSpace { .. }) => {
                assert_eq!(chunk.info().length, data.len() as u64, "{skip}");
                assert_eq!(chunk.verify().unwrap(), Damage::default(), "{skip}");
                assert_eq!(chunk.table(AT).unwrap().length, data.len() as u64);
            }
            other => panic!("{skip}: {other:?}"),
        }
        if skip == 0 {
            drop((store, chunk));
            return full_disk_after(&machine, &data);
        }
    }
}

fn full_disk_after(machine: &Machine, data: &[u8]) {
    let store = machine.kill();
    let chunk = store.chunk(HANDLE).unwrap();
    for skip in 1..4 {
        machine
            .disk
            .inject(Fault::new(Op::Write, Effect::Enospc).on(".chunk").skip(skip));
        let refused = write(&chunk, AT, 5 * B, &bytes(2, 2 * B as usize));
        assert!(
            matches!(refused, Err(StoreError::NoSpace { .. })),
            "{skip}: {refused:?}"
        );
        assert_eq!(read_all(&chunk, AT).unwrap(), data, "{skip}");
        assert_eq!(chunk.verify().unwrap(), Damage::default(), "{skip}");
    }
    // half of an overwrite: the bytes are old or new, and their checksums are right
    machine
        .disk
        .inject(Fault::new(Op::Write, Effect::Enospc).on(".chunk").skip(2));
    write(&chunk, AT, 10, &bytes(2, B as usize)).unwrap_err();
    assert_eq!(chunk.verify().unwrap(), Damage::default());
    machine.disk.set_capacity(0);
    let none = store.create(ChunkHandle(5), V2, State::Installed, &meta());
    assert!(matches!(none, Err(StoreError::NoSpace { .. })), "{:?}", none.err());
    assert!(matches!(store.chunk(ChunkHandle(5)), Err(StoreError::NotFound { .. })));
    // what is there can still be written over, fenced and deleted
    write(&chunk, AT, 10, b"fits").unwrap();
    machine.clock.pass(IDLE);
    assert_eq!(store.write_clean_marks(IDLE).unwrap(), 1);
    write(&chunk, AT, 10, b"too").unwrap();
    store.fence(HANDLE, V2).unwrap();
    store.unlink(HANDLE, V2).unwrap();
    assert_eq!(store.state(), DiskState::Healthy);
    machine.disk.set_capacity(1 << 30);
    store.create(ChunkHandle(5), V3, State::Installed, &meta()).unwrap();
}

/// No room for the file of a new chunk, or for its first bytes: it is as if it had not been created.
#[test]
fn a_chunk_that_finds_no_room_when_it_is_first_written_is_gone() {
    let fault = |op, skip| Fault::new(op, Effect::Enospc).on(".chunk").skip(skip);
    for fault in [fault(Op::Create, 0), fault(Op::Write, 0), fault(Op::Write, 1)] {
        let machine = Machine::new();
        let store = machine.open();
        let chunk = store.create(HANDLE, V1, State::Installed, &meta()).unwrap();
        machine.disk.inject(fault);
        assert!(matches!(write(&chunk, AT, 0, b"x"), Err(StoreError::NoSpace { .. })));
        assert!(matches!(write(&chunk, AT, 0, b"x"), Err(StoreError::NotFound { .. })));
        assert!(matches!(chunk.sync(), Err(StoreError::NotFound { .. })));
        assert_eq!(
            (store.chunk_count(), machine.disk.contents(Machine::path(HANDLE))),
            (0, None)
        );
        // the grant is as good as before, until a fence has found nothing here
        let again = store.create(HANDLE, V1, State::Installed, &meta()).unwrap();
        drop(again);
        machine.disk.inject(Fault::new(Op::Create, Effect::Enospc).on(".chunk"));
        assert!(matches!(store.fence(HANDLE, V2), Err(StoreError::NotFound { .. })));
        assert_eq!((store.floor(), store.absent_at(HANDLE)), (V2, Some(Version::ZERO)));
        let refused = store.create(HANDLE, V1, State::Installed, &meta());
        assert!(matches!(refused, Err(StoreError::BelowFloor { .. })));
    }
    // nor is a mark, a sync for want of open files, or a stop in order any disk's failure for it
    let mut machine = Machine::new();
    machine.options.open_files_max = 8;
    let store = machine.open();
    let create = |n| store.create(ChunkHandle(n), V1, State::Installed, &meta()).unwrap();
    let no_room = || machine.disk.inject(fault(Op::Create, 0));
    create(1);
    machine.clock.pass(IDLE);
    no_room();
    assert_eq!(store.write_clean_marks(IDLE).unwrap(), 0);
    create(2);
    let others: Vec<_> = (3..=8).map(|n| create_made(&store, ChunkHandle(n))).collect();
    no_room();
    write(&others[0], AT, 0, b"x").unwrap();
    assert_eq!(store.chunk_count(), 6);
    create(9);
    no_room();
    store.close();
    assert_eq!(store.state(), DiskState::Closed);
    drop((store, others));
    assert_eq!(machine.open().chunk_count(), 6);
}

#[test]
fn the_reserve_is_for_chunks_that_are_there() {
    let mut machine = Machine::new();
    machine.options.reserve_permille = 500;
    machine.disk.set_capacity(1 << 30);
    let (store, chunk, _) = with_chunk(&machine);
    let half = (1u64 << 29) / B;
    for n in 0..half {
        chunk.read(AT, 0, 1, false).unwrap();
        if store.space().unwrap().available_bytes == 0 {
            break;
        }
        let filler = store
            .create(ChunkHandle(1000 + n), V1, State::Installed, &meta())
            .unwrap();
        write(&filler, AT, 0, &bytes(n, 32 * B as usize)).unwrap();
    }
    let refused = store.create(ChunkHandle(5), V1, State::Installed, &meta());
    assert!(matches!(refused, Err(StoreError::NoSpace { .. })));
    write(&chunk, AT, 3 * B, &bytes(1, B as usize)).unwrap();
}

#[test]
fn a_read_only_disk_is_read() {
    let machine = Machine::new();
    let (store, chunk, data) = with_chunk(&machine);
    machine.disk.set_read_only(true);
    assert!(matches!(
        write(&chunk, AT, 0, b"x"),
        Err(StoreError::ReadOnly { .. } | StoreError::DiskFailed { .. })
    ));
    drop((store, chunk));
    let store = machine.kill();
    assert_eq!(store.state(), DiskState::ReadOnly);
    let chunk = store.chunk(HANDLE).unwrap();
    assert_eq!(read_all(&chunk, AT).unwrap(), data);
    let refused = [
        write(&chunk, AT, 0, b"x").map(drop),
        store.fence(HANDLE, V2).map(drop),
        store.unlink(HANDLE, V2),
        store.create(ChunkHandle(5), V1, State::Installed, &meta()).map(drop),
    ];
    assert!(
        refused.iter().all(|r| matches!(r, Err(StoreError::ReadOnly { .. }))),
        "{refused:?}"
    );
}

/// A sector that cannot be read is damage of that block, not of the disk.
#[test]
fn an_unreadable_block_is_damage() {
    let machine = Machine::new();
    let (store, chunk, _) = with_chunk(&machine);
    machine
        .disk
        .inject(Fault::new(Op::Read, Effect::Eio).on(".chunk").skip(1).times(3));
    let damage = damage_of(chunk.read(AT, 0, 3 * B, false));
    assert_eq!(damage.blocks, BTreeSet::from([0]));
    assert_eq!(store.state(), DiskState::Healthy);
}
