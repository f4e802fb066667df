//! A request for a stream to a session: found by the runtime, upgraded, and driven here or relayed.

use bowline_io::drive::join;
use bowline_io::http::lines;
use bowline_io::random;
use bowline_io::record::{End, Pending, Record, Requester};
use bowline_io::request_target::query;
use bowline_io::serve::{Reply, has_body};
use bowline_proto::extension::{REPLAY, handed_on};
use bowline_proto::negotiate::{
    self, Accepted, Accepts, Lines, Offer, accept, accept_forward, asks_for_tunnel,
    requested_carrier,
};
use bowline_proto::portforward::{Forward, OverSpdy, OverWebSocket};
use bowline_proto::relay::Relay;
use bowline_proto::session::protocol::{Carrier, FORWARD_SPDY, FORWARD_TUNNEL};
use bowline_proto::session::{self, Protocol, Side, Wants};
use bowline_proto::splice::Splice;
use bowline_proto::tunnel::Wire;
use bowline_proto::websocket::Role;
use http::{Request, Version};
use hyper::body::Incoming;

use super::Kubelet;
use super::answers::{set_headers, switch};
use super::parameters::{parameters, ports, replay};
use super::route::record;
use crate::runtime::{
    AttachRequest, Attachment, ExecRequest, Forwarding, PodTarget, Refusal, Session, Target,
};
use crate::upstream::upgrade;

/// What both ends of a relayed stream are told when the node shuts down.
const SHUTDOWN: &str = "the node shuts down";

impl Kubelet {
    pub(super) async fn exec(
        &self,
        requester: &Requester,
        request: Request<Incoming>,
        target: &Target,
    ) -> Result<Reply, Refusal> {
        let (command, wants) = parameters(query(&request))?;
        let record = Record { command: command.clone(), ..record("exec", requester, target) };
        let pending = self.admit_session(record)?;
        let session = self.runtime.exec(target, ExecRequest { command, wants }).await?;
        self.session(pending, request, Attachment { session, replay: None }, wants).await
    }

    pub(super) async fn attach(
        &self,
        requester: &Requester,
        request: Request<Incoming>,
        target: &Target,
    ) -> Result<Reply, Refusal> {
        let (_, wants) = parameters(query(&request))?;
        let replay = replay(query(&request))?;
        let pending = self.admit_session(record("attach", requester, target))?;
        let attachment = self.runtime.attach(target, AttachRequest { wants, replay }).await?;
        self.session(pending, request, attachment, wants).await
    }

    /// Upgrades a request for an exec or an attach, and runs its session.
    async fn session(
        &self,
        mut pending: Pending,
        request: Request<Incoming>,
        attachment: Attachment,
        wants: Wants,
    ) -> Result<Reply, Refusal> {
        let taken = Accepts { websocket_v5: true };
        let accepted = negotiate(&request, |method, lines| accept(method, lines, taken))?;
        let mut reply = switch(&accepted);
        let protocol = accepted.protocol;
        pending.record.near = protocol.label();
        let Attachment { session, replay } = attachment;
        let upstream = match session {
            Session::Local(session) => {
                // A client that asks for lines must know whether it gets them.
                let granted = replay.map(|lines| (REPLAY.answered, lines.to_string()));
                set_headers(&mut reply, granted.as_slice());
                let run = move |connection, end| session.run(wants, protocol, connection, end);
                self.sessions.run(pending.begin(), request, run);
                return Ok(reply);
            }
            Session::Upstream(upstream) => upstream.await?,
        };
        let offer = match upstream.carrier {
            Carrier::Spdy => Offer::spdy(),
            Carrier::WebSocket => Offer::websocket(random::bytes()),
        };
        let (far, on_lost) = upgrade(upstream, offer).await?;
        for extension in handed_on(pending.record.verb) {
            if let Some(granted) = far.head.headers.get(extension.answered) {
                reply.headers_mut().insert(extension.answered, granted.clone());
            }
        }
        pending.record.far = far.protocol.label();
        let mut running = pending.begin();
        let relay = Relay::with_tap(
            session::Session::new(Side::Server, protocol, wants, random::bytes()),
            session::Session::new(Side::Client, far.protocol, wants, random::bytes()),
            running.tap(),
        )
        .with_hop("node to runtime");
        self.sessions.run(running, request, |near, end| {
            let relayed = Box::pin(join(near, far.connection, relay, end, SHUTDOWN));
            async move {
                let (ending, traffic) = relayed.await;
                let end = End::from(ending);
                on_lost.finish(matches!(end, End::Outcome(_)));
                (end, traffic)
            }
        });
        Ok(reply)
    }

    pub(super) async fn port_forward(
        &self,
        requester: &Requester,
        request: Request<Incoming>,
        target: &PodTarget,
    ) -> Result<Reply, Refusal> {
        let ports = {
            let lines = lines(request.headers());
            let channels = requested_carrier(Lines(&lines)) == Some(Carrier::WebSocket)
                && !asks_for_tunnel(Lines(&lines));
            if channels { ports(query(&request))? } else { Vec::new() }
        };
        let record = requester.record("portforward", &target.namespace, &target.name);
        let mut pending = self.admit_session(record)?;
        let forwarding = self.runtime.port_forward(target, &ports).await?;
        let accepted = negotiate(&request, accept_forward)?;
        let reply = switch(&accepted);
        let protocol = accepted.protocol;
        pending.record.near = protocol.label();
        let upstream = match forwarding {
            Forwarding::Local(local) => {
                let forward = match wire(protocol) {
                    Some(wire) => Forward::Spdy(OverSpdy::new(Side::Server, wire)),
                    None => Forward::WebSocket(OverWebSocket::new(protocol, &ports)),
                };
                let slots = self.forwards.clone();
                let run = move |connection, end| local.run(forward, connection, slots, end);
                self.sessions.run(pending.begin(), request, run);
                return Ok(reply);
            }
            Forwarding::Upstream(upstream) => upstream,
        };
        let wire = wire(protocol).ok_or_else(|| {
            let text =
                "this node's runtime forwards ports over SPDY or the tunnel, not in channels";
            Refusal::new(501, text)
        })?;
        let (far, on_lost) = upgrade(upstream.await?, Offer::forward()).await?;
        pending.record.far = far.protocol.label();
        let splice = Splice::new(wire).with_failure_text("the connection to the runtime broke");
        self.sessions.run(pending.begin(), request, |near, end| {
            let spliced = Box::pin(join(near, far.connection, splice, end, SHUTDOWN));
            async move {
                let (ending, traffic) = spliced.await;
                on_lost.finish(ending.is_some());
                (if ending.is_some() { End::Over } else { End::Shutdown }, traffic)
            }
        });
        Ok(reply)
    }
}

/// Returns how SPDY comes from a client that forwards ports; `None` if it speaks channels.
fn wire(protocol: &'static Protocol) -> Option<Wire> {
    if *protocol == FORWARD_TUNNEL {
        Some(Wire::tunnel(Role::Server, random::bytes()))
    } else if *protocol == FORWARD_SPDY {
        Some(Wire::plain())
    } else {
        None
    }
}

fn negotiate(
    request: &Request<Incoming>,
    accept: impl Fn(&str, Lines<'_>) -> Result<Accepted, negotiate::Refusal>,
) -> Result<Accepted, Refusal> {
    if has_body(request.headers()) || request.version() != Version::HTTP_11 {
        return Err(Refusal::new(400, "an upgrade is a request of HTTP/1.1 without a body"));
    }
    let lines = lines(request.headers());
    accept(request.method().as_str(), Lines(&lines)).map_err(|refusal| {
        // The kubelet answers every request without an upgrade so (docs/protocols/endpoints.md,
        // 1.2).
        let code = if refusal == negotiate::Refusal::NoUpgrade { 500 } else { refusal.code() };
        let cause = refusal.to_string();
        let text = if refusal.is_bare() { String::new() } else { cause.clone() };
        Refusal { code, text, headers: refusal.headers(), cause }
    })
}
