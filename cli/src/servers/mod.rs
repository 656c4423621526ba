//! The long-running commands. Each starts its parts in order, says what it is, waits for a signal or a fatal stop,
//! and ends its parts in the opposite order.
pub mod chunkserver;
pub mod health;
pub mod master;
pub mod mount;
pub mod up;

use crate::failure::{Failure, Result};
use cairn_io::{Disk, RealDisk};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// In the data directory: where the server listens, for scripts and tests that let it choose a port.
const ADDRESS_FILE: &str = "address";

/// SIGINT and SIGTERM: the first asks for an orderly end, the second ends at once.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).map_err(|e| Failure::new("signals", crate::failure::plain(&e)));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// The next of either.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }

    /// Waits for `end`, an orderly one, unless another signal says to hurry.
    pub async fn unless_again<T>(&mut self, end: impl Future<Output = T>) -> Result<T> {
        tokio::select! {
            biased;
            name = self.next() => {
                tracing::warn!("second signal, {name}: stopping at once; what was not synced is checked at the next start");
                Err(Failure::Interrupted("stopped at once".into()))
            }
            done = end => Ok(done),
        }
    }
}

/// The directory as a disk, made if it is missing. `setting` is what the user changes to choose another.
pub fn open_directory(path: &Path, setting: &str) -> Result<Arc<dyn Disk>> {
    let opened = std::fs::create_dir_all(path)
        .and_then(|()| writable(path))
        .and_then(|()| RealDisk::open(path));
    match opened {
        Ok(disk) => Ok(Arc::new(disk)),
        Err(e) => Err(directory_failure(path, setting, &e)),
    }
}

/// A read-only disk is a chunkserver's to deal with; one that may not be entered is not.
fn writable(path: &Path) -> io::Result<()> {
    use rustix::fs::{Access, access};
    access(path, Access::READ_OK | Access::EXEC_OK)?;
    match access(path, Access::WRITE_OK) {
        Err(rustix::io::Errno::ROFS) | Ok(()) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn directory_failure(path: &Path, setting: &str, e: &io::Error) -> Failure {
    let failed = Failure::new(path.display(), crate::failure::plain(e));
    if e.kind() == io::ErrorKind::PermissionDenied {
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        return failed.next(format_args!(
            "this server runs as uid {uid}: `sudo mkdir -p {0} && sudo chown -R {uid}:{gid} {0}`, or choose another directory with {setting}",
            path.display()
        ));
    }
    failed.next(format_args!("choose another directory with {setting}"))
}

/// Leaves the address in the data directory, whole or not at all. Scripts want it; failing at it stops nothing.
pub fn leave_address(directory: &Path, address: SocketAddr) {
    let temporary = directory.join(format!("{ADDRESS_FILE}.{}", std::process::id()));
    let left = std::fs::write(&temporary, format!("{address}\n"))
        .and_then(|()| std::fs::rename(&temporary, directory.join(ADDRESS_FILE)));
    if let Err(e) = left {
        tracing::warn!(directory = %directory.display(), error = %e, "cannot leave the address in its file");
    }
}

/// What an address that is in use looks like to people; `None`: it was something else.
pub fn taken(e: &(dyn std::error::Error + 'static)) -> bool {
    let mut source = Some(e);
    while let Some(e) = source {
        if e.downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::AddrInUse)
        {
            return true;
        }
        source = e.source();
    }
    e.to_string().contains("ddress already in use")
}

/// A server that did not start.
pub fn start_failure(what: &str, next_if_taken: &str, e: &(dyn std::error::Error + 'static)) -> Failure {
    let mut text = e.to_string();
    // causes that the sentence itself does not name
    let mut source = e.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    let text = text.replace(" (os error 98)", "").replace(" (os error 13)", "");
    let failed = Failure::new(what, text);
    if taken(e) { failed.next(next_if_taken) } else { failed }
}
