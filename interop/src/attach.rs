//! What an attach must show to any client, through any gateway, at any node.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Client, PATIENCE};
use crate::console::Console;

/// The script of a process that does what it is told, a line each: `say WORD`, `big BYTES` (a line
/// of that length), `end CODE`.
pub const TALKER: &str = "while read -r what much; do case $what in say) echo \"$much\";; \
     big) head -c \"$much\" /dev/zero | tr '\\0' x; echo;; err) echo \"$much\" >&2;; \
     end) exit \"$much\";; esac; done";

/// Pods to attach to: `talker`, whose input stays open, `once`, whose input ends with its first
/// client, and `shell` on a terminal.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pods<'a> {
    /// A node of a real cluster.
    pub node: Option<&'a str>,
    /// What the image there has: `box` or `gnu`.
    pub tools: &'a str,
    /// Behind each name.
    pub suffix: &'a str,
    /// They are said to run, where nobody else says it.
    pub runs: bool,
}

impl Pods<'_> {
    /// One for each.
    #[must_use]
    pub fn manifests(&self) -> Vec<String> {
        let talker =
            format!("    command:\n    - sh\n    - -c\n    - |\n      {TALKER}\n    stdin: true\n");
        let once = "    stdin: true\n    stdinOnce: true\n    command: [cat]\n";
        let shell = "    stdin: true\n    tty: true\n    command: [sh]\n    env: [{name: PS1, \
                     value: '# '}]\n";
        vec![self.pod("talker", &talker), self.pod("once", once), self.pod("shell", shell)]
    }

    /// Their names.
    #[must_use]
    pub fn names(&self) -> [String; 3] {
        ["talker", "once", "shell"].map(|name| [name, self.suffix].concat())
    }

    fn pod(&self, name: &str, container: &str) -> String {
        let name = [name, self.suffix].concat();
        let node = self.node.map_or(String::new(), |node| {
            format!("  nodeName: {node}\n  automountServiceAccountToken: false\n")
        });
        let image = self.node.map_or(String::new(), |_| {
            format!("    image: localhost/{}:1\n    imagePullPolicy: Never\n", self.tools)
        });
        let status = format!(
            "status:\n  phase: Running\n  containerStatuses:\n  - name: {name}\n    image: \
             none\n    imageID: none\n    ready: true\n    restartCount: 0\n    state: {{running: \
             {{}}}}\n"
        );
        let status = if self.runs { &*status } else { "" };
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  \
             terminationGracePeriodSeconds: 0\n  restartPolicy: Never\n{node}  containers:\n  - \
             name: {name}\n{image}{container}{status}"
        )
    }
}

/// Writes [`Pods`] to a file for `dev -f`.
#[must_use]
pub fn pods_file(place: &Path) -> String {
    let file = place.join("pods.yaml");
    std::fs::write(&file, Pods::default().manifests().join("---\n"))
        .expect("a temporary file can be written");
    file.to_string_lossy().into_owned()
}

impl Client {
    /// The same client as an attach to one of [`Pods`], which it is for.
    #[must_use]
    pub fn attaching(&self, pod: &str) -> Client {
        let mut client = self.clone();
        client.words[0] = "attach".to_owned();
        let suffix = self.target[0].find('-').map_or("", |at| &self.target[0][at..]);
        client.target = vec![[pod, suffix].concat()];
        client
    }
}

/// An attached client.
#[derive(Debug)]
pub struct Attached {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Line>,
}

/// A line of output, as far as it is worth keeping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The beginning of it.
    pub text: String,
    /// Its length in bytes, without its end.
    pub bytes: usize,
}

impl Attached {
    /// Starts one, with a pipe for its input where `-i` is among the flags.
    #[must_use]
    pub fn start(client: &Client, flags: &[&str]) -> Attached {
        let mut process = client.process(flags, &[]);
        let input = flags.contains(&"-i");
        process.stdin(if input { Stdio::piped() } else { Stdio::null() });
        process.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = process.spawn().expect("the client starts");
        let stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let (sender, lines) = channel();
        thread::spawn(move || {
            let mut line = Vec::new();
            while let Ok(1..) = stdout.read_until(b'\n', &mut line) {
                let bytes = line.len() - usize::from(line.ends_with(b"\n"));
                let text = String::from_utf8_lossy(&line[..bytes.min(80)]).into_owned();
                line.clear();
                if sender.send(Line { text, bytes }).is_err() {
                    return;
                }
            }
        });
        Attached { name: client.name.clone(), child, stdin, lines }
    }

    /// Types a line.
    pub fn says(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("it has an input");
        stdin.write_all(format!("{line}\n").as_bytes()).expect("the client takes input");
    }

    /// The next line.
    #[must_use]
    pub fn line(&self) -> Line {
        let line = self.lines.recv_timeout(PATIENCE);
        line.unwrap_or_else(|error| panic!("{}: no line: {error}", self.name))
    }

    /// The next line that begins so.
    #[must_use]
    pub fn finds(&self, beginning: &str) -> Line {
        loop {
            let line = self.line();
            if line.text.starts_with(beginning) {
                return line;
            }
        }
    }

    fn has_a_line_within(&self, patience: Duration) -> bool {
        self.lines.recv_timeout(patience).is_ok()
    }

    /// Ends its input.
    pub fn ends_input(&mut self) {
        self.stdin = None;
    }

    /// Waits for its end.
    #[must_use]
    pub fn ends(mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let _ = self.child.kill();
                    panic!("{}: does not end", self.name);
                }
            }
        }
        self.child.wait().expect("a child can be waited for")
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two clients at the talker, of which the first has its input: both are there.
#[must_use]
pub fn two(client: &Client) -> (Attached, Attached) {
    two_at(&client.attaching("talker"))
}

/// The same of a client that is for the talker.
#[must_use]
pub fn two_at(talker: &Client) -> (Attached, Attached) {
    let watcher = Attached::start(talker, &[]);
    let mut typist = Attached::start(talker, &["-i"]);
    // Nothing tells when a client is attached but what it shows.
    let deadline = Instant::now() + PATIENCE;
    let (mut watches, mut types) = (false, false);
    while !(watches && types) {
        assert!(Instant::now() < deadline, "{}: nobody is attached", talker.name);
        typist.says("say hello");
        types = types || typist.has_a_line_within(Duration::from_millis(200));
        watches = watches || watcher.has_a_line_within(Duration::from_millis(200));
    }
    (typist, watcher)
}

/// Without a terminal: two at once, each with all of `bytes`, and the input of one of them.
pub fn talks(client: &Client, bytes: usize) {
    talks_at(&client.attaching("talker"), bytes);
}

/// The same of a client that is for the talker.
pub fn talks_at(client: &Client, bytes: usize) {
    let (mut typist, watcher) = two_at(client);
    typist.says(&format!("say {}-begins", client.name.replace(' ', "-")));
    for attached in [&typist, &watcher] {
        let _ = attached.finds(&format!("{}-begins", client.name.replace(' ', "-")));
    }
    typist.says(&format!("big {bytes}"));
    for attached in [&typist, &watcher] {
        let line = attached.finds("x");
        assert_eq!(line.bytes, bytes, "{}: output is missing", client.name);
    }
}

/// On a terminal: the size, its changes, two at once, and, where the client can, leaving by keys.
pub fn types(client: &Client, detaches: bool) {
    let shell = client.attaching("shell");
    let mut first = Console::start(&shell, 33, 111, &[]);
    // The prompt came before this client.
    first.types("echo ready-$((1+1))\r");
    first.sees("ready-2\r\n");
    has_size(&mut first, "33 111\r\n");
    first.resize(30, 100);
    has_size(&mut first, "30 100\r\n");
    let mut second = Console::start(&shell, 30, 100, &[]);
    second.types("echo second-$((2+2))\r");
    second.sees("second-4\r\n");
    first.sees("second-4\r\n");
    if detaches {
        second.types("\x10\x11");
        let (status, seen) = second.ends();
        assert!(status.success(), "{}: {status}: {seen:?}", client.name);
        assert!(seen.contains("Session ended, resume using"), "{}: {seen:?}", client.name);
    } else {
        second.kill();
    }
    first.types("echo still-$((3+3))\r");
    first.sees("still-6\r\n");
    first.kill();
}

/// Asks for the terminal's size until it is that one: sizes travel beside the keys.
fn has_size(console: &mut Console, size: &str) {
    for _ in 0..100 {
        console.types("stty size\r");
        if console.sees_within(Duration::from_millis(300), size) {
            return;
        }
    }
    panic!("the size {size:?} does not arrive");
}
