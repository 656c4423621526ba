//! Rows of docs/faults.md, by number, on a simulated cluster. Kills, power losses and partitions at random moments are
//! chaos.rs and power_loss.rs; these are the ones that chance would seldom bring about.
#![allow(clippy::unwrap_used, clippy::expect_used)]
use anyhow::{Context, Result, ensure};
use cairn_client::{Admin, errno};
use cairn_io::sim::{Effect, Fault, Op};
use cairn_sim::single::{LENGTH, create, expect, filled, open, unlink, write};
use cairn_sim::{Cluster, run};
use rand::Rng;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// Longer than a client's timeout.
const SOON: Duration = Duration::from_secs(60);
/// A chunk file's header and table.
const DATA_AT: u64 = 8192;

/// Writes again and again, each time other bytes, each time synced; all must succeed.
async fn keep_writing(env: cairn_io::Env) -> Result<()> {
    let client = Cluster::client(&env).await?;
    let file = create(&client).await?;
    for round in 0..20 {
        file.write_at(0, filled(round)).await?;
        file.fsync().await.with_context(|| format!("round {round}"))?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    file.write_at(0, filled(42)).await?;
    file.close().await?;
    Ok(client.shutdown().await?)
}

/// Machines that have a replica.
fn holders(cluster: &Cluster) -> Vec<String> {
    cluster.chunk_files().into_iter().map(|(name, _)| name).collect()
}

/// Until there are three replicas elsewhere.
fn wait_moved(cluster: &mut Cluster, away_from: &str) -> Result<()> {
    let end = cluster.world.elapsed() + SOON;
    while holders(cluster).iter().filter(|name| *name != away_from).count() < 3 {
        ensure!(cluster.world.elapsed() < end, "not copied away from {away_from}");
        cluster.world.run_for(Duration::from_millis(100))?;
    }
    cluster.wait_healthy(SOON)?;
    Ok(())
}

fn rot(cluster: &mut Cluster, replicas: usize) -> Result<()> {
    for (name, path) in cluster.chunk_files().into_iter().take(replicas) {
        let bit = (DATA_AT + cluster.world.rng.random_range(0..LENGTH as u64)) * 8;
        ensure!(cluster.world.disks(&name)[0].flip(&path, bit), "no such bit");
    }
    Ok(())
}

/// Two are rotten: the third is read, and the two are repaired from it. It may be asked last, and the scrub finds the
/// rest.
#[test]
fn fault_11_two_rotten_replicas_are_repaired_from_the_third() {
    run(0..5, &["replica damaged"], |seed| {
        let mut cluster = Cluster::start(seed, 3)?;
        cluster.world.run("write", SOON, |env| write(env, 7))?;
        cluster.wait_healthy(SOON)?;
        rot(&mut cluster, 2)?;
        cluster.world.run("read", SOON, |env| expect(env, 7))?;
        cluster.world.run("scrub", SOON, |env| async move {
            Ok(Admin::connect("master:7600", env).await?.scrub_now().await?)
        })?;
        cluster.wait_disks(3, SOON)?;
        cluster.world.run("read", SOON, |env| expect(env, 7))
    });
}

/// All are rotten: EIO, never wrong bytes, and no replica is thrown away.
#[test]
fn fault_11_when_all_replicas_are_rotten_a_read_fails_and_all_are_kept() {
    run(
        0..5,
        &["replica damaged", "no replica can be read", "corrupt in every replica"],
        |seed| {
            let mut cluster = Cluster::start(seed, 4)?;
            cluster.world.run("write", SOON, |env| write(env, 7))?;
            cluster.wait_healthy(SOON)?;
            let before = cluster.chunk_files();
            // in one block, so that no other member has it
            for (name, path) in &before {
                ensure!(cluster.world.disks(name)[0].flip(path, DATA_AT * 8 + seed));
            }
            for _ in 0..2 {
                cluster.world.run("read", SOON, |env| async move {
                    let client = Cluster::client(&env).await?;
                    let file = open(&client).await?;
                    match file.read_at(0, LENGTH).await {
                        Ok(_) => anyhow::bail!("rotten bytes were read"),
                        Err(e) => ensure!(e.errno() == errno::EIO, "{e}"),
                    }
                    file.close().await?;
                    Ok(client.shutdown().await?)
                })?;
                cluster.world.run_for(Duration::from_secs(10))?;
            }
            let left = cluster.chunk_files();
            ensure!(
                before.iter().all(|file| left.contains(file)),
                "{before:?} became {left:?}"
            );
            Ok(())
        },
    );
}

/// Two members cannot reach each other, though the master and the clients reach both.
#[test]
fn fault_14_members_that_cannot_reach_each_other_do_not_stop_a_writer() {
    run(0..9, &[], |seed| {
        let mut cluster = Cluster::start(seed, 4)?;
        cluster.world.run("write", SOON, |env| write(env, 7))?;
        let mut members = holders(&cluster);
        members.remove(seed as usize % 3);
        cluster.world.partition(&members[0], &members[1]);
        cluster.world.run("write", SOON, keep_writing)?;
        cluster.world.run("read", SOON, |env| expect(env, 42))?;
        cluster.world.repair(&members[0], &members[1]);
        cluster.wait_healthy(SOON)?;
        cluster.wait_disks(3, SOON)?;
        cluster.world.run("read", SOON, |env| expect(env, 42))
    });
}

/// One server has a bad network card towards all other chunkservers: they do not have to leave one after another.
#[test]
fn fault_14_a_server_that_reaches_no_other_does_not_stop_a_writer() {
    run(0..9, &[], |seed| {
        let mut cluster = Cluster::start(seed, 4)?;
        cluster.world.run("write", SOON, |env| write(env, 7))?;
        let lonely = holders(&cluster).swap_remove(seed as usize % 3);
        for other in cluster.servers.clone() {
            if other != lonely {
                cluster.world.partition(&lonely, &other);
            }
        }
        cluster.world.run("write", SOON, keep_writing)?;
        cluster.world.run("read", SOON, |env| expect(env, 42))?;
        for other in cluster.servers.clone() {
            if other != lonely {
                cluster.world.repair(&lonely, &other);
            }
        }
        cluster.wait_healthy(SOON)?;
        cluster.wait_disks(3, SOON)?;
        cluster.world.run("read", SOON, |env| expect(env, 42))
    });
}

/// A member's fsync fails: nobody is told that the bytes are safe there, the disk is not asked again, and the write
/// goes elsewhere.
#[test]
fn fault_16_a_failed_fsync_fails_the_disk_and_not_the_writer() {
    run(
        0..6,
        &["disk out of service", "a disk has failed", "the disk: it is now"],
        |seed| {
            let mut cluster = Cluster::start(seed, 4)?;
            cluster.world.run("write", SOON, |env| write(env, 7))?;
            let bad = holders(&cluster).swap_remove(seed as usize % 3);
            let fault = Fault::new(Op::Sync, Effect::Eio).on(".chunk");
            cluster.world.disks(&bad)[0].inject(fault);
            cluster.world.run("write", SOON, keep_writing)?;
            // what only that disk acknowledged would be gone
            cluster.world.power_loss(&bad);
            cluster.wait_servers(3, SOON)?;
            cluster.wait_healthy(SOON)?;
            cluster.world.run("read", SOON, |env| expect(env, 42))
        },
    );
}

/// A member's disk is full: the write goes elsewhere.
#[test]
fn fault_17_a_full_disk_on_one_member_does_not_stop_a_writer() {
    run(0..6, &[], |seed| {
        let mut cluster = Cluster::start(seed, 4)?;
        cluster.world.run("write", SOON, |env| write(env, 7))?;
        let full = holders(&cluster).swap_remove(seed as usize % 3);
        cluster.world.disks(&full)[0].set_capacity(0);
        cluster.world.run("write", SOON, |env| async move {
            let client = Cluster::client(&env).await?;
            let file = create(&client).await?;
            // the second block's end, and three more: new pages
            for block in 0..5 {
                file.write_at(block * LENGTH as u64, filled(7)).await?;
                file.fsync().await?;
            }
            file.close().await?;
            Ok(client.shutdown().await?)
        })?;
        cluster.wait_healthy(SOON)?;
        ensure!(
            !cluster.wait_disks(3, SOON)?.is_empty() && !holders(&cluster).contains(&full),
            "a replica is left on the full disk"
        );
        cluster.world.run("read", SOON, |env| expect(env, 7))
    });
}

/// The master comes back when half of the chunkservers cannot reach it: it neither deletes nor copies.
#[test]
fn fault_29_a_master_that_has_heard_of_half_of_the_servers_neither_deletes_nor_copies() {
    run(0..5, &[], |seed| {
        let mut cluster = Cluster::start(seed, 4)?;
        cluster.world.run("write", SOON, |env| write(env, 7))?;
        cluster.wait_healthy(SOON)?;
        let before = cluster.chunk_files();
        cluster.world.partition("cs0", "master");
        cluster.world.partition("cs1", "master");
        cluster.world.power_loss("master");
        cluster.world.start("master");
        // within its safe mode
        cluster.world.run_for(Duration::from_secs(4))?;
        let after = cluster.chunk_files();
        ensure!(after == before, "{before:?} became {after:?}");
        cluster.world.repair("cs0", "master");
        cluster.world.repair("cs1", "master");
        cluster.wait_servers(4, SOON)?;
        cluster.wait_healthy(SOON)?;
        // those that came back after the safe mode may have been replaced meanwhile
        cluster.wait_disks(3, SOON)?;
        cluster.world.run("read", SOON, |env| expect(env, 7))
    });
}

/// Unlinked, and its trash emptied, while a client has it open: it is read to the end, and gone after the close.
#[test]
fn fault_31_an_open_file_is_readable_until_its_last_close_and_then_reclaimed() {
    run(0..5, &[], |seed| {
        let mut cluster = Cluster::start(seed, 3)?;
        cluster.world.run("write", SOON, |env| write(env, 7))?;
        let close = Rc::new(Cell::new(false));
        let told = close.clone();
        let reader = cluster.world.spawn(move |env| async move {
            let client = Cluster::client(&env).await?;
            let file = open(&client).await?;
            while !told.get() {
                ensure!(file.read_at(0, LENGTH).await? == filled(7), "other bytes");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            file.close().await?;
            Ok(client.shutdown().await?)
        });
        cluster.world.run_for(Duration::from_secs(1))?;
        cluster.world.run("unlink", SOON, unlink)?;
        cluster.world.run("empty the trash", SOON, |env| async move {
            let client = Cluster::client(&env).await?;
            client.trash_empty(&[]).await?;
            Ok(client.shutdown().await?)
        })?;
        cluster.world.run_for(Duration::from_secs(30))?;
        ensure!(cluster.chunk_files().len() == 3, "{:?}", cluster.chunk_files());
        close.set(true);
        cluster.world.finish("the reader", SOON, reader)?;
        cluster.world.run_for(Duration::from_secs(30))?;
        ensure!(cluster.chunk_files().is_empty(), "{:?}", cluster.chunk_files());
        Ok(())
    });
}

/// Each replica in turn is lost and made anew elsewhere, until none is where it was: who reads meanwhile sees neither
/// an error nor zeros.
#[test]
fn fault_34_a_chunk_moves_under_a_reader() {
    run(0..5, &[], |seed| {
        let mut cluster = Cluster::start(seed, 4)?;
        cluster.world.run("write", SOON, |env| write(env, 7))?;
        cluster.wait_healthy(SOON)?;
        let stop = Rc::new(Cell::new(false));
        let told = stop.clone();
        let reader = cluster.world.spawn(move |env| async move {
            let client = Cluster::client(&env).await?;
            let file = open(&client).await?;
            let mut reads = 0;
            while !told.get() {
                ensure!(file.read_at(0, LENGTH).await? == filled(7), "other bytes");
                reads += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            file.close().await?;
            client.shutdown().await?;
            Ok(reads)
        });
        for name in holders(&cluster) {
            cluster.world.kill(&name);
            wait_moved(&mut cluster, &name)?;
            cluster.world.start(&name);
            cluster.wait_servers(4, SOON)?;
            cluster.wait_disks(3, SOON)?;
        }
        stop.set(true);
        let reads = cluster.world.finish("the reader", SOON, reader)?;
        ensure!(reads > 100, "only {reads} reads");
        Ok(())
    });
}
