//! A pool with servers that end, break, lie or are silent.

use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bowline_io::access::Access;
use bowline_io::dial::Endpoint;
use bowline_io::http::HttpError;
use bowline_io::pool::{Body, Pool, PoolError};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinSet, yield_now};
use tokio_rustls::server::TlsStream;

use super::pool_server::{Server, ask, get, read, request, whole};

/// Ends each connection by GOAWAY after so many requests.
async fn leaving(every: usize) -> Server {
    Server::played("h2", move |_, tls| async move {
        let (count, enough) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let told = enough.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            if count.fetch_add(1, Ordering::SeqCst) + 1 == every {
                told.notify_one();
            }
            async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                Ok::<_, Infallible>(Response::new(whole(body)))
            }
        });
        let builder = http2::Builder::new(TokioExecutor::new());
        let mut served = std::pin::pin!(builder.serve_connection(TokioIo::new(tls), service));
        tokio::select! {
            _ = &mut served => return,
            () = enough.notified() => served.as_mut().graceful_shutdown(),
        }
        let _ = served.await;
    })
    .await
}

#[tokio::test]
async fn no_request_is_lost_to_a_server_that_leaves_in_order() {
    let server = leaving(7).await;
    let pool = server.pool();
    let mut asked = JoinSet::new();
    for number in 0..200 {
        let pool = pool.clone();
        asked.spawn(async move {
            let text: &'static str = if number % 2 == 0 { "" } else { "a body" };
            let method = if number % 2 == 0 { "GET" } else { "POST" };
            let answer = ask(&pool, request(method, "/", text)).await;
            assert_eq!(answer.unwrap(), (200, Bytes::from_static(text.as_bytes())));
        });
    }
    asked.join_all().await;
    for _ in 0..50 {
        ask(&pool, request("POST", "/", "x")).await.unwrap();
    }
    assert!(server.connections() >= 5, "{}", server.connections());
}

/// Refuses the first request once its body has begun, as a server does that was about to leave.
async fn refusing_late() -> Server {
    Server::played("h2", |connection, tls| async move {
        let mut served = h2::server::handshake(tls).await.unwrap();
        let mut number = 0;
        while let Some(Ok((request, mut answer))) = served.accept().await {
            number += 1;
            let refuses = connection == 0 && number == 1;
            tokio::spawn(async move {
                let mut body = request.into_body();
                let mut all = Vec::new();
                while let Some(Ok(data)) = body.data().await {
                    let _ = body.flow_control().release_capacity(data.len());
                    all.extend_from_slice(&data);
                    if refuses {
                        return answer.send_reset(h2::Reason::REFUSED_STREAM);
                    }
                }
                let mut send = answer.send_response(Response::new(()), false).unwrap();
                send.send_data(all.into(), true).unwrap();
            });
        }
    })
    .await
}

#[tokio::test]
async fn a_body_that_was_begun_is_sent_again_if_it_is_kept() {
    let server = refusing_late().await;
    let answer = ask(&server.pool(), request("POST", "/", "a small body")).await;
    assert_eq!(answer.unwrap(), (200, Bytes::from_static(b"a small body")));
    let server = refusing_late().await;
    let large: &'static str = Box::leak("x".repeat(200_000).into_boxed_str());
    assert!(ask(&server.pool(), request("POST", "/", large)).await.is_err());
}

/// Reads one head.
async fn head(tls: &mut TlsStream<TcpStream>) -> Option<String> {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        read.push(tls.read_u8().await.ok()?);
    }
    String::from_utf8(read).ok()
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// The first connection has one answer, and ends when it is asked again.
async fn forgetful() -> Server {
    Server::played("http/1.1", |number, mut tls| async move {
        while head(&mut tls).await.is_some() {
            tls.write_all(OK).await.unwrap();
            if number == 0 {
                let _ = head(&mut tls).await;
                return;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_kept_connection_that_breaks_is_no_fault_of_a_get() {
    let server = forgetful().await;
    let pool = server.pool();
    for _ in 0..3 {
        assert_eq!(get(&pool, "/").await.unwrap().0, 200);
    }
    assert_eq!(server.connections(), 2);
    // It may have been done.
    let server = forgetful().await;
    let pool = server.pool();
    assert_eq!(get(&pool, "/").await.unwrap().0, 200);
    let error = ask(&pool, request("POST", "/", "x")).await.unwrap_err();
    assert!(matches!(&error, PoolError::Http(error) if error.is_cut()), "{error}");
    assert_eq!(server.connections(), 1);
}

/// As over HTTP/1.1. The first connection has one answer, and breaks when it is asked again.
#[tokio::test]
async fn a_kept_connection_of_http2_that_breaks_is_no_fault_of_a_get() {
    for method in ["GET", "POST"] {
        let server = Server::played("h2", |number, tls| async move {
            let (count, again) = (AtomicUsize::new(0), Arc::new(Notify::new()));
            let told = again.clone();
            let service = service_fn(move |_: Request<Incoming>| {
                let is_last = number == 0 && count.fetch_add(1, Ordering::SeqCst) == 1;
                if is_last {
                    told.notify_one();
                }
                async move {
                    if is_last {
                        std::future::pending::<()>().await;
                    }
                    Ok::<_, Infallible>(Response::new(whole("ok")))
                }
            });
            let builder = http2::Builder::new(TokioExecutor::new());
            let mut served = std::pin::pin!(builder.serve_connection(TokioIo::new(tls), service));
            tokio::select! {
                _ = &mut served => {}
                () = again.notified() => {}
            }
        })
        .await;
        let pool = server.pool();
        assert_eq!(get(&pool, "/").await.unwrap().1, "ok");
        let again = ask(&pool, request(method, "/", "")).await;
        if method == "GET" {
            assert_eq!(again.unwrap().1, "ok");
            assert_eq!(server.connections(), 2);
        } else {
            // It may have been done.
            let error = again.unwrap_err();
            assert!(matches!(error, PoolError::Broken(_)), "{error:?}");
            assert_eq!(server.connections(), 1);
        }
    }
}

#[tokio::test]
async fn an_answer_does_not_wait_for_the_end_of_its_request() {
    let server = Server::http2(100, |_| async { Response::new(whole("enough")) }).await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let request = Request::post("/").body(Held(tell).boxed_unsync()).unwrap();
    let answer = server.pool().send(request).await.unwrap();
    assert_eq!(read(answer).await.unwrap(), "enough");
    assert_eq!(told.recv().await, Some("dropped"));
}

#[tokio::test]
async fn an_answer_that_is_cut_is_never_whole() {
    let server = Server::played("http/1.1", |_, mut tls| async move {
        head(&mut tls).await.unwrap();
        tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await.unwrap();
        tls.shutdown().await.unwrap();
    })
    .await;
    let answer = server.pool().send(request("GET", "/", "")).await.unwrap();
    assert!(read(answer).await.is_err());
    let (tell, frames) = mpsc::unbounded_channel();
    let frames = Arc::new(Mutex::new(Some(frames)));
    let service = move |_| {
        let frames = frames.lock().unwrap().take().unwrap();
        async move { Response::new(Frames(frames).boxed_unsync()) }
    };
    let server = Server::http2(100, service).await;
    tell.send(Ok(Frame::data(Bytes::from_static(b"half")))).unwrap();
    let answer = server.pool().send(request("GET", "/", "")).await.unwrap();
    tell.send(Err(io::Error::other("broke"))).unwrap();
    let error = read(answer).await.unwrap_err();
    assert!(error.to_string().starts_with("http2: stream error"), "{error}");
}

struct Frames(mpsc::UnboundedReceiver<Result<Frame<Bytes>, io::Error>>);

impl HttpBody for Frames {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(cx)
    }
}

/// A body that tells when it is dropped, without an end.
struct Held(mpsc::UnboundedSender<&'static str>);

impl HttpBody for Held {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        std::task::Poll::Pending
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.send("dropped");
    }
}

#[tokio::test]
async fn whoever_goes_cancels_the_request() {
    for speaks_http2 in [true, false] {
        let (tell, mut told) = mpsc::unbounded_channel();
        let service = move |request: Request<Incoming>| {
            let tell = tell.clone();
            async move {
                let held = Held(tell.clone());
                tell.send("begun").unwrap();
                if request.uri().path() == "/never" {
                    // Ended, and the body with it, when the client resets the stream.
                    std::future::pending::<()>().await;
                }
                Response::new(held.boxed_unsync())
            }
        };
        let server = match speaks_http2 {
            true => Server::http2(100, service).await,
            false => Server::http1(service).await,
        };
        let pool = server.pool();
        let asked = tokio::spawn({
            let pool = pool.clone();
            async move { pool.send(request("GET", "/never", "")).await.map(drop) }
        });
        assert_eq!(told.recv().await, Some("begun"));
        asked.abort();
        assert_eq!(told.recv().await, Some("dropped"));
        let answer = pool.send(request("GET", "/answer", "")).await.unwrap();
        assert_eq!(told.recv().await, Some("begun"));
        drop(answer);
        assert_eq!(told.recv().await, Some("dropped"));
        assert_eq!(server.connections(), if speaks_http2 { 1 } else { 2 });
    }
}

/// CVE-2023-44487: a server would end the connection, with all who are on it.
#[tokio::test]
async fn requests_that_are_cancelled_do_not_come_without_a_pause() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let service = move |request: Request<Incoming>| {
        let tell = tell.clone();
        async move {
            if request.uri().path() == "/never" {
                tell.send(()).unwrap();
                std::future::pending::<()>().await;
            }
            Response::new(whole("ok"))
        }
    };
    let server = Server::http2(1, service).await;
    let pool = server.pool();
    let ask_for = |target: &'static str| {
        let pool = pool.clone();
        tokio::spawn(async move { get(&pool, target).await })
    };
    let cancelled = ask_for("/never");
    told.recv().await.unwrap();
    // Time stands still for as long as there is something to do.
    tokio::time::pause();
    cancelled.abort();
    assert!(cancelled.await.is_err());
    let next = ask_for("/");
    while !next.is_finished() && server.connections() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.connections(), 2);
    tokio::time::resume();
    assert_eq!(next.await.unwrap().unwrap().1, "ok");
}

#[tokio::test]
async fn all_who_wait_learn_that_nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let endpoint = Endpoint { host: "127.0.0.1".into(), port, tls: None, proxy: None };
    let pool = Pool::new(Access::fixed(endpoint, Vec::new()), "test");
    let mut asked = JoinSet::new();
    for _ in 0..50 {
        let pool = pool.clone();
        asked.spawn(async move { get(&pool, "/").await.unwrap_err() });
    }
    for error in asked.join_all().await {
        assert!(error.is_unreachable());
        let expected = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
        assert_eq!(error.to_string(), expected);
    }
}

#[tokio::test]
async fn heads_without_an_end_are_bounded() {
    let server = Server::played("http/1.1", |_, mut tls| async move {
        head(&mut tls).await.unwrap();
        let _ = tls.write_all(b"HTTP/1.1 200 OK\r\n").await;
        while tls.write_all(b"X-Y: zzzzzzzzzzzzzzzzzzzzzzzzzzzzz\r\n").await.is_ok() {}
    })
    .await;
    let error = get(&server.pool(), "/").await.unwrap_err();
    let PoolError::Http(error) = error else { panic!("{error}") };
    assert!(matches!(*error, HttpError::Malformed(_)), "{error}");
    let server = Server::played("http/1.1", |_, mut tls| async move {
        head(&mut tls).await.unwrap();
        while tls.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n").await.is_ok() {}
    })
    .await;
    let error = get(&server.pool(), "/").await.unwrap_err();
    let PoolError::Http(error) = error else { panic!("{error}") };
    assert!(matches!(*error, HttpError::Informational), "{error}");
    let service = |_| async {
        let mut answer = Response::new(whole("x"));
        let long = "z".repeat(10_000);
        for number in 0..20 {
            let name = http::HeaderName::try_from(format!("x-{number}")).unwrap();
            answer.headers_mut().insert(name, long.parse().unwrap());
        }
        answer
    };
    let server = Server::http2(100, service).await;
    let error = get(&server.pool(), "/").await.unwrap_err();
    assert!(matches!(error, PoolError::Http2(_)), "{error:?}");
}

#[tokio::test]
async fn a_body_waits_until_the_server_wants_it() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let server = Server::played("http/1.1", move |number, mut tls| {
        let tell = tell.clone();
        async move {
            assert!(head(&mut tls).await.unwrap().contains("\r\nExpect: 100-continue\r\n"));
            if number == 1 {
                let refused = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";
                tls.write_all(refused).await.unwrap();
            } else {
                tell.send("head").unwrap();
                tls.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
                let mut body = [0; 4];
                tls.read_exact(&mut body).await.unwrap();
                assert_eq!(&body, b"body");
                tls.write_all(OK).await.unwrap();
            }
            let _ = tls.read_u8().await;
        }
    })
    .await;
    let pool = server.pool();
    let body = move |text: &'static [u8]| {
        let (tell, frames) = mpsc::unbounded_channel();
        tell.send(Ok(Frame::data(Bytes::from_static(text)))).unwrap();
        let body: Body = Frames(frames).boxed_unsync();
        let head = Request::post("/").header("expect", "100-continue").header("content-length", 4);
        head.body(body).unwrap()
    };
    assert_eq!(ask(&pool, body(b"body")).await.unwrap().0, 200);
    assert_eq!(told.recv().await, Some("head"));
    assert_eq!(ask(&pool, body(b"none")).await.unwrap().0, 403);
}

/// A server that has answered, and whose host is then gone without a word.
#[tokio::test]
async fn a_silent_server_is_found() {
    let (begun, is_there) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let told = begun.clone();
    let gone = is_there.clone();
    let server = Server::played("h2", move |_, tls| {
        let (told, gone) = (told.clone(), gone.clone());
        async move {
            let service = service_fn(move |_| {
                told.notify_one();
                async { Ok::<_, Infallible>(std::future::pending::<Response<Body>>().await) }
            });
            let builder = http2::Builder::new(TokioExecutor::new());
            let mut served = std::pin::pin!(builder.serve_connection(TokioIo::new(tls), service));
            tokio::select! {
                _ = &mut served => {}
                () = gone.notified() => {}
            }
            // Held, and never looked at again.
            std::future::pending::<()>().await;
        }
    })
    .await;
    let pool = server.pool();
    let asked = tokio::spawn(async move { pool.send(request("POST", "/", "")).await.map(drop) });
    begun.notified().await;
    is_there.notify_one();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    tokio::time::pause();
    for _ in 0..50 {
        tokio::time::advance(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
    }
    let error = asked.await.unwrap().unwrap_err();
    assert!(matches!(error, PoolError::Silent), "{error:?}");
}

#[tokio::test]
async fn its_state_is_another_one_once_a_shared_connection_or_the_credentials_were() {
    let end = Arc::new(Notify::new());
    let told = end.clone();
    let server = Server::played("h2", move |_, tls| {
        let told = told.clone();
        async move {
            let service = service_fn(|_| async { Ok::<_, Infallible>(Response::new(whole("a"))) });
            let builder = http2::Builder::new(TokioExecutor::new());
            tokio::select! {
                _ = builder.serve_connection(TokioIo::new(tls), service) => {}
                () = told.notified() => {}
            }
        }
    })
    .await;
    let pool = server.pool();
    let first = pool.state().await.unwrap();
    for _ in 0..2 {
        ask(&pool, request("GET", "/", "")).await.unwrap();
        assert_eq!(pool.state().await.unwrap(), first);
    }
    end.notify_one();
    while pool.state().await.unwrap() == first {
        yield_now().await;
    }
    ask(&pool, request("GET", "/", "")).await.unwrap();
    assert_eq!(server.connections(), 2);

    let second = pool.state().await.unwrap();
    let access = Access { endpoint: server.endpoint(), headers: Vec::new(), generation: 7 };
    pool.follow(access.clone()).unwrap();
    let third = pool.state().await.unwrap();
    assert_ne!(third, second);
    pool.follow(access).unwrap();
    assert_eq!(pool.state().await.unwrap(), third);
}
