//! A request for a stream to a session: found by the runtime, upgraded, and driven here or
//! [relayed](crate::relay).

use bowline_io::http::lines;
use bowline_io::record::{Pending, Record, Requester};
use bowline_io::request_target::query;
use bowline_io::serve::Reply;
use bowline_proto::extension::REPLAY;
use bowline_proto::negotiate::{
    Accepts, Lines, accept, accept_forward, asks_for_tunnel, requested_carrier,
};
use bowline_proto::portforward::{Forward, OverSpdy, OverWebSocket};
use bowline_proto::session::protocol::Carrier;
use bowline_proto::session::{Side, Wants};
use http::Request;
use hyper::body::Incoming;

use super::Kubelet;
use super::parameters::{parameters, ports, replay};
use super::route::record;
use crate::answers::{negotiate, set_headers, switch};
use crate::relay;
use crate::runtime::{
    AttachRequest, Attachment, ExecRequest, Forwarding, PodTarget, Refusal, Session, Target,
};

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
        let session =
            self.runtime.exec(target, ExecRequest { command, wants, env: Vec::new() }).await?;
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
        let Attachment { session, replay } = attachment;
        let upstream = match session {
            Session::Local(session) => {
                let mut reply = switch(&accepted);
                let protocol = accepted.protocol;
                pending.record.near = protocol.label();
                // A client that asks for lines must know whether it gets them.
                let granted = replay.map(|lines| (REPLAY.answered, lines.to_string()));
                set_headers(&mut reply, granted.as_slice());
                let run = move |connection, end| session.run(wants, protocol, connection, end);
                self.sessions.run(pending.begin(), request, run);
                return Ok(reply);
            }
            Session::Upstream(upstream) => upstream.await?,
        };
        relay::session(&self.sessions, pending, request, accepted, upstream, wants).await
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
        let local = match forwarding {
            Forwarding::Local(local) => local,
            Forwarding::Upstream(upstream) => {
                let upstream = upstream.await?;
                return relay::forward(&self.sessions, pending, request, accepted, upstream).await;
            }
        };
        let protocol = accepted.protocol;
        pending.record.near = protocol.label();
        let forward = match relay::wire(protocol) {
            Some(wire) => Forward::Spdy(OverSpdy::new(Side::Server, wire)),
            None => Forward::WebSocket(OverWebSocket::new(protocol, &ports)),
        };
        let slots = self.forwards.clone();
        let run = move |connection, end| local.run(forward, connection, slots, end);
        self.sessions.run(pending.begin(), request, run);
        Ok(switch(&accepted))
    }
}
