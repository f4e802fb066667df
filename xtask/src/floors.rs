//! `ARCHITECTURE.md`'s table of crates, held against their manifests: who uses whom, and no crate
//! one of its own floor or above.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

const HEADING: &str = "## The crates";
/// Within a floor, the one that others of it may use.
const SHARED: &str = "bowline-io";

/// A row of the table.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    name: String,
    /// Counted from the top.
    floor: usize,
    /// `None` is all.
    uses: Option<BTreeSet<String>>,
}

/// What is not as the table says.
pub fn check(root: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).context("ARCHITECTURE.md")?;
    let mut used = BTreeMap::new();
    for entry in fs::read_dir(root.join("crates")).context("crates")? {
        let manifest = entry?.path().join("Cargo.toml");
        if let Ok(text) = fs::read_to_string(&manifest) {
            let (name, uses) = dependencies(&text);
            used.insert(name, uses);
        }
    }
    Ok(faults(&rows(&text), &used))
}

fn faults(rows: &[Row], used: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut faults = Vec::new();
    let floors: BTreeMap<_, _> = rows.iter().map(|row| (&*row.name, row.floor)).collect();
    let missing = used.keys().filter(|name| !floors.contains_key(&***name));
    faults.extend(missing.map(|name| format!("ARCHITECTURE.md: no row for {name}")));
    for Row { name, floor, uses: said } in rows {
        let Some(uses) = used.get(name) else {
            faults.push(format!("ARCHITECTURE.md: there is no crate {name}"));
            continue;
        };
        if said.as_ref().is_some_and(|said| said != uses) {
            faults.push(format!("ARCHITECTURE.md: {name} uses {uses:?}"));
        }
        let is_below = |other: &str| {
            let is_shared = other == SHARED && name != SHARED;
            floors.get(other).is_none_or(|of| of > floor || of == floor && is_shared)
        };
        for other in uses.iter().filter(|other| !is_below(other)) {
            faults.push(format!("{name} uses {other}, which is no lower floor"));
        }
    }
    faults
}

fn rows(text: &str) -> Vec<Row> {
    let behind = text.split_once(HEADING).map_or("", |parts| parts.1);
    let table = behind.split("\n## ").next().unwrap_or_default();
    let mut floor = 0;
    let mut rows = Vec::new();
    for line in table.lines().filter(|line| line.contains("| `bowline")) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [named, name, _, uses] = cells[..] else { continue };
        floor += usize::from(!named.is_empty());
        let uses = (uses != "all").then(|| {
            let words = uses.split(", ").filter(|word| *word != "–");
            words.map(|word| format!("bowline-{word}")).collect()
        });
        rows.push(Row { name: name.trim_matches('`').to_owned(), floor, uses });
    }
    rows
}

/// A manifest's name, and which crates of ours its library or program uses.
fn dependencies(manifest: &str) -> (String, BTreeSet<String>) {
    let mut section = "";
    let (mut name, mut uses) = (String::new(), BTreeSet::new());
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        } else if section == "[package]"
            && let Some(value) = line.strip_prefix("name = ")
        {
            name = value.trim_matches('"').to_owned();
        } else if section == "[dependencies]" && line.starts_with("bowline") {
            uses.extend(line.split(['.', ' ', '=']).next().map(str::to_owned));
        }
    }
    (name, uses)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "## The crates\n\n| floor | crate | what | uses |\n|---|---|---|---|\n\
                         | top | `bowline` | x | all |\n\
                         | roles | `bowline-a` | x | io |\n| | `bowline-b` | x | – |\n\
                         | low | `bowline-io` | x | – |\n| | `bowline-c` | x | io |\n\n## More\n";

    fn used(all: &[(&str, &[&str])]) -> BTreeMap<String, BTreeSet<String>> {
        let set = |uses: &[&str]| uses.iter().map(|one| (*one).to_owned()).collect();
        all.iter().map(|(name, uses)| ((*name).to_owned(), set(uses))).collect()
    }

    #[test]
    fn the_table_is_held_against_the_manifests() {
        let rows = rows(TABLE);
        assert_eq!(rows.iter().map(|row| row.floor).collect::<Vec<_>>(), [1, 2, 2, 3, 3]);
        let good = [
            ("bowline", &["bowline-a", "bowline-b"][..]),
            ("bowline-a", &["bowline-io"]),
            ("bowline-b", &[]),
            ("bowline-c", &["bowline-io"]),
            ("bowline-io", &[]),
        ];
        assert_eq!(faults(&rows, &used(&good)), [""; 0]);
        let mut bad = good;
        bad[2].1 = &["bowline-a"];
        assert_eq!(
            faults(&rows, &used(&bad)),
            [
                "ARCHITECTURE.md: bowline-b uses {\"bowline-a\"}",
                "bowline-b uses bowline-a, which is no lower floor"
            ]
        );
        assert_eq!(
            faults(&rows, &used(&good[..4])),
            ["ARCHITECTURE.md: there is no crate bowline-io"]
        );
        let mut more = used(&good);
        more.insert("bowline-new".into(), BTreeSet::new());
        assert_eq!(faults(&rows, &more), ["ARCHITECTURE.md: no row for bowline-new"]);
    }

    #[test]
    fn only_what_is_built_in_is_a_use() {
        let manifest = "[package]\nname = \"bowline-a\"\n[dependencies]\nbowline-io.workspace = \
                        true\nbytes = \"1\"\n[dev-dependencies]\nbowline-b.workspace = true\n";
        let (name, uses) = dependencies(manifest);
        assert_eq!((&*name, uses.len(), uses.contains("bowline-io")), ("bowline-a", 1, true));
    }
}
