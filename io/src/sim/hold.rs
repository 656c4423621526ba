//! A disk that hangs, as one does whose controller or server is gone.
use std::sync::{Arc, Condvar, Mutex, PoisonError};

#[derive(Default)]
pub(super) struct Gate {
    held: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    pub(super) fn pass(&self) {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.opened.wait_while(held, |held| *held));
    }

    fn set(&self, held: bool) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
        self.opened.notify_all();
    }
}

/// While it is there files' syncs wait.
pub struct Hold(Arc<Gate>);

impl Hold {
    pub(super) fn new(gate: Arc<Gate>) -> Self {
        gate.set(true);
        Self(gate)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.set(false);
    }
}
