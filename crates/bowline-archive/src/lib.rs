//! Directory trees as tar archives, read as bytes that nobody vouches for.
//!
//! On the way in, [`reader`] turns bytes into entries, [`filter`] says which of them may be taken
//! and under which name, and [`unpack`] puts those into a staging directory until all of them are
//! there. On the way out, [`pack`] turns a tree into bytes with the help of [`writer`]. A
//! [`Problem`] is about one entry; the copy goes on with the others.
//!
//! Published because `bowline-client` uses it; not meant for use on its own.
#![warn(unnameable_types, unreachable_pub)]

pub mod destination;
pub mod filter;
pub mod pack;
pub mod reader;
pub mod sum;
pub mod unpack;
pub mod writer;

mod merge;
mod publish;

use std::fmt::Display;

/// The most bytes of a name that [`quoted`] shows.
const QUOTED_BYTES: usize = 1024;

/// The kind of an [`Item`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Anything else, which is not copied.
    Other,
}

/// One item of a tree, with what can be compared without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// The item's kind.
    pub kind: ItemKind,
    /// The size of a file, or of a link's target, in bytes; 0 for other kinds.
    pub size: u64,
    /// The time of the last change in seconds since 1970, where it is known.
    pub mtime: Option<i64>,
}

/// What is wrong with one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The entry's name and what is wrong, with escapes: a name may hold any bytes.
    pub text: String,
    /// Whether the copy lacks something that was asked for, so that it ends in failure.
    pub is_failure: bool,
}

impl Problem {
    fn failure(name: &[u8], what: impl Display) -> Problem {
        Problem { text: format!("{}: {what}", quoted(name)), is_failure: true }
    }

    fn notice(name: &[u8], what: impl Display) -> Problem {
        Problem { text: format!("{}: {what}", quoted(name)), is_failure: false }
    }
}

/// Returns a name in quotes, with escapes for control characters, and cut if it is long.
#[must_use]
pub fn quoted(name: &[u8]) -> String {
    let cut = if name.len() > QUOTED_BYTES { "…" } else { "" };
    let name = &name[..name.len().min(QUOTED_BYTES)];
    format!("{:?}{cut}", String::from_utf8_lossy(name))
}
