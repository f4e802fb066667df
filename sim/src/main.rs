//! `cargo x sim`: replays seeds, or looks for new ones that break a promise.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use bowline_sim::world::Verdict;
use bowline_sim::{Scenario, copy, forward, kept, run, shrink};

const HELP: &str = "\
Plays sessions of client, gateway and node on virtual time and a virtual network, and holds each to
Bowline's promises.

Usage: cargo x sim [--port-forward | --copy | --kept] [--seed N [--trace]] [--for TIME] [--from N]

  --port-forward
                plays port-forwards; otherwise, remote commands
  --copy        plays copies
  --kept        plays kept sessions
  --seed N      plays this one; a failure is made as small as it gets, and its trace is printed
  --trace       with --seed: prints every step
  --for TIME    plays new seeds for so long (30s, 10m, 1h), on all cores
  --from N      with --for: the first of them; otherwise by the clock

Without a seed or a time it plays the seeds in sim/seeds.txt, or those of the kind in question.
";

/// Plays of a failing scenario that making it smaller may take.
const SHRINKING_RUNS: usize = 2_000;

/// What is played.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum What {
    #[default]
    Command,
    Forward,
    Copy,
    Kept,
}

#[derive(Default)]
struct Arguments {
    what: What,
    seed: Option<u64>,
    trace: bool,
    time: Option<Duration>,
    from: Option<u64>,
}

fn main() -> ExitCode {
    match arguments().and_then(|arguments| match arguments {
        None => {
            print!("{HELP}");
            Ok(true)
        }
        Some(Arguments { what, seed: Some(seed), trace, .. }) => Ok(one(what, seed, trace)),
        Some(Arguments { what, time: Some(time), from, .. }) => look(what, time, from),
        Some(Arguments { what, .. }) => Ok(committed(what)),
    }) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sim: {error:#}\n\n{HELP}");
            ExitCode::from(2)
        }
    }
}

fn arguments() -> Result<Option<Arguments>> {
    let mut all = Arguments::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value"));
        match &*word {
            "--seed" => all.seed = Some(value()?.parse().context("--seed is a number")?),
            "--trace" => all.trace = true,
            "--port-forward" => all.what = What::Forward,
            "--copy" => all.what = What::Copy,
            "--kept" => all.what = What::Kept,
            "--for" => all.time = Some(duration(&value()?)?),
            "--from" => all.from = Some(value()?.parse().context("--from is a number")?),
            "--help" | "-h" => return Ok(None),
            other => bail!("there is no {other:?}"),
        }
    }
    Ok(Some(all))
}

fn duration(text: &str) -> Result<Duration> {
    let split = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().with_context(|| format!("{text:?} is no time"))?;
    let seconds = match unit {
        "s" | "" => number,
        "m" => number * 60,
        "h" => number * 3600,
        _ => bail!("{text:?} is no time: use s, m or h"),
    };
    Ok(Duration::from_secs(seconds))
}

/// Plays one seed; whether it keeps the promises.
fn one(what: What, seed: u64, trace: bool) -> bool {
    match what {
        What::Command => one_command(seed, trace),
        What::Forward => {
            let scenario = forward::Scenario::of(seed);
            told(seed, &scenario, &forward::run(&scenario, true), trace)
        }
        What::Copy => {
            let scenario = copy::Scenario::of(seed);
            told(seed, &scenario, &copy::run(&scenario, true), trace)
        }
        What::Kept => one_kept(seed, trace),
    }
}

/// The same for a kept session, which is made small.
fn one_kept(seed: u64, trace: bool) -> bool {
    let mut scenario = kept::Scenario::of(seed);
    let mut verdict = kept::run(&scenario, true);
    if let Some(broken) = verdict.broken {
        scenario = kept::shrink(&scenario, broken.promise, SHRINKING_RUNS);
        verdict = kept::run(&scenario, true);
        println!("the smallest found:");
    }
    told(seed, &scenario, &verdict, trace)
}

/// The same for a remote command, which is made small.
fn one_command(seed: u64, trace: bool) -> bool {
    let scenario = Scenario::of(seed);
    println!("seed {seed}\n{scenario}");
    let verdict = run(&scenario, trace);
    verdict.lines.iter().for_each(|line| println!("{line}"));
    println!("  {} steps, fingerprint {:016x}", verdict.steps, verdict.fingerprint);
    println!("  the client: {}", verdict.end);
    let Some(broken) = verdict.broken else {
        println!("all promises kept");
        return true;
    };
    println!("BROKEN: {broken}");
    explain(&scenario, broken.promise);
    false
}

fn play(what: What, seed: u64) -> Verdict {
    match what {
        What::Command => run(&Scenario::of(seed), false),
        What::Forward => forward::run(&forward::Scenario::of(seed), false),
        What::Copy => copy::run(&copy::Scenario::of(seed), false),
        What::Kept => kept::run(&kept::Scenario::of(seed), false),
    }
}

/// Tells what became of a seed, with its trace where it fails.
fn told(seed: u64, scenario: &impl Display, verdict: &Verdict, trace: bool) -> bool {
    println!("seed {seed}\n{scenario}");
    if trace || verdict.broken.is_some() {
        verdict.lines.iter().for_each(|line| println!("{line}"));
    }
    println!("  {} steps, fingerprint {:016x}", verdict.steps, verdict.fingerprint);
    match &verdict.broken {
        Some(broken) => println!("BROKEN: {broken}"),
        None => println!("all promises kept"),
    }
    verdict.broken.is_none()
}

fn explain(scenario: &Scenario, promise: bowline_sim::Promise) {
    let small = shrink::shrink(scenario, promise, SHRINKING_RUNS);
    let verdict = run(&small, true);
    println!("\nthe smallest found, {} steps:\n{small}", verdict.steps);
    verdict.lines.iter().for_each(|line| println!("{line}"));
}

fn committed(what: What) -> bool {
    let begun = Instant::now();
    let (mut count, mut steps, mut kept) = (0, 0, true);
    let seeds: Vec<u64> = match what {
        What::Command => bowline_sim::seeds().collect(),
        What::Forward => bowline_sim::forward_seeds().collect(),
        What::Copy => bowline_sim::copy_seeds().collect(),
        What::Kept => bowline_sim::kept_seeds().collect(),
    };
    for seed in seeds {
        let verdict = play(what, seed);
        count += 1;
        steps += verdict.steps;
        if let Some(broken) = verdict.broken {
            kept = false;
            println!("seed {seed}: BROKEN: {broken}");
        }
    }
    println!("{count} seeds, {steps} steps in {:.1?}", begun.elapsed());
    kept
}

/// Plays new seeds on all cores until one breaks a promise or the time is over.
fn look(what: What, time: Duration, from: Option<u64>) -> Result<bool> {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let first = from.unwrap_or(clock * 1_000_000);
    let next = AtomicU64::new(first);
    let until = Instant::now() + time;
    let (sender, failures) = mpsc::channel();
    let shows = std::io::stderr().is_terminal();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                while Instant::now() < until {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if shows && seed % 100 == 0 {
                        eprint!("\r{} seeds", seed - first);
                        let _ = std::io::stderr().flush();
                    }
                    let broken = play(what, seed).broken;
                    if let Some(broken) = broken {
                        println!("seed {seed}: BROKEN: {broken}");
                        let _ = sender.send(seed);
                    }
                }
            });
        }
    });
    drop(sender);
    let count = next.into_inner() - first;
    println!("{count} seeds from {first}");
    let failed: Vec<u64> = failures.iter().collect();
    match failed.iter().min() {
        Some(&seed) => Ok(one(what, seed, false)),
        None => Ok(true),
    }
}
