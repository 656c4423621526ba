//! The binary as users run it: clusters of real processes on this machine, files in and out, and what must hold when
//! processes are killed, disks rot and machines pause. One test binary, so that it is linked once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests live in the real world"
)]
mod append;
mod copy;
mod corruption;
mod failures;
mod first_hour;
mod restart;
mod support;
