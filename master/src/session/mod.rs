//! Clients: sessions, their calls, and what is pushed to them.
mod calls;
mod cut;
mod place;
mod queries;
mod service;
mod table;
mod wire;

pub use calls::{CallId, PendingCall};
pub use service::SessionService;
pub use table::{Barrier, Sessions};
pub use wire::Refusal;
