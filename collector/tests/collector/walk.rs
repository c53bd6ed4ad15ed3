//! The walk against a real decoder: what it accepts, the decoder accepts, and it counts the same.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, span};
use otlp_collector::Signal;
use otlp_collector::otlp::{MAX_DEPTH, to_json, walk};
use proptest::prelude::*;
use prost::Message;

fn value() -> impl Strategy<Value = AnyValue> {
    let leaf = prop_oneof![
        any::<String>().prop_map(Value::StringValue),
        any::<i64>().prop_map(Value::IntValue),
        any::<bool>().prop_map(Value::BoolValue),
        any::<f64>().prop_map(Value::DoubleValue),
        any::<Vec<u8>>().prop_map(Value::BytesValue),
    ]
    .prop_map(|value| AnyValue { value: Some(value) });
    leaf.prop_recursive(4, 16, 4, |inner| {
        prop::collection::vec(inner, 0..4)
            .prop_map(|values| AnyValue { value: Some(Value::ArrayValue(ArrayValue { values })) })
    })
}

fn spans() -> impl Strategy<Value = Vec<Span>> {
    let attribute = (any::<String>(), value()).prop_map(|(key, value)| KeyValue {
        key,
        value: Some(value),
        ..KeyValue::default()
    });
    let attributes = prop::collection::vec(attribute, 0..4);
    let span = (any::<Option<[u8; 16]>>(), any::<String>(), any::<i32>(), any::<u64>(), attributes).prop_map(
        |(id, name, kind, time, attributes)| Span {
            trace_id: id.map(Vec::from).unwrap_or_default(),
            name,
            kind,
            start_time_unix_nano: time,
            events: vec![span::Event { attributes: attributes.clone(), ..span::Event::default() }],
            attributes,
            ..Span::default()
        },
    );
    prop::collection::vec(span, 0..5)
}

fn request() -> impl Strategy<Value = ExportTraceServiceRequest> {
    prop::collection::vec(spans(), 0..4).prop_map(|scopes| {
        let scope_spans =
            scopes.into_iter().map(|spans| ScopeSpans { spans, ..ScopeSpans::default() }).collect();
        ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }],
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn well_formed_requests_are_counted(request in request()) {
        let scopes = request.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
        let count: usize = scopes.map(|scope| scope.spans.len()).sum();
        let bytes = request.encode_to_vec();
        prop_assert_eq!(walk(Signal::Traces, &bytes), Ok(count as u64));
        // And its JSON is the same request.
        let json = to_json(Signal::Traces, &bytes).unwrap();
        let again = otlp_collector::otlp::from_json(Signal::Traces, &json).unwrap();
        let again = ExportTraceServiceRequest::decode(&again[..]).unwrap();
        prop_assert_eq!(format!("{again:?}"), format!("{request:?}"));
    }

    #[test]
    fn a_damaged_request_is_accepted_only_if_a_decoder_accepts_it(
        request in request(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>(),
    ) {
        let mut bytes = request.encode_to_vec();
        prop_assume!(!bytes.is_empty());
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        let decoded = ExportTraceServiceRequest::decode(&bytes[..]);
        match walk(Signal::Traces, &bytes) {
            Ok(_) => prop_assert!(decoded.is_ok(), "{decoded:?}"),
            // Ids of a wrong length are the one thing where it is stricter.
            Err(malformed) => prop_assert!(
                decoded.is_err() || malformed.to_string().starts_with("wrong id length"),
                "{malformed}"
            ),
        }
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for signal in Signal::ALL {
            let _ = walk(signal, &bytes);
            let _ = to_json(signal, &bytes);
            let _ = otlp_collector::otlp::from_json(signal, &bytes);
        }
    }
}

/// A log body of arrays in arrays. The request, resource, scope, record and body are five levels, each array two.
fn nested(arrays: usize) -> Vec<u8> {
    let mut body = AnyValue::default();
    for _ in 0..arrays {
        body = AnyValue { value: Some(Value::ArrayValue(ArrayValue { values: vec![body] })) };
    }
    let log_records = vec![LogRecord { body: Some(body), ..LogRecord::default() }];
    let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
    let resource_logs = vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }];
    ExportLogsServiceRequest { resource_logs }.encode_to_vec()
}

#[test]
fn nesting_has_the_decoder_s_limit() {
    let deepest = (MAX_DEPTH - 4) / 2;
    for (arrays, fits) in [(deepest, true), (deepest + 1, false)] {
        let bytes = nested(arrays);
        assert_eq!(walk(Signal::Logs, &bytes).is_ok(), fits, "{arrays}");
        assert_eq!(ExportLogsServiceRequest::decode(&bytes[..]).is_ok(), fits, "{arrays}");
    }
}

#[test]
fn the_fault_is_named_with_its_place() {
    // resource_spans[0].scope_spans[0].spans[0].name is one byte, 0xff.
    let bytes = [0x0a, 7, 0x12, 5, 0x12, 3, 0x2a, 1, 0xff];
    let malformed = walk(Signal::Traces, &bytes).unwrap_err();
    assert_eq!(malformed.to_string(), "invalid UTF-8 at byte 6 in Span.name");
    // A trace id of three bytes.
    let bytes = [0x0a, 9, 0x12, 7, 0x12, 5, 0x0a, 3, 1, 2, 3];
    assert_eq!(
        walk(Signal::Traces, &bytes).unwrap_err().to_string(),
        "wrong id length at byte 6 in Span.traceId"
    );
}
