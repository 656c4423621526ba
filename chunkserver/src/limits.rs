//! Every bound of the service's own queues, waits and tables; what can be configured stands in
//! [`crate::ChunkserverConfig`].
use cairn_types::limits::{CONTROL_MESSAGE_BYTES_MAX, FRAME_HEADER_BYTES_MAX, FRAME_PAYLOAD_BYTES_MAX, GOAL_MAX};
use std::time::Duration;

/// Connections of the data plane at a time; more are closed at once.
pub const CONNECTIONS_MAX: usize = 8192;
/// Requests of one connection that have no answer yet; the next is not read from the socket.
pub const CONNECTION_REQUESTS_MAX: usize = 128;
/// From the connection to the whole Hello.
pub const HELLO_WAIT_MAX: Duration = Duration::from_secs(5);
/// From a frame's first byte to the end of its header, and for its payload again.
pub const FRAME_WAIT_MAX: Duration = Duration::from_secs(15);
/// A connection without a request for this long is closed; pools close theirs earlier.
pub const CONNECTION_IDLE_MAX: Duration = Duration::from_secs(300);
/// A peer that takes no byte of its answers for this long is gone.
pub const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);
/// Places in a chain, each with a budget for frames of its own: a place waits only for later ones, so that no circle
/// of servers can wait for each other's memory.
pub const CHAIN_PLACES: usize = GOAL_MAX as usize;

/// Different lists of members that replicas share; beyond it each may have one of its own.
pub const CHAINS_KEPT_MAX: usize = 1024;
/// Sessions whose last sequence a chunk remembers; with more, the one longest silent is forgotten.
pub const REMEMBERED_SESSIONS_MAX: usize = 1024;

/// Bytes of records that may be on their way to one chunk at a time: what keeps its chain busy.
pub const APPEND_ROOM_BYTES: u64 = 4 << 20;
/// Who asks for room is told to ask again after this.
pub const APPEND_ROOM_WAIT_MAX: Duration = Duration::from_secs(1);
/// Room that was given and not used is another's after this.
pub const APPEND_ROOM_AGE_MAX: Duration = Duration::from_secs(3);
/// Records go down the chain in mutations of at most so many bytes: each member passes on what it has whole.
pub const APPEND_MUTATION_BYTES: usize = 256 << 10;
/// Read at a time where a chunk is searched for its records.
pub const APPEND_SCAN_BYTES: u64 = 1 << 20;

/// Reads and writes of the store that are at most so long are done in the task that wants them where they are seen not
/// to wait for the disk; longer ones take a while even then.
pub const BRIEF_BYTES_MAX: u32 = 128 << 10;

/// Before a write is tried again that the store had no file descriptor for.
pub const STORE_RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Connections kept for one peer, and for all together, while nobody uses them.
pub const POOL_PEER_IDLE_MAX: usize = 32;
pub const POOL_IDLE_MAX: usize = 1024;
/// A connection that nobody used for this long is closed.
pub const POOL_IDLE_TIME_MAX: Duration = Duration::from_secs(60);
/// Connecting to a peer and its Welcome.
pub const CONNECT_WAIT_MAX: Duration = Duration::from_secs(3);
/// For an answer on a connection that was used before: its other end may be gone without a word (power, a cable), and
/// TCP would find out in minutes.
pub const KEPT_CONNECTION_WAIT_MAX: Duration = Duration::from_secs(3);
/// Refused connections in a row after which a chain counts as broken: nobody listens there, and whoever will again is
/// not writable (protocol R8).
pub const CHAIN_REFUSED_MAX: u32 = 3;
/// Between two attempts of a chain to reach downstream.
pub const CHAIN_RETRY_PAUSE: Duration = Duration::from_millis(100);
/// One request of a copy (protocol R4) and its answer. Writers may be waiting for the copy: much less than their timeout.
pub const COPY_REQUEST_WAIT_MAX: Duration = Duration::from_secs(10);
/// One `FetchTable` of a suspect: it reads its whole chunk first.
pub const COPY_TABLE_WAIT_MAX: Duration = Duration::from_secs(120);
/// `FetchBlocks` under way at a time in one copy.
pub const COPY_REQUESTS_AT_A_TIME: usize = 4;

/// Messages to the master that wait for the stream.
pub const CONTROL_OUT_MAX: usize = 1024;
/// Connecting to the master, and from Register to Registered.
pub const CONTROL_WAIT_MAX: Duration = Duration::from_secs(10);
/// Between attempts to reach the master: doubled from the first to the second, with chance added.
pub const CONTROL_RETRY_MIN: Duration = Duration::from_millis(100);
pub const CONTROL_RETRY_MAX: Duration = Duration::from_secs(5);
/// Replicas in one page of the inventory or one heartbeat.
pub const INVENTORY_PAGE: usize = 8192;
/// Orders taken and not done; more are answered UNAVAILABLE.
pub const ORDERS_MAX: usize = 65_536;
/// Orders that copy or read whole chunks, at a time.
pub const BULK_ORDERS_AT_A_TIME: usize = 4;
/// Other orders at a time.
pub const ORDERS_AT_A_TIME: usize = 64;
/// Chunks asked for in one ConfirmDelete, and how long its answer may take.
pub const DELETE_BATCH: usize = 512;
pub const DELETE_CONFIRM_WAIT_MAX: Duration = Duration::from_secs(10);
/// A fence waits this long for the disk to finish what was accepted.
pub const FENCE_DRAIN_WAIT_MAX: Duration = Duration::from_secs(20);
/// Troubles not yet told to the master; with more the oldest is forgotten (it will be found again).
pub const TROUBLES_MAX: usize = 4096;

/// Between looks of the background work.
pub const BACKGROUND_TICK: Duration = Duration::from_secs(1);
/// A chunk not written for this long is synced and marked clean.
pub const CLEAN_MARK_IDLE: Duration = Duration::from_secs(5);
/// The idle scrub waits until nothing was asked of the server for this long.
pub const SCRUB_QUIET: Duration = Duration::from_millis(200);
/// ... but no longer than this for one step, so that a busy server is scrubbed, too.
pub const SCRUB_YIELD_MAX: Duration = Duration::from_secs(5);
/// Between two rounds of the idle scrub.
pub const SCRUB_ROUND_PAUSE: Duration = Duration::from_secs(60);

// 28 bytes remember a session in a Table's header, 3 a bad block.
const _: () = assert!(REMEMBERED_SESSIONS_MAX * 28 + 1024 * 3 + 1024 < FRAME_HEADER_BYTES_MAX);
// A replica takes at most 80 bytes on the wire.
const _: () = assert!(INVENTORY_PAGE * 80 * 2 < CONTROL_MESSAGE_BYTES_MAX);
const _: () = assert!(CONNECTION_REQUESTS_MAX > 1 && FRAME_PAYLOAD_BYTES_MAX > 0);
const _: () = assert!(POOL_IDLE_TIME_MAX.as_secs() < CONNECTION_IDLE_MAX.as_secs());
const _: () = assert!(APPEND_MUTATION_BYTES <= FRAME_PAYLOAD_BYTES_MAX);
