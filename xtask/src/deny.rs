//! `deny.toml`, held against what Cargo would build: licences that are not allowed, crates in two
//! versions that are not listed, sources other than crates.io, and entries that nothing needs.
//! `cargo deny` reads the same file. Of its format this knows what is in there, an entry a line.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::{cargo, output};

const FILE: &str = "deny.toml";

/// What the file says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rules {
    targets: Vec<String>,
    licences: Vec<String>,
    /// `NAME@VERSION`.
    skipped: Vec<String>,
}

/// A crate that is built in.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Package {
    name: String,
    version: String,
    licence: String,
    /// In Cargo's words, if it is neither crates.io nor a directory.
    source: Option<String>,
}

/// What is not as the file says.
pub fn check(root: &Path) -> Result<Vec<String>> {
    let rules = rules(&fs::read_to_string(root.join(FILE)).context(FILE)?)?;
    let mut targets = Vec::new();
    targets.extend(rules.targets.iter().flat_map(|target| ["--target", target]));
    let packages =
        packages(root, &[&["--workspace", "--edges=normal,build,dev"], &*targets].concat())?;
    if packages.is_empty() {
        bail!("cargo tree named no crates");
    }
    Ok(faults(&rules, &packages))
}

/// What is linked into a program: `NAME VERSION` of each.
pub fn linked(root: &Path, program: &str, target: &str) -> Result<BTreeSet<String>> {
    let words = ["--package", program, "--edges=normal,no-proc-macro", "--target", target];
    let packages = packages(root, &words)?;
    Ok(packages.into_iter().map(|one| format!("{} {}", one.name, one.version)).collect())
}

/// Without a network this needs what `cargo fetch --locked` gets.
fn packages(root: &Path, words: &[&str]) -> Result<BTreeSet<Package>> {
    let mut tree = cargo(&["tree", "--locked", "--prefix=none", "--format={p}|{l}"]);
    let tree = output(tree.args(words).current_dir(root))?;
    Ok(tree.lines().filter_map(package).collect())
}

fn faults(rules: &Rules, packages: &BTreeSet<Package>) -> Vec<String> {
    let mut faults = Vec::new();
    let allowed: BTreeSet<_> = rules.licences.iter().map(String::as_str).collect();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for Package { name, version, licence, source } in packages {
        versions.entry(name).or_default().insert(version);
        if !satisfied(licence, &allowed) {
            faults.push(format!("{name} {version}: its licence {licence:?} is not allowed"));
        }
        if let Some(source) = source {
            faults.push(format!("{name} {version} comes from {source}"));
        }
    }
    for licence in &allowed {
        let others: BTreeSet<_> = allowed.iter().copied().filter(|one| one != licence).collect();
        let needs =
            |one: &Package| satisfied(&one.licence, &allowed) && !satisfied(&one.licence, &others);
        if !packages.iter().any(needs) {
            faults.push(format!("{FILE}: nothing needs the licence {licence}"));
        }
    }
    let is_skipped = |name: &str, version: &str| {
        rules.skipped.iter().any(|one| one.split_once('@') == Some((name, version)))
    };
    for (name, all) in &versions {
        let left: Vec<_> = all.iter().filter(|version| !is_skipped(name, version)).collect();
        if left.len() > 1 {
            faults.push(format!("{name} is there in versions {left:?}"));
        }
    }
    for skipped in &rules.skipped {
        let (name, version) = skipped.split_once('@').unwrap_or((skipped, ""));
        let is_one_of_two =
            versions.get(name).is_some_and(|all| all.len() > 1 && all.contains(version));
        if !is_one_of_two {
            faults.push(format!("{FILE}: {skipped} is not one of two versions any more"));
        }
    }
    faults
}

/// Reads `KEY = [`, entries, `]`. What is written otherwise is refused: nothing is passed over.
fn rules(text: &str) -> Result<Rules> {
    let mut rules = Rules::default();
    let (mut section, mut key) = ("", None);
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        match key {
            Some("targets" | "allow" | "skip") if line == "]" => key = None,
            Some("targets") => rules.targets.push(quoted(line)?),
            Some("allow") => rules.licences.push(quoted(line)?),
            Some(_) => {
                let fields = line.strip_prefix("{ crate = ").and_then(|rest| rest.split_once(", "));
                let (name, reason) = fields.with_context(|| format!("{FILE}: {line}"))?;
                if !reason.starts_with("reason = \"") {
                    bail!("{FILE}: without a reason: {line}");
                }
                rules.skipped.push(quoted(name)?);
            }
            None if line.starts_with('[') => section = line,
            None => match (section, line) {
                ("[graph]", "targets = [") => key = Some("targets"),
                ("[licenses]", "allow = [") => key = Some("allow"),
                ("[bans]", "skip = [") => key = Some("skip"),
                // The checks that are made here in any case.
                (_, "" | "multiple-versions = \"deny\"") => {}
                (_, "unknown-registry = \"deny\"" | "unknown-git = \"deny\"") => {}
                _ => bail!("{FILE}: `cargo x tidy` does not know {line:?}"),
            },
        }
    }
    Ok(rules)
}

fn quoted(text: &str) -> Result<String> {
    let inner =
        text.trim_end_matches(',').strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    Ok(inner.with_context(|| format!("{FILE}: {text}"))?.to_owned())
}

/// A line of `cargo tree`: `NAME vVERSION (WHERE)|LICENCE (*)`.
fn package(line: &str) -> Option<Package> {
    let (name, licence) = line.trim_end_matches(" (*)").split_once('|')?;
    let mut words = name.splitn(3, ' ');
    let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
    let notes = words.next().unwrap_or_default().replace("(proc-macro)", "");
    let source = notes.trim().trim_matches(['(', ')']);
    let is_foreign = !source.is_empty() && !Path::new(source).is_absolute();
    Some(Package {
        name: name.to_owned(),
        version: version.to_owned(),
        licence: licence.to_owned(),
        source: is_foreign.then(|| source.to_owned()),
    })
}

/// Whether an SPDX expression can be met by licences that are allowed. `/` is how `OR` was written.
fn satisfied(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<_> = spaced.split_whitespace().collect();
    let mut rest = &words[..];
    either(&mut rest, allowed) == Some(true) && rest.is_empty()
}

/// `A OR B`; `None` is no expression.
fn either(words: &mut &[&str], allowed: &BTreeSet<&str>) -> Option<bool> {
    let mut is_met = both(words, allowed)?;
    while let Some(rest) = words.strip_prefix(&["OR"]) {
        *words = rest;
        is_met |= both(words, allowed)?;
    }
    Some(is_met)
}

/// `A AND B`, which binds closer.
fn both(words: &mut &[&str], allowed: &BTreeSet<&str>) -> Option<bool> {
    let mut is_met = one(words, allowed)?;
    while let Some(rest) = words.strip_prefix(&["AND"]) {
        *words = rest;
        is_met &= one(words, allowed)?;
    }
    Some(is_met)
}

/// `A`, `A WITH EXCEPTION`, or an expression in brackets.
fn one(words: &mut &[&str], allowed: &BTreeSet<&str>) -> Option<bool> {
    match **words {
        ["(", ref rest @ ..] => {
            *words = rest;
            let is_met = either(words, allowed)?;
            *words = words.strip_prefix(&[")"])?;
            Some(is_met)
        }
        [licence, "WITH", exception, ref rest @ ..] => {
            *words = rest;
            Some(allowed.contains(&*format!("{licence} WITH {exception}")))
        }
        [licence, ref rest @ ..] => {
            *words = rest;
            Some(allowed.contains(licence))
        }
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = "# Why.\n[graph]\ntargets = [\n\"x\",\n]\n[licenses]\nallow = [\n    \
                         \"MIT\",\n    \"Apache-2.0 WITH LLVM-exception\",\n]\n[bans]\n\
                         multiple-versions = \"deny\"\nskip = [\n    \
                         { crate = \"a@1.0.0\", reason = \"b\" },\n]\n";

    fn packages(lines: &[&str]) -> BTreeSet<Package> {
        lines.iter().map(|line| package(line).unwrap()).collect()
    }

    #[test]
    fn what_is_not_as_the_file_says_is_named() {
        let rules = rules(RULES).unwrap();
        let good = [
            "a v1.0.0|MIT",
            "a v2.0.0 (proc-macro)|MIT OR Apache-2.0 (*)",
            "a v2.0.0 (proc-macro)|MIT OR Apache-2.0",
            "ours v0.1.0 (/home/x)|Apache-2.0 WITH LLVM-exception",
        ];
        assert_eq!(faults(&rules, &packages(&good)), [""; 0]);
        assert_eq!(
            faults(&rules, &packages(&["a v2.0.0|GPL-3.0", "b v1.0.0|MIT", "b v1.1.0|"])),
            [
                "a 2.0.0: its licence \"GPL-3.0\" is not allowed",
                "b 1.1.0: its licence \"\" is not allowed",
                "deny.toml: nothing needs the licence Apache-2.0 WITH LLVM-exception",
                "b is there in versions [\"1.0.0\", \"1.1.0\"]",
                "deny.toml: a@1.0.0 is not one of two versions any more",
            ]
        );
        let foreign = ["a v1.0.0|MIT", "a v2.0.0 (https://x/a?rev=1#1)|MIT", good[3], good[1]];
        assert_eq!(faults(&rules, &packages(&foreign)), ["a 2.0.0 comes from https://x/a?rev=1#1"]);
        assert_eq!(
            faults(&rules, &packages(&good[..3])),
            ["deny.toml: nothing needs the licence Apache-2.0 WITH LLVM-exception"]
        );
    }

    #[test]
    fn expressions_are_met_as_spdx_says() {
        let allowed = BTreeSet::from(["MIT", "ISC"]);
        for good in ["MIT", "MIT/Apache-2.0", "X OR MIT", "MIT AND (X OR ISC)", "X AND Y OR MIT"] {
            assert!(satisfied(good, &allowed), "{good}");
        }
        let bad =
            ["", "X", "MIT AND X", "MIT WITH X", "(MIT", "MIT ISC", "MIT OR", "X AND (MIT OR Y)"];
        for bad in bad {
            assert!(!satisfied(bad, &allowed), "{bad}");
        }
    }

    #[test]
    fn nothing_in_the_file_is_passed_over() {
        let said = rules(RULES).unwrap();
        assert_eq!((said.targets.len(), said.licences.len(), said.skipped.len()), (1, 2, 1));
        for bad in [
            "[bans]\nskip = [\n{ crate = \"a@1.0.0\" },\n]\n",
            "[bans]\nskip = [\n{ crate = \"a@1.0.0\", depth = 1 },\n]\n",
            "[licenses]\nallow = [\nMIT\n]\n",
            "[licenses]\nexceptions = [\n]\n",
        ] {
            assert!(rules(bad).is_err(), "{bad}");
        }
    }
}
