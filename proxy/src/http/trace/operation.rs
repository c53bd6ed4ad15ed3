//! What a span is called (Envoy's decorator): the operation of the route, told to the other side's sidecar so that both
//! spans have one name.

use http::{HeaderMap, HeaderName, HeaderValue};
use outrigger_config::snapshot::Direction;

const X_ENVOY_DECORATOR_OPERATION: HeaderName = HeaderName::from_static("x-envoy-decorator-operation");

/// The name of a request's span, and what the answer has to tell the caller of it.
#[derive(Debug, Default)]
pub(crate) struct Operation {
    pub(crate) name: Option<HeaderValue>,
    pub(crate) answer: Option<HeaderValue>,
}

/// Outbound the route's operation goes along as a header; inbound the caller's name wins, and one that it did not tell
/// goes back to it.
pub(crate) fn of_request(
    direction: Direction,
    route: Option<&HeaderValue>,
    headers: &mut HeaderMap,
) -> Operation {
    match direction {
        Direction::Outbound => {
            if let Some(operation) = route {
                headers.insert(X_ENVOY_DECORATOR_OPERATION, operation.clone());
            }
            Operation { name: route.cloned(), answer: None }
        }
        Direction::Inbound => {
            let told = headers.remove(X_ENVOY_DECORATOR_OPERATION).filter(|told| !told.is_empty());
            match told {
                Some(told) => Operation { name: Some(told), answer: None },
                None => Operation { name: route.cloned(), answer: route.cloned() },
            }
        }
    }
}

/// What the called side's sidecar says its operation is; the header ends here.
pub(crate) fn of_answer(headers: &mut HeaderMap) -> Option<HeaderValue> {
    headers.remove(X_ENVOY_DECORATOR_OPERATION).filter(|told| !told.is_empty())
}

/// Tells the caller.
pub(crate) fn tell(answer: HeaderValue, headers: &mut HeaderMap) {
    headers.insert(X_ENVOY_DECORATOR_OPERATION, answer);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(told: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(X_ENVOY_DECORATOR_OPERATION, HeaderValue::from_static(told))])
    }

    #[test]
    fn a_client_sends_the_operation_of_its_route() {
        let route = HeaderValue::from_static("web:80/*");
        let mut sent = headers("the application's");
        let operation = of_request(Direction::Outbound, Some(&route), &mut sent);
        assert_eq!((operation.name, operation.answer), (Some(route.clone()), None));
        assert_eq!(sent[X_ENVOY_DECORATOR_OPERATION], route);
        let mut sent = headers("kept");
        assert!(of_request(Direction::Outbound, None, &mut sent).name.is_none());
        assert_eq!(sent[X_ENVOY_DECORATOR_OPERATION], "kept");
    }

    #[test]
    fn a_server_takes_the_name_it_is_told_or_tells_its_own() {
        let route = HeaderValue::from_static("own:80/*");
        let mut got = headers("told");
        let operation = of_request(Direction::Inbound, Some(&route), &mut got);
        assert_eq!((operation.name.unwrap(), operation.answer), (HeaderValue::from_static("told"), None));
        assert!(got.is_empty());
        let operation = of_request(Direction::Inbound, Some(&route), &mut headers(""));
        assert_eq!((operation.name, operation.answer), (Some(route.clone()), Some(route)));
    }
}
