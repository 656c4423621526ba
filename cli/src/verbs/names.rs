//! `mkdir`, `rm`, `mv`, `ln`: what changes names.
use super::{Out, collect};
use crate::args::{Ln, Mkdir, Mv, Rm};
use crate::failure::{Failure, Result};
use crate::mode;
use crate::output;
use crate::path::ClusterPath;
use crate::remote::{EEXIST, ENOENT, Remote, Tally, fail, missing};
use bytes::Bytes;
use cairn_client::{Attr, Error, FileKind, Make, RenameFlags, SetAttr};
use cairn_types::Inode;
use std::os::unix::ffi::OsStrExt;

/// Who makes something, and with which permissions: this process.
pub fn make(kind: FileKind, mode: u32, target: Bytes) -> Make {
    Make {
        kind,
        mode,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        rdev: 0,
        target,
    }
}

pub async fn mkdir(remote: &Remote, options: &Mkdir) -> Result<()> {
    let umask = mode::umask();
    let wanted = match &options.mode {
        Some(text) => Some(mode::change(text, 0o777, true, umask)?),
        None => None,
    };
    let mut tally = Tally::default();
    for path in &options.paths.paths {
        let path = ClusterPath::parse(path)?;
        tally.note(mkdir_one(remote, &path, options.parents, wanted, umask).await)?;
    }
    tally.done()
}

async fn mkdir_one(remote: &Remote, path: &ClusterPath, parents: bool, wanted: Option<u32>, umask: u32) -> Result<()> {
    if parents {
        // parents can be written and entered by their owner, whatever the umask
        mkdir_all(remote, &path.parent(), 0o777 & !umask | 0o300).await?;
        if let Some(attr) = remote.find(path, true).await? {
            return match attr.kind {
                FileKind::Directory => Ok(()),
                _ => Err(Failure::new(path, "exists and is not a directory")),
            };
        }
    }
    let (parent, name) = remote.place(path).await.map_err(|e| match parents {
        true => e,
        false => e.next("make its parents too with -p"),
    })?;
    let attr = remote
        .client
        .make(
            parent,
            &name,
            make(FileKind::Directory, wanted.unwrap_or(0o777 & !umask), Bytes::new()),
        )
        .await
        .map_err(fail(path))?;
    // what mkdir(2) takes from a mode, and -m means as it stands
    if let Some(mode) = wanted.filter(|mode| *mode != attr.mode) {
        let change = SetAttr {
            mode: Some(mode),
            ..SetAttr::default()
        };
        remote.client.setattr(attr.ino, change).await.map_err(fail(path))?;
    }
    Ok(())
}

/// The directory at `path`, made with its parents where missing.
pub async fn mkdir_all(remote: &Remote, path: &ClusterPath, mode: u32) -> Result<Inode> {
    if let Some(attr) = remote.find(path, true).await? {
        return match attr.kind {
            FileKind::Directory => Ok(attr.ino),
            _ => Err(Failure::new(path, "exists and is not a directory")),
        };
    }
    let parent = Box::pin(mkdir_all(remote, &path.parent(), mode)).await?;
    match remote
        .client
        .make(parent, &path.name(), make(FileKind::Directory, mode, Bytes::new()))
        .await
    {
        Ok(attr) => Ok(attr.ino),
        // another was quicker
        Err(Error::Posix { errno: EEXIST, .. }) => Ok(remote.get(path, true).await?.ino),
        Err(e) => Err(fail(path)(e)),
    }
}

pub async fn rm(remote: &Remote, options: &Rm, out: Out<'_>) -> Result<()> {
    let mut tally = Tally::default();
    let paths = match remote.expand(&options.paths.paths).await {
        Ok(paths) => paths,
        // a pattern that matches nothing
        Err(Failure::Said { .. }) if options.force => options
            .paths
            .paths
            .iter()
            .map(|p| ClusterPath::parse(p))
            .collect::<Result<_>>()?,
        Err(e) => return Err(e),
    };
    for path in paths {
        tally.note(rm_one(remote, options, &path, out).await)?;
    }
    tally.done()
}

async fn rm_one(remote: &Remote, options: &Rm, path: &ClusterPath, out: Out<'_>) -> Result<()> {
    let Some(attr) = remote.find(path, false).await? else {
        return if options.force { Ok(()) } else { Err(missing(path)) };
    };
    if path.is_root() {
        return Err(Failure::new(path, "the root directory stays").next("`cairn rm -r '/*'` removes all that is in it"));
    }
    match attr.kind {
        FileKind::Directory if options.recursive => rm_tree(remote, path, &attr, options.verbose, out).await,
        FileKind::Directory if !options.dir => {
            Err(Failure::new(path, "is a directory").next("remove it with all that is in it with -r"))
        }
        _ => remove(remote, path, &attr, options.verbose, out).await,
    }
}

/// What is below goes before the directory that it is in.
async fn rm_tree(remote: &Remote, path: &ClusterPath, attr: &Attr, verbose: bool, out: Out<'_>) -> Result<()> {
    let all = collect(remote, path, attr, usize::MAX).await?;
    for (path, attr, _) in all.iter().rev() {
        remove(remote, path, attr, verbose, out).await?;
    }
    Ok(())
}

async fn remove(remote: &Remote, path: &ClusterPath, attr: &Attr, verbose: bool, out: Out<'_>) -> Result<()> {
    let (parent, name) = remote.place(path).await?;
    let removed = match attr.kind {
        FileKind::Directory => remote.client.rmdir(parent, &name).await,
        _ => remote.client.unlink(parent, &name).await,
    };
    match removed {
        // another was quicker: it is gone, as wanted
        Ok(()) | Err(Error::Posix { errno: ENOENT, .. }) => {}
        Err(e) => return Err(fail(path)(e)),
    }
    if verbose {
        writeln!(out, "removed {path}")?;
    }
    Ok(())
}

pub async fn mv(remote: &Remote, options: &Mv) -> Result<()> {
    let Some((destination, sources)) = options.paths.split_last() else {
        return Err(Failure::usage("mv: give a source and a destination"));
    };
    let destination = ClusterPath::parse(destination)?;
    let sources = remote.expand(sources).await?;
    let target = remote.find(&destination, true).await?;
    let into_directory = !options.no_target_directory
        && !options.exchange
        && target.as_ref().is_some_and(|a| a.kind == FileKind::Directory);
    if sources.len() > 1 && !into_directory {
        return Err(
            Failure::new(&destination, "several files can only be moved into a directory")
                .next(format_args!("make it with `cairn mkdir {destination}`")),
        );
    }
    let mut tally = Tally::default();
    for source in sources {
        let to = if into_directory {
            destination.join(&source.name())
        } else {
            destination.clone()
        };
        tally.note(mv_one(remote, options, &source, &to).await)?;
    }
    tally.done()
}

async fn mv_one(remote: &Remote, options: &Mv, from: &ClusterPath, to: &ClusterPath) -> Result<()> {
    let (parent, name) = remote.place(from).await?;
    let (new_parent, new_name) = remote.place(to).await?;
    let flags = RenameFlags {
        no_replace: options.no_clobber,
        exchange: options.exchange,
    };
    match remote.client.rename(parent, &name, new_parent, &new_name, flags).await {
        // as mv -n has it: nothing was replaced, as wanted
        Err(Error::Posix { errno: EEXIST, .. }) if options.no_clobber => Ok(()),
        Err(Error::Posix { errno: ENOENT, .. }) if remote.find(from, false).await?.is_none() => Err(missing(from)),
        Err(e) => Err(fail(format_args!("{from} -> {to}"))(e)),
        Ok(()) => Ok(()),
    }
}

pub async fn ln(remote: &Remote, options: &Ln) -> Result<()> {
    let target = options.target.as_bytes();
    let link = ClusterPath::parse(&options.link)?;
    let link = match remote.find(&link, true).await? {
        Some(attr) if attr.kind == FileKind::Directory => {
            let name = target.rsplit(|b| *b == b'/').find(|n| !n.is_empty()).unwrap_or(b"link");
            link.join(name)
        }
        _ => link,
    };
    let (parent, name) = remote.place(&link).await?;
    if options.force && remote.find(&link, false).await?.is_some() {
        remote.client.unlink(parent, &name).await.map_err(fail(&link))?;
    }
    let made = if options.symbolic {
        let target = Bytes::copy_from_slice(target);
        remote
            .client
            .make(parent, &name, make(FileKind::Symlink, 0o777, target))
            .await
    } else {
        let target = ClusterPath::parse(&options.target)?;
        let attr = remote.get(&target, false).await?;
        if attr.kind == FileKind::Directory {
            return Err(Failure::new(&target, "a directory has one name").next("use -s for a symbolic link"));
        }
        remote.client.link(attr.ino, parent, &name).await
    };
    made.map(drop).map_err(|e| match e {
        Error::Posix { errno: EEXIST, .. } => Failure::new(&link, "exists").next("replace it with -f"),
        e => fail(format_args!("{link} -> {}", output::name(target)))(e),
    })
}
