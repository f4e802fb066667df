//! What came out of a container, beside what it has at the end, to what may get its name.
//!
//! A file that was changed while it was copied may be half the old and half the new one, and what
//! a tar cannot read to its end it fills up with zeros. So of each that may be so, sums are
//! compared, of as many bytes as have come: where they are the same, it is whole, or it has only
//! grown since.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bowline_archive::{ItemKind, Problem, quoted};
use bowline_proto::session::Outcome;

use super::ask::{Answer, CAPTURE_BYTES, listed};
use super::attempts::Attempts;
use super::capture::{Captured, captured, failed};
use super::compare::{Received, TOLD, received};
use super::listing::Listing;
use super::scripts::{self, BEGINNINGS, script};
use super::up::not_compared;
use super::{CopyError, Remote, Stdin, Watcher};

/// What a container has at the end, and when the copy began, by the container's clock.
pub type FinalListing = Option<(Listing, Option<i64>)>;

/// What a container has of a source at the end of a copy that began some time ago. `None`, and it
/// is told, if the container cannot say.
pub async fn listed_source(
    remote: &impl Remote,
    source: &str,
    took: Duration,
    attempts: &mut Attempts,
    watcher: &Arc<dyn Watcher>,
) -> Result<FinalListing, CopyError> {
    let (dir, root) = scripts::split(source);
    let begun = tokio::time::Instant::now();
    let listed = match listed(remote, &dir, &root, None, attempts, watcher).await? {
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

/// A file of which it is to be asked whether its bytes are those that have come.
#[derive(Debug, PartialEq, Eq)]
pub struct Suspect {
    /// Below the root.
    pub path: Vec<u8>,
    /// So many have come.
    pub bytes: u64,
    has_changed: bool,
    has_grown: bool,
}

/// What differs on both sides, and what may.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Suspects {
    /// What is to be asked for.
    pub asked: Vec<Suspect>,
    /// Files that are not whole, whatever is said of them.
    torn: BTreeSet<Vec<u8>>,
    /// What else has changed.
    others: Vec<Vec<u8>>,
}

/// What may get its name and what may not.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// These files may not.
    pub torn: BTreeSet<Vec<u8>>,
    /// Of these the beginning has come, as it is there.
    pub grown: BTreeSet<Vec<u8>>,
    /// How many have changed.
    pub changed: u64,
}

/// Compares what came out of a container with what it has. Where tar has failed, it has said why
/// something is not here, but not in words that are sure to be understood.
///
/// # Errors
/// A difference that no change explains; and the tar's failure, if the container cannot say more.
pub fn suspects(
    ours: &impl Received,
    final_listing: &FinalListing,
    outcome: &Outcome,
    watcher: &Arc<dyn Watcher>,
) -> Result<Suspects, CopyError> {
    let has_succeeded = *outcome == Outcome::Success;
    let Some((listed, began)) = final_listing else {
        return match has_succeeded {
            true => Ok(Suspects::default()),
            // What is not whole cannot be told from what is.
            false => Err(failed(outcome.clone(), false)),
        };
    };
    let found = received(ours, listed, *began);
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
    fn of(&mut self, path: &[u8], has_changed: bool, ours: &impl Received, listed: &Listing) {
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
                self.asked.push(Suspect { path, bytes, has_changed, has_grown });
            }
            None => {
                self.torn.insert(path);
            }
        }
    }

    /// Decides by sums of both sides, and tells of what has changed. A sum that nobody knows is
    /// that of no other side.
    pub fn judged(
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
        for (at, suspect) in self.asked.into_iter().enumerate() {
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
        for (path, what) in lines.into_iter().take(TOLD as usize) {
            let name = if path.is_empty() { "the file".to_owned() } else { quoted(&path) };
            watcher.problem(&Problem { text: format!("{name}: {what}"), is_failure: true });
        }
        judged
    }
}

/// As GNU's tar says it.
const CHANGED: &str = "file changed as we read it";

/// A sum for each, of as many bytes as have come, of what a container has below a root in a
/// directory.
pub async fn beginnings(
    remote: &impl Remote,
    [dir, root]: [&str; 2],
    asked: &[Suspect],
    attempts: &mut Attempts,
    watcher: &Arc<dyn Watcher>,
) -> Result<Vec<Option<String>>, CopyError> {
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    let mut input = String::new();
    for Suspect { path, bytes, .. } in asked {
        let name = [root.as_bytes(), b"/", path].concat();
        let name = name.strip_suffix(b"/").unwrap_or(&name);
        input.push_str(&format!("{bytes}\n{}", scripts::escaped(name)));
    }
    let ask = || async {
        let stdin: Stdin = Some(Box::new(io::Cursor::new(input.clone())));
        match captured(remote, script(BEGINNINGS, &[dir]), stdin, CAPTURE_BYTES).await {
            Ok(Captured { outcome: Outcome::Success, out, .. }) => {
                sums(&out, asked.len()).map(Answer::Known).ok_or(CopyError::Cut { retries: 0 })
            }
            Ok(Captured { outcome, complaint, .. }) => match complaint.is_empty() {
                true => Ok(Answer::Unknown(format!("{outcome:?}"))),
                false => Ok(Answer::Unknown(complaint)),
            },
            Err(CopyError::NoTar) => {
                Ok(Answer::Unknown("it has no sha256sum, or no sh".to_owned()))
            }
            Err(error) => Err(error),
        }
    };
    Ok(match attempts.of(watcher, ask).await? {
        Answer::Known(sums) => sums,
        Answer::Unknown(why) => {
            watcher.note(&format!("the container cannot say what has changed in its files: {why}"));
            Vec::new()
        }
    })
}

/// What [`BEGINNINGS`] has said; `None` if it was cut short.
fn sums(text: &[u8], count: usize) -> Option<Vec<Option<String>>> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix(&format!("end {count}\n"))?;
    let sums: Vec<_> =
        text.lines().map(|line| Some(line.to_owned()).filter(|sum| sum.len() == 64)).collect();
    (sums.len() == count).then_some(sums)
}
