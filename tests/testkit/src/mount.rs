use crate::process::Process;
use crate::wait::wait_until;
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// `cairn mount` in the foreground, as a process of its own. Dropped, it is killed and what is left is unmounted.
pub struct Mount {
    pub process: Process,
    path: PathBuf,
}

impl Mount {
    pub(crate) fn start(process: Process, path: PathBuf, deadline: Duration) -> Result<Self> {
        std::fs::create_dir_all(&path)?;
        let mut mount = Self { process, path };
        mount.process.start()?;
        let what = format!("mount at {}", mount.path.display());
        wait_until(&what, deadline, || {
            if !mount.process.is_running() {
                bail!("it ended: {}", crate::logs::tail(&mount.process.log(), 20));
            }
            Ok(is_mounted(&mount.path)?.then_some(()))
        })?;
        Ok(mount)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// SIGTERM: flushes and unmounts by itself.
    pub fn unmount(mut self) -> Result<()> {
        let status = self.process.terminate()?;
        if !status.success() || is_mounted(&self.path)? {
            bail!(
                "{}: {status}; still mounted: {}",
                self.path.display(),
                is_mounted(&self.path)?
            );
        }
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // best effort: the test has its verdict already
        let _ = self.process.kill();
        if matches!(is_mounted(&self.path), Ok(true)) {
            for (program, flags) in [("fusermount3", "-uz"), ("umount", "-l")] {
                if Command::new(program)
                    .arg(flags)
                    .arg(&self.path)
                    .status()
                    .is_ok_and(|s| s.success())
                {
                    break;
                }
            }
        }
    }
}

fn is_mounted(path: &Path) -> Result<bool> {
    // the path itself: canonicalize would ask a dead mount
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    Ok(mounts.lines().any(|line| line.split(' ').nth(1) == path.to_str()))
}
