//! The crate as its users see it: YAML in, a snapshot or diagnostics out.

mod support;

mod seed;
