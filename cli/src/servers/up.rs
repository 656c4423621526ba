//! `cairn up`: a whole cluster in one process, over the same sockets and disks as separate ones.
use super::{Signals, chunkserver, health, leave_address, master, mount};
use crate::args::Up;
use crate::config::{Config, Loaded, Origin};
use crate::failure::{Failure, Result, plain};
use crate::settings;
use cairn_chunkserver::Chunkserver;
use cairn_client::Client;
use cairn_fuse::{Ended, Mount};
use cairn_master::Master;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// How far apart the chunkservers' ports are, each with its health service's right after.
const PORTS_APART: u16 = 10;
const REGISTERED_WITHIN: Duration = Duration::from_secs(30);
const SERVING_WITHIN: Duration = Duration::from_secs(5);

/// All parts, in the order in which they were started.
struct Cluster {
    master: Master,
    chunkservers: Vec<Chunkserver>,
    client: Option<Client>,
    mount: Option<Mount>,
}

pub async fn run(options: &Up, loaded: &Loaded) -> Result<()> {
    let mut signals = Signals::listen()?;
    let mut config = loaded.config.clone();
    if config.master.default_goal > u8::try_from(options.chunkservers).unwrap_or(u8::MAX)
        && loaded.origin("master", "default-goal") == Origin::Default
    {
        // "wants 3, has 1" would be no news to who asked for one server
        config.master.default_goal = options.chunkservers as u8;
    }
    std::fs::create_dir_all(&options.data)
        .map_err(|e| Failure::new(options.data.display(), plain(&e)).next("choose another directory with --data"))?;
    let data = std::path::absolute(&options.data).map_err(|e| Failure::local(&options.data, &e))?;
    let started = tokio::select! {
        biased;
        name = signals.next() => Err(Failure::Interrupted(format!("{name} while starting"))),
        started = start(options, &config, &data) => started,
    };
    let cluster = started?;
    tell(&cluster, &config, options, &data);
    let ended = tokio::select! {
        biased;
        name = signals.next() => {
            tracing::info!("{name}: stopping");
            Ok(())
        }
        why = cluster.master.halted() => Err(master::halted(why)),
        ended = mount_ended(cluster.mount.as_ref()) => match ended {
            Ended::Unmounted => {
                tracing::info!("unmounted by somebody else: stopping");
                Ok(())
            }
            Ended::Dead => Err(Failure::new("mount", "the kernel has cut the mount off")),
        },
    };
    let stopped = signals.unless_again(stop(cluster)).await?;
    ended.and(stopped)
}

async fn mount_ended(mount: Option<&Mount>) -> Ended {
    match mount {
        Some(mount) => mount.wait().await,
        None => std::future::pending().await,
    }
}

async fn start(options: &Up, config: &Config, data: &Path) -> Result<Cluster> {
    let master = master::start(master::master_config(config), &data.join("master"), "--data").await?;
    let mut cluster = Cluster {
        master,
        chunkservers: vec![],
        client: None,
        mount: None,
    };
    let started = fill(&mut cluster, options, config, data).await;
    match started {
        Ok(()) => Ok(cluster),
        Err(e) => {
            if let Err(also) = stop(cluster).await {
                tracing::warn!("stopping: {also}");
            }
            Err(e)
        }
    }
}

async fn fill(cluster: &mut Cluster, options: &Up, config: &Config, data: &Path) -> Result<()> {
    let address = reachable(cluster.master.address());
    let disks = usize::from(options.chunkservers);
    for n in 1..=options.chunkservers {
        let directory = data.join(format!("cs{n}"));
        let listen = nth(config.master.listen, n);
        let mut settings = cairn_chunkserver::ChunkserverConfig {
            listen,
            advertise: None,
            health_listen: Some(chunkserver::health_beside(listen)),
            master: address.to_string(),
            ..chunkserver::chunkserver_config(config)
        };
        // in one process the machine's label is the same for all, and so says nothing
        settings.label = format!("{}/cs{n}", settings::host_name());
        if listen.ip().is_unspecified() {
            settings.advertise = Some(format!("{}:{}", settings::host_name(), listen.port()));
        }
        let server = chunkserver::start(settings, std::slice::from_ref(&directory), disks, "--data").await?;
        cluster.chunkservers.push(server);
    }
    for (n, server) in (1..).zip(&cluster.chunkservers) {
        if tokio::time::timeout(REGISTERED_WITHIN, server.registered())
            .await
            .is_err()
        {
            let directory = data.join(format!("cs{n}"));
            return Err(Failure::new(
                directory.display(),
                format_args!(
                    "this chunkserver did not register at the master within {} s",
                    REGISTERED_WITHIN.as_secs()
                ),
            )
            .next("the log above says why"));
        }
        leave_address(&data.join(format!("cs{n}")), server.bound());
    }
    health::ask(&address.to_string(), SERVING_WITHIN)
        .await
        .map_err(|cause| Failure::new(format_args!("master {address}"), cause))?;
    if let Some(directory) = &options.mount {
        let mut config = config.clone();
        config.client.master = address
            .to_string()
            .parse()
            .map_err(|()| Failure::new("master", "has no address"))?;
        let client = mount::connect(&config).await?;
        cluster.client = Some(client.clone());
        let mounted = mount::start(&client, &config, mount::mount_options(&config), directory).await;
        cluster.mount = Some(mounted.map_err(|e| match e {
            Failure::Said { subject, cause, next } if next.is_empty() => Failure::Said {
                subject,
                cause,
                next: "without --mount the cluster runs all the same, for `cairn cp`, `cairn ls`, ...".into(),
            },
            other => other,
        })?);
    }
    Ok(())
}

/// Where the n-th chunkserver listens, given where the master does.
fn nth(master: SocketAddr, n: u16) -> SocketAddr {
    let port = match master.port() {
        0 => 0,
        port => port.checked_add(n * PORTS_APART).unwrap_or(0),
    };
    SocketAddr::new(master.ip(), port)
}

/// An address that this machine reaches, for one that listens on all.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(a) if a.ip().is_unspecified() => SocketAddr::from(([127, 0, 0, 1], a.port())),
        SocketAddr::V6(a) if a.ip().is_unspecified() => SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, a.port())),
        address => address,
    }
}

/// mount, then chunkservers, then master: nobody waits for somebody who is gone. Goes on where a part fails.
async fn stop(cluster: Cluster) -> Result<()> {
    let Cluster {
        master,
        chunkservers,
        client,
        mount,
    } = cluster;
    let mut result = Ok(());
    if let Some(mount) = &mount {
        result = mount::stop(mount).await;
    }
    if let Some(client) = client
        && let Err(e) = client.shutdown().await
    {
        tracing::error!(error = %e, "what was written may not be stored");
        result = result.and(Err(Failure::new("mount", e)));
    }
    drop(mount);
    futures::future::join_all(chunkservers.into_iter().map(Chunkserver::shutdown)).await;
    let stopped = master.shutdown().await.map_err(master::halted);
    tracing::info!("stopped");
    result.and(stopped)
}

/// What to do next, in commands that work as they stand.
fn tell(cluster: &Cluster, config: &Config, options: &Up, data: &Path) {
    let address = reachable(cluster.master.address());
    let program = std::env::current_exe().ok();
    let on_path = program
        .as_ref()
        .and_then(|p| which("cairn").map(|found| found == *p))
        .unwrap_or(false);
    let cairn = match (&program, on_path) {
        (Some(program), false) => program.display().to_string(),
        _ => "cairn".to_owned(),
    };
    let default_address = crate::config::find("client", "master").map(|k| k.default);
    let same =
        default_address == Some(address.to_string().as_str()) && config.client.master.as_str() == address.to_string();
    let export = if same {
        String::new()
    } else {
        format!("  export CAIRN_MASTER={address}\n")
    };
    let mounted = match &cluster.mount {
        Some(mount) => format!(", mounted at {}", mount.path().display()),
        None => String::new(),
    };
    let with_mount = match &cluster.mount {
        Some(mount) => format!(
            "  cp ./big.iso {0}/ && ls -l {0}\n",
            options.mount.as_deref().unwrap_or(mount.path()).display()
        ),
        None => String::new(),
    };
    eprintln!(
        "\nCairn is up: a master on {address} and {} chunkservers, data in {}{mounted}.\n\nNext, in another terminal:\n\n{export}{with_mount}  {cairn} cp ./big.iso cairn:/big.iso\n  {cairn} ls -l /\n  {cairn} chunks /big.iso\n  {cairn} admin status\n\nCtrl-C {}stops everything in order; the same command starts it again with everything there.\n",
        cluster.chunkservers.len(),
        data.display(),
        if cluster.mount.is_some() { "unmounts and " } else { "" },
    );
}

fn which(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path)
        .map(|d| d.join(name))
        .find(|p| p.is_file())?;
    std::fs::canonicalize(found).ok()
}
