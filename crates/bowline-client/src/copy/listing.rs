//! The output of scripts in a container to listings and sums, by paths below the root.

use std::collections::BTreeMap;

use bowline_archive::filter::NAME_BYTES;
use bowline_archive::{Item, ItemKind};

/// The items of a tree in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listing {
    /// Each item and its permissions, by path.
    pub items: BTreeMap<Vec<u8>, (Item, u32)>,
    /// Whether the whole tree could be read.
    pub is_whole: bool,
    /// The container's clock when the listing was made, in seconds since 1970.
    pub now: Option<i64>,
}

/// Returns the end of the last whole record.
pub(crate) fn records(text: &[u8], marker: &str) -> usize {
    let end = [marker.as_bytes(), b"\n"].concat();
    let found = text.windows(end.len()).rposition(|window| window == end);
    found.map_or(0, |at| at + end.len())
}

/// Whether a text may begin with a record.
pub(crate) fn is_record(text: &[u8], marker: &str) -> bool {
    let Some(end) = text.windows(marker.len()).position(|window| window == marker.as_bytes())
    else {
        return true;
    };
    let line = &text[..end];
    line.starts_with(b"end ") || line.split(|byte| *byte == b' ').count() >= 2
}

/// Reads the last record: whether the whole tree could be read, and the container's clock. `None`
/// if it is missing, so that the output was cut short.
pub(crate) fn end(text: &[u8], marker: &str) -> Option<(bool, Option<i64>)> {
    let last = text.strip_suffix(b"\n")?.strip_suffix(marker.as_bytes())?;
    let line = last.rsplit(|byte| *byte == b'\n').next()?;
    let mut fields = std::str::from_utf8(line).ok()?.strip_prefix("end ")?.split(' ');
    let is_whole = fields.next()? == "0";
    let now = fields.next().and_then(|now| now.parse().ok()).filter(|now| *now > 0);
    Some((is_whole, now))
}

/// Reads the output of [`LIST`](super::scripts::LIST); `None` if it was cut short. Malformed
/// records are skipped.
pub(crate) fn listing(text: &[u8], root: &str, marker: &str) -> Option<Listing> {
    let (is_whole, now) = end(text, marker)?;
    let mut listing = Listing { is_whole, now, items: BTreeMap::new() };
    let mut begun = 0;
    for (at, _) in text.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
        if let Some(line) = text[begun..at].strip_suffix(marker.as_bytes()) {
            listing.items.extend(record(line, root));
            begun = at + 1;
        }
    }
    Some(listing)
}

fn record(line: &[u8], root: &str) -> Option<(Vec<u8>, (Item, u32))> {
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let mut field = || std::str::from_utf8(fields.next()?).ok();
    let mode = u32::from_str_radix(field()?, 16).ok()?;
    let size = field()?.parse().ok()?;
    let mtime = match field()? {
        "-" => None,
        seconds => Some(seconds.parse().ok()?),
    };
    let name = fields.next()?;
    if name.len() > 2 * NAME_BYTES {
        return None;
    }
    let path = below(name, root)?;
    let (kind, size) = match mode & 0o170_000 {
        0o100_000 => (ItemKind::File, size),
        0o040_000 => (ItemKind::Directory, 0),
        0o120_000 => (ItemKind::Symlink, size),
        _ => (ItemKind::Other, 0),
    };
    Some((path, (Item { kind, size, mtime }, mode & 0o7777)))
}

/// Reads the output of `sha256sum`. GNU's marks lines with escaped names by a leading backslash.
pub(crate) fn sums(text: &[u8], root: &str) -> BTreeMap<Vec<u8>, String> {
    let mut sums = BTreeMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        let (escaped, line) = match line.strip_prefix(b"\\") {
            Some(line) => (true, line),
            None => (false, line),
        };
        let Some((sum, name)) = line.split_at_checked(64) else { continue };
        let name = name.strip_prefix(b"  ").or_else(|| name.strip_prefix(b" *"));
        let (Ok(sum), Some(name)) = (std::str::from_utf8(sum), name) else { continue };
        if !sum.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            continue;
        }
        let name = if escaped { unescaped(name) } else { name.to_vec() };
        if let Some(path) = below(&name, root) {
            sums.insert(path, sum.to_owned());
        }
    }
    sums
}

fn unescaped(name: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(name.len());
    let mut bytes = name.iter();
    while let Some(byte) = bytes.next() {
        plain.push(match (byte, bytes.as_slice().first()) {
            (b'\\', Some(b'n' | b'r' | b'\\')) => match bytes.next() {
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                _ => b'\\',
            },
            _ => *byte,
        });
    }
    plain
}

/// Returns the path of a name below the root; empty for the root itself.
fn below(name: &[u8], root: &str) -> Option<Vec<u8>> {
    let rest = name.strip_prefix(root.as_bytes())?;
    match rest.first() {
        None => Some(Vec::new()),
        Some(b'/') => Some(rest[1..].to_vec()),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_are_read() {
        let text = b"41ed 4096 5 ./d@\n81a4 7 -6 ./d/a b@\n81a4 1 2 ./d/new\n81a4 1 2 ./d/line@\n\
            a1ff 1 2 ./d/l@\n81a4 x 2 ./d/bad@\n81a4 1 2 ./dx@\n11a4 0 - ./d/pipe@\nend 0 77@\n";
        let found = listing(text, "./d", "@").unwrap();
        assert!(found.is_whole && found.now == Some(77));
        assert_eq!(found.items[&b""[..]].0.kind, ItemKind::Directory);
        let file = Item { kind: ItemKind::File, size: 7, mtime: Some(-6) };
        assert_eq!(found.items[&b"a b"[..]], (file, 0o644));
        assert_eq!(found.items[&b"new\n81a4 1 2 ./d/line"[..]].0.kind, ItemKind::File);
        let link = Item { kind: ItemKind::Symlink, size: 1, mtime: Some(2) };
        assert_eq!(found.items[&b"l"[..]].0, link);
        let pipe = Item { kind: ItemKind::Other, size: 0, mtime: None };
        assert_eq!(found.items[&b"pipe"[..]].0, pipe);
        assert_eq!(found.items.len(), 5);
        for cut in 0..text.len() {
            assert_eq!(listing(&text[..cut], "./d", "@"), None, "{cut}");
        }
        assert!(!listing(b"end 1 @\n", "./d", "@").unwrap().is_whole);
    }

    #[test]
    fn a_listing_goes_on_at_a_record() {
        let text = b"81a4 7 6 ./a@\n81a4 7 6 ./b\nc@\n81a4";
        assert_eq!(&text[records(text, "@")..], b"81a4");
        assert_eq!(records(b"81a4 7 6 ./a", "@"), 0);
        assert!(is_record(b"81a4 7 6 ./b@\n", "@") && is_record(b"81a", "@"));
        assert!(is_record(b"end 0 1@\n", "@") && !is_record(b"1a4@\n", "@"));
    }

    #[test]
    fn sums_are_read() {
        let sum = "a".repeat(64);
        let text = format!("{sum}  ./d/x y\n\\{sum}  ./d/a\\nb\\\\c\nsha256sum: oops\n");
        let found = sums(text.as_bytes(), "./d");
        let names: Vec<&[u8]> = found.keys().map(|name| &name[..]).collect();
        assert_eq!(names, [&b"a\nb\\c"[..], b"x y"]);
    }
}
