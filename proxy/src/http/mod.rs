//! The request path.

pub(crate) mod body;
mod format;
mod headers;
mod limits;
mod reply;
mod request_id;
pub mod trace;
