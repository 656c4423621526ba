//! What keeps a machine from mounting, found before mounting, and said with the remedy (first-hour rows 2 and 5).
#![allow(clippy::disallowed_methods)] // mount points and /etc are no disks
use crate::kernel::{self, Attempt, HELPER, MOUNT_TYPE};
use crate::mountinfo::{self, MountEntry};
use rustix::io::Errno;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

/// A mount point that does not answer stat(2) for this long belongs to something that hangs.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
const FUSE_CONF: &str = "/etc/fuse.conf";

#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("the mount point {0} does not exist: `mkdir -p {0}`")]
    Missing(PathBuf),
    #[error("the mount point {0} is not a directory")]
    NotADirectory(PathBuf),
    #[error("{source_name} is already mounted at {path}: unmount it first (`umount {path}`), or take another directory", path = .path.display())]
    AlreadyMounted { path: PathBuf, source_name: String },
    #[error("a mount at {path} does not answer: its process may be stopped; `umount -l {path}` takes it away", path = .path.display())]
    Hangs { path: PathBuf },
    #[error("{path} belongs to a dead mount of {kind}: `umount -l {path}`", path = .path.display())]
    DeadOther { path: PathBuf, kind: String },
    #[error("the dead mount at {path} could not be detached ({cause}): `sudo umount -l {path}`", path = .path.display())]
    DeadOwn { path: PathBuf, cause: io::Error },
    #[error(
        "/dev/fuse does not exist: load the kernel's module (`sudo modprobe fuse`); in a container, start it with \
        `--device /dev/fuse --cap-add SYS_ADMIN --security-opt apparmor:unconfined`"
    )]
    NoDevice,
    #[error(
        "/dev/fuse may not be opened ({cause}): `sudo chmod 666 /dev/fuse`; in a container, start it with \
        `--device /dev/fuse --cap-add SYS_ADMIN --security-opt apparmor:unconfined`"
    )]
    DeviceDenied { cause: io::Error },
    #[error("mounting as uid {uid} needs {HELPER}, which is not in PATH: `sudo apt install fuse3`, or mount as root")]
    NoHelper { uid: u32 },
    #[error(
        "allow_other as uid {uid} needs the line `user_allow_other` in {FUSE_CONF}: \
        `echo user_allow_other | sudo tee -a {FUSE_CONF}`; or mount without allow_other, or as root"
    )]
    AllowOther { uid: u32 },
    #[error(
        "mounting at {path} is not permitted ({cause}): be root, and in a container start it with \
        `--device /dev/fuse --cap-add SYS_ADMIN --security-opt apparmor:unconfined`", path = .path.display()
    )]
    NotPermitted { path: PathBuf, cause: io::Error },
    #[error("{helper} can not mount for users, because it is not setuid root: `sudo chmod u+s {helper}`, or mount as root", helper = .0.display())]
    HelperNotSetuid(PathBuf),
    #[error("{HELPER} could not mount at {path}: {said}", path = .path.display())]
    Helper { path: PathBuf, said: String },
    #[error("{path}: {cause}", path = .path.display())]
    Failed { path: PathBuf, cause: io::Error },
    #[error("the mount at {path} could not be taken away: {cause}; `sudo umount -l {path}`", path = .path.display())]
    Unmount { path: PathBuf, cause: io::Error },
}

impl MountError {
    pub(crate) fn failed(path: &Path, cause: io::Error) -> Self {
        let path = path.to_owned();
        MountError::Failed { path, cause }
    }

    /// fusermount3's words, where they are not clear enough made into ours.
    pub(crate) fn helper_said(path: &Path, helper: &Path, setuid: bool, stderr: &[u8]) -> Self {
        let said = String::from_utf8_lossy(stderr).trim().to_owned();
        if !setuid {
            return MountError::HelperNotSetuid(helper.to_owned());
        }
        if said.contains("mount failed: Operation not permitted") {
            return MountError::NotPermitted {
                path: path.to_owned(),
                cause: io::Error::other(said),
            };
        }
        if said.contains("user_allow_other") {
            return MountError::AllowOther {
                uid: rustix::process::geteuid().as_raw(),
            };
        }
        if said.contains("failed to open /dev/fuse") || said.contains("fuse device not found") {
            return match said.contains("ermission denied") {
                true => MountError::DeviceDenied {
                    cause: io::Error::other(said),
                },
                false => MountError::NoDevice,
            };
        }
        MountError::Helper {
            path: path.to_owned(),
            said: if said.is_empty() {
                "it gave no reason".into()
            } else {
                said
            },
        }
    }
}

/// What answers at a mount point.
#[derive(Debug, PartialEq, Eq)]
enum Probe {
    Directory,
    Other,
    Missing,
    /// A mount whose process has died: "Transport endpoint is not connected".
    Dead,
    Hangs,
    Failed(i32),
}

fn probe(path: &Path) -> Probe {
    let (answer, asked) = mpsc::sync_channel(1);
    let path = path.to_owned();
    // stat(2) of a mount that hangs cannot be interrupted: a thread of its own is left behind then
    std::thread::spawn(move || {
        use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, statx};
        // not from the kernel's cache, which outlives the process that filled it
        let found = statx(CWD, &path, AtFlags::STATX_FORCE_SYNC, StatxFlags::TYPE);
        let found = found.map(|s| FileType::from_raw_mode(s.stx_mode.into()) == FileType::Directory);
        // nobody listens any more after the timeout
        let _ = answer.send(found);
    });
    match asked.recv_timeout(PROBE_TIMEOUT) {
        Ok(Ok(true)) => Probe::Directory,
        Ok(Ok(false)) => Probe::Other,
        Ok(Err(Errno::NOENT)) => Probe::Missing,
        Ok(Err(Errno::NOTCONN | Errno::CONNABORTED)) => Probe::Dead,
        Ok(Err(e)) => Probe::Failed(e.raw_os_error()),
        Err(_) => Probe::Hangs,
    }
}

/// What is to be done about what was found, as a pure function.
#[derive(Debug)]
enum Verdict {
    Mount,
    /// Our own mount, dead: take it away, and look again.
    Detach,
    Refuse(MountError),
}

fn judge(path: &Path, found: Probe, top: Option<&MountEntry>) -> Verdict {
    let own = top.filter(|m| m.kind == MOUNT_TYPE);
    let path = path.to_owned();
    Verdict::Refuse(match (found, own) {
        (Probe::Dead, Some(_)) => return Verdict::Detach,
        (Probe::Dead, None) => MountError::DeadOther {
            path,
            kind: top.map_or("another file system".into(), |m| m.kind.clone()),
        },
        (Probe::Hangs, _) => MountError::Hangs { path },
        (Probe::Directory | Probe::Other | Probe::Failed(_), Some(own)) => MountError::AlreadyMounted {
            path,
            source_name: own.source.clone(),
        },
        (Probe::Directory, None) => return Verdict::Mount,
        (Probe::Other, None) => MountError::NotADirectory(path),
        (Probe::Missing, _) => MountError::Missing(path),
        (Probe::Failed(errno), None) => MountError::Failed {
            path,
            cause: io::Error::from_raw_os_error(errno),
        },
    })
}

/// Makes `path` ready to be mounted on, and gives its absolute form. A dead mount of ours is taken away; only now, when
/// it is replaced: until then it keeps programs from writing to the directory below.
pub(crate) fn prepare(path: &Path) -> Result<PathBuf, MountError> {
    // dead mounts may lie on each other
    for _ in 0..16 {
        let found = probe(path);
        let target = match mountinfo::canonical(path) {
            Ok(target) => target,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(MountError::Missing(path.to_owned())),
            Err(e) => return Err(MountError::failed(path, e)),
        };
        let top = mountinfo::top(&target).map_err(|e| MountError::failed(path, e))?;
        match judge(&target, found, top.as_ref()) {
            Verdict::Mount => {
                warn_if_not_empty(&target);
                return Ok(target);
            }
            Verdict::Refuse(e) => return Err(e),
            Verdict::Detach => {
                tracing::warn!(path = %target.display(), "detaching a dead mount whose process has ended");
                if let Attempt::Failed(cause) = kernel::unmount(&target, true) {
                    return Err(MountError::DeadOwn { path: target, cause });
                }
            }
        }
    }
    Err(MountError::DeadOwn {
        path: path.to_owned(),
        cause: io::Error::other("dead mounts lie on each other, too many of them"),
    })
}

fn warn_if_not_empty(target: &Path) {
    match std::fs::read_dir(target).map(|mut entries| entries.next().is_some()) {
        Ok(true) => {
            tracing::warn!(path = %target.display(), "the mount point is not empty: its files are hidden while mounted")
        }
        Ok(false) => {}
        // the mount will say what is wrong
        Err(e) => tracing::debug!(path = %target.display(), error = %e, "the mount point can not be listed"),
    }
}

/// Whether users other than the one who mounts get in: by default when root mounts.
pub(crate) fn allow_other(wanted: Option<bool>, uid: u32, fuse_conf: io::Result<String>) -> Result<bool, MountError> {
    match wanted {
        Some(true) if uid != 0 && !user_allow_other(&fuse_conf.unwrap_or_default()) => {
            Err(MountError::AllowOther { uid })
        }
        Some(wanted) => Ok(wanted),
        None => Ok(uid == 0),
    }
}

pub(crate) fn fuse_conf() -> io::Result<String> {
    std::fs::read_to_string(FUSE_CONF)
}

fn user_allow_other(fuse_conf: &str) -> bool {
    fuse_conf.lines().any(|line| line.trim() == "user_allow_other")
}

/// Opens the device as one who mounts by himself.
pub(crate) fn device() -> Result<std::os::fd::OwnedFd, MountError> {
    kernel::open_device().map_err(|cause| match cause.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT | Errno::NXIO | Errno::NODEV) => MountError::NoDevice,
        _ => MountError::DeviceDenied { cause },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: &str) -> MountEntry {
        MountEntry {
            id: 7,
            device: "0:50".into(),
            target: "/m".into(),
            kind: kind.into(),
            source: "host:7000".into(),
        }
    }

    fn refusal(found: Probe, top: Option<&MountEntry>) -> String {
        match judge(Path::new("/m"), found, top) {
            Verdict::Refuse(e) => e.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_a_dead_mount_of_our_own_is_detached() {
        let (own, other) = (entry(MOUNT_TYPE), entry("fuse.sshfs"));
        assert!(matches!(
            judge(Path::new("/m"), Probe::Dead, Some(&own)),
            Verdict::Detach
        ));
        assert!(matches!(judge(Path::new("/m"), Probe::Directory, None), Verdict::Mount));
        assert!(matches!(
            judge(Path::new("/m"), Probe::Directory, Some(&entry("ext4"))),
            Verdict::Mount
        ));
        assert!(refusal(Probe::Directory, Some(&own)).contains("host:7000 is already mounted at /m"));
        assert!(refusal(Probe::Dead, Some(&other)).contains("dead mount of fuse.sshfs: `umount -l /m`"));
        assert!(refusal(Probe::Hangs, Some(&own)).contains("`umount -l /m`"));
        assert!(refusal(Probe::Missing, None).contains("`mkdir -p /m`"));
        assert!(refusal(Probe::Other, None).contains("not a directory"));
    }

    #[test]
    fn an_unprivileged_allow_other_needs_fuse_conf_and_says_the_line() {
        let conf = |text: &str| Ok(text.to_owned());
        let missing = || Err(io::Error::from(io::ErrorKind::NotFound));
        assert!(allow_other(None, 0, missing()).unwrap(), "root shares by default");
        assert!(!allow_other(Some(false), 0, missing()).unwrap());
        assert!(allow_other(Some(true), 0, missing()).unwrap());
        assert!(!allow_other(None, 1000, conf("user_allow_other\n")).unwrap());
        assert!(allow_other(Some(true), 1000, conf("mount_max = 9\n user_allow_other \n")).unwrap());
        for refused in [missing(), conf("#user_allow_other\n")] {
            let text = allow_other(Some(true), 1000, refused).unwrap_err().to_string();
            assert!(
                text.contains("echo user_allow_other | sudo tee -a /etc/fuse.conf"),
                "{text}"
            );
        }
    }

    #[test]
    fn what_fusermount_says_becomes_a_remedy() {
        let error = |setuid, text: &str| {
            let (path, helper) = (Path::new("/m"), Path::new("/bin/fusermount3"));
            MountError::helper_said(path, helper, setuid, text.as_bytes()).to_string()
        };
        let said = |text: &str| error(true, text);
        let denied = "fusermount3: mount failed: Operation not permitted";
        assert!(error(false, denied).contains("`sudo chmod u+s /bin/fusermount3`"));
        assert!(said(denied).contains("--cap-add SYS_ADMIN"));
        assert!(
            said("fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf")
                .contains("tee -a /etc/fuse.conf")
        );
        assert!(said("fusermount3: fuse device not found, try 'modprobe fuse' first").contains("modprobe fuse"));
        assert!(said("fusermount3: failed to open /dev/fuse: Permission denied").contains("chmod 666 /dev/fuse"));
        assert_eq!(
            said("fusermount3: user has no write access to mountpoint /m\n"),
            "fusermount3 could not mount at /m: fusermount3: user has no write access to mountpoint /m"
        );
    }
}
