//! The simulation's own promises, shown with a toy server that keeps one number on disk.
#![allow(clippy::unwrap_used, clippy::expect_used)]
use anyhow::{Context, Result};
use cairn_io::sim::SimDisk;
use cairn_io::{Disk, Env};
use cairn_sim::World;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Adds each byte that it is sent to a counter on its disk, and answers with the sum once that is synced.
async fn count(env: Env, disk: SimDisk, sync: bool) -> Result<()> {
    let path = Path::new("sum");
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(_) => disk.create(path)?,
    };
    disk.sync_dir(Path::new(""))?;
    let listener = env.net.bind(([0, 0, 0, 0], 1).into()).await?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        while let Ok(more) = stream.read_u8().await {
            let mut sum = [0];
            file.read_at(&mut sum, 0)?;
            sum[0] += more;
            file.write_at(&sum, 0)?;
            if sync {
                file.sync_data()?;
            }
            stream.write_all(&sum).await?;
        }
    }
}

async fn add(env: &Env, n: u8) -> Result<u8> {
    let asked = async {
        let mut stream = env.net.connect("server:1").await?;
        stream.write_all(&[n]).await?;
        stream.read_u8().await
    };
    Ok(tokio::time::timeout(Duration::from_secs(1), asked)
        .await
        .context("no answer")??)
}

const SOON: Duration = Duration::from_secs(10);

fn world(seed: u64, sync: bool) -> World {
    let mut world = World::new(seed);
    world.machine("server", 1, move |env, mut disks| async move {
        count(env, disks.remove(0), sync).await
    });
    world
}

#[test]
fn a_kill_keeps_what_was_written_and_power_loss_what_was_synced() {
    let mut lost = 0;
    for seed in 0..20 {
        for sync in [true, false] {
            let mut world = world(seed, sync);
            assert_eq!(
                world.run("add", SOON, |env| async move { add(&env, 5).await }).unwrap(),
                5
            );
            world.kill("server");
            assert!(
                world
                    .run("down", SOON, |env| async move { add(&env, 1).await })
                    .is_err()
            );
            world.start("server");
            assert_eq!(
                world.run("add", SOON, |env| async move { add(&env, 1).await }).unwrap(),
                6
            );
            let boot = cairn_io::Clock::boot_id(world.clock("server"));
            world.power_loss("server");
            assert_ne!(cairn_io::Clock::boot_id(world.clock("server")), boot);
            world.start("server");
            let sum = world.run("add", SOON, |env| async move { add(&env, 0).await }).unwrap();
            assert!(sum == 6 || !sync, "{sum} after a synced 6");
            lost += u32::from(sum != 6);
        }
    }
    assert!(lost > 3, "without syncs something gets lost: {lost} of 20");
}

#[test]
fn partitions_cut_and_heal() {
    let mut world = world(1, true);
    world.run("add", SOON, |env| async move { add(&env, 1).await }).unwrap();
    let running = world.spawn(|env| async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        add(&env, 1).await
    });
    world.partition(&running.machine, "server");
    assert!(world.finish("cut", SOON, running).is_err());
}

#[test]
fn what_does_not_end_is_named() {
    let mut world = world(1, true);
    let error = world
        .run("waiting for ever", SOON, |_| std::future::pending::<Result<()>>())
        .unwrap_err();
    assert!(error.to_string().contains("waiting for ever"));
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let trace = |seed| {
        let mut world = world(seed, true);
        for n in 0..5 {
            world
                .run("add", SOON, move |env| async move { add(&env, n).await })
                .unwrap();
            world.power_loss("server");
            world.start("server");
        }
        world.trace.digest()
    };
    assert_eq!(trace(3), trace(3));
    assert_ne!(trace(3), trace(4));
}
