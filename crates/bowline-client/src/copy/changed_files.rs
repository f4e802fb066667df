//! What was received from a container, and its final listing, to which files are torn.
//!
//! A file that changes while it is copied may be half the old and half the new one, and a tar pads
//! a file that it cannot read to its end with zeros. So sums of such files are compared, over as
//! many bytes as were received: if they are equal, the file is whole, or has only grown since.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bowline_archive::{ItemKind, Problem, quoted};
use bowline_proto::session::Outcome;

use super::attempts::Attempts;
use super::capture::{Captured, remote_failure, run_captured};
use super::compare::{MAX_PROBLEMS, ReceivedItems, compare_download};
use super::listing::Listing;
use super::query::{Answer, CAPTURE_BYTES, query_listing};
use super::scripts::{self, PREFIX_SUMS, script};
use super::upload::not_compared;
use super::{CopyError, Remote, Stdin, Watcher};

/// What a container has at a copy's end, and the container's clock at its begin, where known.
/// `None` if the container cannot say.
pub(crate) type FinalListing = Option<(Listing, Option<i64>)>;

/// Lists a copy's source at its end. `took` is how long the copy took. `None`, and a notice, if the
/// container cannot say.
pub(crate) async fn final_listing(
    remote: &impl Remote,
    source: &str,
    took: Duration,
    attempts: &mut Attempts,
    watcher: &Arc<dyn Watcher>,
) -> Result<FinalListing, CopyError> {
    let (dir, root) = scripts::split(source);
    let begun = tokio::time::Instant::now();
    let listed = match query_listing(remote, &dir, &root, None, attempts, watcher).await? {
        Answer::Known(listed) => listed,
        Answer::Unknown(why) => {
            watcher.note(&not_compared(&why));
            return Ok(None);
        }
    };
    let took = i64::try_from((took + begun.elapsed()).as_secs()).unwrap_or(i64::MAX);
    let began = listed.now.map(|now| now.saturating_sub(took).saturating_sub(1));
    Ok(Some((listed, began)))
}

/// A file that may be torn.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Suspect {
    /// The file's path below the root.
    pub path: Vec<u8>,
    /// The bytes of the file that were received.
    pub bytes: u64,
    has_changed: bool,
    has_grown: bool,
}

/// What differs between both sides, and what may.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Suspects {
    /// The files of which sums are to be compared.
    pub to_check: Vec<Suspect>,
    /// Files that are torn, whatever their sums are.
    torn: BTreeSet<Vec<u8>>,
    /// Other items that have changed.
    others: Vec<Vec<u8>>,
}

/// Which files may be published and which may not.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Judgement {
    /// Files that must not be published.
    pub torn: BTreeSet<Vec<u8>>,
    /// Files that have grown, of which an intact beginning was received.
    pub grown: BTreeSet<Vec<u8>>,
    /// The number of items that have changed.
    pub changed: u64,
}

/// Finds the files that may be torn. If tar has failed, differences are no errors: its stderr,
/// which cannot be parsed, has their reasons.
///
/// # Errors
/// A difference that no change explains, or tar's failure if there is no final listing.
pub(crate) fn suspects(
    ours: &impl ReceivedItems,
    final_listing: &FinalListing,
    outcome: &Outcome,
    watcher: &Arc<dyn Watcher>,
) -> Result<Suspects, CopyError> {
    let has_succeeded = *outcome == Outcome::Success;
    let Some((listed, began)) = final_listing else {
        return match has_succeeded {
            true => Ok(Suspects::default()),
            // Torn files cannot be told from whole ones.
            false => Err(remote_failure(outcome.clone(), false)),
        };
    };
    let found = compare_download(ours, listed, *began);
    if has_succeeded {
        if let Some(failure) = found.failure(false) {
            return Err(failure);
        }
        if let Some(name) = &found.unknown {
            watcher.note(&not_compared(&format!("{name} cannot be looked at")));
        }
    }
    let mut suspects = Suspects::default();
    for path in &found.changed {
        suspects.of(path, true, ours, listed);
    }
    if !has_succeeded {
        for path in &found.different {
            suspects.of(path, false, ours, listed);
        }
        let known: BTreeSet<_> = found.changed.iter().chain(&found.different).collect();
        for path in ours.paths().into_iter().filter(|path| !known.contains(path)) {
            let theirs = listed.items.get(path).and_then(|(theirs, _)| theirs.mtime);
            let is_new = theirs.zip(*began).is_some_and(|(mtime, began)| mtime >= began);
            if is_new || ours.ends_in_zero(path) {
                suspects.of(path, false, ours, listed);
            }
        }
    }
    Ok(suspects)
}

impl Suspects {
    fn of(&mut self, path: &[u8], has_changed: bool, ours: &impl ReceivedItems, listed: &Listing) {
        let file = ours.item(path).filter(|item| item.kind == ItemKind::File);
        let path = path.to_vec();
        let Some(bytes) = file.map(|item| item.size) else {
            if has_changed {
                self.others.push(path);
            }
            return;
        };
        let theirs = listed.items.get(&path).map(|(theirs, _)| theirs);
        match theirs.filter(|theirs| theirs.kind == ItemKind::File && theirs.size >= bytes) {
            Some(theirs) => {
                let has_grown = theirs.size > bytes;
                self.to_check.push(Suspect { path, bytes, has_changed, has_grown });
            }
            None => {
                self.torn.insert(path);
            }
        }
    }

    /// Decides by the sums of both sides, and reports what has changed. An unknown sum equals none.
    pub(crate) fn judge(
        self,
        ours: &[Option<String>],
        theirs: &[Option<String>],
        watcher: &Arc<dyn Watcher>,
    ) -> Judgement {
        let mut judged = Judgement { torn: self.torn, ..Judgement::default() };
        judged.changed = (judged.torn.len() + self.others.len()) as u64;
        let mut lines: Vec<(Vec<u8>, String)> = Vec::new();
        let mut say = |path: &[u8], what: String| lines.push((path.to_vec(), what));
        self.others.iter().for_each(|path| say(path, CHANGED.to_owned()));
        judged.torn.iter().for_each(|path| say(path, format!("{CHANGED}: it is not copied")));
        for (at, suspect) in self.to_check.into_iter().enumerate() {
            let sum = |sums: &[Option<String>]| sums.get(at).cloned().flatten();
            let is_same = sum(ours).is_some_and(|ours| sum(theirs) == Some(ours));
            if is_same && !suspect.has_grown {
                continue;
            }
            judged.changed += 1;
            if is_same {
                let bytes = suspect.bytes;
                say(
                    &suspect.path,
                    format!("{CHANGED}: it grew, and its first {bytes} bytes are here"),
                );
                judged.grown.insert(suspect.path);
            } else {
                let what =
                    if suspect.has_changed { CHANGED } else { "file is not here as it is there" };
                say(&suspect.path, format!("{what}: it is not copied"));
                judged.torn.insert(suspect.path);
            }
        }
        lines.sort();
        for (path, what) in lines.into_iter().take(MAX_PROBLEMS as usize) {
            let name = if path.is_empty() { "the file".to_owned() } else { quoted(&path) };
            watcher.problem(&Problem { text: format!("{name}: {what}"), is_failure: true });
        }
        judged
    }
}

/// GNU tar's text for a file that changes while it is read.
const CHANGED: &str = "file changed as we read it";

/// Returns the sum of each file's first bytes, as many as were received, as a container has them
/// below a root in a directory.
pub(crate) async fn prefix_sums(
    remote: &impl Remote,
    [dir, root]: [&str; 2],
    to_check: &[Suspect],
    attempts: &mut Attempts,
    watcher: &Arc<dyn Watcher>,
) -> Result<Vec<Option<String>>, CopyError> {
    if to_check.is_empty() {
        return Ok(Vec::new());
    }
    let mut input = String::new();
    for Suspect { path, bytes, .. } in to_check {
        let name = [root.as_bytes(), b"/", path].concat();
        let name = name.strip_suffix(b"/").unwrap_or(&name);
        input.push_str(&format!("{bytes}\n{}", scripts::escaped(name)));
    }
    let ask = || async {
        let stdin: Stdin = Some(Box::new(io::Cursor::new(input.clone())));
        match run_captured(remote, script(PREFIX_SUMS, &[dir]), stdin, CAPTURE_BYTES).await {
            Ok(Captured { outcome: Outcome::Success, out, .. }) => {
                sums(&out, to_check.len()).map(Answer::Known).ok_or(CopyError::Cut { retries: 0 })
            }
            Ok(Captured { outcome, stderr_text, .. }) => match stderr_text.is_empty() {
                true => Ok(Answer::Unknown(format!("{outcome:?}"))),
                false => Ok(Answer::Unknown(stderr_text)),
            },
            Err(CopyError::NoTar) => {
                Ok(Answer::Unknown("it has no sha256sum, or no sh".to_owned()))
            }
            Err(error) => Err(error),
        }
    };
    Ok(match attempts.repeat(watcher, ask).await? {
        Answer::Known(sums) => sums,
        Answer::Unknown(why) => {
            watcher.note(&format!("the container cannot say what has changed in its files: {why}"));
            Vec::new()
        }
    })
}

/// Reads the output of [`PREFIX_SUMS`]; `None` if it was cut short.
fn sums(text: &[u8], count: usize) -> Option<Vec<Option<String>>> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix(&format!("end {count}\n"))?;
    let sums: Vec<_> =
        text.lines().map(|line| Some(line.to_owned()).filter(|sum| sum.len() == 64)).collect();
    (sums.len() == count).then_some(sums)
}
