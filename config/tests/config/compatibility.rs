//! The page on compatibility is generated, and every promise on it names a test that exists.

use outrigger_config::compatibility::compatibility_markdown;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/compatibility.md");
const TESTS: [&str; 21] = [
    include_str!("access_logs.rs"),
    include_str!("actions.rs"),
    include_str!("capture.rs"),
    include_str!("delegates.rs"),
    include_str!("filters.rs"),
    include_str!("hosts.rs"),
    include_str!("kubernetes.rs"),
    include_str!("locality.rs"),
    include_str!("matching.rs"),
    include_str!("mesh.rs"),
    include_str!("names.rs"),
    include_str!("policies.rs"),
    include_str!("receivers.rs"),
    include_str!("registry.rs"),
    include_str!("routes.rs"),
    include_str!("server_tls.rs"),
    include_str!("sidecars.rs"),
    include_str!("tcp.rs"),
    include_str!("telemetry.rs"),
    include_str!("tls.rs"),
    include_str!("tracing.rs"),
];

#[test]
fn the_page_on_compatibility_is_fresh() {
    let page = compatibility_markdown();
    if std::env::var_os("OUTRIGGER_BLESS").is_some() {
        std::fs::write(PATH, &page).unwrap();
    }
    let committed = std::fs::read_to_string(PATH).unwrap_or_default();
    assert!(committed == page, "docs/compatibility.md is stale: run this test with OUTRIGGER_BLESS=1");
}

#[test]
fn every_honoured_field_names_a_test_that_exists() {
    let page = compatibility_markdown();
    let honoured = page.lines().filter(|line| line.contains("| honoured | 0.1 |"));
    let mut count = 0;
    for line in honoured {
        let name = line.trim_end_matches([' ', '|']).rsplit('`').nth(1).unwrap();
        let wanted = format!("fn {name}()");
        let exists = TESTS.iter().chain(&[include_str!("seed.rs")]).any(|source| source.contains(&wanted));
        assert!(exists, "no test `{name}`, named by: {line}");
        count += 1;
    }
    assert!(count > 100, "{count} honoured fields");
}
