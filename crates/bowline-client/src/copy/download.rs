//! Copies out of a container.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bowline_archive::filter::EntryFilter;
use bowline_archive::unpack::{Progress, UnpackError, Unpacker};
use bowline_archive::{Item, ItemKind};
use bowline_proto::session::Outcome;
use tokio::time::Instant;

use super::attempts::Attempts;
use super::capture::{Shared, bounded_sink, outcome, remote_failure, stderr_lines};
use super::changed_files::{self, Judgement};
use super::compare::ReceivedItems;
use super::error::local_error;
use super::listing::Listing;
use super::query::{Answer, query_listing, query_sums, resolve_link};
use super::scripts::{self, BLOCK_BYTES, PACK_NAMED, script};
use super::{CopyError, Options, Remote, Sink, Stdin, Watcher};
use crate::write_fn::WriteFn;

/// The most names that one tar packs: a system limits the length of its arguments.
const NAMES_PER_ARCHIVE: usize = 200;

/// Copies what is at `source` in a container to the local path `target`.
///
/// Cancel safe: a future that is dropped leaves nothing behind.
///
/// # Errors
/// [`CopyError`] if the target is not a complete copy.
pub async fn download(
    remote: &impl Remote,
    source: &str,
    target: &Path,
    options: &Options,
    watcher: Arc<dyn Watcher>,
) -> Result<(), CopyError> {
    let unpacker = Unpacker::new(target, options.preserve)?;
    let mut copy = Download {
        remote,
        source: source.to_owned(),
        target,
        options,
        watcher,
        local: Shared::new(LocalTree { unpacker, fault: None }),
        listed: None,
        began: Instant::now(),
    };
    let mut attempts = Attempts::new(options);
    let mut outcome = copy.run_attempts(&mut attempts).await?;
    if copy.local.lock().unpacker.root_is_link() {
        copy.source = resolve_link(remote, source, &mut attempts, &copy.watcher).await?;
        outcome = copy.run_attempts(&mut attempts).await?;
    }
    copy.conclude(outcome, &mut attempts).await
}

/// The local tree, which the session's stdout and the copy share.
struct LocalTree {
    unpacker: Unpacker,
    fault: Option<UnpackError>,
}

impl ReceivedItems for LocalTree {
    fn item(&self, path: &[u8]) -> Option<Item> {
        self.unpacker.item(path)
    }

    fn is_reported(&self, path: &[u8]) -> bool {
        self.unpacker.is_reported(path)
    }

    fn ends_in_zero(&self, path: &[u8]) -> bool {
        self.unpacker.ends_in_zero(path)
    }

    fn paths(&self) -> Vec<&Vec<u8>> {
        self.unpacker.paths().collect()
    }
}

struct Download<'a, R> {
    remote: &'a R,
    source: String,
    target: &'a Path,
    options: &'a Options,
    watcher: Arc<dyn Watcher>,
    local: Shared<LocalTree>,
    /// What the container had after the first loss.
    listed: Option<Listing>,
    began: Instant,
}

impl<R: Remote> Download<'_, R> {
    /// The bytes of files that were received.
    fn bytes(&self) -> u64 {
        self.local.lock().unpacker.received().values().map(|received| received.bytes).sum()
    }

    /// Receives the whole tree, in as many attempts as the options allow.
    async fn run_attempts(&mut self, attempts: &mut Attempts) -> Result<Outcome, CopyError> {
        let mut before = 0;
        let mut ended = self.first_attempt().await;
        loop {
            let error = match ended {
                Ok(outcome) => return Ok(outcome),
                Err(error) => error,
            };
            let bytes = self.bytes();
            attempts.retry_after(error, &self.watcher, before, bytes).await?;
            before = bytes;
            ended = self.next_attempt(attempts).await;
        }
    }

    async fn first_attempt(&self) -> Result<Outcome, CopyError> {
        self.watcher.total(None);
        let (words, root) = scripts::pack(&self.source);
        self.archive(words, &root, None, 1).await
    }

    /// Runs a further attempt, which receives only what is missing or has changed.
    async fn next_attempt(&mut self, attempts: &mut Attempts) -> Result<Outcome, CopyError> {
        let (dir, root) = scripts::split(&self.source);
        self.complete_unfinished(&dir, &root, attempts).await?;
        if self.listed.is_none() {
            match query_listing(self.remote, &dir, &root, None, attempts, &self.watcher).await? {
                Answer::Known(listed) => {
                    self.forget_what_changed(&listed);
                    self.watcher.total(Some(total(&listed)));
                    self.listed = Some(listed);
                }
                Answer::Unknown(why) => {
                    let note = format!("what there is cannot be told, all comes again: {why}");
                    self.watcher.note(&note);
                    self.watcher.position(0);
                    return self.first_attempt().await;
                }
            }
        }
        self.watcher.position(self.bytes());
        let (names, archives) = self.names(&root);
        if archives == 0 {
            return Ok(Outcome::Success);
        }
        let stdin: Stdin = Some(Box::new(io::Cursor::new(names)));
        self.archive(script(PACK_NAMED, &[&dir]), &root, stdin, archives).await
    }

    fn forget_what_changed(&self, listed: &Listing) {
        let unpacker = &mut self.local.lock().unpacker;
        let received: Vec<_> =
            unpacker.received().iter().map(|(path, received)| (path.clone(), *received)).collect();
        for (path, received) in received {
            let is_same = listed.items.get(&path).is_some_and(|(found, _)| {
                let has_its_time = found.mtime.is_none_or(|mtime| mtime == received.mtime);
                found.kind == ItemKind::File && found.size == received.size && has_its_time
            });
            if !is_same {
                unpacker.forget(&path);
            }
        }
    }

    async fn complete_unfinished(
        &self,
        dir: &str,
        root: &str,
        attempts: &mut Attempts,
    ) -> Result<(), CopyError> {
        let Some((path, received)) = self.local.lock().unpacker.unfinished() else { return Ok(()) };
        let Ok(name) = std::str::from_utf8(&path) else {
            self.local.lock().unpacker.forget(&path);
            return Ok(());
        };
        let name = if name.is_empty() { root.to_owned() } else { format!("{root}/{name}") };
        self.watcher.file(&path);
        let (local, watcher, to) = (self.local.clone(), self.watcher.clone(), path.clone());
        let mut known = usize::try_from(received.bytes % BLOCK_BYTES).unwrap_or(0);
        let stdout: Sink = Box::new(WriteFn(move |bytes: &[u8]| {
            let passed = known.min(bytes.len());
            known -= passed;
            let bytes = &bytes[passed..];
            watcher.bytes(bytes.len() as u64);
            local.lock().unpacker.append(&to, bytes)
        }));
        let (_, stderr) = bounded_sink(0);
        let words = scripts::rest_of_file(&format!("{dir}/{name}"), received.bytes / BLOCK_BYTES);
        let ended = outcome(self.remote.run(words, None, stdout, stderr).await, self.bytes());
        if let Err(error) = ended
            && error.is_loss()
        {
            return Err(error);
        }
        // The file may have changed, or the container may have no dd.
        let is_whole = self.local.lock().unpacker.unfinished().is_none();
        let is_same = is_whole && {
            let listed =
                query_listing(self.remote, dir, &name, None, attempts, &self.watcher).await?;
            let found = match &listed {
                Answer::Known(listed) => listed.items.get(&b""[..]),
                Answer::Unknown(_) => None,
            };
            found.is_some_and(|(found, _)| {
                let has_its_time = found.mtime.is_none_or(|mtime| mtime == received.mtime);
                found.size == received.size && has_its_time
            })
        };
        if !is_same {
            self.local.lock().unpacker.forget(&path);
        }
        Ok(())
    }

    /// Returns the names that are missing, one on a line with an empty line after each archive's,
    /// and the number of archives. A directory of which nothing is here is requested as a whole.
    fn names(&self, root: &str) -> (Vec<u8>, u64) {
        let unpacker = &mut self.local.lock().unpacker;
        let Some(listed) = &self.listed else { return (Vec::new(), 0) };
        let mut begun: BTreeSet<Vec<u8>> = BTreeSet::new();
        for path in unpacker.paths() {
            begun.extend(above(path).map(<[u8]>::to_vec));
        }
        let mut whole: BTreeSet<&[u8]> = BTreeSet::new();
        let (mut names, mut count) = (Vec::new(), 0);
        for (path, (item, mode)) in &listed.items {
            let is_with_another = above(path).any(|dir| whole.contains(dir));
            let is_known = unpacker.has(path) || unpacker.is_reported(path);
            if is_with_another || is_known || item.kind == ItemKind::Other {
                continue;
            }
            if item.kind == ItemKind::Directory {
                if begun.contains(path) {
                    unpacker.know_directory(path, *mode, item.mtime.unwrap_or(0));
                    continue;
                }
                whole.insert(path);
            }
            let name = [root.as_bytes(), b"/", path].concat();
            let name = name.strip_suffix(b"/").unwrap_or(&name);
            names.extend_from_slice(scripts::escaped(name).as_bytes());
            count += 1;
            if count % NAMES_PER_ARCHIVE == 0 {
                names.push(b'\n');
            }
        }
        if count % NAMES_PER_ARCHIVE != 0 {
            names.push(b'\n');
        }
        (names, count.div_ceil(NAMES_PER_ARCHIVE) as u64)
    }

    /// Runs tar, and unpacks its archives.
    async fn archive(
        &self,
        words: Vec<String>,
        root: &str,
        stdin: Stdin,
        archives: u64,
    ) -> Result<Outcome, CopyError> {
        let options = self.options;
        let filter = EntryFilter::new(root.as_bytes(), options.limits, options.symlinks);
        self.local.lock().unpacker.begin_many(filter, archives);
        let stderr = stderr_lines(&self.watcher);
        let (local, watcher, target) = (self.local.clone(), self.watcher.clone(), self.target);
        let target = target.to_string_lossy().into_owned();
        let stdout: Sink = Box::new(WriteFn(move |bytes: &[u8]| {
            let mut local = local.lock();
            let taken = local.unpacker.take(bytes, &mut |step| match step {
                Progress::File(name) => watcher.file(name),
                Progress::Bytes(count) => watcher.bytes(count as u64),
            });
            local.unpacker.problems().iter().for_each(|problem| watcher.problem(problem));
            if let Err(fault) = taken {
                local.fault = Some(fault);
                return Err(io::Error::other("the archive"));
            }
            if local.unpacker.is_file_for_a_directory() {
                return Err(io::Error::new(io::ErrorKind::IsADirectory, target.clone()));
            }
            Ok(())
        }));
        let ended = self.remote.run(words, stdin, stdout, stderr).await;
        if let Err(error) = ended {
            if self.local.lock().unpacker.is_file_for_a_directory() {
                let name = self.target.to_string_lossy().into_owned();
                return Err(CopyError::IsDirectory(name));
            }
            let fault = self.local.lock().fault.take();
            return Err(local_error(error, fault));
        }
        let outcome = outcome(ended, self.bytes())?;
        if self.local.lock().unpacker.finish().is_err() {
            return Err(match outcome {
                Outcome::Success => CopyError::Cut { retries: 0 },
                outcome => remote_failure(outcome, false),
            });
        }
        Ok(outcome)
    }

    async fn conclude(&self, outcome: Outcome, attempts: &mut Attempts) -> Result<(), CopyError> {
        let watcher = &self.watcher;
        let Judgement { grown, changed, .. } = self.judge(&outcome, attempts).await?;
        if self.options.verify {
            self.verify(&grown, attempts).await?;
        }
        let published = {
            let unpacker = &self.local.lock().unpacker;
            unpacker.took_something() && unpacker.paths().next().is_some()
        };
        self.publish().await?;
        let unpacker = &mut self.local.lock().unpacker;
        unpacker.problems().iter().for_each(|problem| watcher.problem(problem));
        if outcome != Outcome::Success {
            return Err(remote_failure(outcome, published));
        }
        match unpacker.failures() {
            _ if changed > 0 => Err(CopyError::Changed { files: changed, published }),
            0 if unpacker.took_something() => Ok(()),
            0 => Err(CopyError::Nothing),
            failures => Err(CopyError::Incomplete(failures)),
        }
    }

    /// Compares both sides, and removes files that are torn.
    async fn judge(
        &self,
        outcome: &Outcome,
        attempts: &mut Attempts,
    ) -> Result<Judgement, CopyError> {
        let (began, watcher) = (self.began.elapsed(), &self.watcher);
        let (remote, source) = (self.remote, &self.source);
        let listed = changed_files::final_listing(remote, source, began, attempts, watcher).await?;
        let suspects = changed_files::suspects(&*self.local.lock(), &listed, outcome, watcher)?;
        let (dir, root) = scripts::split(source);
        let place = [&*dir, &*root];
        let theirs =
            changed_files::prefix_sums(remote, place, &suspects.to_check, attempts, watcher)
                .await?;
        let unpacker = &mut self.local.lock().unpacker;
        let ours: Vec<_> =
            suspects.to_check.iter().map(|suspect| unpacker.sum(&suspect.path).ok()).collect();
        let judged = suspects.judge(&ours, &theirs, watcher);
        judged.torn.iter().for_each(|path| unpacker.forget(path));
        Ok(judged)
    }

    async fn publish(&self) -> Result<(), CopyError> {
        let local = self.local.clone();
        let writes_through = local.lock().unpacker.writes_to_special();
        let publish = move || local.lock().unpacker.publish();
        if !writes_through {
            return Ok(publish()?);
        }
        // Opening a pipe for writing waits for a reader.
        #[expect(clippy::disallowed_methods, reason = "it is waited for")]
        let published = tokio::task::spawn_blocking(publish).await;
        let fail = |error| CopyError::Local { path: self.target.to_owned(), error };
        Ok(published.map_err(|error| fail(io::Error::other(error)))??)
    }

    /// Compares sums of both sides, except of files that have grown: theirs were compared before.
    async fn verify(
        &self,
        grown: &BTreeSet<Vec<u8>>,
        attempts: &mut Attempts,
    ) -> Result<(), CopyError> {
        let (dir, root) = scripts::split(&self.source);
        let Some(theirs) = query_sums(self.remote, &dir, &root, attempts, &self.watcher).await?
        else {
            return Ok(());
        };
        let unpacker = &self.local.lock().unpacker;
        for path in unpacker.received().keys().filter(|path| !grown.contains(*path)) {
            let name = || String::from_utf8_lossy(path).into_owned();
            let ours = unpacker
                .sum(path)
                .map_err(|error| CopyError::Local { path: self.target.join(name()), error })?;
            match theirs.get(path) {
                Some(theirs) if *theirs == ours => {}
                Some(_) => return Err(CopyError::Unequal(name())),
                None => self.watcher.note(&format!("not verified: {:?}", name())),
            }
        }
        Ok(())
    }
}

/// Returns the directories above a path, from the root down; none for the root.
fn above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    let root = (!path.is_empty()).then_some(&path[..0]);
    root.into_iter().chain(slashes.map(|(at, _)| &path[..at]))
}

fn total(listed: &Listing) -> u64 {
    let files = listed.items.values().filter(|(item, _)| item.kind == ItemKind::File);
    files.map(|(item, _)| item.size).sum()
}
