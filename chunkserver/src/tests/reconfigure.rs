//! Fence, compare, copy, install (protocol R2, R4, R5, R13), join and delete (R7).
use super::harness::*;
use crate::store::Stamp;
use cairn_io::sim::{Effect, Fault, Op};
use cairn_proto::chunkserver::order::What;
use cairn_proto::chunkserver::order_done::Result as Done;
use cairn_proto::chunkserver::{Cut, Join, Verify};
use cairn_proto::common::ErrorCode;
use cairn_types::Version;
use std::path::PathBuf;
use std::time::Duration;

fn chunk_file() -> PathBuf {
    PathBuf::from(format!("chunks/{:02x}/{HANDLE}.chunk", HANDLE.0 & 0xff))
}

/// Flips a bit of the data on the node's disk.
fn rot(node: &Node, byte: u64) {
    assert!(node.disk.flip(chunk_file(), (8192 + byte) * 8));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_killed_in_mid_stream_costs_one_reconfiguration_and_no_byte() {
    let mut cluster = Cluster::start(3).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    let data = bytes(3, 8 << 20);
    let pieces: Vec<&[u8]> = data.chunks(256 << 10).collect();
    for (i, piece) in pieces.iter().enumerate() {
        wire.start_write(&members[0], v(10), (i * (256 << 10)) as u64, piece)
            .await;
        if i == 16 {
            cluster.nodes[1].kill();
        }
    }
    let mut done = 0;
    for _ in &pieces {
        match wire.acknowledged().await {
            Ok(serial) => done = serial as usize,
            Err(_) => break,
        }
    }
    assert!(done < pieces.len(), "the kill came too late");
    cluster.nodes[1].start().await;
    let members = cluster.members();
    cluster.master.reconfigure(&members, v(11), 0).await;
    cluster.assert_identical(v(11)).await;
    // the client sends in order what was not acknowledged, under the same sequences
    let mut wire = cluster.connect(0, session(1)).await;
    wire.sequence = done as u64;
    for (i, piece) in pieces.iter().enumerate().skip(done) {
        wire.write(&members[0], v(11), (i * (256 << 10)) as u64, piece)
            .await
            .unwrap();
    }
    assert!(cluster.assert_identical(v(11)).await == data);
}

#[tokio::test]
async fn r2_a_fenced_replica_refuses_reads_and_writes_at_the_old_version() {
    let cluster = Cluster::start(2).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    wire.write(&members[0], v(10), 0, b"before").await.unwrap();
    let fenced = cluster.master.fence(&members[1], v(11)).await;
    assert_eq!((fenced.serial, fenced.length, fenced.absent), (1, 6, false));
    assert_eq!(fenced.previous.map(Version::from), Some(v(10)));
    // one fenced member stops every acknowledgement at the old version
    let failed = wire.write(&members[0], v(10), 0, b"after!").await.unwrap_err();
    assert_eq!(code(&failed), ErrorCode::ErrorFenced);
    let mut tail = cluster.connect(1, session(2)).await;
    assert!(tail.read(&members[1], v(10), 0, 6, false).await.is_err());
    // a healthy member goes on answering reads until it is fenced itself
    let mut head = cluster.connect(0, session(2)).await;
    head.read(&members[0], v(10), 0, 6, false).await.unwrap();
    cluster.master.fence(&members[0], v(11)).await;
    assert!(head.read(&members[0], v(10), 0, 6, false).await.is_err());
}

#[tokio::test]
async fn r2_a_fence_waits_for_what_was_accepted_and_cancels_who_waits_for_it() {
    let mut cluster = Cluster::start(2).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    wire.write(&members[0], v(10), 0, b"aaaa").await.unwrap();
    cluster.nodes[1].kill();
    // accepted and applied here, never acknowledged below
    wire.start_write(&members[0], v(10), 0, b"bbbb").await;
    let fenced = cluster.master.fence(&members[0], v(11)).await;
    let answer = wire.acknowledged().await.unwrap_err();
    if fenced.serial == 2 {
        assert!(matches!(
            code(&answer),
            ErrorCode::ErrorFenced | ErrorCode::ErrorChainBroken
        ));
    }
    // whatever the fence said it has is what it has: the second write is there, or will never be
    let wanted: &[u8] = if fenced.serial == 2 { b"bbbb" } else { b"aaaa" };
    let done = cluster.master.install(&members[0], v(11), &members[..1]).await;
    assert!(matches!(done, Done::Installed(_)));
    assert_eq!(&cluster.contents(0, v(11)).await.unwrap()[..], wanted);
}

#[tokio::test]
async fn r2_a_fence_is_durable_and_versions_never_go_back() {
    let mut cluster = Cluster::start(1).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    wire.write(&members[0], v(10), 0, b"data").await.unwrap();
    cluster.master.fence(&members[0], v(12)).await;
    cluster.nodes[0].lose_power();
    cluster.nodes[0].start().await;
    let replica = cluster.inventory(0).await[0].clone();
    assert_eq!(replica.version.map(Version::from), Some(v(12)));
    assert_eq!(replica.state(), cairn_proto::chunkserver::ReplicaState::ReplicaFenced);
    for (version, again) in [(v(11), false), (v(12), true)] {
        let done = cluster.master.order(&members[0], HANDLE, fence(version)).await;
        assert_eq!(matches!(done, Done::Fenced(_)), again, "{done:?}");
    }
    // a suspect's serials are gone
    assert_eq!(cluster.master.fence(&members[0], v(13)).await.serial, 0);
}

#[tokio::test]
async fn r2_a_fence_for_a_chunk_that_is_not_here_raises_the_floor() {
    let cluster = Cluster::start(1).await;
    let members = cluster.members();
    for _ in 0..2 {
        assert!(cluster.master.fence(&members[0], v(15)).await.absent);
    }
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    let failed = wire.write(&members[0], v(15), 0, b"x").await.unwrap_err();
    assert_eq!(code(&failed), ErrorCode::ErrorGrantRefused);
    wire.sequence = 0;
    wire.write(&members[0], v(16), 0, b"x").await.unwrap();
}

#[tokio::test]
async fn r4_the_remembered_sequences_go_with_the_bytes() {
    let cluster = Cluster::start(2).await;
    let members = cluster.members();
    let alone = &members[..1];
    let mut wire = cluster.connect(0, session(1)).await.with_grant(alone);
    wire.write(&members[0], v(10), 0, b"one").await.unwrap();
    // the chunk gets a second member, which becomes the head
    let turned = [members[1].clone(), members[0].clone()];
    cluster.master.reconfigure(&turned, v(11), 1).await;
    let mut other = cluster.connect(1, session(2)).await;
    other.write(&members[1], v(11), 0, b"two").await.unwrap();
    // the first client never heard of its yes
    let mut again = cluster.connect(1, session(1)).await;
    again.write(&members[1], v(11), 0, b"one").await.unwrap();
    assert_eq!(&cluster.assert_identical(v(11)).await[..], b"two");
    again.write(&members[1], v(11), 0, b"six").await.unwrap();
    assert_eq!(&cluster.assert_identical(v(11)).await[..], b"six");
}

#[tokio::test]
async fn r9_a_sequence_is_remembered_by_every_member_across_reconfigurations() {
    let cluster = Cluster::start(3).await;
    let members = cluster.members();
    let mut one = cluster.connect(0, session(1)).await.with_grant(&members);
    one.write(&members[0], v(10), 0, b"by one").await.unwrap();
    let mut two = cluster.connect(0, session(2)).await;
    two.write(&members[0], v(10), 0, b"by two").await.unwrap();
    // whoever becomes the head knows what the first has done: the write between must not be undone
    for head in 0..3 {
        let mut chain = members.clone();
        chain.rotate_left(head);
        let version = v(11 + head as u64);
        cluster.master.reconfigure(&chain, version, 0).await;
        let mut again = cluster.connect(head, session(1)).await;
        again.write(&chain[0], version, 0, b"by one").await.unwrap();
        assert_eq!(&cluster.assert_identical(version).await[..], b"by two", "head {head}");
    }
}

#[tokio::test]
async fn r4_a_copy_is_accepted_only_while_fenced_at_that_very_version() {
    let cluster = Cluster::start(2).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    wire.write(&members[0], v(10), 0, b"data").await.unwrap();
    let refused = |done: Done| assert!(matches!(done, Done::Error(_)), "{done:?}");
    // installed, not fenced
    refused(cluster.master.synchronize(&members[1], v(10), &members[0], &[]).await);
    cluster.master.fence(&members[0], v(11)).await;
    cluster.master.fence(&members[1], v(12)).await;
    // the source is fenced at another version
    refused(cluster.master.synchronize(&members[1], v(12), &members[0], &[]).await);
    refused(cluster.master.synchronize(&members[1], v(11), &members[0], &[]).await);
    // installed at it: never a copy again
    cluster.master.fence(&members[0], v(12)).await;
    cluster.master.install(&members[1], v(12), &members).await;
    refused(cluster.master.synchronize(&members[1], v(12), &members[0], &[]).await);
}

#[tokio::test]
async fn r4_copies_carry_the_registration_of_both_ends() {
    let cluster = Cluster::start(2).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    wire.write(&members[0], v(10), 0, b"data").await.unwrap();
    cluster.master.fence(&members[0], v(11)).await;
    cluster.master.fence(&members[1], v(11)).await;
    // the source registers anew: it has fallen out of the reconfiguration
    let old = cluster.master.registration(&members[0]);
    cluster.master.hang_up(cluster.nodes[0].server().id());
    let master = cluster.master.clone();
    eventually("the source registers anew", async || {
        (master.registration(&members[0]) != old).then_some(())
    })
    .await;
    let what = What::Synchronize(cairn_proto::chunkserver::Synchronize {
        version: Some(v(11).into()),
        source: Some(members[0].clone()),
        source_registration: Some(old.into()),
        ..Default::default()
    });
    let done = cluster.master.order(&members[1], HANDLE, what).await;
    assert_eq!(error_code(&done), Some(ErrorCode::ErrorStaleVersion));
    let done = cluster.master.synchronize(&members[1], v(11), &members[0], &[]).await;
    assert!(matches!(done, Done::Synced(_)), "{done:?}");
}

#[tokio::test]
async fn r4_only_what_differs_is_copied_and_it_is_durable() {
    let mut cluster = Cluster::start(2).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    wire.write(&members[0], v(10), 0, &bytes(5, 1 << 20)).await.unwrap();
    wire.sync(&members[0], v(10)).await.unwrap();
    cluster.nodes[1].kill();
    let _ = wire
        .write(&members[0], v(10), 70_000, b"one block differs")
        .await
        .unwrap_err();
    cluster.nodes[1].start().await;
    let members = cluster.members();
    for member in &members {
        cluster.master.fence(member, v(11)).await;
    }
    match cluster.master.synchronize(&members[1], v(11), &members[0], &[]).await {
        Done::Synced(synced) => assert_eq!((synced.length, synced.bytes_copied), (1 << 20, 65_536)),
        other => panic!("{other:?}"),
    }
    cluster.nodes[1].lose_power();
    cluster.nodes[1].start().await;
    cluster.master.reconfigure(&cluster.members(), v(12), 1).await;
    let all = cluster.assert_identical(v(12)).await;
    assert_eq!(&all[70_000..70_017], b"one block differs");
}

#[tokio::test]
async fn r4_a_suspect_computes_its_checksums_anew_and_takes_what_it_lost() {
    let mut cluster = Cluster::start(2).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    wire.write(&members[0], v(10), 0, &bytes(6, 300_000)).await.unwrap();
    wire.sync(&members[0], v(10)).await.unwrap();
    wire.write(&members[0], v(10), 100_000, &bytes(7, 300_000))
        .await
        .unwrap();
    cluster.nodes[1].lose_power();
    cluster.master.lock().current.insert(HANDLE.0, v(10));
    cluster.nodes[1].start().await;
    assert!(cluster.inventory(1).await[0].suspect);
    // not current: it answers no reads (R7 †)
    assert_eq!(
        code(&cluster.contents(1, v(10)).await.unwrap_err()),
        ErrorCode::ErrorNoLease
    );
    let members = cluster.members();
    let fenced = cluster.master.fence(&members[1], v(11)).await;
    assert!(fenced.suspect);
    cluster.master.reconfigure(&members, v(12), 0).await;
    let all = cluster.assert_identical(v(12)).await;
    assert!(all[100_000..] == bytes(7, 300_000));
    // an install has cleared it
    assert!(!cluster.master.fence(&members[1], v(13)).await.suspect);
}

#[tokio::test]
async fn r4_a_block_that_is_bad_at_the_source_comes_from_another_member() {
    let cluster = Cluster::start(3).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members[..2]);
    let data = bytes(8, 500_000);
    wire.write(&members[0], v(10), 0, &data).await.unwrap();
    rot(&cluster.nodes[0], 200_000);
    // the third is new: it needs every block, and the source has one that is bad
    cluster.master.reconfigure(&members, v(11), 0).await;
    assert!(cluster.contents(2, v(11)).await.unwrap() == data);
    assert!(cluster.contents(1, v(11)).await.unwrap() == data);
    // the source is found out, and never gives the bad bytes
    let failed = cluster.contents(0, v(11)).await.unwrap_err();
    assert_eq!((code(&failed), failed.bad_blocks), (ErrorCode::ErrorCorrupt, vec![3]));
    let master = cluster.master.clone();
    let first = cluster.nodes[0].server().id();
    eventually("the damage is reported", async || {
        let state = master.lock();
        state
            .troubles
            .iter()
            .any(|(from, t)| *from == first && t.bad_blocks == [3])
            .then_some(())
    })
    .await;
    // with another source it is repaired
    cluster.master.reconfigure(&members, v(12), 2).await;
    assert!(cluster.assert_identical(v(12)).await == data);
}

#[tokio::test]
async fn r4_corruption_is_never_copied() {
    let cluster = Cluster::start(2).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members[..1]);
    wire.write(&members[0], v(10), 0, &bytes(8, 200_000)).await.unwrap();
    rot(&cluster.nodes[0], 70_000);
    for member in &members {
        cluster.master.fence(member, v(11)).await;
    }
    let done = cluster.master.synchronize(&members[1], v(11), &members[0], &[]).await;
    assert_eq!(error_code(&done), Some(ErrorCode::ErrorCorrupt), "{done:?}");
}

/// The block is bad at the source, and each of the others has unacknowledged bytes of its own in it.
#[tokio::test]
async fn r4_members_take_a_block_that_is_bad_at_the_source_from_the_same_other() {
    let cluster = Cluster::start(3).await;
    let members = cluster.members();
    for (i, member) in members.iter().enumerate() {
        let alone = std::slice::from_ref(member);
        let mut wire = cluster.connect(i, session(1)).await.with_grant(alone);
        wire.write(member, v(10), 0, &bytes(i as u64, 200_000)).await.unwrap();
    }
    rot(&cluster.nodes[0], 70_000);
    for member in &members {
        cluster.master.fence(member, v(11)).await;
    }
    let (master, source) = (&cluster.master, &members[0]);
    let (a, b) = tokio::join!(
        master.synchronize(&members[1], v(11), source, &members[2..]),
        master.synchronize(&members[2], v(11), source, &members[1..2]),
    );
    assert!(matches!((&a, &b), (Done::Synced(_), Done::Synced(_))), "{a:?} {b:?}");
    let mut blocks = Vec::new();
    for i in [1, 2] {
        master.install(&members[i], v(11), &members[1..]).await;
        let mut wire = cluster.connect(i, session(2)).await;
        blocks.push(wire.read(&members[i], v(11), 65_536, 65_536, false).await.unwrap().1);
    }
    assert!(blocks[0] == blocks[1] && !blocks[0].is_empty());
}

#[tokio::test]
async fn r4_a_block_that_is_bad_in_every_member_is_lost_and_no_reason_to_lose_the_others() {
    let cluster = Cluster::start(2).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    let data = bytes(8, 200_000);
    wire.write(&members[0], v(10), 0, &data).await.unwrap();
    for node in &cluster.nodes {
        rot(node, 70_000);
    }
    for member in &members {
        cluster.master.fence(member, v(11)).await;
    }
    let mut order = cluster.master.synchronization(v(11), &members[0], &[]);
    order.recompute = true;
    // while a member is missing that may have it whole
    let what = What::Synchronize(order.clone());
    let done = cluster.master.order(&members[1], HANDLE, what).await;
    assert_eq!(error_code(&done), Some(ErrorCode::ErrorCorrupt), "{done:?}");
    order.last_resort = true;
    let what = What::Synchronize(order);
    let done = cluster.master.order(&members[1], HANDLE, what).await;
    assert!(matches!(done, Done::Synced(_)), "{done:?}");
    for (i, member) in members.iter().enumerate() {
        cluster.master.install(member, v(11), &members).await;
        let mut wire = cluster.connect(i, session(2)).await;
        let good = wire.read(member, v(11), 0, 65_536, true).await.unwrap();
        assert!(good.1[..] == data[..65_536]);
        let failed = wire.read(member, v(11), 65_536, 65_536, true).await.unwrap_err();
        assert_eq!(code(&failed), ErrorCode::ErrorCorrupt);
    }
}

#[tokio::test]
async fn r5_install_acts_once() {
    let cluster = Cluster::start(2).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    wire.write(&members[0], v(10), 0, b"a").await.unwrap();
    cluster.master.reconfigure(&members, v(11), 0).await;
    let mut wire = cluster.connect(0, session(1)).await;
    wire.sequence = 1;
    assert_eq!(wire.write(&members[0], v(11), 0, b"b").await, Ok(1));
    // a repeated order must not start the serials again
    for member in &members {
        let done = cluster.master.install(member, v(11), &members).await;
        assert!(matches!(done, Done::Installed(_)));
    }
    assert_eq!(wire.write(&members[0], v(11), 0, b"c").await, Ok(2));
    let done = cluster.master.install(&members[0], v(12), &members).await;
    assert!(matches!(done, Done::Error(_)), "never fenced at it: {done:?}");
}

#[tokio::test]
async fn r13_a_cut_source_takes_the_others_with_it_and_reads_as_zeros_beyond() {
    let cluster = Cluster::start(2).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    let data = bytes(9, 200_000);
    wire.write(&members[0], v(10), 0, &data).await.unwrap();
    for member in &members {
        cluster.master.fence(member, v(11)).await;
    }
    let cut = What::Cut(Cut {
        version: Some(v(11).into()),
        length: 100_000,
        anew: false,
    });
    assert!(matches!(
        cluster.master.order(&members[0], HANDLE, cut).await,
        Done::Cut(_)
    ));
    cluster.master.reconfigure(&members, v(11), 0).await;
    assert!(cluster.assert_identical(v(11)).await == data[..100_000]);
    let mut wire = cluster.connect(0, session(2)).await;
    wire.write(&members[0], v(11), 150_000, b"beyond").await.unwrap();
    let all = cluster.assert_identical(v(11)).await;
    assert!(all[100_000..150_000].iter().all(|b| *b == 0) && all.ends_with(b"beyond"));
}

#[tokio::test]
async fn a_chunk_that_nobody_wrote_becomes_an_empty_replica() {
    let cluster = Cluster::start(2).await;
    let members = cluster.members();
    for member in &members {
        assert!(cluster.master.fence(member, v(11)).await.absent);
    }
    let cut = What::Cut(Cut {
        version: Some(v(11).into()),
        length: 0,
        anew: true,
    });
    assert!(matches!(
        cluster.master.order(&members[0], HANDLE, cut).await,
        Done::Cut(_)
    ));
    cluster.master.reconfigure(&members, v(11), 0).await;
    assert!(cluster.assert_identical(v(11)).await.is_empty());
    let mut wire = cluster.connect(0, session(1)).await;
    wire.write(&members[0], v(11), 0, b"first").await.unwrap();
    assert_eq!(&cluster.assert_identical(v(11)).await[..], b"first");
}

/// Attempts that fail leave nothing that the next could not do without: what was absent is still known to have been.
#[tokio::test]
async fn r10_absence_is_proved_by_the_floor_before_the_first_fence() {
    let cluster = Cluster::start(3).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members[..1]);
    wire.write(&members[0], v(10), 0, b"never acknowledged").await.unwrap();
    let mut floors = Vec::new();
    for version in [v(11), v(12)] {
        let fenced = cluster.master.fence(&members[2], version).await;
        assert!(fenced.absent && !fenced.made);
        floors.push(Version::from(fenced.floor.unwrap()));
    }
    assert!(floors[0] == floors[1] && floors[0] < v(10), "{floors:?}");

    cluster.master.fence(&members[0], v(13)).await;
    let before = cluster.master.fence(&members[1], v(13)).await;
    let done = cluster.master.synchronize(&members[1], v(13), &members[0], &[]).await;
    assert!(matches!(done, Done::Synced(_)), "{done:?}");
    let made = cluster.master.fence(&members[1], v(14)).await;
    assert!(made.made && made.suspect && !made.absent, "{made:?}");
    assert_eq!(made.floor, before.floor);
    // the copy, and that it remembers the writer, are of no account
    let cut = What::Cut(Cut {
        version: Some(v(14).into()),
        length: 0,
        anew: true,
    });
    let done = cluster.master.order(&members[1], HANDLE, cut).await;
    assert!(matches!(done, Done::Cut(_)), "{done:?}");
    let done = cluster.master.install(&members[1], v(14), &members[1..2]).await;
    assert!(matches!(done, Done::Installed(_)), "{done:?}");
    let mut wire = cluster.connect(1, session(1)).await;
    assert_eq!(wire.write(&members[1], v(14), 0, b"again").await, Ok(1));
    let read = wire.read(&members[1], v(14), 0, 100, false).await.unwrap();
    assert_eq!(&read.1[..], b"again");
    assert!(!cluster.master.fence(&members[1], v(15)).await.made, "it was installed");
}

#[tokio::test]
async fn r4_a_joining_replica_is_filled_beforehand_and_untrusted() {
    let cluster = Cluster::start(2).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members[..1]);
    wire.write(&members[0], v(10), 0, &bytes(10, 1 << 20)).await.unwrap();
    wire.write(&members[0], v(10), 1 << 20, &bytes(11, 100)).await.unwrap();
    let join = What::Join(Join {
        version: Some(v(10).into()),
        source: Some(members[0].clone()),
        source_registration: Some(cluster.master.registration(&members[0]).into()),
        bytes_per_second: 0,
    });
    match cluster.master.order(&members[1], HANDLE, join).await {
        Done::Joined(joined) => assert_eq!(joined.length, (1 << 20) + 100),
        other => panic!("{other:?}"),
    }
    // it serves nothing
    assert!(cluster.contents(1, v(10)).await.is_err());
    // the source goes on being written
    wire.write(&members[0], v(10), 65_536, &bytes(12, 65_536))
        .await
        .unwrap();
    let fenced = cluster.master.fence(&members[1], v(11)).await;
    assert!(fenced.joining);
    cluster.master.fence(&members[0], v(11)).await;
    match cluster.master.synchronize(&members[1], v(11), &members[0], &[]).await {
        Done::Synced(synced) => assert_eq!(synced.bytes_copied, 65_536, "only the difference"),
        other => panic!("{other:?}"),
    }
    cluster.master.reconfigure(&members, v(11), 0).await;
    cluster.assert_identical(v(11)).await;
}

#[tokio::test]
async fn r4_a_member_that_is_made_to_be_filled_is_suspect_until_it_is_installed() {
    let cluster = Cluster::start(2).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members[..1]);
    wire.write(&members[0], v(10), 0, &bytes(10, 1 << 20)).await.unwrap();
    for member in &members {
        cluster.master.fence(member, v(11)).await;
    }
    let done = cluster.master.synchronize(&members[1], v(11), &members[0], &[]).await;
    assert!(matches!(done, Done::Synced(_)), "{done:?}");
    // that reconfiguration came to nothing: what it made is no source for the next
    let fenced = cluster.master.fence(&members[1], v(12)).await;
    assert!(fenced.suspect && !fenced.absent, "{fenced:?}");
    cluster.master.reconfigure(&members, v(13), 0).await;
    cluster.assert_identical(v(13)).await;
    assert!(!cluster.master.fence(&members[1], v(14)).await.suspect);
}

#[tokio::test]
async fn a_throttled_join_keeps_to_its_rate_and_a_fence_ends_it() {
    let cluster = Cluster::start(2).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members[..1]);
    for i in 0..4 {
        wire.write(&members[0], v(10), i << 20, &bytes(10 + i, 1 << 20))
            .await
            .unwrap();
    }
    let join = What::Join(Join {
        version: Some(v(10).into()),
        source: Some(members[0].clone()),
        source_registration: Some(cluster.master.registration(&members[0]).into()),
        bytes_per_second: 1 << 20,
    });
    let joining = cluster.master.order(&members[1], HANDLE, join);
    let fencing = async {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        cluster.master.fence(&members[1], v(11)).await
    };
    let (joined, fenced) = tokio::join!(joining, fencing);
    assert_eq!(error_code(&joined), Some(ErrorCode::ErrorUnavailable), "{joined:?}");
    assert!(
        fenced.joining && fenced.length >= 1 << 20 && fenced.length < 4 << 20,
        "{fenced:?}"
    );
}

#[tokio::test]
async fn r7_an_order_to_delete_is_void_for_a_higher_version() {
    let cluster = Cluster::start(1).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    wire.write(&members[0], v(10), 0, b"x").await.unwrap();
    let done = cluster.master.order(&members[0], HANDLE, delete(v(9))).await;
    assert_eq!(error_code(&done), Some(ErrorCode::ErrorStaleVersion));
    assert_eq!(&cluster.assert_identical(v(10)).await[..], b"x");
    let done = cluster.master.order(&members[0], HANDLE, delete(v(10))).await;
    assert!(matches!(done, Done::Deleted(_)), "{done:?}");
    assert!(cluster.contents(0, v(10)).await.is_err());
    // unlinking has raised the floor: the grant that made it cannot make it again (R10)
    let mut late = cluster.connect(0, session(2)).await.with_grant(&members);
    let failed = late.write(&members[0], v(10), 0, b"late").await.unwrap_err();
    assert_eq!(code(&failed), ErrorCode::ErrorGrantRefused);
    let (master, id) = (cluster.master.clone(), cluster.nodes[0].server().id());
    eventually("the deletion is reported", async || {
        master
            .server(id)
            .deleted
            .iter()
            .any(|d| d.handle == HANDLE.0)
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn promise_7_nothing_is_deleted_that_the_master_does_not_confirm() {
    let cluster = Cluster::start(1).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    wire.write(&members[0], v(10), 0, b"kept").await.unwrap();
    cluster.master.lock().confirm_deletes = false;
    let done = cluster.master.order(&members[0], HANDLE, delete(v(10))).await;
    assert_eq!(error_code(&done), Some(ErrorCode::ErrorUnavailable));
    assert_eq!(cluster.master.lock().confirmations_asked, 1);
    assert_eq!(&cluster.assert_identical(v(10)).await[..], b"kept");
}

#[tokio::test]
async fn promise_8_rot_is_found_by_reads_verification_and_scrub() {
    let cluster = Cluster::start(1).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    wire.write(&members[0], v(10), 0, &bytes(13, 300_000)).await.unwrap();
    let verify = || What::Verify(Verify {});
    match cluster.master.order(&members[0], HANDLE, verify()).await {
        Done::Verified(verified) => assert_eq!(verified, Default::default()),
        other => panic!("{other:?}"),
    }
    rot(&cluster.nodes[0], 100_000);
    match cluster.master.order(&members[0], HANDLE, verify()).await {
        Done::Verified(verified) => assert_eq!(verified.bad_blocks, [1]),
        other => panic!("{other:?}"),
    }
    let failed = wire.read(&members[0], v(10), 70_000, 10, false).await.unwrap_err();
    assert_eq!(
        (code(&failed), &failed.bad_blocks[..]),
        (ErrorCode::ErrorCorrupt, &[1][..])
    );
    rot(&cluster.nodes[0], 200_000);
    let scrub = What::ScrubAll(Default::default());
    cluster.master.order(&members[0], HANDLE, scrub).await;
    let master = cluster.master.clone();
    eventually("the scrub reports it", async || {
        let state = master.lock();
        let scrub = state.servers.values().next()?.heartbeat.as_ref()?.scrub?;
        let told = state.troubles.iter().any(|(_, t)| t.bad_blocks.contains(&3));
        (told && scrub.bad_chunks == 1 && !scrub.running).then_some(())
    })
    .await;
}

/// A large read is under way when its file fails: nothing more can be said on that connection, to the master it can.
#[tokio::test]
async fn promise_8_what_cannot_be_sent_ends_the_connection_and_is_looked_into() {
    let cluster = Cluster::start(1).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    let data = bytes(13, 300_000);
    wire.write(&members[0], v(10), 0, &data).await.unwrap();
    // the header is read first
    let fault = || Fault::new(Op::Read, Effect::Eio).on(".chunk").skip(1);
    let disk = &cluster.nodes[0].disk;
    for (reader, fault) in [(2, fault()), (3, fault().always())] {
        let mut wire = cluster.connect(0, session(reader)).await;
        let (_, sound) = wire.read(&members[0], v(10), 0, 300_000, false).await.unwrap();
        assert!(sound == data);
        disk.inject(fault);
        wire.start_read(&members[0], v(10), 0, 300_000, false).await;
        assert!(wire.receive().await.is_none());
    }
    let master = cluster.master.clone();
    eventually("the lasting fault is told", async || {
        let state = master.lock();
        state
            .troubles
            .iter()
            .any(|(_, trouble)| trouble.handle == HANDLE.0)
            .then_some(())
    })
    .await;
    disk.clear_faults();
    let failed = wire.read(&members[0], v(10), 0, 300_000, false).await.unwrap_err();
    assert_eq!(code(&failed), ErrorCode::ErrorCorrupt);
}

#[tokio::test]
async fn a_stamp_names_the_cluster_that_the_master_said() {
    let cluster = Cluster::start(1).await;
    let stamp = Stamp::read(&cluster.nodes[0].disk.mount()).unwrap().unwrap();
    assert_eq!(stamp.cluster, cairn_types::ClusterId::from_bits(CLUSTER));
    assert_eq!(stamp.server, cluster.nodes[0].server().id());
}
