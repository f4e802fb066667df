//! A call of the container runtime interface that only passes our socket, next to the same one
//! straight at containerd: the longest answer that a kubelet asks for again and again.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};
use bowline_interop::cluster::{Cluster, RUNTIME_ALONE, our_face};
use bowline_interop::parts::part;

use crate::measure::{cpu, median, progress};
use crate::systems::bowline;

/// As many as two full nodes have.
const CONTAINERS: usize = 200;
/// Calls one after the other, in turns with the other way.
const CALLS: usize = 100;
const ROUNDS: usize = 15;

/// A kubelet's client: it reads each answer to its last field, as a kubelet does it.
struct Client {
    program: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

/// What one round took for each call, in milliseconds.
#[derive(Default)]
struct Round {
    wall: Vec<f64>,
    /// CPU of the client, containerd and our socket.
    cpu: [f64; 3],
}

pub fn run() -> Result<()> {
    let cluster = Cluster::behind(&our_face(&bowline()?, ""), &[RUNTIME_ALONE]);
    let face = format!("unix://{}", cluster.env("RUNTIME_ENDPOINT").trim_start_matches("unix://"));
    create_containers(&cluster)?;
    let id = |name: &str| cluster.id(name).as_raw_nonzero().get().cast_unsigned();
    let mut client = Client::start([&cluster.containerd(), &face])?;
    let programs = [client.program.id(), id("containerd"), id("face")];
    let mut ways = ["straight", "through our socket"].map(|name| (name, Vec::new()));
    for number in 0..=ROUNDS {
        progress(&format!("round {number} of {ROUNDS}"));
        for (place, (_, rounds)) in ways.iter_mut().enumerate() {
            let round = client.round(place, programs)?;
            if number > 0 {
                rounds.push(round);
            }
        }
    }
    progress("");
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

impl Client {
    fn start(endpoints: [&str; 2]) -> Result<Client> {
        let mut command = Command::new(part("calls/calls"));
        command.args(endpoints).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut program = command.spawn().context("the client starts")?;
        let stdin = program.stdin.take().context("it has stdin")?;
        let stdout = BufReader::new(program.stdout.take().context("it has stdout")?);
        Ok(Client { program, stdin, stdout })
    }

    /// Calls one after the other.
    fn round(&mut self, place: usize, programs: [u32; 3]) -> Result<Round> {
        let used =
            || programs.iter().map(|&id| Ok(cpu(id)?.as_secs_f64())).collect::<Result<Vec<_>>>();
        let before = used()?;
        writeln!(self.stdin, "{place} {CALLS}")?;
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        let now = used()?;
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let found = numbers.next().context("the client has ended")??;
        ensure!(found == CONTAINERS as u64, "{found} containers of {CONTAINERS} are there");
        let mut wall = numbers.map(|took| Ok(took? as f64 / 1e6)).collect::<Result<Vec<_>>>()?;
        ensure!(wall.len() == CALLS, "{} calls of {CALLS}", wall.len());
        wall.sort_by(f64::total_cmp);
        let cpu = [0, 1, 2].map(|place| (now[place] - before[place]) * 1000.0 / CALLS as f64);
        Ok(Round { wall, cpu })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
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
