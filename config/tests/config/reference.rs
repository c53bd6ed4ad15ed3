//! Property test: random rules and random requests, decided by the crate and by a naive model that reads the rules as a
//! person would. The two share no code: the model sees neither the compiled types nor the YAML.

use proptest::prelude::*;

use crate::support::{MESH, Request, TO_REVIEWS, rules, snapshot, table};

/// Few values, so that rules and requests meet.
const PATHS: [&str; 7] = ["/", "/a", "/A", "/ab", "/a/b", "/b", "/ba"];
const VALUES: [&str; 5] = ["", "a", "ab", "b", "A"];
const NAMES: [&str; 2] = ["x", "y"];

#[derive(Debug, Clone)]
enum Form {
    Exact(&'static str),
    Prefix(&'static str),
    /// One of the texts, as an alternation.
    Regex(&'static str, &'static str),
    Present,
}

#[derive(Debug, Clone)]
struct Block {
    uri: Option<(Form, bool)>,
    method: Option<&'static str>,
    header: Option<(&'static str, Form)>,
    without: Option<(&'static str, Form)>,
    query: Option<(&'static str, Form)>,
}

#[derive(Debug, Clone)]
struct Asked {
    path: &'static str,
    method: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    query: Vec<(&'static str, &'static str)>,
}

impl Form {
    fn yaml(&self) -> String {
        match self {
            Self::Exact(text) => format!("{{ exact: '{text}' }}"),
            Self::Prefix(text) => format!("{{ prefix: '{text}' }}"),
            Self::Regex(a, b) => format!("{{ regex: '{a}|{b}' }}"),
            Self::Present => "{}".to_owned(),
        }
    }

    fn holds(&self, value: &str) -> bool {
        match self {
            Self::Exact(text) => value == *text,
            Self::Prefix(text) => {
                value.len() >= text.len() && value.as_bytes()[..text.len()] == *text.as_bytes()
            }
            Self::Regex(a, b) => value == *a || value == *b,
            Self::Present => true,
        }
    }
}

impl Block {
    fn yaml(&self) -> String {
        let mut fields = Vec::new();
        if let Some((form, ignore_case)) = &self.uri {
            fields.push(format!("uri: {}, ignoreUriCase: {ignore_case}", form.yaml()));
        }
        fields.extend(self.method.map(|method| format!("method: {{ exact: {method} }}")));
        let map =
            |field: &str, (name, form): &(&str, Form)| format!("{field}: {{ {name}: {} }}", form.yaml());
        fields.extend(self.header.as_ref().map(|pair| map("headers", pair)));
        fields.extend(self.without.as_ref().map(|pair| map("withoutHeaders", pair)));
        fields.extend(self.query.as_ref().map(|pair| map("queryParams", pair)));
        format!("{{ {} }}", fields.join(", "))
    }

    fn takes(&self, asked: &Asked) -> bool {
        let lines = |name: &'static str| {
            asked.headers.iter().filter(move |(n, _)| *n == name).map(|(_, value)| *value)
        };
        let uri = self.uri.as_ref().is_none_or(|(form, ignore_case)| match form {
            Form::Exact(text) if *ignore_case => asked.path.to_lowercase() == text.to_lowercase(),
            Form::Prefix(text) if *ignore_case => asked.path.to_lowercase().starts_with(&text.to_lowercase()),
            form => form.holds(asked.path),
        });
        let header = self.header.as_ref().is_none_or(|(name, form)| lines(name).any(|line| form.holds(line)));
        let without = self.without.as_ref().is_none_or(|(name, form)| match form {
            Form::Present => lines(name).next().is_none(),
            form if lines(name).next().is_none() => !form.holds(""),
            form => !lines(name).any(|line| form.holds(line)),
        });
        let query = self.query.as_ref().is_none_or(|(name, form)| {
            asked.query.iter().find(|(key, _)| key == name).is_some_and(|(_, value)| form.holds(value))
        });
        uri && header && without && query && self.method.is_none_or(|method| method == asked.method)
    }
}

fn path_form() -> impl Strategy<Value = Form> {
    let path = || prop::sample::select(&PATHS[..]);
    prop_oneof![
        path().prop_map(Form::Exact),
        path().prop_map(Form::Prefix),
        (path(), path()).prop_map(|(a, b)| Form::Regex(a, b)),
    ]
}

fn value_form() -> impl Strategy<Value = Form> {
    let value = || prop::sample::select(&VALUES[..]);
    prop_oneof![
        value().prop_map(Form::Exact),
        prop::sample::select(&VALUES[1..]).prop_map(Form::Prefix),
        (prop::sample::select(&VALUES[1..]), value()).prop_map(|(a, b)| Form::Regex(a, b)),
        Just(Form::Present),
    ]
}

fn named() -> impl Strategy<Value = (&'static str, Form)> {
    (prop::sample::select(&NAMES[..]), value_form())
}

fn block() -> impl Strategy<Value = Block> {
    (
        prop::option::of((path_form(), any::<bool>())),
        prop::option::weighted(0.2, prop::sample::select(&["GET", "POST"][..])),
        prop::option::of(named()),
        prop::option::of(named()),
        prop::option::weighted(0.3, named()),
    )
        .prop_map(|(uri, method, header, without, query)| Block { uri, method, header, without, query })
}

fn asked() -> impl Strategy<Value = Asked> {
    let pair = || (prop::sample::select(&NAMES[..]), prop::sample::select(&VALUES[..]));
    (
        prop::sample::select(&PATHS[..]),
        prop::sample::select(&["GET", "POST"][..]),
        prop::collection::vec(pair(), 0..4),
        prop::collection::vec(pair(), 0..3),
    )
        .prop_map(|(path, method, headers, query)| Asked { path, method, headers, query })
}

/// The first rule with a block that takes the request.
fn expected(rules: &[Vec<Block>], asked: &Asked) -> Option<usize> {
    rules.iter().position(|blocks| blocks.is_empty() || blocks.iter().any(|block| block.takes(asked)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rules_decide_as_the_naive_model(
        all in prop::collection::vec(prop::collection::vec(block(), 0..3), 1..5),
        requests in prop::collection::vec(asked(), 1..20),
    ) {
        let text: String = all
            .iter()
            .enumerate()
            .map(|(index, blocks)| {
                let blocks: Vec<_> = blocks.iter().map(Block::yaml).collect();
                format!("  - name: r{index}\n    match: [{}]\n    {TO_REVIEWS}\n", blocks.join(", "))
            })
            .collect();
        let snapshot = snapshot(&[MESH, &rules(&text)]);
        for asked in &requests {
            let query: Vec<_> = asked.query.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let path = if query.is_empty() { asked.path.to_owned() } else { format!("{}?{}", asked.path, query.join("&")) };
            let request = Request::to("reviews").path(&path).method(asked.method);
            let request = asked.headers.iter().fold(request, |request, (name, value)| request.header(name, value));
            let name = expected(&all, asked).map(|index| format!("r{index}"));
            prop_assert_eq!(request.route(table(&snapshot, "8080")), name.as_deref(), "{:?}\n{}", asked, text);
        }
    }
}

const DOMAINS: [&str; 9] = ["a.b.c", "b.c", "*.b.c", "*.c", "x.b.c", "a.*", "a.b.*", "*", "*-x.c"];
const HOSTS: [&str; 9] = ["a.b.c", "b.c", "A.B.C:80", "z.b.c", "c", "a.d", "a.b.d", "w-x.c", "."];

/// Envoy's order by brute force: exact, then every wildcard by its length.
fn find(domains: &[&str], host: &str) -> Option<usize> {
    let host = host.to_lowercase();
    let host = host.split(':').next().unwrap();
    let rank = |domain: &str| match (domain, domain.strip_prefix('*'), domain.strip_suffix('*')) {
        ("*", ..) => Some((3, 0)),
        (exact, None, None) => (exact == host).then_some((0, 0)),
        (_, Some(suffix), _) => {
            (host.ends_with(suffix) && host != suffix).then(|| (1, usize::MAX - suffix.len()))
        }
        (_, _, Some(prefix)) => {
            (host.starts_with(prefix) && host != prefix).then(|| (2, usize::MAX - prefix.len()))
        }
    };
    let ranked = domains.iter().enumerate().filter_map(|(index, domain)| Some((rank(domain)?, index)));
    ranked.min().map(|(_, index)| index)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hosts_are_found_as_by_the_naive_model(
        domains in prop::sample::subsequence(&DOMAINS[..], 0..=DOMAINS.len()).prop_shuffle(),
        host in prop::sample::select(&HOSTS[..]),
    ) {
        let mut map = outrigger_config::snapshot::HostMap::default();
        for (index, domain) in (0_u32..).zip(&domains) {
            prop_assert!(map.insert(domain, index));
        }
        let expected = find(&domains, host).and_then(|index| u32::try_from(index).ok());
        prop_assert_eq!(map.find(host), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn weights_share_the_draws_exactly(weights in prop::collection::vec(0_u32..20, 2..6)) {
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        prop_assume!(total > 0);
        let entries: Vec<_> = weights
            .iter()
            .enumerate()
            .map(|(index, weight)| format!("{{ destination: {{ host: h{index} }}, weight: {weight} }}"))
            .collect();
        let snapshot = snapshot(&[MESH, &rules(&format!("  - route: [{}]", entries.join(", ")))]);
        let mut counts = vec![0_u32; weights.len()];
        for draw in 0..total {
            let answer = Request::to("reviews").answer(&snapshot, "8080", draw);
            let index: usize = answer.rsplit("|h").next().unwrap().split('.').next().unwrap().parse().unwrap();
            counts[index] += 1;
        }
        prop_assert_eq!(counts, weights);
    }
}
