use async_trait::async_trait;
use std::time::Duration;
use uuid::Uuid;

/// Nanoseconds since 1970-01-01 UTC. Files' times.
pub type Nanos = i64;

/// Time since this machine started, by CLOCK_BOOTTIME: it goes on while the machine sleeps, and nobody sets it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Boot(pub Duration);

impl Boot {
    /// Time from `earlier` to `self`; zero when `earlier` is later.
    pub fn since(self, earlier: Boot) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl std::ops::Add<Duration> for Boot {
    type Output = Boot;
    fn add(self, d: Duration) -> Boot {
        Boot(self.0 + d)
    }
}

#[async_trait]
pub trait Clock: Send + Sync + 'static {
    /// What leases and deadlines are counted on.
    fn now(&self) -> Boot;

    /// Time of day, for files' times and for people; never for decisions of the protocol.
    fn wall(&self) -> Nanos;

    /// Changes when the machine restarts (also by power loss), not when a process does: after a change, what was
    /// written and not synced may be gone (protocol: suspect).
    fn boot_id(&self) -> Uuid;

    async fn sleep(&self, d: Duration);
}
