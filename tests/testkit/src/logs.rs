//! Judging logs: one JSON object a line; what is no JSON (a panic) is shown too.
use serde_json::Value;

/// Lines that a person would have to look at: ERROR, and panics.
pub(crate) fn errors(log: &str, allowed: &[String]) -> Vec<String> {
    let bad = log.lines().filter(|line| match serde_json::from_str::<Value>(line) {
        Ok(event) => event["level"] == "ERROR",
        Err(_) => line.contains("panicked at") || line.contains(" ERROR "),
    });
    let unexpected = bad.filter(|line| !allowed.iter().any(|part| line.contains(part)));
    unexpected.map(str::to_owned).collect()
}

/// The last `n` lines.
pub(crate) fn tail(log: &str, n: usize) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(n)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_panics_are_found_and_warnings_are_not() {
        let log = r#"{"level":"INFO","message":"no ERROR here"}
{"level":"ERROR","message":"disk failed"}
{"level":"WARN","message":"slow"}
thread 'main' panicked at src/main.rs:1:1
2026-11-24T03:00:00Z ERROR cairn_master: bad"#;
        assert_eq!(errors(log, &[]).len(), 3);
        assert_eq!(errors(log, &["disk failed".into()]).len(), 2);
        assert_eq!(tail(log, 1).matches("bad").count(), 1);
    }
}
