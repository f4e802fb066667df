//! Clients over real sockets to what a server makes of them; patience on a clock that is paused.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{HeaderName, HeaderValue, StatusCode};
use http_body::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::*;
use crate::request_target::query;

const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
/// More than a client's kernel and ours take for somebody who does not read.
const MUCH_BYTES: usize = 32 * 1024 * 1024;

/// A server whose service is `service`.
async fn server<S, F>(settings: impl Into<Settings> + Send + 'static, service: S) -> SocketAddr
where
    S: Fn(Peer, Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, None, settings.into(), Sessions::default(), service));
    address
}

fn ok(text: impl Into<Bytes>) -> Reply {
    Response::new(body(text))
}

/// One that answers everybody, and knows them or does not.
async fn simple(is_known: bool) -> SocketAddr {
    let service = move |peer: Peer, request: Request<Incoming>| async move {
        if is_known {
            peer.mark_authenticated();
        }
        ok(format!("{} {}", request.uri().path(), query(&request).len()))
    };
    server(Limits::default(), service).await
}

async fn dial(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

/// Sends, and reads until the end.
async fn ask(address: SocketAddr, sent: &[u8]) -> String {
    let mut client = dial(address).await;
    client.write_all(sent).await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

/// Reads one answer whose body is `text`.
async fn read_answer(client: &mut TcpStream, text: &str) {
    let mut found = Vec::new();
    while !found.ends_with(format!("\r\n\r\n{text}").as_bytes()) {
        found.push(client.read_u8().await.unwrap());
    }
}

/// When the server ends a connection on which nothing comes.
async fn ends_after(client: &mut TcpStream) -> Duration {
    let begun = Instant::now();
    let mut rest = Vec::new();
    let _ = client.read_to_end(&mut rest).await;
    begun.elapsed()
}

type Asked = (Request<Incoming>, oneshot::Sender<Reply>);

/// One whose requests the test answers.
async fn by_hand() -> (SocketAddr, UnboundedReceiver<Asked>) {
    let (asked, requests): (UnboundedSender<Asked>, _) = unbounded_channel();
    let service = move |peer: Peer, request| {
        let (reply, replied) = oneshot::channel();
        peer.mark_authenticated();
        asked.send((request, reply)).unwrap();
        async move { replied.await.unwrap() }
    };
    (server(Limits::default(), service).await, requests)
}

#[tokio::test]
async fn a_request_is_served_once_the_one_before_it_is_answered() {
    let (address, mut requests) = by_hand().await;
    let mut client = dial(address).await;
    let three: String = (1..=3).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: x\r\n\r\n")).collect();
    client.write_all(three.as_bytes()).await.unwrap();
    for n in 1..=3 {
        let (request, reply) = requests.recv().await.unwrap();
        assert_eq!(request.uri().path(), format!("/{n}"));
        tokio::task::yield_now().await;
        assert!(requests.try_recv().is_err());
        reply.send(ok(format!("answer {n}"))).unwrap();
        read_answer(&mut client, &format!("answer {n}")).await;
    }
}

#[tokio::test]
async fn requests_may_come_in_any_pieces() {
    let address = simple(false).await;
    let mut client = dial(address).await;
    for piece in
        ["\r\n\r\nGE", "T /a HTTP/1.1\r", "\nHost: x\r\n\r", "\nGET /b HTTP/1.1\nHost: x\n\n"]
    {
        client.write_all(piece.as_bytes()).await.unwrap();
        tokio::task::yield_now().await;
    }
    read_answer(&mut client, "/a 0").await;
    read_answer(&mut client, "/b 0").await;
}

#[tokio::test]
async fn long_queries_are_whole_on_every_request() {
    let mut client = dial(simple(true).await).await;
    for length in [10, 500_000, 20, 900_000] {
        let request = format!("GET /a?{} HTTP/1.1\r\nHost: x\r\n\r\n", "q".repeat(length));
        client.write_all(request.as_bytes()).await.unwrap();
        read_answer(&mut client, &format!("/a {length}")).await;
    }
}

#[tokio::test]
async fn what_is_no_request_is_refused_as_gos_servers_do() {
    let address = simple(false).await;
    for (head, line) in [
        ("GET / HTTP/1.1\r\n\r\n", "400 Bad Request: missing required Host header"),
        ("GET / HTTP/1.1\r\nHost : x\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400 Bad Request"),
        ("GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", "400 Bad Request"),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "400 Bad Request: malformed Host header"),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "400 Bad Request: malformed Host header"),
        ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", "400 Bad Request: malformed Host header"),
        ("GET / HTTP/1.1\r\nHost: \u{e9}\r\n\r\n", "400 Bad Request: malformed Host header"),
        // These are not at their end, and are refused all the same.
        ("hello\r\n", "400 Bad Request"),
        ("GET /\r\n", "400 Bad Request"),
        ("PRI * HTTP/2.0\r\n", "400 Bad Request"),
    ] {
        let answer = ask(address, head.as_bytes()).await;
        let first = answer.lines().next().unwrap_or_default();
        let expected = format!("HTTP/1.1 {line}");
        let is_right = if line == "400" { first.starts_with(&expected) } else { first == expected };
        assert!(is_right, "{head:?}: {answer:?}");
        assert!(line == "400" || answer.contains("X-Content-Type-Options: nosniff\r\n"));
        assert!(line == "400" || answer.ends_with(&format!("\r\n\r\n{line}")), "{answer:?}");
    }
    for head in [
        "GET / HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [::1]:80\r\nConnection: close\r\n\r\n",
        "GET http://x/ HTTP/1.1\r\nHost: a,b\r\nConnection: close\r\n\r\n",
    ] {
        let answer = ask(address, head.as_bytes()).await;
        assert!(answer.contains(" 200 OK\r\n"), "{head:?}: {answer:?}");
    }
}

#[tokio::test]
async fn a_head_without_an_end_is_refused_and_the_refusal_is_seen() {
    let address = simple(false).await;
    for begin in ["GET /", "GET / HTTP/1.1\r\nHost: x\r\nX: "] {
        let mut head = begin.as_bytes().to_vec();
        head.resize(5_000_000, b'x');
        let answer = ask(address, &head).await;
        let expected = "HTTP/1.1 431 Request Header Fields Too Large\r\n";
        assert!(answer.starts_with(expected), "{answer:?}");
    }
}

#[tokio::test]
async fn an_answer_comes_before_the_end_though_a_body_is_left() {
    for request_bodies in [false, true] {
        answer_before_a_body(Settings { request_bodies, ..Settings::default() }).await;
    }
}

async fn answer_before_a_body(settings: Settings) {
    let service = |_: Peer, request: Request<Incoming>| async move {
        ok(format!("{} 0", request.uri().path()))
    };
    let address = server(settings, service).await;
    let head = "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n";
    let mut sent = head.as_bytes().to_vec();
    // What looks like a request in it is none.
    sent.extend_from_slice(GET.as_bytes());
    sent.resize(head.len() + 3_000_000, b'x');
    let answer = ask(address, &sent).await;
    assert!(answer.ends_with("/a 0") && answer.matches("HTTP/1.1").count() == 1, "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn patience_with_silence() {
    for (is_known, idle) in [(false, 10), (true, 90)] {
        let address = simple(is_known).await;
        let mut client = dial(address).await;
        assert_eq!(ends_after(&mut client).await.as_secs(), 10, "no request");
        let mut client = dial(address).await;
        client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        assert_eq!(ends_after(&mut client).await.as_secs(), 10, "half a head");
        let mut client = dial(address).await;
        client.write_all(GET.as_bytes()).await.unwrap();
        read_answer(&mut client, "/ 0").await;
        assert_eq!(ends_after(&mut client).await.as_secs(), idle, "known: {is_known}");
        // Empty lines are nothing, and half of the next head is not one.
        let mut client = dial(address).await;
        client.write_all(format!("{GET}\r\n").as_bytes()).await.unwrap();
        read_answer(&mut client, "/ 0").await;
        sleep(Duration::from_secs(8)).await;
        client.write_all(b"\r\n").await.unwrap();
        let left = ends_after(&mut client).await.as_secs();
        assert!(left < idle - 7, "{left} s");
    }
}

/// A body of many pieces, counted as they are taken.
struct Pieces(Arc<Mutex<VecDeque<Bytes>>>);

impl Pieces {
    fn of(bytes: usize) -> (Body, Arc<Mutex<VecDeque<Bytes>>>) {
        let piece = Bytes::from(vec![b'x'; 64 * 1024]);
        let left = Arc::new(Mutex::new(vec![piece; bytes / (64 * 1024)].into()));
        (Pieces(left.clone()).map_err(|never| match never {}).boxed_unsync(), left)
    }
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        std::task::Poll::Ready(
            self.0.lock().unwrap().pop_front().map(|piece| Ok(Frame::data(piece))),
        )
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_client_that_reads_nothing_is_let_go() {
    let service = |_: Peer, _: Request<Incoming>| async { Response::new(Pieces::of(MUCH_BYTES).0) };
    let mut client = dial(server(Limits::default(), service).await).await;
    client.write_all(GET.as_bytes()).await.unwrap();
    sleep(2 * Duration::from_secs(10)).await;
    let mut read = Vec::new();
    let _ = client.read_to_end(&mut read).await;
    assert!(read.len() < MUCH_BYTES, "all of it came");
}

#[tokio::test(start_paused = true)]
async fn a_known_client_may_read_when_it_likes_and_little_is_kept_for_it() {
    let (given, mut bodies) = unbounded_channel();
    let service = move |peer: Peer, _: Request<Incoming>| {
        let (body, left) = Pieces::of(MUCH_BYTES);
        peer.mark_authenticated();
        given.send(left).unwrap();
        async { Response::new(body) }
    };
    let mut client = dial(server(Limits::default(), service).await).await;
    client.write_all(GET.as_bytes()).await.unwrap();
    let left = bodies.recv().await.unwrap();
    sleep(Duration::from_secs(24 * 60 * 60)).await;
    let before = left.lock().unwrap().len();
    assert!(before > 0, "the kernel took all of it");
    let mut read = 0;
    let mut piece = vec![0; 64 * 1024];
    // What was taken and not written is a piece or two beyond what the kernel has.
    while left.lock().unwrap().len() == before {
        read += client.read(&mut piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    while read < MUCH_BYTES {
        read += client.read(&mut piece).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn pipelined_requests_that_nobody_reads_the_answers_of_are_left_where_they_are() {
    let served = Arc::new(AtomicUsize::new(0));
    let counted = served.clone();
    let service = move |_: Peer, _: Request<Incoming>| {
        counted.fetch_add(1, Ordering::Relaxed);
        async { ok(vec![b'x'; 100_000]) }
    };
    let mut client = dial(server(Limits::default(), service).await).await;
    let many = GET.repeat(10_000);
    // It does not move any more once the clock does.
    let blocked = async {
        loop {
            client.write_all(many.as_bytes()).await.unwrap();
        }
    };
    assert!(timeout(Duration::from_secs(1), blocked).await.is_err());
    let before = served.load(Ordering::Relaxed);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(served.load(Ordering::Relaxed), before);
    sleep(Duration::from_secs(20)).await;
    let error = loop {
        if let Err(error) = client.write_all(many.as_bytes()).await {
            break error;
        }
    };
    assert!(matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe));
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_an_end_ends_with_its_client_though_more_requests_wait() {
    let (address, mut requests) = by_hand().await;
    for behind in ["", "x", GET] {
        let mut client = dial(address).await;
        client.write_all(format!("{GET}{behind}").as_bytes()).await.unwrap();
        let (_request, mut reply) = requests.recv().await.unwrap();
        drop(client);
        // The service's work is dropped with its client.
        reply.closed().await;
    }
}

#[tokio::test]
async fn the_oldest_silent_connection_gives_way() {
    let limits = Limits::new(2);
    let service = |_: Peer, _: Request<Incoming>| async { ok("here") };
    let address = server(limits, service).await;
    let mut silent = VecDeque::new();
    for _ in 0..3 {
        silent.push_back(dial(address).await);
        let mut client = dial(address).await;
        client.write_all(GET.as_bytes()).await.unwrap();
        read_answer(&mut client, "here").await;
        silent.push_back(client);
        while silent.len() > 2 {
            let mut oldest = silent.pop_front().unwrap();
            assert!(matches!(oldest.read(&mut [0]).await, Ok(0) | Err(_)));
        }
    }
}

#[tokio::test]
async fn all_that_comes_behind_an_upgrade_is_kept() {
    let (given, mut connections) = unbounded_channel();
    let service = move |_: Peer, request: Request<Incoming>| {
        let given = given.clone();
        tokio::spawn(async move { given.send(upgraded(request).await.unwrap()) });
        async {
            let mut reply = ok("");
            *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            let upgrade = HeaderValue::from_static("upgrade");
            reply.headers_mut().insert(header::CONNECTION, upgrade);
            reply.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("x"));
            reply
        }
    };
    let mut client = dial(server(Limits::default(), service).await).await;
    let behind = format!("\r\n\n\r\n{GET}{GET}rest\r\n");
    let head = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
    client.write_all(format!("{head}{behind}").as_bytes()).await.unwrap();
    let Upgraded { mut stream, early } = connections.recv().await.unwrap();
    client.write_all(b"later").await.unwrap();
    client.shutdown().await.unwrap();
    let mut found = early.to_vec();
    stream.read_to_end(&mut found).await.unwrap();
    assert_eq!(String::from_utf8(found).unwrap(), format!("{behind}later"));
}

mod bodies;
mod drain;
mod http2;
mod websockets;
