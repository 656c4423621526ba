//! A mount, from its start to its end.
//!
//! start: look at the machine (`preflight`), mount, greet the kernel, serve. end: flush what is open, unmount; what is
//! still busy after a while is detached, so that a service that stops does stop. After a crash the dead mount stays
//! until the next start at the same place: it keeps programs from writing to the directory below.
use crate::filesystem::FileSystem;
use crate::fs::CairnFs;
use crate::fuse::{Adapter, Limits, Shared, invalidate};
use crate::kernel::{self, Attempt, Plan};
use crate::mountinfo::{self, MountEntry};
use crate::options::MountOptions;
use crate::preflight::{self, MountError};
use cairn_client::Client;
use cairn_types::limits::{BELIEVED_FOR, FRAME_PAYLOAD_BYTES_MAX};
use futures::future::BoxFuture;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
const UNMOUNT_WAIT_DEFAULT: Duration = Duration::from_secs(10);
const UNMOUNT_RETRY: Duration = Duration::from_millis(100);
const THREADS_MAX: usize = 8;

#[derive(Debug, Clone)]
pub struct MountConfig {
    pub mountpoint: PathBuf,
    /// What `mount` shows as the device: the master's address.
    pub source: String,
    pub options: MountOptions,
    /// How long a busy mount is waited for before it is detached.
    pub unmount_wait: Duration,
}

impl MountConfig {
    pub fn new(mountpoint: impl Into<PathBuf>) -> Self {
        Self {
            mountpoint: mountpoint.into(),
            source: "cairn".into(),
            options: MountOptions::default(),
            unmount_wait: UNMOUNT_WAIT_DEFAULT,
        }
    }
}

/// How a mount ended without us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Somebody unmounted it.
    Unmounted,
    /// The kernel cut the connection; the mount is still there, dead.
    Dead,
}

/// What became of an attempt to unmount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmounted {
    Clean,
    /// Programs had files open on it for too long: the name is gone, their files are flushed, and fail from the end of
    /// this process on.
    Detached,
}

type FlushAll = Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// Dropping it detaches the mount; `unmount` does it in order.
pub struct Mount {
    entry: MountEntry,
    timeout: Duration,
    unmount_wait: Duration,
    runtime: Handle,
    ended: watch::Receiver<Option<Ended>>,
    flush_all: FlushAll,
    invalidator: JoinHandle<()>,
}

impl Mount {
    /// Mounts the cluster that `client` is connected to. Blocks shortly. The client stays the caller's to shut down,
    /// after the mount has ended.
    ///
    /// # Errors
    /// Each says what to do about it.
    pub fn start(client: Client, config: &MountConfig, runtime: &Handle) -> Result<Self, MountError> {
        let limits = limits(&config.options);
        let known_for = limits.attr_ttl.min(limits.entry_ttl).min(BELIEVED_FOR);
        Self::start_with(Arc::new(CairnFs::new(client, known_for)), config, runtime)
    }

    /// Mounts any file system.
    ///
    /// # Errors
    /// As `start`.
    pub fn start_with<F: FileSystem>(fs: Arc<F>, config: &MountConfig, runtime: &Handle) -> Result<Self, MountError> {
        let uid = rustix::process::geteuid();
        let options = &config.options;
        let allow_other = preflight::allow_other(options.allow_other, uid.as_raw(), preflight::fuse_conf())?;
        // looked at before the mount point: without it nothing there can be mended
        let device = preflight::device();
        let target = preflight::prepare(&config.mountpoint)?;
        let plan = Plan {
            target: &target,
            source: &config.source,
            options,
            allow_other,
        };
        let cloneable = device.is_ok();
        let device = if uid.is_root() {
            let device = device?;
            kernel::mount_directly(&plan, &device)?;
            device
        } else {
            // setuid root, it may open a device that we may not
            kernel::mount_by_helper(&plan)?
        };
        let mut unserved = Unserved(Some(&target));
        let entry = own_entry(&target)?;

        let limits = limits(options);
        let shared = Arc::new(Shared::new(fs, runtime.clone(), limits));
        let weak = Arc::downgrade(&shared);
        let mut session_config = fuser::Config::default();
        session_config.n_threads = Some(threads(options.threads));
        session_config.clone_fd = cloneable;
        session_config.acl = if allow_other {
            fuser::SessionACL::All
        } else {
            fuser::SessionACL::Owner
        };
        let failed = |e| MountError::failed(&target, e);
        let session = fuser::Session::from_fd(Adapter(shared.clone()), device, session_config.acl, session_config);
        let session = session.map_err(failed)?;
        let invalidator = runtime.spawn(invalidate(shared, session.notifier()));

        let (tell_ended, ended) = watch::channel(None);
        let mounted = entry.clone();
        std::thread::Builder::new()
            .name("cairn-fuse".into())
            .spawn(move || {
                if let Err(e) = session.run() {
                    tracing::error!(path = %mounted.target.display(), error = %e, "serving the mount failed");
                }
                let dead = kernel::mounted(&mounted.target, mounted.id).unwrap_or(false);
                // nobody may be left who wants to know
                let _ = tell_ended.send(Some(if dead { Ended::Dead } else { Ended::Unmounted }));
            })
            .map_err(failed)?;
        unserved.0 = None;

        if let Err(e) = kernel::raise_read_ahead(&entry.device, (FRAME_PAYLOAD_BYTES_MAX >> 10) as u32) {
            tracing::debug!(error = %e, "read-ahead stays at the kernel's 128 KiB");
        }
        Ok(Self {
            entry,
            timeout: limits.timeout,
            unmount_wait: config.unmount_wait,
            runtime: runtime.clone(),
            ended,
            flush_all: Box::new(move || Box::pin(flush_all(weak.clone()))),
            invalidator,
        })
    }

    /// The mount point, as the kernel has it.
    pub fn path(&self) -> &Path {
        &self.entry.target
    }

    /// Resolves when the mount has ended: unmounted by somebody, or cut off by the kernel.
    pub async fn wait(&self) -> Ended {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(ended) => ended.unwrap_or(Ended::Dead),
            Err(_) => Ended::Dead, // the thread that serves is gone without a word: it panicked
        }
    }

    /// Flushes what is open and unmounts; a mount still busy after `unmount_wait` is detached.
    ///
    /// # Errors
    /// `MountError::Unmount`: it is still there.
    pub async fn unmount(&self) -> Result<Unmounted, MountError> {
        self.settle().await;
        let deadline = tokio::time::Instant::now() + self.unmount_wait;
        let mut lazy = false;
        loop {
            let attempt = self.attempt(lazy).await?;
            // the second umount(2) of a busy mount has been seen to succeed without effect: only mountinfo is believed
            if !self.still_mounted()? {
                break;
            }
            let late = tokio::time::Instant::now() >= deadline;
            match attempt {
                Attempt::Failed(cause) if lazy => return Err(self.unmount_error(cause)),
                Attempt::Failed(e) => {
                    tracing::debug!(error = %e, "unmounting failed, detaching");
                    lazy = true;
                }
                _ if lazy && late => return Err(self.unmount_error(io::Error::other("it stays mounted"))),
                _ if late => {
                    tracing::warn!(path = %self.path().display(), "the mount is still busy: detaching it; `fuser -vm` would have shown who uses it");
                    self.settle().await;
                    lazy = true;
                }
                _ => tokio::time::sleep(UNMOUNT_RETRY).await,
            }
        }
        if lazy {
            return Ok(Unmounted::Detached);
        }
        // the kernel has sent its last requests; they are being answered
        if tokio::time::timeout(self.timeout, self.wait()).await.is_err() {
            tracing::warn!(path = %self.path().display(), "unmounted, but requests are still being answered");
        }
        Ok(Unmounted::Clean)
    }

    fn unmount_error(&self, cause: io::Error) -> MountError {
        let path = self.path().to_owned();
        MountError::Unmount { path, cause }
    }

    fn still_mounted(&self) -> Result<bool, MountError> {
        kernel::mounted(self.path(), self.entry.id).map_err(|e| self.unmount_error(e))
    }

    /// umount(2) waits for the kernel's last requests, which this runtime answers: it runs on a thread of its own.
    async fn attempt(&self, lazy: bool) -> Result<Attempt, MountError> {
        let entry = self.entry.clone();
        let attempt = move || match mountinfo::top(&entry.target) {
            Ok(Some(top)) if top.id != entry.id => {
                Attempt::Failed(io::Error::other(format!("{} is mounted over it", top.kind)))
            }
            Ok(_) => kernel::unmount(&entry.target, lazy),
            Err(e) => Attempt::Failed(e),
        };
        self.blocking(attempt).await.map_err(|e| self.unmount_error(e))
    }

    #[allow(clippy::disallowed_methods)] // at the edge: mounts are never simulated
    async fn blocking<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        self.runtime.spawn_blocking(f).await.map_err(io::Error::other)
    }

    /// Pages of mapped files that the kernel still holds, then what the client holds.
    async fn settle(&self) {
        if self.ended.borrow().is_some() {
            return;
        }
        let target = self.path().to_owned();
        let sync = async {
            let synced = self.blocking(move || {
                use rustix::fs::{Mode, OFlags, open, syncfs};
                syncfs(open(
                    &target,
                    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                    Mode::empty(),
                )?)
            });
            if let Err(e) = synced.await.and_then(|synced| Ok(synced?)) {
                tracing::debug!(error = %e, "the kernel could not sync the mount");
            }
            (self.flush_all)().await;
        };
        if tokio::time::timeout(self.timeout, sync).await.is_err() {
            tracing::error!(path = %self.path().display(), "open files could not be flushed in time");
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.invalidator.abort();
        if !self.still_mounted().unwrap_or(false) {
            return;
        }
        // detaching may wait for requests that the thread of this drop is to answer: done beside it
        let (tell, detached) = std::sync::mpsc::sync_channel(1);
        let entry = self.entry.clone();
        let detach = std::thread::Builder::new().spawn(move || {
            let attempt = kernel::unmount(&entry.target, true);
            let _ = tell.send(attempt); // nobody waits any more
        });
        match detach.map(|_| detached.recv_timeout(Duration::from_secs(2))) {
            Ok(Ok(Attempt::Done)) => {}
            _ => tracing::error!(path = %self.path().display(), "the mount could not be detached: `umount -l` it"),
        }
    }
}

/// A mount that nobody serves yet: taken away again unless that changes, or every access to it would wait for ever.
struct Unserved<'a>(Option<&'a Path>);

impl Drop for Unserved<'_> {
    fn drop(&mut self) {
        if let Some(Attempt::Failed(e)) = self.0.map(|target| kernel::unmount(target, true)) {
            tracing::error!(error = %e, "a mount that could not be served could not be taken away either");
        }
    }
}

fn own_entry(target: &Path) -> Result<MountEntry, MountError> {
    let top = mountinfo::top(target).map_err(|e| MountError::failed(target, e))?;
    top.filter(|m| m.kind == kernel::MOUNT_TYPE).ok_or_else(|| {
        let cause = io::Error::other("mounted, but /proc/self/mountinfo does not show it");
        MountError::failed(target, cause)
    })
}

async fn flush_all<F: FileSystem>(shared: Weak<Shared<F>>) {
    if let Some(shared) = shared.upgrade() {
        shared.flush_all().await;
    }
}

fn limits(options: &MountOptions) -> Limits {
    Limits {
        timeout: options.timeout.unwrap_or(TIMEOUT_DEFAULT),
        attr_ttl: options.attr_timeout.unwrap_or(BELIEVED_FOR),
        entry_ttl: options.entry_timeout.unwrap_or(BELIEVED_FOR),
    }
}

/// The kernel gives each request to the thread that has waited longest, so that of many each finds its processor asleep
/// and its caches cold; the other half of the processors is the programs' and the runtime's.
fn threads(wanted: Option<usize>) -> usize {
    let processors = || std::thread::available_parallelism().map_or(1, usize::from);
    wanted.unwrap_or_else(|| (processors() / 2).clamp(1, THREADS_MAX))
}
