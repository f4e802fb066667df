//! Which pods and nodes there are, as far as a stream has to know. The types are small: a source
//! converts its own form of a pod or node to them once, when it learns of it.

use std::fmt::Debug;
use std::sync::Arc;

pub use bowline_io::auth::{Answer, Unavailable};

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// The name of its node, once it has one.
    pub node: Option<String>,
    /// The names of its containers.
    pub containers: Vec<String>,
    /// The names of its init containers.
    pub init_containers: Vec<String>,
    /// The names of its ephemeral containers.
    pub ephemeral_containers: Vec<String>,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its addresses, in its own order.
    pub addresses: Vec<NodeAddress>,
    /// The kubelet's port, where it names one.
    pub kubelet_port: Option<u16>,
    /// The features that it declares.
    pub features: Vec<String>,
}

/// An address of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// `Hostname`, `InternalIP` and others.
    pub kind: String,
    /// A name or an IP address.
    pub host: String,
}

/// Says which pods and nodes there are. That there is none of a name is an answer; that the source
/// cannot be asked is [`Unavailable`].
pub trait Facts: Debug + Send + Sync {
    /// Returns whether the source has them, and answers.
    fn is_ready(&self) -> bool {
        true
    }

    /// Returns the pod of this name, if there is one.
    ///
    /// # Errors
    /// [`Unavailable`] if that cannot be found out now.
    fn pod<'a>(&'a self, namespace: &'a str, name: &'a str) -> Answer<'a, Option<Arc<Pod>>>;

    /// Returns the pod of this name as it is at this moment, where [`pod`](Self::pod) may be a
    /// little behind.
    ///
    /// # Errors
    /// [`Unavailable`] if that cannot be found out now.
    fn pod_now<'a>(&'a self, namespace: &'a str, name: &'a str) -> Answer<'a, Option<Arc<Pod>>> {
        self.pod(namespace, name)
    }

    /// Returns the node of this name, if there is one.
    ///
    /// # Errors
    /// [`Unavailable`] if that cannot be found out now.
    fn node<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Arc<Node>>>;
}
