//! The proxy at work: real sockets, and name servers on loopback.

mod answers;
mod forwarding;

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
    time::Duration,
};

use hickory_resolver::proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use outrigger_config::{LoadOptions, Source, load, snapshot::Node};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

use super::{
    wire::{framed, read_framed},
    *,
};
use crate::upstream::{NameServer as Server, Upstreams};

const DEADLINE: Duration = Duration::from_secs(10);

/// Two services, and one of many pods.
fn mesh() -> String {
    let pods: Vec<_> = (1..=60).map(|pod| format!("{{ addresses: [10.1.0.{pod}] }}")).collect();
    format!(
        r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: db }}
spec:
  hosts: [db.example.com]
  addresses: [10.9.0.1, 10.9.0.2]
  ports: [{{ number: 3306, name: tcp }}]
  resolution: STATIC
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: six }}
spec:
  hosts: [six.example.com]
  addresses: ["fd09::6"]
  ports: [{{ number: 3306, name: tcp }}]
  resolution: STATIC
---
apiVersion: v1
kind: Service
metadata: {{ name: pods, namespace: default }}
spec: {{ clusterIP: None, ports: [{{ port: 80, name: http }}] }}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: pods-1, namespace: default, labels: {{ kubernetes.io/service-name: pods }} }}
addressType: IPv4
ports: [{{ name: http, port: 80 }}]
endpoints: [{}]
"#,
        pods.join(", ")
    )
}

fn published(text: String) -> Arc<ArcSwap<Published>> {
    let node = Node { namespace: "default".into(), dns_capture: true, ..Node::default() };
    let sources = [Source { name: "mesh.yaml".into(), text }];
    let loaded = load(&sources, &LoadOptions { node, ..LoadOptions::default() }).unwrap();
    Arc::new(ArcSwap::new(Upstreams::default().publish(Arc::new(loaded.snapshot))))
}

struct Running {
    proxy: Arc<DnsProxy>,
    udp: SocketAddr,
    tcp: SocketAddr,
}

impl Running {
    async fn start(servers: Vec<SocketAddr>) -> Self {
        Self::with(published(mesh()), servers).await
    }

    async fn with(published: Arc<ArcSwap<Published>>, servers: Vec<SocketAddr>) -> Self {
        let proxy = DnsProxy::with(published, servers, Some("default.svc.cluster.local"));
        let datagrams = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let connections = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (udp, tcp) = (datagrams.local_addr().unwrap(), connections.local_addr().unwrap());
        proxy.start(datagrams, connections);
        Self { proxy, udp, tcp }
    }

    async fn send(&self, bytes: &[u8]) -> Vec<u8> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(bytes, self.udp).await.unwrap();
        let mut answer = vec![0; 65_535];
        let (length, from) =
            timeout(DEADLINE, socket.recv_from(&mut answer)).await.expect("in time").unwrap();
        assert_eq!(from, self.udp);
        answer.truncate(length);
        answer
    }

    async fn ask(&self, question: &Message) -> Message {
        let answer = Message::from_vec(&self.send(&question.to_vec().unwrap()).await).unwrap();
        assert_eq!(answer.metadata.id, question.metadata.id);
        assert_eq!(answer.metadata.message_type, MessageType::Response);
        answer
    }

    async fn ask_by_tcp(&self, stream: &mut TcpStream, question: &Message) -> Message {
        stream.write_all(&framed(&question.to_vec().unwrap())).await.unwrap();
        let answer = timeout(DEADLINE, read_framed(stream)).await.expect("in time").unwrap();
        Message::from_vec(&answer).unwrap()
    }

    fn count(&self, name: &str) -> u64 {
        let samples = self.proxy.samples();
        samples.iter().find(|sample| sample.name == name).unwrap().value as u64
    }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

/// The answer, in words.
fn told(answer: &Message) -> Vec<String> {
    let told = answer.answers.iter().map(|record| match &record.data {
        RData::A(address) => format!("{} {} {}", record.name, record.ttl, address.0),
        RData::AAAA(address) => format!("{} {} {}", record.name, record.ttl, address.0),
        RData::CNAME(name) => format!("{} {} is {}", record.name, record.ttl, name.0),
        other => panic!("{other:?}"),
    });
    let mut told: Vec<_> = told.collect();
    told.sort();
    told
}
