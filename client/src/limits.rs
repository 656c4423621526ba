//! Bounds of the client's own queues and retries; those shared with other parts stand in `cairn_types::limits`.
use cairn_types::limits::{DECLARED_AT_ONCE_MAX, LOCATE_CHUNKS_MAX, SESSION_CALLS_MAX, SESSION_OPEN_MAX};
use std::time::Duration;

/// Calls under way to the master, of which it remembers what it answered.
pub const CALLS_MAX: usize = 512;
/// Messages between the session and the transport below it.
pub const OUTGOING_MAX: usize = 64;
/// Invalidations that the mount has not taken yet; more become one "everything".
pub const INVALIDATIONS_MAX: usize = 4096;
/// Files that were closed and are still open for the master (about 1 KiB each), and for how long.
pub const KEPT_MAX: usize = 1 << 14;
pub const KEPT_FOR: Duration = Duration::from_secs(60);
/// For so long after a file was made and closed empty its first chunk stays this client's to write. Not longer: a disk that
/// has since unlinked a later chunk refuses the grant (protocol R10), and the master makes the chunk anew.
pub const UNWRITTEN_FOR: Duration = Duration::from_secs(4);
/// Of one that is kept, so many of its first chunks: as many as an open is told of.
pub const KEPT_CHUNKS: usize = 2;
/// Records shorter than this are sent without asking for room first.
pub const UNASKED_BYTES: usize = 64 << 10;
/// Room asked for at a time, unless one record takes more.
pub const ASK_BYTES_MAX: usize = 2 << 20;
/// Connections to one chunkserver, in use and idle, and those kept idle.
pub const CONNECTIONS_MAX: usize = 64;
pub const CONNECTIONS_IDLE_MAX: usize = 16;
/// Frames on one connection without an answer.
pub const PIPELINE_MAX: usize = 64;
/// Reads up to this go by a connection that they share, so that several leave, and come back, in one write: so many at a
/// time, and only while nothing is under way on it or it has answered within this time. A read that waits for a disk so
/// holds up only those that came right behind it.
pub const SHARED_READ_BYTES_MAX: u32 = 16 << 10;
pub const SHARED_READS_MAX: usize = 16;
pub const SHARED_READ_WAIT_MAX: Duration = Duration::from_millis(2);
/// Pieces that one read fetches at a time.
pub const READ_PIECES_MAX: usize = 8;
/// The same over a slow network: one from each replica and one more, which its queues have room for.
pub const READ_PIECES_SLOW_MAX: usize = 4;
/// Locations asked for at a time by a reader.
pub const LOCATE_AHEAD: u32 = 16;
/// Chunks whose last sequence is remembered, after their files were closed.
pub const SEQUENCES_MAX: usize = 1 << 20;
/// Chunks that one commit names.
pub const COMMIT_CHUNKS_MAX: usize = 8192;
/// Files that are committed, synced or closed at a time.
pub const PARALLEL_MAX: usize = 16;
/// Between attempts at what failed.
pub const BACKOFF_MIN: Duration = Duration::from_millis(20);
pub const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// A server that did not answer is tried last for this long.
pub const DEAD_FOR: Duration = Duration::from_secs(10);
/// Refusals that may pass by themselves (a chunk being installed, say) before the master is told.
pub const PATIENCE: u32 = 4;
/// What was read ahead and not asked for is not believed after this.
pub const READ_AHEAD_AGE_MAX: Duration = Duration::from_secs(2);
/// Files that were closed and wait for a call to be told of with.
pub const CLOSED_MAX: usize = 64;

// a whole declaration is put there before the stream is opened
const _: () = assert!(SESSION_OPEN_MAX.div_ceil(DECLARED_AT_ONCE_MAX) < OUTGOING_MAX);
const _: () = assert!(CALLS_MAX < SESSION_CALLS_MAX);
const _: () = assert!(KEPT_MAX < SESSION_OPEN_MAX / 16);
const _: () = assert!((LOCATE_AHEAD as usize) < LOCATE_CHUNKS_MAX);
const _: () = assert!(CONNECTIONS_IDLE_MAX <= CONNECTIONS_MAX);
