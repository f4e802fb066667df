//! A command whose session is kept, next to the same one without that: CPU of every program on the
//! way, where a node of ours keeps it and where the program in the container does.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bowline_interop::parts::hold;
use tempfile::TempDir;

use crate::idle;
use crate::measure::{kib, median, progress};
use crate::systems::{System, bowline};
use crate::whole::{Way, transfer};

const ROUNDS: usize = 5;
/// Sessions that nobody is connected to.
const AWAY: usize = 1000;

/// Who keeps it.
struct Keeper {
    name: &'static str,
    system: System,
    /// What a client says for it.
    flags: Vec<String>,
}

pub fn run() -> Result<()> {
    let (bowline, program) = (bowline()?, format!("--hold-program={}", hold().display()));
    let alone = System::bowline()?;
    let busybox = alone.busybox().context("Bowline's commands are busybox'")?.to_owned();
    let mut kubernetes = System::kubernetes()?;
    kubernetes.held_by = Some("bowline-hold");
    let keepers = [
        ("our node", alone, vec![]),
        ("our node, behind the API server", System::on_our_node()?, vec![]),
        ("the program in the container", kubernetes, vec![program]),
    ];
    // Where the clients write down what they have begun.
    let state = TempDir::new()?;
    let place = ("XDG_STATE_HOME".to_owned(), state.path().to_string_lossy().into_owned());
    let keepers = keepers.map(|(name, mut system, more)| {
        system.client.program = bowline.clone();
        system.client.env.push(place.clone());
        Keeper { name, system, flags: [vec!["--keep".to_owned()], more].concat() }
    });
    println!("### A kept session: CPU seconds per GB, medians of {ROUNDS} rounds\n");
    println!("| kept by | way | without | kept | more | each program |\n|---|---|--:|--:|--:|---|");
    for keeper in &keepers {
        for (way, name) in [(Way::Down, "down"), (Way::Up, "up")] {
            let used = keeper.rounds(way, &busybox)?;
            let [plain, kept] = used
                .each_ref()
                .map(|rounds| median(rounds.iter().map(|cpu| cpu.iter().sum()).collect()));
            let more = 100.0 * (kept / plain - 1.0);
            let parts = keeper.parts(&used);
            println!(
                "| {} | {name} | {plain:.2} | {kept:.2} | {more:.0} % | {parts} |",
                keeper.name
            );
        }
    }
    println!();
    drop(keepers);
    idle_and_away(&place)
}

/// Nodes and a client of ours, which writes down there what it has begun.
fn ours(place: &(String, String)) -> Result<System> {
    let mut system = System::bowline()?;
    system.client.env.push(place.clone());
    Ok(system)
}

/// Memory of a node for sessions that wait, with and without a client.
/// Each node is a new one: what another one has been given back would be taken for it.
fn idle_and_away(place: &(String, String)) -> Result<()> {
    println!("### KiB resident of our node for each session that waits\n");
    let of_node = |(servers, _): (Vec<f64>, f64)| servers.last().copied().context("a node");
    let plain = of_node(idle::each(&ours(place)?, &[])?)?;
    let kept = of_node(idle::each(&ours(place)?, &["--keep", "-q"])?)?;
    let away = away(&ours(place)?)?;
    println!("| sessions | KiB |\n|---|--:|");
    println!("| {} that are not kept | {plain:.1} |", idle::SESSIONS);
    println!("| {} that are kept | {kept:.1} |", idle::SESSIONS);
    println!("| {AWAY} that are kept, and whose clients have gone | {away:.1} |\n");
    Ok(())
}

/// Begins commands and leaves them at once; each has its own exit code in the end.
fn away(system: &System) -> Result<f64> {
    let place = TempDir::new()?;
    let gate = place.path().join("gate");
    ensure!(Command::new("mkfifo").arg(&gate).status()?.success(), "a pipe can be made");
    let script = |number: usize| format!("read x < {}; exit {}", gate.display(), code_of(number));
    let (_, node) = *system.servers.last().context("a node")?;
    let before = kib(node, "VmRSS")?;
    let mut sessions = Vec::new();
    for number in 0..AWAY {
        progress(&format!("{number} of {AWAY} sessions"));
        let begun = system.exec(&["--detach"], &["sh", "-c", &script(number)]).output()?;
        ensure!(begun.status.success(), "{begun:?}");
        sessions.push(String::from_utf8(begun.stdout)?.trim().to_owned());
    }
    let each = (kib(node, "VmRSS")? - before) / AWAY as f64;
    // With somebody to write, and then nobody any more, the commands go on.
    drop(File::options().write(true).open(&gate)?);
    for (number, session) in sessions.iter().enumerate() {
        progress(&format!("{number} of {AWAY} results"));
        let client = &system.client;
        let mut result = Command::new(&client.program);
        result.args(["session", "result", session]).args(&client.words[1..]);
        result.envs(client.env.iter().map(|(name, value)| (name, value)));
        let result = result.output()?;
        ensure!(result.status.code() == Some(code_of(number)), "{number}: {result:?}");
    }
    progress("");
    Ok(each)
}

/// Never that of a client of ours which knows no outcome.
fn code_of(number: usize) -> i32 {
    i32::try_from(number % 200).unwrap_or_default()
}

impl Keeper {
    /// What all programs have used in each round, without and with it, in turns.
    fn rounds(&self, way: Way, busybox: &Path) -> Result<[Vec<Vec<f64>>; 2]> {
        let flags: Vec<&str> = self.flags.iter().map(|flag| &**flag).collect();
        let mut all = [Vec::new(), Vec::new()];
        for round in 0..=ROUNDS {
            progress(&format!("{}, round {round} of {ROUNDS}", self.name));
            for (flags, rounds) in [&[][..], &flags].into_iter().zip(&mut all) {
                let used = transfer(&self.system, way, flags, busybox)?;
                if round > 0 {
                    rounds.push(used.cpu);
                }
            }
        }
        progress("");
        Ok(all)
    }

    /// The medians of each program, without and with it.
    fn parts(&self, used: &[Vec<Vec<f64>>; 2]) -> String {
        let servers = self.system.servers.iter().map(|(name, _)| *name);
        let names = servers.chain(self.system.held_by.map(|_| "the program")).chain(["client"]);
        let of = |rounds: &Vec<Vec<f64>>, place: usize| {
            median(rounds.iter().map(|cpu| cpu.get(place).copied().unwrap_or_default()).collect())
        };
        let parts = names.enumerate().map(|(place, name)| {
            format!("{name} {:.2}, {:.2}", of(&used[0], place), of(&used[1], place))
        });
        parts.collect::<Vec<_>>().join("; ")
    }
}
