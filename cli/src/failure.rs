//! What a command failed with, as people read it: `cairn: PATH: cause; next step`.
use std::fmt;
use std::io;
use std::process::ExitCode;

/// Exit codes: 1 the command failed, 2 it was called wrongly, 130 it was interrupted.
#[derive(Debug)]
pub enum Failure {
    /// Said as it stands.
    Said {
        /// The path or address that it is about; empty: none.
        subject: String,
        cause: String,
        /// What the user can do; empty: nothing beyond the cause.
        next: String,
    },
    Usage(String),
    Interrupted(String),
    /// Who reads our output has closed it (`cairn cat X | head`): nothing to say.
    Pipe,
    /// All has been said already, as for the failed ones of many paths.
    Silent,
}

pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub fn new(subject: impl fmt::Display, cause: impl fmt::Display) -> Self {
        Self::Said {
            subject: subject.to_string(),
            cause: cause.to_string(),
            next: String::new(),
        }
    }

    pub fn usage(text: impl fmt::Display) -> Self {
        Self::Usage(text.to_string())
    }

    /// The same with what to do about it.
    pub fn next(self, step: impl fmt::Display) -> Self {
        match self {
            Self::Said { subject, cause, .. } => Self::Said {
                subject,
                cause,
                next: step.to_string(),
            },
            other => other,
        }
    }

    /// The same, with another name for the file that it is about.
    pub fn renaming(self, from: &str, to: &str) -> Self {
        match self {
            Self::Said { subject, cause, next } => Self::Said {
                subject: subject.replace(from, to),
                cause: cause.replace(from, to),
                next,
            },
            other => other,
        }
    }

    pub fn code(&self) -> u8 {
        match self {
            Self::Said { .. } | Self::Silent => 1,
            Self::Usage(_) => 2,
            Self::Interrupted(_) => 130,
            Self::Pipe => 141,
        }
    }

    /// Says it on standard error, unless there is nothing to say, and gives the exit code.
    pub fn report(&self) -> ExitCode {
        match self {
            Self::Pipe | Self::Silent => {}
            said => eprintln!("cairn: {said}"),
        }
        ExitCode::from(self.code())
    }

    /// An error of the local system about `path`.
    pub fn local(path: &std::path::Path, e: &io::Error) -> Self {
        if e.kind() == io::ErrorKind::BrokenPipe {
            return Self::Pipe;
        }
        let said = Self::new(path.display(), plain(e));
        match e.kind() {
            io::ErrorKind::StorageFull => {
                said.next("free space on this machine's disk, then run the same command with --resume")
            }
            io::ErrorKind::PermissionDenied => said.next(format_args!(
                "this command runs as uid {}: give that user access or use sudo",
                rustix::process::geteuid().as_raw()
            )),
            _ => said,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Said { subject, cause, next } => {
                if !subject.is_empty() {
                    write!(f, "{subject}: ")?;
                }
                f.write_str(cause)?;
                if !next.is_empty() {
                    write!(f, "; {next}")?;
                }
                Ok(())
            }
            Self::Usage(text) | Self::Interrupted(text) => f.write_str(text),
            Self::Pipe | Self::Silent => Ok(()),
        }
    }
}

/// An error's words without "(os error N)".
pub fn plain(e: &io::Error) -> String {
    let text = e.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

/// Errors of writing our output.
impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::BrokenPipe => Self::Pipe,
            _ => Self::new("standard output", plain(&e)),
        }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(e: serde_json::Error) -> Self {
        match e.io_error_kind() {
            Some(io::ErrorKind::BrokenPipe) => Self::Pipe,
            _ => Self::new("standard output", e),
        }
    }
}

impl From<crate::config::ConfigError> for Failure {
    fn from(e: crate::config::ConfigError) -> Self {
        Self::Said {
            subject: String::new(),
            cause: e.to_string(),
            next: String::new(),
        }
    }
}
