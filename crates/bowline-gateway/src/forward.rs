//! A port-forward: from an authorized request to bytes between its client and the node.
//!
//! SPDY and the old numbered channels go to the node as they come: only the two ends have to know
//! what they mean. A tunnel is unpacked to the SPDY in it, except where the node takes tunnels
//! itself.

use bowline_io::drive::join;
use bowline_io::http::lines;
use bowline_io::random;
use bowline_io::record::{End, Pending};
use bowline_io::request_target::query;
use bowline_io::serve::Reply;
use bowline_io::stream::Upgraded;
use bowline_proto::negotiate::{self, Lines, asks_for_tunnel, requested_carrier};
use bowline_proto::session::protocol::Carrier;
use bowline_proto::splice::Splice;
use bowline_proto::tunnel::Wire;
use bowline_proto::websocket::Role;
use http::{HeaderMap, Method, Request};
use hyper::body::Incoming;

use crate::backend::{Destination, Target};
use crate::components::Caller;
use crate::gates::Gate;
use crate::options::ForwardOptions;
use crate::server::Gateway;
use crate::status::Refusal;
use crate::stream::{SHUTDOWN, accept, demand_upgradable, switch};

/// The header lines of a request, and of a 101, that make an upgrade. Only these go from a client
/// to a node: no credentials, and no extension that changes what the bytes mean.
const UPGRADE: [&str; 7] = [
    "Connection",
    "Upgrade",
    "Sec-WebSocket-Key",
    "Sec-WebSocket-Version",
    "Sec-WebSocket-Protocol",
    "Sec-WebSocket-Accept",
    "X-Stream-Protocol-Version",
];

/// Serves a port-forward: finds its destination, upgrades the far leg, and only then the near one.
pub(crate) async fn port_forward(
    gateway: &Gateway,
    caller: &Caller,
    mut session: Pending,
    request: Request<Incoming>,
) -> Result<Reply, Refusal> {
    let options = ForwardOptions::parse(query(&request))?;
    let record = &mut session.record;
    let target = Target { namespace: &record.namespace, pod: &record.pod, container: None };
    let destination = gateway.components.backend.find(caller, target).await?;
    let tunnel = asks_for_tunnel(Lines(&lines(request.headers())));
    if tunnel && !gateway.gates.is_on(Gate::PortForwardWebsockets) {
        // What a cluster before 1.30 does with it, so that clients fall back.
        return Err(Refusal::bare(403, "the gate PortForwardWebsockets is closed"));
    }
    let (reply, far, wire) = if tunnel && !destination.takes_tunnels() {
        let accepted = accept(&request, negotiate::accept_forward)?;
        let (far, protocol) = destination.port_forward(&options).await?;
        record.near = accepted.protocol.label();
        record.far = protocol.label();
        let wire = Wire::tunnel(Role::Server, random::bytes());
        (switch(&accepted.response), far.connection, wire)
    } else {
        let (reply, far, carrier) = pass(&*destination, &options, &request).await?;
        record.near = format!("{carrier:?}");
        record.far = "as it comes".into();
        (reply, far, Wire::plain())
    };
    gateway.sessions.run(session.begin(), request, |near, end| {
        let spliced = Box::pin(join(near, far, Splice::new(wire), end, SHUTDOWN));
        async move {
            let (ending, traffic) = spliced.await;
            (if ending.is_some() { End::Over } else { End::Shutdown }, traffic)
        }
    });
    Ok(reply)
}

/// Passes the client's own upgrade to the node, and the node's answer to the client.
async fn pass(
    destination: &dyn Destination,
    options: &ForwardOptions,
    request: &Request<Incoming>,
) -> Result<(Reply, Upgraded, Carrier), Refusal> {
    demand_upgradable(request)?;
    let carrier = requested_carrier(Lines(&lines(request.headers())));
    let carrier = carrier.ok_or_else(|| Refusal::bad_request("Upgrade request required"))?;
    if carrier == Carrier::WebSocket && request.method() != Method::GET {
        return Err(Refusal::method_not_allowed());
    }
    let words = upgrade_lines(request.headers());
    let far = destination.pass_port_forward(options, request.method(), &words).await?;
    if requested_carrier(Lines(&lines(&far.headers))) != Some(carrier) {
        let text = "invalid upgrade response: missing upgrade headers in response";
        return Err(Refusal::internal(text));
    }
    Ok((switch(&upgrade_lines(&far.headers)), far.connection, carrier))
}

fn upgrade_lines(headers: &HeaderMap) -> Vec<(&'static str, String)> {
    let of = |name: &'static str| {
        let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        values.map(move |value| (name, value.to_owned()))
    };
    UPGRADE.into_iter().flat_map(of).collect()
}
