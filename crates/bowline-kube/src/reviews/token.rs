//! A bearer token to its user, by TokenReview.

use std::collections::BTreeMap;
use std::time::Duration;

use bowline_io::auth::{Answer, Authenticator, Credentials, Unavailable, User};
use bowline_io::text::sanitized;
use serde::{Deserialize, Serialize};

use super::answers::{Answers, Keep};
use super::{BadAnswer, Kind, or_default, review};
use crate::api::Api;

const KIND: Kind = Kind {
    name: "TokenReview",
    group: "authentication.k8s.io",
    version: "authentication.k8s.io/v1",
    resource: "tokenreviews",
};
/// How long an answer is kept, whatever it is: kubelet's `authentication.webhook.cacheTTL`.
const KEPT: Duration = Duration::from_secs(120);
/// How many bytes of a server's words are shown.
const WORDS: usize = 1024;

/// Authenticates by bearer tokens, of which an API server knows whose they are.
#[derive(Debug)]
pub struct TokenReviews {
    api: Api,
    answers: Answers<Option<User>>,
}

#[derive(Serialize)]
struct Spec<'a> {
    token: &'a str,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    authenticated: bool,
    #[serde(default, deserialize_with = "or_default")]
    user: UserInfo,
    #[serde(default, deserialize_with = "or_default")]
    error: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct UserInfo {
    username: String,
    uid: String,
    #[serde(deserialize_with = "or_default")]
    groups: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    extra: BTreeMap<String, Vec<String>>,
}

impl TokenReviews {
    /// Makes one that asks this API server. Its user may create `tokenreviews`.
    #[must_use]
    pub fn new(api: Api) -> TokenReviews {
        TokenReviews { api, answers: Answers::new() }
    }

    async fn ask(&self, token: &str) -> Result<(Option<User>, Option<Keep>), Unavailable> {
        let status: Status = review(&self.api, &KIND, &Spec { token }).await?;
        let user = user(status)?;
        let bytes = user.as_ref().map_or(0, size);
        Ok((user, Some(Keep { time: KEPT, bytes })))
    }
}

/// As in the kubelet, a token that is refused with a reason is an error: it is not kept.
fn user(status: Status) -> Result<Option<User>, Unavailable> {
    let UserInfo { username, uid, groups, extra } = status.user;
    match (status.authenticated, &*status.error, &*username) {
        (false, "", _) => Ok(None),
        (false, why, _) => {
            Err(Unavailable::new(BadAnswer::Token(sanitized(why, WORDS).into_owned())))
        }
        (true, _, "") => Err(Unavailable::new(BadAnswer::NoName)),
        (true, ..) => Ok(Some(User { uid, extra, ..User::new(username, groups) })),
    }
}

fn size(user: &User) -> usize {
    let texts = |all: &[String]| all.iter().map(|text| text.len() + 24).sum::<usize>();
    let extra = user.extra.iter().map(|(key, values)| key.len() + 48 + texts(values));
    user.name.len() + user.uid.len() + texts(&user.groups) + extra.sum::<usize>()
}

impl Authenticator for TokenReviews {
    fn authenticate<'a>(&'a self, credentials: Credentials<'a>) -> Answer<'a, Option<User>> {
        Box::pin(async move {
            let Some(token) = credentials.token else { return Ok(None) };
            let key = self.answers.key(token.0.as_bytes());
            self.answers.get(key, || self.ask(&token.0)).await
        })
    }
}

#[cfg(test)]
mod tests {
    use bowline_io::auth::AUTHENTICATED;

    use super::*;

    fn read(status: &str) -> Result<Option<User>, String> {
        let status = serde_json::from_str(status).map_err(|error| error.to_string())?;
        user(status).map_err(|error| error.to_string())
    }

    #[test]
    fn only_a_clear_yes_is_a_user() {
        let full = r#"{"authenticated":true,"audiences":["a"],"user":{"username":"u","uid":"7",
            "groups":["g"],"extra":{"k":["v"]}}}"#;
        let user = read(full).unwrap().unwrap();
        assert_eq!((&*user.name, &*user.uid), ("u", "7"));
        assert_eq!(user.groups, ["g", AUTHENTICATED]);
        assert_eq!(user.extra["k"], ["v"]);
        let null = r#"{"authenticated":true,"user":{"username":"u","groups":null,"extra":null}}"#;
        assert_eq!(read(null).unwrap().unwrap().groups, [AUTHENTICATED]);
        assert_eq!(read("{}"), Ok(None));
        assert_eq!(read(r#"{"authenticated":false,"user":null}"#), Ok(None));
        assert_eq!(read(r#"{"user":{"username":"u"}}"#), Ok(None));
        assert_eq!(read(r#"{"error":"no\nt"}"#), Err("no t".into()));
        for bad in [
            r#"{"authenticated":true}"#,
            r#"{"authenticated":true,"user":{"username":""}}"#,
            r#"{"authenticated":"true","user":{"username":"u"}}"#,
            r#"{"authenticated":1,"user":{"username":"u"}}"#,
            r#"{"authenticated":true,"user":{"username":"u","groups":"g"}}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
