//! Between the wire's messages and typed ids.
use crate::common;
use bytes::Bytes;
use cairn_types::{ClusterId, DiskId, InvalidId, Registration, ServerId, SessionId, Version};

/// A message that lacks what it must have, or has it wrong: a defect or an attack of the sender.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("field {0} is missing")]
    Missing(&'static str),
    #[error(transparent)]
    Id(#[from] InvalidId),
    #[error("field {0} is out of range")]
    Range(&'static str),
}

/// The field's value, or which one is missing.
pub fn required<T>(value: Option<T>, field: &'static str) -> Result<T, Malformed> {
    value.ok_or(Malformed::Missing(field))
}

macro_rules! drawn {
    ($name:ident) => {
        impl From<$name> for common::$name {
            fn from(v: $name) -> Self {
                Self {
                    epoch: v.epoch,
                    counter: v.counter,
                }
            }
        }
        impl From<common::$name> for $name {
            fn from(v: common::$name) -> Self {
                Self {
                    epoch: v.epoch,
                    counter: v.counter,
                }
            }
        }
    };
}
drawn!(Version);
drawn!(Registration);

/// The 16 bytes of an id, for a message's field.
pub trait ToWire {
    fn to_wire(&self) -> Bytes;
}
macro_rules! to_wire {
    ($($name:ident)*) => {$(
        impl ToWire for $name {
            fn to_wire(&self) -> Bytes {
                Bytes::copy_from_slice(self.as_bytes())
            }
        }
    )*};
}
to_wire!(ClusterId DiskId ServerId SessionId);

impl common::Member {
    pub fn new(server: ServerId, disk: DiskId, address: impl Into<String>) -> Self {
        Self {
            server: server.to_wire(),
            disk: disk.to_wire(),
            address: address.into(),
        }
    }
    pub fn server_id(&self) -> Result<ServerId, Malformed> {
        Ok(ServerId::try_from(&self.server[..])?)
    }
    pub fn disk_id(&self) -> Result<DiskId, Malformed> {
        Ok(DiskId::try_from(&self.disk[..])?)
    }
}

impl common::Error {
    pub fn new(code: common::ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            errno: 0,
            message: message.into(),
        }
    }
    /// A POSIX error of the namespace; `errno` by Linux's numbers.
    pub fn posix(errno: i32, message: impl Into<String>) -> Self {
        Self {
            code: common::ErrorCode::ErrorPosix.into(),
            errno,
            message: message.into(),
        }
    }
}
