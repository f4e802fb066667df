//! A process's pipes, for a task to read and to write. What flows in small pieces is moved a few
//! hundred times a second rather than with every one of them.
//!
//! A pipe wakes whoever waits for it with every write and, once it was full, with every read. For
//! `head -c 1G /dev/zero`, which writes 4 KiB at a time, that is a wake-up, a record of TLS and
//! some system calls on every hop for each 4 KiB. So a pipe that goes on and on is not waited for:
//! it is looked at again after a pause. Whatever comes by itself, as a prompt or an echo, never
//! waits.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bowline_io::coalesced::read_now;
use bowline_io::coalescing::{Coalescing, PAUSE};
use rustix::io::Errno;
use rustix::pipe::{fcntl_getpipe_size, fcntl_setpipe_size};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::time::{Instant, Sleep, sleep};

/// Pipes of this size cost memory only while they are full. Only such a one is big enough for what
/// comes in a pause.
pub(crate) const PIPE_BYTES: usize = 1024 * 1024;

/// This program's end of a pipe: a [`Receiver`] to read from, a [`Sender`] to write to.
#[derive(Debug)]
pub(crate) struct Pipe<E> {
    state: State<E>,
    /// Whether the pipe is big enough for what comes in a pause.
    big: bool,
    coalescing: Coalescing,
}

/// What tells that bytes can be moved.
#[derive(Debug)]
enum State<E> {
    /// The system does, by its readiness.
    Registered(E),
    /// A timer does.
    Paused(OwnedFd, Pin<Box<Sleep>>),
}

/// What tokio's two kinds of ends have in common.
pub(crate) trait PipeEnd: AsFd + Sized {
    /// Registers a descriptor with the runtime.
    fn of(fd: OwnedFd) -> io::Result<Self>;
}

impl PipeEnd for Receiver {
    fn of(fd: OwnedFd) -> io::Result<Receiver> {
        Receiver::from_owned_fd_unchecked(fd)
    }
}

impl PipeEnd for Sender {
    fn of(fd: OwnedFd) -> io::Result<Sender> {
        Sender::from_owned_fd_unchecked(fd)
    }
}

impl<E: PipeEnd> Pipe<E> {
    /// Takes an end of a pipe and makes the pipe big, if the system allows it.
    pub(crate) fn new(end: E) -> Pipe<E> {
        let _ = fcntl_setpipe_size(&end, PIPE_BYTES);
        let big = fcntl_getpipe_size(&end).is_ok_and(|size| size >= PIPE_BYTES);
        Pipe { state: State::Registered(end), big, coalescing: Coalescing::default() }
    }

    /// Moves something, if something can be moved, by one of two ways: as tokio does, which has the
    /// system tell when it can, or by a plain system call.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut waited: impl FnMut(&mut E, &mut Context<'_>) -> Poll<io::Result<usize>>,
        mut at_once: impl FnMut(&OwnedFd) -> Result<usize, Errno>,
    ) -> Poll<io::Result<usize>> {
        if let State::Paused(_, pause) = &mut self.state {
            ready!(pause.as_mut().poll(cx));
        }
        loop {
            let moved = match &mut self.state {
                State::Registered(end) => waited(end, cx),
                State::Paused(fd, _) => match at_once(fd) {
                    Err(Errno::AGAIN) => Poll::Pending,
                    Err(Errno::INTR) => continue,
                    result => Poll::Ready(result.map_err(io::Error::from)),
                },
            };
            if let Poll::Ready(moved) = moved {
                self.coalescing.moved(moved.as_ref().map_or(0, |length| *length));
                return Poll::Ready(moved);
            }
            let piece = self.coalescing.take_piece();
            let paused = matches!(self.state, State::Paused(..));
            match (paused, piece) {
                // The system has our waker.
                (false, 0) => return Poll::Pending,
                (false, _) if !(self.coalescing.count_piece(piece, u32::MAX) && self.big) => {
                    return Poll::Pending;
                }
                // Nothing came in all of the pause.
                (true, 0) if self.wait() => {}
                _ => ready!(self.pause(cx)),
            }
        }
    }

    /// Begins a pause. Where the system has no descriptor for it, the pipe is waited for as before.
    fn pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.state {
            State::Registered(end) => {
                let Ok(fd) = end.as_fd().try_clone_to_owned() else { return Poll::Pending };
                self.state = State::Paused(fd, Box::pin(sleep(PAUSE)));
            }
            State::Paused(_, pause) => pause.as_mut().reset(Instant::now() + PAUSE),
        }
        let State::Paused(_, pause) = &mut self.state else { return Poll::Pending };
        pause.as_mut().poll(cx)
    }

    /// Has the system tell again. If it refuses, the timer goes on: nothing may be missed.
    fn wait(&mut self) -> bool {
        let State::Paused(fd, _) = &self.state else { return true };
        let end = fd.try_clone().and_then(E::of);
        let waits = end.is_ok();
        if let Ok(end) = end {
            self.state = State::Registered(end);
        }
        waits
    }
}

impl AsyncRead for Pipe<Receiver> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let buffer = std::cell::RefCell::new(buffer);
        let read = self.get_mut().poll(
            cx,
            |end, cx| {
                let mut buffer = buffer.borrow_mut();
                let read = ready!(Pin::new(end).poll_read(cx, &mut buffer));
                Poll::Ready(read.map(|()| buffer.filled().len() - before))
            },
            |fd| read_now(fd, &mut buffer.borrow_mut()),
        );
        read.map_ok(|_| ())
    }
}

impl AsyncWrite for Pipe<Sender> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll(
            cx,
            |end, cx| Pin::new(end).poll_write_vectored(cx, slices),
            |fd| rustix::io::writev(fd, slices),
        )
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::thread;

    use bowline_io::coalescing::{PIECES, QUICK};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::unix::pipe;

    use super::*;

    const MANY: usize = 20_000_000;

    fn noise() -> Vec<u8> {
        (0..MANY).map(|index| (index * index / 7) as u8).collect()
    }

    #[tokio::test]
    async fn a_flow_in_small_pieces_comes_whole_and_ends() {
        let (theirs, ours) = pipe::pipe().unwrap();
        let mut theirs = File::from(theirs.into_blocking_fd().unwrap());
        let writing = thread::spawn(move || {
            for piece in noise().chunks(1000) {
                theirs.write_all(piece).unwrap();
            }
        });
        let mut pipe = Pipe::new(ours);
        let mut found = Vec::new();
        pipe.read_to_end(&mut found).await.unwrap();
        assert!(found == noise());
        writing.join().unwrap();
    }

    #[tokio::test]
    async fn a_reader_in_small_pieces_gets_all() {
        let (ours, theirs) = pipe::pipe().unwrap();
        let mut theirs = File::from(theirs.into_blocking_fd().unwrap());
        let reading = thread::spawn(move || {
            let (mut found, mut piece) = (Vec::new(), [0; 1000]);
            while let length @ 1.. = theirs.read(&mut piece).unwrap() {
                found.extend_from_slice(&piece[..length]);
            }
            found
        });
        let mut pipe = Pipe::new(ours);
        pipe.write_all(&noise()).await.unwrap();
        drop(pipe);
        assert!(reading.join().unwrap() == noise());
    }

    /// Writes a byte and waits until it was read; whether the pipe was paused meanwhile.
    async fn piece(theirs: &mut File, pipe: &mut Pipe<Receiver>) -> bool {
        theirs.write_all(b"x").unwrap();
        let mut found = [0; 1];
        pipe.read_exact(&mut found).await.unwrap();
        let more = std::future::poll_fn(|cx| {
            let mut byte = [0; 1];
            Poll::Ready(Pin::new(&mut *pipe).poll_read(cx, &mut ReadBuf::new(&mut byte)))
        });
        assert!(more.await.is_pending());
        matches!(pipe.state, State::Paused(..))
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_follows_quickly_and_often_is_paused_for() {
        let (theirs, ours) = pipe::pipe().unwrap();
        let mut theirs = File::from(theirs.into_blocking_fd().unwrap());
        let mut pipe = Pipe::new(ours);
        for _ in 0..100 {
            assert!(!piece(&mut theirs, &mut pipe).await, "what comes slowly was paused for");
            tokio::time::advance(QUICK).await;
        }
        for _ in 0..PIECES {
            assert!(!piece(&mut theirs, &mut pipe).await, "a few pieces were paused for");
        }
        assert!(piece(&mut theirs, &mut pipe).await, "a flow was not paused for");
        // It waits for the system again once nothing came in a pause.
        tokio::time::advance(PAUSE * 2).await;
        let nothing = tokio::time::timeout(PAUSE * 3, pipe.read_u8()).await;
        assert!(nothing.is_err() && matches!(pipe.state, State::Registered(_)));
    }
}
