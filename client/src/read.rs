//! Reading: a range is cut into pieces of at most a frame, each is asked of the best replica, of another when that one
//! fails or is slow, and of the master when all do. Bytes count only when they agree with their checksums.
use crate::ahead::ReadAhead;
use crate::backoff::Backoff;
use crate::core::Core;
use crate::data::{Peer, Progress, Trouble};
use crate::limits::{READ_PIECES_MAX, READ_PIECES_SLOW_MAX, SHARED_READ_BYTES_MAX};
use crate::node::Node;
use crate::{Attr, Error, Location, Member, ReplicaRead, Result, Server};
use bytes::{Bytes, BytesMut};
use cairn_proto::common::ErrorCode;
use cairn_proto::data::{self, frame_header::Body};
use cairn_proto::frame::{Frame, checksums};
use cairn_proto::session::{Complain, call::Request};
use cairn_types::layout::{CHUNK_SIZE_BYTES, chunk_ranges};
use cairn_types::limits::{BELIEVED_FOR, FRAME_PAYLOAD_BYTES_MAX};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt, TryStreamExt};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// A part of a read within one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    index: u32,
    offset: u64,
    len: u32,
}

/// A replica that may be read.
struct Candidate<'a> {
    member: &'a Member,
    peer: Arc<Peer>,
    /// Did not answer lately; is on another host; has so many bytes to send here.
    burden: (bool, bool, u64),
}

const FRAME: u64 = FRAME_PAYLOAD_BYTES_MAX as u64;
/// The least that a long read is cut into.
const PIECE_BYTES_MIN: u64 = FRAME / 8;
/// What comes from one server in this time is a piece: short enough that others can take over what is left from a
/// busy server, long enough that it costs nothing.
const PIECE_TIME: Duration = Duration::from_millis(20);

/// How quickly long reads have come lately, in bytes a second; 0: there was none.
#[derive(Default)]
pub(crate) struct Pace(AtomicU64);

impl Pace {
    /// Of less than a frame the round trip is what takes the time: that says nothing.
    fn came(&self, bytes: u64, within: Duration) {
        if bytes < FRAME {
            return;
        }
        let now = (bytes as f64 / within.as_secs_f64().max(1e-6)) as u64;
        let paced = match self.0.load(Ordering::Relaxed) {
            0 => now,
            before => before - before / 4 + now / 4,
        };
        self.0.store(paced, Ordering::Relaxed);
    }

    /// A frame, or half, a quarter or an eighth of one; and how many of them to ask for at a time.
    fn pieces(&self) -> (u64, usize) {
        let pace = self.0.load(Ordering::Relaxed);
        let wanted = (pace as f64 * PIECE_TIME.as_secs_f64()) as u64;
        let mut bytes = FRAME;
        while pace > 0 && bytes > wanted && bytes > PIECE_BYTES_MIN {
            bytes /= 2;
        }
        let full = bytes == FRAME;
        (bytes, if full { READ_PIECES_MAX } else { READ_PIECES_SLOW_MAX })
    }
}

/// Cuts a range of a file at chunk boundaries and at multiples of `most` bytes: a frame, or a part of one.
fn pieces(offset: u64, len: u64, most: u64) -> impl Iterator<Item = Piece> {
    chunk_ranges(offset, len).flat_map(move |range| {
        let end = range.offset + range.len;
        let mut at = range.offset;
        std::iter::from_fn(move || {
            (at < end).then(|| {
                let next = end.min((at / most + 1) * most);
                let piece = Piece {
                    index: range.index,
                    offset: at,
                    len: (next - at) as u32,
                };
                at = next;
                piece
            })
        })
    })
}

impl Core {
    /// The bytes of `[offset, offset + len)` as far as the file goes, with every write that was made here before.
    pub async fn read(self: &Arc<Self>, node: &Arc<Node>, ahead: &ReadAhead, offset: u64, len: usize) -> Result<Bytes> {
        let wanted = len as u64;
        if wanted == 0 {
            return Ok(Bytes::new());
        }
        let deadline = Instant::now() + self.config.timeout;
        self.flush_range(node, offset, wanted).await?;
        let size = self
            .size_for_read(node, offset.saturating_add(wanted), deadline)
            .await?;
        let len = size.saturating_sub(offset).min(wanted);
        ahead.advance(self, node, offset, len, size);
        match ahead.take(node, offset, len).await {
            Some(data) => Ok(data),
            None => self.read_within(node, offset, len, deadline).await,
        }
    }

    /// The file's size; as the master has it now where the read goes beyond what is known of it, or when the master has
    /// said that it changed. The kernel asks for whole pages: the end of almost every file.
    async fn size_for_read(&self, node: &Node, end: u64, deadline: Instant) -> Result<u64> {
        {
            let mut state = node.state();
            if end <= state.size() && state.attr_is_fresh() {
                return Ok(state.size());
            }
            let proved = self.session.names().attr(node.ino, BELIEVED_FOR);
            if let Some(attr) = proved.and_then(|(attr, _)| Attr::try_from(attr).ok()) {
                state.learn(attr, false);
                return Ok(state.size());
            }
        }
        Box::pin(self.current_size(node, deadline)).await
    }

    /// The file's size as the master has it now, with what was written here.
    async fn current_size(&self, node: &Node, deadline: Instant) -> Result<u64> {
        let pushed = node.state().pushed;
        let attr = self
            .ask_attr(node.ino, deadline.saturating_duration_since(Instant::now()))
            .await?;
        let mut state = node.state();
        state.learn(attr, false);
        state.fresh_as_of = pushed;
        Ok(state.size())
    }

    /// Where the next append goes.
    pub async fn end_of_file(&self, node: &Node) -> Result<u64> {
        {
            let state = node.state();
            if state.attr_is_fresh() {
                return Ok(state.size());
            }
        }
        self.current_size(node, Instant::now() + self.config.timeout).await
    }

    /// A range that lies within the file, with nothing pending in it.
    pub async fn read_within(self: &Arc<Self>, node: &Node, offset: u64, len: u64, deadline: Instant) -> Result<Bytes> {
        let mut all = pieces(offset, len, FRAME);
        match (all.next(), all.next()) {
            (None, _) => Ok(Bytes::new()),
            (Some(only), None) => self.read_piece(node, only, deadline).await,
            (Some(_), Some(_)) => self.read_pieces(node, offset, len, deadline).await,
        }
    }

    /// Some pieces at a time: each is asked of the replica that has the least to send here when its turn comes, so that
    /// those that are quick send more.
    async fn read_pieces(self: &Arc<Self>, node: &Node, offset: u64, len: u64, deadline: Instant) -> Result<Bytes> {
        let asked = Instant::now();
        let (most, at_a_time) = self.pace.pieces();
        let reads = pieces(offset, len, most)
            .enumerate()
            .map(async |(n, piece)| Ok((n, self.read_piece(node, piece, deadline).await?)));
        let mut reads = std::pin::pin!(futures::stream::iter(reads).buffer_unordered(at_a_time));
        let mut whole = BytesMut::with_capacity(len as usize);
        let (mut next, mut early) = (0, BTreeMap::new());
        while let Some((n, piece)) = reads.try_next().await? {
            early.insert(n, piece);
            while let Some(piece) = early.remove(&next) {
                whole.extend_from_slice(&piece);
                next += 1;
            }
        }
        self.pace.came(len, asked.elapsed());
        Ok(whole.freeze())
    }

    /// Exactly the piece: what no replica holds of it is zeros.
    async fn read_piece(self: &Arc<Self>, node: &Node, piece: Piece, deadline: Instant) -> Result<Bytes> {
        let mut backoff = Backoff::new();
        let mut anew = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let known = (!anew).then(|| node.state().location(piece.index)).flatten();
            let (location, asked) = match known {
                Some(known) => (Some(known), false),
                None => (
                    Box::pin(self.locate_for_read(node, piece.index, anew, left)).await?,
                    true,
                ),
            };
            let Some(location) = location else {
                return Ok(zeros(piece.len as usize));
            };
            let causes = match self.read_any(node, &location, piece, deadline).await {
                Ok(data) => return Ok(padded(data, piece.len as usize)),
                Err(causes) => causes,
            };
            let all_say = |code| !causes.is_empty() && causes.iter().all(|(_, trouble)| trouble.code() == code);
            // allocated, never written, and its grant is good no more: the master has it made
            if asked && anew && all_say(ErrorCode::ErrorNoReplica) {
                Box::pin(self.have_it_made(node, &location, deadline)).await?;
            }
            let hopeless = asked && all_say(ErrorCode::ErrorCorrupt);
            let pause = backoff.step(&self.env.rng);
            if hopeless || Instant::now() + pause >= deadline {
                return Err(Box::pin(self.unreadable(node, &location, piece, &causes)).await);
            }
            if asked {
                tokio::time::sleep(pause).await;
            }
            anew = true;
        }
    }

    /// Asks replica after replica, and a further one as well when nothing of an answer comes for long; the first good
    /// answer counts. One that is sending is as quick as its network lets it: asking another would only take from that.
    async fn read_any(
        self: &Arc<Self>,
        node: &Node,
        location: &Location,
        piece: Piece,
        deadline: Instant,
    ) -> std::result::Result<Bytes, Vec<(String, Trouble)>> {
        let mut candidates = self.by_preference(location, piece.offset).into_iter();
        let progress = Progress::default();
        let ask = |Candidate { member, peer, .. }| {
            let read = self.read_member(node, location, (member, peer), piece, deadline, &progress);
            Box::pin(read.map(move |result| (&member.address, result)))
        };
        let failed = |address: &String, trouble| {
            tracing::debug!(
                chunk = %location.handle, version = %location.version, server = address, %trouble,
                "a replica could not be read"
            );
            (address.clone(), trouble)
        };
        let mut hedge_at = Instant::now() + self.config.hedge_after;
        let mut causes = Vec::new();
        let mut first = candidates.next().map(&ask);
        // mostly that is all
        if let Some(asked) = &mut first
            && let Ok((address, result)) = timeout_at(hedge_at, asked).await
        {
            match result {
                Ok(data) => return Ok(data),
                Err(trouble) => causes.push(failed(address, trouble)),
            }
            first = None;
        }
        let mut running: FuturesUnordered<_> = first.into_iter().collect();
        loop {
            if running.is_empty() {
                match candidates.next() {
                    Some(candidate) => running.push(ask(candidate)),
                    None => return Err(causes),
                }
            }
            tokio::select! {
                biased;
                Some((address, result)) = running.next() => match result {
                    Ok(data) => return Ok(data),
                    Err(trouble) => causes.push(failed(address, trouble)),
                },
                () = tokio::time::sleep_until(hedge_at), if candidates.len() > 0 => {
                    let now = Instant::now();
                    let silent_at = progress.heard().map(|at| at + self.config.hedge_after);
                    hedge_at = match silent_at.filter(|at| *at > now) {
                        Some(later) => later,
                        None => {
                            running.extend(candidates.next().map(&ask));
                            now + self.config.hedge_after
                        }
                    };
                }
            }
        }
    }

    /// The nearest first, those that did not answer lately last, and of others those first that have the least to send
    /// here. Between equals the choice is the session's own, and another for each frame of the chunk, so that many
    /// readers, and the pieces of one large read, spread over the replicas: the network of each server carries a part.
    fn by_preference<'a>(&self, location: &'a Location, offset: u64) -> Vec<Candidate<'a>> {
        let members = &location.members;
        if members.is_empty() {
            return Vec::new();
        }
        let session = self
            .session
            .id()
            .as_bytes()
            .iter()
            .fold(0u64, |sum, b| sum.wrapping_add(u64::from(*b)));
        let frame = offset / FRAME_PAYLOAD_BYTES_MAX as u64;
        let turn = (location.handle.0.wrapping_add(session).wrapping_add(frame) % members.len() as u64) as usize;
        let host = self.config.host_label.rsplit('/').next().unwrap_or_default();
        let far = |address: &str| host.is_empty() || address.rsplit_once(':').is_none_or(|(name, _)| name != host);
        let candidate = |member: &'a Member| {
            let peer = self.pool.peer(&member.address);
            let (dead, asked) = peer.burden();
            let burden = (dead, far(&member.address), asked);
            Candidate { member, peer, burden }
        };
        let mut candidates: Vec<_> = members[turn..].iter().chain(&members[..turn]).map(candidate).collect();
        candidates.sort_by_key(|candidate| candidate.burden);
        candidates
    }

    /// One replica. Bytes that do not agree with their checksums are asked for once more, verified by the server, which
    /// tells rot on its disk from damage under way; rot is told to the master (promise 8).
    async fn read_member(
        self: &Arc<Self>,
        node: &Node,
        location: &Location,
        (member, peer): (&Member, Arc<Peer>),
        piece: Piece,
        deadline: Instant,
        progress: &Progress,
    ) -> std::result::Result<Bytes, Trouble> {
        let mut verify = false;
        loop {
            let left = deadline
                .saturating_duration_since(Instant::now())
                .min(self.config.server_timeout);
            let trouble = match self
                .ask_member(
                    location,
                    (member, &peer),
                    (piece.offset, piece.len),
                    verify,
                    left,
                    progress,
                )
                .await
            {
                Ok(read) => {
                    peer.answered();
                    return Ok(read.data);
                }
                Err(trouble) => trouble,
            };
            match &trouble {
                Trouble::Garbled(_) if !verify => {
                    verify = true;
                    continue;
                }
                Trouble::Garbled(_) => {
                    self.report(node, location, member, ErrorCode::ErrorBadChecksum, Vec::new());
                }
                Trouble::NoAnswer(_) => peer.failed(),
                Trouble::Failed(failed) if trouble.code() == ErrorCode::ErrorCorrupt => {
                    self.report(
                        node,
                        location,
                        member,
                        ErrorCode::ErrorCorrupt,
                        failed.bad_blocks.clone(),
                    );
                }
                Trouble::Failed(_) => {}
            }
            return Err(trouble);
        }
    }

    /// One answer of one replica, its checksums verified.
    pub async fn ask_member(
        &self,
        location: &Location,
        (member, peer): (&Member, &Arc<Peer>),
        (offset, len): (u64, u32),
        verify: bool,
        within: Duration,
        progress: &Progress,
    ) -> std::result::Result<ReplicaRead, Trouble> {
        let read = || {
            Body::Read(data::Read {
                handle: location.handle.0,
                version: Some(location.version.into()),
                disk: Bytes::copy_from_slice(member.disk.as_bytes()),
                offset,
                length: len,
                verify,
            })
        };
        let _asking = peer.ask(len.into());
        let connection = match len <= SHARED_READ_BYTES_MAX {
            true => peer.share().await?,
            false => Arc::new(peer.get().await?),
        };
        progress.follow(&connection);
        let mut answer = connection.ask(read, within).await;
        if !connection.fresh && matches!(answer, Err(Trouble::NoAnswer(_))) && !connection.alive() {
            // it had been closed while it was idle
            drop(connection);
            let connection = peer.get_fresh().await?;
            progress.follow(&connection);
            answer = connection.ask(read, within).await;
        }
        let Frame { body, payload } = answer?;
        let Body::ReadDone(done) = body else {
            return Err(Trouble::Garbled("another answer than bytes".into()));
        };
        if payload.len() > len as usize || !checksums(offset, &payload).eq(done.checksums) {
            return Err(Trouble::Garbled(format!(
                "{} bytes at {offset} of chunk {} that do not agree with their checksums",
                payload.len(),
                location.handle
            )));
        }
        if (payload.len() as u64) < u64::from(len) && done.chunk_length > offset + payload.len() as u64 {
            return Err(Trouble::Garbled("fewer bytes than it has".into()));
        }
        Ok(ReplicaRead {
            data: payload,
            chunk_length: done.chunk_length,
        })
    }

    async fn have_it_made(&self, node: &Node, location: &Location, deadline: Instant) -> Result<()> {
        let complaint = Request::Complain(Complain {
            handle: location.handle.0,
            version: Some(location.version.into()),
            server: Bytes::new(),
            reason: ErrorCode::ErrorNoReplica.into(),
            for_write: true,
            bad_blocks: Vec::new(),
        });
        // so the master takes it
        node.state().writing = true;
        let within = deadline.saturating_duration_since(Instant::now());
        match self.session.call(complaint, within).await {
            // overtaken by another change: looked up anew
            Ok(_) | Err(Error::Refused { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Tells the master of a bad replica; the reader does not wait for it.
    fn report(
        self: &Arc<Self>,
        node: &Node,
        location: &Location,
        member: &Member,
        reason: ErrorCode,
        bad_blocks: Vec<u32>,
    ) {
        tracing::warn!(
            inode = node.ino.0, index = location.index, chunk = %location.handle, server = member.address,
            ?bad_blocks, "a replica is corrupt; another one is read, and the master told"
        );
        let complaint = Request::Complain(Complain {
            handle: location.handle.0,
            version: Some(location.version.into()),
            server: Bytes::copy_from_slice(member.server.as_bytes()),
            reason: reason.into(),
            for_write: false,
            bad_blocks,
        });
        self.detach(move |core| async move {
            if let Err(error) = core.session.call(complaint, core.config.timeout).await {
                tracing::debug!("a complaint was not heard: {error}");
            }
        });
    }

    async fn unreadable(&self, node: &Node, location: &Location, piece: Piece, causes: &[(String, Trouble)]) -> Error {
        let path = self.path_for_people(node).await;
        let offset = u64::from(piece.index) * CHUNK_SIZE_BYTES + piece.offset;
        let causes: Vec<String> = causes
            .iter()
            .map(|(address, trouble)| format!("{address}: {trouble}"))
            .collect();
        let causes = if causes.is_empty() {
            "it has no members".into()
        } else {
            causes.join("; ")
        };
        tracing::error!(path, inode = node.ino.0, chunk = %location.handle, offset, "no replica can be read: {causes}");
        Error::Unreadable {
            path,
            handle: location.handle,
            offset,
            causes,
        }
    }

    /// One chosen replica, for tools.
    pub async fn read_replica(
        &self,
        location: &Location,
        member: &Member,
        offset: u64,
        len: u32,
        verify: bool,
    ) -> Result<ReplicaRead> {
        let (within, peer) = (self.config.server_timeout, self.pool.peer(&member.address));
        self.ask_member(
            location,
            (member, &peer),
            (offset, len),
            verify,
            within,
            &Progress::default(),
        )
        .await
        .map_err(|trouble| {
            let server = Server::Chunkserver(member.address.clone());
            match trouble {
                Trouble::NoAnswer(cause) => Error::NoAnswer { server, within, cause },
                Trouble::Garbled(message) => Error::Refused {
                    server,
                    code: ErrorCode::ErrorBadChecksum,
                    message,
                },
                Trouble::Failed(_) => Error::Refused {
                    server,
                    code: trouble.code(),
                    message: trouble.to_string(),
                },
            }
        })
    }
}

pub(crate) fn zeros(len: usize) -> Bytes {
    static ZEROS: [u8; FRAME_PAYLOAD_BYTES_MAX] = [0; FRAME_PAYLOAD_BYTES_MAX];
    match ZEROS.get(..len) {
        Some(zeros) => Bytes::from_static(zeros),
        None => Bytes::from(vec![0; len]),
    }
}

/// Zeros behind what the replica holds: the file is longer than its last write there.
fn padded(data: Bytes, len: usize) -> Bytes {
    if data.len() == len {
        return data;
    }
    let mut whole = BytesMut::with_capacity(len);
    whole.extend_from_slice(&data);
    whole.resize(len, 0);
    whole.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn long_reads_are_cut_finer_over_a_slow_network() {
        let pace = Pace::default();
        pace.came(8192, Duration::from_millis(1));
        assert_eq!(pace.pieces(), (FRAME, READ_PIECES_MAX), "nothing is known of it");
        for (mib_a_second, bytes) in [(1000, FRAME), (40, FRAME / 2), (12, FRAME / 8), (1, FRAME / 8)] {
            for _ in 0..100 {
                pace.came(mib_a_second << 20, Duration::from_secs(1));
            }
            assert_eq!(pace.pieces().0, bytes, "{mib_a_second} MiB/s");
            assert_eq!(pace.pieces().1 == READ_PIECES_MAX, bytes == FRAME);
        }
    }

    proptest! {
        #[test]
        fn pieces_cover_a_range_once_and_in_order(offset in 0u64..(200 << 20), len in 0u64..(80 << 20), halved in 0u32..4) {
            let most = FRAME >> halved;
            let mut at = offset;
            for piece in pieces(offset, len, most) {
                prop_assert_eq!(u64::from(piece.index) * CHUNK_SIZE_BYTES + piece.offset, at);
                prop_assert!(piece.len > 0);
                prop_assert_eq!(piece.offset / most, (piece.offset + u64::from(piece.len) - 1) / most);
                at += u64::from(piece.len);
            }
            prop_assert_eq!(at, offset + len);
        }
    }
}
