//! A terminal whose screen and modes are known, with a client on it. It answers as real ones do.

use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Instant;

use pty_process::Size;
use pty_process::blocking::{Command as OnTerminal, Pty, open};

use crate::client::PATIENCE;

/// A running client, and what its terminal shows.
#[expect(missing_debug_implementations, reason = "a pty has no Debug")]
pub struct Emulated {
    pty: Arc<Pty>,
    child: Child,
    pieces: Receiver<Vec<u8>>,
    terminal: vt100::Parser<Answers>,
    read_bytes: u64,
}

/// What the terminal says because it was asked.
#[derive(Default)]
struct Answers(String);

impl vt100::Callbacks for Answers {
    fn unhandled_csi(
        &mut self,
        screen: &mut vt100::Screen,
        first: Option<u8>,
        _: Option<u8>,
        parameters: &[&[u16]],
        last: char,
    ) {
        match (first, parameters, last) {
            (None, [[5]], 'n') => self.0.push_str("\x1b[0n"),
            (None, [[6]], 'n') => {
                let (row, column) = screen.cursor_position();
                self.0.push_str(&format!("\x1b[{};{}R", row + 1, column + 1));
            }
            (None, _, 'c') => self.0.push_str("\x1b[?62;22c"),
            (Some(b'>'), _, 'c') => self.0.push_str("\x1b[>41;354;0c"),
            _ => {}
        }
    }
}

/// What a terminal shows, and in which modes it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The rows, with all colours, and the place of the cursor.
    pub contents: String,
    /// Whether this is the alternate screen.
    pub is_alternate: bool,
    /// Whether the cursor is hidden.
    pub is_cursor_hidden: bool,
    /// What sets the modes of keys, mouse and paste.
    pub input_modes: String,
    /// How the next characters are written.
    pub pen: String,
}

impl Emulated {
    /// Starts a program on a new terminal of this size.
    #[must_use]
    pub fn start(command: &Command, rows: u16, columns: u16) -> Emulated {
        let (pty, pts) = open().expect("a pty can be had");
        pty.resize(Size::new(rows, columns)).expect("a pty has a size");
        let mut on_terminal = OnTerminal::new(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            on_terminal = match value {
                Some(value) => on_terminal.env(name, value),
                None => on_terminal.env_remove(name),
            };
        }
        let child = on_terminal.spawn(pts).expect("the client starts");
        let pty = Arc::new(pty);
        let (sender, pieces) = channel();
        let reader = pty.clone();
        thread::spawn(move || {
            let mut piece = [0; 16 * 1024];
            // The end is an error of the terminal's on Linux.
            while let Ok(read @ 1..) = (&*reader).read(&mut piece) {
                if sender.send(piece[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        let length = |number| NonZeroU16::new(number).expect("a terminal has a size");
        let (rows, columns) = (length(rows), length(columns));
        let terminal = vt100::Parser::new_with_callbacks(rows, columns, 0, Answers::default());
        Emulated { pty, child, pieces, terminal, read_bytes: 0 }
    }

    /// Types.
    pub fn types(&self, keys: &str) {
        (&*self.pty).write_all(keys.as_bytes()).expect("a terminal takes keys");
    }

    /// What is seen now.
    #[must_use]
    pub fn seen(&self) -> Seen {
        let screen = self.terminal.screen();
        Seen {
            contents: screen.contents_formatted(),
            is_alternate: screen.alternate_screen(),
            is_cursor_hidden: screen.hide_cursor(),
            input_modes: screen.input_mode_formatted(),
            pen: screen.attributes_formatted(),
        }
    }

    /// The text on the screen.
    #[must_use]
    pub fn text(&self) -> String {
        self.terminal.screen().contents()
    }

    /// How much was written to it.
    #[must_use]
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    fn read(&mut self, piece: &[u8]) {
        self.terminal.process(piece);
        self.read_bytes += piece.len() as u64;
    }

    /// Waits until that is so.
    ///
    /// # Panics
    /// If it is not within the patience of all tests.
    pub fn until(&mut self, what: &str, is: impl Fn(&Emulated) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is(self) {
            match self.pieces.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(piece) => {
                    self.read(&piece);
                    let answers = std::mem::take(&mut self.terminal.callbacks_mut().0);
                    // Whoever has asked may have gone.
                    let _ = (&*self.pty).write_all(answers.as_bytes());
                }
                Err(error) => {
                    let _ = self.child.kill();
                    panic!("{what}: {error}; seen is\n{}\n{:?}", self.text(), self.seen())
                }
            }
        }
    }

    /// Waits until a text is on the screen.
    pub fn shows(&mut self, text: &str) {
        self.until(text, |seen| seen.text().contains(text));
    }

    /// Whether the terminal passes keys on as they are.
    #[must_use]
    pub fn is_raw(&self) -> bool {
        let modes = rustix::termios::tcgetattr(&*self.pty).expect("a terminal has modes");
        !modes.local_modes.contains(rustix::termios::LocalModes::ICANON)
    }

    /// Ends the client the hard way. What it has written is still read.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.read_all();
    }

    /// Waits for the client's end.
    pub fn ends(&mut self) -> ExitStatus {
        let status = self.child.wait().expect("a child can be waited for");
        self.read_all();
        status
    }

    /// Reads until the terminal has nothing more: all that had it open has ended.
    fn read_all(&mut self) {
        while let Ok(piece) = self.pieces.recv_timeout(PATIENCE) {
            self.read(&piece);
        }
    }
}

impl Drop for Emulated {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
