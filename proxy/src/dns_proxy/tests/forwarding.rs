//! Everything else: what is asked of name servers, and which of their answers count.

use super::*;

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
