//! `HTTPFaultInjection`: delays and aborts, compiled.

use super::{
    at_least_1ms,
    percent::{PERCENT, SMALLEST, either, share},
};
use crate::{
    fields::{Message, Object, Spanned, Type, did_you_mean, refused, yes},
    report::Code,
    sink::Sink,
    snapshot::{AbortStatus, Fault, FaultAbort, FaultDelay, Share},
};

const WHY_NOT: &str = "Istio rejects it too";

pub(super) static FAULT: Message = Message {
    name: "HTTPFaultInjection",
    fields: &[
        yes("delay", Type::Object(&DELAY), "faults_are_compiled"),
        yes("abort", Type::Object(&ABORT), "faults_are_compiled"),
    ],
};

static DELAY: Message = Message {
    name: "Delay",
    fields: &[
        yes("percent", Type::Int, "a_fault_without_a_percentage_never_happens"),
        yes("percentage", Type::Object(&PERCENT), "faults_are_compiled"),
        yes("fixedDelay", Type::Duration, "faults_are_compiled"),
        refused("exponentialDelay", Type::Duration, WHY_NOT),
    ],
};

static ABORT: Message = Message {
    name: "Abort",
    fields: &[
        yes("percentage", Type::Object(&PERCENT), "faults_are_compiled"),
        yes("httpStatus", Type::Int, "faults_are_compiled"),
        yes("grpcStatus", Type::Text, "every_grpc_status_has_its_name"),
        refused("http2Error", Type::Text, WHY_NOT),
    ],
};

/// By number.
const GRPC_STATUSES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// `fault` of a rule; `None` where nothing would ever happen.
pub(super) fn fault(rule: &Object<'_>, sink: &mut Sink) -> Option<Fault> {
    let fault = rule.object("fault")?;
    if !fault.has("delay") && !fault.has("abort") {
        let message = "the fault has neither a delay nor an abort";
        sink.report(Code::MissingField, fault.span(), message);
    }
    let delay = fault.object("delay").and_then(|delay| read_delay(&delay, sink));
    let abort = fault.object("abort").and_then(|abort| read_abort(&abort, sink));
    (delay.is_some() || abort.is_some()).then_some(Fault { delay, abort })
}

fn read_delay(delay: &Object<'_>, sink: &mut Sink) -> Option<FaultDelay> {
    let share = either(delay, "percent", "percentage", SMALLEST, sink);
    let duration = at_least_1ms(delay.duration("fixedDelay"), sink);
    if !delay.has("fixedDelay") && !delay.has("exponentialDelay") {
        never(delay, "the delay says not how long", "give it a `fixedDelay`", sink);
    }
    let share = fires(delay, share, sink)?;
    Some(FaultDelay { share, duration: duration? })
}

fn read_abort(abort: &Object<'_>, sink: &mut Sink) -> Option<FaultAbort> {
    let share = abort.object("percentage").map(|percentage| share(&percentage, SMALLEST, sink));
    let status = match (abort.int("httpStatus"), abort.text("grpcStatus")) {
        (Some(_), Some(grpc)) => {
            let message = "an abort has one of httpStatus, grpcStatus";
            sink.report(Code::ExclusiveFields, grpc.span, message);
            None
        }
        (Some(status), None) => super::status(status, sink).map(AbortStatus::Http),
        (None, Some(name)) => grpc_status(name, sink),
        (None, None) => {
            if !abort.has("http2Error") {
                let help = "give it an `httpStatus` or a `grpcStatus`";
                never(abort, "the abort says not with what", help, sink);
            }
            None
        }
    };
    let share = fires(abort, share, sink)?;
    Some(FaultAbort { share, status: status? })
}

fn grpc_status(name: Spanned<&str>, sink: &mut Sink) -> Option<AbortStatus> {
    let found = (0..).zip(GRPC_STATUSES).find(|(_, known)| *known == name.value);
    if found.is_none() {
        let message = format!("`{}` is not a gRPC status", name.value);
        let guess = did_you_mean(name.value, GRPC_STATUSES.into_iter());
        let found = sink.report(Code::InvalidValue, name.span, message);
        found.help(format!("{guess}write its name in capitals, like `NOT_FOUND`"));
    }
    found.map(|(code, _)| AbortStatus::Grpc(code))
}

/// Without a percentage it is 0; a 0 that was written is no surprise.
fn fires(part: &Object<'_>, share: Option<Share>, sink: &mut Sink) -> Option<Share> {
    if share.is_none() {
        let help = "write `percentage: { value: 100 }` for every request";
        never(part, "without a percentage the fault never happens", help, sink);
    }
    share.filter(|share| *share > Share::NONE)
}

fn never(part: &Object<'_>, message: &str, help: &str, sink: &mut Sink) {
    sink.report(Code::NeverHappens, part.span(), message).label("has no effect").help(help);
}
