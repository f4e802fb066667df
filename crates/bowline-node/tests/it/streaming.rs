//! A runtime's streaming server: URLs that are used once.

use std::net::SocketAddr;
use std::sync::Arc;

use bowline_node::runtime::{Session, Upstream};
use bowline_node::streaming::{Offer, Stream, Streaming};
use bowline_proto::kept::{Mode, refused};
use bowline_proto::session::Outcome;
use bowline_proto::session::protocol::Carrier;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::client::{CARRIERS, WANTS, get, refused, run, server, through};
use crate::kept::{Player, Until};
use crate::memory::{Memory, echo, ports};
use crate::node::Node;

fn exec(session: Session) -> Offer {
    let session = Box::pin(async { Ok(session) });
    Offer {
        name: "c1".into(),
        stream: Stream::Exec { wants: WANTS, command: Some(Vec::new()), session },
        unknown: None,
    }
}

fn forward() -> Offer {
    let forwarding = Box::pin(async { Ok(ports()) });
    let stream = Stream::PortForward { ports: Vec::new(), forwarding };
    Offer { name: "s1".into(), stream, unknown: None }
}

/// What is in front of a runtime's server.
fn before(address: SocketAddr) -> Offer {
    let unknown = Some(Upstream::spdy(format!("http://{address}/exec/secret")));
    Offer { unknown, ..exec(echo(&[])) }
}

/// The path of a new URL.
fn path(streaming: &Streaming, offer: Offer) -> String {
    let url = streaming.url(offer, 0).unwrap();
    format!("/{}", url.splitn(4, '/').last().unwrap())
}

/// A server that gives one answer, and then says again what it is told. It returns the request.
async fn echoing(answer: &'static str) -> (SocketAddr, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let request = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            assert!(stream.read_buf(&mut request).await.unwrap() > 0);
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        let (mut from, mut to) = stream.into_split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
        String::from_utf8(request).unwrap()
    });
    (address, request)
}

#[tokio::test]
async fn each_kind_of_stream_has_urls() {
    let (node, streaming) = Node::streaming().await;
    for carrier in CARRIERS {
        let at = path(&streaming, exec(echo(&["exit", "7"])));
        let ended = run(node.address, &at, carrier, "hello").await.unwrap();
        assert_eq!((&*ended.stdout, ended.end), ("hello", Ok(Outcome::Exited(7))));
        let session = Box::pin(async { Ok(echo(&[])) });
        let stream = Stream::Attach { wants: WANTS, session };
        let attach = Offer { name: "c1".into(), stream, unknown: None };
        let at = path(&streaming, attach);
        assert!(at.starts_with("/attach/"), "{at}");
        let ended = run(node.address, &at, carrier, "hello").await.unwrap();
        assert_eq!((&*ended.stdout, ended.end), ("hello", Ok(Outcome::Success)));
        let at = path(&streaming, forward());
        assert_eq!(through(node.address, &at, carrier, 80, "abc").await.unwrap(), "cba");
    }
}

#[tokio::test]
async fn a_command_is_kept_for_its_container() {
    let (node, streaming) = Node::streaming().await;
    let offer = |name: &str, words: &[&str]| {
        let session = echo(words);
        let command = Some(words.iter().map(|&word| word.to_owned()).collect());
        let session = Box::pin(async { Ok(session) });
        Offer {
            name: name.into(),
            stream: Stream::Exec { wants: WANTS, command, session },
            unknown: None,
        }
    };
    let mut player = Player::start(&node, 1, &["exit", "7"]).stdin(b"hello".to_vec());
    player.path = path(&streaming, offer("c1", &["exit", "7"]));
    player.connect(Until::Moved(100)).await.unwrap();
    // Another container's request does not get there.
    let mut other = Player::resume(&node, 1, Mode::Take, None);
    other.resume_path = path(&streaming, offer("c2", &["@bowline", "resume"]));
    other.play(&[]).await;
    assert_eq!(other.refusal(), refused::UNKNOWN);
    while player.end.is_none() {
        player.path = path(&streaming, offer("c1", &["exit", "7"]));
        player.resume_path = path(&streaming, offer("c1", &["@bowline", "resume"]));
        player.connect(Until::End).await.unwrap();
    }
    assert_eq!(player.outcome(), &Outcome::Exited(7));
    assert_eq!(player.out[0], b"hello");
}

#[tokio::test]
async fn a_url_is_used_up_by_any_request() {
    let (node, streaming) = Node::streaming().await;
    let unknown = (404, "404 page not found".to_owned());
    let at = path(&streaming, exec(echo(&[])));
    run(node.address, &at, Carrier::Spdy, "").await.unwrap();
    assert_eq!(refused(run(node.address, &at, Carrier::Spdy, "").await), unknown);
    // By one that is no upgrade,
    let at = path(&streaming, exec(echo(&[])));
    assert_eq!(refused(get(node.address, &at).await), (400, "Upgrade request required".into()));
    assert_eq!(refused(run(node.address, &at, Carrier::Spdy, "").await), unknown);
    // and by one for another kind of stream.
    let at = path(&streaming, exec(echo(&[])));
    let other = at.replace("/exec/", "/attach/");
    assert_eq!(refused(run(node.address, &other, Carrier::Spdy, "").await), unknown);
    assert_eq!(refused(run(node.address, &at, Carrier::Spdy, "").await), unknown);
    for at in ["/exec/AAAAAAAA", "/portforward/AAAAAAAA"] {
        assert_eq!(refused(get(node.address, at).await), unknown);
    }
    let none = (404, "404: Page Not Found".to_owned());
    assert_eq!(refused(get(node.address, "/run/x").await), none);
    let at = path(&streaming, exec(echo(&[])));
    let answer = server(node.address).ask(&at, "PUT", &[]).await;
    assert_eq!(refused(answer).0, 405);
}

#[tokio::test]
async fn whoever_asks_learns_whether_it_runs_and_its_runtime_is_there() {
    let (node, streaming) = Node::streaming().await;
    let at = path(&streaming, exec(echo(&[])));
    for path in ["/healthz", "/healthz/ping", "/readyz"] {
        assert_eq!(get(node.address, path).await.unwrap(), "ok\n", "{path}");
        for method in ["POST", "PUT", "HEAD"] {
            let answer = server(node.address).ask(path, method, &[]).await;
            assert_eq!(refused(answer).0, 405, "{method} {path}");
        }
    }
    for path in ["/healthz/", "/healthz/x", "/readyz/", "/readyz/ping", "/livez", "//readyz"] {
        assert_eq!(refused(get(node.address, path).await).0, 404, "{path}");
    }
    run(node.address, &at, Carrier::Spdy, "").await.unwrap();
    let unready = Memory { unready: Some("memory is full"), ..Memory::default() };
    let (unready, streaming) = Node::streaming_of(Arc::new(unready)).await;
    let answer = refused(get(unready.address, "/readyz").await);
    assert_eq!(answer, (503, "memory is full".into()));
    // Whoever restarts what is not healthy would end all sessions because of the runtime.
    assert_eq!(get(unready.address, "/healthz").await.unwrap(), "ok\n");
    let at = path(&streaming, exec(echo(&[])));
    run(unready.address, &at, Carrier::Spdy, "").await.unwrap();
}

#[tokio::test]
async fn a_thousand_urls_wait_and_no_more() {
    let (_node, streaming) = Node::streaming().await;
    for _ in 0..1000 {
        assert!(streaming.url(forward(), 0).is_some());
    }
    assert!(streaming.url(forward(), 0).is_none());
}

#[tokio::test]
async fn a_url_is_as_long_as_the_runtimes() {
    let (node, streaming) = Node::streaming().await;
    let shortest = format!("http://{}/portforward/12345678", node.address).len();
    for (wished, length) in [(0, shortest), (shortest, shortest), (shortest + 20, shortest + 20)] {
        assert_eq!(streaming.url(forward(), wished).unwrap().len(), length);
    }
}

/// What is spoken then is between the client and the runtime.
#[tokio::test]
async fn what_nobody_knows_yet_goes_to_the_runtime_as_it_came() {
    const ANSWER: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                          Upgrade: websocket\r\nSec-WebSocket-Protocol: v9.channel.k8s.io\r\n\
                          X-Own: 1\r\n\r\nfirst";
    let (runtime, request) = echoing(ANSWER).await;
    let (node, streaming) = Node::streaming().await;
    let at = path(&streaming, before(runtime));
    let asked = [
        ("Connection", "Upgrade".to_owned()),
        ("Upgrade", "websocket".to_owned()),
        ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==".to_owned()),
        ("Sec-WebSocket-Version", "13".to_owned()),
        ("Sec-WebSocket-Protocol", "v9.channel.k8s.io".to_owned()),
        ("X-Other", "2".to_owned()),
    ];
    let (head, mut connection) = server(node.address).ask(&at, "GET", &asked).await.unwrap();
    assert_eq!(head.headers["sec-websocket-protocol"], "v9.channel.k8s.io");
    assert_eq!(head.headers["x-own"], "1");
    connection.stream.write_all(b" and again").await.unwrap();
    let mut said = connection.early.to_vec();
    while said.len() < 15 {
        assert!(connection.stream.read_buf(&mut said).await.unwrap() > 0);
    }
    assert_eq!(said, b"first and again");
    drop(connection);
    let request = request.await.unwrap().to_ascii_lowercase();
    assert!(request.starts_with("get /exec/secret http/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("host: {runtime}\r\n")), "{request}");
    assert!(request.contains("sec-websocket-protocol: v9.channel.k8s.io\r\n"), "{request}");
    assert!(request.contains("x-other: 2\r\n"), "{request}");
}

#[tokio::test]
async fn the_runtimes_refusal_is_the_answer() {
    const ANSWER: &str =
        "HTTP/1.1 400 Bad Request\r\nContent-Length: 9\r\nX-Own: 1\r\n\r\nown words";
    let (runtime, _request) = echoing(ANSWER).await;
    let (node, streaming) = Node::streaming().await;
    let at = path(&streaming, before(runtime));
    assert_eq!(refused(get(node.address, &at).await), (400, "own words".into()));
}
