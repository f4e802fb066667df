//! A port-forward: from an authorized request to bytes between its client and the node.
//!
//! What the destination takes goes there as it comes, and so do the old numbered channels: only the
//! two ends have to know what they mean. Else a tunnel is unpacked to the SPDY in it, or SPDY
//! packed into a tunnel.

use bowline_io::drive::{Bounds, Joint, join_within};
use bowline_io::http::lines;
use bowline_io::random;
use bowline_io::record::{End, Pending, Running};
use bowline_io::request_target::query;
use bowline_io::serve::{Reply, Sessions};
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
    let target = Target {
        namespace: &record.namespace,
        pod: &record.pod,
        container: None,
        method: request.method(),
        query: query(&request),
        headers: request.headers(),
    };
    let destination = gateway.components.backend.find(caller, target).await?;
    let near = Near::of(request.headers());
    if near == Some(Near::Tunnel) && !gateway.gates.is_on(Gate::PortForwardWebsockets) {
        // What a cluster before 1.30 does with it, so that clients fall back.
        return Err(Refusal::bare(403, "the gate PortForwardWebsockets is closed"));
    }
    let Opened { reply, far, splice, labels } =
        open(&*destination, &options, near, &request).await?;
    (record.near, record.far) = labels;
    // Over SPDY clients ping by themselves.
    let splice = match (near, gateway.living.ping_every) {
        (Some(Near::Tunnel | Near::Channels), Some(every)) => splice.with_pings(every),
        _ => splice,
    };
    run(&gateway.sessions, session, request, gateway.living.bounds, far, splice);
    Ok(reply)
}

/// Begins a session, and [splices](splice) its two sides.
pub(crate) fn run(
    sessions: &Sessions,
    session: Pending,
    request: Request<Incoming>,
    bounds: Bounds,
    far: Upgraded,
    wires: Splice,
) {
    splice(sessions, session.begin(), request, bounds, far, wires);
}

/// Splices the two sides of a session once the client has its 101.
pub(crate) fn splice(
    sessions: &Sessions,
    running: Running,
    request: Request<Incoming>,
    bounds: Bounds,
    far: Upgraded,
    wires: Splice,
) {
    sessions.run(running, request, move |near, end| {
        let spliced = Box::pin(join_within(bounds, near, far, wires, end, SHUTDOWN));
        async move {
            let Joint { ending, exceeded, traffic } = spliced.await;
            let end = match (exceeded, ending) {
                (Some(bound), _) => End::Lost(bound.to_string()),
                (None, Some(_)) => End::Over,
                (None, None) => End::Shutdown,
            };
            (end, traffic)
        }
    });
}

/// How a client asks for a port-forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Near {
    Tunnel,
    Spdy,
    /// The numbered channels over WebSocket, which only the two ends understand.
    Channels,
}

impl Near {
    fn of(headers: &HeaderMap) -> Option<Near> {
        let lines = lines(headers);
        Some(match requested_carrier(Lines(&lines))? {
            Carrier::WebSocket if asks_for_tunnel(Lines(&lines)) => Near::Tunnel,
            Carrier::WebSocket => Near::Channels,
            Carrier::Spdy => Near::Spdy,
        })
    }
}

/// Both sides of a port-forward, ready to be joined.
struct Opened {
    reply: Reply,
    far: Upgraded,
    splice: Splice,
    /// What is spoken on the near and on the far side, for the record.
    labels: (String, String),
}

/// Opens the far side over the first carrier that the destination takes.
async fn open(
    destination: &dyn Destination,
    options: &ForwardOptions,
    near: Option<Near>,
    request: &Request<Incoming>,
) -> Result<Opened, Refusal> {
    let carriers = match near {
        Some(Near::Tunnel) => destination.forward_carriers(Carrier::WebSocket),
        Some(Near::Spdy) => destination.forward_carriers(Carrier::Spdy),
        Some(Near::Channels) | None => return pass(destination, options, request).await,
    };
    let mut carriers = carriers.iter().copied().peekable();
    loop {
        let carrier = carriers.next().unwrap_or(Carrier::Spdy);
        let opened = match (near, carrier) {
            (Some(Near::Tunnel), Carrier::Spdy) => {
                let wire = Wire::tunnel(Role::Server, random::bytes());
                turn(destination, options, carrier, request, Splice::new(wire)).await
            }
            (Some(Near::Spdy), Carrier::WebSocket) => {
                let wire = Wire::tunnel(Role::Client, random::bytes());
                let splice = Splice::new(Wire::plain()).with_far(wire);
                turn(destination, options, carrier, request, splice).await
            }
            _ => pass(destination, options, request).await,
        };
        match opened {
            Err(refusal) if refusal.falls_back && carriers.peek().is_some() => {}
            Err(refusal) => return Err(refusal),
            Ok(opened) => {
                destination.took(carrier);
                return Ok(opened);
            }
        }
    }
}

/// Ends the client's handshake here, and makes one of our own with the destination.
async fn turn(
    destination: &dyn Destination,
    options: &ForwardOptions,
    carrier: Carrier,
    request: &Request<Incoming>,
    splice: Splice,
) -> Result<Opened, Refusal> {
    let accepted = accept(request, negotiate::accept_forward)?;
    let (far, protocol) = destination.port_forward(options, carrier).await?;
    let labels = (accepted.protocol.label(), protocol.label());
    Ok(Opened { reply: switch(&accepted.response), far: far.connection, splice, labels })
}

/// Passes the client's own upgrade to the node, and the node's answer to the client.
async fn pass(
    destination: &dyn Destination,
    options: &ForwardOptions,
    request: &Request<Incoming>,
) -> Result<Opened, Refusal> {
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
    Ok(Opened {
        reply: switch(&upgrade_lines(&far.headers)),
        far: far.connection,
        splice: Splice::new(Wire::plain()),
        labels: (format!("{carrier:?}"), "as it comes".into()),
    })
}

pub(crate) fn upgrade_lines(headers: &HeaderMap) -> Vec<(&'static str, String)> {
    let of = |name: &'static str| {
        let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        values.map(move |value| (name, value.to_owned()))
    };
    UPGRADE.into_iter().flat_map(of).collect()
}
