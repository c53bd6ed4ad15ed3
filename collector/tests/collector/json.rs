//! OTLP/JSON: R5 to R12, against the generated types.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point;
use opentelemetry_proto::tonic::trace::v1::Span;
use otlp_collector::Signal;
use otlp_collector::otlp::{from_json, to_json, walk};
use prost::Message;

fn span(fields: &str) -> Result<Span, String> {
    let json = format!("{{\"resourceSpans\":[{{\"scopeSpans\":[{{\"spans\":[{{{fields}}}]}}]}}]}}");
    let bytes = from_json(Signal::Traces, json.as_bytes()).map_err(|error| error.to_string())?;
    assert_eq!(walk(Signal::Traces, &bytes), Ok(1), "{fields}");
    let request = ExportTraceServiceRequest::decode(&bytes[..]).unwrap();
    Ok(request.resource_spans[0].scope_spans[0].spans[0].clone())
}

fn attribute(value: &str) -> Result<Option<Value>, String> {
    let span = span(&format!("\"attributes\":[{{\"key\":\"k\",\"value\":{value}}}]"))?;
    Ok(span.attributes[0].value.clone().and_then(|value| value.value))
}

#[test]
fn snake_case_and_unknown_fields_are_ignored() {
    let bytes =
        from_json(Signal::Traces, br#"{"resource_spans":[{"x":1}],"futureField":{"a":[1,{}]}}"#).unwrap();
    assert!(bytes.is_empty());
    let span = span(r#""future":[[{"deep":null}]],"name":"n","status":{"code":2,"future":1}"#).unwrap();
    assert_eq!((span.name.as_str(), span.status.unwrap().code), ("n", 2));
    assert_eq!(attribute(r#"{"future":{"x":1},"intValue":"7"}"#).unwrap(), Some(Value::IntValue(7)));
}

#[test]
fn ids_are_hex_of_the_right_length_in_either_case() {
    let span =
        span(r#""traceId":"5B8EFFF798038103D269B633813FC60C","spanId":"eee19b7ec3c1b174","parentSpanId":"""#);
    let span = span.unwrap();
    assert_eq!(span.trace_id[..2], [0x5b, 0x8e]);
    assert_eq!((span.trace_id.len(), span.span_id.len(), span.parent_span_id.len()), (16, 8, 0));
    for wrong in ["5b8efff798038103d269b633813fc60", "5b8e", "zb8efff798038103d269b633813fc60c"] {
        self::span(&format!("\"traceId\":\"{wrong}\"")).unwrap_err();
        self::span(&format!("\"links\":[{{\"traceId\":\"{wrong}\"}}]")).unwrap_err();
    }
}

#[test]
fn numbers_come_as_numbers_or_strings() {
    for text in ["1544712660300000000", "\"1544712660300000000\"", "1.5447126603e18", "\"1.5447126603e18\""] {
        assert_eq!(
            span(&format!("\"startTimeUnixNano\":{text}")).unwrap().start_time_unix_nano,
            1_544_712_660_300_000_000
        );
    }
    assert_eq!(span("\"startTimeUnixNano\":18446744073709551615").unwrap().start_time_unix_nano, u64::MAX);
    for wrong in ["1.5", "-1", "\"x\"", "\"\"", "\"inf\"", "true", "[]", "18446744073709551616"] {
        span(&format!("\"startTimeUnixNano\":{wrong}")).unwrap_err();
    }
    assert_eq!(attribute(r#"{"doubleValue":"Infinity"}"#).unwrap(), Some(Value::DoubleValue(f64::INFINITY)));
    assert_eq!(attribute(r#"{"doubleValue":3}"#).unwrap(), Some(Value::DoubleValue(3.0)));
    assert_eq!(attribute(r#"{"doubleValue":"-2.5e1"}"#).unwrap(), Some(Value::DoubleValue(-25.0)));
    assert!(
        matches!(attribute(r#"{"doubleValue":"NaN"}"#).unwrap(), Some(Value::DoubleValue(value)) if value.is_nan())
    );
    assert_eq!(attribute(r#"{"intValue":-5}"#).unwrap(), Some(Value::IntValue(-5)));
}

#[test]
fn bytes_are_base64_and_enums_are_integers() {
    assert_eq!(attribute(r#"{"bytesValue":"AQI="}"#).unwrap(), Some(Value::BytesValue(vec![1, 2])));
    assert_eq!(attribute(r#"{"bytesValue":"_-8"}"#).unwrap(), Some(Value::BytesValue(vec![0xff, 0xef])));
    attribute(r#"{"bytesValue":"?"}"#).unwrap_err();
    assert_eq!(span("\"kind\":2").unwrap().kind, 2);
    assert_eq!(span("\"kind\":99").unwrap().kind, 99);
    span("\"kind\":\"SPAN_KIND_SERVER\"").unwrap_err();
}

#[test]
fn null_is_absent_and_a_default_in_a_oneof_is_not() {
    let span = span(r#""name":null,"attributes":null,"status":null,"kind":null,"traceId":null"#).unwrap();
    assert_eq!(span, Span::default());
    for (text, value) in [
        (r#"{"intValue":0}"#, Some(Value::IntValue(0))),
        (r#"{"boolValue":false}"#, Some(Value::BoolValue(false))),
        (r#"{"stringValue":""}"#, Some(Value::StringValue(String::new()))),
        (r#"{"stringValue":null}"#, None),
        ("{}", None),
        ("null", None),
    ] {
        assert_eq!(attribute(text).unwrap(), value, "{text}");
    }
    for empty in ["", "{}", " {} ", "null"] {
        assert!(from_json(Signal::Logs, empty.as_bytes()).unwrap().is_empty());
    }
    for wrong in ["[]", "1", "{", "{}x", "{\"resourceLogs\":{}}"] {
        from_json(Signal::Logs, wrong.as_bytes()).unwrap_err();
    }
}

#[test]
fn every_kind_of_point_is_what_the_generated_types_say() {
    let json = br#"{"resourceMetrics":[{"resource":{"attributes":[{"key":"a","value":{"kvlistValue":{"values":[
        {"key":"b","value":{"arrayValue":{"values":[{"boolValue":true},{"doubleValue":1.5}]}}}]}}}]},
      "scopeMetrics":[{"scope":{"name":"s","version":"1"},"metrics":[
        {"name":"g","gauge":{"dataPoints":[{"asInt":"-3","timeUnixNano":"5","exemplars":[{"asDouble":2,"traceId":"5b8efff798038103d269b633813fc60c"}]},{"asDouble":0}]}},
        {"name":"s","sum":{"isMonotonic":true,"aggregationTemporality":2,"dataPoints":[{"asInt":1}]}},
        {"name":"h","histogram":{"dataPoints":[{"count":"3","sum":0,"bucketCounts":["1",2],"explicitBounds":[1.5]}]}},
        {"name":"e","exponentialHistogram":{"dataPoints":[{"scale":-2,"positive":{"offset":-1,"bucketCounts":["1","300"]}}]}},
        {"name":"q","summary":{"dataPoints":[{"quantileValues":[{"quantile":0.5,"value":2}]}]}}]}]}]}"#;
    let bytes = from_json(Signal::Metrics, json).unwrap();
    assert_eq!(walk(Signal::Metrics, &bytes), Ok(6));
    let request = ExportMetricsServiceRequest::decode(&bytes[..]).unwrap();
    let oracle: ExportMetricsServiceRequest = serde_json::from_slice(json).unwrap();
    assert_eq!(request, oracle);
    let metrics = &request.resource_metrics[0].scope_metrics[0].metrics;
    let Some(Data::Gauge(gauge)) = &metrics[0].data else { panic!() };
    assert_eq!(gauge.data_points[0].value, Some(number_data_point::Value::AsInt(-3)));
    let Some(Data::ExponentialHistogram(exponential)) = &metrics[3].data else { panic!() };
    assert_eq!(exponential.data_points[0].scale, -2);
    // And back.
    let printed = to_json(Signal::Metrics, &request.encode_to_vec()).unwrap();
    assert_eq!(from_json(Signal::Metrics, &printed).unwrap().len(), bytes.len());
    let again: ExportMetricsServiceRequest = serde_json::from_slice(&printed).unwrap();
    assert_eq!(again, request);
}

#[test]
fn log_records_round_trip() {
    let json =
        br#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":"1","observedTimeUnixNano":"2",
        "severityNumber":9,"severityText":"INFO","body":{"stringValue":"\u00e9\"x"},"eventName":"e","flags":1,
        "traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174"}],"schemaUrl":"u"}]}]}"#;
    let bytes = from_json(Signal::Logs, json).unwrap();
    let oracle: ExportLogsServiceRequest = serde_json::from_slice(json).unwrap();
    assert_eq!(ExportLogsServiceRequest::decode(&bytes[..]).unwrap(), oracle);
    let printed = to_json(Signal::Logs, &bytes).unwrap();
    assert_eq!(serde_json::from_slice::<ExportLogsServiceRequest>(&printed).unwrap(), oracle);
}

#[test]
fn deep_nesting_is_an_error_not_a_crash() {
    let deep = format!("{}{}", "{\"arrayValue\":{\"values\":[".repeat(5000), "]}}".repeat(5000));
    attribute(&deep).unwrap_err();
}
