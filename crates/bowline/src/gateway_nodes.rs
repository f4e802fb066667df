//! Flags to a gateway in front of the nodes of an API server's cluster.

use std::sync::Arc;

use anyhow::Result;
use bowline_gateway::api_facts::ApiFacts;
use bowline_gateway::callers::checked::Checked;
use bowline_gateway::components::Components;
use bowline_gateway::files::policies::Policies;
use bowline_gateway::files::tokens::Tokens;
use bowline_gateway::nodes::{NodeChecks, Nodes};
use bowline_gateway::upstream::ApiServer;
use bowline_io::auth::in_order::{AlwaysAllow, Authorizers};
use bowline_io::auth::{Authenticator, Authorizer};
use bowline_kube::api::Api;
use bowline_kube::reviews::{AccessReviews, TokenReviews};

use crate::args::gateway::Gateway;
use crate::args::gateway_nodes::{GatewayNodes, Mode};
use crate::gateway::kubelet_tls;

/// Makes the components of a gateway that streams with nodes itself, and has all else to their API
/// server.
pub fn components(
    asked: &Gateway,
    nodes: &GatewayNodes,
    api: &Api,
    server: Arc<ApiServer>,
) -> Result<Components> {
    // As in kube-apiserver: without a CA, a certificate says nothing.
    let common_names = nodes.common_names && asked.kubelet_ca.is_some();
    let addresses = Some(Arc::new(nodes.addresses.clone()));
    let backend = Nodes {
        facts: Arc::new(ApiFacts::begin(api.clone())),
        address_types: asked.kubelet_preferred_address_types.clone(),
        tls: Some(kubelet_tls(asked)?),
        gates: asked.gates,
        checks: NodeChecks { addresses, common_names },
    };
    let tokens = asked.token_auth_file.as_deref().map(Tokens::read).transpose()?;
    let callers = Checked {
        authenticator: Arc::new(tokens.unwrap_or_default()),
        token_reviewer: nodes
            .token_reviews
            .then(|| -> Arc<dyn Authenticator> { Arc::new(TokenReviews::new(api.clone())) }),
        authorizer: authorizer(asked, nodes, api)?,
        vouching: Some(asked.upstreams.vouching),
    };
    Ok(Components {
        callers: Arc::new(callers),
        backend: Arc::new(backend),
        rest: Arc::new(server),
    })
}

fn authorizer(asked: &Gateway, nodes: &GatewayNodes, api: &Api) -> Result<Arc<dyn Authorizer>> {
    let mut all: Vec<Arc<dyn Authorizer>> = Vec::new();
    for mode in &nodes.modes {
        match mode {
            Mode::Webhook => all.push(Arc::new(AccessReviews::new(api.clone()))),
            Mode::AlwaysAllow => all.push(Arc::new(AlwaysAllow)),
            Mode::Abac => {
                let file = asked.authorization_policy_file.as_deref();
                let policies = file.map(Policies::read).transpose()?;
                all.push(Arc::new(policies.unwrap_or_default()));
            }
        }
    }
    Ok(Arc::new(Authorizers(all)))
}
