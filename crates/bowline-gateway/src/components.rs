//! The replaceable components of a gateway, each behind a trait and chosen where the gateway is
//! made.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bowline_io::auth::{Authenticator, Authorizer, User};
use bowline_io::record::Requester;

use crate::backend::Backend;
use crate::rest::Rest;
use crate::status::Refusal;

/// An answer to a client, when it is there, or the refusal to give instead. The future may be
/// dropped at any time: then the client is gone.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send + 'a>>;

/// The components of a gateway. [`files`](crate::files) has one of each.
#[derive(Clone, Debug)]
pub struct Components {
    /// Says who a request is from. That it cannot be asked is a 401, as in kube-apiserver.
    pub authenticator: Arc<dyn Authenticator>,
    /// Says whether a user may do something, and whether one may act as another. That it cannot be
    /// asked is a 500.
    pub authorizer: Arc<dyn Authorizer>,
    /// Finds what streams go to.
    pub backend: Arc<dyn Backend>,
    /// Answers everything else.
    pub rest: Arc<dyn Rest>,
}

/// The user of a request, once that is known.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The user as whom it runs.
    pub user: User,
    /// What logs say of the user, with the address of the client and who acts as that user.
    pub requester: Requester,
}
