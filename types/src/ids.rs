//! Newtypes for every id, so that none can stand where another is meant.
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// An id that came over a wire or from a user and is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is not a valid {kind}")]
pub struct InvalidId {
    pub kind: &'static str,
    pub what: String,
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub Uuid);

        impl $name {
            /// The id whose 128 bits are `bits`: callers draw them from their `Rng`.
            pub fn from_bits(bits: u128) -> Self {
                Self(uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid())
            }
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
            pub fn to_vec(self) -> Vec<u8> {
                self.0.as_bytes().to_vec()
            }
        }
        impl TryFrom<&[u8]> for $name {
            type Error = InvalidId;
            fn try_from(bytes: &[u8]) -> Result<Self, InvalidId> {
                let what = || InvalidId { kind: $kind, what: format!("{} bytes", bytes.len()) };
                Uuid::from_slice(bytes).map(Self).map_err(|_| what())
            }
        }
        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(s: &str) -> Result<Self, InvalidId> {
                Uuid::parse_str(s).map(Self).map_err(|_| InvalidId { kind: $kind, what: format!("{s:?}") })
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

uuid_id!(
    /// One cluster; a disk or a server of another cluster is refused.
    ClusterId, "cluster id");
uuid_id!(
    /// A chunkserver, by the id that it keeps on its disks, wherever its address moves.
    ServerId, "server id");
uuid_id!(
    /// One disk of a chunkserver, by the id stamped on it when it was formatted. A disk that came back empty is
    /// another disk.
    DiskId, "disk id");
uuid_id!(
    /// One client's conversation with the master: a mount or a command, from its start to its end, across
    /// reconnections.
    SessionId, "session id");

number_id!(
    /// A file, directory or symbolic link. 1 is the root directory; 0 is none. Never reused.
    Inode);
number_id!(
    /// The number of a call within a session, or of a mutation within (session, chunk): 1, 2, 3, ...
    Sequence);
number_id!(
    /// The place of a mutation in the order that the primary gave to a chunk's mutations, from 1 at each install.
    Serial);

impl Inode {
    pub const ROOT: Inode = Inode(1);
}

/// A chunk, for ever: handles are drawn from the operation log and never reused. Printed as 16 hex digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChunkHandle(pub u64);

impl fmt::Display for ChunkHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
impl fmt::Debug for ChunkHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChunkHandle({self})")
    }
}
impl FromStr for ChunkHandle {
    type Err = InvalidId;
    fn from_str(s: &str) -> Result<Self, InvalidId> {
        u64::from_str_radix(s, 16).map(Self).map_err(|_| InvalidId {
            kind: "chunk handle",
            what: format!("{s:?}"),
        })
    }
}

macro_rules! drawn {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name {
            /// Log index of the epoch record that the drawing master's start (or a leader's term) began with.
            pub epoch: u64,
            /// Counted from 1 within the epoch.
            pub counter: u64,
        }
        impl $name {
            /// Below everything that is ever drawn.
            pub const ZERO: Self = Self { epoch: 0, counter: 0 };
            pub const fn new(epoch: u64, counter: u64) -> Self {
                Self { epoch, counter }
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}.{}", self.epoch, self.counter)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({}.{})", stringify!($name), self.epoch, self.counter)
            }
        }
    };
}

drawn!(
    /// A chunk's version: drawn by the master for every change of the chunk's members, primary or shape. No two
    /// drawings are ever the same and all have one order (protocol R2).
    Version);
drawn!(
    /// One conversation between a chunkserver and the master (protocol R7): orders carry it, and those of an
    /// earlier one are ignored.
    Registration);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_order_by_epoch_then_counter() {
        assert!(Version::new(1, 9) < Version::new(2, 1));
        assert!(Version::new(2, 1) < Version::new(2, 2));
        assert!(Version::ZERO < Version::new(0, 1));
    }

    #[test]
    fn ids_survive_their_text() {
        let id = DiskId::from_bits(42);
        assert_eq!(id.to_string().parse::<DiskId>(), Ok(id));
        let handle = ChunkHandle(0xabc);
        assert_eq!(handle.to_string(), "0000000000000abc");
        assert_eq!(handle.to_string().parse::<ChunkHandle>(), Ok(handle));
        assert!("xyz".parse::<ChunkHandle>().is_err());
        assert!(DiskId::try_from(&[0u8; 3][..]).is_err());
    }
}
