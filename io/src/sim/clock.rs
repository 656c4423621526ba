use crate::{Boot, Clock, Nanos};
use async_trait::async_trait;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// 2024-01-01 00:00 UTC: where every simulation starts.
const WALL_START: Nanos = 1_704_067_200_000_000_000;
/// What the boot clock shows at the first reading, and after each reboot: a machine that has just come up.
const AFTER_BOOT: Duration = Duration::from_secs(10);

/// One machine's clock. Inside turmoil it shows the simulation's time, which goes on while the machine is down;
/// elsewhere tokio's, paused or not. Clones share it.
#[derive(Clone)]
pub struct SimClock(Arc<Mutex<State>>);

struct State {
    boot_id: Uuid,
    /// What tokio's clock showed at the start, for use outside turmoil.
    base: Option<Instant>,
    /// The last reading of the time that drives the simulation; given again where there is none (a task being
    /// dropped after its runtime).
    last: Duration,
    /// Where the boot clock was when `factor` began to hold: (driving time, boot clock).
    anchor: (Duration, Duration),
    /// Seconds of this clock to a second of the simulation.
    factor: f64,
    wall_skew: Nanos,
}

impl SimClock {
    /// A machine whose first boot id follows from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            boot_id: boot_id_from(seed),
            base: None,
            last: Duration::ZERO,
            anchor: (Duration::ZERO, AFTER_BOOT),
            factor: 1.0,
            wall_skew: 0,
        })))
    }

    /// The machine starts anew: another boot id, and the boot clock near its zero.
    pub fn reboot(&self, seed: u64) {
        let mut state = self.lock();
        state.boot_id = boot_id_from(seed);
        state.anchor = (state.elapsed(), AFTER_BOOT);
    }

    /// From now on this clock runs `factor` times as fast as the simulation (1.0: right).
    pub fn set_drift(&self, factor: f64) {
        let mut state = self.lock();
        let now = state.elapsed();
        state.anchor = (now, state.reading(now));
        state.factor = factor;
    }

    /// Somebody sets the time of day: `skew` from the simulation's own.
    pub fn set_wall_skew(&self, skew: Nanos) {
        self.lock().wall_skew = skew;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn boot_id_from(seed: u64) -> Uuid {
    let bits = (u128::from(seed) << 64) | u128::from(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid()
}

/// Time since the simulation started; none outside turmoil, and none where a task is dropped with its runtime.
pub(super) fn elapsed() -> Option<Duration> {
    // without a runtime tokio's clock is the real one, and turmoil's own reading would follow it
    tokio::runtime::Handle::try_current().ok()?;
    turmoil::sim_elapsed()
}

impl State {
    fn elapsed(&mut self) -> Duration {
        if let Some(time) = elapsed() {
            self.last = time;
        } else if !turmoil::in_simulation() && tokio::runtime::Handle::try_current().is_ok() {
            let now = Instant::now();
            self.last = now.saturating_duration_since(*self.base.get_or_insert(now));
        }
        self.last
    }

    fn reading(&self, elapsed: Duration) -> Duration {
        let (since, shown) = self.anchor;
        let passed = elapsed.saturating_sub(since);
        if self.factor == 1.0 {
            return shown + passed;
        }
        shown + passed.mul_f64(self.factor)
    }
}

#[async_trait]
impl Clock for SimClock {
    fn now(&self) -> Boot {
        let mut state = self.lock();
        let elapsed = state.elapsed();
        Boot(state.reading(elapsed))
    }

    fn wall(&self) -> Nanos {
        let mut state = self.lock();
        WALL_START + state.elapsed().as_nanos() as Nanos + state.wall_skew
    }

    fn boot_id(&self) -> Uuid {
        self.lock().boot_id
    }

    async fn sleep(&self, d: Duration) {
        let factor = self.lock().factor;
        let d = if factor == 1.0 { d } else { d.div_f64(factor) };
        tokio::time::sleep(d).await;
    }
}
