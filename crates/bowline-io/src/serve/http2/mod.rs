//! A connection of HTTP/2: many requests at once, of which each has a task.
//!
//! What a client may make this hold is bounded by the limits below, whatever it asks for. Which
//! connections are ended for others is decided as for HTTP/1.1: by who is authenticated, and by
//! what happens on them.

mod connection;
mod in_flight;
mod request_head;
mod tasks;

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use self::connection::Watched;
use self::in_flight::{AnswerBody, InFlight, OneInFlight, Verdict};
use self::request_head::{Form, not_switched, switched};
use self::tasks::Tasks;
pub(super) use self::tasks::Upgrade;
use super::answers::{Fault, complete, refusal};
use super::{Client, END_PATIENCE, Peer, Reply, Settings};
use crate::stream::Stream;

/// How many requests of one connection there may be at once: as few as a client may count on (RFC
/// 9113 §6.5.2), since each may have an answer that is not read. kube-apiserver has 250.
const STREAMS: u32 = 100;
/// How much of one body may be on its way before the service has read it: with 20 ms between client
/// and server that is 50 MiB/s.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// The same for all bodies of a connection. It is all that a client can make this hold of bodies.
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// How much of one answer may wait for its client.
const SEND_BYTES: usize = 64 * 1024;
/// The longest head of a request, with 32 bytes for each header. It is less than over HTTP/1.1,
/// since a target has 64 KiB at most here, and what else is long is a token.
const HEAD_BYTES: u32 = 256 * 1024;
/// How many requests a client may take back before they were looked at, and how many it may make
/// this end by faults of its own (CVE-2023-44487, CVE-2025-8671).
const EARLY_RESETS: usize = 20;
const FAULTS: usize = 200;
/// How often a client that sends nothing is asked whether it is still there, so that nothing on the
/// way takes a silent watch for a dead connection.
const PING_EVERY: Duration = Duration::from_secs(30);
/// How long the answer may take. That the client's host is gone is found by TCP long before; what
/// is left is a client that was stopped for a while, as by Ctrl-Z.
const PING_PATIENCE: Duration = Duration::from_secs(5 * 60);
/// How long a client may take to end a connection that it was told goes away, if it is not
/// authenticated or nothing is under way.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// Serves a connection until it ends, the server does, or it has to give way to others.
pub(super) async fn serve<S, F>(stream: Stream, client: Client, settings: Settings, service: S)
where
    S: Fn(Peer, Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    let (address, registered) = (client.address, client.registered.clone());
    let phases = client.phases.clone();
    let in_flight = InFlight::new(registered.clone());
    let tasks = Tasks::default();
    let plain = tasks.plain();
    let _ended = plain.clone().drop_guard();
    let io = TokioIo::new(Watched::new(stream, in_flight.clone()));
    let counted = in_flight.clone();
    let service = service_fn(move |request| {
        let one = counted.begin();
        answer(service.clone(), client.peer(), one, request_head::judge(request))
    });
    let mut connection = pin!(builder(settings, tasks).serve_connection(io, service));
    let (mut closes, mut closes_by) = (false, None);
    let ended = loop {
        let wake = closes_by.unwrap_or_else(|| in_flight.wake_at());
        tokio::select! {
            biased;
            ended = &mut connection => break ended,
            () = phases.end.cancelled(), if !plain.is_cancelled() => {
                // Sessions have their time to end; all else is over.
                plain.cancel();
                connection.as_mut().graceful_shutdown();
                (closes, closes_by) = (true, Some(Instant::now() + END_PATIENCE));
            }
            () = phases.closing.cancelled(), if !closes => {
                connection.as_mut().graceful_shutdown();
                closes = true;
                closes_by = in_flight.is_idle().then(|| Instant::now() + CLOSE_PATIENCE);
            }
            () = registered.evicted() => {
                connection.as_mut().graceful_shutdown();
                // What can be said at once is said.
                poll_fn(|cx| Poll::Ready(connection.as_mut().poll(cx).is_ready())).await;
                return debug!("{address}: gives way to others");
            }
            () = sleep_until(wake), if closes_by.is_some() || !closes => {
                if closes_by.is_some() {
                    return debug!("{address}: does not close");
                }
                if in_flight.judge() == Verdict::Over {
                    connection.as_mut().graceful_shutdown();
                    closes = true;
                    // One that is authenticated may take long for the end of an answer, and goes
                    // before others when there are too many.
                    let patience = !registered.is_authenticated();
                    closes_by = patience.then(|| Instant::now() + CLOSE_PATIENCE);
                }
            }
        }
    };
    if let Err(error) = ended {
        debug!("{address}: {error}");
    }
}

fn builder(settings: Settings, tasks: Tasks) -> Builder<Tasks> {
    let mut builder = Builder::new(tasks);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BYTES)
        .max_header_list_size(HEAD_BYTES)
        .max_pending_accept_reset_streams(EARLY_RESETS)
        .max_local_error_reset_streams(FAULTS)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_PATIENCE);
    if settings.http2_websockets {
        builder.enable_connect_protocol();
    }
    builder
}

async fn answer<S, F>(
    service: S,
    peer: Peer,
    one: Arc<OneInFlight>,
    form: Result<Form<Incoming>, Fault>,
) -> Result<Response<AnswerBody>, Infallible>
where
    S: Fn(Peer, Request<Incoming>) -> F,
    F: Future<Output = Reply>,
{
    let mut reply = match form {
        Ok(Form::Plain(request)) => not_switched(service(peer, request).await),
        Ok(Form::WebSocket(mut request)) => {
            Upgrade::of_this_task(one.clone()).put_into(&mut request);
            switched(service(peer, request).await)
        }
        Err((code, phrase)) => refusal(code, phrase),
    };
    complete(&mut reply);
    Ok(reply.map(|body| AnswerBody::new(body, one)))
}
