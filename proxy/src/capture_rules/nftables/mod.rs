//! A rule set as the kernel takes it: nf_tables messages, and the kernel's own list of them read back.
//!
//! The layout is that of the kernel's `nf_tables.h`; the end-to-end test compares what `nft` makes of the result with
//! what it makes of the text.

mod expressions;

use super::{
    netlink::{Attributes, Flags, Message, attributes},
    rules::{Chain, Hook, HookPoint, Rule, RuleSet},
    text::TABLE,
};
use expressions::Expression;

/// `NFNL_SUBSYS_NFTABLES`, in the upper byte of a message's kind.
const SUBSYSTEM: u8 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
/// `NFT_MSG_*`.
const NEW_TABLE: u8 = 0;
const DELETE_TABLE: u8 = 2;
const NEW_CHAIN: u8 = 3;
const GET_CHAIN: u8 = 4;
const NEW_RULE: u8 = 6;
const GET_RULE: u8 = 7;
/// `NFPROTO_INET`: IPv4 and IPv6.
const INET: u8 = 1;
/// Bytes of `struct nfgenmsg` before the attributes.
const FIXED: usize = 4;

/// Attributes, `NFTA_*`.
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USER_DATA: u16 = 7;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;

/// `NF_ACCEPT`.
const ACCEPT: u32 = 1;

/// One step towards a rule set, and what it is for the operator if the kernel refuses it.
pub(super) struct Step {
    pub(super) message: Message,
    pub(super) what: String,
}

/// Replaces our table, or takes it away if there is nothing to capture.
pub(super) fn steps(rules: &RuleSet) -> Vec<Step> {
    let table = || Attributes::new().text(TABLE_NAME, TABLE);
    let step = |message, what: &str| Step { message, what: what.to_owned() };
    // To delete what is not there is an error, to add what is there is none.
    let mut steps = vec![
        step(message(NEW_TABLE, Flags::CREATE, table()), "to add the table"),
        step(message(DELETE_TABLE, Flags::CHANGE, table()), "to delete the table"),
    ];
    if !rules.chains.is_empty() {
        steps.push(step(message(NEW_TABLE, Flags::CREATE, table()), "to add the table"));
    }
    // All chains first: a rule can jump to any.
    steps.extend(rules.chains.iter().map(|chain| Step {
        message: message(NEW_CHAIN, Flags::CREATE, chain_attributes(chain)),
        what: format!("the chain {}", chain.name.as_str()),
    }));
    steps.extend(rules.chains.iter().flat_map(|chain| {
        chain.rules.iter().map(|rule| Step {
            message: message(NEW_RULE, Flags::APPEND, rule_attributes(chain, rule)),
            what: format!("the rule `{}` of chain {}", shortened(rule), chain.name.as_str()),
        })
    }));
    steps
}

/// The brackets around a transaction.
pub(super) fn brackets() -> [Message; 2] {
    let subsystem = [0, 0, 0, SUBSYSTEM];
    [BATCH_BEGIN, BATCH_END].map(|kind| Message::new(kind, Flags::CHANGE, &subsystem, Attributes::new()))
}

pub(super) fn list_chains() -> Message {
    message(GET_CHAIN, Flags::DUMP, Attributes::new())
}

pub(super) fn list_rules() -> Message {
    message(GET_RULE, Flags::DUMP, Attributes::new().text(RULE_TABLE, TABLE))
}

/// Where the kernel's chains and rules (the bodies of its answers) are not those of `rules`, if they are not.
///
/// The kernel may tell more about an expression than it was told, such as counts; what it was told must be there.
pub(super) fn difference(rules: &RuleSet, chains: &[Vec<u8>], installed: &[Vec<u8>]) -> Option<String> {
    let chains: Vec<_> =
        chains.iter().filter(|body| value(body, CHAIN_TABLE) == Some(TABLE.as_bytes())).collect();
    let of_table: Vec<_> =
        installed.iter().filter(|body| value(body, RULE_TABLE) == Some(TABLE.as_bytes())).collect();
    for body in &chains {
        let name = value(body, CHAIN_NAME).unwrap_or_default();
        if !rules.chains.iter().any(|chain| chain.name.as_str().as_bytes() == name) {
            return Some(format!("there is a chain {} too many", String::from_utf8_lossy(name)));
        }
    }
    for chain in &rules.chains {
        let name = chain.name.as_str();
        let Some(body) = chains.iter().find(|body| value(body, CHAIN_NAME) == Some(name.as_bytes())) else {
            return Some(format!("the chain {name} is missing"));
        };
        if !is_told(chain_attributes(chain).as_bytes(), body.get(FIXED..).unwrap_or_default()) {
            return Some(format!("the chain {name} hangs at another place"));
        }
        let found: Vec<_> =
            of_table.iter().filter(|body| value(body, RULE_CHAIN) == Some(name.as_bytes())).collect();
        for (index, rule) in chain.rules.iter().enumerate() {
            if !found.get(index).is_some_and(|body| is_rule(rule, body)) {
                return Some(format!("rule {} of chain {name} is not `{}`", index + 1, shortened(rule)));
            }
        }
        if found.len() > chain.rules.len() {
            return Some(format!("the chain {name} has rules behind ours"));
        }
    }
    None
}

fn is_rule(rule: &Rule, body: &[u8]) -> bool {
    let expected = expressions::of(rule);
    let Some(list) = attribute(body, RULE_EXPRESSIONS) else { return false };
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

fn chain_attributes(chain: &Chain) -> Attributes {
    let named = Attributes::new().text(CHAIN_TABLE, TABLE).text(CHAIN_NAME, chain.name.as_str());
    let Some(Hook { kind, point, priority }) = chain.name.hook() else { return named };
    let number = match point {
        HookPoint::Prerouting => 0,
        HookPoint::Output => 3,
    };
    let hook = Attributes::new().be32(HOOK_NUMBER, number).be32(HOOK_PRIORITY, priority.cast_unsigned());
    named.nested(CHAIN_HOOK, &hook).be32(CHAIN_POLICY, ACCEPT).text(CHAIN_TYPE, kind)
}

fn rule_attributes(chain: &Chain, rule: &Rule) -> Attributes {
    let mut list = Attributes::new();
    for Expression { name, attributes } in expressions::of(rule) {
        let expression = Attributes::new().text(EXPRESSION_NAME, name).nested(EXPRESSION_DATA, &attributes);
        list = list.nested(LIST_ELEMENT, &expression);
    }
    Attributes::new()
        .text(RULE_TABLE, TABLE)
        .text(RULE_CHAIN, chain.name.as_str())
        .nested(RULE_EXPRESSIONS, &list)
        .bytes(RULE_USER_DATA, &comment(rule.why))
}

/// What `nft list` shows as a comment: kind 0, length, text.
fn comment(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len() + 1).unwrap_or_default();
    [&[0, length], text.as_bytes(), &[0]].concat()
}

/// A rule as one line of a message; one with many groups would fill a page.
fn shortened(rule: &Rule) -> String {
    let text = rule.to_string();
    match text.char_indices().nth(160) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

fn message(kind: u8, flags: Flags, attributes: Attributes) -> Message {
    Message::new(u16::from_be_bytes([SUBSYSTEM, kind]), flags, &[INET, 0, 0, 0], attributes)
}

/// An attribute of an answer.
fn attribute(body: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(body.get(FIXED..)?).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// A text of an answer.
fn value(body: &[u8], wanted: u16) -> Option<&[u8]> {
    attribute(body, wanted).map(without_end)
}

fn without_end(text: &[u8]) -> &[u8] {
    text.strip_suffix(&[0]).unwrap_or(text)
}
