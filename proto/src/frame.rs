//! The data plane's frames: 16 bytes of prefix, a header, then raw payload that no serializer touches.
//!
//! ```text
//! 0  "CRN1"
//! 4  header length in bytes, u32 little-endian
//! 8  payload length in bytes, u32 little-endian
//! 12 CRC32 of bytes 4..12 and of the header, u32 little-endian
//! 16 the header: one prost-encoded `FrameHeader`
//! .. the payload, covered by the checksums that the header carries
//! ```
//!
//! A decoder that meets garbage, an oversize length or the connection's end in the middle of a frame gives an error,
//! after which the connection is of no use, and has taken no more memory than the limits of `cairn_types::limits`.
use crate::data::{FrameHeader, frame_header::Body};
use bytes::{Bytes, BytesMut};
use cairn_types::limits::{FRAME_HEADER_BYTES_MAX, FRAME_PAYLOAD_BYTES_MAX};
use prost::Message;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub const MAGIC: [u8; 4] = *b"CRN1";
pub const PREFIX_BYTES: usize = 16;
/// Bytes that are asked of a connection at once where a frame may begin: a few with a page of payload come together.
pub const FRAME_READ_BYTES: usize = 16 << 10;
/// Longer payloads are not gathered: to copy them costs more than to hand them to the socket by themselves.
const GATHERED_PAYLOAD_BYTES_MAX: usize = 16 << 10;
/// Of frames that are gathered, before they are written.
const GATHERED_BYTES: usize = 64 << 10;
/// Memory that is kept for the next ones.
const GATHERED_BYTES_KEPT: usize = 8 << 10;

#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    pub body: Body,
    pub payload: Bytes,
}

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("not a frame: it begins with {0:02x?}")]
    Magic([u8; 4]),
    #[error("a header of {0} bytes, more than {FRAME_HEADER_BYTES_MAX}")]
    HeaderTooLong(usize),
    #[error("a payload of {0} bytes, more than {FRAME_PAYLOAD_BYTES_MAX}")]
    PayloadTooLong(usize),
    #[error("the frame's header was damaged on its way")]
    Checksum,
    #[error("the frame's header can't be read: {0}")]
    Header(#[from] prost::DecodeError),
    #[error("the frame's header has no body that this version knows")]
    Empty,
    #[error("the connection ended within a frame")]
    Truncated,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What the prefix says of the frame behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    pub header_len: usize,
    pub payload_len: usize,
    crc: u32,
}

impl Prefix {
    pub fn decode(bytes: &[u8; PREFIX_BYTES]) -> Result<Self, FrameError> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let magic = [bytes[0], bytes[1], bytes[2], bytes[3]];
        if magic != MAGIC {
            return Err(FrameError::Magic(magic));
        }
        let (header_len, payload_len) = (word(4) as usize, word(8) as usize);
        if header_len > FRAME_HEADER_BYTES_MAX {
            return Err(FrameError::HeaderTooLong(header_len));
        }
        if payload_len > FRAME_PAYLOAD_BYTES_MAX {
            return Err(FrameError::PayloadTooLong(payload_len));
        }
        Ok(Self {
            header_len,
            payload_len,
            crc: word(12),
        })
    }
}

fn crc_of(lengths: &[u8], header: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(lengths);
    hasher.update(header);
    hasher.finalize()
}

/// Appends prefix and header of a frame with a payload of `payload_len` bytes, which comes behind it.
fn encode_head(body: Body, payload_len: usize, out: &mut BytesMut) {
    let header = FrameHeader { body: Some(body) };
    let header_len = header.encoded_len();
    debug_assert!(header_len <= FRAME_HEADER_BYTES_MAX && payload_len <= FRAME_PAYLOAD_BYTES_MAX);
    out.reserve(PREFIX_BYTES + header_len);
    let start = out.len();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&(header_len as u32).to_le_bytes());
    out.extend_from_slice(&(payload_len as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    // a BytesMut grows: encoding into it cannot fail
    header.encode_raw(out);
    let head = &mut out[start..];
    let crc = crc_of(&head[4..12], &head[PREFIX_BYTES..]);
    head[12..16].copy_from_slice(&crc.to_le_bytes());
}

/// Checks a header against its prefix and decodes it; the body's bytes are parts of it, which keep all of it.
pub fn decode_header(prefix: &Prefix, header: Bytes) -> Result<Body, FrameError> {
    let mut lengths = [0; 8];
    lengths[..4].copy_from_slice(&(prefix.header_len as u32).to_le_bytes());
    lengths[4..].copy_from_slice(&(prefix.payload_len as u32).to_le_bytes());
    if crc_of(&lengths, &header) != prefix.crc {
        return Err(FrameError::Checksum);
    }
    FrameHeader::decode(header)?.body.ok_or(FrameError::Empty)
}

/// Reads one frame; `None` when the connection ended between frames.
pub async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<Frame>, FrameError> {
    let mut prefix = [0; PREFIX_BYTES];
    let mut have = 0;
    while have < PREFIX_BYTES {
        match stream.read(&mut prefix[have..]).await? {
            0 if have == 0 => return Ok(None),
            0 => return Err(FrameError::Truncated),
            n => have += n,
        }
    }
    let prefix = Prefix::decode(&prefix)?;
    let header = read_exactly(stream, prefix.header_len).await?;
    let body = decode_header(&prefix, header)?;
    let payload = read_exactly(stream, prefix.payload_len).await?;
    Ok(Some(Frame { body, payload }))
}

async fn read_exactly(stream: &mut (impl AsyncRead + Unpin), len: usize) -> Result<Bytes, FrameError> {
    let mut bytes = BytesMut::with_capacity(len);
    let mut rest = stream.take(len as u64);
    while bytes.len() < len {
        if rest.read_buf(&mut bytes).await? == 0 {
            return Err(FrameError::Truncated);
        }
    }
    Ok(bytes.freeze())
}

/// Writes one frame; the caller flushes if the stream is buffered.
pub async fn write_frame(stream: &mut (impl AsyncWrite + Unpin), body: Body, payload: &[u8]) -> io::Result<()> {
    let mut head = BytesMut::new();
    encode_head(body, payload.len(), &mut head);
    write_both(stream, &head, payload).await
}

async fn write_both(stream: &mut (impl AsyncWrite + Unpin), head: &[u8], payload: &[u8]) -> io::Result<()> {
    if payload.is_empty() {
        return stream.write_all(head).await;
    }
    if !stream.is_write_vectored() {
        stream.write_all(head).await?;
        return stream.write_all(payload).await;
    }
    let (mut a, mut b) = (head, payload);
    while !a.is_empty() {
        let n = stream
            .write_vectored(&[io::IoSlice::new(a), io::IoSlice::new(b)])
            .await?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        b = &b[n.saturating_sub(a.len())..];
        a = &a[n.min(a.len())..];
    }
    stream.write_all(b).await
}

/// Frames that leave in one write, as far as they are small: for a sender that knows whether another one is ready.
#[derive(Default)]
pub struct Gathered(BytesMut);

impl Gathered {
    /// Behind those that were added before; what is long, or becomes too much, is written.
    pub async fn add(&mut self, stream: &mut (impl AsyncWrite + Unpin), body: Body, payload: &[u8]) -> io::Result<()> {
        encode_head(body, payload.len(), &mut self.0);
        if payload.len() > GATHERED_PAYLOAD_BYTES_MAX {
            write_both(stream, &self.0, payload).await?;
            self.emptied();
            return Ok(());
        }
        self.0.extend_from_slice(payload);
        match self.0.len() < GATHERED_BYTES {
            true => Ok(()),
            false => self.write(stream).await,
        }
    }

    /// Writes what there is; the caller flushes if the stream is buffered. Dropped before its end, the stream is of no use.
    pub async fn write(&mut self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        if !self.0.is_empty() {
            stream.write_all(&self.0).await?;
            self.emptied();
        }
        Ok(())
    }

    /// What there is, and the head of a frame whose payload the caller writes.
    pub fn before(&mut self, body: Body, payload_len: usize) -> Bytes {
        encode_head(body, payload_len, &mut self.0);
        std::mem::take(&mut self.0).freeze()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn emptied(&mut self) {
        self.0.clear();
        if self.0.capacity() > GATHERED_BYTES_KEPT {
            self.0 = BytesMut::new();
        }
    }
}

/// CRC32 of each piece of `payload`, which lies at `offset` of a chunk, cut at block boundaries.
pub fn checksums(offset: u64, payload: &[u8]) -> impl Iterator<Item = u32> {
    cairn_types::layout::block_pieces(offset, payload.len() as u64)
        .map(move |(at, len)| crc32fast::hash(&payload[(at - offset) as usize..][..len as usize]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::Version;
    use crate::data::{Append, AppendMore, Appended, AskRoom, Grant, Hello, Room, Write};
    use cairn_types::layout::BLOCK_SIZE_BYTES;
    use proptest::prelude::*;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    fn block_on<T>(f: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(f)
    }

    fn encoded(body: Body, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![];
        block_on(write_frame(&mut out, body, payload)).unwrap();
        out
    }

    /// Counts what it is asked to write.
    #[derive(Default)]
    struct Counting(Vec<u8>, usize);

    impl AsyncWrite for Counting {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.0.extend_from_slice(bytes);
            self.1 += 1;
            Poll::Ready(Ok(bytes.len()))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn small_frames_leave_in_one_write() {
        let (mut stream, mut gathered) = (Counting::default(), Gathered::default());
        for _ in 0..8 {
            block_on(gathered.add(&mut stream, Body::Write(write()), &[7; 4096])).unwrap();
        }
        assert_eq!(stream.1, 0);
        block_on(gathered.write(&mut stream)).unwrap();
        assert_eq!(stream.1, 1);
        assert_eq!(stream.0, encoded(Body::Write(write()), &[7; 4096]).repeat(8));
        // not for ever
        for _ in 0..100 {
            block_on(gathered.add(&mut stream, Body::Write(write()), &[7; 4096])).unwrap();
        }
        assert!(stream.1 > 4 && gathered.0.len() < GATHERED_BYTES, "{}", stream.1);
    }

    fn write() -> Write {
        Write {
            handle: 7,
            version: Some(Version { epoch: 2, counter: 3 }),
            session: Bytes::from_static(&[1; 16]),
            sequence: 5,
            serial: 6,
            offset: 65_535,
            checksums: checksums(65_535, b"ab").collect(),
            grant: None,
            disk: Bytes::from_static(&[2; 16]),
            epoch: 1,
        }
    }

    /// The bytes on the wire are a promise: a change here is a change of the protocol.
    #[test]
    fn golden_bytes_of_a_frame() {
        let hello = Hello {
            protocol: 1,
            cluster: Bytes::from_static(&[0xaa; 16]),
            peer: Bytes::new(),
        };
        let mut want = b"CRN1\x16\0\0\0\x03\0\0\0".to_vec();
        let mut header = vec![0x0a, 0x14, 0x08, 0x01, 0x12, 0x10];
        header.extend([0xaa; 16]);
        let mut hashed = want[4..12].to_vec();
        hashed.extend(&header);
        want.extend(crc32fast::hash(&hashed).to_le_bytes());
        want.extend(&header);
        want.extend(b"abc");
        let bytes = encoded(Body::Hello(hello), b"abc");
        assert_eq!(bytes, want);
        // and the checksum by a number that Python's zlib computed
        assert_eq!(&bytes[12..16], &GOLDEN_HELLO_CRC.to_le_bytes());
    }
    const GOLDEN_HELLO_CRC: u32 = 0x98ccaf11;

    /// Record append's, behind the frame's prefix: numbers of fields are for ever.
    #[test]
    fn golden_bytes_of_record_appends_headers() {
        let version = Some(Version { epoch: 1, counter: 2 });
        let append = Body::Append(Append {
            handle: 7,
            version,
            session: Bytes::from_static(b"s"),
            number: 3,
            previous: 2,
            length: 5,
            checksum: 0x0102_0304,
            from: 9,
            ..Append::default()
        });
        let ask = Body::AskRoom(AskRoom {
            handle: 7,
            version,
            disk: Bytes::from_static(b"d"),
            session: Bytes::from_static(b"s"),
            bytes: 300,
            grant: Some(Grant {
                inode: 1,
                ..Grant::default()
            }),
            epoch: 8,
        });
        let golden: [(Body, &[u8]); 5] = [
            (
                append,
                b"\x42\x18\x08\x07\x12\x04\x08\x01\x10\x02\x1a\x01s\x20\x03\x28\x02\x30\x05\x3d\x04\x03\x02\x01\x40\x09",
            ),
            (Body::AppendMore(AppendMore::default()), b"\x4a\x00"),
            (ask, b"\x52\x17\x08\x07\x12\x04\x08\x01\x10\x02\x1a\x01d\x22\x01s\x28\xac\x02\x32\x02\x10\x01\x38\x08"),
            (Body::Appended(Appended { serial: 4, offset: 300 }), b"\xa2\x01\x05\x08\x04\x10\xac\x02"),
            (Body::Room(Room { bytes: 300 }), b"\xaa\x01\x03\x08\xac\x02"),
        ];
        for (body, want) in golden {
            let named = format!("{body:?}");
            assert_eq!(&encoded(body, b"")[PREFIX_BYTES..], want, "{named}");
        }
    }

    #[test]
    fn a_frame_comes_back_as_it_was_sent() {
        let mut bytes = encoded(Body::Write(write()), b"ab");
        bytes.extend(encoded(Body::Sync(Default::default()), b""));
        let mut stream = &bytes[..];
        let first = block_on(read_frame(&mut stream)).unwrap().unwrap();
        assert_eq!(
            first,
            Frame {
                body: Body::Write(write()),
                payload: Bytes::from_static(b"ab")
            }
        );
        assert!(matches!(
            block_on(read_frame(&mut stream)).unwrap().unwrap().body,
            Body::Sync(_)
        ));
        assert!(block_on(read_frame(&mut stream)).unwrap().is_none());
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = encoded(Body::Write(write()), b"ab");
        for len in 1..bytes.len() {
            let end = block_on(read_frame(&mut &bytes[..len]));
            assert!(matches!(end, Err(FrameError::Truncated)), "{len}: {end:?}");
        }
    }

    #[test]
    fn oversize_lengths_are_refused_before_memory_is_taken() {
        let mut prefix = [0; PREFIX_BYTES];
        prefix[..4].copy_from_slice(&MAGIC);
        prefix[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(Prefix::decode(&prefix), Err(FrameError::HeaderTooLong(_))));
        prefix[4..8].fill(0);
        prefix[8..12].copy_from_slice(&(FRAME_PAYLOAD_BYTES_MAX as u32 + 1).to_le_bytes());
        assert!(matches!(Prefix::decode(&prefix), Err(FrameError::PayloadTooLong(_))));
    }

    #[test]
    fn the_largest_headers_fit() {
        let table = crate::data::Failed {
            bad_blocks: (0..1024).map(|b| b + 1).collect(),
            ..Default::default()
        };
        let longest = Write {
            checksums: vec![u32::MAX; 17],
            ..write()
        };
        for body in [Body::Failed(table), Body::Write(longest)] {
            assert!(FrameHeader { body: Some(body) }.encoded_len() <= FRAME_HEADER_BYTES_MAX);
        }
    }

    proptest! {
        #[test]
        fn gathered_frames_are_those_that_were_added(
            lens in prop::collection::vec(prop_oneof![0usize..300, 4000usize..70_000], 1..12),
            rest in prop::option::of(1usize..1000),
        ) {
            let (mut out, mut want, mut gathered) = (vec![], vec![], Gathered::default());
            for len in lens {
                let payload = vec![len as u8; len];
                block_on(gathered.add(&mut out, Body::Write(write()), &payload)).unwrap();
                want.extend(encoded(Body::Write(write()), &payload));
                prop_assert!(want.starts_with(&out));
            }
            if let Some(len) = rest {
                out.extend(gathered.before(Body::Write(write()), len));
                out.extend(vec![1; len]);
                want.extend(encoded(Body::Write(write()), &vec![1; len]));
            }
            block_on(gathered.write(&mut out)).unwrap();
            prop_assert!(gathered.0.is_empty() && out == want);
        }

        #[test]
        fn garbage_is_an_error_or_a_frame_and_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), keep in any::<bool>()) {
            let mut bytes = bytes;
            if keep && bytes.len() > 4 {
                bytes[..4].copy_from_slice(&MAGIC);
            }
            let _ = block_on(read_frame(&mut &bytes[..]));
        }

        #[test]
        fn a_flipped_bit_in_prefix_or_header_is_noticed(bit in 0usize..(8 * 60)) {
            let mut bytes = encoded(Body::Write(write()), b"ab");
            prop_assume!(bit / 8 < bytes.len() - 2);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(block_on(read_frame(&mut &bytes[..])).is_err());
        }

        #[test]
        fn checksums_are_one_a_block(offset in 0u64..200_000, len in 0usize..300_000) {
            let payload = vec![1; len];
            let sums: Vec<u32> = checksums(offset, &payload).collect();
            let blocks = if len == 0 { 0 } else { (offset + len as u64 - 1) / BLOCK_SIZE_BYTES - offset / BLOCK_SIZE_BYTES + 1 };
            prop_assert_eq!(sums.len() as u64, blocks);
        }
    }
}
