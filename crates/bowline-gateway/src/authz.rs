//! A user and a request to yes or no: `system:masters`, and kube-apiserver's ABAC file for the
//! rest.
//! Above: `server`. Below: nothing.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use crate::authn::User;

const MASTERS: &str = "system:masters";

/// What a request does, in the words that are authorized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// A verb on a resource.
    Resource {
        /// `get`, `list`, `create`, `impersonate`.
        verb: &'static str,
        /// With its subresource, as in `pods/exec`.
        resource: &'static str,
        /// Empty for resources without one.
        namespace: String,
        /// Empty for lists.
        name: String,
    },
    /// A GET of a path that is no resource.
    Path(String),
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
        /// Which.
        path: PathBuf,
        /// Why.
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
    let Deed::Path(path) = deed else { return false };
    ["/api", "/apis", "/healthz", "/livez", "/readyz", "/openapi", "/version"].into_iter().any(
        |open| path.strip_prefix(open).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
    )
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
        match deed {
            Deed::Resource { verb, resource, namespace, .. } => {
                let read = matches!(*verb, "get" | "list" | "watch");
                // All resources here are of the core group, whose name is empty.
                (!self.readonly || read)
                    && fits(&self.resource, resource)
                    && fits(&self.namespace, namespace)
                    && fits(&self.api_group, "")
            }
            Deed::Path(path) => match self.non_resource_path.strip_suffix('*') {
                Some(prefix) => path.starts_with(prefix),
                None => !self.non_resource_path.is_empty() && self.non_resource_path == *path,
            },
        }
    }
}

impl Deed {
    /// Why it is forbidden, in Kubernetes' words.
    #[must_use]
    pub fn refusal(&self, user: &User) -> String {
        match self {
            Deed::Path(path) => format!("User \"{}\" cannot get path \"{path}\"", user.name),
            Deed::Resource { verb, resource, namespace, .. } => {
                let scope = if namespace.is_empty() {
                    "at the cluster scope".to_owned()
                } else {
                    format!("in the namespace \"{namespace}\"")
                };
                format!(
                    "User \"{}\" cannot {verb} resource \"{resource}\" in API group \"\" {scope}",
                    user.name
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deed(verb: &'static str, resource: &'static str) -> Deed {
        Deed::Resource { verb, resource, namespace: "ns".into(), name: "web".into() }
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
        assert!(policies.allow(&viewer, &deed("get", "pods")));
        assert!(policies.allow(&viewer, &deed("get", "pods/exec")));
        assert!(!policies.allow(&viewer, &deed("create", "pods/exec")));
        assert!(!policies.allow(&user("other", "g"), &deed("get", "pods")));
        assert!(policies.allow(&user("root", MASTERS), &deed("create", "pods/exec")));
        assert!(policies.allow(&viewer, &Deed::Path("/version".into())));
        assert!(!policies.allow(&viewer, &Deed::Path("/versions".into())));
        assert!(!policies.allow(&viewer, &Deed::Path("/metrics".into())));
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
        assert!(!nobody.allow(&user("x", "g"), &deed("get", "pods")));
    }
}
