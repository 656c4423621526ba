//! What deploy/ and docs/operations.md promise.
//!
//! Containers come from the users' own deploy/Dockerfile and deploy/docker-compose.yml. The image's last stage is
//! deploy/Dockerfile.prebuilt: the binary under test in the runtime stage. The compose file is taken as it is but for its
//! addresses, so that a cluster that runs on this machine is left alone.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests live in the real world"
)]
mod cluster;
mod docker;
mod services;

use cluster::{Compose, MASTER_INSIDE, MASTER_ON_HOST};
use docker::{IMAGE, cairn_on_host, docker, ready, sha256, try_docker};

/// Three chunks.
const MIB: usize = 150;
const CHUNKS: usize = 3;

#[test]
fn a_file_outlives_a_killed_and_a_cut_off_container_and_gets_its_copies_back() {
    let Some(_alone) = ready("a_file_outlives_a_killed_and_a_cut_off_container_and_gets_its_copies_back") else {
        return;
    };
    let cluster = Compose::up();
    let before = cluster.write_noise("/mnt/cairn/before", MIB);
    cluster.wait_goal("/before", CHUNKS);
    // clients on this host reach the servers at the addresses that the master gives them
    assert_eq!(cluster.host_sha256("/before"), before);

    cluster.kill("chunkserver1");
    // two of three are enough to write
    let between = cluster.write_noise("/mnt/cairn/between", MIB);
    cluster.cut_off("chunkserver2");
    cluster.wait_servers_up(1);
    assert_eq!(cluster.mount_sha256("/mnt/cairn/before"), before);
    assert_eq!(cluster.mount_sha256("/mnt/cairn/between"), between);

    cluster.compose(&["start", "chunkserver1"]);
    cluster.reconnect("chunkserver2", "172.30.77.12");
    cluster.wait_servers_up(3);
    cluster.wait_goal("/before", CHUNKS);
    cluster.wait_goal("/between", CHUNKS);
    cluster.wait_containers_healthy();
    assert_eq!(cluster.mount_sha256("/mnt/cairn/before"), before);
    assert_eq!(cluster.host_sha256("/between"), between);
}

#[test]
fn down_and_up_finds_everything_and_the_host_sees_the_mount() {
    let test = "down_and_up_finds_everything_and_the_host_sees_the_mount";
    let Some(_alone) = ready(test) else {
        return;
    };
    let Some(shared) = docker::SharedDirectory::new() else {
        return cairn_testkit::skip(test, "only root may share a mount with containers");
    };
    let mut cluster = Compose::up();
    let sum = cluster.write_noise("/mnt/cairn/kept", 3);
    let id = cluster.status()["cluster"].clone();
    cluster.up_again_with_host_mount(shared.path());
    assert_eq!(cluster.status()["cluster"], id);
    assert_eq!(sha256(&shared.path().join("fs/kept")), sum);
}

#[test]
fn the_documented_line_of_fstab_mounts() {
    let Some(_alone) = ready("the_documented_line_of_fstab_mounts") else {
        return;
    };
    let line = services::fstab_line();
    let (source, place) = ("192.168.1.5:7600", "/mnt/cairn");
    assert!(line.contains(source) && line.contains(place), "{line}");
    let line = line.replace(source, MASTER_INSIDE).replace(place, "/mnt/fstab");

    let cluster = Compose::up();
    cluster.bash(&format!(
        "echo '{line}' >> /etc/fstab; mkdir /mnt/fstab; mount /mnt/fstab"
    ));
    cluster.bash("echo by fstab > /mnt/fstab/file; grep -q 'by fstab' /mnt/cairn/file");
    // there already: nothing to do
    cluster.bash("mount -a -t cairn; test $(grep -c ' /mnt/fstab ' /proc/mounts) = 1");
    cluster.bash("umount /mnt/fstab; ! grep ' /mnt/fstab ' /proc/mounts");
    // a master that is away is named
    cluster.bash(
        "echo '127.0.0.1:1 /mnt/fstab cairn _netdev,nofail 0 0' > /etc/fstab
         if mount /mnt/fstab 2> /tmp/said; then exit 1; fi
         grep 127.0.0.1:1 /tmp/said",
    );
}

#[test]
fn a_bind_mounted_folder_of_root_is_refused_with_the_remedy() {
    let Some(_alone) = ready("a_bind_mounted_folder_of_root_is_refused_with_the_remedy") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let volume = format!("{}:/var/lib/cairn/chunks", folder.path().display());
    // one that does start ends too
    let entry = ["--entrypoint=timeout", IMAGE, "60", "cairn", "chunkserver"];
    let output = try_docker(&[&["run", "--rm", "--network=none", "--volume", &volume][..], &entry].concat());
    assert!(!output.ok());
    for part in ["/var/lib/cairn/chunks", "uid 7600", "chown -R 7600:7600"] {
        assert!(output.stderr.contains(part), "no {part}: {}", output.stderr);
    }
}

#[test]
fn a_container_whose_server_does_not_answer_is_not_healthy() {
    let Some(_alone) = ready("a_container_whose_server_does_not_answer_is_not_healthy") else {
        return;
    };
    let cluster = Compose::up();
    // the image needs no other tool for it
    docker(&[
        "exec",
        &cluster.container("master"),
        "cairn",
        "health",
        "127.0.0.1:7600",
    ]);
    assert!(cairn_on_host(&["health", MASTER_ON_HOST]).ok());
    cluster.compose(&["pause", "master"]);
    let asked = cairn_on_host(&["health", "--timeout=2s", MASTER_ON_HOST]);
    cluster.compose(&["unpause", "master"]);
    assert!(!asked.ok(), "a stopped process is said to serve");
    assert!(asked.stderr.contains(MASTER_ON_HOST), "{}", asked.stderr);
}
