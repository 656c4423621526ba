//! docs/semantics.md, promise by promise, each in the situation that threatens it.
#![allow(clippy::unwrap_used, clippy::expect_used)]
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use cairn_client::{Admin, FileKind, Make, RenameFlags, errno};
use cairn_sim::single::{LENGTH, create, expect, filled, open, unlink, write};
use cairn_sim::{Cluster, Files, run};
use cairn_types::Inode;
use cairn_types::layout::CHUNK_SIZE_BYTES;
use rand::Rng;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// Longer than a client's timeout.
const SOON: Duration = Duration::from_secs(60);
/// A chunk file's header and table.
const DATA_AT: u64 = 8192;

fn fails_with_eio<T>(what: &str, result: cairn_client::Result<T>) -> Result<()> {
    let error = result.err().with_context(|| format!("{what} succeeded"))?;
    ensure!(error.errno() == errno::EIO, "{what}: {error}");
    Ok(())
}

fn directory(n: usize) -> Vec<u8> {
    format!("d{n}").into_bytes()
}

fn renamed(n: usize) -> Vec<u8> {
    format!("r{n}").into_bytes()
}

/// The master dies again and again, with and without its page cache: each call is done once, and stays done.
#[test]
fn promise_1_namespace_operations_are_durable_and_applied_once() {
    const NAMES: usize = 60;
    run(0..5, &[], |seed| {
        let mut cluster = Cluster::start(seed, 0)?;
        let running = cluster.world.spawn(move |env| async move {
            let client = Cluster::client(&env).await?;
            for n in 0..NAMES {
                let make = Make {
                    kind: FileKind::Directory,
                    mode: 0o755,
                    uid: 0,
                    gid: 0,
                    rdev: 0,
                    target: Bytes::new(),
                };
                client
                    .make(Inode::ROOT, &directory(n), make)
                    .await
                    .with_context(|| format!("mkdir {n}"))?;
                let flags = RenameFlags::default();
                let (from, to) = (directory(n), renamed(n));
                let rename = client.rename(Inode::ROOT, &from, Inode::ROOT, &to, flags);
                rename.await.with_context(|| format!("rename {n}"))?;
            }
            Ok(client.shutdown().await?)
        });
        for _ in 0..4 {
            let pause = Duration::from_millis(cluster.world.rng.random_range(0..300));
            cluster.world.run_for(pause)?;
            match cluster.world.rng.random() {
                true => cluster.world.power_loss("master"),
                false => cluster.world.kill("master"),
            }
            cluster.world.start("master");
        }
        cluster.world.finish("names", SOON * 2, running)?;
        cluster.world.power_loss("master");
        cluster.world.start("master");
        cluster.world.run("list", SOON, |env| async move {
            let client = Cluster::client(&env).await?;
            let page = client.readdir(Inode::ROOT, 0, 1_000).await?;
            let mut names: Vec<_> = page.entries.into_iter().map(|entry| entry.name).collect();
            let mut expected: Vec<_> = (0..NAMES).map(renamed).map(Bytes::from).collect();
            names.sort();
            expected.sort();
            ensure!(names == expected, "{names:?}");
            Ok(client.shutdown().await?)
        })
    });
}

/// The moment that an fsync returns, each of the three disks alone would do.
#[test]
fn promise_2a_a_synced_write_is_on_every_replica_s_disk() {
    run(0..5, &[], |seed| {
        let mut cluster = Cluster::start(seed, 3)?;
        cluster.world.run("write", SOON, |env| async move {
            let client = Cluster::client(&env).await?;
            let file = create(&client).await?;
            file.write_at(0, filled(7)).await?;
            Ok(file.fsync().await?)
        })?;
        for name in cluster.servers.clone() {
            cluster.world.disks(&name)[0].drop_unsynced();
        }
        let chunks = cluster.check_disks()?;
        let replicas = chunks.values().next().context("a chunk")?;
        ensure!(chunks.len() == 1 && replicas.len() == 3, "{} replicas", replicas.len());
        ensure!(replicas.iter().all(|r| r.data == filled(7)), "other bytes");
        Ok(())
    });
}

/// Two of three servers are dead: a write waits, and goes on as soon as there are two again.
#[test]
fn promise_2b_a_write_below_the_minimum_waits_for_repair() {
    run(0..5, &[], |seed| {
        let mut cluster = Cluster::start(seed, 3)?;
        cluster.world.run("write", SOON, |env| write(env, 7))?;
        cluster.world.kill("cs0");
        cluster.world.kill("cs1");
        let writing = cluster.world.spawn(|env| write(env, 8));
        cluster.world.run_for(Duration::from_secs(15))?;
        ensure!(!writing.is_done(), "written with one replica");
        cluster.world.start("cs1");
        cluster.world.finish("the write", SOON, writing)?;
        cluster.world.run("read", SOON, |env| expect(env, 8))
    });
}

/// They stay dead: the write fails in time, and so does, in one way, all that follows on that open file.
#[test]
fn promises_2b_and_6b_a_write_that_cannot_be_kept_fails_every_following_write_fsync_and_close() {
    run(0..5, &["a write was lost"], |seed| {
        let mut cluster = Cluster::start(seed, 3)?;
        cluster.world.run("write", SOON, |env| write(env, 7))?;
        cluster.world.kill("cs0");
        cluster.world.kill("cs1");
        cluster.world.run("failing", SOON, |env| async move {
            let client = Cluster::client(&env).await?;
            let file = create(&client).await?;
            file.write_at(0, filled(8))
                .await
                .context("write(2) returns once the bytes are held")?;
            fails_with_eio("fsync", file.fsync().await)?;
            fails_with_eio("a write", file.write_at(0, filled(9)).await)?;
            fails_with_eio("another fsync", file.fsync().await)?;
            fails_with_eio("close", file.close().await)
        })?;
        cluster.world.start("cs0");
        cluster.world.start("cs1");
        cluster.wait_servers(3, SOON)?;
        cluster.world.run("open anew", SOON, |env| async move {
            let client = Cluster::client(&env).await?;
            let file = create(&client).await?;
            file.write_at(0, filled(10)).await?;
            file.close().await?;
            Ok(client.shutdown().await?)
        })?;
        cluster.world.run("read", SOON, |env| expect(env, 10))
    });
}

/// A replica that the master cannot reach, but the reader can: neither it nor the reader's stale knowledge of the
/// chunk gives old bytes once the new ones were acknowledged.
#[test]
fn promise_3a_and_3b_a_read_sees_every_acknowledged_write_and_no_stale_replica() {
    run(0..10, &[], |seed| {
        let mut cluster = Cluster::start(seed, 4)?;
        cluster.world.run("write", SOON, |env| write(env, 7))?;
        let both = cluster.world.spawn(|env| async move {
            let (writer, reader) = (Cluster::client(&env).await?, Cluster::client(&env).await?);
            let (to, from) = (create(&writer).await?, open(&reader).await?);
            for round in 0..100 {
                to.write_at(0, filled(round)).await?;
                to.flush().await?;
                let found = from.read_at(0, LENGTH).await?;
                ensure!(found == filled(round), "round {round}: read {:?}", found.first());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        });
        let (victim, _) = cluster.chunk_files().swap_remove(seed as usize % 3);
        cluster.world.run_for(Duration::from_millis(200))?;
        for name in cluster.machines() {
            if name != victim {
                cluster.world.partition(&victim, &name);
            }
        }
        cluster.world.finish("writes and reads", SOON, both)
    });
}

/// A chunkserver dies in the middle of writes, with or without its page cache.
#[test]
fn promise_4_replicas_are_identical_after_half_done_writes() {
    run(0..10, &[], |seed| {
        let mut cluster = Cluster::start(seed, 3)?;
        let files = Files::default();
        let writing = files.clone();
        let writer = cluster.world.spawn(move |env| async move {
            let client = Cluster::client(&env).await?;
            let file = writing.create(&client, "file").await?;
            for _ in 0..60 {
                // power loss may take what was not synced, and says so
                if writing.write_round(&env, "file", &file).await.is_err() {
                    return Ok(());
                }
            }
            Ok(())
        });
        let moment = Duration::from_millis(cluster.world.rng.random_range(100..500));
        cluster.world.run_for(moment)?;
        let victim = format!("cs{}", seed % 3);
        match seed % 2 {
            0 => cluster.world.kill(&victim),
            _ => cluster.world.power_loss(&victim),
        }
        cluster.world.start(&victim);
        cluster.world.finish("writes", SOON * 2, writer)?;
        cluster.wait_servers(3, SOON)?;
        cluster.wait_healthy(SOON)?;
        cluster.check_disks()?;
        cluster
            .world
            .run("read back", SOON, |env| async move { files.check(env).await })
    });
}

/// What became of one record, by its appender's word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    /// Acknowledged, and synced since.
    Synced(u64),
    /// Acknowledged.
    Appended(u64),
    /// It may be there, or come there yet.
    Perhaps,
}

/// The records of all appenders, by what they hold.
type Records = Rc<RefCell<BTreeMap<Bytes, Told>>>;

const APPENDERS: usize = 3;
const ROUNDS: usize = 25;

/// Appends a few records at a time, and syncs them.
async fn append(env: cairn_io::Env, who: usize, records: Records) -> Result<()> {
    let client = Cluster::client(&env).await?;
    let mut file = create(&client).await?;
    let mut rng = env.rng.fork();
    for round in 0..ROUNDS {
        let batch: Vec<Bytes> = (0..4)
            .map(|n| {
                let mut data = format!("{who} {round} {n} ").into_bytes();
                let long = round == 7 && n == 0;
                data.resize(
                    data.len() + rng.random_range(0..if long { 3_000_000 } else { 20_000 }),
                    n as u8,
                );
                Bytes::from(data)
            })
            .collect();
        let appended = futures::future::join_all(batch.iter().map(|data| file.append_record(data.clone()))).await;
        for (data, result) in batch.iter().zip(&appended) {
            let told = match result {
                Ok(offset) => Told::Appended(*offset),
                Err(_) => Told::Perhaps,
            };
            records.borrow_mut().insert(data.clone(), told);
        }
        if file.fsync().await.is_err() {
            // a failure is told to every later call on the open file: open it again, and go on
            let _told = file.close().await;
            file = create(&client).await?;
            continue;
        }
        for data in &batch {
            if let Some(told) = records.borrow_mut().get_mut(data)
                && let Told::Appended(offset) = *told
            {
                *told = Told::Synced(offset);
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// All records of the file are right, and none is there twice.
async fn check_records(env: cairn_io::Env, records: Records, power_was_lost: bool) -> Result<()> {
    let client = Cluster::client(&env).await?;
    let file = open(&client).await?;
    let mut reader = file.records(0);
    let mut found = BTreeMap::new();
    while let Some(record) = reader.next().await? {
        let told = records.borrow().get(&record.data).copied();
        let offset = record.offset;
        let first = String::from_utf8_lossy(&record.data[..record.data.len().min(10)]).into_owned();
        ensure!(told.is_some(), "a record at {offset} that nobody appended: {first:?}");
        let before = found.insert(record.data, offset);
        ensure!(before.is_none(), "{first:?} is at {before:?} and at {offset}");
        if let Some(Told::Synced(at) | Told::Appended(at)) = told {
            ensure!(at == offset, "{first:?}: told {at}, found at {offset}");
        }
    }
    for (data, told) in records.borrow().iter() {
        let must = match told {
            Told::Synced(_) => true,
            Told::Appended(_) => !power_was_lost,
            Told::Perhaps => false,
        };
        let first = String::from_utf8_lossy(&data[..data.len().min(10)]);
        ensure!(
            !must || found.contains_key(data),
            "{first:?} was acknowledged ({told:?}) and is not there"
        );
    }
    ensure!(!found.is_empty(), "no record at all");
    Ok(client.shutdown().await?)
}

/// Several append to one file, whose first chunk is soon full, while servers die, lose power and are cut off.
#[test]
fn promise_5_every_record_is_there_once_and_where_its_appender_was_told() {
    // what was not synced may go with the power of all, and its writer is told
    let allowed = ["bytes that were written and not synced were lost when chunkservers lost power"];
    run(0..12, &allowed, |seed| {
        let power = seed % 3 == 2;
        let mut cluster = Cluster::start(seed, 4)?;
        cluster.world.run("create", SOON, |env| async move {
            let client = Cluster::client(&env).await?;
            let file = create(&client).await?;
            file.truncate(CHUNK_SIZE_BYTES - 400_000).await?;
            file.close().await?;
            Ok(client.shutdown().await?)
        })?;
        let records = Records::default();
        let appenders: Vec<_> = (0..APPENDERS)
            .map(|who| {
                let records = records.clone();
                cluster.world.spawn(move |env| append(env, who, records))
            })
            .collect();
        for _ in 0..4 {
            let pause = Duration::from_millis(cluster.world.rng.random_range(20..600));
            cluster.world.run_for(pause)?;
            let victim = format!("cs{}", cluster.world.rng.random_range(0..4));
            let lasts = Duration::from_millis(cluster.world.rng.random_range(10..2_500));
            match (power, cluster.world.rng.random_range(0..3)) {
                (_, 0) => {
                    cluster.world.partition(&victim, "master");
                    cluster.world.run_for(lasts)?;
                    cluster.world.repair(&victim, "master");
                }
                (true, 1) => {
                    // all at once: only the bytes on the disks remember
                    for name in cluster.servers.clone() {
                        cluster.world.power_loss(&name);
                    }
                    cluster.world.run_for(lasts)?;
                    for name in cluster.servers.clone() {
                        cluster.world.start(&name);
                    }
                }
                (false, 1) => {
                    for name in cluster.servers.clone() {
                        cluster.world.kill(&name);
                        cluster.world.start(&name);
                    }
                }
                _ => {
                    cluster.world.kill(&victim);
                    cluster.world.run_for(lasts)?;
                    cluster.world.start(&victim);
                }
            }
        }
        for appender in appenders {
            cluster.world.finish("an appender", SOON * 4, appender)?;
        }
        cluster.wait_servers(4, SOON)?;
        cluster.wait_healthy(SOON)?;
        let all = records.clone();
        cluster
            .world
            .run("read back", SOON, move |env| check_records(env, all, power))?;
        let told = records.borrow();
        let synced = told.values().filter(|told| matches!(told, Told::Synced(_))).count();
        ensure!(
            synced > APPENDERS * ROUNDS,
            "only {synced} of {} were synced",
            told.len()
        );
        let beyond = |told: &&Told| matches!(told, Told::Synced(at) if *at >= CHUNK_SIZE_BYTES);
        ensure!(told.values().any(|told| beyond(&told)), "all lie in one chunk");
        Ok(())
    });
}

/// A reader that had the file open and read it sees, once it opens it again, what another closed meanwhile: other
/// bytes, another length; also while servers die.
#[test]
fn promise_6a_an_open_sees_what_another_client_has_closed() {
    run(0..5, &[], |seed| {
        let mut cluster = Cluster::start(seed, 4)?;
        cluster.world.run("write", SOON, |env| write(env, 7))?;
        let both = cluster.world.spawn(|env| async move {
            let (writer, reader) = (Cluster::client(&env).await?, Cluster::client(&env).await?);
            let mut old = open(&reader).await?;
            for round in 0..40 {
                let length = LENGTH + 1_000 * usize::from(round % 7);
                let bytes = Bytes::from(vec![round; length]);
                let to = create(&writer).await?;
                to.truncate(0).await?;
                to.write_at(0, bytes.clone()).await?;
                to.close().await?;
                let new = open(&reader).await?;
                ensure!(new.attr().size == length as u64, "round {round}: {:?}", new.attr());
                let found = new.read_at(0, 2 * LENGTH).await?;
                ensure!(
                    found == bytes,
                    "round {round}: {} bytes of {:?}",
                    found.len(),
                    found.first()
                );
                std::mem::replace(&mut old, new).close().await?;
            }
            Ok(())
        });
        cluster.world.run_for(Duration::from_millis(300))?;
        let victim = format!("cs{}", seed % 4);
        cluster.world.kill(&victim);
        cluster.world.run_for(Duration::from_secs(1))?;
        cluster.world.start(&victim);
        cluster.world.finish("writes and opens", SOON, both)
    });
}

/// Unlinked, it is kept; its trash emptied, no replica goes before the grace is over, and none that cannot ask.
#[test]
fn promise_7_replicas_are_deleted_late_and_after_asking() {
    run(0..3, &[], |seed| {
        let mut cluster = Cluster::start(seed, 3)?;
        cluster.world.run("write", SOON, |env| write(env, 7))?;
        cluster.world.run("unlink", SOON, unlink)?;
        cluster.world.run_for(Duration::from_secs(20))?;
        ensure!(cluster.chunk_files().len() == 3, "in the trash");
        cluster.world.run("empty the trash", SOON, |env| async move {
            let client = Cluster::client(&env).await?;
            ensure!(client.trash_empty(&[]).await?.count == 1);
            Ok(client.shutdown().await?)
        })?;
        cluster.world.partition("cs0", "master");
        cluster.world.run_for(Duration::from_secs(1))?;
        ensure!(cluster.chunk_files().len() == 3, "within the grace");
        cluster.world.run_for(Duration::from_secs(30))?;
        let left = cluster.chunk_files();
        ensure!(left.len() == 1 && left[0].0 == "cs0", "after the grace: {left:?}");
        cluster.world.repair("cs0", "master");
        cluster.world.run_for(Duration::from_secs(30))?;
        ensure!(cluster.chunk_files().is_empty(), "at last");
        Ok(())
    });
}

/// A bit of one replica rots: no read gives it, and it is found and repaired from the others.
#[test]
fn promise_8_corruption_is_found_and_repaired_and_never_read() {
    run(0..6, &["replica damaged"], |seed| {
        let mut cluster = Cluster::start(seed, 3)?;
        cluster.world.run("write", SOON, |env| write(env, 7))?;
        cluster.wait_healthy(SOON)?;
        let (name, path) = cluster.chunk_files().swap_remove(seed as usize % 3);
        let bit = (DATA_AT + cluster.world.rng.random_range(0..LENGTH as u64)) * 8;
        ensure!(cluster.world.disks(&name)[0].flip(&path, bit));
        ensure!(cluster.check_disks().is_err());
        for _ in 0..3 {
            cluster.world.run("read", SOON, |env| expect(env, 7))?;
        }
        cluster.world.run("scrub", SOON, |env| async move {
            Ok(Admin::connect("master:7600", env).await?.scrub_now().await?)
        })?;
        cluster.wait("the repair", SOON, |status| {
            status
                .health
                .is_some_and(|h| h.corrupt_found >= 1 && h.corrupt_repaired >= 1)
        })?;
        cluster.wait_healthy(SOON)?;
        cluster.check_disks()?;
        cluster.world.run("read", SOON, |env| expect(env, 7))
    });
}
