//! Why a pool has no answer.

use std::error::Error as _;
use std::sync::Arc;

use thiserror::Error;

use crate::access::AccessError;
use crate::dial::DialError;
use crate::http::HttpError;

/// Why a request got no answer. Several requests may have waited for one connection, so causes are
/// shared.
#[derive(Clone, Debug, Error)]
pub enum PoolError {
    /// There are no credentials.
    #[error(transparent)]
    Access(AccessError),
    /// The server could not be connected to.
    #[error(transparent)]
    Dial(Arc<DialError>),
    /// All connections are in use, and too many requests wait already, or this one did for too
    /// long.
    #[error("all connections to the server are in use")]
    Busy,
    /// The request cannot be sent as HTTP.
    #[error(transparent)]
    Request(Arc<http::Error>),
    /// No answer came.
    #[error(transparent)]
    Http(Arc<HttpError>),
    /// The server ended the stream or the connection of HTTP/2, or broke its rules.
    #[error("{}", http2_text(_0))]
    Http2(Arc<hyper::Error>),
    /// The server does not answer pings.
    #[error("http2: client connection lost")]
    Silent,
}

impl From<HttpError> for PoolError {
    fn from(error: HttpError) -> PoolError {
        PoolError::Http(Arc::new(error))
    }
}

impl PoolError {
    pub(super) fn of(error: hyper::Error) -> PoolError {
        if error.is_timeout() {
            PoolError::Silent
        } else if http2(&error).is_some() {
            PoolError::Http2(Arc::new(error))
        } else {
            HttpError::from(error).into()
        }
    }

    /// Whether the connection ended, and not only this request.
    pub(super) fn is_broken(&self) -> bool {
        match self {
            PoolError::Http(error) => error.is_cut(),
            PoolError::Silent => true,
            _ => false,
        }
    }

    /// Whether nothing was begun on the server's side for lack of a connection or of credentials.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, PoolError::Access(_) | PoolError::Dial(_) | PoolError::Busy)
    }
}

fn http2(error: &hyper::Error) -> Option<&h2::Error> {
    error.source()?.downcast_ref::<h2::Error>()
}

fn http2_text(error: &hyper::Error) -> String {
    http2(error).map_or_else(|| error.to_string(), |http2| format!("http2: {http2}"))
}

/// Whether the server says that it has not begun the request.
pub(super) fn is_unsent(error: &hyper::Error) -> bool {
    let Some(http2) = http2(error) else { return false };
    let refused = http2.is_reset() && http2.reason() == Some(h2::Reason::REFUSED_STREAM);
    // Only streams behind the last one that counts get the GOAWAY as their error.
    http2.is_remote() && (refused || http2.is_go_away())
}
