//! `du` and `df`.
use super::Out;
use crate::args::{Df, Du};
use crate::failure::Result;
use crate::output::{json, short_bytes, table};
use crate::path::ClusterPath;
use crate::remote::{Remote, Tally, fail};
use cairn_client::FileKind;
use serde::Serialize;
use std::collections::BTreeSet;

#[derive(Serialize)]
struct Usage {
    path: String,
    /// Of the files, holes not counted, each hard-linked file once.
    bytes: u64,
    /// With all replicas, at the files' goals.
    replicated_bytes: u64,
    files: u64,
}

pub async fn du(remote: &Remote, options: &Du, mut out: Out<'_>) -> Result<()> {
    let mut tally = Tally::default();
    let mut all = vec![];
    for path in remote.expand(&options.paths).await? {
        let Some(usages) = tally.note(usage(remote, options, &path).await)? else {
            continue;
        };
        all.extend(usages);
    }
    if options.json {
        #[derive(Serialize)]
        struct Entries {
            entries: Vec<Usage>,
        }
        json(&mut out, &Entries { entries: all })?;
    } else {
        for u in &all {
            let size = if options.human_readable {
                short_bytes(u.bytes)
            } else {
                u.bytes.to_string()
            };
            writeln!(out, "{size}\t{}", u.path)?;
        }
    }
    tally.done()
}

/// The sums of a tree, what is below before the directory that it is in.
async fn usage(remote: &Remote, options: &Du, top: &ClusterPath) -> Result<Vec<Usage>> {
    let attr = remote.get(top, false).await?;
    let found = super::collect(remote, top, &attr, usize::MAX).await?;
    let mut seen = BTreeSet::new();
    // open[d]: the sum so far of the directory at depth d on the way to where we are; backwards, so that what is below
    // comes first
    let mut sums: Vec<(u64, u64, u64)> = vec![];
    let mut usages = vec![];
    for (path, attr, depth) in found.iter().rev() {
        sums.resize(sums.len().max(depth + 2), (0, 0, 0));
        let first_name = attr.nlink <= 1 || attr.kind == FileKind::Directory || seen.insert(attr.ino);
        let (mut bytes, mut replicated, mut files) = (0, 0, 0);
        if attr.kind == FileKind::Directory {
            (bytes, replicated, files) = std::mem::take(&mut sums[depth + 1]);
        } else if first_name {
            bytes = attr.allocated_bytes.min(attr.size);
            replicated = bytes.saturating_mul(u64::from(attr.goal));
            files = 1;
        }
        let sum = &mut sums[*depth];
        *sum = (sum.0 + bytes, sum.1.saturating_add(replicated), sum.2 + files);
        let shown = *depth == 0 || !options.summarize && (attr.kind == FileKind::Directory || options.all);
        if shown {
            usages.push(Usage {
                path: path.to_string(),
                bytes,
                replicated_bytes: replicated,
                files,
            });
        }
    }
    Ok(usages)
}

pub async fn df(remote: &Remote, options: &Df, mut out: Out<'_>) -> Result<()> {
    let s = remote.client.statfs().await.map_err(fail("/"))?;
    #[derive(Serialize)]
    struct Space {
        /// What users can store: raw bytes less the reserve, divided by the goal.
        total_bytes: u64,
        used_bytes: u64,
        available_bytes: u64,
        used_percent: f64,
        raw_total_bytes: u64,
        raw_available_bytes: u64,
        goal: u32,
        files: u64,
        trash_bytes: u64,
    }
    let goal = u64::from(s.goal.max(1));
    let (total, available) = (
        s.total_bytes / goal,
        (s.available_bytes / goal).min(s.total_bytes / goal),
    );
    let used = total - available;
    let percent = if total == 0 {
        0.0
    } else {
        used as f64 * 100.0 / total as f64
    };
    if options.json {
        return json(
            &mut out,
            &Space {
                total_bytes: total,
                used_bytes: used,
                available_bytes: available,
                used_percent: (percent * 10.0).round() / 10.0,
                raw_total_bytes: s.total_bytes,
                raw_available_bytes: s.available_bytes,
                goal: s.goal,
                files: s.files,
                trash_bytes: s.trash_bytes,
            },
        );
    }
    let size = |bytes: u64| {
        if options.human_readable {
            short_bytes(bytes)
        } else {
            bytes.to_string()
        }
    };
    let row = vec![
        size(total),
        size(used),
        size(available),
        format!("{percent:.0}%"),
        s.goal.to_string(),
        s.files.to_string(),
        size(s.trash_bytes),
    ];
    let heading = ["TOTAL", "USED", "AVAILABLE", "USE%", "GOAL", "FILES", "TRASH"];
    table(&mut out, &heading, &[0, 1, 2, 3, 4, 5, 6], &[row])?;
    if s.total_bytes == 0 {
        writeln!(
            out,
            "no chunkserver with a writable disk is up; see `cairn admin status`"
        )?;
    }
    Ok(())
}
