//! What a client can be told. Every duration is a promise of finiteness: nothing waits longer than `timeout`.
use std::time::Duration;

#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// host:port.
    pub master: String,
    /// For people, in the master's list of sessions: `host:pid purpose`.
    pub description: String,
    /// zone/rack/host, or a host name: replicas near it are preferred.
    pub host_label: String,
    /// After this long without success an operation fails (`mount.timeout`).
    pub timeout: Duration,
    /// The first connection to the master; `timeout` if that is less.
    pub connect_within: Duration,
    /// One attempt at a connection.
    pub connect_timeout: Duration,
    /// A write to the head of a chain, or a read, that has no answer for this long is given up at that server, and the
    /// master asked.
    pub server_timeout: Duration,
    /// A read that has no answer for this long is asked of another replica too.
    pub hedge_after: Duration,
    /// Length and mtime of files being written are committed this often.
    pub commit_interval: Duration,
    /// Bytes written and not acknowledged, over all files.
    pub write_buffer_bytes: usize,
    /// Of them, in flight to one chunk.
    pub write_window_bytes: usize,
    /// Read ahead of one sequential reader.
    pub read_ahead_bytes: usize,
    /// Read ahead and not asked for yet, over all files.
    pub read_buffer_bytes: usize,
    /// Chunks that were written and closed without fsync, of which it is remembered; about 80 bytes each.
    pub unsynced_chunks_max: usize,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            master: "127.0.0.1:7600".into(),
            description: String::new(),
            host_label: String::new(),
            timeout: Duration::from_secs(60),
            connect_within: Duration::from_secs(15),
            connect_timeout: Duration::from_secs(3),
            server_timeout: Duration::from_secs(8),
            hedge_after: Duration::from_millis(500),
            commit_interval: Duration::from_secs(1),
            write_buffer_bytes: 64 << 20,
            write_window_bytes: 8 << 20,
            read_ahead_bytes: 8 << 20,
            read_buffer_bytes: 64 << 20,
            unsynced_chunks_max: 1 << 17,
        }
    }
}
