//! Who may do what, as the kernel judges it; and extended attributes.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]
mod common;

use common::cluster::Place;
use common::{root, sh, sh_output};
use rustix::fs::XattrFlags;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// Runs a script as another user, in `d`, and gives what it printed and whether each line of it succeeded.
fn as_user(d: &Path, identity: &str, script: &str) -> String {
    let lines: Vec<_> = script
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .map(|line| format!("( {line} ) 2>&1 && echo ok || echo no"))
        .collect();
    let script = lines.join("\n").replace('\'', "'\\''");
    let said = sh(&format!("cd '{}' && setpriv {identity} sh -c '{script}'", d.display()));
    said.replace(d.to_str().unwrap(), "DIR")
}

fn users() -> bool {
    let can = root() && sh_output("command -v setpriv").status.success();
    if !can {
        eprintln!("SKIPPED: needs root and setpriv to become other users");
    }
    can
}

const ALICE: &str = "--reuid=2001 --regid=2001 --clear-groups";
const BOB_IN_STAFF: &str = "--reuid=2002 --regid=2002 --groups=3000";

#[test]
fn another_user_gets_what_the_modes_give() {
    let Some(place) = Place::new("modes") else { return };
    if !users() {
        return;
    }
    place.same(|d| {
        for (name, mode, owner) in [
            ("private", 0o600, 0),
            ("public", 0o644, 0),
            ("hers", 0o600, 2001),
            ("write", 0o622, 0),
        ] {
            let path = d.join(name);
            fs::write(&path, name).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            std::os::unix::fs::chown(&path, Some(owner), Some(owner)).unwrap();
        }
        fs::create_dir(d.join("closed")).unwrap();
        fs::write(d.join("closed/file"), "").unwrap();
        fs::set_permissions(d.join("closed"), PermissionsExt::from_mode(0o700)).unwrap();
        let said = as_user(
            d,
            ALICE,
            "cat private
             cat public
             cat hers
             echo more >> public
             echo more >> write
             echo more >> hers
             cat closed/file
             ls closed
             chmod 666 public
             chmod 640 hers
             chown 0 hers
             mkdir own && echo mine > own/file && cat own/file
             test -r private
             test -w write
             rm -f private
             touch -d @5 public
             touch write",
        );
        let own = fs::metadata(d.join("own/file")).unwrap();
        (said, own.uid(), own.gid(), own.mode())
    });
}

#[test]
fn supplementary_groups_count() {
    let Some(place) = Place::new("groups") else { return };
    if !users() {
        return;
    }
    place.same(|d| {
        fs::write(d.join("shared"), "team\n").unwrap();
        std::os::unix::fs::chown(d.join("shared"), Some(0), Some(3000)).unwrap();
        fs::set_permissions(d.join("shared"), PermissionsExt::from_mode(0o660)).unwrap();
        fs::create_dir(d.join("team")).unwrap();
        std::os::unix::fs::chown(d.join("team"), Some(0), Some(3000)).unwrap();
        fs::set_permissions(d.join("team"), PermissionsExt::from_mode(0o2770)).unwrap();
        let bob = as_user(
            d,
            BOB_IN_STAFF,
            "cat shared
             test -r shared && test -w shared
             test -x shared
             echo bob >> shared
             echo x > team/file && mkdir team/sub
             echo x > own && chgrp 3000 own
             chgrp 3001 own",
        );
        let alice = as_user(d, ALICE, "cat shared\ntest -r shared\nls team");
        let stat = |name: &str| {
            let m = fs::metadata(d.join(name)).unwrap();
            (m.uid(), m.gid(), m.mode())
        };
        // a setgid directory gives its group to what is made in it, and the bit to directories
        (bob, alice, [stat("team/file"), stat("team/sub"), stat("own")])
    });
}

#[test]
fn sticky_directories_protect_others_names() {
    let Some(place) = Place::new("sticky") else { return };
    if !users() {
        return;
    }
    place.same(|d| {
        fs::create_dir(d.join("tmp")).unwrap();
        fs::set_permissions(d.join("tmp"), PermissionsExt::from_mode(0o1777)).unwrap();
        let alice = as_user(d, ALICE, "echo a > tmp/alice && chmod 666 tmp/alice");
        let bob = as_user(
            d,
            BOB_IN_STAFF,
            "cat tmp/alice\nrm -f tmp/alice\nmv tmp/alice tmp/bob\necho b > tmp/bob && mv tmp/bob tmp/alice",
        );
        (alice, bob, fs::read_to_string(d.join("tmp/alice")).unwrap())
    });
}

#[test]
fn writes_and_cuts_by_the_unprivileged_take_setuid_and_setgid_away() {
    let Some(place) = Place::new("suid") else { return };
    if !users() {
        return;
    }
    place.same(|d| {
        let fresh = |name: &str| {
            let path = d.join(name);
            fs::write(&path, "program").unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(0o6777)).unwrap();
        };
        let names = ["written", "appended", "cut", "emptied", "read", "timed", "owned"];
        names.into_iter().for_each(fresh);
        let said = as_user(
            d,
            ALICE,
            "printf x | dd of=written conv=notrunc status=none
             echo x >> appended
             truncate -s 3 cut
             : > emptied
             cat read
             touch timed",
        );
        std::os::unix::fs::chown(d.join("owned"), Some(5), Some(5)).unwrap();
        fresh("by root");
        let by_root = fs::File::options().write(true).open(d.join("by root")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&by_root, b"x", 0).unwrap();
        let mode = |name: &str| format!("{name} {:o}", fs::metadata(d.join(name)).unwrap().mode());
        (said, names.map(mode), mode("by root"))
    });
}

#[test]
fn a_setuid_bit_that_another_mount_gave_goes_with_the_next_write() {
    let Some(place) = Place::new("remote_suid") else { return };
    if !users() {
        return;
    }
    let path = place.path().join("program");
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).unwrap();
    let d = place.path();
    let writer = std::thread::spawn(move || {
        let script = "exec 3>>program; : > opened; while [ ! -e given ]; do sleep 0.05; done; echo x >&3";
        as_user(&d, ALICE, script)
    });
    while !place.other().join("opened").exists() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    fs::set_permissions(place.other().join("program"), PermissionsExt::from_mode(0o6777)).unwrap();
    fs::write(place.other().join("given"), "").unwrap();
    assert_eq!(writer.join().unwrap(), "ok");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o777);
}

#[test]
fn the_umask_is_honoured() {
    let Some(place) = Place::new("umask") else { return };
    place.same(|d| {
        sh(&format!(
            "cd '{}' && umask 027 && echo > file && mkdir dir && mkfifo fifo",
            d.display()
        ));
        ["file", "dir", "fifo"].map(|name| fs::metadata(d.join(name)).unwrap().mode())
    });
}

type Xattr = Result<Vec<u8>, i32>;

fn get(path: &Path, name: &str) -> Xattr {
    let mut value = vec![0; 70_000];
    match rustix::fs::getxattr(path, name, &mut value[..]) {
        Ok(n) => Ok(value[..n].to_vec()),
        Err(e) => Err(e.raw_os_error()),
    }
}

fn set(path: &Path, name: &str, value: &[u8], flags: XattrFlags) -> Result<(), i32> {
    rustix::fs::setxattr(path, name, value, flags).map_err(|e| e.raw_os_error())
}

fn names(path: &Path) -> Vec<String> {
    let mut buffer = vec![0; 70_000];
    let n = rustix::fs::listxattr(path, &mut buffer[..]).unwrap();
    let mut names: Vec<_> = buffer[..n].split(|b| *b == 0).filter(|n| !n.is_empty()).collect();
    names.sort_unstable();
    names
        .iter()
        .map(|n| String::from_utf8(n.to_vec()).unwrap())
        .filter(|n| n != "security.selinux")
        .collect()
}

#[test]
fn extended_attributes_are_kept_listed_and_removed() {
    let Some(place) = Place::new("xattrs") else { return };
    place.same(|d| {
        let path = d.join("file");
        fs::write(&path, "").unwrap();
        fs::create_dir(d.join("dir")).unwrap();
        let results = vec![
            set(&path, "user.one", b"1", XattrFlags::empty()),
            set(&path, "user.one", b"again", XattrFlags::CREATE),
            set(&path, "user.two", b"2", XattrFlags::REPLACE),
            set(&path, "user.two", b"", XattrFlags::CREATE),
            set(&path, "user.one", b"uno", XattrFlags::REPLACE),
            set(&path, "user.bytes", &[0, 255, 10], XattrFlags::empty()),
            set(&path, "user.large", &[7; 1000], XattrFlags::empty()),
            set(&d.join("dir"), "user.dir", b"d", XattrFlags::empty()),
            set(&path, "unknown.name", b"x", XattrFlags::empty()),
        ];
        let values = ["user.one", "user.two", "user.bytes", "user.large", "user.absent"].map(|n| get(&path, n));
        let mut small = [0; 2];
        let short = rustix::fs::getxattr(&path, "user.one", &mut small[..]).map_err(|e| e.raw_os_error());
        let short_list = rustix::fs::listxattr(&path, &mut small[..]).map_err(|e| e.raw_os_error());
        let size = rustix::fs::getxattr(&path, "user.large", &mut [0; 0][..]).map_err(|e| e.raw_os_error());
        let listed = names(&path);
        let removed = ["user.one", "user.one"].map(|n| rustix::fs::removexattr(&path, n).map_err(|e| e.raw_os_error()));
        fs::rename(&path, d.join("moved")).unwrap();
        (
            results,
            values,
            (short, short_list, size),
            listed,
            removed,
            names(&d.join("moved")),
            names(&d.join("dir")),
        )
    });
    let other = place.other().join("moved");
    assert_eq!(get(&other, "user.large"), Ok(vec![7; 1000]));
    assert_eq!(set(&other, "user.most", &[1; 65536], XattrFlags::empty()), Ok(()));
    assert_eq!(get(&place.path().join("moved"), "user.most"), Ok(vec![1; 65536]));
}

#[test]
fn access_control_lists_are_not_supported_and_say_so() {
    let Some(place) = Place::new("acl") else { return };
    // a directory, since only directories have a default list
    let path = place.path();
    let eopnotsupp = rustix::io::Errno::OPNOTSUPP.raw_os_error();
    for name in ["system.posix_acl_access", "system.posix_acl_default"] {
        assert_eq!(get(&path, name), Err(eopnotsupp), "{name}");
        let acl = [
            2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 4, 0, 4, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255,
        ];
        assert_eq!(set(&path, name, &acl, XattrFlags::empty()), Err(eopnotsupp), "{name}");
    }
}

#[test]
fn trusted_attributes_are_roots() {
    let Some(place) = Place::new("trusted") else { return };
    if !users() {
        return;
    }
    place.same(|d| {
        let path = d.join("file");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
        let stored = [
            set(&path, "trusted.secret", b"s", XattrFlags::empty()),
            set(&path, "user.plain", b"p", XattrFlags::empty()),
        ];
        let script = "import os; print(sorted(n for n in os.listxattr(\"file\") if n != \"security.selinux\"))";
        let python = sh_output("command -v python3").status.success();
        let seen = python.then(|| as_user(d, ALICE, &format!("python3 -c '{script}'")));
        (stored, get(&path, "trusted.secret"), names(&path), seen)
    });
}
