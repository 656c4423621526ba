//! The way of a chain to the next member (protocol R1): while a chunk has mutations that downstream has not
//! acknowledged, one task has one connection for it alone, sends them in order and takes the answers. On a new
//! connection everything unacknowledged is sent again; serials make that harmless.
use crate::limits::{CHAIN_REFUSED_MAX, CHAIN_RETRY_PAUSE};
use crate::peers::{Connection, PeerError};
use crate::refusal::Refusal;
use crate::replica::{Place, Replica};
use crate::shared::Core;
use cairn_proto::common::{ErrorCode, Member};
use cairn_proto::data::frame_header::Body;
use cairn_proto::frame::{Gathered, read_frame};
use futures::FutureExt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// How long a member waits for the one below it: the whole deadline at the head, less and less further down, so that
/// the member next to a silent one is the first to say so.
pub fn patience(whole: Duration, position: usize, members: usize) -> Duration {
    let links = members.saturating_sub(1).max(1) as u32;
    whole * links.saturating_sub(position as u32).max(1) / links
}

enum End {
    /// Everything is acknowledged: the connection is as good as before.
    Done(Box<Connection>),
    Lost(String),
    Broken(Refusal),
}

/// Runs until downstream owes nothing or the chain is closed.
pub async fn run(core: Arc<Core>, replica: Arc<Replica>, term: u64) {
    let Some(place) = replica.place_at(term) else {
        replica.link_done(term);
        return;
    };
    let Some(next) = place.next().cloned() else {
        return;
    };
    let patience = patience(core.config.chain_deadline, place.position, place.members.len());
    let mut fresh = false;
    let mut refused = 0;
    let mut cause = String::from("no acknowledgement in time");
    loop {
        if replica.link_done(term) {
            return;
        }
        let late = owes_too_long(&core, &replica, term, patience);
        let closed = replica.closed(term);
        let attempt = attempt(&core, &replica, term, &next, fresh);
        let end = tokio::select! {
            biased;
            () = closed => continue,
            end = attempt => end,
            () = late => End::Broken(Refusal::ChainBroken { culprit: next.clone(), cause: cause.clone() }),
        };
        match end {
            End::Done(connection) => {
                core.peers.put(*connection);
                // `attempt` has given up the link already
                return;
            }
            End::Lost(why) => {
                tracing::debug!(chunk = %replica.key.handle, peer = next.address, why, "chain connection lost");
                refused = if why == NOBODY { refused + 1 } else { 0 };
                cause = why;
                fresh = true;
                if refused >= CHAIN_REFUSED_MAX {
                    broken(
                        &core,
                        &replica,
                        term,
                        &place,
                        &next,
                        Refusal::ChainBroken {
                            culprit: next.clone(),
                            cause,
                        },
                    );
                    return;
                }
                let pause = CHAIN_RETRY_PAUSE.min(patience / 4);
                tokio::time::sleep(pause).await;
                if owed_for(&core, &replica, term).is_some_and(|d| d >= patience) {
                    broken(
                        &core,
                        &replica,
                        term,
                        &place,
                        &next,
                        Refusal::ChainBroken {
                            culprit: next.clone(),
                            cause,
                        },
                    );
                    return;
                }
            }
            End::Broken(why) => {
                broken(&core, &replica, term, &place, &next, why);
                return;
            }
        }
    }
}

const NOBODY: &str = "nobody listens there";

fn broken(core: &Core, replica: &Replica, term: u64, place: &Place, next: &Member, why: Refusal) {
    if replica.close(Some(term), why.clone()) {
        tracing::warn!(chunk = %replica.key.handle, version = %place.version, next = next.address, "chain broken: {why}");
        core.reports.broken(replica.key, place.version, &why);
    }
    replica.link_done(term);
}

fn owed_for(core: &Core, replica: &Replica, term: u64) -> Option<Duration> {
    let (_, since) = replica.owed(term)?;
    Some(core.env.clock.now().since(since))
}

/// Resolves when downstream has owed an acknowledgement for longer than `patience`.
async fn owes_too_long(core: &Core, replica: &Replica, term: u64, patience: Duration) {
    while let Some(owed) = owed_for(core, replica, term).filter(|owed| *owed < patience) {
        tokio::time::sleep((patience - owed).max(Duration::from_millis(1))).await;
    }
}

async fn attempt(core: &Core, replica: &Replica, term: u64, next: &Member, fresh: bool) -> End {
    let Some(cluster) = core.cluster() else {
        return End::Lost("this server is of no cluster yet".into());
    };
    let mut connection = match core.peers.get(cluster, next, fresh).await {
        Ok(connection) => connection,
        Err(e) if e.nobody() => return End::Lost(NOBODY.into()),
        Err(PeerError::Refused(failed)) => return refused(next, *failed),
        Err(e) => return End::Lost(e.to_string()),
    };
    let Connection { reader, writer, .. } = &mut connection;
    let send = async {
        let (mut sent, mut gathered) = (0, Gathered::default());
        let sending = async {
            loop {
                let ready = match replica.next_to_send(term, sent).now_or_never() {
                    Some(ready) => ready,
                    None => {
                        gathered.write(writer).await?;
                        replica.next_to_send(term, sent).await
                    }
                };
                // none: the chain was closed
                let Some((mut header, payload)) = ready else {
                    return Ok(());
                };
                sent = header.serial;
                header.disk = next.disk.clone();
                gathered.add(writer, Body::Write(header), &payload).await?;
            }
        };
        match sending.await {
            Ok(()) => std::future::pending().await,
            Err(e) => Some(End::Lost(io::Error::to_string(&e))),
        }
    };
    let receive = async {
        loop {
            let frame = match read_frame(reader).await {
                Ok(Some(frame)) => frame,
                Ok(None) => return Some(End::Lost(PeerError::Closed.to_string())),
                Err(e) => return Some(End::Lost(e.to_string())),
            };
            match frame.body {
                Body::Acknowledged(a) => {
                    if let Err(e) = replica.acknowledged(term, a.serial, core.env.clock.now()) {
                        return Some(End::Lost(e.to_string()));
                    }
                    // nothing is half sent then: it would not be acknowledged
                    if replica.link_done(term) {
                        return None;
                    }
                }
                Body::Failed(failed) => return Some(refused(next, failed)),
                _ => return Some(End::Lost(PeerError::WrongAnswer.to_string())),
            }
        }
    };
    let end = tokio::select! {
        biased;
        end = receive => end,
        end = send => end,
    };
    end.unwrap_or_else(|| End::Done(Box::new(connection)))
}

/// What a refusal from downstream means for the chain.
fn refused(next: &Member, mut failed: cairn_proto::data::Failed) -> End {
    let code = failed.error.as_ref().map_or(ErrorCode::ErrorUnspecified, |e| e.code());
    match code {
        // damaged on its way, or too busy: on another connection it may go
        ErrorCode::ErrorBadChecksum | ErrorCode::ErrorUnavailable => {
            End::Lost(failed.error.map_or_else(String::new, |e| e.message) + " (downstream)")
        }
        _ => {
            failed.culprit.get_or_insert_with(|| next.clone());
            End::Broken(Refusal::Passed(Box::new(failed)))
        }
    }
}
