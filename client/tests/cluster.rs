//! The client against the real master and chunkservers, in one process, over real sockets and disks.
// helpers of tests are tests too: they panic, and touch the real world
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]
use bytes::Bytes;
use cairn_chunkserver::{Chunkserver, ChunkserverConfig};
use cairn_client::{Admin, Client, ClientConfig, Create, File, OpenMode};
use cairn_io::{Disk, Env, RealDisk};
use cairn_master::{Master, MasterConfig};
use cairn_proto::admin::StatusAnswer;
use cairn_types::Inode;
use cairn_types::layout::{BLOCK_SIZE_BYTES, CHUNK_SIZE_BYTES};
use futures::StreamExt;
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

const MIB: usize = 1 << 20;

struct Cluster {
    directory: tempfile::TempDir,
    master: Option<Master>,
    address: SocketAddr,
    servers: Vec<Option<Chunkserver>>,
}

fn disk(path: &Path) -> Arc<dyn Disk> {
    std::fs::create_dir_all(path).unwrap();
    Arc::new(RealDisk::open(path).unwrap())
}

impl Cluster {
    async fn start(count: usize) -> Self {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_test_writer()
            .try_init();
        let directory = tempfile::tempdir().unwrap();
        let mut cluster = Self {
            directory,
            master: None,
            address: ([127, 0, 0, 1], 0).into(),
            servers: Vec::new(),
        };
        cluster.start_master().await;
        for n in 0..count {
            cluster.servers.push(None);
            cluster.start_server(n).await;
        }
        cluster
    }

    async fn start_master(&mut self) {
        let config = MasterConfig {
            listen: self.address,
            lease_ms: 1500,
            heartbeat_ms: 300,
            repair_delay_ms: 2000,
            ..MasterConfig::default()
        };
        let disk = disk(&self.directory.path().join("master"));
        let master = Master::start(config, disk, Env::real()).await.unwrap();
        self.address = master.address();
        self.master = Some(master);
    }

    async fn start_server(&mut self, n: usize) {
        let path = self.directory.path().join(format!("cs{n}"));
        let config = ChunkserverConfig {
            listen: ([127, 0, 0, 1], 0).into(),
            health_listen: None,
            master: self.address.to_string(),
            chain_deadline: Duration::from_secs(2),
            ..ChunkserverConfig::default()
        };
        let disks = vec![(disk(&path), Some(path))];
        let server = Chunkserver::start(config, disks, Env::real()).await.unwrap();
        server.registered().await;
        self.servers[n] = Some(server);
    }

    async fn client(&self) -> Client {
        let config = ClientConfig {
            master: self.address.to_string(),
            description: "test".into(),
            server_timeout: Duration::from_secs(4),
            ..ClientConfig::default()
        };
        Client::connect(config, Env::real()).await.unwrap()
    }

    async fn status(&self) -> StatusAnswer {
        let admin = Admin::connect(&self.address.to_string(), Env::real()).await.unwrap();
        admin.status().await.unwrap()
    }

    async fn stop(mut self) {
        for server in self.servers.drain(..).flatten() {
            server.shutdown().await;
        }
        if let Some(master) = self.master.take() {
            master.shutdown().await.unwrap();
        }
    }
}

fn pattern(seed: u64, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    rand::RngCore::fill_bytes(&mut StdRng::seed_from_u64(seed), &mut bytes);
    bytes.into()
}

async fn create(client: &Client, name: &str) -> File {
    let create = Create {
        mode: 0o644,
        ..Create::default()
    };
    client.create(Inode::ROOT, name.as_bytes(), create).await.unwrap().2
}

async fn write_all(file: &File, data: &Bytes, piece: usize) {
    for at in (0..data.len()).step_by(piece) {
        file.write_at(at as u64, data.slice(at..data.len().min(at + piece)))
            .await
            .unwrap();
    }
}

async fn read_all(file: &File) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let piece = file.read_at(all.len() as u64, 3 * MIB).await.unwrap();
        if piece.is_empty() {
            return all;
        }
        all.extend_from_slice(&piece);
    }
}

/// Every member of every chunk holds the file's bytes.
async fn assert_replicas(client: &Client, ino: Inode, data: &[u8], want: usize) {
    let locations = client.locations(ino, 0, 1000).await.unwrap();
    for location in &locations {
        let start = location.index as usize * CHUNK_SIZE_BYTES as usize;
        let end = data.len().min(start + CHUNK_SIZE_BYTES as usize);
        assert_eq!(location.members.len(), want, "{location:?}");
        for member in &location.members {
            for at in (start..end).step_by(MIB) {
                let len = (end - at).min(MIB);
                let read = client
                    .read_replica(location, member, (at - start) as u64, len as u32, true)
                    .await
                    .unwrap();
                assert!(read.data[..] == data[at..at + len], "{member:?} at {at}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_the_same_on_every_replica_and_for_every_client() {
    let cluster = Cluster::start(3).await;
    let (writer, reader) = (cluster.client().await, cluster.client().await);
    let data = pattern(1, 70 * MIB + 12345);
    let file = create(&writer, "big").await;
    write_all(&file, &data, 300_000).await;
    file.fsync().await.unwrap();
    assert!(read_all(&file).await == data);
    let ino = file.inode();
    file.close().await.unwrap();
    let file = reader.open(ino, OpenMode::READ).await.unwrap();
    assert!(read_all(&file).await == data);
    assert_replicas(&reader, ino, &data, 3).await;
    let status = cluster.status().await;
    assert_eq!((status.files, status.chunks), (1, 2));
    writer.shutdown().await.unwrap();
    reader.shutdown().await.unwrap();
    cluster.stop().await;
}

/// Overwrites, appends, truncations, holes and zeroing against a vector; another client reads what was flushed.
/// Blocks may come from a file after their checksums did: what was written meanwhile is asked for again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_8_what_is_overwritten_while_it_is_read_is_no_rot() {
    const LEN: usize = MIB / 2;
    const LAST: u8 = 50;
    let cluster = Cluster::start(3).await;
    let (writer, reader) = (cluster.client().await, cluster.client().await);
    let file = create(&writer, "a").await;
    let of = |n: u8| Bytes::from(vec![n; LEN]);
    file.write_at(0, of(0)).await.unwrap();
    file.fsync().await.unwrap();
    let written = AtomicU8::new(0);
    let write = async {
        for n in 1..=LAST {
            file.write_at(0, of(n)).await.unwrap();
            file.flush().await.unwrap();
            written.store(n, Ordering::SeqCst);
        }
    };
    let read = async {
        let file = reader.open(file.inode(), OpenMode::READ).await.unwrap();
        loop {
            let least = written.load(Ordering::SeqCst);
            let bytes = file.read_at(0, LEN).await.unwrap();
            for block in bytes.chunks(BLOCK_SIZE_BYTES as usize) {
                let n = block[0];
                assert!(n >= least, "{n}, and {least} was acknowledged before (promise 3)");
                assert!(block.iter().all(|byte| *byte == n), "of two writes");
            }
            if least == LAST {
                return;
            }
        }
    };
    tokio::join!(write, read);
    let health = cluster.status().await.health.unwrap();
    assert_eq!(health.corrupt_found, 0);
    assert_replicas(&reader, file.inode(), &of(LAST), 3).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_operations_agree_with_a_vector() {
    let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    println!("SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let cluster = Cluster::start(3).await;
    let (writer, reader) = (cluster.client().await, cluster.client().await);
    let file = create(&writer, "random").await;
    let other = reader.open(file.inode(), OpenMode::READ).await.unwrap();
    let mut model: Vec<u8> = Vec::new();
    let limit = 2 * MIB;
    for n in 0..300 {
        let at = rng.random_range(0..limit);
        let len = rng.random_range(1..200_000usize);
        match rng.random_range(0..12) {
            0..=4 => {
                let data = pattern(n, len);
                file.write_at(at as u64, data.clone()).await.unwrap();
                if model.len() < at + len {
                    model.resize(at + len, 0);
                }
                model[at..at + len].copy_from_slice(&data);
            }
            5 if model.len() < limit => {
                let data = pattern(n, len);
                assert_eq!(file.append(data.clone()).await.unwrap(), model.len() as u64);
                model.extend_from_slice(&data);
            }
            6 => {
                file.truncate(at as u64).await.unwrap();
                model.resize(at, 0);
            }
            7 => {
                file.zero(at as u64, len as u64, true).await.unwrap();
                let (from, to) = (at.min(model.len()), (at + len).min(model.len()));
                model[from..to].fill(0);
            }
            8 => {
                file.fsync().await.unwrap();
                let read = other.read_at(0, 4 * MIB).await.unwrap();
                assert!(read[..] == model[..], "the other client differs after step {n}");
            }
            _ => {
                let read = file.read_at(at as u64, len).await.unwrap();
                let (from, to) = (at.min(model.len()), (at + len).min(model.len()));
                assert!(read[..] == model[from..to], "step {n}: {from}..{to}");
            }
        }
        assert_eq!(file.attr().size, model.len() as u64, "step {n}");
    }
    file.fsync().await.unwrap();
    assert!(read_all(&other).await == model);
    cluster.stop().await;
}

/// Its first chunk came with its creation, and no replica of it was ever made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_only_extended_reads_as_zeros() {
    let cluster = Cluster::start(3).await;
    let (writer, reader) = (cluster.client().await, cluster.client().await);
    let file = create(&writer, "hole").await;
    file.truncate(1000).await.unwrap();
    let other = reader.open(file.inode(), OpenMode::READ_WRITE).await.unwrap();
    for file in [&file, &other] {
        let start = std::time::Instant::now();
        assert_eq!(file.read_at(0, 2000).await.unwrap(), vec![0; 1000]);
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    }
    other.write_at(10, pattern(1, 10)).await.unwrap();
    other.fsync().await.unwrap();
    file.write_at(30, pattern(2, 10)).await.unwrap();
    file.fsync().await.unwrap();
    let read = other.read_at(0, 50).await.unwrap();
    assert_eq!(
        (&read[10..20], &read[30..40]),
        (&pattern(1, 10)[..], &pattern(2, 10)[..])
    );
    cluster.stop().await;
}

/// As many programs lay out a file: create, extend, close, and write through another open. What its creation granted
/// has reached no replica by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r10_files_created_extended_and_opened_again_are_written() {
    let cluster = Cluster::start(3).await;
    let (creator, other) = (cluster.client().await, cluster.client().await);
    let write = |n: u64| {
        let (creator, other) = (creator.clone(), other.clone());
        async move {
            let file = create(&creator, &format!("f{n}")).await;
            file.truncate(CHUNK_SIZE_BYTES).await.unwrap();
            let ino = file.inode();
            file.close().await.unwrap();
            let granted = other.locations(ino, 0, 1).await.unwrap().remove(0);
            let client = if n.is_multiple_of(2) { &creator } else { &other };
            let file = client.open(ino, OpenMode::READ_WRITE).await.unwrap();
            file.write_at(4096, pattern(n, 5000)).await.unwrap();
            file.fsync().await.unwrap();
            let written = other.locations(ino, 0, 1).await.unwrap().remove(0);
            assert_eq!(written.version, granted.version, "the grant was still good");
            assert_eq!(file.read_at(4096, 5000).await.unwrap(), pattern(n, 5000));
            let mut whole = vec![0; 10_000];
            whole[4096..9096].copy_from_slice(&pattern(n, 5000));
            assert_replicas(&other, ino, &whole[..9096], 3).await;
        }
    };
    futures::future::join_all((0..8).map(write)).await;
    cluster.stop().await;
}

/// Fencing a chunk that is nowhere yet raises the floors of its disks above every grant that is out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r10_a_grant_that_is_refused_is_given_anew() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let mut files = Vec::new();
    for n in 0..8 {
        let file = create(&client, &format!("f{n}")).await;
        file.truncate(CHUNK_SIZE_BYTES).await.unwrap();
        files.push(file);
    }
    let fenced = create(&client, "fenced").await;
    fenced.truncate(CHUNK_SIZE_BYTES).await.unwrap();
    // within its chunk: a reconfiguration (R13)
    fenced.truncate(1000).await.unwrap();
    let write = |(n, file): (usize, &File)| {
        let file = file.clone();
        async move {
            file.write_at(0, pattern(n as u64, 100_000)).await.unwrap();
            file.fsync().await.unwrap();
            assert_eq!(file.read_at(0, 100_000).await.unwrap(), pattern(n as u64, 100_000));
        }
    };
    futures::future::join_all(files.iter().enumerate().map(write)).await;
    let version = |file: &File| {
        let (client, ino) = (client.clone(), file.inode());
        async move { client.locations(ino, 0, 1).await.unwrap().remove(0).version }
    };
    assert!(
        version(&files[0]).await > version(&fenced).await,
        "the grant was still good: the test shows nothing"
    );
    cluster.stop().await;
}

/// The master's push: an open file follows another client's truncation and growth.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_file_follows_another_clients_changes() {
    let cluster = Cluster::start(3).await;
    let (writer, reader) = (cluster.client().await, cluster.client().await);
    let file = create(&writer, "a").await;
    file.write_at(0, pattern(1, 5000)).await.unwrap();
    file.fsync().await.unwrap();
    let other = reader.open(file.inode(), OpenMode::READ).await.unwrap();
    assert_eq!(other.read_at(0, 5000).await.unwrap(), pattern(1, 5000));
    file.truncate(100).await.unwrap();
    assert_eq!(other.read_at(0, 5000).await.unwrap(), pattern(1, 5000)[..100]);
    file.truncate(0).await.unwrap();
    file.write_at(0, pattern(2, 9000)).await.unwrap();
    file.fsync().await.unwrap();
    assert_eq!(other.read_at(0, 9000).await.unwrap(), pattern(2, 9000));
    for n in 0..20 {
        file.write_at(n * 100, pattern(n, 100)).await.unwrap();
        file.flush().await.unwrap();
        assert_eq!(other.read_at(n * 100, 100).await.unwrap(), pattern(n, 100), "write {n}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_goes_on_over_the_death_of_a_chunkserver() {
    for victim in 0..4 {
        let mut cluster = Cluster::start(4).await;
        let client = cluster.client().await;
        let data = pattern(2, 40 * MIB);
        let file = create(&client, "big").await;
        write_all(&file, &data.slice(..16 * MIB), MIB).await;
        // no goodbye: its connections break
        drop(cluster.servers[victim].take());
        for at in (16 * MIB..data.len()).step_by(MIB) {
            file.write_at(at as u64, data.slice(at..at + MIB)).await.unwrap();
        }
        file.fsync().await.unwrap();
        assert!(read_all(&file).await == data);
        cluster.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_goes_on_over_a_restart_of_the_master() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let data = pattern(3, 100 * MIB);
    let file = create(&client, "big").await;
    write_all(&file, &data.slice(..50 * MIB), MIB).await;
    let master = cluster.master.take().unwrap();
    master.shutdown().await.unwrap();
    let (copy, rest) = (file.clone(), data.clone());
    let writing = tokio::spawn(async move {
        for at in (50 * MIB..rest.len()).step_by(MIB) {
            copy.write_at(at as u64, rest.slice(at..at + MIB)).await.unwrap();
        }
        copy.fsync().await.unwrap();
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.start_master().await;
    writing.await.unwrap();
    assert!(read_all(&file).await == data);
    let ino = file.inode();
    file.close().await.unwrap();
    assert_eq!(client.lookup(Inode::ROOT, b"big").await.unwrap().ino, ino);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_written_on_after_its_servers_have_restarted() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let file = create(&client, "a").await;
    let mut data = pattern(4, 3 * MIB).to_vec();
    file.write_at(0, data.clone().into()).await.unwrap();
    file.fsync().await.unwrap();
    for n in 0..3 {
        cluster.servers[n].take().unwrap().shutdown().await;
        cluster.start_server(n).await;
    }
    let more = pattern(5, MIB);
    file.write_at(MIB as u64, more.clone()).await.unwrap();
    data[MIB..2 * MIB].copy_from_slice(&more);
    file.fsync().await.unwrap();
    assert!(read_all(&file).await == data);
    assert_replicas(&client, file.inode(), &data, 3).await;
    cluster.stop().await;
}

/// A record that says whose it is, so that a reader can tell what it has found.
fn record(client: usize, n: usize) -> Bytes {
    let len = [0, 100, 70_000, 700_000, 1_500_000, 20_000, 1_000_000][(client + n) % 7];
    let mut data = format!("{client} {n} ").into_bytes();
    data.extend_from_slice(&pattern((client * 1000 + n) as u64, len));
    data.into()
}

async fn all_records(file: &File) -> Vec<(u64, Bytes)> {
    let mut reader = file.records(0);
    let mut found = vec![];
    while let Some(record) = reader.next().await.unwrap() {
        let last = record.offset + cairn_proto::record::stored_bytes(record.data.len()) - 1;
        assert_eq!(record.offset / CHUNK_SIZE_BYTES, last / CHUNK_SIZE_BYTES, "split");
        found.push((record.offset, record.data));
    }
    found
}

/// Several in flight from each client, over the ends of chunks and the deaths of chunkservers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_5_records_of_many_clients_are_there_once_and_whole() {
    const CLIENTS: usize = 4;
    const RECORDS: usize = 60;
    let mut cluster = Cluster::start(6).await;
    let first = cluster.client().await;
    let ino = create(&first, "records").await.inode();
    let (done, mut appended) = tokio::sync::watch::channel(0);
    let mut clients = vec![];
    for n in 0..CLIENTS {
        let (client, done) = (cluster.client().await, done.clone());
        clients.push(tokio::spawn(async move {
            let file = client.open(ino, OpenMode::READ_WRITE).await.unwrap();
            let appends = (0..RECORDS).map(|i| {
                let (file, done) = (file.clone(), done.clone());
                async move {
                    let data = record(n, i);
                    let offset = file.append_record(data.clone()).await.unwrap();
                    done.send_modify(|n| *n += 1);
                    (offset, data)
                }
            });
            let appended: Vec<(u64, Bytes)> = futures::stream::iter(appends).buffered(5).collect().await;
            // those of one client lie in its order
            assert!(appended.is_sorted_by(|a, b| a.0 < b.0), "client {n}");
            file.close().await.unwrap();
            appended
        }));
    }
    // each time the head of the chunk that is appended to
    for part in 1..=3 {
        let wanted = CLIENTS * RECORDS * part / 4;
        appended.wait_for(|n| *n >= wanted).await.unwrap();
        let chunks = first.locations(ino, 0, 2).await.unwrap();
        let head = &chunks.last().unwrap().members[0].address;
        let found = cluster
            .servers
            .iter()
            .position(|s| s.as_ref().is_some_and(|s| s.address() == head));
        // no goodbye: its connections break
        drop(cluster.servers[found.unwrap()].take());
    }
    let mut appended = vec![];
    for client in clients {
        appended.extend(client.await.unwrap());
    }
    appended.sort();
    let file = first.open(ino, OpenMode::READ).await.unwrap();
    let found = all_records(&file).await;
    let offsets = |all: &[(u64, Bytes)]| all.iter().map(|(offset, _)| *offset).collect::<Vec<_>>();
    assert_eq!(offsets(&found), offsets(&appended));
    assert!(found == appended);
    assert!(found.last().unwrap().0 > CHUNK_SIZE_BYTES, "one chunk held all");
    cluster.stop().await;
}

/// What a mount asks for: whole pages, beyond the end. It knows the end without asking the master, until that is told to
/// have moved.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_beyond_the_end_finds_what_another_has_added_and_closed() {
    let cluster = Cluster::start(3).await;
    let (writer, reader) = (cluster.client().await, cluster.client().await);
    reader.remember_names();
    let file = create(&writer, "grows").await;
    let opened = reader.open(file.inode(), OpenMode::READ).await.unwrap();
    let mut whole = Vec::new();
    for n in 0..50u8 {
        let file = writer.open(file.inode(), OpenMode::READ_WRITE).await.unwrap();
        file.write_at(whole.len() as u64, vec![n; 100].into()).await.unwrap();
        file.close().await.unwrap();
        whole.extend([n; 100]);
        // the first one is told anew, the second knows
        for _ in 0..2 {
            assert_eq!(opened.read_at(0, 1 << 16).await.unwrap(), whole);
        }
    }
    let cut = writer.open(file.inode(), OpenMode::READ_WRITE).await.unwrap();
    cut.truncate(150).await.unwrap();
    assert_eq!(opened.read_at(0, 1 << 16).await.unwrap(), whole[..150]);
    cluster.stop().await;
}

/// A reader follows a file by its position; what another appended is there within a second without anybody's close.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_seen_by_readers_that_follow() {
    let cluster = Cluster::start(3).await;
    let (writer, reader) = (cluster.client().await, cluster.client().await);
    let file = create(&writer, "log").await;
    let follower = reader.open(file.inode(), OpenMode::READ).await.unwrap();
    let mut position = 0;
    for n in 0..5 {
        let data = Bytes::from(format!("line {n}"));
        let offset = file.append_record(data.clone()).await.unwrap();
        let found = async {
            loop {
                let mut records = follower.records(position);
                if let Some(record) = records.next().await.unwrap() {
                    position = records.position();
                    return record;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(10), found).await.unwrap();
        assert_eq!((found.offset, found.data), (offset, data));
    }
    let error = file.append_record(vec![0; (16 << 20) + 1].into()).await.unwrap_err();
    assert_eq!(error.errno(), cairn_client::errno::EMSGSIZE);
    // a truncated file is appended to at its new end
    file.truncate(0).await.unwrap();
    assert_eq!(file.append_record(Bytes::from_static(b"anew")).await.unwrap(), 0);
    assert_eq!(all_records(&file).await, [(0, Bytes::from_static(b"anew"))]);
    cluster.stop().await;
}
