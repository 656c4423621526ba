//! `cairn master`.
use super::{Signals, leave_address, open_directory, start_failure};
use crate::config::Config;
use crate::failure::{Failure, Result};
use crate::settings;
use cairn_io::Env;
use cairn_master::{Halt, Master, MasterConfig};
use std::path::Path;
use std::time::Duration;

pub fn master_config(config: &Config) -> MasterConfig {
    let c = &config.master;
    let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let ms32 = |d: Duration| u32::try_from(d.as_millis()).unwrap_or(u32::MAX);
    MasterConfig {
        listen: c.listen,
        default_goal: c.default_goal,
        min_replicas: c.min_replicas,
        lease_ms: ms32(c.lease.0),
        heartbeat_ms: ms32(c.heartbeat.0),
        repair_delay_ms: ms(c.repair_delay.0),
        repairs_max: c.repairs_max,
        repairs_per_server_max: c.repairs_per_server_max,
        repair_bytes_per_second: c.repair_rate.0,
        gc_grace_ms: ms(c.gc_grace.0),
        trash_keep_ms: ms(c.trash_keep.0),
        session_timeout_ms: ms32(c.session_timeout.0),
        call_timeout_ms: ms32(c.call_timeout.0),
        order_timeout_ms: ms32(c.order_timeout.0),
        safe_mode_ms: ms(c.safe_mode.0),
        checkpoint_log_bytes: c.checkpoint_log.0,
        log_segment_bytes: c.log_segment.0,
    }
}

pub fn halted(why: Halt) -> Failure {
    Failure::new("master", why)
        .next("start it again once the cause is mended; what was acknowledged is in its data directory")
}

/// Starts a master with its data in `data`; it listens when this returns.
pub async fn start(config: MasterConfig, data: &Path, setting: &str) -> Result<Master> {
    let listen = config.listen;
    settings::warn_if_reachable("the master", listen);
    let disk = open_directory(data, setting)?;
    let started = Master::start(config, disk, Env::real()).await;
    let master = started.map_err(|e| {
        start_failure(
            &format!("master, data in {}", data.display()),
            &format!(
                "another program has {listen}: stop it, or choose another address with --listen (port 0: any free one)"
            ),
            &e,
        )
    })?;
    let bound = master.address();
    leave_address(data, bound);
    tracing::info!("listening on {bound}");
    Ok(master)
}

pub async fn run(config: &Config) -> Result<()> {
    let mut signals = Signals::listen()?;
    let master = start(master_config(config), &config.master.data, "--data").await?;
    tokio::select! {
        biased;
        name = signals.next() => {
            tracing::info!("{name}: stopping");
            signals.unless_again(master.shutdown()).await?.map_err(halted)?;
            tracing::info!("stopped");
            Ok(())
        }
        why = master.halted() => Err(halted(why)),
    }
}
