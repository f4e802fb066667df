//! The staging directory in a container, where a copy is until it is complete and gets its name.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bowline_archive::ItemKind;
use bowline_proto::session::{Cause, Loss, Outcome};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::attempts::{Attempts, until_stopped};
use super::capture::{Captured, Shared, remote_failure, run_captured, text};
use super::compare::{Expected, compare_upload};
use super::query::{Answer, query_listing};
use super::scripts::{
    self, ABANDON, FALLBACK_DIRECTORIES, MAKE_STAGING, PUBLISH, REMOVE, UNPACK, script,
};
use super::upload::not_compared;
use super::{CopyError, Remote, Stdin, Watcher};

/// The name of the tree in the directory of an attempt.
pub(crate) const TREE: &str = "tree";
/// How long a container may take to remove a staging directory.
const ABANDON_PATIENCE: Duration = Duration::from_secs(10);
/// The pause between two attempts to remove a staging directory.
const ABANDON_PAUSE: Duration = Duration::from_millis(200);
/// The most bytes that are kept of a script's answer.
const ANSWER_BYTES: usize = 64;

/// A staging directory, and the target of what is in it.
pub(crate) struct Staging {
    /// The path that the copy gets at the end.
    pub target: String,
    /// The path of the staging directory.
    pub path: String,
}

/// How sure it is that the target is what was compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Published {
    /// The target is the tree that was compared.
    Compared,
    /// The outcome of an attempt was lost, or files were written into, so it must be compared
    /// again.
    Unconfirmed,
}

impl Staging {
    /// Looks at the target, and makes its staging directory. `name` is the copy's name if the
    /// target is a directory; without one, the copy is merged into that directory.
    pub(crate) async fn make(
        remote: &impl Remote,
        target: &str,
        name: Option<&OsStr>,
        attempts: &mut Attempts,
        watcher: &Arc<dyn Watcher>,
        stop: &CancellationToken,
    ) -> Result<Staging, CopyError> {
        let target = scripts::guarded(match target.trim_end_matches('/') {
            "" => "/",
            trimmed => trimmed,
        });
        let (dir, _) = scripts::split(&target);
        // A request can only carry UTF-8. The name is needed only if the target is a directory.
        let text_name = name.map_or(Some(""), OsStr::to_str);
        let marker = scripts::marker();
        let words = script(MAKE_STAGING, &[&target, &dir, text_name.unwrap_or("?"), &marker]);
        let asked =
            attempts.repeat(watcher, || run_captured(remote, words.clone(), None, ANSWER_BYTES));
        let found = until_stopped(stop, asked).await;
        let inner = format!("{}/{}", target.trim_end_matches('/'), text_name.unwrap_or("?"));
        let hidden = |dir: &str| format!("{}/.bowline-cp-{marker}", dir.trim_end_matches('/'));
        let candidates: Vec<String> = [&*dir, &*target, &*inner]
            .into_iter()
            .chain(FALLBACK_DIRECTORIES)
            .map(hidden)
            .collect();
        let found = match found.and_then(Captured::success) {
            Ok(found) => text(&found),
            Err(error) => {
                // The directory may have been made although the answer was lost.
                if error.is_loss() || matches!(error, CopyError::Stopped) {
                    abandon(remote, &candidates, watcher.as_ref()).await;
                }
                return Err(error);
            }
        };
        let (kind, number) = found.split_once(' ').unwrap_or((&found, ""));
        let staging = number.parse().ok().and_then(|number: usize| candidates.get(number).cloned());
        let is_dir = kind == "dir";
        let staging = match (staging, name) {
            (Some(staging), Some(name)) if is_dir && text_name.is_none() => {
                abandon(remote, &[staging], watcher.as_ref()).await;
                return Err(CopyError::Unnameable(name.to_owned()));
            }
            (Some(staging), _) => staging,
            (None, _) => {
                abandon(remote, &candidates, watcher.as_ref()).await;
                return Err(CopyError::Cut { retries: 0 });
            }
        };
        let target = if is_dir && name.is_some() { inner } else { target };
        Ok(Staging { target, path: staging })
    }

    /// Returns the subdirectory of an attempt.
    pub(crate) fn dir(&self, number: u64) -> String {
        format!("{}/{number}", self.path)
    }

    /// Returns the command that unpacks into the subdirectory of an attempt.
    pub(crate) fn unpack(&self, number: u64, preserve: bool) -> Vec<String> {
        let flags: &[&str] = if preserve {
            &["-xpf", "-"]
        } else {
            &["--no-same-permissions", "--no-same-owner", "-xmf", "-"]
        };
        script(UNPACK, &[&[&*self.dir(number)], flags].concat())
    }

    /// Removes files of an attempt, by their names in its subdirectory.
    pub(crate) async fn remove(
        &self,
        remote: &impl Remote,
        number: u64,
        names: &[Vec<u8>],
    ) -> Result<(), CopyError> {
        if names.is_empty() {
            return Ok(());
        }
        let names: String = names.iter().map(|name| scripts::escaped(name)).collect();
        let stdin: Stdin = Some(Box::new(io::Cursor::new(names)));
        match run_captured(remote, script(REMOVE, &[&self.dir(number)]), stdin, 0).await? {
            Captured { outcome: Outcome::Success, .. } => Ok(()),
            Captured { stderr_text, .. } => {
                Err(CopyError::NotWhole(format!("stays: {stderr_text}")))
            }
        }
    }

    /// Gives the tree the target's name. Repeated after losses: an earlier attempt may have done
    /// it.
    pub(crate) async fn publish(
        &self,
        remote: &impl Remote,
        number: u64,
        preserve: bool,
        attempts: &mut Attempts,
        watcher: &Arc<dyn Watcher>,
    ) -> Result<Published, CopyError> {
        let mut tries = 0_u64;
        let lost = Shared::new(None);
        let mut publish = || {
            let preserve = if preserve { "y" } else { "n" };
            let again = if tries > 0 { "y" } else { "n" };
            tries += 1;
            let number = number.to_string();
            let words = script(PUBLISH, &[&self.path, &number, &self.target, preserve, again]);
            let lost = lost.clone();
            async move {
                let answer = run_captured(remote, words, None, ANSWER_BYTES).await;
                if let Err(CopyError::Lost { loss, .. }) = &answer {
                    *lost.lock() = Some(loss.clone());
                }
                answer
            }
        };
        let published = attempts.repeat(watcher, &mut publish).await;
        let retries = attempts.made;
        let answer = published.map_err(|error| match lost.lock().take() {
            // An earlier attempt, whose outcome was lost, may have done it.
            Some(loss) if error.is_loss() => CopyError::Unknown { loss, retries },
            _ => error,
        })?;
        let out = text(&answer.out);
        let mut counts = out.split(' ').skip(1).map(|count| count.parse::<u64>().ok());
        let (written_into, named) = (counts.next().flatten(), counts.next().flatten());
        match answer.outcome {
            Outcome::Success => answer.stderr_text.lines().for_each(|line| watcher.note(line)),
            outcome if named.is_some_and(|named| named > 0) => {
                watcher.stderr_line(answer.stderr_text.as_bytes());
                return Err(remote_failure(outcome, true));
            }
            outcome => {
                let stderr_text = answer.stderr_text;
                return Err(CopyError::Remote { outcome, stderr_text, published: false });
            }
        }
        Ok(match written_into {
            // The script has compared the sizes of files that it wrote into.
            Some(_) if tries == 1 => Published::Compared,
            _ => Published::Unconfirmed,
        })
    }

    /// Compares what was sent with what has the target's name.
    pub(crate) async fn compare(
        &self,
        remote: &impl Remote,
        expected: &Expected,
        attempts: &mut Attempts,
        watcher: &Arc<dyn Watcher>,
    ) -> Result<(), CopyError> {
        let (dir, root) = scripts::split(&self.target);
        let listed = query_listing(remote, &dir, &root, None, attempts, watcher).await;
        match listed.map_err(|error| unknown(error, attempts.made))? {
            Answer::Unknown(why) => watcher.note(&not_compared(&why)),
            Answer::Known(listing) => {
                // What was written into a link or a device has no size of its own.
                let is_written_into = |path: &Vec<u8>, sent: ItemKind| {
                    let there = listing.items.get(path).map(|(there, _)| there.kind);
                    sent == ItemKind::File
                        && matches!(there, Some(ItemKind::Symlink | ItemKind::Other))
                };
                let expected =
                    expected.iter().filter(|(path, item)| !is_written_into(path, item.kind));
                let expected = expected.map(|(path, item)| (path.clone(), *item)).collect();
                if let Some(failure) = compare_upload(&expected, &listing).failure(true) {
                    return Err(failure);
                }
            }
        }
        Ok(())
    }

    /// Removes the staging directory, if the container can still be reached.
    pub(crate) async fn abandon(&self, remote: &impl Remote, watcher: &dyn Watcher) {
        abandon(remote, std::slice::from_ref(&self.path), watcher).await;
    }
}

/// Turns a loss into [`CopyError::Unknown`], once the target may have its name.
fn unknown(error: CopyError, retries: u64) -> CopyError {
    match error {
        CopyError::Lost { loss, .. } => CopyError::Unknown { loss, retries },
        error if error.is_loss() => {
            let loss = Loss::new(Cause::Cut, error.to_string());
            CopyError::Unknown { loss, retries }
        }
        error => error,
    }
}

async fn abandon(remote: &impl Remote, candidates: &[String], watcher: &dyn Watcher) {
    let paths: Vec<&str> = candidates.iter().map(String::as_str).collect();
    let gone = async {
        loop {
            match run_captured(remote, script(ABANDON, &paths), None, 0).await {
                Ok(answer) => return answer.outcome == Outcome::Success,
                // The connection may be bad: that is the usual reason to abandon a copy.
                Err(error) if error.is_loss() => sleep(ABANDON_PAUSE).await,
                Err(_) => return false,
            }
        }
    };
    let is_gone = timeout(ABANDON_PATIENCE, gone).await.unwrap_or(false);
    if !is_gone && let Some(place) = candidates.first() {
        watcher.note(&format!("{place} may be left in the container"));
    }
}
