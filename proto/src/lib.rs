//! The contract between clients, master and chunkservers: generated messages and services (`proto/cairn/*.proto`),
//! the data plane's frame codec, the bytes of records, and the way between wire and typed ids.
mod convert;
pub mod frame;
pub mod record;

pub use convert::{Malformed, required};

/// Generated code: its style is not ours.
#[allow(clippy::all, clippy::pedantic, clippy::disallowed_types, missing_docs)]
mod generated {
    pub mod common {
        include!(concat!(env!("OUT_DIR"), "/cairn.rs"));
        pub mod data {
            include!(concat!(env!("OUT_DIR"), "/cairn.data.rs"));
        }
        pub mod session {
            include!(concat!(env!("OUT_DIR"), "/cairn.session.rs"));
        }
        pub mod chunkserver {
            include!(concat!(env!("OUT_DIR"), "/cairn.chunkserver.rs"));
        }
        pub mod admin {
            include!(concat!(env!("OUT_DIR"), "/cairn.admin.rs"));
        }
    }
}

pub use generated::common;
pub use generated::common::{admin, chunkserver, data, session};

/// What both ends of every conversation say first; another number is refused with both named.
pub const PROTOCOL: u32 = 1;
