//! The kubelet's streaming endpoints and its logs: requests to sessions, with its rules, texts and
//! codes.

mod access;
mod parameters;
mod route;
mod stream;

use std::sync::Arc;

use bowline_io::auth::User;
use bowline_io::auth::headers::take_token;
use bowline_io::local;
use bowline_io::record::{End, Pending, Record, Requester, Subject};
use bowline_io::request_target::query;
use bowline_io::serve::{Peer, Reply, Sessions, body};
use bowline_io::text::sanitized;
use bowline_proto::limits::REASON_BYTES;
use bowline_proto::session::Outcome;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tracing::debug;

pub use self::access::Access;
use self::access::Denied;
use self::parameters::run_command;
use self::route::{Route, record, route};
use crate::answers::{refuse, too_many};
use crate::forward::Slots;
use crate::health::Readiness;
use crate::kept::Keeper;
use crate::lines::LogLines;
use crate::log_options::Options;
use crate::runtime::{Refusal, Runtime, Target};

/// The kubelet's streaming endpoints and its logs, over one runtime.
#[derive(Clone, Debug)]
pub struct Kubelet {
    /// The runtime of this node.
    pub runtime: Arc<dyn Runtime>,
    /// The sessions of this node, and what ends them all.
    pub sessions: Sessions,
    /// Who may use the node; `None` is everybody who reaches it.
    pub access: Option<Access>,
    /// How many connections port-forwards may have.
    pub forwards: Slots,
    /// The commands whose clients can go and come back.
    pub keeper: Keeper,
    /// Whether its runtime is there.
    pub readiness: Readiness,
}

impl Kubelet {
    /// Answers a request. A stream goes on as a task of `sessions` after the answer.
    ///
    /// Dropped before it has answered, it starts no session.
    pub async fn answer(self, peer: Peer, request: Request<Incoming>) -> Reply {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let mut requester = Requester::at(peer.address);
        match self.serve(&peer, &mut requester, request).await {
            Ok(reply) => {
                let path = sanitized(&path, REASON_BYTES);
                debug!("{}: {method} {path}: {}", peer.address, reply.status());
                reply
            }
            Err(refusal) => {
                let Refusal { code, text, cause, .. } = &refusal;
                let why = if cause.is_empty() { text } else { cause };
                self.sessions.refusals.log(&requester, method.as_str(), &path, *code, why);
                refuse(&refusal)
            }
        }
    }

    async fn serve(
        &self,
        peer: &Peer,
        requester: &mut Requester,
        mut request: Request<Incoming>,
    ) -> Result<Reply, Refusal> {
        if self.access.is_none() {
            local::check(&request).map_err(|error| Refusal::new(403, error.to_string()))?;
        }
        let route = route(request.uri().path());
        if let Ok(Route::Health(question)) = &route {
            return self.readiness.answer(*question).await;
        }
        self.admit(peer, requester, &mut request, route.as_ref().ok()).await?;
        peer.mark_authenticated();
        // Only those who may use the node learn that nothing is there.
        let route = route?;
        if !matches!(*request.method(), Method::GET | Method::POST) {
            return Err(Refusal::new(405, "405: Method Not Allowed"));
        }
        match route {
            Route::Health(question) => self.readiness.answer(question).await,
            Route::Exec(target) => self.exec(requester, request, &target).await,
            Route::Attach(target) => self.attach(requester, request, &target).await,
            Route::Run(target) => self.run(requester, &request, &target).await,
            Route::Logs(target) => self.logs(requester, &request, &target).await,
            Route::PortForward(target) => self.port_forward(requester, request, &target).await,
        }
    }

    /// Takes the request's token out of it, and asks who it is and whether they may.
    async fn admit(
        &self,
        peer: &Peer,
        requester: &mut Requester,
        request: &mut Request<Incoming>,
        route: Option<&Route>,
    ) -> Result<(), Refusal> {
        let method = request.method().clone();
        let Some(access) = &self.access else {
            // Nobody is asked for one; it travels on to nobody either.
            let _unread = take_token(request.headers_mut());
            return Ok(());
        };
        let admitted = access.admit(peer, request.headers_mut(), route, &method).await;
        let (user, result) = match admitted {
            Ok(user) => (Some(user), Ok(())),
            Err(Denied { user, refusal }) => (user, Err(refusal)),
        };
        requester.user = user.map(|User { name, groups, .. }| Subject { name, groups, by: None });
        result
    }

    fn admit_session(&self, record: Record) -> Result<Pending, Refusal> {
        self.sessions.admit(record).map_err(too_many)
    }

    /// Runs a command to its end, and answers with what it wrote. The type is the kubelet's, though
    /// the answer is no JSON.
    async fn run(
        &self,
        requester: &Requester,
        request: &Request<Incoming>,
        target: &Target,
    ) -> Result<Reply, Refusal> {
        if *request.method() != Method::POST {
            return Err(Refusal::new(405, "405: Method Not Allowed"));
        }
        let command = run_command(query(request));
        let record = Record { command: command.clone(), ..record("run", requester, target) };
        let running = self.admit_session(record)?.begin();
        let ran = self.runtime.run(target, command).await;
        running.end(End::Outcome(outcome(&ran)), None);
        let mut reply = Response::new(body(ran?));
        let json = HeaderValue::from_static("application/json");
        reply.headers_mut().insert(http::header::CONTENT_TYPE, json);
        Ok(reply)
    }

    async fn logs(
        &self,
        requester: &Requester,
        request: &Request<Incoming>,
        target: &Target,
    ) -> Result<Reply, Refusal> {
        if *request.method() != Method::GET {
            return Err(Refusal::new(405, "405: Method Not Allowed"));
        }
        let options = Options::parse(query(request))?;
        let session = self.admit_session(record("log", requester, target))?;
        let log = self.runtime.logs(target, options.request).await?;
        let place = self.sessions.long_answer().map_err(too_many)?;
        let lines = LogLines::new(&target.container, log, options).boxed_unsync();
        let running = session.begin();
        let mut reply = Response::new(running.body(lines, place, self.sessions.end.clone()));
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        reply.headers_mut().insert(http::header::CONTENT_TYPE, plain);
        Ok(reply)
    }
}

/// How a command that was run to its end came out, for the log.
fn outcome(ran: &Result<Bytes, Refusal>) -> Outcome {
    match ran {
        Ok(_) => Outcome::Success,
        Err(Refusal { text, code, .. }) => {
            Outcome::Failed { message: text.clone(), code: Some(*code), reason: String::new() }
        }
    }
}
