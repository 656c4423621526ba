//! `cairn mount` as a process: how it ends, and what is done about one that died.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]
mod common;

use common::{Cluster, bytes, signal};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Linux's number for "Transport endpoint is not connected".
const ENOTCONN: i32 = 107;

fn mounted(at: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().any(|line| line.split(' ').nth(1) == at.to_str())
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A mount in the foreground; whatever happens to it, it is gone in the end.
struct Mount {
    at: PathBuf,
    process: Child,
}

impl Mount {
    fn start(cluster: &Cluster, options: &[&str]) -> Self {
        let at = cluster.path("mnt");
        let log = File::create(cluster.path("mount.log")).unwrap();
        let process = cluster
            .command(&["mount", "mnt"])
            .args(options)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mount = Self { at, process };
        eventually("mounted", || mounted(&mount.at));
        mount
    }

    /// Waits for its end; gives the exit code.
    fn ended(&mut self) -> Option<i32> {
        let mut code = None;
        eventually("the mount's process ended", || {
            code = self.process.try_wait().unwrap();
            code.is_some()
        });
        code.and_then(|status| status.code())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if mounted(&self.at) {
            let _ = std::process::Command::new("umount").arg("-l").arg(&self.at).status();
        }
    }
}

#[test]
fn sigterm_flushes_what_is_written_and_unmounts() {
    let c = Cluster::start();
    for name in ["TERM", "INT"] {
        let mut mount = Mount::start(&c, &[]);
        let data = bytes(3_000_000, 7);
        let path = format!("/{name}");
        let mut file = File::create(mount.at.join(name)).unwrap();
        file.write_all(&data).unwrap();
        drop(file);
        signal(&mount.process, name);
        assert_eq!(mount.ended(), Some(0));
        assert!(!mounted(&mount.at));
        assert_eq!(c.get(&path), data);
    }
}

#[test]
fn sigterm_detaches_a_mount_that_stays_busy_and_keeps_what_was_written() {
    let c = Cluster::start();
    // lengths are committed by nobody but the flush
    let mut mount = Mount::start(&c, &["--unmount-wait", "1s", "--commit-interval", "1h"]);
    let mut busy = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(mount.at.join("busy"))
        .unwrap();
    busy.write_all(b"written and never closed").unwrap();
    // not by kill(1): a process that is started closes its copy of the file, and a close flushes
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&mount.process),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    assert_eq!(mount.ended(), Some(0));
    assert!(!mounted(&mount.at), "the name is gone");
    assert_eq!(c.get("/busy"), b"written and never closed");
    let log = std::fs::read_to_string(c.path("mount.log")).unwrap();
    assert!(log.contains("detached"), "{log}");
    // the program hears of it
    busy.seek(SeekFrom::Start(0)).unwrap();
    let error = busy.read(&mut [0; 10]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(ENOTCONN));
}

#[test]
fn a_mount_whose_process_was_killed_is_mounted_again_by_the_same_command() {
    let c = Cluster::start();
    c.put("/f", "kept");
    let mut mount = Mount::start(&c, &[]);
    mount.process.kill().unwrap();
    mount.process.wait().unwrap();
    let error = std::fs::read(mount.at.join("f")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(ENOTCONN));
    assert!(
        mounted(&mount.at),
        "it stays, so that nothing is written to the directory below"
    );
    drop(std::mem::replace(&mut mount.process, {
        let again = c
            .command(&["mount", "mnt"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        again.unwrap()
    }));
    eventually("it serves again", || {
        std::fs::read(mount.at.join("f")).is_ok_and(|read| read == b"kept")
    });
    signal(&mount.process, "TERM");
    assert_eq!(mount.ended(), Some(0));
    assert!(!mounted(&mount.at), "the dead one below is gone too");
}

#[test]
fn a_user_who_cannot_mount_is_told_the_remedy() {
    let runs = |command: &str| {
        std::process::Command::new("sh")
            .args(["-c", command])
            .status()
            .unwrap()
            .success()
    };
    if !rustix::process::geteuid().is_root() || !runs("command -v setpriv fusermount3 >/dev/null") {
        eprintln!("SKIPPED: needs root, setpriv and fusermount3 to become another user");
        return;
    }
    let c = Cluster::start();
    let d = c.directory.path().display();
    // a place that is nobody's own, a binary that nobody may run, and a helper that is not setuid root
    assert!(runs(&format!(
        "set -e; cd '{d}'; mkdir own helper; cp '{cairn}' $(command -v fusermount3) helper; chown 65534 own; chmod 755 . helper/*",
        cairn = env!("CARGO_BIN_EXE_cairn"),
    )));
    let script = format!(
        "cd '{d}' && PATH='{d}/helper' exec $(command -v setpriv) --reuid=65534 --regid=65534 --clear-groups helper/cairn mount own"
    );
    let output = std::process::Command::new("sh")
        .args(["-c", &script])
        .env("CAIRN_MASTER", &c.address)
        .env_remove("CAIRN_CONFIG")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.starts_with("cairn: mount: ") && said.contains("because it is not setuid root"),
        "{said}"
    );
    assert!(
        said.contains(&format!("`sudo chmod u+s {d}/helper/fusermount3`, or mount as root")),
        "{said}"
    );
    assert!(!mounted(&c.path("own")));
}
