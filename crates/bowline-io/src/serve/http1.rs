//! A connection of HTTP/1.1.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tracing::debug;

use super::answers::{Fault, HEADERS, complete, host_fault, refusal};
use super::drain::{Phase, Phases};
use super::exchange::{AnswerBody, Exchange, Refused};
use super::heads::{Heads, LIBRARY_BYTES};
use super::{Client, Peer, Reply, Settings};
use crate::stream::Stream;

/// How often a connection is asked again in one turn.
const TURNS: usize = 8;
/// How long a new connection may take for its first request, once the server closes.
const NEW_PATIENCE: Duration = Duration::from_secs(1);

/// Serves a connection until it ends.
pub(super) async fn serve<S, F>(stream: Stream, client: Client, settings: Settings, service: S)
where
    S: Fn(Peer, Request<Incoming>) -> F,
    F: Future<Output = Reply>,
{
    let exchange = Arc::new(Exchange::default());
    let registered = client.registered.clone();
    let heads = Heads::new(stream, registered, exchange.clone(), settings.request_bodies);
    // Cloned for each request, which tokens would make dearer.
    let (address, phases) = (client.address, Arc::new(client.phases.clone()));
    let (begins, ends) = (exchange.clone(), phases.clone());
    let answer = service_fn(move |request| {
        let reply =
            checked(&exchange, settings, request).map(|request| service(client.peer(), request));
        let (exchange, phases) = (exchange.clone(), phases.clone());
        async move {
            let reply = match reply {
                Ok(reply) => reply.await,
                Err((code, phrase)) => refusal(code, phrase),
            };
            Ok::<_, Infallible>(finish(&exchange, &phases, reply))
        }
    });
    let connection = http1::Builder::new()
        .max_buf_size(LIBRARY_BYTES)
        .max_headers(HEADERS)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(heads), answer)
        .with_upgrades();
    let mut connection = pin!(connection);
    let served = tokio::select! {
        biased;
        served = poll_fn(|cx| poll_all(connection.as_mut(), &begins, cx)) => served,
        () = closes(&ends, &begins) => {
            connection.as_mut().graceful_shutdown();
            poll_fn(|cx| poll_all(connection.as_mut(), &begins, cx)).await
        }
    };
    if let Err(error) = served {
        debug!("{address}: {error}");
    }
}

/// Polls a connection until nothing that it waits for is there.
fn poll_all<T>(
    mut connection: Pin<&mut impl Future<Output = T>>,
    exchange: &Exchange,
    cx: &mut Context<'_>,
) -> Poll<T> {
    for _ in 0..TURNS {
        let polled = connection.as_mut().poll(cx);
        if polled.is_ready() || !exchange.take_more() {
            return polled;
        }
    }
    // Others have their turn.
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// Waits until a connection has to close. One that was made just now has not had its request yet.
async fn closes(phases: &Phases, exchange: &Exchange) {
    phases.closing.cancelled().await;
    let _late = timeout(NEW_PATIENCE, exchange.first()).await;
}

/// Returns the request with all of its query, or code and phrase of the refusal of a bad one.
fn checked(
    exchange: &Exchange,
    settings: Settings,
    mut request: Request<Incoming>,
) -> Result<Request<Incoming>, Fault> {
    match exchange.asked(request.body()) {
        Ok(Some(query)) => query.put_back(&mut request),
        Ok(None) => {}
        Err(Refused::Malformed) => return Err((StatusCode::BAD_REQUEST, "Bad Request")),
        Err(Refused::TooLong) => {
            let code = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            return Err((code, "Request Header Fields Too Large"));
        }
    }
    if let Some(fault) = host_fault(request.version(), request.headers()) {
        return Err((StatusCode::BAD_REQUEST, fault));
    }
    if let Some(refused) = settings.request_bodies.then(|| body_fault(request.headers())).flatten()
    {
        return Err(refused);
    }
    Ok(request)
}

/// Returns code and phrase with which Go's servers refuse what a request says of its body, if it is
/// more than these understand.
fn body_fault(headers: &HeaderMap) -> Option<Fault> {
    let is_other = |name, known: &str| {
        headers
            .get(name)
            .is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(known.as_bytes()))
    };
    if is_other(header::TRANSFER_ENCODING, "chunked") {
        return Some((StatusCode::NOT_IMPLEMENTED, "Not Implemented"));
    }
    is_other(header::EXPECT, "100-continue")
        .then_some((StatusCode::EXPECTATION_FAILED, "Expectation Failed"))
}

/// Prepares an answer for the library.
fn finish(exchange: &Arc<Exchange>, phases: &Phases, mut reply: Reply) -> Response<AnswerBody> {
    if reply.status() == StatusCode::SWITCHING_PROTOCOLS {
        exchange.switches();
    } else if phases.now() >= Phase::GoingAway {
        reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    complete(&mut reply);
    reply.map(|body| exchange.answer(body))
}
