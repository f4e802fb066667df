//! What a copy runs in a container: commands and shell scripts.
//!
//! Scripts get paths as arguments, never as part of their text, so no shell interprets a name. They
//! use what busybox and GNU's tools have in common, and little of that: a busybox may be minimal.
//!
//! Some runtimes stop a command's input once its output is closed. So the shell does not `exec`
//! what reads the input, but keeps its own output open meanwhile. And since runtimes may lose input
//! or output, each script reports how far it got.

/// A command and its arguments.
pub(crate) type Words = Vec<String>;

/// Returns the command that runs a script with these arguments.
pub(crate) fn script(text: &str, arguments: &[&str]) -> Words {
    let words = ["sh", "-c", text, "sh"].into_iter().chain(arguments.iter().copied());
    words.map(ToOwned::to_owned).collect()
}

/// Returns a random text, which no file's name can contain by accident.
pub(crate) fn marker() -> String {
    bowline_io::random::hex::<8>()
}

/// Returns the command that packs what is at a path, and the tree's name in the archive.
pub(crate) fn pack(source: &str) -> (Words, String) {
    let (dir, root) = split(source);
    if root.contains('\\') {
        return (script(PACK_AS_IT_IS, &[&dir, &root]), root);
    }
    let words = ["tar", "cf", "-", "-C", &dir, &root];
    (words.map(ToOwned::to_owned).to_vec(), root)
}

/// Packs one path. Arguments: `DIR NAME`. GNU's tar takes a backslash in a name for an escape
/// unless a flag says otherwise, which other tars do not know.
const PACK_AS_IT_IS: &str = r#"
u=
if tar --no-unquote --version </dev/null >/dev/null 2>&1; then u=--no-unquote; fi
exec tar cf - $u -C "$1" "$2"
"#;

/// Splits a path into its directory and its name there, neither of which looks like a flag.
pub(crate) fn split(path: &str) -> (String, String) {
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

/// Returns a path in a form that does not look like a flag.
pub(crate) fn guarded(path: &str) -> String {
    if path.starts_with('-') { format!("./{path}") } else { path.to_owned() }
}

/// A file that was cut is continued at the last multiple of this.
pub(crate) const BLOCK_BYTES: u64 = 32 * 1024;

/// Returns the command that prints a file from a block on.
pub(crate) fn rest_of_file(path: &str, blocks: u64) -> Words {
    let words = [format!("if={path}"), format!("bs={BLOCK_BYTES}"), format!("skip={blocks}")];
    ["dd".to_owned()].into_iter().chain(words).collect()
}

/// Lists a tree. Arguments: `DIR ROOT MARKER FROM`, and `NUMBER` for a staging directory: then the
/// tree is moved into the subdirectory of that number first, away from an earlier attempt that may
/// still run.
///
/// A record is the mode (hexadecimal), size, time and name, then the marker and a line end: names
/// may contain line ends, but not the random marker. The last record is `end`, 0 if the whole tree
/// could be listed, and the clock. `FROM` is the first byte of the output to print, counted from 1.
pub(crate) const LIST: &str = r#"
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

/// Prints the sums of all files of a tree. Arguments and the last record are those of [`LIST`].
pub(crate) const SUMS: &str = r#"
command -v sha256sum >/dev/null || exit 127
cd -- "$1" || exit
l() {
  find "$2" -type f -exec sha256sum {} + && e=0 || e=1
  echo "end $e 0$3"
}
if [ "$4" = 1 ]; then l "$@"; else l "$@" | tail -c "+$4"; fi
"#;

/// Prints the sums of files' first bytes. Argument: `DIR`. The input has two lines for each file: a
/// number of bytes and an [`escaped`] name. The output is a sum or `-` for each, and `end` with
/// their number.
pub(crate) const PREFIX_SUMS: &str = r#"
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

/// Prints the final target of a symbolic link. Argument: `PATH`.
pub(crate) const RESOLVE: &str = r#"
if command -v readlink >/dev/null; then readlink -f "$1"
else cd -P "$1" && pwd -P
fi
"#;

/// Packs the paths that its input names. Argument: `DIR`. The input has an [`escaped`] name on each
/// line; an empty line ends the names of an archive. Backslashes are as in [`PACK_AS_IT_IS`].
pub(crate) const PACK_NAMED: &str = r#"
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

/// Looks at a target, and makes its staging directory. Arguments: `TARGET DIR NAME MARKER`, where
/// the name is the copy's in a directory, and may be empty. Prints `dir`, `other` or `none` for the
/// target, and where the staging directory is: 0 in DIR, 1 in TARGET, 2 in TARGET/NAME, and from 3
/// on in [`FALLBACK_DIRECTORIES`].
pub(crate) const MAKE_STAGING: &str = r#"
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

/// Where a staging directory may be if it can be neither in nor beside its target.
pub(crate) const FALLBACK_DIRECTORIES: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];

/// Unpacks its input. Arguments: `DIRECTORY`, then flags of tar. Prints `begun` first. If tar
/// fails, the rest of the input is read: some runtimes do not report a command's end before.
pub(crate) const UNPACK: &str = r#"
cd -- "$1" || exit
shift
echo begun
tar "$@"
r=$?
if [ $r != 0 ]; then cat >/dev/null; fi
echo "end $r"
exit $r
"#;

/// Writes its input into a file from a block on, and sets the file's attributes once it is
/// complete. Arguments: `DIR FILE BLOCK SIZE MODE SECONDS OWNER:GROUP`, without the last two if
/// nothing is preserved. Each byte has its place in the file, so a second or late writer changes
/// nothing. Prints `begun` first, and the file's size at the end. A failed `chown` is ignored, as
/// by tar: only root can change owners.
pub(crate) const WRITE: &str = r#"
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

/// Removes files below a directory. Argument: `DIR`. The input has an [`escaped`] name on each
/// line.
pub(crate) const REMOVE: &str = r#"
cd -- "$1" && shift || exit
while IFS= read -r e; do
  case $e in *\\*) e=$(printf %bx "$e"); e=${e%x} ;; esac
  set -- "$@" "$e"
  if [ $# = 200 ]; then rm -f -- "$@" || exit; shift $#; fi
done
if [ $# != 0 ]; then rm -f -- "$@"; fi
"#;

/// Returns a line with a name of any bytes, escaped for the shell's `printf %b`.
pub(crate) fn escaped(name: &[u8]) -> String {
    let mut line = String::with_capacity(name.len() + 1);
    for byte in name {
        match byte {
            b' '..=b'~' if *byte != b'\\' => line.push(char::from(*byte)),
            _ => line.push_str(&format!("\\0{byte:03o}")),
        }
    }
    line + "\n"
}

/// Gives the tree the target's name. Arguments: `STAGING NUMBER TARGET PRESERVE AGAIN`. An existing
/// directory keeps what the tree does not have. Only a regular file is replaced, or written into if
/// its directory does not permit that. Run again after a loss, the script may find that all was
/// done or that an earlier run is at it. Prints `end`, the number of files that were written into
/// and the number of items that have their names now, or `gone` if there was nothing to do.
pub(crate) const PUBLISH: &str = r#"
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

/// Removes staging directories, also while an earlier attempt still writes into them. Arguments:
/// `STAGING...`. A [`PUBLISH`] that runs is waited for, so that no half of a tree is removed; one
/// that has not begun finds nothing to do.
pub(crate) const ABANDON: &str = r#"
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
