//! Whose certificates open a node: a client's identity to yes or no.
//!
//! A kubelet asks an API server about each request. A node here knows those in front of it by name:
//! a CA that signs API servers often signs users as well, and who may run commands on a node may do
//! everything there.

use bowline_io::tls::PeerIdentity;

/// The common name of an API server's certificate for kubelets, as kubeadm and others make it.
pub const API_SERVER: &str = "kube-apiserver-kubelet-client";
/// Those who may do everything in a cluster in any case.
pub const MASTERS: &str = "system:masters";

/// Those who may use a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// By common name.
    pub names: Vec<String>,
    /// By organization.
    pub groups: Vec<String>,
}

impl Default for Admitted {
    fn default() -> Admitted {
        Admitted { names: vec![API_SERVER.into()], groups: vec![MASTERS.into()] }
    }
}

impl Admitted {
    /// Whether this one may.
    #[must_use]
    pub fn admits(&self, identity: &PeerIdentity) -> bool {
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
        let default = Admitted::default();
        assert!(default.admits(&identity(API_SERVER, &[])));
        assert!(default.admits(&identity("system:apiserver", &["x", MASTERS])));
        assert!(!default.admits(&identity("jane", &["users"])));
        assert!(!default.admits(&identity(MASTERS, &[API_SERVER])));
        let own = Admitted { names: vec!["gw".into()], groups: Vec::new() };
        assert!(own.admits(&identity("gw", &[])));
        assert!(!own.admits(&identity(API_SERVER, &[MASTERS])));
    }
}
