//! Queries about a container's files, which continue after lost connections.

use std::collections::BTreeMap;
use std::sync::Arc;

use bowline_proto::session::Outcome;

use super::attempts::Attempts;
use super::capture::{Captured, STDERR_BYTES, bounded_sink, outcome, run_captured, text};
use super::error::CopyError;
use super::listing::{self, Listing, listing};
use super::scripts::{self, LIST, RESOLVE, SUMS, script};
use super::{Remote, Watcher};

/// The most bytes of output that are kept of a query: a listing of some million files.
pub(crate) const CAPTURE_BYTES: usize = 256 * 1024 * 1024;

/// A container's answer to a query.
pub(crate) enum Answer<T> {
    /// The answer.
    Known(T),
    /// Why the container cannot answer.
    Unknown(String),
}

/// Runs a script that can start at any byte of its output. After a loss, whole records are kept and
/// the rest is requested.
async fn paged(
    remote: &impl Remote,
    tool: &str,
    [dir, root, more]: [&str; 3],
    marker: &str,
    attempts: &mut Attempts,
    watcher: &Arc<dyn Watcher>,
) -> Result<Answer<Vec<u8>>, CopyError> {
    let is_marked = tool == LIST;
    let mut kept: Vec<u8> = Vec::new();
    let mut before = 0;
    loop {
        let whole = match is_marked {
            true => listing::records(&kept, marker),
            false => kept.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1),
        };
        kept.truncate(whole);
        let from = (kept.len() + 1).to_string();
        let mut arguments = vec![dir, root, marker, &from];
        arguments.extend(Some(more).filter(|more| !more.is_empty()));
        let (out, stdout) = bounded_sink(CAPTURE_BYTES - kept.len());
        let (stderr_text, stderr) = bounded_sink(STDERR_BYTES);
        let ended = remote.run(script(tool, &arguments), None, stdout, stderr).await;
        let came = std::mem::take(&mut *out.lock());
        if is_marked && !kept.is_empty() && !listing::is_record(&came, marker) {
            // Something before this record has changed.
            kept.clear();
            continue;
        }
        kept.extend_from_slice(&came);
        let stderr_text = text(&stderr_text.lock());
        let error = match outcome(ended, 0) {
            Ok(Outcome::Success) if kept.len() >= CAPTURE_BYTES => {
                return Ok(Answer::Unknown(format!("more than {CAPTURE_BYTES} bytes of names")));
            }
            Ok(Outcome::Success) if listing::end(&kept, marker).is_some() => {
                return Ok(Answer::Known(kept));
            }
            // The output was cut short without an error.
            Ok(Outcome::Success) => CopyError::Cut { retries: 0 },
            Ok(Outcome::Failed { message, .. }) => return Ok(Answer::Unknown(message)),
            Ok(Outcome::Exited(code)) => {
                return Ok(Answer::Unknown(match stderr_text.is_empty() {
                    true => format!("exit code {code}"),
                    false => stderr_text,
                }));
            }
            Err(CopyError::NoTar) => {
                let what = if is_marked { "no sh" } else { "no sha256sum, or no sh" };
                return Ok(Answer::Unknown(format!("the container has {what}")));
            }
            Err(error) => error,
        };
        let progressed = kept.len() as u64;
        attempts.retry_after(error, watcher, before, progressed).await?;
        before = progressed;
    }
}

/// Lists what is below a root in a directory. With a `number`, the directory is a staging one, and
/// its tree is moved into the subdirectory of that attempt first.
pub(crate) async fn query_listing(
    remote: &impl Remote,
    dir: &str,
    root: &str,
    number: Option<u64>,
    attempts: &mut Attempts,
    watcher: &Arc<dyn Watcher>,
) -> Result<Answer<Listing>, CopyError> {
    let marker = scripts::marker();
    let number = number.map_or(String::new(), |number| number.to_string());
    let text = paged(remote, LIST, [dir, root, &number], &marker, attempts, watcher).await?;
    Ok(match text {
        Answer::Known(text) => match listing(&text, root, &marker) {
            Some(listing) => Answer::Known(listing),
            None => Answer::Unknown("it is cut".to_owned()),
        },
        Answer::Unknown(why) => Answer::Unknown(why),
    })
}

/// Returns SHA-256 sums of all files below a root in a directory, by their paths. `None`, and a
/// notice, if the container cannot make them.
pub(crate) async fn query_sums(
    remote: &impl Remote,
    dir: &str,
    root: &str,
    attempts: &mut Attempts,
    watcher: &Arc<dyn Watcher>,
) -> Result<Option<BTreeMap<Vec<u8>, String>>, CopyError> {
    let marker = scripts::marker();
    Ok(match paged(remote, SUMS, [dir, root, ""], &marker, attempts, watcher).await? {
        Answer::Known(text) => Some(listing::sums(&text, root)),
        Answer::Unknown(why) => {
            watcher.note(&format!("not verified: {why}"));
            None
        }
    })
}

/// Returns the path that a symbolic link in a container leads to.
pub(crate) async fn resolve_link(
    remote: &impl Remote,
    source: &str,
    attempts: &mut Attempts,
    watcher: &Arc<dyn Watcher>,
) -> Result<String, CopyError> {
    let path = scripts::guarded(source.trim_end_matches('/'));
    let words = script(RESOLVE, &[&path]);
    let answer = attempts
        .repeat(watcher, || run_captured(remote, words.clone(), None, STDERR_BYTES))
        .await?;
    let fail = |why: String| CopyError::Link(source.to_owned(), why);
    let Captured { outcome, out, stderr_text } = answer;
    if outcome != Outcome::Success {
        let why = if stderr_text.is_empty() { String::new() } else { format!(": {stderr_text}") };
        return Err(fail(why));
    }
    let out = out.strip_suffix(b"\n").unwrap_or(&out);
    match std::str::from_utf8(out) {
        Ok(path) if path.starts_with('/') => Ok(path.to_owned()),
        _ => Err(fail(String::new())),
    }
}
