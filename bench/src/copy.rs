//! A copy of one large file into a pod and out of it, next to kubectl's.

use std::fs;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bowline_interop::client::Client;
use bowline_interop::copy::noise_file;
use bowline_interop::parts::part;
use bowline_interop::server::Server;

use crate::measure::{cpu_of_ended, median, progress};

const ROUNDS: usize = 5;
/// Files are in memory: a disk has moods.
const PLACE: &str = "/dev/shm";
const BYTES: u64 = 1 << 30;

/// Both clients in turns against the same `bowline dev`.
pub fn run() -> Result<()> {
    let program = std::env::current_exe()?.with_file_name("bowline");
    let place = tempfile::tempdir_in(PLACE).context(PLACE)?;
    let path = |name: &str| place.path().join(name).to_string_lossy().into_owned();
    let kubeconfig = path("kubeconfig");
    let _dev = Server::dev(&program, &["--kubeconfig", &kubeconfig]);
    let client = |name, program| Client::new(name, program, &kubeconfig, &["nginx"]);
    let clients =
        [client("bowline", program), client("kubectl 1.37", part("kubectl/1.37/kubectl"))];
    let (source, target) = (path("source"), path("target"));
    noise_file(source.as_ref(), BYTES);
    println!("### A copy of 1 GiB, by `cp` at `bowline dev`: medians of {ROUNDS}\n");
    println!("| way | client | CPU, s | wall, s |\n|---|---|--:|--:|");
    let mut ratios = Vec::new();
    for (way, words) in [
        ("into the pod", [source.clone(), format!("nginx:{target}")]),
        ("out of it", [format!("nginx:{source}"), target.clone()]),
    ] {
        let mut found: [(Vec<f64>, Vec<f64>); 2] = Default::default();
        for round in 0..ROUNDS {
            for (client, (cpu, wall)) in clients.iter().zip(&mut found) {
                progress(&format!("{way}, {}, {} of {ROUNDS}", client.name, round + 1));
                let mut process = std::process::Command::new(&client.program);
                process.args(["cp", "--kubeconfig", &kubeconfig]).args(&words);
                process.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                let (ended, begun) = (cpu_of_ended(), Instant::now());
                let status = process.status()?;
                wall.push(begun.elapsed().as_secs_f64());
                cpu.push((cpu_of_ended() - ended).as_secs_f64());
                ensure!(status.success(), "{}: {status}", client.name);
                ensure!(fs::metadata(&target)?.len() == BYTES, "{}", client.name);
                fs::remove_file(&target)?;
            }
        }
        progress("");
        let rows = found.map(|(cpu, wall)| (median(cpu), median(wall)));
        for (client, (cpu, wall)) in clients.iter().zip(rows) {
            println!("| {way} | {} | {cpu:.2} | {wall:.2} |", client.name);
        }
        ratios.push((way, rows[0].0 / rows[1].0, rows[0].1 / rows[1].1));
    }
    println!();
    for (way, cpu, wall) in ratios {
        println!("{way}: bowline takes {cpu:.2} of the CPU time, {wall:.2} of the time.");
    }
    println!();
    Ok(())
}
