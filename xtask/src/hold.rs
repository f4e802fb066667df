//! `cargo x hold`: the program that is put into containers, static and small, for each architecture
//! that can be built for here.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::{cargo, output, root, step};

/// Where the programs are, below the workspace: `bowline-hold-ARCH`.
const PLACE: &str = "target/hold";
/// All that are wanted.
const ARCHITECTURES: [&str; 2] = ["x86_64", "aarch64"];

pub fn run(words: &[String]) -> Result<()> {
    let wanted: Vec<&str> = match words {
        [] => ARCHITECTURES.to_vec(),
        [arch] if ARCHITECTURES.contains(&&**arch) => vec![arch],
        _ => bail!("cargo x hold [{}]", ARCHITECTURES.join("|")),
    };
    if build(&wanted)?.is_empty() {
        bail!("nothing can be built");
    }
    Ok(())
}

/// Builds all of them, and returns where they are: an archive without one would keep no session in
/// containers of that architecture.
///
/// # Errors
/// Also if one cannot be built here.
pub fn all() -> Result<Vec<PathBuf>> {
    let built = build(&ARCHITECTURES)?;
    if built.len() < ARCHITECTURES.len() {
        bail!("a release has the programs of {}", ARCHITECTURES.join(" and "));
    }
    Ok(built)
}

/// The targets of all.
pub fn targets() -> impl Iterator<Item = String> {
    ARCHITECTURES.iter().map(|arch| target(arch))
}

/// An architecture whose target is not installed is said, and no failure.
fn build(wanted: &[&str]) -> Result<Vec<PathBuf>> {
    let mut built = Vec::new();
    for arch in wanted {
        if !has_target(arch)? {
            eprintln!("   {arch}: `rustup target add {}` first", target(arch));
            continue;
        }
        let path = build_one(arch)?;
        let bytes = fs::metadata(&path)?.len();
        eprintln!("   {}: {} KiB", path.display(), bytes.div_ceil(1024));
        built.push(path);
    }
    Ok(built)
}

fn target(arch: &str) -> String {
    format!("{arch}-unknown-linux-musl")
}

fn has_target(arch: &str) -> Result<bool> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut print = std::process::Command::new(rustc);
    print.args(["--print", "target-libdir", "--target", &target(arch)]).current_dir(root());
    Ok(fs::exists(output(&mut print)?.trim())?)
}

/// Builds one, and returns where it is.
fn build_one(arch: &str) -> Result<PathBuf> {
    let target = target(arch);
    let name = "bowline-hold";
    let mut build = cargo(&["build", "--quiet", "--profile", "hold", "--package", name]);
    build.args(["--bin", name, "--target", &target]);
    if arch != std::env::consts::ARCH {
        // The linker that comes with Rust knows all architectures; the C library comes with the
        // target.
        let variable = target.to_uppercase().replace('-', "_");
        build.env(format!("CARGO_TARGET_{variable}_LINKER"), "rust-lld");
    }
    step(&format!("build {name} for {arch}"), build)?;
    let place = root().join(PLACE);
    fs::create_dir_all(&place)?;
    let path = place.join(format!("{name}-{arch}"));
    let made = root().join("target").join(&target).join("hold").join(name);
    // Renamed, since one that runs cannot be written to.
    let fresh = path.with_extension("new");
    fs::copy(&made, &fresh).with_context(|| made.display().to_string())?;
    fs::rename(&fresh, &path)?;
    Ok(path)
}
