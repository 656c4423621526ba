//! `cairn chunkserver`.
use super::{Signals, leave_address, open_directory, start_failure};
use crate::config::Config;
use crate::failure::Result;
use crate::settings;
use cairn_chunkserver::{Chunkserver, ChunkserverConfig};
use cairn_io::Env;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
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

/// What each of `disks` may have open: as many as are wanted, but no more than a process may, a third of which is for
/// sockets.
fn open_files_of(disks: usize, wanted: usize) -> usize {
    let limit = raise_open_files().map_or(usize::MAX, |limit| limit as usize);
    let disks = disks.max(1);
    let each = (limit / 3 * 2 / disks).max(16).min(wanted);
    make_room_for_files(each.saturating_mul(disks).saturating_mul(3).div_ceil(2).min(limit));
    each
}

/// Has the kernel make its table of this process's files large enough for `files`. It would grow by and by, but each
/// time the thread that opens a file has to wait, and with it what else the thread does; and a disk whose calls are seen
/// to wait gets them from other threads for long after.
fn make_room_for_files(files: usize) {
    let Ok(last) = i32::try_from(files.saturating_sub(1)) else {
        return;
    };
    let made = eventfd(0, EventfdFlags::CLOEXEC).and_then(|file| fcntl_dupfd_cloexec(&file, last));
    if let Err(e) = made {
        tracing::debug!(files, "no room is made for files before they are opened: {e}");
    }
}

/// Raises the number of files that this process may have open as far as it is allowed to. What it is then; none: there
/// is no limit.
fn raise_open_files() -> Option<u64> {
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
    config.open_files_max = open_files_of(disks, config.open_files_max);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn table_size() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
        line.trim().parse().unwrap()
    }

    #[test]
    fn the_table_of_files_is_large_enough_before_any_is_opened() {
        let limit = raise_open_files().map_or(usize::MAX, |limit| limit as usize);
        let wanted = 40_000.min(limit / 3);
        assert!(table_size() < wanted);
        assert_eq!(open_files_of(1, wanted), wanted);
        assert!(table_size() >= wanted, "{}", table_size());
        // the limit of a process is for its sockets too
        let all = open_files_of(2, usize::MAX);
        assert!(all <= limit / 3 && table_size() >= limit.min(3 * all) / 2);
    }
}
