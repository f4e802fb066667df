//! `cargo x`: turns the project's rules into commands.
//! `cargo x check` is for every day; `cargo x ci` is everything that must hold.

mod deny;
mod floors;
mod fuzz;
mod hold;
mod instructions;
mod release;
mod sim;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};

const HELP: &str = "\
Usage: cargo x COMMAND

Commands:
  bench     what sessions cost next to what they cost in Kubernetes, as ratios of one run
            (`cargo x bench --help`; wants the real parts)
  check     format, lints, docs, tidy, all tests that need only a Rust toolchain, packages, and the
            demo
  tidy      the project's own rules about its files
  interop   the tests against real parts; installs what is missing (minutes, once)
  ci        check, then interop; with `--tested`, without what `cargo test` does
  fuzz      looks for inputs that break a protocol: `cargo x fuzz [TARGET] [--for 10m]`
  hold      the program that is put into containers, static, into target/hold;
            `cargo x hold ARCH` for one architecture alone
  load      thousands of sessions, slow ends and killed hops, as a table (about 10 minutes);
            `cargo x load --help` names its lines
  release   what is handed out of a version, made here and pushed nowhere; with `--dry-run` it says
            what is missing, and goes on (docs/releasing.md)
  sim       plays the committed seeds of the simulator; `cargo x sim --help` says what else it can,
            `cargo x sim --mutations` puts faults into the code that it must find
";

fn main() -> ExitCode {
    let command = std::env::args().nth(1);
    let rest: Vec<String> = std::env::args().skip(2).collect();
    let result = match command.as_deref() {
        Some("bench") => bench(&rest),
        Some("check") => check(true),
        Some("fuzz") => fuzz::run(&rest),
        Some("hold") => hold::run(&rest),
        Some("load") => optimised("bowline-load", &rest),
        Some("release") => release::run(&rest),
        Some("sim") => sim::run(&rest),
        Some("tidy") => tidy::run(&root()),
        Some("interop") => interop(),
        Some("ci") => match rest.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            [] => check(true).and_then(|()| interop()),
            ["--tested"] => check(false).and_then(|()| interop()),
            _ => Err(anyhow!("cargo x ci [--tested]")),
        },
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

/// Features of the library for programs that are tried without the rest of the workspace, which
/// would switch on what they lack.
const ALONE: [&str; 2] = ["aws-lc-rs", "ring,kube"];
/// What is published: the products, what they stand on, and the program.
const PUBLISHED: [&str; 9] = [
    "bowline-proto",
    "bowline-hold",
    "bowline-io",
    "bowline-kube",
    "bowline-archive",
    "bowline-client",
    "bowline-gateway",
    "bowline-node",
    "bowline",
];

/// Makes what a registry would be given; that it compiles is seen elsewhere.
fn package() -> Command {
    let mut package = cargo(&["package", "--no-verify", "--allow-dirty", "--offline", "--quiet"]);
    for name in PUBLISHED {
        package.args(["--package", name]);
    }
    package
}

/// `tests` says whether the README's test command is run here, or was just before.
fn check(tests: bool) -> Result<()> {
    step("format", cargo(&["fmt", "--all", "--check"]))?;
    tidy::run(&root())?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"];
    step("clippy", cargo(&clippy))?;
    let mut docs = cargo(&["doc", "--no-deps", "--document-private-items", "--quiet"]);
    docs.env("RUSTDOCFLAGS", "-D warnings");
    step("docs", docs)?;
    // These judge the project, so they are no part of what the README's test command tests.
    step("test xtask", cargo(&["test", "--quiet", "--package", "xtask"]))?;
    if tests {
        step("test", cargo(&["test"]))?;
    }
    for features in ALONE {
        let client = ["clippy", "--quiet", "--package", "bowline-client", "--no-default-features"];
        let mut alone = cargo(&client);
        alone.args(["--features", features, "--", "-D", "warnings"]);
        step(&format!("bowline-client with {features}"), alone)?;
    }
    step("package", package())?;
    // The README's first command, as it stands there.
    step("demo", cargo(&["run", "--", "demo"]))
}

/// The parts install themselves; a missing one is a failure that names the command that gets it.
/// The tests come last: what a run ends with is their own summary.
fn interop() -> Result<()> {
    let mut install = Command::new("bash");
    install.arg(root().join("interop/parts/install.sh"));
    step("install the real parts", install)?;
    instructions::run(&[])?;
    // Of no package by name: with the features that `cargo run` has built it with.
    step("build", cargo(&["build"]))?;
    step("build the examples", cargo(&["build", "--examples"]))?;
    build_static()?;
    // The sessions that it keeps are of this machine's containers.
    hold::run(&[std::env::consts::ARCH.to_owned()])?;
    let cluster = Cluster::up()?;
    let tests = |words: &[&str]| {
        let mut tests = cargo(&["test", "--package", "bowline-interop", "--"]);
        tests.args(words).env("BOWLINE_CLUSTER", &cluster.0);
        tests
    };
    // What mostly waits waits together; of the others, each has the machine for itself.
    step("interop, what waits", tests(&["waits::", "--test-threads=5"]))?;
    last_step("interop", tests(&["--skip=waits::", "--test-threads=1"]))
}

/// Builds what the gateway's image has: a program that needs no library. It is not to be fast, and
/// so is built as fast as can be.
fn build_static() -> Result<()> {
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let mut library = Command::new("rustc");
    library.args(["--print", "target-libdir", "--target", &target]);
    if !Path::new(output(&mut library)?.trim()).exists() {
        let mut add = Command::new("rustup");
        add.args(["target", "add", &target]);
        step("add the target", add)?;
    }
    let lean =
        ["--config", "profile.dev.package.'*'.opt-level=0", "--config", "profile.dev.debug=false"];
    let build = ["build", "--package", "bowline", "--target", &target];
    step("build what the image has", cargo(&[&build[..], &lean].concat()))
}

/// A cluster for all tests that leave it as it is; dropped, it goes down.
struct Cluster(PathBuf);

impl Cluster {
    fn up() -> Result<Cluster> {
        let place = std::env::temp_dir().join(format!("bowline-{}", std::process::id()));
        let cluster = Cluster(place);
        step("bring up a cluster", cluster.script("up"))?;
        Ok(cluster)
    }

    fn script(&self, command: &str) -> Command {
        let mut script = Command::new("bash");
        script.arg(root().join("interop/parts/cluster.sh")).arg(command).arg(&self.0);
        // The last part of what all share.
        let whole = std::env::var("POD_SUBNET").unwrap_or_else(|_| "10.88.0.0/16".to_owned());
        let part = whole.replace(".0.0/16", ".255.0/24");
        script.env("POD_SUBNET", part).stdin(Stdio::null()).stdout(Stdio::null());
        script
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let ended = self.script("down").status();
        if ended.is_ok_and(|status| status.success()) {
            let _ = std::fs::remove_dir_all(&self.0);
        } else {
            eprintln!("cargo x: cluster.sh down {} failed", self.0.display());
        }
    }
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

fn step(name: &str, command: Command) -> Result<()> {
    let begun = Instant::now();
    last_step(name, command)?;
    eprintln!("   {name}: {:.0?}", begun.elapsed());
    Ok(())
}

/// A step whose own last words say how it went.
fn last_step(name: &str, mut command: Command) -> Result<()> {
    eprintln!("── {name}");
    let status = command
        .current_dir(root())
        .status()
        .with_context(|| format!("{name}: {:?} cannot be started", command.get_program()))?;
    if !status.success() {
        bail!("{name} failed ({status})");
    }
    Ok(())
}

/// What a program writes; its failure is ours, with its words.
fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_owned();
    let ended = command.output().with_context(|| format!("{name:?} cannot be started"))?;
    if !ended.status.success() {
        bail!("{command:?} failed:\n{}", String::from_utf8_lossy(&ended.stderr).trim());
    }
    Ok(String::from_utf8(ended.stdout)?)
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
