//! Files and trees between this side and containers: `tar` over remote commands, and the truth
//! about how that ended.
//!
//! A copy is complete if the archive's end was seen *and* the remote command has succeeded *and*
//! both sides have the same names, kinds and sizes. Until then all of it is in a directory of its
//! own beside the target; the target's name is given at the end. What was lost is tried again, as
//! often as the caller wants, and goes on where it was.

mod ask;
mod attempts;
mod between;
mod capture;
mod compare;
mod container;
mod down;
mod error;
mod listing;
mod scripts;
mod staging;
mod throttle;
mod up;
mod whole;

use std::future::Future;

pub use bowline_archive::Problem;
pub use bowline_archive::filter::Limits;
use tokio::io::{AsyncRead, AsyncWrite};

pub use self::between::between;
pub use self::container::{Container, Copy};
pub use self::down::down;
pub use self::error::CopyError;
pub use self::up::up;
use crate::error::Error;
use crate::session::Ended;

/// Input for a remote command.
pub type Stdin = Option<Box<dyn AsyncRead + Send + Unpin>>;
/// Where its output goes.
pub type Sink = Box<dyn AsyncWrite + Send + Unpin>;

/// A container in which commands can be run.
pub trait Remote {
    /// Runs a command between these ends.
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
    /// Modes and times come along; they do by default.
    pub preserve: bool,
    /// How often a lost copy is tried again; `None` is without an end. The default is 0.
    pub retries: Option<u64>,
    /// Sums of both sides are compared at the end; they are not by default.
    pub verify: bool,
    /// Symbolic links that stay in the tree are made; they are not by default.
    pub symlinks: bool,
    /// How much may come out of a container; by default 1 TiB and ten million entries.
    pub limits: Limits,
}

impl Options {
    /// The defaults.
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

/// Is told how a copy goes. What is not taken is passed over.
pub trait Watcher: Send + Sync {
    /// So many bytes of files will be copied, where that is known.
    fn total(&self, _bytes: Option<u64>) {}
    /// This file is copied now.
    fn file(&self, _name: &[u8]) {}
    /// So many bytes of files were copied since.
    fn bytes(&self, _count: u64) {}
    /// Bytes that were counted come again: it is at so many now.
    fn position(&self, _bytes: u64) {}
    /// An entry is not what it should be.
    fn problem(&self, _trouble: &Problem) {}
    /// What the container's tar complains of.
    fn complaint(&self, _text: &[u8]) {}
    /// A copy goes on after a loss: at so many bytes, for this time.
    fn resumes(&self, _bytes: u64, _retry: u64, _why: &str) {}
    /// Something else that a person wants to know.
    fn note(&self, _text: &str) {}
}

/// Watches nothing.
impl Watcher for () {}
