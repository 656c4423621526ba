//! `find`.
use super::{JsonFile, Out, collect, kind_letter};
use crate::args::Find;
use crate::config::Span;
use crate::failure::{Failure, Result};
use crate::output::json;
use crate::path::{ClusterPath, matches};
use crate::remote::{Remote, Tally};
use cairn_client::{Attr, FileKind};
use serde::Serialize;
use std::cmp::Ordering;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(86_400);

/// What is asked for, once its texts are understood.
struct Query<'a> {
    options: &'a Find,
    size: Option<(Ordering, u64, u64)>,
    /// Older (`Greater`) or younger (`Less`) than that, or (`Equal`) as many days.
    age: Option<(Ordering, Duration)>,
    now_ns: i64,
}

impl<'a> Query<'a> {
    fn new(options: &'a Find, now_ns: i64) -> Result<Self> {
        if let Some(kind) = options.kind
            && !"fdlpscb".contains(kind)
        {
            return Err(Failure::usage(format_args!(
                "-type {kind}: one of f d l p s c b is expected"
            )));
        }
        Ok(Self {
            options,
            size: options.size.as_deref().map(parse_size).transpose()?,
            age: options.mtime.as_deref().map(parse_age).transpose()?,
            now_ns,
        })
    }

    fn wants(&self, path: &ClusterPath, attr: &Attr, depth: usize, empty: impl FnOnce() -> bool) -> bool {
        let o = self.options;
        let name = path.name();
        let kind_matches = o.kind.is_none_or(|wanted| match wanted {
            'f' => attr.kind == FileKind::Regular,
            other => kind_letter(attr.kind) == other,
        });
        let lower = |bytes: &[u8]| bytes.to_ascii_lowercase();
        o.mindepth.is_none_or(|min| depth >= min)
            && kind_matches
            && o.uid.is_none_or(|uid| attr.uid == uid)
            && o.name.as_ref().is_none_or(|p| matches(p.as_bytes(), &name))
            && o.iname
                .as_ref()
                .is_none_or(|p| matches(&lower(p.as_bytes()), &lower(&name)))
            && o.path.as_ref().is_none_or(|p| matches(p.as_bytes(), path.as_bytes()))
            && self
                .size
                .is_none_or(|(order, value, unit)| attr.size.div_ceil(unit).cmp(&value) == order)
            && self.age.is_none_or(|(order, limit)| self.aged(attr, order, limit))
            && (!o.empty || empty())
    }

    fn aged(&self, attr: &Attr, order: Ordering, limit: Duration) -> bool {
        let age = Duration::from_nanos(u64::try_from(self.now_ns - attr.mtime_ns).unwrap_or(0));
        match order {
            Ordering::Equal => age.as_secs() / DAY.as_secs() == limit.as_secs() / DAY.as_secs(),
            Ordering::Less => age < limit,
            Ordering::Greater => age > limit,
        }
    }
}

fn sign(text: &str) -> (Ordering, &str) {
    match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(rest), _) => (Ordering::Greater, rest),
        (_, Some(rest)) => (Ordering::Less, rest),
        _ => (Ordering::Equal, text),
    }
}

/// (order, units, bytes in a unit): sizes are rounded up to the unit, as find(1) has it.
fn parse_size(text: &str) -> Result<(Ordering, u64, u64)> {
    let wrong = || {
        Failure::usage(format_args!(
            "-size {text}: a size such as +10M, -4k or 0 is expected (k, M, G, T; c or none: bytes)"
        ))
    };
    let (order, rest) = sign(text);
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (number, unit) = rest.split_at(digits);
    let unit = match unit {
        "" | "c" => 1,
        "k" | "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "T" | "TiB" => 1 << 40,
        _ => return Err(wrong()),
    };
    Ok((order, number.parse().map_err(|_| wrong())?, unit))
}

fn parse_age(text: &str) -> Result<(Ordering, Duration)> {
    let (order, rest) = sign(text);
    let limit = match rest.parse::<u32>() {
        Ok(days) => Some(DAY * days),
        Err(_) => rest.parse::<Span>().ok().map(|s| s.0),
    };
    match limit {
        // find(1): +N is more than N whole days
        Some(limit) if order == Ordering::Greater && rest.parse::<u32>().is_ok() => Ok((order, limit + DAY)),
        Some(limit) => Ok((order, limit)),
        None => Err(Failure::usage(format_args!(
            "-mtime {text}: days such as +7 or -1, or a duration such as -90m, are expected"
        ))),
    }
}

pub async fn find(remote: &Remote, options: &Find, mut out: Out<'_>, now_ns: i64) -> Result<()> {
    let query = Query::new(options, now_ns)?;
    let mut tally = Tally::default();
    let mut files = vec![];
    for start in remote.expand(&options.paths).await? {
        let Some(attr) = tally.note(remote.get(&start, start.trailing_slash).await)? else {
            continue;
        };
        let max = options.maxdepth.unwrap_or(usize::MAX);
        let Some(found) = tally.note(collect(remote, &start, &attr, max).await)? else {
            continue;
        };
        for (i, (path, attr, depth)) in found.iter().enumerate() {
            let empty = || match attr.kind {
                FileKind::Regular => attr.size == 0,
                // what is below follows right after it
                FileKind::Directory => found.get(i + 1).is_none_or(|(_, _, next)| next <= depth),
                _ => false,
            };
            if !query.wants(path, attr, *depth, empty) {
                continue;
            }
            if options.json {
                files.push(JsonFile::new(path, attr, None));
            } else if options.print0 {
                out.write_all(path.as_bytes())?;
                out.write_all(b"\0")?;
            } else {
                writeln!(out, "{path}")?;
            }
        }
    }
    if options.json {
        #[derive(Serialize)]
        struct Entries {
            entries: Vec<JsonFile>,
        }
        json(&mut out, &Entries { entries: files })?;
    }
    tally.done()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ages_read_as_find_has_them() {
        assert_eq!(parse_size("+10M").unwrap(), (Ordering::Greater, 10, 1 << 20));
        assert_eq!(parse_size("-4k").unwrap(), (Ordering::Less, 4, 1 << 10));
        assert_eq!(parse_size("0").unwrap(), (Ordering::Equal, 0, 1));
        assert!(parse_size("big").is_err());
        assert_eq!(parse_age("-1").unwrap(), (Ordering::Less, DAY));
        assert_eq!(parse_age("+1").unwrap(), (Ordering::Greater, DAY * 2));
        assert_eq!(parse_age("-90m").unwrap(), (Ordering::Less, Duration::from_secs(5400)));
        assert!(parse_age("soon").is_err());
    }
}
