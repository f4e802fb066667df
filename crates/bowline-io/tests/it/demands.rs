//! An endpoint that somebody else has named: at which addresses, and whose certificate it has.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bowline_io::addresses::Permitted;
use bowline_io::dial::{Demands, DialError, Endpoint, Tls, dial_demanding};
use bowline_io::http::request;
use bowline_io::serve::{Limits, Sessions, body, serve};
use bowline_io::tls::{self, Trust};
use bytes::Bytes;
use http::{Request, Response};
use tokio::net::TcpListener;

use super::certificates::{Authority, FAR};

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn an_address_that_may_not_be_dialled_is_not() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let demanding = |networks: &[&str]| {
        let networks = networks.iter().map(|network| network.parse().unwrap()).collect();
        let addresses = Some(Arc::new(Permitted { networks }));
        Demands { addresses, ..Demands::default() }
    };
    // By its name as well, and however it is written.
    for host in ["127.0.0.1", "localhost", "::ffff:127.0.0.1"] {
        let endpoint = Endpoint { host: host.into(), port, tls: None, proxy: None };
        let refused = dial_demanding(&endpoint, &demanding(&["10.0.0.0/8"]), PATIENCE).await;
        let error = refused.err().unwrap();
        assert!(matches!(error, DialError::Forbidden { .. }), "{error}");
        assert!(error.to_string().contains(": address not allowed: "), "{error}");
        let allowed = demanding(&["127.0.0.0/8", "::1/128"]);
        dial_demanding(&endpoint, &allowed, PATIENCE).await.unwrap();
    }
    let accepted = async {
        for _ in 0..3 {
            listener.accept().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, accepted).await.unwrap();
    let more = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
    assert!(more.is_err(), "nobody else has connected");
}

#[tokio::test]
async fn a_certificate_is_that_of_whom_it_is_demanded_to_be() {
    let authority = Authority::new("one");
    let identity = authority.sign("system:node:a", FAR);
    let tls = tls::server(&identity, None, false).unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let sessions = Sessions::default();
    let service = |_, _| async { Response::new(body("ok")) };
    tokio::spawn(serve(listener, Some(tls), Limits::default(), sessions.clone(), service));
    let trust = Trust::Ca(authority.pem.clone().into_bytes());
    let config = tls::client(&trust, None).unwrap();
    let tls = Some(Tls { config, server_name: Some("localhost".into()) });
    let endpoint = Endpoint { host: "127.0.0.1".into(), port, tls, proxy: None };
    let demanding = |name: &str| Demands { common_name: Some(name.into()), ..Demands::default() };
    // More than once, and a whole exchange each time: sessions are resumed.
    for _ in 0..4 {
        let stream =
            dial_demanding(&endpoint, &demanding("system:node:a"), PATIENCE).await.unwrap();
        let head = Request::get("/").header("host", "h").body(Bytes::new()).unwrap();
        request(stream, head, 1024, PATIENCE).await.unwrap();
        let refused = dial_demanding(&endpoint, &demanding("system:node:b"), PATIENCE).await;
        assert_eq!(
            refused.err().unwrap().to_string(),
            "tls: the certificate has the common name \"system:node:a\", not \"system:node:b\""
        );
    }
    sessions.end.cancel();
}
