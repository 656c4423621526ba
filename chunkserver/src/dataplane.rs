//! The data plane's server: frames over TCP, each request answered in the order of the requests on its connection.
//!
//! A connection is two tasks: one reads requests and starts them, one sends the answers as they become ready, in
//! order. What a peer can hold is bounded: connections, requests without an answer, time from a frame's first byte to
//! its last, and bytes of frames, which are only read once there is room for them.
use crate::append::Appending;
use crate::limits::{
    ANSWER_WAIT_MAX, CONNECTION_IDLE_MAX, CONNECTION_REQUESTS_MAX, CONNECTIONS_MAX, FRAME_WAIT_MAX, HELLO_WAIT_MAX,
};
use crate::refusal::Refusal;
use crate::replica::Outcome;
use crate::shared::{Answer, Core, Payload, Started, acknowledged};
use bytes::{Bytes, BytesMut};
use cairn_io::{BoxStream, BoxWriter, Listener};
use cairn_proto::PROTOCOL;
use cairn_proto::data::{Append, Hello, Welcome, frame_header::Body};
use cairn_proto::frame::{FRAME_READ_BYTES, FrameError, Gathered, PREFIX_BYTES, Prefix, decode_header, read_frame};
use cairn_proto::record::HEADER_BYTES;
use cairn_types::limits::RECORD_BYTES_MAX;
use futures::FutureExt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

/// Accepts until the server stops. Its connections are `core.tasks`.
pub async fn run(core: Arc<Core>, listener: Box<dyn Listener>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            biased;
            () = core.stopping.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => match slots.clone().try_acquire_owned() {
                Ok(slot) => {
                    core.spawn(connection(core.clone(), stream, peer).map(move |()| drop(slot)));
                }
                Err(_) => tracing::warn!(%peer, "connection refused: {CONNECTIONS_MAX} are open"),
            },
            Err(e) => {
                // of one connection, or out of descriptors: it passes
                tracing::warn!("cannot accept a connection: {e}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

type Finished = (Result<Answer, Refusal>, Option<OwnedSemaphorePermit>);

enum Waiting {
    Ready(Box<Finished>),
    Done(oneshot::Receiver<Outcome>),
    Appending(Appending),
    Task(JoinHandle<Option<Finished>>),
}

impl Waiting {
    fn refused(why: Refusal) -> Self {
        Waiting::Ready(Box::new((Err(why), None)))
    }

    /// The answer need not be waited for.
    fn is_over(&self) -> bool {
        match self {
            Waiting::Ready(_) => true,
            Waiting::Done(done) => !done.is_empty(),
            Waiting::Appending(_) => false,
            Waiting::Task(task) => task.is_finished(),
        }
    }

    async fn finished(self) -> Option<Finished> {
        match self {
            Waiting::Ready(done) => Some(*done),
            Waiting::Done(done) => {
                // a sender that is dropped belonged to a chain that is no more
                let outcome = done.await.unwrap_or(Err(Refusal::Fenced));
                Some((outcome.map(|serial| (acknowledged(serial), Payload::NONE)), None))
            }
            Waiting::Appending(appending) => {
                let appended = appending.outcome().await;
                Some((appended.map(|appended| (Body::Appended(appended), Payload::NONE)), None))
            }
            Waiting::Task(task) => task.await.ok().flatten(),
        }
    }
}

async fn connection(core: Arc<Core>, stream: BoxStream, peer: SocketAddr) {
    let (reader, mut writer) = stream.halves();
    let mut reader = BufReader::with_capacity(FRAME_READ_BYTES, reader);
    match timeout(HELLO_WAIT_MAX, welcome(&core, &mut reader, &mut writer)).await {
        Ok(Ok(true)) => {}
        Ok(Ok(false)) => return,
        Ok(Err(e)) => return tracing::debug!(%peer, "no hello: {e}"),
        Err(_) => return tracing::debug!(%peer, "no hello in time"),
    }
    let (answers, queue) = mpsc::channel(CONNECTION_REQUESTS_MAX);
    let sender = core.spawn(send_answers(core.clone(), writer, queue));
    if let Err(e) = take_requests(&core, &mut reader, &answers).await {
        tracing::debug!(%peer, "connection ended: {e}");
    }
    drop(answers);
    // what was taken is answered before the connection closes
    let _ = sender.await;
}

/// The handshake: false if the peer was refused.
async fn welcome(
    core: &Core,
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
) -> Result<bool, FrameError> {
    let Some(frame) = read_frame(reader).await? else {
        return Ok(false);
    };
    let verdict = match frame.body {
        Body::Hello(hello) => check_hello(core, &hello),
        _ => Err(Refusal::Invalid("the first frame is no Hello".into())),
    };
    let body = match &verdict {
        Ok(()) => Body::Welcome(Welcome {
            protocol: PROTOCOL,
            server: Bytes::copy_from_slice(core.server.as_bytes()),
        }),
        Err(refusal) => {
            tracing::debug!("connection refused: {refusal}");
            Body::Failed(refusal.to_failed())
        }
    };
    cairn_proto::frame::write_frame(writer, body, &[]).await?;
    writer.flush().await?;
    Ok(verdict.is_ok())
}

fn check_hello(core: &Core, hello: &Hello) -> Result<(), Refusal> {
    if hello.protocol != PROTOCOL {
        let (theirs, ours) = (hello.protocol, PROTOCOL);
        return Err(Refusal::Invalid(format!(
            "protocol {theirs}; this server speaks {ours}"
        )));
    }
    let ours = core
        .cluster()
        .ok_or(Refusal::Unavailable("this server is of no cluster yet"))?;
    if hello.cluster != ours.as_bytes()[..] {
        let theirs = cairn_types::ClusterId::try_from(&hello.cluster[..]);
        return Err(Refusal::WrongCluster {
            ours,
            theirs: theirs.map_or_else(|e| e.to_string(), |c| c.to_string()),
        });
    }
    Ok(())
}

/// As tokio's `timeout`, but what is done at once needs no timer.
pub async fn within<T>(wait: Duration, what: impl Future<Output = T>) -> Result<T, Elapsed> {
    let mut what = pin!(what);
    match futures::poll!(&mut what) {
        Poll::Ready(done) => Ok(done),
        Poll::Pending => timeout(wait, what).await,
    }
}

async fn in_time<T>(wait: Duration, what: impl Future<Output = Result<T, FrameError>>) -> Result<T, FrameError> {
    match within(wait, what).await {
        Ok(done) => done,
        Err(_) => Err(FrameError::Io(io::ErrorKind::TimedOut.into())),
    }
}

/// Reads requests and starts them, until the peer ends, the server stops or something cannot be read.
async fn take_requests<R: AsyncRead + Unpin>(
    core: &Arc<Core>,
    reader: &mut BufReader<R>,
    answers: &mpsc::Sender<Waiting>,
) -> Result<(), FrameError> {
    loop {
        let first = tokio::select! {
            biased;
            () = core.stopping.cancelled() => return Ok(()),
            () = answers.closed() => return Ok(()),
            first = timeout(CONNECTION_IDLE_MAX, reader.fill_buf()) => first,
        };
        match first {
            Ok(Ok([])) | Err(_) => return Ok(()),
            Ok(Ok(_)) => {}
            Ok(Err(e)) => return Err(e.into()),
        }
        let (body, payload_len) = in_time(FRAME_WAIT_MAX, read_head(reader)).await?;
        core.asked();
        // one place in the queue before any memory is taken
        let Ok(place) = answers.reserve().await else {
            return Ok(());
        };
        let waiting = match body {
            Body::Write(header) => {
                let room = core.write_room[core.place_of(&header)].clone();
                let room = room.acquire_many_owned(payload_len as u32).await.ok();
                let payload = in_time(FRAME_WAIT_MAX, read_payload(reader, payload_len)).await?;
                match core.write(header, payload, room).await {
                    Ok(answer) => Waiting::Done(answer),
                    Err(e) => Waiting::refused(e),
                }
            }
            Body::Append(header) => {
                let (record, room) = read_record(core, reader, &header, payload_len).await?;
                match core.append(header, record, room).await {
                    Ok(appending) => Waiting::Appending(appending),
                    Err(e) => Waiting::refused(e),
                }
            }
            _ if payload_len > 0 => {
                return Err(FrameError::Io(io::Error::other(
                    "a payload that no request of its kind has",
                )));
            }
            Body::AskRoom(request) => {
                let work = |core: Arc<Core>| async move {
                    let room = core.ask_room(request).await?;
                    Ok((Body::Room(room), Payload::NONE))
                };
                begin(core, None, work).await
            }
            Body::Sync(request) => {
                let work = |core: Arc<Core>| async move {
                    let serial = core.sync(request).await?;
                    Ok((acknowledged(serial), Payload::NONE))
                };
                begin(core, None, work).await
            }
            Body::Read(request) => {
                let room = core.read_room.clone().acquire_many_owned(request.length).await.ok();
                begin(core, room, |core| async move { core.read(request).await }).await
            }
            Body::FetchTable(request) => begin(core, None, |core| async move { core.fetch_table(request).await }).await,
            Body::FetchBlocks(request) => {
                let room = core.read_room.clone().acquire_many_owned(request.length).await.ok();
                begin(core, room, |core| async move { core.fetch_blocks(request).await }).await
            }
            _ => Waiting::refused(Refusal::Invalid("this frame is no request".into())),
        };
        place.send(waiting);
    }
}

async fn begin<W>(core: &Arc<Core>, room: Option<OwnedSemaphorePermit>, work: impl FnOnce(Arc<Core>) -> W) -> Waiting
where
    W: Future<Output = Result<Answer, Refusal>> + Send + 'static,
{
    match core.start(work(core.clone()).map(|answer| (answer, room))).await {
        Started::Done(finished) => Waiting::Ready(Box::new(finished)),
        Started::Task(task) => Waiting::Task(task),
    }
}

async fn read_head(reader: &mut (impl AsyncRead + Unpin)) -> Result<(Body, usize), FrameError> {
    let mut prefix = [0; PREFIX_BYTES];
    exactly(reader.read_exact(&mut prefix).await)?;
    let prefix = Prefix::decode(&prefix)?;
    let mut header = vec![0; prefix.header_len];
    exactly(reader.read_exact(&mut header).await)?;
    Ok((decode_header(&prefix, header.into())?, prefix.payload_len))
}

fn exactly(read: io::Result<usize>) -> Result<(), FrameError> {
    match read {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(FrameError::Truncated),
        Err(e) => Err(e.into()),
    }
}

async fn read_payload(reader: &mut (impl AsyncRead + Unpin), len: usize) -> Result<Bytes, FrameError> {
    let mut bytes = BytesMut::with_capacity(len);
    read_into(reader, &mut bytes, len).await?;
    Ok(bytes.freeze())
}

/// Reads `len` bytes behind those that are there.
async fn read_into(reader: &mut (impl AsyncRead + Unpin), bytes: &mut BytesMut, len: usize) -> Result<(), FrameError> {
    let end = bytes.len() + len;
    let mut rest = reader.take(len as u64);
    while bytes.len() < end {
        if rest.read_buf(bytes).await? == 0 {
            return Err(FrameError::Truncated);
        }
    }
    Ok(())
}

/// A record from all its frames, behind room for its header; there is memory for all of it before any is taken.
async fn read_record<R: AsyncRead + Unpin>(
    core: &Core,
    reader: &mut BufReader<R>,
    header: &Append,
    mut payload_len: usize,
) -> Result<(BytesMut, Option<OwnedSemaphorePermit>), FrameError> {
    let wrong = |what| Err(FrameError::Io(io::Error::other(what)));
    let length = header.length as usize;
    if length > RECORD_BYTES_MAX {
        return wrong("a record that is too long");
    }
    let end = HEADER_BYTES + length;
    // a record may be longer than all the memory that is configured: then it has it alone
    let room = end.min(core.config.write_room_bytes(0)) as u32;
    let room = core.write_room[0].clone().acquire_many_owned(room).await.ok();
    let mut record = BytesMut::with_capacity(end);
    record.resize(HEADER_BYTES, 0);
    loop {
        if payload_len > end - record.len() {
            return wrong("more bytes than the record has");
        }
        in_time(FRAME_WAIT_MAX, read_into(reader, &mut record, payload_len)).await?;
        if record.len() == end {
            return Ok((record, room));
        }
        let (body, len) = in_time(FRAME_WAIT_MAX, read_head(reader)).await?;
        if !matches!(body, Body::AppendMore(_)) || len == 0 {
            return wrong("a record without its end");
        }
        payload_len = len;
    }
}

/// Sends the answers in order, several in one write while they are small and more are ready.
async fn send_answers(core: Arc<Core>, mut writer: BoxWriter, mut queue: mpsc::Receiver<Waiting>) {
    let mut gathered = Gathered::default();
    loop {
        let waiting = match queue.try_recv() {
            Ok(waiting) => waiting,
            Err(_) => {
                if in_answer_time(gathered.write(&mut writer)).await.is_err() {
                    return;
                }
                match queue.recv().await {
                    Some(waiting) => waiting,
                    None => return,
                }
            }
        };
        if !waiting.is_over() && in_answer_time(gathered.write(&mut writer)).await.is_err() {
            return;
        }
        // none: the server ends, or it panicked
        let Some((answer, room)) = waiting.finished().await else {
            return;
        };
        let (body, payload) = answer.unwrap_or_else(|e| (Body::Failed(e.to_failed()), Payload::NONE));
        match payload {
            Payload::Bytes(bytes) => {
                if in_answer_time(gathered.add(&mut writer, body, &bytes)).await.is_err() {
                    return;
                }
            }
            Payload::Stored(range, doubt) => {
                let head = gathered.before(body, range.len);
                let (blocking, habit) = (core.env.blocking, &core.habits.send);
                match in_answer_time(writer.send_file(blocking, habit, head, range)).await {
                    Ok(back) => writer = back,
                    Err(e) if of_connection(&e) => return,
                    Err(e) => return core.look_into(doubt, &e).await,
                }
            }
        }
        drop(room);
    }
}

async fn in_answer_time<T>(write: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    within(ANSWER_WAIT_MAX, write).await?
}

/// Whether it says something of the connection rather than of a file.
fn of_connection(e: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        e.kind(),
        Kind::BrokenPipe | Kind::ConnectionReset | Kind::ConnectionAborted | Kind::NotConnected | Kind::TimedOut
    )
}
