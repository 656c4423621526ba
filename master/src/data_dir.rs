//! The master's data directory: what is in it at start, and whether it may be used.
//!
//! A directory is founded in this order: log with its first epoch record, then the stamp (`cluster`, a short text). A
//! directory with a stamp has a log, always; one without a stamp and with at most that one record was never served
//! from, and is founded anew. Anything else was damaged or mixed by hand, and is refused: never start empty.
use crate::StartError;
use crate::checkpoint;
use crate::log::{FileLog, Log, Record};
use cairn_io::{Blocking, Disk};
use cairn_metadata::State;
use cairn_types::ClusterId;
use std::io;
use std::path::Path;
use std::sync::Arc;

const STAMP: &str = "cluster";
const STAMP_TEMPORARY: &str = "cluster.tmp";
const READ_BYTES: usize = 8 << 20;

/// What was found.
pub struct Loaded {
    pub state: State,
    pub log: FileLog,
    pub cluster: ClusterId,
    /// The directory has no stamp yet: write it ([`stamp`]) after the first record.
    pub fresh: bool,
    /// Index of the checkpoint that was loaded; 0: none.
    pub checkpoint: u64,
    /// Bytes of log that were applied on top of it.
    pub log_bytes: u64,
}

/// Loads the state of the directory, or begins a new cluster with id `fresh` in an empty one.
pub async fn load(
    disk: &Arc<dyn Disk>,
    fresh: ClusterId,
    blocking: Blocking,
    segment_bytes: u64,
) -> Result<Loaded, StartError> {
    let reader = disk.clone();
    let (stamp, has_log, checkpoints) = blocking
        .run(move || {
            let checkpoints = checkpoint::list(&*reader)?;
            Ok::<_, StartError>((read_stamp(&*reader)?, FileLog::exists(&*reader)?, checkpoints))
        })
        .await?;
    let directory = || disk.display();
    let Some(cluster) = stamp else {
        if !checkpoints.is_empty() {
            return Err(StartError::Unstamped { directory: directory() });
        }
        if has_log {
            discard_unserved(disk, blocking).await?;
        }
        let log = FileLog::create(disk.clone(), fresh, blocking, segment_bytes).await?;
        return Ok(Loaded {
            state: State::new(),
            log,
            cluster: fresh,
            fresh: true,
            checkpoint: 0,
            log_bytes: 0,
        });
    };
    let reader = disk.clone();
    let loaded = blocking.run(move || checkpoint::load(&*reader, cluster)).await;
    let (checkpoint, mut state) = match loaded {
        Ok(loaded) => loaded.unwrap_or_default(),
        // all of it may still be in the log
        Err(e @ checkpoint::CheckpointError::Damaged { .. }) => {
            tracing::error!(error = %e, "no checkpoint can be used; trying to rebuild all from the operation log");
            (0, State::new())
        }
        Err(e) => return Err(e.into()),
    };
    if !has_log {
        return Err(StartError::NoLog {
            directory: directory(),
            cluster,
        });
    }
    let log = FileLog::open(disk.clone(), cluster, blocking, segment_bytes).await?;
    if log.first() > checkpoint + 1 || log.durable() < checkpoint {
        let (first, last) = (log.first(), log.durable());
        return Err(StartError::Gap {
            directory: directory(),
            checkpoint,
            first,
            last,
        });
    }
    let mut log_bytes = 0;
    let mut from = checkpoint + 1;
    loop {
        let records = log.read(from, READ_BYTES).await?;
        let Some(last) = records.last() else { break };
        from = last.index + 1;
        log_bytes += records.iter().map(|r| r.payload.len() as u64).sum::<u64>();
        for record in &records {
            replay(&mut state, record)?;
        }
    }
    Ok(Loaded {
        state,
        log,
        cluster,
        fresh: false,
        checkpoint,
        log_bytes,
    })
}

/// Makes the directory that of another cluster, whose state is given, in place of one that is empty. Cut short, it leaves
/// a directory without a stamp, which is refused.
pub async fn found_from(
    disk: &Arc<dyn Disk>,
    cluster: ClusterId,
    state: State,
    blocking: Blocking,
    segment_bytes: u64,
) -> Result<Loaded, StartError> {
    let index = state.applied();
    let (writer, saved) = (disk.clone(), state.clone());
    blocking
        .run(move || {
            let io = |source| StartError::Io {
                path: writer.display(),
                source,
            };
            writer.remove(Path::new(STAMP)).map_err(io)?;
            writer.sync_dir(Path::new("")).map_err(io)?;
            for directory in ["log", "checkpoints"].map(Path::new) {
                let names = if writer.exists(directory).map_err(io)? {
                    writer.list(directory)
                } else {
                    Ok(Vec::new())
                };
                for name in names.map_err(io)? {
                    writer.remove(&directory.join(name)).map_err(io)?;
                }
            }
            checkpoint::save(&*writer, cluster, index, &saved)?;
            Ok::<_, StartError>(())
        })
        .await?;
    let log = FileLog::create_after(disk.clone(), cluster, blocking, segment_bytes, index).await?;
    Ok(Loaded {
        state,
        log,
        cluster,
        fresh: true,
        checkpoint: index,
        log_bytes: 0,
    })
}

fn replay(state: &mut State, record: &Record) -> Result<(), StartError> {
    let command = postcard::from_bytes(&record.payload).map_err(|_| StartError::NotACommand { index: record.index })?;
    cairn_metadata::apply(state, record.index, &command).map_err(|source| StartError::CannotApply {
        index: record.index,
        source,
    })?;
    Ok(())
}

/// Removes a log that was begun and never served from.
async fn discard_unserved(disk: &Arc<dyn Disk>, blocking: Blocking) -> Result<(), StartError> {
    let disk = disk.clone();
    blocking
        .run(move || {
            let unstamped = || StartError::Unstamped {
                directory: disk.display(),
            };
            let io = |source| StartError::Io {
                path: disk.display(),
                source,
            };
            let names = disk.list(Path::new("log")).map_err(io)?;
            let [name] = &names[..] else { return Err(unstamped()) };
            let path = Path::new("log").join(name);
            // an epoch record at the most
            if disk.open(&path).and_then(|f| f.len()).map_err(io)? > 512 {
                return Err(unstamped());
            }
            tracing::warn!(directory = %disk.display(), "a first start was cut short here; founding the cluster anew");
            disk.remove(&path).map_err(io)?;
            disk.sync_dir(Path::new("log")).map_err(io)
        })
        .await
}

/// Stamps the directory: from now on it is this cluster's. Blocks.
pub fn stamp(disk: &dyn Disk, cluster: ClusterId) -> Result<(), StartError> {
    let io = |source| StartError::Io {
        path: shown(disk),
        source,
    };
    let temporary = Path::new(STAMP_TEMPORARY);
    if disk.exists(temporary).map_err(io)? {
        disk.remove(temporary).map_err(io)?;
    }
    let file = disk.create(temporary).map_err(io)?;
    let text = format!("cairn master\nformat 1\ncluster {cluster}\n");
    file.write_at(text.as_bytes(), 0).map_err(io)?;
    file.sync_data().map_err(io)?;
    disk.rename(temporary, Path::new(STAMP)).map_err(io)?;
    disk.sync_dir(Path::new("")).map_err(io)
}

fn read_stamp(disk: &dyn Disk) -> Result<Option<ClusterId>, StartError> {
    let io = |source| StartError::Io {
        path: shown(disk),
        source,
    };
    let file = match disk.open(Path::new(STAMP)) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io(e)),
    };
    let mut bytes = [0; 256];
    let read = file.read_at(&mut bytes, 0).map_err(io)?;
    let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
    let mut lines = text.lines();
    let known = lines.next() == Some("cairn master") && lines.next() == Some("format 1");
    let cluster = lines
        .next()
        .and_then(|line| line.strip_prefix("cluster ")?.parse().ok());
    match cluster {
        Some(cluster) if known => Ok(Some(cluster)),
        _ => Err(StartError::BadStamp { path: shown(disk) }),
    }
}

fn shown(disk: &dyn Disk) -> String {
    Path::new(&disk.display()).join(STAMP).display().to_string()
}
