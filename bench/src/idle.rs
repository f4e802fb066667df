//! Memory of sessions that wait, in every program on their way.

use std::io::Read;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::measure::{kib, progress};
use crate::systems::System;

pub const SESSIONS: usize = 200;
/// Sessions before: every program has then what it needs once.
const WARM_UP: usize = 50;
/// Until heartbeats have been, and what a start needed is given back.
const SETTLING: Duration = Duration::from_secs(15);

pub fn run() -> Result<()> {
    println!("### Memory: KiB resident for each of {SESSIONS} sessions that wait\n");
    println!("| system | servers | a client, MiB |\n|---|---|--:|");
    for start in
        [System::kubernetes, System::behind_our_socket, System::on_our_node, System::bowline]
    {
        let system = start()?;
        let (grown, client) = each(&system, &[])?;
        let names = system.servers.iter().map(|(name, _)| name);
        let each: Vec<_> = names.zip(grown).map(|(name, kib)| format!("{name} {kib:.0}")).collect();
        println!("| {} | {} | {client:.1} |", system.name, each.join(", "));
    }
    println!();
    Ok(())
}

/// KiB of each server for each session that waits, with these flags of its client; and MiB of one
/// client.
pub fn each(system: &System, flags: &[&str]) -> Result<(Vec<f64>, f64)> {
    let many = open(system, flags, WARM_UP)?;
    end(many)?;
    sleep(SETTLING);
    let before = resident(system)?;
    let many = open(system, flags, SESSIONS)?;
    sleep(SETTLING);
    let now = resident(system)?;
    // What is its own: its program's text is a file's, and shared by all that run it.
    let client = kib(many[0].id(), "RssAnon")? / 1024.0;
    end(many)?;
    let grown = now.iter().zip(&before).map(|(now, before)| (now - before) / SESSIONS as f64);
    Ok((grown.collect(), client))
}

fn resident(system: &System) -> Result<Vec<f64>> {
    system.servers.iter().map(|(_, id)| kib(*id, "VmRSS")).collect()
}

/// Clients whose commands have begun and wait for their input's end.
fn open(system: &System, flags: &[&str], count: usize) -> Result<Vec<Child>> {
    let mut children = Vec::new();
    for number in 0..count {
        progress(&format!("{}: {number} of {count} sessions", system.name));
        let flags = [&["-i"], flags].concat();
        let mut client = system.exec(&flags, &["sh", "-c", "echo up; exec cat"]);
        let mut child = client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut up = [0; 3];
        child.stdout.as_mut().context("stdout is piped")?.read_exact(&mut up)?;
        children.push(child);
    }
    progress("");
    Ok(children)
}

fn end(children: Vec<Child>) -> Result<()> {
    for mut child in children {
        drop(child.stdin.take());
        let status = child.wait()?;
        ensure!(status.success(), "{status}");
    }
    Ok(())
}
