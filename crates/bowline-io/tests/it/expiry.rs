//! Certificates of clients that end while their connection goes on, and sessions of TLS that would
//! outlive them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bowline_io::serve::{Limits, Sessions, body, serve};
use bowline_io::tls::{self, Trust};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, HandshakeKind};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::certificates::{Authority, FAR};

/// Seconds since 1970 that a test sets.
#[derive(Clone, Debug, Default)]
struct Watch(Arc<AtomicU64>);

impl TimeProvider for Watch {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = self.0.load(Ordering::Relaxed);
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

const IN_2030: u64 = 1_900_000_000;
const IN_2031: u64 = 1_930_000_000;

struct Place {
    watch: Watch,
    address: SocketAddr,
    sessions: Sessions,
    client: Arc<ClientConfig>,
}

/// A server that answers with the name of who asks.
async fn place(asks_clients: bool) -> Place {
    let authority = Authority::new("ca");
    let ca = asks_clients.then_some(authority.pem.as_bytes());
    let mut tls = tls::server(&authority.sign("server", FAR), ca, false).unwrap();
    let watch = Watch::default();
    watch.0.store(IN_2030, Ordering::Relaxed);
    let mut config = (*tls.config).clone();
    config.time_provider = Arc::new(watch.clone());
    tls.config = Arc::new(config);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let sessions = Sessions::default();
    let service = |peer: bowline_io::serve::Peer, _| async move {
        Response::new(body(peer.identity.map_or("nobody".into(), |identity| identity.user)))
    };
    tokio::spawn(serve(listener, Some(tls), Limits::default(), sessions.clone(), service));
    let trust = Trust::Ca(authority.pem.clone().into_bytes());
    let client = tls::client(&trust, Some(&authority.sign("jane", 2030))).unwrap();
    Place { watch, address, sessions, client }
}

impl Place {
    async fn connect(&self) -> (SendRequest<Full<Bytes>>, HandshakeKind) {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(self.client.clone());
        let mut tls = connector.connect(name, tcp).await.unwrap();
        let kind = tls.get_mut().1.handshake_kind().unwrap();
        let (sender, connection) = handshake(TokioIo::new(tls)).await.unwrap();
        tokio::spawn(connection);
        (sender, kind)
    }
}

async fn who(sender: &mut SendRequest<Full<Bytes>>) -> Bytes {
    sender.ready().await.unwrap();
    let request = Request::get("/").header("host", "localhost").body(Full::default()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    answer.into_body().collect().await.unwrap().to_bytes()
}

#[tokio::test]
async fn a_certificate_that_has_ended_is_nobodys_also_on_a_connection_that_has_not() {
    let place = place(true).await;
    let (mut sender, _) = place.connect().await;
    assert_eq!(who(&mut sender).await, "jane");
    place.watch.0.store(IN_2031, Ordering::Relaxed);
    assert_eq!(who(&mut sender).await, "nobody");
    place.watch.0.store(IN_2030, Ordering::Relaxed);
    assert_eq!(who(&mut sender).await, "jane");
    place.sessions.end.cancel();
}

#[tokio::test]
async fn where_certificates_count_no_session_is_resumed() {
    for (asks_clients, expected) in [(true, HandshakeKind::Full), (false, HandshakeKind::Resumed)] {
        let place = place(asks_clients).await;
        let (mut first, kind) = place.connect().await;
        assert_eq!(kind, HandshakeKind::Full);
        // The tickets, if any, have come before the answer.
        who(&mut first).await;
        let (mut second, kind) = place.connect().await;
        assert_eq!(kind, expected);
        who(&mut second).await;
        place.sessions.end.cancel();
    }
}
