//! `cairn cp`: what arrives, under which names, with which attributes, and what an interruption leaves.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::expect_used)]
mod common;
use common::{Cluster, bytes, mode_of, mtime_of, signal};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

const CHUNK: usize = 64 << 20;

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn set_mtime(path: &Path, seconds: u64) {
    let time = std::time::UNIX_EPOCH + Duration::from_secs(seconds);
    let file = std::fs::File::open(path).unwrap();
    file.set_times(std::fs::FileTimes::new().set_modified(time).set_accessed(time))
        .unwrap();
}

/// Every path below, with kind, mode and what is in it.
fn tree(root: &Path) -> Vec<(String, String)> {
    let mut found = vec![];
    let mut stack = vec![root.to_owned()];
    while let Some(path) = stack.pop() {
        let meta = std::fs::symlink_metadata(&path).unwrap();
        let what = if meta.is_dir() {
            stack.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
            format!("directory {:o}", mode_of(&path))
        } else if meta.is_symlink() {
            format!("link {}", std::fs::read_link(&path).unwrap().display())
        } else {
            format!("file {:o} {:?}", mode_of(&path), std::fs::read(&path).unwrap())
        };
        found.push((path.strip_prefix(root).unwrap().display().to_string(), what));
    }
    found.sort();
    found
}

#[test]
fn files_of_awkward_sizes_come_back_as_they_went() {
    let c = Cluster::start();
    for (i, size) in [
        0,
        1,
        4095,
        65_536,
        65_537,
        1 << 20,
        (1 << 20) + 1,
        CHUNK,
        CHUNK + 70_001,
    ]
    .into_iter()
    .enumerate()
    {
        let data = bytes(size, i as u64 + 1);
        c.file("in", &data);
        c.ok(&["cp", "--verify", "in", &format!("cairn:/f{i}")]);
        c.ok(&["cp", &format!("cairn:/f{i}"), "out"]);
        assert!(std::fs::read(c.path("out")).unwrap() == data, "{size} bytes differ");
        assert!(
            c.ok_bytes(&["cp", &format!("cairn:/f{i}"), "-"], b"") == data,
            "{size} bytes differ on a pipe"
        );
    }
    // and within the cluster
    c.ok(&["cp", "cairn:/f8", "cairn:/again"]);
    assert!(c.get("/again") == bytes(CHUNK + 70_001, 9));
    assert!(c.ok(&["fsck", "/"]).contains("nothing wrong"));
}

#[test]
fn standard_input_becomes_a_file_and_replaces_one() {
    let c = Cluster::start();
    let data = bytes(5_000_001, 1);
    c.ok_bytes(&["cp", "--verify", "-", "cairn:/f"], &data);
    assert!(c.get("/f") == data);
    c.ok_bytes(&["cp", "-", "cairn:/f"], b"short");
    assert_eq!(c.get("/f"), b"short");
    c.ok_bytes(&["cp", "-n", "-", "cairn:/f"], b"other");
    assert_eq!(c.get("/f"), b"short");
    assert!(c.fails(&["cp", "-", "cairn:/"]).contains("standard input has no name"));
    assert_eq!(c.names("/"), ["f"]);
}

#[test]
fn names_follow_the_rules_of_cp_and_rsync() {
    let c = Cluster::start();
    c.file("dir/f", "1");
    c.file("dir/sub/g", "2");
    // the destination does not exist: it is the copy
    c.ok(&["cp", "-r", "dir", "cairn:/copy"]);
    assert_eq!(c.names("/copy"), ["f", "sub"]);
    // it exists: the copy is below it
    c.ok(&["cp", "-r", "dir", "cairn:/copy"]);
    assert_eq!(c.names("/copy"), ["dir", "f", "sub"]);
    // a slash: the contents
    c.ok(&["mkdir", "/other"]);
    c.ok(&["cp", "-r", "dir/", "cairn:/other"]);
    assert_eq!(c.names("/other"), ["f", "sub"]);
    c.ok(&["cp", "-r", "dir/.", "cairn:/other"]);
    assert_eq!(c.names("/other"), ["f", "sub"]);
    c.ok(&["cp", "-r", "-T", "dir", "cairn:/other"]);
    assert_eq!(c.names("/other"), ["f", "sub"]);
    // the same outwards
    c.ok(&["cp", "-r", "cairn:/other", "out"]);
    c.ok(&["cp", "-r", "cairn:/other", "out"]);
    assert_eq!(tree(&c.path("out/other")), tree(&c.path("dir")));
    c.ok(&["cp", "-r", "cairn:/other/", "out2/"]);
    assert_eq!(tree(&c.path("out2")), tree(&c.path("dir")));
    // several, and patterns
    c.file("x.txt", "x");
    c.file("y.txt", "y");
    c.ok(&["cp", "x.txt", "y.txt", "cairn:/other/"]);
    c.ok(&["cp", "cairn:/other/*.txt", "out2"]);
    assert_eq!(std::fs::read(c.path("out2/y.txt")).unwrap(), b"y");
    c.ok(&["cp", "x.txt", "cairn:/"]);
    assert_eq!(c.get("/x.txt"), b"x");
    for (args, expected) in [
        (&["cp", "dir", "cairn:/z"][..], "-r"),
        (&["cp", "x.txt", "y.txt", "cairn:/nowhere"], "several files"),
        (&["cp", "x.txt", "cairn:/nowhere/"], "no directory that exists"),
        (&["cp", "x.txt", "cairn:/nowhere/x"], "mkdir -p"),
        (&["cp", "-r", "dir", "cairn:/x.txt"], "-f"),
        (&["cp", "-T", "x.txt", "cairn:/other"], "is a directory"),
        (&["cp", "cairn:/nowhere", "z"], "no such file"),
        (&["cp", "cairn:/no*", "z"], "nothing matches"),
        (&["cp", "cairn:/x.txt", "cairn:/x.txt"], "same file"),
        (&["cp", "-r", "cairn:/other", "cairn:/other/below"], "into itself"),
    ] {
        let said = c.fails(args);
        assert!(said.contains(expected), "{args:?}: {said}");
    }
}

#[test]
fn archive_keeps_modes_times_links_and_the_root_folders_own() {
    let c = Cluster::start();
    c.file("dir/read-only", "1");
    c.file("dir/script", "2");
    c.file("dir/closed/inner", "3");
    std::os::unix::fs::symlink("script", c.path("dir/link")).unwrap();
    std::os::unix::fs::symlink("nowhere", c.path("dir/dangling")).unwrap();
    std::fs::hard_link(c.path("dir/script"), c.path("dir/second-name")).unwrap();
    set_mode(&c.path("dir/read-only"), 0o444);
    set_mode(&c.path("dir/script"), 0o4751);
    set_mode(&c.path("dir/closed"), 0o500);
    set_mode(&c.path("dir"), 0o711);
    for (path, time) in [
        ("dir/closed/inner", 5),
        ("dir/closed", 6),
        ("dir/script", 7),
        ("dir/read-only", 8),
        ("dir", 9),
    ] {
        set_mtime(&c.path(path), time);
    }
    c.ok(&["cp", "-a", "dir", "cairn:/copy"]);
    c.ok(&["cp", "-a", "cairn:/copy", "back"]);
    assert_eq!(tree(&c.path("back")), tree(&c.path("dir")));
    for path in ["", "closed", "closed/inner", "script", "read-only"] {
        let (was, is) = (c.path("dir").join(path), c.path("back").join(path));
        assert_eq!(mtime_of(&is), mtime_of(&was), "{path}");
    }
    let (a, b) = (c.path("back/script"), c.path("back/second-name"));
    assert_eq!(std::fs::metadata(a).unwrap().ino(), std::fs::metadata(b).unwrap().ino());
    assert_eq!(c.json(&["stat", "--json", "/copy/script"])["files"][0]["nlink"], 2);
    // over an existing root folder, with the slash: its mode and time too
    c.ok(&["mkdir", "/existing"]);
    c.ok(&["cp", "-a", "dir/", "cairn:/existing"]);
    let root = c.json(&["stat", "--json", "/existing"])["files"][0].clone();
    assert_eq!(
        (&root["mode"], &root["mtime_ns"]),
        (&"0711".into(), &9_000_000_000i64.into())
    );
    // without -p: the umask's modes, today's times, and what exists keeps its mode
    c.ok(&["cp", "-r", "dir", "cairn:/plain"]);
    let file = |path: &str| c.json(&["stat", "--json", path])["files"][0].clone();
    assert_eq!(file("/plain/script")["mode"], "0751");
    assert_eq!(file("/plain/closed")["mode"], "0500");
    assert!(file("/plain")["mtime_ns"].as_i64().unwrap() > 1_000_000_000_000_000_000);
    c.ok(&["chmod", "0640", "/plain/script"]);
    c.ok(&["cp", "dir/script", "cairn:/plain/script"]);
    assert_eq!(file("/plain/script")["mode"], "0640");
    c.ok(&["cp", "-p", "dir/script", "cairn:/kept"]);
    let kept = file("/kept");
    assert_eq!(
        (&kept["mode"], &kept["mtime_ns"]),
        (&"4751".into(), &7_000_000_000i64.into())
    );
    // -L: what links point to; one that points nowhere is told
    let output = c.output(&["cp", "-rL", "dir", "cairn:/followed"], b"");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("dangling: points to nothing"));
    assert_eq!(file("/followed/link")["kind"], "file");
}

#[test]
fn existing_files_are_replaced_left_alone_or_made_way() {
    let c = Cluster::start();
    c.file("f", "new");
    c.put("/f", "old");
    c.ok(&["cp", "-n", "f", "cairn:/f"]);
    assert_eq!(c.get("/f"), b"old");
    c.ok(&["cp", "f", "cairn:/f"]);
    assert_eq!(c.get("/f"), b"new");
    // a symbolic link at the destination is replaced, not followed
    c.put("/target", "untouched");
    c.ok(&["ln", "-s", "target", "/link"]);
    c.ok(&["cp", "f", "cairn:/link"]);
    assert_eq!(
        (c.get("/link"), c.get("/target")),
        (b"new".to_vec(), b"untouched".to_vec())
    );
    c.ok(&["mkdir", "/empty"]);
    c.ok(&["cp", "-fT", "f", "cairn:/empty"]);
    assert_eq!(c.get("/empty"), b"new");
    c.file("d/inner", "x");
    c.ok(&["cp", "-rfT", "d", "cairn:/f"]);
    assert_eq!(c.names("/f"), ["inner"]);
    // fifos: told without -a, made with it
    let status = std::process::Command::new("mkfifo")
        .arg(c.path("d/fifo"))
        .status()
        .unwrap();
    assert!(status.success());
    let said = c.fails(&["cp", "-r", "d", "cairn:/d1"]);
    assert!(
        said.contains("d/fifo: is no regular file: left out; copy special files with -a"),
        "{said}"
    );
    assert_eq!(c.names("/d1"), ["inner"]);
    c.ok(&["cp", "-a", "d", "cairn:/d2"]);
    assert_eq!(c.json(&["stat", "--json", "/d2/fifo"])["files"][0]["kind"], "fifo");
}

#[test]
fn holes_stay_holes() {
    let c = Cluster::start();
    let file = std::fs::File::create(c.path("sparse")).unwrap();
    file.write_all_at(b"begin", 0).unwrap();
    file.write_all_at(b"middle", 3 * CHUNK as u64 + 5).unwrap();
    file.set_len(5 * CHUNK as u64).unwrap();
    c.ok(&["cp", "sparse", "cairn:/sparse"]);
    let chunks = c.json(&["chunks", "--json", "/sparse"])["chunks"]
        .as_array()
        .unwrap()
        .len();
    assert_eq!(chunks, 2);
    c.ok(&["cp", "cairn:/sparse", "back"]);
    let status = std::process::Command::new("cmp")
        .args([c.path("sparse"), c.path("back")])
        .status()
        .unwrap();
    assert!(status.success());
    let blocks = std::fs::metadata(c.path("back")).unwrap().blocks() * 512;
    assert!(blocks <= 2 * CHUNK as u64 + (1 << 20), "{blocks} bytes on disk");
}

#[test]
fn many_small_files_are_copied_side_by_side() {
    let c = Cluster::start();
    for i in 0..300 {
        c.file(&format!("many/{}/{i}", i % 7), bytes(i * 10, i as u64));
    }
    c.ok(&["cp", "-r", "-j", "16", "many", "cairn:/many"]);
    c.ok(&["cp", "-r", "cairn:/many", "back"]);
    assert_eq!(tree(&c.path("back")), tree(&c.path("many")));
}

/// The names that a copy leaves beside what is whole.
fn partial(names: &[String]) -> Vec<&String> {
    names.iter().filter(|n| n.starts_with(".cairn-cp.")).collect()
}

/// Starts a copy of `big` and interrupts it once some of it is in the cluster.
fn interrupted(c: &Cluster, options: &[&str]) -> std::process::Output {
    let mut args = vec!["cp", "--set", "client.commit-interval=100ms"];
    args.extend_from_slice(options);
    args.extend_from_slice(&["big", "cairn:/big"]);
    let child = c
        .command(&args)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let started = Instant::now();
    let some = |size: u64| size > 1 << 20;
    loop {
        let entries = c.json(&["ls", "-a", "--json", "/"])["entries"].clone();
        let temporary = entries
            .as_array()
            .unwrap()
            .iter()
            .find(|e| e["name"].as_str().unwrap().starts_with(".cairn-cp."));
        // its length is made known ten times a second
        if temporary.is_some_and(|t| some(t["size"].as_u64().unwrap())) {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{entries}");
    }
    signal(&child, "INT");
    child.wait_with_output().unwrap()
}

#[test]
fn an_interrupted_copy_leaves_nothing_or_what_resume_goes_on_with() {
    let c = Cluster::start();
    let big = std::fs::File::create(c.path("big")).unwrap();
    let block = bytes(16 << 20, 1);
    let size = 768u64 << 20;
    for i in 0..size / block.len() as u64 {
        big.write_all_at(&block, i * block.len() as u64).unwrap();
        // no two blocks alike
        big.write_all_at(&i.to_le_bytes(), i * block.len() as u64 + 77).unwrap();
    }
    let output = interrupted(&c, &[]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("interrupted; nothing unfinished was left"), "{said}");
    assert!(c.names("/").is_empty(), "{:?}", c.names("/"));

    let output = interrupted(&c, &["--resume"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{said}");
    let names = c.names("/");
    assert_eq!((names.len(), partial(&names).len()), (1, 1), "{names:?}");
    let kept = c.json(&["stat", "--json", &format!("/{}", names[0])])["files"][0]["size"]
        .as_u64()
        .unwrap();
    assert!(kept > 0 && kept < size);
    c.ok(&["cp", "--resume", "big", "cairn:/big"]);
    assert_eq!(c.names("/"), ["big"]);
    let mut cat = c.command(&["cat", "/big"]).stdout(Stdio::piped()).spawn().unwrap();
    let same = std::process::Command::new("cmp")
        .arg(c.path("big"))
        .arg("-")
        .stdin(cat.stdout.take().unwrap())
        .status()
        .unwrap();
    assert!(same.success() && cat.wait().unwrap().success());
    // there already: nothing is written again
    let inode = |c: &Cluster| c.json(&["stat", "--json", "/big"])["files"][0]["inode"].clone();
    let before = inode(&c);
    c.ok(&["cp", "--resume", "big", "cairn:/big"]);
    assert_eq!(inode(&c), before);
    // as large, and different: found by its checksum
    big.write_all_at(b"!", size / 2).unwrap();
    c.ok(&["cp", "--resume", "big", "cairn:/big"]);
    assert_ne!(inode(&c), before);
}

#[test]
fn an_error_leaves_no_half_file_and_the_others_are_copied() {
    let c = Cluster::start();
    c.file("d/a", "a");
    c.file("d/b", "b");
    c.file("d/z", "z");
    c.ok(&["mkdir", "-p", "/d/b/not-empty"]);
    let said = c.fails(&["cp", "-rT", "d", "cairn:/d"]);
    assert!(said.contains("cairn:/d/b: is a directory"), "{said}");
    for to in ["cairn:/no/where/a", "no/where/a"] {
        let from = if to.starts_with("cairn:") { "d/a" } else { "cairn:/d/a" };
        let said = c.fails(&["cp", from, to]);
        let parent = to.strip_suffix("/a").unwrap();
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(
            said.contains(&format!("{parent}: no such directory; make it first")),
            "{said}"
        );
    }
    assert_eq!(c.names("/d"), ["a", "b", "z"]);
    // to this machine, without room
    let full = c.path("full");
    std::fs::create_dir(&full).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(&full)
        .status()
        .unwrap();
    assert!(mounted.success(), "this test needs root");
    c.put("/large", bytes(3 << 20, 1));
    let said = c.fails(&["cp", "cairn:/large", "full/large"]);
    let left = std::fs::read_dir(&full).unwrap().count();
    assert!(
        std::process::Command::new("umount")
            .arg(&full)
            .status()
            .unwrap()
            .success()
    );
    assert!(
        said.contains("full/") && said.contains("o space left") && said.contains("free space"),
        "{said}"
    );
    assert_eq!(left, 0);
}

#[test]
fn progress_is_shown_where_it_is_asked_for() {
    let c = Cluster::start();
    c.file("f", bytes(1 << 20, 1));
    let quiet = c.output(&["cp", "f", "cairn:/f"], b"");
    assert_eq!(
        (quiet.status.code(), quiet.stderr.len(), quiet.stdout.len()),
        (Some(0), 0, 0)
    );
    let told = c.output(&["cp", "--progress", "f", "cairn:/f"], b"");
    let said = String::from_utf8(told.stderr).unwrap();
    assert!(said.contains("1 file, 1.0 MiB in ") && said.contains("/s"), "{said}");
    let verbose = c.output(&["cp", "-v", "f", "cairn:/f"], b"");
    assert_eq!(String::from_utf8(verbose.stderr).unwrap(), "f -> cairn:/f\n");
    // on a terminal without being asked
    let on_terminal = |args: &[&str]| {
        let words = [&[env!("CARGO_BIN_EXE_cairn")], args].concat().join(" ");
        let mut script = std::process::Command::new("script");
        let script = script
            .args(["-qec", &words, "/dev/null"])
            .current_dir(c.directory.path());
        let output = script.env("CAIRN_MASTER", &c.address).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout.len()
    };
    assert!(on_terminal(&["cp", "f", "cairn:/f"]) > 0);
    assert_eq!(on_terminal(&["cp", "--no-progress", "f", "cairn:/f"]), 0);
}
