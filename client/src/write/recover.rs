//! What a writer does when the head of a chain did not say yes (protocol R12): what may pass by itself is tried again,
//! the rest is brought to the master, who answers with a chunk that is fit for writing. Then everything unacknowledged
//! goes out again, in order, under the same sequences. All of it within the client's timeout since the last progress.
use crate::backoff::Backoff;
use crate::core::Core;
use crate::data::Trouble;
use crate::limits::PATIENCE;
use crate::node::{Node, State};
use crate::{Error, Location, Result};
use bytes::Bytes;
use cairn_proto::common::ErrorCode;
use cairn_proto::session::Complain;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Why a chunk's frames did not get through.
pub(super) enum Setback {
    /// The master did not say where to.
    Master(Error),
    /// The head of `location` did not do it. `fresh`: on a connection that was made for it.
    Head {
        location: Arc<Location>,
        trouble: Trouble,
        fresh: bool,
    },
}

impl Setback {
    pub fn at(location: &Arc<Location>, trouble: Trouble, fresh: bool) -> Self {
        Setback::Head {
            location: location.clone(),
            trouble,
            fresh,
        }
    }
}

/// How long there has been no progress, and what was tried since.
pub(super) struct Stall {
    timeout: Duration,
    since: Instant,
    /// Refusals and losses in a row that were tried again as they were.
    patience: u32,
    backoff: Backoff,
}

impl Stall {
    pub fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            since: Instant::now(),
            patience: 0,
            backoff: Backoff::new(),
        }
    }
    pub fn progress(&mut self) {
        self.since = Instant::now();
        self.patience = 0;
        self.backoff.reset();
    }
    /// Until it is given up.
    pub fn left(&self) -> Duration {
        (self.since + self.timeout).saturating_duration_since(Instant::now())
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Remedy {
    /// Send again, now: an idle connection was closed.
    Again,
    /// Send again after a pause.
    Pause,
    /// Ask where the chunk is now.
    Relocate,
    /// The master must mend it.
    Complain,
    /// A defect: nothing helps.
    Final,
}

/// Whether it is tried again as it is or brought to the master; `patience`: how often it was tried again already.
fn remedy(trouble: &Trouble, fresh: bool, patience: u32) -> Remedy {
    let patient = patience < PATIENCE;
    match trouble {
        Trouble::NoAnswer(_) if !fresh && patient => Remedy::Again,
        Trouble::NoAnswer(_) => Remedy::Complain,
        Trouble::Garbled(_) if patient => Remedy::Pause,
        Trouble::Garbled(_) => Remedy::Complain,
        Trouble::Failed(_) => match trouble.code() {
            ErrorCode::ErrorOutOfOrder | ErrorCode::ErrorBadChecksum | ErrorCode::ErrorUnavailable if patient => {
                Remedy::Pause
            }
            // it may be about to be installed, or the location known here is an old one
            ErrorCode::ErrorStaleVersion | ErrorCode::ErrorFenced if patient => Remedy::Relocate,
            ErrorCode::ErrorOutOfOrder
            | ErrorCode::ErrorBadChecksum
            | ErrorCode::ErrorUnavailable
            | ErrorCode::ErrorStaleVersion
            | ErrorCode::ErrorFenced
            | ErrorCode::ErrorUnspecified
            | ErrorCode::ErrorPosix
            | ErrorCode::ErrorNoReplica
            | ErrorCode::ErrorNoLease
            | ErrorCode::ErrorNotWritable
            | ErrorCode::ErrorCorrupt
            | ErrorCode::ErrorNoSpace
            | ErrorCode::ErrorDiskFailed
            | ErrorCode::ErrorChainBroken
            | ErrorCode::ErrorGrantRefused
            | ErrorCode::ErrorNoServers
            | ErrorCode::ErrorSessionEnded => Remedy::Complain,
            // a record's own affair (`append`), and no answer to anything else
            ErrorCode::ErrorChunkFull => Remedy::Final,
            ErrorCode::ErrorInvalid | ErrorCode::ErrorWrongCluster => Remedy::Final,
        },
    }
}

impl Core {
    /// Returns when it is worth to try again.
    ///
    /// # Errors
    /// What the file's writes fail with: the timeout is over, there is no space, or a defect.
    pub(super) async fn recover(&self, node: &Node, index: u32, setback: Setback, stall: &mut Stall) -> Result<()> {
        let (location, trouble, fresh) = match setback {
            Setback::Master(error) => return self.master_refused(node, index, error, stall).await,
            Setback::Head {
                location,
                trouble,
                fresh,
            } => (location, trouble, fresh),
        };
        let head = location.members.first();
        let name = head.map_or("no server", |m| m.address.as_str());
        let advice = match trouble {
            Trouble::NoAnswer(_) => " (is that its address as this machine reaches it? setting chunkserver.advertise)",
            Trouble::Garbled(_) | Trouble::Failed(_) => "",
        };
        node.state()
            .met_trouble(index, format!("chunkserver {name}: {trouble}{advice}"));
        tracing::debug!(
            inode = node.ino.0, index, chunk = %location.handle, version = %location.version, head = name,
            %trouble, fresh, patience = stall.patience, "a chunk's head did not acknowledge"
        );
        if let (Trouble::NoAnswer(_), Some(head)) = (&trouble, head)
            && fresh
        {
            self.pool.peer(&head.address).failed();
        }
        if stall.left().is_zero() {
            return Err(self.gave_up(node, index).await);
        }
        let renumbered = match &trouble {
            Trouble::Failed(failed) if trouble.code() == ErrorCode::ErrorOutOfOrder => {
                self.out_of_order(node, index, failed.last_sequence)
            }
            _ => false,
        };
        // new numbers were not tried yet, whatever was tried before them: no complaint would change them
        let remedy = match renumbered {
            true => Remedy::Pause,
            false => remedy(&trouble, fresh, stall.patience),
        };
        stall.patience += 1;
        match remedy {
            Remedy::Again => Ok(()),
            Remedy::Pause => {
                stall.backoff.wait(&self.env.rng).await;
                Ok(())
            }
            Remedy::Relocate => {
                stall.backoff.wait(&self.env.rng).await;
                if let Some(slot) = node.state().slots.get_mut(&index)
                    && slot.location.version <= location.version
                {
                    slot.writable = false;
                }
                self.relocate(node, index, stall).await
            }
            Remedy::Complain => {
                let culprit = match &trouble {
                    Trouble::Failed(failed) => failed.culprit.as_ref().map(|m| m.server.clone()),
                    Trouble::NoAnswer(_) | Trouble::Garbled(_) => None,
                };
                let about_head = || {
                    head.map(|m| Bytes::copy_from_slice(m.server.as_bytes()))
                        .unwrap_or_default()
                };
                let server = match trouble.code() {
                    ErrorCode::ErrorNotWritable | ErrorCode::ErrorStaleVersion | ErrorCode::ErrorFenced => Bytes::new(),
                    _ => culprit.unwrap_or_else(about_head),
                };
                let complaint = Complain {
                    handle: location.handle.0,
                    version: Some(location.version.into()),
                    server,
                    reason: trouble.code().into(),
                    for_write: true,
                    bad_blocks: Vec::new(),
                };
                match self.complain_for_write(node, complaint, index, stall.left()).await {
                    Ok(_) => {
                        stall.backoff.wait(&self.env.rng).await;
                        Ok(())
                    }
                    Err(error) => self.master_refused(node, index, error, stall).await,
                }
            }
            Remedy::Final => Err(self.gave_up(node, index).await),
        }
    }

    async fn relocate(&self, node: &Node, index: u32, stall: &mut Stall) -> Result<()> {
        match self.ask_locations(node.ino, index, 1, true, stall.left()).await {
            Ok((found, _)) => {
                match found.into_iter().find(|l| l.index == index) {
                    Some(location) => self.bind(node, &location, false),
                    // cut off by another client: allocated anew by the next attempt
                    None => {
                        node.state().slots.remove(&index);
                    }
                }
                Ok(())
            }
            Err(error) => self.master_refused(node, index, error, stall).await,
        }
    }

    /// The server has applied up to `last` of this session. What lies above is only out of step; when it has forgotten
    /// even what it acknowledged, or this client did not know where it stood, numbers start anew behind `last`: true then.
    fn out_of_order(&self, node: &Node, index: u32, last: u64) -> bool {
        let mut state = node.state();
        let Some(chunk) = state.chunks.get_mut(&index) else {
            return false;
        };
        let ahead = chunk.queue.front().is_some_and(|frame| frame.sequence > last + 1);
        if ahead {
            chunk.renumber(last);
        }
        ahead
    }

    async fn master_refused(&self, node: &Node, index: u32, error: Error, stall: &mut Stall) -> Result<()> {
        let Error::Refused { code, message, .. } = &error else {
            return Err(error);
        };
        node.state().met_trouble(index, error.to_string());
        match code {
            ErrorCode::ErrorNoSpace => Err(Error::NoSpace {
                path: node.label(),
                message: message.clone(),
            }),
            ErrorCode::ErrorInvalid | ErrorCode::ErrorWrongCluster | ErrorCode::ErrorChunkFull => Err(error),
            ErrorCode::ErrorStaleVersion | ErrorCode::ErrorNoReplica => {
                // the complaint or location was overtaken by another
                node.state().slots.remove(&index);
                self.pause(node, index, stall).await
            }
            ErrorCode::ErrorUnspecified
            | ErrorCode::ErrorPosix
            | ErrorCode::ErrorNoLease
            | ErrorCode::ErrorFenced
            | ErrorCode::ErrorNotWritable
            | ErrorCode::ErrorOutOfOrder
            | ErrorCode::ErrorBadChecksum
            | ErrorCode::ErrorCorrupt
            | ErrorCode::ErrorDiskFailed
            | ErrorCode::ErrorChainBroken
            | ErrorCode::ErrorUnavailable
            | ErrorCode::ErrorGrantRefused
            | ErrorCode::ErrorNoServers
            | ErrorCode::ErrorSessionEnded => self.pause(node, index, stall).await,
        }
    }

    async fn pause(&self, node: &Node, index: u32, stall: &mut Stall) -> Result<()> {
        if stall.left().is_zero() {
            return Err(self.gave_up(node, index).await);
        }
        stall.backoff.wait(&self.env.rng).await;
        Ok(())
    }

    async fn gave_up(&self, node: &Node, index: u32) -> Error {
        let path = self.path_for_people(node).await;
        self.write_failed(path, &node.state(), index)
    }

    /// The first unacknowledged frame of chunk `index` was not taken within the timeout.
    pub(super) fn write_failed(&self, path: String, state: &State, index: u32) -> Error {
        let chunk = state.chunks.get(&index);
        let within = chunk.and_then(|c| c.queue.front()).map_or(0, |frame| frame.offset);
        let trouble = chunk.and_then(|c| c.trouble.clone());
        Error::WriteFailed {
            path,
            handle: chunk.and_then(|c| c.handle).unwrap_or_default(),
            offset: u64::from(index) * cairn_types::layout::CHUNK_SIZE_BYTES + within,
            within: self.config.timeout,
            cause: trouble.unwrap_or_else(|| "the chunkservers were too slow to take all of it".into()),
        }
    }
}

impl State {
    fn met_trouble(&mut self, index: u32, trouble: String) {
        if let Some(chunk) = self.chunks.get_mut(&index) {
            chunk.trouble = Some(trouble);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_proto::{common, data::Failed};

    fn failed(code: ErrorCode) -> Trouble {
        Trouble::Failed(Box::new(Failed {
            error: Some(common::Error::new(code, "")),
            ..Default::default()
        }))
    }

    #[test]
    fn what_may_pass_is_tried_again_and_the_rest_is_the_masters() {
        let no_answer = Trouble::NoAnswer(String::new());
        assert_eq!(remedy(&no_answer, false, 0), Remedy::Again);
        assert_eq!(remedy(&no_answer, true, 0), Remedy::Complain);
        assert_eq!(remedy(&failed(ErrorCode::ErrorFenced), true, 0), Remedy::Relocate);
        assert_eq!(
            remedy(&failed(ErrorCode::ErrorFenced), true, PATIENCE),
            Remedy::Complain
        );
        assert_eq!(remedy(&failed(ErrorCode::ErrorOutOfOrder), true, 0), Remedy::Pause);
        assert_eq!(remedy(&failed(ErrorCode::ErrorNotWritable), true, 0), Remedy::Complain);
        assert_eq!(remedy(&failed(ErrorCode::ErrorNoSpace), true, 0), Remedy::Complain);
        assert_eq!(remedy(&failed(ErrorCode::ErrorInvalid), true, 0), Remedy::Final);
    }
}
