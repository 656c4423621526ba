//! What the tests share.
#![allow(dead_code, clippy::disallowed_methods, clippy::unwrap_used)]
pub mod cluster;

use std::path::Path;
use std::process::{Command, Output};

/// Tests that mount need the kernel's FUSE. Where there is none they say so, and do nothing.
pub fn fuse_is_missing() -> bool {
    let missing = !Path::new("/dev/fuse").exists();
    if missing {
        eprintln!("SKIPPED: no /dev/fuse");
    }
    missing
}

pub fn root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs a shell command, and panics with what it said when it fails.
pub fn sh(command: &str) -> String {
    let output = sh_output(command);
    assert!(
        output.status.success(),
        "{command}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

pub fn sh_output(command: &str) -> Output {
    Command::new("sh").arg("-c").arg(command).output().unwrap()
}

/// A result in a form that can be compared.
pub fn errno<T>(result: std::io::Result<T>) -> Result<(), i32> {
    result.map(drop).map_err(|e| e.raw_os_error().unwrap_or(0))
}
