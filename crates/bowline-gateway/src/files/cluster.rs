//! Files of Pods, Nodes and Services to a cluster: the objects are served as they are, and the
//! facts that streams need are read out of them once.

use std::future::ready;
use std::path::Path;
use std::sync::Arc;

use bowline_io::objects::{self, Object, ObjectsError};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::facts::{self, Answer, Facts, NodeAddress};

/// Updates a pod that is about to be served with its present status.
pub type Refresh = Arc<dyn Fn(&mut Value) + Send + Sync>;

/// Pods, nodes and services.
#[derive(Default)]
pub struct Cluster {
    pods: Vec<Entry<facts::Pod>>,
    nodes: Vec<Entry<facts::Node>>,
    services: Vec<Value>,
    refresh: Option<Refresh>,
}

/// An object as it is served, and the facts that streams need of it.
struct Entry<T> {
    value: Value,
    fact: Arc<T>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} pods on {} nodes", self.pods.len(), self.nodes.len())
    }
}

impl Cluster {
    /// Reads the objects of files.
    ///
    /// # Errors
    /// [`ObjectsError`] if a file cannot be read, or has an object of another kind or without a
    /// name.
    pub fn read(files: &[impl AsRef<Path>]) -> Result<Cluster, ObjectsError> {
        let mut cluster = Cluster::default();
        for file in files {
            for object in objects::read(file.as_ref())? {
                cluster.add(object)?;
            }
        }
        Ok(cluster)
    }

    /// Adds one Pod, Node or Service.
    ///
    /// # Errors
    /// [`ObjectsError::NotAnObject`] if it is of another kind, or has no name.
    pub fn add(&mut self, object: Object) -> Result<(), ObjectsError> {
        match object.kind() {
            "Pod" => {
                let fact = Arc::new(pod(parse(&object)?));
                self.pods.push(Entry { value: served(object, true)?, fact });
            }
            "Node" => {
                let fact = Arc::new(node(parse(&object)?, &object.value));
                self.nodes.push(Entry { value: served(object, false)?, fact });
            }
            "Service" => {
                parse::<Service>(&object)?;
                let mut value = served(object, true)?;
                with_service_defaults(&mut value);
                self.services.push(value);
            }
            kind => {
                return Err(object.error(format!("kind {kind:?} is not Pod, Node or Service")));
            }
        }
        Ok(())
    }

    /// Has pods refreshed before they are served.
    #[must_use]
    pub fn refreshed_by(mut self, refresh: Refresh) -> Cluster {
        self.refresh = Some(refresh);
        self
    }

    /// Returns all pods, or those of one namespace.
    #[must_use]
    pub fn pods(&self, namespace: Option<&str>) -> Vec<Value> {
        let pods = self.pods.iter().map(|pod| &pod.value);
        let wanted = |pod: &&Value| namespace.is_none_or(|ns| pod["metadata"]["namespace"] == ns);
        pods.filter(wanted).map(|pod| self.fresh(pod)).collect()
    }

    /// Returns one pod.
    #[must_use]
    pub fn pod(&self, namespace: &str, name: &str) -> Option<Value> {
        self.find_pod(namespace, name).map(|pod| self.fresh(&pod.value))
    }

    fn find_pod(&self, namespace: &str, name: &str) -> Option<&Entry<facts::Pod>> {
        self.pods.iter().find(|pod| {
            let metadata = &pod.value["metadata"];
            metadata["namespace"] == namespace && metadata["name"] == name
        })
    }

    /// Returns all services, or those of one namespace.
    #[must_use]
    pub fn services(&self, namespace: Option<&str>) -> Vec<Value> {
        let wanted = |one: &&Value| namespace.is_none_or(|ns| one["metadata"]["namespace"] == ns);
        self.services.iter().filter(wanted).cloned().collect()
    }

    /// Returns one service.
    #[must_use]
    pub fn service(&self, namespace: &str, name: &str) -> Option<Value> {
        let mut services = self.services(Some(namespace)).into_iter();
        services.find(|one| one["metadata"]["name"] == name)
    }

    fn fresh(&self, pod: &Value) -> Value {
        let mut pod = pod.clone();
        if let Some(refresh) = &self.refresh {
            refresh(&mut pod);
        }
        pod
    }

    /// Returns all nodes.
    #[must_use]
    pub fn nodes(&self) -> Vec<Value> {
        self.nodes.iter().map(|node| node.value.clone()).collect()
    }

    /// Returns one node.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Value> {
        self.find_node(name).map(|node| &node.value)
    }

    fn find_node(&self, name: &str) -> Option<&Entry<facts::Node>> {
        self.nodes.iter().find(|node| node.value["metadata"]["name"] == name)
    }

    /// Returns the names of all namespaces that have objects, and `default`.
    #[must_use]
    pub fn namespaces(&self) -> Vec<String> {
        let of = |pod: &Value| pod["metadata"]["namespace"].as_str().map(ToOwned::to_owned);
        let pods = self.pods.iter().map(|pod| &pod.value);
        let mut names: Vec<String> = pods.chain(&self.services).filter_map(of).collect();
        names.push("default".into());
        names.sort();
        names.dedup();
        names
    }
}

impl Facts for Cluster {
    fn pod<'a>(&'a self, namespace: &'a str, name: &'a str) -> Answer<'a, Option<Arc<facts::Pod>>> {
        Box::pin(ready(Ok(self.find_pod(namespace, name).map(|pod| pod.fact.clone()))))
    }

    fn node<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Arc<facts::Node>>> {
        Box::pin(ready(Ok(self.find_node(name).map(|node| node.fact.clone()))))
    }
}

fn parse<T: DeserializeOwned>(object: &Object) -> Result<T, ObjectsError> {
    serde_json::from_value(object.value.clone()).map_err(|error| object.error(error.to_string()))
}

fn pod(pod: Pod) -> facts::Pod {
    let spec = pod.spec.unwrap_or_default();
    let initial = spec.init_containers.into_iter().flatten();
    let ephemeral = spec.ephemeral_containers.into_iter().flatten();
    facts::Pod {
        name: pod.metadata.name.unwrap_or_default(),
        node: spec.node_name.filter(|node| !node.is_empty()),
        containers: spec.containers.into_iter().map(|one| one.name).collect(),
        init_containers: initial.map(|one| one.name).collect(),
        ephemeral_containers: ephemeral.map(|one| one.name).collect(),
    }
}

/// Reads the facts of a node. The features are read from `value`: the type does not have them yet.
fn node(node: Node, value: &Value) -> facts::Node {
    let status = node.status.unwrap_or_default();
    let addresses = status.addresses.into_iter().flatten();
    let endpoint = status.daemon_endpoints.and_then(|ends| ends.kubelet_endpoint);
    let port = endpoint.and_then(|end| u16::try_from(end.port).ok());
    let features = value["status"]["declaredFeatures"].as_array().into_iter().flatten();
    facts::Node {
        name: node.metadata.name.unwrap_or_default(),
        addresses: addresses
            .map(|one| NodeAddress { kind: one.type_, host: one.address })
            .collect(),
        kubelet_port: port.filter(|port| *port != 0),
        features: features.filter_map(Value::as_str).map(ToOwned::to_owned).collect(),
    }
}

/// Returns an object as it is served, with defaults. An object without a name is an error.
fn served(object: Object, namespaced: bool) -> Result<Value, ObjectsError> {
    if object.value["metadata"]["name"].as_str().is_none_or(str::is_empty) {
        return Err(object.error("metadata.name is not set"));
    }
    Ok(with_defaults(object.value, namespaced))
}

/// Fills in the metadata that an API server would fill in.
fn with_defaults(mut value: Value, namespaced: bool) -> Value {
    let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let metadata = &mut value["metadata"];
    let mut set = |key: &str, default: Value| {
        if metadata[key].is_null() {
            metadata[key] = default;
        }
    };
    if namespaced {
        set("namespace", json!("default"));
    }
    set("uid", json!(format!("00000000-0000-0000-0000-{:012x}", hash(&name))));
    set("resourceVersion", json!("1"));
    #[expect(clippy::disallowed_methods, reason = "an object has a date")]
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    set("creationTimestamp", json!(now));
    value
}

/// Fills in the spec of a service as an API server would.
fn with_service_defaults(service: &mut Value) {
    let spec = &mut service["spec"];
    if spec["type"].is_null() {
        spec["type"] = json!("ClusterIP");
    }
    if spec["clusterIP"].is_null() {
        // There is no such network here.
        spec["clusterIP"] = json!("");
    }
    for port in spec["ports"].as_array_mut().into_iter().flatten() {
        if port["protocol"].is_null() {
            port["protocol"] = json!("TCP");
        }
        if port["targetPort"].is_null() {
            port["targetPort"] = port["port"].clone();
        }
    }
}

/// Hashes a name with FNV-1a, so that the same name has the same uid.
fn hash(text: &str) -> u64 {
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, mix) & 0xffff_ffff_ffff
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(text: &str) -> Result<Cluster, ObjectsError> {
        let mut cluster = Cluster::default();
        for object in objects::parse(text, Path::new("f"))? {
            cluster.add(object)?;
        }
        Ok(cluster)
    }

    const NODE: &str = "
apiVersion: v1
kind: Node
metadata: {name: node}
status:
  addresses: [{type: InternalIP, address: 10.0.0.1}, {type: Hostname, address: h}]
  daemonEndpoints: {kubeletEndpoint: {Port: 1234}}
  declaredFeatures: [A, ExtendWebSocketsToKubelet]
";

    #[test]
    fn a_nodes_facts_are_read_once() {
        let cluster = cluster(NODE).unwrap();
        let facts::Node { name, addresses, kubelet_port, features } =
            &*cluster.find_node("node").unwrap().fact;
        assert_eq!((&**name, *kubelet_port), ("node", Some(1234)));
        assert_eq!(*features, ["A", "ExtendWebSocketsToKubelet"]);
        let addresses: Vec<_> = addresses.iter().map(|one| (&*one.kind, &*one.host)).collect();
        assert_eq!(addresses, [("InternalIP", "10.0.0.1"), ("Hostname", "h")]);
        assert!(cluster.find_node("m").is_none());
    }

    #[test]
    fn pods_are_served_as_written_with_defaults() {
        let pod =
            "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c}]}\n";
        let cluster = cluster(pod).unwrap();
        let served = cluster.pod("default", "p").unwrap();
        assert_eq!(served["spec"]["containers"][0]["name"], "c");
        assert_eq!(served["metadata"]["namespace"], "default");
        assert!(cluster.pod("other", "p").is_none());
        assert_eq!(cluster.pods(Some("default")).len(), 1);
    }

    #[test]
    fn errors_name_file_and_document() {
        for bad in ["apiVersion: v1\nkind: Secret\n", "apiVersion: v1\nkind: Pod\nspec: 1\n"] {
            let error = cluster(bad).unwrap_err().to_string();
            assert!(error.starts_with("f: document 1: "), "{error}");
        }
    }
}
