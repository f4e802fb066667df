//! An HTTP server: takes connections from a listener, gives their requests to a service, and
//! upgrades connections. The caller brings the listener and says when it ends.

mod accept;
mod connections;
mod exchange;
mod head_lines;
mod heads;
mod request_body;
mod settings;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use self::accept::Accepting;
use self::connections::{Connections, Registered};
pub use self::connections::{Limits, UNAUTHENTICATED_PER_ADDRESS};
use self::exchange::{AnswerBody, Exchange, Refused};
use self::heads::{Heads, LIBRARY_BYTES};
pub use self::settings::Settings;
use crate::local::OwnPort;
use crate::read_ahead::ReadAhead;
use crate::record::{Admission, Denied, End, Log, Pending, Record, Refusals, Running, Traffic};
use crate::stream::{Stream, Upgraded, prepare};
use crate::tls::{self, ClientCertificate, PeerIdentity};

/// How long a client may take for the TLS handshake.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// The most headers of one request.
const HEADERS: usize = 128;
/// How long a session may take, once the server ends, to give its client what waits and to close.
pub const CLOSE_PATIENCE: Duration = Duration::from_millis(600);
/// How long all sessions together may take once the server ends. Each has to log its end.
const END_PATIENCE: Duration = Duration::from_millis(800);

/// The client's end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The address that the connection comes from.
    pub address: SocketAddr,
    /// The identity in the client's certificate, if it has sent one that is valid at the time of
    /// the request.
    pub identity: Option<PeerIdentity>,
    /// Whether the connection is in TLS.
    pub tls: bool,
    registered: Arc<Registered>,
}

impl Peer {
    /// Records that a request on this connection was authenticated. Until then it is one of the
    /// first to be ended when there are too many, and its timeouts are shorter.
    pub fn mark_authenticated(&self) {
        self.registered.mark_authenticated();
    }
}

/// What the connections and sessions of a server share.
#[derive(Clone, Debug)]
pub struct Sessions {
    /// Cancelled when the server and its sessions have to end.
    pub end: CancellationToken,
    /// Logs refusals.
    pub refusals: Arc<Refusals>,
    /// Each is asked whether a session may begin, and told of its end.
    admissions: Arc<[Arc<dyn Admission>]>,
    tracker: TaskTracker,
    connections: TaskTracker,
    begun: Arc<AtomicUsize>,
    long_answer: Arc<Semaphore>,
}

impl Default for Sessions {
    fn default() -> Sessions {
        Sessions {
            end: CancellationToken::new(),
            refusals: Arc::default(),
            admissions: Arc::new([Arc::new(Log)]),
            tracker: TaskTracker::new(),
            connections: TaskTracker::new(),
            begun: Arc::default(),
            long_answer: Arc::new(Semaphore::new(connections::long_answers())),
        }
    }
}

/// A permit for a long answer. Dropping it frees its place.
#[derive(Debug)]
pub struct LongAnswer {
    _place: OwnedSemaphorePermit,
}

impl Sessions {
    /// Adds one that is asked whether each session may begin, and told of its end. The log comes
    /// before all others.
    #[must_use]
    pub fn with(mut self, admission: Arc<dyn Admission>) -> Sessions {
        self.admissions = self.admissions.iter().cloned().chain([admission]).collect();
        self
    }

    /// Asks whether a session may begin.
    ///
    /// # Errors
    /// [`Denied`] if one of those that are asked refuses.
    pub fn admit(&self, record: Record) -> Result<Pending, Denied> {
        Pending::by(&self.admissions, record)
    }

    /// Takes a permit for an answer that may last long, such as that to `logs -f`.
    ///
    /// # Errors
    /// [`Denied`] if there are as many of them as there may be.
    pub fn long_answer(&self) -> Result<LongAnswer, Denied> {
        let place = self.long_answer.clone().try_acquire_owned();
        let denied = |_| Denied {
            why: "too many logs are being read, please try again later".to_owned(),
            retry_after: Duration::from_secs(1),
        };
        place.map(|place| LongAnswer { _place: place }).map_err(denied)
    }

    /// Runs a session as a task, which the server waits for when it ends.
    pub fn spawn(&self, session: impl Future<Output = ()> + Send + 'static) {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.tracker.spawn(session);
    }

    /// Runs a session that has begun, once its 101 was written, and tells its hooks of its end.
    /// `run` gets the connection, and what tells that the server ends. Its future should be small,
    /// as one that awaits a box is: a task has room for it twice.
    pub fn run<F>(
        &self,
        running: Running,
        request: Request<Incoming>,
        run: impl FnOnce(Upgraded, CancellationToken) -> F + Send + 'static,
    ) where
        F: Future<Output = (End, Traffic)> + Send + 'static,
    {
        let sessions = self.clone();
        self.spawn(async move {
            match upgraded(request).await {
                Ok(connection) => {
                    let session = run(connection, sessions.end.clone());
                    // In a task of its own, which has no room for what only the beginning needs.
                    sessions.spawn(async move {
                        let (end, traffic) = session.await;
                        running.end(end, Some(traffic));
                    });
                }
                Err(error) => {
                    running.end(End::ClientGone(error.to_string()), None);
                }
            }
        });
    }

    /// How many connections and sessions have ended so far.
    #[must_use]
    pub fn ended(&self) -> usize {
        let lives = self.tracker.len() + self.connections.len();
        self.begun.load(Ordering::Relaxed).saturating_sub(lives)
    }
}

/// The body of an answer, complete or as it comes. If it fails, the connection is cut off, so that
/// nobody takes the answer for complete.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Makes a body that is complete.
pub fn body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A service's answer.
pub type Reply = Response<Body>;

/// Serves `listener` until `sessions.end` is cancelled; then waits 0.8 s at most for the sessions
/// and returns. `service` answers requests. It has to say which connections are authenticated
/// ([`Peer::mark_authenticated`]), and to run sessions by [`Sessions::run`]. What else it may get
/// than requests without bodies over HTTP/1.1, [`Settings`] say.
pub async fn serve<S, F>(
    listener: TcpListener,
    tls: Option<tls::Server>,
    settings: impl Into<Settings>,
    sessions: Sessions,
    service: S,
) where
    S: Fn(Peer, Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    let _own = listener.local_addr().ok().map(|address| OwnPort::hold(address.port()));
    let settings = settings.into();
    let connections = Connections::new(settings.limits);
    let mut listener = Accepting::new(listener);
    loop {
        let (tcp, address) = tokio::select! {
            () = sessions.end.cancelled() => break,
            accepted = listener.accept(&connections) => accepted,
        };
        let Some(registered) = connections.enter(address.ip()) else {
            debug!("{address}: turned away, all connections are in use");
            continue;
        };
        let (tls, service, end) = (tls.clone(), service.clone(), sessions.end.clone());
        sessions.begun.fetch_add(1, Ordering::Relaxed);
        sessions.connections.spawn(async move {
            tokio::select! {
                () = end.cancelled() => {}
                () = registered.evicted() => debug!("{address}: gives way to others"),
                () = connection(tcp, address, &registered, tls, settings, service) => {}
            }
        });
    }
    drop(listener);
    sessions.tracker.close();
    if timeout(END_PATIENCE, sessions.tracker.wait()).await.is_err() {
        warn!("{} sessions did not end in time", sessions.tracker.len());
    }
}

async fn connection<S, F>(
    tcp: TcpStream,
    address: SocketAddr,
    registered: &Arc<Registered>,
    tls: Option<tls::Server>,
    settings: Settings,
    service: S,
) where
    S: Fn(Peer, Request<Incoming>) -> F,
    F: Future<Output = Reply>,
{
    prepare(&tcp);
    let (stream, certificate, tls) = match greet(tcp, tls).await {
        Ok(greeted) => greeted,
        Err(error) => return debug!("{address}: TLS: {error}"),
    };
    let exchange = Arc::new(Exchange::default());
    let heads = Heads::new(stream, registered.clone(), exchange.clone(), settings.request_bodies);
    let registered = registered.clone();
    let answer = service_fn(move |request| {
        let reply = checked(&exchange, settings, request).map(|request| {
            let identity = certificate.as_ref().and_then(ClientCertificate::identity);
            service(Peer { address, identity, tls, registered: registered.clone() }, request)
        });
        let exchange = exchange.clone();
        async move {
            let reply = match reply {
                Ok(reply) => reply.await,
                Err((code, phrase)) => refusal(code, phrase),
            };
            Ok::<_, Infallible>(finish(&exchange, reply))
        }
    });
    let served = http1::Builder::new()
        .max_buf_size(LIBRARY_BYTES)
        .max_headers(HEADERS)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(heads), answer)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        debug!("{address}: {error}");
    }
}

/// Returns the request with all of its query, or code and phrase of the refusal of a bad one.
fn checked(
    exchange: &Exchange,
    settings: Settings,
    mut request: Request<Incoming>,
) -> Result<Request<Incoming>, (StatusCode, &'static str)> {
    match exchange.asked(request.body()) {
        Ok(Some(query)) => query.put_back(&mut request),
        Ok(None) => {}
        Err(Refused::Malformed) => return Err((StatusCode::BAD_REQUEST, "Bad Request")),
        Err(Refused::TooLong) => {
            let code = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            return Err((code, "Request Header Fields Too Large"));
        }
    }
    if let Some(fault) = host_fault(request.version(), request.headers()) {
        return Err((StatusCode::BAD_REQUEST, fault));
    }
    if let Some(refused) = settings.request_bodies.then(|| body_fault(request.headers())).flatten()
    {
        return Err(refused);
    }
    Ok(request)
}

/// Returns code and phrase with which Go's servers refuse what a request says of its body, if it is
/// more than these understand.
fn body_fault(headers: &HeaderMap) -> Option<(StatusCode, &'static str)> {
    let is_other = |name, known: &str| {
        headers
            .get(name)
            .is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(known.as_bytes()))
    };
    if is_other(header::TRANSFER_ENCODING, "chunked") {
        return Some((StatusCode::NOT_IMPLEMENTED, "Not Implemented"));
    }
    is_other(header::EXPECT, "100-continue")
        .then_some((StatusCode::EXPECTATION_FAILED, "Expectation Failed"))
}

/// Returns the phrase with which Go's servers refuse the request's host, if it is bad.
fn host_fault(version: Version, headers: &HeaderMap) -> Option<&'static str> {
    const PUNCTUATION: &[u8] = b"!$%&()*+,-.:;='[]_~";
    let mut hosts = headers.get_all(header::HOST).iter();
    let Some(host) = hosts.next() else {
        let fault = "Bad Request: missing required Host header";
        return (version >= Version::HTTP_11).then_some(fault);
    };
    if hosts.next().is_some() {
        return Some("Bad Request");
    }
    let is_valid = |byte: &u8| byte.is_ascii_alphanumeric() || PUNCTUATION.contains(byte);
    let is_host = host.as_bytes().iter().all(is_valid);
    (!is_host).then_some("Bad Request: malformed Host header")
}

/// Makes a refusal of a bad request, as Go's servers do. It ends the connection.
fn refusal(code: StatusCode, phrase: &'static str) -> Reply {
    let mut reply = Response::new(body(format!("{} {phrase}", code.as_u16())));
    *reply.status_mut() = code;
    reply.extensions_mut().insert(ReasonPhrase::from_static(phrase.as_bytes()));
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    reply.headers_mut().insert(header::CONTENT_TYPE, plain);
    reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    reply
}

/// Prepares an answer for the library. No client may guess the type of a refusal's body.
fn finish(exchange: &Arc<Exchange>, mut reply: Reply) -> Response<AnswerBody> {
    if reply.status() == StatusCode::SWITCHING_PROTOCOLS {
        exchange.switches();
    } else if reply.status().as_u16() >= 400 {
        let nosniff = HeaderValue::from_static("nosniff");
        reply.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    }
    reply.map(|body| exchange.answer(body))
}

async fn greet(
    tcp: TcpStream,
    tls: Option<tls::Server>,
) -> io::Result<(Stream, Option<ClientCertificate>, bool)> {
    let Some(server) = tls else { return Ok((Stream::plain(tcp), None, false)) };
    let server = server.current().await;
    let acceptor = TlsAcceptor::from(server.config.clone());
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    let tcp = ReadAhead::new(tcp).held();
    let tls = timeout(HANDSHAKE_PATIENCE, acceptor.accept(tcp)).await.map_err(late)??;
    let certificate = server.client_certificate(tls.get_ref().1.peer_certificates());
    Ok((Stream::server(tls), certificate, true))
}

/// Whether a request has a body. An upgrade must not have one: what is behind its head belongs to
/// the upgraded protocol, and proxies on the way could disagree about where that begins.
#[must_use]
pub fn has_body(headers: &HeaderMap) -> bool {
    let empty = |value: &http::HeaderValue| value.as_bytes() == b"0";
    headers.contains_key(header::TRANSFER_ENCODING)
        || !headers.get_all(header::CONTENT_LENGTH).iter().all(empty)
}

/// Waits until a request's 101 was written, and takes over its connection.
///
/// # Errors
/// If the connection ended first.
pub async fn upgraded(request: Request<Incoming>) -> io::Result<Upgraded> {
    let upgraded = hyper::upgrade::on(request).await.map_err(io::Error::other)?;
    let taken = upgraded.downcast::<TokioIo<Heads>>();
    let parts = taken.map_err(|_| io::Error::other("the connection cannot be taken over"))?;
    Ok(parts.io.into_inner().into_upgraded(&parts.read_buf))
}

#[cfg(test)]
mod tests;
