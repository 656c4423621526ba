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
