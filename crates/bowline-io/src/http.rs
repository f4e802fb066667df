//! One request on one connection: to an answer, or to an upgraded connection, as values.

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
use crate::tls::words as tls_words;

/// What an answer's head may hold. Go's servers allow 1 MiB for requests; no answer needs that.
const HEAD_BYTES: usize = 64 * 1024;
const HEADERS: usize = 128;
/// How many answers of 1xx may come before the one that counts: Go's bound. Each is a head.
const INFORMATIONAL: usize = 5;
/// How much of a refusal is read: client-go's own limit.
const REFUSAL_BYTES: usize = 64 * 1024;
/// How long a refusal's body may take.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum HttpError {
    /// The connection ended before the answer did.
    #[error("unexpected EOF")]
    Cut,
    /// Not HTTP, or more of it than we take.
    #[error("malformed HTTP response: {0}")]
    Malformed(hyper::Error),
    /// The connection broke.
    #[error("{}", broken(_0))]
    Broken(hyper::Error),
    /// TLS failed, or the other side ended it with an alert: that a certificate is missing or not
    /// good is said so in TLS 1.3, once the handshake is done.
    #[error("{}", tls_words::of(_0))]
    Tls(rustls::Error),
    /// Answers that are none, one after the other.
    #[error("too many 1xx informational responses")]
    Informational,
    /// Nothing came in time.
    #[error("no answer within {} s", _0.as_secs())]
    Timeout(Duration),
    /// The body is longer than we take.
    #[error("the response is longer than {0} bytes")]
    TooLong(usize),
    /// A 101 whose connection cannot be had back.
    #[error("the connection cannot be taken over")]
    NotOurs,
}

impl HttpError {
    /// Whether the other side went away without an answer, as boxes do that drop what they do not
    /// know.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        matches!(self, HttpError::Cut | HttpError::Broken(_))
    }
}

impl From<hyper::Error> for HttpError {
    fn from(error: hyper::Error) -> HttpError {
        if let Some(tls) = tls_words::at_the_bottom_of(&error) {
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

/// What is below a library's "connection error".
fn broken(error: &hyper::Error) -> String {
    let below = error.source().and_then(|below| below.downcast_ref());
    below.map_or_else(|| error.to_string(), dial::words)
}

/// What an upgrade was answered with.
#[derive(Debug)]
pub enum Answer {
    /// 101: the connection is the caller's. Whether it speaks what was asked for is in the head.
    Switched {
        /// Status and headers.
        head: Parts,
        /// The connection.
        connection: Upgraded,
    },
    /// Anything else.
    Refused {
        /// Status and headers.
        head: Parts,
        /// The beginning of the body.
        body: Bytes,
    },
}

/// Sends a request and reads the whole answer, of at most `bytes`. Redirects are not followed.
///
/// # Errors
/// [`HttpError`].
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

/// Sends a request and gives the answer with its body as it comes.
///
/// # Errors
/// [`HttpError`].
pub async fn open(
    stream: Stream,
    request: Request<()>,
    patience: Duration,
) -> Result<http::Response<Incoming>, HttpError> {
    let sent = send(stream, request.map(|()| Full::new(Bytes::new())));
    timeout(patience, sent).await.map_err(|_| HttpError::Timeout(patience))?
}

/// The beginning of a body, as much as an explanation needs, if it comes soon.
pub async fn explanation(body: Incoming) -> Bytes {
    timeout(REFUSAL_PATIENCE, beginning(body)).await.unwrap_or_default()
}

/// Asks for an upgrade.
///
/// # Errors
/// [`HttpError`]. A refusal is no error.
pub async fn upgrade(
    stream: Stream,
    request: Request<()>,
    patience: Duration,
) -> Result<Answer, HttpError> {
    let mut response = open(stream, request, patience).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (head, body) = response.into_parts();
        // What there is of an explanation is enough.
        let body = explanation(body).await;
        return Ok(Answer::Refused { head, body });
    }
    let upgraded = hyper::upgrade::on(&mut response).await?;
    let parts = upgraded.downcast::<TokioIo<LongTarget>>().map_err(|_| HttpError::NotOurs)?;
    let connection = parts.io.into_inner().into_upgraded(&parts.read_buf);
    Ok(Answer::Switched { head: response.into_parts().0, connection })
}

/// The head of a request for `url`: path and query as its target, the authority as `Host`.
///
/// # Errors
/// [`http::Error`] if HTTP cannot carry one of them.
pub fn head<B>(method: &str, url: &Url, body: B) -> Result<Request<B>, http::Error> {
    let host = &url[Position::BeforeHost..Position::AfterPort];
    request_target::head(method, host, &url[Position::BeforePath..Position::AfterQuery], body)
}

/// Header lines as the core takes them. Values that are not text are left out.
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
    // It ends with the connection: with the body that is read, dropped, or upgraded.
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

/// One buffer that grows, so that an answer is in memory once.
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
