//! What a word such as `deploy` means to a server: discovery, in the aggregated form and the old
//! one.
//! Above: [`target`](crate::target). Below: [`api`](crate::api).

use serde_json::Value;
use thiserror::Error;

use crate::api::{Api, ApiError};

/// A kind of object and where it is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The API group; empty for the first one.
    pub group: String,
    /// Its version.
    pub version: String,
    /// The word in URLs.
    pub plural: String,
    /// Such as `Deployment`.
    pub kind: String,
}

/// Why a word means nothing.
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

/// Looks a word up: plural, singular, short name or kind, with `.group` behind it or not.
///
/// # Errors
/// [`ResourceError`].
pub async fn find(api: &Api, word: &str) -> Result<Resource, ResourceError> {
    let wanted = word.to_lowercase();
    // The first group has the words that are asked for most, and wins over all others.
    for root in ["api", "apis"] {
        let list = match api.get(&[root], &[], AGGREGATED).await {
            // A server before 1.7 or a proxy in front of it may not serve both.
            Err(error) if error.is_not_found() => continue,
            list => list?,
        };
        let found = if list["kind"] == "APIGroupDiscoveryList" {
            aggregated(&list, &wanted)
        } else {
            one_by_one(api, root, &list, &wanted).await?
        };
        if let Some(found) = found {
            return Ok(found);
        }
    }
    Err(ResourceError::Unknown(word.to_owned()))
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn items<'a>(of: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    of[field].as_array().into_iter().flatten()
}

/// Whether `wanted` is one of `names`, or that and the group.
fn is_called<'a>(
    wanted: &str,
    group: &str,
    version: &str,
    names: impl Iterator<Item = &'a str>,
) -> bool {
    let (word, rest) = wanted.split_once('.').unwrap_or((wanted, ""));
    let full = format!("{version}.{group}");
    if !(rest.is_empty() || rest == group || rest == full.trim_end_matches('.')) {
        return false;
    }
    names.into_iter().any(|name| !name.is_empty() && name.to_lowercase() == word)
}

fn aggregated(list: &Value, wanted: &str) -> Option<Resource> {
    for item in items(list, "items") {
        let group = item["metadata"]["name"].as_str().unwrap_or_default();
        for version in items(item, "versions") {
            let number = version["version"].as_str()?;
            for resource in items(version, "resources") {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let (plural, kind) =
                    (text(&resource["resource"]), text(&resource["responseKind"]["kind"]));
                let singular = text(&resource["singularResource"]);
                let names = [&*plural, &*singular, &*kind].into_iter();
                if is_called(wanted, group, number, names.chain(texts(&resource["shortNames"]))) {
                    let (group, version) = (group.to_owned(), number.to_owned());
                    return Some(Resource { group, version, plural, kind });
                }
            }
        }
    }
    None
}

/// The form before 1.26: one request for each group and version.
async fn one_by_one(
    api: &Api,
    root: &str,
    list: &Value,
    wanted: &str,
) -> Result<Option<Resource>, ResourceError> {
    let mut places: Vec<(String, String)> = Vec::new();
    for version in texts(&list["versions"]) {
        places.push((String::new(), version.to_owned()));
    }
    for group in items(list, "groups") {
        if let Some(preferred) = group["preferredVersion"]["groupVersion"].as_str()
            && let Some((group, version)) = preferred.split_once('/')
        {
            places.push((group.to_owned(), version.to_owned()));
        }
    }
    for (group, version) in places {
        let path: Vec<&str> =
            [root, &group, &version].into_iter().filter(|part| !part.is_empty()).collect();
        // One broken extension must not hide all others.
        let Ok(known) = api.get(&path, &[], JSON).await else { continue };
        for resource in items(&known, "resources") {
            let text = |field: &str| resource[field].as_str().unwrap_or_default().to_owned();
            let (plural, kind, singular) = (text("name"), text("kind"), text("singularName"));
            let names = [&*plural, &*singular, &*kind].into_iter();
            let is_whole = !plural.contains('/');
            let names = names.chain(texts(&resource["shortNames"]));
            if is_whole && is_called(wanted, &group, &version, names) {
                return Ok(Some(Resource { group, version, plural, kind }));
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
        for word in ["deploy", "deployment", "deployments", "deploy.apps", "deploy.v1.apps"] {
            assert_eq!(aggregated(&list, word).unwrap().plural, "deployments", "{word}");
        }
        assert_eq!(aggregated(&list, "deploy.batch"), None);
        assert_eq!(aggregated(&list, ""), None);
    }
}
