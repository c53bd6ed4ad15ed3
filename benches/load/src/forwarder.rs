//! Bare hyper as a proxy: what a hop costs with these libraries and nothing else. It forwards heads and bodies,
//! pools its connections and spreads requests over the endpoints by turns; no routes, no limits, no log.

use std::{
    cell::{Cell, RefCell},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use clap::Args;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpStream, task::spawn_local};

use crate::{
    Outcome,
    serve::{self, Local, Protocol},
};

/// What the forwarder is told.
#[derive(Debug, Clone, Args)]
pub(crate) struct ForwarderArgs {
    /// Port for HTTP/1.1.
    #[arg(long)]
    pub(crate) h1_port: u16,
    /// Port for HTTP/2.
    #[arg(long)]
    pub(crate) h2_port: u16,
    /// Endpoints of HTTP/1.1.
    #[arg(long, value_delimiter = ',')]
    pub(crate) h1: Vec<SocketAddr>,
    /// Endpoints of HTTP/2.
    #[arg(long, value_delimiter = ',')]
    pub(crate) h2: Vec<SocketAddr>,
    /// Requests after which a connection to an HTTP/1.1 endpoint is given up.
    #[arg(long, default_value_t = u32::MAX)]
    pub(crate) max_requests: u32,
}

/// Runs until the process is ended.
pub(crate) fn run(args: &ForwarderArgs) -> Outcome<()> {
    let listen = |port| -> Outcome<TcpListener> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    let runtime = serve::runtime()?;
    let h1 = Rc::new(H1Pool::new(args));
    let h2 = Rc::new(H2Pool::new(args));
    let (h1_listener, h2_listener) = (listen(args.h1_port)?, listen(args.h2_port)?);
    runtime.block_on(async {
        let forward = Rc::new(async move |request| h2.forward(request).await);
        spawn_local(async move { serve::accept(h2_listener, Protocol::H2, forward).await.ok() });
        let forward = Rc::new(async move |request| H1Pool::forward(&h1, request).await);
        serve::accept(h1_listener, Protocol::H1, forward).await
    })
}

/// Idle connections of HTTP/1.1, by endpoint.
struct H1Pool {
    endpoints: Vec<(SocketAddr, RefCell<Vec<Pooled>>)>,
    next: Cell<usize>,
    max_requests: u32,
}

struct Pooled {
    sender: http1::SendRequest<Incoming>,
    requests: u32,
}

impl H1Pool {
    fn new(args: &ForwarderArgs) -> Self {
        let endpoints = args.h1.iter().map(|address| (*address, RefCell::default())).collect();
        Self { endpoints, next: Cell::new(0), max_requests: args.max_requests }
    }

    async fn forward(pool: &Rc<Self>, request: Request<Incoming>) -> Outcome<Response<PooledBody>> {
        let index = pool.next.replace(pool.next.get() + 1) % pool.endpoints.len();
        let mut pooled = pool.connection(index).await?;
        pooled.requests += 1;
        let response = pooled.sender.send_request(request).await?;
        let pooled = (pooled.requests < pool.max_requests).then_some(pooled);
        Ok(response
            .map(|body| PooledBody { body, back: pooled.map(|pooled| (pooled, Rc::clone(pool), index)) }))
    }

    async fn connection(&self, index: usize) -> Outcome<Pooled> {
        let (address, idle) = self.endpoints.get(index).ok_or("no endpoints")?;
        loop {
            let Some(mut pooled) = idle.borrow_mut().pop() else { break };
            if pooled.sender.ready().await.is_ok() {
                return Ok(pooled);
            }
        }
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        spawn_local(connection);
        Ok(Pooled { sender, requests: 0 })
    }
}

/// A body that gives its connection back once it has ended.
struct PooledBody {
    body: Incoming,
    back: Option<(Pooled, Rc<H1Pool>, usize)>,
}

impl Body for PooledBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if (frame.is_none() || self.body.is_end_stream())
            && let Some((pooled, pool, index)) = self.back.take()
            && let Some((_, idle)) = pool.endpoints.get(index)
        {
            idle.borrow_mut().push(pooled);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// One connection of HTTP/2 for each endpoint.
struct H2Pool {
    endpoints: Vec<(SocketAddr, RefCell<Option<http2::SendRequest<Incoming>>>)>,
    next: Cell<usize>,
}

impl H2Pool {
    fn new(args: &ForwarderArgs) -> Self {
        let endpoints = args.h2.iter().map(|address| (*address, RefCell::default())).collect();
        Self { endpoints, next: Cell::new(0) }
    }

    async fn forward(&self, request: Request<Incoming>) -> Outcome<Response<Incoming>> {
        let index = self.next.replace(self.next.get() + 1) % self.endpoints.len();
        let (address, open) = self.endpoints.get(index).ok_or("no endpoints")?;
        let known = open.borrow().as_ref().filter(|sender| !sender.is_closed()).cloned();
        let mut sender = match known {
            Some(sender) => sender,
            None => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                let mut builder = http2::Builder::new(Local);
                let (sender, connection) =
                    builder.timer(TokioTimer::new()).handshake(TokioIo::new(stream)).await?;
                spawn_local(connection);
                // Of several that connect at once, the last one stays.
                open.replace(Some(sender.clone()));
                sender
            }
        };
        Ok(sender.send_request(request).await?)
    }
}
