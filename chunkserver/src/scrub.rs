//! The scrub: every replica's header, table and blocks are read and compared, slowly while nobody asks for it, at once
//! when the master does. What is bad is told to the master (promise 8).
use crate::limits::{SCRUB_QUIET, SCRUB_ROUND_PAUSE, SCRUB_YIELD_MAX};
use crate::replica::Key;
use crate::shared::Core;
use crate::store::StoreError;
use cairn_proto::chunkserver::Scrub as Report;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::sleep;

#[derive(Default)]
pub struct Scrub {
    verified_chunks: AtomicU64,
    bad_chunks: AtomicU64,
    verified_bytes: AtomicU64,
    running: AtomicBool,
    asked: Notify,
}

impl Scrub {
    /// Counted since the process started.
    pub fn report(&self) -> Report {
        Report {
            verified_chunks: self.verified_chunks.load(Ordering::Relaxed),
            bad_chunks: self.bad_chunks.load(Ordering::Relaxed),
            verified_bytes: self.verified_bytes.load(Ordering::Relaxed),
            running: self.running.load(Ordering::Relaxed),
        }
    }

    /// Has every replica verified at once; `running` until that is done.
    pub fn ask(&self) {
        self.running.store(true, Ordering::Relaxed);
        self.asked.notify_one();
    }

    /// Scrubs until it is dropped: idle rounds at the configured rate, and a whole one at full speed whenever asked.
    pub async fn run(&self, core: &Core) {
        loop {
            let asked = tokio::select! {
                biased;
                () = self.asked.notified() => true,
                () = self.idle_round(core) => false,
            };
            if asked {
                self.round(core, None).await;
                self.running.store(false, Ordering::Relaxed);
            }
        }
    }

    async fn idle_round(&self, core: &Core) {
        sleep(SCRUB_ROUND_PAUSE).await;
        match core.config.scrub_bytes_per_second {
            0 => std::future::pending().await,
            rate => self.round(core, Some(rate)).await,
        }
    }

    async fn round(&self, core: &Core, bytes_per_second: Option<u64>) {
        for disk in core.store.disks() {
            let mut after = None;
            while let Some(handle) = disk.scrub_next(after) {
                after = Some(handle);
                let key = Key {
                    disk: disk.id(),
                    handle,
                };
                match self.chunk(core, key, bytes_per_second).await {
                    Ok(()) | Err(StoreError::NotFound { .. }) => {}
                    Err(e) => {
                        // the rest of this disk waits until it is in service again
                        core.refused(key, e);
                        break;
                    }
                }
            }
        }
    }

    async fn chunk(&self, core: &Core, key: Key, bytes_per_second: Option<u64>) -> Result<(), StoreError> {
        let mut block = Some(0);
        let mut bad = false;
        while let Some(first) = block {
            if bytes_per_second.is_some() {
                give_way(core).await;
            }
            let Some(disk) = core.store.disk(key.disk) else {
                return Ok(());
            };
            let step = move || {
                let chunk = disk.chunk(key.handle)?;
                Ok::<_, StoreError>((chunk.verify_step(first)?, chunk.info()))
            };
            let (step, info) = core.env.blocking.run(step).await?;
            self.verified_bytes.fetch_add(step.bytes, Ordering::Relaxed);
            // a suspect is compared with the others before it is used
            if !step.damage.is_none() && !info.suspect {
                bad = true;
                core.reports.corrupt(key, info.version, &step.damage);
            }
            block = step.next_block;
            if let Some(rate) = bytes_per_second {
                sleep(Duration::from_secs_f64(step.bytes as f64 / rate as f64)).await;
            }
        }
        self.verified_chunks.fetch_add(1, Ordering::Relaxed);
        if bad {
            self.bad_chunks.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Waits until nobody has asked for anything for a moment, but not for ever.
async fn give_way(core: &Core) {
    let mut waited = Duration::ZERO;
    while waited < SCRUB_YIELD_MAX {
        let before = core.requests.load(Ordering::Relaxed);
        sleep(SCRUB_QUIET).await;
        waited += SCRUB_QUIET;
        if core.requests.load(Ordering::Relaxed) == before {
            return;
        }
    }
}
