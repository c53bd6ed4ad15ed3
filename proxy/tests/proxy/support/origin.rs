//! An upstream that misbehaves by script, over HTTP/1.1 (hand-written, so that it can send anything) and h2c, and
//! records every request as it came.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// A request as it reached the origin.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// Which connection of the origin, from 0.
    pub(crate) connection: usize,
    pub(crate) method: String,
    /// Path and query as sent.
    pub(crate) target: String,
    /// In order; over HTTP/2 the authority stands first as `host`.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
}

impl Seen {
    /// First value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All values of a header.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Holds scripts back until the test opens it.
#[derive(Debug, Clone)]
pub(crate) struct Gate(watch::Sender<bool>);

impl Gate {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    pub(crate) fn open(&self) {
        self.0.send_replace(true);
    }

    async fn passed(&self) {
        // The gate itself is a sender, so that waiting cannot fail.
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

/// One step of an answer.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Status line or HEADERS. Over HTTP/1.1 without framing headers, `content-length` is added.
    Head(u16, Vec<(&'static str, String)>),
    Data(Vec<u8>),
    /// HTTP/2 only.
    Trailers(Vec<(&'static str, String)>),
    /// Any bytes; HTTP/1.1 only.
    Raw(Vec<u8>),
    /// Waits for the test.
    Wait(Gate),
    /// Closes the connection in an orderly way.
    Close,
    /// TCP reset.
    Abort,
    /// `RST_STREAM`; HTTP/2 only.
    ResetStream(h2::Reason),
    /// GOAWAY that disowns this very stream; HTTP/2 only.
    GoAway,
}

/// The script of one answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply(pub(crate) Vec<Step>);

impl Reply {
    pub(crate) fn text(body: &str) -> Self {
        Self::status(200).data(body)
    }

    pub(crate) fn status(status: u16) -> Self {
        Self(vec![Step::Head(status, vec![])])
    }

    pub(crate) fn raw(bytes: &str) -> Self {
        Self(vec![Step::Raw(bytes.as_bytes().to_vec())])
    }

    /// Does not answer before the gate is open.
    pub(crate) fn after(gate: &Gate) -> Self {
        Self(vec![Step::Wait(gate.clone())])
    }

    /// Never answers.
    pub(crate) fn never() -> Self {
        Self::after(&Gate::new())
    }

    /// A gRPC answer that consists of trailers only.
    pub(crate) fn grpc_status(code: u16) -> Self {
        Self::status(200).header("content-type", "application/grpc").header("grpc-status", &code.to_string())
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Some(Step::Head(_, headers)) = self.0.iter_mut().rev().find(|s| matches!(s, Step::Head(..))) {
            headers.push((name, value.to_owned()));
        }
        self
    }

    pub(crate) fn data(self, body: &str) -> Self {
        self.then(Step::Data(body.as_bytes().to_vec()))
    }

    pub(crate) fn then(mut self, step: Step) -> Self {
        self.0.push(step);
        self
    }

    pub(crate) fn and(mut self, more: Self) -> Self {
        self.0.extend(more.0);
        self
    }
}

type Script = Arc<dyn Fn(&Seen) -> Reply + Send + Sync>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    Http1,
    Http2,
    /// HTTP/2, each message sent back as it comes, the request's trailers at the end.
    Echo,
    /// Nothing at all: the connection is closed.
    None,
}

#[derive(Default)]
struct Record {
    seen: Mutex<Vec<Seen>>,
    accepted: AtomicUsize,
    open: AtomicUsize,
}

/// A running origin; it stops when it is dropped.
pub(crate) struct Origin {
    address: SocketAddr,
    record: Arc<Record>,
    task: JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Origin {
    pub(crate) async fn http1(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start(Wire::Http1, Arc::new(script)).await
    }

    pub(crate) async fn h2c(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start(Wire::Http2, Arc::new(script)).await
    }

    /// Answers every request with its own name.
    pub(crate) async fn named(name: &'static str) -> Self {
        Self::http1(move |_| Reply::text(name)).await
    }

    /// Sends every message back as it comes, and at last the request's trailers with `grpc-status: 0`.
    pub(crate) async fn echo() -> Self {
        Self::start(Wire::Echo, Arc::new(|_| Reply::default())).await
    }

    /// Accepts every connection and closes it before it has read anything.
    pub(crate) async fn hangs_up() -> Self {
        Self::start(Wire::None, Arc::new(|_| Reply::default())).await
    }

    async fn start(wire: Wire, script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let record = Arc::new(Record::default());
        let task = tokio::spawn(accept(listener, wire, Arc::clone(&record), script));
        Self { address, record, task }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// All requests so far; over HTTP/1.1 and scripted HTTP/2 they are recorded when they are complete.
    pub(crate) fn requests(&self) -> Vec<Seen> {
        self.record.seen.lock().unwrap().clone()
    }

    pub(crate) fn hits(&self) -> usize {
        self.record.seen.lock().unwrap().len()
    }

    /// The one request there was.
    #[track_caller]
    pub(crate) fn only(&self) -> Seen {
        let mut seen = self.requests();
        assert_eq!(seen.len(), 1, "{seen:#?}");
        seen.remove(0)
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.record.accepted.load(Ordering::SeqCst)
    }

    /// Connections open now.
    pub(crate) fn open(&self) -> usize {
        self.record.open.load(Ordering::SeqCst)
    }
}

async fn accept(listener: TcpListener, wire: Wire, record: Arc<Record>, script: Script) {
    // Aborting this task drops the set and with it every connection.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        let number = record.accepted.fetch_add(1, Ordering::SeqCst);
        record.open.fetch_add(1, Ordering::SeqCst);
        let (record, script) = (Arc::clone(&record), Arc::clone(&script));
        connections.spawn(async move {
            // Whatever ends a connection, a broken one included, ends its script.
            match wire {
                Wire::None => drop(stream),
                Wire::Http1 => drop(http1(stream, number, &record, &script).await),
                Wire::Http2 | Wire::Echo => {
                    drop(http2(stream, wire, number, &record, &script).await);
                }
            }
            record.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn http1(
    mut stream: TcpStream,
    number: usize,
    record: &Record,
    script: &Script,
) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    while let Some(mut seen) = read_request(&mut stream, &mut buffer).await? {
        seen.connection = number;
        record.seen.lock().unwrap().push(seen.clone());
        let steps = script(&seen).0;
        let length: usize = steps.iter().map(|s| if let Step::Data(data) = s { data.len() } else { 0 }).sum();
        for step in steps {
            match step {
                Step::Head(status, headers) => {
                    let head = http1_head(status, &headers, length, &seen.method);
                    stream.write_all(head.as_bytes()).await?;
                }
                Step::Data(bytes) if seen.method == "HEAD" => drop(bytes),
                Step::Data(bytes) | Step::Raw(bytes) => stream.write_all(&bytes).await?,
                Step::Wait(gate) => {
                    // A client that leaves meanwhile ends the wait.
                    let mut byte = [0];
                    tokio::select! {
                        () = gate.passed() => {}
                        read = stream.read(&mut byte) => {
                            if read? == 0 { return Ok(()) }
                            buffer.push(byte[0]);
                        }
                    }
                }
                Step::Close => return stream.shutdown().await,
                Step::Abort => {
                    socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO))?;
                    return Ok(());
                }
                Step::Trailers(_) | Step::ResetStream(_) | Step::GoAway => panic!("{step:?} needs HTTP/2"),
            }
        }
    }
    Ok(())
}

fn http1_head(status: u16, headers: &[(&str, String)], length: usize, method: &str) -> String {
    let mut head = format!("HTTP/1.1 {status} Any\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let framed = headers.iter().any(|(name, _)| matches!(*name, "content-length" | "transfer-encoding"));
    if !framed && (status >= 200 && status != 204 && status != 304 || method == "HEAD") {
        head.push_str(&format!("content-length: {length}\r\n"));
    }
    head + "\r\n"
}

/// One request, or `None` at the end of the connection. What was read beyond it stays in the buffer.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<Option<Seen>> {
    let Some(end) = fill_until(stream, buffer, b"\r\n\r\n").await? else { return Ok(None) };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end + 4);
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let mut seen = Seen {
        method: words.next().unwrap_or_default().to_owned(),
        target: words.next().unwrap_or_default().to_owned(),
        ..Seen::default()
    };
    for line in lines {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        seen.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    if seen.header("transfer-encoding").is_some() {
        loop {
            let Some(end) = fill_until(stream, buffer, b"\r\n").await? else { return Ok(None) };
            let size = usize::from_str_radix(&String::from_utf8_lossy(&buffer[..end]), 16).unwrap();
            if !fill_to(stream, buffer, end + 2 + size + 2).await? {
                return Ok(None);
            }
            seen.body.extend(&buffer[end + 2..end + 2 + size]);
            buffer.drain(..end + 2 + size + 2);
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = seen.header("content-length") {
        let length = length.parse().unwrap();
        if !fill_to(stream, buffer, length).await? {
            return Ok(None);
        }
        seen.body = buffer.drain(..length).collect();
    }
    Ok(Some(seen))
}

async fn fill_until(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    mark: &[u8],
) -> std::io::Result<Option<usize>> {
    loop {
        if let Some(at) = buffer.windows(mark.len()).position(|window| window == mark) {
            return Ok(Some(at));
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

async fn fill_to(stream: &mut TcpStream, buffer: &mut Vec<u8>, length: usize) -> std::io::Result<bool> {
    while buffer.len() < length {
        if stream.read_buf(buffer).await? == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn http2(
    stream: TcpStream,
    wire: Wire,
    number: usize,
    record: &Arc<Record>,
    script: &Script,
) -> Result<(), h2::Error> {
    let mut streams = tokio::task::JoinSet::new();
    let mut connection = h2::server::handshake(stream).await?;
    // A script that breaks the whole connection tells so here.
    let (breaks, mut broken) = tokio::sync::mpsc::channel::<Step>(1);
    loop {
        let (request, respond) = tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(accepted) => accepted?,
                None => return Ok(()),
            },
            Some(step) = broken.recv() => match step {
                Step::GoAway => {
                    connection.abrupt_shutdown(h2::Reason::NO_ERROR);
                    return std::future::poll_fn(|cx| connection.poll_closed(cx)).await;
                }
                _ => return Ok(()),
            },
        };
        let (record, script, breaks) = (Arc::clone(record), Arc::clone(script), breaks.clone());
        streams.spawn(async move {
            let result = if wire == Wire::Echo {
                echo(request, respond, number, &record).await
            } else {
                http2_stream(request, respond, number, &record, &script, &breaks).await
            };
            // A reset stream is what some tests are about.
            drop(result);
        });
    }
}

fn http2_seen(head: &http::request::Parts, number: usize) -> Seen {
    let mut seen = Seen {
        connection: number,
        method: head.method.to_string(),
        target: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        ..Seen::default()
    };
    seen.headers.extend(head.uri.authority().map(|host| ("host".to_owned(), host.to_string())));
    seen.headers.extend(pairs(&head.headers));
    seen
}

/// The lines of a header map.
pub(crate) fn pairs(map: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    map.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

fn map(headers: &[(&'static str, String)]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, String)| {
        (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
    };
    headers.iter().map(pair).collect()
}

async fn http2_stream(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    number: usize,
    record: &Record,
    script: &Script,
    breaks: &tokio::sync::mpsc::Sender<Step>,
) -> Result<(), h2::Error> {
    let (head, mut body) = request.into_parts();
    let mut seen = http2_seen(&head, number);
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        seen.body.extend(&chunk);
    }
    seen.trailers = body.trailers().await?.map(|map| pairs(&map)).unwrap_or_default();
    record.seen.lock().unwrap().push(seen.clone());

    let steps = script(&seen).0;
    let mut left = steps.len();
    let mut sender = None;
    for step in steps {
        left -= 1;
        match step {
            Step::Head(status, headers) => {
                let mut response = Response::builder().status(status).body(()).unwrap();
                *response.headers_mut() = map(&headers);
                sender = Some(respond.send_response(response, left == 0)?);
            }
            Step::Data(bytes) => sender.as_mut().unwrap().send_data(bytes.into(), left == 0)?,
            Step::Trailers(trailers) => sender.as_mut().unwrap().send_trailers(map(&trailers))?,
            Step::Wait(gate) => {
                tokio::select! {
                    () = gate.passed() => {}
                    reset = std::future::poll_fn(|cx| match &mut sender {
                        Some(sender) => sender.poll_reset(cx),
                        None => respond.poll_reset(cx),
                    }) => { reset?; return Ok(()) }
                }
            }
            Step::ResetStream(reason) => match &mut sender {
                Some(sender) => sender.send_reset(reason),
                None => respond.send_reset(reason),
            },
            Step::GoAway | Step::Close | Step::Abort => {
                let _ = breaks.send(step).await;
                // The stream must outlive the frame that breaks the connection.
                std::future::pending::<()>().await;
            }
            Step::Raw(_) => panic!("raw bytes need HTTP/1.1"),
        }
    }
    Ok(())
}

async fn echo(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    number: usize,
    record: &Record,
) -> Result<(), h2::Error> {
    let (head, mut body) = request.into_parts();
    let at = {
        let mut all = record.seen.lock().unwrap();
        all.push(http2_seen(&head, number));
        all.len() - 1
    };
    let response = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let mut sender = respond.send_response(response, false)?;
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        record.seen.lock().unwrap()[at].body.extend(&chunk);
        sender.send_data(chunk, false)?;
    }
    let mut trailers = body.trailers().await?.unwrap_or_default();
    record.seen.lock().unwrap()[at].trailers = pairs(&trailers);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    sender.send_trailers(trailers)
}
