//! Callers whom an API server authenticates and authorizes: it gets their own credentials.
//!
//! A certificate cannot go on. Whoever has shown one, which TLS has verified, goes on as a user for
//! whom the gateway vouches.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use bowline_io::auth::{Attributes, Authorizer, User};
use bowline_io::record::Requester;
use bowline_io::serve::Peer;
use http::HeaderMap;

use super::onward::{self, Vouching};
use super::{Caller, Callers, Onward, subject};
use crate::components::Answer;
use crate::identity;
use crate::impersonation::Impersonation;
use crate::status::Refusal;
use crate::upstream::ApiServer;

/// Callers whom an API server knows.
#[derive(Clone, Debug)]
pub struct Passed {
    /// The API server, which is asked for leave where its own check would not do.
    pub server: Arc<ApiServer>,
    /// How users with a certificate go on.
    pub vouching: Vouching,
    /// Says which users with a certificate may act as others; `None` is nobody.
    pub impersonators: Option<Arc<dyn Authorizer>>,
    /// Tells tokens apart, by a key that is this process's.
    hasher: RandomState,
}

impl Passed {
    /// Makes it of its parts.
    #[must_use]
    pub fn new(
        server: Arc<ApiServer>,
        vouching: Vouching,
        impersonators: Option<Arc<dyn Authorizer>>,
    ) -> Passed {
        Passed { server, vouching, impersonators, hasher: RandomState::new() }
    }

    /// Returns the user with a certificate as whom the request runs.
    async fn assumed(
        &self,
        requester: &mut Requester,
        user: User,
        wanted: Option<Impersonation>,
        attributes: &Attributes,
    ) -> Result<(User, Onward), Refusal> {
        requester.user = Some(subject(&user, None));
        let Some(wanted) = wanted else {
            let onward = onward::vouched(self.vouching, &user, None)?;
            return Ok((user, onward));
        };
        let impersonators = self.impersonators.as_ref().ok_or_else(|| {
            let why = "users with a certificate may not act as others through this gateway";
            Refusal::forbidden(crate::status::Details::default(), why)
        })?;
        let other = wanted.assume(&user, attributes, &**impersonators).await?;
        requester.user = Some(subject(&other, Some(user.name.clone())));
        let onward = onward::vouched(self.vouching, &other, Some(&user.name))?;
        Ok((other, onward))
    }
}

impl Callers for Passed {
    fn identify<'a>(
        &'a self,
        peer: &'a Peer,
        requester: &'a mut Requester,
        headers: &'a mut HeaderMap,
        attributes: &'a Attributes,
    ) -> Answer<'a, Caller> {
        Box::pin(async move {
            let claims = identity::take(headers);
            let token = claims.token.map_err(|error| Refusal::unauthorized(error.to_string()))?;
            let wanted = claims.impersonation;
            let wanted = wanted.map_err(|error| Refusal::bad_request(error.to_string()))?;
            let certificate = peer.identity.as_ref().filter(|_| self.vouching != Vouching::Nobody);
            // As in kube-apiserver, a certificate counts before a token.
            let (user, onward, is_authenticated) = match (certificate, token) {
                (Some(identity), _) => {
                    let user = User::new(&*identity.user, identity.groups.clone());
                    let assumed = self.assumed(requester, user, wanted, attributes).await?;
                    (assumed.0, assumed.1, true)
                }
                (None, Some(token)) => {
                    requester.credential = Some(self.hasher.hash_one(&token.0));
                    (User::default(), onward::by_token(&token, wanted.as_ref())?, false)
                }
                // Nobody may act as another; what else nobody may, the API server says.
                (None, None) if wanted.is_some() => {
                    return Err(Refusal::unauthorized("impersonation without credentials"));
                }
                (None, None) => (User::default(), Onward::default(), false),
            };
            Ok(Caller { user, requester: requester.clone(), is_authenticated, onward })
        })
    }

    /// What the API server is asked for next, it allows or refuses itself.
    fn demand<'a>(&'a self, _: &'a Caller, _: &'a Attributes) -> Answer<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// API servers before 1.35, and those with the gate off, let a stream over WebSocket pass by
    /// its verb `get`; one that a client asks for by POST may be asked for over WebSocket here.
    fn demand_create<'a>(
        &'a self,
        caller: &'a Caller,
        attributes: &'a Attributes,
    ) -> Answer<'a, ()> {
        Box::pin(self.server.demand(caller, attributes.with_verb("create")))
    }
}
