//! Machines in a simulated network, and what can befall them.
use anyhow::{Result, anyhow, ensure};
use cairn_io::Env;
use cairn_io::sim::{self, SimClock, SimDisk, SimNet, Trace};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// Simulated time moves in steps of this; messages take a few.
const TICK: Duration = Duration::from_millis(2);
const LATENCY_MAX: Duration = Duration::from_millis(10);
/// Scenarios have deadlines of their own, long before.
const SIMULATION_MAX: Duration = Duration::from_secs(100_000);

/// One machine: its clock, network and disks outlive its processes.
struct Machine {
    clock: SimClock,
    net: SimNet,
    disks: Vec<SimDisk>,
    /// Processes started so far: each has chance of its own.
    starts: Rc<Cell<u64>>,
}

/// A simulation: everything in it follows from the seed.
pub struct World {
    sim: turmoil::Sim<'static>,
    seed: u64,
    pub trace: Trace,
    /// Chance for the scenario itself.
    pub rng: StdRng,
    machines: BTreeMap<String, Machine>,
    clients: u64,
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self::with_trace(seed, Trace::new())
    }

    pub fn with_trace(seed: u64, trace: Trace) -> Self {
        let sim = turmoil::Builder::new()
            .rng_seed(seed)
            .enable_random_order()
            .tick_duration(TICK)
            .min_message_latency(Duration::from_micros(100))
            .max_message_latency(LATENCY_MAX)
            .tcp_capacity(1024)
            .simulation_duration(SIMULATION_MAX)
            .build();
        Self {
            sim,
            seed,
            trace,
            rng: StdRng::seed_from_u64(seed),
            machines: BTreeMap::new(),
            clients: 0,
        }
    }

    /// Adds a machine with empty disks, and starts `software` on it: again after each kill and power loss, from what
    /// the disks then hold. Software that ends by itself with an error fails the simulation.
    pub fn machine<F, Fut>(&mut self, name: &str, disks: usize, software: F)
    where
        F: Fn(Env, Vec<SimDisk>) -> Fut + 'static,
        Fut: Future<Output = Result<()>> + 'static,
    {
        let disks: Vec<SimDisk> = (0..disks)
            .map(|n| SimDisk::new(&format!("{name}/disk{n}"), self.trace.clone()))
            .collect();
        let clock = SimClock::new(self.chance_of(name, 0));
        let starts = Rc::new(Cell::new(0));
        let net = SimNet::new(self.trace.clone());
        let seed = self.chance_of(name, 1);
        let process = {
            let (disks, clock, net, starts) = (disks.clone(), clock.clone(), net.clone(), starts.clone());
            move || {
                starts.set(starts.get() + 1);
                let env = sim::env(&clock, &net, seed.wrapping_add(starts.get()));
                let running = software(env, disks.iter().map(SimDisk::mount).collect());
                async move { running.await.map_err(Into::into) }
            }
        };
        self.sim.host(name, process);
        let machine = Machine {
            clock,
            net,
            disks,
            starts,
        };
        self.machines.insert(name.to_owned(), machine);
    }

    fn chance_of(&self, name: &str, what: u64) -> u64 {
        name.bytes().fold(self.seed ^ (what << 32), |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
        })
    }

    pub fn disks(&self, name: &str) -> &[SimDisk] {
        &self.machines[name].disks
    }

    pub fn clock(&self, name: &str) -> &SimClock {
        &self.machines[name].clock
    }

    /// kill -9: what was written stays, connections are closed.
    pub fn kill(&mut self, name: &str) {
        // the disks first: what a process does while it is being dropped, a killed one does not
        let machine = &self.machines[name];
        machine.disks.iter().for_each(SimDisk::kill);
        machine.net.kill();
        self.sim.crash(name);
        self.trace.mark("kill", 0);
    }

    /// Power is cut: any part of what was not synced is lost, the boot id changes, and connections go dead without a
    /// word until the machine is started again.
    pub fn power_loss(&mut self, name: &str) {
        let machine = &self.machines[name];
        for disk in &machine.disks {
            disk.power_loss(&mut self.rng);
        }
        machine.net.power_loss();
        self.sim.crash(name);
        self.machines[name].clock.reboot(self.rng.random());
        self.trace.mark("power loss", 0);
    }

    /// Starts the machine's software, after [`World::kill`] or [`World::power_loss`].
    pub fn start(&mut self, name: &str) {
        self.sim.bounce(name);
        self.trace.mark("start", self.machines[name].starts.get());
    }

    pub fn partition(&mut self, a: &str, b: &str) {
        self.sim.partition(a, b);
        self.trace.mark("partition", 0);
    }

    pub fn repair(&mut self, a: &str, b: &str) {
        self.sim.repair(a, b);
        self.trace.mark("repair", 0);
    }

    pub fn elapsed(&self) -> Duration {
        self.sim.elapsed()
    }

    /// One step of simulated time.
    pub fn step(&mut self) -> Result<()> {
        self.sim.step().map_err(|e| anyhow!("{e}"))?;
        Ok(())
    }

    /// Lets time pass.
    pub fn run_for(&mut self, d: Duration) -> Result<()> {
        let end = self.elapsed() + d;
        while self.elapsed() < end {
            self.step()?;
        }
        Ok(())
    }

    /// Runs a program on a machine of its own to its end, while all others go on; it must end within `deadline`.
    pub fn run<T, F, Fut>(&mut self, what: &str, deadline: Duration, program: F) -> Result<T>
    where
        F: FnOnce(Env) -> Fut,
        Fut: Future<Output = Result<T>> + 'static,
        T: 'static,
    {
        let result = self.spawn(program);
        self.finish(what, deadline, result)
    }

    /// Starts a program on a machine of its own.
    pub fn spawn<T, F, Fut>(&mut self, program: F) -> Running<T>
    where
        F: FnOnce(Env) -> Fut,
        Fut: Future<Output = Result<T>> + 'static,
        T: 'static,
    {
        self.clients += 1;
        let name = format!("client{}", self.clients);
        let clock = SimClock::new(self.chance_of(&name, 0));
        let env = sim::env(&clock, &SimNet::new(self.trace.clone()), self.chance_of(&name, 1));
        let result = Rc::new(RefCell::new(None));
        let running = program(env);
        let slot = result.clone();
        self.sim.client(name.clone(), async move {
            let result = running.await;
            *slot.borrow_mut() = Some(result);
            Ok(())
        });
        Running { machine: name, result }
    }

    pub fn finish<T>(&mut self, what: &str, deadline: Duration, running: Running<T>) -> Result<T> {
        let end = self.elapsed() + deadline;
        loop {
            if let Some(result) = running.result.take() {
                return result;
            }
            ensure!(self.elapsed() < end, "{what}: not within {deadline:?}");
            self.step()?;
        }
    }
}

/// A program's result, once it has one.
pub struct Running<T> {
    /// The name of its machine.
    pub machine: String,
    result: Rc<RefCell<Option<Result<T>>>>,
}

impl<T> Running<T> {
    pub fn is_done(&self) -> bool {
        self.result.borrow().is_some()
    }
}
