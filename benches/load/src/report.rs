//! Tables for a person, and the raw values for a program.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::{
    goals::Goal,
    metric::Metric,
    programs::Kind,
    rounds::Results,
    scenario::Scenario,
    stats::{median, range},
};

/// A scenario with what came of it.
pub(crate) type Ran = (Scenario, Results);

/// What is shown of each scenario, where it was measured.
const SHOWN: [Metric; 16] = [
    Metric::Cpu,
    Metric::User,
    Metric::System,
    Metric::Rate,
    Metric::Log,
    Metric::Spans,
    Metric::Median,
    Metric::P99,
    Metric::AddedMedian,
    Metric::Rss,
    Metric::Anonymous,
    Metric::Connection1000,
    Metric::Connection5000,
    Metric::Start,
    Metric::StartFilled,
    Metric::RssFilled,
];

/// What was measured in one scenario: a line for each metric, a column for each proxy.
pub(crate) fn scenario((scenario, results): &Ran) -> String {
    let kinds: Vec<Kind> = results.kinds().collect();
    let mut text = format!("\n{}: {}\n{:<24}", scenario.name, scenario.about, "");
    for kind in &kinds {
        let _ = write!(text, " {kind:>24}");
    }
    text.push('\n');
    for metric in SHOWN {
        let columns: Vec<Vec<f64>> = kinds.iter().map(|kind| results.values(*kind, metric)).collect();
        if columns.iter().all(Vec::is_empty) {
            continue;
        }
        let _ = write!(text, "{:<24}", metric.name());
        for values in columns {
            let _ = write!(text, " {:>24}", spread(&values));
        }
        text.push('\n');
    }
    for (kind, fault) in results.faults() {
        let _ = writeln!(text, "FAILED: {kind}: {fault}");
    }
    text
}

/// Median (least-greatest).
fn spread(values: &[f64]) -> String {
    let Some(middle) = median(values) else { return "-".to_owned() };
    let digits = match middle.abs() {
        ..1.0 => 3,
        1.0..1000.0 => 1,
        _ => 0,
    };
    let (low, high) = range(values);
    match values {
        [_] => format!("{middle:.digits$}"),
        _ => format!("{middle:.digits$} ({low:.digits$}-{high:.digits$})"),
    }
}

/// The ratios that count, and whether the goals are met.
pub(crate) fn goals(all: &[Ran]) -> String {
    let mut text = format!(
        "\n{:<15} {:<24} {:<12} {:>18} {:>6} {:>8}  {}\n",
        "scenario", "metric", "ratio to", "median (min-max)", "must", "stretch", "verdict"
    );
    for (scenario, results) in all {
        for goal in scenario.goals {
            text.push_str(&line(scenario, results, goal, Kind::Outrigger));
        }
        let mut metrics: Vec<Metric> = scenario.goals.iter().map(|goal| goal.metric).collect();
        metrics.dedup();
        for metric in metrics {
            let ratios = results.ratios((Kind::Outrigger, Kind::Baseline), metric);
            if let Some(ratio) = ratio(&ratios) {
                let (name, metric, to) = (scenario.name, metric.name(), Kind::Baseline);
                let _ = writeln!(text, "{name:<15} {metric:<24} {to:<12} {ratio:>18}");
            }
        }
    }
    text
}

fn line(scenario: &Scenario, results: &Results, goal: &Goal, kind: Kind) -> String {
    let ratios = results.ratios((kind, goal.against), goal.metric);
    let (Some(middle), Some(ratio)) = (median(&ratios), ratio(&ratios)) else { return String::new() };
    let stretch = goal.stretch.map_or_else(|| "-".to_owned(), |stretch| format!("{stretch:.2}"));
    let spans = median(&results.values(kind, Metric::Spans)).unwrap_or(0.0);
    let verdict = match goal.stretch {
        // Whoever traces nothing is cheap, and proves nothing.
        _ if scenario.sampling == 100 && spans < 0.95 => &format!("VOID: {spans:.2} spans a request"),
        _ if middle > goal.must => "MISSED",
        Some(stretch) if middle <= stretch => "met, and the stretch",
        _ => "met",
    };
    format!(
        "{:<15} {:<24} {:<12} {ratio:>18} {:>6.2} {stretch:>8}  {verdict}\n",
        scenario.name,
        goal.metric.name(),
        goal.against,
        goal.must
    )
}

fn ratio(ratios: &[f64]) -> Option<String> {
    let (low, high) = range(ratios);
    median(ratios).map(|middle| format!("{middle:.2} ({low:.2}-{high:.2})"))
}

/// Every value of every round.
pub(crate) fn raw(all: &[Ran], seconds: f64) -> Value {
    let scenarios = all.iter().map(|(scenario, results)| {
        let proxies = results.kinds().map(|kind| {
            let rounds = results.rounds(kind).iter().map(|round| match round {
                Ok(values) => {
                    values.iter().map(|(metric, value)| (metric.name().to_owned(), json!(value))).collect()
                }
                Err(fault) => Value::from_iter([("fault", fault.as_str())]),
            });
            (kind.name().to_owned(), rounds.collect::<Value>())
        });
        (scenario.name.to_owned(), proxies.collect::<Value>())
    });
    json!({"seconds": seconds, "scenarios": scenarios.collect::<Value>()})
}
