//! What it takes to start a client, see a command through and end.

use std::io::Read;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bowline_interop::client::Client;
use bowline_interop::parts::part;
use bowline_interop::server::Server;

use crate::measure::{cpu_of_ended, kib, median};

const ROUNDS: usize = 21;

/// Both clients in turns against the same `bowline dev`.
pub fn run() -> Result<()> {
    let program = std::env::current_exe()?.with_file_name("bowline");
    let place = tempfile::tempdir()?;
    let kubeconfig = place.path().join("kubeconfig").to_string_lossy().into_owned();
    let _dev = Server::dev(&program, &["--kubeconfig", &kubeconfig]);
    let client = |name, program| Client::new(name, program, &kubeconfig, &["nginx"]);
    let clients =
        [client("bowline", program), client("kubectl 1.37", part("kubectl/1.37/kubectl"))];
    let mut found: [(Vec<f64>, Vec<f64>); 2] = Default::default();
    for _ in 0..ROUNDS {
        for (client, (cpu, wall)) in clients.iter().zip(&mut found) {
            let (ended, begun) = (cpu_of_ended(), Instant::now());
            let status = client.process(&[], &["true"]).status()?;
            wall.push(begun.elapsed().as_secs_f64() * 1000.0);
            cpu.push((cpu_of_ended() - ended).as_secs_f64() * 1000.0);
            ensure!(status.success(), "{}: {status}", client.name);
        }
    }
    println!("### A client's `exec … true` at `bowline dev`: medians of {ROUNDS}\n");
    println!("| client | CPU, ms | wall, ms | peak memory, MiB |\n|---|--:|--:|--:|");
    let mut rows = Vec::new();
    for (client, (cpu, wall)) in clients.iter().zip(found) {
        let (cpu, wall, memory) = (median(cpu), median(wall), peak(client)?);
        println!("| {} | {cpu:.1} | {wall:.1} | {memory:.1} |", client.name);
        rows.push([cpu, wall, memory]);
    }
    let [cpu, wall, memory] = [0, 1, 2].map(|place: usize| rows[0][place] / rows[1][place]);
    println!("\nbowline takes {cpu:.3} of the CPU time, {wall:.3} of the time, {memory:.3} of the");
    println!("memory.\n");
    Ok(())
}

/// The most that a client was resident with once its command runs.
fn peak(client: &Client) -> Result<f64> {
    let mut process = client.process(&["-i"], &["sh", "-c", "echo up; exec cat"]);
    let mut child = process.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut up = [0; 3];
    child.stdout.as_mut().context("stdout is piped")?.read_exact(&mut up)?;
    let peak = kib(child.id(), "VmHWM")? / 1024.0;
    drop(child.stdin.take());
    ensure!(child.wait()?.success(), "{}", client.name);
    Ok(peak)
}
