//! `goal get` and `goal set`.
use super::{Out, collect};
use crate::args::Goal;
use crate::failure::Result;
use crate::output::json;
use crate::path::ClusterPath;
use crate::remote::{Remote, Tally, fail};
use cairn_client::{Attr, FileKind};
use serde::Serialize;

async fn targets(remote: &Remote, path: &ClusterPath, recursive: bool) -> Result<Vec<(ClusterPath, Attr, usize)>> {
    let attr = remote.get(path, true).await?;
    let depth = if recursive { usize::MAX } else { 0 };
    let mut files = collect(remote, path, &attr, depth).await?;
    // what is neither file nor directory has no chunks
    files.retain(|(_, attr, _)| matches!(attr.kind, FileKind::Regular | FileKind::Directory));
    Ok(files)
}

pub async fn goal(remote: &Remote, verb: &Goal, mut out: Out<'_>) -> Result<()> {
    let mut tally = Tally::default();
    match verb {
        Goal::Get { paths, recursive } => {
            #[derive(Serialize)]
            struct Entry {
                path: String,
                goal: u8,
            }
            #[derive(Serialize)]
            struct Entries {
                entries: Vec<Entry>,
            }
            let mut entries = vec![];
            for path in remote.expand(&paths.paths.paths).await? {
                let Some(files) = tally.note(targets(remote, &path, *recursive).await)? else {
                    continue;
                };
                entries.extend(files.iter().map(|(path, attr, _)| Entry {
                    path: path.to_string(),
                    goal: attr.goal,
                }));
            }
            if paths.json {
                json(&mut out, &Entries { entries })?;
            } else {
                for e in entries {
                    writeln!(out, "{}\t{}", e.goal, e.path)?;
                }
            }
        }
        Goal::Set { goal, paths, recursive } => {
            for path in remote.expand(&paths.paths).await? {
                let Some(files) = tally.note(targets(remote, &path, *recursive).await)? else {
                    continue;
                };
                let changed = files.into_iter().filter(|(_, attr, _)| attr.goal != *goal);
                for (path, attr, _) in changed {
                    tally.note(remote.client.set_goal(attr.ino, *goal).await.map_err(fail(&path)))?;
                }
            }
        }
    }
    tally.done()
}
