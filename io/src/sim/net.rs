use super::trace::{Trace, hash};
use crate::{BoxStream, Listener, Net};
use async_trait::async_trait;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

/// Turmoil's network: hosts are names, `connect("master:7000")` finds them. What is sent is traced.
pub struct SimNet {
    trace: Trace,
}

impl SimNet {
    pub fn new(trace: Trace) -> Self {
        Self { trace }
    }

    fn stream(&self, stream: TcpStream) -> io::Result<BoxStream> {
        let ends = format!("{}>{}", stream.local_addr()?, stream.peer_addr()?);
        Ok(Box::new(Traced {
            stream,
            place: hash(ends.as_bytes()),
            sent: 0,
            trace: self.trace.clone(),
        }))
    }
}

#[async_trait]
impl Net for SimNet {
    /// Turmoil knows no interfaces: any address binds all of them.
    async fn bind(&self, address: SocketAddr) -> io::Result<Box<dyn Listener>> {
        let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port());
        let net = Self::new(self.trace.clone());
        Ok(Box::new(SimListener(TcpListener::bind(any).await?, net)))
    }

    async fn connect(&self, address: &str) -> io::Result<BoxStream> {
        self.stream(TcpStream::connect(address).await?)
    }
}

struct SimListener(TcpListener, SimNet);

#[async_trait]
impl Listener for SimListener {
    async fn accept(&self) -> io::Result<(BoxStream, SocketAddr)> {
        let (stream, peer) = self.0.accept().await?;
        Ok((self.1.stream(stream)?, peer))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

struct Traced {
    stream: TcpStream,
    place: u64,
    sent: u64,
    trace: Trace,
}

impl AsyncRead for Traced {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Traced {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.trace.record("send", self.place, self.sent, &buf[..n]);
        self.sent += n as u64;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
