//! The bench's own servers: a thread with one runtime, which accepts on listeners that are bound already.

use std::{net::TcpListener, pin::Pin, rc::Rc, sync::Arc, thread};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::{
    body::Incoming,
    rt::Executor,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::{
    net::TcpStream,
    runtime::{Builder, LocalOptions, LocalRuntime},
    task::spawn_local,
};
use tokio_rustls::{TlsAcceptor, TlsStream};
use tokio_util::either::Either;

use crate::{Outcome, door::Stream, identity::agreed};

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    H1,
    /// With prior knowledge.
    H2,
}

/// What is listened on.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(crate) listener: TcpListener,
    pub(crate) protocol: Protocol,
    /// Without it everybody gets in, in plain text; with it nobody does.
    pub(crate) tls: Option<Arc<ServerConfig>>,
}

/// Runs hyper's tasks on the thread that made them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Local;

impl<F: Future + 'static> Executor<F> for Local
where
    F::Output: 'static,
{
    fn execute(&self, task: F) {
        spawn_local(task);
    }
}

/// A runtime whose tasks stay on the thread that runs it.
pub(crate) fn runtime() -> Outcome<LocalRuntime> {
    Ok(Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?)
}

/// Serves in a thread until the process ends.
pub(crate) fn in_thread<H, B>(name: &str, all: Vec<Listening>, handler: H) -> Outcome<()>
where
    H: AsyncFn(Request<Incoming>) -> Outcome<Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let serve = move || {
        let handler = Rc::new(handler);
        let serving = async {
            for listening in all {
                let handler = Rc::clone(&handler);
                spawn_local(async move {
                    if let Err(error) = accept(listening, handler).await {
                        eprintln!("bench: a server ends: {error}");
                    }
                });
            }
            std::future::pending::<()>().await;
        };
        match runtime() {
            Ok(runtime) => runtime.block_on(serving),
            Err(error) => eprintln!("bench: no server: {error}"),
        }
    };
    thread::Builder::new().name(name.to_owned()).spawn(serve)?;
    Ok(())
}

/// Accepts and serves connections on the runtime that calls it.
pub(crate) async fn accept<H, B>(listening: Listening, handler: Rc<H>) -> Outcome<()>
where
    H: AsyncFn(Request<Incoming>) -> Outcome<Response<B>> + 'static,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Listening { listener, protocol, tls } = listening;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        // An error is the client's: it has gone again.
        let Ok((stream, _)) = listener.accept().await else { continue };
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let (tls, handler) = (tls.clone(), Rc::clone(&handler));
        spawn_local(async move {
            if let Ok(stream) = enter(stream, protocol, tls).await {
                connection(stream, protocol, handler).await;
            }
        });
    }
}

async fn enter(stream: TcpStream, protocol: Protocol, tls: Option<Arc<ServerConfig>>) -> Outcome<Stream> {
    let Some(config) = tls else { return Ok(Either::Left(stream)) };
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    let (_, state) = stream.get_ref();
    if !agreed(protocol, state.alpn_protocol()) {
        return Err("the client has not said what it speaks".into());
    }
    Ok(Either::Right(Box::new(TlsStream::Server(stream))))
}

/// An error ends the exchange without an answer, and shows where it matters: at the load generator.
async fn connection<H, B>(stream: Stream, protocol: Protocol, handler: Rc<H>)
where
    H: AsyncFn(Request<Incoming>) -> Outcome<Response<B>> + 'static,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let io = TokioIo::new(stream);
    let service = service_fn(move |request| {
        let handler = Rc::clone(&handler);
        async move { handler(request).await.map_err(|error| error.to_string()) }
    });
    match protocol {
        Protocol::H1 => {
            let _ = http1::Builder::new().timer(TokioTimer::new()).serve_connection(io, service).await;
        }
        Protocol::H2 => {
            let mut builder = http2::Builder::new(Local);
            // No proxy is to be throttled by this side.
            builder.timer(TokioTimer::new()).max_concurrent_streams(4096);
            let _ = Pin::from(Box::new(builder.serve_connection(io, service))).await;
        }
    }
}
