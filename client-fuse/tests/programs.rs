//! What people run on a mount, at a size that fits here; the whole sizes are in tests/bars/2-workloads.sh.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]
mod common;

use common::cluster::Place;
use common::{sh, sh_output};
use std::fs;
use std::path::Path;

fn installed(program: &str) -> bool {
    let found = sh_output(&format!("command -v {program}")).status.success();
    if !found {
        eprintln!("SKIPPED: {program} is not installed");
    }
    found
}

#[test]
fn git_clones_commits_packs_and_finds_nothing_wrong() {
    let Some(place) = Place::new("git") else { return };
    if !installed("git") {
        return;
    }
    let (on_mount, local) = (place.path(), place.local().to_owned());
    let said = sh(&format!(
        "set -e
        export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
        export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
        cd '{local}' && git init -q src && cd src
        for d in 1 2 3 4 5; do mkdir d$d; for f in 1 2 3 4 5 6 7 8; do echo $d $f > d$d/f$f; done; done
        git add -A && git commit -qm first
        cd '{mount}' && git clone -q --no-hardlinks '{local}/src' clone && cd clone
        echo more >> d1/f1 && git mv d2/f2 d2/moved && rm d3/f3 && git commit -qam second
        git checkout -q -b other HEAD~1 && echo other > d4/f4 && git commit -qam third && git merge -q -m merge -
        git fsck --full --strict 2>&1
        git gc -q --prune=now && git fsck --full --strict 2>&1
        git status --porcelain
        git log --oneline | wc -l",
        local = local.display(),
        mount = on_mount.display()
    ));
    assert_eq!(said, "4");
    // as the other mount has it
    let other = place.other().join("clone");
    let said = sh(&format!(
        "git -c safe.directory='*' -C '{}' fsck --full --strict 2>&1",
        other.display()
    ));
    assert_eq!(said, "");
}

#[test]
fn sqlite_keeps_its_database_whole_under_two_writers() {
    let Some(place) = Place::new("sqlite") else { return };
    if !installed("sqlite3") {
        return;
    }
    let path = place.path().join("test.db");
    let run = |statements: &str| {
        let script = format!("printf '%s' \"{statements}\" | sqlite3 -bail '{}'", path.display());
        sh(&script)
    };
    for mode in ["delete", "truncate", "persist"] {
        let _ = fs::remove_file(&path);
        run(&format!(
            "pragma journal_mode={mode}; create table t(k, i); create index x on t(k, i);"
        ));
        std::thread::scope(|s| {
            for k in 0..2 {
                let run = &run;
                s.spawn(move || {
                    for i in 0..10 {
                        run(&format!(
                            ".timeout 60000\nbegin immediate; insert into t values ({k}, {i}); insert into t values ({k}, {i}); commit;"
                        ));
                    }
                });
            }
        });
        let found = run("pragma integrity_check; select count(*), count(distinct k * 100 + i) from t;");
        assert_eq!(found, "ok\n40|20", "journal_mode={mode}");
    }
}

/// Bytes, modes, owners, times, links and holes.
#[test]
fn archives_and_copies_keep_everything() {
    let Some(place) = Place::new("archives") else { return };
    let script = |d: &Path| {
        sh(&format!(
            "set -e
            cd '{}' && mkdir -p tree/sub && cd tree
            printf 'plain' > plain && chmod 640 plain && touch -d '2001-02-03 04:05:06.123456789' plain
            printf '#!/bin/sh\\necho ran\\n' > sub/run && chmod 755 sub/run
            ln plain hard && ln -s sub/run soft && mkfifo fifo
            truncate -s 3000000 sparse && printf end >> sparse
            chmod 751 sub && touch -d '1999-12-31' sub
            cd .. && cp -a tree copied && tar cf - tree | (mkdir untarred && tar xpf - -C untarred)
            diff -r --exclude=fifo tree copied && diff -r --exclude=fifo tree untarred/tree
            for t in tree copied untarred/tree; do
                (cd $t && find . ! -type d -printf '%p %y %m %n %s %T@ %l\\n' -o -path ./sub -printf '%p %m %T@\\n' | grep -v soft | sort)
                $t/soft
            done",
            d.display()
        ))
    };
    // what was not given a time has that of its making
    let explicit = |text: String| {
        let kept = |l: &&str| ["plain", "hard", "./sub ", "ran"].iter().any(|word| l.contains(word));
        text.lines().filter(kept).map(str::to_owned).collect::<Vec<_>>()
    };
    place.same(|d| explicit(script(d)));
}
