//! What is run in a container for a copy: words, and the shell's scripts.
//!
//! Scripts get paths as arguments, never as text of their own, so no name is ever read by a shell.
//! They keep to what busybox and GNU have in common, and a busybox may be built with little.
//!
//! Some runtimes stop a command's input once its output is closed. So the shell stays, and holds
//! its own output open, around whatever reads the input; a program that it became might close it.
//! And since none of them is believed, each script says how far it got.

/// Words of a command.
pub type Words = Vec<String>;

/// A script with its arguments.
pub fn script(text: &str, arguments: &[&str]) -> Words {
    let words = ["sh", "-c", text, "sh"].into_iter().chain(arguments.iter().copied());
    words.map(ToOwned::to_owned).collect()
}

/// What nobody knew before.
pub fn mark() -> String {
    let bytes: [u8; 8] = bowline_io::random::bytes();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Packs what is at a path: the command, and the name that the tree has in the archive.
pub fn pack(source: &str) -> (Words, String) {
    let (dir, root) = split(source);
    if root.contains('\\') {
        return (script(PACK_AS_IT_IS, &[&dir, &root]), root);
    }
    let words = ["tar", "cf", "-", "-C", &dir, &root];
    (words.map(ToOwned::to_owned).to_vec(), root)
}

/// Packs one thing: `DIR NAME`. GNU's tar takes a backslash in a name for the begin of an escape,
/// if it is not told otherwise; others do not know that flag.
const PACK_AS_IT_IS: &str = r#"
u=
if tar --no-unquote --version </dev/null >/dev/null 2>&1; then u=--no-unquote; fi
exec tar cf - $u -C "$1" "$2"
"#;

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

/// The unit in which files are gone on with: what was cut is written again from its last multiple.
pub const BLOCK_BYTES: u64 = 32 * 1024;

/// The rest of a file, from a block on.
pub fn rest_of(path: &str, blocks: u64) -> Words {
    let words = [format!("if={path}"), format!("bs={BLOCK_BYTES}"), format!("skip={blocks}")];
    ["dd".to_owned()].into_iter().chain(words).collect()
}

/// Lists a tree: `DIR ROOT MARK FROM`, and for a place `NUMBER` as well: then the tree comes
/// into the directory of that number first, away from what may still run of an earlier attempt.
/// Each record is mode (hexadecimal), size, time, name, and the mark with a line end: names may
/// have line ends, but nobody knows a mark before it is used. The last record is `end`, whether
/// all could be listed, and what time it is. `FROM` is a byte of that, counted from 1.
pub const LIST: &str = r#"
cd -- "$1" || exit
if [ -n "$5" ]; then
  mkdir -m 700 "$5" 2>/dev/null
  n=$5
  while [ ! -e "$5/tree" ] && [ ! -h "$5/tree" ] && [ $n -gt 0 ]; do
    n=$((n-1))
    if [ -d "$n/tree" ] && [ ! -h "$n/tree" ]; then chmod u+rwx "$n/tree"; fi
    if [ -e "$n/tree" ] || [ -h "$n/tree" ]; then mv "$n/tree" "$5/tree" || exit; fi
  done
  if [ ! -e "$5/tree" ] && [ ! -h "$5/tree" ]; then echo "end 0 0$3"; exit; fi
fi
has() { command -v "$1" >/dev/null 2>&1; }
has stat && S=y || S=
z() {
  if has ls; then set -- $(ls -lnd "$1"); echo "$5"; else wc -c <"$1"; fi
}
w() {
  if [ "$S" = y ]; then stat -c "%f %s %Y %n$2" "$1" || e=1
  else
    k=11a4 b=0
    if [ -h "$1" ]; then k=a1ff
    elif [ -d "$1" ]; then k=41ed
    elif [ -f "$1" ]; then k=81a4 b=$(z "$1")
    fi
    if [ -z "$b" ]; then e=1; else printf '%s %s - %s%s\n' "$k" $b "$1" "$2" || e=1; fi
  fi
  if [ -d "$1" ] && [ ! -h "$1" ]; then
    if [ ! -r "$1" ] || [ ! -x "$1" ]; then e=1; fi
    for f in "$1"/* "$1"/.[!.]* "$1"/..?*; do
      if [ -e "$f" ] || [ -h "$f" ]; then w "$f" "$2"; fi
    done
  fi
}
l() {
  e=0
  if [ "$S" = y ] && has find; then find "$2" -exec stat -c "%f %s %Y %n$3" {} + || e=1
  else w "$2" "$3"
  fi
  echo "end $e $(date +%s)$3"
}
if [ "$4" = 1 ]; then l "$@"; else l "$@" | tail -c "+$4"; fi
"#;

/// Sums of all files of a tree: `DIR ROOT MARK FROM`, and `end` as in [`LIST`].
pub const SUMS: &str = r#"
command -v sha256sum >/dev/null || exit 127
cd -- "$1" || exit
l() {
  find "$2" -type f -exec sha256sum {} + && e=0 || e=1
  echo "end $e 0$3"
}
if [ "$4" = 1 ]; then l "$@"; else l "$@" | tail -c "+$4"; fi
"#;

/// Sums of what files begin with: `DIR`. Its input names them, a line with so many bytes and one
/// with an [`escaped`] name for each. Says a sum for each, or `-`, and `end` with their count.
pub const BEGINNINGS: &str = r#"
command -v sha256sum >/dev/null || exit 127
cd -- "$1" || exit
n=0
while IFS= read -r s && IFS= read -r e; do
  case $e in *\\*) e=$(printf %bx "$e"); e=${e%x} ;; esac
  t=-
  if [ -f "$e" ]; then t=$(head -c "$s" <"$e" | sha256sum) || t=-; fi
  echo "${t%% *}"
  n=$((n+1))
done
echo "end $n"
"#;

/// What a symbolic link leads to, whatever is between: `PATH`.
pub const RESOLVE: &str = r#"
if command -v readlink >/dev/null; then readlink -f "$1"
else cd -P "$1" && pwd -P
fi
"#;

/// Packs what its input names, an [`escaped`] name on each line, as one archive for each empty
/// line: `DIR`. No name is taken for an escape, as in [`PACK_AS_IT_IS`].
pub const PACK_NAMED: &str = r#"
d=$1 r=0 u=
if tar --no-unquote --version </dev/null >/dev/null 2>&1; then u=--no-unquote; fi
shift
while IFS= read -r e; do
  if [ -n "$e" ]; then
    case $e in *\\*) e=$(printf %bx "$e"); e=${e%x} ;; esac
    set -- "$@" "$e"
  else
    tar cf - $u -C "$d" "$@" || r=$?
    shift $#
  fi
done
exit $r
"#;

/// Looks at a target, and makes a place for what comes until it is complete: `TARGET DIR NAME
/// MARK`, where the name is what the copy gets in a directory, and may be empty. Says `dir`,
/// `other` or `none`, and where the place is: 0 in DIR, 1 in TARGET, 2 in TARGET/NAME, 3 and
/// more in the [`ELSEWHERE`] of this number.
pub const PLACE: &str = r#"
command -v tar >/dev/null || exit 127
t=$1 d=$2 k=none w=0 p=.bowline-cp-$4
if [ -d "$t" ]; then
  k=dir w=1 d=$t
  if [ -n "$3" ]; then
    t=${t%/}/$3
    if [ -d "$t" ]; then w=2 d=$t; fi
  fi
elif [ -e "$t" ] || [ -h "$t" ]; then k=other
else mkdir -p "$d" || exit
fi
mk() { [ -d "$1/$p" ] || mkdir -m 700 "$1/$p"; }
if ! e=$(mk "${d%/}" 2>&1); then
  if [ -e "$t" ]; then
    for f in /tmp /var/tmp /dev/shm; do
      w=$((w > 2 ? w + 1 : 3))
      if mk "$f" 2>/dev/null; then d=$f e=; break; fi
    done
  fi
  if [ -n "$e" ]; then echo "$e" >&2; exit 1; fi
fi
[ -d "${d%/}/$p/0" ] || mkdir -m 700 "${d%/}/$p/0" || exit
echo "$k $w"
"#;

/// Where a place may be if it can be neither in nor beside its target.
pub const ELSEWHERE: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];

/// Unpacks its input: `DIRECTORY`, then flags of tar. Says when it begins. What a tar that has
/// failed leaves of its input is read: some runtimes do not tell the end of a command before.
pub const UNPACK: &str = r#"
cd -- "$1" || exit
shift
echo begun
tar "$@"
r=$?
if [ $r != 0 ]; then cat >/dev/null; fi
echo "end $r"
exit $r
"#;

/// Writes a file below a directory from a block on, and finishes it: `DIR FILE BLOCK SIZE MODE
/// SECONDS OWNER:GROUP`, without the last two where nothing is preserved. Each byte has its place
/// in the file, so whoever writes it twice, or late, changes nothing. Says when it begins, and at
/// the end the file's size. Who is not root cannot give a file away, and tar would not have.
pub const WRITE: &str = r#"
cd -- "$1" || exit
f=./$2 b=$3
shift 3
[ -d "${f%/*}" ] || mkdir -p "${f%/*}" || exit
echo begun
dd "of=$f" ibs=32768 obs=32768 conv=notrunc "seek=$b" 2>/dev/null || {
  cat >/dev/null
  exit 1
}
n=$(stat -c %s "$f" 2>/dev/null || wc -c <"$f") || exit
if [ $((n)) -eq "$1" ]; then
  if [ $# = 2 ]; then chmod $(printf %o $((0$2 & ~$(umask)))) "$f"
  else chown "$4" "$f" 2>/dev/null; chmod "$2" "$f" && touch -d "@$3" "$f"; fi
fi
echo "end $((n))"
"#;

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

/// Gives the tree its name: `PLACE NUMBER TARGET PRESERVE AGAIN`. A directory that is there keeps
/// what the tree does not have. Only what is a regular file or absent is replaced; what cannot be,
/// because of its directory, is written into. Done again after a loss, it may find that all was
/// done, or that an earlier one is at it. Says `end`, how much was written into, and how
/// much has its name now, or `gone` if there is nothing to do.
pub const PUBLISH: &str = r#"
s=$1 d=$3 k=$4 r=0 i=0 c=0 m=0 top=
no() { echo "$1" >&2; r=1; }
# A file's size; nothing, where it cannot be told.
z() {
  wc -c <"$1" 2>/dev/null || stat -L -c %s "$1" 2>/dev/null || {
    set -- $(ls -lnLd "$1" 2>/dev/null)
    echo "$5"
  }
}
same() {
  x=$(z "$1") y=$(z "$2")
  [ -n "$x" ] && [ -n "$y" ] && [ $((x)) -eq $((y)) ]
}
# Writes a file into what has its name.
into() {
  if cat "$1" >"$2" && { [ ! -f "$2" ] || same "$1" "$2"; }; then
    i=$((i+1)) m=$((m+1))
    echo "$2: written in place: $3" >&2
    if [ "$k" = y ]; then touch -d "@$(stat -c %Y "$1")" "$2" 2>/dev/null; fi
  else no "$2: it could not be written, and may be damaged"
  fi
}
put() {
  if [ -h "$2" ] && [ -h "$1" ]; then rm -f "$2"
  elif [ -h "$2" ] && [ -f "$1" ] && { [ -f "$2" ] || [ ! -e "$2" ]; }; then
    into "$1" "$2" "it is a symbolic link"
    return
  elif [ -h "$2" ] || { [ -e "$2" ] && [ ! -f "$2" ]; }; then
    if [ -d "$2" ]; then no "$2: is a directory"
    elif [ -f "$1" ] && [ ! -h "$1" ] && [ "$3" = top ]; then into "$1" "$2" "it is no regular file"
    else no "$2: is no regular file"; fi
    return
  fi
  if [ -e "$2" ]; then o=y; else o=n; fi
  a=
  if [ -d "$1" ] && [ ! -h "$1" ] && [ ! -w "$1" ]; then a=$(stat -c %a "$1"); chmod u+w "$1"; fi
  if e=$(mv $v "$1" "$2" 2>&1); then
    m=$((m+1))
    if [ -n "$a" ]; then chmod "$a" "$2"; fi
  elif [ "$o" = y ] && [ -f "$1" ] && [ ! -h "$1" ] && [ -f "$2" ]; then into "$1" "$2" "${e##*: }"
  elif [ "$o" = n ] && [ -d "$1" ] && [ -d "$2" ] && [ "${e%not empty}" != "$e" ]; then
    # Somebody else has made it meanwhile.
    if [ -n "$a" ]; then chmod "$a" "$1"; fi
    merge "$1" "$2"
  else
    no "$e"
    # What is half there, and nothing of another kind that somebody else has made.
    if [ "$o" = n ] && [ -d "$1" ] && [ ! -h "$1" ]; then if [ -d "$2" ]; then rm -rf "$2"; fi
    elif [ "$o" = n ] && { [ -e "$1" ] || [ -h "$1" ]; }; then rm -f "$2"
    fi
  fi
}
merge() {
  if [ "$k" = y ]; then set -- "$1" "$2" "$(stat -c %a "$1")" "$(stat -c %Y "$1")" "$3"; fi
  if [ ! -w "$1" ]; then chmod u+rwx "$1"; fi
  for f in "$1"/* "$1"/.[!.]* "$1"/..?*; do
    if [ ! -e "$f" ] && [ ! -h "$f" ]; then continue; fi
    b=$2/${f##*/}
    if [ -d "$f" ] && [ ! -h "$f" ] && [ -d "$b" ]; then merge "$f" "$b"; else put "$f" "$b"; fi
  done
  # The target itself has its own mode, and is not done yet.
  if [ "$5" = top ]; then top=$4
  elif [ "$k" = y ]; then chmod "$3" "$2" && touch -d "@$4" "$2"; fi
}
while [ -d "$s/done" ] && [ $c -lt 100 ]; do
  sleep 0.1 || sleep 1
  c=$((c+1))
done
if [ ! -d "$s" ] && [ "$5" = y ]; then echo gone; exit 0; fi
echo $$ >"$s/pid"
if [ ! -d "$s/done" ]; then mv "$s/$2" "$s/done" || exit; fi
# A directory goes to its name, not into what somebody else gives that name, where mv can do that.
v=-f
if mkdir "$s/v" 2>/dev/null && mv -fT "$s/v" "$s/w" 2>/dev/null; then v=-fT; fi
t=$s/done/tree
if [ ! -e "$t" ] && [ ! -h "$t" ]; then :
elif [ -d "$t" ] && [ ! -h "$t" ]; then
  if [ -d "$d" ]; then merge "$t" "$d" top
  elif [ -e "$d" ] || [ -h "$d" ]; then no "$d: not a directory"
  else put "$t" "$d"
  fi
else put "$t" "$d" top
fi
chmod -R u+rwx "$s" 2>/dev/null
rm -rf "$s"
if [ -n "$top" ]; then touch -d "@$top" "$d" 2>/dev/null; fi
echo "end $i $m"
exit $r
"#;

/// Removes all that a copy has begun, wherever it is: `PLACE...`. An earlier attempt may still make
/// more of it. A [`PUBLISH`] that runs is waited for: half of what it gives away would be missing.
/// One that has not begun finds that it was done.
pub const ABANDON: &str = r#"
n=0
for p; do
  if [ -d "$p" ] && ! mkdir "$p/done" 2>/dev/null; then
    while [ -d "$p/done" ] && kill -0 "$(cat "$p/pid" 2>/dev/null)" 2>/dev/null; do
      if [ $n -ge 80 ]; then exit 1; fi
      sleep 0.1 || sleep 1
      n=$((n+1))
    done
  fi
done
n=0
while [ $n -lt 20 ]; do
  chmod -R u+rwx "$@" 2>/dev/null
  rm -rf "$@" && exit 0
  sleep 0.1 || sleep 1
  n=$((n+1))
done
exit 1
"#;

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

    /// Half of what it gives away would be missing else.
    #[test]
    fn what_gives_the_name_is_waited_for_before_all_is_removed() {
        use std::fs;
        use std::os::unix::fs::PermissionsExt;
        use std::process::Command;
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        // Whoever waits sees that one end, and what there was until then.
        let place = path("place").display().to_string();
        let (seen, sleep) = (path("seen"), path("bin/sleep"));
        let ends = format!(
            "#!/bin/sh\nls {place}/done >{}\nrm -rf {place}/done\nmkdir {place}/0\n",
            seen.display()
        );
        fs::create_dir_all(path("place/done/tree")).unwrap();
        fs::write(path("place/pid"), std::process::id().to_string()).unwrap();
        fs::create_dir(path("bin")).unwrap();
        fs::write(&sleep, ends).unwrap();
        fs::set_permissions(&sleep, PermissionsExt::from_mode(0o755)).unwrap();
        let words = script(ABANDON, &[&place]);
        let abandon = || {
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]);
            command.env("PATH", format!("{}:/usr/bin:/bin", path("bin").display()));
            assert!(command.status().unwrap().success());
            assert!(!path("place").exists());
        };
        abandon();
        assert_eq!(fs::read_to_string(&seen).unwrap(), "tree\n");
        // One that has ended is not waited for.
        fs::remove_file(&seen).unwrap();
        fs::create_dir_all(path("place/done/tree")).unwrap();
        abandon();
        assert!(!seen.exists());
    }
}
