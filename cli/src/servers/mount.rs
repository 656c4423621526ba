//! `cairn mount`, in the foreground or as a daemon, and `mount.cairn`, which mount(8) and fstab call.
//!
//! A daemon is this program started again: the parent waits for the child's word on a pipe that is the child's
//! standard output, and exits with 0 only when the mount is there.
use super::Signals;
use crate::args::Mount as Options;
use crate::config::{Config, Span};
use crate::failure::{Failure, Result, plain};
use crate::remote::NO_MASTER;
use crate::settings;
use cairn_client::Client;
use cairn_fuse::{Ended, Mount, MountConfig, MountOptions, Unmounted};
use cairn_io::Env;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// In the environment of a daemon: say READY on standard output, then close what ties it to its parent.
const DAEMON_ENV: &str = "CAIRN_DAEMON_CHILD";
const READY: &[u8] = b"mounted\n";

pub fn mount_options(config: &Config) -> MountOptions {
    let m = &config.mount;
    MountOptions {
        master: Some(config.client.master.to_string()),
        label: config.client.label.clone(),
        timeout: Some(m.timeout.0),
        attr_timeout: m.attr_timeout.map(|Span(d)| d),
        entry_timeout: m.entry_timeout.map(|Span(d)| d),
        threads: m.threads.map(|n| n as usize),
        allow_other: m.allow_other,
        read_only: m.read_only,
        ..MountOptions::default()
    }
}

/// The library gives up so long before the mount answers EIO by itself, since its own error says more.
const LIBRARY_BEFORE_MOUNT: Duration = Duration::from_secs(2);

/// A client for a mount: its operations end within the mount's timeout.
pub async fn connect(config: &Config) -> Result<Client> {
    let whole = config.mount.timeout.0;
    let settings = cairn_client::ClientConfig {
        timeout: whole.saturating_sub(LIBRARY_BEFORE_MOUNT).max(whole / 2),
        ..settings::client(config, "cairn mount")
    };
    Client::connect(settings, Env::real())
        .await
        .map_err(|e| Failure::new("", e).next(NO_MASTER))
}

/// Mounts at `directory`, made if missing.
pub async fn start(client: &Client, config: &Config, options: MountOptions, directory: &Path) -> Result<Mount> {
    // a dead mount of ours is dealt with by the mount itself
    if let Err(e) = std::fs::create_dir_all(directory)
        && std::fs::symlink_metadata(directory).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
    {
        return Err(Failure::new(
            directory.display(),
            format_args!("cannot be made: {}", plain(&e)),
        ));
    }
    let mount_config = MountConfig {
        source: config.client.master.to_string(),
        options,
        unmount_wait: config.mount.unmount_wait.0,
        ..MountConfig::new(directory)
    };
    let (client, runtime) = (client.clone(), tokio::runtime::Handle::current());
    // it waits for the kernel and for fusermount3
    let started = tokio::task::spawn_blocking(move || Mount::start(client, &mount_config, &runtime)).await;
    started
        .map_err(|e| Failure::new("mounting", e))?
        .map_err(|e| Failure::new("mount", e))
}

/// Flushes and unmounts.
pub async fn stop(mount: &Mount) -> Result<()> {
    match mount.unmount().await {
        Ok(Unmounted::Clean) => Ok(()),
        Ok(Unmounted::Detached) => {
            tracing::warn!("{} was busy and is detached", mount.path().display());
            Ok(())
        }
        Err(e) => Err(Failure::new("unmount", e)),
    }
}

pub async fn run(options: &Options, config: &Config) -> Result<()> {
    let child = std::env::var_os(DAEMON_ENV).is_some();
    if options.daemon && !child {
        return daemon(options);
    }
    let mount_options = match &options.helper_options {
        // from mount(8): its words beat the configuration
        Some(words) => merge(mount_options(config), words)?,
        None => mount_options(config),
    };
    let mut signals = Signals::listen()?;
    let client = connect(config).await?;
    let mount = match start(&client, config, mount_options, &options.dir).await {
        Ok(mount) => mount,
        Err(e) => {
            let _ = client.shutdown().await; // the mount's own failure is what matters
            return Err(e);
        }
    };
    tracing::info!("mounted {} at {}", config.client.master, mount.path().display());
    if child {
        detach(options)?;
    }
    let result = tokio::select! {
        biased;
        name = signals.next() => {
            tracing::info!("{name}: unmounting");
            signals.unless_again(stop(&mount)).await?
        }
        ended = mount.wait() => match ended {
            Ended::Unmounted => {
                tracing::info!("unmounted by somebody else");
                Ok(())
            }
            Ended::Dead => Err(Failure::new(mount.path().display(), "the kernel has cut the mount off")
                .next("mount it again: the dead mount is taken away then")),
        },
    };
    let goodbye = signals.unless_again(client.shutdown()).await?;
    if let Err(e) = goodbye {
        tracing::error!(error = %e, "what was written may not be stored");
        return result.and(Err(Failure::new("mount", e)));
    }
    result
}

/// Options from mount(8) over those of the configuration.
fn merge(base: MountOptions, words: &str) -> Result<MountOptions> {
    let given = MountOptions::parse("", words).map_err(Failure::usage)?;
    Ok(MountOptions {
        master: base.master,
        config: None,
        label: given.label.or(base.label),
        timeout: given.timeout.or(base.timeout),
        attr_timeout: given.attr_timeout.or(base.attr_timeout),
        entry_timeout: given.entry_timeout.or(base.entry_timeout),
        threads: given.threads.or(base.threads),
        allow_other: given.allow_other.or(base.allow_other),
        read_only: given.read_only || base.read_only,
        ..given
    })
}

/// Starts this program again without the terminal, and waits until it has mounted.
fn daemon(options: &Options) -> Result<()> {
    let failed = |e: std::io::Error| Failure::new("starting a daemon", plain(&e));
    let program = std::env::current_exe().map_err(failed)?;
    let mut args: Vec<OsString> = std::env::args_os().collect();
    if Path::new(&args[0]).file_name() == Some("mount.cairn".as_ref()) {
        args = from_mount_helper(&args[1..])?;
    }
    let mut child = Command::new(program)
        .args(&args[1..])
        .env(DAEMON_ENV, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // away from the terminal's Ctrl-C
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    let mut said = vec![];
    if let Some(mut out) = child.stdout.take() {
        // ends when the child has closed its standard output: mounted, or dead
        out.read_to_end(&mut said).map_err(failed)?;
    }
    if said == READY {
        return Ok(());
    }
    // it has said why on the standard error that it shares with us
    match child.wait().map_err(failed)?.code() {
        Some(_) => Err(Failure::Silent),
        None => Err(Failure::new(
            options.dir.display(),
            "the daemon died before it had mounted",
        )),
    }
}

/// In the daemon, once mounted: tells the parent, and lets go of terminal and working directory.
fn detach(options: &Options) -> Result<()> {
    let failed = |e: std::io::Error| Failure::new("detaching from the terminal", plain(&e));
    let errno = |e: rustix::io::Errno| failed(e.into());
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(failed)?;
    let log = match &options.log_file {
        Some(path) => std::fs::File::options()
            .append(true)
            .create(true)
            .open(path)
            .map_err(|e| Failure::local(path, &e))?,
        None => null.try_clone().map_err(failed)?,
    };
    // a process that leads its group cannot begin a session; it has no terminal's signals either way
    let _ = rustix::process::setsid();
    std::env::set_current_dir("/").map_err(failed)?;
    std::io::stdout().write_all(READY).map_err(failed)?;
    std::io::stdout().flush().map_err(failed)?;
    rustix::stdio::dup2_stderr(&log).map_err(errno)?;
    rustix::stdio::dup2_stdin(&null).map_err(errno)?;
    // last: this is what the parent waits for
    rustix::stdio::dup2_stdout(&null).map_err(errno)
}

/// What `mount.cairn SOURCE DIR [-sfnv] [-o OPTIONS] [-t TYPE] [-N NS]` means as `cairn mount`: the daemon form.
///
/// # Errors
/// `Usage` where that is not how it was called.
pub fn from_mount_helper(args: &[OsString]) -> Result<Vec<OsString>> {
    let usage = || {
        Failure::usage("mount.cairn SOURCE DIR [-o OPTIONS], with SOURCE host:port of the master; called by mount(8)")
    };
    let mut places = vec![];
    let mut words: Vec<String> = vec![];
    let mut verbose = false;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("-o") => words.push(args.next().and_then(|o| o.to_str()).ok_or_else(usage)?.to_owned()),
            Some("-t" | "-N") => drop(args.next().ok_or_else(usage)?),
            Some(flags) if flags.starts_with('-') && flags.len() > 1 => {
                match flags.strip_prefix("-o") {
                    Some(inline) => words.push(inline.to_owned()),
                    // -s sloppy, -n no mtab: nothing to do; -f fake: mount(8) means not to mount
                    None if flags[1..].chars().all(|c| "snv".contains(c)) => verbose |= flags.contains('v'),
                    None => return Err(usage()),
                }
            }
            _ => places.push(arg.clone()),
        }
    }
    let [source, dir] = &places[..] else {
        return Err(usage());
    };
    let words = words.join(",");
    let parsed = MountOptions::parse(&source.to_string_lossy(), &words).map_err(Failure::usage)?;
    let mut cairn: Vec<OsString> = ["cairn", "mount", "--daemon"].map(Into::into).into();
    if let Some(master) = parsed.master {
        cairn.extend(["--master".into(), master.into()]);
    }
    if let Some(config) = parsed.config {
        cairn.extend(["--config".into(), config.into()]);
    }
    if verbose {
        cairn.extend(["--log-level".into(), "debug".into()]);
    }
    if !words.is_empty() {
        cairn.push(format!("--helper-options={words}").into());
    }
    cairn.extend(["--".into(), dir.clone()]);
    Ok(cairn)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn helper(args: &[&str]) -> Result<Vec<String>> {
        let args: Vec<OsString> = args.iter().map(Into::into).collect();
        from_mount_helper(&args).map(|all| all.into_iter().map(|a| a.into_string().unwrap()).collect())
    }

    #[test]
    fn mount_helpers_arguments_become_a_daemons() {
        let args = helper(&["m:7600", "/mnt", "-o", "rw,_netdev,nofail,allow_other"]).unwrap();
        assert_eq!(
            args,
            [
                "cairn",
                "mount",
                "--daemon",
                "--master",
                "m:7600",
                "--helper-options=rw,_netdev,nofail,allow_other",
                "--",
                "/mnt"
            ]
        );
        assert!(helper(&["m:7600", "/mnt", "-sn", "-t", "cairn"]).is_ok());
        for wrong in [
            &["m:7600"][..],
            &["m:7600", "/mnt", "-o"],
            &["m:7600", "/mnt", "-o", "bogus"],
            &["a", "b", "-x"],
        ] {
            assert_eq!(helper(wrong).unwrap_err().code(), 2, "{wrong:?}");
        }
    }
}
