//! `cargo x fuzz [TARGET] [--for TIME]`: builds the targets with coverage, lets libFuzzer look for
//! inputs, and keeps the new ones that reach something new.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::{cargo, root};

/// What stable rustc needs to instrument code for libFuzzer (SanitizerCoverage's passes).
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=1 -Cdebug-assertions";
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// Longer inputs find nothing that shorter ones do not.
const INPUT_BYTES: u32 = 4096;
const MEMORY_MIB: u32 = 1024;
/// One input takes microseconds.
const INPUT_SECONDS: u32 = 5;

/// Runs one target, or all in turn, each for the time given.
pub fn run(arguments: &[String]) -> Result<()> {
    let (mut only, mut seconds) = (None, 60);
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match &**word {
            "--for" => seconds = self::seconds(words.next().context("--for needs a time")?)?,
            name if !name.starts_with('-') => only = Some(name.to_owned()),
            other => bail!("cargo x fuzz [TARGET] [--for 10m]; there is no {other}"),
        }
    }
    let mut targets: Vec<String> = fs::read_dir(root().join("fuzz/src/targets"))?
        .filter_map(|entry| entry.ok()?.path().file_stem()?.to_str().map(ToOwned::to_owned))
        .filter(|name| name != "mod")
        .collect();
    targets.sort();
    if let Some(only) = only {
        ensure!(targets.contains(&only), "the targets are {}", targets.join(", "));
        targets = vec![only];
    }
    let fuzzer = build()?;
    for target in targets {
        fuzz(&fuzzer, &target, seconds)?;
    }
    Ok(())
}

fn seconds(text: &str) -> Result<u64> {
    let split = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().with_context(|| format!("{text:?} is no time"))?;
    Ok(match unit {
        "" | "s" => number,
        "m" => number * 60,
        "h" => number * 3600,
        _ => bail!("{text:?} is no time: use s, m or h"),
    })
}

fn build() -> Result<PathBuf> {
    let target = root().join("target/fuzz");
    let mut build = cargo(&["build", "--release", "--package", "bowline-fuzz"]);
    build.args(["--features", "libfuzzer", "--target", TRIPLE]).current_dir(root());
    build.env("RUSTFLAGS", FLAGS).env("CARGO_TARGET_DIR", &target);
    ensure!(build.status().context("cargo build")?.success(), "the targets do not build");
    Ok(target.join(TRIPLE).join("release/bowline-fuzz"))
}

/// Fuzzes, then adds what is new to the corpus, without what adds nothing.
fn fuzz(fuzzer: &Path, target: &str, seconds: u64) -> Result<()> {
    let corpus = root().join("fuzz/corpus").join(target);
    let found = root().join("target/fuzz/found").join(target);
    fs::create_dir_all(&corpus)?;
    fs::create_dir_all(&found)?;
    eprintln!("── fuzz {target} for {seconds} s");
    let command = |arguments: &[String]| {
        let mut command = Command::new(fuzzer);
        command.env("BOWLINE_FUZZ_TARGET", target).args(arguments);
        command.arg(format!("-max_len={INPUT_BYTES}")).arg(format!("-timeout={INPUT_SECONDS}"));
        command.arg(format!("-rss_limit_mb={MEMORY_MIB}")).arg("-verbosity=1");
        command.arg(format!("-artifact_prefix={}/{target}-", found.display()));
        command
    };
    let time = format!("-max_total_time={seconds}");
    let mut run = command(&[time, "-print_final_stats=1".into()]);
    if !run.arg(&found).arg(&corpus).status().context("the fuzzer")?.success() {
        bail!(
            "{target}: see the input named above; mend what it shows, and put it into {}",
            corpus.display()
        );
    }
    // What reaches no new place is left out, or the repository would fill up.
    let small = root().join("target/fuzz/small").join(target);
    fs::remove_dir_all(&small).or_else(|error| match error.kind() {
        ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })?;
    fs::create_dir_all(&small)?;
    let mut merge = command(&["-merge=1".into(), "-use_counters=0".into()]);
    merge.arg(&small).arg(&corpus).arg(&found);
    ensure!(merge.status()?.success(), "{target}: the merge failed");
    fs::remove_dir_all(&corpus)?;
    fs::create_dir_all(&corpus)?;
    for entry in fs::read_dir(&small)? {
        let entry = entry?;
        fs::copy(entry.path(), corpus.join(entry.file_name()))?;
    }
    Ok(())
}
