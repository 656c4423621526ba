//! `admin status`, `admin scrub`, `admin checkpoint`.
use super::Out;
use crate::args::{Admin as Verb, Checkpoint};
use crate::config::Config;
use crate::failure::{Failure, Result, plain};
use crate::output::{count, human_bytes, human_duration, json, table, time};
use crate::remote::NO_MASTER;
use crate::whole::WholeFile;
use cairn_client::Admin;
use cairn_io::Env;
use cairn_proto::admin::{Health, Server, StatusAnswer};
use cairn_types::{ChunkHandle, ClusterId, DiskId, ServerId};
use futures::StreamExt;
use serde::Serialize;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

/// How often `scrub --wait` asks how far it is.
const ASK_EVERY: Duration = Duration::from_millis(300);
/// Silence of a server after which `scrub --wait` gives it up.
const SILENT_MAX: Duration = Duration::from_secs(60);
/// One piece of a checkpoint on its way to the master.
const CHECKPOINT_PIECE_BYTES: usize = 1 << 20;

pub async fn admin(config: &Config, verb: &Verb, out: Out<'_>) -> Result<()> {
    let address = config.client.master.as_str();
    let admin = Admin::connect(address, Env::real())
        .await
        .map_err(|e| Failure::new("", e).next(NO_MASTER))?;
    match verb {
        Verb::Status { json, .. } => status(&admin, *json, out).await,
        Verb::Scrub { wait, .. } => scrub(&admin, *wait, out).await,
        Verb::Checkpoint(Checkpoint::Save { file, .. }) => save(&admin, file, out).await,
        Verb::Checkpoint(Checkpoint::Load { file, .. }) => load(&admin, file, out).await,
    }
}

fn failed(e: cairn_client::Error) -> Failure {
    Failure::new("", e)
}

async fn status(admin: &Admin, as_json: bool, mut out: Out<'_>) -> Result<()> {
    let status = admin.status().await.map_err(failed)?;
    if as_json {
        return json(&mut out, &JsonStatus::new(&status));
    }
    let h = status.health.unwrap_or_default();
    let cluster = ClusterId::try_from(&status.cluster[..])
        .map(|c| c.to_string())
        .unwrap_or_default();
    writeln!(
        out,
        "Cluster {cluster}, Cairn {}, up {}{}",
        status.version,
        human_duration(Duration::from_millis(status.uptime_ms)),
        if status.safe_mode {
            ", SAFE MODE (waiting for chunkservers)"
        } else {
            ""
        }
    )?;
    writeln!(
        out,
        "Files {}, directories {}, chunks {}, default goal {}, sessions {}",
        status.files, status.directories, status.chunks, status.default_goal, status.sessions
    )?;
    writeln!(
        out,
        "Trash {} in {}",
        human_bytes(status.trash_bytes),
        count(status.trash_files, "file")
    )?;
    writeln!(
        out,
        "Log at {}, checkpoint at {}",
        status.log_index, status.checkpoint_index
    )?;
    writeln!(
        out,
        "\nChunks: {} healthy, {} under goal, {} endangered, {} lost, {} over goal, {} reconfiguring",
        h.healthy, h.under_goal, h.endangered, h.lost, h.over_goal, h.reconfiguring
    )?;
    writeln!(
        out,
        "Corruption: {} found, {} repaired; garbage: {} replicas\n",
        h.corrupt_found, h.corrupt_repaired, h.garbage
    )?;
    let rows: Vec<_> = status.servers.iter().map(server_row).collect();
    let heading = ["SERVER", "LABEL", "STATE", "CHUNKS", "USED", "TOTAL", "ERRORS", "SCRUB"];
    table(&mut out, &heading, &[3, 4, 5, 6], &rows)?;
    let broken = status.servers.iter().flat_map(|s| s.disks.iter().map(move |d| (s, d)));
    for (server, disk) in broken.filter(|(_, d)| !matches!(d.state.as_str(), "ok" | "")) {
        writeln!(out, "disk {} of {}: {}", disk.path, server.address, disk.state)?;
    }
    for task in &status.repairs {
        writeln!(
            out,
            "repair: {} of chunk {} ({}), {}",
            task.what,
            ChunkHandle(task.handle),
            task.path,
            human_duration(Duration::from_millis(task.running_ms))
        )?;
    }
    for warning in &status.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    if !status.events.is_empty() {
        writeln!(out, "\nEvents:")?;
        for event in &status.events {
            writeln!(out, "  {} {}", time(event.at_ns), event.text)?;
        }
    }
    Ok(())
}

fn server_row(s: &Server) -> Vec<String> {
    let sum = |f: fn(&cairn_proto::admin::ServerDisk) -> u64| s.disks.iter().map(f).sum::<u64>();
    let (total, available) = (sum(|d| d.total_bytes), sum(|d| d.available_bytes));
    let scrub = match &s.scrub {
        Some(p) if p.running => format!("running, {} chunks, {} bad", p.verified_chunks, p.bad_chunks),
        Some(p) if p.verified_chunks > 0 => format!("{} chunks, {} bad", p.verified_chunks, p.bad_chunks),
        _ => String::new(),
    };
    vec![
        s.address.clone(),
        s.label.clone(),
        match s.up {
            true => "up".into(),
            false => format!("down {}", human_duration(Duration::from_millis(s.silent_ms))),
        },
        sum(|d| d.chunks).to_string(),
        human_bytes(total.saturating_sub(available)),
        human_bytes(total),
        sum(|d| d.errors).to_string(),
        scrub,
    ]
}

async fn scrub(admin: &Admin, wait: bool, out: Out<'_>) -> Result<()> {
    let before = admin.status().await.map_err(failed)?;
    let servers = admin.scrub_now().await.map_err(failed)?;
    if servers == 0 {
        return Err(Failure::new("scrub", "no chunkserver is up").next("`cairn admin status` shows the servers"));
    }
    if !wait {
        writeln!(
            out,
            "{servers} servers verify all they hold; `cairn admin status` shows how far they are"
        )?;
        return Ok(());
    }
    // A server has begun when it says so, or when its count moved on from before; a scrub may also begin and end
    // between two looks, and then nothing but the count tells.
    let counts = |s: &StatusAnswer| -> std::collections::BTreeMap<Vec<u8>, (bool, u64)> {
        let scrubs = s.servers.iter().filter(|s| s.up);
        scrubs
            .map(|s| {
                let p = s.scrub.unwrap_or_default();
                (s.server.to_vec(), (p.running, p.verified_chunks))
            })
            .collect()
    };
    let first = counts(&before);
    let mut begun = std::collections::BTreeSet::new();
    let started = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(ASK_EVERY).await;
        let status = admin.status().await.map_err(failed)?;
        let now = counts(&status);
        for (server, (running, verified)) in &now {
            if *running || first.get(server).is_none_or(|(_, before)| before != verified) {
                begun.insert(server.clone());
            }
        }
        // a server without chunks never shows that it began
        let patience_over = started.elapsed() > SILENT_MAX;
        let empty = |server: &Vec<u8>| {
            let of = status.servers.iter().find(|s| s.server == *server);
            of.is_none_or(|s| s.disks.iter().all(|d| d.chunks == 0))
        };
        let all_begun = first
            .keys()
            .all(|s| begun.contains(s) || !now.contains_key(s) || empty(s));
        let any_running = now.values().any(|(running, _)| *running);
        if any_running || !(all_begun || patience_over) {
            continue;
        }
        let h = status.health.unwrap_or_default();
        let verified: u64 = now
            .iter()
            // a server that restarted has counted from 0
            .map(|(server, (_, verified))| match first.get(server) {
                Some((_, before)) if before <= verified => verified - before,
                _ => *verified,
            })
            .sum();
        let before_found = before.health.unwrap_or_default().corrupt_found;
        writeln!(
            out,
            "{verified} replicas verified on {servers} servers; {} corrupt ones found by this scrub, {} since the master started, {} repaired",
            h.corrupt_found.saturating_sub(before_found),
            h.corrupt_found,
            h.corrupt_repaired
        )?;
        return Ok(());
    }
}

async fn save(admin: &Admin, file: &Path, out: Out<'_>) -> Result<()> {
    let mut pieces = admin.save_checkpoint().await.map_err(failed)?;
    if file.as_os_str() == "-" {
        while let Some(piece) = pieces.next().await {
            out.write_all(&piece.map_err(failed)?)?;
        }
        return Ok(());
    }
    let mut whole = WholeFile::create(file)?;
    let mut bytes = 0;
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(failed)?;
        bytes += piece.len() as u64;
        whole.write(&piece)?;
    }
    whole.finish()?;
    writeln!(out, "saved {} to {}", human_bytes(bytes), file.display())?;
    Ok(())
}

async fn load(admin: &Admin, file: &Path, out: Out<'_>) -> Result<()> {
    let mut input: Box<dyn Read + Send> = match file.as_os_str() == "-" {
        true => Box::new(std::io::stdin()),
        false => Box::new(std::fs::File::open(file).map_err(|e| Failure::local(file, &e))?),
    };
    let (send, receive) = tokio::sync::mpsc::channel(4);
    let reader = tokio::task::spawn_blocking(move || -> std::io::Result<()> {
        loop {
            let mut piece = Vec::with_capacity(CHECKPOINT_PIECE_BYTES);
            (&mut input)
                .take(CHECKPOINT_PIECE_BYTES as u64)
                .read_to_end(&mut piece)?;
            // closed: the master has refused, and says why
            if piece.is_empty() || send.blocking_send(bytes::Bytes::from(piece)).is_err() {
                return Ok(());
            }
        }
    });
    let pieces = tokio_stream::wrappers::ReceiverStream::new(receive);
    let answer = admin.load_checkpoint(pieces).await.map_err(failed);
    match reader.await {
        Ok(Err(e)) => return Err(Failure::new(file.display(), plain(&e))),
        Err(e) => return Err(Failure::new(file.display(), e)),
        Ok(Ok(())) => {}
    }
    let answer = answer?;
    writeln!(
        out,
        "loaded {} with {}",
        count(answer.files, "inode"),
        count(answer.chunks, "chunk")
    )?;
    Ok(())
}

/// The status with the names of proto/cairn/admin.proto; ids as text.
#[derive(Serialize)]
struct JsonStatus {
    cluster: String,
    version: String,
    uptime_ms: u64,
    safe_mode: bool,
    files: u64,
    directories: u64,
    chunks: u64,
    default_goal: u32,
    sessions: u64,
    trash_files: u64,
    trash_bytes: u64,
    log_index: u64,
    checkpoint_index: u64,
    health: JsonHealth,
    servers: Vec<JsonServer>,
    repairs: Vec<JsonTask>,
    warnings: Vec<String>,
    events: Vec<JsonEvent>,
}
#[derive(Serialize)]
struct JsonHealth {
    healthy: u64,
    under_goal: u64,
    endangered: u64,
    lost: u64,
    over_goal: u64,
    reconfiguring: u64,
    corrupt_found: u64,
    corrupt_repaired: u64,
    garbage: u64,
}
#[derive(Serialize)]
struct JsonServer {
    server: String,
    address: String,
    label: String,
    version: String,
    up: bool,
    silent_ms: u64,
    disks: Vec<JsonDisk>,
    scrub: JsonScrub,
}
#[derive(Serialize)]
struct JsonDisk {
    disk: String,
    path: String,
    state: String,
    total_bytes: u64,
    available_bytes: u64,
    chunks: u64,
    errors: u64,
}
#[derive(Serialize)]
struct JsonScrub {
    verified_chunks: u64,
    bad_chunks: u64,
    verified_bytes: u64,
    running: bool,
}
#[derive(Serialize)]
struct JsonTask {
    handle: String,
    path: String,
    what: String,
    running_ms: u64,
}
#[derive(Serialize)]
struct JsonEvent {
    at_ns: i64,
    text: String,
}

impl JsonStatus {
    fn new(s: &StatusAnswer) -> Self {
        Self {
            cluster: ClusterId::try_from(&s.cluster[..])
                .map(|c| c.to_string())
                .unwrap_or_default(),
            version: s.version.clone(),
            uptime_ms: s.uptime_ms,
            safe_mode: s.safe_mode,
            files: s.files,
            directories: s.directories,
            chunks: s.chunks,
            default_goal: s.default_goal,
            sessions: s.sessions,
            trash_files: s.trash_files,
            trash_bytes: s.trash_bytes,
            log_index: s.log_index,
            checkpoint_index: s.checkpoint_index,
            health: JsonHealth::new(s.health.unwrap_or_default()),
            servers: s.servers.iter().map(JsonServer::new).collect(),
            repairs: s
                .repairs
                .iter()
                .map(|t| JsonTask {
                    handle: ChunkHandle(t.handle).to_string(),
                    path: t.path.clone(),
                    what: t.what.clone(),
                    running_ms: t.running_ms,
                })
                .collect(),
            warnings: s.warnings.clone(),
            events: s
                .events
                .iter()
                .map(|e| JsonEvent {
                    at_ns: e.at_ns,
                    text: e.text.clone(),
                })
                .collect(),
        }
    }
}

impl JsonHealth {
    fn new(h: Health) -> Self {
        Self {
            healthy: h.healthy,
            under_goal: h.under_goal,
            endangered: h.endangered,
            lost: h.lost,
            over_goal: h.over_goal,
            reconfiguring: h.reconfiguring,
            corrupt_found: h.corrupt_found,
            corrupt_repaired: h.corrupt_repaired,
            garbage: h.garbage,
        }
    }
}

impl JsonServer {
    fn new(s: &Server) -> Self {
        let scrub = s.scrub.unwrap_or_default();
        Self {
            server: ServerId::try_from(&s.server[..])
                .map(|s| s.to_string())
                .unwrap_or_default(),
            address: s.address.clone(),
            label: s.label.clone(),
            version: s.version.clone(),
            up: s.up,
            silent_ms: s.silent_ms,
            disks: s
                .disks
                .iter()
                .map(|d| JsonDisk {
                    disk: DiskId::try_from(&d.disk[..]).map(|d| d.to_string()).unwrap_or_default(),
                    path: d.path.clone(),
                    state: d.state.clone(),
                    total_bytes: d.total_bytes,
                    available_bytes: d.available_bytes,
                    chunks: d.chunks,
                    errors: d.errors,
                })
                .collect(),
            scrub: JsonScrub {
                verified_chunks: scrub.verified_chunks,
                bad_chunks: scrub.bad_chunks,
                verified_bytes: scrub.verified_bytes,
                running: scrub.running,
            },
        }
    }
}
