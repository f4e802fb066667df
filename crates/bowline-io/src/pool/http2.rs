//! A connection of HTTP/2: each request is put into frames by the task that asks, and its answer
//! wakes that task.
//!
//! The HTTP library above the one for frames would have a task for each request and one for all
//! between those two: twice the time of a small request, and most of it to wake one another.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use http::{HeaderValue, Method, Request, Response, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::Failed;
use super::body::Lent;
use super::connect::Told;
use super::connections::{IDLE_PATIENCE, PATIENCE, STREAMS};
use super::error::{PoolError, is_unsent};
use crate::http::{HEAD_BYTES, HttpError};

/// When a server is asked whether it is there, and how long it may take to say so, as in client-go.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_PATIENCE: Duration = Duration::from_secs(15);
/// How much of one answer may come that nobody reads. It decides how fast a distant server can be.
const STREAM_WINDOW: u32 = 256 * 1024;
/// As much for each request that a connection takes, so that answers which nobody reads hold up no
/// others.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS as u32;
/// The longest frame that a server may send.
const FRAME_BYTES: u32 = 64 * 1024;
/// How much of one request may wait for the server's window.
const SEND_BYTES: usize = 256 * 1024;

/// Sends requests on one connection. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    requests: SendRequest<Bytes>,
    /// Set once the server has not answered a ping.
    is_silent: Arc<AtomicBool>,
}

/// A connection, which has to be driven.
pub(super) struct Driven {
    connection: Connection<Told, Bytes>,
    pings: Option<PingPong>,
    is_silent: Arc<AtomicBool>,
}

/// Begins HTTP/2 on a connection, and waits until the server has said what it takes, which
/// `understood` tells.
pub(super) async fn begin(told: Told, understood: &Notify) -> Result<(Sender, Driven), PoolError> {
    let begun = builder().handshake(told).await;
    let (requests, mut connection) = begun.map_err(PoolError::of_http2)?;
    // How many requests it takes is known before any is sent.
    tokio::select! {
        biased;
        ended = &mut connection => {
            return Err(ended.err().map_or_else(|| HttpError::Cut.into(), PoolError::of_http2));
        }
        () = understood.notified() => {}
        () = sleep(PATIENCE) => return Err(HttpError::Timeout(PATIENCE).into()),
    }
    let pings = connection.ping_pong();
    let is_silent = Arc::<AtomicBool>::default();
    let sender = Sender { requests, is_silent: is_silent.clone() };
    Ok((sender, Driven { connection, pings, is_silent }))
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // Until the server has said how many it takes.
        .initial_max_send_streams(1)
        .max_frame_size(FRAME_BYTES)
        .max_send_buffer_size(SEND_BYTES)
        .max_header_list_size(HEAD_BYTES as u32)
        .enable_push(false);
    builder
}

impl Driven {
    /// Drives the connection to its end: `limit` learns how many requests it takes whenever that
    /// changes, and `idle` is called when nothing has ended it for a while.
    pub(super) async fn drive(mut self, limit: impl Fn(usize), idle: impl Fn()) {
        let known = AtomicUsize::new(0);
        let mut pings = self.pings.take();
        let mut silence = std::pin::pin!(silence(&mut pings));
        loop {
            let ended = poll_fn(|cx| {
                let polled = Pin::new(&mut self.connection).poll(cx);
                let now = self.connection.max_concurrent_send_streams();
                if known.swap(now, Ordering::Relaxed) != now {
                    limit(now);
                }
                polled
            });
            tokio::select! {
                _ = ended => return,
                () = &mut silence => {
                    self.is_silent.store(true, Ordering::Relaxed);
                    return;
                }
                () = sleep(IDLE_PATIENCE) => idle(),
            }
        }
    }
}

/// Asks the server from time to time whether it is there; ready once it has not said so.
async fn silence(pings: &mut Option<PingPong>) {
    let Some(pings) = pings else { return std::future::pending().await };
    loop {
        sleep(PING_EVERY).await;
        match timeout(PING_PATIENCE, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection itself says how it has ended.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}

impl Sender {
    /// How many requests the connection takes at once.
    pub(super) fn limit(&self) -> usize {
        self.requests.current_max_send_streams()
    }

    /// Whether the connection is there and the server has not said that it goes away.
    pub(super) fn takes_more(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        !matches!(self.requests.poll_ready(&mut cx), Poll::Ready(Err(_)))
    }

    fn error(&self, error: h2::Error) -> PoolError {
        error_of(&self.is_silent, error)
    }

    /// Sends a request, and returns its answer once the head has come.
    pub(super) async fn send(
        &mut self,
        request: Request<Lent>,
    ) -> Result<Response<Received>, Failed> {
        // Neither of these two has sent anything, if it fails.
        let unsent = |sender: &Sender, error: h2::Error| {
            let is_over = error.is_go_away() || error.is_io() || error.is_library();
            let is_unsent = is_over || error.is_reset();
            Failed { error: sender.error(error), is_unsent, was_kept: false }
        };
        if let Err(error) = poll_fn(|cx| self.requests.poll_ready(cx)).await {
            return Err(unsent(self, error));
        }
        let (mut head, body) = request.into_parts();
        say_length(&mut head, &body);
        let is_whole = body.is_end_stream();
        let begun = self.requests.send_request(Request::from_parts(head, ()), is_whole);
        let (mut answer, mut stream) = begun.map_err(|error| unsent(self, error))?;
        let mut sending = None;
        let early = if is_whole {
            None
        } else {
            tokio::select! {
                biased;
                answer = &mut answer => Some(answer),
                is_open = is_open(&mut stream) => {
                    if is_open {
                        let ready = poll_fn(|cx| self.requests.poll_ready(cx)).await;
                        ready.map_err(|error| unsent(self, error))?;
                        sending = Some(Sending::begin(body, stream));
                    }
                    None
                }
            }
        };
        let answer = match early {
            Some(answer) => answer,
            None => answer.await,
        };
        let answer = answer.map_err(|error| {
            let is_unsent = is_unsent(&error);
            Failed { error: self.error(error), is_unsent, was_kept: false }
        })?;
        let length = length(&answer);
        let is_silent = self.is_silent.clone();
        Ok(answer.map(|stream| Received {
            stream,
            length,
            is_silent,
            has_data: true,
            _sending: sending,
        }))
    }
}

fn error_of(is_silent: &AtomicBool, error: h2::Error) -> PoolError {
    if is_silent.load(Ordering::Relaxed) { PoolError::Silent } else { PoolError::of_http2(error) }
}

/// Says how long a body is, where that is known and its request does not.
fn say_length(head: &mut http::request::Parts, body: &Lent) {
    let Some(length) = body.size_hint().exact() else { return };
    let may_have_none = !matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
    if length > 0 || !may_have_none {
        head.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
}

fn length<B>(answer: &Response<B>) -> Option<u64> {
    answer.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Waits until a stream is there for the server as well: what is asked for while the server says
/// that it goes away may never be, and its body must be whole for another server. False if it has
/// ended.
async fn is_open(stream: &mut SendStream<Bytes>) -> bool {
    stream.reserve_capacity(1);
    let is_open = has_capacity(stream).await;
    // It is others' until there is something to send.
    stream.reserve_capacity(0);
    is_open
}

async fn has_capacity(stream: &mut SendStream<Bytes>) -> bool {
    while stream.capacity() == 0 {
        match poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return false,
        }
    }
    true
}

/// The task that sends a body. Dropped, it ends, and the stream with it unless both sides have come
/// to their end.
#[derive(Debug)]
struct Sending(AbortHandle);

impl Sending {
    fn begin(body: Lent, stream: SendStream<Bytes>) -> Sending {
        #[expect(clippy::disallowed_methods, reason = "it ends with the request")]
        let task = tokio::spawn(send_body(body, stream));
        Sending(task.abort_handle())
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn send_body(mut body: Lent, mut stream: SendStream<Bytes>) {
    loop {
        let frame = tokio::select! {
            biased;
            // The server wants no more of it.
            _ = poll_fn(|cx| stream.poll_reset(cx)) => return,
            frame = body.frame() => frame,
        };
        // What fails here ends the answer as well, and whoever waits for that learns it.
        let Some(frame) = frame else {
            let _ = stream.send_data(Bytes::new(), true);
            return;
        };
        let Ok(frame) = frame else { return stream.send_reset(Reason::INTERNAL_ERROR) };
        match Frame::into_data(frame) {
            Ok(data) => {
                let is_last = body.is_end_stream();
                if !send_piece(&mut stream, data, is_last).await || is_last {
                    return;
                }
            }
            Err(frame) => {
                if let Ok(trailers) = Frame::into_trailers(frame) {
                    let _ = stream.send_trailers(trailers);
                    return;
                }
            }
        }
    }
}

/// Sends a piece once the server takes more; whether it was sent.
async fn send_piece(stream: &mut SendStream<Bytes>, data: Bytes, is_last: bool) -> bool {
    if !data.is_empty() {
        // What is asked for is taken from other requests, so it is no more than is needed now; the
        // library asks for the rest of a piece that it has.
        stream.reserve_capacity(1);
        if !has_capacity(stream).await {
            return false;
        }
    }
    stream.send_data(data, is_last).is_ok()
}

/// The body of an answer.
#[derive(Debug)]
pub(super) struct Received {
    stream: RecvStream,
    /// How much is still to come, where the answer says it.
    length: Option<u64>,
    is_silent: Arc<AtomicBool>,
    /// Trailers come behind all data.
    has_data: bool,
    /// The body of the request, of which something may be left.
    _sending: Option<Sending>,
}

impl Received {
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, PoolError>>> {
        while self.has_data {
            match ready!(self.stream.poll_data(cx)) {
                None => self.has_data = false,
                Some(Ok(data)) => {
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    self.length = self.length.map(|all| all.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                // The answer is whole, and the server wants no more of the request.
                Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) => {
                    return Poll::Ready(None);
                }
                Some(Err(error)) => {
                    return Poll::Ready(Some(Err(error_of(&self.is_silent, error))));
                }
            }
        }
        Poll::Ready(match ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => Some(Err(error_of(&self.is_silent, error))),
        })
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
