//! A command to a process with its ends, as values that a session's task polls. Dropped, it ends.

use std::io;
use std::process::Stdio;
use std::task::{Context, Poll, ready};

use bowline_io::drive::{Inflow, Intake};
use bowline_proto::session::{Size, Wants};
use bytes::{Bytes, BytesMut};
use tokio::net::unix::pipe::{self, Receiver, Sender};
use tracing::warn;

use crate::family::Home;
pub use crate::leader::Ending;
use crate::leader::{Farewell, Leader};
use crate::manifest::ContainerSpec;
use crate::pipes::Pipe;
pub use crate::spawn::StartError;
use crate::spawn::{self, Descriptors};
use crate::terminal::Terminal;

/// What a session needs of a process: [`HostProcess`], or a simulated one. Dropped, it is hung up.
pub trait Process {
    /// Tells its terminal the size.
    fn resize(&self, size: Size);

    /// What it does next. It takes its input from `stdin`; its output is read only while `room`.
    fn poll(&mut self, cx: &mut Context<'_>, stdin: &mut Inflow, room: bool) -> Poll<Act>;

    /// Whether all output was read to its end.
    fn is_silent(&self) -> bool;

    /// How it ended, once it has.
    fn poll_ending(&mut self, cx: &mut Context<'_>) -> Poll<Ending>;

    /// It has ended, and so has the session: what it left behind lives on.
    fn leave(&mut self) {}
}

/// A process of this host and its ends.
#[derive(Debug)]
pub struct HostProcess {
    leader: Leader,
    ends: Ends,
    stdin: Stdin,
    line_begun: bool,
    out: Intake,
    err: Intake,
    /// Neither output waits for a pause of the other.
    err_first: bool,
}

type Outflow = Option<Pipe<Receiver>>;

#[derive(Debug)]
enum Ends {
    Pipes { stdin: Option<Pipe<Sender>>, stdout: Outflow, stderr: Outflow },
    Terminal { terminal: Terminal, open: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stdin {
    Open,
    /// It takes no more: it ended, or we said the end.
    Closed,
}

/// What a process did.
#[derive(Debug)]
pub enum Act {
    /// It wrote to its output.
    Out(Bytes),
    /// It wrote to its errors.
    Err(Bytes),
    /// Nobody can write to its output any more.
    OutEnded,
    /// Nobody can write to its errors any more.
    ErrEnded,
    /// It took some input, or refused any more.
    Took,
    /// Its output cannot be had as it was, and why.
    Broken(String),
}

impl HostProcess {
    /// Starts `words` in a container, with the ends that are wanted.
    ///
    /// # Errors
    /// [`StartError`].
    pub(crate) fn start(
        words: &[String],
        container: &ContainerSpec,
        wants: Wants,
        size: Option<Size>,
        home: &Home,
        farewell: Farewell,
    ) -> Result<HostProcess, StartError> {
        let (ends, descriptors) = if wants.tty { terminal_ends(size)? } else { pipe_ends(wants)? };
        let child = spawn::spawn(words, container, descriptors, home)?;
        Ok(HostProcess {
            leader: Leader::new(child, farewell)?,
            ends,
            stdin: if wants.stdin { Stdin::Open } else { Stdin::Closed },
            line_begun: false,
            out: Intake::default(),
            err: Intake::default(),
            err_first: false,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.leader.id()
    }

    /// Whether it still takes input.
    #[must_use]
    pub fn takes_input(&self) -> bool {
        self.stdin == Stdin::Open
    }

    fn poll_pipes(&mut self, cx: &mut Context<'_>) -> Poll<Act> {
        let Ends::Pipes { stdout, stderr, .. } = &mut self.ends else { return Poll::Pending };
        for err in [self.err_first, !self.err_first] {
            let (pipe, intake) =
                if err { (&mut *stderr, &mut self.err) } else { (&mut *stdout, &mut self.out) };
            if let Poll::Ready(bytes) = poll_pipe(cx, pipe, intake) {
                self.err_first = !err;
                return Poll::Ready(match (bytes, err) {
                    (Some(bytes), false) => Act::Out(bytes.freeze()),
                    (Some(bytes), true) => Act::Err(bytes.freeze()),
                    (None, false) => Act::OutEnded,
                    (None, true) => Act::ErrEnded,
                });
            }
        }
        Poll::Pending
    }

    fn poll_stdin(&mut self, cx: &mut Context<'_>, waiting: &mut Inflow) -> Poll<()> {
        if self.stdin == Stdin::Closed {
            waiting.discard();
            return Poll::Pending;
        }
        if waiting.is_over() {
            match &self.ends {
                Ends::Pipes { .. } => {
                    self.close_stdin();
                    return Poll::Ready(());
                }
                // A terminal's end of input are bytes, and have to be written.
                Ends::Terminal { terminal, .. } => {
                    let typed = terminal.end_of_input(self.line_begun);
                    *waiting = Inflow::default();
                    waiting.push(typed);
                }
            }
        }
        let last = waiting.last_byte();
        let taken = match &mut self.ends {
            Ends::Pipes { stdin: Some(stdin), .. } => ready!(waiting.poll_into(cx, stdin)),
            Ends::Terminal { terminal, .. } => ready!(waiting.poll_into(cx, terminal)),
            Ends::Pipes { stdin: None, .. } => Err(io::ErrorKind::BrokenPipe.into()),
        };
        match taken {
            Ok(_) => self.line_begun = last.map_or(self.line_begun, |byte| byte != b'\n'),
            // It closed its input. What else comes is for nobody; its output goes on.
            Err(_) => {
                self.close_stdin();
                waiting.discard();
            }
        }
        Poll::Ready(())
    }

    fn close_stdin(&mut self) {
        self.stdin = Stdin::Closed;
        if let Ends::Pipes { stdin, .. } = &mut self.ends {
            *stdin = None;
        }
    }
}

impl Process for HostProcess {
    fn resize(&self, size: Size) {
        if let Ends::Terminal { terminal, .. } = &self.ends
            && let Err(error) = terminal.resize(size)
        {
            warn!("resize: {error}");
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, stdin: &mut Inflow, room: bool) -> Poll<Act> {
        if self.poll_stdin(cx, stdin).is_ready() {
            return Poll::Ready(Act::Took);
        }
        if !room {
            return Poll::Pending;
        }
        match &mut self.ends {
            Ends::Terminal { terminal, open } if *open => {
                match ready!(self.out.poll(cx, terminal)) {
                    Ok(bytes) if !bytes.is_empty() => Poll::Ready(Act::Out(bytes.freeze())),
                    _ => {
                        *open = false;
                        Poll::Ready(Act::OutEnded)
                    }
                }
            }
            Ends::Terminal { .. } => Poll::Pending,
            Ends::Pipes { .. } => self.poll_pipes(cx),
        }
    }

    fn is_silent(&self) -> bool {
        match &self.ends {
            Ends::Pipes { stdout, stderr, .. } => stdout.is_none() && stderr.is_none(),
            Ends::Terminal { open, .. } => !open,
        }
    }

    fn poll_ending(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        self.leader.poll_ending(cx)
    }

    fn leave(&mut self) {
        self.leader.leave();
    }
}

fn poll_pipe(
    cx: &mut Context<'_>,
    pipe: &mut Outflow,
    intake: &mut Intake,
) -> Poll<Option<BytesMut>> {
    let Some(open) = pipe else { return Poll::Pending };
    match ready!(intake.poll(cx, open)) {
        Ok(bytes) if !bytes.is_empty() => Poll::Ready(Some(bytes)),
        _ => {
            *pipe = None;
            Poll::Ready(None)
        }
    }
}

fn terminal_ends(size: Option<Size>) -> io::Result<(Ends, Descriptors)> {
    let (terminal, slave) = Terminal::open(size)?;
    let descriptors = spawn::terminal_descriptors(&slave)?;
    Ok((Ends::Terminal { terminal, open: true }, descriptors))
}

fn pipe_ends(wants: Wants) -> io::Result<(Ends, Descriptors)> {
    let mut descriptors = Descriptors {
        stdin: Stdio::null(),
        stdout: Stdio::null(),
        stderr: Stdio::null(),
        controls: false,
    };
    let (mut stdin, mut stdout, mut stderr) = (None, None, None);
    if wants.stdin {
        let (ours, theirs) = pipe::pipe()?;
        descriptors.stdin = theirs.into_blocking_fd()?.into();
        stdin = Some(Pipe::new(ours));
    }
    if wants.stdout {
        let (theirs, ours) = pipe::pipe()?;
        descriptors.stdout = theirs.into_blocking_fd()?.into();
        stdout = Some(Pipe::new(ours));
    }
    if wants.stderr {
        let (theirs, ours) = pipe::pipe()?;
        descriptors.stderr = theirs.into_blocking_fd()?.into();
        stderr = Some(Pipe::new(ours));
    }
    Ok((Ends::Pipes { stdin, stdout, stderr }, descriptors))
}
