//! The kubelet's streaming endpoints and its logs: requests to sessions, with its rules, texts and
//! codes.

mod answers;
mod parameters;
mod route;

use std::sync::Arc;

use bowline_io::chance;
use bowline_io::http::lines;
use bowline_io::local;
use bowline_io::record::{Asker, End, Pending, Record, Subject};
use bowline_io::serve::{Peer, Reply, Sessions, has_body, upgraded};
use bowline_io::target::query;
use bowline_io::text::harmless;
use bowline_proto::extension::REPLAY;
use bowline_proto::limits::REASON_BYTES;
use bowline_proto::negotiate::{
    Accepted, Lines, Refusal, Taken, accept, accept_forward, asked, asks_for_tunnel,
};
use bowline_proto::portforward::{Forward, OverSpdy, OverWebSocket};
use bowline_proto::session::protocol::{Carrier, FORWARD_SPDY, FORWARD_TUNNEL};
use bowline_proto::session::{Side, Wants};
use bowline_proto::tunnel::Wire;
use bowline_proto::websocket::Role;
use http::{HeaderValue, Method, Request, Response, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tracing::debug;

use self::answers::{Plain, forbidden, not_found, refuse, set_headers, switch, text, too_many};
use self::parameters::{parameters, ports, replay};
use self::route::{Named, Route, route};
use crate::admitted::Admitted;
use crate::attach::Attach;
use crate::forward::{self, HostPod, Slots};
use crate::lines::{LogLines, Options};
use crate::runtime::{Container, Exec, NotFound, Runtime};
use crate::session::{self, Command};

/// A kubelet's streaming side.
#[derive(Clone, Debug)]
pub struct Kubelet {
    /// What runs here.
    pub runtime: Arc<Runtime>,
    /// The sessions, and their end.
    pub sessions: Sessions,
    /// Who may, by the certificate that a client has to show; `None` asks nobody.
    pub admitted: Option<Admitted>,
    /// What port-forwards may hold.
    pub forwards: Slots,
}

impl Kubelet {
    /// Answers a request; a stream goes on as a session of its own.
    pub async fn answer(self, peer: Peer, request: Request<Incoming>) -> Reply {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let user = peer.identity.as_ref().map(|identity| Subject {
            name: identity.user.clone(),
            groups: identity.groups.clone(),
            by: None,
        });
        let asker = Asker { peer: peer.address, user };
        match self.serve(&peer, &asker, request) {
            Ok(reply) => {
                let path = harmless(&path, REASON_BYTES);
                debug!("{}: {method} {path}: {}", peer.address, reply.status());
                reply
            }
            Err(plain) => {
                let why = if plain.cause.is_empty() { &plain.text } else { &plain.cause };
                self.sessions.refusals.log(&asker, method.as_str(), &path, plain.code, why);
                refuse(&plain)
            }
        }
    }

    fn serve(
        &self,
        peer: &Peer,
        asker: &Asker,
        request: Request<Incoming>,
    ) -> Result<Reply, Plain> {
        if self.admitted.is_none() {
            local::check(&request).map_err(|error| Plain::new(403, error.to_string()))?;
        }
        let route = route(request.uri().path())?;
        if route == Route::Healthz {
            return Ok(text(200, "ok"));
        }
        self.admit(peer, request.method())?;
        peer.known();
        if !matches!(*request.method(), Method::GET | Method::POST) {
            return Err(Plain::new(405, "405: Method Not Allowed"));
        }
        match route {
            Route::Healthz => Ok(text(200, "ok")),
            Route::Exec(named) => self.exec(asker, request, &named),
            Route::Attach(named) => self.attach(asker, request, &named),
            Route::Logs(named) => self.logs(asker, &request, &named),
            Route::PortForward { namespace, pod, uid } => {
                let record = asker.record("portforward", &namespace, &pod);
                self.port_forward(record, request, uid.as_deref())
            }
        }
    }

    fn admit_session(&self, record: Record) -> Result<Pending, Plain> {
        self.sessions.admit(record).map_err(too_many)
    }

    fn admit(&self, peer: &Peer, method: &Method) -> Result<(), Plain> {
        let Some(admitted) = &self.admitted else { return Ok(()) };
        let identity = peer.identity.as_ref();
        let identity = identity.ok_or_else(|| Plain::new(401, "Unauthorized"))?;
        if admitted.admits(identity) {
            return Ok(());
        }
        Err(Plain::new(403, forbidden(&identity.user, method)))
    }

    fn port_forward(
        &self,
        record: Record,
        request: Request<Incoming>,
        uid: Option<&str>,
    ) -> Result<Reply, Plain> {
        let mut session = self.admit_session(record)?;
        let ports = {
            let lines = lines(request.headers());
            let channels =
                asked(Lines(&lines)) == Some(Carrier::WebSocket) && !asks_for_tunnel(Lines(&lines));
            if channels { ports(query(&request))? } else { Vec::new() }
        };
        let (namespace, pod) = (&session.record.namespace, &session.record.pod);
        let found = self.runtime.pod(namespace, pod, None);
        let found = found.map_err(|missing| Plain::new(404, missing.to_string()))?;
        if uid.is_some_and(|uid| uid != found.spec().uid) {
            return Err(Plain::new(404, "pod not found"));
        }
        let accepted = negotiate(&request, accept_forward)?;
        let reply = switch(&accepted);
        let slots = self.forwards.clone();
        let most = slots.each();
        let pod = HostPod { name: format!("{namespace}/{pod}"), slots };
        let (protocol, end) = (accepted.protocol, self.sessions.end.clone());
        session.record.near = protocol.spoken();
        let running = session.begin();
        self.sessions.spawn(async move {
            let forward = if *protocol == FORWARD_TUNNEL {
                let wire = Wire::tunnel(Role::Server, chance::bytes());
                Forward::Spdy(OverSpdy::new(Side::Server, wire))
            } else if *protocol == FORWARD_SPDY {
                Forward::Spdy(OverSpdy::new(Side::Server, Wire::plain()))
            } else {
                Forward::WebSocket(OverWebSocket::new(protocol, &ports))
            };
            let (ended, traffic) = match upgraded(request).await {
                Ok(connection) => {
                    let (ended, traffic) = forward::run(pod, forward, connection, most, end).await;
                    (ended, Some(traffic))
                }
                Err(error) => (End::ClientGone(error.to_string()), None),
            };
            running.end(ended, traffic);
        });
        Ok(reply)
    }

    fn exec(
        &self,
        asker: &Asker,
        request: Request<Incoming>,
        named: &Named,
    ) -> Result<Reply, Plain> {
        let (words, wants) = parameters(query(&request))?;
        let container = self.running(named).map_err(|missing| not_found(&missing))?;
        let command = words.clone();
        let record = Record { command, ..named.record("exec", asker) };
        let exec = Exec { runtime: self.runtime.clone(), container, words, wants };
        self.session(record, request, exec, wants, &[])
    }

    fn attach(
        &self,
        asker: &Asker,
        request: Request<Incoming>,
        named: &Named,
    ) -> Result<Reply, Plain> {
        let (_, wants) = parameters(query(&request))?;
        let replay = replay(query(&request))?;
        let container = self.running(named).map_err(|missing| match missing {
            // The kubelet's words for it differ from those of exec.
            NotFound::Container(name) => Plain::new(
                500,
                format!("container {name} not found in pod {}_{}", named.pod, named.namespace),
            ),
            missing => not_found(&missing),
        })?;
        let attach = Attach::new(container, wants, replay);
        let attach = attach.map_err(|mismatch| Plain::new(400, mismatch.to_string()))?;
        // Whoever asks for lines must know whether it was heard.
        let heard: Vec<_> =
            replay.iter().map(|lines| (REPLAY.answered, lines.to_string())).collect();
        self.session(named.record("attach", asker), request, attach, wants, &heard)
    }

    fn logs(
        &self,
        asker: &Asker,
        request: &Request<Incoming>,
        named: &Named,
    ) -> Result<Reply, Plain> {
        if *request.method() != Method::GET {
            return Err(Plain::new(405, "405: Method Not Allowed"));
        }
        let options = Options::parse(query(request));
        let options = options.map_err(|bad| Plain::new(400, bad.to_string()))?;
        let Named { namespace, pod, uid, container } = named;
        let found = self.runtime.container(namespace, pod, uid.as_deref(), container);
        let found = found.map_err(|missing| Plain::new(404, missing.to_string()))?;
        if options.previous {
            // Nothing is started again here.
            let text =
                format!("previous terminated container {container:?} in pod {pod:?} not found");
            return Err(Plain::new(400, text));
        }
        let session = self.admit_session(named.record("log", asker))?;
        let place = self.sessions.lasting().map_err(too_many)?;
        let lines = LogLines::of(&found, options).boxed_unsync();
        let running = session.begin();
        let mut reply = Response::new(running.body(lines, place, self.sessions.end.clone()));
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        reply.headers_mut().insert(http::header::CONTENT_TYPE, plain);
        Ok(reply)
    }

    fn running(&self, named: &Named) -> Result<Arc<Container>, NotFound> {
        let Named { namespace, pod, uid, container } = named;
        self.runtime.find(namespace, pod, uid.as_deref(), container)
    }

    /// Upgrades a request to a session that runs `command`.
    fn session<C>(
        &self,
        record: Record,
        request: Request<Incoming>,
        command: C,
        wants: Wants,
        headers: &[(&'static str, String)],
    ) -> Result<Reply, Plain>
    where
        C: Command + Send + 'static,
        C::Process: Send,
    {
        let mut session = self.admit_session(record)?;
        let taken = Taken { websocket_v5: true };
        let accepted = negotiate(&request, |method, lines| accept(method, lines, taken))?;
        let mut reply = switch(&accepted);
        set_headers(&mut reply, headers);
        let (protocol, end) = (accepted.protocol, self.sessions.end.clone());
        session.record.near = protocol.spoken();
        let running = session.begin();
        self.sessions.spawn(async move {
            let (ended, traffic) = match upgraded(request).await {
                Ok(connection) => {
                    let (ended, traffic) =
                        session::run(command, wants, protocol, connection, end).await;
                    (ended, Some(traffic))
                }
                Err(error) => (End::ClientGone(error.to_string()), None),
            };
            running.end(ended, traffic);
        });
        Ok(reply)
    }
}

fn negotiate(
    request: &Request<Incoming>,
    accept: impl Fn(&str, Lines<'_>) -> Result<Accepted, Refusal>,
) -> Result<Accepted, Plain> {
    if has_body(request.headers()) || request.version() != Version::HTTP_11 {
        return Err(Plain::new(400, "an upgrade is a request of HTTP/1.1 without a body"));
    }
    let lines = lines(request.headers());
    accept(request.method().as_str(), Lines(&lines)).map_err(|refusal| {
        // The kubelet answers every request without an upgrade so (docs/protocols/endpoints.md,
        // 1.2).
        let code = if refusal == Refusal::NoUpgrade { 500 } else { refusal.code() };
        let cause = refusal.to_string();
        let text = if refusal.is_bare() { String::new() } else { cause.clone() };
        Plain { code, text, headers: refusal.headers(), cause }
    })
}
