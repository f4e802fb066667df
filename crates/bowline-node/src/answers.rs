//! Answers in plain text, as the kubelet's and the runtimes' are, and the 101.

use bowline_io::http::lines;
use bowline_io::record::Denied;
use bowline_io::serve::{Reply, body, has_body};
use bowline_proto::negotiate::{self, Accepted, Lines};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;

use crate::runtime::Refusal;

pub(crate) fn too_many(denied: Denied) -> Refusal {
    let headers = vec![("Retry-After", denied.seconds().to_string())];
    Refusal { headers, ..Refusal::new(429, denied.why) }
}

pub(crate) fn switch(accepted: &Accepted) -> Reply {
    let mut reply = Response::new(body(Bytes::new()));
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    set_headers(&mut reply, &accepted.response);
    reply
}

pub(crate) fn refuse(refusal: &Refusal) -> Reply {
    let mut reply = text(refusal.code, &refusal.text);
    set_headers(&mut reply, &refusal.headers);
    reply
}

pub(crate) fn text(code: u16, text: &str) -> Reply {
    let said = if text.is_empty() { Bytes::new() } else { Bytes::from(format!("{text}\n")) };
    let mut reply = Response::new(body(said));
    *reply.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    reply.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    reply
}

pub(crate) fn set_headers(reply: &mut Reply, headers: &[(&'static str, String)]) {
    for (name, value) in headers {
        let name = HeaderName::try_from(*name);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
            reply.headers_mut().append(name, value);
        }
    }
}

/// Turns a request into the 101 that `accept` makes of it, or why it makes none.
///
/// # Errors
/// [`Refusal`] for a request of which no upgrade can be made, as boxes on its way could disagree
/// about its end.
pub(crate) fn judge(
    request: &Request<Incoming>,
    accept: impl Fn(&str, Lines<'_>) -> Result<Accepted, negotiate::Refusal>,
) -> Result<Result<Accepted, negotiate::Refusal>, Refusal> {
    if has_body(request.headers()) || request.version() != Version::HTTP_11 {
        return Err(Refusal::new(400, "an upgrade is a request of HTTP/1.1 without a body"));
    }
    let lines = lines(request.headers());
    Ok(accept(request.method().as_str(), Lines(&lines)))
}

impl From<negotiate::Refusal> for Refusal {
    fn from(refusal: negotiate::Refusal) -> Refusal {
        let cause = refusal.to_string();
        let text = if refusal.is_bare() { String::new() } else { cause.clone() };
        Refusal { code: refusal.code(), text, headers: refusal.headers(), cause }
    }
}
