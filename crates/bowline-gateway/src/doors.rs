//! What a gateway stands on, each behind a trait and chosen where the gateway is made.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bowline_io::auth::{Authenticator, Authorizer, User};
use bowline_io::record::Requester;

use crate::backend::Backend;
use crate::rest::Rest;
use crate::status::Refusal;

/// An answer to a client, when it is there, or the refusal to give instead. It may be dropped at
/// any time: then its client is gone.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send + 'a>>;

/// What a gateway asks. [`files`](crate::files) has one of each.
#[derive(Clone, Debug)]
pub struct Doors {
    /// Who somebody is. That it cannot be asked is a 401, as in kube-apiserver.
    pub authenticator: Arc<dyn Authenticator>,
    /// Whether they may, and also whether they may act as somebody else. That it cannot be asked is
    /// a 500.
    pub authorizer: Arc<dyn Authorizer>,
    /// What streams go to.
    pub backend: Arc<dyn Backend>,
    /// What answers everything else.
    pub rest: Arc<dyn Rest>,
}

/// Whose request it is, once that is known.
#[derive(Clone, Debug)]
pub struct Caller {
    /// As whom it runs.
    pub user: User,
    /// The same for the log, with where it comes from and who acts as that user.
    pub requester: Requester,
}
