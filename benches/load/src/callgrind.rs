//! Reads what `valgrind --tool=callgrind` writes: instructions, by the function that executed them itself.

use std::{collections::BTreeMap, fs, path::Path};

use crate::Outcome;

/// Instructions by function.
pub(crate) type Costs = BTreeMap<String, i64>;

/// Reads a file.
pub(crate) fn read(path: &Path) -> Outcome<Costs> {
    let text = fs::read_to_string(path).map_err(|error| format!("valgrind has written nothing: {error}"))?;
    Ok(parse(&text))
}

fn parse(text: &str) -> Costs {
    let mut names: BTreeMap<&str, &str> = BTreeMap::new();
    let (mut costs, mut function) = (Costs::new(), "");
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("fn=").or_else(|| line.strip_prefix("cfn=")) {
            // A name stands beside its number the first time only.
            let (number, name) = name.split_once(' ').unwrap_or((name, ""));
            if !name.is_empty() {
                names.insert(number, name);
            }
            if line.starts_with("fn=") {
                function = names.get(number).copied().unwrap_or(number);
            }
        } else if line.starts_with("calls=") {
            // The next line is the cost of the callee.
            lines.next();
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first))
            && let Some(cost) = line.split(' ').nth(1).and_then(|cost| cost.parse::<i64>().ok())
        {
            match costs.get_mut(function) {
                Some(sum) => *sum += cost,
                None => drop(costs.insert(function.to_owned(), cost)),
            }
        }
    }
    costs
}

/// What the longer run spent more, by function.
pub(crate) fn difference(long: Costs, short: &Costs) -> Costs {
    let more = long.into_iter().map(|(name, cost)| {
        let less = short.get(&name).copied().unwrap_or(0);
        (name, cost - less)
    });
    more.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_count_what_they_execute_themselves() {
        let file = "events: Ir\n\nfl=(1) main.rs\nfn=(1) main\n12 100\ncfn=(2) work\ncalls=1 40\n+1 5000\n+2 10\n\
            fn=(2)\n40 5000\nfi=(3)\n* 7\n\nfn=(1)\n- 1\ntotals: 5118\n";
        assert_eq!(parse(file), Costs::from([("main".to_owned(), 111), ("work".to_owned(), 5007)]));
    }
}
