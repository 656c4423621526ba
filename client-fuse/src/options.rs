//! The options of mount(8), /etc/fstab and `cairn mount -o`: `rw,nofail,_netdev,timeout=30s,allow_other`.
use rustix::mount::MountFlags;
use std::path::PathBuf;
use std::time::Duration;

/// How a mount behaves; what is `None` is left to the configuration or to the default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    /// host:port of the master.
    pub master: Option<String>,
    /// A configuration file for the command.
    pub config: Option<PathBuf>,
    /// zone/rack/host of this machine.
    pub label: Option<String>,
    /// No request stays unanswered for longer (`mount.timeout`).
    pub timeout: Option<Duration>,
    /// How long the kernel may answer stat(2) by itself.
    pub attr_timeout: Option<Duration>,
    /// How long the kernel may take a name for what it was.
    pub entry_timeout: Option<Duration>,
    /// Threads that read requests; by default half as many as processors, 1 to 8.
    pub threads: Option<usize>,
    /// Users other than the one who mounts; by default when root mounts.
    pub allow_other: Option<bool>,
    pub read_only: bool,
    /// Devices on it are devices. Needs root, as `suid` does.
    pub dev: bool,
    pub suid: bool,
    pub exec: bool,
    pub atime: bool,
    pub sync: bool,
    pub dirsync: bool,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            master: None,
            config: None,
            label: None,
            timeout: None,
            attr_timeout: None,
            entry_timeout: None,
            threads: None,
            allow_other: None,
            read_only: false,
            dev: false,
            suid: false,
            exec: true,
            atime: true,
            sync: false,
            dirsync: false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    #[error("unknown mount option `{0}`; Cairn's own are: {OWN}")]
    Unknown(String),
    #[error("mount option `{name}={value}`: expected {expected}")]
    Value {
        name: String,
        value: String,
        expected: &'static str,
    },
    #[error("mount option `{0}` needs a value: `{0}=...`")]
    Missing(String),
}

const OWN: &str = "master=HOST:PORT, config=FILE, label=ZONE/RACK/HOST, timeout=60s, attr_timeout=SECONDS, \
    entry_timeout=SECONDS, threads=N, allow_other, noallow_other";

/// For mount(8), init and desktop programs only.
const IGNORED: &[&str] = &[
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "_netdev",
    "nofail",
    "default_permissions",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "diratime",
    "nodiratime",
    "lazytime",
    "nolazytime",
    "iversion",
    "noiversion",
    "silent",
    "loud",
];

impl MountOptions {
    /// Reads `options`; `source` is the first column of fstab: the master's address, unless it is `cairn` or `none`.
    ///
    /// # Errors
    /// Names the option that is unknown or has a value that makes no sense.
    pub fn parse(source: &str, options: &str) -> Result<Self, OptionError> {
        let mut parsed = Self::default();
        let source = source.strip_prefix("cairn://").unwrap_or(source);
        if !["", "cairn", "none"].contains(&source) {
            parsed.master = Some(source.trim_end_matches('/').to_owned());
        }
        for option in options.split(',').map(str::trim).filter(|o| !o.is_empty()) {
            parsed.apply(option)?;
        }
        Ok(parsed)
    }

    fn apply(&mut self, option: &str) -> Result<(), OptionError> {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        let given = || value.ok_or_else(|| OptionError::Missing(name.to_owned()));
        match (name, value) {
            ("master", _) => self.master = Some(given()?.to_owned()),
            ("config", _) => self.config = Some(given()?.into()),
            ("label", _) => self.label = Some(given()?.to_owned()),
            ("timeout", _) => self.timeout = Some(duration(name, given()?)?),
            ("attr_timeout", _) => self.attr_timeout = Some(duration(name, given()?)?),
            ("entry_timeout", _) => self.entry_timeout = Some(duration(name, given()?)?),
            ("threads", _) => {
                let threads = given()?.parse().ok().filter(|n| (1..=64).contains(n));
                self.threads = Some(threads.ok_or_else(|| wrong(name, value, "a number from 1 to 64"))?);
            }
            ("allow_other", None) => self.allow_other = Some(true),
            ("noallow_other", None) => self.allow_other = Some(false),
            ("ro", None) => self.read_only = true,
            ("rw", None) => self.read_only = false,
            ("dev", None) => self.dev = true,
            ("nodev", None) => self.dev = false,
            ("suid", None) => self.suid = true,
            ("nosuid", None) => self.suid = false,
            ("exec", None) => self.exec = true,
            ("noexec", None) => self.exec = false,
            ("atime", None) => self.atime = true,
            ("noatime", None) => self.atime = false,
            ("sync", None) => self.sync = true,
            ("async", None) => self.sync = false,
            ("dirsync", None) => self.dirsync = true,
            ("comment", Some(_)) => {}
            _ if name.starts_with("x-") || name.starts_with("X-") => {}
            (_, None) if IGNORED.contains(&name) => {}
            ("user", Some(_)) => {} // mount(8) notes who mounted
            _ => return Err(OptionError::Unknown(option.to_owned())),
        }
        Ok(())
    }

    /// As mount(2) has them.
    pub(crate) fn flags(&self) -> MountFlags {
        let mut flags = MountFlags::empty();
        flags.set(MountFlags::RDONLY, self.read_only);
        flags.set(MountFlags::NODEV, !self.dev);
        flags.set(MountFlags::NOSUID, !self.suid);
        flags.set(MountFlags::NOEXEC, !self.exec);
        flags.set(MountFlags::NOATIME, !self.atime);
        flags.set(MountFlags::SYNCHRONOUS, self.sync);
        flags.set(MountFlags::DIRSYNC, self.dirsync);
        flags
    }

    /// As fusermount3 has them.
    pub(crate) fn words(&self) -> Vec<&'static str> {
        let all = [
            (self.read_only, "ro"),
            (!self.dev, "nodev"),
            (!self.suid, "nosuid"),
            (!self.exec, "noexec"),
            (!self.atime, "noatime"),
            (self.sync, "sync"),
            (self.dirsync, "dirsync"),
        ];
        all.into_iter().filter(|(on, _)| *on).map(|(_, word)| word).collect()
    }
}

fn wrong(name: &str, value: Option<&str>, expected: &'static str) -> OptionError {
    OptionError::Value {
        name: name.to_owned(),
        value: value.unwrap_or_default().to_owned(),
        expected,
    }
}

/// `1.5`, `30s`, `500ms`, `2m`: seconds when there is no unit, as FUSE's own options have it.
fn duration(name: &str, value: &str) -> Result<Duration, OptionError> {
    let (number, unit_s) = match value
        .find(|c: char| c.is_ascii_alphabetic())
        .map(|at| value.split_at(at))
    {
        None => (value, 1.0),
        Some((number, "ms")) => (number, 0.001),
        Some((number, "s")) => (number, 1.0),
        Some((number, "m" | "min")) => (number, 60.0),
        Some(_) => ("", 1.0),
    };
    let seconds = number.trim().parse::<f64>().ok().map(|n| n * unit_s);
    seconds
        .and_then(|s| Duration::try_from_secs_f64(s).ok())
        .ok_or_else(|| wrong(name, Some(value), "a time such as `30s`, `500ms` or `2m`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_fstab_is_read() {
        let options = MountOptions::parse(
            "m.example:7000",
            "_netdev,nofail,noatime,ro,timeout=30s,attr_timeout=0.5,x-systemd.automount,allow_other,threads=4",
        );
        let expected = MountOptions {
            master: Some("m.example:7000".into()),
            timeout: Some(Duration::from_secs(30)),
            attr_timeout: Some(Duration::from_millis(500)),
            threads: Some(4),
            allow_other: Some(true),
            read_only: true,
            atime: false,
            ..MountOptions::default()
        };
        assert_eq!(options, Ok(expected.clone()));
        assert_eq!(expected.words(), ["ro", "nodev", "nosuid", "noatime"]);
        assert!(
            expected
                .flags()
                .contains(MountFlags::RDONLY | MountFlags::NOATIME | MountFlags::NODEV)
        );
    }

    #[test]
    fn the_option_wins_over_the_source_and_the_last_over_the_first() {
        let options = MountOptions::parse("a:1", "master=b:2,ro,rw,suid,dev").unwrap();
        assert_eq!(options.master.as_deref(), Some("b:2"));
        assert!(!options.read_only && options.suid && options.dev);
        assert_eq!(options.words(), [] as [&str; 0]);
        assert_eq!(MountOptions::parse("cairn", "").unwrap().master, None);
        let url = MountOptions::parse("cairn://h:1/", "").unwrap();
        assert_eq!(url.master.as_deref(), Some("h:1"));
    }

    #[test]
    fn mistakes_are_named() {
        let text = |options| MountOptions::parse("", options).unwrap_err().to_string();
        assert!(text("rw,allow_othr").starts_with("unknown mount option `allow_othr`; Cairn's own are: master="));
        assert!(text("timeout=soon").contains("`timeout=soon`: expected a time such as `30s`"));
        assert!(text("timeout=-1").contains("expected a time"));
        assert!(text("threads=0").contains("1 to 64"));
        assert_eq!(text("master"), "mount option `master` needs a value: `master=...`");
        assert!(text("ro=1").contains("unknown mount option `ro=1`"));
    }
}
