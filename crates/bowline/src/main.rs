//! Turns a command line into an exit code.
//! Above: the shell. Below: everything else.

mod args;
mod certificates;
mod dev;
mod logging;
mod pod_status;
mod servers;
mod web;

use std::process::ExitCode;

use args::Asked;

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    if let [command, address] = &words[..]
        && command.to_str() == Some(web::COMMAND)
    {
        let address = address.to_str().and_then(|a| a.parse().ok());
        let Some(address) = address else { return ExitCode::FAILURE };
        return serve(web::run(address));
    }
    match args::read(&words) {
        Ok(Asked::Dev(asked)) => serve(servers::dev(asked)),
        Ok(Asked::Node(asked)) => serve(servers::node(asked)),
        Ok(Asked::Gateway(asked)) => serve(servers::gateway(asked)),
        Ok(other) => {
            eprintln!("{other:?}");
            ExitCode::FAILURE
        }
        Err(refusal) => {
            eprintln!("error: {}", refusal.usage);
            ExitCode::FAILURE
        }
    }
}

fn serve(main: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(main));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
