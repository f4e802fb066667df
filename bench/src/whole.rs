//! The whole way of a byte, and of a command: CPU of every program on it.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::measure::{cpu_of_ended, median, progress};
use crate::systems::System;

const ROUNDS: usize = 3;
const GB: f64 = 1e9;
/// Enough for some seconds of each.
const KUBERNETES_BYTES: u64 = 1 << 28;
const BOWLINE_BYTES: u64 = 1 << 30;
/// One command takes milliseconds: many are needed.
const COMMANDS: usize = 30;

/// One round's numbers.
#[derive(Clone, Debug, Default)]
pub struct Used {
    /// CPU seconds of each server, then of the client.
    pub cpu: Vec<f64>,
    pub wall: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Down,
    Up,
}

pub fn run() -> Result<()> {
    let systems = [
        System::kubernetes()?,
        System::behind_our_socket()?,
        System::on_our_node()?,
        System::bowline()?,
    ];
    let busybox = systems.iter().find_map(System::busybox);
    let busybox = busybox.context("Bowline's commands are busybox'")?.to_owned();
    for way in [Way::Down, Way::Up] {
        let what = if way == Way::Down { "download" } else { "upload" };
        println!("### The whole way, {what}: CPU seconds per GB, medians of {ROUNDS} rounds\n");
        let measure = |system: &System| transfer(system, way, &[], &busybox);
        table(&systems, measure, " MB/s", |wall| GB / wall / 1e6)?;
    }
    println!("### The whole way, one `exec true`: CPU milliseconds, medians of {ROUNDS} rounds\n");
    table(&systems, commands, " ms", |wall| wall)
}

/// Measures all in turns, and prints what each program used.
fn table(
    systems: &[System],
    measure: impl Fn(&System) -> Result<Used>,
    unit: &str,
    speed: impl Fn(f64) -> f64,
) -> Result<()> {
    let mut rounds: Vec<Vec<Used>> = vec![Vec::new(); systems.len()];
    for round in 0..=ROUNDS {
        progress(&format!("round {round} of {ROUNDS}"));
        for (system, found) in systems.iter().zip(&mut rounds) {
            let used = measure(system).with_context(|| system.name)?;
            if round > 0 {
                found.push(used);
            }
        }
    }
    progress("");
    println!("| system | programs | sum | speed |\n|---|---|--:|--:|");
    let mut sums = Vec::new();
    for (system, found) in systems.iter().zip(&rounds) {
        let names = system.servers.iter().map(|(name, _)| *name).chain([&*system.client.name]);
        let each = |place: usize| median(found.iter().map(|used| used.cpu[place]).collect());
        let programs: Vec<_> =
            names.enumerate().map(|(place, name)| format!("{name} {:.2}", each(place))).collect();
        let sum = median(found.iter().map(|used| used.cpu.iter().sum()).collect());
        let wall = median(found.iter().map(|used| used.wall).collect());
        sums.push((sum, wall));
        let (programs, speed) = (programs.join(", "), speed(wall));
        println!("| {} | {programs} | {sum:.2} | {speed:.0}{unit} |", system.name);
    }
    println!();
    for (system, (sum, wall)) in systems.iter().zip(&sums).skip(1) {
        let (cpu, wall) = (sum / sums[0].0, sums[0].1 / wall);
        println!("{}: {cpu:.3} of the CPU time, at {wall:.2} times the speed.", system.name);
    }
    println!();
    Ok(())
}

/// Moves bytes by a client with these flags; gives CPU seconds and seconds for each GB.
pub fn transfer(system: &System, way: Way, flags: &[&str], busybox: &Path) -> Result<Used> {
    let bytes = if system.name == "Bowline" { BOWLINE_BYTES } else { KUBERNETES_BYTES };
    let count = bytes.to_string();
    // The same source at both ends: 4 KiB at a time.
    let mut source = None;
    let mut client = match way {
        Way::Down => system.exec(flags, &["head", "-c", &count, "/dev/zero"]),
        Way::Up => {
            let mut client = system.exec(&[&["-i"], flags].concat(), &["wc", "-c"]);
            let mut head = Command::new(busybox);
            head.args(["head", "-c", &count, "/dev/zero"]).stdout(Stdio::piped());
            let head = source.insert(head.spawn()?);
            client.stdin(head.stdout.take().context("stdout is piped")?);
            client
        }
    };
    let taken = tempfile::NamedTempFile::new()?;
    match way {
        Way::Down => client.stdout(Stdio::piped()),
        Way::Up => client.stdout(File::create(taken.path())?),
    };
    let (servers, ended, begun) = (system.cpu()?, cpu_of_ended(), Instant::now());
    let mut child = client.spawn()?;
    if let Some(mut stdout) = child.stdout.take() {
        let received = std::io::copy(&mut stdout, &mut std::io::sink())?;
        ensure!(received == bytes, "{received} bytes of {bytes} came");
    }
    let status = child.wait()?;
    ensure!(status.success(), "{status}");
    let mut used = used(system, &servers, ended, begun)?;
    drop(client);
    if let Some(mut source) = source {
        source.wait()?;
    }
    if way == Way::Up {
        let said = std::fs::read_to_string(taken.path())?;
        ensure!(said.trim() == count, "{} bytes of {bytes} came", said.trim());
    }
    let scale = GB / bytes as f64;
    used.cpu.iter_mut().for_each(|seconds| *seconds *= scale);
    used.wall *= scale;
    Ok(used)
}

/// Runs commands one after the other; gives milliseconds for each.
fn commands(system: &System) -> Result<Used> {
    let (servers, ended, begun) = (system.cpu()?, cpu_of_ended(), Instant::now());
    for _ in 0..COMMANDS {
        let status = system.exec(&[], &["true"]).status()?;
        ensure!(status.success(), "{status}");
    }
    let mut used = used(system, &servers, ended, begun)?;
    let scale = 1000.0 / COMMANDS as f64;
    used.cpu.iter_mut().for_each(|seconds| *seconds *= scale);
    used.wall *= scale;
    Ok(used)
}

fn used(
    system: &System,
    servers: &[f64],
    ended: std::time::Duration,
    begun: Instant,
) -> Result<Used> {
    let wall = begun.elapsed().as_secs_f64();
    let now = system.cpu()?;
    let mut cpu: Vec<f64> = now.iter().zip(servers).map(|(now, before)| now - before).collect();
    cpu.push((cpu_of_ended() - ended).as_secs_f64());
    Ok(Used { cpu, wall })
}
