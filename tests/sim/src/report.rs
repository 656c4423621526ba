//! Seeds and logs: how a failure is told, and how to see it again.
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// `CAIRN_SEED=n` runs that seed alone, with its log on standard error; `CAIRN_SEEDS=a..b` a hunt over others than `all`,
/// with a log if `CAIRN_LOG` says of what.
pub fn seeds(all: Range<u64>) -> Vec<u64> {
    match the_seed() {
        Some(seed) => vec![seed],
        None => the_hunt().unwrap_or(all).collect(),
    }
}

fn the_hunt() -> Option<Range<u64>> {
    let asked = std::env::var("CAIRN_SEEDS").ok()?;
    let range = asked
        .split_once("..")
        .and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    Some(range.unwrap_or_else(|| panic!("CAIRN_SEEDS={asked}: not like 100..400")))
}

fn the_seed() -> Option<u64> {
    std::env::var("CAIRN_SEED").ok()?.parse().ok()
}

/// A chunkserver's words for a replica that somebody might read, and whose checksums fail. On simulated disks nothing
/// rots by itself.
const DAMAGED: &str = "replica damaged";

/// Runs one seed; a failure, also a panic, says which it was. Events in the log fail it too that mean that a person must
/// look: ERROR, and a damaged replica; but those that contain one of `allowed`.
pub fn with_seed<T>(seed: u64, allowed: &[&str], scenario: impl FnOnce(u64) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let errors = Errors::default();
    let result = {
        let _log = start_log(&errors);
        let told = TellSeed(seed);
        let result = scenario(seed);
        std::mem::forget(told);
        result
    };
    let result = result.and_then(|value| {
        let errors = errors.0.lock().unwrap_or_else(PoisonError::into_inner);
        let unexpected = errors.iter().find(|e| !allowed.iter().any(|part| e.contains(part)));
        match unexpected {
            Some(e) => Err(anyhow::anyhow!("unexpected in the log: {e}")),
            None => Ok(value),
        }
    });
    result.map_err(|e| e.context(format!("seed {seed}: CAIRN_SEED={seed} replays it")))
}

/// Runs a scenario with each of the seeds, as [`with_seed`] does; panics at the end if it failed with any.
pub fn run(all: Range<u64>, allowed: &[&str], scenario: impl Fn(u64) -> anyhow::Result<()>) {
    let failed: Vec<String> = seeds(all)
        .into_iter()
        .filter_map(|seed| with_seed(seed, allowed, &scenario).err())
        .map(|e| format!("{e:?}"))
        .collect();
    assert!(
        failed.is_empty(),
        "{} seeds failed:\n{}",
        failed.len(),
        failed.join("\n\n")
    );
}

struct TellSeed(u64);

impl Drop for TellSeed {
    fn drop(&mut self) {
        eprintln!("seed {}: CAIRN_SEED={} replays it", self.0, self.0);
    }
}

fn start_log(errors: &Errors) -> tracing::subscriber::DefaultGuard {
    let registry = tracing_subscriber::registry().with(errors.clone());
    let asked = std::env::var("CAIRN_LOG").ok();
    let one = the_seed().map(|_| "debug,h2=off,tonic=off,hyper=off,tower=off,turmoil=info".to_owned());
    if let Some(level) = asked.or(one) {
        let shown = tracing_subscriber::fmt::layer()
            .with_timer(SimulatedTime)
            .with_writer(std::io::stderr)
            .with_filter(tracing_subscriber::EnvFilter::new(level));
        tracing::subscriber::set_default(registry.with(shown))
    } else {
        tracing::subscriber::set_default(registry)
    }
}

struct SimulatedTime;

impl tracing_subscriber::fmt::time::FormatTime for SimulatedTime {
    fn format_time(&self, w: &mut tracing_subscriber::fmt::format::Writer<'_>) -> std::fmt::Result {
        match turmoil::sim_elapsed() {
            Some(t) => write!(w, "{:10.3}", t.as_secs_f64()),
            None => write!(w, "         -"),
        }
    }
}

/// What a person must look at.
#[derive(Clone, Default)]
struct Errors(Arc<Mutex<Vec<String>>>);

impl<S: Subscriber> Layer<S> for Errors {
    fn enabled(&self, _: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        true
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = *event.metadata().level();
        if level > Level::WARN {
            return;
        }
        let mut text = Text(format!("{}:", event.metadata().target()));
        event.record(&mut text);
        if level == Level::ERROR || text.0.contains(DAMAGED) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(text.0);
        }
    }
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        use std::fmt::Write;
        // writing to a string does not fail
        let _ = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}
