//! What is run in a container for a copy: words, and the shell's scripts.
//! Above: `down`, `up`, `between`. Below: a container's `sh`, `tar`, `find`, `stat`, `mv`.
//!
//! Scripts get paths as arguments, never as text of their own, so no name is ever read by a shell.
//! They keep to what busybox and GNU have in common.

/// Words of a command.
pub type Words = Vec<String>;

/// A script with its arguments.
pub fn script(text: &str, arguments: &[&str]) -> Words {
    let words = ["sh", "-c", text, "sh"].into_iter().chain(arguments.iter().copied());
    words.map(ToOwned::to_owned).collect()
}

/// What nobody knew before.
pub fn mark() -> String {
    let bytes: [u8; 8] = bowline_io::chance::bytes();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Packs what is at a path: the command, and the name that the tree has in the archive.
pub fn pack(source: &str) -> (Words, String) {
    let (dir, root) = split(source);
    let words = ["tar", "cf", "-", "-C", &dir, &root];
    (words.map(ToOwned::to_owned).to_vec(), root)
}

/// The same without what is named on its input: patterns, a line each.
pub fn pack_rest(source: &str) -> (Words, String) {
    let (dir, root) = split(source);
    let words = ["tar", "cf", "-", "-X", "/dev/stdin", "-C", &dir, &root];
    (words.map(ToOwned::to_owned).to_vec(), root)
}

/// Where a path is, and what it is called there: a name that is no flag.
pub fn split(path: &str) -> (String, String) {
    let path = match path.trim_end_matches('/') {
        "" if path.is_empty() => ".",
        "" => "/",
        trimmed => trimmed,
    };
    let (dir, name) = match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((dir, name)) => (dir, name),
        None => (".", path),
    };
    match name {
        // The tree itself, wherever that is.
        "" | "." | ".." => (guarded(path), ".".to_owned()),
        _ => (guarded(dir), format!("./{name}")),
    }
}

/// A path that is no flag.
pub fn guarded(path: &str) -> String {
    if path.starts_with('-') { format!("./{path}") } else { path.to_owned() }
}

/// The rest of a file, from a byte on (counted from 0).
pub fn rest_of(path: &str, from: u64) -> Words {
    let from = format!("+{}", from + 1);
    ["tail", "-c", &from, path].map(ToOwned::to_owned).to_vec()
}

/// Lists a tree: `DIR ROOT MARK`. Each record is mode (hexadecimal), size, time, name, and the mark
/// with a line end: names may have line ends, but nobody knows a mark before it is used.
pub const LIST: &str = "cd -- \"$1\" && \
    find \"$2\" -exec stat -c \"%f %s %Y %n$3\" {} +";

/// Sums of all files of a tree: `DIR ROOT`.
pub const SUMS: &str = "command -v sha256sum >/dev/null || exit 127; cd -- \"$1\" && \
    find \"$2\" -type f -exec sha256sum {} +";

/// What is at a path: `PATH`. Says `dir`, `other` or `none`.
pub const PROBE: &str = "command -v tar >/dev/null || exit 127; \
    if [ -d \"$1\" ]; then echo dir; elif [ -e \"$1\" ]; then echo other; else echo none; fi";

/// Unpacks its input: `PLACE`, then flags of tar. The shell becomes tar, so that its number is
/// tar's.
pub const UNPACK: &str = "s=$1; shift; mkdir -p -m 700 \"$s\" && echo $$ >\"$s/pid\" && \
    exec tar \"$@\" -C \"$s\"";

/// Writes on at the end of a file: `FILE`.
pub const APPEND: &str = "cat >>\"$1\"";

/// Ends what an earlier attempt may have left running, and waits until nobody writes to a place any
/// more: `PLACE`.
pub const SETTLE: &str = "p=$(cat \"$1/pid\" 2>/dev/null) || exit 0; kill \"$p\" 2>/dev/null; n=0; \
    while kill -0 \"$p\" 2>/dev/null && [ $n -lt 50 ]; do sleep 0.1; n=$((n+1)); done";

/// Finishes a file that tar did not: `FILE MODE SECONDS OWNER:GROUP`, or `FILE MODE` where nothing
/// is preserved. Who is not root cannot give it away, and tar would not have.
pub const FINISH: &str = "if [ $# = 2 ]; then chmod $(printf %o $((0$2 & ~$(umask)))) \"$1\"; \
    else chown \"$4\" \"$1\" 2>/dev/null; chmod \"$2\" \"$1\" && touch -d \"@$3\" \"$1\"; fi";

/// Removes files below a place that its input names, an [`escaped`] one on each line: `PLACE`.
pub const REMOVE: &str = r#"
cd -- "$1" && shift || exit
while IFS= read -r e; do
  case $e in *\\*) e=$(printf %bx "$e"); e=${e%x} ;; esac
  set -- "$@" "$e"
  if [ $# = 200 ]; then rm -f -- "$@" || exit; shift $#; fi
done
if [ $# != 0 ]; then rm -f -- "$@"; fi
"#;

/// A name of any bytes on a line of its own, for the shell's `printf %b`.
pub fn escaped(name: &[u8]) -> String {
    let mut line = String::with_capacity(name.len() + 1);
    for byte in name {
        match byte {
            b' '..=b'~' if *byte != b'\\' => line.push(char::from(*byte)),
            _ => line.push_str(&format!("\\0{byte:03o}")),
        }
    }
    line + "\n"
}

/// Gives the tree its name: `PLACE TARGET PRESERVE AGAIN`. A directory that is there keeps what the
/// tree does not have. Done again after a loss, it may find that all was done.
pub const PUBLISH: &str = r#"
s=$1 d=$2 k=$3 r=0
m() {
  if [ "$k" = y ]; then set -- "$1" "$2" "$(stat -c %a "$1")" "$(stat -c %Y "$1")"; fi
  for f in "$1"/* "$1"/.[!.]* "$1"/..?*; do
    if [ ! -e "$f" ] && [ ! -h "$f" ]; then continue; fi
    b=$2/${f##*/}
    if [ -d "$f" ] && [ ! -h "$f" ] && [ -d "$b" ]; then m "$f" "$b"; continue; fi
    if [ -d "$b" ] && [ ! -h "$b" ]; then echo "$b: is a directory" >&2; r=1; continue; fi
    if [ -h "$b" ]; then rm -f "$b"; fi
    mv -f "$f" "$b" || r=1
  done
  if [ "$k" = y ]; then chmod "$3" "$2" && touch -d "@$4" "$2"; fi
}
t=$s/tree
if [ ! -d "$s" ]; then
  if [ "$4" = y ]; then exit 0; fi
  echo "$s is gone" >&2
  exit 1
fi
if [ ! -e "$t" ] && [ ! -h "$t" ]; then rm -rf "$s"; exit 0; fi
if [ -d "$t" ] && [ ! -h "$t" ] && [ -d "$d" ]; then m "$t" "$d"
elif [ -d "$d" ]; then echo "$d: is a directory" >&2; r=1
else mv -f "$t" "$d" || r=1
fi
rm -rf "$s"
exit $r
"#;

/// Removes all that a copy has begun: `PLACE`.
pub const ABANDON: &str = "rm -rf \"$1\"";

/// A pattern that means one name, for lists that are read by tar. `None` for names that no line can
/// carry.
pub fn pattern(name: &[u8]) -> Option<Vec<u8>> {
    let edge = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_whitespace);
    if name.contains(&b'\n') || edge(name.first()) || edge(name.last()) {
        return None;
    }
    let mut pattern = Vec::with_capacity(name.len());
    for byte in name {
        if matches!(byte, b'\\' | b'*' | b'?' | b'[') {
            pattern.push(b'\\');
        }
        pattern.push(*byte);
    }
    Some(pattern)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_split_so_that_no_name_is_a_flag() {
        for (path, dir, name) in [
            ("/tmp/d", "/tmp", "./d"),
            ("/tmp/d/", "/tmp", "./d"),
            ("d", ".", "./d"),
            ("-d", ".", "./-d"),
            ("-a/d", "./-a", "./d"),
            ("/d", "/", "./d"),
            ("/", "/", "."),
            (".", ".", "."),
            ("a/..", "a/..", "."),
            ("", ".", "."),
        ] {
            assert_eq!(split(path), (dir.to_owned(), name.to_owned()), "{path}");
        }
    }

    #[test]
    fn patterns_mean_themselves() {
        assert_eq!(pattern(b"./a[*]?\\").as_deref(), Some(&b"./a\\[\\*]\\?\\\\"[..]));
        for name in [&b"a\nb"[..], b"a ", b" a", b""] {
            assert_eq!(pattern(name), None);
        }
    }
}
