//! A pod's name to its node, by the facts, and a stream to the paths of that node's kubelet.
//!
//! Where a node says itself where it is, [`NodeChecks`] keep it from being somebody else.

use std::future::ready;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bowline_io::addresses::Permitted;
use bowline_io::dial::{Demands, Endpoint, Tls};
use bowline_io::http::lines;
use bowline_io::random;
use bowline_io::serve::Body;
use bowline_io::text::sanitized;
use bowline_io::tls;
use bowline_io::upstream::{Refused, Switched, UPGRADE_PATIENCE, Upstream, UpstreamError};
use bowline_proto::limits::REASON_BYTES;
use bowline_proto::negotiate::{self, Lines, Offer};
use bowline_proto::session::Protocol;
use bowline_proto::session::protocol::Carrier;
use http::{Method, StatusCode};
use http_body_util::BodyExt;

use crate::backend::{Backend, Destination, FarLeg, Ready, Target};
use crate::components::{Answer, Caller};
use crate::facts::{Facts, Node, Pod};
use crate::gates::{Gate, Gates};
use crate::kept::not_kept;
use crate::options::{ExecOptions, ForwardOptions, LogOptions, Verb, container_in};
use crate::status::Refusal;

/// The `User-Agent` for nodes.
const AGENT: &str = concat!("bowline-gateway/", env!("CARGO_PKG_VERSION"));
/// The kubelet's port where a node names none.
const KUBELET_PORT: u16 = 10250;
/// The declared feature of a node that takes WebSocket.
const WEBSOCKETS: &str = "ExtendWebSocketsToKubelet";
/// What stands before a node's name in that of its user, which is in its certificates.
const NODE_USER: &str = "system:node:";
/// How long a kubelet may take to answer for a log: as long as it allows itself. It answers with
/// the first line, which a silent container may not write for long.
const LOG_PATIENCE: Duration = Duration::from_secs(4 * 60 * 60);

/// The nodes of a cluster.
#[derive(Clone, Debug)]
pub struct Nodes {
    /// Which pods and nodes there are.
    pub facts: Arc<dyn Facts>,
    /// The kinds of a node's addresses that are used, in the order of preference.
    pub address_types: Vec<String>,
    /// Which certificates are trusted for kubelets, and which one they are shown; `None` is plain
    /// HTTP, for nodes on loopback.
    pub tls: Option<tls::Client>,
    /// The feature gates. Only `ExtendWebSocketsToKubelet` counts here.
    pub gates: Gates,
    /// What is checked of a node before anything is sent to it.
    pub checks: NodeChecks,
}

/// What a node's kubelet has to be. By default that is nothing, for nodes that are where a file
/// says that they are.
#[derive(Clone, Debug, Default)]
pub struct NodeChecks {
    /// The addresses at which it may be; `None` is any.
    pub addresses: Option<Arc<Permitted>>,
    /// Whether its certificate must have the common name `system:node:NAME` (KEP-4872).
    pub common_names: bool,
}

impl NodeChecks {
    fn demands(&self, node: &str) -> Demands {
        let common_name = self.common_names.then(|| format!("{NODE_USER}{node}"));
        Demands { addresses: self.addresses.clone(), common_name }
    }
}

impl Nodes {
    async fn locate(&self, target: Target<'_>) -> Result<OnNode, Refusal> {
        let Target { namespace, pod: name, .. } = target;
        let unavailable = |error| Refusal::unavailable(&error);
        let known = self.facts.pod(namespace, name).await.map_err(unavailable)?;
        let found = match meant(known, target) {
            Ok(found) => found,
            Err(_) => {
                let now = self.facts.pod_now(namespace, name).await;
                meant(now.map_err(unavailable)?, target)?
            }
        };
        let (upstream, takes_websockets) = self.kubelet_of(&found.node).await?;
        Ok(OnNode {
            namespace: namespace.to_owned(),
            pod: name.to_owned(),
            container: found.container,
            upstream,
            websockets: takes_websockets && self.gates.is_on(Gate::ExtendWebSocketsToKubelet),
        })
    }

    /// Finds the kubelet of a node, and whether it takes WebSocket: 404 for a node that is not
    /// known or has no address of a kind that is used.
    async fn kubelet_of(&self, name: &str) -> Result<(Upstream, bool), Refusal> {
        let node = self.facts.node(name).await.map_err(|error| Refusal::unavailable(&error))?;
        let node = node.ok_or_else(|| Refusal::not_found("nodes", name))?;
        let host = preferred(&node, &self.address_types);
        let host = host.ok_or_else(|| Refusal::not_found("nodes", name))?.to_owned();
        let port = node.kubelet_port.unwrap_or(KUBELET_PORT);
        let tls = match &self.tls {
            None => None,
            Some(client) => Some(Tls { config: client.current().await, server_name: None }),
        };
        let endpoint = Endpoint { host, port, tls, proxy: None };
        let takes_websockets = node.features.iter().any(|feature| feature == WEBSOCKETS);
        let demands = self.checks.demands(name);
        let node = Upstream { endpoint, demands, agent: AGENT, patience: UPGRADE_PATIENCE };
        Ok((node, takes_websockets))
    }
}

/// What a stream is for: a container, which is empty where the whole pod is meant, and its node.
struct Found {
    container: String,
    node: String,
}

/// Reads out of a pod what is meant in it: 404 for no pod, 400 for a container that is none, or a
/// pod without a node.
fn meant(pod: Option<Arc<Pod>>, target: Target<'_>) -> Result<Found, Refusal> {
    let Target { pod: name, container, .. } = target;
    let pod = pod.ok_or_else(|| Refusal::not_found("pods", name))?;
    let container = container.map(|asked| container_in(&pod, asked)).transpose()?;
    let homeless = || Refusal::bad_request(format!("pod {name} does not have a host assigned"));
    let node = pod.node.clone().ok_or_else(homeless)?;
    Ok(Found { container: container.unwrap_or_default(), node })
}

/// Returns a node's first address in the order of preference.
fn preferred<'a>(node: &'a Node, kinds: &[String]) -> Option<&'a str> {
    let of = |kind: &String| node.addresses.iter().find(|address| address.kind == *kind);
    kinds.iter().find_map(of).map(|address| &*address.host)
}

impl Backend for Nodes {
    fn is_ready(&self) -> Ready<'_> {
        Box::pin(ready(self.facts.is_ready()))
    }

    fn find<'a>(&'a self, _: &'a Caller, target: Target<'a>) -> Answer<'a, Box<dyn Destination>> {
        Box::pin(async move {
            let found: Box<dyn Destination> = Box::new(self.locate(target).await?);
            Ok(found)
        })
    }
}

/// A pod, or a container of one, on its node.
struct OnNode {
    namespace: String,
    pod: String,
    container: String,
    upstream: Upstream,
    /// Whether the node is spoken to over WebSocket rather than SPDY.
    websockets: bool,
}

impl OnNode {
    async fn upgrade(
        &self,
        path: &str,
        offer: &Offer,
    ) -> Result<(FarLeg, &'static Protocol), Refusal> {
        let switched = self.upstream.upgrade(path, offer).await;
        // The headers with what the node would take answer this gateway's offer, not the client's.
        let Switched { head, connection, protocol } =
            switched.map_err(|error| Refusal { headers: Vec::new(), ..refusal(error) })?;
        Ok((FarLeg { headers: head.headers, connection }, protocol))
    }
}

impl Destination for OnNode {
    fn container(&self) -> &str {
        &self.container
    }

    fn forward_carriers(&self, near: Carrier) -> &'static [Carrier] {
        // SPDY is passed as it comes, and every node takes it.
        if self.websockets && near == Carrier::WebSocket {
            &[Carrier::WebSocket]
        } else {
            &[Carrier::Spdy]
        }
    }

    fn command<'a>(
        &'a self,
        verb: Verb,
        options: &'a ExecOptions,
    ) -> Answer<'a, (FarLeg, &'static Protocol)> {
        Box::pin(async move {
            let path = options.kubelet_path(verb, &self.namespace, &self.pod, &self.container);
            let offer =
                if self.websockets { Offer::websocket(random::bytes()) } else { Offer::spdy() };
            self.upgrade(&path, &offer).await
        })
    }

    fn port_forward<'a>(
        &'a self,
        options: &'a ForwardOptions,
        carrier: Carrier,
    ) -> Answer<'a, (FarLeg, &'static Protocol)> {
        Box::pin(async move {
            let path = options.kubelet_path(&self.namespace, &self.pod);
            let offer = match carrier {
                Carrier::WebSocket => Offer::tunnel(random::bytes()),
                Carrier::Spdy => Offer::forward(),
            };
            self.upgrade(&path, &offer).await
        })
    }

    fn pass_port_forward<'a>(
        &'a self,
        options: &'a ForwardOptions,
        method: &'a Method,
        headers: &'a [(&'static str, String)],
    ) -> Answer<'a, FarLeg> {
        Box::pin(async move {
            let path = options.kubelet_path(&self.namespace, &self.pod);
            let asked = self.upstream.ask(&path, method.as_str(), headers).await;
            let (head, connection) = asked.map_err(refusal)?;
            Ok(FarLeg { headers: head.headers, connection })
        })
    }

    fn pass_kept<'a>(
        &'a self,
        options: &'a ExecOptions,
        headers: &'a [(&'static str, String)],
    ) -> Answer<'a, FarLeg> {
        Box::pin(async move {
            let (namespace, pod) = (&self.namespace, &self.pod);
            let path = options.kubelet_path(Verb::Exec, namespace, pod, &self.container);
            let asked = self.upstream.ask(&path, Method::GET.as_str(), headers).await;
            let (head, connection) = asked.map_err(|error| match error {
                UpstreamError::Refused(said) if is_bare(&said) => not_kept("the node has none"),
                error => refusal(error),
            })?;
            Ok(FarLeg { headers: head.headers, connection })
        })
    }

    fn log<'a>(&'a self, options: &'a LogOptions) -> Answer<'a, Body> {
        Box::pin(async move {
            let path = options.kubelet_path(&self.namespace, &self.pod, &self.container);
            let answer = self.upstream.get(&path, LOG_PATIENCE).await.map_err(refusal)?;
            Ok(answer.into_body().map_err(io::Error::other).boxed_unsync())
        })
    }
}

pub(crate) fn refusal(error: UpstreamError) -> Refusal {
    match error {
        UpstreamError::Refused(said) => refused(&said),
        UpstreamError::NotUpgraded(_) => Refusal::internal(error.to_string()),
        error => {
            let error = error.to_string();
            Refusal::internal(format!("error dialing backend: {}", sanitized(&error, REASON_BYTES)))
        }
    }
}

/// Whether an answer is the one to a subprotocol that is not known.
fn is_bare(said: &Refused) -> bool {
    said.head.status == StatusCode::FORBIDDEN && said.body.is_empty()
}

/// Makes the client's answer of what the node said instead of 101.
pub(crate) fn refused(said: &Refused) -> Refusal {
    let status = said.head.status;
    let message = said.text();
    if status.is_client_error() || status.is_server_error() {
        let message = if message.is_empty() { status.to_string() } else { message };
        let headers = negotiate::accepted_protocol_lines(Lines(&lines(&said.head.headers)));
        return Refusal { headers, ..Refusal::of_node(status.as_u16(), message) };
    }
    // Redirects among them: a stream goes nowhere else.
    Refusal::internal(format!("invalid upgrade response: status code {}", status.as_u16()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::NodeAddress;

    #[test]
    fn a_nodes_address_is_the_preferred_one() {
        let address = |(kind, host): (&str, &str)| NodeAddress {
            kind: kind.to_owned(),
            host: host.to_owned(),
        };
        let addresses = [("InternalIP", "10.0.0.1"), ("Hostname", "h")].map(address).into();
        let node = Node { addresses, ..Node::default() };
        for (kinds, expected) in [
            (&["ExternalIP", "Hostname", "InternalIP"][..], Some("h")),
            (&["InternalIP"], Some("10.0.0.1")),
            (&["ExternalDNS"], None),
        ] {
            let kinds: Vec<String> = kinds.iter().map(|&kind| kind.to_owned()).collect();
            assert_eq!(preferred(&node, &kinds), expected);
        }
    }
}
