//! What several tests need.
use cairn_testkit::{Builder, Cluster, Process};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub const SOON: Duration = Duration::from_secs(60);
pub const MIB: usize = 1 << 20;

/// A cluster with short times, so that tests need not wait for what users may.
pub fn cluster() -> Builder {
    Cluster::builder(env!("CARGO_BIN_EXE_cairn"))
        .set("master.repair-delay", "1s")
        .set("master.lease", "2s")
        .set("master.heartbeat", "300ms")
}

/// Bytes that look random and follow from `seed`: two blocks of them are never the same.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    while bytes.len() < len {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend(state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Writes a file of noise below the cluster's root.
pub fn noise_file(cluster: &Cluster, name: &str, len: usize, seed: u64) -> PathBuf {
    let path = cluster.root().join(name);
    std::fs::write(&path, noise(len, seed)).unwrap();
    path
}

pub fn put(cluster: &Cluster, from: &Path, to: &str) {
    cluster
        .cairn(["cp", from.to_str().unwrap(), &format!("cairn:{to}")])
        .unwrap();
}

/// `cairn cp FROM TO`, started and not waited for.
pub fn start_put(cluster: &Cluster, from: &Path, to: &str) -> Process {
    let args = [
        "cp",
        "--master",
        &cluster.master_address(),
        from.to_str().unwrap(),
        &format!("cairn:{to}"),
    ];
    let args = args.iter().map(Into::into).collect();
    let log = cluster.root().join("logs/cp.log");
    let mut process = Process::new("cp", Path::new(env!("CARGO_BIN_EXE_cairn")), args, log);
    process.start().unwrap();
    process
}

/// The file's bytes, as `cairn cat` gives them.
pub fn get(cluster: &Cluster, path: &str) -> Vec<u8> {
    let output = cluster.try_cairn(["cat", path]).unwrap();
    assert!(output.ok(), "cat {path}: {}", output.stderr);
    output.stdout
}

/// Compares without printing megabytes.
pub fn assert_same(found: &[u8], expected: &[u8]) {
    assert_eq!(found.len(), expected.len());
    let differ = found.iter().zip(expected).position(|(a, b)| a != b);
    assert_eq!(differ, None, "first byte that differs");
}

/// The servers that hold each chunk of a file.
pub fn holders(cluster: &Cluster, path: &str) -> Vec<Vec<String>> {
    let chunks = cluster.chunks(path).unwrap();
    let servers = chunks.iter().map(|chunk| {
        let replicas = chunk["replicas"].as_array().expect("replicas").iter();
        let mut servers: Vec<String> = replicas.map(|r| r["server"].as_str().unwrap().to_owned()).collect();
        servers.sort();
        servers.dedup();
        servers
    });
    servers.collect()
}

/// All disks of all chunkservers.
pub fn disks(cluster: &Cluster) -> Vec<PathBuf> {
    (0..cluster.chunkservers.len())
        .flat_map(|n| cluster.disks(n).to_vec())
        .collect()
}

/// A file system of its own for a chunkserver's disk, that is soon full. Dropped, it is unmounted.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`: this user may not mount, and the test says that it is skipped; under CAIRN_CI it fails.
    pub fn mount(at: &Path, bytes: usize) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let status = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
            .arg(at)
            .status()
            .unwrap();
        if status.success() {
            return Some(Self(at.to_owned()));
        }
        assert!(std::env::var_os("CAIRN_CI").is_none(), "mount tmpfs: {status}");
        eprintln!("SKIPPED: no small disk can be mounted (it needs root)");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // its server may still run
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
