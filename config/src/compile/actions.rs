//! What a rule does with the requests of one match and port: `route` with its `rewrite`, `redirect`, `directResponse`.

use std::num::NonZeroU16;

use super::Compiler;
use crate::{
    istio::{
        redirect::{self, RedirectPath, RedirectPort},
        rewrite::RewritePath,
        virtual_service::{Does, HttpRule},
    },
    snapshot::{Action, PathMatch, PathRewrite, Redirect, RedirectScheme},
};

impl Compiler<'_> {
    /// `path` is what the route matches, `port` that of the listener.
    pub(super) fn action(&mut self, rule: &HttpRule, path: &PathMatch, port: u16) -> Action {
        match &rule.does {
            Does::Redirect(to) => Action::Redirect(Box::new(redirect(to, path, port))),
            Does::Direct(response) => Action::Direct(Box::new(response.clone())),
            Does::Route(_) | Does::Delegate(_) => {
                let mut forward = self.forward(rule, port);
                forward.rewrite =
                    rule.rewrite.as_ref().and_then(|block| block.path.as_ref()).map(|new| match new {
                        RewritePath::Matched(value) => replaced(path, value),
                        RewritePath::Regex { pattern, substitution } => PathRewrite::Regex {
                            pattern: pattern.clone(),
                            substitution: substitution.clone(),
                        },
                    });
                Action::Forward(Box::new(forward))
            }
        }
    }
}

/// A prefix is cut by its length, whichever case the request wrote it in; any other match took the whole path.
fn replaced(path: &PathMatch, value: &str) -> PathRewrite {
    match path {
        PathMatch::Prefix { value: prefix, .. } => {
            PathRewrite::Prefix { matched: prefix.len(), value: value.into() }
        }
        PathMatch::Exact { .. } | PathMatch::Regex(_) => PathRewrite::Full(value.into()),
    }
}

/// Istio `ApplyRedirect`; listeners are plain HTTP.
fn redirect(to: &redirect::Redirect, path: &PathMatch, port: u16) -> Redirect {
    let number = to.port.and_then(|written| match written {
        RedirectPort::Number(number) => Some(number),
        RedirectPort::OfRequest => NonZeroU16::new(port),
    });
    let unsaid = match to.scheme.unwrap_or(RedirectScheme::Http) {
        RedirectScheme::Http => 80,
        RedirectScheme::Https => 443,
    };
    Redirect {
        status: to.status,
        scheme: to.scheme,
        authority: to.authority.clone(),
        port: number.filter(|number| number.get() != unsaid),
        path: to.path.as_ref().map(|new| match new {
            RedirectPath::Whole(value) => PathRewrite::Full(value.clone()),
            RedirectPath::Prefix(value) => replaced(path, value),
        }),
    }
}
