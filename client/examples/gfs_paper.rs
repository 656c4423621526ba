//! One client of bench/gfs-paper: reads, writes or appends through the client library for some seconds, and prints when
//! each part of it ended, in seconds, and its bytes. It says "ready" when it has connected, and begins when a line comes on its standard input.
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

/// When each part of the work ended, and how many bytes it was.
type Ends = Vec<(Instant, usize)>;

async fn read(files: &[File], until: Instant, seed: u64) -> cairn_client::Result<Ends> {
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

async fn write(file: &File, until: Instant) -> cairn_client::Result<Ends> {
    let data = noise(MB, 1);
    let mut bytes = 0;
    while Instant::now() < until {
        file.write_at(bytes as u64, data.clone()).await?;
        bytes += data.len();
    }
    // every replica has all of it
    file.flush().await?;
    Ok(vec![(Instant::now(), bytes)])
}

async fn append(file: &File, until: Instant) -> cairn_client::Result<Ends> {
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
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
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
    let ends = match mode.as_str() {
        "prepare" => {
            let data = noise(SET_FILE_BYTES, id);
            for at in (0..SET_FILE_BYTES).step_by(1 << 20) {
                files[0].write_at(at as u64, data.slice(at..at + (1 << 20))).await?;
            }
            files[0].flush().await?;
            vec![(Instant::now(), SET_FILE_BYTES)]
        }
        "read" => read(&files, until, id).await?,
        "write" => write(&files[0], until).await?,
        _ => append(&files[0], until).await?,
    };
    let ends = ends
        .iter()
        .map(|(end, bytes)| format!("[{:.4}, {bytes}]", (*end - start).as_secs_f64()));
    println!("[{}]", ends.collect::<Vec<_>>().join(", "));
    for file in files {
        file.close().await?;
    }
    client.shutdown().await?;
    Ok(())
}
