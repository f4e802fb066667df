//! Why a copy is not complete, and whether another attempt may help.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use bowline_archive::unpack::UnpackError;
use bowline_proto::session::{Loss, Outcome};
use thiserror::Error;

use crate::session::EndError;
use crate::upgrade::UpgradeError;

/// Why a copy is not complete. Nothing has the target's name then that it did not have before,
/// unless it says otherwise.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CopyError {
    /// This side's source.
    #[error("{} doesn't exist in local filesystem", .0.display())]
    NoSource(PathBuf),
    /// Something on this side.
    #[error("{}: {error}", path.display())]
    Local {
        /// What.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A remote command did not come about, or an end of it failed.
    #[error(transparent)]
    Exec(crate::Error),
    /// A remote command has failed, and how. All that could be copied was, if `published`.
    #[error("the command in the container ended with {outcome:?}")]
    Remote {
        /// How the command ended.
        outcome: Outcome,
        /// What it said, if the watcher was not told.
        complaint: String,
        /// Whether the rest has its name.
        published: bool,
    },
    /// A remote command's end is not known.
    #[error("{loss} after {bytes} bytes")]
    Lost {
        /// How the session was lost.
        loss: Loss,
        /// Bytes that had come, or gone.
        bytes: u64,
        /// How often it was tried again.
        retries: u64,
    },
    /// The same, of the command that gives the target its name: it may have it.
    #[error("{loss}, and it is not known whether the target has its name")]
    Unknown {
        /// How the session was lost.
        loss: Loss,
        /// How often it was tried again.
        retries: u64,
    },
    /// The command succeeded, and its archive was cut short.
    #[error("unexpected EOF")]
    Cut {
        /// How often it was tried again.
        retries: u64,
    },
    /// The archive.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// There is no tar in the container.
    #[error("there is no tar in the container")]
    NoTar,
    /// What was asked for is not there, or nothing that can be copied.
    #[error("nothing was copied")]
    Nothing,
    /// A request cannot carry a source's name to a directory in a container.
    #[error("{0:?} is not UTF-8: give the target a name of its own")]
    Unnameable(OsString),
    /// A file on a directory.
    #[error("open {0}: is a directory")]
    IsDirectory(String),
    /// A file in the container was cut short, or has changed here, and stays there.
    #[error("a file in the container is not whole, and {0}; nothing has the target's name")]
    NotWhole(String),
    /// Single files are not there, or not as they should be; the rest was copied.
    #[error("{} not copied", files_were(*.0))]
    Incomplete(u64),
    /// The caller wanted its end.
    #[error("interrupted")]
    Stopped,
    /// Sums differ.
    #[error("sha256 of {} differs", named_or_all(.0))]
    Unequal(String),
    /// What is there is not what was sent.
    #[error("{what}{}; nothing has the target's name", and_more(*.others))]
    Differs {
        /// The first difference, with its name.
        what: String,
        /// How many more there are.
        others: u64,
    },
    /// The same, and the target has its name: that was lost, or it was written into.
    #[error("{what}{}: the target is not complete", and_more(*.others))]
    Damaged {
        /// The first difference, with its name.
        what: String,
        /// How many more there are.
        others: u64,
    },
    /// Files were changed in the container while they were copied. Of one that has grown, its
    /// beginning was copied, as it is there; others were not.
    #[error("{}", changed(*.files, *.published))]
    Changed {
        /// The number of files.
        files: u64,
        /// Whether the rest has its name.
        published: bool,
    },
    /// The source is a symbolic link, and the container cannot say to what.
    #[error("{0:?} is a symbolic link that cannot be followed in the container{1}")]
    Link(String, String),
}

fn files_were(count: u64) -> String {
    if count == 1 { "1 file was".to_owned() } else { format!("{count} files were") }
}

fn named_or_all(name: &str) -> String {
    if name.is_empty() { "the file".to_owned() } else { format!("{name:?}") }
}

fn changed(files: u64, published: bool) -> String {
    match published {
        true => format!("{} changed during the copy; the rest was copied", files_were(files)),
        false => "the file changed while it was copied; nothing has the target's name".to_owned(),
    }
}

pub fn and_more(count: u64) -> String {
    if count == 0 { String::new() } else { format!(" (and {count} more)") }
}

impl CopyError {
    /// Whether the target has its name all the same.
    pub(super) fn is_of_a_copy_that_is_there(&self) -> bool {
        matches!(
            self,
            CopyError::Remote { published: true, .. }
                | CopyError::Incomplete(_)
                | CopyError::Damaged { .. }
                | CopyError::Changed { published: true, .. }
        )
    }

    /// Whether trying again may help.
    pub(super) fn is_loss(&self) -> bool {
        match self {
            CopyError::Lost { .. } | CopyError::Cut { .. } => true,
            CopyError::Exec(crate::Error::Upgrade(error)) => {
                matches!(error, UpgradeError::Dial(_) | UpgradeError::Http(_))
            }
            _ => false,
        }
    }
}

/// The error of a session whose own end said why it cannot go on.
pub fn own_end(error: crate::Error, fault: Option<UnpackError>) -> CopyError {
    match (error, fault) {
        (crate::Error::End(EndError::Write(..)), Some(fault)) => CopyError::Unpack(fault),
        (error, _) => CopyError::Exec(error),
    }
}
