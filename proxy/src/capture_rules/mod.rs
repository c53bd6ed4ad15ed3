//! The rules by which the kernel hands a pod's connections to the sidecar: what `outrigger init` installs, checks and
//! removes.
//!
//! [`options`] is what a user asks for, [`plan`](mod@plan) makes a [`rules::RuleSet`] of it, the one pure function where Istio's
//! order is kept. [`text`] shows a rule set as `nft` would, [`nftables`] encodes it for the kernel, [`routing`] is the
//! policy routing beside it, [`kernel`] carries all three out over [`netlink`], and [`probe`](mod@probe) sends a connection through
//! the rules as an application would. No program is called: the image holds none.
//!
//! Nothing here runs in the sidecar itself, which finds the original destination in `net`.

mod error;
mod kernel;
mod netlink;
mod nftables;
pub(crate) mod options;
mod plan;
mod probe;
mod routing;
mod rules;
mod text;

pub(crate) use error::Error;
pub(crate) use kernel::{Change, apply, verify};
pub(crate) use plan::plan;
pub(crate) use probe::{is_proxy, probe};
