use crate::net::copy_file;
use crate::{Blocking, BoxReader, BoxStream, BoxWriter, FileRange, Habit, Listener, Net, Stream, Writer};
use async_trait::async_trait;
use bytes::{Buf, Bytes};
use rustix::net::SendFlags;
use std::io;
use std::net::SocketAddr;
use tokio::io::Interest;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};

/// What is behind the end of a file.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

pub struct RealNet;

#[async_trait]
impl Net for RealNet {
    async fn bind(&self, address: SocketAddr) -> io::Result<Box<dyn Listener>> {
        Ok(Box::new(RealListener(TcpListener::bind(address).await?)))
    }

    async fn connect(&self, address: &str) -> io::Result<BoxStream> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }
}

struct RealListener(TcpListener);

#[async_trait]
impl Listener for RealListener {
    async fn accept(&self) -> io::Result<(BoxStream, SocketAddr)> {
        let (stream, peer) = self.0.accept().await?;
        stream.set_nodelay(true)?;
        Ok((Box::new(stream), peer))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl Stream for TcpStream {
    fn halves(self: Box<Self>) -> (BoxReader, BoxWriter) {
        let (reader, writer) = self.into_split();
        (Box::new(reader), Box::new(writer))
    }
}

#[async_trait]
impl Writer for OwnedWriteHalf {
    /// By sendfile(2), from the page cache.
    async fn send_file(
        mut self: Box<Self>,
        blocking: Blocking,
        habit: &Habit,
        mut head: Bytes,
        mut range: FileRange,
    ) -> io::Result<BoxWriter> {
        loop {
            let step = move || {
                let all = send_some((*self).as_ref(), &mut head, &mut range);
                (self, head, range, all)
            };
            let all;
            (self, head, range, all) = blocking.run_brief(habit, step).await;
            match all {
                Ok(true) => return Ok(self),
                Ok(false) => self.writable().await?,
                // no file of the system's, or of a file system that cannot do this
                Err(e) if matches!(e.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput) => {
                    copy_file(&mut self, blocking, habit, head, range).await?;
                    return Ok(self);
                }
                Err(e) => return Err(e),
            }
        }
    }
}

/// As much as the socket takes now; true: all of it.
fn send_some(socket: &TcpStream, head: &mut Bytes, range: &mut FileRange) -> io::Result<bool> {
    let FileRange { file, offset, len } = range;
    let file = file.descriptor().ok_or(io::ErrorKind::Unsupported)?;
    while !head.is_empty() || *len > 0 {
        let sent = socket.try_io(Interest::WRITABLE, || {
            if !head.is_empty() {
                let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
                head.advance(rustix::net::send(socket, head, flags)?);
                return Ok(());
            }
            let sent = match rustix::fs::sendfile(socket, file, Some(offset), *len)? {
                // behind the file's end
                0 => rustix::net::send(socket, &ZEROS[..ZEROS.len().min(*len)], SendFlags::NOSIGNAL)?,
                sent => sent,
            };
            *len -= sent;
            Ok(())
        });
        match sent {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{SimDisk, Trace};
    use crate::{Disk, RealDisk};
    use std::path::Path;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// More than the kernel keeps for two sockets.
    const LEN: usize = 24 << 20;
    const BEHIND_THE_END: usize = 100_000;

    fn file_on(disk: &dyn Disk) -> (FileRange, Vec<u8>) {
        let bytes: Vec<u8> = (0..LEN as u32).map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8).collect();
        let file = disk.create(Path::new("file")).unwrap();
        file.write_at(&bytes, 7).unwrap();
        let len = LEN + BEHIND_THE_END;
        (FileRange { file, offset: 7, len }, bytes)
    }

    async fn connected() -> (BoxStream, BoxStream) {
        let listener = RealNet.bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (one, other) = tokio::join!(RealNet.connect(&address), listener.accept());
        (one.unwrap(), other.unwrap().0)
    }

    #[tokio::test]
    async fn a_file_is_sent_behind_its_head_and_zeros_behind_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let real = RealDisk::open(dir.path()).unwrap();
        let simulated = SimDisk::new("disk", Trace::new());
        for disk in [&real as &dyn Disk, &simulated.mount()] {
            let (range, bytes) = file_on(disk);
            let (sender, mut receiver) = connected().await;
            let (_reader, writer) = sender.halves();
            let send = async {
                let head = Bytes::from_static(b"head");
                let habit = Habit::default();
                let mut writer = writer.send_file(Blocking::Threads, &habit, head, range).await.unwrap();
                // it goes on as before
                writer.write_all(b"tail").await.unwrap();
                writer.shutdown().await.unwrap();
            };
            let mut got = Vec::new();
            let (_, read) = tokio::join!(send, receiver.read_to_end(&mut got));
            assert_eq!(read.unwrap(), 4 + LEN + BEHIND_THE_END + 4);
            assert!(got.starts_with(b"head") && got.ends_with(b"tail"));
            assert!(got[4..][..LEN] == bytes);
            assert!(got[4 + LEN..][..BEHIND_THE_END].iter().all(|byte| *byte == 0));
        }
    }

    #[tokio::test]
    async fn a_peer_that_goes_away_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let (range, _) = file_on(&RealDisk::open(dir.path()).unwrap());
        let (sender, mut receiver) = connected().await;
        let (_reader, writer) = sender.halves();
        let habit = Habit::default();
        let send = writer.send_file(Blocking::Threads, &habit, Bytes::new(), range);
        let leave = async move { receiver.read_exact(&mut [0; 1000]).await.map(|_| drop(receiver)) };
        let (sent, left) = tokio::join!(send, leave);
        left.unwrap();
        let kind = sent.err().expect("nobody has it").kind();
        assert!(
            matches!(kind, io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe),
            "{kind}"
        );
    }
}
