//! What was sent and what has arrived to how they differ.
//!
//! Names, kinds and sizes are compared, and the lengths of links' targets: no file has to be read.

use std::collections::BTreeMap;

use bowline_archive::{Item, ItemKind, quoted};

use super::CopyError;
use super::listing::Listing;

/// The expected items of a tree, by path.
pub(crate) type Expected = BTreeMap<Vec<u8>, Item>;

/// The most changes that are reported one by one.
pub(crate) const MAX_PROBLEMS: u64 = 1000;

/// The result of a comparison.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// The first difference, with its name.
    first: Option<String>,
    differences: u64,
    /// The last name that cannot be compared, because the listing is not whole.
    pub unknown: Option<String>,
    /// Items that changed during the copy.
    pub changed: Vec<Vec<u8>>,
    /// Items that were received and differ, although they did not change.
    pub different: Vec<Vec<u8>>,
}

impl Comparison {
    fn add_difference(&mut self, path: &[u8], what: &str) {
        self.differences += 1;
        self.first.get_or_insert_with(|| format!("{}: {what}", name(path)));
    }

    /// Returns the error for the differences, if there are any. With `is_published`, the copy has
    /// the target's name already.
    pub(crate) fn failure(&self, is_published: bool) -> Option<CopyError> {
        let what = self.first.clone()?;
        let others = self.differences - 1;
        Some(match is_published {
            true => CopyError::Damaged { what, others },
            false => CopyError::Differs { what, others },
        })
    }
}

fn name(path: &[u8]) -> String {
    if path.is_empty() { "the root of the copy".to_owned() } else { quoted(path) }
}

/// Describes how two items differ, if they do. Some file systems have no sizes of links.
fn difference(expected: &Item, found: &Item) -> Option<String> {
    let kind = |kind| match kind {
        ItemKind::File => "a file",
        ItemKind::Directory => "a directory",
        ItemKind::Symlink => "a symbolic link",
        ItemKind::Other => "no file",
    };
    if expected.kind != found.kind {
        return Some(format!("it is {} there, not {}", kind(found.kind), kind(expected.kind)));
    }
    let is_known = expected.kind != ItemKind::Symlink || found.size != 0;
    (expected.size != found.size && is_known)
        .then(|| format!("it has {} bytes there, not {}", found.size, expected.size))
}

/// Compares what was sent into a container with what is there. Other items may be there, too.
pub(crate) fn compare_upload(expected: &Expected, listed: &Listing) -> Comparison {
    let mut found = Comparison::default();
    for (path, item) in expected {
        match listed.items.get(path) {
            Some((there, _)) => {
                if let Some(what) = difference(item, there) {
                    found.add_difference(path, &what);
                }
            }
            None if listed.is_whole => found.add_difference(path, "it is not there"),
            None => found.unknown = Some(name(path)),
        }
    }
    found
}

/// The items that were received from a container.
pub(crate) trait ReceivedItems {
    /// Returns what was received at a path.
    fn item(&self, path: &[u8]) -> Option<Item>;
    /// Whether a problem was reported of this path, or of one above it.
    fn is_reported(&self, path: &[u8]) -> bool;
    /// Whether a file's last byte is a zero, as if tar had padded the file.
    fn ends_in_zero(&self, path: &[u8]) -> bool;
    /// Returns the paths of all items that were received.
    fn paths(&self) -> Vec<&Vec<u8>>;
}

/// Compares what was received from a container with what is there. `began` is the container's clock
/// at the copy's begin, where it is known: a difference of what changed since is no loss.
pub(crate) fn compare_download(
    ours: &impl ReceivedItems,
    listed: &Listing,
    began: Option<i64>,
) -> Comparison {
    let mut found = Comparison::default();
    let is_new = |item: &Item| match (item.mtime, began) {
        (Some(mtime), Some(began)) => mtime >= began,
        _ => false,
    };
    // Tars disagree about times before 1970.
    let is_other = |ours: &Item, theirs: &Item| {
        theirs.mtime.is_some_and(|mtime| mtime >= 0 && ours.mtime != theirs.mtime)
    };
    let has_changed = |path: &[u8]| match (ours.item(path), listed.items.get(path)) {
        (Some(ours), Some((theirs, _))) => is_new(theirs) || is_other(&ours, theirs),
        _ => true,
    };
    let parent = |path: &[u8]| -> Vec<u8> {
        let slash = path.iter().rposition(|byte| *byte == b'/');
        slash.map_or(Vec::new(), |slash| path[..slash].to_vec())
    };
    for (path, (theirs, _)) in &listed.items {
        match ours.item(path) {
            Some(item) => {
                let is_file = item.kind == ItemKind::File;
                let what = difference(&item, theirs);
                if what.is_none() && !(is_file && is_other(&item, theirs)) {
                    continue;
                }
                match what {
                    Some(what) if !has_changed(path) && !has_changed(&parent(path)) => {
                        found.add_difference(path, &what);
                        found.different.push(path.clone());
                    }
                    _ => found.changed.push(path.clone()),
                }
            }
            None if theirs.kind == ItemKind::Other || ours.is_reported(path) => {}
            None if !path.is_empty() && has_changed(&parent(path)) => {
                // Only the topmost missing directory is reported.
                if ours.item(&parent(path)).is_some() {
                    found.changed.push(path.clone());
                }
            }
            None => found.add_difference(path, "it has not come"),
        }
    }
    for path in ours.paths() {
        if listed.items.contains_key(path) {
            continue;
        }
        if !listed.is_whole {
            found.unknown = Some(name(path));
        } else if path.is_empty() || !has_changed(&parent(path)) {
            found.add_difference(path, "it has come, and is not there");
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn file(size: u64, mtime: i64) -> Item {
        Item { kind: ItemKind::File, size, mtime: Some(mtime) }
    }

    const DIR: Item = Item { kind: ItemKind::Directory, size: 0, mtime: Some(5) };

    fn tree(items: &[(&str, Item)]) -> Expected {
        items.iter().map(|(path, item)| (path.as_bytes().to_vec(), *item)).collect()
    }

    fn listing(items: &[(&str, Item)], is_whole: bool) -> Listing {
        let items = tree(items).into_iter().map(|(path, item)| (path, (item, 0))).collect();
        Listing { items, is_whole, now: None }
    }

    struct Ours(Expected, BTreeSet<Vec<u8>>);

    impl ReceivedItems for Ours {
        fn item(&self, path: &[u8]) -> Option<Item> {
            self.0.get(path).copied()
        }
        fn is_reported(&self, path: &[u8]) -> bool {
            self.1.contains(path)
        }
        fn ends_in_zero(&self, _: &[u8]) -> bool {
            false
        }
        fn paths(&self) -> Vec<&Vec<u8>> {
            self.0.keys().collect()
        }
    }

    fn words(found: &Comparison) -> String {
        found.failure(false).map_or(String::new(), |error| error.to_string())
    }

    #[test]
    fn each_difference_of_what_was_sent_has_its_name() {
        let link = Item { kind: ItemKind::Symlink, size: 3, mtime: None };
        let all = [("", DIR), ("a", file(5, 1)), ("b", file(0, 1)), ("l", link)];
        let expected = tree(&all);
        assert_eq!(words(&compare_upload(&expected, &listing(&all, true))), "");
        let nothing = "; nothing has the target's name";
        for (there, what) in [
            (file(4, 1), "\"a\": it has 4 bytes there, not 5"),
            (link, "\"a\": it is a symbolic link there, not a file"),
        ] {
            let mut others = all;
            others[1].1 = there;
            let found = compare_upload(&expected, &listing(&others, true));
            assert_eq!(words(&found), format!("{what}{nothing}"));
        }
        let found = compare_upload(&expected, &listing(&all[..2], true));
        assert_eq!(words(&found), format!("\"b\": it is not there (and 1 more){nothing}"));
        let found = compare_upload(&expected, &listing(&all[..2], false));
        assert!(words(&found).is_empty() && found.unknown.is_some());
        let unknown = Item { size: 0, ..link };
        let others = [("", DIR), ("a", file(5, 1)), ("b", file(0, 1)), ("l", unknown)];
        assert_eq!(words(&compare_upload(&expected, &listing(&others, true))), "");
    }

    #[test]
    fn what_has_changed_meanwhile_is_no_loss() {
        let all = [("", DIR), ("a", file(5, 1)), ("log", file(9, 1))];
        let found = |listed: &[(&str, Item)], told: &[&str], began| {
            let told = told.iter().map(|path| path.as_bytes().to_vec()).collect();
            let found = compare_download(&Ours(tree(&all), told), &listing(listed, true), began);
            let changed = found.changed.iter().map(|path| String::from_utf8_lossy(path).into());
            (words(&found), changed.collect::<Vec<String>>())
        };
        let changed = |name: &str| (String::new(), vec![name.to_owned()]);
        let differs = |what: &str| (format!("{what}; nothing has the target's name"), vec![]);
        let with = |path, item| [("", DIR), ("a", file(5, 1)), (path, item)];
        assert_eq!(found(&all, &[], None), (String::new(), vec![]));
        assert_eq!(found(&with("log", file(12, 3)), &[], None), changed("log"));
        // Within the same second.
        assert_eq!(found(&with("log", file(12, 1)), &[], Some(1)), changed("log"));
        let short = "\"log\": it has 12 bytes there, not 9";
        assert_eq!(found(&with("log", file(12, 1)), &[], Some(6)), differs(short));
        let more = [&all[..], &[("new", file(0, 9))]].concat();
        assert_eq!(found(&more, &[], None), differs("\"new\": it has not come"));
        assert_eq!(found(&more, &["new"], None), (String::new(), vec![]));
        assert_eq!(found(&more, &[], Some(5)), changed("new"));
        assert_eq!(found(&all[..2], &[], None), differs("\"log\": it has come, and is not there"));
        assert_eq!(found(&all[..2], &[], Some(5)), (String::new(), vec![]));
    }
}
