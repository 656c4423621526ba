//! Writes reach every replica in order, across any one failure, or their file says so for ever after.
// helpers of tests are tests too: they panic, and touch the real world
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]
mod fake;

use bytes::Bytes;
use cairn_client::{Error, File, OpenMode, SetAttr, SetTime, errno};
use cairn_proto::common::ErrorCode;
use cairn_types::Inode;
use cairn_types::layout::CHUNK_SIZE_BYTES;
use fake::{Cluster, create, eventually, pattern};
use std::time::Duration;

const MIB: usize = 1 << 20;

fn all_are(cluster: &Cluster, ino: Inode, index: u32, want: &[u8]) -> bool {
    let contents = cluster.contents(ino, index);
    contents.len() == 3 && contents.iter().all(|data| data[..] == *want)
}

async fn write_in_pieces(file: &File, data: &Bytes, piece: usize) {
    for at in (0..data.len()).step_by(piece) {
        let end = data.len().min(at + piece);
        file.write_at(at as u64, data.slice(at..end)).await.unwrap();
    }
}

#[tokio::test]
async fn small_sequential_writes_become_large_frames_and_the_grant_goes_until_the_first_acknowledgement() {
    let cluster = Cluster::start(3).await;
    let client = cluster
        .client_with(|c| c.commit_interval = Duration::from_secs(60))
        .await;
    let file = create(&client, "a").await;
    let data = pattern(1, 5 * MIB + 77);
    write_in_pieces(&file, &data, 4096).await;
    file.fsync().await.unwrap();
    assert!(all_are(&cluster, file.inode(), 0, &data));
    assert_eq!(cluster.size(file.inode()), data.len() as u64);
    let head = &cluster.members(file.inode(), 0)[0];
    let writes = head.state().writes.clone();
    assert_eq!(writes.len(), 6, "{writes:?}");
    assert!(writes[0].4 && !writes[5].4);
    assert_eq!(writes.iter().map(|w| w.1).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    assert_eq!(head.state().syncs, 1);
    // the grant of Create was used: nothing was allocated, and one commit told the length
    assert_eq!(
        (cluster.master.count("allocate"), cluster.master.count("commit")),
        (0, 1)
    );
}

#[tokio::test]
async fn a_write_across_chunks_allocates_them_and_stays_a_file() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let file = create(&client, "a").await;
    let data = pattern(2, 2 * MIB);
    let offset = CHUNK_SIZE_BYTES - MIB as u64;
    file.write_at(offset, data.clone()).await.unwrap();
    assert_eq!(file.read_at(offset, 3 * MIB).await.unwrap(), data);
    file.close().await.unwrap();
    assert_eq!(
        cluster.size(client.lookup(Inode::ROOT, b"a").await.unwrap().ino),
        CHUNK_SIZE_BYTES + MIB as u64
    );
    let file = client
        .open(client.lookup(Inode::ROOT, b"a").await.unwrap().ino, OpenMode::READ)
        .await
        .unwrap();
    // the hole in front is zeros
    let front = file.read_at(offset - 10, 20).await.unwrap();
    assert_eq!(front[..10], [0; 10]);
    assert_eq!(front[10..], data[..10]);
    assert_eq!(cluster.contents(file.inode(), 1)[0], data[MIB..]);
}

#[tokio::test]
async fn the_length_is_committed_within_a_second_without_being_asked() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let file = create(&client, "a").await;
    file.write_at(0, pattern(1, 1000)).await.unwrap();
    let start = std::time::Instant::now();
    eventually("the length is committed", || cluster.size(file.inode()) == 1000).await;
    assert!(start.elapsed() < Duration::from_millis(1200), "{:?}", start.elapsed());
}

#[tokio::test]
async fn acknowledged_writes_survive_the_heads_death_and_the_rest_is_sent_again_in_order() {
    for kill_head in [true, false] {
        let cluster = Cluster::start(4).await;
        let client = cluster.client().await;
        let file = create(&client, "a").await;
        let data = pattern(3, 24 * MIB);
        write_in_pieces(&file, &data.slice(..8 * MIB), MIB).await;
        let victim = cluster.members(file.inode(), 0)[if kill_head { 0 } else { 1 }].clone();
        victim.kill();
        for at in 8..24 {
            file.write_at((at * MIB) as u64, data.slice(at * MIB..(at + 1) * MIB))
                .await
                .unwrap();
        }
        file.fsync().await.unwrap();
        let members = cluster.members(file.inode(), 0);
        assert!(!members.iter().any(|s| s.id == victim.id));
        assert!(all_are(&cluster, file.inode(), 0, &data));
        for server in &cluster.servers {
            let sequences: Vec<u64> = server.state().writes.iter().map(|w| w.1).collect();
            // on each connection in order, whatever was sent before
            let restarts = sequences.windows(2).filter(|w| w[1] != w[0] + 1).count();
            assert!(restarts <= 2, "{sequences:?}");
        }
    }
}

#[tokio::test]
async fn a_stopped_head_is_given_up_after_its_time() {
    let cluster = Cluster::start(4).await;
    let client = cluster.client().await;
    let file = create(&client, "a").await;
    file.write_at(0, pattern(1, 100)).await.unwrap();
    file.flush().await.unwrap();
    cluster.members(file.inode(), 0)[0].state().stopped = true;
    let data = pattern(2, 3 * MIB);
    file.write_at(0, data.clone()).await.unwrap();
    file.fsync().await.unwrap();
    assert!(all_are(&cluster, file.inode(), 0, &data));
}

#[tokio::test]
async fn a_lost_connection_is_made_again_and_nothing_is_applied_twice() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let file = create(&client, "a").await;
    let head = cluster.members(file.inode(), 0)[0].clone();
    file.write_at(0, pattern(1, MIB)).await.unwrap();
    file.flush().await.unwrap();
    head.state().swallow = 1;
    let data = pattern(2, 4 * MIB);
    write_in_pieces(&file, &data, MIB).await;
    file.fsync().await.unwrap();
    assert!(all_are(&cluster, file.inode(), 0, &data));
}

#[tokio::test]
async fn what_the_head_refuses_is_mended_by_the_master_and_sent_again() {
    for code in [
        ErrorCode::ErrorNotWritable,
        ErrorCode::ErrorNoReplica,
        ErrorCode::ErrorNoSpace,
        ErrorCode::ErrorDiskFailed,
        ErrorCode::ErrorChainBroken,
        ErrorCode::ErrorGrantRefused,
        ErrorCode::ErrorNoLease,
        ErrorCode::ErrorCorrupt,
    ] {
        let cluster = Cluster::start(3).await;
        let client = cluster.client().await;
        let file = create(&client, "a").await;
        cluster.members(file.inode(), 0)[0].state().refuse.push_back(code);
        let data = pattern(4, 3 * MIB);
        write_in_pieces(&file, &data, 100_000).await;
        file.fsync().await.unwrap();
        assert!(all_are(&cluster, file.inode(), 0, &data), "{code:?}");
        let complaints = cluster.master.state().complaints.clone();
        assert_eq!(complaints.len(), 1, "{code:?}");
        assert!(complaints[0].for_write && complaints[0].reason() == code);
    }
}

#[tokio::test]
async fn what_may_pass_is_tried_again_before_the_master_is_bothered() {
    for code in [
        ErrorCode::ErrorFenced,
        ErrorCode::ErrorBadChecksum,
        ErrorCode::ErrorUnavailable,
    ] {
        let cluster = Cluster::start(3).await;
        let client = cluster.client().await;
        let file = create(&client, "a").await;
        cluster.members(file.inode(), 0)[0].state().refuse.extend([code, code]);
        let data = pattern(5, 100);
        file.write_at(0, data.clone()).await.unwrap();
        file.fsync().await.unwrap();
        assert!(all_are(&cluster, file.inode(), 0, &data));
        assert!(cluster.master.state().complaints.is_empty());
    }
}

#[tokio::test]
async fn a_reconfigured_chunk_is_found_by_its_writer() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let file = create(&client, "a").await;
    file.write_at(0, pattern(1, 100)).await.unwrap();
    file.flush().await.unwrap();
    {
        let mut state = cluster.master.state();
        let handle = state.files[&file.inode().0].chunks[&0].handle;
        cluster.master.reconfigure(&mut state, handle);
    }
    let data = pattern(2, 100);
    file.write_at(0, data.clone()).await.unwrap();
    file.fsync().await.unwrap();
    assert!(all_are(&cluster, file.inode(), 0, &data));
    assert!(cluster.master.state().complaints.is_empty());
}

/// Sequences go on from open to open; where every member has forgotten them, behind what the head remembers.
#[tokio::test]
async fn sequences_go_on_across_opens_and_after_all_memories_are_lost() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let file = create(&client, "a").await;
    let ino = file.inode();
    file.write_at(0, pattern(1, 100)).await.unwrap();
    file.close().await.unwrap();
    let file = client.open(ino, OpenMode::WRITE).await.unwrap();
    file.write_at(0, pattern(2, 100)).await.unwrap();
    file.flush().await.unwrap();
    let head = cluster.members(ino, 0)[0].clone();
    assert_eq!(head.state().writes.iter().map(|w| w.1).collect::<Vec<_>>(), [1, 2]);
    for server in cluster.members(ino, 0) {
        server.state().replicas.values_mut().for_each(|r| r.remembered.clear());
    }
    let data = pattern(3, 200);
    file.write_at(0, data.clone()).await.unwrap();
    file.fsync().await.unwrap();
    assert!(all_are(&cluster, ino, 0, &data));
    assert_eq!(head.state().writes.last().unwrap().1, 1);
}

#[tokio::test]
async fn writing_waits_for_the_buffer_and_goes_on() {
    let cluster = Cluster::start(3).await;
    let client = cluster
        .client_with(|c| {
            c.write_buffer_bytes = 4 * MIB;
            c.server_timeout = Duration::from_secs(8);
        })
        .await;
    let file = create(&client, "a").await;
    let ino = file.inode();
    for server in &cluster.servers {
        server.state().stopped = true;
    }
    let data = pattern(1, 12 * MIB);
    let (writer, copy) = (file.clone(), data.clone());
    let write = tokio::spawn(async move { write_in_pieces(&writer, &copy, MIB).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!write.is_finished(), "more was taken than the buffer holds");
    for server in &cluster.servers {
        server.state().stopped = false;
        server.kicked.notify_waiters();
    }
    write.await.unwrap();
    file.fsync().await.unwrap();
    assert!(all_are(&cluster, ino, 0, &data));
}

#[tokio::test]
async fn no_more_than_the_window_is_in_flight_to_one_chunk() {
    let cluster = Cluster::start(3).await;
    let client = cluster
        .client_with(|c| {
            c.write_window_bytes = 3 * MIB;
            c.server_timeout = Duration::from_secs(8);
        })
        .await;
    let file = create(&client, "a").await;
    let head = cluster.members(file.inode(), 0)[0].clone();
    head.state().silent = true;
    let data = pattern(1, 16 * MIB);
    write_in_pieces(&file, &data, MIB).await;
    let taken = || head.state().writes.iter().map(|w| w.3).sum::<usize>();
    eventually("the window is full", || taken() >= 3 * MIB).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(taken(), 3 * MIB);
    head.state().silent = false;
    head.kicked.notify_waiters();
    file.fsync().await.unwrap();
    assert!(all_are(&cluster, file.inode(), 0, &data));
}

/// Many files with a little in each hold the whole buffer: they give way.
#[tokio::test]
async fn unsealed_frames_of_other_files_do_not_block_a_writer() {
    let cluster = Cluster::start(3).await;
    let client = cluster
        .client_with(|c| {
            c.write_buffer_bytes = 4 * MIB;
            c.commit_interval = Duration::from_secs(600);
        })
        .await;
    let mut files = Vec::new();
    for n in 0..12 {
        let file = create(&client, &format!("f{n}")).await;
        tokio::time::timeout(Duration::from_secs(5), file.write_at(0, pattern(n, MIB / 2)))
            .await
            .unwrap()
            .unwrap();
        files.push(file);
    }
    for (n, file) in files.into_iter().enumerate() {
        assert_eq!(file.read_at(0, MIB).await.unwrap(), pattern(n as u64, MIB / 2));
    }
}

/// Promise 6: a later failure reaches every following write, fsync and close of that file.
#[tokio::test]
async fn a_lost_write_reaches_every_following_write_fsync_and_close_of_its_file() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client_with(|c| c.timeout = Duration::from_secs(1)).await;
    let (file, other) = (create(&client, "a").await, create(&client, "b").await);
    let ino = file.inode();
    file.write_at(0, pattern(1, 100)).await.unwrap();
    cluster.master.state().refuse = vec![("complain", ErrorCode::ErrorUnavailable); 1000];
    let head = cluster.members(ino, 0)[0].clone();
    head.state().refuse.extend([ErrorCode::ErrorNotWritable; 100]);
    let error = file.flush().await.unwrap_err();
    assert!(
        matches!(error, Error::WriteFailed { .. } | Error::Refused { .. }),
        "{error:?}"
    );
    assert_eq!(error.errno(), errno::EIO);
    head.state().refuse.clear();
    cluster.master.state().refuse.clear();
    for _ in 0..2 {
        assert_eq!(file.write_at(0, pattern(1, 1)).await.unwrap_err(), error);
        assert_eq!(file.fsync().await.unwrap_err(), error);
    }
    assert_eq!(file.close().await.unwrap_err(), error);
    other.write_at(0, pattern(1, 1)).await.unwrap();
    other.close().await.unwrap();
    // a new open starts anew
    let file = client.open(ino, OpenMode::WRITE).await.unwrap();
    file.write_at(0, pattern(1, 1)).await.unwrap();
    file.close().await.unwrap();
}

#[tokio::test]
async fn full_disks_are_enospc_at_once() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let file = create(&client, "a").await;
    cluster.master.state().refuse = vec![("allocate", ErrorCode::ErrorNoSpace)];
    file.write_at(CHUNK_SIZE_BYTES, pattern(1, 100)).await.unwrap();
    let start = std::time::Instant::now();
    let error = file.fsync().await.unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }), "{error:?}");
    assert_eq!(error.errno(), errno::ENOSPC);
    assert!(start.elapsed() < Duration::from_secs(3));
}

/// Protocol R12: what was acknowledged and not synced when all its machines lost power is not claimed by fsync.
#[tokio::test]
async fn r12_fsync_fails_when_unsynced_bytes_were_lost_with_their_servers() {
    for synced_before in [false, true] {
        let cluster = Cluster::start(3).await;
        let client = cluster.client().await;
        let file = create(&client, "a").await;
        file.write_at(0, pattern(1, 100)).await.unwrap();
        file.flush().await.unwrap();
        if synced_before {
            file.fsync().await.unwrap();
        }
        {
            let mut state = cluster.master.state();
            state.suspect = true;
            let handle = state.files[&file.inode().0].chunks[&0].handle;
            cluster.master.reconfigure(&mut state, handle);
        }
        file.write_at(0, pattern(2, 100)).await.unwrap();
        let result = file.fsync().await;
        match synced_before {
            true => result.unwrap(),
            false => assert!(matches!(result, Err(Error::LostUnsynced { .. })), "{result:?}"),
        }
    }
}

/// As POSIX has it: fsync is for the file's bytes, whichever descriptor wrote them.
#[tokio::test]
async fn fsync_covers_what_earlier_opens_wrote_and_closed() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let file = create(&client, "a").await;
    let ino = file.inode();
    file.write_at(0, pattern(1, 100)).await.unwrap();
    file.write_at(CHUNK_SIZE_BYTES, pattern(2, 100)).await.unwrap();
    file.close().await.unwrap();
    let syncs = || {
        let head = |index| cluster.members(ino, index)[0].state().syncs;
        vec![head(0), head(1)]
    };
    assert_eq!(syncs(), [0, 0], "close does not wait for disks");
    // an open in between that changes nothing, and one that writes to another chunk
    client.open(ino, OpenMode::READ).await.unwrap().close().await.unwrap();
    let file = client.open(ino, OpenMode::READ_WRITE).await.unwrap();
    file.write_at(CHUNK_SIZE_BYTES, pattern(3, 50)).await.unwrap();
    file.close().await.unwrap();
    let file = client.open(ino, OpenMode::READ).await.unwrap();
    file.fsync().await.unwrap();
    let both = syncs();
    assert!(both.iter().all(|count| *count > 0), "{both:?}");
    file.fsync().await.unwrap();
    file.close().await.unwrap();
    client.open(ino, OpenMode::READ).await.unwrap().fsync().await.unwrap();
    assert_eq!(syncs(), both, "what is synced is not synced again");
}

/// Protocol R12, across opens.
#[tokio::test]
async fn fsync_fails_when_what_an_earlier_open_wrote_was_lost_with_its_servers() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let file = create(&client, "a").await;
    let ino = file.inode();
    file.write_at(0, pattern(1, 100)).await.unwrap();
    file.close().await.unwrap();
    {
        let mut state = cluster.master.state();
        state.suspect = true;
        let handle = state.files[&ino.0].chunks[&0].handle;
        cluster.master.reconfigure(&mut state, handle);
    }
    let result = client.open(ino, OpenMode::READ).await.unwrap().fsync().await;
    assert!(matches!(result, Err(Error::LostUnsynced { .. })), "{result:?}");
}

/// The memory of them is bounded: what may have been forgotten is synced too.
#[tokio::test]
async fn fsync_covers_what_was_closed_before_so_many_others_that_it_was_forgotten() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client_with(|c| c.unsynced_chunks_max = 2).await;
    let mut files = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let file = create(&client, name).await;
        files.push(file.inode());
        file.write_at(0, pattern(1, 100)).await.unwrap();
        file.close().await.unwrap();
    }
    let syncs = |ino| cluster.members(ino, 0)[0].state().syncs;
    for ino in files {
        let (before, file) = (syncs(ino), client.open(ino, OpenMode::READ_WRITE).await.unwrap());
        for _ in 0..2 {
            file.fsync().await.unwrap();
            assert_eq!(syncs(ino), before + 1, "inode {ino}: once");
        }
        // sequences go on where the earlier open ended
        file.write_at(0, pattern(2, 100)).await.unwrap();
        file.close().await.unwrap();
        assert!(all_are(&cluster, ino, 0, &pattern(2, 100)));
    }
}

#[tokio::test]
async fn fsync_lets_go_of_what_another_client_cut_off() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let file = create(&client, "a").await;
    let ino = file.inode();
    file.write_at(CHUNK_SIZE_BYTES, pattern(1, 100)).await.unwrap();
    file.close().await.unwrap();
    let cut = SetAttr {
        size: Some(10),
        ..SetAttr::default()
    };
    cluster.client().await.setattr(ino, cut).await.unwrap();
    let file = client.open(ino, OpenMode::READ_WRITE).await.unwrap();
    file.fsync().await.unwrap();
    assert_eq!(file.attr().size, 10);
    assert_eq!(cluster.master.count("allocate"), 1, "nothing comes back");
}

#[tokio::test]
async fn a_commit_under_an_older_version_is_made_again_under_the_new_one() {
    let cluster = Cluster::start(3).await;
    let client = cluster
        .client_with(|c| c.commit_interval = Duration::from_secs(60))
        .await;
    let file = create(&client, "a").await;
    file.write_at(0, pattern(1, 100)).await.unwrap();
    file.read_at(0, 1).await.unwrap();
    {
        let mut state = cluster.master.state();
        let handle = state.files[&file.inode().0].chunks[&0].handle;
        cluster.master.reconfigure(&mut state, handle);
    }
    file.flush().await.unwrap();
    assert_eq!(cluster.size(file.inode()), 100);
    assert_eq!(cluster.master.count("commit"), 2);
}

#[tokio::test]
async fn truncation_comes_after_what_was_written_before_it() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let file = create(&client, "a").await;
    let data = pattern(1, 3 * MIB);
    file.write_at(0, data.clone()).await.unwrap();
    file.truncate(MIB as u64 + 5).await.unwrap();
    assert_eq!(file.attr().size, MIB as u64 + 5);
    file.truncate(2 * MIB as u64).await.unwrap();
    let read = file.read_at(0, 4 * MIB).await.unwrap();
    assert_eq!(read.len(), 2 * MIB);
    assert_eq!(read[..MIB + 5], data[..MIB + 5]);
    assert!(read[MIB + 5..].iter().all(|b| *b == 0));
    file.truncate(0).await.unwrap();
    assert!(file.read_at(0, 10).await.unwrap().is_empty());
    file.write_at(10, pattern(2, 10)).await.unwrap();
    file.fsync().await.unwrap();
    assert_eq!(cluster.size(file.inode()), 20);
}

#[tokio::test]
async fn explicit_times_outlive_queued_writes() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let file = create(&client, "a").await;
    file.write_at(0, pattern(1, 100)).await.unwrap();
    let change = SetAttr {
        mtime: Some(SetTime::At(42)),
        ..SetAttr::default()
    };
    client.setattr(file.inode(), change.clone()).await.unwrap();
    file.fsync().await.unwrap();
    let calls: Vec<_> = cluster.master.state().calls.iter().map(|c| c.1).collect();
    let (commit, set) = (
        calls.iter().rposition(|c| *c == "commit"),
        calls.iter().position(|c| *c == "setattr"),
    );
    assert!(commit < set, "{calls:?}");
    assert_eq!(client.getattr(file.inode()).await.unwrap().mtime_ns, 42);
    // a commit that has to be made again may have seen the time: it is set behind that
    cluster.master.state().refuse = vec![("commit", ErrorCode::ErrorStaleVersion)];
    file.write_at(0, pattern(2, 100)).await.unwrap();
    client.setattr(file.inode(), change).await.unwrap();
    let calls: Vec<_> = cluster.master.state().calls.iter().map(|c| c.1).collect();
    let last = |name: &str| calls.iter().rposition(|c| *c == name);
    assert!(last("commit") < last("setattr"), "{calls:?}");
    assert_eq!(calls.iter().filter(|c| **c == "commit").count(), 3, "{calls:?}");
}

#[tokio::test]
async fn appends_of_one_client_do_not_overlap() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let file = create(&client, "a").await;
    let appends = (0..50).map(|n| {
        let file = file.clone();
        async move { (n, file.append(Bytes::from(vec![n as u8; 100 + n])).await.unwrap()) }
    });
    let done = futures::future::join_all(appends).await;
    let all = file.read_at(0, MIB).await.unwrap();
    assert_eq!(all.len(), (0..50).map(|n| 100 + n).sum::<usize>());
    for (n, offset) in done {
        assert!(all[offset as usize..][..100 + n].iter().all(|b| *b == n as u8));
    }
}

#[tokio::test]
async fn zeroing_and_allocating_keep_or_extend_the_size() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let file = create(&client, "a").await;
    file.write_at(0, pattern(1, 1000)).await.unwrap();
    file.zero(900, 500, true).await.unwrap();
    assert_eq!(file.attr().size, 1000);
    file.zero(100, 1900, false).await.unwrap();
    assert_eq!(file.attr().size, 2000);
    file.allocate(0, 3000, true).await.unwrap();
    assert_eq!(file.attr().size, 2000);
    file.allocate(0, CHUNK_SIZE_BYTES * 3, false).await.unwrap();
    let all = file.read_at(0, 3000).await.unwrap();
    assert_eq!(all[..100], pattern(1, 1000)[..100]);
    assert!(all[100..].iter().all(|b| *b == 0) && all.len() == 3000);
    file.write_at(2 * CHUNK_SIZE_BYTES, pattern(1, 10)).await.unwrap();
    assert_eq!(file.seek_hole(5).await.unwrap(), CHUNK_SIZE_BYTES);
    assert_eq!(
        file.seek_data(CHUNK_SIZE_BYTES).await.unwrap(),
        Some(2 * CHUNK_SIZE_BYTES)
    );
    assert_eq!(
        file.seek_hole(2 * CHUNK_SIZE_BYTES).await.unwrap(),
        3 * CHUNK_SIZE_BYTES
    );
    assert_eq!(file.seek_data(3 * CHUNK_SIZE_BYTES).await.unwrap(), None);
}

#[tokio::test]
async fn the_modes_of_an_open_hold() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let ino = create(&client, "a").await.inode();
    let reader = client.open(ino, OpenMode::READ).await.unwrap();
    assert_eq!(
        reader.write_at(0, pattern(1, 1)).await.unwrap_err().errno(),
        errno::EBADF
    );
    let writer = client.open(ino, OpenMode::WRITE).await.unwrap();
    assert_eq!(writer.read_at(0, 1).await.unwrap_err().errno(), errno::EBADF);
    let error = writer.write_at(u64::MAX - 5, pattern(1, 10)).await.unwrap_err();
    assert_eq!(error.errno(), errno::EFBIG);
}
