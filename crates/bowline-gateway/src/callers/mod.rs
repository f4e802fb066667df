//! Who a request is from, as whom it runs and goes on, and whether that may be.
//!
//! [`checked`] asks an authenticator and an authorizer here; [`passed`] has all that to an API
//! server, which gets the client's own credentials.

pub mod checked;
pub mod onward;
pub mod passed;

use std::fmt::Debug;

use bowline_io::auth::{Attributes, User};
use bowline_io::record::{Requester, Subject};
use bowline_io::serve::Peer;
use http::HeaderMap;

pub use self::onward::{Onward, Vouching};
use crate::components::Answer;

/// The user of a request, as far as that is known here.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The user as whom it runs; the default one where only an API server knows who it is.
    pub user: User,
    /// What logs say of the user, with the address of the client and who acts as that user.
    pub requester: Requester,
    /// Whether the user was authenticated here.
    pub is_authenticated: bool,
    /// How the caller goes on to an API server.
    pub onward: Onward,
}

/// Says who a request is from, and whether they may.
pub trait Callers: Debug + Send + Sync {
    /// Reads who asks, takes every header that says so out of `headers`, and tells `requester` as
    /// soon as it is known.
    ///
    /// # Errors
    /// 401 for nobody, 400 for what cannot be read, 403 for who may not act as another.
    fn identify<'a>(
        &'a self,
        peer: &'a Peer,
        requester: &'a mut Requester,
        headers: &'a mut HeaderMap,
        attributes: &'a Attributes,
    ) -> Answer<'a, Caller>;

    /// Demands that the caller may do what `attributes` say.
    ///
    /// # Errors
    /// 403 if not, 500 if that cannot be found out.
    fn demand<'a>(&'a self, caller: &'a Caller, attributes: &'a Attributes) -> Answer<'a, ()>;

    /// Demands the verb `create` for a stream that was asked for by another verb.
    ///
    /// # Errors
    /// As with [`demand`](Self::demand).
    fn demand_create<'a>(
        &'a self,
        caller: &'a Caller,
        attributes: &'a Attributes,
    ) -> Answer<'a, ()>;
}

pub(crate) fn subject(user: &User, by: Option<String>) -> Subject {
    Subject { name: user.name.clone(), groups: user.groups.clone(), by }
}
