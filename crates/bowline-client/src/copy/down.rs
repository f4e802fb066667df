//! Out of a container.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bowline_archive::filter::EntryFilter;
use bowline_archive::unpack::{Progress, UnpackError, Unpacker};
use bowline_archive::{Item, ItemKind};
use bowline_proto::session::Outcome;
use tokio::time::Instant;

use super::ask::{Answer, listed, resolved, summed};
use super::attempts::Attempts;
use super::capture::{Shared, complaints, failed, keep, outcome};
use super::compare::Received;
use super::error::own_end;
use super::listing::Listing;
use super::scripts::{self, BLOCK_BYTES, PACK_NAMED, script};
use super::whole::{self, Judgement};
use super::{CopyError, Options, Remote, Sink, Stdin, Watcher};
use crate::write_fn::WriteFn;

/// So many names are packed by one tar, whose words a system bounds.
const NAMES: usize = 200;

/// Copies what is at `source` in a container to `target` here.
///
/// # Errors
/// [`CopyError`].
pub async fn down(
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
        here: Shared::new(Here { unpacker, fault: None }),
        listed: None,
        began: Instant::now(),
    };
    let mut attempts = Attempts::new(options);
    let mut outcome = copy.attempts(&mut attempts).await?;
    if copy.here.lock().unpacker.root_is_link() {
        copy.source = resolved(remote, source, &mut attempts, &copy.watcher).await?;
        outcome = copy.attempts(&mut attempts).await?;
    }
    copy.conclude(outcome, &mut attempts).await
}

/// What the session's end and the copy both use.
struct Here {
    unpacker: Unpacker,
    fault: Option<UnpackError>,
}

impl Received for Here {
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
    here: Shared<Here>,
    /// What the container had when a connection was lost for the first time.
    listed: Option<Listing>,
    began: Instant,
}

impl<R: Remote> Download<'_, R> {
    /// Bytes of files that are here.
    fn bytes(&self) -> u64 {
        self.here.lock().unpacker.received().values().map(|had| had.bytes).sum()
    }

    /// Takes all of it, in as many attempts as it may.
    async fn attempts(&mut self, attempts: &mut Attempts) -> Result<Outcome, CopyError> {
        let mut before = 0;
        let mut ended = self.first().await;
        loop {
            let error = match ended {
                Ok(outcome) => return Ok(outcome),
                Err(error) => error,
            };
            let bytes = self.bytes();
            attempts.again(error, &self.watcher, before, bytes).await?;
            before = bytes;
            ended = self.again(attempts).await;
        }
    }

    async fn first(&self) -> Result<Outcome, CopyError> {
        self.watcher.total(None);
        let (words, root) = scripts::pack(&self.source);
        self.archive(words, &root, None, 1).await
    }

    /// Another attempt: of what is here and unchanged, nothing comes again.
    async fn again(&mut self, attempts: &mut Attempts) -> Result<Outcome, CopyError> {
        let (dir, root) = scripts::split(&self.source);
        self.rest_of_the_unfinished(&dir, &root, attempts).await?;
        if self.listed.is_none() {
            match listed(self.remote, &dir, &root, None, attempts, &self.watcher).await? {
                Answer::Known(listed) => {
                    self.forget_what_changed(&listed);
                    self.watcher.total(Some(total(&listed)));
                    self.listed = Some(listed);
                }
                Answer::Unknown(why) => {
                    let note = format!("what there is cannot be told, all comes again: {why}");
                    self.watcher.note(&note);
                    self.watcher.position(0);
                    return self.first().await;
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
        let unpacker = &mut self.here.lock().unpacker;
        let had: Vec<_> =
            unpacker.received().iter().map(|(path, had)| (path.clone(), *had)).collect();
        for (path, had) in had {
            let is_same = listed.items.get(&path).is_some_and(|(found, _)| {
                let has_its_time = found.mtime.is_none_or(|mtime| mtime == had.mtime);
                found.kind == ItemKind::File && found.size == had.size && has_its_time
            });
            if !is_same {
                unpacker.forget(&path);
            }
        }
    }

    async fn rest_of_the_unfinished(
        &self,
        dir: &str,
        root: &str,
        attempts: &mut Attempts,
    ) -> Result<(), CopyError> {
        let Some((path, had)) = self.here.lock().unpacker.unfinished() else { return Ok(()) };
        let Ok(name) = std::str::from_utf8(&path) else {
            self.here.lock().unpacker.forget(&path);
            return Ok(());
        };
        let name = if name.is_empty() { root.to_owned() } else { format!("{root}/{name}") };
        self.watcher.file(&path);
        let (here, watcher, to) = (self.here.clone(), self.watcher.clone(), path.clone());
        let mut known = usize::try_from(had.bytes % BLOCK_BYTES).unwrap_or(0);
        let stdout: Sink = Box::new(WriteFn(move |bytes: &[u8]| {
            let passed = known.min(bytes.len());
            known -= passed;
            let bytes = &bytes[passed..];
            watcher.bytes(bytes.len() as u64);
            here.lock().unpacker.append(&to, bytes)
        }));
        let (_, stderr) = keep(0);
        let words = scripts::rest_of(&format!("{dir}/{name}"), had.bytes / BLOCK_BYTES);
        let ended = outcome(self.remote.run(words, None, stdout, stderr).await, self.bytes());
        if let Err(error) = ended
            && error.is_loss()
        {
            return Err(error);
        }
        // It may have become shorter, or longer, or another one; or there is no dd.
        let is_whole = self.here.lock().unpacker.unfinished().is_none();
        let is_same = is_whole && {
            let listed = listed(self.remote, dir, &name, None, attempts, &self.watcher).await?;
            let found = match &listed {
                Answer::Known(listed) => listed.items.get(&b""[..]),
                Answer::Unknown(_) => None,
            };
            found.is_some_and(|(found, _)| {
                let has_its_time = found.mtime.is_none_or(|mtime| mtime == had.mtime);
                found.size == had.size && has_its_time
            })
        };
        if !is_same {
            self.here.lock().unpacker.forget(&path);
        }
        Ok(())
    }

    /// What has to come, a name on each line and an empty one behind those of each archive; and how
    /// many of these there are. A directory of which nothing is here comes with all that is in it.
    fn names(&self, root: &str) -> (Vec<u8>, u64) {
        let unpacker = &mut self.here.lock().unpacker;
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
            if count % NAMES == 0 {
                names.push(b'\n');
            }
        }
        if count % NAMES != 0 {
            names.push(b'\n');
        }
        (names, count.div_ceil(NAMES) as u64)
    }

    /// Runs tar, and takes what it packs.
    async fn archive(
        &self,
        words: Vec<String>,
        root: &str,
        stdin: Stdin,
        archives: u64,
    ) -> Result<Outcome, CopyError> {
        let options = self.options;
        let filter = EntryFilter::new(root.as_bytes(), options.limits, options.symlinks);
        self.here.lock().unpacker.begin_many(filter, archives);
        let stderr = complaints(&self.watcher);
        let (here, watcher, target) = (self.here.clone(), self.watcher.clone(), self.target);
        let target = target.to_string_lossy().into_owned();
        let stdout: Sink = Box::new(WriteFn(move |bytes: &[u8]| {
            let mut here = here.lock();
            let taken = here.unpacker.take(bytes, &mut |step| match step {
                Progress::File(name) => watcher.file(name),
                Progress::Bytes(count) => watcher.bytes(count as u64),
            });
            here.unpacker.problems().iter().for_each(|problem| watcher.problem(problem));
            if let Err(fault) = taken {
                here.fault = Some(fault);
                return Err(io::Error::other("the archive"));
            }
            if here.unpacker.is_file_for_a_directory() {
                return Err(io::Error::new(io::ErrorKind::IsADirectory, target.clone()));
            }
            Ok(())
        }));
        let ended = self.remote.run(words, stdin, stdout, stderr).await;
        if let Err(error) = ended {
            if self.here.lock().unpacker.is_file_for_a_directory() {
                let name = self.target.to_string_lossy().into_owned();
                return Err(CopyError::IsDirectory(name));
            }
            let fault = self.here.lock().fault.take();
            return Err(own_end(error, fault));
        }
        let outcome = outcome(ended, self.bytes())?;
        if self.here.lock().unpacker.finish().is_err() {
            return Err(match outcome {
                Outcome::Success => CopyError::Cut { retries: 0 },
                outcome => failed(outcome, false),
            });
        }
        Ok(outcome)
    }

    async fn conclude(&self, outcome: Outcome, attempts: &mut Attempts) -> Result<(), CopyError> {
        let watcher = &self.watcher;
        let Judgement { grown, changed, .. } = self.judged(&outcome, attempts).await?;
        if self.options.verify {
            self.verify(&grown, attempts).await?;
        }
        let published = {
            let unpacker = &self.here.lock().unpacker;
            unpacker.took_something() && unpacker.paths().next().is_some()
        };
        self.publish().await?;
        let unpacker = &mut self.here.lock().unpacker;
        unpacker.problems().iter().for_each(|problem| watcher.problem(problem));
        if outcome != Outcome::Success {
            return Err(failed(outcome, published));
        }
        match unpacker.failures() {
            _ if changed > 0 => Err(CopyError::Changed { files: changed, published }),
            0 if unpacker.took_something() => Ok(()),
            0 => Err(CopyError::Nothing),
            failures => Err(CopyError::Incomplete(failures)),
        }
    }

    /// Compares both sides, and forgets files that are not whole.
    async fn judged(
        &self,
        outcome: &Outcome,
        attempts: &mut Attempts,
    ) -> Result<Judgement, CopyError> {
        let (began, watcher) = (self.began.elapsed(), &self.watcher);
        let (remote, source) = (self.remote, &self.source);
        let listed = whole::listed_source(remote, source, began, attempts, watcher).await?;
        let suspects = whole::suspects(&*self.here.lock(), &listed, outcome, watcher)?;
        let (dir, root) = scripts::split(source);
        let place = [&*dir, &*root];
        let theirs = whole::beginnings(remote, place, &suspects.asked, attempts, watcher).await?;
        let unpacker = &mut self.here.lock().unpacker;
        let ours: Vec<_> =
            suspects.asked.iter().map(|suspect| unpacker.sum(&suspect.path).ok()).collect();
        let judged = suspects.judged(&ours, &theirs, watcher);
        judged.torn.iter().for_each(|path| unpacker.forget(path));
        Ok(judged)
    }

    async fn publish(&self) -> Result<(), CopyError> {
        let here = self.here.clone();
        let writes_through = here.lock().unpacker.writes_to_special();
        let publish = move || here.lock().unpacker.publish();
        if !writes_through {
            return Ok(publish()?);
        }
        // Whoever writes into a pipe may have to wait for a reader.
        #[expect(clippy::disallowed_methods, reason = "it is waited for")]
        let published = tokio::task::spawn_blocking(publish).await;
        let fail = |error| CopyError::Local { path: self.target.to_owned(), error };
        Ok(published.map_err(|error| fail(io::Error::other(error)))??)
    }

    /// Compares sums; those of files that have grown are known.
    async fn verify(
        &self,
        grown: &BTreeSet<Vec<u8>>,
        attempts: &mut Attempts,
    ) -> Result<(), CopyError> {
        let (dir, root) = scripts::split(&self.source);
        let Some(theirs) = summed(self.remote, &dir, &root, attempts, &self.watcher).await? else {
            return Ok(());
        };
        let unpacker = &self.here.lock().unpacker;
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

/// The directories that a path is in, but for itself: the root first, for all but the root.
fn above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    let root = (!path.is_empty()).then_some(&path[..0]);
    root.into_iter().chain(slashes.map(|(at, _)| &path[..at]))
}

fn total(listed: &Listing) -> u64 {
    let files = listed.items.values().filter(|(item, _)| item.kind == ItemKind::File);
    files.map(|(item, _)| item.size).sum()
}
