//! The service account of the pod in which this program runs, to a cluster and a user.

use std::path::Path;

use super::{Env, non_empty};
use crate::kubeconfig::{Cluster, User};

/// The API server and the service account of the pod in which this program runs.
pub(super) struct InCluster<'a> {
    server: String,
    account: &'a Path,
}

impl<'a> InCluster<'a> {
    /// Returns them if this program runs in a pod.
    pub(super) fn detect(env: Env<'_>, account: &'a Path) -> Option<InCluster<'a>> {
        let host = non_empty(env("KUBERNETES_SERVICE_HOST"))?;
        let port = non_empty(env("KUBERNETES_SERVICE_PORT"))?;
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let is_there = account.join("token").is_file();
        is_there.then(|| InCluster { server: format!("https://{host}:{port}"), account })
    }

    fn file(&self, name: &str) -> String {
        self.account.join(name).to_string_lossy().into_owned()
    }

    pub(super) fn cluster(&self) -> Cluster {
        let ca = self.account.join("ca.crt");
        let ca_file = if ca.is_file() { self.file("ca.crt") } else { String::new() };
        Cluster { server: self.server.clone(), ca_file, ..Cluster::default() }
    }

    pub(super) fn user(&self) -> User {
        User { token_file: self.file("token"), ..User::default() }
    }

    pub(super) fn namespace(&self, env: Env<'_>) -> Option<String> {
        non_empty(env("POD_NAMESPACE")).or_else(|| {
            let read = std::fs::read_to_string(self.account.join("namespace")).ok();
            non_empty(read.map(|text| text.trim().to_owned()))
        })
    }
}
