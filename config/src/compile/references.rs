//! References between resources: what dangles loads, and says what will happen to its requests.

use super::Compiler;
use crate::{
    fields::did_you_mean,
    istio::{
        destination::Destination, destination_rule::DestinationRule, selects, virtual_service::VirtualService,
    },
    registry::Service,
    report::Code,
};

const ANSWER: &str = "its requests get 503 with the flag NC";
const CLOSED: &str = "its connections are closed with the flag NC";

impl Compiler<'_> {
    pub(super) fn check_references(&mut self) {
        for vs in self.virtual_services.iter() {
            self.check_hosts(vs);
            for destination in vs.http.iter().flat_map(|rule| &rule.destinations) {
                self.check_destination(destination, ANSWER);
            }
            let tls = vs.tls.iter().flat_map(|rule| &rule.destinations);
            for destination in tls.chain(vs.tcp.iter().flat_map(|rule| &rule.destinations)) {
                self.check_destination(destination, CLOSED);
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

    fn check_destination(&mut self, destination: &Destination, answer: &str) {
        let host = &destination.host;
        let Some(service) = self.registry.find(&host.value) else {
            let help = self.similar_host(&host.value);
            let message = format!("no service has the host `{}`", host.value);
            let found = self.sink.report(Code::UnknownHost, host.span, message);
            found.label(answer).help(help);
            return;
        };
        if let Some(port) = destination.port.filter(|port| service.port(port.value).is_none()) {
            let ports: Vec<_> = service.ports.iter().map(|port| port.number.to_string()).collect();
            let message = format!("`{}` has no port {}", service.host, port.value);
            let found = self.sink.report(Code::UnknownPort, port.span, message);
            found.label(answer).note(format!("{} has {}", service.origin, ports.join(", ")));
        }
        self.check_subset(destination, service, answer);
    }

    fn check_subset(&mut self, destination: &Destination, service: &Service, answer: &str) {
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
        found.label(answer);
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
        let mut services = self.registry.covered_by(&rule.host.value).peekable();
        if services.peek().is_none() {
            let message = format!("no service has the host `{}`", rule.host.value);
            let help = self.similar_host(&rule.host.value);
            let found = self.sink.report(Code::UnknownHost, rule.host.span, message);
            found.label("the rule has no effect").help(help);
            return;
        }
        let workloads: Vec<_> = services.flat_map(|service| &service.endpoints).collect();
        for subset in rule.subsets.iter().filter(|_| !workloads.is_empty()) {
            if !workloads.iter().any(|workload| selects(&subset.labels, &workload.labels)) {
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
        format!("{guess}{rule}: write `name`, or `name.namespace.svc.cluster.local`")
    }
}
