//! The cluster of deploy/docker-compose.yml, at addresses of its own.
use crate::docker::{IMAGE, cairn_on_host, compose_command, docker, root, sha256};
use cairn_testkit::{run, wait_until};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

const PROJECT: &str = "cairn-test";
const NETWORK: &str = "cairn-test_cairn";
const SERVICES: [&str; 5] = ["master", "chunkserver1", "chunkserver2", "chunkserver3", "client"];
/// What the users' file says, and what stands in its place here.
const ADDRESSES: [(&str, &str); 2] = [("172.30.76.", "172.30.77."), (":-127.0.0.1}", ":-127.0.77.1}")];
/// The master as clients on this host reach it.
pub const MASTER_ON_HOST: &str = "127.0.77.1:7600";
/// The master on the containers' network.
pub const MASTER_INSIDE: &str = "172.30.77.10:7600";
const COMMAND: Duration = Duration::from_secs(300);
const START: Duration = Duration::from_secs(120);

/// Dropped, it is taken down with its volumes.
pub struct Compose {
    directory: TempDir,
    files: Vec<PathBuf>,
    environment: Vec<(&'static str, String)>,
}

impl Compose {
    /// A new cluster, healthy.
    pub fn up() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut text = fs::read_to_string(root().join("deploy/docker-compose.yml")).unwrap();
        for (users, ours) in ADDRESSES {
            assert!(text.contains(users), "deploy/docker-compose.yml has no {users}");
            text = text.replace(users, ours);
        }
        let file = directory.path().join("docker-compose.yml");
        fs::write(&file, text).unwrap();
        let cluster = Self {
            directory,
            files: vec![file],
            environment: vec![("CAIRN_IMAGE", IMAGE.into())],
        };
        // what a run that was killed has left
        cluster.compose(&["down", "--volumes", "--timeout=1"]);
        cluster.start();
        cluster
    }

    /// `docker-compose down`, and up again with its mount shown on the host below `directory`.
    pub fn up_again_with_host_mount(&mut self, directory: &Path) {
        self.compose(&["down"]);
        self.files.push(root().join("deploy/docker-compose.host-mount.yml"));
        self.environment
            .push(("CAIRN_MOUNT", directory.to_str().unwrap().into()));
        self.start();
    }

    fn start(&self) {
        self.compose(&["up", "--detach", "--no-build"]);
        self.wait_containers_healthy();
    }

    /// `docker-compose ARGS`, which must succeed.
    pub fn compose(&self, args: &[&str]) -> String {
        let words = compose_command().unwrap();
        let mut all: Vec<&str> = words[1..].to_vec();
        all.extend(["--project-name", PROJECT]);
        for file in &self.files {
            all.extend(["--file", file.to_str().unwrap()]);
        }
        all.extend(args);
        let output = run(Path::new(words[0]), &all, &self.environment, b"", COMMAND).unwrap();
        assert!(output.ok(), "compose {args:?}: {}{}", output.text(), output.stderr);
        output.text().trim().to_owned()
    }

    pub fn container(&self, service: &str) -> String {
        let id = self.compose(&["ps", "--all", "--quiet", service]);
        assert!(!id.is_empty(), "no container of {service}");
        id
    }

    pub fn wait_containers_healthy(&self) {
        let containers = SERVICES.map(|service| self.container(service));
        wait_until("every container healthy", START, || {
            let mut args = vec!["inspect", "--format", "{{.Name}} {{.State.Health.Status}}"];
            args.extend(containers.iter().map(String::as_str));
            let states = docker(&args);
            match states.lines().all(|line| line.ends_with(" healthy")) {
                true => Ok(Some(())),
                false => anyhow::bail!("{states}"),
            }
        })
        .unwrap();
    }

    /// Runs a script in the client's container; what it printed. It must succeed.
    pub fn bash(&self, script: &str) -> String {
        let client = self.container("client");
        docker(&["exec", &client, "bash", "-euo", "pipefail", "-c", script])
    }

    /// Writes random bytes to a new file below the client's mount; their SHA-256, taken before they reach the mount.
    pub fn write_noise(&self, path: &str, mib: usize) -> String {
        first_word(&self.bash(&format!("head -c {mib}M /dev/urandom | tee {path} | sha256sum")))
    }

    /// The SHA-256 of a file below the client's mount, read past the page cache.
    pub fn mount_sha256(&self, path: &str) -> String {
        first_word(&self.bash(&format!("dd if={path} iflag=direct bs=1M status=none | sha256sum")))
    }

    /// The SHA-256 of a file that `cairn cp` on this host copies out.
    pub fn host_sha256(&self, path: &str) -> String {
        let copy = self.directory.path().join("copy");
        let from = format!("cairn:{path}");
        let output = cairn_on_host(&[
            "cp",
            "--force",
            "--master",
            MASTER_ON_HOST,
            &from,
            copy.to_str().unwrap(),
        ]);
        assert!(output.ok(), "{}", output.stderr);
        sha256(&copy)
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(&self.bash("cairn admin status --json")).unwrap()
    }

    pub fn wait_servers_up(&self, n: usize) {
        wait_until(&format!("{n} chunkservers up"), START, || {
            let status = self.status();
            let up = status["servers"].as_array().into_iter().flatten();
            match up.filter(|server| server["up"] == true).count() == n {
                true => Ok(Some(())),
                false => anyhow::bail!("{status}"),
            }
        })
        .unwrap();
    }

    /// Waits until every chunk of a file has sound replicas on three servers.
    pub fn wait_goal(&self, path: &str, chunks: usize) {
        wait_until(&format!("three replicas of each chunk of {path}"), START, || {
            let listing: Value = serde_json::from_str(&self.bash(&format!("cairn chunks --json {path}")))?;
            let all = listing["chunks"].as_array().map(Vec::as_slice).unwrap_or_default();
            let sound = |chunk: &&Value| {
                let replicas = chunk["replicas"].as_array().into_iter().flatten();
                let sound = replicas.filter(|r| r["state"] == "ok" && r["up"] == true);
                sound.map(|r| r["server"].to_string()).collect::<BTreeSet<_>>().len() == 3
            };
            match all.len() == chunks && all.iter().filter(sound).count() == chunks {
                true => Ok(Some(())),
                false => anyhow::bail!("{listing}"),
            }
        })
        .unwrap();
    }

    /// `docker kill`: SIGKILL, and the restart policy leaves it down.
    pub fn kill(&self, service: &str) {
        docker(&["kill", &self.container(service)]);
    }

    /// Cuts a container off from the network; its processes go on.
    pub fn cut_off(&self, service: &str) {
        docker(&["network", "disconnect", NETWORK, &self.container(service)]);
    }

    /// The other way round, at the address that the compose file gives it.
    pub fn reconnect(&self, service: &str, address: &str) {
        docker(&["network", "connect", "--ip", address, NETWORK, &self.container(service)]);
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let words = compose_command().unwrap_or(&["docker-compose"]);
            let file = self.files[0].to_str().unwrap_or_default();
            let args = [
                &words[1..],
                &["--project-name", PROJECT, "--file", file, "logs", "--tail=40"],
            ]
            .concat();
            match run(Path::new(words[0]), &args, &self.environment, b"", COMMAND) {
                Ok(logs) => eprintln!("{}{}", logs.text(), logs.stderr),
                Err(e) => eprintln!("no logs: {e:#}"),
            }
        }
        self.compose(&["down", "--volumes", "--timeout=5"]);
    }
}

fn first_word(text: &str) -> String {
    text.split_whitespace().next().unwrap_or_default().to_owned()
}
