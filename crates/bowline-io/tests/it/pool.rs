//! A pool with servers that are good: which connections there are, and what passes on them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bowline_io::access::{Access, Answer, Source};
use bowline_io::dial::Endpoint;
use bowline_io::pool::{Body, Pool};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Version, header};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use tokio::sync::{Barrier, Notify, mpsc};
use tokio::task::JoinSet;

use super::pool_server::{Server, ask, get, read, request, whole};

/// Says what came of a request.
async fn told(request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap();
    let trailer = body.trailers().and_then(|all| all.get("x-end").cloned());
    let text = format!(
        "{:?} {} {} {:?} {:?}",
        head.version,
        head.method,
        head.uri,
        head.headers.get(header::HOST),
        head.headers.get(header::USER_AGENT)
    );
    let mut answer = Response::new(whole(text));
    if let Some(trailer) = trailer {
        answer.headers_mut().insert("x-trailer", trailer);
    }
    answer
}

#[tokio::test]
async fn many_requests_are_one_connection_where_the_server_has_http2() {
    let server = Server::http2(100, told).await;
    let pool = server.pool();
    let mut asked = JoinSet::new();
    for number in 0..80 {
        let pool = pool.clone();
        asked.spawn(async move { get(&pool, &format!("/a%2Fb/{number}?c=%20d&e")).await });
    }
    let mut answers = Vec::new();
    while let Some(answer) = asked.join_next().await {
        let (code, text) = answer.unwrap().unwrap();
        assert_eq!(code, 200);
        answers.push(String::from_utf8(text.to_vec()).unwrap());
    }
    let authority = format!("127.0.0.1:{}", server.address.port());
    let expected = format!("HTTP/2.0 GET https://{authority}/a%2Fb/7?c=%20d&e None Some(\"test\")");
    assert!(answers.contains(&expected), "{}", answers[0]);
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn more_connections_are_made_where_one_is_full() {
    let all = Arc::new(Barrier::new(10));
    let service = move |_| {
        let all = all.clone();
        async move {
            // Nobody is answered before all are there.
            all.wait().await;
            Response::new(whole("ok"))
        }
    };
    let server = Server::http2(3, service).await;
    let pool = server.pool();
    let mut asked = JoinSet::new();
    for _ in 0..10 {
        let pool = pool.clone();
        asked.spawn(async move { get(&pool, "/").await.unwrap().0 });
    }
    assert_eq!(asked.join_all().await, [200; 10]);
    assert_eq!(server.connections(), 4);
}

#[tokio::test]
async fn a_connection_of_http1_has_one_request_after_the_other() {
    let both = Arc::new(Barrier::new(2));
    let service = move |request: Request<Incoming>| {
        let both = both.clone();
        async move {
            if request.uri().path() == "/both" {
                both.wait().await;
            }
            told(request).await
        }
    };
    let server = Server::http1(service).await;
    let pool = server.pool();
    for _ in 0..5 {
        let (_, text) = ask(&pool, request("POST", "/x", "body")).await.unwrap();
        let host = format!("127.0.0.1:{}", server.address.port());
        let expected = format!("HTTP/1.1 POST /x Some({host:?}) Some(\"test\")");
        assert_eq!(text, expected);
    }
    assert_eq!(server.connections(), 1);
    // As servers read it: not beyond the end that was announced.
    let mut answer = pool.send(request("GET", "/", "")).await.unwrap();
    answer.body_mut().frame().await.unwrap().unwrap();
    drop(answer);
    let (one, two) = tokio::join!(get(&pool, "/both"), get(&pool, "/both"));
    assert_eq!((one.unwrap().0, two.unwrap().0), (200, 200));
    assert_eq!(server.connections(), 2);
    get(&pool, "/").await.unwrap();
    assert_eq!(server.connections(), 2);
}

fn with_trailers() -> Request<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-end", HeaderValue::from_static("7"));
    let frames = [Ok(Frame::data(Bytes::from_static(b"x"))), Ok(Frame::trailers(trailers))];
    let (tell, frames_there) = mpsc::unbounded_channel();
    frames.into_iter().for_each(|frame| tell.send(frame).unwrap());
    let body = Frames(frames_there).boxed_unsync();
    Request::post("/").header("te", "trailers").header("trailer", "x-end").body(body).unwrap()
}

/// A body of frames that come one by one.
struct Frames(mpsc::UnboundedReceiver<Result<Frame<Bytes>, io::Error>>);

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(cx)
    }
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    async fn service(request: Request<Incoming>) -> Response<Body> {
        let trailers = request.into_body().collect().await.unwrap().trailers().unwrap().clone();
        let (tell, frames) = mpsc::unbounded_channel();
        tell.send(Ok(Frame::data(Bytes::from_static(b"y")))).unwrap();
        tell.send(Ok(Frame::trailers(trailers))).unwrap();
        let mut answer = Response::new(Frames(frames).boxed_unsync());
        answer.headers_mut().insert("trailer", HeaderValue::from_static("x-end"));
        answer
    }
    for server in [Server::http2(100, service).await, Server::http1(service).await] {
        let answer = server.pool().send(with_trailers()).await.unwrap();
        let body = answer.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["x-end"], "7");
        assert_eq!(body.to_bytes(), "y");
    }
}

#[tokio::test]
async fn a_query_that_is_too_long_for_the_library_passes() {
    async fn service(request: Request<Incoming>) -> Response<Body> {
        Response::new(whole(bowline_io::request_target::query(&request).len().to_string()))
    }
    // hyper's own server would not take it.
    let sessions = bowline_io::serve::Sessions::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let limits = bowline_io::serve::Limits::default();
    let serve = bowline_io::serve::serve(listener, None, limits, sessions, |peer, request| {
        bowline_io::serve::Peer::mark_authenticated(&peer);
        service(request)
    });
    tokio::spawn(serve);
    let endpoint = Endpoint { host: "127.0.0.1".into(), port, tls: None, proxy: None };
    let pool = Pool::new(Access::fixed(endpoint, Vec::new()), "test");
    for length in [10, 70_000, 500_000] {
        let target = format!("/a?{}", "b".repeat(length));
        let request = bowline_io::request_target::head("GET", "x", &target, whole("")).unwrap();
        assert_eq!(ask(&pool, request).await.unwrap(), (200, length.to_string().into()));
    }
}

/// Credentials that change.
struct Changing {
    endpoint: Endpoint,
    generation: AtomicU64,
    renewals: AtomicUsize,
}

impl Source for Changing {
    fn access(&self) -> Answer<'_, Access> {
        let generation = self.generation.load(Ordering::SeqCst);
        let value = HeaderValue::try_from(format!("Bearer {generation}")).unwrap();
        let headers = vec![(header::AUTHORIZATION, value)];
        let endpoint = self.endpoint.clone();
        Box::pin(async move { Ok(Access { endpoint, headers, generation }) })
    }

    fn renew<'a>(&'a self, _: &'a Access) -> Answer<'a, bool> {
        self.renewals.fetch_add(1, Ordering::SeqCst);
        self.generation.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { Ok(true) })
    }
}

impl Changing {
    fn of(server: &Server) -> (Arc<Changing>, Pool) {
        let endpoint = server.endpoint();
        let (generation, renewals) = (AtomicU64::new(1), AtomicUsize::new(0));
        let source = Arc::new(Changing { endpoint, generation, renewals });
        (source.clone(), Pool::new(source, "test"))
    }
}

#[tokio::test]
async fn other_credentials_are_other_connections() {
    let go_on = Arc::new(Notify::new());
    let told = go_on.clone();
    let service = move |request: Request<Incoming>| {
        let go_on = go_on.clone();
        async move {
            if request.uri().path() == "/wait" {
                go_on.notified().await;
            }
            let header = request.headers()[header::AUTHORIZATION].to_str().unwrap().to_owned();
            Response::new(whole(header))
        }
    };
    let server = Server::http2(100, service).await;
    let (source, pool) = Changing::of(&server);
    assert_eq!(get(&pool, "/").await.unwrap().1, "Bearer 1");
    let slow = pool.clone();
    let slow = tokio::spawn(async move { get(&slow, "/wait").await.unwrap().1 });
    source.generation.store(2, Ordering::SeqCst);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(2)).await;
    tokio::time::resume();
    assert_eq!(get(&pool, "/").await.unwrap().1, "Bearer 2");
    assert_eq!(server.connections(), 2);
    told.notify_one();
    let slow = slow.await.unwrap();
    assert!(slow == "Bearer 1" || slow == "Bearer 2", "it may have begun before or after");
}

#[tokio::test]
async fn refused_credentials_are_renewed_once() {
    let service = |request: Request<Incoming>| async move {
        let good = request.headers()[header::AUTHORIZATION] == "Bearer 2";
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let mut answer = Response::new(whole(body));
        *answer.status_mut() = if good { 200 } else { 401 }.try_into().unwrap();
        answer
    };
    let server = Server::http2(100, service).await;
    let (source, pool) = Changing::of(&server);
    assert_eq!(ask(&pool, request("GET", "/", "")).await.unwrap().0, 200);
    source.generation.store(3, Ordering::SeqCst);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(2)).await;
    tokio::time::resume();
    // Asked for a moment ago: a 401 of another cause does not have a plugin run each time.
    assert_eq!(get(&pool, "/").await.unwrap().0, 401);
    assert_eq!(source.renewals.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_nobody_reads_is_bounded_and_holds_up_nobody() {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let service = move |request: Request<Incoming>| {
        let count = count.clone();
        async move {
            if request.uri().path() != "/endless" {
                return Response::new(whole("ok"));
            }
            Response::new(Endless(count).boxed_unsync())
        }
    };
    let server = Server::http2(100, service).await;
    let pool = server.pool();
    let mut unread = Vec::new();
    for _ in 0..20 {
        unread.push(pool.send(request("GET", "/endless", "")).await.unwrap());
    }
    for _ in 0..100 {
        assert_eq!(get(&pool, "/").await.unwrap().1, "ok");
    }
    assert_eq!(server.connections(), 1);
    let sent = sent.load(Ordering::SeqCst);
    // The windows, and what the server itself holds.
    assert!(sent < 20 * 2 * 1024 * 1024, "{sent} bytes");
    drop(unread);
    assert_eq!(get(&pool, "/").await.unwrap().1, "ok");
}

/// A body without an end, which counts its bytes.
struct Endless(Arc<AtomicUsize>);

impl hyper::body::Body for Endless {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        static PIECE: [u8; 16 * 1024] = [0; 16 * 1024];
        self.0.fetch_add(PIECE.len(), Ordering::SeqCst);
        std::task::Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&PIECE)))))
    }
}

#[tokio::test]
async fn each_piece_of_an_answer_comes_at_once() {
    let (tell, frames) = mpsc::unbounded_channel();
    let frames = Arc::new(std::sync::Mutex::new(Some(frames)));
    let service = move |_| {
        let frames = frames.lock().unwrap().take().unwrap();
        async move { Response::new(Frames(frames).boxed_unsync()) }
    };
    let server = Server::http2(100, service).await;
    let mut answer = server.pool().send(request("GET", "/", "")).await.unwrap();
    assert_eq!(answer.version(), Version::HTTP_2);
    for number in 0..100 {
        let piece = Bytes::from(format!("event {number}"));
        tell.send(Ok(Frame::data(piece.clone()))).unwrap();
        let frame = answer.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), piece);
    }
    drop(tell);
    assert_eq!(read(answer).await.unwrap(), "");
}

#[tokio::test]
async fn connections_that_nobody_uses_end() {
    let server = Server::http2(100, told).await;
    let pool = server.pool();
    get(&pool, "/").await.unwrap();
    tokio::time::pause();
    for _ in 0..130 {
        tokio::time::advance(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
    }
    tokio::time::resume();
    get(&pool, "/").await.unwrap();
    assert_eq!(server.connections(), 2);
}
