//! `config check`, `config show`, and settings in the words of the crates that they are for.
use crate::args::ConfigVerb;
use crate::config::{self, Config, KEYS, Layers, Loaded, Origin};
use crate::failure::{Failure, Result};
use crate::output::{json, table};
use crate::verbs::Out;
use serde::Serialize;

/// The environment; variables that are not UTF-8 are none of ours.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
}

pub fn run(verb: &ConfigVerb, mut layers: Layers, mut out: Out<'_>) -> Result<()> {
    match verb {
        ConfigVerb::Check { file } => {
            if file.is_some() {
                layers.file = file.clone();
            }
            let loaded = config::load(&layers, environment())?;
            check(&loaded)?;
            match &loaded.file {
                Some(path) => writeln!(out, "{}: no errors", path.display())?,
                None => writeln!(
                    out,
                    "no configuration file; defaults, environment and flags have no errors"
                )?,
            }
            for name in &loaded.strange_variables {
                eprintln!("cairn: warning: environment {name} is no setting of Cairn");
            }
            Ok(())
        }
        ConfigVerb::Show { toml, json: as_json } => {
            let loaded = config::load(&layers, environment())?;
            if *toml {
                return show_toml(&loaded, out);
            }
            let rows = KEYS.iter().map(|k| {
                let value = loaded.config.get(k.section, k.name).unwrap_or_default();
                (k.full(), value, loaded.origin(k.section, k.name).to_string())
            });
            if *as_json {
                #[derive(Serialize)]
                struct Setting {
                    key: String,
                    value: String,
                    origin: String,
                }
                #[derive(Serialize)]
                struct Settings {
                    settings: Vec<Setting>,
                }
                let settings = rows
                    .map(|(key, value, origin)| Setting { key, value, origin })
                    .collect();
                return json(&mut out, &Settings { settings });
            }
            let rows: Vec<_> = rows.map(|(k, v, o)| vec![k, v, o]).collect();
            table(&mut out, &["SETTING", "VALUE", "FROM"], &[], &rows)?;
            Ok(())
        }
    }
}

/// A file with every setting: those in force, defaults as comments.
fn show_toml(loaded: &Loaded, out: Out<'_>) -> Result<()> {
    let mut section = "";
    for key in KEYS {
        if key.section != section {
            let gap = if section.is_empty() { "" } else { "\n" };
            section = key.section;
            writeln!(out, "{gap}[{section}]")?;
        }
        let value = loaded.config.get(key.section, key.name).unwrap_or_default();
        let value = match key.bare && !value.is_empty() {
            true => value,
            false => format!("{value:?}"),
        };
        let comment = if loaded.origin(key.section, key.name) == Origin::Default {
            "# "
        } else {
            ""
        };
        writeln!(out, "# {}\n{comment}{} = {value}", key.help.trim(), key.name)?;
    }
    Ok(())
}

/// What single values cannot say: settings that do not go together.
pub fn check(loaded: &Loaded) -> Result<()> {
    let c = &loaded.config;
    let wrong = |key: &str, why: String| {
        let (section, name) = key.split_once('.').unwrap_or(("", key));
        let origin = loaded.origin(section, name);
        Err(Failure::new(format_args!("{key} ({origin})"), why))
    };
    if !(1..=cairn_types::limits::GOAL_MAX).contains(&c.master.default_goal) {
        return wrong(
            "master.default-goal",
            format!("goals are from 1 to {}", cairn_types::limits::GOAL_MAX),
        );
    }
    if c.master.min_replicas == 0 {
        return wrong("master.min-replicas", "a chunk needs at least one replica".into());
    }
    if c.master.heartbeat.0 * 3 > c.master.lease.0 || c.master.heartbeat.0.is_zero() {
        return wrong(
            "master.heartbeat",
            format!(
                "must be above 0 and at most a third of master.lease, {}",
                c.master.lease
            ),
        );
    }
    if c.chunkserver.listen.ip().is_unspecified() && c.chunkserver.advertise.is_none() {
        return wrong(
            "chunkserver.listen",
            format!(
                "{} means nothing to others; set chunkserver.advertise (--advertise) to the host:port where clients reach this server",
                c.chunkserver.listen
            ),
        );
    }
    if c.chunkserver.disks.is_empty() {
        return wrong("chunkserver.disk", "a chunkserver needs at least one disk".into());
    }
    tracing_subscriber::EnvFilter::try_new(&c.log.level)
        .map(drop)
        .or_else(|e| {
            wrong(
                "log.level",
                format!("{e}; give a level such as info, or info,cairn_master=debug"),
            )
        })
}

/// Says it when a server can be reached from outside: nothing protects it yet.
pub fn warn_if_reachable(what: &str, address: std::net::SocketAddr) {
    if !address.ip().is_loopback() {
        tracing::warn!(
            "{what} listens on {address}: no authentication yet: anybody who reaches {address} can read and write everything"
        );
    }
}

/// The host's own name.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A client's settings; `purpose` is for people.
pub fn client(config: &Config, purpose: &str) -> cairn_client::ClientConfig {
    let c = &config.client;
    let bytes = |size: config::Size| usize::try_from(size.0).unwrap_or(usize::MAX);
    cairn_client::ClientConfig {
        master: c.master.to_string(),
        description: format!("{}:{} {purpose}", host_name(), std::process::id()),
        host_label: c.label.clone().unwrap_or_else(host_name),
        timeout: c.timeout.0,
        connect_within: c.connect_within.0,
        connect_timeout: c.connect_timeout.0,
        server_timeout: c.server_timeout.0,
        hedge_after: c.hedge_after.0,
        commit_interval: c.commit_interval.0,
        write_buffer_bytes: bytes(c.write_buffer),
        write_window_bytes: bytes(c.write_window),
        read_ahead_bytes: bytes(c.read_ahead),
        read_buffer_bytes: bytes(c.read_buffer),
        ..cairn_client::ClientConfig::default()
    }
}
