//! What a word such as `deploy` means to a server: discovery, in the aggregated form and the old
//! one.

use serde::Deserialize;
use thiserror::Error;

use crate::api::{Api, ApiError};
use crate::objects::{bounded_list, or_default};

/// A kind of object, and the path at which it is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The API group; empty for the core group.
    pub group: String,
    /// Its version.
    pub version: String,
    /// The plural name, as in URLs.
    pub plural: String,
    /// Such as `Deployment`.
    pub kind: String,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
}

impl Resource {
    /// Returns the resource of pods, for which no server has to be asked.
    #[must_use]
    pub fn pods() -> Resource {
        Resource {
            group: String::new(),
            version: "v1".to_owned(),
            plural: "pods".to_owned(),
            kind: "Pod".to_owned(),
            namespaced: true,
        }
    }

    /// Returns whether it is the resource of pods.
    #[must_use]
    pub fn is_pods(&self) -> bool {
        self.group.is_empty() && self.plural == "pods"
    }
}

/// Why a word could not be looked up.
#[derive(Debug, Error)]
pub enum ResourceError {
    /// The server could not be asked.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The server knows no such word.
    #[error("the server doesn't have a resource type {0:?}")]
    Unknown(String),
}

const AGGREGATED: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
const JSON: &str = "application/json";

/// A discovery document, in any of its four forms.
#[derive(Deserialize)]
struct Discovery {
    #[serde(default, deserialize_with = "or_default")]
    kind: String,
    /// The aggregated form: groups with their versions and resources.
    #[serde(default, deserialize_with = "bounded_list")]
    items: Vec<Group>,
    /// The old form of `/api`: the versions of the core group.
    #[serde(default, deserialize_with = "bounded_list")]
    versions: Vec<String>,
    /// The old form of `/apis`: all other groups.
    #[serde(default, deserialize_with = "bounded_list")]
    groups: Vec<OldGroup>,
    /// The old form of one group and version: its resources.
    #[serde(default, deserialize_with = "bounded_list")]
    resources: Vec<OldResource>,
}

#[derive(Deserialize)]
struct Group {
    #[serde(default, deserialize_with = "or_default")]
    metadata: Name,
    #[serde(deserialize_with = "bounded_list")]
    versions: Vec<Version>,
}

#[derive(Default, Deserialize)]
struct Name {
    #[serde(default, deserialize_with = "or_default")]
    name: String,
}

#[derive(Deserialize)]
struct Version {
    version: String,
    #[serde(default, deserialize_with = "bounded_list")]
    resources: Vec<AggregatedResource>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AggregatedResource {
    resource: String,
    #[serde(default)]
    response_kind: Option<Kind>,
    #[serde(default, deserialize_with = "or_default")]
    singular_resource: String,
    #[serde(default, deserialize_with = "bounded_list")]
    short_names: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    scope: String,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(default, deserialize_with = "or_default")]
    kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OldGroup {
    preferred_version: GroupVersion,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GroupVersion {
    group_version: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OldResource {
    name: String,
    #[serde(default, deserialize_with = "or_default")]
    kind: String,
    #[serde(default = "yes")]
    namespaced: bool,
    #[serde(default, deserialize_with = "or_default")]
    singular_name: String,
    #[serde(default, deserialize_with = "bounded_list")]
    short_names: Vec<String>,
}

fn yes() -> bool {
    true
}

/// Looks a word up: plural, singular, short name or kind, with `.group` behind it or not.
///
/// # Errors
/// [`ResourceError`] if the server cannot be asked, or knows no such word.
pub async fn find(api: &Api, word: &str) -> Result<Resource, ResourceError> {
    let wanted = word.to_lowercase();
    // The core group has the words that are asked for most, and wins over all others.
    for root in ["api", "apis"] {
        let list: Discovery = match api.get(&[root], &[], AGGREGATED).await {
            // A server before 1.7 or a proxy in front of it may not serve both.
            Err(error) if error.is_not_found() => continue,
            list => list?,
        };
        let found = if list.kind == "APIGroupDiscoveryList" {
            aggregated(list, &wanted)
        } else {
            one_by_one(api, root, list, &wanted).await?
        };
        if let Some(found) = found {
            return Ok(found);
        }
    }
    Err(ResourceError::Unknown(word.to_owned()))
}

/// Returns whether `wanted` is one of `names`, with or without the group behind it.
fn is_called<'a>(
    wanted: &str,
    group: &str,
    version: &str,
    names: [&'a str; 3],
    short_names: &'a [String],
) -> bool {
    let (word, rest) = wanted.split_once('.').unwrap_or((wanted, ""));
    // The core group has no name: `pods.v1.`.
    if !(rest.is_empty() || rest == group || rest == format!("{version}.{group}")) {
        return false;
    }
    let mut names = names.into_iter().chain(short_names.iter().map(String::as_str));
    names.any(|name| !name.is_empty() && name.to_lowercase() == word)
}

fn aggregated(list: Discovery, wanted: &str) -> Option<Resource> {
    for group in list.items {
        for version in group.versions {
            for one in version.resources {
                let kind = one.response_kind.map(|kind| kind.kind).unwrap_or_default();
                let names = [&*one.resource, &*one.singular_resource, &*kind];
                let (group, version) = (&group.metadata.name, &version.version);
                if is_called(wanted, group, version, names, &one.short_names) {
                    let (group, version) = (group.clone(), version.clone());
                    let (plural, namespaced) = (one.resource, one.scope != "Cluster");
                    return Some(Resource { group, version, plural, kind, namespaced });
                }
            }
        }
    }
    None
}

/// Looks a word up by the old form of discovery, with one request for each group and version.
async fn one_by_one(
    api: &Api,
    root: &str,
    list: Discovery,
    wanted: &str,
) -> Result<Option<Resource>, ResourceError> {
    let first = list.versions.into_iter().map(|version| (String::new(), version));
    let others = list.groups.iter().filter_map(|group| {
        let (group, version) = group.preferred_version.group_version.split_once('/')?;
        Some((group.to_owned(), version.to_owned()))
    });
    for (group, version) in first.chain(others) {
        let path: Vec<&str> =
            [root, &group, &version].into_iter().filter(|part| !part.is_empty()).collect();
        // One broken extension must not hide all others.
        let Ok(known) = api.get::<Discovery>(&path, &[], JSON).await else { continue };
        for one in known.resources {
            let names = [&*one.name, &*one.singular_name, &*one.kind];
            let is_whole = !one.name.contains('/');
            if is_whole && is_called(wanted, &group, &version, names, &one.short_names) {
                let OldResource { name: plural, kind, namespaced, .. } = one;
                return Ok(Some(Resource { group, version, plural, kind, namespaced }));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let list = serde_json::json!({"items": [{"metadata": {"name": "apps"}, "versions": [
            {"version": "v1", "resources": [{"resource": "deployments", "singularResource":
            "deployment", "shortNames": ["deploy"], "responseKind": {"kind": "Deployment"}}]}]}]});
        let find = |word: &str| aggregated(Discovery::deserialize(&list).unwrap(), word);
        for word in ["deploy", "deployment", "deployments", "deploy.apps", "deploy.v1.apps"] {
            assert_eq!(find(word).unwrap().plural, "deployments", "{word}");
        }
        assert!(find("deploy").unwrap().namespaced);
        assert_eq!(find("deploy.v1"), None);
        assert_eq!(find("deploy.batch"), None);
        assert_eq!(find(""), None);
    }
}
