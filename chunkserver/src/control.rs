//! The conversation with the master (protocol R6, R7): one stream is one registration. It is opened with Register and
//! the inventory, kept by heartbeats, and opened anew after any gap: an error, a lapse of the lease, a restart.
use crate::disks::Disks;
use crate::limits::{CONTROL_OUT_MAX, CONTROL_RETRY_MAX, CONTROL_RETRY_MIN, CONTROL_WAIT_MAX, INVENTORY_PAGE};
use crate::orders::Orders;
use crate::refusal::Refusal;
use crate::shared::{Core, key_of};
use crate::store::{ChunkInfo, OpenError, State, StoreError};
use bytes::Bytes;
use cairn_io::Boot;
use cairn_proto::chunkserver::chunkservers_client::ChunkserversClient;
use cairn_proto::chunkserver::from_chunkserver::Body as Out;
use cairn_proto::chunkserver::from_master::Body as In;
use cairn_proto::chunkserver::{
    ChunkVerdict, Deleted, FromChunkserver, FromMaster, Heartbeat, Inventory, Register, Registered, Replica,
    ReplicaState, Verdict,
};
use cairn_proto::{Malformed, PROTOCOL, required};
use cairn_types::limits::CONTROL_MESSAGE_BYTES_MAX;
use cairn_types::{ClusterId, DiskId, InvalidId, Registration, Version};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    #[error("{}", .0.message())]
    Status(#[from] Status),
    #[error("it closed the stream")]
    Closed,
    #[error("no answer within {0:?}")]
    Silent(Duration),
    #[error("the lease is over: no heartbeat was answered in time")]
    Lapsed,
    #[error("it is the master of cluster {theirs}, the disks here ({disks}) are of cluster {ours}")]
    WrongCluster {
        ours: ClusterId,
        theirs: ClusterId,
        disks: String,
    },
    #[error("a message that can't be understood: {0}")]
    Malformed(#[from] Malformed),
    #[error("a disk cannot be formatted: {0}")]
    Format(#[from] OpenError),
    #[error("a disk cannot be used: {0}")]
    Disk(#[from] StoreError),
}

impl From<InvalidId> for ControlError {
    fn from(e: InvalidId) -> Self {
        Self::Malformed(e.into())
    }
}

impl ControlError {
    /// Trying again will not help before a person has looked.
    fn lasting(&self) -> bool {
        match self {
            Self::WrongCluster { .. } | Self::Format(_) => true,
            Self::Status(status) => matches!(
                status.code(),
                Code::FailedPrecondition | Code::InvalidArgument | Code::PermissionDenied
            ),
            _ => false,
        }
    }
}

pub struct Control {
    core: Arc<Core>,
    disks: Disks,
    /// Where others reach the data plane.
    address: String,
    new_process: bool,
    /// True while registered.
    serving: watch::Sender<bool>,
}

impl Control {
    pub fn new(core: Arc<Core>, disks: Disks, address: String, serving: watch::Sender<bool>) -> Self {
        Self {
            core,
            disks,
            address,
            new_process: true,
            serving,
        }
    }

    /// Talks to the master until the server stops.
    pub async fn run(mut self) {
        let core = self.core.clone();
        let mut wait = CONTROL_RETRY_MIN;
        let mut last = String::new();
        while !core.stopping.is_cancelled() {
            let was_registered = self.conversation().await;
            let registered = *self.serving.borrow();
            core.mandate.end();
            // nobody may look
            self.serving.send_replace(false);
            let Err(e) = was_registered else { return };
            if registered {
                wait = CONTROL_RETRY_MIN;
                last.clear();
            }
            let master = &core.config.master;
            let said = e.to_string();
            if said == last {
                tracing::debug!(master, "not registered: {said}");
            } else if e.lasting() {
                let disks = self.disks.paths(&core.store);
                tracing::error!(master, disks, "the master does not take this server: {said}");
            } else {
                tracing::warn!(master, "not registered, trying again: {said}");
            }
            last = said;
            let chance = core.env.rng.bits64() % 1000;
            let pause = wait / 2 + wait.mul_f64(chance as f64 / 1000.0) / 2;
            wait = (wait * 2).min(CONTROL_RETRY_MAX);
            tokio::select! {
                biased;
                () = core.stopping.cancelled() => return,
                () = sleep(pause) => {}
            }
        }
    }

    /// One registration, from its beginning to its end. Ok: the server stops.
    async fn conversation(&mut self) -> Result<(), ControlError> {
        let core = self.core.clone();
        let connect = cairn_io::grpc::connect(core.env.net.clone(), &core.config.master, CONTROL_WAIT_MAX);
        let channel = tokio::select! {
            biased;
            () = core.stopping.cancelled() => return Ok(()),
            channel = connect => channel.map_err(ControlError::Connect)?,
        };
        let mut client = ChunkserversClient::new(channel)
            .max_decoding_message_size(CONTROL_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(CONTROL_MESSAGE_BYTES_MAX);
        let (out, out_queue) = mpsc::channel(CONTROL_OUT_MAX);

        // from here on what changes is told in deltas; nothing is created on a grant until the answer (R10)
        core.reports.forget_changed();
        let register = self.register().await;
        let sent = core.env.clock.now();
        send(&out, Out::Register(register)).await?;
        let stream = async {
            let opened = client.register(ReceiverStream::new(out_queue)).await?;
            Ok::<_, ControlError>(opened.into_inner())
        };
        let mut inbound = in_time(stream).await?;
        let (registered, early) = Box::pin(self.registered(&mut inbound, &out, sent)).await?;

        let orders = Orders::start(core.clone(), registered.registration, out.clone());
        let result = Box::pin(self.registered_loop(&registered, early, &mut inbound, &out, &orders)).await;
        core.mandate.end();
        orders.end().await;
        result
    }

    async fn register(&self) -> Register {
        let core = &self.core;
        Register {
            server: Bytes::copy_from_slice(core.server.as_bytes()),
            cluster: core
                .cluster()
                .map_or_else(Bytes::new, |c| Bytes::copy_from_slice(c.as_bytes())),
            address: self.address.clone(),
            label: core.config.label.clone(),
            new_process: self.new_process,
            version: env!("CARGO_PKG_VERSION").into(),
            disks: self.disks.report(core).await,
            protocol: PROTOCOL,
        }
    }

    /// Waits for Registered and does what it says; verdicts that come before it are kept.
    async fn registered(
        &mut self,
        inbound: &mut Streaming<FromMaster>,
        out: &mpsc::Sender<FromChunkserver>,
        sent: Boot,
    ) -> Result<(Conversation, VecDeque<In>), ControlError> {
        let mut early = VecDeque::new();
        let registered = loop {
            let message = in_time(async { inbound.message().await.map_err(ControlError::from) }).await?;
            match message.ok_or(ControlError::Closed)?.body {
                Some(In::Registered(registered)) => break registered,
                Some(other) => early.push_back(other),
                None => {}
            }
            if out.is_closed() {
                return Err(ControlError::Closed);
            }
        };
        let core = self.core.clone();
        let Registered {
            registration,
            cluster,
            lease_ms,
            heartbeat_ms,
            floor,
            new_disks,
        } = registered;
        let registration: Registration = required(registration, "registration")?.into();
        let cluster = ClusterId::try_from(&cluster[..])?;
        let drawn: Version = required(floor, "floor")?.into();
        if lease_ms == 0 || heartbeat_ms == 0 {
            return Err(Malformed::Range("lease_ms, heartbeat_ms").into());
        }
        core.join_cluster(cluster).map_err(|ours| ControlError::WrongCluster {
            ours,
            theirs: cluster,
            disks: self.disks.paths(&core.store),
        })?;
        let new_disks: Vec<DiskId> = new_disks
            .iter()
            .map(|d| DiskId::try_from(&d[..]))
            .collect::<Result<_, _>>()?;
        self.disks.format(&core, cluster, new_disks).await?;
        self.disks.settle_unclean(&core, drawn).await?;
        let lease = Duration::from_millis(lease_ms.into());
        core.mandate.begin(registration, lease, sent, drawn);
        self.new_process = false;
        self.serving.send_replace(true);
        tracing::info!(%registration, %cluster, "registered at {}", core.config.master);
        Ok((
            Conversation {
                registration,
                heartbeat: Duration::from_millis(heartbeat_ms.into()),
            },
            early,
        ))
    }

    async fn registered_loop(
        &mut self,
        conversation: &Conversation,
        early: VecDeque<In>,
        inbound: &mut Streaming<FromMaster>,
        out: &mpsc::Sender<FromChunkserver>,
        orders: &Arc<Orders>,
    ) -> Result<(), ControlError> {
        let core = self.core.clone();
        let mut beats = Beats::default();
        for message in early {
            self.take(message, conversation, &mut beats, orders);
        }
        // beside the rest: the master's verdicts on the first pages have to be taken before it reads the last ones
        let mut inventory = std::pin::pin!(send_inventory(core.clone(), out.clone()));
        let mut all_sent = false;
        let mut tick = tokio::time::interval(conversation.heartbeat);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let left = core.mandate.lease_until().since(core.env.clock.now());
            if left.is_zero() {
                return Err(ControlError::Lapsed);
            }
            tokio::select! {
                biased;
                () = core.stopping.cancelled() => return Ok(()),
                message = inbound.message() => match message? {
                    Some(FromMaster { body: Some(body) }) => self.take(body, conversation, &mut beats, orders),
                    Some(FromMaster { body: None }) => {}
                    None => return Err(ControlError::Closed),
                },
                sent = &mut inventory, if !all_sent => {
                    sent?;
                    all_sent = true;
                }
                _ = tick.tick() => self.heartbeat(&mut beats, out).await?,
                () = core.reports.urgent.notified() => {
                    for trouble in core.reports.take_troubles() {
                        send(out, Out::Trouble(trouble)).await?;
                    }
                    if core.reports.take_disk_failed() {
                        self.heartbeat(&mut beats, out).await?;
                    }
                }
                // woken to see whether the lease is still there
                () = core.env.clock.sleep(left) => {}
            }
        }
    }

    fn take(&self, message: In, conversation: &Conversation, beats: &mut Beats, orders: &Arc<Orders>) {
        let core = &self.core;
        match message {
            In::Heartbeat(answer) => {
                if let Some(sent) = beats.answered(answer.number) {
                    core.mandate.renew(conversation.registration, sent);
                }
            }
            In::Verdicts(verdicts) => {
                for verdict in verdicts.verdicts {
                    judge(core, conversation.registration, verdict);
                }
            }
            In::Order(order) => orders.submit(order),
            In::DeleteConfirmed(confirmed) => orders.confirmed(confirmed.confirmed),
            In::Registered(_) => tracing::warn!("registered twice on one stream: ignored"),
        }
    }

    async fn heartbeat(&self, beats: &mut Beats, out: &mpsc::Sender<FromChunkserver>) -> Result<(), ControlError> {
        let core = &self.core;
        let keys = core.reports.take_changed(INVENTORY_PAGE);
        let (mut changed, mut deleted) = (vec![], vec![]);
        for key in keys {
            match core.chunk(key) {
                Ok(chunk) => changed.push(replica(key.disk, chunk.info())),
                Err(Refusal::NoReplica) => deleted.push(Deleted {
                    handle: key.handle.0,
                    disk: wire(key.disk),
                }),
                // its disk failed, and the heartbeat says so
                Err(_) => {}
            }
        }
        let disks = self.disks.report(core).await;
        let number = beats.sent(core.env.clock.now());
        let heartbeat = Heartbeat {
            number,
            disks,
            changed,
            deleted,
            scrub: Some(core.scrub.report()),
        };
        send(out, Out::Heartbeat(heartbeat)).await
    }
}

struct Conversation {
    registration: Registration,
    heartbeat: Duration,
}

/// When the heartbeats without an answer were sent.
#[derive(Default)]
struct Beats {
    number: u64,
    waiting: VecDeque<(u64, Boot)>,
}

impl Beats {
    fn sent(&mut self, now: Boot) -> u64 {
        self.number += 1;
        self.waiting.push_back((self.number, now));
        self.number
    }

    /// An answer answers all before it.
    fn answered(&mut self, number: u64) -> Option<Boot> {
        let mut sent = None;
        while let Some((n, at)) = self.waiting.front().copied().filter(|(n, _)| *n <= number) {
            self.waiting.pop_front();
            sent = (n == number).then_some(at);
        }
        sent
    }
}

fn judge(core: &Core, registration: Registration, verdict: ChunkVerdict) {
    let Ok(key) = key_of(verdict.handle, &verdict.disk) else {
        return tracing::warn!("a verdict on no replica");
    };
    let version = verdict.version.map(Version::from).unwrap_or_default();
    match verdict.verdict() {
        Verdict::Current => core.mandate.trust(key, version, registration),
        // judged as the inventory had it; what was granted or installed since, the master knows to be current
        Verdict::Stale | Verdict::Unknown if !core.mandate.trusts(key) => {
            let replica = core.known_replica(key);
            if let Some(replica) = replica.filter(|r| r.place().is_some_and(|p| p.version == version)) {
                replica.close(None, Refusal::NotWritable("the master says that it is stale"));
            }
        }
        // without a verdict that it is current it answers no reads
        Verdict::Stale | Verdict::Unknown | Verdict::Wait | Verdict::Unspecified => {}
    }
}

async fn in_time<T>(what: impl Future<Output = Result<T, ControlError>>) -> Result<T, ControlError> {
    match timeout(CONTROL_WAIT_MAX, what).await {
        Ok(done) => done,
        Err(_) => Err(ControlError::Silent(CONTROL_WAIT_MAX)),
    }
}

async fn send(out: &mpsc::Sender<FromChunkserver>, body: Out) -> Result<(), ControlError> {
    let message = FromChunkserver { body: Some(body) };
    match timeout(CONTROL_WAIT_MAX, out.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(ControlError::Closed),
        Err(_) => Err(ControlError::Silent(CONTROL_WAIT_MAX)),
    }
}

/// Every replica on every disk, in pages; the last page says so, and may be empty.
async fn send_inventory(core: Arc<Core>, out: mpsc::Sender<FromChunkserver>) -> Result<(), ControlError> {
    for disk in core.store.disks() {
        let mut after = None;
        loop {
            let (from, blocking) = (disk.clone(), core.env.blocking);
            let page = blocking.run(move || from.inventory(after, INVENTORY_PAGE)).await;
            let Some(last) = page.last() else { break };
            after = Some(last.handle);
            let replicas = page.into_iter().map(|info| replica(disk.id(), info)).collect();
            send(&out, Out::Inventory(Inventory { replicas, last: false })).await?;
        }
    }
    let last = Inventory {
        replicas: vec![],
        last: true,
    };
    send(&out, Out::Inventory(last)).await
}

fn replica(disk: DiskId, info: ChunkInfo) -> Replica {
    let state = match info.state {
        _ if info.damage.header.is_some() => ReplicaState::ReplicaDamaged,
        State::Installed => ReplicaState::ReplicaInstalled,
        State::Fenced => ReplicaState::ReplicaFenced,
        State::Joining => ReplicaState::ReplicaJoining,
    };
    Replica {
        handle: info.handle.0,
        disk: wire(disk),
        version: Some(info.version.into()),
        state: state.into(),
        length: info.length,
        suspect: info.suspect,
        damaged: !info.damage.is_none(),
    }
}

pub fn wire(disk: DiskId) -> Bytes {
    Bytes::copy_from_slice(disk.as_bytes())
}
