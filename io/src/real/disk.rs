use crate::{Disk, DiskFile, Space};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::system::uname;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The first Linux whose syncfs(2) says that writing back has failed since the descriptor was opened.
const SYNCFS_TELLS: [u32; 2] = [5, 8];

/// A directory of a local file system.
pub struct RealDisk {
    root: PathBuf,
    /// Open from the start, so that no error is missed.
    directory: OwnedFd,
}

impl RealDisk {
    /// The directory `root`, which must exist.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory` or what the system said.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        let directory = open_directory(&root)?;
        Ok(Self { root, directory })
    }

    fn at(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Whether a Linux of this release is one of [`SYNCFS_TELLS`] or later.
fn syncfs_tells(release: &str) -> bool {
    let mut numbers = release.split(['.', '-']).map_while(|n| n.parse().ok());
    [numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)] >= SYNCFS_TELLS
}

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(self.at(path))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.at(path);
        let file = match File::options().read(true).write(true).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => File::open(&path)?,
            other => other?,
        };
        Ok(Arc::new(RealFile(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(self.at(from), self.at(to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(self.at(path))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir_all(self.at(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = vec![];
        for entry in std::fs::read_dir(self.at(path))? {
            // a name that is not UTF-8 is none of ours
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.at(path).try_exists()
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(self.at(path))?.sync_all()
    }

    fn sync_all(&self) -> io::Result<bool> {
        let tells = syncfs_tells(&uname().release().to_string_lossy());
        if tells {
            rustix::fs::syncfs(&self.directory)?;
        }
        Ok(tells)
    }

    fn space(&self) -> io::Result<Space> {
        let s = rustix::fs::statvfs(&self.root)?;
        Ok(Space {
            total_bytes: s.f_blocks * s.f_frsize,
            available_bytes: s.f_bavail * s.f_frsize,
        })
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        let directory = open_directory(&self.root)?;
        rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(directory))
    }

    fn display(&self) -> String {
        self.root.display().to_string()
    }
}

struct RealFile(File);

impl DiskFile for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.0.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(buf, offset)
    }

    fn write_both_at(&self, first: &[u8], second: &[u8], offset: u64) -> io::Result<()> {
        let both = [IoSlice::new(first), IoSlice::new(second)];
        let written = match rustix::io::pwritev(&self.0, &both, offset) {
            Err(rustix::io::Errno::INTR) => 0,
            other => other?,
        };
        // cut short, if at all: the rest says why
        let at = offset + written as u64;
        match written.checked_sub(first.len()) {
            None => {
                self.write_at(&first[written..], at)?;
                self.write_at(second, offset + first.len() as u64)
            }
            Some(of_second) => self.write_at(&second[of_second..], at),
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syncfs_is_believed_from_the_release_on_that_tells_of_errors() {
        let (old, new) = (
            ["4.18.0-553.el8", "5.7.19", "5", ""],
            ["5.8.0", "5.10.0-33-amd64", "6.1.0", "10.0"],
        );
        assert!(old.iter().all(|release| !syncfs_tells(release)));
        assert!(new.iter().all(|release| syncfs_tells(release)));
    }
}
