//! Where a copy is in a container until it is complete, and how it gets its name from there.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bowline_archive::ItemKind;
use bowline_proto::session::{Cause, Loss, Outcome};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::ask::{Answer, listed};
use super::attempts::{Attempts, unless};
use super::capture::{Captured, Shared, captured, failed, text};
use super::compare::{Expected, sent};
use super::scripts::{self, ABANDON, ELSEWHERE, PLACE, PUBLISH, REMOVE, UNPACK, script};
use super::up::not_compared;
use super::{CopyError, Remote, Stdin, Watcher};

/// The name of the tree in the directory of an attempt.
pub const TREE: &str = "tree";
/// How long a container may take to remove what was begun.
const ABANDON_PATIENCE: Duration = Duration::from_secs(10);
/// Between two attempts at it.
const ABANDON_PAUSE: Duration = Duration::from_millis(200);
/// So much is kept of what is said of a target.
const SAID_BYTES: usize = 64;

/// Where something goes in a container.
pub struct Staging {
    /// The name that it gets.
    pub target: String,
    /// Where it is until then.
    pub path: String,
}

/// How a copy got its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// As it was compared.
    AsCompared,
    /// Nobody has seen how that ended.
    NotSure,
}

impl Staging {
    /// Looks at the target, and makes a place for it. `name` is what the copy gets in a directory;
    /// without one it is the directory.
    pub async fn make(
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
        // A request is text. If there is no directory, no name is needed.
        let text_name = name.map_or(Some(""), OsStr::to_str);
        let mark = scripts::mark();
        let words = script(PLACE, &[&target, &dir, text_name.unwrap_or("?"), &mark]);
        let asked = attempts.of(watcher, || captured(remote, words.clone(), None, SAID_BYTES));
        let found = unless(stop, asked).await;
        let inner = format!("{}/{}", target.trim_end_matches('/'), text_name.unwrap_or("?"));
        let hidden = |dir: &str| format!("{}/.bowline-cp-{mark}", dir.trim_end_matches('/'));
        let places: Vec<String> =
            [&*dir, &*target, &*inner].into_iter().chain(ELSEWHERE).map(hidden).collect();
        let found = match found.and_then(Captured::success) {
            Ok(found) => text(&found),
            Err(error) => {
                // It may have been made, and nobody has heard of it.
                if error.is_loss() || matches!(error, CopyError::Stopped) {
                    abandon(remote, &places, watcher.as_ref()).await;
                }
                return Err(error);
            }
        };
        let (kind, number) = found.split_once(' ').unwrap_or((&found, ""));
        let staging = number.parse().ok().and_then(|number: usize| places.get(number).cloned());
        let is_dir = kind == "dir";
        let staging = match (staging, name) {
            (Some(staging), Some(name)) if is_dir && text_name.is_none() => {
                abandon(remote, &[staging], watcher.as_ref()).await;
                return Err(CopyError::Unnameable(name.to_owned()));
            }
            (Some(staging), _) => staging,
            (None, _) => {
                abandon(remote, &places, watcher.as_ref()).await;
                return Err(CopyError::Cut { retries: 0 });
            }
        };
        let target = if is_dir && name.is_some() { inner } else { target };
        Ok(Staging { target, path: staging })
    }

    /// The directory of an attempt.
    pub fn dir(&self, number: u64) -> String {
        format!("{}/{number}", self.path)
    }

    /// Tar's words for an attempt.
    pub fn unpack(&self, number: u64, preserve: bool) -> Vec<String> {
        let flags: &[&str] = if preserve {
            &["-xpf", "-"]
        } else {
            &["--no-same-permissions", "--no-same-owner", "-xmf", "-"]
        };
        script(UNPACK, &[&[&*self.dir(number)], flags].concat())
    }

    /// Removes files of an attempt, by their names in its directory.
    pub async fn remove(
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
        match captured(remote, script(REMOVE, &[&self.dir(number)]), stdin, 0).await? {
            Captured { outcome: Outcome::Success, .. } => Ok(()),
            Captured { complaint, .. } => Err(CopyError::NotWhole(format!("stays: {complaint}"))),
        }
    }

    /// Gives the tree its name.
    pub async fn publish(
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
                let said = captured(remote, words, None, SAID_BYTES).await;
                if let Err(CopyError::Lost { loss, .. }) = &said {
                    *lost.lock() = Some(loss.clone());
                }
                said
            }
        };
        let published = attempts.of(watcher, &mut publish).await;
        let retries = attempts.made;
        let said = published.map_err(|error| match lost.lock().take() {
            // However the last attempt has failed: an earlier one may have done it.
            Some(loss) if error.is_loss() => CopyError::Unknown { loss, retries },
            _ => error,
        })?;
        let out = text(&said.out);
        let mut counts = out.split(' ').skip(1).map(|count| count.parse::<u64>().ok());
        let (written_into, named) = (counts.next().flatten(), counts.next().flatten());
        match said.outcome {
            Outcome::Success => said.complaint.lines().for_each(|line| watcher.note(line)),
            outcome if named.is_some_and(|named| named > 0) => {
                watcher.complaint(said.complaint.as_bytes());
                return Err(failed(outcome, true));
            }
            outcome => {
                let complaint = said.complaint;
                return Err(CopyError::Remote { outcome, complaint, published: false });
            }
        }
        Ok(match written_into {
            // What was written into was counted there.
            Some(_) if tries == 1 => Published::AsCompared,
            _ => Published::NotSure,
        })
    }

    /// Whether all that was sent has the target's name.
    pub async fn compare(
        &self,
        remote: &impl Remote,
        expected: &Expected,
        attempts: &mut Attempts,
        watcher: &Arc<dyn Watcher>,
    ) -> Result<(), CopyError> {
        let (dir, root) = scripts::split(&self.target);
        let listed = listed(remote, &dir, &root, None, attempts, watcher).await;
        match listed.map_err(|error| unknown(error, attempts.made))? {
            Answer::Unknown(why) => watcher.note(&not_compared(&why)),
            Answer::Known(listing) => {
                // What was written through is still a link or a device, and has no size of its own.
                let is_through = |path: &Vec<u8>, sent: ItemKind| {
                    let there = listing.items.get(path).map(|(there, _)| there.kind);
                    sent == ItemKind::File
                        && matches!(there, Some(ItemKind::Symlink | ItemKind::Other))
                };
                let expected = expected.iter().filter(|(path, item)| !is_through(path, item.kind));
                let expected = expected.map(|(path, item)| (path.clone(), *item)).collect();
                if let Some(failure) = sent(&expected, &listing).failure(true) {
                    return Err(failure);
                }
            }
        }
        Ok(())
    }

    /// Removes what was begun, as far as the container can still be reached.
    pub async fn abandon(&self, remote: &impl Remote, watcher: &dyn Watcher) {
        abandon(remote, std::slice::from_ref(&self.path), watcher).await;
    }
}

/// A loss once the target may have its name.
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

async fn abandon(remote: &impl Remote, places: &[String], watcher: &dyn Watcher) {
    let paths: Vec<&str> = places.iter().map(String::as_str).collect();
    let gone = async {
        loop {
            match captured(remote, script(ABANDON, &paths), None, 0).await {
                Ok(said) => return said.outcome == Outcome::Success,
                // A bad connection is why this is necessary at all.
                Err(error) if error.is_loss() => sleep(ABANDON_PAUSE).await,
                Err(_) => return false,
            }
        }
    };
    let is_gone = timeout(ABANDON_PATIENCE, gone).await.unwrap_or(false);
    if !is_gone && let Some(place) = places.first() {
        watcher.note(&format!("{place} may be left in the container"));
    }
}
