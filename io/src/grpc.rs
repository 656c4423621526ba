//! gRPC over a [`Net`], real or simulated.
use crate::{BoxStream, Clock, Listener, Net};
use hyper_util::rt::TokioIo;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::body::Body;
use tonic::codegen::http::{HeaderValue, Response, header};
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::util::MapResponseLayer;

/// Connects to the gRPC server at `address` (`host:port`) within `deadline`.
///
/// # Errors
/// What kept it from connecting; the address is the caller's to name.
pub async fn connect(net: Arc<dyn Net>, address: &str, deadline: Duration) -> io::Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?
        .executor(crate::inline::Executor)
        .connect_timeout(deadline);
    let target: Arc<str> = address.into();
    let connector = tower::service_fn(move |_: Uri| {
        let (net, target) = (net.clone(), target.clone());
        async move { net.connect(&target).await.map(TokioIo::new) }
    });
    let channel = tokio::time::timeout(deadline, endpoint.connect_with_connector(connector)).await;
    match channel {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(e)) => Err(io::Error::other(source_of(&e))),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")),
    }
}

/// The innermost cause, which says more than tonic's "transport error".
fn source_of(e: &dyn std::error::Error) -> String {
    let mut e = e;
    while let Some(source) = e.source() {
        e = source;
    }
    e.to_string()
}

/// The connections of a listener, for `tonic::transport::Server::serve_with_incoming`. An error of one accept (out
/// of descriptors, say) is given on; tonic goes on after it.
pub fn incoming(listener: Box<dyn Listener>) -> impl futures::Stream<Item = io::Result<Incoming>> + Send {
    futures::stream::unfold(listener, |listener| async move {
        let connection = listener.accept().await.map(|(stream, _)| Incoming(stream));
        Some((connection, listener))
    })
}

/// A layer for tonic's server that dates responses by `clock`; hyper would do so by the machine's own, which in a
/// simulation makes every run another one.
pub fn dated(clock: Arc<dyn Clock>) -> MapResponseLayer<impl Fn(Response<Body>) -> Response<Body> + Clone> {
    MapResponseLayer::new(move |mut response: Response<Body>| {
        let wall = Duration::from_nanos(clock.wall().try_into().unwrap_or(0));
        let date = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + wall);
        if let Ok(date) = HeaderValue::try_from(date) {
            response.headers_mut().insert(header::DATE, date);
        }
        response
    })
}

/// A connection as tonic's server takes it.
pub struct Incoming(BoxStream);

impl Connected for Incoming {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Incoming {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Incoming {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}
