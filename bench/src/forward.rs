//! A port-forward through client, gateway and node: how long one byte takes there and back, and
//! what a neighbour's stalled reader costs.

use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bowline_interop::client::Client;
use bowline_interop::forward::Forward;
use bowline_interop::forward::app::{App, drain};
use bowline_interop::server::Server;

use crate::measure::{median, progress};

const PINGS: usize = 5000;
const ROUNDS: usize = 5;
const NEIGHBOURS: usize = 50;
/// What each neighbour reads in one round.
const BYTES: u64 = 20_000_000;

pub fn run() -> Result<()> {
    let program = std::env::current_exe()?.with_file_name("bowline");
    let dev = Server::dev(&program, &[]);
    let client = Client::new("bowline", &program, &dev.kubeconfig(), &["nginx"]).forwarding();
    println!("### A port-forward: one byte there and back, {PINGS} times\n");
    println!("| way | p50 | p99 |");
    println!("|---|--:|--:|");
    for (name, client) in [("tunnel", client.clone()), ("SPDY", client.over_spdy())] {
        let app = App::start();
        let forward = Forward::start(&client, &[app.port]);
        let [p50, p99] = ping_pong(forward.ask(0, "echo"))?;
        println!("| {name} | {p50:.0} µs | {p99:.0} µs |");
    }
    println!("\n### {NEIGHBOURS} downloads at once, beside one that nobody reads\n");
    println!("| way | alone | beside it | of alone |");
    println!("|---|--:|--:|--:|");
    for (name, client) in [("tunnel", client.clone()), ("SPDY", client.over_spdy())] {
        let [alone, beside] = neighbours(&client)?;
        println!("| {name} | {alone:.0} MB/s | {beside:.0} MB/s | {:.2} |", beside / alone);
    }
    println!();
    Ok(())
}

fn ping_pong(mut socket: std::net::TcpStream) -> Result<[f64; 2]> {
    socket.set_nodelay(true)?;
    let mut took = Vec::with_capacity(PINGS);
    let mut byte = [0];
    for _ in 0..PINGS {
        let begun = Instant::now();
        socket.write_all(b"x")?;
        socket.read_exact(&mut byte)?;
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    let at = |share: usize| took.get(PINGS * share / 100).map(Duration::as_secs_f64);
    let micros = |share| at(share).map(|seconds| seconds * 1e6).context("pings were sent");
    Ok([micros(50)?, micros(99)?])
}

/// Megabytes per second of all neighbours, without and with the stalled one; in turns.
fn neighbours(client: &Client) -> Result<[f64; 2]> {
    let app = App::start();
    let forward = Forward::start(client, &[app.port]);
    let mut found = [Vec::new(), Vec::new()];
    for round in 0..=ROUNDS {
        for (which, found) in found.iter_mut().enumerate() {
            progress(&format!("round {round} of {ROUNDS}"));
            let mut stalled = (which == 1).then(|| forward.ask(0, "endless"));
            if let Some(stalled) = &mut stalled {
                stalled.read_exact(&mut [0])?;
            }
            let begun = Instant::now();
            let whole = thread::scope(|scope| {
                let read = || drain(&mut forward.ask(0, &format!("send {BYTES}")));
                let all: Vec<_> = (0..NEIGHBOURS).map(|_| scope.spawn(read)).collect();
                all.into_iter().all(|one| one.join().is_ok_and(|read| read.bytes == BYTES))
            });
            ensure!(whole, "a download was cut: {}", forward.stderr());
            let megabytes = (NEIGHBOURS as u64 * BYTES) as f64 / 1e6;
            // The first warms up.
            if round > 0 {
                found.push(megabytes / begun.elapsed().as_secs_f64());
            }
        }
    }
    progress("");
    Ok(found.map(median))
}
