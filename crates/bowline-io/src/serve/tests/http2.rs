//! HTTP/2 over real sockets: what passes, who waits for what, how connections end.

mod hostile;

use std::future::poll_fn;
use std::io::ErrorKind;
use std::task::Poll;

use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Method};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::tls::Identity;

/// A server in TLS, and what ends it.
pub(super) async fn tls_server<S, F>(settings: Settings, service: S) -> (SocketAddr, Sessions)
where
    S: Fn(Peer, Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    let identity = Identity {
        certificate: certificate.pem().into_bytes(),
        key: key.serialize_pem().into_bytes(),
    };
    let tls = tls::server(&identity, None, false).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let sessions = Sessions::default();
    tokio::spawn(serve(listener, Some(tls), settings, sessions.clone(), service));
    (address, sessions)
}

pub(super) fn settings() -> Settings {
    Settings { http2: true, ..Settings::default() }
}

/// Connects with these protocols on offer.
pub(super) async fn dial_tls(
    address: SocketAddr,
    offer: &[&[u8]],
) -> io::Result<TlsStream<TcpStream>> {
    let mut config = (*tls::client(&tls::Trust::Anybody, None).unwrap()).clone();
    config.alpn_protocols = offer.iter().map(|name| name.to_vec()).collect();
    let tcp = TcpStream::connect(address).await?;
    // What waits for an acknowledgement would wait for ever on a clock that is paused.
    tcp.set_nodelay(true)?;
    TlsConnector::from(Arc::new(config)).connect("x".try_into().unwrap(), tcp).await
}

/// A client that has connected.
pub(super) struct Http2 {
    pub(super) requests: SendRequest<Bytes>,
    /// How the connection has ended.
    pub(super) connection: JoinHandle<Result<(), h2::Error>>,
}

pub(super) async fn connect(address: SocketAddr) -> Http2 {
    let tls = dial_tls(address, &[b"h2"]).await.unwrap();
    let (requests, connection) = h2::client::handshake(tls).await.unwrap();
    Http2 { requests, connection: tokio::spawn(connection) }
}

pub(super) fn request(method: Method, path: &str) -> Request<()> {
    Request::builder().method(method).uri(format!("https://x{path}")).body(()).unwrap()
}

impl Http2 {
    pub(super) async fn begin(
        &mut self,
        request: Request<()>,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let mut ready = self.requests.clone().ready().await.unwrap();
        ready.send_request(request, false).unwrap()
    }

    pub(super) async fn ask(&mut self, request: Request<()>) -> Result<(u16, String), h2::Error> {
        let mut ready = self.requests.clone().ready().await?;
        let answer = ready.send_request(request, true)?.0.await?;
        let code = answer.status().as_u16();
        let (text, _) = read(answer.into_body()).await?;
        Ok((code, text))
    }

    pub(super) async fn get(&mut self, path: &str) -> Result<(u16, String), h2::Error> {
        self.ask(request(Method::GET, path)).await
    }
}

async fn read(mut body: RecvStream) -> Result<(String, Option<HeaderMap>), h2::Error> {
    let mut text = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        text.extend_from_slice(&piece);
    }
    Ok((String::from_utf8(text).unwrap(), body.trailers().await?))
}

/// Answers with what it sees of a request; its trailers are those of the answer.
async fn seen(peer: Peer, request: Request<Incoming>) -> Reply {
    peer.mark_authenticated();
    let (head, body) = request.into_parts();
    let host = head.headers[header::HOST].to_str().unwrap().to_owned();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned();
    let bytes = body.to_bytes();
    let text = format!("{:?} {} {host} {} {}", head.version, head.method, head.uri, bytes.len());
    let frames = [Ok(Frame::data(Bytes::from(text)))].into_iter();
    let frames = frames.chain(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
    Response::new(Frames(frames.collect()).boxed_unsync())
}

/// A body of these frames.
struct Frames(VecDeque<io::Result<Frame<Bytes>>>);

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(self.0.pop_front())
    }
}

#[tokio::test]
async fn requests_pass_with_bodies_and_trailers_many_at_once() {
    let (address, _) = tls_server(settings(), seen).await;
    let mut client = connect(address).await;
    let mut answers = Vec::new();
    for number in 0..50 {
        let (answer, mut body) = client.begin(request(Method::POST, &format!("/{number}?q"))).await;
        body.send_data(Bytes::from(vec![b'x'; number]), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-number", number.into());
        body.send_trailers(trailers).unwrap();
        answers.push(answer);
    }
    for (number, answer) in answers.into_iter().enumerate() {
        let (text, trailers) = read(answer.await.unwrap().into_body()).await.unwrap();
        assert_eq!(text, format!("HTTP/2.0 POST x /{number}?q {number}"));
        assert_eq!(trailers.unwrap()["x-number"], number.to_string());
    }
}

#[tokio::test]
async fn the_client_chooses_the_version_as_far_as_it_may() {
    let (address, _) = tls_server(settings(), seen).await;
    for offer in [&[][..], &[&b"http/1.1"[..]]] {
        let mut client = dial_tls(address, offer).await.unwrap();
        client.write_all(LAST.as_bytes()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("HTTP/1.1 GET x / 0"), "{answer}");
    }
    let (plain, _) = tls_server(Settings::default(), seen).await;
    assert!(dial_tls(plain, &[b"h2"]).await.is_err());
    let both = dial_tls(plain, &[b"h2", b"http/1.1"]).await.unwrap();
    assert_eq!(both.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
}

const LAST: &str = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn what_is_no_good_request_is_refused_alone() {
    let (address, _) = tls_server(settings(), seen).await;
    let mut client = connect(address).await;
    let with = |name: &'static str, value: &str| {
        let mut asked = request(Method::GET, "/");
        asked.headers_mut().append(HeaderName::from_static(name), value.parse().unwrap());
        asked
    };
    let mut many = request(Method::GET, "/");
    for number in 0..200 {
        many.headers_mut().append("x-one", number.into());
    }
    let connect = Request::builder().method(Method::CONNECT).uri("x:443").body(()).unwrap();
    for (asked, code) in [
        (with("host", "y"), 400),
        (with("host", "X"), 200),
        (many, 431),
        (with("x-long", &"x".repeat(300 * 1024)), 431),
        (connect, 405),
    ] {
        let text = format!("{asked:?}");
        assert_eq!(client.ask(asked).await.unwrap().0, code, "{}", &text[..100]);
    }
    assert_eq!(client.get("/").await.unwrap().0, 200);
}

#[tokio::test]
async fn an_answer_that_fails_is_not_complete() {
    let service = |_: Peer, request: Request<Incoming>| async move {
        if request.uri().path() == "/switch" {
            let mut reply = ok("");
            *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            return reply;
        }
        let cut = Err(ErrorKind::ConnectionReset.into());
        let frames = [Ok(Frame::data(Bytes::from("some"))), cut];
        Response::new(Frames(frames.into()).boxed_unsync())
    };
    let (address, _) = tls_server(settings(), service).await;
    let mut client = connect(address).await;
    assert_eq!(client.get("/").await.unwrap_err().reason(), Some(Reason::INTERNAL_ERROR));
    assert_eq!(client.get("/switch").await.unwrap().0, 502);
}

#[tokio::test]
async fn a_request_that_is_taken_back_is_dropped() {
    let (asked, mut requests) = unbounded_channel();
    let service = move |_: Peer, _: Request<Incoming>| {
        let (dropped, is_dropped) = oneshot::channel::<()>();
        asked.send(is_dropped).unwrap();
        async move {
            std::future::pending::<()>().await;
            drop(dropped);
            ok("")
        }
    };
    let (address, _) = tls_server(settings(), service).await;
    let mut client = connect(address).await;
    let (_answer, mut body) = client.begin(request(Method::POST, "/")).await;
    let is_dropped = requests.recv().await.unwrap();
    body.send_reset(Reason::CANCEL);
    is_dropped.await.unwrap_err();
    // And with the whole connection.
    let begun = client.begin(request(Method::POST, "/")).await;
    let is_dropped = requests.recv().await.unwrap();
    client.connection.abort();
    is_dropped.await.unwrap_err();
    drop(begun);
}

#[tokio::test(start_paused = true)]
async fn bodies_that_nobody_reads_stay_with_the_client() {
    let (given, mut bodies) = unbounded_channel();
    let service = move |peer: Peer, request: Request<Incoming>| {
        peer.mark_authenticated();
        given.send(request.into_body()).unwrap();
        std::future::pending::<Reply>()
    };
    let (address, _) = tls_server(settings(), service).await;
    let mut client = connect(address).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let mut held = Vec::new();
    for _ in 0..20 {
        let (answer, body) = client.begin(request(Method::POST, "/")).await;
        held.push((bodies.recv().await.unwrap(), answer));
        tokio::spawn(send(body, sent.clone()));
    }
    // It does not move any more once the clock does.
    let mut before = 0;
    let mut still = 0;
    while still < 100 {
        sleep(Duration::from_secs(1)).await;
        let now = sent.load(Ordering::Relaxed);
        still = if now == before { still + 1 } else { 0 };
        before = now;
    }
    assert!((1024 * 1024..=5 * 1024 * 1024).contains(&before), "{before} bytes");
    // What is read makes room, and the rest goes on.
    while sent.load(Ordering::Relaxed) == before {
        held[0].0.frame().await.unwrap().unwrap();
    }
}

/// Sends a long body as there is room for it, as hyper does.
async fn send(mut body: SendStream<Bytes>, sent: Arc<AtomicUsize>) {
    let piece = Bytes::from(vec![b'x'; 16 * 1024]);
    loop {
        body.reserve_capacity(1);
        while body.capacity() == 0 {
            let Some(Ok(_)) = poll_fn(|cx| body.poll_capacity(cx)).await else { return };
        }
        body.send_data(piece.clone(), false).unwrap();
        sent.fetch_add(piece.len(), Ordering::Relaxed);
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn patience_over_http2() {
    for (is_known, idle) in [(false, 10), (true, 90)] {
        let service = move |peer: Peer, _: Request<Incoming>| async move {
            if is_known {
                peer.mark_authenticated();
            }
            ok("here")
        };
        let (address, _) = tls_server(settings(), service).await;
        let begun = Instant::now();
        let mut silent = dial_tls(address, &[b"h2"]).await.unwrap();
        let mut rest = Vec::new();
        let _ = silent.read_to_end(&mut rest).await;
        assert_eq!(begun.elapsed().as_secs(), 15, "not a byte");
        let mut client = connect(address).await;
        assert_eq!(client.get("/").await.unwrap().1, "here");
        let begun = Instant::now();
        client.connection.await.unwrap().unwrap();
        let left = begun.elapsed().as_secs();
        assert!((idle..idle + 6).contains(&left), "known: {is_known}, {left} s");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_read_waits_for_a_known_client_only() {
    for is_known in [false, true] {
        let (given, mut bodies) = unbounded_channel();
        let service = move |peer: Peer, _: Request<Incoming>| {
            let (body, left) = Pieces::of(MUCH_BYTES);
            if is_known {
                peer.mark_authenticated();
            }
            given.send(left).unwrap();
            async { Response::new(body) }
        };
        let (address, _) = tls_server(settings(), service).await;
        let mut client = connect(address).await;
        let answer = client.begin(request(Method::GET, "/")).await.0.await.unwrap();
        let left = bodies.recv().await.unwrap();
        sleep(Duration::from_secs(60 * 60)).await;
        if !is_known {
            assert!(client.connection.is_finished());
            continue;
        }
        let taken = MUCH_BYTES / (64 * 1024) - left.lock().unwrap().len();
        assert!(taken <= 4, "{taken} pieces of 64 KiB");
        assert_eq!(read(answer.into_body()).await.unwrap().0.len(), MUCH_BYTES);
    }
}

#[tokio::test]
async fn one_that_gives_way_is_told() {
    let settings = Settings { limits: Limits::new(1), ..settings() };
    let service = |_: Peer, _: Request<Incoming>| async { ok("here") };
    let (address, _) = tls_server(settings, service).await;
    let mut first = connect(address).await;
    assert_eq!(first.get("/").await.unwrap().1, "here");
    let mut second = connect(address).await;
    assert_eq!(second.get("/").await.unwrap().1, "here");
    // GOAWAY, and not a cut connection, which would be an error.
    let ended = first.connection.await.unwrap();
    assert!(ended.is_ok(), "{ended:?}");
}

#[tokio::test]
async fn the_end_of_the_server_ends_requests_and_connections() {
    let service = |peer: Peer, request: Request<Incoming>| async move {
        peer.mark_authenticated();
        if request.uri().path() == "/long" {
            std::future::pending::<()>().await;
        }
        ok("here")
    };
    let (address, sessions) = tls_server(settings(), service).await;
    let mut client = connect(address).await;
    let (long, _body) = client.begin(request(Method::GET, "/long")).await;
    assert_eq!(client.get("/").await.unwrap().1, "here");
    sessions.end.cancel();
    assert_eq!(long.await.unwrap_err().reason(), Some(Reason::CANCEL));
    client.connection.await.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}
