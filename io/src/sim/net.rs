use super::trace::{Trace, hash};
use crate::{BoxStream, Listener, Net, Stream};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

/// Turmoil's network as one machine has it: hosts are names, `connect("master:7000")` finds them. What is sent is
/// traced. Clones are the same machine's.
///
/// It owns the machine's connections, so that they end as a kernel ends them, and in an order that follows from the
/// seed: the order in which tokio drops a dead process's tasks follows from their ids, which all simulations of this
/// process share.
#[derive(Clone)]
pub struct SimNet {
    trace: Trace,
    connections: Arc<Mutex<Connections>>,
}

#[derive(Default)]
struct Connections {
    /// By their number in order.
    open: BTreeMap<u64, TcpStream>,
    made: u64,
    dying: Option<Death>,
}

#[derive(Clone, Copy)]
enum Death {
    /// The kernel closes all connections, now.
    Process,
    /// Silence; peers are told that their connections are gone when the machine is up again.
    Machine,
}

impl SimNet {
    pub fn new(trace: Trace) -> Self {
        let connections = Arc::default();
        Self { trace, connections }
    }

    /// The machine's processes are about to be killed.
    pub fn kill(&self) {
        self.lock().dying = Some(Death::Process);
    }

    /// The machine is about to lose power.
    pub fn power_loss(&self) {
        self.lock().dying = Some(Death::Machine);
    }

    /// The network as the process has it that starts now, after [`SimNet::kill`] or [`SimNet::power_loss`].
    #[must_use]
    pub fn mount(&self) -> SimNet {
        let left = {
            let mut connections = self.lock();
            connections.dying = None;
            std::mem::take(&mut connections.open)
        };
        drop(left);
        self.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stream(&self, stream: TcpStream) -> io::Result<BoxStream> {
        let ends = format!("{}>{}", stream.local_addr()?, stream.peer_addr()?);
        let mut connections = self.lock();
        connections.made += 1;
        let number = connections.made;
        connections.open.insert(number, stream);
        Ok(Box::new(Traced {
            net: self.clone(),
            number,
            place: hash(ends.as_bytes()),
            sent: 0,
        }))
    }
}

#[async_trait]
impl Net for SimNet {
    /// Turmoil knows no interfaces: any address binds all of them.
    async fn bind(&self, address: SocketAddr) -> io::Result<Box<dyn Listener>> {
        let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port());
        Ok(Box::new(SimListener(TcpListener::bind(any).await?, self.clone())))
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
    net: SimNet,
    number: u64,
    place: u64,
    sent: u64,
}

impl Traced {
    fn poll<T>(&self, poll: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match self.net.lock().open.get_mut(&self.number) {
            Some(stream) => poll(Pin::new(stream)),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        let ended = {
            let mut connections = self.net.lock();
            match connections.dying {
                None => connections.open.remove_entry(&self.number).into_iter().collect(),
                Some(Death::Process) => std::mem::take(&mut connections.open),
                Some(Death::Machine) => BTreeMap::new(),
            }
        };
        drop(ended);
    }
}

impl Stream for Traced {}

impl AsyncRead for Traced {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll(|stream| stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Traced {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let n = ready!(self.poll(|stream| stream.poll_write(cx, buf)))?;
        self.net.trace.record("send", self.place, self.sent, &buf[..n]);
        self.sent += n as u64;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|stream| stream.poll_shutdown(cx))
    }
}
