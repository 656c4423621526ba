use crate::port::Port;
use anyhow::Result;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const POLL: Duration = Duration::from_millis(10);

/// A stretch of network between two processes: put it between by giving one the proxy's address for the other's.
pub struct Proxy {
    port: Port,
    shared: Arc<Shared>,
}

struct Shared {
    target: SocketAddr,
    /// Bytes wait, in both directions, and connections are taken but not passed on: a cable that was pulled.
    cut: AtomicBool,
    delay_ms: AtomicU64,
    ended: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// Passes on to `target`, until dropped.
    pub fn start(target: SocketAddr) -> Result<Self> {
        let port = Port::take()?;
        let listener = TcpListener::bind(port.address())?;
        let shared = Arc::new(Shared {
            target,
            cut: AtomicBool::new(false),
            delay_ms: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            connections: Mutex::default(),
        });
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if accepting.ended() {
                    return;
                }
                let shared = accepting.clone();
                std::thread::spawn(move || shared.connect(stream));
            }
        });
        Ok(Self { port, shared })
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Nothing passes any more; nobody is told. [`Proxy::mend`] lets what waited go on.
    pub fn cut(&self) {
        self.shared.cut.store(true, Ordering::SeqCst);
    }

    pub fn mend(&self) {
        self.shared.cut.store(false, Ordering::SeqCst);
    }

    /// Each piece of a stream is held for so long.
    pub fn delay(&self, d: Duration) {
        self.shared.delay_ms.store(d.as_millis() as u64, Ordering::SeqCst);
    }

    /// Every connection ends at once, as when a machine dies.
    pub fn reset(&self) {
        self.shared.reset();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.shared.reset();
        // wakes the one who accepts; without it there is nothing left to end
        let _ = TcpStream::connect(self.address());
    }
}

impl Shared {
    fn ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    fn reset(&self) {
        for stream in self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
        {
            // one that is closed already is as wanted
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn connect(self: Arc<Self>, near: TcpStream) {
        self.wait();
        let Ok(far) = TcpStream::connect(self.target) else {
            return;
        };
        let pairs = [(&near, &far), (&far, &near)].map(|(a, b)| Some((a.try_clone().ok()?, b.try_clone().ok()?)));
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend([near, far]);
        for (from, to) in pairs.into_iter().flatten() {
            let shared = self.clone();
            std::thread::spawn(move || shared.pump(from, to));
        }
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buf = vec![0; 64 << 10];
        // an error or the end of one side ends the other
        while let Ok(n @ 1..) = from.read(&mut buf) {
            self.wait();
            if to.write_all(&buf[..n]).is_err() {
                break;
            }
        }
        self.wait();
        let _ = to.shutdown(Shutdown::Write);
    }

    fn wait(&self) {
        std::thread::sleep(Duration::from_millis(self.delay_ms.load(Ordering::SeqCst)));
        while self.cut.load(Ordering::SeqCst) && !self.ended() {
            std::thread::sleep(POLL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_cut_holds_bytes_and_a_reset_ends_connections() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy::start(server.local_addr().unwrap()).unwrap();
        let mut near = TcpStream::connect(proxy.address()).unwrap();
        near.write_all(b"a").unwrap();
        let (mut far, _) = server.accept().unwrap();
        let mut byte = [0];
        far.read_exact(&mut byte).unwrap();
        proxy.cut();
        near.write_all(b"b").unwrap();
        far.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert!(far.read_exact(&mut byte).is_err());
        proxy.delay(Duration::from_millis(50));
        proxy.mend();
        far.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        far.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"b");
        let start = Instant::now();
        far.write_all(b"c").unwrap();
        near.read_exact(&mut byte).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(50));
        proxy.reset();
        assert_eq!(near.read(&mut byte).unwrap_or(0), 0);
    }
}
