//! kubectl's global flags, and what they change in a kubeconfig's entries.

use secrecy::SecretString;

use crate::kubeconfig::{Cluster, Key, User};

/// kubectl's global flags, as far as they choose a cluster and a user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--kubeconfig`: this file alone; it must exist.
    pub kubeconfig: Option<String>,
    /// `--context`.
    pub context: Option<String>,
    /// `--cluster`.
    pub cluster: Option<String>,
    /// `--user`.
    pub user: Option<String>,
    /// `--namespace`.
    pub namespace: Option<String>,
    /// `--server`.
    pub server: Option<String>,
    /// `--tls-server-name`.
    pub tls_server_name: Option<String>,
    /// `--insecure-skip-tls-verify`.
    pub insecure_skip_tls_verify: Option<bool>,
    /// `--certificate-authority`.
    pub certificate_authority: Option<String>,
    /// `--client-certificate`.
    pub client_certificate: Option<String>,
    /// `--client-key`.
    pub client_key: Option<String>,
    /// `--token`.
    pub token: Option<String>,
    /// `--username`.
    pub username: Option<String>,
    /// `--password`.
    pub password: Option<String>,
    /// `--as`.
    pub impersonate: Option<String>,
    /// `--as-group`.
    pub impersonate_groups: Vec<String>,
    /// `--as-uid`.
    pub impersonate_uid: Option<String>,
    /// `--as-user-extra`, `key=value` each.
    pub impersonate_extra: Vec<String>,
}

impl Overrides {
    /// Puts what the flags say about the cluster over its entry.
    pub(super) fn apply_to_cluster(&self, cluster: &mut Cluster) {
        if let Some(server) = &self.server {
            cluster.server.clone_from(server);
            // A name that was meant for another server says nothing about this one.
            cluster.tls_server_name.clear();
        }
        if let Some(name) = &self.tls_server_name {
            cluster.tls_server_name.clone_from(name);
        }
        let insecure = self.insecure_skip_tls_verify;
        if insecure == Some(true) || self.certificate_authority.is_some() {
            cluster.ca_data.clear();
            cluster.ca_file = self.certificate_authority.clone().unwrap_or_default();
            cluster.insecure = insecure.unwrap_or_default();
        }
        if let Some(insecure) = insecure {
            cluster.insecure = insecure;
        }
    }

    /// Puts what the flags say about the user over its entry. A way to authenticate on the command
    /// line replaces those of the file.
    pub(super) fn apply_to_user(&self, user: &mut User) {
        let basic = self.username.is_some() || self.password.is_some();
        if self.token.is_some() || basic {
            (user.exec, user.auth_provider) = (None, None);
            user.token_file.clear();
            user.token = SecretString::from(self.token.clone().unwrap_or_default());
        }
        if self.token.is_some() && !basic {
            user.username.clear();
            user.password = SecretString::default();
        }
        if let Some(name) = &self.username {
            user.username.clone_from(name);
        }
        if let Some(password) = &self.password {
            user.password = SecretString::from(password.clone());
        }
        if let Some(certificate) = &self.client_certificate {
            user.certificate_file.clone_from(certificate);
            user.certificate_data.clear();
        }
        if let Some(key) = &self.client_key {
            user.key_file.clone_from(key);
            user.key_data = Key::default();
        }
        if let Some(name) = &self.impersonate {
            user.impersonate.clone_from(name);
        }
        if let Some(uid) = &self.impersonate_uid {
            user.impersonate_uid.clone_from(uid);
        }
        if !self.impersonate_groups.is_empty() {
            user.impersonate_groups.clone_from(&self.impersonate_groups);
        }
        for pair in &self.impersonate_extra {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = value.to_owned();
            match user.impersonate_extra.iter_mut().find(|known| known.0 == key) {
                Some(known) => known.1.push(value),
                None => user.impersonate_extra.push((key.to_owned(), vec![value])),
            }
        }
    }
}
