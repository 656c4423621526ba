//! What users of such systems meet in their first hour (docs/first-hour.md), as a cluster of real processes has it.
use crate::support::{MIB, SOON, SmallDisk, assert_same, cluster, get, holders, noise, noise_file, put};
use cairn_testkit::{Cluster, wait_until};
use std::io::Write;
use std::path::Path;

fn fails(cluster: &Cluster, args: &[&str]) -> String {
    let output = cluster.try_cairn(args).unwrap();
    assert_eq!(output.code, Some(1), "{args:?}: {}", output.stderr);
    output.stderr
}

fn names(cluster: &Cluster) -> Vec<String> {
    let listing = cluster.cairn(["ls", "-a", "/"]).unwrap();
    listing.lines().map(ToOwned::to_owned).collect()
}

/// Lines 7 and 8.
#[test]
fn full_disks_are_no_space_left_and_cost_nothing_that_was_stored() {
    let mut cluster = cluster()
        .chunkservers(0)
        .set("master.trash-keep", "0s")
        .set("master.gc-grace", "1s")
        .set("master.session-timeout", "10s")
        .start()
        .unwrap();
    cluster.allow_error("no space");
    let mut small = vec![];
    for n in 0..3 {
        let Some(disk) = SmallDisk::mount(&cluster.root().join(format!("cs{n}/disk0")), 48 * MIB) else {
            return;
        };
        small.push(disk);
        cluster.add_chunkserver(1).unwrap();
    }
    cluster.wait_servers(3, SOON).unwrap();
    let before = noise_file(&cluster, "before", 8 * MIB, 1);
    put(&cluster, &before, "/before");
    let too_big = noise_file(&cluster, "too-big", 60 * MIB, 2);

    let said = fails(&cluster, &["cp", too_big.to_str().unwrap(), "cairn:/too-big"]);
    assert!(
        said.contains("/too-big: ") && said.to_lowercase().contains("no space"),
        "{said}"
    );
    assert_eq!(names(&cluster), ["before"], "no half file is left");

    let mount = cluster.mount(&[]).unwrap();
    let mut file = std::fs::File::create(mount.path().join("too-big")).unwrap();
    let written = file.write_all(&noise(60 * MIB, 2)).and_then(|()| file.sync_all());
    assert_eq!(written.unwrap_err().raw_os_error(), Some(28), "ENOSPC");
    drop(file);
    std::fs::remove_file(mount.path().join("too-big")).unwrap();
    mount.unmount().unwrap();
    assert_same(&get(&cluster, "/before"), &std::fs::read(&before).unwrap());

    // the space comes back, and is used again
    let after = noise_file(&cluster, "after", 30 * MIB, 3);
    wait_until("room for 30 MiB", SOON, || {
        let copied = cluster.try_cairn(["cp", after.to_str().unwrap(), "cairn:/after"])?;
        Ok(copied.ok().then_some(()))
    })
    .unwrap();
    assert_same(&get(&cluster, "/after"), &std::fs::read(&after).unwrap());
    // it may have been written to two servers, where the third had not told yet of the space that it has again
    wait_until("nothing wrong", SOON, || {
        let found = cluster.try_cairn(["fsck", "/"])?;
        Ok(found.text().contains("nothing wrong").then_some(()))
    })
    .unwrap();
}

/// Line 7.
#[test]
fn when_one_disk_is_full_other_servers_take_its_place() {
    let mut cluster = cluster().start().unwrap();
    cluster.allow_error("no space");
    let Some(_small) = SmallDisk::mount(&cluster.root().join("cs3/disk0"), 16 * MIB) else {
        return;
    };
    cluster.add_chunkserver(1).unwrap();
    cluster.wait_servers(4, SOON).unwrap();
    for n in 0..4u64 {
        let file = noise_file(&cluster, "in", 30 * MIB, n);
        put(&cluster, &file, &format!("/f{n}"));
        assert_same(&get(&cluster, &format!("/f{n}")), &noise(30 * MIB, n));
    }
    cluster.wait_healthy(SOON).unwrap();
    for n in 0..4 {
        let holders = holders(&cluster, &format!("/f{n}"));
        assert!(holders.iter().all(|servers| servers.len() == 3), "{holders:?}");
    }
}

/// Lines 11 and 22.
#[test]
fn fewer_servers_than_wanted_copies_is_said_with_the_cause_and_never_silent() {
    let mut cluster = cluster().chunkservers(2).start().unwrap();
    cluster.allow_error("a write was lost");
    let file = noise_file(&cluster, "a", 1000, 1);
    put(&cluster, &file, "/a");
    let because = "wants 3, has 2, because there are no more servers";
    wait_until("the cause in the status", SOON, || {
        let status = cluster.cairn(["admin", "status"])?;
        Ok((status.contains("1 under goal") && status.contains(because)).then_some(()))
    })
    .unwrap();
    assert!(cluster.cairn(["chunks", "/a"]).unwrap().contains(because));
    let fsck = cluster.try_cairn(["fsck", "/"]).unwrap();
    assert_eq!(fsck.code, Some(1));
    assert!(
        fsck.text().contains("/a: chunk 0") && fsck.text().contains(because),
        "{}",
        fsck.text()
    );

    // below the minimum nothing is acknowledged
    cluster.chunkservers[0].kill().unwrap();
    cluster.wait_servers(1, SOON).unwrap();
    let said = fails(&cluster, &["cp", "--timeout", "5s", file.to_str().unwrap(), "cairn:/b"]);
    assert!(
        said.contains("/b: ") && said.contains("at least 2 are needed"),
        "{said}"
    );
    assert_eq!(names(&cluster), ["a"]);
}

/// Line 10.
#[test]
fn a_hundred_thousand_names_in_one_directory_are_listed() {
    const NAMES: usize = 100_000;
    let cluster = cluster().chunkservers(0).start().unwrap();
    cluster.cairn(["mkdir", "/many"]).unwrap();
    std::thread::scope(|scope| {
        for part in 0..8 {
            let cluster = &cluster;
            scope.spawn(move || {
                let paths = (0..NAMES).filter(|n| n % 8 == part).map(|n| format!("/many/d{n:06}"));
                let args: Vec<String> = std::iter::once("mkdir".into()).chain(paths).collect();
                cluster.cairn(args).unwrap();
            });
        }
    });
    let listing = cluster.cairn(["ls", "/many"]).unwrap();
    let names: Vec<&str> = listing.lines().collect();
    assert_eq!(names.len(), NAMES);
    assert!(names.is_sorted() && names[NAMES - 1] == "d099999");
}

/// Line 6.
#[test]
fn a_directory_that_a_server_may_not_use_is_named_with_its_uid_and_the_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let binary = directory.path().join("cairn");
    let private = directory.path().join("private");
    std::fs::copy(env!("CARGO_BIN_EXE_cairn"), &binary).unwrap();
    std::fs::create_dir(&private).unwrap();
    set_mode(directory.path(), 0o755);
    set_mode(&private, 0o700);
    for (verb, flag) in [("master", "--data"), ("chunkserver", "--disk")] {
        let output = std::process::Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&binary)
            .args([verb, "--listen", "127.0.0.1:0", flag])
            .arg(&private)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        let remedy = format!("chown -R 65534:65534 {}", private.display());
        assert!(
            said.contains("uid 65534") && said.contains(&remedy) && said.contains(flag),
            "{said}"
        );
    }
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}
