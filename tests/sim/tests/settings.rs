//! Settings of a chunkserver that only time shows, in simulated time.
#![allow(clippy::unwrap_used, clippy::expect_used)]
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use cairn_chunkserver::{Chunkserver, ChunkserverConfig};
use cairn_io::sim::Trace;
use cairn_sim::single::{create, write};
use cairn_sim::{Cluster, run};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const SOON: Duration = Duration::from_secs(60);
const MIB: usize = 1 << 20;
/// Before the first idle scrub.
const SCRUB_PAUSE: Duration = Duration::from_secs(60);

/// What a server of three has verified `after` the start of its scrub, of 8 MiB.
fn scrubbed(seed: u64, rate: u64, after: Duration) -> Result<u64> {
    let mut cluster = Cluster::start_with(seed, 3, Trace::new(), move |mut config, disks, env| async move {
        config.scrub_bytes_per_second = rate;
        let _server = Chunkserver::start(config, disks, env).await?;
        std::future::pending().await
    })?;
    cluster.world.run("write", SOON, |env| async move {
        let client = Cluster::client(&env).await?;
        let file = create(&client).await?;
        for i in 0..8 {
            file.write_at((i * MIB) as u64, Bytes::from(vec![7; MIB])).await?;
        }
        file.close().await?;
        Ok(client.shutdown().await?)
    })?;
    let begun = SCRUB_PAUSE.saturating_sub(cluster.world.elapsed());
    cluster.world.run_for(begun + after)?;
    let status = cluster.wait_servers(3, SOON)?;
    let server = status.servers.first().context("a server")?;
    Ok(server.scrub.context("its scrub")?.verified_bytes)
}

#[test]
fn the_idle_scrub_reads_at_its_rate() {
    run(0..2, &[], |seed| {
        let after = Duration::from_secs(16);
        let slow = scrubbed(seed, 256 << 10, after)? as usize;
        ensure!((2 * MIB..=5 * MIB).contains(&slow), "at 256 KiB/s for 16 s: {slow}");
        let fast = scrubbed(seed, 4 << 20, after)? as usize;
        ensure!(fast == 8 * MIB, "at 4 MiB/s for 16 s: {fast}");
        let off = scrubbed(seed, 0, after)?;
        ensure!(off == 0, "without: {off}");
        Ok(())
    });
}

/// How long the slowest server takes to stop while the head of a chain waits for a member that it cannot reach.
fn stopped(seed: u64, deadline: Duration) -> Result<Duration> {
    let stop = Rc::new(Cell::new(false));
    let took = Rc::new(RefCell::new(vec![]));
    let software = {
        let (stop, took) = (stop.clone(), took.clone());
        move |mut config: ChunkserverConfig, disks, env| {
            let (stop, took) = (stop.clone(), took.clone());
            async move {
                config.shutdown_deadline = deadline;
                config.chain_deadline = Duration::from_secs(3600);
                let server = Chunkserver::start(config, disks, env).await?;
                while !stop.get() {
                    sleep(Duration::from_millis(10)).await;
                }
                let begun = Instant::now();
                server.shutdown().await;
                took.borrow_mut().push(begun.elapsed());
                std::future::pending().await
            }
        }
    };
    let mut cluster = Cluster::start_with(seed, 3, Trace::new(), software)?;
    cluster.world.run("write", SOON, |env| write(env, 1))?;
    for (a, b) in [("cs0", "cs1"), ("cs1", "cs2"), ("cs2", "cs0")] {
        cluster.world.partition(a, b);
    }
    let writing = cluster.world.spawn(|env| write(env, 2));
    cluster.world.run_for(Duration::from_secs(2))?;
    ensure!(!writing.is_done(), "written without the others");
    stop.set(true);
    let end = cluster.world.elapsed() + deadline + SOON;
    while took.borrow().len() < 3 {
        if cluster.world.elapsed() > end {
            bail!("still not stopped: {:?}", took.borrow());
        }
        cluster.world.run_for(Duration::from_millis(100))?;
    }
    let slowest = took.borrow().iter().max().copied();
    slowest.context("three")
}

#[test]
fn a_shutdown_waits_for_what_is_in_flight_as_long_as_it_is_told() {
    run(0..2, &[], |seed| {
        for seconds in [3, 25] {
            let deadline = Duration::from_secs(seconds);
            let took = stopped(seed, deadline)?;
            ensure!(
                (deadline..deadline + Duration::from_secs(3)).contains(&took),
                "{took:?} with a deadline of {deadline:?}"
            );
        }
        Ok(())
    });
}
