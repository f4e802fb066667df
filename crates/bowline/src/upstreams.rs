//! Flags to the API servers behind a gateway, and to their gateways.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bowline_gateway::callers::passed::Passed;
use bowline_gateway::clusters::Clusters;
use bowline_gateway::components::Components;
use bowline_gateway::server;
use bowline_gateway::upstream::{ApiServer, FarCarrier};
use bowline_io::access::Source as _;
use bowline_io::auth::Authorizer;
use bowline_io::serve::Sessions;
use bowline_kube::api::Api;
use bowline_kube::credentials::Credentials;
use bowline_kube::kubeconfig::User;
use bowline_kube::reviews::AccessReviews;
use http::header::USER_AGENT;

use crate::args::gateway::Gateway;
use crate::args::upstream::Server;
use crate::cluster_access::{agent, env, server_of};
use crate::gateway_nodes;
use crate::node_access::REVIEW_PATIENCE;

/// Makes a gateway for each API server.
pub async fn clusters(asked: &Gateway, sessions: &Sessions) -> Result<Clusters> {
    let mut gateways = Vec::new();
    for server in &asked.upstreams.servers {
        let components = components(asked, server).await;
        let components = components.with_context(|| format!("--upstream {}", server.kubeconfig))?;
        let gateway = server::Gateway::new(components, asked.gates, sessions.clone());
        let gateway = gateway.living(asked.sessions.living);
        gateways.push((server.name.clone(), gateway));
    }
    Ok(Clusters::new(gateways))
}

async fn components(asked: &Gateway, server: &Server) -> Result<Components> {
    let (api, server) = api_server(server, asked.upstreams.carrier).await?;
    if let Some(nodes) = &asked.nodes {
        return gateway_nodes::components(asked, nodes, &api, server);
    }
    let asked = &asked.upstreams;
    let impersonators =
        asked.allow_impersonation.then(|| Arc::new(AccessReviews::new(api)) as Arc<dyn Authorizer>);
    let callers = Passed::new(server.clone(), asked.vouching, impersonators);
    Ok(Components {
        callers: Arc::new(callers),
        backend: Arc::new(server.clone()),
        rest: Arc::new(server),
    })
}

/// Makes what asks an API server as this gateway, and what passes requests on to it.
pub async fn api_server(server: &Server, carrier: FarCarrier) -> Result<(Api, Arc<ApiServer>)> {
    let resolved = server_of(&server.kubeconfig, server.context.as_ref())?;
    // It would be sent beside whom the gateway vouches for.
    if !resolved.user.impersonate.is_empty() {
        bail!("the user of the kubeconfig acts as another one (as), which an upstream's must not");
    }
    let url = resolved.server.clone();
    let mut bare = resolved.clone();
    bare.user = User::default();
    let bare = Arc::new(Credentials::new(bare, Arc::new(env), false)?);
    let own = Arc::new(Credentials::new(resolved, Arc::new(env), false)?);
    // What is wrong with them is said before anybody is served.
    own.access().await?;
    let headers = vec![(USER_AGENT, agent("bowline"))];
    let path = url.path().to_owned();
    let patience = REVIEW_PATIENCE;
    let passed_to = Arc::new(ApiServer::new(own.clone(), bare, &path, carrier));
    let kept = Some(passed_to.own_exchange());
    let api = Api { access: own, server: url, headers, patience, observer: None, kept };
    Ok((api, passed_to))
}
