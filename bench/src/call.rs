//! A call of the container runtime interface that only passes our socket, next to the same one
//! straight at containerd: the longest answer that a kubelet asks for again and again.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bowline_interop::cluster::{Cluster, RUNTIME_ALONE, our_face};
use bytes::Bytes;
use http::uri::PathAndQuery;
use prost::Message;
use tokio::runtime::Runtime;
use tonic::Request;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use crate::measure::{cpu, median, progress};
use crate::systems::bowline;

/// As many as two full nodes have.
const CONTAINERS: usize = 200;
/// Calls one after the other, in turns with the other way.
const CALLS: usize = 100;
const ROUNDS: usize = 15;
const METHOD: &str = "/runtime.v1.RuntimeService/ListContainers";

/// Asks for all containers.
#[derive(Clone, PartialEq, Message)]
struct ListContainersRequest {}

/// They are not looked into.
#[derive(Clone, PartialEq, Message)]
struct ListContainersResponse {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    containers: Vec<Bytes>,
}

/// What one round took for each call, in milliseconds.
#[derive(Default)]
struct Round {
    wall: Vec<f64>,
    containerd: f64,
    socket: f64,
}

pub fn run(runtime: &Runtime) -> Result<()> {
    let cluster = Cluster::behind(&our_face(&bowline()?, ""), &[RUNTIME_ALONE]);
    let face = format!("unix://{}", cluster.env("RUNTIME_ENDPOINT").trim_start_matches("unix://"));
    create_containers(&cluster)?;
    let programs =
        ["containerd", "face"].map(|name| cluster.id(name).as_raw_nonzero().get().cast_unsigned());
    let mut ways = ["straight", "through our socket"].map(|name| (name, Vec::new()));
    runtime.block_on(async {
        let mut clients = Vec::new();
        for endpoint in [&cluster.containerd(), &face] {
            let path = endpoint.trim_start_matches("unix://");
            let channel = Endpoint::try_from(format!("unix:{path}"))?.connect().await?;
            clients.push(Grpc::new(channel));
        }
        println!("### ListContainers, {} KB\n", length(&mut clients[1]).await? / 1000);
        for number in 0..=ROUNDS {
            progress(&format!("round {number} of {ROUNDS}"));
            for (client, (_, rounds)) in clients.iter_mut().zip(&mut ways) {
                let round = round(client, programs).await?;
                if number > 0 {
                    rounds.push(round);
                }
            }
        }
        progress("");
        anyhow::Ok(())
    })?;
    print(&ways);
    Ok(())
}

fn print(ways: &[(&str, Vec<Round>); 2]) {
    println!("Milliseconds for each of {CALLS} calls, medians of {ROUNDS} rounds\n");
    println!("| way | p50 | p99 | CPU of containerd | of our socket | sum |");
    println!("|---|--:|--:|--:|--:|--:|");
    let rows = ways.each_ref().map(|(name, rounds)| {
        let of = |what: &dyn Fn(&Round) -> f64| median(rounds.iter().map(what).collect());
        let [p50, p99] = [50, 99].map(|share| of(&|round| round.wall[CALLS * share / 100]));
        let (containerd, socket) = (of(&|round| round.containerd), of(&|round| round.socket));
        let sum = of(&|round| round.containerd + round.socket);
        println!("| {name} | {p50:.2} | {p99:.2} | {containerd:.2} | {socket:.3} | {sum:.2} |");
        (p50, sum, socket)
    });
    let [straight, through] = rows;
    println!(
        "\nOur socket takes {:.2} ms more, and {:.1} % of what containerd's CPU takes alone.\n",
        through.0 - straight.0,
        100.0 * through.2 / straight.1,
    );
}

/// Calls one after the other.
async fn round(client: &mut Grpc<Channel>, programs: [u32; 2]) -> Result<Round> {
    let used = || -> Result<[f64; 2]> {
        let [containerd, socket] = [cpu(programs[0])?, cpu(programs[1])?];
        Ok([containerd.as_secs_f64(), socket.as_secs_f64()])
    };
    let before = used()?;
    let mut round = Round::default();
    for _ in 0..CALLS {
        let begun = Instant::now();
        length(client).await?;
        round.wall.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    let now = used()?;
    let each = |place: usize| (now[place] - before[place]) * 1000.0 / CALLS as f64;
    (round.containerd, round.socket) = (each(0), each(1));
    round.wall.sort_by(f64::total_cmp);
    Ok(round)
}

/// Calls once; gives the bytes of the containers in the answer.
async fn length(client: &mut Grpc<Channel>) -> Result<usize> {
    client.ready().await?;
    let codec = ProstCodec::<ListContainersRequest, ListContainersResponse>::default();
    let (request, path) = (ListContainersRequest {}, PathAndQuery::from_static(METHOD));
    let answer = client.unary(Request::new(request), path, codec).await?.into_inner();
    let found = answer.containers.len();
    ensure!(found == CONTAINERS, "{found} containers of {CONTAINERS} are there");
    Ok(answer.containers.iter().map(Bytes::len).sum())
}

/// Containers of one pod, with all that a kubelet says of one. They need not run to be listed.
fn create_containers(cluster: &Cluster) -> Result<()> {
    let pod = cluster.path("pod.json");
    let uid = "11111111-2222-3333-4444-555555555555";
    std::fs::write(
        &pod,
        format!(
            r#"{{"metadata": {{"name": "box", "namespace": "default", "uid": "{uid}"}},
            "log_directory": "/tmp", "linux": {{}}}}"#
        ),
    )?;
    let crictl = |words: &[&str]| said(cluster.crictl(&cluster.containerd()).args(words));
    let pod = pod.to_string_lossy();
    let sandbox = crictl(&["runp", &pod])?;
    let container = cluster.path("container.json");
    for number in 0..CONTAINERS {
        progress(&format!("{number} of {CONTAINERS} containers"));
        std::fs::write(&container, container_of(uid, number))?;
        crictl(&["create", "--no-pull", &sandbox, &container.to_string_lossy(), &pod])?;
    }
    progress("");
    Ok(())
}

fn container_of(uid: &str, number: usize) -> String {
    format!(
        r#"{{"metadata": {{"name": "box-{number}"}}, "image": {{"image": "localhost/box:1"}},
        "command": ["sleep", "1"], "log_path": "box-{number}.log", "labels": {{
        "io.kubernetes.container.name": "box-{number}", "io.kubernetes.pod.name": "box",
        "io.kubernetes.pod.namespace": "default", "io.kubernetes.pod.uid": "{uid}"}},
        "annotations": {{"io.kubernetes.container.hash": "5bd9fc07",
        "io.kubernetes.container.restartCount": "0",
        "io.kubernetes.container.terminationMessagePath": "/dev/termination-log",
        "io.kubernetes.container.terminationMessagePolicy": "File",
        "io.kubernetes.pod.terminationGracePeriod": "30"}}}}"#
    )
}

/// The last line of a program's output.
fn said(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {stderr}");
    let stdout = String::from_utf8(output.stdout)?;
    Ok(stdout.lines().last().context("it says an id")?.to_owned())
}
