//! The command line: every verb, its options and examples.
use crate::flags::{
    ChunkserverSection, ClientOfMountSection, ClientSection, Flags, LogSection, MasterOfClientSection, MasterSection,
    MountSection,
};
use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

#[derive(Parser, Debug)]
#[command(
    name = "cairn",
    version,
    about = "A distributed file system in the line of GFS: servers, mount and file commands in one binary",
    max_term_width = 110,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "\
First steps:
  cairn up --mount ./mnt              a whole cluster on this machine, mounted at ./mnt
  cairn cp ./big.iso cairn:/big.iso   copy in
  cairn ls -l /                       look
  cairn admin status                  servers, disks, chunks, repairs

Paths in the cluster are absolute (/dir/file); `cp` calls them cairn:/dir/file. Settings come from a TOML file
(--config, CAIRN_CONFIG or /etc/cairn/cairn.toml), then the environment (CAIRN_MASTER_LISTEN, ...), then flags;
`cairn config show` prints them all. Exit codes: 0 done, 1 failed, 2 called wrongly, 130 interrupted."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Args, Debug)]
pub struct Global {
    /// Configuration file [env: CAIRN_CONFIG] [default: /etc/cairn/cairn.toml, if it exists]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Settings of every command")]
    pub config: Option<PathBuf>,
    /// Any setting: --set master.repair-delay=10s (repeatable; see `cairn config show`)
    #[arg(
        long,
        global = true,
        value_name = "SECTION.KEY=VALUE",
        help_heading = "Settings of every command"
    )]
    pub set: Vec<String>,
    #[command(flatten)]
    pub log: Flags<LogSection>,
}

#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Start a whole cluster on this machine: a master, chunkservers and a mount in one process
    #[command(after_help = "\
Examples:
  cairn up --mount ./mnt                  data in ./cairn-data, Ctrl-C stops everything in order
  cairn up --data /srv/cairn              no mount; use `cairn cp`, `cairn ls`, ...
  cairn up --listen 127.0.0.1:0           any free ports")]
    Up(Up),
    /// Run the master
    #[command(after_help = "\
Examples:
  cairn master --data /var/lib/cairn/master
  cairn master --data /srv/m --listen 0.0.0.0:7600 --advertise 192.168.1.5:7600")]
    Master(Flags<MasterSection>),
    /// Run a chunkserver
    #[command(after_help = "\
Examples:
  cairn chunkserver --master 192.168.1.5:7600 --disk /disk1 --disk /disk2 --listen 0.0.0.0:7610 --advertise 192.168.1.6:7610
  cairn chunkserver --data ./cs1 --listen 127.0.0.1:0")]
    Chunkserver(Flags<ChunkserverSection>),
    /// Mount the file system
    #[command(after_help = "\
Examples:
  cairn mount ./mnt                               in the foreground; Ctrl-C unmounts
  cairn mount --daemon --master 10.0.0.5:7600 /mnt/cairn
  mount -t cairn 10.0.0.5:7600 /mnt/cairn         with mount.cairn linked to this binary in /sbin
  10.0.0.5:7600 /mnt/cairn cairn _netdev,nofail 0 0      in /etc/fstab")]
    Mount(Mount),
    /// Ask a server whether it serves: exit code 0 or 1
    #[command(after_help = "\
Examples:
  cairn health                    the master of the configuration
  cairn health 127.0.0.1:7620     a chunkserver, at its health-listen address")]
    Health(Health),
    /// List a directory
    #[command(
        disable_help_flag = true,
        after_help = "\
Examples:
  cairn ls /
  cairn ls -l -h /data
  cairn ls -R --json / | jq -r '.entries[].path'"
    )]
    Ls(Ls),
    /// Show a file's attributes
    #[command(after_help = "\
Examples:
  cairn stat /big.iso
  cairn stat --json /a /b")]
    Stat(Stat),
    /// Show a file's chunks: handle, version, replicas, state
    #[command(after_help = "\
Examples:
  cairn chunks /big.iso
  cairn chunks --json /big.iso | jq '.chunks[].replicas | length'")]
    Chunks(PathsJson),
    /// Print files
    #[command(after_help = "\
Examples:
  cairn cat /etc/motd
  cairn cat /a /b | sha256sum")]
    Cat(Paths),
    /// Copy between this machine and the cluster, verified and resumable
    #[command(after_help = "\
Examples:
  cairn cp ./big.iso cairn:/big.iso         with a progress bar on a terminal
  cairn cp -r ./dir cairn:/dir              cairn:/dir is made, or cairn:/dir/dir below one that exists
  cairn cp -a ./dir/ cairn:/dir             the contents of ./dir, and its own mode and times, as rsync has it
  cairn cp cairn:/big.iso - | sha256sum     to standard output
  tar c d | cairn cp - cairn:/d.tar         from standard input
  cairn cp --resume ./big.iso cairn:/       goes on where an interrupted copy stopped

A file appears under its final name when all of it is on stable storage, in every replica; until then it is
.cairn-cp.NAME.ID.partial beside it. Every 64 KiB block travels with its checksum from the moment it is read, is
verified by each replica and again by each reader; --verify also reads the copy back and compares. An existing file
is replaced and keeps its mode unless -p or -a is given; a symbolic link at the destination is replaced, not followed.")]
    Cp(Cp),
    /// Make directories
    #[command(after_help = "\
Examples:
  cairn mkdir /data
  cairn mkdir -p /data/2026/11
  cairn mkdir -m 0700 /private")]
    Mkdir(Mkdir),
    /// Remove files and directories, into the trash
    #[command(after_help = "\
Examples:
  cairn rm /old.iso
  cairn rm -r /tmp/build
  cairn trash restore /old.iso              while the trash keeps it")]
    Rm(Rm),
    /// Move or rename
    #[command(after_help = "\
Examples:
  cairn mv /a /b
  cairn mv /a /b /dir
  cairn mv -n /a /b                         never replaces /b
  cairn mv --exchange /blue /green          swaps the two at one moment")]
    Mv(Mv),
    /// Make links
    #[command(after_help = "\
Examples:
  cairn ln /a /b                            a second name for the same file
  cairn ln -s ../shared /data/shared        a symbolic link")]
    Ln(Ln),
    /// Show how much space files take
    #[command(
        disable_help_flag = true,
        after_help = "\
Examples:
  cairn du -h /data
  cairn du -s --json /data"
    )]
    Du(Du),
    /// Show total, used and available space
    #[command(
        disable_help_flag = true,
        after_help = "\
Examples:
  cairn df -h
  cairn df --json"
    )]
    Df(Df),
    /// Change permissions
    #[command(after_help = "\
Examples:
  cairn chmod 0644 /file
  cairn chmod -R g+rX,o-w /data")]
    Chmod(Chmod),
    /// Change owner and group, by number
    #[command(after_help = "\
Examples:
  cairn chown 1000 /file
  cairn chown -R 1000:100 /data
  cairn chown :100 /file")]
    Chown(Chown),
    /// Create empty files, or set files' times
    #[command(after_help = "\
Examples:
  cairn touch /file
  cairn touch -d 2026-11-24T03:26:00Z /file   times are UTC; @SECONDS since 1970 too")]
    Touch(Touch),
    /// Print the beginning of files
    #[command(after_help = "\
Examples:
  cairn head /log
  cairn head -n 3 /a /b
  cairn head -c 512 /image | xxd")]
    Head(HeadTail),
    /// Print the end of files, and follow them as they grow
    #[command(after_help = "\
Examples:
  cairn tail /log
  cairn tail -n 100 -f /log")]
    Tail(Tail),
    /// Append records to a file of records, each exactly once and whole, beside any number of others who do
    #[command(after_help = "\
Examples:
  cairn append /events < event.json         standard input is one record, of at most 16 MiB
  tail -f app.log | cairn append --lines /log     a record a line
  seq 5 | cairn append --lines -v /log      tells each record's offset

The file is created if it is missing. The cluster chooses where each record goes; `cairn records` reads them. When this
returns, every replica has the records on stable storage.")]
    Append(Append),
    /// List the records of a file, or print them
    #[command(after_help = "\
Examples:
  cairn records /log
  cairn records --data /log                 each record and a line feed
  cairn records --data --from 4194304 -n 10 /log
  cairn records -o all.bin /log             their bytes, one after the other, to a local file
  cairn records --json /log | jq '.records | length'")]
    Records(Records),
    /// Find files by name, kind, size and age
    #[command(after_help = "\
Examples:
  cairn find /data -name '*.iso' -size +1G
  cairn find / -type d -maxdepth 2
  cairn find / -mtime -1 -print0 | xargs -0 ...
Options may be written as find(1) has them (-name) or with two dashes (--name); all must hold.")]
    Find(Find),
    /// The wanted number of replicas, of files and of what is created below directories
    #[command(
        subcommand,
        after_help = "\
Examples:
  cairn goal get /data
  cairn goal set 2 /scratch
  cairn goal set -r 3 /data                 the directory and all that is in it"
    )]
    Goal(Goal),
    /// Check every chunk of files or trees: members, checksums of each replica, cause of what is wrong
    #[command(after_help = "\
Examples:
  cairn fsck /
  cairn fsck --quick --json /data           asks only the master and the servers, reads no data
Exit code 1 when anything is wrong.")]
    Fsck(Fsck),
    /// Deleted files, kept for a time
    #[command(
        subcommand,
        after_help = "\
Examples:
  cairn trash ls
  cairn trash restore /old.iso
  cairn trash empty --all"
    )]
    Trash(Trash),
    /// For administrators
    #[command(
        subcommand,
        after_help = "\
Examples:
  cairn admin status
  cairn admin scrub --now --wait
  cairn admin checkpoint save ./namespace.ckpt"
    )]
    Admin(Admin),
    /// Check or show the configuration
    #[command(
        subcommand,
        after_help = "\
Examples:
  cairn config check /etc/cairn/cairn.toml
  cairn config show
  cairn config show --toml > cairn.toml     all settings, to edit"
    )]
    Config(ConfigVerb),
    /// Print completions for a shell
    #[command(after_help = "\
Examples:
  cairn completions bash > /etc/bash_completion.d/cairn
  cairn completions zsh > ~/.zfunc/_cairn
  cairn completions fish > ~/.config/fish/completions/cairn.fish")]
    Completions { shell: clap_complete::Shell },
}

#[derive(Args, Debug)]
pub struct Up {
    /// Mount it here; the directory is created if missing
    #[arg(long, value_name = "DIR")]
    pub mount: Option<PathBuf>,
    /// Where the master and the chunkservers keep their data
    #[arg(long, value_name = "DIR", default_value = "./cairn-data")]
    pub data: PathBuf,
    /// How many chunkservers
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub chunkservers: u16,
    /// Where the master listens; the chunkservers listen on the ports after it, or on any free ones if it is port 0
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<std::net::SocketAddr>,
}

#[derive(Args, Debug)]
pub struct Mount {
    /// Where
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Go to the background once mounted; exits with 0 only then
    #[arg(long)]
    pub daemon: bool,
    /// Options of mount(8), for mount.cairn
    #[arg(long, value_name = "OPTIONS", hide = true)]
    pub helper_options: Option<String>,
    /// Where a daemon's log goes [default: nowhere]
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
    #[command(flatten)]
    pub settings: Flags<MountSection>,
    #[command(flatten)]
    pub client: Flags<ClientOfMountSection>,
}

#[derive(Args, Debug)]
pub struct Health {
    /// host:port [default: the master's]
    pub address: Option<String>,
    /// How long to wait for an answer
    #[arg(long, value_name = "DURATION", default_value = "3s")]
    pub timeout: String,
    /// Print nothing
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub client: Flags<MasterOfClientSection>,
}

#[derive(Args, Debug)]
pub struct Paths {
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<OsString>,
    #[command(flatten)]
    pub client: Flags<ClientSection>,
}

#[derive(Args, Debug)]
pub struct PathsJson {
    #[command(flatten)]
    pub paths: Paths,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct Ls {
    #[arg(value_name = "PATH", default_value = "/")]
    pub paths: Vec<OsString>,
    /// Mode, links, owner, group, size, time
    #[arg(short)]
    pub long: bool,
    /// Names that begin with a dot too
    #[arg(short, long)]
    pub all: bool,
    /// All that is below
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Sizes such as 1.4G
    #[arg(short, long)]
    pub human_readable: bool,
    /// Directories themselves, not what is in them
    #[arg(short, long)]
    pub directory: bool,
    /// Newest first
    #[arg(short = 't')]
    pub by_time: bool,
    /// Largest first
    #[arg(short = 'S')]
    pub by_size: bool,
    /// In the opposite order
    #[arg(short, long)]
    pub reverse: bool,
    /// Inode numbers
    #[arg(short, long)]
    pub inode: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub client: Flags<ClientSection>,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    pub help: Option<bool>,
}

#[derive(Args, Debug)]
pub struct Stat {
    #[command(flatten)]
    pub paths: Paths,
    /// What a symbolic link points to
    #[arg(short = 'L', long)]
    pub dereference: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct Cp {
    /// SOURCE... DESTINATION: cairn:/path in the cluster, a plain path on this machine, - for standard input or output
    #[arg(required = true, num_args = 2.., value_name = "PATH")]
    pub paths: Vec<OsString>,
    /// Directories with all that is in them; symbolic links stay links
    #[arg(short, long, visible_short_alias = 'R')]
    pub recursive: bool,
    /// Everything as it is: -r -p, links between files, owners as far as allowed
    #[arg(short, long)]
    pub archive: bool,
    /// Keep modes and times (and owners, as root)
    #[arg(short, long)]
    pub preserve: bool,
    /// Copy what symbolic links point to
    #[arg(short = 'L', long)]
    pub dereference: bool,
    /// Leave files alone that exist
    #[arg(short, long, conflicts_with = "force")]
    pub no_clobber: bool,
    /// Remove what is in the way: another kind of file, an empty directory
    #[arg(short, long)]
    pub force: bool,
    /// Treat the destination as the copy's name, never as a directory to put it in
    #[arg(short = 'T', long)]
    pub no_target_directory: bool,
    /// Skip what is there with the same size and checksum, and go on with what was interrupted
    #[arg(long)]
    pub resume: bool,
    /// Read every copy back and compare
    #[arg(long)]
    pub verify: bool,
    /// Files copied at a time
    #[arg(short, long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: u16,
    /// Wanted replicas of new files [default: the directory's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=8))]
    pub goal: Option<u8>,
    /// Show progress also where standard error is no terminal
    #[arg(long, conflicts_with = "no_progress")]
    pub progress: bool,
    /// Show no progress
    #[arg(long)]
    pub no_progress: bool,
    /// Name each file
    #[arg(short, long)]
    pub verbose: bool,
    #[command(flatten)]
    pub client: Flags<ClientSection>,
}

#[derive(Args, Debug)]
pub struct Mkdir {
    #[command(flatten)]
    pub paths: Paths,
    /// Parents too; one that exists is no error
    #[arg(short, long)]
    pub parents: bool,
    /// Its permissions [default: 0777 less the umask]
    #[arg(short, long, value_name = "MODE")]
    pub mode: Option<String>,
}

#[derive(Args, Debug)]
pub struct Rm {
    #[command(flatten)]
    pub paths: Paths,
    /// Directories with all that is in them
    #[arg(short, long, visible_short_alias = 'R')]
    pub recursive: bool,
    /// What doesn't exist is no error
    #[arg(short, long)]
    pub force: bool,
    /// Empty directories too
    #[arg(short, long)]
    pub dir: bool,
    /// Name what is removed
    #[arg(short, long)]
    pub verbose: bool,
}

#[derive(Args, Debug)]
pub struct Mv {
    /// SOURCE... DESTINATION
    #[arg(required = true, num_args = 2.., value_name = "PATH")]
    pub paths: Vec<OsString>,
    /// Never replace
    #[arg(short, long)]
    pub no_clobber: bool,
    /// Swap two at one moment
    #[arg(long, conflicts_with = "no_clobber")]
    pub exchange: bool,
    /// Treat the destination as the new name, never as a directory to put it in
    #[arg(short = 'T', long)]
    pub no_target_directory: bool,
    #[command(flatten)]
    pub client: Flags<ClientSection>,
}

#[derive(Args, Debug)]
pub struct Ln {
    /// What the link points to
    pub target: OsString,
    /// Its name, or a directory to put it in
    pub link: OsString,
    /// Symbolic
    #[arg(short, long)]
    pub symbolic: bool,
    /// Replace what has that name
    #[arg(short, long)]
    pub force: bool,
    #[command(flatten)]
    pub client: Flags<ClientSection>,
}

#[derive(Args, Debug)]
pub struct Du {
    #[arg(value_name = "PATH", default_value = "/")]
    pub paths: Vec<OsString>,
    /// Only the sum of each path
    #[arg(short, long, conflicts_with = "all")]
    pub summarize: bool,
    /// Files too, not only directories
    #[arg(short, long)]
    pub all: bool,
    /// Sizes such as 1.4G
    #[arg(short, long)]
    pub human_readable: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub client: Flags<ClientSection>,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    pub help: Option<bool>,
}

#[derive(Args, Debug)]
pub struct Df {
    /// Sizes such as 1.4G
    #[arg(short, long)]
    pub human_readable: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub client: Flags<ClientSection>,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    pub help: Option<bool>,
}

#[derive(Args, Debug)]
pub struct Chmod {
    /// 0644, or changes such as u+x,go-w
    #[arg(allow_hyphen_values = true)]
    pub mode: String,
    #[command(flatten)]
    pub paths: Paths,
    /// All that is below
    #[arg(short = 'R', long)]
    pub recursive: bool,
}

#[derive(Args, Debug)]
pub struct Chown {
    /// UID, UID:GID or :GID
    pub owner: String,
    #[command(flatten)]
    pub paths: Paths,
    /// All that is below
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Symbolic links themselves
    #[arg(long)]
    pub no_dereference: bool,
}

#[derive(Args, Debug)]
pub struct Touch {
    #[command(flatten)]
    pub paths: Paths,
    /// Create nothing
    #[arg(short = 'c', long)]
    pub no_create: bool,
    /// This time (UTC) instead of now
    #[arg(short, long, value_name = "TIME")]
    pub date: Option<String>,
    /// Only the time of access
    #[arg(short = 'a')]
    pub access: bool,
    /// Only the time of modification
    #[arg(short = 'm')]
    pub modification: bool,
}

#[derive(Args, Debug)]
pub struct HeadTail {
    #[command(flatten)]
    pub paths: Paths,
    /// That many lines [default: 10]
    #[arg(short = 'n', long, value_name = "N", conflicts_with = "bytes")]
    pub lines: Option<u64>,
    /// That many bytes (such as 512 or 1MiB)
    #[arg(short = 'c', long, value_name = "SIZE")]
    pub bytes: Option<String>,
}

#[derive(Args, Debug)]
pub struct Tail {
    #[command(flatten)]
    pub what: HeadTail,
    /// Go on as the file grows, until Ctrl-C
    #[arg(short, long)]
    pub follow: bool,
}

#[derive(Args, Debug)]
pub struct Append {
    #[arg(value_name = "PATH")]
    pub path: OsString,
    /// Each line of standard input is a record, without its line feed
    #[arg(short, long)]
    pub lines: bool,
    /// Print the offset of each record
    #[arg(short, long)]
    pub verbose: bool,
    #[command(flatten)]
    pub client: Flags<ClientSection>,
}

#[derive(Args, Debug)]
pub struct Records {
    #[arg(value_name = "PATH")]
    pub path: OsString,
    /// Print the records themselves, each with a line feed
    #[arg(short, long, conflicts_with = "json")]
    pub data: bool,
    /// Write the bytes of the records to this local file
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["json", "data"])]
    pub output: Option<PathBuf>,
    /// Those that begin at this offset or behind it
    #[arg(long, value_name = "OFFSET", default_value_t = 0)]
    pub from: u64,
    /// No more than so many
    #[arg(short = 'n', long, value_name = "N")]
    pub count: Option<u64>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub client: Flags<ClientSection>,
}

#[derive(Args, Debug)]
pub struct Find {
    #[arg(value_name = "PATH", default_value = "/")]
    pub paths: Vec<OsString>,
    /// The last name matches: * any text, ? one character, [abc] one of them
    #[arg(long, value_name = "PATTERN")]
    pub name: Option<OsString>,
    /// The same, small and capital letters alike
    #[arg(long, value_name = "PATTERN")]
    pub iname: Option<OsString>,
    /// The whole path matches (* also matches /)
    #[arg(long, value_name = "PATTERN")]
    pub path: Option<OsString>,
    /// f file, d directory, l symbolic link, p fifo, s socket, c or b device
    #[arg(long = "type", value_name = "KIND")]
    pub kind: Option<char>,
    /// +SIZE larger, -SIZE smaller, SIZE exactly; k, M, G as in find(1), a bare number is bytes
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub size: Option<String>,
    /// Modified +N more than, -N less than N days ago (or a DURATION such as 90m)
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub mtime: Option<String>,
    /// Owned by this number
    #[arg(long, value_name = "UID")]
    pub uid: Option<u32>,
    /// Empty files and directories
    #[arg(long)]
    pub empty: bool,
    #[arg(long, value_name = "N")]
    pub maxdepth: Option<usize>,
    #[arg(long, value_name = "N")]
    pub mindepth: Option<usize>,
    /// End each path with a zero byte
    #[arg(long)]
    pub print0: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub client: Flags<ClientSection>,
}

#[derive(Subcommand, Debug)]
pub enum Goal {
    /// Show how many replicas are wanted
    Get {
        #[command(flatten)]
        paths: PathsJson,
        /// All that is below
        #[arg(short, long, visible_short_alias = 'R')]
        recursive: bool,
    },
    /// Say how many replicas are wanted
    Set {
        #[arg(value_name = "N", value_parser = clap::value_parser!(u8).range(1..=8))]
        goal: u8,
        #[command(flatten)]
        paths: Paths,
        /// All that is below
        #[arg(short, long, visible_short_alias = 'R')]
        recursive: bool,
    },
}

#[derive(Args, Debug)]
pub struct Fsck {
    #[command(flatten)]
    pub paths: Paths,
    /// Ask only the master and the servers; read no data
    #[arg(long)]
    pub quick: bool,
    /// Name every chunk, also the good ones
    #[arg(short, long)]
    pub verbose: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Replicas read at a time
    #[arg(short, long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: u16,
}

#[derive(Subcommand, Debug)]
pub enum Trash {
    /// What is in the trash, and until when
    Ls {
        /// As JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        client: Flags<ClientSection>,
    },
    /// Put a file back: by the path it had (the one deleted last), or by its inode number
    Restore {
        /// Path or inode number, as `cairn trash ls` shows them
        what: OsString,
        /// Put it here instead
        #[arg(long, value_name = "PATH")]
        to: Option<OsString>,
        #[command(flatten)]
        client: Flags<ClientSection>,
    },
    /// Delete for good
    Empty {
        /// Paths or inode numbers, as `cairn trash ls` shows them
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        what: Vec<OsString>,
        /// Everything in the trash
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        client: Flags<ClientSection>,
    },
}

#[derive(Subcommand, Debug)]
pub enum Admin {
    /// Servers, disks, space, chunks under goal, repairs in progress
    Status {
        /// As JSON, with the names of proto/cairn/admin.proto
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        client: Flags<MasterOfClientSection>,
    },
    /// The namespace and chunk map as a file
    #[command(subcommand)]
    Checkpoint(Checkpoint),
    /// Verify every replica
    Scrub {
        /// Now, instead of when it is due
        #[arg(long, required = true)]
        now: bool,
        /// Return when it is done, and say what it found
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        client: Flags<MasterOfClientSection>,
    },
}

#[derive(Subcommand, Debug)]
pub enum Checkpoint {
    /// Save as of now (- for standard output)
    Save {
        file: PathBuf,
        #[command(flatten)]
        client: Flags<MasterOfClientSection>,
    },
    /// Load into a master with an empty namespace, before any chunkserver has registered
    Load {
        file: PathBuf,
        #[command(flatten)]
        client: Flags<MasterOfClientSection>,
    },
}

#[derive(Subcommand, Debug)]
pub enum ConfigVerb {
    /// Check a file and the environment; nothing is started
    Check {
        /// [default: the file that would be read]
        file: Option<PathBuf>,
    },
    /// All settings in force, and where each comes from
    Show {
        /// As a TOML file with all settings
        #[arg(long, conflicts_with = "json")]
        toml: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// `find` takes its options as find(1) does, with one dash: gives them two.
pub fn normalize(args: Vec<OsString>) -> Vec<OsString> {
    const FIND: [&str; 12] = [
        "-name",
        "-iname",
        "-path",
        "-type",
        "-size",
        "-mtime",
        "-uid",
        "-empty",
        "-maxdepth",
        "-mindepth",
        "-print0",
        "-print",
    ];
    let is_find = args
        .iter()
        .skip(1)
        .find(|a| !a.to_string_lossy().starts_with('-'))
        .is_some_and(|a| a == "find");
    if !is_find {
        return args;
    }
    args.into_iter()
        .filter(|a| a != "-print")
        .map(|a| match a.to_str() {
            Some(text) if FIND.contains(&text) => format!("-{text}").into(),
            _ => a,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_has_an_example() {
        for verb in Cli::command().get_subcommands() {
            let text = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(
                text.contains(&format!("cairn {}", verb.get_name())),
                "{}",
                verb.get_name()
            );
        }
    }

    #[test]
    fn find_takes_its_options_with_one_dash() {
        let args: Vec<OsString> = ["cairn", "find", "/", "-name", "*.c", "-size", "+1k"]
            .map(Into::into)
            .into();
        let cli = Cli::try_parse_from(normalize(args)).unwrap();
        let Verb::Find(find) = cli.verb else { panic!() };
        assert_eq!((find.name, find.size), (Some("*.c".into()), Some("+1k".into())));
        let other: Vec<OsString> = ["cairn", "ls", "-name"].map(Into::into).into();
        assert_eq!(normalize(other.clone()), other);
    }
}
