//! This process's own stdin, stdout and stderr, for a task to read and write.
//!
//! They may be files, which cannot be polled, or be shared with other programs, which must not find
//! them non-blocking. So each has a thread. It moves as much as there is at a time, since waking
//! one another is what costs.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, ioctl_fionread};
use rustix::pipe::{fcntl_getpipe_size, fcntl_setpipe_size};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// The size of the first read. One that is filled doubles the next.
const SMALLEST_BYTES: usize = 16 * 1024;
const LARGEST_BYTES: usize = 512 * 1024;
/// How many pieces wait to be taken, while the thread reads the next.
const PIECES_AHEAD: usize = 1;
/// What a pipe is made to hold, so that its writer need not wait during a pause.
const PIPE_BYTES: usize = 1024 * 1024;
/// How long a flow of small pieces is not read.
const PAUSE: Duration = Duration::from_millis(2);
/// How soon a small piece has to follow another to be part of a flow.
const QUICK: Duration = Duration::from_millis(2);
/// How many pieces in a row are a flow.
const PIECES: u32 = 16;
/// How many bytes may wait for the writing thread, beside those that it writes.
const WAITING_BYTES: usize = 256 * 1024;

type Descriptor = Box<dyn AsFd + Send + Sync>;

/// The process's input. Nothing is read before the first poll.
pub struct Input {
    /// The input, until the thread has it.
    descriptor: Option<Descriptor>,
    pieces: Option<Receiver<io::Result<Bytes>>>,
    piece: Bytes,
}

impl Input {
    /// This process's stdin.
    #[must_use]
    pub fn stdin() -> Input {
        Input::of(io::stdin())
    }

    fn of(descriptor: impl AsFd + Send + Sync + 'static) -> Input {
        let descriptor = Some(Box::new(descriptor) as _);
        Input { descriptor, pieces: None, piece: Bytes::new() }
    }

    /// Starts the thread, which ends with the input, or with the first piece that nobody wants.
    fn start(&mut self) -> io::Result<()> {
        if let Some(descriptor) = self.descriptor.take() {
            let (sender, receiver) = channel(PIECES_AHEAD);
            let thread = thread::Builder::new().name("input".to_owned());
            #[expect(clippy::disallowed_methods, reason = "reads of stdin may block for ever")]
            thread.spawn(move || read_all(descriptor.as_fd(), &sender))?;
            self.pieces = Some(receiver);
        }
        Ok(())
    }
}

impl AsyncRead for Input {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let input = self.get_mut();
        input.start()?;
        if let Some(pieces) = input.pieces.as_mut().filter(|_| input.piece.is_empty()) {
            match ready!(pieces.poll_recv(cx)) {
                Some(piece) => input.piece = piece?,
                None => input.pieces = None,
            }
        }
        let length = input.piece.len().min(buffer.remaining());
        buffer.put_slice(&input.piece[..length]);
        input.piece.advance(length);
        Poll::Ready(Ok(()))
    }
}

fn read_all(input: BorrowedFd<'_>, pieces: &Sender<io::Result<Bytes>>) {
    let mut read_size = SMALLEST_BYTES;
    let mut flow = PipeFlow::default();
    loop {
        if flow.is_flow() && flow.is_big(input) && is_small(input) {
            // Nobody unparks this thread, and waking early would do no harm.
            thread::park_timeout(PAUSE);
        }
        #[expect(clippy::disallowed_methods, reason = "a thread knows no virtual time")]
        let begun = Instant::now();
        let mut buffer = Vec::with_capacity(read_size);
        let piece = loop {
            match rustix::io::read(input, spare_capacity(&mut buffer)) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => wait(input, PollFlags::IN),
                Ok(0) => return,
                Ok(_) => break Ok(Bytes::from(buffer)),
                Err(error) => break Err(error.into()),
            }
        };
        let failed = piece.is_err();
        let full = piece.as_ref().is_ok_and(|piece| piece.len() == read_size);
        if full {
            read_size = (read_size * 2).min(LARGEST_BYTES);
        }
        flow.piece(begun.elapsed(), full);
        if pieces.blocking_send(piece).is_err() || failed {
            return;
        }
    }
}

/// Finds out whether small pieces come through a pipe, one after the other. Each would be a message
/// and wake every program on its way, so it is better to wait for some more of them.
#[derive(Debug, Default)]
struct PipeFlow {
    /// Small pieces in a row that came quickly.
    quick: u32,
    /// The pipe holds what comes in a pause; `None` until it was made to.
    big: Option<bool>,
}

impl PipeFlow {
    /// Records a piece that came after so long; `full` if there may be more to read at once.
    fn piece(&mut self, waited: Duration, full: bool) {
        self.quick = if waited < QUICK { self.quick + u32::from(!full) } else { 0 };
    }

    fn is_flow(&self) -> bool {
        self.quick >= PIECES
    }

    /// Makes the pipe big if it is not; false if it cannot be made so, or is no pipe.
    fn is_big(&mut self, input: BorrowedFd<'_>) -> bool {
        *self.big.get_or_insert_with(|| {
            let _ = fcntl_setpipe_size(input, PIPE_BYTES);
            fcntl_getpipe_size(input).is_ok_and(|size| size >= PIPE_BYTES)
        })
    }
}

/// Whether there is little to read now.
fn is_small(input: BorrowedFd<'_>) -> bool {
    ioctl_fionread(input).is_ok_and(|bytes| bytes < SMALLEST_BYTES as u64)
}

/// The process's output. Once it is flushed, all of it was written.
pub struct Output {
    /// The output, until the thread has it.
    descriptor: Option<Descriptor>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Signalled when there is something to write, or nothing will be any more.
    more: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    writing: bool,
    failed: Option<Errno>,
    over: bool,
    /// Of who waits for room, and of who waits until all is written.
    room: Option<Waker>,
    written: Option<Waker>,
}

impl Output {
    /// This process's stdout.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "output is passed on as it is")]
    pub fn stdout() -> Output {
        Output::of(io::stdout())
    }

    /// This process's stderr.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "output is passed on as it is")]
    pub fn stderr() -> Output {
        Output::of(io::stderr())
    }

    fn of(descriptor: impl AsFd + Send + Sync + 'static) -> Output {
        Output { descriptor: Some(Box::new(descriptor)), shared: Arc::default() }
    }

    fn start(&mut self) -> io::Result<()> {
        if let Some(descriptor) = self.descriptor.take() {
            let shared = self.shared.clone();
            let thread = thread::Builder::new().name("output".to_owned());
            #[expect(clippy::disallowed_methods, reason = "writes may block for ever")]
            thread.spawn(move || shared.write_all(descriptor.as_fd()))?;
        }
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what comes, until nothing will come any more, or it cannot be written.
    fn write_all(&self, descriptor: BorrowedFd<'_>) {
        let mut piece = Vec::new();
        loop {
            let mut state = self.lock();
            while state.waiting.is_empty() && !state.over {
                state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.waiting.is_empty() {
                return;
            }
            std::mem::swap(&mut piece, &mut state.waiting);
            state.writing = true;
            let room = state.room.take();
            drop(state);
            if let Some(waker) = room {
                waker.wake();
            }
            let result = write(descriptor, &piece);
            piece.clear();
            let mut state = self.lock();
            state.writing = false;
            state.failed = result.err();
            let failed = state.failed.is_some();
            let is_written = state.waiting.is_empty() || failed;
            let written = if is_written { state.written.take() } else { None };
            let room = if failed { state.room.take() } else { None };
            drop(state);
            for waker in [written, room].into_iter().flatten() {
                waker.wake();
            }
            if failed {
                return;
            }
        }
    }
}

impl AsyncWrite for Output {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let output = self.get_mut();
        output.start()?;
        let mut state = output.shared.lock();
        if let Some(error) = state.failed {
            return Poll::Ready(Err(error.into()));
        }
        let room = WAITING_BYTES.saturating_sub(state.waiting.len());
        if room == 0 {
            state.room = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let length = bytes.len().min(room);
        state.waiting.extend_from_slice(&bytes[..length]);
        let is_waiting = !state.writing;
        drop(state);
        if is_waiting {
            output.shared.more.notify_one();
        }
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.shared.lock();
        if let Some(error) = state.failed {
            return Poll::Ready(Err(error.into()));
        }
        if state.waiting.is_empty() && !state.writing {
            return Poll::Ready(Ok(()));
        }
        state.written = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.shared.lock().over = true;
        self.shared.more.notify_one();
    }
}

fn write(descriptor: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(descriptor, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(descriptor, PollFlags::OUT),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits for a descriptor that another program, which shares it, has made non-blocking.
fn wait(descriptor: BorrowedFd<'_>, what: PollFlags) {
    let _ = poll(&mut [PollFd::new(&descriptor, what)], None);
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use rustix::pipe::pipe;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// More than a pipe holds, and in lines that tell whether one is missing.
    fn lines() -> Vec<u8> {
        (0..200_000).flat_map(|number| format!("{number}\n").into_bytes()).collect()
    }

    #[tokio::test]
    async fn all_that_was_written_is_there_once_it_is_flushed() {
        let (read, write) = pipe().unwrap();
        let reader = thread::spawn(move || {
            let mut found = Vec::new();
            io::Read::read_to_end(&mut std::fs::File::from(read), &mut found).unwrap();
            found
        });
        let mut output = Output::of(write);
        output.write_all(&lines()).await.unwrap();
        output.flush().await.unwrap();
        drop(output);
        assert!(reader.join().unwrap() == lines());
    }

    #[tokio::test]
    async fn a_reader_that_went_away_is_told_of_by_every_call() {
        let (read, write) = pipe().unwrap();
        drop(read);
        let mut output = Output::of(write);
        output.write_all(b"nobody reads this").await.unwrap();
        let flushed = output.flush().await.unwrap_err();
        let written = output.write_all(b"nor this").await.unwrap_err();
        for error in [flushed, written] {
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        }
    }

    #[tokio::test]
    async fn input_comes_whole_and_ends() {
        let (read, write) = pipe().unwrap();
        let writer = thread::spawn(move || {
            io::Write::write_all(&mut std::fs::File::from(write), &lines()).unwrap();
        });
        let mut found = Vec::new();
        Input::of(read).read_to_end(&mut found).await.unwrap();
        assert!(found == lines());
        writer.join().unwrap();
    }

    /// It belongs to whoever shares it as well.
    #[tokio::test]
    async fn nothing_is_read_before_it_is_wanted() {
        let (read, write) = pipe().unwrap();
        rustix::io::write(&write, b"mine").unwrap();
        drop(write);
        let shared: OwnedFd = read.try_clone().unwrap();
        drop(Input::of(read));
        let mut found = [0; 8];
        assert_eq!(rustix::io::read(&shared, &mut found).unwrap(), 4);
    }
}
