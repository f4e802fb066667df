//! The kubelet's streaming endpoints and its logs: requests to sessions, with its rules, texts and
//! codes.

use std::sync::Arc;

use bowline_io::chance;
use bowline_io::http::lines;
use bowline_io::local;
use bowline_io::record::{Asker, End, Record, Subject};
use bowline_io::serve::{Peer, Reply, Sessions, body, has_body, upgraded};
use bowline_io::target::{BadPath, Parts, parts, query};
use bowline_io::text::harmless;
use bowline_proto::extension::REPLAY;
use bowline_proto::limits::REASON_BYTES;
use bowline_proto::negotiate::{
    Accepted, Lines, Refusal, Taken, accept, accept_forward, asked, asks_for_tunnel,
};
use bowline_proto::portforward::over_websocket::PORTS;
use bowline_proto::portforward::{Forward, OverSpdy, OverWebSocket};
use bowline_proto::session::protocol::{Carrier, FORWARD_SPDY, FORWARD_TUNNEL};
use bowline_proto::session::{Side, Wants};
use bowline_proto::tunnel::Wire;
use bowline_proto::websocket::Role;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tracing::debug;

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

/// An answer that is no upgrade: plain text, as the kubelet's are.
#[derive(Debug, PartialEq, Eq)]
struct Plain {
    code: u16,
    text: String,
    headers: Vec<(&'static str, String)>,
    /// For the log, where the text does not say it.
    cause: String,
}

impl Plain {
    fn new(code: u16, text: impl Into<String>) -> Plain {
        Plain { code, text: text.into(), headers: Vec::new(), cause: String::new() }
    }
}

/// The part of a URL that says what is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Route {
    Healthz,
    Exec(Named),
    Attach(Named),
    Logs(Named),
    PortForward { namespace: String, pod: String, uid: Option<String> },
}

/// A container, as a URL names it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    namespace: String,
    pod: String,
    uid: Option<String>,
    container: String,
}

impl Named {
    fn record(&self, verb: &'static str, asker: &Asker) -> Record {
        let container = self.container.clone();
        Record { container, ..asker.record(verb, &self.namespace, &self.pod) }
    }
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
        mut record: Record,
        request: Request<Incoming>,
        uid: Option<&str>,
    ) -> Result<Reply, Plain> {
        let ports = {
            let lines = lines(request.headers());
            let channels =
                asked(Lines(&lines)) == Some(Carrier::WebSocket) && !asks_for_tunnel(Lines(&lines));
            if channels { ports(query(&request))? } else { Vec::new() }
        };
        let (namespace, pod) = (&record.namespace, &record.pod);
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
        record.near = protocol.spoken();
        let running = record.begin();
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
            running.end(&ended, traffic);
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
        let place = self.sessions.lasting().ok_or_else(|| {
            let text = "too many logs are being read, please try again later";
            let headers = vec![("Retry-After", "1".to_owned())];
            Plain { headers, ..Plain::new(429, text) }
        })?;
        let lines = LogLines::of(&found, options).boxed_unsync();
        let running = named.record("log", asker).begin();
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
        mut record: Record,
        request: Request<Incoming>,
        command: C,
        wants: Wants,
        headers: &[(&'static str, String)],
    ) -> Result<Reply, Plain>
    where
        C: Command + Send + 'static,
        C::Process: Send,
    {
        let taken = Taken { websocket_v5: true };
        let accepted = negotiate(&request, |method, lines| accept(method, lines, taken))?;
        let mut reply = switch(&accepted);
        set_headers(&mut reply, headers);
        let (protocol, end) = (accepted.protocol, self.sessions.end.clone());
        record.near = protocol.spoken();
        let running = record.begin();
        self.sessions.spawn(async move {
            let (ended, traffic) = match upgraded(request).await {
                Ok(connection) => {
                    let (ended, traffic) =
                        session::run(command, wants, protocol, connection, end).await;
                    (ended, Some(traffic))
                }
                Err(error) => (End::ClientGone(error.to_string()), None),
            };
            running.end(&ended, traffic);
        });
        Ok(reply)
    }
}

/// The kubelet's words. A certificate's name is text of others, and the answer is shown as it is.
fn forbidden(user: &str, method: &Method) -> String {
    let verb = match method.as_str() {
        "POST" => "create",
        "GET" | "HEAD" => "get",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "",
    };
    let user = harmless(user, REASON_BYTES);
    format!("Forbidden (user={user}, verb={verb}, resource=nodes, subresource(s)=[proxy])")
}

fn not_found(missing: &NotFound) -> Plain {
    let code = if *missing == NotFound::Pod { 404 } else { 500 };
    Plain::new(code, missing.to_string())
}

/// The lines that an attach begins with.
fn replay(query: &str) -> Result<Option<usize>, Plain> {
    let asked = form_urlencoded::parse(query.as_bytes()).find(|pair| pair.0 == REPLAY.asked);
    let Some((_, value)) = asked else { return Ok(None) };
    let number = value.parse();
    let bad = |_| Plain::new(400, format!("invalid {} {value:?}: must be a number", REPLAY.asked));
    number.map(Some).map_err(bad)
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

/// `/exec/NAMESPACE/POD/CONTAINER`, or with a uid before the container, and `/attach` likewise;
/// `/containerLogs/NAMESPACE/POD/CONTAINER`; `/portForward/NAMESPACE/POD`, or with a uid behind the
/// pod.
fn route(path: &str) -> Result<Route, Plain> {
    let unknown = || Plain::new(404, "404 page not found");
    let Parts { names, ends_with_slash } = parts(path).map_err(|bad| match bad {
        BadPath::NotText => Plain::new(400, bad.to_string()),
        // The kubelet redirects to a path that may be the right one; no stream follows that.
        BadPath::NotClean => unknown(),
    })?;
    let (verb, parts) = names.split_first().ok_or_else(unknown)?;
    if verb == "healthz" {
        let is_health =
            !ends_with_slash && matches!(parts, [] | [_] if parts.iter().all(|one| one == "ping"));
        return is_health.then_some(Route::Healthz).ok_or_else(unknown);
    }
    let named =
        |namespace: &String, pod: &String, uid: Option<&String>, container: &String| Named {
            namespace: namespace.clone(),
            pod: pod.clone(),
            uid: uid.cloned(),
            container: container.clone(),
        };
    let forward = |namespace: &String, pod: &String, uid: Option<&String>| Route::PortForward {
        namespace: namespace.clone(),
        pod: pod.clone(),
        uid: uid.cloned(),
    };
    match (verb.as_str(), parts) {
        ("exec", [namespace, pod, container]) => {
            Ok(Route::Exec(named(namespace, pod, None, container)))
        }
        ("exec", [namespace, pod, uid, container]) => {
            Ok(Route::Exec(named(namespace, pod, Some(uid), container)))
        }
        ("attach", [namespace, pod, container]) => {
            Ok(Route::Attach(named(namespace, pod, None, container)))
        }
        ("attach", [namespace, pod, uid, container]) => {
            Ok(Route::Attach(named(namespace, pod, Some(uid), container)))
        }
        ("containerLogs", [namespace, pod, container]) => {
            Ok(Route::Logs(named(namespace, pod, None, container)))
        }
        ("portForward", [namespace, pod]) => Ok(forward(namespace, pod, None)),
        ("portForward", [namespace, pod, uid]) => Ok(forward(namespace, pod, Some(uid))),
        _ => Err(unknown()),
    }
}

/// The ports of a forward in channels, which cannot be asked for later
/// (docs/protocols/endpoints.md, 1.2).
fn ports(query: &str) -> Result<Vec<u16>, Plain> {
    let bad = |text: String| Plain::new(400, text);
    let values: Vec<String> = form_urlencoded::parse(query.as_bytes())
        .filter(|pair| pair.0 == "port")
        .map(|pair| pair.1.into_owned())
        .collect();
    if values.is_empty() {
        return Err(bad("query parameter \"port\" is required".into()));
    }
    let mut ports = Vec::new();
    for text in values.iter().flat_map(|value| value.split(',')) {
        if text.is_empty() {
            return Err(bad("query parameter \"port\" cannot be empty".into()));
        }
        let why = |why: &str| {
            bad(format!(
                "unable to parse {text:?} as a port: strconv.ParseUint: parsing {text:?}: {why}"
            ))
        };
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(why("invalid syntax"));
        }
        match text.parse() {
            Ok(0) => return Err(bad(format!("port {text:?} must be > 0"))),
            Ok(port) => ports.push(port),
            Err(_) => return Err(why("value out of range")),
        }
    }
    if ports.len() > PORTS {
        return Err(bad(format!("{} ports are more than channels can carry", ports.len())));
    }
    Ok(ports)
}

/// The kubelet's reading: only `1` counts, the first of several; a terminal swallows stderr.
fn parameters(query: &str) -> Result<(Vec<String>, Wants), Plain> {
    let pairs: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
    let set = |name: &str| pairs.iter().find(|pair| pair.0 == name).is_some_and(|p| p.1 == "1");
    let tty = set("tty");
    let wants =
        Wants { stdin: set("input"), stdout: set("output"), stderr: set("error") && !tty, tty };
    if !(wants.stdin || wants.stdout || wants.stderr) {
        let text = "you must specify at least 1 of stdin, stdout, stderr";
        return Err(Plain::new(400, text));
    }
    let command = pairs.iter().filter(|pair| pair.0 == "command").map(|pair| pair.1.to_string());
    Ok((command.collect(), wants))
}

fn switch(accepted: &Accepted) -> Reply {
    let mut reply = Response::new(body(Bytes::new()));
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    set_headers(&mut reply, &accepted.response);
    reply
}

fn refuse(plain: &Plain) -> Reply {
    let mut reply = text(plain.code, &plain.text);
    set_headers(&mut reply, &plain.headers);
    reply
}

fn text(code: u16, text: &str) -> Reply {
    let said = if text.is_empty() { Bytes::new() } else { Bytes::from(format!("{text}\n")) };
    let mut reply = Response::new(body(said));
    *reply.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    reply.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    reply
}

fn set_headers(reply: &mut Reply, headers: &[(&'static str, String)]) {
    for (name, value) in headers {
        let name = HeaderName::try_from(*name);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
            reply.headers_mut().append(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes() {
        let named = |uid: Option<&str>| Named {
            namespace: "ns".into(),
            pod: "p".into(),
            uid: uid.map(Into::into),
            container: "c d".into(),
        };
        assert_eq!(route("/exec/ns/p/c%20d"), Ok(Route::Exec(named(None))));
        assert_eq!(route("/exec/ns/p/u/c%20d"), Ok(Route::Exec(named(Some("u")))));
        assert_eq!(route("/attach/ns/p/c%20d"), Ok(Route::Attach(named(None))));
        assert_eq!(route("/attach/ns/p/u/c%20d"), Ok(Route::Attach(named(Some("u")))));
        assert_eq!(route("/containerLogs/ns/p/c%20d"), Ok(Route::Logs(named(None))));
        assert_eq!(route("/healthz"), Ok(Route::Healthz));
        assert_eq!(route("/healthz/ping"), Ok(Route::Healthz));
        assert_eq!(route("/exec/ns/p/c%20d/"), Ok(Route::Exec(named(None))));
        let forward = |uid: Option<&str>| Route::PortForward {
            namespace: "ns".into(),
            pod: "p".into(),
            uid: uid.map(Into::into),
        };
        assert_eq!(route("/portForward/ns/p"), Ok(forward(None)));
        assert_eq!(route("/portForward/ns/p/u"), Ok(forward(Some("u"))));
        for (path, code) in [
            ("/", 404),
            ("/exec/a/b", 404),
            ("/portforward/a/b", 404),
            ("/exec/a//c", 404),
            ("//exec/a/b/c", 404),
            ("/exec/../exec/a/b/c", 404),
            ("/exec/%2e%2e/b/c", 404),
            ("/exec/a/b%2fc/d", 404),
            ("//healthz", 404),
            ("/healthz/", 404),
            ("/healthz/x", 404),
            ("/exec/%ff/b/c", 400),
        ] {
            assert_eq!(route(path).unwrap_err().code, code, "{path}");
        }
    }

    #[test]
    fn a_refused_name_gives_no_orders_to_who_reads_the_refusal() {
        let text = forbidden("jane\u{1b}]0;x\u{7}\nroot", &Method::GET);
        let expected = "Forbidden (user=jane\u{fffd}]0;x\u{fffd} root, verb=get, resource=nodes, \
                        subresource(s)=[proxy])";
        assert_eq!(text, expected);
    }

    #[test]
    fn ports_of_channels_are_read_as_the_kubelet_reads_them() {
        let read = |query| ports(query).map_err(|plain| plain.text);
        assert_eq!(read("port=80,81&port=82"), Ok(vec![80, 81, 82]));
        for (query, expected) in [
            ("x=1", "query parameter \"port\" is required"),
            ("port=", "query parameter \"port\" cannot be empty"),
            ("port=0", "port \"0\" must be > 0"),
            (
                "port=x",
                "unable to parse \"x\" as a port: strconv.ParseUint: parsing \"x\": invalid syntax",
            ),
            (
                "port=65536",
                "unable to parse \"65536\" as a port: strconv.ParseUint: parsing \"65536\": value \
                 out of range",
            ),
        ] {
            assert_eq!(read(query), Err(expected.to_owned()));
        }
    }

    #[test]
    fn only_a_one_counts() {
        let wants = |query| parameters(query).map(|found| found.1);
        let all = Wants { stdin: true, stdout: true, stderr: true, tty: false };
        assert_eq!(wants("input=1&output=1&error=1"), Ok(all));
        let terminal = Wants { stdin: true, stderr: false, tty: true, ..all };
        assert_eq!(wants("input=1&output=1&error=1&tty=1"), Ok(terminal));
        assert_eq!(wants("input=true").unwrap_err().code, 400);
        assert_eq!(wants("error=1&tty=1").unwrap_err().code, 400);
        assert_eq!(wants("output=0&output=1").unwrap_err().code, 400);
        let (command, _) = parameters("command=sh&command=-c&command=a+%22b%22&output=1").unwrap();
        assert_eq!(command, ["sh", "-c", "a \"b\""]);
    }
}
