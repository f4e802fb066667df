//! Entries to files below one directory, out of which nothing leads, and from there to the name
//! that was asked for once all is there.
//! Above: `bowline-client`'s copies. Below: [`admit`](crate::admit), cap-std.
//!
//! Everything goes into a directory beside the target first, or in it where it is there. What
//! has come in an earlier attempt may stay, so that it need not come again.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions};
use rustix::fs::{AtFlags, Mode, fchmod, futimens, utimensat};
use thiserror::Error;

use crate::Trouble;
use crate::admit::{Admission, Refused, Verdict};
use crate::merge::{make_removable, merge, set_root, times};
use crate::reader::{Entry, Event, Fault, Kind, Reader};

/// Under this name the tree is in its directory.
const TREE: &str = "tree";
/// How many troubles are told one by one.
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
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// A file that is here, as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Had {
    /// Its size.
    pub size: u64,
    /// Its time in the archive, in seconds.
    pub mtime: i64,
    /// Its permissions in the archive.
    pub mode: u32,
    /// So much of it is here.
    pub bytes: u64,
}

impl Had {
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
    target: PathBuf,
    place: PathBuf,
    /// The directory beside the target.
    dir: Dir,
    preserve: bool,
    reader: Reader,
    admission: Option<Admission>,
    current: Option<Current>,
    /// Whole files and the one that was cut, by their paths below the root.
    had: BTreeMap<Vec<u8>, Had>,
    directories: BTreeMap<Vec<u8>, (u32, i64)>,
    symlinks: BTreeMap<Vec<u8>, (Vec<u8>, i64)>,
    troubles: Vec<Trouble>,
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
    had: Had,
}

impl Unpacker {
    /// For a tree that is to be called `target`, in a directory that is made if it is not there.
    /// `preserve` keeps modes and times.
    ///
    /// # Errors
    /// If there can be no directory beside it.
    pub fn new(target: &Path, preserve: bool) -> Result<Unpacker, UnpackError> {
        // A directory that is there may be on another disk than its parent, or all that the user
        // may write to.
        let parent = if target.is_dir() { target.to_owned() } else { parent_of(target) };
        let fail = |error| UnpackError::Place { path: parent.clone(), error };
        fs::create_dir_all(&parent).map_err(fail)?;
        let place = parent.join(format!(".bowline-cp-{:016x}", chance()));
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o700).create(&place).map_err(fail)?;
        let dir = Dir::open_ambient_dir(&place, ambient_authority()).map_err(fail)?;
        Ok(Unpacker {
            target: target.to_owned(),
            place,
            dir,
            preserve,
            reader: Reader::default(),
            admission: None,
            current: None,
            had: BTreeMap::new(),
            directories: BTreeMap::new(),
            symlinks: BTreeMap::new(),
            troubles: Vec::new(),
            told: 0,
            failures: 0,
            took_something: false,
            replaces_a_directory: false,
        })
    }

    /// Begins an archive: the first, or another one after a loss.
    pub fn begin(&mut self, admission: Admission) {
        self.cut();
        self.reader = Reader::default();
        self.admission = Some(admission);
    }

    /// What is here, by paths below the root.
    #[must_use]
    pub fn had(&self) -> &BTreeMap<Vec<u8>, Had> {
        &self.had
    }

    /// Forgets a file: it is another one now, or gone.
    pub fn forget(&mut self, path: &[u8]) {
        self.had.remove(path);
        let _ = self.dir.remove_file(self.inside(path));
    }

    /// The file that was cut short, to be written on at its end.
    #[must_use]
    pub fn unfinished(&self) -> Option<(Vec<u8>, Had)> {
        let found = self.had.iter().find(|(_, had)| !had.is_whole());
        found.map(|(path, had)| (path.clone(), *had))
    }

    /// Writes on at the end of a file that was cut. More than is missing is an error.
    ///
    /// # Errors
    /// Of the system; or [`io::ErrorKind::InvalidData`].
    pub fn append(&mut self, path: &[u8], bytes: &[u8]) -> io::Result<()> {
        let inside = self.inside(path);
        let Some(had) = self.had.get_mut(path) else { return Err(io::ErrorKind::NotFound.into()) };
        if had.bytes + bytes.len() as u64 > had.size {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut file = self.dir.open_with(inside, OpenOptions::new().append(true))?;
        file.write_all(bytes)?;
        had.bytes += bytes.len() as u64;
        if had.is_whole() && self.preserve {
            had.set(&file)?;
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
        while let Some(event) = self.reader.next_event(&mut bytes)? {
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
    pub fn troubles(&mut self) -> Vec<Trouble> {
        std::mem::take(&mut self.troubles)
    }

    /// How many entries of those that were asked for are not here.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures
    }

    fn trouble(&mut self, trouble: Trouble) {
        self.failures += u64::from(trouble.is_failure);
        self.told += 1;
        if self.told < TROUBLES {
            self.troubles.push(trouble);
        } else if self.told == TROUBLES {
            let text = "what is wrong with other entries is not shown".to_owned();
            self.troubles.push(Trouble { text, is_failure: false });
        }
    }

    fn fail(&mut self, path: &[u8], error: &io::Error) {
        self.trouble(Trouble::failure(path, of_system(error)));
    }

    fn inside(&self, path: &[u8]) -> PathBuf {
        let tree = Path::new(TREE);
        if path.is_empty() { tree.to_owned() } else { tree.join(OsStr::from_bytes(path)) }
    }

    fn entry(&mut self, entry: &Entry, show: &mut dyn FnMut(Step<'_>)) -> Result<(), UnpackError> {
        let Some(admission) = &mut self.admission else { return Ok(()) };
        let had = Had { size: entry.size, mtime: entry.mtime, mode: entry.mode, bytes: 0 };
        let mut current = Current { path: Vec::new(), file: None, had };
        match admission.judge(entry)? {
            Verdict::Skip(trouble) => self.trouble(trouble),
            Verdict::Take(path) => {
                self.took_something = true;
                let taken = match entry.kind {
                    Kind::Directory => self.directory(&path, entry),
                    Kind::Symlink => {
                        self.symlinks.insert(path.clone(), (entry.link.clone(), entry.mtime));
                        Ok(())
                    }
                    Kind::HardLink => self.hard_link(&path, entry),
                    _ => {
                        show(Step::File(&entry.name));
                        self.replaces_a_directory |= path.is_empty() && self.target.is_dir();
                        self.create(&path).map(|file| {
                            self.had.insert(path.clone(), had);
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
                current.had.bytes += bytes.len() as u64;
                if let Some(had) = self.had.get_mut(&current.path) {
                    had.bytes = current.had.bytes;
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
        let Some(Current { file: Some(file), had, path }) = self.current.take() else {
            return;
        };
        if self.preserve
            && let Err(error) = had.set(&file)
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
        let Some(had) = self.had.get(&target).copied() else { return Err(missing()) };
        let (from, to) = (self.inside(&target), self.inside(path));
        if let Some(parent) = to.parent() {
            self.dir.create_dir_all(parent)?;
        }
        let _ = self.dir.remove_file(&to);
        self.dir.hard_link(&from, &self.dir, &to).or_else(|_| {
            self.dir.copy(&from, &self.dir, &to)?;
            let file = self.dir.open(&to)?;
            had.set(&file)
        })?;
        self.had.insert(path.to_vec(), had);
        Ok(())
    }

    /// The sum of a file that is here.
    ///
    /// # Errors
    /// Those of reading it.
    pub fn sum(&self, path: &[u8]) -> io::Result<String> {
        crate::sum::sha256(self.dir.open(self.inside(path))?)
    }

    /// Makes what is left to make and gives the tree its name. A directory of that name keeps what
    /// the tree does not have.
    ///
    /// # Errors
    /// [`UnpackError::Place`]; what is wrong with single entries is in
    /// [`troubles`](Self::troubles).
    pub fn publish(&mut self) -> Result<(), UnpackError> {
        self.cut();
        let unfinished: Vec<_> =
            self.had.iter().filter(|(_, had)| !had.is_whole()).map(|one| one.0.clone()).collect();
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
        let from = self.place.join(TREE);
        let path = self.target.clone();
        let fail = |error| UnpackError::Place { path: path.clone(), error };
        let there = fs::symlink_metadata(&self.target).ok();
        if there.is_some() && tree.is_dir() && self.target.is_dir() {
            let target = Dir::open_ambient_dir(&self.target, ambient_authority()).map_err(fail)?;
            let tree = self.dir.open_dir(TREE).map_err(fail)?;
            let mut troubles = Vec::new();
            merge(&tree, &target, &mut Vec::new(), self.preserve, &mut troubles);
            troubles.into_iter().for_each(|trouble| self.trouble(trouble));
            self.remove_place();
            // It was there before, and its mode is its owner's matter.
            let time = root.map(|(_, mtime)| mtime);
            let set = time.map(|mtime| utimensat(&target, ".", &times(mtime), AtFlags::empty()));
            return set.unwrap_or(Ok(())).map_err(|error| fail(error.into()));
        }
        let moved = if tree.is_dir() { self.dir.open_dir(TREE).map(Some) } else { Ok(None) };
        let moved = moved.map_err(fail)?;
        fs::rename(from, &self.target).map_err(fail)?;
        // Only now: a directory that may not be written to may not be moved.
        moved.map_or(Ok(()), |moved| set_root(&moved, root)).map_err(fail)
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
        self.had.get(path).is_some_and(Had::is_whole)
            || self.directories.contains_key(path)
            || self.symlinks.contains_key(path)
    }

    fn remove_place(&self) {
        make_removable(&self.dir);
        let _ = fs::remove_dir_all(&self.place);
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

/// The directory that a path is in.
fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ if path.has_root() => PathBuf::from("/"),
        _ => PathBuf::from("."),
    }
}

/// An error's words, as the system has them.
pub(crate) fn of_system(error: &io::Error) -> String {
    let text = error.to_string();
    let end = text.rfind(" (os error ").unwrap_or(text.len());
    text[..end].to_lowercase()
}

/// A number that nobody else has.
fn chance() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;
    use crate::admit::Limits;
    use crate::pack::{Packer, There};
    use crate::writer::{self, Owner};

    fn entry(name: &str, kind: Kind, size: u64, link: &str) -> Entry {
        let (name, link) = (name.as_bytes().to_vec(), link.as_bytes().to_vec());
        Entry { name, kind, size, mode: 0o640, mtime: 1_000_000_000, link }
    }

    fn archive(entries: &[(Entry, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (entry, data) in entries {
            writer::whole(entry, Owner::default(), data, &mut bytes);
        }
        writer::end(&mut bytes);
        bytes
    }

    fn admission() -> Admission {
        Admission::new(b"d", Limits::default(), true)
    }

    /// Unpacks all of it; what was wrong.
    fn unpack(bytes: &[u8], target: &Path) -> (Result<(), UnpackError>, Vec<String>) {
        let mut unpacker = Unpacker::new(target, true).unwrap();
        unpacker.begin(admission());
        let mut result = Ok(());
        for piece in bytes.chunks(1000) {
            result = result.and_then(|()| unpacker.take(piece, &mut |_| {}));
        }
        let result = result.and_then(|()| unpacker.finish()).and_then(|()| unpacker.publish());
        let troubles = unpacker.troubles().into_iter().map(|trouble| trouble.text).collect();
        (result, troubles)
    }

    #[test]
    fn a_tree_comes_out_as_it_went_in() {
        let place = tempfile::tempdir().unwrap();
        let source = place.path().join("source");
        fs::create_dir_all(source.join("a/empty")).unwrap();
        for (name, text) in [("-x", "1"), ("a/new\nline", "22"), ("a/[*]", ""), ("a/b:c", "x")] {
            fs::write(source.join(name), text).unwrap();
        }
        fs::write(source.join("big"), vec![3; 1_000_000]).unwrap();
        symlink("../big", source.join("a/link")).unwrap();
        symlink("/etc/passwd", source.join("out")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, source.join("pipe"), Mode::RWXU).unwrap();
        fs::set_permissions(source.join("a/empty"), PermissionsExt::from_mode(0o555)).unwrap();
        fs::set_permissions(source.join("-x"), PermissionsExt::from_mode(0o4755)).unwrap();
        let mut packer = Packer::new(&source, b"d", There::new());
        let mut bytes = Vec::new();
        packer.read_to_end(&mut bytes).unwrap();
        assert_eq!(packer.failures(), 0);
        assert_eq!(packer.troubles().len(), 1, "the pipe");
        let target = place.path().join("target");
        let (result, troubles) = unpack(&bytes, &target);
        result.unwrap();
        assert_eq!(troubles, ["skipping symlink: \"d/out\" -> \"/etc/passwd\""]);
        assert_eq!(fs::read(target.join("big")).unwrap(), vec![3; 1_000_000]);
        assert_eq!(fs::read(target.join("a/new\nline")).unwrap(), b"22");
        assert_eq!(fs::read_link(target.join("a/link")).unwrap(), Path::new("../big"));
        let mode = |path: &str| fs::metadata(target.join(path)).unwrap().mode() & 0o7777;
        assert_eq!((mode("a/empty"), mode("-x")), (0o555, 0o755));
        let mtime = |path: &Path| fs::symlink_metadata(path).unwrap().mtime();
        for name in ["", "a", "a/empty", "a/link", "big"] {
            assert_eq!(mtime(&target.join(name)), mtime(&source.join(name)), "{name}");
        }
        // Once more, into what is there.
        fs::write(target.join("mine"), "stays").unwrap();
        unpack(&bytes, &target).0.unwrap();
        assert_eq!(fs::read(target.join("mine")).unwrap(), b"stays");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2, "nothing is left beside it");
    }

    #[test]
    fn hard_links_are_links() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("t");
        let bytes = archive(&[
            (entry("d/f", Kind::File, 5, ""), b"hello"),
            (entry("d/sub/g", Kind::HardLink, 0, "d/f"), b""),
            (entry("d/l", Kind::Symlink, 0, "f"), b""),
            (entry("d/m", Kind::HardLink, 0, "d/l"), b""),
            (entry("d/x", Kind::HardLink, 0, "/etc/passwd"), b""),
        ]);
        let (result, troubles) = unpack(&bytes, &target);
        result.unwrap();
        assert_eq!(troubles, ["\"x\": a hard link to what is not here"]);
        assert_eq!(fs::read(target.join("sub/g")).unwrap(), b"hello");
        assert_eq!(fs::metadata(target.join("f")).unwrap().nlink(), 2);
        assert_eq!(fs::read_link(target.join("m")).unwrap(), Path::new("f"));
    }

    #[test]
    fn what_is_cut_leaves_nothing() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("t");
        let bytes = archive(&[
            (entry("d/a", Kind::File, 5, ""), b"hello"),
            (entry("d/b", Kind::File, 2000, ""), &[1; 2000]),
        ]);
        for length in [0, 1, 512, 1024, 1100, 4000] {
            let (result, _) = unpack(&bytes[..length], &target);
            assert_eq!(result.unwrap_err().to_string(), "unexpected EOF");
            assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
        }
    }

    /// Each of these would be written elsewhere by a naive reader.
    #[test]
    fn nothing_leads_out() {
        let place = tempfile::tempdir().unwrap();
        let outside = place.path().join("outside");
        fs::create_dir(&outside).unwrap();
        let inner = place.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let absolute = outside.join("abs").to_string_lossy().into_owned();
        let attacks: &[&[(Entry, &[u8])]] = &[
            &[(entry("d/../../outside/x", Kind::File, 1, ""), b"x")],
            &[(entry(&absolute, Kind::File, 1, ""), b"x")],
            &[
                (entry("d/l", Kind::Symlink, 0, "../../outside"), b""),
                (entry("d/l/x", Kind::File, 1, ""), b"x"),
            ],
            &[
                (entry("d/l", Kind::Symlink, 0, "."), b""),
                (entry("d/m", Kind::Symlink, 0, "l/../../../outside"), b""),
                (entry("d/m/x", Kind::File, 1, ""), b"x"),
            ],
            &[
                (entry("d", Kind::Symlink, 0, "../outside"), b""),
                (entry("d/x", Kind::File, 1, ""), b"x"),
            ],
            &[(entry("d/h", Kind::HardLink, 0, "../outside/secret"), b"")],
            &[(entry("d/dev", Kind::Device, 0, ""), b"")],
            &[(entry("d/f", Kind::File, 1, ""), b"1"), (entry("d/f", Kind::File, 1, ""), b"2")],
        ];
        for (number, attack) in attacks.iter().enumerate() {
            let target = inner.join(format!("t{number}"));
            let mut unpacker = Unpacker::new(&target, true).unwrap();
            unpacker.begin(admission());
            unpacker.take(&archive(attack), &mut |_| {}).unwrap();
            unpacker.publish().unwrap();
            assert!(unpacker.failures() > 0, "{number}: {:?}", unpacker.troubles());
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{number}");
        }
    }

    #[test]
    fn a_second_attempt_goes_on_where_the_first_was_cut() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("t");
        let bytes = archive(&[
            (entry("d/a", Kind::File, 5, ""), b"hello"),
            (entry("d/b", Kind::File, 2000, ""), &[1; 2000]),
            (entry("d/c", Kind::File, 3, ""), b"end"),
        ]);
        let mut unpacker = Unpacker::new(&target, true).unwrap();
        unpacker.begin(admission());
        unpacker.take(&bytes[..2048], &mut |_| {}).unwrap();
        let (path, had) = unpacker.unfinished().unwrap();
        assert_eq!((&path[..], had.size, had.bytes), (&b"b"[..], 2000, 512));
        unpacker.append(&path, &[1; 1488]).unwrap();
        assert!(unpacker.append(&path, &[1]).is_err());
        assert_eq!(unpacker.unfinished(), None);
        unpacker.begin(admission());
        let rest = archive(&[(entry("d/c", Kind::File, 3, ""), b"end")]);
        unpacker.take(&rest, &mut |_| {}).unwrap();
        unpacker.finish().unwrap();
        unpacker.publish().unwrap();
        assert_eq!(fs::read(target.join("b")).unwrap(), [1; 2000]);
        assert_eq!(fs::metadata(target.join("b")).unwrap().mtime(), 1_000_000_000);
        assert_eq!(fs::read(target.join("a")).unwrap(), b"hello");
    }
}
