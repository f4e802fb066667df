//! The output of a command in a container to text: kept, or passed on line by line.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bowline_proto::session::Outcome;

use super::error::CopyError;
use super::{Remote, Sink, Stdin, Watcher};
use crate::error::Error;
use crate::session::Ended;
use crate::write_fn::WriteFn;

/// The most bytes of a command's stderr that are kept, or passed on as one line.
pub(crate) const STDERR_BYTES: usize = 4096;

/// A value that an end of a session and the copy share.
pub(crate) struct Shared<T>(Arc<Mutex<T>>);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Shared<T> {
        Shared(self.0.clone())
    }
}

impl<T> Shared<T> {
    pub(crate) fn new(value: T) -> Shared<T> {
        Shared(Arc::new(Mutex::new(value)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Creates a sink that keeps the first `most` bytes.
pub(crate) fn bounded_sink(most: usize) -> (Shared<Vec<u8>>, Sink) {
    let kept = Shared::new(Vec::new());
    let keeper = kept.clone();
    let sink = WriteFn(move |bytes: &[u8]| {
        let mut kept = keeper.lock();
        let room = most.saturating_sub(kept.len());
        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Ok(())
    });
    (kept, Box::new(sink))
}

/// Creates a sink that passes stderr on to the watcher, a line at a time.
pub(crate) fn stderr_lines(watcher: &Arc<dyn Watcher>) -> Sink {
    Box::new(WriteFn(StderrLines { watcher: watcher.clone(), line: Vec::new() }.into_fn()))
}

struct StderrLines {
    watcher: Arc<dyn Watcher>,
    line: Vec<u8>,
}

impl StderrLines {
    fn into_fn(mut self) -> impl FnMut(&[u8]) -> io::Result<()> {
        move |bytes| {
            for byte in bytes {
                if *byte == b'\n' || self.line.len() >= STDERR_BYTES {
                    self.flush_line();
                }
                if *byte != b'\n' {
                    self.line.push(*byte);
                }
            }
            Ok(())
        }
    }

    fn flush_line(&mut self) {
        if !self.line.is_empty() {
            self.watcher.stderr_line(&self.line);
            self.line.clear();
        }
    }
}

impl Drop for StderrLines {
    fn drop(&mut self) {
        self.flush_line();
    }
}

pub(crate) fn text(kept: &[u8]) -> String {
    String::from_utf8_lossy(kept).trim().to_owned()
}

/// Returns the error of a failed command whose stderr was passed on.
pub(crate) fn remote_failure(outcome: Outcome, published: bool) -> CopyError {
    CopyError::Remote { outcome, stderr_text: String::new(), published }
}

/// Returns a remote command's outcome, or an error if that is not known or its program is missing.
pub(crate) fn outcome(result: Result<Ended, Error>, bytes: u64) -> Result<Outcome, CopyError> {
    match result {
        Ok(Ended::Known(outcome)) if is_missing_program(&outcome) => Err(CopyError::NoTar),
        Ok(Ended::Known(outcome)) => Ok(outcome),
        Ok(Ended::Lost { loss, .. }) => Err(CopyError::Lost { loss, bytes, retries: 0 }),
        Err(error) => Err(CopyError::Exec(error)),
    }
}

/// Whether the program was not found: a runtime reports that as text, a shell as 127.
fn is_missing_program(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Exited(code) => *code == 127,
        Outcome::Failed { message, .. } => {
            message.contains("executable file not found")
                || message.contains("no such file or directory")
        }
        Outcome::Success => false,
    }
}

/// The outcome and the output of a command.
pub(crate) struct Captured {
    pub outcome: Outcome,
    /// The beginning of its stdout.
    pub out: Vec<u8>,
    pub stderr_text: String,
}

impl Captured {
    /// Returns the output of a command that has succeeded.
    pub(crate) fn success(self) -> Result<Vec<u8>, CopyError> {
        match self.outcome {
            Outcome::Success => Ok(self.out),
            outcome => {
                Err(CopyError::Remote { outcome, stderr_text: self.stderr_text, published: false })
            }
        }
    }
}

/// Runs a command, and keeps at most `most` bytes of its stdout and [`STDERR_BYTES`] of its stderr.
pub(crate) async fn run_captured(
    remote: &impl Remote,
    words: Vec<String>,
    stdin: Stdin,
    most: usize,
) -> Result<Captured, CopyError> {
    let (out, stdout) = bounded_sink(most);
    let (stderr_text, stderr) = bounded_sink(STDERR_BYTES);
    let outcome = outcome(remote.run(words, stdin, stdout, stderr).await, 0)?;
    let out = std::mem::take(&mut *out.lock());
    Ok(Captured { outcome, out, stderr_text: text(&stderr_text.lock()) })
}
