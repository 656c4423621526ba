//! The format, byte for byte: files that version 1 wrote are kept in chunkserver/fixtures and read by every later one.
use super::super::*;
use super::harness::*;
use cairn_io::Disk;
use cairn_types::layout::BLOCK_SIZE_BYTES;
use std::path::Path;

const CHUNK_V1: &[u8] = include_bytes!("../../../fixtures/chunk-v1.chunk");
const STAMP_V1: &[u8] = include_bytes!("../../../fixtures/cairn-disk-v1");

/// More than a block, so that the table has two entries; the first one is zeros.
fn data() -> Vec<u8> {
    let mut data = vec![0; BLOCK_SIZE_BYTES as usize];
    data.extend_from_slice(b"kept since version 1");
    data
}

fn written_now() -> (Machine, Vec<u8>) {
    let machine = Machine::new();
    let store = machine.open();
    let chunk = store.create(HANDLE, V2, State::Installed, &meta()).unwrap();
    write(&chunk, At::Installed(V2), BLOCK_SIZE_BYTES, b"kept since version 1").unwrap();
    machine.clock.pass(IDLE);
    store.write_clean_marks(IDLE).unwrap();
    let mut bytes = machine.disk.contents(Machine::path(HANDLE)).unwrap();
    // the empty first block is kept out of the fixture
    bytes.drain(8192..8192 + BLOCK_SIZE_BYTES as usize);
    (machine, bytes)
}

#[test]
fn a_chunk_is_written_as_version_1_does() {
    let (machine, bytes) = written_now();
    if std::env::var_os("CAIRN_WRITE_FIXTURES").is_some() {
        #[expect(clippy::disallowed_methods, reason = "a fixture, written once")]
        let write = |name: &str, bytes: &[u8]| {
            std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name), bytes).unwrap();
        };
        write("chunk-v1.chunk", &bytes);
        write("cairn-disk-v1", &machine.disk.contents("cairn-disk").unwrap());
    }
    assert!(
        bytes == CHUNK_V1,
        "a new format needs a new number, and this one must still be read"
    );
    assert!(machine.disk.contents("cairn-disk").unwrap() == STAMP_V1);
}

#[test]
fn a_chunk_of_version_1_is_read() {
    let machine = Machine::new();
    let disk = machine.disk.mount();
    let mut bytes = CHUNK_V1.to_vec();
    let tail = bytes.split_off(8192);
    let file = disk.create(&Machine::path(HANDLE)).unwrap();
    file.write_at(&bytes, 0).unwrap();
    file.write_at(&tail, 8192 + BLOCK_SIZE_BYTES).unwrap();
    drop(file);
    let chunk = machine.open().chunk(HANDLE).unwrap();
    let info = chunk.info();
    assert_eq!((info.version, info.state, info.suspect), (V2, State::Installed, false));
    assert_eq!(chunk.meta().unwrap(), meta());
    assert_eq!(chunk.table(At::Installed(V2)).unwrap().crcs, block_crcs(&data()));
    assert_eq!(read_all(&chunk, At::Installed(V2)).unwrap(), data());
    assert_eq!(chunk.verify().unwrap(), Damage::default());
}

/// The offsets that docs/chunk-format.md states, read without the store's code.
#[test]
fn the_offsets_are_those_of_the_document() {
    let u64_at = |at: usize| u64::from_le_bytes(CHUNK_V1[at..at + 8].try_into().unwrap());
    let u32_at = |at: usize| u32::from_le_bytes(CHUNK_V1[at..at + 4].try_into().unwrap());
    assert_eq!(&CHUNK_V1[..8], b"CairnChk");
    assert_eq!((CHUNK_V1[8], CHUNK_V1[9], CHUNK_V1[10], CHUNK_V1[11]), (1, 0, 3, 1));
    assert_eq!(u32_at(12), 2);
    assert_eq!(&CHUNK_V1[16..32], stamp().cluster.as_bytes());
    assert_eq!(&CHUNK_V1[32..48], stamp().disk.as_bytes());
    assert_eq!(u64_at(48), HANDLE.0);
    assert_eq!((u64_at(56), u64_at(64)), (V2.epoch, V2.counter));
    assert_eq!(u64_at(72), data().len() as u64);
    assert_eq!((u64_at(80), u64_at(88), u64_at(96)), (7, 5, 1));
    assert_eq!(CHUNK_V1[104..120], 1u128.to_be_bytes());
    assert_eq!((u32_at(120) & 0xffff, &CHUNK_V1[128..135]), (7, &b"big.iso"[..]));
    assert_eq!(u32_at(508), crc32fast::hash(&CHUNK_V1[..508]));
    assert!(CHUNK_V1[512..4096].iter().all(|&b| b == 0));
    assert_eq!(
        (u32_at(4096), u32_at(4100)),
        (0xd797_8eeb, crc32fast::hash(b"kept since version 1"))
    );
    assert!(CHUNK_V1[4104..8192].iter().all(|&b| b == 0));
    assert_eq!(&CHUNK_V1[8192..], b"kept since version 1");
}
