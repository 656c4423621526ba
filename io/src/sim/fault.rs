//! Faults to order from a [`super::SimDisk`].
use rustix::io::Errno;
use std::io;
use std::path::Path;

/// What a disk is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Create,
    Open,
    Rename,
    Remove,
    MakeDir,
    List,
    Read,
    Write,
    SetLen,
    /// `sync_data` of a file.
    Sync,
    SyncDir,
    SyncAll,
}

/// What happens instead. The last four need an operation on bytes (see each); on another they do nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// EIO. A sync that fails loses the writes it should have kept: later syncs succeed without them (as Linux does).
    Eio,
    /// ENOSPC.
    Enospc,
    /// A write: reported as done, not done.
    Lost,
    /// A write: lands this many bytes further on in the same file.
    Misdirected { by_bytes: u64 },
    /// A write: only this many bytes are written, and EIO.
    Torn { bytes: usize },
    /// A read: this bit of what is read is wrong (of the first byte on), once; the disk keeps the right one.
    Garbled { bit: u64 },
}

/// An order: the operations `op` on paths that contain `path`, after letting `skip` of them pass, `times` of them.
#[derive(Clone, Debug)]
pub struct Fault {
    pub(super) op: Op,
    pub(super) effect: Effect,
    path: String,
    skip: u64,
    times: u64,
}

impl Fault {
    /// The next `op`, once.
    pub fn new(op: Op, effect: Effect) -> Self {
        Self {
            op,
            effect,
            path: String::new(),
            skip: 0,
            times: 1,
        }
    }

    /// Only where the path contains `part`.
    #[must_use]
    pub fn on(mut self, part: impl Into<String>) -> Self {
        self.path = part.into();
        self
    }

    #[must_use]
    pub fn skip(mut self, n: u64) -> Self {
        self.skip = n;
        self
    }

    #[must_use]
    pub fn times(mut self, n: u64) -> Self {
        self.times = n;
        self
    }

    #[must_use]
    pub fn always(self) -> Self {
        self.times(u64::MAX)
    }

    /// Whether this operation is hit; counts it.
    pub(super) fn hits(&mut self, op: Op, path: &Path) -> bool {
        if op != self.op || self.times == 0 || !path.to_string_lossy().contains(&self.path) {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.times -= u64::from(self.times != u64::MAX);
        true
    }
}

pub(super) fn eio() -> io::Error {
    Errno::IO.into()
}

pub(super) fn enospc() -> io::Error {
    Errno::NOSPC.into()
}
