//! Stopping and starting, in order and not.
use crate::support::{SOON, assert_same, cluster, disks, get, noise, noise_file, put, start_put};
use cairn_testkit::{ChunkFile, chunk_files, compare};
use std::collections::BTreeSet;

#[test]
fn a_cluster_that_was_stopped_in_order_has_everything_when_it_is_back() {
    let mut cluster = cluster().start().unwrap();
    let file = noise_file(&cluster, "a", 5_000_000, 1);
    put(&cluster, &file, "/a");
    for _ in 0..2 {
        cluster.stop_all().unwrap();
        cluster.start_all().unwrap();
        assert_same(&get(&cluster, "/a"), &std::fs::read(&file).unwrap());
    }
    cluster.wait_healthy(SOON).unwrap();
}

/// Bar 5, small: kill -9 of everything in the middle of writes; what `cairn cp` had finished is there.
#[test]
fn copies_that_had_finished_survive_the_kill_of_every_process() {
    let mut cluster = cluster().start().unwrap();
    let mut done = vec![];
    for round in 0..4u64 {
        for n in 0..3 {
            let name = format!("/r{round}n{n}");
            let len = 100_000 + 77_777 * (round as usize + n);
            put(&cluster, &noise_file(&cluster, "in", len, round * 10 + n as u64), &name);
            done.push((name, len, round * 10 + n as u64));
        }
        let under_way = noise_file(&cluster, "under-way", 60_000_000, round);
        let mut copy = start_put(&cluster, &under_way, &format!("/under-way{round}"));
        std::thread::sleep(std::time::Duration::from_millis(40 * round));
        cluster.kill_all().unwrap();
        copy.kill().unwrap();
        cluster.start_all().unwrap();
        for (name, len, seed) in &done {
            assert_same(&get(&cluster, name), &noise(*len, *seed));
        }
    }
    let status = cluster.wait_healthy(SOON).unwrap();
    assert_eq!(status["health"]["corrupt_found"].as_u64().unwrap_or(0), 0, "{status}");
    let chunks = done.iter().flat_map(|(name, ..)| cluster.chunks(name).unwrap());
    let handles: BTreeSet<String> = chunks.map(|c| c["handle"].as_str().unwrap().to_owned()).collect();
    cluster.stop_all().unwrap();
    let files = disks(&cluster).into_iter().flat_map(|disk| chunk_files(&disk).unwrap());
    let files: Vec<ChunkFile> = files.map(|path| ChunkFile::open(&path).unwrap()).collect();
    // what was under way may be longer on one server than on another, but is right in itself
    for file in &files {
        assert_eq!(file.check(), vec![], "{}", file.path.display());
    }
    let finished = files.into_iter().filter(|f| handles.contains(&f.handle.to_string()));
    let finished = compare(finished.collect()).unwrap();
    assert_eq!(finished.len(), done.len());
    assert!(finished.values().all(|replicas| replicas.len() == 3));
}

/// Promise 1: what was acknowledged is there after kill -9, and nothing is done twice.
#[test]
fn namespace_operations_that_were_acknowledged_survive_the_kill_of_the_master() {
    let mut cluster = cluster().start().unwrap();
    put(&cluster, &noise_file(&cluster, "a", 1000, 1), "/a");
    let steps: [(&[&str], &[&str]); 6] = [
        (&["mkdir", "/d"], &["a", "d"]),
        (&["mv", "/a", "/d/b"], &["d"]),
        (&["ln", "/d/b", "/c"], &["c", "d"]),
        (&["mv", "--exchange", "/c", "/d"], &["c", "d"]),
        (&["rm", "/d"], &["c"]),
        (&["mv", "/c/b", "/e"], &["c", "e"]),
    ];
    for (step, names) in steps {
        cluster.cairn(step).unwrap();
        cluster.master.kill().unwrap();
        cluster.master.start().unwrap();
        assert_eq!(
            cluster.cairn(["ls", "/"]).unwrap().lines().collect::<Vec<_>>(),
            names,
            "{step:?}"
        );
    }
    assert_same(&get(&cluster, "/e"), &noise(1000, 1));
}

/// Promise 7: not at once, and only what nobody wants.
#[test]
fn deleted_files_give_their_space_back_after_the_grace_and_no_others_do() {
    // a master that has just started frees nothing until sessions of the time before have had their time to come back
    let cluster = cluster()
        .set("master.gc-grace", "2s")
        .set("master.session-timeout", "10s")
        .start()
        .unwrap();
    let on_disk = || disks(&cluster).iter().flat_map(|d| chunk_files(d).unwrap()).count();
    for name in ["/kept", "/deleted", "/in-the-trash"] {
        put(&cluster, &noise_file(&cluster, "in", 100_000, 1), name);
    }
    cluster.cairn(["rm", "/deleted"]).unwrap();
    cluster.cairn(["trash", "empty", "/deleted"]).unwrap();
    cluster.cairn(["rm", "/in-the-trash"]).unwrap();
    cairn_testkit::wait_until("two files' chunks on the disks", SOON, || {
        Ok((on_disk() == 6).then_some(()))
    })
    .unwrap();
    cluster.cairn(["trash", "restore", "/in-the-trash"]).unwrap();
    for name in ["/kept", "/in-the-trash"] {
        assert_same(&get(&cluster, name), &noise(100_000, 1));
    }
    assert!(cluster.cairn(["fsck", "/"]).unwrap().contains("2 files"));
}
