//! One connection to a chunkserver. Requests leave in the order they were started, answers come in that order.
use super::Trouble;
use crate::limits::{PIPELINE_MAX, SHARED_READ_WAIT_MAX, SHARED_READS_MAX};
use bytes::Bytes;
use cairn_io::{BoxStream, Net, inline};
use cairn_proto::data::{Hello, frame_header::Body};
use cairn_proto::frame::{FRAME_READ_BYTES, Frame, Gathered, read_frame, write_frame};
use cairn_proto::{PROTOCOL, common::ErrorCode};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWriteExt, BufReader, ReadBuf, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

pub(crate) struct Connection {
    requests: mpsc::Sender<Request>,
    life: Arc<Life>,
    _task: AbortOnDropHandle<()>,
}

struct Request {
    /// One after the other, with one answer to all.
    first: (Body, Bytes),
    more: Vec<(Body, Bytes)>,
    answer: oneshot::Sender<Frame>,
}

struct Life {
    address: String,
    /// Requests started and not answered.
    in_flight: AtomicUsize,
    /// When the first of them was started.
    begun: Mutex<Instant>,
    /// When bytes last came.
    heard: Mutex<Option<Instant>>,
    /// Why it ended.
    cause: Mutex<Option<String>>,
}

/// Whether the server that was asked is sending.
#[derive(Default)]
pub(crate) struct Progress(Mutex<Option<Arc<Life>>>);

impl Progress {
    /// The answer comes on this connection.
    pub fn follow(&self, connection: &Connection) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection.life.clone());
    }

    /// When bytes last came on the connection that was followed last.
    pub fn heard(&self) -> Option<Instant> {
        let life = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let heard = life.as_ref()?.heard.lock().unwrap_or_else(PoisonError::into_inner);
        *heard
    }
}

/// Notes when bytes come.
struct Noting<'a, R> {
    stream: R,
    life: &'a Life,
}

impl<R: AsyncRead + Unpin> AsyncRead for Noting<'_, R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            *self.life.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        polled
    }
}

/// A request's answer on its way.
pub(crate) struct Answer {
    frame: oneshot::Receiver<Frame>,
    life: Arc<Life>,
}

impl Answer {
    /// Cancel safe: when this was cut short the answer can be waited for again.
    pub async fn until(&mut self, deadline: Instant) -> Result<Frame, Trouble> {
        match timeout_at(deadline, &mut self.frame).await {
            Ok(Ok(Frame {
                body: Body::Failed(failed),
                ..
            })) => Err(Trouble::Failed(Box::new(failed))),
            Ok(Ok(frame)) => Ok(frame),
            Ok(Err(_)) => Err(self.life.lost()),
            Err(_) => Err(Trouble::NoAnswer(format!(
                "chunkserver {} did not answer in time",
                self.life.address
            ))),
        }
    }
}

impl Life {
    /// When bytes last came, or the first of what is under way was started.
    fn moved(&self) -> Instant {
        let begun = *self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.map_or(begun, |heard| heard.max(begun))
    }

    fn lost(&self) -> Trouble {
        let cause = self.cause.lock().unwrap_or_else(PoisonError::into_inner);
        let cause = cause.as_deref().unwrap_or("closed");
        Trouble::NoAnswer(format!(
            "the connection to chunkserver {} was lost: {cause}",
            self.address
        ))
    }
}

/// Where a request goes on its connection. (To wait with the request in hand would take room for it in each future above.)
pub(crate) struct Place<'a> {
    permit: mpsc::Permit<'a, Request>,
    life: &'a Arc<Life>,
}

impl Place<'_> {
    pub fn start(self, body: Body, payload: Bytes) -> Answer {
        self.start_all((body, payload), Vec::new())
    }

    /// A request that may take several frames.
    pub fn start_all(self, first: (Body, Bytes), more: Vec<(Body, Bytes)>) -> Answer {
        let (answer, frame) = oneshot::channel();
        if self.life.in_flight.fetch_add(1, Ordering::Relaxed) == 0 {
            *self.life.begun.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
        self.permit.send(Request { first, more, answer });
        let life = self.life.clone();
        Answer { frame, life }
    }
}

impl Connection {
    pub async fn open(net: &dyn Net, address: &str, hello: Hello, within: Duration) -> Result<Self, Trouble> {
        let stream = match timeout(within, greet(net, address, hello)).await {
            Ok(greeted) => greeted?,
            Err(_) => {
                let cause = format!("chunkserver {address} did not answer within {} s", within.as_secs_f32());
                return Err(Trouble::NoAnswer(cause));
            }
        };
        Ok(Self::over(stream, address))
    }

    /// Hello and welcome have been said on `stream`.
    fn over(stream: BoxStream, address: &str) -> Self {
        let (requests, queue) = mpsc::channel(PIPELINE_MAX);
        let life = Arc::new(Life {
            address: address.to_owned(),
            in_flight: AtomicUsize::new(0),
            begun: Mutex::new(Instant::now()),
            heard: Mutex::new(None),
            cause: Mutex::new(None),
        });
        let task = AbortOnDropHandle::new(inline::spawn(run(stream, queue, life.clone())));
        Self {
            requests,
            life,
            _task: task,
        }
    }

    /// A place behind the requests before it.
    pub async fn place(&self) -> Result<Place<'_>, Trouble> {
        let permit = self.requests.reserve().await.map_err(|_| self.life.lost())?;
        Ok(Place {
            permit,
            life: &self.life,
        })
    }

    /// One request by itself.
    pub async fn ask(&self, body: impl FnOnce() -> Body, within: Duration) -> Result<Frame, Trouble> {
        let mut answer = self.place().await?.start(body(), Bytes::new());
        answer.until(Instant::now() + within).await
    }

    pub fn alive(&self) -> bool {
        !self.requests.is_closed()
    }

    /// It lives, and what is under way on it is little and not slow: a short request more need not fear for its time.
    pub fn flows(&self) -> bool {
        self.alive()
            && match self.life.in_flight.load(Ordering::Relaxed) {
                0 => true,
                under_way => under_way < SHARED_READS_MAX && self.life.moved().elapsed() < SHARED_READ_WAIT_MAX,
            }
    }

    /// It lives and nothing is under way on it.
    pub fn idle(&self) -> bool {
        self.alive() && self.life.in_flight.load(Ordering::Relaxed) == 0
    }
}

async fn greet(net: &dyn Net, address: &str, hello: Hello) -> Result<BoxStream, Trouble> {
    let no_answer = |e: &dyn std::fmt::Display| Trouble::NoAnswer(format!("chunkserver {address}: {e}"));
    let mut stream = net.connect(address).await.map_err(|e| no_answer(&e))?;
    write_frame(&mut stream, Body::Hello(hello), &[])
        .await
        .map_err(|e| no_answer(&e))?;
    stream.flush().await.map_err(|e| no_answer(&e))?;
    match read_frame(&mut stream).await {
        Ok(Some(Frame {
            body: Body::Welcome(welcome),
            ..
        })) if welcome.protocol == PROTOCOL => Ok(stream),
        Ok(Some(Frame {
            body: Body::Welcome(welcome),
            ..
        })) => Err(no_answer(&format_args!(
            "it speaks protocol {}, this client {PROTOCOL}: upgrade the older one",
            welcome.protocol
        ))),
        Ok(Some(Frame {
            body: Body::Failed(failed),
            ..
        })) => {
            let code = failed.error.as_ref().map(|e| e.code());
            if code == Some(ErrorCode::ErrorWrongCluster) {
                tracing::error!(
                    address,
                    "a chunkserver of another cluster answers at an address the master gave"
                );
            }
            Err(Trouble::Failed(Box::new(failed)))
        }
        Ok(Some(_)) => Err(no_answer(&"its first word was not a welcome")),
        Ok(None) => Err(no_answer(&"it ended the connection at once")),
        Err(e) => Err(no_answer(&e)),
    }
}

async fn run(stream: BoxStream, queue: mpsc::Receiver<Request>, life: Arc<Life>) {
    let (read, write) = tokio::io::split(stream);
    // as many as may be started and not answered: the queue, and what is being written
    let (sent, unanswered) = mpsc::channel(2 * PIPELINE_MAX);
    let cause = tokio::select! {
        biased;
        cause = receive(read, unanswered, &life) => cause,
        cause = send(write, queue, sent, &life) => cause,
    };
    *life.cause.lock().unwrap_or_else(PoisonError::into_inner) = Some(cause);
}

async fn send(
    mut stream: WriteHalf<BoxStream>,
    mut queue: mpsc::Receiver<Request>,
    sent: mpsc::Sender<oneshot::Sender<Frame>>,
    life: &Life,
) -> String {
    let mut gathered = Gathered::default();
    while let Some(request) = queue.recv().await {
        // room comes with answers, perhaps to what is gathered
        if sent.capacity() == 0
            && let Err(e) = gathered.write(&mut stream).await
        {
            return e.to_string();
        }
        // before it is written: its answer may be here before the write returns
        if sent.send(request.answer).await.is_err() {
            break;
        }
        let written = async {
            for (body, payload) in std::iter::once(request.first).chain(request.more) {
                gathered.add(&mut stream, body, &payload).await?;
            }
            // where answers are awaited anyway, what other tasks are about to ask for leaves in the same write
            if queue.is_empty() && life.in_flight.load(Ordering::Relaxed) > 1 && !gathered.is_empty() {
                tokio::task::yield_now().await;
            }
            if queue.is_empty() {
                gathered.write(&mut stream).await?;
                stream.flush().await?;
            }
            io::Result::Ok(())
        };
        if let Err(e) = written.await {
            return e.to_string();
        }
    }
    "closed by this client".into()
}

async fn receive(
    stream: ReadHalf<BoxStream>,
    mut unanswered: mpsc::Receiver<oneshot::Sender<Frame>>,
    life: &Life,
) -> String {
    let mut stream = BufReader::with_capacity(FRAME_READ_BYTES, Noting { stream, life });
    loop {
        let frame = match read_frame(&mut stream).await {
            Ok(Some(frame)) => frame,
            Ok(None) => return "closed by the server".into(),
            Err(e) => return e.to_string(),
        };
        let Ok(answer) = unanswered.try_recv() else {
            return "it answered what it was not asked".into();
        };
        life.in_flight.fetch_sub(1, Ordering::Relaxed);
        // a caller that no longer waits is none of the connection's business
        let _ = answer.send(frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_proto::data::Read;
    use tokio::io::AsyncWrite;

    /// Counts writes and the bytes in them; there is never anything to read.
    #[derive(Clone, Default)]
    struct Counting(Arc<(AtomicUsize, AtomicUsize)>);

    impl AsyncRead for Counting {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Counting {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.0.0.fetch_add(1, Ordering::Relaxed);
            self.0.1.fetch_add(buf.len(), Ordering::Relaxed);
            Poll::Ready(Ok(buf.len()))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl cairn_io::Stream for Counting {}

    impl Counting {
        async fn until_bytes(&self, bytes: usize) {
            let written = async {
                while self.0.1.load(Ordering::Relaxed) < bytes {
                    tokio::task::yield_now().await;
                }
            };
            timeout(Duration::from_secs(10), written).await.unwrap();
        }
    }

    #[tokio::test]
    async fn requests_of_tasks_that_are_ready_leave_in_one_write_while_an_answer_is_awaited() {
        let written = Counting::default();
        let connection = Arc::new(Connection::over(Box::new(written.clone()), "server"));
        let ask = async |connection: &Connection| {
            let place = connection.place().await.unwrap();
            place.start(Body::Read(Read::default()), Bytes::new())
        };
        let _first = ask(&connection).await;
        written.until_bytes(1).await;
        let each = written.0.1.load(Ordering::Relaxed);

        let _second = ask(&connection).await;
        // has its turn behind the connection's
        let shared = connection.clone();
        let third = tokio::spawn(async move { ask(&shared).await });
        let _third = third.await.unwrap();
        written.until_bytes(3 * each).await;
        assert_eq!(written.0.0.load(Ordering::Relaxed), 2);
    }
}
