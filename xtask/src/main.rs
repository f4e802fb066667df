//! `cargo x`: turns the project's rules into commands. Above: `.ci/run`, people. Below: cargo.
//! `cargo x check` is for every day; `cargo x ci` is everything that must hold.

mod fuzz;
mod instructions;
mod sim;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail};

const HELP: &str = "\
Usage: cargo x COMMAND

Commands:
  bench     what sessions cost next to what they cost in Kubernetes, as ratios of one run
            (`cargo x bench --help`; wants the real parts)
  check     format, lints, docs, tidy, all tests that need only a Rust toolchain, and the demo
  tidy      the project's own rules about its files
  interop   the tests against real parts; installs what is missing (minutes, once)
  ci        check, then interop
  fuzz      looks for inputs that break a protocol: `cargo x fuzz [TARGET] [--for 10m]`
  load      thousands of sessions, slow ends and killed hops, as a table (about 10 minutes);
            `cargo x load --help` names its lines
  sim       plays the committed seeds of the simulator; `cargo x sim --help` says what else it can,
            `cargo x sim --mutations` puts faults into the code that it must find
";

fn main() -> ExitCode {
    let command = std::env::args().nth(1);
    let rest: Vec<String> = std::env::args().skip(2).collect();
    let result = match command.as_deref() {
        Some("bench") => bench(&rest),
        Some("check") => check(),
        Some("fuzz") => fuzz::run(&rest),
        Some("load") => optimised("bowline-load", &rest),
        Some("sim") => sim::run(&rest),
        Some("tidy") => tidy::run(&root()),
        Some("interop") => interop(),
        Some("ci") => check().and_then(|()| interop()),
        Some("help" | "--help" | "-h") | None => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Some(other) => {
            eprint!("cargo x: there is no command {other:?}\n\n{HELP}");
            return ExitCode::FAILURE;
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo x: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn check() -> Result<()> {
    step("format", cargo(&["fmt", "--all", "--check"]))?;
    tidy::run(&root())?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"];
    step("clippy", cargo(&clippy))?;
    let mut docs = cargo(&["doc", "--no-deps", "--document-private-items", "--quiet"]);
    docs.env("RUSTDOCFLAGS", "-D warnings");
    step("docs", docs)?;
    step("test", cargo(&["test", "--quiet"]))?;
    // The README's first command, as it stands there.
    step("demo", cargo(&["run", "--", "demo"]))
}

/// The parts install themselves; a missing one is a failure that names the command that gets it.
fn interop() -> Result<()> {
    let mut install = Command::new("bash");
    install.arg(root().join("interop/parts/install.sh"));
    step("install the real parts", install)?;
    instructions::run(&[])?;
    step("build", cargo(&["build", "--package", "bowline"]))?;
    step("build the examples", cargo(&["build", "--package", "bowline-io", "--examples"]))?;
    step("interop", cargo(&["test", "--package", "bowline-interop", "--", "--test-threads=1"]))
}

/// One of the comparisons counts instructions, and needs nothing but valgrind.
fn bench(words: &[String]) -> Result<()> {
    match words {
        [first, rest @ ..] if first == "code" => instructions::run(rest),
        [] => instructions::run(&[]).and_then(|()| optimised("bowline-bench", words)),
        _ => optimised("bowline-bench", words),
    }
}

/// Runs a tool beside the program, both as users would have them.
fn optimised(tool: &str, words: &[String]) -> Result<()> {
    let build = ["build", "--release", "--quiet", "--package", "bowline", "--package", tool];
    step("build", cargo(&build))?;
    let mut run = cargo(&["run", "--release", "--quiet", "--package", tool, "--"]);
    run.args(words);
    step(tool, run)
}

fn step(name: &str, mut command: Command) -> Result<()> {
    eprintln!("── {name}");
    let begun = Instant::now();
    let status = command
        .current_dir(root())
        .status()
        .with_context(|| format!("{name}: {:?} cannot be started", command.get_program()))?;
    if !status.success() {
        bail!("{name} failed ({status})");
    }
    eprintln!("   {name}: {:.0?}", begun.elapsed());
    Ok(())
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments);
    command
}

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}
