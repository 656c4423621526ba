//! Bits that turn on disk: found, answered from another replica, repaired, never passed on.
use crate::support::{SOON, assert_same, cluster, disks, get, noise, noise_file, put};
use cairn_testkit::{Cluster, check_chunks, chunk_files, flip_bit, wait_until};
use std::path::PathBuf;

const LEN: usize = 700_000;

/// Byte offsets in a chunk file, one in each part of it.
const PARTS: [(&str, u64); 3] = [("header", 80), ("table", 4096 + 5), ("data", 8192 + 123_456)];

/// A cluster with one file of one chunk, and the paths of its replicas, one a server.
fn prepared() -> (Cluster, Vec<PathBuf>) {
    let mut cluster = cluster().chunkservers(3).start().unwrap();
    for part in ["corrupt", "checksum", "damage", "header"] {
        cluster.allow_error(part);
    }
    put(&cluster, &noise_file(&cluster, "in", LEN, 1), "/a");
    cluster.wait_healthy(SOON).unwrap();
    let replicas: Vec<PathBuf> = disks(&cluster)
        .iter()
        .flat_map(|disk| chunk_files(disk).unwrap())
        .collect();
    assert_eq!(replicas.len(), 3);
    (cluster, replicas)
}

/// Waits until the disks hold three whole replicas again.
fn until_whole(cluster: &Cluster) {
    wait_until("three whole replicas", SOON, || {
        let chunks = check_chunks(disks(cluster))?;
        Ok(chunks.values().all(|replicas| replicas.len() == 3).then_some(()))
    })
    .unwrap();
    cluster.wait_healthy(SOON).unwrap();
}

/// Bar 4: each part, on each replica in turn.
#[test]
fn scrub_finds_a_flipped_bit_anywhere_and_the_replica_is_made_anew() {
    let (cluster, replicas) = prepared();
    let mut found = 0;
    for replica in &replicas {
        for (part, at) in PARTS {
            flip_bit(replica, at * 8 + 3).unwrap();
            cluster.cairn(["admin", "scrub", "--now", "--wait"]).unwrap();
            let status = cluster.wait_status(&format!("{part} found"), SOON, |s| {
                s["health"]["corrupt_found"].as_u64().unwrap_or(0) > found
            });
            found = status.unwrap()["health"]["corrupt_found"].as_u64().unwrap();
            assert_same(&get(&cluster, "/a"), &noise(LEN, 1));
            until_whole(&cluster);
        }
    }
    let health = cluster.status().unwrap()["health"].clone();
    assert_eq!(
        (&health["corrupt_found"], &health["corrupt_repaired"]),
        (&9.into(), &9.into())
    );
}

#[test]
fn reads_are_right_with_one_and_with_two_rotten_replicas() {
    let (cluster, replicas) = prepared();
    flip_bit(&replicas[0], (8192 + 500_000) * 8).unwrap();
    flip_bit(&replicas[1], (8192 + 500_001) * 8).unwrap();
    for _ in 0..6 {
        assert_same(&get(&cluster, "/a"), &noise(LEN, 1));
    }
    cluster.cairn(["admin", "scrub", "--now", "--wait"]).unwrap();
    until_whole(&cluster);
    assert_same(&get(&cluster, "/a"), &noise(LEN, 1));
}

#[test]
fn three_rotten_replicas_give_an_error_and_never_wrong_bytes() {
    let (cluster, replicas) = prepared();
    for replica in &replicas {
        flip_bit(replica, (8192 + 300_000) * 8).unwrap();
    }
    let handle = replicas[0].file_stem().unwrap().to_str().unwrap();
    for _ in 0..2 {
        let output = cluster.try_cairn(["cat", "/a"]).unwrap();
        let told = ["/a: ", &format!("no replica of chunk {handle}"), "offset 0 "];
        assert!(
            !output.ok() && told.iter().all(|part| output.stderr.contains(part)),
            "{}",
            output.stderr
        );
        let right = noise(LEN, 1);
        assert!(
            output.stdout.len() < LEN && output.stdout[..] == right[..output.stdout.len()],
            "wrong bytes"
        );
        cluster
            .wait_status("one lost chunk", SOON, |s| s["health"]["lost"] == 1)
            .unwrap();
    }
    let told = cluster.master.log().lines().any(|line| {
        line.contains("corrupt in every replica") && line.contains(handle) && line.contains("\"file\":\"/a\"")
    });
    assert!(told, "no log line names chunk and file: {}", cluster.master.log());
    let fsck = cluster.try_cairn(["fsck", "/a"]).unwrap();
    assert!(fsck.code == Some(1) && fsck.text().contains(handle), "{}", fsck.text());
}
