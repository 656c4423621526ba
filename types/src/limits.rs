//! Every bound that two parts must agree on; bounds of one part's own queues stand in that crate's `limits`.
use crate::layout::{BLOCK_SIZE_BYTES, CHUNK_SIZE_BYTES};
use std::time::Duration;

/// Payload of one data-plane frame.
pub const FRAME_PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// One record of a file of records, without its header: a quarter of a chunk, so that padding costs little.
pub const RECORD_BYTES_MAX: usize = CHUNK_SIZE_BYTES as usize / 4;
/// Records of one session on their way to one chunk, of which its head remembers where they are.
pub const RECORDS_IN_FLIGHT_MAX: usize = 64;
/// Encoded header of one data-plane frame: a table of 1,024 checksums and some ids fit.
pub const FRAME_HEADER_BYTES_MAX: usize = 64 << 10;
/// A message of the control plane, either way.
pub const CONTROL_MESSAGE_BYTES_MAX: usize = 4 << 20;
/// One file name, as POSIX has it on Linux.
pub const NAME_BYTES_MAX: usize = 255;
/// The target of a symbolic link, and a path given to the CLI.
pub const PATH_BYTES_MAX: usize = 4096;
/// One extended attribute's name and value, as Linux has them.
pub const XATTR_NAME_BYTES_MAX: usize = 255;
pub const XATTR_VALUE_BYTES_MAX: usize = 64 << 10;
/// All extended attributes of one inode together.
pub const XATTR_TOTAL_BYTES_MAX: usize = 256 << 10;
/// Entries in one page of a directory listing.
pub const READDIR_ENTRIES_MAX: usize = 1024;
/// Chunk locations in one answer.
pub const LOCATE_CHUNKS_MAX: usize = 256;
/// Replicas wanted of one chunk.
pub const GOAL_MAX: u8 = 8;
/// Hard links of one file.
pub const LINKS_MAX: u32 = 65_000;
/// Calls of one session that the master holds at a time: results remembered and not yet acknowledged.
pub const SESSION_CALLS_MAX: usize = 1024;
/// Inodes that one session has open: the next open fails with ENFILE.
pub const SESSION_OPEN_MAX: usize = 1 << 20;
/// Inodes that one message of a client that connects declares to be open.
pub const DECLARED_AT_ONCE_MAX: usize = 65_536;
/// How long the master holds a change back for other clients to confirm that they have forgotten what it changed.
pub const PUSH_PATIENCE: Duration = Duration::from_secs(5);
/// How long a client, and the kernel behind a mount, may go by the master's word without another: counted from when it was
/// asked for, or proved to hold still.
pub const BELIEVED_FOR: Duration = Duration::from_secs(4);

const _: () = assert!(BELIEVED_FOR.as_millis() < PUSH_PATIENCE.as_millis());
const _: () = assert!((FRAME_PAYLOAD_BYTES_MAX as u64).is_multiple_of(BLOCK_SIZE_BYTES));
const _: () = assert!((FRAME_PAYLOAD_BYTES_MAX as u64) < CHUNK_SIZE_BYTES);
const _: () = assert!(DECLARED_AT_ONCE_MAX * 11 < CONTROL_MESSAGE_BYTES_MAX);
const _: () = assert!(XATTR_VALUE_BYTES_MAX <= XATTR_TOTAL_BYTES_MAX);
// A page of the longest names with attributes fits a control message.
const _: () = assert!(READDIR_ENTRIES_MAX * (NAME_BYTES_MAX + 256) < CONTROL_MESSAGE_BYTES_MAX);
