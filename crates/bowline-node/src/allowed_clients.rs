//! Which clients may use a node: the identity of a client's certificate to yes or no.
//!
//! A kubelet asks an API server about each request. A node here knows those in front of it by name:
//! a CA that signs API servers often signs users as well, and who may run commands on a node may do
//! everything there.

use bowline_io::tls::PeerIdentity;

/// The common name of an API server's certificate for kubelets, as kubeadm and others make it.
pub const API_SERVER: &str = "kube-apiserver-kubelet-client";
/// The group that may do everything in a cluster in any case.
pub const MASTERS: &str = "system:masters";

/// The clients that may use a node. Default: [`API_SERVER`] by name, [`MASTERS`] by group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedClients {
    /// The common names of their certificates.
    pub names: Vec<String>,
    /// The organizations of their certificates, one of which is enough.
    pub groups: Vec<String>,
}

impl Default for AllowedClients {
    fn default() -> AllowedClients {
        AllowedClients { names: vec![API_SERVER.into()], groups: vec![MASTERS.into()] }
    }
}

impl AllowedClients {
    /// Returns whether a client of this identity may use the node.
    #[must_use]
    pub fn contains(&self, identity: &PeerIdentity) -> bool {
        self.names.contains(&identity.user)
            || self.groups.iter().any(|group| identity.groups.contains(group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_named_is_let_in() {
        let identity = |user: &str, groups: &[&str]| PeerIdentity {
            user: user.into(),
            groups: groups.iter().map(|&group| group.into()).collect(),
        };
        let default = AllowedClients::default();
        assert!(default.contains(&identity(API_SERVER, &[])));
        assert!(default.contains(&identity("system:apiserver", &["x", MASTERS])));
        assert!(!default.contains(&identity("jane", &["users"])));
        assert!(!default.contains(&identity(MASTERS, &[API_SERVER])));
        let own = AllowedClients { names: vec!["gw".into()], groups: Vec::new() };
        assert!(own.contains(&identity("gw", &[])));
        assert!(!own.contains(&identity(API_SERVER, &[MASTERS])));
    }
}
