//! Entries to files in a staging directory that no path leads out of, and from there to the target
//! once all of them are there.
//!
//! The staging directory is beside the target, or in it if that is a directory. What an earlier
//! attempt has unpacked may stay, so that it need not be sent again.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions};
use rustix::fs::{Mode, fchmod, futimens};
use thiserror::Error;

use crate::Problem;
use crate::destination::{self, Destination};
use crate::filter::{ENTRY_BYTES, EntryFilter, KEPT_BYTES, Refused, Verdict};
use crate::merge::{sweep, times};
use crate::reader::{Entry, EntryKind, Event, Fault, Reader};

/// The tree's name in the staging directory.
const TREE: &str = "tree";
/// The most problems that are reported one by one.
const MAX_PROBLEMS: usize = 1000;

/// Why nothing more can be unpacked.
#[derive(Debug, Error)]
pub enum UnpackError {
    /// The bytes are no archive, or end too early.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The rest of the archive is refused.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The target or the staging directory cannot be used.
    #[error("{}: {error}", path.display())]
    Io {
        /// The path that cannot be used.
        path: PathBuf,
        /// The system's error.
        #[source]
        error: io::Error,
    },
}

/// A file that has been unpacked, in whole or in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The file's size in the archive.
    pub size: u64,
    /// The file's time in the archive, in seconds since 1970.
    pub mtime: i64,
    /// The file's permissions in the archive.
    pub mode: u32,
    /// The bytes of the file that have been unpacked.
    pub bytes: u64,
}

impl Received {
    /// Whether the file is complete.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.bytes == self.size
    }

    /// Sets a file's permissions and time to those of the archive.
    fn set_attributes(&self, file: &impl AsFd) -> io::Result<()> {
        fchmod(file, Mode::from_raw_mode(self.mode & 0o777))?;
        Ok(futimens(file, &times(self.mtime))?)
    }
}

/// A step of unpacking, to show progress.
#[derive(Debug)]
pub enum Progress<'a> {
    /// The file of this name begins.
    File(&'a [u8]),
    /// This many bytes of the current file were unpacked.
    Bytes(usize),
}

/// Unpacks a tree in one attempt or several, and gives it the target's name at the end.
#[derive(Debug)]
pub struct Unpacker {
    destination: Destination,
    staging: PathBuf,
    /// Why the staging directory is neither beside the target nor in it, if that is so.
    fallback_reason: Option<io::Error>,
    /// The staging directory's handle.
    dir: Dir,
    preserve: bool,
    reader: Reader,
    filter: Option<EntryFilter>,
    current: Option<Current>,
    /// Complete files and the one that was cut, by their paths below the root.
    received: BTreeMap<Vec<u8>, Received>,
    directories: BTreeMap<Vec<u8>, (u32, i64)>,
    symlinks: BTreeMap<Vec<u8>, (Vec<u8>, i64)>,
    /// Paths of which a problem was reported and nothing has been unpacked.
    reported: BTreeSet<Vec<u8>>,
    /// The memory that all these names take.
    kept: u64,
    /// The root is a symbolic link, whose target has to be requested.
    root_is_link: bool,
    problems: Vec<Problem>,
    problem_count: usize,
    failures: u64,
    took_something: bool,
    /// The tree is a file, and the target a directory.
    replaces_a_directory: bool,
}

/// The entry whose data is being read.
#[derive(Debug)]
struct Current {
    path: Vec<u8>,
    /// `None` if the entry is skipped.
    file: Option<File>,
    received: Received,
}

impl Unpacker {
    /// Creates an unpacker of a tree that is to have the name `target`, and its staging directory.
    /// Missing directories above the target are created. `preserve` keeps modes and times.
    ///
    /// # Errors
    /// [`UnpackError::Io`] if the target cannot be looked at, or no staging directory can be made.
    pub fn new(target: &Path, preserve: bool) -> Result<Unpacker, UnpackError> {
        let fail = |path: &Path| {
            let path = path.to_owned();
            |error| UnpackError::Io { path, error }
        };
        let destination = Destination::of(target).map_err(fail(target))?;
        let (staging, fallback_reason) = destination::create_staging(&destination)
            .map_err(|(path, error)| UnpackError::Io { path, error })?;
        let dir = Dir::open_ambient_dir(&staging, ambient_authority()).map_err(fail(&staging))?;
        Ok(Unpacker {
            destination,
            staging,
            fallback_reason,
            dir,
            preserve,
            reader: Reader::default(),
            filter: None,
            current: None,
            received: BTreeMap::new(),
            directories: BTreeMap::new(),
            symlinks: BTreeMap::new(),
            reported: BTreeSet::new(),
            kept: 0,
            root_is_link: false,
            problems: Vec::new(),
            problem_count: 0,
            failures: 0,
            took_something: false,
            replaces_a_directory: false,
        })
    }

    /// Begins an archive: the first one, or that of another attempt.
    pub fn begin(&mut self, filter: EntryFilter) {
        self.begin_many(filter, 1);
    }

    /// Begins several archives of the tree, one behind the other.
    pub fn begin_many(&mut self, filter: EntryFilter, archives: u64) {
        self.close_current();
        self.reader = Reader::of_many(archives);
        let staging = self.staging.file_name().unwrap_or_default();
        self.filter = Some(filter.with_staging(staging.as_bytes()));
        self.root_is_link = false;
    }

    /// Whether the requested path is a symbolic link, which was not taken.
    #[must_use]
    pub fn root_is_link(&self) -> bool {
        self.root_is_link
    }

    /// Adds a directory that an earlier attempt has created and this one does not send again.
    pub fn know_directory(&mut self, path: &[u8], mode: u32, mtime: i64) {
        self.directories.entry(path.to_vec()).or_insert((mode, mtime));
    }

    /// The files that have been unpacked, by paths below the root.
    #[must_use]
    pub fn received(&self) -> &BTreeMap<Vec<u8>, Received> {
        &self.received
    }

    /// Removes a file, because it is gone or another one at its source.
    pub fn forget(&mut self, path: &[u8]) {
        self.received.remove(path);
        let _ = self.dir.remove_file(self.inside(path));
    }

    /// The file that was cut short, if there is one; [`append`](Self::append) continues it.
    #[must_use]
    pub fn unfinished(&self) -> Option<(Vec<u8>, Received)> {
        let found = self.received.iter().find(|(_, received)| !received.is_whole());
        found.map(|(path, received)| (path.clone(), *received))
    }

    /// Continues a file that was cut short.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] for an unknown path, [`io::ErrorKind::InvalidData`] if there are
    /// more bytes than are missing, and the system's error if they cannot be written.
    pub fn append(&mut self, path: &[u8], bytes: &[u8]) -> io::Result<()> {
        let inside = self.inside(path);
        let Some(received) = self.received.get_mut(path) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        if received.bytes + bytes.len() as u64 > received.size {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut file = self.dir.open_with(inside, OpenOptions::new().append(true))?;
        file.write_all(bytes)?;
        received.bytes += bytes.len() as u64;
        if received.is_whole() && self.preserve {
            received.set_attributes(&file)?;
        }
        Ok(())
    }

    /// Unpacks the archive's next bytes. `show` gets each step.
    ///
    /// # Errors
    /// [`UnpackError`] if the archive is damaged or refused. Nothing more of it may be taken then.
    pub fn take(
        &mut self,
        mut bytes: &[u8],
        show: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(), UnpackError> {
        loop {
            let event = self.reader.next_event(&mut bytes)?;
            if let Some(filter) = &mut self.filter {
                filter.headers(self.reader.headers())?;
            }
            let Some(event) = event else { break };
            match event {
                Event::Entry(entry) => self.entry(&entry, show)?,
                Event::Data(bytes) => {
                    show(Progress::Bytes(bytes.len()));
                    self.data(bytes);
                }
                Event::Whole => self.whole(),
                Event::End => {}
            }
        }
        Ok(())
    }

    /// Checks, once no more bytes will come, that the archive is complete.
    ///
    /// # Errors
    /// [`Fault::Truncated`] if the archive's end was not read, or the earlier fault.
    pub fn finish(&mut self) -> Result<(), UnpackError> {
        Ok(self.reader.finish()?)
    }

    /// Takes the problems with single entries so far.
    pub fn problems(&mut self) -> Vec<Problem> {
        std::mem::take(&mut self.problems)
    }

    /// The number of requested entries that could not be unpacked.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures
    }

    fn problem(&mut self, problem: Problem) {
        self.failures += u64::from(problem.is_failure);
        self.problem_count += 1;
        if self.problem_count < MAX_PROBLEMS {
            self.problems.push(problem);
        } else if self.problem_count == MAX_PROBLEMS {
            let text = "what is wrong with other entries is not shown".to_owned();
            self.problems.push(Problem { text, is_failure: false });
        }
    }

    fn fail(&mut self, path: &[u8], error: &io::Error) {
        self.reported.insert(path.to_vec());
        self.problem(Problem::failure(path, error_text(error)));
    }

    fn inside(&self, path: &[u8]) -> PathBuf {
        let tree = Path::new(TREE);
        if path.is_empty() { tree.to_owned() } else { tree.join(OsStr::from_bytes(path)) }
    }

    fn entry(
        &mut self,
        entry: &Entry,
        show: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(), UnpackError> {
        let Some(filter) = &mut self.filter else { return Ok(()) };
        let received =
            Received { size: entry.size, mtime: entry.mtime, mode: entry.mode, bytes: 0 };
        let mut current = Current { path: Vec::new(), file: None, received };
        if entry.kind == EntryKind::Symlink
            && filter.path(&entry.name).is_some_and(|p| p.is_empty())
        {
            // Its target is requested next, so this is no problem. Nothing may come below it.
            filter.judge(entry)?;
            self.root_is_link = true;
            self.current = Some(current);
            return Ok(());
        }
        match filter.judge(entry)? {
            Verdict::Skip(problem) => {
                if let Some(path) = filter.path(&entry.name) {
                    self.keep(&path, 0)?;
                    self.reported.insert(path);
                }
                self.problem(problem);
            }
            Verdict::Take(path) => {
                self.keep(&path, entry.link.len())?;
                self.took_something = true;
                self.reported.remove(&path);
                let taken = match entry.kind {
                    EntryKind::Directory => self.directory(&path, entry),
                    EntryKind::Symlink => {
                        self.symlinks.insert(path.clone(), (entry.link.clone(), entry.mtime));
                        Ok(())
                    }
                    EntryKind::HardLink => self.hard_link(&path, entry),
                    _ => {
                        show(Progress::File(&entry.name));
                        self.replaces_a_directory |=
                            path.is_empty() && self.destination.path().is_dir();
                        self.create(&path).map(|file| {
                            self.received.insert(path.clone(), received);
                            current.file = Some(file);
                        })
                    }
                };
                if let Err(error) = taken {
                    self.fail(&path, &error);
                }
                current.path = path;
            }
        }
        self.current = Some(current);
        Ok(())
    }

    /// Counts the memory that keeping a name takes, which a limit of entries does not bound.
    fn keep(&mut self, path: &[u8], more: usize) -> Result<(), Refused> {
        if self.item(path).is_none() && !self.reported.contains(path) {
            self.kept += (path.len() + more) as u64 + ENTRY_BYTES;
        }
        if self.kept > KEPT_BYTES { Err(Refused::Names(KEPT_BYTES)) } else { Ok(()) }
    }

    fn create(&mut self, path: &[u8]) -> io::Result<File> {
        let inside = self.inside(path);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        let again = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => {
                if let Some(parent) = inside.parent() {
                    self.dir.create_dir_all(parent)?;
                }
                self.dir.open_with(&inside, &options)
            }
            // Left of an earlier attempt: it has changed since, or that could not be excluded.
            io::ErrorKind::AlreadyExists => {
                self.dir.remove_file(&inside)?;
                self.dir.open_with(&inside, &options)
            }
            _ => Err(error),
        };
        self.dir.open_with(&inside, &options).or_else(again).map(cap_std::fs::File::into_std)
    }

    fn data(&mut self, bytes: &[u8]) {
        let Some(current) = &mut self.current else { return };
        let Some(file) = &mut current.file else { return };
        match file.write_all(bytes) {
            Ok(()) => {
                current.received.bytes += bytes.len() as u64;
                if let Some(received) = self.received.get_mut(&current.path) {
                    received.bytes = current.received.bytes;
                }
            }
            Err(error) => {
                current.file = None;
                let path = current.path.clone();
                self.forget(&path);
                self.fail(&path, &error);
            }
        }
    }

    fn whole(&mut self) {
        let Some(Current { file: Some(file), received, path }) = self.current.take() else {
            return;
        };
        if self.preserve
            && let Err(error) = received.set_attributes(&file)
        {
            self.fail(&path, &error);
        }
    }

    /// Closes the file that an attempt has left unfinished.
    fn close_current(&mut self) {
        self.current = None;
    }

    fn directory(&mut self, path: &[u8], entry: &Entry) -> io::Result<()> {
        let inside = self.inside(path);
        match self.dir.create_dir(&inside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.dir.create_dir_all(&inside)?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if !self.dir.symlink_metadata(&inside)?.is_dir() {
                    return Err(io::ErrorKind::NotADirectory.into());
                }
            }
            result => result?,
        }
        self.directories.insert(path.to_vec(), (entry.mode, entry.mtime));
        Ok(())
    }

    fn hard_link(&mut self, path: &[u8], entry: &Entry) -> io::Result<()> {
        let target = self.filter.as_ref().and_then(|filter| filter.hard_link_target(entry));
        let missing = || io::Error::new(io::ErrorKind::NotFound, "a hard link to what is not here");
        let target = target.ok_or_else(missing)?;
        if let Some((link, mtime)) = self.symlinks.get(&target).cloned() {
            self.symlinks.insert(path.to_vec(), (link, mtime));
            return Ok(());
        }
        let Some(received) = self.received.get(&target).copied() else { return Err(missing()) };
        let (from, to) = (self.inside(&target), self.inside(path));
        if let Some(parent) = to.parent() {
            self.dir.create_dir_all(parent)?;
        }
        let _ = self.dir.remove_file(&to);
        self.dir.hard_link(&from, &self.dir, &to).or_else(|_| {
            self.dir.copy(&from, &self.dir, &to)?;
            let file = self.dir.open(&to)?;
            received.set_attributes(&file)
        })?;
        self.received.insert(path.to_vec(), received);
        Ok(())
    }

    /// Whether a complete file, a directory or a link of that path has been unpacked.
    #[must_use]
    pub fn has(&self, path: &[u8]) -> bool {
        self.received.get(path).is_some_and(Received::is_whole)
            || self.directories.contains_key(path)
            || self.symlinks.contains_key(path)
    }

    fn remove_staging(&self) {
        if sweep(&self.dir).is_ok() {
            let _ = fs::remove_dir(&self.staging);
        }
    }

    /// Whether the target is a pipe, a device or an open file. Opening a pipe may block.
    #[must_use]
    pub fn writes_to_special(&self) -> bool {
        matches!(self.destination, Destination::Special(_))
    }

    /// Whether any entry was unpacked.
    #[must_use]
    pub fn took_something(&self) -> bool {
        self.took_something
    }

    /// Whether the tree is a file and the target a directory, which it cannot replace. This is
    /// known before any data comes.
    #[must_use]
    pub fn is_file_for_a_directory(&self) -> bool {
        self.replaces_a_directory
    }
}

impl Drop for Unpacker {
    /// Removes the staging directory with what has not been published.
    fn drop(&mut self) {
        self.remove_staging();
    }
}

/// Returns an error's text in lower case, without its number.
pub(crate) fn error_text(error: &io::Error) -> String {
    let text = error.to_string();
    let end = text.rfind(" (os error ").unwrap_or(text.len());
    text[..end].to_lowercase()
}

mod finish;
mod inventory;
#[cfg(test)]
mod tests;
