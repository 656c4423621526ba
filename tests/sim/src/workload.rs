//! What clients do while faults happen, and how it is judged.
use crate::{Cluster, FileModel};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use cairn_client::{Client, Create, File, OpenMode};
use cairn_io::Env;
use cairn_types::Inode;
use cairn_types::limits::BELIEVED_FOR;
use rand::Rng;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

const ENOENT: i32 = 2;
const FILE_BYTES_MAX: usize = 200_000;
const WRITE_BYTES_MAX: usize = 40_000;

/// The histories of all files, by name.
#[derive(Clone, Default)]
pub struct Files(Rc<RefCell<BTreeMap<String, FileModel>>>);

impl Files {
    /// A copy that no longer changes.
    pub fn frozen(&self) -> Files {
        Files(Rc::new(RefCell::new(self.0.borrow().clone())))
    }

    pub fn history(&self, name: &str) -> FileModel {
        self.0.borrow().get(name).cloned().unwrap_or_default()
    }

    /// fsyncs that promised something.
    pub fn promised(&self) -> usize {
        self.0.borrow().values().filter(|file| file.must_exist).count()
    }

    fn change<T>(&self, name: &str, change: impl FnOnce(&mut FileModel) -> T) -> T {
        change(self.0.borrow_mut().entry(name.to_owned()).or_default())
    }

    /// Writes at random places of the file, with an fsync now and then, until something fails.
    pub async fn write(&self, env: Env, name: &str) -> Result<()> {
        let client = Cluster::client(&env).await?;
        let file = self.create(&client, name).await?;
        loop {
            self.write_round(&env, name, &file).await?;
        }
    }

    pub async fn create(&self, client: &Client, name: &str) -> Result<File> {
        let create = Create {
            mode: 0o644,
            ..Create::default()
        };
        let (_, _, file) = client
            .create(Inode::ROOT, name.as_bytes(), create)
            .await
            .context("create")?;
        Ok(file)
    }

    /// A file that was closed empty and opened again, to be cut or not; true: without asking the master.
    pub async fn create_and_reopen(&self, client: &Client, name: &str, truncate: bool) -> Result<(File, bool)> {
        let file = self.create(client, name).await?;
        let ino = file.inode();
        file.close().await.context("close")?;
        let mode = OpenMode {
            truncate,
            ..OpenMode::READ_WRITE
        };
        match client.open_known(ino, mode, BELIEVED_FOR) {
            Some(file) => Ok((file, true)),
            None => Ok((client.open(ino, mode).await.context("open")?, false)),
        }
    }

    /// A few writes, and an fsync that promises them.
    pub async fn write_round(&self, env: &Env, name: &str, file: &File) -> Result<()> {
        let mut rng = env.rng.fork();
        for _ in 0..rng.random_range(1..5) {
            let offset = rng.random_range(0..FILE_BYTES_MAX);
            let mut bytes = vec![0; rng.random_range(1..WRITE_BYTES_MAX)];
            rng.fill(&mut bytes[..]);
            let bytes = Bytes::from(bytes);
            self.change(name, |history| history.write(offset, bytes.clone()));
            if let Err(e) = file.write_at(offset as u64, bytes).await {
                self.change(name, FileModel::fail);
                return Err(e).context("write");
            }
        }
        let covered = self.change(name, |history| history.written());
        match file.fsync().await {
            Ok(()) => self.change(name, |history| history.promise(covered)),
            Err(e) => {
                self.change(name, FileModel::fail);
                return Err(e).context("fsync");
            }
        }
        Ok(())
    }

    /// Reads every file and compares it with what fsync promised; others may be writing meanwhile.
    pub async fn check(&self, env: Env) -> Result<()> {
        let client = Cluster::client(&env).await?;
        let names: Vec<String> = self.0.borrow().keys().cloned().collect();
        for name in names {
            let before = self.history(&name);
            let attr = match client.lookup(Inode::ROOT, name.as_bytes()).await {
                Ok(attr) => attr,
                Err(e) if e.errno() == ENOENT => {
                    ensure!(!before.must_exist, "{name} is gone: {e}");
                    continue;
                }
                Err(e) => return Err(e).context(name),
            };
            let file = client
                .open(attr.ino, OpenMode::READ)
                .await
                .with_context(|| name.clone())?;
            let mut found = vec![];
            loop {
                let piece = file
                    .read_at(found.len() as u64, 1 << 20)
                    .await
                    .with_context(|| name.clone())?;
                if piece.is_empty() {
                    break;
                }
                found.extend_from_slice(&piece);
            }
            file.close().await?;
            let allowed = before.until(&self.history(&name));
            allowed
                .check(&found)
                .with_context(|| format!("{name}, {} bytes", found.len()))?;
        }
        client.shutdown().await?;
        Ok(())
    }
}
