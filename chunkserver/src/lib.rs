//! The chunkserver: chunks on local disks, and the server around them.
pub mod store;
