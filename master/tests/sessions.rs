//! Sessions: what is answered is durable, once, and in order; and others hear of it.
#![allow(clippy::unwrap_used, clippy::expect_used)]
mod common;
use cairn_proto::session as ss;
use cairn_proto::session::answer::Result as Answer;
use cairn_proto::session::call::Request;
use cairn_proto::session::from_client;
use cairn_types::SessionId;
use common::*;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Promise 1: the machine loses power, or the process is killed, at every change of the disk in turn.
#[tokio::test]
async fn acknowledged_operations_survive_a_crash_at_any_write() {
    let small = || cairn_master::MasterConfig {
        checkpoint_log_bytes: 4096,
        log_segment_bytes: 4096,
        ..config()
    };
    for stop in (0..90).step_by(3) {
        let disk = disk();
        let master = start(small(), &disk).await;
        let mut client = Client::connect(&master, 1).await;
        disk.stop_after(stop);
        let mut made = Vec::new();
        for n in 0..60 {
            let name = format!("file-{n:0>60}");
            match client.try_call(create(&name)).await {
                Some(Answer::Created(_)) => made.push(name),
                Some(Answer::Error(_)) | None => break,
                other => panic!("{other:?}"),
            }
        }
        let tried = client.sequence;
        // at a stop late enough it has all been done
        let _ = master.shutdown().await;
        if stop % 2 == 0 {
            disk.power_loss(&mut cairn_io::Rng::from_seed(stop).fork());
        } else {
            disk.kill();
        }
        let master = start(small(), &disk).await;
        let mut client = Client::connect(&master, 1).await;
        for name in &made {
            assert!(
                client.lookup(name).await.is_some(),
                "stop {stop}: {name} was acknowledged"
            );
        }
        // the one that was not answered is done once, or not at all; sent again it is done
        client.sequence = tried - 1;
        let name = format!("file-{:0>60}", tried - 1);
        match client.call(create(&name)).await {
            Answer::Created(created) => assert!(!created.existed),
            other => panic!("stop {stop}: {other:?}"),
        }
        client.sequence = tried + 100;
        let root = client
            .call(Request::ReadDir(ss::ReadDir {
                inode: 1,
                after: 0,
                limit: 1000,
                plain: false,
            }))
            .await;
        let Answer::Directory(page) = root else { panic!() };
        assert_eq!(page.entries.len() as u64, tried);
        master.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_call_that_is_sent_again_is_done_once_also_after_a_restart() {
    let disk = disk();
    let master = start(config(), &disk).await;
    let mut client = Client::connect(&master, 1).await;
    let first = client.call(create("a")).await;
    drop(client);
    let mut client = Client::connect(&master, 1).await;
    assert!(client.resumed);
    client.send(1, create("a")).await;
    let again = client.answer(1).await.unwrap();
    assert_eq!(first, again);
    master.shutdown().await.unwrap();
    let master = start(config(), &disk).await;
    let mut client = Client::connect(&master, 1).await;
    assert!(client.resumed);
    client.send(1, create("a")).await;
    assert_eq!(first, client.answer(1).await.unwrap());
    // another number is another call
    client.send(2, create("a")).await;
    match client.answer(2).await.unwrap() {
        Answer::Error(e) => {
            assert_eq!(e.errno, 17);
            assert!(e.message.contains("create /a"), "{}", e.message);
        }
        other => panic!("{other:?}"),
    }
    master.shutdown().await.unwrap();
}

/// An answer would be a lie either way: whoever asks again, under the same number, hears what became of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_the_log_does_not_take_ends_its_stream_and_is_done_once() {
    let disk = disk();
    let config = cairn_master::MasterConfig {
        session_timeout_ms: 60_000,
        call_timeout_ms: 1_000,
        ..config()
    };
    // appends leave the thread of whoever waits for them, as they do where a disk was ever slow
    let master = cairn_master::Master::start(config, Arc::new(disk.mount()), cairn_io::Env::real());
    let master = master.await.unwrap();
    let mut client = Client::connect(&master, 1).await;
    let mut idle = Client::connect(&master, 2).await;
    client.create("a").await;
    let hold = disk.hold();
    assert_eq!(client.try_call(create("b")).await, None);
    let mut again = Client::connect(&master, 1).await;
    assert!(again.resumed);
    again.send(2, create("b")).await;
    drop(hold);
    let Some(Answer::Created(created)) = again.answer(2).await else {
        panic!()
    };
    assert!(!created.existed);
    // the other has no call under way, and so no reason to ask again
    let found = idle.lookup("b").await.unwrap();
    assert_eq!(found.inode, created.attr.unwrap().inode);
    master.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_silent_session_ends_and_its_open_unlinked_files_go() {
    let disk = disk();
    let master = start(config(), &disk).await;
    let mut other = Client::connect(&master, 2).await;
    // past the first session timeout: until then orphans are kept for those who may come back
    let mut client = Client::connect(&master, 1).await;
    let created = client.create("a").await;
    let inode = created.attr.unwrap().inode;
    let name = bytes::Bytes::from_static(b"a");
    let unlinked = client.call(Request::Unlink(ss::Unlink { parent: 1, name })).await;
    assert!(matches!(unlinked, Answer::Done(_)), "{unlinked:?}");
    let get = || Request::GetAttr(ss::GetAttr { inode });
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(
            matches!(client.call(get()).await, Answer::Attr(_)),
            "open, and so still there"
        );
        assert!(other.lookup("a").await.is_none());
    }
    drop(client);
    until("the orphan to go", async || match other.call(get()).await {
        Answer::Error(e) => (e.errno == 116).then_some(()),
        _ => None,
    })
    .await;
    let again = Client::connect(&master, 1).await;
    assert!(!again.resumed, "the session had ended");
    master.shutdown().await.unwrap();
}

#[tokio::test]
async fn others_forget_what_changed_before_the_change_is_answered() {
    let disk = disk();
    let master = start(config(), &disk).await;
    let mut writer = Client::connect(&master, 1).await;
    let mut reader = Client::connect(&master, 2).await;
    reader.confirms = false;
    let inode = writer.create("a").await.attr.unwrap().inode;
    assert!(reader.lookup("a").await.is_some());
    let set = ss::SetAttr {
        inode,
        mode: Some(0o600),
        ..Default::default()
    };
    writer.send(2, Request::SetAttr(set)).await;
    let early = tokio::time::timeout(Duration::from_millis(300), writer.answer(2)).await;
    assert!(early.is_err(), "answered though another client has the old mode");
    reader.confirms = true;
    while reader.pushes.is_empty() {
        reader.receive().await.unwrap();
    }
    assert_eq!(reader.pushes[0].invalidations[0].inode, inode);
    assert!(matches!(writer.answer(2).await, Some(Answer::Attr(_))));
    master.shutdown().await.unwrap();
}

#[tokio::test]
async fn another_clusters_client_and_an_old_protocol_are_refused_by_name() {
    let disk = disk();
    let master = start(config(), &disk).await;
    let session = bytes::Bytes::from(SessionId::from_bits(9).to_vec());
    let foreign = cairn_types::ClusterId::from_bits(5);
    let hello = ss::Hello {
        session: session.clone(),
        cluster: foreign.to_vec().into(),
        ..Client::plain()
    };
    let refused = Client::hello(&master, hello).await.err().unwrap();
    assert!(
        refused.message().contains(&foreign.to_string()) && refused.message().contains(&master.cluster().to_string())
    );
    let old = Client::hello(
        &master,
        ss::Hello {
            session,
            protocol: 9,
            ..Client::plain()
        },
    )
    .await
    .err()
    .unwrap();
    assert!(
        old.message().contains("protocol 1") && old.message().contains('9'),
        "{}",
        old.message()
    );
    master.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_directory_is_refused_when_it_is_in_use_or_has_lost_its_log() {
    let disk = disk();
    let master = start(config(), &disk).await;
    let second = try_start(config(), &disk).await;
    assert!(matches!(second.err(), Some(cairn_master::StartError::InUse { .. })));
    let cluster = master.cluster();
    master.shutdown().await.unwrap();
    let again = start(config(), &disk).await;
    assert_eq!(again.cluster(), cluster);
    again.shutdown().await.unwrap();
    for file in disk.files() {
        if file.starts_with("log") {
            cairn_io::Disk::remove(&disk.mount(), &file).unwrap();
        }
    }
    let lost = try_start(config(), &disk).await.err().unwrap().to_string();
    assert!(
        lost.contains("no operation log") && lost.contains(&cluster.to_string()),
        "{lost}"
    );
}

#[tokio::test]
async fn a_full_or_failing_disk_stops_the_master_without_a_false_answer() {
    for effect in [cairn_io::sim::Effect::Eio, cairn_io::sim::Effect::Enospc] {
        let disk = disk();
        let master = start(config(), &disk).await;
        let mut client = Client::connect(&master, 1).await;
        client.create("before").await;
        let op = match effect {
            cairn_io::sim::Effect::Eio => cairn_io::sim::Op::Sync,
            _ => cairn_io::sim::Op::Write,
        };
        disk.inject(cairn_io::sim::Fault::new(op, effect).on("log/").always());
        match client.try_call(create("after")).await {
            None | Some(Answer::Error(_)) => {}
            other => panic!("{other:?}"),
        }
        let halt = tokio::time::timeout(WAIT, master.halted()).await.unwrap();
        assert!(halt.to_string().contains("log"), "{halt}");
        assert!(master.shutdown().await.is_err());
        disk.clear_faults();
        disk.drop_unsynced();
        let master = start(config(), &disk).await;
        let mut client = Client::connect(&master, 1).await;
        client.sequence = 50;
        assert!(client.lookup("before").await.is_some());
        master.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn what_a_session_declares_to_have_open_may_come_in_pieces_up_to_a_bound() {
    let disk = disk();
    let master = start(config(), &disk).await;
    let mut client = Client::connect(&master, 1).await;
    let created = client.create("a").await;
    let inode = created.attr.unwrap().inode;
    let hello = |more| ss::Hello {
        session: SessionId::from_bits(2).to_vec().into(),
        open_inodes: vec![1],
        more,
        ..Client::plain()
    };
    let declare = |open_inodes: Vec<u64>, more| from_client::Body::Declare(ss::Declare { open_inodes, more });
    let pieces = vec![declare(vec![2; 100], true), declare(vec![inode], false)];
    let other = Client::hello_with(&master, hello(true), pieces).await.unwrap();
    // it has it open: its last name goes, it stays
    client.closed(vec![inode], vec![]).await;
    let name = "a".into();
    client.call(Request::Unlink(ss::Unlink { parent: 1, name })).await;
    let get = || Request::GetAttr(ss::GetAttr { inode });
    assert!(matches!(client.call(get()).await, Answer::Attr(a) if a.nlink == 0));
    drop(other);
    until("released with its session", async || {
        matches!(client.call(get()).await, Answer::Error(_)).then_some(())
    })
    .await;
    // not all of it, or too much
    let refused = Client::hello_with(&master, hello(true), vec![from_client::Body::Ping(ss::Ping {})]).await;
    assert_eq!(refused.err().unwrap().code(), tonic::Code::InvalidArgument);
    let too_many = vec![7; cairn_types::limits::DECLARED_AT_ONCE_MAX];
    let pieces = (0..16).map(|_| declare(too_many.clone(), true)).collect();
    let refused = Client::hello_with(&master, hello(true), pieces).await;
    assert_eq!(refused.err().unwrap().code(), tonic::Code::ResourceExhausted);
    master.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_closed_and_kept_stays_when_its_last_name_goes() {
    let disk = disk();
    let master = start(config(), &disk).await;
    let mut client = Client::connect(&master, 1).await;
    let (kept, closed) = (client.create("kept").await, client.create("closed").await);
    let [kept, closed] = [kept, closed].map(|created| created.attr.unwrap().inode);
    client.closed(vec![closed], vec![kept]).await;
    for name in ["kept", "closed"] {
        let name = name.into();
        client.call(Request::Unlink(ss::Unlink { parent: 1, name })).await;
    }
    let get = |inode| Request::GetAttr(ss::GetAttr { inode });
    until("the closed one is released", async || {
        matches!(client.call(get(closed)).await, Answer::Error(_)).then_some(())
    })
    .await;
    assert!(matches!(client.call(get(kept)).await, Answer::Attr(a) if a.nlink == 0));
    client.closed(vec![kept], vec![]).await;
    until("the kept one too", async || {
        matches!(client.call(get(kept)).await, Answer::Error(_)).then_some(())
    })
    .await;
    master.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_answer_brings_the_attributes_of_all_that_the_call_changed() {
    let disk = disk();
    let master = start(config(), &disk).await;
    let mut client = Client::connect(&master, 1).await;
    let changed = |client: &Client| client.last.changed.iter().map(|a| a.inode).collect::<BTreeSet<u64>>();
    let directory = Request::Create(ss::Create {
        parent: 1,
        name: "d".into(),
        kind: ss::FileKind::KindDirectory.into(),
        ..Default::default()
    });
    let Answer::Created(made) = client.call(directory).await else {
        panic!()
    };
    let directory = made.attr.unwrap().inode;
    assert_eq!(changed(&client), [1].into());
    assert_eq!(client.last.changed[0].nlink, 3, "as it is now");
    let file = client.create("a").await.attr.unwrap().inode;
    let rename = Request::Rename(ss::Rename {
        parent: 1,
        name: "a".into(),
        new_parent: directory,
        new_name: "b".into(),
        ..Default::default()
    });
    client.call(rename).await;
    assert_eq!(changed(&client), [1, directory, file].into());
    let link = Request::Link(ss::Link {
        inode: file,
        parent: 1,
        name: "a".into(),
    });
    client.call(link).await;
    assert_eq!(changed(&client), [1].into(), "the file's are the answer itself");
    let unlink = Request::Unlink(ss::Unlink {
        parent: 1,
        name: "a".into(),
    });
    client.call(unlink).await;
    assert_eq!(changed(&client), [1, file].into());
    assert!(client.last.changed.iter().any(|a| a.inode == file && a.nlink == 1));
    let xattr = Request::SetXattr(ss::SetXattr {
        inode: file,
        name: "user.k".into(),
        value: "v".into(),
        ..Default::default()
    });
    client.call(xattr).await;
    assert!(!client.last.changed[0].no_xattrs && !client.last.behind);
    client
        .call(Request::Lookup(ss::Lookup {
            parent: 1,
            name: "x".into(),
        }))
        .await;
    assert!(client.last.changed.is_empty());
    master.shutdown().await.unwrap();
}

/// The answer to a change may have to wait for other clients; what others do to the new file meanwhile comes before it.
#[tokio::test]
async fn a_session_is_told_of_what_others_change_between_the_applying_of_its_call_and_the_answer() {
    let disk = disk();
    let master = start(config(), &disk).await;
    let (mut maker, mut other) = (Client::connect(&master, 1).await, Client::connect(&master, 2).await);
    other.confirms = false;
    assert!(other.lookup("a").await.is_none());
    maker.send(1, create("a")).await;
    while other.pushes.is_empty() {
        other.receive().await.unwrap();
    }
    let found = other.lookup("a").await.expect("it is made");
    let mode = Request::SetAttr(ss::SetAttr {
        inode: found.inode,
        mode: Some(0o600),
        ..Default::default()
    });
    other.send(other.sequence + 1, mode).await;
    // the maker hears of it though it has no answer yet
    while maker.pushes.is_empty() {
        maker.receive().await.unwrap();
    }
    assert!(maker.answers.is_empty());
    assert_eq!(maker.pushes[0].invalidations[0].inode, found.inode);
    other.confirm().await;
    assert!(matches!(maker.answer(1).await, Some(Answer::Created(_))));
    master.shutdown().await.unwrap();
}

/// Who has pushes waiting for room is told so with each answer, since it cannot know what it has not been sent.
#[tokio::test]
async fn an_answer_says_when_there_is_more_to_tell_than_was_sent() {
    let disk = disk();
    let master = start(config(), &disk).await;
    let (mut reader, mut writer) = (Client::connect(&master, 1).await, Client::connect(&master, 2).await);
    reader.confirms = false;
    reader.lookup("x").await;
    assert!(!reader.last.behind);
    for n in 1..200 {
        writer.send(n, create(&n.to_string())).await;
        reader.lookup("x").await;
    }
    until("as many pushes as may be unconfirmed", async || {
        reader.lookup("x").await;
        reader.last.behind.then_some(())
    })
    .await;
    reader.confirms = true;
    reader.confirm().await;
    until("all has been told", async || {
        reader.lookup("x").await;
        (!reader.last.behind).then_some(())
    })
    .await;
    master.shutdown().await.unwrap();
}
