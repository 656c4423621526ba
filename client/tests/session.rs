//! Calls to the master: each applied once, answered within a deadline, by a session that outlives its connections.
// helpers of tests are tests too: they panic, and touch the real world
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]
mod fake;

use cairn_client::{Client, Create, Error, Invalidated, OpenMode, SetAttr, errno};
use cairn_io::Env;
use cairn_proto::common::ErrorCode;
use cairn_proto::session::Invalidation;
use cairn_types::Inode;
use fake::{Cluster, create, eventually, pattern};
use futures::StreamExt;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_call_whose_answer_is_lost_is_sent_again_and_applied_once() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    cluster.master.state().swallow = 2;
    let file = create(&client, "a").await;
    file.close().await.unwrap();
    assert_eq!(cluster.master.count("create"), 1);
    let state = cluster.master.state();
    assert!(state.calls.iter().filter(|(_, name)| *name == "create").count() >= 2);
    assert!(fake::master::numbers_are_unique(&state.calls));
    assert!(state.hellos.len() >= 2);
    assert!(state.hellos.windows(2).all(|h| h[0].session == h[1].session));
}

#[tokio::test]
async fn a_client_declares_all_that_it_has_open_however_much_that_is() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let many = cairn_types::limits::DECLARED_AT_ONCE_MAX + 1;
    let files: Vec<_> = futures::stream::iter(0..many)
        .map(|n| {
            let client = client.clone();
            async move { create(&client, &n.to_string()).await }
        })
        .buffer_unordered(100)
        .collect()
        .await;
    cluster.master.kick();
    eventually("the stream is back", || cluster.master.state().hellos.len() > 1).await;
    let state = cluster.master.state();
    let declared: BTreeSet<u64> = state.hellos[1].open_inodes.iter().copied().collect();
    assert!(files.iter().all(|file| declared.contains(&file.inode().0)));
}

#[tokio::test]
async fn calls_go_on_after_the_master_was_away() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    cluster.master.state().down = true;
    cluster.master.kick();
    let call = tokio::spawn(async move { client.lookup(Inode::ROOT, b"x").await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!call.is_finished());
    cluster.master.state().down = false;
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(error.errno(), 2);
}

#[tokio::test]
async fn a_master_that_does_not_answer_is_named_after_the_deadline() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client_with(|c| c.timeout = Duration::from_millis(500)).await;
    cluster.master.state().mute = true;
    let start = Instant::now();
    let error = client.getattr(Inode::ROOT).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(2));
    assert!(matches!(error, Error::NoAnswer { .. }));
    assert_eq!(error.errno(), errno::EIO);
    let text = error.to_string();
    assert!(text.contains(&format!("master {}", cluster.master.address)), "{text}");
    assert!(
        text.contains("did not answer within 0.5 s") && text.contains("CAIRN_MASTER"),
        "{text}"
    );
    // what changes something may have been done
    let error = client.create(Inode::ROOT, b"x", Create::default()).await.err().unwrap();
    assert!(matches!(error, Error::MaybeCommitted { .. }), "{error:?}");
}

#[tokio::test]
async fn a_client_without_a_master_fails_soon_and_names_it() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let mut config = fake::config(&address);
    config.connect_within = Duration::from_millis(300);
    let error = Client::connect(config, Env::real()).await.err().unwrap();
    assert!(error.to_string().contains(&address), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_master_that_is_busy_is_asked_again_under_a_new_number() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    cluster.master.state().refuse = vec![("create", ErrorCode::ErrorUnavailable); 3];
    create(&client, "a").await;
    let state = cluster.master.state();
    let mut numbers: Vec<u64> = state.calls.iter().filter(|c| c.1 == "create").map(|c| c.0).collect();
    numbers.dedup();
    assert_eq!(numbers.len(), 4);
}

#[tokio::test]
async fn a_call_that_was_given_up_is_not_sent_again_and_does_not_hold_up_acknowledgements() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client_with(|c| c.timeout = Duration::from_millis(400)).await;
    cluster.master.state().mute = true;
    client.create(Inode::ROOT, b"x", Create::default()).await.err().unwrap();
    {
        let mut state = cluster.master.state();
        state.mute = false;
        state.calls.clear();
    }
    cluster.master.kick();
    eventually("the stream is back", || cluster.master.state().hellos.len() > 1).await;
    client.lookup(Inode::ROOT, b"x").await.unwrap_err();
    client.lookup(Inode::ROOT, b"x").await.unwrap_err();
    let state = cluster.master.state();
    assert!(state.calls.iter().all(|(_, name)| *name == "lookup"));
    assert!(state.sessions.values().any(|s| s.acknowledged >= 2));
}

/// Promise 6: what was not synced when the session ended may be gone, and its writer hears of it.
#[tokio::test]
async fn the_sessions_end_reaches_every_file_with_unsynced_writes_and_no_other() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let (dirty, synced) = (create(&client, "dirty").await, create(&client, "synced").await);
    dirty.write_at(0, pattern(1, 100)).await.unwrap();
    dirty.flush().await.unwrap();
    synced.write_at(0, pattern(2, 100)).await.unwrap();
    synced.fsync().await.unwrap();
    cluster.master.state().sessions.clear();
    cluster.master.kick();
    eventually("the stream is back", || cluster.master.state().hellos.len() > 1).await;
    let mut error = None;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        error = dirty.write_at(0, pattern(1, 1)).await.err();
        if error.is_some() {
            break;
        }
    }
    assert!(matches!(error, Some(Error::SessionEnded { .. })), "{error:?}");
    assert!(matches!(dirty.fsync().await, Err(Error::SessionEnded { .. })));
    let inodes = [dirty.inode().0, synced.inode().0];
    assert!(matches!(dirty.close().await, Err(Error::SessionEnded { .. })));
    synced.write_at(0, pattern(3, 100)).await.unwrap();
    synced.fsync().await.unwrap();
    let state = cluster.master.state();
    let hello = &state.hellos[1];
    assert!(inodes.iter().all(|ino| hello.open_inodes.contains(ino)), "{hello:?}");
}

#[tokio::test]
async fn a_push_is_acknowledged_when_it_has_taken_effect() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let mut pushes = client.invalidations();
    let inode = |n| Invalidation {
        inode: n,
        data: true,
        name: Default::default(),
    };
    let entry = Invalidation {
        inode: 1,
        data: false,
        name: b"a"[..].into(),
    };
    cluster.master.push(1, vec![inode(5), entry]).await;
    cluster.master.push(2, vec![inode(6)]).await;
    let first = pushes.recv().await.unwrap();
    assert_eq!(
        first.what(),
        &Invalidated::Inode {
            ino: Inode(5),
            data: true
        }
    );
    let second = pushes.recv().await.unwrap();
    assert_eq!(
        second.what(),
        &Invalidated::Entry {
            parent: Inode(1),
            name: b"a"[..].into()
        }
    );
    pushes.recv().await.unwrap().done();
    first.done();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(cluster.master.state().pushes_done, 0);
    second.done();
    eventually("both are acknowledged", || cluster.master.state().pushes_done == 2).await;
}

/// The set of open inodes at the master is this client's: told once of the first open and once of the last close, which
/// goes with the next call or a moment later.
#[tokio::test]
async fn the_master_hears_of_the_first_open_and_of_the_last_close() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let ino = {
        let file = create(&client, "a").await;
        let ino = file.inode();
        file.close().await.unwrap();
        ino
    };
    assert_eq!(cluster.master.count("open"), 0);
    let one = client.open(ino, OpenMode::READ).await.unwrap();
    let closes = || cluster.master.state().closes.len();
    assert_eq!((cluster.master.count("open"), closes()), (1, 1));
    let two = client.open(ino, OpenMode::WRITE).await.unwrap();
    assert_eq!(cluster.master.count("open"), 1);
    one.close().await.unwrap();
    client.getattr(ino).await.unwrap();
    assert_eq!(closes(), 1);
    drop(two);
    eventually("a dropped file is closed", || closes() == 2).await;
}

#[tokio::test]
async fn shutdown_flushes_and_says_goodbye() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let file = create(&client, "a").await;
    file.write_at(0, pattern(1, 5000)).await.unwrap();
    client.clone().shutdown().await.unwrap();
    assert_eq!(cluster.size(file.inode()), 5000);
    assert_eq!(cluster.master.count("goodbye"), 1);
    assert!(matches!(client.lookup(Inode::ROOT, b"a").await, Err(Error::ShutDown)));
}

const SECOND: Duration = Duration::from_secs(1);

/// The client is told what the master would tell of an open file: so it may be opened again without asking.
#[tokio::test]
async fn a_file_that_was_closed_is_opened_again_without_a_call_until_something_happens_to_it() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    client.remember_names();
    let (data, mode) = (pattern(1, 100), OpenMode::READ_WRITE);
    let file = create(&client, "a").await;
    let ino = file.inode();
    let again = || client.open_known(ino, OpenMode::READ, SECOND);
    let told = |closes: &[(u64, bool)]| cluster.master.state().closes == closes;
    file.write_at(0, data.clone()).await.unwrap();
    file.close().await.unwrap();
    for _ in 0..2 {
        let file = again().expect("known");
        assert_eq!(file.read_at(0, 200).await.unwrap(), data);
        file.close().await.unwrap();
    }
    // more than one open at a time, and one that writes
    let (one, two) = (
        again().expect("known"),
        client.open_known(ino, mode, SECOND).expect("known"),
    );
    two.write_at(50, pattern(2, 100)).await.unwrap();
    two.close().await.unwrap();
    assert_eq!(one.read_at(50, 200).await.unwrap(), pattern(2, 100));
    one.close().await.unwrap();
    client.lookup(Inode::ROOT, b"a").await.unwrap();
    eventually("both times that it was written", || told(&[(ino.0, true); 2])).await;
    assert_eq!((cluster.master.count("open"), cluster.master.count("getattr")), (0, 0));

    // another client changes it
    let change = Invalidation {
        inode: ino.0,
        data: false,
        name: Default::default(),
    };
    cluster.master.push(1, vec![change]).await;
    eventually("it is closed", || told(&[(ino.0, true), (ino.0, true), (ino.0, false)])).await;
    client.getattr(ino).await.unwrap();
    assert!(again().is_none(), "the master does not take it for open");
    client.open(ino, mode).await.unwrap().close().await.unwrap();
    again().expect("known").close().await.unwrap();
    assert!(
        client
            .open_known(ino, OpenMode { truncate: true, ..mode }, SECOND)
            .is_none()
    );

    // the stream ends: it is not declared
    cluster.master.kick();
    eventually("the stream is back", || cluster.master.state().hellos.len() > 1).await;
    assert!(cluster.master.state().hellos[1].open_inodes.is_empty());
    client.getattr(ino).await.unwrap();
    assert!(again().is_none());

    // its last name goes
    client.open(ino, mode).await.unwrap().close().await.unwrap();
    cluster.master.state().closes.clear();
    client.unlink(Inode::ROOT, b"a").await.unwrap();
    assert!(again().is_none());
    eventually("it is closed", || told(&[(ino.0, false)])).await;
}

/// Its first chunk was granted as it was made, and stays this client's to write for some seconds.
#[tokio::test]
async fn a_file_that_was_closed_empty_is_opened_and_written_with_one_call() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    client.remember_names();
    let cut = OpenMode {
        truncate: true,
        ..OpenMode::READ_WRITE
    };
    let open = |ino, mode| client.open_known(ino, mode, Duration::from_secs(60));
    let empty = async |name: &str| {
        let file = create(&client, name).await;
        let ino = file.inode();
        file.close().await.unwrap();
        ino
    };
    let calls = |cluster: &Cluster| ["open", "allocate", "commit"].map(|name| cluster.master.count(name));
    let told = || cluster.master.state().closes.clone();

    for (n, mode) in [cut, OpenMode::READ_WRITE].into_iter().enumerate() {
        let ino = empty(&n.to_string()).await;
        let file = open(ino, mode).expect("known");
        file.write_at(0, pattern(1, 5000)).await.unwrap();
        file.close().await.unwrap();
        assert_eq!(calls(&cluster), [0, 0, n + 1]);
        assert_eq!(cluster.size(ino), 5000);
        assert!(open(ino, cut).is_none(), "there is something to be cut");
    }
    // nothing is written: its times are moved all the same, and whoever comes third asks
    let ino = empty("touched").await;
    let file = open(ino, cut).expect("known");
    assert!(file.attr().being_written && open(ino, cut).is_none());
    file.close().await.unwrap();
    assert_eq!(calls(&cluster), [0, 0, 3]);
    assert!(open(ino, cut).is_none());
    // it was cut by its name meanwhile: the chunk is another's
    let ino = empty("cut").await;
    let size = Some(0);
    let change = SetAttr {
        size,
        ..SetAttr::default()
    };
    client.setattr(ino, change).await.unwrap();
    assert!(open(ino, cut).is_none());
    let file = open(ino, OpenMode::READ_WRITE).expect("known");
    file.write_at(0, pattern(2, 5000)).await.unwrap();
    file.close().await.unwrap();
    assert_eq!(calls(&cluster), [0, 1, 4]);
    assert_eq!(
        client
            .open(ino, OpenMode::READ)
            .await
            .unwrap()
            .read_at(0, 5001)
            .await
            .unwrap(),
        pattern(2, 5000)
    );

    // for some seconds
    let (ino, closed) = (empty("given back").await, Instant::now());
    assert!(!told().contains(&(ino.0, true)));
    eventually("they have passed", || closed.elapsed() > Duration::from_secs(4)).await;
    eventually("the master is told", || told().contains(&(ino.0, true))).await;
    assert!(open(ino, cut).is_none());
    assert!(open(ino, OpenMode::READ).is_some(), "open for the master");
}

/// Whoever does not remember names has no use for it.
#[tokio::test]
async fn a_client_that_asks_for_every_name_tells_of_every_close() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let file = create(&client, "a").await;
    let ino = file.inode();
    file.close().await.unwrap();
    assert!(client.open_known(ino, OpenMode::READ, SECOND).is_none());
    eventually("it is closed", || cluster.master.state().closes == [(ino.0, false)]).await;
}
