//! What a service sees of a request over HTTP/2: the same as over HTTP/1.1, but for the version.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Method, Request, StatusCode, Uri, Version, header};
use hyper::ext::Protocol;

use crate::random;
use crate::serve::answers::{Fault, HEADERS, host_fault};
use crate::serve::{Reply, body};

/// A request, and how it is answered.
#[derive(Debug)]
pub(super) enum Form<B> {
    Plain(Request<B>),
    /// It asks for a WebSocket (RFC 8441), which is one of HTTP/1.1 to the service.
    WebSocket(Request<B>),
}

/// Judges a request, and gives it the form that a service knows: a path as its target, and the
/// authority in `Host`.
pub(super) fn judge<B>(mut request: Request<B>) -> Result<Form<B>, Fault> {
    if request.headers().len() > HEADERS {
        let code = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Err((code, "Request Header Fields Too Large"));
    }
    let protocol = request.extensions_mut().remove::<Protocol>();
    if request.method() == Method::CONNECT && protocol.is_none() {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed"));
    }
    move_authority(&mut request)?;
    if let Some(fault) = host_fault(Version::HTTP_2, request.headers()) {
        return Err((StatusCode::BAD_REQUEST, fault));
    }
    match protocol {
        None => Ok(Form::Plain(request)),
        Some(protocol) if protocol.as_str().eq_ignore_ascii_case("websocket") => {
            Ok(Form::WebSocket(as_upgrade(request)))
        }
        Some(_) => Err((StatusCode::NOT_IMPLEMENTED, "Not Implemented")),
    }
}

/// Moves the authority of a request's target to its header. A client that sends both has to mean
/// the same by them.
fn move_authority<B>(request: &mut Request<B>) -> Result<(), Fault> {
    const BAD: Fault = (StatusCode::BAD_REQUEST, "Bad Request");
    let Some(authority) = request.uri().authority() else { return Ok(()) };
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| BAD)?;
    let target = request.uri().path_and_query().cloned().ok_or(BAD)?;
    let hosts = request.headers().get_all(header::HOST);
    if hosts.iter().any(|other| !other.as_bytes().eq_ignore_ascii_case(host.as_bytes())) {
        return Err(BAD);
    }
    request.headers_mut().insert(header::HOST, host);
    *request.uri_mut() = Uri::from(target);
    Ok(())
}

/// Makes the request for a WebSocket that it would be over HTTP/1.1.
fn as_upgrade<B>(mut request: Request<B>) -> Request<B> {
    *request.method_mut() = Method::GET;
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let key = STANDARD.encode(random::bytes::<16>());
    if let Ok(key) = HeaderValue::from_str(&key) {
        headers.insert(header::SEC_WEBSOCKET_KEY, key);
    }
    let version = HeaderValue::from_static("13");
    headers.entry(header::SEC_WEBSOCKET_VERSION).or_insert(version);
    request
}

/// Makes of the answer to a request for a WebSocket what it is over HTTP/2. Any other success than
/// a switch would be taken for one.
pub(super) fn switched(mut reply: Reply) -> Reply {
    if reply.status() != StatusCode::SWITCHING_PROTOCOLS {
        return if reply.status().is_success() {
            failed("the server did not switch protocols")
        } else {
            reply
        };
    }
    *reply.status_mut() = StatusCode::OK;
    for name in [
        header::CONNECTION,
        header::UPGRADE,
        header::SEC_WEBSOCKET_ACCEPT,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
    ] {
        reply.headers_mut().remove(name);
    }
    *reply.version_mut() = Version::HTTP_2;
    reply
}

/// Keeps an answer that switches protocols from a request that cannot.
pub(super) fn not_switched(reply: Reply) -> Reply {
    if reply.status() == StatusCode::SWITCHING_PROTOCOLS {
        return failed("the server switched protocols, which was not asked for");
    }
    reply
}

fn failed(why: &'static str) -> Reply {
    let mut reply = Reply::new(body(why));
    *reply.status_mut() = StatusCode::BAD_GATEWAY;
    reply
}
