//! OTLP messages as bytes: one table of the schema, and three readers that follow it.
//!
//! Nothing here builds a tree of messages. `walk` checks and counts protobuf in place, `from_json` turns
//! OTLP/JSON into protobuf, `to_json` turns protobuf into OTLP/JSON.

mod from_json;
mod json_scalar;
mod schema;
mod to_json;
mod walk;
mod wire;

pub use from_json::{BadJson, from_json};
pub use to_json::to_json;
pub use walk::{MAX_DEPTH, Malformed, walk};
