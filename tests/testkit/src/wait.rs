use anyhow::{Result, bail};
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(50);

/// Asks `probe` again and again until it gives a value or `deadline` has passed. Its errors count as "not yet"; the
/// last one is in the error that names `what` was waited for.
pub fn wait_until<T>(what: &str, deadline: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        let seen = match probe() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(e) => Some(e),
        };
        if start.elapsed() >= deadline {
            match seen {
                Some(e) => bail!("{what}: not within {deadline:?}; at last: {e:#}"),
                None => bail!("{what}: not within {deadline:?}"),
            }
        }
        std::thread::sleep(POLL);
    }
}
