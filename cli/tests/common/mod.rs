//! A cluster of `cairn up` for one test, on ports of its own, and commands against it.
#![allow(dead_code, clippy::disallowed_methods)]
use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(60);

pub struct Cluster {
    pub directory: tempfile::TempDir,
    up: Option<Child>,
    options: Vec<String>,
    pub address: String,
}

impl Cluster {
    pub fn start() -> Self {
        Self::start_with(&["up"])
    }

    /// `cairn OPTIONS`, the first of which is `up`.
    pub fn start_with(options: &[&str]) -> Self {
        let mut cluster = Self {
            directory: tempfile::tempdir().unwrap(),
            up: None,
            options: options.iter().map(|o| (*o).to_owned()).collect(),
            address: String::new(),
        };
        cluster.up();
        cluster
    }

    /// Starts it, again on the same data.
    pub fn up(&mut self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("up.log"))
            .unwrap();
        let address_file = self.path("data/master/address");
        let _ = std::fs::remove_file(&address_file);
        let child = Command::new(env!("CARGO_BIN_EXE_cairn"))
            .args(&self.options)
            .args(["--listen", "127.0.0.1:0", "--data"])
            .arg(self.path("data"))
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.up = Some(child);
        let started = Instant::now();
        let already = self.log().matches("Cairn is up").count();
        while self.log().matches("Cairn is up").count() == already {
            let exited = self.up.as_mut().unwrap().try_wait().unwrap();
            assert!(
                exited.is_none() && started.elapsed() < START,
                "did not start: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        self.address = std::fs::read_to_string(address_file).unwrap().trim().to_owned();
    }

    /// Sends SIGTERM and waits; gives the exit code.
    pub fn stop(&mut self) -> Option<i32> {
        let mut up = self.up.take()?;
        signal(&up, "TERM");
        let started = Instant::now();
        loop {
            if let Some(status) = up.try_wait().unwrap() {
                return status.code();
            }
            if started.elapsed() > STOP {
                let _ = up.kill();
                let _ = up.wait();
                panic!("did not stop: {}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("up.log")).unwrap_or_default()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A local file; gives its path.
    pub fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    pub fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
        command
            .args(args)
            .current_dir(self.directory.path())
            .env("CAIRN_MASTER", &self.address)
            .env_remove("CAIRN_CONFIG")
            .stdin(Stdio::null());
        command
    }

    pub fn output<S: AsRef<OsStr>>(&self, args: &[S], stdin: &[u8]) -> Output {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let stdin = stdin.to_vec();
        // from a thread, since the command may write before it has read all
        let writer = std::thread::spawn(move || {
            let _ = input.write_all(&stdin);
        });
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output
    }

    /// Standard output of a command that succeeds.
    pub fn ok(&self, args: &[&str]) -> String {
        String::from_utf8(self.ok_bytes(args, b"")).unwrap()
    }

    pub fn ok_bytes(&self, args: &[&str], stdin: &[u8]) -> Vec<u8> {
        let output = self.output(args, stdin);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "cairn {args:?}: {said}\n{}", self.log());
        output.stdout
    }

    /// Standard error of one that fails with exit code 1.
    pub fn fails(&self, args: &[&str]) -> String {
        let output = self.output(args, b"");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "cairn {args:?}: {said}");
        assert!(said.starts_with("cairn: ") && !said.contains("panicked"), "{said}");
        said
    }

    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.ok(args)).unwrap()
    }

    /// A file in the cluster with these bytes.
    pub fn put(&self, path: &str, bytes: impl AsRef<[u8]>) {
        self.ok_bytes(&["cp", "-", &format!("cairn:{path}")], bytes.as_ref());
    }

    pub fn get(&self, path: &str) -> Vec<u8> {
        self.ok_bytes(&["cat", path], b"")
    }

    /// The names in a directory.
    pub fn names(&self, path: &str) -> Vec<String> {
        self.ok(&["ls", "-a", path]).lines().map(ToOwned::to_owned).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut up) = self.up.take() {
            signal(&up, "TERM");
            let started = Instant::now();
            while matches!(up.try_wait(), Ok(None)) {
                if started.elapsed() > STOP {
                    let _ = up.kill();
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        if std::thread::panicking() {
            eprintln!("the cluster's log:\n{}", self.log());
        }
    }
}

pub fn signal(child: &Child, name: &str) {
    let _ = Command::new("kill")
        .args([&format!("-{name}"), &child.id().to_string()])
        .status();
}

/// Bytes that are the same for the same seed and never repeat within a file.
pub fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

pub fn mode_of(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

pub fn mtime_of(path: &Path) -> i64 {
    use std::os::unix::fs::MetadataExt;
    let m = std::fs::symlink_metadata(path).unwrap();
    m.mtime() * 1_000_000_000 + m.mtime_nsec()
}
