//! The HTTP request of an export.

use bytes::{BufMut, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderValue, Method, Request, Uri, Version,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HOST, TE, USER_AGENT},
};
use http_body_util::Full;
use outrigger_config::snapshot::{Destination, OtlpProtocol};

use crate::{telemetry::Signal, upstream::Wire};

/// What is spoken to a receiver.
pub(super) fn wire(to: &Destination) -> Wire {
    match to.protocol {
        OtlpProtocol::Grpc => Wire::Http2,
        OtlpProtocol::Http { .. } => Wire::Http1,
    }
}

/// A message as the transport frames it; `gzip` says that it is compressed.
pub(super) fn framed(to: &Destination, message: Bytes, gzip: bool) -> Bytes {
    match to.protocol {
        OtlpProtocol::Http { .. } => message,
        OtlpProtocol::Grpc => {
            let mut body = BytesMut::with_capacity(message.len() + 5);
            body.put_u8(gzip.into());
            // A batch is far smaller than 4 GiB.
            body.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
            body.put(message);
            body.freeze()
        }
    }
}

/// The request for a framed message. The error is what is wrong with the destination.
pub(super) fn build(
    to: &Destination,
    signal: Signal,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, http::Error> {
    // An IPv6 address stands in brackets.
    let authority = match to.host.contains(':') {
        true => format!("[{}]:{}", to.host, to.port),
        false => format!("{}:{}", to.host, to.port),
    };
    let mut headers = HeaderMap::new();
    let (uri, kind, encoding) = match &to.protocol {
        OtlpProtocol::Grpc => {
            headers.insert(TE, HeaderValue::from_static("trailers"));
            let path = grpc_path(signal);
            let scheme = if to.tls.is_some() { "https" } else { "http" };
            let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build()?;
            (uri, "application/grpc", http::HeaderName::from_static("grpc-encoding"))
        }
        OtlpProtocol::Http { path } => {
            headers.insert(HOST, HeaderValue::try_from(authority)?);
            (Uri::from(path.clone()), "application/x-protobuf", CONTENT_ENCODING)
        }
    };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("outrigger/", env!("CARGO_PKG_VERSION"))));
    if to.gzip {
        headers.insert(encoding, HeaderValue::from_static("gzip"));
    }
    headers.extend(to.headers.clone());
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_11;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Ok(request)
}

fn grpc_path(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    }
}
