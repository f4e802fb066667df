//! A kubeconfig, or a pod's own service account, to a [`Client`].

use std::path::Path;
use std::sync::Arc;

use bowline_kube::config::{self, ConfigError, Overrides};
use bowline_kube::credentials::{Credentials, CredentialsError};
use thiserror::Error;

use crate::access::{AccessError, Source};
use crate::client::Client;

/// Why no client can be made of a kubeconfig. Texts are kubectl's.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigureError {
    /// The kubeconfig or its context is missing or invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The kubeconfig's certificates, keys or credentials cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The credentials cannot be obtained, for example from their plugin.
    #[error(transparent)]
    Access(#[from] AccessError),
}

impl Client {
    /// Creates a client from what kubectl would use: the files in `KUBECONFIG` or `~/.kube/config`,
    /// and their current context; in a pod without them, its service account. Credentials are
    /// obtained here once, and again for each connection. Plugins get no terminal.
    ///
    /// # Errors
    /// [`ConfigureError`] if there is no configuration, it cannot be read, or there are no
    /// credentials.
    pub async fn try_default() -> Result<Client, ConfigureError> {
        let client = Client::configured(&Overrides::default(), Arc::new(env))?;
        client.access.access().await?;
        Ok(client)
    }

    /// Creates a client from one kubeconfig file and a context in it, by default its current one.
    /// Credentials are obtained only when the client connects.
    ///
    /// # Errors
    /// [`ConfigureError`] if there is no such file or context, or it cannot be read.
    pub fn from_kubeconfig(file: &Path, context: Option<&str>) -> Result<Client, ConfigureError> {
        let overrides = Overrides {
            kubeconfig: Some(file.to_string_lossy().into_owned()),
            context: context.map(ToOwned::to_owned),
            ..Overrides::default()
        };
        Client::configured(&overrides, Arc::new(env))
    }

    fn configured(overrides: &Overrides, env: Env) -> Result<Client, ConfigureError> {
        let resolved = config::resolve(overrides, &*env)?;
        let (server, namespace) = (resolved.server.clone(), resolved.namespace.clone());
        let access: Arc<dyn Source> = Arc::new(Credentials::new(resolved, env, false)?);
        Ok(Client::new(server, access, namespace))
    }
}

type Env = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_is_what_the_kubeconfig_says() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("config");
        let text = r#"{"current-context": "a", "contexts": [
            {"name": "a", "context": {"cluster": "c", "user": "u", "namespace": "ns"}},
            {"name": "b", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": "http://10.0.0.1:1/x"}}],
            "users": [{"name": "u", "user": {}}]}"#;
        std::fs::write(&file, text).unwrap();
        let path = file.to_str().unwrap().to_owned();
        let env = Arc::new(move |name: &str| (name == "KUBECONFIG").then(|| path.clone()));
        let client = Client::configured(&Overrides::default(), env).unwrap();
        let url = "http://10.0.0.1:1/x/api/v1/namespaces/ns/pods/p/portforward";
        assert_eq!(client.port_forward("p").url().as_str(), url);
        let other = Client::from_kubeconfig(&file, Some("b")).unwrap();
        assert!(other.port_forward("p").url().path().contains("/namespaces/default/"));
        let missing = Client::from_kubeconfig(&file, Some("none")).unwrap_err().to_string();
        assert!(missing.contains("context was not found"), "{missing}");
        assert!(Client::from_kubeconfig(&place.path().join("none"), None).is_err());
    }
}
