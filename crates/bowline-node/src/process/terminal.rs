//! A pseudo-terminal as a pair: a side that a task can poll, and a side for a process.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bowline_proto::session::Size;
use bytes::Bytes;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, SpecialCodeIndex, Winsize, tcgetattr, tcsetwinsize};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::async_fd::register;

const CTRL_D: u8 = 4;

/// The side of a terminal that this program holds.
#[derive(Debug)]
pub(super) struct Terminal {
    master: AsyncFd<OwnedFd>,
}

impl Terminal {
    /// Opens a new pair. The process's side is returned as a plain descriptor.
    pub(super) fn open(size: Option<Size>) -> io::Result<(Terminal, OwnedFd)> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(name, flags, Mode::empty())?;
        rustix::io::ioctl_fionbio(&master, true)?;
        let terminal = Terminal { master: register(master)? };
        if let Some(size) = size {
            terminal.resize(size)?;
        }
        Ok((terminal, slave))
    }

    /// Sets the size; the kernel tells the foreground group. Sizes of zero are no sizes.
    pub(super) fn resize(&self, size: Size) -> io::Result<()> {
        if size.width == 0 || size.height == 0 {
            return Ok(());
        }
        let size = Winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(tcsetwinsize(self.master.get_ref(), size)?)
    }

    /// Returns what a person would type to end the input now: the terminal's EOF character, twice
    /// if a line is begun. A program that reads the terminal raw gets Ctrl-D, and decides.
    pub(super) fn end_of_input(&self, line_begun: bool) -> Bytes {
        match tcgetattr(self.master.get_ref()) {
            Ok(attributes) if attributes.local_modes.contains(LocalModes::ICANON) => {
                let eof = attributes.special_codes[SpecialCodeIndex::VEOF];
                Bytes::from(vec![eof; if line_begun { 2 } else { 1 }])
            }
            _ => Bytes::from_static(&[CTRL_D]),
        }
    }
}

impl AsyncRead for Terminal {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.master.poll_read_ready(cx))?;
            let unfilled = buffer.initialize_unfilled();
            let read = ready.try_io(|master| Ok(rustix::io::read(master.get_ref(), unfilled)?));
            match read {
                Ok(Ok(read)) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                // Linux says EIO once nobody holds the other side: that is the end.
                Ok(Err(error)) if Errno::from_io_error(&error) == Some(Errno::IO) => {
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.master.poll_write_ready(cx))?;
            let written = ready.try_io(|master| Ok(rustix::io::write(master.get_ref(), bytes)?));
            if let Ok(written) = written {
                return Poll::Ready(written);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
