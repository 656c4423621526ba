//! `trash ls`, `trash restore`, `trash empty`.
use super::Out;
use crate::args::Trash;
use crate::failure::{Failure, Result};
use crate::output::{self, count, human_bytes, json, table, time};
use crate::path::ClusterPath;
use crate::remote::{EEXIST, Remote, fail};
use cairn_client::{Error, FileKind, Trashed};
use cairn_types::Inode;
use cairn_types::limits::READDIR_ENTRIES_MAX;
use serde::Serialize;
use std::ffi::{OsStr, OsString};

/// All entries and the bytes that they hold.
async fn all(remote: &Remote) -> Result<(Vec<Trashed>, u64)> {
    let (mut entries, mut after) = (vec![], Inode(0));
    loop {
        let page = remote
            .client
            .trash_list(after, READDIR_ENTRIES_MAX as u32)
            .await
            .map_err(fail("trash"))?;
        entries.extend(page.entries);
        match entries.last() {
            Some(last) if !page.end => after = last.ino,
            _ => return Ok((entries, page.total_bytes)),
        }
    }
}

/// The entry that `what` names: an inode number, or the path that it had; of several the one deleted last.
fn pick<'a>(entries: &'a [Trashed], what: &OsStr) -> Result<&'a Trashed> {
    let not_there = || {
        Failure::new(output::name(what.as_encoded_bytes()), "is not in the trash")
            .next("`cairn trash ls` shows what is, by inode number and path")
    };
    if let Some(number) = what.to_str().and_then(|t| t.parse::<u64>().ok()) {
        return entries.iter().find(|e| e.ino.0 == number).ok_or_else(not_there);
    }
    let path = ClusterPath::parse(what)?;
    entries
        .iter()
        .filter(|e| e.path == path.as_bytes())
        .max_by_key(|e| e.deleted_ns)
        .ok_or_else(not_there)
}

pub async fn trash(remote: &Remote, verb: &Trash, out: Out<'_>) -> Result<()> {
    match verb {
        Trash::Ls { json, .. } => list(remote, *json, out).await,
        Trash::Restore { what, to, .. } => restore(remote, what, to.as_deref(), out).await,
        Trash::Empty { what, all, .. } => empty(remote, what, *all, out).await,
    }
}

async fn list(remote: &Remote, as_json: bool, mut out: Out<'_>) -> Result<()> {
    let (mut entries, total_bytes) = all(remote).await?;
    entries.sort_by_key(|e| (e.deleted_ns, e.ino));
    if as_json {
        #[derive(Serialize)]
        struct Entry {
            inode: u64,
            path: String,
            size: u64,
            deleted_ns: i64,
            expires_ns: i64,
        }
        #[derive(Serialize)]
        struct Listing {
            entries: Vec<Entry>,
            total_bytes: u64,
        }
        let entries = entries
            .iter()
            .map(|e| Entry {
                inode: e.ino.0,
                path: output::name(&e.path),
                size: e.attr.size,
                deleted_ns: e.deleted_ns,
                expires_ns: e.expires_ns,
            })
            .collect();
        return json(&mut out, &Listing { entries, total_bytes });
    }
    let rows: Vec<_> = entries
        .iter()
        .map(|e| {
            vec![
                e.ino.to_string(),
                human_bytes(e.attr.size),
                time(e.deleted_ns),
                time(e.expires_ns),
                output::name(&e.path),
            ]
        })
        .collect();
    table(
        &mut out,
        &["INODE", "SIZE", "DELETED", "KEPT UNTIL", "PATH"],
        &[0, 1],
        &rows,
    )?;
    writeln!(
        out,
        "{} in {}",
        human_bytes(total_bytes),
        count(entries.len() as u64, "deleted file")
    )?;
    Ok(())
}

async fn restore(remote: &Remote, what: &OsStr, to: Option<&OsStr>, out: Out<'_>) -> Result<()> {
    let (entries, _) = all(remote).await?;
    let entry = pick(&entries, what)?;
    let mut shown = output::name(&entry.path);
    let place = match to {
        None => None,
        Some(to) => {
            let mut to = ClusterPath::parse(to)?;
            if remote
                .find(&to, true)
                .await?
                .is_some_and(|a| a.kind == FileKind::Directory)
            {
                let name = entry.path.rsplit(|b| *b == b'/').next().unwrap_or_default();
                to = to.join(name);
            }
            shown = to.to_string();
            Some(remote.place(&to).await?)
        }
    };
    match remote.client.trash_restore(entry.ino, place).await {
        Ok(_) => {
            writeln!(out, "restored {shown}")?;
            Ok(())
        }
        Err(Error::Posix { errno: EEXIST, .. }) => {
            Err(Failure::new(shown, "something else has that name now").next("choose another with --to PATH"))
        }
        Err(e) => Err(fail(shown)(e)),
    }
}

async fn empty(remote: &Remote, what: &[OsString], everything: bool, out: Out<'_>) -> Result<()> {
    let mut inodes = vec![];
    if !everything {
        let (entries, _) = all(remote).await?;
        for what in what {
            inodes.push(pick(&entries, what)?.ino);
        }
    }
    let gone = remote.client.trash_empty(&inodes).await.map_err(fail("trash"))?;
    writeln!(
        out,
        "deleted {} for good, {}",
        count(gone.count, "file"),
        human_bytes(gone.bytes)
    )?;
    Ok(())
}
