//! Flags to who may use a node, and how that is found out.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bowline_io::access::Source as _;
use bowline_io::auth::in_order::{AlwaysAllow, Authenticators, Authorizers, Certificates};
use bowline_io::auth::{Authenticator, Authorizer};
use bowline_kube::api::Api;
use bowline_kube::credentials::Credentials;
use bowline_kube::reviews::{AccessReviews, TokenReviews};
use bowline_node::kubelet::Access;
use http::header::USER_AGENT;
use tracing::warn;

use crate::args::node_access::{Authorization, NodeAccess};
use crate::cluster_access::{agent, env, server_of};

/// How long one question to an API server may take.
pub(crate) const REVIEW_PATIENCE: Duration = Duration::from_secs(10);

/// Makes of the flags who may use a node of this name. `None` is everybody who reaches it, where
/// nobody could be known.
pub async fn access(
    asked: &NodeAccess,
    asks_certificates: bool,
    node_name: &str,
) -> Result<Option<Access>> {
    if !asks_certificates && asked.kubeconfig.is_none() {
        return Ok(None);
    }
    let api = match &asked.kubeconfig {
        Some(file) => Some(api(file).await.with_context(|| format!("--kubeconfig {file}"))?),
        None => None,
    };
    let mut authenticators: Vec<Arc<dyn Authenticator>> = Vec::new();
    if asks_certificates {
        authenticators.push(Arc::new(Certificates));
    }
    if let Some(api) = api.clone().filter(|_| asked.token_reviews) {
        authenticators.push(Arc::new(TokenReviews::new(api)));
    }
    let mut authorizers: Vec<Arc<dyn Authorizer>> = Vec::new();
    if let Some(allowed) = &asked.allowed {
        authorizers.push(Arc::new(allowed.clone()));
    }
    match (asked.authorization, api) {
        (Authorization::AlwaysAllow, _) => authorizers.push(Arc::new(AlwaysAllow)),
        (Authorization::Webhook, Some(api)) => authorizers.push(Arc::new(AccessReviews::new(api))),
        (Authorization::Webhook, None) | (Authorization::Names, _) => {}
    }
    if asked.allow_get_streams {
        warn!(
            "--allow-get-streams: users who may only get nodes/proxy can run commands in all \
             containers of this node"
        );
    }
    Ok(Some(Access {
        authenticator: Arc::new(Authenticators(authenticators)),
        authorizer: Arc::new(Authorizers(authorizers)),
        node_name: node_name.to_owned(),
        allow_get_streams: asked.allow_get_streams,
    }))
}

/// The node's name: what was said, or this machine's name, as the kubelet makes one of it.
pub fn node_name(asked: &NodeAccess) -> String {
    let own = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    asked.node_name.clone().unwrap_or_else(own).trim().to_lowercase()
}

async fn api(file: &str) -> Result<Api> {
    let resolved = server_of(file, None)?;
    let server = resolved.server.clone();
    let access = Arc::new(Credentials::new(resolved, Arc::new(env), false)?);
    // What is wrong with them is said before anybody is served.
    access.access().await?;
    let headers = vec![(USER_AGENT, agent("bowline"))];
    Ok(Api { access, server, headers, patience: REVIEW_PATIENCE, observer: None, kept: None })
}
