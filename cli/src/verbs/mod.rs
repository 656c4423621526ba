//! The file verbs: each takes its options and a connected [`Remote`], and writes to `out`.
pub mod admin;
pub mod attributes;
pub mod content;
pub mod find;
pub mod fsck;
pub mod goal;
pub mod list;
pub mod names;
pub mod records;
pub mod space;
pub mod trash;

use crate::failure::Result;
use crate::output;
use crate::path::ClusterPath;
use crate::remote::Remote;
use cairn_client::{Attr, FileKind};
use serde::Serialize;

/// Where verbs write. Errors of writing end the verb.
pub type Out<'a> = &'a mut (dyn std::io::Write + Send);

pub fn kind_name(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Regular => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::CharacterDevice => "character-device",
        FileKind::BlockDevice => "block-device",
    }
}

/// As `ls -l` and `find -type` have it.
pub fn kind_letter(kind: FileKind) -> char {
    match kind {
        FileKind::Regular => '-',
        FileKind::Directory => 'd',
        FileKind::Symlink => 'l',
        FileKind::Fifo => 'p',
        FileKind::Socket => 's',
        FileKind::CharacterDevice => 'c',
        FileKind::BlockDevice => 'b',
    }
}

/// `-rwxr-sr-t`
pub fn mode_text(attr: &Attr) -> String {
    let mut text = String::with_capacity(10);
    text.push(kind_letter(attr.kind));
    for (shift, special, set, unset) in [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')] {
        let bits = attr.mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (attr.mode & special != 0, bits & 1 != 0) {
            (true, true) => set,
            (true, false) => unset,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// A file in JSON listings.
#[derive(Debug, Serialize)]
pub struct JsonFile {
    pub path: String,
    pub name: String,
    pub kind: &'static str,
    pub inode: u64,
    /// Octal, as people write it.
    pub mode: String,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub size: u64,
    pub allocated_bytes: u64,
    pub atime_ns: i64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    pub btime_ns: i64,
    pub goal: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

impl JsonFile {
    pub fn new(path: &ClusterPath, attr: &Attr, target: Option<&[u8]>) -> Self {
        let name = path.name();
        Self {
            path: path.to_string(),
            name: if name.is_empty() {
                "/".into()
            } else {
                output::name(&name)
            },
            kind: kind_name(attr.kind),
            inode: attr.ino.0,
            mode: format!("{:04o}", attr.mode),
            uid: attr.uid,
            gid: attr.gid,
            nlink: attr.nlink,
            size: attr.size,
            allocated_bytes: attr.allocated_bytes,
            atime_ns: attr.atime_ns,
            mtime_ns: attr.mtime_ns,
            ctime_ns: attr.ctime_ns,
            btime_ns: attr.btime_ns,
            goal: attr.goal,
            target: target.map(output::name),
        }
    }
}

/// Everything of a tree down to `depth_max`, with its depth, a directory before what is in it. For commands whose answer
/// is as large. A stack holds what is still to be listed, so that deep trees need no deep recursion.
pub async fn collect(
    remote: &Remote,
    path: &ClusterPath,
    attr: &Attr,
    depth_max: usize,
) -> Result<Vec<(ClusterPath, Attr, usize)>> {
    let mut found = vec![];
    let mut stack = vec![(path.clone(), attr.clone(), 0)];
    while let Some((path, attr, depth)) = stack.pop() {
        if attr.kind == FileKind::Directory && depth < depth_max {
            let entries = remote.list_sorted(&path, attr.ino).await?;
            stack.extend(
                entries
                    .into_iter()
                    .rev()
                    .map(|e| (path.join(&e.name), e.attr, depth + 1)),
            );
        }
        found.push((path, attr, depth));
    }
    Ok(found)
}
