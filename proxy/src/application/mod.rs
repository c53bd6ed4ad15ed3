//! The application beside the sidecar, as far as Istio's agent has to do with it: its probes are asked for kubelet, its
//! metrics are scraped with the sidecar's own. Its traffic is not the business of this module.

mod probe;
mod probers;
mod scrape;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub use probers::Probers;
pub use scrape::Scrape;

/// How the application is reached, and what it is asked.
#[derive(Debug, Clone)]
pub struct Application {
    /// The pod's own address, to which probes go.
    pub address: IpAddr,
    /// Its probes, by the paths under which injection has put them.
    pub probers: Probers,
    /// Its metrics, if they are to be merged with ours.
    pub scrape: Option<Scrape>,
}

impl Default for Application {
    /// On loopback, with no probe and no metrics.
    fn default() -> Self {
        Self { address: Ipv4Addr::LOCALHOST.into(), probers: Probers::default(), scrape: None }
    }
}

impl Application {
    /// By Istio's variables `INSTANCE_IP`, `ISTIO_KUBE_APP_PROBERS`, `ISTIO_PROMETHEUS_ANNOTATIONS` and
    /// `REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION`; `own` are the addresses of our own pages.
    ///
    /// # Errors
    /// A variable that cannot be read: its probes would never succeed, which says less than this does. Metrics are not
    /// worth that: where they cannot be read, there is a warning.
    pub fn from_environment(
        environment: impl Fn(&str) -> Option<String>,
        own: &[SocketAddr],
    ) -> Result<Self, SettingError> {
        let text = |name| environment(name).unwrap_or_default();
        let setting = |variable| move |why: String| SettingError { variable, why };
        let mut address = IpAddr::from(Ipv4Addr::LOCALHOST);
        let pod = text(POD_ADDRESS);
        if !pod.is_empty() && text(LEGACY_DESTINATION) != "true" {
            address =
                pod.parse().map_err(|_| setting(POD_ADDRESS)(format!("`{pod}` is not an IP address")))?;
        }
        let probers = match environment(PROBERS) {
            Some(json) => json.parse().map_err(setting(PROBERS))?,
            None => Probers::default(),
        };
        let scrape = environment(ANNOTATIONS).and_then(|json| {
            Scrape::parse(&json, own).unwrap_or_else(|why| {
                tracing::warn!(variable = ANNOTATIONS, why, "the application's metrics are left out");
                None
            })
        });
        Ok(Self { address, probers, scrape })
    }

    /// Where probes come from, which capture lets pass (Istio's 127.0.0.6 and ::6).
    fn source(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(_) => Ipv4Addr::new(127, 0, 0, 6).into(),
            IpAddr::V6(_) => Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6).into(),
        }
    }
}

const POD_ADDRESS: &str = "INSTANCE_IP";
const PROBERS: &str = "ISTIO_KUBE_APP_PROBERS";
const ANNOTATIONS: &str = "ISTIO_PROMETHEUS_ANNOTATIONS";
const LEGACY_DESTINATION: &str = "REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION";

/// A variable that cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("error: {variable}: {why}")]
pub struct SettingError {
    variable: &'static str,
    why: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Application, String> {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, v)| (*v).to_owned());
        Application::from_environment(find, &[]).map_err(|error| error.to_string())
    }

    #[test]
    fn probes_go_to_the_pod_unless_the_old_way_is_asked_for() {
        let address = |variables: &[(&str, &str)]| read(variables).unwrap().address.to_string();
        assert_eq!(address(&[]), "127.0.0.1");
        assert_eq!(address(&[("INSTANCE_IP", "10.1.2.3")]), "10.1.2.3");
        assert_eq!(read(&[("INSTANCE_IP", "fd00::1")]).unwrap().source().to_string(), "::6");
        let legacy = ("REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION", "true");
        assert_eq!(address(&[("INSTANCE_IP", "10.1.2.3"), legacy]), "127.0.0.1");
    }

    #[test]
    fn bad_annotations_for_prometheus_cost_the_scrape_and_not_the_start() {
        let scrape = |json: &str| read(&[("ISTIO_PROMETHEUS_ANNOTATIONS", json)]).unwrap().scrape;
        assert!(scrape(r#"{"port":"9090"}"#).is_some());
        for bad in ["[", r#"{"port":"metrics"}"#, r#"{"path":"a b"}"#] {
            assert!(scrape(bad).is_none(), "{bad}");
        }
        let own = ["0.0.0.0:15020".parse().unwrap()];
        let itself = |name: &str| (name == ANNOTATIONS).then(|| r#"{"port":"15020"}"#.to_owned());
        assert!(Application::from_environment(itself, &own).unwrap().scrape.is_none());
    }

    #[test]
    fn an_error_names_the_variable() {
        for (variable, value, why) in [
            ("INSTANCE_IP", "pod", "`pod` is not an IP address"),
            ("ISTIO_KUBE_APP_PROBERS", "[", "no JSON object of probes: "),
        ] {
            let error = read(&[(variable, value)]).unwrap_err();
            assert!(error.starts_with(&format!("error: {variable}: {why}")), "{error}");
        }
    }
}
