//! Where calls that may block run.
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Where calls that may block (disk I/O, long computation) run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocking {
    /// On tokio's pool of blocking threads.
    Threads,
    /// In the calling task, when the others that are ready have had their turn: in simulation a thread would break
    /// determinism, and nothing really blocks.
    Inline,
}

impl Blocking {
    #[allow(clippy::disallowed_methods)] // the one place that may
    /// Runs `f` where it may block, and gives what it returned; a panic of `f` goes on in the caller.
    pub async fn run<T: Send + 'static>(self, f: impl FnOnce() -> T + Send + 'static) -> T {
        match self {
            Blocking::Inline => {
                tokio::task::yield_now().await;
                f()
            }
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
    /// work ([`Habit`]).
    pub async fn run_brief<T: Send + 'static>(self, habit: &Habit, f: impl FnOnce() -> T + Send + 'static) -> T {
        let (value, waited) = match self {
            Blocking::Inline => return self.run(f).await,
            Blocking::Threads if habit.is_quick() => habit.watch_if_long(f),
            Blocking::Threads => self.run(move || watch(f)).await,
        };
        habit.note(waited);
        value
    }
}

/// How long `f` took if it gave up the processor in it: then it waited for a disk, or a lock. To be interrupted does not
/// count.
#[allow(clippy::disallowed_methods)] // of no use where time is simulated
fn watch<T>(f: impl FnOnce() -> T) -> (T, Duration) {
    let (begun, before) = (Instant::now(), waits());
    let value = f();
    let waited = before.is_none() || before != waits();
    let took = if waited { begun.elapsed() } else { Duration::ZERO };
    (value, took)
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
    (value, begun.elapsed() >= SHARE)
}

/// What a call may wait on average: it holds up others no longer than a change of thread would.
const SHARE: Duration = Duration::from_micros(50);
/// Debts, in shares: from here on calls are made on other threads, until there is no debt left.
const DEBT_BORNE: u32 = 64;
const DEBT_MAX: u32 = 1 << 16;
/// So many calls in the calling task are watched after one that was long: unless two that wait are so close, they may wait.
const WATCHED_AFTER_LONG: u32 = 1000;

/// Whether calls of one kind, at one place, wait for longer than it costs to make them on another thread. The time that
/// they wait, wherever they are made, is their debt, of which each call pays off [`SHARE`]. A wait for a lock now and then, or for a
/// disk seldom, so changes nothing; a disk that is slow keeps calls on other threads until it has not been for long.
#[derive(Debug)]
pub struct Habit {
    debt: AtomicU32,
    /// Calls are made on other threads.
    away: AtomicBool,
    /// How many of the next calls in the calling task are watched; the others are only timed, since to ask the kernel whether
    /// one has waited takes as long as many a call.
    watched: AtomicU32,
}

impl Default for Habit {
    fn default() -> Self {
        Self {
            debt: AtomicU32::new(DEBT_BORNE),
            away: AtomicBool::new(true),
            watched: AtomicU32::new(0),
        }
    }
}

impl Habit {
    fn is_quick(&self) -> bool {
        !self.away.load(Ordering::Relaxed)
    }

    /// Does `f` in the calling task, and tells how long it took if it waited; not of the first call that may have.
    fn watch_if_long<T>(&self, f: impl FnOnce() -> T) -> (T, Duration) {
        let watched = self.watched.load(Ordering::Relaxed);
        if watched > 0 {
            self.watched.store(watched - 1, Ordering::Relaxed);
            return watch(f);
        }
        let (value, long) = time(f);
        if long {
            self.watched.store(WATCHED_AFTER_LONG, Ordering::Relaxed);
        }
        (value, Duration::ZERO)
    }

    // Races between callers lose a count now and then, which matters to nobody.
    fn note(&self, waited: Duration) {
        let more = (waited.as_nanos() / SHARE.as_nanos()).min(u128::from(DEBT_MAX)) as u32;
        let before = self.debt.load(Ordering::Relaxed);
        let debt = (before + more).saturating_sub(1).min(DEBT_MAX);
        if debt != before {
            self.debt.store(debt, Ordering::Relaxed);
        }
        match debt {
            0 if self.away.load(Ordering::Relaxed) => self.away.store(false, Ordering::Relaxed),
            DEBT_BORNE.. => self.away.store(true, Ordering::Relaxed),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(habit: &Habit, calls: u32, waited: Duration) -> &Habit {
        (0..calls).for_each(|_| habit.note(waited));
        habit
    }

    #[test]
    fn what_waits_is_kept_off_the_caller_until_it_has_not_for_as_long() {
        let habit = Habit::default();
        assert!(!noted(&habit, DEBT_BORNE - 1, Duration::ZERO).is_quick());
        assert!(noted(&habit, 1, Duration::ZERO).is_quick());
        // one of 10 ms: 200 shares, of which its own is paid
        for _ in 0..3 {
            assert!(!noted(&habit, 1, 200 * SHARE).is_quick());
            assert!(!noted(&habit, 198, Duration::ZERO).is_quick());
            assert!(noted(&habit, 1, Duration::ZERO).is_quick());
        }
        // what has always waited is forgiven in the end
        noted(&habit, 10_000, 100 * SHARE);
        assert!(!noted(&habit, DEBT_MAX - 1, Duration::ZERO).is_quick());
        assert!(noted(&habit, 1, Duration::ZERO).is_quick());
    }

    #[test]
    fn waits_that_are_short_or_rare_do_not_count() {
        let habit = Habit::default();
        noted(&habit, DEBT_BORNE, Duration::ZERO);
        for _ in 0..1000 {
            assert!(noted(&habit, 1, SHARE).is_quick());
            assert!(noted(&habit, 1, 50 * SHARE).is_quick());
            assert!(noted(&habit, 50, Duration::ZERO).is_quick());
        }
        // nor do they keep on other threads what had to go there
        assert!(!noted(&habit, 1, 1000 * SHARE).is_quick());
        for _ in 0..100 {
            noted(&habit, 1, 5 * SHARE);
            noted(&habit, 20, SHARE / 2);
        }
        assert!(habit.is_quick());
        // but what waits longer on average than it may is kept off
        for _ in 0..100 {
            noted(&habit, 1, 3 * SHARE);
            noted(&habit, 1, Duration::ZERO);
        }
        assert!(!habit.is_quick());
    }

    #[test]
    fn waiting_is_seen_and_computing_is_not() {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let wait = Duration::from_millis(5);
        let (_, waited) = watch(|| receiver.recv_timeout(wait));
        assert!(waited >= wait);
        drop(sender);
        let (sum, waited) = watch(|| (0..1000u64).sum::<u64>());
        assert_eq!((sum, waited), (499_500, Duration::ZERO));
    }

    #[test]
    fn of_calls_that_wait_the_second_is_seen() {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let wait = || receiver.recv_timeout(SHARE);
        let habit = Habit::default();
        let waited = [(); 2].map(|()| habit.watch_if_long(wait).1);
        assert!(waited[0] == Duration::ZERO && waited[1] >= SHARE);
        for _ in 1..WATCHED_AFTER_LONG {
            assert_eq!(habit.watch_if_long(|| ()).1, Duration::ZERO);
        }
        // forgotten, unless it happens again
        let waited = [(); 3].map(|()| habit.watch_if_long(wait).1);
        assert!(waited[0] == Duration::ZERO && waited[1] >= SHARE && waited[2] >= SHARE);
        drop(sender);
    }

    #[tokio::test]
    async fn brief_work_ends_up_in_the_calling_task() {
        let habit = Habit::default();
        let here = std::thread::current().id();
        let mut there = 0;
        for _ in 0..=DEBT_BORNE {
            there += u32::from(
                Blocking::Threads
                    .run_brief(&habit, || std::thread::current().id())
                    .await
                    != here,
            );
        }
        assert_eq!(there, DEBT_BORNE);
    }
}
