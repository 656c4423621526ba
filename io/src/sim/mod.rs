//! The simulated world: see `tests/sim`.
