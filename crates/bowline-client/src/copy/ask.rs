//! Questions to a container about its files, which any number of lost connections may cut short.

use std::collections::BTreeMap;
use std::sync::Arc;

use bowline_proto::session::Outcome;

use super::attempts::Attempts;
use super::capture::{COMPLAINT_BYTES, Captured, captured, keep, outcome, text};
use super::error::CopyError;
use super::listing::{self, Listing, listing};
use super::scripts::{self, LIST, RESOLVE, SUMS, script};
use super::{Remote, Watcher};

/// The longest output of a container's tool that is kept: a listing of some million files.
pub const CAPTURE_BYTES: usize = 256 * 1024 * 1024;

/// What a container answers.
pub enum Answer<T> {
    /// This.
    Known(T),
    /// That it cannot say, and why.
    Unknown(String),
}

/// What a tool printed that can say how far it got, whatever was lost on the way: what has come is
/// kept, and the rest asked for.
async fn paged(
    remote: &impl Remote,
    tool: &str,
    [dir, root, more]: [&str; 3],
    mark: &str,
    attempts: &mut Attempts,
    watcher: &Arc<dyn Watcher>,
) -> Result<Answer<Vec<u8>>, CopyError> {
    let is_marked = tool == LIST;
    let mut kept: Vec<u8> = Vec::new();
    let mut before = 0;
    loop {
        let whole = match is_marked {
            true => listing::records(&kept, mark),
            false => kept.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1),
        };
        kept.truncate(whole);
        let from = (kept.len() + 1).to_string();
        let mut arguments = vec![dir, root, mark, &from];
        arguments.extend(Some(more).filter(|more| !more.is_empty()));
        let (out, stdout) = keep(CAPTURE_BYTES - kept.len());
        let (complaint, stderr) = keep(COMPLAINT_BYTES);
        let ended = remote.run(script(tool, &arguments), None, stdout, stderr).await;
        let came = std::mem::take(&mut *out.lock());
        if is_marked && !kept.is_empty() && !listing::is_record(&came, mark) {
            // Something has changed in front of it.
            kept.clear();
            continue;
        }
        kept.extend_from_slice(&came);
        let complaint = text(&complaint.lock());
        let error = match outcome(ended, 0) {
            Ok(Outcome::Success) if kept.len() >= CAPTURE_BYTES => {
                return Ok(Answer::Unknown(format!("more than {CAPTURE_BYTES} bytes of names")));
            }
            Ok(Outcome::Success) if listing::end(&kept, mark).is_some() => {
                return Ok(Answer::Known(kept));
            }
            // It was cut short, and nobody has said so.
            Ok(Outcome::Success) => CopyError::Cut { retries: 0 },
            Ok(Outcome::Failed { message, .. }) => return Ok(Answer::Unknown(message)),
            Ok(Outcome::Exited(code)) => {
                return Ok(Answer::Unknown(match complaint.is_empty() {
                    true => format!("exit code {code}"),
                    false => complaint,
                }));
            }
            Err(CopyError::NoTar) => {
                let what = if is_marked { "no sh" } else { "no sha256sum, or no sh" };
                return Ok(Answer::Unknown(format!("the container has {what}")));
            }
            Err(error) => error,
        };
        let progressed = kept.len() as u64;
        attempts.again(error, watcher, before, progressed).await?;
        before = progressed;
    }
}

/// What is below a root in a directory; in a place, once it has come into the directory of this
/// number.
pub async fn listed(
    remote: &impl Remote,
    dir: &str,
    root: &str,
    number: Option<u64>,
    attempts: &mut Attempts,
    watcher: &Arc<dyn Watcher>,
) -> Result<Answer<Listing>, CopyError> {
    let mark = scripts::mark();
    let number = number.map_or(String::new(), |number| number.to_string());
    let text = paged(remote, LIST, [dir, root, &number], &mark, attempts, watcher).await?;
    Ok(match text {
        Answer::Known(text) => match listing(&text, root, &mark) {
            Some(listing) => Answer::Known(listing),
            None => Answer::Unknown("it is cut".to_owned()),
        },
        Answer::Unknown(why) => Answer::Unknown(why),
    })
}

/// Sums of all files below a root in a directory, by their paths.
pub async fn summed(
    remote: &impl Remote,
    dir: &str,
    root: &str,
    attempts: &mut Attempts,
    watcher: &Arc<dyn Watcher>,
) -> Result<Option<BTreeMap<Vec<u8>, String>>, CopyError> {
    let mark = scripts::mark();
    Ok(match paged(remote, SUMS, [dir, root, ""], &mark, attempts, watcher).await? {
        Answer::Known(text) => Some(listing::sums(&text, root)),
        Answer::Unknown(why) => {
            watcher.note(&format!("not verified: {why}"));
            None
        }
    })
}

/// The path that a symbolic link in a container leads to.
pub async fn resolved(
    remote: &impl Remote,
    source: &str,
    attempts: &mut Attempts,
    watcher: &Arc<dyn Watcher>,
) -> Result<String, CopyError> {
    let path = scripts::guarded(source.trim_end_matches('/'));
    let words = script(RESOLVE, &[&path]);
    let said =
        attempts.of(watcher, || captured(remote, words.clone(), None, COMPLAINT_BYTES)).await?;
    let fail = |why: String| CopyError::Link(source.to_owned(), why);
    let Captured { outcome, out, complaint } = said;
    if outcome != Outcome::Success {
        let why = if complaint.is_empty() { String::new() } else { format!(": {complaint}") };
        return Err(fail(why));
    }
    let out = out.strip_suffix(b"\n").unwrap_or(&out);
    match std::str::from_utf8(out) {
        Ok(path) if path.starts_with('/') => Ok(path.to_owned()),
        _ => Err(fail(String::new())),
    }
}
