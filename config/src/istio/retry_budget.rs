//! `TrafficPolicy.retryBudget`: how many retries may be under way beside what else is.

use super::count;
use crate::{
    fields::{Message, Object, Type, warned, yes},
    report::Code,
    sink::Sink,
    snapshot::RetryBudget,
};

pub(crate) static RETRY_BUDGET: Message = Message {
    name: "RetryBudget",
    fields: &[
        yes("percent", Type::Float, "a_retry_budget_stands_in_for_max_retries"),
        yes("minRetryConcurrency", Type::Int, "a_retry_budget_stands_in_for_max_retries"),
        warned("budgetInterval", Type::Duration, "the share is of the requests that are active or pending"),
    ],
};

pub(crate) fn retry_budget(block: &Object<'_>, sink: &mut Sink) -> RetryBudget {
    let percent = block.float("percent").map_or(20.0, |percent| {
        if !(0.0..=100.0).contains(&percent.value) {
            sink.report(Code::InvalidValue, percent.span, "`percent` is 0 to 100");
        }
        percent.value.clamp(0.0, 100.0)
    });
    // Zero is unset.
    let least = count(block, "minRetryConcurrency", sink).filter(|least| *least != 0);
    RetryBudget { percent, min_concurrency: least.unwrap_or(3) }
}
