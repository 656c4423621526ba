//! /proc/self/mountinfo: what is mounted where, without touching any of it (stat(2) of a dead mount fails, of a hung one
//! hangs).
#![allow(clippy::disallowed_methods)] // /proc is no disk
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    pub id: u64,
    /// `major:minor`, as in /sys/class/bdi; the minor is FUSE's number of the connection.
    pub device: String,
    pub target: PathBuf,
    /// With the subtype: `fuse.cairn`.
    pub kind: String,
    pub source: String,
}

pub fn read() -> io::Result<Vec<MountEntry>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// What is visible at `target`: the last of what is mounted there.
pub fn top(target: &Path) -> io::Result<Option<MountEntry>> {
    Ok(read()?.into_iter().rfind(|m| m.target == target))
}

fn parse(text: &[u8]) -> Vec<MountEntry> {
    text.split(|b| *b == b'\n').filter_map(parse_line).collect()
}

/// `36 35 98:0 /root /target options optional... - kind source options`
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|b| *b == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let device = String::from_utf8_lossy(fields.nth(1)?).into_owned();
    let target = PathBuf::from(unescape(fields.nth(1)?));
    let mut fields = fields.skip_while(|f| *f != b"-").skip(1);
    let kind = unescape(fields.next()?).to_string_lossy().into_owned();
    let source = unescape(fields.next()?).to_string_lossy().into_owned();
    Some(MountEntry {
        id,
        device,
        target,
        kind,
        source,
    })
}

/// Space, tab, newline and backslash are written as `\` and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let code = (*first == b'\\').then(|| tail.get(..3)).flatten();
        let code = code.and_then(|c| u8::from_str_radix(std::str::from_utf8(c).ok()?, 8).ok());
        match code {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(out)
}

/// The absolute path of a mount point, also of one whose file system is dead and cannot be asked.
pub fn canonical(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::NOTCONN.raw_os_error()) => {
            let absolute = std::path::absolute(path)?;
            match (absolute.parent(), absolute.file_name()) {
                (Some(parent), Some(name)) if name.as_bytes() != b".." => Ok(parent.canonicalize()?.join(name)),
                _ => Err(e),
            }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_spaces_and_optional_fields_is_read() {
        let text = b"22 1 0:21 / /proc rw shared:1 - proc proc rw\n\
            901 22 0:57 / /mnt/my\\040disk\\134x rw,nosuid shared:3 master:1 - fuse.cairn 10.0.0.1:7000 rw,user_id=0\n\
            broken line\n";
        let entries = parse(text);
        assert_eq!(entries.len(), 2);
        assert_eq!(
            entries[1],
            MountEntry {
                id: 901,
                device: "0:57".into(),
                target: "/mnt/my disk\\x".into(),
                kind: "fuse.cairn".into(),
                source: "10.0.0.1:7000".into(),
            }
        );
    }

    #[test]
    fn this_machine_has_a_root() {
        assert!(top(Path::new("/")).unwrap().is_some());
        assert!(top(Path::new("/no/such/mount")).unwrap().is_none());
    }
}
