//! Cairn as a mounted file system.
//!
//! ```text
//! kernel ── /dev/fuse ── fuse.rs ── FileSystem (a trait) ── fs.rs ── cairn_client
//!                        converts                           decides
//! ```
//!
//! * `filesystem` is what a file system is here: POSIX's words, no FUSE. `fs` implements it over the client library;
//!   `known` is what it keeps of inodes, bounded; `following` guesses which file will be read next.
//! * `fuse` is the only module that names the `fuser` crate: it turns requests into calls, hands them to the tokio
//!   runtime, and answers each within `mount.timeout`. INTERRUPT gets ENOSYS from fuser, so a request without an end
//!   would leave a process that not even SIGKILL ends.
//! * `mount` starts and ends a mount; `preflight` looks at the machine first and says what to do when it is not fit;
//!   `kernel` calls mount(2), umount(2) and fusermount3; `mountinfo` reads what is mounted; `options` reads the
//!   options of mount(8) and fstab.
//!
//! What is deliberately absent: no lock is held across an await; locks (flock, fcntl) are left to the kernel and so are
//! local to a mount; permissions are judged by the kernel alone (`default_permissions`), since requests do not carry
//! supplementary groups.
mod error;
mod filesystem;
mod following;
mod fs;
mod fuse;
mod kernel;
mod known;
mod mount;
mod mountinfo;
mod options;
mod preflight;

pub use error::{Error, Result};
pub use filesystem::{Caller, DirectoryItem, DirectoryListing, FileSystem, Opened, Statistics};
pub use fs::CairnFs;
pub use kernel::MOUNT_TYPE;
pub use mount::{Ended, Mount, MountConfig, Unmounted};
pub use options::{MountOptions, OptionError};
pub use preflight::MountError;
