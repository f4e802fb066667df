//! The replaceable components of a gateway, each behind a trait and chosen where the gateway is
//! made.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::backend::Backend;
pub use crate::callers::{Caller, Callers};
use crate::rest::Rest;
use crate::status::Refusal;

/// An answer to a client, when it is there, or the refusal to give instead. The future may be
/// dropped at any time: then the client is gone.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send + 'a>>;

/// The components of a gateway. [`files`](crate::files) has one of each.
#[derive(Clone, Debug)]
pub struct Components {
    /// Says who a request is from, and whether they may.
    pub callers: Arc<dyn Callers>,
    /// Finds what streams go to.
    pub backend: Arc<dyn Backend>,
    /// Answers everything else.
    pub rest: Arc<dyn Rest>,
}
