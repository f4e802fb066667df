//! Something else answers what is no stream.

use std::future::ready;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bowline_gateway::components::{Answer, Caller, Components};
use bowline_gateway::rest::Rest;
use bowline_gateway::route::Route;
use bowline_gateway::status::Refusal;
use bowline_io::serve::{Reply, Sessions, body};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::client::{ask, get, head_of, message};
use crate::components::{components, start};

/// A body that comes in pieces.
struct Pieces(mpsc::UnboundedReceiver<&'static str>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let piece = self.0.poll_recv(cx);
        piece.map(|piece| piece.map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes())))))
    }
}

/// Streams `/other/path`, takes `/other/thing`, and knows nothing else.
#[derive(Debug, Default)]
struct Other {
    pieces: Mutex<Option<mpsc::UnboundedReceiver<&'static str>>>,
    /// Paths, and whose they were.
    asked: Mutex<Vec<String>>,
}

impl Rest for Other {
    fn answer<'a>(
        &'a self,
        caller: &'a Caller,
        route: &'a Route,
        request: Request<Incoming>,
        _: &'a Sessions,
    ) -> Answer<'a, Reply> {
        let (user, path) = (&caller.user.name, request.uri().path());
        let by = caller.requester.user.as_ref().and_then(|user| user.by.as_deref());
        let by = by.map(|by| format!(" by {by}")).unwrap_or_default();
        self.asked.lock().unwrap().push(format!("{user}{by}: {} {path}", request.method()));
        let names: Vec<_> = request.headers().keys().map(ToString::to_string).collect();
        assert!(!names.iter().any(|name| name == "authorization" || name.starts_with("impers")));
        match route {
            Route::Other { path } if path == "/other/path" => {
                let pieces = self.pieces.lock().unwrap().take().unwrap();
                Box::pin(ready(Ok(Response::new(Pieces(pieces).boxed_unsync()))))
            }
            Route::Other { path } if path == "/other/thing" => {
                Box::pin(ready(Ok(Response::new(body("done")))))
            }
            _ => Box::pin(ready(Err(Refusal::no_such_path()))),
        }
    }
}

#[tokio::test]
async fn an_answer_is_streamed_as_it_comes() {
    let (tell, pieces) = mpsc::unbounded_channel();
    let rest = Arc::new(Other { pieces: Mutex::new(Some(pieces)), ..Other::default() });
    let gateway = start(Components { rest, ..components() }).await;
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    let head = "GET /other/path HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\
                Authorization: Bearer good\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    assert!(head_of(&mut stream).await.starts_with("HTTP/1.1 200 OK\r\n"));
    for piece in ["one", "two"] {
        // The next one is sent when this one is there.
        tell.send(piece).unwrap();
        let mut chunk = [0; "3\r\none\r\n".len()];
        stream.read_exact(&mut chunk).await.unwrap();
        assert_eq!(str::from_utf8(&chunk).unwrap(), format!("3\r\n{piece}\r\n"));
    }
    drop(tell);
    let mut end = String::new();
    stream.read_to_string(&mut end).await.unwrap();
    assert_eq!(end, "0\r\n\r\n");
}

#[tokio::test]
async fn every_method_is_the_rests_to_answer() {
    let rest = Arc::new(Other::default());
    let gateway = start(Components { rest: rest.clone(), ..components() }).await;
    let lines = "Authorization: Bearer good\r\nImpersonate-User: joe\r\n";
    let answer = ask(gateway, "PUT", "/other/thing", lines).await;
    assert_eq!(answer, (200, "done".into()));
    assert_eq!(get(gateway, "/api/v1/namespaces/ns/pods/web").await.0, 404);
    assert_eq!(get(gateway, "/apis/apps/v1/deployments").await.0, 404);
    assert_eq!(
        *rest.asked.lock().unwrap(),
        [
            "joe by jane: PUT /other/thing",
            "jane: GET /api/v1/namespaces/ns/pods/web",
            "jane: GET /apis/apps/v1/deployments",
        ]
    );
}

/// Who allows a path and who serves it must not read it in two ways.
#[tokio::test]
async fn a_path_that_is_not_clean_reaches_nobody() {
    let rest = Arc::new(Other::default());
    let gateway = start(Components { rest: rest.clone(), ..components() }).await;
    for (path, expected) in [("/other/../path", 404), ("//other/path", 404), ("/other/%ff", 400)] {
        let (code, body) = get(gateway, path).await;
        assert_eq!(code, expected, "{path}: {}", message(&body));
    }
    // Health is everybody's to ask.
    assert_eq!(ask(gateway, "GET", "/readyz", "").await, (200, "ok".into()));
    assert!(rest.asked.lock().unwrap().is_empty());
}
