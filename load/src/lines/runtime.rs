//! Our node on a real container runtime, behind a real API server: as a socket in front of the
//! runtime's, which a real kubelet uses, and in the kubelet's place. Wants the real parts.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bowline_interop::cluster::{Cluster, only_child, our_face};
use bowline_proto::limits::PING_EVERY;
use rustix::process::Pid;
use tokio::task::{JoinSet, spawn_blocking};

use super::many::{each_as_process, open};
use super::{SETTLING, left, settle_process, warm_up};
use crate::client::Clients;
use crate::place::Place;
use crate::server::{Holds, LOOK_EVERY};
use crate::table::Row;

/// Sessions that wait beside each other.
const HELD_SESSIONS: usize = 200;
/// Commands, one after the other in ten rows.
const EXECS: usize = 1000;
/// What a session may hold in our node, beyond the process itself (design goal of the project).
const NODE_KIB: f64 = 64.0;
/// Until heartbeats have been, and what a start needed is given back.
const WAIT: Duration = Duration::from_secs(2 * PING_EVERY.as_secs());

/// A program on the way of a session.
#[derive(Clone, Copy)]
struct Program {
    name: &'static str,
    id: u32,
}

/// A real kubelet is pointed at our socket, and reaches containerd through it.
pub async fn behind_our_socket(place: &Place, row: &mut Row) -> Result<()> {
    let words = our_face(place.bowline(), "");
    let cluster = blocking(move || Cluster::behind(&words, &[])).await?;
    let clients = Clients::of_cluster(place.bowline(), &cluster)?;
    let socket = Program { name: "our socket", id: id(cluster.id("face")) };
    let others = ["kubelet", "containerd"].map(|name| Program { name, id: id(cluster.id(name)) });
    through(place, row, &clients, socket, &others).await?;
    blocking(move || drop(cluster)).await
}

/// Our node serves the API server in the kubelet's place. What sessions took in the kubelet and its
/// containerd is measured before.
pub async fn on_our_node(place: &Place, row: &mut Row) -> Result<()> {
    let cluster = blocking(|| Cluster::up(&[])).await?;
    let clients = Clients::of_cluster(place.bowline(), &cluster)?;
    let containerd = Program { name: "containerd", id: id(cluster.id("containerd")) };
    let kubelet = Program { name: "kubelet", id: id(cluster.id("kubelet")) };
    warm_up(&clients).await?;
    let alone = held(place, row, &clients, &[kubelet, containerd]).await?;
    row.note(format!("before it, KiB for each: {}", listed(&alone)));

    let bowline = place.bowline().to_owned();
    let (cluster, node) = blocking(move || {
        let node = cluster.in_the_kubelets_place(&bowline, &[]);
        (cluster, node)
    })
    .await?;
    let process = only_child(node.id()).context("the node runs")?;
    let ours = Program { name: "our node", id: id(process) };
    // containerd has memory now that it took for the sessions before.
    through(place, row, &clients, ours, &[]).await?;
    blocking(move || {
        node.stop_by(process);
        drop(cluster);
    })
    .await
}

/// Sessions at once, then commands; nothing of them may be left in our program.
async fn through(
    place: &Place,
    row: &mut Row,
    clients: &Clients,
    ours: Program,
    others: &[Program],
) -> Result<()> {
    warm_up(clients).await?;
    let before = quiet(ours.id).await?;
    row.begin();
    let all: Vec<Program> = [ours].into_iter().chain(others.iter().copied()).collect();
    let each = held(place, row, clients, &all).await?;
    row.at_most(&format!("{} per session", ours.name), each[0].1, NODE_KIB, "KiB");
    if !others.is_empty() {
        row.note(format!("beside it {}", listed(&each[1..])));
    }
    each_as_process(row, clients, place.count(EXECS)).await;
    row.end();
    let after = settle_process(ours.id, &before).await?;
    row.node_peak_kib = after.peak_kib;
    let left = left(&before, &after);
    row.baseline = Some(left.is_empty());
    for fault in left {
        row.fault(format!("{}: {fault}", ours.name));
    }
    Ok(())
}

/// Sessions that wait beside each other, to their end: what each takes in these programs, in KiB.
async fn held(
    place: &Place,
    row: &mut Row,
    clients: &Clients,
    programs: &[Program],
) -> Result<Vec<(&'static str, f64)>> {
    let count = place.count(HELD_SESSIONS);
    tokio::time::sleep(WAIT).await;
    let before = resident(programs)?;
    let mut running = JoinSet::new();
    let waiting = open(clients, count, true, &mut running).await?;
    tokio::time::sleep(WAIT).await;
    let during = resident(programs)?;
    drop(waiting);
    while let Some(done) = running.join_next().await {
        row.session(done.unwrap_or_else(|error| Err(error.to_string())));
    }
    let grown = during.iter().zip(before).map(|(now, before)| now.saturating_sub(before));
    let each = grown.map(|kib| kib as f64 / count as f64);
    Ok(programs.iter().map(|program| program.name).zip(each).collect())
}

fn resident(programs: &[Program]) -> Result<Vec<u64>> {
    programs.iter().map(|program| Ok(Holds::of(program.id)?.rss_kib)).collect()
}

fn listed(each: &[(&str, f64)]) -> String {
    let each: Vec<_> = each.iter().map(|(name, kib)| format!("{name} {kib:.0}")).collect();
    each.join(", ")
}

/// What a process holds once its descriptors do not change any more.
async fn quiet(id: u32) -> Result<Holds> {
    let deadline = Instant::now() + SETTLING;
    let mut last = Holds::of(id)?;
    loop {
        tokio::time::sleep(LOOK_EVERY * 4).await;
        let now = Holds::of(id)?;
        if now.descriptors == last.descriptors || Instant::now() > deadline {
            return Ok(now);
        }
        last = now;
    }
}

/// Runs what waits for programs, and says by a panic what is wrong with them.
async fn blocking<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    Ok(spawn_blocking(run).await?)
}

fn id(process: Pid) -> u32 {
    process.as_raw_nonzero().get().cast_unsigned()
}
