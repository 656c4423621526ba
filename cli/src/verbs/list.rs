//! `ls` and `stat`.
use super::{JsonFile, Out, mode_text};
use crate::args::{Ls, Stat};
use crate::failure::Result;
use crate::output::{self, json, short_bytes, table, time};
use crate::path::ClusterPath;
use crate::remote::{Remote, Tally, fail};
use cairn_client::{Attr, FileKind};
use futures::StreamExt;
use serde::Serialize;

pub async fn ls(remote: &Remote, options: &Ls, mut out: Out<'_>) -> Result<()> {
    let paths = remote.expand(&options.paths).await?;
    let mut tally = Tally::default();
    let mut listing = Listing {
        remote,
        options,
        entries: vec![],
    };
    let headings = paths.len() > 1 || options.recursive;
    let mut files = vec![];
    let mut directories = vec![];
    for path in &paths {
        // a symbolic link given on the command line is followed, but not with -l or -d, as ls has it
        let follow = !options.directory && (!options.long || path.trailing_slash);
        let Some(attr) = tally.note(remote.get(path, follow).await)? else {
            continue;
        };
        if attr.kind == FileKind::Directory && !options.directory {
            directories.push((path.clone(), attr));
        } else {
            files.push((path.clone(), attr, path.to_string()));
        }
    }
    let any_files = !files.is_empty();
    listing.show(files, out).await?;
    for (i, (path, attr)) in directories.into_iter().enumerate() {
        let shown = listing.directory(path, attr, headings, i > 0 || any_files, out).await;
        tally.note(shown)?;
    }
    if options.json {
        #[derive(Serialize)]
        struct Entries {
            entries: Vec<JsonFile>,
        }
        json(
            &mut out,
            &Entries {
                entries: listing.entries,
            },
        )?;
    }
    tally.done()
}

struct Listing<'a> {
    remote: &'a Remote,
    options: &'a Ls,
    /// For JSON.
    entries: Vec<JsonFile>,
}

impl Listing<'_> {
    async fn directory(&mut self, path: ClusterPath, attr: Attr, heading: bool, gap: bool, out: Out<'_>) -> Result<()> {
        let mut stack = vec![(path, attr.ino)];
        let mut gap = gap;
        while let Some((path, ino)) = stack.pop() {
            let entries: Vec<_> = self
                .remote
                .list_sorted(&path, ino)
                .await?
                .into_iter()
                .filter(|e| self.options.all || !e.name.starts_with(b"."))
                .map(|e| (path.join(&e.name), e.attr, output::name(&e.name)))
                .collect();
            if heading && !self.options.json {
                if gap {
                    writeln!(out)?;
                }
                writeln!(out, "{path}:")?;
            }
            gap = true;
            let entries = self.show(entries, out).await?;
            if self.options.recursive {
                let below = entries
                    .into_iter()
                    .rev()
                    .filter(|(_, attr, _)| attr.kind == FileKind::Directory);
                stack.extend(below.map(|(path, attr, _)| (path, attr.ino)));
            }
        }
        Ok(())
    }

    /// Sorts and shows one group of files; gives them back in that order.
    async fn show(
        &mut self,
        mut files: Vec<(ClusterPath, Attr, String)>,
        mut out: Out<'_>,
    ) -> Result<Vec<(ClusterPath, Attr, String)>> {
        let o = self.options;
        if o.by_time {
            files.sort_by_key(|(_, attr, _)| std::cmp::Reverse(attr.mtime_ns));
        } else if o.by_size {
            files.sort_by_key(|(_, attr, _)| std::cmp::Reverse(attr.size));
        }
        if o.reverse {
            files.reverse();
        }
        let targets = self.targets(&files).await;
        if o.json {
            let shown = files
                .iter()
                .zip(&targets)
                .map(|((path, attr, _), t)| JsonFile::new(path, attr, t.as_deref()));
            self.entries.extend(shown);
            return Ok(files);
        }
        let mut rows = vec![];
        for ((_, attr, name), target) in files.iter().zip(&targets) {
            if !o.long {
                match o.inode {
                    true => writeln!(out, "{} {name}", attr.ino)?,
                    false => writeln!(out, "{name}")?,
                }
                continue;
            }
            let mut row = vec![];
            if o.inode {
                row.push(attr.ino.to_string());
            }
            row.extend([
                mode_text(attr),
                attr.nlink.to_string(),
                attr.uid.to_string(),
                attr.gid.to_string(),
                if o.human_readable {
                    short_bytes(attr.size)
                } else {
                    attr.size.to_string()
                },
                time(attr.mtime_ns),
                match target {
                    Some(target) => format!("{name} -> {}", output::name(target)),
                    None => name.clone(),
                },
            ]);
            rows.push(row);
        }
        if let Some(first) = rows.first() {
            let widths = vec![""; first.len()];
            let shift = usize::from(o.inode);
            let right = [0, 1 + shift, 2 + shift, 3 + shift, 4 + shift];
            table(&mut out, &widths, if o.inode { &right } else { &right[1..] }, &rows)?;
        }
        Ok(files)
    }

    /// What the symbolic links point to, where that is shown. One that cannot be read shows none.
    async fn targets(&self, files: &[(ClusterPath, Attr, String)]) -> Vec<Option<bytes::Bytes>> {
        let wanted = self.options.long || self.options.json;
        futures::stream::iter(files)
            .map(|(_, attr, _)| async move {
                match attr.kind {
                    FileKind::Symlink if wanted => self.remote.client.readlink(attr.ino).await.ok(),
                    _ => None,
                }
            })
            .buffered(16)
            .collect()
            .await
    }
}

pub async fn stat(remote: &Remote, options: &Stat, mut out: Out<'_>) -> Result<()> {
    let mut tally = Tally::default();
    let mut files = vec![];
    for path in remote.expand(&options.paths.paths).await? {
        let Some(attr) = tally.note(remote.get(&path, options.dereference).await)? else {
            continue;
        };
        let target = match attr.kind {
            FileKind::Symlink => tally.note(remote.client.readlink(attr.ino).await.map_err(fail(&path)))?,
            _ => None,
        };
        if options.json {
            files.push(JsonFile::new(&path, &attr, target.as_deref()));
            continue;
        }
        writeln!(out, "  Path: {path}")?;
        if let Some(target) = &target {
            writeln!(out, "Target: {}", output::name(target))?;
        }
        writeln!(
            out,
            "  Kind: {}\n  Size: {} ({})\nStored: {} in chunks, wanted {} times\n Inode: {}  Links: {}\n  Mode: {:04o} {}\n   Uid: {}  Gid: {}",
            super::kind_name(attr.kind),
            attr.size,
            output::human_bytes(attr.size),
            output::human_bytes(attr.allocated_bytes),
            attr.goal,
            attr.ino,
            attr.nlink,
            attr.mode,
            mode_text(&attr),
            attr.uid,
            attr.gid,
        )?;
        for (label, ns) in [
            ("Access", attr.atime_ns),
            ("Modify", attr.mtime_ns),
            ("Change", attr.ctime_ns),
            (" Birth", attr.btime_ns),
        ] {
            writeln!(out, "{label}: {}", time(ns))?;
        }
    }
    if options.json {
        #[derive(Serialize)]
        struct Files {
            files: Vec<JsonFile>,
        }
        json(&mut out, &Files { files })?;
    }
    tally.done()
}
