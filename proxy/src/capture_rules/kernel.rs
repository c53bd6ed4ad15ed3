//! Carries a rule set out: reads what is there, replaces it, and reads it again.

use rustix::io::Errno;

use super::{
    Error,
    netlink::{Message, Socket, Subsystem},
    nftables, routing,
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
    let is_in_place = !forced && difference(&mut netfilter, rules)?.is_none();
    // Before the rules that count on it, or after those that did.
    routing::install(&mut routes, rules)?;
    if !is_in_place {
        replace(&mut netfilter, rules)?;
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

fn replace(netfilter: &mut Socket, rules: &RuleSet) -> Result<(), Error> {
    let (messages, subjects): (Vec<Message>, Vec<String>) =
        nftables::steps(rules).into_iter().map(|step| (step.message, step.what)).unzip();
    let [begin, end] = nftables::brackets();
    netfilter.transaction(&begin, &messages, &end).map_err(|refusal| {
        let subject = refusal.index.and_then(|index| subjects.get(index));
        Error::refused(subject.map_or("the table", String::as_str), refusal.reason)
    })
}

fn check(netfilter: &mut Socket, rules: &RuleSet) -> Result<(), Error> {
    difference(netfilter, rules)?.map_or(Ok(()), |difference| Err(Error::Differs(difference)))
}

fn difference(netfilter: &mut Socket, rules: &RuleSet) -> Result<Option<String>, Error> {
    let mut list = |message: &Message| {
        netfilter.list(message).map_err(|reason| match reason {
            Errno::PERM => Error::NotPermitted,
            Errno::INVAL | Errno::OPNOTSUPP => Error::NoNetfilter(reason),
            reason => Error::Netlink(reason),
        })
    };
    let chains = list(&nftables::list_chains())?;
    let installed = list(&nftables::list_rules())?;
    Ok(nftables::difference(rules, &chains, &installed))
}
