//! Why a copy is not complete, and whether another attempt may help.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use bowline_archive::unpack::UnpackError;
use bowline_proto::session::{Loss, Outcome};
use thiserror::Error;

use crate::session::EndError;
use crate::upgrade::UpgradeError;

/// Why a copy is not complete. Unless a variant says otherwise, the target is as it was before.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CopyError {
    /// The local source does not exist.
    #[error("{} doesn't exist in local filesystem", .0.display())]
    NoSource(PathBuf),
    /// A local file or directory cannot be used.
    #[error("{}: {error}", path.display())]
    Local {
        /// The local path.
        path: PathBuf,
        /// The system's error.
        #[source]
        error: io::Error,
    },
    /// A remote command could not be run, or one of its local ends failed.
    #[error(transparent)]
    Exec(crate::Error),
    /// A remote command has failed.
    #[error("the command in the container ended with {outcome:?}")]
    Remote {
        /// The command's outcome.
        outcome: Outcome,
        /// The command's stderr, if the watcher did not get it.
        stderr_text: String,
        /// Whether all that could be copied has the target's name.
        published: bool,
    },
    /// A remote command's session was lost, so its outcome is not known.
    #[error("{loss} after {bytes} bytes")]
    Lost {
        /// How the session was lost.
        loss: Loss,
        /// The bytes that were copied before.
        bytes: u64,
        /// How often it was tried again.
        retries: u64,
    },
    /// The session of the command that gives the target its name was lost: it may have it.
    #[error("{loss}, and it is not known whether the target has its name")]
    Unknown {
        /// How the session was lost.
        loss: Loss,
        /// How often it was tried again.
        retries: u64,
    },
    /// The command succeeded, but its output was cut short.
    #[error("unexpected EOF")]
    Cut {
        /// How often it was tried again.
        retries: u64,
    },
    /// The archive is damaged or refused, or cannot be unpacked.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// There is no tar in the container.
    #[error("there is no tar in the container")]
    NoTar,
    /// The source does not exist, or is nothing that can be copied.
    #[error("nothing was copied")]
    Nothing,
    /// The source's name is not UTF-8, so a request cannot carry it to a directory in a container.
    #[error("{0:?} is not UTF-8: give the target a name of its own")]
    Unnameable(OsString),
    /// The source is a file, and the target is a directory.
    #[error("open {0}: is a directory")]
    IsDirectory(String),
    /// A file in the container's staging directory is incomplete, and cannot be removed or named.
    #[error("a file in the container is not whole, and {0}; nothing has the target's name")]
    NotWhole(String),
    /// This number of files were not copied, or not in full; the rest has the target's name.
    #[error("{} not copied", files_were(*.0))]
    Incomplete(u64),
    /// The caller has stopped the copy.
    #[error("interrupted")]
    Stopped,
    /// The SHA-256 sums of this file differ; the name is empty if the copy is one file.
    #[error("sha256 of {} differs", named_or_all(.0))]
    Unequal(String),
    /// Both sides differ in names, kinds or sizes.
    #[error("{what}{}; nothing has the target's name", and_more(*.others))]
    Differs {
        /// The first difference, with its name.
        what: String,
        /// How many more there are.
        others: u64,
    },
    /// Both sides differ, and the copy has the target's name already.
    #[error("{what}{}: the target is not complete", and_more(*.others))]
    Damaged {
        /// The first difference, with its name.
        what: String,
        /// How many more there are.
        others: u64,
    },
    /// Files changed in the container while they were copied. Of files that grew, the beginning was
    /// copied; others were left out.
    #[error("{}", changed(*.files, *.published))]
    Changed {
        /// The number of files that changed.
        files: u64,
        /// Whether the rest has the target's name.
        published: bool,
    },
    /// The source is a symbolic link that the container cannot resolve, for this reason.
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

pub(crate) fn and_more(count: u64) -> String {
    if count == 0 { String::new() } else { format!(" (and {count} more)") }
}

impl CopyError {
    /// Whether the copy, as far as it was made, has the target's name.
    pub(super) fn has_published(&self) -> bool {
        matches!(
            self,
            CopyError::Remote { published: true, .. }
                | CopyError::Incomplete(_)
                | CopyError::Damaged { .. }
                | CopyError::Changed { published: true, .. }
        )
    }

    /// Whether a retry may help.
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

/// Returns the error of a session. If the unpacker has refused its output, that is the reason.
pub(crate) fn local_error(error: crate::Error, fault: Option<UnpackError>) -> CopyError {
    match (error, fault) {
        (crate::Error::End(EndError::Write(..)), Some(fault)) => CopyError::Unpack(fault),
        (error, _) => CopyError::Exec(error),
    }
}
