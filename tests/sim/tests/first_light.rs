//! A file is written, a chunkserver is lost, everything is read back, the cluster heals; and the same seed does all
//! of it the same way again, here and in another process.
#![allow(clippy::unwrap_used, clippy::expect_used)]
use anyhow::{Result, ensure};
use bytes::Bytes;
use cairn_client::{Create, OpenMode};
use cairn_io::Env;
use cairn_io::sim::Trace;
use cairn_sim::{Cluster, run, with_seed};
use cairn_types::Inode;
use cairn_types::layout::{BLOCK_SIZE_BYTES, CHUNK_SIZE_BYTES};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
/// Set where the test starts itself in another process, to print what it did.
const CHILD: &str = "CAIRN_TEST_PRINT_EVENTS";
/// Begins a line of that, which the test harness shares.
const EVENT: &str = "event: ";
/// Around the end of the first chunk, so that there are two, and a hole.
const FAR: u64 = CHUNK_SIZE_BYTES - 100_000;

fn pattern(len: usize, seed: u64) -> Bytes {
    (0..len as u64)
        .map(|i| (i.wrapping_mul(31).wrapping_add(i >> 8) ^ seed) as u8)
        .collect()
}

async fn write(env: Env, seed: u64) -> Result<()> {
    let client = Cluster::client(&env).await?;
    let (_, existed, file) = client
        .create(
            Inode::ROOT,
            b"light",
            Create {
                mode: 0o644,
                ..Create::default()
            },
        )
        .await?;
    ensure!(!existed);
    file.write_at(0, pattern(300_000, seed)).await?;
    file.write_at(FAR, pattern(200_000, seed + 1)).await?;
    file.fsync().await?;
    file.close().await?;
    client.shutdown().await?;
    Ok(())
}

async fn read_back(env: Env, seed: u64) -> Result<()> {
    let client = Cluster::client(&env).await?;
    let attr = client.lookup(Inode::ROOT, b"light").await?;
    ensure!(attr.size == FAR + 200_000, "size {}", attr.size);
    let file = client.open(attr.ino, OpenMode::READ).await?;
    for (offset, expected) in [(0, pattern(300_000, seed)), (FAR, pattern(200_000, seed + 1))] {
        let mut found = vec![];
        while found.len() < expected.len() {
            let piece = file
                .read_at(offset + found.len() as u64, expected.len() - found.len())
                .await?;
            ensure!(!piece.is_empty(), "ends at {offset} + {}", found.len());
            found.extend_from_slice(&piece);
        }
        ensure!(found == expected, "other bytes at {offset}");
    }
    let hole = file.read_at(300_000, BLOCK_SIZE_BYTES as usize).await?;
    ensure!(
        !hole.is_empty() && hole.iter().all(|b| *b == 0),
        "the hole is not zeros"
    );
    file.close().await?;
    client.shutdown().await?;
    Ok(())
}

fn scenario(seed: u64) -> Result<()> {
    traced(seed, Trace::new())
}

fn traced(seed: u64, trace: Trace) -> Result<()> {
    let mut cluster = Cluster::start_traced(seed, 4, trace)?;
    cluster.world.run("write", SOON, |env| write(env, seed))?;
    cluster.wait_healthy(SOON)?;
    let (victim, _) = cluster.chunk_files().swap_remove(0);
    cluster.world.kill(&victim);
    cluster
        .world
        .run("read while it is lost", SOON, |env| read_back(env, seed))?;
    cluster.wait_servers(3, SOON)?;
    let status = cluster.wait_healthy(SOON)?;
    ensure!(status.health.unwrap_or_default().corrupt_found == 0);
    cluster
        .world
        .run("read when healed", SOON, |env| read_back(env, seed))?;
    let chunks = cluster.check_disks()?;
    ensure!(chunks.len() == 2, "{} chunks", chunks.len());
    cluster.world.start(&victim);
    cluster.wait_servers(4, SOON)?;
    cluster.wait_healthy(SOON)?;
    cluster
        .world
        .run("read when it is back", SOON, |env| read_back(env, seed))?;
    cluster.check_disks()?;
    Ok(())
}

#[test]
fn a_lost_chunkserver_loses_nothing_and_its_replicas_are_made_anew() {
    run(0..5, &[], scenario);
}

/// What the run of `seed` did, in a line an event.
fn events(seed: u64) -> Vec<String> {
    let trace = Trace::keeping_events();
    with_seed(seed, &[], |seed| traced(seed, trace.clone())).unwrap();
    trace.events().iter().map(|event| format!("{EVENT}{event:?}")).collect()
}

/// Where two runs part, if they do.
fn parting(a: &[String], b: &[String]) -> Option<String> {
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let shown = |events: &[String]| {
        events
            .iter()
            .skip(same.saturating_sub(3))
            .take(6)
            .cloned()
            .collect::<Vec<_>>()
            .join("\n")
    };
    (same < a.len().max(b.len())).then(|| format!("{same} events, then\n{}\nand\n{}", shown(a), shown(b)))
}

#[test]
fn the_same_seed_gives_the_same_trace_in_every_process() {
    let here = events(1);
    if std::env::var_os(CHILD).is_some() {
        println!("{}", here.join("\n"));
        return;
    }
    assert_eq!(parting(&here, &events(1)), None, "the same seed");
    assert!(parting(&here, &events(2)).is_some(), "another seed");
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "the_same_seed_gives_the_same_trace_in_every_process",
            "--exact",
            "--nocapture",
        ])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&child.stdout);
    let there: Vec<String> = printed
        .lines()
        .filter(|line| line.starts_with(EVENT))
        .map(str::to_owned)
        .collect();
    assert_eq!(parting(&here, &there), None, "another process");
}
