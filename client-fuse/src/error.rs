//! What a request can end with, and its number for the kernel.
use rustix::io::Errno;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Client(#[from] cairn_client::Error),
    /// The kernel takes it for "never ask again".
    #[error("not implemented")]
    NotImplemented,
    #[error("not supported: {0}")]
    NotSupported(&'static str),
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    #[error("a name is longer than 255 bytes")]
    NameTooLong,
    /// The caller's buffer is too small for an extended attribute.
    #[error("the buffer is too small")]
    Range,
    /// More names of extended attributes than Linux can list.
    #[error("too many names of extended attributes to list")]
    ListTooLong,
    #[error("no such attribute")]
    NoAttribute,
    /// SEEK_DATA or SEEK_HOLE at or beyond the end, or no data from there on.
    #[error("no such offset")]
    NoSuchOffset,
    /// Another client created the name meanwhile: the kernel looks it up again, so that it judges permissions.
    #[error("the name came into being meanwhile")]
    Stale,
    #[error("a handle that is not open")]
    BadHandle,
}

impl Error {
    /// Linux's number.
    pub fn errno(&self) -> i32 {
        match self {
            Error::Client(e) => e.errno(),
            Error::NotImplemented => Errno::NOSYS.raw_os_error(),
            Error::NotSupported(_) => Errno::OPNOTSUPP.raw_os_error(),
            Error::Invalid(_) => Errno::INVAL.raw_os_error(),
            Error::NameTooLong => Errno::NAMETOOLONG.raw_os_error(),
            Error::Range => Errno::RANGE.raw_os_error(),
            Error::ListTooLong => Errno::TOOBIG.raw_os_error(),
            Error::NoAttribute => Errno::NODATA.raw_os_error(),
            Error::NoSuchOffset => Errno::NXIO.raw_os_error(),
            Error::Stale => Errno::STALE.raw_os_error(),
            Error::BadHandle => Errno::BADF.raw_os_error(),
        }
    }

    /// The namespace's or POSIX's own answer, which programs expect: not worth a line in the log.
    pub fn is_ordinary(&self) -> bool {
        !matches!(self, Error::Client(e) if !matches!(e, cairn_client::Error::Posix { .. }))
    }
}
