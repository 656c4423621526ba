//! Real chunkservers in one process, over loopback sockets and simulated disks, driven by a master that does what the
//! test says.
mod append;
mod chain;
mod control;
mod harness;
mod hostile;
mod reconfigure;
