//! A port-forward: from a request that may, to bytes between its client and the node.
//!
//! SPDY and the numbered channels of old go to the node as they come: both ends of them know what
//! they mean, and nothing in between has to. Out of a tunnel comes SPDY, except where the node
//! takes tunnels itself.

use bowline_io::chance;
use bowline_io::drive::join;
use bowline_io::http::lines;
use bowline_io::record::{End, Pending};
use bowline_io::serve::{Reply, Sessions, has_body, upgraded};
use bowline_io::stream::Upgraded;
use bowline_io::target::query;
use bowline_proto::negotiate::{self, Lines, Offer, asked, asks_for_tunnel};
use bowline_proto::passage::Passage;
use bowline_proto::session::protocol::Carrier;
use bowline_proto::tunnel::Wire;
use bowline_proto::websocket::Role;
use http::{HeaderMap, Method, Request, Version};
use hyper::body::Incoming;

use crate::far::Nodes;
use crate::files::cluster::NodeTarget;
use crate::gates::Gate;
use crate::options::ForwardOptions;
use crate::status::Refusal;
use crate::stream::{SHUTDOWN, accept, switch};

/// The lines of a request, and of a 101, that make an upgrade. Nothing else of a client's goes to a
/// node: no credentials, and no extension that changes what the bytes mean.
const UPGRADE: [&str; 7] = [
    "Connection",
    "Upgrade",
    "Sec-WebSocket-Key",
    "Sec-WebSocket-Version",
    "Sec-WebSocket-Protocol",
    "Sec-WebSocket-Accept",
    "X-Stream-Protocol-Version",
];

/// Serves a port-forward: finds the pod's node, upgrades there, and only then here.
pub async fn port_forward(
    nodes: &Nodes,
    sessions: &Sessions,
    mut session: Pending,
    request: Request<Incoming>,
) -> Result<Reply, Refusal> {
    let options = ForwardOptions::parse(query(&request))?;
    let record = &mut session.record;
    let pod = nodes.pod(&record.namespace, &record.pod)?;
    let target = nodes.node_of(&pod)?;
    let path = options.kubelet_path(&record.namespace, &record.pod);
    let tunnel = asks_for_tunnel(Lines(&lines(request.headers())));
    if tunnel && !nodes.gates.is_on(Gate::PortForwardWebsockets) {
        // What a cluster before 1.30 does with it, so that clients fall back.
        return Err(Refusal::bare(403, "the gate PortForwardWebsockets is closed"));
    }
    let (reply, far, wire) = if tunnel && !nodes.prefers_websocket(&target) {
        let accepted = accept(&request, negotiate::accept_forward)?;
        let reached = nodes.reach(&target, &path, &Offer::forward()).await?;
        record.near = accepted.protocol.spoken();
        record.far = reached.protocol.spoken();
        let wire = Wire::tunnel(Role::Server, chance::bytes());
        (switch(&accepted.response), reached.connection, wire)
    } else {
        let (reply, far, carrier) = pass(nodes, &target, &path, &request).await?;
        record.near = format!("{carrier:?}");
        record.far = "as it comes".into();
        (reply, far, Wire::plain())
    };
    let running = session.begin();
    let legs = sessions.clone();
    sessions.spawn(async move {
        match upgraded(request).await {
            Ok(near) => {
                let end = legs.end.clone();
                let passage = Box::pin(join(near, far, Passage::new(wire), end, SHUTDOWN));
                legs.spawn(async move {
                    let (ending, traffic) = passage.await;
                    let end = if ending.is_some() { End::Over } else { End::Shutdown };
                    running.end(end, Some(traffic));
                });
            }
            Err(error) => {
                running.end(End::ClientGone(error.to_string()), None);
            }
        }
    });
    Ok(reply)
}

/// Asks the node in the client's words, and answers the client in the node's.
async fn pass(
    nodes: &Nodes,
    target: &NodeTarget,
    path: &str,
    request: &Request<Incoming>,
) -> Result<(Reply, Upgraded, Carrier), Refusal> {
    if request.version() != Version::HTTP_11 {
        return Err(Refusal::internal("request connection cannot be hijacked"));
    }
    if has_body(request.headers()) {
        return Err(Refusal::bad_request("an upgrade request must not have a body"));
    }
    let carrier = asked(Lines(&lines(request.headers())));
    let carrier = carrier.ok_or_else(|| Refusal::bad_request("Upgrade request required"))?;
    if carrier == Carrier::WebSocket && request.method() != Method::GET {
        return Err(Refusal::method_not_allowed());
    }
    let words = upgrade_lines(request.headers());
    let (head, far) = nodes.ask(target, path, request.method().as_str(), &words).await?;
    if asked(Lines(&lines(&head.headers))) != Some(carrier) {
        let text = "invalid upgrade response: missing upgrade headers in response";
        return Err(Refusal::internal(text));
    }
    Ok((switch(&upgrade_lines(&head.headers)), far, carrier))
}

fn upgrade_lines(headers: &HeaderMap) -> Vec<(&'static str, String)> {
    let of = |name: &'static str| {
        let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        values.map(move |value| (name, value.to_owned()))
    };
    UPGRADE.into_iter().flat_map(of).collect()
}
