//! Sends one request on one connection, and reads its answer or upgrades the connection.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::ext::on_informational;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::timeout;
use url::{Position, Url};

use crate::dial;
use crate::request_target::{self, LongTarget};
use crate::stream::{Stream, Upgraded};
use crate::tls::go_errors;

/// The longest head of an answer. Go's servers allow 1 MiB for requests; no answer needs that.
pub(crate) const HEAD_BYTES: usize = 64 * 1024;
pub(crate) const HEADERS: usize = 128;
/// How many answers of 1xx may come before the one that counts, as in Go.
pub(crate) const INFORMATIONAL: usize = 5;
/// How much of a refusal's body is read, as by client-go.
const REFUSAL_BYTES: usize = 64 * 1024;
/// How long a refusal's body may take.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(10);

/// Why a request got no answer.
#[derive(Debug, Error)]
pub enum HttpError {
    /// The connection ended before the answer did.
    #[error("unexpected EOF")]
    Cut,
    /// What came is not HTTP, or exceeds our limits.
    #[error("malformed HTTP response: {0}")]
    Malformed(#[source] hyper::Error),
    /// The connection broke.
    #[error("{}", broken(_0))]
    Broken(#[source] hyper::Error),
    /// TLS failed, or the other side ended it with an alert. In TLS 1.3 that is how it tells after
    /// the handshake that a certificate is missing or not good.
    #[error("{}", go_errors::text(_0))]
    Tls(#[source] rustls::Error),
    /// More than five informational answers (1xx) came.
    #[error("too many 1xx informational responses")]
    Informational,
    /// The answer was not complete within this time.
    #[error("no answer within {} s", _0.as_secs())]
    Timeout(Duration),
    /// The body is longer than this many bytes.
    #[error("the response is longer than {0} bytes")]
    TooLong(usize),
    /// A 101 came, and hyper did not give back the connection.
    #[error("the connection cannot be taken over")]
    NotOurs,
}

impl HttpError {
    /// Whether the other side ended the connection without an answer, as proxies do that drop
    /// upgrades.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        matches!(self, HttpError::Cut | HttpError::Broken(_))
    }
}

impl From<hyper::Error> for HttpError {
    fn from(error: hyper::Error) -> HttpError {
        if let Some(tls) = go_errors::find_tls(&error) {
            HttpError::Tls(tls.clone())
        } else if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
            HttpError::Cut
        } else if error.is_parse() {
            HttpError::Malformed(error)
        } else {
            HttpError::Broken(error)
        }
    }
}

/// Returns the text of the error below hyper's "connection error".
fn broken(error: &hyper::Error) -> String {
    let below = error.source().and_then(|below| below.downcast_ref());
    below.map_or_else(|| error.to_string(), dial::go_text)
}

/// The answer to a request for an upgrade.
#[derive(Debug)]
pub enum UpgradeAnswer {
    /// The answer is 101. Whether the connection carries what was offered has to be checked by the
    /// head.
    Switched {
        /// Status and headers.
        head: Parts,
        /// The connection.
        connection: Upgraded,
    },
    /// The answer is any other one.
    Refused {
        /// Status and headers.
        head: Parts,
        /// The beginning of the body.
        body: Bytes,
    },
}

/// The answer to a request for an upgrade, whose body was not read.
#[derive(Debug)]
pub enum Passed {
    /// A 101, and the connection.
    Switched(Parts, Upgraded),
    /// Any other answer.
    Answered(http::Response<Incoming>),
}

/// Sends a request and reads the whole answer, whose body may have `bytes`. Redirects are not
/// followed.
///
/// # Errors
/// [`HttpError`] if no complete answer comes within `patience`, or it exceeds a limit.
pub async fn request(
    stream: Stream,
    request: Request<Bytes>,
    bytes: usize,
    patience: Duration,
) -> Result<(Parts, Bytes), HttpError> {
    let exchange = async {
        let response = send(stream, request.map(Full::new)).await?;
        let (head, body) = response.into_parts();
        Ok((head, whole(body, bytes).await?))
    };
    timeout(patience, exchange).await.map_err(|_| HttpError::Timeout(patience))?
}

/// Sends a request and returns the answer once its head has come; its body can be read as it comes.
///
/// # Errors
/// [`HttpError`] if no head comes within `patience`, or it exceeds a limit.
pub async fn open(
    stream: Stream,
    request: Request<()>,
    patience: Duration,
) -> Result<http::Response<Incoming>, HttpError> {
    let sent = send(stream, request.map(|()| Full::new(Bytes::new())));
    timeout(patience, sent).await.map_err(|_| HttpError::Timeout(patience))?
}

/// Reads the beginning of a refusal's body: at most 64 KiB, and nothing if that takes more than 10
/// s.
pub async fn explanation(body: Incoming) -> Bytes {
    timeout(REFUSAL_PATIENCE, beginning(body)).await.unwrap_or_default()
}

/// Sends a request for an upgrade.
///
/// # Errors
/// [`HttpError`] if no head of an answer comes within `patience`. A refusal is no error.
pub async fn upgrade(
    stream: Stream,
    request: Request<()>,
    patience: Duration,
) -> Result<UpgradeAnswer, HttpError> {
    match open_upgrade(stream, request, patience).await? {
        Passed::Switched(head, connection) => Ok(UpgradeAnswer::Switched { head, connection }),
        Passed::Answered(answer) => {
            let (head, body) = answer.into_parts();
            let body = explanation(body).await;
            Ok(UpgradeAnswer::Refused { head, body })
        }
    }
}

/// Sends a request for an upgrade and returns the answer once its head has come; the body of one
/// that is no 101 can be read as it comes.
///
/// # Errors
/// [`HttpError`] if no head of an answer comes within `patience`.
pub async fn open_upgrade(
    stream: Stream,
    request: Request<()>,
    patience: Duration,
) -> Result<Passed, HttpError> {
    let mut response = open(stream, request, patience).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Passed::Answered(response));
    }
    let upgraded = hyper::upgrade::on(&mut response).await?;
    let parts = upgraded.downcast::<TokioIo<LongTarget>>().map_err(|_| HttpError::NotOurs)?;
    let connection = parts.io.into_inner().into_upgraded(&parts.read_buf);
    Ok(Passed::Switched(response.into_parts().0, connection))
}

/// Makes a request for `url`: path and query are its target, the authority is `Host`.
///
/// # Errors
/// [`http::Error`] if one of the parts cannot be in an HTTP request.
pub fn head<B>(method: &str, url: &Url, body: B) -> Result<Request<B>, http::Error> {
    let host = &url[Position::BeforeHost..Position::AfterPort];
    request_target::head(method, host, &url[Position::BeforePath..Position::AfterQuery], body)
}

/// Returns header lines as the core takes them, without those whose values are not text.
#[must_use]
pub fn lines(headers: &HeaderMap) -> Vec<(&str, &str)> {
    fn line<'a>((name, value): (&'a HeaderName, &'a HeaderValue)) -> Option<(&'a str, &'a str)> {
        Some((name.as_str(), value.to_str().ok()?))
    }
    headers.iter().filter_map(line).collect()
}

async fn send(
    stream: Stream,
    mut request: Request<Full<Bytes>>,
) -> Result<http::Response<Incoming>, HttpError> {
    let (mut sender, connection) = http1::Builder::new()
        .title_case_headers(true)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .handshake::<_, Full<Bytes>>(TokioIo::new(LongTarget::asking(stream, &request)))
        .await?;
    let too_many = Arc::new(Notify::new());
    let (told, count) = (too_many.clone(), AtomicUsize::new(0));
    on_informational(&mut request, move |_| {
        if count.fetch_add(1, Ordering::Relaxed) == INFORMATIONAL {
            told.notify_one();
        }
    });
    // The task ends when the body was read or dropped, or the connection was upgraded.
    #[expect(clippy::disallowed_methods, reason = "it ends with the connection")]
    let connection = tokio::spawn(connection.with_upgrades());
    tokio::select! {
        biased;
        () = too_many.notified() => {
            connection.abort();
            Err(HttpError::Informational)
        }
        response = sender.send_request(request) => Ok(response?),
    }
}

/// Reads a body of at most `bytes` into one buffer, so that it is in memory once.
async fn whole(mut body: Incoming, bytes: usize) -> Result<Bytes, HttpError> {
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if read.len() + data.len() > bytes {
            return Err(HttpError::TooLong(bytes));
        }
        read.extend_from_slice(&data);
    }
    Ok(read.freeze())
}

async fn beginning(mut body: Incoming) -> Bytes {
    let mut read = BytesMut::new();
    while read.len() < REFUSAL_BYTES {
        let Some(Ok(frame)) = body.frame().await else { break };
        if let Some(data) = frame.data_ref() {
            read.extend_from_slice(&data[..data.len().min(REFUSAL_BYTES - read.len())]);
        }
    }
    read.freeze()
}
