//! A process killed at every point of every operation: what was completed is there, and nothing is falsely corrupt.
use super::super::*;
use super::harness::*;
use cairn_types::layout::BLOCK_SIZE_BYTES;

const B: usize = BLOCK_SIZE_BYTES as usize;

#[derive(Debug, Clone, Copy)]
enum Step {
    Write(usize, usize),
    Grow(usize),
    Cut(usize),
    Sync,
    Idle,
    Fence(u64),
}

const SCRIPT: &[Step] = &[
    Step::Write(0, 3 * B + 100),
    Step::Write(B - 10, B + 20),
    Step::Sync,
    Step::Idle,
    Step::Write(5, 10),
    Step::Write(3 * B + 50, 2 * B),
    Step::Write(8 * B + 7, 77),
    Step::Cut(4 * B + 5),
    Step::Idle,
    Step::Fence(2),
    Step::Cut(2 * B),
    Step::Grow(6 * B + 1),
    Step::Write(6 * B + 1, 3),
    Step::Fence(3),
    Step::Write(0, 8 * B),
];

/// Of a chunk that nothing was done to since it was created: it has no file.
const FIRST: &[&[Step]] = &[
    &[
        Step::Write(0, 100),
        Step::Write(50, 2 * B),
        Step::Idle,
        Step::Write(0, 10),
    ],
    &[Step::Write(0, 2 * B + 5), Step::Sync, Step::Fence(2), Step::Cut(B)],
    &[Step::Write(2 * B + 5, 10), Step::Write(0, 10)],
    &[Step::Grow(3 * B), Step::Write(B, B)],
    &[Step::Sync, Step::Write(0, B)],
    &[Step::Idle, Step::Write(0, 10)],
    &[Step::Fence(2), Step::Write(0, B), Step::Write(5, 10)],
];

/// What the replica is after `version` fences and one creation.
fn at(version: u64, made: State) -> At {
    match (version, made) {
        (1, State::Installed) => At::Installed(V1),
        _ => At::Fenced(Version::new(1, version)),
    }
}

fn apply(store: &DiskStore, machine: &Machine, step: Step, seed: u64, made: State, version: &mut u64) -> Result<()> {
    let at = at(*version, made);
    let chunk = store.chunk(HANDLE)?;
    match step {
        Step::Write(offset, len) => write(&chunk, at, offset as u64, &bytes(seed, len)).map(drop),
        Step::Grow(length) => chunk.grow(at, length as u64).map(drop),
        Step::Cut(length) => chunk.truncate(at, length as u64),
        Step::Sync => chunk.sync(),
        Step::Idle => {
            machine.clock.pass(IDLE);
            store.write_clean_marks(IDLE).map(drop)
        }
        Step::Fence(to) => {
            store.fence(HANDLE, Version::new(1, to))?;
            *version = to;
            Ok(())
        }
    }
}

fn model(mut data: Vec<u8>, step: Step, seed: u64) -> Vec<u8> {
    match step {
        Step::Write(offset, len) => {
            data.resize(data.len().max(offset + len), 0);
            data[offset..offset + len].copy_from_slice(&bytes(seed, len));
        }
        Step::Grow(length) => data.resize(data.len().max(length), 0),
        Step::Cut(length) => data.truncate(length),
        Step::Sync | Step::Idle | Step::Fence(_) => {}
    }
    data
}

use cairn_types::Version;

/// Where the machine stopped.
struct Stopped {
    machine: Machine,
    /// Steps that were completed, what they left, and what the one under way would have.
    completed: usize,
    before: Vec<u8>,
    after: Vec<u8>,
    version: u64,
}

/// Runs the script until the machine stops after `n` changes; none: it did not.
fn stop_at(script: &[Step], made: State, n: u64) -> Option<Stopped> {
    let machine = Machine::new();
    let store = machine.open();
    store.create(HANDLE, V1, made, &meta()).unwrap();
    if made != State::Installed {
        store.fence(HANDLE, V1).unwrap();
    }
    let mut before = vec![];
    let mut version = 1;
    machine.disk.stop_after(n);
    for (completed, &step) in script.iter().enumerate() {
        let seed = completed as u64;
        let after = model(before.clone(), step, seed);
        if let Err(e) = apply(&store, &machine, step, seed, made, &mut version) {
            assert!(machine.disk.stopped(), "{step:?} failed on a disk that works: {e}");
            return Some(Stopped {
                machine,
                completed,
                before,
                after,
                version,
            });
        }
        before = after;
    }
    None
}

/// How many points there were, and those at which the chunk was not there yet.
fn killed_at_any_point(script: &[Step], made: State) -> (u64, Vec<u64>) {
    let mut absent = vec![];
    for n in 0.. {
        let Some(stopped) = stop_at(script, made, n) else {
            return (n, absent);
        };
        let Stopped {
            machine,
            completed,
            before,
            after,
            version,
        } = stopped;
        let store = machine.kill();
        let Ok(chunk) = store.chunk(HANDLE) else {
            assert!(completed == 0 && made == State::Installed, "{n}");
            // the same grant can be used again
            store.create(HANDLE, V1, made, &meta()).unwrap();
            absent.push(n);
            continue;
        };
        let info = chunk.info();
        assert!(!info.suspect && info.damage.is_none(), "{n}: {info:?}");
        assert_eq!(chunk.verify().unwrap(), Damage::default(), "{n}");
        assert!(
            info.version.counter == version || info.version.counter == version + 1,
            "{n}"
        );
        let at = at(info.version.counter, made);
        let data = read_all(&chunk, at).unwrap();
        assert!(
            data.len() == before.len() || data.len() == after.len(),
            "{n}: {}",
            data.len()
        );
        for (i, byte) in data.iter().enumerate() {
            let ok = before.get(i) == Some(byte) || after.get(i) == Some(byte);
            assert!(ok, "{n}: byte {i} is neither old nor new");
        }
        // and it goes on: what the file holds beyond its length must not come back
        chunk.grow(at, data.len() as u64 + 3 * BLOCK_SIZE_BYTES).unwrap();
        let grown = read_all(&chunk, at).unwrap();
        assert!(
            grown[..data.len()] == data && grown[data.len()..].iter().all(|&b| b == 0),
            "{n}"
        );
        // the same boot again: a second kill finds nothing left to mend
        drop((store, chunk));
        let chunk = machine.kill().chunk(HANDLE).unwrap();
        assert_eq!(chunk.verify().unwrap(), Damage::default(), "{n}");
    }
    unreachable!()
}

#[test]
fn a_kill_at_any_point_loses_nothing_completed_and_corrupts_nothing() {
    let (points, _) = killed_at_any_point(SCRIPT, State::Joining);
    assert!(points > 50, "only {points} points");
}

#[test]
fn a_kill_at_any_point_of_the_first_changes_of_a_chunk_corrupts_nothing() {
    for script in FIRST {
        let (points, absent) = killed_at_any_point(script, State::Installed);
        assert!(points >= 5, "only {points} points of {script:?}");
        // before the file, and before its first byte
        assert_eq!(absent, [0, 1], "{script:?}");
    }
}

/// Shows that the test above can fail: without the intents, some kill leaves a false corruption.
#[test]
fn without_intents_a_kill_would_corrupt() {
    let mut corrupt = 0;
    for n in 0.. {
        let Some(Stopped { machine, .. }) = stop_at(SCRIPT, State::Joining, n) else {
            break;
        };
        machine.disk.kill();
        let disk = machine.disk.mount();
        let file = cairn_io::Disk::open(&disk, &Machine::path(HANDLE)).unwrap();
        file.write_at(&[0; 512], 512).unwrap();
        drop(file);
        let chunk = machine.open().chunk(HANDLE).unwrap();
        corrupt += u32::from(!chunk.verify().unwrap().is_none());
    }
    assert!(corrupt > 5, "only {corrupt}");
}
