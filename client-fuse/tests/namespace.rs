//! Names, attributes and listings through the mount, compared with a local file system where there is one answer.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used)]
mod common;

use common::cluster::Place;
use common::{errno, sh};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

#[test]
fn names_are_looked_up_and_missing_ones_are_enoent() {
    let Some(place) = Place::new("lookup") else { return };
    place.same(|d| {
        fs::write(d.join("here"), "x").unwrap();
        let odd = std::ffi::OsStr::from_bytes(b"not utf-8 \xff\xfe and a\nline");
        fs::write(d.join(odd), "y").unwrap();
        let long = |n: usize| errno(fs::write(d.join("n".repeat(n)), ""));
        (
            fs::read(d.join("here")).unwrap(),
            fs::read(d.join(odd)).unwrap(),
            errno(fs::read(d.join("absent"))),
            errno(fs::read(d.join("here/below"))),
            errno(fs::metadata(d.join("n".repeat(256)))),
            [long(255), long(256), long(1000)],
            errno(fs::create_dir(d.join("n".repeat(256)))),
        )
    });
}

#[test]
fn attributes_are_those_of_posix() {
    let Some(place) = Place::new("attributes") else { return };
    place.same(|d| {
        let file = d.join("file");
        fs::write(&file, vec![1; 5000]).unwrap();
        fs::create_dir(d.join("dir")).unwrap();
        fs::create_dir(d.join("dir/sub")).unwrap();
        let (f, dir) = (fs::metadata(&file).unwrap(), fs::metadata(d.join("dir")).unwrap());
        assert!(f.ino() != dir.ino() && f.dev() == dir.dev());
        (
            f.len(),
            f.mode(),
            f.nlink(),
            f.uid(),
            f.gid(),
            dir.mode(),
            dir.nlink(),
            dir.is_dir(),
        )
    });
    let file = place.path().join("file");
    let meta = fs::metadata(&file).unwrap();
    for time in [meta.modified().unwrap(), meta.accessed().unwrap()] {
        let age = SystemTime::now().duration_since(time).unwrap_or_default();
        assert!(age < Duration::from_secs(60), "{age:?}");
    }
    File::open(&file).unwrap().sync_all().unwrap();
    assert_eq!(fs::metadata(&file).unwrap().blocks(), 5000u64.div_ceil(512));
}

#[test]
fn chmod_and_chown_change_mode_and_owner() {
    let Some(place) = Place::new("chmod") else { return };
    let root = common::root();
    place.same(|d| {
        let file = d.join("file");
        fs::write(&file, "").unwrap();
        let ctime = |path: &Path| {
            let m = fs::metadata(path).unwrap();
            (m.ctime(), m.ctime_nsec())
        };
        let before = ctime(&file);
        std::thread::sleep(Duration::from_millis(20));
        fs::set_permissions(&file, PermissionsExt::from_mode(0o7751)).unwrap();
        assert!(ctime(&file) > before);
        let mode = fs::metadata(&file).unwrap().mode();
        if root {
            std::os::unix::fs::chown(&file, Some(1), Some(2)).unwrap();
        }
        let after = fs::metadata(&file).unwrap();
        // chown(2) takes setuid and setgid away, from root's files too
        (mode, after.mode(), root.then(|| (after.uid(), after.gid())))
    });
}

#[test]
fn times_are_set_to_now_to_a_value_and_to_values_before_1970() {
    let Some(place) = Place::new("utimens") else { return };
    place.same(|d| {
        let path = d.join("file");
        fs::write(&path, "x").unwrap();
        let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
        let set = |last_access, last_modification| {
            let times = Timestamps {
                last_access,
                last_modification,
            };
            rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty()).unwrap();
            let m = fs::metadata(&path).unwrap();
            [m.atime(), m.atime_nsec(), m.mtime(), m.mtime_nsec()]
        };
        let explicit = set(time(1_000_000_000, 123_456_789), time(2_000_000_000, 987_654_321));
        let one = set(time(0, UTIME_OMIT), time(5, 6));
        let early = set(time(-2, 500_000_000), time(-1_000_000, 1));
        let now = set(time(0, UTIME_NOW), time(0, UTIME_NOW));
        let wall = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs() as i64;
        assert!(
            (now[0] - wall).abs() < 60 && (now[2] - wall).abs() < 60,
            "{now:?} at {wall}"
        );
        (explicit, one, early)
    });
}

/// The kernel keeps what it is told of a file: the times of before a write not beyond the write's commit.
#[test]
fn the_time_of_a_write_is_seen_after_close_by_who_looked_before() {
    let Some(place) = Place::new("late_times") else { return };
    let path = place.path().join("file");
    fs::write(&path, "before").unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1234);
    let modified = || fs::metadata(&path).unwrap().modified().unwrap();
    for looks in 0..3 {
        File::open(&path).unwrap().set_modified(old).unwrap();
        assert_eq!(modified(), old);
        let mut file = File::options().write(true).open(&path).unwrap();
        file.write_all(b"now").unwrap();
        match looks {
            0 => assert_eq!(file.metadata().unwrap().len(), 6),
            1 => file.set_permissions(PermissionsExt::from_mode(0o600)).unwrap(),
            _ => {
                let listed = fs::read_dir(place.path()).unwrap().map(Result::unwrap);
                assert!(listed.into_iter().all(|entry| entry.metadata().unwrap().len() == 6));
            }
        }
        drop(file);
        assert_ne!(modified(), old, "looked in way {looks}");
    }
}

#[test]
fn an_explicit_mtime_outlives_writes_that_were_queued_before_it() {
    let Some(place) = Place::new("late_flush") else { return };
    place.same(|d| {
        let path = d.join("file");
        let mut file = File::create(&path).unwrap();
        file.write_all(&[7; 100_000]).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1234))
            .unwrap();
        file.sync_all().unwrap();
        drop(file);
        let m = fs::metadata(&path).unwrap();
        (m.mtime(), m.len())
    });
    std::thread::sleep(Duration::from_millis(1500)); // longer than a client's commits wait
    assert_eq!(fs::metadata(place.path().join("file")).unwrap().mtime(), 1234);
}

#[test]
fn directories_are_made_and_removed() {
    let Some(place) = Place::new("mkdir") else { return };
    place.same(|d| {
        let (dir, sub) = (d.join("dir"), d.join("dir/sub"));
        fs::create_dir(&dir).unwrap();
        fs::create_dir(&sub).unwrap();
        fs::write(d.join("file"), "").unwrap();
        let results = [
            errno(fs::create_dir(&dir)),
            errno(fs::create_dir(d.join("no/parent"))),
            errno(fs::remove_dir(&dir)),
            errno(fs::remove_dir(d.join("file"))),
            errno(fs::remove_dir(d.join("absent"))),
            errno(fs::remove_file(&sub)),
            errno(fs::remove_dir(&sub)),
            errno(fs::remove_dir(&dir)),
            errno(fs::metadata(&dir)),
        ];
        // a directory that is somebody's working directory may be removed, and is empty then
        fs::create_dir(&dir).unwrap();
        let open = rustix::fs::open(&dir, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        fs::remove_dir(&dir).unwrap();
        let below = rustix::fs::openat(&open, "x", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR);
        (results, below.map(drop).map_err(|e| e.raw_os_error()))
    });
}

#[test]
fn special_files_are_made_and_work() {
    let Some(place) = Place::new("mknod") else { return };
    place.same(|d| {
        let make =
            |name: &str, kind| rustix::fs::mknodat(CWD, d.join(name), kind, Mode::from_raw_mode(0o640), 0).unwrap();
        make("fifo", FileType::Fifo);
        make("socket", FileType::Socket);
        make("plain", FileType::RegularFile);
        let kind = |name: &str| {
            let m = fs::metadata(d.join(name)).unwrap();
            let t = m.file_type();
            (t.is_fifo(), t.is_socket(), t.is_file(), m.mode() & 0o777, m.len())
        };
        let fifo = d.join("fifo");
        let writer = std::thread::spawn(move || fs::write(fifo, "through the pipe").unwrap());
        let text = fs::read_to_string(d.join("fifo")).unwrap();
        writer.join().unwrap();
        // a listening socket
        let bound = std::os::unix::net::UnixListener::bind(d.join("bound")).is_ok();
        let connected = std::os::unix::net::UnixStream::connect(d.join("bound")).is_ok();
        ([kind("fifo"), kind("socket"), kind("plain")], text, bound, connected)
    });
}

#[test]
fn devices_are_made_by_root_and_keep_their_numbers() {
    let Some(place) = Place::new("devices") else { return };
    if !common::root() {
        eprintln!("SKIPPED: only root makes devices");
        return;
    }
    place.same(|d| {
        let make = |name: &str, kind, device| {
            rustix::fs::mknodat(CWD, d.join(name), kind, Mode::from_raw_mode(0o600), device).unwrap();
            let m = fs::metadata(d.join(name)).unwrap();
            (m.mode(), m.rdev(), m.len())
        };
        [
            make("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
            make("disk", FileType::BlockDevice, rustix::fs::makedev(259, 70_000)),
        ]
    });
    // on the mount they are no devices: nodev is the default
    let opened = File::open(place.path().join("null"));
    assert_eq!(errno(opened), Err(rustix::io::Errno::ACCESS.raw_os_error()));
}

#[test]
fn hard_links_share_the_inode() {
    let Some(place) = Place::new("link") else { return };
    place.same(|d| {
        let (a, b) = (d.join("a"), d.join("b"));
        fs::write(&a, "one").unwrap();
        fs::hard_link(&a, &b).unwrap();
        assert_eq!(fs::metadata(&a).unwrap().ino(), fs::metadata(&b).unwrap().ino());
        let count = fs::metadata(&a).unwrap().nlink();
        fs::write(&b, "two").unwrap();
        let through = fs::read_to_string(&a).unwrap();
        fs::create_dir(d.join("dir")).unwrap();
        let refused = [
            errno(fs::hard_link(&a, &b)),
            errno(fs::hard_link(d.join("dir"), d.join("dirlink"))),
            errno(fs::hard_link(d.join("absent"), d.join("c"))),
        ];
        fs::remove_file(&a).unwrap();
        (
            count,
            through,
            refused,
            fs::metadata(&b).unwrap().nlink(),
            fs::read_to_string(&b).unwrap(),
        )
    });
}

#[test]
fn symbolic_links_are_kept_as_they_are() {
    let Some(place) = Place::new("symlink") else { return };
    place.same(|d| {
        fs::write(d.join("file"), "x").unwrap();
        symlink("file", d.join("good")).unwrap();
        symlink("../not/there", d.join("dangling")).unwrap();
        symlink("loop", d.join("loop")).unwrap();
        let long = "l".repeat(4000);
        symlink(&long, d.join("long")).unwrap();
        let meta = fs::symlink_metadata(d.join("dangling")).unwrap();
        (
            fs::read_to_string(d.join("good")).unwrap(),
            fs::read_link(d.join("dangling")).unwrap(),
            (meta.len(), meta.mode()),
            fs::read_link(d.join("long")).unwrap().as_os_str().len(),
            errno(fs::read(d.join("dangling"))),
            errno(fs::read(d.join("loop"))),
            errno(symlink("again", d.join("good"))),
            errno(fs::read_link(d.join("file"))),
        )
    });
}

fn tree(d: &Path) -> Vec<(String, String)> {
    let mut entries: Vec<_> = fs::read_dir(d)
        .unwrap()
        .map(|e| {
            let e = e.unwrap();
            let text = if e.path().is_dir() {
                "dir".into()
            } else {
                fs::read_to_string(e.path()).unwrap()
            };
            (e.file_name().into_string().unwrap(), text)
        })
        .collect();
    entries.sort();
    entries
}

#[test]
fn rename_replaces_refuses_and_exchanges() {
    let Some(place) = Place::new("rename") else { return };
    place.same(|d| {
        for name in ["a", "b", "c"] {
            fs::write(d.join(name), name).unwrap();
        }
        for dir in ["empty", "full", "full/sub"] {
            fs::create_dir(d.join(dir)).unwrap();
        }
        let with = |from: &str, to: &str, flags| {
            rustix::fs::renameat_with(CWD, d.join(from), CWD, d.join(to), flags).map_err(|e| e.raw_os_error())
        };
        let plain = |from, to| with(from, to, RenameFlags::empty());
        let results = vec![
            plain("a", "b"),
            plain("absent", "x"),
            plain("b", "full"),
            plain("full", "b"),
            plain("empty", "full"),
            plain("full", "empty"),
            plain("empty", "empty/sub/deeper"),
            with("b", "c", RenameFlags::NOREPLACE),
            with("b", "new", RenameFlags::NOREPLACE),
            with("new", "c", RenameFlags::EXCHANGE),
            with("new", "empty", RenameFlags::EXCHANGE),
            with("new", "absent", RenameFlags::EXCHANGE),
            plain("c", "c"),
            with("c", "x", RenameFlags::NOREPLACE | RenameFlags::EXCHANGE),
        ];
        (results, tree(d))
    });
}

#[test]
fn a_directory_that_moves_keeps_what_is_in_it_and_its_dotdot() {
    let Some(place) = Place::new("move") else { return };
    place.same(|d| {
        fs::create_dir_all(d.join("a/b/c")).unwrap();
        fs::create_dir(d.join("z")).unwrap();
        fs::write(d.join("a/b/c/file"), "deep").unwrap();
        let open = File::open(d.join("a/b/c/file")).unwrap();
        fs::rename(d.join("a/b"), d.join("z/moved")).unwrap();
        let up = d.join("z/moved/..");
        assert_eq!(
            fs::metadata(&up).unwrap().ino(),
            fs::metadata(d.join("z")).unwrap().ino()
        );
        let mut text = String::new();
        (&open).read_to_string(&mut text).unwrap();
        let listed: Vec<_> = sh(&format!("ls -a '{}'", d.join("z/moved").display()))
            .lines()
            .map(str::to_owned)
            .collect();
        let links = (
            fs::metadata(d.join("a")).unwrap().nlink(),
            fs::metadata(d.join("z")).unwrap().nlink(),
        );
        (
            text,
            fs::read_to_string(d.join("z/moved/c/file")).unwrap(),
            listed,
            links,
        )
    });
}

#[test]
fn an_unlinked_file_stays_readable_while_it_is_open() {
    let Some(place) = Place::new("unlinked") else { return };
    place.same(|d| {
        let path = d.join("file");
        fs::write(&path, "before").unwrap();
        let mut file = File::options().read(true).write(true).open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(!path.exists());
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        file.write_all(&[b'x'; 300_000]).unwrap();
        file.sync_all().unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut all = Vec::new();
        file.read_to_end(&mut all).unwrap();
        let meta = file.metadata().unwrap();
        fs::write(&path, "another").unwrap();
        (
            text,
            all.len(),
            meta.nlink(),
            meta.len(),
            fs::read_to_string(&path).unwrap(),
        )
    });
}

#[test]
fn a_large_directory_is_listed_once_each_while_it_changes() {
    let Some(place) = Place::new("large") else { return };
    const FILES: usize = 20_000;
    let d = place.path();
    let made: Vec<_> = (0..4)
        .map(|part| {
            let d = d.clone();
            std::thread::spawn(move || {
                for n in (part..FILES).step_by(4) {
                    rustix::fs::mknodat(CWD, d.join(format!("file {n}")), FileType::RegularFile, Mode::RUSR, 0)
                        .unwrap();
                }
            })
        })
        .collect();
    for thread in made {
        thread.join().unwrap();
    }
    let list = |change: &mut dyn FnMut(usize)| {
        let mut names = BTreeSet::new();
        for (n, entry) in fs::read_dir(&d).unwrap().enumerate() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(names.insert(name.clone()), "{name} came twice");
            change(n);
        }
        names
    };
    assert_eq!(list(&mut |_| {}).len(), FILES);
    // others come and go between the pages: those that stay are listed exactly once
    let names = list(&mut |n| {
        if n % 500 == 0 {
            fs::write(d.join(format!("new {n}")), "").unwrap();
            fs::remove_file(d.join(format!("file {}", n / 500))).unwrap();
        }
    });
    let removed = FILES.div_ceil(500);
    for n in removed..FILES {
        assert!(names.contains(&format!("file {n}")), "file {n} was left out");
    }
    // seekdir(3) to where an entry was
    let mut dir = rustix::fs::Dir::read_from(File::open(&d).unwrap()).unwrap();
    let first: Vec<_> = dir
        .by_ref()
        .take(300)
        .map(|e| e.unwrap().file_name().to_owned())
        .collect();
    assert_eq!((first[0].to_bytes(), first[1].to_bytes()), (&b"."[..], &b".."[..]));
    dir.rewind();
    let again: Vec<_> = dir.take(300).map(|e| e.unwrap().file_name().to_owned()).collect();
    assert_eq!(first, again);
    assert_eq!(
        sh(&format!("ls -l '{}' | wc -l", d.display())),
        (FILES + 1 + names.iter().filter(|n| n.starts_with("new")).count() - removed + extra(&d, &names)).to_string()
    );
}

/// Files that came behind the listing's back: it may or may not have seen them.
fn extra(d: &Path, seen: &BTreeSet<String>) -> usize {
    fs::read_dir(d)
        .unwrap()
        .filter(|e| {
            let name = e.as_ref().unwrap().file_name().into_string().unwrap();
            name.starts_with("new") && !seen.contains(&name)
        })
        .count()
}

#[test]
fn exclusive_creation_has_one_winner() {
    let Some(place) = Place::new("exclusive") else { return };
    for round in 0..20 {
        let path = |d: std::path::PathBuf| d.join(format!("file {round}"));
        let racers: Vec<_> = [
            path(place.path()),
            path(place.other()),
            path(place.path()),
            path(place.other()),
        ]
        .into_iter()
        .map(|path| std::thread::spawn(move || File::options().write(true).create_new(true).open(path)))
        .collect();
        let results: Vec<_> = racers.into_iter().map(|r| errno(r.join().unwrap())).collect();
        let eexist = rustix::io::Errno::EXIST.raw_os_error();
        assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1, "{results:?}");
        assert!(results.iter().all(|r| r.is_ok() || *r == Err(eexist)), "{results:?}");
    }
}

/// The kernel itself refuses a name that it knows; here two mounts give one name at a time, which only the master sees.
#[test]
fn a_rename_that_may_not_replace_has_one_winner() {
    let Some(place) = Place::new("noreplace") else { return };
    for round in 0..40 {
        let target = format!("target {round}");
        let racers: Vec<_> = [place.path(), place.other()]
            .into_iter()
            .enumerate()
            .map(|(n, d)| {
                let source = d.join(format!("source {n}"));
                fs::write(&source, n.to_string()).unwrap();
                let target = d.join(&target);
                std::thread::spawn(move || {
                    rustix::fs::renameat_with(CWD, source, CWD, target, RenameFlags::NOREPLACE)
                        .map_err(|e| e.raw_os_error())
                })
            })
            .collect();
        let results: Vec<_> = racers.into_iter().map(|racer| racer.join().unwrap()).collect();
        let winner = results.iter().position(Result::is_ok).unwrap();
        assert_eq!(
            results[1 - winner],
            Err(rustix::io::Errno::EXIST.raw_os_error()),
            "round {round}"
        );
        let kept = fs::read_to_string(place.path().join(&target)).unwrap();
        assert_eq!(kept, winner.to_string(), "round {round}");
    }
}

#[test]
fn creation_that_may_find_the_file_never_fails_when_others_create_it_too() {
    let Some(place) = Place::new("shared") else { return };
    for round in 0..20 {
        let racers: Vec<_> = [place.path(), place.other(), place.path(), place.other()]
            .into_iter()
            .map(|d| {
                let path = d.join(format!("file {round}"));
                std::thread::spawn(move || File::options().append(true).create(true).open(path).map(drop))
            })
            .collect();
        for racer in racers {
            racer.join().unwrap().unwrap();
        }
    }
}

#[test]
fn truncating_opens_are_atomic() {
    let Some(place) = Place::new("o_trunc") else { return };
    place.same(|d| {
        let path = d.join("file");
        fs::write(&path, vec![9; 200_000]).unwrap();
        let before = fs::metadata(&path).unwrap().ino();
        let file = File::create(&path).unwrap();
        let len = file.metadata().unwrap().len();
        assert_eq!(fs::metadata(&path).unwrap().ino(), before);
        fs::write(&path, "short").unwrap();
        (len, fs::read_to_string(&path).unwrap())
    });
}

#[test]
fn a_file_without_a_name_is_not_supported() {
    let Some(place) = Place::new("o_tmpfile") else { return };
    let opened = rustix::fs::open(place.path(), OFlags::TMPFILE | OFlags::RDWR, Mode::RUSR);
    assert_eq!(opened.map(drop), Err(rustix::io::Errno::OPNOTSUPP));
}

#[test]
fn df_shows_files_bytes_and_never_more_than_there_is() {
    let Some(place) = Place::new("statfs") else { return };
    let on_mount = rustix::fs::statvfs(place.path()).unwrap();
    let on_disk = rustix::fs::statvfs(place.local()).unwrap();
    assert_eq!(
        (on_mount.f_bsize, on_mount.f_frsize, on_mount.f_namemax),
        (4096, 4096, 255)
    );
    assert!(on_mount.f_bavail <= on_mount.f_bfree && on_mount.f_bfree <= on_mount.f_blocks);
    assert!(on_mount.f_blocks > 0 && on_mount.f_ffree <= on_mount.f_files);
    // three servers share one local disk here, and three copies are kept
    let (cluster, disk) = (
        on_mount.f_blocks * on_mount.f_frsize,
        on_disk.f_blocks * on_disk.f_frsize,
    );
    assert!(
        cluster <= disk + disk / 10,
        "{cluster} bytes for files on a disk of {disk}"
    );
    assert!(cluster >= disk / 4, "{cluster} bytes for files on a disk of {disk}");
    let shown = sh(&format!("df --output=pcent '{}' | tail -1", place.path().display()));
    let percent: u32 = shown.trim().trim_end_matches('%').parse().unwrap();
    assert!(percent <= 100, "{shown}");
}

#[test]
fn directories_sync_and_files_lock_within_the_mount() {
    let Some(place) = Place::new("locks") else { return };
    place.same(|d| {
        use rustix::fs::{FlockOperation, flock};
        File::open(d).unwrap().sync_all().unwrap();
        let path = d.join("file");
        let (a, b) = (File::create(&path).unwrap(), File::create(&path).unwrap());
        flock(&a, FlockOperation::LockExclusive).unwrap();
        let refused = flock(&b, FlockOperation::NonBlockingLockExclusive).map_err(|e| e.raw_os_error());
        drop(a);
        let granted = flock(&b, FlockOperation::NonBlockingLockExclusive).map_err(|e| e.raw_os_error());
        // a record lock is a process's: another one is refused until it goes
        use rustix::fs::fcntl_lock;
        let record = fcntl_lock(&b, FlockOperation::NonBlockingLockExclusive).map_err(|e| e.raw_os_error());
        let meanwhile = record_lock_of_another_process(&path);
        fcntl_lock(&b, FlockOperation::Unlock).unwrap();
        let after = record_lock_of_another_process(&path);
        assert_eq!((meanwhile, after), (false, true));
        (refused, granted, record)
    });
}

/// Whether it gets one: this very test binary, running the test below.
fn record_lock_of_another_process(path: &Path) -> bool {
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["lock_a_record", "--exact"])
        .env("CAIRN_TEST_LOCK", path)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status();
    status.unwrap().success()
}

/// Not a test by itself: the other process of the one above.
#[test]
fn lock_a_record() {
    let Some(path) = std::env::var_os("CAIRN_TEST_LOCK") else {
        return;
    };
    let file = File::options().write(true).open(path).unwrap();
    rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
}

#[test]
fn unknown_ioctls_are_enotty() {
    let Some(place) = Place::new("ioctl") else { return };
    let file = File::create(place.path().join("file")).unwrap();
    assert!(!std::io::IsTerminal::is_terminal(&file));
    let said = common::sh_output(&format!("lsattr '{}'", place.path().join("file").display()));
    if said.status.code() != Some(127) {
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(
            text.contains("Inappropriate ioctl") || text.contains("not supported"),
            "{text}"
        );
    }
}
