//! Clusters of real processes for tests, and a reader of chunk files of its own.
//!
//! Everything here stands outside of Cairn: it starts the binary, talks to it through its command line, kills it by
//! its process id and reads its files by docs/chunk-format.md. Nothing sleeps for a fixed time: conditions are polled
//! until a deadline, whose passing names the condition and shows what was seen last. Processes end with the test: a
//! value that is dropped kills what it started, and the kernel does when the test itself is killed.
//!
//! A test fails on any ERROR in a server's log that it has not [allowed](Cluster::allow_error): ERROR means that a
//! person must look.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests live in the real world"
)]
mod chunk_file;
mod cluster;
mod command;
mod logs;
mod mount;
mod port;
mod process;
mod proxy;
mod skip;
mod wait;

pub use chunk_file::{ChunkFile, Fault, State, check_chunks, chunk_files, compare, flip_bit};
pub use cluster::{Builder, Cluster};
pub use command::{Output, run};
pub use mount::Mount;
pub use port::Port;
pub use process::Process;
pub use proxy::Proxy;
pub use skip::skip;
pub use wait::wait_until;
