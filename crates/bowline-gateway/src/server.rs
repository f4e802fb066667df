//! The walk of a request: who, what, may it, and then the answer.

use std::sync::Arc;

use bowline_io::auth::{Attributes, Authenticator, Credentials, User};
use bowline_io::record::{Asker, Pending, Record, Subject};
use bowline_io::serve::{Peer, Reply, Sessions};
use bowline_io::target::query;
use bowline_io::text::harmless;
use bowline_proto::limits::REASON_BYTES;
use bowline_proto::negotiate::{self, Lines};
use bowline_proto::session::protocol::Carrier;
use http::{HeaderMap, Method, Request};
use hyper::body::Incoming;
use tracing::debug;

use crate::authz::demand;
use crate::far::Nodes;
use crate::files::api::{self, Asked};
use crate::files::policies::Policies;
use crate::files::tokens::Tokens;
use crate::forward;
use crate::gates::Gate;
use crate::identity;
use crate::logs;
use crate::options::Verb;
use crate::route::{Route, path_attributes};
use crate::status::Refusal;
use crate::stream;

/// An API server's streaming side.
#[derive(Clone, Debug)]
pub struct Gateway {
    inner: Arc<Inner>,
    sessions: Sessions,
}

#[derive(Debug)]
struct Inner {
    tokens: Tokens,
    policies: Policies,
    nodes: Nodes,
    address: String,
}

impl Gateway {
    /// A gateway that lets in whom `tokens` (and verified certificates) name, as far as `policies`
    /// go, to the pods of `nodes`. `address` is its own, for discovery.
    #[must_use]
    pub fn new(
        tokens: Tokens,
        policies: Policies,
        nodes: Nodes,
        address: impl Into<String>,
        sessions: Sessions,
    ) -> Gateway {
        let address = address.into();
        Gateway { inner: Arc::new(Inner { tokens, policies, nodes, address }), sessions }
    }

    /// Answers a request; a stream goes on as a session of its own.
    pub async fn answer(self, peer: Peer, request: Request<Incoming>) -> Reply {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let mut asker = Asker { peer: peer.address, user: None };
        match self.serve(&peer, &mut asker, request).await {
            Ok(reply) => {
                let path = harmless(&path, REASON_BYTES);
                debug!("{}: {method} {path}: {}", peer.address, reply.status());
                reply
            }
            Err(refusal) => {
                let refusals = &self.sessions.refusals;
                refusals.log(&asker, method.as_str(), &path, refusal.code, refusal.words());
                refusal.reply()
            }
        }
    }

    async fn serve(
        &self,
        peer: &Peer,
        asker: &mut Asker,
        mut request: Request<Incoming>,
    ) -> Result<Reply, Refusal> {
        let inner = &*self.inner;
        let path = request.uri().path().to_owned();
        let route = Route::parse(&path);
        if route == Ok(Route::Health) {
            return Ok(crate::status::text(200, "ok"));
        }
        let attributes = match &route {
            Ok(route) => route.attributes(request.method(), &path),
            Err(_) => path_attributes(request.method(), &path),
        };
        let user = self.who(peer, asker, request.headers_mut(), &attributes).await?;
        peer.known();
        // Only who may ask for it learns that a path is nothing; only one that can be read is
        // somebody's to allow.
        if !matches!(&route, Err(refusal) if refusal.code == 400) {
            demand(&inner.policies, &user, &attributes).await?;
        }
        let route = route?;
        if let Route::Exec { namespace, name }
        | Route::Attach { namespace, name }
        | Route::PortForward { namespace, name } = &route
        {
            if !matches!(*request.method(), Method::GET | Method::POST) {
                return Err(Refusal::method_not_allowed());
            }
            self.demand_create(&user, &attributes, &request).await?;
            let (nodes, sessions) = (&inner.nodes, &self.sessions);
            let verb = match route {
                Route::Exec { .. } => Verb::Exec,
                Route::Attach { .. } => Verb::Attach,
                _ => {
                    let session = self.admit(asker.record("portforward", namespace, name))?;
                    return forward::port_forward(nodes, sessions, session, request).await;
                }
            };
            let session = self.admit(asker.record(verb.word(), namespace, name))?;
            return stream::remote_command(verb, nodes, sessions, session, request).await;
        }
        if request.method() != Method::GET {
            return Err(Refusal::method_not_allowed());
        }
        if let Route::Log { namespace, name } = &route {
            let session = self.admit(asker.record("log", namespace, name))?;
            return logs::answer(&inner.nodes, &self.sessions, session, query(&request)).await;
        }
        let accept = request.headers().get(http::header::ACCEPT);
        let asked = Asked {
            query: query(&request),
            accept: accept.and_then(|accept| accept.to_str().ok()).unwrap_or_default(),
            address: &inner.address,
        };
        api::answer(&inner.nodes.cluster, &route, asked)
    }

    fn admit(&self, record: Record) -> Result<Pending, Refusal> {
        self.sessions.admit(record).map_err(Refusal::too_many_requests)
    }

    /// As whom the request runs. What it says of that is taken out of its headers.
    async fn who(
        &self,
        peer: &Peer,
        asker: &mut Asker,
        headers: &mut HeaderMap,
        attributes: &Attributes,
    ) -> Result<User, Refusal> {
        let claims = identity::take(headers);
        let token = claims.token.map_err(|error| Refusal::unauthorized(error.to_string()))?;
        let credentials =
            Credentials { certificate: peer.identity.as_ref(), token: token.as_ref() };
        let user = self.inner.tokens.authenticate(credentials).await;
        // As kube-apiserver: whom nobody can name now is nobody now. The log knows why.
        let unasked = |error| Refusal::unauthorized(format!("cannot be authenticated: {error}"));
        let nobody = if token.is_some() { "an unknown token" } else { "no credentials" };
        let user = user.map_err(unasked)?.ok_or_else(|| Refusal::unauthorized(nobody))?;
        asker.user = Some(subject(&user, None));
        let wanted = claims.impersonation;
        let wanted = wanted.map_err(|error| Refusal::bad_request(error.to_string()))?;
        let Some(wanted) = wanted else { return Ok(user) };
        let other = wanted.assume(&user, attributes, &self.inner.policies).await?;
        asker.user = Some(subject(&other, Some(user.name)));
        Ok(other)
    }

    /// A WebSocket is a GET, and a GET must not be enough to run commands (since 1.35).
    async fn demand_create(
        &self,
        user: &User,
        attributes: &Attributes,
        request: &Request<Incoming>,
    ) -> Result<(), Refusal> {
        let lines = bowline_io::http::lines(request.headers());
        let websocket = negotiate::asked(Lines(&lines)) == Some(Carrier::WebSocket);
        let gate = Gate::AuthorizePodWebsocketUpgradeCreatePermission;
        if !websocket && request.method() == Method::POST || !self.inner.nodes.gates.is_on(gate) {
            return Ok(());
        }
        demand(&self.inner.policies, user, &attributes.with_verb("create")).await
    }
}

fn subject(user: &User, by: Option<String>) -> Subject {
    Subject { name: user.name.clone(), groups: user.groups.clone(), by }
}
