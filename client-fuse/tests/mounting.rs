//! Mounting, unmounting and what goes wrong around it, over a file system of one file: no cluster takes part.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]
mod common;

use bytes::Bytes;
use cairn_client::{Attr, FileKind, OpenMode};
use cairn_fuse::{
    Caller, DirectoryItem, DirectoryListing, Ended, Error, FileSystem, MOUNT_TYPE, Mount, MountConfig, MountError,
    MountOptions, Opened, Result, Unmounted,
};
use cairn_types::Inode;
use common::{fuse_is_missing, root, sh, sh_output};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::{Handle, Runtime};

const FILE: Inode = Inode(2);

/// A directory with one file, `file`. Reading it at `hang_at` never ends.
#[derive(Default)]
struct OneFile {
    contents: Mutex<Vec<u8>>,
    flushes: AtomicUsize,
    hang_at: Option<u64>,
}

impl OneFile {
    fn attr_of(&self, ino: Inode) -> Result<Attr> {
        let (kind, mode) = match ino {
            Inode::ROOT => (FileKind::Directory, 0o755),
            FILE => (FileKind::Regular, 0o644),
            _ => return Err(Error::NotImplemented),
        };
        let size = self.contents.lock().unwrap().len() as u64;
        Ok(Attr {
            ino,
            kind,
            mode,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            nlink: 1,
            size,
            rdev: 0,
            atime_ns: 0,
            mtime_ns: 0,
            ctime_ns: 0,
            btime_ns: 0,
            generation: 1,
            goal: 3,
            allocated_bytes: size,
            no_xattrs: false,
            being_written: false,
        })
    }
}

impl FileSystem for OneFile {
    type Handle = ();

    async fn lookup(&self, _parent: Inode, name: &[u8]) -> Result<Attr> {
        match name {
            b"file" => self.attr_of(FILE),
            _ => Err(cairn_client::Error::Posix {
                errno: 2,
                message: "no such file".into(),
            }
            .into()),
        }
    }
    async fn getattr(&self, ino: Inode) -> Result<Attr> {
        self.attr_of(ino)
    }
    async fn readdir(&self, _ino: Inode, offset: u64, _plain: bool) -> Result<DirectoryListing> {
        let item = DirectoryItem {
            name: Bytes::from_static(b"file"),
            offset: 1,
            attr: self.attr_of(FILE)?,
        };
        let items = if offset == 0 { vec![item] } else { vec![] };
        Ok(DirectoryListing { items, end: true })
    }
    async fn open(&self, _caller: Caller, _ino: Inode, _mode: OpenMode) -> Result<Opened<()>> {
        Ok(Opened {
            handle: (),
            keep_cache: false,
        })
    }
    async fn read(&self, _handle: &(), offset: u64, len: usize) -> Result<Bytes> {
        if self.hang_at == Some(offset) {
            return std::future::pending().await;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        let contents = self.contents.lock().unwrap();
        let from = contents.len().min(offset as usize);
        let to = contents.len().min(from + len);
        Ok(Bytes::copy_from_slice(&contents[from..to]))
    }
    async fn write(&self, _handle: &(), offset: u64, data: Bytes, _kill_suid: bool) -> Result<()> {
        let mut contents = self.contents.lock().unwrap();
        let end = offset as usize + data.len();
        let len = contents.len().max(end);
        contents.resize(len, 0);
        contents[offset as usize..end].copy_from_slice(&data);
        Ok(())
    }
    async fn flush(&self, _handle: &()) -> Result<()> {
        self.flushes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// A mount point that is taken away in the end whatever happened to it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(place.path()).unwrap();
        place
    }
    fn path(&self) -> PathBuf {
        self.0.path().join("a mount")
    }
    fn config(&self) -> MountConfig {
        MountConfig {
            source: "m.example:7000".into(),
            unmount_wait: Duration::from_millis(500),
            ..MountConfig::new(self.path())
        }
    }
    fn kind(&self) -> Option<String> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let path = self.path().to_str().unwrap().replace(' ', "\\040");
        let line = mounts.lines().rfind(|line| line.split(' ').nth(1) == Some(&path))?;
        line.split(' ').nth(2).map(str::to_owned)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        while self.kind().is_some() {
            let unmounted = sh_output(&format!(
                "umount -l '{p}' || fusermount3 -uz '{p}'",
                p = self.path().display()
            ));
            assert!(unmounted.status.success());
        }
    }
}

fn mounted(place: &Place, runtime: &Runtime) -> Mount {
    start(OneFile::default(), &place.config(), runtime.handle()).unwrap()
}

fn start(fs: OneFile, config: &MountConfig, runtime: &Handle) -> std::result::Result<Mount, MountError> {
    Mount::start_with(Arc::new(fs), config, runtime)
}

fn current_thread() -> Runtime {
    // one worker beside the test's thread, as a command's runtime may be no larger
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn a_mount_shows_its_type_and_source_and_goes_away() {
    if fuse_is_missing() {
        return;
    }
    let (place, runtime) = (Place::new(), current_thread());
    let mount = mounted(&place, &runtime);
    let path = place.path();
    assert_eq!(place.kind().as_deref(), Some(MOUNT_TYPE));
    let shown = sh(&format!("findmnt -n -o SOURCE,FSTYPE '{}'", path.display()));
    assert_eq!(
        shown.split_whitespace().collect::<Vec<_>>(),
        ["m.example:7000", MOUNT_TYPE]
    );
    std::fs::write(path.join("file"), "hello").unwrap();
    assert_eq!(std::fs::read(path.join("file")).unwrap(), b"hello");
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 1);
    if root() {
        let device = rustix::fs::stat(&path).unwrap().st_dev;
        let bdi = format!(
            "/sys/class/bdi/{}:{}/read_ahead_kb",
            rustix::fs::major(device),
            rustix::fs::minor(device)
        );
        assert_eq!(std::fs::read_to_string(bdi).unwrap().trim(), "1024");
    }
    assert_eq!(runtime.block_on(mount.unmount()).unwrap(), Unmounted::Clean);
    assert_eq!(place.kind(), None);
    assert_eq!(runtime.block_on(mount.wait()), Ended::Unmounted);
    assert_eq!(
        runtime.block_on(mount.unmount()).unwrap(),
        Unmounted::Clean,
        "a second time is no error"
    );
}

#[test]
fn a_current_thread_runtime_serves_and_unmounts() {
    if fuse_is_missing() {
        return;
    }
    let place = Place::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mount = start(OneFile::default(), &place.config(), &Handle::current()).unwrap();
        let path = place.path().join("file");
        let written = tokio::task::spawn_blocking(move || {
            std::fs::write(&path, "x").unwrap();
            std::fs::read(&path).unwrap()
        });
        assert_eq!(written.await.unwrap(), b"x");
        assert_eq!(mount.unmount().await.unwrap(), Unmounted::Clean);
    });
}

#[test]
fn a_mount_that_somebody_unmounts_ends() {
    if fuse_is_missing() {
        return;
    }
    let (place, runtime) = (Place::new(), current_thread());
    let mount = mounted(&place, &runtime);
    sh(&format!(
        "umount '{p}' || fusermount3 -u '{p}'",
        p = place.path().display()
    ));
    let ended = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), mount.wait()).await });
    assert_eq!(ended.unwrap(), Ended::Unmounted);
}

#[test]
fn a_busy_mount_is_flushed_and_detached_after_the_wait() {
    if fuse_is_missing() {
        return;
    }
    let (place, runtime) = (Place::new(), current_thread());
    let fs = Arc::new(OneFile::default());
    let mount = Mount::start_with(fs.clone(), &place.config(), runtime.handle()).unwrap();
    let mut busy = File::options()
        .read(true)
        .write(true)
        .open(place.path().join("file"))
        .unwrap();
    busy.write_all(b"kept").unwrap();
    let before = Instant::now();
    assert_eq!(runtime.block_on(mount.unmount()).unwrap(), Unmounted::Detached);
    assert!(before.elapsed() >= Duration::from_millis(500));
    assert!(fs.flushes.load(Ordering::SeqCst) > 0);
    assert_eq!(place.kind(), None, "the name is gone");
    let mut text = String::new();
    busy.seek(SeekFrom::Start(0)).unwrap();
    busy.read_to_string(&mut text).unwrap();
    assert_eq!(text, "kept", "while the process lives, open files go on");
    drop(busy);
    let ended = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), mount.wait()).await });
    assert_eq!(ended.unwrap(), Ended::Unmounted);
}

#[test]
fn a_mount_that_gets_free_in_time_is_not_detached() {
    if fuse_is_missing() {
        return;
    }
    let (place, runtime) = (Place::new(), current_thread());
    let config = MountConfig {
        unmount_wait: Duration::from_secs(20),
        ..place.config()
    };
    let mount = start(OneFile::default(), &config, runtime.handle()).unwrap();
    let busy = File::open(place.path().join("file")).unwrap();
    let closing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(700));
        drop(busy);
    });
    assert_eq!(runtime.block_on(mount.unmount()).unwrap(), Unmounted::Clean);
    closing.join().unwrap();
}

#[test]
fn dropping_a_mount_takes_it_away() {
    if fuse_is_missing() {
        return;
    }
    let (place, runtime) = (Place::new(), current_thread());
    drop(mounted(&place, &runtime));
    assert_eq!(place.kind(), None);
}

#[test]
fn an_answer_that_never_comes_is_eio_within_the_timeout() {
    if fuse_is_missing() {
        return;
    }
    let (place, runtime) = (Place::new(), current_thread());
    let mut config = place.config();
    config.options.timeout = Some(Duration::from_millis(300));
    let fs = OneFile {
        contents: Mutex::new(vec![7; 10]),
        hang_at: Some(0),
        ..OneFile::default()
    };
    let mount = start(fs, &config, runtime.handle()).unwrap();
    let before = Instant::now();
    let error = std::fs::read(place.path().join("file")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
    assert_eq!(runtime.block_on(mount.unmount()).unwrap(), Unmounted::Clean);
}

#[test]
fn a_read_only_mount_refuses_writes() {
    if fuse_is_missing() {
        return;
    }
    let (place, runtime) = (Place::new(), current_thread());
    let mut config = place.config();
    config.options = MountOptions::parse("", "ro,noatime,noexec").unwrap();
    let mount = start(OneFile::default(), &config, runtime.handle()).unwrap();
    let error = std::fs::write(place.path().join("file"), "x").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    let options = sh(&format!("findmnt -n -o OPTIONS '{}'", place.path().display()));
    for word in ["ro", "noatime", "noexec", "nosuid", "nodev", "default_permissions"] {
        assert!(options.split(',').any(|o| o == word), "{word} is not in {options}");
    }
    assert_eq!(options.split(',').any(|o| o == "allow_other"), root());
    runtime.block_on(mount.unmount()).unwrap();
}

#[test]
fn mount_points_that_will_not_do_are_refused_with_the_remedy() {
    if fuse_is_missing() {
        return;
    }
    let (place, runtime) = (Place::new(), current_thread());
    let refusal = |path: &Path| {
        let config = MountConfig::new(path);
        start(OneFile::default(), &config, runtime.handle())
            .err()
            .unwrap()
            .to_string()
    };
    let missing = place.path().join("missing");
    assert!(refusal(&missing).contains(&format!("`mkdir -p {}`", missing.display())));
    let file = place.path().join("plain");
    std::fs::write(&file, "").unwrap();
    assert!(refusal(&file).contains("is not a directory"));
    let mount = mounted(&place, &runtime);
    let text = refusal(&place.path());
    assert!(text.contains("m.example:7000 is already mounted at"), "{text}");
    assert!(text.contains("`umount"), "{text}");
    runtime.block_on(mount.unmount()).unwrap();
}

/// This very test binary, running `serve_until_killed` in another process.
fn served_by_another_process(place: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["serve_until_killed", "--exact"])
        .env("CAIRN_TEST_MOUNT", place)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Not a test by itself: the other process of those below.
#[test]
fn serve_until_killed() {
    let Some(path) = std::env::var_os("CAIRN_TEST_MOUNT") else {
        return;
    };
    let runtime = current_thread();
    let config = MountConfig {
        source: "other:1".into(),
        ..MountConfig::new(path)
    };
    let mount = start(OneFile::default(), &config, runtime.handle()).unwrap();
    runtime.block_on(mount.wait());
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_dead_mount_stays_until_it_is_mounted_again() {
    if fuse_is_missing() {
        return;
    }
    let (place, runtime) = (Place::new(), current_thread());
    let mut other = served_by_another_process(&place.path());
    eventually("mounted", || place.path().join("file").exists());
    let config = place.config();
    let refused = start(OneFile::default(), &config, runtime.handle())
        .err()
        .unwrap()
        .to_string();
    assert!(refused.contains("other:1 is already mounted"), "{refused}");

    other.kill().unwrap();
    other.wait().unwrap();
    let error = std::fs::write(place.path().join("below"), "").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::NOTCONN.raw_os_error()));

    let mount = mounted(&place, &runtime);
    std::fs::write(place.path().join("file"), "again").unwrap();
    assert_eq!(runtime.block_on(mount.unmount()).unwrap(), Unmounted::Clean);
    assert_eq!(place.kind(), None, "the dead mount below is gone too");
}

/// In a mount namespace of its own, where the device is for everybody and fusermount3 setuid, whatever this machine's
/// are.
#[test]
fn a_user_mounts_and_unmounts_by_fusermount3() {
    if fuse_is_missing() {
        return;
    }
    if !root() || !sh_output("command -v setpriv unshare fusermount3").status.success() {
        eprintln!("SKIPPED: needs root, setpriv, unshare and fusermount3 to become another user");
        return;
    }
    let place = Place::new();
    let (above, path) = (place.0.path().display().to_string(), place.path().display().to_string());
    // fusermount3 wants users that have a name, and places where they may write: nobody (65534) and daemon (1)
    let binary = format!("{above}/binary");
    std::fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    let said = sh(&format!(
        "set -e
        cat > '{above}/script' <<'END'
        set -e
        as() {{ who=$1; shift; setpriv --reuid=$who --regid=$who --clear-groups \"$@\"; }}
        mknod '{above}/fuse' c 10 229; chmod 666 '{above}/fuse'; mount --bind '{above}/fuse' /dev/fuse
        cp $(command -v fusermount3) '{above}'; chmod 4755 '{above}/fusermount3'; export PATH='{above}':$PATH
        chmod 755 '{above}' '{binary}'; chown 65534 '{path}'
        CAIRN_TEST_MOUNT='{path}' as 65534 '{binary}' serve_until_killed --exact >/dev/null &
        for i in $(seq 100); do findmnt '{path}' >/dev/null && break; sleep 0.1; done
        findmnt -n -o FSTYPE '{path}'
        as 65534 cat '{path}/file' && echo the owner reads
        as 1 cat '{path}/file' 2>/dev/null || echo nobody else does
        as 65534 fusermount3 -u '{path}'
        wait
        findmnt '{path}' || echo gone
END
        unshare -m sh '{above}/script'"
    ));
    assert_eq!(said, format!("{MOUNT_TYPE}\nthe owner reads\nnobody else does\ngone"));
}

#[test]
fn a_connection_that_the_kernel_cuts_is_reported_dead() {
    if fuse_is_missing() || !root() {
        return;
    }
    let (place, runtime) = (Place::new(), current_thread());
    let mount = mounted(&place, &runtime);
    let minor = rustix::fs::minor(rustix::fs::stat(place.path()).unwrap().st_dev);
    let control = "/sys/fs/fuse/connections";
    if !Path::new(control).join(minor.to_string()).exists() {
        sh(&format!("mount -t fusectl none {control}"));
    }
    std::fs::write(format!("{control}/{minor}/abort"), "1").unwrap();
    let ended = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), mount.wait()).await });
    assert_eq!(ended.unwrap(), Ended::Dead);
    assert_eq!(runtime.block_on(mount.unmount()).unwrap(), Unmounted::Clean);
    assert_eq!(place.kind(), None);
}
