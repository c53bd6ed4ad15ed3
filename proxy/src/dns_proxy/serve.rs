//! The two sockets of the proxy. A question that waits for a name server keeps no other one waiting.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream, UdpSocket},
    time::{sleep, timeout},
};

use super::{
    DnsProxy, Transport,
    wire::{framed, read_framed},
};

/// The longest question: more than a resolver ever asks.
const LONGEST: usize = 4096;
/// Connections at a time, on all addresses; further ones wait.
pub(super) const CONNECTIONS: usize = 64;
/// For the next question of a connection, and for its answer to be taken.
const PATIENCE: Duration = Duration::from_secs(5);
/// Wait after an error of the system.
const PAUSE: Duration = Duration::from_millis(50);

/// Without end.
pub(super) async fn over_udp(proxy: Arc<DnsProxy>, socket: UdpSocket) {
    let socket = Arc::new(socket);
    let mut bytes = vec![0; LONGEST];
    loop {
        let (question, client) = match socket.recv_from(&mut bytes).await {
            Ok((length, client)) => (bytes.get(..length).unwrap_or_default(), client),
            Err(_) => {
                sleep(PAUSE).await;
                continue;
            }
        };
        match proxy.consider(question, Transport::Udp) {
            None => {}
            // Who does not take its answer asks again.
            Some(Ok(answer)) => drop(socket.send_to(&answer, client).await),
            Some(Err(question)) => {
                let (proxy, socket) = (Arc::clone(&proxy), Arc::clone(&socket));
                tokio::spawn(async move {
                    let answer = proxy.forwarded(&question).await;
                    let _ = socket.send_to(&answer, client).await;
                });
            }
        }
    }
}

/// Without end.
pub(super) async fn over_tcp(proxy: Arc<DnsProxy>, listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(PAUSE).await;
            continue;
        };
        // Taken only now: a place that waits for a client would be missing at the other address.
        let Ok(place) = Arc::clone(&proxy.places).acquire_owned().await else { return };
        let proxy = Arc::clone(&proxy);
        tokio::spawn(async move {
            let _ = converse(&proxy, stream).await;
            drop(place);
        });
    }
}

/// One question after the other, until the client has no more.
async fn converse(proxy: &DnsProxy, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let question = timeout(PATIENCE, read_framed(&mut stream)).await??;
        let answer = match proxy.consider(&question, Transport::Tcp) {
            None => return Ok(()),
            Some(Ok(answer)) => answer,
            Some(Err(question)) => proxy.forwarded(&question).await,
        };
        timeout(PATIENCE, stream.write_all(&framed(&answer))).await??;
    }
}
