//! Registration, verdicts, leases (protocol R6, R7) and the server's own start and end.
use super::harness::*;
use crate::{Chunkserver, StartError};
use cairn_io::Disk;
use cairn_proto::chunkserver::order_done::Result as Done;
use cairn_proto::common::ErrorCode;
use cairn_types::{ClusterId, Registration};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

#[tokio::test]
async fn r6_without_heartbeat_answers_reads_end_with_the_lease() {
    let cluster = Cluster::start(1).await;
    let members = cluster.members();
    cluster.master.lock().lease = Duration::from_millis(600);
    let id = cluster.nodes[0].server().id();
    let first = cluster.master.server(id).registration;
    cluster.master.hang_up(id);
    let master = cluster.master.clone();
    eventually("registered anew", async || {
        (master.server(id).registration != first).then_some(())
    })
    .await;
    eventually("serving", async || {
        cluster.nodes[0].server().is_registered().then_some(())
    })
    .await;
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    wire.write(&members[0], v(10), 0, b"x").await.unwrap();
    // renewed by heartbeats
    for _ in 0..10 {
        sleep(Duration::from_millis(100)).await;
        wire.read(&members[0], v(10), 0, 1, false).await.unwrap();
    }
    {
        let mut state = cluster.master.lock();
        state.answer_heartbeats = false;
        state.send_verdicts = false;
    }
    sleep(Duration::from_millis(600)).await;
    let failed = wire.read(&members[0], v(10), 0, 1, false).await.unwrap_err();
    assert_eq!(code(&failed), ErrorCode::ErrorNoLease);
    // writes need no lease: they are safe with any clock
    wire.grant = None;
    wire.write(&members[0], v(10), 0, b"y").await.unwrap();
    // and it registers anew by itself
    let second = cluster.master.server(id).registration;
    eventually("registered after the lapse", async || {
        (master.server(id).registration > second).then_some(())
    })
    .await;
}

#[tokio::test]
async fn r7_after_a_registration_only_judged_replicas_answer_reads() {
    let cluster = Cluster::start(1).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    wire.write(&members[0], v(10), 0, b"x").await.unwrap();
    let id = cluster.nodes[0].server().id();
    let master = cluster.master.clone();
    let register_anew = async || {
        let before = master.server(id).registration;
        master.hang_up(id);
        eventually("registered anew", async || {
            let server = master.server(id);
            (server.registration != before && server.inventory_done).then_some(())
        })
        .await;
        sleep(Duration::from_millis(100)).await;
    };
    // judged current
    master.lock().current.insert(HANDLE.0, v(10));
    register_anew().await;
    wire.read(&members[0], v(10), 0, 1, false).await.unwrap();
    // no verdict yet
    master.lock().send_verdicts = false;
    register_anew().await;
    assert_eq!(
        code(&wire.read(&members[0], v(10), 0, 1, false).await.unwrap_err()),
        ErrorCode::ErrorNoLease
    );
    // stale: it was reconfigured without this server
    master.lock().send_verdicts = true;
    master.lock().current.insert(HANDLE.0, v(11));
    register_anew().await;
    assert!(wire.read(&members[0], v(10), 0, 1, false).await.is_err());
    wire.grant = None;
    assert_eq!(
        code(&wire.write(&members[0], v(10), 0, b"y").await.unwrap_err()),
        ErrorCode::ErrorNotWritable
    );
}

#[tokio::test]
async fn r7_orders_of_an_earlier_registration_are_ignored() {
    let cluster = Cluster::start(1).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    wire.write(&members[0], v(10), 0, b"x").await.unwrap();
    let master = cluster.master.clone();
    let member = members[0].clone();
    let late = tokio::spawn(async move {
        master
            .order_as(&member, HANDLE, fence(v(11)), Registration::new(1, 0))
            .await
    });
    sleep(Duration::from_millis(300)).await;
    assert!(!late.is_finished());
    late.abort();
    wire.grant = None;
    wire.write(&members[0], v(10), 0, b"y").await.unwrap();
    assert_eq!(&cluster.assert_identical(v(10)).await[..], b"y");
}

#[tokio::test]
async fn r10_an_unclean_start_raises_the_floor_to_what_was_drawn() {
    let mut cluster = Cluster::start(1).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    // created, never synced: the power loss takes it, and nothing of it may come back as empty
    wire.write(&members[0], v(10), 0, b"x").await.unwrap();
    cluster.nodes[0].lose_power();
    cluster.master.lock().floor = v(30);
    cluster.nodes[0].start().await;
    assert!(cluster.master.server(cluster.nodes[0].server().id()).register.disks[0].unclean);
    let mut late = cluster.connect(0, session(2)).await.with_grant(&members);
    let failed = late.write(&members[0], v(30), 0, b"late").await.unwrap_err();
    assert_eq!(code(&failed), ErrorCode::ErrorGrantRefused);
    let (master, id) = (cluster.master.clone(), cluster.nodes[0].server().id());
    eventually("the floor is reported", async || {
        let heartbeat = master.server(id).heartbeat?;
        let disk = &heartbeat.disks[0];
        (disk.floor.map(Into::into) == Some(v(30)) && !disk.unclean).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_shutdown_leaves_nothing_suspect_and_a_fast_start() {
    let mut cluster = Cluster::start(1).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    wire.write(&members[0], v(10), 0, b"never synced by a client")
        .await
        .unwrap();
    cluster.nodes[0].server.take().unwrap().shutdown().await;
    cluster.nodes[0].lose_power();
    cluster.master.lock().current.insert(HANDLE.0, v(10));
    cluster.nodes[0].start().await;
    assert!(!cluster.inventory(0).await[0].suspect);
    let server = cluster.master.server(cluster.nodes[0].server().id());
    assert!(!server.register.disks[0].unclean);
    assert!(server.register.new_process);
    assert_eq!(&cluster.assert_identical(v(10)).await[..], b"never synced by a client");
}

#[tokio::test]
async fn a_shutdown_finishes_what_is_in_flight() {
    let mut cluster = Cluster::start(2).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    wire.write(&members[0], v(10), 0, &bytes(1, 1 << 20)).await.unwrap();
    for i in 1..4u64 {
        wire.start_write(&members[0], v(10), i << 20, &bytes(i, 1 << 20)).await;
    }
    sleep(Duration::from_millis(200)).await;
    cluster.nodes[0].server.take().unwrap().shutdown().await;
    for serial in 2..=4 {
        assert_eq!(wire.acknowledged().await, Ok(serial));
    }
    assert!(wire.receive().await.is_none());
}

#[tokio::test]
async fn a_disk_of_another_cluster_is_refused_by_both_names() {
    let one = Cluster::start(1).await;
    let two = Cluster::start(0).await;
    two.master.lock().cluster = ClusterId::from_bits(CLUSTER + 1);
    let mut nodes = one.nodes;
    nodes[0].server.take().unwrap().shutdown().await;
    // the master is of another cluster
    nodes[0].disk.kill();
    nodes[0].config.master = two.address.clone();
    nodes[0].try_start().await.unwrap();
    sleep(Duration::from_millis(500)).await;
    assert!(!nodes[0].server().is_registered());
    nodes[0].server.take().unwrap().shutdown().await;
    // two disks disagree
    let mut other = Node::new(50, &two.address);
    other.start().await;
    other.server.take().unwrap().shutdown().await;
    nodes[0].disk.kill();
    other.disk.kill();
    let disks: Vec<(Arc<dyn Disk>, _)> = vec![
        (Arc::new(nodes[0].disk.mount()), None),
        (Arc::new(other.disk.mount()), None),
    ];
    let e = Chunkserver::start(nodes[0].config.clone(), disks, nodes[0].env())
        .await
        .err()
        .unwrap();
    assert!(matches!(e, StartError::Disk(_)));
    let text = e.to_string();
    for word in [
        ClusterId::from_bits(CLUSTER).to_string(),
        ClusterId::from_bits(CLUSTER + 1).to_string(),
    ] {
        assert!(text.contains(&word), "{text}");
    }
}

#[tokio::test]
async fn a_server_without_disks_or_with_a_wrong_address_does_not_start() {
    let (_, address) = FakeMaster::start().await;
    let node = Node::new(1, &address);
    let start = |config, disks| Chunkserver::start(config, disks, node.env());
    assert!(matches!(
        start(node.config.clone(), vec![]).await.err(),
        Some(StartError::NoDisk)
    ));
    let mut config = node.config.clone();
    config.listen = "0.0.0.0:0".parse().unwrap();
    let e = start(config, vec![(Arc::new(node.disk.mount()) as _, None)])
        .await
        .err()
        .unwrap();
    assert!(e.to_string().contains("advertise"), "{e}");
}

#[tokio::test]
async fn the_health_service_says_serving_while_registered() {
    use tonic_health::pb::health_client::HealthClient;
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
    let (_, address) = FakeMaster::start().await;
    let mut node = Node::new(1, &address);
    node.config.health_listen = Some("127.0.0.1:0".parse().unwrap());
    node.start().await;
    let health = node.server().health_address().unwrap().to_string();
    let channel = cairn_io::grpc::connect(Arc::new(cairn_io::RealNet), &health, WAIT)
        .await
        .unwrap();
    let mut client = HealthClient::new(channel);
    eventually("serving", async || {
        let status = client
            .check(HealthCheckRequest::default())
            .await
            .ok()?
            .into_inner()
            .status();
        (status == ServingStatus::Serving).then_some(())
    })
    .await;
}

#[tokio::test]
async fn changes_are_reported_in_deltas() {
    let cluster = Cluster::start(1).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    wire.write(&members[0], v(10), 0, b"x").await.unwrap();
    let (master, id) = (cluster.master.clone(), cluster.nodes[0].server().id());
    let reported = async |version| {
        eventually("reported", async || {
            let changed = master.server(id).changed;
            changed
                .iter()
                .any(|r| r.version.map(Into::into) == Some(version))
                .then_some(())
        })
        .await;
    };
    reported(v(10)).await;
    assert!(matches!(
        master.order(&members[0], HANDLE, fence(v(11))).await,
        Done::Fenced(_)
    ));
    reported(v(11)).await;
}

#[tokio::test]
async fn a_verdict_on_what_was_reported_before_says_nothing_of_what_was_installed_since() {
    use cairn_proto::chunkserver::{ChunkVerdict, Verdict, Verdicts, from_master::Body};
    let cluster = Cluster::start(1).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    wire.write(&members[0], v(10), 0, b"x").await.unwrap();
    cluster.master.reconfigure(&members, v(11), 0).await;
    let late = [Verdict::Stale, Verdict::Wait].map(|verdict| ChunkVerdict {
        handle: HANDLE.0,
        disk: members[0].disk.clone(),
        verdict: verdict.into(),
        version: Some(v(10).into()),
    });
    cluster
        .master
        .tell(
            cluster.nodes[0].server().id(),
            Body::Verdicts(Verdicts {
                verdicts: late.to_vec(),
            }),
        )
        .await;
    sleep(Duration::from_millis(200)).await;
    wire.grant = None;
    wire.write(&members[0], v(11), 0, b"y").await.unwrap();
    assert_eq!(&cluster.assert_identical(v(11)).await[..], b"y");
}
