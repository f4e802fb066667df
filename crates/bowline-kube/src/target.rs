//! A name such as `deploy/web` to the pod that is meant, with kubectl's rules and words.

use std::cmp::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;
use tokio::time::{Instant, sleep, timeout_at};

use crate::api::{Api, ApiError};
use crate::objects::{BestItem, Condition, ListPage, Order, Owner, Pod};
use crate::resources::{self, Resource, ResourceError};

const JSON: &str = "application/json";
/// The pause before a selector without a pod is asked again.
const PERIOD: Duration = Duration::from_secs(1);
/// How many pods are asked for at once: pages of small pods are small, pages of large ones bounded.
const PAGE: &str = "500";

/// Why no pod was found.
#[derive(Debug, Error)]
pub enum TargetError {
    /// The server has no such object, or cannot be asked.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The word before the slash is no resource.
    #[error(transparent)]
    Resource(ResourceError),
    /// There is more than one slash, as in `pod/a/b`.
    #[error("arguments in resource/name form may not have more than one slash")]
    Slashes,
    /// The type or the name is missing, as in `pod/` or `/name`.
    #[error("arguments in resource/name form must have a single resource and name")]
    Incomplete,
    /// The name is empty.
    #[error("resource name may not be empty")]
    NoName,
    /// A name is given without its type.
    #[error("the argument {0:?} must be RESOURCE/NAME")]
    NoKind(String),
    /// No object can have this name.
    #[error("invalid resource name {name:?}: [{why}]")]
    Name {
        /// The name that was given.
        name: String,
        /// The rule.
        why: &'static str,
    },
    /// Objects of this kind select no pods.
    #[error("cannot attach to {0}: selector for {0} not implemented")]
    NoSelector(String),
    /// The service has no selector.
    #[error(
        "cannot attach to *v1.Service: invalid service '{0}': Service is defined without a selector"
    )]
    EmptyService(String),
    /// No pod appeared in time.
    #[error("timed out waiting for the condition")]
    Timeout,
    /// An object is not of the form of its kind.
    #[error("{what} is not understood: {error}")]
    Malformed {
        /// The object.
        what: String,
        /// What is wrong with it.
        error: String,
    },
}

impl From<ResourceError> for TargetError {
    fn from(error: ResourceError) -> TargetError {
        match error {
            ResourceError::Api(error) => TargetError::Api(error),
            error => TargetError::Resource(error),
        }
    }
}

/// A pod, and the object that it was chosen for.
#[derive(Clone, Debug)]
pub struct Target {
    /// The pod.
    pub pod: Pod,
    /// The workload or service that was named; `None` if that was the pod itself.
    pub chosen_for: Option<Owner>,
}

/// Finds the pod of a target, as [`resolve`] does.
///
/// # Errors
/// [`TargetError`] as with [`resolve`].
pub async fn named(
    api: &Api,
    namespace: &str,
    asked: &str,
    wait: Duration,
) -> Result<Pod, TargetError> {
    Ok(resolve(api, namespace, asked, wait).await?.pod)
}

/// Finds the pod that `asked`, a name or `TYPE/NAME`, means in a namespace. Where it is no pod,
/// waits up to `wait` for the first one.
///
/// # Errors
/// [`TargetError`] if the name is malformed, there is no such object, or no pod of it in time.
pub async fn resolve(
    api: &Api,
    namespace: &str,
    asked: &str,
    wait: Duration,
) -> Result<Target, TargetError> {
    let parts: Vec<&str> = asked.split('/').collect();
    match parts[..] {
        [name] => by_name(api, namespace, None, name, wait).await,
        [word, name] if !word.is_empty() && !name.is_empty() => {
            by_name(api, namespace, Some(word), name, wait).await
        }
        [_, _] => Err(TargetError::Incomplete),
        _ => Err(TargetError::Slashes),
    }
}

/// Finds the pod of a target whose kind is a word of its own. A name that has its own kind, as
/// `TYPE/NAME`, is read by that, as in kubectl.
///
/// # Errors
/// [`TargetError`] as with [`resolve`].
pub async fn of_kind(
    api: &Api,
    namespace: &str,
    kind: &str,
    name: &str,
    wait: Duration,
) -> Result<Pod, TargetError> {
    if name.contains('/') {
        return named(api, namespace, name, wait).await;
    }
    if kind.is_empty() {
        return Err(TargetError::NoKind(name.to_owned()));
    }
    Ok(by_name(api, namespace, Some(kind), name, wait).await?.pod)
}

async fn by_name(
    api: &Api,
    namespace: &str,
    kind: Option<&str>,
    name: &str,
    wait: Duration,
) -> Result<Target, TargetError> {
    // With these names a request would go to another path.
    if name.is_empty() {
        return Err(TargetError::NoName);
    }
    let why = match name {
        "." => Some("may not be '.'"),
        ".." => Some("may not be '..'"),
        name if name.contains('%') => Some("may not contain '%'"),
        _ => None,
    };
    if let Some(why) = why {
        return Err(TargetError::Name { name: name.to_owned(), why });
    }
    let of_pod = |pod| Target { pod, chosen_for: None };
    let resource = match kind {
        Some(kind) => resources::find(api, kind).await?,
        None => Resource::pods(),
    };
    if resource.is_pods() {
        return Ok(of_pod(get(api, &resource, namespace, name).await?));
    }
    let owner: Owner = get(api, &resource, namespace, name).await?;
    let pod = selected(api, namespace, &owner, &go_type(&resource), wait).await?;
    Ok(Target { pod, chosen_for: Some(owner) })
}

/// Gets the pod of this name with one request.
///
/// # Errors
/// [`TargetError::Api`] if there is none, or the server cannot be asked.
pub async fn pod(api: &Api, namespace: &str, name: &str) -> Result<Pod, TargetError> {
    let path = ["api", "v1", "namespaces", namespace, "pods", name];
    Ok(api.get(&path, &[], JSON).await?)
}

/// Gets an object of a namespace. If the namespace is missing as well, that is the error.
async fn get_in_namespace<T: DeserializeOwned>(
    api: &Api,
    namespace: &str,
    path: &[&str],
) -> Result<T, ApiError> {
    let object = api.get(path, &[], JSON).await;
    match object {
        Err(error) if error.is_not_found() && namespace != "default" => {
            let there = api.get::<Owner>(&["api", "v1", "namespaces", namespace], &[], JSON).await;
            match there {
                Err(missing) if missing.is_not_found() => Err(missing),
                _ => Err(error),
            }
        }
        object => object,
    }
}

async fn get<T: DeserializeOwned>(
    api: &Api,
    resource: &Resource,
    namespace: &str,
    name: &str,
) -> Result<T, TargetError> {
    let Resource { group, version, plural, namespaced, .. } = resource;
    let root: &[&str] = if group.is_empty() { &["api"] } else { &["apis", group] };
    if !namespaced {
        let path = [root, &[version, plural, name]].concat();
        return Ok(api.get(&path, &[], JSON).await?);
    }
    let path = [root, &[version, "namespaces", namespace, plural, name]].concat();
    Ok(get_in_namespace(api, namespace, &path).await?)
}

/// Finds the pod of an object: itself, or one that it selects.
///
/// # Errors
/// [`TargetError`] if the object is malformed, selects no pods, or none appears within `wait`.
pub async fn of_object(
    api: &Api,
    namespace: &str,
    object: &Value,
    wait: Duration,
) -> Result<Pod, TargetError> {
    let kind = object["kind"].as_str().unwrap_or_default();
    if kind == "Pod" {
        let mut pod: Pod = of_value(object)?;
        if pod.metadata.namespace.is_empty() {
            pod.metadata.namespace = namespace.to_owned();
        }
        return Ok(pod);
    }
    let version = object["apiVersion"].as_str().unwrap_or_default();
    let version = version.rsplit('/').next().unwrap_or_default();
    selected(api, namespace, &of_value(object)?, &format!("*{version}.{kind}"), wait).await
}

/// Returns Go's name for objects of this kind, which is in kubectl's messages.
fn go_type(resource: &Resource) -> String {
    format!("*{}.{}", resource.version, resource.kind)
}

async fn selected(
    api: &Api,
    namespace: &str,
    owner: &Owner,
    go_type: &str,
    wait: Duration,
) -> Result<Pod, TargetError> {
    let selector = selector(owner, go_type)?;
    let deadline = Instant::now() + wait;
    let first = async {
        loop {
            if let Some(best) = best(api, namespace, &selector).await? {
                return Ok(best);
            }
            sleep(PERIOD).await;
        }
    };
    timeout_at(deadline, first).await.unwrap_or(Err(TargetError::Timeout))
}

/// Returns the best of the selected pods, over all pages of the list.
async fn best(api: &Api, namespace: &str, selector: &str) -> Result<Option<Pod>, TargetError> {
    let path = ["api", "v1", "namespaces", namespace, "pods"];
    let mut first = BestItem::<Pod, PodOrder>::default();
    let mut next = String::new();
    loop {
        let mut query = vec![("labelSelector", selector), ("limit", PAGE)];
        if !next.is_empty() {
            query.push(("continue", &next));
        }
        let page: ListPage<Pod, PodOrder> = api.list(&path, &query, JSON).await?;
        if let Some(pod) = page.items.best {
            first.add(pod);
        }
        next = page.metadata.next;
        if next.is_empty() {
            return Ok(first.best);
        }
    }
}

/// Formats the selector of a workload or a service for a query.
fn selector(owner: &Owner, go_type: &str) -> Result<String, TargetError> {
    let (name, spec) = (&owner.metadata.name, &owner.spec.selector);
    let labels = |pairs: &[(String, String)]| -> Vec<String> {
        pairs.iter().map(|(key, value)| format!("{key}={value}")).collect()
    };
    let terms = match &*owner.kind {
        "Service" if spec.labels.is_empty() => {
            return Err(TargetError::EmptyService(name.to_owned()));
        }
        "Service" | "ReplicationController" => labels(&spec.labels),
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job" => {
            let mut terms = labels(&spec.match_labels);
            for requirement in &spec.match_expressions {
                let (key, values) = (&requirement.key, requirement.values.join(","));
                terms.push(match &*requirement.operator {
                    "In" => format!("{key} in ({values})"),
                    "NotIn" => format!("{key} notin ({values})"),
                    "Exists" => key.to_owned(),
                    "DoesNotExist" => format!("!{key}"),
                    other => {
                        let what = format!("the selector of {name:?}");
                        let error = format!("operator {other:?}");
                        return Err(TargetError::Malformed { what, error });
                    }
                });
            }
            terms
        }
        _ => return Err(TargetError::NoSelector(go_type.to_owned())),
    };
    if terms.is_empty() {
        // An empty selector would mean every pod of the namespace.
        let what = format!("the selector of {name:?}");
        return Err(TargetError::Malformed { what, error: "it selects nothing".to_owned() });
    }
    Ok(terms.join(","))
}

fn of_value<T: DeserializeOwned>(value: &Value) -> Result<T, TargetError> {
    let name = value["metadata"]["name"].as_str().unwrap_or_default();
    T::deserialize(value).map_err(|error| TargetError::Malformed {
        what: format!("{} {name:?}", value["kind"].as_str().unwrap_or("object").to_lowercase()),
        error: error.to_string(),
    })
}

/// Prefers the pod that is more likely to work.
#[derive(Debug)]
struct PodOrder;

impl Order<Pod> for PodOrder {
    fn is_better(one: &Pod, other: &Pod) -> bool {
        order(one, other) == Ordering::Less
    }
}

/// Orders two pods: the one that is more likely to work comes first.
fn order(one: &Pod, other: &Pod) -> Ordering {
    let unscheduled = |pod: &Pod| pod.spec.node_name.is_empty();
    let phase = |pod: &Pod| match &*pod.status.phase {
        "Running" => 0,
        "Unknown" => 1,
        "Pending" => 2,
        _ => 3,
    };
    let leaving = |pod: &Pod| pod.metadata.deletion_timestamp.is_some();
    let unready = |pod: &Pod| ready(pod).is_none();
    let since = |pod: &Pod| -> Option<Timestamp> { ready(pod)?.last_transition_time };
    let created = |pod: &Pod| pod.metadata.creation_timestamp;
    (unscheduled(one), phase(one), unready(one), leaving(one))
        .cmp(&(unscheduled(other), phase(other), unready(other), leaving(other)))
        .then_with(|| since(one).cmp(&since(other)))
        .then_with(|| restarts(one).cmp(&restarts(other)))
        .then_with(|| created(one).cmp(&created(other)))
}

/// Returns the condition by which the pod is ready; `None` if it is not.
fn ready(pod: &Pod) -> Option<&Condition> {
    pod.status.conditions.iter().find(|one| one.kind == "Ready" && one.status == "True")
}

fn restarts(pod: &Pod) -> i32 {
    pod.status.container_statuses.iter().map(|status| status.restart_count).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors() {
        let of = |kind: &str, spec: Value| {
            let object =
                json!({"kind": kind, "metadata": {"name": "x"}, "spec": {"selector": spec}});
            let owner = serde_json::from_value(object).unwrap();
            selector(&owner, "*v1.ConfigMap").unwrap_or_else(|error| error.to_string())
        };
        assert_eq!(of("Service", json!({"a": "b"})), "a=b");
        let rules = json!({"matchLabels": {"a": "b"}, "matchExpressions": [
            {"key": "c", "operator": "In", "values": ["d", "e"]},
            {"key": "f", "operator": "DoesNotExist"}]});
        assert_eq!(of("Deployment", rules), "a=b,c in (d,e),!f");
        let text = "cannot attach to *v1.ConfigMap: selector for *v1.ConfigMap not implemented";
        assert_eq!(of("ConfigMap", Value::Null), text);
        let text = "cannot attach to *v1.Service: invalid service 'x': Service is defined without \
                    a selector";
        assert_eq!(of("Service", Value::Null), text);
        assert!(of("Job", json!({})).contains("selects nothing"));
    }

    #[test]
    fn the_best_pod_first() {
        let pod = |name: &str, phase: &str, node: &str, ready: Option<&str>, restarts: i32| {
            let mut pod = json!({"metadata": {"name": name},
                "spec": {"nodeName": node, "containers": []},
                "status": {"phase": phase, "containerStatuses": [{"name": "c",
                "image": "", "imageID": "",
                "ready": true, "restartCount": restarts}]}});
            if let Some(since) = ready {
                pod["status"]["conditions"] = json!([{"type": "Ready", "status": "True",
                    "lastTransitionTime": since}]);
            }
            serde_json::from_value::<Pod>(pod).unwrap()
        };
        let long = Some("2026-01-01T00:00:00Z");
        let short = Some("2026-02-01T00:00:00Z");
        let ranked = [
            pod("a", "Running", "n", long, 0),
            pod("b", "Running", "n", long, 4),
            pod("c", "Running", "n", short, 0),
            pod("d", "Running", "n", None, 0),
            pod("e", "Unknown", "n", None, 0),
            pod("f", "Pending", "n", None, 0),
            pod("g", "Running", "", long, 0),
        ];
        for first in 0..ranked.len() {
            let mut best = BestItem::<Pod, PodOrder>::default();
            for pod in ranked[first..].iter().rev() {
                best.add(pod.clone());
            }
            assert_eq!(best.best.unwrap().metadata.name, ranked[first].metadata.name);
        }
    }
}
