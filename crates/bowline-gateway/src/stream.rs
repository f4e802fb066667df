//! An exec: from a request that may, to a relay between its client and the node.
//! Above: `server`. Below: `options`, `cluster`, `relay`, `bowline_io::{dial, http}`.

use std::sync::Arc;
use std::time::Duration;

use bowline_io::chance;
use bowline_io::dial::{Endpoint, Tls, dial};
use bowline_io::http::{Answer, lines, upgrade};
use bowline_io::serve::{Reply, Sessions, has_body, upgraded};
use bowline_io::stream::Upgraded;
use bowline_io::target::{head, query};
use bowline_io::text::harmless;
use bowline_proto::limits::REASON_BYTES;
use bowline_proto::negotiate::{self, Lines, Offer, Taken};
use bowline_proto::session::protocol::Carrier;
use bowline_proto::session::{Session, Side, Wants};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body_util::Full;
use hyper::body::Incoming;
use tracing::{info, warn};

use crate::cluster::{Cluster, NodeTarget};
use crate::gates::Gates;
use crate::options::ExecOptions;
use crate::relay;
use crate::status::{Refusal, text};

/// How long a node may take to accept a connection.
const DIAL_PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take to answer: its runtime is asked in that time.
const UPGRADE_PATIENCE: Duration = Duration::from_secs(60);

/// What execs need to find and reach their nodes.
#[derive(Clone, Debug)]
pub struct Nodes {
    /// The pods and nodes.
    pub cluster: Cluster,
    /// Which kind of address of a node is used.
    pub address_types: Vec<String>,
    /// Whom we trust as a kubelet and who we are to it; `None` speaks plain HTTP to nodes on
    /// loopback.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// The gates.
    pub gates: Gates,
}

/// Serves an exec: finds the pod's node, upgrades there, and only then here.
pub async fn exec(
    nodes: &Nodes,
    sessions: &Sessions,
    namespace: &str,
    name: &str,
    request: Request<Incoming>,
) -> Result<Reply, Refusal> {
    let options = ExecOptions::parse(query(&request))?;
    let pod = nodes.cluster.pod(namespace, name);
    let pod = pod.ok_or_else(|| Refusal::not_found("pods", name))?;
    let container = options.container_in(&pod)?;
    let node = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty());
    let node = node
        .ok_or_else(|| Refusal::bad_request(format!("pod {name} does not have a host assigned")))?;
    let target = nodes.cluster.target(node, &nodes.address_types);
    let target = target.ok_or_else(|| Refusal::not_found("nodes", node))?;
    let accepted = match accept(nodes, &request)? {
        Ok(accepted) => accepted,
        Err(bare) => return Ok(bare),
    };
    let path = options.kubelet_path(namespace, name, &container);
    let (far, far_session) = reach(nodes, &target, &path, options.wants).await?;

    let reply = switch(&accepted.response);
    let near_session =
        Session::new(Side::Server, accepted.protocol, options.wants, chance::bytes());
    let what = format!("{namespace}/{name}/{container}");
    let (front, back) = (accepted.protocol, far_session.protocol().name);
    info!("exec {what}: {:?} {} to {back}", front.carrier, front.name);
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
                    info!("exec {what}: {ending:?}");
                });
            }
            Err(error) => warn!("exec {what}: {error}"),
        }
    });
    Ok(reply)
}

/// The near side's handshake. The inner error is an answer without a Status, as old servers give
/// it.
fn accept(
    nodes: &Nodes,
    request: &Request<Incoming>,
) -> Result<Result<negotiate::Accepted, Reply>, Refusal> {
    if request.version() != Version::HTTP_11 {
        return Err(Refusal::internal("request connection cannot be hijacked"));
    }
    if has_body(request.headers()) {
        return Err(Refusal::bad_request("an upgrade request must not have a body"));
    }
    let lines = lines(request.headers());
    let taken = Taken { websocket_v5: nodes.gates.is_on("TranslateStreamCloseWebsocketRequests") };
    match negotiate::accept(request.method().as_str(), Lines(&lines), taken) {
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

/// The far side: WebSocket where the node declares it and the gate is on, else SPDY.
async fn reach(
    nodes: &Nodes,
    target: &NodeTarget,
    path: &str,
    wants: Wants,
) -> Result<(Upgraded, Session), Refusal> {
    let websocket = target.takes_websockets && nodes.gates.is_on("ExtendWebSocketsToKubelet");
    let offer = if websocket { Offer::websocket(chance::bytes()) } else { Offer::spdy() };
    let backend = |error: String| {
        Refusal::internal(format!("error dialing backend: {}", harmless(&error, REASON_BYTES)))
    };
    let tls = nodes.tls.as_ref().map(|config| Tls { config: config.clone(), server_name: None });
    let endpoint = Endpoint { host: target.host.clone(), port: target.port, tls, proxy: None };
    let stream =
        dial(&endpoint, DIAL_PATIENCE).await.map_err(|error| backend(error.to_string()))?;
    let request = far_request(target, path, &offer).map_err(|error| backend(error.to_string()))?;
    let answer = upgrade(stream, request, UPGRADE_PATIENCE).await;
    match answer.map_err(|error| backend(error.to_string()))? {
        Answer::Refused { head, body } => Err(refused(head.status, &body)),
        Answer::Switched { head, connection } => {
            let lines = lines(&head.headers);
            let protocol = offer
                .check(head.status.as_u16(), Lines(&lines))
                .map_err(|bad| Refusal::internal(format!("invalid upgrade response: {bad}")))?;
            let session = Session::new(Side::Client, protocol, wants, chance::bytes());
            Ok((connection, session))
        }
    }
}

fn far_request(target: &NodeTarget, path: &str, offer: &Offer) -> Result<Request<()>, http::Error> {
    let host = if target.host.contains(':') {
        format!("[{}]:{}", target.host, target.port)
    } else {
        format!("{}:{}", target.host, target.port)
    };
    let mut request = head(offer.method(), &host, path, ())?;
    let agent = HeaderValue::from_static(concat!("bowline-gateway/", env!("CARGO_PKG_VERSION")));
    request.headers_mut().insert(header::USER_AGENT, agent);
    for (name, value) in offer.headers() {
        request.headers_mut().append(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
    }
    if offer.carrier == Carrier::Spdy {
        request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    Ok(request)
}

/// What the node said instead of 101, for the client to see before its own handshake ends.
fn refused(status: StatusCode, body: &Bytes) -> Refusal {
    let said = String::from_utf8_lossy(body);
    let message = harmless(said.trim(), REASON_BYTES).into_owned();
    if status.is_client_error() || status.is_server_error() {
        let message = if message.is_empty() { status.to_string() } else { message };
        return Refusal::of_node(status.as_u16(), message);
    }
    // Redirects among them: a stream goes nowhere else.
    Refusal::internal(format!("invalid upgrade response: status code {}", status.as_u16()))
}

fn switch(headers: &[(&'static str, String)]) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::new()));
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
