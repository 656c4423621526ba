//! Administration, checkpoints, health.
#![allow(clippy::unwrap_used, clippy::expect_used)]
mod common;
use cairn_proto::admin::admin_client::AdminClient;
use cairn_proto::admin::{
    CheckpointPiece, InspectChunksRequest, SaveCheckpointRequest, ScrubNowRequest, StatusRequest,
};
use cairn_proto::chunkserver::order;
use common::*;
use std::collections::BTreeMap;
use std::time::Duration;
use tonic::transport::Channel;

async fn admin(master: &cairn_master::Master) -> AdminClient<Channel> {
    AdminClient::new(channel(master).await)
}

async fn saved(master: &cairn_master::Master) -> Vec<CheckpointPiece> {
    let mut pieces = Vec::new();
    let mut stream = admin(master)
        .await
        .save_checkpoint(SaveCheckpointRequest {})
        .await
        .unwrap()
        .into_inner();
    while let Some(piece) = stream.message().await.unwrap() {
        pieces.push(piece);
    }
    pieces
}

#[tokio::test]
async fn the_status_says_what_is_wrong_and_why() {
    let disk = disk();
    let master = start(config(), &disk).await;
    let mut client = Client::connect(&master, 1).await;
    let _one = Server::register(&master, 1, BTreeMap::new()).await.run();
    let two = Server::register(&master, 2, BTreeMap::new()).await.run();
    let created = client.create("a").await;
    let chunk = created.chunk.unwrap();
    let mut admin = admin(&master).await;
    let status = admin.status(StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.files, status.directories, status.chunks), (1, 1, 1));
    assert_eq!(status.cluster, master.cluster().to_vec());
    assert!(status.servers.iter().all(|s| s.up && s.disks.len() == 1));
    let shortage = until("the shortage", async || {
        let status = admin.status(StatusRequest {}).await.unwrap().into_inner();
        let warnings = status.warnings.join("\n");
        (!status.safe_mode && status.health.unwrap().under_goal == 1 && warnings.contains("wants 3, has 2"))
            .then_some(warnings)
    })
    .await;
    assert!(shortage.contains("only 2 servers are up"), "{shortage}");
    drop(two.stop().await);
    until("the lost server", async || {
        let status = admin.status(StatusRequest {}).await.unwrap().into_inner();
        let told = status
            .events
            .iter()
            .any(|e| e.text.contains("cs2:7610") && e.text.contains("disconnected"));
        (status.servers.iter().filter(|s| s.up).count() == 1 && told).then_some(())
    })
    .await;
    let handles = vec![chunk.handle, 999];
    let inspected = admin
        .inspect_chunks(InspectChunksRequest { handles })
        .await
        .unwrap()
        .into_inner()
        .chunks;
    assert_eq!(inspected.len(), 1, "only what exists");
    let states: Vec<_> = inspected[0].replicas.iter().map(|r| r.state.as_str()).collect();
    assert!(states.contains(&"down"), "{states:?}");
    assert!(inspected[0].cause.contains("wants 3"), "{}", inspected[0].cause);
    master.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_scrub_is_ordered_of_every_server() {
    let disk = disk();
    let master = start(config(), &disk).await;
    let one = Server::register(&master, 1, BTreeMap::new()).await.run();
    let mut admin = admin(&master).await;
    assert_eq!(
        admin.scrub_now(ScrubNowRequest {}).await.unwrap().into_inner().servers,
        1
    );
    let status = admin.status(StatusRequest {}).await.unwrap().into_inner();
    assert!(status.servers[0].scrub.unwrap().running);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let one = one.stop().await;
    assert!(
        one.orders
            .iter()
            .any(|o| matches!(o.what, Some(order::What::ScrubAll(_))))
    );
    master.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_saved_checkpoint_loads_into_an_empty_master_only() {
    let (first, second) = (disk(), disk());
    let master = start(config(), &first).await;
    let mut client = Client::connect(&master, 1).await;
    client.create("a").await;
    let pieces = saved(&master).await;
    let refused = admin(&master)
        .await
        .load_checkpoint(tokio_stream::iter(pieces.clone()))
        .await
        .unwrap_err();
    assert!(refused.message().contains("not empty"), "{}", refused.message());
    let mut broken = pieces.clone();
    let mut bytes = broken[0].data.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    broken[0].data = bytes.into();
    let cluster = master.cluster();
    master.shutdown().await.unwrap();

    let master = start(config(), &second).await;
    assert_ne!(master.cluster(), cluster);
    let refused = admin(&master)
        .await
        .load_checkpoint(tokio_stream::iter(broken))
        .await
        .unwrap_err();
    assert!(refused.message().contains("checksum"), "{}", refused.message());
    let loaded = admin(&master)
        .await
        .load_checkpoint(tokio_stream::iter(pieces))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(loaded.files, 2, "the root and a");
    assert_eq!(master.cluster(), cluster, "it is that cluster's master now");
    let mut client = Client::connect(&master, 2).await;
    assert!(client.lookup("a").await.is_some());
    client.create("b").await;
    master.shutdown().await.unwrap();
    let master = start(config(), &second).await;
    assert_eq!(master.cluster(), cluster);
    let mut client = Client::connect(&master, 3).await;
    assert!(client.lookup("a").await.is_some() && client.lookup("b").await.is_some());
    master.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_damaged_checkpoint_costs_nothing_while_the_one_before_is_whole() {
    let disk = disk();
    let small = || cairn_master::MasterConfig {
        log_segment_bytes: 4096,
        ..config()
    };
    for round in 0..4 {
        let master = start(small(), &disk).await;
        let mut client = Client::connect(&master, round + 1).await;
        for n in 0..40 {
            client.create(&format!("file{round}-{n:0>60}")).await;
        }
        // takes a checkpoint
        master.shutdown().await.unwrap();
    }
    let mut checkpoints: Vec<_> = disk
        .files()
        .into_iter()
        .filter(|f| f.starts_with("checkpoints"))
        .collect();
    checkpoints.sort();
    assert_eq!(checkpoints.len(), 2, "{checkpoints:?}");
    assert!(disk.flip(&checkpoints[1], 8 * 200));
    let master = start(small(), &disk).await;
    let mut client = Client::connect(&master, 9).await;
    for round in 0..4 {
        assert!(client.lookup(&format!("file{round}-{:0>60}", 39)).await.is_some());
    }
    drop(master);
    disk.kill();
    // both: the log before them has been dropped, and nothing is made up
    assert!(disk.flip(&checkpoints[0], 8 * 200));
    let refused = try_start(small(), &disk).await.err().unwrap().to_string();
    assert!(refused.contains("checkpoint") && refused.contains("lost"), "{refused}");
}

#[tokio::test]
async fn health_is_serving_while_it_serves() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    let disk = disk();
    let master = start(config(), &disk).await;
    let mut health = HealthClient::new(channel(&master).await);
    let answer = health
        .check(HealthCheckRequest { service: String::new() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.status, 1, "SERVING");
    master.shutdown().await.unwrap();
    assert!(
        health
            .check(HealthCheckRequest { service: String::new() })
            .await
            .is_err()
    );
}
