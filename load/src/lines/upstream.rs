//! Sessions through a gateway before a real API server, on a node of ours in the kubelet's place:
//! what they take in the two programs above it is wanted, and a thousand commands of a container
//! runtime would take most of the machine. Wants the real parts.

use std::time::Duration;

use anyhow::{Context, Result};
use bowline_interop::cluster::Cluster;
use bowline_proto::limits::PING_EVERY;
use tokio::task::{JoinSet, spawn_blocking};

use super::many::{Waiting, each_opened_and_closed, open, open_at_once};
use super::{Baseline, finish_within, warm};
use crate::client::Clients;
use crate::place::{IDLE, Place, Roles, pod};
use crate::server::{Holds, Server};
use crate::table::Row;

/// Requests for upgrades at once.
const UPGRADES: usize = 500;
const HELD_SESSIONS: usize = 1000;
const OPENED_AND_CLOSED: usize = 20_000;
/// A session, beyond the process itself (design goal of the project).
const GATEWAY_KIB: f64 = 32.0;
/// A gateway keeps connections to its API server for a minute after their last use, and looks at
/// them as often.
const SETTLING: Duration = Duration::from_secs(150);
/// Until heartbeats have been, and what a start needed is given back.
const WAIT: Duration = Duration::from_secs(2 * PING_EVERY.as_secs());

/// A gateway before a real API server, and what it holds once it has served a few sessions.
pub struct Front {
    pub cluster: Cluster,
    pub clients: Clients,
    roles: Roles,
    before: Baseline,
}

impl Front {
    pub async fn start(place: &Place) -> Result<Front> {
        let tokens = format!("--token-auth-file={}", place.path("tokens.csv").display());
        let cluster = spawn_blocking(move || {
            Cluster::up(&[("NO_KUBELET", "1"), ("APISERVER_ARGS", &tokens)])
        })
        .await?;
        let node = place.start_kubelet(&cluster)?;
        let cluster = declared(cluster, &node).await?;
        let gateway = place.start_upstream(&cluster)?;
        let (roles, clients, before) = warm(place, Roles { node, gateway }).await?;
        Ok(Front { cluster, clients, roles, before })
    }

    /// Looks whether gateway and node are as they were, and ends all.
    pub async fn finish(self, row: &mut Row) -> Result<()> {
        let Front { cluster, clients, roles, before } = self;
        drop(clients);
        finish_within(row, roles, before, SETTLING).await?;
        Ok(spawn_blocking(move || drop(cluster)).await?)
    }

    /// What gateway, node and API server have in memory.
    fn resident(&self) -> Result<[u64; 3]> {
        let server = self.cluster.id("kube-apiserver").as_raw_nonzero().get().cast_unsigned();
        let ids = [self.roles.gateway.id(), self.roles.node.id(), server];
        let [gateway, node, server] = ids.map(|id| Holds::of(id).map(|holds| holds.rss_kib));
        Ok([gateway?, node?, server?])
    }
}

/// Tells the cluster of the node, which takes WebSockets as a kubelet of the server's age does, and
/// of its pod.
async fn declared(cluster: Cluster, node: &Server) -> Result<Cluster> {
    let node = format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: node}}\nstatus: {{addresses: [{{type: \
         Hostname, address: 127.0.0.1}}], declaredFeatures: [ExtendWebSocketsToKubelet], \
         daemonEndpoints: {{kubeletEndpoint: {{Port: {}}}}}}}\n",
        node.port
    );
    let pod = pod(IDLE);
    Ok(spawn_blocking(move || {
        cluster.apply(&node);
        cluster.apply(&pod);
        cluster
    })
    .await?)
}

/// Waits for the ends of sessions that were told to end.
async fn ends(row: &mut Row, waiting: Vec<Waiting>, mut running: JoinSet<Result<(), String>>) {
    drop(waiting);
    while let Some(done) = running.join_next().await {
        row.session(done.unwrap_or_else(|error| Err(error.to_string())));
    }
}

pub async fn upgrades(place: &Place, row: &mut Row) -> Result<()> {
    let front = Front::start(place).await?;
    row.begin();
    let (count, mut running) = (place.count(UPGRADES), JoinSet::new());
    let waiting = open_at_once(&front.clients, count, count, true, &mut running).await?;
    row.note(format!("all up after {:.1} s", row.wall().as_secs_f64()));
    ends(row, waiting, running).await;
    front.finish(row).await
}

pub async fn held(place: &Place, row: &mut Row) -> Result<()> {
    let front = Front::start(place).await?;
    tokio::time::sleep(WAIT).await;
    let before = front.resident()?;
    row.begin();
    let (count, mut running) = (place.count(HELD_SESSIONS), JoinSet::new());
    let waiting = open(&front.clients, count, true, &mut running).await?;
    tokio::time::sleep(WAIT).await;
    let during = front.resident()?;
    let [gateway, node, server] =
        [0, 1, 2].map(|of| during[of].saturating_sub(before[of]) as f64 / count as f64);
    row.at_most("gateway per session", gateway, GATEWAY_KIB, "KiB");
    row.note(format!("in the same run API server {server:.1} KiB, our node {node:.1} KiB"));
    ends(row, waiting, running).await;
    front.finish(row).await
}

pub async fn opened_and_closed(place: &Place, row: &mut Row) -> Result<()> {
    let front = Front::start(place).await?;
    row.begin();
    each_opened_and_closed(row, &front.clients, place.count(OPENED_AND_CLOSED)).await;
    front.finish(row).await.context("after the sessions")
}
