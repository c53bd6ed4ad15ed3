//! The init container `istio-init`: `outrigger init` with Istio's flags, as root with the two capabilities that the rules
//! need, and ended before the application starts.

use super::{Context, INIT, set};
use crate::{
    settings::{Capture, Interception},
    value::{Value, map},
};

/// `None` where nothing is captured.
pub(crate) fn container(context: &Context<'_>) -> Option<Value> {
    let settings = context.settings;
    if settings.interception == Interception::None {
        return None;
    }
    let mut container = context.container(INIT);
    set(&mut container, "args", arguments(settings.interception, &settings.capture).into());
    // Among them may be `ISTIO_META_DNS_CAPTURE`.
    let variables: Vec<_> = context.metadata_variables().collect();
    if !variables.is_empty() {
        set(&mut container, "env", variables.into());
    }
    set(&mut container, "resources", settings.resources.clone());
    let security = map([
        ("allowPrivilegeEscalation", false.into()),
        ("capabilities", map([("add", vec!["NET_ADMIN", "NET_RAW"].into()), ("drop", vec!["ALL"].into())])),
        ("privileged", false.into()),
        ("readOnlyRootFilesystem", true.into()),
        ("runAsGroup", 0_u32.into()),
        ("runAsNonRoot", false.into()),
        ("runAsUser", 0_u32.into()),
    ]);
    set(&mut container, "securityContext", security);
    Some(container.into())
}

fn arguments(mode: Interception, capture: &Capture) -> Vec<String> {
    let flags = [
        ("-p", Some("15001")),
        ("-z", Some("15006")),
        ("-u", Some("1337")),
        ("-m", Some(mode.as_str())),
        ("-i", Some(&*capture.include_ranges)),
        ("-x", Some(&*capture.exclude_ranges)),
        ("-b", Some(&*capture.include_inbound)),
        ("-d", Some(&*capture.exclude_inbound)),
        ("-q", capture.include_outbound.as_deref()),
        ("-o", capture.exclude_outbound.as_deref()),
        ("-k", capture.virtual_interfaces.as_deref()),
        ("-c", capture.exclude_interfaces.as_deref()),
    ];
    let given = flags.into_iter().filter_map(|(flag, value)| Some([flag, value?])).flatten();
    ["init"].into_iter().chain(given).map(str::to_owned).collect()
}
