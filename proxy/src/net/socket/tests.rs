//! When a connection may be taken from hyper.

use futures_util::FutureExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;

/// hyper waits for bytes: does that look quiet?
fn is_quiet(socket: &mut Socket) -> bool {
    assert!(socket.read(&mut [0; 1024]).now_or_never().is_none());
    socket.view.is_quiet()
}

#[tokio::test(flavor = "local")]
async fn a_socket_is_quiet_between_requests_when_all_is_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let mut socket = Socket::new(Stream::Plain(listener.accept().await.unwrap().0), BytesMut::new(), true);
    assert!(!socket.view.is_quiet(), "nobody waits");
    assert!(is_quiet(&mut socket));
    socket.view.forget();
    assert!(!socket.view.is_quiet());
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab").await.unwrap();
    assert!(socket.read(&mut [0; 1024]).await.unwrap() > 0);
    assert!(!is_quiet(&mut socket), "within a body");
    client.write_all(b"c").await.unwrap();
    assert_eq!(socket.read(&mut [0; 1024]).await.unwrap(), 1);
    assert!(is_quiet(&mut socket));
    socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    assert!(!socket.view.is_quiet() && !is_quiet(&mut socket), "not flushed");
    socket.flush().await.unwrap();
    assert!(is_quiet(&mut socket));
    client.write_all(b"GET / HT").await.unwrap();
    socket.readable().await;
    assert!(!is_quiet(&mut socket), "half a head is held");
}
