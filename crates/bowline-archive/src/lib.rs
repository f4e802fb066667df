//! Directory trees as tar archives. What comes is a stranger's bytes, and is unpacked as such.
//! Above: `bowline-client`'s copies. Below: tar's headers, cap-std, system calls.
//!
//! On the way in, [`reader`] turns bytes into entries, [`admit`] says which of them may be taken
//! and under which name, and [`unpack`] puts those into a directory, below a name of its own until
//! all is there. On the way out, [`pack`] turns a tree into bytes, by means of [`writer`].
//! [`Trouble`] is what both say of an entry that is not what it should be; the others go on.

pub mod admit;
pub mod pack;
pub mod reader;
pub mod sum;
pub mod unpack;
pub mod writer;

mod merge;

use std::fmt::Display;

/// What is wrong with one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Its name and what is wrong, with escapes: a name may hold anything.
    pub text: String,
    /// Whether the copy is less than was asked for: its end is a bad one then.
    pub is_failure: bool,
}

impl Trouble {
    fn failure(name: &[u8], what: impl Display) -> Trouble {
        Trouble { text: format!("{}: {what}", shown(name)), is_failure: true }
    }

    fn notice(name: &[u8], what: impl Display) -> Trouble {
        Trouble { text: format!("{}: {what}", shown(name)), is_failure: false }
    }
}

/// A name in quotes, with escapes for what would disturb a reader.
#[must_use]
pub fn shown(name: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(name))
}
