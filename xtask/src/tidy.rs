//! Rules that no compiler knows: file heads, lengths, words that have no place in the project, who
//! uses whom, which rooms are closed, what is used of others, that what is cited of docs/protocols is
//! there, and that the faults of sim/mutations are still faults of this code.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{deny, floors, sim};

/// A file longer than this is more than one thing.
const LINES_AT_MOST: usize = 800;
const COLUMNS_AT_MOST: usize = 100;
/// Code that is not done, and tests that do not count.
const UNFINISHED: [&str; 5] =
    [concat!("todo", "!("), concat!("unimplemented", "!("), "#[ignore", "FIXME", "XXX"];
/// A test waits for a signal or for virtual time.
const SLEEPS: [&str; 2] = ["thread::sleep", "time::sleep("];

/// A doc that says nothing.
const EMPTY_DOCS: [&str; 6] =
    ["/// Which.", "/// Why.", "/// When.", "/// Where.", "/// How.", "/// Who."];

/// Debian's packages make this folder; a test that needs a path that is none makes one up below a
/// directory of its own.
const THERE_SOMETIMES: &str = "\"/nonexistent";

/// Folders that are one implementation of a contract: nothing else in the crate's sources names what
/// is in them, but for tests.
const ROOMS: [Room; 3] = [
    Room { of: "crates/bowline-node/src/", name: "process" },
    Room { of: "crates/bowline-node/src/", name: "cri" },
    Room { of: "crates/bowline-gateway/src/", name: "files" },
];

struct Room {
    of: &'static str,
    name: &'static str,
}

/// The protocols' sections and traps, which code cites by number.
const PROTOCOLS: &str = "docs/protocols/";

/// What each file of [`PROTOCOLS`] has: `2.4`, `T7`.
type Sections = BTreeMap<String, Vec<String>>;

/// Checks every file that git tracks.
pub fn run(root: &Path) -> Result<()> {
    // What is not committed yet would fail once it is.
    let mut list = Command::new("git");
    list.args(["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"]);
    let listed = list.current_dir(root).output();
    let listed = String::from_utf8(listed.context("git ls-files")?.stdout)?;
    let known = protocols(root)?;
    let mut faults = floors::check(root)?;
    faults.extend(deny::check(root)?);
    faults.extend(sim::unfit(root)?);
    let (mut checked, mut outside) = (0, BTreeSet::new());
    for path in listed.lines() {
        // A deleted file may still be listed until it is committed.
        let Ok(text) = fs::read_to_string(root.join(path)) else { continue };
        checked += 1;
        if is_unsafe(path, &text) {
            outside.insert(path.to_owned());
        }
        let found = check(path, &text, &known);
        faults.extend(found.into_iter().map(|fault| format!("{path}: {fault}")));
    }
    let said = fs::read_to_string(root.join("ARCHITECTURE.md")).context("ARCHITECTURE.md")?;
    let said = linked(&said, "- **Unsafe code**");
    faults.extend(said.symmetric_difference(&outside).map(|path| {
        format!("{path}: unsafe code, and the list in ARCHITECTURE.md, have to agree")
    }));
    if checked == 0 {
        bail!("tidy found no files to check");
    }
    if !faults.is_empty() {
        bail!("tidy:\n  {}", faults.join("\n  "));
    }
    eprintln!("── tidy: {checked} files");
    Ok(())
}

/// Whether a file that is shipped lifts the ban on unsafe code.
fn is_unsafe(path: &str, text: &str) -> bool {
    let is_shipped = path.starts_with("crates/") && path.contains("/src/");
    is_shipped && ["allow(unsafe_code", "expect(unsafe_code"].iter().any(|one| text.contains(one))
}

/// What an entry of a list has links to.
fn linked(text: &str, entry: &str) -> BTreeSet<String> {
    let behind = text.split_once(entry).map_or("", |parts| parts.1);
    let entry = behind.split("\n- ").next().unwrap_or_default();
    let links = entry.split("](").skip(1);
    links.filter_map(|link| Some(link.split_once(')')?.0.to_owned())).collect()
}

fn protocols(root: &Path) -> Result<Sections> {
    let mut known = Sections::new();
    for entry in fs::read_dir(root.join(PROTOCOLS)).context(PROTOCOLS)? {
        let entry = entry?;
        let text = fs::read_to_string(entry.path())?;
        known.insert(entry.file_name().to_string_lossy().into_owned(), sections(&text));
    }
    Ok(known)
}

/// The numbers that begin a heading or, in bold, an entry of a list.
fn sections(text: &str) -> Vec<String> {
    let heads = text.lines().filter_map(|line| match line.strip_prefix("## ") {
        Some(title) => Some(number(title).to_owned()),
        None => line.strip_prefix("- **T").map(|rest| format!("T{}", number(rest))),
    });
    heads.filter(|head| head.ends_with(|last: char| last.is_ascii_digit())).collect()
}

/// The number that a text begins with, points in it included; empty if it begins with none.
fn number(text: &str) -> &str {
    let end = text.find(|next: char| !next.is_ascii_digit() && next != '.').unwrap_or(text.len());
    text[..end].trim_end_matches('.')
}

/// Citations of what [`PROTOCOLS`] has not: `docs/protocols/FILE.md, 2.4 and 2.9`, `trap T7`.
fn astray(text: &str, known: &Sections) -> Vec<String> {
    // A citation may go on in the next line of its comment.
    let lines = text.lines().map(|line| line.trim().trim_start_matches(['/', '!']).trim_start());
    let text = lines.collect::<Vec<_>>().join(" ");
    let mut faults = Vec::new();
    let mut cite = |file: &str, section: &str| {
        if !known.get(file).is_some_and(|all| all.iter().any(|one| one == section)) {
            faults.push(format!("{PROTOCOLS}{file} has no {section}"));
        }
    };
    for (at, place) in text.match_indices(PROTOCOLS) {
        let rest = &text[at + place.len()..];
        let Some(end) = rest.find(".md") else { continue };
        let (file, mut rest) = rest.split_at(end + ".md".len());
        while let Some(more) = rest.strip_prefix(", ").or(rest.strip_prefix(" and ")) {
            let section = number(more);
            if section.is_empty() {
                break;
            }
            cite(file, section);
            rest = &more[section.len()..];
        }
    }
    for (at, word) in text.match_indices("rap T") {
        match number(&text[at + word.len()..]) {
            "" => {}
            trap => cite("traps.md", &format!("T{trap}")),
        }
    }
    faults
}

fn check(path: &str, text: &str, known: &Sections) -> Vec<String> {
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
        if EMPTY_DOCS.contains(&line.trim()) {
            faults.push(format!("{number}: a doc that is no sentence"));
        }
        if line.contains(THERE_SOMETIMES) {
            faults.push(format!("{number}: a path that some hosts have: {THERE_SOMETIMES}\""));
        }
        let in_tests = path.contains("/tests/") || path.starts_with("interop/");
        for word in SLEEPS.iter().filter(|word| in_tests && line.contains(**word)) {
            faults.push(format!("{number}: a test that sleeps: {word}"));
        }
    }
    faults.extend(intrusions(path, text));
    faults.extend(astray(text, known));
    faults
}

/// Where something outside of a room names what is in it.
fn intrusions(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for Room { of, name } in ROOMS {
        let Some(inside) = path.strip_prefix(of) else { continue };
        if inside.starts_with(&format!("{name}/")) {
            continue;
        }
        let is_name =
            |behind: &str| !behind.starts_with(|next: char| next == '_' || next.is_alphanumeric());
        let lines = text.lines().take_while(|line| *line != "mod tests {");
        for (number, line) in (1..).zip(lines) {
            let code = line.split("//").next().unwrap_or_default();
            let ways =
                [format!("crate::{name}"), format!("self::{name}"), format!("super::{name}")];
            if ways.iter().any(|way| code.split(way.as_str()).skip(1).any(is_name)) {
                faults.push(format!("{number}: only {of}{name}/ knows what is in {name}"));
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_code_is_where_the_list_says() {
        let list = "- **A** [x](x.rs).\n- **B**: [y](y.rs),\n  [z](z.rs).\n- **C** [v](v.rs)\n";
        assert_eq!(linked(list, "- **B**").into_iter().collect::<Vec<_>>(), ["y.rs", "z.rs"]);
        let lifted = "#![allow(unsafe_code, reason = \"x\")]";
        assert!(is_unsafe("crates/a/src/b.rs", lifted));
        assert!(!is_unsafe("crates/a/tests/it/b.rs", lifted));
        assert!(!is_unsafe("crates/a/src/b.rs", "#![forbid(unsafe_code)]"));
    }

    #[test]
    fn a_room_is_closed() {
        let text = "//! crate::process\nuse crate::process::Leader;\nuse crate::processes::X;\n\
                    mod tests {\n    use crate::process::Leader;\n";
        let expected = ["2: only crates/bowline-node/src/process/ knows what is in process"];
        assert_eq!(intrusions("crates/bowline-node/src/session.rs", text), expected);
        for inside in ["crates/bowline-node/src/process/mod.rs", "crates/bowline/src/dev.rs"] {
            assert_eq!(intrusions(inside, text), [""; 0]);
        }
    }

    #[test]
    fn what_is_cited_is_there_or_named() {
        let spdy = "# SPDY\n\n## 3.1 Frames\n\n## 3.10\n\n### 3.2 Not one\n";
        let traps = "- **T7.** One.\n- **To** is none.\n## Others\n";
        let known = Sections::from([
            ("spdy.md".to_owned(), sections(spdy)),
            ("traps.md".to_owned(), sections(traps)),
        ]);
        assert_eq!(known["spdy.md"], ["3.1", "3.10"]);
        let good = "// docs/protocols/spdy.md, 3.1 and 3.10.\n    /// (docs/protocols/spdy.md,\n    \
                    /// 3.1). Trap T7 in docs/protocols/traps.md, and a trap The docs name.";
        assert_eq!(astray(good, &known), [""; 0]);
        let bad = "//! docs/protocols/spdy.md, 3.1 and 3.2; docs/protocols/x.md, 1; trap\n//! T77";
        let expected = ["spdy.md has no 3.2", "x.md has no 1", "traps.md has no T77"];
        assert_eq!(astray(bad, &known), expected.map(|fault| format!("{PROTOCOLS}{fault}")));
    }
}
