//! Flags made from the table of settings: a command that takes a section's settings flattens [`Flags`] of it.
use crate::config::{KEYS, Key};
use clap::builder::StyledStr;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use std::marker::PhantomData;

/// A section of the configuration whose settings become flags.
pub trait Section: Clone + Send + Sync + 'static {
    const NAME: &'static str;
    /// Put before each flag's name, where sections meet in one command.
    const PREFIX: &'static str = "";
    /// Known with every command.
    const GLOBAL: bool = false;
    /// The only keys that become flags; empty: all.
    const ONLY: &'static [&'static str] = &[];
}

macro_rules! sections {
    ($($(#[doc = $doc:literal])* $type:ident { $($item:ident = $value:expr),* })*) => {
        $($(#[doc = $doc])*
        #[derive(Debug, Clone)]
        pub struct $type;
        impl Section for $type {
            sections!(@items $($item = $value),*);
        })*
    };
    (@items $(NAME = $name:expr)? $(, PREFIX = $prefix:expr)? $(, GLOBAL = $global:expr)? $(, ONLY = $only:expr)?) => {
        $(const NAME: &'static str = $name;)?
        $(const PREFIX: &'static str = $prefix;)?
        $(const GLOBAL: bool = $global;)?
        $(const ONLY: &'static [&'static str] = $only;)?
    };
}

sections! {
    MasterSection { NAME = "master" }
    ChunkserverSection { NAME = "chunkserver" }
    MountSection { NAME = "mount" }
    ClientSection { NAME = "client" }
    /// Who talks to the master only.
    MasterOfClientSection { NAME = "client", ONLY = &["master"] }
    /// A mount has its own timeout.
    ClientOfMountSection { NAME = "client", ONLY = &[
        "master", "label", "connect-within", "connect-timeout", "server-timeout", "hedge-after", "commit-interval", "write-buffer",
        "write-window", "read-ahead", "read-buffer",
    ] }
    /// `--log-level` and so on, with every command.
    LogSection { NAME = "log", PREFIX = "log-", GLOBAL = true }
}

/// The settings of a section that the command line gives.
#[derive(Debug, Clone)]
pub struct Flags<S> {
    given: Vec<(&'static Key, Vec<String>, String)>,
    section: PhantomData<S>,
}

// not derived: S needs no default
impl<S> Default for Flags<S> {
    fn default() -> Self {
        Self {
            given: vec![],
            section: PhantomData,
        }
    }
}

impl<S> Flags<S> {
    /// (setting, values, the flag as the user wrote it)
    pub fn given(&self) -> &[(&'static Key, Vec<String>, String)] {
        &self.given
    }
}

fn keys<S: Section>() -> impl Iterator<Item = &'static Key> {
    KEYS.iter()
        .filter(|k| k.section == S::NAME && (S::ONLY.is_empty() || S::ONLY.contains(&k.name)))
}

fn flag<S: Section>(key: &Key) -> String {
    format!("{}{}", S::PREFIX, key.name)
}

fn id<S: Section>(key: &Key) -> String {
    format!("{}.{}", S::NAME, key.name)
}

fn help(key: &Key) -> StyledStr {
    let default = match key.default {
        "" => String::new(),
        default => format!(" [default: {default}]"),
    };
    format!("{}{default} [env: {}]", key.help.trim(), key.env()).into()
}

impl<S: Section> Args for Flags<S> {
    fn augment_args(command: Command) -> Command {
        let heading = format!("Settings of [{}]", S::NAME);
        keys::<S>().fold(command, |command, key| {
            let mut arg = Arg::new(id::<S>(key))
                .long(flag::<S>(key))
                .help(help(key))
                .global(S::GLOBAL)
                .help_heading(heading.clone())
                .value_name(value_name(key))
                .action(if key.list { ArgAction::Append } else { ArgAction::Set });
            if key.switch() {
                arg = arg.num_args(0..=1).require_equals(true).default_missing_value("true");
            }
            if key.full() == "chunkserver.disk" {
                arg = arg.alias("data");
            }
            command.arg(arg)
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn value_name(key: &Key) -> &'static str {
    match key.expects {
        e if e.starts_with("an IP") => "IP:PORT",
        e if e.starts_with("host:port") => "HOST:PORT",
        e if e.starts_with("a duration") => "DURATION",
        e if e.starts_with("a size") => "SIZE",
        e if e.starts_with("a share") => "PERCENT",
        e if e.contains("path") => "DIR",
        e if e.starts_with("true") => "BOOL",
        e if e.starts_with("a whole") => "N",
        _ => "VALUE",
    }
}

impl<S: Section> FromArgMatches for Flags<S> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for key in keys::<S>() {
            let Ok(Some(values)) = matches.try_get_many::<String>(&id::<S>(key)) else {
                continue;
            };
            let values = values.cloned().collect();
            self.given.push((key, values, format!("--{}", flag::<S>(key))));
        }
        Ok(())
    }
}
