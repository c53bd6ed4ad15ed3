//! `LoadBalancerSettings`: the table of a cluster, and the hash key of its routes.

use super::{
    header_name, later,
    locality::{LOCALITY, LocalitySetting, locality_setting},
    warmup::{WARMUP, warmup},
};
use crate::{
    fields::{Message, Object, Spanned, Type, warned, yes},
    report::Code,
    sink::{Sink, Span},
    snapshot::{Balancer, CookieAttribute, HashCookie, HashPolicy, Warmup},
};

/// `loadBalancer`: the table of the cluster and the hash of the route are two halves of one block.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LoadBalancer {
    pub(crate) balancer: Balancer,
    pub(crate) locality: Option<LocalitySetting>,
    pub(crate) warmup: Option<Warmup>,
    pub(crate) hash: Option<HashPolicy>,
    pub(crate) span: Span,
}

pub(crate) static LOAD_BALANCER: Message = Message {
    name: "LoadBalancerSettings",
    fields: &[
        yes(
            "simple",
            Type::Enum(&[
                "UNSPECIFIED",
                "LEAST_REQUEST",
                "LEAST_CONN",
                "ROUND_ROBIN",
                "RANDOM",
                "PASSTHROUGH",
            ]),
            "every_load_balancer_is_compiled",
        ),
        yes("consistentHash", Type::Object(&CONSISTENT_HASH), "every_load_balancer_is_compiled"),
        yes("localityLbSetting", Type::Object(&LOCALITY), "endpoints_of_other_localities_come_after"),
        warned(
            "zoneAwareLbSetting",
            Type::Object(&later::ZONE_AWARE),
            "endpoints of all zones are used alike, unless `localityLbSetting` says otherwise",
        ),
        yes("warmup", Type::Object(&WARMUP), "a_warmup_is_compiled"),
        yes("warmupDurationSecs", Type::Duration, "deprecated_fields_warn_and_still_count"),
    ],
};

static CONSISTENT_HASH: Message = Message {
    name: "ConsistentHashLB",
    fields: &[
        yes("httpHeaderName", Type::Text, "every_load_balancer_is_compiled"),
        yes("httpCookie", Type::Object(&COOKIE), "every_load_balancer_is_compiled"),
        yes("useSourceIp", Type::Bool, "every_load_balancer_is_compiled"),
        yes("httpQueryParameterName", Type::Text, "every_load_balancer_is_compiled"),
        yes("ringHash", Type::Object(&RING_HASH), "every_load_balancer_is_compiled"),
        yes("maglev", Type::Object(&MAGLEV), "every_load_balancer_is_compiled"),
        yes("minimumRingSize", Type::Int, "deprecated_fields_warn_and_still_count"),
    ],
};

static COOKIE: Message = Message {
    name: "HTTPCookie",
    fields: &[
        yes("name", Type::Text, "every_load_balancer_is_compiled"),
        yes("path", Type::Text, "every_load_balancer_is_compiled"),
        yes("ttl", Type::Duration, "every_load_balancer_is_compiled"),
        yes("attributes", Type::List(&Type::Object(&COOKIE_ATTRIBUTE)), COOKIE_TEST),
    ],
};

const COOKIE_TEST: &str = "the_attributes_of_a_cookie_are_compiled_in_order";

static COOKIE_ATTRIBUTE: Message = Message {
    name: "CookieAttribute",
    fields: &[yes("name", Type::Text, COOKIE_TEST), yes("value", Type::Text, COOKIE_TEST)],
};

static RING_HASH: Message = Message {
    name: "RingHash",
    fields: &[yes("minimumRingSize", Type::Int, "every_load_balancer_is_compiled")],
};

static MAGLEV: Message =
    Message { name: "MagLev", fields: &[yes("tableSize", Type::Int, "every_load_balancer_is_compiled")] };

/// Envoy's largest ring.
const MAX_RING: u64 = 8_388_608;
/// Envoy's largest Maglev table.
const MAX_MAGLEV: i64 = 5_000_011;

pub(crate) fn load_balancer(block: &Object<'_>, sink: &mut Sink) -> Option<LoadBalancer> {
    let locality = block.object("localityLbSetting").map(|setting| locality_setting(&setting));
    if let Some(hash) = block.object("consistentHash") {
        if block.has("simple") {
            let message = "simple and consistentHash exclude each other";
            sink.report(Code::ExclusiveFields, block.key_span("consistentHash"), message);
        }
        let key = hash_policy(&hash, sink);
        warmup(block, false, sink);
        return Some(LoadBalancer {
            balancer: table(&hash, sink),
            locality,
            warmup: None,
            hash: key,
            span: hash.span(),
        });
    }
    let simple = block.text("simple");
    if let Some(simple) = simple.filter(|simple| simple.value == "LEAST_CONN") {
        let found = sink.report(Code::Deprecated, simple.span, "`LEAST_CONN` is deprecated");
        found.help("write `LEAST_REQUEST`, which does the same");
    }
    let balancer = match simple.map_or("", |simple| simple.value) {
        "ROUND_ROBIN" => Balancer::RoundRobin,
        "RANDOM" => Balancer::Random,
        "PASSTHROUGH" => {
            let span = simple.map_or(block.span(), |simple| simple.span);
            let found = sink.report(Code::NotExecutable, span, "`PASSTHROUGH` cannot be executed yet");
            found.note("an explicit listener does not know where its client was going");
            return None;
        }
        _ => Balancer::LeastRequest,
    };
    let warmup = warmup(block, balancer != Balancer::Random, sink);
    Some(LoadBalancer { balancer, locality, warmup, hash: None, span: block.span() })
}

fn hash_policy(hash: &Object<'_>, sink: &mut Sink) -> Option<HashPolicy> {
    let keys = ["httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName"];
    let mut given = keys.into_iter().filter(|key| hash.has(key));
    let Some(first) = given.next() else {
        let found = sink.report(Code::MissingField, hash.span(), "consistentHash has no key");
        found.help("give one of httpHeaderName, httpCookie, useSourceIp, httpQueryParameterName");
        return None;
    };
    if let Some(second) = given.next() {
        let message = format!("{first} and {second} exclude each other");
        sink.report(Code::ExclusiveFields, hash.key_span(second), message);
    }
    match first {
        "httpHeaderName" => header_name(&hash.text(first)?, sink).map(HashPolicy::Header),
        "httpCookie" => cookie(&hash.object(first)?, sink),
        "useSourceIp" => hash.bool(first)?.then_some(HashPolicy::SourceIp),
        _ => Some(HashPolicy::Query(hash.text(first)?.value.into())),
    }
}

fn cookie(cookie: &Object<'_>, sink: &mut Sink) -> Option<HashPolicy> {
    let name = cookie.text("name").filter(|name| !name.value.is_empty());
    let Some(name) = name else {
        sink.report(Code::MissingField, cookie.span(), "the cookie has no name");
        return None;
    };
    let path = cookie.text("path");
    let unusable =
        |text: &str| !text.bytes().all(|b| (0x21..0x7f).contains(&b)) || text.contains([';', '"', ',']);
    for text in [Some(name), path].into_iter().flatten() {
        if unusable(text.value) || (text == name && text.value.contains('=')) {
            sink.report(Code::InvalidHeader, text.span, format!("`{}` cannot stand in a cookie", text.value));
            return None;
        }
    }
    Some(HashPolicy::Cookie(Box::new(HashCookie::new(
        name.value.into(),
        path.map(|path| path.value.into()),
        cookie.duration("ttl").map(|ttl| ttl.value),
        attributes(cookie, sink),
    ))))
}

fn attributes(cookie: &Object<'_>, sink: &mut Sink) -> Box<[CookieAttribute]> {
    let mut made: Vec<CookieAttribute> = Vec::new();
    for entry in cookie.objects("attributes") {
        let Some(name) = entry.text("name").filter(|name| !name.value.is_empty()) else {
            sink.report(Code::MissingField, entry.span(), "the attribute has no name");
            continue;
        };
        let value = entry.text("value").unwrap_or(Spanned { value: "", span: entry.span() });
        let printable = |text: &str| text.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b';');
        if let Some(text) = [name, value].into_iter().find(|text| !printable(text.value)) {
            sink.report(Code::InvalidHeader, text.span, format!("`{}` cannot stand in a cookie", text.value));
        } else if made.iter().any(|other| *other.name == *name.value) {
            let message = format!("the attribute `{}` stands twice", name.value);
            sink.report(Code::DuplicateName, name.span, message);
        } else {
            made.push(CookieAttribute { name: name.value.into(), value: value.value.into() });
        }
    }
    made.into()
}

fn table(hash: &Object<'_>, sink: &mut Sink) -> Balancer {
    let deprecated = hash.int("minimumRingSize");
    if let Some(size) = deprecated {
        let found = sink.report(Code::Deprecated, size.span, "`minimumRingSize` here is deprecated");
        found.help("write `ringHash: { minimumRingSize: N }`");
        if hash.has("ringHash") || hash.has("maglev") {
            let message = "`minimumRingSize` stands beside `ringHash` or `maglev`";
            sink.report(Code::ExclusiveFields, hash.key_span("minimumRingSize"), message);
        }
    }
    if hash.has("ringHash") && hash.has("maglev") {
        let message = "ringHash and maglev exclude each other";
        sink.report(Code::ExclusiveFields, hash.key_span("maglev"), message);
    }
    if let Some(maglev) = hash.object("maglev") {
        let size = maglev.int("tableSize").unwrap_or(Spanned { value: 0, span: maglev.span() });
        if size.value <= 0 || size.value >= MAX_MAGLEV || !is_prime(size.value) {
            let message = "maglev.tableSize must be a prime number below 5000011";
            sink.report(Code::InvalidValue, size.span, message).help("65537 is Envoy's own default");
        }
        return Balancer::Maglev { table_size: size.value.unsigned_abs() };
    }
    let size = hash.object("ringHash").and_then(|ring| ring.int("minimumRingSize")).or(deprecated);
    let minimum = size.map_or(1024, |size| match u64::try_from(size.value) {
        // Zero is unset.
        Ok(0) => 1024,
        Ok(value) if value <= MAX_RING => value,
        _ => {
            sink.report(Code::InvalidValue, size.span, "minimumRingSize is 1 to 8388608");
            1024
        }
    });
    Balancer::RingHash { minimum_ring_size: minimum, maximum_ring_size: MAX_RING }
}

fn is_prime(number: i64) -> bool {
    number >= 2 && (2..).take_while(|n| n * n <= number).all(|n| number % n != 0)
}
