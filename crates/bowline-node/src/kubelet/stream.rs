//! A request for a stream to what it names, found by the runtime, and to the 101.

use bowline_io::http::lines;
use bowline_io::record::{Pending, Record, Requester};
use bowline_io::request_target::query;
use bowline_io::serve::Reply;
use bowline_proto::extension::ENV;
use bowline_proto::kept::{is_question, shown};
use bowline_proto::negotiate::{
    self, Accepted, Accepts, Lines, accept, accept_forward, accept_kept, asks_for_kept,
    asks_for_tunnel, requested_carrier,
};
use bowline_proto::session::Wants;
use bowline_proto::session::protocol::Carrier;
use http::Request;
use hyper::body::Incoming;

use super::Kubelet;
use super::parameters::{env, parameters, ports, replay};
use super::route::record;
use crate::answers::{judge, set_headers};
use crate::kept::{Asking, Place, Question, not_kept};
use crate::runtime::{AttachRequest, Attachment, ExecRequest, PodTarget, Refusal, Session, Target};
use crate::streams;

impl Kubelet {
    pub(super) async fn exec(
        &self,
        requester: &Requester,
        request: Request<Incoming>,
        target: &Target,
    ) -> Result<Reply, Refusal> {
        let (command, wants) = parameters(query(&request))?;
        let env = env(query(&request))?;
        let record =
            Record { command: shown(&command).to_vec(), ..record("exec", requester, target) };
        let pending = self.admit_session(record)?;
        if asks_for_kept(Lines(&lines(request.headers()))) {
            let asked = ExecRequest { command, wants, env };
            return self.kept(pending, request, target, asked).await;
        }
        // Whoever asks for variables must know that they are set.
        let granted = (!env.is_empty()).then(|| (ENV.answered, env.len().to_string()));
        let session = if is_question(&command) {
            Session::Local(Box::new(Question::new(&self.keeper, place(target), command, wants)))
        } else {
            self.runtime.exec(target, ExecRequest { command, wants, env }).await?
        };
        let attachment = Attachment { session, replay: None };
        let mut reply = self.session(pending, request, attachment, wants).await?;
        set_headers(&mut reply, granted.as_slice());
        Ok(reply)
    }

    /// Upgrades a request for a command whose client can go and come back, or for one that there
    /// is: that one may be over, and its container as well.
    async fn kept(
        &self,
        pending: Pending,
        request: Request<Incoming>,
        target: &Target,
        asked: ExecRequest,
    ) -> Result<Reply, Refusal> {
        if !self.keeper.keeps() {
            return Err(not_kept());
        }
        let session = if is_question(&asked.command) {
            None
        } else {
            match self.runtime.exec(target, asked.clone()).await? {
                Session::Local(local) => Some(local),
                // As if it was not known here: it is the runtime that has the process.
                Session::Upstream(_) => return Err(not_kept()),
            }
        };
        let accepted = negotiated(&request, accept_kept)?;
        let ExecRequest { command, wants, env } = asked;
        let granted = (!env.is_empty()).then(|| (ENV.answered, env.len().to_string()));
        let asking = Asking { place: place(target), command, wants, env, session };
        let (sessions, keeper) = (&self.sessions, &self.keeper);
        let mut reply = streams::kept(sessions, keeper, pending, request, &accepted, asking);
        set_headers(&mut reply, granted.as_slice());
        Ok(reply)
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
        pending: Pending,
        request: Request<Incoming>,
        attachment: Attachment,
        wants: Wants,
    ) -> Result<Reply, Refusal> {
        let taken = Accepts { websocket_v5: true };
        let accepted = negotiated(&request, |method, lines| accept(method, lines, taken))?;
        streams::session(&self.sessions, pending, request, accepted, attachment, wants).await
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
        let pending = self.admit_session(record)?;
        let forwarding = self.runtime.port_forward(target, &ports).await?;
        let accepted = negotiated(&request, accept_forward)?;
        let (sessions, at) = (&self.sessions, (forwarding, &*ports));
        streams::forward(sessions, &self.forwards, pending, request, accepted, at).await
    }
}

/// Where the sessions of a container belong.
fn place(target: &Target) -> Place {
    let Target { pod: PodTarget { namespace, name, uid }, container } = target;
    Place { name: format!("{namespace}/{name}/{container}"), uid: uid.clone() }
}

/// Turns a request into the 101 that `accept` makes of it, or its refusal. The kubelet's answer to
/// every request without an upgrade is a 500 (docs/protocols/endpoints.md, 1.2).
fn negotiated(
    request: &Request<Incoming>,
    accept: impl Fn(&str, Lines<'_>) -> Result<Accepted, negotiate::Refusal>,
) -> Result<Accepted, Refusal> {
    judge(request, accept)?.map_err(|refusal| match refusal {
        negotiate::Refusal::NoUpgrade => Refusal { code: 500, ..refusal.into() },
        refusal => refusal.into(),
    })
}
