//! What is the same for requests of every version of HTTP: how bad ones are refused, and what every
//! answer has.

use http::{HeaderMap, HeaderValue, Response, StatusCode, Version, header};
use hyper::ext::ReasonPhrase;

use super::{Reply, body};

/// The most headers of one request.
pub(super) const HEADERS: usize = 128;

/// Code and phrase of a refusal.
pub(super) type Fault = (StatusCode, &'static str);

/// Returns the phrase with which Go's servers refuse the request's host, if it is bad.
pub(super) fn host_fault(version: Version, headers: &HeaderMap) -> Option<&'static str> {
    const PUNCTUATION: &[u8] = b"!$%&()*+,-.:;='[]_~";
    let mut hosts = headers.get_all(header::HOST).iter();
    let Some(host) = hosts.next() else {
        let fault = "Bad Request: missing required Host header";
        return (version >= Version::HTTP_11).then_some(fault);
    };
    if hosts.next().is_some() {
        return Some("Bad Request");
    }
    let is_valid = |byte: &u8| byte.is_ascii_alphanumeric() || PUNCTUATION.contains(byte);
    let is_host = host.as_bytes().iter().all(is_valid);
    (!is_host).then_some("Bad Request: malformed Host header")
}

/// Makes a refusal of a bad request, as Go's servers do. It ends the connection.
pub(super) fn refusal(code: StatusCode, phrase: &'static str) -> Reply {
    let mut reply = Response::new(body(format!("{} {phrase}", code.as_u16())));
    *reply.status_mut() = code;
    reply.extensions_mut().insert(ReasonPhrase::from_static(phrase.as_bytes()));
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    reply.headers_mut().insert(header::CONTENT_TYPE, plain);
    reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    reply
}

/// Adds to an answer what each of its kind has. No client may guess the type of a refusal's body.
pub(super) fn complete(reply: &mut Reply) {
    if reply.status().as_u16() >= 400 {
        let nosniff = HeaderValue::from_static("nosniff");
        reply.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    }
}
