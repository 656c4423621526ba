//! The adapters to the real world: the only place that may call what clippy disallows elsewhere.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod clock;
mod disk;
mod net;

pub use clock::RealClock;
pub use disk::RealDisk;
pub use net::RealNet;
