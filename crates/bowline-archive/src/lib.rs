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

use std::fmt::{self, Display, Formatter};

/// What is wrong with one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Its name, as the archive or the system has it.
    pub name: Vec<u8>,
    /// What is wrong.
    pub what: String,
    /// Whether the copy is less than was asked for: its end is a bad one then.
    pub is_failure: bool,
}

impl Trouble {
    fn failure(name: impl Into<Vec<u8>>, what: impl Into<String>) -> Trouble {
        Trouble { name: name.into(), what: what.into(), is_failure: true }
    }

    fn notice(name: impl Into<Vec<u8>>, what: impl Into<String>) -> Trouble {
        Trouble { name: name.into(), what: what.into(), is_failure: false }
    }
}

impl Display for Trouble {
    /// The name is shown with escapes: it may hold anything.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", String::from_utf8_lossy(&self.name), self.what)
    }
}
