//! Peers that send garbage, too much, too slowly, or to the wrong place (fault 38): bounded memory, and others go on.
use super::harness::*;
use bytes::Bytes;
use cairn_io::{Net, RealNet};
use cairn_proto::PROTOCOL;
use cairn_proto::common::ErrorCode;
use cairn_proto::data::{Hello, Read, frame_header::Body};
use cairn_proto::frame::{Frame, read_frame, write_frame};
use cairn_types::ClusterId;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

async fn hello(address: &str, hello: Hello) -> Option<Frame> {
    let mut stream = RealNet.connect(address).await.unwrap();
    write_frame(&mut stream, Body::Hello(hello), &[]).await.unwrap();
    timeout(WAIT, read_frame(&mut stream)).await.unwrap().unwrap()
}

#[tokio::test]
async fn another_cluster_or_protocol_is_refused_with_both_named() {
    let cluster = Cluster::start(1).await;
    let address = cluster.nodes[0].server().address();
    let stranger = ClusterId::from_bits(5);
    let good = Hello {
        protocol: PROTOCOL,
        cluster: Bytes::copy_from_slice(ClusterId::from_bits(CLUSTER).as_bytes()),
        peer: Bytes::new(),
    };
    let of = |frame: Option<Frame>| match frame.unwrap().body {
        Body::Failed(failed) => failed,
        other => panic!("{other:?}"),
    };
    let failed = of(hello(
        address,
        Hello {
            cluster: Bytes::copy_from_slice(stranger.as_bytes()),
            ..good.clone()
        },
    )
    .await);
    assert_eq!(code(&failed), ErrorCode::ErrorWrongCluster);
    let message = failed.error.unwrap().message;
    assert!(message.contains(&stranger.to_string()) && message.contains(&ClusterId::from_bits(CLUSTER).to_string()));
    let failed = of(hello(
        address,
        Hello {
            protocol: 9,
            ..good.clone()
        },
    )
    .await);
    assert_eq!(code(&failed), ErrorCode::ErrorInvalid);
    assert!(matches!(hello(address, good).await.unwrap().body, Body::Welcome(_)));
}

#[tokio::test]
async fn garbage_and_oversize_end_the_connection_and_nobody_elses() {
    let cluster = Cluster::start(1).await;
    let members = cluster.members();
    let mut good = cluster.connect(0, session(1)).await.with_grant(&members);
    good.write(&members[0], v(10), 0, b"x").await.unwrap();
    let oversize = [b"CRN1".as_slice(), &[0xff; 12]].concat();
    for garbage in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), oversize, vec![0; 64]] {
        // as the first frame, and after a Hello
        let mut raw = RealNet.connect(cluster.nodes[0].server().address()).await.unwrap();
        raw.write_all(&garbage).await.unwrap();
        let mut rest = vec![];
        let _ = timeout(WAIT, raw.read_to_end(&mut rest)).await.expect("not closed");
        let mut wire = cluster.connect(0, session(2)).await;
        wire.writer.write_all(&garbage).await.unwrap();
        let _ = timeout(WAIT, wire.reader.read_to_end(&mut rest))
            .await
            .expect("not closed");
    }
    good.write(&members[0], v(10), 0, b"y").await.unwrap();
}

#[tokio::test]
async fn a_peer_that_says_no_hello_is_closed_in_time() {
    let cluster = Cluster::start(1).await;
    let mut raw = RealNet.connect(cluster.nodes[0].server().address()).await.unwrap();
    raw.write_all(b"CRN").await.unwrap();
    let started = Instant::now();
    let mut rest = vec![];
    let _ = timeout(WAIT, raw.read_to_end(&mut rest)).await.expect("not closed");
    assert!(started.elapsed() < crate::limits::HELLO_WAIT_MAX + Duration::from_secs(2));
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_one_by_one() {
    let cluster = Cluster::start(1).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    wire.write(&members[0], v(10), 0, b"x").await.unwrap();
    let mut nonsense = vec![];
    for change in 0..7 {
        wire.sequence = 1;
        let mut write = wire.write_body(&members[0], v(10), 0, b"yy");
        match change {
            0 => write.disk = Bytes::from_static(b"short"),
            1 => write.version = None,
            2 => write.session = Bytes::new(),
            3 => write.offset = u64::MAX,
            4 => write.offset = 64 << 20,
            5 => write.sequence = 0,
            _ => write.checksums.push(1),
        }
        nonsense.push(Body::Write(write));
    }
    let read = Read {
        handle: HANDLE.0,
        version: Some(v(10).into()),
        disk: members[0].disk.clone(),
        offset: u64::MAX,
        length: 10,
        verify: false,
    };
    for body in nonsense {
        wire.send(body, b"yy").await;
        assert_eq!(code(&wire.acknowledged().await.unwrap_err()), ErrorCode::ErrorInvalid);
    }
    let too_long = Read {
        offset: 0,
        length: (1 << 20) + 1,
        ..read.clone()
    };
    for body in [read, too_long] {
        wire.send(Body::Read(body), &[]).await;
        assert_eq!(code(&wire.acknowledged().await.unwrap_err()), ErrorCode::ErrorInvalid);
    }
    wire.sequence = 1;
    wire.write(&members[0], v(10), 0, b"z").await.unwrap();
}

#[tokio::test]
async fn frames_in_flight_stay_within_their_memory() {
    let (master, address) = FakeMaster::start().await;
    let mut node = Node::new(1, &address);
    node.config.frame_memory_bytes = crate::config::FRAME_MEMORY_BYTES_MIN;
    node.start().await;
    let cluster = Cluster {
        master,
        address,
        nodes: vec![node],
    };
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    let (reader, writer) = (&mut wire.reader, &mut wire.writer);
    let _ = (reader, writer);
    for i in 0..60u64 {
        wire.start_write(&members[0], v(10), i << 20, &bytes(i, 1 << 20)).await;
    }
    for serial in 1..=60 {
        assert_eq!(wire.acknowledged().await, Ok(serial));
    }
}
