//! Every file verb against a cluster.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::expect_used)]
mod common;
use common::{Cluster, bytes, signal};
use std::io::{BufRead, BufReader};
use std::process::Stdio;

const CHUNK: usize = 64 << 20;

#[test]
fn ls_lists_sorted_long_hidden_recursive_and_as_json() {
    let c = Cluster::start();
    c.ok(&["mkdir", "-p", "/d/e"]);
    c.put("/d/b", "12345");
    c.put("/d/a", "1");
    c.put("/d/.hidden", "");
    c.put("/d/e/f", "1");
    c.ok(&["ln", "-s", "b", "/d/link"]);
    assert_eq!(c.ok(&["ls", "/d"]), "a\nb\ne\nlink\n");
    assert_eq!(c.ok(&["ls", "-a", "/d"]), ".hidden\na\nb\ne\nlink\n");
    assert_eq!(c.ok(&["ls", "-r", "/d"]), "link\ne\nb\na\n");
    assert_eq!(c.ok(&["ls", "-S", "/d"]).lines().next(), Some("b"));
    assert_eq!(c.ok(&["ls", "-t", "/d"]).lines().next(), Some("link"));
    assert_eq!(c.ok(&["ls", "-R", "/d"]), "/d:\na\nb\ne\nlink\n\n/d/e:\nf\n");
    let long = c.ok(&["ls", "-l", "/d"]);
    assert!(
        long.contains("-rw-r--r--") && long.contains("drwxr-xr-x") && long.contains("link -> b"),
        "{long}"
    );
    assert!(!long.starts_with('\n'), "{long}");
    assert_eq!(c.ok(&["ls", "-d", "/d"]), "/d\n");
    assert_eq!(c.ok(&["ls", "/d/[ab]"]), "/d/a\n/d/b\n");
    let inode = c.json(&["stat", "--json", "/d/b"])["files"][0]["inode"].to_string();
    let listed = c.ok(&["ls", "-i", "/d/b"]);
    assert_eq!(listed.split_whitespace().collect::<Vec<_>>(), [&*inode, "/d/b"]);
    c.put("/d/large", bytes(3 << 20, 1));
    assert!(c.ok(&["ls", "-l", "-h", "/d/large"]).contains(" 3.0M "));
    c.ok(&["rm", "/d/large"]);
    let entries = c.json(&["ls", "--json", "/d"])["entries"].clone();
    assert_eq!((&entries[1]["path"], &entries[1]["size"]), (&"/d/b".into(), &5.into()));
    assert_eq!(entries[3]["target"], "b");
    assert!(
        c.fails(&["ls", "/nowhere"])
            .contains("/nowhere: no such file or directory; `cairn ls /`")
    );
}

#[test]
fn ls_pages_through_a_large_directory() {
    let c = Cluster::start();
    let directory = c.path("many");
    std::fs::create_dir(&directory).unwrap();
    for i in 0..3000 {
        std::os::unix::fs::symlink("x", directory.join(format!("link-{i:05}"))).unwrap();
    }
    c.ok(&["cp", "-r", "many", "cairn:/many"]);
    let names = c.names("/many");
    assert_eq!(names.len(), 3000);
    assert!(names.is_sorted() && names[2999] == "link-02999");
}

#[test]
fn stat_shows_attributes() {
    let c = Cluster::start();
    c.put("/f", "123");
    let text = c.ok(&["stat", "/f"]);
    for part in [
        "Path: /f",
        "Size: 3",
        "Kind: file",
        "Mode: 0644 -rw-r--r--",
        "wanted 3 times",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let json = c.json(&["stat", "--json", "/f", "/"]);
    assert_eq!(
        (&json["files"][0]["size"], &json["files"][1]["kind"]),
        (&3.into(), &"directory".into())
    );
    c.ok(&["ln", "-s", "f", "/l"]);
    assert!(c.ok(&["stat", "/l"]).contains("Target: f"));
    assert!(c.ok(&["stat", "-L", "/l"]).contains("Kind: file"));
    c.fails(&["stat", "/nowhere"]);
}

#[test]
fn chunks_shows_handle_version_replicas_and_state() {
    let c = Cluster::start();
    c.put("/f", bytes(CHUNK + 1, 1));
    let json = c.json(&["chunks", "--json", "/f"]);
    let chunks = json["chunks"].as_array().unwrap();
    assert_eq!(chunks.len(), 2);
    for (i, chunk) in chunks.iter().enumerate() {
        assert_eq!(chunk["index"], i);
        assert_eq!(chunk["handle"].as_str().unwrap().len(), 16);
        assert!(chunk["version"].as_str().unwrap().contains('.'));
        assert_eq!(chunk["state"], "healthy", "{chunk}");
        let mut servers: Vec<_> = chunk["replicas"]
            .as_array()
            .unwrap()
            .iter()
            .map(|r| r["server"].clone())
            .collect();
        servers.sort_by_key(ToString::to_string);
        servers.dedup();
        assert_eq!(servers.len(), 3);
    }
    let text = c.ok(&["chunks", "/f"]);
    assert!(text.starts_with("INDEX") && text.lines().count() == 3, "{text}");
    c.ok(&["mkdir", "/d"]);
    assert!(c.fails(&["chunks", "/d"]).contains("is a directory"));
}

#[test]
fn cat_prints_files_and_ends_quietly_in_a_closed_pipe() {
    let c = Cluster::start();
    let data = bytes(3 << 20, 2);
    c.put("/a", &data);
    c.put("/b", "end");
    assert_eq!(c.ok_bytes(&["cat", "/a", "/b"], b""), [&data[..], b"end"].concat());
    let mut child = c
        .command(&["cat", "/a"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(141), 0));
    // one that fails does not keep the others from being printed
    let output = c.output(&["cat", "/nowhere", "/b"], b"");
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(1), &b"end"[..]));
    c.ok(&["mkdir", "/d"]);
    assert!(c.fails(&["cat", "/d"]).contains("is a directory"));
}

#[test]
fn head_and_tail_take_lines_and_bytes() {
    let c = Cluster::start();
    let lines: String = (0..30_000).map(|i| format!("line {i}\n")).collect();
    c.put("/f", &lines);
    c.put("/open-end", "a\nb\nc");
    assert_eq!(c.ok(&["head", "-n", "2", "/f"]), "line 0\nline 1\n");
    assert_eq!(c.ok(&["head", "/f"]).lines().count(), 10);
    assert_eq!(c.ok(&["head", "-n", "0", "/f"]), "");
    assert_eq!(c.ok(&["head", "-n", "99999", "/f"]), lines);
    assert_eq!(c.ok(&["head", "-c", "7", "/f"]), "line 0\n");
    assert_eq!(c.ok(&["tail", "-n", "2", "/f"]), "line 29998\nline 29999\n");
    assert_eq!(c.ok(&["tail", "-n", "20000", "/f"]).lines().next(), Some("line 10000"));
    assert_eq!(c.ok(&["tail", "-n", "99999", "/f"]), lines);
    assert_eq!(c.ok(&["tail", "-c", "4", "/f"]), "999\n");
    assert_eq!(c.ok(&["tail", "-n", "2", "/open-end"]), "b\nc");
    let both = c.ok(&["head", "-n", "1", "/f", "/open-end"]);
    assert_eq!(both, "==> /f <==\nline 0\n\n==> /open-end <==\na\n");
}

#[test]
fn tail_follows_a_file_that_grows() {
    let mut c = Cluster::start_with(&["up", "--mount", "mnt"]);
    let file = c.path("mnt/log");
    std::fs::write(&file, "one\n").unwrap();
    let mut child = c
        .command(&["tail", "-f", "/log"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut read = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(read.next().unwrap().unwrap(), "one");
    std::fs::write(&file, "one\ntwo\n").unwrap();
    // it may have seen the file cut to nothing in between, and begins again then
    let next = read.find(|l| l.as_ref().is_ok_and(|l| l == "two"));
    assert!(next.is_some());
    signal(&child, "INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(c.stop(), Some(0), "{}", c.log());
}

#[test]
fn mkdir_makes_parents_and_modes() {
    let c = Cluster::start();
    c.ok(&["mkdir", "-p", "/a/b/c"]);
    c.ok(&["mkdir", "-p", "/a/b/c"]);
    c.ok(&["mkdir", "-m", "0700", "/private", "/a/other"]);
    assert!(c.ok(&["ls", "-l", "/"]).contains("drwx------"));
    assert!(c.fails(&["mkdir", "/a"]).contains("/a: file exists"));
    assert!(c.fails(&["mkdir", "/x/y"]).contains("-p"));
    c.put("/f", "");
    assert!(c.fails(&["mkdir", "-p", "/f/g"]).contains("not a directory"));
}

#[test]
fn rm_removes_files_and_trees_and_nothing_else() {
    let c = Cluster::start();
    c.ok(&["mkdir", "-p", "/d/e"]);
    for path in ["/d/1", "/d/e/2", "/x1", "/x2", "/y"] {
        c.put(path, "x");
    }
    assert!(
        c.fails(&["rm", "/d"])
            .contains("is a directory; remove it with all that is in it with -r")
    );
    assert!(c.fails(&["rm", "-d", "/d"]).contains("rm -r"));
    assert!(c.fails(&["rm", "/nowhere"]).contains("no such file"));
    c.ok(&["rm", "-f", "/nowhere", "/no*"]);
    assert_eq!(c.ok(&["rm", "-v", "/x*"]), "removed /x1\nremoved /x2\n");
    c.ok(&["rm", "-r", "/d"]);
    assert_eq!(c.names("/"), ["y"]);
    assert!(c.fails(&["rm", "-r", "/"]).contains("the root directory stays"));
    c.ok(&["rm", "/y"]);
    assert!(c.names("/").is_empty());
}

#[test]
fn mv_renames_replaces_and_swaps() {
    let c = Cluster::start();
    c.put("/a", "a");
    c.put("/b", "b");
    c.ok(&["mkdir", "/d"]);
    c.ok(&["mv", "-n", "/a", "/b"]);
    assert_eq!((c.get("/a"), c.get("/b")), (b"a".to_vec(), b"b".to_vec()));
    c.ok(&["mv", "--exchange", "/a", "/b"]);
    assert_eq!((c.get("/a"), c.get("/b")), (b"b".to_vec(), b"a".to_vec()));
    c.ok(&["mv", "/a", "/b"]);
    assert_eq!(c.get("/b"), b"b");
    c.put("/c", "c");
    c.ok(&["mv", "/b", "/c", "/d"]);
    assert_eq!(c.names("/d"), ["b", "c"]);
    c.ok(&["mv", "/d", "/e"]);
    assert_eq!(c.names("/"), ["e"]);
    assert!(c.fails(&["mv", "-T", "/e/b", "/e"]).contains("/e"));
    assert_eq!(c.names("/e"), ["b", "c"]);
    assert!(c.fails(&["mv", "/nowhere", "/x"]).contains("/nowhere: no such file"));
    assert!(c.fails(&["mv", "/e/b", "/e/c", "/nowhere"]).contains("directory"));
    c.fails(&["mv", "/e", "/e/below"]);
}

#[test]
fn ln_makes_hard_and_symbolic_links() {
    let c = Cluster::start();
    c.put("/f", "x");
    c.ok(&["mkdir", "/d"]);
    c.ok(&["ln", "/f", "/hard"]);
    assert_eq!(c.json(&["stat", "--json", "/f"])["files"][0]["nlink"], 2);
    c.ok(&["ln", "-s", "../f", "/d/soft"]);
    assert_eq!(c.get("/d/soft"), b"x");
    c.ok(&["ln", "/f", "/d"]);
    assert_eq!(c.names("/d"), ["f", "soft"]);
    assert!(c.fails(&["ln", "/f", "/hard"]).contains("replace it with -f"));
    c.ok(&["ln", "-s", "-f", "elsewhere", "/hard"]);
    assert_eq!(c.json(&["stat", "--json", "/hard"])["files"][0]["target"], "elsewhere");
    assert!(c.fails(&["ln", "/d", "/dd"]).contains("-s"));
}

#[test]
fn du_and_df_count() {
    let c = Cluster::start();
    c.ok(&["mkdir", "-p", "/d/e"]);
    c.put("/d/a", bytes(1000, 1));
    c.put("/d/e/b", bytes(500, 1));
    c.ok(&["ln", "/d/a", "/d/e/again"]);
    assert_eq!(c.ok(&["du", "-s", "/d"]), "1500\t/d\n");
    c.put("/d/e/c", bytes(2 << 20, 1));
    assert_eq!(c.ok(&["du", "-s", "-h", "/d/e"]), "2.0M\t/d/e\n");
    c.ok(&["rm", "/d/e/c"]);
    let all = c.json(&["du", "-a", "--json", "/d"]);
    assert_eq!(all["entries"].as_array().unwrap().len(), 5);
    let top = all["entries"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&top["bytes"], &top["replicated_bytes"], &top["files"]),
        (&1500.into(), &4500.into(), &2.into())
    );
    let df = c.json(&["df", "--json"]);
    let (total, used, available) = (
        df["total_bytes"].as_u64().unwrap(),
        df["used_bytes"].as_u64().unwrap(),
        df["available_bytes"].as_u64().unwrap(),
    );
    assert!(total > 0 && used + available == total, "{df}");
    let text = c.ok(&["df", "-h"]);
    assert!(text.starts_with("TOTAL") || text.contains("AVAILABLE"), "{text}");
}

#[test]
fn chmod_and_chown_change_trees() {
    let c = Cluster::start();
    c.ok(&["mkdir", "-p", "/d/e"]);
    c.put("/d/f", "x");
    let mode = |path: &str| {
        c.json(&["stat", "--json", path])["files"][0]["mode"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    c.ok(&["chmod", "0600", "/d/f"]);
    assert_eq!(mode("/d/f"), "0600");
    c.ok(&["chmod", "-R", "g+rX,o-rwx", "/d"]);
    assert_eq!(
        (mode("/d/f"), mode("/d"), mode("/d/e")),
        ("0640".into(), "0750".into(), "0750".into())
    );
    c.ok(&["chmod", "-x", "/d/e"]);
    c.ok(&["chown", "-R", "1000:100", "/d"]);
    let owner = |path: &str| {
        let file = c.json(&["stat", "--json", path])["files"][0].clone();
        (file["uid"].as_u64().unwrap(), file["gid"].as_u64().unwrap())
    };
    assert_eq!((owner("/d"), owner("/d/f")), ((1000, 100), (1000, 100)));
    c.ok(&["chown", ":7", "/d/f"]);
    assert_eq!(owner("/d/f"), (1000, 7));
    c.ok(&["ln", "-s", "f", "/d/link"]);
    c.ok(&["chown", "--no-dereference", "8:8", "/d/link"]);
    assert_eq!((owner("/d/link"), owner("/d/f")), ((8, 8), (1000, 7)));
    c.ok(&["chown", "9", "/d/link"]);
    assert_eq!((owner("/d/link"), owner("/d/f")), ((8, 8), (9, 7)));
    assert_eq!(c.output(&["chown", "root", "/d"], b"").status.code(), Some(2));
    assert_eq!(c.output(&["chmod", "u+q", "/d"], b"").status.code(), Some(2));
    c.fails(&["chmod", "0644", "/nowhere"]);
}

#[test]
fn touch_creates_and_sets_times() {
    let c = Cluster::start();
    c.ok(&["touch", "-c", "/none"]);
    assert!(c.names("/").is_empty());
    c.ok(&["touch", "/f"]);
    let times = || {
        let file = c.json(&["stat", "--json", "/f"])["files"][0].clone();
        (file["atime_ns"].as_i64().unwrap(), file["mtime_ns"].as_i64().unwrap())
    };
    c.ok(&["touch", "-d", "@1000.5", "/f"]);
    assert_eq!(times(), (1_000_500_000_000, 1_000_500_000_000));
    c.ok(&["touch", "-m", "-d", "1970-01-01T00:00:07Z", "/f"]);
    assert_eq!(times(), (1_000_500_000_000, 7_000_000_000));
    c.ok(&["touch", "-a", "/f"]);
    assert!(times().0 > 1_700_000_000_000_000_000 && times().1 == 7_000_000_000);
    assert_eq!(
        c.output(&["touch", "-d", "yesterday", "/f"], b"").status.code(),
        Some(2)
    );
}

#[test]
fn find_matches_names_kinds_sizes_and_ages() {
    let c = Cluster::start();
    c.ok(&["mkdir", "-p", "/d/sub/empty"]);
    c.put("/d/a.iso", bytes(5000, 1));
    c.put("/d/sub/B.ISO", "");
    c.put("/d/sub/c.txt", "x");
    c.ok(&["touch", "-d", "2001-01-01", "/d/sub/c.txt"]);
    let find = |args: &[&str]| {
        c.ok(args)
            .lines()
            .map(|l| l.strip_prefix("/d").unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        find(&["find", "/d"]),
        ["", "/a.iso", "/sub", "/sub/B.ISO", "/sub/c.txt", "/sub/empty"]
    );
    assert_eq!(find(&["find", "/d", "-name", "*.iso"]), ["/a.iso"]);
    assert_eq!(find(&["find", "/d", "-iname", "*.iso"]), ["/a.iso", "/sub/B.ISO"]);
    assert_eq!(
        find(&["find", "/d", "-type", "d", "-mindepth", "1"]),
        ["/sub", "/sub/empty"]
    );
    assert_eq!(find(&["find", "/d", "-size", "+1k", "-type", "f"]), ["/a.iso"]);
    assert_eq!(
        find(&["find", "/d", "-size", "-2", "-type", "f"]),
        ["/sub/B.ISO", "/sub/c.txt"]
    );
    c.ok(&["chown", "77", "/d/a.iso"]);
    assert_eq!(find(&["find", "/d", "-uid", "77"]), ["/a.iso"]);
    assert_eq!(find(&["find", "/d", "-empty"]), ["/sub/B.ISO", "/sub/empty"]);
    assert_eq!(find(&["find", "/d", "-maxdepth", "1"]), ["", "/a.iso", "/sub"]);
    assert_eq!(find(&["find", "/d", "-mtime", "+365"]), ["/sub/c.txt"]);
    assert_eq!(
        find(&["find", "/d", "-path", "*/sub/*", "--type", "f", "-mtime", "-1h"]),
        ["/sub/B.ISO"]
    );
    assert_eq!(
        c.ok_bytes(&["find", "/d", "-name", "a*", "-print0"], b""),
        b"/d/a.iso\0"
    );
    assert_eq!(
        c.json(&["find", "/d", "--json", "-name", "a*"])["entries"][0]["size"],
        5000
    );
    assert_eq!(c.output(&["find", "/d", "-type", "x"], b"").status.code(), Some(2));
}

#[test]
fn goal_is_read_set_and_inherited() {
    let c = Cluster::start();
    c.ok(&["mkdir", "-p", "/d/e"]);
    c.put("/d/before", "x");
    assert_eq!(c.ok(&["goal", "get", "/d"]), "3\t/d\n");
    c.ok(&["goal", "set", "2", "/d"]);
    c.put("/d/after", "x");
    assert_eq!(
        c.ok(&["goal", "get", "/d", "/d/before", "/d/after"]),
        "2\t/d\n3\t/d/before\n2\t/d/after\n"
    );
    assert_eq!(
        c.json(&["chunks", "--json", "/d/after"])["chunks"][0]["replicas"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    c.ok(&["goal", "set", "-r", "1", "/d"]);
    let all = c.json(&["goal", "get", "-r", "--json", "/d"]);
    assert!(
        all["entries"].as_array().unwrap().iter().all(|e| e["goal"] == 1),
        "{all}"
    );
    // files made by cp may say it themselves
    c.file("local", "x");
    c.ok(&["cp", "--goal", "2", "local", "cairn:/own"]);
    assert_eq!(c.ok(&["goal", "get", "/own"]), "2\t/own\n");
}

#[test]
fn fsck_finds_nothing_wrong_and_then_what_is() {
    let c = Cluster::start();
    c.ok(&["mkdir", "/d"]);
    c.put("/d/f", bytes(200_000, 1));
    let good = c.ok(&["fsck", "/"]);
    assert!(
        good.contains("1 file, 1 chunk, 3 replicas, 585.9 KiB verified: nothing wrong"),
        "{good}"
    );
    assert!(c.ok(&["fsck", "--quick", "/d/f"]).contains("nothing wrong"));
    assert!(c.ok(&["fsck", "-v", "--jobs", "1", "/d/f"]).contains("/d/f: ok"));
    let nowhere = c.output(&["fsck", "/nowhere"], b"");
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(!String::from_utf8(nowhere.stdout).unwrap().contains("nothing wrong"));
    let handle = c.json(&["chunks", "--json", "/d/f"])["chunks"][0]["handle"]
        .as_str()
        .unwrap()
        .to_owned();
    // one bit of the data of one replica
    let file = c.path(&format!("data/cs2/chunks/{}/{handle}.chunk", &handle[14..]));
    let mut stored = std::fs::read(&file).unwrap();
    stored[8192 + 100_000] ^= 1;
    std::fs::write(&file, stored).unwrap();
    let output = c.output(&["fsck", "--json", "/d/f"], b"");
    // told, though reading it may have had it repaired before the second look
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let problem = &report["problems"][0];
    assert_eq!(
        (&problem["path"], &problem["handle"], &problem["damage"]),
        (&"/d/f".into(), &handle.into(), &true.into()),
        "{report}"
    );
    assert_eq!(c.get("/d/f"), bytes(200_000, 1));
}

#[test]
fn trash_keeps_restores_and_empties() {
    let c = Cluster::start();
    c.ok(&["mkdir", "/d"]);
    for path in ["/d/a", "/d/b", "/d/c"] {
        c.put(path, path);
        c.ok(&["rm", path]);
    }
    let list = c.ok(&["trash", "ls"]);
    assert!(
        list.contains("/d/a") && list.contains("KEPT UNTIL") && list.contains("3 deleted files"),
        "{list}"
    );
    c.ok(&["trash", "restore", "/d/a"]);
    assert_eq!(c.get("/d/a"), b"/d/a");
    c.ok(&["trash", "restore", "/d/b", "--to", "/other"]);
    assert_eq!(c.get("/other"), b"/d/b");
    let json = c.json(&["trash", "ls", "--json"]);
    assert_eq!(json["entries"].as_array().unwrap().len(), 1);
    assert_eq!(json["entries"][0]["path"], "/d/c");
    assert!(c.fails(&["trash", "restore", "/d/zzz"]).contains("not in the trash"));
    // the name is taken
    c.put("/d/c", "new");
    assert!(c.fails(&["trash", "restore", "/d/c"]).contains("--to"));
    let inode = json["entries"][0]["inode"].to_string();
    assert!(c.ok(&["trash", "empty", &inode]).contains("deleted 1 file for good"));
    c.ok(&["rm", "/d/c", "/d/a"]);
    c.ok(&["trash", "empty", "--all"]);
    assert!(
        c.json(&["trash", "ls", "--json"])["entries"]
            .as_array()
            .unwrap()
            .is_empty()
    );
}

#[test]
fn admin_status_shows_servers_chunks_and_events() {
    let c = Cluster::start();
    c.put("/f", "x");
    let json = c.json(&["admin", "status", "--json"]);
    let servers = json["servers"].as_array().unwrap();
    assert_eq!(servers.len(), 3);
    assert!(
        servers
            .iter()
            .all(|s| s["up"] == true && s["disks"][0]["total_bytes"].as_u64().unwrap() > 0),
        "{json}"
    );
    assert_eq!((&json["files"], &json["default_goal"]), (&1.into(), &3.into()));
    assert_eq!(json["health"]["under_goal"], 0);
    let text = c.ok(&["admin", "status"]);
    for part in ["Cluster ", "Chunks: ", "SERVER", "under goal", "/cs2"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn admin_scrub_verifies_and_reports() {
    let c = Cluster::start();
    c.put("/f", bytes(100_000, 1));
    let said = c.ok(&["admin", "scrub", "--now", "--wait"]);
    assert!(
        said.starts_with("3 replicas verified on 3 servers; 0 corrupt ones found"),
        "{said}"
    );
    assert!(c.ok(&["admin", "scrub", "--now"]).contains("3 servers"));
    let handle = c.json(&["chunks", "--json", "/f"])["chunks"][0]["handle"]
        .as_str()
        .unwrap()
        .to_owned();
    let file = c.path(&format!("data/cs1/chunks/{}/{handle}.chunk", &handle[14..]));
    let mut stored = std::fs::read(&file).unwrap();
    stored[8192 + 10] ^= 0x80;
    std::fs::write(&file, stored).unwrap();
    let said = c.ok(&["admin", "scrub", "--now", "--wait"]);
    assert!(said.contains("1 corrupt ones found by this scrub"), "{said}");
    assert_eq!(c.get("/f"), bytes(100_000, 1));
}

#[test]
fn a_checkpoint_of_the_namespace_is_saved_and_loaded_elsewhere() {
    let c = Cluster::start();
    c.ok(&["mkdir", "-p", "/some/where"]);
    c.put("/some/where/f", "x");
    c.ok(&["admin", "checkpoint", "save", "names.ckpt"]);
    assert!(std::fs::metadata(c.path("names.ckpt")).unwrap().len() > 0);
    let piped = c.ok_bytes(&["admin", "checkpoint", "save", "-"], b"");
    assert!(!piped.is_empty());
    assert!(
        c.fails(&["admin", "checkpoint", "load", "names.ckpt"])
            .contains("empty")
    );
    // into a master of its own, without chunkservers
    let mut child = c
        .command(&["master", "--listen", "127.0.0.1:0", "--data", "second"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let file = c.path("second/address");
    let address = loop {
        match std::fs::read_to_string(&file) {
            Ok(address) => break address.trim().to_owned(),
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(50)),
        }
    };
    let said = c.ok(&["admin", "checkpoint", "load", "names.ckpt", "--master", &address]);
    assert!(said.contains("loaded 4 inodes with 1 chunk"), "{said}");
    assert_eq!(
        c.ok(&["find", "/", "--master", &address]),
        "/\n/some\n/some/where\n/some/where/f\n"
    );
    signal(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn health_answers_for_master_and_chunkserver() {
    let c = Cluster::start();
    assert_eq!(c.ok(&["health"]), format!("{}: serving\n", c.address));
    let log = c.log();
    let health = log
        .lines()
        .filter_map(|l| l.split_once("health service on "))
        .map(|(_, a)| a.trim())
        .collect::<Vec<_>>();
    assert_eq!(health.len(), 3, "{log}");
    for address in health {
        assert_eq!(c.ok(&["health", address]), format!("{address}: serving\n"));
    }
    // a data plane speaks another language
    let data = std::fs::read_to_string(c.path("data/cs1/address")).unwrap();
    assert!(c.fails(&["health", data.trim()]).contains(data.trim()));
}

#[test]
fn up_finds_everything_again_and_tells_what_to_do() {
    let mut c = Cluster::start_with(&["up", "--mount", "mnt"]);
    let said = c.log();
    for part in [
        "Cairn is up",
        " ls -l /",
        "admin status",
        "export CAIRN_MASTER=",
        "Ctrl-C unmounts and stops",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let data = bytes(2_000_000, 3);
    std::fs::write(c.path("mnt/f"), &data).unwrap();
    assert_eq!(c.stop(), Some(0), "{}", c.log());
    assert!(!c.path("mnt/f").exists());
    c.up();
    assert_eq!(std::fs::read(c.path("mnt/f")).unwrap(), data);
    assert_eq!(c.get("/f"), data);
    // where it runs already
    let address = c.address.clone();
    let said = c.fails(&["up", "--listen", &address, "--data", "another"]);
    assert!(said.contains(&address) && said.contains("--listen"), "{said}");
    let data = c.path("data");
    let said = c.fails(&["up", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()]);
    assert!(said.contains("another process uses"), "{said}");
    assert_eq!(c.stop(), Some(0), "{}", c.log());
}

#[test]
fn a_daemon_mount_is_there_when_its_parent_exits_and_goes_with_umount() {
    let c = Cluster::start();
    c.put("/f", "x");
    let mnt = c.path("mnt");
    c.ok(&["mount", "--daemon", "--log-file", "mount.log", mnt.to_str().unwrap()]);
    assert_eq!(std::fs::read(mnt.join("f")).unwrap(), b"x");
    // not a second time
    let said = c.fails(&["mount", "--daemon", mnt.to_str().unwrap()]);
    assert!(said.contains("already mounted"), "{said}");
    assert!(
        std::process::Command::new("umount")
            .arg(&mnt)
            .status()
            .unwrap()
            .success()
    );
    // it says so when it is gone
    let said = || std::fs::read_to_string(c.path("mount.log")).unwrap();
    while !said().contains("unmounted") {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // as mount(8) calls it
    let helper = c.path("mount.cairn");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_cairn"), &helper).unwrap();
    let status = std::process::Command::new(&helper)
        .args([&c.address, mnt.to_str().unwrap(), "-o", "rw,_netdev,nofail,ro"])
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(std::fs::read(mnt.join("f")).unwrap(), b"x");
    assert!(std::fs::write(mnt.join("g"), "").is_err());
    assert!(
        std::process::Command::new("umount")
            .arg(&mnt)
            .status()
            .unwrap()
            .success()
    );
    // without a cluster it fails, and says so
    let output = std::process::Command::new(&helper)
        .args(["127.0.0.1:1", mnt.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("127.0.0.1:1"));
}

#[test]
fn up_with_one_server_wants_one_copy_and_says_so() {
    let c = Cluster::start_with(&["up", "--chunkservers", "1"]);
    c.put("/f", "x");
    let status = c.json(&["admin", "status", "--json"]);
    assert_eq!(status["servers"].as_array().unwrap().len(), 1);
    assert_eq!(status["default_goal"], 1);
    assert!(c.ok(&["fsck", "/"]).contains("1 file, 1 chunk, 1 replica"));
}

#[test]
fn append_and_records_have_records_by_lines_by_whole_inputs_and_at_offsets() {
    let c = Cluster::start();
    let lines = c.ok_bytes(&["append", "--lines", "-v", "/log"], b"one\n\nthree");
    assert_eq!(String::from_utf8(lines).unwrap(), "0\n56\n104\n");
    let big = bytes(3 << 20, 5);
    assert_eq!(c.ok_bytes(&["append", "/log"], &big), b"");
    assert_eq!(c.ok(&["records", "--data", "-n", "3", "/log"]), "one\n\nthree\n");
    let listed = c.json(&["records", "--json", "/log"])["records"].clone();
    let lengths: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["length"].as_u64().unwrap())
        .collect();
    assert_eq!(lengths, [3, 0, 5, big.len() as u64]);
    assert_eq!(listed[2]["offset"], 104);
    // the lines were one command's session, numbered in its order
    assert_eq!((&listed[0]["number"], &listed[2]["number"]), (&1.into(), &3.into()));
    assert_eq!(listed[0]["session"], listed[2]["session"]);
    c.ok(&["records", "-o", "out", "--from", "105", "/log"]);
    assert!(std::fs::read(c.path("out")).unwrap() == big);
    let table = c.ok(&["records", "/log"]);
    assert!(table.starts_with("OFFSET") && table.lines().count() == 5, "{table}");
    // a file of something else has none
    c.put("/plain", "hello");
    assert_eq!(c.ok(&["records", "--data", "/plain"]), "");
    assert!(
        c.fails(&["records", "/nowhere"])
            .contains("/nowhere: no such file or directory")
    );
    let too_long = c.output(&["append", "/log"], &vec![0; (16 << 20) + 1]);
    let said = String::from_utf8(too_long.stderr).unwrap();
    assert_eq!(too_long.status.code(), Some(1));
    assert!(
        said.contains("standard input is longer than a record may be (16 MiB)")
            || said.contains("standard input: is longer than a record may be (16 MiB)"),
        "{said}"
    );
    assert_eq!(
        c.json(&["records", "--json", "/log"])["records"]
            .as_array()
            .unwrap()
            .len(),
        4
    );
}
