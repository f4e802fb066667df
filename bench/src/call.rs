//! A call of the container runtime interface that only passes our socket, next to the same one
//! straight at containerd: the longest answer that a kubelet asks for again and again.

use std::collections::HashMap;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bowline_interop::cluster::{Cluster, RUNTIME_ALONE, our_face};
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

#[derive(Clone, PartialEq, Message)]
struct ListContainersResponse {
    #[prost(message, repeated, tag = "1")]
    containers: Vec<Container>,
}

/// Read to the last field, as a kubelet does it.
#[derive(Clone, PartialEq, Message)]
struct Container {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    pod_sandbox_id: String,
    #[prost(message, optional, tag = "3")]
    metadata: Option<Named>,
    #[prost(message, optional, tag = "4")]
    image: Option<Named>,
    #[prost(string, tag = "5")]
    image_ref: String,
    #[prost(int32, tag = "6")]
    state: i32,
    #[prost(int64, tag = "7")]
    created_at: i64,
    #[prost(map = "string, string", tag = "8")]
    labels: HashMap<String, String>,
    #[prost(map = "string, string", tag = "9")]
    annotations: HashMap<String, String>,
}

/// A container's metadata, or its image.
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

/// What one round took for each call, in milliseconds.
#[derive(Default)]
struct Round {
    wall: Vec<f64>,
    /// CPU of this program, containerd and our socket.
    cpu: [f64; 3],
}

pub fn run(runtime: &Runtime) -> Result<()> {
    let cluster = Cluster::behind(&our_face(&bowline()?, ""), &[RUNTIME_ALONE]);
    let face = format!("unix://{}", cluster.env("RUNTIME_ENDPOINT").trim_start_matches("unix://"));
    create_containers(&cluster)?;
    let id = |name: &str| cluster.id(name).as_raw_nonzero().get().cast_unsigned();
    let programs = [std::process::id(), id("containerd"), id("face")];
    let mut ways = ["straight", "through our socket"].map(|name| (name, Vec::new()));
    runtime.block_on(async {
        let mut clients = Vec::new();
        for endpoint in [&cluster.containerd(), &face] {
            let path = endpoint.trim_start_matches("unix://");
            let channel = Endpoint::try_from(format!("unix:{path}"))?.connect().await?;
            clients.push(Grpc::new(channel));
        }
        let answer = list(&mut clients[1]).await?;
        println!("### ListContainers, {} KB\n", answer.encoded_len() / 1000);
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
    println!("| way | p50 | p99 | CPU of the client | of containerd | of our socket | sum |");
    println!("|---|--:|--:|--:|--:|--:|--:|");
    let [straight, through] = ways.each_ref().map(|(name, rounds)| {
        let of = |what: &dyn Fn(&Round) -> f64| median(rounds.iter().map(what).collect());
        let [p50, p99] = [50, 99].map(|share| of(&|round| round.wall[CALLS * share / 100]));
        let [client, containerd, socket] = [0, 1, 2].map(|place| of(&|round| round.cpu[place]));
        let sum = of(&|round| round.cpu.iter().sum());
        let cpu = format!("{client:.2} | {containerd:.2} | {socket:.3} | {sum:.2}");
        println!("| {name} | {p50:.2} | {p99:.2} | {cpu} |");
        (p50, sum, socket)
    });
    println!(
        "\nOur socket makes a call {:.2} ms longer, and takes {:.1} % of what both ends take.\n",
        through.0 - straight.0,
        100.0 * through.2 / straight.1,
    );
}

/// Calls one after the other.
async fn round(client: &mut Grpc<Channel>, programs: [u32; 3]) -> Result<Round> {
    let used = || programs.iter().map(|&id| Ok(cpu(id)?.as_secs_f64())).collect::<Result<Vec<_>>>();
    let before = used()?;
    let mut round = Round::default();
    for _ in 0..CALLS {
        let begun = Instant::now();
        list(client).await?;
        round.wall.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    let now = used()?;
    round.cpu = [0, 1, 2].map(|place| (now[place] - before[place]) * 1000.0 / CALLS as f64);
    round.wall.sort_by(f64::total_cmp);
    Ok(round)
}

async fn list(client: &mut Grpc<Channel>) -> Result<ListContainersResponse> {
    client.ready().await?;
    let codec = ProstCodec::<ListContainersRequest, ListContainersResponse>::default();
    let (request, path) = (ListContainersRequest {}, PathAndQuery::from_static(METHOD));
    let answer = client.unary(Request::new(request), path, codec).await?.into_inner();
    let found = answer.containers.len();
    ensure!(found == CONTAINERS, "{found} containers of {CONTAINERS} are there");
    Ok(answer)
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
