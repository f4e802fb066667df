//! A kubeconfig, or a pod's own service account, to a [`Client`].

use std::path::Path;
use std::sync::Arc;

use bowline_kube::config::{self, ConfigError, Overrides};
use bowline_kube::credentials::{Credentials, CredentialsError};
use thiserror::Error;

use crate::access::{AccessError, Source};
use crate::client::Client;

/// Why a kubeconfig makes no client, in kubectl's words.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigureError {
    /// What it says, or that it is not there.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its certificates, keys or credentials cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// There are no credentials now.
    #[error(transparent)]
    Access(#[from] AccessError),
}

impl Client {
    /// A client for what kubectl would take: the files in `KUBECONFIG`, or `~/.kube/config`, and
    /// their current context; in a pod without them, the pod's service account. Credentials are
    /// read, and plugins run, for each connection; here, it is tried once. No plugin is given a
    /// terminal.
    ///
    /// # Errors
    /// [`ConfigureError`] if there is no such file, it cannot be read, or there are no credentials.
    pub async fn try_default() -> Result<Client, ConfigureError> {
        let client = Client::configured(&Overrides::default())?;
        client.access.access().await?;
        Ok(client)
    }

    /// A client for one kubeconfig file and a context of it, or its current one. Whether there are
    /// credentials is seen when they are used.
    ///
    /// # Errors
    /// [`ConfigureError`] if there is no such file or context, or it cannot be read.
    pub fn from_kubeconfig(file: &Path, context: Option<&str>) -> Result<Client, ConfigureError> {
        Client::configured(&Overrides {
            kubeconfig: Some(file.to_string_lossy().into_owned()),
            context: context.map(ToOwned::to_owned),
            ..Overrides::default()
        })
    }

    fn configured(overrides: &Overrides) -> Result<Client, ConfigureError> {
        let env = |name: &str| std::env::var(name).ok();
        let chosen = config::choose(overrides, &env)?;
        let (server, namespace) = (chosen.server.clone(), chosen.namespace.clone());
        let access: Arc<dyn Source> = Arc::new(Credentials::new(chosen, Arc::new(env), false)?);
        Ok(Client::new(server, access, namespace))
    }
}
