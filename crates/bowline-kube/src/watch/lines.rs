//! The bytes of a stream to its lines, of which one is an event.

use std::mem;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;
use thiserror::Error;

/// The longest event: as long as the longest object that is read.
const LINE_BYTES: usize = 16 * 1024 * 1024;
/// What a buffer may keep of its memory once it is empty.
const KEPT_BYTES: usize = 64 * 1024;

/// Why a stream does not go on.
#[derive(Debug, Error)]
pub(super) enum Broken {
    /// It ended within an event.
    #[error("it was cut off")]
    Cut,
    /// The connection broke.
    #[error("it was cut off: {0}")]
    Connection(String),
    /// An event is longer than any may be.
    #[error("an event is longer than {LINE_BYTES} bytes")]
    TooLong,
}

/// The lines of a stream.
pub(super) struct Lines<B> {
    body: B,
    read: BytesMut,
    /// How many bytes of `read` are known to have no line's end.
    searched: usize,
}

impl<B> Lines<B>
where
    B: Body<Data = Bytes, Error: std::error::Error> + Unpin,
{
    pub(super) fn new(body: B) -> Lines<B> {
        Lines { body, read: BytesMut::new(), searched: 0 }
    }

    /// Returns the next line; `None` at an orderly end. May be dropped before it is there.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        loop {
            while let Some(line) = self.take_line() {
                if !line.is_empty() {
                    return Ok(Some(line));
                }
            }
            if self.read.len() > LINE_BYTES {
                return Err(Broken::TooLong);
            }
            match self.body.frame().await {
                None if self.read.is_empty() => return Ok(None),
                None => return Err(Broken::Cut),
                Some(Err(error)) => return Err(Broken::Connection(error.to_string())),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.read.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    fn take_line(&mut self) -> Option<Bytes> {
        let end = self.read[self.searched..].iter().position(|&byte| byte == b'\n');
        let Some(end) = end else {
            self.searched = self.read.len();
            return None;
        };
        let mut line = self.read.split_to(mem::take(&mut self.searched) + end + 1).freeze();
        line.truncate(line.len() - 1);
        if self.read.is_empty() && self.read.capacity() > KEPT_BYTES {
            self.read = BytesMut::new();
        }
        Some(line)
    }
}
