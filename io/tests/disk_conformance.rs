//! What every [`Disk`] does, shown on the real one and the simulated one; then what only the simulated one can show:
//! power loss and faults.
#![allow(clippy::unwrap_used, clippy::expect_used)]
use cairn_io::sim::{Effect, Fault, Op, SimDisk, Trace};
use cairn_io::{Disk, RealDisk};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::io::ErrorKind;
use std::path::Path;

fn p(path: &str) -> &Path {
    Path::new(path)
}

fn kind<T>(result: std::io::Result<T>) -> ErrorKind {
    result.err().expect("an error").kind()
}

fn sim() -> SimDisk {
    SimDisk::new("disk", Trace::new())
}

fn bytes(disk: &dyn Disk, path: &str) -> Vec<u8> {
    let file = disk.open(p(path)).unwrap();
    let mut buf = vec![0; file.len().unwrap() as usize];
    assert_eq!(file.read_at(&mut buf, 0).unwrap(), buf.len());
    buf
}

fn put(disk: &dyn Disk, path: &str, bytes: &[u8]) {
    disk.create(p(path)).unwrap().write_at(bytes, 0).unwrap();
}

type Case = (&'static str, fn(&dyn Disk));

const SUITE: &[Case] = &[
    ("files keep what is written, and holes are zeros", |d| {
        let file = d.create(p("a")).unwrap();
        assert!(file.is_empty().unwrap());
        file.write_at(b"hello", 10_000).unwrap();
        file.write_at(b"start", 0).unwrap();
        file.write_at(b"LL", 10_002).unwrap();
        assert_eq!(file.len().unwrap(), 10_005);
        let got = bytes(d, "a");
        assert_eq!(&got[..5], b"start");
        assert!(got[5..10_000].iter().all(|b| *b == 0));
        assert_eq!(&got[10_000..], b"heLLo");
        file.write_at(b"", 50_000).unwrap();
        assert_eq!(file.len().unwrap(), 10_005);
    }),
    ("two buffers are written one behind the other", |d| {
        let file = d.create(p("a")).unwrap();
        file.write_both_at(b"table", &[7; 9000], 100).unwrap();
        file.write_both_at(b"", b"head", 0).unwrap();
        file.write_both_at(b"end", b"", 9105).unwrap();
        let got = bytes(d, "a");
        assert_eq!(
            (&got[..4], &got[100..105], &got[9105..]),
            (&b"head"[..], &b"table"[..], &b"end"[..])
        );
        assert!(got[105..9105].iter().all(|b| *b == 7) && got[4..100].iter().all(|b| *b == 0));
    }),
    ("reads are short at the end only", |d| {
        put(d, "a", b"0123456789");
        let file = d.open(p("a")).unwrap();
        let mut buf = [0; 8];
        assert_eq!(file.read_at(&mut buf, 0).unwrap(), 8);
        assert_eq!(file.read_at(&mut buf, 6).unwrap(), 4);
        assert_eq!(&buf[..4], b"6789");
        assert_eq!(file.read_at(&mut buf, 10).unwrap(), 0);
        assert_eq!(file.read_at(&mut buf, 99).unwrap(), 0);
    }),
    ("set_len cuts, and what it adds is zeros", |d| {
        put(d, "a", &[7; 9000]);
        let file = d.open(p("a")).unwrap();
        file.set_len(4500).unwrap();
        file.set_len(9000).unwrap();
        file.sync_data().unwrap();
        let got = bytes(d, "a");
        assert_eq!(got.len(), 9000);
        assert!(got[..4500].iter().all(|b| *b == 7) && got[4500..].iter().all(|b| *b == 0));
        file.set_len(0).unwrap();
        assert_eq!(bytes(d, "a"), b"");
    }),
    ("names are found or not, as POSIX says", |d| {
        assert_eq!(kind(d.open(p("a"))), ErrorKind::NotFound);
        assert_eq!(kind(d.create(p("no/a"))), ErrorKind::NotFound);
        put(d, "a", b"x");
        assert_eq!(kind(d.create(p("a"))), ErrorKind::AlreadyExists);
        assert_eq!(kind(d.create(p("a/b"))), ErrorKind::NotADirectory);
        assert_eq!(kind(d.open(p("a/b"))), ErrorKind::NotADirectory);
        assert_eq!(kind(d.list(p("a"))), ErrorKind::NotADirectory);
        assert_eq!(kind(d.list(p("no"))), ErrorKind::NotFound);
        assert_eq!(kind(d.remove(p("no"))), ErrorKind::NotFound);
        assert_eq!(kind(d.rename(p("no"), p("b"))), ErrorKind::NotFound);
        assert_eq!(kind(d.rename(p("a"), p("no/b"))), ErrorKind::NotFound);
        assert_eq!(kind(d.sync_dir(p("no"))), ErrorKind::NotFound);
        assert_eq!(kind(d.create_dir_all(p("a"))), ErrorKind::AlreadyExists);
        assert_eq!(kind(d.create_dir_all(p("a/b"))), ErrorKind::NotADirectory);
        assert!(d.exists(p("a")).unwrap() && d.exists(p("")).unwrap() && !d.exists(p("b")).unwrap());
        d.create_dir_all(p("x/y")).unwrap();
        assert_eq!(kind(d.open(p("x/y"))), ErrorKind::IsADirectory);
        assert_eq!(kind(d.remove(p("x/y"))), ErrorKind::IsADirectory);
    }),
    ("directories list their own names, sorted", |d| {
        d.create_dir_all(p("x/y/z")).unwrap();
        d.create_dir_all(p("x/y")).unwrap();
        for name in ["x/b", "x/a", "x/y/c", "x!"] {
            put(d, name, b"");
        }
        assert_eq!(d.list(p("x")).unwrap(), ["a", "b", "y"]);
        assert_eq!(d.list(p("./x/")).unwrap(), ["a", "b", "y"]);
        assert_eq!(d.list(p("")).unwrap(), ["x", "x!"]);
        for dir in ["", "x", "x/y"] {
            d.sync_dir(p(dir)).unwrap();
        }
        assert!(d.sync_all().unwrap(), "Linux 5.8 or later");
    }),
    ("rename replaces, in one directory and across", |d| {
        d.create_dir_all(p("x")).unwrap();
        put(d, "a", b"new");
        put(d, "x/b", b"old");
        let old = d.open(p("x/b")).unwrap();
        d.rename(p("a"), p("x/b")).unwrap();
        assert_eq!(bytes(d, "x/b"), b"new");
        assert!(!d.exists(p("a")).unwrap());
        assert_eq!(old.len().unwrap(), 3);
        let mut buf = [0; 3];
        old.read_at(&mut buf, 0).unwrap();
        assert_eq!(&buf, b"old");
        d.rename(p("x/b"), p("x/b")).unwrap();
        assert_eq!(bytes(d, "x/b"), b"new");
    }),
    ("a removed file stays readable and writable while it is open", |d| {
        put(d, "a", b"abc");
        let file = d.open(p("a")).unwrap();
        d.remove(p("a")).unwrap();
        assert_eq!(kind(d.open(p("a"))), ErrorKind::NotFound);
        file.write_at(b"d", 3).unwrap();
        assert_eq!(file.len().unwrap(), 4);
        put(d, "a", b"other");
        file.sync_data().unwrap();
        assert_eq!(bytes(d, "a"), b"other");
    }),
    ("one lock at a time", |d| {
        let lock = d.lock().unwrap();
        assert_eq!(kind(d.lock()), ErrorKind::WouldBlock);
        drop(lock);
        drop(d.lock().unwrap());
    }),
    ("space is told", |d| {
        let space = d.space().unwrap();
        assert!(space.total_bytes > 0 && space.available_bytes <= space.total_bytes);
        assert!(!d.display().is_empty());
    }),
];

#[test]
fn real_disk_conforms() {
    for (name, case) in SUITE {
        let root = tempfile::tempdir().unwrap();
        println!("{name}");
        case(&RealDisk::open(root.path()).unwrap());
    }
    assert_eq!(kind(RealDisk::open("/proc/version")), ErrorKind::NotADirectory);
    assert_eq!(kind(RealDisk::open("/no/such/place")), ErrorKind::NotFound);
}

#[test]
fn simulated_disk_conforms() {
    for (name, case) in SUITE {
        println!("{name}");
        case(&sim());
    }
}

/// The same random operations on both give the same bytes, lengths and errors.
#[test]
fn both_disks_agree_on_random_operations() {
    for seed in 0..20 {
        let root = tempfile::tempdir().unwrap();
        let disks: [Box<dyn Disk>; 2] = [Box::new(RealDisk::open(root.path()).unwrap()), Box::new(sim())];
        let mut rng = StdRng::seed_from_u64(seed);
        for step in 0..300 {
            let name = ["a", "b", "d/a", "d/e/a", "d"][rng.random_range(0..5)];
            let other = ["a", "b", "d/a", "d/e/a"][rng.random_range(0..4)];
            let (op, at, len) = (
                rng.random_range(0..9),
                rng.random_range(0..20_000),
                rng.random_range(0..9_000),
            );
            let outcomes = disks.each_ref().map(|d| {
                let file = |f: &dyn Fn(&dyn cairn_io::DiskFile) -> std::io::Result<()>| f(&*d.open(p(name))?);
                let result = match op {
                    0 => d.create(p(name)).map(drop),
                    1..=3 => file(&|f| f.write_at(&vec![step as u8; len], at)),
                    4 => file(&|f| f.set_len(at)),
                    5 if name != "d" => d.rename(p(name), p(other)),
                    6 if step > 100 => d.remove(p(name)),
                    7 => d.create_dir_all(p("d/e")),
                    8 => d.list(p("d")).and_then(|_| d.sync_dir(p("d"))),
                    _ => d.list(p("d")).map(drop),
                };
                let contents = d.open(p(other)).and_then(|f| {
                    let mut buf = vec![0; 30_000];
                    let n = f.read_at(&mut buf, 0)?;
                    buf.truncate(n);
                    Ok((f.len()?, buf))
                });
                (result.map_err(|e| e.kind()), contents.map_err(|e| e.kind()))
            });
            assert!(outcomes[0] == outcomes[1], "seed {seed} step {step}: op {op} on {name}");
        }
    }
}

#[test]
fn power_loss_keeps_what_was_synced_and_nothing_else() {
    let disk = sim();
    put(&disk, "a", b"kept");
    disk.open(p("a")).unwrap().sync_data().unwrap();
    disk.sync_dir(p("")).unwrap();
    disk.open(p("a")).unwrap().write_at(b"LOST", 0).unwrap();
    put(&disk, "b", b"bytes synced, name not");
    disk.open(p("b")).unwrap().sync_data().unwrap();
    let lock = disk.lock().unwrap();
    let before = disk.open(p("a")).unwrap();
    disk.drop_unsynced();
    assert!(
        disk.open(p("a")).is_err() && before.sync_data().is_err(),
        "a dead process does nothing more"
    );
    let disk = disk.mount();
    drop(disk.lock().unwrap());
    drop(lock);
    assert_eq!(bytes(&disk, "a"), b"kept");
    assert_eq!(disk.list(p("")).unwrap(), ["a"]);
}

#[test]
fn a_sync_of_all_is_one_of_each_file_and_name() {
    let disk = sim();
    disk.create_dir_all(p("d/e")).unwrap();
    for name in ["a", "gone", "d/e/b"] {
        put(&disk, name, b"kept");
    }
    disk.remove(p("gone")).unwrap();
    disk.inject(Fault::new(Op::SyncAll, Effect::Eio));
    assert!(disk.sync_all().is_err());
    // what a sync has lost no later one brings back
    disk.open(p("a")).unwrap().write_at(b"new", 1).unwrap();
    assert!(disk.sync_all().unwrap());
    put(&disk, "late", b"");
    disk.drop_unsynced();
    let disk = disk.mount();
    assert_eq!(bytes(&disk, "a"), b"\0new");
    assert_eq!(bytes(&disk, "d/e/b"), b"");
    assert_eq!(disk.list(p("")).unwrap(), ["a", "d"]);
}

#[test]
fn a_killed_process_loses_no_written_byte_and_its_lock() {
    let disk = sim();
    disk.create_dir_all(p("d")).unwrap();
    put(&disk, "d/a", b"written");
    let _lock = disk.lock().unwrap();
    disk.kill();
    let disk = disk.mount();
    let _again = disk.lock().unwrap();
    assert_eq!(bytes(&disk, "d/a"), b"written");
}

#[test]
fn renames_are_whole_and_in_order() {
    let (mut kept, mut lost) = (0, 0);
    for seed in 0..200 {
        let disk = sim();
        for (i, name) in ["old", "new"].iter().enumerate() {
            put(&disk, name, &[i as u8]);
            disk.open(p(name)).unwrap().sync_data().unwrap();
        }
        disk.sync_dir(p("")).unwrap();
        disk.rename(p("new"), p("old")).unwrap();
        disk.power_loss(&mut StdRng::seed_from_u64(seed));
        let disk = disk.mount();
        match disk.list(p("")).unwrap().len() {
            1 => {
                assert_eq!(bytes(&disk, "old"), [1]);
                kept += 1;
            }
            _ => {
                assert_eq!(bytes(&disk, "old"), [0]);
                assert_eq!(bytes(&disk, "new"), [1]);
                lost += 1;
            }
        }
    }
    assert!(kept > 20 && lost > 20, "{kept} kept, {lost} lost");
}

#[test]
fn power_loss_tears_at_sectors() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let disk = sim();
        put(&disk, "a", &[1; 4096]);
        disk.open(p("a")).unwrap().sync_data().unwrap();
        disk.sync_dir(p("")).unwrap();
        disk.open(p("a")).unwrap().write_at(&[2; 2048], 100).unwrap();
        disk.power_loss(&mut StdRng::seed_from_u64(seed));
        let got = bytes(&disk.mount(), "a");
        assert!(got[..100].iter().all(|b| *b == 1) && got[2148..].iter().all(|b| *b == 1));
        let sectors: Vec<u8> = [100, 512, 1024, 1536, 2048].map(|at| got[at]).into();
        assert!(got[512..1024].iter().all(|b| *b == sectors[1]), "a sector is whole");
        seen.insert(sectors);
    }
    assert!(seen.len() > 10, "{} ways to tear", seen.len());
    assert!(seen.contains(&vec![1; 5]) && seen.contains(&vec![2; 5]));
}

#[test]
fn faults_come_when_ordered() {
    let disk = sim();
    put(&disk, "a", &[0; 100]);
    let file = disk.open(p("a")).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(p("")).unwrap();

    disk.inject(Fault::new(Op::Write, Effect::Eio).on("a").skip(1));
    file.write_at(b"1", 0).unwrap();
    assert!(file.write_at(b"2", 0).is_err());
    file.write_at(b"3", 0).unwrap();

    disk.inject(Fault::new(Op::Write, Effect::Lost));
    file.write_at(b"4", 0).unwrap();
    disk.inject(Fault::new(Op::Write, Effect::Misdirected { by_bytes: 50 }));
    file.write_at(b"5", 1).unwrap();
    disk.inject(Fault::new(Op::Write, Effect::Torn { bytes: 2 }));
    assert!(file.write_at(b"678", 10).is_err());
    assert!(disk.flip("a", 99 * 8 + 3));
    let got = bytes(&disk, "a");
    assert_eq!(
        (got[0], got[1], got[51], &got[10..13], got[99]),
        (b'3', 0, b'5', &b"67\0"[..], 8)
    );

    disk.inject(Fault::new(Op::Read, Effect::Garbled { bit: 0 }));
    let mut buf = [0; 1];
    file.read_at(&mut buf, 0).unwrap();
    assert_eq!(buf[0], b'3' ^ 1);
    assert_eq!(bytes(&disk, "a")[0], b'3');

    // a failed sync is not made good by the next one
    disk.inject(Fault::new(Op::Sync, Effect::Eio));
    assert!(file.sync_data().is_err());
    file.sync_data().unwrap();
    drop(file);
    disk.drop_unsynced();
    assert_eq!(bytes(&disk.mount(), "a")[0], 0);
}

#[test]
fn full_and_read_only_disks_say_so() {
    let disk = sim();
    disk.set_capacity(3 * 4096);
    put(&disk, "a", &[1; 8192]);
    let file = disk.open(p("a")).unwrap();
    assert_eq!(kind(file.write_at(&[1; 8192], 8192)), ErrorKind::StorageFull);
    file.write_at(&[2; 8192], 0).unwrap();
    assert_eq!(disk.space().unwrap().available_bytes, 4096);
    put(&disk, "b", &[1; 4096]);
    assert_eq!(kind(disk.create(p("c"))), ErrorKind::StorageFull);
    disk.remove(p("b")).unwrap();
    file.set_len(4096).unwrap();
    assert_eq!(disk.space().unwrap().available_bytes, 8192);
    disk.set_read_only(true);
    assert_eq!(kind(file.write_at(b"x", 0)), ErrorKind::ReadOnlyFilesystem);
    assert_eq!(kind(disk.create(p("d"))), ErrorKind::ReadOnlyFilesystem);
    assert_eq!(bytes(&disk, "a").len(), 4096);
}

#[test]
fn a_crash_at_a_chosen_point_stops_everything() {
    let run = |stop: Option<u64>| {
        let disk = sim();
        if let Some(n) = stop {
            disk.stop_after(n);
        }
        let done = (|| {
            let file = disk.create(p("a"))?;
            file.write_at(b"abc", 0)?;
            file.sync_data()?;
            disk.sync_dir(p(""))
        })();
        (disk.changes(), done.is_ok(), disk)
    };
    let (changes, done, _) = run(None);
    assert!(done);
    for n in 0..=changes {
        let (made, done, disk) = run(Some(n));
        assert_eq!((made, done, disk.stopped()), (n, n == changes, true));
        disk.drop_unsynced();
        assert_eq!(disk.contents("a").is_some(), n == changes);
    }
}

#[test]
fn without_fsync_power_loss_takes_what_was_synced() {
    let disk = sim();
    disk.set_no_op_fsync(true);
    put(&disk, "a", b"x");
    disk.open(p("a")).unwrap().sync_data().unwrap();
    disk.sync_dir(p("")).unwrap();
    disk.drop_unsynced();
    assert!(disk.files().is_empty());
}
