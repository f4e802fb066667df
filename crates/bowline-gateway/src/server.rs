//! A request to its answer: what it asks for, who asks, whether they may, and then who answers.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bowline_io::auth::Attributes;
use bowline_io::drive::Bounds;
use bowline_io::record::{Pending, Record, Requester};
use bowline_io::request_target::{BadPath, query};
use bowline_io::serve::{Peer, Phase, Reply, Sessions};
use bowline_io::text::sanitized;
use bowline_proto::limits::REASON_BYTES;
use http::{HeaderMap, Method, Request, header};
use hyper::body::Incoming;
use tracing::{Level, debug, enabled};

use crate::components::{Caller, Components};
use crate::forward;
use crate::gates::{Gate, Gates};
use crate::options::Verb;
use crate::rest::NearLeg;
use crate::route::{Route, kubelet_stream, path_attributes};
use crate::status::Refusal;
use crate::stream;
use crate::upstream::unreachable;
use crate::{kept, logs};

/// An API server's streaming endpoints. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Gateway {
    pub(crate) components: Arc<Components>,
    pub(crate) gates: Gates,
    pub(crate) sessions: Sessions,
    pub(crate) living: Living,
}

/// How sessions through a gateway live: how long, how fast, and what keeps them alive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Living {
    /// The bounds of each of them.
    pub bounds: Bounds,
    /// After how long without a byte of its own a client is pinged; `None` is never. Nodes and API
    /// servers are pinged in any case.
    pub ping_every: Option<Duration>,
}

impl Gateway {
    /// Makes a gateway of its components.
    #[must_use]
    pub fn new(components: Components, gates: Gates, sessions: Sessions) -> Gateway {
        let living = Living::default();
        Gateway { components: Arc::new(components), gates, sessions, living }
    }

    /// Sets how its sessions live. Without this they have no bounds, and no client is pinged.
    #[must_use]
    pub fn living(mut self, living: Living) -> Gateway {
        self.living = living;
        self
    }

    /// Finds out whether it can serve streams, as far as that can be known without trying one.
    pub async fn is_ready(&self) -> bool {
        self.sessions.phase() == Phase::Serving && self.components.backend.is_ready().await
    }

    /// Answers a request. A stream goes on as a task of the sessions after the answer.
    ///
    /// Dropped before it has answered, it starts no session.
    pub async fn answer(self, peer: Peer, request: Request<Incoming>) -> Reply {
        self.reply(peer, request).await
    }

    /// The same without a gateway of the request's own, each of which has some counts to keep.
    pub(crate) async fn reply(&self, peer: Peer, mut request: Request<Incoming>) -> Reply {
        request.extensions_mut().get_or_insert_default::<NearLeg>().is_tls = peer.tls;
        let (method, target) = (request.method().clone(), request.uri().clone());
        let mut requester = Requester::at(peer.address);
        let result = self.serve(&peer, &mut requester, request).await;
        // Whom only the API server knows, it knows if it says anything but "unauthorized". What is
        // refused here it was not asked.
        let said = match &result {
            Ok(reply) => Some(reply.status().as_u16()),
            Err(refusal) => refusal.status.is_some().then_some(refusal.code),
        };
        if requester.credential.is_some() && said.is_some_and(|code| code != 401 && code < 500) {
            peer.mark_authenticated();
        }
        match result {
            Ok(reply) => {
                if enabled!(Level::DEBUG) {
                    let path = sanitized(target.path(), REASON_BYTES);
                    debug!("{}: {method} {path}: {}", peer.address, reply.status());
                }
                reply
            }
            Err(refusal) => {
                let refusals = &self.sessions.refusals;
                let (method, path) = (method.as_str(), target.path());
                refusals.log(&requester, method, path, refusal.code, refusal.log_text());
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
        let target = request.uri().clone();
        let path = target.path();
        let Components { callers, rest, .. } = &*self.components;
        // What is no stream is an API server's to allow, where there is one, and so is its health.
        let is_whole = rest.is_whole();
        let route = Route::parse(path);
        if !is_whole && route == Ok(Route::Health) {
            return Ok(crate::status::text(200, "ok"));
        }
        let attributes = match &route {
            Ok(route) => route.attributes(request.method(), path),
            Err(_) => path_attributes(request.method(), path),
        };
        let caller = callers.identify(peer, requester, request.headers_mut(), &attributes).await?;
        if caller.is_authenticated {
            peer.mark_authenticated();
        }
        let is_stream = is_upgrade(request.headers());
        let passed = match &route {
            _ if !is_whole => None,
            Ok(route) => (!route.is_stream()).then_some(Cow::Borrowed(route)),
            // An API server reads it in its own way; but no stream may be hidden in it.
            Err(BadPath::NotClean) if !is_stream => {
                Some(Cow::Owned(Route::Other { path: path.to_owned() }))
            }
            Err(_) => None,
        };
        if let Some(route) = passed {
            if is_stream {
                self.demand_kubelet_stream(&caller, &request).await?;
            }
            request.extensions_mut().insert(self.living);
            return rest.answer(&caller, &route, request, &self.sessions).await;
        }
        // Only those who may ask for a path learn that nothing is there; a path that cannot be read
        // cannot be allowed to anybody.
        if route != Err(BadPath::NotText) {
            callers.demand(&caller, &attributes).await?;
        }
        let route = route.map_err(|bad| match bad {
            BadPath::NotText => Refusal::bad_request(bad.to_string()),
            BadPath::NotClean => Refusal::no_such_path(),
        })?;
        if let Route::Exec { .. }
        | Route::Attach { .. }
        | Route::PortForward { .. }
        | Route::Log { .. } = route
        {
            // In memory of its own, which all other requests have no need of.
            return Box::pin(self.of_pod(&caller, &attributes, &route, requester, request)).await;
        }
        rest.answer(&caller, &route, request, &self.sessions).await
    }

    /// Answers a request for a stream of a pod, or for its log.
    async fn of_pod(
        &self,
        caller: &Caller,
        attributes: &Attributes,
        route: &Route,
        requester: &mut Requester,
        request: Request<Incoming>,
    ) -> Result<Reply, Refusal> {
        match route {
            Route::Exec { namespace, name } => {
                self.demand_stream(caller, attributes, &request).await?;
                let session = self.admit(requester.record("exec", namespace, name))?;
                if kept::is_asked(request.headers()) {
                    return kept::kept(self, caller, session, request).await;
                }
                stream::remote_command(self, caller, Verb::Exec, session, request).await
            }
            Route::Attach { namespace, name } => {
                self.demand_stream(caller, attributes, &request).await?;
                let session = self.admit(requester.record("attach", namespace, name))?;
                stream::remote_command(self, caller, Verb::Attach, session, request).await
            }
            Route::PortForward { namespace, name } => {
                self.demand_stream(caller, attributes, &request).await?;
                let session = self.admit(requester.record("portforward", namespace, name))?;
                forward::port_forward(self, caller, session, request).await
            }
            Route::Log { namespace, name } if request.method() == Method::GET => {
                let session = self.admit(requester.record("log", namespace, name))?;
                let headers = request.headers();
                logs::answer(self, caller, session, query(&request), headers).await
            }
            _ => Err(Refusal::method_not_allowed()),
        }
    }

    fn admit(&self, record: Record) -> Result<Pending, Refusal> {
        // Another one may serve it, at once: that is no matter of how many there are.
        if self.sessions.phase() >= Phase::Closing {
            return Err(unreachable("the gateway is going away"));
        }
        self.sessions.admit(record).map_err(Refusal::too_many_requests)
    }

    /// Demands of an upgrade that leads to a kubelet's streams what one of a pod's needs: there, a
    /// GET would be enough as well.
    async fn demand_kubelet_stream(
        &self,
        caller: &Caller,
        request: &Request<Incoming>,
    ) -> Result<(), Refusal> {
        let gate = Gate::AuthorizePodWebsocketUpgradeCreatePermission;
        let by_get = request.method() != Method::POST && self.gates.is_on(gate);
        match kubelet_stream(request.method(), request.uri().path()).filter(|_| by_get) {
            Some(attributes) => self.components.callers.demand_create(caller, &attributes).await,
            None => Ok(()),
        }
    }

    /// Demands what a stream needs beyond the verb of its method. A WebSocket is a GET, and a GET
    /// must not be enough to run commands (since 1.35). A POST has been allowed by its verb, but
    /// not where an API server allows: there it may become a GET.
    async fn demand_stream(
        &self,
        caller: &Caller,
        attributes: &Attributes,
        request: &Request<Incoming>,
    ) -> Result<(), Refusal> {
        let gate = Gate::AuthorizePodWebsocketUpgradeCreatePermission;
        let needs_more = match *request.method() {
            Method::GET => self.gates.is_on(gate),
            Method::POST => self.components.rest.is_whole(),
            _ => return Err(Refusal::method_not_allowed()),
        };
        if !needs_more {
            return Ok(());
        }
        self.components.callers.demand_create(caller, attributes).await
    }
}

/// Whether a request asks for another protocol on its connection, whichever that is.
fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE)
}
