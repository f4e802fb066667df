//! Many kept sessions at once, while the API server is killed and comes again: each of them ends
//! with the exit code of its own command, which has run once.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{ChildStdin, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bowline_interop::client::{Client, Input};
use bowline_interop::cluster::{Cluster, PODS};

use crate::kept_job::{Keeper, Process};
use crate::parts::ours;

/// Says that it is up, waits for a line, and gives it back behind something.
const SCRIPT: &str = r#"
echo "$1" >>"$2"
echo "up $1"
read -r word
head -c 3000 /dev/zero
echo "$word"
exit $(($1 % 200 + 1))
"#;
/// All of them have so long for one thing.
const PATIENCE: Duration = Duration::from_secs(300);

/// How many jobs there are, and how often the API server is struck: `BOWLINE_KEPT_JOBS=300` strikes
/// it three times, and is a proof.
fn amounts() -> (usize, u32) {
    let jobs = std::env::var("BOWLINE_KEPT_JOBS").ok();
    jobs.map_or((30, 1), |text| (text.parse().expect("BOWLINE_KEPT_JOBS is a number"), 3))
}

/// What all clients have shown.
#[derive(Default)]
struct Shown {
    /// For each, whether its command is up, and how often its connection was lost and there again.
    up: Vec<bool>,
    lost: Vec<u32>,
    restored: Vec<u32>,
    /// What else was said, the first of it.
    words: Vec<String>,
}

type Shared = Arc<(Mutex<Shown>, Condvar)>;

/// One job's client.
struct Small {
    child: Process,
    stdin: ChildStdin,
    stdout: JoinHandle<Vec<u8>>,
}

impl Small {
    fn start(client: &Client, keeper: Keeper, number: usize, runs: &str, shown: &Shared) -> Small {
        let own = number.to_string();
        let command = ["sh", "-c", SCRIPT, "sh", &own, runs];
        let mut process = keeper.client(client).process(&["-i", "--keep"], &command);
        process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Process::of(process.spawn().unwrap());
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let all = shown.clone();
        thread::spawn(move || {
            for line in stderr.lines() {
                all.0.lock().unwrap().says(number, line.unwrap());
                all.1.notify_all();
            }
        });
        let all = shown.clone();
        let stdout = thread::spawn(move || {
            let (mut line, mut rest) = (String::new(), Vec::new());
            stdout.read_line(&mut line).unwrap();
            all.0.lock().unwrap().up[number] = line == format!("up {number}\n");
            all.1.notify_all();
            stdout.read_to_end(&mut rest).unwrap();
            rest
        });
        Small { stdin: child.stdin.take().unwrap(), child, stdout }
    }

    /// Has it end; what is wrong with that.
    fn ends(mut self, number: usize) -> Option<String> {
        // Of one that has ended already, its exit code says more.
        let _ = self.stdin.write_all(format!("word {number}\n").as_bytes());
        drop(self.stdin);
        let code = self.child.wait().unwrap().code();
        let output = self.stdout.join().unwrap();
        let expected = [&[0; 3000][..], format!("word {number}\n").as_bytes()].concat();
        let is_right = code == Some(number as i32 % 200 + 1) && output == expected;
        (!is_right).then(|| format!("{number}: {code:?}, {} bytes", output.len()))
    }
}

impl Shown {
    fn says(&mut self, number: usize, line: String) {
        self.lost[number] += u32::from(line.starts_with("The connection is lost"));
        self.restored[number] += u32::from(line.starts_with("The session goes on after"));
        if self.words.len() < 20 {
            self.words.push(line);
        }
    }

    fn are_back(&self, times: u32) -> usize {
        let pairs = self.lost.iter().zip(&self.restored);
        pairs.filter(|(lost, restored)| lost == restored && **lost >= times).count()
    }
}

/// Waits until this counts all of them.
fn until_all(what: &str, shown: &Shared, count: impl Fn(&Shown) -> usize) {
    let begun = Instant::now();
    let mut now = shown.0.lock().unwrap();
    while count(&now) < now.up.len() {
        let left = PATIENCE.saturating_sub(begun.elapsed());
        assert!(!left.is_zero(), "{what}: {} of {}: {:?}", count(&now), now.up.len(), now.words);
        now = shown.1.wait_timeout(now, left).unwrap().0;
    }
    println!("{what}: all {} after {:.1} s", now.up.len(), begun.elapsed().as_secs_f64());
}

/// Runs them in both pods of a cluster.
pub fn check(cluster: &Cluster, keeper: Keeper) {
    let (jobs, times) = amounts();
    let state = tempfile::tempdir().unwrap();
    let clients = PODS.map(|pod| {
        let mut client = ours(&cluster.admin(), &[pod]).named(pod);
        client.env.push(("XDG_STATE_HOME".into(), state.path().to_str().unwrap().into()));
        client
    });
    let runs = format!("/tmp/runs-{}", std::process::id());
    let (up, counts) = (vec![false; jobs], vec![0; jobs]);
    let shown: Shared = Arc::default();
    *shown.0.lock().unwrap() =
        Shown { up, lost: counts.clone(), restored: counts, words: Vec::new() };
    let smalls: Vec<Small> = (0..jobs)
        .map(|number| Small::start(&clients[number % 2], keeper, number, &runs, &shown))
        .collect();
    until_all("up", &shown, |shown| shown.up.iter().filter(|is_up| **is_up).count());
    for time in 1..=times {
        cluster.kill("kube-apiserver");
        cluster.restart("kube-apiserver");
        until_all("there again", &shown, |shown| shown.are_back(time));
    }
    let begun = Instant::now();
    let wrong: Vec<String> =
        smalls.into_iter().enumerate().filter_map(|(number, small)| small.ends(number)).collect();
    let words = &shown.0.lock().unwrap().words;
    assert!(wrong.is_empty(), "{} of {jobs}: {wrong:?}: {words:?}", wrong.len());
    println!("all {jobs} have ended within {:.1} s", begun.elapsed().as_secs_f64());
    for (at, client) in clients.iter().enumerate() {
        let left = client.run(&[], &["sort", "-n", &runs], Input::Nothing);
        let expected: String = (at..jobs).step_by(2).map(|number| format!("{number}\n")).collect();
        assert_eq!(String::from_utf8(left.stdout).unwrap(), expected, "{}", client.name);
    }
}
