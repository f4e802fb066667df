//! Entries to files below one directory, out of which nothing leads, and from there to the name
//! that was asked for once all is there.
//!
//! Everything goes into a directory beside the target first, or in it where it is there. What
//! has come in an earlier attempt may stay, so that it need not come again.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions};
use rustix::fs::{AtFlags, Mode, fchmod, futimens, utimensat};
use thiserror::Error;

use crate::Problem;
use crate::admit::{Admission, ENTRY_BYTES, KEPT_BYTES, Refused, Verdict};
use crate::destination::{self, Destination};
use crate::merge::{merge, set_root, sweep, times, written_in_place};
use crate::publish::{WriteMode, put};
use crate::reader::{Entry, Event, Fault, Kind, Reader};

/// Under this name the tree is in its directory.
const TREE: &str = "tree";
/// How many problems are told one by one.
const TROUBLES: usize = 1000;

/// Why nothing more can be unpacked.
#[derive(Debug, Error)]
pub enum UnpackError {
    /// The bytes are no archive.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The archive is refused.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The target's directory, or the one beside it.
    #[error("{}: {error}", path.display())]
    Place {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// A file that is here, as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its size.
    pub size: u64,
    /// Its time in the archive, in seconds.
    pub mtime: i64,
    /// Its permissions in the archive.
    pub mode: u32,
    /// So much of it is here.
    pub bytes: u64,
}

impl Received {
    /// Whether all of it is here.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.bytes == self.size
    }

    /// Gives a file its permissions and its time.
    fn set(&self, file: &impl AsFd) -> io::Result<()> {
        fchmod(file, Mode::from_raw_mode(self.mode & 0o777))?;
        Ok(futimens(file, &times(self.mtime))?)
    }
}

/// Something was taken, for those who show it.
#[derive(Debug)]
pub enum Step<'a> {
    /// A file begins.
    File(&'a [u8]),
    /// So many bytes of it have come.
    Bytes(usize),
}

/// Unpacks archives of one tree, one attempt after the other, and gives it its name at the end.
#[derive(Debug)]
pub struct Unpacker {
    destination: Destination,
    place: PathBuf,
    /// Why that is neither beside the target nor in it.
    is_elsewhere: Option<io::Error>,
    /// The place.
    dir: Dir,
    preserve: bool,
    reader: Reader,
    admission: Option<Admission>,
    current: Option<Current>,
    /// Whole files and the one that was cut, by their paths below the root.
    received: BTreeMap<Vec<u8>, Received>,
    directories: BTreeMap<Vec<u8>, (u32, i64)>,
    symlinks: BTreeMap<Vec<u8>, (Vec<u8>, i64)>,
    /// What was told of and is not here.
    told_of: BTreeSet<Vec<u8>>,
    /// What all these names take.
    kept: u64,
    /// The root is a symbolic link: what it leads to has to be asked for.
    root_is_link: bool,
    problems: Vec<Problem>,
    told: usize,
    failures: u64,
    took_something: bool,
    /// The tree is a file, and the target a directory.
    replaces_a_directory: bool,
}

/// The file whose data comes.
#[derive(Debug)]
struct Current {
    path: Vec<u8>,
    /// `None` if it is passed over.
    file: Option<File>,
    received: Received,
}

impl Unpacker {
    /// For a tree that is to be called `target`, in a directory that is made if it is not there.
    /// `preserve` keeps modes and times.
    ///
    /// # Errors
    /// If there can be no directory for it until it is complete.
    pub fn new(target: &Path, preserve: bool) -> Result<Unpacker, UnpackError> {
        let fail = |path: &Path| {
            let path = path.to_owned();
            |error| UnpackError::Place { path, error }
        };
        let destination = Destination::of(target).map_err(fail(target))?;
        let (place, is_elsewhere) = destination::place(&destination)
            .map_err(|(path, error)| UnpackError::Place { path, error })?;
        let dir = Dir::open_ambient_dir(&place, ambient_authority()).map_err(fail(&place))?;
        Ok(Unpacker {
            destination,
            place,
            is_elsewhere,
            dir,
            preserve,
            reader: Reader::default(),
            admission: None,
            current: None,
            received: BTreeMap::new(),
            directories: BTreeMap::new(),
            symlinks: BTreeMap::new(),
            told_of: BTreeSet::new(),
            kept: 0,
            root_is_link: false,
            problems: Vec::new(),
            told: 0,
            failures: 0,
            took_something: false,
            replaces_a_directory: false,
        })
    }

    /// Begins an archive: the first, or another one after a loss.
    pub fn begin(&mut self, admission: Admission) {
        self.begin_many(admission, 1);
    }

    /// The same for so many archives of one tree, one behind the other.
    pub fn begin_many(&mut self, admission: Admission, archives: u64) {
        self.cut();
        self.reader = Reader::of_many(archives);
        let place = self.place.file_name().unwrap_or_default();
        self.admission = Some(admission.of_place(place.as_bytes()));
        self.root_is_link = false;
    }

    /// Whether what was asked for is a symbolic link, which was not taken.
    #[must_use]
    pub fn root_is_link(&self) -> bool {
        self.root_is_link
    }

    /// Makes a directory known that did not come again in an attempt.
    pub fn know_directory(&mut self, path: &[u8], mode: u32, mtime: i64) {
        self.directories.entry(path.to_vec()).or_insert((mode, mtime));
    }

    /// What is here, by paths below the root.
    #[must_use]
    pub fn received(&self) -> &BTreeMap<Vec<u8>, Received> {
        &self.received
    }

    /// Forgets a file: it is another one now, or gone.
    pub fn forget(&mut self, path: &[u8]) {
        self.received.remove(path);
        let _ = self.dir.remove_file(self.inside(path));
    }

    /// The file that was cut short, to be written on at its end.
    #[must_use]
    pub fn unfinished(&self) -> Option<(Vec<u8>, Received)> {
        let found = self.received.iter().find(|(_, received)| !received.is_whole());
        found.map(|(path, received)| (path.clone(), *received))
    }

    /// Writes on at the end of a file that was cut. More than is missing is an error.
    ///
    /// # Errors
    /// Of the system; or [`io::ErrorKind::InvalidData`].
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
            received.set(&file)?;
        }
        Ok(())
    }

    /// Takes bytes of the archive. `show` is told of each step.
    ///
    /// # Errors
    /// [`UnpackError`]: no more of this archive can be taken.
    pub fn take(
        &mut self,
        mut bytes: &[u8],
        show: &mut dyn FnMut(Step<'_>),
    ) -> Result<(), UnpackError> {
        loop {
            let event = self.reader.next_event(&mut bytes)?;
            if let Some(admission) = &mut self.admission {
                admission.headers(self.reader.headers())?;
            }
            let Some(event) = event else { break };
            match event {
                Event::Entry(entry) => self.entry(&entry, show)?,
                Event::Data(bytes) => {
                    show(Step::Bytes(bytes.len()));
                    self.data(bytes);
                }
                Event::Whole => self.whole(),
                Event::End => {}
            }
        }
        Ok(())
    }

    /// The archive's bytes are over.
    ///
    /// # Errors
    /// [`Fault::Truncated`] unless its end was seen.
    pub fn finish(&mut self) -> Result<(), UnpackError> {
        Ok(self.reader.finish()?)
    }

    /// What was wrong with single entries, so far.
    pub fn problems(&mut self) -> Vec<Problem> {
        std::mem::take(&mut self.problems)
    }

    /// WriteMode many entries of those that were asked for are not here.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures
    }

    fn problem(&mut self, problem: Problem) {
        self.failures += u64::from(problem.is_failure);
        self.told += 1;
        if self.told < TROUBLES {
            self.problems.push(problem);
        } else if self.told == TROUBLES {
            let text = "what is wrong with other entries is not shown".to_owned();
            self.problems.push(Problem { text, is_failure: false });
        }
    }

    fn fail(&mut self, path: &[u8], error: &io::Error) {
        self.told_of.insert(path.to_vec());
        self.problem(Problem::failure(path, of_system(error)));
    }

    fn inside(&self, path: &[u8]) -> PathBuf {
        let tree = Path::new(TREE);
        if path.is_empty() { tree.to_owned() } else { tree.join(OsStr::from_bytes(path)) }
    }

    fn entry(&mut self, entry: &Entry, show: &mut dyn FnMut(Step<'_>)) -> Result<(), UnpackError> {
        let Some(admission) = &mut self.admission else { return Ok(()) };
        let received =
            Received { size: entry.size, mtime: entry.mtime, mode: entry.mode, bytes: 0 };
        let mut current = Current { path: Vec::new(), file: None, received };
        if entry.kind == Kind::Symlink && admission.path(&entry.name).is_some_and(|p| p.is_empty())
        {
            // Nothing is told of it: what it leads to comes next. But nothing else comes below it.
            admission.judge(entry)?;
            self.root_is_link = true;
            self.current = Some(current);
            return Ok(());
        }
        match admission.judge(entry)? {
            Verdict::Skip(problem) => {
                if let Some(path) = admission.path(&entry.name) {
                    self.keep(&path, 0)?;
                    self.told_of.insert(path);
                }
                self.problem(problem);
            }
            Verdict::Take(path) => {
                self.keep(&path, entry.link.len())?;
                self.took_something = true;
                self.told_of.remove(&path);
                let taken = match entry.kind {
                    Kind::Directory => self.directory(&path, entry),
                    Kind::Symlink => {
                        self.symlinks.insert(path.clone(), (entry.link.clone(), entry.mtime));
                        Ok(())
                    }
                    Kind::HardLink => self.hard_link(&path, entry),
                    _ => {
                        show(Step::File(&entry.name));
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

    /// Counts what keeping a name takes: a bound of entries alone would not be one of memory.
    fn keep(&mut self, path: &[u8], more: usize) -> Result<(), Refused> {
        if self.item(path).is_none() && !self.told_of.contains(path) {
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
            // Of an earlier attempt: it has changed since, or it could not be said that it has not.
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
            && let Err(error) = received.set(&file)
        {
            self.fail(&path, &error);
        }
    }

    /// The attempt is over: what was open is cut.
    fn cut(&mut self) {
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
        let target =
            self.admission.as_ref().and_then(|admission| admission.hard_link_target(entry));
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
            received.set(&file)
        })?;
        self.received.insert(path.to_vec(), received);
        Ok(())
    }

    /// Makes what is left to make and gives the tree its name. A directory of that name keeps what
    /// the tree does not have.
    ///
    /// # Errors
    /// [`UnpackError::Place`]; what is wrong with single entries is in
    /// [`problems`](Self::problems).
    pub fn publish(&mut self) -> Result<(), UnpackError> {
        self.cut();
        let unfinished: Vec<_> = self
            .received
            .iter()
            .filter(|(_, received)| !received.is_whole())
            .map(|one| one.0.clone())
            .collect();
        for path in unfinished {
            self.forget(&path);
        }
        for (path, (link, mtime)) in std::mem::take(&mut self.symlinks) {
            if let Err(error) = self.symlink(&path, &link, mtime) {
                self.fail(&path, &error);
            }
        }
        let mut root = None;
        if self.preserve {
            // The deepest first: a directory that may not be written to would keep out the rest.
            for (path, (mode, mtime)) in std::mem::take(&mut self.directories).into_iter().rev() {
                if path.is_empty() {
                    root = Some((mode, mtime));
                    continue;
                }
                let dir = self.dir.open_dir(self.inside(&path));
                let set = dir.and_then(|dir| set_root(&dir, Some((mode, mtime))));
                if let Err(error) = set {
                    self.fail(&path, &error);
                }
            }
        }
        let Ok(tree) = self.dir.symlink_metadata(TREE) else { return Ok(()) };
        let path = self.destination.path().to_owned();
        let fail = |error| UnpackError::Place { path: path.clone(), error };
        match &self.destination {
            Destination::Through(_) if tree.is_dir() => Err(fail(rustix::io::Errno::NOTDIR.into())),
            Destination::Through(through) => {
                let mut file = self.dir.open(TREE).map_err(fail)?;
                // Whoever waits for a reader leaves nothing behind when it is ended.
                self.remove_place();
                let mut to = destination::open_through(through).map_err(fail)?;
                io::copy(&mut file, &mut to).map_err(fail)?;
                Ok(())
            }
            Destination::Name(_) if tree.is_dir() && path.is_dir() => {
                let target = Dir::open_ambient_dir(&path, ambient_authority()).map_err(fail)?;
                let tree = self.dir.open_dir(TREE).map_err(fail)?;
                let mut problems = Vec::new();
                merge(&tree, &target, self.preserve, &mut problems);
                problems.into_iter().for_each(|problem| self.problem(problem));
                self.remove_place();
                // It was there before, and its mode is its owner's matter.
                if let Some((_, mtime)) = root
                    && let Err(error) = utimensat(&target, ".", &times(mtime), AtFlags::empty())
                    && !destination::is_about_the_directory(&error.into())
                {
                    return Err(fail(error.into()));
                }
                Ok(())
            }
            Destination::Name(_) if tree.is_dir() => {
                let moved = self.dir.open_dir(TREE).map_err(fail)?;
                fs::rename(self.place.join(TREE), &path).map_err(fail)?;
                // Only now: a directory that may not be written to may not be moved.
                set_root(&moved, root).map_err(fail)
            }
            Destination::Name(_) => self.put(&path).map_err(fail),
        }
    }

    /// Gives a file its name.
    fn put(&mut self, path: &Path) -> io::Result<()> {
        let parent = destination::parent_of(path);
        let to = Dir::open_ambient_dir(&parent, ambient_authority())?;
        let Some(name) = path.file_name() else { return Err(rustix::io::Errno::ISDIR.into()) };
        let how = put(&self.dir, Path::new(TREE), &to, Path::new(name), self.preserve)?;
        if let WriteMode::InPlace(why) = how {
            let why = self.is_elsewhere.take().unwrap_or(why);
            let name = path.as_os_str().as_bytes();
            self.problem(written_in_place(name, &why));
        }
        Ok(())
    }

    fn symlink(&self, path: &[u8], target: &[u8], mtime: i64) -> io::Result<()> {
        let inside = self.inside(path);
        if let Some(parent) = inside.parent() {
            self.dir.create_dir_all(parent)?;
        }
        self.dir.symlink(OsStr::from_bytes(target), &inside)?;
        if self.preserve
            && let (Some(parent), Some(name)) = (inside.parent(), inside.file_name())
        {
            let parent = self.dir.open_dir(parent)?;
            utimensat(&parent, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    /// Whether there is something of that path: a whole file, a directory, a link.
    #[must_use]
    pub fn has(&self, path: &[u8]) -> bool {
        self.received.get(path).is_some_and(Received::is_whole)
            || self.directories.contains_key(path)
            || self.symlinks.contains_key(path)
    }

    fn remove_place(&self) {
        if sweep(&self.dir).is_ok() {
            let _ = fs::remove_dir(&self.place);
        }
    }

    /// Whether a pipe or a device gets what comes: that may have to wait for somebody.
    #[must_use]
    pub fn writes_through(&self) -> bool {
        matches!(self.destination, Destination::Through(_))
    }

    /// Whether anything at all was taken.
    #[must_use]
    pub fn took_something(&self) -> bool {
        self.took_something
    }

    /// Whether the entry for the root itself is a file that would have to replace a directory: it
    /// cannot, and it is better to know that early.
    #[must_use]
    pub fn is_file_for_a_directory(&self) -> bool {
        self.replaces_a_directory
    }
}

impl Drop for Unpacker {
    /// What has no name yet never gets one.
    fn drop(&mut self) {
        self.remove_place();
    }
}

/// An error's words, as the system has them.
pub(crate) fn of_system(error: &io::Error) -> String {
    let text = error.to_string();
    let end = text.rfind(" (os error ").unwrap_or(text.len());
    text[..end].to_lowercase()
}

mod here;
#[cfg(test)]
mod tests;
