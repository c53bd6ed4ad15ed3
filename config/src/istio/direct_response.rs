//! `HTTPDirectResponse`: an answer of the proxy's own.

use base64::{
    Engine as _,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use http::StatusCode;

use crate::{
    fields::{Message, Object, Spanned, Type, yes},
    report::Code,
    sink::Sink,
    snapshot::DirectResponse,
};

/// Istio's limits, in bytes: a larger body is refused, or told.
const MAX_BODY: usize = 1 << 20;
const LARGE_BODY: usize = 100 << 10;

pub(super) static DIRECT_RESPONSE: Message = Message {
    name: "HTTPDirectResponse",
    fields: &[
        yes("status", Type::Int, "a_direct_response_has_its_status_and_body"),
        yes("body", Type::Object(&BODY), "a_direct_response_has_its_status_and_body"),
    ],
};

static BODY: Message = Message {
    name: "HTTPBody",
    fields: &[
        yes("string", Type::Text, "a_direct_response_has_its_status_and_body"),
        yes("bytes", Type::Text, "a_direct_response_has_its_status_and_body"),
    ],
};

pub(super) fn read_direct(response: &Object<'_>, sink: &mut Sink) -> DirectResponse {
    DirectResponse {
        status: status(response, sink).unwrap_or(StatusCode::OK),
        body: response.object("body").map(|body| read_body(&body, sink)).unwrap_or_default(),
    }
}

fn status(response: &Object<'_>, sink: &mut Sink) -> Option<StatusCode> {
    let Some(status) = response.int("status") else {
        sink.report(Code::MissingField, response.span(), "the answer has no status");
        return None;
    };
    super::status(status, sink)
}

fn read_body(body: &Object<'_>, sink: &mut Sink) -> Bytes {
    let (text, bytes) = (body.text("string"), body.text("bytes"));
    if let (Some(_), Some(bytes)) = (text, bytes) {
        sink.report(Code::ExclusiveFields, bytes.span, "a body has one of `string` and `bytes`");
    }
    let content = match (text, bytes) {
        (Some(text), _) => Some(Bytes::copy_from_slice(text.value.as_bytes())),
        (None, Some(bytes)) => decoded(&bytes, sink),
        (None, None) => None,
    };
    let content = content.unwrap_or_default();
    if content.len() > MAX_BODY {
        let message = format!("the body has {} bytes, more than 1 MiB", content.len());
        sink.report(Code::InvalidValue, body.span(), message);
    } else if content.len() > LARGE_BODY {
        let message = format!("the body has {} bytes, more than 100 KiB", content.len());
        let found = sink.report(Code::LargeBody, body.span(), message);
        found.help("every proxy keeps it in memory: let a server answer with it");
    }
    content
}

/// The JSON mapping of protocol buffers: either alphabet, padded or not.
fn decoded(text: &Spanned<&str>, sink: &mut Sink) -> Option<Bytes> {
    let alphabet = if text.value.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    match GeneralPurpose::new(alphabet, config).decode(text.value) {
        Ok(content) => Some(Bytes::from(content)),
        Err(error) => {
            sink.report(Code::InvalidValue, text.span, format!("the bytes are not base64: {error}"));
            None
        }
    }
}
