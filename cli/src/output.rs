//! How things are shown: sizes, times, modes, names, tables and JSON.
use crate::failure::Result;
use serde::Serialize;
use std::io::{self, Write};
use std::time::Duration;

/// Bytes for people: `1.4 GiB`.
pub fn human_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB", "PiB"] {
        if value < 1023.95 || unit == "PiB" {
            return if unit == "B" {
                format!("{bytes} B")
            } else {
                format!("{value:.1} {unit}")
            };
        }
        value /= 1024.0;
    }
    format!("{bytes} B")
}

/// Bytes as `ls -h` has them: `1.4G`.
pub fn short_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["", "K", "M", "G", "T", "P"] {
        if value < 1023.95 || unit == "P" {
            return match unit {
                "" => bytes.to_string(),
                _ if value < 9.95 => format!("{value:.1}{unit}"),
                _ => format!("{value:.0}{unit}"),
            };
        }
        value /= 1024.0;
    }
    bytes.to_string()
}

/// `1 file`, `2 files`.
pub fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// A duration for people: `3 m 20 s`.
pub fn human_duration(d: Duration) -> String {
    let seconds = d.as_secs();
    match seconds {
        0..=59 => format!("{:.1} s", d.as_secs_f64()),
        60..=3599 => format!("{} m {} s", seconds / 60, seconds % 60),
        3600..=86_399 => format!("{} h {} m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// Nanoseconds since 1970 as `2026-11-24 03:26:19Z`, in UTC: times come from one clock, the master's.
pub fn time(ns: i64) -> String {
    let seconds = ns.div_euclid(1_000_000_000);
    let (days, second_of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil_from_days(days);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}Z",
        second_of_day / 3600,
        second_of_day % 3600 / 60,
        second_of_day % 60
    )
}

/// Days since 1970-01-01 to a date of the Gregorian calendar (H. Hinnant, "chrono-compatible low-level date
/// algorithms").
fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * shifted_month + 2) / 5 + 1) as u32;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    } as u32;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The inverse of [`civil_from_days`]; `None` for what is no date.
fn days_from_civil(year: i64, month: u32, day: u32) -> Option<i64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let y = year - i64::from(month <= 2);
    let era = y.div_euclid(400);
    let year_of_era = y.rem_euclid(400);
    let shifted_month = i64::from((month + 9) % 12);
    let day_of_year = (153 * shifted_month + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    (civil_from_days(days) == (year, month, day)).then_some(days)
}

/// `2026-11-24[ T]03:26[:19[.5]][Z]`, a date alone, or `@seconds`: nanoseconds since 1970, UTC.
pub fn parse_time(text: &str) -> Option<i64> {
    let nanos = |seconds: &str| -> Option<i64> {
        let (whole, part) = seconds.split_once('.').unwrap_or((seconds, ""));
        let part_ns: i64 = format!("{part:0<9}").get(..9)?.parse().ok()?;
        whole
            .parse::<i64>()
            .ok()?
            .checked_mul(1_000_000_000)?
            .checked_add(part_ns)
    };
    if let Some(seconds) = text.strip_prefix('@') {
        return nanos(seconds);
    }
    let text = text.strip_suffix('Z').unwrap_or(text);
    let (date, clock) = text.split_once(['T', ' ']).unwrap_or((text, "00:00"));
    let date: Vec<&str> = date.split('-').collect();
    let [year, month, day] = date[..] else { return None };
    let days = days_from_civil(year.parse().ok()?, month.parse().ok()?, day.parse().ok()?)?;
    let clock: Vec<&str> = clock.split(':').collect();
    let (hour, minute, second) = match clock[..] {
        [h, m] => (h.parse::<i64>().ok()?, m.parse::<i64>().ok()?, 0),
        [h, m, s] => (h.parse::<i64>().ok()?, m.parse::<i64>().ok()?, nanos(s)?),
        _ => return None,
    };
    let in_range = (0..24).contains(&hour) && (0..60).contains(&minute) && (0..61_000_000_000).contains(&second);
    in_range.then(|| (days * 86_400 + hour * 3600 + minute * 60) * 1_000_000_000 + second)
}

/// A name as a terminal can show it: what is not UTF-8 or printable as `\xNN`.
pub fn name(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() {
                let mut buf = [0; 4];
                for b in c.encode_utf8(&mut buf).bytes() {
                    shown.push_str(&format!("\\x{b:02x}"));
                }
            } else {
                shown.push(c);
            }
        }
        for b in chunk.invalid() {
            shown.push_str(&format!("\\x{b:02x}"));
        }
    }
    shown
}

/// One JSON value and a newline.
pub fn json(out: &mut impl Write, value: &impl Serialize) -> Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)?;
    Ok(())
}

/// Rows under a heading, columns as wide as their widest cell; those that `right` names are flush right.
pub fn table(out: &mut impl Write, heading: &[&str], right: &[usize], rows: &[Vec<String>]) -> io::Result<()> {
    let mut widths: Vec<usize> = heading.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut line = |cells: &mut dyn Iterator<Item = &str>| -> io::Result<()> {
        let mut text = String::new();
        for (i, (cell, width)) in cells.zip(&widths).enumerate() {
            if i > 0 {
                text.push_str("  ");
            }
            if right.contains(&i) {
                text.push_str(&format!("{cell:>width$}"));
            } else {
                text.push_str(&format!("{cell:<width$}"));
            }
        }
        writeln!(out, "{}", text.trim_end())
    };
    if heading.iter().any(|h| !h.is_empty()) {
        line(&mut heading.iter().copied())?;
    }
    for row in rows {
        line(&mut row.iter().map(String::as_str))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_people() {
        assert_eq!(human_bytes(1023), "1023 B");
        assert_eq!(human_bytes(1024), "1.0 KiB");
        assert_eq!(human_bytes((1 << 20) - 1), "1.0 MiB");
        assert_eq!(human_bytes(5 << 30), "5.0 GiB");
        assert_eq!(human_bytes(u64::MAX), "16384.0 PiB");
        assert_eq!(
            (short_bytes(1536), short_bytes(10 << 20)),
            ("1.5K".into(), "10M".into())
        );
    }

    #[test]
    fn times_survive_their_text() {
        for text in [
            "1969-12-31 23:59:59Z",
            "1970-01-01 00:00:00Z",
            "2024-02-29 12:00:01Z",
            "2100-03-01 00:00:00Z",
        ] {
            assert_eq!(time(parse_time(text).unwrap()), text);
        }
        assert_eq!(parse_time("@1.5"), Some(1_500_000_000));
        assert_eq!(parse_time("2026-11-24T03:26"), parse_time("2026-11-24 03:26:00Z"));
        for text in ["2023-02-29", "yesterday", "2026-13-01", "2026-01-01 25:00", "@", ""] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }

    #[test]
    fn names_never_send_control_characters_to_a_terminal() {
        assert_eq!(name(b"plain \xc3\xa9"), "plain \u{e9}");
        assert_eq!(name(b"a\x1b[2J\xff\n"), "a\\x1b[2J\\xff\\x0a");
    }

    #[test]
    fn tables_line_up() {
        let mut out = vec![];
        let rows = [vec!["a".into(), "10".into()], vec!["bbb".into(), "5".into()]];
        table(&mut out, &["NAME", "N"], &[1], &rows).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "NAME   N\na     10\nbbb    5\n");
    }
}
