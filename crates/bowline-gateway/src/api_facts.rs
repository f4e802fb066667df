//! An API server's pods and nodes to facts: nodes are watched, a pod is asked for when a stream
//! names it.
//!
//! A pod comes out of the API server's cache first, and once more from behind it where the cache
//! would have a stream refused: it may not have what was made a moment ago. A node that is not
//! known, or not known to be so still, is asked for.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bowline_kube::api::Api;
use bowline_kube::nodes;
use bowline_kube::objects;
use bowline_kube::watch::{Watchable, Watched};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::time::timeout;

use crate::facts::{Answer, Facts, Node, NodeAddress, Pod, Unavailable};

/// How long an answer of the API server may take, with all that is tried again. One try has 10 s.
const PATIENCE: Duration = Duration::from_secs(12);
const JSON: &str = "application/json";

/// The facts of an API server.
pub struct ApiFacts {
    api: Api,
    nodes: Watched<WatchedNode>,
}

/// A node as it is kept.
#[derive(Debug, Deserialize)]
#[serde(from = "nodes::Node")]
struct WatchedNode {
    version: String,
    node: Arc<Node>,
}

/// Why an answer is none.
#[derive(Debug, Error)]
enum BadAnswer {
    /// There was none in time.
    #[error("the API server has not answered within {} s", PATIENCE.as_secs())]
    Late,
    /// It is about another object.
    #[error("the API server answers for {asked:?} with another object")]
    Other {
        /// The name that was asked for.
        asked: String,
    },
}

impl ApiFacts {
    /// Begins to follow an API server. The user of `api` may get pods, and get, list and watch
    /// nodes.
    #[must_use]
    pub fn begin(api: Api) -> ApiFacts {
        ApiFacts { nodes: Watched::begin(api.clone()), api }
    }

    async fn ask_for_pod(
        &self,
        namespace: &str,
        name: &str,
        query: &[(&str, &str)],
    ) -> Result<Option<Arc<Pod>>, Unavailable> {
        let path = ["api", "v1", "namespaces", namespace, "pods", name];
        let Some(pod) = self.get::<objects::Pod>(&path, query).await? else { return Ok(None) };
        // A name that means something in a path may have led elsewhere.
        if pod.metadata.name != name || pod.metadata.namespace != namespace {
            return Err(Unavailable::new(BadAnswer::Other { asked: name.to_owned() }));
        }
        Ok(Some(Arc::new(pod.into())))
    }

    async fn ask_for_node(&self, name: &str) -> Result<Option<Arc<Node>>, Unavailable> {
        let node = self.get::<WatchedNode>(&["api", "v1", "nodes", name], &[]).await?;
        match node {
            Some(WatchedNode { node, .. }) if node.name != name => {
                Err(Unavailable::new(BadAnswer::Other { asked: name.to_owned() }))
            }
            node => Ok(node.map(|node| node.node)),
        }
    }

    /// Gets an object; `None` if there is no such thing.
    async fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<Option<T>, Unavailable> {
        match timeout(PATIENCE, self.api.get(path, query, JSON)).await {
            Ok(Ok(object)) => Ok(Some(object)),
            Ok(Err(error)) if error.is_not_found() => Ok(None),
            Ok(Err(error)) => Err(Unavailable::new(error)),
            Err(_) => Err(Unavailable::new(BadAnswer::Late)),
        }
    }
}

impl fmt::Debug for ApiFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiFacts").field("api", &self.api).finish_non_exhaustive()
    }
}

impl Facts for ApiFacts {
    /// The nodes are known, and the API server has answered the last time.
    fn is_ready(&self) -> bool {
        self.nodes.is_connected()
    }

    fn pod<'a>(&'a self, namespace: &'a str, name: &'a str) -> Answer<'a, Option<Arc<Pod>>> {
        Box::pin(self.ask_for_pod(namespace, name, &[("resourceVersion", "0")]))
    }

    fn pod_now<'a>(&'a self, namespace: &'a str, name: &'a str) -> Answer<'a, Option<Arc<Pod>>> {
        Box::pin(self.ask_for_pod(namespace, name, &[]))
    }

    fn node<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Arc<Node>>> {
        Box::pin(async move {
            match self.nodes.get(name) {
                Ok(Some(known)) => Ok(Some(known.node.clone())),
                Ok(None) | Err(_) => self.ask_for_node(name).await,
            }
        })
    }
}

impl Watchable for WatchedNode {
    const PATH: &'static [&'static str] = &["api", "v1", "nodes"];

    fn name(&self) -> &str {
        &self.node.name
    }

    fn resource_version(&self) -> &str {
        &self.version
    }
}

impl From<nodes::Node> for WatchedNode {
    fn from(node: nodes::Node) -> WatchedNode {
        let kubelet_port = node.kubelet_port();
        let nodes::Node { metadata, status } = node;
        let address = |one: nodes::NodeAddress| NodeAddress { kind: one.kind, host: one.address };
        let node = Node {
            name: metadata.name,
            addresses: status.addresses.into_iter().map(address).collect(),
            kubelet_port,
            features: status.declared_features,
        };
        WatchedNode { version: metadata.resource_version, node: Arc::new(node) }
    }
}

impl From<objects::Pod> for Pod {
    fn from(pod: objects::Pod) -> Pod {
        let names = |containers: Vec<objects::Container>| {
            containers.into_iter().map(|container| container.name).collect()
        };
        Pod {
            name: pod.metadata.name,
            node: Some(pod.spec.node_name).filter(|node| !node.is_empty()),
            containers: names(pod.spec.containers),
            init_containers: names(pod.spec.init_containers),
            ephemeral_containers: names(pod.spec.ephemeral_containers),
        }
    }
}
