//! A listener to requests, and requests to upgraded connections. The caller brings listener and
//! end.
//! Above: the gateway, the node. Below: hyper, `tls`.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, sink};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::ahead::Ahead;
use crate::local::OwnPort;
use crate::record::Refusals;
use crate::stream::{Stream, Upgraded, prepare};
use crate::target::{Around, Beginning, begin};
use crate::tls::{self, PeerIdentity, Shown};

/// How long a client may take for its TLS hello, and for the head of a request. Half of either is
/// no connection.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// What a request's head may hold: Go's servers' 1 MiB, since command lines travel in it.
const HEAD_BYTES: usize = 1024 * 1024;
const HEADERS: usize = 128;
/// How much more of it is read once it is refused.
const UNREAD_BYTES: u64 = 8 * HEAD_BYTES as u64;
/// Connections at once; each holds at least one descriptor.
const CONNECTIONS: usize = 16 * 1024;
/// After a failed accept, as when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// After the end was asked for, how long sessions may take to say goodbye.
const GOODBYE_PATIENCE: Duration = Duration::from_millis(800);

/// What is known of a connection beside its bytes.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it comes from.
    pub address: SocketAddr,
    /// Who its certificate says it is, where one was shown and is good at the time of a request.
    pub identity: Option<PeerIdentity>,
    /// Whether it came in TLS.
    pub tls: bool,
}

/// The end that all of a server's connections share.
#[derive(Clone, Debug, Default)]
pub struct Sessions {
    /// Told when sessions have to end.
    pub end: CancellationToken,
    /// Where its refusals are logged.
    pub refusals: Arc<Refusals>,
    tracker: TaskTracker,
    connections: TaskTracker,
    begun: Arc<AtomicUsize>,
}

impl Sessions {
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
/// returns. `service` answers requests; what it spawns on `sessions` is waited for.
pub async fn serve<S, F>(
    listener: TcpListener,
    tls: Option<tls::Server>,
    sessions: Sessions,
    service: S,
) where
    S: Fn(Peer, Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    let _own = listener.local_addr().ok().map(|address| OwnPort::hold(address.port()));
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { break };
        let accepted = tokio::select! {
            () = sessions.end.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (tcp, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!("accept: {error}");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (tls, service, end) = (tls.clone(), service.clone(), sessions.end.clone());
        sessions.begun.fetch_add(1, Ordering::Relaxed);
        sessions.connections.spawn(async move {
            let _slot = slot;
            tokio::select! {
                () = end.cancelled() => {}
                () = connection(tcp, address, tls, service) => {}
            }
        });
    }
    drop(listener);
    sessions.tracker.close();
    if timeout(GOODBYE_PATIENCE, sessions.tracker.wait()).await.is_err() {
        warn!("{} sessions did not end in time", sessions.tracker.len());
    }
}

async fn connection<S, F>(tcp: TcpStream, address: SocketAddr, tls: Option<tls::Server>, service: S)
where
    S: Fn(Peer, Request<Incoming>) -> F,
    F: Future<Output = Reply>,
{
    prepare(&tcp);
    let (stream, shown, tls) = match greet(tcp, tls).await {
        Ok(greeted) => greeted,
        Err(error) => return debug!("{address}: TLS: {error}"),
    };
    let (first, query) = match timeout(HEAD_PATIENCE, begin(stream, HEAD_BYTES)).await {
        Ok(Ok(Beginning::Request(first, query))) => (first, Cell::new(query)),
        Ok(Ok(Beginning::TooLong(stream))) => return too_long(stream).await,
        Ok(Err(error)) => return debug!("{address}: {error}"),
        Err(_) => return debug!("{address}: no request in time"),
    };
    let answer = service_fn(move |mut request| {
        if let Some(query) = query.take() {
            query.put_back(&mut request);
        }
        let identity = shown.as_ref().and_then(Shown::identity);
        let reply = service(Peer { address, identity, tls }, request);
        async move { Ok::<_, Infallible>(reply.await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(first), answer)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        debug!("{address}: {error}");
    }
}

/// Refuses a request line as Go's servers do, and reads on for a while: a client that still writes
/// would not see the answer otherwise.
async fn too_long(mut stream: Stream) {
    const REFUSAL: &[u8] = b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: \
        text/plain; charset=utf-8\r\nConnection: close\r\n\r\n431 Request Header Fields Too Large";
    let refuse = async {
        stream.write_all(REFUSAL).await?;
        stream.shutdown().await?;
        copy(&mut stream.take(UNREAD_BYTES), &mut sink()).await
    };
    let _ = timeout(HEAD_PATIENCE, refuse).await;
}

async fn greet(
    tcp: TcpStream,
    tls: Option<tls::Server>,
) -> io::Result<(Stream, Option<Shown>, bool)> {
    let Some(server) = tls else { return Ok((Stream::plain(tcp), None, false)) };
    let acceptor = TlsAcceptor::from(server.config.clone());
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    let tls =
        timeout(HANDSHAKE_PATIENCE, acceptor.accept(Ahead::new(tcp))).await.map_err(late)??;
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
    let taken = upgraded.downcast::<TokioIo<Around>>();
    let parts = taken.map_err(|_| io::Error::other("the connection cannot be taken over"))?;
    Ok(parts.io.into_inner().into_upgraded(&parts.read_buf))
}
