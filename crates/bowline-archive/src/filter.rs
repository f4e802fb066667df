//! Entries of an archive to whether they may be taken, and at which path of the requested tree.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use thiserror::Error;

use crate::reader::{Entry, EntryKind, Headers};
use crate::{Problem, quoted};

/// The longest name and the longest link target, in bytes: what a system call takes, less room for
/// the directory in front.
pub const NAME_BYTES: usize = 4096 - 16;
/// The longest component of a name in bytes, as in all common file systems.
pub const PART_BYTES: usize = 255;
/// The most memory for names that have to be kept, in bytes: enough for some ten million short
/// ones, and little enough for a machine with a few GiB.
pub const KEPT_BYTES: u64 = 1 << 30;
/// The memory that keeping a name takes beside its own bytes.
pub const ENTRY_BYTES: u64 = 64;

/// How much an archive may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes of files and headers together.
    pub bytes: u64,
    /// The most entries of any kind, extended headers included.
    pub entries: u64,
}

impl Limits {
    /// 1 TiB and ten million entries: more than copies by tar are used for, and still bounded.
    pub const DEFAULT: Limits = Limits { bytes: 1 << 40, entries: 10_000_000 };
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::DEFAULT
    }
}

/// Why the rest of an archive is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// The archive holds something that was not asked for. The text is kubectl's.
    #[error("tar contents corrupted: {0:?} was not asked for")]
    Foreign(String),
    /// The archive holds more bytes than [`Limits::bytes`].
    #[error("the archive holds more than {0} bytes (see --max-bytes)")]
    Bytes(u64),
    /// The archive holds more entries than [`Limits::entries`].
    #[error("the archive holds more than {0} entries (see --max-entries)")]
    Entries(u64),
    /// The archive holds the copy's own staging directory, so the copy would never end.
    #[error("the target is in the source")]
    IntoItself,
    /// The archive's names take more memory than [`KEPT_BYTES`].
    #[error("the archive's names take more than {0} bytes")]
    Names(u64),
}

/// What to do with an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Take the entry, at this path below the tree's root; empty for the root itself.
    Take(Vec<u8>),
    /// Skip the entry, and report why.
    Skip(Problem),
}

/// Judges the entries of one archive.
#[derive(Debug)]
pub struct EntryFilter {
    /// The names that lead to the root of the tree in the archive.
    root: Vec<Vec<u8>>,
    limits: Limits,
    symlinks: bool,
    bytes: u64,
    entries: u64,
    headers: Headers,
    kept: u64,
    /// Two hashes of each path that was taken: the paths themselves would take too much memory.
    seen: HashSet<(u64, u64)>,
    hashers: [RandomState; 2],
    /// Paths of symbolic links: nothing may be below them.
    links: HashSet<Vec<u8>>,
    /// The name of the directory that the copy is in until it is complete.
    staging: Vec<u8>,
}

impl EntryFilter {
    /// Creates a filter for an archive whose tree is named `root`; `.` if the archive is the tree
    /// itself. Without `symlinks`, symbolic links are skipped.
    #[must_use]
    pub fn new(root: &[u8], limits: Limits, symlinks: bool) -> EntryFilter {
        EntryFilter {
            root: parts(root).map(<[u8]>::to_vec).collect(),
            limits,
            symlinks,
            bytes: 0,
            entries: 0,
            headers: Headers::default(),
            kept: 0,
            seen: HashSet::new(),
            hashers: [RandomState::new(), RandomState::new()],
            links: HashSet::new(),
            staging: Vec::new(),
        }
    }

    /// Sets the name of the copy's staging directory. If an entry has it, the copy goes into its
    /// own source, and is refused.
    #[must_use]
    pub fn with_staging(self, name: &[u8]) -> EntryFilter {
        EntryFilter { staging: name.to_vec(), ..self }
    }

    /// Judges the next entry.
    ///
    /// # Errors
    /// [`Refused`] if nothing more of the archive may be taken.
    pub fn judge(&mut self, entry: &Entry) -> Result<Verdict, Refused> {
        self.entries += 1;
        if entry.kind == EntryKind::File {
            self.bytes = self.bytes.saturating_add(entry.size);
        }
        self.bounded()?;
        let failure = |what: &str| Ok(Verdict::Skip(Problem::failure(&entry.name, what)));
        if !self.staging.is_empty() && parts(&entry.name).any(|part| part == self.staging) {
            return Err(Refused::IntoItself);
        }
        if entry.name.contains(&0) {
            return failure("refused: its name has a zero byte");
        }
        let is_long = |name: &[u8]| {
            name.len() > NAME_BYTES || parts(name).any(|part| part.len() > PART_BYTES)
        };
        if is_long(&entry.name) || is_long(&entry.link) {
            return failure("refused: its name, or what it links to, is too long");
        }
        let path = match self.below_root(&entry.name) {
            Ok(path) => path,
            Err(Outside::Escapes) => {
                // kubectl's words.
                let name = quoted(&entry.name);
                let text = format!("file {name} is outside target destination, skipping");
                return Ok(Verdict::Skip(Problem { text, is_failure: true }));
            }
            Err(Outside::Foreign) => {
                return Err(Refused::Foreign(String::from_utf8_lossy(&entry.name).into_owned()));
            }
        };
        if self.is_below_a_link(&path) {
            return failure("refused: it is below a symbolic link");
        }
        match entry.kind {
            EntryKind::File | EntryKind::HardLink | EntryKind::Symlink | EntryKind::Directory => {}
            EntryKind::Fifo => {
                return Ok(Verdict::Skip(Problem::notice(
                    &entry.name,
                    "skipping: it is a named pipe",
                )));
            }
            EntryKind::Device => return failure("refused: it is a device"),
            EntryKind::Other(letter) => {
                let what = format!("refused: entries of type {:?} are not known", letter as char);
                return failure(&what);
            }
        }
        // Directories may come again; nothing of them is overwritten.
        let mark = (self.hashers[0].hash_one(&path), self.hashers[1].hash_one(&path));
        if !self.seen.insert(mark) && entry.kind != EntryKind::Directory {
            return failure("refused: the archive has it twice");
        }
        if entry.kind == EntryKind::Symlink {
            let stays = stays_inside(&path, &entry.link);
            if !(self.symlinks && stays) {
                return Ok(Verdict::Skip(self.skipped_link(entry)?));
            }
            self.keep_link(path.clone())?;
        }
        Ok(Verdict::Take(path))
    }

    /// Counts the archive's headers so far, whether an entry followed them or not.
    ///
    /// # Errors
    /// [`Refused`] if they exceed the limits.
    pub fn headers(&mut self, headers: Headers) -> Result<(), Refused> {
        self.headers = headers;
        self.bounded()
    }

    fn bounded(&self) -> Result<(), Refused> {
        if self.entries.saturating_add(self.headers.extended) > self.limits.entries {
            return Err(Refused::Entries(self.limits.entries));
        }
        if self.bytes.saturating_add(self.headers.bytes) > self.limits.bytes {
            return Err(Refused::Bytes(self.limits.bytes));
        }
        Ok(())
    }

    fn keep_link(&mut self, path: Vec<u8>) -> Result<(), Refused> {
        self.kept += path.len() as u64 + ENTRY_BYTES;
        self.links.insert(path);
        if self.kept > KEPT_BYTES { Err(Refused::Names(KEPT_BYTES)) } else { Ok(()) }
    }

    /// Returns the path below the root that a name of the archive means, if it means one.
    #[must_use]
    pub fn path(&self, name: &[u8]) -> Option<Vec<u8>> {
        if name.len() > NAME_BYTES {
            return None;
        }
        self.below_root(name).ok()
    }

    /// Returns kubectl's text for a skipped link, without its advice.
    fn skipped_link(&mut self, entry: &Entry) -> Result<Problem, Refused> {
        // What follows below its name must not make a directory of that name.
        if let Ok(path) = self.below_root(&entry.name) {
            self.keep_link(path)?;
        }
        let (name, target) = (quoted(&entry.name), quoted(&entry.link));
        let text = format!("skipping symlink: {name} -> {target}");
        Ok(Problem { text, is_failure: false })
    }

    fn is_below_a_link(&self, path: &[u8]) -> bool {
        let mut slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        !self.links.is_empty()
            && (self.links.contains(&b""[..]) && !path.is_empty()
                || slashes.any(|(at, _)| self.links.contains(&path[..at])))
    }

    /// Returns the path in the tree that a hard link of the archive leads to.
    #[must_use]
    pub fn hard_link_target(&self, entry: &Entry) -> Option<Vec<u8>> {
        let path = self.below_root(&entry.link).ok()?;
        (!self.is_below_a_link(&path)).then_some(path)
    }

    fn below_root(&self, name: &[u8]) -> Result<Vec<u8>, Outside> {
        if name.starts_with(b"/") || parts(name).any(|part| part == b"..") {
            return Err(Outside::Escapes);
        }
        let mut parts = parts(name);
        for expected in &self.root {
            if parts.next() != Some(&expected[..]) {
                return Err(Outside::Foreign);
            }
        }
        Ok(parts.collect::<Vec<_>>().join(&b'/'))
    }
}

enum Outside {
    Escapes,
    Foreign,
}

fn parts(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    name.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".")
}

/// Whether a symbolic link at `path` leads to somewhere in the tree, whatever else the tree holds:
/// up first, no higher than the root, then down. A `..` behind a name could pass another link.
fn stays_inside(path: &[u8], target: &[u8]) -> bool {
    if target.starts_with(b"/") || target.is_empty() || target.contains(&0) || path.is_empty() {
        return false;
    }
    let depth = path.iter().filter(|byte| **byte == b'/').count();
    let ups = parts(target).take_while(|part| *part == b"..").count();
    ups <= depth && parts(target).skip(ups).all(|part| part != b"..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, kind: EntryKind, link: &str) -> Entry {
        Entry {
            name: name.as_bytes().to_vec(),
            kind,
            size: 10,
            mode: 0,
            mtime: 0,
            link: link.as_bytes().to_vec(),
        }
    }

    fn judged(filter: &mut EntryFilter, name: &str, kind: EntryKind, link: &str) -> String {
        match filter.judge(&entry(name, kind, link)) {
            Ok(Verdict::Take(path)) => format!("take {}", String::from_utf8_lossy(&path)),
            Ok(Verdict::Skip(Problem { text, is_failure: true })) => format!("failure {text}"),
            Ok(Verdict::Skip(Problem { text, .. })) => format!("notice {text}"),
            Err(refused) => refused.to_string(),
        }
    }

    #[test]
    fn names_have_to_be_those_that_were_asked_for() {
        let mut filter = EntryFilter::new(b"./src", Limits::default(), true);
        let mut judge = |name: &str| judged(&mut filter, name, EntryKind::File, "");
        assert_eq!(judge("./src"), "take ");
        assert_eq!(judge("src/a//./b"), "take a/b");
        let twice = "failure \"./src/a/b\": refused: the archive has it twice";
        assert_eq!(judge("./src/a/b"), twice);
        for name in ["/src/x", "src/../x", "../src/x", "./src/a/../../x"] {
            let outside = "is outside target destination, skipping";
            assert_eq!(judge(name), format!("failure file {name:?} {outside}"));
        }
        // kubectl takes the first of these for `evil` below the target.
        for name in ["srcevil", "other", "."] {
            let expected = format!("tar contents corrupted: {name:?} was not asked for");
            assert_eq!(judge(name), expected);
        }
        let mut filter = EntryFilter::new(b".", Limits::default(), true);
        assert_eq!(judged(&mut filter, "./", EntryKind::Directory, ""), "take ");
        assert_eq!(judged(&mut filter, "x", EntryKind::File, ""), "take x");
    }

    #[test]
    fn links_stay_inside_and_nothing_passes_them() {
        let mut filter = EntryFilter::new(b"d", Limits::default(), true);
        let mut judge = |name: &str, kind, link: &str| judged(&mut filter, name, kind, link);
        let below = "refused: it is below a symbolic link";
        assert_eq!(judge("d/a", EntryKind::Symlink, "b/c"), "take a");
        assert!(judge("d/a/x", EntryKind::File, "").ends_with(below));
        assert_eq!(judge("d/s/t/l", EntryKind::Symlink, "../../q"), "take s/t/l");
        for (name, target) in [
            ("d/1", "/etc"),
            ("d/2", "../x"),
            ("d/3", "."),
            ("d/s/4", "../../x"),
            ("d/s/5", "x/../../y"),
            ("d/6", ""),
        ] {
            let found = judge(name, EntryKind::Symlink, target);
            let skipped = format!("notice skipping symlink: {name:?} -> {target:?}");
            let expected = if target == "." { "take 3".to_owned() } else { skipped };
            assert_eq!(found, expected, "{name}");
        }
        assert!(judge("d/1/passwd", EntryKind::File, "").ends_with(below));
        assert_eq!(
            judge("d", EntryKind::Symlink, "d/x"),
            "notice skipping symlink: \"d\" -> \"d/x\""
        );
        assert!(judge("d/y", EntryKind::File, "").ends_with(below));
    }

    #[test]
    fn a_copy_into_its_own_source_is_refused() {
        let filter = EntryFilter::new(b"d", Limits::default(), true);
        let mut filter = filter.with_staging(b".staging");
        let mut judge = |name: &str| judged(&mut filter, name, EntryKind::Directory, "");
        assert_eq!(judge("d/.staging-of-another"), "take .staging-of-another");
        assert_eq!(judge("d/a/.staging"), "the target is in the source");
    }

    #[test]
    fn limits_and_kinds() {
        let mut filter = EntryFilter::new(b"d", Limits { bytes: 25, entries: 5 }, false);
        let mut judge = |name: &str, kind| judged(&mut filter, name, kind, "x");
        assert_eq!(judge("d/dev", EntryKind::Device), "failure \"d/dev\": refused: it is a device");
        assert_eq!(judge("d/l", EntryKind::Symlink), "notice skipping symlink: \"d/l\" -> \"x\"");
        assert_eq!(judge("d/1", EntryKind::File), "take 1");
        assert_eq!(judge("d/2", EntryKind::File), "take 2");
        assert!(judge("d/3", EntryKind::File).contains("--max-bytes"));
        assert!(judge("d/4", EntryKind::Fifo).contains("--max-entries"));
    }

    #[test]
    fn names_and_headers_have_a_bound() {
        let mut filter = EntryFilter::new(b"d", Limits::default(), true);
        let mut judge =
            |name: &str, link: &str| judged(&mut filter, name, EntryKind::Symlink, link);
        let (part, long) = ("n".repeat(255), "n/".repeat(NAME_BYTES / 2));
        assert!(judge(&format!("d/{part}"), "x").starts_with("take"));
        for (name, link) in [
            (format!("d/{part}n"), "x".to_owned()),
            (format!("d/{long}"), "x".to_owned()),
            ("d/l".to_owned(), format!("{part}n")),
            ("d/m".to_owned(), format!("{long}n")),
        ] {
            let verdict = judge(&name, &link);
            assert!(
                verdict.starts_with("failure") && verdict.ends_with("is too long"),
                "{verdict}"
            );
            assert!(verdict.len() < 1200);
        }
        let limits = Limits { bytes: 1000, entries: 3 };
        let headers = |bytes, extended| {
            EntryFilter::new(b"d", limits, true).headers(Headers { bytes, extended })
        };
        assert_eq!(headers(1000, 3), Ok(()));
        assert_eq!(headers(1001, 0), Err(Refused::Bytes(1000)));
        assert_eq!(headers(0, 4), Err(Refused::Entries(3)));
        let mut filter = EntryFilter::new(b"d", limits, true);
        filter.headers(Headers { bytes: 900, extended: 2 }).unwrap();
        assert_eq!(judged(&mut filter, "d/a", EntryKind::File, ""), "take a");
        assert!(judged(&mut filter, "d/b", EntryKind::File, "").contains("--max-entries"));
    }
}
