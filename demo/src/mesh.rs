//! The configuration of the demo: a temporary copy of `examples/seed`, the ports of its endpoints replaced by those
//! of the collectors and the ejection times shortened, so that a person can watch.

use std::{fs, io, net::SocketAddr, path::PathBuf};

use tempfile::TempDir;

const REGISTRY: &str = include_str!("../../examples/seed/registry.yaml");
const DESTINATION_RULE: &str = include_str!("../../examples/seed/destination-rule.yaml");
const WEIGHTED: &str = include_str!("../../examples/seed/weighted.yaml");

/// The namespace that the seed's documents live in.
pub(crate) const NAMESPACE: &str = "observability";
/// Ejection times of the copy: (in the seed, here).
pub(crate) const INTERVAL: (&str, &str) = ("interval: 10s", "interval: 1s");
/// See [`INTERVAL`].
pub(crate) const BASE_EJECTION_TIME: (&str, &str) = ("baseEjectionTime: 30s", "baseEjectionTime: 3s");

/// Where one collector listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Collector {
    /// OTLP/gRPC.
    pub(crate) grpc: SocketAddr,
    /// OTLP/HTTP.
    pub(crate) http: SocketAddr,
}

/// A folder with the sidecar's configuration.
pub(crate) struct MeshFiles {
    folder: TempDir,
}

impl MeshFiles {
    /// Writes the copy for two collectors of v1 and one of v2.
    pub(crate) fn write(collectors: [Collector; 3]) -> io::Result<Self> {
        let files = Self { folder: tempfile::Builder::new().prefix("outrigger-demo-").tempdir()? };
        let mut registry = REGISTRY.to_owned();
        for (collector, (grpc, http)) in
            collectors.iter().zip([("14317", "14318"), ("15317", "15318"), ("24317", "24318")])
        {
            registry = replaced(&registry, (grpc, &collector.grpc.port().to_string()))?;
            registry = replaced(&registry, (http, &collector.http.port().to_string()))?;
        }
        let rule = replaced(&replaced(DESTINATION_RULE, INTERVAL)?, BASE_EJECTION_TIME)?;
        fs::write(files.path("registry.yaml"), registry)?;
        fs::write(files.path("destination-rule.yaml"), rule)?;
        fs::write(files.path("weighted.yaml"), WEIGHTED)?;
        Ok(files)
    }

    /// What `--config` is given.
    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// Edits the weights as a person would: 90/10 becomes 50/50.
    pub(crate) fn split_evenly(&self) -> io::Result<()> {
        let even = replaced(
            &replaced(WEIGHTED, ("  weight: 90\n", "  weight: 50\n"))?,
            ("  weight: 10", "  weight: 50"),
        )?;
        // Renamed into place, so that nobody reads half a file.
        let draft = self.path("weighted.draft");
        fs::write(&draft, even)?;
        fs::rename(draft, self.path("weighted.yaml"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Replaces the one place where `from` stands.
fn replaced(text: &str, (from, to): (&str, &str)) -> io::Result<String> {
    match text.matches(from).count() {
        1 => Ok(text.replace(from, to)),
        n => Err(io::Error::other(format!("`{from}` stands {n} times in the seed's file, not once"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_has_the_collectors_ports_and_short_ejection_times() {
        let collector = |grpc: u16| Collector {
            grpc: SocketAddr::from(([127, 0, 0, 1], grpc)),
            http: SocketAddr::from(([127, 0, 0, 1], grpc + 1)),
        };
        let files = MeshFiles::write([collector(61), collector(71), collector(81)]).unwrap();
        let read = |name: &str| fs::read_to_string(files.path(name)).unwrap();
        assert!(read("registry.yaml").contains("grpc-otlp: 61, http-otlp: 62"));
        assert!(read("registry.yaml").contains("grpc-otlp: 81, http-otlp: 82"));
        assert!(read("destination-rule.yaml").contains("baseEjectionTime: 3s"));
        files.split_evenly().unwrap();
        assert_eq!(read("weighted.yaml").matches("weight: 50").count(), 2);
    }
}
