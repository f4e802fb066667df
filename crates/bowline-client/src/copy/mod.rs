//! Copies of files and trees between this machine and containers, by `tar` over remote commands.
//!
//! A copy is complete if the archive's end was seen *and* the remote command has succeeded *and*
//! both sides have the same names, kinds and sizes. Until then it is in a staging directory beside
//! the target or in it, and gets the target's name at the end. After a lost connection it is
//! retried as often as [`Options::retries`] says, and continues where it was. With a [`Keep`] its
//! commands outlive their connections, and only what is lost for good is retried.

mod attempts;
mod between;
mod capture;
mod changed_files;
mod compare;
mod container;
mod download;
mod error;
mod keep;
mod listing;
mod query;
mod scripts;
mod staging;
mod throttle;
mod upload;

use std::future::Future;

pub use bowline_archive::Problem;
pub use bowline_archive::filter::Limits;
use tokio::io::{AsyncRead, AsyncWrite};

pub use self::between::between;
pub use self::container::{Container, Copy};
pub use self::download::download;
pub use self::error::CopyError;
pub use self::keep::Keep;
pub use self::upload::upload;
use crate::error::Error;
use crate::session::Ended;

/// Input for a remote command.
pub type Stdin = Option<Box<dyn AsyncRead + Send + Unpin>>;
/// Takes the output of a remote command.
pub type Sink = Box<dyn AsyncWrite + Send + Unpin>;

/// A container in which commands can be run.
pub trait Remote {
    /// Runs a command with these ends. Without `stdin` it has no input.
    fn run(
        &self,
        words: Vec<String>,
        stdin: Stdin,
        stdout: Sink,
        stderr: Sink,
    ) -> impl Future<Output = Result<Ended, Error>>;
}

/// How a copy is made.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Whether modes and times are kept; `true` by default.
    pub preserve: bool,
    /// How often a lost copy is retried; `None` means without a limit. The default is 0.
    pub retries: Option<u64>,
    /// Whether SHA-256 sums of both sides are compared at the end; `false` by default.
    pub verify: bool,
    /// Whether symbolic links that stay in the tree are copied out of a container; `false` by
    /// default, as kubectl has it. Links that are not copied are told to [`Watcher::problem`] and
    /// are no failure.
    pub symlinks: bool,
    /// How much may come out of a container; 1 TiB and ten million entries by default.
    pub limits: Limits,
}

impl Options {
    /// Returns the default options.
    #[must_use]
    pub const fn new() -> Options {
        let (retries, limits) = (Some(0), Limits::DEFAULT);
        Options { preserve: true, retries, verify: false, symlinks: false, limits }
    }
}

impl Default for Options {
    fn default() -> Options {
        Options::new()
    }
}

/// Gets the progress and the problems of a copy. By default each method does nothing.
pub trait Watcher: Send + Sync {
    /// Gets the bytes of all files that will be copied, where that is known.
    fn total(&self, _bytes: Option<u64>) {}
    /// Gets the name of the file that is copied from now on.
    fn file(&self, _name: &[u8]) {}
    /// Gets the bytes of files that were copied since the last call.
    fn bytes(&self, _count: u64) {}
    /// Gets the number of bytes that the copy continues at, when counted ones are sent again.
    fn position(&self, _bytes: u64) {}
    /// Gets a problem with one entry.
    fn problem(&self, _problem: &Problem) {}
    /// Gets a line of the stderr of the container's tar.
    fn stderr_line(&self, _text: &[u8]) {}
    /// Gets the retry's number and the reason for it, and the bytes at which the copy continues.
    fn resumes(&self, _bytes: u64, _retry: u64, _why: &str) {}
    /// Gets a notice for the user.
    fn note(&self, _text: &str) {}
}

/// Ignores everything.
impl Watcher for () {}
