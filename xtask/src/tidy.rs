//! Rules that no compiler knows: file heads, lengths, and words that have no place in the project.
//! Above: `cargo x`. Below: `git ls-files`.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A file longer than this is more than one thing.
const LINES_AT_MOST: usize = 800;
const COLUMNS_AT_MOST: usize = 100;
/// Code that is not done, and tests that do not count.
const UNFINISHED: [&str; 5] =
    [concat!("todo", "!("), concat!("unimplemented", "!("), "#[ignore", "FIXME", "XXX"];
/// A test waits for a signal or for virtual time.
const SLEEPS: [&str; 2] = ["thread::sleep", "time::sleep("];

/// Debian's packages make this folder; a test that needs a path that is none makes one up below a
/// directory of its own.
const THERE_SOMETIMES: &str = "\"/nonexistent";

/// Checks every file that git tracks.
pub fn run(root: &Path) -> Result<()> {
    // What is not committed yet would fail once it is.
    let mut list = Command::new("git");
    list.args(["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"]);
    let listed = list.current_dir(root).output();
    let listed = String::from_utf8(listed.context("git ls-files")?.stdout)?;
    let mut faults = Vec::new();
    let mut checked = 0;
    for path in listed.lines() {
        // A deleted file may still be listed until it is committed.
        let Ok(text) = fs::read_to_string(root.join(path)) else { continue };
        checked += 1;
        faults.extend(check(path, &text).into_iter().map(|fault| format!("{path}: {fault}")));
    }
    if checked == 0 {
        bail!("tidy found no files to check");
    }
    if !faults.is_empty() {
        bail!("tidy:\n  {}", faults.join("\n  "));
    }
    eprintln!("── tidy: {checked} files");
    Ok(())
}

fn check(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if path == "xtask/src/tidy.rs" {
        return faults;
    }
    if !text.starts_with("//!") {
        faults.push("begins without `//!`: what does it turn into what?".into());
    }
    let lines = text.lines().count();
    if lines > LINES_AT_MOST {
        faults.push(format!("{lines} lines: is it one thing?"));
    }
    for (number, line) in (1..).zip(text.lines()) {
        if line.chars().count() > COLUMNS_AT_MOST && !line.contains("http") {
            faults.push(format!("{number}: longer than {COLUMNS_AT_MOST} columns"));
        }
        for word in UNFINISHED.iter().filter(|word| line.contains(**word)) {
            faults.push(format!("{number}: {word}"));
        }
        if line.contains(THERE_SOMETIMES) {
            faults.push(format!("{number}: a path that some hosts have: {THERE_SOMETIMES}\""));
        }
        let in_tests = path.contains("/tests/") || path.starts_with("interop/");
        for word in SLEEPS.iter().filter(|word| in_tests && line.contains(**word)) {
            faults.push(format!("{number}: a test that sleeps: {word}"));
        }
    }
    faults
}
