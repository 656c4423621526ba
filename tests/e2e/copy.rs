//! Files in and out through `cairn cp`.
use crate::support::{MIB, assert_same, cluster, disks, get, holders, noise, noise_file, put};
use cairn_testkit::check_chunks;

/// Bar 1, small: every chunk has three replicas on three servers, whose data and tables agree.
#[test]
fn a_large_file_comes_back_whole_and_lies_in_three_copies() {
    let cluster = cluster().start().unwrap();
    let file = noise_file(&cluster, "big", 150 * MIB + 12_345, 1);
    put(&cluster, &file, "/big");
    let back = cluster.root().join("back");
    cluster.cairn(["cp", "cairn:/big", back.to_str().unwrap()]).unwrap();
    assert_same(&std::fs::read(back).unwrap(), &std::fs::read(file).unwrap());

    let holders = holders(&cluster, "/big");
    assert_eq!(holders.len(), 3);
    assert!(holders.iter().all(|servers| servers.len() == 3), "{holders:?}");
    let chunks = check_chunks(disks(&cluster)).unwrap();
    let bytes: u64 = chunks.values().map(|replicas| replicas[0].length).sum();
    assert_eq!((chunks.len(), bytes), (3, 150 * (1 << 20) + 12_345));
    assert!(chunks.values().all(|replicas| replicas.len() == 3));
}

#[test]
fn standard_input_and_output_are_files_too() {
    let cluster = cluster().start().unwrap();
    let bytes = noise(3 * MIB + 1, 2);
    let output = cluster.cairn_with_input(["cp", "-", "cairn:/piped"], &bytes).unwrap();
    assert!(output.ok(), "{}", output.stderr);
    let output = cluster.try_cairn(["cp", "cairn:/piped", "-"]).unwrap();
    assert!(output.ok(), "{}", output.stderr);
    assert_same(&output.stdout, &bytes);
    let output = cluster.cairn_with_input(["cp", "-", "cairn:/empty"], b"").unwrap();
    assert!(output.ok(), "{}", output.stderr);
    assert_eq!(get(&cluster, "/empty"), b"");
}

#[test]
fn a_tree_comes_back_as_it_was() {
    let cluster = cluster().start().unwrap();
    let tree = cluster.root().join("tree");
    for n in 0..40usize {
        let directory = tree.join(format!("d{}/e{}", n % 4, n % 3));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(format!("f{n}")), noise(n * 7_001, n as u64)).unwrap();
    }
    std::os::unix::fs::symlink("d0/e0", tree.join("link")).unwrap();
    cluster
        .cairn(["cp", "-r", tree.to_str().unwrap(), "cairn:/tree"])
        .unwrap();
    let back = cluster.root().join("back");
    cluster
        .cairn(["cp", "-r", "cairn:/tree", back.to_str().unwrap()])
        .unwrap();
    let diff = std::process::Command::new("diff")
        .args(["-r", "--no-dereference"])
        .arg(&tree)
        .arg(&back)
        .output()
        .unwrap();
    assert!(diff.status.success(), "{}", String::from_utf8_lossy(&diff.stdout));
}
