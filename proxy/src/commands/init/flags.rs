//! The flags of `outrigger init`, with Istio's names, variables and defaults.

use std::time::Duration;

use clap::{Arg, ArgAction, Args, builder::BoolishValueParser};

use super::words::{Group, Id, loopback, timeout};
use crate::capture_rules::options::{Interface, List, Mark, Mode, Network, Port, RouteTable, Selection};

/// Captures a pod's connections: installs the kernel's rules, once, before the sidecar starts.
///
/// Flags and variables are those of Istio's istio-iptables. The rules are one nftables table, `inet outrigger`, which
/// is replaced whole or not at all.
#[derive(Debug, Args)]
#[command(
    mut_args(switch),
    after_help = "EXAMPLES:
  outrigger init -b '*' -i '*' -d 15090,15021,15020
  outrigger init -b '*' -i '*' -m TPROXY --dry-run
  outrigger init --cleanup

NEEDS the capability NET_ADMIN, and no other. With --skip-rule-apply --run-validation, none.

EXIT CODES: 0 done, 64 usage, 71 the kernel refused, 77 not permitted, 126 the rules are not in force"
)]
pub(in crate::commands) struct InitArgs {
    // Without Istio's old variable ENVOY_PORT: Kubernetes sets it beside a service that is called `envoy`.
    /// Port that takes captured outbound connections.
    #[arg(short = 'p', long, value_name = "PORT", default_value = "15001")]
    pub(super) envoy_port: Port,
    /// Port that takes captured inbound connections.
    #[arg(short = 'z', long, env = "INBOUND_CAPTURE_PORT", value_name = "PORT", default_value = "15006")]
    pub(super) inbound_capture_port: Port,
    /// Inbound port that is never captured (tunnel).
    #[arg(short = 'e', long, env = "INBOUND_TUNNEL_PORT", value_name = "PORT", default_value = "15008")]
    pub(super) inbound_tunnel_port: Port,
    /// Users whose connections are let through: those of the sidecar.
    #[arg(short = 'u', long, env = "PROXY_UID", value_name = "UID,...", default_value = "1337")]
    pub(super) proxy_uid: List<Id>,
    /// Groups whose connections are let through [default: as the users].
    #[arg(
        short = 'g',
        long,
        env = "PROXY_GID",
        value_name = "GID,...",
        default_value = "",
        hide_default_value = true
    )]
    pub(super) proxy_gid: List<Id>,
    /// How inbound connections are captured: REDIRECT, TPROXY (keeps the client's address) or NONE.
    #[arg(
        short = 'm',
        long,
        env = "ISTIO_INBOUND_INTERCEPTION_MODE",
        value_name = "MODE",
        default_value = "REDIRECT"
    )]
    pub(super) istio_inbound_interception_mode: Mode,
    /// Inbound ports that are captured; `*` is all, an empty list none.
    #[arg(short = 'b', long, env = "ISTIO_INBOUND_PORTS", value_name = "PORT,...", default_value = "")]
    pub(super) istio_inbound_ports: Selection<Port>,
    /// Inbound ports that are not captured, where all are.
    #[arg(short = 'd', long, env = "ISTIO_LOCAL_EXCLUDE_PORTS", value_name = "PORT,...", default_value = "")]
    pub(super) istio_local_exclude_ports: List<Port>,
    /// Destinations whose connections are captured; `*` is all, an empty list none.
    #[arg(short = 'i', long, env = "ISTIO_SERVICE_CIDR", value_name = "CIDR,...", default_value = "")]
    pub(super) istio_service_cidr: Selection<Network>,
    /// Destinations whose connections are not captured.
    #[arg(
        short = 'x',
        long,
        env = "ISTIO_SERVICE_EXCLUDE_CIDR",
        value_name = "CIDR,...",
        default_value = ""
    )]
    pub(super) istio_service_exclude_cidr: List<Network>,
    /// Outbound ports that are captured whatever the destination is.
    #[arg(short = 'q', long, env = "ISTIO_OUTBOUND_PORTS", value_name = "PORT,...", default_value = "")]
    pub(super) istio_outbound_ports: List<Port>,
    /// Outbound ports that are not captured.
    #[arg(
        short = 'o',
        long,
        env = "ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE",
        value_name = "PORT,...",
        default_value = ""
    )]
    pub(super) istio_local_outbound_ports_exclude: List<Port>,
    /// Interfaces whose incoming connections count as outbound (virtual machines).
    #[arg(short = 'k', long, env = "KUBE_VIRT_INTERFACES", value_name = "NAME,...", default_value = "")]
    pub(super) kube_virt_interfaces: List<Interface>,
    /// Interfaces whose connections are not captured.
    #[arg(short = 'c', long, env = "ISTIO_EXCLUDE_INTERFACES", value_name = "NAME,...", default_value = "")]
    pub(super) istio_exclude_interfaces: List<Interface>,
    /// Mark of packets for the sidecar (TPROXY).
    #[arg(short = 't', long, env = "ISTIO_INBOUND_TPROXY_MARK", value_name = "MARK", default_value = "1337")]
    pub(super) istio_inbound_tproxy_mark: Mark,
    /// Routing table for such packets (TPROXY).
    #[arg(
        short = 'r',
        long,
        env = "ISTIO_INBOUND_TPROXY_ROUTE_TABLE",
        value_name = "N",
        default_value = "133"
    )]
    pub(super) istio_inbound_tproxy_route_table: RouteTable,
    /// IPv4 addresses that the application reaches without the sidecar.
    #[arg(long, env = "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", value_name = "CIDR", default_value = "127.0.0.1/32",
        value_parser = loopback)]
    pub(super) outbound_ipv4_loopback_cidr: Network,
    /// Groups whose outbound connections are captured, by name or number; `*` is all.
    #[arg(long, env = "ISTIO_OUTBOUND_OWNER_GROUPS", value_name = "GROUP,...", default_value = "*")]
    pub(super) outbound_owner_groups: Selection<Group>,
    /// Groups whose outbound connections are not captured.
    #[arg(long, env = "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", value_name = "GROUP,...", default_value = "")]
    pub(super) outbound_owner_groups_exclude: List<Group>,
    /// Send questions to the name servers of /etc/resolv.conf to the sidecar, port 15053 [env also:
    /// ISTIO_META_DNS_CAPTURE].
    #[arg(long, env = "REDIRECT_DNS", value_name = "BOOL", num_args = 0..=1, require_equals = true,
        value_parser = BoolishValueParser::new(), default_missing_value = "true")]
    pub(super) redirect_dns: Option<bool>,
    /// With --redirect-dns: those to any name server.
    #[arg(long, env = "CAPTURE_ALL_DNS")]
    pub(super) capture_all_dns: bool,
    /// Drop packets out of every window, which the kernel would answer with a reset [env also: INVALID_DROP].
    #[arg(long, env = "DROP_INVALID", value_name = "BOOL", num_args = 0..=1, require_equals = true,
        value_parser = BoolishValueParser::new(), default_missing_value = "true")]
    pub(super) drop_invalid: Option<bool>,
    /// Print the rules as nft reads them, and change nothing.
    #[arg(short = 'n', long, env = "DRY_RUN")]
    pub(super) dry_run: bool,
    /// Remove all rules.
    #[arg(long, visible_alias = "cleanup", env = "CLEANUP_ONLY")]
    pub(super) cleanup_only: bool,
    /// Install nothing; with --run-validation, check what is there.
    #[arg(long, env = "SKIP_RULE_APPLY")]
    pub(super) skip_rule_apply: bool,
    /// Check that the rules are in force: as the sidecar's user by a connection, else by reading them back.
    #[arg(long, env = "RUN_VALIDATION")]
    pub(super) run_validation: bool,
    /// Install the rules again even if they are there.
    #[arg(long, env = "FORCE_APPLY")]
    pub(super) force_apply: bool,
    /// Replace other rules of ours: always done, taken for Istio's sake.
    #[arg(long, env = "RECONCILE", value_name = "BOOL", num_args = 0..=1, require_equals = true,
        action = ArgAction::Set, value_parser = BoolishValueParser::new(), default_value = "false",
        default_missing_value = "true", hide_default_value = true, hide_possible_values = true, hide = true)]
    pub(super) reconcile: bool,
    /// Capture IPv6 beside IPv4: always done, taken for Istio's sake.
    #[arg(long, env = "DUAL_STACK")]
    pub(super) dual_stack: bool,
    /// Use nftables: always done, taken for Istio's sake.
    #[arg(long, env = "NATIVE_NFTABLES")]
    pub(super) native_nftables: bool,
    /// Port that the validation dials.
    #[arg(long, env = "IPTABLES_PROBE_PORT", value_name = "PORT", default_value = "15002")]
    pub(super) iptables_probe_port: Port,
    /// How long the validation waits for its connection.
    #[arg(long, env = "PROBE_TIMEOUT", value_name = "DURATION", default_value = "5s", value_parser = timeout)]
    pub(super) probe_timeout: Duration,
}

/// A switch can be given a value, as in Istio: `--dry-run`, `--dry-run=false`, `DRY_RUN=1`.
fn switch(arg: Arg) -> Arg {
    if !matches!(arg.get_action(), ArgAction::SetTrue) {
        return arg;
    }
    arg.action(ArgAction::Set)
        .value_parser(BoolishValueParser::new())
        .value_name("BOOL")
        .num_args(0..=1)
        .require_equals(true)
        .default_value("false")
        .default_missing_value("true")
        .hide_default_value(true)
        .hide_possible_values(true)
}
