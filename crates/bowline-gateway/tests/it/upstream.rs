//! A gateway before an API server: what passes, what does not, and how faults come out.

use std::convert::Infallible;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bowline_gateway::callers::passed::Passed;
use bowline_gateway::callers::{Caller, Callers, Onward, Vouching};
use bowline_gateway::clusters::Clusters;
use bowline_gateway::components::Components;
use bowline_gateway::gates::Gates;
use bowline_gateway::rest::Rest;
use bowline_gateway::route::Route;
use bowline_gateway::server::Gateway;
use bowline_gateway::upstream::{ApiServer, FarCarrier};
use bowline_io::access::Access;
use bowline_io::auth::User;
use bowline_io::dial::Endpoint;
use bowline_io::record::Requester;
use bowline_io::serve::{Limits, Sessions, serve};
use bytes::Bytes;
use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper::server::conn::http2 as http2_server;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::client::{ask, code, head_of, message, upgrade};

/// An API server whose connections the test plays: it gets the head of each first request.
pub async fn played<F>(play: impl Fn(String, TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let head = head_of(&mut stream).await;
            tokio::spawn(play(head, stream));
        }
    });
    address
}

/// An API server that says what it was asked.
async fn echo() -> SocketAddr {
    played(|head, mut stream| async move {
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nWarning: 299 - \"w\"\r\nAudit-Id: 7\r\n\
             Content-Encoding: x\r\nAlt-Svc: h3\r\nConnection: close\r\n\r\n{head}",
            head.len()
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await
}

pub fn api_server(address: SocketAddr, prefix: &str) -> Arc<ApiServer> {
    let (host, port) = (address.ip().to_string(), address.port());
    let endpoint = Endpoint { host, port, tls: None, proxy: None };
    let own = vec![(header::AUTHORIZATION, HeaderValue::from_static("Bearer own"))];
    let own = Access::fixed(endpoint.clone(), own);
    let bare = Access::fixed(endpoint, Vec::new());
    Arc::new(ApiServer::new(own, bare, prefix, FarCarrier::Auto))
}

/// A gateway before an API server, which is there by the name `x` as well.
pub async fn gateway(upstream: SocketAddr, prefix: &str) -> SocketAddr {
    let server = api_server(upstream, prefix);
    let callers = Arc::new(Passed::new(server.clone(), Vouching::Nobody, None));
    gateway_with(server, callers).await
}

/// The same with other callers.
pub async fn gateway_with(server: Arc<ApiServer>, callers: Arc<dyn Callers>) -> SocketAddr {
    let (backend, rest) = (Arc::new(server.clone()), Arc::new(server));
    let components = Components { callers, backend, rest };
    let sessions = Sessions::default();
    let gateway = Gateway::new(components, Gates::default(), sessions.clone());
    let clusters = Clusters::new([("x".to_owned(), gateway)]);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = move |peer, request| clusters.clone().answer(peer, request);
    tokio::spawn(serve(listener, None, Limits::default(), sessions, service));
    address
}

fn sorted(head: &str) -> Vec<String> {
    let mut lines: Vec<_> = head.trim().lines().skip(1).map(str::to_ascii_lowercase).collect();
    lines.sort();
    lines
}

#[tokio::test]
async fn a_request_and_its_answer_pass_as_they_are() {
    let upstream = echo().await;
    let gateway = gateway(upstream, "").await;
    let target = "/api/v1/a%2Fb//c;d?x=%20&y=+&z=%zz&watch=0";
    let lines = "Authorization: Bearer secret\r\nAccept: a/b\r\nConnection: authorization, \
    x-hop\r\n\
                 X-Hop: 1\r\nX-Forwarded-For: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\n\
                 X-Remote-User: root\r\nImpersonate-User: joe\r\nKeep-Alive: 5\r\n\
                 User-Agent: kubectl\r\n";
    let (status, head) = ask(gateway, "GET", target, lines).await;
    assert_eq!(status, 200);
    assert!(head.starts_with(&format!("GET {target} HTTP/1.1\r\n")), "{head}");
    let mut expected = vec![
        "accept: a/b".to_owned(),
        "authorization: bearer secret".to_owned(),
        format!("host: {upstream}"),
        "impersonate-user: joe".to_owned(),
        "user-agent: kubectl".to_owned(),
        "x-forwarded-for: 127.0.0.1".to_owned(),
        "x-forwarded-host: gateway".to_owned(),
        "x-forwarded-proto: http".to_owned(),
    ];
    expected.sort();
    assert_eq!(sorted(&head), expected);

    let mut stream = TcpStream::connect(gateway).await.unwrap();
    let request = "GET /clusters/x/api?y HTTP/1.1\r\nHost: gateway\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = head_of(&mut stream).await.to_ascii_lowercase();
    for line in ["warning: 299 - \"w\"", "audit-id: 7", "content-encoding: x", "content-length: "] {
        assert!(head.contains(&format!("\r\n{line}")), "{head}");
    }
    assert!(!head.contains("alt-svc") && !head.contains("\r\nconnection: close"), "{head}");
    let mut asked = [0; 15];
    stream.read_exact(&mut asked).await.unwrap();
    assert_eq!(&asked, b"GET /api?y HTTP");
}

#[tokio::test]
async fn a_path_in_front_of_the_api_cannot_be_left() {
    let gateway = gateway(echo().await, "/k8s/1/").await;
    let (_, head) = ask(gateway, "GET", "/api?x", "").await;
    assert!(head.starts_with("GET /k8s/1/api?x HTTP/1.1\r\n"), "{head}");
    for path in ["/../2/api", "/%2e%2e/2/api", "/a/..%2f..%2f2"] {
        assert_eq!(ask(gateway, "GET", path, "").await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn who_cannot_be_reached_says_when_to_ask_again() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    let mut stream = TcpStream::connect(gateway(nobody, "").await).await.unwrap();
    let request = "GET /api HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = head_of(&mut stream).await;
    assert!(head.contains("\r\nRetry-After: 1\r\n"), "{head}");
    let mut body = String::new();
    stream.read_to_string(&mut body).await.unwrap();
    assert_eq!(code(&head), 503);
    assert!(body.contains(r#""reason":"ServiceUnavailable""#), "{body}");
    let expected =
        format!("error dialing the API server: dial tcp {nobody}: connect: connection refused");
    assert_eq!(message(&body), expected);
    // What may have been done is not to be done again.
    let mute = played(|_, stream| async move { drop(stream) }).await;
    let (status, body) =
        ask(gateway(mute, "").await, "POST", "/api", "Content-Length: 0\r\n").await;
    assert_eq!(status, 502);
    assert_eq!(message(&body), "the API server gave no answer: unexpected EOF");
}

/// A second counts as one moment: who asks needs no leave to.
#[tokio::test]
async fn it_is_ready_while_an_api_server_is_there() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let answering = async |status: &'static str| {
        let count = count.clone();
        let server = played(move |head, mut stream| {
            assert!(head.starts_with("GET /readyz HTTP/1.1\r\n"), "{head}");
            assert!(!head.to_lowercase().contains("authorization"), "{head}");
            count.fetch_add(1, Ordering::Relaxed);
            async move {
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
                let _ = stream.read_u8().await;
            }
        });
        gateway(server.await, "").await
    };
    for (status, code) in [("200 OK", 200), ("401 Unauthorized", 200), ("500 Not Ready", 503)] {
        let (gateway, before) = (answering(status).await, asked.load(Ordering::Relaxed));
        for _ in 0..3 {
            assert_eq!(ask(gateway, "GET", "/readyz", "").await.0, code, "{status}");
        }
        assert_eq!(asked.load(Ordering::Relaxed) - before, 1);
    }
    let mute = played(|_, mut stream| async move {
        let _ = stream.read_u8().await;
    });
    let mute = gateway(mute.await, "").await;
    tokio::time::pause();
    assert_eq!(ask(mute, "GET", "/readyz", "").await, (503, "not ready".to_owned()));
    assert_eq!(ask(mute, "GET", "/livez", "").await.0, 200);
}

#[tokio::test]
async fn nothing_is_switched_that_nobody_asked_for() {
    let switching = played(|_, mut stream| async move {
        let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let _ = stream.read_u8().await;
    })
    .await;
    let gateway = gateway(switching, "").await;
    let (status, _) = ask(gateway, "GET", "/api", "Upgrade: x\r\n").await;
    assert_eq!(status, 502);
    for target in ["api:443", "/api"] {
        assert_ne!(ask(gateway, "CONNECT", target, "").await.0 / 100, 1, "{target}");
        assert_ne!(ask(gateway, "CONNECT", target, "").await.0 / 100, 2, "{target}");
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_is_cut_for_the_client() {
    let cut = played(|_, mut stream| async move {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
    })
    .await;
    let mut stream = TcpStream::connect(gateway(cut, "").await).await.unwrap();
    stream.write_all(b"GET /api HTTP/1.1\r\nHost: gateway\r\n\r\n").await.unwrap();
    assert_eq!(code(&head_of(&mut stream).await), 200);
    let mut body = String::new();
    let _ = stream.read_to_string(&mut body).await;
    assert!(!body.contains("0\r\n\r\n"), "{body}");
}

#[tokio::test]
async fn a_client_that_goes_ends_its_watch_at_the_api_server() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let upstream = played(move |_, mut stream| {
        let tell = tell.clone();
        async move {
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nevent\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            let ended = stream.read(&mut [0]).await;
            tell.send(matches!(ended, Ok(0) | Err(_))).unwrap();
        }
    })
    .await;
    let mut stream = TcpStream::connect(gateway(upstream, "").await).await.unwrap();
    stream.write_all(b"GET /api/v1/pods?watch=1 HTTP/1.1\r\nHost: gateway\r\n\r\n").await.unwrap();
    head_of(&mut stream).await;
    let mut event = [0; 10];
    stream.read_exact(&mut event).await.unwrap();
    assert_eq!(&event, b"5\r\nevent\r\n");
    drop(stream);
    assert_eq!(told.recv().await, Some(true));
}

#[tokio::test]
async fn redirects_lead_to_where_the_client_finds_them_or_nowhere() {
    let upstream = played(|head, mut stream| async move {
        let to = head.split(' ').nth(1).unwrap().split_once('?').unwrap().1.to_owned();
        let answer = format!("HTTP/1.1 301 Moved\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    let gateway = gateway(upstream, "").await;
    for (target, expected) in [
        ("/api?/api/", Some("/api/".to_owned())),
        ("/clusters/x/api?/api/", Some("/clusters/x/api/".to_owned())),
        (&format!("/clusters/x/api?http://{upstream}/b"), Some("/clusters/x/b".to_owned())),
        ("/apis/e.io/v1?https://evil/", None),
        ("/api/v1/namespaces/a/pods/b/proxy/?https://sso/", Some("https://sso/".to_owned())),
    ] {
        let mut stream = TcpStream::connect(gateway).await.unwrap();
        let request = format!("GET {target} HTTP/1.1\r\nHost: gateway\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let head = head_of(&mut stream).await;
        match expected {
            Some(to) => assert!(head.contains(&format!("\r\nLocation: {to}\r\n")), "{head}"),
            None => assert_eq!(code(&head), 502, "{head}"),
        }
    }
}

const WEBSOCKET: &str = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-Forwarded-For: 1.2.3.4\r\n";

const SPDY: &str = "Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n";

#[tokio::test]
async fn an_upgrade_that_is_none_of_ours_passes_unread() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let upstream = played(move |head, mut stream| {
        tell.send(head).unwrap();
        async move {
            let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                        Upgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\nearly";
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut bytes = [0; 4];
            stream.read_exact(&mut bytes).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        }
    })
    .await;
    let gateway = gateway(upstream, "").await;
    let target = "/api/v1/namespaces/a/services/b/proxy/ws?x=%20";
    let (head, mut stream) = upgrade(gateway, "GET", target, WEBSOCKET).await;
    assert_eq!(code(&head), 101, "{head}");
    assert!(head.contains("\r\nSec-Websocket-Accept: x\r\n"), "{head}");
    let mut early = [0; 5];
    stream.read_exact(&mut early).await.unwrap();
    assert_eq!(&early, b"early");
    stream.write_all(b"ping").await.unwrap();
    let mut back = String::new();
    stream.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, "ping");
    let asked = told.recv().await.unwrap().to_ascii_lowercase();
    for line in ["authorization: bearer good", "connection: upgrade", "x-forwarded-for: 127.0.0.1"]
    {
        assert_eq!(asked.matches(&format!("\r\n{line}\r\n")).count(), 1, "{asked}");
    }
}

/// CVE-2018-1002105.
#[tokio::test]
async fn no_connection_is_left_of_an_upgrade_that_was_refused() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let upstream = played(move |_, mut stream| {
        let tell = tell.clone();
        async move {
            let body = "x".repeat(200_000);
            let answer = format!("HTTP/1.1 403 Forbidden\r\nContent-Length: 200000\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await.unwrap();
            let ended = stream.read(&mut [0]).await;
            tell.send(matches!(ended, Ok(0) | Err(_))).unwrap();
        }
    })
    .await;
    let gateway = gateway(upstream, "").await;
    let target = "/api/v1/namespaces/a/services/b/proxy/";
    let (head, mut stream) = upgrade(gateway, "GET", target, WEBSOCKET).await;
    assert_eq!(code(&head), 403);
    stream.read_exact(&mut vec![0; 200_000]).await.unwrap();
    let _ = stream.write_all(b"GET /secret HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut behind = Vec::new();
    let _ = stream.read_to_end(&mut behind).await;
    assert!(behind.is_empty());
    assert_eq!(told.recv().await, Some(true), "nothing came behind the request");
}

#[tokio::test]
async fn streams_need_the_leave_to_create() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let upstream = played(move |head, mut stream| {
        let tell = tell.clone();
        async move {
            tell.send(head.lines().next().unwrap().to_owned()).unwrap();
            let body = r#"{"status":{"allowed":false}}"#;
            let answer =
                format!("HTTP/1.1 201 Created\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    })
    .await;
    let kubelets = "/api/v1/nodes/n/proxy/exec/ns/p/c?command=id";
    let pods = "/api/v1/namespaces/a/pods/b/exec?command=id";
    // A POST may become a GET on the way to the API server.
    for (method, target, lines) in
        [("GET", kubelets, WEBSOCKET), ("GET", pods, WEBSOCKET), ("POST", pods, SPDY)]
    {
        let (head, _stream) = upgrade(gateway(upstream, "").await, method, target, lines).await;
        assert_eq!(code(&head), 403, "{head}");
        let asked = told.recv().await.unwrap();
        let expected = "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews HTTP/1.1";
        assert_eq!(asked, expected, "{method} {target}");
    }
    let gateway = gateway(upstream, "").await;
    for target in ["/api/v1/nodes/n/proxy//exec/ns/p/c", "//api/v1/nodes/n/proxy/exec/ns/p/c"] {
        let (head, _stream) = upgrade(gateway, "GET", target, WEBSOCKET).await;
        assert_eq!(code(&head), 404, "{target}");
    }
}

/// The `Rest` alone behind a server of HTTP/2, for bodies.
async fn rest_alone(server: Arc<ApiServer>) -> http2::SendRequest<Full<Bytes>> {
    let (client, near) = tokio::io::duplex(64 * 1024);
    let service = service_fn(move |request| {
        let server = server.clone();
        async move {
            let peer = ([10, 0, 0, 1], 1).into();
            let caller = Caller {
                user: User::default(),
                requester: Requester::at(peer),
                is_authenticated: false,
                onward: Onward::default(),
            };
            let route = Route::Other { path: String::new() };
            let answer = server.answer(&caller, &route, request, &Sessions::default()).await;
            Ok::<_, Infallible>(answer.unwrap_or_else(|refusal| refusal.reply()))
        }
    });
    let builder = http2_server::Builder::new(TokioExecutor::new());
    tokio::spawn(builder.serve_connection(TokioIo::new(near), service));
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(client)).await.unwrap();
    tokio::spawn(connection);
    sender
}

#[tokio::test]
async fn bodies_and_cuts_pass_over_http2() {
    let upstream = played(|head, mut stream| async move {
        let length: usize = sorted(&head)
            .iter()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
            .unwrap();
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        let promised = length + usize::from(head.contains("/cut "));
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {promised}\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.write_all(&body).await.unwrap();
    })
    .await;
    let mut sender = rest_alone(api_server(upstream, "")).await;
    let sent = Bytes::from(vec![7; 3 * 1024 * 1024]);
    let request = |path: &str| {
        let uri = format!("http://gw{path}");
        Request::post(uri).body(Full::new(sent.clone())).unwrap()
    };
    let answer = sender.send_request(request("/whole")).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), sent);
    let answer = sender.send_request(request("/cut")).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.into_body().collect().await.is_err());
}
