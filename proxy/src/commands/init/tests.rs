//! From command lines to rules.

use std::net::IpAddr;

use clap::Parser;

use super::{InitArgs, options};
use crate::capture_rules::{
    options::{CaptureOptions, DnsCapture},
    plan,
};

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: InitArgs,
}

fn parsed(flags: &str) -> CaptureOptions {
    options(&Line::try_parse_from(std::iter::once("init").chain(flags.split_whitespace())).unwrap().args)
}

fn refused(flags: &str) -> String {
    Line::try_parse_from(std::iter::once("init").chain(flags.split_whitespace())).unwrap_err().to_string()
}

#[test]
fn golden_command_lines_give_golden_rules() {
    for line in include_str!("golden.txt").lines().filter(|line| !line.starts_with('#')) {
        let (name, flags) = line.split_once(':').unwrap();
        let text = plan(&parsed(flags)).to_string();
        insta::with_settings!({ description => flags.trim(), omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!(name, text);
        });
    }
}

#[test]
fn name_servers_are_captured_one_by_one() {
    let mut options = parsed("-b * -i *");
    options.dns =
        DnsCapture::Servers(["10.96.0.10", "fd00::a"].map(|text| text.parse::<IpAddr>().unwrap()).into());
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("dns_servers", plan(&options).to_string());
    });
    let without = parsed("-b * -i *");
    options.dns = DnsCapture::Servers(Vec::new());
    assert_eq!(plan(&options), plan(&without), "no server, no capture");
}

#[test]
fn long_names_are_those_of_istio() {
    let short = "-p 1 -z 2 -e 3 -u 4 -g 5 -m TPROXY -b 6 -d 7 -i 10.0.0.0/8 -x 10.1.0.0/16 -q 8 -o 9 -k a -c b -t 10 -r 11";
    let long = "--envoy-port 1 --inbound-capture-port 2 --inbound-tunnel-port 3 --proxy-uid 4 --proxy-gid 5
        --istio-inbound-interception-mode TPROXY --istio-inbound-ports 6 --istio-local-exclude-ports 7
        --istio-service-cidr 10.0.0.0/8 --istio-service-exclude-cidr 10.1.0.0/16 --istio-outbound-ports 8
        --istio-local-outbound-ports-exclude 9 --kube-virt-interfaces a --istio-exclude-interfaces b
        --istio-inbound-tproxy-mark 10 --istio-inbound-tproxy-route-table 11";
    assert_eq!(format!("{:?}", parsed(short)), format!("{:?}", parsed(long)));
}

#[test]
fn groups_of_the_sidecar_are_its_users_unless_they_are_named() {
    assert_eq!(parsed("").proxy_groups, [1337]);
    assert_eq!(parsed("-u 7,8").proxy_groups, [7, 8]);
    assert_eq!(parsed("-u 7 -g 9").proxy_groups, [9]);
    let empty = parsed("-u= -g=");
    assert_eq!(
        (empty.proxy_users, empty.proxy_groups),
        (vec![1337], vec![1337]),
        "never without the sidecar"
    );
}

#[test]
fn switches_are_given_with_a_value_or_without() {
    let line = |flags: &str| {
        Line::try_parse_from(std::iter::once("init").chain(flags.split_whitespace())).unwrap().args
    };
    assert!(!line("").dry_run);
    assert!(
        line("-n").dry_run
            && line("--dry-run").dry_run
            && line("--dry-run=true").dry_run
            && line("--dry-run=1").dry_run
    );
    assert!(!line("--dry-run=false -b 80").dry_run);
    assert!(line("--cleanup").cleanup_only && line("--cleanup-only").cleanup_only);
    assert_eq!(line("--redirect-dns").redirect_dns, Some(true));
    assert_eq!(line("").redirect_dns, None);
}

#[test]
fn what_cannot_be_meant_is_refused_with_what_to_write() {
    for (flags, hint) in [
        ("-p 0", "1 to 65535"),
        ("-b 80,http", "`http`: write a port number"),
        ("-d *", "write a port number"),
        ("-i 10.0.0.1", "such as 10.0.0.0/8"),
        ("-x *", "such as 10.0.0.0/8"),
        ("-x 10.0.0.0/40", "at most 32"),
        ("-m TRANSPARENT", "REDIRECT, TPROXY or NONE"),
        ("-u istio-proxy", "number of a user"),
        ("-t 1338", "sends to its own pod"),
        ("-r 254", "routing table"),
        ("-c a/b", "name of an interface"),
        ("--outbound-ipv4-loopback-cidr 10.0.0.0/8", "127.0.0.0/8"),
        ("--outbound-owner-groups no-such-group", "/etc/group"),
        ("--redirect-dns=perhaps", "perhaps"),
        ("--probe-timeout 5", "such as 5s"),
        ("--iptables", "--iptables"),
    ] {
        let message = refused(flags);
        assert!(message.contains(hint), "{flags}: {message}");
    }
}

#[test]
fn every_reason_fits_a_comment_of_the_kernel() {
    // nft reads at most 128 bytes, the zero at the end included.
    for line in include_str!("golden.txt").lines().filter(|line| !line.starts_with('#')) {
        let text = plan(&parsed(line.split_once(':').unwrap().1)).to_string();
        let comments =
            text.lines().filter_map(|line| line.split_once(" comment ")).map(|(_, comment)| comment);
        for comment in comments {
            assert!(comment.len() <= 127 && comment.is_ascii(), "{comment}");
        }
    }
}
