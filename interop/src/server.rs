//! A program that serves: started, found by its ready line, stopped by its process id.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::client::PATIENCE;

/// A running server. Dropped, it is killed.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Where it puts what is temporary. What is killed leaves that behind; it goes with this.
    place: TempDir,
    /// Its ready line.
    pub ready: String,
    log: Arc<Mutex<String>>,
}

impl Server {
    /// Starts a server and waits for its ready line on stdout.
    #[must_use]
    pub fn start(command: &mut Command) -> Server {
        let place = tempfile::tempdir().expect("there is room for temporary files");
        command.env("TMPDIR", place.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut stderr = child.stderr.take().expect("stderr is piped");
        let log = Arc::new(Mutex::new(String::new()));
        let kept = log.clone();
        thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(read @ 1..) = stderr.read(&mut piece) {
                let text = String::from_utf8_lossy(&piece[..read]);
                kept.lock().expect("nobody panics with it").push_str(&text);
            }
        });
        let (sender, ready) = channel();
        thread::spawn(move || {
            let mut line = String::new();
            let _ = stdout.read_line(&mut line);
            let _ = sender.send(line);
            // The server must never wait for a reader.
            let _ = std::io::copy(&mut stdout, &mut std::io::sink());
        });
        let ready = ready.recv_timeout(PATIENCE).unwrap_or_default();
        let server = Server { child, place, ready, log };
        assert!(server.ready.starts_with("serving on "), "{command:?}: {}", server.log());
        server
    }

    /// `bowline dev` with these flags.
    #[must_use]
    pub fn dev(bowline: &Path, flags: &[&str]) -> Server {
        let mut command = Command::new(bowline);
        command.args(["dev", "--port", "0"]).args(flags);
        Server::start(&mut command)
    }

    /// The address in the ready line.
    #[must_use]
    pub fn address(&self) -> String {
        let rest = self.ready.split("://").nth(1).expect("the ready line has a URL");
        rest.split([',', ' ', '\n']).next().unwrap_or_default().to_owned()
    }

    /// The kubeconfig in `dev`'s ready line.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        let rest = self.ready.split("kubeconfig: ").nth(1);
        rest.expect("dev says where its kubeconfig is").trim().to_owned()
    }

    /// Its process.
    #[must_use]
    pub fn id(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// What it logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lock().expect("nobody panics with it").clone()
    }

    /// Ends it without a chance to say anything.
    pub fn kill(&mut self) {
        let _ = kill_process(self.id(), Signal::KILL);
        let _ = self.child.wait();
    }

    /// Asks it to end; gives how long that took. Then nothing of it may be left.
    pub fn stop(self) -> Duration {
        self.stop_with(Signal::INT)
    }

    /// The same with another signal.
    pub fn stop_with(self, signal: Signal) -> Duration {
        let id = self.id();
        self.end(id, signal)
    }

    /// The same for a server that is a child of the program that was started, and ends with it.
    pub fn stop_by(self, asked: Pid) -> Duration {
        self.end(asked, Signal::INT)
    }

    /// Waits for the end of one that was asked to end already.
    pub fn has_ended(self) {
        self.ended(Instant::now());
    }

    fn end(self, asked: Pid, signal: Signal) -> Duration {
        let begun = Instant::now();
        let _ = kill_process(asked, signal);
        self.ended(begun)
    }

    fn ended(mut self, begun: Instant) -> Duration {
        let (sender, done) = channel();
        let id = self.id();
        let watchdog = thread::spawn(move || {
            if done.recv_timeout(PATIENCE).is_err() {
                let _ = kill_process(id, Signal::KILL);
            }
        });
        let status = self.child.wait().expect("a child can be waited for");
        let took = begun.elapsed();
        let _ = sender.send(());
        let _ = watchdog.join();
        assert!(status.success(), "{status}: {}", self.log());
        let left = std::fs::read_dir(self.place.path()).expect("its place is there");
        assert_eq!(left.count(), 0, "it leaves files in {}", self.place.path().display());
        took
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until `done`; panics with `what` where that takes too long.
pub fn until(what: &str, patience: Duration, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !done() {
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        // Nothing tells of another program's state; it is asked for again.
        thread::park_timeout(Duration::from_millis(20));
    }
}
