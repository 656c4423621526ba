//! `append` and `records`: record append, and files of records (docs/record-format.md).
use super::Out;
use crate::args::{Append, Records};
use crate::failure::{Failure, Result, plain};
use crate::output::{json, table};
use crate::path::ClusterPath;
use crate::remote::{Remote, fail};
use crate::whole::WholeFile;
use bytes::Bytes;
use cairn_client::{Create, File, OpenMode};
use cairn_types::limits::RECORD_BYTES_MAX;
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;
use std::io::{BufRead, Read};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Records of one command under way at a time.
const AHEAD: usize = 32;

pub async fn append(remote: &Remote, options: &Append, out: Out<'_>) -> Result<()> {
    let path = ClusterPath::parse(&options.path)?;
    let file = open_or_create(remote, &path).await?;
    let records = ReceiverStream::new(standard_input(options.lines));
    let appended = records
        .map(|record| {
            let (file, path) = (&file, &path);
            async move { file.append_record(record?).await.map_err(fail(path)) }
        })
        .buffered(AHEAD);
    let appended: Result<()> = Box::pin(appended)
        .try_for_each(|offset| {
            let said = match options.verbose {
                true => writeln!(out, "{offset}").map_err(Failure::from),
                false => Ok(()),
            };
            std::future::ready(said)
        })
        .await;
    // what came before a failure is kept all the same
    let synced = file.fsync().await.map_err(fail(&path));
    let closed = file.close().await.map_err(fail(&path));
    appended.and(synced).and(closed)
}

async fn open_or_create(remote: &Remote, path: &ClusterPath) -> Result<File> {
    if remote.find(path, true).await?.is_some() {
        return remote.open(path, OpenMode::READ_WRITE).await;
    }
    let (parent, name) = remote.place(path).await?;
    let create = Create {
        mode: 0o666 & !crate::mode::umask(),
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        ..Create::default()
    };
    let created = remote.client.create(parent, &name, create).await;
    Ok(created.map_err(fail(path))?.2)
}

/// Standard input as one record, or each of its lines as one.
fn standard_input(lines: bool) -> mpsc::Receiver<Result<Bytes>> {
    let (send, receive) = mpsc::channel(AHEAD);
    // it may wait for ever: never joined, so that an interruption need not wait for it
    drop(tokio::task::spawn_blocking(move || {
        let mut input = std::io::stdin().lock();
        loop {
            let record = match lines {
                true => next_line(&mut input),
                false => whole(&mut input).map(Some),
            };
            let last = !lines || !matches!(record, Ok(Some(_)));
            if let Some(record) = record.transpose()
                && send.blocking_send(record).is_err()
            {
                return;
            }
            if last {
                return;
            }
        }
    }));
    receive
}

/// At most a record, and a byte to tell that there is more.
const READ_MAX: u64 = RECORD_BYTES_MAX as u64 + 2;

fn whole(input: &mut impl BufRead) -> Result<Bytes> {
    let mut record = vec![];
    input.take(READ_MAX).read_to_end(&mut record).map_err(unreadable)?;
    fits(&record, "standard input", "append its lines (--lines), or parts of it")?;
    Ok(record.into())
}

/// Without its line feed.
fn next_line(input: &mut impl BufRead) -> Result<Option<Bytes>> {
    let mut line = vec![];
    if input.take(READ_MAX).read_until(b'\n', &mut line).map_err(unreadable)? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    fits(&line, "a line of standard input", "")?;
    Ok(Some(line.into()))
}

fn unreadable(e: std::io::Error) -> Failure {
    Failure::new("standard input", plain(&e))
}

fn fits(record: &[u8], what: &str, next: &str) -> Result<()> {
    if record.len() <= RECORD_BYTES_MAX {
        return Ok(());
    }
    let mib = RECORD_BYTES_MAX >> 20;
    Err(Failure::new(what, format_args!("is longer than a record may be ({mib} MiB)")).next(next))
}

#[derive(Serialize)]
struct JsonRecord {
    /// In the file, where the record's header is.
    offset: u64,
    /// Of its data, in bytes.
    length: u64,
    session: String,
    number: u64,
}

#[derive(Serialize)]
struct JsonRecords {
    path: String,
    records: Vec<JsonRecord>,
}

pub async fn records(remote: &Remote, options: &Records, mut out: Out<'_>) -> Result<()> {
    let path = ClusterPath::parse(&options.path)?;
    let file = remote.open(&path, OpenMode::READ).await?;
    let mut reader = file.records(options.from);
    let mut listed = vec![];
    let mut output = options.output.as_deref().map(WholeFile::create).transpose()?;
    let mut left = options.count.unwrap_or(u64::MAX);
    while left > 0 {
        let Some(record) = reader.next().await.map_err(fail(&path))? else {
            break;
        };
        left -= 1;
        if let Some(whole) = &mut output {
            whole.write(&record.data)?;
        } else if options.data {
            out.write_all(&record.data)?;
            out.write_all(b"\n")?;
        } else {
            listed.push(JsonRecord {
                offset: record.offset,
                length: record.data.len() as u64,
                session: record.session.to_string(),
                number: record.number,
            });
        }
    }
    file.close().await.map_err(fail(&path))?;
    if let Some(whole) = output {
        return whole.finish();
    }
    if options.json {
        let path = path.to_string();
        json(&mut out, &JsonRecords { path, records: listed })?;
    } else if !options.data {
        let row = |r: &JsonRecord| {
            vec![
                r.offset.to_string(),
                r.length.to_string(),
                r.session.clone(),
                r.number.to_string(),
            ]
        };
        let rows: Vec<_> = listed.iter().map(row).collect();
        table(&mut out, &["OFFSET", "BYTES", "SESSION", "NUMBER"], &[0, 1, 3], &rows)?;
    }
    Ok(())
}
