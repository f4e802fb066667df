//! Who may do everything here, by name or by group.
//!
//! For a node that has no API server to ask: it knows those in front of it by name. A CA that signs
//! API servers often signs users as well, and who may run commands on a node may do everything
//! there.

use std::future::ready;

use super::{Answer, Attributes, Authorizer, Decision, MASTERS, User};

/// The common name of an API server's certificate for kubelets, as kubeadm and others make it.
pub const API_SERVER: &str = "kube-apiserver-kubelet-client";

/// Those who may do everything. Default: [`API_SERVER`] by name, [`MASTERS`] by group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedClients {
    /// Their names: the common names of their certificates.
    pub names: Vec<String>,
    /// Groups, one of which is enough: the organizations of their certificates.
    pub groups: Vec<String>,
}

impl Default for AllowedClients {
    fn default() -> AllowedClients {
        AllowedClients { names: vec![API_SERVER.into()], groups: vec![MASTERS.into()] }
    }
}

impl AllowedClients {
    fn contains(&self, user: &User) -> bool {
        self.names.contains(&user.name)
            || self.groups.iter().any(|group| user.groups.contains(group))
    }
}

impl Authorizer for AllowedClients {
    fn authorize<'a>(&'a self, user: &'a User, _: &'a Attributes) -> Answer<'a, Decision> {
        let decision = if self.contains(user) {
            Decision::Allow
        } else {
            Decision::NoOpinion { reason: String::new() }
        };
        Box::pin(ready(Ok(decision)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_named_is_let_in() {
        let user = |name: &str, groups: &[&str]| {
            User::new(name, groups.iter().map(|&group| group.to_owned()))
        };
        let default = AllowedClients::default();
        assert!(default.contains(&user(API_SERVER, &[])));
        assert!(default.contains(&user("system:apiserver", &["x", MASTERS])));
        assert!(!default.contains(&user("jane", &["users"])));
        assert!(!default.contains(&user(MASTERS, &[API_SERVER])));
        let own = AllowedClients { names: vec!["gw".into()], groups: Vec::new() };
        assert!(own.contains(&user("gw", &[])));
        assert!(!own.contains(&user(API_SERVER, &[MASTERS])));
    }
}
