//! `cairn`: the servers, the mount and the file commands of Cairn, in one binary.
//!
//! `args` is the command line; `config` the settings, from file, environment and flags; `servers` runs the processes;
//! `verbs` and `cp` are the file commands over the client library. This crate is the edge: it may call what
//! clippy.toml keeps from the others.
#![allow(clippy::disallowed_methods)]
mod allocator;
mod args;
mod config;
mod cp;
mod failure;
mod flags;
mod logging;
mod mode;
mod output;
mod path;
mod remote;
mod servers;
mod settings;
mod verbs;
mod whole;

#[cfg(test)]
mod tests;

use crate::args::{Cli, Verb};
use crate::config::{Layers, Loaded};
use crate::failure::{Failure, Result};
use crate::remote::Remote;
use clap::{CommandFactory, Parser};
use std::ffi::{OsStr, OsString};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;
use verbs::Out;

fn main() -> ExitCode {
    // while there is one thread
    mode::umask();
    allocator::keep_freed();
    let args: Vec<OsString> = std::env::args_os().collect();
    let called_as = args.first().map(Path::new).and_then(Path::file_name);
    let cli = if called_as == Some(OsStr::new("mount.cairn")) {
        match servers::mount::from_mount_helper(&args[1..]) {
            Ok(args) => Cli::parse_from(args),
            Err(e) => return e.report(),
        }
    } else {
        Cli::parse_from(args::normalize(args))
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => e.report(),
    }
}

/// The settings that the command line gives, weaker ones first.
fn layers(cli: &Cli) -> Layers {
    let mut flags = cli.global.log.given().to_vec();
    let mut defaults = vec![];
    match &cli.verb {
        Verb::Up(up) => {
            if let Some(listen) = up.listen {
                flags
                    .extend(config::find("master", "listen").map(|k| (k, vec![listen.to_string()], "--listen".into())));
            }
            defaults.push(("master", "data", up.data.join("master").display().to_string()));
        }
        Verb::Master(f) => flags.extend_from_slice(f.given()),
        Verb::Chunkserver(f) => flags.extend_from_slice(f.given()),
        Verb::Mount(m) => {
            flags.extend_from_slice(m.settings.given());
            flags.extend_from_slice(m.client.given());
        }
        verb => flags.extend_from_slice(client_flags(verb)),
    }
    Layers {
        file: cli.global.config.clone(),
        flags,
        sets: cli.global.set.clone(),
        defaults,
    }
}

fn client_flags(verb: &Verb) -> &[(&'static config::Key, Vec<String>, String)] {
    use args::{Admin, Checkpoint, Goal, Trash};
    match verb {
        Verb::Health(v) => v.client.given(),
        Verb::Ls(v) => v.client.given(),
        Verb::Stat(v) => v.paths.client.given(),
        Verb::Chunks(v) => v.paths.client.given(),
        Verb::Cat(v) => v.client.given(),
        Verb::Cp(v) => v.client.given(),
        Verb::Mkdir(v) => v.paths.client.given(),
        Verb::Rm(v) => v.paths.client.given(),
        Verb::Mv(v) => v.client.given(),
        Verb::Ln(v) => v.client.given(),
        Verb::Du(v) => v.client.given(),
        Verb::Df(v) => v.client.given(),
        Verb::Chmod(v) => v.paths.client.given(),
        Verb::Chown(v) => v.paths.client.given(),
        Verb::Touch(v) => v.paths.client.given(),
        Verb::Head(v) => v.paths.client.given(),
        Verb::Tail(v) => v.what.paths.client.given(),
        Verb::Append(v) => v.client.given(),
        Verb::Records(v) => v.client.given(),
        Verb::Find(v) => v.client.given(),
        Verb::Goal(Goal::Get { paths, .. }) => paths.paths.client.given(),
        Verb::Goal(Goal::Set { paths, .. }) => paths.client.given(),
        Verb::Fsck(v) => v.paths.client.given(),
        Verb::Trash(Trash::Ls { client, .. } | Trash::Restore { client, .. } | Trash::Empty { client, .. }) => {
            client.given()
        }
        Verb::Admin(
            Admin::Status { client, .. }
            | Admin::Scrub { client, .. }
            | Admin::Checkpoint(Checkpoint::Save { client, .. } | Checkpoint::Load { client, .. }),
        ) => client.given(),
        Verb::Up(_)
        | Verb::Master(_)
        | Verb::Chunkserver(_)
        | Verb::Mount(_)
        | Verb::Config(_)
        | Verb::Completions { .. } => &[],
    }
}

fn run(cli: Cli) -> Result<()> {
    let mut out = BufWriter::new(std::io::stdout());
    if let Verb::Completions { shell } = cli.verb {
        // into memory first: the generator panics where a pipe is closed
        let mut text = vec![];
        clap_complete::generate(shell, &mut Cli::command(), "cairn", &mut text);
        out.write_all(&text)?;
        out.flush()?;
        return Ok(());
    }
    let layers = layers(&cli);
    if let Verb::Config(verb) = &cli.verb {
        settings::run(verb, layers, &mut out)?;
        out.flush()?;
        return Ok(());
    }
    let loaded = config::load(&layers, settings::environment())?;
    let server = matches!(
        cli.verb,
        Verb::Up(_) | Verb::Master(_) | Verb::Chunkserver(_) | Verb::Mount(_)
    );
    let level_is_set = loaded.origin("log", "level") != config::Origin::Default;
    logging::start(&loaded.config.log, !server && !level_is_set)?;
    if server {
        for name in &loaded.strange_variables {
            tracing::warn!("environment {name} is no setting of Cairn; `cairn config show` lists them all");
        }
    }
    let runtime = match worker_threads(&cli.verb) {
        // one thread that nobody else hands work to is quicker than a pool of one; a copy hashes on another
        1 if server => tokio::runtime::Builder::new_current_thread(),
        threads => {
            let mut pool = tokio::runtime::Builder::new_multi_thread();
            pool.worker_threads(threads);
            pool
        }
    }
    .enable_all()
    .build()
    .map_err(|e| Failure::new("starting threads", failure::plain(&e)))?;
    let result = runtime.block_on(dispatch(cli.verb, &loaded, &mut out));
    let flushed = out.flush().map_err(Failure::from);
    // threads that still wait for the disk or a terminal end with the process
    runtime.shutdown_background();
    result.and(flushed)
}

/// Of tokio, which TOKIO_WORKER_THREADS overrules. Half of the processors, since a server's or a mount's other half of the
/// work is done elsewhere: by threads for disks, by FUSE's, by the programs that it serves; more only wake each other.
fn worker_threads(verb: &Verb) -> usize {
    let asked = std::env::var("TOKIO_WORKER_THREADS").ok().and_then(|n| n.parse().ok());
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let ours = match verb {
        // a whole cluster
        Verb::Up(_) => processors,
        _ => processors / 2,
    };
    asked.unwrap_or(ours).max(1)
}

async fn dispatch(verb: Verb, loaded: &Loaded, out: Out<'_>) -> Result<()> {
    let config = &loaded.config;
    match verb {
        Verb::Up(up) => Box::pin(servers::up::run(&up, loaded)).await,
        Verb::Master(_) => Box::pin(servers::master::run(config)).await,
        Verb::Chunkserver(_) => Box::pin(servers::chunkserver::run(config)).await,
        Verb::Mount(mount) => Box::pin(servers::mount::run(&mount, config)).await,
        Verb::Health(health) => servers::health::run(&health, config, out).await,
        Verb::Admin(verb) => interruptible(verbs::admin::admin(config, &verb, out)).await,
        Verb::Cp(options) => Box::pin(cp::run(&options, config, out)).await,
        verb => {
            interruptible(async {
                let remote = Remote::connect(config, "cairn command").await?;
                let result = Box::pin(file_verb(&remote, verb, out)).await;
                remote.goodbye().await?;
                result
            })
            .await
        }
    }
}

async fn file_verb(remote: &Remote, verb: Verb, out: Out<'_>) -> Result<()> {
    match verb {
        Verb::Ls(o) => verbs::list::ls(remote, &o, out).await,
        Verb::Stat(o) => verbs::list::stat(remote, &o, out).await,
        Verb::Chunks(o) => verbs::fsck::chunks(remote, &o, out).await,
        Verb::Cat(o) => verbs::content::cat(remote, &o, out).await,
        Verb::Mkdir(o) => verbs::names::mkdir(remote, &o).await,
        Verb::Rm(o) => verbs::names::rm(remote, &o, out).await,
        Verb::Mv(o) => verbs::names::mv(remote, &o).await,
        Verb::Ln(o) => verbs::names::ln(remote, &o).await,
        Verb::Du(o) => verbs::space::du(remote, &o, out).await,
        Verb::Df(o) => verbs::space::df(remote, &o, out).await,
        Verb::Chmod(o) => verbs::attributes::chmod(remote, &o).await,
        Verb::Chown(o) => verbs::attributes::chown(remote, &o).await,
        Verb::Touch(o) => verbs::attributes::touch(remote, &o).await,
        Verb::Head(o) => verbs::content::head(remote, &o, out).await,
        Verb::Tail(o) => verbs::content::tail(remote, &o, out).await,
        Verb::Append(o) => verbs::records::append(remote, &o, out).await,
        Verb::Records(o) => verbs::records::records(remote, &o, out).await,
        Verb::Find(o) => verbs::find::find(remote, &o, out, cairn_io::Env::real().clock.wall()).await,
        Verb::Goal(o) => verbs::goal::goal(remote, &o, out).await,
        Verb::Fsck(o) => verbs::fsck::fsck(remote, &o, out).await,
        Verb::Trash(o) => verbs::trash::trash(remote, &o, out).await,
        // the others need no connection and were dispatched before
        Verb::Up(_)
        | Verb::Master(_)
        | Verb::Chunkserver(_)
        | Verb::Mount(_)
        | Verb::Health(_)
        | Verb::Admin(_)
        | Verb::Cp(_)
        | Verb::Config(_)
        | Verb::Completions { .. } => Ok(()),
    }
}

/// Ctrl-C ends the command at once: nothing it does is half done at the master.
async fn interruptible(work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted("interrupted".into())),
        result = work => result,
    }
}
