//! Promise 6 between two mounts: what one did and closed or synced the other sees, told by the master's push and not by
//! time; and a write that is lost after write(2) returned is heard of by all that follows.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]
mod common;

use common::cluster::{Cluster, Terms};
use common::errno;
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::IntoRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

const HOUR: Duration = Duration::from_secs(3600);

fn read_write(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

/// The kernel may answer from its caches for an hour: only pushes can make it forget.
#[test]
fn what_one_mount_changed_leaves_the_other_mounts_caches_before_the_change_is_answered() {
    let terms = Terms {
        cached_for: Some(HOUR),
        ..Terms::default()
    };
    let Some(cluster) = Cluster::alone(terms) else { return };
    let (here, there) = (cluster.mountpoint(0), cluster.mountpoint(1));

    // attributes
    fs::write(here.join("file"), "one").unwrap();
    let seen = || fs::metadata(there.join("file")).unwrap();
    assert_eq!((seen().len(), seen().mode() & 0o777), (3, 0o644));
    fs::set_permissions(here.join("file"), PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(seen().mode() & 0o777, 0o600, "chmod");
    File::options()
        .append(true)
        .open(here.join("file"))
        .unwrap()
        .write_all(b" and two")
        .unwrap();
    assert_eq!(seen().len(), 11, "length");
    read_write(&here.join("file")).set_len(2).unwrap();
    assert_eq!(seen().len(), 2, "truncate");
    let modified = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    read_write(&here.join("file")).set_modified(modified).unwrap();
    assert_eq!(seen().modified().unwrap(), modified, "utimens");
    fs::hard_link(here.join("file"), here.join("link")).unwrap();
    assert_eq!(seen().nlink(), 2, "link");

    // names: absent ones, new ones, moved ones, removed ones
    assert!(!there.join("new").exists());
    fs::create_dir(here.join("new")).unwrap();
    assert!(there.join("new").is_dir(), "a name that was known to be absent");
    assert!(!there.join("new/moved").exists());
    fs::rename(here.join("file"), here.join("new/moved")).unwrap();
    assert!(
        there.join("new/moved").exists() && !there.join("file").exists(),
        "rename"
    );
    fs::remove_file(here.join("new/moved")).unwrap();
    assert!(!there.join("new/moved").exists(), "unlink");
    assert_eq!(
        fs::metadata(there.join("link")).unwrap().nlink(),
        1,
        "the other name's count"
    );
    fs::remove_dir(here.join("new")).unwrap();
    assert!(!there.join("new").exists(), "rmdir");
    symlink("link", here.join("to")).unwrap();
    assert_eq!(fs::read_link(there.join("to")).unwrap(), Path::new("link"));
    fs::remove_file(here.join("to")).unwrap();
    symlink("elsewhere", here.join("to")).unwrap();
    assert_eq!(
        fs::read_link(there.join("to")).unwrap(),
        Path::new("elsewhere"),
        "a link of the same name"
    );
    fs::write(here.join("target"), "new contents").unwrap();
    assert!(fs::metadata(there.join("link")).unwrap().len() == 2);
    fs::rename(here.join("target"), here.join("link")).unwrap();
    assert_eq!(
        fs::read_to_string(there.join("link")).unwrap(),
        "new contents",
        "a name that leads elsewhere"
    );

    // pages of a file that stays open there
    fs::write(here.join("data"), [1; 100_000]).unwrap();
    let open = File::open(there.join("data")).unwrap();
    let reads = |byte: u8| {
        let mut buffer = vec![0; 100_000];
        open.read_exact_at(&mut buffer, 0).unwrap();
        assert!(buffer.iter().all(|b| *b == byte), "{byte}: {:?}", &buffer[..4]);
    };
    reads(1);
    let writer = read_write(&here.join("data"));
    for byte in 2..6 {
        writer.write_all_at(&[byte; 100_000], 0).unwrap();
        match byte % 2 {
            0 => writer.sync_all().unwrap(),
            _ => drop(writer.try_clone().unwrap()), // close(2) of one of two
        }
        reads(byte);
    }
}

/// A mount answers from what it was told of a directory that it made or has listed; the other changes it at each turn.
#[test]
fn names_that_a_mount_knows_without_asking_are_right_as_soon_as_the_other_mounts_change_is_answered() {
    let Some(cluster) = Cluster::alone(Terms::default()) else {
        return;
    };
    let (here, there) = (cluster.mountpoint(0), cluster.mountpoint(1));
    fs::create_dir(here.join("made")).unwrap();
    fs::create_dir(there.join("listed")).unwrap();
    assert_eq!(fs::read_dir(here.join("listed")).unwrap().count(), 0);
    for directory in ["made", "listed"] {
        let (ours, theirs) = (here.join(directory), there.join(directory));
        for n in 0..50 {
            let name = format!("{n}");
            assert!(!ours.join(&name).exists(), "absent");
            fs::write(theirs.join(&name), "theirs").unwrap();
            assert_eq!(fs::read_to_string(ours.join(&name)).unwrap(), "theirs", "made there");
            fs::rename(ours.join(&name), ours.join("moved")).unwrap();
            assert!(
                !theirs.join(&name).exists() && theirs.join("moved").exists(),
                "moved here"
            );
            fs::hard_link(theirs.join("moved"), theirs.join("second")).unwrap();
            assert_eq!(fs::metadata(ours.join("moved")).unwrap().nlink(), 2, "linked there");
            fs::remove_file(ours.join("second")).unwrap();
            assert_eq!(fs::metadata(ours.join("moved")).unwrap().nlink(), 1, "unlinked here");
            fs::set_permissions(theirs.join("moved"), PermissionsExt::from_mode(0o640)).unwrap();
            assert_eq!(fs::metadata(ours.join("moved")).unwrap().mode() & 0o777, 0o640);
            fs::remove_file(theirs.join("moved")).unwrap();
            assert!(
                !ours.join("moved").exists() && !ours.join("second").exists(),
                "removed there"
            );
            fs::write(ours.join(&name), "ours").unwrap();
            assert_eq!(fs::metadata(ours.join(&name)).unwrap().len(), 4, "made here");
            fs::remove_file(theirs.join(&name)).unwrap();
            assert!(!ours.join(&name).exists(), "removed there");
            // another directory's times change with its names
            let times = |d: &Path| fs::metadata(d).map(|m| (m.mtime(), m.mtime_nsec())).unwrap();
            assert_eq!(times(&ours), times(&theirs));
        }
    }
    let set = |path: &Path, value: &str| {
        rustix::fs::setxattr(path, "user.k", value.as_bytes(), rustix::fs::XattrFlags::empty())
    };
    let get = |path: &Path| rustix::fs::getxattr(path, "user.k", &mut [0u8; 10][..]);
    fs::write(here.join("made/x"), "x").unwrap();
    assert_eq!(get(&here.join("made/x")), Err(Errno::NODATA));
    set(&there.join("made/x"), "v").unwrap();
    assert_eq!(get(&here.join("made/x")), Ok(1), "an attribute that was set there");
}

/// What was closed empty is opened again without asking, also to be cut, unless somebody did something to it.
#[test]
fn an_empty_file_is_written_by_whoever_opens_it_next() {
    let Some(cluster) = Cluster::alone(Terms::default()) else {
        return;
    };
    let (here, there) = (cluster.mountpoint(0), cluster.mountpoint(1));
    let append = |path: &Path, text: &str| {
        let mut file = File::options().append(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    };
    let write = |path: &Path, text: &str| fs::write(path, text).unwrap();
    let cut = |path: &Path| read_write(path).set_len(0).unwrap();
    type Between<'a> = &'a dyn Fn(&Path);
    let between: [(&str, Between<'_>); 8] = [
        ("nothing", &|_| {}),
        ("cut", &cut),
        ("made longer and cut", &|path| {
            read_write(path).set_len(10).unwrap();
            cut(path);
        }),
        ("opened to be cut", &|path| write(path, "")),
        ("written and cut", &|path| {
            write(path, "what is cut");
            cut(path);
        }),
        ("opened and closed", &|path| drop(read_write(path))),
        ("given times", &|path| {
            read_write(path)
                .set_modified(std::time::SystemTime::UNIX_EPOCH)
                .unwrap()
        }),
        ("given a mode", &|path| {
            fs::set_permissions(path, PermissionsExt::from_mode(0o640)).unwrap()
        }),
    ];
    for (what, between) in between {
        for by in [&here, &there] {
            for (n, next) in [&write as &dyn Fn(&Path, &str), &append].into_iter().enumerate() {
                let name = "file";
                write(&here.join(name), "");
                between(&by.join(name));
                next(&here.join(name), "mine");
                let seen = [&here, &there].map(|d| fs::read_to_string(d.join(name)).unwrap());
                assert_eq!(seen, ["mine", "mine"], "{what} on {}, {n}", by.display());
                fs::remove_file(there.join(name)).unwrap();
            }
        }
    }
    // to be cut moves its times, though there is nothing to be cut
    let file = here.join("touched");
    write(&file, "");
    let made = fs::metadata(&file).unwrap().modified().unwrap();
    write(&file, "");
    let touched = fs::metadata(&file).unwrap().modified().unwrap();
    assert!(touched > made);
    assert_eq!(
        fs::metadata(there.join("touched")).unwrap().modified().unwrap(),
        touched
    );
}

/// As above; a directory that is known whole is listed without asking.
#[test]
fn a_directory_that_a_mount_knows_is_listed_as_the_other_mount_left_it() {
    let Some(cluster) = Cluster::alone(Terms::default()) else {
        return;
    };
    let (here, there) = (cluster.mountpoint(0), cluster.mountpoint(1));
    let listed = |directory: &Path| {
        let read = rustix::fs::Dir::read_from(File::open(directory).unwrap()).unwrap();
        let mut names: Vec<_> = read
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().to_owned(), entry.ino(), entry.file_type()))
            .collect();
        names.sort_by(|a, b| a.0.cmp(&b.0));
        names
    };
    fs::create_dir(here.join("other")).unwrap();
    fs::create_dir(here.join("d")).unwrap();
    let (mut ours, mut theirs) = (here.join("d"), there.join("d"));
    for n in 0..40 {
        let name = |what: &str| format!("{what}{n}");
        let step = |what: &str| {
            assert_eq!(listed(&ours), listed(&theirs), "{what}, round {n}");
            assert_eq!(listed(&ours), listed(&theirs), "{what}, round {n}, again");
        };
        fs::write(ours.join(name("ours")), "").unwrap();
        fs::create_dir(ours.join(name("directory"))).unwrap();
        step("made here");
        fs::write(theirs.join(name("theirs")), "").unwrap();
        step("made there");
        fs::rename(theirs.join(name("theirs")), theirs.join(name("ours"))).unwrap();
        step("replaced there");
        fs::rename(ours.join(name("ours")), ours.join(name("moved"))).unwrap();
        step("moved here");
        fs::hard_link(theirs.join(name("moved")), theirs.join("second")).unwrap();
        step("linked there");
        fs::remove_file(ours.join("second")).unwrap();
        step("removed here");
        fs::remove_dir(theirs.join(name("directory"))).unwrap();
        step("removed there");
        // `..` of a directory that moves, by one and by the other
        let (mover, to) = if n % 2 == 0 { (&here, "other/d") } else { (&there, "d") };
        let from = if n % 2 == 0 { "d" } else { "other/d" };
        fs::rename(mover.join(from), mover.join(to)).unwrap();
        (ours, theirs) = (here.join(to), there.join(to));
        let parent = fs::metadata(ours.parent().unwrap()).unwrap().ino();
        let dotdot = listed(&ours).into_iter().find(|(name, ..)| name.as_bytes() == b"..");
        assert_eq!(dotdot.map(|(_, ino, _)| ino), Some(parent), "moved, round {n}");
    }
}

/// One close(2), with its answer.
#[allow(unsafe_code)]
fn close(file: File) -> Result<(), Errno> {
    // SAFETY: the descriptor was the file's alone, and is used by nobody after this.
    unsafe { rustix::io::try_close(file.into_raw_fd()) }
}

#[test]
fn a_lost_write_reaches_every_following_write_fsync_and_close_of_its_file() {
    let terms = Terms {
        timeout: Duration::from_secs(4),
        ..Terms::default()
    };
    let Some(mut cluster) = Cluster::alone(terms) else {
        return;
    };
    let d = cluster.mountpoint(0);
    let eio = Err(Errno::IO.raw_os_error());
    let stored = |name: &str| {
        let path = d.join(name);
        let file = File::create_new(&path).unwrap();
        file.write_all_at(b"stored", 0).unwrap();
        file.sync_all().unwrap();
        (file, File::options().write(true).open(&path).unwrap())
    };
    let (synced, another_open) = stored("synced");
    let (written, _) = stored("written");
    let (closed, _) = stored("closed");
    let (untouched, _) = stored("untouched");
    let reader = File::open(d.join("synced")).unwrap();
    cluster.stop_chunkservers();

    // told first by fsync
    synced
        .write_all_at(b"lost", 0)
        .expect("write(2) returns when the client holds the bytes");
    for _ in 0..2 {
        assert_eq!(errno(synced.sync_all()), eio, "fsync");
        assert_eq!(errno(synced.sync_data()), eio, "fdatasync");
        assert_eq!(errno(synced.write_all_at(b"more", 0)), eio, "write");
    }
    // and so to each who has the file open for writing, whoever lost the write
    assert_eq!(
        errno(another_open.write_all_at(b"more", 0)),
        eio,
        "write by another open"
    );
    assert_eq!(errno(another_open.sync_all()), eio, "fsync by another open");
    assert_eq!(close(another_open), Err(Errno::IO), "close by another open");
    assert_eq!(close(synced.try_clone().unwrap()), Err(Errno::IO), "close of a copy");
    assert_eq!(close(synced), Err(Errno::IO), "close");
    assert_eq!(close(reader), Ok(()), "a reader lost nothing");

    // told first by a write: the bytes leave by themselves, nobody asked
    written.write_all_at(b"lost", 0).unwrap();
    let told_by = Instant::now() + Duration::from_secs(60);
    while errno(written.write_all_at(b"lost", 0)).is_ok() {
        assert!(Instant::now() < told_by, "the loss stays unheard of");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(errno(written.sync_all()), eio);
    assert_eq!(close(written), Err(Errno::IO));

    // told first by close
    closed.write_all_at(b"lost", 0).unwrap();
    assert_eq!(close(closed), Err(Errno::IO));

    // other files have not lost anything
    assert_eq!(errno(untouched.sync_all()), Ok(()));
    assert_eq!(close(untouched), Ok(()));
}

/// Who reads a directory's files one after the other has the next one opened and read before asking for it. The other
/// mount changes that one, in all ways, each time between the two.
#[test]
fn a_file_that_was_read_before_it_is_opened_is_as_the_other_mount_has_closed_it() {
    let Some(cluster) = Cluster::alone(Terms::default()) else {
        return;
    };
    let (here, there) = (cluster.mountpoint(0), cluster.mountpoint(1));
    let content = |n: usize, turn: usize| format!("{n} {turn} {}", "x".repeat(3000 + 7 * n + turn)).into_bytes();
    for turn in 0..4 {
        let name = format!("read{turn}");
        fs::create_dir(here.join(&name)).unwrap();
        for n in 0..24 {
            // made here in some turns, known to the master only by the other mount's word in the others
            let place = if turn % 2 == 0 { &here } else { &there };
            fs::write(place.join(&name).join(n.to_string()), content(n, turn)).unwrap();
        }
        let listed = fs::read_dir(here.join(&name)).unwrap();
        let files: Vec<usize> = listed
            .map(|entry| entry.unwrap().file_name().into_string().unwrap().parse().unwrap())
            .collect();
        let mut expected = content(files[0], turn);
        for (at, n) in files.iter().enumerate() {
            let path = here.join(&name).join(n.to_string());
            let mut file = File::open(&path).unwrap();
            let mut found = Vec::new();
            file.read_to_end(&mut found).unwrap();
            assert!(found == expected, "turn {turn}, file {at}: {:?}", found.get(..10));
            let Some(next) = files.get(at + 1) else { break };
            let path = there.join(&name).join(next.to_string());
            expected = content(*next, turn);
            let change = content(*next, turn + 10);
            match at % 5 {
                0 => {}
                1 => {
                    read_write(&path).write_all_at(&[b'y'; 100], 50).unwrap();
                    expected[50..150].fill(b'y');
                }
                2 => {
                    fs::write(there.join("new"), &change).unwrap();
                    fs::rename(there.join("new"), &path).unwrap();
                    expected = change;
                }
                3 => {
                    read_write(&path).set_len(100).unwrap();
                    expected.truncate(100);
                }
                _ => {
                    fs::write(&path, &change).unwrap();
                    expected = change;
                }
            }
        }
    }
}

/// A file that was closed is opened again without the master's knowledge.
#[test]
fn a_file_that_is_opened_again_is_as_the_other_mount_has_closed_it_and_can_be_removed() {
    let Some(cluster) = Cluster::alone(Terms::default()) else {
        return;
    };
    let (here, there) = (cluster.mountpoint(0), cluster.mountpoint(1));
    let gone = Err(Errno::NOENT.raw_os_error());
    for n in 0..40_u8 {
        let path = |mount: &Path| mount.join("again");
        fs::write(path(&here), [n; 5000]).unwrap();
        assert!(fs::read(path(&here)).unwrap() == [n; 5000]);
        read_write(&path(&there)).write_all_at(&[n + 1; 100], 1000).unwrap();
        let found = fs::read(path(&here)).unwrap();
        assert!(found[1000..1100] == [n + 1; 100] && found[..1000] == [n; 1000], "{n}");
        // whoever removes it, it stays for who has it open
        let open = File::open(path(&here)).unwrap();
        let (one, other) = if n % 2 == 0 { (&here, &there) } else { (&there, &here) };
        fs::remove_file(path(one)).unwrap();
        assert_eq!(errno(File::open(path(&here))), gone);
        assert_eq!(errno(File::open(path(other))), gone);
        let mut found = [0; 100];
        open.read_exact_at(&mut found, 1000).unwrap();
        assert_eq!(found, [n + 1; 100]);
    }
}
