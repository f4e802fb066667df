//! An HTTP server: takes connections from a listener, gives their requests to a service, and
//! upgrades connections. The caller brings the listener and says when it ends.

mod accept;
mod answers;
mod connections;
mod drain;
mod exchange;
mod head_lines;
mod heads;
mod http1;
mod http2;
mod request_body;
mod sessions;
mod settings;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use self::accept::Accepting;
use self::connections::{Connections, Registered};
pub use self::connections::{Limits, UNAUTHENTICATED_PER_ADDRESS};
use self::drain::Phases;
pub use self::drain::{Drain, Phase};
use self::heads::Heads;
use self::http2::Upgrade;
pub use self::sessions::{CLOSE_PATIENCE, LongAnswer, Sessions};
pub use self::settings::Settings;
use crate::local::OwnPort;
use crate::read_ahead::ReadAhead;
use crate::stream::{Stream, Upgraded, prepare};
use crate::tls::{self, ClientCertificate, PeerIdentity};

/// How long a client may take for the TLS handshake.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);

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
/// and returns. Before that, [`Sessions::drain`] lets it close in good order. `service` answers
/// requests. It has to say which connections are authenticated ([`Peer::mark_authenticated`]), and
/// to run sessions by [`Sessions::run`]. What else it may get than requests without bodies over
/// HTTP/1.1, [`Settings`] say.
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
    let accepting = sessions.accepting();
    let (entered, shared) = (connections.clone(), sessions.clone());
    let begin = move |(tcp, address): (TcpStream, SocketAddr)| {
        let Some(registered) = entered.enter(address.ip()) else {
            return debug!("{address}: turned away, all connections are in use");
        };
        let (tls, service) = (tls.clone(), service.clone());
        let phases = shared.phases.clone();
        shared
            .begin_connection(connection(tcp, address, registered, phases, tls, settings, service));
    };
    loop {
        tokio::select! {
            () = sessions.phases.closing.cancelled() => break,
            () = sessions.end.cancelled() => break,
            accepted = listener.accept(&connections) => begin(accepted),
        }
    }
    // Whoever has connected already is served.
    while !sessions.end.is_cancelled()
        && let Some(accepted) = listener.accept_waiting().await
    {
        begin(accepted);
    }
    drop((listener, accepting));
    sessions.end.cancelled().await;
    if let Err(left) = sessions.ended_within(END_PATIENCE).await {
        warn!("{left} sessions did not end in time");
    }
}

/// What is known of a connection's client.
#[derive(Debug)]
struct Client {
    address: SocketAddr,
    certificate: Option<ClientCertificate>,
    tls: bool,
    registered: Arc<Registered>,
    phases: Phases,
}

impl Client {
    /// The client as it is at the time of a request: its certificate may have expired since.
    fn peer(&self) -> Peer {
        Peer {
            address: self.address,
            identity: self.certificate.as_ref().and_then(ClientCertificate::identity),
            tls: self.tls,
            registered: self.registered.clone(),
        }
    }
}

async fn connection<S, F>(
    tcp: TcpStream,
    address: SocketAddr,
    registered: Arc<Registered>,
    phases: Phases,
    tls: Option<tls::Server>,
    settings: Settings,
    service: S,
) where
    S: Fn(Peer, Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    prepare(&tcp);
    let (gives_way, end) = (registered.clone(), phases.end.clone());
    let ends = async {
        tokio::select! {
            () = end.cancelled() => {}
            () = gives_way.evicted() => debug!("{address}: gives way to others"),
        }
    };
    tokio::pin!(ends);
    let greeted = tokio::select! {
        () = &mut ends => return,
        greeted = greet(tcp, tls, settings) => greeted,
    };
    let Greeted { stream, certificate, tls } = match greeted {
        Ok(greeted) => greeted,
        Err(error) => return debug!("{address}: TLS: {error}"),
    };
    let client = Client { address, certificate, tls, registered, phases };
    if stream.protocol() == Some(tls::HTTP2) {
        // In memory of its own, which connections of HTTP/1.1 have no need of.
        return Box::pin(http2::serve(stream, client, settings, service)).await;
    }
    tokio::select! {
        () = ends => {}
        () = http1::serve(stream, client, settings, service) => {}
    }
}

/// A connection that is ready for requests.
struct Greeted {
    stream: Stream,
    certificate: Option<ClientCertificate>,
    tls: bool,
}

async fn greet(
    tcp: TcpStream,
    tls: Option<tls::Server>,
    settings: Settings,
) -> io::Result<Greeted> {
    let Some(server) = tls else {
        let stream = Stream::plain(tcp);
        return Ok(Greeted { stream, certificate: None, tls: false });
    };
    let server = server.current().await;
    let config = if settings.http2 { &server.with_http2 } else { &server.config };
    let acceptor = TlsAcceptor::from(config.clone());
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    let tcp = ReadAhead::new(tcp).held();
    let tls = timeout(HANDSHAKE_PATIENCE, acceptor.accept(tcp)).await.map_err(late)??;
    let certificate = server.client_certificate(tls.get_ref().1.peer_certificates());
    Ok(Greeted { stream: Stream::server(tls), certificate, tls: true })
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
pub async fn upgraded(mut request: Request<Incoming>) -> io::Result<Upgraded> {
    let over_http2 = request.extensions_mut().remove::<Upgrade>();
    let upgraded = hyper::upgrade::on(request).await.map_err(io::Error::other)?;
    if let Some(over_http2) = over_http2 {
        return Ok(Upgraded { stream: over_http2.stream(upgraded), early: BytesMut::new() });
    }
    let taken = upgraded.downcast::<TokioIo<Heads>>();
    let parts = taken.map_err(|_| io::Error::other("the connection cannot be taken over"))?;
    Ok(parts.io.into_inner().into_upgraded(&parts.read_buf))
}

#[cfg(test)]
mod tests;
