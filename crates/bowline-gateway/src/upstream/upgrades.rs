//! Upgrades that are none of the gateway's: dashboards behind `/proxy/`, watches over WebSocket.
//! The request is passed on, and what is spoken behind the API server's 101 is not read.
//!
//! Any other answer is passed on as well, and both connections end with it: none may be left on
//! which somebody else's credentials were believed (CVE-2018-1002105).

use std::io;
use std::sync::Arc;

use bowline_io::request_target::{parts, query};
use bowline_io::serve::{Reply, Sessions, body, has_body};
use bowline_io::upstream::{Passed, UpstreamError};
use bowline_proto::splice::Splice;
use bowline_proto::tunnel::Wire;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Version, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::headers::leave_answer_connection;
use super::rest::pass_headers;
use super::{ApiServer, unreachable_because};
use crate::components::Caller;
use crate::rest::NearLeg;
use crate::server::Living;
use crate::status::Refusal;
use crate::{forward, nodes};

/// What `Connection` says of an upgrade.
const UPGRADE: &[u8] = b"upgrade";

/// Whether a request asks for another protocol on its connection, as Go's servers see it.
pub(super) fn is_upgrade(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::CONNECTION).iter();
    let mentions = |line: &HeaderValue| {
        line.as_bytes().windows(UPGRADE.len()).any(|word| word.eq_ignore_ascii_case(UPGRADE))
    };
    headers.contains_key(header::UPGRADE) && lines.any(mentions)
}

/// Passes on a request for an upgrade, and its answer.
///
/// # Errors
/// The refusal to answer with, if the API server cannot be asked.
pub(super) async fn pass(
    server: &Arc<ApiServer>,
    caller: &Caller,
    near: &NearLeg,
    request: Request<Incoming>,
    sessions: &Sessions,
) -> Result<Reply, Refusal> {
    if has_body(request.headers()) {
        return Err(Refusal::bad_request("a request for an upgrade must not have a body"));
    }
    let path = request.uri().path();
    let (namespace, name) = proxied(path);
    let pending = caller.requester.record("proxy", &namespace, &name);
    let mut pending = sessions.admit(pending).map_err(Refusal::too_many_requests)?;
    let headers = handshake(&request, caller, near);
    match ask(server, caller, &request, &headers).await? {
        Passed::Answered(answer) => {
            let (mut head, body) = answer.into_parts();
            leave_answer_connection(&mut head.headers);
            if head.status.is_redirection() {
                server.judge_redirect(&mut head.headers, caller, path, near).await?;
            }
            head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            head.version = Version::HTTP_11;
            head.extensions.clear();
            Ok(Reply::from_parts(head, body.map_err(io::Error::other).boxed_unsync()))
        }
        Passed::Switched(mut head, far) => {
            let protocol = head.headers.get(header::UPGRADE).cloned();
            leave_answer_connection(&mut head.headers);
            head.headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            if let Some(protocol) = protocol {
                head.headers.insert(header::UPGRADE, protocol);
            }
            let mut reply = Reply::new(body(bytes::Bytes::new()));
            *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            *reply.headers_mut() = head.headers;
            pending.record.near = "as it is".into();
            pending.record.far = "as it is".into();
            let living = request.extensions().get::<Living>().copied().unwrap_or_default();
            forward::run(
                sessions,
                pending,
                request,
                living.bounds,
                far,
                Splice::new(Wire::plain()),
            );
            Ok(reply)
        }
    }
}

/// Makes the headers as they go to the API server, without what says who asks.
fn handshake(request: &Request<Incoming>, caller: &Caller, near: &NearLeg) -> HeaderMap {
    let mut headers = request.headers().clone();
    let protocols = headers.remove(header::UPGRADE);
    pass_headers(&mut headers, None, caller, near);
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Some(protocols) = protocols {
        headers.insert(header::UPGRADE, protocols);
    }
    headers
}

/// Sends the request, and once more with other credentials of the gateway's own after a 401.
async fn ask(
    server: &ApiServer,
    caller: &Caller,
    request: &Request<Incoming>,
    handshake: &HeaderMap,
) -> Result<Passed, Refusal> {
    let query = query(request);
    let mark = if query.is_empty() { "" } else { "?" };
    let target = format!("{}{}{mark}{query}", server.prefix, request.uri().path());
    let mut may_renew = caller.onward.own_identity;
    loop {
        let (upstream, identity, access) = server.way(&caller.onward).await?;
        let mut headers = handshake.clone();
        for (name, value) in &identity {
            headers.append(name, value.clone());
        }
        let passed = upstream.pass_through(&target, request.method().as_str(), &headers).await;
        let passed = passed.map_err(|error| {
            server.note_failure(&error);
            match error {
                UpstreamError::Dial(error) => unreachable_because(&error),
                error => nodes::refusal(error),
            }
        })?;
        match &passed {
            Passed::Answered(answer)
                if may_renew && answer.status() == StatusCode::UNAUTHORIZED =>
            {
                may_renew = false;
                if !matches!(server.own.renew(&access).await, Ok(true)) {
                    return Ok(passed);
                }
            }
            _ => return Ok(passed),
        }
    }
}

/// Returns the namespace and the name of what is behind a path with `/proxy/`, for the log.
fn proxied(path: &str) -> (String, String) {
    let names = parts(path).map(|parts| parts.names).unwrap_or_default();
    let names: Vec<&str> = names.iter().map(|name| &**name).collect();
    let (namespace, name) = match names[..] {
        ["api", "v1", "namespaces", namespace, _, name, "proxy", ..] => (namespace, name),
        ["api", "v1", "nodes", name, "proxy", ..] => ("", name),
        ["api" | "apis", .., "namespaces", namespace, _, name, _] => (namespace, name),
        _ => ("", ""),
    };
    (namespace.to_owned(), name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_is_one_that_its_connection_names() {
        let is = |connection: &'static str, upgrade: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONNECTION, HeaderValue::from_static(connection));
            if let Some(upgrade) = upgrade {
                headers.insert(header::UPGRADE, HeaderValue::from_static(upgrade));
            }
            is_upgrade(&headers)
        };
        assert!(is("Upgrade", Some("websocket")));
        assert!(is("keep-alive, UPGRADE", Some("WebSocket")));
        assert!(!is("keep-alive", Some("websocket")));
        assert!(!is("Upgrade", None));
    }
}
