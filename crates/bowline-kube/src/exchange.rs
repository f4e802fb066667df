//! Plain requests over connections that are kept, for those who ask often. Whoever has such
//! connections implements [`Exchange`]; without, each request has one of its own.

use std::pin::Pin;

use bytes::Bytes;
use http::Request;
use http::response::Parts;
use thiserror::Error;

/// Why there is no answer.
#[derive(Clone, Debug, Error)]
#[error("{text}")]
pub struct ExchangeError {
    /// What happened.
    pub text: String,
    /// Whether the same request may have an answer a moment later.
    pub may_pass: bool,
}

/// An answer with its whole body, when it is there.
pub type Answer<'a> =
    Pin<Box<dyn Future<Output = Result<(Parts, Bytes), ExchangeError>> + Send + 'a>>;

/// Sends requests to one server, over connections that are kept.
pub trait Exchange: Send + Sync {
    /// Sends a request and reads its answer, whose body may have `bytes`. The current credentials
    /// are added to it, and others after a 401, if there are any.
    ///
    /// # Errors
    /// [`ExchangeError`] if no whole answer comes, or its body is longer.
    fn exchange(&self, request: Request<Bytes>, bytes: usize) -> Answer<'_>;
}
