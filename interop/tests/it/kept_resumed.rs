//! Clients of a kept session that are killed, and others that go on: from the same place, from
//! elsewhere with the id alone, and after the end.

use std::fs;
use std::io::{Read, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use bowline_interop::client::{Input, Left, PATIENCE, left};
use bowline_interop::cluster::Cluster;
use bowline_interop::server::until;
use serde_json::Value;
use tempfile::TempDir;

use crate::kept_job::{Keeper, Process};
use crate::parts::{bowline, ours};

/// Numbers the lines of both outputs until its input has ended, which it keeps. The argument is a
/// directory of its own.
const SCRIPT: &str = r#"
mkdir -p "$1" && cd "$1" && echo run >>runs || exit 99
exec 3<&0
{ cat <&3 >in; : >end; } &
exec 3<&-
n=0
until [ -e end ]; do
  seq $((n + 1)) $((n + 5000))
  seq $((n + 1)) $((n + 5000)) >&2
  n=$((n + 5000))
  sleep 0.05
done
exit 7
"#;
/// What each client shows of each output before it is killed.
const SHOWN_BYTES: usize = 1_200_000;

/// What a client has shown: stdout and stderr.
type Shown = [Vec<u8>; 2];

/// A client that is there.
struct Follower {
    child: Process,
    stdin: ChildStdin,
    shown: Arc<(Mutex<Shown>, Condvar)>,
    threads: [JoinHandle<()>; 2],
}

impl Follower {
    fn start(mut command: Command) -> Follower {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Process::of(command.spawn().unwrap());
        let shown: Arc<(Mutex<Shown>, Condvar)> = Arc::default();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let threads = [read(stdout, 0, shown.clone()), read(stderr, 1, shown.clone())];
        Follower { stdin: child.stdin.take().unwrap(), child, shown, threads }
    }

    /// Gives it a line, and waits until it has shown enough.
    fn goes_on(&mut self, line: &str) {
        self.stdin.write_all(line.as_bytes()).unwrap();
        let deadline = Instant::now() + PATIENCE;
        let mut shown = self.shown.0.lock().unwrap();
        while shown.iter().any(|bytes| bytes.len() < SHOWN_BYTES) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{line}: {:?}", head(&shown[1]));
            shown = self.shown.1.wait_timeout(shown, left).unwrap().0;
        }
    }

    fn kill(mut self) -> Shown {
        self.child.kill().unwrap();
        self.ends().1
    }

    /// Ends its input, and gives its exit code and what it has shown.
    fn ends(mut self) -> (Option<i32>, Shown) {
        drop(self.stdin);
        let status = self.child.wait().unwrap();
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        (status.code(), std::mem::take(&mut *self.shown.0.lock().unwrap()))
    }
}

fn read(
    mut end: impl Read + Send + 'static,
    at: usize,
    shown: Arc<(Mutex<Shown>, Condvar)>,
) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut piece = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = end.read(&mut piece) {
            shown.0.lock().unwrap()[at].extend_from_slice(&piece[..read]);
            shown.1.notify_all();
        }
    })
}

fn head(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(500)]).into_owned()
}

/// One machine's view: its clients' state, and who keeps the sessions.
struct View<'a> {
    cluster: &'a Cluster,
    keeper: Keeper,
    state: TempDir,
}

impl View<'_> {
    fn of(cluster: &Cluster, keeper: Keeper) -> View<'_> {
        View { cluster, keeper, state: tempfile::tempdir().unwrap() }
    }

    /// `bowline session` with these words.
    fn session(&self, words: &[&str]) -> Command {
        let mut command = Command::new(bowline());
        command.arg("session").args(words).args(self.keeper.flag());
        command.args(["--kubeconfig", &self.cluster.admin()]);
        command.env("XDG_STATE_HOME", self.state.path());
        command
    }

    fn result(&self, session: &str) -> Left {
        let mut command = self.session(&["result", session]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        left(command.spawn().unwrap(), Input::Nothing, true).unwrap()
    }

    /// The one session that was started from here: as other machines name it.
    fn known(&self) -> String {
        let dir = self.state.path().join("bowline/sessions");
        let mut files = fs::read_dir(dir).unwrap();
        let file = files.next().unwrap().unwrap().path();
        assert!(files.next().is_none());
        let value: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        value["session"].as_str().unwrap().to_owned()
    }
}

/// Puts what the next client has shown behind what was shown before it: it says where that goes on.
fn join(whole: &mut Shown, next: Shown) {
    let [stdout, stderr] = next;
    let text = str::from_utf8(&stderr).unwrap();
    let (line, notes) = text.split_once('\n').unwrap_or_default();
    let numbers = line.strip_prefix("The session goes on at byte ");
    let numbers = numbers.and_then(|rest| rest.strip_suffix(" of stderr."));
    let numbers = numbers.and_then(|rest| rest.split_once(" of stdout and "));
    let ats = <[&str; 2]>::from(numbers.unwrap()).map(|number| number.parse::<usize>().unwrap());
    let nexts = [&*stdout, notes.as_bytes()];
    for ((whole, next), at) in whole.iter_mut().zip(nexts).zip(ats) {
        assert!(at <= whole.len(), "{at} is behind {} that came: bytes are missing", whole.len());
        println!("{} bytes, of which {} come again", whole.len(), whole.len() - at);
        whole.truncate(at);
        whole.extend(next);
    }
}

/// All lines are there, once and in order.
fn are_whole(shown: &Shown) {
    for bytes in shown {
        let text = str::from_utf8(bytes).unwrap();
        for (line, number) in text.lines().zip(1_u64..) {
            assert_eq!(line, number.to_string());
        }
        assert!(text.ends_with('\n'));
    }
    let count = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count();
    assert_eq!(count(&shown[0]), count(&shown[1]));
}

/// Kills clients of a session in this pod, and goes on.
pub fn check(cluster: &Cluster, keeper: Keeper, pod: &str) {
    let direct = ours(&cluster.admin(), &[pod]);
    let dir = format!("/tmp/resumed-{}", std::process::id());
    let input = |text: &str| {
        until(&format!("{pod}: {text:?} has come"), PATIENCE, || {
            let left = direct.run(&[], &["cat", &format!("{dir}/in")], Input::Nothing);
            left.stdout == text.as_bytes()
        });
    };
    let here = View::of(cluster, keeper);
    let mut first = direct.clone();
    first.env.push(("XDG_STATE_HOME".into(), here.state.path().to_str().unwrap().into()));
    let command = ["sh", "-c", SCRIPT, "sh", &dir];
    let first = keeper.client(&first).process(&["-i", "--keep"], &command);
    let mut follower = Follower::start(first);
    follower.goes_on("first\n");
    input("first\n");
    let mut whole = follower.kill();

    // From another terminal of the same user's, by the beginning of the id.
    let known = here.known();
    let id = known.rsplit('/').next().unwrap();
    let mut follower = Follower::start(here.session(&["resume", &id[..8]]));
    follower.goes_on("second\n");
    input("first\nsecond\n");
    join(&mut whole, follower.kill());

    // From another machine.
    let there = View::of(cluster, keeper);
    let mut follower = Follower::start(there.session(&["resume", &known]));
    follower.goes_on("third\n");
    let (code, mut shown) = follower.ends();
    let last = "command terminated with exit code 7\n";
    assert!(shown[1].ends_with(last.as_bytes()));
    let notes = shown[1].len() - last.len();
    shown[1].truncate(notes);
    join(&mut whole, shown);
    assert_eq!(code, Some(7), "{pod}");
    are_whole(&whole);
    input("first\nsecond\nthird\n");
    let left = direct.run(&[], &["cat", &format!("{dir}/runs")], Input::Nothing);
    assert_eq!(left.stdout, b"run\n");

    // After the end, from each of them, and the same.
    for view in [&here, &there, &View::of(cluster, keeper)] {
        let left = view.result(&known);
        assert_eq!(left.status.code(), Some(7), "{pod}: {left:?}");
    }
    assert!(direct.run(&[], &["rm", "-r", &dir], Input::Nothing).status.success());
}

/// A session that ends at once, and is not kept for long after that.
pub fn is_gone_in_time(cluster: &Cluster, keeper: Keeper, pod: &str) {
    let view = View::of(cluster, keeper);
    let mut client = ours(&cluster.admin(), &[pod]);
    client.env.push(("XDG_STATE_HOME".into(), view.state.path().to_str().unwrap().into()));
    let detached = ["--detach", "--keep-for=3s"];
    let left = keeper.client(&client).run(&detached, &["sh", "-c", "exit 7"], Input::Nothing);
    assert!(left.status.success(), "{pod}: {left:?}");
    let session = String::from_utf8(left.stdout).unwrap();
    until("its time is over", PATIENCE, || {
        let left = view.result(session.trim());
        let is_over = left.status.code() == Some(255) && left.stderr.contains("no such session");
        assert!(is_over || left.status.code() == Some(7), "{pod}: {left:?}");
        is_over
    });
}
