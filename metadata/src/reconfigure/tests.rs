//! One rule a test, on a chunk of three members and a fourth server.
use super::*;

const LOGGED: Version = Version::new(1, 5);
const V: Version = Version::new(1, 9);
const REG: Registration = Registration::new(1, 1);
const ANEW: Registration = Registration::new(1, 8);

fn m(i: u128) -> Member {
    Member {
        server: ServerId::from_bits(i),
        disk: DiskId::from_bits(i),
    }
}

fn plan() -> Plan {
    Plan {
        handle: ChunkHandle(1),
        version: V,
        logged: LOGGED,
        granted: false,
        committed: true,
        members: vec![m(1), m(2), m(3)],
        joining: vec![],
        leaving: vec![],
        doubtful: vec![],
        given_up: vec![],
        not_source: vec![],
        head: None,
        cut: None,
        minimum: 2,
        patience: Patience::default(),
    }
}

/// A run: the engine, and all that it ordered so far and nobody looked at.
struct Run {
    engine: Reconfiguration,
    orders: Vec<Order>,
    now: Duration,
}

impl Run {
    fn new(plan: Plan) -> Self {
        let servers = (1..=4).map(|i| ServerState {
            server: m(i).server,
            registration: Some(REG),
            lease_over: false,
        });
        let (engine, orders) = Reconfiguration::start(plan, &servers.collect::<Vec<_>>(), &[], Duration::ZERO);
        Self {
            engine,
            orders,
            now: Duration::ZERO,
        }
    }

    fn event(&mut self, event: Event) {
        self.orders.extend(self.engine.handle(event, self.now));
    }

    fn later(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.event(Event::Tick);
    }

    fn fenced(&mut self, i: u128, content: Content) {
        self.event(Event::Fenced {
            disk: m(i).disk,
            registration: REG,
            version: V,
            content,
        });
    }

    fn synced(&mut self, i: u128) {
        self.event(Event::Synced {
            disk: m(i).disk,
            registration: REG,
            version: V,
            length: 1,
        });
    }

    fn take(&mut self) -> Vec<Order> {
        std::mem::take(&mut self.orders)
    }

    fn fences(&mut self) -> Vec<Member> {
        let orders = self.take();
        orders
            .iter()
            .filter_map(|o| {
                if let Order::Fence { to, .. } = o {
                    Some(*to)
                } else {
                    None
                }
            })
            .collect()
    }

    fn syncs(&mut self) -> Vec<(Member, Member)> {
        let of = |o: &Order| match o {
            Order::Synchronize { to, source, .. } => Some((*to, *source)),
            _ => None,
        };
        self.take().iter().filter_map(of).collect()
    }

    fn failure(&mut self) -> Failure {
        match self.take().pop() {
            Some(Order::Failed(failure)) => failure,
            other => panic!("no failure: {other:?}"),
        }
    }

    fn log(&mut self) -> (Vec<Member>, bool, u64) {
        match self.take().pop() {
            Some(Order::Log {
                members,
                from_suspect,
                length,
                ..
            }) => (members, from_suspect, length),
            other => panic!("not to the log: {other:?}"),
        }
    }
}

fn has(serial: u64) -> Content {
    let (previous, length) = (LOGGED, serial * 10);
    Content::Present {
        previous,
        serial: Serial(serial),
        length,
        suspect: false,
        damaged: false,
        joining: false,
        made_at: None,
    }
}

fn suspect(serial: u64) -> Content {
    match has(serial) {
        Content::Present {
            previous,
            serial,
            length,
            damaged,
            joining,
            ..
        } => Content::Present {
            previous,
            serial,
            length,
            suspect: true,
            damaged,
            joining,
            made_at: None,
        },
        absent => absent,
    }
}

fn absent(floor: Version) -> Content {
    Content::Absent { floor }
}

#[test]
fn r2_the_healthy_are_fenced_last() {
    let mut run = Run::new(Plan {
        doubtful: vec![m(2).disk],
        joining: vec![m(4)],
        ..plan()
    });
    assert_eq!(run.fences(), [m(2), m(4)]);
    run.fenced(4, absent(Version::ZERO));
    assert_eq!(
        run.fences(),
        [],
        "the doubtful one has not answered: reads go on at the others"
    );
    run.event(Event::LeaseOver { server: m(2).server });
    assert_eq!(run.fences(), [m(1), m(3)]);
}

#[test]
fn r2_nobody_healthy_is_fenced_when_too_few_could_agree() {
    let mut run = Run::new(Plan {
        doubtful: vec![m(2).disk, m(3).disk],
        ..plan()
    });
    run.event(Event::LeaseOver { server: m(2).server });
    run.event(Event::OutOfService { disk: m(3).disk });
    assert_eq!(
        run.failure(),
        Failure::TooFew {
            have: 1,
            minimum: 2,
            fenced: false
        }
    );
    assert!(run.engine.is_over());
}

#[test]
fn r3_the_source_is_the_member_with_the_highest_serial() {
    let mut run = Run::new(plan());
    (1..=3)
        .zip([4, 6, 5])
        .for_each(|(i, serial)| run.fenced(i, has(serial)));
    assert_eq!(run.syncs(), [(m(1), m(2)), (m(3), m(2))]);
}

#[test]
fn r3_a_joining_replica_is_never_the_source() {
    let mut run = Run::new(Plan {
        joining: vec![m(4)],
        ..plan()
    });
    run.fenced(4, has(99));
    (1..=3).for_each(|i| run.fenced(i, has(1)));
    assert!(run.syncs().iter().all(|(_, source)| *source == m(1)));
}

#[test]
fn r3_a_member_that_missed_an_install_is_never_the_source() {
    let mut run = Run::new(plan());
    let Content::Present {
        serial,
        length,
        suspect,
        damaged,
        joining,
        ..
    } = has(99)
    else {
        return;
    };
    let old = Version::new(1, 4);
    run.fenced(
        1,
        Content::Present {
            previous: old,
            serial,
            length,
            suspect,
            damaged,
            joining,
            made_at: None,
        },
    );
    run.fenced(2, has(1));
    run.fenced(3, has(1));
    assert_eq!(run.syncs(), [(m(1), m(2)), (m(3), m(2))]);
}

#[test]
fn r3_a_suspect_is_not_the_source_while_an_unsuspected_member_is_there() {
    let mut run = Run::new(plan());
    run.fenced(1, suspect(9));
    run.fenced(2, suspect(8));
    run.fenced(3, has(0));
    assert_eq!(run.syncs(), [(m(1), m(3)), (m(2), m(3))]);
    run.synced(1);
    run.synced(2);
    assert!(!run.log().1);
}

#[test]
fn r3_a_suspect_is_the_source_only_when_all_others_are() {
    let mut run = Run::new(plan());
    run.fenced(1, suspect(3));
    run.fenced(2, suspect(4));
    run.event(Event::LeaseOver { server: m(3).server });
    assert_eq!(run.failure(), Failure::OnlySuspects { missing: vec![m(3)] });

    let mut run = Run::new(plan());
    (1..=3).for_each(|i| run.fenced(i, suspect(i as u64)));
    assert_eq!(run.syncs(), [(m(1), m(3)), (m(2), m(3))]);
    run.synced(1);
    run.synced(2);
    assert_eq!(run.log(), (vec![m(1), m(2), m(3)], true, 30), "and the log says so");
}

#[test]
fn r3_an_operator_may_give_up_the_member_that_does_not_answer() {
    let mut run = Run::new(Plan {
        given_up: vec![m(3).disk],
        ..plan()
    });
    run.fenced(1, suspect(3));
    run.fenced(2, suspect(4));
    run.event(Event::LeaseOver { server: m(3).server });
    run.take();
    run.synced(1);
    assert_eq!(run.log(), (vec![m(1), m(2)], true, 40));
}

#[test]
fn r3_a_damaged_replica_is_the_source_only_when_no_sound_one_is_there() {
    let Content::Present {
        previous,
        serial,
        length,
        suspect,
        joining,
        ..
    } = has(9)
    else {
        return;
    };
    let damaged = Content::Present {
        previous,
        serial,
        length,
        suspect,
        damaged: true,
        joining,
        made_at: None,
    };
    let mut run = Run::new(plan());
    run.fenced(1, damaged);
    run.fenced(2, has(1));
    run.fenced(3, has(1));
    let orders = run.take();
    let to_damaged = orders.iter().find_map(|o| match o {
        Order::Synchronize {
            to, source, recompute, ..
        } if *to == m(1) => Some((*source, *recompute)),
        _ => None,
    });
    assert_eq!(to_damaged, Some((m(2), true)), "its own checksums are not believed");
}

#[test]
fn r4_blocks_that_are_bad_at_the_source_come_from_fenced_unsuspected_members() {
    let mut run = Run::new(Plan {
        joining: vec![m(4)],
        ..plan()
    });
    run.fenced(4, absent(Version::ZERO));
    run.fenced(1, has(5));
    run.fenced(2, suspect(4));
    run.fenced(3, has(4));
    let orders = run.take();
    let alternates = orders.iter().find_map(|o| match o {
        Order::Synchronize { to, alternates, .. } if *to == m(4) => Some(alternates.clone()),
        _ => None,
    });
    assert_eq!(alternates, Some(vec![(m(3), REG)]));
    let (disk, registration) = (m(3).disk, REG);
    run.event(Event::SyncFailed {
        disk,
        registration,
        version: V,
        unreadable: true,
    });
    assert_eq!(
        run.failure(),
        Failure::SourceFailed {
            disk: m(1).disk,
            unreadable: true
        }
    );
}

#[test]
fn r4_what_is_bad_in_every_member_is_given_up_only_when_every_member_takes_part() {
    let last_resort = |run: &mut Run| {
        let orders = run.take();
        let ordered = orders.iter().filter_map(|o| match o {
            Order::Synchronize { last_resort, .. } => Some(*last_resort),
            _ => None,
        });
        ordered.collect::<Vec<_>>()
    };
    let mut run = Run::new(plan());
    (1..=3).for_each(|i| run.fenced(i, has(2)));
    assert_eq!(last_resort(&mut run), [true, true]);

    let mut run = Run::new(plan());
    run.event(Event::LeaseOver { server: m(3).server });
    (1..=2).for_each(|i| run.fenced(i, has(2)));
    assert_eq!(last_resort(&mut run), [false]);

    // one that joins cannot be given what is lost: the members go on without it
    let mut run = Run::new(Plan {
        joining: vec![m(4)],
        ..plan()
    });
    run.fenced(4, absent(Version::ZERO));
    (1..=3).for_each(|i| run.fenced(i, has(2)));
    run.take();
    run.event(Event::SyncFailed {
        disk: m(4).disk,
        registration: REG,
        version: V,
        unreadable: true,
    });
    (2..=3).for_each(|i| run.synced(i));
    assert_eq!(run.log().0, vec![m(1), m(2), m(3)]);
}

#[test]
fn r3_a_source_that_nobody_can_copy_from_is_left_for_another_in_the_next_attempt() {
    let failed = |run: &mut Run, i| {
        run.event(Event::SyncFailed {
            disk: m(i).disk,
            registration: REG,
            version: V,
            unreadable: false,
        });
    };
    let mut run = Run::new(plan());
    run.fenced(1, has(2));
    run.fenced(2, has(1));
    run.fenced(3, has(1));
    failed(&mut run, 2);
    failed(&mut run, 3);
    let disk = m(1).disk;
    assert_eq!(run.failure(), Failure::SourceFailed { disk, unreadable: true });

    let mut run = Run::new(Plan {
        not_source: vec![disk],
        ..plan()
    });
    run.fenced(1, has(2));
    run.fenced(2, has(1));
    run.fenced(3, has(1));
    failed(&mut run, 1);
    run.synced(3);
    assert_eq!(run.log().0, [m(2), m(3)]);
}

#[test]
fn r4_a_server_that_registers_anew_falls_out() {
    let mut run = Run::new(plan());
    (1..=3).for_each(|i| run.fenced(i, has(1)));
    run.take();
    run.event(Event::Registered {
        server: m(2).server,
        registration: ANEW,
    });
    run.synced(2);
    run.synced(3);
    assert_eq!(run.log().0, [m(1), m(3)], "what it answered before is void");

    let mut run = Run::new(plan());
    (1..=3).for_each(|i| run.fenced(i, has(1)));
    run.take();
    run.event(Event::Registered {
        server: m(1).server,
        registration: ANEW,
    });
    assert_eq!(
        run.failure(),
        Failure::SourceFailed {
            disk: m(1).disk,
            unreadable: false
        }
    );
}

#[test]
fn r4_answers_of_another_version_or_registration_are_ignored() {
    let mut run = Run::new(plan());
    run.take();
    let disk = m(1).disk;
    run.event(Event::Fenced {
        disk,
        registration: ANEW,
        version: V,
        content: has(1),
    });
    run.event(Event::Fenced {
        disk,
        registration: REG,
        version: LOGGED,
        content: has(1),
    });
    run.fenced(2, has(1));
    run.fenced(3, has(1));
    assert_eq!(run.take(), []);
    assert_eq!(run.engine.waiting_for(), [m(1)]);
}

#[test]
fn r5_an_old_member_is_fenced_or_its_lease_over_or_out_of_service() {
    for settle in [
        Event::Fenced {
            disk: m(3).disk,
            registration: REG,
            version: V,
            content: has(1),
        },
        Event::LeaseOver { server: m(3).server },
        Event::OutOfService { disk: m(3).disk },
    ] {
        let mut run = Run::new(plan());
        run.fenced(1, has(1));
        run.fenced(2, has(1));
        assert!(run.syncs().is_empty(), "{settle:?}");
        run.event(settle);
        assert!(!run.syncs().is_empty(), "{settle:?}");
    }
}

#[test]
fn r5_a_server_that_is_leased_again_must_be_fenced() {
    let mut run = Run::new(plan());
    run.event(Event::LeaseOver { server: m(3).server });
    run.fenced(1, has(1));
    run.take();
    run.event(Event::Registered {
        server: m(3).server,
        registration: ANEW,
    });
    assert_eq!(run.fences(), [m(3)]);
    run.fenced(2, has(1));
    assert_eq!(run.syncs(), []);
    run.event(Event::Fenced {
        disk: m(3).disk,
        registration: ANEW,
        version: V,
        content: has(7),
    });
    assert_eq!(run.syncs(), [(m(2), m(1))], "fenced, and no more than that");
}

#[test]
fn r5_the_log_comes_first_and_the_head_last() {
    let mut run = Run::new(Plan {
        head: Some(m(3).disk),
        ..plan()
    });
    (1..=3).for_each(|i| run.fenced(i, has(1)));
    run.take();
    run.synced(2);
    run.synced(3);
    let chain = vec![m(3), m(1), m(2)];
    assert_eq!(run.log(), (chain.clone(), false, 10));
    assert!(!run.engine.is_logged());
    run.event(Event::Logged);
    assert!(run.engine.is_logged());
    let installs = |orders: Vec<Order>| -> Vec<_> {
        orders
            .iter()
            .filter_map(|o| {
                if let Order::Install { to, .. } = o {
                    Some(*to)
                } else {
                    None
                }
            })
            .collect()
    };
    assert_eq!(installs(run.take()), [m(2), m(1)]);
    let installed = |i| Event::Installed {
        disk: m(i).disk,
        registration: REG,
        version: V,
    };
    run.event(installed(1));
    assert_eq!(run.take(), []);
    run.event(installed(2));
    assert_eq!(installs(run.take()), [m(3)]);
    run.event(installed(3));
    let done = Done {
        version: V,
        members: chain,
        unconfirmed: vec![],
        left_out: vec![],
    };
    assert_eq!(run.take(), [Order::Done(done)]);
}

#[test]
fn r5_a_logged_member_that_registered_anew_is_not_told_to_install() {
    let mut run = Run::new(plan());
    (1..=3).for_each(|i| run.fenced(i, has(1)));
    run.synced(2);
    run.synced(3);
    run.take();
    run.event(Event::Registered {
        server: m(1).server,
        registration: ANEW,
    });
    run.event(Event::Logged);
    for i in [2, 3] {
        run.event(Event::Installed {
            disk: m(i).disk,
            registration: REG,
            version: V,
        });
    }
    let orders = run.take();
    assert!(
        !orders
            .iter()
            .any(|o| matches!(o, Order::Install { to, .. } if *to == m(1))),
        "{orders:?}"
    );
    assert!(matches!(orders.last(), Some(Order::Done(done)) if done.unconfirmed == [m(1)]));
}

#[test]
fn r5_the_minimum_is_kept() {
    let mut run = Run::new(plan());
    run.fenced(1, has(1));
    run.event(Event::LeaseOver { server: m(2).server });
    run.event(Event::LeaseOver { server: m(3).server });
    assert_eq!(
        run.failure(),
        Failure::TooFew {
            have: 1,
            minimum: 2,
            fenced: true
        }
    );

    let mut run = Run::new(Plan { minimum: 1, ..plan() });
    run.fenced(1, has(1));
    run.event(Event::LeaseOver { server: m(2).server });
    run.event(Event::LeaseOver { server: m(3).server });
    assert_eq!(run.log().0, [m(1)]);
}

#[test]
fn a_joining_replica_is_not_waited_for_for_ever() {
    let mut run = Run::new(Plan {
        joining: vec![m(4)],
        leaving: vec![m(3).disk],
        ..plan()
    });
    run.take();
    run.later(4);
    assert_eq!(run.fences(), []);
    assert_eq!(run.engine.deadline(), Some(Duration::from_secs(5)));
    run.later(1);
    assert_eq!(run.fences(), [m(1), m(2), m(3)]);
    run.fenced(4, absent(Version::ZERO));
    (1..=3).for_each(|i| run.fenced(i, has(1)));
    assert_eq!(
        run.syncs(),
        [(m(2), m(1)), (m(4), m(1))],
        "one that leaves is not synchronized"
    );
    run.synced(2);
    assert_eq!(run.take(), []);
    run.later(5);
    assert_eq!(run.log().0, [m(1), m(2)]);
}

#[test]
fn a_fence_that_failed_is_ordered_again_and_one_without_end_times_out() {
    let mut run = Run::new(plan());
    run.take();
    run.event(Event::FenceFailed {
        disk: m(1).disk,
        registration: REG,
    });
    assert_eq!(run.engine.deadline(), Some(Duration::from_secs(1)));
    run.later(1);
    assert_eq!(run.fences(), [m(1)]);
    run.fenced(2, has(1));
    run.later(60);
    assert_eq!(
        run.failure(),
        Failure::TimedOut {
            missing: vec![m(1), m(3)]
        }
    );
}

#[test]
fn r10_absent_below_the_floor_is_empty_and_at_it_unknown() {
    // created by a grant that reached only the second
    let mut run = Run::new(Plan {
        granted: true,
        ..plan()
    });
    run.fenced(1, absent(Version::new(1, 4)));
    run.fenced(2, has(0));
    run.fenced(3, absent(Version::new(1, 4)));
    assert_eq!(run.syncs(), [(m(1), m(2)), (m(3), m(2))]);

    // it reached nobody: an empty chunk
    let mut run = Run::new(Plan {
        granted: true,
        ..plan()
    });
    (1..=3).for_each(|i| run.fenced(i, absent(Version::new(1, 4))));
    let cut = Order::Cut {
        to: m(1),
        registration: REG,
        version: V,
        length: 0,
        anew: true,
    };
    assert_eq!(run.take().last(), Some(&cut));
    run.event(Event::Cut {
        disk: m(1).disk,
        registration: REG,
        version: V,
    });
    assert_eq!(run.syncs(), [(m(2), m(1)), (m(3), m(1))]);

    // at the floor, or installed by a reconfiguration: what was there is lost
    for (granted, floor) in [(true, LOGGED), (true, V), (false, Version::ZERO)] {
        let mut run = Run::new(Plan { granted, ..plan() });
        (1..=3).for_each(|i| run.fenced(i, absent(floor)));
        assert_eq!(run.failure(), Failure::NoSource);
    }
}

/// Its head died before the grant reached anybody, and a first attempt has failed after it had made two replicas.
#[test]
fn r10_what_a_failed_attempt_made_where_nothing_was_is_still_provably_empty() {
    let below = Version::new(1, 4);
    let made = |made_at| match suspect(3) {
        Content::Present {
            serial,
            length,
            suspect,
            damaged,
            joining,
            ..
        } => Content::Present {
            previous: Version::new(V.epoch, V.counter - 1),
            serial,
            length,
            suspect,
            damaged,
            joining,
            made_at,
        },
        absent => absent,
    };
    let granted = |granted| Plan { granted, ..plan() };
    let mut run = Run::new(granted(true));
    run.event(Event::LeaseOver { server: m(1).server });
    run.fenced(2, made(Some(below)));
    run.fenced(3, made(Some(below)));
    let cut = run.take().pop();
    assert!(
        matches!(cut, Some(Order::Cut { to, length: 0, anew: true, .. }) if to == m(2)),
        "{cut:?}"
    );
    run.event(Event::Cut {
        disk: m(2).disk,
        registration: REG,
        version: V,
    });
    assert_eq!(run.syncs(), [(m(3), m(2))]);
    run.synced(3);
    assert_eq!(run.log(), (vec![m(2), m(3)], false, 0));

    // one that has what was written is the source, not an empty one
    let mut run = Run::new(granted(true));
    run.event(Event::LeaseOver { server: m(1).server });
    run.fenced(2, made(Some(below)));
    run.fenced(3, has(1));
    assert_eq!(run.syncs(), [(m(2), m(3))]);

    // made where the floor says nothing, or after an installation: suspect, as before
    for (is_granted, floor) in [(true, V), (false, below)] {
        let mut run = Run::new(granted(is_granted));
        run.event(Event::LeaseOver { server: m(1).server });
        run.fenced(2, made(Some(floor)));
        run.fenced(3, made(Some(floor)));
        assert_eq!(run.failure(), Failure::OnlySuspects { missing: vec![m(1)] });
    }
}

#[test]
fn r10_a_grant_that_no_commit_has_named_is_given_anew_as_an_empty_chunk() {
    let plan = || Plan {
        granted: true,
        committed: false,
        ..plan()
    };
    // what it may have brought was never on stable storage everywhere: installed empty, and the log says so (R12)
    let mut run = Run::new(plan());
    (1..=3).for_each(|i| run.fenced(i, absent(V)));
    assert!(matches!(run.take().last(), Some(Order::Cut { to, length: 0, .. }) if *to == m(1)));
    run.event(Event::Cut {
        disk: m(1).disk,
        registration: REG,
        version: V,
    });
    assert_eq!(run.syncs(), [(m(2), m(1)), (m(3), m(1))]);
    (2..=3).for_each(|i| run.synced(i));
    assert_eq!(run.log(), (vec![m(1), m(2), m(3)], true, 0));

    // a member that has not answered may have what the others lost
    let mut run = Run::new(plan());
    (1..=2).for_each(|i| run.fenced(i, absent(V)));
    run.event(Event::LeaseOver { server: m(3).server });
    assert_eq!(run.failure(), Failure::OnlySuspects { missing: vec![m(3)] });

    // and one that has, is the source
    let mut run = Run::new(plan());
    (1..=2).for_each(|i| run.fenced(i, absent(V)));
    run.fenced(3, has(1));
    assert_eq!(run.syncs(), [(m(1), m(3)), (m(2), m(3))]);
}

#[test]
fn r13_the_source_is_cut_before_the_others_follow() {
    let mut run = Run::new(Plan { cut: Some(7), ..plan() });
    (1..=3).for_each(|i| run.fenced(i, has(2)));
    let cut = Order::Cut {
        to: m(1),
        registration: REG,
        version: V,
        length: 7,
        anew: false,
    };
    assert_eq!(run.take().last(), Some(&cut));
    run.event(Event::Cut {
        disk: m(1).disk,
        registration: REG,
        version: V,
    });
    assert_eq!(run.syncs(), [(m(2), m(1)), (m(3), m(1))]);
    run.synced(2);
    run.synced(3);
    assert_eq!(run.log(), (vec![m(1), m(2), m(3)], false, 7));
    run.event(Event::LogRefused);
    assert_eq!(run.failure(), Failure::Overtaken);
}
