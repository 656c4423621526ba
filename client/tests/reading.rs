//! Reads give right bytes from any good replica, soon, or say which file, chunk and offset has none.
// helpers of tests are tests too: they panic, and touch the real world
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]
mod fake;

use bytes::Bytes;
use cairn_client::{ClientConfig, Error, OpenMode, errno};
use cairn_proto::common::ErrorCode;
use cairn_proto::session::Invalidation;
use cairn_types::Inode;
use cairn_types::layout::CHUNK_SIZE_BYTES;
use fake::{Cluster, Server, create, eventually, pattern};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const MIB: usize = 1 << 20;

/// A file of `data`, closed.
async fn file_of(cluster: &Cluster, data: &Bytes) -> Inode {
    let client = cluster.client().await;
    let file = create(&client, "a").await;
    file.write_at(0, data.clone()).await.unwrap();
    let ino = file.inode();
    file.close().await.unwrap();
    client.shutdown().await.unwrap();
    for server in &cluster.servers {
        server.state().reads.clear();
    }
    ino
}

fn rot(server: &Server) {
    server.state().replicas.values_mut().for_each(|r| r.rotten = true);
}

fn reads(cluster: &Cluster) -> usize {
    cluster.servers.iter().map(|s| s.state().reads.len()).sum()
}

/// The server that a reader asked.
fn asked(cluster: &Cluster) -> Arc<Server> {
    cluster
        .servers
        .iter()
        .find(|s| !s.state().reads.is_empty())
        .unwrap()
        .clone()
}

#[tokio::test]
async fn rotten_replicas_are_passed_over_and_reported() {
    for rotten in 1..=2 {
        let cluster = Cluster::start(3).await;
        let data = pattern(1, 3 * MIB + 5);
        let ino = file_of(&cluster, &data).await;
        let client = cluster.client().await;
        let file = client.open(ino, OpenMode::READ).await.unwrap();
        file.read_at(0, 10).await.unwrap();
        let favourite = asked(&cluster);
        rot(&favourite);
        if rotten == 2 {
            rot(cluster.servers.iter().find(|s| s.id != favourite.id).unwrap());
        }
        assert_eq!(file.read_at(0, 4 * MIB).await.unwrap(), data);
        eventually("the master is told", || !cluster.master.state().complaints.is_empty()).await;
        let complaint = cluster.master.state().complaints[0].clone();
        assert_eq!(complaint.reason(), ErrorCode::ErrorCorrupt);
        assert!(!complaint.for_write && complaint.bad_blocks == [0]);
        assert_eq!(complaint.server[0], favourite.id);
    }
}

#[tokio::test]
async fn when_all_replicas_are_rotten_the_error_names_file_chunk_and_offset() {
    let cluster = Cluster::start(3).await;
    let ino = file_of(&cluster, &pattern(1, 3 * MIB)).await;
    cluster.servers.iter().for_each(|s| rot(s));
    let client = cluster.client().await;
    let file = client.open(ino, OpenMode::READ).await.unwrap();
    let start = Instant::now();
    let error = file.read_at(2 * MIB as u64, 10).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(matches!(&error, Error::Unreadable { path, offset, .. } if path == "/a" && *offset == 2 * MIB as u64));
    assert_eq!(error.errno(), errno::EIO);
}

#[tokio::test]
async fn damage_under_way_is_told_from_rot() {
    let cluster = Cluster::start(3).await;
    let data = pattern(1, 1000);
    let ino = file_of(&cluster, &data).await;
    cluster.servers.iter().for_each(|s| s.state().damage = 1);
    let client = cluster.client().await;
    let file = client.open(ino, OpenMode::READ).await.unwrap();
    assert_eq!(file.read_at(0, 1000).await.unwrap(), data);
    let server = asked(&cluster);
    let reads: Vec<bool> = server.state().reads.iter().map(|r| r.3).collect();
    assert_eq!(reads, [false, true], "the same replica, then with verification");
    assert!(cluster.master.state().complaints.is_empty());
}

#[tokio::test]
async fn a_slow_replica_is_hedged() {
    let cluster = Cluster::start(3).await;
    let data = pattern(1, 1000);
    let ino = file_of(&cluster, &data).await;
    let client = cluster
        .client_with(|c| c.server_timeout = Duration::from_secs(10))
        .await;
    let file = client.open(ino, OpenMode::READ).await.unwrap();
    file.read_at(0, 10).await.unwrap();
    asked(&cluster).state().read_delay = Duration::from_secs(5);
    let start = Instant::now();
    assert_eq!(file.read_at(0, 1000).await.unwrap(), data);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

/// Ten parts that take longer than the time to hedge together, and none of them by itself.
#[tokio::test]
async fn a_replica_that_is_sending_is_not_hedged() {
    let cluster = Cluster::start(3).await;
    let data = pattern(1, 1000);
    let ino = file_of(&cluster, &data).await;
    let patient = |c: &mut ClientConfig| {
        c.hedge_after = Duration::from_secs(1);
        c.server_timeout = Duration::from_secs(20);
        c.timeout = Duration::from_secs(60);
    };
    let client = cluster.client_with(patient).await;
    for server in &cluster.servers {
        server.state().trickle = Some(Duration::from_millis(200));
    }
    let file = client.open(ino, OpenMode::READ).await.unwrap();
    assert_eq!(file.read_at(0, 1000).await.unwrap(), data);
    assert_eq!(reads(&cluster), 1);
}

/// The network of each carries a part.
#[tokio::test]
async fn a_large_read_is_spread_over_the_replicas() {
    let cluster = Cluster::start(3).await;
    let data = pattern(1, 6 * MIB);
    let ino = file_of(&cluster, &data).await;
    let client = cluster.client().await;
    let file = client.open(ino, OpenMode::READ).await.unwrap();
    assert_eq!(file.read_at(0, 6 * MIB).await.unwrap(), data);
    let each: Vec<usize> = cluster.servers.iter().map(|s| s.state().reads.len()).collect();
    assert_eq!(each, [2, 2, 2]);
}

#[tokio::test]
async fn dead_replicas_are_left_and_then_asked_last() {
    let cluster = Cluster::start(3).await;
    let data = pattern(1, 1000);
    let ino = file_of(&cluster, &data).await;
    let client = cluster.client().await;
    let file = client.open(ino, OpenMode::READ).await.unwrap();
    file.read_at(0, 10).await.unwrap();
    let favourite = asked(&cluster);
    favourite.state().stopped = true;
    assert_eq!(file.read_at(0, 1000).await.unwrap(), data);
    tokio::time::sleep(Duration::from_millis(100)).await;
    favourite.kill();
    file.read_at(0, 1000).await.unwrap();
    let before = favourite.state().reads.len();
    for _ in 0..5 {
        assert_eq!(file.read_at(0, 1000).await.unwrap(), data);
    }
    assert_eq!(favourite.state().reads.len(), before);
}

#[tokio::test]
async fn a_reconfigured_chunk_is_found_by_its_reader() {
    let cluster = Cluster::start(4).await;
    let data = pattern(1, 1000);
    let ino = file_of(&cluster, &data).await;
    let client = cluster.client().await;
    let file = client.open(ino, OpenMode::READ).await.unwrap();
    file.read_at(0, 10).await.unwrap();
    {
        let mut state = cluster.master.state();
        let handle = state.files[&ino.0].chunks[&0].handle;
        cluster.master.reconfigure(&mut state, handle);
    }
    assert_eq!(file.read_at(0, 1000).await.unwrap(), data);
}

#[tokio::test]
async fn holes_and_what_lies_behind_a_replicas_end_are_zeros() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let file = create(&client, "a").await;
    file.write_at(0, pattern(1, 10)).await.unwrap();
    file.truncate(2 * CHUNK_SIZE_BYTES + 5).await.unwrap();
    file.write_at(2 * CHUNK_SIZE_BYTES, pattern(2, 3)).await.unwrap();
    let at = |offset: u64, len: usize| file.read_at(offset, len);
    assert_eq!(at(0, 20).await.unwrap()[10..], [0; 10]);
    assert!(at(CHUNK_SIZE_BYTES - 10, 100).await.unwrap().iter().all(|b| *b == 0));
    let end = at(2 * CHUNK_SIZE_BYTES - 5, 100).await.unwrap();
    assert_eq!(end.len(), 10);
    assert_eq!(end[5..8], pattern(2, 3));
    assert_eq!((&end[..5], &end[8..]), (&[0; 5][..], &[0; 2][..]));
    assert!(at(2 * CHUNK_SIZE_BYTES + 5, 100).await.unwrap().is_empty());
}

#[tokio::test]
async fn another_clients_committed_length_is_seen() {
    let cluster = Cluster::start(3).await;
    let (one, two) = (cluster.client().await, cluster.client().await);
    let file = create(&one, "a").await;
    file.write_at(0, pattern(1, 10)).await.unwrap();
    file.flush().await.unwrap();
    let reader = two.open(file.inode(), OpenMode::READ).await.unwrap();
    assert_eq!(reader.read_at(0, 100).await.unwrap().len(), 10);
    file.write_at(10, pattern(2, 10)).await.unwrap();
    file.flush().await.unwrap();
    assert_eq!(reader.read_at(0, 100).await.unwrap()[10..], pattern(2, 10));
}

#[tokio::test]
async fn sequential_reads_are_fetched_ahead_across_chunks_within_bounds() {
    let cluster = Cluster::start(3).await;
    let offset = CHUNK_SIZE_BYTES - 8 * MIB as u64;
    let data = pattern(1, 16 * MIB);
    let client = cluster.client().await;
    let file = create(&client, "a").await;
    file.write_at(offset, data.clone()).await.unwrap();
    file.fsync().await.unwrap();
    let ino = file.inode();
    file.close().await.unwrap();
    let client = cluster.client_with(|c| c.read_ahead_bytes = 4 * MIB).await;
    let file = client.open(ino, OpenMode::READ).await.unwrap();
    let piece = 128 << 10;
    // the first reads begin a sequence wherever they are
    let mut got = Vec::new();
    for n in 0..(16 * MIB / piece) {
        let part = file.read_at(offset + (n * piece) as u64, piece).await.unwrap();
        got.extend_from_slice(&part);
        let (asked_for, sent): (usize, usize) = (got.len(), bytes_asked(&cluster));
        assert!(sent <= asked_for + 8 * MIB, "read {asked_for}, fetched {sent}");
    }
    assert!(got == data);
    assert!(reads(&cluster) < 40, "{} requests for 128 reads", reads(&cluster));
}

#[tokio::test]
async fn what_was_read_ahead_keeps_to_its_memory() {
    let cluster = Cluster::start(3).await;
    let data = pattern(1, 16 * MIB);
    let ino = file_of(&cluster, &data).await;
    // and what the first reads had asked for themselves
    for (memory, bounds) in [(2 * MIB, MIB..4 * MIB), (64 * MIB, 8 * MIB..18 * MIB)] {
        let client = cluster
            .client_with(|c| {
                c.read_ahead_bytes = 16 * MIB;
                c.read_buffer_bytes = memory;
            })
            .await;
        let file = client.open(ino, OpenMode::READ).await.unwrap();
        let (before, piece) = (bytes_asked(&cluster), 128 << 10);
        let mut farthest = 0;
        for n in 0..(16 * MIB / piece) {
            file.read_at((n * piece) as u64, piece).await.unwrap();
            farthest = farthest.max(bytes_asked(&cluster) - before - (n + 1) * piece);
        }
        assert!(
            bounds.contains(&farthest),
            "{farthest} bytes ahead with {memory} of memory"
        );
    }
}

fn bytes_asked(cluster: &Cluster) -> usize {
    cluster
        .servers
        .iter()
        .flat_map(|s| s.state().reads.iter().map(|r| r.2 as usize).collect::<Vec<_>>())
        .sum()
}

#[tokio::test]
async fn random_reads_fetch_nothing_ahead() {
    let cluster = Cluster::start(3).await;
    let data = pattern(1, 32 * MIB);
    let ino = file_of(&cluster, &data).await;
    let client = cluster.client().await;
    let file = client.open(ino, OpenMode::READ).await.unwrap();
    for n in 0..20usize {
        let at = (n * 7 % 8) * 4 * MIB + 1000;
        assert_eq!(file.read_at(at as u64, 1000).await.unwrap(), data.slice(at..at + 1000));
    }
    assert_eq!(reads(&cluster), 20);
}

/// So that they leave, and are answered, in one write. When they are slow they do not, so a busy machine has several tries.
#[tokio::test]
async fn short_reads_at_a_time_go_by_one_connection_to_a_server() {
    let cluster = Cluster::start(1).await;
    let data = pattern(1, 32 * MIB);
    let ino = file_of(&cluster, &data).await;
    let client = cluster.client().await;
    let file = client.open(ino, OpenMode::READ).await.unwrap();
    // in no order that would be fetched ahead
    let places: Vec<usize> = (0..8).map(|n| n * 3 % 8 * 4 * MIB).collect();
    let mut tries = 0;
    while cluster.servers[0].state().read_on.len() != 1 {
        tries += 1;
        assert!(tries < 100, "each time by several");
        cluster.servers[0].state().read_on.clear();
        let reads = places.iter().map(|at| file.read_at(*at as u64, 1000));
        for (at, read) in places.iter().zip(futures::future::join_all(reads).await) {
            assert_eq!(read.unwrap(), data.slice(*at..at + 1000));
        }
    }
}

/// What waits for a disk keeps nobody waiting but those who came with it.
#[tokio::test]
async fn a_short_read_does_not_wait_behind_one_that_is_slow() {
    let cluster = Cluster::start(1).await;
    let data = pattern(1, 32 * MIB);
    let ino = file_of(&cluster, &data).await;
    let patient = |c: &mut ClientConfig| {
        c.hedge_after = Duration::from_secs(20);
        c.server_timeout = Duration::from_secs(20);
    };
    let client = cluster.client_with(patient).await;
    let file = client.open(ino, OpenMode::READ).await.unwrap();
    file.read_at(0, 10).await.unwrap();
    let server = &cluster.servers[0];
    server.state().read_on.clear();
    server.state().read_delay = Duration::from_secs(2);
    let slow = file.read_at(20 << 20, 1000);
    let quick = async {
        eventually("it is being read", || server.state().delayed == 1).await;
        server.state().read_delay = Duration::ZERO;
        // those that come right behind it wait with it; far fewer than would fill its connection
        let mut quick = JoinSet::new();
        eventually("another connection is taken", || {
            // to and fro, so that nothing is fetched ahead: that has a connection for itself
            let at = [12 * MIB, 4 * MIB][quick.len() % 2];
            let file = file.clone();
            quick.spawn(async move { (at, file.read_at(at as u64, 1000).await.unwrap()) });
            server.state().read_on.len() == 2
        })
        .await;
        assert!(quick.len() < 10, "{} behind it", quick.len());
        quick.join_all().await
    };
    let (slow, quick) = tokio::join!(slow, quick);
    assert_eq!(slow.unwrap(), data.slice(20 * MIB..20 * MIB + 1000));
    assert!(quick.iter().all(|(at, read)| *read == data.slice(*at..at + 1000)));
}

#[tokio::test]
async fn what_was_read_ahead_is_not_believed_after_a_push_or_a_write() {
    let cluster = Cluster::start(3).await;
    let ino = file_of(&cluster, &pattern(1, 8 * MIB)).await;
    let (reader, writer) = (cluster.client().await, cluster.client().await);
    let file = reader.open(ino, OpenMode::READ_WRITE).await.unwrap();
    for n in 0..4 {
        file.read_at(n * 1000, 1000).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let other = writer.open(ino, OpenMode::WRITE).await.unwrap();
    // the fake pushes to whom connected last: a third reader takes the writer's place
    other.write_at(4000, pattern(9, 1000)).await.unwrap();
    other.fsync().await.unwrap();
    cluster.master.kick();
    eventually("both are back", || cluster.master.state().hellos.len() >= 5).await;
    let inval = Invalidation {
        inode: ino.0,
        data: true,
        name: Bytes::new(),
    };
    cluster.master.push(1, vec![inval]).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(file.read_at(4000, 1000).await.unwrap(), pattern(9, 1000));
    file.read_at(5000, 1000).await.unwrap();
    file.write_at(6000, pattern(8, 1000)).await.unwrap();
    assert_eq!(file.read_at(6000, 1000).await.unwrap(), pattern(8, 1000));
}

#[tokio::test]
async fn a_read_that_finds_nobody_ends_within_the_timeout() {
    let cluster = Cluster::start(3).await;
    let ino = file_of(&cluster, &pattern(1, 1000)).await;
    let client = cluster.client_with(|c| c.timeout = Duration::from_secs(1)).await;
    let file = client.open(ino, OpenMode::READ).await.unwrap();
    cluster.servers.iter().for_each(|s| s.kill());
    let start = Instant::now();
    let error = file.read_at(0, 10).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(3));
    let text = error.to_string();
    assert!(cluster.servers.iter().all(|s| text.contains(&s.address)), "{text}");
}

#[tokio::test]
async fn one_chosen_replica_can_be_read() {
    let cluster = Cluster::start(3).await;
    let data = pattern(1, 1000);
    let ino = file_of(&cluster, &data).await;
    let client = cluster.client().await;
    let location = client.locations(ino, 0, 10).await.unwrap().remove(0);
    rot(&cluster.servers[1]);
    for (n, member) in location.members.iter().enumerate() {
        let read = client.read_replica(&location, member, 0, 2000, true).await;
        match member.address == cluster.servers[1].address {
            true => assert!(
                matches!(
                    read,
                    Err(Error::Refused {
                        code: ErrorCode::ErrorCorrupt,
                        ..
                    })
                ),
                "{n}"
            ),
            false => assert_eq!(read.unwrap().data, data),
        }
    }
}
