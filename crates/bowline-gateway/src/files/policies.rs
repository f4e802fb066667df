//! A user and a request's attributes to a decision: `system:masters`, and kube-apiserver's ABAC
//! file for the rest.

use std::fs;
use std::future::ready;
use std::path::{Path, PathBuf};

use bowline_io::auth::{Answer, Attributes, Authorizer, Decision, MASTERS, User};
use serde::Deserialize;
use thiserror::Error;

fn is_read(verb: &str) -> bool {
    matches!(verb, "get" | "list" | "watch")
}

/// The policies of `--authorization-policy-file`, beside `system:masters`, who may do everything.
#[derive(Clone, Debug, Default)]
pub struct Policies(Vec<Policy>);

/// A line of Kubernetes' ABAC file, v1beta1.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Line {
    api_version: String,
    kind: String,
    spec: Policy,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Policy {
    user: String,
    group: String,
    readonly: bool,
    #[serde(rename = "apiGroup")]
    api_group: String,
    resource: String,
    namespace: String,
    #[serde(rename = "nonResourcePath")]
    non_resource_path: String,
}

/// Why a policy file cannot be used.
#[derive(Debug, Error)]
pub enum PoliciesError {
    /// The file cannot be read.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: std::io::Error,
    },
    /// A line is no policy.
    #[error("policy file line {line}: {what}")]
    Line {
        /// The line's number, from 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
}

impl Policies {
    /// Reads a file with a policy on each line; `#` begins a comment.
    ///
    /// # Errors
    /// [`PoliciesError`] if the file cannot be read, or a line is no policy.
    pub fn read(path: &Path) -> Result<Policies, PoliciesError> {
        let text = fs::read_to_string(path)
            .map_err(|error| PoliciesError::File { path: path.to_owned(), error })?;
        Policies::parse(&text)
    }

    /// Reads the text of such a file.
    ///
    /// # Errors
    /// [`PoliciesError::Line`] for the first line that is no policy.
    pub fn parse(text: &str) -> Result<Policies, PoliciesError> {
        let mut policies = Vec::new();
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let bad = |what: String| PoliciesError::Line { line, what };
            let read: Line = serde_json::from_str(text).map_err(|error| bad(error.to_string()))?;
            let version = "abac.authorization.kubernetes.io/v1beta1";
            if read.api_version != version || read.kind != "Policy" {
                return Err(bad(format!("not a Policy of {version}")));
            }
            policies.push(read.spec);
        }
        Ok(Policies(policies))
    }

    /// Returns whether `user` may do what `attributes` say.
    #[must_use]
    pub fn allow(&self, user: &User, attributes: &Attributes) -> bool {
        user.groups.iter().any(|group| group == MASTERS)
            || self.0.iter().any(|policy| policy.is_about(user) && policy.allows(attributes))
            || is_public(attributes)
    }
}

/// Returns whether RBAC's `system:discovery` allows this to everybody who is authenticated.
fn is_public(attributes: &Attributes) -> bool {
    let Attributes::NonResource { verb, path } = attributes else { return false };
    is_read(verb)
        && ["/api", "/apis", "/healthz", "/livez", "/readyz", "/openapi", "/version"]
            .into_iter()
            .any(|open| {
                path.strip_prefix(open).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
}

impl Policy {
    /// Returns whether the policy is about `user`. One that names neither a user nor a group is
    /// about nobody.
    fn is_about(&self, user: &User) -> bool {
        let named = !self.user.is_empty() || !self.group.is_empty();
        let user_fits = match &*self.user {
            "" | "*" => true,
            name => name == user.name,
        };
        let group_fits = match &*self.group {
            "" | "*" => true,
            name => user.groups.iter().any(|group| group == name),
        };
        named && user_fits && group_fits
    }

    fn allows(&self, attributes: &Attributes) -> bool {
        let fits = |pattern: &str, value: &str| pattern == "*" || pattern == value;
        if self.readonly && !is_read(attributes.verb()) {
            return false;
        }
        match attributes {
            Attributes::Resource(asked) => {
                fits(&self.resource, &asked.path())
                    && fits(&self.namespace, &asked.namespace)
                    && fits(&self.api_group, &asked.group)
            }
            Attributes::NonResource { path, .. } => {
                match self.non_resource_path.strip_suffix('*') {
                    Some(prefix) => path.starts_with(prefix),
                    None => !self.non_resource_path.is_empty() && self.non_resource_path == *path,
                }
            }
        }
    }
}

impl Authorizer for Policies {
    fn authorize<'a>(&'a self, user: &'a User, attributes: &'a Attributes) -> Answer<'a, Decision> {
        let allowed = self.allow(user, attributes);
        let none = || Decision::NoOpinion { reason: String::new() };
        Box::pin(ready(Ok(if allowed { Decision::Allow } else { none() })))
    }
}

#[cfg(test)]
mod tests {
    use bowline_io::auth::ResourceAttributes;

    use super::*;

    fn on(verb: &'static str, resource: &'static str, subresource: &'static str) -> Attributes {
        Attributes::Resource(ResourceAttributes {
            verb: verb.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: "ns".into(),
            name: "web".into(),
            ..ResourceAttributes::default()
        })
    }

    fn path(path: &str) -> Attributes {
        Attributes::NonResource { verb: "get".into(), path: path.into() }
    }

    fn user(name: &str, group: &str) -> User {
        User::new(name, [group.to_owned()])
    }

    #[test]
    fn a_viewer_may_look_and_not_run() {
        let policies = Policies::parse(
            "# who looks\n\
             {\"apiVersion\":\"abac.authorization.kubernetes.io/v1beta1\",\"kind\":\"Policy\",\
             \"spec\":{\"user\":\"viewer\",\"namespace\":\"*\",\"resource\":\"*\",\
             \"readonly\":true}}\n",
        )
        .unwrap();
        let viewer = user("viewer", "g");
        assert!(policies.allow(&viewer, &on("get", "pods", "")));
        assert!(policies.allow(&viewer, &on("get", "pods", "exec")));
        assert!(!policies.allow(&viewer, &on("create", "pods", "exec")));
        assert!(!policies.allow(&user("other", "g"), &on("get", "pods", "")));
        assert!(policies.allow(&user("root", MASTERS), &on("create", "pods", "exec")));
        assert!(policies.allow(&viewer, &path("/version")));
        assert!(!policies.allow(&viewer, &path("/versions")));
        assert!(!policies.allow(&viewer, &path("/metrics")));
    }

    fn policy(spec: &str) -> Policies {
        Policies::parse(&format!(
            "{{\"apiVersion\":\"abac.authorization.kubernetes.io/v1beta1\",\"kind\":\"Policy\",\
             \"spec\":{{{spec}}}}}"
        ))
        .unwrap()
    }

    #[test]
    fn a_policy_is_about_one_group_one_resource_and_its_verbs() {
        let user = user("u", "g");
        let pods = policy(r#""user":"u","namespace":"*","resource":"pods""#);
        assert!(pods.allow(&user, &on("create", "pods", "")));
        assert!(!pods.allow(&user, &on("create", "pods", "exec")));
        let exec = policy(r#""user":"u","namespace":"ns","resource":"pods/exec""#);
        assert!(exec.allow(&user, &on("create", "pods", "exec")));
        let Attributes::Resource(asked) = on("create", "pods", "exec") else { return };
        for other in [
            ResourceAttributes { group: "apps".into(), ..asked.clone() },
            ResourceAttributes { namespace: "other".into(), ..asked.clone() },
            ResourceAttributes { subresource: "attach".into(), ..asked },
        ] {
            assert!(!exec.allow(&user, &Attributes::Resource(other)));
        }
        let read = policy(r#""user":"*","readonly":true,"nonResourcePath":"/debug/*""#);
        assert!(read.allow(&user, &path("/debug/x")));
        assert!(!read.allow(&user, &path("/debug/x").with_verb("post")));
        assert!(!read.allow(&user, &path("/version").with_verb("post")));
        assert!(
            !read.allow(&user, &on("get", "pods", "").with_verb("impersonate-on:user-info:get"))
        );
    }

    #[test]
    fn bad_lines_are_named() {
        let head =
            "{\"apiVersion\":\"abac.authorization.kubernetes.io/v1beta1\",\"kind\":\"Policy\"";
        for bad in ["x", "{}", &format!("{head},\"spec\":{{\"usr\":\"x\"}}}}")] {
            let error = Policies::parse(&format!("\n{bad}")).unwrap_err().to_string();
            assert!(error.starts_with("policy file line 2: "), "{error}");
        }
        let nobody = Policies::parse(&format!("{head},\"spec\":{{\"resource\":\"*\"}}}}")).unwrap();
        assert!(!nobody.allow(&user("x", "g"), &on("get", "pods", "")));
    }
}
