//! How far a copy is: a bar on a terminal, a line a second elsewhere if asked for.
use crate::output::{count, human_bytes, human_duration};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::AbortHandle;

const LINE_EVERY: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Counts {
    files: AtomicU64,
    bytes: AtomicU64,
    total_bytes: AtomicU64,
}

/// Cheap to clone. Counters only grow; `total` grows while the tree is walked.
#[derive(Clone)]
pub struct Progress {
    counts: Arc<Counts>,
    bar: ProgressBar,
    started: Instant,
    /// A summary is wanted at the end.
    shown: bool,
    lines: Option<AbortHandle>,
}

impl Progress {
    pub fn start(wanted: bool, unwanted: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let counts = Arc::new(Counts::default());
        let started = Instant::now();
        let bar = if terminal && !unwanted {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            let template = "{bar:24} {bytes}/{total_bytes} {percent}% {bytes_per_sec} ETA {eta} {wide_msg}";
            match ProgressStyle::with_template(template) {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        } else {
            ProgressBar::hidden()
        };
        let lines = (wanted && !terminal).then(|| {
            let counts = counts.clone();
            let printing = tokio::spawn(async move {
                loop {
                    tokio::time::sleep(LINE_EVERY).await;
                    eprintln!("{}", line(&counts, started.elapsed()));
                }
            });
            printing.abort_handle()
        });
        Self {
            counts,
            bar,
            started,
            shown: (terminal && !unwanted) || wanted,
            lines,
        }
    }

    pub fn expect(&self, bytes: u64) {
        self.counts.total_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bar.inc_length(bytes);
    }

    pub fn name(&self, name: &str) {
        if !self.bar.is_hidden() {
            self.bar.set_message(name.to_owned());
        }
    }

    pub fn add(&self, bytes: u64) {
        self.counts.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bar.inc(bytes);
    }

    pub fn file_done(&self) {
        self.counts.files.fetch_add(1, Ordering::Relaxed);
    }

    /// Says something above the bar.
    pub fn say(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }

    /// Ends the display; with `done` says what was copied.
    pub fn finish(&self, done: bool) {
        if let Some(lines) = &self.lines {
            lines.abort();
        }
        self.bar.finish_and_clear();
        if self.shown && done {
            let elapsed = self.started.elapsed();
            let bytes = self.counts.bytes.load(Ordering::Relaxed);
            let files = self.counts.files.load(Ordering::Relaxed);
            eprintln!(
                "{}, {} in {}, {}/s",
                count(files, "file"),
                human_bytes(bytes),
                human_duration(elapsed),
                human_bytes(rate(bytes, elapsed))
            );
        }
    }
}

fn rate(bytes: u64, elapsed: Duration) -> u64 {
    (bytes as f64 / elapsed.as_secs_f64().max(0.001)) as u64
}

fn line(counts: &Counts, elapsed: Duration) -> String {
    let (bytes, total) = (
        counts.bytes.load(Ordering::Relaxed),
        counts.total_bytes.load(Ordering::Relaxed),
    );
    let rate = rate(bytes, elapsed);
    let percent = (bytes * 100).checked_div(total).unwrap_or(0);
    let eta = match total.saturating_sub(bytes).checked_div(rate) {
        Some(seconds) => human_duration(Duration::from_secs(seconds)),
        None => "unknown".into(),
    };
    format!(
        "{} of {} ({percent}%), {}/s, ETA {eta}",
        human_bytes(bytes),
        human_bytes(total),
        human_bytes(rate)
    )
}
