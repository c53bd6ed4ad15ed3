//! References between resources: what dangles loads, and says what will happen to its requests.

use super::Compiler;
use crate::{
    fields::did_you_mean,
    istio::{
        PortProtocol, destination::Destination, destination_rule::DestinationRule, selects,
        virtual_service::VirtualService,
    },
    registry::Service,
    report::Code,
};

const ANSWER: &str = "its requests get 503 with the flag NC";
const CLOSED: &str = "its connections are closed with the flag NC";
const NO_COPY: &str = "it gets no copies";

/// What the rules are for.
#[derive(Clone, Copy)]
enum Kind {
    Requests,
    Tls,
    Bytes,
}

impl Kind {
    /// Whether the rules speak for the listeners of such a port.
    fn takes(self, protocol: PortProtocol) -> bool {
        match self {
            Self::Requests => protocol.is_http(),
            Self::Tls => protocol == PortProtocol::Tls,
            Self::Bytes => protocol == PortProtocol::Tcp,
        }
    }
}

impl Compiler<'_> {
    pub(super) fn check_references(&mut self) {
        for vs in self.virtual_services.iter() {
            self.check_hosts(vs);
            for rule in &vs.http {
                for destination in rule.destinations() {
                    self.check_destination(destination, ANSWER);
                    self.check_chosen_port(vs, destination, Kind::Requests);
                }
                for mirror in &rule.mirrors {
                    self.check_destination(&mirror.destination, NO_COPY);
                }
            }
            let tls = vs.tls.iter().flat_map(|rule| &rule.destinations).map(|to| (to, Kind::Tls));
            let tcp = vs.tcp.iter().flat_map(|rule| &rule.destinations).map(|to| (to, Kind::Bytes));
            for (destination, kind) in tls.chain(tcp) {
                self.check_destination(destination, CLOSED);
                self.check_chosen_port(vs, destination, kind);
            }
        }
        for rule in self.rules.iter() {
            self.check_rule(rule);
        }
    }

    fn check_hosts(&mut self, vs: &VirtualService) {
        for host in &vs.hosts {
            if self.registry.covered_by(&host.value).next().is_none() {
                let message = format!("no service has the host `{}`", host.value);
                let help = self.similar_host(&host.value);
                let found = self.sink.report(Code::UnknownHost, host.span, message);
                let effect =
                    if vs.http.is_empty() { "has no effect" } else { "takes effect on port 80 only" };
                found.label(effect).help(help);
            }
        }
    }

    fn check_destination(&mut self, destination: &Destination, consequence: &str) {
        let host = &destination.host;
        let Some(service) = self.registry.find(&host.value) else {
            let help = self.similar_host(&host.value);
            let message = format!("no service has the host `{}`", host.value);
            let found = self.sink.report(Code::UnknownHost, host.span, message);
            found.label(consequence).help(help);
            return;
        };
        if let Some(port) = destination.port.filter(|port| service.port(port.value).is_none()) {
            let ports: Vec<_> = service.ports.iter().map(|port| port.number.to_string()).collect();
            let message = format!("`{}` has no port {}", service.host, port.value);
            let found = self.sink.report(Code::UnknownPort, port.span, message);
            found.label(consequence).note(format!("{} has {}", service.origin, ports.join(", ")));
        }
        self.check_subset(destination, service, consequence);
    }

    /// Istio keeps the port of the listener where a destination with several ports names none.
    fn check_chosen_port(&mut self, vs: &VirtualService, destination: &Destination, kind: Kind) {
        let Some(service) = self.registry.find(&destination.host.value) else { return };
        if destination.port.is_some() || service.ports.len() < 2 {
            return;
        }
        let called = vs.hosts.iter().flat_map(|host| self.registry.covered_by(&host.value));
        let mut ports = called.flat_map(|service| &service.ports).filter(|port| kind.takes(port.protocol));
        let Some(missing) = ports.find(|port| service.port(port.number).is_none()) else { return };
        let has: Vec<_> = service.ports.iter().map(|port| port.number.to_string()).collect();
        let message = format!("`{}` has several ports, and the destination names none", service.host);
        let found = self.sink.report(Code::PortNotChosen, destination.host.span, message);
        found.label(match kind {
            Kind::Requests => format!("a request to port {} gets 503 with the flag NC", missing.number),
            Kind::Tls | Kind::Bytes => {
                format!("a connection to port {} is closed with the flag NC", missing.number)
            }
        });
        found.note(format!("it keeps its port, and {} has {}", service.origin, has.join(", ")));
        found.help("name the port: `port: { number: N }`");
    }

    fn check_subset(&mut self, destination: &Destination, service: &Service, consequence: &str) {
        let Some(subset) = &destination.subset else { return };
        let rule = self.rules.of(service);
        let subsets = rule.map(|rule| &*rule.subsets).unwrap_or_default();
        if subsets.iter().any(|known| known.name == subset.value) {
            return;
        }
        let names = subsets.iter().map(|subset| &*subset.name);
        let guess = did_you_mean(&subset.value, names.clone());
        let message = format!("the subset `{}` is not defined", subset.value);
        let found = self.sink.report(Code::UnknownSubset, subset.span, message);
        found.label(consequence);
        match rule {
            Some(rule) => {
                let names = names.collect::<Vec<_>>().join(", ");
                found.note(format!("{} defines: {names}", rule.meta.reference()));
            }
            None => {
                found.note(format!("no DestinationRule applies to `{}`", service.host));
            }
        }
        found.help(format!("{guess}subsets are defined by the DestinationRule of the host"));
    }

    fn check_rule(&mut self, rule: &DestinationRule) {
        if self.registry.covered_by(&rule.host.value).next().is_none() {
            let message = format!("no service has the host `{}`", rule.host.value);
            let help = self.similar_host(&rule.host.value);
            let found = self.sink.report(Code::UnknownRuleHost, rule.host.span, message);
            found.label("the rule has no effect").help(help);
        }
    }

    /// Subsets that no endpoint has: the one finding on rules that endpoints change.
    pub(super) fn check_subsets(&mut self) {
        for rule in self.rules.iter().filter(|rule| !rule.subsets.is_empty()) {
            self.check_subsets_of(rule);
        }
    }

    fn check_subsets_of(&mut self, rule: &DestinationRule) {
        let services: Vec<_> = self.registry.covered_by(&rule.host.value).collect();
        let workloads: Vec<_> = services.iter().flat_map(|service| &*service.endpoints).collect();
        let unlabelled: usize = services.iter().map(|service| service.without_pod).sum();
        for subset in rule.subsets.iter().filter(|_| !workloads.is_empty()) {
            if unlabelled > 0 && !subset.labels.is_empty() {
                let message = format!("the subset `{}` selects by labels of pods", subset.name);
                let found = self.sink.report(Code::UnlabelledEndpoints, subset.span, message);
                found.label(format!("{unlabelled} of {} endpoints have no Pod document", workloads.len()));
                found.note(
                    "the labels of an endpoint are those of its pod; without them no subset selects it",
                );
                found.help("add what `kubectl get pods -o yaml` writes, or write a ServiceEntry with labels");
            } else if !workloads.iter().any(|workload| selects(&subset.labels, &workload.labels)) {
                let message = format!("the subset `{}` selects no endpoint", subset.name);
                let found = self.sink.report(Code::EmptySubset, subset.span, message);
                found.label("its requests get 503 with the flag UH");
                found.help("an endpoint must have all labels of the subset");
            }
        }
    }

    fn similar_host(&self, host: &str) -> String {
        let guess = did_you_mean(host, self.registry.services.iter().map(|service| &*service.host));
        let rule = "a name with a dot is taken as a full name";
        format!("{guess}{rule}: write `name`, or `{}`", self.node.domain.host("name", "namespace"))
    }
}
