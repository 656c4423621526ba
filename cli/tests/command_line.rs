//! The command line and the configuration, as a user meets them, without a cluster.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::expect_used)]
use std::path::Path;
use std::process::{Command, Output, Stdio};

const SECTIONS: [&str; 5] = ["master", "chunkserver", "mount", "client", "log"];
const VERBS: [&str; 29] = [
    "up",
    "master",
    "chunkserver",
    "mount",
    "health",
    "ls",
    "stat",
    "chunks",
    "cat",
    "cp",
    "mkdir",
    "rm",
    "mv",
    "ln",
    "du",
    "df",
    "chmod",
    "chown",
    "touch",
    "head",
    "tail",
    "find",
    "goal",
    "fsck",
    "trash",
    "admin",
    "config",
    "completions",
    "help",
];

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
    command
        .args(args)
        .stdin(Stdio::null())
        .env_remove("CAIRN_MASTER")
        .env_remove("CAIRN_CONFIG");
    command
}

fn run(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Standard output of a command that succeeds.
fn out(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Exit code and standard error of one that fails.
fn fails(args: &[&str]) -> (i32, String) {
    let output = run(args);
    assert!(!output.status.success(), "{args:?} succeeded: {}", text(&output.stdout));
    let said = text(&output.stderr);
    assert!(
        !said.contains("panicked") && !said.contains("stack backtrace"),
        "{said}"
    );
    (output.status.code().unwrap(), said)
}

fn file(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn every_verb_has_help_with_examples() {
    let all = out(&["--help"]);
    for verb in VERBS {
        assert!(all.contains(&format!("\n  {verb} ")), "{verb} is not in --help");
        if verb == "help" {
            continue;
        }
        let help = out(&[verb, "--help"]);
        assert!(help.contains("Examples:"), "{verb}: {help}");
        assert!(help.contains(&format!("cairn {verb}")), "{verb}: {help}");
    }
    assert!(out(&["--version"]).starts_with("cairn 0."));
}

#[test]
fn wrong_use_is_told_with_exit_code_2() {
    for args in [
        &[][..],
        &["nonsense"],
        &["ls", "--nonsense"],
        &["cp", "one"],
        &["cp", "/a", "/b"],
        &["cp", "-", "-"],
        &["up", "--chunkservers", "0"],
        &["health", "no-port"],
        &["health", "--timeout", "soon", "127.0.0.1:1"],
        &["goal", "set", "9", "/x"],
        &["trash", "empty"],
        &["admin", "scrub"],
    ] {
        assert_eq!(fails(args).0, 2, "{args:?}");
    }
    // found before anybody is asked
    let (_, said) = fails(&["cp", "/a", "/b"]);
    assert!(said.contains("cairn:/path"), "{said}");
}

#[test]
fn without_a_cluster_the_error_names_the_address_and_the_next_step() {
    // nobody listens on port 1
    let (code, said) = fails(&["ls", "--master", "127.0.0.1:1", "--client-nonsense"]);
    assert_eq!(code, 2, "{said}");
    let (code, said) = fails(&["ls", "--master", "127.0.0.1:1", "/"]);
    assert_eq!(code, 1);
    assert!(
        said.contains("127.0.0.1:1") && said.contains("cairn up") && said.contains("CAIRN_MASTER"),
        "{said}"
    );
    let (code, said) = fails(&["admin", "status", "--master", "127.0.0.1:1"]);
    assert_eq!(code, 1);
    assert!(said.contains("127.0.0.1:1"), "{said}");
    let (code, said) = fails(&["health", "127.0.0.1:1"]);
    assert_eq!(code, 1);
    assert!(said.starts_with("cairn: 127.0.0.1:1: no answer"), "{said}");
    let (code, said) = fails(&["health", "--quiet", "127.0.0.1:1"]);
    assert_eq!((code, said.as_str()), (1, ""));
}

#[test]
fn layers_stand_over_each_other_from_default_to_flag() {
    let directory = tempfile::tempdir().unwrap();
    let config = file(
        directory.path(),
        "c.toml",
        "[client]\nmaster = \"file:1\"\n[log]\nlevel = \"warn\"\n",
    );
    let value = |command: &mut Command| {
        let shown = text(&command.output().unwrap().stdout);
        let line = shown
            .lines()
            .find(|l| l.starts_with("client.master "))
            .unwrap()
            .to_owned();
        line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(value(&mut command(&["config", "show"])), "127.0.0.1:7600 default");
    let with_file = ["config", "show", "--config", &config];
    assert_eq!(value(&mut command(&with_file)), format!("file:1 {config}:2"));
    assert_eq!(
        value(command(&["config", "show"]).env("CAIRN_CONFIG", &config)),
        format!("file:1 {config}:2")
    );
    assert_eq!(
        value(command(&with_file).env("CAIRN_MASTER", "short:2")),
        "short:2 environment CAIRN_MASTER"
    );
    let mut both = command(&with_file);
    both.env("CAIRN_MASTER", "short:2").env("CAIRN_CLIENT_MASTER", "long:3");
    assert_eq!(value(&mut both), "long:3 environment CAIRN_CLIENT_MASTER");
    let flag = ["config", "show", "--config", &config, "--set", "client.master=flag:4"];
    assert_eq!(
        value(command(&flag).env("CAIRN_CLIENT_MASTER", "long:3")),
        "flag:4 flag --set client.master"
    );
}

#[test]
fn every_setting_can_be_set_in_file_environment_and_flag() {
    let directory = tempfile::tempdir().unwrap();
    let shown = out(&["config", "show", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let settings = shown["settings"].as_array().unwrap();
    assert!(settings.len() > 40);
    let mut toml: std::collections::BTreeMap<&str, String> = std::collections::BTreeMap::new();
    let mut other_values = vec![];
    for setting in settings {
        let (key, value) = (setting["key"].as_str().unwrap(), setting["value"].as_str().unwrap());
        let (section, name) = key.split_once('.').unwrap();
        assert!(SECTIONS.contains(&section));
        // another value of the same kind
        let other = match (name, value) {
            ("level", _) => "debug",
            ("format", _) => "json",
            ("disk", _) => "/elsewhere",
            ("data", _) => "/elsewhere",
            ("label", _) => "zone/rack/host",
            ("listen" | "health-listen", _) => "127.0.0.1:9999",
            ("master" | "advertise", _) => "elsewhere:9999",
            ("reserve", _) => "2.5%",
            ("allow-other" | "read-only", _) => "true",
            ("threads", _) => "5",
            ("attr-timeout" | "entry-timeout", _) => "7s",
            (_, v) if v.ends_with('B') => "16MiB",
            (_, v) if v.ends_with(|c: char| c.is_ascii_alphabetic()) => "1234ms",
            (_, v) if v.parse::<u64>().is_ok() => "4",
            other => panic!("no other value for {key}: {other:?}"),
        };
        let quoted = if other.parse::<u64>().is_ok() || other == "true" {
            other.into()
        } else {
            format!("{other:?}")
        };
        toml.entry(section)
            .or_insert_with(|| format!("[{section}]\n"))
            .push_str(&format!("{name} = {quoted}\n"));
        other_values.push((key.to_owned(), other));
    }
    let config = file(directory.path(), "all.toml", &toml.into_values().collect::<String>());
    let mut by_env = command(&["config", "show", "--json"]);
    let mut by_flag = command(&["config", "show", "--json"]);
    for (key, other) in &other_values {
        by_env.env(format!("CAIRN_{}", key.replace(['.', '-'], "_").to_uppercase()), other);
        by_flag.args(["--set", &format!("{key}={other}")]);
    }
    let by_file = command(&["config", "show", "--json", "--config", &config]);
    for (how, mut command) in [("file", by_file), ("environment", by_env), ("flag", by_flag)] {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{how}: {}", text(&output.stderr));
        let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        for ((key, other), setting) in other_values.iter().zip(shown["settings"].as_array().unwrap()) {
            let value = setting["value"].as_str().unwrap();
            let same = value == *other || value == format!("[\"{other}\"]");
            assert!(same, "{how} {key}: {value} instead of {other}");
            let origin = setting["origin"].as_str().unwrap();
            let expected = if how == "file" { "all.toml:" } else { how };
            assert!(origin.contains(expected), "{key}: {origin}");
        }
    }
}

#[test]
fn config_check_names_line_cause_and_the_nearest_name() {
    let directory = tempfile::tempdir().unwrap();
    let good = file(directory.path(), "good.toml", "[master]\nlisten = \"127.0.0.1:7700\"\n");
    assert_eq!(out(&["config", "check", &good]), format!("{good}: no errors\n"));
    for (toml, expected) in [
        (
            "[master]\nlisen = \"127.0.0.1:1\"\n",
            ":2: unknown key `master.lisen`; did you mean `master.listen`?",
        ),
        ("[mister]\n", ":1: unknown section `mister`; did you mean `master`?"),
        (
            "[master]\n\nlisten = \"localhost\"\n",
            ":3: master.listen = \"localhost\": expected an IP address",
        ),
        ("[master\n", ":1: not TOML"),
        ("[master]\nheartbeat = \"4s\"\n", "at most a third of master.lease"),
        (
            "[chunkserver]\nlisten = \"0.0.0.0:7610\"\n",
            "set chunkserver.advertise",
        ),
        ("[log]\nlevel = \"=,=\"\n", "log.level"),
        ("[master]\ndefault-goal = 0\n", "goals are from 1 to 8"),
    ] {
        let bad = file(directory.path(), "bad.toml", toml);
        let (code, said) = fails(&["config", "check", &bad]);
        assert_eq!(code, 1, "{toml}");
        assert!(said.contains(expected), "{toml}: {said}");
        assert!(said.contains(&bad), "{toml}: {said}");
    }
    let (code, said) = fails(&["config", "check", "/nowhere/cairn.toml"]);
    assert_eq!(code, 1);
    assert!(said.contains("/nowhere/cairn.toml"), "{said}");
    // a server does not start over it either
    let bad = file(directory.path(), "bad.toml", "[master]\nlisen = 1\n");
    assert_eq!(fails(&["master", "--config", &bad]).0, 1);
}

#[test]
fn the_shown_toml_is_one_that_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let shown = out(&["config", "show", "--toml"]);
    assert!(shown.contains("# listen = \"127.0.0.1:7600\""), "{shown}");
    // with every default as a setting: uncommented, but for those that are unset
    let all: String = shown
        .lines()
        .map(|l| match l.strip_prefix("# ") {
            Some(setting) if setting.contains(" = ") && !setting.contains("\"\"") && !setting.ends_with('.') => {
                format!("{setting}\n")
            }
            _ => format!("{l}\n"),
        })
        .collect();
    let config = file(directory.path(), "all.toml", &all);
    assert_eq!(out(&["config", "check", &config]), format!("{config}: no errors\n"));
}

#[test]
fn completions_for_every_shell_know_the_verbs() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = out(&["completions", shell]);
        assert!(script.contains("chunkserver") && script.contains("trash"), "{shell}");
    }
}

#[test]
fn a_closed_pipe_is_no_error_worth_words() {
    let mut child = command(&["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stderr), "");
    assert_eq!(output.status.code(), Some(141));
}

#[test]
fn a_data_directory_that_may_not_be_used_is_named_with_the_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let occupied = file(directory.path(), "a-file", "");
    let (code, said) = fails(&["master", "--data", &occupied, "--listen", "127.0.0.1:0"]);
    assert_eq!(code, 1);
    assert!(said.contains(&occupied) && said.contains("--data"), "{said}");
}
