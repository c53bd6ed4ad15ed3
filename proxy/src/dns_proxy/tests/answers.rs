//! Services of the mesh: what is answered without a name server, and to whom.

use super::*;

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
async fn answers_and_the_table_follow_the_configuration() {
    let published = published(mesh());
    let running = Running::with(Arc::clone(&published), Vec::new()).await;
    assert_eq!(running.proxy.table()["table"]["db.example.com"]["ips"], json!(["10.9.0.1", "10.9.0.2"]));
    published.store(super::published(mesh().replace("10.9.0.1", "10.9.0.8")).load_full());
    let answer = running.ask(&question("db.example.com.", RecordType::A)).await;
    assert_eq!(told(&answer), ["db.example.com. 30 10.9.0.2", "db.example.com. 30 10.9.0.8"]);
    assert_eq!(
        running.proxy.table()["table"]["six.example.com"]["ips"],
        json!([Ipv6Addr::from_str("fd09::6").unwrap()])
    );
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
