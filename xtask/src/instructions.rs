//! `cargo x bench code [--update]`: instructions for each MiB that a codec or the relay moves, next
//! to those that were committed. Valgrind counts, so that a busy machine makes no difference.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::{cargo, root, step};

const PIECES: [u32; 2] = [32 * 1024, 1024];
/// Of the difference between two lengths nothing is left but what is moved.
const MIB: [u64; 2] = [1, 9];
/// Compilers and C libraries differ by less.
const TOLERANCE: f64 = 0.05;
const HEAD: &str = "\
# Instructions per MiB, as `cargo x bench code` counts them: case, bytes of a piece, instructions.
# `cargo x bench code --update` writes this file.
";

/// Counts all, and compares or keeps what it finds.
pub fn run(words: &[String]) -> Result<()> {
    let update = match words {
        [] => false,
        [word] if word == "--update" => true,
        _ => bail!("cargo x bench code [--update]"),
    };
    let example = ["build", "--release", "--quiet", "--package", "bowline-proto", "--example"];
    let mut build = cargo(&example);
    build.arg("instructions");
    step("build", build)?;
    let found = count()?;
    let place = root().join("bench/instructions.txt");
    if update {
        let lines = found.iter().map(|((case, piece), count)| format!("{case} {piece} {count}\n"));
        return Ok(fs::write(place, HEAD.to_owned() + &lines.collect::<String>())?);
    }
    compare(&found, &read(&place)?)
}

type Counts = BTreeMap<(String, u32), u64>;

fn read(place: &PathBuf) -> Result<Counts> {
    let text = fs::read_to_string(place).with_context(|| place.display().to_string())?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let parsed = lines.map(|line| {
        let fields: Vec<_> = line.split(' ').collect();
        let [case, piece, count] = fields[..] else { bail!("{}: {line:?}", place.display()) };
        Ok(((case.to_owned(), piece.parse()?), count.parse()?))
    });
    parsed.collect()
}

fn compare(found: &Counts, known: &Counts) -> Result<()> {
    let mut worse = Vec::new();
    println!("| case | piece | instructions per MiB | to the baseline |\n|---|--:|--:|--:|");
    for ((case, piece), count) in found {
        let Some(before) = known.get(&(case.clone(), *piece)) else {
            worse.push(format!("{case} {piece}: not in the baseline"));
            continue;
        };
        let ratio = *count as f64 / *before as f64;
        println!("| {case} | {piece} | {count} | {ratio:.3} |");
        if ratio > 1.0 + TOLERANCE {
            worse.push(format!("{case} {piece}: {count} instead of {before}"));
        } else if ratio < 1.0 - TOLERANCE {
            eprintln!("{case} {piece} is better: keep that with `cargo x bench code --update`");
        }
    }
    let gone = known.keys().filter(|key| !found.contains_key(*key));
    worse.extend(gone.map(|(case, piece)| format!("{case} {piece}: in the baseline alone")));
    ensure!(worse.is_empty(), "more than the baseline:\n  {}", worse.join("\n  "));
    Ok(())
}

fn count() -> Result<Counts> {
    let example = root().join("target/release/examples/instructions");
    let names = Command::new(&example).output().with_context(|| example.display().to_string())?;
    let names = String::from_utf8(names.stdout)?;
    let mut found = Counts::new();
    for case in names.lines() {
        for piece in PIECES {
            let all = MIB.map(|mib| instructions(&example, case, piece, mib));
            let [few, many] = all;
            found.insert((case.to_owned(), piece), (many? - few?) / (MIB[1] - MIB[0]));
        }
    }
    ensure!(!found.is_empty(), "there are no cases");
    Ok(found)
}

fn instructions(example: &PathBuf, case: &str, piece: u32, mib: u64) -> Result<u64> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    // The function of that name: what it is given was prepared before.
    valgrind.arg("--toggle-collect=*counted*").arg(example);
    valgrind.args([case, &piece.to_string(), &mib.to_string()]);
    let output = valgrind.output().context("valgrind: install the package of that name")?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{case} {piece} {mib}: {text}");
    let count =
        text.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    count.with_context(|| format!("callgrind says nothing of its count: {text}"))
}
