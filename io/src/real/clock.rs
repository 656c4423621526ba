use crate::{Boot, Clock, Nanos};
use async_trait::async_trait;
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;
use uuid::Uuid;

pub struct RealClock {
    boot_id: Uuid,
}

impl RealClock {
    pub fn new() -> Self {
        // Linux has it always; without it every restart counts as a power loss, which is only slower
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let boot_id = Uuid::parse_str(text.trim()).unwrap_or_else(|_| Uuid::new_v4());
        Self { boot_id }
    }
}

impl Default for RealClock {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Clock for RealClock {
    fn now(&self) -> Boot {
        let t = clock_gettime(ClockId::Boottime);
        Boot(Duration::new(t.tv_sec as u64, t.tv_nsec as u32))
    }

    fn wall(&self) -> Nanos {
        let t = clock_gettime(ClockId::Realtime);
        t.tv_sec * 1_000_000_000 + t.tv_nsec
    }

    fn boot_id(&self) -> Uuid {
        self.boot_id
    }

    async fn sleep(&self, d: Duration) {
        tokio::time::sleep(d).await;
    }
}
