//! `cargo x bench [WHAT…]`: what a session costs, next to what it costs elsewhere, in one run.
//!
//! Only ratios are compared: a number of another machine, or of another hour, says nothing here.

mod call;
mod copy;
mod ends;
mod fields;
mod forward;
mod hop;
mod idle;
mod keep;
mod measure;
mod part;
mod request;
mod start;
mod systems;
mod whole;

use std::process::ExitCode;

use anyhow::{Result, bail};

const HELP: &str = "\
Usage: cargo x bench [WHAT…]

  hop    one relay: WebSocket in, SPDY out and back, next to a raw copy and the Go handlers
  tunnel the same for a port-forward's tunnel
  forward  a port-forward through client, gateway and node: the way of one byte, and what one
         stalled reader costs fifty neighbours
  whole  client, gateway and node, next to kubectl, API server, kubelet and containerd, and next to
         those with our socket in front of containerd or our node in the kubelet's place
  call   what a call that only passes our socket costs more than one straight at containerd
  request  what a plain request costs through our gateway more than straight at an API server, next
         to HAProxy, and how many there are in a second
  idle   memory of a session that waits, in each of them
  keep   `exec --keep` next to the same command without it
  copy   a copy of 1 GiB into a pod and out of it, next to kubectl
  start  what a client takes for `exec … true`, next to kubectl
  code   instructions per MiB of every codec and of the relay, next to bench/instructions.txt
         (`cargo x bench code --update` writes that)

Without a name: all of them.
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--help" || word == "-h") {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if let [first, rest @ ..] = words
        && first == "part"
    {
        return runtime.block_on(part::run(rest));
    }
    let all =
        ["hop", "tunnel", "forward", "whole", "call", "request", "idle", "keep", "copy", "start"];
    if let Some(unknown) = words.iter().find(|word| !all.contains(&&***word)) {
        bail!("there is nothing called {unknown:?}; --help says what there is");
    }
    for what in all.iter().filter(|what| words.is_empty() || words.iter().any(|w| w == *what)) {
        match *what {
            "hop" => hop::run(&runtime, hop::What::Exec)?,
            "tunnel" => hop::run(&runtime, hop::What::Forward)?,
            "forward" => forward::run()?,
            "whole" => whole::run()?,
            "call" => call::run()?,
            "request" => request::run(&runtime)?,
            "idle" => idle::run()?,
            "keep" => keep::run()?,
            "copy" => copy::run()?,
            _ => start::run()?,
        }
    }
    Ok(())
}
