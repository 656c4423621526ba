//! The chunk map: grants, commits and installs.
use super::{Context, Stop, check_version};
use crate::chunk::{Chunk, ChunkInfo, Members};
use crate::command::{Effect, Grant, IndexedGrant, Install, Reply, SetAttr, SetTime, Written};
use crate::inode::Body;
use crate::{CannotApply, FsError};
use cairn_types::layout::{CHUNK_SIZE_BYTES, FILE_SIZE_BYTES_MAX, chunk_count};
use cairn_types::limits::LOCATE_CHUNKS_MAX;
use cairn_types::{ChunkHandle, Inode};

const _: () = assert!(FILE_SIZE_BYTES_MAX <= i64::MAX as u64);

impl Context<'_> {
    pub(super) fn check_grant(&self, grant: &Grant) -> Result<Members, Stop> {
        check_version(self.state, grant.version)?;
        Ok(self.check_members(&grant.members)?)
    }

    /// The index must be free and the grant checked.
    pub(super) fn create_chunk(&mut self, inode: Inode, index: u32, grant: &Grant) -> Result<ChunkInfo, Stop> {
        let members = self.check_grant(grant)?;
        let handle = ChunkHandle(self.state.header.last_handle + 1);
        let chunk = Chunk {
            inode,
            version: grant.version,
            index,
            references: 1,
            members,
            granted: true,
            committed: false,
            from_suspect: false,
        };
        match &mut self.node_mut(inode)?.body {
            Body::Regular(chunks) => chunks.insert(index, handle),
            _ => return Err(CannotApply::Inconsistent("a chunk of what is no file").into()),
        }
        self.state.header.last_handle = handle.0;
        let info = self.state.chunk_info(handle, &chunk);
        self.state.chunks.insert(handle.0, chunk);
        self.effects.push(Effect::ChunkCreated { handle });
        Ok(info)
    }

    pub(super) fn allocate(&mut self, inode: Inode, grants: &[IndexedGrant]) -> Result<Reply, Stop> {
        let node = self.state.node(inode)?;
        let chunks = match &node.body {
            Body::Regular(chunks) => chunks.clone(),
            Body::Directory(_) => return Err(FsError::IsDirectory.into()),
            _ => return Err(FsError::InvalidArgument.into()),
        };
        if grants.len() > LOCATE_CHUNKS_MAX {
            return Err(FsError::InvalidArgument.into());
        }
        for IndexedGrant { index, grant } in grants {
            if *index >= chunk_count(FILE_SIZE_BYTES_MAX) {
                return Err(FsError::TooLarge.into());
            }
            if chunks.get(*index).is_none() {
                self.check_grant(grant)?;
            }
        }
        let mut infos = Vec::with_capacity(grants.len());
        for IndexedGrant { index, grant } in grants {
            // asked of the node again: a grant may stand twice
            let existing = self.state.node(inode)?.chunks().and_then(|chunks| chunks.get(*index));
            infos.push(match existing {
                Some(handle) => self
                    .state
                    .chunk(handle)
                    .ok_or(CannotApply::Inconsistent("a file names no chunk"))?,
                None => self.create_chunk(inode, *index, grant)?,
            });
        }
        Ok(Reply::Chunks {
            attr: self.state.getattr(inode)?,
            chunks: infos,
        })
    }

    pub(super) fn truncate(&mut self, inode: Inode, chunk: Option<&Grant>) -> Result<Reply, Stop> {
        match self.state.node(inode)?.body {
            Body::Regular(_) => {}
            Body::Directory(_) => return Err(FsError::IsDirectory.into()),
            _ => return Err(FsError::InvalidArgument.into()),
        }
        if let Some(grant) = chunk {
            self.check_grant(grant)?;
        }
        let set = SetAttr {
            size: Some(0),
            mtime: Some(SetTime::Now),
            ..SetAttr::default()
        };
        self.set_attr(inode, &set, None)?;
        let chunk = chunk.map(|grant| self.create_chunk(inode, 0, grant)).transpose()?;
        Ok(Reply::Chunks {
            attr: self.state.getattr(inode)?,
            chunks: chunk.into_iter().collect(),
        })
    }

    /// `written`: data were, by a client that had seen the file at this generation.
    pub(super) fn commit(
        &mut self,
        inode: Inode,
        size: u64,
        written_chunks: &[Written],
        written: Option<u64>,
        kill_suid: bool,
    ) -> Result<Reply, Stop> {
        let node = self.state.node(inode)?;
        let chunks = node.chunks().ok_or(FsError::InvalidArgument)?;
        if size > FILE_SIZE_BYTES_MAX {
            return Err(FsError::TooLarge.into());
        }
        for Written { index, handle, version } in written_chunks {
            let current = self
                .state
                .chunks
                .get(handle.0)
                .filter(|_| chunks.get(*index) == Some(*handle));
            if current.is_none_or(|chunk| chunk.version != *version) {
                return Err(FsError::StaleVersion.into());
            }
        }
        let old = node.size;
        let grows = size > old;
        for Written { handle, .. } in written_chunks {
            // no copy of a page that a checkpoint shares for what is known
            if self.state.chunks.get(handle.0).is_some_and(|chunk| !chunk.committed)
                && let Some(chunk) = self.state.chunks.get_mut(handle.0)
            {
                chunk.committed = true;
            }
        }
        if grows {
            self.count_resize(inode, old, size);
        }
        let at_ns = self.at_ns;
        let node = self.node_mut(inode)?;
        if kill_suid {
            node.clear_set_ids();
        }
        if grows {
            node.size = size;
        }
        if grows || written.is_some() {
            let explicit = written.is_none_or(|seen| seen < node.mtime_set_at);
            let mtime_ns = node.mtime_ns;
            node.modified(at_ns);
            if explicit {
                node.mtime_ns = mtime_ns;
            }
        }
        if kill_suid || grows || written.is_some() {
            node.ctime_ns = at_ns;
            self.changed(inode, grows || written.is_some());
        }
        self.attr_reply(inode)
    }

    pub(super) fn install(&mut self, install: &Install) -> Result<Reply, Stop> {
        let Install { handle, version, .. } = install;
        if !self.state.was_drawn(*handle) {
            return Err(CannotApply::UnknownChunk(*handle).into());
        }
        let members = self.check_members(&install.members)?;
        check_version(self.state, *version)?;
        let chunk = self.state.chunks.get(handle.0).ok_or(FsError::NoSuchChunk)?;
        if *version <= chunk.version {
            return Err(FsError::StaleVersion.into());
        }
        let (inode, index) = (chunk.inode, chunk.index);
        let before = self.state.chunk_info(*handle, chunk);
        let reply = match &install.cut {
            Some(set) => {
                let within = |size: u64| size / CHUNK_SIZE_BYTES == u64::from(index);
                if !set.size.is_some_and(within) {
                    return Err(FsError::InvalidArgument.into());
                }
                Some(self.set_attr(inode, set, Some(*handle))?)
            }
            None => None,
        };
        if let Some(length) = install.length {
            self.adopt_length(
                inode,
                u64::from(index) * CHUNK_SIZE_BYTES + length.min(CHUNK_SIZE_BYTES),
            )?;
        }
        if install.from_suspect {
            self.state.from_suspect.insert(*handle, *version);
        }
        if let Some(chunk) = self.state.chunks.get_mut(handle.0) {
            (chunk.version, chunk.members, chunk.granted) = (*version, members, false);
            chunk.from_suspect |= install.from_suspect;
        }
        self.effects.push(Effect::ChunkInstalled {
            handle: *handle,
            before,
        });
        match reply {
            Some(reply) => Ok(reply),
            None => Ok(Reply::Chunk(self.state.chunk(*handle).ok_or(FsError::NoSuchChunk)?)),
        }
    }

    /// R12: what a client that died had written is in the file, though nobody committed it.
    fn adopt_length(&mut self, inode: Inode, size: u64) -> Result<(), Stop> {
        let old = self.state.node(inode)?.size;
        if size > old {
            self.count_resize(inode, old, size);
            let at_ns = self.at_ns;
            let node = self.node_mut(inode)?;
            node.size = size;
            node.modified(at_ns);
            self.changed(inode, true);
        }
        Ok(())
    }

    /// The file does not name them any more.
    pub(super) fn drop_chunks(&mut self, handles: Vec<ChunkHandle>) -> Result<(), Stop> {
        for handle in handles {
            let chunk = self
                .state
                .chunks
                .get_mut(handle.0)
                .ok_or(CannotApply::Inconsistent("a file names no chunk"))?;
            chunk.references = chunk.references.saturating_sub(1);
            if chunk.references > 0 {
                continue;
            }
            if let Some(chunk) = self.state.chunks.remove(handle.0) {
                let info = self.state.chunk_info(handle, &chunk);
                self.state.from_suspect.remove(&handle);
                self.effects.push(Effect::ChunkDropped { chunk: info });
            }
        }
        Ok(())
    }
}
