//! The task behind a session: opens the stream, opens it again when it breaks, and moves calls and answers.
use super::{Answered, Reply, Shared, Waiting, is_logged, refusal};
use crate::backoff::Backoff;
use crate::limits::OUTGOING_MAX;
use crate::session::pushes::Ledger;
use crate::{Error, Invalidated, Result, Server};
use cairn_proto::common::{self, ErrorCode};
use cairn_proto::session::sessions_client::SessionsClient;
use cairn_proto::session::{
    Call, Closed, Declare, FromClient, FromMaster, Hello, Ping, Push, Welcome, from_client, from_master,
};
use cairn_proto::{PROTOCOL, session};
use cairn_types::limits::{CONTROL_MESSAGE_BYTES_MAX, DECLARED_AT_ONCE_MAX};
use cairn_types::{ClusterId, Inode};
use futures::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// Why a connection could not be made or ended.
enum End {
    /// It may be better next time.
    Broken(String),
    /// The master answered, and does not want this client.
    Refused(Error),
}

impl End {
    fn broken(cause: impl std::fmt::Display) -> Self {
        End::Broken(cause.to_string())
    }
}

/// Runs until `stop`. The first success, or refusal before it, is told to `opened`.
pub(super) async fn run(shared: Arc<Shared>, opened: oneshot::Sender<Result<ClusterId>>, stop: CancellationToken) {
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = shared.pushes.forward() => {}
        () = reconnect(&shared, opened) => {}
    }
}

async fn reconnect(shared: &Arc<Shared>, opened: oneshot::Sender<Result<ClusterId>>) {
    let mut opened = Some(opened);
    let mut backoff = Backoff::new();
    // when the master was last heard of, on any connection
    let mut heard = Instant::now();
    loop {
        let end = match open(shared).await {
            Ok(stream) => {
                backoff.reset();
                let (first, cluster) = (opened.is_some(), stream.cluster);
                begin(shared, &stream.welcome, first, heard);
                heard = Instant::now();
                if let Some(opened) = opened.take() {
                    let _ = opened.send(Ok(cluster));
                }
                let end = converse(shared, stream, &mut heard).await;
                shared.names.lost();
                end
            }
            Err(end) => end,
        };
        let cause = match end {
            End::Broken(cause) => cause,
            End::Refused(error) => {
                let cause = error.to_string();
                if let Some(opened) = opened.take() {
                    let _ = opened.send(Err(error));
                    return;
                }
                tracing::error!(master = shared.config.master, "{cause}");
                cause
            }
        };
        tracing::debug!(master = shared.config.master, cause, "session's stream ended");
        {
            let mut table = shared.table();
            table.cause = cause;
            // nobody waits for these, and they are not sent again
            table.calls.retain(|_, call| call.request.is_some());
        }
        backoff.wait(&shared.env.rng).await;
    }
}

struct Open {
    outgoing: mpsc::Sender<FromClient>,
    incoming: tonic::Streaming<FromMaster>,
    welcome: Welcome,
    cluster: ClusterId,
}

fn message(body: from_client::Body) -> FromClient {
    FromClient { body: Some(body) }
}

async fn open(shared: &Shared) -> std::result::Result<Open, End> {
    let config = &shared.config;
    let no_answer = |_| End::broken("connected, but it did not answer");
    let channel = cairn_io::grpc::connect(shared.env.net.clone(), &config.master, config.connect_timeout)
        .await
        .map_err(End::broken)?;
    let open = shared.host().map(|host| host.declare()).unwrap_or_default();
    let mut pieces = open
        .chunks(DECLARED_AT_ONCE_MAX)
        .map(|piece| piece.iter().map(|ino| ino.0).collect::<Vec<_>>());
    let known = shared.table().cluster;
    let hello = Hello {
        session: bytes::Bytes::copy_from_slice(shared.id.as_bytes()),
        cluster: known
            .map(|c| bytes::Bytes::copy_from_slice(c.as_bytes()))
            .unwrap_or_default(),
        description: config.description.clone(),
        host: config.host_label.clone(),
        open_inodes: pieces.next().unwrap_or_default(),
        more: pieces.len() > 0,
        protocol: PROTOCOL,
    };
    let (outgoing, messages) = mpsc::channel(OUTGOING_MAX);
    outgoing
        .send(message(from_client::Body::Hello(hello)))
        .await
        .map_err(End::broken)?;
    while let Some(open_inodes) = pieces.next() {
        let more = pieces.len() > 0;
        let declare = from_client::Body::Declare(Declare { open_inodes, more });
        outgoing.send(message(declare)).await.map_err(End::broken)?;
    }
    let mut client = SessionsClient::new(channel)
        .max_decoding_message_size(CONTROL_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(CONTROL_MESSAGE_BYTES_MAX);
    let answer = timeout(config.connect_timeout, client.session(ReceiverStream::new(messages))).await;
    let mut incoming = answer
        .map_err(no_answer)?
        .map_err(|status| ended(shared, &status))?
        .into_inner();
    let first = timeout(config.connect_timeout, incoming.next())
        .await
        .map_err(no_answer)?;
    let welcome = match first {
        Some(Ok(FromMaster {
            body: Some(from_master::Body::Welcome(welcome)),
        })) => welcome,
        Some(Ok(_)) => return Err(End::broken("its first word was not a welcome")),
        Some(Err(status)) => return Err(ended(shared, &status)),
        None => return Err(End::broken("it ended the stream at once")),
    };
    let cluster = ClusterId::try_from(&welcome.cluster[..]).map_err(End::broken)?;
    if let Some(ours) = known.filter(|ours| *ours != cluster) {
        let theirs = cluster.to_string();
        return Err(End::Refused(Error::WrongCluster {
            server: shared.master(),
            ours,
            theirs,
        }));
    }
    {
        let mut table = shared.table();
        table.cluster = Some(cluster);
        table.cause = "connected, and still at work on the call".into();
    }
    Ok(Open {
        outgoing,
        incoming,
        welcome,
        cluster,
    })
}

/// The stream's end as gRPC tells it.
fn ended(shared: &Shared, status: &tonic::Status) -> End {
    let cause = match status.message() {
        "" => format!("{:?}", status.code()),
        message => message.to_owned(),
    };
    let refused = |code| {
        let server = Server::Master(shared.config.master.clone());
        End::Refused(refusal(server, common::Error::new(code, cause.clone())))
    };
    match status.code() {
        tonic::Code::FailedPrecondition | tonic::Code::InvalidArgument | tonic::Code::PermissionDenied => {
            refused(ErrorCode::ErrorInvalid)
        }
        tonic::Code::Unimplemented => refused(ErrorCode::ErrorInvalid),
        _ => End::Broken(cause),
    }
}

/// What a new stream means for what was before it.
fn begin(shared: &Shared, welcome: &Welcome, first: bool, heard: Instant) {
    if first {
        return;
    }
    // pushes may have been lost with the stream: nothing cached before is believed
    if let Some(host) = shared.host() {
        host.invalidate(&Invalidated::Everything);
    }
    shared.pushes.add(Invalidated::Everything, Vec::new());
    if welcome.resumed {
        return;
    }
    tracing::warn!(
        master = shared.config.master,
        silent_s = heard.elapsed().as_secs(),
        "the master had ended this client's session"
    );
    // its memory of what it applied has gone with the session: what may have been applied is not sent again
    let mut table = shared.table();
    let sent_and_logged = |call: &Waiting| call.sent.is_some() && call.request.as_ref().is_some_and(is_logged);
    let lost: Vec<u64> = table
        .calls
        .iter()
        .filter(|(_, c)| sent_and_logged(c))
        .map(|(n, _)| *n)
        .collect();
    table.cause = "the session ended before it answered".into();
    for number in lost {
        if let Some(reply) = table.calls.remove(&number).and_then(|call| call.reply) {
            let _ = reply.send(Reply::Lost);
        }
    }
    drop(table);
    if let Some(host) = shared.host() {
        host.session_ended();
    }
}

/// Moves messages until the stream ends.
async fn converse(shared: &Shared, stream: Open, heard: &mut Instant) -> End {
    let Open {
        outgoing,
        mut incoming,
        welcome,
        ..
    } = stream;
    let ledger = Arc::new(Ledger::default());
    let silence = shared.config.silence;
    let ping_every = (silence / 3).min(Duration::from_millis(u64::from(welcome.session_timeout_ms) / 3));
    let mut pings = tokio::time::interval(ping_every.max(Duration::from_millis(10)));
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // calls up to this number were sent on this stream; pushes up to that one were acknowledged on it
    let (mut sent, mut acknowledged, mut ping) = (0, 0, false);
    loop {
        let (call, closed) = next(shared, sent);
        let done = ledger.done();
        let something = call.is_some() || closed || done > acknowledged || ping;
        tokio::select! {
            biased;
            answer = timeout_at(*heard + silence, incoming.next()) => {
                let body = match answer {
                    Err(_) => return End::broken(format_args!("it was silent for {} s", silence.as_secs())),
                    Ok(None) => return End::broken("it ended the stream"),
                    Ok(Some(Err(status))) => return ended(shared, &status),
                    Ok(Some(Ok(message))) => message.body,
                };
                *heard = Instant::now();
                match body {
                    Some(from_master::Body::Answer(answer)) => settle(shared, answer),
                    Some(from_master::Body::Push(push)) => take(shared, &ledger, push),
                    Some(from_master::Body::Pong(_)) => {}
                    Some(from_master::Body::Welcome(_)) => return End::broken("it said welcome twice"),
                    // of a later protocol: not for us
                    None => {}
                }
            }
            slot = outgoing.reserve(), if something => {
                let Ok(slot) = slot else { return End::broken("the connection was lost") };
                if done > acknowledged {
                    acknowledged = done;
                    slot.send(message(from_client::Body::PushesDone(done)));
                } else if let Some(number) = call {
                    sent = number;
                    if let Some(call) = mark_sent(shared, number) {
                        slot.send(message(from_client::Body::Call(call)));
                    }
                } else if closed {
                    slot.send(message(from_client::Body::Closed(shared.table().take_closed())));
                } else {
                    ping = false;
                    slot.send(message(from_client::Body::Ping(Ping {})));
                }
            }
            () = shared.work.notified(), if call.is_none() && !closed => {}
            () = ledger.changed(), if done == acknowledged => {}
            _ = pings.tick() => ping = true,
        }
    }
}

/// The call to be sent next, and whether there is something to be said of closed files that waits for no call.
fn next(shared: &Shared, sent: u64) -> (Option<u64>, bool) {
    let table = shared.table();
    let mut unsent = table.calls.range(sent + 1..);
    let call = unsent
        .find(|(_, call)| call.request.is_some())
        .map(|(number, _)| *number);
    (call, table.hurry)
}

fn mark_sent(shared: &Shared, number: u64) -> Option<Call> {
    let mut table = shared.table();
    let acknowledged = table.acknowledged();
    let call = table.calls.get_mut(&number)?;
    let request = call.request.clone()?;
    call.sent = Some(Instant::now());
    let closed = table.take_closed();
    Some(Call {
        closed: (closed != Closed::default()).then_some(closed),
        sequence: number,
        acknowledged,
        request: Some(request),
    })
}

fn settle(shared: &Shared, answer: session::Answer) {
    let Some(waiting) = shared.table().calls.remove(&answer.sequence) else {
        return;
    };
    if let Some(sent) = waiting.sent.filter(|_| !answer.behind) {
        shared.names.confirm(sent);
    }
    let Some(reply) = waiting.reply else { return };
    let result = answer.result.unwrap_or_else(|| {
        let error = common::Error::new(
            ErrorCode::ErrorInvalid,
            "an answer without a result that this version knows",
        );
        session::answer::Result::Error(error)
    });
    let changed = answer.changed;
    let _ = reply.send(Reply::Answer(Box::new(Answered { result, changed })));
}

/// A push takes effect here, then goes on to the mount.
fn take(shared: &Shared, ledger: &Arc<Ledger>, push: Push) {
    let debt = ledger.receive(push.number);
    let mut all = Vec::with_capacity(push.invalidations.len());
    if push.everything {
        all.push(Invalidated::Everything);
    }
    for i in push.invalidations {
        let ino = Inode(i.inode);
        all.push(match i.name.is_empty() {
            true => Invalidated::Inode { ino, data: i.data },
            false => Invalidated::Entry {
                parent: ino,
                name: i.name,
            },
        });
    }
    let host = shared.host();
    for what in all {
        shared.names.invalidate(&what);
        if let Some(host) = &host {
            host.invalidate(&what);
        }
        shared.pushes.add(what, vec![debt.clone()]);
    }
}
