use crate::{Blocking, DiskFile, Habit};
use async_trait::async_trait;
use bytes::{Buf, Bytes};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, WriteHalf};

/// A connected byte stream, either way. Nagle's delay is off.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// What reads and what writes, which may be used at once.
    fn halves(self: Box<Self>) -> (BoxReader, BoxWriter) {
        let (reader, writer) = tokio::io::split(self);
        (Box::new(reader), Box::new(writer))
    }
}

pub type BoxStream = Box<dyn Stream>;
pub type BoxReader = Box<dyn AsyncRead + Send + Unpin>;
pub type BoxWriter = Box<dyn Writer>;

/// Bytes of a file, read when they are sent; what the file does not hold is zeros.
pub struct FileRange {
    pub file: Arc<dyn DiskFile>,
    pub offset: u64,
    pub len: usize,
}

/// The writing half of a stream.
#[async_trait]
pub trait Writer: AsyncWrite + Send + Unpin + 'static {
    /// Sends all of `head` and of the range, without a copy in this process where the system can do that; and is itself
    /// given back. `habit`: whether that waits for the disk.
    ///
    /// # Errors
    /// Of the file or of the connection, which is of no more use: nobody knows how much was sent.
    async fn send_file(
        self: Box<Self>,
        blocking: Blocking,
        habit: &Habit,
        head: Bytes,
        range: FileRange,
    ) -> io::Result<BoxWriter>;
}

#[async_trait]
impl<S: Stream + ?Sized> Writer for WriteHalf<Box<S>> {
    async fn send_file(
        mut self: Box<Self>,
        blocking: Blocking,
        habit: &Habit,
        head: Bytes,
        range: FileRange,
    ) -> io::Result<BoxWriter> {
        copy_file(&mut self, blocking, habit, head, range).await?;
        Ok(self)
    }
}

/// Sends a file by reading it.
pub(crate) async fn copy_file(
    writer: &mut (impl AsyncWrite + Unpin),
    blocking: Blocking,
    habit: &Habit,
    head: Bytes,
    range: FileRange,
) -> io::Result<()> {
    let read = move || {
        let mut bytes = vec![0; range.len];
        range.file.read_at(&mut bytes, range.offset).map(|_| bytes)
    };
    let bytes = blocking.run_brief(habit, read).await?;
    writer.write_all_buf(&mut head.chain(&bytes[..])).await
}

#[async_trait]
pub trait Net: Send + Sync + 'static {
    async fn bind(&self, address: SocketAddr) -> io::Result<Box<dyn Listener>>;

    /// Connects to `host:port`. No deadline of its own: the caller sets one.
    async fn connect(&self, address: &str) -> io::Result<BoxStream>;
}

#[async_trait]
pub trait Listener: Send + Sync + 'static {
    async fn accept(&self) -> io::Result<(BoxStream, SocketAddr)>;

    fn local_addr(&self) -> io::Result<SocketAddr>;
}
