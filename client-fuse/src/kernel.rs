//! mount(2), umount(2), and fusermount3 for those who may not call them.
//!
//! Why not fuser's own: it gives the kernel no subtype when root mounts; its second unmount answers Ok and leaves the
//! mount; and what it unmounts on drop is whatever lies at the path by then.
#![allow(clippy::disallowed_methods)] // devices and /sys are no disks
use crate::mountinfo;
use crate::options::MountOptions;
use crate::preflight::MountError;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount as mount2, unmount as umount2};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{getegid, geteuid};
use std::ffi::CString;
use std::fs::OpenOptions;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What `mount` and findmnt show.
pub const MOUNT_TYPE: &str = "fuse.cairn";
pub(crate) const DEVICE: &str = "/dev/fuse";
pub(crate) const HELPER: &str = "fusermount3";

/// What to mount where.
pub(crate) struct Plan<'a> {
    pub target: &'a Path,
    /// Shown as the device: the master's address.
    pub source: &'a str,
    pub options: &'a MountOptions,
    pub allow_other: bool,
}

pub(crate) fn open_device() -> io::Result<OwnedFd> {
    Ok(OpenOptions::new().read(true).write(true).open(DEVICE)?.into())
}

/// By mount(2), for root. `device` is open on /dev/fuse, and serves the mount from here on.
pub(crate) fn mount_directly(plan: &Plan<'_>, device: &OwnedFd) -> Result<(), MountError> {
    use std::os::fd::AsRawFd;
    let failed = |e: io::Error| MountError::failed(plan.target, e);
    let mode = std::fs::metadata(plan.target).map_err(failed)?.mode();
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let mut data = format!(
        "fd={},rootmode={mode:o},user_id={uid},group_id={gid},default_permissions",
        device.as_raw_fd()
    );
    if plan.allow_other {
        data.push_str(",allow_other");
    }
    let data = CString::new(data).map_err(|e| failed(e.into()))?;
    mount2(
        plan.source,
        plan.target,
        MOUNT_TYPE,
        plan.options.flags(),
        data.as_c_str(),
    )
    .map_err(|e| match e {
        Errno::PERM | Errno::ACCESS => MountError::NotPermitted {
            path: plan.target.to_owned(),
            cause: e.into(),
        },
        Errno::NODEV => MountError::NoDevice,
        e => failed(e.into()),
    })
}

/// By fusermount3, which is setuid root. It mounts, and sends the device over a socket that it finds as descriptor 0.
pub(crate) fn mount_by_helper(plan: &Plan<'_>) -> Result<OwnedFd, MountError> {
    let failed = |e: io::Error| MountError::failed(plan.target, e);
    let helper = helper().ok_or_else(|| MountError::NoHelper {
        uid: geteuid().as_raw(),
    })?;
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    // a comma or backslash in the name would end the option
    let source = plan.source.replace('\\', "\\\\").replace(',', "\\,");
    let mut options = vec![
        format!("fsname={source}"),
        "subtype=cairn".into(),
        "default_permissions".into(),
    ];
    options.extend(plan.options.words().into_iter().map(str::to_owned));
    if plan.allow_other {
        options.push("allow_other".into());
    }
    let child = Command::new(&helper)
        .arg("-o")
        .arg(options.join(","))
        .arg("--")
        .arg(plan.target)
        .env("_FUSE_COMMFD", "0")
        .env("LC_ALL", "C")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let device = receive_descriptor(&ours);
    let output = child.wait_with_output().map_err(failed)?;
    match device.map_err(failed)? {
        Some(device) => Ok(device),
        None => {
            let meta = std::fs::metadata(&helper).map_err(failed)?;
            let setuid = meta.uid() == 0 && meta.mode() & 0o4000 != 0;
            Err(MountError::helper_said(plan.target, &helper, setuid, &output.stderr))
        }
    }
}

/// `None`: the other end closed without sending one.
fn receive_descriptor(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, flags) {
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    let rights = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok(rights)
}

/// Where fusermount3 is, if it is anywhere.
pub(crate) fn helper() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(HELPER))
        .find(|file| file.is_file())
}

/// What an attempt to unmount came to; whether anything is still mounted is for mountinfo to say.
pub(crate) enum Attempt {
    Done,
    Busy,
    Failed(io::Error),
}

/// `lazy`: the name goes at once, the mount with its last open file.
pub(crate) fn unmount(target: &Path, lazy: bool) -> Attempt {
    let mut flags = UnmountFlags::NOFOLLOW;
    flags.set(UnmountFlags::DETACH, lazy);
    match umount2(target, flags) {
        Ok(()) => Attempt::Done,
        Err(Errno::BUSY) => Attempt::Busy,
        Err(Errno::PERM) if !geteuid().is_root() => unmount_by_helper(target, lazy),
        Err(e) => Attempt::Failed(e.into()),
    }
}

fn unmount_by_helper(target: &Path, lazy: bool) -> Attempt {
    let Some(helper) = helper() else {
        let text = format!("unmounting as a user needs {HELPER}, which is not in PATH");
        return Attempt::Failed(io::Error::new(io::ErrorKind::NotFound, text));
    };
    let output = Command::new(helper)
        .arg(if lazy { "-uz" } else { "-u" })
        .arg("--")
        .arg(target)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output();
    match output {
        Err(e) => Attempt::Failed(e),
        Ok(output) if output.status.success() => Attempt::Done,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            if said.contains("busy") {
                Attempt::Busy
            } else {
                Attempt::Failed(io::Error::other(said))
            }
        }
    }
}

/// Lets the kernel read ahead by as much as one request can carry: it starts with 128 KiB. Only root may.
pub(crate) fn raise_read_ahead(device: &str, kib: u32) -> io::Result<()> {
    std::fs::write(format!("/sys/class/bdi/{device}/read_ahead_kb"), kib.to_string())
}

/// The mount `id` is still there.
pub(crate) fn mounted(target: &Path, id: u64) -> io::Result<bool> {
    Ok(mountinfo::read()?
        .iter()
        .any(|m| m.id == id && m.target == target && m.kind == MOUNT_TYPE))
}
