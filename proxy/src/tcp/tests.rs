//! What a connection costs: memory while it waits, allocations while bytes pass. How it behaves is tested through a whole
//! proxy.

use std::{
    cell::RefCell,
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
};

use tokio::sync::oneshot;

use super::{relay::*, *};

/// Of a task that waits, sockets and the record apart.
const CEILING: usize = 1536;

fn size_of_future<A, B, C, D, F>(_: fn(A, B, C, D) -> F) -> usize {
    size_of::<F>()
}

#[test]
fn a_connection_that_waits_is_small() {
    let size = size_of_future(serve);
    assert!(size <= CEILING, "{size} bytes, the ceiling is {CEILING}");
}

#[test]
fn bytes_pass_without_an_allocation() {
    let [few, many] = [10, 1010].map(allocations);
    assert_eq!(few, many, "allocations of 10 and of 1010 reads each way");
}

/// Of the thread that copies so many messages to an origin and back.
fn allocations(messages: usize) -> u64 {
    let origin = listen(|mut stream| {
        let mut message = [0; 512];
        while stream.read_exact(&mut message).is_ok() {
            stream.write_all(&message).unwrap();
        }
    });
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap();
    let (mut sockets, buffer) = runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (done, finished) = oneshot::channel();
        std::thread::spawn(move || {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            let mut message = [7; 512];
            for _ in 0..messages {
                stream.write_all(&message).unwrap();
                stream.read_exact(&mut message).unwrap();
            }
            drop(stream);
            done.send(()).unwrap();
        });
        let client = listener.accept().await.unwrap().0;
        let upstream = TcpStream::connect(origin).await.unwrap();
        ((Stream::Plain(client), Stream::Plain(upstream), finished), RefCell::new(vec![0; BUFFER]))
    });
    let (mut up, mut down) = (0, 0);
    let limits = Limits { idle: Some(Duration::from_secs(60)), deadline: None };
    let counted = allocation_counter::measure(|| {
        let (client, upstream, _) = &mut sockets;
        let ended = runtime.block_on(relay(client, upstream, &buffer, limits, |way, bytes| match way {
            Way::Up => up += bytes,
            Way::Down => down += bytes,
        }));
        assert_eq!(ended, Ended::ByUpstream);
    });
    let all = 512 * messages as u64;
    assert_eq!((up, down), (all, all));
    runtime.block_on(&mut sockets.2).unwrap();
    counted.count_total
}

fn listen(serve: impl FnOnce(std::net::TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || serve(listener.accept().unwrap().0));
    address
}
