//! Endpoints that are host names (Istio `ServiceEntry.resolution: DNS`): asked for by their time to live on the
//! control thread, never by a request.

mod lookup;
mod names;

pub(crate) use lookup::Lookup;
pub(crate) use names::{Answer, Names};
