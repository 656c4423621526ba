//! A new chunk's file is made with its first change, or by whatever needs it before that. Until then only this process
//! knows of the chunk, and has acknowledged nothing of it: a kill leaves no trace, as one before the creation would.
use super::Result;
use super::chunk::{Chunk, Core, Held};
use super::error::StoreError;
use super::file::ChunkFile;
use super::format::Intent;
use std::sync::{Arc, RwLockReadGuard};

impl Chunk {
    /// The chunk, which now has a file, locked for reading.
    pub(super) fn read_made(&self) -> Result<RwLockReadGuard<'_, Core>> {
        loop {
            let core = self.disk.read_core(&self.slot)?;
            if !core.is_unmade() {
                return Ok(core);
            }
            drop(core);
            self.there(&mut *self.disk.write_core(&self.slot)?)?;
        }
    }

    /// The chunk's file, empty if it is made now.
    pub(super) fn made(&self, core: &mut Core) -> Result<Arc<ChunkFile>> {
        self.make(core, None, &[], &[])
    }

    /// [`Chunk::made`] for what adds nothing to the chunk: without room for a file it is not there.
    pub(super) fn there(&self, core: &mut Core) -> Result<Arc<ChunkFile>> {
        match self.made(core) {
            Err(StoreError::NoSpace { .. }) => Err(StoreError::NotFound { handle: self.handle() }),
            made => made,
        }
    }

    /// The chunk's file; if it is made now, with the first bytes of the chunk, their checksums and the intent to add them.
    /// Where that fails the chunk is gone, as if it had never been created, unless too many files are open.
    pub(super) fn make(
        &self,
        core: &mut Core,
        intent: Option<Intent>,
        crcs: &[u32],
        data: &[u8],
    ) -> Result<Arc<ChunkFile>> {
        let handle = self.handle();
        let Held::Unmade(meta) = &core.held else {
            return self.file(core);
        };
        let write = |file: &ChunkFile| file.write_new(&core.status, intent, crcs, data);
        match self.disk.make_file(handle, meta, write) {
            Ok(file) => {
                self.disk.verified.forget(handle, 0..crcs.len() as u32);
                core.made(file.clone(), self.disk.name_made(handle));
                Ok(file)
            }
            Err(StoreError::TooManyFiles) => Err(StoreError::TooManyFiles),
            Err(e) => {
                core.remove();
                self.disk.forget(handle);
                Err(e)
            }
        }
    }
}
