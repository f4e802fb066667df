//! A job whose client may be struck: it writes in bursts and reads all the time, and both sides sum
//! up what goes each way.

use std::io::{BufRead, BufReader, Read, Write};
use std::ops::{Deref, DerefMut};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use bowline_interop::client::{Client, Input, PATIENCE, hex};
use bowline_interop::parts::hold;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rustix::process::{Pid, Signal, kill_process};
use sha2::{Digest, Sha256};

/// What the job ends with.
pub const CODE: i32 = 7;

/// Arguments: a directory of its own, bytes of a burst, seconds between two. It writes until its
/// input has ended, with a line of stderr for each burst; in the directory are the sums of both
/// directions, and a line for each time that it was run.
const SCRIPT: &str = r#"
mkdir -p "$1" && cd "$1" && echo run >>runs && mkfifo out || exit 99
sha256sum <out >out.sum &
exec 3<&0
{ sha256sum <&3 >in.new; mv in.new in.sum; } &
exec 3<&-
n=0
while [ ! -e in.sum ]; do
  n=$((n + 1))
  echo "burst $n" >&2
  head -c "$2" /dev/urandom
  sleep "$3"
done | tee out
wait
exit 7
"#;

/// How a job writes, and how much it is given.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Bytes of one burst.
    pub burst: u32,
    /// Seconds from one burst to the next.
    pub pause: &'static str,
    /// For each byte of input, so many of output have come before.
    pub output_to_input: u64,
}

/// Who keeps sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// The program in the container.
    Program,
    /// A node of ours. There is no program that could stand in for it.
    Node,
}

impl Keeper {
    /// What a client says for it.
    pub fn flag(self) -> Option<String> {
        (self == Keeper::Program).then(|| format!("--hold-program={}", hold().display()))
    }

    /// A client that says so.
    pub fn client(self, client: &Client) -> Client {
        self.flag().map_or_else(|| client.clone(), |flag| client.with(&flag))
    }

    /// Whether a session runs in the container of which the keeper knows that no client is there.
    pub fn is_one_alone(self, direct: &Client) -> bool {
        let list = "/tmp/.bowline-0/hold-* list /tmp/.bowline-0";
        let left = match self {
            Keeper::Program => direct.run(&[], &["sh", "-c", list], Input::Nothing),
            Keeper::Node => direct.run(&[], &["@bowline", "list"], Input::Nothing),
        };
        assert!(left.status.success(), "{left:?}");
        let text = String::from_utf8(left.stdout).unwrap();
        let words = match self {
            Keeper::Program => ["\"hasEnded\":false", "\"hasClient\":false"],
            Keeper::Node => ["  running  ", "  alone  "],
        };
        text.lines().any(|line| words.iter().all(|word| line.contains(word)))
    }
}

/// A client that is not left behind by a test that fails: its session would be kept for it.
pub struct Process(Child);

impl Process {
    /// Takes it over.
    pub fn of(child: Child) -> Process {
        Process(child)
    }
}

impl Deref for Process {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Process {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Also one that is stopped.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A job under way.
pub struct Job {
    /// Its client's name, for messages.
    pub name: String,
    /// Where it has its files.
    dir: String,
    child: Process,
    seen: Arc<(Mutex<Seen>, Condvar)>,
    threads: [JoinHandle<()>; 3],
}

/// What its client has shown so far.
#[derive(Default)]
pub struct Seen {
    /// Bytes of output.
    pub output: u64,
    /// How often its connection was lost, and was there again.
    pub lost: u32,
    pub restored: u32,
    /// Lines of the command's stderr.
    bursts: u64,
    /// Everything else on stderr.
    pub lines: Vec<String>,
    /// The input is to end, after so many bytes at least.
    ends_after: Option<u64>,
    input: (u64, String),
    digest: String,
}

impl Job {
    /// Starts one by a client that keeps its session.
    pub fn start(client: &Client, keeper: Keeper, mark: &str, pace: Pace) -> Job {
        let dir = format!("/tmp/kept-{mark}");
        let burst = pace.burst.to_string();
        let command = ["sh", "-c", SCRIPT, "sh", &dir, &burst, pace.pause];
        let process = keeper.client(client).process(&["-i", "--keep"], &command);
        Job::of(process, &client.name, dir, pace)
    }

    fn of(mut process: Command, name: &str, dir: String, pace: Pace) -> Job {
        process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Process::of(process.spawn().unwrap());
        let seen: Arc<(Mutex<Seen>, Condvar)> = Arc::default();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let stderr = child.stderr.take().unwrap();
        let threads = [
            thread::spawn({
                let seen = seen.clone();
                move || give(stdin, &seen, pace.output_to_input)
            }),
            thread::spawn({
                let seen = seen.clone();
                move || take(stdout, &seen)
            }),
            thread::spawn({
                let seen = seen.clone();
                move || listen(stderr, &seen)
            }),
        ];
        Job { name: name.to_owned(), dir, child, seen, threads }
    }

    /// What was seen so far.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.0.lock().unwrap()
    }

    /// Waits until its client has shown something.
    pub fn until(&self, what: &str, done: impl Fn(&Seen) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = self.seen();
        while !done(&seen) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{}: not {what}: {:?}", self.name, seen.lines);
            seen = self.seen.1.wait_timeout(seen, left).unwrap().0;
        }
    }

    /// Sends its client a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Ends its input once it has come to so many bytes, and sees that everything is true.
    /// `direct` is a client that looks at the job's files.
    pub fn ends(mut self, direct: &Client, input: u64) {
        self.with(|seen| seen.ends_after = Some(input));
        self.until("at its end", |seen| !seen.digest.is_empty());
        let status = self.child.wait().unwrap();
        for thread in self.threads {
            thread.join().unwrap();
        }
        let seen = std::mem::take(&mut *self.seen.0.lock().unwrap());
        let files = format!("cd {} && cat in.sum out.sum runs && cd / && rm -r {0}", self.dir);
        let left = direct.run(&[], &["sh", "-c", &files], Input::Nothing);
        let text = String::from_utf8(left.stdout).unwrap();
        let name = &self.name;
        println!(
            "{name}: {} bytes out, {} in, {} bursts, lost {} times",
            seen.output, seen.input.0, seen.bursts, seen.lost
        );
        let said = format!("{name}: {text:?} {:?}", seen.lines);
        assert_eq!(code(status), CODE, "{said}");
        assert_eq!(text, format!("{}  -\n{}  -\nrun\n", seen.input.1, seen.digest), "{said}");
    }

    fn with(&self, act: impl FnOnce(&mut Seen)) {
        act(&mut self.seen());
        self.seen.1.notify_all();
    }
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or(-1)
}

/// Gives input in proportion to the output that has come.
fn give(mut stdin: ChildStdin, seen: &(Mutex<Seen>, Condvar), output_to_input: u64) {
    let (mut source, mut hash) = (ChaCha8Rng::seed_from_u64(7), Sha256::new());
    let (mut given, mut piece) = (0, vec![0; 8 * 1024]);
    loop {
        let mut now = seen.0.lock().unwrap();
        let over = |now: &Seen| now.ends_after.is_some_and(|after| given >= after);
        while !over(&now) && now.ends_after.is_none() && given * output_to_input >= now.output {
            now = seen.1.wait(now).unwrap();
        }
        if over(&now) {
            now.input = (given, hex(&hash.finalize()));
            return;
        }
        drop(now);
        source.fill_bytes(&mut piece);
        hash.update(&piece);
        if stdin.write_all(&piece).is_err() {
            return;
        }
        given += piece.len() as u64;
    }
}

fn take(mut stdout: impl Read, seen: &(Mutex<Seen>, Condvar)) {
    let (mut hash, mut piece) = (Sha256::new(), vec![0; 64 * 1024]);
    while let Ok(read @ 1..) = stdout.read(&mut piece) {
        hash.update(&piece[..read]);
        seen.0.lock().unwrap().output += read as u64;
        seen.1.notify_all();
    }
    seen.0.lock().unwrap().digest = hex(&hash.finalize());
    seen.1.notify_all();
}

fn listen(stderr: impl Read, seen: &(Mutex<Seen>, Condvar)) {
    for line in BufReader::new(stderr).lines() {
        let line = line.unwrap();
        let mut now = seen.0.lock().unwrap();
        if let Some(number) = line.strip_prefix("burst ") {
            now.bursts += 1;
            assert_eq!(number, now.bursts.to_string(), "{:?}", now.lines);
            continue;
        }
        now.lost += u32::from(line.starts_with("The connection is lost"));
        now.restored += u32::from(line.starts_with("The session goes on after"));
        now.lines.push(line);
        seen.1.notify_all();
    }
}
