//! Calls that ask and change nothing in the log: answered at once, from what is durable.
use super::wire::{self as convert, Refusal, shown_inode};
use crate::core::World;
use bytes::Bytes;
use cairn_proto::session::answer::Result as Answer;
use cairn_proto::session::call::Request;
use cairn_proto::session::{FileSystem, Locations, Names, Resolved};
use cairn_types::limits::{LOCATE_CHUNKS_MAX, PATH_BYTES_MAX, READDIR_ENTRIES_MAX};
use cairn_types::{Inode, SessionId};

/// `None`: it is no query.
pub fn answer(world: &mut World, session: SessionId, request: &Request) -> Option<Result<Answer, Refusal>> {
    Some(match request {
        Request::Lookup(q) => {
            let parent = Inode(q.parent);
            let found = world.state.lookup(parent, &q.name);
            let attr = found.map_err(|e| Refusal::fs(String::from_utf8_lossy(&q.name))(e));
            world.sessions.seen(session, [parent]);
            seen_attr(world, session, attr)
        }
        Request::GetAttr(q) => {
            let attr = world
                .state
                .getattr(Inode(q.inode))
                .map_err(Refusal::fs(format!("inode {}", q.inode)));
            seen_attr(world, session, attr)
        }
        Request::ReadDir(q) => {
            let limit = (q.limit as usize).clamp(1, READDIR_ENTRIES_MAX);
            let page = world.state.readdir(Inode(q.inode), q.after, limit);
            page.map_err(|e| Refusal::fs(shown_inode(&world.state, Inode(q.inode)))(e))
                .map(|page| {
                    let entries = if q.plain { &[] } else { &page.entries[..] };
                    let inodes = entries.iter().map(|e| e.attr.inode).chain([Inode(q.inode)]);
                    world.sessions.seen(session, inodes);
                    Answer::Directory(convert::directory_page(&world.state, page, q.plain))
                })
        }
        Request::ReadLink(q) => {
            let target = world.state.readlink(Inode(q.inode));
            target
                .map(|t| Answer::Bytes(Bytes::from(t)))
                .map_err(|e| Refusal::fs(shown_inode(&world.state, Inode(q.inode)))(e))
        }
        Request::GetXattr(q) => {
            let value = world.state.getxattr(Inode(q.inode), &q.name);
            value
                .map(|v| Answer::Bytes(Bytes::from(v)))
                .map_err(|e| Refusal::fs(String::from_utf8_lossy(&q.name))(e))
        }
        Request::ListXattr(q) => {
            let names = world.state.listxattr(Inode(q.inode));
            names
                .map(|names| {
                    Answer::Names(Names {
                        names: names.into_iter().map(Bytes::from).collect(),
                    })
                })
                .map_err(|e| Refusal::fs(shown_inode(&world.state, Inode(q.inode)))(e))
        }
        Request::StatFs(_) => {
            let (total_bytes, available_bytes) = world.servers.space();
            let counts = world.state.counts();
            Ok(Answer::FileSystem(FileSystem {
                total_bytes,
                available_bytes,
                goal: world.state.default_goal().into(),
                files: counts.regular_files + counts.directories + counts.other_files,
                trash_bytes: counts.trash_bytes,
            }))
        }
        Request::Resolve(q) if q.path.len() > PATH_BYTES_MAX => {
            Err(Refusal::fs("the path")(cairn_metadata::FsError::NameTooLong))
        }
        Request::Resolve(q) => {
            let resolved = world.state.resolve(Inode::ROOT, &q.path, q.follow);
            resolved
                .map_err(|e| Refusal::fs(String::from_utf8_lossy(&q.path))(e))
                .map(|r| {
                    let inodes = r.attr.iter().map(|a| a.inode).chain([r.parent]);
                    world.sessions.seen(session, inodes.collect::<Vec<_>>());
                    Answer::Resolved(Resolved {
                        parent: r.parent.0,
                        name: Bytes::from(r.name),
                        attr: r.attr.map(|attr| convert::attr(&world.state, attr)),
                    })
                })
        }
        Request::Locate(q) => {
            let count = q.count.min(LOCATE_CHUNKS_MAX as u32);
            let located = world.state.locate(Inode(q.inode), q.first, count);
            located
                .map_err(|e| Refusal::fs(shown_inode(&world.state, Inode(q.inode)))(e))
                .map(|(attr, chunks)| {
                    if q.for_write {
                        world
                            .sessions
                            .writes(session, attr.inode, chunks.iter().map(|c| c.handle));
                    }
                    world.sessions.seen(session, [attr.inode]);
                    let chunks = chunks.iter().map(|c| world.location(c)).collect();
                    Answer::Locations(Locations {
                        chunks,
                        attr: Some(convert::attr(&world.state, attr)),
                    })
                })
        }
        Request::PathOf(q) => {
            let path = world.state.path_of(Inode(q.inode));
            path.map(|p| Answer::Bytes(Bytes::from(p)))
                .map_err(Refusal::fs(format!("inode {}", q.inode)))
        }
        Request::TrashList(q) => {
            let limit = (q.limit as usize).clamp(1, READDIR_ENTRIES_MAX);
            let page = world.state.trash_list(Inode(q.after), limit);
            Ok(Answer::Trash(convert::trash_page(&world.state, page)))
        }
        Request::Open(_)
        | Request::Complain(_)
        | Request::Create(_)
        | Request::Link(_)
        | Request::Unlink(_)
        | Request::Rmdir(_)
        | Request::Rename(_)
        | Request::SetAttr(_)
        | Request::SetXattr(_)
        | Request::RemoveXattr(_)
        | Request::Allocate(_)
        | Request::Commit(_)
        | Request::SetGoal(_)
        | Request::TrashRestore(_)
        | Request::TrashEmpty(_)
        | Request::Goodbye(_) => return None,
    })
}

fn seen_attr(
    world: &mut World,
    session: SessionId,
    attr: Result<cairn_metadata::Attr, Refusal>,
) -> Result<Answer, Refusal> {
    let attr = attr?;
    world.sessions.seen(session, [attr.inode]);
    Ok(Answer::Attr(convert::attr(&world.state, attr)))
}
