//! Turns a command line into an exit code.

mod args;
mod attach;
mod certificates;
mod cluster_access;
mod console;
mod cp;
mod demo;
mod detach;
mod dev;
mod exec;
mod gateway;
mod gateway_nodes;
mod help;
mod keep;
mod known_sessions;
mod listen;
mod logging;
mod memory;
mod node;
mod node_access;
mod outcome;
mod pod_status;
mod port_forward;
mod print;
mod progress;
mod remote;
mod servers;
mod session;
mod shown;
mod upstreams;
mod verbose;
mod web;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use args::Invocation;
use outcome::Exit;

/// How long is waited at the end for calls that block. One may do so for ever: to read the words of
/// a container's process can be as slow as that wants.
const BLOCKED_PATIENCE: Duration = Duration::from_secs(1);

/// What keeps sessions in a container, for containers that have this program: it is a part of it.
const HOLD: &str = "hold";

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let called = words.next().unwrap_or_default();
    let base = Path::new(&called).file_name().map(|name| name.to_string_lossy().into_owned());
    let base = base.unwrap_or_else(|| "bowline".to_owned());
    // As a plugin it is called by two words.
    let program = if base == "kubectl-bowline" { "kubectl bowline" } else { &*base };
    let words: Vec<_> = words.collect();
    if let Some((command, words)) = words.split_first()
        && command == HOLD
    {
        return bowline_hold::run(&[HOLD], words.iter().cloned());
    }
    let end = end_of(&words, &base, program);
    end.lines.iter().for_each(print::line);
    ExitCode::from(end.code)
}

fn end_of(words: &[std::ffi::OsString], base: &str, program: &str) -> Exit {
    if let [command, address] = words
        && command == web::COMMAND
    {
        let address = address.to_str().and_then(|address| address.parse().ok());
        return match address {
            Some(address) => serve(web::run(address)),
            None => Exit::refused("that is no address"),
        };
    }
    match args::read(words) {
        Ok(Invocation::Exec(asked)) => exec::run(&asked, base),
        Ok(Invocation::Attach(asked)) => attach::run(&asked, program),
        Ok(Invocation::Session(asked)) => session::run(&asked, program),
        Ok(Invocation::Cp(asked)) => cp::run(&asked, program),
        Ok(Invocation::PortForward(asked)) => port_forward::run(&asked, base),
        Ok(Invocation::Dev(asked)) => serve(servers::dev(asked)),
        Ok(Invocation::Node(asked)) => serve(node::node(*asked)),
        Ok(Invocation::Gateway(asked)) => serve(gateway::gateway(*asked)),
        Ok(Invocation::Demo) => serve(demo::run()),
        Ok(Invocation::Version) => print_text(format!(
            "bowline v{} ({})\n",
            env!("CARGO_PKG_VERSION"),
            cluster_access::platform()
        )),
        Ok(Invocation::Completion(shell)) => print_text(args::completion::script(shell)),
        Ok(Invocation::Help(command)) => print_text(help::of(command, program)),
        Err(refusal) => outcome::of_usage(&refusal, program),
    }
}

fn print_text(text: impl AsRef<[u8]>) -> Exit {
    match print::raw(text.as_ref()) {
        Ok(()) => Exit::success(),
        // `| head`: the reader had enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Exit::success(),
        Err(error) => Exit::refused(format_args!("write stdout: {error}")),
    }
}

fn serve(main: impl Future<Output = anyhow::Result<()>>) -> Exit {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = runtime.map_err(Into::into).and_then(|runtime| {
        let result = runtime.block_on(main);
        runtime.shutdown_timeout(BLOCKED_PATIENCE);
        result
    });
    match result {
        Ok(()) => Exit::success(),
        Err(error) => Exit::refused(format_args!("{error:#}")),
    }
}
