//! A terminal with a client on it: what a person types and sees.

use std::io::{Read, Write};
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use pty_process::Size;
use pty_process::blocking::{Command, Pty, open};

use crate::client::{Client, PATIENCE};

/// A running client on a terminal.
#[expect(missing_debug_implementations, reason = "a pty has no Debug")]
pub struct Console {
    name: String,
    pty: Arc<Pty>,
    child: Child,
    pieces: Receiver<Vec<u8>>,
    seen: String,
}

impl Console {
    /// Starts `command` by a client with a terminal of this size.
    #[must_use]
    pub fn start(client: &Client, rows: u16, columns: u16, command: &[&str]) -> Console {
        Console::start_with(client, rows, columns, &["-it"], command)
    }

    /// The same with other flags.
    #[must_use]
    pub fn start_with(
        client: &Client,
        rows: u16,
        columns: u16,
        flags: &[&str],
        command: &[&str],
    ) -> Console {
        let (pty, pts) = open().expect("a pty can be had");
        pty.resize(Size::new(rows, columns)).expect("a pty has a size");
        let process = client.process(flags, command);
        let mut on_terminal = Command::new(process.get_program()).args(process.get_args());
        for (name, value) in &client.env {
            on_terminal = on_terminal.env(name, value);
        }
        let child = on_terminal.spawn(pts).expect("the client starts");
        let pty = Arc::new(pty);
        let (sender, pieces) = channel();
        let reader = pty.clone();
        thread::spawn(move || {
            let mut piece = [0; 4096];
            // The end is an error of the terminal's on Linux.
            while let Ok(read @ 1..) = (&*reader).read(&mut piece) {
                if sender.send(piece[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        Console { name: client.name.clone(), pty, child, pieces, seen: String::new() }
    }

    /// Types.
    pub fn types(&self, keys: &str) {
        (&*self.pty).write_all(keys.as_bytes()).expect("a terminal takes keys");
    }

    /// Changes the size.
    pub fn resize(&self, rows: u16, columns: u16) {
        self.pty.resize(Size::new(rows, columns)).expect("a pty has a size");
    }

    /// Waits until `text` is on the screen.
    pub fn sees(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.seen.contains(text) {
            match self.pieces.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(piece) => self.seen.push_str(&String::from_utf8_lossy(&piece)),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("{}: ended without {text:?}: {:?}", self.name, self.seen)
                }
                Err(RecvTimeoutError::Timeout) => {
                    let _ = self.child.kill();
                    panic!("{}: no {text:?} within {PATIENCE:?}: {:?}", self.name, self.seen)
                }
            }
        }
    }

    /// Whether `text` comes to the screen within this time.
    #[must_use]
    pub fn sees_within(&mut self, patience: Duration, text: &str) -> bool {
        let deadline = Instant::now() + patience;
        while !self.seen.contains(text) {
            match self.pieces.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(piece) => self.seen.push_str(&String::from_utf8_lossy(&piece)),
                Err(_) => return false,
            }
        }
        true
    }

    /// Ends the client the hard way.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Whether the terminal passes keys on as they are.
    #[must_use]
    pub fn is_raw(&self) -> bool {
        let modes = rustix::termios::tcgetattr(&*self.pty).expect("a terminal has modes");
        !modes.local_modes.contains(rustix::termios::LocalModes::ICANON)
    }

    /// The client's process.
    #[must_use]
    pub fn id(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    /// Waits for the client's end; gives its status and all that was on the screen.
    #[must_use]
    pub fn ends(mut self) -> (ExitStatus, String) {
        let (sender, done) = channel();
        let id = self.id();
        let watchdog = thread::spawn(move || {
            if done.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                let _ = rustix::process::kill_process(id, rustix::process::Signal::KILL);
            }
        });
        let status = self.child.wait().expect("a child can be waited for");
        let _ = sender.send(());
        let _ = watchdog.join();
        while let Ok(piece) = self.pieces.recv_timeout(std::time::Duration::from_millis(100)) {
            self.seen.push_str(&String::from_utf8_lossy(&piece));
        }
        (status, self.seen)
    }
}
