use crate::command::{self, Output, words};
use crate::logs;
use crate::mount::Mount;
use crate::port::Port;
use crate::process::Process;
use crate::wait::wait_until;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// Within this every server of a fresh cluster answers.
const START: Duration = Duration::from_secs(30);
/// No command of a test takes longer.
const COMMAND: Duration = Duration::from_secs(300);

/// A cluster of real processes on 127.0.0.1: one master, chunkservers, and mounts where asked for, below one temporary
/// directory (`master/`, `cs0/disk0/`, ..., `logs/`), which is kept when the test fails.
pub struct Cluster {
    binary: PathBuf,
    directory: Option<TempDir>,
    root: PathBuf,
    settings: Vec<(String, String)>,
    pub master: Process,
    pub chunkservers: Vec<Process>,
    disks: Vec<Vec<PathBuf>>,
    master_port: Port,
    ports: Vec<[Port; 2]>,
    mounts: usize,
    allowed_errors: Vec<String>,
}

/// What a cluster is made of.
pub struct Builder {
    binary: PathBuf,
    chunkservers: usize,
    disks: usize,
    settings: Vec<(String, String)>,
}

impl Builder {
    #[must_use]
    pub fn chunkservers(mut self, n: usize) -> Self {
        self.chunkservers = n;
        self
    }

    /// Disks of each chunkserver.
    #[must_use]
    pub fn disks(mut self, n: usize) -> Self {
        self.disks = n;
        self
    }

    /// A setting of every process, as `--set SECTION.KEY=VALUE`.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Starts everything, and waits until every chunkserver is registered.
    pub fn start(self) -> Result<Cluster> {
        let directory = tempfile::Builder::new().prefix("cairn-test-").tempdir()?;
        let root = directory.path().to_owned();
        std::fs::create_dir_all(root.join("logs"))?;
        let master_port = Port::take()?;
        let master = Process::new("master", &self.binary, vec![], root.join("logs/master.log"));
        let mut cluster = Cluster {
            binary: self.binary,
            directory: Some(directory),
            root,
            settings: self.settings,
            master,
            chunkservers: vec![],
            disks: vec![],
            master_port,
            ports: vec![],
            mounts: 0,
            allowed_errors: vec![],
        };
        let args = [
            "master".into(),
            "--data".into(),
            cluster.root.join("master").into(),
            "--listen".into(),
            cluster.master_address().into(),
        ];
        let args = cluster.with_settings(args);
        cluster.master.add_args(args);
        cluster.master.start()?;
        for _ in 0..self.chunkservers {
            cluster.add_chunkserver(self.disks)?;
        }
        if self.chunkservers == 0 {
            // safe mode waits for some
            cluster.wait_status("the master's answer", START, |_| true)?;
        } else {
            cluster.wait_servers(self.chunkservers, START)?;
        }
        Ok(cluster)
    }
}

impl Cluster {
    /// Three chunkservers of one disk each, of the binary `cairn` (`env!("CARGO_BIN_EXE_cairn")` in its own tests).
    pub fn builder(binary: impl Into<PathBuf>) -> Builder {
        Builder {
            binary: binary.into(),
            chunkservers: 3,
            disks: 1,
            settings: vec![],
        }
    }

    fn with_settings(&self, args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
        let mut args: Vec<OsString> = args.into_iter().collect();
        args.extend(["--log-format".into(), "json".into()]);
        for (key, value) in &self.settings {
            args.extend(["--set".into(), format!("{key}={value}").into()]);
        }
        args
    }

    /// Adds and starts a chunkserver, without waiting for it; its number.
    pub fn add_chunkserver(&mut self, disks: usize) -> Result<usize> {
        let n = self.chunkservers.len();
        let ports = [Port::take()?, Port::take()?];
        let disks: Vec<PathBuf> = (0..disks).map(|d| self.root.join(format!("cs{n}/disk{d}"))).collect();
        let mut args: Vec<OsString> = vec!["chunkserver".into(), "--master".into(), self.master_address().into()];
        for disk in &disks {
            std::fs::create_dir_all(disk)?;
            args.extend(["--disk".into(), disk.into()]);
        }
        for (flag, port) in ["--listen", "--health-listen"].iter().zip(&ports) {
            args.extend([flag.into(), port.address().to_string().into()]);
        }
        let label = format!("zone/rack{n}/host{n}");
        args.extend(["--label".into(), label.into()]);
        let log = self.root.join(format!("logs/cs{n}.log"));
        let mut process = Process::new(&format!("cs{n}"), &self.binary, self.with_settings(args), log);
        process.start()?;
        self.chunkservers.push(process);
        self.disks.push(disks);
        self.ports.push(ports);
        Ok(n)
    }

    pub fn master_address(&self) -> String {
        self.master_port.address().to_string()
    }

    /// The address of a chunkserver's data plane.
    pub fn chunkserver_address(&self, n: usize) -> String {
        self.ports[n][0].address().to_string()
    }

    /// The directories of a chunkserver's disks.
    pub fn disks(&self, n: usize) -> &[PathBuf] {
        &self.disks[n]
    }

    /// Scratch space that goes with the cluster.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// An ERROR in a log that contains `part` is expected by this test.
    pub fn allow_error(&mut self, part: &str) {
        self.allowed_errors.push(part.to_owned());
    }

    /// Runs `cairn ARGS` against this cluster, whatever comes of it.
    pub fn try_cairn<S: AsRef<OsStr>>(&self, args: impl AsRef<[S]>) -> Result<Output> {
        self.cairn_with_input(args, b"")
    }

    pub fn cairn_with_input<S: AsRef<OsStr>>(&self, args: impl AsRef<[S]>, stdin: &[u8]) -> Result<Output> {
        let env = [("CAIRN_MASTER", self.master_address())];
        command::run(&self.binary, args.as_ref(), &env, stdin, COMMAND)
    }

    /// Runs `cairn ARGS`, which must succeed; its standard output.
    pub fn cairn<S: AsRef<OsStr>>(&self, args: impl AsRef<[S]>) -> Result<String> {
        let args = args.as_ref();
        let output = self.try_cairn(args)?;
        ensure!(
            output.ok(),
            "cairn {:?}: {:?}\n{}{}",
            words(args),
            output.code,
            output.text(),
            output.stderr
        );
        Ok(output.text())
    }

    pub fn json<S: AsRef<OsStr>>(&self, args: impl AsRef<[S]>) -> Result<Value> {
        let text = self.cairn(args)?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// `cairn admin status --json`.
    pub fn status(&self) -> Result<Value> {
        self.json(["admin", "status", "--json"])
    }

    /// Waits until the status is as wanted.
    pub fn wait_status(&self, what: &str, deadline: Duration, good: impl Fn(&Value) -> bool) -> Result<Value> {
        wait_until(what, deadline, || {
            let status = self.status()?;
            if !good(&status) {
                bail!("status: {status}");
            }
            Ok(Some(status))
        })
    }

    /// Waits until exactly `n` chunkservers are up.
    pub fn wait_servers(&self, n: usize, deadline: Duration) -> Result<Value> {
        self.wait_status(&format!("{n} chunkservers up"), deadline, |status| {
            let servers = status["servers"].as_array().map(Vec::as_slice).unwrap_or_default();
            servers.iter().filter(|server| server["up"] == true).count() == n && status["safe_mode"] != true
        })
    }

    /// Waits until every chunk has its goal of replicas and nothing is under way.
    pub fn wait_healthy(&self, deadline: Duration) -> Result<Value> {
        self.wait_status("a healthy cluster", deadline, |status| {
            let health = &status["health"];
            let none = |key: &str| health[key].as_u64().unwrap_or(0) == 0;
            !health.is_null()
                && ["under_goal", "endangered", "lost", "reconfiguring"]
                    .into_iter()
                    .all(none)
        })
    }

    /// The chunks of a file: `cairn chunks --json PATH`.
    pub fn chunks(&self, path: &str) -> Result<Vec<Value>> {
        let listing = self.json(["chunks", "--json", path])?;
        listing["chunks"]
            .as_array()
            .cloned()
            .with_context(|| format!("no chunks in {listing}"))
    }

    /// Mounts the cluster in a directory of its own; `args` as `cairn mount` takes them.
    pub fn mount(&mut self, args: &[&str]) -> Result<Mount> {
        let n = self.mounts;
        self.mounts += 1;
        let path = self.root.join(format!("mnt{n}"));
        let mut all: Vec<OsString> = vec!["mount".into(), "--master".into(), self.master_address().into()];
        all.extend(args.iter().map(OsString::from));
        all.push(path.clone().into());
        let log = self.root.join(format!("logs/mnt{n}.log"));
        let process = Process::new(&format!("mnt{n}"), &self.binary, self.with_settings(all), log);
        Mount::start(process, path, START)
    }

    /// kill -9 of every server.
    pub fn kill_all(&mut self) -> Result<()> {
        self.master.kill()?;
        self.chunkservers.iter_mut().try_for_each(Process::kill)
    }

    /// Starts every server that does not run, and waits until all are registered.
    pub fn start_all(&mut self) -> Result<()> {
        for server in std::iter::once(&mut self.master).chain(&mut self.chunkservers) {
            if !server.is_running() {
                server.start()?;
            }
        }
        self.wait_servers(self.chunkservers.len(), START)?;
        Ok(())
    }

    /// SIGTERM to every server, chunkservers first; each must end by itself with success.
    pub fn stop_all(&mut self) -> Result<()> {
        for server in self.chunkservers.iter_mut().chain([&mut self.master]) {
            if server.is_running() {
                let status = server.terminate()?;
                ensure!(status.success(), "{} ended with {status}", server.name());
            }
        }
        Ok(())
    }

    /// Unexpected errors in all logs, each with its file's name.
    pub fn unexpected_errors(&self) -> Vec<String> {
        let mut found = vec![];
        let logs = std::fs::read_dir(self.root.join("logs"))
            .into_iter()
            .flatten()
            .flatten();
        let mut logs: Vec<PathBuf> = logs.map(|entry| entry.path()).collect();
        logs.sort();
        for path in logs {
            let log = std::fs::read(&path).unwrap_or_default();
            let errors = logs::errors(&String::from_utf8_lossy(&log), &self.allowed_errors);
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            found.extend(errors.into_iter().map(|e| format!("{name}: {e}")));
        }
        found
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for server in self.chunkservers.iter_mut().chain([&mut self.master]) {
            // what cannot be killed now dies with this thread
            let _ = server.kill();
        }
        let failed = std::thread::panicking();
        let errors = self.unexpected_errors();
        if failed || !errors.is_empty() {
            let kept = self.directory.take().map(TempDir::keep);
            eprintln!("the cluster's files are kept: {}", kept.unwrap_or_default().display());
            for server in self.chunkservers.iter().chain([&self.master]) {
                eprintln!("--- {}\n{}", server.name(), logs::tail(&server.log(), 30));
            }
        }
        assert!(
            failed || errors.is_empty(),
            "unexpected errors in the logs:\n{}",
            errors.join("\n")
        );
    }
}
