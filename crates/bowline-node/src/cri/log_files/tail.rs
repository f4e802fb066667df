//! Where the last lines of a CRI log file begin, found from its end. Everything here blocks.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::file::BLOCK_BYTES;
use super::format::{Beginning, HEAD_BYTES, beginning};
use crate::runtime::Source;

/// How far before the last lines the beginning of one of them is looked for. The parts of a line
/// stand beside each other, but for what the other output has between them.
const BEGINNING_BYTES: u64 = 1024 * 1024;

/// How many blocks are read in one step.
const STEP_BLOCKS: usize = 64;

/// Where a tail begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tail {
    pub(super) offset: u64,
    /// How many lines end from there on before the first one that is wanted.
    pub(super) skip_lines: u64,
}

/// A search for the last lines of a file. Its memory is bounded, however long the lines are.
///
/// Lines are counted in the order in which they end. One that has not ended at the end of the file
/// counts if something of it stands among those that are looked at.
#[derive(Debug)]
pub(super) struct Search {
    wanted: Option<Source>,
    lines: u64,
    /// What is before this was not looked at.
    left: u64,
    /// The first bytes of what is known of the line that goes on at `left`: as many as a head has.
    line: Vec<u8>,
    /// Whether that line has its end.
    has_end: bool,
    /// How many of the last lines were found.
    count: u64,
    /// How many lines that are not wanted have ended behind what was looked at.
    passed: u64,
    outputs: [Output; 2],
    /// Where the lines that are wanted were complete, but for their beginnings.
    complete_at: Option<u64>,
    /// Where the first of them begins as far as it is known, and how many of those that are not
    /// wanted end behind that.
    offset: u64,
    passed_at_offset: u64,
}

/// What is known of one output, from the end of the file.
#[derive(Clone, Copy, Debug, Default)]
struct Output {
    is_seen: bool,
    /// The line whose parts are met is wanted.
    is_wanted: bool,
}

impl Search {
    /// Begins to look for so many lines of one output, or of both, in a file of this length.
    pub(super) fn new(length: u64, lines: u64, wanted: Option<Source>) -> Search {
        Search {
            wanted,
            lines,
            left: length,
            line: Vec::new(),
            has_end: false,
            count: 0,
            passed: 0,
            outputs: [Output::default(); 2],
            complete_at: (lines == 0).then_some(length),
            offset: length,
            passed_at_offset: 0,
        }
    }

    /// Looks at some more of the file, and returns where the tail begins once that is known.
    ///
    /// # Errors
    /// Those of the system.
    pub(super) fn step(&mut self, file: &File) -> io::Result<Option<Tail>> {
        for _ in 0..STEP_BLOCKS {
            let begin = self.left.saturating_sub(BLOCK_BYTES as u64);
            let length = usize::try_from(self.left - begin).unwrap_or(BLOCK_BYTES);
            let mut bytes = vec![0; length];
            match file.read_exact_at(&mut bytes, begin) {
                // It became shorter: all of it is newer than what was looked for.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Ok(Some(Tail::default()));
                }
                result => result?,
            }
            bytes.append(&mut self.line);
            if self.is_found_in(begin, &bytes, length) || begin == 0 {
                let skip_lines = self.count.saturating_sub(self.lines) + self.passed_at_offset;
                return Ok(Some(Tail { offset: self.offset, skip_lines }));
            }
        }
        Ok(None)
    }

    /// Looks at the lines that begin in the first `length` of `bytes`, which are those at `begin`.
    fn is_found_in(&mut self, begin: u64, bytes: &[u8], length: usize) -> bool {
        let mut end = length;
        while let Some(index) = memchr::memrchr(b'\n', &bytes[..end]) {
            if self.is_found_at(begin + index as u64 + 1, &bytes[index + 1..]) {
                return true;
            }
            self.has_end = true;
            end = index;
        }
        if begin == 0 {
            return self.is_found_at(0, bytes);
        }
        self.left = begin;
        self.line = bytes[..bytes.len().min(HEAD_BYTES)].to_vec();
        false
    }

    /// Counts the line at `offset`, whose first bytes are these, and returns whether all that are
    /// wanted are behind it.
    fn is_found_at(&mut self, offset: u64, bytes: &[u8]) -> bool {
        if !self.has_end {
            // Wherever the tail begins, it is not in the middle of a line.
            self.offset = offset;
        }
        let Beginning::Head(head, _) = beginning(bytes) else { return self.is_far(offset) };
        if self.wanted.is_some_and(|wanted| wanted != head.source) {
            return self.is_far(offset);
        }
        let is_last = !self.outputs[head.source as usize].is_seen;
        let is_end = self.has_end && !head.is_partial;
        let output = &mut self.outputs[head.source as usize];
        output.is_seen = true;
        if is_end && self.count >= self.lines {
            output.is_wanted = false;
            self.passed += 1;
        } else if is_end || is_last {
            output.is_wanted = true;
            self.count += 1;
        }
        if output.is_wanted {
            self.offset = offset;
            self.passed_at_offset = self.passed;
        }
        if self.count >= self.lines && self.complete_at.is_none() {
            self.complete_at = Some(offset);
        }
        let is_complete = self.complete_at.is_some();
        (is_complete && !self.outputs.iter().any(|output| output.is_wanted)) || self.is_far(offset)
    }

    fn is_far(&self, offset: u64) -> bool {
        self.complete_at.is_some_and(|complete_at| complete_at - offset > BEGINNING_BYTES)
    }
}
