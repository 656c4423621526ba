//! Faults of all kinds while clients write and read: no read ever gives what it must not, and when the faults stop,
//! the cluster heals and every promised byte is there.
#![allow(clippy::unwrap_used, clippy::expect_used)]
use anyhow::{Result, ensure};
use cairn_sim::{Cluster, Files, World, run, with_seed};
use rand::Rng;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(120);
const CHUNKSERVERS: usize = 4;
const WRITERS: usize = 2;
const FAULTS: usize = 6;

/// Files that were closed empty and opened again without a call.
static UNASKED: AtomicUsize = AtomicUsize::new(0);

/// One fault, and its end after a while.
fn disturb(cluster: &mut Cluster) -> Result<()> {
    let rng = &mut cluster.world.rng;
    let kind = rng.random_range(0..10);
    let a = cluster.servers[rng.random_range(0..CHUNKSERVERS)].clone();
    let b = cluster.servers[rng.random_range(0..CHUNKSERVERS)].clone();
    // shorter and longer than a lease
    let lasts = Duration::from_millis(rng.random_range(10..3_000));
    let pause = Duration::from_millis(rng.random_range(0..1_000));
    let restart = |world: &mut World, name: &str, power: bool| {
        if power {
            world.power_loss(name)
        } else {
            world.kill(name)
        }
        world.run_for(lasts)?;
        world.start(name);
        anyhow::Ok(())
    };
    let world = &mut cluster.world;
    match kind {
        0..=2 => restart(world, &a, false)?,
        3..=4 => restart(world, &a, true)?,
        5 => restart(world, "master", false)?,
        6 => restart(world, "master", true)?,
        _ => {
            let other = if kind < 9 || a == b { "master" } else { &b };
            world.partition(&a, other);
            world.run_for(lasts)?;
            world.repair(&a, other);
        }
    }
    world.run_for(pause)
}

async fn keep_writing(
    files: Files,
    env: cairn_io::Env,
    name: String,
    stop: std::rc::Rc<std::cell::Cell<bool>>,
) -> Result<()> {
    let client = Cluster::client(&env).await?;
    client.remember_names();
    let mut rng = env.rng.fork();
    let mut rounds = 0;
    for attempt in 0.. {
        if stop.get() {
            break;
        }
        // a failure is told to every later call on the open file: open it again, or another, and go on
        let (path, cut) = match rng.random_range(0..3) {
            0 => (name.clone(), None),
            cut => (format!("{name}.{attempt}"), Some(cut == 1)),
        };
        let opened = match cut {
            None => files.create(&client, &path).await,
            Some(cut) => files.create_and_reopen(&client, &path, cut).await.map(|(file, known)| {
                UNASKED.fetch_add(usize::from(known), Ordering::Relaxed);
                file
            }),
        };
        let Ok(file) = opened else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        while !stop.get() && files.write_round(&env, &path, &file).await.is_ok() {
            rounds += 1;
        }
    }
    ensure!(rounds > 0, "{name}: nothing was ever promised");
    Ok(())
}

/// What happened, as one number.
fn scenario(seed: u64) -> Result<(u64, u64)> {
    let mut cluster = Cluster::start(seed, CHUNKSERVERS)?;
    let files = Files::default();
    let stop = std::rc::Rc::new(std::cell::Cell::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|n| {
            let (files, stop) = (files.clone(), stop.clone());
            cluster
                .world
                .spawn(move |env| keep_writing(files, env, format!("file{n}"), stop))
        })
        .collect();
    let (reading, stopped) = (files.clone(), stop.clone());
    let reader = cluster.world.spawn(move |env| async move {
        while !stopped.get() {
            if let Err(e) = reading.check(env.clone()).await {
                // what could not be read in time is no wrong answer
                ensure!(e.downcast_ref::<cairn_client::Error>().is_some(), "{e:#}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    });
    for _ in 0..FAULTS {
        disturb(&mut cluster)?;
    }
    stop.set(true);
    cluster.wait_servers(CHUNKSERVERS, SOON)?;
    for writer in writers {
        cluster.world.finish("a writer's end", SOON, writer)?;
    }
    cluster.world.finish("the reader's end", SOON, reader)?;
    cluster.wait_healthy(SOON)?;
    cluster
        .world
        .run("read back", SOON, |env| async move { files.check(env).await })?;
    cluster.wait_disks(3, SOON)?;
    Ok(cluster.world.trace.digest())
}

#[test]
fn faults_never_show_wrong_bytes_and_heal() {
    run(0..40, &[], |seed| scenario(seed).map(drop));
    // one seed alone may have none
    let unasked = UNASKED.load(Ordering::Relaxed);
    assert!(
        unasked > 20 || std::env::var_os("CAIRN_SEED").is_some(),
        "{unasked} files were opened again without asking"
    );
}

/// What one client does at a time may repeat by luck; here several do, and servers die.
#[test]
fn the_same_seed_disturbs_and_heals_the_same_way_again() {
    for seed in 0..3 {
        let again = || with_seed(seed, &[], scenario).unwrap();
        assert_eq!(again(), again(), "seed {seed}");
    }
}
