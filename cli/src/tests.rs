//! What holds for all verbs, options and settings: each is used by a test, and each setting arrives where it is meant.
use crate::args::{Cli, normalize};
use crate::config::{Config, KEYS, Key, Layers, load};
use crate::servers::{chunkserver::chunkserver_config, master::master_config, mount::mount_options};
use crate::{layers, settings};
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, CommandFactory, FromArgMatches};
use std::collections::BTreeSet;
use std::path::Path;

/// Another value than the default, that the setting takes.
fn other(key: &Key) -> &'static str {
    let default: f64 = key
        .default
        .trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == '%')
        .parse()
        .unwrap_or(0.0);
    match (key.full().as_str(), key.expects) {
        ("log.level", _) => "debug",
        ("log.format", _) => "json",
        (_, e) if e.starts_with("an IP") => "127.0.0.1:9999",
        (_, e) if e.starts_with("host:port") => "elsewhere:9999",
        (_, e) if e.starts_with("a duration") => "1234ms",
        (_, e) if e.starts_with("a size") => "17MiB",
        (_, e) if e.starts_with("a share") => "2.5%",
        (_, e) if e.starts_with("true") => "true",
        (_, e) if e.starts_with("a whole") && default == 4.0 => "5",
        (_, e) if e.starts_with("a whole") => "4",
        _ => "/else/where",
    }
}

fn all_commands() -> Vec<(Vec<String>, Command)> {
    fn leaves(path: &[String], command: &Command, into: &mut Vec<(Vec<String>, Command)>) {
        let mut inner = command.get_subcommands().filter(|c| c.get_name() != "help").peekable();
        if inner.peek().is_none() {
            into.push((path.to_vec(), command.clone()));
        }
        for sub in inner {
            leaves(&[path, &[sub.get_name().to_owned()]].concat(), sub, into);
        }
    }
    let mut all = vec![];
    let mut cairn = Cli::command();
    cairn.build();
    leaves(&[], &cairn, &mut all);
    all
}

fn parse(words: &[String]) -> Option<ArgMatches> {
    let words = std::iter::once("cairn".into())
        .chain(words.iter().map(Into::into))
        .collect();
    Cli::command().try_get_matches_from(normalize(words)).ok()
}

/// What the parts of Cairn are told.
fn told(config: &Config) -> String {
    format!(
        "{:?} {:?} {:?} {:?}",
        master_config(config),
        chunkserver_config(config),
        mount_options(config),
        settings::client(config, "")
    )
}

#[test]
fn every_setting_reaches_the_part_that_it_is_for() {
    // handed over by the command itself: directories, how long an unmount waits, logging; each with a test of its own
    const BY_THE_COMMAND: [&str; 5] = [
        "master.data",
        "chunkserver.disk",
        "mount.unmount-wait",
        "log.level",
        "log.format",
    ];
    let defaults = load(&Layers::default(), []).unwrap().config;
    for key in KEYS.iter().filter(|k| !BY_THE_COMMAND.contains(&k.full().as_str())) {
        let layers = Layers {
            sets: vec![format!("{}={}", key.full(), other(key))],
            ..Layers::default()
        };
        let config = load(&layers, []).unwrap().config;
        assert_ne!(told(&config), told(&defaults), "nobody is told of {}", key.full());
    }
}

#[test]
fn every_flag_of_a_setting_sets_it() {
    let operands: [&[&str]; 9] = [
        &[],
        &["/x"],
        &["/x", "/y"],
        &["1", "/x"],
        &["u+x", "/x"],
        &["--now"],
        &["--all"],
        &["cairn:/x", "y"],
        &["bash"],
    ];
    let mut flags = 0;
    for (path, command) in all_commands() {
        let of_settings = command.get_arguments().filter(|a| a.get_id().as_str().contains('.'));
        for arg in of_settings {
            let (section, name) = arg.get_id().as_str().split_once('.').unwrap();
            let key = KEYS.iter().find(|k| k.section == section && k.name == name).unwrap();
            let flag = format!("--{}={}", arg.get_long().unwrap(), other(key));
            let matches = operands.iter().find_map(|operands| {
                let operands = operands.iter().map(|o| (*o).to_owned());
                parse(
                    &path
                        .iter()
                        .cloned()
                        .chain(operands)
                        .chain([flag.clone()])
                        .collect::<Vec<_>>(),
                )
            });
            let matches = matches.unwrap_or_else(|| panic!("{path:?} {flag}"));
            let cli = Cli::from_arg_matches(&matches).unwrap();
            let loaded = load(&layers(&cli), []).unwrap();
            let value = loaded.config.get(section, name).unwrap();
            let list = format!("[{:?}]", other(key));
            assert!(value == other(key) || value == list, "{path:?} {flag}: {value}");
            assert!(
                matches!(loaded.origin(section, name), crate::config::Origin::Flag(_)),
                "{path:?} {flag}"
            );
            flags += 1;
        }
    }
    assert!(flags > KEYS.len(), "{flags}");
}

/// The word lists of a test's source that begin with a verb: literals as they stand, the rest as something that the
/// parser takes.
fn calls(source: &str, verbs: &BTreeSet<String>) -> Vec<Vec<Option<String>>> {
    let mut calls = vec![];
    for (at, _) in source.match_indices('[') {
        let mut words = vec![];
        let mut rest = &source[at + 1..];
        loop {
            rest = rest.trim_start();
            let (word, after) = match rest.strip_prefix('"') {
                Some(text) => {
                    let Some((word, after)) = text.split_once('"') else {
                        break;
                    };
                    (Some(word.to_owned()), after.trim_start_matches(".into()"))
                }
                None => {
                    let mut depth = 0usize;
                    let end = rest.find(|c| {
                        match c {
                            '(' | '[' | '{' => depth += 1,
                            ')' | ']' | '}' if depth > 0 => depth -= 1,
                            ',' | ']' if depth == 0 => return true,
                            _ => {}
                        }
                        false
                    });
                    let Some(end) = end else { break };
                    (None, &rest[end..])
                }
            };
            if words.is_empty() && !word.as_ref().is_some_and(|w| verbs.contains(w)) {
                break;
            }
            words.push(word);
            let after = after.trim_start();
            match after.strip_prefix(',') {
                Some(more) if !more.trim_start().starts_with(']') => rest = more,
                _ => {
                    calls.push(words);
                    break;
                }
            }
        }
    }
    calls
}

#[test]
fn every_verb_and_every_option_is_used_by_a_test() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = String::new();
    for directory in ["tests", "../tests/e2e", "../tests/deploy", "../tests/testkit/src"] {
        for entry in std::fs::read_dir(here.join(directory)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "rs") {
                sources.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let verbs: BTreeSet<String> = all_commands().iter().map(|(path, _)| path[0].clone()).collect();
    let mut used = BTreeSet::new();
    for words in calls(&sources, &verbs) {
        let parsed = ["/x", "cairn:/x", "1", "127.0.0.1:1"].iter().find_map(|unknown| {
            let words: Vec<String> = words
                .iter()
                .map(|w| w.clone().unwrap_or_else(|| (*unknown).into()))
                .collect();
            parse(&words)
        });
        let Some(matches) = parsed else { continue };
        let (mut path, mut at) = (vec![], &matches);
        while let Some((name, inner)) = at.subcommand() {
            path.push(name);
            at = inner;
        }
        let path = path.join(" ");
        used.insert(path.clone());
        let given = at
            .ids()
            .filter(|id| at.value_source(id.as_str()) == Some(ValueSource::CommandLine));
        used.extend(given.map(|id| format!("{path} {id}")));
    }
    let mut unused = vec![];
    for (path, command) in all_commands() {
        let path = path.join(" ");
        if !used.contains(&path) {
            unused.push(path.clone());
        }
        // flags of settings have a test of their own, those of every command are no verb's
        let own = command.get_arguments().filter(|a| {
            let id = a.get_id().as_str();
            !a.is_global_set() && !a.is_hide_set() && !id.contains('.') && id != "help" && id != "version"
        });
        let own = own.map(|a| format!("{path} {}", a.get_id()));
        unused.extend(own.filter(|option| !used.contains(option)));
    }
    assert!(unused.is_empty(), "no test uses: {unused:#?}");
}

/// Every `path.rs::test` that a document names is a function of that file, and every script that it names is there.
#[test]
fn every_test_that_a_document_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut documents = vec![root.join("README.md"), root.join("ARCHITECTURE.md")];
    documents.extend(
        std::fs::read_dir(root.join("docs"))
            .unwrap()
            .map(|entry| entry.unwrap().path()),
    );
    let mut found = 0;
    for document in documents
        .iter()
        .filter(|path| path.extension().is_some_and(|e| e == "md"))
    {
        let text = std::fs::read_to_string(document).unwrap();
        for quoted in text.split('`').skip(1).step_by(2) {
            let missing = match quoted.split_once(".rs::") {
                Some((file, name)) => {
                    let source = std::fs::read_to_string(root.join(format!("{file}.rs"))).unwrap_or_default();
                    !source.contains(&format!("fn {name}("))
                }
                None if quoted.starts_with("tests/bars/") => !root.join(quoted).exists(),
                None => continue,
            };
            assert!(!missing, "{}: there is no {quoted}", document.display());
            found += 1;
        }
    }
    assert!(found > 40, "{found}");
    // no promise is left without a test
    let semantics = std::fs::read_to_string(root.join("docs/semantics.md")).unwrap();
    let promises = semantics
        .lines()
        .filter(|line| line.starts_with("| ") && line.chars().nth(2).unwrap().is_ascii_digit());
    for promise in promises.filter(|line| !line.contains("not yet")) {
        assert!(promise.contains(".rs::"), "without a test: {promise}");
    }
}
