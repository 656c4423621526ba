//! The two kinds of places that files are copied between, behind one trait: this machine and the cluster. Paths are
//! bytes on both.
use crate::failure::Result;
use async_trait::async_trait;
use bytes::Bytes;
use cairn_client::FileKind;

/// What a copy needs to know of a file.
#[derive(Debug, Clone)]
pub struct Meta {
    pub kind: FileKind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u64,
    pub size: u64,
    pub rdev: u32,
    pub atime_ns: i64,
    pub mtime_ns: i64,
    /// The same for two names of one file, and for no two files: (device, inode).
    pub id: (u64, u64),
}

/// What becomes of a file's attributes. What is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct Change {
    pub mode: Option<u32>,
    pub owner: Option<(u32, u32)>,
    /// (access, modification), nanoseconds since 1970.
    pub times_ns: Option<(i64, i64)>,
}

/// A path within a tree: absolute in the cluster, as the user wrote it on this machine.
pub type NodePath = Vec<u8>;

/// `directory/name`
pub fn join(directory: &[u8], name: &[u8]) -> NodePath {
    let mut path = directory.to_vec();
    if !path.ends_with(b"/") && !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// The directory and the last name; `None` where there is no such name (`/`, `..`).
pub fn split(path: &[u8]) -> Option<(NodePath, Bytes)> {
    let end = path.iter().rposition(|b| *b != b'/')? + 1;
    let start = path[..end].iter().rposition(|b| *b == b'/').map_or(0, |i| i + 1);
    let name = &path[start..end];
    if matches!(name, b"." | b"..") {
        return None;
    }
    let directory = match &path[..start] {
        b"" => b".".to_vec(),
        slashes if slashes.iter().all(|b| *b == b'/') => b"/".to_vec(),
        directory => directory[..directory.len() - 1].to_vec(),
    };
    Some((directory, Bytes::copy_from_slice(name)))
}

/// Errors are in the words of a command and name the path.
#[async_trait]
pub trait Tree: Send + Sync + 'static {
    /// The path as the user would write it.
    fn show(&self, path: &[u8]) -> String;
    /// `None`: nothing there.
    async fn stat(&self, path: &[u8], follow: bool) -> Result<Option<Meta>>;
    /// Names and what they are, links not followed, by name.
    async fn list(&self, path: &[u8]) -> Result<Vec<(Bytes, Meta)>>;
    async fn read_link(&self, path: &[u8]) -> Result<Bytes>;
    async fn open(&self, path: &[u8]) -> Result<Box<dyn Source>>;
    /// Creates `path`, or `None` if there is something; with `reopen` what is there is opened instead.
    async fn create(&self, path: &[u8], mode: u32, reopen: bool) -> Result<Option<Box<dyn Sink>>>;
    async fn mkdir(&self, path: &[u8], mode: u32) -> Result<()>;
    async fn symlink(&self, target: &[u8], path: &[u8]) -> Result<()>;
    /// A fifo, socket or device.
    async fn make_special(&self, path: &[u8], like: &Meta) -> Result<()>;
    async fn link(&self, existing: &[u8], path: &[u8]) -> Result<()>;
    async fn change(&self, path: &[u8], kind: FileKind, change: &Change) -> Result<()>;
    /// Over what is there, unless `no_replace`; `false`: something is there.
    async fn rename(&self, from: &[u8], to: &[u8], no_replace: bool) -> Result<bool>;
    async fn remove_file(&self, path: &[u8]) -> Result<()>;
    async fn remove_directory(&self, path: &[u8]) -> Result<()>;
    /// The directory's names are on stable storage.
    async fn sync_directory(&self, path: &[u8]) -> Result<()>;
}

/// A file that is read.
#[async_trait]
pub trait Source: Send + Sync {
    fn size(&self) -> u64;
    /// All of it; fewer bytes only at the file's end.
    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes>;
    /// The next bytes that are no hole, from `offset`: [start, end).
    async fn next_data(&self, offset: u64) -> Result<Option<(u64, u64)>>;
    /// Size and modification time now.
    async fn now(&self) -> Result<(u64, i64)>;
}

/// A file that is written.
#[async_trait]
pub trait Sink: Source {
    async fn write_at(&self, offset: u64, data: Bytes) -> Result<()>;
    async fn set_len(&self, len: u64) -> Result<()>;
    /// All bytes are on stable storage, in every replica.
    async fn sync(&self) -> Result<()>;
    async fn close(self: Box<Self>) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_split_into_directory_and_name() {
        let parts = |path: &str| split(path.as_bytes()).map(|(d, n)| (String::from_utf8(d).unwrap(), n));
        assert_eq!(parts("a"), Some((".".into(), "a".into())));
        assert_eq!(parts("/a"), Some(("/".into(), "a".into())));
        assert_eq!(parts("a/b/"), Some(("a".into(), "b".into())));
        assert_eq!(parts("/a/b"), Some(("/a".into(), "b".into())));
        for path in ["/", "..", "a/..", "", "."] {
            assert_eq!(parts(path), None, "{path}");
        }
        assert_eq!(join(b"/", b"a"), b"/a");
        assert_eq!(join(b"d", b"a"), b"d/a");
    }
}
