//! Directory trees as tar archives. What comes is a stranger's bytes, and is unpacked as such.
//!
//! On the way in, [`reader`] turns bytes into entries, [`admit`] says which of them may be taken
//! and under which name, and [`unpack`] puts those into a directory, below a name of its own until
//! all is there. On the way out, [`pack`] turns a tree into bytes, by means of [`writer`].
//! [`Problem`] is what both say of an entry that is not what it should be; the others go on.
//!
//! Published because `bowline-client` stands on it; not meant for use of its own.

pub mod admit;
pub mod destination;
pub mod pack;
pub mod reader;
pub mod sum;
pub mod unpack;
pub mod writer;

mod merge;
mod publish;

use std::fmt::Display;

/// So much of a name is shown.
const SHOWN_BYTES: usize = 1024;

/// What a thing in a tree is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Something else, which is not copied.
    Other,
}

/// A thing in a tree, as far as two sides can be compared without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// What it is.
    pub kind: ItemKind,
    /// The bytes of a file, or of the name that a link leads to; 0 for others.
    pub size: u64,
    /// When it was changed, in seconds since 1970, where that is known.
    pub mtime: Option<i64>,
}

/// What is wrong with one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its name and what is wrong, with escapes: a name may hold anything.
    pub text: String,
    /// Whether the copy is less than was asked for: its end is a bad one then.
    pub is_failure: bool,
}

impl Problem {
    fn failure(name: &[u8], what: impl Display) -> Problem {
        Problem { text: format!("{}: {what}", shown(name)), is_failure: true }
    }

    fn notice(name: &[u8], what: impl Display) -> Problem {
        Problem { text: format!("{}: {what}", shown(name)), is_failure: false }
    }
}

/// A name in quotes, with escapes for what would disturb a reader, and cut if it is a long one.
#[must_use]
pub fn shown(name: &[u8]) -> String {
    let cut = if name.len() > SHOWN_BYTES { "…" } else { "" };
    let name = &name[..name.len().min(SHOWN_BYTES)];
    format!("{:?}{cut}", String::from_utf8_lossy(name))
}
