//! Users and the attributes of their requests, as in Kubernetes' reviews, and the traits that
//! authenticate and authorize them.
//!
//! Both answer by a future, as they may have to ask another server. That it cannot be asked is an
//! error, and neither "nobody" nor "no".
//!
//! [`headers`] reads a request's token, [`in_order`] makes one of several, and [`allowed_clients`]
//! is for set-ups where nobody can be asked.

pub mod allowed_clients;
pub mod headers;
pub mod in_order;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::tls::PeerIdentity;

/// The group of all authenticated users.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of anonymous users.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The name of anonymous users.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group of users that may do everything.
pub const MASTERS: &str = "system:masters";

/// A user, authenticated or anonymous.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// The user's name.
    pub name: String,
    /// The uid; empty where none is known.
    pub uid: String,
    /// The groups; as a rule `system:authenticated` is one.
    pub groups: Vec<String>,
    /// More about the user: keys and their values.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user with this name and these groups, and with the group of authenticated users if it is
    /// not the anonymous one.
    #[must_use]
    pub fn new(name: impl Into<String>, groups: impl IntoIterator<Item = String>) -> User {
        let (name, mut groups) = (name.into(), groups.into_iter().collect::<Vec<String>>());
        let is_settled = |group: &String| group == AUTHENTICATED || group == UNAUTHENTICATED;
        if name != ANONYMOUS && !groups.iter().any(is_settled) {
            groups.push(AUTHENTICATED.into());
        }
        User { name, groups, ..User::default() }
    }
}

/// A bearer token, which `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// The credentials of a request. Each of them may be absent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Credentials<'a> {
    /// The identity in a certificate that TLS has verified.
    pub certificate: Option<&'a PeerIdentity>,
    /// A token, which nobody has verified.
    pub token: Option<&'a Token>,
}

/// What a request does, as it is authorized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attributes {
    /// A verb on a resource.
    Resource(ResourceAttributes),
    /// A verb on a path that is no resource.
    NonResource {
        /// The method, in lower case.
        verb: Cow<'static, str>,
        /// The path, as it was sent.
        path: String,
    },
}

/// Kubernetes' attributes of a request to a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceAttributes {
    /// `get`, `list`, `create`, `impersonate` and others.
    pub verb: Cow<'static, str>,
    /// The API group; empty for the core's.
    pub group: Cow<'static, str>,
    /// The version of the API; empty where none is meant.
    pub version: Cow<'static, str>,
    /// The resource, as in `pods`.
    pub resource: Cow<'static, str>,
    /// The subresource, as in `exec`; empty where there is none.
    pub subresource: Cow<'static, str>,
    /// The namespace; empty for resources without one.
    pub namespace: String,
    /// The object's name; empty for lists.
    pub name: String,
}

impl ResourceAttributes {
    /// Returns resource and subresource as policies and refusals name them: `pods/exec`.
    #[must_use]
    pub fn path(&self) -> Cow<'_, str> {
        if self.subresource.is_empty() {
            return (&*self.resource).into();
        }
        format!("{}/{}", self.resource, self.subresource).into()
    }
}

impl Attributes {
    /// The verb of the request.
    #[must_use]
    pub fn verb(&self) -> &str {
        match self {
            Attributes::Resource(ResourceAttributes { verb, .. })
            | Attributes::NonResource { verb, .. } => verb,
        }
    }

    /// Returns the attributes with another verb.
    #[must_use]
    pub fn with_verb(&self, other: impl Into<Cow<'static, str>>) -> Attributes {
        let mut attributes = self.clone();
        match &mut attributes {
            Attributes::Resource(ResourceAttributes { verb, .. })
            | Attributes::NonResource { verb, .. } => *verb = other.into(),
        }
        attributes
    }
}

/// Whether a user may do something. A reason is empty where there is none to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The user may.
    Allow,
    /// The user may not, whoever else is asked.
    Deny {
        /// Why the user may not.
        reason: String,
    },
    /// Nothing is known that allows it. If nobody else is asked, it is refused.
    NoOpinion {
        /// Why there is no opinion.
        reason: String,
    },
}

/// Why a question was not answered: whoever would know could not be asked.
#[derive(Clone, Debug)]
pub struct Unavailable(Arc<dyn Error + Send + Sync>);

impl Unavailable {
    /// Wraps an error, or a text.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Unavailable {
        Unavailable(error.into().into())
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Unavailable {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

/// The future of an answer. It may be dropped at any time, when the answer is no longer wanted.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Unavailable>> + Send + 'a>>;

/// Authenticates requests.
pub trait Authenticator: fmt::Debug + Send + Sync {
    /// Returns the user with these credentials; `None` if no user has them.
    ///
    /// # Errors
    /// [`Unavailable`] if that cannot be found out now.
    fn authenticate<'a>(&'a self, credentials: Credentials<'a>) -> Answer<'a, Option<User>>;
}

/// Authorizes requests.
pub trait Authorizer: fmt::Debug + Send + Sync {
    /// Decides whether `user` may do what `attributes` say.
    ///
    /// # Errors
    /// [`Unavailable`] if that cannot be found out now.
    fn authorize<'a>(&'a self, user: &'a User, attributes: &'a Attributes) -> Answer<'a, Decision>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_anonymous_are_not_authenticated() {
        let groups = |name: &str, group: &str| User::new(name, [group.to_owned()]).groups;
        assert_eq!(groups("u", "g"), ["g", AUTHENTICATED]);
        assert_eq!(groups("u", AUTHENTICATED), [AUTHENTICATED]);
        assert_eq!(groups("u", UNAUTHENTICATED), [UNAUTHENTICATED]);
        assert_eq!(groups(ANONYMOUS, "g"), ["g"]);
    }

    #[test]
    fn attributes_name_a_subresource_behind_its_resource() {
        let pods = ResourceAttributes { resource: "pods".into(), ..ResourceAttributes::default() };
        assert_eq!(pods.path(), "pods");
        let exec = ResourceAttributes { subresource: "exec".into(), ..pods };
        assert_eq!(exec.path(), "pods/exec");
        let create = Attributes::Resource(exec).with_verb("create");
        assert_eq!(create.verb(), "create");
    }

    #[test]
    fn no_token_is_shown() {
        let token = Token("secret".into());
        let credentials = Credentials { token: Some(&token), ..Credentials::default() };
        assert!(!format!("{credentials:?}").contains("secret"));
    }
}
