//! Reads the layers, weakest first, and remembers which one each value came from.
#![allow(clippy::disallowed_methods)] // the edge: reads the user's file
use super::{Config, KEYS, Key, Raw, Refused, SECTIONS};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

/// Where a system-wide configuration is looked for.
pub const SYSTEM_FILE: &str = "/etc/cairn/cairn.toml";
const FILE_ENV: &str = "CAIRN_CONFIG";
/// What most commands need, and so has a short name beside CAIRN_CLIENT_MASTER and CAIRN_CHUNKSERVER_MASTER.
const MASTER_ENV: &str = "CAIRN_MASTER";

/// Which layer gave a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    File(PathBuf, usize),
    Env(String),
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Env(name) => write!(f, "environment {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// What is wrong with a configuration. Each names the place, the cause and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: cannot read the configuration: {cause}; give another file with --config or {FILE_ENV}", path.display())]
    Read { path: PathBuf, cause: std::io::Error },
    #[error("{}:{line}: not TOML: {cause}", path.display())]
    Syntax { path: PathBuf, line: usize, cause: String },
    #[error("{origin}: unknown {what} `{name}`{}", hint.as_ref().map(|h| format!("; did you mean `{h}`?")).unwrap_or_default())]
    Unknown {
        origin: Origin,
        what: &'static str,
        name: String,
        hint: Option<String>,
    },
    #[error("{origin}: {key} = {value}: expected {expects}")]
    Value {
        origin: Origin,
        key: String,
        value: String,
        expects: &'static str,
    },
    #[error("{origin}: expected a section such as [master], found the value `{name}`")]
    NoSection { origin: Origin, name: String },
    #[error("--set {given}: expected SECTION.KEY=VALUE, such as --set master.repair-delay=10s")]
    Set { given: String },
    #[error("{0}")]
    Together(String),
}

/// What the command line says of the configuration.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    /// --config
    pub file: Option<PathBuf>,
    /// (section, key, values, flag as the user wrote it), later ones stronger.
    pub flags: Vec<(&'static Key, Vec<String>, String)>,
    /// --set, each SECTION.KEY=VALUE.
    pub sets: Vec<String>,
    /// Stands for a default that the command has instead of the table's (`up` keeps its data elsewhere).
    pub defaults: Vec<(&'static str, &'static str, String)>,
}

/// A configuration in force.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    origins: BTreeMap<String, Origin>,
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// Variables that begin like ours and are none: not errors, since a container platform sets such names for a
    /// service called `cairn-master`.
    pub strange_variables: Vec<String>,
}

impl Loaded {
    pub fn origin(&self, section: &str, name: &str) -> Origin {
        self.origins
            .get(&format!("{section}.{name}"))
            .cloned()
            .unwrap_or(Origin::Default)
    }

    fn set(&mut self, key: &Key, raw: Raw<'_>, origin: Origin) -> Result<(), ConfigError> {
        match self.config.set(key.section, key.name, raw) {
            Ok(()) => {
                self.origins.insert(key.full(), origin);
                Ok(())
            }
            Err(Refused::Value(expects)) => Err(ConfigError::Value {
                origin,
                key: key.full(),
                value: show_raw(raw),
                expects,
            }),
            Err(Refused::UnknownKey) => Err(unknown_key(origin, key.section, key.name)),
        }
    }
}

/// Puts the layers over each other. `env` is the environment.
///
/// # Errors
/// The first thing that is wrong, in the order of the layers.
pub fn load(layers: &Layers, env: impl IntoIterator<Item = (String, String)>) -> Result<Loaded, ConfigError> {
    let env: BTreeMap<String, String> = env.into_iter().filter(|(name, _)| name.starts_with("CAIRN_")).collect();
    let Some(config) = Config::defaults() else {
        return Err(ConfigError::Together(
            "a default does not parse: a defect of this build".into(),
        ));
    };
    let mut loaded = Loaded {
        config,
        origins: BTreeMap::new(),
        file: None,
        strange_variables: vec![],
    };
    for (section, name, value) in &layers.defaults {
        if let Some(key) = find(section, name) {
            loaded.set(key, Raw::Text(value), Origin::Default)?;
        }
    }
    let chosen = layers
        .file
        .clone()
        .or_else(|| env.get(FILE_ENV).filter(|p| !p.is_empty()).map(PathBuf::from));
    match chosen {
        Some(path) => read_file(&mut loaded, &path)?,
        None if Path::new(SYSTEM_FILE).exists() => read_file(&mut loaded, Path::new(SYSTEM_FILE))?,
        None => {}
    }
    read_env(&mut loaded, &env)?;
    for (key, values, flag) in &layers.flags {
        let raw = match &values[..] {
            [one] => Raw::Text(one),
            many => Raw::List(many),
        };
        loaded.set(key, raw, Origin::Flag(flag.clone()))?;
    }
    for given in &layers.sets {
        let wrong = || ConfigError::Set { given: given.clone() };
        let (name, value) = given.split_once('=').ok_or_else(wrong)?;
        let (section, name) = name.split_once('.').ok_or_else(wrong)?;
        let origin = Origin::Flag(format!("--set {section}.{name}"));
        let key = find(section, name).ok_or_else(|| unknown_key(origin.clone(), section, name))?;
        loaded.set(key, Raw::Text(value), origin)?;
    }
    Ok(loaded)
}

pub fn find(section: &str, name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|k| k.section == section && k.name == name)
}

fn read_env(loaded: &mut Loaded, env: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    if let Some(value) = env.get(MASTER_ENV) {
        for key in ["client", "chunkserver"]
            .iter()
            .filter_map(|section| find(section, "master"))
        {
            loaded.set(key, Raw::Text(value), Origin::Env(MASTER_ENV.into()))?;
        }
    }
    for (name, value) in env {
        match KEYS.iter().find(|k| k.env() == *name) {
            Some(key) => loaded.set(key, Raw::Text(value), Origin::Env(name.clone()))?,
            None if ours(name) => loaded.strange_variables.push(name.clone()),
            None => {}
        }
    }
    Ok(())
}

/// Looks like a setting's variable.
fn ours(name: &str) -> bool {
    name != MASTER_ENV
        && SECTIONS
            .iter()
            .any(|s| name.starts_with(&format!("CAIRN_{}_", s.to_uppercase())))
}

fn read_file(loaded: &mut Loaded, path: &Path) -> Result<(), ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|cause| ConfigError::Read {
        path: path.to_owned(),
        cause,
    })?;
    loaded.file = Some(path.to_owned());
    let line_of = |offset: usize| {
        text.as_bytes()[..offset.min(text.len())]
            .iter()
            .filter(|b| **b == b'\n')
            .count()
            + 1
    };
    let table = DeTable::parse(&text).map_err(|e| ConfigError::Syntax {
        path: path.to_owned(),
        line: line_of(e.span().map_or(0, |s| s.start)),
        cause: e.message().to_owned(),
    })?;
    for (section, values) in table.get_ref() {
        let origin = Origin::File(path.to_owned(), line_of(section.span().start));
        let name: &str = section.get_ref();
        if !SECTIONS.contains(&name) {
            return Err(ConfigError::Unknown {
                origin,
                what: "section",
                name: name.to_owned(),
                hint: nearest(name, SECTIONS.iter().copied()),
            });
        }
        let DeValue::Table(values) = values.get_ref() else {
            return Err(ConfigError::NoSection {
                origin,
                name: name.to_owned(),
            });
        };
        for (key, value) in values {
            let origin = Origin::File(path.to_owned(), line_of(key.span().start));
            let key = find(name, key.get_ref()).ok_or_else(|| unknown_key(origin.clone(), name, key.get_ref()))?;
            let wrong = |value: &str| ConfigError::Value {
                origin: origin.clone(),
                key: key.full(),
                value: value.to_owned(),
                expects: key.expects,
            };
            match value.get_ref() {
                DeValue::Array(items) => {
                    let texts: Option<Vec<String>> = items.iter().map(|i| scalar(i.get_ref())).collect();
                    let texts = texts.ok_or_else(|| wrong("an array of arrays or tables"))?;
                    loaded.set(key, Raw::List(&texts), origin)?;
                }
                other => {
                    let text = scalar(other).ok_or_else(|| wrong("a table or a date"))?;
                    loaded.set(key, Raw::Text(&text), origin)?;
                }
            }
        }
    }
    Ok(())
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(s) => Some(s.to_string()),
        DeValue::Integer(i) => Some(i.to_string()),
        DeValue::Float(f) => Some(f.to_string()),
        DeValue::Boolean(b) => Some(b.to_string()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

fn show_raw(raw: Raw<'_>) -> String {
    match raw {
        Raw::Text(text) => format!("{text:?}"),
        Raw::List(items) => format!("{items:?}"),
    }
}

fn unknown_key(origin: Origin, section: &str, name: &str) -> ConfigError {
    let hint = match KEYS.iter().find(|k| k.name == name) {
        // the right key in the wrong section
        Some(elsewhere) if SECTIONS.contains(&section) => Some(elsewhere.full()),
        _ => nearest(
            &format!("{section}.{name}"),
            KEYS.iter()
                .map(Key::full)
                .collect::<Vec<_>>()
                .iter()
                .map(String::as_str),
        ),
    };
    ConfigError::Unknown {
        origin,
        what: "key",
        name: format!("{section}.{name}"),
        hint,
    }
}

/// The candidate that is few typing errors away, if there is one.
fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<String> {
    candidates
        .map(|c| (strsim::damerau_levenshtein(name, c), c))
        .filter(|(distance, c)| *distance <= 2.max(c.len() / 4))
        .min()
        .map(|(_, c)| c.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }
    fn load_text(text: &str) -> Result<Loaded, ConfigError> {
        let file = file(text);
        let layers = Layers {
            file: Some(file.path().into()),
            ..Layers::default()
        };
        load(&layers, [])
    }
    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn every_default_parses_and_every_key_shows_what_it_was_set_to() {
        let mut config = Config::defaults().expect("defaults");
        for key in KEYS {
            let shown = config.get(key.section, key.name).unwrap();
            assert!(
                config.set(key.section, key.name, Raw::Text(key.default)).is_ok(),
                "{}",
                key.full()
            );
            assert_eq!(config.get(key.section, key.name), Some(shown), "{}", key.full());
            assert!(!key.help.trim().is_empty());
        }
    }

    #[test]
    fn flags_beat_the_environment_which_beats_the_file() {
        let file = file("[master]\nlisten = \"127.0.0.1:1\"\ndata = \"/file\"\n[log]\nlevel = \"warn\"\n");
        let layers = Layers {
            file: Some(file.path().into()),
            flags: vec![(
                find("master", "listen").unwrap(),
                vec!["127.0.0.1:3".into()],
                "--listen".into(),
            )],
            ..Layers::default()
        };
        let env = env(&[("CAIRN_MASTER_LISTEN", "127.0.0.1:2"), ("CAIRN_MASTER_DATA", "/env")]);
        let loaded = load(&layers, env).unwrap();
        assert_eq!(loaded.config.master.listen.port(), 3);
        assert_eq!(loaded.config.master.data, Path::new("/env"));
        assert_eq!(loaded.config.log.level, "warn");
        assert_eq!(loaded.origin("master", "data"), Origin::Env("CAIRN_MASTER_DATA".into()));
        assert_eq!(loaded.origin("log", "level"), Origin::File(file.path().into(), 5));
        assert_eq!(loaded.origin("chunkserver", "listen"), Origin::Default);
    }

    #[test]
    fn unknown_keys_name_their_line_and_the_nearest_name() {
        let message = load_text("# x\n[master]\n\nlisen = \"127.0.0.1:1\"\n")
            .unwrap_err()
            .to_string();
        assert!(
            message.contains(":4: unknown key `master.lisen`; did you mean `master.listen`?"),
            "{message}"
        );
        let message = load_text("[mastre]\n").unwrap_err().to_string();
        assert!(
            message.contains(":1: unknown section `mastre`; did you mean `master`?"),
            "{message}"
        );
        let message = load_text("[log]\ndisk = []\n").unwrap_err().to_string();
        assert!(message.contains("did you mean `chunkserver.disk`?"), "{message}");
    }

    #[test]
    fn wrong_values_say_what_is_expected() {
        let message = load_text("[client]\ntimeout = 30\n").unwrap_err().to_string();
        assert!(
            message.contains(":2: client.timeout = \"30\": expected a duration"),
            "{message}"
        );
        let message = load_text("[master\n").unwrap_err().to_string();
        assert!(message.contains(":1: not TOML"), "{message}");
        let message = load_text("master = 3\n").unwrap_err().to_string();
        assert!(message.contains("expected a section"), "{message}");
    }

    #[test]
    fn a_list_is_an_array_in_the_file_and_commas_in_the_environment() {
        let loaded = load_text("[chunkserver]\ndisk = [\"/a\", \"/b\"]\n").unwrap();
        assert_eq!(loaded.config.chunkserver.disks, [Path::new("/a"), Path::new("/b")]);
        let loaded = load(&Layers::default(), env(&[("CAIRN_CHUNKSERVER_DISK", "/c,/d")])).unwrap();
        assert_eq!(loaded.config.chunkserver.disks, [Path::new("/c"), Path::new("/d")]);
    }

    #[test]
    fn strange_variables_are_told_and_not_errors() {
        let loaded = load(
            &Layers::default(),
            env(&[("CAIRN_MASTER_PORT", "tcp://x"), ("CAIRN_MASTER", "h:1")]),
        )
        .unwrap();
        assert_eq!(loaded.strange_variables, ["CAIRN_MASTER_PORT"]);
        assert_eq!(loaded.config.client.master.as_str(), "h:1");
    }
}
