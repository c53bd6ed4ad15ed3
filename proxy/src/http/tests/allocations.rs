//! What a request allocates: held under a ceiling, so that a copy too many is seen. The client and the origin run on
//! threads of their own, and only the worker's are counted.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
};

use outrigger_config::snapshot::{Destination, OtlpProtocol, Tracing};

use super::*;

/// Of an HTTP/1.1 GET that is logged and traced but not sampled, on connections that stand.
const CEILING: u64 = 36;
/// Of one whose span is reported: its header values, its bytes in the queue.
const CEILING_TRACED: u64 = 40;
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 3\r\n\r\nabc";
const REQUEST: &[u8] = b"GET /items?id=1 HTTP/1.1\r\nHost: web\r\nuser-agent: test/1\r\naccept: */*\r\n\
    x-session-id: 7\r\n\r\n";

#[test]
fn a_request_allocates_no_more_than_its_ceiling() {
    for (sampling, ceiling) in [(0, CEILING), (10_000, CEILING_TRACED)] {
        let [few, many] = [20, 220].map(|requests| measured(requests, sampling));
        let each = (many - few) / 200;
        assert!(each <= ceiling, "{each} allocations a request at {sampling}, the ceiling is {ceiling}");
    }
}

/// Allocations of the worker's thread while it answers so many requests.
fn measured(requests: usize, sampling: u16) -> u64 {
    let origin = origin_thread();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap();
    let bench = runtime.block_on(async {
        let mut snapshot = to(&[origin], forward());
        snapshot.outbound.tracing = Tracing { sampling, report: Some(nowhere()), ..Tracing::default() };
        Bench::start(snapshot)
    });
    let (address, (done, finished)) = (bench.address, oneshot::channel());
    let client = std::thread::spawn(move || {
        let mut connection = BufReader::new(TcpStream::connect(address).unwrap());
        for _ in 0..requests {
            connection.get_mut().write_all(REQUEST).unwrap();
            let head = head(&mut connection).expect("an answer");
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
            connection.read_exact(&mut [0; 3]).unwrap();
        }
        done.send(()).unwrap();
    });
    let counted = allocation_counter::measure(|| runtime.block_on(finished).unwrap());
    client.join().unwrap();
    counted.count_total
}

/// Spans are queued for it and never taken.
fn nowhere() -> Arc<Destination> {
    Arc::new(Destination {
        name: "none".into(),
        host: "none.invalid".into(),
        port: 4317,
        tls: None,
        cluster: None,
        protocol: OtlpProtocol::Grpc,
        headers: http::HeaderMap::new(),
        timeout: PATIENCE,
        gzip: false,
        semantic_service_name: false,
    })
}

/// Answers every request of one connection.
fn origin_thread() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut connection = BufReader::new(listener.accept().unwrap().0);
        while head(&mut connection).is_some() {
            connection.get_mut().write_all(ANSWER).unwrap();
        }
    });
    address
}

fn head(connection: &mut BufReader<TcpStream>) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if connection.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    Some(head)
}
