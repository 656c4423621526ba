//! Logs go to standard error: for people by default, as one JSON object a line by choice.
use crate::config::{Log, LogFormat};
use crate::failure::{Failure, Result};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Starts logging. `quiet`: a command for people, whose own output matters more, says only what is wrong, unless
/// the level was set.
pub fn start(log: &Log, quiet: bool) -> Result<()> {
    let level = if quiet { "error" } else { log.level.as_str() };
    let filter = EnvFilter::try_new(level).map_err(|e| {
        Failure::new(format_args!("log.level = {level:?}"), e)
            .next("give a level such as info, or info,cairn_master=debug")
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    let started = match log.format {
        LogFormat::Human => builder.with_target(true).try_init(),
        LogFormat::Json => builder.json().with_ansi(false).flatten_event(true).try_init(),
    };
    started.map_err(|e| Failure::new("logging", e))
}
