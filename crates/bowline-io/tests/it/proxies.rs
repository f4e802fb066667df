//! A proxy with TLS: it is trusted as the server behind it is, and gets nothing that is for that
//! server.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bowline_io::dial::{DialError, Endpoint, Tls, dial};
use bowline_io::proxy::Proxy;
use bowline_io::tls::{self, Identity, Trust};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_rustls::TlsAcceptor;

use super::certificates::{Authority, FAR};

const PATIENCE: Duration = Duration::from_secs(60);

/// Says whether who connects has shown a certificate, and leads to where it asks for, if it asks.
async fn listening(
    server: &Authority,
    clients: &Authority,
    leads: bool,
) -> (SocketAddr, UnboundedReceiver<bool>) {
    let identity = server.sign("server", FAR);
    let config = tls::server(&identity, Some(clients.pem.as_bytes()), false).unwrap().config;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, shown) = unbounded_channel();
    tokio::spawn(async move {
        loop {
            let tcp = listener.accept().await.unwrap().0;
            let Ok(near) = TlsAcceptor::from(config.clone()).accept(tcp).await else { continue };
            let _ = sender.send(near.get_ref().1.peer_certificates().is_some());
            if leads {
                let mut near = BufReader::new(near);
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    near.read_line(&mut head).await.unwrap();
                }
                let to = head.split(' ').nth(1).unwrap().replace("localhost", "127.0.0.1");
                let mut far = TcpStream::connect(to).await.unwrap();
                near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                tokio::spawn(async move { copy_bidirectional(&mut near, &mut far).await });
            }
        }
    });
    (address, shown)
}

fn endpoint(to: SocketAddr, by: SocketAddr, trust: &Trust, me: Option<&Identity>) -> Endpoint {
    let tls = Some(Tls { config: tls::client(trust, me).unwrap(), server_name: None });
    let proxy = Some(Proxy::parse(&format!("https://localhost:{}", by.port())).unwrap());
    Endpoint { host: "localhost".into(), port: to.port(), tls, proxy }
}

#[tokio::test]
async fn a_proxy_is_trusted_as_the_server_and_shown_nothing() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let me = ours.sign("me", FAR);
    let (server, mut at_server) = listening(&ours, &ours, false).await;
    let (proxy, mut at_proxy) = listening(&ours, &ours, true).await;
    let trust = Trust::Ca(ours.pem.clone().into_bytes());
    // Twice: no session of the one is resumed with the other.
    for _ in 0..2 {
        dial(&endpoint(server, proxy, &trust, Some(&me)), PATIENCE).await.unwrap();
        assert_eq!((at_proxy.recv().await, at_server.recv().await), (Some(false), Some(true)));
    }
    let (foreign, mut at_foreign) = listening(&other, &ours, true).await;
    let refused = dial(&endpoint(server, foreign, &trust, Some(&me)), PATIENCE).await;
    let error = refused.err().unwrap();
    assert!(matches!(error, DialError::Tls(_)), "{error}");
    dial(&endpoint(server, foreign, &Trust::Anybody, Some(&me)), PATIENCE).await.unwrap();
    assert_eq!((at_foreign.recv().await, at_server.recv().await), (Some(false), Some(true)));
}
