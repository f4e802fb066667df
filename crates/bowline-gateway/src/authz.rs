//! A user and a request to yes or no: `system:masters`, and kube-apiserver's ABAC file for the
//! rest.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use crate::authn::User;
use crate::names::quoted;
use crate::status::{Details, Refusal};

/// Those who may everything.
pub const MASTERS: &str = "system:masters";

/// What a request does, in the words that are authorized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// A verb on a resource.
    Resource(Attributes),
    /// A verb on a path that is no resource.
    Path {
        /// The method, in lower case.
        verb: Cow<'static, str>,
        /// As it came.
        path: String,
    },
}

/// Kubernetes' attributes of a request to a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `get`, `list`, `create`, `impersonate` and others.
    pub verb: Cow<'static, str>,
    /// The API group; empty for the core's.
    pub group: &'static str,
    /// The resource, as in `pods`.
    pub resource: &'static str,
    /// The subresource, as in `exec`; empty where there is none.
    pub subresource: Cow<'static, str>,
    /// Empty for resources without one.
    pub namespace: String,
    /// Empty for lists.
    pub name: String,
}

impl Attributes {
    /// The resource and its subresource, as policies and refusals name them: `pods/exec`.
    #[must_use]
    pub fn path(&self) -> Cow<'static, str> {
        if self.subresource.is_empty() {
            return self.resource.into();
        }
        format!("{}/{}", self.resource, self.subresource).into()
    }
}

fn is_read(verb: &str) -> bool {
    matches!(verb, "get" | "list" | "watch")
}

/// The policies of `--authorization-policy-file`.
#[derive(Clone, Debug, Default)]
pub struct Policies(Vec<Policy>);

/// Kubernetes' ABAC policy, v1beta1.
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
    /// It cannot be read.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A line is no policy.
    #[error("policy file line {line}: {what}")]
    Line {
        /// Which, from 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
}

impl Policies {
    /// Reads a file with a policy on each line; `#` begins a comment.
    ///
    /// # Errors
    /// [`PoliciesError`].
    pub fn read(path: &Path) -> Result<Policies, PoliciesError> {
        let text = fs::read_to_string(path)
            .map_err(|error| PoliciesError::File { path: path.to_owned(), error })?;
        Policies::parse(&text)
    }

    /// The same for text.
    ///
    /// # Errors
    /// [`PoliciesError::Line`].
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

    /// Demands that `user` may.
    ///
    /// # Errors
    /// 403, in Kubernetes' words.
    pub fn demand(&self, user: &User, deed: &Deed) -> Result<(), Refusal> {
        if self.allow(user, deed) { Ok(()) } else { Err(deed.refused(user, "")) }
    }

    /// Whether `user` may.
    #[must_use]
    pub fn allow(&self, user: &User, deed: &Deed) -> bool {
        user.groups.iter().any(|group| group == MASTERS)
            || self.0.iter().any(|policy| policy.is_about(user) && policy.allows(deed))
            || is_public(deed)
    }
}

/// What RBAC's `system:discovery` opens to everybody who is authenticated.
fn is_public(deed: &Deed) -> bool {
    let Deed::Path { verb, path } = deed else { return false };
    is_read(verb)
        && ["/api", "/apis", "/healthz", "/livez", "/readyz", "/openapi", "/version"]
            .into_iter()
            .any(|open| {
                path.strip_prefix(open).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
}

impl Policy {
    /// A policy that names neither a user nor a group is about nobody.
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

    fn allows(&self, deed: &Deed) -> bool {
        let fits = |pattern: &str, value: &str| pattern == "*" || pattern == value;
        if self.readonly && !is_read(deed.verb()) {
            return false;
        }
        match deed {
            Deed::Resource(asked) => {
                fits(&self.resource, &asked.path())
                    && fits(&self.namespace, &asked.namespace)
                    && fits(&self.api_group, asked.group)
            }
            Deed::Path { path, .. } => match self.non_resource_path.strip_suffix('*') {
                Some(prefix) => path.starts_with(prefix),
                None => !self.non_resource_path.is_empty() && self.non_resource_path == *path,
            },
        }
    }
}

impl Deed {
    /// Its verb.
    #[must_use]
    pub fn verb(&self) -> &str {
        match self {
            Deed::Resource(Attributes { verb, .. }) | Deed::Path { verb, .. } => verb,
        }
    }

    /// The same with another verb.
    #[must_use]
    pub fn with_verb(&self, other: impl Into<Cow<'static, str>>) -> Deed {
        let mut deed = self.clone();
        match &mut deed {
            Deed::Resource(Attributes { verb, .. }) | Deed::Path { verb, .. } => {
                *verb = other.into();
            }
        }
        deed
    }

    /// That `user` may not: in Kubernetes' words, and with a reason where there is one.
    #[must_use]
    pub fn refused(&self, user: &User, reason: &str) -> Refusal {
        let (verb, user) = (self.verb(), quoted(&user.name));
        let what = match self {
            Deed::Path { path, .. } => format!("User {user} cannot {verb} path {}", quoted(path)),
            Deed::Resource(asked) => {
                let (resource, group) = (quoted(&asked.path()), quoted(asked.group));
                let scope = if asked.namespace.is_empty() {
                    "at the cluster scope".to_owned()
                } else {
                    format!("in the namespace {}", quoted(&asked.namespace))
                };
                format!(
                    "User {user} cannot {verb} resource {resource} in API group {group} {scope}"
                )
            }
        };
        // What could be read as HTML is not in Kubernetes' words either.
        let mut what = what.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        if !reason.is_empty() {
            what = format!("{what}: {reason}");
        }
        let details = match self {
            Deed::Path { .. } => Details::default(),
            Deed::Resource(asked) => {
                Details { name: asked.name.clone(), group: asked.group, kind: asked.resource }
            }
        };
        Refusal::forbidden(details, &what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deed(verb: &'static str, resource: &'static str, subresource: &'static str) -> Deed {
        Deed::Resource(Attributes {
            verb: verb.into(),
            resource,
            subresource: subresource.into(),
            namespace: "ns".into(),
            name: "web".into(),
            ..Attributes::default()
        })
    }

    fn path(path: &str) -> Deed {
        Deed::Path { verb: "get".into(), path: path.into() }
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
        assert!(policies.allow(&viewer, &deed("get", "pods", "")));
        assert!(policies.allow(&viewer, &deed("get", "pods", "exec")));
        assert!(!policies.allow(&viewer, &deed("create", "pods", "exec")));
        assert!(!policies.allow(&user("other", "g"), &deed("get", "pods", "")));
        assert!(policies.allow(&user("root", MASTERS), &deed("create", "pods", "exec")));
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
        assert!(pods.allow(&user, &deed("create", "pods", "")));
        assert!(!pods.allow(&user, &deed("create", "pods", "exec")));
        let exec = policy(r#""user":"u","namespace":"ns","resource":"pods/exec""#);
        assert!(exec.allow(&user, &deed("create", "pods", "exec")));
        let Deed::Resource(asked) = deed("create", "pods", "exec") else { return };
        for other in [
            Attributes { group: "apps", ..asked.clone() },
            Attributes { namespace: "other".into(), ..asked.clone() },
            Attributes { subresource: "attach".into(), ..asked },
        ] {
            assert!(!exec.allow(&user, &Deed::Resource(other)));
        }
        let read = policy(r#""user":"*","readonly":true,"nonResourcePath":"/debug/*""#);
        assert!(read.allow(&user, &path("/debug/x")));
        assert!(!read.allow(&user, &path("/debug/x").with_verb("post")));
        assert!(!read.allow(&user, &path("/version").with_verb("post")));
        assert!(
            !read.allow(&user, &deed("get", "pods", "").with_verb("impersonate-on:user-info:get"))
        );
    }

    #[test]
    fn refusals_have_the_words_of_kubernetes() {
        let said = |deed: Deed| deed.refused(&user("jürgen<\"x\">", "g"), "").message;
        assert_eq!(
            said(deed("create", "pods", "exec")),
            "pods \"web\" is forbidden: User \"jürgen&lt;\\\"x\\\"&gt;\" cannot create resource \
             \"pods/exec\" in API group \"\" in the namespace \"ns\""
        );
        assert_eq!(
            said(path("/metrics")),
            "forbidden: User \"jürgen&lt;\\\"x\\\"&gt;\" cannot get path \"/metrics\""
        );
        let uid = Attributes {
            verb: "impersonate".into(),
            group: "authentication.k8s.io",
            resource: "uids",
            name: "7".into(),
            ..Attributes::default()
        };
        assert_eq!(
            Deed::Resource(uid).refused(&user("u", "g"), "so it is").message,
            "uids.authentication.k8s.io \"7\" is forbidden: User \"u\" cannot impersonate resource \
             \"uids\" in API group \"authentication.k8s.io\" at the cluster scope: so it is"
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
        assert!(!nobody.allow(&user("x", "g"), &deed("get", "pods", "")));
    }
}
