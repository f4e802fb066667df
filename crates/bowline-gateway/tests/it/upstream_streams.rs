//! Streams of pods through a gateway to an API server: over which carrier, as whom, with what.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bowline_gateway::callers::Vouching;
use bowline_gateway::callers::checked::Checked;
use bowline_proto::websocket::accept_key;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{SPDY as SPDY_FORWARD, WEBSOCKET, ask, code, get, message, upgrade};
use crate::components::{AllowAll, OneToken};
use crate::upstream::{api_server as server_at, gateway, gateway_with, played};

const EXEC: &str = "/api/v1/namespaces/ns/pods/web/exec?command=a%20b&container=c&stdout=1&x=%2F";
const FORWARD: &str = "/api/v1/namespaces/ns/pods/web/portforward";
const SPDY_EXEC: &str = "Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n";
const TUNNEL: &str = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
     Sec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io\r\n";

/// What an API server takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Everything,
    SpdyAlone,
    WebSocketAlone,
    Nothing,
    /// It goes away without an answer.
    NotEvenThat,
}

/// An API server that allows everything, answers streams as it takes them, and keeps their heads.
async fn api_server(takes: Takes) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let kept = heads.clone();
    let address = played(move |head, mut stream| {
        let kept = kept.clone();
        async move {
            let header = |name: &str| {
                let line = head.lines().find_map(|line| {
                    let (key, value) = line.split_once(": ")?;
                    key.eq_ignore_ascii_case(name).then_some(value)
                });
                line.unwrap_or_default().to_owned()
            };
            let (key, protocol) = (header("sec-websocket-key"), header("sec-websocket-protocol"));
            let is_websocket = !key.is_empty();
            let answer = if head.contains("selfsubjectaccessreviews") {
                let body = "{\"status\":{\"allowed\":true}}";
                format!(
                    "HTTP/1.1 201 Created\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                )
            } else {
                let is_taken = match takes {
                    Takes::Everything => true,
                    Takes::SpdyAlone => !is_websocket,
                    Takes::WebSocketAlone => is_websocket,
                    Takes::Nothing | Takes::NotEvenThat => false,
                };
                let spdy = header("x-stream-protocol-version");
                let switched = if is_websocket {
                    let accept = accept_key(&key);
                    format!(
                        "Upgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\
                         Sec-WebSocket-Protocol: {protocol}\r\n"
                    )
                } else {
                    let spdy = if spdy.is_empty() { "v4.channel.k8s.io" } else { &spdy };
                    format!("Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {spdy}\r\n")
                };
                kept.lock().unwrap().push(head);
                if takes == Takes::NotEvenThat {
                    return;
                }
                if is_taken {
                    format!(
                        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n{switched}\r\n"
                    )
                } else {
                    let body = "{\"kind\":\"Status\",\"message\":\"pods \\\"web\\\" not found\",\
                                \"reason\":\"NotFound\",\"code\":404}";
                    format!(
                        "HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\nConnection: close\r\n\r\n\
                         {body}",
                        body.len()
                    )
                }
            };
            stream.write_all(answer.as_bytes()).await.unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        }
    });
    (address.await, heads)
}

/// The first words of the heads so far, which are forgotten.
fn asked(heads: &Mutex<Vec<String>>) -> Vec<String> {
    let carrier = |head: &String| {
        let what = head.split([' ', '?']).nth(1).unwrap().rsplit('/').next().unwrap().to_owned();
        let method = head.split(' ').next().unwrap();
        let upgrade = if head.contains("SPDY/3.1\r\n") { "SPDY" } else { "WebSocket" };
        format!("{method} {what} {upgrade}")
    };
    std::mem::take(&mut *heads.lock().unwrap()).iter().map(carrier).collect()
}

#[tokio::test]
async fn any_client_reaches_a_server_that_speaks_one_carrier_alone() {
    for (takes, is_refused) in
        [(Takes::Everything, false), (Takes::SpdyAlone, true), (Takes::WebSocketAlone, false)]
    {
        for (method, path, lines, what) in [
            ("GET", EXEC, WEBSOCKET, "exec"),
            ("POST", EXEC, SPDY_EXEC, "exec"),
            ("GET", EXEC, SPDY_EXEC, "exec"),
            ("GET", FORWARD, TUNNEL, "portforward"),
            ("POST", FORWARD, SPDY_FORWARD, "portforward"),
            ("GET", FORWARD, SPDY_FORWARD, "portforward"),
        ] {
            let (server, heads) = api_server(takes).await;
            let gateway = gateway(server, "").await;
            let websocket = format!("GET {what} WebSocket");
            // By the client's own method, which is the verb that the server judges.
            let spdy = format!("{method} {what} SPDY");
            let (first, then) = if is_refused {
                (vec![websocket, spdy.clone()], vec![spdy])
            } else {
                (vec![websocket.clone()], vec![websocket])
            };
            for expected in [first, then] {
                let (head, _stream) = upgrade(gateway, method, path, lines).await;
                assert_eq!(code(&head), 101, "{method} {path}: {head}");
                assert_eq!(asked(&heads), expected, "{method} {path}");
            }
        }
    }
}

#[tokio::test]
async fn a_stream_goes_on_as_who_asked_with_the_query_as_it_came() {
    let (server, heads) = api_server(Takes::Everything).await;
    let gateway = gateway(server, "/prefix").await;
    let lines = format!(
        "{WEBSOCKET}User-Agent: kubectl/1\r\nImpersonate-User: joe\r\nX-Remote-User: root\r\n\
         X-Forwarded-For: 1.2.3.4\r\nCookie: secret\r\n"
    );
    let (head, _stream) = upgrade(gateway, "GET", EXEC, &lines).await;
    assert_eq!(code(&head), 101);
    let head = heads.lock().unwrap().pop().unwrap();
    assert!(head.starts_with(&format!("GET /prefix{EXEC} HTTP/1.1\r\n")), "{head}");
    let head = head.to_lowercase();
    for there in
        ["authorization: bearer good\r\n", "impersonate-user: joe\r\n", "user-agent: kubectl/1\r\n"]
    {
        assert_eq!(head.matches(there).count(), 1, "{there} in {head}");
    }
    for absent in ["x-remote-user", "1.2.3.4", "cookie", "bearer own"] {
        assert!(!head.contains(absent), "{absent} in {head}");
    }
}

#[tokio::test]
async fn a_refusal_is_the_servers_own_and_nothing_is_remembered_of_it() {
    let (server, heads) = api_server(Takes::Nothing).await;
    let gateway = gateway(server, "").await;
    for _ in 0..2 {
        let lines = format!("Authorization: Bearer good\r\nConnection: Upgrade\r\n{WEBSOCKET}");
        let (code, body) = ask(gateway, "GET", EXEC, &lines).await;
        assert_eq!((code, &*message(&body)), (404, "pods \"web\" not found"));
        assert_eq!(asked(&heads), ["GET exec WebSocket", "GET exec SPDY"]);
    }
}

/// An API server that takes requests for those of the gateway's own user, or for whom it names.
#[derive(Debug, Default)]
struct Front {
    believes: AtomicBool,
    has_reviews: bool,
    /// It goes away without an answer.
    is_down: AtomicBool,
    /// What it was asked, without what the gateway asks itself.
    asked: Mutex<Vec<String>>,
    reviews: AtomicUsize,
}

/// Plays it, and puts a gateway before it that is a front proxy.
async fn before_front(front: &Arc<Front>) -> SocketAddr {
    let played_front = front.clone();
    let play = move |head: String, mut stream: TcpStream| {
        let front = played_front.clone();
        async move {
            let Front { has_reviews, .. } = *front;
            let named = head.lines().find_map(|line| line.strip_prefix("X-Remote-User: "));
            let believes = front.believes.load(Ordering::Relaxed);
            let name = named.filter(|_| believes).unwrap_or("gateway");
            let is_review = head.contains("selfsubjectreviews");
            if is_review {
                front.reviews.fetch_add(1, Ordering::Relaxed);
            } else if !head.contains("/secrets/") {
                front.asked.lock().unwrap().push(head.clone());
            }
            if front.is_down.load(Ordering::Relaxed) {
                return;
            }
            let (code, body) = match (is_review, has_reviews) {
                (true, true) => {
                    (201, format!("{{\"status\":{{\"userInfo\":{{\"username\":\"{name}\"}}}}}}"))
                }
                (true, false) => (404, String::new()),
                (false, _) if head.contains("/secrets/") => {
                    (403, format!("User \\\"{name}\\\" cannot"))
                }
                (false, _) => (200, format!("as {name}")),
            };
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {code} X\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    };
    let callers = Checked {
        authenticator: Arc::new(OneToken),
        token_reviewer: None,
        authorizer: Arc::new(AllowAll),
        vouching: Some(Vouching::RequestHeader),
    };
    gateway_with(server_at(played(play).await, ""), Arc::new(callers)).await
}

/// Lets the time pass.
async fn later(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// Else everybody would be the gateway's own user.
#[tokio::test]
async fn users_are_named_only_to_a_server_that_believes_the_gateway() {
    for (believes, has_reviews) in [(true, true), (true, false), (false, true), (false, false)] {
        let front = Front { believes: believes.into(), has_reviews, ..Front::default() };
        let gateway = before_front(&Arc::new(front)).await;
        let (code, body) = get(gateway, "/api").await;
        let expected = if believes { (200, "as jane") } else { (401, "Unauthorized") };
        let said = if believes { body } else { message(&body) };
        assert_eq!((code, &*said), expected, "{believes} {has_reviews}");
    }
}

/// It may have begun anew with other flags.
#[tokio::test]
async fn that_a_server_believes_the_gateway_does_not_count_for_long() {
    let front = Arc::new(Front { has_reviews: true, ..Front::default() });
    front.believes.store(true, Ordering::Relaxed);
    let gateway = before_front(&front).await;
    let asked = || std::mem::take(&mut *front.asked.lock().unwrap()).len();
    let reviews = || front.reviews.load(Ordering::Relaxed);

    // All who come at once wait for one answer, which counts for a while.
    let all = [(); 8].map(|()| tokio::spawn(async move { get(gateway, "/api").await }));
    for one in all {
        assert_eq!(one.await.unwrap(), (200, "as jane".to_owned()));
    }
    later(Duration::from_secs(4)).await;
    assert_eq!(get(gateway, "/api").await.0, 200);
    assert_eq!((asked(), reviews()), (9, 1));

    front.believes.store(false, Ordering::Relaxed);
    later(Duration::from_secs(1)).await;
    assert_eq!(get(gateway, "/api").await.0, 401);
    let (head, _) = upgrade(gateway, "GET", EXEC, WEBSOCKET).await;
    assert_eq!(code(&head), 401);
    let (head, _) = upgrade(gateway, "GET", "/api/v1/nodes/a/proxy/", WEBSOCKET).await;
    assert_eq!(code(&head), 401);
    assert_eq!((asked(), reviews()), (0, 4), "nothing was asked as the gateway");

    // As soon as it believes, without a wait.
    front.believes.store(true, Ordering::Relaxed);
    assert_eq!(get(gateway, "/api").await.0, 200);
    assert_eq!((asked(), reviews()), (1, 5));
}

#[tokio::test]
async fn a_server_that_was_lost_is_asked_again_whether_it_believes_the_gateway() {
    for target in ["/api", EXEC, "/api/v1/nodes/a/proxy/"] {
        let front = Arc::new(Front { has_reviews: true, ..Front::default() });
        front.believes.store(true, Ordering::Relaxed);
        let gateway = before_front(&front).await;
        assert_eq!(get(gateway, "/api").await.0, 200);
        front.is_down.store(true, Ordering::Relaxed);
        let lost = async || match target {
            "/api" => get(gateway, target).await.0,
            _ => code(&upgrade(gateway, "GET", target, WEBSOCKET).await.0),
        };
        assert!(lost().await >= 500, "{target}");
        front.is_down.store(false, Ordering::Relaxed);
        front.believes.store(false, Ordering::Relaxed);
        front.asked.lock().unwrap().clear();
        assert_eq!(lost().await, 401, "{target}");
        assert_eq!(*front.asked.lock().unwrap(), [""; 0], "{target}");
    }
}

/// A server that has said nothing may have begun the command.
#[tokio::test]
async fn a_command_is_asked_for_once_where_it_may_have_begun() {
    let (server, heads) = api_server(Takes::NotEvenThat).await;
    let gateway = gateway(server, "").await;
    let attach = EXEC.replace("/exec?", "/attach?");
    for (path, expected) in [
        (EXEC, vec!["GET exec WebSocket"]),
        (&*attach, vec!["GET attach WebSocket", "GET attach SPDY"]),
    ] {
        let (head, _stream) = upgrade(gateway, "GET", path, WEBSOCKET).await;
        assert_eq!(code(&head), 500, "{head}");
        assert_eq!(asked(&heads), expected);
    }
}
