//! Which pods and nodes there are, as far as a stream has to know: small types, whatever says so.
//! A source reads its own form of them once, at its border.

use std::fmt::Debug;
use std::sync::Arc;

pub use bowline_io::auth::{Answer, Unavailable};

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// The node that it is on, once it is on one.
    pub node: Option<String>,
    /// The names of its containers.
    pub containers: Vec<String>,
    /// The names of those that run before them, or beside.
    pub init_containers: Vec<String>,
    /// The names of those that were added to look at the others.
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

/// Says which pods and nodes there are. That one is absent is an answer; that the source cannot be
/// asked is [`Unavailable`].
pub trait Facts: Debug + Send + Sync {
    /// The pod of this name, if there is one.
    ///
    /// # Errors
    /// [`Unavailable`] if that cannot be found out now.
    fn pod<'a>(&'a self, namespace: &'a str, name: &'a str) -> Answer<'a, Option<Arc<Pod>>>;

    /// The node of this name, if there is one.
    ///
    /// # Errors
    /// [`Unavailable`] if that cannot be found out now.
    fn node<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Arc<Node>>>;
}
