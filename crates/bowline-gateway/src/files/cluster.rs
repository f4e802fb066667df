//! The cluster as a file says it: Pods, Nodes and Services, served as they are and looked into for
//! routing.

use std::path::Path;
use std::sync::Arc;

use bowline_io::objects::{self, Object, ObjectsError};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use serde_json::{Value, json};

/// The kubelet's port where a node names none.
const KUBELET_PORT: u16 = 10250;
/// The feature by which a node says that it takes WebSocket.
const WEBSOCKETS: &str = "ExtendWebSocketsToKubelet";

/// Puts what is known right now into a pod that is about to be served.
pub type Refresh = Arc<dyn Fn(&mut Value) + Send + Sync>;

/// Pods, nodes and services.
#[derive(Clone, Default)]
pub struct Cluster {
    pods: Vec<Value>,
    nodes: Vec<Value>,
    services: Vec<Value>,
    refresh: Option<Refresh>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} pods on {} nodes", self.pods.len(), self.nodes.len())
    }
}

/// Where a node's kubelet is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeTarget {
    /// The node's name.
    pub name: String,
    /// A name or an address.
    pub host: String,
    /// The kubelet's port.
    pub port: u16,
    /// It declares that it takes WebSocket.
    pub takes_websockets: bool,
}

impl Cluster {
    /// Reads the objects of files.
    ///
    /// # Errors
    /// [`ObjectsError`], also for objects of other kinds.
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
    /// [`ObjectsError::NotAnObject`].
    pub fn add(&mut self, object: Object) -> Result<(), ObjectsError> {
        match object.kind() {
            "Pod" => check::<Pod>(&object)?,
            "Node" => check::<Node>(&object)?,
            "Service" => check::<Service>(&object)?,
            kind => {
                return Err(object.error(format!("kind {kind:?} is not Pod, Node or Service")));
            }
        }
        let kind = object.kind().to_owned();
        if object.value["metadata"]["name"].as_str().is_none_or(str::is_empty) {
            return Err(object.error("metadata.name is not set"));
        }
        let mut value = with_defaults(object.value, kind != "Node");
        match &*kind {
            "Pod" => self.pods.push(value),
            "Service" => {
                with_service_defaults(&mut value);
                self.services.push(value);
            }
            _ => self.nodes.push(value),
        }
        Ok(())
    }

    /// Lets pods be refreshed before they are served.
    #[must_use]
    pub fn refreshed_by(mut self, refresh: Refresh) -> Cluster {
        self.refresh = Some(refresh);
        self
    }

    /// All pods, or those of one namespace.
    #[must_use]
    pub fn pods(&self, namespace: Option<&str>) -> Vec<Value> {
        let wanted = |pod: &&Value| namespace.is_none_or(|ns| pod["metadata"]["namespace"] == ns);
        self.pods.iter().filter(wanted).map(|pod| self.fresh(pod)).collect()
    }

    /// One pod.
    #[must_use]
    pub fn pod(&self, namespace: &str, name: &str) -> Option<Value> {
        let wanted = |pod: &&Value| {
            pod["metadata"]["namespace"] == namespace && pod["metadata"]["name"] == name
        };
        self.pods.iter().find(wanted).map(|pod| self.fresh(pod))
    }

    /// All services, or those of one namespace.
    #[must_use]
    pub fn services(&self, namespace: Option<&str>) -> Vec<Value> {
        let wanted = |one: &&Value| namespace.is_none_or(|ns| one["metadata"]["namespace"] == ns);
        self.services.iter().filter(wanted).cloned().collect()
    }

    /// One service.
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

    /// All nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Value] {
        &self.nodes
    }

    /// One node.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Value> {
        self.nodes.iter().find(|node| node["metadata"]["name"] == name)
    }

    /// The names of all namespaces that something is in.
    #[must_use]
    pub fn namespaces(&self) -> Vec<String> {
        let of = |pod: &Value| pod["metadata"]["namespace"].as_str().map(ToOwned::to_owned);
        let mut names: Vec<String> =
            self.pods.iter().chain(&self.services).filter_map(of).collect();
        names.push("default".into());
        names.sort();
        names.dedup();
        names
    }

    /// Where the kubelet of a node is: its first address in the order of preference.
    #[must_use]
    pub fn target(&self, node: &str, preference: &[String]) -> Option<NodeTarget> {
        let node: Node = serde_json::from_value(self.node(node)?.clone()).ok()?;
        let status = node.status?;
        let addresses = status.addresses.unwrap_or_default();
        let preferred = preference
            .iter()
            .find_map(|kind| addresses.iter().find(|address| address.type_ == *kind))?;
        let endpoint = status.daemon_endpoints.and_then(|ends| ends.kubelet_endpoint);
        let port = endpoint.and_then(|end| u16::try_from(end.port).ok()).filter(|port| *port != 0);
        let name = node.metadata.name?;
        let declared = self.node(&name)?["status"]["declaredFeatures"].as_array();
        let takes_websockets =
            declared.is_some_and(|features| features.iter().any(|feature| feature == WEBSOCKETS));
        let (host, port) = (preferred.address.clone(), port.unwrap_or(KUBELET_PORT));
        Some(NodeTarget { name, host, port, takes_websockets })
    }
}

fn check<T: serde::de::DeserializeOwned>(object: &Object) -> Result<(), ObjectsError> {
    let parsed: Result<T, _> = serde_json::from_value(object.value.clone());
    parsed.map(|_| ()).map_err(|error| object.error(error.to_string()))
}

/// What an API server would have filled in.
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

/// What an API server would have filled in beside that.
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

/// FNV-1a: the same name gives the same uid.
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
    fn a_nodes_address_is_the_preferred_one() {
        let cluster = cluster(NODE).unwrap();
        let order =
            |kinds: &[&str]| kinds.iter().map(|kind| (*kind).to_owned()).collect::<Vec<_>>();
        let target =
            cluster.target("node", &order(&["ExternalIP", "Hostname", "InternalIP"])).unwrap();
        assert_eq!((&*target.host, target.port, target.takes_websockets), ("h", 1234, true));
        let target = cluster.target("node", &order(&["InternalIP"])).unwrap();
        assert_eq!(target.host, "10.0.0.1");
        assert_eq!(cluster.target("node", &order(&["ExternalDNS"])), None);
        assert_eq!(cluster.target("m", &order(&["Hostname"])), None);
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
