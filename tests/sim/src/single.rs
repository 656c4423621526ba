//! The simplest thing to look at: one file of one chunk, all of one byte.
use crate::Cluster;
use anyhow::{Result, ensure};
use bytes::Bytes;
use cairn_client::{Client, Create, File, OpenMode};
use cairn_io::Env;
use cairn_types::Inode;

const NAME: &[u8] = b"file";
/// Two blocks, the second not whole.
pub const LENGTH: usize = 100_000;

pub fn filled(with: u8) -> Bytes {
    vec![with; LENGTH].into()
}

/// Opens it for reading and writing; creates it if it is not there.
pub async fn create(client: &Client) -> Result<File> {
    let create = Create {
        mode: 0o644,
        ..Create::default()
    };
    let (_, _, file) = client.create(Inode::ROOT, NAME, create).await?;
    Ok(file)
}

pub async fn open(client: &Client) -> Result<File> {
    let attr = client.lookup(Inode::ROOT, NAME).await?;
    Ok(client.open(attr.ino, OpenMode::READ).await?)
}

pub async fn unlink(env: Env) -> Result<()> {
    let client = Cluster::client(&env).await?;
    client.unlink(Inode::ROOT, NAME).await?;
    Ok(client.shutdown().await?)
}

/// Written, synced and closed.
pub async fn write(env: Env, with: u8) -> Result<()> {
    let client = Cluster::client(&env).await?;
    let file = create(&client).await?;
    file.write_at(0, filled(with)).await?;
    file.fsync().await?;
    file.close().await?;
    Ok(client.shutdown().await?)
}

/// Fails unless all of it is `with`.
pub async fn expect(env: Env, with: u8) -> Result<()> {
    let client = Cluster::client(&env).await?;
    let file = open(&client).await?;
    let found = file.read_at(0, LENGTH).await?;
    ensure!(
        found == filled(with),
        "{} bytes, {:?} first",
        found.len(),
        found.first()
    );
    file.close().await?;
    Ok(client.shutdown().await?)
}
