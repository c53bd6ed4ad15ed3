//! What is in the kernel, compared with what should be.

use super::{
    CHAIN_NAME, CHAIN_TABLE, EXPRESSION_DATA, EXPRESSION_NAME, LIST_ELEMENT, RULE_CHAIN, RULE_EXPRESSIONS,
    RULE_TABLE, chain_attributes, expressions, shortened,
};
use crate::capture_rules::{
    netlink::attributes,
    rules::{Chain, Rule, RuleSet},
    text::TABLE,
};

/// Bytes of `struct nfgenmsg` before the attributes.
const FIXED: usize = 4;

/// The chains and rules of our table, each as the kernel's answer tells it.
#[derive(Debug)]
pub(in crate::capture_rules) struct Installed {
    chains: Vec<Vec<u8>>,
    rules: Vec<Vec<u8>>,
}

impl Installed {
    /// From the answers to [`list_chains`](super::list_chains) and [`list_rules`](super::list_rules).
    pub(in crate::capture_rules) fn new(mut chains: Vec<Vec<u8>>, mut rules: Vec<Vec<u8>>) -> Self {
        chains.retain(|body| text(body, CHAIN_TABLE) == Some(TABLE.as_bytes()));
        rules.retain(|body| text(body, RULE_TABLE) == Some(TABLE.as_bytes()));
        Self { chains, rules }
    }

    pub(in crate::capture_rules) fn is_empty(&self) -> bool {
        self.chains.is_empty()
    }

    /// The first difference to `wanted`, if there is one.
    ///
    /// The kernel may tell more about an expression than it was told, such as counts; what it was told must be there.
    pub(in crate::capture_rules) fn difference(&self, wanted: &RuleSet) -> Option<String> {
        self.excess(wanted).or_else(|| wanted.chains.iter().find_map(|chain| self.difference_of_chain(chain)))
    }

    fn excess(&self, wanted: &RuleSet) -> Option<String> {
        let is_wanted =
            |name: &[u8]| wanted.chains.iter().any(|chain| chain.name.as_str().as_bytes() == name);
        let mut names = self.chains.iter().filter_map(|body| text(body, CHAIN_NAME));
        let name = names.find(|name| !is_wanted(name))?;
        Some(format!("there is a chain {} too many", String::from_utf8_lossy(name)))
    }

    fn difference_of_chain(&self, chain: &Chain) -> Option<String> {
        let name = chain.name.as_str();
        let Some(body) = self.chains.iter().find(|body| text(body, CHAIN_NAME) == Some(name.as_bytes()))
        else {
            return Some(format!("the chain {name} is missing"));
        };
        if !is_told(chain_attributes(chain).as_bytes(), body.get(FIXED..).unwrap_or_default()) {
            return Some(format!("the chain {name} hangs at another place"));
        }
        let rules: Vec<_> =
            self.rules.iter().filter(|body| text(body, RULE_CHAIN) == Some(name.as_bytes())).collect();
        for (index, rule) in chain.rules.iter().enumerate() {
            if !rules.get(index).is_some_and(|body| is_rule(rule, body)) {
                return Some(format!("rule {} of chain {name} is not `{}`", index + 1, shortened(rule)));
            }
        }
        (rules.len() > chain.rules.len()).then(|| format!("the chain {name} has rules behind ours"))
    }
}

fn is_rule(rule: &Rule, body: &[u8]) -> bool {
    let expected = expressions::of(rule);
    let list = attribute(body, RULE_EXPRESSIONS).unwrap_or_default();
    let found: Vec<_> =
        attributes(list).filter(|(kind, _)| *kind == LIST_ELEMENT).map(|(_, value)| value).collect();
    expected.len() == found.len()
        && expected.iter().zip(found).all(|(expected, found)| {
            let part = |wanted| attributes(found).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
            part(EXPRESSION_NAME).map(without_end) == Some(expected.name.as_bytes())
                && is_told(expected.attributes.as_bytes(), part(EXPRESSION_DATA).unwrap_or_default())
        })
}

/// Whether each attribute of `expected` is among those of `found`.
fn is_told(expected: &[u8], found: &[u8]) -> bool {
    attributes(expected).all(|attribute| attributes(found).any(|other| other == attribute))
}

/// An attribute of an answer.
fn attribute(body: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(body.get(FIXED..)?).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// A text of an answer.
fn text(body: &[u8], wanted: u16) -> Option<&[u8]> {
    attribute(body, wanted).map(without_end)
}

fn without_end(text: &[u8]) -> &[u8] {
    text.strip_suffix(&[0]).unwrap_or(text)
}
