//! A user and the attributes of a request to leave, by SubjectAccessReview.

use std::collections::BTreeMap;
use std::time::Duration;

use bowline_io::auth::{
    Answer, Attributes, Authorizer, Decision, ResourceAttributes, Unavailable, User,
};
use bowline_io::text::sanitized;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::answers::{Answers, Keep};
use super::{Kind, or_default, review};
use crate::api::Api;

const KIND: Kind = Kind {
    name: "SubjectAccessReview",
    group: "authorization.k8s.io",
    version: "authorization.k8s.io/v1",
    resource: "subjectaccessreviews",
};
/// How long leave is kept: kubelet's `authorization.webhook.cacheAuthorizedTTL`.
const ALLOWED_KEPT: Duration = Duration::from_secs(300);
/// How long a refusal is kept: kubelet's `authorization.webhook.cacheUnauthorizedTTL`.
const REFUSED_KEPT: Duration = Duration::from_secs(30);
/// Nothing is kept for attributes of so many bytes, which whoever asks chooses.
const ATTRIBUTE_BYTES: usize = 10_000;
/// How many bytes of a server's reason are kept and shown.
const REASON_BYTES: usize = 1024;

/// Authorizes by asking an API server about each user and what they want to do.
#[derive(Debug)]
pub struct AccessReviews {
    api: Api,
    answers: Answers<Decision>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    user: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    uid: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    groups: &'a [String],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    extra: &'a BTreeMap<String, Vec<String>>,
    #[serde(flatten)]
    about: About<'a>,
}

/// What somebody wants to do: one of the two.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct About<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_attributes: Option<Resource<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    non_resource_attributes: Option<NonResource<'a>>,
}

#[derive(Serialize)]
struct Resource<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'a str,
    verb: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    group: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    version: &'a str,
    resource: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    subresource: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
}

#[derive(Serialize)]
struct NonResource<'a> {
    path: &'a str,
    verb: &'a str,
}

/// Returns the SelfSubjectAccessReview by which somebody asks about themselves.
#[must_use]
pub fn self_review(attributes: &Attributes) -> Value {
    json!({
        "apiVersion": KIND.version,
        "kind": "SelfSubjectAccessReview",
        "spec": About::of(attributes),
    })
}

impl<'a> Spec<'a> {
    fn of(user: &'a User, attributes: &'a Attributes) -> Spec<'a> {
        Spec {
            user: &user.name,
            uid: &user.uid,
            groups: &user.groups,
            extra: &user.extra,
            about: About::of(attributes),
        }
    }
}

impl<'a> About<'a> {
    fn of(attributes: &'a Attributes) -> About<'a> {
        let (resource_attributes, non_resource_attributes) = match attributes {
            Attributes::Resource(asked) => (Some(Resource::of(asked)), None),
            Attributes::NonResource { verb, path } => (None, Some(NonResource { path, verb })),
        };
        About { resource_attributes, non_resource_attributes }
    }

    fn attribute_bytes(&self) -> usize {
        let resource = self.resource_attributes.as_ref().map_or(0, |asked| {
            let Resource { namespace, verb, group, version, resource, subresource, name } = asked;
            [namespace, verb, group, version, resource, subresource, name]
                .iter()
                .map(|text| text.len())
                .sum()
        });
        let path = self.non_resource_attributes.as_ref();
        resource + path.map_or(0, |asked| asked.path.len() + asked.verb.len())
    }
}

impl<'a> Resource<'a> {
    fn of(asked: &'a ResourceAttributes) -> Resource<'a> {
        Resource {
            namespace: &asked.namespace,
            verb: &asked.verb,
            group: &asked.group,
            version: &asked.version,
            resource: &asked.resource,
            subresource: &asked.subresource,
            name: &asked.name,
        }
    }
}

/// What an API server says. Conditions, of which later versions may speak, are not leave.
#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    allowed: bool,
    #[serde(default)]
    denied: bool,
    #[serde(default, deserialize_with = "or_default")]
    reason: String,
}

impl Status {
    fn decision(self) -> Decision {
        let reason = sanitized(&self.reason, REASON_BYTES).into_owned();
        match (self.allowed, self.denied) {
            (true, false) => Decision::Allow,
            (_, true) => Decision::Deny { reason },
            (false, false) => Decision::NoOpinion { reason },
        }
    }
}

impl AccessReviews {
    /// Makes one that asks this API server. Its user may create `subjectaccessreviews`.
    #[must_use]
    pub fn new(api: Api) -> AccessReviews {
        AccessReviews { api, answers: Answers::new() }
    }

    async fn ask(&self, spec: &Spec<'_>) -> Result<(Decision, Option<Keep>), Unavailable> {
        let status: Status = review(&self.api, &KIND, spec).await?;
        let decision = status.decision();
        let (time, bytes) = match &decision {
            Decision::Allow => (ALLOWED_KEPT, 0),
            Decision::Deny { reason } | Decision::NoOpinion { reason } => {
                (REFUSED_KEPT, reason.len())
            }
        };
        let keep = (spec.about.attribute_bytes() < ATTRIBUTE_BYTES).then_some(Keep { time, bytes });
        Ok((decision, keep))
    }
}

impl Authorizer for AccessReviews {
    fn authorize<'a>(&'a self, user: &'a User, attributes: &'a Attributes) -> Answer<'a, Decision> {
        Box::pin(async move {
            let spec = Spec::of(user, attributes);
            let question = serde_json::to_vec(&spec).map_err(Unavailable::new)?;
            let key = self.answers.key(&question);
            self.answers.get(key, || self.ask(&spec)).await
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_question_has_all_of_the_user_and_of_the_attributes() {
        let user = User {
            uid: "7".into(),
            extra: [("k".to_owned(), vec!["v".to_owned()])].into(),
            ..User::new("u", ["g".to_owned()])
        };
        let asked = Attributes::Resource(ResourceAttributes {
            verb: "create".into(),
            version: "v1".into(),
            resource: "nodes".into(),
            subresource: "proxy".into(),
            name: "n".into(),
            ..ResourceAttributes::default()
        });
        let spec = Spec::of(&user, &asked);
        let expected = json!({
            "user": "u", "uid": "7", "groups": ["g", "system:authenticated"], "extra": {"k": ["v"]},
            "resourceAttributes": {"verb": "create", "version": "v1", "resource": "nodes",
                "subresource": "proxy", "name": "n"},
        });
        assert_eq!(serde_json::to_value(&spec).unwrap(), expected);
        assert_eq!(spec.about.attribute_bytes(), 19);
        let path = Attributes::NonResource { verb: "get".into(), path: "/x".into() };
        let nobody = User::default();
        let spec = Spec::of(&nobody, &path);
        let expected = json!({"user": "", "nonResourceAttributes": {"path": "/x", "verb": "get"}});
        assert_eq!(serde_json::to_value(&spec).unwrap(), expected);
        assert_eq!(spec.about.attribute_bytes(), 5);
    }

    #[test]
    fn only_a_clear_yes_is_leave() {
        let decide = |status: &str| serde_json::from_str(status).map(Status::decision);
        let nothing = Decision::NoOpinion { reason: String::new() };
        assert_eq!(decide(r#"{"allowed":true,"reason":"r"}"#).unwrap(), Decision::Allow);
        assert_eq!(decide("{}").unwrap(), nothing);
        assert_eq!(decide(r#"{"conditionSetChain":[{}],"reason":null}"#).unwrap(), nothing);
        let denied = Decision::Deny { reason: "r s".into() };
        assert_eq!(decide(r#"{"denied":true,"reason":"r\ns"}"#).unwrap(), denied);
        assert_eq!(decide(r#"{"allowed":true,"denied":true,"reason":"r\ns"}"#).unwrap(), denied);
        for bad in [r#"{"allowed":"true"}"#, r#"{"allowed":1}"#, "true", "null"] {
            assert!(decide(bad).is_err(), "{bad}");
        }
    }
}
