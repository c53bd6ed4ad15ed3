//! One lookup of a name, as `/etc/resolv.conf` and `/etc/hosts` say. The only file that names the resolver's crate.

use std::{net::IpAddr, sync::Arc};

use hickory_resolver::{TokioResolver, config::LookupIpStrategy, system_conf::read_system_conf};
use tokio::time::Instant;

use super::names::Answer;

/// Asks name servers. It keeps no answer: how long one holds is `names`' business.
#[derive(Clone)]
pub(crate) struct Lookup {
    resolver: TokioResolver,
}

impl Lookup {
    /// By the settings of the system.
    ///
    /// # Errors
    /// Why they cannot be read.
    pub(crate) fn of_system() -> Result<Self, String> {
        let mut builder = TokioResolver::builder_tokio().map_err(|error| error.to_string())?;
        let options = builder.options_mut();
        // Envoy's `V4_PREFERRED`: a second question only where the first has no answer.
        options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
        options.cache_size = 0;
        Ok(Self { resolver: builder.build().map_err(|error| error.to_string())? })
    }

    /// The addresses of a name.
    ///
    /// # Errors
    /// Why there are none.
    pub(crate) async fn of(&self, name: &str) -> Result<Answer, String> {
        let found = self.resolver.lookup_ip(name).await.map_err(|error| error.to_string())?;
        let addresses: Arc<[_]> = found.iter().collect();
        if addresses.is_empty() {
            return Err("the answer holds no address".to_owned());
        }
        Ok(Answer {
            addresses,
            ttl: Instant::from_std(found.valid_until()).saturating_duration_since(Instant::now()),
        })
    }
}

/// What `/etc/resolv.conf` says.
#[derive(Debug, Default)]
pub(crate) struct NameServers {
    /// At least one, each once.
    pub(crate) servers: Vec<IpAddr>,
    /// The first domain of `search`, without a dot at its end.
    pub(crate) search: Option<String>,
}

impl NameServers {
    /// Those of the system.
    ///
    /// # Errors
    /// Why the file names none.
    pub(crate) fn of_system() -> Result<Self, String> {
        let (settings, _) = read_system_conf().map_err(|error| error.to_string())?;
        let mut servers = Vec::new();
        for server in settings.name_servers() {
            if !servers.contains(&server.ip) {
                servers.push(server.ip);
            }
        }
        if servers.is_empty() {
            return Err("it has no line `nameserver`".to_owned());
        }
        let search = settings.search().first().map(|domain| domain.to_lowercase().to_ascii());
        let search = search.map(|domain| domain.trim_end_matches('.').to_owned());
        Ok(Self { servers, search: search.filter(|domain| !domain.is_empty()) })
    }
}

impl std::fmt::Debug for Lookup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lookup").finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod server {
    //! A name server on loopback whose answers a test changes.

    use std::{
        collections::{HashMap, HashSet},
        net::{IpAddr, Ipv4Addr, SocketAddr},
        sync::{Arc, Mutex},
        time::Duration,
    };

    use hickory_resolver::{
        TokioResolver,
        config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig},
        net::runtime::TokioRuntimeProvider,
        proto::{
            op::{Message, ResponseCode},
            rr::{RData, Record, RecordType, rdata},
        },
    };
    use tokio::net::UdpSocket;

    use super::Lookup;

    /// Addresses, and seconds to live.
    type Entry = (Vec<Ipv4Addr>, u32);

    /// Answers A questions by name, and counts them.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct Server {
        zone: Arc<Mutex<HashMap<String, Entry>>>,
        asked: Arc<Mutex<HashMap<String, usize>>>,
        refused: Arc<Mutex<HashSet<String>>>,
    }

    impl Server {
        pub(crate) fn set(&self, name: &str, addresses: &[Ipv4Addr], ttl: u32) {
            self.zone.lock().unwrap().insert(format!("{name}."), (addresses.to_vec(), ttl));
        }

        /// From now on the name does not exist.
        pub(crate) fn forget(&self, name: &str) {
            self.zone.lock().unwrap().remove(&format!("{name}."));
        }

        pub(crate) fn asked(&self, name: &str) -> usize {
            self.asked.lock().unwrap().get(&format!("{name}.")).copied().unwrap_or_default()
        }

        /// From now on the server refuses to say anything of the name.
        pub(crate) fn refuse(&self, name: &str) {
            self.refused.lock().unwrap().insert(format!("{name}."));
        }

        /// Serves until dropped with the runtime; a lookup that asks it comes back.
        pub(crate) async fn start(&self) -> Lookup {
            lookup(self.listen().await)
        }

        /// The same for others to ask.
        pub(crate) async fn listen(&self) -> SocketAddr {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let address = socket.local_addr().unwrap();
            let server = self.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 1024];
                while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                    if let Some(answer) = server.answer(&buffer[..length]) {
                        let _ = socket.send_to(&answer, client).await;
                    }
                }
            });
            address
        }

        fn answer(&self, question: &[u8]) -> Option<Vec<u8>> {
            let question = Message::from_vec(question).ok()?;
            let query = question.queries.first()?.clone();
            let name = query.name().to_string().to_ascii_lowercase();
            let known = self.zone.lock().unwrap().get(&name).cloned();
            let mut answer = question.into_response();
            match known {
                _ if self.refused.lock().unwrap().contains(&name) => {
                    answer.metadata.response_code = ResponseCode::Refused;
                }
                Some((addresses, ttl)) if query.query_type() == RecordType::A => {
                    *self.asked.lock().unwrap().entry(name).or_default() += 1;
                    answer.add_answers(addresses.into_iter().map(|address| {
                        Record::from_rdata(query.name().clone(), ttl, RData::A(rdata::A(address)))
                    }));
                }
                Some(_) => {}
                None => {
                    *self.asked.lock().unwrap().entry(name).or_default() += 1;
                    answer.metadata.response_code = ResponseCode::NXDomain;
                }
            }
            answer.to_vec().ok()
        }
    }

    fn lookup(server: SocketAddr) -> Lookup {
        let mut connection = ConnectionConfig::udp();
        connection.port = server.port();
        let IpAddr::V4(ip) = server.ip() else { panic!("bound to IPv4") };
        let name_server = NameServerConfig::new(ip.into(), true, vec![connection]);
        let config = ResolverConfig::from_name_servers(vec![name_server]);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let options = builder.options_mut();
        options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.timeout = Duration::from_secs(5);
        Lookup { resolver: builder.build().unwrap() }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use super::{super::names::Answer, server::Server};

    #[tokio::test(flavor = "local")]
    async fn an_answer_has_all_addresses_and_the_servers_time_to_live() {
        let server = Server::default();
        let lookup = server.start().await;
        let [a, b] = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];
        server.set("reviews.test", &[a, b], 100);
        let Answer { addresses, ttl } = lookup.of("reviews.test").await.unwrap();
        assert_eq!(&*addresses, [a, b]);
        assert!(ttl <= Duration::from_secs(100) && ttl > Duration::from_secs(50), "{ttl:?}");
        server.set("reviews.test", &[b], 100);
        assert_eq!(&*lookup.of("reviews.test").await.unwrap().addresses, [b], "nothing is kept here");
        assert!(lookup.of("ratings.test").await.is_err());
    }
}
