//! The API server's JSON of a node to what a stream needs of it: where its kubelet is, and what it
//! declares.

use serde::{Deserialize, Deserializer};

use crate::objects::{bounded_list, or_default};

/// How many addresses are kept. Kubelets of the largest machines write a dozen.
const ADDRESSES: usize = 64;
/// How many features are kept.
const FEATURES: usize = 256;
/// The longest name of a host, or of a feature: that of DNS.
const NAME_BYTES: usize = 253;

/// A node. Its status is written by the node itself, so what is longer than any address or feature,
/// or one of very many, is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Node {
    /// `metadata`.
    pub metadata: NodeMetadata,
    /// `status`.
    #[serde(default, deserialize_with = "or_default")]
    pub status: NodeStatus,
}

/// `metadata` of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeMetadata {
    /// Its name.
    pub name: String,
    /// Its version; empty in the pages of some lists.
    #[serde(default, deserialize_with = "or_default")]
    pub resource_version: String,
}

/// `status` of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeStatus {
    /// Its addresses, in its own order.
    #[serde(deserialize_with = "addresses")]
    pub addresses: Vec<NodeAddress>,
    /// The ports of its servers.
    #[serde(deserialize_with = "or_default")]
    pub daemon_endpoints: DaemonEndpoints,
    /// The features that it declares.
    #[serde(deserialize_with = "features")]
    pub declared_features: Vec<String>,
}

/// An address of a node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct NodeAddress {
    /// `Hostname`, `InternalIP` and others.
    #[serde(rename = "type")]
    pub kind: String,
    /// A name or an IP address.
    pub address: String,
}

/// The ports of a node's servers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DaemonEndpoints {
    /// The kubelet's.
    #[serde(deserialize_with = "or_default")]
    pub kubelet_endpoint: DaemonEndpoint,
}

/// The port of a server of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct DaemonEndpoint {
    /// Its number; 0 if it names none.
    #[serde(rename = "Port", deserialize_with = "or_default")]
    pub port: i32,
}

impl Node {
    /// Returns the kubelet's port, if it names one that there can be.
    #[must_use]
    pub fn kubelet_port(&self) -> Option<u16> {
        u16::try_from(self.status.daemon_endpoints.kubelet_endpoint.port)
            .ok()
            .filter(|&port| port > 0)
    }
}

fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<NodeAddress>, D::Error> {
    let mut all: Vec<NodeAddress> = bounded_list(deserializer)?;
    all.retain(|one| one.kind.len() <= NAME_BYTES && one.address.len() <= NAME_BYTES);
    all.truncate(ADDRESSES);
    all.shrink_to_fit();
    Ok(all)
}

fn features<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let mut all: Vec<String> = bounded_list(deserializer)?;
    all.retain(|one| one.len() <= NAME_BYTES);
    all.truncate(FEATURES);
    all.shrink_to_fit();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_is_its_addresses_its_port_and_its_features() {
        let node: Node = serde_json::from_value(json!({
            "kind": "Node",
            "metadata": {"name": "n", "resourceVersion": "7", "labels": {"a": "b"}},
            "spec": {"podCIDR": "10.0.0.0/24"},
            "status": {
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"},
                              {"type": "Hostname", "address": "h"}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": 1234}},
                "declaredFeatures": ["A", "B"], "images": [{"names": ["x"]}],
            },
        }))
        .unwrap();
        assert_eq!((&*node.metadata.name, &*node.metadata.resource_version), ("n", "7"));
        assert_eq!(node.kubelet_port(), Some(1234));
        assert_eq!(node.status.addresses[1].address, "h");
        assert_eq!(node.status.declared_features, ["A", "B"]);
    }

    #[test]
    fn what_is_not_there_is_nothing() {
        let bare = |object| serde_json::from_value::<Node>(object).unwrap();
        for node in [
            bare(json!({"metadata": {"name": "n"}})),
            bare(json!({"metadata": {"name": "n"}, "status": null})),
            bare(json!({"metadata": {"name": "n"}, "status": {"addresses": null,
                "daemonEndpoints": null, "declaredFeatures": null}})),
            bare(json!({"metadata": {"name": "n"}, "status": {"daemonEndpoints":
                {"kubeletEndpoint": {"Port": 0}}}})),
        ] {
            assert!(node.kubelet_port().is_none() && node.status.addresses.is_empty());
        }
        for port in [-1, 65536] {
            let node = bare(json!({"metadata": {"name": "n"}, "status": {"daemonEndpoints":
                {"kubeletEndpoint": {"Port": port}}}}));
            assert_eq!(node.kubelet_port(), None);
        }
    }

    #[test]
    fn a_node_cannot_have_very_much_kept_of_it() {
        let address = json!({"type": "InternalIP", "address": "10.0.0.1"});
        let long = json!({"type": "Hostname", "address": "h".repeat(254)});
        let mut addresses = vec![long; 2];
        addresses.extend(vec![address; 100]);
        let mut features = vec!["F".repeat(254)];
        features.extend(vec!["G".to_owned(); 1000]);
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n"},
            "status": {"addresses": addresses, "declaredFeatures": features}}))
        .unwrap();
        assert_eq!(node.status.addresses.len(), ADDRESSES);
        assert_eq!(node.status.addresses[0].kind, "InternalIP");
        assert_eq!(
            (node.status.declared_features.len(), &*node.status.declared_features[0]),
            (FEATURES, "G")
        );
    }
}
