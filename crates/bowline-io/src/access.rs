//! Who asks a server: its address and the headers that say who it is, as they are now.
//!
//! Tokens and certificates end before a program does. So whoever makes connections holds a
//! [`Source`], asks it for each of them, and once more after a 401.

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
    /// Who asks. They go to `endpoint` and nowhere else.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Which of a source's this is. The same number means the same credentials.
    pub generation: u64,
}

impl Access {
    /// Credentials that stay as they are.
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

/// Why there are no credentials, in one line or more.
#[derive(Clone, Debug)]
pub struct AccessError(Arc<dyn Error + Send + Sync>);

impl AccessError {
    /// Because of this.
    pub fn new(error: impl Error + Send + Sync + 'static) -> AccessError {
        AccessError(Arc::new(error))
    }

    /// The error, if it is one of this kind.
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

/// What a source answers, when it has it.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, AccessError>> + Send + 'a>>;

/// Gives the credentials for each new connection.
pub trait Source: Send + Sync {
    /// The credentials of now.
    fn access(&self) -> Answer<'_, Access>;

    /// The server has refused these with a 401. Whether there may be others now.
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
