//! An accepted request for a stream to its session, driven here or relayed, for every server that
//! the node has.

use bowline_io::record::Pending;
use bowline_io::serve::{Reply, Sessions};
use bowline_proto::extension::REPLAY;
use bowline_proto::negotiate::Accepted;
use bowline_proto::portforward::{Forward, OverSpdy, OverWebSocket};
use bowline_proto::session::{Side, Wants};
use http::Request;
use hyper::body::Incoming;

use crate::answers::{set_headers, switch};
use crate::forward::Slots;
use crate::kept::{Asking, Keeper, visit};
use crate::relay;
use crate::runtime::{Attachment, Forwarding, Refusal, Session};

/// Answers an exec or an attach with its 101, and runs its session as one of `sessions`.
///
/// # Errors
/// The refusal of a runtime that streams by itself.
pub(crate) async fn session(
    sessions: &Sessions,
    mut pending: Pending,
    request: Request<Incoming>,
    accepted: Accepted,
    attachment: Attachment,
    wants: Wants,
) -> Result<Reply, Refusal> {
    let Attachment { session, replay } = attachment;
    let local = match session {
        Session::Local(local) => local,
        Session::Upstream(upstream) => {
            let upstream = upstream.await?;
            return relay::session(sessions, pending, request, accepted, upstream, wants).await;
        }
    };
    let mut reply = switch(&accepted);
    let protocol = accepted.protocol;
    pending.record.near = protocol.label();
    // A client that asks for lines must know whether it gets them.
    let granted = replay.map(|lines| (REPLAY.answered, lines.to_string()));
    set_headers(&mut reply, granted.as_slice());
    let run = move |connection, end| local.run(wants, protocol, connection, end);
    sessions.run(pending.begin(), request, run);
    Ok(reply)
}

/// Answers a request for a kept session with its 101, and takes its client there.
pub(crate) fn kept(
    sessions: &Sessions,
    keeper: &Keeper,
    mut pending: Pending,
    request: Request<Incoming>,
    accepted: &Accepted,
    asking: Asking,
) -> Reply {
    pending.record.near = accepted.protocol.label();
    let keeper = keeper.clone();
    let run = move |connection, end| Box::pin(visit(keeper, asking, connection, end));
    sessions.run(pending.begin(), request, run);
    switch(accepted)
}

/// Answers a port-forward with its 101, and runs it as one of `sessions`: who serves it, and the
/// ports of a client that speaks channels. Connections made here take places in `slots`.
///
/// # Errors
/// The refusal of a runtime that streams by itself.
pub(crate) async fn forward(
    sessions: &Sessions,
    slots: &Slots,
    mut pending: Pending,
    request: Request<Incoming>,
    accepted: Accepted,
    (forwarding, ports): (Forwarding, &[u16]),
) -> Result<Reply, Refusal> {
    let local = match forwarding {
        Forwarding::Local(local) => local,
        Forwarding::Upstream(upstream) => {
            let upstream = upstream.await?;
            return relay::forward(sessions, pending, request, accepted, upstream).await;
        }
    };
    let protocol = accepted.protocol;
    pending.record.near = protocol.label();
    let forward = match relay::wire(protocol) {
        Some(wire) => Forward::Spdy(OverSpdy::new(Side::Server, wire)),
        None => Forward::WebSocket(OverWebSocket::new(protocol, ports)),
    };
    let slots = slots.clone();
    let run = move |connection, end| local.run(forward, connection, slots, end);
    sessions.run(pending.begin(), request, run);
    Ok(switch(&accepted))
}
