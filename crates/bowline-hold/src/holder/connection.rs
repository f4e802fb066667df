//! The ends of one connection, as the process that was started for it gave them.

use std::io::IoSlice;
use std::os::fd::OwnedFd;

use bowline_proto::outbox::Outbox;
use bowline_proto::time::Time;
use bytes::BytesMut;
use rustix::event::PollFlags;

use crate::handover::TAKEN;
use crate::watched::{Moved, Watched};

/// How many slices are written at once.
const SLICES: usize = 64;

/// What a client sends, where answers go, and a socket that lives as long as the connection.
#[derive(Debug)]
pub(super) struct Connection {
    control: Watched,
    input: Watched,
    output: Watched,
    is_gone: bool,
}

/// The client can be told nothing more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Gone;

impl Connection {
    /// Takes the ends, and says so.
    pub(super) fn new(
        now: Time,
        mut control: Watched,
        [input, output]: [OwnedFd; 2],
    ) -> std::io::Result<Connection> {
        let (mut input, mut output) = (Watched::new(input)?, Watched::new(output)?);
        if control.write(now, &[IoSlice::new(&[TAKEN])]) != Moved::Bytes(1) {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        // What was readable were the ends.
        (control.wants, control.ready) = (Some(PollFlags::IN), PollFlags::empty());
        input.wants = Some(PollFlags::IN);
        output.wants = Some(PollFlags::empty());
        Ok(Connection { control, input, output, is_gone: false })
    }

    /// All three.
    pub(super) fn watched(&mut self) -> [&mut Watched; 3] {
        [&mut self.control, &mut self.input, &mut self.output]
    }

    /// Gives what came, and once `None` for its end.
    pub(super) fn read(
        &mut self,
        now: Time,
        buffer: &mut [u8],
        mut give: impl FnMut(Option<BytesMut>),
    ) {
        // The process that was started for it says nothing more; it can only end.
        self.is_gone |= self.control.is_readable() || self.output.is_broken();
        if self.input.wants.is_some() && self.input.is_readable() {
            match self.input.read(now, buffer) {
                Moved::Bytes(read) => give(Some(BytesMut::from(&buffer[..read]))),
                Moved::Later => {}
                Moved::Over => {
                    self.input.wants = None;
                    give(None);
                }
            }
        }
        if self.is_gone && self.input.wants.take().is_some() {
            give(None);
        }
    }

    /// Writes what waits, as far as it is taken.
    pub(super) fn flush(&mut self, now: Time, outbox: &mut Outbox) -> Result<(), Gone> {
        while !outbox.is_empty() && !self.is_gone {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut count = 0;
            for (slice, chunk) in slices.iter_mut().zip(outbox.chunks()) {
                *slice = IoSlice::new(chunk);
                count += 1;
            }
            match self.output.write(now, &slices[..count]) {
                Moved::Bytes(written) => outbox.advance(written),
                Moved::Later => {
                    self.output.wants = Some(PollFlags::OUT);
                    return Ok(());
                }
                Moved::Over => self.is_gone = true,
            }
        }
        self.output.wants = Some(PollFlags::empty());
        if self.is_gone || outbox.is_finishing() { Err(Gone) } else { Ok(()) }
    }
}
