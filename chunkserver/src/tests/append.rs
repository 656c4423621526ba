//! Record append (promise 5, protocol R9): one place a record, whoever dies and however often it is sent.
use super::harness::*;
use bytes::Bytes;
use cairn_proto::common::{ErrorCode, Member};
use cairn_proto::record::{HEADER_BYTES, Scanner};
use cairn_types::Version;
use cairn_types::layout::CHUNK_SIZE_BYTES;
use cairn_types::limits::RECORD_BYTES_MAX;

/// (session, number, data) of every record of a chunk.
fn records(chunk: &[u8]) -> Vec<(u64, u64, Bytes)> {
    let mut scanner = Scanner::new(0);
    scanner.push(chunk);
    let found = std::iter::from_fn(|| scanner.next(true));
    found
        .map(|(header, data)| (u64::from(header.offset), header.number, data))
        .collect()
}

/// Every member has these records, in this order, and no other.
async fn assert_records(cluster: &Cluster, version: Version, expected: &[(u64, u64, &[u8])]) {
    let found = records(&cluster.assert_identical(version).await);
    let short = |all: &[(u64, u64, &[u8])]| all.iter().map(|(at, n, d)| (*at, *n, d.len())).collect::<Vec<_>>();
    let found: Vec<_> = found.iter().map(|(at, n, d)| (*at, *n, &d[..])).collect();
    assert!(found == expected, "{:?}, not {:?}", short(&found), short(expected));
}

fn out_of_order(answer: Result<u64, cairn_proto::data::Failed>) -> u64 {
    let failed = answer.unwrap_err();
    assert_eq!(code(&failed), ErrorCode::ErrorOutOfOrder);
    failed.last_sequence
}

#[tokio::test]
async fn r9_records_lie_behind_each_other_on_every_member() {
    let cluster = Cluster::start(3).await;
    let members = cluster.members();
    let mut one = cluster.connect(0, session(1)).await.with_grant(&members);
    let mut two = cluster.connect(0, session(2)).await.with_grant(&members);
    assert_eq!(one.append(&members[0], v(10), 1, b"first").await, Ok(0));
    assert_eq!(two.append(&members[0], v(10), 1, b"").await, Ok(56));
    // behind what was written otherwise, and behind where the file is known to end
    one.write(&members[0], v(10), 104, b"bytes").await.unwrap();
    assert_eq!(one.append(&members[0], v(10), 7, b"third").await, Ok(112));
    let mut append = two.append_body(&members[0], v(10), 2, b"fourth");
    append.from = 1001;
    two.start_append(append, b"fourth").await;
    assert_eq!(two.appended().await, Ok(1008));
    let expected: [(u64, u64, &[u8]); 4] = [(0, 1, b"first"), (56, 1, b""), (112, 7, b"third"), (1008, 2, b"fourth")];
    assert_records(&cluster, v(10), &expected).await;
    // sequences of writes are not disturbed by records, nor those by them
    one.write(&members[0], v(10), 5000, b"bytes").await.unwrap();
    assert!(one.sync(&members[0], v(10)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r9_a_record_of_many_frames_is_one_and_one_that_is_too_long_is_refused() {
    let cluster = Cluster::start(2).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    let longest = bytes(1, RECORD_BYTES_MAX);
    let just_over_a_frame = bytes(2, (1 << 20) - HEADER_BYTES + 1);
    assert_eq!(wire.append(&members[0], v(10), 1, &longest).await, Ok(0));
    let second = (HEADER_BYTES + RECORD_BYTES_MAX) as u64;
    let append = wire.append_body(&members[0], v(10), 2, &just_over_a_frame);
    wire.start_append(append, &just_over_a_frame).await;
    assert_eq!(wire.appended().await, Ok(second));
    assert_records(&cluster, v(10), &[(0, 1, &longest), (second, 2, &just_over_a_frame)]).await;
    let mut append = wire.append_body(&members[0], v(10), 3, b"x");
    append.length = RECORD_BYTES_MAX as u32 + 1;
    wire.start_append(append, b"x").await;
    assert!(wire.receive().await.is_none(), "an answer to a record that is too long");
}

#[tokio::test]
async fn r9_a_record_that_is_sent_again_has_its_first_place() {
    let cluster = Cluster::start(3).await;
    let members = cluster.members();
    let mut one = cluster.connect(0, session(1)).await.with_grant(&members);
    let mut two = cluster.connect(0, session(2)).await.with_grant(&members);
    let offset = one.append(&members[0], v(10), 4, b"mine").await.unwrap();
    two.append(&members[0], v(10), 4, b"theirs").await.unwrap();
    let mut again = cluster.connect(0, session(1)).await;
    assert_eq!(again.append(&members[0], v(10), 4, b"mine").await, Ok(offset));
    assert_eq!(one.append(&members[0], v(10), 4, b"mine").await, Ok(offset));
    // a frame that was long under way, of a record before: it never gets a place
    assert_eq!(out_of_order(again.append(&members[0], v(10), 3, b"late").await), 4);
    assert_records(&cluster, v(10), &[(0, 4, b"mine"), (56, 4, b"theirs")]).await;
}

#[tokio::test]
async fn r9_no_record_overtakes_the_one_before() {
    let cluster = Cluster::start(1).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    // the first is damaged on its way: the second must not get a place, or the first never would
    let mut damaged = wire.append_body(&members[0], v(10), 1, b"first");
    damaged.checksum ^= 1;
    wire.start_append(damaged, b"first").await;
    let mut second = wire.append_body(&members[0], v(10), 2, b"second");
    second.previous = 1;
    wire.start_append(second.clone(), b"second").await;
    assert_eq!(code(&wire.appended().await.unwrap_err()), ErrorCode::ErrorBadChecksum);
    assert_eq!(out_of_order(wire.appended().await), 0);
    assert_eq!(wire.append(&members[0], v(10), 1, b"first").await, Ok(0));
    wire.start_append(second, b"second").await;
    assert_eq!(wire.appended().await, Ok(56));
}

/// Every member stops; `how` decides what of the disks stays. The record's own bytes are what remembers it.
async fn sent_again_after_a_restart(synced: bool, power: bool) {
    let mut cluster = Cluster::start(3).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    wire.append(&members[0], v(10), 1, b"first").await.unwrap();
    let offset = wire.append(&members[0], v(10), 2, b"second").await.unwrap();
    let mut other = cluster.connect(0, session(2)).await;
    other.append(&members[0], v(10), 9, b"other").await.unwrap();
    if synced {
        wire.sync(&members[0], v(10)).await.unwrap();
    }
    for node in &mut cluster.nodes {
        match power {
            true => node.lose_power(),
            false => node.kill(),
        }
    }
    for node in &mut cluster.nodes {
        node.start().await;
    }
    // another head
    let mut members = cluster.members();
    cluster.nodes.rotate_left(1);
    members.rotate_left(1);
    cluster.master.reconfigure(&members, v(11), 2).await;
    let mut wire = cluster.connect(0, session(1)).await;
    assert_eq!(wire.append(&members[0], v(11), 2, b"second").await, Ok(offset));
    let third = wire.append(&members[0], v(11), 3, b"third").await.unwrap();
    let expected: [(u64, u64, &[u8]); 4] = [
        (0, 1, b"first"),
        (56, 2, b"second"),
        (112, 9, b"other"),
        (third, 3, b"third"),
    ];
    assert_records(&cluster, v(11), &expected).await;
}

#[tokio::test]
async fn r9_a_record_is_remembered_when_every_member_was_killed() {
    sent_again_after_a_restart(false, false).await;
}

#[tokio::test]
async fn r9_a_synced_record_is_remembered_when_every_member_lost_power() {
    sent_again_after_a_restart(true, true).await;
}

#[tokio::test]
async fn r9_a_record_is_remembered_across_a_reconfiguration_to_any_head() {
    let cluster = Cluster::start(3).await;
    let mut members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    let offset = wire.append(&members[0], v(10), 1, b"first").await.unwrap();
    for round in 0..3 {
        members.rotate_left(1);
        let version = v(11 + round);
        cluster.master.reconfigure(&members, version, 0).await;
        let head = cluster.members().iter().position(|m| *m == members[0]).unwrap();
        let mut wire = cluster.connect(head, session(1)).await;
        assert_eq!(wire.append(&members[0], version, 1, b"first").await, Ok(offset));
    }
}

#[tokio::test]
async fn r9_what_the_chain_lost_is_appended_again_and_its_rest_is_invisible() {
    let mut cluster = Cluster::start(2).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    wire.append(&members[0], v(10), 1, b"first").await.unwrap();
    cluster.nodes[1].kill();
    // at the head alone, which then dies as well
    let append = wire.append_body(&members[0], v(10), 2, b"second");
    wire.start_append(append, b"second").await;
    assert!(wire.appended().await.is_err());
    cluster.nodes[0].kill();
    for node in &mut cluster.nodes {
        node.start().await;
    }
    let mut members = cluster.members();
    members.reverse();
    // the source is the one that never had it
    cluster.master.reconfigure(&members, v(11), 0).await;
    let mut wire = cluster.connect(1, session(1)).await;
    assert_eq!(wire.append(&members[0], v(11), 2, b"second").await, Ok(56));
    assert_records(&cluster, v(11), &[(0, 1, b"first"), (56, 2, b"second")]).await;
}

async fn append_from(wire: &mut Wire, head: &Member, number: u64, from: u64, data: &[u8]) -> Result<u64, ErrorCode> {
    let mut append = wire.append_body(head, v(10), number, data);
    append.from = from;
    wire.start_append(append, data).await;
    wire.appended().await.map_err(|failed| code(&failed))
}

#[tokio::test]
async fn r9_a_chunk_without_room_is_filled_to_its_end_and_takes_no_record_any_more() {
    let cluster = Cluster::start(2).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    let near_the_end = CHUNK_SIZE_BYTES - 200;
    let offset = append_from(&mut wire, &members[0], 1, near_the_end, b"fits")
        .await
        .unwrap();
    assert_eq!(offset, near_the_end);
    let full = Err(ErrorCode::ErrorChunkFull);
    assert_eq!(append_from(&mut wire, &members[0], 2, 0, &[7; 200]).await, full);
    for node in [0, 1] {
        let member = cluster.member(node);
        let mut reader = cluster.connect(node, session(3)).await;
        let (done, _) = reader.read(&member, v(10), 0, 1, false).await.unwrap();
        assert_eq!(done.chunk_length, CHUNK_SIZE_BYTES);
    }
    // one that would have fitted before; and one that has a place is still told where
    assert_eq!(append_from(&mut wire, &members[0], 3, 0, b"x").await, full);
    assert_eq!(append_from(&mut wire, &members[0], 1, 0, b"fits").await, Ok(offset));
    let mut exact = cluster.connect(0, session(2)).await;
    assert_eq!(append_from(&mut exact, &members[0], 1, 0, b"").await, full);
}

#[tokio::test]
async fn r9_a_record_may_end_with_its_chunk() {
    let cluster = Cluster::start(1).await;
    let members = cluster.members();
    let mut wire = cluster.connect(0, session(1)).await.with_grant(&members);
    let from = CHUNK_SIZE_BYTES - HEADER_BYTES as u64 - 16;
    assert_eq!(append_from(&mut wire, &members[0], 1, from, &[1; 16]).await, Ok(from));
    let full = Err(ErrorCode::ErrorChunkFull);
    assert_eq!(append_from(&mut wire, &members[0], 2, 0, b"").await, full);
    assert_records(&cluster, v(10), &[(from, 1, &[1; 16])]).await;
}

#[tokio::test]
async fn records_that_take_long_are_sent_in_turn() {
    let cluster = Cluster::start(1).await;
    let members = cluster.members();
    let head = &members[0];
    let mut one = cluster.connect(0, session(1)).await.with_grant(&members);
    let mut two = cluster.connect(0, session(2)).await.with_grant(&members);
    // the first records of a chunk too
    assert_eq!(one.ask_room(head, v(10), 1 << 20).await, Ok(1 << 20));
    assert_eq!(two.ask_room(head, v(10), 4 << 20).await, Ok(0));
    one.append(head, v(10), 1, &bytes(1, 1 << 20)).await.unwrap();
    // all the room there is, also for more than that
    assert_eq!(one.ask_room(head, v(10), 10 << 20).await, Ok(10 << 20));
    assert_eq!(two.ask_room(head, v(10), 1000).await, Ok(0));
    // used at once by a record, and given to whoever asks next
    one.append(head, v(10), 2, &bytes(1, 9 << 20)).await.unwrap();
    assert_eq!(two.ask_room(head, v(10), 1000).await, Ok(1000));
    // what is given counts where the chunk's end is near
    let left = CHUNK_SIZE_BYTES - (10 << 20) - 1000;
    let failed = one.ask_room(head, v(10), left).await.unwrap_err();
    assert_eq!(code(&failed), ErrorCode::ErrorChunkFull);
    // and who was not asked about is taken all the same
    assert!(two.append(head, v(10), 1, b"x").await.is_ok());
}

#[tokio::test]
async fn who_waited_for_room_is_not_given_what_others_have_filled_meanwhile() {
    let cluster = Cluster::start(1).await;
    let members = cluster.members();
    let head = &members[0];
    let mut one = cluster.connect(0, session(1)).await.with_grant(&members);
    let mut two = cluster.connect(0, session(2)).await;
    append_from(&mut one, head, 1, CHUNK_SIZE_BYTES - (6 << 20) - 1000, b"x")
        .await
        .unwrap();
    assert_eq!(one.ask_room(head, v(10), 4 << 20).await, Ok(4 << 20));
    let record = bytes(1, 5 << 20);
    let (asked, appended) = tokio::join!(two.ask_room(head, v(10), 2 << 20), one.append(head, v(10), 2, &record));
    appended.unwrap();
    assert_eq!(asked.map_err(|failed| code(&failed)), Err(ErrorCode::ErrorChunkFull));
    // nor does anyone else wait for it
    assert_eq!(two.ask_room(head, v(10), 4000).await, Ok(4000));
}
