//! The program that holds sessions to a place in a container where it can be run.
//!
//! One command does it, a script for any shell: it looks for a directory in which a file can be
//! made and executed, asks for the program if that is not there yet, and has the program itself say
//! that it is whole. The program's name has its sum, so it is used again by everybody whose program
//! is the same; who comes with another one still finds the directory, and in it the sessions.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bowline_io::random;
use bowline_proto::kept::sum_of;
use bowline_proto::session::Outcome;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use crate::client::Client;
use crate::error::Error;
use crate::session::{Ended, Ends};
use crate::write_fn::WriteFn;

/// Where the program is looked for and put, in this order, before the home directory, the working
/// directory, and what is mounted.
const PLACES: [&str; 4] = ["/tmp", "/var/tmp", "/dev/shm", "/run"];
/// What is mounted.
const MOUNTS: &str = "/proc/mounts";
/// How often the program is sent: to one place, once more, and to others.
const TRIES: usize = 4;
/// The most bytes of the script's output, and of its errors, that are kept.
const OUTPUT_BYTES: usize = 16 * 1024;
/// The shell's exit code for a command that is not there.
const NOT_FOUND: u8 = 127;

/// Prepares a place. Arguments: `SUM MARKER MOUNTS SKIPPED PLACES…`; the skipped places are on
/// lines, the marker is what no other run has.
///
/// Prints `send` when it wants the program as its input, then `have DIRECTORY`, `full PLACE: WHY`
/// if the program could not be written there, or `end` if no place is left; before, `no PLACE: WHY`
/// for each that is none. A place with a socket comes first: there are sessions in it.
///
/// Who may rename what is in a place could put another program there. So a place is this user's or
/// root's, or has the sticky bit; and one without that bit in which others may write, as volumes of
/// pods are, comes last. A directory of this user's that others may only read is closed to them;
/// one in which they could write may have programs of theirs in it, and is not used.
///
/// A script of one line tells whether a place can be executed in before anything is sent. Whatever
/// runs the program gets no input, which is the program.
const SCRIPT: &str = r#"
s=$1 n=hold-$1 m=.$2 k=$4
d=.bowline-$(id -u 2>/dev/null || echo user)
mounts() {
  while IFS=' ' read -r a b c o e; do
    case $c in proc|sysfs|cgroup*|devpts|mqueue|devtmpfs) continue ;; esac
    case $b in *\\*) continue ;; esac
    case ,$o, in *,noexec,*) ;; *,rw,*) if [ -d "$b" ]; then echo "$b"; fi ;; esac
  done <"$1" 2>/dev/null
}
a=$3
shift 4
IFS='
'
set -f
set -- "$@" $HOME $PWD $(mounts "$a")
f=
for p; do
  if [ -S "${p%/}/$d/socket" ]; then f="$f$p$IFS"; fi
done
runs() { v=$("$1" version 2>&1 </dev/null) && [ "${v##* }" = "$s" ]; }
no() { v=${v##*"$IFS"}; echo "$1 $p: ${v##*: }"; }
# The owner and the mode of a directory, where there is `ls`.
look() { ls -ldn "${1%/}/." 2>/dev/null | { IFS=' ' read -r o _ w _ && echo "$w $o"; }; }
private() { case $o in ''|*' drwx--'?---*) ;; *) false ;; esac; }
shared() { case $o in *' d'????w*|*' d'???????w*) ;; *) false ;; esac; }
t= h=
try() {
  case "$IFS$k$IFS$t$IFS" in *"$IFS$p$IFS"*) return ;; esac
  if [ ! -d "$p" ]; then v='no such directory'; no no; return; fi
  if [ ! -k "$p" ]; then
    o=$(look "$p")
    if [ ! -O "$p" ] && [ "${o%% *}" != 0 ]; then v='it belongs to another user'; no no; return; fi
    if shared; then
      case "$IFS$1" in *"$IFS$p$IFS"*) ;; *) h=$h$p$IFS; return ;; esac
    fi
  fi
  t=$t$IFS$p
  q=${p%/}/$d
  if ! v=$(umask 077; [ -d "$q" ] || mkdir -m 700 "$q" 2>&1) && [ ! -d "$q" ]; then
    no no
    return
  fi
  if [ -h "$q" ] || [ ! -O "$q" ]; then v="$d belongs to another user"; no no; return; fi
  if [ ${#q} -gt 90 ]; then v='its path is too long for a socket'; no no; return; fi
  o=$(look "$q")
  if ! private && ! shared; then chmod 700 "$q" 2>/dev/null; o=$(look "$q"); fi
  if ! private; then
    v="other users may reach $d"
    no no
    rmdir "$q" 2>/dev/null
    return
  fi
  if runs "$q/$n"; then echo "have $q"; exit; fi
  x=$q/$n$m
  if ! v=$({ echo '#!/bin/sh' >"$x" && chmod 700 "$x"; } 2>&1 && "$x" 2>&1 </dev/null); then
    no no
    rm -f "$x" 2>/dev/null
    rmdir "$q" 2>/dev/null
    return
  fi
  rm -f "$x"
  echo send
  if v=$(cat 2>&1 >"$x") && chmod 700 "$x" && runs "$x" && v=$(mv -f "$x" "$q/$n" 2>&1); then
    echo "have $q"
    exit
  fi
  no full
  cat >/dev/null
  rm -f "$x" 2>/dev/null
  rmdir "$q" 2>/dev/null
  exit
}
for p in $f "$@"; do try "$f"; done
for p in $h; do try "$h"; done
echo end
"#;

/// Where the program is, and the directory of its sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub path: String,
    pub dir: String,
}

/// Why there is no place.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    /// The way to the container failed.
    #[error(transparent)]
    Error(#[from] Error),
    /// The container has no shell.
    #[error("the container has no shell, which is needed to put a program into it: {0}")]
    NoShell(String),
    /// No directory will do.
    #[error("there is no place in the container where a program can be put and run: {0}")]
    NoPlace(String),
    /// It could not be looked for one.
    #[error("it cannot be looked for a place in the container for a program: {0}")]
    NotRun(String),
}

/// Finds the program in a container, or puts it there.
pub(crate) async fn place(
    client: &Client,
    pod: &str,
    container: Option<&str>,
    program: &[u8],
) -> Result<Placed, PlaceError> {
    let places = PLACES.map(ToOwned::to_owned);
    let program = Bytes::copy_from_slice(program);
    place_by(&program, &places, MOUNTS, |words, ends| {
        let command = client.inside().exec(pod, words).ends(ends);
        match container {
            Some(name) => command.container(name).run(),
            None => command.run(),
        }
    })
    .await
}

/// The same, by whatever runs a command.
async fn place_by<F: Future<Output = Result<Ended, Error>>>(
    program: &Bytes,
    places: &[String],
    mounts: &str,
    run: impl Fn(Vec<String>, Ends) -> F,
) -> Result<Placed, PlaceError> {
    let sum = format!("{:016x}", sum_of(program));
    let (mut faults, mut skipped) = (Vec::new(), Vec::new());
    let mut failed = None;
    for _ in 0..TRIES {
        let marker = random::hex::<8>();
        let arguments = ["sh", "-c", SCRIPT, "sh", &sum, &marker, mounts, &skipped.join("\n")];
        let words = arguments.into_iter().map(ToOwned::to_owned).chain(places.iter().cloned());
        let (ends, said) = ends(program.clone());
        let outcome = run(words.collect(), ends).await?.known()?;
        let said = said.take();
        for line in said.stdout.lines() {
            match line.split_once(' ') {
                Some(("have", dir)) => {
                    return Ok(Placed { path: format!("{dir}/hold-{sum}"), dir: dir.to_owned() });
                }
                Some(("no", why)) => faults.push(why.to_owned()),
                Some(("full", why)) => {
                    // A holder that has just ended may have removed what was there.
                    let place = why.split_once(": ").map_or(why, |parts| parts.0).to_owned();
                    if failed.replace(place.clone()).as_ref() == Some(&place) {
                        faults.push(why.to_owned());
                        skipped.push(place);
                    }
                }
                _ if line == "end" => return Err(PlaceError::NoPlace(told(faults))),
                _ => {}
            }
        }
        if let Some(why) = fault(&outcome, &said.stderr) {
            return Err(why);
        }
    }
    Err(PlaceError::NoPlace(told(faults)))
}

/// Every place and what is wrong with it, once.
fn told(mut faults: Vec<String>) -> String {
    let mut seen = std::collections::BTreeSet::new();
    faults.retain(|fault| seen.insert(fault.clone()));
    faults.join("; ")
}

/// Why the script did not come to its end.
fn fault(outcome: &Outcome, stderr: &str) -> Option<PlaceError> {
    let is_missing = |message: &str| {
        let words = ["not found", "no such file or directory"];
        message.contains("executable") && words.iter().any(|word| message.contains(word))
    };
    match outcome {
        Outcome::Success => None,
        Outcome::Failed { message, .. } if is_missing(message) => {
            Some(PlaceError::NoShell(message.clone()))
        }
        Outcome::Exited(NOT_FOUND) => Some(PlaceError::NoShell(stderr.trim().to_owned())),
        Outcome::Failed { message, .. } => Some(PlaceError::NotRun(message.clone())),
        Outcome::Exited(code) => {
            Some(PlaceError::NotRun(format!("sh ended with {code}: {}", stderr.trim())))
        }
    }
}

/// What the script has said.
#[derive(Default)]
struct Output {
    stdout: String,
    stderr: String,
    /// Tells its input to begin.
    begin: Option<oneshot::Sender<()>>,
}

#[derive(Clone, Default)]
struct Said(Arc<Mutex<Output>>);

impl Said {
    fn with<T>(&self, act: impl FnOnce(&mut Output) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn take(&self) -> Output {
        self.with(std::mem::take)
    }
}

/// The ends of the script: the program is its input once it asks for that.
fn ends(program: Bytes) -> (Ends, Said) {
    let said = Said::default();
    let (begin, begins) = oneshot::channel();
    said.with(|output| output.begin = Some(begin));
    let (out, err) = (said.clone(), said.clone());
    let stdout = WriteFn(move |bytes: &[u8]| {
        out.with(|output| {
            keep(&mut output.stdout, bytes);
            if output.stdout.lines().any(|line| line == "send")
                && let Some(begin) = output.begin.take()
            {
                // It is gone only if nobody reads it.
                let _ = begin.send(());
            }
        });
        Ok(())
    });
    let stderr = WriteFn(move |bytes: &[u8]| {
        err.with(|output| keep(&mut output.stderr, bytes));
        Ok(())
    });
    let stdin: Box<dyn AsyncRead + Send + Unpin> =
        Box::new(Program { begins: Some(begins), rest: program });
    let (stdout, stderr): (Box<dyn AsyncWrite + Send + Unpin>, _) =
        (Box::new(stdout), Box::new(stderr));
    (Ends { stdin: Some(stdin), stdout, stderr, ..Ends::default() }, said)
}

fn keep(text: &mut String, bytes: &[u8]) {
    let room = OUTPUT_BYTES.saturating_sub(text.len());
    text.push_str(&String::from_utf8_lossy(&bytes[..bytes.len().min(room)]));
}

/// Bytes that come once they are asked for.
struct Program {
    begins: Option<oneshot::Receiver<()>>,
    rest: Bytes,
}

impl AsyncRead for Program {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if let Some(begins) = &mut self.begins {
            if ready!(Pin::new(begins).poll(cx)).is_err() {
                self.rest.clear();
            }
            self.begins = None;
        }
        let length = buffer.remaining().min(self.rest.len());
        buffer.put_slice(&self.rest.split_to(length));
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};
    use std::process::Stdio;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A program that says what the real one says. Its sum is in a file beside it.
    fn program(dir: &Path) -> Bytes {
        let text = format!("#!/bin/sh\necho bowline-hold 0 $(cat {}/sum)\n", dir.display());
        fs::write(dir.join("sum"), format!("{:016x}", sum_of(text.as_bytes()))).unwrap();
        text.into()
    }

    /// A directory with places, one of which is the home directory.
    struct World {
        dir: tempfile::TempDir,
        program: Bytes,
        runs: std::cell::Cell<u32>,
        mounts: PathBuf,
    }

    impl World {
        fn new() -> World {
            let dir = tempfile::tempdir().unwrap();
            let program = program(dir.path());
            for place in ["a", "b", "home", "work"] {
                fs::create_dir(dir.path().join(place)).unwrap();
            }
            let mounts = dir.path().join("mounts");
            fs::write(&mounts, "").unwrap();
            World { dir, program, runs: 0.into(), mounts }
        }

        fn at(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        /// Where the program is if it is in this place.
        fn placed(&self, place: &str) -> Placed {
            let user = rustix::process::getuid().as_raw();
            let dir = format!("{}/.bowline-{user}", self.at(place).display());
            Placed { path: format!("{dir}/hold-{:016x}", sum_of(&self.program)), dir }
        }

        async fn run(&self, words: Vec<String>, ends: Ends) -> Result<Ended, Error> {
            self.runs.set(self.runs.get() + 1);
            let mut command = tokio::process::Command::new(&words[0]);
            command.args(&words[1..]).current_dir(self.at("work"));
            command.env("HOME", self.at("home")).env("PWD", self.at("work"));
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut child = command.spawn().unwrap();
            let (mut input, mut output) =
                (child.stdin.take().unwrap(), child.stdout.take().unwrap());
            let mut stdin = ends.stdin.unwrap();
            let mut stdout = ends.stdout;
            let give = async move {
                let _ = tokio::io::copy(&mut stdin, &mut input).await;
            };
            let take = async move {
                let mut buffer = [0; 100];
                loop {
                    let read = output.read(&mut buffer).await.unwrap();
                    if read == 0 {
                        return child.wait().await.unwrap();
                    }
                    stdout.write_all(&buffer[..read]).await.unwrap();
                }
            };
            // The input may wait to be asked for, as in a session that ends before.
            let status = tokio::select! {
                status = take => status,
                () = async { give.await; std::future::pending().await } => unreachable!(),
            };
            Ok(Ended::Known(match status.code() {
                Some(0) => Outcome::Success,
                Some(code) => Outcome::Exited(code.try_into().unwrap()),
                None => panic!("{status}"),
            }))
        }

        async fn place(&self, places: &[&str]) -> Result<Placed, PlaceError> {
            let places: Vec<_> =
                places.iter().map(|place| self.at(place).display().to_string()).collect();
            let mounts = self.mounts.display().to_string();
            place_by(&self.program, &places, &mounts, |words, ends| self.run(words, ends)).await
        }
    }

    #[tokio::test]
    async fn the_first_place_that_will_do_is_used_again() {
        let world = World::new();
        let there = world.placed("a");
        assert_eq!(world.place(&["none", "a", "b"]).await.unwrap(), there);
        assert_eq!(fs::read(&there.path).unwrap(), world.program);
        assert_eq!(fs::metadata(&there.dir).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(&there.dir).unwrap().count(), 1);
        // It is not sent again.
        let before = fs::metadata(&there.path).unwrap().modified().unwrap();
        assert_eq!(world.place(&["none", "a", "b"]).await.unwrap(), there);
        assert_eq!(fs::metadata(&there.path).unwrap().modified().unwrap(), before);
        // One that is damaged is.
        fs::write(&there.path, "#!/bin/sh\n").unwrap();
        assert_eq!(world.place(&["none", "a", "b"]).await.unwrap(), there);
        assert_eq!(fs::read(&there.path).unwrap(), world.program);
    }

    #[tokio::test]
    async fn two_at_once_do_not_disturb_each_other() {
        let world = World::new();
        let all: Vec<_> = (0..5).map(|_| world.place(&["a"])).collect();
        let mut all = all.into_iter();
        let (a, b, c, d, e) = tokio::join!(
            all.next().unwrap(),
            all.next().unwrap(),
            all.next().unwrap(),
            all.next().unwrap(),
            all.next().unwrap()
        );
        for placed in [a, b, c, d, e] {
            assert_eq!(placed.unwrap(), world.placed("a"));
        }
        assert_eq!(fs::read_dir(world.placed("a").dir).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_place_with_sessions_comes_first() {
        let world = World::new();
        let there = world.placed("b");
        fs::create_dir(&there.dir).unwrap();
        set_mode(&there.dir, 0o700);
        let _listener =
            std::os::unix::net::UnixListener::bind(format!("{}/socket", there.dir)).unwrap();
        assert_eq!(world.place(&["a", "b"]).await.unwrap(), there);
    }

    fn set_mode(path: impl AsRef<Path>, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[tokio::test]
    async fn a_directory_that_others_may_read_is_closed_and_one_they_may_write_is_not_used() {
        let world = World::new();
        for (place, mode) in [("a", 0o777), ("b", 0o755)] {
            fs::create_dir(world.placed(place).dir).unwrap();
            set_mode(world.placed(place).dir, mode);
        }
        let there = world.placed("b");
        assert_eq!(world.place(&["a", "b"]).await.unwrap(), there);
        assert_eq!(fs::metadata(&there.dir).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[tokio::test]
    async fn a_place_that_others_may_change_comes_last() {
        let world = World::new();
        set_mode(world.at("a"), 0o777);
        set_mode(world.at("home"), 0o775);
        for place in ["b", "work"] {
            set_mode(world.at(place), 0o755);
        }
        assert_eq!(world.place(&["a", "b"]).await.unwrap(), world.placed("b"));
        fs::remove_dir_all(world.at("b")).unwrap();
        fs::remove_dir(world.at("work")).unwrap();
        fs::create_dir(world.at("work")).unwrap();
        set_mode(world.at("work"), 0o777);
        assert_eq!(world.place(&["a", "b"]).await.unwrap(), world.placed("a"));
        fs::remove_dir_all(world.at("a")).unwrap();
        fs::create_dir(world.at("a")).unwrap();
        set_mode(world.at("a"), 0o1777);
        set_mode(world.at("home"), 0o755);
        assert_eq!(world.place(&["b", "a"]).await.unwrap(), world.placed("a"));
    }

    #[tokio::test]
    async fn a_place_of_another_user_is_none_without_the_sticky_bit() {
        // Only root can make one.
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let world = World::new();
        for (place, mode) in [("a", 0o755), ("b", 0o1777)] {
            std::os::unix::fs::chown(world.at(place), Some(1234), None).unwrap();
            set_mode(world.at(place), mode);
        }
        assert_eq!(world.place(&["a", "b"]).await.unwrap(), world.placed("b"));
        assert_eq!(fs::read_dir(world.at("a")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_is_mounted_comes_last_and_only_if_it_can_be_written_and_run() {
        let world = World::new();
        for name in ["noexec", "ro", "with space", "good"] {
            fs::create_dir(world.at(name)).unwrap();
        }
        for place in ["home", "work"] {
            fs::remove_dir(world.at(place)).ok();
            fs::write(world.at(place), "").unwrap();
        }
        fs::remove_file(world.at("work")).unwrap();
        fs::create_dir(world.at("work")).unwrap();
        let user = rustix::process::getuid().as_raw();
        // Something else has the name there.
        fs::write(world.at("work").join(format!(".bowline-{user}")), "").unwrap();
        let at = |name: &str| world.at(name).display().to_string();
        let lines = format!(
            "proc /proc proc rw 0 0\ntmpfs {} tmpfs rw,noexec 0 0\n/dev/x {} ext4 ro 0 0\n/dev/y \
             {}\\040space ext4 rw 0 0\n/dev/z {} xfs rw,relatime 0 0\n",
            at("noexec"),
            at("ro"),
            at("with"),
            at("good"),
        );
        fs::write(&world.mounts, lines).unwrap();
        assert_eq!(world.place(&[]).await.unwrap(), world.placed("good"));
    }

    #[tokio::test]
    async fn each_place_that_will_not_do_is_named_with_its_reason() {
        let world = World::new();
        for place in ["home", "work"] {
            let user = rustix::process::getuid().as_raw();
            fs::write(world.at(place).join(format!(".bowline-{user}")), "").unwrap();
        }
        let error = world.place(&["none"]).await.unwrap_err();
        let PlaceError::NoPlace(text) = error else { panic!("{error:?}") };
        let parts: Vec<_> = text.split("; ").collect();
        assert_eq!(parts.len(), 3, "{text}");
        assert!(parts[0].ends_with("/none: no such directory"), "{text}");
        assert!(parts[1].contains("/home: ") && parts[2].contains("/work: "), "{text}");
        assert_eq!(world.runs.get(), 1);
    }

    #[tokio::test]
    async fn a_program_that_does_not_run_there_is_tried_elsewhere() {
        let mut world = World::new();
        // It says another sum wherever it is.
        world.program = Bytes::from_static(b"#!/bin/sh\necho cannot: not here >&2\nexit 1\n");
        let error = world.place(&["a"]).await.unwrap_err();
        let PlaceError::NoPlace(text) = error else { panic!("{error:?}") };
        assert!(text.contains("not here"), "{text}");
        assert_eq!(fs::read_dir(world.at("a")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_container_without_a_shell_is_not_one_that_is_away() {
        for (message, has_shell) in [
            ("exec: \"sh\": executable file not found in $PATH", false),
            ("error finding executable \"sh\" in PATH [/bin]: no such file or directory", false),
            (
                "failed to exec in container: failed to load task: no running task found: not \
                 found",
                true,
            ),
            ("open /run/containerd/exec.fifo: no such file or directory", true),
        ] {
            let run = async |_: Vec<String>, _: Ends| {
                let (message, reason) = (message.to_owned(), String::new());
                Ok(Ended::Known(Outcome::Failed { message, code: None, reason }))
            };
            let error = place_by(&Bytes::new(), &[], MOUNTS, run).await.unwrap_err();
            let is_away = matches!(error, PlaceError::NotRun(_));
            assert!(is_away || matches!(error, PlaceError::NoShell(_)), "{error:?}");
            assert_eq!(is_away, has_shell, "{message}");
        }
    }
}
