//! Servers as an administrator runs them: units of systemd, disks that belong elsewhere, an older binary on newer files.
use crate::docker::{cairn_on_host, root, run_program};
use cairn_testkit::{Cluster, Process, run, wait_until};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const BINARY: &str = env!("CARGO_BIN_EXE_cairn");
const SOON: Duration = Duration::from_secs(60);

/// The line of /etc/fstab that docs/operations.md gives.
pub fn fstab_line() -> String {
    let documentation = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let line = documentation.lines().find(|line| line.contains("_netdev,nofail"));
    line.unwrap().to_owned()
}

/// Of one that is of another format, or cut short, rustc warns and makes nothing.
#[test]
fn the_profile_of_the_build_that_ships_is_one_that_rustc_takes() {
    let script = fs::read_to_string(root().join("deploy/build.sh")).unwrap();
    assert!(script.contains("-Cprofile-use=$here/profile/cairn.profdata"));
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("one.rs");
    fs::write(&source, "pub fn one() -> u32 { 1 }").unwrap();
    let object = directory.path().join("one.o");
    let compile = |profile: &Path| {
        let profile = format!("-Cprofile-use={}", profile.display());
        let (source, object) = (source.to_str().unwrap(), object.to_str().unwrap());
        run_program(
            "rustc",
            &["--crate-type=lib", "--emit=obj", &profile, "-o", object, source],
        )
    };
    let profile = root().join("deploy/profile/cairn.profdata");
    let compiled = compile(&profile);
    assert!(compiled.ok() && compiled.stderr.is_empty(), "{}", compiled.stderr);
    let bytes = fs::read(&profile).unwrap();
    let half = directory.path().join("half");
    fs::write(&half, &bytes[..bytes.len() / 2]).unwrap();
    let refused = compile(&half).stderr;
    assert!(refused.contains("profile"), "{refused:?}");
}

/// A line is two places in functions, how often a branch between them was mispredicted, and how often it was taken.
#[test]
fn the_profile_for_bolt_is_whole_and_of_branches() {
    let script = fs::read_to_string(root().join("deploy/build.sh")).unwrap();
    assert!(script.contains("$here/profile/cairn.fdata.xz"));
    let profile = root().join("deploy/profile/cairn.fdata.xz");
    let unpacked = run_program("xz", &["-dc", profile.to_str().unwrap()]);
    assert!(unpacked.ok(), "{}", unpacked.stderr);
    let of_branch = |line: &&str| {
        let fields: Vec<_> = line.split(' ').collect();
        let [_, _, from, _, _, to, _, taken] = fields[..] else {
            return false;
        };
        let place = |offset| u64::from_str_radix(offset, 16).is_ok();
        place(from) && place(to) && taken.parse::<u64>().is_ok()
    };
    let text = unpacked.text();
    let lines: Vec<_> = text.lines().collect();
    let branches = lines.iter().filter(|line| of_branch(line)).count();
    assert_eq!(branches, lines.len());
    // of Cairn's own code too
    assert!(branches > 10_000 && lines.iter().any(|line| line.contains("cairn_chunkserver")));
}

#[test]
fn the_units_of_systemd_are_sound() {
    if !Path::new("/usr/bin/systemd-analyze").exists() {
        return cairn_testkit::skip("the_units_of_systemd_are_sound", "systemd-analyze is missing");
    }
    let directory = tempfile::tempdir().unwrap();
    let mut units = vec![];
    for entry in fs::read_dir(root().join("deploy/systemd")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("/usr/bin/cairn"), "{}", path.display());
        let name = path.file_name().unwrap().to_str().unwrap();
        let instance = directory.path().join(name.replace('@', "@mnt-cairn"));
        // where it is on this machine, so that its absence is no finding
        fs::write(&instance, text.replace("/usr/bin/cairn", BINARY)).unwrap();
        units.push(instance);
    }
    assert_eq!(units.len(), 3);
    let mut args = vec!["verify"];
    args.extend(units.iter().map(|unit| unit.to_str().unwrap()));
    let verified = run_program("systemd-analyze", &args);
    // unknown settings are only warnings, with exit code 0
    let of_ours = |line: &&str| {
        units
            .iter()
            .any(|u| line.contains(u.file_name().unwrap().to_str().unwrap()))
    };
    let findings: Vec<_> = verified.stderr.lines().filter(of_ours).collect();
    assert!(verified.ok() && findings.is_empty(), "{}", verified.stderr);
}

/// What systemd makes of the line at boot: a mount that waits for the network, and whose failure nothing else suffers.
#[test]
fn the_documented_line_of_fstab_does_not_hold_up_the_boot() {
    let generator = Path::new("/usr/lib/systemd/system-generators/systemd-fstab-generator");
    if !generator.exists() {
        let test = "the_documented_line_of_fstab_does_not_hold_up_the_boot";
        return cairn_testkit::skip(test, "systemd-fstab-generator is missing");
    }
    let directory = tempfile::tempdir().unwrap();
    let fstab = directory.path().join("fstab");
    fs::write(&fstab, fstab_line() + "\n").unwrap();
    let environment = [("SYSTEMD_FSTAB", fstab.to_str().unwrap().to_owned())];
    let made = run(generator, &[directory.path(); 3], &environment, b"", SOON).unwrap();
    assert!(made.ok(), "{}", made.stderr);
    let unit = fs::read_to_string(directory.path().join("mnt-cairn.mount")).unwrap();
    for line in ["Type=cairn", "Options=_netdev,nofail"] {
        assert!(unit.lines().any(|l| l == line), "no {line}: {unit}");
    }
    let wanted = |how: &str| {
        directory
            .path()
            .join(format!("remote-fs.target.{how}/mnt-cairn.mount"))
            .exists()
    };
    assert!(wanted("wants") && !wanted("requires"));
}

#[test]
fn a_chunkserver_of_another_cluster_is_refused_with_both_ids_and_its_disk() {
    let mut one = Cluster::builder(BINARY).chunkservers(1).start().unwrap();
    let other = Cluster::builder(BINARY).chunkservers(1).start().unwrap();
    let id = |cluster: &Cluster| cluster.status().unwrap()["cluster"].as_str().unwrap().to_owned();
    let ids = [id(&one), id(&other)];
    assert_ne!(ids[0], ids[1]);
    one.stop_all().unwrap();

    let disk = one.disks(0)[0].clone();
    let args = [
        "chunkserver",
        "--listen=127.0.0.1:0",
        "--master",
        &other.master_address(),
        "--disk",
    ];
    let mut args: Vec<_> = args.map(Into::into).to_vec();
    args.push(disk.clone().into());
    let mut lost = Process::new("lost", Path::new(BINARY), args, other.root().join("lost.log"));
    lost.start().unwrap();
    wait_until("the refusal in its log", SOON, || {
        let log = lost.log();
        let refusal = log.lines().find(|line| line.contains("does not take this server"));
        Ok(refusal.map(|line| {
            for part in [&ids[0], &ids[1], disk.to_str().unwrap()] {
                assert!(line.contains(part), "no {part}: {line}");
            }
        }))
    })
    .unwrap();
    assert!(lost.terminate().unwrap().success());
    assert_eq!(other.status().unwrap()["servers"].as_array().unwrap().len(), 1);
}

#[test]
fn files_of_a_newer_format_are_refused_by_their_names_and_left_as_they_are() {
    let mut cluster = Cluster::builder(BINARY).chunkservers(1).start().unwrap();
    cluster.cairn(["touch", "/file"]).unwrap();
    cluster.stop_all().unwrap();
    let data = cluster.root().join("master");
    for folder in ["checkpoints", "log"] {
        let of_newer = newer_format(&data.join(folder));
        let refused = cairn_on_host(&["master", "--listen=127.0.0.1:0", "--data", data.to_str().unwrap()]);
        assert!(!refused.ok(), "{}", refused.stderr);
        for part in [of_newer[0].0.to_str().unwrap(), "has format 99"] {
            assert!(refused.stderr.contains(part), "no {part}: {}", refused.stderr);
        }
        for (path, bytes, older) in of_newer {
            assert_eq!(fs::read(&path).unwrap(), bytes, "{} was changed", path.display());
            fs::write(&path, older).unwrap();
        }
    }
    cluster.start_all().unwrap();
    assert_eq!(cluster.cairn(["ls", "/"]).unwrap().trim(), "file");
}

/// Gives every file of a folder format 99, by the place where all of the master's have their format. Sorted, newest
/// first; each with what is in it now, and what was.
fn newer_format(folder: &Path) -> Vec<(PathBuf, Vec<u8>, Vec<u8>)> {
    let mut files = vec![];
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let older = fs::read(&path).unwrap();
        let mut newer = older.clone();
        newer[8..12].copy_from_slice(&99u32.to_le_bytes());
        fs::write(&path, &newer).unwrap();
        files.push((path, newer, older));
    }
    assert!(!files.is_empty(), "nothing in {}", folder.display());
    files.sort_by(|a, b| b.0.cmp(&a.0));
    files
}

#[test]
fn a_client_that_cannot_reach_the_advertised_address_names_it_and_the_setting() {
    let cluster = Cluster::builder(BINARY).chunkservers(1);
    let cluster = cluster
        .set("master.default-goal", "1")
        .set("chunkserver.advertise", "127.0.0.1:1");
    let cluster = cluster.start().unwrap();
    let args = ["--set", "client.timeout=5s", "cp", "-", "cairn:/file"];
    let refused = cluster.cairn_with_input(args, b"some bytes").unwrap();
    assert!(!refused.ok());
    for part in ["127.0.0.1:1", "chunkserver.advertise"] {
        assert!(refused.stderr.contains(part), "no {part}: {}", refused.stderr);
    }
}
