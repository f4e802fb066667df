//! A request to its answer: what it asks for, who asks, whether they may, and then who answers.

use std::sync::Arc;

use bowline_io::auth::{Attributes, Credentials, User};
use bowline_io::record::{Pending, Record, Requester, Subject};
use bowline_io::request_target::{BadPath, query};
use bowline_io::serve::{Peer, Reply, Sessions};
use bowline_io::text::sanitized;
use bowline_proto::limits::REASON_BYTES;
use bowline_proto::negotiate::{self, Lines};
use bowline_proto::session::protocol::Carrier;
use http::{HeaderMap, Method, Request};
use hyper::body::Incoming;
use tracing::debug;

use crate::authz::demand;
use crate::components::{Caller, Components};
use crate::forward;
use crate::gates::{Gate, Gates};
use crate::identity;
use crate::logs;
use crate::options::Verb;
use crate::route::{Route, path_attributes};
use crate::status::Refusal;
use crate::stream;

/// An API server's streaming endpoints. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Gateway {
    pub(crate) components: Arc<Components>,
    pub(crate) gates: Gates,
    pub(crate) sessions: Sessions,
}

impl Gateway {
    /// Makes a gateway of its components.
    #[must_use]
    pub fn new(components: Components, gates: Gates, sessions: Sessions) -> Gateway {
        Gateway { components: Arc::new(components), gates, sessions }
    }

    /// Answers a request. A stream goes on as a task of the sessions after the answer.
    ///
    /// Dropped before it has answered, it starts no session.
    pub async fn answer(self, peer: Peer, request: Request<Incoming>) -> Reply {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let mut requester = Requester { peer: peer.address, user: None };
        match self.serve(&peer, &mut requester, request).await {
            Ok(reply) => {
                let path = sanitized(&path, REASON_BYTES);
                debug!("{}: {method} {path}: {}", peer.address, reply.status());
                reply
            }
            Err(refusal) => {
                let refusals = &self.sessions.refusals;
                refusals.log(&requester, method.as_str(), &path, refusal.code, refusal.log_text());
                refusal.reply()
            }
        }
    }

    async fn serve(
        &self,
        peer: &Peer,
        requester: &mut Requester,
        mut request: Request<Incoming>,
    ) -> Result<Reply, Refusal> {
        let path = request.uri().path().to_owned();
        let route = Route::parse(&path);
        if route == Ok(Route::Health) {
            return Ok(crate::status::text(200, "ok"));
        }
        let attributes = match &route {
            Ok(route) => route.attributes(request.method(), &path),
            Err(_) => path_attributes(request.method(), &path),
        };
        let user = self.identify(peer, requester, request.headers_mut(), &attributes).await?;
        peer.mark_authenticated();
        // Only those who may ask for a path learn that nothing is there; a path that cannot be read
        // cannot be allowed to anybody.
        if route != Err(BadPath::NotText) {
            demand(&*self.components.authorizer, &user, &attributes).await?;
        }
        let route = route.map_err(|bad| match bad {
            BadPath::NotText => Refusal::bad_request(bad.to_string()),
            BadPath::NotClean => Refusal::no_such_path(),
        })?;
        let caller = Caller { user, requester: requester.clone() };
        match &route {
            Route::Exec { namespace, name } => {
                self.demand_stream(&caller, &attributes, &request).await?;
                let session = self.admit(requester.record("exec", namespace, name))?;
                stream::remote_command(self, &caller, Verb::Exec, session, request).await
            }
            Route::Attach { namespace, name } => {
                self.demand_stream(&caller, &attributes, &request).await?;
                let session = self.admit(requester.record("attach", namespace, name))?;
                stream::remote_command(self, &caller, Verb::Attach, session, request).await
            }
            Route::PortForward { namespace, name } => {
                self.demand_stream(&caller, &attributes, &request).await?;
                let session = self.admit(requester.record("portforward", namespace, name))?;
                forward::port_forward(self, &caller, session, request).await
            }
            Route::Log { .. } if request.method() != Method::GET => {
                Err(Refusal::method_not_allowed())
            }
            Route::Log { namespace, name } => {
                let session = self.admit(requester.record("log", namespace, name))?;
                logs::answer(self, &caller, session, query(&request)).await
            }
            _ => self.components.rest.answer(&caller, &route, request, &self.sessions).await,
        }
    }

    fn admit(&self, record: Record) -> Result<Pending, Refusal> {
        self.sessions.admit(record).map_err(Refusal::too_many_requests)
    }

    /// Returns the user as whom the request runs. The headers of identity are taken out.
    async fn identify(
        &self,
        peer: &Peer,
        requester: &mut Requester,
        headers: &mut HeaderMap,
        attributes: &Attributes,
    ) -> Result<User, Refusal> {
        let claims = identity::take(headers);
        let token = claims.token.map_err(|error| Refusal::unauthorized(error.to_string()))?;
        let credentials =
            Credentials { certificate: peer.identity.as_ref(), token: token.as_ref() };
        let user = self.components.authenticator.authenticate(credentials).await;
        // As in kube-apiserver, whoever cannot be authenticated now is nobody now. The log says
        // why.
        let unasked = |error| Refusal::unauthorized(format!("cannot be authenticated: {error}"));
        let nobody = if token.is_some() { "an unknown token" } else { "no credentials" };
        let user = user.map_err(unasked)?.ok_or_else(|| Refusal::unauthorized(nobody))?;
        requester.user = Some(subject(&user, None));
        let asked = claims.impersonation;
        let asked = asked.map_err(|error| Refusal::bad_request(error.to_string()))?;
        let Some(impersonation) = asked else { return Ok(user) };
        let other = impersonation.assume(&user, attributes, &*self.components.authorizer).await?;
        requester.user = Some(subject(&other, Some(user.name)));
        Ok(other)
    }

    /// Demands what a stream needs beyond the verb of its method. A WebSocket is a GET, and a GET
    /// must not be enough to run commands (since 1.35).
    async fn demand_stream(
        &self,
        caller: &Caller,
        attributes: &Attributes,
        request: &Request<Incoming>,
    ) -> Result<(), Refusal> {
        if !matches!(*request.method(), Method::GET | Method::POST) {
            return Err(Refusal::method_not_allowed());
        }
        let lines = bowline_io::http::lines(request.headers());
        let websocket = negotiate::requested_carrier(Lines(&lines)) == Some(Carrier::WebSocket);
        let gate = Gate::AuthorizePodWebsocketUpgradeCreatePermission;
        if !websocket && request.method() == Method::POST || !self.gates.is_on(gate) {
            return Ok(());
        }
        demand(&*self.components.authorizer, &caller.user, &attributes.with_verb("create")).await
    }
}

fn subject(user: &User, by: Option<String>) -> Subject {
    Subject { name: user.name.clone(), groups: user.groups.clone(), by }
}
