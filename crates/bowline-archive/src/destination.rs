//! A name that is asked for to what stands there, and to where a copy is until it has that name.
//!
//! Only what is a regular file or absent is replaced. A link is followed, a directory gets the
//! copy's files one by one, and what is written through, a pipe or a device, stays what it is.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

/// As many links lead on from one to the next at most, as in the kernel.
const LINKS: usize = 40;

/// What a copy goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A name: of nothing yet, of a regular file, or of a directory.
    Name(PathBuf),
    /// A pipe, a device, or an open file of this program: it is written to.
    Through(PathBuf),
}

impl Destination {
    /// What is behind a path.
    ///
    /// # Errors
    /// Of the system, where it cannot be told.
    pub fn of(path: &Path) -> io::Result<Destination> {
        let mut at = path.to_owned();
        for _ in 0..LINKS {
            let found = match fs::symlink_metadata(&at) {
                Ok(found) => found,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(Destination::Name(at));
                }
                // Whoever makes a file there says it better.
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                    return Ok(Destination::Name(at));
                }
                Err(error) => return Err(error),
            };
            if found.is_file() || found.is_dir() {
                return Ok(Destination::Name(at));
            }
            if !found.is_symlink() {
                return Ok(Destination::Through(path.to_owned()));
            }
            if fs::metadata(&at).is_ok_and(|found| found.is_dir()) {
                return Ok(Destination::Name(at));
            }
            let parent = fs::canonicalize(parent_of(&at))?;
            if is_open_files(&parent) {
                return Ok(Destination::Through(at));
            }
            at = parent.join(fs::read_link(&at)?);
        }
        Err(rustix::io::Errno::LOOP.into())
    }

    /// The path that is meant.
    #[must_use]
    pub fn path(&self) -> &Path {
        let (Destination::Name(path) | Destination::Through(path)) = self;
        path
    }
}

/// Whether a directory is that of a process's open files.
fn is_open_files(dir: &Path) -> bool {
    let mut parts = dir.components();
    parts.next() == Some(Component::RootDir)
        && parts.next() == Some(Component::Normal(OsStr::new("proc")))
        && parts.next_back() == Some(Component::Normal(OsStr::new("fd")))
}

/// Opens what is written through.
///
/// # Errors
/// Of the system.
pub fn open_through(path: &Path) -> io::Result<File> {
    let own = std::process::id().to_string();
    let parent = fs::canonicalize(parent_of(path))?;
    let is_own = is_open_files(&parent)
        && parent.components().any(|part| part.as_os_str().as_bytes() == own.as_bytes());
    // By its name it would be opened anew, and written from its beginning.
    let open: Option<OwnedFd> = match path.file_name().map(OsStrExt::as_bytes) {
        Some(b"1") if is_own => Some(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?),
        Some(b"2") if is_own => Some(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3)?),
        _ => None,
    };
    match open {
        Some(open) => Ok(File::from(open)),
        None => fs::OpenOptions::new().write(true).open(path),
    }
}

/// Makes a directory that nobody else knows: beside the destination, or in it where it is a
/// directory. Where that cannot be, but what has the name can be written to, it is elsewhere, and
/// why is told.
///
/// # Errors
/// The path that it cannot be made in, and why.
pub fn place(
    destination: &Destination,
) -> Result<(PathBuf, Option<io::Error>), (PathBuf, io::Error)> {
    let name = format!(".bowline-cp-{:016x}", random());
    let make = |dir: &Path| -> io::Result<PathBuf> {
        let place = dir.join(&name);
        DirBuilder::new().mode(0o700).create(&place)?;
        Ok(place)
    };
    let elsewhere = |dir: PathBuf, error: io::Error| match make(&std::env::temp_dir()) {
        Ok(place) => Ok((place, Some(error))),
        Err(_) => Err((dir, error)),
    };
    let path = match destination {
        Destination::Name(path) => path,
        Destination::Through(path) => {
            let error = io::Error::other("it is no regular file");
            return elsewhere(path.clone(), error);
        }
    };
    // A directory that is there may be on another disk than its parent, or all that the user may
    // write to.
    let dir = if path.is_dir() { path.clone() } else { parent_of(path) };
    match fs::create_dir_all(&dir).and_then(|()| make(&dir)) {
        Ok(place) => Ok((place, None)),
        Err(error) if is_about_the_directory(&error) && path.exists() => elsewhere(dir, error),
        Err(error) => Err((dir, error)),
    }
}

/// Whether an error says of a name that it cannot be made or given away there, and nothing of what
/// has it.
pub(crate) fn is_about_the_directory(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let found = error.raw_os_error().map(Errno::from_raw_os_error);
    [Errno::ACCESS, Errno::PERM, Errno::BUSY, Errno::ROFS, Errno::XDEV]
        .into_iter()
        .any(|errno| found == Some(errno))
}

/// The directory that a path is in.
pub(crate) fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ if path.has_root() => PathBuf::from("/"),
        _ => PathBuf::from("."),
    }
}

/// A number that nobody else has.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_and_what_is_no_file_is_written_through() {
        let place = tempfile::tempdir().unwrap();
        let place = fs::canonicalize(place.path()).unwrap();
        let path = |name: &str| place.join(name);
        fs::write(path("file"), "x").unwrap();
        fs::create_dir(path("dir")).unwrap();
        symlink("file", path("to-file")).unwrap();
        symlink("../to-file", path("dir/to-link")).unwrap();
        symlink("nothing", path("to-nothing")).unwrap();
        symlink("dir", path("to-dir")).unwrap();
        symlink("loop", path("loop")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, path("pipe"), rustix::fs::Mode::RWXU).unwrap();
        symlink("pipe", path("to-pipe")).unwrap();
        let of = |name: &str| Destination::of(&path(name)).unwrap();
        for (name, behind) in [
            ("file", "file"),
            ("absent", "absent"),
            ("dir", "dir"),
            ("to-file", "file"),
            ("dir/to-link", "file"),
            ("to-nothing", "nothing"),
            ("to-dir", "to-dir"),
            ("file/below", "file/below"),
        ] {
            let found = of(name);
            let found = fs::canonicalize(found.path()).map_or(found, Destination::Name);
            let behind = fs::canonicalize(path(behind)).unwrap_or(path(behind));
            assert_eq!(found, Destination::Name(behind), "{name}");
        }
        assert_eq!(of("pipe"), Destination::Through(path("pipe")));
        assert_eq!(of("to-pipe"), Destination::Through(path("to-pipe")));
        assert!(Destination::of(&path("loop")).is_err());
        assert!(matches!(
            Destination::of(Path::new("/dev/null")).unwrap(),
            Destination::Through(_)
        ));
        assert!(matches!(
            Destination::of(Path::new("/proc/self/fd/1")).unwrap(),
            Destination::Through(_)
        ));
    }
}
