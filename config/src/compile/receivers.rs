//! Where telemetry goes: names of providers to what they stand for, and receivers to clusters of the registry.

use std::{net::IpAddr, sync::Arc};

use super::Compiler;
use crate::{
    fields::did_you_mean,
    istio::{
        mesh::ProviderName,
        providers::{Kind, Provider, Receiver, Tracer, is_named},
    },
    report::Code,
    snapshot::{ClusterId, ClusterRef, Destination},
};

/// Istio's own provider of access logs: a file, `/dev/stdout`.
pub(super) const BUILT_IN: &str = "envoy";

/// For what a provider is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    Traces,
    Logs,
}

impl Signal {
    fn fits(self, kind: &Kind) -> bool {
        match kind {
            Kind::Tracer(_) => self == Self::Traces,
            Kind::FileLog(_) | Kind::OtelLog(_) => self == Self::Logs,
            Kind::Other => false,
        }
    }

    fn items(self) -> &'static str {
        match self {
            Self::Traces => "spans",
            Self::Logs => "access logs",
        }
    }
}

impl<'a> Compiler<'a> {
    /// The first name counts, as in Istio; what cannot be used is passed over after a warning.
    pub(super) fn tracer(&mut self, names: &[ProviderName]) -> Option<(&'a Provider, &'a Tracer)> {
        let (first, others) = names.split_first()?;
        for other in others {
            let message = format!("`{}` is not used: spans have one provider", other.value);
            let found = self.sink.report(Code::UnusedProvider, other.span, message);
            found.label("has no effect").note(format!("`{}` stands before it", first.value));
        }
        let provider = self.provider(first, Signal::Traces)?;
        match &provider.kind {
            Kind::Tracer(tracer) => Some((provider, tracer)),
            _ => None,
        }
    }

    /// `None` after a warning; the built-in provider is not among them.
    pub(super) fn provider(&mut self, name: &ProviderName, signal: Signal) -> Option<&'a Provider> {
        let providers = &self.mesh.providers;
        let items = signal.items();
        let found = providers.iter().find(|provider| is_named(&provider.name, &name.value));
        if let Some(provider) = found.filter(|provider| signal.fits(&provider.kind)) {
            return Some(provider);
        }
        let fitting = providers.iter().filter(|provider| signal.fits(&provider.kind));
        let built_in = (signal == Signal::Logs).then_some(BUILT_IN);
        let known: Vec<&str> = fitting.map(|provider| &*provider.name).chain(built_in).collect();
        let (code, message, guess) = match found {
            Some(provider) => {
                let message = match provider.field {
                    "" => format!("the provider `{}` is of no kind", name.value),
                    kind => format!("the provider `{}` is `{kind}`, which takes no {items}", name.value),
                };
                (Code::UnusedProvider, message, String::new())
            }
            None => {
                let guess = did_you_mean(&name.value, known.iter().copied());
                (Code::UnknownProvider, format!("no extension provider is named `{}`", name.value), guess)
            }
        };
        let help = if known.is_empty() {
            format!("define one for {items} under `extensionProviders` of the mesh configuration")
        } else {
            let known = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            format!("{guess}providers for {items} are {known}")
        };
        self.sink.report(code, name.span, message).label("is passed over").help(help);
        None
    }

    /// What a provider says, with the cluster of its service.
    pub(super) fn receiver(&mut self, provider: &Provider, receiver: &Receiver) -> Arc<Destination> {
        let cluster =
            self.cluster_of(receiver.namespace.as_deref(), &receiver.host.value, receiver.port.value);
        if cluster.is_none() {
            self.warn_outside(receiver);
        }
        self.shared(Destination {
            name: Arc::clone(&provider.name),
            host: receiver.host.value.as_ref().into(),
            port: receiver.port.value,
            tls: None,
            cluster,
            protocol: receiver.protocol.clone(),
            headers: receiver.headers.clone(),
            timeout: receiver.timeout,
            gzip: false,
            semantic_service_name: receiver.semantic_service_name,
        })
    }

    /// An `OTEL_*` receiver, which may well be outside of the mesh. One of `https` has TLS of its own to the end, whatever
    /// the rules say of a service of its name.
    pub(super) fn resolved(&mut self, said: Option<&Destination>) -> Option<Arc<Destination>> {
        let said = said?.clone();
        let cluster = match said.tls {
            Some(_) => None,
            None => self.cluster_of(None, &said.host, said.port),
        };
        Some(self.shared(Destination { cluster, ..said }))
    }

    fn shared(&mut self, destination: Destination) -> Arc<Destination> {
        if let Some(known) = self.receivers.iter().find(|known| ***known == destination) {
            return Arc::clone(known);
        }
        let destination = Arc::new(destination);
        self.receivers.push(Arc::clone(&destination));
        destination
    }

    /// The cluster of the whole service, made if no listener has asked for it.
    fn cluster_of(&mut self, namespace: Option<&str>, host: &str, port: u16) -> Option<ClusterId> {
        let service = self.registry.find(&host.to_ascii_lowercase())?;
        if namespace.is_some_and(|namespace| namespace != &*service.meta.namespace) {
            return None;
        }
        match self.outbound(&service.host, port, "") {
            ClusterRef::Known(id) => Some(id),
            ClusterRef::Missing(_) => None,
        }
    }

    fn warn_outside(&mut self, receiver: &Receiver) {
        let host = &*receiver.host.value;
        let is_address = host.parse::<IpAddr>().is_ok();
        let (span, message, note) = match (self.registry.find(host), &receiver.namespace) {
            (None, _) => (receiver.host.span, format!("no service has the host `{host}`"), None),
            (Some(service), Some(namespace)) if **namespace != *service.meta.namespace => {
                let message = format!("`{host}` is not a service of the namespace `{namespace}`");
                (receiver.host.span, message, Some(format!("{} defines it", service.origin)))
            }
            (Some(service), _) => {
                let ports: Vec<_> = service.ports.iter().map(|port| port.number.to_string()).collect();
                let message = format!("`{host}` has no port {}", receiver.port.value);
                (receiver.port.span, message, Some(format!("{} has {}", service.origin, ports.join(", "))))
            }
        };
        let guess = did_you_mean(host, self.registry.services.iter().map(|service| &*service.host));
        let found = self.sink.report(Code::OutsideRegistry, span, message);
        found.label(if is_address { "is connected to as it stands" } else { "the host is looked up by DNS" });
        if let Some(note) = note {
            found.note(note);
        } else {
            found.help(format!("{guess}write the full host of a ServiceEntry, or `namespace/host`"));
        }
        found.note("no DestinationRule applies to a receiver outside of the registry");
    }
}
