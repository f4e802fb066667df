//! A command's pipes, as values that a session's task polls.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bowline_io::drive::{ReadBuffer, WriteQueue};
use bowline_io::text::go_error;
use bowline_proto::session::Wants;
use bytes::{Bytes, BytesMut};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::time::{Instant, Sleep, sleep};

use super::fifos::Fifos;
use crate::pipes::Pipe;
use crate::runtime::Act;

const CTRL_D: u8 = 4;
/// The first pause between two looks whether the shim has opened its end of stdin; it doubles, up
/// to the longest.
const PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// This program's ends.
#[derive(Debug)]
pub(super) struct Ends {
    /// Their names, until the shim has opened all of them.
    fifos: Option<Fifos>,
    tty: bool,
    stdin: Stdin,
    stdout: Output,
    stderr: Output,
    /// Which output is looked at first: they take turns, so that neither waits for a pause of the
    /// other.
    err_first: bool,
    line_begun: bool,
}

#[derive(Debug)]
enum Stdin {
    /// The shim has not opened its end yet, when last looked at.
    Opening(Pin<Box<Sleep>>, Duration),
    /// A terminal's stays open until the session ends: its end would be that of the terminal.
    Open(Pipe<Sender>),
    /// It takes no more: the command closed it, its end was given, or there never was one.
    Closed,
}

#[derive(Debug)]
struct Output {
    pipe: Option<Pipe<Receiver>>,
    buffer: ReadBuffer,
    wanted: bool,
}

impl Output {
    fn new(end: Option<Receiver>, wanted: bool) -> Output {
        Output { pipe: end.map(Pipe::new), buffer: ReadBuffer::default(), wanted }
    }

    /// Polls for bytes that are wanted, or for the end, which is `None`.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<BytesMut>>> {
        while let Some(pipe) = &mut self.pipe {
            match ready!(self.buffer.poll(cx, pipe)) {
                Ok(bytes) if !bytes.is_empty() && !self.wanted => {}
                Ok(bytes) if !bytes.is_empty() => return Poll::Ready(Some(Ok(bytes))),
                ended => {
                    self.pipe = None;
                    return Poll::Ready(ended.err().map(Err));
                }
            }
        }
        Poll::Pending
    }
}

/// What became of input.
pub(super) enum Input {
    /// Some was taken, or is for nobody.
    Taken,
    /// All was, and the command has to be told that this is the end.
    Ended,
    /// It cannot be given to the command, for this reason.
    Broken(String),
}

impl Ends {
    pub(super) fn new(
        fifos: Fifos,
        (stdout, stderr): (Receiver, Option<Receiver>),
        wants: Wants,
    ) -> Ends {
        let opening = || Stdin::Opening(Box::pin(sleep(Duration::ZERO)), PAUSE);
        Ends {
            fifos: Some(fifos),
            tty: wants.tty,
            stdin: if wants.stdin { opening() } else { Stdin::Closed },
            // What a terminal shows is wanted in any case.
            stdout: Output::new(Some(stdout), wants.stdout || wants.tty),
            stderr: Output::new(stderr, wants.stderr),
            err_first: false,
            line_begun: false,
        }
    }

    /// Returns the names of stdin, stdout and stderr, as containerd is told them.
    pub(super) fn names(&self) -> [String; 3] {
        self.fifos.as_ref().map(Fifos::names).unwrap_or_default()
    }

    /// Returns whether all output was read to its end.
    pub(super) fn output_ended(&self) -> bool {
        self.stdout.pipe.is_none() && self.stderr.pipe.is_none()
    }

    /// Polls the input of a command that has started.
    pub(super) fn poll_stdin(
        &mut self,
        cx: &mut Context<'_>,
        waiting: &mut WriteQueue,
    ) -> Poll<Input> {
        let stdin = match &mut self.stdin {
            Stdin::Open(stdin) => stdin,
            Stdin::Opening(..) => {
                let opened = ready!(self.poll_open(cx));
                return Poll::Ready(opened.map_or_else(cannot_give, |()| Input::Taken));
            }
            Stdin::Closed => {
                self.fifos = None;
                waiting.discard();
                return Poll::Pending;
            }
        };
        if waiting.is_over() {
            if self.tty {
                // A terminal's end of input are bytes, and have to be written.
                *waiting = WriteQueue::default();
                waiting.push(end_of_input(self.line_begun));
            } else {
                self.stdin = Stdin::Closed;
                return Poll::Ready(Input::Ended);
            }
        }
        let last = waiting.last_byte();
        match ready!(waiting.poll_into(cx, stdin)) {
            Ok(_) => self.line_begun = last.map_or(self.line_begun, |byte| byte != b'\n'),
            // It closed its input. What else comes is for nobody; its output goes on.
            Err(_) => {
                self.stdin = Stdin::Closed;
                waiting.discard();
            }
        }
        Poll::Ready(Input::Taken)
    }

    /// Opens stdin once the shim has.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut opened = Ok(());
        while let (Stdin::Opening(timer, pause), Some(fifos)) = (&mut self.stdin, &self.fifos) {
            ready!(timer.as_mut().poll(cx));
            match fifos.open_stdin() {
                Ok(None) => {
                    timer.as_mut().reset(Instant::now() + *pause);
                    *pause = (*pause * 2).min(LONGEST_PAUSE);
                }
                Ok(Some(sender)) => self.stdin = Stdin::Open(Pipe::new(sender)),
                Err(error) => {
                    self.stdin = Stdin::Closed;
                    // Its name is gone where its container is, and with that whoever would read it.
                    if error.kind() != io::ErrorKind::NotFound {
                        opened = Err(error);
                    }
                }
            }
        }
        self.fifos = None;
        Poll::Ready(opened)
    }

    /// Polls the outputs.
    pub(super) fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<Act> {
        for err in [self.err_first, !self.err_first] {
            let output = if err { &mut self.stderr } else { &mut self.stdout };
            if let Poll::Ready(bytes) = output.poll(cx) {
                self.err_first = !err;
                return Poll::Ready(match (bytes, err) {
                    (Some(Ok(bytes)), false) => Act::Stdout(bytes.freeze()),
                    (Some(Ok(bytes)), true) => Act::Stderr(bytes.freeze()),
                    (Some(Err(error)), _) => {
                        Act::Broken(format!("the output cannot be read: {}", go_error(&error)))
                    }
                    (None, false) => Act::StdoutEnded,
                    (None, true) => Act::StderrEnded,
                });
            }
        }
        Poll::Pending
    }

    /// Awaits something, and reads the outputs for nobody until then: who writes them is not held
    /// up.
    pub(super) async fn discard_while<T>(&mut self, awaited: impl Future<Output = T>) -> T {
        let discarding = async {
            self.discard().await;
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            done = awaited => done,
            never = discarding => match never {},
        }
    }

    async fn discard(&mut self) {
        self.stdout.wanted = false;
        self.stderr.wanted = false;
        std::future::poll_fn(|cx| {
            while self.poll_output(cx).is_ready() {}
            if self.output_ended() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Lets go of the input: nobody writes it any more. Of a terminal's nothing is told.
    pub(super) fn hang_up(&mut self) {
        self.fifos = None;
        self.stdin = Stdin::Closed;
    }
}

fn cannot_give(error: io::Error) -> Input {
    Input::Broken(format!("the input cannot be given to the command: {}", go_error(&error)))
}

/// Returns what a person would type to end the input now: Ctrl-D, twice if a line is begun. Which
/// character does that for this terminal is known to its shim alone; hardly anybody has another.
fn end_of_input(line_begun: bool) -> Bytes {
    Bytes::from_static(if line_begun { &[CTRL_D, CTRL_D] } else { &[CTRL_D] })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::future::poll_fn;
    use std::io::Write;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    const WANTS: Wants = Wants { stdin: true, stdout: true, stderr: true, tty: false };

    #[tokio::test]
    async fn input_that_cannot_be_given_is_not_passed_over() {
        let parent = tempfile::tempdir().unwrap();
        for (exists, is_broken) in [(true, true), (false, false)] {
            let (fifos, out, err) = Fifos::make(parent.path(), "x", (true, true)).unwrap();
            let [stdin, ..] = fifos.names();
            fs::remove_file(&stdin).unwrap();
            if exists {
                fs::write(&stdin, "no pipe").unwrap();
            }
            let mut ends = Ends::new(fifos, (out, err), WANTS);
            let mut waiting = WriteQueue::default();
            let input = poll_fn(|cx| ends.poll_stdin(cx, &mut waiting)).await;
            assert_eq!(matches!(input, Input::Broken(_)), is_broken);
        }
    }

    #[tokio::test]
    async fn output_that_cannot_be_read_has_not_ended_well() {
        let parent = tempfile::tempdir().unwrap();
        let (fifos, _, err) = Fifos::make(parent.path(), "x", (true, true)).unwrap();
        // One that ends with something unread is reset.
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        ours.write_all(b"unread").unwrap();
        drop(theirs);
        let out = Receiver::from_owned_fd_unchecked(OwnedFd::from(ours)).unwrap();
        let mut ends = Ends::new(fifos, (out, err), WANTS);
        let act = poll_fn(|cx| ends.poll_output(cx)).await;
        let Act::Broken(why) = act else { panic!("{act:?}") };
        assert_eq!(why, "the output cannot be read: connection reset by peer");
    }
}
