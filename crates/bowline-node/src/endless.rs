//! For tests: a command that writes for as long as it is let.

use std::fmt::{self, Display, Formatter};
use std::task::{Context, Poll};

use bowline_io::drive::WriteQueue;
use bowline_proto::session::Size;
use bytes::Bytes;

use crate::runtime::{Act, Command, ExitStatus, Process, StartError};

/// The command, and at the same time its process.
pub(crate) struct Endless;

impl Display for Endless {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("endless")
    }
}

impl Command for Endless {
    type Process = Endless;

    fn start(&mut self, _: Option<Size>) -> Result<Endless, StartError> {
        Ok(Endless)
    }
}

impl Process for Endless {
    fn resize(&self, _: Size) {}

    fn poll(&mut self, _: &mut Context<'_>, _: &mut WriteQueue, room: bool) -> Poll<Act> {
        let bytes = Bytes::from_static(&[b'x'; 64 * 1024]);
        if room { Poll::Ready(Act::Stdout(bytes)) } else { Poll::Pending }
    }

    fn output_ended(&self) -> bool {
        false
    }

    fn poll_exit(&mut self, _: &mut Context<'_>) -> Poll<ExitStatus> {
        Poll::Pending
    }
}
