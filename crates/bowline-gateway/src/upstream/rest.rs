//! Everything that is no stream of a pod, to an API server: a request and its answer are passed on
//! as they come, but for the headers that are of one connection alone.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bowline_io::pool::{Pool, PoolError};
use bowline_io::request_target::{BadPath, parts, query};
use bowline_io::serve::{Body, Reply, Sessions};
use bowline_io::text::sanitized;
use bowline_proto::limits::REASON_BYTES;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use url::Url;

use super::headers::{Origin, leave_answer_connection, leave_connection, say_origin};
use super::redirects::{Redirect, judge};
use super::{ApiServer, no_credentials, unreachable, unreachable_because, upgrades};
use crate::components::{Answer, Caller};
use crate::rest::{NearLeg, Rest};
use crate::route::Route;
use crate::status::Refusal;

/// The words of an API server for a backend that redirects.
const REDIRECTS: &str = "the backend attempted to redirect this request, which is not permitted";

impl Rest for Arc<ApiServer> {
    fn is_whole(&self) -> bool {
        true
    }

    fn answer<'a>(
        &'a self,
        caller: &'a Caller,
        route: &'a Route,
        request: Request<Incoming>,
        sessions: &'a Sessions,
    ) -> Answer<'a, Reply> {
        Box::pin(async move {
            self.demand_prefix(request.uri().path())?;
            self.demand_believed(&caller.onward).await?;
            // A tunnel to wherever the client says is not the API server's; and what answers a
            // TRACE on the way would show the client what it was sent with.
            if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
                return Err(Refusal::method_not_allowed());
            }
            let near = request.extensions().get::<NearLeg>().cloned().unwrap_or_default();
            if upgrades::is_upgrade(request.headers()) {
                // In memory of its own, which all other requests have no need of.
                return Box::pin(upgrades::pass(self, caller, &near, request, sessions)).await;
            }
            let place =
                if is_long(route, &request) { Some(self.long_place(caller)?) } else { None };
            let target = request.uri().clone();
            let asked = self.asked(caller, &near, request)?;
            let sent = self.pool(caller).send(asked).await;
            let mut answer = sent.map_err(|error| {
                self.note_no_answer(&error);
                refusal(&error)
            })?;
            // Nobody has asked for another protocol, so the client must not believe in one.
            if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                return Err(bad_answer("it switched protocols"));
            }
            *answer.version_mut() = Version::HTTP_11;
            answer.extensions_mut().clear();
            leave_answer_connection(answer.headers_mut());
            if answer.status().is_redirection() {
                let judged =
                    self.judge_redirect(answer.headers_mut(), caller, target.path(), &near);
                Box::pin(judged).await?;
            }
            let is_watch = place.is_some() && is_watch(route, &target);
            let answer = match place {
                None => answer.map(BodyExt::boxed_unsync),
                // Its place is free again when the body is dropped.
                Some(place) => answer.map(|body| {
                    let held = move |frame| {
                        let _held = &place;
                        frame
                    };
                    body.map_frame(held).boxed_unsync()
                }),
            };
            // A watch has no end of its own, and its client begins another one. It is ended behind
            // an event, where those can be told apart.
            if is_watch && is_in_lines(answer.headers()) {
                return Ok(answer.map(|body| sessions.until_closing(body, true)));
            }
            Ok(answer)
        })
    }
}

impl ApiServer {
    /// Refuses a path that could lead out of the one in front of the API.
    pub(super) fn demand_prefix(&self, path: &str) -> Result<(), Refusal> {
        let is_bad = !self.prefix.is_empty() && parts(path) == Err(BadPath::NotClean);
        if is_bad { Err(Refusal::no_such_path()) } else { Ok(()) }
    }

    pub(super) fn pool(&self, caller: &Caller) -> &Pool {
        if caller.onward.own_identity { &self.own_pool } else { &self.bare_pool }
    }

    /// Makes the request as it goes to the API server.
    fn asked(
        &self,
        caller: &Caller,
        near: &NearLeg,
        mut request: Request<Incoming>,
    ) -> Result<Request<Body>, Refusal> {
        let authority = request.uri().authority().map(|it| HeaderValue::try_from(it.as_str()));
        let authority = authority.and_then(Result::ok);
        pass_headers(request.headers_mut(), authority, caller, near);
        for (name, value) in &caller.onward.headers {
            request.headers_mut().append(name, value.clone());
        }
        if !self.prefix.is_empty() {
            let target = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
            let target = PathAndQuery::try_from(format!("{}{target}", self.prefix));
            let target = target.map_err(|_| Refusal::bad_request("the path is too long"))?;
            *request.uri_mut() = target.into();
        }
        *request.version_mut() = Version::HTTP_11;
        Ok(request.map(|body| body.map_err(io::Error::other).boxed_unsync()))
    }

    /// Refuses an answer that redirects to another server, and has others redirect to where the
    /// client finds it.
    pub(super) async fn judge_redirect(
        &self,
        headers: &mut HeaderMap,
        caller: &Caller,
        path: &str,
        near: &NearLeg,
    ) -> Result<(), Refusal> {
        let Some(location) = headers.get(header::LOCATION) else { return Ok(()) };
        let refused = || Refusal { reason: "", ..Refusal::of_node(502, REDIRECTS) };
        let location = location.to_str().map_err(|_| refused())?;
        let (upstream, ..) = self.way(&caller.onward).await?;
        let scheme = if upstream.endpoint.tls.is_some() { "https" } else { "http" };
        let base = Url::parse(&format!("{scheme}://{}{}{path}", upstream.host(), self.prefix));
        let base = base.map_err(|_| refused())?;
        match judge(location, &base, path, &self.prefix, &near.prefix) {
            Redirect::Refused => Err(refused()),
            Redirect::To(location) => {
                let location = HeaderValue::try_from(location).map_err(|_| refused())?;
                headers.insert(header::LOCATION, location);
                Ok(())
            }
        }
    }

    /// Takes a place for an answer that may last for hours, so that those leave room for others.
    fn long_place(&self, caller: &Caller) -> Result<LongPlace, Refusal> {
        let most = self.pool(caller).capacity() / 2;
        let place = LongPlace(self.long_answers.clone());
        if place.0.fetch_add(1, Ordering::Relaxed) >= most {
            let text = "too many watches and logs are being read, please try again later";
            return Err(Refusal { code: 429, reason: "TooManyRequests", ..unreachable(text) });
        }
        Ok(place)
    }
}

/// Makes the headers of a request those that are passed on, without what says who asks.
/// `authority` is that of the request, where it has one beside its headers.
pub(super) fn pass_headers(
    headers: &mut HeaderMap,
    authority: Option<HeaderValue>,
    caller: &Caller,
    near: &NearLeg,
) {
    let host = headers.remove(header::HOST);
    let host = authority.or(host);
    // Before anything is added: nobody can have that taken away.
    leave_connection(headers);
    let address = caller.requester.peer.ip();
    say_origin(headers, Origin { address, is_tls: near.is_tls, host: host.as_ref() });
}

/// One of the answers that may last for hours.
#[derive(Debug)]
struct LongPlace(Arc<AtomicUsize>);

impl Drop for LongPlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether a target is one of a watch. What is behind a proxy has words of its own.
fn is_watch(route: &Route, target: &Uri) -> bool {
    let is_other = matches!(route, Route::Log { .. }) || target.path().contains("/proxy");
    if is_other || !target.path().starts_with("/api") {
        return false;
    }
    let mut options = form_urlencoded::parse(target.query().unwrap_or_default().as_bytes());
    target.path().contains("/watch/")
        || options.any(|(key, value)| key == "watch" && value != "0" && value != "false")
}

/// Whether each event of a watch is a line: in JSON that is not compressed.
fn is_in_lines(headers: &HeaderMap) -> bool {
    let is_json = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
    is_json && !headers.contains_key(header::CONTENT_ENCODING)
}

/// Whether an answer may last for hours, as API servers decide it.
fn is_long<B>(route: &Route, request: &Request<B>) -> bool {
    let follows = |name: &[u8]| {
        let mut options = form_urlencoded::parse(query(request).as_bytes());
        options.any(|(key, value)| key.as_bytes() == name && value != "0" && value != "false")
    };
    let mut names = request.uri().path().split('/').skip(1);
    match route {
        Route::Log { .. } => follows(b"follow"),
        _ => names.any(|name| matches!(name, "watch" | "proxy")) || follows(b"watch"),
    }
}

/// Makes the client's answer of why there is none. Only what was certainly not begun may be tried
/// again at once, which clients do by themselves.
fn refusal(error: &PoolError) -> Refusal {
    match error {
        PoolError::Access(error) => no_credentials(error),
        PoolError::Request(error) => Refusal::bad_request(error.to_string()),
        PoolError::Busy => unreachable(error.to_string()),
        PoolError::Dial(error) => unreachable_because(&**error),
        PoolError::Http(_) | PoolError::Http2(_) | PoolError::Broken(_) | PoolError::Silent => {
            bad_answer(&error.to_string())
        }
    }
}

fn bad_answer(why: &str) -> Refusal {
    let why = sanitized(why, REASON_BYTES);
    let message = format!("the API server gave no answer: {why}");
    Refusal { reason: "", ..Refusal::of_node(502, message) }
}
