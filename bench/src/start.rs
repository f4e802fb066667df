//! What it takes to start a client, see a command through and end.
//! Above: `main`. Below: `systems`.

use std::time::Instant;

use anyhow::{Result, ensure};
use bowline_interop::client::Client;
use bowline_interop::parts::part;
use bowline_interop::server::Server;

use crate::measure::{cpu_of_ended, median};

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
    println!("| client | CPU, ms | wall, ms |\n|---|--:|--:|");
    let mut rows = Vec::new();
    for (client, (cpu, wall)) in clients.iter().zip(found) {
        let (cpu, wall) = (median(cpu), median(wall));
        println!("| {} | {cpu:.1} | {wall:.1} |", client.name);
        rows.push((cpu, wall));
    }
    let (cpu, wall) = (rows[0].0 / rows[1].0, rows[0].1 / rows[1].1);
    println!("\nbowline takes {cpu:.3} of the CPU time and {wall:.3} of the time.\n");
    Ok(())
}
