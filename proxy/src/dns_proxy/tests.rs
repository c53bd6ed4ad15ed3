//! The proxy at work: real sockets, and name servers on loopback.

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

#[tokio::test]
async fn services_are_answered_without_a_name_server() {
    let running = Running::start(Vec::new()).await;
    let answer = running.ask(&question("DB.example.com.", RecordType::A)).await;
    assert_eq!(told(&answer), ["DB.example.com. 30 10.9.0.1", "DB.example.com. 30 10.9.0.2"]);
    let head = answer.metadata;
    assert!(head.authoritative && head.recursion_desired && head.recursion_available && !head.truncation);
    assert_eq!(answer.queries, question("DB.example.com.", RecordType::A).queries);
    let answer = running.ask(&question("six.example.com.", RecordType::AAAA)).await;
    assert_eq!(told(&answer), ["six.example.com. 30 fd09::6"]);
    assert_eq!(running.count("istio_agent_dns_requests_total"), 2);
    assert_eq!(running.count("istio_agent_dns_upstream_requests_total"), 0);
}

#[tokio::test]
async fn a_service_without_an_address_of_the_family_exists_all_the_same() {
    let running = Running::start(Vec::new()).await;
    for (name, kind) in [("db.example.com.", RecordType::AAAA), ("six.example.com.", RecordType::A)] {
        let answer = running.ask(&question(name, kind)).await;
        assert_eq!(
            (told(&answer).len(), answer.metadata.response_code),
            (0, ResponseCode::NoError),
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_name_with_the_search_domain_is_an_alias() {
    let running = Running::start(Vec::new()).await;
    let answer = running.ask(&question("db.example.com.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(
        told(&answer),
        [
            "db.example.com. 30 10.9.0.1",
            "db.example.com. 30 10.9.0.2",
            "db.example.com.default.svc.cluster.local. 30 is db.example.com.",
        ]
    );
    assert!(matches!(answer.answers[0].data, RData::CNAME(_)), "the alias comes first");
    let full = running.ask(&question("pods.default.svc.cluster.local.", RecordType::A)).await;
    assert!(full.answers.iter().all(|record| !matches!(record.data, RData::CNAME(_))), "a full name is none");
}

#[tokio::test]
async fn an_alias_counts_more_than_a_wildcard_that_covers_the_search_domain() {
    let wildcard =
        mesh().replace("six.example.com", "'*.svc.cluster.local'").replace("\"fd09::6\"", "10.9.0.6");
    let running = Running::with(published(wildcard), Vec::new()).await;
    let answer = running.ask(&question("db.example.com.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(told(&answer).len(), 3);
    let covered = running.ask(&question("other.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(told(&covered), ["other.svc.cluster.local. 30 10.9.0.6"]);
}

#[tokio::test]
async fn addresses_take_turns() {
    let running = Running::start(Vec::new()).await;
    let mut first = std::collections::HashSet::new();
    for _ in 0..200 {
        let answer = running.ask(&question("db.example.com.", RecordType::A)).await;
        first.insert(answer.answers[0].data.to_string());
        if first.len() == 2 {
            return;
        }
    }
    panic!("always {first:?}");
}

#[tokio::test]
async fn what_is_too_long_for_a_datagram_comes_by_tcp() {
    let running = Running::start(Vec::new()).await;
    let many = question("pods.default.", RecordType::A);
    let short = running.ask(&many).await;
    assert_eq!((short.metadata.truncation, short.answers.len()), (true, 0));
    let mut roomy = many.clone();
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    roomy.set_edns(edns);
    let long = running.ask(&roomy).await;
    assert_eq!((long.metadata.truncation, long.answers.len()), (false, 60), "the client says what it takes");
    assert_eq!(long.edns.as_ref().map(Edns::max_payload), Some(4096));
    let mut stream = TcpStream::connect(running.tcp).await.unwrap();
    for _ in 0..2 {
        let whole = running.ask_by_tcp(&mut stream, &many).await;
        assert_eq!((whole.metadata.truncation, whole.answers.len()), (false, 60));
    }
}

#[tokio::test]
async fn all_else_is_asked_of_the_name_servers() {
    let server = Server::default();
    let address = server.listen().await;
    server.set("www.example.org", &[Ipv4Addr::new(192, 0, 2, 7)], 77);
    let running = Running::start(vec![address]).await;
    let answer = running.ask(&question("www.example.org.", RecordType::A)).await;
    assert_eq!(told(&answer), ["www.example.org. 77 192.0.2.7"], "as the server said it");
    let missing = running.ask(&question("nobody.example.org.", RecordType::A)).await;
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
    for kind in [RecordType::MX, RecordType::SRV, RecordType::TXT] {
        let other = running.ask(&question("db.example.com.", kind)).await;
        assert_eq!(
            other.metadata.response_code,
            ResponseCode::NXDomain,
            "of a service only addresses are known"
        );
    }
    assert_eq!(running.count("istio_agent_dns_upstream_requests_total"), 5);
    assert_eq!(running.count("istio_agent_dns_upstream_failures_total"), 0);
}

#[tokio::test]
async fn a_question_by_tcp_is_passed_on_by_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let asked = Message::from_vec(&read_framed(&mut stream).await.unwrap()).unwrap();
        let mut answer = asked.into_response();
        answer.metadata.response_code = ResponseCode::NXDomain;
        stream.write_all(&framed(&answer.to_vec().unwrap())).await.unwrap();
    });
    let running = Running::start(vec![address]).await;
    let mut stream = TcpStream::connect(running.tcp).await.unwrap();
    let answer = running.ask_by_tcp(&mut stream, &question("www.example.org.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn the_next_name_server_is_asked_where_one_fails() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let refusing = Server::default();
    let refuses = refusing.listen().await;
    refusing.refuse("www.example.org");
    let good = Server::default();
    let answers = good.listen().await;
    good.set("www.example.org", &[Ipv4Addr::new(192, 0, 2, 7)], 77);
    let running = Running::start(vec![silent.local_addr().unwrap(), refuses, answers]).await;
    let answer = running.ask(&question("www.example.org.", RecordType::A)).await;
    assert_eq!(told(&answer), ["www.example.org. 77 192.0.2.7"]);

    let only = Running::start(vec![refuses]).await;
    let answer = only.ask(&question("www.example.org.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused, "there is no better one");
}

#[tokio::test]
async fn without_a_name_server_the_failure_is_told() {
    let running = Running::start(Vec::new()).await;
    let answer = running.ask(&question("www.example.org.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(running.count("istio_agent_dns_upstream_failures_total"), 1);
}

#[tokio::test]
async fn an_answer_to_another_question_is_not_passed_on() {
    let liar = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = liar.local_addr().unwrap();
    tokio::spawn(async move {
        let mut bytes = [0; 512];
        let (length, client) = liar.recv_from(&mut bytes).await.unwrap();
        let asked = Message::from_vec(&bytes[..length]).unwrap();
        assert_ne!(asked.metadata.id, 4711, "the id of the client is easy to guess");
        let mut other = question("other.example.org.", RecordType::A).into_response();
        other.metadata.id = asked.metadata.id;
        let mut wrong_id = asked.clone().into_response();
        wrong_id.metadata.id = asked.metadata.id.wrapping_add(1);
        let mut good = asked.clone().into_response();
        good.metadata.response_code = ResponseCode::NXDomain;
        for message in [asked, other, wrong_id, good] {
            liar.send_to(&message.to_vec().unwrap(), client).await.unwrap();
        }
    });
    let running = Running::start(vec![address]).await;
    let answer = running.ask(&question("www.example.org.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn rubbish_is_refused_or_ignored_and_the_proxy_goes_on() {
    let running = Running::start(Vec::new()).await;
    let mut none = question("db.example.com.", RecordType::A);
    none.queries.clear();
    let mut two = question("db.example.com.", RecordType::A);
    two.add_query(two.queries[0].clone());
    for refused in [none, two] {
        assert_eq!(running.ask(&refused).await.metadata.response_code, ResponseCode::FormErr);
    }
    let cut = &question("db.example.com.", RecordType::A).to_vec().unwrap()[..20];
    let answer = Message::from_vec(&running.send(cut).await).unwrap();
    assert_eq!((answer.metadata.id, answer.metadata.response_code), (4711, ResponseCode::FormErr));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let answer = question("db.example.com.", RecordType::A).into_response().to_vec().unwrap();
    for ignored in [&b""[..], b"x", &[0xff; 600], &answer] {
        socket.send_to(ignored, running.udp).await.unwrap();
    }
    let known = running.ask(&question("db.example.com.", RecordType::A)).await;
    assert_eq!(told(&known).len(), 2);
    let early = socket.try_recv(&mut [0; 512]).map_err(|error| error.kind());
    assert_eq!(
        early,
        Err(std::io::ErrorKind::WouldBlock),
        "two proxies would talk to each other without end"
    );
}

#[tokio::test]
async fn a_slow_name_server_keeps_no_other_question_waiting() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let running = Running::start(vec![silent.local_addr().unwrap()]).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let slow = question("www.example.org.", RecordType::A).to_vec().unwrap();
    for _ in 0..forward::MOST + 1 {
        socket.send_to(&slow, running.udp).await.unwrap();
    }
    // One more than may wait is told at once.
    let mut bytes = [0; 512];
    let length = timeout(DEADLINE / 5, socket.recv(&mut bytes)).await.expect("at once").unwrap();
    let answer = Message::from_vec(&bytes[..length]).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    let known = running.ask(&question("db.example.com.", RecordType::A)).await;
    assert_eq!(told(&known).len(), 2);
}

#[tokio::test]
async fn answers_and_the_table_follow_the_configuration() {
    let published = published(mesh());
    let running = Running::with(Arc::clone(&published), Vec::new()).await;
    assert_eq!(running.proxy.table()["table"]["db.example.com"]["ips"], json!(["10.9.0.1", "10.9.0.2"]));
    published.store(super::tests::published(mesh().replace("10.9.0.1", "10.9.0.8")).load_full());
    let answer = running.ask(&question("db.example.com.", RecordType::A)).await;
    assert_eq!(told(&answer), ["db.example.com. 30 10.9.0.2", "db.example.com. 30 10.9.0.8"]);
    assert_eq!(
        running.proxy.table()["table"]["six.example.com"]["ips"],
        json!([Ipv6Addr::from_str("fd09::6").unwrap()])
    );
}

#[tokio::test]
async fn a_datagram_that_the_client_does_not_take_is_asked_for_again_by_tcp() {
    for (length, takes, too_long) in [(600, None, true), (600, Some(1232), false), (5000, Some(65_535), true)]
    {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        tokio::spawn(async move {
            let mut bytes = [0; 512];
            let (asked, client) = server.recv_from(&mut bytes).await.unwrap();
            let mut answer = Message::from_vec(&bytes[..asked]).unwrap().into_response().to_vec().unwrap();
            answer.resize(length, 0);
            server.send_to(&answer, client).await.unwrap();
        });
        let running = Running::start(vec![address]).await;
        let mut asked = question("www.example.org.", RecordType::A);
        if let Some(most) = takes {
            let mut edns = Edns::new();
            edns.set_max_payload(most);
            asked.set_edns(edns);
        }
        let answer = running.send(&asked.to_vec().unwrap()).await;
        let truncated = answer[2] & 0x02 != 0;
        assert_eq!((truncated, answer.len() == length), (too_long, !too_long), "{length} for {takes:?}");
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_whatever_address_they_come_to() {
    let running = Running::start(Vec::new()).await;
    let datagrams = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let connections = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let elsewhere = connections.local_addr().unwrap();
    running.proxy.start(datagrams, connections);
    let asked = question("db.example.com.", RecordType::A);
    let mut open = Vec::new();
    for _ in 0..serve::CONNECTIONS {
        let mut stream = TcpStream::connect(running.tcp).await.unwrap();
        running.ask_by_tcp(&mut stream, &asked).await;
        open.push(stream);
    }
    let mut late = TcpStream::connect(elsewhere).await.unwrap();
    late.write_all(&framed(&asked.to_vec().unwrap())).await.unwrap();
    let early = timeout(Duration::from_millis(50), late.readable()).await;
    assert!(early.is_err(), "served beside the others");
    drop(open);
    let answer = timeout(DEADLINE, read_framed(&mut late)).await.expect("in time").unwrap();
    assert_eq!(told(&Message::from_vec(&answer).unwrap()).len(), 2);
}

#[test]
fn the_proxy_does_not_ask_itself_nor_more_servers_than_a_resolver_would() {
    let servers: Vec<IpAddr> =
        ["127.0.0.1", "10.0.0.1", "10.0.0.2", "::1"].map(|ip| ip.parse().unwrap()).into();
    let system = NameServers { servers, search: None };
    let asked = |own: &[SocketAddr]| DnsProxy::new(published(mesh()), &system, own).forwarder.servers.clone();
    let at = |text: &str| -> SocketAddr { text.parse().unwrap() };
    assert_eq!(asked(&[at("127.0.0.1:53")]), [at("10.0.0.1:53"), at("10.0.0.2:53"), at("[::1]:53")]);
    assert_eq!(asked(&[at("127.0.0.1:15053")]), [at("127.0.0.1:53"), at("10.0.0.1:53"), at("10.0.0.2:53")]);
}
