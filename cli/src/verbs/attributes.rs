//! `chmod`, `chown`, `touch`: what changes attributes.
use super::collect;
use crate::args::{Chmod, Chown, Touch};
use crate::failure::{Failure, Result};
use crate::mode;
use crate::output::parse_time;
use crate::path::ClusterPath;
use crate::remote::{Remote, Tally, fail};
use cairn_client::{Attr, Create, FileKind, SetAttr, SetTime};

/// The paths' files, with all below them.
async fn targets(
    remote: &Remote,
    path: &ClusterPath,
    recursive: bool,
    follow: bool,
) -> Result<Vec<(ClusterPath, Attr)>> {
    let attr = remote.get(path, follow).await?;
    if !recursive {
        return Ok(vec![(path.clone(), attr)]);
    }
    let all = collect(remote, path, &attr, usize::MAX).await?;
    Ok(all.into_iter().map(|(path, attr, _)| (path, attr)).collect())
}

pub async fn chmod(remote: &Remote, options: &Chmod) -> Result<()> {
    let umask = mode::umask();
    // wrong text is wrong use, whatever the files
    mode::change(&options.mode, 0, false, umask)?;
    let mut tally = Tally::default();
    for path in remote.expand(&options.paths.paths).await? {
        let Some(files) = tally.note(targets(remote, &path, options.recursive, true).await)? else {
            continue;
        };
        for (path, attr) in files {
            // a symbolic link has no mode of its own
            if attr.kind == FileKind::Symlink {
                continue;
            }
            let mode = mode::change(&options.mode, attr.mode, attr.kind == FileKind::Directory, umask)?;
            if mode != attr.mode {
                let change = SetAttr {
                    mode: Some(mode),
                    ..SetAttr::default()
                };
                tally.note(remote.client.setattr(attr.ino, change).await.map_err(fail(&path)))?;
            }
        }
    }
    tally.done()
}

pub async fn chown(remote: &Remote, options: &Chown) -> Result<()> {
    let (uid, gid) = parse_owner(&options.owner)?;
    let mut tally = Tally::default();
    for path in remote.expand(&options.paths.paths).await? {
        let follow = !options.no_dereference && !options.recursive;
        let Some(files) = tally.note(targets(remote, &path, options.recursive, follow).await)? else {
            continue;
        };
        for (path, attr) in files {
            let change = SetAttr {
                uid,
                gid,
                ..SetAttr::default()
            };
            tally.note(remote.client.setattr(attr.ino, change).await.map_err(fail(&path)))?;
        }
    }
    tally.done()
}

/// `UID`, `UID:GID`, `:GID`.
fn parse_owner(text: &str) -> Result<(Option<u32>, Option<u32>)> {
    let wrong = || {
        Failure::usage(format_args!(
            "{text}: owner and group are numbers (names differ from machine to machine): 1000, 1000:100 or :100; `id -u NAME` tells the number"
        ))
    };
    let number = |part: &str| match part {
        "" => Ok(None),
        part => part.parse::<u32>().map(Some).map_err(|_| wrong()),
    };
    let (uid, gid) = text.split_once(':').unwrap_or((text, ""));
    match (number(uid)?, number(gid)?) {
        (None, None) => Err(wrong()),
        owner => Ok(owner),
    }
}

pub async fn touch(remote: &Remote, options: &Touch) -> Result<()> {
    let time = match &options.date {
        None => SetTime::Now,
        Some(text) => SetTime::At(parse_time(text).ok_or_else(|| {
            Failure::usage(format_args!(
                "{text}: a time is 2026-11-24, 2026-11-24T03:26:00Z or @SECONDS since 1970, in UTC"
            ))
        })?),
    };
    let both = options.access == options.modification;
    let change = SetAttr {
        atime: (both || options.access).then_some(time),
        mtime: (both || options.modification).then_some(time),
        ..SetAttr::default()
    };
    let mut tally = Tally::default();
    for path in &options.paths.paths {
        let path = ClusterPath::parse(path)?;
        tally.note(touch_one(remote, options, &path, change.clone()).await)?;
    }
    tally.done()
}

async fn touch_one(remote: &Remote, options: &Touch, path: &ClusterPath, change: SetAttr) -> Result<()> {
    let ino = match remote.find(path, true).await? {
        Some(attr) => attr.ino,
        None if options.no_create => return Ok(()),
        None => {
            let (parent, name) = remote.place(path).await?;
            let create = Create {
                mode: 0o666 & !mode::umask(),
                uid: rustix::process::geteuid().as_raw(),
                gid: rustix::process::getegid().as_raw(),
                ..Create::default()
            };
            let (attr, _, file) = remote.client.create(parent, &name, create).await.map_err(fail(path))?;
            file.close().await.map_err(fail(path))?;
            if options.date.is_none() {
                return Ok(());
            }
            attr.ino
        }
    };
    remote.client.setattr(ino, change).await.map(drop).map_err(fail(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_numbers() {
        assert_eq!(parse_owner("1000").unwrap(), (Some(1000), None));
        assert_eq!(parse_owner("1000:100").unwrap(), (Some(1000), Some(100)));
        assert_eq!(parse_owner(":100").unwrap(), (None, Some(100)));
        for text in ["", ":", "root", "1:users", "-1"] {
            assert_eq!(parse_owner(text).unwrap_err().code(), 2, "{text}");
        }
    }
}
