//! The session with the master.
use crate::Invalidated;

/// What the master pushed; dropping it (or `done`) tells the master that it took effect here.
#[derive(Debug)]
pub struct Invalidation {
    what: Invalidated,
}

impl Invalidation {
    pub fn what(&self) -> &Invalidated {
        &self.what
    }
    /// It has taken effect.
    pub fn done(self) {}
}
