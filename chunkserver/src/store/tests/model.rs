//! Random operations on a chunk against a `Vec<u8>`.
use super::super::*;
use super::harness::*;
use cairn_types::layout::{BLOCK_SIZE_BYTES, CHUNK_SIZE_BYTES};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Write { offset: u64, len: usize, seed: u64 },
    Append { len: usize, seed: u64 },
    Grow { length: u64 },
    Cut { length: u64 },
    Read { offset: u64, len: u64 },
    Sync,
    Idle,
    Kill,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    const B: u64 = BLOCK_SIZE_BYTES;
    // block boundaries and their neighbours are where it can go wrong
    let place = prop_oneof![
        4 => 0..5 * B,
        3 => (0u64..6, -2i64..=2).prop_map(|(block, d)| (block * B).saturating_add_signed(d)),
        1 => 0..40 * B,
    ];
    let len = prop_oneof![
        4 => 1u64..200,
        2 => 1..3 * B,
        2 => (1u64..4, -2i64..=2).prop_map(|(block, d)| (block * B).saturating_add_signed(d)),
    ];
    prop_oneof![
        8 => (place.clone(), len.clone(), any::<u64>())
            .prop_map(|(offset, len, seed)| Step::Write { offset, len: len as usize, seed }),
        4 => (len.clone(), any::<u64>()).prop_map(|(len, seed)| Step::Append { len: len as usize, seed }),
        1 => place.clone().prop_map(|length| Step::Grow { length }),
        2 => place.clone().prop_map(|length| Step::Cut { length }),
        4 => (place, len).prop_map(|(offset, len)| Step::Read { offset, len }),
        1 => Just(Step::Sync),
        2 => Just(Step::Idle),
        1 => Just(Step::Kill),
        1 => Just(Step::Restart),
    ]
}

fn run(steps: Vec<Step>) -> std::result::Result<(), TestCaseError> {
    let machine = Machine::new();
    let mut store = machine.open();
    store.create(HANDLE, V1, State::Joining, &meta()).unwrap();
    store.fence(HANDLE, V1).unwrap();
    let at = At::Fenced(V1);
    let mut model: Vec<u8> = vec![];
    for step in steps {
        let chunk = store.chunk(HANDLE).unwrap();
        match step {
            Step::Write { offset, len, seed } => put(&chunk, at, &mut model, offset, len, seed)?,
            Step::Append { len, seed } => {
                let offset = model.len() as u64;
                put(&chunk, at, &mut model, offset, len, seed)?;
            }
            Step::Grow { length } => {
                model.resize(model.len().max(length as usize), 0);
                prop_assert_eq!(chunk.grow(at, length).unwrap(), model.len() as u64);
            }
            Step::Cut { length } => {
                model.truncate(length as usize);
                chunk.truncate(at, length).unwrap();
            }
            Step::Read { offset, len } => {
                let from = model.len().min(offset as usize);
                let to = model.len().min((offset + len) as usize);
                for verify in [false, true] {
                    let pieces = chunk.read(at, offset, len, verify).unwrap();
                    prop_assert_eq!(&pieces.data[..], &model[from..to]);
                    prop_assert_eq!(&pieces.crcs, &piece_crcs(offset, &pieces.data));
                    prop_assert_eq!(pieces.length, model.len() as u64);
                }
            }
            Step::Sync => chunk.sync().unwrap(),
            Step::Idle => {
                machine.clock.pass(IDLE);
                store.write_clean_marks(IDLE).unwrap();
            }
            Step::Kill => store = machine.kill(),
            Step::Restart => {
                store.close();
                drop((store, chunk));
                store = machine.open();
            }
        }
        let chunk = store.chunk(HANDLE).unwrap();
        let table = chunk.table(at).unwrap();
        prop_assert_eq!(table.length, model.len() as u64);
        prop_assert_eq!(table.crcs, block_crcs(&model));
        let info = chunk.info();
        prop_assert!(!info.suspect && info.damage.is_none(), "{:?}", info);
    }
    let chunk = store.chunk(HANDLE).unwrap();
    prop_assert_eq!(read_all(&chunk, at).unwrap(), model);
    prop_assert_eq!(chunk.verify().unwrap(), Damage::default());
    Ok(())
}

fn put(
    chunk: &Chunk,
    at: At,
    model: &mut Vec<u8>,
    offset: u64,
    len: usize,
    seed: u64,
) -> std::result::Result<(), TestCaseError> {
    let data = bytes(seed, len);
    let end = offset as usize + len;
    model.resize(model.len().max(end), 0);
    model[offset as usize..end].copy_from_slice(&data);
    prop_assert_eq!(write(chunk, at, offset, &data).unwrap(), model.len() as u64);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_chunk_is_a_vec_of_bytes(steps in prop::collection::vec(step(), 1..40)) {
        run(steps)?;
    }
}

#[test]
fn a_chunk_can_be_full_and_no_fuller() {
    let machine = Machine::new();
    let store = machine.open();
    let chunk = store.create(HANDLE, V1, State::Installed, &meta()).unwrap();
    let at = At::Installed(V1);
    write(&chunk, at, CHUNK_SIZE_BYTES - 1, b"x").unwrap();
    let pieces = chunk.read(at, CHUNK_SIZE_BYTES - 3, 100, false).unwrap();
    assert_eq!((&pieces.data[..], pieces.length), (&b"\0\0x"[..], CHUNK_SIZE_BYTES));
    for (offset, data) in [
        (CHUNK_SIZE_BYTES, &b"x"[..]),
        (CHUNK_SIZE_BYTES - 1, b"xy"),
        (u64::MAX, b"x"),
    ] {
        assert!(matches!(
            write_raw(&chunk, at, offset, data),
            Err(StoreError::BadRange { .. })
        ));
    }
    assert!(matches!(
        chunk.grow(at, CHUNK_SIZE_BYTES + 1),
        Err(StoreError::BadRange { .. })
    ));
    assert_eq!(chunk.verify().unwrap(), Damage::default());
    let mut whole = vec![0; CHUNK_SIZE_BYTES as usize];
    whole[CHUNK_SIZE_BYTES as usize - 1] = b'x';
    assert_eq!(chunk.table(at).unwrap().crcs, block_crcs(&whole));
}

fn write_raw(chunk: &Chunk, at: At, offset: u64, data: &[u8]) -> Result<u64> {
    chunk.write(at, offset, data, &[crc32fast::hash(data)])
}

#[test]
fn a_piece_that_does_not_match_is_named_and_nothing_is_written() {
    let machine = Machine::new();
    let store = machine.open();
    let chunk = store.create(HANDLE, V1, State::Installed, &meta()).unwrap();
    let at = At::Installed(V1);
    let data = bytes(1, 3 * BLOCK_SIZE_BYTES as usize);
    let mut crcs = piece_crcs(10, &data);
    crcs[2] ^= 1;
    let before = machine.disk.changes();
    assert!(matches!(
        chunk.write(at, 10, &data, &crcs),
        Err(StoreError::BadPiece { piece: 2, .. })
    ));
    assert!(matches!(
        chunk.write(at, 10, &data, &crcs[1..]),
        Err(StoreError::BadRange { .. })
    ));
    assert_eq!(machine.disk.changes(), before);
    assert_eq!(chunk.info().length, 0);
}

/// The hot path: one frame is four writes, the first one of a new chunk its file and then two (the first of which this disk
/// counts as two), and an overwrite reads no more than what it replaces.
#[test]
fn a_frame_costs_four_writes() {
    let machine = Machine::new();
    let store = machine.open();
    let chunk = store.create(HANDLE, V1, State::Installed, &meta()).unwrap();
    let frame = bytes(1, 1 << 20);
    for (offset, writes) in [(0, 4), (1 << 20, 4), (100, 4), (4 << 20, 4)] {
        let before = machine.disk.changes();
        write(&chunk, At::Installed(V1), offset, &frame).unwrap();
        assert_eq!(machine.disk.changes() - before, writes);
    }
}
