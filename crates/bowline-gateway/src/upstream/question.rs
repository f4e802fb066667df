//! What this gateway asks an API server itself, over the connections on which it passes on others'.

use std::time::Duration;

use bowline_io::pool::Pool;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};

/// How long the API server may take to answer one of them.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer.
const BYTES: usize = 64 * 1024;

/// Sends a request with an object in JSON, or with none, and reads all of the answer. The error is
/// why there is none.
pub(super) async fn ask(
    pool: &Pool,
    method: Method,
    path: String,
    headers: HeaderMap,
    object: String,
) -> Result<(StatusCode, Bytes), String> {
    let body = Full::new(Bytes::from(object)).map_err(|never| match never {}).boxed_unsync();
    let request = Request::builder().method(method).uri(path).body(body);
    let mut request = request.map_err(|error| error.to_string())?;
    let json = HeaderValue::from_static("application/json");
    *request.headers_mut() = headers;
    request.headers_mut().insert(header::CONTENT_TYPE, json.clone());
    request.headers_mut().insert(header::ACCEPT, json);
    let answer = pool.send(request).await.map_err(|error| error.to_string())?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), BYTES).collect().await;
    Ok((status, body.map_err(|error| error.to_string())?.to_bytes()))
}
