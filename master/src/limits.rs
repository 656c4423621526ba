//! Bounds of the master's own queues, batches and tables.
use cairn_types::limits::SESSION_CALLS_MAX;

/// Commands that wait for the operation log. Clients are refused (`ERROR_UNAVAILABLE`) while fewer than
/// [`COMMANDS_RESERVED`] places are left: the master's own commands always find one.
pub const COMMANDS_MAX: usize = 16_384;
pub const COMMANDS_RESERVED: usize = 4_096;
/// Commands and bytes that one write (and one fdatasync) of the log takes together.
pub const BATCH_COMMANDS_MAX: usize = 1_024;
pub const BATCH_BYTES_MAX: usize = 4 << 20;
/// One command, encoded.
pub const RECORD_BYTES_MAX: usize = 8 << 20;
/// Messages on the way to one client, and to one chunkserver.
pub const SESSION_OUT_MAX: usize = 2 * SESSION_CALLS_MAX;
pub const SERVER_OUT_MAX: usize = 8_192;
/// Sessions at a time.
pub const SESSIONS_MAX: usize = 65_536;
/// Inodes that a session has seen, of whose changes it is told. One more: it is told to forget everything.
pub const INTEREST_MAX: usize = 65_536;
/// Invalidations that wait for a session, and pushes that it has not confirmed. Beyond: forget everything.
pub const INVALIDATIONS_MAX: usize = 4_096;
pub const PUSHES_MAX: u64 = 64;
pub const PUSH_INVALIDATIONS_MAX: usize = 512;
/// Chunks looked at in one step of a background scan, while the state is locked.
pub const SCAN_STEP: usize = 512;
/// Orders to delete that one chunkserver works on at a time.
pub const DELETES_MAX: usize = 256;
/// Chunks known to be in need of repair, and events remembered for the status.
pub const REPAIR_QUEUE_MAX: usize = 65_536;
pub const EVENTS_MAX: usize = 256;
/// Reconfigurations at a time, those that clients wait for counted.
pub const RECONFIGURATIONS_MAX: usize = 1_024;
/// Orphans released and trash entries purged by one command.
pub const PURGE_BATCH: usize = 256;
/// One piece of a checkpoint that is sent or taken.
pub const CHECKPOINT_PIECE_BYTES: usize = 1 << 20;

const _: () = assert!(COMMANDS_RESERVED >= 2 * RECONFIGURATIONS_MAX);
const _: () = assert!(COMMANDS_RESERVED < COMMANDS_MAX);
const _: () = assert!(RECORD_BYTES_MAX >= cairn_types::limits::CONTROL_MESSAGE_BYTES_MAX);
