//! The address of a server and the credentials for it, as they are now.
//!
//! Tokens and certificates may expire while a program runs. So whoever makes connections holds a
//! [`Source`] and asks it for each of them, and once more after a 401.

use std::error::Error;
use std::fmt;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use crate::dial::Endpoint;

/// How to reach a server, and what to tell it.
#[derive(Clone)]
pub struct Access {
    /// Where and how to connect.
    pub endpoint: Endpoint,
    /// Headers with credentials. They are sent to `endpoint` and nowhere else.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The number of a source's credentials, which is another one once they have changed.
    pub generation: u64,
}

impl Access {
    /// Makes a source of credentials that never change.
    #[must_use]
    pub fn fixed(endpoint: Endpoint, headers: Vec<(HeaderName, HeaderValue)>) -> Arc<dyn Source> {
        Arc::new(Access { endpoint, headers, generation: 0 })
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The headers hold credentials.
        f.debug_struct("Access").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// Why there are no credentials. The text may have several lines.
#[derive(Clone, Debug)]
pub struct AccessError(Arc<dyn Error + Send + Sync>);

impl AccessError {
    /// Wraps an error.
    pub fn new(error: impl Error + Send + Sync + 'static) -> AccessError {
        AccessError(Arc::new(error))
    }

    /// Returns the wrapped error, if it is of this type.
    #[must_use]
    pub fn downcast_ref<E: Error + 'static>(&self) -> Option<&E> {
        self.0.downcast_ref()
    }
}

impl fmt::Display for AccessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for AccessError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

/// The future of a source's answer.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, AccessError>> + Send + 'a>>;

/// Gives the credentials for each new connection.
pub trait Source: Send + Sync {
    /// Returns the current credentials.
    ///
    /// # Errors
    /// [`AccessError`] if there are none, for example because a plugin failed.
    fn access(&self) -> Answer<'_, Access>;

    /// Records that the server has refused these credentials with a 401; true if there may be
    /// others now.
    ///
    /// # Errors
    /// [`AccessError`] if asking for others failed.
    fn renew<'a>(&'a self, refused: &'a Access) -> Answer<'a, bool>;
}

impl Source for Access {
    fn access(&self) -> Answer<'_, Access> {
        Box::pin(ready(Ok(self.clone())))
    }

    fn renew<'a>(&'a self, _: &'a Access) -> Answer<'a, bool> {
        Box::pin(ready(Ok(false)))
    }
}
