//! Bare hyper as a proxy: what a hop costs with these libraries and nothing else. It forwards heads and bodies,
//! pools its connections and spreads requests over the endpoints by turns; no routes, no limits, no log. Under mutual TLS
//! a request takes two of its hops, as in the proxies.

use std::{
    cell::{Cell, RefCell},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
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
use tokio::task::{JoinSet, spawn_local};

use crate::{
    Outcome,
    door::Door,
    identity::{Identities, Party},
    serve::{self, Listening, Local, Protocol},
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
    /// Port for HTTP/1.1 by mutual TLS; the endpoints are reached by it, too.
    #[arg(long, requires = "identities")]
    pub(crate) mtls_h1_port: Option<u16>,
    /// The same for HTTP/2.
    #[arg(long, requires = "identities")]
    pub(crate) mtls_h2_port: Option<u16>,
    /// Who is who.
    #[arg(long)]
    pub(crate) identities: Option<PathBuf>,
}

/// Runs until the process is ended.
pub(crate) fn run(args: &ForwarderArgs) -> Outcome<()> {
    let identities = args.identities.as_deref().map(Identities::in_folder);
    let doors = |endpoints: &[SocketAddr], protocol| -> Outcome<Vec<Door>> {
        let door = |address: &SocketAddr| match &identities {
            Some(known) => Door::mutual(*address, known, (Party::Proxy, Party::Origin), protocol),
            None => Ok(Door::plain(*address)),
        };
        endpoints.iter().map(door).collect()
    };
    let h1 = H1Pool::new(doors(&args.h1, Protocol::H1)?, args.max_requests);
    let h2 = H2Pool::new(doors(&args.h2, Protocol::H2)?);
    serve::runtime()?.block_on(async {
        let mut hops = JoinSet::new();
        hops.spawn_local(h1_hop(listening(args.h1_port, Protocol::H1, None)?, h1));
        hops.spawn_local(h2_hop(listening(args.h2_port, Protocol::H2, None)?, h2));
        // What comes by mutual TLS goes to the plain listeners.
        let own = |port| vec![Door::plain((Ipv4Addr::LOCALHOST, port).into())];
        if let (Some(port), Some(known)) = (args.mtls_h1_port, &identities) {
            let pool = H1Pool::new(own(args.h1_port), u32::MAX);
            hops.spawn_local(h1_hop(listening(port, Protocol::H1, Some(known))?, pool));
        }
        if let (Some(port), Some(known)) = (args.mtls_h2_port, &identities) {
            let pool = H2Pool::new(own(args.h2_port));
            hops.spawn_local(h2_hop(listening(port, Protocol::H2, Some(known))?, pool));
        }
        hops.join_next().await.ok_or("nothing is served")??
    })
}

fn listening(port: u16, protocol: Protocol, known: Option<&Identities>) -> Outcome<Listening> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    listener.set_nonblocking(true)?;
    let server = |known: &Identities| known.server(Party::Proxy, Party::Client, protocol);
    Ok(Listening { listener, protocol, tls: known.map(server).transpose()? })
}

async fn h1_hop(listening: Listening, pool: H1Pool) -> Outcome<()> {
    let pool = Rc::new(pool);
    let forward = async move |request| H1Pool::forward(&pool, request).await;
    serve::accept(listening, Rc::new(forward)).await
}

async fn h2_hop(listening: Listening, pool: H2Pool) -> Outcome<()> {
    let forward = async move |request| pool.forward(request).await;
    serve::accept(listening, Rc::new(forward)).await
}

/// Idle connections of HTTP/1.1, by endpoint.
struct H1Pool {
    endpoints: Vec<(Door, RefCell<Vec<Pooled>>)>,
    next: Cell<usize>,
    max_requests: u32,
}

struct Pooled {
    sender: http1::SendRequest<Incoming>,
    requests: u32,
}

impl H1Pool {
    fn new(doors: Vec<Door>, max_requests: u32) -> Self {
        let endpoints = doors.into_iter().map(|door| (door, RefCell::default())).collect();
        Self { endpoints, next: Cell::new(0), max_requests }
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
        let (door, idle) = self.endpoints.get(index).ok_or("no endpoints")?;
        loop {
            let Some(mut pooled) = idle.borrow_mut().pop() else { break };
            if pooled.sender.ready().await.is_ok() {
                return Ok(pooled);
            }
        }
        let (sender, connection) = http1::handshake(TokioIo::new(door.open().await?)).await?;
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
    endpoints: Vec<(Door, RefCell<Option<http2::SendRequest<Incoming>>>)>,
    next: Cell<usize>,
}

impl H2Pool {
    fn new(doors: Vec<Door>) -> Self {
        let endpoints = doors.into_iter().map(|door| (door, RefCell::default())).collect();
        Self { endpoints, next: Cell::new(0) }
    }

    async fn forward(&self, request: Request<Incoming>) -> Outcome<Response<Incoming>> {
        let index = self.next.replace(self.next.get() + 1) % self.endpoints.len();
        let (door, open) = self.endpoints.get(index).ok_or("no endpoints")?;
        let known = open.borrow().as_ref().filter(|sender| !sender.is_closed()).cloned();
        let mut sender = match known {
            Some(sender) => sender,
            None => {
                let mut builder = http2::Builder::new(Local);
                let (sender, connection) =
                    builder.timer(TokioTimer::new()).handshake(TokioIo::new(door.open().await?)).await?;
                spawn_local(connection);
                // Of several that connect at once, the last one stays.
                open.replace(Some(sender.clone()));
                sender
            }
        };
        Ok(sender.send_request(request).await?)
    }
}
