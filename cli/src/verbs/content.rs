//! `cat`, `head`, `tail`: what reads files to standard output.
use super::Out;
use crate::args::{HeadTail, Paths, Tail};
use crate::config::Size;
use crate::failure::{Failure, Result};
use crate::path::ClusterPath;
use crate::remote::{Remote, Tally, fail, pieces};
use cairn_client::{File, OpenMode};
use futures::StreamExt;
use std::time::Duration;

/// How often `tail -f` looks for new bytes.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);
/// Read at a time when lines are counted from the end.
const BACKWARD_BYTES: u64 = 64 << 10;

pub async fn cat(remote: &Remote, options: &Paths, out: Out<'_>) -> Result<()> {
    let mut tally = Tally::default();
    for path in remote.expand(&options.paths).await? {
        tally.note(cat_one(remote, &path, out).await)?;
    }
    tally.done()
}

async fn cat_one(remote: &Remote, path: &ClusterPath, out: Out<'_>) -> Result<()> {
    let file = remote.open(path, OpenMode::READ).await?;
    let end = file.attr().size;
    print(&file, path, 0, end, out).await?;
    file.close().await.map_err(fail(path))
}

async fn print(file: &File, path: &ClusterPath, start: u64, end: u64, out: Out<'_>) -> Result<()> {
    let mut pieces = Box::pin(pieces(file, start, end));
    while let Some(piece) = pieces.next().await {
        out.write_all(&piece.map_err(fail(path))?)?;
    }
    Ok(())
}

/// How much is wanted.
#[derive(Debug, Clone, Copy)]
enum Amount {
    Lines(u64),
    Bytes(u64),
}

fn amount(options: &HeadTail) -> Result<Amount> {
    match (&options.bytes, options.lines) {
        (Some(text), _) => match text.parse::<Size>() {
            Ok(size) => Ok(Amount::Bytes(size.0)),
            Err(()) => Err(Failure::usage(format_args!(
                "-c {text}: a size such as 512 or 1MiB is expected"
            ))),
        },
        (None, lines) => Ok(Amount::Lines(lines.unwrap_or(10))),
    }
}

pub async fn head(remote: &Remote, options: &HeadTail, out: Out<'_>) -> Result<()> {
    let amount = amount(options)?;
    let paths = remote.expand(&options.paths.paths).await?;
    let mut tally = Tally::default();
    for (i, path) in paths.iter().enumerate() {
        heading(&paths, i, out)?;
        tally.note(head_one(remote, path, amount, out).await)?;
    }
    tally.done()
}

fn heading(paths: &[ClusterPath], i: usize, out: Out<'_>) -> Result<()> {
    if paths.len() > 1 {
        let gap = if i > 0 { "\n" } else { "" };
        writeln!(out, "{gap}==> {} <==", paths[i])?;
    }
    Ok(())
}

async fn head_one(remote: &Remote, path: &ClusterPath, amount: Amount, out: Out<'_>) -> Result<()> {
    let file = remote.open(path, OpenMode::READ).await?;
    let size = file.attr().size;
    match amount {
        Amount::Bytes(n) => print(&file, path, 0, n.min(size), out).await?,
        Amount::Lines(n) => {
            let mut left = n;
            let mut at = 0;
            while left > 0 && at < size {
                let piece = file.read_at(at, BACKWARD_BYTES as usize).await.map_err(fail(path))?;
                if piece.is_empty() {
                    break;
                }
                at += piece.len() as u64;
                let mut end = piece.len();
                for (i, _) in piece.iter().enumerate().filter(|(_, b)| **b == b'\n') {
                    left -= 1;
                    if left == 0 {
                        end = i + 1;
                        break;
                    }
                }
                out.write_all(&piece[..end])?;
            }
        }
    }
    file.close().await.map_err(fail(path))
}

pub async fn tail(remote: &Remote, options: &Tail, out: Out<'_>) -> Result<()> {
    let amount = amount(&options.what)?;
    let paths = remote.expand(&options.what.paths.paths).await?;
    let mut tally = Tally::default();
    let mut followed = vec![];
    for (i, path) in paths.iter().enumerate() {
        heading(&paths, i, out)?;
        if let Some(end) = tally.note(tail_one(remote, path, amount, out).await)? {
            followed.push((i, end));
        }
    }
    out.flush()?;
    if options.follow && !followed.is_empty() {
        follow(remote, &paths, followed, out).await?;
    }
    tally.done()
}

/// Prints the end; gives where the file ended.
async fn tail_one(remote: &Remote, path: &ClusterPath, amount: Amount, out: Out<'_>) -> Result<u64> {
    let file = remote.open(path, OpenMode::READ).await?;
    let size = file.attr().size;
    let start = match amount {
        Amount::Bytes(n) => size.saturating_sub(n),
        Amount::Lines(n) => last_lines(&file, path, size, n).await?,
    };
    print(&file, path, start, size, out).await?;
    file.close().await.map_err(fail(path))?;
    Ok(size)
}

/// Where the last `n` lines begin. A newline at the very end ends the last line and begins none.
async fn last_lines(file: &File, path: &ClusterPath, size: u64, n: u64) -> Result<u64> {
    if n == 0 {
        return Ok(size);
    }
    let mut newlines = 0;
    let mut end = size;
    while end > 0 {
        let start = (end - 1) / BACKWARD_BYTES * BACKWARD_BYTES;
        let piece = file.read_at(start, (end - start) as usize).await.map_err(fail(path))?;
        for (i, _) in piece.iter().enumerate().rev().filter(|(_, b)| **b == b'\n') {
            let at = start + i as u64;
            if at + 1 == size {
                continue;
            }
            newlines += 1;
            if newlines == n {
                return Ok(at + 1);
            }
        }
        end = start;
    }
    Ok(0)
}

/// Prints what is added, until interrupted. A file that got shorter is read from its start; one that was replaced
/// under its name is followed there.
async fn follow(remote: &Remote, paths: &[ClusterPath], mut files: Vec<(usize, u64)>, out: Out<'_>) -> Result<()> {
    let mut last = files.len() - 1;
    let mut inodes = vec![None; paths.len()];
    loop {
        tokio::time::sleep(FOLLOW_EVERY).await;
        for (i, printed) in &mut files {
            let path = &paths[*i];
            let Some(attr) = remote.find(path, true).await? else {
                continue;
            };
            let replaced = inodes[*i].replace(attr.ino).is_some_and(|before| before != attr.ino);
            if replaced || attr.size < *printed {
                crate::failure::Failure::new(path, "was cut or replaced: printing it from its start").report();
                *printed = 0;
            }
            if attr.size == *printed {
                continue;
            }
            if paths.len() > 1 && last != *i {
                last = *i;
                writeln!(out, "\n==> {path} <==")?;
            }
            let file = remote.open(path, OpenMode::READ).await?;
            print(&file, path, *printed, attr.size, out).await?;
            file.close().await.map_err(fail(path))?;
            *printed = attr.size;
            out.flush()?;
        }
    }
}
