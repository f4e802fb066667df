//! What a container's tools print to what it means: listings and sums, by paths below the root.
//! Above: `down`, `up`. Below: nothing.

use std::collections::BTreeMap;

/// A thing of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// A regular file.
    pub is_file: bool,
    /// A directory.
    pub is_dir: bool,
    /// In bytes.
    pub size: u64,
    /// In seconds since 1970.
    pub mtime: i64,
}

/// What a tree holds, by path.
pub type Listing = BTreeMap<Vec<u8>, Found>;

/// A listing as `LIST` prints it. A record that is not one counts for nothing.
pub fn listing(text: &[u8], root: &str, mark: &str) -> Listing {
    let mut listing = Listing::new();
    let mut begun = 0;
    for (at, _) in text.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
        if let Some(line) = text[begun..at].strip_suffix(mark.as_bytes()) {
            listing.extend(record(line, root));
            begun = at + 1;
        }
    }
    listing
}

fn record(line: &[u8], root: &str) -> Option<(Vec<u8>, Found)> {
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let mut number = || std::str::from_utf8(fields.next()?).ok();
    let mode = u32::from_str_radix(number()?, 16).ok()?;
    let (size, mtime) = (number()?.parse().ok()?, number()?.parse().ok()?);
    let path = below(fields.next()?, root)?;
    let kind = mode & 0o170_000;
    let (is_file, is_dir) = (kind == 0o100_000, kind == 0o040_000);
    Some((path, Found { is_file, is_dir, size, mtime }))
}

/// Sums as `sha256sum` prints them. GNU's escapes odd names and says so by a backslash in front.
pub fn sums(text: &[u8], root: &str) -> BTreeMap<Vec<u8>, String> {
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

/// The path of a name below the root; empty for the root.
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
            a1ff 1 2 ./d/l@\n81a4 x 2 ./d/bad@\n81a4 1 2 ./dx@\n81a4 1 2 ./d/cut";
        let found = listing(text, "./d", "@");
        assert!(found[&b""[..]].is_dir);
        let file = Found { is_file: true, is_dir: false, size: 7, mtime: -6 };
        assert_eq!(found[&b"a b"[..]], file);
        assert!(found[&b"new\n81a4 1 2 ./d/line"[..]].is_file);
        assert!(!found[&b"l"[..]].is_file);
        assert_eq!(found.len(), 4);
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
