//! `chunks` and `fsck`: where the bytes of files are, and whether they are there.
use super::{Out, collect};
use crate::args::{Fsck, PathsJson};
use crate::failure::{Failure, Result};
use crate::output::{count, human_bytes, json, table};
use crate::path::ClusterPath;
use crate::remote::{PIECE_BYTES, Remote, Tally, fail};
use cairn_client::{Admin, Attr, Client, Error, FileKind, Location, Member};
use cairn_proto::admin::{ChunkState, ReplicaState};
use cairn_proto::common::ErrorCode;
use cairn_types::layout::chunk_count;
use cairn_types::limits::LOCATE_CHUNKS_MAX;
use cairn_types::{DiskId, Inode, ServerId, Version};
use futures::StreamExt;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// A file that is being written may differ between two replicas for a moment: what looks wrong is looked at again. A
/// checksum that fails is no such thing: reading the bad block starts its repair, so it is told though it is mended
/// at the second look.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(2);

#[derive(Serialize)]
struct Replica {
    server: String,
    disk: String,
    address: String,
    /// ok, damaged, suspect, missing, stale, down, unwritten
    state: String,
    up: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    length: u64,
}

#[derive(Serialize)]
struct Chunk {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    index: u32,
    handle: String,
    version: String,
    /// healthy, under-goal, endangered, lost, reconfiguring
    state: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    cause: String,
    goal: u32,
    replicas: Vec<Replica>,
}

impl Replica {
    fn new(r: &ReplicaState) -> Self {
        let member = r.member.clone().unwrap_or_default();
        Self {
            server: ServerId::try_from(&member.server[..])
                .map(|s| s.to_string())
                .unwrap_or_default(),
            disk: DiskId::try_from(&member.disk[..])
                .map(|d| d.to_string())
                .unwrap_or_default(),
            address: member.address,
            state: r.state.clone(),
            up: r.up,
            version: r.version.as_ref().map(|v| Version::new(v.epoch, v.counter).to_string()),
            length: r.length,
        }
    }

    fn of_member(m: &Member) -> Self {
        Self {
            server: m.server.to_string(),
            disk: m.disk.to_string(),
            address: m.address.clone(),
            state: "unknown".into(),
            up: false,
            version: None,
            length: 0,
        }
    }
}

impl Chunk {
    fn new(location: &Location, state: Option<&ChunkState>, path: Option<String>) -> Self {
        Self {
            path,
            index: location.index,
            handle: location.handle.to_string(),
            version: location.version.to_string(),
            state: state.map_or_else(|| "unknown".into(), |s| s.state.clone()),
            cause: state.map(|s| s.cause.clone()).unwrap_or_default(),
            goal: state.map_or(0, |s| s.goal),
            replicas: match state {
                Some(s) => s.replicas.iter().map(Replica::new).collect(),
                None => location.members.iter().map(Replica::of_member).collect(),
            },
        }
    }
}

/// All chunks of a file that exist, in order, each with what the master knows of its replicas.
async fn chunks_of(
    client: &Client,
    admin: &Admin,
    path: &ClusterPath,
    ino: Inode,
    size: u64,
) -> Result<Vec<(Location, Option<ChunkState>)>> {
    let mut chunks = vec![];
    let count = chunk_count(size);
    let mut first = 0;
    while first < count {
        let page = (count - first).min(LOCATE_CHUNKS_MAX as u32);
        let locations = client.locations(ino, first, page).await.map_err(fail(path))?;
        let handles: Vec<_> = locations.iter().map(|l| l.handle).collect();
        let states: BTreeMap<u64, ChunkState> = admin
            .inspect_chunks(&handles)
            .await
            .map_err(fail(path))?
            .into_iter()
            .filter_map(|s| Some((s.location.as_ref()?.handle, s)))
            .collect();
        chunks.extend(locations.into_iter().map(|l| {
            let state = states.get(&l.handle.0).cloned();
            (l, state)
        }));
        first += page;
    }
    Ok(chunks)
}

pub async fn chunks(remote: &Remote, options: &PathsJson, mut out: Out<'_>) -> Result<()> {
    #[derive(Serialize)]
    struct Chunks {
        chunks: Vec<Chunk>,
    }
    let admin = remote.admin().await?;
    let mut tally = Tally::default();
    let mut all = vec![];
    let paths = remote.expand(&options.paths.paths).await?;
    let several = paths.len() > 1;
    for path in &paths {
        let Some(attr) = tally.note(regular(remote, path).await)? else {
            continue;
        };
        let found = chunks_of(&remote.client, &admin, path, attr.ino, attr.size).await;
        let Some(found) = tally.note(found)? else { continue };
        if options.json {
            let path = several.then(|| path.to_string());
            all.extend(found.iter().map(|(l, s)| Chunk::new(l, s.as_ref(), path.clone())));
            continue;
        }
        if several {
            writeln!(out, "{path}:")?;
        }
        let rows: Vec<_> = found
            .iter()
            .map(|(l, s)| row(&Chunk::new(l, s.as_ref(), None)))
            .collect();
        table(
            &mut out,
            &["INDEX", "HANDLE", "VERSION", "STATE", "REPLICAS"],
            &[0],
            &rows,
        )?;
    }
    if options.json {
        json(&mut out, &Chunks { chunks: all })?;
    }
    tally.done()
}

fn row(chunk: &Chunk) -> Vec<String> {
    let replicas: Vec<_> = chunk
        .replicas
        .iter()
        .map(|r| match r.state.as_str() {
            "ok" => r.address.clone(),
            state => format!("{} ({state})", r.address),
        })
        .collect();
    let state = match chunk.cause.as_str() {
        "" => chunk.state.clone(),
        cause => format!("{} ({cause})", chunk.state),
    };
    vec![
        chunk.index.to_string(),
        chunk.handle.clone(),
        chunk.version.clone(),
        state,
        replicas.join(", "),
    ]
}

async fn regular(remote: &Remote, path: &ClusterPath) -> Result<Attr> {
    let attr = remote.get(path, true).await?;
    match attr.kind {
        FileKind::Regular => Ok(attr),
        FileKind::Directory => Err(Failure::new(path, "is a directory and has no chunks")
            .next(format_args!("`cairn fsck {path}` looks at all files in it"))),
        _ => Err(Failure::new(path, "is no regular file and has no chunks")),
    }
}

#[derive(Serialize)]
struct Problem {
    /// Bytes that do not fit their checksum were seen.
    damage: bool,
    /// It was mended before fsck looked again.
    repaired: bool,
    path: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    handle: String,
    index: u32,
    /// Where; empty: the chunk as a whole.
    address: String,
    disk: String,
    cause: String,
}

#[derive(Default, Serialize)]
struct Report {
    files: u64,
    chunks: u64,
    replicas: u64,
    /// Read and verified, over all replicas.
    verified_bytes: u64,
    problems: Vec<Problem>,
}

pub async fn fsck(remote: &Remote, options: &Fsck, mut out: Out<'_>) -> Result<()> {
    let admin = remote.admin().await?;
    let mut tally = Tally::default();
    let mut report = Report::default();
    for top in remote.expand(&options.paths.paths).await? {
        let files = async {
            let attr = remote.get(&top, true).await?;
            collect(remote, &top, &attr, usize::MAX).await
        };
        let Some(files) = tally.note(files.await)? else {
            continue;
        };
        for (path, attr, _) in files.iter().filter(|(_, attr, _)| attr.kind == FileKind::Regular) {
            report.files += 1;
            let before = report.problems.len();
            let checked = check_file(remote, &admin, options, path, attr, &mut report).await;
            tally.note(checked)?;
            if options.json {
                continue;
            }
            for p in &report.problems[before..] {
                let place = if p.address.is_empty() {
                    String::new()
                } else {
                    format!(" on {}", p.address)
                };
                let since = if p.repaired { "; repaired since" } else { "" };
                writeln!(
                    out,
                    "{}: chunk {} ({}){place}: {}{since}",
                    p.path, p.index, p.handle, p.cause
                )?;
            }
            if options.verbose && report.problems.len() == before {
                writeln!(out, "{path}: ok")?;
            }
        }
    }
    let wrong = report.problems.len();
    if options.json {
        json(&mut out, &report)?;
    } else {
        let verified = match options.quick {
            true => String::new(),
            false => format!(", {} verified", human_bytes(report.verified_bytes)),
        };
        let verdict = match wrong {
            0 if tally.failed() => "not all could be looked at".to_owned(),
            0 => "nothing wrong".to_owned(),
            n => count(n as u64, "problem"),
        };
        writeln!(
            out,
            "{}, {}, {}{verified}: {verdict}",
            count(report.files, "file"),
            count(report.chunks, "chunk"),
            count(report.replicas, "replica")
        )?;
        if report.problems.iter().any(|p| !p.repaired) {
            writeln!(out, "repair runs by itself; `cairn admin status` shows how far it is")?;
        }
    }
    tally.done()?;
    if wrong == 0 { Ok(()) } else { Err(Failure::Silent) }
}

async fn check_file(
    remote: &Remote,
    admin: &Admin,
    options: &Fsck,
    path: &ClusterPath,
    attr: &Attr,
    report: &mut Report,
) -> Result<()> {
    let chunks = chunks_of(&remote.client, admin, path, attr.ino, attr.size).await?;
    let jobs = usize::from(options.jobs);
    let mut checks = futures::stream::iter(chunks)
        .map(|(location, state)| async move {
            let first = check_chunk(&remote.client, options, path, &location, state.as_ref()).await;
            if first.problems.is_empty() {
                return Ok(first);
            }
            tokio::time::sleep(LOOK_AGAIN_AFTER).await;
            let index = location.index;
            let now = remote.client.locations(attr.ino, index, 1).await.map_err(fail(path))?;
            let Some(location) = now.into_iter().find(|l| l.index == index) else {
                // truncated meanwhile
                return Ok(Report::default());
            };
            let states = admin.inspect_chunks(&[location.handle]).await.map_err(fail(path))?;
            let mut second = check_chunk(&remote.client, options, path, &location, states.first()).await;
            for mut seen in first.problems.into_iter().filter(|p| p.damage) {
                if !second.problems.iter().any(|p| p.damage && p.disk == seen.disk) {
                    seen.repaired = true;
                    second.problems.push(seen);
                }
            }
            Ok::<_, Failure>(second)
        })
        .buffered(jobs);
    while let Some(checked) = checks.next().await {
        let checked = checked?;
        report.chunks += checked.chunks;
        report.replicas += checked.replicas;
        report.verified_bytes += checked.verified_bytes;
        report.problems.extend(checked.problems);
    }
    Ok(())
}

async fn check_chunk(
    client: &Client,
    options: &Fsck,
    path: &ClusterPath,
    location: &Location,
    state: Option<&ChunkState>,
) -> Report {
    let mut report = Report {
        chunks: 1,
        replicas: location.members.len() as u64,
        ..Report::default()
    };
    let problem = |member: Option<&Member>, cause: String| Problem {
        damage: false,
        repaired: false,
        path: path.to_string(),
        handle: location.handle.to_string(),
        index: location.index,
        address: member.map(|m| m.address.clone()).unwrap_or_default(),
        disk: member.map(|m| m.disk.to_string()).unwrap_or_default(),
        cause,
    };
    match state {
        None => report
            .problems
            .push(problem(None, "the master does not know it any more".into())),
        Some(s) => {
            if !matches!(s.state.as_str(), "healthy" | "over-goal") {
                let cause = if s.cause.is_empty() {
                    String::new()
                } else {
                    format!(": {}", s.cause)
                };
                report.problems.push(problem(None, format!("{}{cause}", s.state)));
            }
            for r in s
                .replicas
                .iter()
                .filter(|r| !matches!(r.state.as_str(), "ok" | "unwritten"))
            {
                let shown = Replica::new(r);
                let member = location.members.iter().find(|m| m.disk.to_string() == shown.disk);
                let place = if member.is_none() {
                    format!(" (on {})", shown.address)
                } else {
                    String::new()
                };
                report
                    .problems
                    .push(problem(member, format!("replica is {}{place}", r.state)));
            }
        }
    }
    if options.quick {
        return report;
    }
    let mut good: Vec<(&Member, Read)> = vec![];
    for member in &location.members {
        match read_all(client, location, member).await {
            Ok(read) => {
                report.verified_bytes += read.bytes;
                good.push((member, read));
            }
            Err(e) => report.problems.push(Problem {
                damage: is_damage(&e),
                ..problem(Some(member), e.to_string())
            }),
        }
    }
    if let Some((reference, want)) = good.first() {
        for (member, read) in &good[1..] {
            if read != want {
                let cause = format!(
                    "differs from the replica on {}: {} bytes with CRC32 {:08x}, there {} with {:08x}",
                    reference.address, read.bytes, read.crc, want.bytes, want.crc
                );
                report.problems.push(problem(Some(member), cause));
            }
        }
    }
    report
}

fn is_damage(e: &Error) -> bool {
    use ErrorCode::{ErrorBadChecksum, ErrorCorrupt};
    matches!(
        e,
        Error::Refused {
            code: ErrorBadChecksum | ErrorCorrupt,
            ..
        }
    )
}

/// What one replica holds, all of it verified block by block on the way.
#[derive(PartialEq)]
struct Read {
    bytes: u64,
    crc: u32,
}

async fn read_all(client: &Client, location: &Location, member: &Member) -> cairn_client::Result<Read> {
    let mut hasher = crc32fast::Hasher::new();
    let mut offset = 0;
    loop {
        let read = client
            .read_replica(location, member, offset, PIECE_BYTES as u32, true)
            .await?;
        hasher.update(&read.data);
        offset += read.data.len() as u64;
        if offset >= read.chunk_length || read.data.is_empty() {
            return Ok(Read {
                bytes: offset,
                crc: hasher.finalize(),
            });
        }
    }
}
