//! Servers that die or pause while files are written and read.
use crate::support::{MIB, SOON, assert_same, cluster, get, holders, noise_file, put, start_put};
use cairn_testkit::{Cluster, wait_until};
use std::time::Duration;

/// Waits until a copy under way has made `n` chunks.
fn until_chunks(cluster: &Cluster, n: u64) {
    cluster
        .wait_status("the copy's chunks", SOON, |s| s["chunks"].as_u64().unwrap_or(0) >= n)
        .unwrap();
}

/// Bar 3, small.
#[test]
fn a_copy_survives_the_kill_of_a_chunkserver_and_the_cluster_heals() {
    let mut cluster = cluster().chunkservers(4).start().unwrap();
    let file = noise_file(&cluster, "big", 400 * MIB, 1);
    let mut copy = start_put(&cluster, &file, "/big");
    until_chunks(&cluster, 2);
    cluster.chunkservers[1].kill().unwrap();
    let status = copy.wait(Duration::from_secs(120)).unwrap();
    assert!(status.success(), "{status}: {}", copy.log());
    cluster.wait_servers(3, SOON).unwrap();
    cluster.wait_healthy(SOON).unwrap();
    assert!(holders(&cluster, "/big").iter().all(|servers| servers.len() == 3));
    assert_same(&get(&cluster, "/big"), &std::fs::read(file).unwrap());
}

#[test]
fn a_copy_survives_the_kill_and_restart_of_the_master() {
    let mut cluster = cluster().start().unwrap();
    let file = noise_file(&cluster, "big", 300 * MIB, 2);
    let mut copy = start_put(&cluster, &file, "/big");
    until_chunks(&cluster, 2);
    cluster.master.kill().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    cluster.master.start().unwrap();
    let status = copy.wait(Duration::from_secs(120)).unwrap();
    assert!(status.success(), "{status}: {}", copy.log());
    assert_same(&get(&cluster, "/big"), &std::fs::read(file).unwrap());
    cluster.wait_healthy(SOON).unwrap();
}

/// A machine that pauses for longer than its lease, and wakes up as if nothing had been.
#[test]
fn a_chunkserver_paused_past_its_lease_gives_and_takes_nothing_old() {
    let cluster = cluster().chunkservers(4).start().unwrap();
    let before = noise_file(&cluster, "before", 3 * MIB, 3);
    put(&cluster, &before, "/a");
    cluster.chunkservers[0].pause().unwrap();
    cluster.wait_servers(3, SOON).unwrap();
    let after = noise_file(&cluster, "after", 3 * MIB, 4);
    put(&cluster, &after, "/a");
    put(&cluster, &after, "/b");
    cluster.chunkservers[0].resume().unwrap();
    for path in ["/a", "/b"] {
        assert_same(&get(&cluster, path), &std::fs::read(&after).unwrap());
    }
    cluster.wait_servers(4, SOON).unwrap();
    cluster.wait_healthy(SOON).unwrap();
    assert_same(&get(&cluster, "/a"), &std::fs::read(&after).unwrap());
}

#[test]
fn reads_go_on_while_two_of_three_replicas_are_gone() {
    let mut cluster = cluster().start().unwrap();
    let file = noise_file(&cluster, "a", 20 * MIB, 5);
    put(&cluster, &file, "/a");
    cluster.chunkservers[0].kill().unwrap();
    cluster.chunkservers[2].kill().unwrap();
    assert_same(&get(&cluster, "/a"), &std::fs::read(&file).unwrap());
    cluster.start_all().unwrap();
    cluster.wait_healthy(SOON).unwrap();
}

/// A write without enough replicas fails in finite time, and says why.
#[test]
fn a_write_that_finds_too_few_servers_fails_in_time_and_says_why() {
    let mut cluster = cluster().start().unwrap();
    cluster.chunkservers[0].kill().unwrap();
    cluster.chunkservers[1].kill().unwrap();
    cluster.wait_servers(1, SOON).unwrap();
    let file = noise_file(&cluster, "a", 1000, 6);
    let args = ["cp", "--timeout", "5s", file.to_str().unwrap(), "cairn:/a"];
    let output = cluster.try_cairn(args).unwrap();
    assert!(!output.ok() && !output.stderr.is_empty(), "{output:?}");
    let listing = cluster.cairn(["ls", "/"]).unwrap();
    assert!(
        !listing.lines().any(|line| line == "a"),
        "no half file under its final name: {listing}"
    );
}

/// `cairn health` is what containers ask.
#[test]
fn health_tells_a_server_that_serves_from_one_that_does_not() {
    let mut cluster = cluster().start().unwrap();
    let address = cluster.master_address();
    assert!(cluster.try_cairn(["health", &address]).unwrap().ok());
    cluster.master.kill().unwrap();
    assert!(!cluster.try_cairn(["health", &address]).unwrap().ok());
    cluster.master.start().unwrap();
    wait_until("health again", SOON, || {
        Ok(cluster.try_cairn(["health", &address])?.ok().then_some(()))
    })
    .unwrap();
}
