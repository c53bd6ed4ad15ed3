//! Carries a rule set out: reads what is there, replaces it, and reads it again.

use rustix::io::Errno;

use super::{
    Error,
    netlink::{Message, Socket, Subsystem},
    nftables::{self, Installed, Step},
    routing,
    rules::RuleSet,
};

/// What became of a rule set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Installed,
    /// It was there already.
    InPlace,
}

/// Installs `rules` in the network namespace of this thread, in place of what was there of ours, all or nothing, and
/// reads them back. An empty set takes everything away.
///
/// Rules that are in place already are left alone, unless `forced`.
///
/// # Errors
/// The table is as it was, if the kernel refused a part of the new one.
pub(crate) fn apply(rules: &RuleSet, forced: bool) -> Result<Change, Error> {
    let mut netfilter = netfilter()?;
    let mut routes = Socket::open(Subsystem::Routing).map_err(Error::Netlink)?;
    let installed = read(&mut netfilter)?;
    // An empty table of ours is in nobody's way, but a clean-up leaves none.
    let is_in_place = !forced && !rules.chains.is_empty() && installed.difference(rules).is_none();
    // Before the rules that count on it, or after those that did.
    routing::install(&mut routes, rules)?;
    if !is_in_place {
        let is_new = installed.is_empty() && !rules.chains.is_empty();
        let steps = if is_new { nftables::addition(rules) } else { nftables::replacement(rules) };
        carry_out(&mut netfilter, steps)?;
        check(&mut netfilter, rules)?;
    }
    routing::tidy(&mut routes, rules)?;
    Ok(if is_in_place { Change::InPlace } else { Change::Installed })
}

/// Compares the kernel's table with `rules`: each chain, each rule and their order. It proves what the kernel will do
/// with a connection, not that the sidecar listens.
///
/// # Errors
/// The first difference.
pub(crate) fn verify(rules: &RuleSet) -> Result<(), Error> {
    check(&mut netfilter()?, rules)
}

fn netfilter() -> Result<Socket, Error> {
    Socket::open(Subsystem::Netfilter).map_err(Error::NoNetfilter)
}

fn carry_out(netfilter: &mut Socket, steps: Vec<Step>) -> Result<(), Error> {
    let (messages, subjects): (Vec<_>, Vec<_>) =
        steps.into_iter().map(|step| (step.message, step.what)).unzip();
    let [begin, end] = nftables::brackets();
    netfilter.transaction(&begin, &messages, &end).map_err(|refusal| {
        let subject = refusal.index.and_then(|index| subjects.get(index));
        Error::refused(subject.map_or("the table", String::as_str), refusal.reason)
    })
}

fn check(netfilter: &mut Socket, rules: &RuleSet) -> Result<(), Error> {
    read(netfilter)?.difference(rules).map_or(Ok(()), |difference| Err(Error::Differs(difference)))
}

fn read(netfilter: &mut Socket) -> Result<Installed, Error> {
    let mut list = |message: &Message| {
        netfilter.list(message).map_err(|reason| match reason {
            Errno::PERM => Error::NotPermitted,
            Errno::INVAL | Errno::OPNOTSUPP => Error::NoNetfilter(reason),
            reason => Error::Netlink(reason),
        })
    };
    Ok(Installed::new(list(&nftables::list_chains())?, list(&nftables::list_rules())?))
}
