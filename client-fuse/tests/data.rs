//! Bytes through the mount: reads, writes, holes, mapped and direct, compared with a local file system.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]
mod common;

use common::cluster::Place;
use common::{errno, sh};
use rustix::fs::{CWD, FallocateFlags, Mode, OFlags, SeekFrom as Seek, fallocate, seek};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

const MIB: u64 = 1 << 20;
const CHUNK: u64 = 64 * MIB;

/// Bytes that tell where they are.
fn pattern(offset: u64, len: usize) -> Vec<u8> {
    (offset..offset + len as u64)
        .map(|i| (i ^ (i >> 8) ^ (i >> 16) ^ (i >> 24)) as u8)
        .collect()
}

fn read_write(path: &Path) -> File {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .unwrap()
}

/// A small generator, so that both file systems get the same operations.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

#[test]
fn what_is_written_is_read_across_chunks_and_after_reopening() {
    let Some(place) = Place::new("chunks") else { return };
    let path = place.path().join("file");
    let total = CHUNK + 3 * MIB + 12_345;
    let mut file = File::create(&path).unwrap();
    for at in (0..total).step_by(MIB as usize) {
        file.write_all(&pattern(at, MIB.min(total - at) as usize)).unwrap();
    }
    drop(file);
    for path in [path, place.other().join("file")] {
        assert_eq!(fs::metadata(&path).unwrap().len(), total);
        let mut file = File::open(&path).unwrap();
        let mut at = 0;
        let mut buffer = vec![0; 700_001];
        loop {
            let n = file.read(&mut buffer).unwrap();
            if n == 0 {
                break;
            }
            assert!(buffer[..n] == pattern(at, n), "at {at} of {path:?}");
            at += n as u64;
        }
        assert_eq!(at, total);
    }
}

#[test]
fn random_reads_writes_and_cuts_come_to_the_same_as_on_a_local_disk() {
    let Some(place) = Place::new("random") else { return };
    for seed in [1, 2, 3] {
        println!("seed {seed}");
        place.same(|d| {
            let mut random = Random(seed << 32 | 0x7f4a_7c15);
            let path = d.join(format!("file {seed}"));
            let mut file = read_write(&path);
            let mut sums = Vec::new();
            for step in 0..300u64 {
                let (offset, len) = (random.below(900_000), random.below(200_000) as usize);
                match random.below(10) {
                    0..=3 => file.write_all_at(&pattern(offset * step, len), offset).unwrap(),
                    4..=6 => {
                        let mut buffer = vec![0; len];
                        let n = file.read_at(&mut buffer, offset).unwrap();
                        sums.push((n, checksum(&buffer[..n])));
                    }
                    7 => file.set_len(offset).unwrap(),
                    8 => drop(std::mem::replace(&mut file, read_write(&path))),
                    _ => file.sync_data().unwrap(),
                }
            }
            drop(file);
            let all = fs::read(&path).unwrap();
            (sums, all.len(), checksum(&all))
        });
        let name = format!("file {seed}");
        assert!(fs::read(place.other().join(&name)).unwrap() == fs::read(place.local().join(&name)).unwrap());
    }
}

fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[test]
fn appends_go_to_the_end() {
    let Some(place) = Place::new("append") else { return };
    place.same(|d| {
        let path = d.join("log");
        let open = || File::options().append(true).create(true).open(&path).unwrap();
        let (mut a, mut b) = (open(), open());
        for n in 0..100 {
            writeln!(a, "a {n}").unwrap();
            writeln!(b, "b {n}").unwrap();
        }
        a.write_all(&pattern(0, 3_000_000)).unwrap();
        b.set_len(10).unwrap();
        a.write_all(b"after the cut").unwrap();
        // O_APPEND wins over pwrite(2)'s offset on Linux
        b.write_all_at(b"!", 0).unwrap();
        fs::read(&path).unwrap()
    });
    // by turns on two mounts: each open finds what the other's close left
    for n in 0..10 {
        let d = if n % 2 == 0 { place.path() } else { place.other() };
        let mut log = File::options().append(true).create(true).open(d.join("turns")).unwrap();
        write!(log, "{n}").unwrap();
    }
    assert_eq!(fs::read_to_string(place.path().join("turns")).unwrap(), "0123456789");
}

#[test]
fn truncate_cuts_extends_and_refuses() {
    let Some(place) = Place::new("truncate") else { return };
    place.same(|d| {
        let path = d.join("file");
        fs::write(&path, pattern(0, 100_000)).unwrap();
        let open = File::open(&path).unwrap();
        let file = read_write(&path);
        let mut seen = Vec::new();
        for len in [50_000, 50_001, 0, 70_000, 65_536, 65_537, 1] {
            file.set_len(len).unwrap();
            let all = fs::read(&path).unwrap();
            seen.push((all.len(), checksum(&all), open.metadata().unwrap().len()));
        }
        let refused = [
            errno(open.set_len(5)),
            errno(rustix::fs::ftruncate(&file, u64::MAX).map_err(Into::into)),
        ];
        let blocked = rustix::fs::open(d, OFlags::RDONLY, Mode::empty()).unwrap();
        (
            seen,
            refused,
            rustix::fs::ftruncate(&blocked, 1).map_err(|e| e.raw_os_error()),
        )
    });
}

#[test]
fn holes_read_as_zeros_and_are_found() {
    let Some(place) = Place::new("holes") else { return };
    place.same(|d| {
        let file = read_write(&d.join("file"));
        file.write_all_at(b"start", 0).unwrap();
        file.write_all_at(b"end", 3 * CHUNK).unwrap();
        let mut buffer = vec![1; 100_000];
        file.read_exact_at(&mut buffer, CHUNK - 50_000).unwrap();
        assert!(buffer.iter().all(|b| *b == 0));
        file.sync_all().unwrap();
        file.metadata().unwrap().len()
    });
    // data and holes are found by whole chunks: coarser than on a local disk, never wrong
    let file = read_write(&place.path().join("file"));
    let end = 3 * CHUNK + 3;
    let at = |from| seek(&file, from).map_err(|e| e.raw_os_error());
    let enxio = Err(rustix::io::Errno::NXIO.raw_os_error());
    assert_eq!(at(Seek::Data(0)), Ok(0));
    assert_eq!(at(Seek::Hole(0)), Ok(CHUNK));
    assert_eq!(at(Seek::Data(CHUNK)), Ok(3 * CHUNK));
    assert_eq!(at(Seek::Hole(3 * CHUNK)), Ok(end));
    assert_eq!(at(Seek::Hole(2 * CHUNK + 5)), Ok(2 * CHUNK + 5));
    assert_eq!(at(Seek::Data(end)), enxio);
    assert_eq!(at(Seek::Hole(end)), enxio);
    assert_eq!(at(Seek::End(0)), Ok(end));
    file.set_len(end + CHUNK).unwrap();
    assert_eq!(at(Seek::Data(end + CHUNK - 1)), enxio, "no data from there on");
    assert!(file.metadata().unwrap().blocks() * 512 < 3 * CHUNK);
}

#[test]
fn fallocate_extends_keeps_punches_and_zeroes() {
    let Some(place) = Place::new("fallocate") else { return };
    let modes = [
        FallocateFlags::empty(),
        FallocateFlags::KEEP_SIZE,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        FallocateFlags::ZERO_RANGE,
        FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
    ];
    place.same(|d| {
        let mut seen = Vec::new();
        for (n, mode) in modes.into_iter().enumerate() {
            for (offset, len) in [(1_000, 70_000), (90_000, 50_000), (200_000, 10), (0, 100_000)] {
                let path = d.join(format!("file {n} {offset}"));
                fs::write(&path, pattern(0, 100_000)).unwrap();
                let file = read_write(&path);
                fallocate(&file, mode, offset, len).unwrap();
                file.write_all_at(b"written after", 5_000).unwrap();
                let all = fs::read(&path).unwrap();
                seen.push((n, offset, all.len(), checksum(&all)));
            }
        }
        let file = File::open(d.join("file 0 0")).unwrap();
        let read_only = fallocate(&file, modes[0], 0, 10).map_err(|e| e.raw_os_error());
        let file = read_write(&d.join("file 0 0"));
        (
            seen,
            read_only,
            fallocate(&file, modes[0], 0, 0).map_err(|e| e.raw_os_error()),
        )
    });
    let file = read_write(&place.path().join("file"));
    for mode in [
        FallocateFlags::COLLAPSE_RANGE,
        FallocateFlags::INSERT_RANGE,
        FallocateFlags::UNSHARE_RANGE,
    ] {
        assert_eq!(fallocate(&file, mode, 0, 65536), Err(rustix::io::Errno::OPNOTSUPP));
    }
}

#[test]
fn zeroed_and_punched_chunks_read_as_zeros_elsewhere() {
    let Some(place) = Place::new("punch") else { return };
    let file = read_write(&place.path().join("file"));
    for at in (0..2 * CHUNK).step_by(16 * MIB as usize) {
        file.write_all_at(&pattern(at, MIB as usize), at).unwrap();
    }
    fallocate(
        &file,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        10 * MIB,
        CHUNK,
    )
    .unwrap();
    file.sync_all().unwrap();
    drop(file);
    let other = File::open(place.other().join("file")).unwrap();
    let mut buffer = vec![1; MIB as usize];
    for at in (0..2 * CHUNK).step_by(16 * MIB as usize) {
        if at + MIB > other.metadata().unwrap().len() {
            break;
        }
        other.read_exact_at(&mut buffer, at).unwrap();
        let punched = (10 * MIB..10 * MIB + CHUNK).contains(&at);
        let expected = if punched {
            vec![0; MIB as usize]
        } else {
            pattern(at, MIB as usize)
        };
        assert!(buffer == expected, "at {at}");
    }
}

#[test]
fn copy_file_range_copies_within_the_mount() {
    let Some(place) = Place::new("copy_range") else { return };
    place.same(|d| {
        fs::write(d.join("from"), pattern(7, 40_000_000)).unwrap();
        let (from, to) = (File::open(d.join("from")).unwrap(), read_write(&d.join("to")));
        to.write_all_at(b"kept", 0).unwrap();
        let (mut at, mut out, mut left) = (1_000_000, 10, 38_000_000);
        while left > 0 {
            let n = rustix::fs::copy_file_range(&from, Some(&mut at), &to, Some(&mut out), left).unwrap();
            assert!(n > 0);
            left -= n;
        }
        let mut end = 40_000_000;
        let beyond = rustix::fs::copy_file_range(&from, Some(&mut end), &to, None, 10).unwrap();
        let all = fs::read(d.join("to")).unwrap();
        (all.len(), checksum(&all), beyond)
    });
    // cp takes this way for whole files
    let d = place.path();
    sh(&format!(
        "cp '{0}/from' '{0}/copied' && cmp '{0}/from' '{0}/copied'",
        d.display()
    ));
    sh(&format!(
        "cp '{}/from' '{}' && cmp '{0}/from' '{1}/from'",
        d.display(),
        place.local().display()
    ));
}

#[test]
fn direct_io_works_at_any_alignment() {
    let Some(place) = Place::new("direct") else { return };
    let path = place.path().join("file");
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::DIRECT;
    let file = File::from(rustix::fs::openat(CWD, &path, flags, Mode::from_raw_mode(0o644)).unwrap());
    file.write_all_at(&pattern(0, 5_000_000), 0).unwrap();
    file.write_all_at(&pattern(1, 4096), 8192).unwrap();
    let mut expected = pattern(0, 5_000_000);
    expected[8192..8192 + 4096].copy_from_slice(&pattern(1, 4096));
    let mut read = vec![0; 5_000_000];
    file.read_exact_at(&mut read, 0).unwrap();
    assert!(read == expected);
    assert!(fs::read(&path).unwrap() == expected, "through the page cache too");
    file.write_all_at(b"direct", 100).unwrap();
    expected[100..106].copy_from_slice(b"direct");
    assert!(fs::read(&path).unwrap() == expected, "pages do not hide direct writes");
}

fn direct(path: &Path, more: OFlags) -> File {
    let flags = OFlags::RDWR | OFlags::DIRECT | more;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).unwrap().into()
}

/// The kernel lets such writes go side by side; appends it does not.
#[test]
fn direct_writes_of_several_programs_at_a_time_all_arrive() {
    let Some(place) = Place::new("parallel") else { return };
    let path = place.path().join("file");
    const WRITERS: usize = 8;
    const EACH: usize = 100;
    fs::write(&path, vec![0; WRITERS * EACH * 4096]).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let path = &path;
            scope.spawn(move || {
                let (file, end) = (direct(path, OFlags::empty()), direct(path, OFlags::APPEND));
                for n in 0..EACH {
                    let at = (n * WRITERS + writer) * 4096;
                    file.write_all_at(&pattern(at as u64, 4096), at as u64).unwrap();
                }
                (&end).write_all(&[writer as u8 + 1; 4096]).unwrap();
            });
        }
    });
    let (written, appended) = (WRITERS * EACH * 4096, WRITERS * 4096);
    let plain = fs::read(&path).unwrap();
    assert_eq!(plain.len(), written + appended);
    for at in (0..written).step_by(4096) {
        assert!(plain[at..at + 4096] == pattern(at as u64, 4096), "the block at {at}");
    }
    let mut whose: Vec<u8> = plain[written..].chunks(4096).map(|c| c[0]).collect();
    assert!(plain[written..].chunks(4096).all(|c| c == [c[0]; 4096]));
    whose.sort_unstable();
    assert_eq!(whose, (1..=WRITERS as u8).collect::<Vec<_>>());
    // close is enough for the other mount
    assert!(fs::read(place.other().join("file")).unwrap() == plain);
}

/// One file by its pages, directly, and mapped through what is open for direct I/O: all see the same bytes.
#[test]
fn direct_io_and_the_page_cache_agree() {
    let Some(place) = Place::new("mixed") else { return };
    let path = place.path().join("file");
    const LEN: usize = 300_000;
    fs::write(&path, pattern(0, LEN)).unwrap();
    let file = direct(&path, OFlags::empty());
    let mut expected = pattern(0, LEN);
    let read_directly = |expected: &[u8]| {
        let mut bytes = vec![0; LEN];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes == expected);
    };
    read_directly(&expected);
    mapped(&file, LEN, |bytes| {
        assert!(bytes == expected);
        bytes[70_000..70_006].copy_from_slice(b"mapped");
    });
    expected[70_000..70_006].copy_from_slice(b"mapped");
    read_directly(&expected);
    let plain = read_write(&path);
    plain.write_all_at(b"cached", 4000).unwrap();
    expected[4000..4006].copy_from_slice(b"cached");
    read_directly(&expected);
    file.write_all_at(b"direct", 70_003).unwrap();
    expected[70_003..70_009].copy_from_slice(b"direct");
    let mut bytes = vec![0; LEN];
    plain.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == expected);
    mapped(&file, LEN, |bytes| assert!(bytes == expected));
}

/// Maps a file shared, and gives its bytes to `change`.
#[allow(unsafe_code)]
fn mapped(file: &File, len: usize, change: impl FnOnce(&mut [u8])) {
    use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping of `len` bytes of a file that is at least as long, used by nobody else, and taken away
    // before its slice's lifetime ends.
    unsafe {
        let at = mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED, file, 0).unwrap();
        change(std::slice::from_raw_parts_mut(at.cast(), len));
        msync(at, len, MsyncFlags::SYNC).unwrap();
        munmap(at, len).unwrap();
    }
}

#[test]
fn mapped_files_read_and_write() {
    let Some(place) = Place::new("mmap") else { return };
    const LEN: usize = 3_000_000;
    let file = read_write(&place.path().join("file"));
    file.write_all_at(&pattern(0, LEN), 0).unwrap();
    mapped(&file, LEN, |bytes| {
        assert!(bytes == pattern(0, LEN));
        bytes[1_000_000..1_000_004].copy_from_slice(b"mmap");
        bytes[LEN - 1] = b'!';
    });
    let mut expected = pattern(0, LEN);
    expected[1_000_000..1_000_004].copy_from_slice(b"mmap");
    expected[LEN - 1] = b'!';
    assert!(fs::read(place.path().join("file")).unwrap() == expected);
    file.sync_all().unwrap();
    assert!(fs::read(place.other().join("file")).unwrap() == expected);
    // a program that runs from the mount is mapped too
    let program = place.path().join("echo");
    fs::copy("/bin/echo", &program).unwrap();
    assert_eq!(sh(&format!("'{}' it runs", program.display())), "it runs");
}

/// As linkers make their output: longer first, mapped then, and only written through the mapping.
#[test]
fn a_new_file_that_was_only_made_longer_is_zeros_and_can_be_mapped() {
    let Some(place) = Place::new("longer") else { return };
    const LEN: usize = 3_000_000;
    let path = place.path().join("file");
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    file.set_len(LEN as u64).unwrap();
    assert!(fs::read(&path).unwrap() == vec![0; LEN], "by the one who made it");
    assert!(
        fs::read(place.other().join("file")).unwrap() == vec![0; LEN],
        "elsewhere"
    );
    drop(file);
    let file = read_write(&path);
    mapped(&file, LEN, |bytes| {
        assert!(bytes.iter().all(|b| *b == 0));
        bytes[LEN - 5..].copy_from_slice(b"mmap!");
    });
    drop(file);
    let all = fs::read(place.other().join("file")).unwrap();
    assert!(all[..LEN - 5].iter().all(|b| *b == 0) && all.ends_with(b"mmap!"));
}

#[test]
fn one_mount_sees_its_own_writes_at_once() {
    let Some(place) = Place::new("own_writes") else { return };
    let path = place.path().join("file");
    let writer = read_write(&path);
    let reader = File::open(&path).unwrap();
    for n in 0..200u64 {
        let at = n * 1000;
        writer.write_all_at(&pattern(at, 1000), at).unwrap();
        assert_eq!(reader.metadata().unwrap().len(), at + 1000);
        assert_eq!(fs::metadata(&path).unwrap().len(), at + 1000);
        let mut buffer = [0; 1000];
        reader.read_exact_at(&mut buffer, at).unwrap();
        assert!(buffer[..] == pattern(at, 1000));
    }
    let listed = sh(&format!("ls -l '{}' | grep file", place.path().display()));
    assert!(listed.contains(" 200000 "), "{listed}");
}

#[test]
fn an_open_after_a_close_or_fsync_on_another_mount_sees_it() {
    let Some(place) = Place::new("close_to_open") else {
        return;
    };
    let (here, there) = (place.path().join("file"), place.other().join("file"));
    for round in 0..30u8 {
        let (writer, reader) = if round % 2 == 0 {
            (&here, &there)
        } else {
            (&there, &here)
        };
        // the same length each time: nothing but the contents tells
        let text = vec![round; 10_000];
        if round % 3 == 0 {
            fs::write(writer, &text).unwrap();
            assert!(fs::read(reader).unwrap() == text, "round {round}");
        } else {
            let file = read_write(writer);
            file.write_all_at(&text, 0).unwrap();
            file.sync_all().unwrap();
            assert!(fs::read(reader).unwrap() == text, "round {round}");
        }
    }
}

#[test]
fn names_made_and_removed_on_one_mount_are_so_on_the_other() {
    let Some(place) = Place::new("names") else { return };
    let (here, there) = (place.path(), place.other());
    for round in 0..20 {
        let name = format!("name {}", round % 3);
        fs::write(here.join(&name), "first").unwrap();
        assert_eq!(fs::read_to_string(there.join(&name)).unwrap(), "first");
        fs::write(there.join("tmp"), "second").unwrap();
        fs::rename(there.join("tmp"), there.join(&name)).unwrap();
        assert_eq!(fs::read_to_string(here.join(&name)).unwrap(), "second");
        assert_eq!(fs::read_dir(&here).unwrap().count(), 1);
        fs::remove_file(here.join(&name)).unwrap();
        assert!(!there.join(&name).exists());
    }
}

/// Each change waits until the other mount has forgotten the name, under a lock that the other's own change holds.
#[test]
fn two_mounts_that_change_one_directory_do_not_wait_for_each_other() {
    let Some(place) = Place::new("contended") else { return };
    let before = std::time::Instant::now();
    let threads: Vec<_> = [place.path(), place.other()]
        .into_iter()
        .enumerate()
        .map(|(n, d)| {
            std::thread::spawn(move || {
                for round in 0..40 {
                    let path = d.join(format!("{n} {round}"));
                    fs::create_dir(&path).unwrap();
                    fs::rename(&path, d.join("moved").with_extension(n.to_string())).unwrap();
                    fs::remove_dir(d.join("moved").with_extension(n.to_string())).unwrap();
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(
        before.elapsed().as_secs() < 40,
        "240 changes took {:?}",
        before.elapsed()
    );
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn a_file_removed_by_another_mount_stays_readable_here() {
    let Some(place) = Place::new("removed_there") else {
        return;
    };
    let text = pattern(3, 500_000);
    fs::write(place.path().join("file"), &text).unwrap();
    let file = File::open(place.path().join("file")).unwrap();
    fs::remove_file(place.other().join("file")).unwrap();
    let mut read = vec![0; text.len()];
    file.read_exact_at(&mut read, 0).unwrap();
    assert!(read == text);
}

#[test]
fn pages_are_kept_across_opens_until_the_contents_change() {
    let Some(place) = Place::new("kept_pages") else { return };
    let (here, there) = (place.path().join("file"), place.other().join("file"));
    const LEN: usize = 4 << 20;
    fs::write(&there, pattern(0, LEN)).unwrap();
    assert!(fs::read(&here).unwrap() == pattern(0, LEN));
    let resident = || {
        let file = File::open(&here).unwrap();
        let shown = sh(&format!("fincore -n -b -o RES '{}'", here.display()));
        drop(file);
        shown.trim().parse::<usize>().unwrap()
    };
    if common::sh_output("command -v fincore").status.success() {
        assert!(
            resident() >= LEN,
            "an open of what has not changed keeps the pages: {}",
            resident()
        );
        fs::write(&there, pattern(1, LEN)).unwrap();
        drop(File::open(&here).unwrap());
        assert!(resident() < LEN, "an open of what has changed drops them");
        fs::write(&here, pattern(2, LEN)).unwrap();
        fs::metadata(&here).unwrap();
        assert!(resident() >= LEN, "what this mount wrote stays: {}", resident());
        let file = read_write(&there);
        file.write_all_at(b"theirs", 0).unwrap();
        drop(file);
        assert!(resident() < LEN, "until another one changes it");
    }
    assert!(fs::read(&here).unwrap() == fs::read(&there).unwrap());
}
