use async_trait::async_trait;
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncWrite};

/// A connected byte stream, either way. Nagle's delay is off.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

pub type BoxStream = Box<dyn Stream>;

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
