//! What stands behind a collector: an OTLP/HTTP receiver that writes every item into the ledger, and that can be
//! stopped so that nothing listens on its port.

use std::{io, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    routing::post,
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::{KeyValue, any_value::Value},
    metrics::v1::metric::Data,
    resource::v1::Resource,
};
use prost::Message;
use tokio::{
    net::TcpListener,
    task::{AbortHandle, JoinSet},
};

use crate::ledger::{ITEM_ID, ItemId, Ledger, OwnReceived, SESSION, SinkId};

/// A sink on a port that stays its own.
pub(crate) struct Sink {
    /// Where the collector exports to.
    pub(crate) address: SocketAddr,
    app: Router,
    serving: Option<AbortHandle>,
}

#[derive(Clone)]
struct Receiver {
    id: SinkId,
    ledger: Arc<Ledger>,
}

impl Sink {
    /// Binds a free port and serves.
    pub(crate) async fn start(id: SinkId, ledger: &Arc<Ledger>) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let receiver = Receiver { id, ledger: Arc::clone(ledger) };
        let app = Router::new().route("/v1/{signal}", post(receive)).with_state(receiver);
        let mut sink = Self { address: listener.local_addr()?, app, serving: None };
        sink.serve(listener);
        Ok(sink)
    }

    /// Closes the port and every connection.
    pub(crate) fn stop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
    }

    /// Serves again on the same port.
    pub(crate) async fn restart(&mut self) -> io::Result<()> {
        let listener = TcpListener::bind(self.address).await?;
        self.serve(listener);
        Ok(())
    }

    fn serve(&mut self, listener: TcpListener) {
        let app = self.app.clone();
        let task = tokio::spawn(async move {
            // Dropped with this task, and all connections with it.
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => if let Ok((socket, _)) = accepted {
                        let service = TowerToHyperService::new(app.clone());
                        connections.spawn(async move {
                            // A collector that goes away is no error of the sink.
                            let _ = hyper::server::conn::http1::Builder::new()
                                .serve_connection(TokioIo::new(socket), service)
                                .await;
                        });
                    },
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        self.serving = Some(task.abort_handle());
    }
}

async fn receive(
    State(receiver): State<Receiver>,
    Path(signal): Path<String>,
    body: Bytes,
) -> Result<Bytes, StatusCode> {
    let received = decode(&signal, body).map_err(|_| StatusCode::BAD_REQUEST)?;
    for (session, items) in received.batches {
        receiver.ledger.receive(receiver.id, session, items);
    }
    receiver.ledger.receive_own(received.own);
    Ok(Bytes::new())
}

/// The content of one request.
#[derive(Default)]
struct Received {
    /// Items of the load, by session.
    batches: Vec<(String, Vec<ItemId>)>,
    own: OwnReceived,
}

fn decode(signal: &str, body: Bytes) -> Result<Received, prost::DecodeError> {
    let mut received = Received::default();
    let Received { batches, own } = &mut received;
    match signal {
        "traces" => {
            for resource in ExportTraceServiceRequest::decode(body)?.resource_spans {
                let spans = resource.scope_spans.iter().flat_map(|scope| &scope.spans);
                if is_own(resource.resource.as_ref()) {
                    own.spans.extend(spans.map(|span| span.span_id.clone()));
                } else {
                    let items = spans.filter_map(|span| item_id(&span.attributes)).collect();
                    batches.push((session(resource.resource.as_ref()), items));
                }
            }
        }
        "logs" => {
            for resource in ExportLogsServiceRequest::decode(body)?.resource_logs {
                let records = resource.scope_logs.iter().flat_map(|scope| &scope.log_records);
                if is_own(resource.resource.as_ref()) {
                    own.records.extend(records.map(|record| record.span_id.clone()));
                } else {
                    let items = records.filter_map(|record| item_id(&record.attributes)).collect();
                    batches.push((session(resource.resource.as_ref()), items));
                }
            }
        }
        _ => {
            for resource in ExportMetricsServiceRequest::decode(body)?.resource_metrics {
                let metrics = resource.scope_metrics.iter().flat_map(|scope| &scope.metrics);
                if is_own(resource.resource.as_ref()) {
                    own.points += metrics.map(|metric| points(metric.data.as_ref())).sum::<u64>();
                    continue;
                }
                let sums = metrics.filter_map(|metric| match &metric.data {
                    Some(Data::Sum(sum)) => Some(&sum.data_points),
                    _ => None,
                });
                let items = sums.flatten().filter_map(|point| item_id(&point.attributes)).collect();
                batches.push((session(resource.resource.as_ref()), items));
            }
        }
    }
    Ok(received)
}

fn points(data: Option<&Data>) -> u64 {
    let count = match data {
        Some(Data::Sum(sum)) => sum.data_points.len(),
        Some(Data::Gauge(gauge)) => gauge.data_points.len(),
        Some(Data::Histogram(histogram)) => histogram.data_points.len(),
        _ => 0,
    };
    count as u64
}

/// The sidecar's, not the load's.
fn is_own(resource: Option<&Resource>) -> bool {
    let attributes = resource.map(|resource| resource.attributes.as_slice()).unwrap_or_default();
    matches!(value(attributes, "telemetry.sdk.name"), Some(Value::StringValue(name)) if name == "outrigger")
}

fn session(resource: Option<&Resource>) -> String {
    let attributes = resource.map(|resource| resource.attributes.as_slice()).unwrap_or_default();
    match value(attributes, SESSION) {
        Some(Value::StringValue(session)) => session.clone(),
        _ => String::new(),
    }
}

fn item_id(attributes: &[KeyValue]) -> Option<ItemId> {
    match value(attributes, ITEM_ID) {
        Some(Value::IntValue(id)) => Some(ItemId(*id)),
        _ => None,
    }
}

fn value<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a Value> {
    attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?.value.as_ref()
}
