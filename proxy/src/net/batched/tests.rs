//! Nothing is left behind, in whatever turn and at whatever speed of the peer.

use std::{future::poll_fn, sync::Arc};

use futures_util::{FutureExt, task::ArcWake};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::*;

/// Keeps each write by itself; reads nothing.
#[derive(Debug, Default)]
struct Recorder {
    writes: Vec<Vec<u8>>,
    broken: bool,
}

impl AsyncRead for Recorder {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Recorder {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let data: Vec<u8> = data.iter().flat_map(|part| part.iter().copied()).collect();
        let count = data.len();
        self.writes.push(data);
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[derive(Debug, Default)]
struct Woken(std::sync::atomic::AtomicUsize);

impl ArcWake for Woken {
    fn wake_by_ref(this: &Arc<Self>) {
        this.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Writes and flushes; nothing may wait for the socket.
fn flushed(io: &mut Batched<Recorder>, data: &[u8]) {
    io.write_all(data).now_or_never().unwrap().unwrap();
    io.flush().now_or_never().unwrap().unwrap();
}

/// What a connection does when its task runs.
fn turn(io: &mut Batched<Recorder>) -> Option<io::Result<usize>> {
    io.read(&mut [0; 16]).now_or_never()
}

#[test]
fn what_was_flushed_in_one_turn_leaves_in_one_write() {
    let mut io = Batched::new(Recorder::default());
    flushed(&mut io, b"head");
    flushed(&mut io, b"data");
    assert!(io.socket.writes.is_empty());
    assert!(turn(&mut io).is_none());
    assert_eq!(io.socket.writes, [b"headdata"]);
    assert!(io.unsent.space.is_none(), "an idle connection holds no buffer");
    flushed(&mut io, b"more");
    assert!(turn(&mut io).is_none());
    assert_eq!(io.socket.writes.len(), 2);
}

#[test]
fn a_flush_wakes_the_task_for_the_next_turn_once() {
    let mut io = Batched::new(Recorder::default());
    let woken = Arc::new(Woken::default());
    let waker = futures_util::task::waker(Arc::clone(&woken));
    let mut cx = Context::from_waker(&waker);
    assert!(Pin::new(&mut io).poll_flush(&mut cx).is_ready());
    assert_eq!(woken.0.load(std::sync::atomic::Ordering::Relaxed), 0, "nothing was written");
    assert!(Pin::new(&mut io).poll_write(&mut cx, b"x").is_ready());
    for _ in 0..2 {
        assert!(Pin::new(&mut io).poll_flush(&mut cx).is_ready());
    }
    assert_eq!(woken.0.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[test]
fn a_full_data_frame_passes_through_behind_what_waits() {
    let mut io = Batched::new(Recorder::default());
    flushed(&mut io, b"head");
    io.write_all(&[7; LARGE]).now_or_never().unwrap().unwrap();
    assert_eq!(io.socket.writes.len(), 1);
    let write = io.socket.writes.first().unwrap();
    assert!(write.starts_with(b"head\x07") && write.len() == 4 + LARGE);
}

#[test]
fn a_full_buffer_is_sent_without_a_flush() {
    let mut io = Batched::new(Recorder::default());
    for _ in 0..9 {
        io.write_all(&[7; 8 * 1024]).now_or_never().unwrap().unwrap();
    }
    let sizes: Vec<_> = io.socket.writes.iter().map(Vec::len).collect();
    assert_eq!(sizes, [BLOCK]);
}

#[test]
fn a_shutdown_sends_what_waits_and_so_does_a_drop() {
    let mut io = Batched::new(Recorder::default());
    flushed(&mut io, b"goaway");
    io.shutdown().now_or_never().unwrap().unwrap();
    assert_eq!(io.socket.writes, [b"goaway"]);
    let (near, mut far) = duplex(64);
    let mut io = Batched::new(near);
    io.write_all(b"reset").now_or_never().unwrap().unwrap();
    drop(io);
    let mut text = String::new();
    far.read_to_string(&mut text).now_or_never().unwrap().unwrap();
    assert_eq!(text, "reset");
}

#[test]
fn a_broken_socket_is_seen_in_the_next_turn() {
    let mut io = Batched::new(Recorder { broken: true, ..Recorder::default() });
    flushed(&mut io, b"x");
    assert_eq!(turn(&mut io).unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    assert!(io.shutdown().now_or_never().unwrap().is_err());
}

#[test]
fn one_read_of_the_socket_serves_many_small_ones() {
    let (near, mut far) = duplex(BLOCK);
    let mut io = Batched::new(near);
    far.write_all(&[7; 1000]).now_or_never().unwrap().unwrap();
    assert_eq!(turn_of(&mut io), 16);
    assert_eq!(io.read.filled().len(), 984);
    let mut rest = vec![0; 984];
    io.read_exact(&mut rest).now_or_never().unwrap().unwrap();
    assert!(io.read(&mut [0; 16]).now_or_never().is_none());
    assert!(io.read.space.is_none(), "an idle connection holds no buffer");
    drop(far);
    assert_eq!(turn_of(&mut io), 0);
}

fn turn_of<S: AsyncRead + AsyncWrite + Unpin>(io: &mut Batched<S>) -> usize {
    io.read(&mut [0; 16]).now_or_never().unwrap().unwrap()
}

#[tokio::test(flavor = "local")]
async fn everything_arrives_in_order_at_a_slow_peer() {
    let (near, mut far) = duplex(1000);
    let mut io = Batched::new(near);
    let sent: Vec<u8> = (0..400_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    let expected = sent.clone();
    let reader = tokio::task::spawn_local(async move {
        let mut got = vec![0; expected.len()];
        far.read_exact(&mut got).await.unwrap();
        assert!(got == expected);
    });
    let mut rest = &sent[..];
    for size in [1, 300, LARGE - 1, LARGE, 3 * LARGE, 20].into_iter().cycle() {
        let (now, later) = rest.split_at(size.min(rest.len()));
        io.write_all(now).await.unwrap();
        io.flush().await.unwrap();
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    // The task goes on to read, and is woken for what the peer did not take at once.
    poll_fn(|cx| {
        let _ = Pin::new(&mut io).poll_read(cx, &mut ReadBuf::new(&mut [0; 16]));
        if io.unsent.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    reader.await.unwrap();
}
