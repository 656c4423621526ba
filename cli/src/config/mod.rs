//! Configuration: one table of settings, and three layers over their defaults.
//!
//! Each setting stands once, below, with its type, default and meaning. From that follow its key in the TOML file
//! (`[master] repair-delay = "30s"`), its environment variable (`CAIRN_MASTER_REPAIR_DELAY`), its flag (`cairn master
//! --repair-delay 30s`, or `--set master.repair-delay=30s` with any command), the answer of `cairn config show` and
//! the reference in docs. From weakest to strongest: default, file, environment, flag ([`load`]).
mod load;
mod value;

pub use load::{ConfigError, Layers, Loaded, Origin, find, load};
pub use value::{Address, LogFormat, Raw, Setting, Share, Size, Span};

use std::net::SocketAddr;
use std::path::PathBuf;

/// One setting, for tables of them.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    pub section: &'static str,
    /// As in the file: `repair-delay`.
    pub name: &'static str,
    pub default: &'static str,
    pub help: &'static str,
    pub expects: &'static str,
    /// Stands in TOML without quotes.
    pub bare: bool,
    /// May be given several times as a flag; the values make a list.
    pub list: bool,
}

impl Key {
    pub fn full(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// A flag without a value sets it to true.
    pub fn switch(&self) -> bool {
        self.expects == <bool as Setting>::EXPECTS
    }

    pub fn env(&self) -> String {
        format!("CAIRN_{}_{}", self.section, self.name)
            .replace('-', "_")
            .to_uppercase()
    }
}

/// A value that its setting does not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    UnknownKey,
    /// What the setting expects.
    Value(&'static str),
}

macro_rules! settings {
    ($($(#[doc = $section_doc:literal])* $section:ident: $struct:ident {
        $($(#[doc = $doc:literal])+ $field:ident ($name:literal): $type:ty = $default:literal,)*
    })*) => {
        $($(#[doc = $section_doc])*
        #[derive(Debug, Clone)]
        pub struct $struct {
            $($(#[doc = $doc])+ pub $field: $type,)*
        })*

        /// All settings, with their values in force.
        #[derive(Debug, Clone)]
        pub struct Config {
            $(pub $section: $struct,)*
        }

        pub const SECTIONS: &[&str] = &[$(stringify!($section)),*];

        pub const KEYS: &[Key] = &[$($(Key {
            section: stringify!($section),
            name: $name,
            default: $default,
            help: concat!($($doc),+),
            expects: <$type as Setting>::EXPECTS,
            bare: <$type as Setting>::BARE,
            list: is_list(stringify!($type)),
        },)*)*];

        impl Config {
            /// All defaults; `None` if one does not parse, which a test excludes.
            fn defaults() -> Option<Self> {
                Some(Self { $($section: $struct { $($field: <$type>::parse(Raw::Text($default))?,)* },)* })
            }

            pub fn set(&mut self, section: &str, name: &str, raw: Raw<'_>) -> Result<(), Refused> {
                match (section, name) {
                    $($((stringify!($section), $name) => {
                        self.$section.$field = <$type>::parse(raw).ok_or(Refused::Value(<$type as Setting>::EXPECTS))?;
                        Ok(())
                    })*)*
                    _ => Err(Refused::UnknownKey),
                }
            }

            /// The value in force as text; `None` for an unknown key.
            pub fn get(&self, section: &str, name: &str) -> Option<String> {
                match (section, name) {
                    $($((stringify!($section), $name) => Some(self.$section.$field.show()),)*)*
                    _ => None,
                }
            }
        }
    };
}

const fn is_list(type_name: &str) -> bool {
    matches!(type_name.as_bytes(), [b'V', b'e', b'c', ..])
}

settings! {
    /// `cairn master`, and the master of `cairn up`.
    master: Master {
        /// Where the master listens, for clients, chunkservers and administrators.
        listen ("listen"): SocketAddr = "127.0.0.1:7600",
        /// Where its operation log and checkpoints are.
        data ("data"): PathBuf = "/var/lib/cairn/master",
        /// Replicas wanted of each chunk where neither the file nor its directory says.
        default_goal ("default-goal"): u8 = "3",
        /// Fewer current replicas than that (or than the goal, if lower): writes wait for repair.
        min_replicas ("min-replicas"): u8 = "2",
        /// How long a chunkserver may answer reads after its last heartbeat.
        lease ("lease"): Span = "5s",
        /// How often a chunkserver sends a heartbeat; at most a third of the lease.
        heartbeat ("heartbeat"): Span = "1s",
        /// How long repair waits after a chunkserver was lost; with one replica left it does not wait.
        repair_delay ("repair-delay"): Span = "30s",
        /// Copies that run at once, over the cluster.
        repairs_max ("repairs-max"): u32 = "16",
        /// Of them, copies that one chunkserver receives.
        repairs_per_server_max ("repairs-per-server-max"): u32 = "4",
        /// What one copy may take a second; 0: no limit.
        repair_rate ("repair-rate"): Size = "0",
        /// How long a replica is garbage before it is deleted.
        gc_grace ("gc-grace"): Span = "15s",
        /// How long deleted files stay in the trash; 0s: there is no trash.
        trash_keep ("trash-keep"): Span = "24h",
        /// A client that is silent for so long has gone.
        session_timeout ("session-timeout"): Span = "60s",
        /// How long a client's call may wait inside the master.
        call_timeout ("call-timeout"): Span = "50s",
        /// How long a chunkserver may take for an order; for copies of whole chunks ten times that.
        order_timeout ("order-timeout"): Span = "10s",
        /// How long a starting master waits for chunkservers that it knows before it deletes or copies anything.
        safe_mode ("safe-mode"): Span = "30s",
        /// A checkpoint is taken after so much operation log.
        checkpoint_log ("checkpoint-log"): Size = "64MiB",
        /// The size of one file of the operation log.
        log_segment ("log-segment"): Size = "32MiB",
    }
    /// `cairn chunkserver`, and the chunkservers of `cairn up`.
    chunkserver: Chunkserver {
        /// Where its data plane listens, for clients and other chunkservers.
        listen ("listen"): SocketAddr = "127.0.0.1:7610",
        /// Where others reach its data plane, if that is not where it listens.
        advertise ("advertise"): Option<Address> = "",
        /// Where it answers the gRPC health service (`cairn health`). Unset: the port after the one of `listen`.
        health_listen ("health-listen"): Option<SocketAddr> = "",
        /// The master's address.
        master ("master"): Address = "127.0.0.1:7600",
        /// The directories that hold its chunks, one a disk.
        disks ("disk"): Vec<PathBuf> = "/var/lib/cairn/chunks",
        /// Where it stands: zone/rack/host, as far as it matters; replicas are spread over racks. Unset: the host name.
        label ("label"): Option<String> = "",
        /// The share of each disk that new chunks leave free.
        reserve ("reserve"): Share = "1%",
        /// Files kept open, a disk; fewer where the process may not open so many.
        open_files_max ("open-files-max"): u32 = "32768",
        /// How long the head of a chain waits for an acknowledgement before it calls the chain broken.
        chain_deadline ("chain-deadline"): Span = "5s",
        /// The same for an fsync, which waits for disks.
        sync_deadline ("sync-deadline"): Span = "30s",
        /// Memory for frames in flight: a fifth for answers to reads, the rest for writes, by their place in the chain.
        frame_memory ("frame-memory"): Size = "160MiB",
        /// What the idle scrub reads a second; 0: no idle scrub.
        scrub_rate ("scrub-rate"): Size = "8MiB",
        /// How long shutdown waits for what is in flight.
        shutdown_deadline ("shutdown-deadline"): Span = "10s",
    }
    /// `cairn mount`, and the mount of `cairn up`.
    mount: Mount {
        /// Other users may use the mount. Unset: if root mounts.
        allow_other ("allow-other"): Option<bool> = "",
        /// Nothing can be changed through the mount.
        read_only ("read-only"): bool = "false",
        /// No request stays unanswered for longer; then it fails with EIO.
        timeout ("timeout"): Span = "60s",
        /// How long the kernel may answer stat(2) by itself while nobody tells it of a change. Unset: 4 s.
        attr_timeout ("attr-timeout"): Option<Span> = "",
        /// How long the kernel may take a name for what it was while nobody tells it of a change. Unset: 4 s.
        entry_timeout ("entry-timeout"): Option<Span> = "",
        /// Threads that read requests. Unset: half as many as processors, 1 to 8.
        threads ("threads"): Option<u32> = "",
        /// How long a busy mount is waited for at the end before it is detached.
        unmount_wait ("unmount-wait"): Span = "10s",
    }
    /// Every client: the file commands and the mount.
    client: Client {
        /// The master's address.
        master ("master"): Address = "127.0.0.1:7600",
        /// Where it runs: zone/rack/host; replicas near it are preferred. Unset: the host name.
        label ("label"): Option<String> = "",
        /// A file command's operation that has no success for so long fails (for mounts: mount.timeout).
        timeout ("timeout"): Span = "60s",
        /// How long a command tries to reach the master before it gives up.
        connect_within ("connect-within"): Span = "5s",
        /// How long one attempt at a connection may take.
        connect_timeout ("connect-timeout"): Span = "3s",
        /// A chunkserver that has not answered for so long is given up, and another asked.
        server_timeout ("server-timeout"): Span = "8s",
        /// A read without an answer for so long is asked of another replica too.
        hedge_after ("hedge-after"): Span = "500ms",
        /// How often length and mtime of files being written are made known.
        commit_interval ("commit-interval"): Span = "1s",
        /// Memory for what is written and not yet acknowledged, over all files.
        write_buffer ("write-buffer"): Size = "64MiB",
        /// Of that, in flight to one chunk.
        write_window ("write-window"): Size = "8MiB",
        /// How far a sequential reader is read ahead of.
        read_ahead ("read-ahead"): Size = "8MiB",
        /// Memory for what was read ahead, over all files.
        read_buffer ("read-buffer"): Size = "64MiB",
    }
    /// Logs, of every command, on standard error.
    log: Log {
        /// What is logged: a level, and levels of modules: info,cairn_master=debug.
        level ("level"): String = "info",
        /// human: for people; json: one object a line.
        format ("format"): LogFormat = "human",
    }
}
