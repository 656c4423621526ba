//! Waiting a little longer each time, and never in step with others.
use crate::limits::{BACKOFF_MAX, BACKOFF_MIN};
use cairn_io::Rng;
use std::time::Duration;

pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub fn new() -> Self {
        Self { next: BACKOFF_MIN }
    }

    pub fn reset(&mut self) {
        self.next = BACKOFF_MIN;
    }

    /// Between half of the step and the whole of it; the step doubles up to its bound.
    pub fn step(&mut self, rng: &Rng) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(BACKOFF_MAX);
        let half = step / 2;
        half + half.mul_f64((rng.bits64() >> 11) as f64 / (1u64 << 53) as f64)
    }

    pub async fn wait(&mut self, rng: &Rng) {
        tokio::time::sleep(self.step(rng)).await;
    }
}
