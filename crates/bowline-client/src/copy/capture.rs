//! What a command in a container says to what this side makes of it: as it comes, kept, or told.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bowline_proto::session::Outcome;

use super::error::CopyError;
use super::{Remote, Sink, Stdin, Watcher};
use crate::error::Error;
use crate::session::Ended;
use crate::write_fn::WriteFn;

/// How much of a command's errors is kept.
pub const COMPLAINT_BYTES: usize = 4096;

/// Something that one end of a session and the copy both use, one after the other.
pub struct Shared<T>(Arc<Mutex<T>>);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Shared<T> {
        Shared(self.0.clone())
    }
}

impl<T> Shared<T> {
    pub fn new(value: T) -> Shared<T> {
        Shared(Arc::new(Mutex::new(value)))
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the beginning of output.
pub fn keep(most: usize) -> (Shared<Vec<u8>>, Sink) {
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

/// Passes what a container's tar complains of on, a line at a time.
pub fn complaints(watcher: &Arc<dyn Watcher>) -> Sink {
    Box::new(WriteFn(Complaints { watcher: watcher.clone(), line: Vec::new() }.taking()))
}

struct Complaints {
    watcher: Arc<dyn Watcher>,
    line: Vec<u8>,
}

impl Complaints {
    fn taking(mut self) -> impl FnMut(&[u8]) -> io::Result<()> {
        move |bytes| {
            for byte in bytes {
                if *byte == b'\n' || self.line.len() >= COMPLAINT_BYTES {
                    self.say();
                }
                if *byte != b'\n' {
                    self.line.push(*byte);
                }
            }
            Ok(())
        }
    }

    fn say(&mut self) {
        if !self.line.is_empty() {
            self.watcher.complaint(&self.line);
            self.line.clear();
        }
    }
}

impl Drop for Complaints {
    fn drop(&mut self) {
        self.say();
    }
}

pub fn text(kept: &[u8]) -> String {
    String::from_utf8_lossy(kept).trim().to_owned()
}

/// The failure of a command whose complaints were passed on.
pub fn failed(outcome: Outcome, published: bool) -> CopyError {
    CopyError::Remote { outcome, complaint: String::new(), published }
}

/// How a remote command ended that was followed to its end.
pub fn outcome(result: Result<Ended, Error>, bytes: u64) -> Result<Outcome, CopyError> {
    match result {
        Ok(Ended::Known(outcome)) if is_missing_program(&outcome) => Err(CopyError::NoTar),
        Ok(Ended::Known(outcome)) => Ok(outcome),
        Ok(Ended::Lost { loss, .. }) => Err(CopyError::Lost { loss, bytes, retries: 0 }),
        Err(error) => Err(CopyError::Exec(error)),
    }
}

/// A runtime that cannot find a program says so in words; a shell by 127.
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

/// How a command that is followed to its end has ended, and what it said.
pub struct Captured {
    pub outcome: Outcome,
    /// The beginning of its output.
    pub out: Vec<u8>,
    pub complaint: String,
}

impl Captured {
    /// Its output, if it has succeeded.
    pub fn success(self) -> Result<Vec<u8>, CopyError> {
        match self.outcome {
            Outcome::Success => Ok(self.out),
            outcome => {
                Err(CopyError::Remote { outcome, complaint: self.complaint, published: false })
            }
        }
    }
}

/// Runs a command and keeps what it says: of its output, at most so much.
pub async fn captured(
    remote: &impl Remote,
    words: Vec<String>,
    stdin: Stdin,
    most: usize,
) -> Result<Captured, CopyError> {
    let (out, stdout) = keep(most);
    let (complaint, stderr) = keep(COMPLAINT_BYTES);
    let outcome = outcome(remote.run(words, stdin, stdout, stderr).await, 0)?;
    let out = std::mem::take(&mut *out.lock());
    Ok(Captured { outcome, out, complaint: text(&complaint.lock()) })
}
