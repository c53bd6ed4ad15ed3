//! A rule set as the kernel takes it: nf_tables messages. [`installed`] is the kernel's own list, read back.
//!
//! The layout is that of the kernel's `nf_tables.h`; the end-to-end test compares what `nft` makes of the result with
//! what it makes of the text.

mod expressions;
mod installed;

use super::{
    netlink::{Attributes, Flags, Message},
    rules::{Chain, Hook, HookPoint, Rule, RuleSet},
    text::TABLE,
};
use expressions::Expression;
pub(super) use installed::Installed;

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
pub(super) fn replacement(rules: &RuleSet) -> Vec<Step> {
    // To delete what is not there is an error, to add what is there is none.
    let mut steps = vec![
        table(NEW_TABLE, Flags::CREATE, "to add the table"),
        table(DELETE_TABLE, Flags::CHANGE, "to delete the table"),
    ];
    if !rules.chains.is_empty() {
        steps.extend(addition(rules));
    }
    steps
}

/// Adds our table where there is none. A deletion has the kernel wait some ten milliseconds until nobody reads what was
/// deleted, which a pod that starts can do without.
pub(super) fn addition(rules: &RuleSet) -> Vec<Step> {
    let mut steps = vec![table(NEW_TABLE, Flags::CREATE, "to add the table")];
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

fn table(kind: u8, flags: Flags, what: &str) -> Step {
    Step { message: message(kind, flags, Attributes::new().text(TABLE_NAME, TABLE)), what: what.to_owned() }
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
