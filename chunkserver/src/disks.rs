//! The server's disks: opened at start, formatted once the master has told whose they are, and their state reported.
use crate::control::wire;
use crate::shared::Core;
use crate::store::{DiskOptions, DiskState, DiskStore, Identity, OpenError, Stamp, Store, StoreError};
use bytes::Bytes;
use cairn_io::{Disk, Env};
use cairn_proto::chunkserver::{Disk as DiskReport, DiskState as Reported};
use cairn_types::{ClusterId, DiskId, ServerId, Version};
use std::path::PathBuf;
use std::sync::Arc;

/// Disks that have no stamp yet, in the order that they were given in.
pub struct Disks {
    blank: Vec<Blank>,
    reserve_permille: u32,
    open_files_max: usize,
}

struct Blank {
    disk: Arc<dyn Disk>,
    index_path: Option<PathBuf>,
}

/// What the stamps said.
pub struct Opened {
    pub disks: Disks,
    pub store: Store,
    pub server: ServerId,
    pub cluster: Option<ClusterId>,
}

impl Disks {
    /// Opens what is formatted; all of it must be of one server and one cluster.
    ///
    /// # Errors
    /// See [`OpenError`]: it names the disk, and where two disagree both.
    pub async fn open(
        disks: Vec<(Arc<dyn Disk>, Option<PathBuf>)>,
        reserve_permille: u32,
        open_files_max: usize,
        env: &Env,
    ) -> Result<Opened, OpenError> {
        let mut this = Self {
            blank: vec![],
            reserve_permille,
            open_files_max,
        };
        let mut expected = Identity::default();
        let (mut stores, count, mut last_error) = (vec![], disks.len(), None);
        for (disk, real_path) in disks {
            let index_path = real_path.map(|path| path.join(INDEX_DIR));
            let options = this.options(index_path.clone());
            let (device, clock, identity) = (disk.clone(), env.clock.clone(), expected.clone());
            let open = move || match Stamp::read(&*device)? {
                Some(_) => DiskStore::open(device, clock, &identity, options).map(Some),
                None => Ok(None),
            };
            let opened = match env.blocking.run(open).await {
                // the others serve without it; the master sees that it is missing
                Err(e @ OpenError::Io { .. }) if count > 1 => {
                    tracing::error!("a disk is left out: {e}");
                    last_error = Some(e);
                    continue;
                }
                other => other?,
            };
            match opened {
                Some(store) => {
                    let stamp = store.stamp();
                    if expected.cluster.is_none() {
                        expected = Identity {
                            cluster: Some(stamp.cluster),
                            server: Some(stamp.server),
                            told_by: store.path(),
                        };
                    }
                    stores.push(store);
                }
                None => this.blank.push(Blank { disk, index_path }),
            }
        }
        if let Some(e) = last_error.filter(|_| stores.is_empty() && this.blank.is_empty()) {
            return Err(e);
        }
        Ok(Opened {
            disks: this,
            store: Store::new(stores),
            server: expected
                .server
                .unwrap_or_else(|| ServerId::from_bits(env.rng.bits128())),
            cluster: expected.cluster,
        })
    }

    fn options(&self, index_path: Option<PathBuf>) -> DiskOptions {
        DiskOptions {
            reserve_permille: self.reserve_permille,
            open_files_max: self.open_files_max,
            index_path,
            ..DiskOptions::default()
        }
    }

    pub fn paths(&self, store: &Store) -> String {
        let formatted = store.disks().into_iter().map(|d| d.path());
        let paths: Vec<_> = formatted.chain(self.blank.iter().map(|b| b.disk.display())).collect();
        paths.join(", ")
    }

    /// What the master is told of each disk; the blank ones last, in their order.
    pub async fn report(&self, core: &Core) -> Vec<DiskReport> {
        let disks = core.store.disks();
        let blank: Vec<_> = self.blank.iter().map(|b| b.disk.clone()).collect();
        let disks: Vec<_> = disks.into_iter().map(|d| (core.reports.errors(d.id()), d)).collect();
        let report = move || {
            let formatted = disks.iter().map(|(errors, disk)| of_disk(disk, *errors));
            formatted.chain(blank.iter().map(|disk| of_blank(&**disk))).collect()
        };
        core.env.blocking.run(report).await
    }

    /// Stamps the blank disks with the ids that the master has drawn, in their order, and takes them into service.
    ///
    /// # Errors
    /// Of the first that can't be; those after it stay blank.
    pub async fn format(&mut self, core: &Core, cluster: ClusterId, ids: Vec<DiskId>) -> Result<(), OpenError> {
        for id in ids {
            if self.blank.is_empty() {
                break;
            }
            let Blank { disk, index_path } = self.blank.remove(0);
            let stamp = Stamp {
                cluster,
                server: core.server,
                disk: id,
                created: core.env.clock.wall(),
            };
            let expected = Identity {
                cluster: Some(cluster),
                server: Some(core.server),
                told_by: core.config.master.clone(),
            };
            let options = self.options(index_path.clone());
            let (device, clock) = (disk.clone(), core.env.clock.clone());
            let format = move || {
                DiskStore::format(&*device, &stamp)?;
                DiskStore::open(device, clock, &expected, options)
            };
            match core.env.blocking.run(format).await {
                Ok(store) => {
                    tracing::info!(disk = %id, path = store.path(), "disk formatted");
                    core.store.add(store);
                }
                Err(e) => {
                    self.blank.insert(0, Blank { disk, index_path });
                    return Err(e);
                }
            }
        }
        Ok(())
    }

    /// Raises the floors of disks that lost power, to the highest version drawn (R10).
    ///
    /// # Errors
    /// None of a single disk: one that cannot be written takes no chunks.
    pub async fn settle_unclean(&self, core: &Core, drawn: Version) -> Result<(), StoreError> {
        for disk in core.store.disks().into_iter().filter(DiskStore::unclean_start) {
            let id = disk.id();
            let settled = core.env.blocking.run(move || disk.settle_unclean_start(drawn)).await;
            match settled {
                Ok(()) => tracing::info!(disk = %id, floor = %drawn, "unclean start: floor raised"),
                Err(e) => tracing::error!(disk = %id, "the floor cannot be raised, no chunk is created there: {e}"),
            }
        }
        Ok(())
    }
}

/// The index's directory below a disk's own.
const INDEX_DIR: &str = "index";

fn of_disk(disk: &DiskStore, errors: u64) -> DiskReport {
    let space = disk.space().unwrap_or_default();
    let state = match disk.state() {
        DiskState::Failed | DiskState::Closed => Reported::DiskFailed,
        DiskState::ReadOnly => Reported::DiskReadOnly,
        DiskState::Healthy if space.available_bytes == 0 => Reported::DiskFull,
        DiskState::Healthy => Reported::DiskOk,
    };
    DiskReport {
        disk: wire(disk.id()),
        state: state.into(),
        total_bytes: space.total_bytes,
        available_bytes: space.available_bytes,
        chunks: disk.chunk_count() as u64,
        path: disk.path(),
        floor: Some(disk.floor().into()),
        errors,
        unclean: disk.unclean_start(),
    }
}

fn of_blank(disk: &dyn Disk) -> DiskReport {
    let space = disk.space().unwrap_or_default();
    DiskReport {
        disk: Bytes::new(),
        state: Reported::DiskOk.into(),
        total_bytes: space.total_bytes,
        available_bytes: space.available_bytes,
        path: disk.display(),
        ..DiskReport::default()
    }
}
