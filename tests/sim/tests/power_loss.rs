//! Power fails on every machine at a random moment during writes; when it is back, everything that fsync promised is
//! there, nothing is falsely corrupt, and the cluster heals by itself.
#![allow(clippy::unwrap_used, clippy::expect_used)]
use anyhow::{Result, ensure};
use cairn_sim::{Cluster, Files, seeds, with_seed};
use rand::Rng;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
const FILES: usize = 3;
/// The power fails within this.
const WRITING: Duration = Duration::from_millis(1_000);

/// The files that had something promised.
fn scenario(seed: u64, no_op_fsync: bool) -> Result<usize> {
    let mut cluster = Cluster::start(seed, 3)?;
    for disk in cluster.disks() {
        disk.set_no_op_fsync(no_op_fsync);
    }
    let files = Files::default();
    let running: Vec<_> = (0..FILES)
        .map(|n| {
            let files = files.clone();
            cluster
                .world
                .spawn(move |env| async move { files.write(env, &format!("file{n}")).await })
        })
        .collect();
    let moment = cluster.world.rng.random_range(Duration::ZERO..WRITING);
    cluster.world.run_for(moment)?;
    for writer in &running {
        ensure!(!writer.is_done(), "a writer ended before the power failed");
        // its machine is off too: nothing that it still says arrives
        for machine in cluster.machines() {
            cluster.world.partition(&writer.machine, &machine);
        }
    }
    let files = files.frozen();
    for machine in cluster.machines() {
        cluster.world.power_loss(&machine);
    }
    for machine in cluster.machines() {
        cluster.world.start(&machine);
    }
    cluster.wait_servers(3, SOON)?;
    let (first, second) = (files.clone(), files.clone());
    cluster
        .world
        .run("read back", SOON, |env| async move { first.check(env).await })?;
    let status = cluster.wait_healthy(SOON)?;
    let health = status.health.unwrap_or_default();
    ensure!(health.corrupt_found == 0, "falsely corrupt: {health:?}");
    cluster.check_disks()?;
    cluster.world.run(
        "read back when healed",
        SOON,
        |env| async move { second.check(env).await },
    )?;
    Ok(files.promised())
}

fn run(range: std::ops::Range<u64>) {
    let seeds = seeds(range);
    let runs = seeds.len();
    let promised: usize = seeds
        .into_iter()
        .map(|seed| with_seed(seed, &[], |s| scenario(s, false)).unwrap())
        .sum();
    assert!(
        promised >= runs || runs == 1,
        "{promised} files with promises in {runs} runs: too few to show anything"
    );
}

#[test]
fn nothing_that_fsync_promised_is_lost_seeds_0_to_99() {
    run(0..100);
}

#[test]
fn nothing_that_fsync_promised_is_lost_seeds_100_to_199() {
    run(100..200);
}

/// The checker is worth something: disks that lie about fsync are caught.
#[test]
fn a_fsync_that_does_nothing_is_noticed() {
    let caught = (0..10)
        .filter(|seed| with_seed(*seed, &[], |s| scenario(s, true)).is_err())
        .count();
    assert!(caught >= 5, "{caught} of 10 runs without fsync failed");
}
