//! A client's request that was accepted, and a runtime's own server, to one session between them.
//!
//! Nothing of the client's reaches that server before it has said 101, and the client gets its own
//! only then; any other answer is passed on as the answer.

use bowline_io::drive::join;
use bowline_io::random;
use bowline_io::record::{End, Pending};
use bowline_io::serve::{Reply, Sessions, body};
use bowline_proto::extension::handed_on;
use bowline_proto::negotiate::{Accepted, Offer};
use bowline_proto::relay::Relay;
use bowline_proto::session::protocol::{
    Carrier, FORWARD_SPDY, FORWARD_TUNNEL, Protocol, WEBSOCKET_V4, WEBSOCKET_V5,
};
use bowline_proto::session::{self, Side, Wants};
use bowline_proto::splice::Splice;
use bowline_proto::tunnel::Wire;
use bowline_proto::websocket::Role;
use http::{HeaderMap, Request, header};
use hyper::body::Incoming;

use crate::answers::switch;
use crate::runtime::{Refusal, Upstream};
use crate::upstream::{Watch, pass_on, upgrade};

/// What both ends of a relayed stream are told when the node shuts down.
const SHUTDOWN: &str = "the node shuts down";
/// What a client is told when its forward ends without the runtime's having ended it.
const BROKE: &str = "the connection to the runtime broke";

/// Relays an exec or an attach. `wants` are the channels that the client wants.
///
/// # Errors
/// The runtime's refusal, or that it cannot be asked.
pub(crate) async fn session(
    sessions: &Sessions,
    mut pending: Pending,
    request: Request<Incoming>,
    accepted: Accepted,
    upstream: Upstream,
    wants: Wants,
) -> Result<Reply, Refusal> {
    let mut reply = switch(&accepted);
    let protocol = accepted.protocol;
    pending.record.near = protocol.label();
    let offer = match upstream.carrier {
        Carrier::Spdy => Offer::spdy(),
        Carrier::WebSocket => Offer::websocket(random::bytes()),
    };
    let served = upstream.wants.unwrap_or(wants);
    let (far, watch) = upgrade(upstream, offer).await?;
    for extension in handed_on(pending.record.verb) {
        if let Some(granted) = far.head.headers.get(extension.answered) {
            reply.headers_mut().insert(extension.answered, granted.clone());
        }
    }
    pending.record.far = far.protocol.label();
    let mut running = pending.begin();
    let relay = Relay::with_tap(
        session::Session::new(Side::Server, protocol, wants, random::bytes()),
        session::Session::new(Side::Client, far.protocol, served, random::bytes()),
        running.tap(),
    )
    .with_hop("node to runtime");
    sessions.run(running, request, |near, end| {
        let relayed = Box::pin(join(near, far.connection, relay, end, SHUTDOWN));
        async move {
            let (ending, traffic) = relayed.await;
            let end = End::from(ending);
            watch.finish(&end);
            (end, traffic)
        }
    });
    Ok(reply)
}

/// Relays a port-forward. One in channels is passed as it is, to a runtime that speaks them as
/// well.
///
/// # Errors
/// The runtime's refusal, or that it cannot be asked.
pub(crate) async fn forward(
    sessions: &Sessions,
    mut pending: Pending,
    request: Request<Incoming>,
    accepted: Accepted,
    upstream: Upstream,
) -> Result<Reply, Refusal> {
    let reply = switch(&accepted);
    let protocol = accepted.protocol;
    pending.record.near = protocol.label();
    let (wire, offer) = match wire(protocol) {
        Some(wire) => (wire, Offer::forward()),
        None => {
            // Both names mean the same channels here, and runtimes know the older one.
            let known = if *protocol == WEBSOCKET_V5 { &WEBSOCKET_V4 } else { protocol };
            (Wire::plain(), Offer::channels(known, random::bytes()))
        }
    };
    let (far, watch) = upgrade(upstream, offer).await?;
    pending.record.far = far.protocol.label();
    splice(sessions, pending, request, wire, far.connection, watch);
    Ok(reply)
}

/// Passes a request on as it came, and the answer back: what is spoken then is a matter between the
/// client and the runtime.
///
/// # Errors
/// That the runtime cannot be asked. Its refusal is an answer.
pub(crate) async fn as_it_is(
    sessions: &Sessions,
    mut pending: Pending,
    request: Request<Incoming>,
    upstream: Upstream,
) -> Result<Reply, Refusal> {
    let (answer, watch) = pass_on(upstream, request.method(), request.headers()).await?;
    let (head, connection) = match answer {
        Ok(switched) => switched,
        Err(refused) => {
            watch.finish_unbegun();
            let mut reply = Reply::new(body(refused.body));
            *reply.status_mut() = refused.head.status;
            copy_headers(&refused.head.headers, &mut reply);
            return Ok(reply);
        }
    };
    let mut reply = Reply::new(body(bytes::Bytes::new()));
    *reply.status_mut() = head.status;
    copy_headers(&head.headers, &mut reply);
    pending.record.near = "as it is".into();
    splice(sessions, pending, request, Wire::plain(), connection, watch);
    Ok(reply)
}

fn copy_headers(from: &HeaderMap, reply: &mut Reply) {
    for (name, value) in from {
        // The body is a whole one here, whatever carried it there.
        if name != header::CONTENT_LENGTH && name != header::TRANSFER_ENCODING {
            reply.headers_mut().append(name, value.clone());
        }
    }
}

fn splice(
    sessions: &Sessions,
    pending: Pending,
    request: Request<Incoming>,
    near: Wire,
    far: bowline_io::stream::Upgraded,
    watch: Watch,
) {
    let splice = Splice::new(near).with_failure_text(BROKE);
    sessions.run(pending.begin(), request, |near, end| {
        let spliced = Box::pin(join(near, far, splice, end, SHUTDOWN));
        async move {
            let (ending, traffic) = spliced.await;
            let end = if ending.is_some() { End::Over } else { End::Shutdown };
            watch.finish(&end);
            (end, traffic)
        }
    });
}

/// Returns how SPDY comes from a client that forwards ports; `None` if it speaks channels.
pub(crate) fn wire(protocol: &'static Protocol) -> Option<Wire> {
    if *protocol == FORWARD_TUNNEL {
        Some(Wire::tunnel(Role::Server, random::bytes()))
    } else if *protocol == FORWARD_SPDY {
        Some(Wire::plain())
    } else {
        None
    }
}
