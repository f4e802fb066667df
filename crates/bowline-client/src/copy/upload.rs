//! Copies into a container.
//!
//! Each attempt has its own subdirectory of the staging directory, into which the tree of the one
//! before is moved. So a lost attempt that still runs, or begins late, finds nothing to overwrite:
//! only the file that it has open, into which it writes the same bytes at the same places.

use std::ffi::OsStr;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bowline_archive::pack::{Packer, Version, Versions, totals};
use bowline_archive::{ItemKind, quoted, sum};
use bowline_proto::session::Outcome;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::sync::CancellationToken;

use super::attempts::{Attempts, until_stopped};
use super::capture::{
    Shared, bounded_sink, outcome, remote_failure, run_captured, stderr_lines, text,
};
use super::compare::{Expected, compare_upload};
use super::error::and_more;
use super::listing::Listing;
use super::query::{Answer, query_listing, query_sums};
use super::scripts::{BLOCK_BYTES, WRITE, script};
use super::staging::{Published, Staging, TREE};
use super::throttle::throttled;
use super::{CopyError, Options, Remote, Stdin, Watcher};

/// A file of at least this size that was cut by a loss is sent by a command of its own, which can
/// continue where the file is cut again.
const RESUME_BYTES: u64 = 256 * 1024;

/// Copies what is at the local path `source` to `target` in a container; into it, if that is a
/// directory. If the path ends in `.` or `..`, the directory's content is copied into the target.
///
/// A future that is dropped may leave a directory `.bowline-cp-…` beside the target: cancel `stop`
/// instead, which removes it.
///
/// # Errors
/// [`CopyError`] if the target is not a complete copy.
pub async fn upload(
    remote: &impl Remote,
    source: &Path,
    target: &str,
    options: &Options,
    watcher: Arc<dyn Watcher>,
    stop: &CancellationToken,
) -> Result<(), CopyError> {
    // A link is followed, and keeps its name.
    let name = match source.as_os_str().as_bytes() {
        path if path.ends_with(b"/.") => None,
        _ => source.file_name(),
    };
    let Ok(source) = std::fs::canonicalize(source) else {
        return Err(CopyError::NoSource(source.to_owned()));
    };
    let mut attempts = Attempts::new(options);
    let staging = Staging::make(remote, target, name, &mut attempts, &watcher, stop).await?;
    let source = &source;
    let versions = Shared::new(Versions::new());
    let name = name.unwrap_or(source.as_os_str()).as_bytes().to_vec();
    let mut copy = Upload { remote, source, name, staging, number: 0, options, watcher, versions };
    let copied = until_stopped(stop, copy.run(&mut attempts)).await;
    if copied.as_ref().is_err_and(|error| !error.has_published()) {
        copy.staging.abandon(remote, &*copy.watcher).await;
    }
    copied
}

struct Upload<'a, R> {
    remote: &'a R,
    source: &'a Path,
    /// The source's name, to show.
    name: Vec<u8>,
    staging: Staging,
    /// The number of this attempt.
    number: u64,
    options: &'a Options,
    watcher: Arc<dyn Watcher>,
    /// The versions of files when they were sent, from which their part in the container is.
    versions: Shared<Versions>,
}

/// The outcome of the container's tar, and what the packer has sent to it.
struct TarResult {
    outcome: Outcome,
    failures: u64,
    torn: Vec<Vec<u8>>,
    links: u64,
    expected: Expected,
}

impl<R: Remote> Upload<'_, R> {
    async fn run(&mut self, attempts: &mut Attempts) -> Result<(), CopyError> {
        self.watcher.total(Some(totals(self.source).bytes));
        // What was sent may not have arrived: only a listing shows that.
        let (mut before, mut arrived) = (0, 0);
        let mut sent = 0;
        let mut ended = self.archive(Versions::new(), &mut sent).await;
        let ended = loop {
            let error = match ended {
                Ok(ended) => break ended,
                Err(error) => error,
            };
            attempts.retry_after(error, &self.watcher, before, arrived.max(sent.min(1))).await?;
            before = arrived;
            self.number += 1;
            ended = match self.existing(attempts, &mut arrived).await {
                Ok(existing) => self.archive(existing, &mut sent).await,
                Err(error) => Err(error),
            };
        };
        let failures = ended.failures;
        let TarResult { outcome, torn, links, mut expected, .. } = ended;
        let watcher = &self.watcher.clone();
        attempts.repeat(watcher, || self.remove(&torn)).await?;
        if outcome != Outcome::Success {
            // The rest is published, but a file that was cut, as by a full disk, must not be.
            let incomplete = self.incomplete(&mut expected, attempts).await?;
            attempts.repeat(watcher, || self.remove(&incomplete)).await?;
        }
        if links > 0 && self.options.preserve {
            attempts.repeat(watcher, || self.directories()).await?;
        }
        if outcome == Outcome::Success {
            self.compare(&expected, attempts).await?;
        }
        if self.options.verify {
            self.verify(&expected, attempts).await?;
        }
        self.publish(&expected, attempts).await?;
        let took_something = !expected.is_empty();
        if outcome != Outcome::Success {
            return Err(remote_failure(outcome, took_something));
        }
        match failures {
            0 if took_something => Ok(()),
            0 => Err(CopyError::Nothing),
            failures => Err(CopyError::Incomplete(failures)),
        }
    }

    async fn publish(&self, expected: &Expected, attempts: &mut Attempts) -> Result<(), CopyError> {
        let (watcher, preserve) = (&self.watcher, self.options.preserve);
        let number = self.number;
        let published =
            self.staging.publish(self.remote, number, preserve, attempts, watcher).await?;
        match published {
            Published::Compared => Ok(()),
            Published::Unconfirmed => {
                self.staging.compare(self.remote, expected, attempts, watcher).await
            }
        }
    }

    async fn archive(&self, existing: Versions, sent: &mut u64) -> Result<TarResult, CopyError> {
        let packer = Packer::new(self.source, TREE.as_bytes(), existing);
        let packing = Shared::new(packer);
        let packed = PackerInput {
            packer: packing.clone(),
            watcher: self.watcher.clone(),
            reported: 0,
            root: self.name.clone(),
            name: Vec::new(),
        };
        let stderr = stderr_lines(&self.watcher);
        let words = self.staging.unpack(self.number, self.options.preserve);
        let (stdin, stdout): (Stdin, _) = match self.number {
            0 => (Some(Box::new(packed)), bounded_sink(0).1),
            _ => {
                let (stdin, stdout) = throttled(packed, |_| ());
                (Some(Box::new(stdin)), stdout)
            }
        };
        let ended = self.remote.run(words, stdin, stdout, stderr).await;
        let mut packer = packing.lock();
        *sent = packer.position().1;
        self.versions.lock().extend(packer.sent().iter().map(|(path, was)| (path.clone(), *was)));
        let ended = outcome(ended, *sent)?;
        for problem in packer.problems() {
            self.watcher.problem(&problem);
        }
        // A tar may leave padding behind the archive's end unread, but nothing of the archive.
        if ended == Outcome::Success && !packer.is_over() {
            return Err(CopyError::Cut { retries: 0 });
        }
        let (failures, torn) = (packer.failures(), packer.torn().to_vec());
        let (links, expected) = (packer.symlinks(), packer.items());
        Ok(TarResult { outcome: ended, failures, torn, links, expected })
    }

    /// Sends the directories once more, to set their times after all else.
    async fn directories(&self) -> Result<(), CopyError> {
        let packer = Shared::new(Packer::directories(self.source, TREE.as_bytes()));
        let (watcher, root) = (self.watcher.clone(), self.name.clone());
        let name = Vec::new();
        let stdin: Stdin = Some(Box::new(PackerInput { packer, watcher, reported: 0, root, name }));
        run_captured(self.remote, self.staging.unpack(self.number, true), stdin, 0).await?;
        Ok(())
    }

    /// Returns the versions of files that earlier attempts have brought into the container. Files
    /// that were cut are completed, and those that have changed here since are removed there.
    async fn existing(
        &self,
        attempts: &mut Attempts,
        arrived: &mut u64,
    ) -> Result<Versions, CopyError> {
        let mut existing = Versions::new();
        let listed = match self.list(Some(self.number), attempts).await? {
            Answer::Known(listed) => listed,
            Answer::Unknown(why) => {
                self.watcher
                    .note(&format!("what has arrived cannot be told, all goes again: {why}"));
                self.watcher.position(0);
                return Ok(existing);
            }
        };
        let files = || listed.items.iter().filter(|(_, (item, _))| item.kind == ItemKind::File);
        *arrived = files().map(|(_, (item, _))| item.size).sum();
        self.watcher.position(*arrived);
        let (mut unfinished, mut stale) = (Vec::new(), Vec::new());
        for (path, (found, _)) in files() {
            let now = self.version(path);
            let was = self.versions.lock().get(path).copied();
            let Some(now) = now.filter(|now| was == Some(*now) && found.size <= now.size) else {
                stale.push(staged_name(path));
                continue;
            };
            let has_its_time = found.mtime == Some(now.modified.0) || !self.options.preserve;
            if found.size == now.size && has_its_time {
                existing.insert(path.clone(), now);
            } else if found.size > 0 || now.size >= RESUME_BYTES {
                unfinished.push((path.clone(), found.size, now));
            }
        }
        // Large files that were sent and of which nothing has arrived.
        let lost: Vec<_> =
            self.versions.lock().iter().map(|(path, now)| (path.clone(), *now)).collect();
        let is_lost = |path: &Vec<u8>, was: &Version| {
            was.size >= RESUME_BYTES && !listed.items.contains_key(path)
        };
        for (path, was) in lost.into_iter().filter(|(path, was)| is_lost(path, was)) {
            if self.version(&path) == Some(was) {
                unfinished.push((path, 0, was));
            }
        }
        self.remove(&stale).await?;
        for (path, from, now) in unfinished {
            if self.write(&path, from, now).await? {
                existing.insert(path, now);
            }
        }
        self.watcher.position(0);
        Ok(existing)
    }

    async fn list(
        &self,
        number: Option<u64>,
        attempts: &mut Attempts,
    ) -> Result<Answer<Listing>, CopyError> {
        let root = format!("./{}/{TREE}", self.number);
        let dir = &self.staging.path;
        query_listing(self.remote, dir, &root, number, attempts, &self.watcher).await
    }

    /// Returns the current version of a local file; `None` if there is no file at that path.
    fn version(&self, path: &[u8]) -> Option<Version> {
        let found = self.local_path(path).symlink_metadata().ok()?;
        found.is_file().then(|| Version::of(&found))
    }

    fn local_path(&self, path: &[u8]) -> PathBuf {
        if path.is_empty() {
            self.source.to_owned()
        } else {
            self.source.join(OsStr::from_bytes(path))
        }
    }

    /// Sends a file from byte `from` to its end. Returns whether it is complete now.
    async fn write(&self, path: &[u8], from: u64, version: Version) -> Result<bool, CopyError> {
        let name = staged_name(path);
        let Ok(name) = std::str::from_utf8(&name) else { return Ok(false) };
        let blocks = from / BLOCK_BYTES;
        let open = || -> io::Result<std::fs::File> {
            let mut file = std::fs::File::open(self.local_path(path))?;
            file.seek(SeekFrom::Start(blocks * BLOCK_BYTES))?;
            Ok(file)
        };
        let Ok(file) = open() else { return Ok(false) };
        let Ok(meta) = file.metadata() else { return Ok(false) };
        self.watcher.file(path);
        let (printed, most) = (Shared::new(Vec::new()), SCRIPT_OUTPUT_BYTES);
        let sink = printed.clone();
        let rest = FileRest {
            file: file.take(version.size - blocks * BLOCK_BYTES),
            watcher: self.watcher.clone(),
        };
        let (stdin, stdout) = throttled(rest, move |bytes| {
            let mut sink = sink.lock();
            let room = most - sink.len().min(most);
            sink.extend_from_slice(&bytes[..bytes.len().min(room)]);
        });
        let mode = format!("{:o}", meta.mode() & 0o7777);
        let (time, owner) = (meta.mtime().to_string(), format!("{}:{}", meta.uid(), meta.gid()));
        let (size, blocks) = (version.size.to_string(), blocks.to_string());
        let dir = self.staging.dir(self.number);
        let all = [&*dir, name, &*blocks, &*size, &*mode, &*time, &*owner];
        let words = script(WRITE, if self.options.preserve { &all } else { &all[..5] });
        let (stderr_text, stderr) = bounded_sink(SCRIPT_OUTPUT_BYTES);
        let ended = self.remote.run(words, Some(Box::new(stdin)), stdout, stderr).await;
        let ended = match outcome(ended, from) {
            Ok(ended) => ended,
            Err(CopyError::NoTar) => Outcome::Exited(127),
            Err(error) => return Err(error),
        };
        if self.version(path) != Some(version) {
            // The file has changed here, so its parts in the container may not fit.
            self.remove(&[name.as_bytes().to_vec()]).await?;
            return Ok(false);
        }
        if ended != Outcome::Success {
            let why = text(&stderr_text.lock());
            self.watcher.note(&format!("{name:?} goes again from its beginning: {ended:?} {why}"));
            return Ok(false);
        }
        // Some runtimes lose input and report success, so the script reports the size.
        let printed = text(&printed.lock());
        match printed.strip_prefix("begun\nend ").and_then(|size| size.parse::<u64>().ok()) {
            Some(size) if size == version.size => Ok(true),
            _ => Err(CopyError::Cut { retries: 0 }),
        }
    }

    /// Returns the files in the container whose size or time is not what was sent. What is missing
    /// or incomplete there is removed from `expected`: tar's stderr has the reasons.
    async fn incomplete(
        &self,
        expected: &mut Expected,
        attempts: &mut Attempts,
    ) -> Result<Vec<Vec<u8>>, CopyError> {
        let listed = match self.list(None, attempts).await? {
            Answer::Known(listed) if listed.is_whole => listed,
            Answer::Known(_) => {
                return Err(CopyError::NotWhole("which one cannot be told".to_owned()));
            }
            Answer::Unknown(why) => {
                return Err(CopyError::NotWhole(format!("which one cannot be told: {why}")));
            }
        };
        let mut incomplete = Vec::new();
        for (path, (found, _)) in &listed.items {
            if found.kind != ItemKind::File {
                continue;
            }
            let is_whole = expected.get(path).is_some_and(|sent| {
                // A time before 1970 is sent as 0.
                let its_time = sent.mtime.map(|mtime| mtime.max(0));
                let has_its_time =
                    found.mtime.is_none() || found.mtime == its_time || !self.options.preserve;
                sent.size == found.size && has_its_time
            });
            if !is_whole {
                incomplete.push(staged_name(path));
            }
        }
        let is_there = |path: &Vec<u8>| {
            listed.items.contains_key(path) && !incomplete.contains(&staged_name(path))
        };
        let mut missing = expected.keys().filter(|path| !is_there(path));
        if let Some(first) = missing.next() {
            // Some tars end at the first failure without a word about the rest.
            let others = and_more(missing.count() as u64);
            self.watcher.note(&format!("not copied: {}{others}", quoted(first)));
        }
        expected.retain(|path, _| is_there(path));
        Ok(incomplete)
    }

    async fn remove(&self, names: &[Vec<u8>]) -> Result<(), CopyError> {
        self.staging.remove(self.remote, self.number, names).await
    }

    /// Compares what was sent with what is in the staging directory.
    async fn compare(&self, expected: &Expected, attempts: &mut Attempts) -> Result<(), CopyError> {
        judge(expected, self.list(None, attempts).await?, &*self.watcher)
    }

    async fn verify(&self, expected: &Expected, attempts: &mut Attempts) -> Result<(), CopyError> {
        let (dir, root) = (&self.staging.path, format!("./{}/{TREE}", self.number));
        let Some(theirs) = query_sums(self.remote, dir, &root, attempts, &self.watcher).await?
        else {
            return Ok(());
        };
        let mut first = None;
        for (path, _) in expected.iter().filter(|(_, item)| item.kind == ItemKind::File) {
            let name = || String::from_utf8_lossy(path).into_owned();
            match (theirs.get(path), sum::sha256_of_file(&self.local_path(path))) {
                (Some(theirs), Ok(ours)) if *theirs == ours => {}
                (Some(_), Ok(_)) => {
                    first.get_or_insert_with(name);
                }
                (None, _) | (_, Err(_)) => {
                    self.watcher.note(&format!("not verified: {:?}", name()));
                }
            }
        }
        first.map_or(Ok(()), |name| Err(CopyError::Unequal(name)))
    }
}

/// The most bytes that are kept of the script's stdout and stderr.
const SCRIPT_OUTPUT_BYTES: usize = 256;

/// Judges what arrived by its listing, if there is one.
pub(super) fn judge(
    expected: &Expected,
    listed: Answer<Listing>,
    watcher: &dyn Watcher,
) -> Result<(), CopyError> {
    match listed {
        Answer::Unknown(why) => watcher.note(&not_compared(&why)),
        Answer::Known(listed) => {
            let found = compare_upload(expected, &listed);
            if let Some(failure) = found.failure(false) {
                return Err(failure);
            }
            if let Some(name) = found.unknown {
                watcher.note(&not_compared(&format!("{name} cannot be looked at")));
            }
        }
    }
    Ok(())
}

/// Returns the notice that both sides cannot be compared.
pub(super) fn not_compared(why: &str) -> String {
    format!("names and sizes were not compared: {why}")
}

/// Returns a path's name below the subdirectory of an attempt.
pub(super) fn staged_name(path: &[u8]) -> Vec<u8> {
    if path.is_empty() { TREE.into() } else { [TREE.as_bytes(), b"/", path].concat() }
}

/// A packer as a session's input. Files are read in the caller's task: reads of local files are
/// fast, and waking a thread for each costs more.
struct PackerInput {
    packer: Shared<Packer>,
    watcher: Arc<dyn Watcher>,
    reported: u64,
    /// The local name of the root, to show.
    root: Vec<u8>,
    name: Vec<u8>,
}

impl AsyncRead for PackerInput {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut packer = this.packer.lock();
        fill(&mut *packer, buffer)?;
        let (name, bytes) = packer.position();
        if *name != this.name[..] {
            this.name = name.to_vec();
            this.watcher.file(&[&this.root, &name[TREE.len().min(name.len())..]].concat());
        }
        this.watcher.bytes(bytes - this.reported);
        this.reported = bytes;
        Poll::Ready(Ok(()))
    }
}

fn fill(source: &mut impl Read, buffer: &mut ReadBuf<'_>) -> io::Result<usize> {
    let length = source.read(buffer.initialize_unfilled())?;
    buffer.advance(length);
    Ok(length)
}

/// The rest of a file as a session's input.
struct FileRest {
    file: io::Take<std::fs::File>,
    watcher: Arc<dyn Watcher>,
}

impl AsyncRead for FileRest {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let length = fill(&mut this.file, buffer)?;
        this.watcher.bytes(length as u64);
        Poll::Ready(Ok(()))
    }
}
