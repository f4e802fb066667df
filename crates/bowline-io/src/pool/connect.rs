//! Makes the connections of a pool, and drives each of them until it ends.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use http::{Request, Response, header};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::ext::on_informational;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::body::Lent;
use super::connections::{IDLE_PATIENCE, Open, PATIENCE, Sender, Shared};
use super::error::PoolError;
use super::target::{HTTP2, Target};
use super::{Failed, http2};
use crate::dial::dial;
use crate::http::{HEAD_BYTES, HEADERS, HttpError, INFORMATIONAL};
use crate::stream::Stream;

type Http1 = http1::Connection<TokioIo<Told>, Lent>;

enum Driven {
    Http1(Box<Http1>),
    Http2(Box<http2::Driven>),
}

/// Makes a connection for whoever waits, and drives it.
pub(super) fn connect(shared: Weak<Shared>, open: Open, target: Arc<Target>) {
    // The task ends with the connection, and that with its last request once the pool is dropped.
    #[expect(clippy::disallowed_methods, reason = "it ends with the connection")]
    tokio::spawn(async move {
        let made = make(&target, open).await;
        let Some(pool) = shared.upgrade() else { return };
        match made {
            Err(error) => pool.not_dialled(&error),
            Ok((sender, driven)) => {
                let id = pool.dialled(&target, sender);
                drop((pool, target));
                match driven {
                    Driven::Http1(connection) => drive_http1(connection, shared).await,
                    Driven::Http2(connection) => drive_http2(connection, id, shared).await,
                }
            }
        }
    });
}

async fn make(target: &Target, open: Open) -> Result<(Sender, Driven), PoolError> {
    let dialled = dial(&target.endpoint, PATIENCE).await;
    let stream = dialled.map_err(|error| PoolError::Dial(Arc::new(error)))?;
    let is_http2 = stream.protocol() == Some(HTTP2);
    let understood = Arc::new(Notify::new());
    let told = Told { stream, has_read: false, understood: Some(understood.clone()), _open: open };
    if is_http2 {
        let (sender, driven) = http2::begin(told, &understood).await?;
        return Ok((Sender::Http2(sender), Driven::Http2(Box::new(driven))));
    }
    let (sender, connection) =
        http1_builder().handshake(TokioIo::new(told)).await.map_err(PoolError::of)?;
    Ok((Sender::Http1(sender), Driven::Http1(Box::new(connection))))
}

pub(super) fn http1_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.title_case_headers(true).max_buf_size(HEAD_BYTES).max_headers(HEADERS);
    builder
}

async fn drive_http1(mut connection: Box<Http1>, shared: Weak<Shared>) {
    loop {
        tokio::select! {
            _ = &mut *connection => return,
            () = sleep(IDLE_PATIENCE) => end_idle(&shared),
        }
    }
}

async fn drive_http2(driven: Box<http2::Driven>, id: u64, shared: Weak<Shared>) {
    let limit = |now| {
        if let Some(shared) = shared.upgrade() {
            shared.set_limit(id, now);
        }
    };
    driven.drive(limit, || end_idle(&shared)).await;
    if let Some(shared) = shared.upgrade() {
        shared.end(id);
    }
}

fn end_idle(shared: &Weak<Shared>) {
    if let Some(shared) = shared.upgrade() {
        shared.end_idle();
    }
}

/// Sends a request on a connection of HTTP/1.1 that has none.
pub(super) async fn send_http1(
    sender: &mut http1::SendRequest<Lent>,
    mut request: Request<Lent>,
) -> Result<Response<Incoming>, Failed> {
    let unsent = |error| Failed { error, is_unsent: true, was_kept: false };
    // What was sent on it before is over, but perhaps not put away yet.
    sender.ready().await.map_err(|error| unsent(PoolError::of(error)))?;
    let too_many = Arc::new(Notify::new());
    let wanted = Arc::new(Notify::new());
    if request.headers().contains_key(header::EXPECT) {
        request.body_mut().hold(wanted.clone());
    }
    let (told, count) = (too_many.clone(), AtomicUsize::new(0));
    on_informational(&mut request, move |_| {
        wanted.notify_one();
        if count.fetch_add(1, Ordering::Relaxed) == INFORMATIONAL {
            told.notify_one();
        }
    });
    tokio::select! {
        biased;
        () = too_many.notified() => {
            let error = HttpError::Informational.into();
            Err(Failed { error, is_unsent: false, was_kept: false })
        }
        sent = sender.try_send_request(request) => sent.map_err(|mut failed| {
            let is_unsent = failed.take_message().is_some();
            Failed { error: PoolError::of(failed.into_error()), is_unsent, was_kept: false }
        }),
    }
}

/// A connection that tells when what came first was understood: when the HTTP library, which has
/// it, wants more.
pub(super) struct Told {
    stream: Stream,
    has_read: bool,
    understood: Option<Arc<Notify>>,
    _open: Open,
}

impl AsyncRead for Told {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let told = self.get_mut();
        if told.has_read
            && let Some(understood) = told.understood.take()
        {
            understood.notify_one();
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut told.stream).poll_read(cx, buffer);
        told.has_read |= buffer.filled().len() > before;
        read
    }
}

impl AsyncWrite for Told {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
