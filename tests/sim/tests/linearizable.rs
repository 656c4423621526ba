//! Promise 1 with several clients at once: what they did to a name, and saw of it, has an order that agrees with the
//! time in which it happened (Herlihy and Wing, "Linearizability", 1990), also while the master dies and restarts.
#![allow(clippy::unwrap_used, clippy::expect_used)]
use anyhow::ensure;
use bytes::Bytes;
use cairn_client::{Client, FileKind, Make};
use cairn_sim::{Cluster, run};
use cairn_types::Inode;
use rand::Rng;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(120);
/// Linux's.
const ENOENT: i32 = 2;
const EEXIST: i32 = 17;
const CLIENTS: usize = 3;
const NAMES: usize = 2;
/// Of one client.
const STEPS: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Make,
    Remove,
    Look,
}

/// What one client did to a name, or saw of it.
#[derive(Debug, Clone, Copy)]
struct Step {
    what: What,
    begun: u64,
    /// `None`: nobody knows whether it was done, or when.
    ended: Option<u64>,
    /// The name was there.
    there: bool,
}

impl Step {
    /// What it leaves behind if it takes effect while the name is there, or is not; `None`: it can't have.
    fn after(&self, there: bool) -> Option<bool> {
        let known = self.ended.is_some();
        let agrees = !known || there == self.there;
        match self.what {
            What::Make => agrees.then_some(true),
            What::Remove => agrees.then_some(false),
            What::Look => agrees.then_some(there),
        }
    }
}

/// Whether some order of `steps` that agrees with their times explains all that they saw, from an absent name on.
fn has_an_order(steps: &[Step]) -> bool {
    fn search(steps: &[Step], done: u64, there: bool, tried: &mut BTreeSet<(u64, bool)>) -> bool {
        let open = |i: usize| done & (1 << i) == 0;
        let mut left = (0..steps.len()).filter(|i| open(*i));
        if left.all(|i| steps[i].ended.is_none()) {
            return true;
        }
        if !tried.insert((done, there)) {
            return false;
        }
        let first_end = (0..steps.len())
            .filter(|i| open(*i))
            .filter_map(|i| steps[i].ended)
            .min();
        (0..steps.len()).filter(|i| open(*i)).any(|i| {
            // nothing may come before what had ended when it began
            first_end.is_none_or(|end| steps[i].begun < end)
                && steps[i]
                    .after(there)
                    .is_some_and(|after| search(steps, done | 1 << i, after, tried))
        })
    }
    search(steps, 0, false, &mut BTreeSet::new())
}

fn name(n: usize) -> Vec<u8> {
    format!("n{n}").into_bytes()
}

async fn step(client: &Client, what: What, n: usize) -> Option<bool> {
    let made = || Make {
        kind: FileKind::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        rdev: 0,
        target: Bytes::new(),
    };
    let error = match what {
        What::Make => client.make(Inode::ROOT, &name(n), made()).await.map(|_| false),
        What::Remove => client.rmdir(Inode::ROOT, &name(n)).await.map(|()| true),
        What::Look => client.lookup(Inode::ROOT, &name(n)).await.map(|_| true),
    };
    match error {
        Ok(there) => Some(there),
        Err(e) if e.errno() == EEXIST => Some(true),
        Err(e) if e.errno() == ENOENT => Some(false),
        Err(_) => None,
    }
}

#[test]
fn promise_1_namespace_operations_of_several_clients_are_linearizable() {
    run(0..20, &[], |seed| {
        let mut cluster = Cluster::start(seed, 0)?;
        let history: Rc<RefCell<[Vec<Step>; NAMES]>> = Rc::default();
        let clock = Rc::new(Cell::new(0u64));
        let tick = move |clock: &Cell<u64>| {
            clock.set(clock.get() + 1);
            clock.get()
        };
        let mut running = Vec::new();
        for _ in 0..CLIENTS {
            let (history, clock) = (history.clone(), clock.clone());
            running.push(cluster.world.spawn(move |env| async move {
                let client = Cluster::client(&env).await?;
                for _ in 0..STEPS {
                    let chance = env.rng.bits64();
                    let what = [What::Make, What::Remove, What::Look][(chance % 3) as usize];
                    let n = (chance >> 8) as usize % NAMES;
                    let begun = tick(&clock);
                    let there = step(&client, what, n).await;
                    let ended = there.map(|_| tick(&clock));
                    let there = there.unwrap_or_default();
                    let done = Step {
                        what,
                        begun,
                        ended,
                        there,
                    };
                    history.borrow_mut()[n].push(done);
                    tokio::time::sleep(Duration::from_millis((chance >> 16) % 60)).await;
                }
                Ok(client.shutdown().await?)
            }));
        }
        for _ in 0..2 {
            let pause = Duration::from_millis(cluster.world.rng.random_range(0..600));
            cluster.world.run_for(pause)?;
            match cluster.world.rng.random() {
                true => cluster.world.power_loss("master"),
                false => cluster.world.kill("master"),
            }
            cluster.world.start("master");
        }
        for running in running {
            cluster.world.finish("names", SOON, running)?;
        }
        for steps in history.borrow().iter() {
            ensure!(
                steps.iter().filter(|s| s.ended.is_some()).count() > STEPS / 2,
                "too little is known: {steps:?}"
            );
            ensure!(has_an_order(steps), "no order explains {steps:?}");
        }
        Ok(())
    });
}

#[test]
fn a_stale_look_and_a_change_made_twice_have_no_order() {
    let at = |what, begun, ended, there| Step {
        what,
        begun,
        ended: Some(ended),
        there,
    };
    use What::{Look, Make, Remove};
    assert!(has_an_order(&[
        at(Make, 1, 4, false),
        at(Look, 2, 3, false),
        at(Look, 5, 6, true)
    ]));
    // made and acknowledged, yet not there
    assert!(!has_an_order(&[at(Make, 1, 2, false), at(Look, 3, 4, false)]));
    // removed by two
    assert!(!has_an_order(&[
        at(Make, 1, 2, false),
        at(Remove, 3, 5, true),
        at(Remove, 4, 6, true)
    ]));
    // seen by one, then by another no more
    let look = [at(Look, 2, 3, true), at(Look, 4, 5, false), at(Make, 1, 6, false)];
    assert!(!has_an_order(&look));
    // nobody knows: it may have been done, at any time after
    let maybe = Step {
        ended: None,
        ..at(Make, 1, 2, false)
    };
    assert!(has_an_order(&[maybe, at(Look, 3, 4, false), at(Look, 5, 6, true)]));
    assert!(!has_an_order(&[maybe, at(Look, 3, 4, true), at(Look, 5, 6, false)]));
}
