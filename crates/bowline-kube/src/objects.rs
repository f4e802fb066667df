//! The API server's JSON to what a client needs of it, and no more: pods, services, workloads.
//!
//! A server may be hostile, so what is kept is small beside what was sent: all other fields are
//! passed over while they are read, each element of a list has a field that is required, and lists
//! have a bound.

use std::fmt;
use std::marker::PhantomData;

use jiff::Timestamp;
use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// The most elements of a list in an object: one of etcd's 1.5 MiB has no more containers or ports.
const ELEMENTS: usize = 16 * 1024;
/// The annotation that names a pod's container.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// `metadata`.
    #[serde(deserialize_with = "or_default")]
    pub metadata: Metadata,
    /// `spec`.
    #[serde(deserialize_with = "or_default")]
    pub spec: PodSpec,
    /// `status`.
    #[serde(deserialize_with = "or_default")]
    pub status: PodStatus,
}

impl Pod {
    /// Returns its regular containers, and behind them its init containers.
    pub fn regular_and_initial(&self) -> impl Iterator<Item = &Container> {
        self.spec.containers.iter().chain(&self.spec.init_containers)
    }
}

/// `metadata` of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    /// Its name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// Its namespace.
    #[serde(deserialize_with = "or_default")]
    pub namespace: String,
    /// Its uid, which no other object of the same name has.
    #[serde(deserialize_with = "or_default")]
    pub uid: String,
    /// When it was created.
    #[serde(deserialize_with = "timestamp")]
    pub creation_timestamp: Option<Timestamp>,
    /// When it is to be deleted.
    #[serde(deserialize_with = "timestamp")]
    pub deletion_timestamp: Option<Timestamp>,
    /// The container that its annotations name; may be empty.
    #[serde(rename = "annotations", deserialize_with = "annotated_container")]
    pub default_container: String,
}

/// `spec` of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodSpec {
    /// The name of its node; may be empty.
    #[serde(deserialize_with = "or_default")]
    pub node_name: String,
    /// Its regular containers.
    #[serde(deserialize_with = "bounded_list")]
    pub containers: Vec<Container>,
    /// Its init containers.
    #[serde(deserialize_with = "bounded_list")]
    pub init_containers: Vec<Container>,
    /// Its ephemeral containers.
    #[serde(deserialize_with = "bounded_list")]
    pub ephemeral_containers: Vec<Container>,
}

/// A container of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Its ports.
    #[serde(default, deserialize_with = "bounded_list")]
    pub ports: Vec<ContainerPort>,
    /// Whether its main process has an open stdin.
    #[serde(default, deserialize_with = "or_default")]
    pub stdin: bool,
    /// Whether its main process has a terminal.
    #[serde(default, deserialize_with = "or_default")]
    pub tty: bool,
}

/// A port of a container.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    /// Its number.
    pub container_port: i32,
    /// Its name; may be empty.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// `TCP`, `UDP` or `SCTP`; may be empty.
    #[serde(default, deserialize_with = "or_default")]
    pub protocol: String,
}

/// `status` of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodStatus {
    /// Its phase, such as `Running`; may be empty.
    #[serde(deserialize_with = "or_default")]
    pub phase: String,
    /// Its conditions.
    #[serde(deserialize_with = "bounded_list")]
    pub conditions: Vec<Condition>,
    /// The statuses of its regular containers.
    #[serde(deserialize_with = "bounded_list")]
    pub container_statuses: Vec<ContainerStatus>,
}

/// A condition of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Its type, such as `Ready`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`; may be empty.
    #[serde(default, deserialize_with = "or_default")]
    pub status: String,
    /// Since when it has this status.
    #[serde(default, deserialize_with = "timestamp")]
    pub last_transition_time: Option<Timestamp>,
}

/// The status of a container.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStatus {
    /// How many times it was restarted.
    #[serde(default, deserialize_with = "or_default")]
    pub restart_count: i32,
}

/// A service, or a workload: something that selects pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Owner {
    /// Its kind, such as `Deployment`.
    #[serde(deserialize_with = "or_default")]
    pub kind: String,
    /// `metadata`.
    #[serde(deserialize_with = "or_default")]
    pub metadata: Metadata,
    /// `spec`.
    #[serde(deserialize_with = "or_default")]
    pub spec: OwnerSpec,
}

/// `spec` of a service or a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct OwnerSpec {
    /// Which pods it selects.
    #[serde(deserialize_with = "or_default")]
    pub selector: Selector,
    /// The address of a service; `None`, as a text, for headless ones.
    #[serde(rename = "clusterIP", deserialize_with = "or_default")]
    pub cluster_ip: String,
    /// The ports of a service.
    #[serde(deserialize_with = "bounded_list")]
    pub ports: Vec<ServicePort>,
}

/// A selector: labels alone, as in services and old kinds, or labels and expressions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// The labels of a selector that has nothing else.
    pub labels: Vec<(String, String)>,
    /// `matchLabels`.
    pub match_labels: Vec<(String, String)>,
    /// `matchExpressions`.
    pub match_expressions: Vec<Requirement>,
}

/// A requirement about one label.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`.
    pub operator: String,
    /// The values of `In` and `NotIn`.
    #[serde(default, deserialize_with = "bounded_list")]
    pub values: Vec<String>,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Its number.
    pub port: i32,
    /// Its name; may be empty.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// `TCP`, `UDP` or `SCTP`; may be empty.
    #[serde(default, deserialize_with = "or_default")]
    pub protocol: String,
    /// The pod's port; the same number if it is not set.
    #[serde(default)]
    pub target_port: Option<TargetPort>,
}

/// The port of a pod to which a service's port leads.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum TargetPort {
    /// The number.
    Number(i32),
    /// The name of a container's port.
    Name(String),
}

/// Reads null as the default, as Go does.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads a list of at most [`ELEMENTS`]; null is an empty one.
pub(crate) fn bounded_list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct BoundedList<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for BoundedList<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_unit<E>(self) -> Result<Vec<T>, E> {
            Ok(Vec::new())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<T>, A::Error> {
            let mut all = Vec::new();
            while let Some(element) = elements.next_element()? {
                if all.len() == ELEMENTS {
                    return Err(serde::de::Error::custom("a list that is too long"));
                }
                all.push(element);
            }
            Ok(all)
        }
    }

    deserializer.deserialize_any(BoundedList(PhantomData))
}

/// Reads a time of RFC 3339.
fn timestamp<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    let parsed = text.map(|text| text.parse()).transpose();
    parsed.map_err(|_| serde::de::Error::custom("a time that is none"))
}

/// Reads the value of [`DEFAULT_CONTAINER`] out of all annotations.
fn annotated_container<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    struct Annotations;

    impl<'de> Visitor<'de> for Annotations {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("annotations")
        }

        fn visit_unit<E>(self) -> Result<String, E> {
            Ok(String::new())
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<String, A::Error> {
            let mut found = String::new();
            while let Some(key) = map.next_key::<String>()? {
                if key == DEFAULT_CONTAINER {
                    found = map.next_value()?;
                } else {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            Ok(found)
        }
    }

    deserializer.deserialize_any(Annotations)
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Selector, D::Error> {
        struct Terms;

        impl<'de> Visitor<'de> for Terms {
            type Value = Selector;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a selector")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Selector, A::Error> {
                let mut selector = Selector::default();
                while let Some(key) = map.next_key::<String>()? {
                    match map.next_value::<Term>()? {
                        Term::Label(value) => selector.labels.push((key, value)),
                        Term::Expressions(expressions) => {
                            selector.match_expressions.extend(expressions)
                        }
                        Term::Labels(Pairs(pairs)) => selector.match_labels.extend(pairs),
                        Term::Nothing(()) => {}
                    }
                }
                Ok(selector)
            }
        }

        deserializer.deserialize_map(Terms)
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Term {
    Label(String),
    Expressions(Vec<Requirement>),
    Labels(Pairs),
    Nothing(()),
}

struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pairs, D::Error> {
        struct Each;

        impl<'de> Visitor<'de> for Each {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("labels")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(Each)
    }
}

/// A page of a list, of which only the best item is kept, in `F`'s order.
#[derive(Debug, Deserialize)]
#[serde(bound = "")]
pub struct ListPage<T: DeserializeOwned, F: Order<T>> {
    /// The metadata of the list.
    #[serde(default, deserialize_with = "or_default")]
    pub metadata: ListMetadata,
    /// The best item of the page.
    #[serde(default)]
    pub items: BestItem<T, F>,
}

/// `metadata` of a list.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ListMetadata {
    /// Where the next page begins; empty after the last one.
    #[serde(rename = "continue", deserialize_with = "or_default")]
    pub next: String,
}

/// An order of items.
pub trait Order<T> {
    /// Returns whether `one` is better than `other`.
    fn is_better(one: &T, other: &T) -> bool;
}

/// The best item of a list.
#[derive(Debug)]
pub struct BestItem<T, F> {
    /// The item; `None` if the list is empty.
    pub best: Option<T>,
    order: PhantomData<F>,
}

impl<T, F> Default for BestItem<T, F> {
    fn default() -> Self {
        BestItem { best: None, order: PhantomData }
    }
}

impl<T, F: Order<T>> BestItem<T, F> {
    /// Keeps `item` if it is better than the one so far.
    pub fn add(&mut self, item: T) {
        if self.best.as_ref().is_none_or(|best| F::is_better(&item, best)) {
            self.best = Some(item);
        }
    }
}

impl<'de, T: DeserializeOwned, F: Order<T>> Deserialize<'de> for BestItem<T, F> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each<T, F>(PhantomData<(T, F)>);

        impl<'de, T: DeserializeOwned, F: Order<T>> Visitor<'de> for Each<T, F> {
            type Value = BestItem<T, F>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("items")
            }

            fn visit_unit<E>(self) -> Result<BestItem<T, F>, E> {
                Ok(BestItem::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut items: A,
            ) -> Result<BestItem<T, F>, A::Error> {
                let mut first = BestItem::default();
                while let Some(item) = items.next_element()? {
                    first.add(item);
                }
                Ok(first)
            }
        }

        deserializer.deserialize_any(Each(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn null_is_not_set_and_the_rest_is_passed_over() {
        let pod: Pod = serde_json::from_value(json!({
            "kind": "Pod",
            "metadata": {"name": "p", "namespace": null, "labels": {"a": "b"}, "annotations":
                {"x": "y", "kubectl.kubernetes.io/default-container": "c"},
                "creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": [1, {}]},
            "spec": {"containers": [{"name": "c", "ports": null, "tty": null, "stdin": true}],
                "initContainers": null, "volumes": [{}]},
            "status": null,
        }))
        .unwrap();
        assert_eq!((&*pod.metadata.name, &*pod.metadata.namespace), ("p", ""));
        assert_eq!(pod.metadata.default_container, "c");
        assert!(pod.metadata.creation_timestamp.is_some());
        assert!(pod.spec.containers[0].stdin && !pod.spec.containers[0].tty);
        let bare: Pod = serde_json::from_value(json!({"metadata": {"annotations": null}})).unwrap();
        assert_eq!(bare, Pod::default());
    }

    #[test]
    fn both_kinds_of_selectors() {
        let owner: Owner = serde_json::from_value(json!({"kind": "Service", "spec": {
            "selector": {"a": "b", "matchLabels": "c"}, "clusterIP": "None",
            "ports": [{"port": 1, "targetPort": "web"}, {"port": 2, "targetPort": 3},
                {"port": 4}]}}))
        .unwrap();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(owner.spec.selector.labels, [pair("a", "b"), pair("matchLabels", "c")]);
        assert_eq!(owner.spec.ports[0].target_port, Some(TargetPort::Name("web".into())));
        assert_eq!(owner.spec.ports[1].target_port, Some(TargetPort::Number(3)));
        let owner: Owner = serde_json::from_value(json!({"spec": {"selector": {
            "matchLabels": {"a": "b"},
            "matchExpressions": [{"key": "c", "operator": "Exists"}]}}}))
        .unwrap();
        assert_eq!(owner.spec.selector.match_labels, [pair("a", "b")]);
        assert_eq!(owner.spec.selector.match_expressions.len(), 1);
    }
}
