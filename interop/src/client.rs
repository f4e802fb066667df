//! A client program, where it looks, and which pod: to processes and what they leave behind.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rustix::process::{Pid, Signal, kill_process};
use sha2::{Digest, Sha256};

/// No session here takes longer, on the slowest machine; one that does has hung.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// How often a client's memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A client and where it runs commands.
#[derive(Clone, Debug)]
pub struct Client {
    /// For messages.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Words between the program and the flags of a session; they begin with `exec`.
    pub words: Vec<String>,
    /// Its environment, besides what is inherited.
    pub env: Vec<(String, String)>,
    /// The pod, and flags for its container.
    pub target: Vec<String>,
}

/// Where a session's input comes from.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// None: `/dev/null`.
    Nothing,
    /// These bytes, then the end.
    Bytes(&'a [u8]),
    /// So many bytes of noise.
    Noise(u64),
}

/// What a session left.
#[derive(Debug)]
pub struct Left {
    /// How the client ended.
    pub status: ExitStatus,
    /// Its output; for [`Client::hashed`] only the digest and the length count.
    pub stdout: Vec<u8>,
    /// Its errors.
    pub stderr: String,
    /// Of its output.
    pub digest: String,
    /// Of its output.
    pub bytes: u64,
    /// The most memory that it had at once, as far as it was seen.
    pub memory_mib: u64,
}

impl Client {
    /// A kubectl or `bowline`, with this kubeconfig, for this pod.
    pub fn new(
        name: &str,
        program: impl Into<PathBuf>,
        kubeconfig: &str,
        target: &[&str],
    ) -> Client {
        Client {
            name: name.to_owned(),
            program: program.into(),
            words: ["exec", "--kubeconfig", kubeconfig].map(ToOwned::to_owned).to_vec(),
            env: Vec::new(),
            target: target.iter().map(|&word| word.to_owned()).collect(),
        }
    }

    /// The same client with more of a name.
    #[must_use]
    pub fn named(&self, more: &str) -> Client {
        let mut client = self.clone();
        client.name = format!("{}, {more}", self.name);
        client
    }

    /// The same client, for which the server is at another address: with a kubeconfig that is
    /// written to a file.
    ///
    /// # Panics
    /// If its own kubeconfig cannot be read, or another one not be written.
    #[must_use]
    pub fn at(&self, address: &str, instead_of: &str, file: &Path) -> Client {
        let mut client = self.clone();
        let text = std::fs::read_to_string(&self.words[2]).expect("the kubeconfig can be read");
        let text = text.replace(instead_of, address);
        std::fs::write(file, text).expect("a kubeconfig can be written");
        client.words[2] = file.display().to_string();
        client
    }

    /// The same client as a port-forward to the same pod.
    #[must_use]
    pub fn forwarding(&self) -> Client {
        let mut client = self.clone();
        client.words[0] = "port-forward".to_owned();
        client
    }

    /// The same client, made to speak SPDY alone.
    #[must_use]
    pub fn over_spdy(&self) -> Client {
        let mut client = self.clone();
        client.name.push_str(" over SPDY");
        for name in ["KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "KUBECTL_PORT_FORWARD_WEBSOCKETS"] {
            client.env.push((name.into(), "False".into()));
        }
        client
    }

    /// With one more word before the session's flags.
    #[must_use]
    pub fn with(&self, word: &str) -> Client {
        let mut client = self.clone();
        client.words.push(word.to_owned());
        client
    }

    /// The process that runs `command`, not started yet.
    #[must_use]
    pub fn process(&self, flags: &[&str], command: &[&str]) -> Command {
        let mut process = Command::new(&self.program);
        process.args(&self.words).args(flags).args(&self.target).arg("--").args(command);
        process.envs(self.env.iter().map(|(name, value)| (name, value)));
        process
    }

    /// Starts a shell's script and gives its first line as soon as that is there.
    #[must_use]
    pub fn begin(&self, flags: &[&str], script: &str) -> (Child, String) {
        let mut process = self.process(flags, &["sh", "-c", script]);
        process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = process.spawn().expect("the client starts");
        let (mut line, mut byte) = (String::new(), [0]);
        while byte != *b"\n" {
            let stdout = child.stdout.as_mut().expect("stdout is piped");
            if let Err(error) = stdout.read_exact(&mut byte) {
                let said = child.wait_with_output().expect("the client ends");
                panic!("a script writes a line first: {error}: {said:?}");
            }
            line.push(char::from(byte[0]));
        }
        (child, line.trim_end().to_owned())
    }

    /// Runs a command to its end and keeps its output.
    #[must_use]
    pub fn run(&self, flags: &[&str], command: &[&str], input: Input<'_>) -> Left {
        self.started(flags, command, input, true)
    }

    /// Runs a command to its end and keeps its output's digest and length.
    #[must_use]
    pub fn hashed(&self, flags: &[&str], command: &[&str], input: Input<'_>) -> Left {
        self.started(flags, command, input, false)
    }

    fn started(&self, flags: &[&str], command: &[&str], input: Input<'_>, keep: bool) -> Left {
        let mut process = self.process(flags, command);
        process.stdout(Stdio::piped()).stderr(Stdio::piped());
        process.stdin(match input {
            Input::Nothing => Stdio::null(),
            _ => Stdio::piped(),
        });
        let child = process.spawn().unwrap_or_else(|error| panic!("{:?}: {error}", self.program));
        left(child, input, keep)
            .unwrap_or_else(|| panic!("{}: {command:?} did not end within {PATIENCE:?}", self.name))
    }
}

/// Feeds and reads a process to its end; `None` if it had to be killed.
#[must_use]
pub fn left(child: Child, input: Input<'_>, keep: bool) -> Option<Left> {
    left_within(PATIENCE, child, input, keep)
}

/// The same with a patience of one's own.
#[must_use]
pub fn left_within(
    patience: Duration,
    mut child: Child,
    input: Input<'_>,
    keep: bool,
) -> Option<Left> {
    let mut stdin = child.stdin.take();
    let mut stdout = child.stdout.take().expect("stdout is piped");
    let mut stderr = child.stderr.take().expect("stderr is piped");
    let id = Pid::from_child(&child);
    let (ended, end) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            let Some(stdin) = &mut stdin else { return };
            // Who does not read all of it is free to do so.
            let _ = match input {
                Input::Nothing => Ok(()),
                Input::Bytes(bytes) => stdin.write_all(bytes),
                Input::Noise(bytes) => noise(bytes, |piece| stdin.write_all(piece)),
            };
        });
        let output = scope.spawn(move || {
            let (mut hash, mut kept, mut bytes) = (Sha256::new(), Vec::new(), 0);
            let mut piece = vec![0; 256 * 1024];
            while let Ok(read @ 1..) = stdout.read(&mut piece) {
                hash.update(&piece[..read]);
                bytes += read as u64;
                if keep {
                    kept.extend_from_slice(&piece[..read]);
                }
            }
            (hex(&hash.finalize()), kept, bytes)
        });
        let errors = scope.spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        let watchdog = scope.spawn(move || {
            let deadline = Instant::now() + patience;
            let mut memory_mib = 0;
            while end.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                memory_mib = peak_mib(id).unwrap_or(memory_mib);
                if Instant::now() > deadline {
                    let _ = kill_process(id, Signal::KILL);
                    return (true, memory_mib);
                }
            }
            (false, memory_mib)
        });
        let status = child.wait().expect("a child can be waited for");
        let _ = ended.send(());
        let (digest, stdout, bytes) = output.join().expect("reading does not panic");
        let stderr = errors.join().expect("reading does not panic");
        let (hung, memory_mib) = watchdog.join().expect("waiting does not panic");
        (!hung).then_some(Left { status, stdout, stderr, digest, bytes, memory_mib })
    })
}

/// The most memory that a process had at once so far. What `wait4` says instead begins with what
/// this program had when it started the other one.
fn peak_mib(id: Pid) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{}/status", id.as_raw_nonzero())).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? / 1024)
}

/// So many bytes of noise, the same each time, in pieces.
///
/// # Errors
/// Those of `take`.
pub fn noise<E>(bytes: u64, mut take: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    let mut source = ChaCha8Rng::seed_from_u64(7);
    let mut piece = vec![0; 64 * 1024];
    let mut rest = bytes;
    while rest > 0 {
        let length = rest.min(piece.len() as u64);
        let piece = &mut piece[..usize::try_from(length).expect("a piece is small")];
        source.fill_bytes(piece);
        take(piece)?;
        rest -= length;
    }
    Ok(())
}

/// The digest of such noise.
#[must_use]
pub fn noise_digest(bytes: u64) -> String {
    let mut hash = Sha256::new();
    let _ = noise::<()>(bytes, |piece| {
        hash.update(piece);
        Ok(())
    });
    hex(&hash.finalize())
}

/// In hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
