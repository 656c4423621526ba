//! The cluster as commands see it: a client, paths, listings, and errors in the words of a command.
use crate::config::Config;
use crate::failure::{Failure, Result, plain};
use crate::output;
use crate::path::{ClusterPath, has_pattern, matches};
use cairn_client::{Admin, Attr, Client, DirectoryEntry, Error, File, FileKind, OpenMode, Resolved};
use cairn_io::Env;
use cairn_types::Inode;
use cairn_types::limits::READDIR_ENTRIES_MAX;
use futures::stream::{self, Stream, StreamExt};
use std::ffi::OsString;
use std::io;
use std::time::Duration;

/// Bytes of one read or write of a command.
pub const PIECE_BYTES: usize = 1 << 20;
/// Reads of one file under way at a time.
const READS_AHEAD: usize = 4;
/// What to do when the master does not answer; where it is said to be is in the error itself.
pub const NO_MASTER: &str = "a cluster on this machine is started with `cairn up`";
/// What a command waits for the last words with the master.
const GOODBYE_WITHIN: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub struct Remote {
    pub client: Client,
    env: Env,
    master: String,
}

impl Remote {
    pub async fn connect(config: &Config, purpose: &str) -> Result<Self> {
        let env = Env::real();
        let settings = crate::settings::client(config, purpose);
        let master = settings.master.clone();
        let client = Client::connect(settings, env.clone())
            .await
            .map_err(|e| Failure::new("", e).next(NO_MASTER))?;
        Ok(Self { client, env, master })
    }

    pub async fn admin(&self) -> Result<Admin> {
        Admin::connect(&self.master, self.env.clone())
            .await
            .map_err(|e| Failure::new("", e))
    }

    /// Tells the master that this client leaves. Failing at that is no failure of the command: sessions end anyway.
    pub async fn goodbye(self) -> Result<()> {
        match tokio::time::timeout(GOODBYE_WITHIN, self.client.shutdown()).await {
            Ok(Err(e)) => tracing::debug!(error = %e, "goodbye"),
            Err(_) => tracing::debug!("goodbye not answered"),
            Ok(Ok(())) => {}
        }
        Ok(())
    }

    pub async fn resolve(&self, path: &ClusterPath, follow: bool) -> Result<Resolved> {
        self.client.resolve(path.as_bytes(), follow).await.map_err(fail(path))
    }

    /// What is at `path`, if anything is.
    pub async fn find(&self, path: &ClusterPath, follow: bool) -> Result<Option<Attr>> {
        match self.client.resolve(path.as_bytes(), follow).await {
            Ok(resolved) => Ok(resolved.attr),
            Err(Error::Posix { errno: ENOENT, .. }) => Ok(None),
            Err(e) => Err(fail(path)(e)),
        }
    }

    /// What is at `path`, which must exist.
    pub async fn get(&self, path: &ClusterPath, follow: bool) -> Result<Attr> {
        self.resolve(path, follow).await?.attr.ok_or_else(|| missing(path))
    }

    /// Where `path` is or would be: its directory and name. Not for the root.
    pub async fn place(&self, path: &ClusterPath) -> Result<(Inode, bytes::Bytes)> {
        if path.is_root() {
            return Err(Failure::new(path, "the root directory stays where it is"));
        }
        let parent = self.get(&path.parent(), true).await?;
        if parent.kind != FileKind::Directory {
            return Err(Failure::new(path.parent(), "not a directory"));
        }
        Ok((parent.ino, path.name()))
    }

    /// The directory's entries, page by page, in the order of their hashes.
    pub fn list(&self, path: &ClusterPath, ino: Inode) -> impl Stream<Item = Result<DirectoryEntry>> + Send + use<> {
        let (client, path) = (self.client.clone(), path.clone());
        stream::unfold(Some(0), move |after| {
            let (client, path) = (client.clone(), path.clone());
            async move {
                let after = after?;
                match client.readdir(ino, after, READDIR_ENTRIES_MAX as u32).await {
                    Ok(page) => {
                        let next = match page.entries.last() {
                            Some(last) if !page.end => Some(last.cookie),
                            _ => None,
                        };
                        let entries: Vec<_> = page.entries.into_iter().map(Ok).collect();
                        Some((stream::iter(entries), next))
                    }
                    Err(e) => Some((stream::iter(vec![Err(fail(&path)(e))]), None)),
                }
            }
        })
        .flatten()
    }

    /// All entries, by name.
    pub async fn list_sorted(&self, path: &ClusterPath, ino: Inode) -> Result<Vec<DirectoryEntry>> {
        let mut entries = vec![];
        let mut pages = Box::pin(self.list(path, ino));
        while let Some(entry) = pages.next().await {
            entries.push(entry?);
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    pub async fn open(&self, path: &ClusterPath, mode: OpenMode) -> Result<File> {
        let attr = self.get(path, true).await?;
        if attr.kind == FileKind::Directory {
            return Err(Failure::new(path, "is a directory"));
        }
        if attr.kind != FileKind::Regular {
            return Err(Failure::new(path, "is no regular file"));
        }
        self.client.open(attr.ino, mode).await.map_err(fail(path))
    }

    /// The paths that are meant: patterns are matched, unless a file is called just so.
    pub async fn expand(&self, paths: &[OsString]) -> Result<Vec<ClusterPath>> {
        let mut expanded = vec![];
        for path in paths {
            let path = ClusterPath::parse(path)?;
            if !has_pattern(path.as_bytes()) || self.find(&path, false).await?.is_some() {
                expanded.push(path);
                continue;
            }
            let before = expanded.len();
            self.match_pattern(&path, &mut expanded).await?;
            if expanded.len() == before {
                return Err(Failure::new(&path, "nothing matches")
                    .next(format_args!("`cairn ls {}` shows what is there", path.parent())));
            }
        }
        Ok(expanded)
    }

    async fn match_pattern(&self, pattern: &ClusterPath, into: &mut Vec<ClusterPath>) -> Result<()> {
        let mut found = vec![ClusterPath::root().with_slash(false)];
        for name in pattern.names() {
            let mut next = vec![];
            for directory in &found {
                if !has_pattern(name) {
                    let path = directory.join(name);
                    if self.find(&path, false).await?.is_some() {
                        next.push(path);
                    }
                    continue;
                }
                let Some(attr) = self.find(directory, true).await? else {
                    continue;
                };
                if attr.kind != FileKind::Directory {
                    continue;
                }
                for entry in self.list_sorted(directory, attr.ino).await? {
                    let hidden = entry.name.starts_with(b".") && !name.starts_with(b".");
                    if !hidden && matches(name, &entry.name) {
                        next.push(directory.join(&entry.name));
                    }
                }
            }
            found = next;
        }
        into.extend(found.into_iter().map(|p| p.with_slash(pattern.trailing_slash)));
        Ok(())
    }
}

/// The bytes of [start, end) of a file, in order, several reads ahead.
pub fn pieces(
    file: &File,
    start: u64,
    end: u64,
) -> impl Stream<Item = cairn_client::Result<bytes::Bytes>> + Send + use<> {
    let file = file.clone();
    // at piece boundaries, which are block boundaries of chunks
    let first = start / PIECE_BYTES as u64;
    let last = end.div_ceil(PIECE_BYTES as u64);
    stream::iter(first..last)
        .map(move |i| {
            let from = (i * PIECE_BYTES as u64).max(start);
            let to = ((i + 1) * PIECE_BYTES as u64).min(end);
            let file = file.clone();
            async move { file.read_at(from, (to - from) as usize).await }
        })
        .buffered(READS_AHEAD)
}

pub const ENOENT: i32 = 2;
pub const EEXIST: i32 = 17;
pub const ENOTEMPTY: i32 = 39;

pub fn missing(path: &ClusterPath) -> Failure {
    let said = Failure::new(path, "no such file or directory");
    if path.is_root() {
        said
    } else {
        said.next(format_args!("`cairn ls {}` shows what is there", path.parent()))
    }
}

/// An error about `path`, in a command's words.
pub fn fail<P: std::fmt::Display>(path: P) -> impl FnOnce(Error) -> Failure {
    move |e| {
        let subject = path.to_string();
        match e {
            Error::Posix { errno, message } => {
                let words = plain(&io::Error::from_raw_os_error(errno)).to_lowercase();
                let next = match errno {
                    ENOTEMPTY => "remove what is in it first, or use `cairn rm -r`",
                    // ENOSPC, EDQUOT
                    28 | 122 => "`cairn df` shows the space, `cairn trash empty --all` frees what was deleted",
                    _ => "",
                };
                // the master's own sentence says more where it is not just the errno's
                let cause = match message.to_lowercase() {
                    m if m.is_empty() || m.contains(&words) || errno == ENOENT => words,
                    _ => format!("{words} ({})", output::name(message.as_bytes())),
                };
                Failure::Said {
                    subject,
                    cause,
                    next: next.into(),
                }
            }
            Error::NoSpace { message, .. } => Failure::Said {
                subject,
                cause: format!("no space left in the cluster: {message}"),
                next: "`cairn df` shows the space, `cairn trash empty --all` frees what was deleted".into(),
            },
            other => Failure::new(subject, other),
        }
    }
}

/// Failures of some of many paths: each is said when it happens, and the command goes on.
#[derive(Debug, Default)]
pub struct Tally {
    failed: usize,
}

impl Tally {
    /// # Errors
    /// What ends the whole command at once.
    pub fn note<T>(&mut self, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(e @ (Failure::Said { .. } | Failure::Silent)) => {
                e.report();
                self.failed += 1;
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    pub fn failed(&self) -> bool {
        self.failed > 0
    }

    pub fn done(self) -> Result<()> {
        if self.failed == 0 { Ok(()) } else { Err(Failure::Silent) }
    }
}
