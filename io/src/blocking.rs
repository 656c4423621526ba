//! Where calls that may block run.
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Where calls that may block (disk I/O, long computation) run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocking {
    /// On tokio's pool of blocking threads.
    Threads,
    /// In the calling task: in simulation a thread would break determinism, and nothing really blocks.
    Inline,
}

impl Blocking {
    #[allow(clippy::disallowed_methods)] // the one place that may
    /// Runs `f` where it may block, and gives what it returned; a panic of `f` goes on in the caller.
    pub async fn run<T: Send + 'static>(self, f: impl FnOnce() -> T + Send + 'static) -> T {
        match self {
            Blocking::Inline => f(),
            Blocking::Threads => match tokio::task::spawn_blocking(f).await {
                Ok(value) => value,
                Err(e) => match e.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // the runtime is shutting down: never resume, the task is dropped with it
                    Err(_) => std::future::pending().await,
                },
            },
        }
    }

    /// As [`Blocking::run`], for work of some microseconds that seldom has to wait, such as I/O that the page cache
    /// takes: where it was seen not to wait it is done in the calling task, since to change threads costs more than the
    /// work.
    pub async fn run_brief<T: Send + 'static>(self, habit: &Habit, f: impl FnOnce() -> T + Send + 'static) -> T {
        let (value, waited) = match self {
            Blocking::Inline => return f(),
            Blocking::Threads if habit.is_quick() => habit.watch_if_long(f),
            Blocking::Threads => self.run(move || watch(f)).await,
        };
        habit.note(waited);
        value
    }
}

/// Whether `f` gave up the processor: then it waited for a disk, or a lock. To be interrupted does not count.
fn watch<T>(f: impl FnOnce() -> T) -> (T, bool) {
    let before = waits();
    let value = f();
    let after = waits();
    (value, before.is_none() || before != after)
}

fn waits() -> Option<i64> {
    use nix::sys::resource::{UsageWho, getrusage};
    let usage = getrusage(UsageWho::RUSAGE_THREAD).ok()?;
    Some(usage.voluntary_context_switches())
}

/// Whether it took so long that it may have waited.
#[allow(clippy::disallowed_methods)] // of no use where time is simulated
fn time<T>(f: impl FnOnce() -> T) -> (T, bool) {
    let begun = Instant::now();
    let value = f();
    (value, begun.elapsed() >= SHORT)
}

/// What takes less holds up others no longer than a change of thread would, whether it waited or not.
const SHORT: Duration = Duration::from_micros(50);
const PROBATION_MIN: u32 = 64;
const PROBATION_MAX: u32 = 1 << 16;
/// Calls in the calling task without a wait after which those before them are forgiven: one in so many may be for a
/// lock or for memory, and holds up the others for less than to change threads each time. So many are watched after one
/// that was not short, so that all waits are seen but those that would be forgiven.
const FORGIVEN_AFTER: u32 = 1000;

/// Whether calls of one kind, at one place, wait. One that does puts all on other threads until many in a row have not
/// waited, and each time more are asked for; who calls a disk that is slow now and then is so held up less and less.
/// Waits that are rare are forgiven.
#[derive(Debug)]
pub struct Habit {
    /// Calls that must not wait before one is made in the calling task.
    probation: AtomicU32,
    /// How many the next one that waits makes it.
    next: AtomicU32,
    /// Calls in the calling task since the last that waited.
    quick: AtomicU32,
    /// How many of the next calls in the calling task are watched; the others are only timed, since to ask the kernel whether
    /// one has waited takes as long as many a call.
    watched: AtomicU32,
}

impl Default for Habit {
    fn default() -> Self {
        Self {
            probation: AtomicU32::new(PROBATION_MIN),
            next: AtomicU32::new(PROBATION_MIN),
            quick: AtomicU32::new(0),
            watched: AtomicU32::new(0),
        }
    }
}

impl Habit {
    fn is_quick(&self) -> bool {
        self.probation.load(Ordering::Relaxed) == 0
    }

    /// Does `f` in the calling task, and tells whether it waited; not of the first call that may have.
    fn watch_if_long<T>(&self, f: impl FnOnce() -> T) -> (T, bool) {
        let watched = self.watched.load(Ordering::Relaxed);
        if watched > 0 {
            self.watched.store(watched - 1, Ordering::Relaxed);
            return watch(f);
        }
        let (value, long) = time(f);
        if long {
            self.watched.store(FORGIVEN_AFTER, Ordering::Relaxed);
        }
        (value, false)
    }

    // Races between callers lose a count now and then, which matters to nobody.
    fn note(&self, waited: bool) {
        let probation = self.probation.load(Ordering::Relaxed);
        if waited {
            let next = self.next.load(Ordering::Relaxed);
            self.probation.store(next, Ordering::Relaxed);
            self.quick.store(0, Ordering::Relaxed);
            if probation == 0 {
                self.next.store((next * 2).min(PROBATION_MAX), Ordering::Relaxed);
            }
        } else if probation > 0 {
            self.probation.store(probation - 1, Ordering::Relaxed);
        } else {
            let quick = self.quick.load(Ordering::Relaxed).saturating_add(1);
            self.quick.store(quick, Ordering::Relaxed);
            if quick == FORGIVEN_AFTER {
                self.next.store(PROBATION_MIN, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_kept_off_the_caller_until_it_has_not_for_long() {
        let habit = Habit::default();
        for _ in 0..PROBATION_MIN {
            assert!(!habit.is_quick());
            habit.note(false);
        }
        assert!(habit.is_quick());
        for round in 0..12 {
            habit.note(true);
            let long = (PROBATION_MIN << round).min(PROBATION_MAX);
            for _ in 0..long {
                assert!(!habit.is_quick());
                habit.note(false);
            }
            assert!(habit.is_quick(), "after {long}");
        }
        // one that always waits does not make it worse for the time when it no longer does
        habit.note(true);
        (0..1000).for_each(|_| habit.note(true));
        (0..PROBATION_MAX).for_each(|_| habit.note(false));
        assert!(habit.is_quick());
    }

    #[test]
    fn a_wait_after_many_calls_without_one_costs_no_more_than_the_first() {
        let habit = Habit::default();
        (0..PROBATION_MIN).for_each(|_| habit.note(false));
        for quick in [FORGIVEN_AFTER - 1, FORGIVEN_AFTER, FORGIVEN_AFTER] {
            (0..quick).for_each(|_| habit.note(false));
            habit.note(true);
            // the first was too early, and made the next one dearer
            (0..PROBATION_MIN).for_each(|_| habit.note(false));
            assert!(habit.is_quick(), "after {quick}");
        }
        (0..FORGIVEN_AFTER - 1).for_each(|_| habit.note(false));
        habit.note(true);
        (0..PROBATION_MIN).for_each(|_| habit.note(false));
        assert!(!habit.is_quick());
    }

    #[test]
    fn waiting_is_seen_and_computing_is_not() {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let (_, waited) = watch(|| receiver.recv_timeout(std::time::Duration::from_millis(5)));
        assert!(waited);
        drop(sender);
        let (sum, waited) = watch(|| (0..1000u64).sum::<u64>());
        assert_eq!((sum, waited), (499_500, false));
    }

    #[test]
    fn of_calls_that_wait_the_second_is_seen() {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let wait = || receiver.recv_timeout(SHORT);
        let habit = Habit::default();
        let waited = [(); 2].map(|()| habit.watch_if_long(wait).1);
        assert_eq!(waited, [false, true]);
        for _ in 1..FORGIVEN_AFTER {
            assert!(!habit.watch_if_long(|| ()).1);
        }
        // forgotten, unless it happens again
        let waited = [(); 3].map(|()| habit.watch_if_long(wait).1);
        assert_eq!(waited, [false, true, true]);
        drop(sender);
    }

    #[tokio::test]
    async fn brief_work_ends_up_in_the_calling_task() {
        let habit = Habit::default();
        let here = std::thread::current().id();
        let mut there = 0;
        for _ in 0..=PROBATION_MIN {
            there += u32::from(
                Blocking::Threads
                    .run_brief(&habit, || std::thread::current().id())
                    .await
                    != here,
            );
        }
        assert_eq!(there, PROBATION_MIN);
    }
}
