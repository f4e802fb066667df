//! WebSockets over HTTP/2 (RFC 8441): what a service sees of one, and how its stream ends.

use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream};
use http::Method;

use super::http2::{Http2, connect, settings, tls_server};
use super::*;
use crate::stream::{Connection, Stream};

fn with_websockets() -> Settings {
    Settings { http2_websockets: true, ..settings() }
}

fn request(protocol: &'static str, path: &str) -> Request<()> {
    Request::builder()
        .method(Method::CONNECT)
        .uri(format!("https://x{path}"))
        .extension(Protocol::from_static(protocol))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "v5.channel.k8s.io")
        .body(())
        .unwrap()
}

/// A service that upgrades `/ws`, and gives the test the streams.
async fn upgrading() -> (SocketAddr, Sessions, UnboundedReceiver<Upgraded>) {
    let (given, streams) = unbounded_channel();
    let service = move |peer: Peer, request: Request<Incoming>| {
        let given = given.clone();
        async move {
            peer.mark_authenticated();
            let seen = format!("{:?} {} {}", request.version(), request.method(), request.uri());
            if request.uri().path() != "/ws" {
                let mut reply = ok(seen);
                let code = request.uri().path()[1..].parse().unwrap_or(200);
                *reply.status_mut() = StatusCode::from_u16(code).unwrap();
                return reply;
            }
            let mut reply = ok("");
            *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            let headers = reply.headers_mut();
            headers.insert("x-seen", seen.parse().unwrap());
            for name in ["host", "connection", "upgrade", "sec-websocket-version"] {
                headers.insert(format!("x-{name}").parse::<HeaderName>().unwrap(), {
                    request.headers()[name].clone()
                });
            }
            let key = request.headers()[header::SEC_WEBSOCKET_KEY].len().into();
            headers.insert("x-key", key);
            for name in [header::CONNECTION, header::UPGRADE, header::SEC_WEBSOCKET_ACCEPT] {
                headers.insert(name, HeaderValue::from_static("x"));
            }
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("v5"));
            tokio::spawn(async move { given.send(upgraded(request).await.unwrap()) });
            reply
        }
    };
    let (address, sessions) = tls_server(with_websockets(), service).await;
    (address, sessions, streams)
}

/// A client that knows what the server announces.
async fn connected(address: SocketAddr) -> Http2 {
    let mut client = connect(address).await;
    client.get("/200").await.unwrap();
    client
}

/// A WebSocket's client, whose end of the stream is in two.
struct WebSocket {
    client: Http2,
    writing: SendStream<Bytes>,
    reading: RecvStream,
}

async fn websocket(address: SocketAddr) -> WebSocket {
    let mut client = connected(address).await;
    let (answer, writing) = client.begin(request("websocket", "/ws")).await;
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    WebSocket { client, writing, reading: answer.into_body() }
}

/// How a stream ends on which nothing more comes.
async fn end(reading: &mut RecvStream) -> Result<(), h2::Error> {
    while let Some(piece) = reading.data().await {
        assert!(piece?.is_empty());
    }
    Ok(())
}

async fn opened() -> (WebSocket, Stream, Sessions) {
    let (address, sessions, mut streams) = upgrading().await;
    let websocket = websocket(address).await;
    let Upgraded { stream, early } = streams.recv().await.unwrap();
    assert!(early.is_empty());
    (websocket, stream, sessions)
}

#[tokio::test]
async fn a_service_sees_an_ordinary_upgrade() {
    let (address, _sessions, _streams) = upgrading().await;
    let mut client = connected(address).await;
    let (answer, _writing) = client.begin(request("websocket", "/ws?q")).await;
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let headers = answer.headers();
    for (name, value) in [
        ("x-seen", "HTTP/1.1 GET /ws?q"),
        ("x-host", "x"),
        ("x-connection", "Upgrade"),
        ("x-upgrade", "websocket"),
        ("x-sec-websocket-version", "13"),
        ("x-key", "24"),
        ("sec-websocket-protocol", "v5"),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
    for name in ["connection", "upgrade", "sec-websocket-accept", "content-length"] {
        assert!(!headers.contains_key(name), "{name}");
    }
}

#[tokio::test]
async fn other_answers_pass_and_other_protocols_are_refused() {
    let (address, _sessions, _streams) = upgrading().await;
    let mut client = connected(address).await;
    for (protocol, path, code) in [
        ("websocket", "/403", 403),
        ("websocket", "/302", 302),
        ("websocket", "/200", 502),
        ("websocket", "/204", 502),
        ("WebSocket", "/403", 403),
        ("connect-udp", "/ws", 501),
        ("connect-ip", "/ws", 501),
    ] {
        let (answer, _writing) = client.begin(request(protocol, path)).await;
        assert_eq!(answer.await.unwrap().status(), code, "{protocol} {path}");
    }
    // Where it is not announced, it is a fault.
    let service = |_: Peer, _: Request<Incoming>| async { ok("") };
    let (address, _) = tls_server(settings(), service).await;
    let mut client = connected(address).await;
    let mut ready = client.requests.clone().ready().await.unwrap();
    let asked = ready.send_request(request("websocket", "/ws"), false);
    assert!(asked.is_err() || asked.unwrap().0.await.is_err());
    assert_eq!(client.get("/").await.unwrap().0, 200);
}

#[tokio::test]
async fn bytes_pass_both_ways_and_ends_are_ends() {
    let (WebSocket { client: _client, mut writing, mut reading }, mut stream, _sessions) =
        opened().await;
    writing.send_data(Bytes::from("ping"), false).unwrap();
    let mut four = [0; 4];
    stream.read_exact(&mut four).await.unwrap();
    assert_eq!(&four, b"ping");
    let much = vec![b'x'; 3 * 1024 * 1024];
    let writes = async {
        stream.write_all(&much).await.unwrap();
        stream.shutdown().await.unwrap();
    };
    let reads = async {
        let mut count = 0;
        while let Some(piece) = reading.data().await {
            let piece = piece.unwrap();
            count += piece.len();
            reading.flow_control().release_capacity(piece.len()).unwrap();
        }
        count
    };
    assert_eq!(tokio::join!(writes, reads).1, much.len());
    assert!(!stream.is_peer_gone());
    writing.send_data(Bytes::from("last"), true).unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"last");
}

#[tokio::test]
async fn a_stream_that_is_dropped_ends_and_one_that_is_lost_is_reset() {
    for is_lost in [false, true] {
        let (mut websocket, mut stream, _sessions) = opened().await;
        stream.write_all(b"some").await.unwrap();
        let some = websocket.reading.data().await.unwrap().unwrap();
        assert_eq!(&some[..], b"some");
        if is_lost {
            stream.reset_on_drop();
        }
        drop(stream);
        let end = end(&mut websocket.reading).await;
        let reason = end.err().and_then(|error| error.reason());
        assert_eq!(reason, is_lost.then_some(Reason::CANCEL));
        assert_eq!(websocket.client.get("/200").await.unwrap().0, 200);
    }
}

#[tokio::test]
async fn a_peer_that_resets_has_gone() {
    for closes in [false, true] {
        let (mut websocket, mut stream, _sessions) = opened().await;
        assert!(!stream.is_peer_gone());
        if closes {
            drop(websocket.writing);
            drop(websocket.reading);
            websocket.client.connection.abort();
        } else {
            websocket.writing.send_reset(Reason::CANCEL);
        }
        // Nothing is read, as by an owner that has no room.
        while !stream.is_peer_gone() {
            tokio::task::yield_now().await;
        }
        assert!(stream.read(&mut [0]).await.is_err());
        assert!(stream.write_all(&[0; 1024 * 1024]).await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_read_waits_where_it_is() {
    let (mut websocket, mut stream, _sessions) = opened().await;
    let piece = vec![b'x'; 64 * 1024];
    let mut written = 0;
    while let Ok(Ok(())) = timeout(Duration::from_secs(24), stream.write_all(&piece)).await {
        written += piece.len();
    }
    // The client's window, what may wait for it, and a few pieces.
    assert!(written <= 64 * 1024 + 64 * 1024 + 256 * 1024, "{written} bytes to the client");
    let mut sent = 0;
    websocket.writing.reserve_capacity(piece.len());
    while let Ok(Some(Ok(_))) = timeout(
        Duration::from_secs(24),
        std::future::poll_fn(|cx| websocket.writing.poll_capacity(cx)),
    )
    .await
    {
        websocket.writing.send_data(Bytes::from(piece.clone()), false).unwrap();
        sent += piece.len();
        websocket.writing.reserve_capacity(1);
    }
    assert!((1024 * 1024..2 * 1024 * 1024).contains(&sent), "{sent} bytes from the client");
}

#[tokio::test]
async fn sessions_have_their_time_when_the_server_ends() {
    let (mut websocket, mut stream, sessions) = opened().await;
    let ends = sessions.end.clone();
    sessions.spawn(async move {
        ends.cancelled().await;
        stream.write_all(b"bye").await.unwrap();
        stream.shutdown().await.unwrap();
    });
    sessions.end.cancel();
    let bye = websocket.reading.data().await.unwrap().unwrap();
    assert_eq!(&bye[..], b"bye");
    end(&mut websocket.reading).await.unwrap();
}
