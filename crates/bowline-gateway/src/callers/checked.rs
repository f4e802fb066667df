//! Callers whom this gateway authenticates and authorizes itself.

use std::sync::Arc;

use bowline_io::auth::{Attributes, Authenticator, Authorizer, Credentials};
use bowline_io::record::Requester;
use bowline_io::serve::Peer;
use http::HeaderMap;

use super::onward::{self, Vouching};
use super::{Caller, Callers, Onward, subject};
use crate::authz::demand;
use crate::components::Answer;
use crate::identity;
use crate::status::Refusal;

/// Callers who are authenticated and authorized here.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Says who a request is from. That it cannot be asked is a 401, as in kube-apiserver.
    pub authenticator: Arc<dyn Authenticator>,
    /// Says whose a token is that the authenticator does not know: an API server, to which such
    /// users go on with it. `None` where there is none.
    pub token_reviewer: Option<Arc<dyn Authenticator>>,
    /// Says whether a user may do something, and whether one may act as another. That it cannot be
    /// asked is a 500.
    pub authorizer: Arc<dyn Authorizer>,
    /// How users whom the authenticator knows go on to an API server; `None` where there is none.
    pub vouching: Option<Vouching>,
}

impl Callers for Checked {
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
            let credentials =
                Credentials { certificate: peer.identity.as_ref(), token: token.as_ref() };
            let (user, is_reviewed) = match self.authenticator.authenticate(credentials).await {
                Ok(None) => match &self.token_reviewer {
                    Some(reviewer) => (reviewer.authenticate(credentials).await, true),
                    None => (Ok(None), false),
                },
                known => (known, false),
            };
            // As in kube-apiserver, whoever cannot be authenticated now is nobody now. The log says
            // why.
            let unasked =
                |error| Refusal::unauthorized(format!("cannot be authenticated: {error}"));
            let nobody = if token.is_some() { "an unknown token" } else { "no credentials" };
            let user = user.map_err(unasked)?.ok_or_else(|| Refusal::unauthorized(nobody))?;
            requester.user = Some(subject(&user, None));
            let asked = claims.impersonation;
            let asked = asked.map_err(|error| Refusal::bad_request(error.to_string()))?;
            let assumed = match &asked {
                None => user.clone(),
                Some(asked) => {
                    let other = asked.assume(&user, attributes, &*self.authorizer).await?;
                    requester.user = Some(subject(&other, Some(user.name.clone())));
                    other
                }
            };
            let onward = match (self.vouching, &token) {
                (None, _) => Onward::default(),
                // An API server that is shown its token checks the rest as well. One that this
                // gateway alone knows is shown to nobody.
                (Some(_), Some(token)) if is_reviewed => onward::by_token(token, asked.as_ref())?,
                (Some(how), _) => {
                    let by = asked.is_some().then_some(&*user.name);
                    onward::vouched(how, &assumed, by)?
                }
            };
            Ok(Caller {
                user: assumed,
                requester: requester.clone(),
                is_authenticated: true,
                onward,
            })
        })
    }

    fn demand<'a>(&'a self, caller: &'a Caller, attributes: &'a Attributes) -> Answer<'a, ()> {
        Box::pin(demand(&*self.authorizer, &caller.user, attributes))
    }

    fn demand_create<'a>(
        &'a self,
        caller: &'a Caller,
        attributes: &'a Attributes,
    ) -> Answer<'a, ()> {
        Box::pin(async move {
            demand(&*self.authorizer, &caller.user, &attributes.with_verb("create")).await
        })
    }
}
