//! A client at a container's console, as a command that a session can run.

use std::fmt::{self, Display, Formatter};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bowline_io::drive::WriteQueue;
use bowline_proto::session::{Size, Wants};
use tokio::time::{Instant, Sleep, sleep};

use super::console::{Next, Reader};
use super::container::Container;
use super::log::Position;
use crate::runtime::{Act, Command, ExitStatus, Process, Refusal, Source, StartError};

/// A client whose input has ended, and with it nothing else, leaves once the container has written
/// nothing for so long. Runtimes end it at once, and what the container answers is lost; to stay
/// for ever would hang who pipes a line in.
const QUIET: Duration = Duration::from_secs(2);

/// One client that attaches. It misses nothing from its making on.
#[derive(Debug)]
pub(super) struct Attach {
    container: Arc<Container>,
    wants: Wants,
    reader: Option<Reader>,
}

impl Attach {
    /// Attaches at the end of what the container has written so far, or `replay` lines before that.
    ///
    /// # Errors
    /// 400 where client and process do not agree about a terminal. Each would be a hang, or a loss,
    /// with the runtimes that people know (trap T33 in docs/protocols/traps.md).
    pub(super) fn new(
        container: Arc<Container>,
        wants: Wants,
        replay: Option<usize>,
    ) -> Result<Attach, Refusal> {
        let mismatch = match (wants.tty, container.spec.tty) {
            (true, false) => {
                Some("has no terminal (its spec has no tty: true): attach without one")
            }
            (false, true) => Some("has a terminal (its spec has tty: true): attach with one (-it)"),
            _ => None,
        };
        if let Some(mismatch) = mismatch {
            let text = format!("container {} {mismatch}", container.spec.name);
            return Err(Refusal::new(400, text));
        }
        let reader = container.console.holding_reader(|log| log.tail(replay.unwrap_or(0)));
        Ok(Attach { container, wants, reader: Some(reader) })
    }
}

impl Display for Attach {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "attach to {}", self.container.spec.name)
    }
}

impl Command for Attach {
    type Process = Attached;

    fn start(&mut self, size: Option<Size>) -> Result<Attached, StartError> {
        let reader = self.reader.take();
        let reader = reader.ok_or_else(|| StartError("it is attached already".to_owned()))?;
        if let Some(size) = size {
            reader.resize(size);
        }
        let spec = &self.container.spec;
        Ok(Attached {
            reader,
            wants: self.wants,
            tty: spec.tty,
            ends_input: self.wants.stdin && spec.stdin_once && !spec.tty,
            input_ended: false,
            quiet: None,
            until: None,
        })
    }
}

/// An attached client. Dropped, it is detached, and the process goes on.
#[derive(Debug)]
pub(super) struct Attached {
    reader: Reader,
    wants: Wants,
    tty: bool,
    /// The process's input ends with this client's (`stdinOnce`).
    ends_input: bool,
    input_ended: bool,
    /// The timer that runs while the container writes nothing.
    quiet: Option<Pin<Box<Sleep>>>,
    /// The client has detached: it gets what was written until then.
    until: Option<Position>,
}

impl Attached {
    fn poll_input(&mut self, cx: &mut Context<'_>, stdin: &mut WriteQueue) -> Poll<()> {
        if !stdin.is_empty() {
            return self.reader.poll_write(cx, stdin);
        }
        if !stdin.is_over() || self.input_ended {
            return Poll::Pending;
        }
        self.input_ended = true;
        if self.ends_input {
            self.reader.end_input();
        } else if self.tty {
            // What a client with a terminal does once the keys for it were pressed.
            self.until = Some(self.reader.end());
        } else {
            self.quiet = Some(Box::pin(sleep(QUIET)));
        }
        Poll::Ready(())
    }
}

impl Process for Attached {
    fn resize(&self, size: Size) {
        self.reader.resize(size);
    }

    fn poll(&mut self, cx: &mut Context<'_>, stdin: &mut WriteQueue, room: bool) -> Poll<Act> {
        if self.poll_input(cx, stdin).is_ready() {
            return Poll::Ready(Act::TookInput);
        }
        if !room {
            self.reader.watch(cx);
            return if self.reader.is_given_up() { Poll::Ready(given_up()) } else { Poll::Pending };
        }
        loop {
            let next = ready!(self.reader.poll_next(cx, self.until));
            if let Some(quiet) = &mut self.quiet {
                quiet.as_mut().reset(Instant::now() + QUIET);
            }
            match next {
                Next::Piece(Source::Stdout, _, bytes) if self.wants.stdout => {
                    return Poll::Ready(Act::Stdout(bytes));
                }
                Next::Piece(Source::Stderr, _, bytes) if self.wants.stderr => {
                    return Poll::Ready(Act::Stderr(bytes));
                }
                Next::Piece(..) => {}
                Next::Over => return Poll::Pending,
                Next::GivenUp => return Poll::Ready(given_up()),
            }
        }
    }

    fn output_ended(&self) -> bool {
        self.reader.is_over(self.until)
    }

    /// The end of the attachment is a good one, whatever becomes of the process.
    fn poll_exit(&mut self, cx: &mut Context<'_>) -> Poll<ExitStatus> {
        if self.output_ended() {
            return Poll::Ready(ExitStatus::Exited(0));
        }
        if let Some(quiet) = &mut self.quiet
            && quiet.as_mut().poll(cx).is_ready()
        {
            self.quiet = None;
            self.until = Some(self.reader.end());
        }
        self.reader.watch(cx);
        // It may have ended in between.
        if self.output_ended() { Poll::Ready(ExitStatus::Exited(0)) } else { Poll::Pending }
    }
}

fn given_up() -> Act {
    let why = "this client was too slow: the container's output went on without it, and what it \
               missed is no longer there";
    Act::Broken(why.to_owned())
}

impl Drop for Attached {
    fn drop(&mut self) {
        if self.ends_input && !self.input_ended {
            self.reader.end_input();
        }
    }
}
