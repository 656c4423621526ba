//! What others change leaves the kernel's caches.
use super::{Shared, lock};
use crate::filesystem::FileSystem;
use bytes::Bytes;
use cairn_client::Invalidated;
use cairn_types::Inode;
use fuser::{INodeNo, Notifier};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Names to be invalidated for which the kernel's lock on their directory is waited for.
const NAMES_WAITING_MAX: usize = 64;
/// How long a push waits for it before it is confirmed without.
const NAME_WAIT: Duration = Duration::from_millis(50);

/// What others changed leaves the kernel's caches before their change is answered: each push is confirmed when it has
/// taken effect. Notifications leave from a thread of their own: sent from inside a request they would wait for pages
/// that the request holds. Ends with the pushes.
pub(crate) async fn invalidate<F: FileSystem>(shared: Arc<Shared<F>>, notifier: Notifier) {
    let Some(mut pushes) = shared.fs.invalidations() else {
        return;
    };
    let names = Arc::new(Semaphore::new(NAMES_WAITING_MAX));
    while let Some(push) = pushes.recv().await {
        match push.what().clone() {
            Invalidated::Inode { ino, data } => tell_kernel(&shared, &notifier, vec![(ino, data)]).await,
            Invalidated::Everything => {
                let all = shared.fs.cached().into_iter().map(|ino| (ino, true));
                tell_kernel(&shared, &notifier, all.collect()).await;
            }
            Invalidated::Entry { parent, name } => forget_name(&shared, &notifier, &names, parent, name).await,
        }
        push.done();
    }
}

async fn tell_kernel<F: FileSystem>(shared: &Arc<Shared<F>>, notifier: &Notifier, inodes: Vec<(Inode, bool)>) {
    let (fs, notifier) = (shared.fs.clone(), notifier.clone());
    let told = blocking(move || {
        inodes.into_iter().try_for_each(|(ino, data)| {
            fs.changed(ino, data);
            // a negative offset leaves the pages and takes the attributes
            notifier.inval_inode(INodeNo(ino.0), if data { 0 } else { -1 }, 0)
        })
    });
    taken(told.await);
}

/// The kernel forgets a name under its directory's lock. A request of ours that changes the directory holds that lock
/// until the master answers it, and the master may hold the answer until another client confirms, which waits for its
/// own request in the same way: such a push is confirmed first, and the name goes as soon as the lock is free.
async fn forget_name<F: FileSystem>(
    shared: &Arc<Shared<F>>,
    notifier: &Notifier,
    names: &Arc<Semaphore>,
    parent: Inode,
    name: Bytes,
) {
    if shared.limits.entry_ttl.is_zero() {
        return;
    }
    let Ok(permit) = names.clone().acquire_owned().await else {
        return; // never closed
    };
    let notifier = notifier.clone();
    let told = blocking(move || {
        let told = notifier.inval_entry(INodeNo(parent.0), OsStr::from_bytes(&name));
        drop(permit);
        told
    });
    let wait = if lock(&shared.changing).contains_key(&parent) {
        Duration::ZERO
    } else {
        NAME_WAIT
    };
    match tokio::time::timeout(wait, told).await {
        Ok(told) => taken(told),
        Err(_) => tracing::trace!(%parent, "a push is confirmed before its name has left the kernel's cache"),
    }
}

#[allow(clippy::disallowed_methods)] // blocks on the kernel's locks, which no simulation has
fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> tokio::task::JoinHandle<T> {
    tokio::task::spawn_blocking(f)
}

fn taken(told: std::result::Result<std::io::Result<()>, tokio::task::JoinError>) {
    match told {
        Ok(Ok(())) => {}
        // the mount is gone, or going
        Ok(Err(e)) => tracing::debug!(error = %e, "the kernel took no invalidation"),
        Err(e) => tracing::error!(error = %e, "invalidating the kernel's caches panicked"),
    }
}
