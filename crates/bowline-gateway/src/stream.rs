//! An exec or an attach: from a request that may, to a relay between its client and the node.
//! Above: `server`. Below: `options`, `far`, `relay`.

use bowline_io::chance;
use bowline_io::http::lines;
use bowline_io::serve::{Reply, Sessions, body, has_body, upgraded};
use bowline_io::target::query;
use bowline_proto::negotiate::{self, Lines, Offer, REPLAY_HEADER, Taken};
use bowline_proto::session::{Session, Side};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tracing::{info, warn};

use crate::far::{self, Nodes};
use crate::options::{ExecOptions, Verb};
use crate::relay;
use crate::status::{Refusal, text};

/// Serves a remote command: finds the pod's node, upgrades there, and only then here.
pub async fn remote_command(
    verb: Verb,
    nodes: &Nodes,
    sessions: &Sessions,
    namespace: &str,
    name: &str,
    request: Request<Incoming>,
) -> Result<Reply, Refusal> {
    let options = ExecOptions::parse(query(&request))?;
    let pod = nodes.pod(namespace, name)?;
    let container = options.container_in(&pod)?;
    let target = nodes.node_of(&pod)?;
    let v5 = nodes.gates.is_on("TranslateStreamCloseWebsocketRequests");
    let taken = Taken { websocket_v5: v5 };
    let verdict = accept(&request, |method, lines| negotiate::accept(method, lines, taken));
    let accepted = match verdict? {
        Ok(accepted) => accepted,
        Err(bare) => return Ok(bare),
    };
    let path = options.kubelet_path(verb, namespace, name, &container);
    // WebSocket where the node declares it and the gate is on, else SPDY.
    let offer = if nodes.prefers_websocket(&target) {
        Offer::websocket(chance::bytes())
    } else {
        Offer::spdy()
    };
    let (head, far) = nodes.ask(&target, &path, offer.method(), &offer.headers()).await?;
    let protocol = far::check(&offer, &head)?;
    let far_session = Session::new(Side::Client, protocol, options.wants, chance::bytes());
    let mut reply = switch(&accepted.response);
    if let Some(lines) = head.headers.get(REPLAY_HEADER) {
        reply.headers_mut().insert(REPLAY_HEADER, lines.clone());
    }
    let near_session =
        Session::new(Side::Server, accepted.protocol, options.wants, chance::bytes());
    let what = format!("{} {namespace}/{name}/{container}", verb.word());
    let (front, back) = (accepted.protocol, far_session.protocol().name);
    info!("{what}: {:?} {} to {back}", front.carrier, front.name);
    let legs = sessions.clone();
    sessions.spawn(async move {
        match upgraded(request).await {
            Ok(near) => {
                let end = legs.end.clone();
                let relay = relay::run((near, near_session), (far, far_session), end);
                // In a task of its own, it holds nothing that only its beginning needs; in a box,
                // its place is not there twice.
                let relay = Box::pin(relay);
                legs.spawn(async move {
                    let ending = relay.await;
                    info!("{what}: {ending:?}");
                });
            }
            Err(error) => warn!("{what}: {error}"),
        }
    });
    Ok(reply)
}

/// The near side's handshake. The inner error is an answer without a Status, as old servers give
/// it.
pub(crate) fn accept(
    request: &Request<Incoming>,
    verdict: impl Fn(&str, Lines<'_>) -> Result<negotiate::Accepted, negotiate::Refusal>,
) -> Result<Result<negotiate::Accepted, Reply>, Refusal> {
    if request.version() != Version::HTTP_11 {
        return Err(Refusal::internal("request connection cannot be hijacked"));
    }
    if has_body(request.headers()) {
        return Err(Refusal::bad_request("an upgrade request must not have a body"));
    }
    let lines = lines(request.headers());
    match verdict(request.method().as_str(), Lines(&lines)) {
        Ok(accepted) => Ok(Ok(accepted)),
        Err(refusal) if refusal.is_bare() => Ok(Err(text(refusal.code(), ""))),
        Err(negotiate::Refusal::NoUpgrade) => Err(Refusal::bad_request("Upgrade request required")),
        Err(refusal) => {
            let mut reply = Refusal::of_node(refusal.code(), refusal.to_string()).reply();
            set_headers(&mut reply, &refusal.headers());
            Ok(Err(reply))
        }
    }
}

/// The 101.
pub(crate) fn switch(headers: &[(&'static str, String)]) -> Reply {
    let mut reply = Response::new(body(Bytes::new()));
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    set_headers(&mut reply, headers);
    reply
}

fn set_headers(reply: &mut Reply, headers: &[(&'static str, String)]) {
    for (name, value) in headers {
        let name = HeaderName::try_from(*name);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
            reply.headers_mut().append(name, value);
        }
    }
}
