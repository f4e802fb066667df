//! The far leg: a node to an upgraded connection, or to the words of its refusal.

use std::sync::Arc;
use std::time::Duration;

use bowline_io::dial::{Endpoint, Tls};
use bowline_io::http::lines;
use bowline_io::stream::Upgraded;
use bowline_io::text::harmless;
pub use bowline_io::upstream::Switched as Reached;
use bowline_io::upstream::{Refused, Upstream, UpstreamError};
use bowline_proto::limits::REASON_BYTES;
use bowline_proto::negotiate::{self, Lines, Offer};
use http::response::Parts;
use hyper::body::Incoming;
use serde_json::Value;

use crate::files::cluster::{Cluster, NodeTarget};
use crate::gates::{Gate, Gates};
use crate::status::Refusal;

/// What nodes are told of who asks.
const AGENT: &str = concat!("bowline-gateway/", env!("CARGO_PKG_VERSION"));

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
        let reached = self.upstream(target).upgrade(path, offer).await;
        // What the node would take is an answer to our offer, not to the client's.
        reached.map_err(|error| Refusal { headers: Vec::new(), ..refusal(error) })
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
        self.upstream(target).ask(path, method, headers).await.map_err(refusal)
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
        self.upstream(target).get(path, patience).await.map_err(refusal)
    }

    fn upstream(&self, target: &NodeTarget) -> Upstream {
        let tls = self.tls.as_ref().map(|config| Tls { config: config.clone(), server_name: None });
        let endpoint = Endpoint { host: target.host.clone(), port: target.port, tls, proxy: None };
        Upstream { endpoint, agent: AGENT }
    }
}

fn refusal(error: UpstreamError) -> Refusal {
    match error {
        UpstreamError::Refused(said) => refused(&said),
        UpstreamError::NotUpgraded(_) => Refusal::internal(error.to_string()),
        error => {
            let error = error.to_string();
            Refusal::internal(format!("error dialing backend: {}", harmless(&error, REASON_BYTES)))
        }
    }
}

/// What the node said instead of 101, for the client to see before its own handshake ends.
fn refused(said: &Refused) -> Refusal {
    let status = said.head.status;
    let message = said.text();
    if status.is_client_error() || status.is_server_error() {
        let message = if message.is_empty() { status.to_string() } else { message };
        let headers = negotiate::accepted_elsewhere(Lines(&lines(&said.head.headers)));
        return Refusal { headers, ..Refusal::of_node(status.as_u16(), message) };
    }
    // Redirects among them: a stream goes nowhere else.
    Refusal::internal(format!("invalid upgrade response: status code {}", status.as_u16()))
}
