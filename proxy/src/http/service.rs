//! What hyper calls for each request of a connection.

use std::{panic::AssertUnwindSafe, rc::Rc};

use futures_util::FutureExt;
use http::{HeaderValue, Response, Version, header::CONNECTION, request::Parts};
use hyper::body::Incoming;

use super::{Aborted, body::ResponseBody, client::ConnInfo, handle};
use crate::worker::Worker;

/// A panic fails its own request only.
pub(super) async fn contained(
    worker: Rc<Worker>,
    conn: Rc<ConnInfo>,
    parts: Box<Parts>,
    incoming: Incoming,
) -> Result<Response<ResponseBody>, Aborted> {
    let version = parts.version;
    match AssertUnwindSafe(handle(&worker, &conn, parts, incoming)).catch_unwind().await {
        Ok(Ok(mut answer)) if version != Version::HTTP_2 && conn.departs(&worker) => {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            Ok(answer)
        }
        Ok(answer) => answer,
        Err(_panic) => {
            worker.count_panic();
            Err(Aborted)
        }
    }
}
