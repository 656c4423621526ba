//! Writing through the chain and reading back (protocol R1, R6, R8, R9, R10).
use super::harness::*;
use cairn_proto::common::{ErrorCode, Member};
use cairn_proto::data::{Welcome, frame_header::Body};
use cairn_proto::frame::{read_frame, write_frame};
use cairn_types::Version;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_creates_the_chain_and_windowed_writes_reach_every_member() {
    let cluster = Cluster::start(3).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    let data = bytes(1, 5 << 20);
    for (i, piece) in data.chunks(1 << 20).enumerate() {
        wire.start_write(&members[0], v(10), (i << 20) as u64, piece).await;
    }
    for serial in 1..=5 {
        assert_eq!(wire.acknowledged().await, Ok(serial));
    }
    // small ones across block boundaries, over and beyond
    let mut data = data;
    for (n, (offset, len)) in [(65_530usize, 12usize), (5 << 20, 1), (131_072, 65_536), (3, 200_000)]
        .into_iter()
        .enumerate()
    {
        let piece = bytes(100 + n as u64, len);
        wire.grant = None;
        wire.write(&members[0], v(10), offset as u64, &piece).await.unwrap();
        data.resize(data.len().max(offset + len), 0);
        data[offset..offset + len].copy_from_slice(&piece);
    }
    assert_eq!(wire.sync(&members[0], v(10)).await, Ok(9));
    assert!(cluster.assert_identical(v(10)).await == data);
    // a sync reached every disk: nothing is lost with the power
    let mut cluster = cluster;
    for node in &mut cluster.nodes {
        node.lose_power();
        node.start().await;
    }
    assert_eq!(cluster.inventory(2).await[0].length, data.len() as u64);
}

#[tokio::test]
async fn reads_give_pieces_with_their_checksums_and_end_at_the_length() {
    let cluster = Cluster::start(1).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    let data = bytes(2, 200_000);
    wire.write(&members[0], v(10), 0, &data).await.unwrap();
    for (offset, len) in [(0, 200_000), (1, 10), (65_535, 2), (131_072, 65_536), (199_999, 100)] {
        let (done, got) = wire.read(&members[0], v(10), offset, len, false).await.unwrap();
        let end = data.len().min(offset as usize + len as usize);
        assert!(got == data[offset as usize..end], "{offset}+{len}");
        assert_eq!(done.chunk_length, 200_000);
    }
    let (_, beyond) = wire.read(&members[0], v(10), 300_000, 10, false).await.unwrap();
    assert!(beyond.is_empty());
}

#[tokio::test]
async fn r1_answers_come_in_the_order_of_the_requests() {
    let cluster = Cluster::start(2).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    for i in 0..20u64 {
        wire.start_write(&members[0], v(10), i * 10, &bytes(i, 10)).await;
    }
    wire.send(Body::Welcome(Default::default()), &[]).await;
    for serial in 1..=20 {
        assert_eq!(wire.acknowledged().await, Ok(serial));
    }
    assert_eq!(code(&wire.acknowledged().await.unwrap_err()), ErrorCode::ErrorInvalid);
    cluster.assert_identical(v(10)).await;
}

#[tokio::test]
async fn r9_a_sequence_seen_before_is_answered_and_not_applied_again() {
    let cluster = Cluster::start(3).await;
    let members = cluster.members();
    let mut one = cluster.connect(0, session(1)).await.with_grant(&members);
    one.write(&members[0], v(10), 0, b"first").await.unwrap();
    let mut two = cluster.connect(0, session(2)).await;
    two.write(&members[0], v(10), 0, b"other").await.unwrap();
    // the answer was lost: the client sends it again on a new connection
    let mut again = cluster.connect(0, session(1)).await;
    again.write(&members[0], v(10), 0, b"first").await.unwrap();
    assert_eq!(&cluster.assert_identical(v(10)).await[..], b"other");
}

#[tokio::test]
async fn r9_a_gap_in_the_sequence_is_refused_with_the_last_one() {
    let cluster = Cluster::start(1).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    wire.sequence = 1;
    let failed = wire.write(&members[0], v(10), 0, b"second").await.unwrap_err();
    assert_eq!((code(&failed), failed.last_sequence), (ErrorCode::ErrorOutOfOrder, 0));
    wire.sequence = 0;
    wire.write(&members[0], v(10), 0, b"first").await.unwrap();
    wire.sequence = 1 << 40;
    let failed = wire.write(&members[0], v(10), 0, b"probe").await.unwrap_err();
    assert_eq!((code(&failed), failed.last_sequence), (ErrorCode::ErrorOutOfOrder, 1));
}

#[tokio::test]
async fn r1_only_the_head_takes_mutations_of_clients() {
    let cluster = Cluster::start(2).await;
    let members = cluster.members();
    let mut head = cluster.connect(0, session(1)).await.with_grant(&members);
    head.write(&members[0], v(10), 0, b"x").await.unwrap();
    let mut tail = cluster.connect(1, session(2)).await;
    let failed = tail.write(&members[1], v(10), 0, b"y").await.unwrap_err();
    assert_eq!(code(&failed), ErrorCode::ErrorNotWritable);
    // a serial out of order at a member
    let mut write = tail.write_body(&members[1], v(10), 0, b"y");
    write.serial = 3;
    tail.send(Body::Write(write), b"y").await;
    assert_eq!(
        code(&tail.acknowledged().await.unwrap_err()),
        ErrorCode::ErrorOutOfOrder
    );
    assert_eq!(&cluster.assert_identical(v(10)).await[..], b"x");
}

#[tokio::test]
async fn r1_a_mutation_of_another_version_is_refused() {
    let cluster = Cluster::start(1).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    wire.write(&members[0], v(10), 0, b"x").await.unwrap();
    wire.grant = None;
    for version in [v(9), v(11)] {
        let failed = wire.write(&members[0], version, 0, b"y").await.unwrap_err();
        assert_eq!(code(&failed), ErrorCode::ErrorStaleVersion);
        assert_eq!(failed.have.map(Version::from), Some(v(10)));
    }
}

#[tokio::test]
async fn r10_a_grant_creates_only_above_the_floor() {
    let cluster = Cluster::start(2).await;
    let members = cluster.members();
    let fenced = cluster.master.fence(&members[1], v(20)).await;
    assert!(fenced.absent);
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    // a late frame of a grant that was drawn before the fence
    let failed = wire.write(&members[0], v(19), 0, b"x").await.unwrap_err();
    assert_eq!(code(&failed), ErrorCode::ErrorGrantRefused);
    assert_eq!(failed.culprit.unwrap().server, members[1].server);
}

#[tokio::test]
async fn r10_a_grant_creates_only_where_no_replica_exists() {
    let mut cluster = Cluster::start(1).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    wire.write(&members[0], v(10), 0, b"acknowledged").await.unwrap();
    cluster.master.lock().current.insert(HANDLE.0, v(10));
    cluster.nodes[0].kill();
    cluster.nodes[0].start().await;
    let mut late = cluster.connect(0, session(2)).await.with_grant(&members);
    let failed = late.write(&members[0], v(10), 0, b"late").await.unwrap_err();
    assert_eq!(code(&failed), ErrorCode::ErrorNotWritable);
    let failed = late.write(&members[0], v(11), 0, b"late").await.unwrap_err();
    assert_eq!(code(&failed), ErrorCode::ErrorStaleVersion);
    assert_eq!(&cluster.assert_identical(v(10)).await[..], b"acknowledged");
}

#[tokio::test]
async fn r10_absence_is_unknown_and_never_empty() {
    let cluster = Cluster::start(1).await;
    let member = cluster.member(0);
    let mut wire = cluster.connect(0, session(1)).await;
    let failed = wire.write(&member, v(10), 0, b"x").await.unwrap_err();
    assert_eq!(code(&failed), ErrorCode::ErrorNoReplica);
    // drawn before this server registered, or not above the floor
    let failed = wire.read(&member, v(1), 0, 10, false).await.unwrap_err();
    assert_eq!(code(&failed), ErrorCode::ErrorNoReplica);
    cluster.master.fence(&member, v(20)).await;
    let failed = wire.read(&member, v(20), 0, 10, false).await.unwrap_err();
    assert_eq!(code(&failed), ErrorCode::ErrorNoReplica);
}

#[tokio::test]
async fn r10_what_a_grant_could_still_create_reads_as_empty_until_it_does() {
    let cluster = Cluster::start(2).await;
    let members = cluster.members();
    let mut wire = cluster.connect(1, session(1)).await;
    let (done, bytes) = wire.read(&members[1], v(10), 0, 10, false).await.unwrap();
    assert_eq!((done.chunk_length, &bytes[..]), (0, &b""[..]));
    let mut writer = cluster.connect(0, session(2)).await.with_grant(&members);
    writer.write(&members[0], v(10), 0, b"bytes").await.unwrap();
    let (done, bytes) = wire.read(&members[1], v(10), 0, 10, false).await.unwrap();
    assert_eq!((done.chunk_length, &bytes[..]), (5, &b"bytes"[..]));
}

#[tokio::test]
async fn r6_what_a_grant_could_still_create_is_not_read_without_a_lease() {
    let cluster = Cluster::start(1).await;
    let member = cluster.member(0);
    let id = cluster.nodes[0].server().id();
    {
        let mut state = cluster.master.lock();
        (state.lease, state.answer_heartbeats) = (Duration::from_millis(600), false);
    }
    cluster.master.hang_up(id);
    let mut wire = cluster.connect(0, session(1)).await;
    // a reconfiguration waits for that, and then does without this server
    eventually("no lease", async || {
        let refused = wire.read(&member, v(10), 0, 10, false).await.err()?;
        (code(&refused) == ErrorCode::ErrorNoLease).then_some(())
    })
    .await;
}

#[tokio::test]
async fn r12_leave_to_write_that_an_earlier_master_gave_is_refused() {
    let cluster = Cluster::start(2).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    wire.write(&members[0], v(10), 0, b"by the first").await.unwrap();
    let (master, head) = (cluster.master.clone(), cluster.nodes[0].server().id());
    {
        let mut state = master.lock();
        state.epoch = 2;
        state.current.insert(HANDLE.0, v(10));
    }
    master.hang_up(head);
    eventually("registered with the second", async || {
        let registered = master.server(head).registration.epoch == 2 && cluster.nodes[0].server().is_registered();
        registered.then_some(())
    })
    .await;
    let failed = wire.write(&members[0], v(10), 0, b"by the first").await.unwrap_err();
    assert_eq!(
        code(&failed),
        ErrorCode::ErrorStaleVersion,
        "it asks again: its version is the same"
    );
    // nothing was taken of it; the second master gave leave anew, and the member below hears of it by the head only
    (wire.sequence, wire.epoch) = (1, 2);
    wire.write(&members[0], v(10), 0, b"by the second").await.unwrap();
}

#[tokio::test]
async fn r8_a_restarted_replica_reads_and_is_not_writable() {
    let mut cluster = Cluster::start(1).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    wire.write(&members[0], v(10), 0, b"kept").await.unwrap();
    cluster.master.lock().current.insert(HANDLE.0, v(10));
    cluster.nodes[0].kill();
    cluster.nodes[0].start().await;
    assert_eq!(&cluster.assert_identical(v(10)).await[..], b"kept");
    let mut wire = cluster.connect(0, session(1)).await;
    wire.sequence = 1;
    let failed = wire.write(&members[0], v(10), 0, b"more").await.unwrap_err();
    assert_eq!(code(&failed), ErrorCode::ErrorNotWritable);
    let failed = wire.sync(&members[0], v(10)).await.unwrap_err();
    assert_eq!(code(&failed), ErrorCode::ErrorNotWritable);
}

#[tokio::test]
async fn r1_a_dead_member_breaks_the_chain_and_is_named() {
    let mut cluster = Cluster::start(3).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    wire.write(&members[0], v(10), 0, b"all have this").await.unwrap();
    cluster.nodes[2].kill();
    let failed = wire.write(&members[0], v(10), 0, b"two have this").await.unwrap_err();
    assert_eq!(code(&failed), ErrorCode::ErrorChainBroken);
    assert_eq!(failed.culprit.as_ref().unwrap().server, members[2].server);
    // and the master hears it from the one beside it
    let master = cluster.master.clone();
    let second = cluster.nodes[1].server().id();
    eventually("trouble", async || {
        let state = master.lock();
        let told = state.troubles.iter().find(|(from, _)| *from == second)?;
        (told.1.culprit.as_ref().unwrap().server == members[2].server).then_some(())
    })
    .await;
    // nothing more is acknowledged at this version
    assert!(wire.write(&members[0], v(10), 0, b"more").await.is_err());
}

#[tokio::test]
async fn r1_a_silent_member_breaks_the_chain_within_the_deadline() {
    let cluster = Cluster::start(1).await;
    let listener = cairn_io::Net::bind(&cairn_io::RealNet, "127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let mut members = cluster.members();
    let mut silent = members[0].clone();
    silent.disk = bytes(9, 16).into();
    silent.server = bytes(8, 16).into();
    silent.address = listener.local_addr().unwrap().to_string();
    members.push(silent.clone());
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    let started = tokio::time::Instant::now();
    let failed = wire.write(&members[0], v(10), 0, b"x").await.unwrap_err();
    assert_eq!(code(&failed), ErrorCode::ErrorChainBroken);
    assert_eq!(failed.culprit.unwrap().address, silent.address);
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
}

/// A member that welcomes and then says nothing more.
async fn silent_member() -> Member {
    let listener = cairn_io::Net::bind(&cairn_io::RealNet, "127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let member = Member {
        server: bytes(8, 16).into(),
        disk: bytes(9, 16).into(),
        address: listener.local_addr().unwrap().to_string(),
    };
    let server = member.server.clone();
    tokio::spawn(async move {
        let mut kept = vec![];
        while let Ok((mut stream, _)) = listener.accept().await {
            let hello = read_frame(&mut stream).await.unwrap().unwrap();
            assert!(matches!(hello.body, Body::Hello(_)), "{hello:?}");
            let welcome = Welcome {
                server: server.clone(),
                ..Default::default()
            };
            write_frame(&mut stream, Body::Welcome(welcome), &[]).await.unwrap();
            kept.push(stream);
        }
    });
    member
}

#[tokio::test]
async fn r8_a_sync_waits_for_a_silent_member_as_long_as_it_is_told() {
    let mut cluster = Cluster::start(0).await;
    let mut node = Node::new(1, &cluster.address);
    node.config.sync_deadline = Duration::from_millis(700);
    node.config.chain_deadline = Duration::from_secs(3600);
    node.start().await;
    cluster.nodes.push(node);
    let mut members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    wire.write(&members[0], v(10), 0, b"alone").await.unwrap();
    members.push(silent_member().await);
    cluster.master.fence(&members[0], v(11)).await;
    cluster.master.install(&members[0], v(11), &members).await;
    let failed = wire.sync(&members[0], v(11)).await.unwrap_err();
    assert_eq!(code(&failed), ErrorCode::ErrorChainBroken);
    assert_eq!(failed.culprit.unwrap(), members[1]);
    let message = failed.error.unwrap().message;
    assert!(message.contains("700ms"), "{message}");
}

#[tokio::test]
async fn a_bad_checksum_on_arrival_costs_the_frame_and_not_the_chain() {
    let cluster = Cluster::start(2).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    wire.write(&members[0], v(10), 0, b"good").await.unwrap();
    let mut write = wire.write_body(&members[0], v(10), 0, b"good");
    write.checksums[0] ^= 1;
    wire.send(Body::Write(write), b"good").await;
    assert_eq!(
        code(&wire.acknowledged().await.unwrap_err()),
        ErrorCode::ErrorBadChecksum
    );
    wire.sequence -= 1;
    wire.write(&members[0], v(10), 0, b"well").await.unwrap();
    assert_eq!(&cluster.assert_identical(v(10)).await[..], b"well");
}

#[tokio::test]
async fn a_disk_without_space_fails_the_write_and_says_so() {
    let cluster = Cluster::start(2).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    wire.write(&members[0], v(10), 0, b"fits").await.unwrap();
    cluster.nodes[1].disk.set_capacity(0);
    let failed = wire
        .write(&members[0], v(10), 1 << 20, &bytes(1, 1 << 20))
        .await
        .unwrap_err();
    assert_eq!(code(&failed), ErrorCode::ErrorNoSpace);
    assert_eq!(failed.culprit.unwrap().server, members[1].server);
    let master = cluster.master.clone();
    eventually("trouble", async || {
        let state = master.lock();
        state
            .troubles
            .iter()
            .any(|(_, t)| t.code() == ErrorCode::ErrorNoSpace)
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_failed_sync_fails_the_disk_and_is_not_tried_again() {
    use cairn_io::sim::{Effect, Fault, Op};
    let cluster = Cluster::start(2).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    wire.write(&members[0], v(10), 0, b"bytes").await.unwrap();
    cluster.nodes[1]
        .disk
        .inject(Fault::new(Op::Sync, Effect::Eio).on(".chunk"));
    let failed = wire.sync(&members[0], v(10)).await.unwrap_err();
    assert_eq!(code(&failed), ErrorCode::ErrorDiskFailed);
    let failed = wire.sync(&members[0], v(10)).await.unwrap_err();
    assert_eq!(code(&failed), ErrorCode::ErrorDiskFailed);
    let (master, id) = (cluster.master.clone(), cluster.nodes[1].server().id());
    eventually("the failed disk is reported", async || {
        let heartbeat = master.server(id).heartbeat?;
        (heartbeat.disks[0].state() == cairn_proto::chunkserver::DiskState::DiskFailed).then_some(())
    })
    .await;
}
