//! A command to a process of this host with its ends, as values that a session's task polls.
//! Dropped, it ends.

use std::borrow::Cow;
use std::fmt::{self, Display, Formatter};
use std::io;
use std::process::Stdio;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bowline_io::drive::{ReadBuffer, WriteQueue};
use bowline_proto::session::{Size, Wants};
use bytes::BytesMut;
use tokio::net::unix::pipe::{self, Receiver, Sender};
use tracing::{info, warn};

use super::container::Container;
use super::descendants::ContainerProcesses;
use super::manifest::ContainerSpec;
use super::process_group::{ProcessGroup, Termination};
use super::spawn::{self, Descriptors, SpawnError};
use super::terminal::Terminal;
use crate::pipes::{PIPE_BYTES, Pipe};
use crate::runtime::{Act, Command, Drain, ExitStatus, Process, StartError};

/// The most bytes that a process's two pipes hold when it ends.
const HELD_BYTES: usize = 2 * PIPE_BYTES;

/// A command to run in a container.
#[derive(Debug)]
pub(super) struct Exec {
    /// Where it runs.
    pub container: Arc<Container>,
    /// Its words.
    pub words: Vec<String>,
    /// Its own variables, beside the container's.
    pub env: Vec<(String, String)>,
    /// The channels that the client wants.
    pub wants: Wants,
    /// How its processes are ended once its client has gone.
    pub termination: Termination,
    /// How long its output is read on after it has ended.
    pub patience: Option<Duration>,
}

impl Display for Exec {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let word = self.words.first().map(String::as_str).unwrap_or_default();
        write!(f, "exec {word:?} in {}", self.container.spec.name)
    }
}

impl Command for Exec {
    type Process = HostProcess;

    fn start(&mut self, size: Option<Size>) -> Result<HostProcess, StartError> {
        let Exec { container, words, env, wants, termination, .. } = self;
        let (processes, termination) = (&container.processes, termination.clone());
        let mut spec = Cow::Borrowed(&container.spec);
        if !env.is_empty() {
            spec.to_mut().env.append(env);
        }
        let started = HostProcess::start(words, &spec, *wants, size, processes, termination);
        let process = started?;
        info!(process = process.id(), "{self}");
        Ok(process)
    }

    fn words(&self) -> &[String] {
        &self.words
    }

    fn drain(&self) -> Drain {
        Drain { patience: self.patience, held_bytes: HELD_BYTES }
    }
}

/// A process of this host and its ends.
#[derive(Debug)]
pub(super) struct HostProcess {
    group: ProcessGroup,
    ends: Ends,
    stdin: Stdin,
    line_begun: bool,
    out: ReadBuffer,
    err: ReadBuffer,
    /// Which output is looked at first: they take turns, so that neither waits for a pause of the
    /// other.
    err_first: bool,
}

type OutputPipe = Option<Pipe<Receiver>>;

#[derive(Debug)]
enum Ends {
    Pipes { stdin: Option<Pipe<Sender>>, stdout: OutputPipe, stderr: OutputPipe },
    Terminal { terminal: Terminal, open: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stdin {
    Open,
    /// It takes no more: the process closed it, or the end of the input was written.
    Closed,
}

impl HostProcess {
    /// Starts `words` in a container, with the ends that are wanted.
    ///
    /// # Errors
    /// [`SpawnError`] if there is no such program, it cannot be run, or the system is out of what a
    /// process needs.
    pub(super) fn start(
        words: &[String],
        container: &ContainerSpec,
        wants: Wants,
        size: Option<Size>,
        processes: &ContainerProcesses,
        termination: Termination,
    ) -> Result<HostProcess, SpawnError> {
        let (ends, descriptors) = if wants.tty { terminal_ends(size)? } else { pipe_ends(wants)? };
        let child = spawn::spawn(words, container, descriptors, processes)?;
        Ok(HostProcess {
            group: ProcessGroup::new(child, termination)?,
            ends,
            stdin: if wants.stdin { Stdin::Open } else { Stdin::Closed },
            line_begun: false,
            out: ReadBuffer::default(),
            err: ReadBuffer::default(),
            err_first: false,
        })
    }

    /// Returns its process id.
    #[must_use]
    pub(super) fn id(&self) -> u32 {
        self.group.id()
    }

    fn poll_pipes(&mut self, cx: &mut Context<'_>) -> Poll<Act> {
        let Ends::Pipes { stdout, stderr, .. } = &mut self.ends else { return Poll::Pending };
        for err in [self.err_first, !self.err_first] {
            let (pipe, buffer) =
                if err { (&mut *stderr, &mut self.err) } else { (&mut *stdout, &mut self.out) };
            if let Poll::Ready(bytes) = poll_pipe(cx, pipe, buffer) {
                self.err_first = !err;
                return Poll::Ready(match (bytes, err) {
                    (Some(bytes), false) => Act::Stdout(bytes.freeze()),
                    (Some(bytes), true) => Act::Stderr(bytes.freeze()),
                    (None, false) => Act::StdoutEnded,
                    (None, true) => Act::StderrEnded,
                });
            }
        }
        Poll::Pending
    }

    fn poll_stdin(&mut self, cx: &mut Context<'_>, waiting: &mut WriteQueue) -> Poll<()> {
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
                    *waiting = WriteQueue::default();
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

    fn poll(&mut self, cx: &mut Context<'_>, stdin: &mut WriteQueue, room: bool) -> Poll<Act> {
        if self.poll_stdin(cx, stdin).is_ready() {
            return Poll::Ready(Act::TookInput);
        }
        if !room {
            return Poll::Pending;
        }
        match &mut self.ends {
            Ends::Terminal { terminal, open } if *open => {
                match ready!(self.out.poll(cx, terminal)) {
                    Ok(bytes) if !bytes.is_empty() => Poll::Ready(Act::Stdout(bytes.freeze())),
                    _ => {
                        *open = false;
                        Poll::Ready(Act::StdoutEnded)
                    }
                }
            }
            Ends::Terminal { .. } => Poll::Pending,
            Ends::Pipes { .. } => self.poll_pipes(cx),
        }
    }

    fn output_ended(&self) -> bool {
        match &self.ends {
            Ends::Pipes { stdout, stderr, .. } => stdout.is_none() && stderr.is_none(),
            Ends::Terminal { open, .. } => !open,
        }
    }

    fn poll_exit(&mut self, cx: &mut Context<'_>) -> Poll<ExitStatus> {
        self.group.poll_exit(cx)
    }

    fn release(&mut self) {
        self.group.release();
    }
}

fn poll_pipe(
    cx: &mut Context<'_>,
    pipe: &mut OutputPipe,
    buffer: &mut ReadBuffer,
) -> Poll<Option<BytesMut>> {
    let Some(open) = pipe else { return Poll::Pending };
    match ready!(buffer.poll(cx, open)) {
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
