//! The API server's JSON to what a client needs of it, and no more: pods, services, workloads.
//!
//! A server may be hostile. Everything else is passed over while it is read, an element of a list
//! has a field that it must name, and lists have a bound: what is kept is small beside what was
//! sent.

use std::fmt;
use std::marker::PhantomData;

use jiff::Timestamp;
use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// The longest list in an object: one of etcd's 1.5 MiB has no more containers, ports or rules.
const ELEMENTS: usize = 16 * 1024;
/// The annotation that names a pod's container.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Who it is.
    #[serde(deserialize_with = "or_default")]
    pub metadata: Metadata,
    /// What it should be.
    #[serde(deserialize_with = "or_default")]
    pub spec: PodSpec,
    /// What it is.
    #[serde(deserialize_with = "or_default")]
    pub status: PodStatus,
}

impl Pod {
    /// Its regular and its initial containers.
    pub fn regular_and_initial(&self) -> impl Iterator<Item = &Container> {
        self.spec.containers.iter().chain(&self.spec.init_containers)
    }
}

/// Who an object is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    /// Its name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// Its namespace.
    #[serde(deserialize_with = "or_default")]
    pub namespace: String,
    /// Which of all that had or will have this name.
    #[serde(deserialize_with = "or_default")]
    pub uid: String,
    /// When it was made.
    #[serde(deserialize_with = "moment")]
    pub creation_timestamp: Option<Timestamp>,
    /// When it is to go.
    #[serde(deserialize_with = "moment")]
    pub deletion_timestamp: Option<Timestamp>,
    /// The container that its annotations name; may be empty.
    #[serde(rename = "annotations", deserialize_with = "annotated_container")]
    pub default_container: String,
}

/// What a pod should be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodSpec {
    /// Where it runs; may be empty.
    #[serde(deserialize_with = "or_default")]
    pub node_name: String,
    /// The regular ones.
    #[serde(deserialize_with = "few")]
    pub containers: Vec<Container>,
    /// Those that come first.
    #[serde(deserialize_with = "few")]
    pub init_containers: Vec<Container>,
    /// Those that were added.
    #[serde(deserialize_with = "few")]
    pub ephemeral_containers: Vec<Container>,
}

/// A container of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Its ports.
    #[serde(default, deserialize_with = "few")]
    pub ports: Vec<ContainerPort>,
    /// Its console takes input.
    #[serde(default, deserialize_with = "or_default")]
    pub stdin: bool,
    /// Its console is a terminal.
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
    /// `UDP`, or another word.
    #[serde(default, deserialize_with = "or_default")]
    pub protocol: String,
}

/// What a pod is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodStatus {
    /// Such as `Running`; may be empty.
    #[serde(deserialize_with = "or_default")]
    pub phase: String,
    /// What holds of it.
    #[serde(deserialize_with = "few")]
    pub conditions: Vec<Condition>,
    /// How its containers fare.
    #[serde(deserialize_with = "few")]
    pub container_statuses: Vec<ContainerStatus>,
}

/// What holds of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Such as `Ready`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, or another word.
    #[serde(default, deserialize_with = "or_default")]
    pub status: String,
    /// Since when.
    #[serde(default, deserialize_with = "moment")]
    pub last_transition_time: Option<Timestamp>,
}

/// How a container fares.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStatus {
    /// How often it was begun again.
    #[serde(default, deserialize_with = "or_default")]
    pub restart_count: i32,
}

/// A service, or a workload: something that selects pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Owner {
    /// Such as `Deployment`.
    #[serde(deserialize_with = "or_default")]
    pub kind: String,
    /// Who it is.
    #[serde(deserialize_with = "or_default")]
    pub metadata: Metadata,
    /// What it should be.
    #[serde(deserialize_with = "or_default")]
    pub spec: OwnerSpec,
}

/// What a service or a workload should be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct OwnerSpec {
    /// Whom it selects.
    #[serde(deserialize_with = "or_default")]
    pub selector: Selector,
    /// A service's address.
    #[serde(rename = "clusterIP", deserialize_with = "or_default")]
    pub cluster_ip: String,
    /// A service's ports.
    #[serde(deserialize_with = "few")]
    pub ports: Vec<ServicePort>,
}

/// Labels, as old kinds and services have them, or labels and rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Labels, where they stand alone.
    pub labels: Vec<(String, String)>,
    /// Labels, where rules may be beside them.
    pub match_labels: Vec<(String, String)>,
    /// Rules.
    pub rules: Vec<Rule>,
}

/// A rule about one label.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Rule {
    /// The label.
    pub key: String,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`.
    pub operator: String,
    /// What for.
    #[serde(default, deserialize_with = "few")]
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
    /// `UDP`, or another word.
    #[serde(default, deserialize_with = "or_default")]
    pub protocol: String,
    /// Where it leads.
    #[serde(default)]
    pub target_port: Option<TargetPort>,
}

/// Where a service's port leads.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum TargetPort {
    /// To a number.
    Number(i32),
    /// To a port of this name.
    Name(String),
}

/// Go's null: the value that nothing has set.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A list that is not too long; null is an empty one.
pub(crate) fn few<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Few<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Few<T> {
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

    deserializer.deserialize_any(Few(PhantomData))
}

/// Kubernetes' times are RFC 3339.
fn moment<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    let parsed = text.map(|text| text.parse()).transpose();
    parsed.map_err(|_| serde::de::Error::custom("a time that is none"))
}

/// Of all annotations, the one that counts.
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
                        Term::Rules(rules) => selector.rules.extend(rules),
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
    Rules(Vec<Rule>),
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

/// A list, of which one item is kept: the first in `F`'s order.
#[derive(Debug, Deserialize)]
#[serde(bound = "")]
pub struct Best<T: DeserializeOwned, F: Order<T>> {
    /// More of it, for another request; may be empty.
    #[serde(default, deserialize_with = "or_default")]
    pub metadata: ListMetadata,
    /// The best item.
    #[serde(default)]
    pub items: First<T, F>,
}

/// A list's.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ListMetadata {
    /// Where the next page begins; empty after the last one.
    #[serde(rename = "continue", deserialize_with = "or_default")]
    pub next: String,
}

/// Which of two is better.
pub trait Order<T> {
    /// Whether `one` is better than `other`.
    fn is_better(one: &T, other: &T) -> bool;
}

/// The best of a list.
#[derive(Debug)]
pub struct First<T, F> {
    /// It, if the list is not empty.
    pub best: Option<T>,
    order: PhantomData<F>,
}

impl<T, F> Default for First<T, F> {
    fn default() -> Self {
        First { best: None, order: PhantomData }
    }
}

impl<T, F: Order<T>> First<T, F> {
    /// Takes another one into account.
    pub fn add(&mut self, item: T) {
        if self.best.as_ref().is_none_or(|best| F::is_better(&item, best)) {
            self.best = Some(item);
        }
    }
}

impl<'de, T: DeserializeOwned, F: Order<T>> Deserialize<'de> for First<T, F> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each<T, F>(PhantomData<(T, F)>);

        impl<'de, T: DeserializeOwned, F: Order<T>> Visitor<'de> for Each<T, F> {
            type Value = First<T, F>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("items")
            }

            fn visit_unit<E>(self) -> Result<First<T, F>, E> {
                Ok(First::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<First<T, F>, A::Error> {
                let mut first = First::default();
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
        assert_eq!(owner.spec.selector.rules.len(), 1);
    }
}
