//! Chunks and chunkservers, by the rules of the protocol.
#![allow(clippy::unwrap_used, clippy::expect_used)]
mod common;
use cairn_proto::chunkserver::{self as cs, from_chunkserver, order};
use cairn_proto::common::ErrorCode;
use cairn_proto::session as ss;
use cairn_proto::session::answer::Result as Answer;
use cairn_proto::session::call::Request;
use cairn_types::Version;
use common::*;
use std::collections::BTreeMap;
use std::time::Duration;

fn version(chunk: &cairn_proto::common::Location) -> Version {
    chunk.version.unwrap().into()
}

fn one(answer: Answer) -> cairn_proto::common::Location {
    match answer {
        Answer::Locations(l) => l.chunks.into_iter().next().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_new_chunk_needs_servers_and_says_how_many() {
    let disk = disk();
    let master = start(config(), &disk).await;
    let mut client = Client::connect(&master, 1).await;
    let created = client.create("a").await;
    assert!(created.chunk.is_none());
    let inode = created.attr.unwrap().inode;
    let allocate = || {
        Request::Allocate(ss::Allocate {
            inode,
            first: 0,
            count: 1,
        })
    };
    match client.call(allocate()).await {
        Answer::Error(e) => {
            assert_eq!(e.code(), ErrorCode::ErrorNoServers);
            assert!(e.message.contains("wants 3, has 0"), "{}", e.message);
        }
        other => panic!("{other:?}"),
    }
    let _one = Server::register(&master, 1, BTreeMap::new()).await;
    let _two = Server::register(&master, 2, BTreeMap::new()).await;
    // the minimum of two is there: less than the goal will do
    let chunk = one(client.call(allocate()).await);
    assert_eq!(chunk.members.len(), 2);
    assert_eq!(one(client.call(allocate()).await), chunk, "it exists now");
    master.shutdown().await.unwrap();
}

#[tokio::test]
async fn the_configured_minimum_is_enough_for_a_new_chunk() {
    for minimum in 1..=3 {
        let disk = disk();
        let config = cairn_master::MasterConfig {
            min_replicas: minimum,
            ..config()
        };
        let master = start(config, &disk).await;
        let mut client = Client::connect(&master, 1).await;
        let mut servers = Vec::new();
        for n in 1..=minimum {
            let created = client.create(&format!("before {n}")).await;
            assert!(created.chunk.is_none(), "{} of {minimum} servers", n - 1);
            servers.push(Server::register(&master, n.into(), BTreeMap::new()).await);
        }
        let chunk = client.create("enough").await.chunk.expect("a grant");
        assert_eq!(chunk.members.len(), usize::from(minimum));
        master.shutdown().await.unwrap();
    }
}

/// Two writers share no server of six, whoever has written before them.
#[tokio::test]
async fn what_is_written_no_more_does_not_weigh_on_where_new_chunks_go() {
    let disk = disk();
    let config = cairn_master::MasterConfig {
        lease_ms: 60_000,
        ..config()
    };
    let master = start(config, &disk).await;
    let mut servers = Vec::new();
    for n in 1..=6 {
        servers.push(Server::register(&master, n, BTreeMap::new()).await);
    }
    for round in 0..6 {
        let inode = |created: &ss::Created| created.attr.as_ref().unwrap().inode;
        let before = format!("before {round}");
        let mut client = Client::connect(&master, 2 * round + 1).await;
        let created = inode(&client.create(&before).await);
        if round % 2 == 0 {
            client.closed(vec![created], vec![]).await;
        } else {
            // its writer has gone, and it is removed at once
            let next = Client::connect(&master, 2 * round + 2).await;
            client.call(Request::Goodbye(ss::Goodbye {})).await;
            client = next;
            let name = bytes::Bytes::from(before);
            client.call(Request::Unlink(ss::Unlink { parent: 1, name })).await;
        }
        let one = client.create(&format!("one {round}")).await;
        let two = client.create(&format!("two {round}")).await;
        let mut used: Vec<_> = [&one, &two]
            .iter()
            .flat_map(|created| created.chunk.iter().flat_map(|chunk| &chunk.members))
            .map(|member| member.server.clone())
            .collect();
        used.sort();
        used.dedup();
        assert_eq!(used.len(), 6, "round {round}");
        client.closed(vec![inode(&one)], vec![inode(&two)]).await;
        client.call(Request::Goodbye(ss::Goodbye {})).await;
    }
    master.shutdown().await.unwrap();
}

#[tokio::test]
async fn repairs_keep_to_the_configured_numbers_and_rate() {
    for (repairs_max, repairs_per_server_max, at_once) in [(16, 4, 3), (2, 4, 2), (16, 1, 1)] {
        let disk = disk();
        let config = cairn_master::MasterConfig {
            repairs_max,
            repairs_per_server_max,
            repair_bytes_per_second: 12_345,
            ..config()
        };
        let master = start(config, &disk).await;
        let mut client = Client::connect(&master, 1).await;
        let (_, _, mut servers) = written(&master, &mut client).await;
        for name in ["b", "c"] {
            let chunk = client.create(name).await.chunk.expect("a grant");
            for server in &mut servers {
                server.replicas.extend([installed(&chunk, 77)]);
            }
        }
        let mut fourth = Server::register(&master, 4, BTreeMap::new()).await;
        fourth.deaf_to = |what| matches!(what, order::What::Join(_));
        drop(servers.remove(0));
        let running: Vec<_> = servers.into_iter().map(Server::run).collect();
        let joins = |server: &Server| -> Vec<u64> {
            let rates = server.orders.iter().filter_map(|o| match &o.what {
                Some(order::What::Join(join)) => Some(join.bytes_per_second),
                _ => None,
            });
            rates.collect()
        };
        let end = tokio::time::Instant::now() + WAIT;
        while joins(&fourth).len() < at_once && tokio::time::Instant::now() < end {
            assert!(fourth.live(Duration::from_millis(50)).await);
        }
        // none of them is answered: there is no room for another
        assert!(fourth.live(Duration::from_millis(300)).await);
        assert_eq!(
            joins(&fourth),
            vec![12_345; at_once],
            "{repairs_max} {repairs_per_server_max}"
        );
        for server in running {
            server.stop().await;
        }
        master.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn another_clusters_server_is_refused_with_both_ids() {
    let disk = disk();
    let master = start(config(), &disk).await;
    let foreign = cairn_types::ClusterId::from_bits(5);
    let refused = Server::try_register(&master, 1, BTreeMap::new(), foreign.to_vec().into(), vec![1; 16]).await;
    let refused = refused.err().unwrap();
    let (theirs, ours) = (foreign.to_string(), master.cluster().to_string());
    assert!(
        refused.message().contains(&theirs) && refused.message().contains(&ours),
        "{}",
        refused.message()
    );
    master.shutdown().await.unwrap();
}

/// A file with one chunk, installed at three servers.
async fn written(
    master: &cairn_master::Master,
    client: &mut Client,
) -> (ss::Attr, cairn_proto::common::Location, Vec<Server>) {
    let mut servers = Vec::new();
    for n in 1..=3 {
        servers.push(Server::register(master, n, BTreeMap::new()).await);
    }
    let created = client.create("a").await;
    let chunk = created.chunk.expect("a grant");
    assert_eq!(chunk.members.len(), 3);
    for server in &mut servers {
        server.replicas.extend([installed(&chunk, 77)]);
    }
    (created.attr.unwrap(), chunk, servers)
}

#[tokio::test]
async fn r7_verdicts_on_what_a_server_brings() {
    let disk = disk();
    let master = start(config(), &disk).await;
    let mut client = Client::connect(&master, 1).await;
    let (_, chunk, mut servers) = written(&master, &mut client).await;
    let old = servers.remove(0);
    let (id, disk_id) = (1, old.disk.clone());
    drop(old);
    let current = installed(&chunk, 77);
    let v = version(&chunk);
    for (replica, verdict) in [
        (current.1.clone(), cs::Verdict::Current),
        (
            Replica {
                version: Version::new(v.epoch, v.counter - 1),
                ..current.1.clone()
            },
            cs::Verdict::Stale,
        ),
        (
            Replica {
                version: Version::new(v.epoch, v.counter + 1000),
                ..current.1.clone()
            },
            cs::Verdict::Wait,
        ),
        (
            Replica {
                suspect: true,
                ..current.1.clone()
            },
            cs::Verdict::Wait,
        ),
    ] {
        let replicas = BTreeMap::from([(chunk.handle, replica), (chunk.handle + 10, current.1.clone())]);
        let server = Server::try_register(&master, id, replicas, Default::default(), disk_id.clone())
            .await
            .unwrap();
        assert_eq!(server.verdict(chunk.handle), Some(verdict));
        assert_eq!(server.verdict(chunk.handle + 10), Some(cs::Verdict::Unknown));
        assert!(server.floor >= v, "a late grant creates nothing");
    }
    master.shutdown().await.unwrap();
}

#[tokio::test]
async fn r8_a_complaint_forces_exactly_one_reconfiguration() {
    let disk = disk();
    let master = start(config(), &disk).await;
    let mut client = Client::connect(&master, 1).await;
    let (attr, chunk, servers) = written(&master, &mut client).await;
    let running: Vec<_> = servers.into_iter().map(Server::run).collect();
    client.send(10, complaint(&chunk)).await;
    client.send(11, complaint(&chunk)).await;
    let first = one(client.answer(10).await.unwrap());
    let second = one(client.answer(11).await.unwrap());
    assert_eq!(first, second);
    assert!(version(&first) > version(&chunk));
    assert_eq!(
        one(client.complain(&chunk).await),
        first,
        "an old version is answered with the new"
    );
    assert_eq!(client.locate(attr.inode, false).await, std::slice::from_ref(&first));
    for server in running {
        let server = server.stop().await;
        let kinds: Vec<_> = server.orders.iter().map(|o| o.what.clone().unwrap()).collect();
        assert_eq!(kinds.iter().filter(|w| matches!(w, order::What::Fence(_))).count(), 1);
        assert_eq!(kinds.iter().filter(|w| matches!(w, order::What::Install(_))).count(), 1);
        assert_eq!(server.replicas[&chunk.handle].version, version(&first));
        assert!(server.replicas[&chunk.handle].installed);
    }
    master.shutdown().await.unwrap();
}

/// Versions and registrations: also those that no record of the log names.
#[tokio::test]
async fn r2_nothing_is_drawn_twice_also_when_the_master_restarts() {
    let disk = disk();
    let mut drawn: Vec<Version> = Vec::new();
    for start_number in 1..=3 {
        let master = start(config(), &disk).await;
        let mut servers = Vec::new();
        for n in 1..=3 {
            let server = Server::register(&master, n, BTreeMap::new()).await;
            drawn.push(Version::new(server.registration.epoch, server.registration.counter));
            servers.push(server);
        }
        let mut client = Client::connect(&master, start_number).await;
        for n in 1..=3 {
            let created = client.create(&format!("{start_number}-{n}")).await;
            drawn.push(version(&created.chunk.expect("a grant")));
        }
        master.shutdown().await.unwrap();
    }
    assert!(drawn.is_sorted_by(|a, b| a < b), "{drawn:?}");
}

#[tokio::test]
async fn r5_a_silent_member_is_waited_for_until_its_lease_is_over() {
    let disk = disk();
    let master = start(config(), &disk).await;
    let mut client = Client::connect(&master, 1).await;
    let (_, chunk, mut servers) = written(&master, &mut client).await;
    // it hears nothing, and says nothing: its stream stays open
    let mut silent = servers.remove(2);
    silent.heartbeat().await;
    let said = tokio::time::Instant::now();
    let running: Vec<_> = servers.into_iter().map(Server::run).collect();
    let after = one(client.complain(&chunk).await);
    assert!(
        said.elapsed() >= Duration::from_millis(600),
        "not before L(1 + d): {:?}",
        said.elapsed()
    );
    assert_eq!(after.members.len(), 2);
    assert!(after.members.iter().all(|m| m.server[..] != silent.id.as_bytes()[..]));
    // its registration is over; it comes back with what it had, and that is stale
    assert!(!silent.live(Duration::from_secs(2)).await);
    let replicas = silent.replicas.clone();
    let back = Server::try_register(&master, 3, replicas, Default::default(), silent.disk.clone())
        .await
        .unwrap();
    assert_eq!(back.verdict(chunk.handle), Some(cs::Verdict::Stale));
    // and is brought up to date as the third again
    let back = back.run();
    let inode = chunk.inode;
    let whole = until("three members", async || {
        let located = client.locate(inode, false).await.remove(0);
        (located.members.len() == 3).then_some(located)
    })
    .await;
    until("the install", async || {
        tokio::time::sleep(Duration::from_millis(100)).await;
        (client.locate(inode, false).await[0] == whole).then_some(())
    })
    .await;
    let back = back.stop().await;
    assert_eq!(back.replicas[&chunk.handle].version, version(&whole));
    for server in running {
        server.stop().await;
    }
    master.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_lost_server_is_replaced_after_the_delay_and_its_stale_replica_deleted_after_asking() {
    let disk = disk();
    let master = start(config(), &disk).await;
    let mut client = Client::connect(&master, 1).await;
    let (_, chunk, mut servers) = written(&master, &mut client).await;
    let fourth = Server::register(&master, 4, BTreeMap::new()).await.run();
    let lost = servers.remove(0);
    let (lost_disk, lost_replicas) = (lost.disk.clone(), lost.replicas.clone());
    drop(lost);
    let running: Vec<_> = servers.into_iter().map(Server::run).collect();
    let healed = until("repair", async || {
        let located = client.locate(chunk.inode, false).await.remove(0);
        (located.members.iter().all(|m| m.disk[..] != lost_disk[..])).then_some(located)
    })
    .await;
    assert_eq!(healed.members.len(), 3);
    let back = Server::try_register(&master, 1, lost_replicas, Default::default(), lost_disk)
        .await
        .unwrap();
    let mut back = back;
    assert_eq!(back.verdict(chunk.handle), Some(cs::Verdict::Stale));
    let end = tokio::time::Instant::now() + WAIT;
    while back.replicas.contains_key(&chunk.handle) && tokio::time::Instant::now() < end {
        assert!(back.live(Duration::from_millis(100)).await);
    }
    assert_eq!(back.confirmed.len(), 1, "asked, and confirmed");
    let fourth = fourth.stop().await;
    let fills = fourth
        .orders
        .iter()
        .filter(|o| matches!(o.what, Some(order::What::Join(_))))
        .count();
    assert_eq!(fills, 1, "filled before it was fenced");
    for server in running {
        server.stop().await;
    }
    master.shutdown().await.unwrap();
}

/// A client may wait for long without a word; what hangs is given up soon.
fn patient() -> cairn_master::MasterConfig {
    cairn_master::MasterConfig {
        session_timeout_ms: 60_000,
        call_timeout_ms: 3_000,
        order_timeout_ms: 150,
        ..config()
    }
}

/// What an attempt that failed has fenced serves nothing, and may be all that is left.
#[tokio::test]
async fn a_replica_that_was_fenced_and_left_alone_is_brought_back_with_new_members() {
    let disk = disk();
    let master = start(patient(), &disk).await;
    let mut client = Client::connect(&master, 1).await;
    let (_, chunk, mut servers) = written(&master, &mut client).await;
    let mut last = servers.pop().unwrap();
    let last_disk = last.disk.clone();
    // all three are there when it begins; two are never heard again
    client.send(10, complaint(&chunk)).await;
    while last.replicas[&chunk.handle].installed {
        last.receive().await.expect("an order");
    }
    drop(servers);
    let last = last.run();
    client.answer(10).await.unwrap();
    let located = client.locate(chunk.inode, false).await.remove(0);
    assert_eq!(version(&located), version(&chunk), "two were needed");
    let others = [
        Server::register(&master, 4, BTreeMap::new()).await.run(),
        Server::register(&master, 5, BTreeMap::new()).await.run(),
    ];
    let mended = until("a reconfiguration", async || {
        let located = client.locate(chunk.inode, false).await.remove(0);
        (version(&located) > version(&chunk)).then_some(located)
    })
    .await;
    assert!(mended.members.iter().any(|m| m.disk[..] == last_disk[..]), "{mended:?}");
    for server in [last].into_iter().chain(others) {
        server.stop().await;
    }
    master.shutdown().await.unwrap();
}

#[tokio::test]
async fn r7_who_was_told_to_wait_for_what_failed_does_not_wait_for_ever() {
    let disk = disk();
    let master = start(patient(), &disk).await;
    let mut client = Client::connect(&master, 1).await;
    let (_, chunk, mut servers) = written(&master, &mut client).await;
    let mut third = servers.pop().unwrap();
    let running: Vec<_> = servers.into_iter().map(Server::run).collect();
    // it is not known to be well, so that the others are not fenced before it
    let doubted = Request::Complain(ss::Complain {
        handle: chunk.handle,
        version: chunk.version,
        server: bytes::Bytes::copy_from_slice(third.id.as_bytes()),
        for_write: true,
        ..Default::default()
    });
    third.deaf_to = |what| matches!(what, order::What::Fence(_));
    client.send(10, doubted).await;
    while third.orders.is_empty() {
        third.receive().await.expect("an order");
    }
    let (replicas, id, deaf_to) = (third.replicas.clone(), third.disk.clone(), third.deaf_to);
    drop(third);
    let third = Server::register_deaf(&master, 3, replicas, Default::default(), id, deaf_to);
    let third = third.await.unwrap();
    assert_eq!(third.verdict(chunk.handle), Some(cs::Verdict::Wait));
    let third = third.run();
    client.answer(10).await.unwrap();
    let mut third = third.stop().await;
    assert!(third.replicas[&chunk.handle].installed, "nothing has come to it");
    third.deaf_to = |_| false;
    let third = third.run();
    until("a reconfiguration", async || {
        let located = client.locate(chunk.inode, false).await.remove(0);
        (version(&located) > version(&chunk)).then_some(())
    })
    .await;
    for server in [third].into_iter().chain(running) {
        server.stop().await;
    }
    master.shutdown().await.unwrap();
}

#[tokio::test]
async fn p7_members_and_what_is_not_of_this_log_are_never_confirmed() {
    let disk = disk();
    let master = start(config(), &disk).await;
    let mut client = Client::connect(&master, 1).await;
    let (_, chunk, mut servers) = written(&master, &mut client).await;
    let mut server = servers.remove(0);
    let query = |handle| cs::DeleteQuery {
        handle,
        disk: server.disk.clone().into(),
        version: chunk.version,
    };
    let queries = vec![query(chunk.handle), query(chunk.handle + 1000)];
    tokio::time::sleep(Duration::from_millis(500)).await;
    server.heartbeat().await;
    server
        .say(from_chunkserver::Body::ConfirmDelete(cs::ConfirmDelete { queries }))
        .await;
    while server.receive().await.unwrap() != "confirmed" {}
    assert_eq!(server.confirmed, []);
    assert!(server.replicas.contains_key(&chunk.handle));
    master.shutdown().await.unwrap();
}

#[tokio::test]
async fn r11_a_master_that_restarts_waits_for_leases_of_the_one_before_and_fences_higher() {
    let disk = disk();
    let master = start(config(), &disk).await;
    let mut client = Client::connect(&master, 1).await;
    let (_, chunk, mut servers) = written(&master, &mut client).await;
    let disks: Vec<_> = servers.iter().map(|s| s.disk.clone()).collect();
    let silent = servers.remove(2);
    // fenced by a reconfiguration that is forgotten with the master
    let above = Version::new(version(&chunk).epoch, version(&chunk).counter + 500);
    drop(servers);
    master.shutdown().await.unwrap();
    let began = tokio::time::Instant::now();
    let master = start(config(), &disk).await;
    let mut client = Client::connect(&master, 1).await;
    client.sequence = 100;
    let mut running = Vec::new();
    for (n, disk) in [1, 2].into_iter().zip(&disks) {
        let fenced = Replica {
            version: above,
            installed: false,
            length: 77,
            suspect: false,
        };
        let replicas = BTreeMap::from([(chunk.handle, fenced)]);
        let server = Server::try_register(&master, n, replicas, Default::default(), disk.clone())
            .await
            .unwrap();
        assert_eq!(server.verdict(chunk.handle), Some(cs::Verdict::Wait));
        running.push(server.run());
    }
    let after = one(client.complain(&chunk).await);
    assert!(
        began.elapsed() >= Duration::from_millis(600),
        "the third may hold a lease: {:?}",
        began.elapsed()
    );
    assert!(version(&after) > above, "{after:?}");
    drop(silent);
    for server in running {
        server.stop().await;
    }
    master.shutdown().await.unwrap();
}

#[tokio::test]
async fn r12_when_a_session_ends_its_chunks_are_fenced_and_the_length_taken_from_the_source() {
    let disk = disk();
    let master = start(config(), &disk).await;
    let mut writer = Client::connect(&master, 1).await;
    let (attr, chunk, servers) = written(&master, &mut writer).await;
    let running: Vec<_> = servers.into_iter().map(Server::run).collect();
    drop(writer);
    let mut other = Client::connect(&master, 2).await;
    let get = || Request::GetAttr(ss::GetAttr { inode: attr.inode });
    until("the length of what was written", async || {
        match other.call(get()).await {
            Answer::Attr(attr) => (attr.size == 77).then_some(()),
            _ => None,
        }
    })
    .await;
    assert!(version(&other.locate(attr.inode, false).await[0]) > version(&chunk));
    let stale = ss::WrittenChunk {
        index: 0,
        handle: chunk.handle,
        version: chunk.version,
    };
    let commit = ss::Commit {
        inode: attr.inode,
        size: 500,
        chunks: vec![stale],
        ..Default::default()
    };
    match other.call(Request::Commit(commit)).await {
        Answer::Error(e) => assert_eq!(e.code(), ErrorCode::ErrorStaleVersion),
        other => panic!("{other:?}"),
    }
    for server in running {
        server.stop().await;
    }
    master.shutdown().await.unwrap();
}

#[tokio::test]
async fn r12_what_a_session_left_that_ended_with_its_master_is_fenced_and_its_length_taken() {
    let disk = disk();
    let master = start(config(), &disk).await;
    let mut writer = Client::connect(&master, 1).await;
    let (attr, chunk, servers) = written(&master, &mut writer).await;
    assert_eq!(attr.size, 0, "written, and not committed");
    let had: Vec<_> = servers.iter().map(|s| (s.disk.clone(), s.replicas.clone())).collect();
    drop((writer, servers));
    master.shutdown().await.unwrap();
    let master = start(config(), &disk).await;
    let mut running = Vec::new();
    for (n, (disk, replicas)) in (1..).zip(had) {
        let server = Server::try_register(&master, n, replicas, Default::default(), disk).await;
        running.push(server.unwrap().run());
    }
    let mut other = Client::connect(&master, 2).await;
    until("the length of what was written", async || {
        (other.lookup("a").await?.size == 77).then_some(())
    })
    .await;
    let after = other.locate(attr.inode, true).await.remove(0);
    assert!(version(&after) > version(&chunk), "fenced");
    assert!(after.epoch > chunk.epoch, "leave to write is this master's");
    for server in running {
        server.stop().await;
    }
    master.shutdown().await.unwrap();
}

#[tokio::test]
async fn r13_a_truncation_inside_a_chunk_cuts_the_source_first() {
    let disk = disk();
    let master = start(config(), &disk).await;
    let mut client = Client::connect(&master, 1).await;
    let (attr, chunk, servers) = written(&master, &mut client).await;
    let written = ss::WrittenChunk {
        index: 0,
        handle: chunk.handle,
        version: chunk.version,
    };
    let commit = ss::Commit {
        inode: attr.inode,
        size: 77,
        chunks: vec![written],
        written: true,
        ..Default::default()
    };
    assert!(matches!(client.call(Request::Commit(commit)).await, Answer::Attr(a) if a.size == 77));
    let running: Vec<_> = servers.into_iter().map(Server::run).collect();
    let mut reader = Client::connect(&master, 2).await;
    reader.confirms = false;
    assert_eq!(reader.lookup("a").await.unwrap().size, 77);
    let set = ss::SetAttr {
        inode: attr.inode,
        size: Some(30),
        ..Default::default()
    };
    let sequence = client.sequence + 1;
    client.send(sequence, Request::SetAttr(set)).await;
    while reader.pushes.is_empty() {
        reader.receive().await.unwrap();
    }
    assert_eq!(reader.pushes[0].invalidations[0].inode, attr.inode);
    let early = tokio::time::timeout(Duration::from_millis(500), client.answer(sequence)).await;
    assert!(early.is_err(), "answered though another client has the old length");
    reader.confirm().await;
    match client.answer(sequence).await.unwrap() {
        Answer::Attr(attr) => assert_eq!(attr.size, 30),
        other => panic!("{other:?}"),
    }
    let after = client.locate(attr.inode, false).await.remove(0);
    assert!(version(&after) > version(&chunk));
    // sent again, it is answered from memory: no second cut
    client.send(sequence, Request::SetAttr(set)).await;
    assert!(matches!(client.answer(sequence).await, Some(Answer::Attr(a)) if a.size == 30));
    assert_eq!(client.locate(attr.inode, false).await, [after]);
    let mut cuts = 0;
    for server in running {
        let server = server.stop().await;
        cuts += server
            .orders
            .iter()
            .filter(|o| matches!(&o.what, Some(order::What::Cut(c)) if c.length == 30))
            .count();
    }
    assert_eq!(cuts, 1, "only the source is cut; the others copy it");
    master.shutdown().await.unwrap();
}

#[tokio::test]
async fn suspects_after_a_power_loss_are_made_current_again() {
    let disk = disk();
    let master = start(config(), &disk).await;
    let mut client = Client::connect(&master, 1).await;
    let (attr, chunk, servers) = written(&master, &mut client).await;
    let disks: Vec<_> = servers.iter().map(|s| s.disk.clone()).collect();
    drop(servers);
    let mut running = Vec::new();
    for (n, disk) in (1..).zip(&disks) {
        let (handle, replica) = installed(&chunk, 77);
        let replicas = BTreeMap::from([(
            handle,
            Replica {
                suspect: true,
                ..replica
            },
        )]);
        let server = Server::try_register(&master, n, replicas, Default::default(), disk.clone())
            .await
            .unwrap();
        assert_eq!(server.verdict(handle), Some(cs::Verdict::Wait));
        running.push(server.run());
    }
    let located = until("a reconfiguration", async || {
        let located = client.locate(attr.inode, false).await.remove(0);
        (version(&located) > version(&chunk)).then_some(located)
    })
    .await;
    assert_eq!(located.from_suspect, located.version, "the log says so");
    assert_eq!(located.members.len(), 3);
    for server in running {
        server.stop().await;
    }
    master.shutdown().await.unwrap();
}
