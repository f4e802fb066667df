//! A server that wants a certificate of its clients: what it has against the one that it gets, or
//! against none, comes after the handshake in TLS 1.3, and is the error, however it arrives.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bowline_io::dial::{Endpoint, Tls, dial};
use bowline_io::http::{request, upgrade};
use bowline_io::serve::{Limits, Sessions, body, serve};
use bowline_io::tls::{self, Identity, Trust};
use bytes::Bytes;
use http::{Request, Response};
use tokio::net::TcpListener;

use super::certificates::{Authority, FAR};

const PATIENCE: Duration = Duration::from_secs(60);

async fn server(authority: &Authority) -> (SocketAddr, Sessions) {
    let identity = authority.sign("localhost", FAR);
    let tls = tls::server(&identity, Some(authority.pem.as_bytes()), true).unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let sessions = Sessions::default();
    let service = |_, _| async { Response::new(body("ok")) };
    tokio::spawn(serve(listener, Some(tls), Limits::default(), sessions.clone(), service));
    (address, sessions)
}

fn endpoint(address: SocketAddr, authority: &Authority, identity: Option<&Identity>) -> Endpoint {
    let config = tls::client(&Trust::Ca(authority.pem.clone().into_bytes()), identity).unwrap();
    let tls = Some(Tls { config, server_name: Some("localhost".into()) });
    Endpoint { host: address.ip().to_string(), port: address.port(), tls, proxy: None }
}

#[tokio::test]
async fn the_alert_is_the_error() {
    let (authority, other) = (Authority::new("one"), Authority::new("other"));
    let (address, sessions) = server(&authority).await;
    let (expired, foreign) = (authority.sign("u", 2020), other.sign("u", FAR));
    for (identity, words) in [
        (None, "remote error: tls: certificate required"),
        (Some(&expired), "remote error: tls: expired certificate"),
        (Some(&foreign), "remote error: tls: unknown certificate authority"),
    ] {
        let endpoint = endpoint(address, &authority, identity);
        // Whether the request is on its way when the alert comes is chance.
        for _ in 0..20 {
            let stream = dial(&endpoint, PATIENCE).await.unwrap();
            // A target that fills the socket, so that the write is what fails.
            let long = format!("/?{}", "x".repeat(60_000));
            let head = Request::get(long).header("host", "h").body(Bytes::new()).unwrap();
            let error = request(stream, head, 1024, PATIENCE).await.unwrap_err();
            assert_eq!(error.to_string(), words);
            assert!(!error.is_cut(), "nothing that another try would mend");
            let stream = dial(&endpoint, PATIENCE).await.unwrap();
            let head = Request::get("/").header("host", "h").body(()).unwrap();
            let error = upgrade(stream, head, PATIENCE).await.unwrap_err();
            assert_eq!(error.to_string(), words);
        }
    }
    sessions.end.cancel();
}
