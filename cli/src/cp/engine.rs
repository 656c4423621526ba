//! How a tree is copied, whatever its two ends are.
//!
//! One task walks the source: it makes directories and links as it goes and hands files to a bounded number of copies
//! at a time. A file is written under a temporary name beside its final one, synced, given its attributes, and renamed:
//! under its final name it is there whole or not at all. Attributes of directories come last, since files made in them
//! change their times. A failure of one file is told and the others go on; Ctrl-C ends all, and what is unfinished is
//! removed, or kept for `--resume`.
use super::progress::Progress;
use super::temporary;
use super::tree::{Change, Meta, NodePath, Sink, Source, Tree, join, split};
use crate::failure::{Failure, Result};
use crate::remote::PIECE_BYTES;
use bytes::Bytes;
use cairn_client::FileKind;
use futures::StreamExt;
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Reads of one file under way at a time.
const READS_AHEAD: usize = 4;
/// Files found and not begun.
const QUEUE: usize = 4096;
/// What cleaning up after a failure may take.
const CLEAN_UP_WITHIN: Duration = Duration::from_secs(5);

/// What the user asked for.
#[derive(Debug, Clone)]
pub struct Options {
    pub recursive: bool,
    /// Modes and times; owners too where `privileged`.
    pub preserve: bool,
    /// Hard links and special files.
    pub archive: bool,
    pub dereference: bool,
    pub no_clobber: bool,
    pub force: bool,
    pub no_target_directory: bool,
    pub resume: bool,
    pub verify: bool,
    pub verbose: bool,
    pub jobs: usize,
    pub umask: u32,
    pub privileged: bool,
}

pub struct Copier {
    pub from: Arc<dyn Tree>,
    pub to: Arc<dyn Tree>,
    /// Both are the same tree, so that a file can be its own copy.
    pub same_tree: bool,
    pub options: Options,
    pub progress: Progress,
    pub cancel: CancellationToken,
    pub failed: AtomicBool,
}

/// A regular file to be copied.
struct Job {
    source: NodePath,
    meta: Meta,
    target: NodePath,
    existing: Option<Meta>,
}

/// What the walk leaves for the end.
#[derive(Default)]
struct Later {
    /// Directories, what is below before the directory that it is in, and what they become.
    directories: Vec<(NodePath, Change)>,
    /// (existing copy, further name)
    links: Vec<(NodePath, NodePath, Option<Meta>)>,
    /// The first copy of each file with several names.
    first_names: BTreeMap<(u64, u64), NodePath>,
}

/// A path and whether its contents are meant (`dir/`).
#[derive(Debug, Clone)]
pub struct Given {
    pub path: NodePath,
    pub contents: bool,
}

impl Copier {
    /// Copies `sources` to `destination`.
    ///
    /// # Errors
    /// What kept it from beginning, and interruption; `Silent` when some files failed, each of which was told.
    pub async fn run(&self, sources: &[Given], destination: &Given) -> Result<()> {
        let there = self.to.stat(&destination.path, true).await?;
        let is_directory = there.as_ref().is_some_and(|m| m.kind == FileKind::Directory);
        let into = is_directory && !self.options.no_target_directory;
        if sources.len() > 1 && !into {
            let shown = self.to.show(&destination.path);
            return Err(
                Failure::new(&shown, "several files can only be copied into a directory that exists")
                    .next("make it first"),
            );
        }
        let (send, receive) = mpsc::channel(QUEUE);
        let walk = async move {
            let mut later = Later::default();
            for source in sources {
                let visited = self
                    .top(source, destination, into, there.clone(), &send, &mut later)
                    .await;
                self.note(visited)?;
            }
            drop(send);
            Ok::<_, Failure>(later)
        };
        let copies = tokio_stream::wrappers::ReceiverStream::new(receive).for_each_concurrent(
            self.options.jobs,
            |job: Job| async move {
                if !self.cancel.is_cancelled() {
                    let copied = Box::pin(self.file(&job)).await;
                    // interruption is told once, at the end
                    let _ = self.note(copied);
                }
            },
        );
        let (later, ()) = futures::join!(walk, copies);
        let mut later = later?;
        self.check_cancelled()?;
        for (first, name, existing) in std::mem::take(&mut later.links) {
            let linked = self.guard(self.further_name(&first, &name, existing.as_ref())).await;
            self.note(linked)?;
        }
        for (path, change) in &later.directories {
            let finished = self
                .guard(async {
                    self.to.change(path, FileKind::Directory, change).await?;
                    self.to.sync_directory(path).await
                })
                .await;
            self.note(finished)?;
        }
        if self.failed.load(Ordering::Relaxed) {
            Err(Failure::Silent)
        } else {
            Ok(())
        }
    }

    /// One of the sources that the user named.
    async fn top(
        &self,
        source: &Given,
        destination: &Given,
        into: bool,
        there: Option<Meta>,
        jobs: &mpsc::Sender<Job>,
        later: &mut Later,
    ) -> Result<()> {
        let o = &self.options;
        let shown = self.from.show(&source.path);
        let follow = !o.recursive || o.dereference || source.contents;
        let meta = self.guard(self.from.stat(&source.path, follow)).await?;
        let meta = meta.ok_or_else(|| Failure::new(&shown, "no such file or directory"))?;
        let directory = meta.kind == FileKind::Directory;
        if directory && !o.recursive {
            return Err(Failure::new(&shown, "is a directory").next("copy it with all that is in it with -r"));
        }
        let name = split(&source.path).map(|(_, name)| name);
        let (target, existing) = match name {
            Some(name) if into && !(directory && source.contents) => {
                let target = join(&destination.path, &name);
                let existing = self.guard(self.to.stat(&target, false)).await?;
                (target, existing)
            }
            _ => (destination.path.clone(), there),
        };
        if !directory && destination.contents && !into {
            return Err(
                Failure::new(self.to.show(&destination.path), "is no directory that exists")
                    .next("make it first, or write the file's name without a slash at its end"),
            );
        }
        if self.same_tree {
            if existing.as_ref().is_some_and(|e| e.id == meta.id) {
                return Err(Failure::new(
                    &shown,
                    format_args!("is the same file as {}", self.to.show(&target)),
                ));
            }
            if directory && target.starts_with(&join(&source.path, b"")) {
                return Err(Failure::new(
                    &shown,
                    format_args!("cannot be copied into itself, {}", self.to.show(&target)),
                ));
            }
        }
        if let Some((parent, _)) = split(&target)
            && !directory
        {
            if self.guard(self.to.stat(&parent, true)).await?.is_none() {
                return Err(
                    Failure::new(self.to.show(&parent), "no such directory").next("make it first, with mkdir -p there")
                );
            }
            // its name is put on stable storage with the directory
            later.directories.push((parent, Change::default()));
        }
        self.visit(source.path.clone(), meta, target, existing, jobs, later)
            .await
    }

    fn visit<'a>(
        &'a self,
        source: NodePath,
        meta: Meta,
        target: NodePath,
        existing: Option<Meta>,
        jobs: &'a mpsc::Sender<Job>,
        later: &'a mut Later,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.check_cancelled()?;
            match meta.kind {
                FileKind::Directory => self.directory(source, meta, target, existing, jobs, later).await,
                FileKind::Regular => {
                    if self.options.archive && meta.nlink > 1 {
                        if let Some(first) = later.first_names.get(&meta.id) {
                            later.links.push((first.clone(), target, existing));
                            return Ok(());
                        }
                        later.first_names.insert(meta.id, target.clone());
                    }
                    self.progress.expect(meta.size);
                    // closed only when the copies have ended, which waits for this end
                    let _ = self
                        .guard(async {
                            Ok(jobs
                                .send(Job {
                                    source,
                                    meta,
                                    target,
                                    existing,
                                })
                                .await)
                        })
                        .await?;
                    Ok(())
                }
                FileKind::Symlink => {
                    self.guard(self.symlink(&source, &meta, &target, existing.as_ref()))
                        .await
                }
                FileKind::Fifo | FileKind::Socket | FileKind::CharacterDevice | FileKind::BlockDevice => {
                    if !self.options.archive {
                        return Err(Failure::new(self.from.show(&source), "is no regular file: left out")
                            .next("copy special files with -a"));
                    }
                    self.guard(self.special(&meta, &target, existing.as_ref())).await
                }
            }
        })
    }

    async fn directory(
        &self,
        source: NodePath,
        meta: Meta,
        target: NodePath,
        existing: Option<Meta>,
        jobs: &mpsc::Sender<Job>,
        later: &mut Later,
    ) -> Result<()> {
        let o = &self.options;
        let made = match &existing {
            Some(e) if e.kind == FileKind::Directory => false,
            Some(_) if o.force => {
                self.guard(self.to.remove_file(&target)).await?;
                true
            }
            Some(_) => {
                return Err(
                    Failure::new(self.to.show(&target), "exists and is no directory").next("replace it with -f")
                );
            }
            None => true,
        };
        let mut there = BTreeMap::new();
        if made {
            // until all is in it, its owner must be able to write there
            self.guard(self.to.mkdir(&target, meta.mode & 0o777 | 0o700)).await?;
            self.tell(&source, &target);
        } else {
            there.extend(self.guard(self.to.list(&target)).await?);
        }
        for (name, meta) in self.guard(self.from.list(&source)).await? {
            let below = join(&source, &name);
            let meta = if o.dereference && meta.kind == FileKind::Symlink {
                match self.note(self.guard(self.from.stat(&below, true)).await)? {
                    Some(Some(meta)) => meta,
                    Some(None) => {
                        let dangling = Failure::new(self.from.show(&below), "points to nothing: left out");
                        self.note::<()>(Err(dangling))?;
                        continue;
                    }
                    None => continue,
                }
            } else {
                meta
            };
            let visited = self
                .visit(below, meta, join(&target, &name), there.remove(&name), jobs, later)
                .await;
            self.note(visited)?;
        }
        let mode = meta.mode & 0o777 & !o.umask;
        let change = if o.preserve {
            self.preserved(&meta)
        } else {
            Change {
                mode: (made && mode & 0o700 != 0o700).then_some(mode),
                ..Change::default()
            }
        };
        later.directories.push((target, change));
        Ok(())
    }

    /// The attributes that `-p` keeps.
    fn preserved(&self, meta: &Meta) -> Change {
        Change {
            mode: Some(meta.mode),
            owner: self.options.privileged.then_some((meta.uid, meta.gid)),
            times_ns: Some((meta.atime_ns, meta.mtime_ns)),
        }
    }

    /// Whether `target` may be replaced by something that is no directory: `false`, it is to be left alone.
    async fn make_way(&self, target: &[u8], existing: Option<&Meta>) -> Result<bool> {
        match existing {
            None => Ok(true),
            Some(_) if self.options.no_clobber => Ok(false),
            Some(e) if e.kind != FileKind::Directory => Ok(true),
            Some(_) if self.options.force => {
                self.to.remove_directory(target).await?;
                Ok(true)
            }
            Some(_) => {
                Err(Failure::new(self.to.show(target), "is a directory").next("remove it if it is empty with -f"))
            }
        }
    }

    async fn symlink(&self, source: &[u8], meta: &Meta, target: &[u8], existing: Option<&Meta>) -> Result<()> {
        if !self.make_way(target, existing).await? {
            return Ok(());
        }
        let points_to = self.from.read_link(source).await?;
        let temporary = self.temporary(target, &temporary::id_of(source, meta))?;
        self.to.remove_file(&temporary).await?;
        self.to.symlink(&points_to, &temporary).await?;
        if self.options.preserve {
            let change = Change {
                mode: None,
                ..self.preserved(meta)
            };
            self.to.change(&temporary, FileKind::Symlink, &change).await?;
        }
        self.to.rename(&temporary, target, false).await?;
        self.progress.file_done();
        self.tell(source, target);
        Ok(())
    }

    async fn special(&self, meta: &Meta, target: &[u8], existing: Option<&Meta>) -> Result<()> {
        if !self.make_way(target, existing).await? {
            return Ok(());
        }
        let temporary = self.temporary(target, &temporary::id_of(target, meta))?;
        self.to.remove_file(&temporary).await?;
        self.to.make_special(&temporary, meta).await?;
        self.to.change(&temporary, meta.kind, &self.preserved(meta)).await?;
        self.to.rename(&temporary, target, false).await?;
        self.progress.file_done();
        Ok(())
    }

    async fn further_name(&self, first: &[u8], name: &[u8], existing: Option<&Meta>) -> Result<()> {
        if !self.make_way(name, existing).await? {
            return Ok(());
        }
        if existing.is_some_and(|e| e.kind != FileKind::Directory) {
            self.to.remove_file(name).await?;
        }
        self.to.link(first, name).await?;
        self.progress.file_done();
        Ok(())
    }

    fn temporary(&self, target: &[u8], id: &str) -> Result<NodePath> {
        let (directory, name) =
            split(target).ok_or_else(|| Failure::new(self.to.show(target), "is no name for a file"))?;
        Ok(join(&directory, &temporary::name(&name, id)))
    }

    async fn file(&self, job: &Job) -> Result<()> {
        self.progress.name(&self.from.show(&job.source));
        if !self.guard(self.make_way(&job.target, job.existing.as_ref())).await? {
            self.progress.add(job.meta.size);
            return Ok(());
        }
        let source = self.guard(self.from.open(&job.source)).await?;
        if self.options.resume && self.guard(self.is_there(&*source, job)).await? {
            self.progress.add(source.size());
            if self.options.preserve {
                let change = self.preserved(&job.meta);
                self.guard(self.to.change(&job.target, FileKind::Regular, &change))
                    .await?;
            }
            return Ok(());
        }
        let replaced = job.existing.as_ref().filter(|e| e.kind == FileKind::Regular);
        let mode = match replaced {
            _ if self.options.preserve => job.meta.mode,
            Some(existing) => existing.mode,
            None => job.meta.mode & 0o777 & !self.options.umask,
        };
        let id = temporary::id_of(&job.source, &job.meta);
        let mut temporary = self.temporary(&job.target, &id)?;
        let mut sink = self
            .guard(self.to.create(&temporary, mode, self.options.resume))
            .await?;
        if sink.is_none() {
            // another copy of the same file is under way, or was killed: leave it alone
            temporary = self.temporary(&job.target, &format!("{id}-{:x}", temporary::random()))?;
            sink = self.guard(self.to.create(&temporary, mode, false)).await?;
        }
        let sink = sink.ok_or_else(|| Failure::new(self.to.show(&temporary), "exists"))?;
        let done = self.write(job, &*source, sink, &temporary, mode, replaced).await;
        if done.is_err() && !self.options.resume {
            self.clean_up(&temporary).await;
        }
        // people know the file by the name that they gave it
        let last = |path: &[u8]| split(path).map(|(_, name)| String::from_utf8_lossy(&name).into_owned());
        match (last(&temporary), last(&job.target)) {
            (Some(temporary), Some(target)) => done.map_err(|e| e.renaming(&temporary, &target)),
            _ => done,
        }
    }

    async fn write(
        &self,
        job: &Job,
        source: &dyn Source,
        sink: Box<dyn Sink>,
        temporary: &[u8],
        mode: u32,
        replaced: Option<&Meta>,
    ) -> Result<()> {
        let o = &self.options;
        let filled = self.guard(self.fill(job, source, &*sink)).await;
        if let Err(e) = filled {
            if o.resume {
                // what is there shall stay
                let _ = tokio::time::timeout(CLEAN_UP_WITHIN, sink.sync()).await;
            }
            return Err(e);
        }
        self.guard(sink.close()).await?;
        let mut change = if o.preserve {
            self.preserved(&job.meta)
        } else {
            Change {
                owner: replaced.filter(|_| o.privileged).map(|r| (r.uid, r.gid)),
                ..Change::default()
            }
        };
        // what creating it under the umask does not give
        let as_created = mode & !o.umask == mode && mode & 0o7600 == 0o600;
        change.mode = (!as_created).then_some(mode);
        self.guard(self.to.change(temporary, FileKind::Regular, &change))
            .await?;
        // from here on a renamed file is whole: an interruption comes too late
        if !self.to.rename(temporary, &job.target, o.no_clobber).await? {
            self.clean_up(temporary).await;
            return Ok(());
        }
        self.progress.file_done();
        self.tell(&job.source, &job.target);
        Ok(())
    }

    /// All bytes, on stable storage, and verified if asked for.
    async fn fill(&self, job: &Job, source: &dyn Source, sink: &dyn Sink) -> Result<()> {
        let before = source.now().await?;
        let mut from = 0;
        if self.options.resume && sink.size() > 0 {
            from = self.same_prefix(source, sink).await?;
            sink.set_len(from).await?;
            self.progress.add(from);
        }
        let (written, end) = self.transfer(&self.from.show(&job.source), source, sink, from).await?;
        if end < source.size() {
            // a hole at the end
            sink.set_len(source.size()).await?;
        }
        sink.sync().await?;
        if self.options.verify {
            self.verify(&self.to.show(&job.target), sink, &written).await?;
        }
        if source.now().await? != before {
            let shown = self.from.show(&job.source);
            self.progress.say(&format!(
                "cairn: {shown}: changed while it was copied; copy it again to have its last state"
            ));
        }
        Ok(())
    }

    /// Copies [from, size); gives the pieces written, with their checksums where they will be verified, and where the
    /// last one ended.
    async fn transfer(
        &self,
        shown: &str,
        source: &dyn Source,
        sink: &dyn Sink,
        from: u64,
    ) -> Result<(Vec<Piece>, u64)> {
        let size = source.size();
        let (send, mut receive) = mpsc::channel::<(u64, Bytes)>(READS_AHEAD);
        let read = async move {
            let mut at = from;
            while at < size {
                let Some((start, end)) = source.next_data(at).await? else {
                    break;
                };
                let end = end.min(size);
                let mut reads =
                    futures::stream::iter(cut(start, end))
                        .map(|(offset, len)| async move {
                            Ok::<_, Failure>((offset, len, source.read_at(offset, len).await?))
                        })
                        .buffered(READS_AHEAD);
                while let Some(piece) = reads.next().await {
                    let (offset, len, data) = piece?;
                    if data.len() < len {
                        return Err(Failure::new(shown, "got shorter while it was copied").next("copy it again"));
                    }
                    if send.send((offset, data)).await.is_err() {
                        // writing has failed, and says why
                        return Ok(());
                    }
                }
                at = end;
            }
            Ok(())
        };
        let write = async move {
            let mut written = vec![];
            let mut counted = from;
            let mut end_of_data = from;
            while let Some((offset, data)) = receive.recv().await {
                let len = data.len() as u64;
                if self.options.verify {
                    written.push(Piece {
                        offset,
                        len,
                        crc: crc32fast::hash(&data),
                    });
                }
                sink.write_at(offset, data).await?;
                end_of_data = offset + len;
                // holes count as copied
                self.progress.add(end_of_data - counted);
                counted = end_of_data;
            }
            self.progress.add(size.saturating_sub(counted));
            Ok::<_, Failure>((written, end_of_data))
        };
        let (read, written) = futures::join!(read, write);
        let written = written?;
        read?;
        Ok(written)
    }

    /// How far `sink` has the source's bytes already, in whole pieces.
    async fn same_prefix(&self, source: &dyn Source, sink: &dyn Sink) -> Result<u64> {
        let both = source.size().min(sink.size());
        let mut reads = futures::stream::iter(cut(0, both))
            .map(|(offset, len)| async move {
                let (a, b) = futures::join!(source.read_at(offset, len), sink.read_at(offset, len));
                Ok::<_, Failure>((offset, crc32fast::hash(&a?) == crc32fast::hash(&b?)))
            })
            .buffered(READS_AHEAD);
        while let Some(compared) = reads.next().await {
            if let (offset, false) = compared? {
                return Ok(offset);
            }
        }
        Ok(both)
    }

    /// For `--resume`: the target is a whole copy already.
    async fn is_there(&self, source: &dyn Source, job: &Job) -> Result<bool> {
        let same_size = job
            .existing
            .as_ref()
            .is_some_and(|e| e.kind == FileKind::Regular && e.size == source.size());
        if !same_size {
            return Ok(false);
        }
        let there = self.to.open(&job.target).await?;
        let mut reads = futures::stream::iter(cut(0, source.size()))
            .map(|(offset, len)| {
                let there = &there;
                async move {
                    let (a, b) = futures::join!(source.read_at(offset, len), there.read_at(offset, len));
                    Ok::<_, Failure>(crc32fast::hash(&a?) == crc32fast::hash(&b?))
                }
            })
            .buffered(READS_AHEAD);
        while let Some(same) = reads.next().await {
            if !same? {
                return Ok(false);
            }
        }
        Ok(there.now().await?.0 == source.size())
    }

    async fn verify(&self, shown: &str, sink: &dyn Sink, written: &[Piece]) -> Result<()> {
        let mut reads = futures::stream::iter(written)
            .map(|piece| async move {
                let data = sink.read_at(piece.offset, piece.len as usize).await?;
                Ok::<_, Failure>((
                    piece,
                    data.len() as u64 == piece.len && crc32fast::hash(&data) == piece.crc,
                ))
            })
            .buffered(READS_AHEAD);
        while let Some(read) = reads.next().await {
            if let (piece, false) = read? {
                return Err(Failure::new(
                    shown,
                    format_args!(
                        "what was read back differs from what was written, at offset {}",
                        piece.offset
                    ),
                )
                .next("copy it again; if that recurs, check this machine's memory and `cairn fsck`"));
            }
        }
        Ok(())
    }

    /// Removes a temporary file. Failing at that is told, and no failure of its own.
    async fn clean_up(&self, temporary: &[u8]) {
        let removed = tokio::time::timeout(CLEAN_UP_WITHIN, self.to.remove_file(temporary)).await;
        let why = match removed {
            Ok(Ok(())) => return,
            Ok(Err(e)) => e.to_string(),
            Err(_) => "no answer".into(),
        };
        self.progress.say(&format!(
            "cairn: {}: could not be removed ({why}); remove it later",
            self.to.show(temporary)
        ));
    }

    fn tell(&self, source: &[u8], target: &[u8]) {
        if self.options.verbose {
            self.progress
                .say(&format!("{} -> {}", self.from.show(source), self.to.show(target)));
        }
    }

    /// Tells a failure of one file and goes on; gives on what ends everything.
    fn note<T>(&self, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(e @ Failure::Said { .. }) => {
                self.progress.say(&format!("cairn: {e}"));
                self.failed.store(true, Ordering::Relaxed);
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    fn check_cancelled(&self) -> Result<()> {
        if self.cancel.is_cancelled() {
            Err(interrupted())
        } else {
            Ok(())
        }
    }

    /// `work`, unless the user interrupts it.
    async fn guard<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(interrupted()),
            result = work => result,
        }
    }
}

fn interrupted() -> Failure {
    Failure::Interrupted("interrupted".into())
}

/// Bytes as they were written.
struct Piece {
    offset: u64,
    len: u64,
    crc: u32,
}

/// [start, end) in pieces, cut where blocks and chunks are.
fn cut(start: u64, end: u64) -> impl Iterator<Item = (u64, usize)> {
    let piece = PIECE_BYTES as u64;
    let mut at = start;
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let next = ((at / piece + 1) * piece).min(end);
            let cut = (at, (next - at) as usize);
            at = next;
            cut
        })
    })
}
