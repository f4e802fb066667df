//! The walk of a request: who, what, may it, and then the answer.
//! Above: `bowline gateway`, `bowline dev`. Below: `authn`, `authz`, `route`, `api`,
//! `stream`, `forward`, `logs`.

use std::sync::Arc;

use bowline_io::serve::{Peer, Reply, Sessions};
use bowline_io::target::query;
use bowline_proto::negotiate::{self, Lines};
use bowline_proto::session::protocol::Carrier;
use http::{HeaderMap, Method, Request};
use hyper::body::Incoming;
use tracing::debug;

use crate::api::{self, Asked};
use crate::authn::{self, Tokens, User};
use crate::authz::{Deed, Policies};
use crate::far::Nodes;
use crate::forward;
use crate::logs;
use crate::options::Verb;
use crate::route::Route;
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
        let what = format!("{} {}", request.method(), request.uri().path());
        match self.serve(&peer, request).await {
            Ok(reply) => reply,
            Err(refusal) => {
                debug!("{}: {what}: {} {}", peer.address, refusal.code, refusal.message);
                refusal.reply()
            }
        }
    }

    async fn serve(&self, peer: &Peer, mut request: Request<Incoming>) -> Result<Reply, Refusal> {
        let inner = &*self.inner;
        let path = request.uri().path().to_owned();
        let route = Route::parse(&path);
        if route == Ok(Route::Health) {
            return Ok(crate::status::text(200, "ok"));
        }
        let user = self.who(peer, request.headers_mut())?;
        let route = route?;
        let deed = route.deed(request.method(), &path);
        self.demand(&user, &deed)?;
        if let Route::Exec { namespace, name }
        | Route::Attach { namespace, name }
        | Route::PortForward { namespace, name } = &route
        {
            if !matches!(*request.method(), Method::GET | Method::POST) {
                return Err(Refusal::method_not_allowed());
            }
            self.demand_create(&user, &deed, &request)?;
            let (nodes, sessions) = (&inner.nodes, &self.sessions);
            let verb = match route {
                Route::Exec { .. } => Verb::Exec,
                Route::Attach { .. } => Verb::Attach,
                _ => {
                    return forward::port_forward(nodes, sessions, namespace, name, request).await;
                }
            };
            return stream::remote_command(verb, nodes, sessions, namespace, name, request).await;
        }
        if request.method() != Method::GET {
            return Err(Refusal::method_not_allowed());
        }
        if let Route::Log { namespace, name } = &route {
            return logs::answer(&inner.nodes, namespace, name, query(&request)).await;
        }
        let accept = request.headers().get(http::header::ACCEPT);
        let asked = Asked {
            query: query(&request),
            accept: accept.and_then(|accept| accept.to_str().ok()).unwrap_or_default(),
            address: &inner.address,
        };
        api::answer(&inner.nodes.cluster, &route, asked)
    }

    fn who(&self, peer: &Peer, headers: &mut HeaderMap) -> Result<User, Refusal> {
        let user = authn::authenticate(&self.inner.tokens, peer.identity.as_ref(), headers);
        let user = user.ok_or_else(Refusal::unauthorized)?;
        let Some(other) = authn::impersonated(headers) else { return Ok(user) };
        let act = |resource: &'static str, name: &str| Deed::Resource {
            verb: "impersonate",
            resource,
            namespace: String::new(),
            name: name.to_owned(),
        };
        self.demand(&user, &act("users", &other.name))?;
        for group in headers.get_all("impersonate-group") {
            self.demand(&user, &act("groups", group.to_str().unwrap_or_default()))?;
        }
        Ok(other)
    }

    fn demand(&self, user: &User, deed: &Deed) -> Result<(), Refusal> {
        if self.inner.policies.allow(user, deed) {
            return Ok(());
        }
        let why = deed.refusal(user);
        Err(match deed {
            Deed::Resource { resource, name, .. } => {
                let kind = resource.split('/').next().unwrap_or(resource);
                Refusal::forbidden(kind, name, &why)
            }
            Deed::Path(_) => Refusal::forbidden("", "", &why),
        })
    }

    /// A WebSocket is a GET, and a GET must not be enough to run commands (since 1.35).
    fn demand_create(
        &self,
        user: &User,
        deed: &Deed,
        request: &Request<Incoming>,
    ) -> Result<(), Refusal> {
        let Deed::Resource { resource, namespace, name, .. } = deed else { return Ok(()) };
        let lines = bowline_io::http::lines(request.headers());
        let websocket = negotiate::asked(Lines(&lines)) == Some(Carrier::WebSocket);
        let gate = "AuthorizePodWebsocketUpgradeCreatePermission";
        if !websocket && request.method() == Method::POST || !self.inner.nodes.gates.is_on(gate) {
            return Ok(());
        }
        let (namespace, name) = (namespace.clone(), name.clone());
        let create = Deed::Resource { verb: "create", resource, namespace, name };
        self.demand(user, &create)
    }
}
