//! What the master knows of chunkservers in memory: soft state, rebuilt from registrations and reports.
use bytes::Bytes;
use cairn_metadata::State;
use cairn_metadata::placement::{DiskView, ONE_CREATION, ServerView};
use cairn_proto::chunkserver::{self as wire, DiskState, FromMaster, ReplicaState, from_master, order};
use cairn_proto::common;
use cairn_types::{ChunkHandle, DiskId, Registration, ServerId, Version};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub type Outbound = mpsc::Sender<Result<FromMaster, tonic::Status>>;

#[derive(Clone)]
pub struct Connection {
    pub registration: Registration,
    pub out: Outbound,
    /// Cancelled when the server registers anew, falls silent or does not take its orders.
    pub over: CancellationToken,
}

/// A replica as its server last reported it, or as an order's answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replica {
    pub version: Version,
    pub state: ReplicaState,
    pub length: u64,
    pub suspect: bool,
    pub damaged: bool,
    /// Its server was told to wait (R7), and nothing was installed since: it answers no reads.
    pub waits: bool,
}

pub struct Disk {
    /// Unspecified: not reported by the present registration.
    pub state: DiskState,
    pub total_bytes: u64,
    /// Above the reserve.
    pub available_bytes: u64,
    pub chunks: u64,
    pub path: String,
    pub errors: u64,
    /// Chunks placed here lately; see [`DiskView::recent_creations`].
    pub creations: u32,
    pub replicas: BTreeMap<ChunkHandle, Replica>,
}

impl Default for Disk {
    fn default() -> Self {
        Self {
            state: DiskState::DiskUnspecified,
            total_bytes: 0,
            available_bytes: 0,
            chunks: 0,
            path: String::new(),
            errors: 0,
            creations: 0,
            replicas: BTreeMap::new(),
        }
    }
}

#[derive(Default)]
pub struct Server {
    pub address: String,
    /// zone/rack/host, or less.
    pub label: String,
    /// Of its software.
    pub version: String,
    pub connection: Option<Connection>,
    /// The inventory of the present registration is in.
    pub reported: bool,
    pub disks: BTreeMap<DiskId, Disk>,
    pub scrub: wire::Scrub,
    /// When it was last connected; for repair's patience. `None`: it is, or never was.
    pub lost_since: Option<Duration>,
}

/// What an order was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Fence(Version),
    Synchronize(Version),
    Cut(Version),
    Install(Version),
    Join,
    Delete,
    Verify,
    Scrub,
}

/// Whose a disk is, and both ids as messages carry them: an answer with a chunk's location copies none of them.
struct Owned {
    server: ServerId,
    /// Without the address.
    member: common::Member,
}

struct Ordered {
    server: ServerId,
    registration: Registration,
    purpose: Purpose,
}

#[derive(Default)]
pub struct Servers {
    all: BTreeMap<ServerId, Server>,
    disks: BTreeMap<DiskId, Owned>,
    orders: BTreeMap<u64, Ordered>,
    next_order: u64,
}

impl Servers {
    /// Those that the log knows; none is connected.
    pub fn new(state: &State) -> Self {
        let mut this = Self::default();
        for info in state.servers() {
            let server = Server {
                address: info.address,
                label: info.label,
                ..Server::default()
            };
            this.all.insert(info.server, server);
            for disk in info.disks {
                this.own(info.server, disk.disk);
            }
        }
        this
    }

    /// The disk is the server's, wherever it was before.
    pub fn own(&mut self, server: ServerId, disk: DiskId) {
        let member = common::Member::new(server, disk, "");
        if let Some(before) = self.disks.insert(disk, Owned { server, member })
            && before.server != server
            && let Some(before) = self.all.get_mut(&before.server)
        {
            before.disks.remove(&disk);
        }
        // an empty disk is not where everything goes at once
        let others = self.all.values().flat_map(|s| s.disks.values());
        let (sum, count) = others.fold((0, 0), |(sum, n), d| (sum + u64::from(d.creations), n + 1));
        let disks = &mut self.all.entry(server).or_default().disks;
        disks.entry(disk).or_insert_with(|| Disk {
            creations: (sum / count.max(1)) as u32,
            ..Disk::default()
        });
    }

    pub fn entry(&mut self, server: ServerId) -> &mut Server {
        self.all.entry(server).or_default()
    }

    pub fn get(&self, server: ServerId) -> Option<&Server> {
        self.all.get(&server)
    }

    pub fn get_mut(&mut self, server: ServerId) -> Option<&mut Server> {
        self.all.get_mut(&server)
    }

    pub fn iter(&self) -> impl Iterator<Item = (ServerId, &Server)> + '_ {
        self.all.iter().map(|(id, server)| (*id, server))
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn server_of(&self, disk: DiskId) -> Option<ServerId> {
        self.disks.get(&disk).map(|owned| owned.server)
    }

    /// The disk as clients are told of it; of one that no server has, only its id.
    pub fn member(&self, disk: DiskId) -> common::Member {
        match self.disks.get(&disk) {
            Some(owned) => common::Member {
                address: self.address(owned.server).to_owned(),
                ..owned.member.clone()
            },
            None => common::Member {
                disk: crate::wire_id(disk.as_bytes()),
                ..Default::default()
            },
        }
    }

    pub fn address(&self, server: ServerId) -> &str {
        self.all.get(&server).map_or("", |s| &s.address)
    }

    pub fn disk(&self, disk: DiskId) -> Option<&Disk> {
        self.all.get(&self.disks.get(&disk)?.server)?.disks.get(&disk)
    }

    pub fn disk_mut(&mut self, disk: DiskId) -> Option<&mut Disk> {
        self.all.get_mut(&self.disks.get(&disk)?.server)?.disks.get_mut(&disk)
    }

    pub fn replica(&self, disk: DiskId, handle: ChunkHandle) -> Option<&Replica> {
        self.disk(disk)?.replicas.get(&handle)
    }

    pub fn replica_mut(&mut self, disk: DiskId, handle: ChunkHandle) -> Option<&mut Replica> {
        self.disk_mut(disk)?.replicas.get_mut(&handle)
    }

    /// The stream that is open to the server, by its registration.
    pub fn registration(&self, server: ServerId) -> Option<Registration> {
        Some(self.all.get(&server)?.connection.as_ref()?.registration)
    }

    /// It has said, under its present registration, that nothing is served from the disk: that it failed, or by not
    /// having it any more (protocol R5).
    pub fn is_out_of_service(&self, disk: DiskId) -> bool {
        let Some(server) = self.disks.get(&disk).and_then(|owned| self.all.get(&owned.server)) else {
            return false;
        };
        server.connection.is_some()
            && server.disks.get(&disk).is_some_and(|d| {
                d.state == DiskState::DiskFailed || (server.reported && d.state == DiskState::DiskUnspecified)
            })
    }

    /// Gives the order to the server that has the disk. False: it is not connected under that registration (any more),
    /// or takes no orders.
    pub fn order(
        &mut self,
        server: ServerId,
        registration: Registration,
        handle: ChunkHandle,
        disk: Option<DiskId>,
        purpose: Purpose,
        what: order::What,
    ) -> bool {
        let Some(connection) = self.all.get(&server).and_then(|s| s.connection.as_ref()) else {
            return false;
        };
        if connection.registration != registration {
            return false;
        }
        self.next_order += 1;
        let id = self.next_order;
        let order = wire::Order {
            id,
            registration: Some(registration.into()),
            handle: handle.0,
            disk: disk.map_or_else(Bytes::new, |disk| Bytes::copy_from_slice(disk.as_bytes())),
            what: Some(what),
        };
        let message = FromMaster {
            body: Some(from_master::Body::Order(order)),
        };
        if connection.out.try_send(Ok(message)).is_err() {
            // a server that takes no orders is of no use: it registers anew
            connection.over.cancel();
            return false;
        }
        self.orders.insert(
            id,
            Ordered {
                server,
                registration,
                purpose,
            },
        );
        true
    }

    /// The order that this answers, once.
    pub fn answered(&mut self, server: ServerId, registration: Registration, id: u64) -> Option<Purpose> {
        let ordered = self.orders.get(&id)?;
        if ordered.server != server || ordered.registration != registration {
            return None;
        }
        self.orders.remove(&id).map(|o| o.purpose)
    }

    /// The server's stream has gone: its orders will not be answered.
    pub fn disconnected(&mut self, server: ServerId, registration: Registration, now: Duration) -> bool {
        self.orders
            .retain(|_, o| o.server != server || o.registration != registration);
        let Some(known) = self.all.get_mut(&server) else {
            return false;
        };
        if known.connection.as_ref().is_none_or(|c| c.registration != registration) {
            return false;
        }
        if let Some(connection) = known.connection.take() {
            connection.over.cancel();
        }
        known.lost_since = Some(now);
        true
    }

    /// Views for placement. `up` says which servers are.
    pub fn views(&self, state: &State, up: impl Fn(ServerId) -> bool) -> Vec<ServerView<'_>> {
        let views = self.all.iter().map(|(id, server)| {
            let disks = server.disks.iter().map(|(disk, d)| DiskView {
                disk: *disk,
                total_bytes: d.total_bytes,
                available_bytes: d.available_bytes,
                writable: d.state == DiskState::DiskOk && state.disk(*disk).is_some_and(|d| d.in_service),
                recent_creations: d.creations,
            });
            ServerView {
                server: *id,
                label: &server.label,
                up: up(*id) && server.connection.is_some(),
                draining: false,
                disks: disks.collect(),
            }
        });
        views.collect()
    }

    /// Total and available bytes of all disks that are there, less the reserves.
    pub fn space(&self) -> (u64, u64) {
        let disks = self
            .all
            .values()
            .filter(|s| s.connection.is_some())
            .flat_map(|s| s.disks.values());
        let usable = disks.filter(|d| !matches!(d.state, DiskState::DiskFailed | DiskState::DiskUnspecified));
        usable.fold((0, 0), |(total, available), d| {
            let writable = d.state == DiskState::DiskOk;
            (
                total + d.total_bytes,
                available + if writable { d.available_bytes } else { 0 },
            )
        })
    }

    /// Recent creations fade, every second, by half in 22: as long as a writer of some MB/s takes for a chunk.
    pub fn fade(&mut self) {
        for disk in self.all.values_mut().flat_map(|s| s.disks.values_mut()) {
            disk.creations = faded(disk.creations);
        }
    }

    /// A chunk that was created so long ago is written no more: what it still counts for is taken back.
    pub fn written(&mut self, members: &[DiskId], age: Duration) {
        let left = (0..age.as_secs()).try_fold(ONE_CREATION, |left, _| Some(faded(left)).filter(|left| *left > 0));
        let Some(left) = left else { return };
        for disk in members {
            if let Some(disk) = self.disk_mut(*disk) {
                disk.creations = disk.creations.saturating_sub(left);
            }
        }
    }
}

/// A second later.
fn faded(creations: u32) -> u32 {
    creations - creations.div_ceil(32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_weighs_on_its_disk_until_it_has_faded_or_is_written() {
        let (server, disk) = (ServerId::from_bits(1), DiskId::from_bits(2));
        let mut servers = Servers::default();
        servers.own(server, disk);
        let create = |servers: &mut Servers| servers.disk_mut(disk).unwrap().creations += ONE_CREATION;
        let creations = |servers: &Servers| servers.disk(disk).unwrap().creations;
        // written at once, after some seconds beside another that is being written, and long after it has faded
        create(&mut servers);
        servers.written(&[disk], Duration::ZERO);
        assert_eq!(creations(&servers), 0);
        create(&mut servers);
        (0..10).for_each(|_| servers.fade());
        create(&mut servers);
        servers.written(&[disk], Duration::from_secs(10));
        assert_eq!(creations(&servers), ONE_CREATION);
        (0..1000).for_each(|_| servers.fade());
        create(&mut servers);
        servers.written(&[disk], Duration::from_secs(1000));
        assert_eq!(creations(&servers), ONE_CREATION);
        servers.written(&[DiskId::from_bits(3)], Duration::ZERO);
    }
}
