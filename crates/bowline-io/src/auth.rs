//! Who asks and what they want to do, as Kubernetes' reviews have it, and the two doors that say
//! who that is and whether they may.
//!
//! Both doors answer later, because what is behind them may be another server. That it cannot be
//! asked is an error, and neither "nobody" nor "no".

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::tls::PeerIdentity;

/// The group of all who proved to be somebody.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of all others.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The name of all others.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group of those who may everything.
pub const MASTERS: &str = "system:masters";

/// Who asks.
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
    /// A user who proved to be one.
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

/// A bearer token. It is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// What a request shows of its sender. Each of it may be absent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Credentials<'a> {
    /// Who a certificate says it is. TLS has verified it.
    pub certificate: Option<&'a PeerIdentity>,
    /// A token, which nobody has looked at.
    pub token: Option<&'a Token>,
}

/// What a request does, in the words that are authorized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attributes {
    /// A verb on a resource.
    Resource(ResourceAttributes),
    /// A verb on a path that is no resource.
    NonResource {
        /// The method, in lower case.
        verb: Cow<'static, str>,
        /// The path, as it came.
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
    /// The resource and its subresource, as policies and refusals name them: `pods/exec`.
    #[must_use]
    pub fn path(&self) -> Cow<'_, str> {
        if self.subresource.is_empty() {
            return (&*self.resource).into();
        }
        format!("{}/{}", self.resource, self.subresource).into()
    }
}

impl Attributes {
    /// The verb of either kind.
    #[must_use]
    pub fn verb(&self) -> &str {
        match self {
            Attributes::Resource(ResourceAttributes { verb, .. })
            | Attributes::NonResource { verb, .. } => verb,
        }
    }

    /// The same with another verb.
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

/// Whether somebody may. Reasons are empty where there is none to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// They may.
    Allow,
    /// They may not, whoever else is asked.
    Deny {
        /// Why they may not.
        reason: String,
    },
    /// Nothing is known that allows it; who asks nobody else refuses.
    NoOpinion {
        /// Why there is no opinion.
        reason: String,
    },
}

/// Why a question has no answer: who would know could not be asked.
#[derive(Clone, Debug)]
pub struct Unavailable(Arc<dyn Error + Send + Sync>);

impl Unavailable {
    /// Because of this error, or of what this text says.
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

/// An answer, when it is there. It may be dropped at any time: then nobody wants it any more.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Unavailable>> + Send + 'a>>;

/// Says who somebody is.
pub trait Authenticator: fmt::Debug + Send + Sync {
    /// The user of these credentials; `None` for credentials of nobody.
    ///
    /// # Errors
    /// [`Unavailable`] if that cannot be found out now.
    fn authenticate<'a>(&'a self, credentials: Credentials<'a>) -> Answer<'a, Option<User>>;
}

/// Says whether somebody may.
pub trait Authorizer: fmt::Debug + Send + Sync {
    /// Whether `user` may do what `attributes` say.
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
