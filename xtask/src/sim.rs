//! `cargo x sim`: builds the simulator and runs it; or puts faults into the code, one at a time,
//! and demands that it finds each.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cargo, root};

/// Runs the simulator with these arguments.
pub fn run(arguments: &[String]) -> Result<()> {
    if arguments == ["--mutations"] {
        return mutations();
    }
    let mut sim = cargo(&["run", "--quiet", "--release", "--package", "bowline-sim", "--"]);
    let status = sim.args(arguments).current_dir(root()).status().context("cargo run")?;
    if !status.success() {
        bail!("the simulator says no ({status})");
    }
    Ok(())
}

/// Each patch in `sim/mutations` is a fault that the committed seeds must find; where its name says
/// so, those of kept sessions.
fn mutations() -> Result<()> {
    let place = root().join("target/mutations");
    let copy = place.join("bowline");
    let patches = patches(&root())?;
    let mut missed = Vec::new();
    for patch in &patches {
        let name = patch.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        copy_tree(&copy)?;
        let mut apply = Command::new("git");
        // Not as a part of the repository that the copy lies in.
        apply.args(["apply", "--whitespace=nowarn"]).arg(patch).current_dir(&copy);
        apply.env("GIT_CEILING_DIRECTORIES", &place);
        if !apply.status().context("git apply")?.success() {
            bail!("{name}: the patch does not apply to the code as it is now");
        }
        let mut build = cargo(&["build", "--quiet", "--release", "--package", "bowline-sim"]);
        build.current_dir(&copy).env("CARGO_TARGET_DIR", place.join("target"));
        if !build.status().context("cargo build")?.success() {
            bail!("{name}: the mutated code does not build");
        }
        let sim = place.join("target/release/bowline-sim");
        let kind = if name.starts_with("kept-") { &["--kept"][..] } else { &[] };
        let output =
            Command::new(&sim).args(kind).output().with_context(|| sim.display().to_string())?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let found: Vec<&str> = said.lines().filter(|line| line.contains("BROKEN")).collect();
        match found.first() {
            Some(first) if !output.status.success() => {
                let first: String = first.chars().take(160).collect();
                println!("{name}: found by {} seeds, the first: {first}", found.len());
            }
            _ => missed.push(name),
        }
    }
    if !missed.is_empty() {
        bail!("not found: {}", missed.join(", "));
    }
    println!("{} of {} found", patches.len(), patches.len());
    Ok(())
}

fn patches(root: &Path) -> Result<Vec<PathBuf>> {
    let mut patches: Vec<_> = fs::read_dir(root.join("sim/mutations"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    patches.sort();
    Ok(patches)
}

/// The patches that do not apply to the code as it is now.
pub fn unfit(root: &Path) -> Result<Vec<String>> {
    let mut unfit = Vec::new();
    for patch in patches(root)? {
        let mut apply = Command::new("git");
        apply.args(["apply", "--check", "--whitespace=nowarn"]).arg(&patch).current_dir(root);
        if !apply.output().context("git apply")?.status.success() {
            unfit.push(format!("{}: does not apply", patch.display()));
        }
    }
    Ok(unfit)
}

/// A copy of all files that the repository knows, or would.
fn copy_tree(copy: &Path) -> Result<()> {
    let mut list = Command::new("git");
    list.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let output = list.current_dir(root()).output().context("git ls-files")?;
    for name in String::from_utf8_lossy(&output.stdout).split('\0').filter(|name| !name.is_empty())
    {
        let (from, to) = (root().join(name), copy.join(name));
        if !from.is_file() {
            continue;
        }
        fs::create_dir_all(to.parent().unwrap_or(copy))?;
        // What is the same keeps its time, and cargo does not build it again.
        let text = fs::read(&from)?;
        if fs::read(&to).ok().as_ref() != Some(&text) {
            fs::write(&to, text).with_context(|| to.display().to_string())?;
        }
    }
    Ok(())
}
