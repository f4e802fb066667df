//! An exec or an attach: from an authorized request to a relay between its client and the node.

use bowline_io::drive::{Joint, join_within};
use bowline_io::http::lines;
use bowline_io::random;
use bowline_io::record::{End, Pending};
use bowline_io::request_target::query;
use bowline_io::serve::{Reply, body, has_body};
use bowline_proto::kept::shown;
use bowline_proto::negotiate::{self, Accepts, Lines};
use bowline_proto::relay::Relay;
use bowline_proto::session::{Session, Side};
use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;

use crate::backend::{FarLeg, Target};
use crate::components::Caller;
use crate::gates::Gate;
use crate::options::{ExecOptions, Verb};
use crate::server::Gateway;
use crate::status::{Refusal, set_headers};

/// What both ends of a stream are told when the gateway shuts down.
pub(crate) const SHUTDOWN: &str = "the gateway shuts down";

/// Serves a remote command: finds its destination, upgrades the far leg, and only then the near
/// one.
pub(crate) async fn remote_command(
    gateway: &Gateway,
    caller: &Caller,
    verb: Verb,
    mut session: Pending,
    request: Request<Incoming>,
) -> Result<Reply, Refusal> {
    let options = ExecOptions::parse(verb, query(&request))?;
    let record = &mut session.record;
    let (namespace, pod) = (&*record.namespace, &*record.pod);
    let (method, query, headers) = (request.method(), query(&request), request.headers());
    let container = Some(&*options.container);
    let target = Target { namespace, pod, container, method, query, headers };
    let destination = gateway.components.backend.find(caller, target).await?;
    let v5 = gateway.gates.is_on(Gate::TranslateStreamCloseWebsocketRequests);
    let taken = Accepts { websocket_v5: v5 };
    let accepted = accept(&request, |method, lines| negotiate::accept(method, lines, taken))?;
    let (FarLeg { headers, connection: far }, protocol) =
        destination.command(verb, &options).await?;
    let far_session = Session::new(Side::Client, protocol, options.wants, random::bytes());
    let mut reply = switch(&accepted.response);
    for (extension, _) in &options.extensions {
        if let Some(heard) = headers.get(extension.answered) {
            reply.headers_mut().insert(extension.answered, heard.clone());
        }
    }
    let mut near_session =
        Session::new(Side::Server, accepted.protocol, options.wants, random::bytes());
    if let Some(every) = gateway.living.ping_every {
        near_session.keep_alive(every);
    }
    if verb == Verb::Exec {
        record.command = shown(&options.command).to_vec();
    }
    record.container = destination.container().to_owned();
    record.near = accepted.protocol.label();
    record.far = protocol.label();
    let mut running = session.begin();
    let relay = Relay::with_tap(near_session, far_session, running.tap());
    let relay = relay.with_hop(destination.hop());
    let bounds = gateway.living.bounds;
    gateway.sessions.run(running, request, move |near, end| {
        let relayed = Box::pin(join_within(bounds, near, far, relay, end, SHUTDOWN));
        async move {
            let Joint { ending, exceeded, traffic } = relayed.await;
            (exceeded.map_or_else(|| ending.into(), |bound| End::Lost(bound.to_string())), traffic)
        }
    });
    Ok(reply)
}

/// Demands a request whose connection can be taken over behind its head.
pub(crate) fn demand_upgradable(request: &Request<Incoming>) -> Result<(), Refusal> {
    if request.version() != Version::HTTP_11 {
        return Err(Refusal::internal("request connection cannot be hijacked"));
    }
    if has_body(request.headers()) {
        return Err(Refusal::bad_request("an upgrade request must not have a body"));
    }
    Ok(())
}

/// Judges the handshake of the near leg.
pub(crate) fn accept(
    request: &Request<Incoming>,
    verdict: impl Fn(&str, Lines<'_>) -> Result<negotiate::Accepted, negotiate::Refusal>,
) -> Result<negotiate::Accepted, Refusal> {
    demand_upgradable(request)?;
    let lines = lines(request.headers());
    verdict(request.method().as_str(), Lines(&lines)).map_err(|refusal| match refusal {
        negotiate::Refusal::NoUpgrade => Refusal::bad_request("Upgrade request required"),
        // Without a Status, as old servers give it.
        refusal if refusal.is_bare() => Refusal::bare(refusal.code(), refusal.to_string()),
        refusal => Refusal {
            headers: refusal.headers(),
            ..Refusal::of_node(refusal.code(), refusal.to_string())
        },
    })
}

/// Makes the 101 with these headers.
pub(crate) fn switch(headers: &[(&'static str, String)]) -> Reply {
    let mut reply = Response::new(body(Bytes::new()));
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    set_headers(&mut reply, headers);
    reply
}
