//! The sessions of a directory as lines of JSON.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use bowline_proto::kept::{Frame, Reader};
use bowline_proto::limits::KEPT_WINDOW_BYTES;
use bowline_proto::outbox::Outbox;
use bytes::BytesMut;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::directory::Directory;
use crate::error::HoldError;
use crate::handover::give;
use crate::write_all;

/// The list.
///
/// # Errors
/// If there is no holder, or it does not answer.
pub(crate) fn list(path: &Path) -> Result<String, HoldError> {
    let control = Directory::open(path)?.dial()?;
    let control = control.ok_or_else(|| HoldError::NoHolder(path.to_owned()))?;
    let entries = ask(&control).map_err(|error| HoldError::system("list", error))?;
    Ok(entries)
}

fn ask(control: impl AsFd) -> io::Result<String> {
    let (input, ours) = pipe_with(PipeFlags::CLOEXEC)?;
    let (answers, output) = pipe_with(PipeFlags::CLOEXEC)?;
    give(control, [input.as_fd(), output.as_fd()])?;
    drop((input, output));
    let mut outbox = Outbox::new();
    Frame::Hello { version: 1, window: KEPT_WINDOW_BYTES, instance: None }.write(&mut outbox);
    Frame::List.write(&mut outbox);
    for chunk in outbox.chunks() {
        write_all(&ours, chunk)?;
    }
    let (mut reader, mut entries) = (Reader::default(), String::new());
    let mut buffer = [0; 4096];
    loop {
        let read = rustix::io::retry_on_intr(|| rustix::io::read(&answers, &mut buffer))?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        reader.receive(BytesMut::from(buffer.get(..read).unwrap_or_default()));
        while let Some(frame) = reader.frame().map_err(io::Error::other)? {
            match frame {
                Frame::Listed(entry) => {
                    entries += &String::from_utf8_lossy(&entry);
                    entries.push('\n');
                }
                Frame::ListedAll => return Ok(entries),
                _ => {}
            }
        }
    }
}
