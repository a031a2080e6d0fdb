//! Requests as values: made by [`Client`](crate::Client), refined by their methods, carried out by `.await`.

mod delete_range;
mod get;
mod into_bytes;
mod read_mode;
mod write;

pub use delete_range::{DeleteRange, DeleteRangeError, Deletions};
pub use get::{BatchGet, Found, Get, GetServed};
pub use into_bytes::IntoBytes;
pub(crate) use read_mode::{ReadMode, as_of};
pub use write::{Conditional, Delete, DeleteIf, DeleteResult, Put, PutIf, PutResult};
pub(crate) use write::{millis, write};
