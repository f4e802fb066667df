//! Certificates in files that change while their server runs.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bowline_io::serve::{Limits, Peer, Sessions, body, serve};
use bowline_io::tls::{self, ClientFiles, Identity, OwnIdentity, PeerIdentity, ServerFiles, Trust};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::certificates::{Authority, FAR};

struct Place {
    folder: tempfile::TempDir,
    address: SocketAddr,
    sessions: Sessions,
}

impl Place {
    /// A server that answers with the name of who asks.
    async fn new(identity: &Identity, client_ca: &Authority) -> Place {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let place = Place { folder, address, sessions: Sessions::default() };
        place.write("server.crt", &identity.certificate);
        place.write("server.key", &identity.key);
        place.write("ca.crt", client_ca.pem.as_bytes());
        let files = ServerFiles {
            identity: OwnIdentity::Files {
                certificate: place.path("server.crt"),
                key: place.path("server.key"),
            },
            client_ca: Some(place.path("ca.crt")),
        };
        let service = |peer: Peer, _| async move {
            peer.mark_authenticated();
            Response::new(body(peer.identity.map_or("nobody".into(), |identity| identity.user)))
        };
        let tls = Some(files.server().unwrap());
        tokio::spawn(serve(listener, tls, Limits::default(), place.sessions.clone(), service));
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &[u8]) {
        fs::write(self.path(name), text).unwrap();
    }

    /// The name in the certificate that a connection made now is given, and the connection.
    async fn connect(&self, client: &Identity) -> Option<(String, SendRequest<Full<Bytes>>)> {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let config = tls::client(&Trust::Anybody, Some(client)).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let tls = TlsConnector::from(config).connect(name, tcp).await.ok()?;
        let certificate = tls.get_ref().1.peer_certificates().unwrap()[0].clone();
        let (mut sender, connection) = handshake(TokioIo::new(tls)).await.ok()?;
        tokio::spawn(connection);
        // A certificate that is refused is found out by now.
        who(&mut sender).await?;
        Some((PeerIdentity::of(&certificate).unwrap().user, sender))
    }
}

async fn who(sender: &mut SendRequest<Full<Bytes>>) -> Option<Bytes> {
    sender.ready().await.ok()?;
    let request = Request::get("/").header("host", "localhost").body(Full::default()).unwrap();
    let answer = sender.send_request(request).await.ok()?;
    Some(answer.into_body().collect().await.unwrap().to_bytes())
}

/// Lets the time pass until the files are looked at again.
async fn later() {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(2)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn certificates_are_read_anew_when_they_change_and_kept_when_they_break() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let (first, second) = (old.sign("first", FAR), old.sign("second", FAR));
    let (jane, joan) = (old.sign("jane", FAR), new.sign("joan", FAR));
    let place = Place::new(&first, &old).await;
    let (name, mut kept) = place.connect(&jane).await.unwrap();
    assert_eq!((&*name, &*who(&mut kept).await.unwrap()), ("first", &b"jane"[..]));

    // The certificate comes before its key: until then neither is used.
    later().await;
    place.write("server.crt", &second.certificate);
    assert_eq!(place.connect(&jane).await.unwrap().0, "first");
    place.write("server.key", &second.key);
    later().await;
    assert_eq!(place.connect(&jane).await.unwrap().0, "second");

    // At most once a second.
    place.write("ca.crt", new.pem.as_bytes());
    assert!(place.connect(&joan).await.is_none());
    assert_eq!(who(&mut kept).await.unwrap(), "jane");
    later().await;
    let (_, mut other) = place.connect(&joan).await.unwrap();
    assert_eq!(who(&mut other).await.unwrap(), "joan");
    assert_eq!(who(&mut kept).await.unwrap(), "nobody", "its CA has gone meanwhile");
    assert!(place.connect(&jane).await.is_none());

    for broken in [&b""[..], b"no certificate", first.certificate[..200].as_ref()] {
        place.write("server.crt", broken);
        place.write("ca.crt", broken);
        later().await;
        assert_eq!(place.connect(&joan).await.unwrap().0, "second");
    }
    fs::remove_file(place.path("server.crt")).unwrap();
    later().await;
    assert_eq!(place.connect(&joan).await.unwrap().0, "second");

    // As volumes of Kubernetes are exchanged: by another link.
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("server.crt"), &first.certificate).unwrap();
    std::os::unix::fs::symlink(folder.path().join("server.crt"), place.path("server.crt")).unwrap();
    place.write("server.key", &first.key);
    place.write("ca.crt", old.pem.as_bytes());
    later().await;
    assert_eq!(place.connect(&jane).await.unwrap().0, "first");
    assert_eq!(who(&mut kept).await.unwrap(), "jane");
    place.sessions.end.cancel();
}

/// What a client that reads these files and connects now shows to a server that is `localhost` by
/// this CA; `None` if it does not believe the server.
async fn shown(client: &tls::Client, server: &Authority, clients: &Authority) -> Option<String> {
    let identity = server.sign("server", FAR);
    let all = [server.pem.as_str(), clients.pem.as_str()].concat();
    let config = tls::server(&identity, Some(all.as_bytes()), true).unwrap().config;
    let (near, far) = tokio::io::duplex(1 << 16);
    let name = ServerName::try_from("localhost").unwrap();
    let connector = TlsConnector::from(client.current().await);
    let (near, far) =
        tokio::join!(connector.connect(name, near), TlsAcceptor::from(config).accept(far));
    near.ok()?;
    let far = far.ok()?;
    Some(PeerIdentity::of(&far.get_ref().1.peer_certificates()?[0]).unwrap().user)
}

#[tokio::test]
async fn a_clients_certificates_are_read_anew_too() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let (jane, joan) = (old.sign("jane", FAR), old.sign("joan", FAR));
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let write = |name: &str, text: &[u8]| fs::write(path(name), text).unwrap();
    write("a.crt", &jane.certificate);
    write("a.key", &jane.key);
    write("ca.crt", old.pem.as_bytes());
    let files =
        ClientFiles { identity: Some((path("a.crt"), path("a.key"))), ca: Some(path("ca.crt")) };
    let client = files.clone().client().unwrap();
    let user = async |server: &Authority| shown(&client, server, &old).await;
    assert_eq!(user(&old).await.as_deref(), Some("jane"));
    assert_eq!(user(&new).await, None);

    // The certificate comes before its key.
    write("a.crt", &joan.certificate);
    later().await;
    assert_eq!(user(&old).await.as_deref(), Some("jane"));
    assert!(files.client().is_err());
    write("a.key", &joan.key);
    later().await;
    assert_eq!(user(&old).await.as_deref(), Some("joan"));

    write("ca.crt", new.pem.as_bytes());
    later().await;
    assert_eq!(user(&new).await.as_deref(), Some("joan"));
    assert_eq!(user(&old).await, None);
    for broken in [&b""[..], &new.pem.as_bytes()[..200]] {
        write("ca.crt", broken);
        later().await;
        assert_eq!(user(&new).await.as_deref(), Some("joan"));
        assert_eq!(user(&old).await, None);
    }
    fs::remove_file(path("a.key")).unwrap();
    later().await;
    assert_eq!(user(&new).await.as_deref(), Some("joan"));
}
