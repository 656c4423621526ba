//! A random explorer of the engine: fake chunkservers and a client that keep the rules, a network that delays, reorders
//! and loses, crashes, power losses, lapses and restarts of the master. Each seed is one run; what fails prints it.
//!
//! Two properties, checked at every step: a replica that answers reads has everything acknowledged; and when a member
//! set is logged, each member has, or knows that it lost power since it was fenced (unless every old member had lost
//! writes before, and the log says so).
//! That this would notice is shown by leaving out one rule at a time.
use super::engine::{Break, Reconfiguration};
use super::{Content, Event, Member, Order, Patience, Plan, ServerState};
use crate::ChunkInfo;
use crate::verdict::{self, Verdict};
use cairn_types::{ChunkHandle, DiskId, Inode, Registration, Serial, ServerId, Version};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::time::Duration;

/// The content of a replica is the last write that it applied: one client writes 1, 2, 3, ...
type Write = u64;

#[derive(Debug, Clone)]
struct Stored {
    version: Version,
    content: Write,
    /// What a power loss leaves; `None`: not even the file.
    durable: Option<Write>,
    fenced: bool,
    suspect: bool,
    /// The floor where there was nothing, before it was made to be filled.
    made_at: Option<Version>,
}

/// A server with one disk.
#[derive(Debug, Clone, Default)]
struct Server {
    up: bool,
    // durable
    stored: Option<Stored>,
    floor: Version,
    /// Lost power: raises its floor when it registers.
    unclean: bool,
    // of the process
    registration: Option<Registration>,
    lease: bool,
    readable: bool,
    writable: bool,
    serial: u64,
    /// The floor when a fence first found nothing here.
    absent_at: Option<Version>,
    /// The content at the last install: what was remembered with it.
    base: Write,
    chain: Vec<usize>,
    // as the master sees it
    leased: bool,
    connected: Option<Registration>,
}

#[derive(Debug, Clone)]
enum Message {
    Write {
        to: usize,
        version: Version,
        write: Write,
        chain: Vec<usize>,
        granted: bool,
        serial: Option<u64>,
    },
    Acknowledge(Write),
    Order(usize, Order),
    Fetch {
        to: usize,
        source: usize,
        version: Version,
        registration: Registration,
        source_registration: Registration,
    },
    Copy {
        to: usize,
        version: Version,
        content: Write,
        registration: Registration,
    },
    Event(u64, Event),
    Registered {
        to: usize,
        registration: Registration,
        current: bool,
        floor: Version,
    },
}

struct World {
    rng: StdRng,
    broken: Break,
    now: Duration,
    servers: Vec<Server>,
    network: Vec<Message>,
    // the master: its log
    version: Version,
    members: Vec<usize>,
    granted: bool,
    committed: bool,
    epoch: u64,
    drawn: u64,
    // its memory
    engine: Option<Reconfiguration>,
    log_asked: Option<Order>,
    /// Of the master's process: events of an earlier one are void.
    life: u64,
    acknowledged: Write,
    /// What a sync has put on stable storage at every member.
    synced: Write,
    /// The version that a sync was done at, whose commit is on its way.
    committing: Option<Version>,
    trace: Vec<String>,
    installs: usize,
}

fn server_id(i: usize) -> ServerId {
    ServerId::from_bits(i as u128 + 1)
}
fn disk_id(i: usize) -> DiskId {
    DiskId::from_bits(i as u128 + 1)
}
fn member(i: usize) -> Member {
    Member {
        server: server_id(i),
        disk: disk_id(i),
    }
}

impl World {
    fn new(seed: u64, broken: Break) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let count = rng.random_range(2..=4);
        let wide = rng.random_range(1..=count.min(3));
        let registration = Registration::new(1, 1);
        let server = Server {
            up: true,
            lease: true,
            leased: true,
            registration: Some(registration),
            connected: Some(registration),
            ..Server::default()
        };
        Self {
            rng,
            broken,
            now: Duration::ZERO,
            servers: vec![server; count],
            network: Vec::new(),
            version: Version::new(1, 2),
            members: (0..wide).collect(),
            granted: true,
            committed: false,
            epoch: 1,
            drawn: 2,
            engine: None,
            log_asked: None,
            life: 0,
            acknowledged: 0,
            synced: 0,
            committing: None,
            trace: Vec::new(),
            installs: 0,
        }
    }

    fn index(&self, disk: DiskId) -> usize {
        (0..self.servers.len()).find(|i| disk_id(*i) == disk).unwrap()
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn pick(&mut self) -> usize {
        self.rng.random_range(0..self.servers.len())
    }

    fn step(&mut self) -> Result<(), String> {
        self.now += Duration::from_millis(self.rng.random_range(0..400));
        match self.rng.random_range(0..100) {
            0..52 => self.deliver_one()?,
            52..60 => self.client_sends(),
            60..68 => self.reconfigure()?,
            68..71 => self.feed(Event::Tick)?,
            71..75 => self.answer_log()?,
            75..76 => {
                let s = self.pick();
                self.crash(s, false);
            }
            76..78 => {
                let s = self.pick();
                self.crash(s, true);
            }
            78..84 => {
                let s = self.pick();
                self.servers[s].up = true;
            }
            84..94 => self.register_one()?,
            94..96 => self.lease_ends()?,
            96 => {
                let s = self.pick();
                if let Some(registration) = self.servers[s].connected.take() {
                    self.feed(Event::Disconnected {
                        server: server_id(s),
                        registration,
                    })?;
                }
            }
            97 => {
                let s = self.pick();
                let server = &mut self.servers[s];
                if let Some(stored) = server.stored.as_mut().filter(|_| server.up) {
                    stored.durable = Some(stored.content);
                }
            }
            98 => match self.rng.random_range(0..4) {
                0 => self.delete_one(),
                1 => self.raise_floor(),
                2 => self.sync(),
                _ => self.commit(),
            },
            _ => {
                if self.chance(30) {
                    self.master_restarts()?;
                }
            }
        }
        self.check_readers()
    }

    // ---- the client, and writes

    fn client_sends(&mut self) {
        let (version, chain, granted) = (self.version, self.members.clone(), self.granted);
        let write = self.acknowledged + 1;
        self.network.push(Message::Write {
            to: chain[0],
            version,
            write,
            chain,
            granted,
            serial: None,
        });
    }

    fn write(
        &mut self,
        to: usize,
        version: Version,
        write: Write,
        chain: Vec<usize>,
        granted: bool,
        serial: Option<u64>,
    ) {
        let s = &mut self.servers[to];
        if !s.up {
            return;
        }
        // R10: the grant creates only above the floor, and only where there is nothing. And only if it was drawn after
        // the server's registration: else, late and at a server that was left out meanwhile without a fence (its
        // lease was over), it would make a replica that no verdict has judged
        let registered = |r: Registration| (r.epoch, r.counter) < (version.epoch, version.counter);
        let judged = s.registration.is_some_and(registered) || self.broken == Break::R10Late;
        if s.stored.is_none() && granted && s.floor < version && judged {
            s.stored = Some(Stored {
                version,
                content: 0,
                durable: None,
                fenced: false,
                suspect: false,
                made_at: None,
            });
            (s.readable, s.writable, s.serial, s.base, s.chain) = (true, true, 0, 0, chain.clone());
        }
        let Some(stored) = s.stored.as_mut().filter(|x| x.version == version && !x.fenced) else {
            return;
        };
        if !s.writable {
            return;
        }
        let serial = match serial {
            None if s.chain.first() != Some(&to) => return,
            None if write <= s.base => {
                // remembered: every member had it when this version was installed (R9)
                self.network.push(Message::Acknowledge(write));
                return;
            }
            None if write != stored.content + 1 => return,
            None => s.serial + 1,
            Some(serial) if serial != s.serial + 1 => return,
            Some(serial) => serial,
        };
        (s.serial, stored.content) = (serial, write);
        let at = s.chain.iter().position(|i| *i == to).unwrap();
        match s.chain.get(at + 1).copied() {
            Some(next) => {
                let chain = s.chain.clone();
                self.network.push(Message::Write {
                    to: next,
                    version,
                    write,
                    chain,
                    granted,
                    serial: Some(serial),
                });
            }
            None => self.network.push(Message::Acknowledge(write)),
        }
    }

    /// R12: what every member of the installed version has put on stable storage.
    fn sync(&mut self) {
        let (version, members) = (self.version, self.members.clone());
        let here = |i: &usize| {
            let s = &self.servers[*i];
            let stored = s.stored.as_ref().filter(|x| x.version == version && !x.fenced);
            stored.filter(|_| s.up && s.writable).map(|x| x.content)
        };
        let Some(contents) = members.iter().map(here).collect::<Option<Vec<_>>>() else {
            return;
        };
        for i in members {
            if let Some(x) = self.servers[i].stored.as_mut() {
                x.durable = Some(x.content);
            }
        }
        self.synced = self.synced.max(contents.into_iter().min().unwrap_or(0));
        self.committing = Some(version);
        self.trace.push(format!("{} is synced", self.synced));
    }

    fn commit(&mut self) {
        if self.committing.take() == Some(self.version) {
            self.committed = true;
            self.trace.push("committed".into());
        }
    }

    // ---- the network

    fn deliver_one(&mut self) -> Result<(), String> {
        if self.network.is_empty() {
            return Ok(());
        }
        // mostly in order, sometimes late, sometimes never
        let newest = self.network.len().min(if self.chance(70) { 3 } else { 60 });
        let at = self.rng.random_range(0..newest);
        let message = self.network.remove(at);
        if self.chance(4) {
            return Ok(());
        }
        self.trace.push(format!("{message:?}"));
        match message {
            Message::Write {
                to,
                version,
                write,
                chain,
                granted,
                serial,
            } => {
                self.write(to, version, write, chain, granted, serial);
            }
            Message::Acknowledge(write) => self.acknowledged = self.acknowledged.max(write),
            Message::Order(to, order) => self.order(to, order),
            Message::Fetch {
                to,
                source,
                version,
                registration,
                source_registration,
            } => {
                let s = &self.servers[source];
                let lax = self.broken == Break::R4Registration;
                if let Some(x) = s.stored.as_ref().filter(|x| s.up && x.version == version)
                    && (s.registration == Some(source_registration) || lax)
                {
                    let content = x.content;
                    self.network.push(Message::Copy {
                        to,
                        version,
                        content,
                        registration,
                    });
                }
            }
            Message::Copy {
                to,
                version,
                content,
                registration,
            } => {
                let s = &mut self.servers[to];
                if let Some(x) = s.stored.as_mut().filter(|x| s.up && x.version == version && x.fenced)
                    && s.registration == Some(registration)
                {
                    (x.content, x.durable) = (content, Some(content));
                    let disk = disk_id(to);
                    self.tell(Event::Synced {
                        disk,
                        registration,
                        version,
                        length: content,
                    });
                }
            }
            Message::Event(life, event) if life == self.life => self.feed(event)?,
            Message::Event(..) => {}
            Message::Registered {
                to,
                registration,
                current,
                floor,
            } => {
                let s = &mut self.servers[to];
                if s.up && s.registration < Some(registration) {
                    (s.registration, s.lease) = (Some(registration), true);
                    s.readable = current
                        && s.stored
                            .as_ref()
                            .is_some_and(|x| !x.fenced || x.version == self.version);
                    if let Some(x) = s.stored.as_mut().filter(|_| s.readable) {
                        x.fenced = false;
                    }
                    if std::mem::take(&mut s.unclean) {
                        s.floor = s.floor.max(floor);
                    }
                }
            }
        }
        Ok(())
    }

    fn tell(&mut self, event: Event) {
        self.network.push(Message::Event(self.life, event));
    }

    // ---- chunkservers

    fn order(&mut self, to: usize, order: Order) {
        let disk = disk_id(to);
        let s = &mut self.servers[to];
        let of = match &order {
            Order::Fence { registration, .. }
            | Order::Cut { registration, .. }
            | Order::Synchronize { registration, .. }
            | Order::Install { registration, .. } => *registration,
            Order::Log { .. } | Order::Done(_) | Order::Failed(_) => return,
        };
        if !s.up || s.registration != Some(of) {
            return;
        }
        let registration = of;
        match order {
            Order::Fence { version, .. } => {
                let content = match &mut s.stored {
                    Some(x) if x.version > version || (x.version == version && !x.fenced) => {
                        return self.tell(Event::FenceOvertaken {
                            disk,
                            registration,
                            have: version,
                        });
                    }
                    Some(x) => {
                        let previous = std::mem::replace(&mut x.version, version);
                        x.fenced = true;
                        x.durable = Some(x.durable.unwrap_or(0));
                        (s.readable, s.writable) = (false, false);
                        let (serial, length, suspect) = (Serial(s.serial), x.content, x.suspect);
                        Content::Present {
                            previous,
                            serial,
                            length,
                            suspect,
                            damaged: false,
                            joining: false,
                            made_at: x.made_at,
                        }
                    }
                    None => {
                        let floor = *s.absent_at.get_or_insert(s.floor);
                        s.floor = s.floor.max(version);
                        Content::Absent { floor }
                    }
                };
                self.tell(Event::Fenced {
                    disk,
                    registration,
                    version,
                    content,
                });
            }
            Order::Cut { version, anew, .. } => {
                // in these runs only to make an empty one
                assert!(anew);
                let suspect = self.broken != Break::R4Made;
                let made_at = s.absent_at;
                if s.stored.as_ref().is_none_or(|x| x.version == version && x.fenced) {
                    s.stored = Some(Stored {
                        version,
                        content: 0,
                        durable: Some(0),
                        fenced: true,
                        suspect,
                        made_at,
                    });
                }
                self.tell(Event::Cut {
                    disk,
                    registration,
                    version,
                });
            }
            Order::Synchronize {
                version,
                source,
                source_registration,
                ..
            } => {
                let empty = Stored {
                    version,
                    content: 0,
                    durable: Some(0),
                    fenced: true,
                    suspect: self.broken != Break::R4Made,
                    made_at: s.absent_at,
                };
                if s.stored.is_none() && s.floor <= version {
                    s.stored = Some(empty);
                }
                let source = self.index(source.disk);
                self.network.push(Message::Fetch {
                    to,
                    source,
                    version,
                    registration,
                    source_registration,
                });
            }
            Order::Install { version, members, .. } => {
                let chain: Vec<_> = members.iter().map(|m| self.index(m.disk)).collect();
                let s = &mut self.servers[to];
                if let Some(x) = s.stored.as_mut().filter(|x| x.version == version && x.fenced) {
                    (x.fenced, x.suspect, x.made_at) = (false, false, None);
                    s.absent_at = None;
                    (s.serial, s.base, s.chain) = (0, x.content, chain);
                    (s.readable, s.writable) = (true, true);
                    self.tell(Event::Installed {
                        disk,
                        registration,
                        version,
                    });
                }
            }
            Order::Log { .. } | Order::Done(_) | Order::Failed(_) => {}
        }
    }

    fn crash(&mut self, i: usize, power: bool) {
        let s = &mut self.servers[i];
        if !s.up {
            return;
        }
        (s.up, s.lease, s.readable, s.writable) = (false, false, false, false);
        (s.serial, s.registration, s.absent_at) = (0, None, None);
        if let Some(x) = s.stored.as_mut() {
            x.made_at = None;
        }
        // the answer to a registration belongs to the process that asked
        self.network
            .retain(|m| !matches!(m, Message::Registered { to, .. } if *to == i));
        if power {
            s.unclean = true;
            s.stored = s.stored.take().and_then(|x| {
                let durable = x.durable?;
                let suspect = x.suspect || durable != x.content;
                Some(Stored {
                    content: durable,
                    suspect,
                    ..x
                })
            });
        }
        self.trace.push(format!("crash {i}, power {power}"));
    }

    /// Lazy deletion, as promise 7 has it: what the log has moved past. The floor remembers it.
    fn delete_one(&mut self) {
        let i = self.pick();
        let info = self.info();
        let wanted = self.engine.as_ref().is_some_and(|e| e.uses(disk_id(i)));
        let s = &mut self.servers[i];
        if let Some(x) = s.stored.as_ref().filter(|_| s.up)
            && verdict::may_delete(Some(&info), true, disk_id(i), x.version, false, wanted)
        {
            s.floor = s.floor.max(x.version);
            (s.stored, s.absent_at) = (None, None);
        }
    }

    /// Another chunk that this server doesn't have was fenced, or one was unlinked.
    fn raise_floor(&mut self) {
        let i = self.pick();
        self.drawn += 1;
        let drawn = Version::new(self.epoch, self.drawn);
        let s = &mut self.servers[i];
        s.floor = s.floor.max(drawn);
        self.trace.push(format!("the floor of {i} is {}", s.floor));
    }

    // ---- the master

    fn info(&self) -> ChunkInfo {
        ChunkInfo {
            handle: ChunkHandle(1),
            version: self.version,
            members: self.members.iter().map(|i| disk_id(*i)).collect(),
            inode: Inode(2),
            index: 0,
            goal: 3,
            references: 1,
            granted: self.granted,
            committed: self.committed,
            from_suspect: None,
        }
    }

    fn register_one(&mut self) -> Result<(), String> {
        let i = self.pick();
        let s = &self.servers[i];
        if !s.up || (s.lease && s.connected.is_some() && s.registration == s.connected) {
            return Ok(());
        }
        self.drawn += 1;
        let registration = Registration::new(self.epoch, self.drawn);
        // counted as leased from before its verdict (R7)
        let s = &mut self.servers[i];
        (s.leased, s.connected) = (true, Some(registration));
        let under_way = self.engine.as_ref().is_some_and(|e| !e.is_logged()) || self.log_asked.is_some();
        let current = self.servers[i].stored.as_ref().is_some_and(|x| {
            let (disk, version, suspect) = (disk_id(i), x.version, x.suspect);
            let replica = verdict::Replica {
                disk,
                version,
                suspect,
                damaged: false,
                joining: false,
            };
            verdict::verdict(Some(&self.info()), &replica, under_way) == Verdict::Current
        });
        self.trace
            .push(format!("register {i} as {registration}, current {current}"));
        let floor = Version::new(self.epoch, self.drawn);
        self.network.push(Message::Registered {
            to: i,
            registration,
            current,
            floor,
        });
        self.feed(Event::Registered {
            server: server_id(i),
            registration,
        })
    }

    fn lease_ends(&mut self) -> Result<(), String> {
        let i = self.pick();
        let s = &mut self.servers[i];
        if s.lease {
            // on the server first: that is what d is for
            (s.lease, s.readable) = (false, false);
            return Ok(());
        }
        if s.leased {
            s.leased = false;
            // an answer that is still under way counts from when it was asked for: it is over too
            self.network
                .retain(|m| !matches!(m, Message::Registered { to, .. } if *to == i));
            self.trace.push(format!("lease of {i} over"));
            return self.feed(Event::LeaseOver { server: server_id(i) });
        }
        Ok(())
    }

    fn master_restarts(&mut self) -> Result<(), String> {
        self.trace.push("master restarts".into());
        (self.engine, self.life) = (None, self.life + 1);
        // what was asked of the log may be in it
        let asked = self.log_asked.take();
        if self.chance(50) {
            self.log_applies(asked)?;
        }
        self.epoch += 1;
        self.drawn = 0;
        for s in &mut self.servers {
            (s.leased, s.connected) = (true, None);
        }
        Ok(())
    }

    fn reconfigure(&mut self) -> Result<(), String> {
        if self.engine.is_some() {
            return Ok(());
        }
        self.drawn += 1;
        let version = Version::new(self.epoch, self.drawn);
        let joining = (0..self.servers.len())
            .filter(|i| !self.members.contains(i))
            .collect::<Vec<_>>();
        let joining: Vec<_> = joining
            .into_iter()
            .filter(|_| self.rng.random_bool(0.5))
            .map(member)
            .collect();
        let leaving = self
            .members
            .clone()
            .into_iter()
            .filter(|_| self.chance(15))
            .map(disk_id)
            .collect();
        let doubtful = self
            .members
            .clone()
            .into_iter()
            .filter(|_| self.chance(30))
            .map(disk_id)
            .collect();
        let plan = Plan {
            handle: ChunkHandle(1),
            version,
            logged: self.version,
            granted: self.granted,
            committed: self.committed,
            members: self.members.iter().map(|i| member(*i)).collect(),
            joining,
            leaving,
            doubtful,
            given_up: vec![],
            not_source: vec![],
            head: self.rng.random_bool(0.3).then(|| disk_id(0)),
            cut: None,
            minimum: self.rng.random_range(1..=2),
            patience: Patience::default(),
        };
        let states: Vec<_> = (0..self.servers.len())
            .map(|i| {
                let s = &self.servers[i];
                ServerState {
                    server: server_id(i),
                    registration: s.connected,
                    lease_over: !s.leased,
                }
            })
            .collect();
        self.trace.push(format!("{plan:?}"));
        let (mut engine, mut orders) = Reconfiguration::start(plan, &states, &[], self.now);
        engine.broken = self.broken;
        self.engine = Some(engine);
        // what was broken after the start must not have been missed
        orders.extend(
            self.engine
                .as_mut()
                .map(|e| e.handle(Event::Tick, self.now))
                .unwrap_or_default(),
        );
        self.carry_out(orders)
    }

    fn feed(&mut self, event: Event) -> Result<(), String> {
        let Some(engine) = self.engine.as_mut() else {
            return Ok(());
        };
        self.trace.push(format!("{event:?}"));
        let orders = engine.handle(event, self.now);
        self.carry_out(orders)
    }

    fn carry_out(&mut self, orders: Vec<Order>) -> Result<(), String> {
        for order in orders {
            self.trace.push(format!("  {order:?}"));
            match &order {
                Order::Log { .. } => self.log_asked = Some(order),
                Order::Done(_) | Order::Failed(_) => self.engine = None,
                Order::Fence { to, .. }
                | Order::Cut { to, .. }
                | Order::Synchronize { to, .. }
                | Order::Install { to, .. } => {
                    let to = self.index(to.disk);
                    self.network.push(Message::Order(to, order));
                }
            }
        }
        Ok(())
    }

    fn answer_log(&mut self) -> Result<(), String> {
        let asked = self.log_asked.take();
        if self.log_applies(asked)? {
            self.feed(Event::Logged)
        } else {
            Ok(())
        }
    }

    /// The log has it: the property that matters.
    fn log_applies(&mut self, asked: Option<Order>) -> Result<bool, String> {
        let Some(Order::Log {
            version,
            members,
            from_suspect,
            ..
        }) = asked
        else {
            return Ok(false);
        };
        let old: Vec<_> = self.members.clone();
        (self.version, self.granted) = (version, false);
        self.members = members.iter().map(|m| self.index(m.disk)).collect();
        self.installs += 1;
        // one that lost power after it was fenced is suspect: installed by nobody, it serves nothing until a
        // reconfiguration that knows
        let content = |i: &usize| match &self.servers[*i].stored {
            Some(x) if x.suspect && !from_suspect => None,
            stored => Some(stored.as_ref().map_or(0, |x| x.content)),
        };
        let least = self
            .members
            .iter()
            .filter_map(content)
            .min()
            .unwrap_or(self.acknowledged);
        if least < self.acknowledged {
            let whole = |i: &usize| {
                let intact = |x: &Stored| !x.suspect && x.content >= self.acknowledged;
                self.servers[*i].stored.as_ref().is_some_and(intact)
            };
            if least < self.synced || !from_suspect || old.iter().any(whole) {
                return Err(format!(
                    "{} was acknowledged, {} synced, a logged member has {least}",
                    self.acknowledged, self.synced
                ));
            }
            self.acknowledged = least;
        }
        Ok(true)
    }

    fn check_readers(&self) -> Result<(), String> {
        for (i, s) in self.servers.iter().enumerate() {
            let Some(x) = s.stored.as_ref().filter(|_| s.up && s.lease && s.readable) else {
                continue;
            };
            if x.content < self.acknowledged {
                return Err(format!(
                    "{} was acknowledged, a read at {i} sees {}",
                    self.acknowledged, x.content
                ));
            }
        }
        Ok(())
    }
}

fn run(seed: u64, broken: Break, steps: usize) -> Result<(usize, Write), String> {
    let mut world = World::new(seed, broken);
    for _ in 0..steps {
        if let Err(what) = world.step() {
            let tail = world.trace.len().saturating_sub(60);
            return Err(format!("seed {seed}: {what}\n{}", world.trace[tail..].join("\n")));
        }
    }
    Ok((world.installs, world.acknowledged))
}

/// CAIRN_EXPLORER_SEEDS asks for more than every run of the tests can afford.
fn seeds() -> u64 {
    std::env::var("CAIRN_EXPLORER_SEEDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(20_000)
}

#[test]
fn every_member_set_that_is_logged_holds_what_was_acknowledged() {
    let (mut installs, mut writes, mut widths) = (0, 0, BTreeMap::new());
    for seed in 0..seeds() {
        let (n, w) = run(seed, Break::Nothing, 400).unwrap_or_else(|e| panic!("{e}"));
        installs += n;
        writes += w;
        *widths.entry(n.min(5)).or_insert(0) += 1;
    }
    // a test that cannot fail is a defect: things must have happened
    assert!(
        2 * installs as u64 > seeds() && 2 * writes > seeds(),
        "{installs} installs, {writes} writes, {widths:?}"
    );
}

#[track_caller]
fn is_noticed(broken: Break) {
    assert!(
        (0..300_000).any(|seed| run(seed, broken, 400).is_err()),
        "nobody notices {broken:?}"
    );
}

#[test]
fn r3_a_source_that_is_no_member_is_noticed() {
    is_noticed(Break::R3Source);
}
#[test]
fn r3_a_suspect_source_while_others_have_not_answered_is_noticed() {
    is_noticed(Break::R3Suspect);
}
#[test]
fn r10_taking_an_absent_replica_below_the_floor_for_empty_is_noticed() {
    is_noticed(Break::R3Absent);
}
#[test]
fn r10_keeping_silent_of_what_a_grant_may_have_brought_is_noticed() {
    is_noticed(Break::R10Unmarked);
}
#[test]
fn r10_a_grant_drawn_before_the_servers_registration_is_noticed() {
    is_noticed(Break::R10Late);
}
#[test]
fn r4_installing_without_synchronizing_is_noticed() {
    is_noticed(Break::R4Sync);
}
#[test]
fn r4_relying_on_a_replica_that_was_made_to_be_filled_is_noticed() {
    is_noticed(Break::R4Made);
}
#[test]
fn r4_keeping_a_server_that_registered_anew_is_noticed() {
    is_noticed(Break::R4Registration);
}
#[test]
fn r5_installing_while_old_members_may_serve_reads_is_noticed() {
    is_noticed(Break::R5Lease);
}
#[test]
fn r5_telling_members_before_the_log_is_noticed() {
    is_noticed(Break::R5Log);
}
