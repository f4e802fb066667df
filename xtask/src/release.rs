//! `cargo x release`: turns a commit into what is handed out of it, and pushes nothing. What it
//! wants and makes is in docs/releasing.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use crate::{cargo, deny, hold, output, root, step};

/// Below the workspace: all that is made here.
const PLACE: &str = "target/dist";
const UNRELEASED: &str = "Unreleased";
/// Texts that belong to every copy, and the scripts that the program itself writes.
const TEXTS: [&str; 3] = ["LICENSE", "README.md", "CHANGELOG.md"];
const COMPLETIONS: [(&str, &str); 3] =
    [("bash", "bowline.bash"), ("zsh", "_bowline"), ("fish", "bowline.fish")];

/// A crate that is published.
#[derive(Debug, PartialEq, Eq)]
struct Crate {
    name: String,
    version: String,
    /// Those of ours, with the version that is asked for.
    uses: BTreeMap<String, String>,
}

pub fn run(words: &[String]) -> Result<()> {
    let is_dry = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--dry-run"] => true,
        _ => bail!("cargo x release [--dry-run]"),
    };
    let root = root();
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let metadata = metadata(&root, &target)?;
    let crates = crates(&metadata);
    let version = &crates.first().context("there is no crate to publish")?.version;
    let order = order(&crates)?;
    let changelog = fs::read_to_string(root.join("CHANGELOG.md")).context("CHANGELOG.md")?;

    let mut missing = disagreements(version, &crates);
    missing.extend(unwritten(version, &changelog));
    missing.extend(git(&root, version)?);
    let tools = tools(&target)?;
    let can_build = tools.is_empty();
    missing.extend(tools);
    if !missing.is_empty() {
        let list = format!("{version} is missing something:\n  {}", missing.join("\n  "));
        if !is_dry {
            bail!("{list}");
        }
        eprintln!("{list}");
    }

    let place = root.join(PLACE);
    if place.exists() {
        fs::remove_dir_all(&place)?;
    }
    fs::create_dir_all(&place)?;
    let notes = notes(&changelog, version).or_else(|| notes(&changelog, UNRELEASED));
    let notes = notes.context("CHANGELOG.md has no notes")?;
    fs::write(place.join("NOTES.md"), &notes.text)?;
    let mut package = cargo(&["package", "--quiet", "--no-verify", "--locked"]);
    package.args(order.iter().flat_map(|name| ["--package", name]));
    package.args(is_dry.then_some("--allow-dirty"));
    step("package the crates", package)?;
    if can_build {
        let name = format!("bowline-{version}-{target}");
        archive(&root, &name, &target, &metadata)?;
    }

    let tag = format!("v{version}");
    if !is_dry && output(git_at(&root).args(["tag", "--list", &tag]))?.is_empty() {
        let message = format!("Bowline {version}\n\n{}", notes.text);
        let words = ["tag", "--annotate", &tag, "--cleanup=verbatim", "--message", &message];
        output(git_at(&root).args(words))?;
    }
    let of = if is_dry { "would do" } else { "leaves to do" };
    eprintln!("── notes: {} lines of [{}]", notes.text.lines().count(), notes.heading);
    eprintln!("── made in {PLACE}: {}", made(&place)?.join(", "));
    eprintln!("── what the release {of}:");
    if is_dry {
        eprintln!("   git tag --annotate {tag}        # with the notes");
    }
    eprintln!("   git push origin {tag}        # .github/workflows/release.yml makes the archives");
    for name in order {
        eprintln!("   cargo publish --package {name}");
    }
    if !can_build {
        bail!("no archive was made");
    }
    Ok(())
}

/// What Cargo knows of all crates that are built for a target.
fn metadata(root: &Path, target: &str) -> Result<Value> {
    let mut metadata = cargo(&["metadata", "--locked", "--format-version=1"]);
    metadata.args(["--filter-platform", target]).current_dir(root);
    Ok(serde_json::from_str(&output(&mut metadata)?)?)
}

fn list<'a>(of: &'a Value, key: &str) -> &'a [Value] {
    of[key].as_array().map_or(&[], Vec::as_slice)
}

fn crates(metadata: &Value) -> Vec<Crate> {
    let word = |of: &Value, key| of[key].as_str().unwrap_or_default().to_owned();
    let packages = list(metadata, "packages").iter();
    // `"publish": []` is Cargo's `publish = false`, `null` is anywhere.
    let ours = packages.filter(|one| one["source"].is_null() && one["publish"].is_null());
    let crates = ours.map(|one| {
        // Those of tests are left out of what is published.
        let uses = list(one, "dependencies").iter();
        let uses = uses.filter(|used| used["path"].is_string() && used["kind"] != "dev");
        Crate {
            name: word(one, "name"),
            version: word(one, "version"),
            uses: uses.map(|used| (word(used, "name"), word(used, "req"))).collect(),
        }
    });
    crates.collect()
}

/// What must be published first comes first.
fn order(crates: &[Crate]) -> Result<Vec<&str>> {
    let mut order: Vec<&str> = Vec::new();
    while order.len() < crates.len() {
        let is_there = |name: &str| order.contains(&name);
        let next = crates
            .iter()
            .find(|one| !is_there(&one.name) && one.uses.keys().all(|used| is_there(used)));
        let left = || {
            let names = crates.iter().map(|one| &*one.name).filter(|name| !is_there(name));
            anyhow!(
                "these use each other, or what is not published: {:?}",
                names.collect::<Vec<_>>()
            )
        };
        order.push(&next.ok_or_else(left)?.name);
    }
    Ok(order)
}

/// All crates have one version, and ask for exactly that one of each other.
fn disagreements(version: &str, crates: &[Crate]) -> Vec<String> {
    let mut found = Vec::new();
    let asked = format!("={version}");
    for Crate { name, version: own, uses } in crates {
        if own != version {
            found.push(format!("{name} has version {own}"));
        }
        let others = uses.iter().filter(|(_, req)| **req != asked);
        found.extend(others.map(|(used, req)| format!("{name} asks for {used} {req}")));
    }
    found
}

/// A section of the changelog.
#[derive(Debug, PartialEq, Eq)]
struct Notes {
    /// What stands between its brackets.
    heading: String,
    /// What stands behind them.
    date: String,
    text: String,
}

fn notes(changelog: &str, heading: &str) -> Option<Notes> {
    let (_, behind) = changelog.split_once(&format!("\n## [{heading}]"))?;
    let section = behind.split("\n## [").next()?;
    let (date, text) = section.split_once('\n').unwrap_or((section, ""));
    Some(Notes {
        heading: heading.to_owned(),
        date: date.trim().trim_start_matches("- ").to_owned(),
        text: format!("{}\n", text.trim()),
    })
}

/// What the changelog has to say before a version is released.
fn unwritten(version: &str, changelog: &str) -> Option<String> {
    let is_empty = |notes: &Notes| notes.text.trim().is_empty();
    if notes(changelog, UNRELEASED).is_some_and(|notes| !is_empty(&notes)) {
        return Some(format!("CHANGELOG.md: what is in [{UNRELEASED}] belongs to [{version}]"));
    }
    let Some(notes) = notes(changelog, version).filter(|notes| !is_empty(notes)) else {
        return Some(format!("CHANGELOG.md has no notes of [{version}]"));
    };
    let shape: String =
        notes.date.chars().map(|one| if one.is_ascii_digit() { '0' } else { one }).collect();
    (shape != "0000-00-00").then(|| format!("CHANGELOG.md: `## [{version}] - YYYY-MM-DD`"))
}

fn git_at(root: &Path) -> Command {
    let mut git = Command::new("git");
    git.current_dir(root);
    git
}

/// The tree is what is committed, and a tag of a version is on the commit of that version.
fn git(root: &Path, version: &str) -> Result<Vec<String>> {
    let changed = output(git_at(root).args(["status", "--porcelain"]))?;
    let mut found: Vec<_> = changed.lines().map(|line| format!("not committed: {line}")).collect();
    let tag = format!("v{version}");
    let here = output(git_at(root).args(["tag", "--points-at", "HEAD", "--list", "v*"]))?;
    let others = here.lines().filter(|other| *other != tag);
    found.extend(others.map(|other| format!("this commit is tagged {other}")));
    let all = output(git_at(root).args(["tag", "--list", &tag]))?;
    if !all.is_empty() && !here.lines().any(|one| one == tag) {
        found.push(format!("another commit is tagged {tag}"));
    }
    Ok(found)
}

/// What is not installed, each with the command that installs it.
fn tools(target: &str) -> Result<Vec<String>> {
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let installed = Path::new(sysroot.trim()).join("lib/rustlib");
    let mut found = targets(target, |target| installed.join(target).is_dir());
    let arch = std::env::consts::ARCH;
    let mut compiler = Command::new(format!("{arch}-linux-musl-gcc"));
    let compiler = compiler.arg("--version").stdout(Stdio::null()).status();
    if !compiler.is_ok_and(|status| status.success()) {
        found.push(format!("no C compiler {arch}-linux-musl-gcc: apt-get install musl-tools"));
    }
    Ok(found)
}

/// Builds the program and makes one archive of it and its texts, the same one of the same commit.
fn archive(root: &Path, name: &str, target: &str, metadata: &Value) -> Result<()> {
    let build = ["build", "--release", "--locked", "--package", "bowline", "--target", target];
    step("build", cargo(&build))?;
    let built = target_directory(metadata)?.join(target).join("release/bowline");
    let place = root.join(PLACE);
    let folder = place.join(name);
    fs::create_dir_all(folder.join("completions"))?;
    fs::copy(&built, folder.join("bowline")).with_context(|| format!("{}", built.display()))?;
    for path in hold::all()? {
        let name = path.file_name().context("a program has a name")?;
        fs::copy(&path, folder.join(name)).with_context(|| format!("{}", path.display()))?;
    }
    for text in TEXTS {
        fs::copy(root.join(text), folder.join(text)).context(text)?;
    }
    for (shell, file) in COMPLETIONS {
        let script = output(Command::new(&built).args(["completion", shell]))?;
        fs::write(folder.join("completions").join(file), script)?;
    }
    fs::write(folder.join("THIRD-PARTY"), third_parties(root, target, metadata)?)?;
    let file = format!("{name}.tar.gz");
    let time = output(git_at(root).args(["log", "-1", "--format=@%ct"]))?;
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mode=go=rX"]);
    tar.args([
        "--use-compress-program=gzip -n9",
        "--create",
        "--file",
        &file,
        "--mtime",
        time.trim(),
    ]);
    output(tar.arg(name).current_dir(&place))?;
    let sums = output(Command::new("sha256sum").arg(&file).current_dir(&place))?;
    fs::write(place.join("SHA256SUMS"), sums)?;
    fs::remove_dir_all(folder)?;
    Ok(())
}

fn target_directory(metadata: &Value) -> Result<PathBuf> {
    let path = metadata["target_directory"].as_str();
    Ok(path.context("cargo metadata names no target directory")?.into())
}

/// The licences of all that is linked in, as most of them ask for, each text once.
fn third_parties(root: &Path, target: &str, metadata: &Value) -> Result<String> {
    let linked = deny::linked(root, "bowline", target)?;
    let mut texts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in list(metadata, "packages") {
        let [Some(name), Some(version), Some(manifest)] =
            ["name", "version", "manifest_path"].map(|key| package[key].as_str())
        else {
            bail!("cargo metadata has a package without a name");
        };
        let named = format!("{name} {version}");
        if package["source"].is_null() || !linked.contains(&named) {
            continue;
        }
        let folder = Path::new(manifest).parent().context("a manifest is in a directory")?;
        let mut own = BTreeSet::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let file = entry.file_name().to_string_lossy().to_uppercase();
            let is_one = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];
            if is_one.iter().any(|one| file.starts_with(one)) && entry.path().is_file() {
                own.insert(fs::read_to_string(entry.path())?.trim().to_owned());
            }
        }
        if own.is_empty() {
            let licence = package["license"].as_str().unwrap_or_default();
            own.insert(format!("{licence} (the crate has no text of it)"));
        }
        for text in own {
            texts.entry(text).or_default().insert(named.clone());
        }
    }
    let mut all = String::from(
        "Bowline is linked with Rust's standard library (MIT OR Apache-2.0), musl (MIT), and\n\
         the crates below.\n",
    );
    for (text, names) in texts {
        let names: Vec<_> = names.into_iter().collect();
        all.push_str(&format!("\n{}\n{}\n\n{text}\n", "=".repeat(80), names.join(", ")));
    }
    Ok(all)
}

fn made(place: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(place)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// The targets that are not installed. Also the archive of one architecture has the programs that
/// keep sessions in containers of each.
fn targets(target: &str, is_installed: impl Fn(&str) -> bool) -> Vec<String> {
    let wanted = BTreeSet::from_iter(hold::targets().chain([target.to_owned()]));
    let absent = wanted.iter().filter(|target| !is_installed(target));
    absent.map(|target| format!("no Rust target {target}: rustup target add {target}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, uses: &[(&str, &str)]) -> Crate {
        let uses = uses.iter().map(|(name, req)| ((*name).to_owned(), (*req).to_owned()));
        Crate { name: name.to_owned(), version: "1.0.0".to_owned(), uses: uses.collect() }
    }

    #[test]
    fn the_notes_of_a_version_are_its_section() {
        let log = "# Changelog\n\n## [Unreleased]\n\n## [1.0.0] - 2026-01-02\n\n### Added\n\n\
                   - One.\n\n## [0.9.0] - 2025-01-02\n\n- Old.\n";
        let found = notes(log, "1.0.0").unwrap();
        assert_eq!((&*found.date, &*found.text), ("2026-01-02", "### Added\n\n- One.\n"));
        assert_eq!(notes(log, "0.9.0").unwrap().text, "- Old.\n");
        assert_eq!(notes(log, UNRELEASED).unwrap().text, "\n");
        assert_eq!(notes(log, "1.0"), None);
        assert_eq!(unwritten("1.0.0", log), None);
        for (bad, why) in [
            (log.replace("[Unreleased]\n", "[Unreleased]\n\n- More.\n"), "what is in"),
            (log.replace(" - 2026-01-02", ""), "YYYY"),
            (log.replace("### Added\n\n- One.", ""), "no notes"),
        ] {
            assert!(unwritten("1.0.0", &bad).is_some_and(|said| said.contains(why)), "{bad}");
        }
    }

    #[test]
    fn what_is_used_is_published_first() {
        let crates = [
            one("top", &[("mid", "=1.0.0"), ("low", "=1.0.0")]),
            one("low", &[]),
            one("mid", &[("low", "=1.0.0")]),
        ];
        assert_eq!(order(&crates).unwrap(), ["low", "mid", "top"]);
        assert_eq!(disagreements("1.0.0", &crates), [""; 0]);
        let apart = [one("top", &[("low", "=0.9.0")]), one("low", &[])];
        assert_eq!(disagreements("1.0.0", &apart), ["top asks for low =0.9.0"]);
        assert_eq!(disagreements("1.1.0", &apart[1..]), ["low has version 1.0.0"]);
        assert!(order(&[one("a", &[("b", "*")]), one("b", &[("a", "*")])]).is_err());
        assert!(order(&[one("a", &[("inside", "*")])]).is_err());
    }

    #[test]
    fn only_what_is_published_and_built_in_counts() {
        let metadata = serde_json::json!({ "packages": [
            { "name": "a", "version": "1.0.0", "source": null, "publish": null, "dependencies": [
                { "name": "b", "req": "=1.0.0", "kind": null, "path": "/b" },
                { "name": "tests", "req": "*", "kind": "dev", "path": "/t" },
                { "name": "bytes", "req": "^1", "kind": null },
            ] },
            { "name": "tests", "version": "1.0.0", "source": null, "publish": [] },
            { "name": "bytes", "version": "1.0.0", "source": "registry", "publish": null },
        ] });
        assert_eq!(crates(&metadata), [one("a", &[("b", "=1.0.0")])]);
    }

    #[test]
    fn an_archive_has_the_programs_for_containers_of_each_architecture() {
        let [one, other] = ["x86_64-unknown-linux-musl", "aarch64-unknown-linux-musl"];
        for (here, absent) in [(one, other), (other, one)] {
            let found = targets(here, |target| target == here);
            let [found] = &found[..] else { panic!("{found:?}") };
            assert!(found.contains(&format!("rustup target add {absent}")), "{found}");
        }
        assert_eq!(targets(one, |_| true), [""; 0]);
    }
}
