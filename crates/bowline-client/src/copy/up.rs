//! Into a container.
//!
//! Each attempt has a directory of its own in the place, into which the tree comes from the one
//! before. So what still runs of an attempt that was lost, or begins late, finds nothing that it
//! could write over: only the file that it has open, into which it writes what belongs there.

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

use super::ask::{Answer, listed, summed};
use super::attempts::{Attempts, unless};
use super::capture::{Shared, captured, complaints, failed, keep, outcome, text};
use super::compare::{Expected, sent};
use super::error::and_more;
use super::listing::Listing;
use super::scripts::{BLOCK_BYTES, WRITE, script};
use super::staging::{Published, Staging, TREE};
use super::throttle::throttled;
use super::{CopyError, Options, Remote, Stdin, Watcher};

/// A file that is at least so long, and was on its way when a connection was lost, goes by itself:
/// then it is gone on with where it is cut the next time.
const PIECE_BYTES: u64 = 256 * 1024;

/// Copies what is at `source` here to `target` in a container: into it, if that is a directory.
/// Of a path that ends in `.` or `..`, what is in it comes there.
///
/// # Errors
/// [`CopyError`].
pub async fn up(
    remote: &impl Remote,
    source: &Path,
    target: &str,
    options: &Options,
    watcher: Arc<dyn Watcher>,
    stop: &CancellationToken,
) -> Result<(), CopyError> {
    // What a link leads to, under the link's name.
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
    let shown = name.unwrap_or(source.as_os_str()).as_bytes().to_vec();
    let mut copy = Upload { remote, source, shown, staging, number: 0, options, watcher, versions };
    let copied = unless(stop, copy.all(&mut attempts)).await;
    if copied.as_ref().is_err_and(|error| !error.is_of_a_copy_that_is_there()) {
        copy.staging.abandon(remote, &*copy.watcher).await;
    }
    copied
}

struct Upload<'a, R> {
    remote: &'a R,
    source: &'a Path,
    /// What the source is called.
    shown: Vec<u8>,
    staging: Staging,
    /// Of this attempt.
    number: u64,
    options: &'a Options,
    watcher: Arc<dyn Watcher>,
    /// What files were when they were sent. What is there of one has no other beginning.
    versions: Shared<Versions>,
}

/// How tar ended, and what of this side's files it did not get as they are.
struct TarEnded {
    outcome: Outcome,
    failures: u64,
    torn: Vec<Vec<u8>>,
    links: u64,
    expected: Expected,
}

impl<R: Remote> Upload<'_, R> {
    async fn all(&mut self, attempts: &mut Attempts) -> Result<(), CopyError> {
        self.watcher.total(Some(totals(self.source).bytes));
        // What was sent may still be on the way: what has arrived is known by looking.
        let (mut before, mut arrived) = (0, 0);
        let mut sent = 0;
        let mut ended = self.archive(Versions::new(), &mut sent).await;
        let ended = loop {
            let error = match ended {
                Ok(ended) => break ended,
                Err(error) => error,
            };
            attempts.again(error, &self.watcher, before, arrived.max(sent.min(1))).await?;
            before = arrived;
            self.number += 1;
            ended = match self.there(attempts, &mut arrived).await {
                Ok(there) => self.archive(there, &mut sent).await,
                Err(error) => Err(error),
            };
        };
        let failures = ended.failures;
        let TarEnded { outcome, torn, links, mut expected, .. } = ended;
        let watcher = &self.watcher.clone();
        attempts.of(watcher, || self.remove(&torn)).await?;
        if outcome != Outcome::Success {
            // The rest is copied; what was cut short by a full disk must not look complete.
            let cut = self.cut(&mut expected, attempts).await?;
            attempts.of(watcher, || self.remove(&cut)).await?;
        }
        if links > 0 && self.options.preserve {
            attempts.of(watcher, || self.directories()).await?;
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
            return Err(failed(outcome, took_something));
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
            Published::AsCompared => Ok(()),
            Published::NotSure => {
                self.staging.compare(self.remote, expected, attempts, watcher).await
            }
        }
    }

    async fn archive(&self, there: Versions, sent: &mut u64) -> Result<TarEnded, CopyError> {
        let packer = Packer::new(self.source, TREE.as_bytes(), there);
        let packing = Shared::new(packer);
        let packed = Packing {
            packer: packing.clone(),
            watcher: self.watcher.clone(),
            told: 0,
            root: self.shown.clone(),
            name: Vec::new(),
        };
        let stderr = complaints(&self.watcher);
        let words = self.staging.unpack(self.number, self.options.preserve);
        let (stdin, stdout): (Stdin, _) = match self.number {
            0 => (Some(Box::new(packed)), keep(0).1),
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
        // A tar that has enough may leave the rest of its input unread, but not of the archive.
        if ended == Outcome::Success && !packer.is_over() {
            return Err(CopyError::Cut { retries: 0 });
        }
        let (failures, torn) = (packer.failures(), packer.torn().to_vec());
        let (links, expected) = (packer.symlinks(), packer.items());
        Ok(TarEnded { outcome: ended, failures, torn, links, expected })
    }

    /// Gives directories their times once more.
    async fn directories(&self) -> Result<(), CopyError> {
        let packer = Shared::new(Packer::directories(self.source, TREE.as_bytes()));
        let (watcher, root) = (self.watcher.clone(), self.shown.clone());
        let name = Vec::new();
        let stdin: Stdin = Some(Box::new(Packing { packer, watcher, told: 0, root, name }));
        captured(self.remote, self.staging.unpack(self.number, true), stdin, 0).await?;
        Ok(())
    }

    /// What is in the container of earlier attempts; the files that were cut are written to their
    /// ends, and what has changed here since is removed there.
    async fn there(
        &self,
        attempts: &mut Attempts,
        arrived: &mut u64,
    ) -> Result<Versions, CopyError> {
        let mut there = Versions::new();
        let listed = match self.list(Some(self.number), attempts).await? {
            Answer::Known(listed) => listed,
            Answer::Unknown(why) => {
                self.watcher
                    .note(&format!("what has arrived cannot be told, all goes again: {why}"));
                self.watcher.position(0);
                return Ok(there);
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
                stale.push(named(path));
                continue;
            };
            let has_its_time = found.mtime == Some(now.modified.0) || !self.options.preserve;
            if found.size == now.size && has_its_time {
                there.insert(path.clone(), now);
            } else if found.size > 0 || now.size >= PIECE_BYTES {
                unfinished.push((path.clone(), found.size, now));
            }
        }
        // What was on its way to where nothing has come of it.
        let lost: Vec<_> =
            self.versions.lock().iter().map(|(path, now)| (path.clone(), *now)).collect();
        let is_lost = |path: &Vec<u8>, was: &Version| {
            was.size >= PIECE_BYTES && !listed.items.contains_key(path)
        };
        for (path, was) in lost.into_iter().filter(|(path, was)| is_lost(path, was)) {
            if self.version(&path) == Some(was) {
                unfinished.push((path, 0, was));
            }
        }
        self.remove(&stale).await?;
        for (path, from, now) in unfinished {
            if self.write(&path, from, now).await? {
                there.insert(path, now);
            }
        }
        self.watcher.position(0);
        Ok(there)
    }

    async fn list(
        &self,
        number: Option<u64>,
        attempts: &mut Attempts,
    ) -> Result<Answer<Listing>, CopyError> {
        let root = format!("./{}/{TREE}", self.number);
        let dir = &self.staging.path;
        listed(self.remote, dir, &root, number, attempts, &self.watcher).await
    }

    /// A file's state here; `None` if there is none of that path.
    fn version(&self, path: &[u8]) -> Option<Version> {
        let found = self.here(path).symlink_metadata().ok()?;
        found.is_file().then(|| Version::of(&found))
    }

    fn here(&self, path: &[u8]) -> PathBuf {
        if path.is_empty() {
            self.source.to_owned()
        } else {
            self.source.join(OsStr::from_bytes(path))
        }
    }

    /// Writes a file from so many bytes on to its end; whether all of it is there now.
    async fn write(&self, path: &[u8], from: u64, version: Version) -> Result<bool, CopyError> {
        let name = named(path);
        let Ok(name) = std::str::from_utf8(&name) else { return Ok(false) };
        let blocks = from / BLOCK_BYTES;
        let open = || -> io::Result<std::fs::File> {
            let mut file = std::fs::File::open(self.here(path))?;
            file.seek(SeekFrom::Start(blocks * BLOCK_BYTES))?;
            Ok(file)
        };
        let Ok(file) = open() else { return Ok(false) };
        let Ok(meta) = file.metadata() else { return Ok(false) };
        self.watcher.file(path);
        let (said, keeper) = (Shared::new(Vec::new()), COMPLAINED);
        let heard = said.clone();
        let plain = Plain {
            file: file.take(version.size - blocks * BLOCK_BYTES),
            watcher: self.watcher.clone(),
        };
        let (stdin, stdout) = throttled(plain, move |bytes| {
            let mut heard = heard.lock();
            let room = keeper - heard.len().min(keeper);
            heard.extend_from_slice(&bytes[..bytes.len().min(room)]);
        });
        let mode = format!("{:o}", meta.mode() & 0o7777);
        let (time, owner) = (meta.mtime().to_string(), format!("{}:{}", meta.uid(), meta.gid()));
        let (size, blocks) = (version.size.to_string(), blocks.to_string());
        let dir = self.staging.dir(self.number);
        let all = [&*dir, name, &*blocks, &*size, &*mode, &*time, &*owner];
        let words = script(WRITE, if self.options.preserve { &all } else { &all[..5] });
        let (complaint, stderr) = keep(COMPLAINED);
        let ended = self.remote.run(words, Some(Box::new(stdin)), stdout, stderr).await;
        let ended = match outcome(ended, from) {
            Ok(ended) => ended,
            Err(CopyError::NoTar) => Outcome::Exited(127),
            Err(error) => return Err(error),
        };
        if self.version(path) != Some(version) {
            // To what is there now this end may not belong.
            self.remove(&[name.as_bytes().to_vec()]).await?;
            return Ok(false);
        }
        if ended != Outcome::Success {
            let why = text(&complaint.lock());
            self.watcher.note(&format!("{name:?} goes again from its beginning: {ended:?} {why}"));
            return Ok(false);
        }
        // Nothing is believed without a count: some runtimes lose input and call it a success.
        let said = text(&said.lock());
        match said.strip_prefix("begun\nend ").and_then(|size| size.parse::<u64>().ok()) {
            Some(size) if size == version.size => Ok(true),
            _ => Err(CopyError::Cut { retries: 0 }),
        }
    }

    /// Files in the container that are not as long, or not as old, as they were here. What was not
    /// sent, or is not there, is not expected any more: tar has said why.
    async fn cut(
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
        let mut cut = Vec::new();
        for (path, (found, _)) in &listed.items {
            if found.kind != ItemKind::File {
                continue;
            }
            let is_whole = expected.get(path).is_some_and(|sent| {
                // A time before 1970 does not travel.
                let its_time = sent.mtime.map(|mtime| mtime.max(0));
                let has_its_time =
                    found.mtime.is_none() || found.mtime == its_time || !self.options.preserve;
                sent.size == found.size && has_its_time
            });
            if !is_whole {
                cut.push(named(path));
            }
        }
        let is_there =
            |path: &Vec<u8>| listed.items.contains_key(path) && !cut.contains(&named(path));
        let mut missing = expected.keys().filter(|path| !is_there(path));
        if let Some(first) = missing.next() {
            // Some tars end at the first failure, and say nothing of the rest.
            let others = and_more(missing.count() as u64);
            self.watcher.note(&format!("not copied: {}{others}", quoted(first)));
        }
        expected.retain(|path, _| is_there(path));
        Ok(cut)
    }

    async fn remove(&self, names: &[Vec<u8>]) -> Result<(), CopyError> {
        self.staging.remove(self.remote, self.number, names).await
    }

    /// Whether all that was sent is there.
    async fn compare(&self, expected: &Expected, attempts: &mut Attempts) -> Result<(), CopyError> {
        match self.list(None, attempts).await? {
            Answer::Unknown(why) => self.watcher.note(&not_compared(&why)),
            Answer::Known(listed) => {
                let found = sent(expected, &listed);
                if let Some(failure) = found.failure(false) {
                    return Err(failure);
                }
                if let Some(name) = found.unknown {
                    self.watcher.note(&not_compared(&format!("{name} cannot be looked at")));
                }
            }
        }
        Ok(())
    }

    async fn verify(&self, expected: &Expected, attempts: &mut Attempts) -> Result<(), CopyError> {
        let (dir, root) = (&self.staging.path, format!("./{}/{TREE}", self.number));
        let Some(theirs) = summed(self.remote, dir, &root, attempts, &self.watcher).await? else {
            return Ok(());
        };
        let mut first = None;
        for (path, _) in expected.iter().filter(|(_, item)| item.kind == ItemKind::File) {
            let name = || String::from_utf8_lossy(path).into_owned();
            match (theirs.get(path), sum::sha256_of_file(&self.here(path))) {
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

/// Of what a script says, so much is kept.
const COMPLAINED: usize = 256;

/// What is said where two sides cannot be compared.
pub(super) fn not_compared(why: &str) -> String {
    format!("names and sizes were not compared: {why}")
}

/// A path below the root as a name below the directory of an attempt.
pub(super) fn named(path: &[u8]) -> Vec<u8> {
    if path.is_empty() { TREE.into() } else { [TREE.as_bytes(), b"/", path].concat() }
}

/// An archive as a session's input. Files are read where they are wanted: they are there, and no
/// thread has to be woken for them.
struct Packing {
    packer: Shared<Packer>,
    watcher: Arc<dyn Watcher>,
    told: u64,
    /// What the root is called here.
    root: Vec<u8>,
    name: Vec<u8>,
}

impl AsyncRead for Packing {
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
        this.watcher.bytes(bytes - this.told);
        this.told = bytes;
        Poll::Ready(Ok(()))
    }
}

fn fill(source: &mut impl Read, buffer: &mut ReadBuf<'_>) -> io::Result<usize> {
    let length = source.read(buffer.initialize_unfilled())?;
    buffer.advance(length);
    Ok(length)
}

/// The rest of a file as a session's input.
struct Plain {
    file: io::Take<std::fs::File>,
    watcher: Arc<dyn Watcher>,
}

impl AsyncRead for Plain {
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
