//! Several authenticators, or authorizers, to one: they are asked in their order, as Kubernetes
//! asks a union of them.

use std::future::ready;
use std::sync::Arc;

use super::{Answer, Attributes, Authenticator, Authorizer, Credentials, Decision, User};

/// Authenticates by certificates that TLS has verified.
#[derive(Clone, Copy, Debug)]
pub struct Certificates;

impl Authenticator for Certificates {
    fn authenticate<'a>(&'a self, credentials: Credentials<'a>) -> Answer<'a, Option<User>> {
        let of = credentials.certificate;
        let user = of.map(|identity| User::new(&*identity.user, identity.groups.clone()));
        Box::pin(ready(Ok(user)))
    }
}

/// Lets everybody do everything: Kubernetes' mode `AlwaysAllow`.
#[derive(Clone, Copy, Debug)]
pub struct AlwaysAllow;

impl Authorizer for AlwaysAllow {
    fn authorize<'a>(&'a self, _: &'a User, _: &'a Attributes) -> Answer<'a, Decision> {
        Box::pin(ready(Ok(Decision::Allow)))
    }
}

/// Authenticators in the order in which they are asked. The first that knows a user decides; one
/// that cannot be asked is an error only if none of them does.
#[derive(Clone, Debug)]
pub struct Authenticators(pub Vec<Arc<dyn Authenticator>>);

impl Authenticator for Authenticators {
    fn authenticate<'a>(&'a self, credentials: Credentials<'a>) -> Answer<'a, Option<User>> {
        Box::pin(async move {
            let mut failed = None;
            for one in &self.0 {
                match one.authenticate(credentials).await {
                    Ok(Some(user)) => return Ok(Some(user)),
                    Ok(None) => {}
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
            failed.map_or(Ok(None), Err)
        })
    }
}

/// Authorizers in the order in which they are asked. The first that allows or denies decides; one
/// that cannot be asked is an error only if none of them does.
#[derive(Clone, Debug)]
pub struct Authorizers(pub Vec<Arc<dyn Authorizer>>);

impl Authorizer for Authorizers {
    fn authorize<'a>(&'a self, user: &'a User, attributes: &'a Attributes) -> Answer<'a, Decision> {
        Box::pin(async move {
            let (mut failed, mut reasons) = (None, Vec::new());
            for one in &self.0 {
                match one.authorize(user, attributes).await {
                    Ok(Decision::NoOpinion { reason }) if reason.is_empty() => {}
                    Ok(Decision::NoOpinion { reason }) => reasons.push(reason),
                    Ok(decided) => return Ok(decided),
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
            failed.map_or_else(|| Ok(Decision::NoOpinion { reason: reasons.join("\n") }), Err)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{AUTHENTICATED, Token, Unavailable};
    use crate::tls::PeerIdentity;

    /// What one of several says.
    #[derive(Clone, Debug)]
    enum Says {
        Yes,
        No,
        Nothing(&'static str),
        Failed,
    }

    impl Authenticator for Says {
        fn authenticate<'a>(&'a self, _: Credentials<'a>) -> Answer<'a, Option<User>> {
            Box::pin(ready(match self {
                Says::Yes => Ok(Some(User::new("u", []))),
                Says::Failed => Err(Unavailable::new("gone")),
                _ => Ok(None),
            }))
        }
    }

    impl Authorizer for Says {
        fn authorize<'a>(&'a self, _: &'a User, _: &'a Attributes) -> Answer<'a, Decision> {
            Box::pin(ready(match self {
                Says::Yes => Ok(Decision::Allow),
                Says::No => Ok(Decision::Deny { reason: "no".into() }),
                Says::Nothing(reason) => Ok(Decision::NoOpinion { reason: (*reason).into() }),
                Says::Failed => Err(Unavailable::new("gone")),
            }))
        }
    }

    #[tokio::test]
    async fn a_certificates_user_comes_before_a_tokens() {
        let identity = PeerIdentity { user: "c".into(), groups: vec!["g".into()] };
        let token = Token("t".into());
        let all = Authenticators(vec![Arc::new(Certificates), Arc::new(Says::Yes)]);
        let both = Credentials { certificate: Some(&identity), token: Some(&token) };
        let user = all.authenticate(both).await.unwrap().unwrap();
        assert_eq!((&*user.name, &user.groups[..]), ("c", &["g".into(), AUTHENTICATED.into()][..]));
        let only = Credentials { certificate: None, ..both };
        assert_eq!(all.authenticate(only).await.unwrap().unwrap().name, "u");
    }

    #[tokio::test]
    async fn who_cannot_be_asked_matters_only_where_nobody_else_knows() {
        let known = async |says: &[Says]| {
            let all: Vec<Arc<dyn Authenticator>> =
                says.iter().map(|one| Arc::new(one.clone()) as _).collect();
            let user = Authenticators(all).authenticate(Credentials::default()).await;
            user.map(|user| user.is_some()).map_err(|error| error.to_string())
        };
        use Says::{Failed, No, Nothing, Yes};
        assert_eq!(known(&[Failed, Yes]).await, Ok(true));
        assert_eq!(known(&[Failed, No]).await, Err("gone".into()));
        assert_eq!(known(&[No]).await, Ok(false));
        assert_eq!(known(&[]).await, Ok(false));

        let decided = async |says: &[Says]| {
            let all: Vec<Arc<dyn Authorizer>> =
                says.iter().map(|one| Arc::new(one.clone()) as _).collect();
            let attributes = Attributes::NonResource { verb: "get".into(), path: "/".into() };
            let decision = Authorizers(all).authorize(&User::default(), &attributes).await;
            decision.map_err(|error| error.to_string())
        };
        let nothing = |reason: &str| Ok(Decision::NoOpinion { reason: reason.into() });
        assert_eq!(decided(&[Nothing("a"), Yes, No]).await, Ok(Decision::Allow));
        assert_eq!(decided(&[No, Yes]).await, Ok(Decision::Deny { reason: "no".into() }));
        assert_eq!(decided(&[Failed, Yes]).await, Ok(Decision::Allow));
        assert_eq!(decided(&[Failed, Nothing("")]).await, Err("gone".into()));
        assert_eq!(decided(&[Nothing("a"), Nothing(""), Nothing("b")]).await, nothing("a\nb"));
        assert_eq!(decided(&[]).await, nothing(""));
    }
}
