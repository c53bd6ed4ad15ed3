//! Cross-origin requests (Envoy's filter `cors`): preflights are answered here, and answers to an allowed origin say so.

use http::{
    HeaderMap, HeaderValue, Method,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    },
};
use outrigger_config::{
    decide::{CrossOrigin, cross_origin},
    snapshot::Cors,
};

use crate::upstream::stats::FilterStats;

/// What a policy says to a request.
#[derive(Debug)]
pub(crate) enum Verdict<'p> {
    /// Nothing: it is not asked, or the origin is foreign and finds out by the answer.
    Silent,
    /// The answer is to say that it is allowed.
    Allowed(Leave<'p>),
    /// A preflight, to be answered with these headers.
    Preflight(HeaderMap),
}

/// An origin and what it is allowed.
#[derive(Debug)]
pub(crate) struct Leave<'p> {
    policy: &'p Cors,
    origin: HeaderValue,
}

/// Looks at a request.
pub(crate) fn judge<'p>(
    policy: &'p Cors,
    method: &Method,
    headers: &HeaderMap,
    stats: &FilterStats,
) -> Verdict<'p> {
    let Some(CrossOrigin { origin, allowed, preflight }) = cross_origin(policy, method, headers) else {
        return Verdict::Silent;
    };
    if !allowed {
        stats.cors_origin_invalid.inc();
        return if preflight && !policy.forward_unmatched_preflights {
            Verdict::Preflight(preflight_answer(policy, None))
        } else {
            Verdict::Silent
        };
    }
    stats.cors_origin_valid.inc();
    match preflight {
        true => Verdict::Preflight(preflight_answer(policy, Some(origin))),
        false => Verdict::Allowed(Leave { policy, origin: origin.clone() }),
    }
}

/// Envoy's order. Without leave the rest is told all the same, but for the headers to expose.
fn preflight_answer(policy: &Cors, origin: Option<&HeaderValue>) -> HeaderMap {
    let credentials = HeaderValue::from_static("true");
    let credentials = Some(&credentials).filter(|_| policy.allow_credentials);
    let expose = policy.expose_headers.as_ref().filter(|_| origin.is_some());
    let lines = [
        (ACCESS_CONTROL_ALLOW_ORIGIN, origin),
        (ACCESS_CONTROL_ALLOW_CREDENTIALS, credentials),
        (ACCESS_CONTROL_ALLOW_METHODS, policy.allow_methods.as_ref()),
        (ACCESS_CONTROL_ALLOW_HEADERS, policy.allow_headers.as_ref()),
        (ACCESS_CONTROL_MAX_AGE, policy.max_age.as_ref()),
        (ACCESS_CONTROL_EXPOSE_HEADERS, expose),
    ];
    lines.into_iter().filter_map(|(name, value)| Some((name, value?.clone()))).collect()
}

impl Leave<'_> {
    /// Tells the browser, whatever the upstream told it.
    pub(crate) fn tell(self, headers: &mut HeaderMap) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, self.origin);
        if self.policy.allow_credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        if let Some(expose) = &self.policy.expose_headers {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use http::header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN};
    use outrigger_config::snapshot::ValueMatch;

    use super::*;

    fn policy() -> Cors {
        Cors {
            allow_origins: [ValueMatch::Exact("https://a".into()), ValueMatch::Prefix("https://b".into())]
                .into(),
            allow_methods: Some(HeaderValue::from_static("GET")),
            allow_headers: Some(HeaderValue::from_static("x-a")),
            expose_headers: Some(HeaderValue::from_static("x-c")),
            max_age: Some(HeaderValue::from_static("60")),
            allow_credentials: true,
            forward_unmatched_preflights: true,
        }
    }

    fn asked(
        policy: &Cors,
        method: &Method,
        lines: &[(http::HeaderName, &'static str)],
    ) -> (char, Vec<String>) {
        let headers = lines.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
        let verdict = judge(policy, method, &headers.collect(), &FilterStats::default());
        let (kind, told) = match verdict {
            Verdict::Silent => ('s', HeaderMap::new()),
            Verdict::Allowed(leave) => {
                let mut headers = HeaderMap::new();
                leave.tell(&mut headers);
                ('a', headers)
            }
            Verdict::Preflight(headers) => ('p', headers),
        };
        (kind, told.keys().map(|name| name.as_str().replace("access-control-", "")).collect())
    }

    const POST: (http::HeaderName, &str) = (ACCESS_CONTROL_REQUEST_METHOD, "POST");

    #[test]
    fn a_preflight_is_answered_in_envoys_order() {
        let lines = [(ORIGIN, "https://a"), POST];
        let expected = [
            "allow-origin",
            "allow-credentials",
            "allow-methods",
            "allow-headers",
            "max-age",
            "expose-headers",
        ];
        assert_eq!(asked(&policy(), &Method::OPTIONS, &lines), ('p', expected.map(str::to_owned).to_vec()));
        let plain = Cors {
            allow_methods: None,
            allow_headers: None,
            expose_headers: None,
            max_age: None,
            allow_credentials: false,
            ..policy()
        };
        assert_eq!(asked(&plain, &Method::OPTIONS, &lines).1, ["allow-origin"]);
    }

    #[test]
    fn a_foreign_preflight_goes_on_or_is_answered_without_leave() {
        let lines = [(ORIGIN, "https://z"), POST];
        assert_eq!(asked(&policy(), &Method::OPTIONS, &lines).0, 's');
        let ignores = Cors { forward_unmatched_preflights: false, ..policy() };
        let expected = ["allow-credentials", "allow-methods", "allow-headers", "max-age"];
        assert_eq!(asked(&ignores, &Method::OPTIONS, &lines), ('p', expected.map(str::to_owned).to_vec()));
        assert_eq!(asked(&ignores, &Method::GET, &lines).0, 's');
    }

    #[test]
    fn only_options_with_a_method_to_come_is_a_preflight() {
        let origin = (ORIGIN, "https://bb");
        let expected = ["allow-origin", "allow-credentials", "expose-headers"].map(str::to_owned).to_vec();
        assert_eq!(asked(&policy(), &Method::GET, &[origin.clone(), POST]), ('a', expected));
        assert_eq!(asked(&policy(), &Method::OPTIONS, std::slice::from_ref(&origin)).0, 'a');
        let empty = (ACCESS_CONTROL_REQUEST_METHOD, "");
        assert_eq!(asked(&policy(), &Method::OPTIONS, &[origin, empty]).0, 'a');
    }

    #[test]
    fn no_origin_or_two_of_them_get_no_leave() {
        for lines in [&[] as &[_], &[(ORIGIN, "")], &[(ORIGIN, "https://b"), (ORIGIN, "https://b")]] {
            assert_eq!(asked(&policy(), &Method::GET, lines).0, 's', "{lines:?}");
        }
    }
}
