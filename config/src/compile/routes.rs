//! Rules of a virtual service become routes of one port, in Istio's order.

use http::HeaderValue;

use super::{Compiler, policy::layered};
use crate::{
    istio::{
        destination::Destination,
        headers::Headers,
        http_match::{Match, takes_all},
        in_mesh,
        retries::{Retries, default_retry},
        selects,
        virtual_service::{Does, HttpRule, VirtualService},
    },
    registry::Service,
    snapshot::{
        Action, Forward, HashPolicy, HeaderOps, Origin, PathMatch, RetryPolicy, Route, RouteMatch,
        WeightedCluster, written,
    },
};

impl Compiler<'_> {
    /// The routes of a virtual service on a port; empty where its static conditions leave nothing.
    pub(crate) fn rules(&mut self, vs: &VirtualService, port: u16) -> Vec<Route> {
        let mut routes = Vec::new();
        for rule in vs.http.iter().filter(|rule| is_complete(rule)) {
            let blocks: Vec<Option<&Match>> = if rule.matches.is_empty() {
                vec![None]
            } else {
                let applicable = rule.matches.iter().filter(|block| self.applies(block, port));
                applicable.map(Some).collect()
            };
            for block in blocks {
                let route = self.route(vs, rule, block, port);
                let last = takes_all(&route.when);
                routes.push(route);
                if last {
                    return routes;
                }
            }
        }
        routes
    }

    /// What is known of the proxy is decided now. A block with its own gateways is not asked for labels or namespace.
    fn applies(&self, block: &Match, port: u16) -> bool {
        let source = if block.gateways.is_empty() {
            selects(&block.source_labels, &self.node.labels)
                && block.source_namespace.as_deref().is_none_or(|wanted| *wanted == *self.node.namespace)
        } else {
            in_mesh(&block.gateways)
        };
        source && block.port.is_none_or(|wanted| wanted == port)
    }

    fn route(&mut self, vs: &VirtualService, rule: &HttpRule, block: Option<&Match>, port: u16) -> Route {
        let name = match block {
            Some(block) if !block.name.is_empty() => format!("{}.{}", rule.name, block.name),
            _ => rule.name.to_string(),
        };
        let lone = match rule.destinations() {
            [only] => Some(only),
            _ => None,
        };
        let own = rule.headers.clone().unwrap_or_default();
        let (request, response) = match lone {
            Some(only) => (
                lone_operations(&own.request, &only.headers.request),
                lone_operations(&own.response, &only.headers.response),
            ),
            None => (own.request, own.response),
        };
        let when = block.map_or_else(RouteMatch::always, |block| block.when.clone());
        Route {
            name: name.into(),
            operation: operation(&self.called(vs, lone, port), &when),
            action: self.action(rule, &when.path, port),
            when,
            request_headers: request,
            response_headers: response,
            fault: rule.fault.clone().map(Box::new),
            cors: rule.cors.clone().map(Box::new),
            origin: block.map_or(&rule.origin, |block| &block.origin).clone(),
        }
    }

    /// Istio `getRouteOperation`: the destination, or the virtual service where there are several or none.
    fn called(&self, vs: &VirtualService, lone: Option<&Destination>, port: u16) -> String {
        match lone {
            Some(only) => {
                let host = &*only.host.value;
                format!("{host}:{}", destination_port(only, self.registry.find(host), port))
            }
            None => format!("{}:{port}", vs.meta.name),
        }
    }

    /// Everything of a forwarding rule but its rewrite.
    pub(super) fn forward(&mut self, rule: &HttpRule, port: u16) -> Forward {
        let destinations = rule.destinations();
        let lone = destinations.len() == 1;
        let mut hash = Vec::new();
        let mut clusters = Vec::new();
        for destination in destinations {
            hash.extend(self.hash_of(destination));
            let headers = if lone { &Headers::default() } else { &destination.headers };
            clusters.push(WeightedCluster {
                cluster: self.destination(destination, port),
                weight: destination.weight,
                authority: headers.authority.as_ref().map(|authority| authority.value.clone()),
                request_headers: headers.request.clone(),
                response_headers: headers.response.clone(),
            });
        }
        Forward {
            total_weight: clusters.iter().map(|entry| u64::from(entry.weight)).sum(),
            authority: authority(rule),
            rewrite: None,
            timeout: rule.deadline(),
            retry: self.retry(rule, lone && !hash.is_empty()),
            clusters: clusters.into(),
            hash: hash.into(),
            mirrors: self.mirrors(rule, port),
        }
    }

    pub(super) fn destination(
        &mut self,
        destination: &Destination,
        listener: u16,
    ) -> crate::snapshot::ClusterRef {
        let service = self.registry.find(&destination.host.value);
        let port = destination_port(destination, service, listener);
        let subset = destination.subset.as_ref().map_or("", |subset| &subset.value);
        self.outbound(&destination.host.value, port, subset)
    }

    /// A port's policy is seen only if the destination names the port.
    pub(super) fn hash_of(&self, destination: &Destination) -> Option<HashPolicy> {
        let service = self.registry.find(&destination.host.value)?;
        let rule = self.rules.of(service)?;
        let subset = destination.subset.as_ref();
        let subset = subset.and_then(|name| rule.subsets.iter().find(|subset| subset.name == name.value));
        layered(Some(rule), subset, destination.port.map(|port| port.value)).load_balancer?.hash
    }

    /// The same host is tried again where a hash chose it.
    fn retry(&self, rule: &HttpRule, sticky: bool) -> Option<RetryPolicy> {
        let policy = match (&rule.retries, &self.mesh.retries) {
            (Some(Retries(policy)), _) | (None, Some(Retries(policy))) => policy.clone()?,
            (None, None) => default_retry(),
        };
        let shorter = |per_try: &_| rule.deadline().is_none_or(|timeout| *per_try < timeout);
        Some(RetryPolicy {
            per_try_timeout: policy.per_try_timeout.filter(shorter),
            avoid_previous_hosts: policy.avoid_previous_hosts && !sticky,
            ..policy
        })
    }

    /// A service that no virtual service speaks for: all endpoints, default retries.
    pub(crate) fn default_route(&mut self, service: &Service, port: u16) -> Route {
        let cluster = self.outbound(&service.host, port, "");
        let hash =
            layered(self.rules.of(service), None, Some(port)).load_balancer.and_then(|block| block.hash);
        let policy = match &self.mesh.retries {
            Some(Retries(policy)) => policy.clone(),
            None => Some(default_retry()),
        };
        let retry = policy.map(|policy| RetryPolicy {
            avoid_previous_hosts: policy.avoid_previous_hosts && hash.is_none(),
            ..policy
        });
        Route {
            operation: operation(&format!("{}:{port}", service.host), &RouteMatch::always()),
            ..plain_route("default", cluster, retry, hash.into_iter().collect(), service.origin.clone())
        }
    }
}

/// False for what could not be read, and for what delegates have taken the place of.
fn is_complete(rule: &HttpRule) -> bool {
    match &rule.does {
        Does::Route(destinations) => !destinations.is_empty(),
        Does::Redirect(_) | Does::Direct(_) => true,
        Does::Delegate(_) => false,
    }
}

/// The route's own, before that of a lone destination. (Of several, each sets its own before.)
fn authority(rule: &HttpRule) -> Option<HeaderValue> {
    let rewrite = rule.rewrite.as_ref().and_then(|rewrite| rewrite.authority.clone());
    let lone = match rule.destinations() {
        [only] => Some(&only.headers),
        _ => None,
    };
    let mut headers = rule.headers.iter().chain(lone).filter_map(|headers| headers.authority.as_ref());
    rewrite.or_else(|| headers.next().map(|authority| authority.value.clone()))
}

/// `destination.port`, else the service's only port, else the port on which the request came.
pub(crate) fn destination_port(destination: &Destination, service: Option<&Service>, listener: u16) -> u16 {
    let only = service.and_then(|service| match &*service.ports {
        [only] => Some(only.number),
        _ => None,
    });
    destination.port.map(|port| port.value).or(only).unwrap_or(listener)
}

/// Everything to one cluster.
pub(crate) fn plain_route(
    name: &str,
    cluster: crate::snapshot::ClusterRef,
    retry: Option<RetryPolicy>,
    hash: Box<[HashPolicy]>,
    origin: Origin,
) -> Route {
    let forward = Forward { retry, hash, ..Forward::to(cluster) };
    Route::always(name, Action::Forward(Box::new(forward)), origin)
}

/// What is called, and the path as the route matches it.
pub(crate) fn operation(called: &str, when: &RouteMatch) -> Option<HeaderValue> {
    let path = match &when.path {
        PathMatch::Prefix { value, .. } => format!("{value}*"),
        PathMatch::Exact { value, .. } => value.to_string(),
        PathMatch::Regex(regex) => written(regex).to_owned(),
    };
    HeaderValue::from_str(&format!("{called}{path}")).ok()
}

/// With one destination Istio appends its operations behind the route's, in one list: there the destination wins. (With
/// several, Envoy runs the destination's first, and the route wins.)
fn lone_operations(route: &HeaderOps, destination: &HeaderOps) -> HeaderOps {
    let replaced = |name| destination.set.iter().any(|(set, _)| set == name);
    let kept = route.add.iter().filter(|(name, _)| !replaced(name));
    HeaderOps {
        remove: route.remove.iter().chain(&destination.remove).cloned().collect(),
        set: route.set.iter().chain(&destination.set).cloned().collect(),
        add: kept.chain(&destination.add).cloned().collect(),
    }
}
