//! What files and chunks cost in memory (design: at most 150 bytes a file with its name, 64 a chunk), by counting what
//! is allocated as glibc's malloc rounds it. CAIRN_MEMORY_FILES asks for more files than every run of the tests can
//! afford; with it, times are printed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]
// a global allocator is nothing else
#![allow(unsafe_code)]
use cairn_metadata::{Command, Create, Existing, Grant, Kind, Op, Reply, State, apply};
use cairn_types::{ClusterId, DiskId, Inode, ServerId, Version};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

struct Counting;
static BYTES: AtomicUsize = AtomicUsize::new(0);

/// A header of 8 bytes, multiples of 16, at least 32.
fn rounded(layout: Layout) -> usize {
    (layout.size() + 8).next_multiple_of(16).max(32)
}

unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(rounded(layout), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        BYTES.fetch_sub(rounded(layout), Ordering::Relaxed);
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Run {
    state: State,
    index: u64,
}

impl Run {
    fn apply(&mut self, command: &Command) -> Reply {
        self.index += 1;
        let outcome = apply(&mut self.state, self.index, command).unwrap();
        outcome.result.unwrap()
    }

    fn create(&mut self, parent: Inode, name: String, kind: Kind, chunk: Option<Grant>) -> Inode {
        let create = Create {
            parent,
            name: name.into(),
            kind,
            mode: 0o644,
            uid: 1000,
            gid: 1000,
            rdev: 0,
            target: vec![],
            goal: 0,
            existing: Existing::Refuse,
            chunk,
        };
        let op = Op::Create(create);
        match self.apply(&Command::Internal { at_ns: 5, op }) {
            Reply::Created { attr, .. } => attr.inode,
            other => panic!("{other:?}"),
        }
    }
}

fn founded() -> Run {
    let mut run = Run {
        state: State::new(),
        index: 0,
    };
    run.apply(&Command::Epoch {
        cluster: ClusterId::from_bits(1),
        at_ns: 1,
        default_goal: 3,
        lease_ms: 5000,
        root_mode: 0o755,
        root_uid: 0,
        root_gid: 0,
    });
    run.apply(&Command::RegisterServer {
        server: ServerId::from_bits(1),
        label: String::new(),
        address: String::new(),
        disks: (1..=3).map(DiskId::from_bits).collect(),
    });
    run
}

/// Half of the files in one directory, half in directories of a hundred, under names of 14 bytes.
fn fill(run: &mut Run, files: u64, chunks: bool) {
    let large = run.create(Inode::ROOT, "large".into(), Kind::Directory, None);
    let mut parent = large;
    for n in 0..files {
        let small = n >= files / 2;
        if small && n % 100 == 0 {
            parent = run.create(Inode::ROOT, format!("directory-{n}"), Kind::Directory, None);
        }
        let grant = chunks.then(|| Grant {
            version: Version::new(run.state.epoch(), n + 1),
            members: (1..=3).map(DiskId::from_bits).collect(),
        });
        let parent = if small { parent } else { large };
        run.create(parent, format!("{n:010}.jpg"), Kind::Regular, grant);
    }
}

#[test]
fn a_file_takes_150_bytes_and_a_chunk_64() {
    let asked = std::env::var("CAIRN_MEMORY_FILES").ok().and_then(|n| n.parse().ok());
    let files: u64 = asked.unwrap_or(300_000);
    let measure = |chunks| {
        let before = BYTES.load(Ordering::Relaxed);
        let mut run = founded();
        fill(&mut run, files, chunks);
        let bytes = BYTES.load(Ordering::Relaxed) - before;
        (run, bytes as f64 / files as f64)
    };
    let (run, file) = measure(false);
    drop(run);
    let (mut run, both) = measure(true);
    let chunk = both - file;
    println!("{files} files: {file:.1} bytes a file, {chunk:.1} a chunk");
    assert!(file <= 150.0, "{file} bytes a file");
    assert!(chunk <= 64.0, "{chunk} bytes a chunk");
    if asked.is_some() {
        report_times(&mut run, files);
    }
}

/// What this thread has had of a processor: other work on the machine does not count.
fn on_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// What a checkpoint costs: the copy of the state while operations wait, those after it that have to copy pages, and
/// the load.
fn report_times(run: &mut Run, files: u64) {
    let start = on_cpu();
    let copy = run.state.clone();
    println!("copy of the state: {:?}", on_cpu() - start);
    let large = run.state.lookup(Inode::ROOT, b"large").unwrap().inode;
    let mut longest = Duration::ZERO;
    for n in 0..10_000 {
        let start = on_cpu();
        run.create(large, format!("new-{n}"), Kind::Regular, None);
        let inode = Inode(2 + n * (files / 10_001));
        let op = Op::SetGoal { inode, goal: 2 };
        run.apply(&Command::Internal { at_ns: 6, op });
        longest = longest.max(on_cpu() - start);
    }
    println!("longest operation behind it: {longest:?}");
    let start = on_cpu();
    let mut bytes = Vec::new();
    copy.encode(&mut bytes).unwrap();
    println!("encoded: {:?}, {} MiB", on_cpu() - start, bytes.len() >> 20);
    drop(copy);
    let start = on_cpu();
    let loaded = State::decode(&mut &bytes[..]).unwrap();
    println!("loaded: {:?}", on_cpu() - start);
    assert_eq!(loaded.counts().chunks, files);
}
