//! Traps: what loads, does what it says, and seldom does what was meant. They look at resources as they are written;
//! what depends on the registry is found by `compile::references`, and `shadow` waits for the rules of delegates.

mod cover;
mod hash;
mod prefix;
mod retries;
mod shadow;

pub(crate) use shadow::shadow;

use crate::{resources::Resources, sink::Sink};

/// Reports the traps in everything that was read.
pub(crate) fn lint(resources: &Resources, sink: &mut Sink) {
    for rule in resources.virtual_services.iter().flat_map(|vs| &vs.http) {
        prefix::lint(rule, sink);
        retries::lint(rule, sink);
    }
    for rule in &resources.destination_rules {
        hash::lint(rule, sink);
    }
}
