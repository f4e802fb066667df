//! A listener to requests, and requests to upgraded connections. The caller brings listener and
//! end.

mod accept;
mod connections;
mod heads;

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
pub use self::connections::{Limits, UNKNOWN_PER_ADDRESS};
use self::heads::{Answer, Exchange, Heads, LIBRARY_BYTES, Refused};
use crate::local::OwnPort;
use crate::read_ahead::ReadAhead;
use crate::record::{Admission, Denied, Log, Pending, Record, Refusals};
use crate::stream::{Stream, Upgraded, prepare};
use crate::tls::{self, PeerIdentity, Shown};

/// How long a client may take for its TLS hello. Half of it is no connection.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
const HEADERS: usize = 128;
/// After the end was asked for, how long a session may take to give its client what waits, and to
/// say goodbye.
pub const GOODBYE_PATIENCE: Duration = Duration::from_millis(600);
/// How long all of them may take. Each has to log its end.
const END_PATIENCE: Duration = Duration::from_millis(800);

/// What is known of a connection beside its bytes.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it comes from.
    pub address: SocketAddr,
    /// Who its certificate says it is, where one was shown and is good at the time of a request.
    pub identity: Option<PeerIdentity>,
    /// Whether it came in TLS.
    pub tls: bool,
    registered: Arc<Registered>,
}

impl Peer {
    /// Says that a request on this connection was authenticated. Until then it is one of those that
    /// go first when there are too many, and has little patience.
    pub fn known(&self) {
        self.registered.known();
    }
}

/// What all of a server's connections share: their end, and what they may take.
#[derive(Clone, Debug)]
pub struct Sessions {
    /// Told when sessions have to end.
    pub end: CancellationToken,
    /// Where its refusals are logged.
    pub refusals: Arc<Refusals>,
    /// What is asked for, and told of, each session.
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
            long_answer: Arc::new(Semaphore::new(connections::lasting_answers())),
        }
    }
}

/// A place for an answer that lasts. Dropped, it is free again.
#[derive(Debug)]
pub struct LongAnswer {
    _place: OwnedSemaphorePermit,
}

impl Sessions {
    /// The same, with one more that is asked, and told of each session. The log is the first.
    #[must_use]
    pub fn with(mut self, admission: Arc<dyn Admission>) -> Sessions {
        self.admissions = self.admissions.iter().cloned().chain([admission]).collect();
        self
    }

    /// Asks whether a session may begin.
    ///
    /// # Errors
    /// [`Denied`] if one of those who are asked has no room for it.
    pub fn admit(&self, record: Record) -> Result<Pending, Denied> {
        Pending::by(&self.admissions, record)
    }

    /// A place for an answer that may last.
    ///
    /// # Errors
    /// [`Denied`] if there are as many as may last already.
    pub fn long_answer(&self) -> Result<LongAnswer, Denied> {
        let place = self.long_answer.clone().try_acquire_owned();
        let denied = |_| Denied {
            why: "too many logs are being read, please try again later".to_owned(),
            retry_after: Duration::from_secs(1),
        };
        place.map(|place| LongAnswer { _place: place }).map_err(denied)
    }

    /// Runs a session that the server waits for at its end.
    pub fn spawn(&self, session: impl Future<Output = ()> + Send + 'static) {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.tracker.spawn(session);
    }

    /// How many connections and sessions have ended, so far.
    #[must_use]
    pub fn ended(&self) -> usize {
        let lives = self.tracker.len() + self.connections.len();
        self.begun.load(Ordering::Relaxed).saturating_sub(lives)
    }
}

/// The body of an answer, at once or as it comes. One that fails is cut off, so that nobody takes
/// it for complete.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A body that is all there.
pub fn body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A service's answer.
pub type Reply = Response<Body>;

/// Serves `listener` until `end`; then tells the sessions, waits for them with patience, and
/// returns. `service` answers requests, and says whom it knows ([`Peer::known`]); what it spawns on
/// `sessions` is waited for.
pub async fn serve<S, F>(
    listener: TcpListener,
    tls: Option<tls::Server>,
    limits: Limits,
    sessions: Sessions,
    service: S,
) where
    S: Fn(Peer, Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    let _own = listener.local_addr().ok().map(|address| OwnPort::hold(address.port()));
    let connections = Connections::new(limits);
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
                () = connection(tcp, address, &registered, tls, service) => {}
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
    service: S,
) where
    S: Fn(Peer, Request<Incoming>) -> F,
    F: Future<Output = Reply>,
{
    prepare(&tcp);
    let (stream, shown, tls) = match greet(tcp, tls).await {
        Ok(greeted) => greeted,
        Err(error) => return debug!("{address}: TLS: {error}"),
    };
    let exchange = Arc::new(Exchange::default());
    let heads = Heads::new(stream, registered.clone(), exchange.clone());
    let registered = registered.clone();
    let answer = service_fn(move |request| {
        let reply = checked(&exchange, request).map(|request| {
            let identity = shown.as_ref().and_then(Shown::identity);
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

/// The request, with all of its query, or code and phrase for one that is none.
fn checked(
    exchange: &Exchange,
    mut request: Request<Incoming>,
) -> Result<Request<Incoming>, (StatusCode, &'static str)> {
    match exchange.asked() {
        Ok(Some(query)) => query.put_back(&mut request),
        Ok(None) => {}
        Err(Refused::Malformed) => return Err((StatusCode::BAD_REQUEST, "Bad Request")),
        Err(Refused::TooLong) => {
            let code = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            return Err((code, "Request Header Fields Too Large"));
        }
    }
    match host_fault(request.version(), request.headers()) {
        Some(fault) => Err((StatusCode::BAD_REQUEST, fault)),
        None => Ok(request),
    }
}

/// What is wrong with the host that a request names, in the words of Go's servers.
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

/// A refusal as Go's servers give it to what is no request, which ends the connection.
fn refusal(code: StatusCode, phrase: &'static str) -> Reply {
    let mut reply = Response::new(body(format!("{} {phrase}", code.as_u16())));
    *reply.status_mut() = code;
    reply.extensions_mut().insert(ReasonPhrase::from_static(phrase.as_bytes()));
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    reply.headers_mut().insert(header::CONTENT_TYPE, plain);
    reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    reply
}

/// What is true of every answer. Nobody guesses at the type of one that is a refusal.
fn finish(exchange: &Arc<Exchange>, mut reply: Reply) -> Response<Answer> {
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
) -> io::Result<(Stream, Option<Shown>, bool)> {
    let Some(server) = tls else { return Ok((Stream::plain(tcp), None, false)) };
    let acceptor = TlsAcceptor::from(server.config.clone());
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    let tcp = ReadAhead::new(tcp).held();
    let tls = timeout(HANDSHAKE_PATIENCE, acceptor.accept(tcp)).await.map_err(late)??;
    let shown = server.shown(tls.get_ref().1.peer_certificates());
    Ok((Stream::server(tls), shown, true))
}

/// Whether a request brings a body. An upgrade must not: what is behind its head belongs to the
/// upgraded protocol, and boxes in between may disagree about where it begins.
#[must_use]
pub fn has_body(headers: &HeaderMap) -> bool {
    let empty = |value: &http::HeaderValue| value.as_bytes() == b"0";
    headers.contains_key(header::TRANSFER_ENCODING)
        || !headers.get_all(header::CONTENT_LENGTH).iter().all(empty)
}

/// The connection below a request, once its 101 was written.
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
