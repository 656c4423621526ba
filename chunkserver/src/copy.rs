//! Copies between replicas (protocol R4): a fenced replica becomes identical with the source, and a joining one is
//! filled beforehand. Only what differs crosses the network; every block is checked against the checksum that came
//! with it and against the source's table before it is written.
use crate::limits::{COPY_REQUEST_WAIT_MAX, COPY_REQUESTS_AT_A_TIME, COPY_TABLE_WAIT_MAX};
use crate::peers::PeerError;
use crate::refusal::Refusal;
use crate::replica::{Key, Remembered, Replica};
use crate::shared::{Core, code_of, from_wire};
use crate::store::{At, Chunk, ChunkMeta, State, StoreError};
use bytes::{Buf, Bytes};
use cairn_proto::chunkserver::{Alternate, Join, Synchronize};
use cairn_proto::common::{self, ErrorCode, Member};
use cairn_proto::data::{FetchBlocks, FetchTable, Table, frame_header::Body};
use cairn_proto::required;
use cairn_types::layout::{BLOCK_SIZE_BYTES, BLOCKS_PER_CHUNK, CHUNK_SIZE_BYTES, block_pieces};
use cairn_types::limits::FRAME_PAYLOAD_BYTES_MAX;
use cairn_types::{Inode, Version};
use futures::{StreamExt, TryStreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A replica to copy from, with the registration that its server must still have.
#[derive(Clone)]
struct Source {
    member: Member,
    registration: common::Registration,
}

impl Source {
    fn of(member: Option<Member>, registration: Option<common::Registration>) -> Result<Self, Refusal> {
        Ok(Self {
            member: required(member, "source")?,
            registration: required(registration, "source_registration")?,
        })
    }
    fn of_alternate(alternate: Alternate) -> Result<Self, Refusal> {
        Self::of(alternate.member, alternate.registration)
    }
}

/// What a copy is of, and how it is asked for.
struct Copy<'a> {
    core: &'a Core,
    key: Key,
    version: Version,
    joining: bool,
}

/// Checksums and length of the source, and what it knows to be bad.
struct SourceTable {
    length: u64,
    crcs: Vec<u32>,
    bad: BTreeSet<u32>,
    remembered: Remembered,
    meta: ChunkMeta,
}

/// Why blocks could not be had from one source.
enum FetchError {
    /// The source's own bytes are bad there: another member may have them.
    Bad(BTreeSet<u32>),
    Failed(Refusal),
}

impl Copy<'_> {
    async fn request(&self, source: &Source, body: Body, deadline: Duration) -> Result<(Body, Bytes), PeerError> {
        let cluster = self.core.cluster().ok_or(PeerError::Closed)?;
        let frame = self.core.peers.request(cluster, &source.member, body, deadline).await?;
        Ok((frame.body, frame.payload))
    }

    async fn table(&self, source: &Source, recompute: bool) -> Result<SourceTable, Refusal> {
        let request = FetchTable {
            handle: self.key.handle.0,
            version: Some(self.version.into()),
            disk: source.member.disk.clone(),
            registration: Some(source.registration),
            recompute,
            joining: self.joining,
        };
        let deadline = if recompute {
            COPY_TABLE_WAIT_MAX
        } else {
            COPY_REQUEST_WAIT_MAX
        };
        let answer = self.request(source, Body::FetchTable(request), deadline).await;
        match answer {
            Ok((Body::Table(table), payload)) => parse_table(table, payload, self.core.env.clock.wall()),
            other => Err(copy_failed(source, other.err().unwrap_or(PeerError::WrongAnswer))),
        }
    }

    /// Whole blocks from `offset`, at most a frame of them, checked against the checksums that came with them.
    async fn blocks(&self, source: &Source, offset: u64, length: u32) -> Result<(Bytes, Vec<u32>), FetchError> {
        let request = FetchBlocks {
            handle: self.key.handle.0,
            version: Some(self.version.into()),
            disk: source.member.disk.clone(),
            registration: Some(source.registration),
            offset,
            length,
            joining: self.joining,
        };
        let answer = self
            .request(source, Body::FetchBlocks(request), COPY_REQUEST_WAIT_MAX)
            .await;
        match answer {
            Ok((Body::ReadDone(done), payload)) => {
                let good = block_pieces(offset, payload.len() as u64)
                    .map(|(at, len)| crc32fast::hash(&payload[(at - offset) as usize..][..len as usize]))
                    .eq(done.checksums.iter().copied());
                if good {
                    Ok((payload, done.checksums))
                } else {
                    Err(FetchError::Failed(Refusal::BadChecksum))
                }
            }
            Err(PeerError::Refused(failed)) if code_of(&failed) == ErrorCode::ErrorCorrupt => {
                Err(FetchError::Bad(failed.bad_blocks.into_iter().collect()))
            }
            other => Err(FetchError::Failed(copy_failed(
                source,
                other.err().unwrap_or(PeerError::WrongAnswer),
            ))),
        }
    }

    /// Fetches the run of blocks from `source`, checks it against the table if one is given, and writes it. The blocks
    /// that are bad at the source are left out and given back.
    async fn copy_run(
        &self,
        source: &Source,
        chunk: &Chunk,
        at: At,
        run: Run,
        table: Option<&SourceTable>,
    ) -> Result<(u64, BTreeSet<u32>), Refusal> {
        let mut wanted = vec![run];
        let (mut copied, mut bad) = (0, BTreeSet::new());
        while let Some(run) = wanted.pop() {
            match self.blocks(source, run.offset(), run.length()).await {
                Ok((payload, crcs)) => {
                    let first = run.first as usize;
                    if let Some(table) = table
                        && (payload.len() != run.length() as usize || table.crcs[first..first + crcs.len()] != crcs[..])
                    {
                        return Err(Refusal::BadChecksum);
                    }
                    copied += payload.len() as u64;
                    self.write(chunk, at, run.offset(), payload, crcs).await?;
                }
                Err(FetchError::Bad(blocks)) => {
                    let here: BTreeSet<u32> = blocks.into_iter().filter(|b| run.contains(*b)).collect();
                    if here.is_empty() {
                        // its header or its table: nothing of it can be had
                        return Err(copy_failed(source, PeerError::WrongAnswer));
                    }
                    wanted.extend(run.without(&here));
                    bad.extend(here);
                }
                Err(FetchError::Failed(e)) => return Err(e),
            }
        }
        Ok((copied, bad))
    }

    /// Writes what `blocks` has given and checked.
    async fn write(&self, chunk: &Chunk, at: At, offset: u64, data: Bytes, crcs: Vec<u32>) -> Result<(), Refusal> {
        if data.is_empty() {
            return Ok(());
        }
        let chunk = chunk.clone();
        let write = move || chunk.write_checked(at, offset, &data, &crcs);
        let written = self.core.env.blocking.run(write).await;
        written.map(drop).map_err(|e| self.core.refused(self.key, e))
    }

    async fn on_chunk<T: Send + 'static>(
        &self,
        chunk: &Chunk,
        work: impl FnOnce(&Chunk) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let chunk = chunk.clone();
        let done = self.core.env.blocking.run(move || work(&chunk)).await;
        done.map_err(|e| self.core.refused(self.key, e))
    }
}

/// Becomes identical with the source, while fenced at the order's version and never installed at it. The length and
/// the bytes copied; the remembered sequences are taken over, too. Durable when it returns.
///
/// # Errors
/// What kept it from that; then the replica must not be installed.
pub async fn synchronize(core: &Core, replica: &Replica, order: Synchronize) -> Result<(u64, u64), Refusal> {
    let version: Version = required(order.version, "version")?.into();
    let key = replica.key;
    let copy = Copy {
        core,
        key,
        version,
        joining: false,
    };
    let at = At::Fenced(version);
    let source = Source::of(order.source, order.source_registration)?;
    let alternates: Vec<_> = order
        .alternates
        .into_iter()
        .map(Source::of_alternate)
        .collect::<Result<_, _>>()?;
    let table = copy.table(&source, order.source_suspect).await?;
    let meta = table.meta.clone();
    let chunk = core.fenced_chunk(key, version, move || meta).await?;
    let recompute = order.recompute;
    let (own, bad_here) = copy
        .on_chunk(&chunk, move |chunk| own_table(chunk, version, recompute))
        .await?;

    let length = table.length;
    if own.length > length {
        copy.on_chunk(&chunk, move |chunk| chunk.truncate(at, length)).await?;
    }
    let differs = |block: &u32| {
        let i = *block as usize;
        let same =
            own.crcs.get(i) == Some(&table.crcs[i]) && block_len(own.length, *block) == block_len(length, *block);
        !same || bad_here.contains(block)
    };
    let differing: Vec<u32> = (0..table.crcs.len() as u32).filter(differs).collect();
    let (from_source, elsewhere): (Vec<u32>, Vec<u32>) = differing.iter().partition(|b| !table.bad.contains(b));

    let mut elsewhere: BTreeSet<u32> = elsewhere.into_iter().collect();
    let has = |block: u32| {
        let here = own.crcs.get(block as usize).copied();
        here.filter(|_| block_len(own.length, block) == block_len(length, block))
    };
    let copies = futures::stream::iter(runs(&from_source, length))
        .map(|run| copy.copy_run(&source, &chunk, at, run, Some(&table)))
        .buffer_unordered(COPY_REQUESTS_AT_A_TIME);
    let done: Vec<(u64, BTreeSet<u32>)> = copies.try_collect().await?;
    let mut copied: u64 = done.iter().map(|(bytes, _)| bytes).sum();
    elsewhere.extend(done.into_iter().flat_map(|(_, bad)| bad));
    for block in &elsewhere {
        let found = one_block_elsewhere(&copy, &chunk, at, &alternates, *block, &table).await;
        copied += match found {
            // bad in every member: lost, and no reason to lose the others, too
            Err(Refusal::Corrupt(_)) if order.last_resort && has(*block) == Some(table.crcs[*block as usize]) => 0,
            found => found?,
        };
    }

    let synced = copy.on_chunk(&chunk, move |chunk| {
        chunk.grow(at, length)?;
        let after = chunk.table(at)?;
        chunk.sync()?;
        Ok(after)
    });
    let after = synced.await?;
    let same = after.length == length
        && (0..table.crcs.len()).all(|i| {
            // a block that is bad at the source may come from a member with unacknowledged bytes more or less
            after.crcs.get(i) == Some(&table.crcs[i]) || elsewhere.contains(&(i as u32))
        });
    if !same {
        return Err(Refusal::Unavailable("the source changed while it was copied"));
    }
    replica.remember(table.remembered);
    Ok((length, copied))
}

/// What the replica itself has to compare: its table, and the blocks that are not what the table says. A suspect's
/// checksums are computed anew from its data; those of a damaged one are not, for as long as the copy is not complete
/// they are all that tells rot from data. Only where the table itself is bad there is no other way.
fn own_table(chunk: &Chunk, version: Version, check: bool) -> Result<(crate::store::Table, BTreeSet<u32>), StoreError> {
    let info = chunk.info();
    let damage = if check && !info.suspect {
        chunk.verify()?
    } else {
        info.damage
    };
    if damage.table {
        return Ok((chunk.recompute_table(version)?, (0..BLOCKS_PER_CHUNK as u32).collect()));
    }
    Ok((chunk.table(At::Fenced(version))?, damage.blocks))
}

/// A block that is bad at the source, from another fenced member: from one whose checksum is the source's if there is
/// one, else from the first by disk that has it whole. This replica is one of those, so that all members choose the same.
/// The bytes copied.
///
/// # Errors
/// `Corrupt`: bad in all of them. Others: one of them did not answer.
async fn one_block_elsewhere(
    copy: &Copy<'_>,
    chunk: &Chunk,
    at: At,
    alternates: &[Source],
    block: u32,
    table: &SourceTable,
) -> Result<u64, Refusal> {
    let run = Run::new(block, 1, table.length);
    let mut whole = BTreeMap::new();
    if !chunk.info().suspect {
        let read = move |chunk: &Chunk| chunk.read(at, run.offset(), u64::from(run.length()), true).map(|_| ());
        match copy.on_chunk(chunk, read).await {
            Ok(()) if block_len(chunk.info().length, block) == u64::from(run.length()) => {
                whole.insert(Bytes::copy_from_slice(copy.key.disk.as_bytes()), None);
            }
            Ok(()) | Err(Refusal::Corrupt(_)) => {}
            Err(e) => return Err(e),
        }
    }
    for alternate in alternates {
        match copy.blocks(alternate, run.offset(), run.length()).await {
            Ok((data, crcs)) if data.len() == run.length() as usize => {
                if crcs[..] == table.crcs[block as usize..][..1] {
                    copy.write(chunk, at, run.offset(), data, crcs).await?;
                    return Ok(u64::from(run.length()));
                }
                whole.insert(alternate.member.disk.clone(), Some((data, crcs)));
            }
            // shorter there, or bad
            Ok(_) | Err(FetchError::Bad(_)) => {}
            // others may have had its answer, and chosen it
            Err(FetchError::Failed(e)) => return Err(e),
        }
    }
    match whole.pop_first() {
        Some((_, None)) => Ok(0),
        Some((_, Some((data, crcs)))) => {
            copy.write(chunk, at, run.offset(), data, crcs).await?;
            Ok(u64::from(run.length()))
        }
        None => Err(Refusal::Corrupt(crate::store::Damage::of_blocks([block]))),
    }
}

/// Fills a new replica from an installed one, unfenced and untrusted; what is bad at the source is left out, the
/// reconfiguration that follows finds the difference. Its length.
///
/// # Errors
/// What kept it from that; what is there of the replica by then may be joined again or deleted.
pub async fn join(core: &Core, replica: &Replica, order: Join) -> Result<u64, Refusal> {
    let version: Version = required(order.version, "version")?.into();
    let key = replica.key;
    let copy = Copy {
        core,
        key,
        version,
        joining: true,
    };
    let at = At::Joining(version);
    let source = Source::of(order.source, order.source_registration)?;
    let disk = core.store.disk(key.disk).ok_or(Refusal::NoReplica)?;
    let chunk = match disk.chunk(key.handle) {
        // whatever is here, the reconfiguration compares it; what was left half filled is filled on
        Ok(chunk) if chunk.info().state != State::Joining || chunk.info().version != version => {
            return Ok(chunk.info().length);
        }
        Ok(chunk) => Some(chunk),
        Err(StoreError::NotFound { .. }) => None,
        Err(e) => return Err(core.refused(key, e)),
    };
    let table = copy.table(&source, false).await?;
    let chunk = match chunk {
        Some(chunk) => chunk,
        None => {
            let meta = table.meta.clone();
            let create = move || disk.create(key.handle, version, State::Joining, &meta);
            let created = core.env.blocking.run(create).await;
            core.reports.changed(key);
            created.map_err(|e| core.refused(key, e))?
        }
    };
    let started = core.env.clock.now();
    let mut copied = 0;
    let all: Vec<u32> = (0..table.crcs.len() as u32).collect();
    for run in runs(&all, table.length) {
        // the source goes on being written: what differs from the table is no error
        let (bytes, _) = copy.copy_run(&source, &chunk, at, run, None).await?;
        copied += bytes;
        if order.bytes_per_second > 0 {
            let due = Duration::from_secs_f64(copied as f64 / order.bytes_per_second as f64);
            tokio::time::sleep(due.saturating_sub(core.env.clock.now().since(started))).await;
        }
    }
    Ok(chunk.info().length)
}

fn copy_failed(source: &Source, e: PeerError) -> Refusal {
    match e {
        PeerError::Refused(mut failed) => {
            failed.culprit.get_or_insert_with(|| source.member.clone());
            Refusal::Passed(failed)
        }
        e => Refusal::ChainBroken {
            culprit: source.member.clone(),
            cause: format!("copying from it: {e}"),
        },
    }
}

fn parse_table(table: Table, mut payload: Bytes, created: i64) -> Result<SourceTable, Refusal> {
    let blocks = table.chunk_length.div_ceil(BLOCK_SIZE_BYTES);
    if table.chunk_length > CHUNK_SIZE_BYTES || payload.len() as u64 != blocks * 4 || blocks > BLOCKS_PER_CHUNK {
        return Err(Refusal::Invalid("a table that does not fit its chunk".into()));
    }
    let remembered = from_wire(&table)?;
    Ok(SourceTable {
        length: table.chunk_length,
        crcs: (0..blocks).map(|_| payload.get_u32_le()).collect(),
        bad: table
            .bad_blocks
            .into_iter()
            .filter(|b| u64::from(*b) < blocks)
            .collect(),
        remembered,
        meta: ChunkMeta {
            inode: Inode(table.inode),
            index: table.index,
            name: table.name.to_vec(),
            created,
        },
    })
}

/// Bytes of the block in a chunk of `length`.
fn block_len(length: u64, block: u32) -> u64 {
    length
        .saturating_sub(u64::from(block) * BLOCK_SIZE_BYTES)
        .min(BLOCK_SIZE_BYTES)
}

/// Neighbouring blocks that one request fetches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: u32,
    count: u32,
    chunk_length: u64,
}

impl Run {
    fn new(first: u32, count: u32, chunk_length: u64) -> Self {
        Self {
            first,
            count,
            chunk_length,
        }
    }
    fn offset(&self) -> u64 {
        u64::from(self.first) * BLOCK_SIZE_BYTES
    }
    fn length(&self) -> u32 {
        let end = self
            .chunk_length
            .min(u64::from(self.first + self.count) * BLOCK_SIZE_BYTES);
        end.saturating_sub(self.offset()) as u32
    }
    fn contains(&self, block: u32) -> bool {
        (self.first..self.first + self.count).contains(&block)
    }
    /// What is left of it without some blocks.
    fn without(self, blocks: &BTreeSet<u32>) -> Vec<Run> {
        let left: Vec<u32> = (self.first..self.first + self.count)
            .filter(|b| !blocks.contains(b))
            .collect();
        runs(&left, self.chunk_length)
    }
}

/// Blocks, in order, as runs that a frame holds.
fn runs(blocks: &[u32], chunk_length: u64) -> Vec<Run> {
    const COUNT_MAX: u32 = FRAME_PAYLOAD_BYTES_MAX as u32 / BLOCK_SIZE_BYTES as u32;
    let mut runs: Vec<Run> = vec![];
    for &block in blocks {
        match runs.last_mut() {
            Some(run) if run.first + run.count == block && run.count < COUNT_MAX => run.count += 1,
            _ => runs.push(Run::new(block, 1, chunk_length)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differing_blocks_become_runs_that_a_frame_holds() {
        let length = 40 * BLOCK_SIZE_BYTES + 5;
        let blocks: Vec<u32> = [0, 1, 3].into_iter().chain(20..41).collect();
        let of = |first, count| Run::new(first, count, length);
        assert_eq!(runs(&blocks, length), [of(0, 2), of(3, 1), of(20, 16), of(36, 5)]);
        assert_eq!(of(36, 5).length() as u64, 4 * BLOCK_SIZE_BYTES + 5);
        assert_eq!(of(20, 16).without(&BTreeSet::from([20, 25])), [of(21, 4), of(26, 10)]);
        assert_eq!(block_len(length, 40), 5);
        assert_eq!(block_len(length, 41), 0);
    }
}
