//! One CRI log file to records, block by block. Everything here blocks.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use bytes::BytesMut;

use super::format::{Form, Parser};
use crate::runtime::LogRecord;

/// How much is read at once.
pub(super) const BLOCK_BYTES: usize = 64 * 1024;

/// An open log file, and where it is read.
#[derive(Debug)]
pub(super) struct LogFile {
    file: File,
    offset: u64,
    parser: Parser,
    /// The part of a line's head that was read.
    rest: BytesMut,
}

/// Which file it is, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    pub(super) fn of(file: &Metadata) -> Identity {
        Identity { device: file.dev(), inode: file.ino() }
    }
}

impl LogFile {
    /// Opens a file at its beginning.
    ///
    /// # Errors
    /// Those of the system, and one for what is no regular file, which could block for ever.
    pub(super) fn open(path: &Path) -> io::Result<LogFile> {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(LogFile { file, offset: 0, parser: Parser::default(), rest: BytesMut::new() })
    }

    pub(super) fn identity(&self) -> io::Result<Identity> {
        Ok(Identity::of(&self.file.metadata()?))
    }

    /// Returns the file for who looks at it elsewhere.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Goes to where a line begins.
    pub(super) fn seek(&mut self, offset: u64) {
        self.offset = offset;
        self.parser = Parser::default();
        self.rest = BytesMut::new();
    }

    /// Adds the records of the next block, which may be none; returns false at the end of the file,
    /// or at the end of the line that goes on at the offset `until`.
    ///
    /// A file that has become shorter than what was read of it is read from its beginning.
    pub(super) fn read(
        &mut self,
        until: u64,
        form: Form,
        records: &mut Vec<LogRecord>,
    ) -> io::Result<bool> {
        let length = self.file.metadata()?.len();
        if length < self.offset {
            tracing::debug!("a log file became shorter: it is read from its beginning");
            self.seek(0);
        }
        let is_last_line = self.offset >= until;
        if is_last_line && self.rest.is_empty() && self.parser.is_between_lines() {
            return Ok(false);
        }
        let end = if is_last_line { length } else { length.min(until) };
        let left = usize::try_from(end.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        let mut block = std::mem::take(&mut self.rest);
        let begin = block.len();
        block.resize(begin + left.min(BLOCK_BYTES), 0);
        let count = read_at(&self.file, &mut block[begin..], self.offset)?;
        block.truncate(begin + count);
        if is_last_line && let Some(end) = memchr::memchr(b'\n', &block[begin..]) {
            block.truncate(begin + end + 1);
        }
        self.offset += (block.len() - begin) as u64;
        if count == 0 {
            self.rest = block;
            return Ok(false);
        }
        self.rest = self.parser.parse(block, form, records);
        Ok(true)
    }

    /// Returns the beginning of the first line that was passed over because it is none of a CRI log
    /// file, once; and whether another one is.
    pub(super) fn take_malformed(&mut self) -> Option<(String, bool)> {
        let line = self.parser.take_malformed()?;
        Some((line, self.parser.has_heads))
    }
}

/// Reads what is there at `offset`.
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
