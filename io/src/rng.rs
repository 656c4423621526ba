use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use std::sync::{Arc, Mutex, PoisonError};

/// The one source of chance: seeded by the system, or by a simulation's seed. Cheap to clone; clones share a stream.
#[derive(Clone)]
pub struct Rng(Arc<Mutex<StdRng>>);

impl Rng {
    pub fn from_system() -> Self {
        Self(Arc::new(Mutex::new(StdRng::from_os_rng())))
    }

    pub fn from_seed(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    /// A generator of its own, seeded from this one: for pure functions that take `&mut impl rand::Rng`.
    pub fn fork(&self) -> StdRng {
        StdRng::seed_from_u64(self.bits64())
    }

    pub fn bits64(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).next_u64()
    }

    pub fn bits128(&self) -> u128 {
        (u128::from(self.bits64()) << 64) | u128::from(self.bits64())
    }
}
