//! Why a pool has no answer.

use std::io;
use std::sync::Arc;

use thiserror::Error;

use crate::access::AccessError;
use crate::dial::{DialError, go_text};
use crate::http::HttpError;
use crate::tls::go_errors;

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
    #[error("http2: {_0}")]
    Http2(Arc<h2::Error>),
    /// A connection of HTTP/2 broke.
    #[error("{}", go_text(_0))]
    Broken(Arc<io::Error>),
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
        HttpError::from(error).into()
    }

    pub(super) fn of_http2(error: h2::Error) -> PoolError {
        let Some(broken) = error.get_io() else { return PoolError::Http2(Arc::new(error)) };
        if let Some(tls) = go_errors::find_tls(broken) {
            return HttpError::Tls(tls.clone()).into();
        }
        error.into_io().map_or_else(|| HttpError::Cut.into(), |io| PoolError::Broken(Arc::new(io)))
    }

    /// Whether the connection ended, and not only this request.
    pub(super) fn is_broken(&self) -> bool {
        match self {
            PoolError::Http(error) => error.is_cut(),
            PoolError::Broken(_) | PoolError::Silent => true,
            _ => false,
        }
    }

    /// Whether nothing was begun on the server's side for lack of a connection or of credentials.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, PoolError::Access(_) | PoolError::Dial(_) | PoolError::Busy)
    }
}

/// Whether the server says that it has not begun the request.
pub(super) fn is_unsent(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    // Only streams behind the last one that counts get the GOAWAY as their error.
    error.is_remote() && (refused || error.is_go_away())
}
