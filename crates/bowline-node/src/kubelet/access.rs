//! Who asks, and whether they may: a request to its user, or to a refusal in the kubelet's words.

use std::sync::Arc;

use bowline_io::auth::headers::take_token;
use bowline_io::auth::{
    Attributes, Authenticator, Authorizer, Credentials, Decision, ResourceAttributes, User,
};
use bowline_io::serve::Peer;
use bowline_io::text::sanitized;
use bowline_proto::limits::REASON_BYTES;
use http::{HeaderMap, Method};

use super::route::Route;
use crate::runtime::Refusal;

/// What the paths of a kubelet are to an authorizer, but for those that a kubelet has of its own.
const RESOURCE: &str = "nodes";
const SUBRESOURCE: &str = "proxy";

/// Who may use a node: everybody is asked who they are, and each request needs leave.
#[derive(Clone, Debug)]
pub struct Access {
    /// Knows who it is. No request is anonymous.
    pub authenticator: Arc<dyn Authenticator>,
    /// Knows whether they may, as `create` on `nodes/proxy` for streams, and `get` for the rest.
    pub authorizer: Arc<dyn Authorizer>,
    /// The name of the node that leave is for.
    pub node_name: String,
    /// Whether a stream that is asked for by GET, as all of WebSocket are, needs `get` alone, as in
    /// the kubelet. Whoever may read a node's metrics through its proxy may run commands then.
    pub allow_get_streams: bool,
}

impl Access {
    /// Returns the user of a request, who may do what it asks for. The token is taken out of
    /// `headers`.
    ///
    /// # Errors
    /// 401 for nobody, 403 for somebody who may not, 500 if nobody knows whether they may.
    pub(super) async fn admit(
        &self,
        peer: &Peer,
        headers: &mut HeaderMap,
        route: Option<&Route>,
        method: &Method,
    ) -> Result<User, Denied> {
        let user = self.authenticate(peer, headers).await?;
        match self.authorize(&user, route, method).await {
            Ok(()) => Ok(user),
            Err(refusal) => Err(Denied { user: Some(user), refusal }),
        }
    }

    async fn authenticate(&self, peer: &Peer, headers: &mut HeaderMap) -> Result<User, Denied> {
        let denied = |cause: String| {
            let refusal = Refusal { cause, ..Refusal::new(401, "Unauthorized") };
            Denied { user: None, refusal }
        };
        let token = take_token(headers).map_err(|error| denied(error.to_string()))?;
        let credentials =
            Credentials { certificate: peer.identity.as_ref(), token: token.as_ref() };
        let user = self.authenticator.authenticate(credentials).await;
        // As in the kubelet, whoever cannot be authenticated now is nobody now.
        let user = user.map_err(|error| denied(format!("cannot be authenticated: {error}")))?;
        let nobody = if token.is_some() { "an unknown token" } else { "no credentials" };
        user.ok_or_else(|| denied(nobody.to_owned()))
    }

    async fn authorize(
        &self,
        user: &User,
        route: Option<&Route>,
        method: &Method,
    ) -> Result<(), Refusal> {
        let asked = ResourceAttributes {
            verb: self.verb(route, method).into(),
            version: "v1".into(),
            resource: RESOURCE.into(),
            subresource: SUBRESOURCE.into(),
            name: self.node_name.clone(),
            ..ResourceAttributes::default()
        };
        let verb = asked.verb.clone();
        let name = sanitized(&user.name, REASON_BYTES);
        match self.authorizer.authorize(user, &Attributes::Resource(asked)).await {
            Ok(Decision::Allow) => Ok(()),
            Ok(Decision::Deny { reason } | Decision::NoOpinion { reason }) => {
                let text = format!(
                    "Forbidden (user={name}, verb={verb}, resource={RESOURCE}, \
                     subresource(s)=[{SUBRESOURCE}])"
                );
                let cause = if reason.is_empty() { reason } else { format!("{text}: {reason}") };
                Err(Refusal { cause, ..Refusal::new(403, text) })
            }
            Err(error) => {
                let text = format!(
                    "Authorization error (user={name}, verb={verb}, resource={RESOURCE}, \
                     subresource={SUBRESOURCE})"
                );
                Err(Refusal { cause: format!("{text}: {error}"), ..Refusal::new(500, text) })
            }
        }
    }

    fn verb(&self, route: Option<&Route>, method: &Method) -> &'static str {
        if route.is_some_and(Route::is_stream) && !self.allow_get_streams {
            return "create";
        }
        match method.as_str() {
            "POST" => "create",
            "GET" => "get",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" => "delete",
            _ => "",
        }
    }
}

/// A request that is refused, and the user if it is somebody's.
#[derive(Debug)]
pub(super) struct Denied {
    pub(super) user: Option<User>,
    pub(super) refusal: Refusal,
}
