use anyhow::{Context, Result, bail};
use rand::Rng;
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Below the range that the kernel takes for outgoing connections, so that nobody takes it while a server is down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const TRIES: usize = 500;

/// A port of 127.0.0.1 that no other test on this machine uses while the value lives.
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    pub fn take() -> Result<Self> {
        let directory = std::env::temp_dir().join("cairn-testkit-ports");
        std::fs::create_dir_all(&directory)?;
        for _ in 0..TRIES {
            let number = rand::rng().random_range(PORTS);
            let path = directory.join(number.to_string());
            let lock = File::create(&path).with_context(|| path.display().to_string())?;
            let free = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
            if free && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Ok(Self { number, _lock: lock });
            }
        }
        bail!("no free port in {PORTS:?}")
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }
}
