//! The far leg: a node to an upgraded connection, or to the words of its refusal.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use bowline_io::dial::{Endpoint, Tls, dial};
use bowline_io::http::{Answer, explanation, lines, open, upgrade};
use bowline_io::stream::{Stream, Upgraded};
use bowline_io::target::head;
use bowline_io::text::harmless;
use bowline_proto::limits::REASON_BYTES;
use bowline_proto::negotiate::{self, Lines, Offer};
use bowline_proto::session::Protocol;
use bytes::Bytes;
use http::response::Parts;
use http::{HeaderName, HeaderValue, Request, StatusCode, header};
use hyper::body::Incoming;
use serde_json::Value;

use crate::cluster::{Cluster, NodeTarget};
use crate::gates::{Gate, Gates};
use crate::status::Refusal;

/// How long a node may take to accept a connection.
const DIAL_PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take to answer: its runtime is asked in that time.
const UPGRADE_PATIENCE: Duration = Duration::from_secs(60);

/// What streams need to find and reach their nodes.
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

/// A node that was upgraded to what it was offered.
#[derive(Debug)]
pub struct Reached {
    /// Its 101.
    pub head: Parts,
    /// The connection.
    pub connection: Upgraded,
    /// What it chose.
    pub protocol: &'static Protocol,
}

impl Nodes {
    /// A pod of this name.
    ///
    /// # Errors
    /// 404.
    pub fn pod(&self, namespace: &str, name: &str) -> Result<Value, Refusal> {
        let pod = self.cluster.pod(namespace, name);
        pod.ok_or_else(|| Refusal::not_found("pods", name))
    }

    /// The node that a pod is on.
    ///
    /// # Errors
    /// 400 for a pod that is on none, 404 for a node that is not known.
    pub fn node_of(&self, pod: &Value) -> Result<NodeTarget, Refusal> {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let node = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty());
        let homeless = || Refusal::bad_request(format!("pod {name} does not have a host assigned"));
        let node = node.ok_or_else(homeless)?;
        let target = self.cluster.target(node, &self.address_types);
        target.ok_or_else(|| Refusal::not_found("nodes", node))
    }

    /// Whether a node is spoken to over WebSocket where there is a choice.
    #[must_use]
    pub fn prefers_websocket(&self, target: &NodeTarget) -> bool {
        target.takes_websockets && self.gates.is_on(Gate::ExtendWebSocketsToKubelet)
    }

    /// Upgrades to what `offer` offers.
    ///
    /// # Errors
    /// The node's refusal, or why it could not be asked.
    pub async fn reach(
        &self,
        target: &NodeTarget,
        path: &str,
        offer: &Offer,
    ) -> Result<Reached, Refusal> {
        let answer = self.ask(target, path, offer.method(), &offer.headers()).await;
        // What the node would take is an answer to our offer, not to the client's.
        let (head, connection) =
            answer.map_err(|refusal| Refusal { headers: Vec::new(), ..refusal })?;
        let lines = lines(&head.headers);
        let protocol = offer.check(head.status.as_u16(), Lines(&lines));
        let bad = |bad| Refusal::internal(format!("invalid upgrade response: {bad}"));
        let protocol = protocol.map_err(bad)?;
        Ok(Reached { head, connection, protocol })
    }

    /// Asks for an upgrade in these words; whether the 101 fits them is still to be seen.
    ///
    /// # Errors
    /// The node's refusal, or why it could not be asked.
    pub async fn ask(
        &self,
        target: &NodeTarget,
        path: &str,
        method: &str,
        headers: &[(&str, String)],
    ) -> Result<(Parts, Upgraded), Refusal> {
        let stream = self.dial(target).await?;
        let request = request(target, path, method, headers).map_err(backend)?;
        match upgrade(stream, request, UPGRADE_PATIENCE).await.map_err(backend)? {
            Answer::Refused { head, body } => Err(refused(&head, &body)),
            Answer::Switched { head, connection } => Ok((head, connection)),
        }
    }

    /// Gets what a node has, as it comes. A kubelet answers when there is something to say, and a
    /// container that is silent may have nothing for long: `patience` is for that.
    ///
    /// # Errors
    /// The node's refusal, or why it could not be asked.
    pub async fn get(
        &self,
        target: &NodeTarget,
        path: &str,
        patience: Duration,
    ) -> Result<http::Response<Incoming>, Refusal> {
        let stream = self.dial(target).await?;
        let request = request(target, path, "GET", &[]).map_err(backend)?;
        let answer = open(stream, request, patience).await.map_err(backend)?;
        if answer.status() == StatusCode::OK {
            return Ok(answer);
        }
        let (head, body) = answer.into_parts();
        Err(refused(&head, &explanation(body).await))
    }

    async fn dial(&self, target: &NodeTarget) -> Result<Stream, Refusal> {
        let tls = self.tls.as_ref().map(|config| Tls { config: config.clone(), server_name: None });
        let endpoint = Endpoint { host: target.host.clone(), port: target.port, tls, proxy: None };
        dial(&endpoint, DIAL_PATIENCE).await.map_err(backend)
    }
}

fn backend(error: impl Display) -> Refusal {
    let error = error.to_string();
    Refusal::internal(format!("error dialing backend: {}", harmless(&error, REASON_BYTES)))
}

fn request(
    target: &NodeTarget,
    path: &str,
    method: &str,
    headers: &[(&str, String)],
) -> Result<Request<()>, http::Error> {
    let host = if target.host.contains(':') {
        format!("[{}]:{}", target.host, target.port)
    } else {
        format!("{}:{}", target.host, target.port)
    };
    let mut request = head(method, &host, path, ())?;
    let agent = HeaderValue::from_static(concat!("bowline-gateway/", env!("CARGO_PKG_VERSION")));
    request.headers_mut().insert(header::USER_AGENT, agent);
    for (name, value) in headers {
        request.headers_mut().append(HeaderName::try_from(*name)?, HeaderValue::try_from(value)?);
    }
    if method == "POST" {
        request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    Ok(request)
}

/// What the node said instead of 101, for the client to see before its own handshake ends.
fn refused(head: &Parts, body: &Bytes) -> Refusal {
    let status = head.status;
    let said = String::from_utf8_lossy(body);
    let message = harmless(said.trim(), REASON_BYTES).into_owned();
    if status.is_client_error() || status.is_server_error() {
        let message = if message.is_empty() { status.to_string() } else { message };
        let headers = negotiate::accepted_elsewhere(Lines(&lines(&head.headers)));
        return Refusal { headers, ..Refusal::of_node(status.as_u16(), message) };
    }
    // Redirects among them: a stream goes nowhere else.
    Refusal::internal(format!("invalid upgrade response: status code {}", status.as_u16()))
}
