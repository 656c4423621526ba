//! `cairn chunkserver`.
use super::{Signals, leave_address, open_directory, start_failure};
use crate::config::Config;
use crate::failure::Result;
use crate::settings;
use cairn_chunkserver::{Chunkserver, ChunkserverConfig};
use cairn_io::Env;
use std::net::SocketAddr;
use std::path::PathBuf;

pub fn chunkserver_config(config: &Config) -> ChunkserverConfig {
    let c = &config.chunkserver;
    ChunkserverConfig {
        listen: c.listen,
        advertise: c.advertise.as_ref().map(ToString::to_string),
        health_listen: Some(c.health_listen.unwrap_or_else(|| health_beside(c.listen))),
        master: c.master.to_string(),
        label: c.label.clone().unwrap_or_else(settings::host_name),
        reserve_permille: c.reserve.0,
        open_files_max: c.open_files_max as usize,
        chain_deadline: c.chain_deadline.0,
        sync_deadline: c.sync_deadline.0,
        frame_memory_bytes: usize::try_from(c.frame_memory.0).unwrap_or(usize::MAX),
        scrub_bytes_per_second: c.scrub_rate.0,
        shutdown_deadline: c.shutdown_deadline.0,
    }
}

/// The health service's address where none is set: the port after the data plane's, any free one where that has any.
pub fn health_beside(listen: SocketAddr) -> SocketAddr {
    let port = match listen.port() {
        0 | u16::MAX => 0,
        port => port + 1,
    };
    SocketAddr::new(listen.ip(), port)
}

/// What each of all disks of this process may have open; a third is for sockets.
fn open_files_of(disks: usize) -> usize {
    let limit = raise_open_files().map_or(usize::MAX, |limit| limit as usize);
    (limit / 3 * 2 / disks.max(1)).max(16)
}

/// Raises the number of files that this process may have open as far as it is allowed to. What it is then; none: there
/// is no limit.
fn raise_open_files() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(e) => {
            tracing::warn!(limit = ?limit.current, "the limit of open files cannot be raised: {e}");
            limit.current
        }
    }
}

/// Starts a chunkserver in a process that has `disks` in all; it listens when this returns, and registers at the master
/// meanwhile.
pub async fn start(
    mut config: ChunkserverConfig,
    directories: &[PathBuf],
    disks: usize,
    setting: &str,
) -> Result<Chunkserver> {
    config.open_files_max = config.open_files_max.min(open_files_of(disks));
    let (listen, health) = (config.listen, config.health_listen);
    settings::warn_if_reachable("the chunkserver", listen);
    let mut own = vec![];
    for directory in directories {
        own.push((open_directory(directory, setting)?, Some(directory.clone())));
    }
    let places: Vec<_> = directories.iter().map(|d| d.display().to_string()).collect();
    let started = Chunkserver::start(config, own, Env::real()).await;
    let server = started.map_err(|e| {
        let health = health.map(|h| format!(" or {h}")).unwrap_or_default();
        start_failure(
            &format!("chunkserver, chunks in {}", places.join(", ")),
            &format!(
                "another program has {listen}{health}: stop it, or choose other addresses with --listen and --health-listen (port 0: any free one)"
            ),
            &e,
        )
    })?;
    if let Some(health) = server.health_address() {
        tracing::info!("health service on {health}");
    }
    Ok(server)
}

pub async fn run(config: &Config) -> Result<()> {
    let mut signals = Signals::listen()?;
    let directories = &config.chunkserver.disks;
    let server = start(chunkserver_config(config), directories, directories.len(), "--disk").await?;
    let bound = server.bound();
    // only a formatted disk may have a file in it, and formatting waits for the master
    let registered = async {
        server.registered().await;
        if let Some(first) = directories.first() {
            leave_address(first, bound);
        }
        tracing::info!(id = %server.id(), master = %config.chunkserver.master, "registered");
        std::future::pending::<()>().await;
    };
    let name = tokio::select! {
        biased;
        name = signals.next() => name,
        () = registered => "",
    };
    tracing::info!("{name}: stopping");
    signals.unless_again(server.shutdown()).await?;
    tracing::info!("stopped");
    Ok(())
}
