//! The life of a request's [`Record`]: emitted once, at the true end of the stream or when the request is dropped.

use std::{rc::Rc, sync::Arc};

use http::{HeaderMap, HeaderValue, Version, request::Parts};

use super::{
    client::ConnInfo, client_body::BodyFailure, fault::ActiveFault, headers, reply::Reply, upload::Upload,
};
use crate::{
    telemetry::{Details, Flag, Record},
    upstream::{ClusterState, Published},
    worker::Worker,
};

/// A request from its head to its end. Dropped before it is finished, the client has left (flag DC).
#[derive(Debug)]
pub(crate) struct RequestContext {
    worker: Rc<Worker>,
    conn: Rc<ConnInfo>,
    /// `None` once it was emitted.
    record: Option<Box<Record>>,
    upload: Option<Rc<Upload>>,
    cluster: Option<Arc<ClusterState>>,
    fault: Option<ActiveFault>,
}

impl RequestContext {
    pub(crate) fn begin(
        worker: &Rc<Worker>,
        conn: &Rc<ConnInfo>,
        published: &Published,
        parts: &Parts,
    ) -> Self {
        let mut record = worker.shard().begin(&published.snapshot, conn.direction());
        record.downstream_remote = Some(conn.peer());
        record.downstream_local = Some(conn.local());
        record.version = Some(parts.version);
        record.secured = conn.secured().cloned();
        record.grpc = headers::is_grpc(&parts.headers);
        conn.enter();
        let (worker, conn) = (Rc::clone(worker), Rc::clone(conn));
        Self { worker, conn, record: Some(Box::new(record)), upload: None, cluster: None, fault: None }
    }

    /// Takes over what the request line says.
    pub(crate) fn accept(&mut self, parts: &Parts, authority: Option<&HeaderValue>) {
        let path = parts.uri.path_and_query().cloned();
        let line = parts.method.as_str().len() + path.as_ref().map_or(0, |path| path.as_str().len()) + 10;
        let record = self.record();
        record.wire_received = headers::head_size(line, &parts.headers);
        record.method = Some(parts.method.clone());
        record.path = path;
        record.authority = authority.cloned();
        if let Some(client) = headers::forwarded_for(&parts.headers) {
            record.downstream_remote = Some(client);
        }
    }

    /// Counts the request's body from now on.
    pub(crate) fn receive(&mut self, upload: &Rc<Upload>) {
        self.upload = Some(Rc::clone(upload));
    }

    /// Whether there was no memory for the rest of the request.
    pub(crate) fn is_starved(&self) -> bool {
        self.upload.as_ref().is_some_and(|upload| upload.failure() == Some(BodyFailure::Starved))
    }

    /// The cluster that was chosen, if it exists.
    pub(crate) fn choose(&mut self, cluster: Option<&Arc<ClusterState>>) {
        self.record().cluster = cluster.map(|cluster| cluster.config());
    }

    /// A fault was injected.
    pub(crate) fn suffer(&mut self, fault: ActiveFault) {
        self.fault = Some(fault);
    }

    /// The cluster counts the answer from now on.
    pub(crate) fn assign(&mut self, cluster: &Arc<ClusterState>) {
        self.cluster = Some(Arc::clone(cluster));
    }

    /// The facts, to be filled.
    pub(crate) fn record(&mut self) -> &mut Record {
        self.record.as_mut().expect("a request that was finished does not go on")
    }

    /// Keeps the header values for the log as they go upstream.
    pub(crate) fn sending(&mut self, headers: &HeaderMap) {
        if let Some(record) = &mut self.record {
            self.worker.shard().capture_request(record, headers);
        }
    }

    /// Keeps what the client is answered.
    pub(crate) fn answering(&mut self, status: http::StatusCode, headers: &HeaderMap) {
        let Some(record) = &mut self.record else { return };
        record.status = status.as_u16();
        // `HTTP/1.1 200 OK`
        let line = 9 + 4 + status.canonical_reason().map_or(0, str::len);
        record.wire_sent = headers::head_size(line, headers);
        self.worker.shard().capture_response(record, headers);
        if let Some(cluster) = &self.cluster {
            cluster.stats.charge(status.as_u16());
        }
    }

    /// Keeps what the trailers say.
    pub(crate) fn trailers(&mut self, trailers: &HeaderMap) {
        if let Some(record) = &mut self.record {
            record.wire_sent += headers::head_size(0, trailers);
            self.worker.shard().capture_trailers(record, trailers);
        }
    }

    /// No answer is sent at all.
    pub(crate) fn refuse(&mut self, reply: &Reply) {
        let record = self.record();
        if let Some(flag) = reply.flag {
            record.flags.raise(flag);
        }
        record.details = Some(reply.details.clone());
        self.finish();
    }

    /// The answer was cut after its headers.
    pub(crate) fn cut(&mut self, flag: Flag, details: Details) {
        let record = self.record();
        record.flags.raise(flag);
        record.details = Some(details);
        if flag == Flag::UpstreamRequestTimeout
            && let Some(cluster) = &self.cluster
        {
            cluster.stats.upstream_rq_timeout.inc();
        }
        self.finish();
    }

    /// The stream has ended: the record goes out.
    pub(crate) fn finish(&mut self) {
        let Some(mut record) = self.record.take() else { return };
        record.body_received = self.upload.as_ref().map_or(0, |upload| upload.received());
        record.wire_received += record.body_received;
        record.wire_sent += record.body_sent;
        self.worker.shard().emit(*record);
        self.conn.leave();
    }

    /// The HTTP/2 connection is to end after this answer.
    pub(crate) fn dismiss(&self) {
        self.conn.dismiss();
    }

    /// Whether the client speaks HTTP/1.
    pub(crate) fn is_http1(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.version != Some(Version::HTTP_2))
    }
}

impl Drop for RequestContext {
    fn drop(&mut self) {
        let Some(record) = &mut self.record else { return };
        if std::thread::panicking() {
            // What panicked may be the telemetry itself; the panic has its own counter.
            self.conn.leave();
            return;
        }
        record.flags.raise(Flag::DownstreamConnectionTermination);
        record.details = Some(Details::fixed("downstream_remote_disconnect"));
        self.finish();
    }
}
