//! A local file that has its name only when all of it is on the disk. Dropped before, it leaves nothing.
use crate::failure::{Failure, Result};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

pub struct WholeFile {
    path: PathBuf,
    directory: PathBuf,
    temporary: PathBuf,
    file: File,
}

impl WholeFile {
    /// # Errors
    /// A path without a name, or of something that is no regular file; what the system says, with the path.
    pub fn create(path: &Path) -> Result<Self> {
        // a device must not be replaced by a file, nor a link by what it leads to
        let path = match std::fs::canonicalize(path) {
            Ok(there) if there.is_file() => there,
            Ok(_) => {
                return Err(Failure::new(
                    path.display().to_string(),
                    "it is there and is no regular file",
                ));
            }
            Err(_) => path.to_owned(),
        };
        let directory = path.parent().filter(|p| !p.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new(".")).to_owned();
        let name = path
            .file_name()
            .ok_or_else(|| Failure::usage("give a file to write to"))?;
        let temporary = directory.join(format!(".{}.{}.partial", name.to_string_lossy(), std::process::id()));
        let file = File::create(&temporary).map_err(|e| Failure::local(&path, &e))?;
        Ok(Self {
            path,
            directory,
            temporary,
            file,
        })
    }

    /// # Errors
    /// What the system says, with the path.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| Failure::local(&self.path, &e))
    }

    /// It is whole.
    ///
    /// # Errors
    /// What the system says, with the path.
    pub fn finish(self) -> Result<()> {
        let finish = || -> io::Result<()> {
            self.file.sync_all()?;
            std::fs::rename(&self.temporary, &self.path)?;
            File::open(&self.directory)?.sync_all()
        };
        finish().map_err(|e| Failure::local(&self.path, &e))
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        match std::fs::remove_file(&self.temporary) {
            // finished
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => tracing::warn!("cannot remove {}: {e}", self.temporary.display()),
            Ok(()) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_name_when_it_is_whole_and_leaves_nothing_otherwise() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        let names = || std::fs::read_dir(directory.path()).unwrap().count();
        std::fs::write(&path, "before").unwrap();
        let mut given_up = WholeFile::create(&path).unwrap();
        given_up.write(b"half").unwrap();
        assert_eq!(names(), 2);
        drop(given_up);
        assert_eq!((names(), std::fs::read(&path).unwrap()), (1, b"before".to_vec()));
        let mut whole = WholeFile::create(&path).unwrap();
        whole.write(b"after").unwrap();
        whole.finish().unwrap();
        assert_eq!((names(), std::fs::read(&path).unwrap()), (1, b"after".to_vec()));
        assert!(WholeFile::create(directory.path()).is_err() && WholeFile::create(Path::new("/dev/null")).is_err());
    }
}
