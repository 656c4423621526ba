//! `cairn cp`.
//!
//! `tree` is what files are copied between, with two implementations, `local` and `cluster`; `engine` copies;
//! `temporary` names what is not whole yet; `progress` shows how far it is. Standard input and output have no tree
//! and are dealt with here.
mod cluster;
mod engine;
mod local;
mod progress;
mod temporary;
mod tree;

use crate::args::Cp;
use crate::config::Config;
use crate::failure::{Failure, Result, plain};
use crate::mode;
use crate::path::{ClusterPath, SCHEME};
use crate::remote::{PIECE_BYTES, Remote, fail, pieces};
use crate::verbs::Out;
use bytes::Bytes;
use cairn_client::{FileKind, OpenMode};
use cluster::Cluster;
use engine::{Copier, Given, Options};
use futures::StreamExt;
use local::Local;
use progress::Progress;
use std::ffi::OsStr;
use std::io::{IsTerminal, Read};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tree::{Change, Tree, join, split};

/// Read from standard input and not yet written.
const STDIN_AHEAD: usize = 4;

/// A place on the command line.
enum Place {
    Local(Vec<u8>),
    Cluster(ClusterPath),
    Standard,
}

impl Place {
    fn parse(text: &OsStr) -> Result<Self> {
        let bytes = text.as_bytes();
        if bytes == b"-" {
            Ok(Self::Standard)
        } else if bytes.starts_with(SCHEME.as_bytes()) {
            Ok(Self::Cluster(ClusterPath::parse(text)?))
        } else if bytes.is_empty() {
            Err(Failure::usage("cp: a path is empty"))
        } else {
            Ok(Self::Local(bytes.to_vec()))
        }
    }

    fn given(self) -> Option<Given> {
        match self {
            Self::Standard => None,
            Self::Cluster(path) => Some(Given {
                contents: path.trailing_slash,
                path: path.as_bytes().to_vec(),
            }),
            Self::Local(path) => Some(Given {
                contents: path.ends_with(b"/") || path.ends_with(b"/."),
                path,
            }),
        }
    }
}

pub async fn run(options: &Cp, config: &Config, out: Out<'_>) -> Result<()> {
    let Some((destination, sources)) = options.paths.split_last() else {
        return Err(Failure::usage("cp: give a source and a destination"));
    };
    let destination = Place::parse(destination)?;
    let sources = sources.iter().map(|s| Place::parse(s)).collect::<Result<Vec<_>>>()?;
    let in_cluster = sources.iter().filter(|s| matches!(s, Place::Cluster(_))).count();
    if in_cluster == 0 && !matches!(destination, Place::Cluster(_)) {
        return Err(Failure::usage(
            "cp: neither side is in the cluster; write cairn:/path for what is there (and use cp for local copies)",
        ));
    }
    if in_cluster != 0 && in_cluster != sources.len() {
        return Err(Failure::usage(
            "cp: sources on both sides; copy them one after the other",
        ));
    }
    let any_standard = sources.iter().any(|s| matches!(s, Place::Standard));
    if any_standard && (sources.len() > 1 || matches!(destination, Place::Standard)) {
        return Err(Failure::usage("cp: standard input is one source alone"));
    }
    let remote = Remote::connect(config, "cairn cp").await?;
    let cancel = CancellationToken::new();
    let signals = tokio::spawn(watch_signals(cancel.clone()));
    // a bar and a listing on one terminal would mix
    let no_bar = options.no_progress || matches!(destination, Place::Standard) && std::io::stdout().is_terminal();
    let progress = Progress::start(options.progress, no_bar);
    let work = Work {
        options,
        remote: remote.clone(),
        cancel,
        progress: progress.clone(),
    };
    let result = Box::pin(work.run(sources, destination, out)).await;
    progress.finish(result.is_ok());
    signals.abort();
    remote.goodbye().await?;
    result.map_err(|e| match e {
        Failure::Interrupted(_) if options.resume => {
            Failure::Interrupted("interrupted; the same command goes on where it stopped".into())
        }
        Failure::Interrupted(_) => {
            Failure::Interrupted("interrupted; nothing unfinished was left (--resume keeps it, to go on later)".into())
        }
        other => other,
    })
}

/// The first Ctrl-C or SIGTERM ends the copy in order, the second at once.
async fn watch_signals(cancel: CancellationToken) {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return;
    };
    let mut next = async || {
        tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
    };
    next().await;
    cancel.cancel();
    next().await;
    std::process::exit(130);
}

struct Work<'a> {
    options: &'a Cp,
    remote: Remote,
    cancel: CancellationToken,
    progress: Progress,
}

impl Work<'_> {
    async fn run(&self, sources: Vec<Place>, destination: Place, out: Out<'_>) -> Result<()> {
        let o = self.options;
        match (&sources[..], &destination) {
            ([Place::Standard], Place::Cluster(path)) => return self.take_standard_input(path).await,
            (_, Place::Standard) => {
                for source in &sources {
                    if let Place::Cluster(path) = source {
                        self.to_standard_output(path, out).await?;
                    }
                }
                return Ok(());
            }
            _ => {}
        }
        let cluster: Arc<dyn Tree> = Arc::new(Cluster::new(self.remote.clone(), o.goal.unwrap_or(0)));
        let local: Arc<dyn Tree> = Arc::new(Local);
        let from_cluster = matches!(sources.first(), Some(Place::Cluster(_)));
        let to_cluster = matches!(destination, Place::Cluster(_));
        let mut given = vec![];
        for source in sources {
            match source {
                Place::Cluster(path) => {
                    let text = OsStr::from_bytes(path.as_bytes()).to_owned();
                    for found in self.remote.expand(&[text]).await? {
                        let found = found.with_slash(path.trailing_slash);
                        given.extend(Place::Cluster(found).given());
                    }
                }
                other => given.extend(other.given()),
            }
        }
        let copier = Copier {
            from: if from_cluster { cluster.clone() } else { local.clone() },
            to: if to_cluster { cluster } else { local },
            same_tree: from_cluster && to_cluster,
            options: Options {
                recursive: o.recursive || o.archive,
                preserve: o.preserve || o.archive,
                archive: o.archive,
                dereference: o.dereference,
                no_clobber: o.no_clobber,
                force: o.force,
                no_target_directory: o.no_target_directory,
                resume: o.resume,
                verify: o.verify,
                verbose: o.verbose,
                jobs: usize::from(o.jobs),
                umask: mode::umask(),
                privileged: rustix::process::geteuid().is_root(),
            },
            progress: self.progress.clone(),
            cancel: self.cancel.clone(),
            failed: AtomicBool::new(false),
        };
        let Some(destination) = destination.given() else {
            return Err(Failure::usage("cp: standard output takes no tree"));
        };
        copier.run(&given, &destination).await
    }

    async fn to_standard_output(&self, path: &ClusterPath, out: Out<'_>) -> Result<()> {
        for path in self
            .remote
            .expand(&[OsStr::from_bytes(path.as_bytes()).to_owned()])
            .await?
        {
            let file = self.remote.open(&path, OpenMode::READ).await?;
            let size = file.attr().size;
            self.progress.expect(size);
            self.progress.name(&path.to_string());
            let mut pieces = Box::pin(pieces(&file, 0, size));
            while let Some(piece) = self.guard(async { Ok(pieces.next().await) }).await? {
                let piece = piece.map_err(fail(&path))?;
                self.progress.add(piece.len() as u64);
                out.write_all(&piece)?;
            }
            drop(pieces);
            file.close().await.map_err(fail(&path))?;
            self.progress.file_done();
        }
        Ok(())
    }

    async fn take_standard_input(&self, path: &ClusterPath) -> Result<()> {
        let o = self.options;
        if o.resume {
            return Err(Failure::usage(
                "cp: standard input cannot be read again, so --resume has nothing to go on with",
            ));
        }
        let existing = self.remote.find(path, true).await?;
        if path.trailing_slash || existing.as_ref().is_some_and(|a| a.kind == FileKind::Directory) {
            return Err(
                Failure::new(path, "is a directory, and standard input has no name").next(format_args!(
                    "write the file's name, such as cairn:{}",
                    path.join(b"file")
                )),
            );
        }
        if existing.is_some() && o.no_clobber {
            return Ok(());
        }
        let tree = Cluster::new(self.remote.clone(), o.goal.unwrap_or(0));
        let target = path.as_bytes();
        let (directory, name) = split(target).ok_or_else(|| Failure::new(path, "is no name for a file"))?;
        let mode = existing.as_ref().map_or(0o666 & !mode::umask(), |a| a.mode);
        let temporary = join(
            &directory,
            &temporary::name(&name, &format!("{:016x}", temporary::random())),
        );
        let sink = self.guard(tree.create(&temporary, mode, false)).await?;
        let sink = sink.ok_or_else(|| Failure::new(tree.show(&temporary), "exists"))?;
        let written = async {
            self.guard(self.fill_take_standard_input(&*sink)).await?;
            self.guard(sink.close()).await?;
            let owner = existing
                .as_ref()
                .map(|a| (a.uid, a.gid))
                .filter(|_| rustix::process::geteuid().is_root());
            let change = Change {
                owner,
                ..Change::default()
            };
            self.guard(tree.change(&temporary, FileKind::Regular, &change)).await?;
            tree.rename(&temporary, target, o.no_clobber).await
        }
        .await;
        if !matches!(written, Ok(true)) {
            tree.remove_file(&temporary).await?;
        }
        written?;
        self.progress.file_done();
        Ok(())
    }

    async fn fill_take_standard_input(&self, sink: &dyn tree::Sink) -> Result<()> {
        let (send, mut receive) = tokio::sync::mpsc::channel(STDIN_AHEAD);
        // it may wait for ever: never joined, so that an interruption need not wait for it
        drop(tokio::task::spawn_blocking(move || {
            let mut input = std::io::stdin().lock();
            loop {
                let mut piece = Vec::with_capacity(PIECE_BYTES);
                let read = (&mut input).take(PIECE_BYTES as u64).read_to_end(&mut piece);
                let end = read.is_err() || piece.is_empty();
                if send.blocking_send(read.map(|_| Bytes::from(piece))).is_err() || end {
                    return;
                }
            }
        }));
        let mut offset = 0;
        let mut written = vec![];
        while let Some(piece) = receive.recv().await {
            let piece = piece.map_err(|e| Failure::new("standard input", plain(&e)))?;
            let len = piece.len();
            if len == 0 {
                break;
            }
            if self.options.verify {
                written.push((offset, len, crc32fast::hash(&piece)));
            }
            sink.write_at(offset, piece).await?;
            offset += len as u64;
            self.progress.expect(len as u64);
            self.progress.add(len as u64);
        }
        sink.sync().await?;
        for (offset, len, crc) in written {
            let data = sink.read_at(offset, len).await?;
            if data.len() != len || crc32fast::hash(&data) != crc {
                return Err(Failure::new(
                    "standard input",
                    format_args!("what was read back differs from what was written, at offset {offset}"),
                ));
            }
        }
        Ok(())
    }

    async fn guard<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Failure::Interrupted("interrupted".into())),
            result = work => result,
        }
    }
}
