//! One client of bench/gfs-paper: reads, writes or appends through the client library for some seconds, and prints its
//! rate. It says "ready" when it has connected, and begins when a line comes on its standard input.
#![allow(clippy::disallowed_methods, reason = "it measures the real world")]
use bytes::Bytes;
use cairn_client::{Client, ClientConfig, Create, File, OpenMode};
use cairn_io::Env;
use cairn_types::Inode;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::error::Error;
use std::io::Write;
use std::time::{Duration, Instant};

const MB: usize = 1_000_000;
/// Each file of the set that is read.
const SET_FILE_BYTES: usize = 64 << 20;
const REGION_BYTES: usize = 4 << 20;
/// Records of one client under way.
const APPENDS_AHEAD: usize = 8;
/// Before rates are taken.
const WARM_UP: Duration = Duration::from_secs(2);

/// What was done, and when each part of it ended.
struct Done {
    bytes: usize,
    seconds: f64,
}

/// The rate between the first and the last part that ended after the warm-up: neither the start nor what was cut off at
/// the end is in it.
fn steady(start: Instant, ends: &[(Instant, usize)]) -> Done {
    let warm: Vec<_> = ends.iter().filter(|(end, _)| *end - start >= WARM_UP).collect();
    let bytes = warm.iter().skip(1).map(|(_, bytes)| bytes).sum();
    let seconds = match (warm.first(), warm.last()) {
        (Some(first), Some(last)) => (last.0 - first.0).as_secs_f64(),
        _ => 0.0,
    };
    Done { bytes, seconds }
}

async fn create(client: &Client, name: &str) -> cairn_client::Result<File> {
    let create = Create {
        mode: 0o644,
        ..Create::default()
    };
    Ok(client.create(Inode::ROOT, name.as_bytes(), create).await?.2)
}

async fn open(client: &Client, name: &str) -> cairn_client::Result<File> {
    let attr = client.lookup(Inode::ROOT, name.as_bytes()).await?;
    client.open(attr.ino, OpenMode::READ_WRITE).await
}

fn noise(len: usize, seed: u64) -> Bytes {
    let mut bytes = vec![0; len];
    rand::RngCore::fill_bytes(&mut StdRng::seed_from_u64(seed), &mut bytes);
    bytes.into()
}

async fn read(files: &[File], until: Instant, seed: u64) -> cairn_client::Result<Vec<(Instant, usize)>> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut ends = vec![];
    while Instant::now() < until {
        let file = &files[rng.random_range(0..files.len())];
        let offset = rng.random_range(0..=SET_FILE_BYTES - REGION_BYTES) as u64;
        let got = file.read_at(offset, REGION_BYTES).await?;
        assert_eq!(got.len(), REGION_BYTES, "a short read");
        ends.push((Instant::now(), got.len()));
    }
    Ok(ends)
}

async fn write(file: &File, start: Instant, until: Instant) -> cairn_client::Result<Done> {
    let data = noise(MB, 1);
    let mut bytes = 0;
    while Instant::now() < until {
        file.write_at(bytes as u64, data.clone()).await?;
        bytes += data.len();
    }
    // every replica has all of it
    file.flush().await?;
    let seconds = start.elapsed().as_secs_f64();
    Ok(Done { bytes, seconds })
}

async fn append(file: &File, until: Instant) -> cairn_client::Result<Vec<(Instant, usize)>> {
    let data = noise(MB, 2);
    let mut ends = vec![];
    let mut under_way = FuturesUnordered::new();
    loop {
        while under_way.len() < APPENDS_AHEAD && Instant::now() < until {
            under_way.push(file.append_record(data.clone()));
        }
        match under_way.next().await {
            Some(appended) => {
                appended?;
                ends.push((Instant::now(), data.len()));
            }
            None => return Ok(ends),
        }
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [mode, master, id, seconds, name] = &args[..] else {
        return Err("usage: gfs_paper MODE MASTER ID SECONDS NAME".into());
    };
    let (id, seconds): (u64, u64) = (id.parse()?, seconds.parse()?);
    let config = ClientConfig {
        master: master.clone(),
        description: format!("gfs-paper {mode} {id}"),
        // so that a write's rate is the network's, and not that of filling a buffer
        write_buffer_bytes: 16 << 20,
        ..ClientConfig::default()
    };
    let client = Client::connect(config, Env::real()).await?;
    let mut files = vec![];
    match mode.as_str() {
        // NAME is how many there are
        "read" => {
            for n in 0..name.parse()? {
                files.push(open(&client, &format!("set-{n}")).await?);
            }
        }
        "prepare" => files.push(create(&client, &format!("set-{id}")).await?),
        "write" => files.push(create(&client, &format!("{name}-{id}")).await?),
        "append" => files.push(create(&client, name).await?),
        _ => return Err("MODE is prepare, read, write or append".into()),
    }
    println!("ready");
    std::io::stdout().flush()?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let start = Instant::now();
    let until = start + Duration::from_secs(seconds);
    let done = match mode.as_str() {
        "prepare" => {
            let data = noise(SET_FILE_BYTES, id);
            for at in (0..SET_FILE_BYTES).step_by(1 << 20) {
                files[0].write_at(at as u64, data.slice(at..at + (1 << 20))).await?;
            }
            files[0].flush().await?;
            Done {
                bytes: SET_FILE_BYTES,
                seconds: start.elapsed().as_secs_f64(),
            }
        }
        "read" => steady(start, &read(&files, until, id).await?),
        "write" => write(&files[0], start, until).await?,
        _ => steady(start, &append(&files[0], until).await?),
    };
    println!("{{\"bytes\": {}, \"seconds\": {}}}", done.bytes, done.seconds);
    for file in files {
        file.close().await?;
    }
    client.shutdown().await?;
    Ok(())
}
