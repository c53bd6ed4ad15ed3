//! `outrigger init`: installs, checks and removes the rules that capture a pod's connections.
//!
//! [`flags`] are the command line, [`words`] its own words; the work is in [`crate::capture_rules`].

mod flags;
#[cfg(test)]
mod tests;
mod words;

use std::process::ExitCode;

pub(super) use flags::InitArgs;
use words::{Group, Id};

use super::{NOT_IN_FORCE, NOT_PERMITTED, OS_ERROR, environment, is_true, show};
use crate::{
    capture_rules::{
        self, Change, Error,
        options::{CaptureOptions, DnsCapture, List, Mode, Owners, Selection},
    },
    upstream::NameServers,
};

/// The sidecar's user, and its group (Istio).
const SIDECAR: u32 = 1337;

pub(super) fn run(args: &InitArgs) -> ExitCode {
    let options = options(args);
    let rules = capture_rules::plan(&options);
    if args.dry_run {
        show(&rules.to_string());
        return ExitCode::SUCCESS;
    }
    if !args.skip_rule_apply {
        match capture_rules::apply(&rules, args.force_apply) {
            Ok(_) if options.mode == Mode::None => eprintln!("no connection is captured"),
            Ok(Change::Installed) => eprintln!("the capture rules are installed"),
            Ok(Change::InPlace) => eprintln!("the capture rules are in place already"),
            Err(error) => return refuse(&error),
        }
    }
    if args.run_validation {
        let valid = if capture_rules::is_proxy(&options) {
            capture_rules::probe(&options, args.iptables_probe_port, args.probe_timeout)
        } else {
            capture_rules::verify(&rules)
        };
        if let Err(error) = valid {
            return refuse(&error);
        }
    }
    ExitCode::SUCCESS
}

fn options(args: &InitArgs) -> CaptureOptions {
    let users = numbers(&args.proxy_uid, &[SIDECAR]);
    CaptureOptions {
        mode: if args.cleanup_only { Mode::None } else { args.istio_inbound_interception_mode },
        outbound_port: args.envoy_port,
        inbound_port: args.inbound_capture_port,
        tunnel_port: args.inbound_tunnel_port,
        proxy_groups: numbers(&args.proxy_gid, &users),
        proxy_users: users,
        inbound: args.istio_inbound_ports.clone(),
        inbound_excluded: args.istio_local_exclude_ports.0.clone(),
        outbound: args.istio_service_cidr.clone(),
        outbound_excluded: args.istio_service_exclude_cidr.0.clone(),
        outbound_ports: args.istio_outbound_ports.0.clone(),
        outbound_ports_excluded: args.istio_local_outbound_ports_exclude.0.clone(),
        owners: owners(&args.outbound_owner_groups, &args.outbound_owner_groups_exclude),
        virtual_interfaces: args.kube_virt_interfaces.0.clone(),
        excluded_interfaces: args.istio_exclude_interfaces.0.clone(),
        dns: dns(args.redirect_dns.unwrap_or_else(|| is_set("ISTIO_META_DNS_CAPTURE")), args.capture_all_dns),
        drop_invalid: args.drop_invalid.unwrap_or_else(|| is_set("INVALID_DROP")),
        loopback: args.outbound_ipv4_loopback_cidr,
        tproxy_mark: args.istio_inbound_tproxy_mark,
        tproxy_table: args.istio_inbound_tproxy_route_table,
    }
}

/// An empty list (`PROXY_UID=""`) is that of `usual`: without the exemption of the sidecar, nothing would ever go out.
fn numbers(ids: &List<Id>, usual: &[u32]) -> Vec<u32> {
    if ids.0.is_empty() { usual.to_vec() } else { ids.0.iter().map(|Id(id)| *id).collect() }
}

/// Istio: what is excluded counts only where all are included.
fn owners(included: &Selection<Group>, excluded: &List<Group>) -> Owners {
    let numbers = |groups: &[Group]| groups.iter().map(|Group(id)| *id).collect();
    match included {
        Selection::Only(groups) => Owners::Only(numbers(groups)),
        Selection::All if excluded.0.is_empty() => Owners::All,
        Selection::All => Owners::Except(numbers(&excluded.0)),
    }
}

fn dns(redirected: bool, from_all: bool) -> DnsCapture {
    if !redirected {
        return DnsCapture::Off;
    }
    if from_all {
        return DnsCapture::All;
    }
    match NameServers::of_system().map(|system| system.servers) {
        Ok(servers) => DnsCapture::Servers(servers),
        // Istio does without, too: a pod without name servers asks none.
        Err(error) => {
            eprintln!(
                "warning: /etc/resolv.conf gives no name server ({error}), so that no question is captured: add \
                 --capture-all-dns"
            );
            DnsCapture::Off
        }
    }
}

fn is_set(variable: &str) -> bool {
    environment(variable).as_deref().is_some_and(is_true)
}

fn refuse(error: &Error) -> ExitCode {
    eprintln!("error: {error}");
    match error {
        Error::NotPermitted => NOT_PERMITTED.into(),
        Error::Differs(_) | Error::NotCaptured { .. } => NOT_IN_FORCE.into(),
        Error::NoNetfilter(_) | Error::Unknown { .. } | Error::Refused { .. } | Error::Netlink(_) => {
            OS_ERROR.into()
        }
    }
}
